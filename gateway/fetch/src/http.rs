//! The client: HTTP/1.1, over TLS wherever it is not told otherwise, with a bound on everything that comes back.

use crate::FetchError;
use crate::policy::{NOT_ASKED, Policy, shown};
use crate::registry::Progress;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, Uri};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use prometheus_client::metrics::counter::Counter;
use rustls::{ClientConfig, RootCertStore};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("sluice/", env!("CARGO_PKG_VERSION")));
const CONNECT: Duration = Duration::from_secs(10);
/// For the head of an answer, and between two parts of a body.
const SILENCE: Duration = Duration::from_secs(30);
/// Unused connections are closed after it.
const IDLE: Duration = Duration::from_secs(10);
const MAX_REDIRECTS: usize = 5;

/// Bytes are the module's, so that sending them says how far it is.
#[derive(Default)]
pub(crate) struct Upload {
    rest: Bytes,
    moved: Option<Progress>,
}

/// Bytes handed on at a time.
const PART: usize = 64 << 10;

impl Upload {
    pub(crate) fn new(bytes: Bytes, moved: Option<Progress>) -> Upload {
        Upload { rest: bytes, moved }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let size = self.rest.len().min(PART);
        let part = self.rest.split_to(size);
        if let Some(moved) = &self.moved {
            moved(size as u64);
        }
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

/// Names that lead nowhere but where the policy allows. Addresses in a URL are judged there: no resolver is asked for them.
#[derive(Clone)]
struct Resolver(Arc<Policy>);

impl tower::Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let policy = self.0.clone();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<_> = found.filter(|found| policy.allows(name.as_str(), found.ip())).collect();
            if allowed.is_empty() {
                return Err(io::Error::other(format!("of its addresses none is asked: {NOT_ASKED}")));
            }
            Ok(allowed.into_iter())
        })
    }
}

pub struct Http {
    client: Client<HttpsConnector<HttpConnector<Resolver>>, Upload>,
    pub(crate) policy: Arc<Policy>,
    /// Bytes of bodies that were received.
    pub(crate) received: Counter,
}

impl Http {
    /// Trusts whom the host trusts, or the certificates of `SSL_CERT_FILE` and `SSL_CERT_DIR` alone.
    pub fn new(policy: Policy) -> Result<Http, rustls::Error> {
        let policy = Arc::new(policy);
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a trusted CA certificate of the host cannot be read");
        }
        roots.add_parsable_certificates(found.certs);
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new_with_resolver(Resolver(policy.clone()));
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT));
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(1)
            .build(connector.wrap_connector(tcp));
        Ok(Http { client, policy, received: Counter::default() })
    }

    /// One exchange, without a redirect. Waits `patience` for the head of the answer.
    pub(crate) async fn send(
        &self,
        method: Method,
        url: &Uri,
        headers: &HeaderMap,
        body: Upload,
        patience: Duration,
    ) -> Result<Response<Incoming>, FetchError> {
        self.policy.check(url)?;
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = url.clone();
        *request.headers_mut() = headers.clone();
        request.headers_mut().insert(header::USER_AGENT, USER_AGENT);
        let failed = |reason: String| FetchError::Unreachable { url: shown(url), reason };
        match tokio::time::timeout(patience, self.client.request(request)).await {
            Ok(answer) => answer.map_err(|error| failed(causes(&error))),
            Err(_) => Err(failed(format!("no answer within {patience:?}"))),
        }
    }

    /// Follows redirects; credentials stay with the host that they are for.
    pub(crate) async fn get(&self, url: &Uri, headers: &HeaderMap) -> Result<Response<Incoming>, FetchError> {
        let (mut url, mut headers) = (url.clone(), headers.clone());
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.send(Method::GET, &url, &headers, Upload::default(), SILENCE).await?;
            // 304 is no redirect, nor is a redirect without a place.
            let to = answer.headers().get(header::LOCATION).filter(|_| answer.status().is_redirection());
            let Some(to) = to else { return Ok(answer) };
            let next = join(&url, to)?;
            if next.authority() != url.authority() || next.scheme() != url.scheme() {
                headers.remove(header::AUTHORIZATION);
            }
            url = next;
        }
        Err(FetchError::Unreachable { url: shown(&url), reason: format!("more than {MAX_REDIRECTS} redirects") })
    }

    /// A whole body, of at most `max` bytes.
    pub(crate) async fn read(
        &self,
        url: &Uri,
        answer: Response<Incoming>,
        max: u64,
        moved: Option<&Progress>,
    ) -> Result<Vec<u8>, FetchError> {
        let too_large = || FetchError::TooLarge { what: shown(url), max };
        let failed = |reason: String| FetchError::Unreachable { url: shown(url), reason };
        let mut body = answer.into_body();
        let announced = body.size_hint().exact();
        if announced.is_some_and(|size| size > max) {
            return Err(too_large());
        }
        let mut bytes = Vec::with_capacity(announced.map_or(0, |size| usize::try_from(size).unwrap_or_default()));
        loop {
            let frame = match tokio::time::timeout(SILENCE, body.frame()).await {
                Ok(None) => return Ok(bytes),
                Ok(Some(frame)) => frame.map_err(|error| failed(causes(&error)))?,
                Err(_) => return Err(failed(format!("nothing came for {SILENCE:?}"))),
            };
            let Ok(data) = frame.into_data() else { continue };
            if (bytes.len() + data.len()) as u64 > max {
                return Err(too_large());
            }
            self.received.inc_by(data.len() as u64);
            if let Some(moved) = moved {
                moved(data.len() as u64);
            }
            bytes.extend_from_slice(&data);
        }
    }
}

/// Where a `Location` leads (RFC 9110, section 10.2.2): a URL, or a path of the same host.
pub(crate) fn join(base: &Uri, to: &HeaderValue) -> Result<Uri, FetchError> {
    let odd = || FetchError::Unreachable { url: shown(base), reason: "its redirect can't be followed".to_owned() };
    let text = to.to_str().map_err(|_| odd())?;
    let to: Uri = text.parse().map_err(|_| odd())?;
    if to.scheme().is_some() {
        return Ok(to);
    }
    let mut parts = base.clone().into_parts();
    if !text.starts_with('/') || text.starts_with("//") {
        return Err(odd());
    }
    parts.path_and_query = to.path_and_query().cloned();
    Uri::from_parts(parts).map_err(|_| odd())
}

/// The client's own words are few; what went wrong stands in the causes.
fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_is_a_url_or_a_path_of_the_same_host() {
        let base: Uri = "https://r.example:8443/v2/a?x=1".parse().unwrap();
        let to = |text: &'static str| join(&base, &HeaderValue::from_static(text)).map(|url| url.to_string()).ok();
        assert_eq!(to("https://cdn.example/b?sig=1").as_deref(), Some("https://cdn.example/b?sig=1"));
        assert_eq!(to("/v2/uploads/7?state=y").as_deref(), Some("https://r.example:8443/v2/uploads/7?state=y"));
        assert_eq!(to("uploads/7"), None);
        assert_eq!(to("//cdn.example/b"), None);
    }
}
