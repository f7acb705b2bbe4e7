//! How requests are counted, in a store that all requests share.

use crate::Algorithm;
use sluice_plugin::clock;
use sluice_plugin::store::{Rate, Store};
use std::time::Duration;

pub(crate) struct Limiter {
    algorithm: Algorithm,
    requests: u64,
    /// Seconds.
    per: u64,
    burst: u64,
}

/// What came of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) passes: bool,
    /// How many more would pass now.
    pub(crate) left: u64,
    /// In how many seconds there are more: of one that does not pass, when it would.
    pub(crate) reset: u64,
}

impl Limiter {
    pub(crate) fn new(algorithm: Algorithm, requests: u64, per: u64, burst: u64) -> Limiter {
        Limiter { algorithm, requests, per, burst }
    }

    /// Counts a request; one that does not pass is not counted. The error is the store's.
    pub(crate) fn take(&self, store: &Store, key: &str) -> Result<Verdict, String> {
        match self.algorithm {
            Algorithm::FixedWindow => self.fixed(store, key, clock::now()),
            Algorithm::SlidingWindow => self.sliding(store, key, clock::now()),
            Algorithm::TokenBucket => self.bucket(store, key),
        }
    }

    fn fixed(&self, store: &Store, key: &str, now: Duration) -> Result<Verdict, String> {
        let window = now.as_secs() / self.per;
        let reset = (window + 1) * self.per - now.as_secs();
        let count = self.count(store, key, window)?;
        Ok(Verdict { passes: count <= self.requests, left: self.requests.saturating_sub(count), reset })
    }

    /// Of the window before counts what of it is within `per` from now, as if its requests had come evenly.
    fn sliding(&self, store: &Store, key: &str, now: Duration) -> Result<Verdict, String> {
        let (per, now) = (u128::from(self.per) * 1_000, now.as_millis());
        let (window, within) = (now / per, now % per);
        let number = u64::try_from(window).map_err(|_| "the clock is out of range".to_owned())?;
        let before = counter(store, &name(key, number.saturating_sub(1)))?;
        let count = self.count(store, key, number)?;
        let of_before = (u128::from(before) * (per - within)).div_ceil(per);
        let estimate = of_before + u128::from(count);
        let limit = u128::from(self.requests);
        let passes = estimate <= limit;
        if !passes {
            // It is not let in, and so is none of those that later ones are held against.
            store.increment(&name(key, number), -1, Some(self.kept()))?;
        }
        let reset = if passes { per - within } else { self.wait(before, count - 1, within) };
        Ok(Verdict {
            passes,
            left: u64::try_from(limit.saturating_sub(estimate)).unwrap_or(u64::MAX),
            reset: u64::try_from(reset.div_ceil(1_000)).unwrap_or(u64::MAX),
        })
    }

    /// Milliseconds until one more would be within the limit, with `count` in the window that began `within` ago.
    fn wait(&self, before: u64, count: u64, within: u128) -> u128 {
        let (per, room) = (u128::from(self.per) * 1_000, u128::from(self.requests.saturating_sub(count + 1)));
        // In this window: when `before * (per - t) / per <= room`. Else in the next, where `count` is the one before.
        if count < self.requests && before > 0 {
            return (per - room * per / u128::from(before)).saturating_sub(within);
        }
        let room = u128::from(self.requests - 1);
        (per - within) + per.saturating_sub(room * per / u128::from(count.max(1)))
    }

    fn bucket(&self, store: &Store, key: &str) -> Result<Verdict, String> {
        let interval = Duration::from_secs(self.per);
        let rate = Rate { capacity: self.burst, refill: self.requests, interval };
        let taken = store.take(key, rate, 1)?;
        // Until it is full again; of one that is empty, until the next.
        let missing = u128::from(self.burst.saturating_sub(taken.left)) * u128::from(self.per);
        let full = u64::try_from(missing.div_ceil(u128::from(self.requests))).unwrap_or(u64::MAX);
        let wait = taken.wait.map_or(full, |wait| u64::try_from(wait.as_millis().div_ceil(1_000)).unwrap_or(u64::MAX));
        Ok(Verdict { passes: taken.taken, left: taken.left, reset: if taken.taken { full } else { wait } })
    }

    /// The count of a window with this request.
    fn count(&self, store: &Store, key: &str, window: u64) -> Result<u64, String> {
        let count = store.increment(&name(key, window), 1, Some(self.kept()))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// How long a count is kept: the next window looks back at it.
    fn kept(&self) -> Duration {
        Duration::from_secs(2 * self.per)
    }
}

fn name(key: &str, window: u64) -> String {
    format!("{key}/{window}")
}

fn counter(store: &Store, key: &str) -> Result<u64, String> {
    Ok(u64::try_from(store.counter(key)?).unwrap_or(0))
}
