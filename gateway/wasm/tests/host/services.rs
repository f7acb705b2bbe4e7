//! What a plugin asks of the gateway besides its exchange: clock, random bytes, secrets, metrics and stores.

use crate::setup::options;
use crate::setup::{Host, guest, header, plugin, pooled, use_of};
use futures::future::BoxFuture;
use sluice_model::plugin::{Grants, PluginKey, PluginSpec, PluginUse, SecretValue, StoreGrant};
use sluice_wasm::{
    AttributeValue, Configured, Destination, Exchange, FetchError, HostOptions, MetricValue, Outbound, OutboundRequest,
    OutboundResponse, PlainRequest, Summary, TestBench,
};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

fn keeper() -> PluginSpec {
    plugin("keeper", guest("keeper"))
}

fn of(namespace: &str, name: &str) -> PluginSpec {
    PluginSpec { key: PluginKey::new(namespace, name), ..keeper() }
}

fn use_by(spec: &PluginSpec) -> PluginUse {
    PluginUse { plugin: spec.key.clone(), ..use_of("keeper", "{}") }
}

fn stores(names: &[&str]) -> Grants {
    let grant = StoreGrant { quota: StoreGrant::DEFAULT_QUOTA };
    Grants { stores: names.iter().map(|name| ((*name).into(), grant)).collect(), ..Grants::default() }
}

fn secret(name: &str, value: Option<&str>) -> Grants {
    let value = value.map(|value| SecretValue::new(value.as_bytes()));
    Grants { secrets: [(name.into(), value)].into(), ..Grants::default() }
}

/// A host with one plugin that may reach this.
async fn given(spec: &PluginSpec, grants: &Grants) -> (Host, Arc<Configured>) {
    let host = Host::new();
    host.grant(&[spec], &[&use_by(spec)], &[(spec.key.clone(), grants.clone())]).await;
    let version = host.current(&use_by(spec).key()).unwrap_or_else(|| panic!("{:?}", host.host.problems()));
    (host, version)
}

async fn told(version: &Arc<Configured>, what: &'static str) -> String {
    let mut exchange = Exchange::new(PlainRequest::get("/").header("x-do", what));
    version.begin().on_request(&mut exchange).await.unwrap();
    header(&exchange, "x-told").unwrap()
}

#[tokio::test]
async fn the_clocks_tell_the_time() {
    let (_host, version) = given(&keeper(), &Grants::default()).await;
    let nanoseconds = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let before = nanoseconds();
    let now: u128 = told(&version, "now").await.parse().unwrap();
    assert!((before..=nanoseconds()).contains(&now), "{before} {now}");
    let all = told(&version, "monotonic;monotonic").await;
    let (first, second) = all.split_once("; ").unwrap();
    assert!(first.parse::<u64>().unwrap() <= second.parse::<u64>().unwrap(), "{all}");
    assert!(second.parse::<u64>().unwrap() <= told(&version, "monotonic").await.parse().unwrap());
}

#[tokio::test]
async fn random_bytes_differ_and_are_bounded() {
    let (_host, version) = given(&keeper(), &Grants::default()).await;
    let all = told(&version, "random 16;random 16;number;number;random 0").await;
    let all: Vec<_> = all.split("; ").collect();
    assert!(all[0] != all[1] && all[2] != all[3] && all[4] == "[]", "{all:?}");
    assert_eq!(all[0].split(',').count(), 16);
    let mut exchange = Exchange::new(PlainRequest::get("/").header("x-do", "random 65537"));
    let error = version.begin().on_request(&mut exchange).await.unwrap_err();
    assert!(error.to_string().contains("at most 65536 bytes"), "{error}");
}

/// Knows one backend, and is never called.
struct Known;

impl Outbound for Known {
    fn has(&self, backend: &str) -> bool {
        backend == "two"
    }

    fn fetch(&self, _: &str, _: OutboundRequest) -> BoxFuture<'static, Result<OutboundResponse, FetchError>> {
        unreachable!("it only routes")
    }
}

#[tokio::test]
async fn a_plugin_says_where_a_request_goes_where_it_may() {
    let router = plugin("router", guest("router"));
    let asked = async |version: &Arc<Configured>, fields: &[(&'static str, &'static str)]| {
        let request = fields.iter().fold(PlainRequest::get("/"), |request, (name, value)| request.header(name, value));
        let mut exchange = Exchange::new(request);
        exchange.outbound = Some(Arc::new(Known));
        version.begin().on_request(&mut exchange).await.unwrap();
        let said = header(&exchange, "x-said").unwrap();
        (exchange.destination, said)
    };
    let to = |backend: Option<&str>, find_route| Destination { backend: backend.map(Into::into), find_route };
    let (_host, version) = given(&router, &Grants { routing: true, ..Grants::default() }).await;
    assert_eq!(asked(&version, &[("x-use", "two")]).await, (to(Some("two"), false), "done".to_owned()));
    assert_eq!(asked(&version, &[("x-find", "/b")]).await, (to(None, true), "done".to_owned()));
    let both = [("x-find", "/b"), ("x-use", "two")];
    assert_eq!(asked(&version, &both).await, (to(Some("two"), true), "done, done".to_owned()));
    let (destination, said) = asked(&version, &[("x-use", "three")]).await;
    assert_eq!(destination, Destination::default());
    assert!(said.contains("capabilities.backends has no `three`"), "{said}");
    let (_host, version) = given(&router, &Grants::default()).await;
    for field in [("x-use", "two"), ("x-find", "/b")] {
        let (destination, said) = asked(&version, &[field]).await;
        assert_eq!(destination, Destination::default());
        assert!(said.contains("capabilities.routing does not allow it"), "{said}");
    }
}

#[tokio::test]
async fn configure_can_use_none_of_them() {
    for (what, said) in [
        ("now", "configure can't use the clock"),
        ("monotonic", "configure can't use the clock"),
        ("random 1", "configure can't use random bytes"),
        ("number", "configure can't use random numbers"),
        ("secret a", "configure can't use secrets"),
        ("add a 1", "configure can't use metrics"),
        ("open a", "configure can't use stores"),
    ] {
        let host = Host::new();
        let spec = keeper();
        let plugin_use = use_of("keeper", &format!(r#"{{"inConfigure":"{what}"}}"#));
        let grants = Grants { secrets: secret("a", Some("b")).secrets, ..stores(&["a"]) };
        host.grant(&[&spec], &[&plugin_use], &[(spec.key.clone(), grants)]).await;
        let problem = host.problem();
        assert!(problem.message.contains(said), "{what}: {}", problem.message);
    }
}

#[tokio::test]
async fn a_secret_that_is_rotated_is_read_anew_by_instances_that_run() {
    let spec = pooled(keeper());
    let (host, version) = given(&spec, &secret("token", Some("one"))).await;
    let builds = host.metric("sluice_plugin_builds_total");
    assert_eq!(told(&version, "secret token;secret other").await, r#"Some("one"); None"#);
    for (value, expected) in [(Some("two"), r#"Some("two")"#), (None, "None"), (Some("three"), r#"Some("three")"#)] {
        host.grant(&[&spec], &[&use_by(&spec)], &[(spec.key.clone(), secret("token", value))]).await;
        // The version that was there before: nothing was built.
        assert_eq!(told(&version, "secret token").await, expected);
    }
    assert_eq!(host.metric("sluice_plugin_builds_total"), builds);
    host.ensure(&[&spec], &[&use_by(&spec)]).await;
    assert_eq!(told(&version, "secret token").await, "None", "it is not given any more");
}

#[tokio::test]
async fn metrics_of_a_plugin_are_told_under_its_name() {
    let spec = keeper();
    let (host, version) = given(&spec, &Grants::default()).await;
    let what =
        "add orders 2 size=l;add orders 1 size=l;gauge depth 7;observe wait 5;set orders 1;gauge orders 1;add a-b 1";
    let all = told(&version, what).await;
    let all: Vec<_> = all.split("; ").collect();
    assert_eq!(all[..4], ["ok"; 4]);
    assert!(all[5].contains("counter") && all[6].contains("name"), "{all:?}");
    assert_eq!(host.metric(r#"sluice_plugin_custom_orders_total{plugin="shop/keeper",size="l"}"#), 3.0);
    assert_eq!(host.metric(r#"sluice_plugin_custom_depth{plugin="shop/keeper"}"#), 7.0);
    assert_eq!(host.metric(r#"sluice_plugin_custom_wait_bucket{le="10.0",plugin="shop/keeper"}"#), 1.0);
    assert_eq!(host.metric(r#"sluice_plugin_metrics_refused_total{plugin="shop/keeper"}"#), 2.0);
    host.ensure(&[], &[]).await;
    drop(version);
    assert!(!host.metrics().contains("plugin_custom"), "a plugin that is gone leaves no series");
}

#[tokio::test]
async fn a_store_keeps_values_counters_and_tokens_across_requests() {
    for spec in [keeper(), pooled(keeper())] {
        let (host, version) = given(&spec, &stores(&["s"])).await;
        for (what, expected) in [
            ("get s a", "None"),
            ("set s a 1", "ok"),
            ("get s a", r#"Some("1")"#),
            ("swap s a 2 3;swap s a 1 2;swap s b - 1;get s a", r#"false; true; true; Some("2")"#),
            ("remove s a;remove s a;get s a", "true; false; None"),
            ("increment s a 5;increment s a -2 60000;counter s a;counter s none", "5; 3; 3; 0"),
            ("take s a 2 0 1000 1;take s a 2 0 1000 2", "true 1 wait; false 1 never"),
            ("take s a 2 1 1000000 1;take s a 2 1 1000000 1", "true 0 wait; false 0 wait"),
        ] {
            assert_eq!(told(&version, what).await, expected, "{what}");
        }
        // `b`, and counter and bucket `a`.
        assert_eq!(host.metric(r#"sluice_plugin_store_entries{store="shop/s"}"#), 3.0);
        let mut exchange = Exchange::new(PlainRequest::get("/").header("x-do-log", "increment s logged 1"));
        version.begin().on_log(&mut exchange, Summary::default()).await.unwrap();
        assert_eq!(exchange.attributes.get("keeper.log"), Some(&AttributeValue::String("1".into())));
    }
}

#[tokio::test]
async fn what_a_store_cannot_take_is_refused_with_a_sentence() {
    let quota = 70_000;
    let grants = Grants { stores: [("s".into(), StoreGrant { quota })].into(), ..Grants::default() };
    let (host, version) = given(&keeper(), &grants).await;
    for (what, expected) in [
        ("key s 512", "ok"),
        ("key s 513", "refused: a key has 1 to 512 bytes, this one 513"),
        ("key s 0", "refused: a key has 1 to 512 bytes, this one 0"),
        ("fill s a 65536", "ok"),
        ("fill s a 65537", "refused: a value has at most 65536 bytes, this one 65537"),
        ("fill s b 10000", "refused: the store is full: its quota is 70000 bytes"),
        ("set s a 1 0", "refused: a time to live is at least 1 ms"),
        ("increment s a 9223372036854775807", "9223372036854775807"),
        ("increment s a 1", "refused: the counter would leave the range of 64 bits; it stays as it was"),
        ("take s a 0 1 1 1", "refused: a bucket's capacity is at least 1"),
        ("take s a 1 1 0 1", "refused: a bucket's interval is 1 to 31536000000 ms"),
    ] {
        assert_eq!(told(&version, what).await, expected, "{what}");
    }
    assert_eq!(host.metric(r#"sluice_plugin_store_refused_total{store="shop/s"}"#), 1.0);
    let bytes = host.metric(r#"sluice_plugin_store_bytes{store="shop/s"}"#);
    assert!(bytes > 65_536.0 && bytes <= quota as f64, "{bytes}");
}

#[tokio::test]
async fn a_plugin_reaches_the_stores_that_it_names_in_its_own_namespace_alone() {
    let host = Host::new();
    let specs = [of("shop", "one"), of("shop", "two"), of("other", "one")];
    let uses = specs.each_ref().map(use_by);
    let grants = [
        (specs[0].key.clone(), stores(&["shared", "own"])),
        (specs[1].key.clone(), stores(&["shared"])),
        (specs[2].key.clone(), stores(&["shared"])),
    ];
    host.grant(&specs.each_ref(), &uses.each_ref(), &grants).await;
    let [one, two, foreign] = uses.each_ref().map(|plugin_use| host.current(&plugin_use.key()).unwrap());
    assert_eq!(told(&one, "set shared a 1;set own a 2").await, "ok; ok");
    assert_eq!(told(&two, "get shared a").await, r#"Some("1")"#);
    assert_eq!(told(&foreign, "get shared a;set shared a 3").await, "None; ok");
    assert_eq!(told(&one, "get shared a").await, r#"Some("1")"#);
    for (version, name) in
        [(&two, "open own"), (&foreign, "open own"), (&two, "open shop/own"), (&foreign, "open shop/shared")]
    {
        let refused = told(version, name).await;
        assert!(refused.starts_with("refused: the Plugin's capabilities.stores has no `"), "{name}: {refused}");
    }
}

#[tokio::test]
async fn a_store_outlives_versions_and_goes_with_the_last_plugin_that_names_it() {
    let spec = keeper();
    let (host, version) = given(&spec, &stores(&["s"])).await;
    told(&version, "increment s n 1").await;
    // A new version of the code's limits, with another configuration.
    let mut next = spec.clone();
    next.limits.memory += 64 << 10;
    let plugin_use = use_of("keeper", r#"{"perMinute":null}"#);
    host.grant(&[&next], &[&plugin_use], &[(spec.key.clone(), stores(&["s", "more"]))]).await;
    let newer = host.current(&plugin_use.key()).unwrap();
    assert_eq!(told(&newer, "increment s n 1").await, "2");
    // Taken away it can't be reached, not even by what ran before.
    host.grant(&[&next], &[&plugin_use], &[(spec.key.clone(), stores(&["more"]))]).await;
    assert!(told(&newer, "increment s n 1").await.starts_with("refused"));
    assert!(told(&version, "increment s n 1").await.starts_with("refused"));
    assert!(!host.metrics().contains(r#"store="shop/s""#));
    host.grant(&[&next], &[&plugin_use], &[(spec.key.clone(), stores(&["s"]))]).await;
    assert_eq!(told(&newer, "increment s n 1").await, "1");
}

/// A metric, its labels, and what was told of it.
type Heard = (String, Vec<(String, String)>, MetricValue);

/// Both clocks show the same.
#[derive(Debug, Default)]
struct Bench {
    clock: AtomicU64,
    heard: Mutex<Vec<Heard>>,
}

impl TestBench for Bench {
    fn now(&self) -> u64 {
        self.clock.load(Ordering::Relaxed)
    }

    fn monotonic(&self) -> u64 {
        self.clock.load(Ordering::Relaxed)
    }

    fn told(&self, metric: &str, labels: &[(String, String)], value: MetricValue) {
        self.heard.lock().unwrap().push((metric.to_owned(), labels.to_vec(), value));
    }
}

#[tokio::test]
async fn where_plugins_are_tested_the_clocks_are_the_tests_and_it_hears_of_metrics() {
    let bench = Arc::new(Bench::default());
    let host = Host::with(HostOptions { test_bench: Some(bench.clone()), ..options() });
    let spec = keeper();
    host.grant(&[&spec], &[&use_by(&spec)], &[(spec.key.clone(), stores(&["s"]))]).await;
    let version = host.current(&use_by(&spec).key()).unwrap();
    bench.clock.store(7, Ordering::Relaxed);
    assert_eq!(told(&version, "now;monotonic").await, "7; 7");
    assert_eq!(told(&version, "set s a 1 1;get s a").await, r#"ok; Some("1")"#);
    bench.clock.store(1_000_007, Ordering::Relaxed);
    assert_eq!(told(&version, "get s a").await, "None", "its millisecond is over");
    told(&version, "add n 2 k=v;gauge g 3;observe o 4;add g 1").await;
    let heard = std::mem::take(&mut *bench.heard.lock().unwrap());
    let labels = vec![("k".to_owned(), "v".to_owned())];
    let expected = [
        ("n".to_owned(), labels, MetricValue::Added(2)),
        ("g".to_owned(), Vec::new(), MetricValue::Gauge(3.0)),
        ("o".to_owned(), Vec::new(), MetricValue::Observation(4.0)),
    ];
    assert_eq!(heard, expected, "what was refused is not told");
}

#[tokio::test]
async fn whoever_tests_plugins_can_look_into_their_stores() {
    let (host, version) = given(&keeper(), &stores(&["s"])).await;
    let store = host.host.store(&keeper().key.namespace, "s").unwrap();
    told(&version, "set s a 1;increment s n 5").await;
    assert_eq!((store.get("a"), store.counter("n")), (Ok(Some(b"1".to_vec())), Ok(5)));
    store.set("b", b"2".to_vec(), None).unwrap();
    assert_eq!(store.compare_and_swap("b", Some(b"1"), b"3".to_vec(), None), Ok(false));
    assert_eq!((store.increment("n", -1, None), store.remove("a")), (Ok(4), Ok(true)));
    assert_eq!(store.take_tokens("t", 1, 0, 1_000, 1), Ok((true, 0, u64::MAX)));
    assert_eq!(told(&version, "get s a;get s b;counter s n").await, r#"None; Some("2"); 4"#);
    assert!(store.get("").unwrap_err().contains("1 to 512 bytes"));
    assert!(host.host.store("elsewhere", "s").is_none() && host.host.store("shop", "t").is_none());
}
