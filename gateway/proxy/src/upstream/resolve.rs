//! Names of ExternalName Services: resolved when the backend comes, and again each time the answer's TTL has passed.
//!
//! The last good answer is kept while resolution fails. Addresses that would turn the gateway against itself or its
//! cluster are dropped from each answer, since whoever controls the name controls the answer.

use super::balance::Candidates;
use super::clock::millis;
use super::endpoint::EndpointState;
use super::runtime::BackendState;
use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;
use ipnet::IpNet;
use sluice_model::Hostname;
use sluice_model::address::{canonical, is_special};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

/// A TTL of 0 does not make us ask all the time, nor one of a year never.
const LEAST_REFRESH: Duration = Duration::from_secs(1);
const LONGEST_REFRESH: Duration = Duration::from_secs(3600);
/// After a failure; doubles up to the second.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// Made when the first name asks for it: most gateways have none.
#[derive(Clone)]
pub(super) struct Resolver {
    resolver: Arc<OnceLock<Option<TokioResolver>>>,
}

impl Resolver {
    /// By `/etc/resolv.conf`.
    pub(super) fn system() -> Self {
        Resolver { resolver: Arc::default() }
    }

    #[cfg(test)]
    pub(super) fn with(resolver: TokioResolver) -> Self {
        Resolver { resolver: Arc::new(OnceLock::from(Some(resolver))) }
    }

    fn get(&self) -> Option<&TokioResolver> {
        self.resolver
            .get_or_init(|| {
                let made = TokioResolver::builder_tokio().and_then(|builder| builder.build());
                made.inspect_err(|error| tracing::error!(%error, "/etc/resolv.conf cannot be used; no name resolves"))
                    .ok()
            })
            .as_ref()
    }
}

/// Which addresses a name must not resolve to.
#[derive(Clone, Debug, Default)]
pub struct AddressGuard {
    forbidden: Vec<IpNet>,
}

impl AddressGuard {
    /// Refuses loopback, link-local (and with it the clouds' metadata services), multicast and unspecified addresses,
    /// and `forbidden`: the gateway's own addresses and the API server's.
    pub fn new(forbidden: impl IntoIterator<Item = IpNet>) -> Self {
        AddressGuard { forbidden: forbidden.into_iter().collect() }
    }

    /// The same, with the addresses of this host and, in a cluster, of the API server.
    pub fn of_this_host() -> Self {
        let own = host_addresses();
        let api_server = std::env::var("KUBERNETES_SERVICE_HOST").ok().and_then(|text| text.parse::<IpAddr>().ok());
        AddressGuard::new(own.into_iter().chain(api_server).map(IpNet::from))
    }

    pub fn allows(&self, address: IpAddr) -> bool {
        let address = canonical(address);
        !is_special(address) && !address.is_loopback() && !self.forbidden.iter().any(|net| net.contains(&address))
    }
}

/// The addresses of this network namespace, from the kernel's own tables; empty where there is no `/proc`.
fn host_addresses() -> Vec<IpAddr> {
    let v4 = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let v6 = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    local_v4(&v4).chain(local_v6(&v6)).collect()
}

/// `|-- 10.1.2.3` followed by a line `/32 host LOCAL`.
fn local_v4(fib_trie: &str) -> impl Iterator<Item = IpAddr> + '_ {
    fib_trie
        .lines()
        .zip(fib_trie.lines().skip(1))
        .filter(|(_, kind)| kind.contains("/32 host LOCAL"))
        .filter_map(|(line, _)| line.trim().strip_prefix("|-- ")?.parse::<Ipv4Addr>().ok())
        .map(IpAddr::V4)
}

/// 32 hex digits first on each line.
fn local_v6(if_inet6: &str) -> impl Iterator<Item = IpAddr> + '_ {
    if_inet6
        .lines()
        .filter_map(|line| u128::from_str_radix(line.split_whitespace().next()?, 16).ok())
        .map(|bits| IpAddr::V6(Ipv6Addr::from(bits)))
}

/// Runs until the backend is gone.
pub(super) async fn run(
    state: Weak<BackendState>,
    host: Hostname,
    port: u16,
    resolver: Resolver,
    guard: Arc<AddressGuard>,
) {
    let Some(resolver) = resolver.get() else {
        if let Some(state) = state.upgrade() {
            state.settle();
        }
        return;
    };
    // Absolute: the cluster's search domains must not catch it.
    let name = format!("{host}.");
    let mut retry = FIRST_RETRY;
    loop {
        let answer = resolver.lookup_ip(name.as_str()).await;
        let Some(state) = state.upgrade() else { return };
        let pause = match answer {
            Ok(answer) => {
                retry = FIRST_RETRY;
                let found: Vec<IpAddr> = answer.iter().collect();
                take(&state, &host, port, found, &guard);
                let ttl = answer.valid_until().saturating_duration_since(Instant::now());
                ttl.clamp(LEAST_REFRESH, LONGEST_REFRESH)
            }
            Err(error) => {
                failed(&state, &host, &error);
                let pause = retry;
                retry = (retry * 2).min(LONGEST_RETRY);
                pause
            }
        };
        state.settle();
        drop(state);
        // A little later than the TTL, so that the resolver's own cache has let go of the answer, and not all at once.
        let jitter = Duration::from_millis(10 + fastrand::u64(..=millis(pause) / 10));
        tokio::time::sleep(pause + jitter).await;
    }
}

fn failed(state: &BackendState, host: &Hostname, error: &NetError) {
    state.metrics.resolve_failed.inc();
    let kept = state.current.load().endpoints().len();
    tracing::warn!(backend = state.metrics.label(), %host, %error, kept, "host name cannot be resolved; keeping what it was");
}

fn take(state: &BackendState, host: &Hostname, port: u16, found: Vec<IpAddr>, guard: &AddressGuard) {
    let (mut allowed, refused): (Vec<IpAddr>, Vec<IpAddr>) = found.into_iter().partition(|a| guard.allows(*a));
    for address in &refused {
        state.metrics.resolve_refused.inc();
        tracing::warn!(
            backend = state.metrics.label(), %host, %address,
            "host name resolves to an address that backends may not have; it is not used"
        );
    }
    if allowed.is_empty() {
        // An answer with nothing usable replaces the old one: the owner has moved the name somewhere forbidden.
        if refused.is_empty() {
            state.metrics.resolve_failed.inc();
            return;
        }
    } else {
        state.metrics.resolve_ok.inc();
    }
    allowed.sort_unstable();
    allowed.dedup();
    let before = state.current.load();
    let same = before.endpoints().iter().map(|e| e.address).eq(allowed.iter().map(|a| SocketAddr::new(*a, port)));
    if same {
        return;
    }
    let endpoints: Vec<Arc<EndpointState>> = allowed
        .iter()
        .map(|address| {
            let address = SocketAddr::new(*address, port);
            let known = before.endpoints().iter().find(|e| e.address == address);
            known.cloned().unwrap_or_else(|| {
                let endpoint = state.endpoint(address);
                if !before.endpoints().is_empty() {
                    endpoint.start_warming(state.clock.now());
                }
                Arc::new(endpoint)
            })
        })
        .collect();
    tracing::info!(backend = state.metrics.label(), %host, addresses = ?allowed, "host name resolved");
    state.set_current(Arc::new(Candidates::new(endpoints, &state.backend.policy.load_balancer)));
}

#[cfg(test)]
mod tests;
