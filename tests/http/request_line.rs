//! Request line and Host.

use crate::edge::{Edge, HOST, get};
use sluice_tests::raw;

#[tokio::test]
async fn rfc9112_3_2_a_missing_repeated_or_malformed_host_is_refused() {
    let edge = Edge::start().await;
    edge.refuses(
        &[400],
        &[
            ("no Host", "GET / HTTP/1.1\r\n\r\n"),
            ("two Hosts", "GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n"),
            ("two equal Hosts", "GET / HTTP/1.1\r\nHost: a.example\r\nHost: a.example\r\n\r\n"),
            ("an empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n"),
            ("a Host with a path", "GET / HTTP/1.1\r\nHost: a.example/x\r\n\r\n"),
            ("a Host with a comma", "GET / HTTP/1.1\r\nHost: a.example,b.example\r\n\r\n"),
            ("a Host with a space", "GET / HTTP/1.1\r\nHost: a.example b.example\r\n\r\n"),
            ("a Host with userinfo", "GET / HTTP/1.1\r\nHost: user@a.example\r\n\r\n"),
            ("a Host with a port that is none", "GET / HTTP/1.1\r\nHost: a.example:8x\r\n\r\n"),
            ("a Host with a port out of range", "GET / HTTP/1.1\r\nHost: a.example:99999\r\n\r\n"),
        ],
    )
    .await;
    let line = edge.gateway.logged(|l| l["status"] == 400).await;
    assert_eq!(line["reason"], "invalid_host");
}

#[tokio::test]
async fn rfc9112_3_2_2_the_authority_of_an_absolute_form_must_be_the_hosts() {
    let edge = Edge::start().await;
    edge.refuses(&[400], &[("another host", "GET http://a.example/ HTTP/1.1\r\nHost: b.example\r\n\r\n")]).await;
    let seen = edge.passes("GET http://edge.example/x?y=1 HTTP/1.1\r\nHost: edge.example\r\n\r\n").await;
    assert_eq!(seen.target(), "/x?y=1");
    assert_eq!(seen.field("host").as_deref(), Some(HOST));
}

#[tokio::test]
async fn rfc9110_4_2_3_a_host_is_compared_without_case_final_dot_and_default_port() {
    let edge = Edge::start().await;
    edge.folder.write(
        "more.yaml",
        sluice_tests::objects::http_route(
            "named",
            &["named.example"],
            "  - filters:\n    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-route, value: named}]}}\n    backendRefs: [{name: echo, port: 80}]\n",
        ),
    );
    sluice_tests::wait::until("the route", || async {
        let answer = raw::get(edge.http, "named.example", "/").await.ok()?;
        answer.text().contains("x-route").then_some(())
    })
    .await;
    for host in ["NAMED.example", "named.example.", "named.example:80", "Named.Example.:80"] {
        let seen = edge.passes(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(seen.field("x-route").as_deref(), Some("named"), "{host} did not find the route");
        assert_eq!(seen.field("host").as_deref(), Some(host), "the backend gets what was sent");
    }
}

#[tokio::test]
async fn rfc9112_3_2_4_asterisk_form_is_for_options_alone() {
    let edge = Edge::start().await;
    edge.refuses(&[400], &[("GET *", "GET * HTTP/1.1\r\nHost: edge.example\r\n\r\n")]).await;
}

#[tokio::test]
async fn rfc9110_9_3_6_and_9_3_8_connect_and_trace_are_refused() {
    let edge = Edge::start().await;
    edge.refuses(
        &[405],
        &[
            ("CONNECT", "CONNECT edge.example:443 HTTP/1.1\r\nHost: edge.example:443\r\n\r\n"),
            ("TRACE", "TRACE / HTTP/1.1\r\nHost: edge.example\r\n\r\n"),
        ],
    )
    .await;
}

#[tokio::test]
async fn rfc9110_9_1_a_method_that_is_no_token_is_refused_and_one_too_long_is_not_implemented() {
    let edge = Edge::start().await;
    edge.refuses(
        &[400],
        &[
            ("a bracket", "GE[T / HTTP/1.1\r\nHost: edge.example\r\n\r\n"),
            ("no method", " / HTTP/1.1\r\nHost: edge.example\r\n\r\n"),
        ],
    )
    .await;
    let long = format!("{} / HTTP/1.1\r\nHost: {HOST}\r\n\r\n", "M".repeat(33));
    edge.refuses(&[501], &[("33 bytes", &long)]).await;
    let seen = edge.passes("PURGE / HTTP/1.1\r\nHost: edge.example\r\n\r\n").await;
    assert_eq!(seen.0["method"], "PURGE");
}

#[tokio::test]
async fn rfc9112_3_2_a_target_with_raw_spaces_controls_or_a_fragment_is_refused_not_repaired() {
    let edge = Edge::start().await;
    edge.refuses(
        &[400],
        &[
            ("a space", &get("/a b", "")),
            ("a tab", &get("/a\tb", "")),
            ("a control", &get("/a\x01b", "")),
            ("DEL", &get("/a\x7fb", "")),
            ("a byte above ASCII", &get("/caf\u{e9}", "")),
            ("a fragment", &get("/a#b", "")),
            ("a relative path", "GET a HTTP/1.1\r\nHost: edge.example\r\n\r\n"),
            ("two spaces before the version", "GET /  HTTP/1.1\r\nHost: edge.example\r\n\r\n"),
        ],
    )
    .await;
}

#[tokio::test]
async fn rfc9110_15_5_15_a_target_above_the_limit_is_too_long() {
    let edge = Edge::start().await;
    edge.refuses(&[414], &[("8 KiB and more", &get(&format!("/{}", "a".repeat(8192)), ""))]).await;
    assert!(edge.gateway.metric("sluice_limit_hits_total", &["request_target"]).await >= 1.0);
    let seen = edge.passes(&get(&format!("/{}", "a".repeat(8000)), "")).await;
    assert_eq!(seen.target().len(), 8001);
}

#[tokio::test]
async fn rfc9112_2_3_versions_that_are_not_spoken_are_refused() {
    let edge = Edge::start().await;
    edge.refuses(
        &[400, 505],
        &[
            ("HTTP/1.2", "GET / HTTP/1.2\r\nHost: edge.example\r\n\r\n"),
            ("HTTP/2.0", "GET / HTTP/2.0\r\nHost: edge.example\r\n\r\n"),
            ("HTTP/3.0", "GET / HTTP/3.0\r\nHost: edge.example\r\n\r\n"),
            ("lower case", "GET / http/1.1\r\nHost: edge.example\r\n\r\n"),
            ("a leading zero", "GET / HTTP/01.1\r\nHost: edge.example\r\n\r\n"),
            ("no minor", "GET / HTTP/1\r\nHost: edge.example\r\n\r\n"),
            ("an empty minor", "GET / HTTP/1.\r\nHost: edge.example\r\n\r\n"),
            ("two digits", "GET / HTTP/1.10\r\nHost: edge.example\r\n\r\n"),
        ],
    )
    .await;
}

#[tokio::test]
async fn rfc9112_2_2_one_empty_line_before_the_request_is_ignored() {
    let edge = Edge::start().await;
    edge.passes(&format!("\r\n{}", get("/", ""))).await;
}
