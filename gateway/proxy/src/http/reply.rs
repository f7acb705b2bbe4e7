//! The one place that turns a [`Reason`] into a response.
//!
//! A few words, as JSON or as text by what the client accepts, and neither versions nor names from inside. A gRPC call
//! gets its status in trailers-only form (gRPC over HTTP/2, "Responses"). The plugins that the request has passed see
//! the answer, and so do the rule's own response filters.

use super::context::{Content, Reply, RequestContext};
use super::{cors, headers, names, plugins};
use crate::snapshot::ServerField;
use ::http::header::{self, HeaderMap, HeaderValue};
use ::http::{Method, StatusCode, Version};
use bytes::Bytes;
use pingora_core::Result;
use pingora_core::protocols::http::HttpTask;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use sluice_model::Reason;
use std::fmt::Write;
use std::time::{Duration, Instant};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const SLUICE: HeaderValue = HeaderValue::from_static("sluice");
const ALLOW: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS");
/// Seconds.
const SOON: HeaderValue = HeaderValue::from_static("1");
const VARY_ORIGIN: HeaderValue = HeaderValue::from_static("Origin");

/// How long an unread body may take to be thrown away, so that its connection can be used again.
const DRAIN_TIME: Duration = Duration::from_secs(5);
/// A plugin may answer a plugin's answer; after as many of those the gateway's own stands.
const MAX_REPLACEMENTS: usize = 8;

/// Sends `reply`, unless a response has begun. Whether the connection may serve another request.
pub(super) async fn send(session: &mut Session, ctx: &mut RequestContext, mut reply: Reply) -> Result<bool> {
    if session.response_written().is_some_and(|sent| !sent.status.is_informational()) {
        return Ok(false);
    }
    if let Some(home) = ctx.replayed.take() {
        // The body goes nowhere: what is left of it is for the client's own session to settle.
        home.restore(session);
    }
    let mut replacements = 0;
    let (mut response, mut body) = loop {
        ctx.reason = reply.reason;
        let (mut response, mut body) = compose(session, ctx, &mut reply)?;
        decorate(session, ctx, &mut response);
        if !body.is_empty() {
            // What plugins see; the one that is sent is counted at the end.
            response.insert_header(header::CONTENT_LENGTH, HeaderValue::from(body.len()))?;
        }
        let has_body = !ctx.grpc && !has_no_content(response.status);
        match plugins::on_reply(session, ctx, &mut response, &mut body, has_body).await {
            Ok(()) => break (response, body),
            Err(other) if replacements < MAX_REPLACEMENTS => reply = other,
            Err(_) => break (response, body),
        }
        replacements += 1;
    };
    let has_body = !body.is_empty() && !ctx.grpc && !has_no_content(response.status);
    if has_body
        && session.req_header().method != Method::HEAD
        && let Err(failed) = plugins::on_reply_body(session, ctx, &response, &mut body).await
    {
        ctx.reason = failed.reason;
        reply = failed;
        (response, body) = compose(session, ctx, &mut reply)?;
        response.insert_header(header::CONTENT_LENGTH, HeaderValue::from(body.len()))?;
    }
    let body = finish_head(session, ctx, &mut response, body)?;
    let reusable = prepare_connection(session, ctx, &reply);
    ctx.answered_at = Some(Instant::now());
    // As tasks, so that a head without a body ends its stream: gRPC's trailers-only form depends on it.
    let mut tasks = vec![HttpTask::Header(Box::new(response), body.is_empty())];
    if !body.is_empty() {
        tasks.push(HttpTask::Body(Some(body), true));
    }
    session.write_response_tasks(tasks).await?;
    Ok(reusable)
}

/// Status, body and the reply's own fields.
fn compose(session: &Session, ctx: &RequestContext, reply: &mut Reply) -> Result<(ResponseHeader, Bytes)> {
    let status = reply.status.or_else(|| StatusCode::from_u16(reply.reason.status()).ok());
    let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = ResponseHeader::build_no_case(status, Some(8))?;
    let Content { headers, body } = reply.content.take().map(|content| *content).unwrap_or_default();
    let mut name = None;
    // A map gives each name once, with its first value.
    for (next, value) in headers {
        name = next.or(name);
        if let Some(name) = &name {
            response.append_header(name, value)?;
        }
    }
    let body = match body {
        Some(body) => body,
        None if has_no_content(status) || status.is_redirection() => Bytes::new(),
        None => {
            let request = &session.req_header().headers;
            let json = accepts_json(request);
            response.insert_header(header::CONTENT_TYPE, if json { JSON } else { TEXT })?;
            words(status, reply.reason, request.get(names::X_REQUEST_ID), json)
        }
    };
    match reply.reason {
        Reason::MethodNotAllowed => response.insert_header(header::ALLOW, ALLOW)?,
        // There is nothing to know of when it will be better; but not at once, and not never.
        Reason::Overloaded | Reason::UpstreamOverflow | Reason::RetryBudgetExceeded | Reason::PluginOverloaded
            if !response.headers.contains_key(header::RETRY_AFTER) =>
        {
            response.insert_header(header::RETRY_AFTER, SOON)?;
        }
        _ => {}
    }
    match ctx.listener.as_ref().map(|listener| &listener.server_header) {
        None | Some(ServerField::PassThrough) => response.insert_header(header::SERVER, SLUICE)?,
        Some(ServerField::Remove) => {}
        Some(ServerField::Replace(value)) => response.insert_header(header::SERVER, value.clone())?,
    }
    if let Some(id) = session.req_header().headers.get(names::X_REQUEST_ID) {
        response.insert_header(&names::X_REQUEST_ID, id.clone())?;
    }
    Ok((response, body))
}

/// What the rule adds to every response.
pub(super) fn decorate(session: &Session, ctx: &RequestContext, response: &mut ResponseHeader) {
    use headers::Fields;
    let Some(rule) = &ctx.rule else { return };
    let filters = &rule.config.filters;
    if !filters.response_headers.is_empty() {
        headers::apply(&filters.response_headers, response);
    }
    let backend = ctx.backend_filters();
    if let Some(ops) = backend.map(|filters| &filters.response_headers).filter(|ops| !ops.is_empty()) {
        headers::apply(ops, response);
    }
    let cors = backend.and_then(|filters| filters.cors.as_ref()).or(filters.cors.as_ref());
    if let Some(cors) = cors {
        if ctx.reason == Reason::CorsPreflight {
            let request = session.req_header();
            if let Some(method) = request.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD) {
                let asked = request.headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
                cors::write_preflight(cors, &ctx.cors, method, asked, |name, value| response.set(&name, value));
            }
        } else {
            cors::write_actual(cors, &ctx.cors, |name, value| response.set(&name, value));
        }
        if cors::varies(cors) {
            response.add(&header::VARY, VARY_ORIGIN);
        }
    }
}

/// Length, or the form of gRPC. The body that is really sent.
fn finish_head(session: &Session, ctx: &RequestContext, response: &mut ResponseHeader, body: Bytes) -> Result<Bytes> {
    if ctx.grpc {
        let status = response.status;
        // A plugin may say it itself.
        if !response.headers.contains_key(&names::GRPC_STATUS) {
            response.insert_header(&names::GRPC_STATUS, HeaderValue::from(grpc_status(ctx.reason, status)))?;
            response.insert_header(&names::GRPC_MESSAGE, HeaderValue::from_static(ctx.reason.as_str()))?;
        }
        response.insert_header(header::CONTENT_TYPE, GRPC)?;
        response.remove_header(&header::CONTENT_LENGTH);
        response.set_status(StatusCode::OK)?;
        if session.req_header().version != Version::HTTP_2 {
            response.insert_header(header::CONTENT_LENGTH, HeaderValue::from(0))?;
        }
        return Ok(Bytes::new());
    }
    // A plugin may take the length away, as it can from a backend's answer.
    let unframed = !body.is_empty() && !response.headers.contains_key(header::CONTENT_LENGTH);
    if has_no_content(response.status) {
        response.remove_header(&header::CONTENT_LENGTH);
        return Ok(Bytes::new());
    }
    let request = session.req_header();
    let is_plugins = matches!(ctx.reason, Reason::PluginDenied | Reason::PluginReplied);
    if body.is_empty() && is_plugins && request.version == Version::HTTP_2 {
        // There its end is told by the head itself.
        response.remove_header(&header::CONTENT_LENGTH);
    } else if unframed && request.version == Version::HTTP_11 {
        response.insert_header(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"))?;
    } else if !unframed || request.version != Version::HTTP_2 {
        response.insert_header(header::CONTENT_LENGTH, HeaderValue::from(body.len()))?;
    }
    Ok(if session.req_header().method == Method::HEAD { Bytes::new() } else { body })
}

/// RFC 9110, sections 15.3.5 and 15.4.5.
pub(super) fn has_no_content(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// What becomes of a body that nobody has read: a short one is thrown away, for a longer one the connection is closed.
fn prepare_connection(session: &mut Session, ctx: &RequestContext, reply: &Reply) -> bool {
    if reply.close {
        session.set_keepalive(None);
        return false;
    }
    if session.is_body_done() {
        return true;
    }
    let limit = ctx.listener.as_ref().map_or(0, |listener| listener.edge().limits.drain_bytes);
    let request = session.req_header();
    let length = request.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let waits = request.headers.contains_key(header::EXPECT);
    let short = length.is_some_and(|length| length <= limit) && !waits;
    if short {
        session.as_downstream_mut().set_close_on_response_before_downstream_finish(false);
        session.as_downstream_mut().set_total_drain_timeout(Some(DRAIN_TIME));
    } else {
        session.set_keepalive(None);
    }
    short
}

fn accepts_json(headers: &HeaderMap) -> bool {
    let ranges = headers.get_all(header::ACCEPT).iter().flat_map(|accept| accept.as_bytes().split(|b| *b == b','));
    ranges.into_iter().any(|range| {
        let media = range.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
        media.eq_ignore_ascii_case(b"application/json") || media.ends_with(b"+json")
    })
}

/// `404 Not Found: no rule matches`. Names of reasons are public: they stand in the documentation.
fn words(status: StatusCode, reason: Reason, id: Option<&HeaderValue>, json: bool) -> Bytes {
    let mut text = String::with_capacity(192);
    // Writing to a string does not fail.
    if json {
        let _ = write!(
            text,
            "{{\"status\":{},\"reason\":\"{reason}\",\"message\":\"{}\"",
            status.as_u16(),
            reason.description()
        );
        let mut text = text.into_bytes();
        if let Some(id) = id {
            text.extend_from_slice(b",\"request_id\":");
            crate::access_log::json_string(&mut text, id.as_bytes());
        }
        text.extend_from_slice(b"}\n");
        return text.into();
    }
    let _ = writeln!(text, "{status}: {}", reason.description());
    text.into()
}

/// The code that a gRPC client sees (gRPC, "HTTP to gRPC status code mapping"; finer where the reason says more).
fn grpc_status(reason: Reason, status: StatusCode) -> u16 {
    const CANCELLED: u16 = 1;
    const UNKNOWN: u16 = 2;
    const DEADLINE_EXCEEDED: u16 = 4;
    const PERMISSION_DENIED: u16 = 7;
    const RESOURCE_EXHAUSTED: u16 = 8;
    const UNIMPLEMENTED: u16 = 12;
    const INTERNAL: u16 = 13;
    const UNAVAILABLE: u16 = 14;
    const UNAUTHENTICATED: u16 = 16;
    match reason {
        Reason::RequestTimeout | Reason::UpstreamTimeout => return DEADLINE_EXCEEDED,
        Reason::BodyTooLarge | Reason::HeadersTooLarge => return RESOURCE_EXHAUSTED,
        Reason::ClientAborted => return CANCELLED,
        _ => {}
    }
    match status.as_u16() {
        400 | 431 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 | 405 | 501 => UNIMPLEMENTED,
        429 | 502 | 503 | 504 => UNAVAILABLE,
        413 => RESOURCE_EXHAUSTED,
        _ => UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_json_for_whoever_accepts_it() {
        let accept = |value: &'static str| -> HeaderMap {
            [(header::ACCEPT, HeaderValue::from_static(value))].into_iter().collect()
        };
        assert!(accepts_json(&accept("text/html, application/json;q=0.9")));
        assert!(accepts_json(&accept("application/problem+json")));
        assert!(!accepts_json(&accept("*/*")));
        assert!(!accepts_json(&HeaderMap::new()));
        let id = HeaderValue::from_static("a\"b");
        let json = words(StatusCode::NOT_FOUND, Reason::RouteNotFound, Some(&id), true);
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(json["status"], 404);
        assert_eq!(json["reason"], "route_not_found");
        assert_eq!(json["request_id"], "a\"b");
        let text = words(StatusCode::NOT_FOUND, Reason::RouteNotFound, None, false);
        assert_eq!(text, "404 Not Found: no rule matches\n");
    }

    #[test]
    fn grpc_statuses_follow_the_mapping_of_its_specification() {
        for (reason, status, expected) in [
            (Reason::RouteNotFound, 404, 12),
            (Reason::NoEndpoints, 503, 14),
            (Reason::RequestTimeout, 504, 4),
            (Reason::UpstreamConnectTimeout, 504, 14),
            (Reason::PluginDenied, 401, 16),
            (Reason::PluginDenied, 403, 7),
            (Reason::BodyTooLarge, 413, 8),
            (Reason::Internal, 500, 2),
        ] {
            assert_eq!(grpc_status(reason, StatusCode::from_u16(status).unwrap()), expected, "{reason}");
        }
    }

    #[test]
    fn descriptions_can_be_written_into_json_as_they_are() {
        for reason in Reason::ALL {
            assert!(!reason.description().contains(['"', '\\', '\n']), "{reason}");
        }
    }
}
