//! A plugin with one configuration, ready to run: what a snapshot binds.

use crate::aside::Aside;
use crate::build::Image;
use crate::engine::Engine;
use crate::error::PluginError;
use crate::guest::generated::exports::sluice::plugin as exported;
use crate::instance::{Live, PluginLog, State};
use crate::invocation::Invocation;
use crate::limits::Limits;
use crate::metrics::PluginMetrics;
use crate::standing::Standing;
use crossbeam_queue::ArrayQueue;
use sluice_model::plugin::{InstanceMode, PluginSpec, UseKey};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use wasmtime::{PoolConcurrencyLimitError, Store};

/// Idle instances that a pooled plugin keeps.
const MAX_IDLE: u32 = 64;

/// Bytes that a pooled instance may grow by before it is recycled.
const MAX_GROWTH: usize = 1 << 20;

/// A point of an exchange at which plugins are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    RequestHeaders,
    RequestBody,
    ResponseHeaders,
    Log,
}

impl Phase {
    pub(crate) const ALL: [Phase; 4] = [Phase::RequestHeaders, Phase::RequestBody, Phase::ResponseHeaders, Phase::Log];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Phase::RequestHeaders => "request_headers",
            Phase::RequestBody => "request_body",
            Phase::ResponseHeaders => "response_headers",
            Phase::Log => "log",
        }
    }
}

/// The phases that a plugin exports. One that it does not costs a request nothing.
#[derive(Clone, Default)]
pub struct Phases {
    pub(crate) configuration: Option<exported::configuration::GuestIndices>,
    pub(crate) request_headers: Option<exported::request_headers::GuestIndices>,
    pub(crate) request_body: Option<exported::request_body::GuestIndices>,
    pub(crate) response_headers: Option<exported::response_headers::GuestIndices>,
    pub(crate) log: Option<exported::log::GuestIndices>,
}

impl Phases {
    pub fn request_headers(&self) -> bool {
        self.request_headers.is_some()
    }

    pub fn request_body(&self) -> bool {
        self.request_body.is_some()
    }

    pub fn response_headers(&self) -> bool {
        self.response_headers.is_some()
    }

    pub fn log(&self) -> bool {
        self.log.is_some()
    }

    pub(crate) fn has(&self, phase: Phase) -> bool {
        match phase {
            Phase::RequestHeaders => self.request_headers(),
            Phase::RequestBody => self.request_body(),
            Phase::ResponseHeaders => self.response_headers(),
            Phase::Log => self.log(),
        }
    }

    /// As the label `phase` of the metrics says them.
    pub fn names(&self) -> Vec<&'static str> {
        Phase::ALL.into_iter().filter(|phase| self.has(*phase)).map(Phase::as_str).collect()
    }
}

impl fmt::Debug for Phases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

/// What all uses and versions of one Plugin object share: its limits hold for all of them together.
#[derive(Debug)]
pub(crate) struct PluginState {
    pub(crate) metrics: Arc<PluginMetrics>,
    pub(crate) standing: Standing,
    pub(crate) log: Arc<PluginLog>,
    in_use: AtomicU32,
}

impl PluginState {
    pub(crate) fn new(metrics: Arc<PluginMetrics>, standing: Standing, log: Arc<PluginLog>) -> PluginState {
        PluginState { metrics, standing, log, in_use: AtomicU32::new(0) }
    }

    fn admit(self: &Arc<Self>, limit: u32) -> Option<Permit> {
        let permit = Permit(self.clone());
        // Counted first, so that two can't both see the last place.
        (self.in_use.fetch_add(1, Ordering::AcqRel) < limit).then_some(permit)
    }
}

/// One of the instances that `limits.concurrency` allows.
pub(crate) struct Permit(Arc<PluginState>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.in_use.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A plugin with one configuration, compiled and configured. Shared by every snapshot and route that uses it.
pub struct Configured {
    key: UseKey,
    spec: Arc<PluginSpec>,
    image: Image,
    mode: InstanceMode,
    recycle_after: u32,
    /// Keeps the clock running that interrupts its guests, and counts idle instances.
    engine: Arc<Engine>,
    pub(crate) aside: Arc<Aside>,
    pub(crate) plugin: Arc<PluginState>,
    idle: ArrayQueue<Live>,
}

impl Configured {
    pub(crate) fn new(
        key: UseKey,
        spec: Arc<PluginSpec>,
        image: Image,
        engine: Arc<Engine>,
        aside: Arc<Aside>,
        plugin: Arc<PluginState>,
        recycle_after: u32,
    ) -> Configured {
        // A configuration that must run in each instance is too dear for an instance a request.
        let mode = if image.configure_with.is_some() { InstanceMode::Pooled } else { spec.instance };
        let idle = ArrayQueue::new(spec.limits.concurrency.clamp(1, MAX_IDLE) as usize);
        Configured { key, spec, image, mode, recycle_after, engine, aside, plugin, idle }
    }

    pub fn key(&self) -> &UseKey {
        &self.key
    }

    /// The Plugin object that this version was made from.
    pub fn spec(&self) -> &Arc<PluginSpec> {
        &self.spec
    }

    pub fn phases(&self) -> &Phases {
        &self.image.phases
    }

    /// Request headers that only this plugin writes: a client's are taken out before any plugin of the route runs.
    pub fn owned_headers(&self) -> &[http::HeaderName] {
        &self.image.owned_headers
    }

    /// How instances are used: as the Plugin says, or `Pooled` where its memory can't be made an image.
    pub fn mode(&self) -> InstanceMode {
        self.mode
    }

    /// Starts on one exchange. Costs nothing: an instance is made when the first phase is called.
    pub fn begin(self: &Arc<Self>) -> Invocation {
        Invocation::new(self.clone())
    }

    pub(crate) fn limits(&self) -> &sluice_model::plugin::PluginLimits {
        &self.spec.limits
    }

    pub(crate) fn admit(&self) -> Result<Permit, PluginError> {
        let limit = self.spec.limits.concurrency;
        self.plugin.admit(limit).ok_or_else(|| PluginError::Busy { plugin: self.key.plugin.clone(), limit })
    }

    /// An idle instance, or a new one. `arm` sets the deadline of a new store before any guest code runs.
    pub(crate) fn instance(&self, arm: impl FnOnce(&mut Store<State>)) -> wasmtime::Result<Live> {
        if let Some(mut live) = self.idle.pop() {
            self.engine.not_idle(1);
            arm(&mut live.store);
            return Ok(live);
        }
        let limits = Limits::counted(self.spec.limits.memory, self.plugin.metrics.clone());
        let state = State::new(limits, self.spec.limits.body_buffer, self.plugin.log.clone());
        let mut store = Store::new(&self.engine.engine, state);
        store.limiter(|state| &mut state.limits);
        arm(&mut store);
        Live::new(&self.image, store)
    }

    /// Takes an instance back after a call that did not trap, and recycles it where it served enough.
    pub(crate) fn give_back(&self, live: Live) {
        let reusable =
            self.mode == InstanceMode::Pooled && live.calls < self.recycle_after && live.grown() <= MAX_GROWTH;
        if reusable && self.engine.may_idle() && self.idle.push(live).is_err() {
            self.engine.not_idle(1);
        }
    }

    /// Reads why no instance could be made.
    pub(crate) fn not_made(&self, phase: Phase, error: &wasmtime::Error) -> PluginError {
        let plugin = self.key.plugin.clone();
        if error.is::<PoolConcurrencyLimitError>() {
            return PluginError::PoolFull { plugin };
        }
        let kind = match error.downcast_ref::<wasmtime::Trap>() {
            Some(wasmtime::Trap::Interrupt) => crate::TrapKind::RunTime,
            _ => crate::TrapKind::Contract,
        };
        PluginError::Trap { plugin, phase: phase.as_str(), kind, message: format!("{error:#}") }
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        self.engine.not_idle(self.idle.len() as u32);
    }
}

impl fmt::Debug for Configured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Configured")
            .field("key", &self.key)
            .field("module", self.spec.source.sha256())
            .field("mode", &self.mode)
            .field("phases", &self.image.phases)
            .finish_non_exhaustive()
    }
}
