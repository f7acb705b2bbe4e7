//! What is known of one endpoint of one Service: requests in flight, failures, ejection, health, warm-up.
//!
//! All fields are atomics with relaxed order: each stands alone, and a pick that sees a change a moment later is as
//! good as one that came a moment earlier.

use super::clock::{Clock, millis};
use sluice_model::config::{EndpointId, HealthCheck, Transport};
use sluice_model::object::NamespacedName;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Identity of an endpoint's state over snapshots and over changes of policy. What one check finds is nothing to another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct EndpointKey {
    pub(super) service: NamespacedName,
    pub(super) uid: Arc<str>,
    pub(super) port: u16,
    /// One number may be a port of TCP and another of UDP.
    pub(super) transport: Transport,
    pub(super) id: EndpointId,
    pub(super) alternate: Option<SocketAddr>,
    pub(super) check: Option<HealthCheck>,
}

/// The least share of its full load that a warming endpoint gets: with less it would hardly be tried at all.
const LEAST_WARMTH: f32 = 0.1;

#[derive(Debug)]
pub(super) struct EndpointState {
    /// What it is known by; where it is connected to is [`EndpointState::target`].
    pub(super) address: SocketAddr,
    /// The same pod in the other address family.
    alternate: Option<SocketAddr>,
    /// Whether connections go to `alternate`.
    turned: AtomicBool,
    /// What stands for it in clients' sessions.
    pub(super) tag: u64,
    /// Requests that were given to this endpoint and are not over.
    in_flight: AtomicU32,
    /// Passive failures in a row.
    pub(super) failures: AtomicU32,
    /// Ejections so far, less those that good conduct has worked off: the factor of the next one's length.
    pub(super) ejections: AtomicU32,
    /// Clock time; 0: never ejected.
    pub(super) ejected_until: AtomicU64,
    /// Clock time from which one ejection is forgiven.
    pub(super) calm_until: AtomicU64,
    /// Set by the active checks.
    unhealthy: AtomicBool,
    /// Clock time at which the endpoint (again) began to take requests; 0: it is not warmed up.
    warm_since: AtomicU64,
    /// Whether the last endpoint set allowed new requests: a change to yes starts the warm-up.
    pub(super) ready: AtomicBool,
}

impl EndpointState {
    pub(super) fn new(address: SocketAddr, tag: u64) -> Self {
        EndpointState {
            address,
            alternate: None,
            turned: AtomicBool::new(false),
            tag,
            in_flight: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            calm_until: AtomicU64::new(0),
            unhealthy: AtomicBool::new(false),
            warm_since: AtomicU64::new(0),
            ready: AtomicBool::new(false),
        }
    }

    pub(super) fn with_alternate(self, alternate: Option<SocketAddr>) -> Self {
        EndpointState { alternate, ..self }
    }

    /// Where to connect to.
    pub(super) fn target(&self) -> SocketAddr {
        match self.alternate {
            Some(alternate) if self.turned.load(Relaxed) => alternate,
            _ => self.address,
        }
    }

    pub(super) fn is_at(&self, address: SocketAddr) -> bool {
        self.address == address || self.alternate == Some(address)
    }

    /// No connection to `from` could be made: from now on they go to the pod's other address, if it has one, until that
    /// fails as well. Whoever failed at an address that was left already changes nothing.
    pub(super) fn turn_from(&self, from: SocketAddr) {
        let Some(alternate) = self.alternate else { return };
        let to_alternate = from == self.address;
        if to_alternate || from == alternate {
            self.turned.store(to_alternate, Relaxed);
        }
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    pub(super) fn ejected(&self, clock: &Clock) -> bool {
        let until = self.ejected_until.load(Relaxed);
        // The clock is read only for endpoints that were ejected once.
        until != 0 && clock.now() < until
    }

    /// Neither ejected nor, where the backend has active checks, found unhealthy.
    pub(super) fn available(&self, checked: bool, clock: &Clock) -> bool {
        (!checked || self.healthy()) && !self.ejected(clock)
    }

    pub(super) fn healthy(&self) -> bool {
        !self.unhealthy.load(Relaxed)
    }

    pub(super) fn set_healthy(&self, healthy: bool, clock: &Clock) {
        if self.unhealthy.swap(!healthy, Relaxed) && healthy {
            self.start_warming(clock.now());
        }
    }

    /// Begins the slow start at `from`, which may lie ahead (the end of an ejection).
    pub(super) fn start_warming(&self, from: u64) {
        self.warm_since.store(from, Relaxed);
    }

    /// The share of its full load that this endpoint takes now, 0.1 to 1.
    pub(super) fn warmth(&self, window: Option<Duration>, clock: &Clock) -> f32 {
        let Some(window) = window else { return 1.0 };
        let since = self.warm_since.load(Relaxed);
        if since == 0 {
            return 1.0;
        }
        let window = millis(window).max(1);
        let elapsed = clock.now().saturating_sub(since);
        if elapsed >= window {
            // Only if nothing restarted the warm-up meanwhile.
            let _ = self.warm_since.compare_exchange(since, 0, Relaxed, Relaxed);
            return 1.0;
        }
        // Both fit f32's exactness well enough for a share.
        (elapsed as f32 / window as f32).max(LEAST_WARMTH)
    }
}

/// One request's place at an endpoint; dropping it gives the place back.
#[derive(Debug)]
pub(super) struct InFlight(Arc<EndpointState>);

impl InFlight {
    pub(super) fn new(endpoint: Arc<EndpointState>) -> Self {
        endpoint.in_flight.fetch_add(1, Relaxed);
        InFlight(endpoint)
    }

    pub(super) fn endpoint(&self) -> &Arc<EndpointState> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> EndpointState {
        EndpointState::new(([192, 0, 2, 1], 80).into(), 1)
    }

    #[test]
    fn a_warming_endpoint_takes_a_share_that_grows_to_its_full_one() {
        let clock = Clock::manual();
        let window = Some(Duration::from_secs(10));
        let endpoint = endpoint();
        assert_eq!(endpoint.warmth(window, &clock), 1.0, "an endpoint that was there from the start is warm");
        endpoint.start_warming(clock.now());
        assert_eq!(endpoint.warmth(window, &clock), LEAST_WARMTH);
        clock.advance(Duration::from_secs(5));
        assert_eq!(endpoint.warmth(window, &clock), 0.5);
        clock.advance(Duration::from_secs(5));
        assert_eq!(endpoint.warmth(window, &clock), 1.0);
        assert_eq!(endpoint.warmth(None, &clock), 1.0);
    }

    #[test]
    fn an_endpoint_that_recovers_warms_up_again() {
        let clock = Clock::manual();
        let window = Some(Duration::from_secs(10));
        let endpoint = endpoint();
        endpoint.set_healthy(false, &clock);
        assert!(!endpoint.available(true, &clock));
        assert!(endpoint.available(false, &clock), "a policy without checks does not look at them");
        endpoint.set_healthy(true, &clock);
        assert_eq!(endpoint.warmth(window, &clock), LEAST_WARMTH);
    }

    #[test]
    fn connections_go_to_the_other_family_while_the_first_cannot_be_reached() {
        let (v4, v6): (SocketAddr, SocketAddr) = (([192, 0, 2, 1], 80).into(), "[2001:db8::1]:80".parse().unwrap());
        let alone = endpoint();
        alone.turn_from(v4);
        assert_eq!(alone.target(), v4);
        let both = endpoint().with_alternate(Some(v6));
        assert!(both.is_at(v4) && both.is_at(v6));
        assert_eq!(both.target(), v4);
        // Requests that failed at the same address at the same time turn it once.
        both.turn_from(v4);
        both.turn_from(v4);
        assert_eq!(both.target(), v6);
        both.turn_from(v6);
        assert_eq!(both.target(), v4);
    }

    #[test]
    fn the_in_flight_count_ends_with_its_guard() {
        let endpoint = Arc::new(endpoint());
        let (a, b) = (InFlight::new(endpoint.clone()), InFlight::new(endpoint.clone()));
        assert_eq!(endpoint.in_flight(), 2);
        drop(a);
        drop(b);
        assert_eq!(endpoint.in_flight(), 0);
    }
}
