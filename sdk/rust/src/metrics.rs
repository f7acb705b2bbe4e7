//! Metrics of the plugin's own, in the gateway's `/metrics` as `sluice_plugin_custom_<name>` with a label `plugin`.
//!
//! A name stays what it was first used as: a counter, a gauge or a histogram, with these names of labels. A plugin has at most
//! 64 metrics of 8 labels, and 1,000 label sets of values of 128 bytes: no label for what a client chooses. What is refused
//! is counted in `sluice_plugin_metrics_refused_total`. `configure` can't use them.
//!
//! ```
//! use sluice_plugin::{metrics, testing::Services};
//!
//! let services = Services::new();
//! metrics::add("orders", &[("size", "large")], 1).unwrap();
//! metrics::set("queue_depth", &[], 3.0).unwrap();
//! metrics::observe("wait_seconds", &[], 0.2).unwrap();
//! assert_eq!(services.counter("orders", &[("size", "large")]), Some(1));
//! assert_eq!(services.gauge("queue_depth", &[]), Some(3.0));
//! assert_eq!(services.observations("wait_seconds", &[]), [0.2]);
//! assert!(metrics::set("orders", &[("size", "large")], 1.0).is_err(), "it is a counter");
//! ```

use crate::backend::metrics;
use crate::headers::Refused;

fn owned(labels: &[(&str, &str)]) -> Vec<(String, String)> {
    labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Adds to a counter.
pub fn add(name: &str, labels: &[(&str, &str)], by: u64) -> Result<(), Refused> {
    metrics::add(name, &owned(labels), by).map_err(Refused)
}

/// Sets a gauge.
pub fn set(name: &str, labels: &[(&str, &str)], value: f64) -> Result<(), Refused> {
    metrics::set(name, &owned(labels), value).map_err(Refused)
}

/// Adds one observation to a histogram with Prometheus' default buckets in seconds: 0.005 to 10.
pub fn observe(name: &str, labels: &[(&str, &str)], value: f64) -> Result<(), Refused> {
    observe_in(name, labels, value, &[])
}

/// The same with these upper bounds, ascending, at most 32. Those of the first call stay.
pub fn observe_in(name: &str, labels: &[(&str, &str)], value: f64, buckets: &[f64]) -> Result<(), Refused> {
    metrics::observe(name, &owned(labels), value, buckets).map_err(Refused)
}
