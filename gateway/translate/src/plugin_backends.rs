//! The backends that a Plugin may call, `spec.capabilities.backends`, and those that its stores of scope Redis are in.
//!
//! They are translated as those of a route are, so that endpoints, TLS, policies of the Service and what it looked at are the
//! same thing; only that no request is routed there.

use crate::gateway::Place;
use crate::grant::{Reference, permits};
use crate::http_route::tell;
use crate::policy::Chain;
use crate::rank::Rank;
use crate::report::Report;
use crate::service::{PortRef, Spoken, resolve};
use crate::world::{Compiled, World};
use sluice_model::config::BackendKey;
use sluice_model::object::NamespacedName;
use sluice_model::plugin::Grants;
use sluice_model::{Code, Hostname, Kind, ObjectRef};
use sluice_resources::{Capabilities, Plugin, RedisConfig, ServiceRef};
use std::collections::BTreeSet;
use std::sync::Arc;

/// None for a Plugin that connects to nothing.
pub(crate) fn compile(world: &World<'_>, name: &NamespacedName, plugin: &Plugin) -> Option<Compiled> {
    let may = plugin.spec.capabilities.as_ref()?;
    let wanted = may.backends.as_deref().unwrap_or_default();
    let grants = world.plugins.granted(name)?;
    let stores: Vec<_> = redis_stores(may, grants).collect();
    if wanted.is_empty() && stores.is_empty() {
        return None;
    }
    let object = ObjectRef::new(Kind::Plugin, name.namespace.clone(), name.name.clone());
    let mut compiled = Compiled::new(Rank::last());
    let place = Place { external_names: external_names(world, &name.namespace), ..Place::nowhere() };
    for (i, backend) in wanted.iter().enumerate() {
        let field = format!("spec.capabilities.backends[{i}]");
        if compiled.of_plugin.calls.contains_key(backend.name.as_str()) {
            let message = format!("there are two backends of the name `{}`; the first one is used", backend.name);
            let mut report = Report::new(&object, &mut compiled.problems);
            report.error(Code::InvalidCombination, format!("{field}.name"), message);
            continue;
        }
        let field = format!("{field}.ref");
        if let Some(key) = found(world, &place, &object, &backend.reference, Spoken::Http, &field, &mut compiled) {
            compiled.of_plugin.calls.insert(backend.name.as_str().into(), key);
        }
    }
    for (i, name, redis) in stores {
        let field = format!("spec.capabilities.stores[{i}].redis.ref");
        if let Some(key) = found(world, &place, &object, &redis.reference, Spoken::Bytes, &field, &mut compiled) {
            compiled.of_plugin.stores.insert(name.into(), key);
        }
    }
    Some(compiled)
}

/// Those that the Plugin is given ([`crate::plugin_stores`]).
fn redis_stores<'p>(
    may: &'p Capabilities,
    grants: &'p Grants,
) -> impl Iterator<Item = (usize, &'p str, &'p RedisConfig)> {
    let mut names = BTreeSet::new();
    let stores = may.stores.iter().flatten().enumerate();
    let stores = stores.filter(move |(_, store)| names.insert(store.name.as_str()));
    let given = stores.filter(|(_, store)| grants.redis_stores.contains_key(store.name.as_str()));
    given.filter_map(|(i, store)| Some((i, store.name.as_str(), store.redis.as_ref()?)))
}

/// The backend that a reference of the Plugin means; a problem tells where there is none.
fn found(
    world: &World<'_>,
    place: &Place,
    plugin: &ObjectRef,
    reference: &ServiceRef,
    spoken: Spoken,
    field: &str,
    compiled: &mut Compiled,
) -> Option<BackendKey> {
    let namespace = reference.namespace.as_deref().unwrap_or(&plugin.namespace);
    let service = NamespacedName::new(namespace, reference.name.as_str());
    let mut report = Report::new(plugin, &mut compiled.problems);
    let granted = Reference {
        from: Kind::Plugin,
        from_namespace: &plugin.namespace,
        to: Kind::Service,
        to_namespace: namespace,
        to_name: &reference.name,
    };
    if !permits(world.store, granted) {
        let message = format!("no ReferenceGrant in `{namespace}` permits a Plugin to refer to Service {service}");
        report.error(Code::RefNotPermitted, field, message);
        return None;
    }
    if reference.port == 0 {
        report.error(Code::ServicePortNotFound, format!("{field}.port"), "a Service's port is 1 to 65535");
        return None;
    }
    let port = PortRef::Number(reference.port);
    match resolve(world, place, &service, port, spoken, &Chain::default(), &mut compiled.deps) {
        Ok(found) => {
            let key = found.key.clone();
            compiled.backends.entry(key.clone()).or_insert_with(|| Arc::new(found));
            Some(key)
        }
        Err(unusable) => {
            tell(&unusable, &service, &port, spoken, field, &mut report);
            None
        }
    }
}

/// Names outside of the cluster that Gateways of the Plugin's namespace, or the Ingress Gateway, may call.
fn external_names(world: &World<'_>, namespace: &str) -> Vec<Hostname> {
    let attach = world.attach;
    let is_own = |parent: &ObjectRef| parent.kind == Kind::Gateway && *parent.namespace == *namespace;
    let own = attach.parents.iter().filter(|(parent, _)| is_own(parent));
    let listeners = own.flat_map(|(_, gateway)| &gateway.listeners).map(|listener| &listener.place);
    let ingress = [&attach.ingress.http, &attach.ingress.https].into_iter().flatten();
    let names: BTreeSet<&Hostname> = listeners.chain(ingress).flat_map(|place| &place.external_names).collect();
    names.into_iter().cloned().collect()
}
