//! The request's body: its size, and reading it whole for a plugin that asked. Its pace is watched where it arrives, in
//! `downstream`.

use super::context::{Reply, RequestContext};
use super::replay::Replay;
use bytes::{Bytes, BytesMut};
use pingora_core::{Error, ErrorType};
use pingora_proxy::Session;
use sluice_model::Reason;

/// What came of reading a body whole.
pub(super) enum Read {
    Whole(Bytes),
    /// It is above the limit. What was read of it goes on to the backend before the rest.
    TooLarge,
}

/// Reads the body, at most `limit` bytes of it. Reading goes by the listener's pace: its idle timeout, and the deadline
/// of the request.
pub(super) async fn read(session: &mut Session, ctx: &mut RequestContext, limit: u64) -> Result<Read, Reply> {
    let limit = ctx.body_limit.map_or(limit, |least| least.min(limit));
    if super::admission::body_length(&session.req_header().headers, Some(limit)).is_err() {
        return Ok(Read::TooLarge);
    }
    // Small bodies are kept by the engine, which sends them on by itself.
    session.as_downstream_mut().enable_retry_buffering();
    if session.req_header().headers.contains_key(::http::header::EXPECT) && !session.is_body_done() {
        session.as_downstream_mut().write_continue_response().await.map_err(|_| Reply::from(Reason::ClientAborted))?;
    }
    let mut whole = BytesMut::new();
    let mut over = false;
    while !over {
        match next(session, ctx).await? {
            Some(chunk) => {
                over = (whole.len() + chunk.len()) as u64 > limit;
                whole.extend_from_slice(&chunk);
            }
            None => break,
        }
    }
    let whole = whole.freeze();
    if session.as_downstream().retry_buffer_truncated() {
        ctx.replayed = Some(Replay::put_before(session, whole.clone()));
    }
    Ok(if over { Read::TooLarge } else { Read::Whole(whole) })
}

async fn next(session: &mut Session, ctx: &RequestContext) -> Result<Option<Bytes>, Reply> {
    let idle = ctx.listener.as_ref().map(|listener| listener.edge().timeouts.body_idle).unwrap_or_default();
    let patience = ctx.left().map_or(idle, |left| left.min(idle));
    match tokio::time::timeout(patience, session.as_downstream_mut().read_request_body()).await {
        Ok(Ok(chunk)) => Ok(chunk),
        Ok(Err(error)) => Err(super::failure::of_client(&error).into()),
        Err(_) if ctx.expired() => Err(Reason::RequestTimeout.into()),
        Err(_) => Err(Reason::BodyTimeout.into()),
    }
}

/// Another body goes on instead of the one that was read.
pub(super) fn replace(session: &mut Session, ctx: &mut RequestContext, body: Bytes) {
    if let Some(home) = ctx.replayed.take() {
        home.restore(session);
        ctx.replayed = Some(Replay::put_instead(session, body.clone()));
    } else if session.is_body_empty() {
        // The engine would send nothing for a request that came without a body.
        ctx.replayed = Some(Replay::put_instead(session, body.clone()));
    }
    ctx.replacement = Some(body);
}

/// Each piece of the body on its way to the backend; `end` with the last one.
pub(super) fn piece(
    session: &Session,
    ctx: &mut RequestContext,
    piece: &mut Option<Bytes>,
    end: bool,
) -> Result<(), Box<Error>> {
    if ctx.tunnel {
        return Ok(());
    }
    if ctx.expired() {
        return Err(refuse(ctx, Reason::RequestTimeout));
    }
    if ctx.body_limit.is_some_and(|limit| session.body_bytes_read() as u64 > limit) {
        return Err(refuse(ctx, Reason::BodyTooLarge));
    }
    if let Some(replacement) = &ctx.replacement {
        *piece = end.then(|| replacement.clone());
    }
    Ok(())
}

fn refuse(ctx: &mut RequestContext, reason: Reason) -> Box<Error> {
    ctx.refused = Some(reason.into());
    Error::explain(ErrorType::InternalError, reason.as_str())
}
