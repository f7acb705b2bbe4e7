//! Metrics of the accept path. A port's handles are looked up once, when it opens; no label is formatted for a
//! connection or a request.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerLabel {
    listener: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandshakeFailureLabel {
    listener: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabel {
    limit: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TimeoutLabel {
    timeout: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TaskLabel {
    task: &'static str,
}

/// From a millisecond (resumption on a near network) to ten seconds (the default deadline).
const HANDSHAKE_BUCKETS: [f64; 10] = [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0, 10.0];

/// All metric families of this module. Cheap to clone: handles to the same families.
#[derive(Clone, Debug)]
pub struct DownstreamMetrics {
    connections: Family<ListenerLabel, Gauge>,
    accepted: Family<ListenerLabel, Counter>,
    handshakes: Family<ListenerLabel, Histogram, fn() -> Histogram>,
    handshake_failures: Family<HandshakeFailureLabel, Counter>,
    limits: Family<LimitLabel, Counter>,
    timeouts: Family<TimeoutLabel, Counter>,
    held: Family<LimitLabel, Gauge>,
    restarts: Family<TaskLabel, Counter>,
}

impl Default for DownstreamMetrics {
    fn default() -> Self {
        DownstreamMetrics {
            connections: Family::default(),
            accepted: Family::default(),
            handshakes: Family::new_with_constructor(|| Histogram::new(HANDSHAKE_BUCKETS)),
            handshake_failures: Family::default(),
            limits: Family::default(),
            timeouts: Family::default(),
            held: Family::default(),
            restarts: Family::default(),
        }
    }
}

impl DownstreamMetrics {
    /// Registers the families, with the prefix `sluice_` written out.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = DownstreamMetrics::default();
        registry.register("sluice_downstream_connections", "Open client connections", metrics.connections.clone());
        registry.register(
            "sluice_downstream_connections_accepted",
            "Client connections that were accepted",
            metrics.accepted.clone(),
        );
        registry.register(
            "sluice_tls_handshake_seconds",
            "From the first byte read to the end of a successful TLS handshake",
            metrics.handshakes.clone(),
        );
        registry.register(
            "sluice_tls_handshake_failures",
            "TLS handshakes that did not succeed",
            metrics.handshake_failures.clone(),
        );
        registry.register(
            "sluice_limit_hits",
            "What was refused or closed because a limit was reached",
            metrics.limits.clone(),
        );
        registry.register("sluice_timeouts", "Timeouts that acted", metrics.timeouts.clone());
        registry.register(
            "sluice_held_bytes",
            "Memory that clients make us hold, of what is bounded for all connections together",
            metrics.held.clone(),
        );
        registry.register(
            "sluice_task_restarts",
            "Tasks and threads that ended by a panic and were replaced",
            metrics.restarts.clone(),
        );
        metrics
    }

    /// Counts one hit of a limit of [`sluice_model::config::Edge`], by the field's name. A look-up: for refusals, not
    /// for requests that pass.
    pub fn limit(&self, limit: &'static str) {
        self.limits.get_or_create(&LimitLabel { limit }).inc();
    }

    /// Counts one timeout that acted, by the name of its field in [`sluice_model::config::Timeouts`].
    pub fn timeout(&self, timeout: &'static str) {
        self.timeouts.get_or_create(&TimeoutLabel { timeout }).inc();
    }

    /// What is held of one budget for all connections.
    pub(super) fn held(&self, limit: &'static str) -> Gauge {
        self.held.get_or_create_owned(&LimitLabel { limit })
    }

    /// Counts a task that panicked and was replaced.
    pub fn restart(&self, task: &'static str) {
        self.restarts.get_or_create(&TaskLabel { task }).inc();
    }

    pub(super) fn port(&self, port: &str) -> PortMetrics {
        let label = ListenerLabel { listener: port.to_owned() };
        PortMetrics {
            listener: port.into(),
            connections: self.connections.get_or_create_owned(&label),
            accepted: self.accepted.get_or_create_owned(&label),
            handshakes: self.handshakes.get_or_create_owned(&label),
            all: self.clone(),
        }
    }

    #[cfg(test)]
    pub(super) fn limit_hits(&self, limit: &'static str) -> u64 {
        self.limits.get_or_create(&LimitLabel { limit }).get()
    }

    #[cfg(test)]
    pub(super) fn timeout_hits(&self, timeout: &'static str) -> u64 {
        self.timeouts.get_or_create(&TimeoutLabel { timeout }).get()
    }

    #[cfg(test)]
    pub(crate) fn restarts_of(&self, task: &'static str) -> u64 {
        self.restarts.get_or_create(&TaskLabel { task }).get()
    }
}

/// The handles of one port.
#[derive(Clone, Debug)]
pub(super) struct PortMetrics {
    listener: Box<str>,
    pub(super) connections: Gauge,
    pub(super) accepted: Counter,
    pub(super) handshakes: Histogram,
    pub(super) all: DownstreamMetrics,
}

impl PortMetrics {
    pub(super) fn handshake_failed(&self, reason: &'static str) {
        let label = HandshakeFailureLabel { listener: self.listener.to_string(), reason };
        self.all.handshake_failures.get_or_create(&label).inc();
    }
}
