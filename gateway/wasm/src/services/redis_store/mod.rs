//! Stores that all replicas share, in a Redis: the same interface as those of a process, each call one step on the server.
//!
//! Values, counters and token buckets are keys of their own ([`keys`]). What is more than one command is a script, sent by its
//! digest, and as a whole where the server has not seen it. Token buckets run by the server's clock: those of the replicas
//! need not agree.

mod error;
mod keys;
mod meters;
mod scripts;
mod server;

#[cfg(test)]
mod tests;

pub use error::{StoreError, StoreErrorKind};
use keys::{Keys, Kind};
use meters::Families;
use prometheus_client::registry::Registry;
use redis::{Cmd, FromRedisValue};
use scripts::Script;
use server::{Failed, Server, Servers, Told};
pub use server::{StoreConnection, StoreServers, StoreStream};
use sluice_model::plugin::{Grants, PluginKey, RedisGrant, RedisServer};
use sluice_model::problem::Code;
use sluice_model::{Kind as ObjectKind, ObjectRef, Problem};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

/// Tokens of a bucket: with one more, what a number of the scripts' language holds exactly.
const MAX_TOKENS: u64 = (1 << 53) - 1;

/// Milliseconds to live; longer is as long. A Redis adds its own time to it, within 63 bits.
const MAX_LIFETIME: u64 = 1 << 53;

/// A store's identity: namespace, what the Plugins of it call it, and where they say that it is.
type Name = (Arc<str>, Arc<str>, Arc<RedisServer>);

/// All stores in Redis that a Plugin names.
pub(super) struct RedisStores {
    stores: Mutex<BTreeMap<Name, Named>>,
    families: Families,
    servers: Servers,
    told: Arc<OnceLock<Box<dyn Fn() + Send + Sync>>>,
}

struct Named {
    store: Arc<RedisStore>,
    /// Plugins that name it, and where.
    places: BTreeSet<(PluginKey, Arc<str>)>,
}

impl RedisStores {
    pub(super) fn register(registry: &mut Registry) -> RedisStores {
        RedisStores {
            stores: Mutex::default(),
            families: Families::register(registry),
            servers: Servers::default(),
            told: Arc::default(),
        }
    }

    /// Once.
    pub(super) fn set_servers(&self, servers: Box<dyn StoreServers>) {
        drop(self.servers.set(servers));
    }

    /// Once: what is told when [`RedisStores::problems`] are others.
    pub(super) fn set_told(&self, told: Box<dyn Fn() + Send + Sync>) {
        drop(self.told.set(told));
    }

    fn stores(&self) -> MutexGuard<'_, BTreeMap<Name, Named>> {
        // A panic while it was held left whole entries.
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what is named, with its connection; what is not any more ends with the calls under way.
    pub(super) fn keep(&self, grants: &BTreeMap<PluginKey, Arc<Grants>>) -> BTreeMap<PluginKey, Given> {
        let mut wanted: BTreeMap<Name, BTreeSet<(PluginKey, Arc<str>)>> = BTreeMap::new();
        for (plugin, grants) in grants {
            for (name, RedisGrant { server, field }) in &grants.redis_stores {
                let places = wanted.entry((plugin.namespace.clone(), name.clone(), server.clone())).or_default();
                places.insert((plugin.clone(), field.clone()));
            }
        }
        let mut stores = self.stores();
        let labels = |name: &Name| format!("{}/{}", name.0, name.1);
        let former: BTreeSet<String> = stores.keys().map(labels).collect();
        stores.retain(|name, _| wanted.contains_key(name));
        for name in former.difference(&wanted.keys().map(labels).collect()) {
            self.families.forget(name);
        }
        let mut given: BTreeMap<PluginKey, Given> = BTreeMap::new();
        for (name, places) in wanted {
            let named = stores.entry(name.clone()).or_insert_with(|| {
                let meters = self.families.store(&labels(&name));
                let (namespace, store, config) = name.clone();
                let keys = Keys::of(&namespace, &store);
                let server = Server::new(namespace, store, config, self.servers.clone(), self.teller(), meters);
                Named { store: Arc::new(RedisStore { server, keys }), places: BTreeSet::new() }
            });
            for (plugin, _) in &places {
                given.entry(plugin.clone()).or_default().insert(name.1.clone(), named.store.clone());
            }
            named.places = places;
        }
        given
    }

    fn teller(&self) -> Told {
        let told = self.told.clone();
        Arc::new(move || {
            if let Some(told) = told.get() {
                told();
            }
        })
    }

    /// Stores that can't be reached, as far as a plugin has tried.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let stores = self.stores();
        let troubled = stores.values().filter_map(|named| Some((named, named.store.server.trouble()?)));
        let problems = troubled.flat_map(|(named, error)| {
            let server = &named.store.server;
            named.places.iter().map(move |(plugin, field)| {
                let object = ObjectRef::new(ObjectKind::Plugin, plugin.namespace.clone(), plugin.name.clone());
                let message = format!("{server} can't be used: {error}");
                // The configuration is right, and is served.
                Problem::warning(Code::StoreUnreachable, &object, format!("{field}.redis"), message)
            })
        });
        problems.collect()
    }
}

/// What one plugin is given, by the names that its code uses.
pub(super) type Given = BTreeMap<Arc<str>, Arc<RedisStore>>;

impl fmt::Debug for RedisStores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.stores().values().map(|named| &named.store)).finish()
    }
}

/// The answer, or a sentence for the plugin.
type Answer<T = ()> = Result<T, String>;

/// One store. Each call waits at most until it is told to, and as long as the store's own time allows.
#[derive(Debug)]
pub(crate) struct RedisStore {
    server: Arc<Server>,
    keys: Keys,
}

impl RedisStore {
    pub(super) async fn get(&self, key: &str, until: Instant) -> Answer<Option<Vec<u8>>> {
        let mut command = redis::cmd("GET");
        command.arg(self.keys.key(Kind::Value, key));
        let value: Option<Vec<u8>> = self.send(until, &command).await?;
        // Another may have written it.
        value.as_deref().map_or(Ok(()), super::value_fits)?;
        Ok(value)
    }

    /// Lifetimes are milliseconds.
    pub(super) async fn set(&self, key: &str, value: &[u8], lifetime: Option<u64>, until: Instant) -> Answer {
        let mut command = redis::cmd("SET");
        command.arg(self.keys.key(Kind::Value, key)).arg(value);
        if let Some(lifetime) = lifetime {
            command.arg("PX").arg(lifetime.min(MAX_LIFETIME));
        }
        self.send(until, &command).await
    }

    pub(super) async fn compare_and_swap(
        &self,
        key: &str,
        expected: Option<&[u8]>,
        value: &[u8],
        lifetime: Option<u64>,
        until: Instant,
    ) -> Answer<bool> {
        let is_expected: &[u8] = if expected.is_some() { b"1" } else { b"0" };
        let lifetime = text(lifetime);
        let arguments = [is_expected, expected.unwrap_or_default(), value, lifetime.as_bytes()];
        self.run(&scripts::COMPARE_AND_SWAP, Kind::Value, key, &arguments, until).await
    }

    pub(super) async fn remove(&self, key: &str, until: Instant) -> Answer<bool> {
        let mut command = redis::cmd("DEL");
        command.arg(self.keys.key(Kind::Value, key));
        self.send(until, &command).await
    }

    pub(super) async fn increment(&self, key: &str, by: i64, lifetime: Option<u64>, until: Instant) -> Answer<i64> {
        let (by, lifetime) = (by.to_string(), text(lifetime));
        let arguments = [by.as_bytes(), lifetime.as_bytes()];
        let added = self.run(&scripts::INCREMENT, Kind::Counter, key, &arguments, until).await;
        // By the words of Redis, whose error has no code of its own.
        added.map_err(|error| if error.contains("would overflow") { super::OUT_OF_RANGE.to_owned() } else { error })
    }

    pub(super) async fn counter(&self, key: &str, until: Instant) -> Answer<i64> {
        let mut command = redis::cmd("GET");
        command.arg(self.keys.key(Kind::Counter, key));
        Ok(self.send::<Option<i64>>(until, &command).await?.unwrap_or_default())
    }

    /// Whether they were there, what is left, and milliseconds until as many are there. The rate was checked before, but
    /// for what only a Redis refuses.
    pub(super) async fn take_tokens(
        &self,
        key: &str,
        [capacity, refill, interval_ms, cost]: [u64; 4],
        until: Instant,
    ) -> Answer<(bool, u64, u64)> {
        if capacity.max(refill) > MAX_TOKENS {
            return Err(format!("a bucket in a Redis holds, and gets, at most {MAX_TOKENS} tokens"));
        }
        // More than it can hold is more than it can hold.
        let cost = cost.min(MAX_TOKENS + 1);
        let numbers = [capacity, refill, interval_ms.saturating_mul(1_000), cost].map(|number| number.to_string());
        let arguments = [&numbers[0], &numbers[1], &numbers[2], &numbers[3]].map(|text| text.as_bytes());
        let (taken, left, wait): (bool, u64, i64) =
            self.run(&scripts::TAKE_TOKENS, Kind::Tokens, key, &arguments, until).await?;
        Ok((taken, left, u64::try_from(wait).unwrap_or(u64::MAX)))
    }

    async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        kind: Kind,
        key: &str,
        arguments: &[&[u8]],
        until: Instant,
    ) -> Answer<T> {
        let started = Instant::now();
        let until = self.until(started, until);
        let key = self.keys.key(kind, key);
        let called = match self.server.call(&script.by_digest(&key, arguments), until).await {
            Err(Failed::NoScript) => self.server.call(&script.as_a_whole(&key, arguments), until).await,
            called => called,
        };
        self.ended(started, called)
    }

    async fn send<T: FromRedisValue>(&self, until: Instant, command: &Cmd) -> Answer<T> {
        let started = Instant::now();
        let called = self.server.call(command, self.until(started, until)).await;
        self.ended(started, called)
    }

    /// When the call must be over: the store's own time counts as well.
    fn until(&self, started: Instant, until: Instant) -> Instant {
        started.checked_add(self.server.config.timeout).map_or(until, |own| own.min(until))
    }

    /// Counts the call.
    fn ended<T>(&self, started: Instant, called: Result<T, Failed>) -> Answer<T> {
        let called = called.map_err(|failed| match failed {
            Failed::Error(error) => error,
            Failed::NoScript => StoreError::new(StoreErrorKind::Refused, "it does not run scripts"),
        });
        self.server.meters.called(called.as_ref().err().map(|error| error.kind), started.elapsed());
        called.map_err(|error| format!("{} can't be used: {error}", self.server))
    }
}

/// A lifetime as scripts have it.
fn text(lifetime: Option<u64>) -> String {
    lifetime.map(|lifetime| lifetime.min(MAX_LIFETIME).to_string()).unwrap_or_default()
}
