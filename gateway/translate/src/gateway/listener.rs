//! One listener of a Gateway, and which of several on one port serve.

use super::{Builder, Gateways, ListenerPlan, Namespaces, PortKey};
use crate::report::Report;
use crate::status::ListenerStatus;
use sluice_model::config::{Carries, Certificate, Edge, ListenerTls, Protocol};
use sluice_model::{Code, HostPattern, Kind, ObjectRef, Problem};
use sluice_resources::GatewayConfigSpec;
use sluice_resources::api::Gateway;
use sluice_resources::api::gateway::{
    GatewayListeners, GatewayListenersAllowedRoutesNamespacesFrom as From, GatewayListenersTlsMode,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// A listener whose fields could be read. Without a protocol it can be attached to, but serves nothing.
pub(super) struct Read {
    pub(super) port: u16,
    pub(super) protocol: Option<Protocol>,
    pub(super) carries: Carries,
    pub(super) hostname: HostPattern,
    pub(super) namespaces: Namespaces,
    pub(super) kinds: Vec<Kind>,
    pub(super) edge: Arc<Edge>,
    pub(super) tls: Option<ListenerTls>,
    pub(super) certificates: Vec<Arc<Certificate>>,
}

/// What is served of one `protocol`: on which kind of socket, what it carries, and the kinds of routes that it takes.
fn served(protocol: &str) -> Option<(Protocol, Carries, &'static [Kind])> {
    const WEB: &[Kind] = &[Kind::HTTPRoute, Kind::GRPCRoute];
    match protocol {
        "HTTP" => Some((Protocol::Http, Carries::Http, WEB)),
        "HTTPS" => Some((Protocol::Https, Carries::Http, WEB)),
        "TLS" => Some((Protocol::Https, Carries::Bytes, &[Kind::TLSRoute])),
        "TCP" => Some((Protocol::Tcp, Carries::Bytes, &[Kind::TCPRoute])),
        "UDP" => Some((Protocol::Udp, Carries::Bytes, &[Kind::UDPRoute])),
        _ => None,
    }
}

impl Builder<'_> {
    pub(super) fn listener(
        &mut self,
        object: &ObjectRef,
        gateway: &Gateway,
        spec: &GatewayListeners,
        field: &str,
        settings: &GatewayConfigSpec,
        status: &mut ListenerStatus,
    ) -> Option<Read> {
        let mut report = Report::new(object, &mut self.problems);
        let found = served(&spec.protocol);
        if found.is_none() {
            let message = format!("protocol `{}` is not supported; HTTP, HTTPS, TLS, TCP and UDP are", spec.protocol);
            report.error(Code::UnsupportedProtocol, format!("{field}.protocol"), message.clone());
            status.reject("UnsupportedProtocol", message);
        }
        let protocol = found.map(|(protocol, ..)| protocol);
        status.transport = protocol.map(Protocol::transport).unwrap_or_default();
        let (carries, kinds) = found.map(|(_, carries, kinds)| (carries, kinds)).unwrap_or_default();
        let port = u16::try_from(spec.port).ok().filter(|port| *port > 0);
        if port.is_none() {
            let message = format!("{} is not a port: 1 to 65535", spec.port);
            report.error(Code::OutOfRange, format!("{field}.port"), message.clone());
            status.reject("UnsupportedValue", message);
        }
        // Nothing of TCP or UDP says which host is meant.
        let named = spec.hostname.as_deref().filter(|_| !matches!(protocol, Some(Protocol::Tcp | Protocol::Udp)));
        let hostname = match HostPattern::parse_gateway(named) {
            Ok(hostname) => Some(hostname),
            Err(error) => {
                report.error(Code::InvalidHostname, format!("{field}.hostname"), error.to_string());
                status.reject("UnsupportedValue", error.to_string());
                None
            }
        };
        let (namespaces, kinds) = allowed_routes(spec, field, kinds, &mut report, status);
        let nobody = object.clone();
        let mut unreported = Vec::new();
        let listener_settings = settings.listener(&spec.name);
        let mut quiet = Report::new(&nobody, &mut unreported);
        let edge = Arc::new(crate::edge::edge(&listener_settings, "", &mut quiet));
        let tls_settings = crate::edge::tls(listener_settings.tls.as_ref(), "", &mut quiet);
        let (tls, certificates) = match (protocol, port) {
            (Some(Protocol::Https), _) if passes_through(spec, carries) => (None, Vec::new()),
            (Some(Protocol::Https), Some(port)) => {
                match self.listener_tls(object, gateway, spec, field, port, tls_settings, status) {
                    Some((tls, certificates)) => (Some(tls), certificates),
                    None => (None, Vec::new()),
                }
            }
            (Some(Protocol::Http | Protocol::Tcp | Protocol::Udp), _) if spec.tls.is_some() => {
                let message = format!("protocol {} has no TLS; the block is ignored", spec.protocol);
                self.problems.push(Problem::warning(Code::InvalidTls, object, format!("{field}.tls"), message));
                (None, Vec::new())
            }
            _ => (None, Vec::new()),
        };
        Some(Read { port: port?, protocol, carries, hostname: hostname?, namespaces, kinds, edge, tls, certificates })
    }
}

/// Whether TLS goes on to the backend as it comes.
fn passes_through(spec: &GatewayListeners, carries: Carries) -> bool {
    let mode = spec.tls.as_ref().and_then(|tls| tls.mode.as_ref());
    carries == Carries::Bytes && mode == Some(&GatewayListenersTlsMode::Passthrough)
}

fn allowed_routes(
    spec: &GatewayListeners,
    field: &str,
    served: &[Kind],
    report: &mut Report<'_>,
    status: &mut ListenerStatus,
) -> (Namespaces, Vec<Kind>) {
    let allowed = spec.allowed_routes.as_ref();
    let kinds = allowed.and_then(|a| a.kinds.as_deref()).unwrap_or_default();
    let mut taken = if kinds.is_empty() { served.to_vec() } else { Vec::new() };
    for (i, kind) in kinds.iter().enumerate() {
        let group = kind.group.as_deref().unwrap_or(Kind::Gateway.group());
        match Kind::from_group_kind(group, &kind.kind).filter(|kind| served.contains(kind)) {
            Some(kind) if taken.contains(&kind) => {}
            Some(kind) => taken.push(kind),
            None => {
                let names: Vec<_> = served.iter().map(ToString::to_string).collect();
                let others = if names.is_empty() { String::new() } else { format!("; {} are", names.join(" and ")) };
                let message = format!("routes of kind `{}` are not supported on this listener{others}", kind.kind);
                report.error(Code::KindNotSupported, format!("{field}.allowedRoutes.kinds[{i}]"), message.clone());
                status.unresolve("InvalidRouteKinds", message);
            }
        }
    }
    status.supported_kinds.extend(taken.iter().map(|kind| kind.name()));
    let from = allowed.and_then(|a| a.namespaces.as_ref());
    let namespaces = match from.and_then(|n| n.from.as_ref()) {
        None | Some(From::Same) => Namespaces::Same,
        Some(From::All) => Namespaces::All,
        Some(From::Selector) => match from.and_then(|n| n.selector.as_ref()) {
            Some(selector) => Namespaces::Selector(label_selector(selector)),
            None => {
                let message = "from: Selector needs a selector; until then no route may attach";
                report.error(Code::InvalidCombination, format!("{field}.allowedRoutes.namespaces"), message);
                // A selector that nothing meets.
                Namespaces::Selector(nothing())
            }
        },
    };
    (namespaces, taken)
}

use sluice_resources::api::gateway::GatewayListenersAllowedRoutesNamespacesSelector as ApiSelector;
use sluice_resources::api::{LabelSelector, LabelSelectorRequirement};

fn label_selector(selector: &ApiSelector) -> LabelSelector {
    LabelSelector {
        match_labels: selector.match_labels.clone(),
        match_expressions: selector.match_expressions.as_ref().map(|expressions| {
            let convert = |e: &sluice_resources::api::gateway::GatewayListenersAllowedRoutesNamespacesSelectorMatchExpressions| {
                LabelSelectorRequirement {
                    key: e.key.clone(),
                    operator: e.operator.clone(),
                    values: e.values.clone(),
                }
            };
            expressions.iter().map(convert).collect()
        }),
    }
}

fn nothing() -> LabelSelector {
    LabelSelector {
        match_labels: None,
        match_expressions: Some(vec![LabelSelectorRequirement {
            key: "kubernetes.io/metadata.name".to_owned(),
            operator: "DoesNotExist".to_owned(),
            values: None,
        }]),
    }
}

/// Listeners of one Gateway that are not distinct, by index: of those the API lets none serve.
pub(super) fn conflicts_within(gateway: &Gateway) -> BTreeMap<usize, &'static str> {
    let mut conflicts = BTreeMap::new();
    let listeners = &gateway.spec.listeners;
    for (i, a) in listeners.iter().enumerate() {
        for (j, b) in listeners.iter().enumerate().filter(|(j, b)| *j != i && b.port == a.port) {
            let host = |l: &GatewayListeners| l.hostname.clone().unwrap_or_default().to_ascii_lowercase();
            // Only protocols that are served can stand in each other's way.
            let (Some((first, ..)), Some((second, ..))) = (served(&a.protocol), served(&b.protocol)) else { continue };
            if first.transport() != second.transport() {
                continue;
            }
            if first != second {
                conflicts.insert(i, "ProtocolConflict");
                conflicts.entry(j).or_insert("ProtocolConflict");
            } else if matches!(first, Protocol::Tcp | Protocol::Udp) || host(a) == host(b) {
                conflicts.entry(i).or_insert("HostnameConflict");
                conflicts.entry(j).or_insert("HostnameConflict");
            }
        }
    }
    conflicts
}

/// Gateways share the host's ports. Where two want the same port with other protocols, or the same hostname on it, the
/// older Gateway serves.
pub(super) fn resolve_conflicts(gateways: &mut Gateways, problems: &mut Vec<Problem>) {
    let mut plans = std::mem::take(&mut gateways.plans);
    plans.sort_by(|a, b| {
        // The Ingress Gateway has no age, and goes last.
        (a.rank.is_none(), &a.rank).cmp(&(b.rank.is_none(), &b.rank))
    });
    let mut kept: Vec<ListenerPlan> = Vec::with_capacity(plans.len());
    for plan in plans {
        let rival = kept.iter().find_map(|other| Some((other, conflict(other, &plan)?)));
        let Some((rival, reason)) = rival else {
            kept.push(plan);
            continue;
        };
        let message = format!(
            "port {} is taken by listener `{}` of {}, with {}",
            plan.port,
            rival.id.name,
            rival.object,
            match reason {
                "ProtocolConflict" => "another protocol",
                "HostnameConflict" => "the same hostname",
                _ => "on all addresses where one of the two names its own: name addresses for both",
            },
        );
        problems.push(Problem::error(Code::ListenerConflict, &plan.object, plan.field.clone(), message.clone()));
        for place in [&mut gateways.attach.ingress.http, &mut gateways.attach.ingress.https] {
            *place = place.take().filter(|place| place.id != plan.id);
        }
        if let Some(gateway) = gateways.attach.gateways.get_mut(&plan.id.gateway) {
            for listener in gateway.listeners.iter_mut().filter(|l| l.place.id == plan.id) {
                listener.serves = false;
            }
        }
        if let Some(status) = gateways.status.get_mut(&plan.object) {
            for listener in status.listeners.iter_mut().filter(|l| l.name.as_str() == plan.id.name.as_ref()) {
                match reason {
                    // Not a conflict in the API's sense: hostnames and protocols may differ.
                    PORT_UNAVAILABLE => listener.reject(PORT_UNAVAILABLE, message.clone()),
                    _ => listener.conflicted = Some(reason),
                }
                listener.serves = false;
            }
        }
    }
    for status in gateways.status.values_mut() {
        if status.listeners.iter().all(|listener| !listener.accepted()) {
            status.reject("ListenersNotValid", "no listener can be served");
        }
    }
    for plan in &kept {
        if let Some(infrastructure) = gateways.infrastructure.get_mut(&plan.object) {
            infrastructure.ports.insert(PortKey { number: plan.port, transport: plan.protocol.transport() });
        }
    }
    gateways.plans = kept;
}

/// The API's reason for a listener whose port is in use.
const PORT_UNAVAILABLE: &str = "PortUnavailable";

fn conflict(a: &ListenerPlan, b: &ListenerPlan) -> Option<&'static str> {
    // Two Gateways with Services of their own share no port; what has no socket yet is in nobody's way.
    if a.bind.is_none() || a.bind != b.bind || a.id == b.id || a.protocol.transport() != b.protocol.transport() {
        return None;
    }
    // The kernel gives a port on all addresses to one socket, or on single addresses to several, but not both.
    if a.addresses.is_empty() != b.addresses.is_empty() {
        return Some(PORT_UNAVAILABLE);
    }
    if !share_an_address(&a.addresses, &b.addresses) {
        return None;
    }
    if a.protocol != b.protocol {
        return Some("ProtocolConflict");
    }
    (a.hostname == b.hostname).then_some("HostnameConflict")
}

/// Listeners that name different addresses don't meet; those that name none are on all of them.
fn share_an_address(a: &[IpAddr], b: &[IpAddr]) -> bool {
    let set = |addresses: &[IpAddr]| addresses.iter().copied().collect::<BTreeSet<_>>();
    (a.is_empty() && b.is_empty()) || !set(a).is_disjoint(&set(b))
}
