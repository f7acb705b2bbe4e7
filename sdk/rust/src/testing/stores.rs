//! Stores of a test: those of this thread, or those of the engine where tests run against a module.

use super::engine;
use super::protocol::{Bytes, StoreCall, Stored};
use crate::backend::services::store;

#[derive(Debug)]
pub(crate) struct Bucket {
    name: String,
    /// None: it is the engine's.
    own: Option<store::Bucket>,
}

/// What the engine answered, as the kind that was asked for.
macro_rules! stored {
    ($answer:expr, $kind:pat => $value:expr) => {
        match $answer {
            $kind => Ok($value),
            Stored::Refused(reason) => Err(reason),
            other => Err(format!("the engine's store answered {other:?}")),
        }
    };
}

impl Bucket {
    pub(crate) fn open(name: &str) -> Result<Bucket, String> {
        if !engine::is_on() {
            return Ok(Bucket { name: name.to_owned(), own: Some(store::Bucket::open(name)?) });
        }
        stored!(engine::store(name, StoreCall::Open), Stored::Nothing => Bucket { name: name.to_owned(), own: None })
    }

    fn ask(&self, call: StoreCall) -> Stored {
        engine::store(&self.name, call)
    }

    pub(crate) fn get(&self, key: &str) -> Result<Option<Vec<u8>>, String> {
        match &self.own {
            Some(own) => own.get(key),
            None => {
                stored!(self.ask(StoreCall::Get { key: key.to_owned() }), Stored::Value(value) => value.map(|value| value.0))
            }
        }
    }

    pub(crate) fn set(&self, key: &str, value: &[u8], ttl_ms: Option<u64>) -> Result<(), String> {
        if let Some(own) = &self.own {
            return own.set(key, value, ttl_ms);
        }
        let call = StoreCall::Set { key: key.to_owned(), value: Bytes(value.to_vec()), ttl_ms };
        stored!(self.ask(call), Stored::Nothing => ())
    }

    pub(crate) fn compare_and_swap(
        &self,
        key: &str,
        expected: Option<&[u8]>,
        value: &[u8],
        ttl_ms: Option<u64>,
    ) -> Result<bool, String> {
        if let Some(own) = &self.own {
            return own.compare_and_swap(key, expected, value, ttl_ms);
        }
        let (expected, value) = (expected.map(|expected| Bytes(expected.to_vec())), Bytes(value.to_vec()));
        let call = StoreCall::CompareAndSwap { key: key.to_owned(), expected, value, ttl_ms };
        stored!(self.ask(call), Stored::Flag(swapped) => swapped)
    }

    pub(crate) fn remove(&self, key: &str) -> Result<bool, String> {
        match &self.own {
            Some(own) => own.remove(key),
            None => stored!(self.ask(StoreCall::Remove { key: key.to_owned() }), Stored::Flag(removed) => removed),
        }
    }

    pub(crate) fn increment(&self, key: &str, by: i64, ttl_ms: Option<u64>) -> Result<i64, String> {
        if let Some(own) = &self.own {
            return own.increment(key, by, ttl_ms);
        }
        let call = StoreCall::Increment { key: key.to_owned(), by, ttl_ms };
        stored!(self.ask(call), Stored::Number(counter) => counter)
    }

    pub(crate) fn counter(&self, key: &str) -> Result<i64, String> {
        match &self.own {
            Some(own) => own.counter(key),
            None => stored!(self.ask(StoreCall::Counter { key: key.to_owned() }), Stored::Number(counter) => counter),
        }
    }

    pub(crate) fn take_tokens(
        &self,
        key: &str,
        capacity: u64,
        refill: u64,
        interval_ms: u64,
        cost: u64,
    ) -> Result<(bool, u64, u64), String> {
        if let Some(own) = &self.own {
            return own.take_tokens(key, capacity, refill, interval_ms, cost);
        }
        let call = StoreCall::TakeTokens { key: key.to_owned(), capacity, refill, interval_ms, cost };
        stored!(self.ask(call), Stored::Tokens(taken, left, wait) => (taken, left, wait))
    }
}
