//! Filters of the proxy-wasm ABI, unmodified, under a real Envoy and under Sluice: both get the same requests, and what the
//! client and the backends see of them is the same but for what [`KNOWN`] lists.
//!
//! ```text
//! client ─┬─► Envoy,  a port a filter ─► recorder, auth        both sides: HTTP/1.1 and HTTP/2 by prior knowledge,
//!         └─► sluice, a host a filter ─► recorder, auth        to clients and to backends
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod backend;
mod cases;
mod client;
mod comparison;
mod envoy;
mod known;

use backend::Recorder;
use cases::{Case, Filter};
use client::Backend;
use comparison::{Observed, differences, known, observed};
use envoy::{Cluster, Envoy, Port};
use known::KNOWN;
use serde_json::json;
use sluice_tests::objects::{self, NAMESPACE, join, plugin, route_to, service, service_speaking};
use sluice_tests::{Folder, Gateway, guests, ports, raw, wait};
use std::collections::BTreeMap;

/// Hosts, by the protocol that is spoken with the backend.
const HOSTS: [(&str, &str); 2] = [("one.example", "one"), ("two.example", "two")];

/// A gateway with its own backends.
struct Side {
    backend: Recorder,
    auth: Recorder,
    /// By filter.
    ports: BTreeMap<&'static str, u16>,
}

impl Side {
    async fn new(filters: &[Filter]) -> Side {
        let (backend, auth) = (Recorder::start().await, Recorder::start().await);
        Side { backend, auth, ports: filters.iter().map(|filter| (filter.name, ports::free())).collect() }
    }

    async fn exchange(&self, filter: &str, case: &Case, http2: bool, host: &str, name: &str) -> Observed {
        let open_gate = || self.backend.open_gate();
        let backend = Backend { received: self.backend.received(), open_gate: &open_gate };
        let answer = client::exchange(self.ports[filter], host, http2, case, backend).await;
        let mut all = observed(&answer, &self.backend.take(), &self.auth.take());
        if filter == "filter-witness" {
            all.insert("callbacks".to_owned(), self.callbacks(host, name).await);
        }
        all
    }

    /// What the witness noted of a case; its list is there once the exchange is over.
    async fn callbacks(&self, host: &str, case: &str) -> String {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nx-read: {case}\r\n\r\n");
        wait::until(case, || async {
            let answer = raw::exchange(self.ports["filter-witness"], &request).await.ok()?;
            (answer.status == 200).then(|| answer.text())
        })
        .await
    }
}

async fn start_envoy(side: &Side, filters: &[Filter]) -> Envoy {
    let ports: Vec<Port> = filters
        .iter()
        .map(|filter| Port {
            filter: filter.name,
            config: filter.config.clone(),
            module: guests::module(filter.name),
            port: side.ports[filter.name],
        })
        .collect();
    let cluster = |name, recorder: &Recorder, http2| Cluster { name, address: recorder.address(), http2 };
    let clusters = [
        cluster("one", &side.backend, false),
        cluster("two", &side.backend, true),
        cluster("auth", &side.auth, false),
        cluster("calls", &side.auth, true),
    ];
    Envoy::start(&ports, &HOSTS, &clusters).await
}

async fn start_sluice(side: &Side, filters: &[Filter]) -> (Folder, Gateway) {
    let folder = Folder::new();
    // A client of HTTP/1 that still sends when it is refused is read to its end, as the client of the test hears nothing before.
    let mut documents = vec![
        objects::class(),
        service("one", &[side.backend.address()]),
        service_speaking("two", Some("kubernetes.io/h2c"), &[side.backend.address()]),
        service("auth", &[side.auth.address()]),
        service_speaking("calls", Some("kubernetes.io/h2c"), &[side.auth.address()]),
        format!(
            "\
apiVersion: sluice.dev/v1alpha1
kind: GatewayConfig
metadata: {{name: edge, namespace: {NAMESPACE}}}
spec:
  listeners:
  - {{name: \"*\", via: false, requestId: false, serverHeader: {{mode: Remove}}, limits: {{requestsPerConnection: 100000, drainBytes: 1Mi}}}}
"
        ),
    ];
    let config_of = "  infrastructure:\n    parametersRef: {group: sluice.dev, kind: GatewayConfig, name: edge}\n";
    for Filter { name, config, .. } in filters {
        let file = format!("{name}.wasm");
        folder.write(&file, std::fs::read(guests::module(name)).unwrap());
        // A Gateway for each, as Envoy has a listener for each.
        let gateway = objects::gateway(side.ports[name], None).replace("name: edge,", &format!("name: {name},"));
        documents.push(format!("{gateway}{config_of}"));
        for (host, cluster) in HOSTS {
            let route = route_to(&format!("{name}-{cluster}"), &[host], cluster);
            documents.push(route.replace("parentRefs: [{name: edge}]", &format!("parentRefs: [{{name: {name}}}]")));
        }
        let spec = [
            "  limits: {runTime: 20ms, deadline: 10s, bodyBuffer: 1Mi}\n",
            "  capabilities: {backends: [{name: auth, ref: {name: auth, port: 80}}, {name: calls, ref: {name: calls, port: 80}}]}\n",
        ]
        .concat();
        documents.push(plugin(name, &file, &spec));
        let config = if config.is_null() { json!({}) } else { config.clone() };
        let targets: Vec<_> = HOSTS
            .iter()
            .map(|(_, cluster)| {
                json!({"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": format!("{name}-{cluster}")})
            })
            .collect();
        documents.push(format!(
            "\
apiVersion: sluice.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  targetRefs: {}
  plugins: [{{name: {name}, pluginRef: {{name: {name}}}, config: {config}}}]
",
            json!(targets)
        ));
    }
    folder.write("all.yaml", join(documents));
    let gateway = Gateway::start(&folder).await;
    for Filter { name, .. } in filters {
        wait::until(name, || async {
            let answer = raw::get(side.ports[name], HOSTS[0].0, "/").await.ok()?;
            let is_served = !matches!(answer.status, 404 | 503) || answer.header("powered-by").is_some();
            is_served.then_some(())
        })
        .await;
    }
    (folder, gateway)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_do_the_same_as_under_envoy() {
    let filters = cases::all();
    let (at_envoy, at_sluice) = (Side::new(&filters).await, Side::new(&filters).await);
    let _envoy = start_envoy(&at_envoy, &filters).await;
    let (_folder, _gateway) = start_sluice(&at_sluice, &filters).await;
    for recorder in [&at_sluice.backend, &at_sluice.auth] {
        recorder.take();
    }
    let (mut met, mut unknown) = (vec![false; KNOWN.len()], Vec::new());
    for filter in &filters {
        for (number, case) in filter.cases.iter().enumerate() {
            for (http2, (host, cluster)) in [(false, HOSTS[0]), (false, HOSTS[1]), (true, HOSTS[0]), (true, HOSTS[1])] {
                if case.http2_only && !(http2 && cluster == "two") {
                    continue;
                }
                let protocol = if http2 { 2 } else { 1 };
                let name = format!("{}, HTTP/{protocol} to {cluster}: {}", filter.name, case.name);
                let id = format!("{number}-{protocol}-{cluster}");
                let case = case.with_id(&id);
                let (envoy, sluice) = tokio::join!(
                    at_envoy.exchange(filter.name, &case, http2, host, &id),
                    at_sluice.exchange(filter.name, &case, http2, host, &id),
                );
                for (what, envoy, sluice) in differences(&envoy, &sluice) {
                    match known(KNOWN, what, &name) {
                        Some(index) => met[index] = true,
                        None => unknown.push(format!("{name}\n    {what}\n    Envoy:  {envoy}\n    Sluice: {sluice}")),
                    }
                }
            }
        }
    }
    assert!(unknown.is_empty(), "{} differences:\n{}", unknown.len(), unknown.join("\n"));
    let stale = KNOWN.iter().zip(met).filter(|(known, met)| !met && !known.sometimes);
    let stale: Vec<_> = stale.map(|(known, _)| known.to_string()).collect();
    assert!(stale.is_empty(), "these are listed as differences, and are none any more:\n{}", stale.join("\n"));
}
