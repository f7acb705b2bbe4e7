//! What is noted of a sampled request.

use super::parent::TraceParent;
use super::tracer::Tracer;
use ::http::{HeaderValue, Method};
use sluice_model::Reason;
use sluice_model::plugin::PluginKey;
use smallvec::SmallVec;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// The trace of a sampled request, while it runs.
#[derive(Debug)]
pub(crate) struct Trace {
    tracer: Arc<Tracer>,
    /// The request's own span.
    pub(super) span: TraceParent,
    /// The span that a trusted peer named.
    pub(super) parent: Option<u64>,
    /// The peer's `tracestate`.
    pub(super) state: Option<HeaderValue>,
    /// What the path was matched by.
    pub(crate) route: Option<Arc<str>>,
    pub(super) tries: SmallVec<[Try; 1]>,
    pub(super) phases: Vec<Phase>,
}

/// One try of an endpoint.
#[derive(Debug)]
pub(super) struct Try {
    pub(super) span: u64,
    pub(super) endpoint: SocketAddr,
    pub(super) began: Instant,
    /// `None`: with the request.
    pub(super) ended: Option<Instant>,
    /// 0 where no answer came.
    pub(super) status: u16,
    pub(super) failure: Option<Reason>,
}

/// One call of a plugin.
#[derive(Debug)]
pub(super) struct Phase {
    pub(super) span: u64,
    pub(super) plugin: PluginKey,
    pub(super) phase: &'static str,
    pub(super) outcome: &'static str,
    pub(super) failed: bool,
    pub(super) began: Instant,
    pub(super) ended: Instant,
}

/// What came of a plugin's call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Called {
    /// As the label `phase` of the metrics.
    pub(crate) phase: &'static str,
    /// As the label `outcome`.
    pub(crate) outcome: &'static str,
    pub(crate) failed: bool,
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
}

impl Trace {
    pub(crate) fn new(
        tracer: &Arc<Tracer>,
        span: TraceParent,
        parent: Option<TraceParent>,
        state: Option<HeaderValue>,
    ) -> Box<Self> {
        Box::new(Trace {
            tracer: tracer.clone(),
            span,
            parent: parent.map(|parent| parent.span),
            state,
            route: None,
            tries: SmallVec::new(),
            phases: Vec::new(),
        })
    }

    pub(crate) fn begin_try(&mut self, endpoint: SocketAddr) {
        let span = self.span.child().span;
        self.tries.push(Try { span, endpoint, began: Instant::now(), ended: None, status: 0, failure: None });
    }

    /// The `traceparent` of the present try, where `sent` is still of this trace: a plugin may have taken the field out,
    /// or written its own.
    pub(crate) fn for_try(&self, sent: Option<&HeaderValue>) -> Option<HeaderValue> {
        let sent = TraceParent::parse(sent?.as_bytes())?;
        let last = self.tries.last()?;
        (sent.trace == self.span.trace).then(|| TraceParent { span: last.span, ..self.span }.value())
    }

    pub(crate) fn try_answered(&mut self, status: u16) {
        if let Some(last) = self.tries.last_mut() {
            last.status = status;
        }
    }

    /// The present try is over; another may follow.
    pub(crate) fn end_try(&mut self, failure: Option<Reason>) {
        if let Some(last) = self.tries.last_mut().filter(|last| last.ended.is_none()) {
            last.ended = Some(Instant::now());
            last.failure = failure;
        }
    }

    pub(crate) fn called(&mut self, plugin: &PluginKey, called: Called) {
        let Called { phase, outcome, failed, began, ended } = called;
        let span = self.span.child().span;
        let plugin = plugin.clone();
        self.phases.push(Phase { span, plugin, phase, outcome, failed, began, ended });
    }

    /// Hands everything over, or drops and counts it. Never waits.
    pub(crate) fn end(self: Box<Self>, server: Server) {
        let tracer = self.tracer.clone();
        tracer.exporter.take(Box::new(Ended { trace: self, server }));
    }
}

/// A request whose spans are to be sent.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(super) trace: Box<Trace>,
    pub(super) server: Server,
}

impl Ended {
    /// How many spans there are of it.
    pub(super) fn len(&self) -> usize {
        1 + self.trace.tries.len() + self.trace.phases.len()
    }
}

/// The request itself, at its end.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) began: SystemTime,
    /// The same instant as `began`.
    pub(crate) started: Instant,
    pub(crate) duration: Duration,
    pub(crate) method: Method,
    pub(crate) scheme: &'static str,
    /// Without a port. Empty where the request named none.
    pub(crate) host: Box<str>,
    pub(crate) port: u16,
    /// As the client sent it, without the query.
    pub(crate) path: Box<str>,
    /// `1.0`, `1.1` or `2`.
    pub(crate) protocol: &'static str,
    pub(crate) client: IpAddr,
    /// Empty where there was none.
    pub(crate) user_agent: Box<str>,
    /// 0 where no answer was begun.
    pub(crate) status: u16,
    pub(crate) reason: Reason,
    /// It became a tunnel.
    pub(crate) tunnel: bool,
    pub(crate) listener: Arc<str>,
    /// Route and rule.
    pub(crate) rule: Option<(Arc<str>, Arc<str>)>,
    pub(crate) backend: Option<Arc<str>>,
}
