//! Filters of the proxy-wasm ABI, made with its Rust SDK: what they see of an exchange, what they may change, and what they
//! keep.

use crate::setup::{Host, guest, header, plugin, response_header};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use sluice_model::plugin::{InstanceMode, PluginKey, PluginSpec};
use sluice_model::problem::Code;
use sluice_wasm::{
    AttributeValue, Backends, Configured, Decision, Exchange, FetchError, FetchErrorKind, LocalReply, Outbound,
    OutboundRequest, OutboundResponse, PlainRequest, PlainResponse, PluginError, Summary, TrapKind,
};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

pub(crate) fn filter(name: &str) -> PluginSpec {
    plugin(name, guest(&name.replace('-', "_")))
}

pub(crate) fn probe() -> PluginSpec {
    filter("filter-probe")
}

/// A configuration that is text, in Envoy's words.
pub(crate) fn text(value: &str) -> String {
    format!(r#"{{"@type":"type.googleapis.com/google.protobuf.StringValue","value":"{value}"}}"#)
}

fn told(what: &'static str) -> Exchange {
    Exchange::new(PlainRequest::get("/a?b=c").header("x-do", what))
}

fn told_with(what: &'static str, with: &'static str) -> Exchange {
    Exchange::new(PlainRequest::get("/a?b=c").header("x-do", what).header("x-with", with))
}

/// What the probe found out at the request's head.
async fn found(version: &Arc<Configured>, mut exchange: Exchange) -> String {
    let decision = version.begin().on_request(&mut exchange).await.expect("the phase ends well");
    assert!(matches!(decision, Decision::Continue), "{decision:?}");
    header(&exchange, "x-told").expect("the probe told something")
}

/// Asks until the probe finds something: what it waits for comes by itself.
async fn eventually(version: &Arc<Configured>, key: &'static str, expected: &str) {
    let wanted = async {
        while found(version, told_with("shared", key)).await != expected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wanted).await.unwrap_or_else(|_| panic!("{key} becomes {expected}"));
}

pub(crate) fn reply(decision: Decision) -> Box<LocalReply> {
    match decision {
        Decision::Respond(reply) => reply,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn response(name: &'static str, value: &'static str) -> Box<PlainResponse> {
    let headers = [(http::HeaderName::from_static(name), HeaderValue::from_static(value))].into_iter().collect();
    Box::new(PlainResponse { status: StatusCode::OK, headers })
}

#[tokio::test]
async fn a_filter_is_one_vm_for_many_exchanges_and_keeps_each_ones_state() {
    let host = Host::new();
    let version = host.ready(&probe(), "{}").await;
    assert_eq!(version.mode(), InstanceMode::Shared);
    let phases = version.phases();
    assert!(phases.request_headers() && phases.response_headers() && phases.log(), "{phases:?}");
    let (mut one, mut two) = (version.begin(), version.begin());
    let (mut first, mut second) = (told(""), told(""));
    one.on_request(&mut first).await.unwrap();
    two.on_request(&mut second).await.unwrap();
    for (invocation, exchange) in [(&mut two, &mut second), (&mut one, &mut first)] {
        exchange.put_response(response("x-a", "1"));
        invocation.on_response(exchange).await.unwrap();
        assert_eq!(response_header(exchange, "x-seen").as_deref(), Some("2 2 false 200"));
        invocation.on_log(exchange, Summary::default()).await.unwrap();
        assert_eq!(exchange.attributes.get("logged"), Some(&AttributeValue::String("yes".into())));
    }
    assert_eq!(found(&version, told_with("shared", "logged /a?b=c")).await, "c800000000000000 true");
    assert_eq!(host.metric(r#"sluice_plugin_instances{plugin="shop/filter-probe"}"#), 1.0);
}

#[tokio::test]
async fn header_fields_are_those_that_a_filter_expects() {
    let host = Host::new();
    let version = host.ready(&probe(), "{}").await;
    let mut exchange = told("count");
    exchange.request_ends = true;
    assert_eq!(found(&version, exchange).await, "5 5 true");
    let pairs = found(&version, told("pairs")).await;
    assert_eq!(pairs, ":authority=example.com;:path=/a?b=c;:method=GET;:scheme=https;x-do=pairs");
}

#[tokio::test]
async fn what_a_filter_changes_of_a_request_is_changed_and_what_frames_it_is_not() {
    let host = Host::new();
    let version = host.ready(&probe(), "{}").await;
    let request = PlainRequest::get("/a").header("x-do", "edit").header("x-gone", "1").header("content-length", "7");
    let mut exchange = Exchange::new(request);
    version.begin().on_request(&mut exchange).await.unwrap();
    let request: Box<PlainRequest> = exchange.take_request().unwrap();
    let values: Vec<_> = request.headers.get_all("x-set").iter().collect();
    assert_eq!(values, ["two", "three"]);
    assert_eq!(request.headers.get("x-gone"), None);
    assert_eq!(request.headers.get("content-length"), None, "of a body that it will change");
    assert_eq!(request.headers.get("connection"), None);
    assert_eq!((&*request.path, request.query.as_deref()), ("/changed", Some("by=filter")));
    assert_eq!((&*request.authority, &*request.method), ("other.example:8080", "PUT"));
    let mut exchange = told("replace-all");
    version.begin().on_request(&mut exchange).await.unwrap();
    let request: Box<PlainRequest> = exchange.take_request().unwrap();
    assert_eq!(request.path, "/all");
    assert_eq!(request.headers.keys().collect::<Vec<_>>(), ["x-only"]);
}

#[tokio::test]
async fn a_filter_answers_itself_and_a_body_without_a_type_is_plain_text() {
    let host = Host::new();
    let version = host.ready(&filter("filter-headers"), "{}").await;
    let mut exchange = Exchange::new(PlainRequest::get("/hello"));
    let mut invocation = version.begin();
    let answer = reply(invocation.on_request(&mut exchange).await.unwrap());
    assert_eq!((answer.status, &*answer.body), (StatusCode::OK, &b"Hello!\n"[..]));
    assert_eq!(answer.headers.get("powered-by").unwrap(), "proxy-wasm");
    assert_eq!(answer.headers.get("content-type").unwrap(), "text/plain");
    // It sees the answer pass by, as any other.
    exchange.put_response(response("hello", "world"));
    assert!(matches!(invocation.on_response(&mut exchange).await.unwrap(), Decision::Continue));
    let mut other = Exchange::new(PlainRequest::get("/other"));
    assert!(matches!(version.begin().on_request(&mut other).await.unwrap(), Decision::Continue));

    let version = host.ready(&probe(), "{}").await;
    let answer = reply(version.begin().on_request(&mut told("reply")).await.unwrap());
    assert_eq!(answer.headers.get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
    let answer = reply(version.begin().on_request(&mut told("reply-empty")).await.unwrap());
    assert_eq!((answer.status, answer.headers.len()), (StatusCode::NO_CONTENT, 0));
    let answer = reply(version.begin().on_request(&mut told("close")).await.unwrap());
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_response_is_changed_and_replaced() {
    let host = Host::new();
    let version = host.ready(&probe(), "{}").await;
    let respond = async |then: &'static str| {
        let mut exchange = Exchange::new(PlainRequest::get("/").header("x-then", then));
        let mut invocation = version.begin();
        invocation.on_request(&mut exchange).await.unwrap();
        exchange.put_response(response("x-a", "1"));
        let decision = invocation.on_response(&mut exchange).await;
        (decision, exchange.take_response::<PlainResponse>().unwrap())
    };
    assert_eq!(respond("status").await.1.status, StatusCode::ACCEPTED);
    let answer = reply(respond("reply").await.0.unwrap());
    assert_eq!((answer.status.as_u16(), &*answer.body), (451, &b"instead"[..]));
    // The request is on its way: the SDK ends a filter that would change it now.
    assert!(matches!(respond("request").await.0, Err(PluginError::Trap { kind: TrapKind::Panic, .. })));
}

#[tokio::test]
async fn properties_have_envoys_names_and_forms() {
    let host = Host::new();
    let version = host.ready(&probe(), "{}").await;
    for (path, expected) in [
        ("plugin_name", "filter-probe"),
        ("request/path", "/a?b=c"),
        ("request/url_path", "/a"),
        ("request/query", "b=c"),
        ("request/host", "example.com"),
        ("request/method", "GET"),
        ("request/scheme", "https"),
        ("request/headers/x-do", "property"),
        ("request/headers/:path", "/a?b=c"),
        ("request/id", "abc"),
        ("source/address", "192.0.2.7:4711"),
        ("source/port", "6712000000000000"),
        ("connection/tls_version", "TLSv1.3"),
        ("connection/mtls", "01"),
        ("route_name", "shop/all"),
        ("cluster_name", "shop/one"),
        ("listener_direction", "none"),
        ("response/code", "none"),
        ("node/id", "none"),
        ("request/headers/x-absent", "none"),
    ] {
        let request = PlainRequest::get("/a?b=c")
            .header("x-do", "property")
            .header("x-with", path)
            .property("request.id", "abc")
            .property("source.address", "192.0.2.7:4711")
            .property("connection.tls_version", "TLSv1_3")
            .property("connection.mtls", "true")
            .property("route.name", "shop/all")
            .property("upstream.backend", "shop/one");
        assert_eq!(found(&version, Exchange::new(request)).await, expected, "{path}");
    }
    let mut exchange = told("set-property");
    version.begin().on_request(&mut exchange).await.unwrap();
    assert_eq!(header(&exchange, "x-told").as_deref(), Some("blue"));
    assert_eq!(exchange.attributes.get("tenant"), Some(&AttributeValue::String("blue".into())));
}

#[tokio::test]
async fn shared_data_and_queues_are_the_plugins_own() {
    let host = Host::new();
    let version = host.ready(&probe(), "{}").await;
    assert_eq!(found(&version, told("share")).await, "Ok(()) Ok(()) Err(CasMismatch) 2");
    assert_eq!(found(&version, told("queue")).await, "true true Ok(()) Err(NotFound)");
    eventually(&version, "from-queue", "job true").await;
    // Another use of the Plugin sees it, another Plugin does not.
    let same = host.ready(&probe(), r#"{"a":1}"#).await;
    assert_eq!(found(&same, told_with("shared", "k")).await, "2 true");
    let other = host.ready(&PluginSpec { key: PluginKey::new("shop", "other"), ..probe() }, "{}").await;
    assert_eq!(found(&other, told_with("shared", "k")).await, "none false");
}

#[tokio::test]
async fn metrics_are_counted_and_bounded() {
    let host = Host::new();
    let version = host.ready(&probe(), "{}").await;
    let refused = "[Err(BadArgument), Err(BadArgument), Err(NotFound)]";
    assert_eq!(found(&version, told("metrics")).await, format!("[2, 4] {refused}"));
    assert_eq!(found(&version, told("metrics")).await, format!("[4, 4] {refused}"));
    assert_eq!(host.metric(r#"sluice_plugin_custom_probe_requests_total{plugin="shop/filter-probe"}"#), 4.0);
    assert_eq!(host.metric(r#"sluice_plugin_custom_probe_sizes_count{plugin="shop/filter-probe"}"#), 2.0);
    let error = version.begin().on_request(&mut told("many-metrics")).await.unwrap_err();
    assert!(matches!(error, PluginError::Trap { kind: TrapKind::Panic, .. }), "{error}");
    assert_eq!(host.metric(r#"sluice_plugin_metrics_refused_total{plugin="shop/filter-probe"}"#), 1.0);
}

#[tokio::test]
async fn what_is_not_carried_is_refused_with_the_abis_status() {
    let host = Host::new();
    let version = host.ready(&probe(), "{}").await;
    assert_eq!(found(&version, told("foreign")).await, "Err(NotFound)");
    assert_eq!(found(&version, told("unknown-backend")).await, "Err(BadArgument)");
    assert_eq!(found(&version, told("grpc")).await, "Err(ParseFailure)");
    // The SDK ends a filter that is told of what it knows no case of.
    let error = version.begin().on_request(&mut told("grpc-stream")).await.unwrap_err();
    assert!(matches!(error, PluginError::Trap { kind: TrapKind::Panic, .. }), "{error}");
}

#[tokio::test]
async fn a_configuration_is_read_in_envoys_words_and_may_be_refused() {
    let host = Host::new();
    let added = async |config: &str| {
        let version = host.ready(&filter("filter-config"), config).await;
        let mut invocation = version.begin();
        let mut exchange = Exchange::new(PlainRequest::get("/"));
        invocation.on_request(&mut exchange).await.unwrap();
        exchange.put_response(response("x-a", "1"));
        invocation.on_response(&mut exchange).await.unwrap();
        response_header(&exchange, "custom-header")
    };
    assert_eq!(added(&text("plain words")).await.as_deref(), Some("plain words"));
    assert_eq!(added(r#"{"a":[1]}"#).await.as_deref(), Some(r#"{"a":[1]}"#));
    assert_eq!(added("{}").await.as_deref(), Some(""));
    let plugin_use = crate::setup::use_of("filter-config", &text("refuse"));
    host.ensure(&[&filter("filter-config")], &[&plugin_use]).await;
    let problem = host.problem();
    assert_eq!((problem.code, &*problem.field), (Code::PluginConfig, "spec.plugins[0].config"));
    let said = "(proxy_on_configure said no): this filter takes anything but `refuse`";
    assert!(problem.message.contains(said), "{problem}");
}

#[tokio::test]
async fn ticks_come_by_themselves_and_end_with_the_version() {
    let host = Host::new();
    let version = host.ready(&filter("filter-hello"), "{}").await;
    let ticks = || host.metrics().contains(r#"sluice_plugin_custom_hello_ticks_total{plugin="shop/filter-hello"} 3"#);
    let came = async {
        while !ticks() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), came).await.expect("ticks come");
    host.ensure(&[], &[]).await;
    drop(version);
    let gone = async {
        while host.metrics().contains(r#"sluice_plugin_instances{plugin="shop/filter-hello"} 1"#) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone).await.expect("the VM ends");
}

/// A backend that answers with these bytes, once it may.
#[derive(Default)]
pub(crate) struct Auth {
    pub(crate) asked: Mutex<Vec<OutboundRequest>>,
    pub(crate) body: &'static [u8],
    pub(crate) gate: Option<Arc<Notify>>,
    pub(crate) fails: bool,
}

impl Outbound for Auth {
    fn has(&self, backend: &str) -> bool {
        backend == "auth"
    }

    fn fetch(&self, _: &str, request: OutboundRequest) -> BoxFuture<'static, Result<OutboundResponse, FetchError>> {
        self.asked.lock().unwrap().push(request);
        let (gate, body, fails) = (self.gate.clone(), self.body, self.fails);
        async move {
            if let Some(gate) = gate {
                gate.notified().await;
            }
            if fails {
                return Err(FetchError::new(FetchErrorKind::Timeout, "late"));
            }
            let headers = HeaderMap::from_iter([(http::header::SERVER, HeaderValue::from_static("auth"))]);
            Ok(OutboundResponse {
                status: StatusCode::IM_A_TEAPOT,
                headers,
                body: Bytes::from_static(body),
                trailers: HeaderMap::new(),
                held: None,
            })
        }
        .boxed()
    }
}

fn asking(auth: &Arc<Auth>) -> Exchange {
    let mut exchange = Exchange::new(PlainRequest::get("/"));
    exchange.outbound = Some(auth.clone());
    exchange
}

#[tokio::test]
async fn a_callout_pauses_its_exchange_until_the_answer_says_what_becomes_of_it() {
    let host = Host::new();
    let version = host.ready(&filter("filter-auth"), "{}").await;
    assert!(version.names_backends());
    let even = Arc::new(Auth { body: b"\x02", ..Auth::default() });
    let mut exchange = asking(&even);
    let decision = version.begin().on_request(&mut exchange).await.unwrap();
    assert!(matches!(decision, Decision::Continue));
    assert_eq!(header(&exchange, "x-auth-status").as_deref(), Some("418"), "changed while it was paused");
    let asked = even.asked.lock().unwrap().pop().unwrap();
    assert_eq!((asked.method.as_str(), asked.target.as_str()), ("GET", "/bytes/1"));
    assert_eq!(asked.authority.unwrap().as_str(), "auth.example");

    let odd = Arc::new(Auth { body: b"\x01", ..Auth::default() });
    let answer = reply(version.begin().on_request(&mut asking(&odd)).await.unwrap());
    assert_eq!((answer.status, &*answer.body), (StatusCode::FORBIDDEN, &b"Access forbidden.\n"[..]));
    let none = Arc::new(Auth { fails: true, ..Auth::default() });
    assert_eq!(reply(version.begin().on_request(&mut asking(&none)).await.unwrap()).status, StatusCode::FORBIDDEN);
    let calls = |outcome: &str| {
        host.metric(&format!(r#"sluice_plugin_backend_calls_total{{plugin="shop/filter-auth",outcome="{outcome}"}}"#))
    };
    assert_eq!((calls("answered"), calls("timeout")), (2.0, 1.0));
}

#[tokio::test]
async fn while_one_exchange_is_paused_others_pass_and_the_deadline_gives_it_back() {
    let host = Host::new();
    let mut spec = filter("filter-auth");
    spec.limits.deadline = Duration::from_millis(300);
    let version = host.ready(&spec, "{}").await;
    let stuck = Arc::new(Auth { gate: Some(Arc::default()), ..Auth::default() });
    let mut held = asking(&stuck);
    let mut invocation = version.begin();
    let paused = invocation.on_request(&mut held);
    let others = async {
        for _ in 0..20 {
            let even = Arc::new(Auth { body: b"\0", ..Auth::default() });
            version.begin().on_request(&mut asking(&even)).await.unwrap();
        }
    };
    let (paused, ()) = tokio::join!(paused, others);
    assert!(matches!(paused, Err(PluginError::Deadline { .. })), "{paused:?}");
    assert!(held.request().is_some(), "an open plugin can be skipped");
    // Its end is told all the same.
    invocation.on_log(&mut held, Summary::default()).await.unwrap();
}

#[tokio::test]
async fn a_pause_without_an_end_is_the_deadlines_and_one_that_ended_before_it_began_is_none() {
    let host = Host::new();
    let mut spec = probe();
    spec.limits.deadline = Duration::from_millis(100);
    let version = host.ready(&spec, "{}").await;
    let error = version.begin().on_request(&mut told("pause")).await.unwrap_err();
    assert!(matches!(error, PluginError::Deadline { .. }), "{error}");
    assert!(matches!(version.begin().on_request(&mut told("resumed")).await.unwrap(), Decision::Continue));
}

/// A newer version takes over, and the VM of the one before ends, as it does with its last context.
async fn the_former_ends(host: &Host, mut spec: PluginSpec) {
    spec.limits.memory += 65_536;
    host.ready(&spec, "{}").await;
    let ended = async {
        while host.metric(r#"sluice_plugin_instances{plugin="shop/filter-probe"}"#) != 1.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), ended).await.expect("the former VM ends");
}

#[tokio::test]
async fn an_exchange_that_is_given_up_leaves_no_context_behind() {
    let host = Host::new();
    let version = host.ready(&probe(), "{}").await;
    let mut invocation = version.begin();
    invocation.on_request(&mut told("")).await.unwrap();
    drop(invocation);
    the_former_ends(&host, probe()).await;
}

#[tokio::test]
async fn one_that_is_given_up_in_its_first_call_aside_leaves_none_either() {
    let host = Host::new();
    let mut spec = probe();
    // Longer than what may run on a thread that serves.
    spec.limits.run_time = Duration::from_millis(100);
    let version = host.ready(&spec, "{}").await;
    let (mut invocation, mut exchange) = (version.begin(), told(""));
    assert!(futures::poll!(std::pin::pin!(invocation.on_request(&mut exchange))).is_pending(), "it runs elsewhere");
    drop(invocation);
    the_former_ends(&host, spec).await;
}

/// What a filter calls outside of an exchange.
struct Own(Arc<Auth>);

impl Backends for Own {
    fn of(&self, plugin: &PluginKey) -> Option<Arc<dyn Outbound>> {
        (&*plugin.name == "filter-probe").then(|| self.0.clone() as Arc<dyn Outbound>)
    }
}

#[tokio::test]
async fn a_filter_calls_backends_from_its_ticks() {
    let host = Host::new();
    let auth = Arc::new(Auth { body: b"fetched", ..Auth::default() });
    host.host.set_backends(Own(auth.clone()));
    let version = host.ready(&probe(), &text("call")).await;
    eventually(&version, "root-answer", "fetched true").await;
    assert_eq!(auth.asked.lock().unwrap().first().unwrap().target.as_str(), "/tick");
}

/// A service of gRPC: each call is answered with these trailers, or fails.
struct Calls {
    asked: Mutex<Vec<OutboundRequest>>,
    trailers: &'static [(&'static str, &'static str)],
    fails: Option<FetchErrorKind>,
}

impl Outbound for Calls {
    fn has(&self, backend: &str) -> bool {
        backend == "calls"
    }

    fn fetch(&self, _: &str, request: OutboundRequest) -> BoxFuture<'static, Result<OutboundResponse, FetchError>> {
        let body = request.body.clone();
        self.asked.lock().unwrap().push(request);
        let (trailers, fails) = (self.trailers, self.fails);
        async move {
            if let Some(kind) = fails {
                return Err(FetchError::new(kind, "no answer"));
            }
            let pairs = trailers.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)));
            let (headers, trailers) = (HeaderMap::new(), pairs.collect());
            Ok(OutboundResponse { status: StatusCode::OK, headers, body, trailers, held: None })
        }
        .boxed()
    }
}

#[tokio::test]
async fn a_call_of_grpc_is_one_message_each_way_or_ends_with_its_status() {
    let host = Host::new();
    let version = host.ready(&filter("filter-grpc-auth"), "{}").await;
    let answered = async |trailers, fails| {
        let calls = Arc::new(Calls { asked: Mutex::default(), trailers, fails });
        let request = PlainRequest::get("/a").header("content-type", "application/grpc").header("x-status", "Method");
        let mut exchange = Exchange::new(request);
        exchange.outbound = Some(calls.clone());
        let decision = version.begin().on_request(&mut exchange).await.unwrap();
        let asked = calls.asked.lock().unwrap().pop().unwrap();
        let told = match &decision {
            Decision::Respond(reply) => reply.headers.get("x-answer").unwrap().to_str().unwrap().to_owned(),
            _ => header(&exchange, "x-answer").unwrap(),
        };
        (asked, matches!(decision, Decision::Continue), told)
    };
    let (asked, allowed, told) = answered(&[("grpc-status", "0")], None).await;
    assert_eq!((allowed, &*told), (true, "0 0  may it"));
    assert_eq!((asked.method.as_str(), asked.target.as_str()), ("POST", "/grpc/Method"));
    assert_eq!(asked.authority.unwrap(), "calls");
    let fields = ["content-type", "te", "grpc-timeout", "x-asked-by"].map(|name| asked.headers.get(name).unwrap());
    assert_eq!(fields, ["application/grpc", "trailers", "5000m", "filter"]);
    assert_eq!(&*asked.body, b"\0\0\0\0\x06may it");
    let (_, allowed, told) = answered(&[("grpc-status", "7"), ("grpc-message", "not%20you")], None).await;
    assert_eq!((allowed, &*told), (false, "7 7 not you "));
    let (_, allowed, told) = answered(&[], Some(FetchErrorKind::Timeout)).await;
    assert_eq!((allowed, &*told), (true, "4 4 no answer "));
    let (_, allowed, told) = answered(&[], None).await;
    assert_eq!((allowed, &*told), (true, "2 2 the answer has no grpc-status "));
}
