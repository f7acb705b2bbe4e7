//! Threads of low priority, for plugins that would keep a serving thread too long ([`crate::standing`]).

use crate::engine::TICK;
use crate::instance::State;
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::cell::Cell;
use std::sync::Arc;
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
}

/// The right to use one of the threads.
pub(crate) struct Turn(OwnedSemaphorePermit);

impl Aside {
    pub(crate) fn new(threads: usize) -> std::io::Result<Aside> {
        let threads = threads.max(1);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("plugin-aside")
            .worker_threads(1)
            .max_blocking_threads(threads)
            .on_thread_start(|| lower_priority(NICE))
            .build()?;
        Ok(Aside { runtime: Some(runtime), turns: Arc::new(Semaphore::new(threads)) })
    }

    /// Waits for a thread, at most for `deadline`.
    pub(crate) async fn turn(&self, deadline: Duration) -> Option<Turn> {
        match tokio::time::timeout(deadline, self.turns.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Some(Turn(permit)),
            _ => None,
        }
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
            drop(turn.0);
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

/// Makes this thread give way to others. Where that is not allowed it stays as it is: the plugin runs all the same.
pub(crate) fn lower_priority(nice: i32) {
    if let Err(error) = rustix::process::nice(nice) {
        tracing::debug!(%error, nice, "the priority of a plugin thread stays as it is");
    }
}

/// CPU time of this thread.
pub(crate) fn thread_time() -> Duration {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(tv_sec).unwrap_or(0), u32::try_from(tv_nsec).unwrap_or(0))
}

/// Interrupts the guest after `limit` of this thread's CPU time: on a thread that gives way to others, wall time says
/// nothing about the guest. Looks at each tick.
pub(crate) fn limit_cpu_time(store: &mut Store<State>, limit: Duration) {
    let end = thread_time().saturating_add(limit.max(TICK));
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |_| {
        if thread_time() < end { Ok(UpdateDeadline::Continue(1)) } else { Err(Trap::Interrupt.into()) }
    });
}

thread_local! {
    /// This thread's CPU time at the first tick within the call that it runs; none in a call of ordinary length.
    static FIRST_TICK: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// Interrupts the guest after about `limit` of CPU time on a thread that serves requests. Looks for the first time at the
/// first tick, which a call of ordinary length never meets: until then it costs nothing, and from then on the time
/// counts. A guest whose thread was not running (the machine is busy) has done nothing wrong.
pub(crate) fn limit_from_first_tick(store: &mut Store<State>, limit: Duration) {
    FIRST_TICK.set(None);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |_| {
        let now = thread_time();
        let began = FIRST_TICK.get().unwrap_or(now);
        FIRST_TICK.set(Some(began));
        if now < began.saturating_add(limit) { Ok(UpdateDeadline::Continue(1)) } else { Err(Trap::Interrupt.into()) }
    });
}

/// How long the call that began at `started` on this thread has run, a tick more or less: time on the clock while that
/// is short, CPU time where the thread may have been taken off its core.
pub(crate) fn ran_in_place(started: Instant) -> Duration {
    let elapsed = started.elapsed();
    if elapsed <= TICK {
        return elapsed;
    }
    let ran = FIRST_TICK.get().map_or(TICK, |began| thread_time().saturating_sub(began) + TICK);
    ran.min(elapsed)
}
