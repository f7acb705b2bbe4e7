//! `sluice run --kube --role …`: what is written to the cluster, by whom, and when.

mod gateways;
mod listener_sets;
mod plugins;
mod policies;
mod replicas;
mod routes;

use serde_json::{Value, json};
use sluice_model::Kind;
use sluice_tests::gateway::Options;
use sluice_tests::{ApiServer, Backend, Folder, ports, wait};
use std::net::SocketAddr;

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
