//! Versions of a plugin that take each other's place under load, with broken ones between: no request fails, each sees one
//! version from its first phase to its last, the broken ones serve nobody, and nothing is left of those that are gone.

use crate::{HOST, judged};
use sluice_tests::certificate::Authority;
use sluice_tests::guests::{self, Versioned};
use sluice_tests::load::{Kind, Plan, Target};
use sluice_tests::objects::{
    class, gateway, http_route, join, plugin, plugin_on_route, secret, service, service_speaking,
};
use sluice_tests::{Backend, Folder, Gateway, ports, raw, wait};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Under load, from one good version to the other: a hundred where it is judged (`make judge`).
fn swaps() -> usize {
    if judged() { 100 } else { 20 }
}

/// Of them that have a broken version before them: one in so many.
const BROKEN_EVERY: usize = 4;

/// The two that take turns, as they stamp themselves.
const GOOD: [&str; 2] = ["version-0001", "version-0002"];

/// What is wrong with a version that never is to serve, and the problem that says so.
const BROKEN: [(&str, &str); 4] = [
    ("breaks--0003", "SLUICE-P402"),
    ("refuses-0004", "SLUICE-P403"),
    ("traps---0005", "SLUICE-P404"),
    ("unfit---0006", "SLUICE-P411"),
];

struct Site {
    gateway: Gateway,
    folder: Folder,
    http: u16,
    target: Target,
    plugin: Versioned,
    _backends: [Backend; 2],
}

impl Site {
    async fn start(instance: &str) -> Site {
        let (folder, authority) = (Folder::new(), Authority::default());
        let backends = [Backend::echo("web").await, Backend::echo("grpc").await];
        let (http, https) = (ports::free(), ports::free());
        let rules = "  - matches: [{path: {value: /echo.Echo}}]\n    backendRefs: [{name: grpc, port: 80}]\n  - backendRefs: [{name: web, port: 80}]\n";
        folder.write(
            "site.yaml",
            join([
                class(),
                gateway(http, Some((https, "site"))),
                secret("site", &authority.leaf(&[HOST])),
                http_route("stamped", &[HOST], rules),
                plugin("stamped", "stamped.wasm", &format!("  instance: {instance}\n")),
                plugin_on_route("stamped", "stamped", "stamped", "{}"),
                service("web", &[backends[0].address]),
                service_speaking("grpc", Some("kubernetes.io/h2c"), &[backends[1].address]),
            ]),
        );
        let plugin = guests::stamped();
        folder.write("stamped.wasm", plugin.named(GOOD[0]));
        let target = Target {
            http: http.into(),
            https: https.into(),
            host: HOST.to_owned(),
            tls: authority.trust(),
            path: "/load".to_owned(),
            grpc_path: "/echo.Echo/Chat".to_owned(),
            web_socket_path: "/chat".to_owned(),
            check: Some(Arc::new(of_one_version)),
        };
        let gateway = Gateway::start(&folder).await;
        let site = Site { gateway, folder, http, target, plugin, _backends: backends };
        site.serves(GOOD[0]).await;
        site
    }

    async fn serves(&self, version: &str) {
        wait::until(version, || async {
            let answer = raw::get(self.http, HOST, "/probe").await.ok()?;
            (answer.header("x-stamp").as_deref() == Some(version)).then_some(())
        })
        .await;
    }

    async fn swap(&self, version: &'static str) {
        self.folder.write("stamped.wasm", self.plugin.named(version));
        self.serves(version).await;
    }

    /// Puts a broken version there and waits until it was tried.
    async fn break_it(&self, (version, problem): (&str, &str)) {
        let module = self.plugin.named(version);
        let module = if problem == "SLUICE-P402" { guests::with_broken_code(module) } else { module };
        self.folder.write("stamped.wasm", module);
        wait::until(problem, || async {
            let (_, problems) = self.gateway.admin_get("/problems").await.ok()?;
            problems.contains(problem).then_some(())
        })
        .await;
    }

    fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.gateway.pid())).expect("it runs").count()
    }

    async fn instances(&self) -> f64 {
        self.gateway.metric("sluice_plugin_instances", &["stamped"]).await
    }
}

/// What the backend got and what the client got are of one version.
fn of_one_version(headers: &http::HeaderMap, body: &[u8]) -> Result<(), String> {
    let response = headers.get("x-stamp").and_then(|value| value.to_str().ok());
    let seen: serde_json::Value = serde_json::from_slice(body).map_err(|error| format!("no echo: {error}"))?;
    let fields = seen["headers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let request = fields.iter().find(|field| field[0] == "x-stamp").and_then(|field| field[1].as_str());
    match (request, response) {
        (Some(request), Some(response)) if request == response && GOOD.contains(&request) => Ok(()),
        _ => Err(format!("the request is of {request:?}, its response of {response:?}")),
    }
}

/// The access log's lines about the load. (A probe may come before the first version is ready.)
fn lines(gateway: &Gateway) -> Vec<serde_json::Value> {
    gateway.access_log().into_iter().filter(|line| line["path"] != "/probe").collect()
}

/// Each line was stamped by one and the same version in all three phases; gives how many each version has.
fn lines_of_one_version(gateway: &Gateway) -> BTreeMap<String, usize> {
    let mut versions = BTreeMap::new();
    for line in lines(gateway) {
        let stamps =
            ["request", "response", "log"].map(|phase| line["attributes"][format!("stamped.{phase}")].as_str());
        let [Some(request), Some(response), Some(log)] = stamps else { panic!("a phase was left out: {line}") };
        assert!(request == response && response == log, "versions were mixed: {line}");
        *versions.entry(request.to_owned()).or_insert(0) += 1;
    }
    versions
}

async fn swaps_under_load(instance: &str) {
    let site = Site::start(instance).await;
    let plan = Plan::default();
    let load = plan.start(&site.target);
    load.settled(&Kind::ALL, 5).await;
    let mut broken = BROKEN.iter().cycle();
    for n in 0..swaps() {
        if n.is_multiple_of(BROKEN_EVERY) {
            site.break_it(*broken.next().expect("a cycle has no end")).await;
            load.settled(&[Kind::Http1, Kind::Http2], 3).await;
        }
        site.swap(GOOD[(n + 1) % 2]).await;
        load.settled(&[Kind::Http1, Kind::Http2, Kind::NewTls], 3).await;
    }
    let report = load.stop().await;
    println!("{instance}: {report}");
    report.assert_flawless(&Kind::ALL);
    for kind in [Kind::Grpc, Kind::WebSocket] {
        assert_eq!(report.replaced.get(&kind), None, "a stream was ended by a swap");
    }

    // Streams have a line each, when they end.
    let answered: usize =
        [Kind::Http1, Kind::Http2, Kind::New, Kind::NewTls].into_iter().map(|kind| report.answered(kind)).sum();
    let exchanges = answered + (plan.grpc.connections + plan.web_socket.connections) as usize;
    wait::until("the access log", || async { (lines(&site.gateway).len() >= exchanges).then_some(()) }).await;
    let versions = lines_of_one_version(&site.gateway);
    assert_eq!(versions.keys().collect::<Vec<_>>(), GOOD, "{versions:?}");
    assert_eq!(site.gateway.metric("sluice_plugin_traps_total", &["stamped"]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn swaps_and_broken_versions_between_fail_no_request() {
    swaps_under_load("Fresh").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn swaps_of_a_pooled_plugin_fail_no_request() {
    swaps_under_load("Pooled").await;
}

/// Judged by a thousand (`make judge`); the bound is the same.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_versions_that_are_gone() {
    /// What the allocator holds on to goes up and down by some MiB, however many swaps there are.
    const RESIDENT: u64 = 16 << 20;

    let swaps = if judged() { 1_000 } else { 50 };
    for instance in ["Fresh", "Pooled"] {
        let site = Site::start(instance).await;
        let swap = async |n: usize| {
            site.swap(GOOD[(n + 1) % 2]).await;
            if n.is_multiple_of(10) {
                site.break_it(BROKEN[n / 10 % BROKEN.len()]).await;
            }
        };
        for n in 0..swaps / 5 {
            swap(n).await;
        }
        let (resident, descriptors, instances) = (site.gateway.resident(), site.descriptors(), site.instances().await);
        for n in swaps / 5..swaps {
            swap(n).await;
        }
        let now = site.gateway.resident();
        println!("{instance}: {resident} bytes resident after {} swaps, {now} after {swaps}", swaps / 5);
        assert!(
            now <= resident + RESIDENT,
            "{instance}: {resident} bytes were resident, and {now} after {swaps} swaps"
        );
        assert_eq!(site.instances().await, instances, "{instance}: instances of versions that are gone");
        wait::until("descriptors to be closed", || async { (site.descriptors() <= descriptors).then_some(()) }).await;
    }
}
