//! Where requests go: a Service's port with its policy, and the endpoints behind it.

use super::{TlsVersion, Transport};
use crate::hostname::Hostname;
use crate::object::NamespacedName;
use crate::print::{display, display_option};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// A backend's identity: the Service (by UID where there is one), its port, and a hash of the whole policy. Two
/// backends that differ in anything that a pooled connection must not cross have different keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendKey {
    pub service: NamespacedName,
    pub uid: Arc<str>,
    /// The Service's port, not the endpoints'.
    pub port: u16,
    /// First 8 bytes of the SHA-256 of protocol, TLS and policy.
    pub policy: u64,
}

/// `namespace/name:port`, the label of metrics and logs.
impl fmt::Display for BackendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.port)?;
        if f.alternate() { write!(f, "#{:016x}", self.policy) } else { Ok(()) }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Backend {
    #[serde(serialize_with = "display")]
    pub key: BackendKey,
    pub protocol: BackendProtocol,
    pub tls: Option<Arc<BackendTls>>,
    pub policy: BackendPolicy,
    pub source: EndpointSource,
}

impl Backend {
    /// Whether somebody else chooses its endpoint.
    pub fn is_balanced_elsewhere(&self) -> bool {
        matches!(self.source, EndpointSource::ClusterIp { .. })
    }
}

/// What one Plugin may connect to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PluginBackends {
    /// By the names that its code calls them by.
    #[serde(serialize_with = "values_by_display")]
    pub calls: BTreeMap<Arc<str>, BackendKey>,
    /// Where its stores of scope Redis are, by their names. The gateway connects to them, the code does not.
    #[serde(serialize_with = "values_by_display")]
    pub stores: BTreeMap<Arc<str>, BackendKey>,
}

impl PluginBackends {
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty() && self.stores.is_empty()
    }
}

fn values_by_display<S: serde::Serializer>(
    map: &BTreeMap<Arc<str>, BackendKey>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(map.iter().map(|(name, backend)| (name, backend.to_string())))
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum EndpointSource {
    /// The set under this key; a key without a set is a backend without endpoints.
    Slices(#[serde(serialize_with = "display")] EndpointsKey),
    /// A name that is resolved again when its TTL has passed (Service of type ExternalName).
    Dns {
        #[serde(serialize_with = "display")]
        host: Hostname,
        port: u16,
    },
    /// The Service's own address, so that kube-proxy balances (TrafficPolicy `backend.clusterIP`).
    ClusterIp { address: IpAddr, port: u16 },
}

/// What is spoken to the endpoints (Service `appProtocol`, GEP-1911).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub enum BackendProtocol {
    /// HTTP/1.1; with TLS, HTTP/2 where ALPN agrees on it.
    #[default]
    Http1,
    /// HTTP/2: by prior knowledge in clear text (`kubernetes.io/h2c`), by ALPN over TLS.
    Http2,
    /// HTTP/1.1 that expects WebSocket upgrades (`kubernetes.io/ws`, `wss`).
    WebSocket,
    /// Bytes: nothing is known of them, and by TLS nothing is agreed on.
    Bytes,
    /// Datagrams, of which nothing is known.
    Datagrams,
}

impl BackendProtocol {
    pub const fn transport(self) -> Transport {
        match self {
            BackendProtocol::Datagrams => Transport::Udp,
            BackendProtocol::Http1 | BackendProtocol::Http2 | BackendProtocol::WebSocket | BackendProtocol::Bytes => {
                Transport::Tcp
            }
        }
    }
}

/// TLS towards endpoints: BackendTLSPolicy (GEP-1897), or appProtocol `https` alone.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BackendTls {
    /// SNI, and the name to verify where `subject_alt_names` is empty.
    #[serde(serialize_with = "display")]
    pub hostname: Hostname,
    pub subject_alt_names: Vec<SubjectAltName>,
    pub ca: BackendCa,
    /// The Gateway's client certificate (Gateway.spec.tls.backend.clientCertificateRef).
    pub client_certificate: Option<super::CertificateKey>,
    pub min_version: TlsVersion,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum SubjectAltName {
    Dns(String),
    Uri(String),
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum BackendCa {
    /// `wellKnownCACertificates: System`.
    System,
    /// DER certificates.
    Bundle(#[serde(serialize_with = "fingerprints")] Vec<Arc<[u8]>>),
}

/// Certificates print as the SHA-256 of each.
pub(super) fn fingerprints<S: serde::Serializer>(ders: &[Arc<[u8]>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(ders.iter().map(|der| hex::encode(Sha256::digest(der))))
}

/// TrafficPolicy `backend`, merged.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct BackendPolicy {
    pub load_balancer: LoadBalancer,
    /// An endpoint that has just become ready takes a share that grows to its full one over this time. Default: off.
    pub slow_start: Option<Duration>,
    pub health_check: Option<HealthCheck>,
    pub outlier: OutlierDetection,
    pub circuit_breaker: CircuitBreaker,
    /// Longest time to connect, TLS included; replaces the listener's 5 s.
    pub connect_timeout: Option<Duration>,
    /// How long an unused connection is kept. Default 60 s.
    pub idle_timeout: Option<Duration>,
    /// Instead of the budget that a rule gives to its retries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_constraint: Option<RetryConstraint>,
}

/// How much of what a Service gets may be retries, over all that leads there (GEP-3388). A retry is made while either allows it;
/// one that is not made is answered 503 with `retry_budget_exceeded`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RetryConstraint {
    /// Of the requests in the last `interval`, retries included. Default 20.
    pub percent: u8,
    /// Default 10 s.
    pub interval: Duration,
    /// As many in each `least_interval` in any case. Default 10.
    pub least: u32,
    /// Default 1 s.
    pub least_interval: Duration,
}

impl Default for RetryConstraint {
    fn default() -> Self {
        RetryConstraint {
            percent: 20,
            interval: Duration::from_secs(10),
            least: 10,
            least_interval: Duration::from_secs(1),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub enum LoadBalancer {
    #[default]
    RoundRobin,
    /// The less busy of two that are drawn by chance.
    LeastRequest,
    /// The same key goes to the same endpoint, as far as endpoints stay.
    ConsistentHash(HashKey),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum HashKey {
    Header(#[serde(serialize_with = "display")] http::HeaderName),
    Cookie(Arc<str>),
    /// The client's address, as trusted proxies tell it.
    Source,
}

/// Active checks. An endpoint is taken out after `unhealthy` failures in a row and put back after `healthy` successes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct HealthCheck {
    /// `None`: a TCP (and, where the backend has it, TLS) handshake is enough.
    pub path: Option<Arc<str>>,
    #[serde(serialize_with = "display_option")]
    pub host: Option<Hostname>,
    /// Statuses that are good; empty: 200 to 399.
    pub statuses: Vec<u16>,
    /// Default 10 s, with a tenth of jitter.
    pub interval: Duration,
    /// Default 1 s.
    pub timeout: Duration,
    /// Default 3.
    pub unhealthy: u32,
    /// Default 2.
    pub healthy: u32,
}

impl Default for HealthCheck {
    fn default() -> Self {
        HealthCheck {
            path: None,
            host: None,
            statuses: Vec::new(),
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            unhealthy: 3,
            healthy: 2,
        }
    }
}

/// Passive ejection.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OutlierDetection {
    /// Failures in a row (connection errors, resets, timeouts, and 5xx where `server_errors`). Default 5; 0: never.
    pub consecutive_failures: u32,
    /// Whether answers of 500 and above count. Default: no: the application's own errors are not the endpoint's.
    pub server_errors: bool,
    /// Time of the first ejection; grows by as much with each further one. Default 10 s.
    pub base_ejection: Duration,
    /// Default 300 s.
    pub max_ejection: Duration,
    /// Never more than this share of the endpoints. Default 50 %.
    pub max_percent: u8,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        OutlierDetection {
            consecutive_failures: 5,
            server_errors: false,
            base_ejection: Duration::from_secs(10),
            max_ejection: Duration::from_secs(300),
            max_percent: 50,
        }
    }
}

/// Limits of one backend, all endpoints together; above: 503 with `upstream_overflow`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CircuitBreaker {
    /// Connections that carry a request. Default 10,000.
    pub max_connections: u32,
    /// Requests that wait for a connection to be made. Default 1,024.
    pub max_pending: u32,
    /// Requests in flight. Default 10,000.
    pub max_requests: u32,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        CircuitBreaker { max_connections: 10_000, max_pending: 1_024, max_requests: 10_000 }
    }
}

/// The endpoints of one port of one Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointsKey {
    pub service: NamespacedName,
    /// The Service port's name (empty for an unnamed one): what EndpointSlices carry.
    pub port: Arc<str>,
}

impl fmt::Display for EndpointsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.port.is_empty() { self.service.fmt(f) } else { write!(f, "{}:{}", self.service, self.port) }
    }
}

/// Sorted by identity, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EndpointSet {
    pub endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Endpoint {
    pub id: EndpointId,
    /// The same pod in the other address family: what is tried where `id`'s address cannot be connected to.
    pub alternate: Option<SocketAddr>,
    /// May take new requests (EndpointSlice conditions: `ready`, where unknown counts as true).
    pub ready: bool,
    /// Still answers, though it may be on its way out.
    pub serving: bool,
    /// Takes no new request while another endpoint is ready.
    pub terminating: bool,
    pub zone: Option<Arc<str>>,
    /// Zones whose traffic this endpoint is meant for (topology hints); empty: nothing is said of zones.
    pub for_zones: Vec<Arc<str>>,
    /// Nodes likewise.
    pub for_nodes: Vec<Arc<str>>,
    pub node: Option<Arc<str>>,
}

/// Health, ejection and in-flight counts belong to this; a pod that comes back under the same address is another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct EndpointId {
    /// The pod's UID, else its name, else empty.
    pub target: Arc<str>,
    pub address: IpAddr,
    pub port: u16,
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::net::SocketAddr::new(self.address, self.port).fmt(f)
    }
}
