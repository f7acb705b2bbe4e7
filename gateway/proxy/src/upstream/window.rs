//! How often something happened lately, counted without a lock.

use super::clock::millis;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Parts of an interval: what is summed up is the last nine to ten tenths of it.
const PARTS: u64 = 10;

/// Counts over an interval that moves with time. Each part holds the number of its stretch of time in its upper half and its count
/// in the lower; one of another time is empty. Counted with another interval, it begins anew.
#[derive(Debug, Default)]
pub(super) struct Window([AtomicU64; PARTS as usize]);

impl Window {
    /// `now` is a clock's time, in milliseconds.
    pub(super) fn add(&self, now: u64, interval: Duration) {
        self.change(now, interval, |count| count.saturating_add(1));
    }

    /// One that was counted at this time did not happen.
    pub(super) fn take_back(&self, now: u64, interval: Duration) {
        self.change(now, interval, |count| count.saturating_sub(1));
    }

    pub(super) fn sum(&self, now: u64, interval: Duration) -> u64 {
        let current = stretch(now, interval);
        let oldest = current.saturating_sub(PARTS - 1);
        let of = |part: &AtomicU64| {
            let (of, count) = halves(part.load(Relaxed));
            if (oldest..=current).contains(&of) { u64::from(count) } else { 0 }
        };
        self.0.iter().map(of).sum()
    }

    fn change(&self, now: u64, interval: Duration, to: impl Fn(u32) -> u32) {
        let current = stretch(now, interval);
        let Some(part) = self.0.get((current % PARTS) as usize) else { return };
        // The closure always gives a value, so that this cannot fail.
        let _ = part.fetch_update(Relaxed, Relaxed, |value| {
            let (of, count) = halves(value);
            let count = if of == current { count } else { 0 };
            Some(current << 32 | u64::from(to(count)))
        });
    }
}

/// The number of the stretch of time that `now` is in: never 0, which an empty part has.
fn stretch(now: u64, interval: Duration) -> u64 {
    (now / (millis(interval) / PARTS).max(1) + PARTS) & u64::from(u32::MAX)
}

/// The stretch of time, and the count.
fn halves(value: u64) -> (u64, u32) {
    (value >> 32, value as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_happened_before_the_interval_does_not_count() {
        let window = Window::default();
        assert_eq!(window.sum(1, SECOND), 0);
        for now in [1, 50, 150, 950] {
            window.add(now, SECOND);
        }
        assert_eq!(window.sum(999, SECOND), 4);
        assert_eq!(window.sum(1_000, SECOND), 2, "the first tenth of a second is over");
        assert_eq!(window.sum(1_850, SECOND), 1);
        assert_eq!(window.sum(1_950, SECOND), 0);
        window.add(1_950, SECOND);
        assert_eq!(window.sum(1_950, SECOND), 1, "its place had held an older count");
    }

    #[test]
    fn what_is_taken_back_was_never_there() {
        let window = Window::default();
        window.add(1, SECOND);
        window.take_back(1, SECOND);
        window.take_back(1, SECOND);
        assert_eq!(window.sum(1, SECOND), 0);
    }

    #[test]
    fn many_threads_lose_no_count() {
        let window = std::sync::Arc::new(Window::default());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1_000).for_each(|n| window.add(n, SECOND)));
            }
        });
        assert_eq!(window.sum(999, SECOND), 4_000);
    }
}
