//! Filters that were built for Envoy, through the real binary.

use crate::shop::{HOST, Shop, backend_of, seen_field};
use bytes::Bytes;
use futures::FutureExt;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full};
use sluice_tests::backend::text;
use sluice_tests::objects::{NAMESPACE, http_route, join, plugin, plugin_on_route, route_to, service};
use sluice_tests::{Backend, guests, http2, raw};
use std::sync::Arc;

/// A route to the backend `one`, with one filter before it.
async fn shop_with(filter: &str, config: &str, more: &[String], spec: &str) -> Shop {
    let shop = Shop::start(&["one"], "").await;
    let file = format!("{filter}.wasm");
    shop.folder.write(&file, std::fs::read(guests::module(filter)).unwrap());
    let route = route_to("shop", &[HOST], "one");
    let spec = format!("  limits: {{runTime: 20ms, deadline: 10s}}\n{spec}");
    let objects = [route, plugin(filter, &file, &spec), plugin_on_route("filters", "shop", filter, config)];
    shop.folder.write("more.yaml", join(objects.into_iter().chain(more.iter().cloned())));
    shop.until("the filter", "/", |answer| !matches!(answer.status, 404 | 503)).await;
    shop
}

#[tokio::test]
async fn a_filter_answers_for_its_path_and_lets_others_pass() {
    let shop = shop_with("filter-headers", "{}", &[], "").await;
    let answer = shop.get("/hello").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "Hello!\n"));
    assert_eq!(answer.header("hello").as_deref(), Some("world"));
    assert_eq!(answer.header("powered-by").as_deref(), Some("proxy-wasm"));
    assert_eq!(answer.header("content-type").as_deref(), Some("text/plain"));
    assert_eq!(backend_of(&shop.get("/other").await), "one");
}

#[tokio::test]
async fn a_configuration_in_envoys_words_reaches_the_filter() {
    let config = r#"{"@type": type.googleapis.com/google.protobuf.StringValue, value: "some words"}"#;
    let shop = shop_with("filter-config", config, &[], "").await;
    let answer = shop.get("/").await;
    assert_eq!(answer.header("custom-header").as_deref(), Some("some words"));
    assert_eq!(backend_of(&answer), "one");
}

#[tokio::test]
async fn a_filter_asks_a_backend_and_goes_on_as_the_answer_says() {
    let auth = Backend::with(Arc::new(|request| {
        let body: &[u8] = if request.uri().path() == "/even" { b"\x02" } else { b"\x01" };
        let body = Full::new(Bytes::from_static(body)).map_err(|never| match never {}).boxed();
        async move { Response::builder().status(StatusCode::ACCEPTED).body(body).unwrap() }.boxed()
    }))
    .await;
    let spec = "  capabilities: {backends: [{name: auth, ref: {name: auth, port: 80}}]}\n";
    let shop = shop_with("filter-auth", "{}", &[service("auth", &[auth.address])], spec).await;
    let answer = shop.get("/").await;
    assert_eq!((answer.status, answer.text().as_str()), (403, "Access forbidden.\n"));
    assert_eq!(answer.header("powered-by").as_deref(), Some("proxy-wasm"));
    let answer = shop.get_with("/", "x-ask: /even\r\n").await;
    assert_eq!(backend_of(&answer), "one");
    assert_eq!(seen_field(&answer, "x-auth-status").as_deref(), Some("202"));
    assert_eq!(answer.header("powered-by").as_deref(), Some("proxy-wasm"));
    // Many at a time, each with its own answer.
    let many = (0..50).map(|n| {
        let shop = &shop;
        async move {
            let lines = if n % 2 == 0 { "x-ask: /even\r\n" } else { "x-ask: /odd\r\n" };
            assert_eq!(shop.get_with("/", lines).await.status, if n % 2 == 0 { 200 } else { 403 }, "request {n}");
        }
    });
    futures::future::join_all(many).await;
}

#[tokio::test]
async fn what_a_filter_changes_and_finds_out_of_a_request_is_the_requests_own() {
    let shop = shop_with("filter-probe", "{}", &[], "").await;
    let told = async |lines: &str| seen_field(&shop.get_with("/a?b=c", lines).await, "x-told");
    let property = async |path: &str| told(&format!("x-do: property\r\nx-with: {path}\r\n")).await.unwrap();
    assert_eq!(property("request/path").await, "/a?b=c");
    assert!(property("source/address").await.starts_with("127.0.0.1:"));
    assert_eq!(property("destination/address").await, format!("127.0.0.1:{}", shop.http));
    assert_eq!(property("route_name").await, format!("HTTPRoute {NAMESPACE}/shop"));
    assert_eq!(property("request/protocol").await, "HTTP/1.1");
    assert_eq!(property("connection/mtls").await, "00");
    let answer = shop.get_with("/a", "x-do: edit\r\nx-gone: 1\r\n").await;
    let seen = answer.json();
    assert_eq!((&seen["method"], &seen["target"]), (&"PUT".into(), &"/changed?by=filter".into()), "{seen}");
    assert_eq!(seen_field(&answer, "host").as_deref(), Some("other.example:8080"));
    assert_eq!(seen_field(&answer, "x-set").as_deref(), Some("two, three"));
    assert_eq!(seen_field(&answer, "x-gone"), None);
    // What it set, and what it saw at the end, are in the access log and in what it shares.
    shop.get_with("/tenant", "x-do: set-property\r\n").await;
    shop.gateway.logged(|line| line["attributes"]["tenant"] == "blue" && line["attributes"]["logged"] == "yes").await;
    assert_eq!(told("x-do: shared\r\nx-with: logged /tenant\r\n").await.as_deref(), Some("c800000000000000 true"));
}

#[tokio::test]
async fn a_filter_that_fails_is_its_own_routes_trouble() {
    let shop = shop_with("filter-probe", "{}", &[], "").await;
    for what in ["trap", "loop", "allocate", "bad-status"] {
        assert_eq!(shop.get_with("/", &format!("x-do: {what}\r\n")).await.status, 503, "{what}");
        assert_eq!(backend_of(&shop.get("/").await), "one", "after {what}");
    }
}

/// Answers with the body that it gets.
async fn parrot() -> Backend {
    Backend::with(Arc::new(|request| {
        async move {
            let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let body = Full::new(body).map_err(|never| match never {}).boxed();
            Response::builder().header("x-upstream", "parrot").body(body).unwrap()
        }
        .boxed()
    }))
    .await
}

/// A POST of a body, by its length or in chunks.
fn post(what: &str, body: &str, chunked: bool) -> String {
    let head = format!("POST /in HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nx-body: {what}\r\n");
    if !chunked {
        return format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    }
    let pieces: String = body
        .as_bytes()
        .chunks(7)
        .map(|piece| format!("{:x}\r\n{}\r\n", piece.len(), String::from_utf8_lossy(piece)))
        .collect();
    format!("{head}Transfer-Encoding: chunked\r\n\r\n{pieces}0\r\n\r\n")
}

#[tokio::test]
async fn bodies_pass_through_a_filter_in_both_directions() {
    let (parrot, auth) = (parrot().await, parrot().await);
    let shop = Shop::start(&[], "").await;
    shop.folder.write("filter-body.wasm", std::fs::read(guests::module("filter-body")).unwrap());
    let spec = "  limits: {runTime: 20ms, deadline: 10s, bodyBuffer: 64Ki}\n  capabilities: {backends: [{name: auth, ref: {name: auth, port: 80}}]}\n";
    shop.folder.write(
        "more.yaml",
        join([
            route_to("shop", &[HOST], "parrot"),
            service("parrot", &[parrot.address]),
            service("auth", &[auth.address]),
            plugin("filter-body", "filter-body.wasm", spec),
            plugin_on_route("filters", "shop", "filter-body", "{}"),
        ]),
    );
    shop.until("the filter", "/", |answer| answer.header("x-pieces").is_some()).await;
    for chunked in [false, true] {
        for (what, sent, expected) in [
            // The filter replaces what goes to the backend, and then what comes back.
            ("", "this is a secret", "a body of 16 bytes\n"),
            ("", "nothing to hide", "nothing to hide"),
            ("upper", "small letters", "SMALL LETTERS"),
            ("pass", "as it is", "as it is"),
            // The end of a body comes by itself, as it does under Envoy.
            ("frame", "framed", "<framed<>"),
            ("keep-length", "of one length", "of one length"),
            ("ask", "asked about", "asked about"),
        ] {
            let answer = raw::exchange(shop.http, post(what, sent, chunked)).await.unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (200, expected), "{what}, chunked: {chunked}");
            assert_eq!(answer.header("x-upstream").as_deref(), Some("parrot"));
        }
        let answer = raw::exchange(shop.http, post("refuse", "too much", chunked)).await.unwrap();
        assert_eq!((answer.status, answer.header("x-by").as_deref()), (413, Some("filter")));
    }
    // A length that was told, and is not that of what the filter makes of the body.
    let answer = raw::exchange(shop.http, post("keep-length", "a secret", false)).await.unwrap();
    assert_eq!(answer.status, 503, "{answer:?}");
    shop.gateway.logged(|line| line["reason"] == "plugin_failed").await;
    let large = "abcdefg".repeat(20_000);
    let answer = raw::exchange(shop.http, post("upper", &large, false)).await.unwrap();
    assert!(answer.text() == large.to_uppercase(), "140,000 bytes pass, piece by piece");
    assert_eq!(raw::exchange(shop.http, post("", &large, false)).await.unwrap().status, 413, "and are not held back");
    // A request without a body has none to see.
    let answer = shop.get("/").await;
    assert_eq!((answer.status, answer.header("x-pieces").as_deref()), (200, Some("0")));
    let connection = http2::Connection::clear(shop.http).await.unwrap();
    let request = connection.request("POST", HOST, "/in").header("x-body", "upper").body(()).unwrap();
    let answer = connection.exchange(request, Bytes::from_static(b"by http/2")).await.unwrap();
    assert_eq!((answer.status, &*answer.body), (200, &b"BY HTTP/2"[..]));
}

#[tokio::test]
async fn a_body_that_a_filter_has_seen_is_not_sent_a_second_time() {
    let failing = Backend::with(Arc::new(|_| async { text(StatusCode::SERVICE_UNAVAILABLE, "not now") }.boxed())).await;
    let shop = Shop::start(&[], "").await;
    shop.folder.write("filter-body.wasm", std::fs::read(guests::module("filter-body")).unwrap());
    let rules = "  - retry: {codes: [503], attempts: 2, backoff: 1ms}\n    backendRefs: [{name: failing, port: 80}]\n";
    shop.folder.write(
        "more.yaml",
        join([
            http_route("shop", &[HOST], rules),
            service("failing", &[failing.address]),
            plugin("filter-body", "filter-body.wasm", "  limits: {runTime: 20ms, deadline: 10s}\n"),
            plugin_on_route("filters", "shop", "filter-body", "{}"),
        ]),
    );
    shop.until("the filter", "/", |answer| answer.header("x-pieces").is_some()).await;
    let sent = async |request: &str| {
        let before = failing.count();
        let answer = raw::exchange(shop.http, request).await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (503, "not now"));
        failing.count() - before
    };
    assert_eq!(sent(&post("pass", "a body", false)).await, 1);
    // Of a request without one there is nothing to see.
    assert_eq!(sent(&format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n")).await, 3);
}
