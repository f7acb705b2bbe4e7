//! What is translated one by one: routes, the hosts and backends that they lead to, and sets of endpoints.

use super::{Translator, Unit};
use crate::endpoints;
use crate::host::HostKey;
use crate::status::RouteStatus;
use crate::summary::Changed;
use crate::world::{Compiled, Kept};
use crate::{grpc_route, http_route, ingress, plugin_backends, stream_route};
use sluice_model::config::{Backend, BackendKey, EndpointSource, EndpointsKey, PluginBackends};
use sluice_model::{Kind, ObjectRef};
use std::collections::BTreeSet;
use std::sync::Arc;

impl Translator {
    /// Routes that changed, or that looked at something that did.
    pub(super) fn dirty_routes(&self, all: bool, seen: &BTreeSet<ObjectRef>) -> BTreeSet<ObjectRef> {
        let mut dirty = BTreeSet::new();
        let store = &self.inputs.store;
        if all {
            dirty.extend(self.routes.keys().cloned());
            for (kind, names) in [
                (Kind::HTTPRoute, store.http_routes.keys().collect::<Vec<_>>()),
                (Kind::GRPCRoute, store.grpc_routes.keys().collect()),
                (Kind::TLSRoute, store.tls_routes.keys().collect()),
                (Kind::TCPRoute, store.tcp_routes.keys().collect()),
                (Kind::UDPRoute, store.udp_routes.keys().collect()),
                (Kind::Ingress, store.ingresses.keys().collect()),
                (Kind::Plugin, store.plugins.keys().collect()),
            ] {
                dirty.extend(names.into_iter().map(|n| ObjectRef::new(kind, n.namespace.clone(), n.name.clone())));
            }
        }
        for object in seen {
            if object.kind.is_route() || matches!(object.kind, Kind::Ingress | Kind::Plugin) {
                dirty.insert(object.clone());
            }
            dirty.extend(self.dependents.of(object).cloned());
        }
        if all && let Some((config, ..)) = &self.inputs.gateways.attach.ingress.default_backend {
            dirty.insert(config.clone());
        }
        dirty
    }

    pub(super) fn compile(&self, route: &ObjectRef) -> Option<Compiled> {
        let world = self.inputs.world();
        let name = route.key();
        match route.kind {
            Kind::HTTPRoute => Some(http_route::compile(&world, &name, &world.store.http_routes.get(&name)?.open()?)),
            Kind::GRPCRoute => Some(grpc_route::compile(&world, &name, &world.store.grpc_routes.get(&name)?.open()?)),
            Kind::TLSRoute => Some(stream_route::tls(&world, &name, &world.store.tls_routes.get(&name)?.open()?)),
            Kind::TCPRoute => Some(stream_route::tcp(&world, &name, &world.store.tcp_routes.get(&name)?.open()?)),
            Kind::UDPRoute => Some(stream_route::udp(&world, &name, &world.store.udp_routes.get(&name)?.open()?)),
            Kind::Ingress => Some(ingress::compile(&world, &name, &world.store.ingresses.get(&name)?.open()?)),
            Kind::Plugin => {
                world.store.plugins.get(&name).and_then(|object| plugin_backends::compile(&world, &name, object))
            }
            // What a GatewayConfig adds to the Ingress Gateway.
            _ => world
                .attach
                .ingress
                .default_backend
                .as_ref()
                .filter(|(config, ..)| config == route)
                .and_then(|_| ingress::default_backend(&world)),
        }
    }

    /// Translates one route anew. Says whether it asks for other certificates than before.
    pub(super) fn route(
        &mut self,
        route: &ObjectRef,
        dirty_hosts: &mut BTreeSet<HostKey>,
        dirty_endpoints: &mut BTreeSet<EndpointsKey>,
        changed: &mut Changed,
    ) -> bool {
        if self.inputs.options.follow_status {
            self.status_of.insert(route.clone());
        }
        let former = self.routes.remove(route);
        let mut compiled = self.compile(route);
        if let Some(former) = &former {
            self.hosts.remove(route, former);
            self.dependents.remove(route, &former.deps);
            if let Some(compiled) = &mut compiled {
                compiled.reuse(former);
            }
            self.attach(&former.status, false);
            self.inputs.rivals.remove(route, former);
        }
        self.plugin_backends(route, compiled.as_ref().map(|compiled| &compiled.of_plugin));
        // Those of the new form first, so that a backend that stays is not dropped in between.
        let backends = compiled.as_ref().map(|compiled| compiled.backends.values().cloned().collect::<Vec<_>>());
        for backend in backends.into_iter().flatten() {
            self.use_backend(backend, dirty_endpoints, changed);
        }
        for key in former.iter().flat_map(|former| &former.backends) {
            self.drop_backend(key, dirty_endpoints, changed);
        }
        let unit = Unit::Route(route.clone());
        match &mut compiled {
            Some(compiled) => {
                let problems = std::mem::take(&mut compiled.problems);
                self.set_problems(unit, problems);
            }
            None => {
                self.problems.remove(&unit);
            }
        }
        let kept = compiled.map(|compiled| Box::new(Kept::of(compiled)));
        let same_rank = match (&former, &kept) {
            (Some(former), Some(kept)) => former.rank == kept.rank,
            _ => false,
        };
        for key in former.iter().chain(&kept).flat_map(|side| side.hosts()) {
            let of = |side: &Option<Box<Kept>>| side.as_ref().and_then(|side| side.placement(key)).map(Arc::as_ptr);
            if !same_rank || of(&former) != of(&kept) {
                dirty_hosts.insert(key.clone());
                changed.routes.insert(route.clone());
            }
        }
        let tls = |side: &Option<Box<Kept>>| side.as_ref().map(|side| side.tls.clone()).unwrap_or_default();
        let tls_changed = tls(&former) != tls(&kept);
        if let Some(kept) = kept {
            self.attach(&kept.status, true);
            self.inputs.rivals.insert(route, &kept);
            self.hosts.insert(route, &kept);
            self.dependents.insert(route, &kept.deps);
            self.routes.insert(route.clone(), kept);
        }
        tls_changed
    }

    /// The backends of a Plugin.
    fn plugin_backends(&mut self, plugin: &ObjectRef, backends: Option<&PluginBackends>) {
        if plugin.kind != Kind::Plugin {
            return;
        }
        let key = plugin.key();
        let backends = backends.filter(|backends| !backends.is_empty());
        let former = self.config.plugin_backends.get(&key);
        match (former, backends) {
            (None, None) => {}
            (Some(former), Some(backends)) if **former == *backends => {}
            (_, Some(backends)) => {
                let backends = Arc::new(backends.clone());
                self.edit().plugin_backends.insert(key, backends);
            }
            (Some(_), None) => {
                self.edit().plugin_backends.remove(&key);
            }
        }
    }

    /// Counts a route's attachments in, or out.
    fn attach(&mut self, status: &RouteStatus, comes: bool) {
        let accepted = status.parents.iter().filter(|parent| parent.rejected.is_none());
        // Once, in however many ways it names the listener.
        let places: BTreeSet<(&ObjectRef, &String)> =
            accepted.flat_map(|of| of.listeners.iter().map(move |listener| (&of.parent, listener))).collect();
        for (parent, listener) in places {
            let listeners = self.attached.entry(parent.clone()).or_default();
            let count = listeners.entry(listener.clone()).or_default();
            *count = if comes { *count + 1 } else { count.saturating_sub(1) };
            listeners.retain(|_, count| *count > 0);
            if listeners.is_empty() {
                self.attached.remove(parent);
            }
        }
    }

    /// A backend's key says all that it is, so the first one under a key stays.
    pub(super) fn use_backend(
        &mut self,
        backend: Arc<Backend>,
        endpoints: &mut BTreeSet<EndpointsKey>,
        changed: &mut Changed,
    ) {
        let users = self.backend_users.entry(backend.key.clone()).or_default();
        *users += 1;
        if *users > 1 {
            return;
        }
        if let EndpointSource::Slices(key) = &backend.source {
            *self.endpoint_users.entry(key.clone()).or_default() += 1;
            endpoints.insert(key.clone());
        }
        changed.backends += 1;
        self.edit().backends.insert(backend.key.clone(), backend);
    }

    pub(super) fn drop_backend(
        &mut self,
        key: &BackendKey,
        endpoints: &mut BTreeSet<EndpointsKey>,
        changed: &mut Changed,
    ) {
        if let Some(users) = self.backend_users.get_mut(key) {
            *users -= 1;
            if *users > 0 {
                return;
            }
        }
        self.backend_users.remove(key);
        changed.backends += 1;
        let Some(backend) = self.edit().backends.remove(key) else { return };
        if let EndpointSource::Slices(key) = &backend.source {
            if let Some(users) = self.endpoint_users.get_mut(key) {
                *users -= 1;
                if *users == 0 {
                    self.endpoint_users.remove(key);
                }
            }
            endpoints.insert(key.clone());
        }
    }

    pub(super) fn host(&mut self, key: HostKey) {
        let mut problems = Vec::new();
        let built = self.hosts.build(&key, &self.routes, &mut problems);
        self.set_problems(Unit::Host(key.clone()), problems);
        let (listener, hostname) = key;
        let former = self.config.virtual_hosts.get(&listener).and_then(|hosts| hosts.get(&hostname));
        if former.map(Arc::as_ref) == built.as_ref() {
            return;
        }
        let listeners = &mut self.edit().virtual_hosts;
        match built {
            Some(host) => {
                listeners.entry(listener).or_default().insert(hostname, Arc::new(host));
            }
            None => {
                if let Some(hosts) = listeners.get_mut(&listener) {
                    hosts.remove(&hostname);
                    if hosts.is_empty() {
                        listeners.remove(&listener);
                    }
                }
            }
        }
    }

    pub(super) fn endpoints(&mut self, key: EndpointsKey, changed: &mut Changed) {
        if !self.endpoint_users.contains_key(&key) {
            self.problems.remove(&Unit::Endpoints(key.clone()));
            if self.config.endpoints.contains_key(&key) {
                changed.endpoints += 1;
                self.edit().endpoints.remove(&key);
            }
            return;
        }
        let mut problems = Vec::new();
        let set = self.inputs.slices.endpoints(&self.inputs.store, &key, &mut problems);
        problems.extend(endpoints::check(&key, &set, self.inputs.slices.has(&key.service)));
        self.set_problems(Unit::Endpoints(key.clone()), problems);
        if self.config.endpoints.get(&key).map(Arc::as_ref) != Some(&set) {
            changed.endpoints += 1;
            self.edit().endpoints.insert(key, Arc::new(set));
        }
    }
}
