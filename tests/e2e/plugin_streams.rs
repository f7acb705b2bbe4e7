//! Plugins that see bodies piece by piece, in both directions and over every protocol: nothing waits, nothing is held, and
//! what fails in the middle is cut with a reason.

use crate::shop::{HOST, Shop};
use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use sluice_tests::backend::{Handler, text};
use sluice_tests::grpc::Call;
use sluice_tests::objects::{NAMESPACE, join, plugin, route_to, service, service_speaking};
use sluice_tests::{Backend, guests, http2, raw, wait};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const LIMITS: &str = "  limits: {runTime: 20ms, deadline: 10s}\n";

/// Gives back each piece of the body as it comes; `/endless` begins and never ends.
fn parrot() -> Handler {
    Arc::new(|request| {
        async move {
            if request.uri().path() == "/endless" {
                return sluice_tests::backend::endless("data: 1\n\n");
            }
            if request.uri().path() == "/plain" {
                return text(StatusCode::OK, "small letters");
            }
            let length = request.headers().get("content-length").cloned();
            let mut answer = http::Response::new(BodyExt::boxed(request.into_body()));
            if let Some(length) = length {
                answer.headers_mut().insert("content-length", length);
            }
            answer
        }
        .boxed()
    })
}

/// A policy with uses of `streams`, and of filters, in this order.
fn policy(uses: &[(&str, &str)]) -> String {
    let plugins: String = uses
        .iter()
        .map(|(name, config)| match *config {
            "filter" => format!("  - name: {name}\n    pluginRef: {{name: filter-body}}\n"),
            config => {
                format!("  - name: {name}\n    pluginRef: {{name: streams}}\n    config: {{name: {name}{config}}}\n")
            }
        })
        .collect();
    format!(
        "apiVersion: sluice.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: streams, namespace: {NAMESPACE}}}\nspec:\n  \
         targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: shop}}]\n  plugins:\n{plugins}"
    )
}

struct Site {
    shop: Shop,
    backend: Backend,
}

async fn site(uses: &[(&str, &str)], spec: &str, protocol: Option<&str>, handler: Handler) -> Site {
    let backend = Backend::with(handler).await;
    let shop = Shop::start(&["other"], "").await;
    shop.folder.write("streams.wasm", std::fs::read(guests::module("streams")).unwrap());
    shop.folder.write("filter-body.wasm", std::fs::read(guests::module("filter-body")).unwrap());
    shop.folder.write(
        "more.yaml",
        join([
            route_to("shop", &[HOST], "parrot"),
            route_to("other", &["other.example"], "other"),
            service_speaking("parrot", protocol, &[backend.address]),
            plugin("streams", "streams.wasm", spec),
            plugin("filter-body", "filter-body.wasm", LIMITS),
            policy(uses),
        ]),
    );
    shop.until("the plugins", "/", |answer| !matches!(answer.status, 404 | 503)).await;
    Site { shop, backend }
}

async fn simple(config: &str) -> Site {
    site(&[("a", config)], LIMITS, None, parrot()).await
}

fn post(path: &str, body: &[u8], lines: &str) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n{lines}Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

async fn head(shop: &Shop, path: &str) -> raw::Response {
    let mut client = raw::Client::connect(shop.http).await.unwrap();
    client.send(format!("HEAD {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await.unwrap();
    client.response_to("HEAD").await.unwrap()
}

fn letters(length: usize) -> Vec<u8> {
    (0..length).map(|n| b'a' + (n % 23) as u8).collect()
}

#[tokio::test]
async fn both_bodies_pass_a_plugin_that_rewrites_them_over_every_protocol() {
    let config = ", request: {make: upper}, response: {make: double}";
    for protocol in [None, Some("kubernetes.io/h2c")] {
        let site = site(&[("a", config)], LIMITS, protocol, parrot()).await;
        for length in [0, 1, 5_000, 300_000] {
            let body = letters(length);
            let expected = body.to_ascii_uppercase();
            let answer = raw::exchange(site.shop.http, post("/in", &body, "")).await.unwrap();
            assert_eq!((answer.status, answer.body.len()), (200, 2 * length), "{length} {protocol:?}");
            assert_eq!(answer.body.iter().filter(|b| expected.contains(b)).count(), 2 * length);
            if length > 0 {
                assert_eq!(answer.header("content-length"), None, "nobody knows it");
            }
            let connection = http2::Connection::clear(site.shop.http).await.unwrap();
            let request = connection.request("POST", HOST, "/in").body(()).unwrap();
            let answer = connection.exchange(request, Bytes::from(body)).await.unwrap();
            assert_eq!((answer.status, answer.body.len()), (200, 2 * length), "{length} by HTTP/2, {protocol:?}");
        }
        if length_seen(&site.backend) {
            panic!("the backend was told the length of a body that may change");
        }
    }
}

fn length_seen(backend: &Backend) -> bool {
    backend
        .seen()
        .iter()
        .any(|seen| seen.method == "POST" && seen.headers.get("content-length").is_some_and(|length| length != "0"))
}

#[tokio::test]
async fn a_connection_goes_on_after_bodies_that_have_changed() {
    let site = simple(", request: {make: frame}, response: {make: frame}").await;
    let mut client = raw::Client::connect(site.shop.http).await.unwrap();
    for _ in 0..3 {
        client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 4\r\n\r\nbody")).await.unwrap();
        let answer = client.response().await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "<a><a>body</a></a>"));
    }
    // HTTP/1.0 knows no chunks: the end of the connection is the body's.
    let request = format!("POST / HTTP/1.0\r\nHost: {HOST}\r\nContent-Length: 4\r\n\r\nbody");
    let answer = raw::exchange(site.shop.http, request).await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "<a><a>body</a></a>"));
    // There is nothing to see of what has no body.
    let answer = head(&site.shop, "/plain").await;
    assert_eq!((answer.status, answer.header("content-length").as_deref()), (200, Some("13")));
}

/// Ten megabytes up and down, and the gateway holds none of it.
#[tokio::test(flavor = "multi_thread")]
async fn ten_megabytes_pass_in_flat_memory() {
    const PIECE: usize = 64 << 10;
    const PIECES: usize = 160;
    let site = simple(", request: {make: upper}, response: {make: upper}").await;
    let pass = async || {
        let stream = TcpStream::connect(("127.0.0.1", site.shop.http)).await.unwrap();
        let (mut read, mut write) = stream.into_split();
        let length = PIECE * PIECES;
        let head =
            format!("POST /in HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
        let sending = tokio::spawn(async move {
            write.write_all(head.as_bytes()).await.unwrap();
            for _ in 0..PIECES {
                write.write_all(&[b'x'; PIECE]).await.unwrap();
            }
            write
        });
        let (mut buffer, mut bytes) = (vec![0; PIECE], 0);
        loop {
            let n = read.read(&mut buffer).await.unwrap();
            if n == 0 {
                break;
            }
            bytes += buffer[..n].iter().filter(|b| **b == b'X').count();
        }
        drop(sending.await.unwrap());
        assert_eq!(bytes, length);
    };
    pass().await;
    let before = site.shop.gateway.resident();
    for _ in 0..3 {
        pass().await;
    }
    let grown = site.shop.gateway.resident().saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes more");
    let connection = http2::Connection::clear(site.shop.http).await.unwrap();
    let request = connection.request("POST", HOST, "/in").body(()).unwrap();
    let (response, mut send) = connection.open(request).await.unwrap();
    let sending = tokio::spawn(async move {
        for n in 0..PIECES {
            send.reserve_capacity(PIECE);
            let mut left = Bytes::from_static(&[b'x'; PIECE]);
            while !left.is_empty() {
                let room = std::future::poll_fn(|context| send.poll_capacity(context)).await.unwrap().unwrap();
                let piece = left.split_to(room.min(left.len()));
                let last = n + 1 == PIECES && left.is_empty();
                send.send_data(piece, last).unwrap();
                send.reserve_capacity(left.len());
            }
        }
    });
    let mut body = response.await.unwrap().into_body();
    let mut bytes = 0;
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        bytes += piece.iter().filter(|b| **b == b'X').count();
    }
    sending.await.unwrap();
    assert_eq!(bytes, PIECE * PIECES);
    let grown = site.shop.gateway.resident().saturating_sub(before);
    assert!(grown < 6 << 20, "{grown} bytes more after HTTP/2");
}

/// Server-sent events: what has come is shown, whether or not there will ever be more.
#[tokio::test]
async fn a_response_without_an_end_flows_on() {
    let site = simple(", response: {make: upper}").await;
    let mut stream = TcpStream::connect(("127.0.0.1", site.shop.http)).await.unwrap();
    stream.write_all(format!("GET /endless HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await.unwrap();
    let (mut seen, mut buffer) = (Vec::new(), [0; 1024]);
    while !seen.windows(7).any(|bytes| bytes == b"DATA: 1") {
        let n = stream.read(&mut buffer).await.unwrap();
        assert!(n > 0, "the stream ended: {}", String::from_utf8_lossy(&seen));
        seen.extend(&buffer[..n]);
    }
}

#[tokio::test]
async fn what_a_plugin_ends_in_the_middle_of_a_response_is_cut_with_a_reason() {
    for (end, reason) in [("trap", "plugin_failed"), ("loop", "plugin_failed"), ("abort", "plugin_aborted")] {
        let site = simple(&format!(", response: {{make: upper, end: {end}, after: 100000}}")).await;
        let body = letters(600_000);
        // Without its last chunk a client can tell.
        let mut client = raw::Client::connect(site.shop.http).await.unwrap();
        client.send(post("/cut", &body, "")).await.unwrap();
        let rest = client.rest().await.unwrap();
        let text = String::from_utf8_lossy(&rest);
        assert!(text.starts_with("HTTP/1.1 200 ") && !text.ends_with("0\r\n\r\n"), "{end}: {}", text.len());
        assert!(rest.len() < 600_000, "{end}");
        let line = site.shop.gateway.logged(|line| line["path"] == "/cut").await;
        assert_eq!(line["reason"], reason, "{end}: {line}");
        let connection = http2::Connection::clear(site.shop.http).await.unwrap();
        let request = connection.request("POST", HOST, "/cut2").body(()).unwrap();
        let cut = connection.exchange(request, Bytes::from(body.clone())).await;
        assert!(cut.is_err(), "{end}: the stream is reset");
        let line = site.shop.gateway.logged(|line| line["path"] == "/cut2").await;
        assert_eq!(line["reason"], reason, "{end}: {line}");
        // Neither its neighbours on the connection nor other routes know of it.
        assert_eq!(connection.get("other.example", "/").await.unwrap().status, 200, "{end}");
        assert_eq!(raw::get(site.shop.http, "other.example", "/").await.unwrap().status, 200, "{end}");
        assert_eq!(site.shop.get("/plain").await.text(), "SMALL LETTERS", "{end}");
    }
}

#[tokio::test]
async fn what_a_plugin_ends_in_the_middle_of_a_request_is_answered() {
    for (end, status, reason) in
        [("trap", 503, "plugin_failed"), ("abort", 502, "plugin_aborted"), ("answer", 418, "plugin_denied")]
    {
        // The backend answers when it has the whole body.
        let site = site(
            &[("a", &format!(", request: {{end: {end}, after: 5000}}"))],
            LIMITS,
            None,
            sluice_tests::backend::echo_as("one"),
        )
        .await;
        let answer = raw::exchange(site.shop.http, post("/in", &letters(60_000), "")).await.unwrap();
        assert_eq!(answer.status, status, "{end}");
        let line = site.shop.gateway.logged(|line| line["path"] == "/in").await;
        assert_eq!(line["reason"], reason, "{end}: {line}");
        assert_eq!(raw::exchange(site.shop.http, post("/in", b"short", "")).await.unwrap().status, 200, "{end}");
        let connection = http2::Connection::clear(site.shop.http).await.unwrap();
        let request = connection.request("POST", HOST, "/in").body(()).unwrap();
        let answer = connection.exchange(request, Bytes::from(letters(60_000))).await.unwrap();
        assert_eq!(answer.status, status, "{end} by HTTP/2");
    }
}

/// Without the plugin the rest of a body that it has changed belongs to nothing.
#[tokio::test]
async fn a_plugin_that_fails_open_is_left_out_of_a_body_that_it_has_not_changed() {
    let spec = format!("  failMode: Open\n{LIMITS}");
    let body = letters(300_000);
    for (make, passes) in [("pass", true), ("upper", false)] {
        let config = format!(", response: {{make: {make}, end: trap, after: 100000}}");
        let site = site(&[("a", &config)], &spec, None, parrot()).await;
        // Until it is ready it is left out too.
        wait::until("the plugin", || async {
            raw::exchange(site.shop.http, post("/", b"x", "")).await.ok()?;
            (site.shop.gateway.metric("sluice_plugin_calls_total", &["streams"]).await > 0.0).then_some(())
        })
        .await;
        let mut client = raw::Client::connect(site.shop.http).await.unwrap();
        client.send(post("/in", &body, "")).await.unwrap();
        let rest = client.rest().await.unwrap();
        let line = site.shop.gateway.logged(|line| line["path"] == "/in").await;
        assert_eq!(line["reason"] == "upstream", passes, "{make}: {line}");
        assert_eq!(rest.ends_with(b"0\r\n\r\n"), passes, "{make}: {} bytes, {line}", rest.len());
    }
}

#[tokio::test]
async fn request_bodies_pass_in_order_and_response_bodies_in_reverse_filters_among_them() {
    let frame = ", request: {make: frame}, response: {make: frame}";
    let site = site(&[("a", frame), ("f", "filter"), ("b", frame)], LIMITS, None, parrot()).await;
    // The filter writes in upper case what passes it; what comes behind it is as it was written.
    let expected = "<a><B><B><A>BODY</A></B></B></a>";
    let answer = raw::exchange(site.shop.http, post("/in", b"body", "X-Body: upper\r\n")).await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, expected));
    let connection = http2::Connection::clear(site.shop.http).await.unwrap();
    let request = connection.request("POST", HOST, "/in").header("x-body", "upper").body(()).unwrap();
    let answer = connection.exchange(request, Bytes::from_static(b"body")).await.unwrap();
    assert_eq!((answer.status, String::from_utf8_lossy(&answer.body).as_ref()), (200, expected), "by HTTP/2");
}

#[tokio::test]
async fn the_gateways_own_answers_pass_too() {
    let shop = Shop::start(&[], "").await;
    shop.folder.write("streams.wasm", std::fs::read(guests::module("streams")).unwrap());
    shop.folder.write(
        "more.yaml",
        join([
            route_to("shop", &[HOST], "missing"),
            plugin("streams", "streams.wasm", LIMITS),
            policy(&[("a", ", response: {make: upper}")]),
        ]),
    );
    let answer =
        shop.until("the plugin", "/", |answer| answer.status == 500 && answer.text().starts_with("500 I")).await;
    let answer = match answer.text().starts_with("500 INTERNAL") {
        true => answer,
        false => shop.until("the plugin", "/", |answer| answer.text().starts_with("500 INTERNAL")).await,
    };
    assert_eq!(answer.header("content-length").as_deref(), Some(&*answer.body.len().to_string()));
    assert_eq!(head(&shop, "/").await.body, b"");
}

#[tokio::test]
async fn a_body_that_plugins_see_is_not_sent_a_second_time() {
    let failing: Handler = Arc::new(|request| {
        async move {
            drop(request.into_body().collect().await);
            text(StatusCode::SERVICE_UNAVAILABLE, "not now")
        }
        .boxed()
    });
    let backend = Backend::with(failing).await;
    let shop = Shop::start(&[], "").await;
    shop.folder.write("streams.wasm", std::fs::read(guests::module("streams")).unwrap());
    let rules = "  - retry: {codes: [503], attempts: 2, backoff: 1ms}\n    backendRefs: [{name: failing, port: 80}]\n";
    shop.folder.write(
        "more.yaml",
        join([
            sluice_tests::objects::http_route("shop", &[HOST], rules),
            service("failing", &[backend.address]),
            plugin("streams", "streams.wasm", LIMITS),
            policy(&[("a", ", request: {make: upper}, response: {make: upper}")]),
        ]),
    );
    shop.until("the plugin", "/", |answer| answer.text() == "NOT NOW").await;
    let before = backend.count();
    let answer = raw::exchange(shop.http, post("/in", b"a body", "")).await.unwrap();
    assert_eq!((answer.status, answer.text().as_str(), backend.count() - before), (503, "NOT NOW", 1));
}

#[tokio::test]
async fn calls_of_grpc_stream_through_plugins_which_change_their_trailers() {
    let uses = [("a", ", request: {make: pass}"), ("b", ", response: {make: pass}")];
    let site = site(&uses, LIMITS, Some("kubernetes.io/h2c"), sluice_tests::backend::echo_as("one")).await;
    let connection = http2::Connection::clear(site.shop.http).await.unwrap();
    let mut call = Call::open(&connection, HOST, "/echo.Echo/Chat").await.unwrap();
    for message in ["one", "two", "three"] {
        assert_eq!(
            call.exchange(message.as_bytes()).await.unwrap(),
            message,
            "each is answered before the next is sent"
        );
    }
    let held = site.shop.gateway.metric("sluice_plugin_instances", &["streams"]).await;
    assert_eq!(held, 2.0, "an instance of each for as long as it streams");
    let trailers = call.finish().await.unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(trailers["x-trailer"], "kept+b+a", "in reverse");
    let seen: Vec<_> = trailers.get_all("x-seen").iter().collect();
    assert_eq!(seen, ["b", "a"]);
    wait::until("the instances to be freed", || async {
        (site.shop.gateway.metric("sluice_plugin_instances", &["streams"]).await == 0.0).then_some(())
    })
    .await;
    // By HTTP/1 a response has none to show.
    let request = format!(
        "POST /echo.Echo/Say HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nContent-Type: application/grpc\r\nContent-Length: 8\r\n\r\n\0\0\0\0\x03abc"
    );
    let answer = raw::exchange(site.shop.http, request).await.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (200, &b"\0\0\0\0\x03abc"[..]));
}

/// The end of a body that trailers follow comes before them.
#[tokio::test]
async fn a_body_before_trailers_has_a_last_piece() {
    let handler: Handler = Arc::new(|_| {
        async move {
            let trailers: HeaderMap =
                [(http::HeaderName::from_static("x-trailer"), HeaderValue::from_static("kept"))].into_iter().collect();
            let frames = [Frame::data(Bytes::from_static(b"body")), Frame::trailers(trailers)].map(Ok);
            http::Response::new(BodyExt::boxed(StreamBody::new(futures::stream::iter(frames))))
        }
        .boxed()
    });
    for (make, expected) in [("frame", "<a>body</a>"), ("keep", "body")] {
        let config = format!(", response: {{make: {make}}}");
        let site = site(&[("a", &config)], LIMITS, Some("kubernetes.io/h2c"), handler.clone()).await;
        let connection = http2::Connection::clear(site.shop.http).await.unwrap();
        let answer = connection.get(HOST, "/").await.unwrap();
        assert_eq!(String::from_utf8_lossy(&answer.body), expected);
        assert_eq!(answer.trailers["x-trailer"], "kept+a");
    }
}
