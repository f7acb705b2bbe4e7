//! Clock, secrets, metrics and stores of a native unit test, one set a thread as tests are ([`crate::testing::Services`]).

use crate::testing::protocol::{Bytes, Services};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

/// 2026-01-01T00:00:00Z, in nanoseconds: where the clock of a test stands until it is moved.
const BEGINNING: u64 = 1_767_225_600_000_000_000;

type Labels = Vec<(String, String)>;

#[derive(Clone, Debug)]
pub(crate) enum Metric {
    Counter(u64),
    Gauge(f64),
    Observations(Vec<f64>),
}

#[derive(Debug)]
enum Content {
    Value(Vec<u8>),
    Counter(i64),
    /// Tokens, and the nanoseconds of an interval on the way to the next; when that was.
    Tokens(u64, u128, u64),
}

#[derive(Debug)]
struct Entry {
    content: Content,
    until: Option<u64>,
}

type Entries = BTreeMap<(char, String), Entry>;

thread_local! {
    static ELAPSED: Cell<u64> = const { Cell::new(0) };
    static SECRETS: RefCell<BTreeMap<String, Vec<u8>>> = const { RefCell::new(BTreeMap::new()) };
    static METRICS: RefCell<BTreeMap<String, BTreeMap<Labels, Metric>>> = const { RefCell::new(BTreeMap::new()) };
    static STORES: RefCell<BTreeMap<String, Entries>> = const { RefCell::new(BTreeMap::new()) };
    /// Those that take nothing more.
    static FULL: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
    /// What the engine has not been told, where tests run in it.
    static UNTOLD: Cell<Untold> = const { Cell::new(Untold::Nothing) };
}

#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Untold {
    Nothing,
    Changes,
    /// And that another test has begun.
    Beginning,
}

fn untold(what: Untold) {
    let before = UNTOLD.get();
    UNTOLD.set(if what > before { what } else { before });
}

/// What plugins may reach, where that has changed since it was asked before; all of it to an engine that is `fresh`.
pub(crate) fn told(fresh: bool) -> Option<Services> {
    let untold = UNTOLD.replace(Untold::Nothing);
    if untold == Untold::Nothing && !fresh {
        return None;
    }
    let bytes = |(name, value): (&String, &Vec<u8>)| (name.clone(), Bytes(value.clone()));
    let full = |name: &String| FULL.with_borrow(|full| full.contains(name));
    Some(Services {
        anew: fresh || untold == Untold::Beginning,
        now: clock::now(),
        monotonic: clock::monotonic(),
        secrets: SECRETS.with_borrow(|secrets| secrets.iter().map(bytes).collect()),
        stores: STORES.with_borrow(|stores| stores.keys().map(|name| (name.clone(), full(name))).collect()),
    })
}

pub(crate) fn clear() {
    ELAPSED.set(0);
    SECRETS.with_borrow_mut(BTreeMap::clear);
    METRICS.with_borrow_mut(BTreeMap::clear);
    STORES.with_borrow_mut(BTreeMap::clear);
    FULL.with_borrow_mut(BTreeSet::clear);
    untold(Untold::Beginning);
}

pub(crate) fn advance(nanoseconds: u64) {
    ELAPSED.set(ELAPSED.get().saturating_add(nanoseconds));
    untold(Untold::Changes);
}

pub(crate) fn set_secret(name: &str, value: Option<Vec<u8>>) {
    SECRETS.with_borrow_mut(|secrets| match value {
        Some(value) => drop(secrets.insert(name.to_owned(), value)),
        None => drop(secrets.remove(name)),
    });
    untold(Untold::Changes);
}

pub(crate) fn give_store(name: &str) {
    STORES.with_borrow_mut(|stores| {
        stores.entry(name.to_owned()).or_default();
    });
    untold(Untold::Changes);
}

pub(crate) fn fill_store(name: &str) {
    FULL.with_borrow_mut(|full| full.insert(name.to_owned()));
    untold(Untold::Changes);
}

pub(crate) fn metric(name: &str, labels: &[(&str, &str)]) -> Option<Metric> {
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    METRICS.with_borrow(|metrics| metrics.get(name)?.get(&sorted(labels)).cloned())
}

fn sorted(mut labels: Labels) -> Labels {
    labels.sort();
    labels
}

pub(crate) mod clock {
    pub(crate) fn now() -> u64 {
        super::BEGINNING + super::ELAPSED.get()
    }

    pub(crate) fn monotonic() -> u64 {
        super::ELAPSED.get()
    }
}

/// Not for anything but tests: a hash of a seed that differs each time.
pub(crate) mod random {
    use std::hash::{BuildHasher, RandomState};

    pub(crate) fn get_u64() -> u64 {
        RandomState::new().hash_one(0)
    }

    pub(crate) fn get_bytes(length: u32) -> Vec<u8> {
        assert!(length <= 65_536, "at most 65,536 bytes at a time");
        std::iter::repeat_with(|| get_u64() as u8).take(length as usize).collect()
    }
}

pub(crate) mod secrets {
    pub(crate) fn get(name: &str) -> Option<Vec<u8>> {
        super::SECRETS.with_borrow(|secrets| secrets.get(name).cloned())
    }
}

/// As the gateway, in short.
pub(crate) mod metrics {
    use super::{Labels, METRICS, Metric, sorted};
    use std::mem::discriminant;

    fn told(name: &str, labels: &Labels, new: Metric, tell: impl FnOnce(&mut Metric)) -> Result<(), String> {
        let first = |b: u8| b.is_ascii_alphabetic() || b == b'_' || b == b':';
        let fits = name.bytes().next().is_some_and(first) && name.bytes().all(|b| first(b) || b.is_ascii_digit());
        if name.len() > 64 || !fits {
            return Err(format!("`{name}` is not a metric's name"));
        }
        if labels.len() > 8 || labels.iter().any(|(name, value)| value.len() > 128 || name == "plugin" || name == "le")
        {
            return Err("a metric has at most 8 labels of 128 bytes, and none is `plugin` or `le`".to_owned());
        }
        let labels = sorted(labels.clone());
        METRICS.with_borrow_mut(|metrics| {
            let series = metrics.entry(name.to_owned()).or_default();
            if let Some((known, metric)) = series.first_key_value() {
                let same_names = known.iter().map(|(name, _)| name).eq(labels.iter().map(|(name, _)| name));
                if !same_names || discriminant(metric) != discriminant(&new) {
                    return Err(format!("`{name}` is another metric by its first use"));
                }
            }
            tell(series.entry(labels).or_insert(new));
            Ok(())
        })
    }

    pub(crate) fn add(name: &str, labels: &Labels, by: u64) -> Result<(), String> {
        let name = name.strip_suffix("_total").unwrap_or(name);
        told(name, labels, Metric::Counter(0), |metric| {
            if let Metric::Counter(counter) = metric {
                *counter += by;
            }
        })
    }

    pub(crate) fn set(name: &str, labels: &Labels, value: f64) -> Result<(), String> {
        told(name, labels, Metric::Gauge(0.0), |metric| *metric = Metric::Gauge(value))
    }

    pub(crate) fn observe(name: &str, labels: &Labels, value: f64, _buckets: &[f64]) -> Result<(), String> {
        told(name, labels, Metric::Observations(Vec::new()), |metric| {
            if let Metric::Observations(seen) = metric {
                seen.push(value);
            }
        })
    }
}

pub(crate) mod store {
    use super::{Content, ELAPSED, Entries, Entry, FULL, STORES};

    #[derive(Debug)]
    pub(crate) struct Bucket(String);

    fn lifetime(ttl_ms: Option<u64>) -> Result<Option<u64>, String> {
        match ttl_ms {
            Some(0) => Err("a time to live is at least 1 ms".to_owned()),
            ttl => Ok(ttl.map(|ttl| ELAPSED.get().saturating_add(ttl.saturating_mul(1_000_000)))),
        }
    }

    impl Bucket {
        pub(crate) fn open(name: &str) -> Result<Bucket, String> {
            let bucket = Bucket(name.to_owned());
            bucket.with("k", |_| Ok(()))?;
            Ok(bucket)
        }

        /// What has run out is gone before.
        fn with<T>(&self, key: &str, work: impl FnOnce(&mut Entries) -> Result<T, String>) -> Result<T, String> {
            if !(1..=512).contains(&key.len()) {
                return Err(format!("a key has 1 to 512 bytes, this one {}", key.len()));
            }
            STORES.with_borrow_mut(|stores| {
                let missing = || format!("the Plugin's capabilities.stores has no `{}`", self.0);
                let entries = stores.get_mut(&self.0).ok_or_else(missing)?;
                entries.retain(|_, entry| entry.until.is_none_or(|until| until > ELAPSED.get()));
                work(entries)
            })
        }

        /// A full one takes what is there already.
        fn room(&self, kind: char, key: &str, entries: &Entries) -> Result<(), String> {
            let full = FULL.with_borrow(|full| full.contains(&self.0));
            if full && !entries.contains_key(&(kind, key.to_owned())) {
                return Err("the store is full".to_owned());
            }
            Ok(())
        }

        pub(crate) fn get(&self, key: &str) -> Result<Option<Vec<u8>>, String> {
            self.with(key, |entries| {
                Ok(match entries.get(&('v', key.to_owned())) {
                    Some(Entry { content: Content::Value(value), .. }) => Some(value.clone()),
                    _ => None,
                })
            })
        }

        pub(crate) fn set(&self, key: &str, value: &[u8], ttl_ms: Option<u64>) -> Result<(), String> {
            if value.len() > 64 << 10 {
                return Err(format!("a value has at most 65536 bytes, this one {}", value.len()));
            }
            let until = lifetime(ttl_ms)?;
            self.with(key, |entries| {
                self.room('v', key, entries)?;
                let content = Content::Value(value.to_vec());
                entries.insert(('v', key.to_owned()), Entry { content, until });
                Ok(())
            })
        }

        pub(crate) fn compare_and_swap(
            &self,
            key: &str,
            expected: Option<&[u8]>,
            value: &[u8],
            ttl_ms: Option<u64>,
        ) -> Result<bool, String> {
            if self.get(key)?.as_deref() != expected {
                return Ok(false);
            }
            self.set(key, value, ttl_ms).map(|()| true)
        }

        pub(crate) fn remove(&self, key: &str) -> Result<bool, String> {
            self.with(key, |entries| Ok(entries.remove(&('v', key.to_owned())).is_some()))
        }

        pub(crate) fn increment(&self, key: &str, by: i64, ttl_ms: Option<u64>) -> Result<i64, String> {
            let until = lifetime(ttl_ms)?;
            self.with(key, |entries| {
                self.room('c', key, entries)?;
                let new = Entry { content: Content::Counter(0), until };
                match &mut entries.entry(('c', key.to_owned())).or_insert(new).content {
                    Content::Counter(counter) => {
                        *counter = counter.checked_add(by).ok_or("the counter would leave the range of 64 bits")?;
                        Ok(*counter)
                    }
                    _ => Ok(0),
                }
            })
        }

        pub(crate) fn counter(&self, key: &str) -> Result<i64, String> {
            self.with(key, |entries| {
                Ok(match entries.get(&('c', key.to_owned())) {
                    Some(Entry { content: Content::Counter(counter), .. }) => *counter,
                    _ => 0,
                })
            })
        }

        pub(crate) fn take_tokens(
            &self,
            key: &str,
            capacity: u64,
            refill: u64,
            interval_ms: u64,
            cost: u64,
        ) -> Result<(bool, u64, u64), String> {
            if capacity == 0 || interval_ms == 0 {
                return Err("a bucket's capacity is at least 1, and its interval 1 ms".to_owned());
            }
            let interval = u128::from(interval_ms) * 1_000_000;
            self.with(key, |entries| {
                self.room('t', key, entries)?;
                let now = ELAPSED.get();
                let new = Entry { content: Content::Tokens(capacity, 0, now), until: None };
                let entry = entries.entry(('t', key.to_owned())).or_insert(new);
                let Content::Tokens(tokens, part, at) = &mut entry.content else { return Ok((false, 0, u64::MAX)) };
                let grown = u128::from(now - *at) * u128::from(refill) + *part;
                let whole = u128::from(*tokens) + grown / interval;
                (*tokens, *part) = match u64::try_from(whole) {
                    Ok(whole) if whole < capacity => (whole, grown % interval),
                    _ => (capacity, 0),
                };
                *at = now;
                let taken = cost <= *tokens;
                if taken {
                    *tokens -= cost;
                }
                let missing = u128::from(cost.saturating_sub(*tokens)) * interval;
                let wait = match missing.saturating_sub(*part) {
                    0 => 0,
                    _ if refill == 0 || cost > capacity => u64::MAX,
                    missing => {
                        let nanoseconds = missing.div_ceil(u128::from(refill));
                        u64::try_from(nanoseconds.div_ceil(1_000_000)).unwrap_or(u64::MAX)
                    }
                };
                Ok((taken, *tokens, wait))
            })
        }
    }
}
