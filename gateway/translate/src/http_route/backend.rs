//! backendRefs: who gets the request, with which share.

use super::filter::BackendRef;
use crate::gateway::Place;
use crate::grant::{Reference, permits};
use crate::policy::Chain;
use crate::report::Report;
use crate::service::{PROTOCOLS, PortRef, Spoken, Unusable, knows_protocol, resolve};
use crate::world::{Compiled, World};
use sluice_model::config::BackendKey;
use sluice_model::object::NamespacedName;
use sluice_model::{Code, Kind, ObjectRef};
use std::sync::Arc;

/// Resolves one reference. An error is the API's reason; the problem has been told.
pub(super) fn backend(
    world: &World<'_>,
    object: &ObjectRef,
    place: Option<&Place>,
    reference: &BackendRef<'_>,
    field: &str,
    chain: &Chain<'_>,
    compiled: &mut Compiled,
) -> Result<BackendKey, &'static str> {
    backend_speaking(world, object, place, reference, field, chain, Spoken::by(object.kind), compiled)
}

/// As [`backend`], of what is spoken to otherwise than the route's own.
#[allow(clippy::too_many_arguments)] // the parts of one reference
pub(super) fn backend_speaking(
    world: &World<'_>,
    object: &ObjectRef,
    place: Option<&Place>,
    reference: &BackendRef<'_>,
    field: &str,
    chain: &Chain<'_>,
    spoken: Spoken,
    compiled: &mut Compiled,
) -> Result<BackendKey, &'static str> {
    let outcome = look_up(world, object, place, reference, field, chain, spoken, compiled);
    if let Err(reason) = outcome {
        compiled.unresolve(object, reason, field);
    }
    outcome
}

#[allow(clippy::too_many_arguments)] // the parts of one reference
fn look_up(
    world: &World<'_>,
    object: &ObjectRef,
    place: Option<&Place>,
    reference: &BackendRef<'_>,
    field: &str,
    chain: &Chain<'_>,
    spoken: Spoken,
    compiled: &mut Compiled,
) -> Result<BackendKey, &'static str> {
    let mut report = Report::new(object, &mut compiled.problems);
    let (group, kind) = (reference.group.unwrap_or_default(), reference.kind.unwrap_or("Service"));
    if !group.is_empty() || kind != "Service" {
        let message = format!("a backend of kind `{kind}` of group `{group}` is not supported; Service is");
        report.error(Code::KindNotSupported, format!("{field}.kind"), message);
        return Err("InvalidKind");
    }
    let namespace = reference.namespace.filter(|n| !n.is_empty()).unwrap_or(&object.namespace);
    let service = world.store.shared(ObjectRef::new(Kind::Service, namespace, reference.name)).key();
    let granted = Reference {
        from: object.kind,
        from_namespace: &object.namespace,
        to: Kind::Service,
        to_namespace: namespace,
        to_name: reference.name,
    };
    if !permits(world.store, granted) {
        let message =
            format!("no ReferenceGrant in `{namespace}` permits {} to refer to Service {service}", object.kind);
        report.error(Code::RefNotPermitted, field, message);
        return Err("RefNotPermitted");
    }
    let Some(port) = reference.port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0) else {
        report.error(
            Code::ServicePortNotFound,
            format!("{field}.port"),
            "a reference to a Service needs a port: 1 to 65535",
        );
        return Err("BackendNotFound");
    };
    // Without a listener the reference is only checked; any place that allows nothing will do.
    let nowhere;
    let place = match place {
        Some(place) => place,
        None => {
            nowhere = Place::nowhere();
            &nowhere
        }
    };
    match resolve(world, place, &service, PortRef::Number(port), spoken, chain, &mut compiled.deps) {
        Ok(backend) => {
            if let Some(protocol) = unknown_protocol(world, &service, port, spoken) {
                let message = format!(
                    "appProtocol `{protocol}` of Service {service} is not supported; {PROTOCOLS} are, and none means HTTP/1.1"
                );
                report.error(Code::UnsupportedAppProtocol, field, message);
                return Err("UnsupportedProtocol");
            }
            let key = backend.key.clone();
            compiled.backends.entry(key.clone()).or_insert_with(|| Arc::new(backend));
            Ok(key)
        }
        Err(unusable) => Err(tell(&unusable, &service, &PortRef::Number(port), spoken, field, &mut report)),
    }
}

/// The problem of a Service that is no backend, and the API's reason.
pub(crate) fn tell(
    unusable: &Unusable,
    service: &NamespacedName,
    port: &PortRef<'_>,
    spoken: Spoken,
    field: &str,
    report: &mut Report<'_>,
) -> &'static str {
    match unusable {
        Unusable::ServiceNotFound => {
            report.error(Code::ServiceNotFound, field, format!("there is no Service {service}"));
            "BackendNotFound"
        }
        Unusable::PortNotFound => {
            report.error(
                Code::ServicePortNotFound,
                field,
                format!("Service {service} has no {} port {port}", spoken.transport()),
            );
            "BackendNotFound"
        }
        Unusable::ExternalName(message) => {
            report.error(Code::ExternalNameNotAllowed, field, format!("Service {service}: {message}"));
            "UnsupportedValue"
        }
        Unusable::Tls => {
            let message = format!("the BackendTLSPolicy of Service {service} cannot be used, so nothing is sent to it");
            report.error(Code::InvalidCa, field, message);
            "InvalidBackendTLSPolicy"
        }
    }
}

/// The `appProtocol` of the Service's port, where this route cannot send by it (HTTPBackendRef of the Gateway API: the
/// backend is invalid then, as what would be sent instead is not what the backend expects).
fn unknown_protocol<'w>(world: &World<'w>, service: &NamespacedName, port: u16, spoken: Spoken) -> Option<&'w str> {
    if matches!(spoken, Spoken::Bytes | Spoken::Datagrams) {
        return None;
    }
    let ports = world.store.services.get(service)?.spec.as_ref()?.ports.as_ref()?;
    let port = ports.iter().find(|p| p.port == i32::from(port))?;
    port.app_protocol.as_deref().filter(|protocol| !knows_protocol(protocol))
}
