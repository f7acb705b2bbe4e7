//! What one change costs where there are many routes: `cargo bench -p sluice-translate`.
//!
//! 5,000 HTTPRoutes on 100 hosts, each with a Service and an EndpointSlice of its own. The former configuration is
//! held, as the data plane holds it. Promised: one endpoint at most 1 ms of CPU, one route at most 5 ms.

use divan::Bencher;
use serde_json::{Value, json};
use sluice_resources::{Change, Object, parse};
use sluice_translate::{Options, Translator};

const ROUTES: usize = 5_000;
const HOSTS: usize = 100;

fn main() {
    divan::main();
}

fn object(document: Value) -> Object {
    let parsed = parse(document);
    match parsed.object {
        Some(object) => object,
        None => unreachable!("the bench's objects can be read: {:?}", parsed.problems),
    }
}

fn gateway() -> Object {
    object(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": { "name": "gw", "namespace": "bench" },
        "spec": { "gatewayClassName": "sluice", "listeners": [{ "name": "web", "port": 80, "protocol": "HTTP" }] }
    }))
}

fn route(i: usize, weight: u32) -> Object {
    object(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": { "name": format!("r{i}"), "namespace": "bench" },
        "spec": {
            "parentRefs": [{ "name": "gw" }],
            "hostnames": [format!("h{}.example.com", i % HOSTS)],
            "rules": [{
                "matches": [{ "path": { "type": "PathPrefix", "value": format!("/api/v1/{i}") } }],
                "backendRefs": [{ "name": format!("s{i}"), "port": 80, "weight": weight }]
            }]
        }
    }))
}

fn service(i: usize) -> Object {
    object(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": format!("s{i}"), "namespace": "bench" },
        "spec": { "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] }
    }))
}

fn slice(i: usize, last: usize) -> Object {
    let name = format!("s{i}");
    object(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": format!("{name}-1"), "namespace": "bench", "labels": { "kubernetes.io/service-name": name } },
        "addressType": "IPv4", "ports": [{ "name": "http", "port": 8080 }],
        "endpoints": (0..4).map(|n| json!({ "addresses": [format!("10.{}.{}.{}", i / 250, i % 250, n * 10 + last)] })).collect::<Vec<_>>()
    }))
}

fn world() -> Vec<Change> {
    let each = (0..ROUTES).flat_map(|i| [route(i, 1), service(i), slice(i, 1)]);
    std::iter::once(gateway()).chain(each).map(Change::Upsert).collect()
}

fn translated() -> Translator {
    let mut translator = Translator::new(Options::default());
    translator.apply(world());
    translator
}

/// Applies the two forms of one object in turn, while the data plane holds the configuration before.
fn alternate(bencher: Bencher<'_, '_>, forms: [Object; 2]) {
    let mut translator = translated();
    let mut held = translator.config().clone();
    let mut turn = 0;
    bencher.bench_local(|| {
        turn += 1;
        let output = translator.apply(vec![Change::Upsert(forms[turn % 2].clone())]);
        assert!(output.changed);
        held = output.config;
    });
    drop(held);
}

#[divan::bench]
fn one_endpoint(bencher: Bencher<'_, '_>) {
    alternate(bencher, [slice(77, 1), slice(77, 2)]);
}

#[divan::bench]
fn one_route(bencher: Bencher<'_, '_>) {
    alternate(bencher, [route(77, 1), route(77, 2)]);
}

#[divan::bench(sample_count = 5, sample_size = 1)]
fn everything_at_once(bencher: Bencher<'_, '_>) {
    let changes = world();
    bencher.with_inputs(|| changes.clone()).bench_local_values(|changes| {
        let mut translator = Translator::new(Options::default());
        translator.apply(changes).config
    });
}

#[divan::bench(sample_count = 5, sample_size = 1)]
fn a_gateway_of_all_routes(bencher: Bencher<'_, '_>) {
    let more = object(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": { "name": "gw", "namespace": "bench" },
        "spec": { "gatewayClassName": "sluice", "listeners": [
            { "name": "web", "port": 80, "protocol": "HTTP" }, { "name": "more", "port": 81, "protocol": "HTTP" }
        ] }
    }));
    alternate(bencher, [gateway(), more]);
}
