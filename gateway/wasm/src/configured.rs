//! A plugin with one configuration, ready to run: what a snapshot binds.

use crate::aside::{Aside, Lane};
use crate::breaker::Breaker;
use crate::build::Image;
use crate::engine::{Engine, Slots};
use crate::error::PluginError;
use crate::instance::{Live, PluginLog, State, broken, store};
use crate::invocation::Invocation;
use crate::limits::Limits;
use crate::metrics::PluginMetrics;
use crate::proxy_wasm::{Program, Shared, Stream};
use crate::services::Services;
use crate::shares::Share;
use crate::standing::Standing;
use crossbeam_queue::ArrayQueue;
use sluice_model::plugin::{InstanceMode, PluginKey, PluginSpec, UseKey};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use wasmtime::Store;
use wasmtime::component::{Component, ComponentExportIndex};

/// Idle instances that a pooled plugin keeps.
const MAX_IDLE: u32 = 64;

/// Bytes that a pooled instance may grow by before it is recycled.
const MAX_GROWTH: usize = 1 << 20;

/// A run time above this is too long for a thread that serves requests: such a plugin runs aside from its first call. What
/// a loop costs the neighbours is at most this; only a piece of a response waits longer, where the VM of its filter is busy.
pub(crate) const LONGEST_IN_PLACE: Duration = Duration::from_millis(20);

/// A point of an exchange at which plugins are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    RequestHeaders,
    RequestBody,
    ResponseHeaders,
    ResponseBody,
    ResponseTrailers,
    Log,
}

impl Phase {
    pub(crate) const ALL: [Phase; 6] = [
        Phase::RequestHeaders,
        Phase::RequestBody,
        Phase::ResponseHeaders,
        Phase::ResponseBody,
        Phase::ResponseTrailers,
        Phase::Log,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Phase::RequestHeaders => "request_headers",
            Phase::RequestBody => "request_body",
            Phase::ResponseHeaders => "response_headers",
            Phase::ResponseBody => "response_body",
            Phase::ResponseTrailers => "response_trailers",
            Phase::Log => "log",
        }
    }
}

/// A function of the contract that is called for exchanges. A phase has several where bodies come in several ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Export {
    RequestHeaders,
    RequestBody,
    RequestPiece,
    ResponseHeaders,
    ResponseBody,
    ResponsePiece,
    ResponseTrailers,
    Log,
}

impl Export {
    pub(crate) const ALL: [Export; 8] = [
        Export::RequestHeaders,
        Export::RequestBody,
        Export::RequestPiece,
        Export::ResponseHeaders,
        Export::ResponseBody,
        Export::ResponsePiece,
        Export::ResponseTrailers,
        Export::Log,
    ];

    pub(crate) const fn phase(self) -> Phase {
        match self {
            Export::RequestHeaders => Phase::RequestHeaders,
            Export::RequestBody | Export::RequestPiece => Phase::RequestBody,
            Export::ResponseHeaders => Phase::ResponseHeaders,
            Export::ResponseBody | Export::ResponsePiece => Phase::ResponseBody,
            Export::ResponseTrailers => Phase::ResponseTrailers,
            Export::Log => Phase::Log,
        }
    }

    /// Its interface, and its name there.
    const fn name(self) -> (&'static str, &'static str) {
        match self {
            Export::RequestHeaders => ("request-headers", "on-request"),
            Export::RequestBody => ("request-body", "on-request-body"),
            Export::RequestPiece => ("request-body-stream", "on-request-piece"),
            Export::ResponseHeaders => ("response-headers", "on-response"),
            Export::ResponseBody => ("response-body", "on-response-body"),
            Export::ResponsePiece => ("response-body-stream", "on-response-piece"),
            Export::ResponseTrailers => ("response-trailers", "on-response-trailers"),
            Export::Log => ("log", "on-log"),
        }
    }
}

/// The phases that a plugin exports. One that it does not costs a request nothing.
#[derive(Clone, Default)]
pub struct Phases {
    pub(crate) configuration: Option<ComponentExportIndex>,
    pub(crate) self_test: Option<ComponentExportIndex>,
    exports: [Option<ComponentExportIndex>; Export::ALL.len()],
    /// Those of a filter of the proxy-wasm ABI, which has no such exports.
    callbacks: [bool; Phase::ALL.len()],
}

impl Phases {
    pub(crate) fn of(component: &Component) -> Phases {
        let export = |interface: &str, function: &str| {
            let instance = component.get_export_index(None, format!("sluice:plugin/{interface}@0.1.0"))?;
            component.get_export_index(Some(&instance), function)
        };
        Phases {
            configuration: export("configuration", "configure"),
            self_test: export("self-test", "run"),
            exports: Export::ALL.map(|function| {
                let (interface, name) = function.name();
                export(interface, name)
            }),
            callbacks: Default::default(),
        }
    }

    pub(crate) fn of_filter(phases: &[Phase]) -> Phases {
        Phases { callbacks: Phase::ALL.map(|phase| phases.contains(&phase)), ..Phases::default() }
    }

    pub(crate) fn export(&self, function: Export) -> Option<&ComponentExportIndex> {
        self.exports.get(function as usize).and_then(Option::as_ref)
    }

    /// Whether it is called so.
    pub(crate) fn takes(&self, function: Export) -> bool {
        self.export(function).is_some() || self.callback(function.phase())
    }

    pub fn request_headers(&self) -> bool {
        self.takes(Export::RequestHeaders)
    }

    /// Whether it may read the request's body whole.
    pub fn request_body(&self) -> bool {
        self.export(Export::RequestBody).is_some()
    }

    pub fn response_headers(&self) -> bool {
        self.takes(Export::ResponseHeaders)
    }

    /// Whether it may read the response's body whole.
    pub fn response_body(&self) -> bool {
        self.export(Export::ResponseBody).is_some()
    }

    /// Whether it sees the request's body piece by piece, on its way to the backend.
    pub fn request_pieces(&self) -> bool {
        self.takes(Export::RequestPiece)
    }

    /// Whether it sees the response's body, piece by piece.
    pub fn response_pieces(&self) -> bool {
        self.takes(Export::ResponsePiece)
    }

    /// Whether it sees them by the contract, which lets it wait, and takes the length of what may change out of the head. A
    /// filter of the proxy-wasm ABI does that itself.
    pub fn streams_request(&self) -> bool {
        self.export(Export::RequestPiece).is_some()
    }

    pub fn streams_response(&self) -> bool {
        self.export(Export::ResponsePiece).is_some()
    }

    /// Whether it sees the trailers of responses.
    pub fn response_trailers(&self) -> bool {
        self.takes(Export::ResponseTrailers)
    }

    /// Whether what it does with a response has to be waited for as that is written.
    pub fn answers_in_passing(&self) -> bool {
        self.streams_response() || self.export(Export::ResponseTrailers).is_some()
    }

    fn callback(&self, phase: Phase) -> bool {
        self.callbacks.get(phase as usize).is_some_and(|has| *has)
    }

    pub fn log(&self) -> bool {
        self.takes(Export::Log)
    }

    fn has(&self, phase: Phase) -> bool {
        self.callback(phase)
            || Export::ALL.into_iter().any(|function| function.phase() == phase && self.export(function).is_some())
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
    pub(crate) breaker: Breaker,
    pub(crate) log: Arc<PluginLog>,
    pub(crate) lane: Lane,
    /// Of the instances in use, and of their memory, what this plugin has.
    instances: Share,
    pub(crate) memory: Share,
    pub(crate) services: Services,
    /// What a filter's VMs share.
    pub(crate) shared: Shared,
    in_use: AtomicU32,
}

impl PluginState {
    pub(crate) fn new(
        slots: &Slots,
        aside: &Aside,
        metrics: Arc<PluginMetrics>,
        log: Arc<PluginLog>,
        services: Services,
    ) -> PluginState {
        PluginState {
            services,
            shared: Shared::new(metrics.clone()),
            metrics,
            standing: Standing::new(Instant::now()),
            breaker: Breaker::new(Instant::now()),
            log,
            lane: aside.lane(),
            instances: slots.instances.join(),
            memory: slots.memory.join(),
            in_use: AtomicU32::new(0),
        }
    }

    fn admit(self: &Arc<Self>, plugin: &PluginKey, limit: u32) -> Result<Permit, PluginError> {
        // Counted first, so that two can't both see the last place.
        if self.in_use.fetch_add(1, Ordering::AcqRel) >= limit {
            self.in_use.fetch_sub(1, Ordering::AcqRel);
            return Err(PluginError::Busy { plugin: plugin.clone(), limit });
        }
        let Some(held) = self.hold() else {
            self.in_use.fetch_sub(1, Ordering::AcqRel);
            return Err(PluginError::PoolFull { plugin: plugin.clone() });
        };
        Ok(Permit { plugin: self.clone(), _held: Some(held) })
    }

    /// As [`PluginState::admit`], for an exchange that has no instance of its own.
    pub(crate) fn admit_stream(self: &Arc<Self>, plugin: &PluginKey, limit: u32) -> Result<Permit, PluginError> {
        if self.in_use.fetch_add(1, Ordering::AcqRel) >= limit {
            self.in_use.fetch_sub(1, Ordering::AcqRel);
            return Err(PluginError::Busy { plugin: plugin.clone(), limit });
        }
        Ok(Permit { plugin: self.clone(), _held: None })
    }

    /// One of the instances that all plugins share, if there is one for this plugin.
    pub(crate) fn hold(self: &Arc<Self>) -> Option<Held> {
        self.instances.take(1).then(|| Held(self.clone()))
    }
}

/// One of the instances, or exchanges, that `limits.concurrency` allows.
pub(crate) struct Permit {
    plugin: Arc<PluginState>,
    _held: Option<Held>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.plugin.in_use.fetch_sub(1, Ordering::AcqRel);
    }
}

/// One of the instances that all plugins share.
pub(crate) struct Held(Arc<PluginState>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.instances.give(1);
    }
}

/// What runs.
pub(crate) enum Code {
    Component(Image),
    /// Of the proxy-wasm ABI.
    Filter {
        program: Arc<Program>,
        phases: Phases,
        owned_headers: Box<[http::HeaderName]>,
    },
}

/// A plugin with one configuration, compiled and configured. Shared by every snapshot and route that uses it.
pub struct Configured {
    key: UseKey,
    spec: Arc<PluginSpec>,
    code: Code,
    mode: InstanceMode,
    recycle_after: u32,
    /// Keeps the clock running that interrupts its guests, and counts idle instances.
    engine: Arc<Engine>,
    pub(crate) aside: Arc<Aside>,
    pub(crate) plugin: Arc<PluginState>,
    idle: ArrayQueue<Live>,
    /// A newer version serves: what still runs here leaves nothing behind.
    retired: AtomicBool,
}

impl Configured {
    pub(crate) fn new(
        key: UseKey,
        spec: Arc<PluginSpec>,
        code: Code,
        engine: Arc<Engine>,
        aside: Arc<Aside>,
        plugin: Arc<PluginState>,
        recycle_after: u32,
    ) -> Configured {
        // A configuration that must run in each instance is too dear for an instance a request.
        let mode = match &code {
            Code::Component(image) if image.configure_with.is_some() => InstanceMode::Pooled,
            Code::Component(_) => spec.instance,
            Code::Filter { .. } => InstanceMode::Shared,
        };
        let idle = ArrayQueue::new(spec.limits.concurrency.clamp(1, MAX_IDLE) as usize);
        Configured {
            key,
            spec,
            code,
            mode,
            recycle_after,
            engine,
            aside,
            plugin,
            idle,
            retired: AtomicBool::new(false),
        }
    }

    pub fn key(&self) -> &UseKey {
        &self.key
    }

    /// The Plugin object that this version was made from.
    pub fn spec(&self) -> &Arc<PluginSpec> {
        &self.spec
    }

    pub fn phases(&self) -> &Phases {
        match &self.code {
            Code::Component(image) => &image.phases,
            Code::Filter { phases, .. } => phases,
        }
    }

    fn image(&self) -> Option<&Image> {
        match &self.code {
            Code::Component(image) => Some(image),
            Code::Filter { .. } => None,
        }
    }

    /// A filter's part in one exchange; none of a component.
    pub(crate) fn stream(&self) -> Option<Stream> {
        match &self.code {
            Code::Component(_) => None,
            Code::Filter { program, .. } => Some(Stream::new(program.clone())),
        }
    }

    /// Request headers that only this plugin writes: a client's are taken out before any plugin of the route runs.
    pub fn owned_headers(&self) -> &[http::HeaderName] {
        match &self.code {
            Code::Component(image) => &image.owned_headers,
            Code::Filter { owned_headers, .. } => owned_headers,
        }
    }

    /// How instances are used: as the Plugin says, `Pooled` where its memory can't be made an image, or `Shared` where it is a
    /// filter of the proxy-wasm ABI.
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
        self.plugin.admit(&self.key.plugin, self.spec.limits.concurrency)
    }

    /// An instance that waits to be used again.
    pub(crate) fn idle(&self) -> Option<Live> {
        let live = self.idle.pop()?;
        self.engine.slots.not_idle(1);
        Some(live)
    }

    /// Whether each new instance runs configure, which is too slow for a thread that serves requests.
    pub(crate) fn configures_each(&self) -> bool {
        self.image().is_some_and(|image| image.configure_with.is_some())
    }

    /// Whether its calls may wait.
    pub(crate) fn waits(&self) -> bool {
        self.image().is_some_and(|image| image.waits)
    }

    /// Whether its code names backends: it calls them, or says where requests go.
    pub fn names_backends(&self) -> bool {
        match &self.code {
            Code::Component(image) => image.names_backends,
            Code::Filter { program, .. } => program.code().calls_backends(),
        }
    }

    /// A new instance. `arm` sets the deadline of its store before any guest code runs.
    pub(crate) fn instance(&self, arm: impl FnOnce(&mut Store<State>)) -> wasmtime::Result<Live> {
        let image = self.image().ok_or_else(|| broken("it is no component"))?;
        let limits = Limits::counted(self.spec.limits.memory, self.plugin.clone());
        let state = State::new(limits, self.spec.limits.body_buffer, self.plugin.log.clone());
        let mut store = store(&self.engine.engine, state);
        arm(&mut store);
        Live::new(image, store)
    }

    /// Takes an instance back after a call that did not trap, and recycles it where it served enough.
    pub(crate) fn give_back(&self, live: Live) {
        let reusable =
            self.mode == InstanceMode::Pooled && live.calls < self.recycle_after && live.grown() <= MAX_GROWTH;
        if reusable && self.engine.slots.may_idle() && self.idle.push(live).is_err() {
            self.engine.slots.not_idle(1);
        }
        // Looked at after the push, so that `retire` and this can't both leave the instance to the other.
        if self.retired.load(Ordering::SeqCst) {
            self.drain();
        }
    }

    /// A newer version took over. Requests, and tunnels of hours, may hold this one on; its idle instances go.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
        if let Code::Filter { program, .. } = &self.code {
            program.retire();
        }
        self.drain();
    }

    fn drain(&self) {
        while self.idle().is_some() {}
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        self.engine.slots.not_idle(self.idle.len() as u32);
    }
}

impl fmt::Debug for Configured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Configured")
            .field("key", &self.key)
            .field("module", &self.spec.source)
            .field("mode", &self.mode)
            .field("phases", self.phases())
            .finish_non_exhaustive()
    }
}
