//! Plugins through the whole path: those that ship, versions, configurations, fail modes, phases on local replies.

use crate::shop::{HOST, Shop, backend_of, seen_field};
use sluice_tests::objects::{http_route, join, plugin, plugin_on_route, route_to};
use sluice_tests::{guests, raw, wait};

/// A route with one plugin before it; `name` is a guest of tests/guests or a plugin that ships.
async fn plugged(name: &str, module: Vec<u8>, spec: &str, config: &str) -> Shop {
    let shop = Shop::start(&["one"], "").await;
    shop.folder.write("plugin.wasm", module);
    shop.folder.write(
        "more.yaml",
        join([
            route_to("shop", &[HOST], "one"),
            plugin(name, "plugin.wasm", spec),
            plugin_on_route(name, "shop", name, config),
        ]),
    );
    // A plugin that is not ready yet answers by its fail mode; 404 means that not even the route is there.
    wait::until("the plugin to be ready", || async {
        let answer = raw::get(shop.http, HOST, "/").await.ok()?;
        (!matches!(answer.status, 404 | 503)).then_some(())
    })
    .await;
    shop
}

fn read(path: std::path::PathBuf) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

const CHEF: &str = "{consumers: [{name: chef, keys: [open-sesame]}]}";

#[tokio::test]
async fn key_auth_answers_401_without_a_key_and_lets_one_with_it_pass() {
    let shop = plugged("key-auth", read(guests::shipped("key-auth")), "", CHEF).await;
    let answer = shop.get("/").await;
    assert_eq!((answer.status, shop.backend("one").count()), (401, 0));
    assert!(answer.header("www-authenticate").is_some());
    assert_eq!(shop.get_with("/", "X-Api-Key: wrong\r\n").await.status, 401);
    assert_eq!(shop.gateway.logged(|l| l["status"] == 401).await["reason"], "plugin_denied");

    let answer = shop.get_with("/in", "X-Api-Key: open-sesame\r\nX-Consumer: admin\r\n").await;
    assert_eq!(backend_of(&answer), "one");
    assert_eq!(seen_field(&answer, "x-api-key"), None, "the key reached the backend");
    assert_eq!(seen_field(&answer, "x-consumer").as_deref(), Some("chef"));
    let line = shop.gateway.logged(|l| l["path"] == "/in").await;
    assert!(line.to_string().contains("chef"), "the plugin's attribute is not in {line}");
    assert!(line["plugin_ms"].as_f64().is_some_and(|spent| spent > 0.0), "{line}");
    assert!(shop.gateway.metric("sluice_plugin_calls_total", &["key-auth"]).await >= 3.0);
}

/// The header that would tell a claim is named in an object of a list.
#[tokio::test]
async fn where_a_condition_skips_jwt_no_client_tells_a_claim_in_its_place() {
    let config = "{issuers: [{issuer: 'https://idp.example/', jwks: {backend: idp, path: /keys}}], \
                  claims: [{claim: sub, header: x-user}]}\n    when: request.path == '/api'";
    let patient = "  limits: {runTime: 2s, deadline: 10s}\n";
    let shop = plugged("jwt", read(guests::shipped("jwt")), patient, config).await;
    // Before the plugin is compiled there is no configuration to go by.
    wait::until_within(std::time::Duration::from_secs(400), "the client's header to be taken out", || async {
        let answer = shop.get_with("/", "X-User: root\r\nX-Other: 1\r\n").await;
        assert_eq!(seen_field(&answer, "x-other").as_deref(), Some("1"), "{answer:?}");
        seen_field(&answer, "x-user").is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn transform_changes_headers_path_and_query_by_templates() {
    let config = "{request: {headers: {set: {x-who: \"${request.header.x-tenant}\"}, remove: [x-gone]}, path: {replacePrefix: {from: /api, to: /v2}}, query: {remove: [debug]}}, response: {headers: {set: {x-by: transform}}}}";
    let shop = plugged("transform", read(guests::shipped("transform")), "", config).await;
    let answer = shop.get_with("/api/x?debug=1&q=2", "X-Tenant: acme\r\nX-Gone: 1\r\n").await;
    assert_eq!(answer.json()["target"], "/v2/x?q=2");
    assert_eq!(seen_field(&answer, "x-who").as_deref(), Some("acme"));
    assert_eq!(seen_field(&answer, "x-gone"), None);
    assert_eq!(answer.header("x-by").as_deref(), Some("transform"));
}

#[tokio::test]
async fn a_new_version_takes_over_and_a_broken_one_does_not() {
    let versioned = guests::versioned();
    let shop = plugged("versioned", versioned.with_version(1), "", "{}").await;
    assert_eq!(shop.get("/").await.header("x-plugin-version").as_deref(), Some("version-0001"));
    shop.folder.write("plugin.wasm", versioned.with_version(2));
    shop.until("version 2", "/", |a| a.header("x-plugin-version").as_deref() == Some("version-0002")).await;
    shop.folder.write("plugin.wasm", b"not a module");
    wait::until("the problem", || async {
        let (_, problems) = shop.gateway.admin_get("/problems").await.ok()?;
        problems.contains("SLUICE-P402").then_some(())
    })
    .await;
    let answer = shop.get("/").await;
    assert_eq!((answer.status, answer.header("x-plugin-version").as_deref()), (200, Some("version-0002")));
}

#[tokio::test]
async fn a_version_that_fails_its_self_test_does_not_take_over() {
    let stamped = guests::stamped();
    let shop = plugged("stamped", stamped.named("version-0001"), "", "{}").await;
    shop.until("version 1", "/", |a| a.header("x-stamp").as_deref() == Some("version-0001")).await;
    for version in ["unfit---0002", "panics--0003"] {
        shop.folder.write("plugin.wasm", stamped.named(version));
        let problems = wait::until(version, || async {
            let (_, problems) = shop.gateway.admin_get("/problems").await.ok()?;
            problems.contains("SLUICE-P411").then_some(problems)
        })
        .await;
        let told = |text: &str| text.contains("not fit to serve") || text.contains("in the self-test");
        assert!(told(&problems), "{version}: {problems}");
        let (_, status) = shop.gateway.admin_get("/status").await.unwrap();
        assert!(told(&status), "{version}: {status}");
        let answer = shop.get("/").await;
        assert_eq!((answer.status, answer.header("x-stamp").as_deref()), (200, Some("version-0001")), "{version}");
        shop.folder.write("plugin.wasm", stamped.named("version-0001"));
        wait::until("the problem to go", || async {
            let (_, problems) = shop.gateway.admin_get("/problems").await.ok()?;
            (!problems.contains("SLUICE-P411")).then_some(())
        })
        .await;
    }
    shop.folder.write("plugin.wasm", stamped.named("version-0004"));
    shop.until("version 4", "/", |a| a.header("x-stamp").as_deref() == Some("version-0004")).await;
}

/// The engine's pool is much address space, and is reserved for the first plugin.
#[tokio::test]
async fn where_the_engine_has_no_room_everything_but_plugins_is_served() {
    let shop = Shop::start(&["one"], "").await;
    shop.gateway.limit_address_space(Some(16 << 30));
    shop.folder.write("plugin.wasm", guests::versioned().with_version(7));
    shop.folder.write(
        "more.yaml",
        join([
            route_to("shop", &[HOST], "one"),
            route_to("open", &["open.example"], "one"),
            plugin("versioned", "plugin.wasm", ""),
            plugin_on_route("versioned", "shop", "versioned", "{}"),
        ]),
    );
    wait::until("the problem", || async {
        let (_, problems) = shop.gateway.admin_get("/problems").await.ok()?;
        (problems.contains("SLUICE-P412") && problems.contains("can't reserve its instance pool")).then_some(())
    })
    .await;
    assert_eq!(shop.get("/").await.status, 503, "by its fail mode");
    assert_eq!(raw::get(shop.http, "open.example", "/").await.unwrap().status, 200);
    shop.gateway.limit_address_space(None);
    let answer = shop.until("another try", "/", |answer| answer.status == 200).await;
    assert_eq!(answer.header("x-plugin-version").as_deref(), Some("version-0007"));
}

#[tokio::test]
async fn response_phases_run_on_local_replies_too() {
    let shop = plugged("versioned", guests::versioned().with_version(7), "", "{}").await;
    shop.folder.write("backend.yaml", "");
    shop.folder.write(
        "more.yaml",
        join([
            http_route("shop", &[HOST], "  - matches: [{path: {value: /redirect}}]\n    filters: [{type: RequestRedirect, requestRedirect: {hostname: else.example}}]\n  - backendRefs: [{name: missing, port: 80}]\n"),
            plugin("versioned", "plugin.wasm", ""),
            plugin_on_route("versioned", "shop", "versioned", "{}"),
        ]),
    );
    let answer = shop.until("the local reply", "/", |a| a.status == 500).await;
    assert_eq!(answer.header("x-plugin-version").as_deref(), Some("version-0007"));
}

#[tokio::test]
async fn a_configuration_that_is_refused_leaves_the_last_good_one_in_service() {
    let shop = plugged("probe", read(guests::module("probe")), "", "{name: good}").await;
    assert_eq!(seen_field(&shop.get("/").await, "x-probe").as_deref(), Some("good"));
    // By the schema, by the plugin itself, by a trap, and by running over its limits.
    for (config, code) in [
        ("{nmae: typo}", "SLUICE-P403"),
        ("{name: bad, onConfigure: refuse}", "SLUICE-P403"),
        ("{name: bad, onConfigure: trap}", "SLUICE-P404"),
        ("{name: bad, onConfigure: loop}", "SLUICE-P404"),
    ] {
        shop.folder.write(
            "more.yaml",
            join([
                route_to("shop", &[HOST], "one"),
                plugin("probe", "plugin.wasm", ""),
                plugin_on_route("probe", "shop", "probe", config),
            ]),
        );
        wait::until(&format!("{code} for {config}"), || async {
            let (_, problems) = shop.gateway.admin_get("/problems").await.ok()?;
            problems.contains(code).then_some(())
        })
        .await;
        let answer = shop.get("/").await;
        assert_eq!(seen_field(&answer, "x-probe").as_deref(), Some("good"), "{config}: {answer:?}");
    }
}

#[tokio::test]
async fn a_fresh_instance_remembers_nothing_and_a_pooled_one_is_used_again() {
    for (instance, forgets) in [("Fresh", true), ("Pooled", false)] {
        let shop =
            plugged("probe", read(guests::module("probe")), &format!("  instance: {instance}\n"), "{name: x}").await;
        let mut calls = Vec::new();
        for _ in 0..20 {
            let answer = shop.get_with("/", "X-Secret: mine\r\n").await;
            calls.push(seen_field(&answer, "x-calls").unwrap());
        }
        assert_eq!(calls.iter().all(|n| n == "1"), forgets, "{instance}: {calls:?}");
    }
}

#[tokio::test]
async fn failures_follow_the_fail_mode_and_stay_on_their_route() {
    for (mode, status) in [("Closed", 503), ("Open", 200)] {
        let shop = plugged("probe", read(guests::module("probe")), &format!("  failMode: {mode}\n"), "{name: x}").await;
        for how in ["trap", "loop", "allocate", "recurse"] {
            let answer = shop.get_with("/failing", &format!("X-Do: {how}\r\n")).await;
            assert_eq!(answer.status, status, "{how} with failMode {mode}");
        }
        assert_eq!(shop.get("/").await.status, 200, "the plugin goes on after its failures");
        if status == 503 {
            assert_eq!(shop.gateway.logged(|l| l["path"] == "/failing").await["reason"], "plugin_failed");
        }
    }
}

#[tokio::test]
async fn a_plugin_may_answer_read_the_body_and_replace_it() {
    let shop = plugged("probe", read(guests::module("probe")), "", "{name: x}").await;
    let answer = shop.get_with("/", "X-Do: deny\r\n").await;
    assert_eq!((answer.status, answer.header("x-why").as_deref()), (403, Some("told to")));
    let post = |body: &str| {
        format!(
            "POST / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nX-Do: read\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let answer = sluice_tests::raw::exchange(shop.http, post("hello")).await.unwrap();
    assert_eq!(answer.json()["body"], "HELLO");
    let answer = sluice_tests::raw::exchange(shop.http, post("more than ten bytes")).await.unwrap();
    assert_eq!(answer.status, 413);
}

#[tokio::test]
async fn a_use_without_a_ready_version_answers_by_its_fail_mode() {
    let shop = Shop::start(&["one"], "").await;
    shop.folder.write("broken.wasm", b"no module");
    for (mode, status) in [("Closed", 503), ("Open", 200)] {
        shop.folder.write(
            "more.yaml",
            join([
                route_to("shop", &[HOST], "one"),
                plugin("broken", "broken.wasm", &format!("  failMode: {mode}\n")),
                plugin_on_route("broken", "shop", "broken", "{}"),
            ]),
        );
        shop.until("the fail mode", "/", |a| a.status == status).await;
    }
    assert_eq!(shop.gateway.logged(|l| l["status"] == 503).await["reason"], "plugin_not_ready");
}
