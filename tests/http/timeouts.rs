//! Deadlines. Each test sets a short one and waits for what it does; how exact it is, is not asserted.

use crate::edge::{Edge, HOST, get, post};
use sluice_tests::backend::text;
use sluice_tests::{Backend, Folder, Gateway, http2, objects, ports, raw};
use std::sync::Arc;
use std::time::Duration;

#[tokio::test]
async fn a_head_that_drips_meets_the_header_deadline_however_often_a_byte_comes() {
    let edge = Edge::configured("timeouts: {requestHeaders: 1s}").await;
    let mut client = raw::Client::connect(edge.http).await.unwrap();
    client.send("GET / HTTP/1.1\r\nHost: edge.example\r\nX-Drip: ").await.unwrap();
    // A byte each 100 ms: a timer that starts anew with each read would never fire.
    let drip = async {
        for _ in 0..150 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if client.send("a").await.is_err() {
                break;
            }
        }
        client.rest().await
    };
    let rest = tokio::time::timeout(Duration::from_secs(14), drip).await.expect("the connection was cut in time");
    let text = String::from_utf8_lossy(&rest.unwrap_or_default()).into_owned();
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 408 "), "{text}");
    edge.untouched().await;
    assert!(edge.gateway.metric("sluice_timeouts_total", &["request_headers"]).await >= 1.0);
}

#[tokio::test]
async fn rfc9110_15_5_9_a_body_that_stops_is_a_timeout() {
    let edge = Edge::configured("timeouts: {bodyIdle: 1s}").await;
    let mut client = raw::Client::connect(edge.http).await.unwrap();
    client.send(post("Content-Length: 100\r\n", "only this")).await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 408);
    assert_eq!(edge.gateway.logged(|l| l["status"] == 408).await["reason"], "body_timeout");
}

#[tokio::test]
async fn rfc9110_15_5_9_a_body_that_stops_over_http2_is_a_timeout_of_its_request_alone() {
    let edge = Edge::configured("timeouts: {bodyIdle: 1s}").await;
    let client = http2::Connection::tls(edge.https, HOST, edge.authority.client(&["h2"])).await.unwrap();
    let request = client.request("POST", HOST, "/stopped").body(()).unwrap();
    let (response, mut body) = client.open(request).await.unwrap();
    body.send_data(bytes::Bytes::from_static(b"only this"), false).unwrap();
    assert_eq!(http2::collect(response.await.unwrap()).await.unwrap().status, 408);
    assert_eq!(edge.gateway.logged(|l| l["path"] == "/stopped").await["reason"], "body_timeout");
    assert_eq!(client.get(HOST, "/after").await.unwrap().status, 200);
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_keep_alive() {
    let edge = Edge::configured("timeouts: {keepAlive: 1s}").await;
    let mut client = raw::Client::connect(edge.http).await.unwrap();
    client.send(get("/", "")).await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 200);
    assert!(client.ends().await, "an idle connection was kept");
}

#[tokio::test]
async fn half_a_tls_handshake_is_closed() {
    let edge = Edge::configured("timeouts: {handshake: 1s}").await;
    let mut client = raw::Client::connect(edge.https).await.unwrap();
    client.send(b"\x16\x03\x01\x02\x00\x01").await.unwrap();
    client.rest().await.expect("closed before the test's patience is over");
}

#[tokio::test]
async fn rfc9110_15_6_5_a_backend_that_does_not_answer_is_a_gateway_timeout() {
    let backend = Backend::with(Arc::new(|_| {
        Box::pin(async {
            tokio::time::sleep(Duration::from_secs(120)).await;
            text(http::StatusCode::OK, "too late")
        })
    }))
    .await;
    // One that nobody takes a connection from: the next one waits for a place behind this one.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = socket.listen(0).unwrap();
    let _waiting = tokio::net::TcpStream::connect(full.local_addr().unwrap()).await.unwrap();
    let folder = Folder::new();
    let port = ports::free();
    let slow = |name: &str, timeouts: &str| {
        objects::http_route(
            name,
            &[],
            &format!(
                "  - matches: [{{path: {{value: /{name}}}}}]\n    timeouts: {timeouts}\n    backendRefs: [{{name: slow, port: 80}}]\n"
            ),
        )
    };
    folder.write(
        "slow.yaml",
        objects::join([
            objects::class(),
            objects::configured_gateway(port, None, "timeouts: {responseHeaders: 1s, connect: 1s}"),
            slow("request", "{request: 500ms}"),
            slow("try", "{request: 10s, backendRequest: 500ms}"),
            objects::http_route("listener", &[], "  - backendRefs: [{name: slow, port: 80}]\n"),
            objects::service("slow", &[backend.address]),
            objects::http_route(
                "full",
                &[],
                "  - matches: [{path: {value: /full}}]\n    backendRefs: [{name: full, port: 80}]\n",
            ),
            objects::service("full", &[full.local_addr().unwrap()]),
        ]),
    );
    let gateway = Gateway::start(&folder).await;
    for (path, reason) in [
        ("/request", "request_timeout"),
        ("/try", "upstream_timeout"),
        ("/", "upstream_timeout"),
        ("/full", "upstream_connect_timeout"),
    ] {
        let answer = raw::get(port, HOST, path).await.unwrap();
        assert_eq!(answer.status, 504, "{path}");
        assert_eq!(gateway.logged(|l| l["path"] == path).await["reason"], reason, "{path}");
    }
}
