//! A filter with one configuration: its VMs, and how calls come to them.

use super::callouts::Started;
use super::keeper;
use super::module::Code;
use super::settings::configuration;
use super::shared::QueueOwner;
use super::state::Settings;
use super::vm::{NotStarted, Parts, Vm};
use crate::TrapKind;
use crate::aside::{Aside, Bounds, Turn, limit_cpu_time, limit_from_first_tick, ran_in_place, thread_time};
use crate::build::{CONFIGURE_TIME, Failure};
use crate::configured::{LONGEST_IN_PLACE, PluginState};
use crate::engine::Engine;
use crate::error::PluginError;
use crate::instance::Failed;
use crate::outgoing::{Backends, FetchError, FetchErrorKind, Outbound, OutboundRequest, OutboundResponse};
use arc_swap::ArcSwapOption;
use crossbeam_queue::SegQueue;
use futures::FutureExt;
use futures::future::BoxFuture;
use sluice_model::plugin::{PluginKey, PluginLimits, PluginSpec};
use sluice_model::problem::Code as ProblemCode;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, Notify, OwnedMutexGuard, watch};

/// A filter whose VM did not start again is not tried for as long: its exchanges fail at once.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// A VM that nobody else has.
pub(super) type Locked = OwnedMutexGuard<Option<Vm>>;

/// What the host lends all filters.
#[derive(Clone)]
pub(crate) struct Host {
    pub(crate) engine: Arc<Engine>,
    pub(crate) aside: Arc<Aside>,
    pub(crate) backends: Arc<OnceLock<Box<dyn Backends>>>,
    /// VMs of one configuration at most.
    pub(crate) vms: usize,
}

/// The place of one VM.
pub(super) struct Slot {
    pub(super) vm: Arc<Mutex<Option<Vm>>>,
    /// Of the VM that is there; 0 where none is.
    pub(super) number: AtomicU32,
    /// There is none, and one is needed.
    pub(super) wanted: AtomicBool,
    /// It was made, and nobody has looked at what it asked for meanwhile.
    pub(super) is_new: AtomicBool,
    /// Milliseconds; 0: it wants no ticks.
    pub(super) tick: AtomicU64,
    pub(super) queues: QueueOwner,
    /// Contexts whose exchanges were given up, with the number of their VM.
    pub(super) left: SegQueue<(u32, u32)>,
}

/// Where a call runs.
pub(super) enum Way {
    Here,
    Aside(Turn),
}

pub(crate) struct Program {
    this: Weak<Program>,
    code: Arc<Code>,
    settings: Arc<Settings>,
    limits: PluginLimits,
    host: Host,
    pub(super) plugin: Arc<PluginState>,
    pub(super) slots: Box<[Slot]>,
    numbers: AtomicU32,
    /// Wakes the keeper.
    pub(super) bell: Arc<Notify>,
    /// Changes when a VM was made, or was tried to.
    made: watch::Sender<u64>,
    /// The last start that failed.
    failed: ArcSwapOption<NotMade>,
    retired: AtomicBool,
}

/// Why there is no VM; without a kind: there was no instance left, or no memory.
struct NotMade {
    at: Instant,
    kind: Option<(TrapKind, String)>,
}

thread_local! {
    static WORKER: Cell<Option<usize>> = const { Cell::new(None) };
}

/// This thread's number among those that serve.
fn worker() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    WORKER.with(|worker| {
        let number = worker.get().unwrap_or_else(|| NEXT.fetch_add(1, Ordering::Relaxed));
        worker.set(Some(number));
        number
    })
}

impl Program {
    /// Starts one VM, which shows that the filter works. On a thread that compiles.
    pub(crate) fn build(
        host: Host,
        code: &Arc<Code>,
        spec: &PluginSpec,
        config: &str,
        plugin: &Arc<PluginState>,
    ) -> Result<Arc<Program>, Failure> {
        let configuration = configuration(config)
            .map_err(|(field, message)| Failure::new(ProblemCode::PluginConfig, &field, message))?;
        let settings = Arc::new(Settings {
            plugin: spec.key.clone(),
            version: code.version,
            configuration: configuration.into(),
            body_buffer: spec.limits.body_buffer,
        });
        let vms = host.vms.max(1);
        let bell = Arc::new(Notify::new());
        let aside = host.aside.clone();
        let program = Arc::new_cyclic(|this| Program {
            this: this.clone(),
            code: code.clone(),
            settings,
            limits: spec.limits.clone(),
            host,
            plugin: plugin.clone(),
            slots: (0..vms).map(|_| Slot::new(&bell)).collect(),
            numbers: AtomicU32::new(0),
            bell,
            made: watch::channel(0).0,
            failed: ArcSwapOption::empty(),
            retired: AtomicBool::new(false),
        });
        let Some(first) = program.slots.first() else { return Err(Failure::invalid("there is no place for it")) };
        let vm = program.start(first, None).map_err(|reason| not_started(&reason))?;
        program.put(first, &mut *first.vm.clone().try_lock_owned().map_err(|_| Failure::invalid("it is in use"))?, vm);
        if !aside.keep(keeper::keep(Arc::downgrade(&program), program.bell.clone())) {
            return Err(Failure::invalid("the gateway ends"));
        }
        Ok(program)
    }

    pub(crate) fn code(&self) -> &Code {
        &self.code
    }

    pub(super) fn plugin_key(&self) -> &PluginKey {
        &self.settings.plugin
    }

    pub(super) fn limits(&self) -> &PluginLimits {
        &self.limits
    }

    fn shared(&self) -> Option<Arc<Program>> {
        self.this.upgrade()
    }

    /// Makes a VM, on whatever thread this is, within the time of a configuration.
    pub(super) fn start(&self, slot: &Slot, until: Option<Instant>) -> Result<Vm, NotStarted> {
        let own: Option<Arc<dyn Outbound>> = match self.code.calls_backends() {
            true => Some(Arc::new(Own { plugin: self.settings.plugin.clone(), backends: self.host.backends.clone() })),
            false => None,
        };
        let parts = Parts {
            engine: &self.host.engine,
            code: &self.code,
            settings: &self.settings,
            plugin: &self.plugin,
            memory: self.limits.memory,
            queues: slot.queues.clone(),
            own,
        };
        Vm::start(&parts, |store| limit_cpu_time(store, Bounds { run_time: CONFIGURE_TIME, until }))
    }

    pub(super) fn put(&self, slot: &Slot, place: &mut Option<Vm>, vm: Vm) {
        let tick = vm.tick_period().map_or(0, |period| period.as_millis() as u64);
        *place = Some(vm);
        let number = loop {
            let number = self.numbers.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
            if number != 0 {
                break number;
            }
        };
        slot.tick.store(tick, Ordering::Release);
        slot.is_new.store(true, Ordering::Release);
        slot.number.store(number, Ordering::Release);
        self.failed.store(None);
        self.made.send_modify(|made| *made += 1);
        self.bell.notify_one();
    }

    /// A VM could not be made.
    pub(super) fn not_made(&self, reason: NotStarted) {
        let kind = match reason {
            NotStarted::Invalid(message) => Some((TrapKind::Contract, message)),
            NotStarted::Refused { callback, .. } => Some((TrapKind::Contract, format!("{callback} said no"))),
            NotStarted::Failed { during, failed: Failed::Trapped { kind, message } } => {
                self.plugin.metrics.trapped(kind);
                Some((kind, format!("{message} in {during}")))
            }
            NotStarted::Failed { failed: Failed::Late | Failed::UsedUp, .. } => None,
        };
        let reason = kind.as_ref().map_or("no instance, or no memory, is left for it", |(_, message)| message);
        tracing::warn!(plugin = %self.plugin_key(), %reason, "a VM of the plugin does not start again");
        self.failed.store(Some(Arc::new(NotMade { at: Instant::now(), kind })));
        self.made.send_modify(|made| *made += 1);
    }

    /// Runs work of the host's on a thread of low priority; none where that panicked.
    pub(super) async fn aside<T: Send + 'static>(
        &self,
        turn: Way,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        match turn {
            Way::Here => Some(work()),
            Way::Aside(turn) => self.host.aside.run(turn, work).await.ok(),
        }
    }

    pub(super) fn want(&self, slot: &Slot) {
        if !slot.wanted.swap(true, Ordering::AcqRel) {
            self.bell.notify_one();
        }
    }

    /// A VM for a new exchange: this thread's, another that is free, or the first that becomes so.
    pub(super) async fn vm(&self, until: Instant) -> Result<(usize, Locked), PluginError> {
        let began = Instant::now();
        let late = || PluginError::Deadline { plugin: self.plugin_key().clone(), waited: began.elapsed() };
        let count = self.slots.len();
        let home = worker() % count.max(1);
        let mut made = self.made.subscribe();
        loop {
            made.mark_unchanged();
            let mut waits_for = None;
            for index in (0..count).map(|n| (home + n) % count) {
                let Some(slot) = self.slots.get(index) else { continue };
                if slot.number.load(Ordering::Acquire) == 0 {
                    if index == home {
                        self.want(slot);
                    }
                    continue;
                }
                match slot.vm.clone().try_lock_owned() {
                    Ok(vm) if vm.is_some() => return Ok((index, vm)),
                    Ok(_) => {}
                    Err(_) => waits_for = waits_for.or(Some((index, slot))),
                }
            }
            if let Some((index, slot)) = waits_for {
                let locked = tokio::time::timeout_at(until.into(), slot.vm.clone().lock_owned()).await;
                match locked {
                    Ok(vm) if vm.is_some() => return Ok((index, vm)),
                    Ok(_) => continue,
                    Err(_) => return Err(late()),
                }
            }
            if let Some(failed) = self.failed.load_full()
                && failed.at.elapsed() < RESTART_PAUSE
            {
                let plugin = self.plugin_key().clone();
                return Err(match &failed.kind {
                    Some((kind, message)) => {
                        PluginError::Trap { plugin, phase: "start", kind: *kind, message: message.clone() }
                    }
                    None => PluginError::PoolFull { plugin },
                });
            }
            self.slots.get(home).iter().for_each(|slot| self.want(slot));
            if tokio::time::timeout_at(until.into(), made.changed()).await.is_err() {
                return Err(late());
            }
        }
    }

    /// The VM of this number, for an exchange that began with it; none where it has ended, at once: whoever makes the next
    /// one has the slot for as long.
    pub(super) async fn same_vm(
        &self,
        index: usize,
        number: u32,
        until: Instant,
    ) -> Result<Option<Locked>, PluginError> {
        let began = Instant::now();
        let Some(slot) = self.slot_of(index, number) else { return Ok(None) };
        let vm = match slot.vm.clone().try_lock_owned() {
            Ok(vm) => vm,
            Err(_) => match tokio::time::timeout_at(until.into(), slot.vm.clone().lock_owned()).await {
                Ok(vm) => vm,
                Err(_) => {
                    let (plugin, waited) = (self.plugin_key().clone(), began.elapsed());
                    return Err(PluginError::Deadline { plugin, waited });
                }
            },
        };
        Ok((vm.is_some() && slot.number.load(Ordering::Acquire) == number).then_some(vm))
    }

    fn slot_of(&self, index: usize, number: u32) -> Option<&Slot> {
        self.slots.get(index).filter(|slot| slot.number.load(Ordering::Acquire) == number)
    }

    /// The same, where nothing may be waited for: as long as another call of it may run.
    pub(super) fn same_vm_at_once(&self, index: usize, number: u32) -> Result<Option<Locked>, PluginError> {
        let began = Instant::now();
        let Some(slot) = self.slot_of(index, number) else { return Ok(None) };
        loop {
            match slot.vm.clone().try_lock_owned() {
                Ok(vm) => return Ok((vm.is_some() && slot.number.load(Ordering::Acquire) == number).then_some(vm)),
                Err(_) if began.elapsed() < LONGEST_IN_PLACE => std::thread::yield_now(),
                Err(_) => {
                    let (plugin, waited) = (self.plugin_key().clone(), began.elapsed());
                    return Err(PluginError::Deadline { plugin, waited });
                }
            }
        }
    }

    /// Where the next call runs: on this thread, or on one of low priority once that is free. Asked for with the VM in hand.
    pub(super) async fn way(&self, until: Option<Instant>, aside: bool) -> Result<Way, PluginError> {
        let began = Instant::now();
        if !aside && self.limits.run_time <= LONGEST_IN_PLACE && self.plugin.standing.is_good(began) {
            return Ok(Way::Here);
        }
        match self.host.aside.turn(&self.plugin.lane, until).await {
            Some(turn) => {
                self.plugin.metrics.aside.inc();
                Ok(Way::Aside(turn))
            }
            None => Err(PluginError::Deadline { plugin: self.plugin_key().clone(), waited: began.elapsed() }),
        }
    }

    /// Works with a VM. What the guest fails at ends the VM, and is the inner error.
    pub(super) async fn run<R: Send + 'static>(
        &self,
        index: usize,
        mut vm: Locked,
        way: Way,
        until: Option<Instant>,
        phase: &'static str,
        work: impl FnOnce(&mut Vm) -> (R, wasmtime::Result<()>) + Send + 'static,
    ) -> Result<(R, Result<(), PluginError>), PluginError> {
        let lost = || PluginError::Lost { plugin: self.plugin_key().clone(), phase };
        let began = Instant::now();
        let bounds = Bounds { run_time: self.limits.run_time, until };
        let (result, ran) = match way {
            Way::Here => {
                let Some(live) = vm.as_mut() else { return Err(lost()) };
                limit_from_first_tick(&mut live.store, bounds);
                let (result, ended) = work(live);
                let failed = ended.err().map(|error| live.failed(&error));
                ((result, failed), ran_in_place(began))
            }
            Way::Aside(turn) => {
                let running = self.host.aside.run(turn, move || {
                    let live = vm.as_mut()?;
                    let from = thread_time();
                    limit_cpu_time(&mut live.store, bounds);
                    let (result, ended) = work(live);
                    let failed = ended.err().map(|error| live.failed(&error));
                    Some((vm, (result, failed), thread_time().saturating_sub(from)))
                });
                let Ok(Some((back, result, ran))) = running.await else {
                    self.lose(index);
                    return Err(lost());
                };
                vm = back;
                (result, ran)
            }
        };
        let (result, failed) = result;
        Ok((result, self.conclude(index, vm, failed, ran, phase, began)))
    }

    /// The same on this thread, at once.
    pub(super) fn run_here<R>(
        &self,
        index: usize,
        mut vm: Locked,
        until: Option<Instant>,
        phase: &'static str,
        work: impl FnOnce(&mut Vm) -> (R, wasmtime::Result<()>),
    ) -> Result<(R, Result<(), PluginError>), PluginError> {
        let began = Instant::now();
        let lost = || PluginError::Lost { plugin: self.plugin_key().clone(), phase };
        let live = vm.as_mut().ok_or_else(lost)?;
        let run_time = self.limits.run_time.min(LONGEST_IN_PLACE);
        limit_from_first_tick(&mut live.store, Bounds { run_time, until });
        let (result, ended) = work(live);
        let failed = ended.err().map(|error| live.failed(&error));
        Ok((result, self.conclude(index, vm, failed, ran_in_place(began), phase, began)))
    }

    /// Judges a call that ended.
    fn conclude(
        &self,
        index: usize,
        mut vm: Locked,
        failed: Option<Failed>,
        ran: Duration,
        phase: &'static str,
        began: Instant,
    ) -> Result<(), PluginError> {
        let limited = matches!(&failed, Some(Failed::Trapped { kind: TrapKind::RunTime, .. }));
        self.plugin.standing.record(Instant::now(), ran, limited);
        let lost = || PluginError::Lost { plugin: self.plugin_key().clone(), phase };
        let slot = self.slots.get(index).ok_or_else(lost)?;
        match failed {
            None => {
                self.settle(index, slot, &mut vm);
                Ok(())
            }
            Some(failed) => {
                slot.number.store(0, Ordering::Release);
                // Those whose exchanges it paused are told.
                *vm = None;
                drop(vm);
                self.want(slot);
                Err(self.error(failed, phase, began))
            }
        }
    }

    /// A call panicked, which is a bug of the host: its VM is not used again.
    fn lose(&self, index: usize) {
        let Some(slot) = self.slots.get(index) else { return };
        slot.number.store(0, Ordering::Release);
        if let Ok(mut vm) = slot.vm.clone().try_lock_owned() {
            *vm = None;
        }
        self.want(slot);
    }

    fn error(&self, failed: Failed, phase: &'static str, began: Instant) -> PluginError {
        let plugin = self.plugin_key().clone();
        match failed {
            Failed::Trapped { kind, message } => {
                self.plugin.metrics.trapped(kind);
                PluginError::Trap { plugin, phase, kind, message }
            }
            Failed::Late => PluginError::Deadline { plugin, waited: began.elapsed() },
            Failed::UsedUp => PluginError::PoolFull { plugin },
        }
    }

    /// What the guest asked for while it was called.
    pub(super) fn settle(&self, index: usize, slot: &Slot, place: &mut Locked) {
        let Some(vm) = place.as_mut() else { return };
        let tick = vm.tick_period().map_or(0, |period| period.as_millis() as u64);
        if slot.tick.swap(tick, Ordering::AcqRel) != tick {
            self.bell.notify_one();
        }
        let number = slot.number.load(Ordering::Acquire);
        for (token, call) in vm.take_started() {
            let Some(program) = self.shared() else { continue };
            let task = tokio::spawn(async move { program.callout(index, number, token, call).await });
            vm.sent(token, task.abort_handle());
        }
        if self.retired.load(Ordering::SeqCst) && vm.is_idle() {
            slot.number.store(0, Ordering::Release);
            **place = None;
        }
    }

    /// Sends a call and calls the guest back. Ended with the VM.
    async fn callout(&self, index: usize, number: u32, token: u32, call: Started) {
        let began = Instant::now();
        let name = call.kind.callback();
        let answer = call.outbound.fetch(&call.backend, call.request).await;
        self.plugin.log.fetched(answer.as_ref().err().map(|error| error.kind), began.elapsed());
        if let Err(error) = &answer {
            tracing::debug!(plugin = %self.plugin_key(), backend = %call.backend, %error, "a callout got no answer");
        }
        let answered = move |vm: &mut Vm| ((), vm.answered(token, answer));
        self.callback(index, number, name, false, answered).await;
    }

    /// A call of the guest that no exchange waits for. What it fails at ends its VM, and is told in the log.
    pub(super) async fn callback(
        &self,
        index: usize,
        number: u32,
        name: &'static str,
        aside: bool,
        work: impl FnOnce(&mut Vm) -> ((), wasmtime::Result<()>) + Send + 'static,
    ) {
        let until = Instant::now() + self.limits.deadline;
        let failed = async {
            let Some(vm) = self.same_vm(index, number, until).await? else { return Ok(()) };
            let way = self.way(Some(until), aside).await?;
            self.run(index, vm, way, Some(until), name, work).await?.1
        };
        if let Err(error) = failed.await {
            tracing::warn!(%error, "a callback of a plugin failed");
        }
    }

    /// A newer version took over. VMs without an exchange end; the others with their last one.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
        for slot in &self.slots {
            if let Ok(mut vm) = slot.vm.clone().try_lock_owned()
                && vm.as_ref().is_some_and(Vm::is_idle)
            {
                slot.number.store(0, Ordering::Release);
                *vm = None;
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.bell.notify_one();
    }
}

impl Slot {
    fn new(bell: &Arc<Notify>) -> Slot {
        Slot {
            vm: Arc::new(Mutex::new(None)),
            number: AtomicU32::new(0),
            wanted: AtomicBool::new(false),
            is_new: AtomicBool::new(false),
            tick: AtomicU64::new(0),
            queues: QueueOwner::new(bell.clone()),
            left: SegQueue::new(),
        }
    }
}

fn not_started(reason: &NotStarted) -> Failure {
    match reason {
        NotStarted::Invalid(message) => Failure::invalid(message.clone()),
        NotStarted::Refused { callback, said } => {
            let message = match said {
                Some(said) => format!("the filter refuses it ({callback} said no): {said}"),
                None => format!("the filter refuses it ({callback} said no), and tells no reason in the log"),
            };
            Failure::new(ProblemCode::PluginConfig, "config", message)
        }
        NotStarted::Failed { during, failed: Failed::Trapped { kind, message } } => {
            let field = if *during == "proxy_on_configure" { "config" } else { "spec.source" };
            Failure::new(ProblemCode::PluginTrap, field, format!("{kind} in {during}: {message}"))
        }
        NotStarted::Failed { .. } => {
            let failure = Failure::new(ProblemCode::PluginTrap, "spec.source", "no instance can be made now");
            Failure { retry: true, ..failure }
        }
    }
}

/// What a filter calls outside of an exchange: by what its Plugin is given now.
struct Own {
    plugin: PluginKey,
    backends: Arc<OnceLock<Box<dyn Backends>>>,
}

impl Own {
    fn now(&self) -> Option<Arc<dyn Outbound>> {
        self.backends.get()?.of(&self.plugin)
    }
}

impl Outbound for Own {
    fn has(&self, backend: &str) -> bool {
        self.now().is_some_and(|outbound| outbound.has(backend))
    }

    fn fetch(
        &self,
        backend: &str,
        request: OutboundRequest,
    ) -> BoxFuture<'static, Result<OutboundResponse, FetchError>> {
        match self.now() {
            Some(outbound) => outbound.fetch(backend, request),
            None => {
                let error = FetchError::new(FetchErrorKind::NotAllowed, "the plugin is given no backend any more");
                std::future::ready(Err(error)).boxed()
            }
        }
    }
}
