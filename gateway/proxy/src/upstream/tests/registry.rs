//! Identity over snapshots.

use super::support::*;
use crate::upstream::clock::Clock;
use crate::upstream::{BackendRuntime, Failure, Outcome, Pick, PickError, PickRequest, Registry};
use http::HeaderMap;
use sluice_model::config::{
    Backend, BackendProtocol, EndpointSet, EndpointSource, HealthCheck, LoadBalancer, Locality,
};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

fn address(n: u8) -> SocketAddr {
    ([192, 0, 2, n], 8080).into()
}

fn set(n: std::ops::RangeInclusive<u8>) -> Arc<EndpointSet> {
    endpoint_set(&n.map(address).collect::<Vec<_>>())
}

fn registry() -> (Registry, Clock) {
    let clock = Clock::manual();
    (Registry::with_clock(options(), clock.clone()), clock)
}

fn pick(runtime: &BackendRuntime) -> Result<Pick, PickError> {
    let headers = HeaderMap::new();
    runtime.pick(&PickRequest { headers: &headers, client: IpAddr::V4(Ipv4Addr::LOCALHOST), tried: &[] })
}

fn plain() -> Arc<Backend> {
    Arc::new(backend("web", BackendProtocol::Http1, None))
}

/// Requests by endpoint, each over before the next.
fn shares(runtime: &BackendRuntime, requests: usize) -> HashMap<SocketAddr, usize> {
    let mut shares = HashMap::new();
    for _ in 0..requests {
        *shares.entry(pick(runtime).unwrap().address()).or_default() += 1;
    }
    shares
}

/// Fails requests until `which` is ejected.
fn eject(runtime: &BackendRuntime, which: SocketAddr) {
    for _ in 0..1_000 {
        let pick = pick(runtime).unwrap();
        let outcome = if pick.address() == which { Outcome::Failed(Failure::Reset) } else { Outcome::Response(200) };
        pick.report(outcome);
    }
    assert!(!shares(runtime, 100).contains_key(&which), "it was ejected");
}

#[tokio::test]
async fn the_same_configuration_gives_the_same_backend() {
    let (mut registry, _) = registry();
    let (backend, endpoints, none) = (plain(), set(1..=2), BTreeMap::new());
    let first = registry.backend(&backend, Some(&endpoints), &none);
    assert!(Arc::ptr_eq(&first, &registry.backend(&backend, Some(&endpoints), &none)));
    // Equal, though not the same `Arc`, as after a change back and forth.
    assert!(Arc::ptr_eq(&first, &registry.backend(&plain(), Some(&endpoints), &none)));
}

#[tokio::test]
async fn a_new_endpoint_set_keeps_the_state_of_endpoints_that_stay() {
    let (mut registry, _) = registry();
    let (backend, none) = (plain(), BTreeMap::new());
    let before = registry.backend(&backend, Some(&set(1..=3)), &none);
    eject(&before, address(2));
    let held = pick(&before).unwrap();
    let after = registry.backend(&backend, Some(&set(1..=5)), &none);
    assert!(!Arc::ptr_eq(&before, &after));
    assert!(Arc::ptr_eq(&before.state, &after.state));
    let shares = shares(&after, 400);
    assert!(!shares.contains_key(&address(2)), "still ejected");
    assert_eq!(shares.len(), 4);
    assert_eq!(after.state.metrics.load.counts().0, 1, "the request of the former snapshot still counts");
    drop(held);
    assert_eq!(after.state.metrics.load.counts().0, 0);
}

#[tokio::test]
async fn a_changed_policy_keeps_ejections_and_takes_no_pooled_connection_over() {
    let (mut registry, _) = registry();
    let none = BTreeMap::new();
    let before = registry.backend(&plain(), Some(&set(1..=3)), &none);
    eject(&before, address(2));
    let mut changed = Backend::clone(&plain());
    changed.key.policy = 2;
    changed.policy.idle_timeout = Some(Duration::from_secs(1));
    let after = registry.backend(&Arc::new(changed), Some(&set(1..=3)), &none);
    assert!(!shares(&after, 100).contains_key(&address(2)));
    let ids = [&before, &after].map(|runtime| runtime.state.transport.as_ref().unwrap().id);
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
async fn an_endpoint_is_tried_at_its_other_address_when_no_connection_can_be_made() {
    let (mut registry, _) = registry();
    let (backend, none) = (plain(), BTreeMap::new());
    let other: SocketAddr = "[2001:db8::1]:8080".parse().unwrap();
    let mut endpoints = EndpointSet::clone(&set(1..=1));
    endpoints.endpoints[0].alternate = Some(other);
    let runtime = registry.backend(&backend, Some(&Arc::new(endpoints)), &none);
    let first = pick(&runtime).unwrap();
    assert_eq!(first.address(), address(1));
    // Whatever else goes wrong says nothing of the way there.
    for outcome in [Outcome::Failed(Failure::Reset), Outcome::Failed(Failure::Timeout), Outcome::Response(503)] {
        first.report(outcome);
        assert_eq!(pick(&runtime).unwrap().address(), address(1));
    }
    first.report(Outcome::Failed(Failure::Connect));
    let second = pick(&runtime).unwrap();
    assert_eq!((first.address(), second.address()), (address(1), other), "what was picked stays where it is");
    second.report(Outcome::Failed(Failure::ConnectTimeout));
    assert_eq!(pick(&runtime).unwrap().address(), address(1));
    assert!(runtime.leads_to(other) && runtime.leads_to(address(1)));
}

#[tokio::test]
async fn requests_go_to_those_that_are_meant_for_the_zone_once_that_is_known() {
    let (mut registry, _) = registry();
    let (backend, none) = (plain(), BTreeMap::new());
    let mut endpoints = EndpointSet::clone(&set(1..=4));
    for (endpoint, zone) in endpoints.endpoints.iter_mut().zip(["a", "b", "b", "c"]) {
        endpoint.for_zones = vec![zone.into()];
    }
    let endpoints = Arc::new(endpoints);
    let anywhere = registry.backend(&backend, Some(&endpoints), &none);
    assert_eq!(shares(&anywhere, 40).len(), 4);
    let here = Locality { node: None, zone: Some("b".into()) };
    assert!(registry.set_locality(&here) && !registry.set_locality(&here));
    let near = registry.backend(&backend, Some(&endpoints), &none);
    assert_eq!(shares(&near, 40), HashMap::from([(address(2), 20), (address(3), 20)]));
    assert!(Arc::ptr_eq(&near, &registry.backend(&backend, Some(&endpoints), &none)));
    let states: Vec<_> = near.endpoints().iter().map(|endpoint| endpoint.state.as_str()).collect();
    assert_eq!(states, ["ready, meant for others", "ready", "ready", "ready, meant for others"]);
    assert_eq!(near.state.current.load().endpoints().len(), 4, "the health of all of them is checked");
    assert!(near.leads_to(address(1)));

    // The near ones fail: one is ejected, then the other, as there are enough elsewhere.
    eject(&near, address(2));
    eject(&near, address(3));
    assert_eq!(shares(&near, 40), HashMap::from([(address(1), 20), (address(4), 20)]));
}

#[tokio::test]
async fn what_one_check_finds_of_an_endpoint_is_nothing_to_another() {
    let (mut registry, _) = registry();
    let mut runtime = |hash, path: Option<&str>| {
        let mut backend = backend("web", BackendProtocol::Http1, None);
        backend.key.policy = hash;
        backend.policy.health_check = Some(HealthCheck { path: path.map(Into::into), ..HealthCheck::default() });
        registry.backend(&Arc::new(backend), Some(&set(1..=1)), &BTreeMap::new())
    };
    let (deep, shallow, again) = (runtime(1, Some("/deep")), runtime(2, None), runtime(3, Some("/deep")));
    let health = |runtime: &BackendRuntime| runtime.members[0].healthy();
    deep.members[0].set_healthy(false, &deep.state.clock);
    assert_eq!((health(&deep), health(&shallow), health(&again)), (false, true, false));
}

#[tokio::test]
async fn a_pod_that_comes_back_under_the_same_address_is_another() {
    let (mut registry, _) = registry();
    let (backend, none) = (plain(), BTreeMap::new());
    let before = registry.backend(&backend, Some(&set(1..=3)), &none);
    eject(&before, address(2));
    let mut endpoints = EndpointSet::clone(&set(1..=3));
    endpoints.endpoints[1].id.target = "another-pod".into();
    let after = registry.backend(&backend, Some(&Arc::new(endpoints)), &none);
    assert!(shares(&after, 100).contains_key(&address(2)));
}

#[tokio::test]
async fn what_nothing_uses_any_more_is_forgotten() {
    let (mut registry, _) = registry();
    let (backend, none) = (plain(), BTreeMap::new());
    let first = registry.backend(&backend, Some(&set(1..=3)), &none);
    let second = registry.backend(&backend, Some(&set(3..=4)), &none);
    registry.sweep();
    assert_eq!(registry.kept(), (4, 1));
    drop(first);
    registry.sweep();
    assert_eq!(registry.kept(), (2, 1));
    let request = pick(&second).unwrap();
    drop(second);
    registry.sweep();
    assert_eq!(registry.kept(), (2, 1), "a request holds its endpoint, and the backend the newest set");
    drop(request);
    registry.sweep();
    assert_eq!(registry.kept(), (0, 0));
}

#[tokio::test]
async fn a_set_that_keeps_changing_does_not_pile_up() {
    let (mut registry, _) = registry();
    let (backend, none) = (plain(), BTreeMap::new());
    let mut current = registry.backend(&backend, Some(&set(1..=100)), &none);
    let mut most = 0;
    for n in 101..=250 {
        current = registry.backend(&backend, Some(&set(n - 99..=n)), &none);
        registry.sweep();
        most = most.max(registry.kept().0);
    }
    assert!((100..=115).contains(&most), "{most} endpoints are remembered for 100 that there are");
    drop(current);
}

#[tokio::test]
async fn terminating_endpoints_get_no_new_requests_while_another_is_ready() {
    let (mut registry, _) = registry();
    let (backend, none) = (plain(), BTreeMap::new());
    let mut endpoints = EndpointSet::clone(&set(1..=4));
    (endpoints.endpoints[0].terminating, endpoints.endpoints[0].ready) = (true, false);
    // A Service that publishes not-ready addresses says ready even then.
    endpoints.endpoints[1].terminating = true;
    endpoints.endpoints[2].ready = false;
    let runtime = registry.backend(&backend, Some(&Arc::new(endpoints.clone())), &none);
    assert_eq!(shares(&runtime, 20), HashMap::from([(address(4), 20)]));

    // The last ready one goes: those that still serve on their way out take over, but not the one that is not ready.
    endpoints.endpoints.pop();
    let runtime = registry.backend(&backend, Some(&Arc::new(endpoints.clone())), &none);
    let mut takers: Vec<_> = shares(&runtime, 20).into_keys().collect();
    takers.sort_unstable();
    assert_eq!(takers, [address(1), address(2)]);

    for endpoint in &mut endpoints.endpoints {
        endpoint.serving = false;
    }
    let runtime = registry.backend(&backend, Some(&Arc::new(endpoints)), &none);
    assert_eq!(pick(&runtime).unwrap_err(), PickError::NoEndpoints);
}

#[tokio::test]
async fn a_backend_without_endpoints_says_so_and_counts_nothing() {
    let (mut registry, _) = registry();
    let runtime = registry.backend(&plain(), None, &BTreeMap::new());
    assert_eq!(pick(&runtime).unwrap_err(), PickError::NoEndpoints);
    assert_eq!(runtime.state.metrics.load.counts(), (0, 0, 0));
}

#[tokio::test]
async fn a_cluster_ip_is_one_endpoint() {
    let (mut registry, _) = registry();
    let mut backend = Backend::clone(&plain());
    backend.source = EndpointSource::ClusterIp { address: address(9).ip(), port: 80 };
    let runtime = registry.backend(&Arc::new(backend), None, &BTreeMap::new());
    assert_eq!(pick(&runtime).unwrap().address(), SocketAddr::new(address(9).ip(), 80));
}

#[tokio::test]
async fn an_endpoint_that_joins_warms_up_and_those_of_the_start_do_not() {
    let (mut registry, clock) = registry();
    let mut backend = Backend::clone(&plain());
    backend.policy.slow_start = Some(Duration::from_secs(60));
    let (backend, none) = (Arc::new(backend), BTreeMap::new());
    let runtime = registry.backend(&backend, Some(&set(1..=3)), &none);
    assert!(shares(&runtime, 300).values().all(|n| *n == 100), "nobody warms up");
    let runtime = registry.backend(&backend, Some(&set(1..=4)), &none);
    fastrand::seed(7);
    let share = |runtime: &BackendRuntime| shares(runtime, 3_000).get(&address(4)).copied().unwrap_or(0);
    let cold = share(&runtime);
    assert!((40..160).contains(&cold), "a tenth of 750, about: {cold}");
    clock.advance(Duration::from_secs(30));
    let half = share(&runtime);
    assert!((300..560).contains(&half), "half of 750, about: {half}");
    clock.advance(Duration::from_secs(30));
    assert_eq!(share(&runtime), 750);
}

#[tokio::test]
async fn requests_and_waiting_requests_above_the_limits_are_refused() {
    let (mut registry, _) = registry();
    let mut backend = Backend::clone(&plain());
    backend.policy.circuit_breaker.max_requests = 3;
    backend.policy.circuit_breaker.max_pending = 2;
    backend.policy.load_balancer = LoadBalancer::LeastRequest;
    let runtime = registry.backend(&Arc::new(backend), Some(&set(1..=3)), &BTreeMap::new());
    let mut first = pick(&runtime).unwrap();
    let second = pick(&runtime).unwrap();
    assert_eq!(pick(&runtime).unwrap_err(), PickError::Overflow, "two wait for connections");
    first.connected();
    let third = pick(&runtime).unwrap();
    first.connected();
    assert_eq!(pick(&runtime).unwrap_err(), PickError::Overflow, "three are in flight");
    drop((first, second, third));
    assert!(pick(&runtime).is_ok());
}
