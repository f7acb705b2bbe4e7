//! State by identity over snapshots.
//!
//! Owned by whoever assembles snapshots: it is changed by `&mut`, so no lock is needed, and requests never see it. It
//! holds everything weakly: what no snapshot and no request uses any more is gone.

use super::background::Background;
use super::balance::Candidates;
use super::clock::Clock;
use super::connector::UpstreamConnector;
use super::endpoint::{EndpointKey, EndpointState};
use super::metrics::{BackendMetrics, UpstreamMetrics};
use super::resolve::{AddressGuard, Resolver};
use super::runtime::{BackendRuntime, BackendState};
use super::tls::{BackendTlsError, TlsClient};
use super::transport::{TransportResult, Transports};
use super::{health, resolve};
use crate::session::{EndpointTags, SessionSecret};
use foldhash::{HashMap, HashMapExt};
use sluice_model::config::{
    Backend, BackendKey, Certificate, CertificateKey, EndpointId, EndpointSet, EndpointSource, Locality,
};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use tokio::runtime::Handle;

pub struct RegistryOptions {
    /// Where active checks and name resolution run: not a runtime of the data plane.
    pub background: Handle,
    pub metrics: UpstreamMetrics,
    /// What names of ExternalName Services may not resolve to.
    pub guard: AddressGuard,
    /// HTTP/2 connections over TLS that an engine keeps idle, over all backends. Default 1,024.
    pub idle_connections: usize,
    /// What stands for endpoints in clients' sessions is made with this.
    pub sessions: SessionSecret,
}

impl RegistryOptions {
    pub fn new(background: Handle, metrics: UpstreamMetrics, guard: AddressGuard) -> Self {
        let sessions = SessionSecret::of_cluster();
        RegistryOptions { background, metrics, guard, idle_connections: 1_024, sessions }
    }
}

pub struct Registry {
    options: RegistryOptions,
    guard: Arc<AddressGuard>,
    clock: Clock,
    resolver: Resolver,
    transports: Transports,
    backends: HashMap<BackendKey, Slot>,
    endpoints: HashMap<EndpointKey, Weak<EndpointState>>,
    metrics: HashMap<String, Weak<BackendMetrics>>,
    /// Where the gateway runs.
    locality: Locality,
    /// Grows by what each dropped [`BackendRuntime`] and [`BackendState`] referred to: about as many may have ended.
    ended: Arc<AtomicUsize>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("backends", &self.backends.len())
            .field("endpoints", &self.endpoints.len())
            .finish_non_exhaustive()
    }
}

/// What a backend without a set has.
static NO_ENDPOINTS: EndpointSet = EndpointSet { endpoints: Vec::new() };

/// The sweep looks at all entries, so it waits until one in so many may be dead.
const SWEEP_SHARE: usize = 8;

#[derive(Default)]
struct Slot {
    state: Weak<BackendState>,
    /// What was made last, and of which endpoint set.
    runtime: Weak<BackendRuntime>,
    endpoints: Option<Weak<EndpointSet>>,
    /// Logged once, not at each reload.
    error: Option<BackendTlsError>,
}

impl Registry {
    pub fn new(options: RegistryOptions) -> Self {
        Registry::with_clock(options, Clock::monotonic())
    }

    pub(super) fn with_clock(options: RegistryOptions, clock: Clock) -> Self {
        let guard = Arc::new(options.guard.clone());
        Registry {
            options,
            guard,
            clock,
            resolver: Resolver::system(),
            transports: Transports::default(),
            backends: HashMap::new(),
            endpoints: HashMap::new(),
            metrics: HashMap::new(),
            locality: Locality::default(),
            ended: Arc::default(),
        }
    }

    #[cfg(test)]
    pub(super) fn set_resolver(&mut self, resolver: Resolver) {
        self.resolver = resolver;
    }

    /// A connector for one engine. All connectors of a registry know the same backends; their pools are their own.
    pub fn connector(&self) -> UpstreamConnector {
        UpstreamConnector::new(self.transports.clone(), self.options.idle_connections)
    }

    /// From now on hints of endpoints are held against this place. Says whether it is another than before: then every
    /// backend is to be asked for again.
    pub fn set_locality(&mut self, locality: &Locality) -> bool {
        let moved = self.locality != *locality;
        if moved {
            self.locality = locality.clone();
            self.backends.values_mut().for_each(|slot| slot.runtime = Weak::new());
        }
        moved
    }

    /// The backend for the next snapshot. The same `Arc` as before where neither configuration nor endpoints changed;
    /// else a new one on top of the same state, as far as identities are the same.
    ///
    /// `endpoints` is the set that [`EndpointSource::Slices`] names, `None` where there is none; `certificates` are the
    /// configuration's, for the client certificate.
    pub fn backend(
        &mut self,
        backend: &Arc<Backend>,
        endpoints: Option<&Arc<EndpointSet>>,
        certificates: &BTreeMap<CertificateKey, Arc<Certificate>>,
    ) -> Arc<BackendRuntime> {
        let slot = self.backends.get(&backend.key);
        let before = slot.and_then(|slot| slot.state.upgrade()).filter(|state| {
            state.transport.is_ok() && (Arc::ptr_eq(&state.backend, backend) || *state.backend == **backend)
        });
        if before.is_some()
            && let Some(slot) = slot
            && let Some(runtime) = slot.runtime.upgrade()
            && slot.endpoints.as_ref().map(Weak::as_ptr) == endpoints.map(Arc::as_ptr)
        {
            return runtime;
        }
        let first = before.is_none();
        let state = before.unwrap_or_else(|| self.state(backend, certificates));
        let runtime = Arc::new(self.runtime(state, endpoints, first));
        let slot = self.backends.entry(backend.key.clone()).or_default();
        slot.state = Arc::downgrade(&runtime.state);
        slot.runtime = Arc::downgrade(&runtime);
        slot.endpoints = endpoints.map(Arc::downgrade);
        runtime
    }

    /// Forgets what nothing uses any more. Call it after each swap of the snapshot: it does something only once an
    /// eighth of what is kept may be dead, so that one changed endpoint does not cost a look at all of them. What is
    /// dead meanwhile is empty: series, tasks and connections ended with it.
    pub fn sweep(&mut self) {
        let kept = self.backends.len() + self.endpoints.len();
        if self.ended.load(Relaxed) * SWEEP_SHARE < kept {
            return;
        }
        self.ended.store(0, Relaxed);
        self.backends.retain(|_, slot| slot.state.strong_count() > 0);
        self.endpoints.retain(|_, endpoint| endpoint.strong_count() > 0);
        self.metrics.retain(|_, metrics| metrics.strong_count() > 0);
        self.transports.sweep();
    }

    /// Endpoints and backends whose state is kept.
    #[cfg(test)]
    pub(super) fn kept(&self) -> (usize, usize) {
        (self.endpoints.len(), self.backends.len())
    }

    fn state(
        &mut self,
        backend: &Arc<Backend>,
        certificates: &BTreeMap<CertificateKey, Arc<Certificate>>,
    ) -> Arc<BackendState> {
        let label = backend.key.to_string();
        let metrics = match self.metrics.get(&label).and_then(Weak::upgrade) {
            Some(metrics) => metrics,
            None => {
                let metrics = self.options.metrics.backend(label.clone());
                self.metrics.insert(label.clone(), Arc::downgrade(&metrics));
                metrics
            }
        };
        let transport = self.transport(backend, certificates, &metrics);
        let slot = self.backends.entry(backend.key.clone()).or_default();
        let error = transport.as_ref().err().cloned();
        if slot.error != error {
            if let Some(error) = &error {
                tracing::warn!(backend = label, %error, "TLS to the backend cannot be set up; its requests get 502");
            }
            slot.error = error;
        }
        let tags = EndpointTags::new(&self.options.sessions, &backend.key);
        let (clock, ended) = (self.clock.clone(), self.ended.clone());
        let state = Arc::new(BackendState::new(backend.clone(), transport, metrics, clock, tags, ended));
        let mut tasks = Vec::new();
        if backend.policy.health_check.is_some() {
            let weak = Arc::downgrade(&state);
            tasks.push(self.task("health", label.clone(), move || health::run(weak.clone())));
        }
        if let EndpointSource::Dns { host, port } = &backend.source {
            self.take_addresses(&state);
            let (weak, host, port) = (Arc::downgrade(&state), host.clone(), *port);
            let (resolver, guard) = (self.resolver.clone(), self.guard.clone());
            tasks.push(self.task("resolve", label, move || {
                resolve::run(weak.clone(), host.clone(), port, resolver.clone(), guard.clone())
            }));
        }
        // The state is new: nothing is set yet.
        let _ = state.tasks.set(tasks);
        state
    }

    /// Another policy for the same name: it begins with the addresses that are known, and what is known of them.
    fn take_addresses(&self, state: &BackendState) {
        let mut known = self.backends.values().filter_map(|slot| slot.state.upgrade());
        let Some(known) = known.find(|known| known.backend.source == state.backend.source) else { return };
        let same_check = known.backend.policy.health_check == state.backend.policy.health_check;
        let known = known.current.load();
        let fresh = |known: &Arc<EndpointState>| Arc::new(EndpointState::new(known.address, known.tag));
        let take = |known: &Arc<EndpointState>| if same_check { known.clone() } else { fresh(known) };
        let endpoints: Vec<_> = known.endpoints().iter().map(take).collect();
        if !endpoints.is_empty() {
            state.set_current(Arc::new(Candidates::new(endpoints, &state.backend.policy.load_balancer)));
            state.settle();
        }
    }

    fn task<F: Future<Output = ()> + Send + 'static>(
        &self,
        name: &'static str,
        backend: String,
        run: impl FnMut() -> F + Send + 'static,
    ) -> Background {
        Background::spawn(&self.options.background, name, backend, &self.options.metrics, run)
    }

    fn transport(
        &self,
        backend: &Backend,
        certificates: &BTreeMap<CertificateKey, Arc<Certificate>>,
        metrics: &Arc<BackendMetrics>,
    ) -> TransportResult {
        let tls = match &backend.tls {
            Some(tls) => {
                let certificate = tls.client_certificate.as_ref().and_then(|key| certificates.get(key));
                Some(TlsClient::new(tls, certificate.map(|c| &**c))?)
            }
            None => None,
        };
        let limits = backend.policy.circuit_breaker.clone();
        Ok(self.transports.create(backend.protocol, tls, limits, metrics.clone()))
    }

    /// `first`: nothing of the backend was there before, so that no endpoint is newer than another.
    fn runtime(
        &mut self,
        state: Arc<BackendState>,
        endpoints: Option<&Arc<EndpointSet>>,
        first: bool,
    ) -> BackendRuntime {
        let policy = &state.backend.policy.load_balancer;
        let set = match &state.backend.source {
            EndpointSource::Slices(_) => endpoints.map_or(&NO_ENDPOINTS, |set| set),
            EndpointSource::ClusterIp { address, port } => {
                let id = EndpointId { target: Arc::from(""), address: *address, port: *port };
                let members: Box<[_]> = [self.endpoint(&state, &id, None)].into();
                members.iter().for_each(|member| member.ready.store(true, Relaxed));
                let candidates = Arc::new(Candidates::new(members.to_vec(), policy));
                state.set_current(candidates.clone());
                return BackendRuntime { state, candidates: Some(candidates), members };
            }
            EndpointSource::Dns { .. } => {
                return BackendRuntime { state, candidates: None, members: Box::default() };
            }
        };
        let members: Box<[Arc<EndpointState>]> =
            set.endpoints.iter().map(|e| self.endpoint(&state, &e.id, e.alternate)).collect();
        let takers = set.takers(&self.locality);
        let (mut all, mut near) = (Vec::with_capacity(members.len()), Vec::new());
        for (endpoint, member) in set.endpoints.iter().zip(&members) {
            let ready = takers.may_take(endpoint);
            if ready {
                all.push(member.clone());
            }
            if takers.prefers(endpoint) {
                near.push(member.clone());
            }
            if !member.ready.swap(ready, Relaxed) && ready && !first {
                member.start_warming(self.clock.now());
            }
        }
        let narrowed = near.len() < all.len();
        let all = Arc::new(Candidates::new(all, policy));
        // Health is checked, and ejections are counted, over all of them.
        state.set_current(all.clone());
        let candidates = if narrowed { Arc::new(Candidates::near(near, all, policy)) } else { all };
        BackendRuntime { state, candidates: Some(candidates), members }
    }

    fn endpoint(&mut self, state: &BackendState, id: &EndpointId, alternate: Option<SocketAddr>) -> Arc<EndpointState> {
        let (backend, tags) = (&state.backend, &state.tags);
        let key = EndpointKey {
            service: backend.key.service.clone(),
            uid: backend.key.uid.clone(),
            port: backend.key.port,
            transport: backend.protocol.transport(),
            id: id.clone(),
            alternate,
            check: backend.policy.health_check.clone(),
        };
        let slot = self.endpoints.entry(key).or_default();
        slot.upgrade().unwrap_or_else(|| {
            let address = SocketAddr::new(id.address, id.port);
            let state = Arc::new(EndpointState::new(address, tags.of(id)).with_alternate(alternate));
            *slot = Arc::downgrade(&state);
            state
        })
    }
}
