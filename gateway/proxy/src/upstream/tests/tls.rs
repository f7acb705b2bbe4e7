//! TLS towards endpoints: who is trusted, who we are, what is spoken.

use super::support::*;
use crate::upstream::{Failure, PickError, PickRequest};
use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::Full;
use sluice_model::config::{BackendProtocol, BackendTls, SubjectAltName, TlsVersion};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

const H2: &[&[u8]] = &[b"h2", b"http/1.1"];
const H1: &[&[u8]] = &[b"http/1.1"];

async fn endpoint(ca: &Ca, names: &[&str], alpn: &[&[u8]]) -> SocketAddr {
    Endpoint::default().serve(Some(ca.leaf(names).server(alpn, None))).await
}

/// The status of a request through a gateway with this policy, and what the gateway saw.
async fn ask(tls: BackendTls, endpoint: SocketAddr) -> (u16, Vec<Failure>) {
    let mut gateway = Gateway::start().await;
    gateway.route_to(backend("web", BackendProtocol::Http1, Some(tls)), &[endpoint]);
    let status = gateway.get().await.status().as_u16();
    (status, gateway.failed())
}

#[tokio::test]
async fn a_trusted_endpoint_is_served_over_the_version_that_alpn_agrees_on() {
    let ca = Ca::new("ca");
    for (alpn, version) in [(H2, "HTTP/2.0"), (H1, "HTTP/1.1"), (&[][..], "HTTP/1.1")] {
        let mut gateway = Gateway::start().await;
        let address = endpoint(&ca, &["web.internal"], alpn).await;
        let policy = tls_policy("web.internal", ca.bundle());
        gateway.route_to(backend("web", BackendProtocol::Http1, Some(policy)), &[address]);
        for _ in 0..3 {
            let response = gateway.get().await;
            assert_eq!(response.status(), 200, "{:?}", gateway.failed());
            assert_eq!(response.headers()["x-version"], version);
        }
    }
}

#[tokio::test]
async fn a_certificate_without_the_host_name_is_refused() {
    let ca = Ca::new("ca");
    let address = endpoint(&ca, &["other.internal"], H2).await;
    assert_eq!(ask(tls_policy("web.internal", ca.bundle()), address).await, (502, vec![Failure::Tls]));
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_refused() {
    let ca = Ca::new("ca");
    let address = endpoint(&Ca::new("another"), &["web.internal"], H2).await;
    assert_eq!(ask(tls_policy("web.internal", ca.bundle()), address).await, (502, vec![Failure::Tls]));
}

#[tokio::test]
async fn subject_alt_names_replace_the_host_name_and_one_of_them_is_enough() {
    let ca = Ca::new("ca");
    let address = endpoint(&ca, &["one.internal", "spiffe://shop/web", "*.pods.internal"], H2).await;
    let cases = [
        (SubjectAltName::Dns("one.internal".into()), 200),
        (SubjectAltName::Dns("ONE.internal".into()), 200),
        (SubjectAltName::Uri("spiffe://shop/web".into()), 200),
        (SubjectAltName::Dns("a.pods.internal".into()), 200),
        (SubjectAltName::Dns("*.pods.internal".into()), 200),
        (SubjectAltName::Uri("spiffe://shop/WEB".into()), 502),
        (SubjectAltName::Uri("one.internal".into()), 502),
        (SubjectAltName::Dns("a.b.pods.internal".into()), 502),
        (SubjectAltName::Dns("two.internal".into()), 502),
    ];
    for (name, status) in cases {
        // The host name is not in the certificate: it is for SNI alone.
        let policy = tls_policy("front.internal", ca.bundle());
        let wrong = SubjectAltName::Dns("nobody.internal".into());
        let policy = BackendTls { subject_alt_names: vec![wrong, name.clone()], ..policy };
        assert_eq!(ask(policy, address).await.0, status, "{name:?}");
    }
    // And where there are names, the host name is not one of them.
    let policy = tls_policy("one.internal", ca.bundle());
    let policy = BackendTls { subject_alt_names: vec![SubjectAltName::Dns("two.internal".into())], ..policy };
    assert_eq!(ask(policy, address).await.0, 502);
}

#[tokio::test]
async fn a_pooled_connection_of_another_policy_does_not_stand_in_for_a_check() {
    let ca = Ca::new("ca");
    let wrong_ca = Ca::new("another");
    for alpn in [H1, H2] {
        let mut gateway = Gateway::start().await;
        let address = endpoint(&ca, &["web.internal"], alpn).await;
        let trusted = backend("web", BackendProtocol::Http1, Some(tls_policy("web.internal", ca.bundle())));
        // Everything that the engine's own pool key looks at is the same.
        let mut distrusted =
            backend("web", BackendProtocol::Http1, Some(tls_policy("web.internal", wrong_ca.bundle())));
        distrusted.key.policy = 2;
        for _ in 0..3 {
            gateway.route_to(trusted.clone(), &[address]);
            assert_eq!(gateway.get().await.status(), 200);
            gateway.route_to(distrusted.clone(), &[address]);
            assert_eq!(gateway.get().await.status(), 502);
            assert_eq!(gateway.failed(), [Failure::Tls]);
        }
    }
}

#[tokio::test]
async fn the_client_certificate_is_presented() {
    let (ca, clients) = (Ca::new("ca"), Ca::new("clients"));
    let server = || ca.leaf(&["web.internal"]).server(H2, Some(&clients));
    let address = Endpoint::default().serve(Some(server())).await;
    let mut gateway = Gateway::start().await;
    let key = gateway.add_certificate(clients.leaf(&["gateway.internal"]).as_certificate("client"));
    let policy = BackendTls { client_certificate: Some(key), ..tls_policy("web.internal", ca.bundle()) };
    gateway.route_to(backend("web", BackendProtocol::Http1, Some(policy)), &[address]);
    let response = gateway.get().await;
    assert_eq!(response.status(), 200, "{:?}", gateway.failed());
    assert_eq!(response.headers()["x-client"], "client-certificate");

    // Without it the same endpoint refuses.
    let mut without = backend("web", BackendProtocol::Http1, Some(tls_policy("web.internal", ca.bundle())));
    without.key.policy = 2;
    gateway.route_to(without, &[address]);
    assert_eq!(gateway.get().await.status(), 502);
}

#[tokio::test]
async fn a_client_certificate_that_is_not_loaded_fails_the_backend_and_says_so() {
    let ca = Ca::new("ca");
    let mut gateway = Gateway::start().await;
    let key = Ca::new("clients").leaf(&["gateway.internal"]).as_certificate("client").key;
    let policy = BackendTls { client_certificate: Some(key), ..tls_policy("web.internal", ca.bundle()) };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let runtime = gateway.route_to(backend("web", BackendProtocol::Http1, Some(policy)), &[address]);
    assert!(runtime.tls_error().unwrap().to_string().contains("client certificate built-in#client is not loaded"));
    let headers = HeaderMap::new();
    let request = PickRequest { headers: &headers, client: IpAddr::V4(Ipv4Addr::LOCALHOST), tried: &[] };
    assert_eq!(runtime.pick(&request).unwrap_err(), PickError::Tls);
    assert_eq!(gateway.get().await.status(), 502);
}

#[tokio::test]
async fn an_empty_ca_bundle_is_an_error_and_not_trust_in_everybody() {
    let mut gateway = Gateway::start().await;
    let policy = tls_policy("web.internal", sluice_model::config::BackendCa::Bundle(vec![Arc::from(&b"junk"[..])]));
    let runtime = gateway.route_to(backend("web", BackendProtocol::Http1, Some(policy)), &[]);
    assert!(runtime.tls_error().unwrap().to_string().contains("none of the 1 certificates"));
}

#[tokio::test]
async fn further_connections_resume_the_session() {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let ca = Ca::new("ca");
        let endpoint = Endpoint { close: true, ..Endpoint::default() };
        let mut server = ca.leaf(&["web.internal"]).server_with(H1, None, &[version]);
        server.session_storage = rustls::server::ServerSessionMemoryCache::new(32);
        let address = endpoint.serve(Some(server)).await;
        let mut gateway = Gateway::start().await;
        let policy = tls_policy("web.internal", ca.bundle());
        let runtime = gateway.route_to(backend("web", BackendProtocol::Http1, Some(policy)), &[address]);
        for _ in 0..4 {
            assert_eq!(gateway.get().await.status(), 200);
        }
        assert_eq!(endpoint.connections.load(SeqCst), 4, "the endpoint closes each");
        let metrics = &runtime.state.metrics;
        assert_eq!((metrics.handshake_full.get(), metrics.handshake_resumed.get()), (1, 3), "{version:?}");
    }
}

#[tokio::test]
async fn a_connection_takes_further_streams_while_its_first_is_open() {
    let ca = Ca::new("ca");
    // The first request is answered only when the second is there.
    let endpoint = Endpoint { gather: Some(Arc::new(tokio::sync::Barrier::new(2))), ..Endpoint::default() };
    let address = endpoint.serve(Some(ca.leaf(&["web.internal"]).server(H2, None))).await;
    let mut gateway = Gateway::start().await;
    let policy = tls_policy("web.internal", ca.bundle());
    gateway.route_to(backend("web", BackendProtocol::Http2, Some(policy)), &[address]);
    let second = async {
        eventually("the first has arrived", || endpoint.requests.load(SeqCst) == 1).await;
        gateway.get().await
    };
    let (first, second) = tokio::join!(gateway.get(), second);
    assert_eq!((first.status().as_u16(), second.status().as_u16()), (200, 200));
    assert_eq!(endpoint.connections.load(SeqCst), 1);
}

#[tokio::test]
async fn an_idle_http2_connection_takes_all_streams() {
    const REQUESTS: usize = 20;
    let ca = Ca::new("ca");
    let endpoint = Endpoint::default();
    let address = endpoint.serve(Some(ca.leaf(&["web.internal"]).server(H2, None))).await;
    let mut gateway = Gateway::start().await;
    let policy = tls_policy("web.internal", ca.bundle());
    gateway.route_to(backend("web", BackendProtocol::Http2, Some(policy)), &[address]);
    assert_eq!(gateway.get().await.status(), 200);
    let responses = futures::future::join_all((0..REQUESTS).map(|_| gateway.get())).await;
    assert!(responses.iter().all(|r| r.status() == 200));
    assert_eq!(endpoint.connections.load(SeqCst), 1);
}

#[tokio::test]
async fn a_request_that_upgrades_goes_over_http1_even_where_http2_is_pooled() {
    let ca = Ca::new("ca");
    let mut gateway = Gateway::start().await;
    let address = endpoint(&ca, &["web.internal"], H2).await;
    let policy = tls_policy("web.internal", ca.bundle());
    gateway.route_to(backend("web", BackendProtocol::Http1, Some(policy)), &[address]);
    assert_eq!(gateway.get().await.headers()["x-version"], "HTTP/2.0");
    let upgrade = Request::get("/")
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .body(Full::<Bytes>::default())
        .unwrap();
    assert_eq!(gateway.send(upgrade).await.headers()["x-version"], "HTTP/1.1");
    assert_eq!(gateway.get().await.headers()["x-version"], "HTTP/2.0");
}

#[tokio::test]
async fn a_backend_that_must_speak_http2_is_refused_where_it_does_not() {
    let ca = Ca::new("ca");
    let mut gateway = Gateway::start().await;
    let address = endpoint(&ca, &["web.internal"], &[]).await;
    let policy = tls_policy("web.internal", ca.bundle());
    gateway.route_to(backend("web", BackendProtocol::Http2, Some(policy)), &[address]);
    assert_eq!(gateway.get().await.status(), 502);
    assert_eq!(gateway.failed(), [Failure::Tls]);
}

#[tokio::test]
async fn the_minimum_version_is_kept() {
    let ca = Ca::new("ca");
    let old = ca.leaf(&["web.internal"]).server_with(H2, None, &[&rustls::version::TLS12]);
    let address = Endpoint::default().serve(Some(old)).await;
    let policy = tls_policy("web.internal", ca.bundle());
    assert_eq!(ask(policy.clone(), address).await.0, 200);
    let policy = BackendTls { min_version: TlsVersion::V1_3, ..policy };
    assert_eq!(ask(policy, address).await, (502, vec![Failure::Tls]));
}

#[tokio::test]
async fn an_endpoint_that_never_finishes_its_handshake_is_a_connect_timeout() {
    let silent = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let ca = Ca::new("ca");
    let mut gateway = Gateway::start().await;
    let policy = tls_policy("web.internal", ca.bundle());
    let runtime =
        gateway.route_to(backend("web", BackendProtocol::Http1, Some(policy)), &[silent.local_addr().unwrap()]);
    assert_eq!(gateway.get().await.status(), 504);
    assert_eq!(gateway.failed(), [Failure::ConnectTimeout]);
    assert_eq!(runtime.state.metrics.connect_timeout.get(), 1);
    assert_eq!(runtime.state.metrics.load.counts(), (0, 0, 0), "nothing is left behind");
}
