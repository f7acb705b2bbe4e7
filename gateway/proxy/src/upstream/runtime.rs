//! A backend as a request sees it, and the request's place in it.

use super::background::Background;
use super::balance::{Candidates, PickError, PickRequest};
use super::clock::Clock;
use super::endpoint::{EndpointState, InFlight};
use super::failure::{Failure, Outcome};
use super::load::{RequestGuard, RetryPermit};
use super::metrics::BackendMetrics;
use super::outlier::Ejector;
use super::tls::BackendTlsError;
use super::transport::{Opened, Transport, TransportResult};
use crate::session::EndpointTags;
use arc_swap::ArcSwap;
use pingora_core::upstreams::peer::HttpPeer;
use sluice_model::config::{Backend, BackendKey, EndpointId, EndpointSource};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::watch;

/// How long an unused connection is kept, where the policy does not say.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Streams of one HTTP/2 connection to an endpoint; the endpoint's own limit counts as well.
const H2_STREAMS: usize = 100;
/// Bytes that may wait in the gateway for a slow client, for each stream and each connection to an endpoint.
const H2_STREAM_WINDOW: u32 = 1 << 20;
const H2_CONNECTION_WINDOW: u32 = 16 << 20;

/// What outlives a snapshot: one for each key, shared by the [`BackendRuntime`]s of all snapshots that name it.
#[derive(Debug)]
pub(super) struct BackendState {
    pub(super) backend: Arc<Backend>,
    pub(super) transport: TransportResult,
    pub(super) metrics: Arc<BackendMetrics>,
    pub(super) clock: Clock,
    /// Those of the newest endpoint set: what active checks look at, and what picks use where a name is resolved.
    pub(super) current: ArcSwap<Candidates>,
    /// Whether there is anything to wait for: false until a backend's name was resolved, or failed to be, once.
    settled: watch::Sender<bool>,
    cursor: AtomicUsize,
    ejector: Ejector,
    pub(super) tags: EndpointTags,
    /// Set once, right after the state is made: they refer to it.
    pub(super) tasks: OnceLock<Vec<Background>>,
    /// The registry's count of what may have ended since it last looked.
    ended: Arc<AtomicUsize>,
}

impl Drop for BackendState {
    fn drop(&mut self) {
        self.ended.fetch_add(1 + self.current.load().endpoints().len(), Relaxed);
    }
}

impl BackendState {
    pub(super) fn new(
        backend: Arc<Backend>,
        transport: TransportResult,
        metrics: Arc<BackendMetrics>,
        clock: Clock,
        tags: EndpointTags,
        ended: Arc<AtomicUsize>,
    ) -> Self {
        BackendState {
            transport,
            metrics,
            clock,
            settled: watch::Sender::new(!matches!(backend.source, EndpointSource::Dns { .. })),
            backend,
            current: ArcSwap::default(),
            // Many gateways that start together do not all begin with the first endpoint.
            cursor: AtomicUsize::new(fastrand::usize(..1 << 16)),
            ejector: Ejector::default(),
            tags,
            tasks: OnceLock::new(),
            ended,
        }
    }

    pub(super) fn set_current(&self, candidates: Arc<Candidates>) {
        self.metrics.endpoints.set(i64::try_from(candidates.endpoints().len()).unwrap_or(i64::MAX));
        self.current.store(candidates);
    }

    /// A try has its endpoint.
    fn tried(&self) {
        if let Some(constraint) = &self.backend.policy.retry_constraint {
            self.metrics.load.tried(constraint, &self.clock);
        }
    }

    /// What is known of an address that the backend's name has just come to mean.
    pub(super) fn endpoint(&self, address: SocketAddr) -> EndpointState {
        let id = EndpointId { target: Arc::from(""), address: address.ip(), port: address.port() };
        EndpointState::new(address, self.tags.of(&id))
    }

    pub(super) fn settle(&self) {
        self.settled.send_if_modified(|settled| !std::mem::replace(settled, true));
    }
}

/// One backend in one snapshot.
#[derive(Debug)]
pub struct BackendRuntime {
    pub(super) state: Arc<BackendState>,
    /// `None`: the newest resolution of the backend's name.
    pub(super) candidates: Option<Arc<Candidates>>,
    /// Also those that take no requests now: their state must not be lost meanwhile.
    pub(super) members: Box<[Arc<EndpointState>]>,
}

impl Drop for BackendRuntime {
    fn drop(&mut self) {
        self.state.ended.fetch_add(1 + self.members.len(), Relaxed);
    }
}

impl BackendRuntime {
    pub fn key(&self) -> &BackendKey {
        &self.state.backend.key
    }

    /// The configuration behind this backend.
    pub fn config(&self) -> &Arc<Backend> {
        &self.state.backend
    }

    /// Why the backend's TLS cannot be set up; every pick answers [`PickError::Tls`] then.
    pub fn tls_error(&self) -> Option<&BackendTlsError> {
        self.state.transport.as_ref().err()
    }

    /// An endpoint for a request, and the request's place in the backend's limits.
    ///
    /// # Errors
    /// [`PickError`]: no endpoints, a circuit breaker's limit, or a TLS policy that cannot be used.
    pub fn pick(&self, request: &PickRequest<'_>) -> Result<Pick, PickError> {
        let state = &self.state;
        let transport = state.transport.as_ref().map_err(|_| PickError::Tls)?;
        let policy = &state.backend.policy;
        let place = RequestGuard::acquire(&state.metrics, &policy.circuit_breaker).map_err(|_| PickError::Overflow)?;
        let from = |candidates: &Candidates| {
            candidates.pick(request, policy, &state.cursor, &state.clock, &state.metrics).cloned()
        };
        let endpoint = match &self.candidates {
            Some(candidates) => from(candidates),
            None => from(&state.current.load()),
        };
        let endpoint = endpoint.ok_or(PickError::NoEndpoints)?;
        state.tried();
        Ok(Pick::new(state.clone(), transport.clone(), endpoint, place))
    }

    /// The endpoint of a client's session. `None`: the backend has none of that tag, or it takes no requests now.
    pub(crate) fn resume(&self, request: &PickRequest<'_>, tag: u64) -> Option<Result<Pick, PickError>> {
        let state = &self.state;
        let policy = &state.backend.policy;
        let from =
            |candidates: &Candidates| candidates.resume(tag, request, policy, &state.clock, &state.metrics).cloned();
        let endpoint = match &self.candidates {
            Some(candidates) => from(candidates)?,
            None => from(&state.current.load())?,
        };
        let Ok(transport) = &state.transport else { return Some(Err(PickError::Tls)) };
        let Ok(place) = RequestGuard::acquire(&state.metrics, &policy.circuit_breaker) else {
            return Some(Err(PickError::Overflow));
        };
        state.tried();
        Some(Ok(Pick::new(state.clone(), transport.clone(), endpoint, place)))
    }

    /// Whether an endpoint takes new requests as the configuration has it, be it ejected or unhealthy at the moment.
    pub(crate) fn leads_to(&self, address: SocketAddr) -> bool {
        let has = |candidates: &Candidates| candidates.widest().endpoints().iter().any(|e| e.is_at(address));
        match &self.candidates {
            Some(candidates) => has(candidates),
            None => has(&self.state.current.load()),
        }
    }

    /// Waits until the backend's name has been resolved for the first time, at most `limit`. At once for every other
    /// backend, and from then on. For a [`PickError::NoEndpoints`] of a backend that has just come: pick again after it.
    pub async fn settled(&self, limit: Duration) {
        let mut settled = self.state.settled.subscribe();
        // Either way the next pick tells how it is.
        let _ = tokio::time::timeout(limit, settled.wait_for(|settled| *settled)).await;
    }

    /// A place in the budget for a further try: by the backend's own constraint, else `budget_percent` of its requests in
    /// flight, and always 10. `None`: the budget is spent; what happened so far is the answer, but for a constraint, of which
    /// the client is told ([`BackendRuntime::constrains_retries`]).
    pub fn retry_permit(&self, budget_percent: u8) -> Option<RetryPermit> {
        let state = &self.state;
        match &state.backend.policy.retry_constraint {
            Some(constraint) => RetryPermit::within(&state.metrics, constraint, &state.clock),
            None => RetryPermit::acquire(&state.metrics, budget_percent),
        }
    }

    /// Whether the backend has a constraint of its own (XBackendTrafficPolicy).
    pub fn constrains_retries(&self) -> bool {
        self.state.backend.policy.retry_constraint.is_some()
    }
}

/// What a request asks of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    /// TCP and TLS together; the backend policy's own replaces it.
    pub connect_timeout: Duration,
    /// Longest pause of the response's body. How long the response may take to begin is the request's
    /// [`super::Deadline`].
    pub read_timeout: Option<Duration>,
    /// Longest wait for each piece of the request to be taken.
    pub write_timeout: Option<Duration>,
    /// For requests that upgrade their connection (WebSocket), which HTTP/2 connections can't.
    pub http1_only: bool,
}

/// An endpoint, and how it is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PoolKey {
    transport: u64,
    address: SocketAddr,
}

/// One try's endpoint. Dropping it ends the try for all counters.
#[derive(Debug)]
#[must_use = "the counters count as long as the pick is held"]
pub struct Pick {
    state: Arc<BackendState>,
    transport: Arc<Transport>,
    endpoint: InFlight,
    address: SocketAddr,
    place: RequestGuard,
}

impl Pick {
    fn new(
        state: Arc<BackendState>,
        transport: Arc<Transport>,
        endpoint: Arc<EndpointState>,
        place: RequestGuard,
    ) -> Self {
        let address = endpoint.target();
        Pick { state, transport, endpoint: InFlight::new(endpoint), address, place }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What stands for the endpoint in clients' sessions.
    pub(crate) fn tag(&self) -> u64 {
        self.endpoint.endpoint().tag
    }

    /// The endpoint as the engine wants it.
    pub fn peer(&self, settings: &PeerSettings) -> Box<HttpPeer> {
        let policy = &self.state.backend.policy;
        // The server name is the transport's; here it would only be copied and hashed.
        let mut peer = Box::new(HttpPeer::new(self.address(), self.transport.is_tls(), String::new()));
        peer.group_key = self.transport.id;
        let options = &mut peer.options;
        options.alpn = self.transport.peer_alpn(settings.http1_only);
        options.total_connection_timeout = Some(policy.connect_timeout.unwrap_or(settings.connect_timeout));
        options.read_timeout = settings.read_timeout;
        options.write_timeout = settings.write_timeout;
        options.idle_timeout = Some(policy.idle_timeout.unwrap_or(IDLE_TIMEOUT));
        options.max_h2_streams = H2_STREAMS;
        options.h2_stream_window_size = Some(H2_STREAM_WINDOW);
        options.h2_connection_window_size = Some(H2_CONNECTION_WINDOW);
        peer
    }

    /// What connections outside of the engine's pools are the same for.
    pub(crate) fn pool_key(&self) -> PoolKey {
        PoolKey { transport: self.transport.id, address: self.address() }
    }

    /// A connection to the endpoint outside of the engine's pools: for copies of requests and calls of plugins, which the
    /// engine does not send.
    pub(crate) async fn open(&self) -> pingora_core::Result<Opened> {
        self.transport.open(self.address()).await
    }

    /// A socket whose datagrams go to the endpoint, and that hears nobody else. It does not block.
    pub(crate) fn datagrams(&self) -> io::Result<UdpSocket> {
        let address = self.address();
        let kind = Type::DGRAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::UDP))?;
        socket.connect(&address.into())?;
        Ok(socket.into())
    }

    /// The request has a connection: it no longer counts as pending.
    pub fn connected(&mut self) {
        self.place.connected();
    }

    /// How the try ended. Call it once, at the response's header section or at the failure.
    pub fn report(&self, outcome: Outcome) {
        let policy = &self.state.backend.policy.outlier;
        let endpoint = self.endpoint.endpoint();
        if let Outcome::Failed(Failure::Connect | Failure::ConnectTimeout) = outcome {
            endpoint.turn_from(self.address);
        }
        match outcome.verdict(policy.server_errors) {
            Some(true) => Ejector::success(endpoint, policy, &self.state.clock),
            Some(false) => {
                let all = self.state.current.load();
                if let Some(length) = self.state.ejector.failure(endpoint, all.endpoints(), policy, &self.state.clock) {
                    self.state.metrics.ejections.inc();
                    tracing::warn!(
                        backend = self.state.metrics.label(),
                        endpoint = %self.address,
                        seconds = length.as_secs(),
                        "endpoint ejected: its requests fail in a row"
                    );
                }
            }
            None => {}
        }
    }
}
