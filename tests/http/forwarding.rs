//! What is told about the way a request came, and whose word is believed: Via, X-Forwarded-*, Forwarded (RFC 7239),
//! request ids, trace context.

use crate::edge::{Edge, HOST, get};
use sluice_tests::raw;

const CLAIMS: &str = "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.example\r\nX-Real-IP: 203.0.113.9\r\nForwarded: for=203.0.113.9\r\nX-Request-ID: claimed\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";

#[tokio::test]
async fn what_an_untrusted_peer_claims_of_its_way_is_replaced() {
    let edge = Edge::start().await;
    let authority = format!("{HOST}:8443");
    let seen = edge.passes(&format!("GET / HTTP/1.1\r\nHost: {authority}\r\n{CLAIMS}\r\n")).await;
    assert_eq!(seen.field("x-forwarded-for").as_deref(), Some("127.0.0.1"));
    assert_eq!(seen.field("x-forwarded-proto").as_deref(), Some("http"));
    assert_eq!(seen.field("x-forwarded-host"), Some(authority));
    // As the client named it: it may have come through a port that was mapped to this one.
    assert_eq!(seen.field("x-forwarded-port").as_deref(), Some("8443"));
    assert_ne!(seen.field("x-real-ip").as_deref(), Some("203.0.113.9"));
    assert_eq!(seen.field("forwarded"), None);
    assert!(seen.field("x-request-id").is_some_and(|id| id != "claimed"));
}

#[tokio::test]
async fn a_trusted_peer_is_believed_and_appended_to() {
    let edge = Edge::configured("trustedProxies: [127.0.0.0/8]").await;
    let seen = edge.passes(&get("/", CLAIMS)).await;
    assert_eq!(seen.field("x-forwarded-for").as_deref(), Some("203.0.113.9, 127.0.0.1"));
    assert_eq!(seen.field("x-forwarded-proto").as_deref(), Some("https"));
    assert_eq!(seen.field("x-forwarded-host").as_deref(), Some("evil.example"));
    assert_eq!(seen.field("x-request-id").as_deref(), Some("claimed"));
    let trace = seen.field("traceparent").unwrap();
    assert!(trace.starts_with("00-0af7651916cd43dd8448eb211c80319c-"), "{trace}");
    let line = edge.gateway.logged(|l| l["request_id"] == "claimed").await;
    assert_eq!(line["client_ip"], "203.0.113.9");
}

#[tokio::test]
async fn rfc7239_forwarded_is_written_where_it_is_asked_for() {
    let edge = Edge::configured("forwarded: true").await;
    let seen = edge.passes(&get("/", "")).await;
    let forwarded = seen.field("forwarded").unwrap().to_lowercase();
    for part in ["for=", "127.0.0.1", "proto=http", "host="] {
        assert!(forwarded.contains(part), "{forwarded}");
    }
}

#[tokio::test]
async fn rfc9110_7_6_3_via_is_appended_and_a_loop_is_refused() {
    let edge = Edge::start().await;
    let seen = edge.passes(&get("/", "Via: 1.1 elsewhere\r\n")).await;
    assert_eq!(seen.fields("via").join(", "), "1.1 elsewhere, 1.1 sluice");
    let before = edge.backend.count();
    let answer = raw::exchange(edge.http, get("/loop", "Via: 1.1 a, 1.1 sluice\r\n")).await.unwrap();
    assert_eq!((answer.status, edge.backend.count()), (508, before));
    assert_eq!(edge.gateway.logged(|l| l["status"] == 508).await["reason"], "loop_detected");

    let edge = Edge::configured("via: false").await;
    assert_eq!(edge.passes(&get("/", "")).await.field("via"), None);
}

#[tokio::test]
async fn rfc9110_7_6_2_max_forwards_0_ends_options_here() {
    let edge = Edge::start().await;
    let request = format!("OPTIONS / HTTP/1.1\r\nHost: {HOST}\r\nMax-Forwards: 0\r\nConnection: close\r\n\r\n");
    let answer = raw::exchange(edge.http, request).await.unwrap();
    assert_eq!((answer.status, edge.backend.count()), (200, 0));
    let request = format!("OPTIONS / HTTP/1.1\r\nHost: {HOST}\r\nMax-Forwards: 5\r\nConnection: close\r\n\r\n");
    assert_eq!(edge.passes(&request).await.field("max-forwards").as_deref(), Some("4"));
}

#[tokio::test]
async fn each_request_has_an_id_and_a_callers_trace_is_begun_anew_for_log_and_backend_alike() {
    let edge = Edge::start().await;
    let claimed = "0af7651916cd43dd8448eb211c80319c";
    let seen = edge.passes(&get("/traced", &format!("traceparent: 00-{claimed}-b7ad6b7169203331-01\r\n"))).await;
    let id = seen.field("x-request-id").unwrap();
    let trace = seen.field("traceparent").unwrap();
    let line = edge.gateway.logged(|l| l["path"] == "/traced").await;
    assert_eq!(line["request_id"], id.as_str());
    let trace = trace.split('-').nth(1);
    assert_eq!(trace, line["trace_id"].as_str());
    assert_ne!(trace, Some(claimed), "an untrusted peer chose the trace");
}
