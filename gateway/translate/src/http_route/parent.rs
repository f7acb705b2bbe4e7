//! parentRefs: which listeners take the route, for which hosts.

use crate::gateway::{AttachListener, AttachParent, Namespaces, Place};
use crate::grant::selects;
use crate::report::Report;
use crate::rivals::compete;
use crate::status::{ParentStatus, RouteStatus};
use crate::world::{Compiled, World};
use sluice_model::{Code, HostPattern, Kind, ObjectRef};
use sluice_resources::Unreadable;
use sluice_resources::api::HttpRoute;
use sluice_resources::api::http_route::{HttpRouteParentRefs, HttpRouteUseDefaultGateways as Scope};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One listener that serves the route.
pub(super) struct Attachment {
    pub(super) place: Arc<Place>,
    pub(super) hostnames: Vec<HostPattern>,
}

pub(super) fn attachments(
    world: &World<'_>,
    object: &ObjectRef,
    route: &HttpRoute,
    compiled: &mut Compiled,
) -> Vec<Attachment> {
    let mut report = Report::new(object, &mut compiled.problems);
    let mut hostnames = Vec::new();
    for (i, text) in route.spec.hostnames.iter().flatten().enumerate() {
        match HostPattern::parse_gateway(Some(text)) {
            Ok(HostPattern::Any) => {
                let message = format!("`{text}` is not a host name; leave hostnames out for all");
                report.error(Code::InvalidHostname, format!("spec.hostnames[{i}]"), message);
            }
            Ok(pattern) => hostnames.push(pattern),
            Err(error) => report.error(Code::InvalidHostname, format!("spec.hostnames[{i}]"), error.to_string()),
        }
    }
    let named_hosts = route.spec.hostnames.as_ref().is_some_and(|names| !names.is_empty());
    if !named_hosts {
        hostnames.push(HostPattern::Any);
    }
    let named = route.spec.parent_refs.as_deref().unwrap_or_default();
    let by_default = default_gateways(world, object, route);
    let references = named.iter().enumerate().map(|(i, reference)| (format!("spec.parentRefs[{i}]"), reference));
    let references = references.chain(by_default.iter().map(|reference| (DEFAULTS.to_owned(), reference)));
    let mut found: BTreeMap<_, Attachment> = BTreeMap::new();
    for (field, reference) in references {
        let mut report = Report::new(object, &mut compiled.problems);
        let Some((mut status, listeners)) = candidates(world, object, reference, &field, &mut report) else { continue };
        compiled.deps.insert(status.parent.clone());
        match take(world, object, reference, &field, &hostnames, listeners, &mut report, &mut status) {
            Ok(taken) => {
                let mut lost = None;
                for (listener, hostnames) in taken {
                    let id = &listener.place.id;
                    if compete(object.kind) {
                        compiled.claims.entry(id.clone()).or_default().extend(hostnames.iter().cloned());
                    }
                    if let Some(winner) = world.rivals.winner(id, object) {
                        let message = format!(
                            "{winner} goes first at listener {id}: HTTPRoutes and GRPCRoutes share no host there, and the \
                             older route serves"
                        );
                        report.error(Code::RouteConflict, &*field, message.clone());
                        lost.get_or_insert(("Conflicted", message));
                        continue;
                    }
                    status.listeners.push(listener.name.to_string());
                    if !listener.serves {
                        continue;
                    }
                    let attachment = found
                        .entry(listener.place.id.clone())
                        .or_insert_with(|| Attachment { place: listener.place.clone(), hostnames: Vec::new() });
                    for hostname in hostnames {
                        if !attachment.hostnames.contains(&hostname) {
                            attachment.hostnames.push(hostname);
                        }
                    }
                }
                if status.listeners.is_empty() {
                    status.rejected = lost.map(Box::new);
                }
            }
            Err((reason, message)) => status.rejected = Some(Box::new((reason, message))),
        }
        compiled.status.parents.push(status);
    }
    if named.is_empty() && by_default.is_empty() {
        let (field, message) = match route.spec.use_default_gateways {
            Some(Scope::All) => {
                (DEFAULTS, "there is no default Gateway (spec.defaultScope), so nothing serves the route")
            }
            _ => ("spec.parentRefs", "the route names no parentRef, so nothing serves it"),
        };
        Report::new(object, &mut compiled.problems).warn(Code::ParentNotFound, field, message);
    }
    found.into_values().collect()
}

/// The status of a route, of whichever kind, of which it cannot be read more than whom it asks to serve it.
pub(crate) fn unreadable(world: &World<'_>, unreadable: &Unreadable, message: &str) -> RouteStatus {
    let object = &unreadable.reference;
    let mut route = HttpRoute::default();
    route.spec.parent_refs = Some(unreadable.parents.clone());
    route.spec.use_default_gateways = unreadable.by_default.then_some(Scope::All);
    let by_default = default_gateways(world, object, &route);
    // The problem that is to be told of is the source's.
    let mut unreported = Vec::new();
    let mut report = Report::new(object, &mut unreported);
    let parents = unreadable.parents.iter().chain(&by_default).filter_map(|reference| {
        let (status, _) = candidates(world, object, reference, "", &mut report)?;
        Some(ParentStatus {
            rejected: Some(Box::new(("UnsupportedValue", message.to_owned()))),
            unread: true,
            ..status
        })
    });
    RouteStatus { generation: unreadable.generation, parents: parents.collect(), invalid: None }
}

/// Where a route asks for Gateways that it does not name (GEP-3793).
const DEFAULTS: &str = "spec.useDefaultGateways";

/// The Gateways that take routes which ask for default ones, as parentRefs would name them; those that the route names
/// as a whole itself are left out.
fn default_gateways(world: &World<'_>, object: &ObjectRef, route: &HttpRoute) -> Vec<HttpRouteParentRefs> {
    if route.spec.use_default_gateways != Some(Scope::All) {
        return Vec::new();
    }
    let is_whole = |reference: &HttpRouteParentRefs, gateway: &ObjectRef| {
        reference.kind.as_deref().unwrap_or(Kind::Gateway.name()) == Kind::Gateway.name()
            && reference.namespace.as_deref().unwrap_or(&object.namespace) == &*gateway.namespace
            && reference.name == *gateway.name
            && reference.section_name.is_none()
            && reference.port.is_none()
    };
    let named = |gateway: &ObjectRef| route.spec.parent_refs.iter().flatten().any(|other| is_whole(other, gateway));
    let gateways = world.attach.defaults.iter().filter(|gateway| !named(gateway));
    let reference = |gateway: &ObjectRef| HttpRouteParentRefs {
        name: gateway.name.to_string(),
        namespace: Some(gateway.namespace.to_string()),
        ..HttpRouteParentRefs::default()
    };
    gateways.map(reference).collect()
}

/// The parent's listeners; `None` where the parent is none of our business.
fn candidates<'w>(
    world: &World<'w>,
    object: &ObjectRef,
    reference: &HttpRouteParentRefs,
    field: &str,
    report: &mut Report<'_>,
) -> Option<(ParentStatus, &'w [AttachListener])> {
    let group = reference.group.as_deref().unwrap_or(Kind::Gateway.group());
    let kind = reference.kind.as_deref().unwrap_or(Kind::Gateway.name());
    let found = Kind::from_group_kind(group, kind).filter(|kind| matches!(kind, Kind::Gateway | Kind::ListenerSet));
    let Some(found) = found else {
        let message = format!("a parent of kind `{kind}` is not served here; Gateway and ListenerSet are");
        report.warn(Code::KindNotSupported, format!("{field}.kind"), message);
        return None;
    };
    let namespace = reference.namespace.as_deref().unwrap_or(&object.namespace);
    let parent = world.store.shared(ObjectRef::new(found, namespace, reference.name.as_str()));
    if world.attach.foreign.contains(&parent) {
        return None;
    }
    let found = world.attach.parents.get(&parent);
    let status = ParentStatus {
        parent,
        gateway: found.map(|found| found.gateway.clone()),
        namespace: reference.namespace.clone(),
        section_name: reference.section_name.clone(),
        port: reference.port.and_then(|port| u16::try_from(port).ok()),
        listeners: Vec::new(),
        rejected: None,
        unresolved: None,
        unread: false,
    };
    let message = match found {
        Some(AttachParent { refused: None, listeners, .. }) => return Some((status, listeners)),
        Some(AttachParent { refused: Some(why), .. }) => format!("{} is not attached: {why}", status.parent),
        // Or it belongs to no Gateway.
        None if world.store.contains(&status.parent) => format!("{} is not attached", status.parent),
        None => format!("there is no {}", status.parent),
    };
    report.error(Code::ParentNotFound, field, message.clone());
    Some((ParentStatus { rejected: Some(Box::new(("NoMatchingParent", message))), ..status }, &[]))
}

type Taken<'w> = Vec<(&'w AttachListener, Vec<HostPattern>)>;

/// The listeners that take the route, or the API's reason for there being none.
#[allow(clippy::too_many_arguments)] // each is another side of the one parentRef
fn take<'w>(
    world: &World<'_>,
    object: &ObjectRef,
    reference: &HttpRouteParentRefs,
    field: &str,
    hostnames: &[HostPattern],
    listeners: &'w [AttachListener],
    report: &mut Report<'_>,
    status: &mut ParentStatus,
) -> Result<Taken<'w>, (&'static str, String)> {
    if let Some(rejected) = status.rejected.take() {
        return Err(*rejected);
    }
    let meant: Vec<&AttachListener> = listeners
        .iter()
        .filter(|l| reference.section_name.as_deref().is_none_or(|name| l.name.as_ref() == name))
        .filter(|l| reference.port.is_none_or(|port| i32::from(l.port) == port))
        .collect();
    if meant.is_empty() {
        let section = reference.section_name.as_deref().map(|name| format!(" `{name}`")).unwrap_or_default();
        let port = reference.port.map(|port| format!(" on port {port}")).unwrap_or_default();
        let message = format!("{} has no listener{section}{port}", status.parent);
        report.error(Code::ParentNotFound, field, message.clone());
        return Err(("NoMatchingParent", message));
    }
    let allowed: Vec<&AttachListener> =
        meant.iter().copied().filter(|l| l.kinds.contains(&object.kind) && allows(world, l, object, report)).collect();
    if allowed.is_empty() {
        let why = if meant.iter().any(|l| l.kinds.contains(&object.kind)) {
            format!("routes from namespace `{}`", object.namespace)
        } else {
            format!("routes of kind {}", object.kind)
        };
        let message = format!("no listener of {} that is meant allows {why}", status.parent);
        report.error(Code::NotAllowedByListeners, field, message.clone());
        return Err(("NotAllowedByListeners", message));
    }
    let taken: Taken<'w> = allowed
        .into_iter()
        .filter_map(|listener| {
            let shared: Vec<_> = hostnames.iter().filter_map(|host| listener.hostname.intersect(host)).collect();
            (!shared.is_empty()).then_some((listener, shared))
        })
        .collect();
    if taken.is_empty() {
        let hosts: Vec<_> = hostnames.iter().take(3).map(ToString::to_string).collect();
        let message = format!(
            "no listener of {} that is meant has a hostname in common with {}",
            status.parent,
            hosts.join(", ")
        );
        report.error(Code::NoMatchingHostname, field, message.clone());
        return Err(("NoMatchingListenerHostname", message));
    }
    Ok(taken)
}

/// `allowedRoutes.namespaces` of a listener.
fn allows(world: &World<'_>, listener: &AttachListener, object: &ObjectRef, report: &mut Report<'_>) -> bool {
    match &listener.namespaces {
        Namespaces::All => true,
        Namespaces::Same => listener.namespace == object.namespace,
        Namespaces::Selector(selector) => {
            let selected = selects(world.store, selector, &object.namespace);
            if selected.is_none() {
                let message = format!(
                    "listener {} asks for labels of namespace `{}`, and there is no such Namespace object",
                    listener.place.id, object.namespace
                );
                report.warn(Code::NamespaceNotFound, "", message);
            }
            selected.unwrap_or(false)
        }
    }
}
