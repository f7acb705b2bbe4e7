//! A store with the contract's checks: what keys, values and lifetimes may be.

use super::store::ProcessStore;
use super::tokens::Rate;
use super::{Answer, OUT_OF_RANGE, key_fits, lifetime, monotonic_of, value_fits};
use crate::test_bench::TestBench;
use std::sync::Arc;

/// A store of scope Process as guests have it, by the methods of `sdk/wit/services.wit`; and whoever tests them
/// ([`PluginHost::store`](crate::PluginHost::store)). Each error is a sentence.
#[derive(Clone, Debug)]
pub struct CheckedStore {
    pub(super) store: Arc<ProcessStore>,
    pub(super) bench: Option<Arc<dyn TestBench>>,
}

impl CheckedStore {
    pub fn get(&self, key: &str) -> Answer<Option<Vec<u8>>> {
        key_fits(key)?;
        Ok(self.store.get(self.now(), key).map(|value| value.to_vec()))
    }

    pub fn set(&self, key: &str, value: Vec<u8>, ttl_ms: Option<u64>) -> Answer {
        key_fits(key)?;
        value_fits(&value)?;
        Ok(self.store.set(self.now(), key, value.into(), lifetime(ttl_ms)?)?)
    }

    /// Whether the value was the expected one, and is the new one now.
    pub fn compare_and_swap(
        &self,
        key: &str,
        expected: Option<&[u8]>,
        value: Vec<u8>,
        ttl_ms: Option<u64>,
    ) -> Answer<bool> {
        key_fits(key)?;
        value_fits(&value)?;
        let lifetime = lifetime(ttl_ms)?;
        Ok(self.store.compare_and_swap(self.now(), key, expected, value.into(), lifetime)?)
    }

    /// Whether there was a value.
    pub fn remove(&self, key: &str) -> Answer<bool> {
        key_fits(key)?;
        Ok(self.store.remove(self.now(), key))
    }

    pub fn increment(&self, key: &str, by: i64, ttl_ms: Option<u64>) -> Answer<i64> {
        key_fits(key)?;
        let value = self.store.increment(self.now(), key, by, lifetime(ttl_ms)?)?;
        value.ok_or_else(|| OUT_OF_RANGE.to_owned())
    }

    pub fn counter(&self, key: &str) -> Answer<i64> {
        key_fits(key)?;
        Ok(self.store.counter(self.now(), key))
    }

    /// Whether they were taken, how many are left, and milliseconds until so many are there (`u64::MAX`: never).
    pub fn take_tokens(
        &self,
        key: &str,
        capacity: u64,
        refill: u64,
        interval_ms: u64,
        cost: u64,
    ) -> Answer<(bool, u64, u64)> {
        key_fits(key)?;
        let rate = Rate::new(capacity, refill, interval_ms)?;
        let taken = self.store.take_tokens(self.now(), key, rate, cost)?;
        Ok((taken.taken, taken.left, taken.wait_ms))
    }

    fn now(&self) -> u64 {
        monotonic_of(self.bench.as_deref())
    }
}
