//! A request's part in its trace: whether it is sampled, and what is handed over at its end. The rest is `crate::trace`.

use super::context::RequestContext;
use super::{authority, names};
use crate::snapshot::RuleRuntime;
use crate::trace::{Server, Trace, TraceParent, Tracer};
use ::http::header::{self, HeaderMap};
use ::http::{Uri, Version};
use pingora_proxy::Session;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Bytes of a path and of a User-Agent that are kept.
const LONGEST_PATH: usize = 1_024;
const LONGEST_USER_AGENT: usize = 256;

/// W3C trace context at the entrance.
///
/// A trusted peer's is passed on. Anybody else's trace is begun anew, so that strangers can't write into a trace of ours.
/// Without a tracer it keeps the caller's wish to be sampled, and where there is no trace, whoever traces first begins one.
/// With a tracer each request is in one: whether it is sampled is said by the trusted peer, or else by the ratio.
/// `None`: it is not, or by others alone.
pub(super) fn enter(headers: &mut HeaderMap, trusted: bool, tracer: Option<&Arc<Tracer>>) -> Option<Box<Trace>> {
    let Some(tracer) = tracer else {
        pass_on(headers, trusted);
        return None;
    };
    let parent = headers.get(names::TRACEPARENT).filter(|_| trusted);
    match parent.and_then(|value| TraceParent::parse(value.as_bytes())) {
        Some(parent) if !parent.is_sampled() => None,
        Some(parent) => {
            let span = parent.child();
            headers.insert(names::TRACEPARENT, span.value());
            Some(Trace::new(tracer, span, Some(parent), headers.get(names::TRACESTATE).cloned()))
        }
        None => {
            let root = tracer.root();
            headers.remove(names::TRACESTATE);
            headers.insert(names::TRACEPARENT, root.value());
            root.is_sampled().then(|| Trace::new(tracer, root, None, None))
        }
    }
}

fn pass_on(headers: &mut HeaderMap, trusted: bool) {
    if let Some(value) = headers.get(names::TRACEPARENT) {
        match TraceParent::parse(value.as_bytes()) {
            Some(_) if trusted => return,
            Some(parent) => {
                let anew = TraceParent::root().with_sampled(parent.is_sampled());
                headers.insert(names::TRACEPARENT, anew.value());
            }
            // Invalid: to be treated as absent (Trace Context, section 4.3).
            None => drop(headers.remove(names::TRACEPARENT)),
        }
    }
    headers.remove(names::TRACESTATE);
}

/// The trace id of a valid `traceparent`, for the log.
pub(super) fn id(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(names::TRACEPARENT)?;
    TraceParent::parse(value.as_bytes())?;
    value.to_str().ok()?.get(3..35)
}

/// Hands the request's spans over. `status`: what was sent, or 0.
pub(super) fn end(session: &Session, ctx: &mut RequestContext, status: u16, duration: Duration) {
    let (Some(trace), Some(listener)) = (ctx.trace.take(), &ctx.listener) else { return };
    let request = session.req_header();
    let field =
        |name| request.headers.get(name).map(|value: &header::HeaderValue| value.as_bytes()).unwrap_or_default();
    let authority = authority::canonical(field(header::HOST));
    let default_port = if ctx.tls { 443 } else { 80 };
    trace.end(Server {
        began: SystemTime::now().checked_sub(ctx.started.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH),
        started: ctx.started,
        duration,
        method: request.method.clone(),
        scheme: if ctx.tls { "https" } else { "http" },
        host: authority.as_ref().map(|a| a.host.trim_matches(['[', ']']).into()).unwrap_or_default(),
        port: authority.and_then(|authority| authority.port).unwrap_or(default_port),
        path: clipped(path(ctx.raw_target.as_deref(), &request.uri), LONGEST_PATH),
        protocol: match request.version {
            Version::HTTP_2 => "2",
            Version::HTTP_10 => "1.0",
            _ => "1.1",
        },
        client: ctx.client,
        user_agent: clipped(field(header::USER_AGENT), LONGEST_USER_AGENT),
        status,
        reason: ctx.reason,
        tunnel: ctx.tunnel,
        listener: listener.label.clone(),
        rule: ctx.rule.as_deref().map(|rule: &RuleRuntime| (rule.route_label.clone(), rule.config.id.rule.clone())),
        backend: ctx.backend_ref().and_then(|b| b.target.as_ref()).map(|(_, metrics)| metrics.label.clone()),
    });
}

/// The path that the client asked for, without what may stand before or after it: a user, a query.
fn path<'r>(raw: Option<&'r [u8]>, uri: &'r Uri) -> &'r [u8] {
    match raw {
        Some(raw) if raw.starts_with(b"/") => raw.split(|b| matches!(b, b'?' | b'#')).next().unwrap_or_default(),
        _ => uri.path().as_bytes(),
    }
}

fn clipped(text: &[u8], longest: usize) -> Box<str> {
    String::from_utf8_lossy(text.get(..longest).unwrap_or(text)).into()
}

#[cfg(test)]
mod tests;
