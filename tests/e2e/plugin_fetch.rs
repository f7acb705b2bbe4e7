//! Plugins that call backends (`capabilities.backends`), through the binary: which, how they are spoken to, and what comes of
//! one that can't be had.

use crate::shop::{HOST, Shop, seen_field};
use http::StatusCode;
use serde_json::Value;
use sluice_tests::backend::text;
use sluice_tests::certificate::Authority;
use sluice_tests::objects::{
    NAMESPACE, backend_policy, join, plugin, plugin_on_route, route_to, service, service_speaking,
};
use sluice_tests::raw::Response;
use sluice_tests::{Backend, guests, wait};
use std::sync::Arc;
use tokio::sync::Notify;

/// The Plugin `caller` with these backends, each a flow mapping, on the route to `one`.
fn caller(backends: &[&str], more: &str) -> String {
    let backends: String = backends.iter().map(|backend| format!("    - {backend}\n")).collect();
    let spec = format!("  limits: {{runTime: 20ms, deadline: 10s}}\n{more}  capabilities:\n    backends:\n{backends}");
    join([
        route_to("shop", &[HOST], "one"),
        plugin("caller", "caller.wasm", &spec),
        plugin_on_route("calls", "shop", "caller", "{}"),
    ])
}

async fn shop_with(objects: String) -> Shop {
    let shop = Shop::start(&["one"], "").await;
    shop.folder.write("caller.wasm", std::fs::read(guests::module("caller")).unwrap());
    shop.folder.write("more.yaml", objects);
    shop.until("the plugin", "/", |answer| answer.status == 200 && called(answer).is_some()).await;
    shop
}

fn called(answer: &Response) -> Option<String> {
    seen_field(answer, "x-called")
}

/// What the backend that was called saw.
fn asked(answer: &Response) -> Value {
    serde_json::from_str(&seen_field(answer, "x-body").unwrap()).unwrap()
}

fn field<'a>(asked: &'a Value, name: &str) -> Option<&'a str> {
    asked["headers"].as_array()?.iter().find(|pair| pair[0] == name)?[1].as_str()
}

const AUTH: &str = "{name: auth, ref: {name: auth, port: 80}}";

#[tokio::test]
async fn a_plugin_calls_a_service_by_the_name_that_its_plugin_object_gives_it() {
    let auth = Backend::echo("auth").await;
    let shop = shop_with(join([caller(&[AUTH], ""), service("auth", &[auth.address])])).await;
    let answer = shop.get_with("/", "x-call: POST auth /check?a=b\r\nx-send: hello\r\n").await;
    let asked = asked(&answer);
    assert_eq!((&asked["backend"], &asked["method"]), (&"auth".into(), &"POST".into()));
    assert_eq!((&asked["target"], &asked["body"]), (&"/check?a=b".into(), &"hello".into()));
    assert_eq!(field(&asked, "host"), Some(format!("auth.{NAMESPACE}.svc").as_str()));
    assert_eq!(field(&asked, "content-length"), Some("5"));
    assert_eq!(field(&asked, "x-call"), None, "nothing of the client's request goes along by itself");
    // Whatever else there is: only what is named.
    let answer = shop.get_with("/", "x-call: GET one /, GET other /\r\n").await;
    assert_eq!(called(&answer).as_deref(), Some("not-allowed, not-allowed"));
}

#[tokio::test]
async fn calls_use_connections_again() {
    let auth = Backend::echo("auth").await;
    let shop = shop_with(join([caller(&[AUTH], ""), service("auth", &[auth.address])])).await;
    for _ in 0..10 {
        let answer = shop.get_with("/", "x-call: GET auth /1, GET auth /2\r\n").await;
        assert!(called(&answer).unwrap().starts_with("200 "), "{answer:?}");
    }
    assert_eq!(auth.count(), 20);
    // A connection that is given back a moment late costs one more; twenty would be none used again.
    assert!(auth.connections() < 10, "{}", auth.connections());
}

#[tokio::test]
async fn a_backend_is_spoken_to_as_its_service_says() {
    let (plain, authority) = (Backend::echo("h2c").await, Authority::new("trusted"));
    let secure = Backend::echo_tls("secure", &authority.leaf(&["inner.example"]), &["h2", "http/1.1"]).await;
    let pem: String = authority.pem().lines().map(|line| format!("    {line}\n")).collect();
    let tls = format!(
        "\
apiVersion: v1
kind: ConfigMap
metadata: {{name: ca, namespace: {NAMESPACE}}}
data:
  ca.crt: |
{pem}---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {{name: secure, namespace: {NAMESPACE}}}
spec:
  targetRefs: [{{group: \"\", kind: Service, name: secure}}]
  validation: {{hostname: inner.example, caCertificateRefs: [{{group: \"\", kind: ConfigMap, name: ca}}]}}
"
    );
    let backends = ["{name: h2c, ref: {name: h2c, port: 80}}", "{name: secure, ref: {name: secure, port: 80}}"];
    let shop = shop_with(join([
        caller(&backends, ""),
        service_speaking("h2c", Some("kubernetes.io/h2c"), &[plain.address]),
        service("secure", &[secure.address]),
        tls,
    ]))
    .await;
    let asked_of = async |name: &str| asked(&shop.get_with("/", &format!("x-call: GET {name} /\r\n")).await);
    let h2c = asked_of("h2c").await;
    assert_eq!((&h2c["version"], &h2c["backend"]), (&"HTTP/2.0".into(), &"h2c".into()));
    let secure = asked_of("secure").await;
    assert_eq!(secure["backend"], "secure");
    let host = field(&secure, "host").map(str::to_owned).unwrap_or_else(|| secure["target"].to_string());
    assert!(host.contains("inner.example"), "the name of its certificate: {secure}");
}

#[tokio::test]
async fn a_backend_that_fails_is_the_plugins_to_judge() {
    let gone = sluice_tests::ports::free();
    let shop = shop_with(join([
        caller(&[AUTH, "{name: empty, ref: {name: empty, port: 80}}"], ""),
        service("auth", &[([127, 0, 0, 1], gone).into()]),
        service("empty", &[]),
    ]))
    .await;
    let answer = shop.get_with("/", "x-call: GET auth /, GET empty /\r\n").await;
    assert_eq!(called(&answer).as_deref(), Some("connect, no-endpoint"));
    let auth = Backend::on_port(gone, sluice_tests::backend::echo_as("auth")).await;
    // An endpoint that comes back is used; the plugin is the same.
    wait::until("the backend", || async {
        let answer = shop.get_with("/", "x-call: GET auth /\r\n").await;
        called(&answer)?.starts_with("200").then_some(())
    })
    .await;
    assert!(auth.count() >= 1);
}

/// Answers only once it is let go.
async fn waiting(let_go: &Arc<Notify>) -> Backend {
    let let_go = let_go.clone();
    Backend::with(Arc::new(move |_| {
        let let_go = let_go.clone();
        Box::pin(async move {
            let_go.notified().await;
            text(StatusCode::OK, "late")
        })
    }))
    .await
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_a_call_in_time_is_ejected() {
    let (never, works) = (Arc::new(Notify::new()), Backend::echo("works").await);
    let silent = waiting(&never).await;
    let shop = shop_with(join([
        caller(&[AUTH], ""),
        service("auth", &[silent.address, works.address]),
        backend_policy("auth", "outlierDetection: {consecutiveFailures: 2, baseEjection: 1h, maxEjection: 1h}"),
    ]))
    .await;
    let mut late = 0;
    for _ in 0..20 {
        match called(&shop.get_with("/", "x-call: GET auth /\r\nx-timeout: 200\r\n").await).as_deref() {
            Some("timeout") => late += 1,
            told => assert!(told.is_some_and(|told| told.starts_with("200 ")), "{told:?}"),
        }
    }
    assert_eq!(late, 2);
    assert_eq!(shop.gateway.metric("sluice_upstream_ejections_total", &[]).await, 1.0);
}

#[tokio::test]
async fn what_a_plugin_holds_of_answers_is_counted_for_as_long_as_it_holds_them() {
    let (let_go, auth) = (Arc::new(Notify::new()), Backend::echo("auth").await);
    let slow = waiting(&let_go).await;
    let backends = [AUTH, "{name: slow, ref: {name: slow, port: 80}}"];
    let objects = [caller(&backends, ""), service("auth", &[auth.address]), service("slow", &[slow.address])];
    let shop = shop_with(join(objects)).await;
    let held = async || shop.gateway.metric("sluice_held_body_bytes", &[]).await;
    assert_eq!(held().await, 0.0);
    let during = async {
        wait::until("the first answer", || async { (held().await > 0.0).then_some(()) }).await;
        let_go.notify_one();
    };
    let (answer, ()) = tokio::join!(shop.get_with("/", "x-call: GET auth /, GET slow /\r\n"), during);
    assert!(called(&answer).unwrap().contains(", 200 "), "{answer:?}");
    assert_eq!(held().await, 0.0);
}

#[tokio::test]
async fn a_reference_that_cannot_be_used_is_told_and_the_rest_goes_on() {
    let auth = Backend::echo("auth").await;
    let backends = [
        AUTH,
        AUTH,
        "{name: none, ref: {name: nobody, port: 80}}",
        "{name: port, ref: {name: auth, port: 81}}",
        "{name: foreign, ref: {name: auth, namespace: elsewhere, port: 80}}",
    ];
    let shop = shop_with(join([caller(&backends, ""), service("auth", &[auth.address])])).await;
    let answer = shop.get_with("/", "x-call: GET auth /, GET none /, GET port /, GET foreign /\r\n").await;
    let told = called(&answer).unwrap();
    assert!(told.starts_with("200 ") && told.ends_with("not-allowed, not-allowed, not-allowed"), "{told}");
    let (_, problems) = shop.gateway.admin_get("/problems").await.unwrap();
    for expected in [
        "spec.capabilities.backends[1].name: there are two backends of the name `auth`",
        "spec.capabilities.backends[2].ref: there is no Service default/nobody",
        "spec.capabilities.backends[3].ref: Service default/auth has no TCP port 81",
        "spec.capabilities.backends[4].ref: no ReferenceGrant in `elsewhere` permits a Plugin to refer to Service elsewhere/auth",
    ] {
        let text: String = problems.replace("\\\"", "\"");
        let (field, message) = expected.split_once(": ").unwrap();
        assert!(text.contains(field) && text.contains(message), "{expected}\n{text}");
    }
}

#[tokio::test]
async fn new_endpoints_and_backends_reach_a_plugin_that_is_not_compiled_again() {
    let (first, second) = (Backend::echo("first").await, Backend::echo("second").await);
    let shop = shop_with(join([caller(&[AUTH], ""), service("auth", &[first.address])])).await;
    let built = async || shop.gateway.metric("sluice_plugin_builds_total", &[]).await;
    let before = built().await;
    let call = async || {
        let answer = shop.get_with("/", "x-call: GET auth /, GET more /\r\n").await;
        (asked_backend(&answer), called(&answer).unwrap())
    };
    assert_eq!(call().await.0.as_deref(), Some("first"));
    shop.folder.write(
        "more.yaml",
        join([
            caller(&[AUTH, "{name: more, ref: {name: more, port: 80}}"], ""),
            service("auth", &[second.address]),
            service("more", &[first.address]),
        ]),
    );
    wait::until("both", || async {
        let (backend, told) = call().await;
        (backend.as_deref() == Some("second") && told.split(", ").all(|told| told.starts_with("200"))).then_some(())
    })
    .await;
    assert_eq!(built().await, before);
}

fn asked_backend(answer: &Response) -> Option<String> {
    let seen = seen_field(answer, "x-body")?;
    serde_json::from_str::<Value>(&seen).ok()?["backend"].as_str().map(str::to_owned)
}
