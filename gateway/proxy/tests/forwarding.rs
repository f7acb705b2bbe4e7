//! Requests that are forwarded: what the backend sees, what the client gets back, and what is written down.

mod common;

use common::*;
use http_body_util::Full;
use sluice_model::config::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_to_its_backend_and_its_answer_comes_back() {
    let web = Server::named("web").await;
    let gateway = Setup::new().backend("web", &[web.address]).rule("/", to("web")).start().await;
    let got = gateway.get("/a/b?c=d").await;
    assert_eq!((got.status, got.body.as_str()), (200, "web"));
    let seen = web.one();
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("GET", "/a/b?c=d"));
    assert_eq!(seen.header("host"), Some("shop.example"));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.header("via"), Some("1.1 sluice"));
    assert!(seen.header("x-request-id").is_some_and(|id| id.len() == 36));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_serves_one_request_after_the_other_rfc9112_9_3() {
    let web = Server::named("web").await;
    let gateway = Setup::new().backend("web", &[web.address]).rule("/", to("web")).start().await;
    let mut client = gateway.connect().await;
    for _ in 0..3 {
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert_eq!(client.response(false).await.body, "web");
    }
    // The gateway's own answers leave the connection usable, and so do bodies that nobody read.
    client.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\nmax-forwards: 0\r\n\r\nabc").await;
    assert_eq!(client.response(false).await.body, "web");
    client.send(b"OPTIONS / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\nmax-forwards: 0\r\n\r\nabc").await;
    assert_eq!(client.response(false).await.status, 200);
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(client.response(false).await.body, "web");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_pass_in_both_directions() {
    let web = Server::with(|seen| Box::pin(async move { text(200, &format!("{} bytes", seen.body.len())) })).await;
    let gateway = Setup::new().backend("web", &[web.address]).rule("/", to("web")).start().await;
    let body = "x".repeat(300_000);
    let got = gateway.send(format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}", body.len())).await;
    assert_eq!(got.body, "300000 bytes");
    let chunked = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n";
    assert_eq!(gateway.send(chunked).await.body, "7 bytes");
    let line = &gateway.log_of(2).await[0];
    assert_eq!(line["bytes_in"], 300_000);
    assert_eq!(line["bytes_out"], "300000 bytes".len());
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_clients_reach_http1_backends_with_one_cookie_field_rfc9113_8_2_3() {
    let web = Server::named("web").await;
    let gateway = Setup::new().backend("web", &[web.address]).rule("/", to("web")).start().await;
    let request = http::Request::get("http://shop.example/x?y=1")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(Full::default())
        .unwrap();
    let response = gateway.h2().await.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(!response.headers().contains_key("connection"));
    let seen = web.one();
    assert_eq!(seen.version, http::Version::HTTP_11);
    assert_eq!(seen.target, "/x?y=1");
    assert_eq!(seen.header("host"), Some("shop.example"));
    assert_eq!(seen.header("cookie"), Some("a=1; b=2"));
    assert_eq!(seen.header("via"), Some("2.0 sluice"));
}

#[tokio::test(flavor = "multi_thread")]
async fn h2c_backends_are_spoken_to_in_http2_gep1911() {
    let web = Server::named("web").await;
    let gateway = Setup::new()
        .backend_with("web", &[web.address], |backend| backend.protocol = BackendProtocol::Http2)
        .rule("/", to("web"))
        .start()
        .await;
    assert_eq!(gateway.get("/").await.body, "web");
    let request = http::Request::get("http://shop.example/").body(Full::default()).unwrap();
    assert_eq!(gateway.h2().await.send_request(request).await.unwrap().status(), 200);
    assert!(web.seen().iter().all(|seen| seen.version == http::Version::HTTP_2));
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_share_the_requests_out() {
    let (a, b, c) = (Server::named("a").await, Server::named("b").await, Server::named("c").await);
    let gateway = Setup::new()
        .backend("a", &[a.address])
        .backend("b", &[b.address])
        .backend("c", &[c.address])
        .rule("/", forward(vec![weighted("a", 7), weighted("b", 3), weighted("c", 0)]))
        .start()
        .await;
    let mut client = gateway.connect().await;
    for _ in 0..400 {
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert_eq!(client.response(false).await.status, 200);
    }
    // 280 expected; five standard deviations are 46.
    let share = a.seen().len();
    assert!((234..=326).contains(&share), "{share}");
    assert_eq!(c.seen().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_a_connection_stays_there_rfc9110_7_6_1() {
    let web = Server::with(|_| {
        Box::pin(async {
            let mut response = text(200, "web");
            response.headers_mut().insert("x-hop", "1".parse().unwrap());
            response.headers_mut().insert("connection", "x-hop".parse().unwrap());
            response.headers_mut().insert("x-end", "2".parse().unwrap());
            response
        })
    })
    .await;
    let gateway = Setup::new().backend("web", &[web.address]).rule("/", to("web")).start().await;
    let got = gateway
        .send("GET / HTTP/1.1\r\nhost: a\r\nconnection: x-mine\r\nx-mine: 1\r\nkeep-alive: 5\r\nx-theirs: 2\r\n\r\n")
        .await;
    assert_eq!((got.header("x-hop"), got.header("x-end")), (None, Some("2")));
    let seen = web.one();
    assert_eq!((seen.header("x-mine"), seen.header("keep-alive"), seen.header("x-theirs")), (None, None, Some("2")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_leaves_one_line_with_all_that_is_known() {
    let web = Server::named("web").await;
    let rule = to("web");
    let route = rule.id.route.to_string();
    let gateway = Setup::new().backend("web", &[web.address]).rule("/", rule).start().await;
    gateway.send("GET /%61/../b?q HTTP/1.1\r\nhost: shop.example\r\nuser-agent: test\r\n\r\n").await;
    let line = gateway.log_of(1).await.remove(0);
    for (field, expected) in [
        ("method", "GET"),
        ("scheme", "http"),
        ("authority", "shop.example"),
        ("path", "/%61/../b?q"),
        ("protocol", "HTTP/1.1"),
        ("client_ip", "127.0.0.1"),
        ("listener", "shop/gw/http"),
        ("route", route.as_str()),
        ("rule", "0"),
        ("backend", "shop/web:80"),
        ("reason", "upstream"),
        ("user_agent", "test"),
    ] {
        assert_eq!(line[field], expected, "{field}: {line}");
    }
    assert_eq!(line["status"], 200);
    assert_eq!(line["endpoint"], web.address.to_string());
    assert_eq!(line["retries"], 0);
    assert_eq!(line["request_id"], web.one().header("x-request-id").unwrap());
    for time in ["duration_ms", "ttfb_ms", "upstream_connect_ms", "upstream_ms"] {
        assert!(line[time].is_number(), "{time}: {line}");
    }
    assert_eq!(web.one().target, "/b?q", "the backend sees the normal form");
    let metrics = gateway.metrics();
    for series in [
        "sluice_requests_total{listener=\"shop/gw/http\",code_class=\"2xx\",reason=\"upstream\"} 1".to_owned(),
        format!("sluice_route_requests_total{{route=\"{route}/0\",code_class=\"2xx\"}} 1"),
        "sluice_upstream_duration_seconds_count{backend=\"shop/web:80\"} 1".to_owned(),
        "sluice_requests_in_flight{listener=\"shop/gw/http\"} 0".to_owned(),
    ] {
        assert!(metrics.contains(&series), "{series}\n{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_takes_effect_with_the_next_request() {
    let (old, new) = (Server::named("old").await, Server::named("new").await);
    let gateway = Setup::new().backend("web", &[old.address]).rule("/", to("web")).start().await;
    let mut client = gateway.connect().await;
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(client.response(false).await.body, "old");
    let applied = gateway.proxy.apply(Setup::new().backend("web", &[new.address]).rule("/", to("web")).build());
    assert_eq!(applied.generation, 2);
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(client.response(false).await.body, "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_cannot_take_away_what_the_gateway_writes_rfc9110_7_6_1() {
    for way in Way::ALL {
        let (web, setup) = way.setup(|_| Box::pin(async { text(200, "web") })).await;
        let gateway = setup.edge(|edge| edge.forwarding.forwarded = true).rule("/", to("web")).start().await;
        let ours = ["x-real-ip", "x-request-id", "x-forwarded-port", "via", "forwarded"];
        let request = format!(
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: {}, x-hop\r\nx-real-ip: 1.2.3.4\r\nx-hop: 1\r\n\
             proxy-authorization: Basic x\r\ntrailer: x-sum\r\nx-end: 1\r\n\r\n",
            ours.join(", ")
        );
        assert_eq!(gateway.send(request).await.status, 200, "{way:?}");
        let seen = web.one();
        assert_eq!(seen.version == http::Version::HTTP_2, way != Way::Http1);
        for name in ours {
            assert!(seen.headers.contains_key(name), "{way:?}: {name} was taken away");
        }
        assert_eq!(seen.header("x-real-ip"), Some("127.0.0.1"));
        for name in ["connection", "x-hop", "proxy-authorization", "trailer"] {
            assert!(!seen.headers.contains_key(name), "{way:?}: {name} was passed on");
        }
        assert_eq!(seen.header("x-end"), Some("1"));
        let refused = gateway.send("GET / HTTP/1.1\r\nhost: a\r\nconnection: x-forwarded-for\r\n\r\n").await;
        assert_eq!(refused.status, 400, "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_web_socket_keeps_a_request_from_http2() {
    let (web, setup) = Way::Tls.setup(|_| Box::pin(async { text(200, "web") })).await;
    let gateway = setup.rule("/", to("web")).start().await;
    let upgrade = "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n";
    assert_eq!(gateway.send(format!("GET / HTTP/1.1\r\nhost: a\r\n{upgrade}\r\n")).await.status, 200);
    assert_eq!(web.one().version, http::Version::HTTP_2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_peers_forwarded_field_is_appended_to_rfc7239_4() {
    let web = Server::named("web").await;
    let trust = |edge: &mut Edge| {
        edge.forwarding.forwarded = true;
        edge.forwarding.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    };
    let gateway = Setup::new().edge(trust).backend("web", &[web.address]).rule("/", to("web")).start().await;
    let request =
        "GET / HTTP/1.1\r\nhost: shop.example\r\nforwarded: for=192.0.2.1\r\nx-forwarded-for: 192.0.2.1\r\n\r\n";
    assert_eq!(gateway.send(request).await.status, 200);
    let seen = web.one();
    let forwarded = "for=192.0.2.1, for=127.0.0.1;host=\"shop.example\";proto=http";
    assert_eq!(seen.header("forwarded"), Some(forwarded));
    assert_eq!(seen.header("x-forwarded-for"), Some("192.0.2.1, 127.0.0.1"));
    assert_eq!(seen.header("x-real-ip"), Some("192.0.2.1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_has_the_path_as_the_client_sent_it() {
    let web = Server::named("web").await;
    let gateway = Setup::new().backend("web", &[web.address]).rule("/", to("web")).start().await;
    assert_eq!(gateway.get("/a/../%62//c?d=%65").await.status, 200);
    assert_eq!(web.one().target, "/b/c?d=%65");
    assert_eq!(gateway.log_of(1).await[0]["path"], "/a/../%62//c?d=%65");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_304_has_no_body_rfc9110_15_4_5() {
    let web = Server::with(|_| Box::pin(async { text(304, "") })).await;
    let gateway = Setup::new().backend("web", &[web.address]).rule("/", to("web")).start().await;
    let mut client = gateway.connect().await;
    for _ in 0..2 {
        client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let got = client.response(false).await;
        assert_eq!((got.status, got.header("transfer-encoding")), (304, None), "and the next one begins where it ends");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_memory_requests_are_refused_with_a_time_to_come_back_at() {
    let web = Server::named("web").await;
    let config = Setup::new().backend("web", &[web.address]).rule("/", to("web")).build();
    // Any process is above this.
    let gateway = Gateway::start_with(config, |options| options.memory_limit = Some(1)).await;
    let mut refused = gateway.get("/").await;
    let deadline = std::time::Instant::now() + PATIENCE;
    while refused.status == 200 {
        assert!(std::time::Instant::now() < deadline, "nothing was shed");
        refused = gateway.get("/").await;
    }
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert_eq!(refused.header("connection"), Some("close"));
    let line = eventually(|| gateway.log().into_iter().find(|line| line["status"] == 503)).await;
    assert_eq!(line["reason"], "overloaded");
    assert!(gateway.metrics().contains("sluice_overload_state 2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_an_http2_client_gives_up_is_written_down() {
    let (web, setup) = Way::Http1.setup(|_| Box::pin(std::future::pending())).await;
    let gateway = setup.rule("/", to("web")).start().await;
    let mut client = gateway.h2().await;
    let request = http::Request::get("http://shop.example/gone").body(Full::default()).unwrap();
    let mut waiting = Box::pin(client.send_request(request));
    let _ = futures::future::poll_immediate(&mut waiting).await;
    eventually(|| Some(()).filter(|()| !web.seen().is_empty())).await;
    drop(waiting);
    let line = gateway.log_of(1).await.remove(0);
    assert_eq!((line["status"].as_u64(), line["reason"].as_str()), (Some(499), Some("client_aborted")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_request_keeps_the_configuration_that_it_began_with() {
    let go_on = std::sync::Arc::new(tokio::sync::Notify::new());
    let told = go_on.clone();
    let web = Server::with(move |_| {
        let told = told.clone();
        Box::pin(async move {
            told.notified().await;
            text(200, "web")
        })
    })
    .await;
    let gateway = Setup::new().backend("web", &[web.address]).rule("/", to("web")).start().await;
    let mut client = gateway.connect().await;
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    eventually(|| Some(()).filter(|()| !web.seen().is_empty())).await;
    let gone = Setup::new()
        .rule("/", rule(Action::Reply { status: http::StatusCode::GONE, reason: sluice_model::Reason::NoBackends }));
    gateway.proxy.apply(gone.build());
    assert_eq!(gateway.get("/").await.status, 410);
    go_on.notify_one();
    assert_eq!(client.response(false).await.body, "web");
    let lines = gateway.log_of(2).await;
    assert!(lines.iter().any(|line| line["backend"] == "shop/web:80" && line["status"] == 200), "{lines:?}");
}
