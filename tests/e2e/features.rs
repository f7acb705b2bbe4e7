//! One feature of the Gateway API a test, by the name that the API gives it (docs/gateway-api.md has the table): what
//! distinguishes it, in file mode. How features go together is in the other files.

use crate::services::{backend_tls, config_map};
use crate::shop::{HOST, Shop, backend_of, seen_field};
use http::StatusCode;
use sluice_tests::certificate::Authority;
use sluice_tests::objects::{class, http_route, join, route_to, service};
use sluice_tests::raw::{self, Response};
use sluice_tests::{Backend, Folder, Gateway, ports, wait};
use std::net::SocketAddr;
use std::sync::Arc;

const TO_ONE: &str = "backendRefs: [{name: one, port: 80}]";

/// What a rule with this RequestRedirect answers for `/a/b?q=1`, and its Location.
async fn redirected(redirect: &str) -> (u16, String, u16) {
    let rules = format!(
        "  - matches: [{{path: {{value: /a}}}}]\n    filters: [{{type: RequestRedirect, requestRedirect: {{{redirect}}}}}]\n"
    );
    let shop = Shop::with_rules(&[], &rules).await;
    let answer = shop.get("/a/b?q=1").await;
    (answer.status, answer.header("location").unwrap_or_default(), shop.http)
}

#[tokio::test]
async fn http_route_303_redirect_status_code() {
    let (status, location, port) = redirected("hostname: new.example, statusCode: 303").await;
    assert_eq!((status, location), (303, format!("http://new.example:{port}/a/b?q=1")));
}

#[tokio::test]
async fn http_route_307_redirect_status_code() {
    let (status, location, port) = redirected("hostname: new.example, statusCode: 307").await;
    assert_eq!((status, location), (307, format!("http://new.example:{port}/a/b?q=1")));
}

#[tokio::test]
async fn http_route_308_redirect_status_code() {
    let (status, location, port) = redirected("hostname: new.example, statusCode: 308").await;
    assert_eq!((status, location), (308, format!("http://new.example:{port}/a/b?q=1")));
}

#[tokio::test]
async fn http_route_path_redirect() {
    let (status, location, port) = redirected("path: {type: ReplaceFullPath, replaceFullPath: /else}").await;
    assert_eq!((status, location), (302, format!("http://{HOST}:{port}/else?q=1")));
    let (status, location, port) = redirected("path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}").await;
    assert_eq!((status, location), (302, format!("http://{HOST}:{port}/new/b?q=1")));
}

#[tokio::test]
async fn http_route_port_redirect() {
    let (status, location, _) = redirected("port: 8083").await;
    assert_eq!((status, location), (302, format!("http://{HOST}:8083/a/b?q=1")));
    // The port that goes without saying is not said.
    let (_, location, _) = redirected("port: 80").await;
    assert_eq!(location, format!("http://{HOST}/a/b?q=1"));
}

#[tokio::test]
async fn http_route_scheme_redirect() {
    let (status, location, _) = redirected("scheme: https").await;
    assert_eq!((status, location), (302, format!("https://{HOST}/a/b?q=1")));
}

/// What the backend sees of a request for `/a/b?q=1` through a rule with this URLRewrite.
async fn rewritten(rewrite: &str) -> Response {
    let rules = format!(
        "  - matches: [{{path: {{value: /a}}}}]\n    filters: [{{type: URLRewrite, urlRewrite: {{{rewrite}}}}}]\n    {TO_ONE}\n"
    );
    Shop::with_rules(&["one"], &rules).await.get("/a/b?q=1").await
}

#[tokio::test]
async fn http_route_host_rewrite() {
    let answer = rewritten("hostname: inner.example").await;
    assert_eq!(seen_field(&answer, "host").as_deref(), Some("inner.example"));
    assert_eq!(answer.json()["target"], "/a/b?q=1");
}

#[tokio::test]
async fn http_route_path_rewrite() {
    let answer = rewritten("path: {type: ReplaceFullPath, replaceFullPath: /else}").await;
    assert_eq!(answer.json()["target"], "/else?q=1");
    let answer = rewritten("path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}").await;
    assert_eq!(answer.json()["target"], "/new/b?q=1");
}

#[tokio::test]
async fn http_route_method_matching() {
    let rules = "  - {matches: [{method: GET}], backendRefs: [{name: one, port: 80}]}\n  - {matches: [{method: DELETE}], backendRefs: [{name: two, port: 80}]}\n";
    let shop = Shop::with_rules(&["one", "two"], rules).await;
    assert_eq!(backend_of(&shop.send("GET", "/", HOST, "").await), "one");
    assert_eq!(backend_of(&shop.send("DELETE", "/", HOST, "").await), "two");
    assert_eq!(shop.send("PATCH", "/", HOST, "Content-Length: 0\r\n").await.status, 404);
}

#[tokio::test]
async fn http_route_query_param_matching() {
    let rules = "  - {matches: [{queryParams: [{name: animal, value: whale}]}], backendRefs: [{name: one, port: 80}]}\n  - {matches: [{queryParams: [{name: animal, type: RegularExpression, value: 'do.*'}]}], backendRefs: [{name: two, port: 80}]}\n";
    let shop = Shop::with_rules(&["one", "two"], rules).await;
    assert_eq!(backend_of(&shop.get("/?animal=whale").await), "one");
    assert_eq!(backend_of(&shop.get("/?other=1&animal=dolphin").await), "two");
    // Of several the first one counts; names and values are case-sensitive.
    assert_eq!(backend_of(&shop.get("/?animal=whale&animal=dog").await), "one");
    for other in ["/", "/?animal=cat", "/?Animal=whale", "/?animal=Whale"] {
        assert_eq!(shop.get(other).await.status, 404, "{other}");
    }
}

#[tokio::test]
async fn http_route_backend_request_header_modification() {
    let edit = "set: [{name: x-team, value: one}], add: [{name: x-more, value: b}], remove: [x-gone]";
    let rules = format!(
        "  - backendRefs:\n    - {{name: one, port: 80, weight: 1, filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{{edit}}}}}]}}\n    - {{name: two, port: 80, weight: 1}}\n"
    );
    let shop = Shop::with_rules(&["one", "two"], &rules).await;
    let mut seen = std::collections::BTreeMap::new();
    // Each answers with a chance of one half.
    for _ in 0..60 {
        let answer = shop.get_with("/", "x-more: a\r\nx-gone: 1\r\n").await;
        let fields = ["x-team", "x-more", "x-gone"].map(|name| seen_field(&answer, name).unwrap_or_default());
        seen.insert(backend_of(&answer), fields.join("|"));
    }
    assert_eq!((seen["one"].as_str(), seen["two"].as_str()), ("one|a, b|", "|a|1"));
}

#[tokio::test]
async fn http_route_response_header_modification() {
    let edit = "set: [{name: x-backend, value: hidden}], add: [{name: x-more, value: a}], remove: [content-type]";
    let rules =
        format!("  - filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{{edit}}}}}]\n    {TO_ONE}\n");
    let shop = Shop::with_rules(&["one"], &rules).await;
    let answer = shop.get("/").await;
    let of = |name: &str| answer.header(name);
    assert_eq!(of("x-backend").as_deref(), Some("hidden"));
    assert_eq!((of("x-more").as_deref(), of("content-type")), (Some("a"), None));
}

#[tokio::test]
async fn http_route_request_mirror() {
    let rules = format!(
        "  - filters: [{{type: RequestMirror, requestMirror: {{backendRef: {{name: copy, port: 80}}}}}}]\n    {TO_ONE}\n"
    );
    let shop = Shop::with_rules(&["one", "copy"], &rules).await;
    assert_eq!(backend_of(&shop.get("/a").await), "one");
    wait::until("the copy", || async { (shop.backend("copy").count() == 1).then_some(()) }).await;
    assert_eq!(shop.backend("one").count(), 1);
}

#[tokio::test]
async fn http_route_request_multiple_mirrors() {
    let mirror = |to: &str| format!("{{type: RequestMirror, requestMirror: {{backendRef: {{name: {to}, port: 80}}}}}}");
    let rules = format!("  - filters: [{}, {}]\n    {TO_ONE}\n", mirror("copy"), mirror("second"));
    let shop = Shop::with_rules(&["one", "copy", "second"], &rules).await;
    assert_eq!(backend_of(&shop.get("/a").await), "one");
    for copy in ["copy", "second"] {
        wait::until("the copies", || async { (shop.backend(copy).count() == 1).then_some(()) }).await;
    }
}

#[tokio::test]
async fn http_route_request_percentage_mirror() {
    let mirror = |to: &str, part: &str| {
        format!("{{type: RequestMirror, requestMirror: {{backendRef: {{name: {to}, port: 80}}, {part}}}}}")
    };
    let rules = format!(
        "  - filters: [{}, {}, {}]\n    {TO_ONE}\n",
        mirror("quarter", "percent: 25"),
        mirror("half", "fraction: {numerator: 1, denominator: 2}"),
        mirror("all", "percent: 100"),
    );
    let shop = Shop::with_rules(&["one", "quarter", "half", "all"], &rules).await;
    for _ in 0..400 {
        assert_eq!(backend_of(&shop.get("/").await), "one");
    }
    wait::until("the copies", || async { (shop.backend("all").count() == 400).then_some(()) }).await;
    // Six standard deviations of a fair draw: 8.7 and 10.
    for (name, share, most) in [("quarter", 100, 52), ("half", 200, 60)] {
        let count = shop.backend(name).count();
        assert!(count.abs_diff(share) < most, "{name}: {count} of 400");
    }
}

/// A Gateway with HTTP listeners of these names, and the port of each.
fn gateway(listeners: &[(&str, u16)], more: &str) -> String {
    let list: Vec<_> =
        listeners.iter().map(|(name, port)| format!("{{name: {name}, port: {port}, protocol: HTTP}}")).collect();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge, namespace: default}}\nspec:\n  gatewayClassName: sluice\n{more}  listeners: [{}]\n",
        list.join(", ")
    )
}

async fn status(port: u16) -> u16 {
    raw::get(port, HOST, "/").await.unwrap().status
}

#[tokio::test]
async fn http_route_parent_ref_port() {
    let backend = Backend::echo("one").await;
    let (a, b, folder) = (ports::free(), ports::free(), Folder::new());
    let route = route_to("r", &[], "one").replace("{name: edge}", &format!("{{name: edge, port: {b}}}"));
    folder.write(
        "all.yaml",
        join([class(), gateway(&[("a", a), ("b", b)], ""), route, service("one", &[backend.address])]),
    );
    let _gateway = Gateway::start(&folder).await;
    assert_eq!((status(a).await, status(b).await), (404, 200));
}

/// A section and a port: a listener has to be both.
#[tokio::test]
async fn http_route_destination_port_matching() {
    let backend = Backend::echo("one").await;
    let (a, b, folder) = (ports::free(), ports::free(), Folder::new());
    let to = |name: &str, section: &str, port: u16| {
        http_route(name, &[], &format!("  - {{{TO_ONE}}}\n"))
            .replace("{name: edge}", &format!("{{name: edge, sectionName: {section}, port: {port}}}"))
    };
    let all =
        |route: String| join([class(), gateway(&[("a", a), ("b", b)], ""), route, service("one", &[backend.address])]);
    folder.write("all.yaml", all(to("r", "a", b)));
    let _gateway = Gateway::start(&folder).await;
    assert_eq!((status(a).await, status(b).await), (404, 404));
    folder.write("all.yaml", all(to("r", "a", a)));
    wait::until("the listener that is both", || async { (status(a).await == 200).then_some(()) }).await;
    assert_eq!(status(b).await, 404);
}

#[tokio::test]
async fn gateway_static_addresses() {
    let backend = Backend::echo("one").await;
    let (port, folder) = (ports::free(), Folder::new());
    let addresses = "  addresses: [{type: IPAddress, value: 127.0.80.83}, {type: IPAddress, value: 127.0.80.84}]\n";
    folder.write(
        "all.yaml",
        join([
            class(),
            gateway(&[("http", port)], addresses),
            route_to("r", &[], "one"),
            service("one", &[backend.address]),
        ]),
    );
    let _gateway = Gateway::start(&folder).await;
    let at = |host: &str| -> SocketAddr { format!("{host}:{port}").parse().unwrap() };
    for host in ["127.0.80.83", "127.0.80.84"] {
        assert_eq!(raw::get(at(host), HOST, "/").await.unwrap().status, 200, "{host}");
    }
    assert!(raw::get(at("127.0.0.1"), HOST, "/").await.is_err());
}

/// The status and the log's reason where the backend never answers, under these timeouts.
async fn without_an_answer(timeouts: &str) -> (u16, String) {
    let never = Backend::with(Arc::new(|_| Box::pin(std::future::pending()))).await;
    let rules = format!("  - timeouts: {{{timeouts}}}\n    backendRefs: [{{name: never, port: 80}}]\n");
    let objects = join([http_route("shop", &[HOST], &rules), service("never", &[never.address])]);
    let shop = Shop::start(&[], &objects).await;
    let status = shop.get("/").await.status;
    let line = shop.gateway.logged(|line| line["path"] == "/").await;
    (status, line["reason"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn http_route_request_timeout() {
    assert_eq!(without_an_answer("request: 200ms").await, (504, "request_timeout".to_owned()));
}

#[tokio::test]
async fn http_route_backend_timeout() {
    let answered = without_an_answer("request: 60s, backendRequest: 200ms").await;
    assert_eq!(answered, (504, "upstream_timeout".to_owned()));
}

#[tokio::test]
async fn http_route_named_route_rule() {
    let rules = format!(
        "  - {{name: named, matches: [{{path: {{value: /a}}}}], {TO_ONE}}}\n  - {{matches: [{{path: {{value: /b}}}}], {TO_ONE}}}\n"
    );
    let shop = Shop::with_rules(&["one"], &rules).await;
    for (path, rule) in [("/a", "named"), ("/b", "1")] {
        assert_eq!(backend_of(&shop.get(path).await), "one");
        let line = shop.gateway.logged(|line| line["path"] == path).await;
        assert_eq!((&line["route"], &line["rule"]), (&"HTTPRoute default/shop".into(), &rule.into()), "{line}");
    }
}

/// With names of its own a policy asks for one of these, and not for the hostname.
#[tokio::test]
async fn backend_tls_policy_san_validation() {
    let authority = Authority::new("trusted");
    let backend = Backend::echo_tls("secure", &authority.leaf(&["inner.example"]), &["http/1.1"]).await;
    let named = |name: &str, sans: &str| {
        join([
            route_to(name, &[&format!("{name}.example")], name),
            service(name, &[backend.address]),
            backend_tls(name, "outer.example", "ca", &format!(", subjectAltNames: [{sans}]")),
        ])
    };
    let shop = Shop::start(
        &[],
        &join([
            config_map("ca", &authority),
            named("has", "{type: Hostname, hostname: other.example}, {type: Hostname, hostname: inner.example}"),
            named("lacks", "{type: Hostname, hostname: other.example}"),
            named("uri", "{type: URI, uri: \"spiffe://example/inner\"}"),
        ]),
    )
    .await;
    for (host, status) in [
        ("has.example", StatusCode::OK),
        ("lacks.example", StatusCode::BAD_GATEWAY),
        ("uri.example", StatusCode::BAD_GATEWAY),
    ] {
        assert_eq!(shop.send("GET", "/", host, "").await.status, status.as_u16(), "{host}");
    }
}
