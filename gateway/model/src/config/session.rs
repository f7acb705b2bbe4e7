//! Session persistence (GEP-1619): a client that brings back what it was given goes to the endpoint that it was at.

use crate::print::display;
use http::HeaderName;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// How the sessions of one rule at a backend are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SessionPersistence {
    pub carrier: SessionCarrier,
    /// A session is over this long after it began. Default: never.
    pub absolute_timeout: Option<Duration>,
    /// A session is over this long after its last request. Default: never.
    pub idle_timeout: Option<Duration>,
    /// Whose sessions they are: what was given for another scope is no session here. It holds UIDs, so that whoever does not
    /// know the objects cannot know it.
    #[serde(skip)]
    pub scope: Arc<str>,
}

/// What a client brings back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum SessionCarrier {
    Cookie {
        name: Arc<str>,
        /// The browser keeps it for the absolute timeout, and not only until it is closed.
        permanent: bool,
    },
    /// A field of responses, which the client sends in its requests.
    Header(#[serde(serialize_with = "display")] HeaderName),
}

/// Bytes of a session's name, as the API has it.
pub const MAX_SESSION_NAME: usize = 128;
