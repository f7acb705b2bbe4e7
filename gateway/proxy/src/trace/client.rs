//! One collector, spoken to in OTLP over HTTP.

use crate::upstream::system_roots;
use ::http::header::{self, HeaderMap, HeaderValue};
use ::http::{Method, Request, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use rustls::{ClientConfig, RootCertStore};
use sluice_model::config::Otlp;
use std::sync::Arc;
use std::time::Duration;

const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");
const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("sluice/", env!("CARGO_PKG_VERSION")));
/// Bytes of an answer that are read.
const MAX_ANSWER: usize = 64 * 1024;
/// Unused connections are closed after it: shorter than a load balancer's usual minute.
const IDLE: Duration = Duration::from_secs(30);
/// A collector may ask for a longer pause, and gets this one.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Why an export was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// To be tried again (OTLP specification, "Failures").
    #[error("{why}")]
    ForNow { why: String, pause: Option<Duration> },
    #[error("{0}")]
    ForGood(String),
}

pub(super) struct Collector {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    otlp: Otlp,
}

impl std::fmt::Debug for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Collector({})", self.otlp.endpoint)
    }
}

impl Collector {
    pub(super) fn new(otlp: &Otlp) -> Result<Self, rustls::Error> {
        // Where the host trusts nobody, a collector in clear text is reached all the same.
        let roots = system_roots().unwrap_or_else(|_| Arc::new(RootCertStore::empty()));
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(1)
            .build(connector.wrap_connector(tcp));
        Ok(Collector { client, otlp: otlp.clone() })
    }

    pub(super) fn endpoint(&self) -> &::http::Uri {
        &self.otlp.endpoint
    }

    /// How many spans the collector did not want, of those that it took.
    pub(super) async fn post(&self, body: Bytes) -> Result<u64, Refused> {
        let exchange = async {
            let answer = self.client.request(self.request(body)).await.map_err(|error| for_now(&error))?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await;
            match head.status {
                // Taken, whatever becomes of the words about it.
                status if status.is_success() => {
                    Ok(body.ok().and_then(|body| rejected(body.to_bytes())).unwrap_or_default())
                }
                status => Err(refused(status, &head.headers)),
            }
        };
        match tokio::time::timeout(self.otlp.timeout, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Refused::ForNow { why: format!("no answer within {:?}", self.otlp.timeout), pause: None }),
        }
    }

    fn request(&self, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.otlp.endpoint.clone();
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, PROTOBUF);
        headers.insert(header::USER_AGENT, USER_AGENT);
        for (name, value) in &self.otlp.headers {
            headers.insert(name, value.clone());
        }
        request
    }
}

/// The client's own words are few; what went wrong stands in the causes.
fn for_now(error: &dyn std::error::Error) -> Refused {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let why = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    Refused::ForNow { why, pause: None }
}

fn refused(status: StatusCode, headers: &HeaderMap) -> Refused {
    let why = format!("it answered {status}");
    match status {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => {
            // In seconds; a date is as no word (both are RFC 9110, section 10.2.3).
            let seconds = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
            Refused::ForNow { why, pause: seconds.map(|seconds| Duration::from_secs(seconds).min(LONGEST_PAUSE)) }
        }
        _ => Refused::ForGood(why),
    }
}

fn rejected(body: Bytes) -> Option<u64> {
    let partial = ExportTraceServiceResponse::decode(body).ok()?.partial_success?;
    u64::try_from(partial.rejected_spans).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_statuses_of_the_specification_are_tried_again_after_the_pause_that_they_ask_for() {
        let headers = [(header::RETRY_AFTER, HeaderValue::from_static("3"))].into_iter().collect();
        for status in [429, 502, 503, 504] {
            let refused = refused(StatusCode::from_u16(status).unwrap(), &headers);
            assert!(matches!(refused, Refused::ForNow { pause: Some(pause), .. } if pause == Duration::from_secs(3)));
        }
        for status in [301, 400, 401, 404, 413, 500] {
            let refused = refused(StatusCode::from_u16(status).unwrap(), &headers);
            assert!(matches!(refused, Refused::ForGood(_)), "{status}");
        }
        let long = [(header::RETRY_AFTER, HeaderValue::from_static("86400"))].into_iter().collect();
        let refused = refused(StatusCode::SERVICE_UNAVAILABLE, &long);
        assert!(matches!(refused, Refused::ForNow { pause: Some(LONGEST_PAUSE), .. }), "{refused:?}");
    }
}
