//! What the data plane serves: one immutable [`Snapshot`], joined from the configuration and the registry by
//! `assemble`, and taken once by each request.
//!
//! A snapshot is read, never changed. Its parts are shared with the one before wherever their configuration is the
//! same `Arc`: a change of one endpoint set replaces one place in [`Snapshot::backends`], a change of one route the
//! [`HostRuntime`]s that it stands in. What rules refer to sits behind [`Slot`]s: numbers that belong to one identity
//! for as long as anything refers to it, so that a reused host finds the newest backend without being touched.

use crate::access_log::LogFormat;
use crate::metrics::{BackendMetrics, ListenerMetrics, RequestMetrics, RouteMetrics};
use crate::outbound::Connections;
use crate::session::SessionRuntime;
use crate::trace::Tracer;
use crate::upstream::BackendRuntime;
use http::HeaderValue;
use sluice_model::config::{BackendKey, Config, Edge, ExternalAuth, Listener, Port, Rule, VirtualHost};
use sluice_model::hostname::HostTable;
use sluice_model::matcher::HostMatcher;
use sluice_model::plugin::{PluginKey, PluginUse, UseKey};
use sluice_wasm::Configured;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

/// A map that is read on the request path: no SipHash there.
pub type FastMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Everything that one request may need to know, from its first header to its log line.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts up by one with each snapshot that is published.
    pub generation: u64,
    /// What this was assembled from.
    pub config: Arc<Config>,
    pub ports: FastMap<SocketAddr, Arc<PortRuntime>>,
    pub udp_ports: FastMap<SocketAddr, Arc<PortRuntime>>,
    /// By [`Slot`] of a [`BackendKey`]. `None`: the configuration has no such backend (any more).
    pub backends: Box<[Option<Arc<BackendRuntime>>]>,
    /// By [`Slot`] of a [`UseKey`]. `None`: no version of it is compiled and configured yet.
    pub plugins: Box<[Option<Arc<Configured>>]>,
    /// What plugins may call, and where their stores are.
    pub plugin_calls: FastMap<PluginKey, Arc<PluginCalls>>,
    pub access_log: Arc<LogFormat>,
}

/// What one plugin may call.
#[derive(Debug)]
pub struct PluginCalls {
    /// By the names that it calls them by.
    pub backends: BTreeMap<Arc<str>, Slot<BackendKey>>,
    /// Where its stores of scope Redis are, by their names.
    pub stores: BTreeMap<Arc<str>, Slot<BackendKey>>,
    /// Of a plugin that may say where requests go: `backends` as such a request goes to them.
    pub destinations: BTreeMap<Arc<str>, Arc<BackendRef>>,
    /// Those of all plugins.
    pub(crate) connections: Connections,
    /// Of which the bytes of answers are a part.
    pub(crate) metrics: Arc<RequestMetrics>,
}

impl Snapshot {
    /// Serves nothing: what there is before the first configuration.
    pub(crate) fn empty() -> Self {
        let config = Config::default();
        let access_log = Arc::new(LogFormat::new(&config.access_log));
        Snapshot {
            generation: 0,
            config: Arc::new(config),
            ports: FastMap::default(),
            udp_ports: FastMap::default(),
            backends: Box::default(),
            plugins: Box::default(),
            plugin_calls: FastMap::default(),
            access_log,
        }
    }

    /// The ports of both transports.
    pub(crate) fn all_ports(&self) -> impl Iterator<Item = &Arc<PortRuntime>> {
        self.ports.values().chain(self.udp_ports.values())
    }

    pub fn backend(&self, slot: &Slot<BackendKey>) -> Option<&Arc<BackendRuntime>> {
        self.backends.get(slot.index()).and_then(Option::as_ref)
    }

    /// The newest version of a use that is ready: where its own configuration is not yet, the one before.
    pub fn plugin(&self, plugin: &PluginRef) -> Option<&Arc<Configured>> {
        let at = |slot: &Slot<UseKey>| self.plugins.get(slot.index()).and_then(Option::as_ref);
        at(&plugin.slot).or_else(|| plugin.former.as_ref().and_then(at))
    }
}

/// A place in one of the snapshot's tables. It stays with its identity while a clone of it lives.
#[derive(Debug)]
pub struct Slot<K>(Arc<SlotInner<K>>);

#[derive(Debug)]
struct SlotInner<K> {
    index: u32,
    key: K,
}

impl<K> Slot<K> {
    pub fn index(&self) -> usize {
        self.0.index as usize
    }

    pub fn key(&self) -> &K {
        &self.0.key
    }
}

impl<K> Clone for Slot<K> {
    fn clone(&self) -> Self {
        Slot(self.0.clone())
    }
}

/// Hands out slots, and takes back those that nobody refers to. Owned by `assemble`.
#[derive(Debug)]
pub(crate) struct Slots<K> {
    by_key: FastMap<K, Slot<K>>,
    free: Vec<u32>,
    /// Length of the table; free places included.
    len: u32,
}

impl<K> Default for Slots<K> {
    fn default() -> Self {
        Slots { by_key: FastMap::default(), free: Vec::new(), len: 0 }
    }
}

impl<K: Clone + Eq + std::hash::Hash> Slots<K> {
    /// The slot of `key`: the one it has, or a new one.
    pub(crate) fn slot(&mut self, key: &K) -> Slot<K> {
        if let Some(slot) = self.by_key.get(key) {
            return slot.clone();
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.len += 1;
            self.len - 1
        });
        let slot = Slot(Arc::new(SlotInner { index, key: key.clone() }));
        self.by_key.insert(key.clone(), slot.clone());
        slot
    }

    pub(crate) fn get(&self, key: &K) -> Option<&Slot<K>> {
        self.by_key.get(key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot<K>> {
        self.by_key.values()
    }

    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    /// Frees the slots that no rule refers to any more. A host that an older snapshot still serves keeps its own.
    pub(crate) fn sweep(&mut self) -> Vec<u32> {
        let free = &mut self.free;
        let before = free.len();
        self.by_key.retain(|_, slot| {
            let used = Arc::strong_count(&slot.0) > 1;
            if !used {
                free.push(slot.0.index);
            }
            used
        });
        free[before..].to_vec()
    }
}

/// One listening socket's listeners.
#[derive(Debug)]
pub struct PortRuntime {
    pub address: SocketAddr,
    pub config: Arc<Port>,
    /// The listener of a host: its place in `listeners`.
    pub hosts: HostTable<u32>,
    /// In the order of [`Port::listeners`].
    pub listeners: Vec<Arc<ListenerRuntime>>,
}

impl PortRuntime {
    /// The listener that serves `host` (lower case, no port, no final dot).
    pub fn listener(&self, host: &str) -> Option<&Arc<ListenerRuntime>> {
        let index = match self.listeners.as_slice() {
            // Most ports have one listener for every host: no hashing for those.
            [only] if only.config.hostname == sluice_model::HostPattern::Any => 0,
            _ => *self.hosts.find(host)?,
        };
        self.listeners.get(index as usize)
    }
}

/// One listener of one Gateway.
#[derive(Debug)]
pub struct ListenerRuntime {
    pub config: Arc<Listener>,
    pub hosts: Arc<HostTable<Arc<HostRuntime>>>,
    /// `namespace/gateway/listener`: the label in logs and metrics.
    pub label: Arc<str>,
    /// The `Server` field to write, where the edge says so.
    pub server_header: ServerField,
    pub metrics: Arc<ListenerMetrics>,
    /// For answers to requests that no rule takes.
    pub plugins: Option<ListenerPlugins>,
    /// `None`: no spans are made.
    pub(crate) tracer: Option<Arc<Tracer>>,
}

#[derive(Debug)]
pub struct ListenerPlugins {
    pub uses: Arc<Vec<PluginUse>>,
    /// One for each use.
    pub slots: Vec<PluginRef>,
}

impl ListenerRuntime {
    pub fn edge(&self) -> &Edge {
        &self.config.edge
    }
}

/// [`sluice_model::config::ServerHeader`] with its value parsed.
#[derive(Clone, Debug)]
pub enum ServerField {
    PassThrough,
    Remove,
    Replace(HeaderValue),
}

/// One virtual host: reused for as long as its configuration is the same `Arc`.
#[derive(Debug)]
pub struct HostRuntime {
    pub config: Arc<VirtualHost>,
    pub matcher: HostMatcher,
    /// In the order of [`VirtualHost::rules`].
    pub rules: Vec<Arc<RuleRuntime>>,
}

/// One rule, with the places of what it refers to.
#[derive(Debug)]
pub struct RuleRuntime {
    pub config: Arc<Rule>,
    /// `Kind namespace/name`, for the log. Metrics add the rule's name.
    pub route_label: Arc<str>,
    /// One for each of the rule's weighted backends, in order.
    pub backends: Vec<BackendRef>,
    /// The sum of the backends' weights.
    pub total_weight: u64,
    /// One for each use in [`Rule::plugins`].
    pub plugins: Vec<PluginRef>,
    /// One for each of the mirrors in the rule's own filters.
    pub mirrors: Vec<Slot<BackendKey>>,
    /// `None`: nobody is asked.
    pub auth: Option<AuthRuntime>,
    pub metrics: Arc<RouteMetrics>,
}

/// Who is asked whether requests may go on.
#[derive(Debug)]
pub struct AuthRuntime {
    pub config: Arc<ExternalAuth>,
    pub backend: Slot<BackendKey>,
    pub(crate) connections: Connections,
}

/// One use of a plugin.
#[derive(Debug)]
pub struct PluginRef {
    pub slot: Slot<UseKey>,
    /// What served under the use's name before, where its present configuration was not ready when the rule was built.
    pub former: Option<Slot<UseKey>>,
}

/// One of a rule's weighted backends.
#[derive(Debug)]
pub struct BackendRef {
    pub weight: u64,
    /// `None`: it cannot be resolved, and answers its share of requests with an error.
    pub target: Option<(Slot<BackendKey>, Arc<BackendMetrics>)>,
    /// One for each of the mirrors in this backend's filters.
    pub mirrors: Vec<Slot<BackendKey>>,
    /// `None`: no sessions are kept.
    pub session: Option<Arc<SessionRuntime>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_stays_with_its_key_while_someone_refers_to_it() {
        let mut slots: Slots<&str> = Slots::default();
        let (a, b) = (slots.slot(&"a"), slots.slot(&"b"));
        assert_ne!(a.index(), b.index());
        assert_eq!(slots.slot(&"a").index(), a.index());
        assert!(slots.sweep().is_empty(), "both are referred to");
        let freed = a.index();
        drop(a);
        assert_eq!(slots.sweep(), [freed as u32]);
        assert_eq!(slots.slot(&"c").index(), freed, "the place is taken again");
        assert_eq!(slots.slot(&"b").index(), b.index());
        assert_eq!(slots.len(), 2);
    }
}
