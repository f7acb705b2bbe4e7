//! A plugin that misbehaves on one route, beside healthy routes under load: the others' answers stay good and quick, its
//! own follow its fail mode.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod swaps;

use sluice_tests::certificate::Authority;
use sluice_tests::load::{Kind, Plan, Report, Target};
use sluice_tests::objects::{
    class, gateway, http_route, join, plugin, plugin_on_route, secret, service, service_speaking,
};
use sluice_tests::{Backend, Folder, Gateway, guests, ports, raw, wait};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

const HOST: &str = "chaos.example";

/// Bad requests a second on each core.
const BAD_PER_CORE: u32 = 20;

fn bad_per_second() -> u32 {
    BAD_PER_CORE * std::thread::available_parallelism().map_or(1, |n| n.get() as u32)
}

/// Of load with the plugin healthy, and again with it misbehaving.
const PHASE: Duration = Duration::from_secs(8);

struct Site {
    gateway: Gateway,
    _folder: Folder,
    _backends: [Backend; 2],
    target: Target,
    http: u16,
}

async fn site(instance: &str, fail_mode: &str) -> Site {
    let (folder, authority) = (Folder::new(), Authority::default());
    let backends = [Backend::echo("web").await, Backend::echo("grpc").await];
    let (http, https) = (ports::free(), ports::free());
    let healthy = "  - matches: [{path: {value: /echo.Echo}}]\n    backendRefs: [{name: grpc, port: 80}]\n  - backendRefs: [{name: web, port: 80}]\n";
    let bad = "  - matches: [{path: {value: /plugged}}]\n    backendRefs: [{name: web, port: 80}]\n";
    folder.write(
        "site.yaml",
        join([
            class(),
            gateway(http, Some((https, "site"))),
            secret("site", &authority.leaf(&[HOST])),
            http_route("healthy", &[HOST], healthy),
            http_route("plugged", &[HOST], bad),
            plugin("probe", "probe.wasm", &format!("  instance: {instance}\n  failMode: {fail_mode}\n")),
            plugin_on_route("probe", "plugged", "probe", "{name: chaos}"),
            // The neighbours have a plugin too: what one takes of instances, memory and threads must leave theirs alone.
            plugin("versioned", "versioned.wasm", ""),
            plugin_on_route("versioned", "healthy", "versioned", "{}"),
            service("web", &[backends[0].address]),
            service_speaking("grpc", Some("kubernetes.io/h2c"), &[backends[1].address]),
        ]),
    );
    folder.write("probe.wasm", std::fs::read(guests::module("probe")).unwrap());
    folder.write("versioned.wasm", guests::versioned().with_version(1));
    let gateway = Gateway::start(&folder).await;
    wait::until("the neighbours' plugin", || async {
        raw::get(http, HOST, "/healthy").await.ok().filter(|answer| answer.header("x-plugin-version").is_some())
    })
    .await;
    wait::until("the plugin", || async { raw::get(http, HOST, "/plugged").await.ok().filter(|a| a.status == 200) })
        .await;
    let target = Target {
        http: http.into(),
        https: https.into(),
        host: HOST.to_owned(),
        tls: authority.trust(),
        path: "/healthy".to_owned(),
        grpc_path: "/echo.Echo/Chat".to_owned(),
        web_socket_path: "/chat".to_owned(),
        check: None,
    };
    Site { gateway, _folder: folder, _backends: backends, target, http }
}

/// Requests of a fixed rate to the plugged route, each on a connection of its own; gives how often which status came.
struct Bad {
    tasks: JoinSet<BTreeMap<u16, usize>>,
    stop: watch::Sender<bool>,
}

impl Bad {
    fn start(port: u16, behaviour: &'static str) -> Bad {
        let (stop, stopped) = watch::channel(false);
        let period = Duration::from_secs(1) / bad_per_second();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut ticks = tokio::time::interval(period);
            let mut running = JoinSet::new();
            let statuses = Arc::new(std::sync::Mutex::new(BTreeMap::new()));
            while !*stopped.borrow() {
                ticks.tick().await;
                let statuses = statuses.clone();
                running.spawn(async move {
                    let request = format!(
                        "GET /plugged HTTP/1.1\r\nHost: {HOST}\r\nX-Do: {behaviour}\r\nConnection: close\r\n\r\n"
                    );
                    let status = raw::exchange(port, request).await.map_or(0, |answer| answer.status);
                    *statuses.lock().unwrap().entry(status).or_insert(0) += 1;
                });
                while running.try_join_next().is_some() {}
            }
            while running.join_next().await.is_some() {}
            let statuses = statuses.lock().unwrap();
            statuses.clone()
        });
        Bad { tasks, stop }
    }

    async fn stop(mut self) -> BTreeMap<u16, usize> {
        self.stop.send_replace(true);
        self.tasks.join_next().await.unwrap().unwrap()
    }
}

async fn phase(site: &Site, behaviour: &'static str) -> (Report, BTreeMap<u16, usize>) {
    let load = Plan::default().start(&site.target);
    let bad = Bad::start(site.http, behaviour);
    tokio::time::sleep(PHASE).await;
    let statuses = bad.stop().await;
    (load.stop().await, statuses)
}

/// Only a quiet machine and a release build give a ratio that means something: `make judge`.
fn judged() -> bool {
    std::env::var_os("SLUICE_JUDGED").is_some_and(|v| v == "1")
}

async fn neighbours_are_left_alone(instance: &str, fail_mode: &str, behaviour: &'static str) {
    let site = site(instance, fail_mode).await;
    let (healthy, statuses) = phase(&site, "none").await;
    healthy.assert_flawless(&Kind::ALL);
    assert_eq!(statuses.keys().copied().collect::<Vec<_>>(), [200], "the healthy plugin: {statuses:?}");

    let (beside, statuses) = phase(&site, behaviour).await;
    beside.assert_flawless(&Kind::ALL);
    let expected = if fail_mode == "Closed" { 503 } else { 200 };
    assert_eq!(statuses.keys().copied().collect::<Vec<_>>(), [expected], "{behaviour}: {statuses:?}");
    let sent: usize = statuses.values().sum();
    assert!(
        sent as f64 >= PHASE.as_secs_f64() * f64::from(bad_per_second()) * 0.8,
        "only {sent} bad requests were sent"
    );
    assert!(site.gateway.metric("sluice_plugin_traps_total", &["probe"]).await >= 1.0);
    if fail_mode == "Closed" {
        site.gateway.logged(|l| l["path"] == "/plugged" && l["status"] == 503).await;
        let log = site.gateway.access_log();
        let reasons: BTreeSet<_> = log
            .iter()
            .filter(|l| l["path"] == "/plugged" && l["status"] == 503)
            .map(|l| l["reason"].to_string())
            .collect();
        // One that takes long waits for its own calls before it, and may wait in vain; one that fails at once never does.
        let quick = behaviour == "trap";
        assert!(reasons.contains("\"plugin_failed\""), "{reasons:?}");
        assert!(
            reasons.iter().all(|r| r == "\"plugin_failed\"" || (!quick && r == "\"plugin_overloaded\"")),
            "{reasons:?}"
        );
    }
    assert_eq!(site.gateway.metric("sluice_plugin_traps_total", &["versioned"]).await, 0.0);

    let ratio = beside.quantile(0.99).as_secs_f64() / healthy.quantile(0.99).as_secs_f64();
    println!(
        "{behaviour} ({instance}, {fail_mode}): p99 of the others {:?} with the plugin healthy, {:?} beside it: {ratio:.2}x; {sent} bad requests",
        healthy.quantile(0.99),
        beside.quantile(0.99),
    );
    if judged() {
        assert!(ratio <= 1.5, "the neighbours' p99 rose {ratio:.2}-fold");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_loops_leaves_its_neighbours_alone() {
    neighbours_are_left_alone("Fresh", "Closed", "loop").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_traps_leaves_its_neighbours_alone() {
    neighbours_are_left_alone("Fresh", "Closed", "trap").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_allocates_without_end_leaves_its_neighbours_alone() {
    neighbours_are_left_alone("Fresh", "Closed", "allocate").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooled_plugin_that_loops_leaves_its_neighbours_alone() {
    neighbours_are_left_alone("Pooled", "Closed", "loop").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_fails_open_is_passed_by() {
    neighbours_are_left_alone("Fresh", "Open", "trap").await;
}
