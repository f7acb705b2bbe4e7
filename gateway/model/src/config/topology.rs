//! Which endpoints of a set take requests: by their conditions, and by where they and the gateway are. What kube-proxy
//! does with the same EndpointSlices (KEP-1669, KEP-2433, KEP-3015).

use super::{Endpoint, EndpointSet};
use serde::Serialize;
use std::sync::Arc;

/// Where this gateway runs, as far as it knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Locality {
    pub node: Option<Arc<str>>,
    pub zone: Option<Arc<str>>,
}

/// Whom the hints of a set mean for a gateway at one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Near<'l> {
    /// Hints say nothing here.
    All,
    Node(&'l str),
    Zone(&'l str),
}

/// How requests are spread over one set of endpoints.
#[derive(Clone, Copy, Debug)]
pub struct Takers<'l> {
    any_ready: bool,
    near: Near<'l>,
}

impl EndpointSet {
    /// Hints count only where every endpoint that is ready has some, and one of them means this place; those for nodes go
    /// before those for zones. While nobody is ready they say nothing.
    pub fn takers<'l>(&self, locality: &'l Locality) -> Takers<'l> {
        let ready = || self.endpoints.iter().filter(|endpoint| is_ready(endpoint));
        let means = |hints: fn(&Endpoint) -> &[Arc<str>], here: &Option<Arc<str>>| {
            here.as_ref().is_some_and(|here| {
                ready().all(|endpoint| !hints(endpoint).is_empty())
                    && ready().any(|endpoint| hints(endpoint).contains(here))
            })
        };
        let near = match locality {
            Locality { node: Some(node), .. } if means(|e| &e.for_nodes, &locality.node) => Near::Node(node),
            Locality { zone: Some(zone), .. } if means(|e| &e.for_zones, &locality.zone) => Near::Zone(zone),
            _ => Near::All,
        };
        Takers { any_ready: ready().next().is_some(), near }
    }
}

impl Takers<'_> {
    /// Whether an endpoint may take new requests: the ready ones do; where there is none, those that still serve on their
    /// way out.
    pub fn may_take(&self, endpoint: &Endpoint) -> bool {
        if self.any_ready { is_ready(endpoint) } else { endpoint.serving && endpoint.terminating }
    }

    /// Whether it is one of those that requests from here are meant for.
    pub fn prefers(&self, endpoint: &Endpoint) -> bool {
        let hinted = |hints: &[Arc<str>], here: &str| hints.iter().any(|hint| **hint == *here);
        self.may_take(endpoint)
            && match self.near {
                Near::All => true,
                Near::Node(node) => hinted(&endpoint.for_nodes, node),
                Near::Zone(zone) => hinted(&endpoint.for_zones, zone),
            }
    }
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.ready && !endpoint.terminating
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EndpointId;

    fn endpoint(last: u8, zones: &[&str], nodes: &[&str]) -> Endpoint {
        let names = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
        Endpoint {
            id: EndpointId { target: "".into(), address: [10, 0, 0, last].into(), port: 80 },
            alternate: None,
            ready: true,
            serving: true,
            terminating: false,
            zone: None,
            for_zones: names(zones),
            for_nodes: names(nodes),
            node: None,
        }
    }

    fn here(node: &str, zone: &str) -> Locality {
        let known = |name: &str| (!name.is_empty()).then(|| Arc::from(name));
        Locality { node: known(node), zone: known(zone) }
    }

    /// The last numbers of those that are preferred, and of those that may take requests.
    fn chosen(endpoints: &[Endpoint], locality: &Locality) -> (Vec<u8>, Vec<u8>) {
        let set = EndpointSet { endpoints: endpoints.to_vec() };
        let takers = set.takers(locality);
        let last = |endpoint: &Endpoint| match endpoint.id.address {
            std::net::IpAddr::V4(address) => address.octets()[3],
            std::net::IpAddr::V6(_) => 0,
        };
        let of = |fits: &dyn Fn(&Endpoint) -> bool| endpoints.iter().filter(|e| fits(e)).map(last).collect();
        (of(&|e| takers.prefers(e)), of(&|e| takers.may_take(e)))
    }

    #[test]
    fn endpoints_that_are_meant_for_the_zone_are_preferred() {
        let set = [endpoint(1, &["a"], &[]), endpoint(2, &["b"], &[]), endpoint(3, &["a", "b"], &[])];
        assert_eq!(chosen(&set, &here("n1", "a")), (vec![1, 3], vec![1, 2, 3]));
        assert_eq!(chosen(&set, &here("n1", "b")), (vec![2, 3], vec![1, 2, 3]));
    }

    #[test]
    fn hints_for_nodes_go_before_hints_for_zones() {
        let set = [endpoint(1, &["a"], &["n1"]), endpoint(2, &["a"], &["n2"]), endpoint(3, &["b"], &["n3"])];
        assert_eq!(chosen(&set, &here("n1", "a")).0, [1]);
        // Nobody is meant for this node: the zone's.
        assert_eq!(chosen(&set, &here("n9", "a")).0, [1, 2]);
        assert_eq!(chosen(&set, &here("", "b")).0, [3]);
    }

    #[test]
    fn hints_say_nothing_unless_all_who_are_ready_have_some_and_one_means_this_place() {
        let all = vec![1, 2];
        for (set, locality) in [
            ([endpoint(1, &["a"], &[]), endpoint(2, &[], &[])], here("n1", "a")),
            ([endpoint(1, &["a"], &[]), endpoint(2, &["b"], &[])], here("n1", "c")),
            ([endpoint(1, &["a"], &[]), endpoint(2, &["b"], &[])], here("n1", "")),
            ([endpoint(1, &[], &["n1"]), endpoint(2, &[], &[])], here("n1", "a")),
        ] {
            assert_eq!(chosen(&set, &locality), (all.clone(), all.clone()), "{set:?}");
        }
        // What is not ready need not have any, and does not make a zone one with endpoints.
        let unready = |mut endpoint: Endpoint| {
            endpoint.ready = false;
            endpoint
        };
        let set = [endpoint(1, &["a"], &[]), endpoint(2, &["b"], &[]), unready(endpoint(3, &[], &[]))];
        assert_eq!(chosen(&set, &here("", "a")).0, [1]);
        let set = [endpoint(1, &["a"], &[]), endpoint(2, &["a"], &[]), unready(endpoint(3, &["b"], &[]))];
        assert_eq!(chosen(&set, &here("", "b")).0, all);
    }

    #[test]
    fn while_nobody_is_ready_those_that_serve_on_their_way_out_are_used_wherever_they_are() {
        let ending = |last, zone| Endpoint { ready: false, terminating: true, ..endpoint(last, &[zone], &[]) };
        let gone = Endpoint { serving: false, ..ending(3, "a") };
        let set = [ending(1, "a"), ending(2, "b"), gone];
        assert_eq!(chosen(&set, &here("", "a")), (vec![1, 2], vec![1, 2]));
    }
}
