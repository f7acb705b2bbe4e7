//! Bodies that pass piece by piece, and trailers.

use crate::setup::{Host, guest, plugin, pooled, told};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use sluice_model::plugin::{CircuitBreaker, PluginSpec};
use sluice_wasm::{AttributeValue, Configured, Decision, Exchange, Invocation, PlainResponse, PluginError};
use std::sync::Arc;
use std::time::Duration;

fn streams() -> PluginSpec {
    plugin("streams", guest("streams"))
}

async fn ready(host: &Host, config: &str) -> Arc<Configured> {
    host.ready(&streams(), config).await
}

fn answered() -> Exchange {
    let mut exchange = told("");
    exchange.put_response(Box::new(PlainResponse { status: StatusCode::OK, ..PlainResponse::default() }));
    exchange
}

/// Lets a request's body pass; what goes on of it, and what was decided last.
async fn pass(invocation: &mut Invocation, exchange: &mut Exchange, pieces: &[&'static str]) -> (String, Decision) {
    let (mut on, mut decision) = (Vec::new(), Decision::Continue);
    for (n, piece) in pieces.iter().enumerate() {
        let mut bytes = Bytes::from_static(piece.as_bytes());
        decision = invocation.on_request_piece(exchange, &mut bytes, n + 1 == pieces.len()).await.unwrap();
        on.extend(bytes);
    }
    (String::from_utf8(on).unwrap(), decision)
}

fn attribute(exchange: &Exchange, name: &str) -> Option<AttributeValue> {
    exchange.attributes.get(name).cloned()
}

const INSTANCES: &str = "sluice_plugin_instances{plugin=\"shop/streams\"}";

#[tokio::test]
async fn pieces_may_be_changed_swallowed_and_made_more_of() {
    let host = Host::new();
    for (make, expected) in [
        ("pass", "one two three"),
        ("upper", "ONE TWO THREE"),
        ("double", "one one two two threethree"),
        ("frame", "<a>one two three</a>"),
        ("keep", "one two three"),
        ("swallow", ""),
    ] {
        let version = ready(&host, &format!(r#"{{"name":"a","request":{{"make":"{make}"}}}}"#)).await;
        let (mut exchange, mut invocation) = (told(""), version.begin());
        let (on, decision) = pass(&mut invocation, &mut exchange, &["one ", "two ", "three"]).await;
        assert_eq!(on, expected, "{make}");
        assert!(matches!(decision, Decision::Continue));
        let told = AttributeValue::String("13 bytes, last: true".into());
        assert_eq!(attribute(&exchange, "request.a"), Some(told), "{make}");
        assert!(exchange.request().is_some());
    }
}

#[tokio::test]
async fn the_phases_of_pieces_are_those_of_bodies() {
    let host = Host::new();
    let version = ready(&host, r#"{"name":"a"}"#).await;
    let phases = version.phases();
    assert_eq!(phases.names(), ["request_body", "response_body", "response_trailers"]);
    assert!(phases.request_pieces() && phases.streams_request() && !phases.request_body() && !phases.request_headers());
    assert!(phases.response_pieces() && phases.streams_response() && !phases.response_body());
    assert!(phases.response_trailers() && phases.answers_in_passing() && !phases.log());
}

/// State lives between the pieces of one body, whoever else is served meanwhile, and no longer.
#[tokio::test]
async fn a_body_has_an_instance_for_itself_from_its_first_piece_to_its_last() {
    for spec in [streams(), pooled(streams())] {
        let host = Host::new();
        let version = host.ready(&spec, r#"{"name":"a","request":{"make":"keep"}}"#).await;
        let (mut one, mut other) = ((told(""), version.begin()), (told(""), version.begin()));
        let next = async |of: &mut (Exchange, Invocation), piece: &'static str, end| {
            let mut bytes = Bytes::from_static(piece.as_bytes());
            of.1.on_request_piece(&mut of.0, &mut bytes, end).await.unwrap();
            bytes
        };
        assert_eq!(next(&mut one, "a", false).await, "");
        assert_eq!(next(&mut other, "b", false).await, "");
        assert_eq!(host.metric(INSTANCES), 2.0);
        assert_eq!(next(&mut one, "c", true).await, "ac");
        assert_eq!(next(&mut other, "d", true).await, "bd");
        // A body that was given up leaves nothing behind.
        let mut third = (told(""), version.begin());
        assert_eq!(next(&mut third, "x", false).await, "");
        drop(third);
        let mut fourth = (told(""), version.begin());
        assert_eq!(next(&mut fourth, "y", true).await, "y");
    }
}

#[tokio::test]
async fn both_bodies_of_an_exchange_pass_one_instance_side_by_side() {
    let host = Host::new();
    let config = r#"{"name":"a","request":{"make":"keep"},"response":{"make":"frame"}}"#;
    for spec in [streams(), pooled(streams())] {
        let version = host.ready(&spec, config).await;
        let (mut exchange, mut invocation) = (answered(), version.begin());
        let mut piece = Bytes::from_static(b"up");
        invocation.on_request_piece(&mut exchange, &mut piece, false).await.unwrap();
        let mut down = Bytes::from_static(b"down");
        invocation.on_response_piece(&mut exchange, &mut down, false).await.unwrap();
        assert_eq!(down, "<a>down");
        let mut piece = Bytes::from_static(b"stairs");
        invocation.on_request_piece(&mut exchange, &mut piece, true).await.unwrap();
        assert_eq!(piece, "upstairs");
        let mut down = Bytes::new();
        invocation.on_response_piece(&mut exchange, &mut down, true).await.unwrap();
        assert_eq!(down, "</a>");
        assert_eq!(attribute(&exchange, "heads"), Some(AttributeValue::String("GET 200".into())));
    }
}

#[tokio::test]
async fn a_plugin_may_answer_a_request_or_cut_it_short_in_the_middle_of_its_body() {
    let host = Host::new();
    for (end, expected) in [("answer", "respond"), ("abort", "abort")] {
        let config = format!(r#"{{"name":"a","request":{{"end":"{end}","after":4}}}}"#);
        let version = ready(&host, &config).await;
        let (mut exchange, mut invocation) = (told(""), version.begin());
        let (on, decision) = pass(&mut invocation, &mut exchange, &["four", "more"]).await;
        assert_eq!((on.as_str(), decision.outcome()), ("fourmore", expected));
        let calls = format!(
            "sluice_plugin_calls_total{{plugin=\"shop/streams\",phase=\"request_body\",outcome=\"{expected}\"}}"
        );
        assert_eq!(host.metric(&calls), 1.0);
    }
    let version = ready(&host, r#"{"name":"a","response":{"end":"abort"}}"#).await;
    let mut piece = Bytes::from_static(b"x");
    let decision = version.begin().on_response_piece(&mut answered(), &mut piece, false).await.unwrap();
    assert!(matches!(decision, Decision::Abort));
    // The head is gone: there is nothing left to answer.
    let version = ready(&host, r#"{"name":"a","response":{"end":"answer"}}"#).await;
    let error = version.begin().on_response_piece(&mut answered(), &mut piece, false).await.unwrap_err();
    assert!(error.to_string().contains("may abort, but not respond"), "{error}");
}

#[tokio::test]
async fn what_takes_the_place_of_a_piece_is_bounded() {
    let host = Host::new();
    let mut spec = streams();
    spec.limits.body_buffer = 1_000;
    spec.limits.run_time = Duration::from_secs(1);
    let version = host.ready(&spec, r#"{"name":"a","request":{"make":"large"}}"#).await;
    let (mut exchange, mut invocation) = (told(""), version.begin());
    let (on, _) = pass(&mut invocation, &mut exchange, &["as it was"]).await;
    assert_eq!(on, "as it was");
    assert_eq!(attribute(&exchange, "request.refused"), Some(AttributeValue::Boolean(true)));
}

#[tokio::test]
async fn a_body_that_a_plugin_has_changed_is_bound_to_it_and_one_that_fails_sees_no_more() {
    let host = Host::new();
    for (make, is_bound) in [("upper", true), ("pass", false)] {
        let config = format!(r#"{{"name":"a","request":{{"make":"{make}","end":"trap","after":3}}}}"#);
        let version = ready(&host, &config).await;
        let (mut exchange, mut invocation) = (told(""), version.begin());
        let mut piece = Bytes::from_static(b"one");
        invocation.on_request_piece(&mut exchange, &mut piece, false).await.unwrap();
        let mut piece = Bytes::from_static(b"two");
        let error = invocation.on_request_piece(&mut exchange, &mut piece, false).await.unwrap_err();
        assert!(matches!(error, PluginError::Trap { phase: "request_body", .. }), "{error}");
        assert_eq!((&piece[..], invocation.is_bound_to_request()), (&b"two"[..], is_bound), "{make}");
        assert!(!invocation.streams_request());
        // Another instance would know nothing of the pieces before.
        let mut piece = Bytes::from_static(b"three");
        invocation.on_request_piece(&mut exchange, &mut piece, true).await.unwrap();
        assert_eq!(piece, "three");
        assert!(exchange.request().is_some(), "the exchange came back");
    }
}

#[tokio::test]
async fn a_body_that_was_read_whole_does_not_come_in_pieces() {
    let host = Host::new();
    let version = ready(&host, r#"{"name":"a","request":{"make":"upper"}}"#).await;
    let (mut exchange, mut invocation) = (told(""), version.begin());
    invocation.skip_request_pieces();
    let (on, _) = pass(&mut invocation, &mut exchange, &["small"]).await;
    assert_eq!((on.as_str(), attribute(&exchange, "request.a")), ("small", None));
    assert_eq!(host.metric(INSTANCES), 0.0, "nothing was called");
}

#[tokio::test]
async fn a_breaker_that_opens_meanwhile_does_not_cut_a_body_that_has_begun() {
    let host = Host::new();
    let mut spec = streams();
    spec.limits.circuit_breaker = Some(CircuitBreaker { failures: 1, window: Duration::from_secs(60) });
    let version = host.ready(&spec, r#"{"name":"a","request":{"make":"upper"},"response":{"end":"trap"}}"#).await;
    let (mut exchange, mut invocation) = (told(""), version.begin());
    let mut piece = Bytes::from_static(b"one");
    invocation.on_request_piece(&mut exchange, &mut piece, false).await.unwrap();
    version.begin().on_response_piece(&mut answered(), &mut Bytes::from_static(b"x"), true).await.unwrap_err();
    let refused = version.begin().on_request_piece(&mut told(""), &mut Bytes::from_static(b"x"), true).await;
    assert!(matches!(refused, Err(PluginError::CircuitOpen { .. })), "{refused:?}");
    let mut piece = Bytes::from_static(b"two");
    invocation.on_request_piece(&mut exchange, &mut piece, true).await.unwrap();
    assert_eq!(piece, "TWO");
}

#[tokio::test]
async fn trailers_are_read_and_changed() {
    let host = Host::new();
    let version = ready(&host, r#"{"name":"a"}"#).await;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers.insert("x-trailer", HeaderValue::from_static("kept"));
    trailers.insert("x-gone", HeaderValue::from_static("1"));
    let mut exchange = answered();
    version.begin().on_response_trailers(&mut exchange, &mut trailers, &mut Bytes::new()).await.unwrap();
    let text = |name: &str| trailers.get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(text("grpc-status").as_deref(), Some("0"));
    assert_eq!(text("x-trailer").as_deref(), Some("kept+a"));
    assert_eq!(text("x-seen").as_deref(), Some("a"));
    assert_eq!((text("x-gone"), text("x-count").as_deref()), (None, Some("3")));
    assert!(exchange.response().is_some());
}

/// A hundred thousand handles were the store's limit, once.
#[tokio::test]
async fn a_long_body_leaks_no_handles() {
    let host = Host::new();
    let version = ready(&host, r#"{"name":"a","request":{"make":"upper"}}"#).await;
    let (mut exchange, mut invocation) = (told(""), version.begin());
    for _ in 0..120_000 {
        let mut piece = Bytes::from_static(b"x");
        invocation.on_request_piece(&mut exchange, &mut piece, false).await.unwrap();
        assert_eq!(piece, "X");
    }
    assert_eq!(host.metric(INSTANCES), 1.0);
    drop(invocation);
    assert_eq!(host.metric(INSTANCES), 0.0);
}
