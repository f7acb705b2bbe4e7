//! The request's body: its size, and reading it for plugins and for external authorization, where they ask. Its pace is
//! watched where it arrives, in `downstream`.
//!
//! A body that a plugin asks for is read once and held: the next plugin sees what is held, or what the one before put in
//! its place, and reading goes on from the client where it wants more. When the request phases are over what is held
//! goes before the rest, in one piece.

use super::context::{Reply, RequestContext};
use super::replay::Replay;
use crate::metrics::{HeldBytes, RequestMetrics};
use ::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use pingora_core::{Error, ErrorType};
use pingora_proxy::Session;
use sluice_model::Reason;
use std::sync::Arc;

/// What was read of a body before the request went on.
pub(super) struct Held {
    bytes: Bytes,
    /// The client's body has come to its end.
    whole: bool,
    /// It is a plugin's, and not the client's.
    replaced: bool,
    counted: HeldBytes,
}

impl Held {
    fn none(metrics: &Arc<RequestMetrics>) -> Held {
        Held { bytes: Bytes::new(), whole: false, replaced: false, counted: HeldBytes::none(metrics) }
    }

    /// Its length, where it is another body than the client's.
    pub(super) fn replaced_length(&self) -> Option<usize> {
        self.replaced.then(|| self.bytes.len())
    }
}

/// What is left of a message's length, where it was told and plugins see the body.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unsent(Option<u64>);

impl Unsent {
    pub(super) fn told_by(headers: &HeaderMap) -> Unsent {
        let length = headers.get(header::CONTENT_LENGTH);
        Unsent(length.and_then(|length| length.to_str().ok()?.parse().ok()))
    }

    /// Whether a piece of this many bytes, the last one or not, keeps to the length.
    pub(super) fn takes(&mut self, bytes: usize, end: bool) -> bool {
        let Some(unsent) = &mut self.0 else { return true };
        let left = unsent.checked_sub(bytes as u64).filter(|left| !end || *left == 0);
        *unsent = left.unwrap_or_default();
        left.is_some()
    }
}

/// What came of reading a body whole.
pub(super) enum Read {
    Whole(Bytes),
    /// It is above the limit. What was read of it goes on to the backend before the rest.
    TooLarge,
    /// The gateway holds as many bytes of bodies as it may. What was read of this one goes on as well.
    NoRoom,
}

/// Reads the body, at most `limit` bytes of it. Reading goes by the listener's pace: its idle timeout, and the deadline
/// of the request.
pub(super) async fn read(
    session: &mut Session,
    ctx: &mut RequestContext,
    metrics: &Arc<RequestMetrics>,
    limit: u64,
) -> Result<Read, Reply> {
    let limit = ctx.body_limit.map_or(limit, |least| least.min(limit));
    let whole = ctx.held.as_ref().is_some_and(|held| held.whole);
    if !whole && super::admission::body_length(&session.req_header().headers, Some(limit)).is_err() {
        return Ok(Read::TooLarge);
    }
    let mut held = match ctx.held.take() {
        Some(held) => held,
        None => {
            begin(session).await?;
            Box::new(Held::none(metrics))
        }
    };
    let read = fill(session, ctx, &mut held, limit).await;
    ctx.held = Some(held);
    read
}

/// Before the first byte is read.
async fn begin(session: &mut Session) -> Result<(), Reply> {
    // Small bodies are kept by the engine, which sends them on by itself.
    session.as_downstream_mut().enable_retry_buffering();
    if session.req_header().headers.contains_key(::http::header::EXPECT) && !session.is_body_done() {
        session.as_downstream_mut().write_continue_response().await.map_err(|_| Reply::from(Reason::ClientAborted))?;
    }
    Ok(())
}

async fn fill(session: &mut Session, ctx: &RequestContext, held: &mut Held, limit: u64) -> Result<Read, Reply> {
    let mut room = true;
    if !held.whole && held.bytes.len() as u64 <= limit {
        let mut bytes = BytesMut::from(std::mem::take(&mut held.bytes));
        let outcome = loop {
            if bytes.len() as u64 > limit || !room {
                break Ok(());
            }
            match next(session, ctx).await {
                Ok(Some(chunk)) => {
                    room = held.counted.add(chunk.len());
                    bytes.extend_from_slice(&chunk);
                }
                Ok(None) => {
                    held.whole = true;
                    break Ok(());
                }
                Err(reply) => break Err(reply),
            }
        };
        held.bytes = bytes.freeze();
        outcome?;
    }
    Ok(if held.bytes.len() as u64 > limit {
        Read::TooLarge
    } else if held.whole {
        Read::Whole(held.bytes.clone())
    } else {
        Read::NoRoom
    })
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

/// Another body goes on instead of the one that was read whole.
pub(super) fn replace(ctx: &mut RequestContext, body: Bytes) {
    let Some(held) = &mut ctx.held else { return };
    // It is there already: whether there was room for it is the next reader's question.
    held.counted.set(body.len());
    held.bytes = body;
    held.replaced = true;
}

/// The request phases are over: what is held goes on before what the client still sends.
pub(super) fn settle(session: &mut Session, ctx: &mut RequestContext) {
    let Some(held) = &ctx.held else { return };
    if held.replaced {
        ctx.replayed = Some(Replay::put_instead(session, held.bytes.clone()));
    } else if session.as_downstream().retry_buffer_truncated() {
        ctx.replayed = Some(Replay::put_before(session, held.bytes.clone()));
    }
}

/// Each piece of the body on its way to the backend.
pub(super) fn piece(session: &Session, ctx: &mut RequestContext) -> Result<(), Box<Error>> {
    if ctx.tunnel {
        return Ok(());
    }
    if ctx.expired() {
        return Err(refuse(ctx, Reason::RequestTimeout));
    }
    if ctx.body_limit.is_some_and(|limit| session.body_bytes_read() as u64 > limit) {
        return Err(refuse(ctx, Reason::BodyTooLarge));
    }
    Ok(())
}

fn refuse(ctx: &mut RequestContext, reason: Reason) -> Box<Error> {
    ctx.refused = Some(reason.into());
    Error::explain(ErrorType::InternalError, reason.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::http::HeaderValue;

    #[test]
    fn a_body_keeps_to_the_length_that_was_told_where_one_was() {
        let told = |length: &'static str| {
            Unsent::told_by(&HeaderMap::from_iter([(header::CONTENT_LENGTH, HeaderValue::from_static(length))]))
        };
        let mut right = told("5");
        assert!(right.takes(2, false) && right.takes(3, false) && right.takes(0, true));
        assert!(!told("5").takes(6, false), "longer");
        assert!(!told("5").takes(4, true), "shorter");
        assert!(Unsent::told_by(&HeaderMap::new()).takes(7, true), "none was told");
    }
}
