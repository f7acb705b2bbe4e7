//! Requests through a real engine to real endpoints.

use super::support::*;
use crate::upstream::Failure;
use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sluice_model::config::{BackendProtocol, HealthCheck};
use socket2::{SockFilter, SockRef};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

const H2: &[&[u8]] = &[b"h2", b"http/1.1"];

/// An address where nothing listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn clear_text_goes_over_the_version_that_the_backend_speaks() {
    let mut gateway = Gateway::start().await;
    let endpoint = Endpoint::default();
    let address = endpoint.serve(None).await;
    for (n, (protocol, version)) in
        [(BackendProtocol::Http1, "HTTP/1.1"), (BackendProtocol::Http2, "HTTP/2.0")].into_iter().enumerate()
    {
        let mut backend = backend("web", protocol, None);
        backend.key.policy = n as u64;
        let runtime = gateway.route_to(backend, &[address]);
        for _ in 0..3 {
            assert_eq!(gateway.get().await.headers()["x-version"], version);
        }
        assert_eq!(endpoint.connections.swap(0, SeqCst), 1, "one connection is used again");
        let (requests, pending, _) = runtime.state.metrics.load.counts();
        eventually("the requests are over", || runtime.state.metrics.load.counts().0 == 0).await;
        assert_eq!(pending, 0, "{requests} in flight");
    }
}

#[tokio::test]
async fn connections_are_counted_while_they_are_open() {
    let mut gateway = Gateway::start().await;
    let ca = Ca::new("ca");
    let plain = Endpoint::default().serve(None).await;
    let tls = Endpoint::default().serve(Some(ca.leaf(&["web.internal"]).server(H2, None))).await;
    let cases = [
        (backend("plain", BackendProtocol::Http1, None), plain),
        (backend("tls", BackendProtocol::Http1, Some(tls_policy("web.internal", ca.bundle()))), tls),
    ];
    for (mut backend, address) in cases {
        backend.policy.idle_timeout = Some(Duration::from_secs(1));
        let runtime = gateway.route_to(backend, &[address]);
        assert_eq!(gateway.get().await.status(), 200);
        eventually("it is idle", || runtime.state.metrics.load.counts() == (0, 0, 1)).await;
        assert_eq!(runtime.state.metrics.connect_ok.get(), 1);
        eventually("the idle connection is closed", || runtime.state.metrics.load.counts() == (0, 0, 0)).await;
    }
}

#[tokio::test]
async fn a_refused_connection_is_tried_on_another_endpoint() {
    let mut gateway = Gateway::start().await;
    let (dead, alive) = (nobody().await, Endpoint::default().serve(None).await);
    gateway.route_to(backend("web", BackendProtocol::Http1, None), &[dead, alive]);
    for _ in 0..10 {
        let response = gateway.get().await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["x-endpoint"], alive.to_string());
    }
    let failures = gateway.failed();
    assert!(!failures.is_empty() && failures.iter().all(|f| *f == Failure::Connect), "{failures:?}");
}

#[tokio::test]
async fn an_endpoint_that_keeps_failing_is_ejected() {
    let mut gateway = Gateway::start().await;
    let (dead, alive) = (nobody().await, Endpoint::default().serve(None).await);
    let runtime = gateway.route_to(backend("web", BackendProtocol::Http1, None), &[dead, alive]);
    for _ in 0..40 {
        assert_eq!(gateway.get().await.status(), 200);
    }
    let threshold = runtime.config().policy.outlier.consecutive_failures as usize;
    assert_eq!(gateway.failed().len(), threshold, "after that many it is left alone");
    assert_eq!(runtime.state.metrics.ejections.get(), 1);
}

#[tokio::test]
async fn a_circuit_breaker_refuses_connections_above_its_limit() {
    let mut gateway = Gateway::start().await;
    let endpoint = Endpoint { gather: Some(std::sync::Arc::new(tokio::sync::Barrier::new(2))), ..Endpoint::default() };
    let address = endpoint.serve(None).await;
    let mut backend = backend("web", BackendProtocol::Http1, None);
    backend.policy.circuit_breaker.max_connections = 2;
    let runtime = gateway.route_to(backend, &[address]);
    // Two are let through and wait for each other, the third is refused; which one it is does not matter.
    let mut statuses: Vec<u16> =
        futures::future::join_all((0..3).map(|_| async { gateway.get().await.status().as_u16() })).await;
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 503]);
    assert_eq!(gateway.failed(), [Failure::Overflow]);
    assert_eq!(runtime.state.metrics.overflow_connections.get(), 1);
}

#[tokio::test]
async fn trailers_and_te_pass_to_and_from_an_http2_endpoint_over_tls() {
    let ca = Ca::new("ca");
    let mut gateway = Gateway::start().await;
    let address = Endpoint::default().serve(Some(ca.leaf(&["web.internal"]).server(H2, None))).await;
    let policy = tls_policy("web.internal", ca.bundle());
    gateway.route_to(backend("web", BackendProtocol::Http2, Some(policy)), &[address]);

    let tcp = TcpStream::connect(gateway.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post("http://shop.example/pkg.Service/Method")
        .version(Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("grpc-timeout", "1S")
        .header("te", "trailers")
        .body(Full::new(Bytes::from_static(b"message")))
        .unwrap();
    let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
    assert_eq!(parts.status, 200);
    assert_eq!(parts.headers["x-te"], "trailers");
    assert_eq!(parts.headers["x-host"], "shop.example");
    let body = body.collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(body.to_bytes(), "message");
}

#[tokio::test]
async fn bodies_of_any_size_pass_over_http2_with_tls() {
    let ca = Ca::new("ca");
    let mut gateway = Gateway::start().await;
    let address = Endpoint::default().serve(Some(ca.leaf(&["web.internal"]).server(H2, None))).await;
    let policy = tls_policy("web.internal", ca.bundle());
    gateway.route_to(backend("web", BackendProtocol::Http2, Some(policy)), &[address]);
    for size in [0, 1, 100_000, 5_000_000] {
        let body = Bytes::from(vec![b'x'; size]);
        let response = gateway.send(Request::post("/").body(Full::new(body.clone())).unwrap()).await;
        assert_eq!(response.status(), 200, "{:?}", gateway.failed());
        assert!(*response.body() == body, "{size} bytes came back as {}", response.body().len());
    }
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_body_is_passed_on() {
    let ca = Ca::new("ca");
    let mut gateway = Gateway::start().await;
    let endpoint = Endpoint { refuse_body: true, ..Endpoint::default() };
    let address = endpoint.serve(Some(ca.leaf(&["web.internal"]).server(H2, None))).await;
    let policy = tls_policy("web.internal", ca.bundle());
    let runtime = gateway.route_to(backend("web", BackendProtocol::Http2, Some(policy)), &[address]);
    // More than any window: the endpoint stops the upload half-way.
    let body = Bytes::from(vec![b'x'; 20_000_000]);
    let response = gateway.send(Request::post("/").body(Full::new(body)).unwrap()).await;
    assert_eq!(response.status(), 413, "{:?}", gateway.failed());
    eventually("the exchange is over", || runtime.state.metrics.load.counts().0 == 0).await;
    assert_eq!(*gateway.errors.lock().unwrap(), Vec::<String>::new(), "nothing went wrong");
}

#[tokio::test]
async fn an_http2_connection_that_does_not_answer_in_time_takes_no_further_requests() {
    let ca = Ca::new("ca");
    let mut gateway = Gateway::start().await;
    *gateway.timeout.lock().unwrap() = Some(Duration::from_millis(100));
    let endpoint = Endpoint { hang: true, ..Endpoint::default() };
    let address = endpoint.serve(Some(ca.leaf(&["web.internal"]).server(H2, None))).await;
    let policy = tls_policy("web.internal", ca.bundle());
    let runtime = gateway.route_to(backend("web", BackendProtocol::Http2, Some(policy)), &[address]);
    for n in 1..=3 {
        assert_eq!(gateway.get().await.status(), 504);
        assert_eq!(gateway.failed(), [Failure::Timeout]);
        assert_eq!(endpoint.connections.load(SeqCst), n, "each on a connection of its own");
    }
    eventually("all is closed", || runtime.state.metrics.load.counts() == (0, 0, 0)).await;
}

/// Connections come about, and then nothing is acknowledged: as if the host were gone.
fn lost() -> (std::net::TcpListener, SocketAddr) {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    // Drops segments longer than the longest header of one without data, before TCP sees them.
    let no_data = [
        SockFilter::new(0x80, 0, 0, 0),
        SockFilter::new(0x25, 0, 1, 44),
        SockFilter::new(0x06, 0, 0, 0),
        SockFilter::new(0x06, 0, 0, u32::MAX),
    ];
    SockRef::from(&listener).attach_filter(&no_data).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test]
async fn an_endpoint_whose_host_is_gone_without_a_word_is_not_waited_for_until_the_timeout() {
    let through = async |protocol| {
        let mut gateway = Gateway::start().await;
        *gateway.timeout.lock().unwrap() = Some(Duration::from_secs(120));
        let (_listener, address) = lost();
        gateway.route_to(backend("web", protocol, None), &[address]);
        let answer = tokio::time::timeout(Duration::from_secs(60), gateway.get()).await.expect("before the timeout");
        assert_eq!((answer.status().as_u16(), gateway.failed()), (502, vec![Failure::Lost]), "{protocol:?}");
    };
    tokio::join!(through(BackendProtocol::Http1), through(BackendProtocol::Http2));
}

#[tokio::test]
async fn active_checks_take_an_endpoint_out_and_put_it_back() {
    for tls in [false, true] {
        let ca = Ca::new("ca");
        let server = || tls.then(|| ca.leaf(&["web.internal"]).server(H2, None));
        let (good, bad) = (Endpoint::default(), Endpoint { refuse_body: true, ..Endpoint::default() });
        let (good, bad) = (good.serve(server()).await, bad.serve(server()).await);
        let mut gateway = Gateway::start().await;
        let policy = tls.then(|| tls_policy("web.internal", ca.bundle()));
        let mut backend = backend("web", BackendProtocol::Http1, policy);
        backend.policy.health_check = Some(HealthCheck {
            path: Some("/healthz".into()),
            interval: Duration::from_millis(20),
            timeout: Duration::from_secs(5),
            ..HealthCheck::default()
        });
        let runtime = gateway.route_to(backend.clone(), &[good, bad]);
        let healthy = |runtime: &crate::upstream::BackendRuntime| -> Vec<bool> {
            runtime.state.current.load().endpoints().iter().map(|e| e.healthy()).collect()
        };
        eventually("the bad one is out", || healthy(&runtime) == [true, false]).await;
        for _ in 0..10 {
            assert_eq!(gateway.get().await.headers()["x-endpoint"], good.to_string());
        }
        // Its 413 is good now; the state is that of the same endpoint under the changed policy.
        if let Some(check) = &mut backend.policy.health_check {
            check.statuses = vec![200, 413];
        }
        backend.key.policy = 2;
        let runtime = gateway.route_to(backend, &[good, bad]);
        eventually("the bad one is back", || healthy(&runtime) == [true, true]).await;
    }
}

#[tokio::test]
async fn checks_end_with_their_backend() {
    let mut gateway = Gateway::start().await;
    let endpoint = Endpoint::default();
    let address = endpoint.serve(None).await;
    let mut checked = backend("web", BackendProtocol::Http1, None);
    let check = HealthCheck { interval: Duration::from_millis(5), ..HealthCheck::default() };
    checked.policy.health_check = Some(check);
    let state = std::sync::Arc::downgrade(&gateway.route_to(checked, &[address]).state);
    eventually("it is checked", || endpoint.connections.load(SeqCst) > 3).await;
    gateway.route_to(backend("other", BackendProtocol::Http1, None), &[]);
    eventually("the state is gone, and its task with it", || state.strong_count() == 0).await;
}

/// Resets each HTTP/2 stream with HTTP_1_1_REQUIRED, and answers over HTTP/1.
async fn http1_by_demand(tls: rustls::ServerConfig) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(tls));
    let http1 = Endpoint::default();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, http1) = (acceptor.clone(), http1.clone());
            tokio::spawn(async move {
                let stream = acceptor.accept(tcp).await.unwrap();
                if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                    return http1.http(stream, "none").await;
                }
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_request, mut respond))) = connection.accept().await {
                    respond.send_reset(h2::Reason::HTTP_1_1_REQUIRED);
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn an_endpoint_that_requires_http1_gets_it_from_then_on() {
    let ca = Ca::new("ca");
    let mut gateway = Gateway::start().await;
    let address = http1_by_demand(ca.leaf(&["web.internal"]).server(H2, None)).await;
    let policy = tls_policy("web.internal", ca.bundle());
    gateway.route_to(backend("web", BackendProtocol::Http1, Some(policy)), &[address]);
    for _ in 0..3 {
        let response = gateway.get().await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["x-version"], "HTTP/1.1");
    }
    assert_eq!(gateway.failed(), [Failure::Refused], "asked once, and remembered");
}
