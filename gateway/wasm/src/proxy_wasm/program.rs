//! A filter with one configuration: its VMs, and how calls come to them.

use super::callouts::Started;
use super::keeper;
use super::module::Code;
use super::place::{Locked, Place};
use super::settings::configuration;
use super::shared::QueueOwner;
use super::state::Settings;
use super::vm::{NotStarted, Parts, Vm};
use crate::TrapKind;
use crate::aside::{Aside, Bounds, Turn, limit_cpu_time, limit_from_first_tick, ran_in_place, thread_time};
use crate::build::{CONFIGURE_TIME, Failure};
use crate::configured::{LONGEST_IN_PLACE, PluginState};
use crate::engine::{Engine, TICK};
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
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

/// A filter whose VM did not start again is not tried for as long: its exchanges fail at once.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// What a call that might run in place takes at most on a thread of low priority, which on a busy machine gets a tenth of its
/// core ([`crate::aside::NICE`]).
const LONGEST_ASIDE: Duration = LONGEST_IN_PLACE.saturating_mul(10);

/// How often a thread that can't do anything else looks whether a VM is free.
const POLL: Duration = Duration::from_micros(100);

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
    pub(super) vm: Place,
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

/// A VM that the guest, or the host for it, is at work in. Where that panics, which is a bug of the host, the VM is not used
/// again.
struct AtWork<'p> {
    program: &'p Program,
    index: usize,
    vm: Option<Locked>,
}

impl AtWork<'_> {
    fn live(&mut self) -> Option<&mut Vm> {
        self.vm.as_mut()?.as_mut()
    }

    fn over(mut self) -> Option<Locked> {
        self.vm.take()
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        let Some(mut vm) = self.vm.take() else { return };
        let Some(slot) = self.program.slots.get(self.index) else { return };
        slot.number.store(0, Ordering::Release);
        *vm = None;
        drop(vm);
        self.program.want(slot);
    }
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
        program.put(first, &mut *first.vm.try_lock().ok_or_else(|| Failure::invalid("it is in use"))?, vm);
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
        turn: Turn,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        self.host.aside.run(turn, work).await.ok()
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
                match slot.vm.try_lock_in_turn() {
                    Some(vm) if vm.is_some() => return Ok((index, vm)),
                    Some(_) => {}
                    None => waits_for = waits_for.or(Some((index, slot))),
                }
            }
            if let Some((index, slot)) = waits_for {
                let locked = tokio::time::timeout_at(until.into(), slot.vm.lock()).await;
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
        let vm = match slot.vm.try_lock_in_turn() {
            Some(vm) => vm,
            None => match tokio::time::timeout_at(until.into(), slot.vm.lock()).await {
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

    /// The same on a thread that must not wait. For what another thread does with the VM it waits all the same, from `began`
    /// on: within the deadline for one that serves, which may have been taken off its core, and for as long as a short
    /// call may take on one of low priority.
    pub(super) fn same_vm_at_once(
        &self,
        index: usize,
        number: u32,
        began: Instant,
    ) -> Result<Option<Locked>, PluginError> {
        let Some(slot) = self.slot_of(index, number) else { return Ok(None) };
        loop {
            if let Some(vm) = slot.vm.try_lock() {
                return Ok((vm.is_some() && slot.number.load(Ordering::Acquire) == number).then_some(vm));
            }
            let waited = began.elapsed();
            let patience = match slot.vm.is_aside() {
                false => self.limits.deadline,
                true if self.limits.run_time <= LONGEST_IN_PLACE => LONGEST_ASIDE,
                true => LONGEST_IN_PLACE,
            };
            if waited >= patience {
                return Err(PluginError::Deadline { plugin: self.plugin_key().clone(), waited });
            }
            // A call of ordinary length is over before a thread is woken; after that, the core may be what it needs.
            match waited < TICK {
                true => std::thread::yield_now(),
                false => std::thread::sleep(POLL),
            }
        }
    }

    /// Whether the next call may run on a thread that serves.
    fn runs_here(&self) -> bool {
        self.limits.run_time <= LONGEST_IN_PLACE && self.plugin.standing.is_good(Instant::now())
    }

    /// A turn on a thread of low priority.
    pub(super) async fn turn(&self, until: Option<Instant>) -> Result<Turn, PluginError> {
        let began = Instant::now();
        match self.host.aside.turn(&self.plugin.lane, until).await {
            Some(turn) => Ok(turn),
            None => Err(PluginError::Deadline { plugin: self.plugin_key().clone(), waited: began.elapsed() }),
        }
    }

    /// A VM, and where the next call of it runs. `at`: the one of this slot and number; none where that has ended. Nothing is
    /// waited for with a VM in hand: the thread of whoever waits may be just the one that needs it
    /// ([`Program::same_vm_at_once`]). Nor is a VM waited for with a turn in hand: whoever makes one needs that.
    pub(super) async fn vm_and_way(
        &self,
        at: Option<(usize, u32)>,
        until: Instant,
        aside: bool,
    ) -> Result<Option<(usize, Locked, Way)>, PluginError> {
        let by_turn = |vm: Locked, turn| {
            vm.goes_aside();
            self.plugin.metrics.aside.inc();
            (vm, Way::Aside(turn))
        };
        loop {
            let (index, vm) = match at {
                None => self.vm(until).await?,
                Some((index, number)) => match self.same_vm(index, number, until).await? {
                    Some(vm) => (index, vm),
                    None => return Ok(None),
                },
            };
            if !aside && self.runs_here() {
                return Ok(Some((index, vm, Way::Here)));
            }
            if let Some(turn) = self.host.aside.turn_at_once(&self.plugin.lane) {
                let (vm, way) = by_turn(vm, turn);
                return Ok(Some((index, vm, way)));
            }
            let number = self.slots.get(index).map_or(0, |slot| slot.number.load(Ordering::Acquire));
            drop(vm);
            let turn = self.turn(Some(until)).await?;
            // Those in line can't do anything with it without a turn.
            let again = self.slot_of(index, number).and_then(|slot| slot.vm.try_lock());
            if let Some(vm) = again.filter(|vm| vm.is_some() && self.slot_of(index, number).is_some()) {
                let (vm, way) = by_turn(vm, turn);
                return Ok(Some((index, vm, way)));
            }
        }
    }

    /// Works with a VM. What the guest fails at ends the VM, and is the inner error.
    pub(super) async fn run<R: Send + 'static>(
        &self,
        index: usize,
        vm: Locked,
        way: Way,
        until: Option<Instant>,
        phase: &'static str,
        work: impl FnOnce(&mut Vm) -> (R, wasmtime::Result<()>) + Send + 'static,
    ) -> Result<(R, Result<(), PluginError>), PluginError> {
        let lost = || PluginError::Lost { plugin: self.plugin_key().clone(), phase };
        let began = Instant::now();
        let bounds = Bounds { run_time: self.limits.run_time, until };
        match way {
            Way::Here => {
                let mut at_work = AtWork { program: self, index, vm: Some(vm) };
                let live = at_work.live().ok_or_else(lost)?;
                limit_from_first_tick(&mut live.store, bounds);
                let (result, ended) = work(live);
                let failed = ended.err().map(|error| live.failed(&error));
                let vm = at_work.over().ok_or_else(lost)?;
                Ok((result, self.conclude(index, vm, None, failed, ran_in_place(began), phase, began)))
            }
            Way::Aside(turn) => {
                let program = self.shared().ok_or_else(lost)?;
                let home = Handle::current();
                // To its end there, whatever becomes of this task: it may not run for a while, and others wait for the VM.
                let running = self.host.aside.run(turn, move || {
                    let mut at_work = AtWork { program: &program, index, vm: Some(vm) };
                    let live = at_work.live()?;
                    let from = thread_time();
                    limit_cpu_time(&mut live.store, bounds);
                    let (result, ended) = work(live);
                    let failed = ended.err().map(|error| live.failed(&error));
                    let ran = thread_time().saturating_sub(from);
                    let vm = at_work.over()?;
                    Some((result, program.conclude(index, vm, Some(&home), failed, ran, phase, began)))
                });
                match running.await {
                    Ok(Some(done)) => Ok(done),
                    Ok(None) | Err(_) => Err(lost()),
                }
            }
        }
    }

    /// The same on this thread, at once.
    pub(super) fn run_here<R>(
        &self,
        index: usize,
        vm: Locked,
        until: Option<Instant>,
        phase: &'static str,
        work: impl FnOnce(&mut Vm) -> (R, wasmtime::Result<()>),
    ) -> Result<(R, Result<(), PluginError>), PluginError> {
        let began = Instant::now();
        let lost = || PluginError::Lost { plugin: self.plugin_key().clone(), phase };
        let mut at_work = AtWork { program: self, index, vm: Some(vm) };
        let live = at_work.live().ok_or_else(lost)?;
        let run_time = self.limits.run_time.min(LONGEST_IN_PLACE);
        limit_from_first_tick(&mut live.store, Bounds { run_time, until });
        let (result, ended) = work(live);
        let failed = ended.err().map(|error| live.failed(&error));
        let vm = at_work.over().ok_or_else(lost)?;
        Ok((result, self.conclude(index, vm, None, failed, ran_in_place(began), phase, began)))
    }

    /// Judges a call that ended. `home`: where what the guest asked for is done, if not on this thread.
    #[allow(clippy::too_many_arguments)] // what is known of one call
    fn conclude(
        &self,
        index: usize,
        mut vm: Locked,
        home: Option<&Handle>,
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
                self.settle(index, slot, &mut vm, home);
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
    pub(super) fn settle(&self, index: usize, slot: &Slot, place: &mut Locked, home: Option<&Handle>) {
        let Some(vm) = place.as_mut() else { return };
        let tick = vm.tick_period().map_or(0, |period| period.as_millis() as u64);
        if slot.tick.swap(tick, Ordering::AcqRel) != tick {
            self.bell.notify_one();
        }
        let number = slot.number.load(Ordering::Acquire);
        for (token, call) in vm.take_started() {
            let Some(program) = self.shared() else { continue };
            let callout = async move { program.callout(index, number, token, call).await };
            let task = match home {
                Some(home) => home.spawn(callout),
                None => tokio::spawn(callout),
            };
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
            let Some((index, vm, way)) = self.vm_and_way(Some((index, number)), until, aside).await? else {
                return Ok(());
            };
            self.run(index, vm, way, Some(until), name, work).await?.1
        };
        if let Err(error) = failed.await {
            tracing::warn!(%error, "a callback of a plugin failed");
        }
    }

    /// The exchange of this context was given up: the keeper ends it.
    pub(super) fn forget(&self, slot: usize, number: u32, context: u32) {
        if let Some(slot) = self.slots.get(slot) {
            slot.left.push((number, context));
            self.bell.notify_one();
        }
    }

    /// A newer version took over. VMs without an exchange end; the others with their last one.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
        for slot in &self.slots {
            if let Some(mut vm) = slot.vm.try_lock()
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
            vm: Place::default(),
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
