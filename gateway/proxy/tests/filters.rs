//! What rules do to requests and responses (Gateway API filters), and what the gateway answers itself.

mod common;

use common::*;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::{BodyExt, Full};
use sluice_model::config::*;
use sluice_model::{Hostname, Reason};
use std::sync::Arc;
use std::time::Duration;

fn fields(pairs: &[(&'static str, &'static str)]) -> Vec<(HeaderName, HeaderValue)> {
    pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn header_modifiers_of_rule_and_backend_apply_in_that_order() {
    let web = Server::with(|_| {
        Box::pin(async {
            let mut response = text(200, "web");
            response.headers_mut().insert("x-internal", "1".parse().unwrap());
            response
        })
    })
    .await;
    let mut backend = weighted("web", 1);
    Arc::make_mut(&mut backend.filters).request_headers.set = fields(&[("x-b", "backend")]);
    Arc::make_mut(&mut backend.filters).response_headers.add = fields(&[("x-both", "backend")]);
    let rule = forward(vec![backend]).with(|rule| {
        Arc::make_mut(&mut rule.filters).request_headers = HeaderOps {
            set: fields(&[("x-a", "set"), ("x-b", "rule")]),
            add: fields(&[("x-c", "added")]),
            remove: vec![HeaderName::from_static("x-d")],
        };
        Arc::make_mut(&mut rule.filters).response_headers.add = fields(&[("x-both", "rule")]);
        Arc::make_mut(&mut rule.filters).response_headers.remove = vec![HeaderName::from_static("x-internal")];
    });
    let gateway = Setup::new().backend("web", &[web.address]).rule("/", rule).start().await;
    let got = gateway.send("GET / HTTP/1.1\r\nhost: a\r\nx-a: old\r\nx-c: old\r\nx-d: old\r\n\r\n").await;
    assert_eq!(got.all("x-both"), ["rule", "backend"]);
    assert_eq!(got.header("x-internal"), None);
    let seen = web.one();
    assert_eq!((seen.header("x-a"), seen.header("x-b"), seen.header("x-d")), (Some("set"), Some("backend"), None));
    let added: Vec<_> = seen.headers.get_all("x-c").iter().collect();
    assert_eq!(added, ["old", "added"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn host_and_path_are_rewritten_for_the_backend_alone() {
    let web = Server::named("web").await;
    let rewrite = |replacement: &str| Rewrite {
        hostname: Some(Hostname::parse("inner.example").unwrap()),
        path: Some(PathRewrite::PrefixMatch(replacement.into())),
    };
    let gateway = Setup::new()
        .backend("web", &[web.address])
        .rule("/old", to("web").with(|rule| Arc::make_mut(&mut rule.filters).rewrite = Some(rewrite("/new"))))
        .start()
        .await;
    gateway.get("/old/x?q=1").await;
    let request = http::Request::get("http://shop.example/old").body(Full::default()).unwrap();
    gateway.h2().await.send_request(request).await.unwrap();
    let seen = web.seen();
    assert_eq!((seen[0].target.as_str(), seen[0].header("host")), ("/new/x?q=1", Some("inner.example")));
    assert_eq!((seen[1].target.as_str(), seen[1].header("host")), ("/new", Some("inner.example")));
    assert_eq!(seen[0].header("x-forwarded-host"), Some("shop.example"));
    let log = gateway.log_of(2).await;
    assert_eq!(log[0]["path"], "/old/x?q=1");
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_answered_here() {
    let redirect = Redirect {
        scheme: Some(RedirectScheme::Https),
        hostname: Some(Hostname::parse("new.example").unwrap()),
        port: Some(8443),
        path: Some(PathRewrite::PrefixMatch("/b".into())),
        status: StatusCode::MOVED_PERMANENTLY,
    };
    let gateway = Setup::new().rule("/a", rule(Action::Redirect(redirect))).start().await;
    let got = gateway.get("/a/c?d=e").await;
    assert_eq!((got.status, got.header("location")), (301, Some("https://new.example:8443/b/c?d=e")));
    assert_eq!((got.header("content-length"), got.body.as_str()), (Some("0"), ""));
    assert_eq!(gateway.log_of(1).await[0]["reason"], "redirect");
}

fn cors() -> Option<Arc<Cors>> {
    Some(Arc::new(Cors {
        allow_origins: vec![OriginPattern::Exact("https://app.example".into())],
        allow_credentials: true,
        allow_methods: vec![Method::PUT],
        allow_any_method: false,
        allow_headers: vec![HeaderName::from_static("x-a")],
        allow_any_header: false,
        expose_headers: vec![HeaderName::from_static("x-b")],
        expose_any_header: false,
        max_age: Duration::from_secs(60),
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn preflights_are_answered_and_pages_may_read_the_answers_gep1767() {
    let web = Server::named("web").await;
    let gateway = Setup::new()
        .backend("web", &[web.address])
        .rule("/", to("web").with(|rule| Arc::make_mut(&mut rule.filters).cors = cors()))
        .start()
        .await;
    let preflight = |origin: &str| {
        format!("OPTIONS / HTTP/1.1\r\nhost: a\r\norigin: {origin}\r\naccess-control-request-method: PUT\r\n\r\n")
    };
    let got = gateway.send(preflight("https://app.example")).await;
    assert_eq!((got.status, got.body.as_str()), (204, ""));
    assert_eq!(got.header("access-control-allow-origin"), Some("https://app.example"));
    assert_eq!(got.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(got.header("access-control-allow-methods"), Some("PUT"));
    assert_eq!(got.header("access-control-allow-headers"), Some("x-a"));
    assert_eq!(got.header("access-control-max-age"), Some("60"));
    assert_eq!(got.header("vary"), Some("Origin"));
    let stranger = gateway.send(preflight("https://other.example")).await;
    assert_eq!((stranger.status, stranger.header("access-control-allow-origin")), (204, None));
    assert!(web.seen().is_empty(), "preflights are not forwarded");
    let got = gateway.send("GET / HTTP/1.1\r\nhost: a\r\norigin: https://app.example\r\n\r\n").await;
    assert_eq!((got.status, got.header("access-control-expose-headers")), (200, Some("x-b")));
    assert_eq!(got.header("access-control-allow-origin"), Some("https://app.example"));
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_get_copies_and_nobody_waits_for_them() {
    let (web, shadow) = (Server::named("web").await, Server::named("shadow").await);
    let mirror = |name: &str, numerator| Mirror { backend: backend_key(name), numerator, denominator: 100 };
    let rule = to("web").with(|rule| {
        Arc::make_mut(&mut rule.filters).mirrors =
            vec![mirror("shadow", 100), mirror("never", 0), mirror("nobody", 100)];
        Arc::make_mut(&mut rule.filters).request_headers.set = fields(&[("x-a", "set")]);
    });
    let gateway = Setup::new()
        .backend("web", &[web.address])
        .backend("shadow", &[shadow.address])
        .backend("never", &[shadow.address])
        .backend("nobody", &[nobody()])
        .rule("/", rule)
        .start()
        .await;
    let got = gateway.send("POST /p HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 4\r\n\r\nbody").await;
    assert_eq!(got.body, "web");
    let copy = eventually(|| shadow.seen().first().cloned()).await;
    assert_eq!((copy.method.as_str(), copy.target.as_str(), &copy.body[..]), ("POST", "/p", &b"body"[..]));
    assert_eq!((copy.header("x-a"), copy.header("host")), (Some("set"), Some("shop.example")));
    eventually(|| gateway.metrics().contains("sluice_mirror_requests_total{result=\"failed\"} 1").then_some(())).await;
    eventually(|| gateway.metrics().contains("sluice_mirror_requests_total{result=\"answered\"} 1").then_some(()))
        .await;
    assert_eq!(shadow.seen().len(), 1);
    assert_eq!(gateway.log_of(1).await.len(), 1, "copies leave no line");
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_that_cannot_forward_say_so() {
    let invalid = BackendTarget::Invalid { status: StatusCode::INTERNAL_SERVER_ERROR, reason: Reason::InvalidBackend };
    let broken = WeightedBackend { weight: 1, target: invalid, filters: Filters::none(), session: None };
    let none = Action::Reply { status: StatusCode::INTERNAL_SERVER_ERROR, reason: Reason::NoBackends };
    let gateway = Setup::new()
        .backend("empty", &[])
        .rule("/invalid", forward(vec![broken]))
        .rule("/none", rule(none))
        .rule("/empty", to("empty"))
        .rule("/unknown", to("unknown"))
        .start()
        .await;
    for (path, status) in [("/invalid", 500), ("/none", 500), ("/empty", 503), ("/unknown", 503), ("/nowhere", 404)] {
        assert_eq!(gateway.get(path).await.status, status, "{path}");
    }
    let reasons: Vec<_> =
        gateway.log_of(5).await.iter().map(|line| line["reason"].as_str().unwrap().to_owned()).collect();
    assert_eq!(reasons, ["invalid_backend", "no_backends", "no_endpoints", "no_endpoints", "route_not_found"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_the_gateway_have_the_form_that_the_client_accepts() {
    let gateway = Setup::new().start().await;
    let plain = gateway.get("/").await;
    assert_eq!((plain.status, plain.header("content-type")), (404, Some("text/plain; charset=utf-8")));
    assert_eq!(plain.header("server"), Some("sluice"), "no version");
    assert!(plain.header("x-request-id").is_some());
    let json = gateway.send("GET / HTTP/1.1\r\nhost: a\r\naccept: application/json\r\n\r\n").await;
    let said: serde_json::Value = serde_json::from_str(&json.body).unwrap();
    assert_eq!((said["status"].as_u64(), said["reason"].as_str()), (Some(404), Some("route_not_found")));
    assert_eq!(said["request_id"].as_str(), json.header("x-request-id"));
    let head = gateway.send("HEAD / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(head.status, 404);
    assert_eq!(head.header("content-length"), plain.header("content-length"));
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_clients_get_a_status_in_trailers_only_form() {
    let gateway = Setup::new().start().await;
    let request = http::Request::post("http://shop.example/pkg.Service/Method")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::default())
        .unwrap();
    let response = gateway.h2().await.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "12");
    assert_eq!(response.headers()["content-type"], "application/grpc");
    assert!(hyper::body::Body::is_end_stream(response.body()), "the head ends the stream");
    let body = response.into_body().collect().await.unwrap();
    assert!(body.trailers().is_none() && body.to_bytes().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_a_rule_does_not_allow_are_denied() {
    let web = Server::named("web").await;
    let only = |net: &str| {
        let net = net.parse().unwrap();
        to("web").with(|rule| Arc::make_mut(&mut rule.client).ip_allow = vec![net])
    };
    let gateway = Setup::new()
        .backend("web", &[web.address])
        .rule("/in", only("127.0.0.0/8"))
        .rule("/out", only("192.0.2.0/24"))
        .start()
        .await;
    assert_eq!(gateway.get("/in").await.status, 200);
    assert_eq!(gateway.get("/out").await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_have_a_limit_whether_they_say_their_length_or_not() {
    let web = Server::named("web").await;
    let rule = to("web").with(|rule| Arc::make_mut(&mut rule.client).max_body = Some(10));
    let gateway = Setup::new().backend("web", &[web.address]).rule("/", rule).start().await;
    let fits = gateway.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n0123456789").await;
    assert_eq!(fits.status, 200);
    let declared = gateway.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 11\r\n\r\n0123456789a").await;
    assert_eq!((declared.status, declared.header("connection")), (413, Some("close")));
    let chunked = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nb\r\n0123456789a\r\n0\r\n\r\n";
    assert_eq!(gateway.send(chunked).await.status, 413);
    let hits = "sluice_limit_hits_total{limit=\"body\"} ";
    assert!(gateway.metrics().contains(hits), "{}", gateway.metrics());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_more_specific_host_without_a_matching_rule_leaves_the_request_to_the_next() {
    let (exact, wild) = (Server::named("exact").await, Server::named("wild").await);
    let gateway = Setup::new()
        .backend("exact", &[exact.address])
        .backend("wild", &[wild.address])
        .host_rule("a.example.com", "/only", to("exact"))
        .host_rule("*.example.com", "/", to("wild"))
        .start()
        .await;
    let get = |host: &str, path: &str| format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
    assert_eq!(gateway.send(get("a.example.com", "/only")).await.body, "exact");
    assert_eq!(gateway.send(get("A.Example.COM.:80", "/only/x")).await.body, "exact");
    assert_eq!(gateway.send(get("a.example.com", "/other")).await.body, "wild");
    assert_eq!(gateway.send(get("b.example.com", "/only")).await.body, "wild");
    assert_eq!(gateway.send(get("example.com", "/")).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn options_about_the_gateway_are_answered_by_it_rfc9110_9_3_7() {
    let web = Server::named("web").await;
    let gateway = Setup::new().backend("web", &[web.address]).rule("/", to("web")).start().await;
    assert_eq!(gateway.send("OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n").await.status, 200);
    assert_eq!(gateway.send("OPTIONS / HTTP/1.1\r\nhost: a\r\nmax-forwards: 0\r\n\r\n").await.status, 200);
    assert!(web.seen().is_empty());
    gateway.send("OPTIONS / HTTP/1.1\r\nhost: a\r\nmax-forwards: 2\r\n\r\n").await;
    assert_eq!(web.one().header("max-forwards"), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_has_been_here_is_a_loop_rfc9110_7_6_3() {
    let web = Server::named("web").await;
    let gateway = Setup::new().backend("web", &[web.address]).rule("/", to("web")).start().await;
    assert_eq!(gateway.send("GET / HTTP/1.1\r\nhost: a\r\nvia: 1.1 x, 1.1 sluice\r\n\r\n").await.status, 508);
    assert_eq!(gateway.send("GET / HTTP/1.1\r\nhost: a\r\nvia: 1.1 x\r\n\r\n").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_field_is_what_the_listener_says() {
    for (setting, backends, own) in [
        (ServerHeader::PassThrough, Some("nginx/1.2.3"), Some("sluice")),
        (ServerHeader::Remove, None, None),
        (ServerHeader::Replace("edge".into()), Some("edge"), Some("edge")),
    ] {
        let web = Server::with(|_| {
            Box::pin(async {
                let mut response = text(200, "web");
                response.headers_mut().insert("server", "nginx/1.2.3".parse().unwrap());
                response
            })
        })
        .await;
        let gateway = Setup::new()
            .edge(|edge| edge.server_header = setting.clone())
            .backend("web", &[web.address])
            .rule("/web", to("web"))
            .start()
            .await;
        assert_eq!(gateway.get("/web").await.header("server"), backends, "{setting:?}");
        assert_eq!(gateway.get("/").await.header("server"), own, "{setting:?}");
    }
}
