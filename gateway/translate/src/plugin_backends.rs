//! The backends that a Plugin may call: `spec.capabilities.backends`.
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
use sluice_model::object::NamespacedName;
use sluice_model::{Code, Hostname, Kind, ObjectRef};
use sluice_resources::Plugin;
use std::collections::BTreeSet;
use std::sync::Arc;

/// None for a Plugin that calls no backend.
pub(crate) fn compile(world: &World<'_>, name: &NamespacedName, plugin: &Plugin) -> Option<Compiled> {
    let wanted = plugin.spec.capabilities.as_ref()?.backends.as_deref().filter(|backends| !backends.is_empty())?;
    let object = ObjectRef::new(Kind::Plugin, name.namespace.clone(), name.name.clone());
    let mut compiled = Compiled::new(Rank::last());
    let place = Place { external_names: external_names(world, &name.namespace), ..Place::nowhere() };
    let chain = Chain::default();
    for (i, backend) in wanted.iter().enumerate() {
        let field = format!("spec.capabilities.backends[{i}]");
        let mut report = Report::new(&object, &mut compiled.problems);
        if compiled.calls.contains_key(backend.name.as_str()) {
            let message = format!("there are two backends of the name `{}`; the first one is used", backend.name);
            report.error(Code::InvalidCombination, format!("{field}.name"), message);
            continue;
        }
        let reference = &backend.reference;
        let field = format!("{field}.ref");
        let namespace = reference.namespace.as_deref().unwrap_or(&name.namespace);
        let service = NamespacedName::new(namespace, reference.name.as_str());
        let granted = Reference {
            from: Kind::Plugin,
            from_namespace: &name.namespace,
            to: Kind::Service,
            to_namespace: namespace,
            to_name: &reference.name,
        };
        if !permits(world.store, granted) {
            let message = format!("no ReferenceGrant in `{namespace}` permits a Plugin to refer to Service {service}");
            report.error(Code::RefNotPermitted, field, message);
            continue;
        }
        if reference.port == 0 {
            report.error(Code::ServicePortNotFound, format!("{field}.port"), "a Service's port is 1 to 65535");
            continue;
        }
        let port = PortRef::Number(reference.port);
        match resolve(world, &place, &service, port, Spoken::Http, &chain, &mut compiled.deps) {
            Ok(found) => {
                compiled.calls.insert(backend.name.as_str().into(), found.key.clone());
                compiled.backends.entry(found.key.clone()).or_insert_with(|| Arc::new(found));
            }
            Err(unusable) => {
                let mut report = Report::new(&object, &mut compiled.problems);
                tell(&unusable, &service, &port, Spoken::Http, &field, &mut report);
            }
        }
    }
    Some(compiled)
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
