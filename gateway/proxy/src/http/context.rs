//! What the gateway knows of one request while it runs.

use super::plugins::PluginRun;
use super::retry::Tries;
use crate::metrics::InFlight;
use crate::session::{Session, SessionRuntime};
use crate::snapshot::{BackendRef, ListenerRuntime, RuleRuntime, Snapshot};
use crate::trace::Trace;
use crate::upstream::{Deadline, Pick};
use ::http::StatusCode;
use ::http::header::{self, HeaderMap, HeaderValue};
use bytes::Bytes;
use sluice_model::Reason;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One request, from its header section to its log line. It holds the one snapshot that the request sees.
pub(crate) struct RequestContext {
    /// `Some` from the first hook on.
    pub(super) snapshot: Option<Arc<Snapshot>>,
    pub(super) started: Instant,
    pub(super) listener: Option<Arc<ListenerRuntime>>,
    pub(super) rule: Option<Arc<RuleRuntime>>,
    pub(super) in_flight: Option<InFlight>,
    /// The client, as trusted proxies tell it.
    pub(super) client: IpAddr,
    pub(super) tls: bool,
    pub(super) grpc: bool,
    /// The request asks for a WebSocket.
    pub(super) websocket: bool,
    /// Bytes of the path that the rule's prefix matched; what a prefix rewrite replaces. None where a plugin set a path
    /// that does not begin with it.
    pub(super) prefix: Option<usize>,
    /// The request target as it came, where the normal form or a plugin changed it.
    pub(super) raw_target: Option<Box<[u8]>>,
    /// Place in [`RuleRuntime::backends`] of the one that was drawn.
    pub(super) backend: Option<usize>,
    /// Instead of those, the backend that a plugin chose.
    pub(super) chosen: Option<Arc<BackendRef>>,
    /// A plugin asks for the rule that fits what it made of the request.
    pub(super) finds_route: bool,
    /// The session that the request goes on with.
    pub(super) session: Option<(Arc<SessionRuntime>, Session)>,
    /// Set where the request is refused before its answer can be written.
    pub(super) refused: Option<Reply>,
    /// Why the answer is what it is.
    pub(super) reason: Reason,
    /// Bytes that a body may have.
    pub(super) body_limit: Option<u64>,
    /// When the whole exchange must be over.
    pub(super) deadline: Option<Instant>,
    /// Where the client's session comes back to, while another stands in for it.
    pub(super) replayed: Option<super::replay::Home>,
    /// The same, where the response has something before its trailers. Taken off first.
    pub(super) completed: Option<super::replay::Home>,
    /// While plugins decide on the response as it is written: they are there, and not in `plugins`.
    pub(super) answering: Option<super::answering::Answered>,
    /// The answer came over HTTP/1, which tells a body's end apart from its last piece.
    pub(super) ends_apart: bool,
    pub(super) upstream: Upstream,
    pub(super) tries: Tries,
    /// `None` where the rule uses no plugin.
    pub(super) plugins: Option<Box<PluginRun>>,
    /// Copies that go to mirrors once the request goes out.
    pub(super) mirrors: Option<Box<crate::mirror::Copies>>,
    /// What external authorization adds to the answer.
    pub(super) answer_changes: Option<Box<[super::external_auth::Change]>>,
    /// What plugins and external authorization asked for of the body.
    pub(super) held: Option<Box<super::body::Held>>,
    /// Where plugins see their bodies: of the request as this try sends it, and of the response.
    pub(super) request_unsent: super::body::Unsent,
    pub(super) response_unsent: super::body::Unsent,
    /// Plugins have seen some of the request's body: it can't be sent a second time.
    pub(super) body_passed: bool,
    /// A plugin gave the backend's answer a status that has no body.
    pub(super) bodiless: bool,
    /// Whether the response is one that the browser's page may read (CORS).
    pub(super) cors: super::cors::Verdict,
    pub(super) answered_at: Option<Instant>,
    pub(super) tunnel: bool,
    /// `Some` where the request is sampled.
    pub(super) trace: Option<Box<Trace>>,
}

/// What is to be answered instead of asking a backend.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) reason: Reason,
    /// Replaces the reason's own status.
    pub(super) status: Option<StatusCode>,
    /// Framing is in doubt: the connection can't be used again.
    pub(super) close: bool,
    /// What it says besides.
    pub(super) content: Option<Box<Content>>,
}

#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) headers: HeaderMap,
    /// `None`: a few words on the reason.
    pub(super) body: Option<Bytes>,
}

impl Reply {
    pub(super) fn with_status(reason: Reason, status: StatusCode) -> Self {
        Reply { status: Some(status), ..Reply::from(reason) }
    }

    /// To another place.
    pub(super) fn to(reason: Reason, status: StatusCode, location: HeaderValue) -> Self {
        let headers = [(header::LOCATION, location)].into_iter().collect();
        let content = Some(Box::new(Content { headers, body: None }));
        Reply { content, ..Reply::with_status(reason, status) }
    }
}

impl From<Reason> for Reply {
    fn from(reason: Reason) -> Self {
        let close = matches!(
            reason,
            Reason::BadRequest
                | Reason::AmbiguousFraming
                | Reason::HeaderTimeout
                | Reason::BodyTimeout
                | Reason::BodyTooLarge
                | Reason::VersionNotSupported
                | Reason::Overloaded
                | Reason::ShuttingDown
        );
        Reply { reason, status: None, close, content: None }
    }
}

/// The endpoint side of the current try.
#[derive(Debug, Default)]
pub(super) struct Upstream {
    /// Ends the try in all counters when it is dropped.
    pub(super) pick: Option<Pick>,
    /// The last endpoint, for the log: it outlives the pick.
    pub(super) address: Option<SocketAddr>,
    pub(super) picked_at: Option<Instant>,
    pub(super) connected_at: Option<Instant>,
    /// `None` where a pooled connection was used.
    pub(super) connect: Option<Duration>,
    pub(super) headers_at: Option<Instant>,
    /// The pick's outcome was told.
    pub(super) reported: bool,
    /// The try ends by the rule's own timeout, not by the listener's.
    pub(super) backend_timeout: bool,
    /// When the try must be over.
    pub(super) deadline: Option<Instant>,
    /// From the request's end to the response's header section; `None` where the rule's own timeouts bound both.
    pub(super) head_patience: Option<Duration>,
    /// Until when the endpoint is waited for.
    pub(super) wait: Option<Deadline>,
}

impl RequestContext {
    pub(super) fn new() -> Self {
        RequestContext {
            snapshot: None,
            started: Instant::now(),
            listener: None,
            rule: None,
            in_flight: None,
            client: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            tls: false,
            grpc: false,
            websocket: false,
            prefix: Some(0),
            raw_target: None,
            backend: None,
            chosen: None,
            finds_route: false,
            session: None,
            refused: None,
            reason: Reason::Upstream,
            body_limit: None,
            deadline: None,
            replayed: None,
            completed: None,
            answering: None,
            ends_apart: false,
            upstream: Upstream::default(),
            tries: Tries::default(),
            plugins: None,
            mirrors: None,
            answer_changes: None,
            held: None,
            request_unsent: super::body::Unsent::default(),
            response_unsent: super::body::Unsent::default(),
            body_passed: false,
            bodiless: false,
            cors: super::cors::Verdict::default(),
            answered_at: None,
            tunnel: false,
            trace: None,
        }
    }

    /// The backend that was drawn, or chosen.
    pub(super) fn backend_ref(&self) -> Option<&BackendRef> {
        if let Some(chosen) = &self.chosen {
            return Some(chosen);
        }
        self.rule.as_ref()?.backends.get(self.backend?)
    }

    /// The filters of the backend that was drawn.
    pub(super) fn backend_filters(&self) -> Option<&sluice_model::config::Filters> {
        let sluice_model::config::Action::Forward(backends) = &self.rule.as_ref()?.config.action else { return None };
        backends.get(self.backend?).map(|backend| &*backend.filters)
    }

    /// Takes the plugins from where they are.
    pub(super) fn take_plugins(&mut self) -> Option<Box<PluginRun>> {
        self.plugins.take().or_else(|| self.answering.as_ref()?.plugins.take())
    }

    /// Puts them back.
    pub(super) fn give_plugins(&mut self, plugins: Box<PluginRun>) {
        match &self.answering {
            Some(answering) => answering.plugins.put(plugins),
            None => self.plugins = Some(plugins),
        }
    }

    /// What is left until the deadline; zero when it has passed.
    pub(super) fn left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Whether the whole exchange, or the present try, has taken too long.
    pub(super) fn expired(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }
}
