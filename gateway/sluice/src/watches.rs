//! The watches of a cluster, as operators see them: tasks with names, a metric, lines for /readyz and the status page.

use crate::supervise::Supervisor;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use sluice_model::Kind;
use sluice_sources::kubernetes::{KubernetesSource, WatchState, WatchStatus};
use std::fmt;

/// Starts a task a kind, and one that keeps what they read.
pub(crate) fn spawn(supervisor: &Supervisor, source: &KubernetesSource) {
    let keeper = source.clone();
    supervisor.spawn("keep last good", move || {
        let source = keeper.clone();
        async move { source.keep_last_good().await }
    });
    for kind in Kind::ALL {
        let source = source.clone();
        supervisor.spawn(task(kind), move || {
            let source = source.clone();
            async move { source.watch(kind).await }
        });
    }
}

/// What `sluice_task_restarts_total` calls it.
fn task(kind: Kind) -> &'static str {
    match kind {
        Kind::GatewayClass => "watch GatewayClass",
        Kind::Gateway => "watch Gateway",
        Kind::ListenerSet => "watch ListenerSet",
        Kind::HTTPRoute => "watch HTTPRoute",
        Kind::GRPCRoute => "watch GRPCRoute",
        Kind::TLSRoute => "watch TLSRoute",
        Kind::TCPRoute => "watch TCPRoute",
        Kind::UDPRoute => "watch UDPRoute",
        Kind::ReferenceGrant => "watch ReferenceGrant",
        Kind::BackendTLSPolicy => "watch BackendTLSPolicy",
        Kind::XBackendTrafficPolicy => "watch XBackendTrafficPolicy",
        Kind::Ingress => "watch Ingress",
        Kind::IngressClass => "watch IngressClass",
        Kind::Service => "watch Service",
        Kind::EndpointSlice => "watch EndpointSlice",
        Kind::Secret => "watch Secret",
        Kind::ConfigMap => "watch ConfigMap",
        Kind::Namespace => "watch Namespace",
        Kind::Plugin => "watch Plugin",
        Kind::TrafficPolicy => "watch TrafficPolicy",
        Kind::GatewayConfig => "watch GatewayConfig",
    }
}

/// Kinds that are not as they should be, a line each, for a gateway that is ready all the same.
pub(crate) fn notes(statuses: &[WatchStatus]) -> Vec<String> {
    let worth =
        |status: &&WatchStatus| matches!(status.state, WatchState::Forbidden { .. } | WatchState::Failing { .. });
    let line = |status: &WatchStatus| {
        format!("{} {}: {}", status.kind, status.state.name(), status.state.message().replace('\n', " "))
    };
    statuses.iter().filter(worth).map(line).collect()
}

/// That what is served is not the API server's, in words; `None`: it is.
pub(crate) fn last_good(source: Option<&KubernetesSource>) -> Option<String> {
    let age = source?.last_good().filter(|status| status.in_use)?.age.unwrap_or_default();
    Some(format!("the last good resources are served, last known to be current {} s ago", age.as_secs()))
}

/// What the first configuration waits for.
pub(crate) fn missing(statuses: &[WatchStatus]) -> String {
    let mut kinds = Vec::new();
    let mut reason = "";
    for status in statuses {
        if matches!(status.state, WatchState::Syncing | WatchState::Failing { .. }) {
            kinds.push(status.kind.name());
            reason = if reason.is_empty() { status.state.message() } else { reason };
        }
    }
    match (kinds.is_empty(), reason.is_empty()) {
        (true, _) => String::new(),
        (false, true) => format!(", waiting for {}", kinds.join(", ")),
        (false, false) => format!(", waiting for {}: {reason}", kinds.join(", ")),
    }
}

/// `sluice_watch_stale_seconds{kind}` and `sluice_last_good_*`, as they are when they are asked for.
pub(crate) struct Staleness(KubernetesSource);

impl Staleness {
    /// Registers under the prefix of `registry`.
    pub(crate) fn register(registry: &mut Registry, source: &KubernetesSource) {
        registry.register_collector(Box::new(Staleness(source.clone())));
    }
}

impl fmt::Debug for Staleness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Staleness")
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

impl Collector for Staleness {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "For how long what is known of a kind has not been known to be current; 0 while it is";
        let mut metric = encoder.encode_descriptor("watch_stale", help, Some(&Unit::Seconds), MetricType::Gauge)?;
        for status in self.0.statuses() {
            let label = KindLabel { kind: status.kind.name() };
            metric.encode_family(&label)?.encode_gauge(&status.stale.as_secs_f64())?;
        }
        let Some(last_good) = self.0.last_good() else { return Ok(()) };
        let help = "1 while the last good resources are served, since the API server does not answer";
        let mut metric = encoder.encode_descriptor("last_good_in_use", help, None, MetricType::Gauge)?;
        metric.encode_gauge(&i64::from(last_good.in_use))?;
        let help =
            "For how long the last good resources (those in use, or else those kept) have not been known to be current";
        if let Some(age) = last_good.age {
            let mut metric =
                encoder.encode_descriptor("last_good_age", help, Some(&Unit::Seconds), MetricType::Gauge)?;
            metric.encode_gauge(&age.as_secs_f64())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn status(kind: Kind, state: WatchState) -> WatchStatus {
        WatchStatus { kind, state, stale: Duration::ZERO, objects: 0 }
    }

    #[test]
    fn what_is_missing_is_named_with_the_first_reason() {
        let failing = WatchState::Failing { message: "Connection refused".into(), since: Instant::now() };
        let statuses = [
            status(Kind::Gateway, WatchState::Syncing),
            status(Kind::HTTPRoute, failing.clone()),
            status(Kind::Service, WatchState::Synced),
            status(Kind::Plugin, WatchState::NotInstalled),
        ];
        assert_eq!(missing(&statuses), ", waiting for Gateway, HTTPRoute: Connection refused");
        assert_eq!(missing(&statuses[2..]), "");
        assert_eq!(notes(&statuses), ["HTTPRoute failing: Connection refused"]);
    }
}
