//! State across requests, in the stores that the Plugin names in `capabilities.stores`. `configure` can't use them.
//!
//! A store of scope `Process` is this gateway process' own: it is there for all requests and versions of the plugin, is shared by
//! all Plugins of the namespace that name it alike, and is gone when the process ends. Each replica has its own. One of scope
//! `Redis` is shared by all replicas; the code is the same, but a call may wait, and fails while the Redis can't be reached.
//!
//! A key has 1 to 512 bytes, a value at most 64 KiB. Above the quota of a store of scope `Process` a write is refused.
//!
//! ```
//! use sluice_plugin::{store::{Rate, Store}, testing::Services};
//! use std::time::Duration;
//!
//! let services = Services::new().store("limits");
//! let store = Store::open("limits").unwrap();
//! let rate = Rate { capacity: 2, refill: 1, interval: Duration::from_secs(1) };
//! assert!(store.take("client", rate, 1).unwrap().taken);
//! assert!(store.take("client", rate, 1).unwrap().taken);
//! let third = store.take("client", rate, 1).unwrap();
//! assert!(!third.taken);
//! assert_eq!(third.wait, Some(Duration::from_secs(1)));
//! services.advance(Duration::from_secs(1));
//! assert!(store.take("client", rate, 1).unwrap().taken);
//! assert!(Store::open("other").is_err());
//! ```

use crate::backend::store::Bucket;
use crate::headers::Refused;
use std::time::Duration;

/// How a token bucket is filled: it holds `capacity`, and gets `refill` anew every `interval` (at least 1 ms), evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub capacity: u64,
    pub refill: u64,
    pub interval: Duration,
}

/// What came of taking tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Else none was taken.
    pub taken: bool,
    pub left: u64,
    /// Until as many are there; none: never.
    pub wait: Option<Duration>,
}

/// A store. The error of each method is a sentence for the log: it is not given to the plugin, or full, or
/// its Redis can't be reached in time.
#[derive(Debug)]
pub struct Store {
    bucket: Bucket,
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

impl Store {
    /// Opens a store by its name in `capabilities.stores`.
    pub fn open(name: &str) -> Result<Store, Refused> {
        Ok(Store { bucket: Bucket::open(name).map_err(Refused)? })
    }

    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Refused> {
        self.bucket.get(key).map_err(Refused)
    }

    /// Without a time to live the value stays until it is removed.
    pub fn set(&self, key: &str, value: impl AsRef<[u8]>, ttl: Option<Duration>) -> Result<(), Refused> {
        self.bucket.set(key, value.as_ref(), ttl.map(ms)).map_err(Refused)
    }

    /// Sets the value if it is `expected` now; none expects that there is no value. False: it was not.
    ///
    /// ```
    /// # let _services = sluice_plugin::testing::Services::new().store("state");
    /// let store = sluice_plugin::store::Store::open("state").unwrap();
    /// assert!(store.compare_and_swap("leader", None, "me", None).unwrap());
    /// assert!(!store.compare_and_swap("leader", None, "you", None).unwrap());
    /// ```
    pub fn compare_and_swap(
        &self,
        key: &str,
        expected: Option<&[u8]>,
        value: impl AsRef<[u8]>,
        ttl: Option<Duration>,
    ) -> Result<bool, Refused> {
        self.bucket.compare_and_swap(key, expected, value.as_ref(), ttl.map(ms)).map_err(Refused)
    }

    /// Whether there was a value.
    pub fn remove(&self, key: &str) -> Result<bool, Refused> {
        self.bucket.remove(key).map_err(Refused)
    }

    /// Adds to a counter, which begins at zero, and gives its value after that. The time to live is set by whoever begins
    /// it, and runs out from then: a fixed window. Counters and values are apart.
    pub fn increment(&self, key: &str, by: i64, ttl: Option<Duration>) -> Result<i64, Refused> {
        self.bucket.increment(key, by, ttl.map(ms)).map_err(Refused)
    }

    /// A counter's value; zero where there is none.
    pub fn counter(&self, key: &str) -> Result<i64, Refused> {
        self.bucket.counter(key).map_err(Refused)
    }

    /// Takes `cost` tokens from a bucket. A new one is full.
    pub fn take(&self, key: &str, rate: Rate, cost: u64) -> Result<Taken, Refused> {
        let taken = self.bucket.take_tokens(key, rate.capacity, rate.refill, ms(rate.interval), cost);
        let (taken, left, wait) = taken.map_err(Refused)?;
        Ok(Taken { taken, left, wait: (wait != u64::MAX).then(|| Duration::from_millis(wait)) })
    }
}
