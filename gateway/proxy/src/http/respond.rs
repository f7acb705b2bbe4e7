//! What comes back from the endpoint, on its way to the client.

use super::body::Unsent;
use super::context::RequestContext;
use super::{answering, forward, headers, plugins, reply};
use crate::metrics::RequestMetrics;
use crate::upstream::Deadline;
use ::http::{HeaderValue, Method, StatusCode, Version, header};
use bytes::Bytes;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;
use sluice_model::Reason;
use std::sync::Arc;
use std::time::Instant;

/// A head as it came to the plugins.
pub(super) struct Before {
    status: StatusCode,
    length: Option<HeaderValue>,
}

impl Before {
    fn of(response: &ResponseHeader) -> Before {
        Before { status: response.status, length: response.headers.get(header::CONTENT_LENGTH).cloned() }
    }
}

/// What a head that plugins have changed means for what follows.
#[derive(Debug, Default)]
pub(super) struct Framed {
    /// The backend's body is not for this status.
    pub(super) bodiless: bool,
    /// The body ends with the connection.
    pub(super) close: bool,
}

/// The framing of a head that plugins have seen.
pub(super) fn frame(request: &RequestHeader, response: &mut ResponseHeader, before: &Before) -> Result<Framed> {
    let mut framed = Framed::default();
    let has_content = !reply::has_no_content(response.status);
    if response.status != before.status && !has_content {
        // The backend's body belongs to a status that is not sent (RFC 9110, section 6.4.1).
        unframe(response);
        framed.bodiless = true;
    }
    let told = |name| response.headers.contains_key(name);
    if let Some(length) = &before.length
        && has_content
        && !told(header::CONTENT_LENGTH)
        && !told(header::TRANSFER_ENCODING)
    {
        // A plugin will change the body, so that its length is not known. HTTP/1.0 ends it with the connection. Of an
        // empty one there is nothing to change, and of one that is not sent (HEAD) the framing is told all the same.
        match request.version {
            Version::HTTP_2 => {}
            _ if length == "0" => response.insert_header(header::CONTENT_LENGTH, length.clone())?,
            Version::HTTP_11 => {
                response.insert_header(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"))?;
            }
            _ if request.method != Method::HEAD => framed.close = true,
            _ => {}
        }
    }
    Ok(framed)
}

/// The head of a message that has no body.
pub(super) fn unframe(response: &mut ResponseHeader) {
    response.remove_header(&header::CONTENT_LENGTH);
    response.remove_header(&header::TRANSFER_ENCODING);
}

/// The head: hop-by-hop fields, the rule's filters, then plugins.
pub(super) async fn head(
    session: &mut Session,
    ctx: &mut RequestContext,
    response: &mut ResponseHeader,
    metrics: &Arc<RequestMetrics>,
) -> Result<()> {
    let upgraded = response.status == StatusCode::SWITCHING_PROTOCOLS;
    if response.status.is_informational() && !upgraded {
        return Ok(());
    }
    headers::strip_hop_by_hop(response);
    if let Some(listener) = &ctx.listener {
        headers::server(&listener.server_header, response);
    }
    reply::decorate(session, ctx, response);
    super::session::write(session, ctx, response);
    super::external_auth::decorate(ctx, response);
    let ended = ctx.upstream.wait.as_ref().is_some_and(Deadline::response_ended_with_head);
    if ctx.plugins.is_some() {
        let before = Before::of(response);
        match plugins::on_response(session, ctx, response, ended).await {
            Ok(None) => {}
            Ok(Some(wish)) => {
                forward::hold(ctx);
                answering::hold(session, ctx, before, wish, metrics);
                return Ok(());
            }
            Err(other) => {
                // The engine knows no other way to send something else: the try ends, and the answer is the plugin's.
                ctx.refused = Some(other);
                return Err(Error::explain(ErrorType::InternalError, "a plugin answers instead of the backend"));
            }
        }
        let has_body = plugins::may_have_body(&session.req_header().method, response);
        let in_passing = has_body && !ended && plugins::answer_in_passing(ctx);
        if in_passing && let Some(plugins) = &mut ctx.plugins {
            plugins::unframe_response(plugins.run(), response);
        }
        let framed = frame(session.req_header(), response, &before)?;
        ctx.bodiless |= framed.bodiless;
        if framed.close {
            session.set_keepalive(None);
        }
        if has_body && plugins::see_response_body(ctx) {
            ctx.response_unsent = Unsent::told_by(&response.headers);
        }
        if in_passing {
            answering::open(session, ctx, before, ctx.response_unsent);
        }
    }
    let request = session.req_header();
    if ended
        && matches!(request.version, Version::HTTP_10 | Version::HTTP_11)
        && request.method != Method::HEAD
        && !reply::has_no_content(response.status)
        && !response.headers.contains_key(header::CONTENT_LENGTH)
    {
        // The end of a stream says it over HTTP/2; over HTTP/1 it would be chunks, or the end of the connection.
        response.insert_header(header::CONTENT_LENGTH, HeaderValue::from_static("0"))?;
    }
    if upgraded {
        ctx.tunnel = true;
        // A tunnel lives by its idle timeout and its longest life, which the client's side watches.
        ctx.deadline = None;
        ctx.upstream.deadline = None;
        if let Some(plugins) = &mut ctx.plugins {
            plugins.release();
        }
    }
    ctx.answered_at = Some(Instant::now());
    Ok(())
}

/// Each piece of the body: the deadline holds to the response's last byte.
pub(super) fn piece(
    session: &mut Session,
    ctx: &mut RequestContext,
    piece: &mut Option<Bytes>,
    end: bool,
) -> Result<()> {
    if ctx.bodiless {
        *piece = None;
    }
    let late = if ctx.expired() {
        Reason::RequestTimeout
    } else if ctx.upstream.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
        Reason::UpstreamTimeout
    } else {
        return plugins::on_response_piece(session, ctx, piece, end);
    };
    ctx.refused = Some(late.into());
    Err(Error::explain(ErrorType::InternalError, late.as_str()))
}
