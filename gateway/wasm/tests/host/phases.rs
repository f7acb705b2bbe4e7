//! The contract, phase by phase.

use crate::setup::{Host, PROBE, guest, header, plugin, probe, response_header, told};
use bytes::Bytes;
use http::StatusCode;
use sluice_wasm::{
    AttributeValue, BodyRequest, Decision, Exchange, LocalReply, OverLimit, PlainRequest, PlainResponse, Summary,
};
use std::time::Duration;

fn reply(decision: Decision) -> LocalReply {
    match decision {
        Decision::Respond(reply) => *reply,
        other => panic!("not a reply: {other:?}"),
    }
}

fn with_response(mut exchange: Exchange, status: u16) -> Exchange {
    let status = StatusCode::from_u16(status).unwrap();
    exchange.put_response(Box::new(PlainResponse { status, ..PlainResponse::default() }));
    exchange
}

#[tokio::test]
async fn a_plugin_reads_and_changes_a_request_and_is_told_what_is_refused() {
    let host = Host::new();
    let version = host.ready(&probe(), PROBE).await;
    let request = PlainRequest::get("/a?b=1")
        .property("client.address", "203.0.113.7")
        .header("x-do", "everything")
        .header("x-many", "1")
        .header("x-many", "2")
        .header("x-gone", "1");
    let mut exchange = Exchange::new(request);
    assert!(matches!(version.begin().on_request(&mut exchange).await.unwrap(), Decision::Continue));
    for (name, value) in [
        ("x-probe", "probe"),
        ("x-line", "GET https://example.com/a?b=1"),
        ("x-property", "203.0.113.7"),
        ("x-many-count", "3"),
        ("x-refused", "[true, true, true, true, true]"),
    ] {
        assert_eq!(header(&exchange, name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(header(&exchange, "x-gone"), None);
    let attributes: Vec<_> = exchange.attributes.iter().map(|(name, value)| (name.to_owned(), value.clone())).collect();
    let expected = [
        ("probe.text".to_owned(), AttributeValue::String("text".into())),
        ("probe.number".to_owned(), AttributeValue::Integer(5)),
        ("probe.flag".to_owned(), AttributeValue::Boolean(true)),
    ];
    assert_eq!(attributes, expected);
    let request: Box<PlainRequest> = exchange.take_request().unwrap();
    assert_eq!((request.path.as_str(), request.query), ("/changed", None));
}

#[tokio::test]
async fn a_local_reply_has_status_headers_and_body() {
    let host = Host::new();
    let version = host.ready(&probe(), PROBE).await;
    let reply = reply(version.begin().on_request(&mut told("deny")).await.unwrap());
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    assert_eq!(reply.headers["x-why"], "told to");
    assert_eq!(reply.headers["content-type"], "text/plain; charset=utf-8");
    assert_eq!(reply.body, "no\n");
}

#[tokio::test]
async fn a_body_is_read_on_demand_and_may_be_replaced() {
    let host = Host::new();
    let version = host.ready(&probe(), PROBE).await;
    let (mut exchange, mut invocation) = (told("read"), version.begin());
    match invocation.on_request(&mut exchange).await.unwrap() {
        Decision::ReadBody(body) => assert_eq!(body, BodyRequest { limit: 10, over_limit: OverLimit::Refuse }),
        other => panic!("{other:?}"),
    }
    let outcome = invocation.on_request_body(&mut exchange, Bytes::from_static(b"hello")).await.unwrap();
    assert!(matches!(outcome.decision, Decision::Continue));
    assert_eq!(outcome.replacement.as_deref(), Some(&b"HELLO"[..]));
    assert_eq!(header(&exchange, "x-body").as_deref(), Some("hello"));
    assert_eq!(header(&exchange, "x-part").as_deref(), Some("el"));
}

#[tokio::test]
async fn a_plugin_may_answer_after_it_read_the_body() {
    let host = Host::new();
    let version = host.ready(&probe(), PROBE).await;
    let (mut exchange, mut invocation) = (told("read"), version.begin());
    invocation.on_request(&mut exchange).await.unwrap();
    let outcome = invocation.on_request_body(&mut exchange, Bytes::from_static(b"deny")).await.unwrap();
    assert_eq!(reply(outcome.decision).status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn the_plugins_body_buffer_bounds_what_is_read_and_what_replaces_it() {
    let host = Host::new();
    let mut spec = probe();
    spec.limits.body_buffer = 1_000;
    // The probe makes 2 MiB to have them refused.
    spec.limits.run_time = Duration::from_secs(1);
    let version = host.ready(&spec, PROBE).await;
    let (mut exchange, mut invocation) = (told("read-or-pass"), version.begin());
    match invocation.on_request(&mut exchange).await.unwrap() {
        Decision::ReadBody(body) => assert_eq!(body, BodyRequest { limit: 1_000, over_limit: OverLimit::Pass }),
        other => panic!("{other:?}"),
    }
    let outcome = invocation.on_request_body(&mut exchange, Bytes::from_static(b"large")).await.unwrap();
    assert_eq!(header(&exchange, "x-refused").as_deref(), Some("true"));
    assert_eq!(outcome.replacement, None);
}

#[tokio::test]
async fn the_response_phase_sees_the_request_and_the_attributes_of_earlier_phases() {
    let host = Host::new();
    let version = host.ready(&probe(), PROBE).await;
    let (mut exchange, mut invocation) = (told("everything"), version.begin());
    invocation.on_request(&mut exchange).await.unwrap();
    let mut exchange = with_response(exchange, 500);
    assert!(matches!(invocation.on_response(&mut exchange).await.unwrap(), Decision::Continue));
    assert_eq!(response_header(&exchange, "x-attribute").as_deref(), Some("text"));
    assert_eq!(response_header(&exchange, "x-path").as_deref(), Some("/changed"));
    assert_eq!(exchange.response().unwrap().status(), StatusCode::BAD_GATEWAY);
    assert!(exchange.take_response::<PlainResponse>().is_some());
}

#[tokio::test]
async fn a_response_may_be_replaced_by_a_local_reply() {
    let host = Host::new();
    let version = host.ready(&probe(), PROBE).await;
    let mut exchange = with_response(told(""), 418);
    let reply = reply(version.begin().on_response(&mut exchange).await.unwrap());
    assert_eq!((reply.status, &reply.body[..]), (StatusCode::SERVICE_UNAVAILABLE, &b"no tea\n"[..]));
}

#[tokio::test]
async fn the_log_phase_is_told_how_the_exchange_ended() {
    let host = Host::new();
    let version = host.ready(&probe(), PROBE).await;
    let summary = Summary {
        duration: Duration::from_millis(5),
        bytes_received: 1,
        bytes_sent: 2,
        reason: Some("route_not_found"),
    };
    let mut exchange = with_response(told(""), 404);
    version.begin().on_log(&mut exchange, summary).await.unwrap();
    let told_of = |exchange: &Exchange| exchange.attributes.get("probe.log").cloned();
    let expected = AttributeValue::String("/a 404 5ms 1 2 Some(\"route_not_found\")".into());
    assert_eq!(told_of(&exchange), Some(expected));
    let mut unanswered = told("");
    version.begin().on_log(&mut unanswered, Summary::default()).await.unwrap();
    assert_eq!(told_of(&unanswered), Some(AttributeValue::String("/a 0 0ns 0 0 None".into())));
}

#[tokio::test]
async fn a_phase_that_is_not_exported_makes_no_instance() {
    let host = Host::new();
    let spec = plugin("key-auth", guest("key_auth"));
    let version = host.ready(&spec, r#"{"consumers":[{"name":"ann","keys":["anns-key"]}]}"#).await;
    assert_eq!(version.phases().names(), ["request_headers"]);
    let mut exchange = with_response(told(""), 200);
    let mut invocation = version.begin();
    assert!(matches!(invocation.on_response(&mut exchange).await.unwrap(), Decision::Continue));
    invocation.on_log(&mut exchange, Summary::default()).await.unwrap();
    assert_eq!(host.metric(r#"sluice_plugin_instances{plugin="shop/key-auth"}"#), 0.0);
    let calls = r#"sluice_plugin_calls_total{plugin="shop/key-auth",phase="response_headers",outcome="continue"}"#;
    assert_eq!(host.metric(calls), 0.0);
}

#[tokio::test]
async fn key_auth_guards_and_transform_rewrites() {
    let host = Host::new();
    let keys = plugin("key-auth", guest("key_auth"));
    let version = host.ready(&keys, r#"{"consumers":[{"name":"ann","keys":["anns-key"]}]}"#).await;
    let refused = reply(version.begin().on_request(&mut told("")).await.unwrap());
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    assert_eq!(refused.headers["www-authenticate"], "Key realm=\"sluice\"");
    let mut exchange = Exchange::new(PlainRequest::get("/a").header("x-api-key", "anns-key"));
    assert!(matches!(version.begin().on_request(&mut exchange).await.unwrap(), Decision::Continue));
    assert_eq!(header(&exchange, "x-consumer").as_deref(), Some("ann"));

    let transform = plugin("transform", guest("transform"));
    let config = r#"{"request":{"path":{"set":"/of/${attribute.key-auth.consumer}${request.path}"}},
        "response":{"headers":{"set":{"x-by":"${property.route.name:-nobody}"}}}}"#;
    let version = host.ready(&transform, config).await;
    let mut invocation = version.begin();
    invocation.on_request(&mut exchange).await.unwrap();
    assert_eq!(exchange.request().unwrap().path(), "/of/ann/a");
    let mut exchange = with_response(exchange, 200);
    invocation.on_response(&mut exchange).await.unwrap();
    assert_eq!(response_header(&exchange, "x-by").as_deref(), Some("nobody"));
}

/// The guest `steps` with a configuration.
async fn steps(host: &Host, config: &str) -> std::sync::Arc<sluice_wasm::Configured> {
    host.ready(&plugin("steps", guest("steps")), config).await
}

#[tokio::test]
async fn a_responses_body_is_read_on_demand_and_may_be_replaced_with_its_head() {
    let host = Host::new();
    let version = steps(&host, r#"{"name":"a","readResponse":{"limit":10,"replace":"other"}}"#).await;
    assert!(version.phases().response_body());
    let (mut exchange, mut invocation) = (with_response(told(""), 200), version.begin());
    invocation.on_request(&mut exchange).await.unwrap();
    match invocation.on_response(&mut exchange).await.unwrap() {
        Decision::ReadBody(body) => assert_eq!(body, BodyRequest { limit: 10, over_limit: OverLimit::Refuse }),
        other => panic!("{other:?}"),
    }
    let outcome = invocation.on_response_body(&mut exchange, Bytes::from_static(b"hello")).await.unwrap();
    assert!(matches!(outcome.decision, Decision::Continue));
    assert_eq!(outcome.replacement.as_deref(), Some(&b"other"[..]));
    assert!(response_header(&exchange, "x-read-response").is_some_and(|read| read.starts_with("a:5:")));
}

#[tokio::test]
async fn the_body_of_a_response_is_one_phase_of_the_metrics_and_holds_an_instance_no_longer() {
    let host = Host::new();
    let version =
        steps(&host, r#"{"name":"a","readResponse":{"limit":10,"orPass":true},"onResponseBody":"answer"}"#).await;
    let (mut exchange, mut invocation) = (with_response(told(""), 200), version.begin());
    match invocation.on_response(&mut exchange).await.unwrap() {
        Decision::ReadBody(body) => assert_eq!(body.over_limit, OverLimit::Pass),
        other => panic!("{other:?}"),
    }
    let instances = "sluice_plugin_instances{plugin=\"shop/steps\"}";
    assert_eq!(host.metric(instances), 1.0, "it is kept for the body");
    let outcome = invocation.on_response_body(&mut exchange, Bytes::new()).await.unwrap();
    assert_eq!(reply(outcome.decision).status, StatusCode::IM_A_TEAPOT);
    assert_eq!(host.metric(instances), 0.0);
    let calls = "sluice_plugin_calls_total{plugin=\"shop/steps\",phase=\"response_body\",outcome=\"respond\"}";
    assert_eq!(host.metric(calls), 1.0);
}

/// A plugin that reads no responses is not paid for: its instance goes with the head.
#[tokio::test]
async fn an_instance_that_does_not_read_the_response_is_freed_with_its_head() {
    let host = Host::new();
    let version = steps(&host, r#"{"name":"a"}"#).await;
    let (mut exchange, mut invocation) = (with_response(told(""), 200), version.begin());
    assert!(matches!(invocation.on_response(&mut exchange).await.unwrap(), Decision::Continue));
    assert_eq!(host.metric("sluice_plugin_instances{plugin=\"shop/steps\"}"), 0.0);
}
