//! What fetching is measured by, all plugins together.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: &'static str,
}

/// How a fetch ended well: over the network, or by what is kept on disk. How it failed is [`FetchError`](crate::FetchError)'s.
pub(crate) const FETCHED: &str = "fetched";
pub(crate) const KEPT: &str = "kept";

#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    fetches: Family<Labels, Counter>,
    pub(crate) seconds: Counter<f64, AtomicU64>,
    pub(crate) panics: Counter,
}

impl Metrics {
    /// `received`: bytes of answers.
    pub(crate) fn register(registry: &mut Registry, received: Counter) -> Metrics {
        let metrics = Metrics::default();
        registry.register(
            "plugin_fetches",
            "Tries to fetch the code of a plugin, by how they ended",
            metrics.fetches.clone(),
        );
        registry.register(
            "plugin_fetch_bytes",
            "Bytes received from registries and web servers for plugins, manifests too",
            received,
        );
        registry.register("plugin_fetch_seconds", "Time spent fetching the code of plugins", metrics.seconds.clone());
        registry.register(
            "plugin_fetch_panics",
            "Panics of the thread that fetches plugins; it goes on with the next one",
            metrics.panics.clone(),
        );
        metrics
    }

    pub(crate) fn ended(&self, outcome: &'static str) {
        self.fetches.get_or_create(&Labels { outcome }).inc();
    }
}
