//! What a guest may ask of the gateway besides its exchange (`sdk/wit/services.wit`): clock, random bytes, secrets,
//! metrics of its own, and stores.
//!
//! Secrets and stores are what the Plugin names in `spec.capabilities`. They are looked up by name at each call, so that a
//! secret that is rotated, or a store that is taken away, is seen by instances that run.

mod checked;
mod families;
mod redis_store;
mod store;
mod tokens;
mod waiting;

use crate::configured::Export;
use crate::exchange::Destination;
use crate::guest::generated::sluice::plugin::{clock, metrics, random, routing, secrets, store as contract};
use crate::instance::{State, broken};
use crate::test_bench::{MetricValue, TestBench};
use arc_swap::ArcSwapOption;
pub use checked::CheckedStore;
use families::{Families, PluginFamilies};
pub(crate) use families::{Handle, Kind};
use prometheus_client::registry::Registry;
use redis_store::RedisStores;
pub use redis_store::{StoreConnection, StoreError, StoreErrorKind, StoreServers, StoreStream};
use sluice_model::Problem;
use sluice_model::plugin::{Grants, PluginKey, SecretValue};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use store::{Full, ProcessStore, Stores};
pub(crate) use waiting::linker as waiting_linker;
use wasmtime::Result;
use wasmtime::component::Resource;

/// Bytes of one call for random ones.
const MAX_RANDOM: u32 = 65_536;

/// Bytes of a key, and of a value.
const MAX_KEY: usize = 512;
const MAX_VALUE: usize = 64 << 10;

/// Why a counter was not added to.
const OUT_OF_RANGE: &str = "the counter would leave the range of 64 bits; it stays as it was";

/// What one plugin may reach, by the names that its code uses.
#[derive(Debug, Default)]
pub(crate) struct Granted {
    stores: BTreeMap<Arc<str>, Arc<ProcessStore>>,
    redis_stores: redis_store::Given,
    secrets: BTreeMap<Arc<str>, Option<SecretValue>>,
    routing: bool,
}

/// What all plugins' services are made of.
#[derive(Debug)]
pub(crate) struct Providers {
    stores: Stores,
    redis_stores: RedisStores,
    families: Arc<Families>,
    bench: Option<Arc<dyn TestBench>>,
}

impl Providers {
    pub(crate) fn register(registry: &mut Registry, bench: Option<Arc<dyn TestBench>>) -> Providers {
        Providers {
            stores: Stores::register(registry),
            redis_stores: RedisStores::register(registry),
            families: Families::register(registry),
            bench,
        }
    }

    /// A store of scope Process that some plugin of the namespace is given.
    pub(crate) fn store(&self, namespace: &str, name: &str) -> Option<CheckedStore> {
        let store = self.stores.get(&(namespace.into(), name.into()))?;
        Some(CheckedStore { store, bench: self.bench.clone() })
    }

    /// Says once what connects to the Redis of a store.
    pub(crate) fn set_store_servers(&self, servers: Box<dyn StoreServers>) {
        self.redis_stores.set_servers(servers);
    }

    /// Says once who is told when the problems are others.
    pub(crate) fn set_told(&self, told: impl Fn() + Send + Sync + 'static) {
        self.redis_stores.set_told(Box::new(told));
    }

    /// What is wrong now with what plugins may reach.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        self.redis_stores.problems()
    }

    /// From now on plugins may reach this and no more. A store that is still named keeps what it holds.
    pub(crate) fn grant(&self, grants: &BTreeMap<PluginKey, Arc<Grants>>) -> HashMap<PluginKey, Arc<Granted>> {
        let named = self.stores.keep(grants);
        let mut of_redis = self.redis_stores.keep(grants);
        let granted = grants.iter().map(|(key, grants)| {
            let store = |name: &Arc<str>| {
                let store = named.get(&(key.namespace.clone(), name.clone()))?;
                Some((name.clone(), store.clone()))
            };
            let stores = grants.stores.keys().filter_map(store).collect();
            let redis_stores = of_redis.remove(key).unwrap_or_default();
            let (secrets, routing) = (grants.secrets.clone(), grants.routing);
            (key.clone(), Arc::new(Granted { stores, redis_stores, secrets, routing }))
        });
        granted.collect()
    }

    pub(crate) fn plugin(&self, key: &PluginKey) -> Services {
        let (metrics, bench) = (self.families.plugin(key), self.bench.clone());
        Services { granted: ArcSwapOption::empty(), metrics, bench }
    }

    /// A plugin that is gone leaves no series behind.
    pub(crate) fn forget(&self, key: &PluginKey) {
        self.families.forget(key);
    }
}

/// One plugin's.
#[derive(Debug)]
pub(crate) struct Services {
    /// None: nothing.
    granted: ArcSwapOption<Granted>,
    metrics: Arc<PluginFamilies>,
    /// None but where plugins are tested.
    bench: Option<Arc<dyn TestBench>>,
}

impl Services {
    pub(crate) fn set(&self, granted: Option<Arc<Granted>>) {
        self.granted.store(granted);
    }

    pub(crate) fn metrics(&self) -> &PluginFamilies {
        &self.metrics
    }

    /// Whether the plugin may say where a request goes.
    pub(crate) fn may_route(&self) -> bool {
        self.granted.load().as_ref().is_some_and(|granted| granted.routing)
    }

    fn tell(
        &self,
        metric: &str,
        labels: Labels,
        value: MetricValue,
        tell: impl FnOnce(&PluginFamilies, Labels) -> Answer,
    ) -> Answer {
        let Some(bench) = &self.bench else { return tell(&self.metrics, labels) };
        tell(&self.metrics, labels.clone())?;
        bench.told(metric, &labels, value);
        Ok(())
    }
}

/// Nanoseconds since this process first asked.
pub(crate) fn monotonic() -> u64 {
    static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(ORIGIN.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// The same, or what a test says.
fn monotonic_of(bench: Option<&dyn TestBench>) -> u64 {
    bench.map_or_else(monotonic, TestBench::monotonic)
}

type Answer<T = ()> = std::result::Result<T, String>;
type Labels = Vec<(String, String)>;

impl State {
    /// What `configure` must not do: its memory becomes an image that all instances begin with.
    fn in_a_phase(&self, what: &str) -> Result<()> {
        match self.phase {
            Some(_) => Ok(()),
            None => Err(broken(format!("configure can't use {what}: it may only be used in a phase"))),
        }
    }

    fn services(&self, what: &str) -> Result<&Services> {
        self.in_a_phase(what)?;
        match self.limits.plugin() {
            Some(plugin) => Ok(&plugin.services),
            None => Err(broken(format!("{what} may only be used in a phase"))),
        }
    }
}

impl clock::Host for State {
    fn now(&mut self) -> Result<u64> {
        if let Some(bench) = &self.services("the clock")?.bench {
            return Ok(bench.now());
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }

    fn monotonic(&mut self) -> Result<u64> {
        Ok(monotonic_of(self.services("the clock")?.bench.as_deref()))
    }
}

/// Fills `bytes` by the operating system, which never blocks for that once it is up.
pub(crate) fn fill(bytes: &mut [u8]) -> Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match rustix::rand::getrandom(&mut *rest, rustix::rand::GetRandomFlags::empty()) {
            Ok(filled) => rest = rest.get_mut(filled..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(broken(format!("the operating system gives no random bytes: {error}"))),
        }
    }
    Ok(())
}

impl random::Host for State {
    fn get_bytes(&mut self, length: u32) -> Result<Vec<u8>> {
        self.in_a_phase("random bytes")?;
        if length > MAX_RANDOM {
            return Err(broken(format!("random.get-bytes gives at most {MAX_RANDOM} bytes at a time")));
        }
        let mut bytes = vec![0; length as usize];
        fill(&mut bytes)?;
        Ok(bytes)
    }

    fn get_u64(&mut self) -> Result<u64> {
        self.in_a_phase("random numbers")?;
        let mut bytes = [0; 8];
        fill(&mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }
}

impl State {
    /// Where the plugin may say where the request goes, what it has said.
    fn destination(&mut self) -> Result<std::result::Result<&mut Destination, String>> {
        if !self.services("routing")?.may_route() {
            return Ok(Err("the Plugin's capabilities.routing does not allow it".to_owned()));
        }
        Ok(match self.phase {
            Some(Export::RequestHeaders | Export::RequestBody) => Ok(&mut self.exchange.destination),
            _ => Err("the request is on its way already".to_owned()),
        })
    }
}

impl routing::Host for State {
    fn use_backend(&mut self, backend: String) -> Result<Answer> {
        let known = self.exchange.outbound.as_ref().is_some_and(|outbound| outbound.has(&backend));
        Ok(self.destination()?.and_then(|destination| {
            if !known {
                return Err(format!("the Plugin's capabilities.backends has no `{backend}` that can be used"));
            }
            destination.backend = Some(backend.into());
            Ok(())
        }))
    }

    fn find_route(&mut self) -> Result<Answer> {
        Ok(self.destination()?.map(|destination| *destination = Destination { backend: None, find_route: true }))
    }
}

impl secrets::Host for State {
    fn get(&mut self, name: String) -> Result<Option<Vec<u8>>> {
        let granted = self.services("secrets")?.granted.load();
        let secret = granted.as_ref().and_then(|granted| granted.secrets.get(name.as_str())?.as_ref());
        Ok(secret.map(|secret| secret.bytes().to_vec()))
    }
}

impl metrics::Host for State {
    fn add(&mut self, name: String, labels: Labels, by: u64) -> Result<Answer> {
        let services = self.services("metrics")?;
        Ok(services.tell(&name, labels, MetricValue::Added(by), |metrics, labels| metrics.add(&name, labels, by)))
    }

    fn set(&mut self, name: String, labels: Labels, value: f64) -> Result<Answer> {
        let services = self.services("metrics")?;
        Ok(services.tell(&name, labels, MetricValue::Gauge(value), |metrics, labels| metrics.set(&name, labels, value)))
    }

    fn observe(&mut self, name: String, labels: Labels, value: f64, buckets: Vec<f64>) -> Result<Answer> {
        let services = self.services("metrics")?;
        Ok(services.tell(&name, labels, MetricValue::Observation(value), |metrics, labels| {
            metrics.observe(&name, labels, value, &buckets)
        }))
    }
}

/// A guest's handle of a store. It holds the name: whether the plugin may use it is asked at each call.
#[allow(unreachable_pub, reason = "the generated bindings re-export the handle's type")]
pub struct Bucket(Arc<str>);

fn key_fits(key: &str) -> Answer {
    match key.len() {
        1..=MAX_KEY => Ok(()),
        length => Err(format!("a key has 1 to {MAX_KEY} bytes, this one {length}")),
    }
}

fn value_fits(value: &[u8]) -> Answer {
    match value.len() {
        0..=MAX_VALUE => Ok(()),
        length => Err(format!("a value has at most {MAX_VALUE} bytes, this one {length}")),
    }
}

/// Nanoseconds.
fn lifetime(ttl_ms: Option<u64>) -> Answer<Option<u64>> {
    match ttl_ms {
        Some(0) => Err("a time to live is at least 1 ms".to_owned()),
        ttl => Ok(ttl.map(|ttl| ttl.saturating_mul(1_000_000))),
    }
}

impl From<Full> for String {
    fn from(full: Full) -> String {
        full.to_string()
    }
}

impl State {
    fn store(&self, name: &str) -> Result<Answer<CheckedStore>> {
        let services = self.services("stores")?;
        let granted = services.granted.load();
        let store = granted.as_ref().and_then(|granted| granted.stores.get(name).cloned());
        let store = store.map(|store| CheckedStore { store, bench: services.bench.clone() });
        Ok(store.ok_or_else(|| {
            if granted.as_ref().is_some_and(|granted| granted.redis_stores.contains_key(name)) {
                // The version that was made when it was of scope Process, or the plugin had no stores at all.
                format!("the store `{name}` is in a Redis now, for which a version of the plugin is being made that can wait")
            } else {
                format!("the Plugin's capabilities.stores has no `{name}`")
            }
        }))
    }

    /// Does something with the store of a handle.
    fn with<T>(&self, bucket: &Resource<Bucket>, work: impl FnOnce(&CheckedStore) -> Answer<T>) -> Result<Answer<T>> {
        let name = &self.owned.get(bucket)?.0;
        Ok(self.store(name)?.and_then(|store| work(&store)))
    }
}

impl contract::Host for State {}

impl contract::HostBucket for State {
    fn open(&mut self, name: String) -> Result<Answer<Resource<Bucket>>> {
        match self.store(&name)? {
            Ok(_) => Ok(Ok(self.owned.push(Bucket(name.into()))?)),
            Err(refused) => Ok(Err(refused)),
        }
    }

    fn get(&mut self, bucket: Resource<Bucket>, key: String) -> Result<Answer<Option<Vec<u8>>>> {
        self.with(&bucket, |store| store.get(&key))
    }

    fn set(&mut self, bucket: Resource<Bucket>, key: String, value: Vec<u8>, ttl_ms: Option<u64>) -> Result<Answer> {
        self.with(&bucket, |store| store.set(&key, value, ttl_ms))
    }

    fn compare_and_swap(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        expected: Option<Vec<u8>>,
        value: Vec<u8>,
        ttl_ms: Option<u64>,
    ) -> Result<Answer<bool>> {
        self.with(&bucket, |store| store.compare_and_swap(&key, expected.as_deref(), value, ttl_ms))
    }

    fn remove(&mut self, bucket: Resource<Bucket>, key: String) -> Result<Answer<bool>> {
        self.with(&bucket, |store| store.remove(&key))
    }

    fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        by: i64,
        ttl_ms: Option<u64>,
    ) -> Result<Answer<i64>> {
        self.with(&bucket, |store| store.increment(&key, by, ttl_ms))
    }

    fn counter(&mut self, bucket: Resource<Bucket>, key: String) -> Result<Answer<i64>> {
        self.with(&bucket, |store| store.counter(&key))
    }

    fn take_tokens(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        capacity: u64,
        refill: u64,
        interval_ms: u64,
        cost: u64,
    ) -> Result<Answer<(bool, u64, u64)>> {
        self.with(&bucket, |store| store.take_tokens(&key, capacity, refill, interval_ms, cost))
    }

    fn drop(&mut self, bucket: Resource<Bucket>) -> Result<()> {
        self.owned.delete(bucket)?;
        Ok(())
    }
}
