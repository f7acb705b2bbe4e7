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
    /// After `on_request`: read the request's body, then call [`on_request_body`](crate::Invocation::on_request_body). After
    /// `on_response`: the response's, then [`on_response_body`](crate::Invocation::on_response_body).
    ReadBody(BodyRequest),
    /// After a piece of a body: the exchange is cut short.
    Abort,
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

/// A plugin's wish to see a body whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyRequest {
    /// Bytes to read at most: what the plugin asked for, bounded by the Plugin's `limits.bodyBuffer`.
    pub limit: u64,
    /// What a larger body means.
    pub over_limit: OverLimit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverLimit {
    /// It is answered with 413, a response's with 502.
    Refuse,
    /// It goes on, and the plugin is not called with it.
    Pass,
}

/// What came of `on_request_body` or `on_response_body`.
#[derive(Debug)]
pub struct BodyOutcome {
    /// `Continue` or `Respond`.
    pub decision: Decision,
    /// The body that goes on instead of the one that was read.
    pub replacement: Option<Bytes>,
}
