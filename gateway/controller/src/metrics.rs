//! `sluice_status_writes_total{kind,result}`, `sluice_events_total` and `sluice_controller_leader`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use sluice_model::Kind;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Write {
    kind: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    writes: Family<Write, Counter>,
    /// Events that were written.
    pub(crate) events: Counter,
    pub(crate) leader: Gauge,
}

impl Metrics {
    /// Registers under the prefix of `registry`.
    pub(crate) fn new(registry: &mut Registry) -> Metrics {
        let metrics = Metrics { writes: Family::default(), events: Counter::default(), leader: Gauge::default() };
        registry.register(
            "status_writes",
            "Statuses that were to be written, by result: written, conflict (tried again with the newest object), gone, failed",
            metrics.writes.clone(),
        );
        registry.register("events", "Events of problems that were written", metrics.events.clone());
        registry.register(
            "controller_leader",
            "Whether this process holds the Lease, and so writes to the cluster",
            metrics.leader.clone(),
        );
        metrics
    }

    pub(crate) fn wrote(&self, kind: Kind, result: &'static str) {
        self.writes.get_or_create(&Write { kind: kind.name(), result }).inc();
    }
}
