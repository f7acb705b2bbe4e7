//! ListenerSets: listeners that others add to a Gateway, where it allows them (`spec.allowedListeners`).
//!
//! They are put behind the Gateway's own, the oldest set first, and from there on are listeners as any other; only what
//! they refer to is looked for from the set's namespace, and routes attach to them by the set's name.

use super::listener::{unmeetable, usable};
use super::{Around, AttachParent, Builder, Gateways, Namespaces};
use crate::grant::selects;
use crate::rank::{Rank, name_of};
use crate::report::Report;
use crate::status::{ListenerSetStatus, ListenerStatus};
use serde_json::{from_value, to_value};
use sluice_model::object::NamespacedName;
use sluice_model::{Code, Kind, ObjectRef, Problem};
use sluice_resources::Store;
use sluice_resources::api::gateway::{GatewayAllowedListenersNamespacesFrom as From, GatewayListeners};
use sluice_resources::api::{Gateway, ListenerSet};
use std::collections::{BTreeMap, BTreeSet};

/// One that its Gateway allows.
pub(super) struct Attached {
    pub(super) object: ObjectRef,
    pub(super) listeners: Vec<GatewayListeners>,
    uid: String,
    generation: i64,
}

impl Attached {
    pub(super) fn status(&self, gateway: &ObjectRef, listeners: Vec<ListenerStatus>) -> ListenerSetStatus {
        ListenerSetStatus {
            uid: self.uid.clone(),
            generation: self.generation,
            unread: None,
            gateway: gateway.clone(),
            rejected: None,
            listeners,
        }
    }
}

pub(super) fn reference(set: &ListenerSet) -> ObjectRef {
    let name = name_of(&set.metadata);
    ObjectRef::new(Kind::ListenerSet, name.namespace, name.name)
}

/// All of them by the Gateway that they name, each Gateway's in order of precedence. Those that name none are told so.
pub(super) fn by_gateway<'s>(
    store: &'s Store,
    problems: &mut Vec<Problem>,
) -> BTreeMap<NamespacedName, Vec<&'s ListenerSet>> {
    let mut sets: BTreeMap<NamespacedName, Vec<&ListenerSet>> = BTreeMap::new();
    for (name, set) in &store.listener_sets {
        let object = reference(set);
        let mut report = Report::new(&object, problems);
        let parent = &set.spec.parent_ref;
        let kind = parent.kind.as_deref().unwrap_or(Kind::Gateway.name());
        if parent.group.as_deref().unwrap_or(Kind::Gateway.group()) != Kind::Gateway.group()
            || kind != Kind::Gateway.name()
        {
            let message = format!("a ListenerSet belongs to a Gateway, and not to a {kind}");
            report.error(Code::KindNotSupported, "spec.parentRef.kind", message);
            continue;
        }
        let namespace = parent.namespace.as_deref().filter(|namespace| !namespace.is_empty());
        let gateway = NamespacedName::new(namespace.unwrap_or(&name.namespace), parent.name.as_str());
        if !store.gateways.contains_key(&gateway) {
            report.error(Code::ParentNotFound, "spec.parentRef", format!("there is no Gateway {gateway}"));
            continue;
        }
        sets.entry(gateway).or_default().push(set);
    }
    for of_gateway in sets.values_mut() {
        of_gateway.sort_by_cached_key(|set| Rank::of(&set.metadata));
    }
    sets
}

/// `spec.allowedListeners.namespaces`; none are allowed where it says nothing, or what cannot be used.
fn allowed(gateway: &Gateway, report: &mut Report<'_>) -> Option<Namespaces> {
    let namespaces = gateway.spec.allowed_listeners.as_ref()?.namespaces.as_ref()?;
    Some(match namespaces.from.as_ref()? {
        From::None => return None,
        From::All => Namespaces::All,
        From::Same => Namespaces::Same,
        From::Selector => Namespaces::Selector(usable(namespaces.selector.as_ref()).unwrap_or_else(|(at, wrong)| {
            let message = format!("{wrong}; until then no ListenerSet may attach");
            report.error(Code::UnsupportedValue, format!("spec.allowedListeners.namespaces{at}"), message);
            unmeetable()
        })),
    })
}

impl Builder<'_> {
    /// The ListenerSets that name a Gateway and are allowed. The others get their status here.
    pub(super) fn sets(&mut self, around: &Around<'_>, sets: &[&ListenerSet], result: &mut Gateways) -> Vec<Attached> {
        let allowed = allowed(around.gateway, &mut Report::new(around.object, &mut self.problems));
        let mut attached = Vec::new();
        for set in sets {
            let object = reference(set);
            let one = Attached {
                listeners: set.spec.listeners.iter().filter_map(|l| to_value(l).and_then(from_value).ok()).collect(),
                uid: set.metadata.uid.clone().unwrap_or_default(),
                generation: set.metadata.generation.unwrap_or_default(),
                object: object.clone(),
            };
            if self.allows_set(allowed.as_ref(), around, &object) {
                attached.push(one);
                continue;
            }
            let message = format!(
                "Gateway {} allows no ListenerSets of namespace `{}` (spec.allowedListeners)",
                around.name, object.namespace
            );
            let field = "spec.parentRef";
            self.problems.push(Problem::error(Code::ListenerSetNotAllowed, &object, field, message.clone()));
            let mut status = one.status(around.object, Vec::new());
            status.reject("NotAllowed", message.clone());
            result.sets.insert(object.clone(), status);
            let mut parent = AttachParent::of(around.name, Vec::new());
            parent.refused = Some(message);
            result.attach.parents.insert(object, parent);
        }
        attached
    }

    fn allows_set(&mut self, allowed: Option<&Namespaces>, around: &Around<'_>, set: &ObjectRef) -> bool {
        match allowed {
            None => false,
            Some(Namespaces::All) => true,
            Some(Namespaces::Same) => set.namespace == around.name.namespace,
            Some(Namespaces::Selector(selector)) => {
                let selected = selects(self.store, selector, &set.namespace);
                if selected.is_none() {
                    let message = format!(
                        "Gateway {} asks for labels of namespace `{}`, and there is no such Namespace object",
                        around.name, set.namespace
                    );
                    self.problems.push(Problem::warning(Code::NamespaceNotFound, set, "spec.parentRef", message));
                }
                selected.unwrap_or(false)
            }
        }
    }

    /// Whether a listener's name can be told from those of all others, in its object and elsewhere.
    pub(super) fn listener_name(
        &mut self,
        owner: &ObjectRef,
        listeners: &[GatewayListeners],
        index: usize,
        status: &mut ListenerStatus,
    ) -> bool {
        let name = status.name.clone();
        let (code, message) = if !is_section_name(&name) {
            (Code::UnsupportedValue, format!("`{name}` is no name: lower case letters, digits, hyphens and dots are"))
        } else if listeners.iter().take(index).any(|other| other.name == name) {
            (Code::InvalidCombination, format!("there are two listeners of the name `{name}`; the first one is used"))
        } else {
            return true;
        };
        let field = format!("spec.listeners[{index}].name");
        self.problems.push(Problem::error(code, owner, field, message.clone()));
        status.reject("UnsupportedValue", message);
        false
    }
}

/// A `SectionName`: a DNS subdomain.
fn is_section_name(name: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let label = |label: &str| {
        edge(label.chars().next())
            && edge(label.chars().next_back())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// What is known of sets and their Gateways when all conflicts are.
pub(super) fn conclude(gateways: &mut Gateways) {
    let mut attached: BTreeMap<ObjectRef, usize> = BTreeMap::new();
    let mut serving: BTreeSet<ObjectRef> = BTreeSet::new();
    for set in gateways.sets.values_mut() {
        if gateways.status.get(&set.gateway).is_some_and(|gateway| gateway.rejected()) {
            set.reject("ParentNotAccepted", format!("{} is not accepted", set.gateway));
        }
        if !set.listeners.iter().any(|listener| listener.serves) {
            set.reject("ListenersNotValid", "no listener of it can be served");
        }
        if set.rejected.is_none() {
            *attached.entry(set.gateway.clone()).or_default() += 1;
        }
        if set.listeners.iter().any(ListenerStatus::accepted) {
            serving.insert(set.gateway.clone());
        }
    }
    for (gateway, status) in &mut gateways.status {
        status.attached_listener_sets = attached.get(gateway).copied().unwrap_or_default();
        if status.listeners.iter().all(|listener| !listener.accepted()) && !serving.contains(gateway) {
            status.reject("ListenersNotValid", "no listener can be served");
        }
    }
}
