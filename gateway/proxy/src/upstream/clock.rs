//! Monotonic milliseconds, so that ejection and slow start can be tested without waiting.

use std::time::{Duration, Instant};

#[cfg(test)]
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Milliseconds since the clock was made, plus one: 0 is free to mean "never".
#[derive(Clone, Debug)]
pub(super) enum Clock {
    Monotonic(Instant),
    #[cfg(test)]
    Manual(Arc<AtomicU64>),
}

impl Clock {
    pub(super) fn monotonic() -> Self {
        Clock::Monotonic(Instant::now())
    }

    pub(super) fn now(&self) -> u64 {
        match self {
            Clock::Monotonic(origin) => millis(origin.elapsed()).saturating_add(1),
            #[cfg(test)]
            Clock::Manual(now) => now.load(Ordering::Relaxed),
        }
    }

    #[cfg(test)]
    pub(super) fn manual() -> Self {
        Clock::Manual(Arc::new(AtomicU64::new(1)))
    }

    #[cfg(test)]
    pub(super) fn advance(&self, by: Duration) {
        match self {
            Clock::Monotonic(_) => unreachable!("only a manual clock is moved"),
            Clock::Manual(now) => now.fetch_add(millis(by), Ordering::Relaxed),
        };
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
