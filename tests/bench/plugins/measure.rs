//! CPU time of a call, and what a second thread adds.

use crate::subject::Subject;
use rustix::time::{ClockId, clock_gettime};
use sluice_wasm::Configured;
use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

/// Rounds, of which the median counts.
const ROUNDS: usize = 9;

/// Before anything counts: pools are filled, and what a policy remembers is there.
const WARM_UP: u32 = 200;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    /// Nanoseconds of CPU time of the whole process a call.
    pub(crate) ns: u64,
    pub(crate) lowest: u64,
    pub(crate) highest: u64,
    /// Calls a second by two threads, by those of one.
    pub(crate) two_threads: f64,
}

pub(crate) fn figures(subject: &Subject, version: &Arc<Configured>, a_round: Duration) -> Figures {
    let began = Instant::now();
    calls(subject, version, WARM_UP);
    let each = (began.elapsed() / WARM_UP).max(Duration::from_nanos(100));
    let count = u32::try_from(a_round.as_nanos() / each.as_nanos()).unwrap_or(u32::MAX).max(10);
    let (mut cpu, mut gains) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (before, began) = (cpu_time(), Instant::now());
        calls(subject, version, count);
        let (spent, one) = (cpu_time() - before, began.elapsed());
        // What putting the exchanges together costs is none of the policy's.
        let before = cpu_time();
        (0..count).for_each(|_| drop(black_box(subject.exchange())));
        let own = cpu_time() - before;
        cpu.push(spent.saturating_sub(own) / u64::from(count));
        gains.push(2.0 * one.as_secs_f64() / by_two(subject, version, count).as_secs_f64());
    }
    cpu.sort_unstable();
    gains.sort_unstable_by(f64::total_cmp);
    Figures { ns: cpu[ROUNDS / 2], lowest: cpu[0], highest: cpu[ROUNDS - 1], two_threads: gains[ROUNDS / 2] }
}

/// So many calls, one after the other.
fn calls(subject: &Subject, version: &Arc<Configured>, count: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        for _ in 0..count {
            subject.call(version).await;
        }
    });
}

/// How long two threads take for so many calls each.
fn by_two(subject: &Subject, version: &Arc<Configured>, count: u32) -> Duration {
    let start = Barrier::new(3);
    std::thread::scope(|scope| {
        let threads = [(); 2].map(|()| {
            scope.spawn(|| {
                start.wait();
                calls(subject, version, count);
            })
        });
        start.wait();
        let began = Instant::now();
        threads.into_iter().for_each(|thread| thread.join().expect("a thread of calls"));
        began.elapsed()
    })
}

/// Of the whole process: a policy that may run for long has its calls on threads of the host's.
fn cpu_time() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    u64::try_from(time.tv_sec).unwrap_or_default() * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or_default()
}
