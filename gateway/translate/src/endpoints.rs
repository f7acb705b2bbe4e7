//! EndpointSlices become endpoint sets: one for each Service port that a backend asks for.

use crate::rank::name_of;
use crate::report::Report;
use sluice_model::config::{Endpoint, EndpointId, EndpointSet, EndpointsKey};
use sluice_model::object::NamespacedName;
use sluice_model::{Code, Kind, ObjectRef, Problem};
use sluice_resources::Store;
use sluice_resources::api::EndpointSlice;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

/// The label that says whose endpoints a slice holds.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// The Service that a slice belongs to.
pub(crate) fn service_of(slice: &EndpointSlice) -> Option<NamespacedName> {
    let service = slice.metadata.labels.as_ref()?.get(SERVICE_LABEL)?;
    Some(NamespacedName::new(slice.metadata.namespace.as_deref().unwrap_or_default(), service.as_str()))
}

/// Slices by Service.
#[derive(Debug, Default)]
pub(crate) struct SliceIndex {
    by_service: BTreeMap<NamespacedName, BTreeSet<NamespacedName>>,
    /// The node whose zone is asked for.
    node: Option<Arc<str>>,
    /// In how many slices that node is said to be in a zone.
    zones: BTreeMap<Arc<str>, usize>,
}

impl SliceIndex {
    /// `node`: the one whose zone is of interest.
    pub(crate) fn new(node: Option<Arc<str>>) -> Self {
        SliceIndex { node, ..SliceIndex::default() }
    }

    /// The zone of the node, which each endpoint on it tells: one of the gateway's own is among them.
    pub(crate) fn zone(&self) -> Option<&Arc<str>> {
        self.zones.iter().max_by_key(|(_, slices)| **slices).map(|(zone, _)| zone)
    }

    /// What a slice says of the node's zone.
    fn zone_in<'s>(&self, slice: &'s EndpointSlice) -> Option<&'s str> {
        let node = self.node.as_deref()?;
        slice.endpoints.iter().find(|e| e.node_name.as_deref() == Some(node))?.zone.as_deref()
    }

    pub(crate) fn insert(&mut self, slice: &EndpointSlice) {
        if let Some(zone) = self.zone_in(slice) {
            match self.zones.get_mut(zone) {
                Some(slices) => *slices += 1,
                None => _ = self.zones.insert(zone.into(), 1),
            }
        }
        if let Some(service) = service_of(slice) {
            self.by_service.entry(service).or_default().insert(name_of(&slice.metadata));
        }
    }

    pub(crate) fn remove(&mut self, slice: &EndpointSlice) {
        if let Some(zone) = self.zone_in(slice)
            && let Some(slices) = self.zones.get_mut(zone)
        {
            *slices -= 1;
            if *slices == 0 {
                self.zones.remove(zone);
            }
        }
        let Some(service) = service_of(slice) else { return };
        if let Some(slices) = self.by_service.get_mut(&service) {
            slices.remove(&name_of(&slice.metadata));
            if slices.is_empty() {
                self.by_service.remove(&service);
            }
        }
    }

    pub(crate) fn has(&self, service: &NamespacedName) -> bool {
        self.by_service.contains_key(service)
    }

    /// The endpoints of one port, each once.
    pub(crate) fn endpoints(&self, store: &Store, key: &EndpointsKey, problems: &mut Vec<Problem>) -> EndpointSet {
        let mut found: BTreeMap<EndpointId, Endpoint> = BTreeMap::new();
        for name in self.by_service.get(&key.service).into_iter().flatten() {
            if let Some(slice) = store.endpoint_slices.get(name) {
                read(slice, key, &mut found, problems);
            }
        }
        let service = store.services.get(&key.service).and_then(|service| service.spec.as_ref());
        let families = service.and_then(|spec| spec.ip_families.as_deref()).unwrap_or_default();
        let ipv6_first = families.first().is_some_and(|family| family == "IPv6");
        EndpointSet { endpoints: join_families(found, ipv6_first) }
    }
}

/// A pod that stands in slices of both families is one endpoint: at its address of the Service's first family, with the
/// other one beside it.
fn join_families(found: BTreeMap<EndpointId, Endpoint>, ipv6_first: bool) -> Vec<Endpoint> {
    let mut endpoints: Vec<Endpoint> = Vec::with_capacity(found.len());
    // Those of a pod stand together, IPv4 first.
    for new in found.into_values() {
        let pair = endpoints.last_mut().filter(|last| {
            let one_pod = !new.id.target.is_empty() && last.id.target == new.id.target;
            one_pod && last.alternate.is_none() && last.id.address.is_ipv4() && new.id.address.is_ipv6()
        });
        let at = |endpoint: &Endpoint| Some(SocketAddr::new(endpoint.id.address, endpoint.id.port));
        match pair {
            Some(last) if ipv6_first => *last = Endpoint { alternate: at(last), ..new },
            Some(last) => last.alternate = at(&new),
            None => endpoints.push(new),
        }
    }
    endpoints
}

fn read(
    slice: &Arc<EndpointSlice>,
    key: &EndpointsKey,
    found: &mut BTreeMap<EndpointId, Endpoint>,
    problems: &mut Vec<Problem>,
) {
    let name = name_of(&slice.metadata);
    let object = ObjectRef::new(Kind::EndpointSlice, name.namespace, name.name);
    let mut report = Report::new(&object, problems);
    if slice.address_type == "FQDN" {
        let message = "endpoints by name are not supported; use a Service of type ExternalName";
        report.error(Code::UnsupportedValue, "addressType", message);
        return;
    }
    let ports = slice.ports.iter().flatten();
    // A slice carries the name of the Service's port, and the number that the endpoints listen on.
    let Some(port) = ports
        .filter(|port| port.name.as_deref().unwrap_or_default() == key.port.as_ref())
        .find_map(|port| u16::try_from(port.port?).ok())
    else {
        return;
    };
    for (i, endpoint) in slice.endpoints.iter().enumerate() {
        // All addresses of one endpoint are the same endpoint; the first is the one to use.
        let Some(text) = endpoint.addresses.first() else { continue };
        let Ok(address) = text.parse() else {
            let message = format!("`{text}` is not an IP address");
            report.error(Code::InvalidAddress, format!("endpoints[{i}].addresses[0]"), message);
            continue;
        };
        let target = endpoint.target_ref.as_ref();
        let target = target.and_then(|t| t.uid.as_deref().filter(|uid| !uid.is_empty()).or(t.name.as_deref()));
        let conditions = endpoint.conditions.as_ref();
        // Unknown counts as true (EndpointConditions).
        let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
        let hints = endpoint.hints.as_ref();
        let zones = hints.and_then(|hints| hints.for_zones.as_ref()).into_iter().flatten();
        let nodes = hints.and_then(|hints| hints.for_nodes.as_ref()).into_iter().flatten();
        let new = Endpoint {
            id: EndpointId { target: target.unwrap_or_default().into(), address, port },
            alternate: None,
            ready,
            serving: conditions.and_then(|c| c.serving).unwrap_or(ready),
            terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
            zone: endpoint.zone.as_deref().map(Into::into),
            for_zones: zones.map(|zone| zone.name.as_str().into()).collect(),
            for_nodes: nodes.map(|node| node.name.as_str().into()).collect(),
            node: endpoint.node_name.as_deref().map(Into::into),
        };
        // While slices are rewritten an endpoint may stand in two of them; the one that is ready counts.
        let better = found.get(&new.id).is_none_or(|old| new.ready && !old.ready);
        if better {
            found.insert(new.id.clone(), new);
        }
    }
}

/// A warning where a backend has nobody to go to.
pub(crate) fn check(key: &EndpointsKey, set: &EndpointSet, any_slice: bool) -> Option<Problem> {
    if set.endpoints.iter().any(|endpoint| endpoint.ready || endpoint.serving) {
        return None;
    }
    let object = ObjectRef::new(Kind::Service, key.service.namespace.clone(), key.service.name.clone());
    let port = if key.port.is_empty() { String::new() } else { format!(" for port `{}`", key.port) };
    let message = match (set.endpoints.is_empty(), any_slice) {
        (false, _) => format!("no endpoint{port} is ready"),
        (true, true) => format!("its EndpointSlices hold no endpoint{port}"),
        (true, false) => format!("no EndpointSlice carries the label {SERVICE_LABEL}: {}", key.service.name),
    };
    Some(Problem::warning(Code::NoEndpoints, &object, "", message))
}
