//! A port that is bound: the state that new connections see, how many there are, and the way it closes.

use super::connection::EdgeObserver;
use super::held::Budget;
use super::metrics::{DownstreamMetrics, PortMetrics};
use super::port::PortState;
use arc_swap::ArcSwap;
use sluice_model::config::Transport;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// How far a port has gone in closing. It never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Serving,
    /// Responses say `Connection: close`, HTTP/2 has been sent GOAWAY; idle HTTP/1 connections may still send the
    /// request that they may have begun to write.
    Draining,
    /// Idle connections are closed, WebSockets are told to go away (1001).
    Closing,
    /// What is left is cut.
    Closed,
}

/// Of the whole drain time, the part after which idle connections and tunnels are told to end. What is left is for
/// them to do so.
const CLOSING_AFTER: (u32, u32) = (3, 4);

/// What all ports share.
pub(super) struct Shared {
    /// Open connections of all ports.
    open: AtomicUsize,
    /// Their limit.
    limit: usize,
    /// Sessions of all UDP ports.
    sessions: AtomicUsize,
    /// Bytes of header sections.
    pub(super) headers: Arc<Budget>,
    /// Bytes of responses that wait behind shut windows.
    pub(super) waiting: Arc<Budget>,
    /// Connections that were cut at the end of a drain.
    cut: AtomicUsize,
    /// Woken whenever a connection ends.
    ended: Notify,
    pub(super) observer: Arc<dyn EdgeObserver>,
    pub(super) metrics: DownstreamMetrics,
}

impl Shared {
    pub(super) fn new(
        limit: usize,
        max_header_bytes: u64,
        max_waiting_bytes: u64,
        observer: Arc<dyn EdgeObserver>,
        metrics: DownstreamMetrics,
    ) -> Self {
        Shared {
            open: AtomicUsize::new(0),
            limit,
            sessions: AtomicUsize::new(0),
            headers: Budget::new(max_header_bytes, metrics.held("header_bytes")),
            waiting: Budget::new(max_waiting_bytes, metrics.held("send_bytes")),
            cut: AtomicUsize::new(0),
            ended: Notify::new(),
            observer,
            metrics,
        }
    }

    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    pub(super) fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Acquire)
    }

    pub(super) fn note_cut(&self, connections: usize) {
        self.cut.fetch_add(connections, Ordering::AcqRel);
    }

    pub(super) fn cut(&self) -> usize {
        self.cut.load(Ordering::Acquire)
    }

    /// A connection has ended, or a socket was let go of.
    pub(super) fn note_end(&self) {
        self.ended.notify_waiters();
    }

    /// Resolves once `condition` holds. It is asked again whenever a connection ends or a socket is let go of.
    pub(super) async fn until(&self, condition: impl Fn() -> bool) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if condition() {
                return;
            }
            ended.await;
        }
    }
}

pub(super) struct OpenPort {
    pub(super) address: SocketAddr,
    state: ArcSwap<PortState>,
    pub(super) metrics: PortMetrics,
    pub(super) shared: Arc<Shared>,
    open: AtomicU32,
    /// Sockets, those of all workers together, and how many of them have been emptied and closed.
    handles: usize,
    let_go: AtomicUsize,
    /// `Some` from the moment that nothing more is to be accepted: how long draining may take.
    stop: watch::Sender<Option<Duration>>,
    phase: watch::Sender<Phase>,
    /// The same as `phase >= Draining`, in the form that the engine takes.
    draining: watch::Sender<bool>,
}

impl OpenPort {
    /// `handles`: how many sockets all workers together will accept on.
    pub(super) fn new(state: Arc<PortState>, handles: usize, shared: Arc<Shared>) -> Self {
        let (transport, address) = state.place();
        let label = match transport {
            Transport::Tcp => address.to_string(),
            Transport::Udp => format!("{address}/udp"),
        };
        OpenPort {
            address,
            state: ArcSwap::new(state),
            metrics: shared.metrics.port(&label),
            shared,
            open: AtomicU32::new(0),
            handles,
            let_go: AtomicUsize::new(0),
            stop: watch::Sender::new(None),
            phase: watch::Sender::new(Phase::Serving),
            draining: watch::Sender::new(false),
        }
    }

    /// A worker has emptied the queue of its socket and closed it.
    pub(super) fn note_let_go(&self) {
        self.let_go.fetch_add(1, Ordering::AcqRel);
        self.shared.note_end();
    }

    /// Whether every worker has done so: nothing waits in a queue that nobody has counted.
    pub(super) fn is_let_go(&self) -> bool {
        self.let_go.load(Ordering::Acquire) >= self.handles
    }

    pub(super) fn state(&self) -> Arc<PortState> {
        self.state.load_full()
    }

    pub(super) fn set_state(&self, state: Arc<PortState>) {
        self.state.store(state);
    }

    /// Ends accepting, once what waits in the sockets' queues has been accepted, and begins draining.
    pub(super) fn stop(&self, drain: Duration) {
        self.stop.send_if_modified(|stop| {
            let first = stop.is_none();
            *stop = Some(stop.map_or(drain, |former| former.min(drain)));
            first
        });
        self.advance(Phase::Draining);
    }

    /// Resolves once nothing more is to be accepted, with the time that draining may take.
    pub(super) async fn stopped(&self) -> Duration {
        let mut stop = self.stop.subscribe();
        loop {
            if let Some(drain) = *stop.borrow_and_update() {
                return drain;
            }
            if stop.changed().await.is_err() {
                return Duration::ZERO;
            }
        }
    }

    /// Walks through the rest of the phases, in `drain` from now.
    pub(super) async fn drain(&self, drain: Duration) {
        let (part, whole) = CLOSING_AFTER;
        let patience = drain * part / whole;
        tokio::time::sleep(patience).await;
        self.advance(Phase::Closing);
        tokio::time::sleep(drain.saturating_sub(patience)).await;
        self.advance(Phase::Closed);
    }

    pub(super) fn advance(&self, phase: Phase) {
        self.phase.send_if_modified(|current| {
            let forward = *current < phase;
            *current = phase.max(*current);
            forward
        });
        self.draining.send_if_modified(|draining| !std::mem::replace(draining, phase >= Phase::Draining));
    }

    pub(super) fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    pub(super) fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    pub(super) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Resolves once the port has come as far as `phase`. Owns what it needs, so that it can be kept.
    pub(super) fn reaches(self: &Arc<Self>, phase: Phase) -> impl Future<Output = ()> + Send + Sync + 'static {
        let mut receiver = self.phase.subscribe();
        async move {
            // The sender lives in the port, which every connection holds.
            let _ = receiver.wait_for(|current| *current >= phase).await;
        }
    }

    /// A place for one more connection, or the name of the limit that is reached.
    pub(super) fn admit(self: &Arc<Self>) -> Result<ConnectionPermit, &'static str> {
        let limit = self.state.load().config.edge.limits.connections;
        if self.open.fetch_add(1, Ordering::AcqRel) >= limit {
            self.open.fetch_sub(1, Ordering::AcqRel);
            return Err("connections");
        }
        if self.shared.open.fetch_add(1, Ordering::AcqRel) >= self.shared.limit {
            self.open.fetch_sub(1, Ordering::AcqRel);
            self.shared.open.fetch_sub(1, Ordering::AcqRel);
            return Err("total_connections");
        }
        self.metrics.accepted.inc();
        self.metrics.connections.inc();
        Ok(ConnectionPermit { port: self.clone() })
    }
}

impl OpenPort {
    /// A place for one more session of datagrams, unless the port's limit is reached.
    pub(super) fn admit_session(self: &Arc<Self>) -> Option<SessionPermit> {
        let limit = self.state.load().config.edge.limits.udp_sessions;
        if self.open.fetch_add(1, Ordering::AcqRel) >= limit {
            self.open.fetch_sub(1, Ordering::AcqRel);
            self.metrics.all.limit("udp_sessions");
            return None;
        }
        self.shared.sessions.fetch_add(1, Ordering::AcqRel);
        self.metrics.accepted.inc();
        self.metrics.connections.inc();
        Some(SessionPermit(self.clone()))
    }
}

/// One session's place in the limit, for as long as it may pass datagrams.
pub(crate) struct SessionPermit(Arc<OpenPort>);

impl std::fmt::Debug for SessionPermit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SessionPermit").field(&self.0.address).finish()
    }
}

impl Drop for SessionPermit {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
        self.0.metrics.connections.dec();
        self.0.shared.sessions.fetch_sub(1, Ordering::AcqRel);
        self.0.shared.note_end();
    }
}

/// One connection's place in the limits, for as long as its socket is open.
pub(super) struct ConnectionPermit {
    port: Arc<OpenPort>,
}

impl std::fmt::Debug for ConnectionPermit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ConnectionPermit").field(&self.port.address).finish()
    }
}

impl ConnectionPermit {
    pub(super) fn port(&self) -> &Arc<OpenPort> {
        &self.port
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.port.open.fetch_sub(1, Ordering::AcqRel);
        self.port.metrics.connections.dec();
        self.port.shared.open.fetch_sub(1, Ordering::AcqRel);
        self.port.shared.note_end();
    }
}
