//! Plugins that say where requests go (`capabilities.routing`), through the binary: to a backend of their own, or by the rule
//! for what they made of the request.

use crate::shop::{HOST, Shop, backend_of, seen_field};
use sluice_tests::objects::{http_route, join, plugin, plugin_on_route, route_to, service};
use sluice_tests::{Backend, guests};
use std::net::SocketAddr;

const MAY: &str =
    "  limits: {runTime: 20ms}\n  capabilities: {routing: true, backends: [{name: two, ref: {name: two, port: 80}}]}\n";

/// A route to `one` with the guest `router` before it, and what else there is.
async fn shop_with(spec: &str, more: String) -> Shop {
    let shop = Shop::start(&["one", "two", "three"], "").await;
    shop.folder.write("router.wasm", std::fs::read(guests::module("router")).unwrap());
    let own = [
        route_to("shop", &[HOST], "one"),
        plugin("router", "router.wasm", spec),
        plugin_on_route("routes", "shop", "router", "{}"),
        more,
    ];
    shop.folder.write("more.yaml", join(own));
    shop.until("the plugin", "/", |answer| answer.status == 200 && seen_field(answer, "x-ran").is_some()).await;
    shop
}

/// A route of the same host, for one path.
fn at(path: &str, name: &str, service: &str) -> String {
    let rules =
        format!("  - matches: [{{path: {{value: {path}}}}}]\n    backendRefs: [{{name: {service}, port: 80}}]\n");
    http_route(name, &[HOST], &rules)
}

#[tokio::test]
async fn a_request_goes_to_the_backend_that_a_plugin_chooses() {
    let shop = shop_with(MAY, String::new()).await;
    assert_eq!(backend_of(&shop.get("/").await), "one");
    let answer = shop.get_with("/a?b", "x-use: two\r\n").await;
    assert_eq!((backend_of(&answer).as_str(), seen_field(&answer, "x-said").as_deref()), ("two", Some("done")));
    assert_eq!(answer.json()["target"], "/a?b");
    shop.gateway.logged(|line| line["backend"] == "default/two:80").await;
    let answer = shop.send("POST", "/", HOST, "x-use: two\r\nx-when: body\r\nContent-Length: 2\r\n\r\nhi").await;
    assert_eq!(
        (backend_of(&answer).as_str(), &answer.json()["body"]),
        ("two", &"hi".into()),
        "the body's phase may, too"
    );
    // What is not given is refused, and the request goes on by its rule.
    let answer = shop.get_with("/", "x-use: three\r\n").await;
    assert_eq!(backend_of(&answer), "one");
    assert!(seen_field(&answer, "x-said").unwrap().contains("has no `three`"));
    let answer = shop.get_with("/", "x-when: late\r\n").await;
    let late = "the request is on its way already";
    assert_eq!(answer.header("x-late").unwrap(), format!("{late}, {late}"));
    let times = shop.gateway.metric("sluice_upstream_duration_seconds_count", &["backend=\"default/two:80\""]).await;
    assert_eq!(times, 2.0);
}

#[tokio::test]
async fn a_plugin_without_the_capability_routes_nothing() {
    let without = MAY.replace("routing: true, ", "");
    let shop = shop_with(&without, at("/vip", "vip", "three")).await;
    for line in ["x-use: two\r\n", "x-find: /vip\r\n"] {
        let answer = shop.get_with("/", line).await;
        assert_eq!(backend_of(&answer), "one");
        assert!(seen_field(&answer, "x-said").unwrap().contains("capabilities.routing does not allow it"));
    }
    // Given while it runs, it takes effect; nothing is compiled for that.
    let given = std::fs::read_to_string(shop.folder.path().join("more.yaml")).unwrap();
    shop.folder.write("more.yaml", given.replace("{backends: [{name: two", "{routing: true, backends: [{name: two"));
    sluice_tests::wait::until("the capability", || async {
        let answer = shop.get_with("/", "x-use: two\r\n").await;
        (backend_of(&answer) == "two").then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_that_fails_is_replaced_by_another_of_the_chosen_backend() {
    let (live, dead) = (Backend::echo("live").await, dead_address());
    let shop =
        shop_with(&MAY.replace("name: two, port", "name: pair, port"), service("pair", &[dead, live.address])).await;
    for _ in 0..10 {
        assert_eq!(backend_of(&shop.get_with("/", "x-use: two\r\n").await), "live");
    }
}

/// Nobody listens there.
fn dead_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], sluice_tests::ports::free()))
}

#[tokio::test]
async fn the_rule_is_found_anew_by_what_plugins_made_of_the_request() {
    let guarded = join([
        at("/vip", "vip", "three"),
        plugin("key-auth", "key-auth.wasm", ""),
        plugin_on_route("guard", "vip", "key-auth", "{consumers: [{name: chef, keys: [open-sesame]}]}"),
        plugin_on_route("routes-too", "vip", "router", "{}"),
    ]);
    let shop = shop_with(MAY, guarded).await;
    shop.folder.write("key-auth.wasm", std::fs::read(guests::shipped("key-auth")).unwrap());
    shop.until("the guard", "/vip", |answer| answer.status == 401).await;
    // The plugins of the rule that was found hold; none that has seen the request sees it again.
    let answer = shop.get_with("/", "x-find: /vip/1\r\n").await;
    assert_eq!((answer.status, shop.backend("three").count()), (401, 0));
    let answer = shop.get_with("/", "x-find: /vip/1\r\nx-api-key: open-sesame\r\n").await;
    assert_eq!((backend_of(&answer).as_str(), &answer.json()["target"]), ("three", &"/vip/1".into()));
    assert_eq!(seen_field(&answer, "x-ran").as_deref(), Some("router"));
    shop.gateway
        .logged(|line| {
            line["route"].as_str().unwrap_or_default().ends_with("/vip") && line["attributes"]["router.ran"] == "r"
        })
        .await;
    // A backend that is named after that goes before the found rule's.
    let answer = shop.get_with("/", "x-find: /vip/1\r\nx-use: two\r\nx-api-key: open-sesame\r\n").await;
    assert_eq!(backend_of(&answer), "two");
    // The same rule is no other.
    assert_eq!(backend_of(&shop.get_with("/", "x-find: /else\r\n").await), "one");
}

#[tokio::test]
async fn a_rule_is_looked_for_once_a_request_and_where_there_is_none_the_answer_is_404() {
    let shop = Shop::start(&["one", "two"], "").await;
    shop.folder.write("router.wasm", std::fs::read(guests::module("router")).unwrap());
    let objects = [
        at("/a", "a", "one"),
        at("/b", "b", "two"),
        plugin("router", "router.wasm", MAY),
        plugin("second", "router.wasm", MAY),
        plugin_on_route("routes", "a", "router", "{}"),
        plugin_on_route("routes-again", "b", "second", "{}"),
    ];
    shop.folder.write("more.yaml", join(objects));
    for path in ["/a", "/b"] {
        shop.until("the plugins", path, |answer| answer.status == 200 && seen_field(answer, "x-ran").is_some()).await;
    }
    // The plugin of the rule that was found asks for a path that has none: it is not looked for again.
    let answer = shop.get_with("/a", "x-find: /b\r\n").await;
    assert_eq!(
        (backend_of(&answer).as_str(), seen_field(&answer, "x-ran").as_deref()),
        ("two", Some("router, router"))
    );
    let answer = shop.get_with("/a", "x-find: /none\r\n").await;
    assert_eq!(answer.status, 404);
    shop.gateway.logged(|line| line["status"] == 404 && line["reason"] == "route_not_found").await;
}

#[tokio::test]
async fn what_a_failed_call_asked_for_does_not_count() {
    let shop = shop_with(&format!("{MAY}  failMode: Open\n"), String::new()).await;
    assert_eq!(backend_of(&shop.get_with("/", "x-use: two\r\nx-trap: 1\r\n").await), "one");
    assert_eq!(backend_of(&shop.get_with("/", "x-use: two\r\n").await), "two");
}

#[tokio::test]
async fn an_envoy_filter_that_clears_the_route_cache_is_routed_anew_where_its_plugin_may() {
    for (may, expected) in [("", "one"), ("  capabilities: {routing: true}\n", "two")] {
        let shop = Shop::start(&["one", "two"], "").await;
        shop.folder.write("filter-old.wasm", std::fs::read(guests::module("filter-old")).unwrap());
        let objects = [
            route_to("shop", &[HOST], "one"),
            at("/vip", "vip", "two"),
            plugin("filter-old", "filter-old.wasm", &format!("  limits: {{runTime: 20ms, deadline: 10s}}\n{may}")),
            plugin_on_route("filters", "shop", "filter-old", "{}"),
        ];
        shop.folder.write("more.yaml", join(objects));
        shop.until("the filter", "/", |answer| answer.status == 200).await;
        let answer = shop.get_with("/", "x-reroute: /vip/1\r\n").await;
        assert_eq!((backend_of(&answer).as_str(), &answer.json()["target"]), (expected, &"/vip/1".into()));
    }
}
