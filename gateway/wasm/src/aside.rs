//! Threads of low priority, for plugins that would keep a serving thread too long ([`crate::standing`]).

use crate::engine::{TICK, tick_faster};
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use wasmtime::{Store, Trap, UpdateDeadline};

/// Niceness of these threads, and of the one that compiles: with every core busy they get a tenth of what a serving
/// thread gets. Nicer still, and a new version would not come for as long as the machine is busy.
pub(crate) const NICE: i32 = 10;

pub(crate) struct Aside {
    /// Taken only by drop, which must not wait for guests.
    runtime: Option<Runtime>,
    turns: Arc<Semaphore>,
    threads: usize,
}

/// One plugin's way to the threads. It is narrower than all of them where there are several, and only its first in line
/// stand in the common queue: a plugin whose calls are endless has its turn as often as each other, and no more.
#[derive(Debug)]
pub(crate) struct Lane(Arc<Semaphore>);

/// The right to use one of the threads.
pub(crate) struct Turn {
    _lane: OwnedSemaphorePermit,
    _thread: OwnedSemaphorePermit,
}

impl Aside {
    pub(crate) fn new(threads: usize) -> std::io::Result<Aside> {
        let threads = threads.max(1);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("plugin-aside")
            .worker_threads(1)
            .max_blocking_threads(threads)
            .enable_all()
            .on_thread_start(|| lower_priority(NICE))
            .build()?;
        Ok(Aside { runtime: Some(runtime), turns: Arc::new(Semaphore::new(threads)), threads })
    }

    pub(crate) fn lane(&self) -> Lane {
        Lane(Arc::new(Semaphore::new((self.threads - 1).max(1))))
    }

    /// A thread that is free now.
    pub(crate) fn turn_at_once(&self, lane: &Lane) -> Option<Turn> {
        let lane = lane.0.clone().try_acquire_owned().ok()?;
        let thread = self.turns.clone().try_acquire_owned().ok()?;
        Some(Turn { _lane: lane, _thread: thread })
    }

    /// Waits for a thread, at most until `until`.
    pub(crate) async fn turn(&self, lane: &Lane, until: Option<Instant>) -> Option<Turn> {
        let turn = async {
            let lane = lane.0.clone().acquire_owned().await.ok()?;
            let thread = self.turns.clone().acquire_owned().await.ok()?;
            Some(Turn { _lane: lane, _thread: thread })
        };
        match until {
            Some(until) => tokio::time::timeout_at(until.into(), turn).await.ok().flatten(),
            None => turn.await,
        }
    }

    /// Runs a call that may wait on the thread of low priority that is for such calls: it gives way at each tick, so that it needs
    /// no turn. An error means that it panicked.
    pub(crate) async fn poll<T: Send + 'static>(
        &self,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Panicked> {
        let Some(runtime) = &self.runtime else { return Err(Panicked) };
        runtime.spawn(call).await.map_err(|_| Panicked)
    }

    /// Runs a task of the host's own on the thread of low priority that is for such; `false` where that is gone.
    pub(crate) fn keep(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        self.runtime.as_ref().map(|runtime| runtime.spawn(task)).is_some()
    }

    /// Runs `work` on the thread that the turn is for. An error means that it panicked.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        turn: Turn,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Panicked> {
        let Some(runtime) = &self.runtime else { return Err(Panicked) };
        let running: JoinHandle<T> = runtime.spawn_blocking(move || {
            let result = work();
            drop(turn);
            result
        });
        running.await.map_err(|_| Panicked)
    }
}

/// The work did not end well.
#[derive(Debug)]
pub(crate) struct Panicked;

impl Drop for Aside {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

thread_local! {
    static IS_LOW: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread gives way to others.
pub(crate) fn is_low_priority() -> bool {
    IS_LOW.get()
}

/// Makes this thread give way to others. Where that is not allowed it stays as it is: the plugin runs all the same.
pub(crate) fn lower_priority(nice: i32) {
    IS_LOW.set(true);
    if let Err(error) = rustix::process::nice(nice) {
        tracing::debug!(%error, nice, "the priority of a plugin thread stays as it is");
    }
}

/// CPU time of this thread.
pub(crate) fn thread_time() -> Duration {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(tv_sec).unwrap_or(0), u32::try_from(tv_nsec).unwrap_or(0))
}

/// Nobody waits for the call any longer: it is ended, whatever the guest has used of its own time.
#[derive(Debug, thiserror::Error)]
#[error("the call's deadline has passed")]
pub(crate) struct Late;

/// What a call may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// CPU time of the guest.
    pub(crate) run_time: Duration,
    /// On the clock.
    pub(crate) until: Option<Instant>,
}

impl Bounds {
    fn check(&self, ends: Duration) -> wasmtime::Result<UpdateDeadline> {
        tick_faster();
        if thread_time() >= ends {
            return Err(Trap::Interrupt.into());
        }
        if self.until.is_some_and(|until| until <= Instant::now()) {
            return Err(Late.into());
        }
        Ok(UpdateDeadline::Continue(1))
    }
}

/// Interrupts the guest after its run time by this thread's CPU time: on a thread that gives way to others, wall time
/// says nothing about the guest. Looks at each tick, and at the clock too: nobody waits for longer than the deadline.
pub(crate) fn limit_cpu_time<T: 'static>(store: &mut Store<T>, bounds: Bounds) {
    let ends = thread_time().saturating_add(bounds.run_time.max(TICK));
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |_| bounds.check(ends));
}

thread_local! {
    /// This thread's CPU time at the first tick within the call that it runs; none in a call of ordinary length.
    static FIRST_TICK: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// Interrupts the guest after about its run time of CPU time on a thread that serves requests. Looks for the first time at the
/// first tick, which a call of ordinary length never meets: until then it costs nothing, and from then on the time
/// counts. A guest whose thread was not running (the machine is busy) has done nothing wrong.
pub(crate) fn limit_from_first_tick<T: 'static>(store: &mut Store<T>, bounds: Bounds) {
    FIRST_TICK.set(None);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |_| {
        let began = FIRST_TICK.get().unwrap_or_else(thread_time);
        FIRST_TICK.set(Some(began));
        bounds.check(began.saturating_add(bounds.run_time))
    });
}

thread_local! {
    /// What this thread's CPU time was, less what the call that it polls had used before.
    static POLLED_FROM: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Interrupts the guest of a call that may wait after its run time of CPU time, over all polls of [`Counted`]. At each tick it
/// gives way to whatever else its thread serves.
pub(crate) fn limit_over_polls<T: 'static>(store: &mut Store<T>, bounds: Bounds) {
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |_| {
        bounds.check(POLLED_FROM.get().saturating_add(bounds.run_time.max(TICK)))?;
        Ok(UpdateDeadline::Yield(1))
    });
}

pin_project_lite::pin_project! {
    /// A call that may wait, with the CPU time that it used on whichever threads polled it.
    pub(crate) struct Counted<F> {
        #[pin]
        call: F,
        used: Duration,
    }
}

impl<F: Future> Counted<F> {
    pub(crate) fn new(call: F) -> Counted<F> {
        Counted { call, used: Duration::ZERO }
    }
}

impl<F: Future> Future for Counted<F> {
    type Output = (F::Output, Duration);

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let from = thread_time().saturating_sub(*this.used);
        // A call never runs within another's poll, so nobody's is lost here.
        POLLED_FROM.set(from);
        let polled = this.call.poll(context);
        *this.used = thread_time().saturating_sub(from);
        polled.map(|output| (output, *this.used))
    }
}

/// How long the call that began at `started` on this thread has run, about: time on the clock while that is short, CPU
/// time from its first tick on where the thread may have been taken off its core. What passed before that tick counts as one
/// short tick, so that a call that met none is not taken for a slow one.
pub(crate) fn ran_in_place(started: Instant) -> Duration {
    let elapsed = started.elapsed();
    if elapsed <= TICK {
        return elapsed;
    }
    let ran = FIRST_TICK.get().map_or(TICK, |began| thread_time().saturating_sub(began) + TICK);
    ran.min(elapsed)
}
