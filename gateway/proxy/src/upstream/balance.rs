//! Which endpoint takes a request.
//!
//! The set of candidates is settled when endpoints change: those that are ready and not terminating; where there is
//! none, those that still serve while they terminate (as kube-proxy does). Of these, requests go to the ones that topology
//! hints mean for here, and beyond them only where those are out. What changes by the millisecond (ejection, health,
//! warm-up, load) is read from the candidates' state at each pick.

use super::clock::Clock;
use super::endpoint::EndpointState;
use super::maglev::{self, Maglev};
use super::metrics::BackendMetrics;
use crate::cookie;
use http::HeaderMap;
use sluice_model::Reason;
use sluice_model::config::{BackendPolicy, HashKey, LoadBalancer};
use smallvec::SmallVec;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Where fewer of the candidates than this are available, all of them are used: the few would only break as well, and
/// it is likelier that the check is wrong. Percent, as Envoy has it.
const PANIC_PERCENT: usize = 50;

/// Endpoints that this request was already given to.
pub type Tried = SmallVec<[SocketAddr; 4]>;

/// What a pick may look at.
#[derive(Clone, Copy, Debug)]
pub struct PickRequest<'a> {
    /// The request's header fields, for consistent hashing.
    pub headers: &'a HeaderMap,
    /// The client's address, as trusted proxies tell it.
    pub client: IpAddr,
    /// Passed over where another endpoint is left.
    pub tried: &'a [SocketAddr],
}

/// Why a backend gives no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PickError {
    #[error("no endpoint may take requests")]
    NoEndpoints,
    #[error("the circuit breaker is open")]
    Overflow,
    #[error("the backend's TLS policy cannot be used")]
    Tls,
}

impl PickError {
    pub fn reason(self) -> Reason {
        match self {
            PickError::NoEndpoints => Reason::NoEndpoints,
            PickError::Overflow => Reason::UpstreamOverflow,
            PickError::Tls => Reason::UpstreamTlsFailed,
        }
    }
}

/// The candidates of one endpoint set. Immutable.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    endpoints: Box<[Arc<EndpointState>]>,
    /// Only for [`LoadBalancer::ConsistentHash`].
    table: Option<Maglev>,
    /// Tags with the places of their endpoints, in order: what clients' sessions are found by.
    by_tag: Box<[(u64, u32)]>,
    /// Where these are only the near ones: all of them.
    all: Option<All>,
}

/// What is beyond the near ones.
#[derive(Debug)]
struct All {
    candidates: Arc<Candidates>,
    /// Turns of their own. Only some requests come here: by the turns of the near ones they would skip some endpoints.
    cursor: AtomicUsize,
}

impl Candidates {
    pub(super) fn new(endpoints: Vec<Arc<EndpointState>>, policy: &LoadBalancer) -> Self {
        let table = match policy {
            LoadBalancer::ConsistentHash(_) => Maglev::new(&endpoints.iter().map(|e| e.address).collect::<Vec<_>>()),
            LoadBalancer::RoundRobin | LoadBalancer::LeastRequest => None,
        };
        let mut by_tag: Box<[(u64, u32)]> = (0u32..).zip(&endpoints).map(|(at, e)| (e.tag, at)).collect();
        by_tag.sort_unstable();
        Candidates { endpoints: endpoints.into(), table, by_tag, all: None }
    }

    /// Those that requests from here are meant for, of `all`.
    pub(super) fn near(endpoints: Vec<Arc<EndpointState>>, all: Arc<Candidates>, policy: &LoadBalancer) -> Self {
        let all = All { candidates: all, cursor: AtomicUsize::new(fastrand::usize(..1 << 16)) };
        Candidates { all: Some(all), ..Candidates::new(endpoints, policy) }
    }

    /// Those that requests go to; beyond them, see [`Candidates::widest`].
    pub(super) fn endpoints(&self) -> &[Arc<EndpointState>] {
        &self.endpoints
    }

    /// All that may take requests, near or not.
    pub(super) fn widest(&self) -> &Candidates {
        self.all.as_ref().map_or(self, |all| &all.candidates)
    }

    pub(super) fn pick<'a>(
        &'a self,
        request: &'a PickRequest<'a>,
        policy: &'a BackendPolicy,
        cursor: &AtomicUsize,
        clock: &'a Clock,
        metrics: &'a BackendMetrics,
    ) -> Option<&'a Arc<EndpointState>> {
        let pick = Picking { candidates: self, request, policy, clock, metrics };
        let drawn = match self.endpoints.len() {
            0 => None,
            1 => self.endpoints.first(),
            count => match (&policy.load_balancer, &self.table) {
                (LoadBalancer::ConsistentHash(key), Some(table)) => match hash_key(key, request) {
                    Some(hash) => pick.consistent(table, hash),
                    // A request without the key goes anywhere.
                    None => pick.round_robin(cursor, count),
                },
                (LoadBalancer::LeastRequest, _) => pick.least_request(count),
                (LoadBalancer::RoundRobin | LoadBalancer::ConsistentHash(_), _) => pick.round_robin(cursor, count),
            },
        };
        match &self.all {
            // None near is left, or so few that a share of the requests is better off elsewhere.
            Some(all) if drawn.is_none_or(|endpoint| !pick.usable(endpoint)) => {
                all.candidates.pick(request, policy, &all.cursor, clock, metrics)
            }
            _ => drawn,
        }
    }

    /// The endpoint of a session, near or not, unless it must not take this request.
    pub(super) fn resume<'a>(
        &'a self,
        tag: u64,
        request: &'a PickRequest<'a>,
        policy: &'a BackendPolicy,
        clock: &'a Clock,
        metrics: &'a BackendMetrics,
    ) -> Option<&'a Arc<EndpointState>> {
        let all = self.widest();
        let at = all.by_tag.binary_search_by_key(&tag, |(tag, _)| *tag).ok()?;
        let (_, index) = all.by_tag.get(at)?;
        let endpoint = all.endpoints.get(*index as usize)?;
        let pick = Picking { candidates: all, request, policy, clock, metrics };
        // Where most of them seem broken, everybody stays where they are.
        let stays = pick.usable(endpoint) || (!pick.tried(endpoint) && pick.panicking());
        stays.then_some(endpoint)
    }
}

struct Picking<'a> {
    candidates: &'a Candidates,
    request: &'a PickRequest<'a>,
    policy: &'a BackendPolicy,
    clock: &'a Clock,
    metrics: &'a BackendMetrics,
}

impl<'a> Picking<'a> {
    fn round_robin(&self, cursor: &AtomicUsize, count: usize) -> Option<&'a Arc<EndpointState>> {
        // A warming endpoint passes some of its turns on. After one round somebody must take it.
        for _ in 0..count {
            let turn = cursor.fetch_add(1, Relaxed);
            let endpoint = self.candidates.endpoints.get(turn % count)?;
            if !self.usable(endpoint) {
                return self.among_usable(turn);
            }
            let warmth = endpoint.warmth(self.policy.slow_start, self.clock);
            if warmth >= 1.0 || fastrand::f32() < warmth {
                return Some(endpoint);
            }
        }
        self.among_usable(cursor.load(Relaxed))
    }

    /// Two different ones by chance, the less busy of them.
    fn least_request(&self, count: usize) -> Option<&'a Arc<EndpointState>> {
        let first = fastrand::usize(..count);
        let second = (first + 1 + fastrand::usize(..count - 1)) % count;
        let (first, second) = (self.candidates.endpoints.get(first)?, self.candidates.endpoints.get(second)?);
        match (self.usable(first), self.usable(second)) {
            (true, true) => Some(if self.burden(second) < self.burden(first) { second } else { first }),
            (true, false) => Some(first),
            (false, true) => Some(second),
            (false, false) => self.among_usable(fastrand::usize(..count)),
        }
    }

    /// Load against what the endpoint is fit for now.
    fn burden(&self, endpoint: &EndpointState) -> f32 {
        (endpoint.in_flight() as f32 + 1.0) / endpoint.warmth(self.policy.slow_start, self.clock)
    }

    fn consistent(&self, table: &'a Maglev, hash: u64) -> Option<&'a Arc<EndpointState>> {
        let mut owners = table.owners(hash).filter_map(|i| self.candidates.endpoints.get(i));
        let owner = owners.next()?;
        if self.usable(owner) {
            return Some(owner);
        }
        if self.panicking() {
            // Everybody stays where they are.
            return Some(if self.tried(owner) { owners.find(|e| !self.tried(e)).unwrap_or(owner) } else { owner });
        }
        Some(owners.find(|e| self.usable(e)).unwrap_or(owner))
    }

    fn tried(&self, endpoint: &EndpointState) -> bool {
        self.request.tried.contains(&endpoint.target())
    }

    fn available(&self, endpoint: &EndpointState) -> bool {
        endpoint.available(self.policy.health_check.is_some(), self.clock)
    }

    fn usable(&self, endpoint: &EndpointState) -> bool {
        self.available(endpoint) && !self.tried(endpoint)
    }

    /// Whether health is to be ignored. Looks at all candidates: only asked when one was drawn that can't be used.
    fn panicking(&self) -> bool {
        let all = &self.candidates.endpoints;
        let available = all.iter().filter(|e| self.available(e)).count();
        let panicking = available * 100 < all.len() * PANIC_PERCENT;
        // With others to turn to, nobody is sent to an endpoint that is out.
        if panicking && self.candidates.all.is_none() {
            self.metrics.panics.inc();
        }
        panicking
    }

    /// The `turn`th of those that can be used: untried and available, else untried, else available, else any.
    fn among_usable(&self, turn: usize) -> Option<&'a Arc<EndpointState>> {
        let all = &self.candidates.endpoints;
        let nth = |fits: &dyn Fn(&EndpointState) -> bool| {
            let count = all.iter().filter(|e| fits(e)).count();
            if count == 0 { None } else { all.iter().filter(|e| fits(e)).nth(turn % count) }
        };
        let panicking = self.panicking();
        let healthy = |e: &EndpointState| panicking || self.available(e);
        nth(&|e| healthy(e) && !self.tried(e))
            .or_else(|| nth(&|e| !self.tried(e)))
            .or_else(|| nth(&healthy))
            .or_else(|| nth(&|_| true))
    }
}

/// Hash of the part of the request that the policy names; `None` where it has none.
fn hash_key(key: &HashKey, request: &PickRequest<'_>) -> Option<u64> {
    match key {
        HashKey::Header(name) => request.headers.get(name).map(|value| maglev::hash(value.as_bytes())),
        HashKey::Cookie(name) => cookie::values(request.headers, name.as_bytes()).next().map(maglev::hash),
        HashKey::Source => Some(match request.client.to_canonical() {
            IpAddr::V4(address) => maglev::hash(&address.octets()),
            IpAddr::V6(address) => maglev::hash(&address.octets()),
        }),
    }
}

#[cfg(test)]
mod tests;
