//! `sluice run --kube --role …`: what is written to the cluster, by whom, and when.

use base64::Engine;
use rustix::process::Signal;
use serde_json::{Value, json};
use sluice_model::Kind;
use sluice_tests::gateway::Options;
use sluice_tests::{ApiServer, Backend, Folder, Gateway, Registry, ports, raw, registry, wait};
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

const HOST: &str = "shop.example";
const SYSTEM: &str = "sluice-system";
const GATEWAYS: &str = "gateways";
const ROUTES: &str = "httproutes";

fn class() -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "sluice"},
        "spec": {"controllerName": "sluice.dev/gateway-controller"}})
}

fn gateway(name: &str, listeners: &[(&str, u16)]) -> Value {
    let listeners: Vec<_> =
        listeners.iter().map(|(name, port)| json!({"name": name, "port": port, "protocol": "HTTP"})).collect();
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"gatewayClassName": "sluice", "listeners": listeners,
                 "infrastructure": {"labels": {"team": "shop"}, "annotations": {"example.com/a": "b"}}}})
}

fn route(name: &str, service: &str) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"parentRefs": [{"name": "edge"}], "hostnames": [HOST],
                 "rules": [{"backendRefs": [{"name": service, "port": 80}]}]}})
}

fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.7", "ports": [{"name": "main", "port": 80}]}})
}

fn slice(namespace: &str, service: &str, endpoints: &[SocketAddr]) -> Vec<Value> {
    // A slice carries one port for all of its endpoints.
    let slice = |(n, endpoint): (usize, &SocketAddr)| {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": format!("{service}-{n}"), "namespace": namespace,
                         "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "ports": [{"name": "main", "port": endpoint.port()}],
            "endpoints": [{"addresses": [endpoint.ip().to_string()], "conditions": {"ready": true}}]})
    };
    endpoints.iter().enumerate().map(slice).collect()
}

/// A cluster with a class, a backend and a route to it; Gateways are the tests'.
struct Cluster {
    server: ApiServer,
    folder: Folder,
    _backend: Backend,
    /// Where target ports begin.
    first: u16,
}

impl Cluster {
    async fn new() -> Cluster {
        let server = ApiServer::start().await;
        let backend = Backend::echo("one").await;
        server.apply(class());
        server.apply(service("one"));
        for slice in slice("shop", "one", &[backend.address]) {
            server.apply(slice);
        }
        server.apply(route("all", "one"));
        Cluster { server, folder: Folder::new(), _backend: backend, first: ports::range() }
    }

    fn options(&self, role: &str) -> Options {
        let options = Options::from_cluster(&self.folder, &self.server);
        options
            .argument(format!("--role={role}"))
            .argument(format!("--system-namespace={SYSTEM}"))
            .argument("--gateway-services=app=sluice")
            .argument(format!("--target-ports={}-{}", self.first, self.first + 9))
    }

    async fn until(&self, what: &str, wanted: impl Fn(&ApiServer) -> bool) {
        wait::until(what, || async { wanted(&self.server).then_some(()) }).await;
    }

    /// The Service of a Gateway, once it is there.
    async fn service_of(&self, gateway: &str) -> Value {
        wait::until(&format!("a Service of Gateway {gateway}"), || async { service_of(&self.server, gateway) }).await
    }

    /// Waits for the Gateway's Service to lead to the proxies, and gives it an address, as a cloud does.
    async fn give_address(&self, gateway: &str, address: &str) {
        let service = self.service_of(gateway).await;
        let name = service["metadata"]["name"].as_str().unwrap();
        let status = json!({"loadBalancer": {"ingress": [{"ip": address, "ipMode": "VIP"}]}});
        self.server.set_status(Kind::Service, SYSTEM, name, status);
    }

    async fn programmed(&self, gateway: &str, status: &str) {
        let what = format!("Gateway {gateway} to have Programmed {status}");
        self.until(&what, |server| condition(server, gateway, "Programmed").is_some_and(|c| c["status"] == status))
            .await;
    }
}

fn service_of(server: &ApiServer, gateway: &str) -> Option<Value> {
    let label = "gateway.networking.k8s.io/gateway-name";
    server.all("services").into_iter().find(|service| service["metadata"]["labels"][label] == gateway)
}

fn condition(server: &ApiServer, gateway: &str, kind: &str) -> Option<Value> {
    let gateway = server.get(GATEWAYS, "shop", gateway)?;
    gateway["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == kind).cloned()
}

fn parents(server: &ApiServer, route: &str) -> Vec<Value> {
    let route = server.get(ROUTES, "shop", route).unwrap();
    route["status"]["parents"].as_array().cloned().unwrap_or_default()
}

fn status_writes(server: &ApiServer, plural: &str) -> usize {
    let of = |(_, path): &&(String, String)| path.contains(plural) && path.ends_with("/status");
    server.writes().iter().filter(of).count()
}

#[tokio::test]
async fn a_gateway_gets_a_service_an_address_and_a_true_status() {
    let cluster = Cluster::new().await;
    cluster.server.apply(gateway("edge", &[("http", 80), ("more", 8080)]));
    let gateway = cluster.options("all").start().await;
    let service = cluster.service_of("edge").await;
    let meta = &service["metadata"];
    let targets = format!("80={},8080={}", cluster.first, cluster.first + 1);
    assert_eq!(meta["annotations"]["sluice.dev/target-ports"], targets);
    assert_eq!((&meta["labels"]["team"], &meta["annotations"]["example.com/a"]), (&json!("shop"), &json!("b")));
    assert_eq!(meta["namespace"], SYSTEM);
    assert_eq!(service["spec"]["type"], "LoadBalancer");
    cluster
        .until("the Service to select the proxies", |server| {
            service_of(server, "edge").is_some_and(|s| s["spec"]["selector"] == json!({"app": "sluice"}))
        })
        .await;
    let answer = raw::get(cluster.first, HOST, "/").await.unwrap();
    assert_eq!((answer.status, &answer.json()["backend"]), (200, &json!("one")));

    cluster.programmed("edge", "False").await;
    assert_eq!(condition(&cluster.server, "edge", "Programmed").unwrap()["reason"], "AddressNotAssigned");
    cluster.give_address("edge", "192.0.2.7").await;
    cluster.programmed("edge", "True").await;
    let status = &cluster.server.get(GATEWAYS, "shop", "edge").unwrap()["status"];
    assert_eq!(status["addresses"], json!([{"type": "IPAddress", "value": "192.0.2.7"}]));
    let listener = &status["listeners"][0];
    assert_eq!((&listener["name"], &listener["attachedRoutes"]), (&json!("http"), &json!(1)));
    assert_eq!(
        listener["supportedKinds"],
        json!([{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute"},
               {"group": "gateway.networking.k8s.io", "kind": "GRPCRoute"}])
    );
    for conditions in [&status["conditions"], &listener["conditions"]] {
        for condition in conditions.as_array().unwrap() {
            assert_eq!(condition["observedGeneration"], 1, "{condition}");
            let wanted = if condition["type"] == "Conflicted" { "False" } else { "True" };
            assert_eq!(condition["status"], wanted, "{condition}");
        }
    }
    let parent = &parents(&cluster.server, "all")[0];
    assert_eq!(parent["controllerName"], "sluice.dev/gateway-controller");
    assert_eq!(parent["parentRef"], json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"}));
    let class = cluster.server.get("gatewayclasses", "", "sluice").unwrap();
    assert_eq!(class["status"]["conditions"][0]["type"], "Accepted");
    assert!(class["status"]["supportedFeatures"].as_array().unwrap().contains(&json!({"name": "HTTPRoute"})));
    let account = &cluster.server.all("serviceaccounts")[0];
    assert_eq!(
        (&account["metadata"]["namespace"], &account["metadata"]["labels"]["team"]),
        (&json!("shop"), &json!("shop"))
    );
    assert!(gateway.metric("sluice_status_writes_total", &["HTTPRoute", "written"]).await >= 1.0);
    assert_eq!(gateway.metric("sluice_controller_leader", &[]).await, 1.0);
    assert!(gateway.stop().await.success());
}

#[tokio::test]
async fn a_gateway_gets_the_address_that_it_asks_for_or_says_that_it_has_not() {
    let cluster = Cluster::new().await;
    let asking = |addresses: Value| {
        let mut gateway = gateway("edge", &[("http", 80)]);
        gateway["spec"]["addresses"] = addresses;
        gateway
    };
    let says = |server: &ApiServer, wanted: &[&str]| {
        let status = &server.get(GATEWAYS, "shop", "edge").unwrap()["status"];
        conditions(status) == wanted
    };
    let good = json!({"value": "192.0.2.7"});
    let odd = json!({"type": "example.com/name", "value": "somewhere"});
    cluster.server.apply(asking(json!([odd, {"value": "192.0.2.8"}, good])));
    let running = cluster.options("all").start().await;
    cluster
        .until("the unsupported address to be refused", |server| {
            says(
                server,
                &["Accepted=False/UnsupportedAddress", "Programmed=False/Invalid", "ResolvedRefs=True/ResolvedRefs"],
            )
        })
        .await;
    assert!(service_of(&cluster.server, "edge").is_none());

    cluster.server.apply(asking(json!([{"value": "192.0.2.8"}, good])));
    let spec = cluster.service_of("edge").await["spec"].clone();
    assert_eq!((&spec["loadBalancerIP"], &spec["ipFamilies"]), (&json!("192.0.2.8"), &json!(["IPv4"])));
    // A load balancer that does not have it gives another one.
    cluster.give_address("edge", "192.0.2.99").await;
    cluster
        .until("the address to be missed", |server| {
            says(
                server,
                &["Accepted=True/Accepted", "Programmed=False/AddressNotUsable", "ResolvedRefs=True/ResolvedRefs"],
            )
        })
        .await;

    cluster.server.apply(asking(json!([good])));
    cluster
        .until("the Service to ask for the other one", |server| {
            service_of(server, "edge").unwrap()["spec"]["loadBalancerIP"] == "192.0.2.7"
        })
        .await;
    cluster.give_address("edge", "192.0.2.7").await;
    cluster.programmed("edge", "True").await;
    let addresses = cluster.server.get(GATEWAYS, "shop", "edge").unwrap()["status"]["addresses"].clone();
    assert_eq!(addresses, json!([{"type": "IPAddress", "value": "192.0.2.7"}]));

    // Any address will do.
    cluster.server.apply(asking(json!([{"type": "IPAddress"}])));
    cluster
        .until("the Service to ask for none", |server| {
            service_of(server, "edge").unwrap()["spec"].get("loadBalancerIP").is_none()
        })
        .await;
    cluster.programmed("edge", "True").await;
    assert!(running.stop().await.success());
}

fn listener_set(name: &str, listeners: &Value) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "ListenerSet",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"parentRef": {"name": "edge"}, "listeners": listeners}})
}

/// `Type=Status/Reason` of each condition.
fn conditions(of: &Value) -> Vec<String> {
    let conditions = of["conditions"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    conditions.map(|c| format!("{}={}/{}", text(&c["type"]), text(&c["status"]), text(&c["reason"]))).collect()
}

fn set_status(server: &ApiServer, name: &str) -> Value {
    server.get("listenersets", "shop", name).unwrap()["status"].clone()
}

/// Of negative polarity: it must not stand there where it does not hold.
#[tokio::test]
async fn overlapping_hostnames_are_told_and_no_more_once_they_do_not() {
    let cluster = Cluster::new().await;
    let edge = |hosts: &[&str]| {
        let listener = |(n, host): (usize, &&str)| {
            json!({"name": format!("tls-{n}"), "port": 443, "protocol": "HTTPS", "hostname": host,
                "tls": {"certificateRefs": [{"name": "missing"}]}})
        };
        let mut gateway = gateway("edge", &[]);
        gateway["spec"]["listeners"] = hosts.iter().enumerate().map(listener).collect();
        gateway
    };
    let overlap = |server: &ApiServer| {
        let status = server.get(GATEWAYS, "shop", "edge").unwrap()["status"].clone();
        let listeners = status["listeners"].as_array().into_iter().flatten();
        let told = |of: &Value| conditions(of).contains(&"OverlappingTLSConfig=True/OverlappingHostnames".to_owned());
        listeners.map(told).collect::<Vec<_>>()
    };
    cluster.server.apply(edge(&["foo.example.com", "foo.example.org", "*.example.com"]));
    let running = cluster.options("all").start().await;
    cluster.until("the overlap to be told", |server| overlap(server) == [true, false, true]).await;
    cluster.server.apply(edge(&["foo.example.com", "foo.example.org", "*.example.net"]));
    cluster.until("it to be told no more", |server| overlap(server) == [false; 3]).await;
    let status = cluster.server.get(GATEWAYS, "shop", "edge").unwrap()["status"].clone();
    assert!(!status.to_string().contains("OverlappingTLSConfig"), "{status}");
    assert!(running.stop().await.success());
}

#[tokio::test]
async fn a_listener_set_opens_ports_at_its_gateways_service_and_has_a_status_of_its_own() {
    let cluster = Cluster::new().await;
    let mut edge = gateway("edge", &[("http", 80)]);
    edge["spec"]["allowedListeners"] = json!({"namespaces": {"from": "Same"}});
    cluster.server.apply(edge.clone());
    let listeners = json!([{"name": "more", "port": 8080, "protocol": "HTTP"},
        {"name": "taken", "port": 80, "protocol": "HTTP"}]);
    cluster.server.apply(listener_set("set", &listeners));
    let mut added = route("added", "one");
    added["spec"]["parentRefs"] = json!([{"kind": "ListenerSet", "name": "set"}]);
    cluster.server.apply(added);
    let running = cluster.options("all").start().await;
    let service = cluster.service_of("edge").await;
    let targets = format!("80={},8080={}", cluster.first, cluster.first + 1);
    assert_eq!(service["metadata"]["annotations"]["sluice.dev/target-ports"], targets);
    cluster
        .until("the set to wait for the Gateway's address", |server| {
            conditions(&set_status(server, "set")).contains(&"Programmed=False/ParentNotProgrammed".to_owned())
        })
        .await;
    cluster.give_address("edge", "192.0.2.7").await;
    cluster
        .until("the set to be programmed", |server| {
            let expected = ["Accepted=True/ListenersNotValid", "Programmed=True/Programmed"];
            conditions(&set_status(server, "set")) == expected
        })
        .await;
    let answer = raw::get(cluster.first + 1, HOST, "/").await.unwrap();
    assert_eq!(answer.status, 200);
    cluster
        .until("its routes to be counted", |server| set_status(server, "set")["listeners"][0]["attachedRoutes"] == 1)
        .await;
    let status = set_status(&cluster.server, "set");
    let good = [
        "Accepted=True/Accepted",
        "Conflicted=False/NoConflicts",
        "ResolvedRefs=True/ResolvedRefs",
        "Programmed=True/Programmed",
    ];
    assert_eq!(conditions(&status["listeners"][0]), good);
    assert_eq!(status["listeners"][0]["supportedKinds"][0]["kind"], "HTTPRoute");
    let conflict = [
        "Accepted=False/HostnameConflict",
        "Conflicted=True/HostnameConflict",
        "ResolvedRefs=True/ResolvedRefs",
        "Programmed=False/HostnameConflict",
    ];
    assert_eq!(conditions(&status["listeners"][1]), conflict);
    cluster
        .until("the Gateway to count the set", |server| {
            server.get(GATEWAYS, "shop", "edge").unwrap()["status"]["attachedListenerSets"] == 1
        })
        .await;
    let parent = parents(&cluster.server, "added")[0].clone();
    let reference = json!({"group": "gateway.networking.k8s.io", "kind": "ListenerSet", "name": "set"});
    assert_eq!(parent["parentRef"], reference);
    assert_eq!(conditions(&parent), ["Accepted=True/Accepted", "ResolvedRefs=True/ResolvedRefs"]);

    // Not allowed any more: its port goes, and its route is told.
    edge["spec"]["allowedListeners"] = json!({"namespaces": {"from": "None"}});
    cluster.server.apply(edge);
    cluster
        .until("the set to be refused", |server| {
            conditions(&set_status(server, "set")) == ["Accepted=False/NotAllowed", "Programmed=False/NotAllowed"]
        })
        .await;
    assert_eq!(set_status(&cluster.server, "set")["listeners"], json!([]));
    cluster
        .until("the Gateway and the route to be told", |server| {
            let none = server.get(GATEWAYS, "shop", "edge").unwrap()["status"]["attachedListenerSets"] == 0;
            none && conditions(&parents(server, "added")[0])[0] == "Accepted=False/NoMatchingParent"
        })
        .await;
    cluster
        .until("the Service to lose the port", |server| {
            service_of(server, "edge").unwrap()["spec"]["ports"].as_array().unwrap().len() == 1
        })
        .await;
    assert!(running.stop().await.success());
}

#[tokio::test]
async fn a_status_is_written_once_and_again_only_when_it_changes() {
    let cluster = Cluster::new().await;
    cluster.server.apply(gateway("edge", &[("http", 80)]));
    // What another controller wrote of the same route.
    let others = json!({"parentRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"},
        "controllerName": "example.com/other", "conditions": []});
    cluster.server.set_status(Kind::HTTPRoute, "shop", "all", json!({"parents": [others]}));
    let gateway = cluster.options("all").start().await;
    cluster.give_address("edge", "192.0.2.7").await;
    cluster.programmed("edge", "True").await;
    cluster.until("the route's status", |server| parents(server, "all").len() == 2).await;
    assert_eq!(parents(&cluster.server, "all")[0], others);
    assert_eq!(status_writes(&cluster.server, ROUTES), 1);

    // A write of something else, and one of the route that changes its generation and nothing that is said of it.
    let since = parents(&cluster.server, "all")[1]["conditions"][0]["lastTransitionTime"].clone();
    cluster.server.apply(service("unused"));
    let mut changed = route("all", "one");
    changed["spec"]["hostnames"] = json!([HOST, "other.example"]);
    cluster.server.apply(changed);
    cluster
        .until("the new generation to be seen", |server| {
            parents(server, "all").get(1).is_some_and(|p| p["conditions"][0]["observedGeneration"] == 2)
        })
        .await;
    assert_eq!(status_writes(&cluster.server, ROUTES), 2);
    assert_eq!(parents(&cluster.server, "all")[1]["conditions"][0]["lastTransitionTime"], since);

    // Its Gateway is gone: so is our entry, and the other one stays.
    cluster.server.delete(Kind::Gateway, "shop", "edge");
    cluster.until("our entry to go", |server| parents(server, "all") == [others.clone()]).await;
    assert!(gateway.stop().await.success());
}

#[tokio::test]
async fn a_broken_route_is_told_so_and_a_foreign_one_is_left_alone() {
    let cluster = Cluster::new().await;
    cluster.server.apply(gateway("edge", &[("http", 80)]));
    cluster.server.apply(route("broken", "missing"));
    let mut foreign = route("foreign", "one");
    foreign["spec"]["parentRefs"] = json!([{"name": "somebody-elses"}]);
    cluster.server.apply(foreign);
    let gateway = cluster.options("all").start().await;
    cluster.until("the broken route's status", |server| !parents(server, "broken").is_empty()).await;
    let conditions = parents(&cluster.server, "broken")[0]["conditions"].clone();
    let resolved = conditions.as_array().unwrap().iter().find(|c| c["type"] == "ResolvedRefs").unwrap();
    assert_eq!((&resolved["status"], &resolved["reason"]), (&json!("False"), &json!("BackendNotFound")));
    cluster.until("the good route's status", |server| !parents(server, "all").is_empty()).await;
    assert!(parents(&cluster.server, "foreign").is_empty());
    assert!(gateway.stop().await.success());
}

/// Values of a newer API, which its CRDs let in.
#[tokio::test]
async fn what_cannot_be_read_is_not_accepted_and_its_form_before_serves() {
    let cluster = Cluster::new().await;
    let edge = |from: &str| {
        let mut edge = gateway("edge", &[("http", 80)]);
        edge["spec"]["listeners"][0]["allowedRoutes"] = json!({"namespaces": {"from": from}});
        edge
    };
    let newer = |name: &str| {
        let mut newer = route(name, "one");
        newer["spec"]["rules"][0]["filters"] = json!([{"type": "Novelty"}]);
        newer
    };
    cluster.server.apply(edge("Same"));
    cluster.server.apply(newer("never-read"));
    let gateway = cluster.options("all").start().await;
    let said = |server: &ApiServer, name: &str| parents(server, name).first().map(conditions).unwrap_or_default();
    let accepts = |server: &ApiServer, name: &str| said(server, name).contains(&"Accepted=True/Accepted".to_owned());
    let refuses =
        |server: &ApiServer, name: &str| said(server, name).contains(&"Accepted=False/UnsupportedValue".to_owned());
    cluster.until("both to have their status", |s| accepts(s, "all") && refuses(s, "never-read")).await;
    cluster.server.apply(newer("all"));
    cluster.until("the newest form to be refused", |server| refuses(server, "all")).await;
    let accepted = parents(&cluster.server, "all")[0]["conditions"][0].clone();
    assert_eq!(accepted["observedGeneration"], 2, "{accepted}");
    let message = accepted["message"].as_str().unwrap();
    assert!(message.contains("spec.rules[0].filters[0].type") && message.contains("goes on serving"), "{message}");
    let answer = raw::get(cluster.first, HOST, "/").await.unwrap();
    assert_eq!((answer.status, &answer.json()["backend"]), (200, &json!("one")));
    cluster.server.apply(edge("Novelty"));
    let of_gateway = |server: &ApiServer| conditions(&server.get(GATEWAYS, "shop", "edge").unwrap()["status"]);
    cluster.until("the Gateway as well", |s| of_gateway(s).contains(&"Accepted=False/Invalid".to_owned())).await;
    assert_eq!(raw::get(cluster.first, HOST, "/").await.unwrap().status, 200);
    cluster.server.apply(edge("Same"));
    cluster.server.apply(route("all", "one"));
    cluster
        .until("both to be accepted again", |s| accepts(s, "all") && of_gateway(s)[0] == "Accepted=True/Accepted")
        .await;
    assert!(cluster.server.all("events").is_empty(), "a status tells of it");
    assert!(gateway.stop().await.success());
}

/// It comes and goes with Services, of which a policy tells nobody when they do.
#[tokio::test]
async fn a_policy_says_whether_its_target_is_there() {
    let cluster = Cluster::new().await;
    cluster.server.apply(gateway("edge", &[("http", 80)]));
    cluster.server.apply(route("late", "late"));
    cluster.server.apply(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy",
        "metadata": {"name": "tls", "namespace": "shop"},
        "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "late"}],
                 "validation": {"hostname": "late.example", "wellKnownCACertificates": "System"}}}));
    let gateway = cluster.options("all").start().await;
    let says = |server: &ApiServer, wanted: &str| {
        let status = status(server, "backendtlspolicies", "tls");
        status["ancestors"].as_array().into_iter().flatten().any(|of| conditions(of).iter().any(|said| said == wanted))
    };
    cluster.until("the target to be missed", |server| says(server, "Accepted=False/TargetNotFound")).await;
    cluster.server.apply(service("late"));
    cluster.until("it to be found", |server| says(server, "Accepted=True/Accepted")).await;
    cluster.server.delete(Kind::Service, "shop", "late");
    cluster.until("it to be missed again", |server| says(server, "Accepted=False/TargetNotFound")).await;
    assert!(gateway.stop().await.success());
}

#[tokio::test]
async fn a_gateway_is_not_programmed_while_a_proxy_cannot_open_its_port() {
    let cluster = Cluster::new().await;
    cluster.server.apply(gateway("edge", &[("http", 80)]));
    let taken = TcpListener::bind((Ipv6Addr::UNSPECIFIED, cluster.first)).unwrap();
    // It would be ready only when it has given up on the port.
    let mut gateway = cluster.options("all").without_waiting().start().await;
    cluster.give_address("edge", "192.0.2.7").await;
    cluster.programmed("edge", "False").await;
    let programmed = condition(&cluster.server, "edge", "Programmed").unwrap();
    assert_eq!(programmed["reason"], "Pending", "{programmed}");
    assert!(service_of(&cluster.server, "edge").unwrap()["spec"].get("selector").is_none());
    drop(taken);
    cluster.programmed("edge", "True").await;
    gateway.ready().await;
    assert!(gateway.stop().await.success());
}

#[tokio::test]
async fn a_controller_asks_every_ready_proxy_and_a_proxy_writes_nothing() {
    let cluster = Cluster::new().await;
    cluster.server.apply(gateway("edge", &[("http", 80)]));
    let proxy = cluster.options("proxy").label("proxy").start().await;
    assert!(cluster.server.writes().is_empty(), "{:?}", cluster.server.writes());
    // A second one that does not answer.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let both = slice(SYSTEM, "proxies", &[proxy.public, silent.local_addr().unwrap()]);
    both.iter().for_each(|slice| cluster.server.apply(slice.clone()));
    let controller = cluster.options("controller").label("controller");
    let controller = controller.argument(format!("--proxy-service={SYSTEM}/proxies")).start().await;
    cluster.give_address("edge", "192.0.2.7").await;
    cluster.programmed("edge", "False").await;
    cluster.server.delete(Kind::EndpointSlice, SYSTEM, "proxies-1");
    cluster.programmed("edge", "True").await;
    let answer = raw::get(cluster.first, HOST, "/").await.unwrap();
    assert_eq!(answer.status, 200);
    // The port is the proxy's alone.
    assert!(proxy.stop().await.success());
    assert!(raw::get(cluster.first, HOST, "/").await.is_err());
    assert!(controller.stop().await.success());
}

#[tokio::test]
async fn a_port_that_is_added_is_opened_before_the_service_names_it_and_one_that_goes_rests() {
    let cluster = Cluster::new().await;
    cluster.server.apply(gateway("edge", &[("http", 80)]));
    let running = cluster.options("all").start().await;
    cluster.give_address("edge", "192.0.2.7").await;
    cluster.programmed("edge", "True").await;
    cluster.server.apply(gateway("edge", &[("more", 81)]));
    let ports = |server: &ApiServer| -> Vec<(u64, u64)> {
        let service = service_of(server, "edge").unwrap();
        let ports = service["spec"]["ports"].as_array().unwrap().iter();
        ports.map(|p| (p["port"].as_u64().unwrap(), p["targetPort"].as_u64().unwrap())).collect()
    };
    let target = u64::from(cluster.first);
    cluster
        .until("the Service to lead to the new port alone", |server| {
            let selects = service_of(server, "edge").unwrap()["spec"].get("selector").is_some();
            selects && ports(server) == [(81, target + 1)]
        })
        .await;
    assert_eq!(raw::get(cluster.first + 1, HOST, "/").await.unwrap().status, 200);
    let lease = cluster.server.get("leases", SYSTEM, "sluice-controller").unwrap();
    let resting = lease["metadata"]["annotations"]["sluice.dev/resting-ports"].as_str().unwrap().to_owned();
    assert!(resting.starts_with(&format!("{target}=")), "{resting}");
    // Another Gateway does not get it.
    cluster.server.apply(gateway("other", &[("http", 80)]));
    let service = cluster.service_of("other").await;
    assert_eq!(service["spec"]["ports"][0]["targetPort"], target + 2);
    cluster.server.delete(Kind::Gateway, "shop", "other");
    cluster.until("its Service to go", |server| service_of(server, "other").is_none()).await;
    assert!(service_of(&cluster.server, "edge").is_some());
    assert!(running.stop().await.success());
}

#[tokio::test]
async fn an_ingress_has_the_front_services_address_when_it_is_served() {
    let cluster = Cluster::new().await;
    cluster.server.apply(json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
        "metadata": {"name": "sluice"}, "spec": {"controller": "sluice.dev/ingress-controller",
            "parameters": {"apiGroup": "sluice.dev", "kind": "GatewayConfig", "name": "c", "namespace": SYSTEM,
                           "scope": "Namespace"}}}));
    let (http, https) = (ports::free(), ports::free());
    cluster.server.apply(json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "GatewayConfig",
        "metadata": {"name": "c", "namespace": SYSTEM}, "spec": {"ingress": {"httpPort": http, "httpsPort": https}}}));
    cluster.server.apply(json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "front", "namespace": SYSTEM}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}}));
    let status = json!({"loadBalancer": {"ingress": [{"hostname": "lb.example"}, {"ip": "192.0.2.9"}]}});
    cluster.server.set_status(Kind::Service, SYSTEM, "front", status);
    let ingress = |class: &str, name: &str| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"ingressClassName": class,
                     "defaultBackend": {"service": {"name": "one", "port": {"number": 80}}}}})
    };
    cluster.server.apply(ingress("sluice", "ours"));
    cluster.server.apply(ingress("other", "foreign"));
    let gateway = cluster.options("all").argument(format!("--ingress-service={SYSTEM}/front")).start().await;
    let address = |server: &ApiServer, name: &str| {
        server.get("ingresses", "shop", name).unwrap()["status"]["loadBalancer"]["ingress"].clone()
    };
    cluster.until("the address", |server| !address(server, "ours").is_null()).await;
    assert_eq!(address(&cluster.server, "ours"), json!([{"ip": "192.0.2.9"}, {"hostname": "lb.example"}]));
    assert_eq!(raw::get(http, HOST, "/").await.unwrap().status, 200);
    assert!(address(&cluster.server, "foreign").is_null());
    assert_eq!(status_writes(&cluster.server, "ingresses"), 1);

    // It goes to another controller, which has given it an address already: ours go, and that one stays.
    let both = json!([{"ip": "192.0.2.9"}, {"ip": "198.51.100.1"}, {"hostname": "lb.example"}]);
    let mut gone = ingress("other", "ours");
    gone["status"] = json!({"loadBalancer": {"ingress": both}});
    cluster.server.apply(gone);
    let theirs = json!([{"ip": "198.51.100.1"}]);
    cluster.until("our addresses to go", |server| address(server, "ours") == theirs).await;
    // What the other one writes from then on is its own business, be it our address.
    let same = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}});
    cluster.server.set_status(Kind::Ingress, "shop", "ours", same);
    cluster.server.apply(ingress("sluice", "later"));
    cluster.until("the address of one that came later", |server| !address(server, "later").is_null()).await;
    assert_eq!(address(&cluster.server, "ours"), json!([{"ip": "192.0.2.9"}]));
    cluster.server.apply(ingress("other", "later"));
    cluster.until("its address to go", |server| address(server, "later").is_null()).await;
    assert!(gateway.stop().await.success());
}

fn plugin(name: &str) -> Value {
    json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "Plugin", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"source": {"configMap": {"name": name, "key": "plugin.wasm"}}}})
}

fn code(name: &str, bytes: &[u8]) -> Value {
    let text = base64::engine::general_purpose::STANDARD.encode(bytes);
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "shop"},
        "binaryData": {"plugin.wasm": text}})
}

fn policy(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "TrafficPolicy",
        "metadata": {"name": name, "namespace": "shop"}, "spec": spec})
}

/// `type=status/reason` of these conditions, in order.
fn brief(conditions: &Value) -> Vec<String> {
    let text = |condition: &Value, field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    let all = conditions.as_array().into_iter().flatten();
    all.map(|c| format!("{}={}/{}", text(c, "type"), text(c, "status"), text(c, "reason"))).collect()
}

fn status(server: &ApiServer, plural: &str, name: &str) -> Value {
    server.get(plural, "shop", name).map(|object| object["status"].clone()).unwrap_or_default()
}

#[tokio::test]
async fn a_plugin_says_what_it_is_and_whether_every_proxy_runs_it() {
    let cluster = Cluster::new().await;
    cluster.server.apply(gateway("edge", &[("http", 80)]));
    let module = sluice_tests::guests::versioned().with_version(1);
    cluster.server.apply(code("versioned", &module));
    cluster.server.apply(code("broken", b"no module"));
    for name in ["versioned", "broken", "missing"] {
        cluster.server.apply(plugin(name));
    }
    let target = json!([{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "all"}]);
    let uses = json!([{"name": "v", "pluginRef": {"name": "versioned"}}]);
    cluster.server.apply(policy("uses", &json!({"targetRefs": target, "plugins": uses})));
    let proxy = cluster.options("proxy").label("proxy").start().await;
    slice(SYSTEM, "proxies", &[proxy.public]).into_iter().for_each(|slice| cluster.server.apply(slice));
    let controller = cluster.options("controller").label("controller");
    let controller = controller.argument(format!("--proxy-service={SYSTEM}/proxies")).start().await;

    let of = |server: &ApiServer, name: &str| brief(&status(server, "plugins", name)["conditions"]);
    let wanted = |name: &'static str, conditions: [&'static str; 2]| {
        let cluster = &cluster;
        async move { cluster.until(&format!("{name}: {conditions:?}"), |s| of(s, name) == conditions).await }
    };
    wanted("versioned", ["Accepted=True/Accepted", "Ready=True/Ready"]).await;
    let found = status(&cluster.server, "plugins", "versioned");
    assert!(found["digest"].as_str().unwrap().starts_with("sha256:"), "{found}");
    assert_eq!((&found["size"], &found["uses"], &found["compiled"]), (&json!(module.len()), &json!(1), &json!(true)));
    assert!(!found["interfaces"].as_array().unwrap().is_empty() && found["lastError"].is_null(), "{found}");
    wanted("broken", ["Accepted=True/Accepted", "Ready=False/Failed"]).await;
    let found = status(&cluster.server, "plugins", "broken");
    assert!(found["lastError"].is_string() && found["compiled"] == false, "{found}");
    wanted("missing", ["Accepted=False/InvalidSource", "Ready=False/Invalid"]).await;
    assert!(status(&cluster.server, "plugins", "missing")["digest"].is_null());

    // Other code is another digest, and its generation the same.
    let digest = status(&cluster.server, "plugins", "versioned")["digest"].clone();
    cluster.server.apply(code("versioned", &sluice_tests::guests::versioned().with_version(2)));
    cluster
        .until("the new digest", |server| {
            let now = status(server, "plugins", "versioned");
            now["digest"] != digest && brief(&now["conditions"])[1] == "Ready=True/Ready"
        })
        .await;
    // A proxy that says nothing knows nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut both = slice(SYSTEM, "proxies", &[proxy.public, silent.local_addr().unwrap()]);
    cluster.server.apply(both.remove(1));
    cluster.server.apply(code("broken", &module));
    wanted("broken", ["Accepted=True/Accepted", "Ready=False/Pending"]).await;
    assert!(proxy.stop().await.success() && controller.stop().await.success());
}

#[tokio::test]
async fn a_plugin_of_a_registry_is_fetched_with_its_secret_and_says_what_it_is() {
    let cluster = Cluster::new().await;
    cluster.server.apply(gateway("edge", &[("http", 80)]));
    let registry = Registry::start().await;
    let module = sluice_tests::guests::versioned().with_version(1);
    let image = registry.put("versioned", "1", &[(registry::WASM, &module)]);
    registry.only_for("alice", "open-sesame");
    let fetched = json!({"image": registry.image("versioned:1"), "pullSecretRef": {"name": "pull"}});
    let plugin = |oci: &Value| {
        json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "Plugin", "metadata": {"name": "fetched", "namespace": "shop"},
            "spec": {"source": {"oci": oci}}})
    };
    cluster.server.apply(plugin(&fetched));
    let target = json!([{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "all"}]);
    let uses = json!([{"name": "v", "pluginRef": {"name": "fetched"}}]);
    cluster.server.apply(policy("uses", &json!({"targetRefs": target, "plugins": uses})));
    // In a cluster a tenant's object does not lead to the gateway's own host, unless the operator says so.
    let refusing = cluster.options("all").label("refusing").start().await;
    cluster
        .until("the refusal", |server| {
            let status = status(server, "plugins", "fetched");
            brief(&status["conditions"])[..] == ["Accepted=False/InvalidSource", "Ready=False/Failed"]
                && status["lastError"].as_str().is_some_and(|error| error.contains("--insecure-registry"))
        })
        .await;
    assert_eq!(registry.asked(), 0);
    assert!(refusing.stop().await.success());

    let insecure = format!("--insecure-registry={}", registry.address);
    let serving = cluster.options("all").label("serving").argument(insecure).start().await;
    cluster
        .until("the registry's refusal", |server| {
            status(server, "plugins", "fetched")["lastError"].as_str().is_some_and(|error| error.contains("401"))
        })
        .await;
    let config = json!({"auths": {registry.address.to_string(): {"username": "alice", "password": "open-sesame"}}});
    let config = base64::engine::general_purpose::STANDARD.encode(config.to_string());
    cluster.server.apply(json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson",
        "metadata": {"name": "pull", "namespace": "shop"}, "data": {".dockerconfigjson": config}}));
    cluster
        .until("the Plugin to be ready", |server| {
            let conditions = brief(&status(server, "plugins", "fetched")["conditions"]);
            conditions == ["Accepted=True/Accepted", "Ready=True/Ready"]
        })
        .await;
    let found = status(&cluster.server, "plugins", "fetched");
    assert_eq!(found["imageDigest"], json!(image), "{found}");
    assert_eq!(
        (&found["digest"], &found["size"]),
        (&json!(registry::digest(&module)), &json!(module.len())),
        "{found}"
    );
    assert!(found["lastError"].is_null(), "{found}");

    // A tag is looked up once for each change of the object, whatever that is.
    let other = sluice_tests::guests::versioned().with_version(2);
    let moved = registry.put("versioned", "1", &[(registry::WASM, &other)]);
    let mut changed = plugin(&fetched);
    changed["spec"]["failMode"] = json!("Open");
    cluster.server.apply(changed);
    cluster
        .until("the tag's new image", |server| status(server, "plugins", "fetched")["imageDigest"] == json!(moved))
        .await;
    assert!(serving.stop().await.success());
}

#[tokio::test]
async fn policies_and_gateway_configs_say_where_they_hold_and_why_not() {
    let cluster = Cluster::new().await;
    let mut edge = gateway("edge", &[("http", 80)]);
    edge["spec"]["infrastructure"]["parametersRef"] =
        json!({"group": "sluice.dev", "kind": "GatewayConfig", "name": "settings"});
    cluster.server.apply(edge);
    cluster.server.apply(json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "GatewayConfig",
        "metadata": {"name": "settings", "namespace": "shop"}, "spec": {}}));
    let target = |name: &str| json!({"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": name});
    let limit = json!({"maxBody": "1Ki"});
    cluster.server.apply(policy("older", &json!({"targetRefs": [target("all")], "client": limit})));
    let both = json!({"targetRefs": [target("all"), target("nobody")], "client": limit});
    cluster.server.apply(policy("younger", &both));
    cluster.server.apply(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy",
        "metadata": {"name": "tls", "namespace": "shop"},
        "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "one"}],
                 "validation": {"hostname": "one.example",
                                "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "missing"}]}}}));
    cluster.server.apply(json!({"apiVersion": "gateway.networking.x-k8s.io/v1alpha1", "kind": "XBackendTrafficPolicy",
        "metadata": {"name": "retries", "namespace": "shop"},
        "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "one"}], "retryConstraint": {}}}));
    let others = json!({"ancestorRef": {"name": "x"}, "controllerName": "example.com/other", "conditions": []});
    cluster.server.set_status(Kind::BackendTLSPolicy, "shop", "tls", json!({"ancestors": [others]}));
    let gateway = cluster.options("all").start().await;

    let policies = "trafficpolicies";
    cluster.until("statuses", |server| !status(server, policies, "younger").is_null()).await;
    cluster.until("statuses", |server| !status(server, policies, "older").is_null()).await;
    let older = status(&cluster.server, policies, "older")["ancestors"].clone();
    let reference =
        json!({"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "shop", "name": "all"});
    assert_eq!(
        (&older[0]["ancestorRef"], &older[0]["controllerName"]),
        (&reference, &json!("sluice.dev/gateway-controller"))
    );
    assert_eq!(brief(&older[0]["conditions"]), ["Accepted=True/Accepted"]);
    let younger = status(&cluster.server, policies, "younger")["ancestors"].clone();
    assert_eq!(brief(&younger[0]["conditions"]), ["Accepted=False/Conflicted"]);
    assert_eq!(brief(&younger[1]["conditions"]), ["Accepted=False/TargetNotFound"]);
    cluster
        .until("the ancestor", |server| status(server, "backendtlspolicies", "tls")["ancestors"][1].is_object())
        .await;
    let tls = status(&cluster.server, "backendtlspolicies", "tls")["ancestors"].clone();
    assert_eq!((&tls[0], &tls[1]["ancestorRef"]["kind"]), (&others, &json!("Gateway")));
    let wanted = ["Accepted=False/NoValidCACertificate", "ResolvedRefs=False/InvalidCACertificateRef"];
    assert_eq!(brief(&tls[1]["conditions"]), wanted);
    cluster
        .until("the ancestor", |server| {
            status(server, "xbackendtrafficpolicies", "retries")["ancestors"][0].is_object()
        })
        .await;
    let retries = status(&cluster.server, "xbackendtrafficpolicies", "retries")["ancestors"].clone();
    assert_eq!(
        (&retries[0]["ancestorRef"]["kind"], &retries[0]["ancestorRef"]["name"]),
        (&json!("Gateway"), &json!("edge"))
    );
    assert_eq!(brief(&retries[0]["conditions"]), ["Accepted=True/Accepted"]);
    cluster.until("the GatewayConfig's", |server| !status(server, "gatewayconfigs", "settings").is_null()).await;
    let settings = status(&cluster.server, "gatewayconfigs", "settings");
    assert_eq!((&settings["uses"], &settings["usedBy"][0]["name"]), (&json!(1), &json!("edge")));
    assert_eq!(brief(&settings["conditions"]), ["Accepted=True/Accepted"]);

    // The older one goes: the other one's turn. And what was written once is not written again.
    let written = status_writes(&cluster.server, "gatewayconfigs");
    cluster.server.delete(Kind::TrafficPolicy, "shop", "older");
    cluster
        .until("the younger one's turn", |server| {
            let younger = status(server, policies, "younger")["ancestors"].clone();
            brief(&younger[0]["conditions"]) == ["Accepted=True/Accepted"]
        })
        .await;
    assert_eq!((written, status_writes(&cluster.server, "gatewayconfigs")), (1, 1));
    assert!(gateway.stop().await.success());
}

#[tokio::test]
async fn what_stays_wrong_with_an_ingress_is_told_by_one_event_whoever_leads() {
    let cluster = Cluster::new().await;
    cluster.server.apply(json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
        "metadata": {"name": "sluice"}, "spec": {"controller": "sluice.dev/ingress-controller"}}));
    let ingress = |name: &str, service: &str| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"ingressClassName": "sluice",
                     "defaultBackend": {"service": {"name": service, "port": {"number": 80}}}}})
    };
    cluster.server.apply(ingress("broken", "nobody"));
    let first = cluster.options("controller").label("first").start().await;
    cluster.until("an Event", |server| !server.all("events").is_empty()).await;
    let event = cluster.server.all("events").remove(0);
    let object = cluster.server.get("ingresses", "shop", "broken").unwrap();
    assert_eq!(event["involvedObject"]["uid"], object["metadata"]["uid"]);
    assert_eq!(
        (&event["type"], &event["reason"], &event["count"]),
        (&json!("Warning"), &json!("ServiceNotFound"), &json!(1))
    );
    let message = event["message"].as_str().unwrap();
    assert!(message.contains("spec.defaultBackend") && message.contains("nobody"), "{message}");
    assert!(first.stop().await.success());

    // The next leader finds that it was told, and tells of what has come since.
    cluster.server.apply(ingress("later", "nobody"));
    let second = cluster.options("controller").label("second").start().await;
    cluster.until("another Event", |server| server.all("events").len() == 2).await;
    let same =
        cluster.server.all("events").into_iter().find(|other| other["metadata"]["name"] == event["metadata"]["name"]);
    assert_eq!(same.unwrap()["count"], 1);
    // It is counted when the server has said that it has it.
    wait::until("the Event to be counted", || async {
        (second.metric("sluice_events_total", &[]).await >= 1.0).then_some(())
    })
    .await;
    assert_eq!(second.metric("sluice_events_total", &[]).await, 1.0);
    assert!(second.stop().await.success());
}

async fn leader(replicas: &[(&'static str, &Gateway)]) -> &'static str {
    wait::until("a leader", || async {
        for (name, replica) in replicas {
            if replica.metric("sluice_controller_leader", &[]).await == 1.0 {
                return Some(*name);
            }
        }
        None
    })
    .await
}

#[tokio::test]
async fn of_two_replicas_one_writes_and_the_other_goes_on_when_it_is_gone() {
    let cluster = Cluster::new().await;
    cluster.server.apply(gateway("edge", &[("http", 80)]));
    let start = |label| cluster.options("controller").label(label).start();
    let first = start("first").await;
    assert_eq!(leader(&[("first", &first)]).await, "first");
    let second = start("second").await;
    let written = |server: &ApiServer, route: &str| !parents(server, route).is_empty();
    cluster.until("a status", |server| written(server, "all")).await;
    assert_eq!(second.metric("sluice_controller_leader", &[]).await, 0.0);

    // Killed: the Lease runs out.
    let killed = Instant::now();
    first.signal(Signal::KILL);
    cluster.server.apply(route("after-kill", "one"));
    cluster.until("the successor's status", |server| written(server, "after-kill")).await;
    assert!(killed.elapsed() < Duration::from_secs(20), "{:?}", killed.elapsed());
    assert_eq!(leader(&[("second", &second)]).await, "second");

    // Stopped: it gives the Lease up.
    let third = start("third").await;
    let stopped = Instant::now();
    assert!(second.stop().await.success());
    cluster.server.apply(route("after-stop", "one"));
    cluster.until("the next one's status", |server| written(server, "after-stop")).await;
    assert!(stopped.elapsed() < Duration::from_secs(10), "{:?}", stopped.elapsed());
    assert!(third.stop().await.success());
    // Who takes over finds what was written, and leaves it.
    assert_eq!(status_writes(&cluster.server, "httproutes/all"), 1);
}
