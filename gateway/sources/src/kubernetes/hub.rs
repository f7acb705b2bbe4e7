//! Where all watches meet: which objects there are and whose they are, what waits for the consumer, how each watch
//! fares. It holds no objects, only their fingerprints; the objects themselves go to the consumer.
//!
//! One lock, held for moments: parsing and hashing happen outside.

use super::backoff::Pauses;
use super::failure::Failure;
use super::held::Holding;
use super::pending::{Pending, Ready};
use super::references::References;
use super::state::{self, Health, WatchStatus};
use super::target::{self, Target};
use crate::SourceUpdate;
use sluice_model::{Code, Kind, ObjectRef, Problem, Severity};
use sluice_resources::{Change, Parsed};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::{Notify, watch};

/// Secrets and ConfigMaps that are watched one by one, in all and in one namespace. Each costs a connection to the API
/// server; whoever may write objects of one namespace cannot use them all up.
const MAX_SINGLE: usize = 512;
const MAX_SINGLE_OF_NAMESPACE: usize = 64;

/// Objects that a watch saw.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) reference: ObjectRef,
    pub(super) fingerprint: u64,
    /// `None`: it is known in this form.
    pub(super) parsed: Option<Parsed>,
}

#[derive(Debug)]
pub(super) struct Hub {
    inner: Mutex<Inner>,
    /// For the one consumer.
    news: Notify,
    /// Counts changes of what single watches are wanted.
    wanted: watch::Sender<u64>,
    /// Counts demands that everything be listed again.
    again: watch::Sender<u64>,
    /// None: all.
    namespaces: Vec<Arc<str>>,
    /// Where Services and EndpointSlices are read besides: our own, and those in front of us.
    of_services: Vec<Arc<str>>,
    pub(super) holding: Holding,
    pub(super) pauses: Pauses,
}

#[derive(Debug, Default)]
struct Inner {
    watches: BTreeMap<Target, Health>,
    last_id: u32,
    known: HashMap<Kind, HashMap<ObjectRef, Known, foldhash::fast::RandomState>>,
    pending: Pending,
    references: References,
    /// References above the limits.
    unwatched: BTreeSet<ObjectRef>,
    problems: BTreeMap<ObjectRef, Vec<Problem>>,
    /// Everything was there once; from then on changes are handed on as they come.
    complete: bool,
    /// The consumer has taken the first set.
    begun: bool,
    /// Problems or states are other ones than the consumer has seen.
    news: bool,
    /// Kinds of which there were objects, by the last good resources that the consumer has: that they are not to be had
    /// is not believed at once.
    expected: BTreeSet<Kind>,
    /// Counts restarts of the consumer: a list that began before one says nothing about what the consumer has.
    epoch: u64,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    owner: u32,
    /// The owner is a watch of just this object.
    single: bool,
    fingerprint: u64,
}

impl Hub {
    pub(super) fn new(namespaces: Vec<Arc<str>>, of_services: Vec<Arc<str>>, holding: Holding, pauses: Pauses) -> Hub {
        Hub {
            of_services,
            holding,
            inner: Mutex::default(),
            news: Notify::new(),
            wanted: watch::Sender::new(0),
            again: watch::Sender::new(0),
            namespaces,
            pauses,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // For the watches.

    /// A watch of this target begins, or begins again after a panic: it has the same id then.
    pub(super) fn begin(&self, target: &Target) -> u32 {
        let mut inner = self.lock();
        let next = inner.last_id + 1;
        let id = inner.watches.entry(target.clone()).or_insert_with(|| Health::new(next)).id;
        inner.last_id = inner.last_id.max(id);
        id
    }

    /// A watch is not wanted any more; what only it has seen is gone. An object that is referred to all the same is
    /// left to the watch that takes over.
    pub(super) fn end(&self, target: &Target) {
        let mut inner = self.lock();
        let Some(health) = inner.watches.remove(target) else { return };
        let referred = target.object().is_some_and(|object| inner.references.contains(&object));
        if !referred {
            inner.replace(target, &health, Vec::new(), Instant::now(), self);
        }
        inner.news = true;
        drop(inner);
        self.changed();
    }

    pub(super) fn epoch(&self) -> u64 {
        self.lock().epoch
    }

    /// Whether an object is known in this form, by this watch.
    pub(super) fn is_known(&self, id: u32, object: &ObjectRef, fingerprint: u64) -> bool {
        let inner = self.lock();
        inner.known(object).is_some_and(|known| known.owner == id && known.fingerprint == fingerprint)
    }

    pub(super) fn has_objects(&self, target: &Target) -> bool {
        self.lock().watches.get(target).is_some_and(|health| health.objects > 0)
    }

    /// The watch shows what there is: this, and nothing else. Everything changes at once.
    pub(super) fn listed(&self, target: &Target, readings: Vec<Reading>, seen: Instant, epoch: u64) {
        self.replace(target, readings, seen, epoch, Health::good);
    }

    /// The kind is not served: there is nothing of it.
    pub(super) fn not_installed(&self, target: &Target, epoch: u64) {
        self.replace(target, Vec::new(), Instant::now(), epoch, Health::not_installed);
    }

    fn replace(
        &self,
        target: &Target,
        readings: Vec<Reading>,
        seen: Instant,
        epoch: u64,
        report: impl FnOnce(&mut Health) -> bool,
    ) {
        let mut inner = self.lock();
        if inner.epoch != epoch {
            return;
        }
        let Some(mut health) = inner.watches.remove(target) else { return };
        inner.replace(target, &health, readings, seen, self);
        let settled = health.settled;
        let news = report(&mut health);
        let changed = news || settled != health.settled;
        health.objects = inner.count(target.kind, health.id);
        inner.watches.insert(target.clone(), health);
        inner.news |= news;
        drop(inner);
        if changed {
            self.changed();
        } else {
            self.news.notify_one();
        }
    }

    /// An object is new or another.
    pub(super) fn put(&self, target: &Target, id: u32, reading: Reading, seen: Instant) {
        let mut inner = self.lock();
        if !inner.is_wanted(target, id) {
            return;
        }
        let single = target.is_one();
        let is_new = inner.put(Owner { id, single }, reading, seen, self);
        if is_new && let Some(health) = inner.watches.get_mut(target) {
            health.objects += 1;
        }
        drop(inner);
        self.news.notify_one();
    }

    pub(super) fn delete(&self, target: &Target, id: u32, object: ObjectRef, seen: Instant) {
        let mut inner = self.lock();
        if inner.is_wanted(target, id) && inner.delete(id, object, seen, self) {
            if let Some(health) = inner.watches.get_mut(target) {
                health.objects = health.objects.saturating_sub(1);
            }
            drop(inner);
            self.news.notify_one();
        }
    }

    /// The watch goes on where it was.
    pub(super) fn good(&self, target: &Target) {
        self.report(target, Health::good);
    }

    pub(super) fn ended(&self, target: &Target) {
        self.report(target, |health| {
            health.ended();
            false
        });
    }

    pub(super) fn failed(&self, target: &Target, failure: &Failure) {
        self.report(target, |health| health.failed(target, failure));
    }

    fn report(&self, target: &Target, report: impl FnOnce(&mut Health) -> bool) {
        let mut inner = self.lock();
        let Some(health) = inner.watches.get_mut(target) else { return };
        let settled = health.settled;
        let news = report(health);
        let settled = health.settled != settled;
        if news || settled {
            inner.news |= news;
            drop(inner);
            self.changed();
        }
    }

    fn changed(&self) {
        self.wanted.send_modify(|n| *n += 1);
        self.news.notify_one();
    }

    pub(super) fn wanted_changes(&self) -> watch::Receiver<u64> {
        self.wanted.subscribe()
    }

    pub(super) fn again(&self) -> watch::Receiver<u64> {
        self.again.subscribe()
    }

    /// The watches that there should be of a kind.
    pub(super) fn wanted(&self, kind: Kind) -> Vec<Target> {
        let mut wanted = self.usual(kind);
        if !matches!(kind, Kind::Secret | Kind::ConfigMap) {
            return wanted;
        }
        let mut inner = self.lock();
        let mut of_namespace: HashMap<&str, usize> = HashMap::new();
        let mut above = Vec::new();
        let mut count = 0;
        for object in inner.references.of(kind) {
            if !self.in_scope(object) || inner.known(object).is_some_and(|known| !known.single) {
                continue;
            }
            // Whether the usual watch has it is not known before that has settled.
            let Some(other_types) = inner.usual_shows(self, object) else { continue };
            let here = of_namespace.entry(&object.namespace).or_default();
            if count == MAX_SINGLE || *here == MAX_SINGLE_OF_NAMESPACE {
                above.push(object.clone());
                continue;
            }
            *here += 1;
            count += 1;
            wanted.push(Target::one(object, other_types));
        }
        let same = above.len() == inner.unwatched.iter().filter(|object| object.kind == kind).count()
            && above.iter().all(|object| inner.unwatched.contains(object));
        if !same {
            inner.unwatched.retain(|object| object.kind != kind);
            inner.unwatched.extend(above);
            inner.news = true;
            drop(inner);
            self.news.notify_one();
        }
        wanted
    }

    fn usual(&self, kind: Kind) -> Vec<Target> {
        if kind == Kind::ConfigMap {
            return Vec::new();
        }
        let places = target::places(kind, &self.namespaces, &self.of_services);
        places.into_iter().map(|namespace| Target::all(kind, namespace)).collect()
    }

    fn in_scope(&self, object: &ObjectRef) -> bool {
        self.namespaces.is_empty() || self.namespaces.contains(&object.namespace)
    }

    // For the consumer.

    /// Waits for something to take, or for news of problems and states. May be dropped and called again.
    pub(super) async fn changes(&self) -> Instant {
        loop {
            let ready = self.ready();
            match ready {
                Ready::Since(seen) => return seen,
                Ready::At(then) => {
                    let _ = tokio::time::timeout_at(then.into(), self.news.notified()).await;
                }
                Ready::Nothing => self.news.notified().await,
            }
        }
    }

    fn ready(&self) -> Ready {
        let mut inner = self.lock();
        let now = Instant::now();
        if !inner.complete {
            inner.complete = inner.is_complete(self, now);
        }
        let ready = if inner.complete {
            inner.pending.ready(now, |object| inner.settled(self, object))
        } else {
            inner.doubted_until(self, now).map_or(Ready::Nothing, Ready::At)
        };
        let begins = inner.complete && !inner.begun;
        match ready {
            Ready::Since(_) => ready,
            _ if inner.news || begins => Ready::Since(now),
            _ => ready,
        }
    }

    /// Takes what is ready. Before everything is there once, that is nothing but problems.
    pub(super) fn take(&self, seen: Instant) -> SourceUpdate {
        let mut inner = self.lock();
        inner.news = false;
        let mut changes = Vec::new();
        let mut released = false;
        if inner.complete {
            inner.begun = true;
            let mut pending = std::mem::take(&mut inner.pending);
            for (object, change) in pending.take(Instant::now(), |object| inner.settled(self, object)) {
                released |= !matches!(change, Change::Unreadable(_)) && inner.references.handed_on(&object);
                changes.push(change);
            }
            inner.pending = pending;
        }
        let update = SourceUpdate { changes, problems: inner.problems(), seen, complete: inner.complete };
        drop(inner);
        if released {
            self.changed();
        }
        update
    }

    /// Has everything listed again, and the differences handed on.
    pub(super) fn list_again(&self) {
        self.again.send_modify(|n| *n += 1);
    }

    /// The consumer starts anew with nothing.
    pub(super) fn restart(&self) {
        let mut inner = self.lock();
        if inner.begun {
            for health in inner.watches.values_mut() {
                health.settled = false;
                health.objects = 0;
            }
            inner.known.clear();
            inner.pending.clear();
            inner.problems.clear();
            inner.references = References::default();
            inner.unwatched.clear();
            inner.complete = false;
            inner.begun = false;
            inner.epoch += 1;
            drop(inner);
            self.changed();
            self.list_again();
        }
    }

    // For the last good resources.

    /// Since when the API server has not answered, where nothing was complete yet.
    pub(super) fn failing_since(&self) -> Option<Instant> {
        let inner = self.lock();
        if inner.complete {
            return None;
        }
        inner.watches.values().filter_map(Health::failing_since).min()
    }

    /// There were objects of these kinds: see [`Inner::expected`].
    pub(super) fn expect(&self, kinds: BTreeSet<Kind>) {
        self.lock().expected = kinds;
        self.news.notify_one();
    }

    /// Whether the API server has the object.
    pub(super) fn has(&self, object: &ObjectRef) -> bool {
        self.lock().known(object).is_some()
    }

    /// Whether everything that is held is what the API server has.
    pub(super) fn in_sync(&self) -> bool {
        self.lock().watches.values().all(Health::in_sync)
    }

    /// There is something new to say.
    pub(super) fn tell(&self) {
        self.lock().news = true;
        self.news.notify_one();
    }

    pub(super) fn statuses(&self) -> Vec<WatchStatus> {
        state::statuses(&self.lock().watches)
    }
}

/// The watch that saw an object.
#[derive(Clone, Copy)]
struct Owner {
    id: u32,
    single: bool,
}

impl Inner {
    fn known(&self, object: &ObjectRef) -> Option<Known> {
        self.known.get(&object.kind)?.get(object).copied()
    }

    fn count(&self, kind: Kind, id: u32) -> usize {
        self.known.get(&kind).map_or(0, |known| known.values().filter(|known| known.owner == id).count())
    }

    /// A watch that was ended may be in the middle of an event.
    fn is_wanted(&self, target: &Target, id: u32) -> bool {
        self.watches.get(target).is_some_and(|health| health.id == id)
    }

    /// Says whether the watch did not have the object before.
    fn put(&mut self, owner: Owner, reading: Reading, seen: Instant, hub: &Hub) -> bool {
        let Reading { reference, fingerprint, parsed } = reading;
        let known = Known { owner: owner.id, single: owner.single, fingerprint };
        let former = self.known.entry(reference.kind).or_default().insert(reference.clone(), known);
        if let Some(Parsed { object, unreadable, problems, .. }) = parsed {
            if problems.is_empty() {
                self.news |= self.problems.remove(&reference).is_some();
            } else {
                self.problems.insert(reference.clone(), problems);
                self.news = true;
            }
            // Where it does not fit its kind, what it last said goes on serving.
            if let Some(object) = object {
                let names = object.references();
                let unsettled: Vec<_> = names.iter().filter(|name| !self.settled(hub, name)).cloned().collect();
                if self.references.put(&reference, names) {
                    hub.wanted.send_modify(|n| *n += 1);
                }
                let awaits = (!unsettled.is_empty()).then(|| (unsettled, seen + hub.pauses.held));
                self.pending.put(reference.clone(), Change::Upsert(object), seen, awaits);
            } else if let Some(unreadable) = unreadable {
                self.pending.put_unreadable(unreadable, seen);
            }
        }
        if matches!(reference.kind, Kind::Secret | Kind::ConfigMap) {
            hub.wanted.send_modify(|n| *n += 1);
        }
        former.is_none_or(|former| former.owner != owner.id)
    }

    /// Says whether the watch had the object. What another watch has seen since stays.
    fn delete(&mut self, id: u32, object: ObjectRef, seen: Instant, hub: &Hub) -> bool {
        let Some(known) = self.known.get_mut(&object.kind) else { return false };
        if known.get(&object).is_none_or(|known| known.owner != id) {
            return false;
        }
        known.remove(&object);
        hub.holding.gone(&object);
        self.news |= self.problems.remove(&object).is_some();
        self.references.put(&object, Vec::new());
        if matches!(object.kind, Kind::Secret | Kind::ConfigMap) {
            hub.wanted.send_modify(|n| *n += 1);
        }
        self.pending.put(object.clone(), Change::Delete(object), seen, None);
        true
    }

    fn replace(&mut self, target: &Target, health: &Health, readings: Vec<Reading>, seen: Instant, hub: &Hub) {
        let owner = Owner { id: health.id, single: target.is_one() };
        let there: HashSet<ObjectRef> = readings.iter().map(|reading| reading.reference.clone()).collect();
        let mut gone: Vec<ObjectRef> = match target.object() {
            // Also what a watch before this one left behind.
            Some(object) => {
                let orphan = self.known(&object).is_some_and(|known| {
                    let alive = self.watches.values().any(|other| other.id == known.owner);
                    known.owner != health.id && known.single && !alive
                });
                if orphan && let Some(known) = self.known.get_mut(&object.kind).and_then(|all| all.get_mut(&object)) {
                    known.owner = health.id;
                }
                let owned = self.known(&object).is_some_and(|known| known.owner == health.id);
                (owned && !there.contains(&object)).then_some(object).into_iter().collect()
            }
            None => {
                let owned = self.known.get(&target.kind).into_iter().flatten();
                let gone = owned.filter(|(object, known)| known.owner == health.id && !there.contains(*object));
                gone.map(|(object, _)| object.clone()).collect()
            }
        };
        gone.sort_unstable();
        for reading in readings {
            self.put(owner, reading, seen, hub);
        }
        for object in gone {
            self.delete(health.id, object, seen, hub);
        }
    }

    /// Whether the usual watch of a Secret's kind shows its own type; `None` as long as that is not known.
    fn usual_shows(&self, hub: &Hub, object: &ObjectRef) -> Option<bool> {
        if object.kind == Kind::ConfigMap {
            return Some(false);
        }
        let namespace = (!hub.namespaces.is_empty()).then(|| object.namespace.clone());
        let usual = self.watches.get(&Target::all(object.kind, namespace))?;
        usual.settled.then_some(usual.synced)
    }

    /// Whether it is known what there is of a Secret or ConfigMap that is referred to.
    fn settled(&self, hub: &Hub, object: &ObjectRef) -> bool {
        if self.known(object).is_some() || !hub.in_scope(object) || self.unwatched.contains(object) {
            return true;
        }
        let Some(other_types) = self.usual_shows(hub, object) else { return false };
        self.watches.get(&Target::one(object, other_types)).is_some_and(|health| health.settled)
    }

    /// Whether everything that is to be read has been read, or is known not to be had.
    fn is_complete(&self, hub: &Hub, now: Instant) -> bool {
        let usual = Kind::ALL.into_iter().flat_map(|kind| hub.usual(kind));
        let settled = usual.into_iter().all(|target| self.watches.get(&target).is_some_and(|health| health.settled))
            && self.doubted_until(hub, now).is_none();
        let mut references = self.references.of(Kind::Secret).chain(self.references.of(Kind::ConfigMap));
        settled && references.all(|object| self.settled(hub, object))
    }

    /// When the first refusal of a kind that is expected will be believed.
    fn doubted_until(&self, hub: &Hub, now: Instant) -> Option<Instant> {
        let expected = self.watches.iter().filter(|(target, _)| self.expected.contains(&target.kind));
        let until = expected.filter_map(|(_, health)| health.doubted_until(hub.pauses.grace));
        until.filter(|until| *until > now).min()
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = state::problems(&self.watches);
        if !self.unwatched.is_empty() {
            let message = format!(
                "{} referenced ConfigMaps and Secrets are not read: at most {MAX_SINGLE} are, {MAX_SINGLE_OF_NAMESPACE} of one namespace",
                self.unwatched.len()
            );
            problems.push(state::problem(Code::TooManyReferences, Severity::Error, message));
        }
        problems.extend(self.problems.values().flatten().cloned());
        problems
    }
}
