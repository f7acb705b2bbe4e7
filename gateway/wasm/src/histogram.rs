//! A histogram of durations without a lock: prometheus-client's own takes one at each observation.

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds in nanoseconds: from below a pooled call to above the run time limit.
const BOUNDS: [u64; 12] =
    [1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000, 10_000_000, 100_000_000];

#[derive(Debug, Default)]
struct Cells {
    /// One for each bound, and one above the last.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

/// Observations may be seen in part by a scrape that runs beside them; none is lost.
#[derive(Clone, Debug, Default)]
pub(crate) struct Durations(Arc<Cells>);

impl Durations {
    pub(crate) fn observe(&self, duration: Duration) {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|bound| *bound < nanoseconds);
        if let Some(cell) = self.0.buckets.get(bucket) {
            cell.fetch_add(1, Relaxed);
        }
        self.0.nanoseconds.fetch_add(nanoseconds, Relaxed);
    }
}

impl TypedMetric for Durations {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let bounds = BOUNDS.iter().map(|bound| *bound as f64 / 1e9).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(self.0.buckets.iter().map(|cell| cell.load(Relaxed))).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(self.0.nanoseconds.load(Relaxed) as f64 / 1e9, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::registry::Registry;

    #[test]
    fn an_observation_counts_in_the_bucket_whose_bound_it_does_not_pass() {
        let durations = Durations::default();
        for nanoseconds in [1, 1_000, 1_001, 200_000_000] {
            durations.observe(Duration::from_nanos(nanoseconds));
        }
        let mut registry = Registry::default();
        registry.register("d", "d", durations);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("d_bucket{le=\"0.000001\"} 2\n"), "{text}");
        assert!(text.contains("d_bucket{le=\"0.0000025\"} 3\n"), "{text}");
        assert!(text.contains("d_bucket{le=\"0.1\"} 3\n"), "{text}");
        assert!(text.contains("d_bucket{le=\"+Inf\"} 4\n"), "{text}");
        assert!(text.contains("d_count 4\n"), "{text}");
    }
}
