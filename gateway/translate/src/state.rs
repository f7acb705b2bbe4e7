//! What is derived from objects other than routes, and who looked at what.

use crate::backend_tls::BackendTlsPolicies;
use crate::backend_traffic::BackendTrafficPolicies;
use crate::certificate::Certificates;
use crate::few::Few;
use crate::gateway::Gateways;
use crate::options::Options;
use crate::plugin::{Files, Plugins};
use crate::policy::Policies;
use crate::rivals::Rivals;
use crate::world::World;
use sluice_model::{Kind, ObjectRef};
use sluice_resources::{Change, Object, Store, Unreadable};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::endpoints::SliceIndex;
use sluice_model::object::NamespacedName;

/// Everything that routes are translated from.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    pub(crate) options: Options,
    pub(crate) store: Store,
    /// Objects whose newest form cannot be read. In the store is the form before, if there was one.
    pub(crate) unreadable: BTreeMap<ObjectRef, Arc<Unreadable>>,
    /// Those of them of which there was none, and something else is in the store ([`Unreadable::stand_in`]).
    pub(crate) stand_ins: BTreeSet<ObjectRef>,
    pub(crate) files: Files,
    pub(crate) slices: SliceIndex,
    pub(crate) certificates: Certificates,
    pub(crate) gateways: Gateways,
    pub(crate) policies: Policies,
    pub(crate) plugins: Plugins,
    pub(crate) backend_tls: BackendTlsPolicies,
    pub(crate) backend_traffic: BackendTrafficPolicies,
    pub(crate) rivals: Rivals,
}

/// What one set of changes touched.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    pub(crate) objects: BTreeSet<ObjectRef>,
    pub(crate) files: bool,
    /// Services whose slices changed, or that say otherwise how these are read.
    pub(crate) slices_of: BTreeSet<NamespacedName>,
}

impl Touched {
    pub(crate) fn any(&self, kinds: &[Kind]) -> bool {
        kinds
            .iter()
            .any(|kind| self.objects.range(ObjectRef::new(*kind, "", "")..).next().is_some_and(|o| o.kind == *kind))
    }

    pub(crate) fn any_of(&self, objects: &BTreeSet<ObjectRef>) -> bool {
        self.objects.iter().any(|object| objects.contains(object))
    }
}

impl Inputs {
    pub(crate) fn world(&self) -> World<'_> {
        World {
            store: &self.store,
            attach: &self.gateways.attach,
            policies: &self.policies,
            plugins: &self.plugins,
            backend_tls: &self.backend_tls,
            backend_traffic: &self.backend_traffic,
            rivals: &self.rivals,
        }
    }

    /// Puts changes into the store; those that change nothing touch nothing.
    pub(crate) fn absorb(&mut self, changes: Vec<Change>) -> Touched {
        let mut touched = Touched::default();
        for change in changes {
            match change {
                Change::Upsert(object) => {
                    let reference = self.store.shared(object.reference());
                    let former = self.slice(&reference);
                    let slice = match &object {
                        Object::EndpointSlice(slice) => Some(slice.clone()),
                        _ => None,
                    };
                    // Its first address family is that of its endpoints.
                    let service = matches!(object, Object::Service(_)).then(|| reference.key());
                    self.stand_ins.remove(&reference);
                    // What is not read anew for it is asked for its status as it is.
                    let mended = self.unreadable.remove(&reference).is_some() && reference.kind.is_route();
                    if !self.store.upsert_as(reference.key(), object) && !mended {
                        continue;
                    }
                    for old in former.iter() {
                        self.slices.remove(old);
                        touched.slices_of.extend(crate::endpoints::service_of(old));
                    }
                    for new in slice.iter() {
                        self.slices.insert(new);
                        touched.slices_of.extend(crate::endpoints::service_of(new));
                    }
                    touched.slices_of.extend(service);
                    touched.objects.insert(reference);
                }
                Change::Delete(reference) => {
                    let former = self.slice(&reference);
                    self.stand_ins.remove(&reference);
                    let was_unreadable = self.unreadable.remove(&reference).is_some();
                    if !self.store.remove(&reference) && !was_unreadable {
                        continue;
                    }
                    touched.slices_of.extend((reference.kind == Kind::Service).then(|| reference.key()));
                    for old in former.iter() {
                        self.slices.remove(old);
                        touched.slices_of.extend(crate::endpoints::service_of(old));
                    }
                    touched.objects.insert(reference);
                }
                Change::Unreadable(unreadable) => {
                    let reference = unreadable.reference.clone();
                    let held = self.store.get(&reference);
                    let stands_in =
                        self.stand_ins.contains(&reference) || held.as_ref().is_none_or(Unreadable::is_stand_in);
                    let mut touches = reference.kind.is_route();
                    if stands_in && let Some(stand_in) = &unreadable.stand_in {
                        touches |= self.store.upsert(stand_in.clone());
                        self.stand_ins.insert(reference.clone());
                    }
                    if self.unreadable.get(&reference) != Some(&unreadable) {
                        self.unreadable.insert(reference.clone(), unreadable);
                        touched.objects.extend(touches.then_some(reference));
                    }
                }
                Change::File { path, sha256: Some(sha256) } => {
                    touched.files |= self.files.insert(path, sha256.clone()) != Some(sha256);
                }
                Change::File { path, sha256: None } => touched.files |= self.files.remove(&path).is_some(),
            }
        }
        touched
    }

    fn slice(&self, reference: &ObjectRef) -> Option<Arc<sluice_resources::api::EndpointSlice>> {
        if reference.kind != Kind::EndpointSlice {
            return None;
        }
        self.store.endpoint_slices.get(&reference.key()).cloned()
    }
}

/// Which routes looked at an object, there or not.
#[derive(Debug, Default)]
pub(crate) struct Dependents {
    by_object: BTreeMap<ObjectRef, Few<ObjectRef>>,
}

impl Dependents {
    pub(crate) fn insert(&mut self, route: &ObjectRef, deps: &[ObjectRef]) {
        for dep in deps {
            match self.by_object.entry(dep.clone()) {
                Entry::Occupied(mut routes) => routes.get_mut().insert(route.clone()),
                Entry::Vacant(none) => {
                    none.insert(Few::One(route.clone()));
                }
            }
        }
    }

    pub(crate) fn remove(&mut self, route: &ObjectRef, deps: &[ObjectRef]) {
        for dep in deps {
            if self.by_object.get_mut(dep).is_some_and(|routes| routes.remove(route)) {
                self.by_object.remove(dep);
            }
        }
    }

    pub(crate) fn of<'d>(&'d self, object: &ObjectRef) -> impl Iterator<Item = &'d ObjectRef> {
        self.by_object.get(object).into_iter().flat_map(Few::iter)
    }
}
