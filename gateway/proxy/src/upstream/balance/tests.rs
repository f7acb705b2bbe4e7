use super::super::endpoint::InFlight;
use super::super::metrics::UpstreamMetrics;
use super::*;
use http::HeaderValue;
use http::header::COOKIE;
use proptest::prelude::*;
use sluice_model::config::HealthCheck;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

struct Backend {
    candidates: Candidates,
    policy: BackendPolicy,
    cursor: AtomicUsize,
    clock: Clock,
    metrics: Arc<BackendMetrics>,
}

fn address(n: usize) -> SocketAddr {
    ([10, 0, (n / 250) as u8, (n % 250) as u8], 80).into()
}

impl Backend {
    fn new(endpoints: usize, load_balancer: LoadBalancer) -> Self {
        let endpoints = (0..endpoints).map(|n| Arc::new(EndpointState::new(address(n), n as u64))).collect();
        let policy =
            BackendPolicy { load_balancer, health_check: Some(HealthCheck::default()), ..BackendPolicy::default() };
        Backend {
            candidates: Candidates::new(endpoints, &policy.load_balancer),
            policy,
            cursor: AtomicUsize::new(0),
            clock: Clock::manual(),
            metrics: UpstreamMetrics::default().backend("shop/web:80".into()),
        }
    }

    /// Only the first `near` of them are meant for here.
    fn near(near: usize, of: usize, load_balancer: LoadBalancer) -> Self {
        let all = Backend::new(of, load_balancer);
        let first = all.candidates.endpoints[..near].to_vec();
        let candidates = Candidates::near(first, Arc::new(all.candidates), &all.policy.load_balancer);
        Backend { candidates, ..all }
    }

    fn pick_with(&self, headers: &HeaderMap, client: IpAddr, tried: &[SocketAddr]) -> Option<Arc<EndpointState>> {
        let request = PickRequest { headers, client, tried };
        self.candidates.pick(&request, &self.policy, &self.cursor, &self.clock, &self.metrics).cloned()
    }

    fn pick(&self, tried: &[SocketAddr]) -> Option<Arc<EndpointState>> {
        self.pick_with(&HeaderMap::new(), IpAddr::from([192, 0, 2, 1]), tried)
    }

    fn shares(&self, picks: usize) -> HashMap<SocketAddr, usize> {
        let mut shares = HashMap::new();
        for _ in 0..picks {
            *shares.entry(self.pick(&[]).unwrap().address).or_default() += 1;
        }
        shares
    }

    fn set_unhealthy(&self, which: impl IntoIterator<Item = usize>) {
        for n in which {
            self.candidates.widest().endpoints[n].set_healthy(false, &self.clock);
        }
    }
}

fn algorithms() -> impl Strategy<Value = LoadBalancer> {
    prop_oneof![
        Just(LoadBalancer::RoundRobin),
        Just(LoadBalancer::LeastRequest),
        Just(LoadBalancer::ConsistentHash(HashKey::Source)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn round_robin_is_even_to_one_request(endpoints in 1usize..40, picks in 1usize..400) {
        let shares = Backend::new(endpoints, LoadBalancer::RoundRobin).shares(picks);
        let most = shares.values().max().copied().unwrap_or(0);
        let least = if shares.len() < endpoints { 0 } else { shares.values().min().copied().unwrap_or(0) };
        prop_assert!(most - least <= 1, "{shares:?}");
    }

    #[test]
    fn least_request_keeps_the_load_level(endpoints in 2usize..20) {
        fastrand::seed(endpoints as u64);
        let backend = Backend::new(endpoints, LoadBalancer::LeastRequest);
        let held: Vec<InFlight> = (0..endpoints * 50).map(|_| InFlight::new(backend.pick(&[]).unwrap())).collect();
        let loads: Vec<u32> = backend.candidates.endpoints.iter().map(|e| e.in_flight()).collect();
        // The fullest is a few above the mean of 50, however many there are; one random choice would be 10 to 20 above.
        prop_assert!(loads.iter().all(|load| *load <= 55), "{loads:?}");
        prop_assert_eq!(held.len(), loads.iter().map(|n| *n as usize).sum::<usize>());
    }

    #[test]
    fn an_endpoint_that_was_tried_is_not_picked_while_another_is_left(
        endpoints in 1usize..12, tried in 0usize..12, algorithm in algorithms(),
    ) {
        let backend = Backend::new(endpoints, algorithm);
        let tried: Vec<SocketAddr> = (0..tried.min(endpoints)).map(address).collect();
        for _ in 0..50 {
            let picked = backend.pick(&tried).unwrap().address;
            prop_assert!(tried.len() == endpoints || !tried.contains(&picked));
        }
    }

    #[test]
    fn an_unhealthy_endpoint_gets_nothing_while_half_are_well(
        endpoints in 2usize..20, share in 0.0f64..0.5, algorithm in algorithms(),
    ) {
        let backend = Backend::new(endpoints, algorithm);
        let sick = (endpoints as f64 * share) as usize;
        backend.set_unhealthy(0..sick);
        for n in 0..100u8 {
            let picked = backend.pick_with(&HeaderMap::new(), IpAddr::from([192, 0, 2, n]), &[]).unwrap();
            prop_assert!(picked.healthy());
        }
        prop_assert_eq!(backend.metrics.panics.get(), 0);
    }

    #[test]
    fn a_pick_always_finds_somebody(
        endpoints in 1usize..10, sick in 0usize..10, tried in 0usize..10, algorithm in algorithms(),
    ) {
        let backend = Backend::new(endpoints, algorithm);
        backend.set_unhealthy(0..sick.min(endpoints));
        let tried: Vec<SocketAddr> = (0..endpoints).rev().take(tried).map(address).collect();
        prop_assert!(backend.pick(&tried).is_some());
    }
}

#[test]
fn those_that_are_meant_for_here_take_all_while_half_of_them_are_well() {
    for algorithm in [LoadBalancer::RoundRobin, LoadBalancer::LeastRequest] {
        let backend = Backend::near(4, 10, algorithm);
        assert_eq!(backend.shares(400).into_keys().collect::<BTreeSet<_>>(), (0..4).map(address).collect());
        backend.set_unhealthy([1, 2]);
        assert_eq!(backend.shares(400).into_keys().collect::<BTreeSet<_>>(), [0, 3].map(address).into());
        assert_eq!(backend.metrics.panics.get(), 0);
    }
}

#[test]
fn where_few_of_those_that_are_meant_for_here_are_well_the_others_take_a_share() {
    for algorithm in [LoadBalancer::RoundRobin, LoadBalancer::LeastRequest] {
        let backend = Backend::near(4, 10, algorithm);
        backend.set_unhealthy([0, 1, 2]);
        let well: BTreeSet<_> = (3..10).map(address).collect();
        assert_eq!(backend.shares(1_000).into_keys().collect::<BTreeSet<_>>(), well);
        assert_eq!(backend.metrics.panics.get(), 0, "nobody is sent to one that is out");
        backend.set_unhealthy([3]);
        assert_eq!(backend.shares(1_000).len(), 6);
        backend.set_unhealthy(4..10);
        assert_eq!(backend.shares(1_000).len(), 10, "there is nobody better");
    }
}

#[test]
fn a_further_try_goes_beyond_those_that_are_meant_for_here_when_they_were_tried() {
    let hashed = LoadBalancer::ConsistentHash(HashKey::Source);
    for algorithm in [LoadBalancer::RoundRobin, LoadBalancer::LeastRequest, hashed] {
        for near in [1, 2] {
            let backend = Backend::near(near, 3, algorithm.clone());
            let mut tried = Tried::new();
            for _ in 0..3 {
                tried.push(backend.pick(&tried).unwrap().address);
            }
            assert!(tried[..near].iter().all(|tried| *tried < address(near)), "{tried:?}");
            assert_eq!(tried.iter().collect::<BTreeSet<_>>().len(), 3);
        }
    }
}

#[test]
fn a_session_stays_with_its_endpoint_wherever_that_is() {
    let backend = Backend::near(2, 4, LoadBalancer::RoundRobin);
    let headers = HeaderMap::new();
    let request = PickRequest { headers: &headers, client: IpAddr::from([192, 0, 2, 1]), tried: &[] };
    let resumed = backend.candidates.resume(3, &request, &backend.policy, &backend.clock, &backend.metrics);
    assert_eq!(resumed.map(|endpoint| endpoint.address), Some(address(3)));
}

#[test]
fn an_empty_set_gives_nobody() {
    assert!(Backend::new(0, LoadBalancer::RoundRobin).pick(&[]).is_none());
}

#[test]
fn when_too_few_are_healthy_all_are_used() {
    for algorithm in [LoadBalancer::RoundRobin, LoadBalancer::LeastRequest] {
        let backend = Backend::new(10, algorithm);
        backend.set_unhealthy(0..6);
        assert_eq!(backend.shares(1_000).len(), 10);
        assert!(backend.metrics.panics.get() > 0);
    }
}

#[test]
fn ejected_endpoints_come_back_when_their_time_is_over() {
    let backend = Backend::new(4, LoadBalancer::RoundRobin);
    backend.candidates.endpoints[1].ejected_until.store(backend.clock.now() + 1_000, Relaxed);
    let shares = backend.shares(300);
    assert_eq!(shares.len(), 3);
    assert!(shares.values().all(|n| (60..=140).contains(n)), "its turns are shared: {shares:?}");
    backend.clock.advance(Duration::from_millis(1_000));
    assert_eq!(backend.shares(400).len(), 4);
}

#[test]
fn an_endpoint_that_warms_up_takes_a_smaller_share_of_least_requests_too() {
    let mut backend = Backend::new(4, LoadBalancer::LeastRequest);
    backend.policy.slow_start = Some(Duration::from_secs(100));
    let young = backend.candidates.endpoints[0].clone();
    young.start_warming(backend.clock.now());
    // All of them stay in flight: each endpoint's load is as its fitness.
    let share_at = |elapsed: u64| {
        fastrand::seed(elapsed);
        backend.clock.advance(Duration::from_secs(elapsed));
        let held: Vec<InFlight> = (0..400).map(|_| InFlight::new(backend.pick(&[]).unwrap())).collect();
        let share = young.in_flight();
        drop(held);
        share
    };
    let (cold, half, warm) = (share_at(0), share_at(50), share_at(50));
    assert!((5..=25).contains(&cold), "a tenth against three whole ones, about 13: {cold}");
    assert!((45..=70).contains(&half), "a half against three whole ones, about 57: {half}");
    assert!((95..=105).contains(&warm), "a quarter: {warm}");
}

#[test]
fn one_key_stays_with_one_endpoint_and_moves_only_while_that_is_out() {
    let backend = Backend::new(10, LoadBalancer::ConsistentHash(HashKey::Source));
    let client = IpAddr::from([198, 51, 100, 7]);
    let home = backend.pick_with(&HeaderMap::new(), client, &[]).unwrap();
    let again = |backend: &Backend| backend.pick_with(&HeaderMap::new(), client, &[]).unwrap().address;
    assert!((0..20).all(|_| again(&backend) == home.address));
    home.set_healthy(false, &backend.clock);
    let refuge = again(&backend);
    assert_ne!(refuge, home.address);
    assert!((0..20).all(|_| again(&backend) == refuge));
    home.set_healthy(true, &backend.clock);
    assert_eq!(again(&backend), home.address);
}

/// Who keeps what is known of users in memory counts on it: an endpoint that goes or comes moves its own users, and few
/// others.
#[test]
fn an_endpoint_that_goes_or_comes_moves_its_own_keys_and_hardly_any_other() {
    const KEYS: u32 = 10_000;
    let hashed = |endpoints| Backend::new(endpoints, LoadBalancer::ConsistentHash(HashKey::Source));
    let homes = |backend: &Backend| -> Vec<SocketAddr> {
        let home = |key: u32| backend.pick_with(&HeaderMap::new(), IpAddr::from(key.to_be_bytes()), &[]).unwrap();
        (0..KEYS).map(|key| home(key).address).collect()
    };
    // 20 or 21, the table is as large.
    let (all, without) = (homes(&hashed(21)), homes(&hashed(20)));
    let last = address(20);
    assert!(without.iter().all(|home| *home != last));
    let own = all.iter().filter(|home| **home == last).count();
    let share = KEYS as usize / 21;
    assert!((share * 3 / 4..share * 5 / 4).contains(&own), "{own} of {KEYS} keys are one endpoint's");
    let moved = all.iter().zip(&without).filter(|(with, without)| **with != last && with != without).count();
    assert!(moved < KEYS as usize / 25, "{moved} of {KEYS} keys moved from endpoints that stayed");
}

#[test]
fn an_address_is_one_key_in_both_its_forms() {
    let backend = Backend::new(50, LoadBalancer::ConsistentHash(HashKey::Source));
    let v4 = std::net::Ipv4Addr::new(198, 51, 100, 7);
    let pick = |client: IpAddr| backend.pick_with(&HeaderMap::new(), client, &[]).unwrap().address;
    assert_eq!(pick(v4.into()), pick(v4.to_ipv6_mapped().into()));
}

#[test]
fn keys_come_from_the_header_or_cookie_that_the_policy_names() {
    let client = IpAddr::from([192, 0, 2, 1]);
    let header = Backend::new(50, LoadBalancer::ConsistentHash(HashKey::Header("x-user".parse().unwrap())));
    let cookie = Backend::new(50, LoadBalancer::ConsistentHash(HashKey::Cookie("user".into())));
    let mut homes = std::collections::HashSet::new();
    for user in ["ann", "bob", "eve"] {
        let by_header = HeaderMap::from_iter([("x-user".parse().unwrap(), HeaderValue::from_static(user))]);
        let jar = format!("a=b; user={user}; superuser=no");
        let by_cookie = HeaderMap::from_iter([(COOKIE, HeaderValue::from_str(&jar).unwrap())]);
        let home = header.pick_with(&by_header, client, &[]).unwrap().address;
        assert_eq!(cookie.pick_with(&by_cookie, client, &[]).unwrap().address, home, "the value is the key");
        homes.insert(home);
    }
    assert_eq!(homes.len(), 3);
}

#[test]
fn a_request_without_the_key_goes_anywhere() {
    let backend = Backend::new(5, LoadBalancer::ConsistentHash(HashKey::Cookie("user".into())));
    assert_eq!(backend.shares(100).len(), 5);
}
