//! What is counted of stores in Redis, each under the label `store`: `namespace/name`.

use super::error::StoreErrorKind;
use crate::histogram::Durations;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StoreLabels {
    store: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    store: String,
    outcome: &'static str,
}

#[derive(Debug, Default)]
pub(super) struct Families {
    calls: Family<OutcomeLabels, Counter>,
    durations: Family<StoreLabels, Durations>,
    connects: Family<OutcomeLabels, Counter>,
    connections: Family<StoreLabels, Gauge>,
}

/// What a call that got its answer, and a connection that stands, are counted as.
const ANSWERED: &str = "answered";
const CONNECTED: &str = "connected";

impl Families {
    pub(super) fn register(registry: &mut Registry) -> Families {
        let families = Families::default();
        registry.register(
            "plugin_store_calls",
            "Calls of plugins to stores in Redis, by how they ended",
            families.calls.clone(),
        );
        registry.register(
            "plugin_store_call_duration_seconds",
            "Time that calls of plugins to stores in Redis took",
            families.durations.clone(),
        );
        registry.register(
            "plugin_store_connects",
            "Connections that were made to the Redis of a store, and tries that failed",
            families.connects.clone(),
        );
        registry.register(
            "plugin_store_connections",
            "Connections to the Redis of a store that stand",
            families.connections.clone(),
        );
        families
    }

    pub(super) fn store(&self, store: &str) -> Meters {
        let store = || store.to_owned();
        let calls = |outcome| self.calls.get_or_create_owned(&OutcomeLabels { store: store(), outcome });
        let connects = |outcome| self.connects.get_or_create_owned(&OutcomeLabels { store: store(), outcome });
        Meters {
            answered: calls(ANSWERED),
            failed: StoreErrorKind::ALL.map(|kind| calls(kind.as_str())),
            durations: self.durations.get_or_create_owned(&StoreLabels { store: store() }),
            connects: connects(CONNECTED),
            not_connected: StoreErrorKind::ALL.map(|kind| connects(kind.as_str())),
            connections: self.connections.get_or_create_owned(&StoreLabels { store: store() }),
        }
    }

    /// A store that is gone leaves no series behind.
    pub(super) fn forget(&self, store: &str) {
        let labels = |outcome| OutcomeLabels { store: store.to_owned(), outcome };
        let failed = StoreErrorKind::ALL.map(StoreErrorKind::as_str);
        for outcome in failed.into_iter().chain([ANSWERED]) {
            self.calls.remove(&labels(outcome));
        }
        for outcome in failed.into_iter().chain([CONNECTED]) {
            self.connects.remove(&labels(outcome));
        }
        self.durations.remove(&StoreLabels { store: store.to_owned() });
        self.connections.remove(&StoreLabels { store: store.to_owned() });
    }
}

/// Those of one store.
#[derive(Debug)]
pub(super) struct Meters {
    answered: Counter,
    failed: [Counter; StoreErrorKind::ALL.len()],
    durations: Durations,
    connects: Counter,
    not_connected: [Counter; StoreErrorKind::ALL.len()],
    pub(super) connections: Gauge,
}

impl Meters {
    pub(super) fn called(&self, failure: Option<StoreErrorKind>, took: Duration) {
        self.durations.observe(took);
        count(&self.answered, &self.failed, failure);
    }

    pub(super) fn tried(&self, failure: Option<StoreErrorKind>) {
        count(&self.connects, &self.not_connected, failure);
    }
}

fn count(well: &Counter, failed: &[Counter; StoreErrorKind::ALL.len()], failure: Option<StoreErrorKind>) {
    match failure {
        None => drop(well.inc()),
        Some(kind) => drop(failed.get(kind as usize).map(Counter::inc)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_counts_under_its_own_name_and_a_store_that_is_gone_leaves_nothing() {
        let mut registry = Registry::with_prefix("sluice");
        let families = Families::register(&mut registry);
        let meters = families.store("shop/limits");
        let text = |registry: &Registry| {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
            text
        };
        meters.called(None, Duration::from_micros(300));
        for kind in StoreErrorKind::ALL {
            meters.called(Some(kind), Duration::from_micros(300));
            meters.tried(Some(kind));
        }
        let told = text(&registry);
        for outcome in StoreErrorKind::ALL.map(StoreErrorKind::as_str).into_iter().chain([ANSWERED]) {
            let series = format!("sluice_plugin_store_calls_total{{store=\"shop/limits\",outcome=\"{outcome}\"}} 1");
            assert!(told.contains(&series), "{told}");
        }
        families.forget("shop/limits");
        assert!(!text(&registry).contains("shop/limits"));
    }
}
