//! Changes that wait to be taken: for each object the newest one. However many updates an object gets while the
//! consumer is busy, what waits is bounded by the number of objects, and nothing waits for a timer.

use indexmap::IndexMap;
use indexmap::map::Entry;
use sluice_model::ObjectRef;
use sluice_resources::{Change, Unreadable};
use std::sync::Arc;
use std::time::Instant;

#[derive(Debug, Default)]
pub(super) struct Pending {
    changes: IndexMap<ObjectRef, Waiting, foldhash::fast::RandomState>,
}

#[derive(Debug)]
struct Waiting {
    /// Both where a form that can be read is followed by one that can't: the first goes on serving.
    change: Option<Change>,
    unreadable: Option<Arc<Unreadable>>,
    /// When the first of the changes that this one stands for arrived.
    seen: Instant,
    /// What the object is the first to name, and how long it waits for that: handed on without, it would have requests
    /// refused that its former version answers.
    awaits: Option<(Vec<ObjectRef>, Instant)>,
}

impl Waiting {
    fn is_ready(&self, now: Instant, settled: &impl Fn(&ObjectRef) -> bool) -> bool {
        self.awaits.as_ref().is_none_or(|(objects, until)| now >= *until || objects.iter().all(settled))
    }
}

/// What there is to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    /// Something; the first of it arrived then.
    Since(Instant),
    /// Nothing before then, unless there is news.
    At(Instant),
    Nothing,
}

impl Pending {
    pub(super) fn put(
        &mut self,
        object: ObjectRef,
        change: Change,
        seen: Instant,
        awaits: Option<(Vec<ObjectRef>, Instant)>,
    ) {
        match self.changes.entry(object) {
            Entry::Occupied(mut waiting) => {
                let waiting = waiting.get_mut();
                waiting.change = Some(change);
                waiting.unreadable = None;
                waiting.awaits = awaits;
            }
            Entry::Vacant(place) => {
                place.insert(Waiting { change: Some(change), unreadable: None, seen, awaits });
            }
        }
    }

    /// The newest form cannot be read. What waits is still to be taken before.
    pub(super) fn put_unreadable(&mut self, unreadable: Arc<Unreadable>, seen: Instant) {
        let fresh = || Waiting { change: None, unreadable: None, seen, awaits: None };
        let waiting = self.changes.entry(unreadable.reference.clone()).or_insert_with(fresh);
        waiting.unreadable = Some(unreadable);
    }

    pub(super) fn ready(&self, now: Instant, settled: impl Fn(&ObjectRef) -> bool) -> Ready {
        let mut ready = Ready::Nothing;
        for waiting in self.changes.values() {
            let is_ready = waiting.is_ready(now, &settled);
            ready = match (ready, &waiting.awaits) {
                (Ready::Since(first), _) if is_ready => Ready::Since(first.min(waiting.seen)),
                (_, _) if is_ready => Ready::Since(waiting.seen),
                (Ready::At(first), Some((_, until))) => Ready::At(first.min(*until)),
                (Ready::Nothing, Some((_, until))) => Ready::At(*until),
                (former, _) => former,
            };
        }
        ready
    }

    /// Takes what is ready, in the order of arrival.
    pub(super) fn take(&mut self, now: Instant, settled: impl Fn(&ObjectRef) -> bool) -> Vec<(ObjectRef, Change)> {
        let all = std::mem::take(&mut self.changes);
        let mut taken = Vec::with_capacity(all.len());
        for (object, waiting) in all {
            if waiting.is_ready(now, &settled) {
                taken.extend(waiting.change.map(|change| (object.clone(), change)));
                taken.extend(waiting.unreadable.map(|unreadable| (object, Change::Unreadable(unreadable))));
            } else {
                self.changes.insert(object, waiting);
            }
        }
        taken
    }

    pub(super) fn clear(&mut self) {
        self.changes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use sluice_model::Kind;
    use std::time::Duration;

    fn service(name: &str, port: usize) -> Change {
        let document = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"ports": [{"port": port}]}});
        Change::Upsert(sluice_resources::parse(document).object.unwrap())
    }

    fn reference(kind: Kind, name: &str) -> ObjectRef {
        ObjectRef::new(kind, "shop", name)
    }

    fn everything(_: &ObjectRef) -> bool {
        true
    }

    #[test]
    fn a_burst_of_updates_of_one_object_is_one_change_the_newest_seen_since_the_first() {
        let mut pending = Pending::default();
        let web = reference(Kind::Service, "web");
        let start = Instant::now();
        for n in 0..10_000 {
            let seen = start + Duration::from_millis(n as u64);
            pending.put(web.clone(), service("web", n), seen, None);
        }
        assert_eq!(pending.ready(start, everything), Ready::Since(start));
        assert_eq!(pending.take(start, everything), [(web, service("web", 9_999))]);
        assert_eq!(pending.ready(start, everything), Ready::Nothing);
    }

    #[test]
    fn a_deletion_replaces_the_update_that_nobody_took() {
        let mut pending = Pending::default();
        let web = reference(Kind::Service, "web");
        let now = Instant::now();
        pending.put(web.clone(), service("web", 80), now, None);
        pending.put(web.clone(), Change::Delete(web.clone()), now, None);
        assert_eq!(pending.take(now, everything), [(web.clone(), Change::Delete(web))]);
    }

    #[test]
    fn a_form_that_cannot_be_read_replaces_none_that_can() {
        let mut pending = Pending::default();
        let web = reference(Kind::Service, "web");
        let document = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"ports": "many"}});
        let unreadable = sluice_resources::parse(document).unreadable.unwrap();
        let now = Instant::now();
        pending.put(web.clone(), service("web", 80), now, None);
        pending.put_unreadable(unreadable.clone(), now);
        let told = Change::Unreadable(unreadable.clone());
        assert_eq!(pending.take(now, everything), [(web.clone(), service("web", 80)), (web.clone(), told.clone())]);
        pending.put_unreadable(unreadable.clone(), now);
        assert_eq!(pending.take(now, everything), [(web.clone(), told)]);
        pending.put_unreadable(unreadable, now);
        pending.put(web.clone(), service("web", 81), now, None);
        assert_eq!(pending.take(now, everything), [(web, service("web", 81))], "it was mended meanwhile");
    }

    #[test]
    fn an_object_waits_for_what_it_names_and_holds_up_no_other() {
        let mut pending = Pending::default();
        let (web, api) = (reference(Kind::Service, "web"), reference(Kind::Service, "api"));
        let ca = reference(Kind::ConfigMap, "ca");
        let now = Instant::now();
        let until = now + Duration::from_secs(2);
        let unsettled = |object: &ObjectRef| object.kind != Kind::ConfigMap;
        pending.put(web.clone(), service("web", 80), now, Some((vec![ca], until)));
        assert_eq!(pending.ready(now, unsettled), Ready::At(until));
        pending.put(api.clone(), service("api", 80), now, None);
        assert_eq!(pending.take(now, unsettled), [(api, service("api", 80))]);
        assert_eq!(pending.ready(now, everything), Ready::Since(now));
        assert_eq!(pending.take(until, unsettled), [(web, service("web", 80))]);
    }
}
