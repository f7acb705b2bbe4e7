//! Why a call to a Redis gave no answer.

use redis::RedisError;
use std::fmt;

/// The label `outcome` of `sluice_plugin_store_calls_total` and `sluice_plugin_store_connects_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreErrorKind {
    /// The Service has no endpoint that takes connections, or can't be used.
    NoEndpoint,
    /// No connection to the endpoint, or no TLS.
    Connect,
    /// Redis lets nobody in with this name and password, or not to this.
    Login,
    /// No answer in time.
    Timeout,
    /// The connection broke off before the answer.
    Closed,
    /// Redis answered with an error.
    Refused,
    /// As many calls are under way as may be.
    Overloaded,
}

impl StoreErrorKind {
    pub const ALL: [StoreErrorKind; 7] = [
        StoreErrorKind::NoEndpoint,
        StoreErrorKind::Connect,
        StoreErrorKind::Login,
        StoreErrorKind::Timeout,
        StoreErrorKind::Closed,
        StoreErrorKind::Refused,
        StoreErrorKind::Overloaded,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            StoreErrorKind::NoEndpoint => "no-endpoint",
            StoreErrorKind::Connect => "connect",
            StoreErrorKind::Login => "login",
            StoreErrorKind::Timeout => "timeout",
            StoreErrorKind::Closed => "closed",
            StoreErrorKind::Refused => "refused",
            StoreErrorKind::Overloaded => "overloaded",
        }
    }
}

impl fmt::Display for StoreErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A sentence for the plugin, its log and the problem.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {message}")]
pub struct StoreError {
    pub kind: StoreErrorKind,
    pub message: String,
}

impl StoreError {
    pub fn new(kind: StoreErrorKind, message: impl Into<String>) -> StoreError {
        StoreError { kind, message: message.into() }
    }

    /// Of a call on a connection that stood.
    pub(super) fn of(error: &RedisError) -> StoreError {
        let kind = match error.code() {
            Some("NOAUTH" | "WRONGPASS" | "NOPERM") => StoreErrorKind::Login,
            Some(_) => StoreErrorKind::Refused,
            None if error.is_timeout() => StoreErrorKind::Timeout,
            None if error.is_io_error() || error.is_unrecoverable_error() => StoreErrorKind::Closed,
            None => StoreErrorKind::Refused,
        };
        StoreError::new(kind, text(error))
    }

    /// Of the first words on a new connection: name, password, database.
    pub(super) fn of_greeting(error: &RedisError) -> StoreError {
        let kind = match error.kind() {
            redis::ErrorKind::AuthenticationFailed => StoreErrorKind::Login,
            _ => StoreError::of(error).kind,
        };
        StoreError::new(kind, text(error))
    }
}

/// One line, and no more than a sentence: it may be whatever listens there that speaks.
fn text(error: &RedisError) -> String {
    const MAX: usize = 256;
    let mut text: String = error.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.truncate(text.floor_char_boundary(MAX));
    text
}

/// Whether a later connection may lead to a server that does what this one can't: it is a replica, or not ready.
pub(super) fn is_of_the_server(error: &RedisError) -> bool {
    matches!(error.code(), Some("READONLY" | "LOADING" | "MASTERDOWN" | "NOAUTH"))
}
