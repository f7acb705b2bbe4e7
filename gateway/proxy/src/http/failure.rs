//! What an error of the engine means: whose fault it is, and what is answered.

use super::context::{Reply, RequestContext};
use crate::upstream::Failure;
use pingora_core::{Error, ErrorSource, ErrorType};
use sluice_model::Reason;
use std::io;
use std::time::Instant;

/// An error on the client's side.
pub(super) fn of_client(error: &Error) -> Reason {
    if timed_out(error) {
        return Reason::BodyTimeout;
    }
    match error.etype() {
        ErrorType::ReadTimedout => Reason::BodyTimeout,
        ErrorType::InvalidHTTPHeader => Reason::BadRequest,
        // The engine's names for a body that is not framed as it says.
        etype if matches!(etype.as_str(), "InvalidChunk" | "PrematureBodyEnd" | "InvalidContentLength") => {
            Reason::BadRequest
        }
        _ => Reason::ClientAborted,
    }
}

/// Our own stream says so when a body arrives too slowly.
fn timed_out(error: &Error) -> bool {
    let cause = error.root_cause();
    cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
}

/// What is answered when the engine gives up.
pub(super) fn reply(error: &Error, ctx: &mut RequestContext) -> Reply {
    if let Some(reply) = ctx.refused.take() {
        return reply;
    }
    if let Some(failure) = Failure::of(error) {
        return if ctx.expired() { Reason::RequestTimeout.into() } else { failure.reason().into() };
    }
    match error.esource() {
        ErrorSource::Downstream => of_client(error).into(),
        ErrorSource::Upstream => Reason::UpstreamReset.into(),
        ErrorSource::Internal | ErrorSource::Unset => {
            tracing::error!(%error, "a request failed in the gateway itself");
            Reason::Internal.into()
        }
    }
}

/// Why an answer that has begun did not come to its end.
pub(super) fn cut_short(error: &Error, ctx: &RequestContext) -> Reason {
    if let Some(refused) = &ctx.refused {
        return refused.reason;
    }
    match error.esource() {
        // A client that is there, and takes nothing.
        ErrorSource::Downstream if *error.etype() == ErrorType::WriteTimedout => Reason::StreamIdle,
        ErrorSource::Downstream => Reason::ClientAborted,
        _ if ctx.expired() => Reason::RequestTimeout,
        _ if ctx.upstream.deadline.is_some_and(|deadline| deadline <= Instant::now()) => Reason::UpstreamTimeout,
        _ if matches!(Failure::of(error), Some(Failure::Timeout)) => Reason::StreamIdle,
        _ => Reason::ResponseTruncated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_error_is_not_the_backends() {
        assert_eq!(of_client(&Error::new_down(ErrorType::ReadTimedout)), Reason::BodyTimeout);
        assert_eq!(of_client(&Error::new_down(ErrorType::ConnectionClosed)), Reason::ClientAborted);
        let slow = io::Error::new(io::ErrorKind::TimedOut, "too slow");
        assert_eq!(of_client(&Error::because(ErrorType::ReadError, "body", slow)), Reason::BodyTimeout);
        let mut ctx = RequestContext::new();
        assert_eq!(reply(&Error::new_up(ErrorType::ReadTimedout), &mut ctx).reason, Reason::UpstreamTimeout);
        assert_eq!(reply(&Error::new_down(ErrorType::WriteError), &mut ctx).reason, Reason::ClientAborted);
        assert_eq!(cut_short(&Error::new_down(ErrorType::WriteTimedout), &ctx), Reason::StreamIdle);
        assert_eq!(cut_short(&Error::new_down(ErrorType::WriteError), &ctx), Reason::ClientAborted);
    }
}
