//! Plugins that read a response's body whole before its head goes on: one and several, over HTTP/1 and HTTP/2, beside
//! filters, on the gateway's own answers, and where they can't.

use crate::plugin_phases::{marks, steps};
use crate::shop::{HOST, Shop};
use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderValue, StatusCode, header};
use sluice_tests::backend::{Handler, text};
use sluice_tests::grpc::Call;
use sluice_tests::objects::{
    NAMESPACE, configured_gateway, http_route, join, plugin, route_to, service, service_speaking,
};
use sluice_tests::raw::{self, Response};
use sluice_tests::{Backend, guests, http2, wait};
use std::sync::Arc;

const ON_ROUTE: &str = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: shop}";
const LIMITS: &str = "  limits: {runTime: 20ms, deadline: 10s, bodyBuffer: 1Mi}\n";

/// Answers `/N` with N bytes, `/status/N` with a status, `/endless` with a piece and then nothing, each as it is asked.
fn bodies() -> Handler {
    Arc::new(|request| {
        async move {
            let path = request.uri().path().to_owned();
            if let Some(status) = path.strip_prefix("/status/") {
                let status: u16 = status.parse().unwrap();
                let body = if matches!(status, 204 | 304) { "" } else { "a body" };
                return text(StatusCode::from_u16(status).unwrap(), body);
            }
            if path == "/endless" {
                return sluice_tests::backend::endless("data: 1\n\n");
            }
            let mut answer = text(StatusCode::OK, &content(path[1..].parse().unwrap_or(0)));
            answer.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("none-at-all"));
            answer
        }
        .boxed()
    })
}

fn content(length: usize) -> String {
    (0..length).map(|n| char::from(b'a' + (n % 23) as u8)).collect()
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)))
}

fn seen(name: &str, bytes: &str) -> String {
    format!("{name}:{}:{}", bytes.len(), sum(bytes.as_bytes()))
}

fn fields(answer: &Response, name: &str) -> Vec<String> {
    let all = answer.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
    all.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
}

struct Site {
    shop: Shop,
    _backend: Backend,
}

/// A route to [`bodies`] with these uses of `steps`.
async fn site(uses: &[(&str, &str)]) -> Site {
    site_of(uses, LIMITS, None).await
}

async fn site_of(uses: &[(&str, &str)], spec: &str, protocol: Option<&str>) -> Site {
    let backend = Backend::with(bodies()).await;
    let shop = Shop::start(&[], "").await;
    shop.folder.write("steps.wasm", std::fs::read(guests::module("steps")).unwrap());
    shop.folder.write(
        "more.yaml",
        join([
            route_to("shop", &[HOST], "bodies"),
            service_speaking("bodies", protocol, &[backend.address]),
            plugin("steps", "steps.wasm", spec),
            steps(ON_ROUTE, uses),
        ]),
    );
    shop.until("the plugins", "/status/304", |answer| marks(answer).is_some() && answer.status == 304).await;
    Site { shop, _backend: backend }
}

#[tokio::test]
async fn a_plugin_reads_the_body_and_the_head_tells_the_length_of_what_it_put_there() {
    for protocol in [None, Some("kubernetes.io/h2c")] {
        let site = site_of(&[("a", ", readResponse: {limit: 500000}")], LIMITS, protocol).await;
        for length in [0, 1, 5_000, 70_000, 300_000] {
            let (path, body) = (format!("/{length}"), content(length));
            let answer = site.shop.get(&path).await;
            assert_eq!((answer.status, answer.text() == body), (200, true), "{path} {protocol:?}");
            assert_eq!(fields(&answer, "x-read-response"), [seen("a", &body)]);
            assert_eq!(fields(&answer, "content-length"), [length.to_string()]);
            assert_eq!(fields(&answer, "transfer-encoding"), [""; 0]);
            assert_eq!(fields(&answer, "content-encoding"), ["none-at-all"], "a coding is the plugin's own affair");
            let connection = http2::Connection::clear(site.shop.http).await.unwrap();
            let answer = connection.get(HOST, &path).await.unwrap();
            assert_eq!((answer.status, answer.body == body.as_bytes()), (200, true), "{path} by HTTP/2, {protocol:?}");
            assert_eq!(answer.header("content-length"), Some(&*length.to_string()));
        }
    }
}

#[tokio::test]
async fn a_connection_goes_on_after_a_body_that_was_replaced() {
    let site = site(&[("a", ", readResponse: {limit: 500000, replace: other}")]).await;
    let mut client = raw::Client::connect(site.shop.http).await.unwrap();
    for length in [0, 10, 100_000] {
        client.send(format!("GET /{length} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await.unwrap();
        let answer = client.response().await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "other"), "{length}");
        assert_eq!(fields(&answer, "content-length"), ["5"]);
    }
}

#[tokio::test]
async fn the_next_plugin_sees_the_body_and_the_head_as_the_one_before_left_them() {
    let uses =
        [("a", ", readResponse: {limit: 500000}"), ("b", ""), ("c", ", readResponse: {limit: 500000, replace: other}")];
    let site = site(&uses).await;
    let answer = site.shop.get("/70000").await;
    assert_eq!(answer.text(), "other");
    assert_eq!(marks(&answer).as_deref(), Some("c b a"));
    assert_eq!(fields(&answer, "x-read-response"), [seen("c", &content(70_000)), seen("a", "other")]);
    assert_eq!(fields(&answer, "x-told-length"), ["c:70000", "a:5"]);
    let line = site.shop.gateway.logged(|line| line["path"] == "/70000").await;
    assert_eq!((&line["status"], &line["reason"]), (&200.into(), &"upstream".into()), "{line}");
    assert_eq!(line["attributes"]["log.a"], "200 0", "{line}");
}

#[tokio::test]
async fn a_body_above_the_limit_is_answered_502_or_passes_as_the_plugin_says() {
    let site = site(&[("a", ", readResponse: {limit: 1000}")]).await;
    assert_eq!(site.shop.get("/1000").await.status, 200);
    let answer = site.shop.get("/1001").await;
    assert_eq!(answer.status, 502, "{answer:?}");
    let line = site.shop.gateway.logged(|line| line["path"] == "/1001").await;
    assert_eq!(line["reason"], "response_too_large", "{line}");

    // The Plugin's buffer bounds what the plugin asks for.
    let spec = "  limits: {runTime: 20ms, deadline: 10s, bodyBuffer: 500}\n";
    let uses = [("a", ", readResponse: {limit: 500000}"), ("b", ", readResponse: {limit: 500000, orPass: true}")];
    let site = site_of(&uses[1..], spec, None).await;
    for length in [501, 100_000, 900_000] {
        let answer = site.shop.get(&format!("/{length}")).await;
        assert_eq!((answer.status, answer.text() == content(length)), (200, true), "{length}");
        assert_eq!(fields(&answer, "x-read-response"), [""; 0], "{length}");
        assert_eq!(fields(&answer, "content-length"), [length.to_string()], "as the backend told it");
    }
    // One passes it, the next refuses it.
    let site = site_of(&uses, spec, None).await;
    assert_eq!(site.shop.get("/501").await.status, 502);
    let answer = site.shop.get("/500").await;
    assert_eq!(fields(&answer, "x-read-response"), [seen("b", &content(500)), seen("a", &content(500))]);
}

#[tokio::test]
async fn a_response_that_has_no_body_is_not_waited_for() {
    let site = site(&[("a", ", readResponse: {limit: 1000, replace: other}")]).await;
    for (method, path, status) in [("HEAD", "/100", 200), ("GET", "/status/204", 204), ("GET", "/status/304", 304)] {
        let answer = raw::Client::connect(site.shop.http).await.unwrap();
        let answer = head_of(answer, method, path).await;
        assert_eq!(answer.status, status, "{method} {path}");
        assert_eq!(fields(&answer, "x-read-response"), [""; 0], "{method} {path}");
        assert!(marks(&answer).is_some());
        assert_eq!(answer.body, b"");
    }
    // An empty one is there to be replaced.
    assert_eq!(site.shop.get("/0").await.text(), "other");
    let connection = http2::Connection::clear(site.shop.http).await.unwrap();
    assert_eq!(connection.get(HOST, "/0").await.unwrap().body, b"other");
}

async fn head_of(mut client: raw::Client, method: &str, path: &str) -> Response {
    client.send(format!("{method} {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await.unwrap();
    client.response_to(method).await.unwrap()
}

#[tokio::test]
async fn a_plugin_may_answer_instead_and_those_before_it_see_that_answer() {
    let uses = [("a", ", readResponse: {limit: 1000}"), ("b", ", readResponse: {limit: 1000}, onResponseBody: answer")];
    let site = site(&uses).await;
    let answer = site.shop.get("/100").await;
    assert_eq!((answer.status, answer.text().as_str()), (418, "no tea\n"));
    assert_eq!(fields(&answer, "x-answered"), ["b"]);
    assert_eq!(marks(&answer).as_deref(), Some("a"), "the backend's head is gone with its marks");
    // The answer's body is there at once, and read as any other.
    assert_eq!(fields(&answer, "x-read-response"), [seen("a", "no tea\n")]);
    let line = site.shop.gateway.logged(|line| line["path"] == "/100").await;
    assert_eq!(line["reason"], "plugin_denied", "{line}");
}

#[tokio::test]
async fn a_status_without_a_body_leaves_none() {
    let site = site(&[("a", ", readResponse: {limit: 1000}, onResponseBody: empty")]).await;
    let mut client = raw::Client::connect(site.shop.http).await.unwrap();
    for _ in 0..2 {
        client.send(format!("GET /100 HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await.unwrap();
        let answer = client.response().await.unwrap();
        assert_eq!((answer.status, answer.body.len()), (204, 0));
        assert_eq!(fields(&answer, "content-length"), [""; 0]);
    }
    let connection = http2::Connection::clear(site.shop.http).await.unwrap();
    assert_eq!(connection.get(HOST, "/100").await.unwrap().status, 204);
}

#[tokio::test]
async fn the_gateways_own_answers_are_read_as_a_backends() {
    let shop = Shop::start(&[], "").await;
    shop.folder.write("steps.wasm", std::fs::read(guests::module("steps")).unwrap());
    shop.folder.write(
        "more.yaml",
        join([
            http_route("shop", &[HOST], "  - backendRefs: [{name: missing, port: 80}]\n"),
            plugin("steps", "steps.wasm", LIMITS),
            steps(ON_ROUTE, &[("a", ", readResponse: {limit: 1000, replace: sorry}"), ("b", "")]),
        ]),
    );
    let answer = shop.until("the plugins", "/", |answer| marks(answer).is_some()).await;
    assert_eq!((answer.status, answer.text().as_str()), (500, "sorry"));
    assert_eq!(marks(&answer).as_deref(), Some("b a"));
    assert_eq!(fields(&answer, "content-length"), ["5"]);
    let connection = http2::Connection::clear(shop.http).await.unwrap();
    assert_eq!(connection.get(HOST, "/").await.unwrap().body, b"sorry");
    assert_eq!(head_of(raw::Client::connect(shop.http).await.unwrap(), "HEAD", "/").await.body, b"");
}

#[tokio::test]
async fn a_failure_follows_the_fail_mode_and_harms_no_other_request() {
    for (mode, status) in [("Closed", 503), ("Open", 200)] {
        for how in ["trap", "loop"] {
            let spec = format!("  failMode: {mode}\n{LIMITS}");
            let config = format!(", readResponse: {{limit: 1000, replace: other}}, onResponseBody: {how}");
            let site = site_of(&[("a", &config)], &spec, None).await;
            let answer = site.shop.get("/100").await;
            assert_eq!(answer.status, status, "{how} with failMode {mode}: {answer:?}");
            if mode == "Open" {
                assert_eq!(answer.text(), content(100), "what was read goes on");
            } else {
                let line = site.shop.gateway.logged(|line| line["path"] == "/100").await;
                assert_eq!(line["reason"], "plugin_failed", "{line}");
            }
            assert_eq!(site.shop.get("/status/304").await.status, 304);
        }
    }
}

/// Server-sent events have no end: the head is waited for as long as any, and then the gateway says so.
#[tokio::test]
async fn a_response_without_an_end_is_answered_504_in_its_time() {
    let backend = Backend::with(bodies()).await;
    let shop = Shop::start(&[], "").await;
    shop.folder.write("steps.wasm", std::fs::read(guests::module("steps")).unwrap());
    let rules = "  - timeouts: {request: 700ms}\n    backendRefs: [{name: bodies, port: 80}]\n";
    shop.folder.write(
        "more.yaml",
        join([
            http_route("shop", &[HOST], rules),
            service("bodies", &[backend.address]),
            plugin("steps", "steps.wasm", LIMITS),
            steps(ON_ROUTE, &[("a", ", readResponse: {limit: 1000, orPass: true}")]),
        ]),
    );
    shop.until("the plugins", "/10", |answer| marks(answer).is_some() && answer.status == 200).await;
    let answer = shop.get("/endless").await;
    assert_eq!(answer.status, 504, "{answer:?}");
    let line = shop.gateway.logged(|line| line["path"] == "/endless").await;
    assert_eq!(line["reason"], "request_timeout", "{line}");

    // Without a timeout of the rule it is the listener's for heads.
    shop.folder.write(
        "shop.yaml",
        join([
            sluice_tests::objects::class(),
            configured_gateway(shop.http, None, "timeouts: {responseHeaders: 500ms}"),
        ]),
    );
    shop.folder.write(
        "more.yaml",
        join([
            route_to("shop", &[HOST], "bodies"),
            service("bodies", &[backend.address]),
            plugin("steps", "steps.wasm", LIMITS),
            steps(ON_ROUTE, &[("a", ", readResponse: {limit: 1000, orPass: true}")]),
        ]),
    );
    wait::until("the listener's timeout", || async {
        shop.get("/endless").await;
        let lines = shop.gateway.access_log();
        lines.iter().any(|line| line["reason"] == "upstream_timeout" && line["status"] == 504).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_backend_that_breaks_off_is_answered_for_as_long_as_the_head_is_held() {
    let shop = Shop::start(&[], "").await;
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf of it";
    let backend =
        sluice_tests::raw_backend::RawBackend::answering(answer, sluice_tests::raw_backend::Then::Close).await;
    shop.folder.write("steps.wasm", std::fs::read(guests::module("steps")).unwrap());
    shop.folder.write(
        "more.yaml",
        join([
            route_to("shop", &[HOST], "broken"),
            service("broken", &[backend.address]),
            plugin("steps", "steps.wasm", LIMITS),
            steps(ON_ROUTE, &[("a", ", readResponse: {limit: 10000}")]),
        ]),
    );
    let answer = shop.until("the answer", "/", |answer| answer.status == 502).await;
    assert_eq!(marks(&answer), None, "the plugin has seen a response, and sees no second one");
    let line = shop.gateway.logged(|line| line["status"] == 502).await;
    assert_eq!(line["reason"], "upstream_reset", "{line}");
}

#[tokio::test]
async fn trailers_follow_a_body_that_was_read() {
    let backend = Backend::echo("one").await;
    let shop = Shop::start(&[], "").await;
    shop.folder.write("steps.wasm", std::fs::read(guests::module("steps")).unwrap());
    shop.folder.write(
        "more.yaml",
        join([
            route_to("shop", &[HOST], "one"),
            service_speaking("one", Some("kubernetes.io/h2c"), &[backend.address]),
            plugin("steps", "steps.wasm", LIMITS),
            steps(ON_ROUTE, &[("a", ", readResponse: {limit: 10000}")]),
        ]),
    );
    shop.until("the plugins", "/", |answer| marks(answer).is_some() && answer.status == 200).await;
    let connection = http2::Connection::clear(shop.http).await.unwrap();
    let request = connection.request("POST", HOST, "/echo.Echo/Say").header("content-type", "application/grpc");
    let frame = sluice_tests::grpc::frame(b"hello");
    let answer = connection.exchange(request.body(()).unwrap(), frame.clone()).await.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (200, &frame[..]));
    assert_eq!(answer.trailers["grpc-status"], "0");
    assert_eq!(answer.trailers["x-trailer"], "kept");
    assert_eq!(answer.header("content-length"), Some("10"));
    // The request's body may end after the response has begun, as the backend echoes it.
    let mut call = Call::open(&connection, HOST, "/echo.Echo/Chat").await.unwrap();
    drop(call.exchange(b"one").now_or_never());
    let trailers = call.finish().await.unwrap();
    assert_eq!(trailers["grpc-status"], "0");
}

/// A filter behind the reader sees pieces on their way to it, one before it sees what the reader left.
#[tokio::test]
async fn filters_on_both_sides_see_the_body_in_the_order_of_the_chain() {
    let parrot: Handler = Arc::new(|request| {
        async move {
            let body = http_body_util::BodyExt::collect(request.into_body()).await.unwrap().to_bytes();
            text(StatusCode::OK, &String::from_utf8_lossy(&body))
        }
        .boxed()
    });
    let backend = Backend::with(parrot).await;
    for (order, expected) in [
        // Upper case comes of the filter, and "other" of the reader.
        ("reader first", "other"),
        ("filter first", "OTHER"),
    ] {
        let shop = Shop::start(&[], "").await;
        shop.folder.write("steps.wasm", std::fs::read(guests::module("steps")).unwrap());
        shop.folder.write("filter-body.wasm", std::fs::read(guests::module("filter-body")).unwrap());
        let reader = "  - name: reader\n    pluginRef: {name: steps}\n    config: {name: reader, readResponse: {limit: 10000, replace: other}}\n";
        let filter = "  - name: filter\n    pluginRef: {name: filter-body}\n";
        let uses = if order == "reader first" { [reader, filter] } else { [filter, reader] };
        let policy = format!(
            "apiVersion: sluice.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: both, namespace: {NAMESPACE}}}\nspec:\n  targetRefs: [{ON_ROUTE}]\n  plugins:\n{}{}",
            uses[0], uses[1]
        );
        shop.folder.write(
            "more.yaml",
            join([
                route_to("shop", &[HOST], "parrot"),
                service("parrot", &[backend.address]),
                plugin("steps", "steps.wasm", LIMITS),
                plugin("filter-body", "filter-body.wasm", LIMITS),
                policy,
            ]),
        );
        shop.until("the plugins", "/", |answer| answer.header("x-pieces").is_some() && marks(answer).is_some()).await;
        let request = format!(
            "POST /in HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nX-Body: upper\r\nContent-Length: 13\r\n\r\nsmall letters"
        );
        let answer = raw::exchange(shop.http, request).await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, expected), "{order}: {answer:?}");
        // The filter has had the request's body too.
        assert_eq!(fields(&answer, "x-read-response"), [seen("reader", "SMALL LETTERS")], "{order}");
        let connection = http2::Connection::clear(shop.http).await.unwrap();
        let request = connection.request("POST", HOST, "/in").header("x-body", "upper").body(()).unwrap();
        let answer = connection.exchange(request, Bytes::from_static(b"small letters")).await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (200, expected.as_bytes()), "{order} by HTTP/2");
    }
}
