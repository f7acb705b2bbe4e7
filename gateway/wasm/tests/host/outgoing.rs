//! Calls of plugins to backends: what the guest gets, what it is refused, and what a call that waits costs its neighbours.

use crate::setup::{Host, guest, header, plugin, pooled, response_header};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, StatusCode};
use sluice_model::plugin::PluginSpec;
use sluice_wasm::{
    AttributeValue, Exchange, FetchError, FetchErrorKind, Outbound, OutboundRequest, OutboundResponse, OwnBounds,
    PlainRequest, PlainResponse, PluginError, Summary, TrapKind,
};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

/// A backend that answers when it may.
#[derive(Default)]
struct Stub {
    asked: Mutex<Vec<OutboundRequest>>,
    /// Where set, an answer waits for this.
    gate: Option<Arc<Notify>>,
    waiting: Arc<AtomicUsize>,
}

impl Outbound for Stub {
    fn has(&self, backend: &str) -> bool {
        backend == "auth"
    }

    fn fetch(
        &self,
        backend: &str,
        request: OutboundRequest,
    ) -> BoxFuture<'static, Result<OutboundResponse, FetchError>> {
        if backend != "auth" {
            let refused = FetchError::new(FetchErrorKind::NotAllowed, format!("no backend `{backend}`"));
            return std::future::ready(Err(refused)).boxed();
        }
        let max = request.max_body;
        self.asked.lock().unwrap().push(request);
        let (gate, waiting) = (self.gate.clone(), self.waiting.clone());
        async move {
            if let Some(gate) = gate {
                waiting.fetch_add(1, Ordering::SeqCst);
                gate.notified().await;
            }
            let body = Bytes::from_static(b"hello from the backend");
            if body.len() as u64 > max {
                return Err(FetchError::new(FetchErrorKind::TooLarge, "too large"));
            }
            let mut headers = HeaderMap::new();
            headers.insert("x-backend", HeaderValue::from_static("one"));
            Ok(OutboundResponse {
                status: StatusCode::IM_A_TEAPOT,
                headers,
                body,
                trailers: HeaderMap::new(),
                held: None,
            })
        }
        .boxed()
    }
}

fn caller() -> PluginSpec {
    plugin("caller", guest("caller"))
}

fn calling(stub: &Arc<Stub>, fields: &[(&'static str, &'static str)]) -> Exchange {
    let request = fields.iter().fold(PlainRequest::get("/a"), |request, (name, value)| request.header(name, value));
    let mut exchange = Exchange::new(request);
    exchange.outbound = Some(stub.clone());
    exchange
}

async fn called(spec: PluginSpec, fields: &[(&'static str, &'static str)]) -> (String, Exchange, Arc<Stub>) {
    let host = Host::new();
    let version = host.ready(&spec, "{}").await;
    let stub = Arc::new(Stub::default());
    let mut exchange = calling(&stub, fields);
    version.begin().on_request(&mut exchange).await.unwrap();
    (header(&exchange, "x-called").unwrap(), exchange, stub)
}

#[tokio::test]
async fn a_plugin_gets_the_whole_answer_whatever_its_status() {
    for spec in [caller(), pooled(caller())] {
        let fields = [("x-call", "POST auth /check?user=chef"), ("x-send", "body"), ("x-authority", "auth.example:81")];
        let (told, exchange, stub) = called(spec, &fields).await;
        assert_eq!(told, "418 one 22");
        assert_eq!(header(&exchange, "x-body").as_deref(), Some("hello from the backend"));
        let asked = stub.asked.lock().unwrap().pop().unwrap();
        assert_eq!((asked.method.as_str(), asked.target.as_str()), ("POST", "/check?user=chef"));
        assert_eq!((&asked.headers["x-from"], &asked.body[..]), (&HeaderValue::from_static("caller"), &b"body"[..]));
        assert_eq!(asked.authority.unwrap(), "auth.example:81");
        assert_eq!(asked.max_body, 1 << 20, "limits.bodyBuffer");
        assert_eq!(asked.own, OwnBounds::default());
    }
}

#[tokio::test]
async fn calls_of_one_phase_go_one_after_the_other() {
    let (told, _, stub) = called(caller(), &[("x-call", "GET auth /1, GET auth /2, GET other /3")]).await;
    assert_eq!(told, "418 one 22, 418 one 22, not-allowed");
    let asked: Vec<_> = stub.asked.lock().unwrap().iter().map(|asked| asked.target.to_string()).collect();
    assert_eq!(asked, ["/1", "/2"]);
}

#[tokio::test]
async fn what_is_no_request_never_leaves_the_gateway() {
    for (field, value, wish) in [
        ("x-field", "content-length", "GET auth /"),
        ("x-field", "a b", "GET auth /"),
        ("x-authority", "user@host", "GET auth /"),
        ("x-none", "", "GET auth no-slash"),
        ("x-none", "", "GET auth /a?b#c"),
        ("x-none", "", "CONNECT auth /"),
        ("x-none", "", "G@T auth /"),
    ] {
        let (told, _, stub) = called(caller(), &[("x-call", wish), (field, value)]).await;
        assert_eq!(told, "invalid", "{wish} {field}: {value}");
        assert!(stub.asked.lock().unwrap().is_empty(), "{wish} {field}: {value}");
    }
}

#[tokio::test]
async fn an_answers_body_is_bounded() {
    let (told, _, stub) = called(caller(), &[("x-call", "GET auth /"), ("x-limit", "10")]).await;
    assert_eq!((told.as_str(), stub.asked.lock().unwrap()[0].max_body), ("too-large", 10));
    let mut spec = caller();
    spec.limits.body_buffer = 20;
    let (told, _, stub) = called(spec, &[("x-call", "GET auth /"), ("x-limit", "1000"), ("x-timeout", "77")]).await;
    assert_eq!((told.as_str(), stub.asked.lock().unwrap()[0].max_body), ("too-large", 20));
    let own = OwnBounds { timeout: Some(Duration::from_millis(77)), max_body: Some(1_000) };
    assert_eq!(stub.asked.lock().unwrap()[0].own, own, "as the plugin said it");
}

#[tokio::test]
async fn a_plugin_that_is_given_no_backend_calls_none() {
    let host = Host::new();
    let version = host.ready(&caller(), "{}").await;
    let mut exchange = Exchange::new(PlainRequest::get("/a").header("x-call", "GET auth /"));
    version.begin().on_request(&mut exchange).await.unwrap();
    assert_eq!(header(&exchange, "x-called").as_deref(), Some("not-allowed"));
    let failure = exchange.attributes.get("caller.failure").cloned();
    let Some(AttributeValue::String(message)) = failure else { panic!("{failure:?}") };
    assert!(message.contains("capabilities.backends") && message.contains("`auth`"), "{message}");
    assert_eq!(host.metric("sluice_plugin_backend_calls_total{plugin=\"shop/caller\",outcome=\"not-allowed\"}"), 1.0);
}

#[tokio::test]
async fn the_response_phase_may_call_and_the_log_phase_may_not() {
    let host = Host::new();
    let version = host.ready(&caller(), "{}").await;
    let stub = Arc::new(Stub::default());
    let mut exchange = calling(&stub, &[("x-call-after", "GET auth /after"), ("x-call-log", "GET auth /log")]);
    let mut invocation = version.begin();
    invocation.on_request(&mut exchange).await.unwrap();
    exchange.put_response(Box::new(PlainResponse::default()));
    invocation.on_response(&mut exchange).await.unwrap();
    assert_eq!(response_header(&exchange, "x-called-after").as_deref(), Some("418 one 22"));
    // As the proxy lends it for the log.
    exchange.outbound = None;
    invocation.on_log(&mut exchange, Summary::default()).await.unwrap();
    assert_eq!(exchange.attributes.get("caller.log"), Some(&AttributeValue::String("not-allowed".into())));
}

#[tokio::test]
async fn configure_calls_nobody() {
    let host = Host::new();
    let plugin_use = crate::setup::use_of("caller", r#"{"inConfigure":"auth"}"#);
    host.ensure(&[&caller()], &[&plugin_use]).await;
    let problem = host.problem();
    assert!(problem.message.contains("configure can't call them"), "{problem:?}");
}

/// One thread: what one call did to it all others would feel.
#[tokio::test(flavor = "current_thread")]
async fn while_a_plugin_waits_its_thread_serves_others() {
    let host = Host::new();
    let version = host.ready(&caller(), "{}").await;
    let gate = Arc::new(Notify::new());
    let stub = Arc::new(Stub { gate: Some(gate.clone()), ..Stub::default() });
    let waiting: Vec<_> = (0..10)
        .map(|_| {
            let (version, mut exchange) = (version.clone(), calling(&stub, &[("x-call", "GET auth /")]));
            tokio::spawn(async move {
                version.begin().on_request(&mut exchange).await.unwrap();
                header(&exchange, "x-called").unwrap()
            })
        })
        .collect();
    while stub.waiting.load(Ordering::SeqCst) < 10 {
        tokio::task::yield_now().await;
    }
    let quick = Arc::new(Stub::default());
    let mut exchange = calling(&quick, &[("x-call", "GET auth /")]);
    version.begin().on_request(&mut exchange).await.unwrap();
    assert_eq!(header(&exchange, "x-called").as_deref(), Some("418 one 22"));
    for call in waiting {
        gate.notify_one();
        assert_eq!(call.await.unwrap(), "418 one 22");
        gate.notify_waiters();
    }
}

#[tokio::test]
async fn a_call_that_is_not_answered_ends_at_the_plugins_deadline_and_gives_the_exchange_back() {
    let host = Host::new();
    let mut spec = caller();
    spec.limits.deadline = Duration::from_millis(50);
    let version = host.ready(&spec, "{}").await;
    let stub = Arc::new(Stub { gate: Some(Arc::default()), ..Stub::default() });
    let mut exchange = calling(&stub, &[("x-call", "GET auth /"), ("x-mine", "1")]);
    let error = version.begin().on_request(&mut exchange).await.unwrap_err();
    assert!(matches!(error, PluginError::Deadline { .. }), "{error}");
    assert_eq!(header(&exchange, "x-mine").as_deref(), Some("1"));
    // Its instance is gone, and its place is free.
    assert_eq!(host.metric("sluice_plugin_instances{plugin=\"shop/caller\"}"), 0.0);
}

#[tokio::test]
async fn a_loop_after_a_call_ends_at_the_run_time_and_lets_others_run_meanwhile() {
    let host = Host::new();
    let version = host.ready(&caller(), "{}").await;
    let stub = Arc::new(Stub::default());
    // The second time it runs aside, for what it did the first time.
    for _ in 0..2 {
        let mut exchange = calling(&stub, &[("x-call", "GET auth /"), ("x-spin", "1")]);
        let error = version.begin().on_request(&mut exchange).await.unwrap_err();
        assert!(matches!(error, PluginError::Trap { kind: TrapKind::RunTime, .. }), "{error}");
        assert_eq!(header(&exchange, "x-called").as_deref(), Some("418 one 22"), "what it had done is kept");
    }
    assert_eq!(host.metric("sluice_plugin_aside_total{plugin=\"shop/caller\"}"), 1.0);
    let mut exchange = calling(&stub, &[("x-call", "GET auth /")]);
    version.begin().on_request(&mut exchange).await.unwrap();
    assert_eq!(header(&exchange, "x-called").as_deref(), Some("418 one 22"));
    assert_eq!(host.metric("sluice_plugin_backend_calls_total{plugin=\"shop/caller\",outcome=\"answered\"}"), 3.0);
}

#[tokio::test]
async fn a_plugin_that_calls_nobody_runs_on_no_fiber() {
    let host = Host::new();
    assert!(host.ready(&caller(), "{}").await.names_backends());
    assert!(!host.ready(&crate::setup::probe(), crate::setup::PROBE).await.names_backends());
}
