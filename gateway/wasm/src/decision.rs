//! What a plugin decided.

use crate::metrics::Outcome;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};

/// What is to happen after a phase.
#[derive(Debug, Default)]
pub enum Decision {
    /// The exchange goes on.
    #[default]
    Continue,
    /// The plugin answers: later plugins and the backend don't see the request; response phases run.
    Respond(Box<LocalReply>),
    /// After `on_request` only: read the body, then call [`on_request_body`](crate::Invocation::on_request_body).
    ReadBody(BodyRequest),
}

impl Decision {
    /// The label `outcome` of `sluice_plugin_calls_total`.
    pub fn outcome(&self) -> &'static str {
        Outcome::of(self).as_str()
    }
}

/// An answer that a plugin gives itself. `content-length` is the gateway's to set.
#[derive(Debug, Default)]
pub struct LocalReply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A plugin's wish to see the request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyRequest {
    /// Bytes to read at most: what the plugin asked for, bounded by the Plugin's `limits.bodyBuffer`.
    pub limit: u64,
    /// What a larger body means.
    pub over_limit: OverLimit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverLimit {
    /// It is answered with 413.
    Refuse,
    /// It goes on, and this plugin's `on_request_body` is not called.
    Pass,
}

/// What came of `on_request_body`.
#[derive(Debug)]
pub struct BodyOutcome {
    /// `Continue` or `Respond`.
    pub decision: Decision,
    /// The body that goes on instead of the one that was read.
    pub replacement: Option<Bytes>,
}
