//! What the cluster holds of objects whose status we write: their newest version, and the status that stands there.
//!
//! It goes beside the changes, not with them: a status is no configuration, and writing one must not come back as a
//! change of its object.

use super::raw::Raw;
use sluice_model::{Kind, ObjectRef};
use sluice_resources::Held;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

/// What has not been taken yet: the newest form of each object, so that it is bounded by their number.
#[derive(Debug, Default)]
pub(super) struct Holding {
    kinds: BTreeSet<Kind>,
    news: Mutex<HashMap<ObjectRef, Option<Held>>>,
    changed: Notify,
}

impl Holding {
    pub(super) fn new(kinds: impl IntoIterator<Item = Kind>) -> Holding {
        Holding { kinds: kinds.into_iter().collect(), ..Holding::default() }
    }

    pub(super) fn of(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }

    pub(super) fn put(&self, object: &ObjectRef, raw: &mut Raw) {
        if !self.of(object.kind) {
            return;
        }
        let status = std::mem::take(&mut raw.status).to_string().into();
        let of_document = Held::of(&raw.document);
        self.set(object, Some(Held { resource_version: raw.resource_version.clone(), status, ..of_document }));
    }

    pub(super) fn gone(&self, object: &ObjectRef) {
        if self.of(object.kind) {
            self.set(object, None);
        }
    }

    fn set(&self, object: &ObjectRef, held: Option<Held>) {
        self.news.lock().unwrap_or_else(PoisonError::into_inner).insert(object.clone(), held);
        self.changed.notify_one();
    }

    pub(super) fn take(&self) -> HashMap<ObjectRef, Option<Held>> {
        std::mem::take(&mut *self.news.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}
