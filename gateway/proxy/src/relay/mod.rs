//! Connections (here) and sessions of datagrams ([`datagrams`]) that go to one backend as a whole: TCPRoute, and TLSRoute whether TLS ends here or passes through.
//!
//! ```text
//! PassedConnection ─► listener ─► SNI ─► rule ─► backend by weight ─► endpoint, tried anew where it can't be connected to
//!                                                                        └─► bytes both ways ─► log
//! ```
//!
//! The rule is that of a virtual host with one match that takes everything, so that weights, balancing, ejection and
//! circuit breakers are those of requests: a connection counts as one. It holds on to the endpoint that it began with,
//! whatever the configuration says meanwhile.

mod copy;
pub(crate) mod datagrams;

use crate::access_log::Record;
use crate::downstream::PassedConnection;
use crate::http::{Shared, draw, is_allowed};
use crate::metrics::{InFlight, ListenerMetrics};
use crate::overload::Load;
use crate::snapshot::{ListenerRuntime, RuleRuntime, Snapshot};
use crate::upstream::{BackendRuntime, Failure, Outcome, Pick, PickError, PickRequest, Tried};
use ::http::HeaderMap;
use copy::{Ended, Limits};
use sluice_model::Reason;
use sluice_model::config::Action;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// Tries after the first where endpoints can't be connected to, unless the rule wants none.
const RECONNECTS: u32 = 4;
/// How long a connection waits for the first resolution of a backend's name.
const SETTLE: Duration = Duration::from_secs(5);

static NO_HEADERS: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);

/// What the log says at the end.
#[derive(Default)]
struct Story {
    endpoint: Option<SocketAddr>,
    connect: Option<Duration>,
    retries: u32,
    bytes_in: u64,
    bytes_out: u64,
}

/// What of the configuration a connection keeps: not the snapshot, as it may live for days.
struct Place {
    listener: Arc<str>,
    metrics: Arc<ListenerMetrics>,
    rule: Option<Arc<RuleRuntime>>,
    /// The rule's backend, by weight.
    backend: Option<usize>,
}

/// Serves one connection to its end.
pub(crate) async fn serve(shared: Arc<Shared>, mut connection: PassedConnection) {
    let snapshot = shared.snapshot.load_full();
    let listener = snapshot.ports.get(&connection.info.port).and_then(|port| port.listener(connection.sni()));
    // Another configuration came between the handshake and here: what was agreed on is not what it asks for.
    let Some(listener) = listener.filter(|listener| listener.config.id == connection.listener) else { return };
    let rule = rule_of(listener, connection.sni());
    let place = Place {
        listener: listener.label.clone(),
        metrics: listener.metrics.clone(),
        backend: rule.as_ref().and_then(|rule| draw(rule)),
        rule,
    };
    let _running = InFlight::new(&place.metrics);
    let mut story = Story::default();
    let reason = match &place.rule {
        Some(_) if shared.overload.load() == Load::Shedding => {
            shared.overload.shed.inc();
            Reason::Overloaded
        }
        Some(rule) => pass(&shared, snapshot, rule, place.backend, &mut connection, &mut story).await,
        None => Reason::RouteNotFound,
    };
    place.metrics.count_connection(reason);
    if let Some(rule) = &place.rule {
        rule.metrics.add_bytes(story.bytes_in, story.bytes_out);
    }
    tell(&shared, &connection, &place, reason, &story);
}

fn rule_of(listener: &ListenerRuntime, sni: &str) -> Option<Arc<RuleRuntime>> {
    let host = listener.hosts.find(sni)?;
    let first = host.config.matches.first()?;
    host.rules.get(first.rule as usize).cloned()
}

async fn pass(
    shared: &Shared,
    snapshot: Arc<Snapshot>,
    rule: &RuleRuntime,
    backend: Option<usize>,
    connection: &mut PassedConnection,
    story: &mut Story,
) -> Reason {
    let client = connection.info.peer.ip().to_canonical();
    if !is_allowed(rule, client) {
        return Reason::ClientDenied;
    }
    if let Action::Reply { reason, .. } = &rule.config.action {
        return *reason;
    }
    let Some(chosen) = backend.and_then(|index| rule.backends.get(index)) else { return Reason::NoBackends };
    let Some((slot, _)) = &chosen.target else { return Reason::InvalidBackend };
    let Some(backend) = snapshot.backend(slot) else { return Reason::NoEndpoints };
    let connected = match connect(backend, rule, client, connection, story).await {
        Ok(connected) => connected,
        Err(reason) => return reason,
    };
    drop(snapshot);
    let (pick, mut upstream) = connected;
    let timeouts = &connection.edge.timeouts;
    let limits = Limits { idle: timeouts.stream_idle, until: timeouts.tunnel_max.map(|max| Instant::now() + max) };
    let (ended, bytes) = copy::both_ways(connection, &mut upstream.io, &limits).await;
    (story.bytes_in, story.bytes_out) = bytes;
    drop(pick);
    match ended {
        Ended::Both => Reason::Upstream,
        Ended::Client => Reason::ClientAborted,
        Ended::Backend => Reason::UpstreamReset,
        Ended::Idle => {
            shared.counts.timeout("stream_idle");
            Reason::StreamIdle
        }
        Ended::TooOld => {
            shared.counts.timeout("tunnel_max");
            Reason::StreamMaxDuration
        }
    }
}

/// An endpoint that answers, and a connection to it. Nothing has been sent, so that each failure may be tried elsewhere.
async fn connect(
    backend: &BackendRuntime,
    rule: &RuleRuntime,
    client: IpAddr,
    connection: &PassedConnection,
    story: &mut Story,
) -> Result<(Pick, crate::upstream::Opened), Reason> {
    let patience = backend.config().policy.connect_timeout.unwrap_or(connection.edge.timeouts.connect);
    let retries = if rule.config.retry.attempts == 0 { 0 } else { rule.config.retry.attempts.max(RECONNECTS) };
    let mut tried = Tried::new();
    loop {
        let wanted = PickRequest { headers: &NO_HEADERS, client, tried: &tried };
        let picked = match backend.pick(&wanted) {
            Err(PickError::NoEndpoints) if tried.is_empty() => {
                backend.settled(SETTLE).await;
                backend.pick(&wanted)
            }
            picked => picked,
        };
        let mut pick = picked.map_err(PickError::reason)?;
        story.endpoint = Some(pick.address());
        let begun = Instant::now();
        let failure = match tokio::time::timeout(patience, pick.open()).await {
            Ok(Ok(opened)) => {
                story.connect = Some(begun.elapsed());
                pick.connected();
                // All that is asked of an endpoint of bytes.
                pick.report(Outcome::Response(200));
                return Ok((pick, opened));
            }
            Ok(Err(error)) => {
                tracing::debug!(endpoint = %pick.address(), %error, "an endpoint cannot be connected to");
                Failure::of(&error).unwrap_or(Failure::Connect)
            }
            Err(_) => Failure::ConnectTimeout,
        };
        pick.report(Outcome::Failed(failure));
        if story.retries >= retries {
            return Err(failure.reason());
        }
        story.retries += 1;
        tried.push(pick.address());
    }
}

fn tell(shared: &Shared, connection: &PassedConnection, place: &Place, reason: Reason, story: &Story) {
    let snapshot = shared.snapshot.load();
    // What went wrong is never left out by sampling.
    if !snapshot.access_log.wants(reason.status()) {
        return;
    }
    let rule = place.rule.as_deref();
    let backend = rule.zip(place.backend).and_then(|(rule, index)| rule.backends.get(index)?.target.as_ref());
    let info = &connection.info;
    let protocol = if connection.tls { "TLS" } else { "TCP" };
    let record = Record {
        listener: &place.listener,
        route: rule.map_or("", |rule| &rule.route_label),
        rule: rule.map_or("", |rule| &rule.config.id.rule),
        backend: backend.map_or("", |(_, metrics)| &metrics.label),
        endpoint: story.endpoint,
        bytes_in: story.bytes_in,
        bytes_out: story.bytes_out,
        upstream_connect: story.connect,
        retries: story.retries,
        tls_version: info.tls.as_ref().map_or("", |tls| tls.version),
        sni: connection.sni(),
        ..Record::of_bytes(protocol, info.peer.ip().to_canonical(), reason, info.accepted.elapsed())
    };
    shared.log.write(snapshot.access_log.line(&record));
}
