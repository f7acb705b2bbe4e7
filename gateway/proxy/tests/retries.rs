//! Failing endpoints: which failures are tried again, and how long anything may take.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod common;

use common::*;
use sluice_model::config::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Answers the first `n` requests with `status`, and then 200.
async fn recovering(n: u32, status: u16) -> Server {
    let count = Arc::new(AtomicU32::new(0));
    Server::with(move |_| {
        let first = count.fetch_add(1, Relaxed) < n;
        Box::pin(async move { text(if first { status } else { 200 }, "web") })
    })
    .await
}

/// A backend that reads each request and then does what `then` says with the connection.
async fn breaking<F>(then: impl Fn(tokio::net::TcpStream) -> F + Send + 'static) -> std::net::SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut io, _)) = listener.accept().await {
            let mut bytes = [0; 4096];
            let _ = io.read(&mut bytes).await;
            tokio::spawn(then(io));
        }
    });
    address
}

fn retry(attempts: u32, codes: &[u16]) -> Arc<Retry> {
    let retry = Retry { attempts, codes: codes.to_vec(), backoff: Some(Duration::from_millis(1)), ..Retry::default() };
    Arc::new(retry)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_cannot_be_connected_to_is_passed_over_whatever_the_method() {
    let web = Server::named("web").await;
    let gateway = Setup::new().backend("web", &[nobody(), web.address]).rule("/", to("web")).start().await;
    for _ in 0..4 {
        let got = gateway.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody").await;
        assert_eq!(got.status, 200);
    }
    assert!(web.seen().iter().all(|seen| &seen.body[..] == b"body"), "the body is sent again whole");
    let retries: u64 = gateway.log_of(4).await.iter().map(|line| line["retries"].as_u64().unwrap()).sum();
    assert!(retries > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_another_endpoint_a_failed_connection_is_a_502() {
    let gateway = Setup::new().backend("web", &[nobody()]).rule("/", to("web")).start().await;
    assert_eq!(gateway.get("/").await.status, 502);
    assert_eq!(gateway.log_of(1).await[0]["reason"], "upstream_connect_failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn statuses_that_the_rule_names_are_tried_again_gep1731() {
    let web = recovering(2, 503).await;
    let rule = to("web").with(|rule| rule.retry = retry(2, &[503]));
    let gateway = Setup::new().backend("web", &[web.address]).rule("/", rule).start().await;
    let got = gateway.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody").await;
    assert_eq!(got.status, 200);
    assert_eq!(web.seen().len(), 3);
    assert!(web.seen().iter().all(|seen| &seen.body[..] == b"body"));
    assert_eq!(gateway.log_of(1).await[0]["retries"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_tries_are_spent_the_last_answer_stands() {
    let web = recovering(9, 503).await;
    let rule = to("web").with(|rule| rule.retry = retry(1, &[503]));
    let gateway = Setup::new().backend("web", &[web.address]).rule("/", rule).start().await;
    let got = gateway.get("/").await;
    assert_eq!((got.status, got.body.as_str()), (503, "web"));
    assert_eq!(web.seen().len(), 2);
    let line = gateway.log_of(1).await.remove(0);
    assert_eq!((line["reason"].as_str(), line["retries"].as_u64()), (Some("upstream"), Some(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_the_backends_constraint_does_not_allow_is_a_503_gep3388() {
    let constraint = RetryConstraint {
        percent: 0,
        least: 1,
        least_interval: Duration::from_secs(3600),
        ..RetryConstraint::default()
    };
    let constrain = |backend: &mut Backend| backend.policy.retry_constraint = Some(constraint.clone());
    let web = recovering(99, 502).await;
    let rule = to("web").with(|rule| rule.retry = retry(3, &[502]));
    let gateway = Setup::new()
        .backend_with("web", &[web.address], constrain)
        .rule("/", rule)
        .backend_with("gone", &[nobody()], constrain)
        .rule("/gone", to("gone"))
        .start()
        .await;
    let got = gateway.get("/").await;
    assert_eq!((got.status, got.header("retry-after")), (503, Some("1")), "and not what the endpoint said");
    assert_eq!(web.seen().len(), 2, "one further try was allowed");
    let line = gateway.log_of(1).await.remove(0);
    assert_eq!((line["reason"].as_str(), line["retries"].as_u64()), (Some("retry_budget_exceeded"), Some(1)));
    // The same where no connection could be made.
    let got = gateway.get("/gone").await;
    assert_eq!(got.status, 503);
    assert_eq!(gateway.log_of(2).await[1]["reason"], "retry_budget_exceeded");
    assert!(gateway.metrics().contains("sluice_upstream_overflows_total{backend=\"shop/web:80\",limit=\"retries\"} 1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_is_tried_again_for_idempotent_methods_only_rfc9110_9_2_2() {
    let broken = breaking(|io| async move { drop(io) }).await;
    for (method, retries) in [("GET", 1), ("POST", 0)] {
        let gateway = Setup::new().backend("web", &[broken]).rule("/", to("web")).start().await;
        let got = gateway.send(format!("{method} / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n")).await;
        assert_eq!(got.status, 502, "{method}");
        let line = gateway.log_of(1).await.remove(0);
        assert_eq!(line["reason"], "upstream_reset");
        assert_eq!(line["retries"], retries, "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rules_timeouts_bound_request_and_try_gep1742() {
    let slow = breaking(|io| async move {
        let _io = io;
        std::future::pending::<()>().await;
    })
    .await;
    let short = Some(Duration::from_millis(100));
    let gateway = Setup::new()
        .backend("slow", &[slow])
        .rule("/request", to("slow").with(|rule| rule.request_timeout = short))
        .rule("/backend", to("slow").with(|rule| rule.backend_timeout = short))
        .start()
        .await;
    assert_eq!(gateway.get("/request").await.status, 504);
    assert_eq!(gateway.get("/backend").await.status, 504);
    let reasons: Vec<_> =
        gateway.log_of(2).await.iter().map(|line| line["reason"].as_str().unwrap().to_owned()).collect();
    assert_eq!(reasons, ["request_timeout", "upstream_timeout"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_try_that_takes_too_long_is_tried_again_where_the_rule_retries() {
    let count = Arc::new(AtomicU32::new(0));
    let web = Server::with(move |_| {
        let first = count.fetch_add(1, Relaxed) == 0;
        Box::pin(async move {
            if first {
                std::future::pending::<()>().await;
            }
            text(200, "web")
        })
    })
    .await;
    let rule = to("web").with(|rule| {
        rule.backend_timeout = Some(Duration::from_millis(100));
        rule.retry = retry(1, &[503, 504]);
    });
    let gateway = Setup::new().backend("web", &[web.address]).rule("/", rule).start().await;
    assert_eq!(gateway.get("/").await.status, 200);
    assert_eq!(web.seen().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_drips_past_the_deadline_is_cut() {
    let drip = breaking(|mut io| async move {
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n";
        let mut sent = io.write_all(head).await;
        while sent.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
            sent = io.write_all(b"x").await;
        }
    })
    .await;
    let rule = to("drip").with(|rule| rule.request_timeout = Some(Duration::from_millis(300)));
    let gateway = Setup::new().backend("drip", &[drip]).rule("/", rule).start().await;
    let mut client = gateway.connect().await;
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    while !client.is_closed().await {}
    let line = gateway.log_of(1).await.remove(0);
    assert_eq!((line["status"].as_u64(), line["reason"].as_str()), (Some(200), Some("request_timeout")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_ends_early_is_not_passed_off_as_whole() {
    let short = breaking(|mut io| async move {
        let _ = io.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc").await;
    })
    .await;
    let gateway = Setup::new().backend("short", &[short]).rule("/", to("short")).start().await;
    let mut client = gateway.connect().await;
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    while !client.is_closed().await {}
    assert_eq!(gateway.log_of(1).await[0]["reason"], "response_truncated");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_is_written_down_as_499() {
    let slow = breaking(|io| async move {
        let _io = io;
        std::future::pending::<()>().await;
    })
    .await;
    let gateway = Setup::new().backend("slow", &[slow]).rule("/", to("slow")).start().await;
    let mut client = gateway.connect().await;
    client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    eventually(|| gateway.metrics().contains("in_flight{listener=\"shop/gw/http\"} 1").then_some(())).await;
    drop(client);
    let line = gateway.log_of(1).await.remove(0);
    assert_eq!((line["status"].as_u64(), line["reason"].as_str()), (Some(499), Some("client_aborted")));
}

#[tokio::test(flavor = "multi_thread")]
async fn above_its_limit_a_backend_gets_no_more_requests() {
    let slow = breaking(|io| async move {
        let _io = io;
        std::future::pending::<()>().await;
    })
    .await;
    let gateway = Setup::new()
        .backend_with("web", &[slow], |backend| backend.policy.circuit_breaker.max_requests = 1)
        .rule("/", to("web"))
        .start()
        .await;
    let mut first = gateway.connect().await;
    first.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    eventually(|| {
        gateway.metrics().contains("sluice_upstream_requests_in_flight{backend=\"shop/web:80\"} 1").then_some(())
    })
    .await;
    assert_eq!(gateway.get("/").await.status, 503);
    assert_eq!(gateway.log_of(1).await[0]["reason"], "upstream_overflow");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_http_is_a_502() {
    let junk = breaking(|mut io| async move {
        let _ = io.write_all(b"220 smtp.example ESMTP\r\n\r\n").await;
    })
    .await;
    let gateway = Setup::new().backend("junk", &[junk]).rule("/", to("junk")).start().await;
    assert_eq!(gateway.get("/").await.status, 502);
}

/// Far below what the tests around it wait for.
const SHORT: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_may_take_longer_than_the_response_may_take_to_begin() {
    for way in Way::ALL {
        let (web, setup) = way.setup(|seen| Box::pin(async move { text(200, &seen.body.len().to_string()) })).await;
        let gateway = setup.edge(|edge| edge.timeouts.response_headers = SHORT).rule("/", to("web")).start().await;
        let mut client = gateway.connect().await;
        client.send(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").await;
        for _ in 0..6 {
            tokio::time::sleep(SHORT / 2).await;
            client.send(b"3\r\nabc\r\n").await;
        }
        client.send(b"0\r\n\r\n").await;
        let got = client.response(false).await;
        assert_eq!((got.status, got.body.as_str()), (200, "18"), "{way:?}");
        assert_eq!(web.one().body.len(), 18);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_does_not_begin_its_response_in_time_is_a_504() {
    for way in Way::ALL {
        let (_web, setup) = way.setup(|_| Box::pin(std::future::pending())).await;
        let gateway = setup.edge(|edge| edge.timeouts.response_headers = SHORT).rule("/", to("web")).start().await;
        assert_eq!(gateway.get("/").await.status, 504, "{way:?}");
        let body = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc";
        assert_eq!(gateway.send(body).await.status, 504, "{way:?}");
        let lines = gateway.log_of(2).await;
        assert!(lines.iter().all(|line| line["reason"] == "upstream_timeout"), "{way:?}: {lines:?}");
    }
}

/// A backend that reads a request, sends `first`, and `then` after a while that is longer than [`SHORT`].
async fn pausing(first: &'static [u8], then: &'static [u8]) -> std::net::SocketAddr {
    breaking(move |mut io| async move {
        let _ = io.write_all(first).await;
        tokio::time::sleep(3 * SHORT).await;
        let _ = io.write_all(then).await;
        let mut rest = [0; 64];
        while io.read(&mut rest).await.is_ok_and(|n| n > 0) {}
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_may_pause_for_longer_than_it_may_take_to_begin() {
    let first = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab";
    let web = pausing(first, b"cd").await;
    let gateway = Setup::new()
        .edge(|edge| edge.timeouts.response_headers = SHORT)
        .backend("web", &[web])
        .rule("/", to("web"))
        .start()
        .await;
    assert_eq!(gateway.get("/").await.body, "abcd");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_of_the_response_above_the_idle_timeout_cuts_it_and_says_so() {
    let web = pausing(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab", b"cd").await;
    let gateway = Setup::new()
        .edge(|edge| {
            edge.timeouts.response_headers = SHORT;
            edge.timeouts.stream_idle = SHORT;
        })
        .backend("web", &[web])
        .rule("/", to("web"))
        .rule("/late", to("web").with(|rule| rule.request_timeout = Some(SHORT)))
        .start()
        .await;
    for (path, reason) in [("/", "stream_idle"), ("/late", "request_timeout")] {
        let mut client = gateway.connect().await;
        client.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await;
        while !client.is_closed().await {}
        let line = eventually(|| gateway.log().into_iter().find(|line| line["path"] == path)).await;
        assert_eq!(line["reason"], reason, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_its_own_timeouts_ends_a_web_socket() {
    let head = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let web = pausing(head, b"late").await;
    let gateway = Setup::new()
        .edge(|edge| edge.timeouts.response_headers = SHORT)
        .backend("web", &[web])
        .rule("/request", to("web").with(|rule| rule.request_timeout = Some(SHORT)))
        .rule("/backend", to("web").with(|rule| rule.backend_timeout = Some(SHORT)))
        .rule("/plain", to("web"))
        .start()
        .await;
    for path in ["/request", "/backend", "/plain"] {
        let mut client = gateway.connect().await;
        let upgrade = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
        client.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n{upgrade}\r\n").as_bytes()).await;
        assert_eq!(client.response(false).await.status, 101, "{path}");
        let mut bytes = [0; 4];
        let read = tokio::time::timeout(PATIENCE, client.io.read_exact(&mut bytes)).await.unwrap();
        assert_eq!((read.unwrap(), &bytes), (4, b"late"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_clients_own_timeout_is_a_deadline() {
    let (_web, setup) = Way::H2c.setup(|_| Box::pin(std::future::pending())).await;
    let gateway = setup.rule("/", to("web")).start().await;
    let request = http::Request::post("http://shop.example/a.B/C")
        .header("content-type", "application/grpc")
        .header("grpc-timeout", "200m")
        .header("te", "trailers")
        .body(http_body_util::Full::default())
        .unwrap();
    let response = gateway.h2().await.send_request(request).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "4");
    assert_eq!(gateway.log_of(1).await[0]["reason"], "request_timeout");
}
