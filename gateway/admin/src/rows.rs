//! The configuration as rows: what `sluice get` prints and the status page shows. Each is one line a reader understands
//! without the objects beside it; `/config` has all the rest.

use crate::{Status, wire};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sluice_model::Config;
use sluice_model::config::{
    Action, Backend, BackendTarget, Carries, CertificateKey, EndpointSource, HashKey, ListenerId, LoadBalancer,
    PathMatch, Protocol, RouteMatch, Rule, Transport, ValueMatch,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::SystemTime;

const DAY: u64 = 86_400;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerRow {
    pub address: SocketAddr,
    /// `HTTP`, `HTTPS`, `TLS`, `TCP` or `UDP`.
    pub protocol: String,
    /// `namespace/gateway/listener`; of a ListenerSet's, `namespace/gateway/namespace/set/listener`.
    pub listener: String,
    pub hostname: String,
    /// How many it chooses from; 0 without TLS.
    pub certificates: usize,
    /// Its socket takes connections, or datagrams.
    pub open: bool,
}

/// One match of one rule, in the order in which they are tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRow {
    pub listener: String,
    /// The pattern: `shop.example`, `*.example`, `*`.
    pub host: String,
    /// `GET /cart/* [x-header] ?query`: `/cart/*` is a prefix, `= /cart` a whole path, `~ …` an expression.
    #[serde(rename = "match")]
    pub matches: String,
    /// `Kind namespace/name/rule`.
    pub rule: String,
    /// Backends with their weights, or what is answered.
    pub action: String,
    /// In running order.
    pub plugins: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendRow {
    /// `namespace/name:port`.
    pub backend: String,
    /// Tells backends of one Service apart that differ in policy.
    pub policy: String,
    /// `HTTP/1.1`, `HTTP/2`, `WebSocket`, `bytes` or `datagrams`; with `TLS` where that is spoken.
    pub protocol: String,
    pub balancer: String,
    /// Where its addresses come from.
    pub source: String,
    /// Endpoints that take requests, of so many.
    pub ready: usize,
    pub endpoints: usize,
    /// Requests that are being answered.
    pub in_flight: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateRow {
    /// Who shows it; none where it is shown to backends only.
    pub listeners: Vec<String>,
    /// Its names (subjectAltName), as SNI asks for them.
    pub names: Vec<String>,
    /// SHA-256 of the leaf in hex, as `openssl x509 -fingerprint -sha256` computes it.
    pub fingerprint: String,
    #[serde(with = "wire::time")]
    pub not_before: SystemTime,
    #[serde(with = "wire::time")]
    pub not_after: SystemTime,
    /// Whole days until then; below 0 once it is over.
    pub days_left: i64,
    /// `namespace/name`; none for the gateway's own.
    pub secret: Option<String>,
}

impl CertificateRow {
    /// Its end, for people.
    pub fn ends(&self) -> String {
        wire::text(self.not_after)
    }
}

pub(crate) fn listeners(config: &Config, status: &Status) -> Vec<ListenerRow> {
    let mut rows = Vec::new();
    for (transport, address, port) in config.sockets() {
        let open = match transport {
            Transport::Tcp => &status.open,
            Transport::Udp => &status.open_udp,
        };
        rows.extend(port.listeners.iter().map(|listener| ListenerRow {
            address,
            protocol: match (port.protocol, listener.carries) {
                (Protocol::Https, Carries::Bytes) => "TLS".to_owned(),
                (protocol, _) => format!("{protocol:?}").to_uppercase(),
            },
            listener: listener.id.to_string(),
            hostname: listener.hostname.to_string(),
            certificates: listener.tls.as_ref().map_or(0, |tls| tls.certificates.len()),
            open: open.contains(&address),
        }));
    }
    rows
}

/// The first `limit` of them; and how many there are.
pub(crate) fn routes(config: &Config, limit: usize) -> (Vec<RouteRow>, usize) {
    let hosts =
        config.virtual_hosts.iter().flat_map(|(listener, hosts)| hosts.iter().map(move |host| (listener, host)));
    let matches = hosts.flat_map(|(listener, (pattern, host))| {
        host.matches.iter().filter_map(move |route| {
            let rule = host.rules.get(route.rule as usize)?;
            Some((listener, pattern, route, rule))
        })
    });
    let mut rows = Vec::new();
    let mut count = 0;
    for (listener, pattern, route, rule) in matches {
        if count < limit {
            rows.push(RouteRow {
                listener: listener.to_string(),
                host: pattern.to_string(),
                matches: conditions(route),
                rule: rule.id.to_string(),
                action: action(rule),
                plugins: rule.plugins.iter().map(|plugin| plugin.name.to_string()).collect(),
            });
        }
        count += 1;
    }
    (rows, count)
}

/// Names of headers and parameters without their values, which may be secrets.
fn conditions(route: &RouteMatch) -> String {
    let mut text = match &route.path {
        PathMatch::Exact(path) => format!("= {path}"),
        PathMatch::Prefix(path) => format!("{path}/*"),
        PathMatch::Regex(pattern) => format!("~ {}", pattern.source),
    };
    match &route.grpc_method {
        None => {}
        Some(ValueMatch::Exact(method)) => text.push_str(&format!(" gRPC method {method}")),
        Some(ValueMatch::Regex(pattern)) => text.push_str(&format!(" gRPC method ~ {}", pattern.source)),
    }
    if let Some(method) = &route.method {
        text.insert_str(0, &format!("{method} "));
    }
    for header in &route.headers {
        text.push_str(&format!(" [{}]", header.name));
    }
    for query in &route.query {
        text.push_str(&format!(" ?{}", query.name));
    }
    text
}

fn action(rule: &Rule) -> String {
    match &rule.action {
        Action::Redirect(redirect) => format!("redirect {}", redirect.status.as_u16()),
        Action::Reply { status, reason } => format!("reply {} ({reason})", status.as_u16()),
        Action::Forward(backends) => {
            let parts = backends.iter().map(|backend| match &backend.target {
                BackendTarget::Backend(key) => format!("{key} × {}", backend.weight),
                BackendTarget::Invalid { status, .. } => format!("reply {} × {}", status.as_u16(), backend.weight),
            });
            parts.collect::<Vec<_>>().join(", ")
        }
    }
}

pub(crate) fn backends(config: &Config, status: &Status) -> Vec<BackendRow> {
    #[derive(Default)]
    struct Sum {
        ready: usize,
        all: usize,
        in_flight: usize,
    }
    let mut sums: HashMap<(&str, &str), Sum> = HashMap::new();
    for endpoint in &status.endpoints {
        let sum = sums.entry((&endpoint.backend, &endpoint.policy)).or_default();
        sum.ready += usize::from(endpoint.is_ready());
        sum.all += 1;
        sum.in_flight += endpoint.in_flight;
    }
    let rows = config.backends.values().map(|backend| {
        let (name, policy) = (backend.key.to_string(), format!("{:016x}", backend.key.policy));
        // Where nothing is served, as in a controller, what the EndpointSlices say is all there is.
        let (ready, endpoints, in_flight) = match sums.get(&(&*name, &*policy)) {
            Some(sum) => (sum.ready, sum.all, sum.in_flight),
            None => {
                let (ready, all) = in_slices(config, backend);
                (ready, all, 0)
            }
        };
        BackendRow {
            backend: name,
            policy,
            protocol: protocol(backend),
            balancer: balancer(&backend.policy.load_balancer),
            source: source(&backend.source),
            ready,
            endpoints,
            in_flight,
        }
    });
    rows.collect()
}

fn in_slices(config: &Config, backend: &Backend) -> (usize, usize) {
    let EndpointSource::Slices(key) = &backend.source else { return (0, 0) };
    let endpoints = config.endpoints_of(key);
    (endpoints.iter().filter(|endpoint| endpoint.ready).count(), endpoints.len())
}

fn protocol(backend: &Backend) -> String {
    use sluice_model::config::BackendProtocol::{Bytes, Datagrams, Http1, Http2, WebSocket};
    let name = match backend.protocol {
        Http1 => "HTTP/1.1",
        Http2 => "HTTP/2",
        WebSocket => "WebSocket",
        Bytes => "bytes",
        Datagrams => "datagrams",
    };
    if backend.tls.is_some() { format!("{name}+TLS") } else { name.to_owned() }
}

fn balancer(balancer: &LoadBalancer) -> String {
    match balancer {
        LoadBalancer::RoundRobin => "round robin".to_owned(),
        LoadBalancer::LeastRequest => "least request".to_owned(),
        LoadBalancer::ConsistentHash(HashKey::Header(name)) => format!("hash of header {name}"),
        LoadBalancer::ConsistentHash(HashKey::Cookie(name)) => format!("hash of cookie {name}"),
        LoadBalancer::ConsistentHash(HashKey::Source) => "hash of the client's address".to_owned(),
    }
}

fn source(source: &EndpointSource) -> String {
    match source {
        EndpointSource::Slices(_) => "EndpointSlices".to_owned(),
        EndpointSource::Dns { host, port } => format!("DNS {host}:{port}"),
        EndpointSource::ClusterIp { address, port } => format!("cluster IP {}", SocketAddr::new(*address, *port)),
    }
}

/// All that are in use.
pub fn certificates(config: &Config, now: SystemTime) -> Vec<CertificateRow> {
    let mut shown: BTreeMap<&CertificateKey, BTreeSet<&ListenerId>> = BTreeMap::new();
    for listener in config.ports.values().flat_map(|port| &port.listeners) {
        for key in listener.tls.iter().flat_map(|tls| &tls.certificates) {
            shown.entry(key).or_default().insert(&listener.id);
        }
    }
    let rows = config.certificates.values().map(|certificate| CertificateRow {
        listeners: shown.get(&certificate.key).into_iter().flatten().map(ToString::to_string).collect(),
        names: certificate.names.iter().map(ToString::to_string).collect(),
        fingerprint: certificate.chain.first().map(|leaf| hex::encode(Sha256::digest(leaf))).unwrap_or_default(),
        not_before: certificate.not_before,
        not_after: certificate.not_after,
        days_left: days_left(certificate.not_after, now),
        secret: certificate.key.secret.as_ref().map(|secret| secret.key().to_string()),
    });
    rows.collect()
}

/// Rounded down, so that a certificate that ends today has 0 and one that ended today -1.
fn days_left(end: SystemTime, now: SystemTime) -> i64 {
    let days = |seconds: u64| i64::try_from(seconds / DAY).unwrap_or(i64::MAX);
    match end.duration_since(now) {
        Ok(left) => days(left.as_secs()),
        Err(over) => -1 - days(over.duration().as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_day_that_has_begun_does_not_count() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100 * DAY);
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        assert_eq!(days_left(now + hours(49), now), 2);
        assert_eq!(days_left(now + hours(1), now), 0);
        assert_eq!(days_left(now - hours(1), now), -1);
        assert_eq!(days_left(now - hours(25), now), -2);
    }
}
