//! What a backend carries now, against its circuit breaker. The gauges that count are the ones that are scraped.

use super::clock::Clock;
use super::metrics::BackendMetrics;
use super::window::Window;
use prometheus_client::metrics::gauge::Gauge;
use sluice_model::config::{CircuitBreaker, RetryConstraint};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Retries that a backend always allows at once, however few its requests in flight: without them a quiet backend could
/// not retry at all.
const LEAST_RETRIES: u32 = 10;

/// Requests and connections of one backend, over all its endpoints and all versions of its policy.
#[derive(Debug)]
pub(super) struct Load {
    requests: Gauge,
    pending: Gauge,
    connections: Gauge,
    retries: AtomicU32,
    rates: Rates,
}

/// What a [`RetryConstraint`] looks at.
#[derive(Debug, Default)]
struct Rates {
    /// Tries, first ones and others. Counted only where there is a constraint.
    tries: Window,
    /// Retries within the budget's interval, and within that of the least rate.
    retries: Window,
    least: Window,
}

impl Load {
    pub(super) fn new(requests: Gauge, pending: Gauge, connections: Gauge) -> Self {
        Load { requests, pending, connections, retries: AtomicU32::new(0), rates: Rates::default() }
    }

    /// A try of a request goes to the backend.
    pub(super) fn tried(&self, constraint: &RetryConstraint, clock: &Clock) {
        self.rates.tries.add(clock.now(), constraint.interval);
    }

    #[cfg(test)]
    pub(super) fn counts(&self) -> (i64, i64, i64) {
        (self.requests.get(), self.pending.get(), self.connections.get())
    }
}

/// Which limit of the circuit breaker was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overflow {
    Requests,
    Pending,
    Connections,
}

/// A request's place in its backend: first among those that wait for a connection, then among those that have one.
#[derive(Debug)]
pub(super) struct RequestGuard {
    metrics: Arc<BackendMetrics>,
    pending: bool,
}

impl RequestGuard {
    pub(super) fn acquire(metrics: &Arc<BackendMetrics>, limits: &CircuitBreaker) -> Result<Self, Overflow> {
        let load = &metrics.load;
        // Counted first, refused after: two requests cannot both take the last place.
        if load.requests.inc() >= i64::from(limits.max_requests) {
            load.requests.dec();
            metrics.overflow_requests.inc();
            return Err(Overflow::Requests);
        }
        if load.pending.inc() >= i64::from(limits.max_pending) {
            load.pending.dec();
            load.requests.dec();
            metrics.overflow_pending.inc();
            return Err(Overflow::Pending);
        }
        Ok(RequestGuard { metrics: metrics.clone(), pending: true })
    }

    /// The request has its connection.
    pub(super) fn connected(&mut self) {
        if std::mem::take(&mut self.pending) {
            self.metrics.load.pending.dec();
        }
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.connected();
        self.metrics.load.requests.dec();
    }
}

/// An open connection's place in its backend.
#[derive(Debug)]
pub(super) struct ConnectionGuard(Arc<BackendMetrics>);

impl ConnectionGuard {
    /// Refuses where the backend already has its share of connections that carry a request. Those can't be more than
    /// the open ones, nor than the other requests in flight: for HTTP/1 the lesser of the two is exact, and for HTTP/2
    /// it errs to the careful side. Idle connections to other endpoints thus never block a new one.
    pub(super) fn acquire(metrics: &Arc<BackendMetrics>, limits: &CircuitBreaker) -> Result<Self, Overflow> {
        let load = &metrics.load;
        let open = load.connections.inc();
        // Less the request that this connection is for.
        let others = load.requests.get().saturating_sub(1).max(0);
        if open.min(others) >= i64::from(limits.max_connections) {
            load.connections.dec();
            metrics.overflow_connections.inc();
            metrics.connect_overflow.inc();
            return Err(Overflow::Connections);
        }
        Ok(ConnectionGuard(metrics.clone()))
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.load.connections.dec();
    }
}

/// One retry's place in its backend's budget. Hold it until that try is over.
#[derive(Debug)]
#[must_use = "dropping the permit gives its place to another retry"]
pub struct RetryPermit(Arc<BackendMetrics>);

impl RetryPermit {
    /// A place by the backend's own constraint, whatever rule the request is of.
    pub(super) fn within(metrics: &Arc<BackendMetrics>, constraint: &RetryConstraint, clock: &Clock) -> Option<Self> {
        let (rates, now) = (&metrics.load.rates, clock.now());
        let (interval, least_interval) = (constraint.interval, constraint.least_interval);
        // Counted first, refused after: two retries cannot both take the last place.
        rates.retries.add(now, interval);
        rates.least.add(now, least_interval);
        let share = rates.tries.sum(now, interval) * u64::from(constraint.percent) / 100;
        let within = rates.retries.sum(now, interval) <= share
            || rates.least.sum(now, least_interval) <= u64::from(constraint.least);
        if !within {
            rates.retries.take_back(now, interval);
            rates.least.take_back(now, least_interval);
            metrics.overflow_retries.inc();
            return None;
        }
        metrics.load.retries.fetch_add(1, Relaxed);
        metrics.retries.inc();
        Some(RetryPermit(metrics.clone()))
    }

    pub(super) fn acquire(metrics: &Arc<BackendMetrics>, budget_percent: u8) -> Option<Self> {
        let in_flight = u32::try_from(metrics.load.requests.get()).unwrap_or(0);
        let share = u64::from(in_flight) * u64::from(budget_percent) / 100;
        let allowed = u32::try_from(share).unwrap_or(u32::MAX).max(LEAST_RETRIES);
        if metrics.load.retries.fetch_add(1, Relaxed) >= allowed {
            metrics.load.retries.fetch_sub(1, Relaxed);
            metrics.overflow_retries.inc();
            return None;
        }
        metrics.retries.inc();
        Some(RetryPermit(metrics.clone()))
    }
}

impl Drop for RetryPermit {
    fn drop(&mut self) {
        self.0.load.retries.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::metrics::UpstreamMetrics;
    use super::*;
    use std::time::Duration;

    fn metrics() -> Arc<BackendMetrics> {
        UpstreamMetrics::default().backend("shop/web:80".into())
    }

    fn limits(max_connections: u32, max_pending: u32, max_requests: u32) -> CircuitBreaker {
        CircuitBreaker { max_connections, max_pending, max_requests }
    }

    #[test]
    fn requests_above_the_limit_are_refused_until_one_ends() {
        let metrics = metrics();
        let limits = limits(10, 10, 2);
        let first = RequestGuard::acquire(&metrics, &limits).unwrap();
        let _second = RequestGuard::acquire(&metrics, &limits).unwrap();
        assert_eq!(RequestGuard::acquire(&metrics, &limits).unwrap_err(), Overflow::Requests);
        drop(first);
        assert!(RequestGuard::acquire(&metrics, &limits).is_ok());
    }

    #[test]
    fn waiting_requests_have_a_limit_of_their_own() {
        let metrics = metrics();
        let limits = limits(10, 1, 10);
        let mut first = RequestGuard::acquire(&metrics, &limits).unwrap();
        assert_eq!(RequestGuard::acquire(&metrics, &limits).unwrap_err(), Overflow::Pending);
        first.connected();
        first.connected();
        let second = RequestGuard::acquire(&metrics, &limits).unwrap();
        assert_eq!(metrics.load.counts(), (2, 1, 0));
        drop((first, second));
        assert_eq!(metrics.load.counts(), (0, 0, 0));
    }

    #[test]
    fn idle_connections_do_not_count_against_the_limit() {
        let metrics = metrics();
        let limits = limits(1, 10, 10);
        let idle = ConnectionGuard::acquire(&metrics, &limits).unwrap();
        let another = ConnectionGuard::acquire(&metrics, &limits).unwrap();
        let mut busy = RequestGuard::acquire(&metrics, &limits).unwrap();
        busy.connected();
        let wanting = RequestGuard::acquire(&metrics, &limits).unwrap();
        assert_eq!(ConnectionGuard::acquire(&metrics, &limits).unwrap_err(), Overflow::Connections);
        drop((idle, another, busy, wanting));
        assert_eq!(metrics.load.counts(), (0, 0, 0));
    }

    #[test]
    fn retries_are_a_share_of_the_requests_in_flight_and_always_ten() {
        let metrics = metrics();
        let limits = limits(1000, 1000, 1000);
        let permits: Vec<_> = std::iter::from_fn(|| RetryPermit::acquire(&metrics, 20)).take(100).collect();
        assert_eq!(permits.len(), 10);
        let _requests: Vec<_> = (0..100).map(|_| RequestGuard::acquire(&metrics, &limits).unwrap()).collect();
        let more: Vec<_> = std::iter::from_fn(|| RetryPermit::acquire(&metrics, 20)).take(100).collect();
        assert_eq!(permits.len() + more.len(), 20);
        drop((permits, more));
        assert_eq!(metrics.load.retries.load(Relaxed), 0);
    }

    #[test]
    fn a_constraint_allows_a_share_of_the_tries_in_its_interval_and_always_a_few() {
        let (metrics, clock) = (metrics(), Clock::manual());
        let constraint = RetryConstraint { percent: 20, least: 3, ..RetryConstraint::default() };
        let retries = |most: usize| {
            let permits = std::iter::from_fn(|| {
                let permit = RetryPermit::within(&metrics, &constraint, &clock)?;
                metrics.load.tried(&constraint, &clock);
                Some(permit)
            });
            permits.take(most).count()
        };
        assert_eq!(retries(100), 3, "what is always allowed, in a second");
        clock.advance(Duration::from_secs(1));
        assert_eq!(retries(100), 3, "and in the next");
        clock.advance(Duration::from_secs(20));
        (0..80).for_each(|_| metrics.load.tried(&constraint, &clock));
        // Of 80 + 20 tries in all 20 are retries; the last is within the share by the tries before it.
        let allowed = retries(100);
        assert!((19..=20).contains(&allowed), "{allowed}");
        clock.advance(Duration::from_secs(5));
        assert_eq!(retries(100), 3, "the same tries allow no more of them");
        clock.advance(Duration::from_secs(60));
        assert_eq!(retries(100), 3, "what is long ago counts no more");
        assert_eq!(metrics.load.retries.load(Relaxed), 0, "permits are given back all the same");
    }

    #[test]
    fn a_constraint_of_nothing_allows_what_is_always_allowed_and_no_more() {
        let (metrics, clock) = (metrics(), Clock::manual());
        let constraint = RetryConstraint { percent: 0, least: 1, ..RetryConstraint::default() };
        (0..1000).for_each(|_| metrics.load.tried(&constraint, &clock));
        assert!(RetryPermit::within(&metrics, &constraint, &clock).is_some());
        assert!(RetryPermit::within(&metrics, &constraint, &clock).is_none());
        clock.advance(constraint.least_interval);
        assert!(RetryPermit::within(&metrics, &constraint, &clock).is_some());
    }
}
