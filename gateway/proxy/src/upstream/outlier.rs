//! Passive ejection: an endpoint whose requests fail in a row takes no new ones for a while.
//!
//! The while grows with each ejection and shrinks again with good conduct. Never more endpoints are out than the policy
//! allows, and never the last one.

use super::clock::{Clock, millis};
use super::endpoint::EndpointState;
use sluice_model::config::OutlierDetection;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use std::time::Duration;

/// One ejection at a time for a backend, so that two endpoints cannot both take the last place that the limit leaves.
#[derive(Debug, Default)]
pub(super) struct Ejector(AtomicBool);

impl Ejector {
    /// A request to `endpoint` went well.
    pub(super) fn success(endpoint: &EndpointState, policy: &OutlierDetection, clock: &Clock) {
        if endpoint.failures.load(Relaxed) != 0 {
            endpoint.failures.store(0, Relaxed);
        }
        let ejections = endpoint.ejections.load(Relaxed);
        if ejections == 0 {
            return;
        }
        let now = clock.now();
        let calm = endpoint.calm_until.load(Relaxed);
        if now < calm {
            return;
        }
        let next = now.saturating_add(millis(policy.base_ejection));
        // Whoever wins works one ejection off; the others have nothing to add.
        if endpoint.calm_until.compare_exchange(calm, next, Relaxed, Relaxed).is_ok() {
            endpoint.ejections.store(ejections - 1, Relaxed);
        }
    }

    /// A request to `endpoint` failed in a way that is the endpoint's own. Returns the ejection's length, if it came to one.
    pub(super) fn failure(
        &self,
        endpoint: &EndpointState,
        all: &[Arc<EndpointState>],
        policy: &OutlierDetection,
        clock: &Clock,
    ) -> Option<Duration> {
        if policy.consecutive_failures == 0 {
            return None;
        }
        let failures = endpoint.failures.fetch_add(1, Relaxed).saturating_add(1);
        // Requests that were in flight when it was ejected do not prolong it.
        if failures < policy.consecutive_failures || endpoint.ejected(clock) {
            return None;
        }
        if self.0.compare_exchange(false, true, Acquire, Relaxed).is_err() {
            return None; // its next failure asks again
        }
        let ejection = eject(endpoint, all, policy, clock);
        self.0.store(false, Release);
        ejection
    }
}

fn eject(
    endpoint: &EndpointState,
    all: &[Arc<EndpointState>],
    policy: &OutlierDetection,
    clock: &Clock,
) -> Option<Duration> {
    if endpoint.ejected(clock) {
        return None;
    }
    let out = all.iter().filter(|e| e.ejected(clock)).count();
    if !may_eject(out, all.len(), policy.max_percent) {
        return None;
    }
    let ejections = endpoint.ejections.load(Relaxed).saturating_add(1);
    let length = policy.base_ejection.saturating_mul(ejections).min(policy.max_ejection);
    let until = clock.now().saturating_add(millis(length));
    endpoint.ejections.store(ejections, Relaxed);
    endpoint.failures.store(0, Relaxed);
    endpoint.calm_until.store(until.saturating_add(millis(length)), Relaxed);
    endpoint.start_warming(until);
    endpoint.ejected_until.store(until, Relaxed);
    Some(length)
}

/// Whether one more than `out` of `total` endpoints may be ejected. The first always may, where it is not the only one:
/// otherwise a small backend could never get rid of a broken endpoint.
fn may_eject(out: usize, total: usize, max_percent: u8) -> bool {
    let after = out + 1;
    max_percent > 0 && after < total && (out == 0 || after * 100 <= total * usize::from(max_percent))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(n: u8) -> Vec<Arc<EndpointState>> {
        (0..n).map(|i| Arc::new(EndpointState::new(([192, 0, 2, i], 80).into(), i.into()))).collect()
    }

    fn fail(ejector: &Ejector, which: usize, all: &[Arc<EndpointState>], clock: &Clock) -> Option<Duration> {
        let policy = OutlierDetection::default();
        (0..policy.consecutive_failures).filter_map(|_| ejector.failure(&all[which], all, &policy, clock)).next()
    }

    #[test]
    fn failures_in_a_row_eject_and_the_time_brings_back() {
        let (clock, all, ejector) = (Clock::manual(), endpoints(3), Ejector::default());
        let policy = OutlierDetection::default();
        for _ in 1..policy.consecutive_failures {
            assert_eq!(ejector.failure(&all[0], &all, &policy, &clock), None);
        }
        assert_eq!(ejector.failure(&all[0], &all, &policy, &clock), Some(policy.base_ejection));
        assert!(all[0].ejected(&clock));
        clock.advance(policy.base_ejection);
        assert!(!all[0].ejected(&clock));
    }

    #[test]
    fn a_success_in_between_starts_the_count_again() {
        let (clock, all, ejector) = (Clock::manual(), endpoints(3), Ejector::default());
        let policy = OutlierDetection::default();
        for _ in 0..10 {
            for _ in 1..policy.consecutive_failures {
                assert_eq!(ejector.failure(&all[0], &all, &policy, &clock), None);
            }
            Ejector::success(&all[0], &policy, &clock);
        }
        assert!(!all[0].ejected(&clock));
    }

    #[test]
    fn each_further_ejection_is_longer_up_to_the_longest() {
        let (clock, all, ejector) = (Clock::manual(), endpoints(3), Ejector::default());
        let policy = OutlierDetection::default();
        let mut last = Duration::ZERO;
        for n in 1..=40 {
            let length = fail(&ejector, 0, &all, &clock).expect("ejected again");
            assert_eq!(length, (policy.base_ejection * n).min(policy.max_ejection));
            assert!(length >= last);
            last = length;
            clock.advance(length);
        }
        assert_eq!(last, policy.max_ejection);
    }

    #[test]
    fn good_conduct_works_ejections_off() {
        let (clock, all, ejector) = (Clock::manual(), endpoints(3), Ejector::default());
        let policy = OutlierDetection::default();
        for _ in 0..3 {
            let length = fail(&ejector, 0, &all, &clock).expect("ejected");
            clock.advance(length);
        }
        // As long again as the last ejection, then one step each base time.
        Ejector::success(&all[0], &policy, &clock);
        assert_eq!(all[0].ejections.load(Relaxed), 3, "too soon");
        clock.advance(policy.base_ejection * 3);
        for left in [2, 1, 0] {
            Ejector::success(&all[0], &policy, &clock);
            assert_eq!(all[0].ejections.load(Relaxed), left);
            clock.advance(policy.base_ejection);
        }
    }

    #[test]
    fn never_more_than_the_policy_allows_and_never_the_last() {
        for (total, expected) in [(1, 0), (2, 1), (3, 1), (4, 2), (10, 5)] {
            let (clock, all, ejector) = (Clock::manual(), endpoints(total), Ejector::default());
            let out = (0..usize::from(total)).filter(|i| fail(&ejector, *i, &all, &clock).is_some()).count();
            assert_eq!(out, expected, "of {total}");
        }
        assert!(!may_eject(0, 4, 0), "0 % switches it off");
        assert!(may_eject(2, 4, 100));
        assert!(!may_eject(3, 4, 100), "never all");
    }

    #[test]
    fn a_threshold_of_zero_never_ejects() {
        let (clock, all, ejector) = (Clock::manual(), endpoints(3), Ejector::default());
        let policy = OutlierDetection { consecutive_failures: 0, ..OutlierDetection::default() };
        assert!((0..100).all(|_| ejector.failure(&all[0], &all, &policy, &clock).is_none()));
    }
}
