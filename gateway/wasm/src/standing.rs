//! Whether a plugin may run on the threads that serve requests.
//!
//! A call is synchronous: while it runs, its thread serves nobody else. For a call of microseconds that is the cheapest
//! way there is; one of ten milliseconds is every neighbour's latency. So a plugin in good standing runs in place, and one
//! whose calls were slow runs aside, on a few threads of low priority, until it has had no slow call for a while. What
//! a looping guest costs its neighbours is then one run time limit each time it loses its standing, not one a request.
//! docs/prototypes/slow-plugins.md has the figures, beside those of guests that yield.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// A call above this is slow. A tuned guest takes 10 us; at two milliseconds a hundred such calls a second would cost a
/// fifth of a core.
pub(crate) const SLOW_CALL: Duration = Duration::from_millis(2);

/// Slow calls that are forgiven, within [`PROBATION`]: a thread may have been taken off its core. A call that ran to its
/// limit is not.
const FORGIVEN: u32 = 3;

/// A call below this is quick, and never counts. A tuned guest takes 10 us, one in JavaScript 20.
const QUICK_CALL: Duration = Duration::from_micros(200);

/// Time in calls that were not quick, within [`WINDOW`], that costs the standing: many calls of 1.9 ms take a serving thread
/// as one of ten does.
const MOST_TIME: Duration = Duration::from_millis(250);
const WINDOW: Duration = Duration::from_secs(1);

/// For how long after its last slow call a plugin runs aside.
pub(crate) const PROBATION: Duration = Duration::from_secs(10);

/// One plugin's standing, shared by all its uses and versions.
#[derive(Debug)]
pub(crate) struct Standing {
    since: Instant,
    /// Milliseconds after `since` until which it runs aside.
    aside_until: AtomicU64,
    slow_calls: AtomicU32,
    last_slow: AtomicU64,
    /// The window that `busy` counts for, and microseconds in it.
    window: AtomicU64,
    busy: AtomicU64,
}

impl Standing {
    pub(crate) fn new(now: Instant) -> Standing {
        Standing {
            since: now,
            aside_until: AtomicU64::new(0),
            slow_calls: AtomicU32::new(0),
            last_slow: AtomicU64::new(0),
            window: AtomicU64::new(0),
            busy: AtomicU64::new(0),
        }
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.since).as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn is_good(&self, now: Instant) -> bool {
        let until = self.aside_until.load(Relaxed);
        until == 0 || self.millis(now) >= until
    }

    /// A call ended at `now` after running for `ran`; `limited` where its run time limit ended it.
    pub(crate) fn record(&self, now: Instant, ran: Duration, limited: bool) {
        if ran < QUICK_CALL && !limited {
            return;
        }
        let now = self.millis(now);
        let probation = PROBATION.as_millis() as u64;
        if self.is_busy(now, ran) {
            self.aside_until.store(now + probation, Relaxed);
        }
        if ran < SLOW_CALL && !limited {
            return;
        }
        if now.saturating_sub(self.last_slow.swap(now, Relaxed)) > probation {
            self.slow_calls.store(0, Relaxed);
        }
        let aside = self.aside_until.load(Relaxed) > now;
        if limited || aside || self.slow_calls.fetch_add(1, Relaxed) >= FORGIVEN {
            self.aside_until.store(now + probation, Relaxed);
        }
    }

    /// Counts a call's time. Under a race at a window's begin some of it may not be counted.
    fn is_busy(&self, now: u64, ran: Duration) -> bool {
        let window = now / WINDOW.as_millis() as u64;
        if self.window.swap(window, Relaxed) != window {
            self.busy.store(0, Relaxed);
        }
        let ran = u64::try_from(ran.as_micros()).unwrap_or(u64::MAX);
        self.busy.fetch_add(ran, Relaxed).saturating_add(ran) > MOST_TIME.as_micros() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: Duration = Duration::from_millis(3);

    #[test]
    fn a_call_that_ran_to_its_limit_costs_the_standing_at_once() {
        let start = Instant::now();
        let standing = Standing::new(start);
        assert!(standing.is_good(start));
        standing.record(start, Duration::from_millis(10), true);
        assert!(!standing.is_good(start + Duration::from_secs(9)));
        assert!(standing.is_good(start + Duration::from_secs(10)));
    }

    #[test]
    fn a_few_slow_calls_are_forgiven() {
        let start = Instant::now();
        let standing = Standing::new(start);
        for _ in 0..FORGIVEN {
            standing.record(start, SLOW, false);
            assert!(standing.is_good(start));
        }
        standing.record(start, SLOW, false);
        assert!(!standing.is_good(start));
    }

    #[test]
    fn slow_calls_far_apart_never_add_up() {
        let start = Instant::now();
        let standing = Standing::new(start);
        for n in 0..100 {
            let now = start + (PROBATION + Duration::from_secs(1)) * n;
            standing.record(now, SLOW, false);
            assert!(standing.is_good(now), "call {n}");
        }
    }

    #[test]
    fn calls_that_are_not_slow_cost_the_standing_when_they_take_a_thread_together() {
        let start = Instant::now();
        let standing = Standing::new(start);
        let call = Duration::from_micros(1_900);
        // A tenth of a core is not too much.
        for n in 0..500 {
            standing.record(start + Duration::from_millis(19) * n, call, false);
        }
        let now = start + Duration::from_secs(20);
        assert!(standing.is_good(now));
        for n in 0..500 {
            standing.record(now + Duration::from_millis(2) * n, call, false);
        }
        assert!(!standing.is_good(now + Duration::from_secs(1)));
    }

    #[test]
    fn any_number_of_quick_calls_is_allowed() {
        let start = Instant::now();
        let standing = Standing::new(start);
        for _ in 0..100_000 {
            standing.record(start, Duration::from_micros(20), false);
        }
        assert!(standing.is_good(start));
    }

    #[test]
    fn quick_calls_cost_nothing_and_slow_ones_aside_prolong_the_stay() {
        let start = Instant::now();
        let standing = Standing::new(start);
        standing.record(start, Duration::from_millis(10), true);
        standing.record(start + Duration::from_secs(5), Duration::from_micros(10), false);
        assert!(standing.is_good(start + Duration::from_secs(10)));
        standing.record(start + Duration::from_secs(9), SLOW, false);
        assert!(!standing.is_good(start + Duration::from_secs(18)));
        assert!(standing.is_good(start + Duration::from_secs(19)));
    }
}
