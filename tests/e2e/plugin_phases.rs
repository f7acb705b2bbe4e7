//! What several plugins on one route see, in which order, and what they share: the body above all.

use crate::shop::{HOST, Shop, backend_of, seen_field};
use bytes::Bytes;
use sluice_tests::objects::{NAMESPACE, http_route, join, plugin, route_to, service};
use sluice_tests::raw::{self, Response};
use sluice_tests::{Backend, guests, http2, wait};

/// Uses of the guest `steps` in one policy, in this order; each is the YAML of its configuration after the name.
pub(crate) fn steps(target: &str, uses: &[(&str, &str)]) -> String {
    let plugins: String = uses
        .iter()
        .map(|(name, config)| {
            format!("  - name: {name}\n    pluginRef: {{name: steps}}\n    config: {{name: {name}{config}}}\n")
        })
        .collect();
    format!(
        "\
apiVersion: sluice.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: steps, namespace: {NAMESPACE}}}
spec:
  targetRefs: [{target}]
  plugins:
{plugins}"
    )
}

const ON_ROUTE: &str = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: shop}";
const ON_GATEWAY: &str = "{group: gateway.networking.k8s.io, kind: Gateway, name: edge}";

/// A route to the backend `one` with these uses.
async fn shop_with(uses: &[(&str, &str)]) -> Shop {
    shop_of(&route_to("shop", &[HOST], "one"), "", ON_ROUTE, uses).await
}

async fn shop_of(route: &str, spec: &str, target: &str, uses: &[(&str, &str)]) -> Shop {
    let shop = Shop::start(&["one"], "").await;
    // The most with which a call stays on the thread that serves: a debug build copies slowly.
    let spec = if spec.is_empty() { "  limits: {runTime: 20ms, deadline: 10s}\n" } else { spec };
    shop.folder.write("steps.wasm", std::fs::read(guests::module("steps")).unwrap());
    shop.folder.write("more.yaml", join([route.to_owned(), plugin("steps", "steps.wasm", spec), steps(target, uses)]));
    // The answer bears the marks of all that are ready; 503 and 404 come before.
    shop.until("the plugins", "/", |answer| marks(answer).is_some() && answer.status != 503).await;
    shop
}

pub(crate) fn marks(answer: &Response) -> Option<String> {
    let marks: Vec<_> = answer.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("x-steps")).collect();
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    (!marks.is_empty()).then(|| marks.iter().map(|(_, value)| text(value)).collect::<Vec<_>>().join(" "))
}

fn post(lines: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /in HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n{lines}Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn chunked(body: &[u8]) -> Vec<u8> {
    let head = format!("POST /in HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut bytes = head.into_bytes();
    for chunk in body.chunks(5_000) {
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

fn text(length: usize) -> Vec<u8> {
    (0..length).map(|n| b'a' + (n % 23) as u8).collect()
}

/// As the guest counts it.
fn sum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)))
}

fn seen(name: &str, bytes: &[u8]) -> String {
    format!("{name}:{}:{}", bytes.len(), sum(bytes))
}

fn arrived(answer: &Response) -> Vec<u8> {
    answer.json()["body"].as_str().unwrap().as_bytes().to_vec()
}

#[tokio::test]
async fn request_phases_run_in_order_and_response_phases_in_reverse() {
    let shop = shop_with(&[("a", ""), ("b", ""), ("c", "")]).await;
    let answer = shop.get("/").await;
    assert_eq!(seen_field(&answer, "x-steps").as_deref(), Some("a, b, c"));
    assert_eq!(marks(&answer).as_deref(), Some("c b a"));
    let line = shop.gateway.logged(|l| l["attributes"]["log.a"] == "200 0").await;
    assert_eq!(line["attributes"]["log.c"], "200 0", "{line}");
}

#[tokio::test]
async fn every_plugin_that_asks_for_the_body_sees_it_and_so_does_the_backend() {
    let shop = shop_with(&[("a", ", read: {limit: 500000}"), ("b", ", read: {limit: 500000}")]).await;
    for length in [0, 1, 5_000, 64 << 10, 70_000, 300_000] {
        let body = text(length);
        for request in [post("", &body), chunked(&body)] {
            let answer = raw::exchange(shop.http, request).await.unwrap();
            let expected = format!("{}, {}", seen("a", &body), seen("b", &body));
            assert_eq!(seen_field(&answer, "x-read").as_deref(), Some(&*expected), "{length} bytes");
            assert!(arrived(&answer) == body, "{length} bytes: the backend got another body");
        }
        let connection = http2::Connection::clear(shop.http).await.unwrap();
        let request = connection.request("POST", HOST, "/in").body(()).unwrap();
        let answer = connection.exchange(request, Bytes::from(body.clone())).await.unwrap();
        assert_eq!(answer.status, 200);
        assert!(answer.json()["body"].as_str().unwrap().as_bytes() == body, "{length} bytes by HTTP/2");
        let read = answer.json()["headers"].to_string();
        assert!(read.contains(&seen("a", &body)) && read.contains(&seen("b", &body)), "{length} bytes: {read}");
    }
}

#[tokio::test]
async fn a_replaced_body_is_what_later_plugins_and_the_backend_see() {
    let uses = [("a", ", read: {limit: 500000, replace: other}"), ("b", ", read: {limit: 500000}")];
    let shop = shop_with(&uses).await;
    for length in [0, 10, 100_000] {
        let body = text(length);
        for request in [post("", &body), chunked(&body)] {
            let answer = raw::exchange(shop.http, request).await.unwrap();
            let expected = format!("{}, {}", seen("a", &body), seen("b", b"other"));
            assert_eq!(seen_field(&answer, "x-read").as_deref(), Some(&*expected), "{length} bytes");
            assert_eq!(arrived(&answer), b"other", "{length} bytes");
            assert_eq!(seen_field(&answer, "content-length").as_deref(), Some("5"));
        }
    }
    // A request that came without a body gets one.
    assert_eq!(arrived(&shop.get("/in").await), b"other");
}

#[tokio::test]
async fn a_body_may_be_replaced_by_none() {
    let shop = shop_with(&[("a", ", read: {limit: 500000, replace: \"\"}"), ("b", ", read: {limit: 9}")]).await;
    for length in [10, 100_000] {
        let answer = raw::exchange(shop.http, post("", &text(length))).await.unwrap();
        assert_eq!(arrived(&answer), b"", "{length} bytes");
        assert!(seen_field(&answer, "x-read").unwrap().ends_with("b:0:0"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_body_over_two_limits_goes_on_whole_and_over_the_first_of_them_is_read_on() {
    let small = [("a", ", read: {limit: 10, orPass: true}"), ("b", ", read: {limit: 20, orPass: true}")];
    let shop = shop_with(&small).await;
    for length in [100, 100_000, 900_000] {
        let body = text(length);
        for request in [post("", &body), chunked(&body)] {
            let answer = raw::exchange(shop.http, request).await.unwrap();
            assert_eq!(seen_field(&answer, "x-read"), None, "{length} bytes");
            assert!(arrived(&answer) == body, "{length} bytes: the backend got another body");
        }
    }
    let more = [("a", ", read: {limit: 70000, orPass: true}"), ("b", ", read: {limit: 900000}")];
    let shop = shop_with(&more).await;
    let body = text(300_000);
    let answer = raw::exchange(shop.http, chunked(&body)).await.unwrap();
    assert_eq!(seen_field(&answer, "x-read").as_deref(), Some(&*seen("b", &body)));
    assert!(arrived(&answer) == body, "the backend got another body");
}

#[tokio::test]
async fn a_held_body_is_sent_again_to_another_endpoint_and_phases_do_not_run_again() {
    use http_body_util::BodyExt;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = tries.clone();
    // Whichever endpoint is asked first fails after it has read the body.
    let handler: sluice_tests::backend::Handler = Arc::new(move |request| {
        let (first, echo) = (counted.fetch_add(1, Ordering::Relaxed) == 0, sluice_tests::backend::echo_as("late"));
        Box::pin(async move {
            if !first {
                return echo(request).await;
            }
            let body = request.into_body().collect().await.map(|body| body.to_bytes().len()).unwrap_or_default();
            let answer = http_body_util::Full::new(Bytes::from(body.to_string()));
            let answer = answer.map_err(|never| match never {}).boxed();
            hyper::Response::builder().status(503).body(answer).unwrap()
        })
    });
    let backends = [Backend::with(handler.clone()).await, Backend::with(handler).await];
    let route = http_route(
        "shop",
        &[HOST],
        "  - backendRefs: [{name: two, port: 80}]\n    retry: {codes: [503], attempts: 2, backoff: 1ms}\n",
    );
    let uses = [("a", ", read: {limit: 500000}"), ("b", ", read: {limit: 500000}")];
    for body in [text(10), text(200_000)] {
        tries.store(1, Ordering::Relaxed);
        let endpoints = backends.each_ref().map(|backend| backend.address);
        let shop = shop_of(&join([route.clone(), service("two", &endpoints)]), "", ON_ROUTE, &uses).await;
        tries.store(0, Ordering::Relaxed);
        let answer = raw::exchange(shop.http, post("", &body)).await.unwrap();
        assert_eq!(tries.load(Ordering::Relaxed), 2);
        assert_eq!(backend_of(&answer), "late");
        assert!(arrived(&answer) == body, "{} bytes: the second endpoint got another body", body.len());
        assert_eq!(seen_field(&answer, "x-steps").as_deref(), Some("a, b"));
        assert_eq!(marks(&answer).as_deref(), Some("b a"));
    }
}

#[tokio::test]
async fn a_connection_serves_another_request_after_a_body_was_held() {
    let uses = [("a", ", read: {limit: 500000, replace: other}"), ("b", ", read: {limit: 500000}")];
    let shop = shop_with(&uses).await;
    let mut client = raw::Client::connect(shop.http).await.unwrap();
    for length in [10, 100_000, 0, 200_000] {
        let request = String::from_utf8(post("", &text(length))).unwrap().replace("Connection: close\r\n", "");
        client.send(request).await.unwrap();
        let answer = client.response().await.unwrap();
        assert_eq!(arrived(&answer), b"other", "{length} bytes");
    }
}

#[tokio::test]
async fn a_path_that_the_gateway_would_not_serve_is_refused_to_a_plugin() {
    for path in ["/files/..%2F..%2Fadmin", "/a%00b", "/a%2G"] {
        let shop = shop_with(&[("a", &format!(", path: \"{path}\""))]).await;
        let answer = shop.get("/in").await;
        assert_eq!(answer.json()["target"], "/in", "{path}");
        assert!(seen_field(&answer, "x-path-refused").is_some(), "{path}");
    }
    let shop = shop_with(&[("a", ", path: \"/files/./x/../y\"")]).await;
    assert_eq!(shop.get("/in").await.json()["target"], "/files/y");
}

#[tokio::test]
async fn a_prefix_is_rewritten_only_where_the_plugins_path_still_has_it() {
    let rule = |filter: &str| {
        http_route(
            "shop",
            &[HOST],
            &format!(
                "  - matches: [{{path: {{value: /old}}}}]\n    filters: [{filter}]\n    backendRefs: [{{name: one, port: 80}}]\n  - backendRefs: [{{name: one, port: 80}}]\n"
            ),
        )
    };
    let rewrite = rule("{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}");
    for (path, target) in [("/old/b", "/new/b"), ("/older/b", "/older/b"), ("/else", "/else"), ("/old", "/new")] {
        let shop = shop_of(&rewrite, "", ON_ROUTE, &[("a", &format!(", path: {path}"))]).await;
        assert_eq!(shop.get("/old/a?q=1").await.json()["target"], format!("{target}?q=1"), "{path}");
    }
}

#[tokio::test]
async fn response_phases_run_on_answers_that_come_before_the_plugins_had_their_turn() {
    let rules = "  - filters: [{type: CORS, cors: {allowOrigins: [\"https://a.example\"]}}]\n    backendRefs: [{name: one, port: 80}]\n";
    let shop = shop_of(&http_route("shop", &[HOST], rules), "", ON_ROUTE, &[("a", ""), ("b", "")]).await;
    let preflight = "Origin: https://a.example\r\nAccess-Control-Request-Method: GET\r\n";
    let answer = shop.send("OPTIONS", "/", HOST, preflight).await;
    assert_eq!((answer.status, marks(&answer).as_deref()), (204, Some("b a")), "{answer:?}");
}

#[tokio::test]
async fn plugins_of_a_gateway_see_its_own_404() {
    let shop = shop_of(&route_to("shop", &[HOST], "one"), "", ON_GATEWAY, &[("a", ""), ("b", "")]).await;
    let answer = shop.send("GET", "/", "other.example", "").await;
    assert_eq!((answer.status, marks(&answer).as_deref()), (404, Some("b a")), "{answer:?}");
    assert_eq!(marks(&shop.get("/").await).as_deref(), Some("b a"));
}

#[tokio::test]
async fn a_plugins_own_grpc_status_is_not_replaced() {
    let shop = shop_with(&[("a", ", reply: {status: 200, headers: {grpc-status: \"7\", grpc-message: own}}")]).await;
    let connection = http2::Connection::clear(shop.http).await.unwrap();
    let request = connection.request("POST", HOST, "/echo.Echo/Chat").header("content-type", "application/grpc");
    let answer = connection.exchange(request.body(()).unwrap(), Bytes::new()).await.unwrap();
    let of = |name: &str| answer.header(name).map(str::to_owned);
    assert_eq!((of("grpc-status").as_deref(), of("grpc-message").as_deref()), (Some("7"), Some("own")), "{answer:?}");
}

#[tokio::test]
async fn a_status_without_content_leaves_no_length_behind() {
    let shop = shop_with(&[("a", ", status: 204")]).await;
    let mut client = raw::Client::connect(shop.http).await.unwrap();
    for _ in 0..2 {
        client.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await.unwrap();
        let answer = client.response().await.unwrap();
        assert_eq!((answer.status, answer.header("content-length")), (204, None), "{answer:?}");
    }
    let connection = http2::Connection::clear(shop.http).await.unwrap();
    let answer = connection.get(HOST, "/").await.unwrap();
    assert_eq!((answer.status, answer.body.len(), answer.header("content-length")), (204, 0, None));
}

#[tokio::test]
async fn a_source_that_is_gone_leaves_the_version_before_in_service() {
    let shop = shop_with(&[("a", "")]).await;
    let broken = plugin("steps", "typo.wasm", "");
    let objects = [route_to("shop", &[HOST], "one"), broken, steps(ON_ROUTE, &[("b", "")])];
    shop.folder.write("more.yaml", join(objects));
    wait::until("the problem", || async {
        let (_, problems) = shop.gateway.admin_get("/problems").await.ok()?;
        problems.contains("SLUICE-P401").then_some(())
    })
    .await;
    // It may even be given another configuration.
    let answer = shop.until("the new configuration", "/", |answer| marks(answer).as_deref() == Some("b")).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn the_rules_timeout_ends_a_plugins_call() {
    let shop = Shop::start(&["one"], "").await;
    shop.folder.write("probe.wasm", std::fs::read(guests::module("probe")).unwrap());
    let rules = "  - timeouts: {request: 200ms}\n    backendRefs: [{name: one, port: 80}]\n";
    shop.folder.write(
        "more.yaml",
        join([
            http_route("shop", &[HOST], rules),
            plugin("probe", "probe.wasm", "  failMode: Open\n  limits: {runTime: 10s, deadline: 20s}\n"),
            sluice_tests::objects::plugin_on_route("probe", "shop", "probe", "{name: x}"),
        ]),
    );
    shop.until("the plugin", "/", |a| a.status == 200 && seen_field(a, "x-probe").is_some()).await;
    let answer = shop.get_with("/in", "X-Do: loop\r\n").await;
    assert_eq!(answer.status, 504);
    assert_eq!(shop.gateway.logged(|l| l["path"] == "/in").await["reason"], "request_timeout");
}

/// Waits until so many instances of the plugin are in use: one is given back a moment after its answer is sent.
async fn instances(shop: &Shop, count: f64) {
    wait::until(&format!("{count} instances to be in use"), || async {
        (shop.gateway.metric("sluice_plugin_instances", &["steps"]).await == count).then_some(())
    })
    .await;
}

#[tokio::test]
async fn calls_above_a_plugins_concurrency_answer_as_overloaded() {
    let route = route_to("shop", &[HOST], "one");
    let shop = shop_of(&route, "  limits: {concurrency: 1}\n", ON_ROUTE, &[("a", ", read: {limit: 100}")]).await;
    instances(&shop, 0.0).await;
    // Its instance waits for the body.
    let mut slow = raw::Client::connect(shop.http).await.unwrap();
    slow.send(format!("POST /slow HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 5\r\n\r\n")).await.unwrap();
    instances(&shop, 1.0).await;
    assert_eq!(shop.get("/second").await.status, 503);
    assert_eq!(shop.gateway.logged(|l| l["path"] == "/second").await["reason"], "plugin_overloaded");
    slow.send("hello").await.unwrap();
    assert_eq!(slow.response().await.unwrap().status, 200);
    shop.until("the instance to be free", "/", |answer| answer.status == 200).await;
}

#[tokio::test]
async fn a_tunnel_holds_no_instance() {
    let route = route_to("shop", &[HOST], "one");
    let shop = shop_of(&route, "  limits: {concurrency: 1}\n", ON_ROUTE, &[("a", "")]).await;
    instances(&shop, 0.0).await;
    let mut tunnel = raw::Client::connect(shop.http).await.unwrap();
    tunnel
        .send(format!(
            "GET /chat HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ))
        .await
        .unwrap();
    let answer = tunnel.response().await.unwrap();
    assert_eq!((answer.status, marks(&answer).as_deref()), (101, Some("a")), "{}", answer.text());
    instances(&shop, 0.0).await;
    assert_eq!(shop.get("/").await.status, 200);
}

#[tokio::test]
async fn a_mirrors_copy_runs_no_plugin_again() {
    let copies = Backend::echo("copies").await;
    let rules = "  - filters: [{type: RequestMirror, requestMirror: {backendRef: {name: copies, port: 80}}}]\n    backendRefs: [{name: one, port: 80}]\n";
    let objects = join([http_route("shop", &[HOST], rules), service("copies", &[copies.address])]);
    let shop = shop_of(&objects, "", ON_ROUTE, &[("a", ", read: {limit: 500000}")]).await;
    let labels = ["steps", "request_headers"];
    let before = shop.gateway.metric("sluice_plugin_calls_total", &labels).await;
    let seen = copies.count();
    raw::exchange(shop.http, post("", &text(1_000))).await.unwrap();
    wait::until("the copy", || async { (copies.count() > seen).then_some(()) }).await;
    assert_eq!(shop.gateway.metric("sluice_plugin_calls_total", &labels).await, before + 1.0);
    let copy = copies.seen().pop().unwrap();
    assert_eq!(copy.headers.get_all("x-steps").iter().count(), 1);
}

#[tokio::test]
async fn secrets_in_a_plugins_configuration_are_not_in_the_dump() {
    let shop = shop_with(&[("a", ", reply: {status: 200, headers: {x-token: c2VjcmV0}}")]).await;
    let (status, dump) = shop.gateway.admin_get("/config").await.unwrap();
    assert_eq!(status, 200);
    assert!(dump.contains("config_hash") && !dump.contains("c2VjcmV0"), "{dump}");
}

#[tokio::test]
async fn a_plugin_that_nobody_uses_is_checked_all_the_same() {
    let shop = Shop::start(&["one"], "").await;
    shop.folder.write("garbage.wasm", b"no module");
    shop.folder.write("steps.wasm", std::fs::read(guests::module("steps")).unwrap());
    shop.folder.write("more.yaml", join([plugin("garbage", "garbage.wasm", ""), plugin("steps", "steps.wasm", "")]));
    wait::until("the problem", || async {
        let (_, problems) = shop.gateway.admin_get("/problems").await.ok()?;
        (problems.contains("SLUICE-P402") && problems.contains("garbage")).then_some(())
    })
    .await;
    wait::until("the page", || async {
        let (_, page) = shop.gateway.admin_get("/").await.ok()?;
        (page.contains("compiled, not used") && page.contains("failed")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_configuration_that_is_wrong_is_a_problem_of_the_policy_that_holds_it_once() {
    let shop = Shop::start(&["one"], "").await;
    shop.folder.write("steps.wasm", std::fs::read(guests::module("probe")).unwrap());
    let rules = "  - matches: [{path: {value: /a}}]\n    backendRefs: [{name: one, port: 80}]\n  - backendRefs: [{name: one, port: 80}]\n";
    shop.folder.write(
        "more.yaml",
        join([
            http_route("shop", &[HOST], rules),
            plugin("steps", "steps.wasm", ""),
            steps(ON_ROUTE, &[("good", ""), ("bad", ", onConfigure: 5")]),
        ]),
    );
    wait::until("the problem", || async {
        let (_, problems) = shop.gateway.admin_get("/problems").await.ok()?;
        let problems: Vec<serde_json::Value> = serde_json::from_str(&problems).ok()?;
        let of_config: Vec<_> = problems.iter().filter(|problem| problem["code"] == "SLUICE-P403").collect();
        let [only] = of_config.as_slice() else { return None };
        assert!(only["object"].to_string().contains("TrafficPolicy"), "{only}");
        assert_eq!(only["field"], "spec.plugins[1].config.onConfigure", "{only}");
        Some(())
    })
    .await;
}

/// As [`steps`], each with its condition.
fn conditional(uses: &[(&str, &str)]) -> String {
    let policy = steps(ON_ROUTE, &uses.iter().map(|(name, _)| (*name, "")).collect::<Vec<_>>());
    uses.iter().fold(policy, |policy, (name, when)| {
        let first = format!("  - name: {name}\n");
        policy.replace(&first, &format!("{first}    when: {when:?}\n"))
    })
}

async fn shop_when(uses: &[(&str, &str)]) -> Shop {
    let shop = Shop::start(&["one"], "").await;
    shop.folder.write("steps.wasm", std::fs::read(guests::module("steps")).unwrap());
    let (route, plugin) =
        (route_to("shop", &[HOST], "one"), plugin("steps", "steps.wasm", "  limits: {runTime: 20ms, deadline: 10s}\n"));
    shop.folder.write("more.yaml", join([route, plugin, conditional(uses)]));
    // Each has a configuration, and so a version, of its own: this request asks for all of them.
    wait::until("the plugins", || async {
        let answer = shop.get_with("/order/pizza", "X-Tenant: acme\r\n").await;
        (answer.status == 200).then_some(())
    })
    .await;
    shop
}

#[tokio::test]
async fn a_plugin_whose_condition_does_not_hold_takes_part_in_no_phase() {
    let uses = [
        ("always", "true"),
        ("orders", "request.path.startsWith('/order/') && request.method == 'GET'"),
        ("acme", "request.headers['x-tenant'] == 'acme' || source.address == '192.0.2.1'"),
        ("other-host", "request.host != 'shop.example'"),
    ];
    let shop = shop_when(&uses).await;
    for (path, lines, expected) in [
        ("/", "", "always"),
        ("/order/pizza", "", "always, orders"),
        ("/order/pizza", "X-Tenant: acme\r\n", "always, orders, acme"),
        ("/", "X-Tenant: acme\r\n", "always, acme"),
        // The normal form of the path is what is looked at.
        ("/web/../order/pizza", "", "always, orders"),
    ] {
        let answer = shop.get_with(path, lines).await;
        assert_eq!(seen_field(&answer, "x-steps").as_deref(), Some(expected), "{path} {lines}");
        let reverse: Vec<_> = expected.split(", ").collect::<Vec<_>>().into_iter().rev().collect();
        assert_eq!(marks(&answer).as_deref(), Some(reverse.join(" ").as_str()), "{path} {lines}");
    }
    let line = shop.gateway.logged(|l| l["attributes"]["log.acme"] == "200 0").await;
    assert_eq!(line["attributes"]["log.other-host"], serde_json::Value::Null, "{line}");
}

#[tokio::test]
async fn a_condition_that_cannot_be_read_refuses_its_requests_and_says_why() {
    let shop = shop_when(&[("a", "true")]).await;
    let policy = conditional(&[("a", "request.body == ''")]);
    let (route, plugin) =
        (route_to("shop", &[HOST], "one"), plugin("steps", "steps.wasm", "  limits: {runTime: 20ms, deadline: 10s}\n"));
    shop.folder.write("more.yaml", join([route, plugin, policy]));
    shop.until("the refusal", "/", |answer| answer.status == 503).await;
    let problems = wait::until("the problem", || async {
        let (_, problems) = shop.gateway.admin_get("/problems").await.ok()?;
        problems.contains("SLUICE-").then_some(problems)
    })
    .await;
    for part in ["SLUICE-P111", "spec.plugins[0].when", "`request` has no `body`"] {
        assert!(problems.contains(part), "{part}: {problems}");
    }
}
