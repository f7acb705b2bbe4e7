//! Data and queues that all VMs of one Plugin share, whatever their configuration. No other Plugin sees them: a VM's
//! identity is its Plugin.
//!
//! As a store (`services/store.rs`) the data is in shards, each behind a lock that is held for a look-up. Kept for as long as
//! the Plugin is there.

use crate::metrics::PluginMetrics;
use bytes::Bytes;
use crossbeam_queue::ArrayQueue;
use foldhash::fast::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Bytes of keys, values, and what waits in queues, with [`OVERHEAD`] each: 16 MiB a Plugin. Metrics:
/// `sluice_plugin_shared_bytes`, `sluice_plugin_shared_refused_total`.
const QUOTA: u64 = 16 << 20;
const OVERHEAD: u64 = 128;
/// Bytes of a key, of a queue's name, and of one value.
const MAX_KEY: usize = 1_024;
const MAX_VALUE: usize = 1 << 20;
const MAX_QUEUES: usize = 64;
const SHARDS: usize = 16;

/// Why something was not put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("another value was put there meanwhile")]
    Mismatch,
    #[error("there is no such queue")]
    Unknown,
    #[error("a key has at most 1 KiB, a value 1 MiB")]
    TooLong,
    #[error("the 16 MiB that a plugin may share between its VMs are used up")]
    Full,
    #[error("a plugin has at most 64 shared queues")]
    TooManyQueues,
}

/// Where a VM is told that something waits in a queue of its own.
#[derive(Clone, Debug)]
pub(super) struct QueueOwner {
    /// Queues by number. Where it is full the VM has enough to look at.
    pub(super) ready: Arc<ArrayQueue<u32>>,
    pub(super) bell: Arc<Notify>,
}

impl QueueOwner {
    pub(super) fn new(bell: Arc<Notify>) -> QueueOwner {
        QueueOwner { ready: Arc::new(ArrayQueue::new(1_024)), bell }
    }
}

#[derive(Debug)]
struct Entry {
    value: Bytes,
    cas: u32,
}

type Shard = HashMap<Box<[u8]>, Entry, RandomState>;

#[derive(Debug)]
struct Queue {
    name: Box<[u8]>,
    owner: QueueOwner,
    waiting: VecDeque<Bytes>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    last_cas: AtomicU32,
    /// Numbered from 1.
    queues: Mutex<Vec<Queue>>,
    bytes: AtomicU64,
    metrics: Arc<PluginMetrics>,
}

impl Shared {
    pub(crate) fn new(metrics: Arc<PluginMetrics>) -> Shared {
        Shared {
            shards: Default::default(),
            hasher: RandomState::default(),
            last_cas: AtomicU32::new(0),
            queues: Mutex::default(),
            bytes: AtomicU64::new(0),
            metrics,
        }
    }

    fn shard(&self, key: &[u8]) -> MutexGuard<'_, Shard> {
        let index = self.hasher.hash_one(key) as usize % SHARDS;
        // There are as many; a panic while one was held left whole entries.
        let shard = self.shards.get(index).unwrap_or(&self.shards[0]);
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queues(&self) -> MutexGuard<'_, Vec<Queue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, bytes: u64) -> Result<(), Refusal> {
        let taken =
            self.bytes.fetch_update(AcqRel, Acquire, |used| used.checked_add(bytes).filter(|all| *all <= QUOTA));
        match taken {
            Ok(_) => {
                self.metrics.shared().bytes.inc_by(bytes as i64);
                Ok(())
            }
            Err(_) => Err(self.refused(Refusal::Full)),
        }
    }

    fn give(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, AcqRel);
        self.metrics.shared().bytes.dec_by(bytes as i64);
    }

    fn refused(&self, refusal: Refusal) -> Refusal {
        self.metrics.shared().refused.inc();
        refusal
    }

    fn fits(&self, key: &[u8], value: &[u8]) -> Result<(), Refusal> {
        let fits = key.len() <= MAX_KEY && value.len() <= MAX_VALUE;
        if fits { Ok(()) } else { Err(self.refused(Refusal::TooLong)) }
    }

    /// The value, and the number to put another in its place by.
    pub(super) fn get(&self, key: &[u8]) -> Option<(Bytes, u32)> {
        self.shard(key).get(key).map(|entry| (entry.value.clone(), entry.cas))
    }

    /// `cas`: 0, or the number of the value that this one is to replace.
    pub(super) fn set(&self, key: &[u8], value: &[u8], cas: u32) -> Result<(), Refusal> {
        self.fits(key, value)?;
        let value = Bytes::copy_from_slice(value);
        let mut shard = self.shard(key);
        let before = match shard.get(key) {
            Some(entry) if cas != 0 && cas != entry.cas => return Err(Refusal::Mismatch),
            Some(entry) => entry.value.len() as u64,
            None => {
                self.take(key.len() as u64 + OVERHEAD)?;
                0
            }
        };
        if let Err(refusal) = self.take(value.len() as u64) {
            if !shard.contains_key(key) {
                self.give(key.len() as u64 + OVERHEAD);
            }
            return Err(refusal);
        }
        self.give(before);
        // Zero is nobody's.
        let cas = self.last_cas.fetch_add(1, Relaxed).wrapping_add(1).max(1);
        shard.insert(key.into(), Entry { value, cas });
        Ok(())
    }

    /// The queue of this name, which is made where there is none. The last VM that registers it is told what waits in it.
    pub(super) fn register(&self, name: &[u8], owner: &QueueOwner) -> Result<u32, Refusal> {
        self.fits(name, b"")?;
        let mut queues = self.queues();
        let known = queues.iter().position(|queue| *queue.name == *name);
        let index = match known {
            Some(index) => index,
            None if queues.len() >= MAX_QUEUES => return Err(self.refused(Refusal::TooManyQueues)),
            None => {
                queues.push(Queue { name: name.into(), owner: owner.clone(), waiting: VecDeque::new() });
                queues.len() - 1
            }
        };
        if let Some(queue) = queues.get_mut(index) {
            queue.owner = owner.clone();
        }
        Ok(index as u32 + 1)
    }

    pub(super) fn resolve(&self, name: &[u8]) -> Option<u32> {
        Some(self.queues().iter().position(|queue| *queue.name == *name)? as u32 + 1)
    }

    pub(super) fn enqueue(&self, number: u32, value: &[u8]) -> Result<(), Refusal> {
        self.fits(b"", value)?;
        let mut queues = self.queues();
        let queue = queues.get_mut((number as usize).wrapping_sub(1)).ok_or(Refusal::Unknown)?;
        self.take(value.len() as u64 + OVERHEAD)?;
        queue.waiting.push_back(Bytes::copy_from_slice(value));
        // Where it is full, the VM has enough to look at.
        let _ = queue.owner.ready.push(number);
        queue.owner.bell.notify_one();
        Ok(())
    }

    /// What has waited longest, if anything does.
    pub(super) fn dequeue(&self, number: u32) -> Result<Option<Bytes>, Refusal> {
        let mut queues = self.queues();
        let queue = queues.get_mut((number as usize).wrapping_sub(1)).ok_or(Refusal::Unknown)?;
        let value = queue.waiting.pop_front();
        if let Some(value) = &value {
            self.give(value.len() as u64 + OVERHEAD);
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use sluice_model::plugin::PluginKey;

    fn shared() -> Shared {
        Shared::new(Arc::new(Metrics::default().plugin(&PluginKey::new("shop", "keys"))))
    }

    #[test]
    fn a_value_is_replaced_by_its_number_alone() {
        let shared = shared();
        assert_eq!(shared.get(b"a"), None);
        shared.set(b"a", b"1", 0).unwrap();
        let (value, cas) = shared.get(b"a").unwrap();
        assert_eq!(&*value, b"1");
        shared.set(b"a", b"2", cas).unwrap();
        assert_eq!(shared.set(b"a", b"3", cas), Err(Refusal::Mismatch));
        assert_eq!(&*shared.get(b"a").unwrap().0, b"2");
        shared.set(b"a", b"4", 0).unwrap();
        assert_eq!(&*shared.get(b"a").unwrap().0, b"4");
    }

    #[test]
    fn the_quota_holds_for_data_and_queues_together() {
        let shared = shared();
        let owner = QueueOwner::new(Arc::default());
        let queue = shared.register(b"work", &owner).unwrap();
        let value = vec![0; MAX_VALUE - 256];
        let mut put = 0;
        while shared.set(format!("key-{put}").as_bytes(), &value, 0).is_ok() {
            put += 1;
        }
        assert_eq!(put, 16);
        assert_eq!(shared.enqueue(queue, &value), Err(Refusal::Full));
        // What replaces a value may be as long.
        shared.set(b"key-0", b"short", 0).unwrap();
        shared.enqueue(queue, &value).unwrap();
        assert_eq!(shared.dequeue(queue).unwrap().map(|value| value.len()), Some(value.len()));
        shared.set(b"key-0", &value, 0).unwrap();
        assert_eq!(shared.set(&vec![0; MAX_KEY + 1], b"", 0), Err(Refusal::TooLong));
        assert_eq!(shared.metrics.shared().refused.get(), 3);
    }

    #[test]
    fn a_queue_is_first_in_first_out_and_tells_its_owner() {
        let shared = shared();
        let owner = QueueOwner::new(Arc::default());
        assert_eq!(shared.resolve(b"work"), None);
        assert_eq!(shared.enqueue(1, b"a"), Err(Refusal::Unknown));
        let queue = shared.register(b"work", &owner).unwrap();
        assert_eq!(shared.resolve(b"work"), Some(queue));
        assert_eq!(shared.register(b"work", &owner), Ok(queue));
        shared.enqueue(queue, b"a").unwrap();
        shared.enqueue(queue, b"b").unwrap();
        assert_eq!([owner.ready.pop(), owner.ready.pop(), owner.ready.pop()], [Some(queue), Some(queue), None]);
        let taken: Vec<_> = std::iter::from_fn(|| shared.dequeue(queue).unwrap()).collect();
        assert_eq!(taken, ["a", "b"]);
        for n in 1..MAX_QUEUES {
            shared.register(&n.to_le_bytes(), &owner).unwrap();
        }
        assert_eq!(shared.register(b"one more", &owner), Err(Refusal::TooManyQueues));
    }
}
