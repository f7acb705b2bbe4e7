//! OpenTelemetry traces, from the request to a collector that decodes what it is sent.

use crate::shop::HOST;
use bytes::Bytes;
use http::StatusCode;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use sluice_tests::backend::{Handler, echo_as, text};
use sluice_tests::certificate::Authority;
use sluice_tests::collector::{Script, Span};
use sluice_tests::gateway::Options;
use sluice_tests::objects::{self, NAMESPACE, http_route, join, plugin, plugin_on_route, route_to, service};
use sluice_tests::raw::{self, Response};
use sluice_tests::{Backend, Collector, Folder, Gateway, guests, ports, wait};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

struct Traced {
    gateway: Gateway,
    folder: Folder,
    http: u16,
}

impl Traced {
    /// `tracing` is the inside of GatewayConfig's `tracing`. Peers of this host are trusted.
    async fn start(tracing: &str, objects: impl IntoIterator<Item = String>) -> Traced {
        Traced::with("trustedProxies: [127.0.0.0/8]", tracing, objects).await
    }

    async fn with(listener: &str, tracing: &str, objects: impl IntoIterator<Item = String>) -> Traced {
        Traced::within(Folder::new(), listener, tracing, objects).await
    }

    async fn within(
        folder: Folder,
        listener: &str,
        tracing: &str,
        objects: impl IntoIterator<Item = String>,
    ) -> Traced {
        let http = ports::free();
        let config = objects::configured_gateway(http, None, listener) + &format!("  tracing: {{{tracing}}}\n");
        folder.write("edge.yaml", join([objects::class(), config].into_iter().chain(objects)));
        Traced { gateway: Gateway::start(&folder).await, folder, http }
    }

    async fn send(&self, method: &str, target: &str, lines: &str) -> Response {
        let request = format!("{method} {target} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n{lines}\r\n");
        raw::exchange(self.http, request).await.unwrap()
    }

    async fn spans(&self, result: &str) -> f64 {
        self.gateway.metric("sluice_trace_spans_total", &[&format!("result=\"{result}\"")]).await
    }

    async fn until_spans(&self, result: &str, count: f64) {
        wait::until(&format!("{count} spans that are {result}"), || async {
            (self.spans(result).await >= count).then_some(())
        })
        .await;
        assert_eq!(self.spans(result).await, count);
    }
}

fn to(collector: &Collector, ratio: f64) -> String {
    format!("otlp: {{endpoint: \"{}\"}}, ratio: {ratio:?}", collector.endpoint())
}

fn traceparent(flags: &str) -> String {
    format!("traceparent: 00-{TRACE}-{PARENT}-{flags}\r\n")
}

fn of_kind(spans: &[Span], kind: SpanKind) -> Vec<&Span> {
    spans.iter().filter(|span| span.kind == kind).collect()
}

fn server(spans: &[Span]) -> &Span {
    let servers = of_kind(spans, SpanKind::Server);
    assert_eq!(servers.len(), 1, "{spans:#?}");
    servers[0]
}

/// Answers 503 once, and then as an echo.
fn flaky() -> Handler {
    let (calls, echo) = (AtomicUsize::new(0), echo_as("flaky"));
    Arc::new(move |request| match calls.fetch_add(1, SeqCst) {
        0 => Box::pin(async { text(StatusCode::SERVICE_UNAVAILABLE, "not yet") }),
        _ => echo(request),
    })
}

/// Anything on a route that answers by itself.
fn redirect() -> String {
    http_route("shop", &[HOST], "  - filters: [{type: RequestRedirect, requestRedirect: {hostname: else.example}}]\n")
}

#[tokio::test]
async fn a_request_with_a_retry_and_a_plugin_is_one_tree_under_its_trusted_parent() {
    let (collector, backend) = (Collector::start().await, Backend::with(flaky()).await);
    let rules = "  - matches: [{path: {value: /cart}}]\n    retry: {codes: [503], attempts: 2, backoff: 1ms}\n    backendRefs: [{name: flaky, port: 80}]\n";
    let folder = Folder::new();
    folder.write("steps.wasm", std::fs::read(guests::module("steps")).unwrap());
    let objects = [
        http_route("shop", &[HOST], rules),
        service("flaky", &[backend.address]),
        plugin("steps", "steps.wasm", "  limits: {runTime: 20ms, deadline: 10s}\n"),
        plugin_on_route("steps", "shop", "steps", "{name: a}"),
    ];
    let traced = Traced::within(folder, "trustedProxies: [127.0.0.0/8]", &to(&collector, 0.0), objects).await;
    // Until the plugin is ready the gateway answers 503 by itself.
    let lines = format!(
        "{}tracestate: vendor=x\r\nUser-Agent: test/1\r\nX-Forwarded-For: 192.0.2.7\r\nAuthorization: Bearer s3cret\r\nCookie: id=s3cret\r\n",
        traceparent("01")
    );
    let answer = wait::until("the plugin", || async {
        let answer = traced.send("GET", "/cart/%2e/items?token=s3cret", &lines).await;
        answer.header("x-steps").is_some().then_some(answer)
    })
    .await;
    assert_eq!(answer.status, 200, "{}", answer.text());

    let spans = collector.trace("the request's spans", |span| span.get("sluice.plugin.phase") == "log").await;
    let last = spans.iter().rfind(|span| span.kind == SpanKind::Server && span.get("sluice.reason") == "upstream");
    let server = last.expect("the request's own span");
    let children: Vec<_> = spans.iter().filter(|span| span.parent == server.id).cloned().collect();
    assert_eq!((&*server.trace, &*server.parent, &*server.state), (TRACE, PARENT, "vendor=x"));
    assert_eq!(server.name, "GET /cart");
    let (http, address) = (traced.http.to_string(), backend.address.port().to_string());
    for (name, expected) in [
        ("http.request.method", "GET"),
        ("url.scheme", "http"),
        ("url.path", "/cart/%2e/items"),
        ("server.address", HOST),
        ("server.port", "80"),
        ("network.protocol.version", "1.1"),
        ("client.address", "192.0.2.7"),
        ("user_agent.original", "test/1"),
        ("http.response.status_code", "200"),
        ("http.route", "/cart"),
        ("sluice.listener", &format!("{NAMESPACE}/edge/http")),
        ("sluice.rule", &format!("HTTPRoute {NAMESPACE}/shop/0")),
        ("sluice.backend", &format!("{NAMESPACE}/flaky:80")),
        ("sluice.reason", "upstream"),
        ("error.type", ""),
        ("url.query", ""),
    ] {
        assert_eq!(server.get(name), expected, "{name} (port {http})");
    }
    assert!(!server.failed && server.began <= server.ended);

    let tries = of_kind(&children, SpanKind::Client);
    assert_eq!(tries.len(), 2, "{children:#?}");
    for (n, (status, error, resend)) in [("503", "503", ""), ("200", "", "1")].into_iter().enumerate() {
        let (span, sent) = (tries[n], &backend.seen()[n]);
        assert_eq!(sent.headers["traceparent"], format!("00-{TRACE}-{}-01", span.id).as_str(), "try {n}");
        assert_eq!(sent.headers["tracestate"], "vendor=x");
        assert_eq!(span.get("http.response.status_code"), status);
        assert_eq!((span.get("error.type"), span.failed), (error, !error.is_empty()));
        assert_eq!(span.get("http.request.resend_count"), resend);
        assert_eq!((span.get("server.address"), span.get("server.port")), ("127.0.0.1", &*address));
        assert!(span.began >= server.began && span.ended <= server.ended, "{span:?} in {server:?}");
    }
    assert!(tries[0].ended <= tries[1].began);

    let calls = of_kind(&children, SpanKind::Internal);
    let phases: Vec<_> = calls.iter().map(|span| span.get("sluice.plugin.phase")).collect();
    assert_eq!(phases, ["request_headers", "response_headers", "log"]);
    for call in calls {
        assert_eq!(call.get("sluice.plugin.name"), format!("{NAMESPACE}/steps"));
        assert_eq!((call.get("sluice.plugin.outcome"), call.failed), ("continue", false));
    }
    assert_eq!(children.len(), 5, "and nothing else");

    let resource = collector.resource();
    assert_eq!(resource["service.name"], "sluice");
    assert!(["service.version", "service.instance.id", "host.name"].iter().all(|name| resource.contains_key(*name)));
    let line = traced.gateway.logged(|line| line["status"] == 200).await;
    assert_eq!(line["trace_id"], TRACE, "the log says where to look");
    let leaks = |body: &Bytes| body.windows(6).any(|window| window == b"s3cret");
    assert!(!collector.raw().iter().any(leaks), "no query, cookie or key is in a span");
}

#[tokio::test]
async fn a_trusted_parent_that_is_not_sampled_is_passed_on_and_a_stranger_decides_nothing() {
    let (collector, backend) = (Collector::start().await, Backend::echo("one").await);
    let objects = || [route_to("shop", &[HOST], "one"), service("one", &[backend.address])];
    let trusting = Traced::start(&to(&collector, 1.0), objects()).await;
    trusting.send("GET", "/unsampled", &traceparent("00")).await;
    assert_eq!(backend.seen()[0].headers["traceparent"], format!("00-{TRACE}-{PARENT}-00").as_str());
    trusting.send("GET", "/sampled", &traceparent("01")).await;
    let spans = collector.trace("the sampled one", |span| span.get("url.path") == "/sampled").await;
    assert_eq!(spans.len(), 2, "a server and a client span: {spans:#?}");
    assert_eq!(collector.spans().len(), 2, "of the other there is none");
    assert_eq!(trusting.spans("sent").await, 2.0);

    let strict = Traced::with("requestId: true", &to(&collector, 0.0), objects()).await;
    strict.send("GET", "/stranger", &traceparent("01")).await;
    let seen = backend.seen()[2].headers["traceparent"].to_str().unwrap().to_owned();
    assert!(!seen.contains(TRACE) && seen.ends_with("-00"), "{seen}");
    strict.gateway.stop().await;
    assert!(collector.spans().iter().all(|span| span.get("url.path") != "/stranger"));
}

#[tokio::test]
async fn without_a_parent_the_ratio_decides_and_the_backend_is_told() {
    let (collector, backend) = (Collector::start().await, Backend::echo("one").await);
    for (ratio, flags) in [(0.0, "00"), (1.0, "01")] {
        let objects = [route_to("shop", &[HOST], "one"), service("one", &[backend.address])];
        let traced = Traced::start(&to(&collector, ratio), objects).await;
        traced.send("GET", "/", "").await;
        let seen = backend.seen().last().unwrap().headers["traceparent"].to_str().unwrap().to_owned();
        assert!(seen.ends_with(&format!("-{flags}")), "{ratio}: {seen}");
        // What was sampled is sent before it ends, without the delay of a batch.
        assert!(traced.gateway.stop().await.success());
        let ids: Vec<_> = collector.spans().iter().map(|span| format!("00-{}-{}-01", span.trace, span.id)).collect();
        assert_eq!(ids.len(), if ratio == 1.0 { 2 } else { 0 }, "{ids:?}");
        assert_eq!(ids.contains(&seen), ratio == 1.0, "{seen}: {ids:?}");
    }
}

#[tokio::test]
async fn what_failed_says_so_and_whose_fault_it_was() {
    let collector = Collector::start().await;
    let closed = std::net::SocketAddr::from(([127, 0, 0, 1], ports::free()));
    let failing = Backend::with(Arc::new(|_| Box::pin(async { text(StatusCode::INTERNAL_SERVER_ERROR, "no") }))).await;
    let rule = |path: &str, name: &str| {
        format!("  - matches: [{{path: {{value: {path}}}}}]\n    backendRefs: [{{name: {name}, port: 80}}]\n")
    };
    let rules = rule("/away", "away") + &rule("/failing", "failing") + &rule("/empty", "empty");
    let objects = [
        http_route("shop", &[HOST], &rules),
        service("away", &[closed]),
        service("failing", &[failing.address]),
        service("empty", &[]),
    ];
    let traced = Traced::start(&to(&collector, 1.0), objects).await;
    // Path, method, status, the server span's error, and the error of each try.
    let cases: [(&str, &str, u16, &str, &[&str]); 5] = [
        ("/away", "GET", 502, "upstream_connect_failed", &["upstream_connect_failed"; 5]),
        ("/failing", "GET", 500, "500", &["500"]),
        ("/empty", "GET", 503, "no_endpoints", &[]),
        ("/unknown", "GET", 404, "", &[]),
        ("/refused", "TRACE", 405, "", &[]),
    ];
    for (path, method, status, error, tries) in cases {
        assert_eq!(traced.send(method, path, "").await.status, status, "{path}");
        let spans = collector.trace(path, |span| span.get("url.path") == path).await;
        let server = server(&spans);
        assert_eq!(server.get("http.response.status_code"), status.to_string());
        assert_eq!((server.get("error.type"), server.failed), (error, !error.is_empty()), "{path}");
        assert!(server.get("sluice.reason") != "upstream" || path == "/failing", "{server:?}");
        let errors: Vec<_> = of_kind(&spans, SpanKind::Client)
            .iter()
            .map(|span| {
                assert!(span.failed && span.parent == server.id, "{span:?}");
                span.get("error.type").to_owned()
            })
            .collect();
        assert_eq!(errors, tries, "{path}");
    }
}

#[tokio::test]
async fn a_method_that_nobody_knows_makes_no_names_of_its_own() {
    let collector = Collector::start().await;
    let traced = Traced::start(&to(&collector, 1.0), [redirect()]).await;
    traced.send("BREW", "/pot", "").await;
    let spans = collector.trace("the request", |span| span.get("url.path") == "/pot").await;
    let span = server(&spans);
    assert_eq!((&*span.name, span.get("http.request.method")), ("HTTP /", "_OTHER"));
    assert_eq!(span.get("http.request.method_original"), "BREW");
}

#[tokio::test]
async fn an_export_is_tried_again_given_up_or_taken_in_part_as_the_collector_says() {
    let collector = Collector::start().await;
    let traced = Traced::start(&to(&collector, 1.0), [redirect()]).await;
    collector.answer([
        Script::Refuse(StatusCode::SERVICE_UNAVAILABLE),
        Script::Refuse(StatusCode::TOO_MANY_REQUESTS),
        Script::TakeBut(1),
        Script::Refuse(StatusCode::BAD_REQUEST),
    ]);
    traced.send("GET", "/one", "").await;
    traced.until_spans("rejected", 1.0).await;
    let exports = collector.raw();
    assert_eq!(exports.len(), 3, "the same export until it was taken");
    assert!(exports.iter().all(|export| *export == exports[0]));
    traced.send("GET", "/two", "").await;
    traced.until_spans("failed", 1.0).await;
    assert_eq!(collector.raw().len(), 4, "once, as 400 will not become better");
    traced.send("GET", "/three", "").await;
    traced.until_spans("sent", 1.0).await;
    assert_eq!(traced.spans("dropped").await, 0.0);
}

#[tokio::test]
async fn while_the_collector_is_away_requests_go_on_and_what_does_not_fit_is_dropped_and_counted() {
    const CLIENTS: usize = 4;
    const EACH: usize = 1_500;
    let port = ports::free();
    let tracing = format!("otlp: {{endpoint: \"http://127.0.0.1:{port}\", timeout: 1s}}, ratio: 1.0");
    let traced = Traced::start(&tracing, [redirect()]).await;
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let clients = (0..CLIENTS).map(|_| async {
        let mut client = raw::Client::connect(traced.http).await.unwrap();
        for _ in 0..EACH {
            client.send(&request).await.unwrap();
            assert_eq!(client.response().await.unwrap().status, 302);
        }
    });
    futures::future::join_all(clients).await;
    let all = (CLIENTS * EACH) as f64;
    let dropped = traced.spans("dropped").await;
    assert!(dropped > 0.0, "more than the queue holds");
    assert_eq!(traced.spans("sent").await, 0.0);

    let collector = Collector::on_port(port).await;
    wait::until("all spans to be accounted for", || async {
        let kept = traced.spans("sent").await + traced.spans("failed").await;
        (kept + traced.spans("dropped").await == all).then_some(())
    })
    .await;
    let sent = traced.spans("sent").await;
    assert!(sent > 0.0, "what waited came");
    assert_eq!(collector.spans().len() as f64, sent);
    let said = |word: &str| traced.gateway.log().iter().filter(|line| line.contains(word)).count();
    wait::until("a word of it", || async { (said("exported again") == 1).then_some(()) }).await;
    assert_eq!(said("cannot be exported"), 1, "once, not for each export");
}

#[tokio::test]
async fn the_collectors_key_goes_to_the_collector_and_nowhere_else() {
    let collector = Collector::start().await;
    let tracing =
        format!("otlp: {{endpoint: \"{}\", headers: {{X-Api-Key: s3cret}}}}, ratio: 1.0", collector.endpoint());
    let traced = Traced::start(&tracing, [redirect()]).await;
    traced.send("GET", "/", "").await;
    collector.trace("the request", |span| span.get("url.path") == "/").await;
    assert_eq!(collector.seen()[0].headers["x-api-key"], "s3cret");
    let (_, config) = traced.gateway.admin_get("/config").await.unwrap();
    assert!(config.contains("x-api-key") && !config.contains("s3cret"), "{config}");
    assert!(traced.gateway.log().iter().all(|line| !line.contains("s3cret")));
}

#[tokio::test]
async fn traces_follow_the_configuration_without_a_restart() {
    let (collector, other) = (Collector::start().await, Collector::start().await);
    let traced = Traced::start(&to(&collector, 1.0), [redirect()]).await;
    traced.send("GET", "/first", "").await;
    collector.trace("the first", |span| span.get("url.path") == "/first").await;
    let config = objects::configured_gateway(traced.http, None, "requestId: true");
    let config = config + &format!("  tracing: {{{}}}\n", to(&other, 1.0));
    traced.folder.write("edge.yaml", join([objects::class(), config, redirect()]));
    wait::until("the other collector", || async {
        traced.send("GET", "/then", "").await;
        other.spans().iter().any(|span| span.get("url.path") == "/then").then_some(())
    })
    .await;
    assert!(collector.spans().iter().any(|span| span.get("url.path") == "/first"), "nothing of before is lost");
}

#[tokio::test]
async fn a_collector_behind_tls_is_sent_to_only_where_the_host_trusts_it() {
    let (authority, stranger) = (Authority::default(), Authority::new("another authority"));
    let collector = Collector::with_tls(&authority.leaf(&["localhost"])).await;
    let tracing = format!("otlp: {{endpoint: \"https://localhost:{}\"}}, ratio: 1.0", collector.address().port());
    let start = async |trusted: &Authority| {
        let (folder, http) = (Folder::new(), ports::free());
        let anchors = folder.state().join("anchors.pem");
        std::fs::write(&anchors, trusted.pem()).unwrap();
        let config = objects::configured_gateway(http, None, "via: true") + &format!("  tracing: {{{tracing}}}\n");
        folder.write("edge.yaml", join([objects::class(), config, redirect()]));
        let gateway = Options::new(&folder).environment("SSL_CERT_FILE", &anchors).start().await;
        assert_eq!(raw::get(http, HOST, "/").await.unwrap().status, 302);
        (gateway, folder)
    };
    let (gateway, _folder) = start(&stranger).await;
    wait::until("the certificate to be told", || async {
        gateway
            .log()
            .iter()
            .any(|line| line.contains("cannot be exported") && line.contains("UnknownIssuer"))
            .then_some(())
    })
    .await;
    assert!(collector.spans().is_empty());
    let (_gateway, _folder) = start(&authority).await;
    collector.trace("the request", |span| span.get("url.path") == "/").await;
}
