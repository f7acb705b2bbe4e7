use super::*;
use crate::downstream::DownstreamMetrics;
use crate::upstream::{AddressGuard, RegistryOptions, UpstreamMetrics};
use sluice_model::config::{
    AccessLog, Backend, BackendPolicy, BackendProtocol, Carries, Edge, Endpoint, EndpointId, EndpointSet, ListenerId,
    Locality, PathMatch, Protocol, RouteMatch, RuleId, WeightedBackend,
};
use sluice_model::object::NamespacedName;
use sluice_model::{Kind, ObjectRef};
use sluice_wasm::HostOptions;

fn listener_id() -> ListenerId {
    ListenerId { gateway: NamespacedName::new("shop", "gw"), name: "http".into() }
}

fn backend_key(name: &str) -> BackendKey {
    BackendKey { service: NamespacedName::new("shop", name), uid: name.into(), port: 80, policy: 0 }
}

fn endpoints_key(name: &str) -> EndpointsKey {
    EndpointsKey { service: NamespacedName::new("shop", name), port: "".into() }
}

fn backend(name: &str) -> Arc<Backend> {
    Arc::new(Backend {
        key: backend_key(name),
        protocol: BackendProtocol::Http1,
        tls: None,
        policy: BackendPolicy::default(),
        source: EndpointSource::Slices(endpoints_key(name)),
    })
}

fn endpoints(last: u8) -> Arc<EndpointSet> {
    let id = EndpointId { target: "pod".into(), address: [192, 0, 2, last].into(), port: 8080 };
    let endpoint = Endpoint {
        id,
        alternate: None,
        ready: true,
        serving: true,
        terminating: false,
        zone: None,
        for_zones: Vec::new(),
        for_nodes: Vec::new(),
        node: None,
    };
    Arc::new(EndpointSet { endpoints: vec![endpoint] })
}

fn rule(name: &str, to: &str) -> Arc<Rule> {
    Arc::new(Rule {
        id: RuleId { route: ObjectRef::new(Kind::HTTPRoute, "shop", name), rule: "0".into() },
        filters: Filters::none(),
        action: Action::Forward(vec![WeightedBackend {
            weight: 1,
            target: BackendTarget::Backend(backend_key(to)),
            filters: Filters::none(),
            session: None,
        }]),
        request_timeout: None,
        backend_timeout: None,
        retry: Arc::default(),
        plugins: Vec::new(),
        client: Arc::default(),
    })
}

fn host(name: &str, rule: Arc<Rule>) -> (HostPattern, Arc<VirtualHost>) {
    let hostname = HostPattern::parse_gateway(Some(name)).unwrap();
    let all = RouteMatch::of_path(PathMatch::Prefix("".into()), 0);
    (hostname.clone(), Arc::new(VirtualHost { hostname, matches: [all].into(), rules: [rule].into() }))
}

/// Hosts `h0.test` to `h{n-1}.test`, each with a backend of its own.
fn config(n: usize) -> Config {
    let edge = Arc::new(Edge::default());
    let listener = Listener {
        id: listener_id(),
        port: 80,
        hostname: HostPattern::Any,
        carries: Carries::Http,
        tls: None,
        edge: edge.clone(),
        tracing: None,
    };
    let port = Port { protocol: Protocol::Http, edge, listeners: vec![Arc::new(listener)] };
    let mut config = Config { access_log: Arc::new(AccessLog::default()), ..Config::default() };
    config.ports.insert(([127, 0, 0, 1], 0).into(), Arc::new(port));
    for i in 0..n {
        let name = format!("web{i}");
        config.backends.insert(backend_key(&name), backend(&name));
        config.endpoints.insert(endpoints_key(&name), endpoints(1));
        let (pattern, host) = host(&format!("h{i}.test"), rule(&name, &name));
        config.virtual_hosts.entry(listener_id()).or_default().insert(pattern, host);
    }
    config
}

fn assembler() -> (Assembler, tokio::runtime::Runtime) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let options = RegistryOptions::new(runtime.handle().clone(), UpstreamMetrics::default(), AddressGuard::default());
    let small = HostOptions { instances: 1, max_memory: 1 << 20, ..HostOptions::default() };
    let plugins = PluginHost::new(small, &mut prometheus_client::registry::Registry::default()).unwrap();
    let exporters = Exporters::new(runtime.handle().clone(), Arc::default(), DownstreamMetrics::default());
    let secret = SessionSecret::of_cluster();
    (Assembler::new(Registry::new(options), Arc::default(), Arc::new(plugins), exporters, secret), runtime)
}

fn host_of<'s>(snapshot: &'s Snapshot, name: &str) -> &'s Arc<HostRuntime> {
    let port = snapshot.ports.values().next().unwrap();
    port.listeners[0].hosts.find(name).unwrap()
}

fn backend_of(snapshot: &Snapshot, name: &str) -> Option<Arc<BackendRuntime>> {
    let (slot, _) = host_of(snapshot, name).rules[0].backends[0].target.as_ref().unwrap();
    snapshot.backend(slot).cloned()
}

#[test]
fn an_endpoints_change_touches_no_route() {
    let (mut assembler, _runtime) = assembler();
    let mut config = config(3);
    let before = assembler.assemble(Arc::new(config.clone()));
    config.endpoints.insert(endpoints_key("web1"), endpoints(2));
    let after = assembler.assemble(Arc::new(config));
    assert_eq!(after.generation, before.generation + 1);
    for (address, port) in &before.ports {
        assert!(Arc::ptr_eq(port, &after.ports[address]), "the port with all its hosts is the same");
    }
    let same = |host| Arc::ptr_eq(&backend_of(&before, host).unwrap(), &backend_of(&after, host).unwrap());
    assert!(same("h0.test") && same("h2.test"));
    assert!(!same("h1.test"));
}

#[test]
fn a_routes_change_rebuilds_its_own_host_alone() {
    let (mut assembler, _runtime) = assembler();
    let mut config = config(3);
    let before = assembler.assemble(Arc::new(config.clone()));
    let (pattern, changed) = host("h1.test", rule("other", "web0"));
    config.virtual_hosts.get_mut(&listener_id()).unwrap().insert(pattern, changed);
    let after = assembler.assemble(Arc::new(config));
    let same = |host| Arc::ptr_eq(host_of(&before, host), host_of(&after, host));
    assert!(same("h0.test") && same("h2.test"));
    assert!(!same("h1.test"));
    assert!(Arc::ptr_eq(&backend_of(&after, "h1.test").unwrap(), &backend_of(&after, "h0.test").unwrap()));
    let routes = [&before, &after].map(|s| host_of(s, "h0.test").rules[0].metrics.clone());
    assert!(Arc::ptr_eq(&routes[0], &routes[1]));
}

#[test]
fn the_same_configuration_again_changes_nothing_but_the_generation() {
    let (mut assembler, _runtime) = assembler();
    let config = Arc::new(config(2));
    let before = assembler.assemble(config.clone());
    let after = assembler.assemble(config);
    assert!(before.ports.iter().all(|(address, port)| Arc::ptr_eq(port, &after.ports[address])));
    assert!(Arc::ptr_eq(&before.access_log, &after.access_log));
}

#[test]
fn a_rule_finds_its_backend_after_any_history() {
    let (mut assembler, _runtime) = assembler();
    let (mut one, two) = (config(2), config(5));
    // Backends come and go, so that places are freed and taken again; requests on old snapshots still run.
    let mut held = vec![assembler.assemble(Arc::new(one.clone()))];
    held.push(assembler.assemble(Arc::new(two.clone())));
    one.virtual_hosts.get_mut(&listener_id()).unwrap().remove(&HostPattern::parse_gateway(Some("h0.test")).unwrap());
    one.backends.remove(&backend_key("web0"));
    held.push(assembler.assemble(Arc::new(one)));
    held.remove(0);
    held.push(assembler.assemble(Arc::new(two)));
    for snapshot in &held {
        for host in snapshot.ports.values().flat_map(|port| port.listeners[0].hosts.values()) {
            let (slot, _) = host.rules[0].backends[0].target.as_ref().unwrap();
            let backend = snapshot.backend(slot).expect("bound");
            assert_eq!(backend.key(), slot.key());
        }
    }
}

#[test]
fn another_zone_touches_every_backend_and_no_host() {
    let (mut assembler, _runtime) = assembler();
    let config = config(2);
    let before = assembler.assemble(Arc::new(config.clone()));
    let moved = Config { locality: Locality { node: None, zone: Some("b".into()) }, ..config };
    let after = assembler.assemble(Arc::new(moved.clone()));
    for host in ["h0.test", "h1.test"] {
        let [old, new] = [&before, &after].map(|snapshot| backend_of(snapshot, host).unwrap());
        assert!(!Arc::ptr_eq(&old, &new), "{host}");
    }
    let again = assembler.assemble(Arc::new(moved));
    assert!(Arc::ptr_eq(&backend_of(&after, "h0.test").unwrap(), &backend_of(&again, "h0.test").unwrap()));
}

#[test]
fn a_backend_that_the_configuration_does_not_have_is_none() {
    let (mut assembler, _runtime) = assembler();
    let mut config = config(1);
    config.backends.clear();
    let snapshot = assembler.assemble(Arc::new(config));
    assert!(backend_of(&snapshot, "h0.test").is_none());
}

#[test]
fn a_port_that_is_gone_serves_its_draining_connections() {
    let (mut assembler, _runtime) = assembler();
    let before = assembler.assemble(Arc::new(config(1)));
    let after = assembler.assemble(Arc::new(Config::default()));
    assert_eq!(after.ports.len(), before.ports.len());
    assert!(backend_of(&after, "h0.test").is_some());
}
