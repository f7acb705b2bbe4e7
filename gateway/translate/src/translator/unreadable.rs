//! What is said of objects whose newest form cannot be read: that this is so, whatever serves in its place.

use super::Translator;
use crate::http_route;
use crate::status::{
    ClassStatus, ConfigStatus, GatewayStatus, ListenerSetStatus, PluginStatus, PolicyStatus, RouteStatus,
};
use sluice_model::object::NamespacedName;
use sluice_model::{Kind, ObjectRef, Problem};
use sluice_resources::Unreadable;
use std::collections::BTreeMap;
use std::sync::Arc;

impl Translator {
    fn unreadable(&self, kind: Kind) -> impl Iterator<Item = (&ObjectRef, &Arc<Unreadable>)> {
        self.inputs.unreadable.range(ObjectRef::new(kind, "", "")..).take_while(move |(object, _)| object.kind == kind)
    }

    fn why_unreadable(&self, unreadable: &Unreadable) -> String {
        let object = &unreadable.reference;
        let has_former = !self.inputs.stand_ins.contains(object) && self.inputs.store.contains(object);
        let rest = if has_former { "; the form before it goes on serving" } else { "" };
        format!("{}{rest}", unreadable.message)
    }

    /// Routes whose newest form cannot be read.
    pub(super) fn unreadable_routes(&self) -> impl Iterator<Item = &ObjectRef> {
        self.inputs.unreadable.keys().filter(|object| object.kind.is_route())
    }

    pub(super) fn route_status(&self, route: &ObjectRef) -> Option<RouteStatus> {
        match self.inputs.unreadable.get(route) {
            Some(unreadable) => {
                let why = self.why_unreadable(unreadable);
                let mut status = http_route::unreadable(&self.inputs.world(), unreadable, &why);
                // Not even whom it asks: those that the form before asked are told.
                if status.parents.is_empty()
                    && let Some(former) = self.routes.get(route)
                {
                    status.parents.clone_from(&former.status.parents);
                    for parent in &mut status.parents {
                        (parent.rejected, parent.unread) = (Some(Box::new(("UnsupportedValue", why.clone()))), true);
                    }
                }
                Some(status)
            }
            None => self.routes.get(route).map(|compiled| compiled.status.clone()),
        }
    }

    pub(super) fn tell_classes(&self, classes: &mut BTreeMap<ObjectRef, ClassStatus>) {
        for (object, unreadable) in self.unreadable(Kind::GatewayClass) {
            if let Some(status) = classes.get_mut(object) {
                status.generation = unreadable.generation;
                status.rejected = Some(self.why_unreadable(unreadable));
            }
        }
    }

    pub(super) fn tell_gateways(&self, gateways: &mut BTreeMap<ObjectRef, GatewayStatus>) {
        for (object, unreadable) in self.unreadable(Kind::Gateway) {
            let is_ours = |class: &String| self.inputs.gateways.class_names.contains(class);
            // Where not even the class can be read it is whose the form before was.
            if unreadable.class.as_ref().map_or_else(|| gateways.contains_key(object), is_ours) {
                let status = gateways.entry(object.clone()).or_default();
                status.unread = Some(unreadable.generation);
                status.rejected = Some(("Invalid", self.why_unreadable(unreadable)));
            }
        }
    }

    pub(super) fn tell_listener_sets(&self, sets: &mut BTreeMap<ObjectRef, ListenerSetStatus>) {
        for (object, unreadable) in self.unreadable(Kind::ListenerSet) {
            let mut gateways = unreadable.parents.iter().filter_map(|parent| {
                let group = parent.group.as_deref().unwrap_or(Kind::Gateway.group());
                let kind = parent.kind.as_deref().unwrap_or(Kind::Gateway.name());
                let namespace = parent.namespace.as_deref().unwrap_or(&object.namespace);
                let gateway = NamespacedName::new(namespace, parent.name.as_str());
                let gateway = ObjectRef::new(Kind::Gateway, gateway.namespace, gateway.name);
                let is_ours = (group, kind) == (Kind::Gateway.group(), Kind::Gateway.name())
                    && self.inputs.gateways.status.contains_key(&gateway);
                is_ours.then_some(gateway)
            });
            let former = sets.get(object).map(|former| former.gateway.clone());
            if let Some(gateway) = gateways.next().or(former) {
                let status = sets.entry(object.clone()).or_insert_with(|| ListenerSetStatus {
                    uid: String::new(),
                    generation: 0,
                    unread: None,
                    gateway,
                    rejected: None,
                    listeners: Vec::new(),
                });
                status.unread = Some(unreadable.generation);
                status.rejected = Some(("Invalid", self.why_unreadable(unreadable)));
            }
        }
    }

    pub(super) fn tell_policies(&self, policies: &mut BTreeMap<ObjectRef, PolicyStatus>) {
        for kind in [Kind::TrafficPolicy, Kind::BackendTLSPolicy, Kind::XBackendTrafficPolicy] {
            for (object, unreadable) in self.unreadable(kind) {
                let Some(status) = policies.get_mut(object) else { continue };
                status.generation = unreadable.generation;
                for ancestor in &mut status.ancestors {
                    ancestor.rejected = Some(("Invalid", self.why_unreadable(unreadable)));
                }
            }
        }
    }

    pub(super) fn tell_plugins(&self, plugins: &mut BTreeMap<ObjectRef, PluginStatus>) {
        for (object, unreadable) in self.unreadable(Kind::Plugin) {
            let status = plugins.entry(object.clone()).or_default();
            status.unread = Some(unreadable.generation);
            status.rejected = Some(("Invalid", self.why_unreadable(unreadable)));
        }
    }

    pub(super) fn tell_configs(&self, configs: &mut BTreeMap<ObjectRef, ConfigStatus>) {
        for (object, unreadable) in self.unreadable(Kind::GatewayConfig) {
            let status = configs.entry(object.clone()).or_default();
            status.generation = unreadable.generation;
            status.rejected = Some(("Invalid", self.why_unreadable(unreadable)));
        }
    }

    /// A stand-in is good for nothing on purpose, and why it is there the source tells.
    pub(super) fn is_of_stand_in(&self, problem: &Problem) -> bool {
        let of_stand_in = |object: &ObjectRef| self.inputs.stand_ins.contains(object);
        problem.field.starts_with("spec.validation") && problem.object.as_ref().is_some_and(of_stand_in)
    }
}
