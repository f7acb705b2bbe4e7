//! `(previous snapshot, configuration, registry) -> snapshot`, at the cost of what changed.
//!
//! What is the same `Arc` in both configurations is taken over by pointer: hosts with their matchers, listeners, ports.
//! Tables by slot are copied (an atomic increment an entry) and written where a backend, an endpoint set or a plugin
//! changed. Nothing here waits: a plugin that is not ready leaves its place empty, or to the version before.

mod changes;

use crate::access_log::LogFormat;
use crate::metrics::RequestMetrics;
use crate::outbound::Connections;
use crate::session::{SessionRuntime, SessionSecret};
use crate::snapshot::{
    AuthRuntime, BackendRef, FastMap, HostRuntime, ListenerPlugins, ListenerRuntime, PluginCalls, PluginRef,
    PortRuntime, RuleRuntime, ServerField, Slot, Slots, Snapshot,
};
use crate::trace::Exporters;
use crate::upstream::{BackendRuntime, Registry};
use ::http::HeaderValue;
use changes::changed;
use sluice_model::config::{
    Action, BackendKey, BackendTarget, Config, EndpointSource, EndpointsKey, Filters, Listener, Mirror, Port, Rule,
    ServerHeader, SessionPersistence, Transport, VirtualHost,
};
use sluice_model::hostname::{HostPattern, HostTable};
use sluice_model::matcher::HostMatcher;
use sluice_model::plugin::{PluginKey, PluginUse, UseKey};
use sluice_wasm::{Configured, Desired, PluginHost};
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the hosts of a port that is gone are kept for requests on its draining connections, beyond its drain time.
const RETIRED_SLACK: Duration = Duration::from_secs(5);

type HostsByPattern = BTreeMap<HostPattern, Arc<VirtualHost>>;

/// Owns what outlives snapshots. One at a time assembles.
pub(crate) struct Assembler {
    registry: Registry,
    metrics: Arc<RequestMetrics>,
    plugins: Arc<PluginHost>,
    connections: Connections,
    exporters: Exporters,
    secret: SessionSecret,
    backend_slots: Slots<BackendKey>,
    plugin_slots: Slots<UseKey>,
    /// Which backends an endpoint set is for.
    by_endpoints: FastMap<EndpointsKey, SmallVec<[Slot<BackendKey>; 1]>>,
    /// Ports that are gone from the configuration while their connections drain.
    retired: Vec<(Arc<PortRuntime>, Instant)>,
    desired: Desired,
    previous: Arc<Snapshot>,
}

impl Assembler {
    pub(crate) fn new(
        registry: Registry,
        metrics: Arc<RequestMetrics>,
        plugins: Arc<PluginHost>,
        exporters: Exporters,
        secret: SessionSecret,
    ) -> Self {
        Assembler {
            registry,
            metrics,
            plugins,
            connections: Connections::default(),
            exporters,
            secret,
            backend_slots: Slots::default(),
            plugin_slots: Slots::default(),
            by_endpoints: FastMap::default(),
            retired: Vec::new(),
            desired: Desired::default(),
            previous: Arc::new(Snapshot::empty()),
        }
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// What was assembled last.
    pub(crate) fn previous(&self) -> &Arc<Snapshot> {
        &self.previous
    }

    /// The next snapshot.
    pub(crate) fn assemble(&mut self, config: Arc<Config>) -> Arc<Snapshot> {
        let before = self.previous.clone();
        // What the last swap made superfluous is free by now, or will be at the next one.
        self.sweep();
        let hosts_before = HostsBefore::of(&before);
        let mut rebuilt = false;
        let (mut ports, mut udp_ports) = (FastMap::default(), FastMap::default());
        for (transport, address, port) in config.sockets() {
            let (of_before, of_now) = match transport {
                Transport::Tcp => (&before.ports, &mut ports),
                Transport::Udp => (&before.udp_ports, &mut udp_ports),
            };
            let former = of_before.get(&address);
            let runtime = self.port(address, port, former, &config, &before, &hosts_before, &mut rebuilt);
            of_now.insert(address, runtime);
        }
        rebuilt |= ports.len() != before.ports.len() || udp_ports.len() != before.udp_ports.len();
        // A session of datagrams takes nothing from here once it has begun.
        self.keep_retired(&mut ports, &before);
        let all = || ports.values().chain(udp_ports.values());
        let (plugins, grants) = (&before.config.plugins, &before.config.plugin_grants);
        if rebuilt || config.plugins != *plugins || config.plugin_grants != *grants {
            self.want_plugins(&config, all());
        }
        let plugin_calls = self.plugin_calls(&config, &before);
        let backends = self.backends(&config, &before);
        let plugins = self.plugin_table(&before, all());
        let access_log = if Arc::ptr_eq(&config.access_log, &before.config.access_log) {
            before.access_log.clone()
        } else {
            Arc::new(LogFormat::new(&config.access_log))
        };
        let generation = before.generation + 1;
        let snapshot =
            Arc::new(Snapshot { generation, config, ports, udp_ports, backends, plugins, plugin_calls, access_log });
        self.previous = snapshot.clone();
        snapshot
    }

    fn sweep(&mut self) {
        self.registry.sweep();
        self.metrics.sweep();
        self.plugin_slots.sweep();
        if !self.backend_slots.sweep().is_empty() {
            let slots = &self.backend_slots;
            self.by_endpoints.retain(|_, of| {
                of.retain(|slot| slots.get(slot.key()).is_some());
                !of.is_empty()
            });
        }
    }

    #[allow(clippy::too_many_arguments)] // what it was, what it is to be, and what is noted on the way
    fn port(
        &mut self,
        address: SocketAddr,
        port: &Arc<Port>,
        former: Option<&Arc<PortRuntime>>,
        config: &Config,
        before: &Snapshot,
        hosts_before: &HostsBefore<'_>,
        rebuilt: &mut bool,
    ) -> Arc<PortRuntime> {
        let listeners: Vec<_> = port
            .listeners
            .iter()
            .map(|listener| self.listener(listener, config, before, hosts_before, rebuilt))
            .collect();
        if let Some(former) = former {
            let same = former.listeners.len() == listeners.len()
                && former.listeners.iter().zip(&listeners).all(|(a, b)| Arc::ptr_eq(a, b));
            if same && Arc::ptr_eq(&former.config, port) {
                return former.clone();
            }
        }
        let mut hosts = HostTable::default();
        for (index, listener) in (0u32..).zip(&listeners) {
            hosts.insert(&listener.config.hostname, index);
        }
        Arc::new(PortRuntime { address, config: port.clone(), hosts, listeners })
    }

    fn listener(
        &mut self,
        listener: &Arc<Listener>,
        config: &Config,
        before: &Snapshot,
        hosts_before: &HostsBefore<'_>,
        rebuilt: &mut bool,
    ) -> Arc<ListenerRuntime> {
        let none = HostsByPattern::new();
        let wanted = config.virtual_hosts.get(&listener.id).unwrap_or(&none);
        let had = before.config.virtual_hosts.get(&listener.id).unwrap_or(&none);
        let former = hosts_before.listeners.get(&*listener.id.to_string()).copied();
        let hosts = match former {
            Some(former) => {
                let differences = changed(had, wanted);
                if differences.is_empty() {
                    former.hosts.clone()
                } else {
                    *rebuilt = true;
                    let mut table = HostTable::clone(&former.hosts);
                    for pattern in differences {
                        match wanted.get(pattern) {
                            Some(host) => {
                                let old = former.hosts.get(pattern);
                                table.insert(pattern, self.host(host, old));
                            }
                            None => {
                                table.remove(pattern);
                            }
                        }
                    }
                    Arc::new(table)
                }
            }
            None => {
                *rebuilt = true;
                let mut table = HostTable::default();
                for (pattern, host) in wanted {
                    table.insert(pattern, self.host(host, None));
                }
                Arc::new(table)
            }
        };
        let uses = config.listener_plugins.get(&listener.id);
        let same_plugins = |former: &ListenerRuntime| match (uses, &former.plugins) {
            (Some(uses), Some(former)) => Arc::ptr_eq(uses, &former.uses),
            (uses, former) => uses.is_none() && former.is_none(),
        };
        if let Some(former) = former
            && Arc::ptr_eq(&former.config, listener)
            && Arc::ptr_eq(&former.hosts, &hosts)
            && same_plugins(former)
        {
            return former.clone();
        }
        let label: Arc<str> = match former {
            Some(former) => former.label.clone(),
            None => listener.id.to_string().into(),
        };
        let server_header = match &listener.edge.server_header {
            ServerHeader::PassThrough => ServerField::PassThrough,
            ServerHeader::Remove => ServerField::Remove,
            // `translate` lets nothing else through.
            ServerHeader::Replace(value) => {
                HeaderValue::from_str(value).map_or(ServerField::Remove, ServerField::Replace)
            }
        };
        let metrics = self.metrics.listener(&label);
        *rebuilt |= former.is_some_and(|former| !same_plugins(former));
        let plugins = uses.map(|uses| {
            let before = former.and_then(|former| former.plugins.as_ref());
            let before = before.map(|before| (before.uses.as_slice(), before.slots.as_slice()));
            ListenerPlugins { uses: uses.clone(), slots: self.plugin_refs(uses, before) }
        });
        // What is unchanged keeps its queue, which the former listener still holds.
        let tracer = match (&listener.tracing, former) {
            (None, _) => None,
            (Some(tracing), Some(former)) if former.config.tracing.as_ref() == Some(tracing) => former.tracer.clone(),
            (Some(tracing), _) => self.exporters.tracer(tracing),
        };
        Arc::new(ListenerRuntime { config: listener.clone(), hosts, label, server_header, metrics, plugins, tracer })
    }

    /// `old` is what served the same host pattern before: rules that did not change are taken from it.
    fn host(&mut self, host: &Arc<VirtualHost>, old: Option<&Arc<HostRuntime>>) -> Arc<HostRuntime> {
        if let Some(old) = old.filter(|old| Arc::ptr_eq(&old.config, host)) {
            return old.clone();
        }
        let mut former: FastMap<*const Rule, &Arc<RuleRuntime>> = FastMap::default();
        let mut by_id = FastMap::default();
        for rule in old.iter().flat_map(|old| &old.rules) {
            former.insert(Arc::as_ptr(&rule.config), rule);
            by_id.insert(&rule.config.id, rule);
        }
        let rules = host
            .rules
            .iter()
            .map(|rule| match former.get(&Arc::as_ptr(rule)) {
                Some(same) => Arc::clone(same),
                None => Arc::new(self.rule(rule, by_id.get(&rule.id).copied())),
            })
            .collect();
        // The matcher looks at matches only, so that it is kept where just a rule's action changed.
        let matcher = match old.filter(|old| old.config.matches == host.matches) {
            Some(old) => old.matcher.clone(),
            None => HostMatcher::new(host),
        };
        Arc::new(HostRuntime { config: host.clone(), matcher, rules })
    }

    fn rule(&mut self, rule: &Arc<Rule>, former: Option<&Arc<RuleRuntime>>) -> RuleRuntime {
        // Backends that share a configuration share what is made of it.
        let mut sessions: SmallVec<[Arc<SessionRuntime>; 1]> = SmallVec::new();
        let secret = self.secret.clone();
        let mut session = |config: &Arc<SessionPersistence>| {
            let known = sessions.iter().find(|known| Arc::ptr_eq(&known.config, config));
            known.cloned().unwrap_or_else(|| {
                let made = Arc::new(SessionRuntime::new(&secret, config.clone()));
                sessions.push(made.clone());
                made
            })
        };
        let backends: Vec<BackendRef> = match &rule.action {
            Action::Forward(backends) => backends
                .iter()
                .map(|backend| {
                    let weight = backend.weight.into();
                    let bare = match &backend.target {
                        BackendTarget::Backend(key) => self.backend(weight, key),
                        BackendTarget::Invalid { .. } => {
                            BackendRef { weight, target: None, mirrors: Vec::new(), session: None }
                        }
                    };
                    let session = backend.session.as_ref().map(&mut session);
                    BackendRef { mirrors: self.mirrors(&backend.filters), session, ..bare }
                })
                .collect(),
            Action::Redirect(_) | Action::Reply { .. } => Vec::new(),
        };
        let before = former.map(|former| (former.config.plugins.as_slice(), former.plugins.as_slice()));
        let plugins = self.plugin_refs(&rule.plugins, before);
        let label: Arc<str> = rule.id.to_string().into();
        RuleRuntime {
            config: rule.clone(),
            route_label: rule.id.route.to_string().into(),
            total_weight: backends.iter().map(|backend| backend.weight).sum(),
            backends,
            plugins,
            mirrors: self.mirrors(&rule.filters),
            auth: rule.filters.external_auth.as_ref().map(|config| AuthRuntime {
                config: config.clone(),
                backend: self.backend_slots.slot(&config.backend),
                connections: self.connections.clone(),
            }),
            metrics: self.metrics.route(&label),
        }
    }

    /// Slots of uses; `before` are those that stood here until now.
    fn plugin_refs(&mut self, uses: &[PluginUse], before: Option<(&[PluginUse], &[PluginRef])>) -> Vec<PluginRef> {
        uses.iter()
            .map(|plugin_use| {
                let slot = self.plugin_slots.slot(&plugin_use.key());
                let waits = self.plugins.current(slot.key()).is_none();
                let former = before.filter(|_| waits).and_then(|(uses, refs)| {
                    let (_, before) = uses.iter().zip(refs).find(|(u, _)| u.name == plugin_use.name)?;
                    // A chain of configurations none of which became ready still ends at the one that did.
                    let ready = self.plugins.current(before.slot.key()).is_some() || self.is_bound(&before.slot);
                    if ready { Some(before.slot.clone()) } else { before.former.clone() }
                });
                PluginRef { slot, former }
            })
            .collect()
    }

    /// What plugins may call. The slots keep their backends alive.
    fn plugin_calls(&mut self, config: &Config, before: &Snapshot) -> FastMap<PluginKey, Arc<PluginCalls>> {
        let calls = config.plugin_backends.iter().map(|(plugin, of)| {
            let routes = |config: &Config| config.plugin_grants.get(plugin).is_some_and(|grants| grants.routing);
            let same = before.config.plugin_backends.get(plugin).is_some_and(|former| Arc::ptr_eq(former, of))
                && routes(&before.config) == routes(config);
            let former = before.plugin_calls.get(plugin).filter(|_| same).cloned();
            let slots = former.unwrap_or_else(|| {
                let mut slot = |(name, key): (&Arc<str>, &BackendKey)| (name.clone(), self.backend_slots.slot(key));
                let backends = of.calls.iter().map(&mut slot).collect();
                let stores = of.stores.iter().map(&mut slot).collect();
                let routed = of.calls.iter().filter(|_| routes(config));
                let destinations = routed.map(|(name, key)| (name.clone(), Arc::new(self.backend(1, key)))).collect();
                let (connections, metrics) = (self.connections.clone(), self.metrics.clone());
                Arc::new(PluginCalls { backends, stores, destinations, connections, metrics })
            });
            (plugin.clone(), slots)
        });
        calls.collect()
    }

    /// A backend as requests go to it, without filters and sessions.
    fn backend(&mut self, weight: u64, key: &BackendKey) -> BackendRef {
        let label: Arc<str> = key.to_string().into();
        let target = Some((self.backend_slots.slot(key), self.metrics.backend(&label)));
        BackendRef { weight, target, mirrors: Vec::new(), session: None }
    }

    fn is_bound(&self, slot: &Slot<UseKey>) -> bool {
        self.previous.plugins.get(slot.index()).is_some_and(Option::is_some)
    }

    fn mirrors(&mut self, filters: &Filters) -> Vec<Slot<BackendKey>> {
        filters.mirrors.iter().map(|mirror: &Mirror| self.backend_slots.slot(&mirror.backend)).collect()
    }

    /// A port that is gone serves the requests of its draining connections as before.
    fn keep_retired(&mut self, ports: &mut FastMap<SocketAddr, Arc<PortRuntime>>, before: &Snapshot) {
        let now = Instant::now();
        self.retired.retain(|(port, until)| *until > now && !ports.contains_key(&port.address));
        for (address, port) in &before.ports {
            let known = self.retired.iter().any(|(retired, _)| retired.address == *address);
            if !ports.contains_key(address) && !known && before.config.ports.contains_key(address) {
                let drain = port.listeners.iter().map(|listener| listener.edge().timeouts.drain).max();
                let until = now + drain.unwrap_or_default() + RETIRED_SLACK;
                self.retired.push((port.clone(), until));
            }
        }
        for (port, _) in &self.retired {
            ports.insert(port.address, port.clone());
        }
    }

    fn want_plugins<'p>(&mut self, config: &Config, ports: impl Iterator<Item = &'p Arc<PortRuntime>> + Clone) {
        let (plugins, grants) = (config.plugins.clone(), config.plugin_grants.clone());
        let mut desired = Desired { plugins, grants, ..Desired::default() };
        let of_rules = rules(ports.clone()).flat_map(|rule| &rule.config.plugins);
        let of_listeners = listener_plugins(ports).flat_map(|plugins| &*plugins.uses);
        of_rules.chain(of_listeners).for_each(|plugin_use| desired.add_use(plugin_use));
        self.plugins.ensure(desired.clone());
        self.desired = desired;
    }

    fn backends(&mut self, config: &Config, before: &Snapshot) -> Box<[Option<Arc<BackendRuntime>>]> {
        let mut table = before.backends.to_vec();
        table.resize(self.backend_slots.len().max(table.len()), None);
        let mut touched: Vec<Slot<BackendKey>> = Vec::new();
        if self.registry.set_locality(&config.locality) {
            touched.extend(self.backend_slots.iter().cloned());
        }
        for key in changed(&before.config.backends, &config.backends) {
            touched.extend(self.backend_slots.get(key).cloned());
        }
        for key in changed(&before.config.endpoints, &config.endpoints) {
            touched.extend(self.by_endpoints.get(key).into_iter().flatten().cloned());
        }
        // Slots that are new with this configuration have nothing yet, or what a former owner left.
        let fresh = self.backend_slots.iter().filter(|slot| {
            let bound = table.get(slot.index()).and_then(Option::as_ref);
            bound.is_none_or(|backend| backend.key() != slot.key())
        });
        touched.extend(fresh.cloned());
        for slot in touched {
            let bound = self.bind(&slot, config);
            if let Some(place) = table.get_mut(slot.index()) {
                // A backend that is gone while something still refers to it: draining connections of a former port.
                let former = place.take().filter(|former| former.key() == slot.key());
                *place = bound.or(former);
            }
        }
        // What nobody refers to any more.
        let live: Vec<bool> = {
            let mut live = vec![false; table.len()];
            for slot in self.backend_slots.iter() {
                live[slot.index()] = true;
            }
            live
        };
        for (place, live) in table.iter_mut().zip(live) {
            if !live {
                *place = None;
            }
        }
        table.into()
    }

    fn bind(&mut self, slot: &Slot<BackendKey>, config: &Config) -> Option<Arc<BackendRuntime>> {
        let backend = config.backends.get(slot.key())?;
        let endpoints = match &backend.source {
            EndpointSource::Slices(key) => {
                let of = self.by_endpoints.entry(key.clone()).or_default();
                if !of.iter().any(|other| other.index() == slot.index()) {
                    of.push(slot.clone());
                }
                config.endpoints.get(key)
            }
            EndpointSource::Dns { .. } | EndpointSource::ClusterIp { .. } => None,
        };
        Some(self.registry.backend(backend, endpoints, &config.certificates))
    }

    fn plugin_table<'p>(
        &mut self,
        before: &Snapshot,
        ports: impl Iterator<Item = &'p Arc<PortRuntime>> + Clone,
    ) -> Box<[Option<Arc<Configured>>]> {
        let mut table: Vec<Option<Arc<Configured>>> = vec![None; self.plugin_slots.len()];
        for slot in self.plugin_slots.iter() {
            let former = || {
                let former = before.plugins.get(slot.index()).and_then(Option::as_ref);
                former.filter(|former| former.key() == slot.key()).cloned()
            };
            if let Some(place) = table.get_mut(slot.index()) {
                *place = self.plugins.current(slot.key()).or_else(former);
            }
        }
        // A version that only stands in for another is dropped as soon as that one is ready.
        let mut standing_in = vec![false; table.len()];
        let of_listeners = listener_plugins(ports.clone()).flat_map(|plugins| &plugins.slots);
        for plugin in rules(ports).flat_map(|rule| &rule.plugins).chain(of_listeners) {
            let ready = table.get(plugin.slot.index()).is_some_and(Option::is_some);
            if let Some(former) = plugin.former.as_ref().filter(|_| !ready)
                && let Some(needed) = standing_in.get_mut(former.index())
            {
                *needed = true;
            }
        }
        for slot in self.plugin_slots.iter() {
            let wanted = self.desired.uses.contains_key(slot.key());
            let needed = standing_in.get(slot.index()).copied().unwrap_or_default();
            if !wanted
                && !needed
                && let Some(place) = table.get_mut(slot.index())
            {
                *place = None;
            }
        }
        table.into()
    }
}

fn rules<'p>(ports: impl Iterator<Item = &'p Arc<PortRuntime>>) -> impl Iterator<Item = &'p Arc<RuleRuntime>> {
    ports.flat_map(|port| &port.listeners).flat_map(|l| l.hosts.values()).flat_map(|host| &host.rules)
}

fn listener_plugins<'p>(
    ports: impl Iterator<Item = &'p Arc<PortRuntime>>,
) -> impl Iterator<Item = &'p ListenerPlugins> {
    ports.flat_map(|port| &port.listeners).filter_map(|listener| listener.plugins.as_ref())
}

/// The listeners of the snapshot before, by label.
struct HostsBefore<'s> {
    listeners: FastMap<&'s str, &'s Arc<ListenerRuntime>>,
}

impl<'s> HostsBefore<'s> {
    fn of(snapshot: &'s Snapshot) -> Self {
        let listeners = snapshot.all_ports().flat_map(|port| &port.listeners);
        HostsBefore { listeners: listeners.map(|listener| (&*listener.label, listener)).collect() }
    }
}

#[cfg(test)]
mod tests;
