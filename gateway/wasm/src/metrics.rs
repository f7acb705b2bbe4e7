//! What the host counts. Handles are resolved when a plugin is loaded; a call only adds to them.

use crate::TrapKind;
use crate::configured::Phase;
use crate::decision::Decision;
use crate::histogram::Durations;
use crate::outgoing::FetchErrorKind;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use sluice_model::plugin::PluginKey;
use std::sync::OnceLock;
use std::time::Duration;

/// How a call ended: the label `outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Continue,
    Respond,
    ReadBody,
    Abort,
    /// Trapped, or lost.
    Failed,
    /// No instance was free, or no memory for one.
    Busy,
    /// Took too long, its wait for a thread included.
    Deadline,
    /// Not called, because it only failed.
    CircuitOpen,
}

impl Outcome {
    const ALL: [(Outcome, &'static str); 8] = [
        (Outcome::Continue, "continue"),
        (Outcome::Respond, "respond"),
        (Outcome::ReadBody, "read_body"),
        (Outcome::Abort, "abort"),
        (Outcome::Failed, "failed"),
        (Outcome::Busy, "busy"),
        (Outcome::Deadline, "deadline"),
        (Outcome::CircuitOpen, "circuit_open"),
    ];

    pub(crate) const fn of(decision: &Decision) -> Outcome {
        match decision {
            Decision::Continue => Outcome::Continue,
            Decision::Respond(_) => Outcome::Respond,
            Decision::ReadBody(_) => Outcome::ReadBody,
            Decision::Abort => Outcome::Abort,
        }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        Outcome::ALL[self as usize].1
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    plugin: String,
    phase: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabels {
    plugin: String,
    phase: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TrapLabels {
    plugin: String,
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PluginLabels {
    plugin: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FetchLabels {
    plugin: String,
    outcome: &'static str,
}

/// The families, all plugins together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    calls: Family<CallLabels, Counter>,
    durations: Family<PhaseLabels, Durations>,
    memory: Family<PluginLabels, Gauge>,
    instances: Family<PluginLabels, Gauge>,
    traps: Family<TrapLabels, Counter>,
    aside: Family<PluginLabels, Counter>,
    log_dropped: Family<PluginLabels, Counter>,
    fetches: Family<FetchLabels, Counter>,
    fetch_durations: Family<PluginLabels, Durations>,
    shared_bytes: Family<PluginLabels, Gauge>,
    shared_refused: Family<PluginLabels, Counter>,
    pub(crate) builds: Counter,
    pub(crate) build_seconds: Counter<f64, std::sync::atomic::AtomicU64>,
    pub(crate) builder_restarts: Counter,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Metrics {
        let metrics = Metrics::default();
        registry.register("plugin_calls", "Calls of plugins, by phase and how they ended", metrics.calls.clone());
        registry.register(
            "plugin_duration_seconds",
            "Time from a call's start to its decision, the making of its instance included",
            metrics.durations.clone(),
        );
        registry.register(
            "plugin_memory_bytes",
            "Linear memory of the live instances of a plugin",
            metrics.memory.clone(),
        );
        registry.register("plugin_instances", "Live instances of a plugin", metrics.instances.clone());
        registry.register("plugin_traps", "Instances that were ended, by the reason", metrics.traps.clone());
        registry.register(
            "plugin_aside",
            "Calls that ran on the threads of low priority, because the plugin had been slow",
            metrics.aside.clone(),
        );
        registry.register(
            "plugin_log_dropped",
            "Log lines of plugins above their limit of 100 a second",
            metrics.log_dropped.clone(),
        );
        registry.register(
            "plugin_backend_calls",
            "Calls of plugins to backends, by how they ended",
            metrics.fetches.clone(),
        );
        registry.register(
            "plugin_backend_call_duration_seconds",
            "Time that calls of plugins to backends took",
            metrics.fetch_durations.clone(),
        );
        registry.register(
            "plugin_shared_bytes",
            "What filters of the proxy-wasm ABI share between their VMs: keys, values, and what waits in queues",
            metrics.shared_bytes.clone(),
        );
        registry.register(
            "plugin_shared_refused",
            "What was above a limit of what filters of the proxy-wasm ABI may share",
            metrics.shared_refused.clone(),
        );
        registry.register(
            "plugin_builds",
            "Tries to compile and configure a plugin version, failed ones too",
            metrics.builds.clone(),
        );
        registry.register(
            "plugin_build_seconds",
            "Time spent compiling and configuring plugins",
            metrics.build_seconds.clone(),
        );
        registry.register(
            "plugin_builder_panics",
            "Panics of the thread that compiles plugins; it goes on with the next one",
            metrics.builder_restarts.clone(),
        );
        metrics
    }

    pub(crate) fn plugin(&self, key: &PluginKey) -> PluginMetrics {
        let plugin = key.to_string();
        let own = PluginLabels { plugin: plugin.clone() };
        let calls = Phase::ALL.map(|phase| {
            Outcome::ALL.map(|(_, outcome)| {
                let labels = CallLabels { plugin: plugin.clone(), phase: phase.as_str(), outcome };
                self.calls.get_or_create_owned(&labels)
            })
        });
        let durations = Phase::ALL.map(|phase| {
            self.durations.get_or_create_owned(&PhaseLabels { plugin: plugin.clone(), phase: phase.as_str() })
        });
        let traps = TrapKind::ALL
            .map(|kind| self.traps.get_or_create_owned(&TrapLabels { plugin: plugin.clone(), kind: kind.as_str() }));
        PluginMetrics {
            calls,
            durations,
            traps,
            memory: self.memory.get_or_create_owned(&own),
            instances: self.instances.get_or_create_owned(&own),
            aside: self.aside.get_or_create_owned(&own),
            log_dropped: self.log_dropped.get_or_create_owned(&own),
            fetches: OnceLock::new(),
            shared: OnceLock::new(),
            families: self.clone(),
            own,
        }
    }

    /// A plugin that is gone leaves no series behind.
    pub(crate) fn forget(&self, key: &PluginKey) {
        let plugin = key.to_string();
        let own = PluginLabels { plugin: plugin.clone() };
        for phase in Phase::ALL {
            for (_, outcome) in Outcome::ALL {
                self.calls.remove(&CallLabels { plugin: plugin.clone(), phase: phase.as_str(), outcome });
            }
            self.durations.remove(&PhaseLabels { plugin: plugin.clone(), phase: phase.as_str() });
        }
        for kind in TrapKind::ALL {
            self.traps.remove(&TrapLabels { plugin: plugin.clone(), kind: kind.as_str() });
        }
        self.memory.remove(&own);
        self.instances.remove(&own);
        self.aside.remove(&own);
        self.log_dropped.remove(&own);
        for outcome in FetchErrorKind::ALL.into_iter().map(Some).chain([None]) {
            self.fetches.remove(&FetchLabels { plugin: plugin.clone(), outcome: fetch_outcome(outcome) });
        }
        self.fetch_durations.remove(&own);
        self.shared_bytes.remove(&own);
        self.shared_refused.remove(&own);
    }
}

/// The handles of one plugin.
#[derive(Clone, Debug)]
pub(crate) struct PluginMetrics {
    calls: [[Counter; Outcome::ALL.len()]; Phase::ALL.len()],
    durations: [Durations; Phase::ALL.len()],
    traps: [Counter; TrapKind::ALL.len()],
    pub(crate) memory: Gauge,
    pub(crate) instances: Gauge,
    pub(crate) aside: Counter,
    pub(crate) log_dropped: Counter,
    /// Of a plugin that calls backends: at its first call.
    fetches: OnceLock<Fetches>,
    /// Of a filter that shares something: at its first.
    shared: OnceLock<SharedMeters>,
    families: Metrics,
    own: PluginLabels,
}

/// Of what a filter's VMs share.
#[derive(Clone, Debug)]
pub(crate) struct SharedMeters {
    pub(crate) bytes: Gauge,
    pub(crate) refused: Counter,
}

#[derive(Clone, Debug)]
struct Fetches {
    /// The last one is that of answers.
    outcomes: [Counter; FetchErrorKind::ALL.len() + 1],
    durations: Durations,
}

fn fetch_outcome(failure: Option<FetchErrorKind>) -> &'static str {
    failure.map_or("answered", FetchErrorKind::as_str)
}

impl PluginMetrics {
    pub(crate) fn called(&self, phase: Phase, outcome: Outcome, took: Duration) {
        if let Some(counter) = self.calls.get(phase as usize).and_then(|phase| phase.get(outcome as usize)) {
            counter.inc();
        }
        if let Some(durations) = self.durations.get(phase as usize) {
            durations.observe(took);
        }
    }

    /// A call to a backend ended so.
    pub(crate) fn fetched(&self, failure: Option<FetchErrorKind>, took: Duration) {
        let fetches = self.fetches.get_or_init(|| {
            let counter = |failure| {
                let labels = FetchLabels { plugin: self.own.plugin.clone(), outcome: fetch_outcome(failure) };
                self.families.fetches.get_or_create_owned(&labels)
            };
            Fetches {
                outcomes: std::array::from_fn(|index| counter(FetchErrorKind::ALL.get(index).copied())),
                durations: self.families.fetch_durations.get_or_create_owned(&self.own),
            }
        });
        let index = failure.map_or(FetchErrorKind::ALL.len(), |failure| failure as usize);
        if let Some(counter) = fetches.outcomes.get(index) {
            counter.inc();
        }
        fetches.durations.observe(took);
    }

    pub(crate) fn shared(&self) -> &SharedMeters {
        self.shared.get_or_init(|| SharedMeters {
            bytes: self.families.shared_bytes.get_or_create_owned(&self.own),
            refused: self.families.shared_refused.get_or_create_owned(&self.own),
        })
    }

    pub(crate) fn trapped(&self, kind: TrapKind) {
        if let Some(counter) = self.traps.get(kind as usize) {
            counter.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_that_is_gone_leaves_no_series() {
        let mut registry = Registry::with_prefix("sluice");
        let metrics = Metrics::register(&mut registry);
        let key = PluginKey::new("shop", "keys");
        let plugin = metrics.plugin(&key);
        plugin.called(Phase::RequestHeaders, Outcome::Respond, Duration::from_micros(3));
        plugin.trapped(TrapKind::Memory);
        let encode = |registry: &Registry| {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
            text
        };
        let text = encode(&registry);
        let call = "sluice_plugin_calls_total{plugin=\"shop/keys\",phase=\"request_headers\",outcome=\"respond\"} 1";
        assert!(text.contains(call), "{text}");
        assert!(text.contains("sluice_plugin_traps_total{plugin=\"shop/keys\",kind=\"memory\"} 1"), "{text}");
        metrics.forget(&key);
        assert!(!encode(&registry).contains("shop/keys"));
    }

    #[test]
    fn indexes_of_the_handles_are_the_variants_own() {
        for (index, (outcome, _)) in Outcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, index);
        }
        for (index, phase) in Phase::ALL.iter().enumerate() {
            assert_eq!(*phase as usize, index);
        }
        for (index, kind) in TrapKind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, index);
        }
    }
}
