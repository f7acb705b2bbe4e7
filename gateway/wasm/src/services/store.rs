//! Stores of this process: values, counters and token buckets under keys, within a quota.
//!
//! A store is 16 shards, each behind a lock of its own that is held for a look-up and a few words of bookkeeping, and never
//! over an await, a system call or the copy of a value. That is the one lock on a request's way, and only on that of a
//! plugin that uses a store: what two calls change must be seen by one of them first, and a lock of some hundred
//! nanoseconds does that cheaper than what is free of locks.

use super::tokens::{Rate, Taken, Tokens};
use bytes::Bytes;
use foldhash::fast::RandomState;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use sluice_model::plugin::{Grants, PluginKey};
use std::collections::btree_map::Entry as OfStore;
use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const SHARDS: usize = 16;

/// Bytes that an entry counts beside its key and value: about what the maps take for it.
const OVERHEAD: u64 = 128;

/// Entries that have run out and that a write clears away besides.
const SWEPT: usize = 8;

/// And where the store is full, at a time.
const SWEPT_AT_FULL: usize = 256;

/// A store's name: namespace, and what the Plugins of it call it.
pub(super) type Name = (Arc<str>, Arc<str>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    /// `namespace/name`
    store: String,
}

/// All stores that a Plugin names.
#[derive(Debug)]
pub(super) struct Stores {
    stores: Mutex<BTreeMap<Name, Arc<ProcessStore>>>,
    entries: Family<Labels, Gauge>,
    bytes: Family<Labels, Gauge>,
    refused: Family<Labels, Counter>,
}

impl Stores {
    pub(super) fn register(registry: &mut Registry) -> Stores {
        let stores = Stores {
            stores: Mutex::default(),
            entries: Family::default(),
            bytes: Family::default(),
            refused: Family::default(),
        };
        registry.register(
            "plugin_store_entries",
            "Values, counters and token buckets in a store of plugins",
            stores.entries.clone(),
        );
        registry.register(
            "plugin_store_bytes",
            "What a store of plugins counts against its quota",
            stores.bytes.clone(),
        );
        registry.register("plugin_store_refused", "Writes that a store's quota refused", stores.refused.clone());
        stores
    }

    /// Keeps what is named, with what it holds; what is not any more is gone.
    pub(super) fn keep(&self, grants: &BTreeMap<PluginKey, Arc<Grants>>) -> BTreeMap<Name, Arc<ProcessStore>> {
        let mut quotas: BTreeMap<Name, u64> = BTreeMap::new();
        for (key, grants) in grants {
            for (name, grant) in &grants.stores {
                let quota = quotas.entry((key.namespace.clone(), name.clone())).or_default();
                *quota = (*quota).max(grant.quota);
            }
        }
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        stores.retain(|name, _| {
            let stays = quotas.contains_key(name);
            if !stays {
                let labels = labels(name);
                self.entries.remove(&labels);
                self.bytes.remove(&labels);
                self.refused.remove(&labels);
            }
            stays
        });
        for (name, quota) in quotas {
            match stores.entry(name) {
                OfStore::Occupied(store) => store.get().quota.store(quota, Relaxed),
                OfStore::Vacant(place) => {
                    let labels = labels(place.key());
                    let meters = Meters {
                        entries: self.entries.get_or_create_owned(&labels),
                        bytes: self.bytes.get_or_create_owned(&labels),
                        refused: self.refused.get_or_create_owned(&labels),
                    };
                    place.insert(Arc::new(ProcessStore::new(quota, meters)));
                }
            }
        }
        stores.clone()
    }

    pub(super) fn get(&self, name: &Name) -> Option<Arc<ProcessStore>> {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

fn labels((namespace, name): &Name) -> Labels {
    Labels { store: format!("{namespace}/{name}") }
}

#[derive(Debug, Default)]
struct Meters {
    entries: Gauge,
    bytes: Gauge,
    refused: Counter,
}

/// A write that the quota refuses.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store is full: its quota is {0} bytes")]
pub(super) struct Full(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Value,
    Counter,
    Tokens,
}

#[derive(Clone, Debug)]
enum Content {
    Value(Bytes),
    Counter(i64),
    Tokens(Tokens),
}

impl Content {
    fn size(&self) -> u64 {
        match self {
            Content::Value(value) => value.len() as u64,
            Content::Counter(_) | Content::Tokens(_) => 0,
        }
    }
}

#[derive(Debug)]
struct Entry {
    content: Content,
    /// When it runs out, and its number among those that do.
    expiry: Option<(u64, u64)>,
}

#[derive(Debug, Default)]
struct Shard {
    values: HashMap<Arc<str>, Entry, RandomState>,
    counters: HashMap<Arc<str>, Entry, RandomState>,
    tokens: HashMap<Arc<str>, Entry, RandomState>,
    /// The first to run out first.
    expiry: BTreeMap<(u64, u64), (Kind, Arc<str>)>,
    numbered: u64,
}

impl Shard {
    fn table(&mut self, kind: Kind) -> &mut HashMap<Arc<str>, Entry, RandomState> {
        match kind {
            Kind::Value => &mut self.values,
            Kind::Counter => &mut self.counters,
            Kind::Tokens => &mut self.tokens,
        }
    }

    /// Takes an entry out; its bytes.
    fn remove(&mut self, kind: Kind, key: &str) -> Option<u64> {
        let entry = self.table(kind).remove(key)?;
        if let Some(expiry) = entry.expiry {
            self.expiry.remove(&expiry);
        }
        Some(size(key, &entry.content))
    }
}

fn size(key: &str, content: &Content) -> u64 {
    key.len() as u64 + content.size() + OVERHEAD
}

/// What a write does with what is there.
enum Change {
    Keep,
    Remove,
    /// Runs out at this time of the monotonic clock, in nanoseconds.
    Put(Content, Option<u64>),
}

/// Times are nanoseconds of the monotonic clock.
#[derive(Debug)]
pub(super) struct ProcessStore {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    quota: AtomicU64,
    bytes: AtomicU64,
    meters: Meters,
}

impl ProcessStore {
    fn new(quota: u64, meters: Meters) -> ProcessStore {
        ProcessStore {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::default(),
            quota: AtomicU64::new(quota),
            bytes: AtomicU64::new(0),
            meters,
        }
    }

    pub(super) fn get(&self, now: u64, key: &str) -> Option<Bytes> {
        self.read(now, Kind::Value, key, |content| match content {
            Content::Value(value) => Some(value.clone()),
            _ => None,
        })
    }

    pub(super) fn set(&self, now: u64, key: &str, value: Bytes, lifetime: Option<u64>) -> Result<(), Full> {
        let until = lifetime.map(|lifetime| now.saturating_add(lifetime));
        self.write(now, Kind::Value, key, |_| (Change::Put(Content::Value(value.clone()), until), ()))
    }

    pub(super) fn compare_and_swap(
        &self,
        now: u64,
        key: &str,
        expected: Option<&[u8]>,
        value: Bytes,
        lifetime: Option<u64>,
    ) -> Result<bool, Full> {
        let until = lifetime.map(|lifetime| now.saturating_add(lifetime));
        self.write(now, Kind::Value, key, |entry| {
            let present = match entry.map(|entry| &entry.content) {
                Some(Content::Value(value)) => Some(&value[..]),
                _ => None,
            };
            if present == expected {
                (Change::Put(Content::Value(value.clone()), until), true)
            } else {
                (Change::Keep, false)
            }
        })
    }

    /// The value alone: counters and token buckets run out.
    pub(super) fn remove(&self, now: u64, key: &str) -> bool {
        let removed = self.write(now, Kind::Value, key, |entry| (Change::Remove, entry.is_some()));
        removed.unwrap_or(false)
    }

    /// None: the counter would overflow.
    pub(super) fn increment(&self, now: u64, key: &str, by: i64, lifetime: Option<u64>) -> Result<Option<i64>, Full> {
        self.write(now, Kind::Counter, key, |entry| {
            let (value, until) = match entry {
                Some(Entry { content: Content::Counter(value), expiry }) => (*value, expiry.map(|(until, _)| until)),
                _ => (0, lifetime.map(|lifetime| now.saturating_add(lifetime))),
            };
            match value.checked_add(by) {
                Some(value) => (Change::Put(Content::Counter(value), until), Some(value)),
                None => (Change::Keep, None),
            }
        })
    }

    pub(super) fn counter(&self, now: u64, key: &str) -> i64 {
        let value = self.read(now, Kind::Counter, key, |content| match content {
            Content::Counter(value) => Some(*value),
            _ => None,
        });
        value.unwrap_or_default()
    }

    pub(super) fn take_tokens(&self, now: u64, key: &str, rate: Rate, cost: u64) -> Result<Taken, Full> {
        self.write(now, Kind::Tokens, key, |entry| {
            let former = match entry.map(|entry| &entry.content) {
                Some(Content::Tokens(tokens)) => Some(*tokens),
                _ => None,
            };
            let (tokens, full, taken) = Tokens::take(former, now, rate, cost);
            match full {
                // A full bucket is as good as none.
                Some(full) if full <= now => (Change::Remove, taken),
                full => (Change::Put(Content::Tokens(tokens), full), taken),
            }
        })
    }

    fn shard(&self, key: &str) -> &Mutex<Shard> {
        let index = usize::try_from(self.hasher.hash_one(key) >> 32).unwrap_or_default() % SHARDS;
        // The remainder is within the array.
        self.shards.get(index).unwrap_or(&self.shards[0])
    }

    fn read<T>(&self, now: u64, kind: Kind, key: &str, look: impl FnOnce(&Content) -> Option<T>) -> Option<T> {
        let mut shard = lock(self.shard(key));
        let entry = shard.table(kind).get(key)?;
        if entry.expiry.is_some_and(|(until, _)| until <= now) {
            return None;
        }
        look(&entry.content)
    }

    /// Does what `decide` makes of the entry that is there, as one step. Where there is no room, what has run out anywhere
    /// in the store goes first.
    fn write<T>(
        &self,
        now: u64,
        kind: Kind,
        key: &str,
        mut decide: impl FnMut(Option<&Entry>) -> (Change, T),
    ) -> Result<T, Full> {
        loop {
            {
                let mut shard = lock(self.shard(key));
                self.sweep(&mut shard, now, SWEPT);
                // One that has run out is not there, though it may not have been swept.
                if shard.table(kind).get(key).and_then(|entry| entry.expiry).is_some_and(|(until, _)| until <= now) {
                    self.drop_entry(&mut shard, kind, key);
                }
                let (change, told) = decide(shard.table(kind).get(key));
                if self.apply(&mut shard, kind, key, change) {
                    return Ok(told);
                }
            }
            let swept: usize = self.shards.iter().map(|shard| self.sweep(&mut lock(shard), now, SWEPT_AT_FULL)).sum();
            if swept == 0 {
                self.meters.refused.inc();
                return Err(Full(self.quota.load(Relaxed)));
            }
        }
    }

    /// False: there is no room for it.
    fn apply(&self, shard: &mut Shard, kind: Kind, key: &str, change: Change) -> bool {
        let (content, until) = match change {
            Change::Keep => return true,
            Change::Remove => {
                self.drop_entry(shard, kind, key);
                return true;
            }
            Change::Put(content, until) => (content, until),
        };
        let former = shard.table(kind).get_key_value(key);
        let before = former.map_or(0, |(key, entry)| size(key, &entry.content));
        let (name, former) = match former {
            Some((key, entry)) => (key.clone(), Some(entry.expiry)),
            None => (Arc::from(key), None),
        };
        let after = size(key, &content);
        if !self.reserve(before, after) {
            return false;
        }
        match former {
            Some(Some(expiry)) => drop(shard.expiry.remove(&expiry)),
            Some(None) => {}
            None => drop(self.meters.entries.inc()),
        }
        let expiry = until.map(|until| {
            shard.numbered += 1;
            (until, shard.numbered)
        });
        if let Some(expiry) = expiry {
            shard.expiry.insert(expiry, (kind, name.clone()));
        }
        shard.table(kind).insert(name, Entry { content, expiry });
        true
    }

    /// Counts bytes in place of others. What does not grow always fits.
    fn reserve(&self, before: u64, after: u64) -> bool {
        let quota = self.quota.load(Relaxed);
        let changed = self.bytes.fetch_update(AcqRel, Acquire, |bytes| {
            let bytes = bytes.saturating_sub(before).saturating_add(after);
            (after <= before || bytes <= quota).then_some(bytes)
        });
        if changed.is_ok() {
            self.meters.bytes.inc_by(i64::try_from(after).unwrap_or(0) - i64::try_from(before).unwrap_or(0));
        }
        changed.is_ok()
    }

    fn drop_entry(&self, shard: &mut Shard, kind: Kind, key: &str) {
        if let Some(bytes) = shard.remove(kind, key) {
            self.reserve(bytes, 0);
            self.meters.entries.dec();
        }
    }

    /// Clears away what has run out; how many.
    fn sweep(&self, shard: &mut Shard, now: u64, most: usize) -> usize {
        let mut swept = 0;
        while swept < most
            && let Some(first) = shard.expiry.first_entry()
            && first.key().0 <= now
        {
            let (kind, key) = first.get().clone();
            self.drop_entry(shard, kind, &key);
            swept += 1;
        }
        swept
    }
}

/// A panic while it was held left whole entries.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_model::plugin::StoreGrant;

    const SECOND: u64 = 1_000_000_000;

    fn store(quota: u64) -> ProcessStore {
        ProcessStore::new(quota, Meters::default())
    }

    fn value(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn a_value_stays_until_it_runs_out_or_is_removed() {
        let store = store(10_000);
        store.set(0, "a", value("1"), None).unwrap();
        store.set(0, "b", value("2"), Some(SECOND)).unwrap();
        assert_eq!(store.get(100 * SECOND, "a"), Some(value("1")));
        assert_eq!((store.get(SECOND - 1, "b"), store.get(SECOND, "b")), (Some(value("2")), None));
        // Set anew it has the new time alone.
        store.set(0, "a", value("3"), Some(SECOND)).unwrap();
        store.set(0, "a", value("4"), Some(3 * SECOND)).unwrap();
        assert_eq!(store.get(2 * SECOND, "a"), Some(value("4")));
        assert_eq!((store.remove(2 * SECOND, "a"), store.remove(2 * SECOND, "a")), (true, false));
        assert_eq!(store.get(2 * SECOND, "a"), None);
    }

    #[test]
    fn a_value_is_swapped_where_it_is_what_was_expected() {
        let store = store(10_000);
        let swap = |expected: Option<&[u8]>, text| store.compare_and_swap(0, "a", expected, value(text), None).unwrap();
        assert!(!swap(Some(b"1"), "2"));
        assert!(swap(None, "1"));
        assert!(!swap(None, "2"));
        assert!(swap(Some(b"1"), "2"));
        assert_eq!(store.get(0, "a"), Some(value("2")));
        // One that ran out is none.
        store.set(0, "b", value("1"), Some(1)).unwrap();
        assert!(store.compare_and_swap(1, "b", None, value("2"), None).unwrap());
    }

    #[test]
    fn a_counter_runs_in_the_window_that_it_was_begun_with() {
        let store = store(10_000);
        assert_eq!(store.increment(0, "a", 2, Some(10)).unwrap(), Some(2));
        assert_eq!(store.increment(9, "a", 1, Some(10)).unwrap(), Some(3));
        assert_eq!((store.counter(9, "a"), store.counter(10, "a")), (3, 0));
        assert_eq!(store.increment(10, "a", 1, Some(10)).unwrap(), Some(1));
        assert_eq!(store.get(10, "a"), None, "values and counters are apart");
        assert_eq!(store.increment(10, "b", i64::MAX, None).unwrap(), Some(i64::MAX));
        assert_eq!(store.increment(10, "b", 1, None).unwrap(), None);
        assert_eq!(store.counter(10, "b"), i64::MAX);
    }

    #[test]
    fn a_bucket_that_is_full_again_takes_no_room() {
        let store = store(10_000);
        let rate = Rate::new(2, 1, 1_000).unwrap();
        let take = |now| store.take_tokens(now, "a", rate, 1).unwrap().taken;
        assert_eq!([take(0), take(0), take(0), take(SECOND), take(SECOND)], [true, true, false, true, false]);
        assert_eq!(store.meters.entries.get(), 1);
        assert!(store.take_tokens(10 * SECOND, "a", rate, 0).unwrap().taken);
        assert_eq!((store.meters.entries.get(), store.meters.bytes.get()), (0, 0));
    }

    #[test]
    fn what_does_not_fit_is_refused_and_what_has_run_out_makes_room() {
        let room = OVERHEAD + 100;
        let store = store(4 * room);
        let hundred = || Bytes::from(vec![0; 98]);
        for key in ["k1", "k2", "k3"] {
            store.set(0, key, hundred(), Some(SECOND)).unwrap();
        }
        store.set(0, "k4", hundred(), None).unwrap();
        assert_eq!(store.set(0, "k5", hundred(), None), Err(Full(4 * room)));
        assert_eq!(store.get(0, "k5"), None);
        // In place of another, or smaller, it fits.
        store.set(0, "k4", hundred(), None).unwrap();
        assert!(store.increment(0, "k5", 1, None).is_err());
        assert_eq!((store.meters.refused.get(), store.meters.entries.get()), (2, 4));
        // Whatever shards the keys are in.
        for key in ["k5", "k6", "k7"] {
            store.set(SECOND, key, hundred(), None).unwrap();
        }
        assert!(store.set(SECOND, "k8", hundred(), None).is_err());
        assert_eq!((store.meters.entries.get(), store.meters.bytes.get()), (4, 4 * room as i64));
    }

    #[test]
    fn concurrent_calls_lose_nothing() {
        let store = store(1 << 20);
        let taken = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|thread| {
                    let store = &store;
                    scope.spawn(move || {
                        let rate = Rate::new(1_000, 0, 1).unwrap();
                        for n in 0..1_000 {
                            store.increment(0, "all", 1, None).unwrap();
                            store.set(0, &format!("{thread}-{n}"), Bytes::new(), None).unwrap();
                            assert!(store.remove(0, &format!("{thread}-{n}")));
                        }
                        (0..1_000).filter(|_| store.take_tokens(0, "t", rate, 1).unwrap().taken).count()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        });
        assert_eq!((store.counter(0, "all"), taken), (8_000, 1_000));
        assert_eq!(store.meters.entries.get(), 2);
        assert_eq!(store.meters.bytes.get() as u64, store.bytes.load(Acquire));
    }

    #[test]
    fn a_store_lives_while_a_plugin_names_it_and_has_the_largest_quota() {
        let mut registry = Registry::default();
        let stores = Stores::register(&mut registry);
        let grant = |quotas: &[(&str, &str, u64)]| {
            let grants = quotas.iter().map(|(namespace, plugin, quota)| {
                let stores = [("s".into(), StoreGrant { quota: *quota })].into();
                (PluginKey::new(*namespace, *plugin), Arc::new(Grants { stores, ..Grants::default() }))
            });
            stores.keep(&grants.collect())
        };
        let name = |namespace: &str| (namespace.into(), "s".into());
        let first = grant(&[("shop", "a", 1_024), ("shop", "b", 4_096), ("other", "a", 1_024)]);
        assert_eq!((first.len(), first[&name("shop")].quota.load(Relaxed)), (2, 4_096));
        first[&name("shop")].set(0, "k", value("v"), None).unwrap();
        assert_eq!(first[&name("other")].get(0, "k"), None);
        let second = grant(&[("shop", "a", 2_048)]);
        assert_eq!(second[&name("shop")].get(0, "k"), Some(value("v")));
        assert_eq!((second.len(), second[&name("shop")].quota.load(Relaxed)), (1, 2_048));
        assert!(grant(&[]).is_empty());
        assert_eq!(grant(&[("shop", "a", 1_024)])[&name("shop")].get(0, "k"), None);
    }
}
