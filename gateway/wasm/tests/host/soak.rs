//! Millions of calls leave nothing behind: no memory, no descriptor, no thread, nothing in what the host accounts for.
//!
//! `SOAK_CALLS` says how many calls one instance serves (20,000); a tenth as many instances are made anew. `make soak` asks
//! for ten million. Memory is a process' own, so each part runs alone in one.

use crate::filters;
use crate::setup::{Host, guest, header, options, plugin, pooled, response_header, use_of};
use sluice_model::plugin::{Grants, PluginSpec, StoreGrant};
use sluice_wasm::{
    AttributeValue, Configured, Decision, Exchange, HostOptions, PlainRequest, PlainResponse, PluginError, Summary,
    TrapKind,
};
use std::collections::BTreeMap;
use std::fmt;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

/// KiB of anonymous memory that may have been added between the end of the warm-up and the end: the allocator's own
/// comings and goings. A leak of one byte in each of ten million calls would be ten times as much.
const MAX_GROWTH: u64 = 1_024;

fn calls() -> u64 {
    std::env::var("SOAK_CALLS").map_or(20_000, |calls| calls.parse().expect("SOAK_CALLS is a number of calls"))
}

/// Runs one of the tests below in a process of its own.
fn alone(name: &str) {
    let itself = std::env::current_exe().unwrap();
    let arguments = [&format!("soak::{name}"), "--exact", "--ignored", "--nocapture", "--test-threads=1"];
    let output = Command::new(itself).args(arguments).output().unwrap();
    let [told, failed] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success() && told.contains("1 passed"), "{told}\n{failed}");
    // The harness begins the line.
    let line = told.lines().find_map(|line| line.find(&format!("{name}: ")).and_then(|at| line.get(at..)));
    println!("{}", line.expect("it tells what it held"));
}

/// What this process holds.
#[derive(PartialEq)]
struct Held {
    /// In KiB.
    anonymous: u64,
    descriptors: usize,
    threads: u64,
    /// Instances in use, their memory, what is in stores and shared, series of plugins: every gauge of the host.
    gauges: BTreeMap<String, String>,
}

impl Held {
    fn now(host: &Host) -> Held {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let field = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_end_matches("kB").trim().parse().unwrap()
        };
        let (mut gauges, mut is_gauge, text) = (BTreeMap::new(), false, host.metrics());
        for line in text.lines() {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                is_gauge = family.ends_with(" gauge");
            } else if let (true, Some((series, value))) = (is_gauge && !line.starts_with('#'), line.rsplit_once(' ')) {
                gauges.insert(series.to_owned(), value.to_owned());
            }
        }
        Held {
            anonymous: field("RssAnon:"),
            descriptors: std::fs::read_dir("/proc/self/fd").unwrap().count(),
            threads: field("Threads:"),
            gauges,
        }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Held { anonymous, descriptors, threads, gauges } = self;
        write!(f, "{anonymous} KiB, {descriptors} descriptors, {threads} threads, {} gauges", gauges.len())
    }
}

/// Runs `once` so often, after a warm-up, and holds what is there at the end against what was there after that.
async fn soak(name: &str, host: &Host, count: u64, mut once: impl AsyncFnMut(u64)) {
    let warm_up = (count / 10).clamp(100, 10_000);
    for n in 0..warm_up {
        once(n).await;
    }
    let (before, began) = (Held::now(host), Instant::now());
    for n in warm_up..warm_up + count {
        once(n).await;
    }
    let (after, took) = (Held::now(host), began.elapsed());
    println!("{name}: {count} times in {took:.1?}; {before}, and in the end {after}");
    assert_eq!(after.gauges, before.gauges);
    assert_eq!(after.descriptors, before.descriptors);
    // Those of low priority begin when a call is slow for the first time: the machine is busy.
    assert!(after.threads <= before.threads + options().slow_threads as u64, "{before}; {after}");
    assert!(after.anonymous <= before.anonymous + MAX_GROWTH, "{before}; {after}");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Of a plugin: all that it can use, and the number of its calls so far.
const SERVICES: &str = "set limits k v;get limits k;swap limits k v w;counter limits c;take limits t 9 9 9 1;\
    add orders 1 size=l;gauge depth 7;observe wait 5;secret none;random 16;number;now;open nowhere;\
    attribute keeper.text text;calls";

/// Clients above this are refused.
const LIMIT: &str = r#"{"perMinute":2000000000000000000}"#;
const ABOVE: &str = "increment limits above 4000000000000000000";

async fn keeper(spec: PluginSpec) -> (Host, Arc<Configured>) {
    // No instance is recycled.
    let host = Host::with(HostOptions { recycle_after: u32::MAX, ..options() });
    let grant = StoreGrant { quota: StoreGrant::DEFAULT_QUOTA };
    let grants = Grants { stores: [("limits".into(), grant)].into(), ..Grants::default() };
    let plugin_use = use_of("keeper", LIMIT);
    host.grant(&[&spec], &[&plugin_use], &[(spec.key.clone(), grants)]).await;
    let version = host.current(&plugin_use.key()).unwrap_or_else(|| panic!("{:?}", host.host.problems()));
    let mut first = Exchange::new(PlainRequest::get("/").header("x-client", "within").header("x-do", ABOVE));
    version.begin().on_request(&mut first).await.unwrap();
    assert_eq!(header(&first, "x-told").as_deref(), Some("4000000000000000000"));
    (host, version)
}

/// One exchange, of two calls; every fourth is answered by the plugin. Gives the number of calls that the instance told of.
async fn serve(version: &Arc<Configured>, n: u64) -> Option<u64> {
    let above = n % 4 == 3;
    let request = PlainRequest::get("/orders?page=1")
        .header("x-client", if above { "above" } else { "within" })
        .header("x-do", SERVICES)
        .header("x-do-log", "counter limits within")
        .header("accept", "application/json")
        .header("user-agent", "soak");
    let (mut exchange, mut invocation) = (Exchange::new(request), version.begin());
    let decision = invocation.on_request(&mut exchange).await.expect("the request's call ends well");
    let answered = matches!(&decision, Decision::Respond(reply) if reply.status == 429);
    assert_eq!(answered, above, "{decision:?}");
    invocation.on_log(&mut exchange, Summary::default()).await.expect("the log's call ends well");
    let logged = exchange.attributes.get("keeper.log");
    assert!(matches!(logged, Some(AttributeValue::String(count)) if count.parse::<u64>().is_ok()), "{logged:?}");
    if above {
        return None;
    }
    let told = header(&exchange, "x-told").expect("it told something");
    assert!(told.starts_with("ok; Some(\"v\"); true; 0; "), "{told}");
    told.rsplit_once("; ").and_then(|(_, calls)| calls.parse().ok())
}

#[test]
#[ignore = "runs alone, in a process that the test below starts"]
fn pooled_alone() {
    runtime().block_on(async {
        let (host, version) = keeper(pooled(plugin("keeper", guest("keeper")))).await;
        // The one that granted, and then two an exchange.
        soak("pooled_alone", &host, calls() / 2, async |n| {
            let told = serve(&version, n).await;
            assert!(told.is_none_or(|calls| calls == 2 + 2 * n), "{told:?} at {n}: it is the one instance");
        })
        .await;
    });
}

#[test]
fn one_instance_serves_all_calls_and_leaves_nothing_behind() {
    alone("pooled_alone");
}

#[test]
#[ignore = "runs alone, in a process that the test below starts"]
fn fresh_alone() {
    runtime().block_on(async {
        let (host, version) = keeper(plugin("keeper", guest("keeper"))).await;
        // One instance for each of the two calls.
        soak("fresh_alone", &host, calls() / 10 / 2, async |n| {
            let told = serve(&version, n).await;
            assert!(told.is_none_or(|calls| calls == 1), "{told:?} at {n}: each call has an instance of its own");
        })
        .await;
    });
}

#[test]
fn fresh_instances_leave_nothing_behind() {
    alone("fresh_alone");
}

/// What the filter does with one request after the other.
const DONE: [&str; 7] = ["edit", "share", "metrics", "property", "set-property", "reply", "pairs"];

/// One exchange with a filter, of three phases.
async fn filter(version: &Arc<Configured>, what: &'static str) {
    let request = PlainRequest::get("/orders?page=1")
        .header("x-do", what)
        .header("x-with", "request/path")
        .header("accept", "application/json")
        .header("user-agent", "soak");
    let (mut exchange, mut invocation) = (Exchange::new(request), version.begin());
    let decision = invocation.on_request(&mut exchange).await.expect("the request's callback ends well");
    assert_eq!(matches!(decision, Decision::Respond(_)), what == "reply", "{decision:?}");
    exchange.put_response(Box::new(PlainResponse::default()));
    invocation.on_response(&mut exchange).await.expect("the response's callback ends well");
    assert!(response_header(&exchange, "x-seen").is_some());
    invocation.on_log(&mut exchange, Summary::default()).await.expect("the log's callback ends well");
}

#[test]
#[ignore = "runs alone, in a process that the test below starts"]
fn filter_alone() {
    runtime().block_on(async {
        let host = Host::new();
        let version = host.ready(&filters::probe(), "{}").await;
        let count = calls() / 3;
        soak("filter_alone", &host, count, async |n| filter(&version, DONE[n as usize % DONE.len()]).await).await;
        // Numbers of contexts go up for as long as a VM lives.
        let mut exchange = Exchange::new(PlainRequest::get("/").header("x-do", "shared").header("x-with", "ended"));
        version.begin().on_request(&mut exchange).await.unwrap();
        let told = header(&exchange, "x-told").unwrap();
        let last: u64 = told.split(' ').next().unwrap().parse().unwrap();
        assert!(last >= count, "{told}: it is the one VM");
    });
}

#[test]
fn one_vm_of_a_filter_serves_all_exchanges_and_leaves_nothing_behind() {
    alone("filter_alone");
}

#[test]
#[ignore = "runs alone, in a process that the test below starts"]
fn vms_alone() {
    runtime().block_on(async {
        let host = Host::new();
        let version = host.ready(&filters::probe(), "{}").await;
        soak("vms_alone", &host, calls() / 10, async |_| {
            let mut exchange = Exchange::new(PlainRequest::get("/").header("x-do", "trap"));
            let ended = version.begin().on_request(&mut exchange).await;
            assert!(matches!(&ended, Err(PluginError::Trap { kind: TrapKind::Panic, .. })), "{ended:?}");
            filter(&version, "edit").await;
        })
        .await;
    });
}

#[test]
fn vms_of_a_filter_that_are_made_anew_leave_nothing_behind() {
    alone("vms_alone");
}
