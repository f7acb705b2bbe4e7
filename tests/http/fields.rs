//! Header fields: grammar, hop-by-hop, underscores, and those that are the gateway's own.

use crate::edge::{Edge, HOST, get};
use sluice_tests::backend::text;
use sluice_tests::{http2, raw};
use std::sync::Arc;

#[tokio::test]
async fn rfc9112_5_broken_field_lines_are_refused() {
    let edge = Edge::start().await;
    edge.refuses_and_closes(
        &[400],
        &[
            ("obs-fold", &get("/", "X-A: one\r\n two\r\n")),
            ("a space before the colon", &get("/", "X-A : one\r\n")),
            ("a tab before the colon", &get("/", "X-A\t: one\r\n")),
            ("an empty name", &get("/", ": one\r\n")),
            ("a NUL in a value", &get("/", "X-A: o\0e\r\n")),
            ("a carriage return in a value", &get("/", "X-A: o\re\r\n")),
            ("a control in a name", &get("/", "X\x01A: one\r\n")),
            ("a bracket in a name", &get("/", "X(A): one\r\n")),
            ("no colon", &get("/", "X-A one\r\n")),
            ("a first line that is folded", "GET / HTTP/1.1\r\n Host: edge.example\r\nHost: edge.example\r\n\r\n"),
        ],
    )
    .await;
}

#[tokio::test]
async fn rfc9112_2_2_bare_line_feeds_do_not_end_lines() {
    let edge = Edge::start().await;
    edge.refuses_and_closes(&[400], &[("bare line feeds", "GET / HTTP/1.1\nHost: edge.example\n\n")]).await;
}

#[tokio::test]
async fn rfc9110_7_6_1_hop_by_hop_fields_stay_on_their_connection() {
    let edge = Edge::start().await;
    let seen = edge
        .passes(&get(
            "/",
            "Connection: keep-alive, X-Nominated\r\nX-Nominated: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\nTE: gzip\r\nProxy-Authorization: Basic eA==\r\nX-Kept: 1\r\n",
        ))
        .await;
    for name in ["x-nominated", "keep-alive", "proxy-connection", "te", "upgrade"] {
        assert_eq!(seen.field(name), None, "{name} was passed on");
    }
    assert_eq!(seen.field("x-kept").as_deref(), Some("1"));
}

#[tokio::test]
async fn rfc9110_7_6_1_nominating_host_or_forwarding_fields_as_hop_by_hop_is_refused() {
    let edge = Edge::start().await;
    edge.refuses(
        &[400],
        &[
            ("Host", &get("/", "Connection: Host\r\n")),
            ("X-Forwarded-For", &get("/", "Connection: close, X-Forwarded-For\r\n")),
        ],
    )
    .await;
}

#[tokio::test]
async fn rfc9110_7_6_1_hop_by_hop_fields_of_the_response_stay_behind() {
    let edge = Edge::with_backend(Arc::new(|_| {
        Box::pin(async {
            let mut answer = text(http::StatusCode::OK, "hello");
            let headers = answer.headers_mut();
            headers.insert("connection", "x-secret-hop".parse().unwrap());
            headers.insert("x-secret-hop", "1".parse().unwrap());
            headers.insert("keep-alive", "timeout=1".parse().unwrap());
            headers.insert("proxy-connection", "x".parse().unwrap());
            headers.insert("x-kept", "1".parse().unwrap());
            answer
        })
    }))
    .await;
    let answer = raw::exchange(edge.http, get("/", "")).await.unwrap();
    assert_eq!(answer.status, 200);
    for name in ["x-secret-hop", "keep-alive", "proxy-connection"] {
        assert_eq!(answer.header(name), None, "{name} reached the client");
    }
    assert_eq!(answer.header("x-kept").as_deref(), Some("1"));
}

#[tokio::test]
async fn underscores_in_field_names_are_dropped_unless_the_listener_says_otherwise() {
    let request = get("/", "X_Real_User: root\r\nX-Fine: 1\r\n");
    let edge = Edge::start().await;
    let seen = edge.passes(&request).await;
    assert_eq!((seen.field("x_real_user"), seen.field("x-fine").as_deref()), (None, Some("1")));

    let edge = Edge::configured("underscores: Keep").await;
    assert_eq!(edge.passes(&request).await.field("x_real_user").as_deref(), Some("root"));

    let edge = Edge::configured("underscores: Reject").await;
    edge.refuses(&[400], &[("an underscore", &request)]).await;
    assert_eq!(edge.gateway.logged(|l| l["status"] == 400).await["reason"], "underscore_in_header");
}

#[tokio::test]
async fn fields_of_the_gateway_itself_cannot_be_sent_from_outside() {
    let edge = Edge::start().await;
    let seen = edge.passes(&get("/", "X-Sluice-Consumer: admin\r\nX-Sluicey: mine\r\n")).await;
    assert_eq!(seen.field("x-sluice-consumer"), None);
    assert_eq!(seen.field("x-sluicey").as_deref(), Some("mine"));
}

#[tokio::test]
async fn rfc6585_5_too_many_or_too_large_fields_are_refused() {
    let edge = Edge::start().await;
    let many: String = (0..101).map(|n| format!("X-{n}: 1\r\n")).collect();
    let large: String = (0..17).map(|n| format!("X-{n}: {}\r\n", "v".repeat(4096))).collect();
    edge.refuses(&[431], &[("101 fields", &get("/", &many)), ("68 KiB", &get("/", &large))]).await;
    assert!(edge.gateway.metric("sluice_limit_hits_total", &["header_count"]).await >= 1.0);
    assert!(edge.gateway.metric("sluice_limit_hits_total", &["header_bytes"]).await >= 1.0);
    for (count, length) in [(101, 1), (17, 4096)] {
        let client = http2::Connection::tls(edge.https, HOST, edge.authority.client(&["h2"])).await.unwrap();
        let request = (0..count)
            .fold(client.request("GET", HOST, "/"), |request, n| request.header(format!("x-{n}"), "v".repeat(length)));
        let answer = client.exchange(request.body(()).unwrap(), bytes::Bytes::new()).await.unwrap();
        assert_eq!(answer.status, 431, "{count} fields of {length} bytes over HTTP/2");
    }
    edge.untouched().await;
    let fits: String = (0..90).map(|n| format!("X-{n}: {}\r\n", "v".repeat(500))).collect();
    edge.passes(&get("/", &fits)).await;
}

#[tokio::test]
async fn rfc9110_10_2_4_the_gateways_own_answers_name_no_version() {
    let edge = Edge::start().await;
    let answer = raw::exchange(edge.http, "GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let server = answer.header("server").unwrap_or_default();
    assert!(!server.chars().any(|c| c.is_ascii_digit()), "Server: {server}");
    assert!(!answer.text().to_lowercase().contains("pingora"), "{}", answer.text());

    let edge = Edge::configured("serverHeader: {mode: Replace, value: front}").await;
    let answer = raw::exchange(edge.http, get("/a%zz", "")).await.unwrap();
    assert_eq!(answer.header("server").as_deref(), Some("front"));
}
