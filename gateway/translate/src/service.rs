//! A reference to a Service's port becomes a backend: protocol, TLS, policy, and where its endpoints come from.

use crate::gateway::Place;
use crate::policy::{BackendPlan, Chain, Level, backend_plan};
use crate::report::Report;
use crate::world::World;
use sha2::{Digest, Sha256};
use sluice_model::config::{
    Backend, BackendCa, BackendKey, BackendProtocol, BackendTls, EndpointSource, EndpointsKey, TlsVersion, Transport,
};
use sluice_model::object::NamespacedName;
use sluice_model::{Hostname, Kind, ObjectRef};
use sluice_resources::api::{Service, ServicePort};
use sluice_resources::{BackendSettings, ConsistentHashConfig, LoadBalancerConfig, LoadBalancerName};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// A Service's port, as a reference writes it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PortRef<'p> {
    Number(u16),
    Name(&'p str),
}

impl std::fmt::Display for PortRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PortRef::Number(number) => number.fmt(f),
            PortRef::Name(name) => write!(f, "`{name}`"),
        }
    }
}

/// What a kind of route carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// HTTP/1.1 unless the Service's port says otherwise.
    Http,
    /// HTTP/2, by prior knowledge or over TLS.
    Grpc,
    /// Whatever it is.
    Bytes,
    /// Whatever it is, over UDP.
    Datagrams,
}

impl Spoken {
    pub(crate) fn by(route: Kind) -> Self {
        match route {
            Kind::GRPCRoute => Spoken::Grpc,
            Kind::TLSRoute | Kind::TCPRoute => Spoken::Bytes,
            Kind::UDPRoute => Spoken::Datagrams,
            _ => Spoken::Http,
        }
    }

    /// The protocol that a Service's port has to have.
    pub(crate) fn transport(self) -> Transport {
        match self {
            Spoken::Datagrams => Transport::Udp,
            Spoken::Http | Spoken::Grpc | Spoken::Bytes => Transport::Tcp,
        }
    }
}

/// Why a reference is no backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    ServiceNotFound,
    PortNotFound,
    ExternalName(String),
    /// Its BackendTLSPolicy can't be used: nothing may be sent in the clear instead.
    Tls,
}

/// The backend that a rule at `place` means, with the policies of the rule and of the Service.
pub(crate) fn resolve(
    world: &World<'_>,
    place: &Place,
    name: &NamespacedName,
    port: PortRef<'_>,
    spoken: Spoken,
    chain: &Chain<'_>,
    deps: &mut BTreeSet<ObjectRef>,
) -> Result<Backend, Unusable> {
    let object = ObjectRef::new(Kind::Service, name.namespace.clone(), name.name.clone());
    deps.insert(object.clone());
    let service = world.store.services.get(name).ok_or(Unusable::ServiceNotFound)?;
    let spec = service.spec.as_ref();
    let service_port = find_port(service, port, spoken.transport());
    let external = spec.is_some_and(|spec| spec.type_.as_deref() == Some("ExternalName"));
    let number = match (service_port, port) {
        (Some(found), _) => u16::try_from(found.port).map_err(|_| Unusable::PortNotFound)?,
        // A name outside the cluster has ports that nobody listed.
        (None, PortRef::Number(number)) if external => number,
        _ => return Err(Unusable::PortNotFound),
    };
    let port_name = service_port.and_then(|p| p.name.as_deref()).unwrap_or_default();
    let affine = spec.is_some_and(|spec| spec.session_affinity.as_deref() == Some("ClientIP"));
    let mut plan = plan(world, &object, port_name, affine, chain);
    if matches!(spoken, Spoken::Http | Spoken::Grpc) {
        plan.policy.retry_constraint = world.backend_traffic.of(name).and_then(|traffic| traffic.retry.clone());
    }
    let host = if external { Some(external_name(service, place)?) } else { None };
    let (protocol, app_tls) = protocol_of(service_port.and_then(|p| p.app_protocol.as_deref()));
    let (protocol, app_tls) = match spoken {
        Spoken::Http => (protocol, app_tls),
        Spoken::Grpc => (BackendProtocol::Http2, app_tls),
        // The Service's word on HTTP says nothing of other bytes.
        Spoken::Bytes => (BackendProtocol::Bytes, false),
        Spoken::Datagrams => (BackendProtocol::Datagrams, false),
    };
    let tls = match world.backend_tls.of(name, port_name) {
        _ if place.passthrough => None,
        Some(policy) => Some(policy.tls.as_ref().map_err(|()| Unusable::Tls)?.clone()),
        None if app_tls => Some(BackendTls {
            hostname: match &host {
                Some(host) => host.clone(),
                None => Hostname::parse(&format!("{}.{}.svc", name.name, name.namespace))
                    .map_err(|_| Unusable::ServiceNotFound)?,
            },
            subject_alt_names: Vec::new(),
            ca: BackendCa::System,
            client_certificate: None,
            min_version: TlsVersion::V1_2,
        }),
        None => None,
    };
    let tls = tls.map(|tls| Arc::new(BackendTls { client_certificate: place.client_certificate.clone(), ..tls }));
    let cluster_ip = spec.and_then(|spec| spec.cluster_ip.as_deref()).and_then(|ip| ip.parse::<IpAddr>().ok());
    let source = match (host, cluster_ip.filter(|_| plan.cluster_ip)) {
        (Some(host), _) => EndpointSource::Dns { host, port: number },
        (None, Some(address)) => EndpointSource::ClusterIp { address, port: number },
        (None, None) => EndpointSource::Slices(EndpointsKey { service: name.clone(), port: port_name.into() }),
    };
    let mut backend = Backend {
        key: BackendKey {
            service: name.clone(),
            uid: service.metadata.uid.as_deref().unwrap_or_default().into(),
            port: number,
            policy: 0,
        },
        protocol,
        tls,
        policy: plan.policy,
        source,
    };
    backend.key.policy = fingerprint(&backend);
    Ok(backend)
}

fn find_port<'s>(service: &'s Service, wanted: PortRef<'_>, transport: Transport) -> Option<&'s ServicePort> {
    let ports = service.spec.as_ref()?.ports.as_deref()?;
    let fits = |p: &&ServicePort| match p.protocol.as_deref() {
        None | Some("" | "TCP") => transport == Transport::Tcp,
        Some(other) => other == transport.name(),
    };
    ports.iter().filter(fits).find(|p| match wanted {
        PortRef::Number(number) => p.port == i32::from(number),
        PortRef::Name(name) => p.name.as_deref() == Some(name),
    })
}

/// The rule's policies with those of the Service and of its port between listener and route.
fn plan(world: &World<'_>, service: &ObjectRef, port_name: &str, affine: bool, chain: &Chain<'_>) -> BackendPlan {
    let whole = world.policies.attached(service, None);
    let section = (!port_name.is_empty()).then(|| world.policies.attached(service, Some(port_name))).flatten();
    let mut settings = if chain.is_empty() && whole.is_none() && section.is_none() {
        BackendSettings::default()
    } else {
        let mut chain = chain.clone();
        chain.push(Level::Service, whole);
        chain.push(Level::Service, section);
        chain.backend()
    };
    // What kube-proxy would do, unless a policy says how to balance.
    if affine && settings.load_balancer.is_none() {
        settings.load_balancer = Some(by_source());
    }
    if settings == BackendSettings::default() {
        return BackendPlan::default();
    }
    let mut unreported = Vec::new();
    backend_plan(&settings, "", &mut Report::new(service, &mut unreported))
}
/// `sessionAffinity: ClientIP`: a client's requests go to one endpoint for as long as it is there.
fn by_source() -> LoadBalancerConfig {
    LoadBalancerConfig {
        kind: Some(LoadBalancerName::ConsistentHash),
        consistent_hash: Some(ConsistentHashConfig { header: None, cookie: None, source: Some(true) }),
        ..LoadBalancerConfig::default()
    }
}

/// The protocols that an `appProtocol` can name, for people; the names that [`protocol_of`] knows beside them are other
/// spellings.
pub(crate) const PROTOCOLS: &str =
    "`http`, `https`, `kubernetes.io/h2c`, `kubernetes.io/ws`, `kubernetes.io/wss`, `grpc`, `grpcs`";

/// What Service ports say of themselves (GEP-1911, and the names that are in use beside it). Case says nothing (RFC 6335,
/// section 5.1).
fn protocol_of(app_protocol: Option<&str>) -> (BackendProtocol, bool) {
    match app_protocol.unwrap_or_default().to_ascii_lowercase().as_str() {
        "kubernetes.io/h2c" | "h2c" | "http2" | "grpc" => (BackendProtocol::Http2, false),
        "kubernetes.io/ws" | "ws" => (BackendProtocol::WebSocket, false),
        "kubernetes.io/wss" | "wss" => (BackendProtocol::WebSocket, true),
        "https" => (BackendProtocol::Http1, true),
        "grpcs" => (BackendProtocol::Http2, true),
        _ => (BackendProtocol::Http1, false),
    }
}

/// Whether an `appProtocol` means something here. What it does not know is HTTP/1.1 for an Ingress, which has no word on it.
pub(crate) fn knows_protocol(app_protocol: &str) -> bool {
    let plain = ["", "http", "http/1.1", "tcp"].iter().any(|known| known.eq_ignore_ascii_case(app_protocol));
    plain || protocol_of(Some(app_protocol)) != protocol_of(None)
}

/// The name outside, where a GatewayConfig allows it.
fn external_name(service: &Service, place: &Place) -> Result<Hostname, Unusable> {
    let text = service.spec.as_ref().and_then(|spec| spec.external_name.as_deref()).unwrap_or_default();
    let host = Hostname::parse(text).map_err(|error| Unusable::ExternalName(error.to_string()))?;
    let under =
        |suffix: &str| host.as_str().strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    // Whatever is allowed: never the host itself, and never the API server.
    if under("localhost") || under("kubernetes.default.svc") || under("kubernetes.default.svc.cluster.local") {
        return Err(Unusable::ExternalName(format!("`{host}` is never allowed as an external name")));
    }
    if !place.external_names.iter().any(|suffix| under(suffix.as_str())) {
        return Err(Unusable::ExternalName(format!("no GatewayConfig allows the external name `{host}`")));
    }
    Ok(host)
}

/// First 8 bytes of the SHA-256 of everything but the name.
fn fingerprint(backend: &Backend) -> u64 {
    let parts = (&backend.protocol, &backend.tls, &backend.policy, &backend.source);
    // Maps with keys that are no strings are the one thing that can fail here, and there are none.
    let text = serde_json::to_vec(&parts).unwrap_or_default();
    let digest = Sha256::digest(&text);
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}
