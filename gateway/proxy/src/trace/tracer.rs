//! Which traces are sampled.

use super::export::Exporter;
use super::parent::TraceParent;
use std::sync::Arc;

/// The bits of a trace id that chance alone decides (W3C Trace Context level 2, random-trace-id).
const RANDOM: u64 = (1 << 56) - 1;

/// Traces of one listener.
#[derive(Debug)]
pub(crate) struct Tracer {
    /// Of [`RANDOM`]'s values those from here on are sampled.
    threshold: u64,
    pub(super) exporter: Arc<Exporter>,
}

impl Tracer {
    pub(super) fn new(ratio: f64, exporter: Arc<Exporter>) -> Self {
        Tracer { threshold: threshold(ratio), exporter }
    }

    /// A trace that begins here. Its own id decides whether it is sampled, so that whoever asks comes to the same answer.
    pub(crate) fn root(&self) -> TraceParent {
        let root = TraceParent::root();
        root.with_sampled(is_sampled(root.trace, self.threshold))
    }
}

#[cfg(test)]
impl Tracer {
    /// Whose spans nobody sends.
    pub(crate) fn alone(ratio: f64) -> Arc<Self> {
        Arc::new(Tracer::new(ratio, Arc::new(Exporter::new(Arc::default()))))
    }
}

fn threshold(ratio: f64) -> u64 {
    let all = (RANDOM + 1) as f64;
    // Both ends are exact: 0 leaves nothing out of what is rejected, 1 rejects nothing.
    ((1.0 - ratio.clamp(0.0, 1.0)) * all) as u64
}

fn is_sampled(trace: u128, threshold: u64) -> bool {
    (trace as u64 & RANDOM) >= threshold
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_of_none_takes_none_and_of_all_takes_all() {
        for trace in [1, u128::from(RANDOM), u128::MAX, 1 << 56, TraceParent::root().trace] {
            assert!(!is_sampled(trace, threshold(0.0)), "{trace:x}");
            assert!(is_sampled(trace, threshold(1.0)), "{trace:x}");
        }
    }

    #[test]
    fn a_ratio_takes_its_share_and_the_same_traces_each_time() {
        let quarter = threshold(0.25);
        let traces: Vec<u128> = (0..40_000).map(|_| TraceParent::root().trace).collect();
        let taken = traces.iter().filter(|trace| is_sampled(**trace, quarter)).count();
        // 10,000 expected; the bounds are six standard deviations (87) away.
        assert!((9_478..=10_522).contains(&taken), "{taken}");
        // Who samples more takes all of those too.
        assert!(traces.iter().all(|trace| !is_sampled(*trace, quarter) || is_sampled(*trace, threshold(0.5))));
    }
}
