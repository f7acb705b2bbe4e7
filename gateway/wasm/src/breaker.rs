//! `limits.circuitBreaker`: a plugin that only fails is not called for a while.
//!
//! It opens at so many failures in a row within a window, and for as long; then one call is let through, and its outcome says
//! whether all are. Failures that successes lie between never add up, so that a client who knows how to make a plugin fail
//! can't shut it for those whose calls succeed.

use sluice_model::plugin::CircuitBreaker;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// One plugin's breaker, shared by all its uses and versions.
#[derive(Debug)]
pub(crate) struct Breaker {
    since: Instant,
    /// Failures in a row, and the millisecond of the first one.
    failures: AtomicU32,
    first: AtomicU64,
    /// The millisecond at which a call is let through again; 0 while it is closed.
    open_until: AtomicU64,
}

impl Breaker {
    pub(crate) fn new(now: Instant) -> Breaker {
        Breaker { since: now, failures: AtomicU32::new(0), first: AtomicU64::new(0), open_until: AtomicU64::new(0) }
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.since).as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether a call may be made. While it is open one call a window may, to see how things are.
    pub(crate) fn admits(&self, limits: CircuitBreaker, now: Instant) -> bool {
        let until = self.open_until.load(Relaxed);
        if until == 0 {
            return true;
        }
        let now = self.millis(now);
        let next = now.saturating_add(millis(limits.window)).max(1);
        now >= until && self.open_until.compare_exchange(until, next, Relaxed, Relaxed).is_ok()
    }

    pub(crate) fn succeeded(&self) {
        // Most calls find both at zero, and write nothing that others' cores have to fetch.
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
        if self.open_until.load(Relaxed) != 0 {
            self.open_until.store(0, Relaxed);
        }
    }

    /// Says whether it opened by this failure.
    pub(crate) fn failed(&self, limits: CircuitBreaker, now: Instant) -> bool {
        let (now, window) = (self.millis(now), millis(limits.window));
        if now.saturating_sub(self.first.load(Relaxed)) > window {
            self.failures.store(0, Relaxed);
        }
        if self.failures.fetch_add(1, Relaxed) == 0 {
            self.first.store(now, Relaxed);
        }
        if self.failures.load(Relaxed) < limits.failures {
            return false;
        }
        self.open_until.swap(now.saturating_add(window).max(1), Relaxed) == 0
    }

    /// A new version has not failed yet.
    pub(crate) fn reset(&self) {
        self.succeeded();
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: CircuitBreaker = CircuitBreaker { failures: 3, window: Duration::from_secs(10) };

    fn opened() -> (Breaker, Instant) {
        let start = Instant::now();
        let breaker = Breaker::new(start);
        let now = start + Duration::from_secs(1);
        assert_eq!([0; 3].map(|_| breaker.failed(LIMITS, now)), [false, false, true]);
        (breaker, now)
    }

    #[test]
    fn it_opens_at_failures_in_a_row_and_lets_one_call_a_window_through() {
        let (breaker, now) = opened();
        assert!(!breaker.admits(LIMITS, now + Duration::from_secs(9)));
        let later = now + Duration::from_secs(10);
        assert_eq!([0; 3].map(|_| breaker.admits(LIMITS, later)), [true, false, false]);
        // The one that was let through failed, or never came back.
        breaker.failed(LIMITS, later);
        assert!(!breaker.admits(LIMITS, later + Duration::from_secs(9)));
        assert!(breaker.admits(LIMITS, later + Duration::from_secs(10)));
        breaker.succeeded();
        assert_eq!([0; 3].map(|_| breaker.admits(LIMITS, later)), [true; 3]);
        assert!(!breaker.failed(LIMITS, later), "it counts anew");
    }

    #[test]
    fn failures_that_successes_lie_between_or_that_are_far_apart_never_open_it() {
        let start = Instant::now();
        let breaker = Breaker::new(start);
        for _ in 0..100 {
            assert!(!breaker.failed(LIMITS, start));
            assert!(!breaker.failed(LIMITS, start));
            breaker.succeeded();
        }
        for n in 0..100 {
            assert!(!breaker.failed(LIMITS, start + Duration::from_secs(6) * n));
        }
        assert!(breaker.admits(LIMITS, start));
    }

    #[test]
    fn a_new_version_begins_closed() {
        let (breaker, now) = opened();
        breaker.reset();
        assert!(breaker.admits(LIMITS, now));
    }
}
