//! The engine, its clock, and what guests may import. It is made for the first plugin: a gateway without one has neither its
//! pool nor its code in memory.

use crate::build::FunctionCache;
use crate::error::EngineError;
use crate::guest;
use crate::instance::State;
use crate::limits::MAX_TABLE_ELEMENTS;
use crate::options::HostOptions;
use crate::proxy_wasm::{self, VmState};
use crate::services::waiting_linker;
use crate::shares::Shares;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use wasmtime::component::Linker;
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};

/// One tick of the clock that interrupts guests, while a call has met one. Ticks are wall time.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// The tick while no call has: each costs a core a wake-up of some microseconds, and calls of ordinary length meet none.
const IDLE_TICK: Duration = Duration::from_millis(4);

/// Ticks that are still to be short ones. One for all engines of a process: there is one but in tests.
static SHORT_TICKS: AtomicU32 = AtomicU32::new(0);

/// A call has met a tick, and may have to be ended soon.
pub(crate) fn tick_faster() {
    SHORT_TICKS.store(32, Ordering::Relaxed);
}

fn next_tick() -> Duration {
    let short = SHORT_TICKS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
    if short { TICK } else { IDLE_TICK }
}

/// Core instances of one component: the guest's module and the adapters that toolchains put beside it. A guest in Rust has
/// 3 in all, in C 5, in JavaScript (componentize-qjs) 13, in Python (componentize-py) 39. The pool only counts them. It has
/// as many for each component, so that no component can take those of others.
const CORE_INSTANCES_PER_COMPONENT: u32 = 64;
const TABLES_PER_COMPONENT: u32 = 4;
/// A guest has one; the adapters that stand for WASI in JavaScript's have two more.
const MEMORIES_PER_COMPONENT: u32 = 3;

/// Instances beside those for requests: the builders make one at a time.
const FOR_BUILDERS: u32 = 4;

/// Linear memory that stays resident when an instance is freed, per slot: what a guest built by the SDK's recipe
/// touches. Above, pages go back to the kernel.
const KEEP_RESIDENT: usize = 256 << 10;

/// Slots that stay warm when nothing uses them, so that 256 KiB each stay resident.
const MAX_WARM_SLOTS: u32 = 100;

/// Behind each memory, so that a bounds check can be left out where an offset is small.
const GUARD: u64 = 64 << 10;

pub(crate) struct Engine {
    pub(crate) engine: wasmtime::Engine,
    pub(crate) linker: Linker<State>,
    /// The same for plugins whose stores may wait.
    pub(crate) waiting_linker: Linker<State>,
    /// What filters of the proxy-wasm ABI may import.
    pub(crate) filters: wasmtime::Linker<VmState>,
    pub(crate) slots: Arc<Slots>,
    _clock: Clock,
}

/// What all plugins share of the engine's pool.
pub(crate) struct Slots {
    /// Instances in use, and bytes of their memory.
    pub(crate) instances: Arc<Shares>,
    pub(crate) memory: Arc<Shares>,
    /// Idle instances of pooled plugins. They hold slots of the pool, so all of them together have a quarter of it, and
    /// those in use the rest.
    idle: AtomicU32,
    max_idle: u32,
}

impl Slots {
    pub(crate) fn new(options: &HostOptions) -> Slots {
        let max_idle = options.instances / 4;
        Slots {
            instances: Shares::new(u64::from(options.instances - max_idle)),
            memory: Shares::new(options.memory),
            idle: AtomicU32::new(0),
            max_idle,
        }
    }

    /// Whether one more instance may wait idle; if so it is counted.
    pub(crate) fn may_idle(&self) -> bool {
        let may = self.idle.fetch_add(1, Ordering::AcqRel) < self.max_idle;
        if !may {
            self.not_idle(1);
        }
        may
    }

    /// So many idle instances are used again, or gone.
    pub(crate) fn not_idle(&self, instances: u32) {
        self.idle.fetch_sub(instances, Ordering::AcqRel);
    }
}

/// The engine, once somebody has asked for it.
pub(crate) struct LazyEngine {
    made: Mutex<Option<Arc<Engine>>>,
    functions: Arc<FunctionCache>,
    pub(crate) slots: Arc<Slots>,
}

impl LazyEngine {
    pub(crate) fn new(options: &HostOptions, functions: Arc<FunctionCache>) -> LazyEngine {
        LazyEngine { made: Mutex::default(), functions, slots: Arc::new(Slots::new(options)) }
    }

    /// The engine, with its clock running. An error says that it has no room on this machine; the next to ask tries again.
    pub(crate) fn get(&self, options: &HostOptions) -> Result<Arc<Engine>, EngineError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = &*made {
            return Ok(engine.clone());
        }
        let engine = Arc::new(Engine::new(options, self.functions.clone(), self.slots.clone())?);
        *made = Some(engine.clone());
        Ok(engine)
    }
}

impl Engine {
    fn new(options: &HostOptions, functions: Arc<FunctionCache>, slots: Arc<Slots>) -> Result<Engine, EngineError> {
        let setup = |error: wasmtime::Error| EngineError::Pool(format!("{error:#}"));
        let engine = wasmtime::Engine::new(&config(options, functions).map_err(setup)?).map_err(setup)?;
        let linker = guest::linker(&engine).map_err(setup)?;
        let waiting_linker = waiting_linker(&engine).map_err(setup)?;
        let filters = proxy_wasm::linker(&engine).map_err(setup)?;
        let clock = Clock::start(&engine)?;
        Ok(Engine { engine, linker, waiting_linker, filters, slots, _clock: clock })
    }
}

fn config(options: &HostOptions, functions: Arc<FunctionCache>) -> wasmtime::Result<Config> {
    let memory = usize::try_from(options.max_memory).unwrap_or(usize::MAX);
    let instances = options.instances.saturating_add(FOR_BUILDERS);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(CORE_INSTANCES_PER_COMPONENT))
        .max_core_instances_per_component(CORE_INSTANCES_PER_COMPONENT)
        .total_memories(instances.saturating_mul(MEMORIES_PER_COMPONENT))
        .max_memories_per_component(MEMORIES_PER_COMPONENT)
        .total_tables(instances.saturating_mul(TABLES_PER_COMPONENT))
        .max_tables_per_component(TABLES_PER_COMPONENT)
        .table_elements(MAX_TABLE_ELEMENTS)
        .max_memory_size(memory)
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_keep_resident(16 << 10)
        // For plugins whose calls may wait; address space, until one does.
        .total_stacks(instances)
        .async_stack_keep_resident(16 << 10)
        .max_unused_warm_slots(MAX_WARM_SLOTS.min(instances))
        // Resets the pages that were written instead of all of the first 256 KiB: 1.8 us less a fresh instance.
        .pagemap_scan(Enabled::Auto);
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        // The default reserves 4 GiB a slot to save bounds checks, which header plugins don't notice.
        .memory_reservation(options.max_memory)
        .memory_guard_size(GUARD)
        .epoch_interruption(true)
        .concurrency_support(false)
        // Stack traces of traps cost 20 us each, and the SDK logs a panic's message and place.
        .wasm_backtrace_max_frames(None)
        .enable_incremental_compilation(functions)?;
    Ok(config)
}

/// The thread that advances the engine's epoch.
struct Clock {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Clock {
    fn start(engine: &wasmtime::Engine) -> std::io::Result<Clock> {
        let stop = Arc::new(AtomicBool::new(false));
        let (engine, stopped) = (engine.clone(), stop.clone());
        let thread = std::thread::Builder::new().name("plugin-clock".to_owned()).spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                std::thread::sleep(next_tick());
                engine.increment_epoch();
            }
        })?;
        Ok(Clock { stop, thread: Some(thread) })
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // It ends within a tick; a panic in it was reported by the panic hook.
            drop(thread.join());
        }
    }
}
