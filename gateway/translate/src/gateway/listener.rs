//! One listener of a Gateway, and which of several on one port serve.

use super::{Around, Builder, Gateways, ListenerPlan, Namespaces, PortKey};
use crate::grant::selector_error;
use crate::report::Report;
use crate::status::ListenerStatus;
use serde::Serialize;
use serde_json::{from_value, to_value};
use sluice_model::config::{Carries, Certificate, Edge, ListenerTls, Protocol, Transport};
use sluice_model::{Code, HostPattern, Kind, ObjectRef, Problem};
use sluice_resources::api::gateway::{
    GatewayListeners, GatewayListenersAllowedRoutesNamespacesFrom as From, GatewayListenersTlsMode,
};
use sluice_resources::api::{LabelSelector, LabelSelectorRequirement};
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
        around: &Around<'_>,
        owner: &ObjectRef,
        spec: &GatewayListeners,
        field: &str,
        status: &mut ListenerStatus,
    ) -> Option<Read> {
        let mut report = Report::new(owner, &mut self.problems);
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
        let nameless = matches!(protocol, Some(Protocol::Tcp | Protocol::Udp));
        if nameless && spec.hostname.as_ref().is_some_and(|hostname| !hostname.is_empty()) {
            let message = format!("the hostname is ignored: protocol {} carries none", spec.protocol);
            report.warn(Code::UnsupportedValue, format!("{field}.hostname"), message);
        }
        let named = spec.hostname.as_deref().filter(|_| !nameless);
        let hostname = match HostPattern::parse_gateway(named) {
            Ok(hostname) => Some(hostname),
            Err(error) => {
                report.error(Code::InvalidHostname, format!("{field}.hostname"), error.to_string());
                status.reject("UnsupportedValue", error.to_string());
                None
            }
        };
        let (namespaces, kinds) = allowed_routes(spec, field, kinds, &mut report, status);
        let mut unreported = Vec::new();
        // What a Gateway says of its own listener of some name is not said of a ListenerSet's.
        let listener_settings = match owner.kind {
            Kind::ListenerSet => around.settings.listener(&format!("{}/{}", owner.key(), spec.name)),
            _ => around.settings.listener(&spec.name),
        };
        let mut quiet = Report::new(owner, &mut unreported);
        let edge = Arc::new(crate::edge::edge(&listener_settings, "", &mut quiet));
        let tls_settings = crate::edge::tls(listener_settings.tls.as_ref(), "", &mut quiet);
        let (tls, certificates) = match (protocol, port) {
            (Some(Protocol::Https), _) if passes_through(spec, carries) => {
                if spec.tls.iter().any(|tls| tls.certificate_refs.as_ref().is_some_and(|refs| !refs.is_empty())) {
                    let message = "certificateRefs are ignored where TLS passes through: the backend shows its own";
                    let field = format!("{field}.tls.certificateRefs");
                    self.problems.push(Problem::warning(Code::InvalidTls, owner, field, message));
                }
                (None, Vec::new())
            }
            (Some(Protocol::Https), Some(port)) => {
                match self.listener_tls(around, owner, spec, field, port, tls_settings, status) {
                    Some((tls, certificates)) => (Some(tls), certificates),
                    None => (None, Vec::new()),
                }
            }
            (Some(Protocol::Http | Protocol::Tcp | Protocol::Udp), _) if spec.tls.is_some() => {
                let message = format!("protocol {} has no TLS; the block is ignored", spec.protocol);
                self.problems.push(Problem::warning(Code::InvalidTls, owner, format!("{field}.tls"), message));
                (None, Vec::new())
            }
            _ => (None, Vec::new()),
        };
        Some(Read { port: port?, protocol, carries, hostname: hostname?, namespaces, kinds, edge, tls, certificates })
    }
}

/// Whether TLS ends here, so that there is something to ask clients for.
pub(super) fn ends_tls(spec: &GatewayListeners) -> bool {
    served(&spec.protocol)
        .is_some_and(|(protocol, carries, _)| protocol == Protocol::Https && !passes_through(spec, carries))
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
        Some(From::Selector) => {
            Namespaces::Selector(usable(from.and_then(|n| n.selector.as_ref())).unwrap_or_else(|(at, wrong)| {
                let message = format!("{wrong}; until then no route may attach");
                let field = format!("{field}.allowedRoutes.namespaces{at}");
                report.error(Code::UnsupportedValue, field, message.clone());
                status.reject("UnsupportedValue", message);
                unmeetable()
            }))
        }
    };
    (namespaces, taken)
}

/// The selector that `from: Selector` needs, or what is wrong with it, and where. Each place of the API has a type of its own
/// for it, of the same fields.
pub(super) fn usable(selector: Option<&impl Serialize>) -> Result<LabelSelector, (String, String)> {
    let Some(selector) = selector else { return Err((String::new(), "from: Selector needs a selector".to_owned())) };
    let selector: LabelSelector = to_value(selector)
        .and_then(from_value)
        .map_err(|error| (".selector".to_owned(), format!("it is no label selector: {error}")))?;
    match selector_error(&selector) {
        Some((at, wrong)) => Err((format!(".selector.{at}"), wrong)),
        None => Ok(selector),
    }
}

/// A selector that nothing meets.
pub(super) fn unmeetable() -> LabelSelector {
    let of_none = LabelSelectorRequirement {
        key: "kubernetes.io/metadata.name".to_owned(),
        operator: "DoesNotExist".to_owned(),
        values: None,
    };
    LabelSelector { match_labels: None, match_expressions: Some(vec![of_none]) }
}

/// Why listeners of one Gateway cannot serve beside each other: of its own, then of those that ListenerSets add, an entry
/// each. Of its own that are not distinct the API lets none serve; of those that are added the first one does.
pub(super) fn conflicts<'l>(
    own: &'l [GatewayListeners],
    added: impl Iterator<Item = &'l GatewayListeners>,
) -> Vec<Option<&'static str>> {
    let mut conflicts: Vec<Option<&'static str>> = vec![None; own.len()];
    for (i, a) in own.iter().enumerate() {
        for (j, b) in own.iter().enumerate().skip(i + 1) {
            if let Some(reason) = conflict_of(a, b) {
                // Another protocol is the graver of the two.
                for at in [i, j] {
                    if let Some(of) = conflicts.get_mut(at).filter(|of| of.is_none() || reason == PROTOCOL) {
                        *of = Some(reason);
                    }
                }
            }
        }
    }
    let mut taken: BTreeMap<(i32, Transport), Taken> = BTreeMap::new();
    for listener in own {
        if let Some((protocol, ..)) = served(&listener.protocol) {
            taken.entry((listener.port, protocol.transport())).or_default().insert(protocol, listener);
        }
    }
    for listener in added {
        let reason = served(&listener.protocol).and_then(|(protocol, ..)| {
            let others = taken.entry((listener.port, protocol.transport())).or_default();
            let reason = others.conflict(protocol, listener);
            if reason.is_none() {
                others.insert(protocol, listener);
            }
            reason
        });
        conflicts.push(reason);
    }
    conflicts
}

/// What listeners of one port have: there may be thousands of them, by ListenerSets.
#[derive(Default)]
struct Taken {
    protocols: BTreeSet<Protocol>,
    hosts: BTreeSet<String>,
}

impl Taken {
    fn insert(&mut self, protocol: Protocol, listener: &GatewayListeners) {
        self.protocols.insert(protocol);
        self.hosts.insert(host(listener));
    }

    /// Why one more cannot serve beside them.
    fn conflict(&self, protocol: Protocol, listener: &GatewayListeners) -> Option<&'static str> {
        if self.protocols.iter().any(|other| *other != protocol) {
            return Some(PROTOCOL);
        }
        let alone = matches!(protocol, Protocol::Tcp | Protocol::Udp) && !self.protocols.is_empty();
        (alone || self.hosts.contains(&host(listener))).then_some(HOSTNAME)
    }
}

fn host(listener: &GatewayListeners) -> String {
    listener.hostname.as_deref().unwrap_or_default().to_ascii_lowercase()
}

const PROTOCOL: &str = "ProtocolConflict";
const HOSTNAME: &str = "HostnameConflict";

fn conflict_of(a: &GatewayListeners, b: &GatewayListeners) -> Option<&'static str> {
    // Only protocols that are served can stand in each other's way.
    let ((first, ..), (second, ..)) = (served(&a.protocol)?, served(&b.protocol)?);
    if a.port != b.port || first.transport() != second.transport() {
        return None;
    }
    if first != second {
        return Some(PROTOCOL);
    }
    (matches!(first, Protocol::Tcp | Protocol::Udp) || host(a) == host(b)).then_some(HOSTNAME)
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
    let mut sockets: BTreeMap<(Option<u16>, Transport), Sharers> = BTreeMap::new();
    for plan in plans {
        let sharers = sockets.entry((plan.bind, plan.protocol.transport())).or_default();
        let rival = sharers.rival(&kept, &plan).and_then(|at| kept.get(at));
        let rival = rival.and_then(|other| Some((other, conflict(other, &plan)?)));
        let Some((rival, reason)) = rival else {
            sharers.insert(kept.len(), &plan);
            kept.push(plan);
            continue;
        };
        let message = format!(
            "port {} is taken by listener `{}` of {}, with {}",
            plan.port,
            rival.id.owner().1,
            rival.object,
            match reason {
                PROTOCOL => "another protocol",
                HOSTNAME => "the same hostname",
                _ => "on all addresses where one of the two names its own: name addresses for both",
            },
        );
        problems.push(Problem::error(Code::ListenerConflict, &plan.object, plan.field.clone(), message.clone()));
        for place in [&mut gateways.attach.ingress.http, &mut gateways.attach.ingress.https] {
            *place = place.take().filter(|place| place.id != plan.id);
        }
        if let Some(parent) = gateways.attach.parents.get_mut(&plan.object) {
            for listener in parent.listeners.iter_mut().filter(|l| l.place.id == plan.id) {
                listener.serves = false;
            }
        }
        let listeners = match plan.object.kind {
            Kind::ListenerSet => gateways.sets.get_mut(&plan.object).map(|status| &mut status.listeners),
            _ => gateways.status.get_mut(&plan.object).map(|status| &mut status.listeners),
        };
        let (_, name) = plan.id.owner();
        for listener in listeners.into_iter().flatten().filter(|listener| listener.name == name) {
            match reason {
                // Not a conflict in the API's sense: hostnames and protocols may differ.
                PORT_UNAVAILABLE => listener.reject(PORT_UNAVAILABLE, message.clone()),
                _ => listener.conflicted = Some(reason),
            }
            listener.serves = false;
        }
    }
    for plan in &kept {
        if let Some(infrastructure) = gateways.infrastructure.get_mut(&plan.id.gateway_ref()) {
            infrastructure.ports.insert(PortKey { number: plan.port, transport: plan.protocol.transport() });
        }
    }
    gateways.plans = kept;
}

/// Those who have one socket, by their place among those that are kept.
#[derive(Default)]
struct Sharers {
    all: Vec<usize>,
    by_host: BTreeMap<HostPattern, usize>,
    /// One of them names addresses.
    addressed: bool,
}

impl Sharers {
    fn insert(&mut self, at: usize, plan: &ListenerPlan) {
        self.all.push(at);
        self.by_host.entry(plan.hostname.clone()).or_insert(at);
        self.addressed |= !plan.addresses.is_empty();
    }

    /// The first that is in the way of one more, if any is. Without addresses all have one protocol, so that there is
    /// no need to look at each.
    fn rival(&self, kept: &[ListenerPlan], plan: &ListenerPlan) -> Option<usize> {
        let is_rival = |at: &&usize| kept.get(**at).is_some_and(|other| conflict(other, plan).is_some());
        if self.addressed || !plan.addresses.is_empty() {
            return self.all.iter().find(is_rival).copied();
        }
        self.all.first().into_iter().chain(self.by_host.get(&plan.hostname)).find(is_rival).copied()
    }
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
        return Some(PROTOCOL);
    }
    (a.hostname == b.hostname).then_some(HOSTNAME)
}

/// Listeners that name different addresses don't meet; those that name none are on all of them.
fn share_an_address(a: &[IpAddr], b: &[IpAddr]) -> bool {
    let set = |addresses: &[IpAddr]| addresses.iter().copied().collect::<BTreeSet<_>>();
    (a.is_empty() && b.is_empty()) || !set(a).is_disjoint(&set(b))
}
