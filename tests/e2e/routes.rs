//! HTTPRoute: matches in the API's precedence, and every filter.

use crate::shop::{HOST, Shop, backend_of, seen_field};
use sluice_tests::objects::{http_route, join, service};
use sluice_tests::wait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn matches_are_tried_in_the_apis_order_of_precedence() {
    let rule = |name: &str, matches: &str| {
        format!("  - matches: [{matches}]\n    backendRefs: [{{name: {name}, port: 80}}]\n")
    };
    let shop = Shop::with_rules(
        &["prefix", "longer", "exact", "method", "header", "pattern", "query", "regex"],
        &[
            rule("prefix", "{path: {type: PathPrefix, value: /a}}"),
            rule("longer", "{path: {type: PathPrefix, value: /a/b}}"),
            rule("exact", "{path: {type: Exact, value: /a/b/c}}"),
            rule("method", "{path: {type: PathPrefix, value: /a}, method: POST}"),
            rule("header", "{path: {type: PathPrefix, value: /a}, headers: [{name: X-Version, value: two}]}"),
            rule(
                "pattern",
                "{path: {type: PathPrefix, value: /a}, headers: [{name: X-Version, type: RegularExpression, value: \"v[0-9]+\"}]}",
            ),
            rule("query", "{path: {type: PathPrefix, value: /a}, queryParams: [{name: version, value: \"2\"}]}"),
            rule("regex", "{path: {type: RegularExpression, value: \"/r/[0-9]+\"}}"),
        ]
        .concat(),
    )
    .await;
    for (method, path, lines, expected) in [
        ("GET", "/a", "", "prefix"),
        ("GET", "/a/x", "", "prefix"),
        ("GET", "/a/b", "", "longer"),
        ("GET", "/a/b/", "", "longer"),
        ("GET", "/a/bc", "", "prefix"),
        ("GET", "/a/b/c", "", "exact"),
        // A longer path wins over a method, a method over headers, headers over query parameters.
        ("POST", "/a/b/c", "", "exact"),
        ("POST", "/a/b", "", "longer"),
        ("POST", "/a?version=2", "X-Version: two\r\n", "method"),
        ("GET", "/a?version=2", "X-Version: two\r\n", "header"),
        // The whole value has to match.
        ("GET", "/a", "X-Version: v12\r\n", "pattern"),
        ("GET", "/a", "X-Version: v12b\r\n", "prefix"),
        ("GET", "/a?version=2", "", "query"),
        ("GET", "/a?version=3", "", "prefix"),
        ("GET", "/r/12", "", "regex"),
    ] {
        let answer = shop.send(method, path, HOST, lines).await;
        assert_eq!(backend_of(&answer), expected, "{method} {path} {lines:?}");
    }
    assert_eq!(shop.get("/ab").await.status, 404);
    assert_eq!(shop.get("/r/x").await.status, 404);
    assert_eq!(shop.send("GET", "/a", "other.example", "").await.status, 404);
}

#[tokio::test]
async fn the_most_specific_hostname_wins_and_what_it_lacks_falls_through_to_the_wildcard() {
    let to = |route: &str, host: &str, path: &str, name: &str| {
        http_route(
            route,
            &[host],
            &format!("  - matches: [{{path: {{value: {path}}}}}]\n    backendRefs: [{{name: {name}, port: 80}}]\n"),
        )
    };
    let shop = Shop::start(
        &["exact", "wild", "wilder"],
        &join([
            to("exact", "a.b.example", "/only", "exact"),
            to("wild", "*.b.example", "/", "wild"),
            to("wilder", "*.example", "/", "wilder"),
        ]),
    )
    .await;
    for (host, path, expected) in [
        ("a.b.example", "/only", "exact"),
        ("a.b.example", "/else", "wild"),
        ("x.b.example", "/only", "wild"),
        ("x.y.b.example", "/", "wild"),
        ("b.example", "/", "wilder"),
    ] {
        assert_eq!(backend_of(&shop.send("GET", path, host, "").await), expected, "{host}{path}");
    }
}

#[tokio::test]
async fn weights_split_requests() {
    let shop = Shop::with_rules(
        &["heavy", "light", "none"],
        "  - backendRefs: [{name: heavy, port: 80, weight: 9}, {name: light, port: 80, weight: 1}, {name: none, port: 80, weight: 0}]\n",
    )
    .await;
    for _ in 0..400 {
        assert_eq!(shop.get("/").await.status, 200);
    }
    // Expected 40 of 400; the bounds are six standard deviations (6) away.
    let light = shop.backend("light").count();
    assert!((4..=76).contains(&light), "{light} of 400 for a tenth");
    assert_eq!(shop.backend("none").count(), 0);
}

#[tokio::test]
async fn a_missing_backend_takes_its_weights_share_as_errors() {
    let shop = Shop::with_rules(
        &["there"],
        "  - backendRefs: [{name: there, port: 80, weight: 1}, {name: missing, port: 80, weight: 1}]\n",
    )
    .await;
    let mut statuses = std::collections::BTreeMap::new();
    for _ in 0..200 {
        *statuses.entry(shop.get("/").await.status).or_insert(0) += 1;
    }
    assert_eq!(statuses.keys().copied().collect::<Vec<_>>(), [200, 500], "{statuses:?}");
    assert!(statuses[&500] > 50 && statuses[&200] > 50, "{statuses:?}");
}

#[tokio::test]
async fn header_modifiers_act_on_rule_and_backend_and_on_both_directions() {
    let modify = |kind: &str, field: &str, content: &str| format!("{{type: {kind}, {field}: {{{content}}}}}");
    let rules = format!(
        "  - filters:\n    - {}\n    - {}\n    backendRefs:\n    - name: one\n      port: 80\n      filters:\n      - {}\n      - {}\n",
        modify(
            "RequestHeaderModifier",
            "requestHeaderModifier",
            "set: [{name: X-Set, value: new}], add: [{name: X-Add, value: more}], remove: [X-Gone]"
        ),
        modify("ResponseHeaderModifier", "responseHeaderModifier", "set: [{name: X-Answer, value: rule}]"),
        modify("RequestHeaderModifier", "requestHeaderModifier", "set: [{name: X-Backend, value: one}]"),
        modify("ResponseHeaderModifier", "responseHeaderModifier", "add: [{name: X-Answer, value: backend}]"),
    );
    let shop = Shop::with_rules(&["one"], &rules).await;
    let answer = shop.get_with("/", "X-Set: old\r\nX-Add: first\r\nX-Gone: 1\r\n").await;
    assert_eq!(seen_field(&answer, "x-set").as_deref(), Some("new"));
    assert_eq!(seen_field(&answer, "x-add").as_deref(), Some("first, more"));
    assert_eq!(seen_field(&answer, "x-gone"), None);
    assert_eq!(seen_field(&answer, "x-backend").as_deref(), Some("one"));
    let answered: Vec<_> = answer.headers.iter().filter(|(n, _)| n == "x-answer").map(|(_, v)| v.as_slice()).collect();
    assert_eq!(answered, [&b"rule"[..], b"backend"]);
}

#[tokio::test]
async fn redirects_change_just_what_they_name() {
    let rule = |path: &str, redirect: &str| {
        format!(
            "  - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]\n    filters: [{{type: RequestRedirect, requestRedirect: {{{redirect}}}}}]\n"
        )
    };
    let shop = Shop::with_rules(
        &[],
        &[
            rule("/host", "hostname: new.example, statusCode: 301"),
            rule("/scheme", "scheme: https"),
            rule("/port", "port: 8080"),
            rule("/full", "path: {type: ReplaceFullPath, replaceFullPath: /else}"),
            rule("/prefix", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}, statusCode: 308"),
            rule("/see", "hostname: new.example, statusCode: 303"),
            rule("/keep", "hostname: new.example, statusCode: 307"),
        ]
        .concat(),
    )
    .await;
    let port = shop.http;
    for (path, status, location) in [
        ("/host/x?q=1", 301, format!("http://new.example:{port}/host/x?q=1")),
        ("/scheme", 302, format!("https://{HOST}/scheme")),
        ("/port", 302, format!("http://{HOST}:8080/port")),
        ("/full/x?q=1", 302, format!("http://{HOST}:{port}/else?q=1")),
        ("/prefix/x", 308, format!("http://{HOST}:{port}/new/x")),
        ("/prefix", 308, format!("http://{HOST}:{port}/new")),
        ("/see", 303, format!("http://new.example:{port}/see")),
        ("/keep", 307, format!("http://new.example:{port}/keep")),
    ] {
        let answer = shop.get(path).await;
        assert_eq!((answer.status, answer.header("location")), (status, Some(location)), "{path}");
    }
}

#[tokio::test]
async fn rewrites_change_host_and_path_for_the_backend_alone() {
    let rule = |path: &str, rewrite: &str| {
        format!(
            "  - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]\n    filters: [{{type: URLRewrite, urlRewrite: {{{rewrite}}}}}]\n    backendRefs: [{{name: one, port: 80}}]\n"
        )
    };
    let shop = Shop::with_rules(
        &["one"],
        &[
            rule("/host", "hostname: inner.example"),
            rule("/full", "path: {type: ReplaceFullPath, replaceFullPath: /all}"),
            rule("/strip", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /}"),
            rule("/swap", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /other}"),
        ]
        .concat(),
    )
    .await;
    assert_eq!(seen_field(&shop.get("/host").await, "host").as_deref(), Some("inner.example"));
    for (path, target) in [
        ("/full/x?q=1", "/all?q=1"),
        ("/strip/x", "/x"),
        ("/strip", "/"),
        ("/swap/x%2Fy?q=%2F", "/other/x%2Fy?q=%2F"),
        ("/swap", "/other"),
    ] {
        assert_eq!(shop.get(path).await.json()["target"], target, "{path}");
    }
}

#[tokio::test]
async fn mirrors_get_a_copy_and_their_answers_go_nowhere() {
    let shop = Shop::with_rules(
        &["main", "copy", "second", "never"],
        "  - filters:\n    - {type: RequestMirror, requestMirror: {backendRef: {name: copy, port: 80}}}\n    - {type: RequestMirror, requestMirror: {backendRef: {name: second, port: 80}, percent: 100}}\n    - {type: RequestMirror, requestMirror: {backendRef: {name: never, port: 80}, percent: 0}}\n    backendRefs: [{name: main, port: 80}]\n",
    )
    .await;
    for n in 0..10 {
        assert_eq!(backend_of(&shop.get(&format!("/{n}")).await), "main");
    }
    for name in ["copy", "second"] {
        wait::until("the copies", || async { (shop.backend(name).count() == 10).then_some(()) }).await;
    }
    assert_eq!((shop.backend("main").count(), shop.backend("never").count()), (10, 0));
    shop.gateway.logged(|l| l["path"] == "/9").await;
    assert_eq!(shop.gateway.access_log().len(), 10, "a mirrored request is no request of its own");
}

#[tokio::test]
async fn a_mirror_that_is_gone_costs_the_request_nothing() {
    let shop = Shop::with_rules(
        &["main", "copy"],
        "  - filters: [{type: RequestMirror, requestMirror: {backendRef: {name: copy, port: 80}}}]\n    backendRefs: [{name: main, port: 80}]\n",
    )
    .await;
    let mut shop = shop;
    shop.backends.remove("copy").unwrap().stop().await;
    for _ in 0..20 {
        assert_eq!(backend_of(&shop.get("/").await), "main");
    }
}

#[tokio::test]
async fn cors_is_answered_by_the_rule() {
    let shop = Shop::with_rules(
        &["one"],
        "  - filters:\n    - type: CORS\n      cors: {allowOrigins: [\"https://app.example\"], allowMethods: [GET, PUT], allowHeaders: [X-Token], allowCredentials: true, maxAge: 60}\n    backendRefs: [{name: one, port: 80}]\n",
    )
    .await;
    let preflight = "Origin: https://app.example\r\nAccess-Control-Request-Method: PUT\r\n";
    let answer = shop.send("OPTIONS", "/", HOST, preflight).await;
    assert!(matches!(answer.status, 200 | 204), "{answer:?}");
    assert_eq!(answer.header("access-control-allow-origin").as_deref(), Some("https://app.example"));
    assert_eq!(answer.header("access-control-allow-credentials").as_deref(), Some("true"));
    assert!(answer.header("access-control-allow-methods").unwrap().contains("PUT"));
    assert_eq!(answer.header("access-control-max-age").as_deref(), Some("60"));
    assert_eq!(shop.backend("one").count(), 0, "a preflight is answered at the edge");

    let answer = shop.get_with("/", "Origin: https://app.example\r\n").await;
    assert_eq!(answer.header("access-control-allow-origin").as_deref(), Some("https://app.example"));
    let answer = shop.get_with("/", "Origin: https://evil.example\r\n").await;
    assert_eq!(answer.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn a_preflight_goes_to_the_rule_of_the_method_that_it_asks_about() {
    let cors =
        |origin: &str| format!("  - type: CORS\n      cors: {{allowOrigins: [\"{origin}\"], allowMethods: [PUT]}}\n");
    let rules = format!(
        "  - matches: [{{method: PUT}}]\n    filters:\n  {}    backendRefs: [{{name: one, port: 80}}]\n  - matches: [{{method: GET}}]\n    backendRefs: [{{name: one, port: 80}}]\n",
        cors("https://app.example")
    );
    let shop = Shop::with_rules(&["one"], &rules).await;
    let asking = |method| format!("Origin: https://app.example\r\nAccess-Control-Request-Method: {method}\r\n");
    let answer = shop.send("OPTIONS", "/", HOST, &asking("PUT")).await;
    assert_eq!(answer.header("access-control-allow-origin").as_deref(), Some("https://app.example"), "{answer:?}");
    // No rule with CORS has it, and none is for OPTIONS.
    assert_eq!(shop.send("OPTIONS", "/", HOST, &asking("GET")).await.status, 404);
    assert_eq!(shop.send("OPTIONS", "/", HOST, "").await.status, 404);
}

#[tokio::test]
async fn a_backends_prefix_rewrite_replaces_what_the_rules_has_put_there() {
    let rewrite = |to: &str| {
        format!("[{{type: URLRewrite, urlRewrite: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: {to}}}}}}}]")
    };
    let rules = format!(
        "  - matches: [{{path: {{value: /a}}}}]\n    filters: {}\n    backendRefs: [{{name: one, port: 80, filters: {}}}]\n",
        rewrite("/longer/"),
        rewrite("/c")
    );
    let shop = Shop::with_rules(&["one"], &rules).await;
    let answer = shop.get("/a/x?q=1").await;
    assert_eq!(answer.json()["target"], "/c/x?q=1", "{answer:?}");
}

#[tokio::test]
async fn a_policy_that_a_rule_names_by_extension_ref_acts_on_that_rule_alone() {
    let rules = "  - matches: [{path: {value: /inside}}]\n    filters: [{type: ExtensionRef, extensionRef: {group: sluice.dev, kind: TrafficPolicy, name: inside}}]\n    backendRefs: [{name: one, port: 80}]\n  - backendRefs: [{name: one, port: 80}]\n";
    let policy = "apiVersion: sluice.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: inside, namespace: default}\nspec: {client: {ipAllow: [192.0.2.0/24]}}\n";
    let shop = Shop::start(&["one"], &join([http_route("shop", &[HOST], rules), policy.to_owned()])).await;
    assert_eq!((shop.get("/inside").await.status, shop.backend("one").count()), (403, 0));
    assert_eq!(backend_of(&shop.get("/").await), "one");
}

#[tokio::test]
async fn retries_go_by_the_rules_codes() {
    use sluice_tests::Backend;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    let tries = Arc::new(AtomicUsize::new(0));
    let counter = tries.clone();
    let flaky = Backend::with(Arc::new(move |_| {
        let status = if counter.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) { 503 } else { 200 };
        Box::pin(async move { sluice_tests::backend::text(status.try_into().unwrap(), "done") })
    }))
    .await;
    let shop = Shop::start(
        &[],
        &join([
            http_route(
                "flaky",
                &[HOST],
                "  - retry: {codes: [503], attempts: 2, backoff: 10ms}\n    backendRefs: [{name: flaky, port: 80}]\n",
            ),
            service("flaky", &[flaky.address]),
        ]),
    )
    .await;
    for n in 1..=5 {
        assert_eq!(shop.get("/").await.status, 200, "request {n}");
    }
    assert_eq!(tries.load(Ordering::Relaxed), 10);
    let line = shop.gateway.logged(|l| l["retries"] == 1).await;
    assert_eq!(line["status"], 200);
}

/// A backend that is slow (`after`), or says nothing at all, the first times it is asked.
async fn recovering(
    failures: usize,
    after: Option<std::time::Duration>,
) -> (std::net::SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = async move {
        let mut asked = 0;
        while let Ok((mut stream, _)) = listener.accept().await {
            asked += 1;
            let _ = stream.read(&mut [0]).await;
            match after {
                // Closed while most of the request is unread: a reset.
                None if asked <= failures => {}
                Some(after) if asked <= failures => tokio::time::sleep(after).await,
                _ => {
                    let _ = stream.read(&mut [0; 4096]).await;
                    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            }
        }
    };
    (address, tokio::spawn(serve))
}

/// Feature HTTPRouteRetryConnectionError, of which the Gateway API's suite has no test.
#[tokio::test]
async fn a_connection_that_is_reset_is_tried_again_as_often_as_the_rule_says() {
    for (failures, status) in [(2, 200), (3, 502)] {
        let (address, backend) = recovering(failures, None).await;
        let rules = "  - retry: {attempts: 2, backoff: 10ms}\n    backendRefs: [{name: flaky, port: 80}]\n";
        let shop = Shop::start(&[], &join([http_route("flaky", &[HOST], rules), service("flaky", &[address])])).await;
        assert_eq!(shop.get("/").await.status, status, "{failures} resets");
        backend.abort();
    }
}

/// Feature HTTPRouteRetryBackendTimeout, of which the Gateway API's suite has no test.
#[tokio::test]
async fn a_try_that_takes_too_long_is_tried_again_while_the_request_has_time() {
    let (address, backend) = recovering(1, Some(std::time::Duration::from_secs(60))).await;
    let rules = "  - retry: {codes: [504], attempts: 2, backoff: 10ms}\n    timeouts: {request: 30s, backendRequest: 300ms}\n    backendRefs: [{name: slow, port: 80}]\n";
    let (other, second) = recovering(0, None).await;
    let documents = join([http_route("slow", &[HOST], rules), service("slow", &[address, other])]);
    let shop = Shop::start(&[], &documents).await;
    for n in 0..4 {
        assert_eq!(shop.get("/").await.status, 200, "request {n}");
    }
    shop.gateway.logged(|line| line["retries"] == 1 && line["status"] == 200).await;
    backend.abort();
    second.abort();
}

/// By the parentRef's port, whatever it calls the listener.
#[tokio::test]
async fn a_route_attaches_to_the_listener_of_the_port_that_it_names() {
    let ports = (sluice_tests::ports::free(), sluice_tests::ports::free());
    let _shop = Shop::start(&["one"], &join([
        format!("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: two, namespace: default}}\nspec:\n  gatewayClassName: sluice\n  listeners: [{{name: a, port: {}, protocol: HTTP}}, {{name: b, port: {}, protocol: HTTP}}]\n", ports.0, ports.1),
        http_route("by-port", &[], "  - backendRefs: [{name: one, port: 80}]\n").replace("{name: edge}", &format!("{{name: two, port: {}}}", ports.1)),
    ])).await;
    assert_eq!(sluice_tests::raw::get(ports.0, HOST, "/").await.unwrap().status, 404);
    assert_eq!(sluice_tests::raw::get(ports.1, HOST, "/").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_backend_of_another_namespace_serves_where_a_grant_permits_it() {
    let rules = "  - backendRefs: [{name: far, namespace: other, port: 80}]\n";
    let far = sluice_tests::Backend::echo("far").await;
    let there = service("far", &[far.address]).replace("namespace: default", "namespace: other");
    let shop = Shop::start(&[], &join([http_route("far", &[HOST], rules), there])).await;
    assert_eq!(shop.get("/").await.status, 500);
    let grant = "apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {name: far, namespace: other}\nspec:\n  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}]\n  to: [{group: \"\", kind: Service, name: far}]\n";
    shop.folder.write("grant.yaml", grant);
    shop.until("the granted backend", "/", |answer| answer.status == 200).await;
}

#[tokio::test]
async fn a_request_at_an_endpoint_that_begins_to_terminate_is_answered_from_there() {
    use sluice_tests::objects::{route_to, slice};
    use sluice_tests::{Backend, raw};
    use std::sync::Arc;
    let (release, released) = tokio::sync::watch::channel(false);
    let leaves = Backend::with(Arc::new(move |request| {
        let mut released = released.clone();
        Box::pin(async move {
            if request.uri().path() == "/held" {
                let _ = released.wait_for(|go| *go).await;
            }
            sluice_tests::backend::text(http::StatusCode::OK, "leaves")
        })
    }))
    .await;
    let route = route_to("all", &[HOST], "web");
    let shop = Shop::start(&["stays"], &join([route.clone(), service("web", &[leaves.address])])).await;
    let mut client = raw::Client::connect(shop.http).await.unwrap();
    client.send(format!("GET /held HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await.unwrap();
    wait::until("the request at the endpoint", || async { (leaves.count() == 1).then_some(()) }).await;
    let terminating = slice("web", 0, leaves.address, "ready: false, serving: true, terminating: true");
    let stays = slice("web", 1, shop.backend("stays").address, "ready: true");
    shop.folder.write("more.yaml", join([route, service("web", &[]), terminating, stays]));
    shop.until("the other endpoint", "/", |answer| answer.text().contains("stays")).await;
    release.send_replace(true);
    let answer = client.response().await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "leaves"));
}

#[tokio::test]
async fn a_backends_retry_constraint_bounds_the_retries_of_every_route() {
    use sluice_tests::Backend;
    use std::sync::Arc;
    let failing = Backend::with(Arc::new(|_| {
        Box::pin(async { sluice_tests::backend::text(503.try_into().unwrap(), "not now") })
    }))
    .await;
    let policy = "apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\nmetadata: {name: few, namespace: default}\nspec:\n  targetRefs: [{group: \"\", kind: Service, name: failing}]\n  retryConstraint: {budget: {percent: 0}, minRetryRate: {count: 2, interval: 1h}}\n";
    let retrying = |name: &str, path: &str| {
        http_route(
            name,
            &[HOST],
            &format!(
                "  - matches: [{{path: {{value: {path}}}}}]\n    retry: {{codes: [503], attempts: 1, backoff: 1ms}}\n    backendRefs: [{{name: failing, port: 80}}]\n"
            ),
        )
    };
    let objects =
        join([retrying("a", "/a"), retrying("b", "/b"), service("failing", &[failing.address]), policy.to_owned()]);
    let shop = Shop::start(&[], &objects).await;
    // Two retries in all, whichever route asks for them; then the gateway says that there are no more.
    for (path, text) in [("/a", "not now"), ("/b", "not now")] {
        assert_eq!(shop.get(path).await.text(), text);
    }
    assert_eq!(failing.count(), 4);
    for path in ["/a", "/b"] {
        let answer = shop.get(path).await;
        assert_eq!((answer.status, answer.text() == "not now"), (503, false), "{}", answer.text());
    }
    assert_eq!(failing.count(), 6);
    let line = shop.gateway.logged(|line| line["reason"] == "retry_budget_exceeded").await;
    assert_eq!((&line["backend"], &line["retries"]), (&"default/failing:80".into(), &0.into()));
}

#[tokio::test]
async fn a_listener_takes_only_routes_that_name_it_and_that_it_allows() {
    let shop = Shop::start(
        &["one"],
        &join([
            http_route("http-only", &["section.example"], "  - backendRefs: [{name: one, port: 80}]\n")
                .replace("[{name: edge}]", "[{name: edge, sectionName: https}]"),
            http_route(
                "elsewhere",
                &["elsewhere.example"],
                "  - backendRefs: [{name: one, namespace: default, port: 80}]\n",
            )
            .replace("namespace: default}", "namespace: other}")
            .replace("{name: edge}", "{name: edge, namespace: default}"),
        ]),
    )
    .await;
    assert_eq!(shop.send("GET", "/", "section.example", "").await.status, 404, "the route is for the HTTPS listener");
    assert_eq!(shop.send("GET", "/", "elsewhere.example", "").await.status, 404, "allowedRoutes is Same by default");
}
