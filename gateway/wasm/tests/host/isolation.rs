//! What one request can know of another.

use crate::setup::{Host, PROBE, header, options, pooled, probe, told};
use sluice_wasm::{Configured, Decision, Exchange, HostOptions, PlainRequest};
use std::sync::Arc;

/// Sends a secret; tells what the guest remembered and how often it was called.
async fn send(version: &Arc<Configured>, secret: &'static str) -> (String, String) {
    let mut exchange = Exchange::new(PlainRequest::get("/").header("x-secret", secret));
    assert!(matches!(version.begin().on_request(&mut exchange).await.unwrap(), Decision::Continue));
    (header(&exchange, "x-seen").unwrap(), header(&exchange, "x-calls").unwrap())
}

#[tokio::test]
async fn a_fresh_instance_knows_nothing_of_the_requests_before() {
    let host = Host::new();
    let version = host.ready(&probe(), PROBE).await;
    for secret in ["one", "two", "three", "four"] {
        assert_eq!(send(&version, secret).await, (String::new(), "1".to_owned()));
    }
}

#[tokio::test]
async fn a_fresh_instance_serves_all_phases_of_its_request() {
    let host = Host::new();
    let version = host.ready(&probe(), PROBE).await;
    let (mut exchange, mut invocation) = (told(""), version.begin());
    invocation.on_request(&mut exchange).await.unwrap();
    exchange.put_response(Box::<sluice_wasm::PlainResponse>::default());
    invocation.on_response(&mut exchange).await.unwrap();
    assert_eq!(crate::setup::response_header(&exchange, "x-calls").as_deref(), Some("1"));
    assert_eq!(host.metric(r#"sluice_plugin_instances{plugin="shop/probe"}"#), 0.0);
}

#[tokio::test]
async fn a_pooled_instance_is_used_again_until_it_traps() {
    let host = Host::new();
    let version = host.ready(&pooled(probe()), PROBE).await;
    assert_eq!(send(&version, "one").await, (String::new(), "1".to_owned()));
    assert_eq!(send(&version, "two").await, ("one".to_owned(), "2".to_owned()));
    assert!(version.begin().on_request(&mut told("trap")).await.is_err());
    assert_eq!(send(&version, "three").await, (String::new(), "1".to_owned()));
}

#[tokio::test]
async fn a_pooled_instance_is_recycled_after_so_many_calls() {
    let host = Host::with(HostOptions { recycle_after: 3, ..options() });
    let version = host.ready(&pooled(probe()), PROBE).await;
    let mut calls = Vec::new();
    for _ in 0..7 {
        calls.push(send(&version, "x").await.1);
    }
    assert_eq!(calls, ["1", "2", "3", "1", "2", "3", "1"]);
}

#[tokio::test]
async fn a_pooled_instance_that_grew_is_recycled() {
    let host = Host::new();
    let version = host.ready(&pooled(probe()), PROBE).await;
    send(&version, "one").await;
    version.begin().on_request(&mut told("grow")).await.unwrap();
    assert_eq!(host.metric(r#"sluice_plugin_instances{plugin="shop/probe"}"#), 0.0);
    assert_eq!(send(&version, "two").await, (String::new(), "1".to_owned()));
}

#[tokio::test]
async fn two_configurations_of_one_module_are_two_plugins() {
    let host = Host::new();
    let spec = probe();
    let uses = [r#"{"name":"one"}"#, r#"{"name":"two"}"#].map(|config| crate::setup::use_of("probe", config));
    host.ensure(&[&spec], &[&uses[0], &uses[1]]).await;
    for (plugin_use, name) in uses.iter().zip(["one", "two"]) {
        let version = host.current(&plugin_use.key()).unwrap();
        let mut exchange = told("");
        version.begin().on_request(&mut exchange).await.unwrap();
        assert_eq!(header(&exchange, "x-probe").as_deref(), Some(name));
    }
}

/// A handle that is lent as owned stays in the store's table, which fails at 100,000; a guest that leaks memory runs into
/// its limit. Only many calls on one instance show either.
#[tokio::test]
async fn one_instance_serves_a_hundred_thousand_calls_and_more_without_a_leak() {
    let host = Host::with(HostOptions { recycle_after: u32::MAX, ..options() });
    let version = host.ready(&pooled(probe()), PROBE).await;
    let mut exchange = Exchange::new(PlainRequest::get("/"));
    version.begin().on_request(&mut exchange).await.unwrap();
    let memory = || host.metric(r#"sluice_plugin_memory_bytes{plugin="shop/probe"}"#);
    let before = memory();
    for _ in 0..55_000 {
        let mut invocation = version.begin();
        assert!(matches!(invocation.on_request(&mut exchange).await.unwrap(), Decision::Continue));
        exchange.put_response(Box::<sluice_wasm::PlainResponse>::default());
        invocation.on_response(&mut exchange).await.unwrap();
    }
    for _ in 0..5_000 {
        let denied = version.begin().on_request(&mut told("deny")).await.unwrap();
        assert!(matches!(denied, Decision::Respond(_)));
    }
    version.begin().on_request(&mut exchange).await.unwrap();
    assert_eq!(header(&exchange, "x-calls").as_deref(), Some("60002"));
    assert_eq!(memory(), before);
}
