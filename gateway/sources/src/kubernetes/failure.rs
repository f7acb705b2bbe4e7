//! Why the API server did not answer as asked, told apart by what is to be done about it.

use kube::core::Status;
use std::error::Error;
use std::fmt;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// 404: the kind, or this version of it, is not served.
    NotFound,
    /// 403.
    Forbidden(String),
    /// 410, or a version that the server never had: list again.
    Gone,
    /// The server does not stream lists.
    NoStreaming,
    /// Everything else that it said.
    Refused { message: String, retry_after: Option<Duration> },
    /// It said nothing.
    Transport(String),
}

impl Failure {
    pub(super) fn of_status(status: &Status, streaming_list: bool) -> Failure {
        let message = || match (status.message.trim(), status.reason.trim()) {
            ("", "") => format!("status {}", status.code),
            ("", reason) => reason.to_owned(),
            (message, _) => message.to_owned(),
        };
        let too_large = status.message.contains("Too large resource version")
            || status.details.iter().flat_map(|details| &details.causes).any(|c| c.reason == "ResourceVersionTooLarge");
        match status.code {
            404 => Failure::NotFound,
            403 => Failure::Forbidden(message()),
            410 => Failure::Gone,
            _ if status.reason == "Expired" || too_large => Failure::Gone,
            400 | 422 if streaming_list => Failure::NoStreaming,
            code => {
                let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
                let retry_after = (seconds > 0).then(|| Duration::from_secs(u64::from(seconds)));
                Failure::Refused { message: format!("{} ({code})", message()), retry_after }
            }
        }
    }

    /// What the innermost cause says: `Connection refused (os error 111)`.
    pub(super) fn transport(error: &(dyn Error + 'static)) -> Failure {
        let mut cause = error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        Failure::Transport(cause.to_string())
    }

    pub(super) fn late(what: &str) -> Failure {
        Failure::Transport(format!("{what} took too long"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::NotFound => f.write_str("not found (404)"),
            Failure::Gone => f.write_str("the version is too old (410)"),
            Failure::NoStreaming => f.write_str("lists are not streamed"),
            Failure::Forbidden(message) => f.write_str(message),
            Failure::Refused { message, .. } | Failure::Transport(message) => f.write_str(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, reason: &str, message: &str) -> Status {
        Status { code, reason: reason.into(), message: message.into(), ..Status::default() }
    }

    #[test]
    fn a_status_says_what_is_to_be_done() {
        let of = |code, reason, message| Failure::of_status(&status(code, reason, message), false);
        assert_eq!(of(404, "NotFound", "x"), Failure::NotFound);
        assert_eq!(of(403, "Forbidden", "no rights"), Failure::Forbidden("no rights".into()));
        assert_eq!(of(410, "Expired", "too old"), Failure::Gone);
        assert_eq!(of(504, "Timeout", "Too large resource version: 9, current: 3"), Failure::Gone);
        assert_eq!(of(500, "", "").to_string(), "status 500 (500)");
        assert!(matches!(of(422, "Invalid", "sendInitialEvents is forbidden"), Failure::Refused { .. }));
        let streaming = Failure::of_status(&status(422, "Invalid", "sendInitialEvents is forbidden"), true);
        assert_eq!(streaming, Failure::NoStreaming);
    }

    #[test]
    fn an_error_of_the_connection_is_told_by_its_innermost_cause() {
        let cause = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let text = cause.to_string();
        let outer = kube::Error::Service(Box::new(cause));
        assert_eq!(Failure::transport(&outer), Failure::Transport(text));
    }
}
