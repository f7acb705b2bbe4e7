//! From listeners to sockets; and the Gateway that all Ingress objects share.

use super::class::IngressSettings;
use super::{Builder, Gateways, ListenerPlan, Place, ingress_gateway};
use crate::certificate::Certificates;
use crate::report::Report;
use sluice_model::config::{
    Carries, Certificate, CertificateKey, Config, Edge, Listener, ListenerId, ListenerTls, Port, Protocol, Transport,
};
use sluice_model::object::NamespacedName;
use sluice_model::{Code, HostPattern, Kind, ObjectRef, Problem};
use sluice_resources::Store;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// Names of the Ingress Gateway's listeners.
const HTTP: &str = "http";
const HTTPS: &str = "https";

impl Builder<'_> {
    /// Adds the Ingress Gateway. Where a Gateway already has a listener for any host on the same port with the same
    /// protocol, the Ingress rules go to that listener.
    pub(super) fn ingress_gateway(&mut self, settings: &IngressSettings, result: &mut Gateways) {
        let gateway = ingress_gateway();
        let object = ObjectRef::new(Kind::Gateway, gateway.namespace.clone(), gateway.name.clone());
        let mut unreported = Vec::new();
        let mut quiet = Report::new(&object, &mut unreported);
        let ingress = settings.spec.ingress.clone().unwrap_or_default();
        let addresses = crate::edge::addresses(settings.spec.addresses.as_deref().unwrap_or_default(), "", &mut quiet);
        let external_names = crate::edge::external_names(&settings.spec, &mut quiet);
        let tracing = self.tracing(&object, "", &settings.spec);
        let source = |is_set: fn(&sluice_resources::IngressConfig) -> bool| {
            let set = |spec: &sluice_resources::GatewayConfigSpec| spec.ingress.as_ref().is_some_and(is_set);
            settings.sources.iter().find(|(_, spec)| set(spec)).map(|(object, _)| object.clone())
        };
        result.attach.ingress.default_backend = ingress.default_backend_ref.as_ref().and_then(|backend| {
            let object = source(|i| i.default_backend_ref.is_some())?;
            let service = NamespacedName::new(object.namespace.clone(), backend.name.as_str());
            Some((object, service, backend.port))
        });
        result.default_certificate = match &ingress.default_certificate_ref {
            Some(reference) => source(|i| i.default_certificate_ref.is_some()).and_then(|object| {
                let name = NamespacedName::new(object.namespace.clone(), reference.name.as_str());
                self.secret(&object, "spec.ingress.defaultCertificateRef", &name)
            }),
            None => None,
        }
        .or_else(|| self.options.default_certificate.clone());
        let ports = [
            (HTTP, Protocol::Http, ingress.http_port.unwrap_or(self.options.ingress_http_port)),
            (HTTPS, Protocol::Https, ingress.https_port.unwrap_or(self.options.ingress_https_port)),
        ];
        for (name, protocol, port) in ports {
            // Of several such listeners only that of the oldest Gateway will serve.
            let meets = |plan: &&ListenerPlan| {
                self.options.gateway_services.is_none()
                    && plan.port == port
                    && plan.protocol == protocol
                    && plan.carries == Carries::Http
                    && plan.hostname == HostPattern::Any
                    && plan.addresses == addresses
            };
            let shared = result.plans.iter().filter(meets).min_by_key(|plan| plan.rank.clone());
            let place = match shared {
                Some(plan) => result
                    .attach
                    .parents
                    .get(&plan.object)
                    .and_then(|g| g.listeners.iter().find(|l| l.place.id == plan.id))
                    .map(|listener| listener.place.clone()),
                None => {
                    let id = ListenerId { gateway: gateway.clone(), name: name.into() };
                    let listener = settings.spec.listener(name);
                    let mut unreported = Vec::new();
                    let mut quiet = Report::new(&object, &mut unreported);
                    let tls = crate::edge::tls(listener.tls.as_ref(), "", &mut quiet);
                    result.plans.push(ListenerPlan {
                        id: id.clone(),
                        rank: None,
                        object: object.clone(),
                        field: format!("listener `{name}`"),
                        addresses: addresses.clone(),
                        port,
                        bind: Some(port),
                        protocol,
                        carries: Carries::Http,
                        hostname: HostPattern::Any,
                        edge: Arc::new(crate::edge::edge(&listener, "", &mut quiet)),
                        tracing: tracing.clone(),
                        tls: (protocol == Protocol::Https).then(|| ListenerTls {
                            certificates: Vec::new(),
                            min_version: tls.min_version,
                            cipher_suites: tls.cipher_suites,
                            http2: tls.http2,
                            resumption: tls.resumption,
                            client_validation: None,
                        }),
                        certificates: Vec::new(),
                    });
                    let external_names = external_names.clone();
                    Some(Arc::new(Place { id, client_certificate: None, external_names, passthrough: false }))
                }
            };
            match protocol {
                Protocol::Http => result.attach.ingress.http = place,
                Protocol::Https | Protocol::Tcp | Protocol::Udp => result.attach.ingress.https = place,
            }
        }
    }
}

/// The Secrets that `tls` blocks of Ingress objects name, each with the hosts and the fields that name it.
#[derive(Debug, Default)]
pub(crate) struct IngressTls {
    pub(crate) secrets: BTreeMap<NamespacedName, Vec<IngressTlsUse>>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct IngressTlsUse {
    pub(crate) object: ObjectRef,
    pub(crate) field: String,
    pub(crate) hosts: Vec<HostPattern>,
}

/// The sockets, the certificates that they need, and what was wrong with those of Ingress objects.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    pub(crate) ports: BTreeMap<SocketAddr, Arc<Port>>,
    pub(crate) udp_ports: BTreeMap<SocketAddr, Arc<Port>>,
    pub(crate) certificates: BTreeMap<CertificateKey, Arc<Certificate>>,
    pub(crate) problems: Vec<Problem>,
    /// Secrets that were asked for, there or not.
    pub(crate) uses: BTreeSet<ObjectRef>,
}

/// A listener with what it was made from.
type Planned<'p> = (&'p ListenerPlan, Arc<Listener>);

/// Lays listeners out on sockets. What is as it was in `former` is the same pointer.
pub(crate) fn ports(
    gateways: &Gateways,
    ingress: &IngressTls,
    store: &Store,
    certificates: &mut Certificates,
    former: &Config,
) -> Ports {
    let mut result = Ports::default();
    let ingress_certificates = ingress_certificates(ingress, store, certificates, &mut result);
    let https = gateways.attach.ingress.https.as_ref().map(|place| &place.id);
    let mut sockets: BTreeMap<(Transport, SocketAddr), Vec<Planned<'_>>> = BTreeMap::new();
    for plan in &gateways.plans {
        let mut tls = plan.tls.clone();
        for certificate in &plan.certificates {
            result.certificates.insert(certificate.key.clone(), certificate.clone());
        }
        if let Some(tls) = tls.as_mut().filter(|_| Some(&plan.id) == https) {
            let of_ingress = plan.id.gateway == ingress_gateway();
            let default = gateways.default_certificate.iter().filter(|_| of_ingress);
            for certificate in default.chain(&ingress_certificates) {
                if !tls.certificates.contains(&certificate.key) {
                    tls.certificates.push(certificate.key.clone());
                }
                result.certificates.insert(certificate.key.clone(), certificate.clone());
            }
        }
        let listener = Arc::new(Listener {
            id: plan.id.clone(),
            port: plan.port,
            hostname: plan.hostname.clone(),
            carries: plan.carries,
            tls: tls.map(Arc::new),
            edge: plan.edge.clone(),
            tracing: plan.tracing.clone(),
        });
        for address in plan.bind.iter().flat_map(|port| socket_addresses(&plan.addresses, *port)) {
            sockets.entry((plan.protocol.transport(), address)).or_default().push((plan, listener.clone()));
        }
    }
    for certificate in &gateways.certificates {
        result.certificates.insert(certificate.key.clone(), certificate.clone());
    }
    for ((transport, address), mut listeners) in sockets {
        // From the most specific hostname to the least.
        listeners.sort_by(|(_, a), (_, b)| a.hostname.cmp(&b.hostname).then_with(|| a.id.cmp(&b.id)));
        let Some((plan, _)) = listeners.last() else { continue };
        let port = Port {
            protocol: plan.protocol,
            edge: shared_edge(&listeners, &mut result.problems),
            listeners: listeners.iter().map(|(_, listener)| listener.clone()).collect(),
        };
        let (ports, former) = match transport {
            Transport::Tcp => (&mut result.ports, &former.ports),
            Transport::Udp => (&mut result.udp_ports, &former.udp_ports),
        };
        ports.insert(address, reuse(port, former.get(&address)));
    }
    result
}

/// What holds for a port before it is known which of its listeners a connection is for: the settings of the one with the
/// least specific hostname, and of what is counted or timed until then the strictest of all. A listener that says
/// something else is told so.
fn shared_edge(listeners: &[(&ListenerPlan, Arc<Listener>)], problems: &mut Vec<Problem>) -> Arc<Edge> {
    let Some((plan, least)) = listeners.last() else { return Arc::default() };
    let edges = || listeners.iter().map(|(_, listener)| &*listener.edge);
    if edges().all(|edge| *edge == *least.edge) {
        return least.edge.clone();
    }
    let clear = plan.protocol == Protocol::Http;
    let mut shared = Edge::clone(&least.edge);
    for edge in edges() {
        let (limits, timeouts) = (&mut shared.limits, &mut shared.timeouts);
        limits.connections = limits.connections.min(edge.limits.connections);
        timeouts.handshake = timeouts.handshake.min(edge.timeouts.handshake);
        timeouts.drain = timeouts.drain.min(edge.timeouts.drain);
        if clear {
            timeouts.request_headers = timeouts.request_headers.min(edge.timeouts.request_headers);
            timeouts.connection_max = match (timeouts.connection_max, edge.timeouts.connection_max) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        // A proxy that sends the header in front of one listener sends it for all of the port.
        shared.proxy_protocol |= edge.proxy_protocol;
    }
    for (plan, listener) in listeners {
        let own = &*listener.edge;
        let differs = [
            ("limits.connections", own.limits.connections != shared.limits.connections),
            ("timeouts.handshake", own.timeouts.handshake != shared.timeouts.handshake),
            ("timeouts.drain", own.timeouts.drain != shared.timeouts.drain),
            ("timeouts.requestHeaders", clear && own.timeouts.request_headers != shared.timeouts.request_headers),
            ("timeouts.connectionMax", clear && own.timeouts.connection_max != shared.timeouts.connection_max),
            ("http2", clear && own.http2 != shared.http2),
        ];
        let mut report = |problem: Problem| {
            // A port on several addresses has the same listeners on each.
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        };
        for (name, _) in differs.iter().filter(|(_, differs)| *differs) {
            let which = if *name == "http2" { "of the least specific hostname" } else { "least" };
            let message = format!(
                "listener `{}` shares port {} with listeners whose `{name}` differs; the {which} value holds for all",
                plan.id.name, plan.port
            );
            report(Problem::warning(Code::SharedPort, &plan.object, plan.field.clone(), message));
        }
        if own.proxy_protocol != shared.proxy_protocol {
            let message = format!(
                "listener `{}` has `proxyProtocol` off, but shares port {} with one that has it on; connections without the \
                 header are closed",
                plan.id.name, plan.port
            );
            report(Problem::error(Code::SharedPort, &plan.object, plan.field.clone(), message));
        }
    }
    Arc::new(shared)
}

/// The former pointers wherever the content is the same.
fn reuse(mut port: Port, former: Option<&Arc<Port>>) -> Arc<Port> {
    let Some(former) = former else { return Arc::new(port) };
    if port == **former {
        return former.clone();
    }
    if port.edge == former.edge {
        port.edge = former.edge.clone();
    }
    for listener in &mut port.listeners {
        let Some(old) = former.listeners.iter().find(|old| old.id == listener.id) else { continue };
        if **old == **listener {
            *listener = old.clone();
            continue;
        }
        let mut changed = Listener::clone(listener);
        if changed.edge == old.edge {
            changed.edge = old.edge.clone();
        }
        if changed.tracing == old.tracing {
            changed.tracing = old.tracing.clone();
        }
        if changed.tls == old.tls {
            changed.tls = old.tls.clone();
        }
        *listener = Arc::new(changed);
    }
    Arc::new(port)
}

/// All addresses mean one socket for both families: `[::]`, which takes IPv4 as well.
fn socket_addresses(addresses: &[IpAddr], port: u16) -> Vec<SocketAddr> {
    if addresses.is_empty() {
        return vec![SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)];
    }
    addresses.iter().map(|address| SocketAddr::new(*address, port)).collect()
}

/// Each Secret once, by name; one that can't be used leaves its hosts to the default certificate.
fn ingress_certificates(
    ingress: &IngressTls,
    store: &Store,
    certificates: &mut Certificates,
    result: &mut Ports,
) -> Vec<Arc<Certificate>> {
    let mut found = Vec::new();
    for (secret, uses) in &ingress.secrets {
        let reference = ObjectRef::new(Kind::Secret, secret.namespace.clone(), secret.name.clone());
        let certificate = certificates.get(store, secret, &mut result.problems);
        for user in uses {
            result.problems.extend(ingress_tls_problem(&reference, user, &certificate));
        }
        result.uses.insert(reference);
        if let Ok(certificate) = certificate {
            found.push(certificate);
        }
    }
    found
}

fn ingress_tls_problem(
    secret: &ObjectRef,
    user: &IngressTlsUse,
    certificate: &Result<Arc<Certificate>, crate::certificate::Missing>,
) -> Option<Problem> {
    use crate::certificate::Missing;
    let field = format!("{}.secretName", user.field);
    match certificate {
        Ok(certificate) => {
            let covers =
                |host: &HostPattern| certificate.names.iter().any(|name| name.intersect(host).as_ref() == Some(host));
            let bare = user.hosts.iter().find(|host| **host != HostPattern::Any && !covers(host))?;
            let message = format!("the certificate in {secret} does not cover `{bare}`");
            Some(Problem::warning(Code::CertificateHost, &user.object, field, message))
        }
        Err(Missing::NotFound) => {
            let message = format!("there is no {secret}; its hosts are served with the default certificate");
            Some(Problem::error(Code::SecretNotFound, &user.object, field, message))
        }
        Err(Missing::Invalid) => {
            let message = format!(
                "{secret} holds no certificate that can be used; its hosts are served with the default certificate"
            );
            Some(Problem::error(Code::InvalidCertificate, &user.object, field, message))
        }
    }
}
