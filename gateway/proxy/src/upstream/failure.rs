//! What went wrong between the gateway and an endpoint: one classification for ejection, retries and the log's reason.

use pingora_core::{Error, ErrorSource, ErrorType, RetryType};
use sluice_model::Reason;
use std::io::ErrorKind;

/// The circuit breaker refused a new connection.
pub(super) const OVERFLOW: ErrorType = ErrorType::new("UpstreamOverflow");

/// A failure of one try, seen from the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection: refused, unreachable. Nothing was sent.
    Connect,
    /// No connection in time. Nothing was sent.
    ConnectTimeout,
    /// The handshake failed, or the certificate is not one that the policy trusts. Nothing was sent.
    Tls,
    /// The circuit breaker is open. Nothing was sent.
    Overflow,
    /// The endpoint said that it has not looked at the request: REFUSED_STREAM, a GOAWAY that leaves the stream out, or
    /// HTTP_1_1_REQUIRED (RFC 9113, sections 7 and 8.7).
    Refused,
    /// The connection broke, or the stream was reset.
    Reset,
    /// The endpoint's host is gone without a word ([`super::lost`]).
    Lost,
    /// What came back is not HTTP.
    Protocol,
    /// Connected, but no byte in time.
    Timeout,
}

/// What kind of error of a stream this one goes back to.
fn stream_error(error: &Error) -> Option<ErrorKind> {
    error.root_cause().downcast_ref::<std::io::Error>().map(std::io::Error::kind)
}

impl Failure {
    /// `None` where the error is not the upstream's: the client's, the gateway's own, or an answer with a status.
    pub fn of(error: &Error) -> Option<Failure> {
        use ErrorType::*;
        let failure = match error.etype() {
            ConnectTimedout | TLSHandshakeTimedout => Failure::ConnectTimeout,
            ConnectRefused | ConnectNoRoute | ConnectError | ConnectProxyFailure => Failure::Connect,
            TLSHandshakeFailure | InvalidCert | HandshakeError | TLSWantX509Lookup => Failure::Tls,
            etype if *etype == OVERFLOW => Failure::Overflow,
            // From here on the same words stand for the client's side as well.
            _ if *error.esource() != ErrorSource::Upstream => return None,
            // The engine's HTTP/2 client marks those that are safe to send again; a broken answer is marked as well, but
            // that request was seen.
            H2Error | H2Downgrade if error.retry == RetryType::Decided(true) => Failure::Refused,
            ReadTimedout | WriteTimedout => Failure::Timeout,
            // The stream's way to say that the request's deadline has passed, or that nobody is there any more.
            ReadError if stream_error(error) == Some(ErrorKind::TimedOut) => Failure::Timeout,
            ReadError if stream_error(error) == Some(ErrorKind::ConnectionAborted) => Failure::Lost,
            ReadError | WriteError | ConnectionClosed | H2Error | SocketError => Failure::Reset,
            H2Downgrade | InvalidH2 | InvalidHTTPHeader | H1Error => Failure::Protocol,
            _ => return None,
        };
        Some(failure)
    }

    pub fn reason(self) -> Reason {
        match self {
            Failure::Connect => Reason::UpstreamConnectFailed,
            Failure::ConnectTimeout => Reason::UpstreamConnectTimeout,
            Failure::Tls => Reason::UpstreamTlsFailed,
            Failure::Overflow => Reason::UpstreamOverflow,
            Failure::Refused | Failure::Reset | Failure::Lost => Reason::UpstreamReset,
            Failure::Protocol => Reason::UpstreamProtocolError,
            Failure::Timeout => Reason::UpstreamTimeout,
        }
    }

    /// Whether the endpoint cannot have acted on the request, so that it may be tried elsewhere whatever its method.
    pub fn nothing_sent(self) -> bool {
        match self {
            Failure::Connect | Failure::ConnectTimeout | Failure::Tls | Failure::Overflow | Failure::Refused => true,
            Failure::Reset | Failure::Lost | Failure::Protocol | Failure::Timeout => false,
        }
    }
}

/// How one try ended, for the endpoint's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The endpoint answered with this status.
    Response(u16),
    Failed(Failure),
}

impl Outcome {
    /// `Some(true)`: good; `Some(false)`: counts against the endpoint; `None`: says nothing about it.
    pub(super) fn verdict(self, server_errors: bool) -> Option<bool> {
        match self {
            Outcome::Response(status) => Some(!(server_errors && status >= 500)),
            // Our own limit, and an endpoint that goes away in good order.
            Outcome::Failed(Failure::Overflow | Failure::Refused) => None,
            Outcome::Failed(_) => Some(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_own_failures_are_not_the_endpoints() {
        for etype in [ErrorType::ReadError, ErrorType::WriteTimedout, ErrorType::ConnectionClosed] {
            assert_eq!(Failure::of(&Error::new_down(etype.clone())), None);
            assert!(Failure::of(&Error::new_up(etype)).is_some());
        }
        assert_eq!(Failure::of(&Error::new_up(ErrorType::HTTPStatus(503))), None);
    }

    #[test]
    fn a_stream_that_was_refused_is_not_one_that_was_reset() {
        let mut error = Error::new_up(ErrorType::H2Error);
        assert_eq!(Failure::of(&error), Some(Failure::Reset));
        error.set_retry(true);
        assert_eq!(Failure::of(&error), Some(Failure::Refused));
        let mut broken = Error::new_up(ErrorType::InvalidH2);
        broken.set_retry(true);
        assert_eq!(Failure::of(&broken), Some(Failure::Protocol), "that request was seen");
    }

    #[test]
    fn what_was_not_acted_on_may_be_sent_again() {
        let all = [
            (Failure::Connect, true),
            (Failure::ConnectTimeout, true),
            (Failure::Tls, true),
            (Failure::Overflow, true),
            (Failure::Refused, true),
            (Failure::Reset, false),
            (Failure::Lost, false),
            (Failure::Protocol, false),
            (Failure::Timeout, false),
        ];
        for (failure, expected) in all {
            assert_eq!(failure.nothing_sent(), expected, "{failure:?}");
        }
    }

    #[test]
    fn server_errors_count_only_where_the_policy_says_so() {
        assert_eq!(Outcome::Response(503).verdict(false), Some(true));
        assert_eq!(Outcome::Response(503).verdict(true), Some(false));
        assert_eq!(Outcome::Response(404).verdict(true), Some(true));
        assert_eq!(Outcome::Failed(Failure::Overflow).verdict(true), None, "our own limit is not the endpoint's fault");
        assert_eq!(Outcome::Failed(Failure::Reset).verdict(false), Some(false));
    }
}
