//! The contract's stores for plugins that are given one in a Redis: the same functions, which may wait.
//!
//! A plugin without such a store is linked with those that never do ([`super`]), so that its calls need no fiber. One with
//! it is told the same of its stores of scope Process, at once.

use super::redis_store::RedisStore;
use super::{Answer, Bucket, key_fits, value_fits};
use crate::guest;
use crate::guest::generated::sluice::plugin::store as at_once;
use crate::instance::State;
use crate::services::tokens::Rate;
use generated::sluice::plugin::store as contract;
use std::sync::Arc;
use std::time::Instant;
use wasmtime::Result;
use wasmtime::component::{HasSelf, Linker, Resource};

/// Generated from the contract, as [`guest::generated`] is.
#[allow(clippy::all, missing_docs)]
mod generated {
    wasmtime::component::bindgen!({
        inline: "package sluice:waiting; world stores { import sluice:plugin/store@0.1.0; }",
        path: "../../sdk/wit",
        imports: {
            "sluice:plugin/store.[static]bucket.open": trappable,
            "sluice:plugin/store.[drop]bucket": trappable,
            default: async | trappable,
        },
        with: { "sluice:plugin/store.bucket": crate::services::Bucket },
    });
}

/// All of the contract, with stores that may wait.
pub(crate) fn linker(engine: &wasmtime::Engine) -> Result<Linker<State>> {
    let mut linker = guest::linker(engine)?;
    linker.allow_shadowing(true);
    contract::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
    linker.allow_shadowing(false);
    Ok(linker)
}

/// A store in a Redis, with until when a call to it may last.
type Away = (Arc<RedisStore>, Instant);

impl State {
    /// The store of a handle, where it is in a Redis and `key` may be one. None: it is not, and answers at once.
    fn away(&self, bucket: &Resource<Bucket>, key: &str) -> Result<Option<Answer<Away>>> {
        let name = &self.owned.get(bucket)?.0;
        let granted = self.services("stores")?.granted.load();
        let Some(store) = granted.as_ref().and_then(|granted| granted.redis_stores.get(name)) else { return Ok(None) };
        Ok(Some(key_fits(key).and_then(|()| match self.until {
            Some(until) => Ok((store.clone(), until)),
            None => Err(format!("the store `{name}` is in a Redis, and this phase can't wait for that")),
        })))
    }
}

fn lifetime_fits(ttl_ms: Option<u64>) -> Answer {
    super::lifetime(ttl_ms).map(|_| ())
}

/// Awaits what `ask` does with a store that is away.
macro_rules! away {
    ($away:expr, |$store:ident, $until:ident| $ask:expr) => {
        match $away {
            Ok(($store, $until)) => Ok($ask),
            Err(refused) => Ok(Err(refused)),
        }
    };
}

impl contract::Host for State {}

impl contract::HostBucket for State {
    fn open(&mut self, name: String) -> Result<Answer<Resource<Bucket>>> {
        let is_away = (self.services("stores")?.granted.load().as_ref())
            .is_some_and(|granted| granted.redis_stores.contains_key(name.as_str()));
        if is_away { Ok(Ok(self.owned.push(Bucket(name.into()))?)) } else { at_once::HostBucket::open(self, name) }
    }

    async fn get(&mut self, bucket: Resource<Bucket>, key: String) -> Result<Answer<Option<Vec<u8>>>> {
        match self.away(&bucket, &key)? {
            None => at_once::HostBucket::get(self, bucket, key),
            Some(away) => away!(away, |store, until| store.get(&key, until).await),
        }
    }

    async fn set(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
        ttl_ms: Option<u64>,
    ) -> Result<Answer> {
        match self.away(&bucket, &key)? {
            None => at_once::HostBucket::set(self, bucket, key, value, ttl_ms),
            Some(away) => {
                let away = away.and_then(|away| value_fits(&value).and_then(|()| lifetime_fits(ttl_ms)).map(|()| away));
                away!(away, |store, until| store.set(&key, &value, ttl_ms, until).await)
            }
        }
    }

    async fn compare_and_swap(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        expected: Option<Vec<u8>>,
        value: Vec<u8>,
        ttl_ms: Option<u64>,
    ) -> Result<Answer<bool>> {
        match self.away(&bucket, &key)? {
            None => at_once::HostBucket::compare_and_swap(self, bucket, key, expected, value, ttl_ms),
            Some(away) => {
                let away = away.and_then(|away| value_fits(&value).and_then(|()| lifetime_fits(ttl_ms)).map(|()| away));
                let expected = expected.as_deref();
                away!(away, |store, until| store.compare_and_swap(&key, expected, &value, ttl_ms, until).await)
            }
        }
    }

    async fn remove(&mut self, bucket: Resource<Bucket>, key: String) -> Result<Answer<bool>> {
        match self.away(&bucket, &key)? {
            None => at_once::HostBucket::remove(self, bucket, key),
            Some(away) => away!(away, |store, until| store.remove(&key, until).await),
        }
    }

    async fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        by: i64,
        ttl_ms: Option<u64>,
    ) -> Result<Answer<i64>> {
        match self.away(&bucket, &key)? {
            None => at_once::HostBucket::increment(self, bucket, key, by, ttl_ms),
            Some(away) => {
                let away = away.and_then(|away| lifetime_fits(ttl_ms).map(|()| away));
                away!(away, |store, until| store.increment(&key, by, ttl_ms, until).await)
            }
        }
    }

    async fn counter(&mut self, bucket: Resource<Bucket>, key: String) -> Result<Answer<i64>> {
        match self.away(&bucket, &key)? {
            None => at_once::HostBucket::counter(self, bucket, key),
            Some(away) => away!(away, |store, until| store.counter(&key, until).await),
        }
    }

    async fn take_tokens(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        capacity: u64,
        refill: u64,
        interval_ms: u64,
        cost: u64,
    ) -> Result<Answer<(bool, u64, u64)>> {
        match self.away(&bucket, &key)? {
            None => at_once::HostBucket::take_tokens(self, bucket, key, capacity, refill, interval_ms, cost),
            Some(away) => {
                let away = away.and_then(|away| Rate::new(capacity, refill, interval_ms).map(|_| away));
                let numbers = [capacity, refill, interval_ms, cost];
                away!(away, |store, until| store.take_tokens(&key, numbers, until).await)
            }
        }
    }

    fn drop(&mut self, bucket: Resource<Bucket>) -> Result<()> {
        at_once::HostBucket::drop(self, bucket)
    }
}
