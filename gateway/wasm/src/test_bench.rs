//! Where plugins are tested: clocks that the test moves, and an ear for what plugins tell of metrics.

use std::fmt;

/// Stands in for the machine's clocks, and hears of plugins' own metrics ([`HostOptions::test_bench`](crate::HostOptions)).
/// Filters of the proxy-wasm ABI have the machine's clocks all the same.
pub trait TestBench: fmt::Debug + Send + Sync {
    /// Nanoseconds since 1970-01-01T00:00:00Z.
    fn now(&self) -> u64;

    /// Nanoseconds of a clock that never goes back. What stores keep runs out by it.
    fn monotonic(&self) -> u64;

    /// A plugin told something of a metric, and it was taken. The name is the plugin's own.
    fn told(&self, metric: &str, labels: &[(String, String)], value: MetricValue);
}

/// What a plugin tells of a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MetricValue {
    /// Added to a counter.
    Added(u64),
    /// What a gauge is from now on.
    Gauge(f64),
    /// One observation of a histogram.
    Observation(f64),
}
