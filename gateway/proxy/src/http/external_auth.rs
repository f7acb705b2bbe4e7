//! External authorization (GEP-1494): a service is asked whether the request may go on, after those that may not even ask, and
//! before plugins. Whatever keeps it from answering ends the request.
//!
//! ```text
//! request ─► body, as far as the service wants it ─► call ─► allowed: changes of the request ─► plugins, backend
//!                                                      └───► denied: the service's answer is the client's
//! ```

mod grpc;
mod http;
mod proto;

use super::context::{Content, Reply, RequestContext};
use super::{body, headers};
use crate::downstream::DownstreamMetrics;
use crate::metrics::{AuthResult, HeldBytes, RequestMetrics};
use crate::outbound;
use crate::snapshot::{AuthRuntime, Snapshot};
use ::http::StatusCode;
use ::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use sluice_model::Reason;
use sluice_model::config::AuthProtocol;
use sluice_model::field;
use sluice_wasm::{FetchError, FetchErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the service may take, connecting included: 5 s, or what is left to the request. Counted in
/// `sluice_timeouts_total{timeout="external_auth"}`.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of the service's answer. Default 256 KiB; a longer one is a failure.
const MAX_ANSWER: u64 = 256 * 1024;

/// What the service wants of an allowed request.
#[derive(Debug, Default)]
struct Allowed {
    /// In this order: what the request is relieved of, then what it gets.
    remove: Vec<HeaderName>,
    request: Vec<Change>,
    response: Vec<Change>,
}

/// A field to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    name: HeaderName,
    value: HeaderValue,
    how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// In place of what stands there.
    Set,
    /// Beside it.
    Add,
    /// Unless something stands there.
    IfAbsent,
    /// Only if something stands there.
    IfPresent,
}

/// The service refused; this is the client's answer.
#[derive(Debug)]
struct Denied {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

enum Verdict {
    Allowed(Allowed),
    Denied(Denied),
}

/// No verdict could be had: the request does not go on.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("the service's backend is gone")]
    NoBackend,
    #[error("the request cannot be put to the service: {0}")]
    Question(#[from] ::http::Error),
    #[error(transparent)]
    Call(#[from] FetchError),
    #[error("the service answered with status {0}")]
    Status(StatusCode),
    #[error("the call ended with gRPC status {0}")]
    Grpc(String),
    #[error("the service's answer is no message of ext_authz: {0}")]
    Message(&'static str),
    #[error("the gateway holds as many bytes of bodies as it may")]
    NoRoom,
}

/// `Err`: the request is answered here.
pub(super) async fn check(
    exchange: &mut Session,
    ctx: &mut RequestContext,
    auth: &AuthRuntime,
    snapshot: &Snapshot,
    metrics: &Arc<RequestMetrics>,
    counts: &DownstreamMetrics,
) -> Result<(), Reply> {
    let config = &auth.config;
    let body = match config.max_body {
        0 => Bytes::new(),
        limit => match body::read(exchange, ctx, metrics, limit).await? {
            body::Read::Whole(bytes) => bytes,
            body::Read::TooLarge => return Err(Reason::BodyTooLarge.into()),
            body::Read::NoRoom => return Err(failed(&Failed::NoRoom, metrics, counts)),
        },
    };
    let began = Instant::now();
    let outcome = ask(exchange, ctx, auth, snapshot, metrics, body).await;
    metrics.external_auth_took(began.elapsed());
    match outcome {
        Ok(Verdict::Allowed(allowed)) => {
            metrics.external_auth(AuthResult::Allowed);
            let request = exchange.req_header_mut();
            for name in &allowed.remove {
                request.remove_header(name);
            }
            for change in &allowed.request {
                let present = request.headers.contains_key(&change.name);
                apply(change, present, request);
            }
            if !allowed.response.is_empty() {
                ctx.answer_changes = Some(allowed.response.into());
            }
            Ok(())
        }
        Ok(Verdict::Denied(denied)) => {
            metrics.external_auth(AuthResult::Denied);
            let content = Content { headers: denied.headers, body: Some(denied.body) };
            let reply = Reply::with_status(Reason::ExternalAuthDenied, denied.status);
            Err(Reply { content: Some(Box::new(content)), ..reply })
        }
        Err(error) => Err(failed(&error, metrics, counts)),
    }
}

/// Of a request that was allowed: what the service adds to its answer.
pub(super) fn decorate(ctx: &RequestContext, response: &mut ResponseHeader) {
    for change in ctx.answer_changes.iter().flatten() {
        let present = response.headers.contains_key(&change.name);
        apply(change, present, response);
    }
}

fn apply(change: &Change, present: bool, fields: &mut impl headers::Fields) {
    match (change.how, present) {
        (How::Add, _) => fields.add(&change.name, change.value.clone()),
        (How::Set, _) | (How::IfAbsent, false) | (How::IfPresent, true) => {
            fields.set(&change.name, change.value.clone());
        }
        (How::IfAbsent, true) | (How::IfPresent, false) => {}
    }
}

fn failed(error: &Failed, metrics: &RequestMetrics, counts: &DownstreamMetrics) -> Reply {
    metrics.external_auth(AuthResult::Failed);
    if matches!(error, Failed::Call(FetchError { kind: FetchErrorKind::Timeout, .. })) {
        counts.timeout("external_auth");
    }
    tracing::debug!(%error, "external authorization failed");
    Reason::ExternalAuthFailed.into()
}

async fn ask(
    exchange: &Session,
    ctx: &RequestContext,
    auth: &AuthRuntime,
    snapshot: &Snapshot,
    metrics: &Arc<RequestMetrics>,
    body: Bytes,
) -> Result<Verdict, Failed> {
    let backend = snapshot.backend(&auth.backend).ok_or(Failed::NoBackend)?;
    let patience = ctx.left().map_or(PATIENCE, |left| left.min(PATIENCE));
    let until = Instant::now() + patience;
    let request = exchange.req_header();
    let question = match &auth.config.protocol {
        AuthProtocol::Http { path, request_headers, .. } => {
            http::question(request, path, request_headers, body, until)?
        }
        AuthProtocol::Grpc { request_headers } => {
            grpc::question(exchange, ctx, request_headers, body, patience, until)?
        }
    };
    let answer = outbound::call(backend, question, ctx.client, &auth.connections, HeldBytes::none(metrics)).await?;
    match &auth.config.protocol {
        AuthProtocol::Http { response_headers, .. } => http::verdict(answer, response_headers),
        AuthProtocol::Grpc { .. } => grpc::verdict(&answer),
    }
}

/// Fields that frame a message, or are between two neighbours of a connection: nobody's word on them is passed on.
fn belongs_to_connection(name: &HeaderName) -> bool {
    field::is_framing(name)
        || matches!(*name, header::HOST | header::EXPECT | header::PROXY_AUTHENTICATE | header::PROXY_AUTHORIZATION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_made_as_they_are_meant() {
        let name = HeaderName::from_static("x-user");
        let change = |how| Change { name: name.clone(), value: HeaderValue::from_static("new"), how };
        for (how, there, expected) in [
            (How::Set, Some("old"), vec!["new"]),
            (How::Set, None, vec!["new"]),
            (How::Add, Some("old"), vec!["old", "new"]),
            (How::IfAbsent, Some("old"), vec!["old"]),
            (How::IfAbsent, None, vec!["new"]),
            (How::IfPresent, Some("old"), vec!["new"]),
            (How::IfPresent, None, vec![]),
        ] {
            let mut fields: HeaderMap =
                there.map(|value| (name.clone(), HeaderValue::from_static(value))).into_iter().collect();
            let present = fields.contains_key(&name);
            apply(&change(how), present, &mut fields);
            let values: Vec<_> = fields.get_all(&name).iter().map(|value| value.to_str().unwrap()).collect();
            assert_eq!(values, expected, "{how:?} {there:?}");
        }
    }
}
