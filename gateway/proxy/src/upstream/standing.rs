//! What operators see of a backend's endpoints: the status page's table. Not for the request path.

use super::endpoint::EndpointState;
use super::runtime::BackendRuntime;
use foldhash::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// How one endpoint stands with the balancer at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointStanding {
    pub address: SocketAddr,
    pub state: EndpointCondition,
    /// Requests that were given to it and are not over.
    pub in_flight: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointCondition {
    /// Takes requests.
    Ready,
    /// Meant for other zones or nodes: takes requests where those that are meant for here fail.
    Farther,
    /// Out for a while, after failures in a row.
    Ejected,
    /// Out, as its active checks fail.
    Unhealthy,
    /// Its EndpointSlice says that it takes no new requests.
    NotReady,
}

impl EndpointCondition {
    /// In words.
    pub const fn as_str(self) -> &'static str {
        match self {
            EndpointCondition::Ready => "ready",
            EndpointCondition::Farther => "ready, meant for others",
            EndpointCondition::Ejected => "ejected",
            EndpointCondition::Unhealthy => "failing its health checks",
            EndpointCondition::NotReady => "not ready",
        }
    }
}

impl BackendRuntime {
    /// All endpoints that this process knows of the backend, those that take no requests too.
    pub fn endpoints(&self) -> Vec<EndpointStanding> {
        let Some(candidates) = &self.candidates else {
            // Addresses that a name resolves to have no EndpointSlice that could say otherwise.
            let current = self.state.current.load();
            return current.endpoints().iter().map(|endpoint| self.standing(endpoint, true, true)).collect();
        };
        let near: HashSet<SocketAddr> = candidates.endpoints().iter().map(|endpoint| endpoint.address).collect();
        let standing = |endpoint: &Arc<EndpointState>| {
            self.standing(endpoint, endpoint.ready.load(Relaxed), near.contains(&endpoint.address))
        };
        self.members.iter().map(standing).collect()
    }

    fn standing(&self, endpoint: &Arc<EndpointState>, ready: bool, near: bool) -> EndpointStanding {
        let state = if !ready {
            EndpointCondition::NotReady
        } else if endpoint.ejected(&self.state.clock) {
            EndpointCondition::Ejected
        } else if self.state.backend.policy.health_check.is_some() && !endpoint.healthy() {
            EndpointCondition::Unhealthy
        } else if !near {
            EndpointCondition::Farther
        } else {
            EndpointCondition::Ready
        };
        EndpointStanding { address: endpoint.target(), state, in_flight: endpoint.in_flight() }
    }
}
