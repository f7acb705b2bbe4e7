//! TLS: the certificate and the listener by SNI, versions, client certificates, resumption, and changes under way.

use super::client::{Client, Response};
use super::pki::Ca;
use super::*;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use sluice_model::config::{ClientValidation, TlsVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

type TlsClient = Client<tokio_rustls::client::TlsStream<TcpStream>>;

fn tls(certificates: Vec<CertificateKey>) -> ListenerTls {
    ListenerTls {
        certificates,
        min_version: TlsVersion::V1_2,
        cipher_suites: Vec::new(),
        http2: true,
        resumption: true,
        client_validation: None,
    }
}

fn validation(ca: &Ca, optional: bool) -> ClientValidation {
    ClientValidation { ca: vec![Arc::from(ca.der.as_ref())], optional }
}

struct Dialer(ClientConfig);

impl Dialer {
    fn new(ca: &Ca) -> Dialer {
        Dialer::versions(ca, rustls::ALL_VERSIONS, None)
    }

    fn versions(ca: &Ca, versions: &[&'static rustls::SupportedProtocolVersion], client: Option<&Ca>) -> Dialer {
        let mut roots = RootCertStore::empty();
        roots.add(ca.der.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match client {
            Some(ca) => {
                let (chain, key) = ca.client();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::in_memory_sessions(8);
        Dialer(config)
    }

    async fn connect(&self, address: SocketAddr, name: &str) -> std::io::Result<TlsClient> {
        let io = TcpStream::connect(address).await?;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let stream = within(TlsConnector::from(Arc::new(self.0.clone())).connect(name, io)).await?;
        Ok(Client::over(stream))
    }

    /// One request to `/info`; an error where the handshake, whenever it shows, is refused.
    async fn info(&self, address: SocketAddr, name: &str) -> std::io::Result<Response> {
        let mut client = self.connect(address, name).await?;
        within(client.io.write_all(format!("GET /info HTTP/1.1\r\nHost: {name}\r\n\r\n").as_bytes())).await?;
        // TLS 1.3 tells of a refused certificate with the first read.
        let mut first = [0];
        within(client.io.read_exact(&mut first)).await?;
        Ok(client.response_after(&first).await)
    }

    async fn leaf(&self, address: SocketAddr, name: &str) -> Vec<u8> {
        let client = self.connect(address, name).await.unwrap();
        client.io.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }
}

/// A gateway with one HTTPS listener for every host.
fn https(ca: &Ca, names: &[&str], change: impl FnOnce(&mut ListenerTls)) -> (Gateway, SocketAddr) {
    let mut gateway = Gateway::new();
    let key = gateway.add_certificate(ca.server(names));
    let mut settings = tls(vec![key]);
    change(&mut settings);
    let listeners = vec![listener("any", None, Some(settings), &Arc::new(Edge::default()))];
    let address = gateway.open(FIRST, Protocol::Https, listeners);
    (gateway, address)
}

#[tokio::test]
async fn requests_over_tls_know_listener_sni_and_version() {
    let ca = Ca::new("ca");
    let (_gateway, address) = https(&ca, &["a.test"], |_| {});
    let text = Dialer::new(&ca).info(address, "a.test").await.unwrap().text();
    assert!(text.contains("listener=any sni=a.test TLSv1_3 client=false"), "{text}");
}

#[tokio::test]
async fn rfc_6125_the_certificate_is_that_of_the_name_exactly_then_by_wildcard_then_the_first() {
    let ca = Ca::new("ca");
    let mut gateway = Gateway::new();
    let certificates = [ca.server(&["first.test"]), ca.server(&["*.wild.test"]), ca.server(&["b.wild.test"])];
    let leaves: Vec<_> = certificates.iter().map(|certificate| certificate.chain[0].to_vec()).collect();
    let keys = certificates.into_iter().map(|certificate| gateway.add_certificate(certificate)).collect();
    let listeners = vec![listener("any", None, Some(tls(keys)), &Arc::new(Edge::default()))];
    let address = gateway.open(FIRST, Protocol::Https, listeners);
    let dialer = Dialer::new(&ca);
    assert_eq!(dialer.leaf(address, "first.test").await, leaves[0]);
    assert_eq!(dialer.leaf(address, "a.wild.test").await, leaves[1]);
    assert_eq!(dialer.leaf(address, "b.wild.test").await, leaves[2]);
    // None covers it: the first is sent, and the client turns it down.
    let error = dialer.connect(address, "x.a.wild.test").await.err().unwrap();
    assert!(error.to_string().contains("NotValidForName") || error.to_string().contains("not valid for"), "{error}");
}

#[tokio::test]
async fn rfc_6066_3_a_name_that_no_listener_has_is_told_unrecognized_name() {
    let ca = Ca::new("ca");
    let mut gateway = Gateway::new();
    let key = gateway.add_certificate(ca.server(&["a.test"]));
    let listeners = vec![listener("a", Some("a.test"), Some(tls(vec![key])), &Arc::new(Edge::default()))];
    let address = gateway.open(FIRST, Protocol::Https, listeners);
    let dialer = Dialer::new(&ca);
    assert_eq!(dialer.info(address, "a.test").await.unwrap().status, 200);
    let error = dialer.connect(address, "b.test").await.err().unwrap();
    assert!(error.to_string().contains("UnrecognisedName"), "{error}");
}

#[tokio::test]
async fn each_listener_of_a_port_has_its_own_certificates_and_settings() {
    let ca = Ca::new("ca");
    let clients = Ca::new("clients");
    let mut gateway = Gateway::new();
    let open = gateway.add_certificate(ca.server(&["open.test"]));
    let closed = gateway.add_certificate(ca.server(&["closed.test"]));
    let edge = Arc::new(Edge::default());
    let guarded = ListenerTls { client_validation: Some(validation(&clients, false)), ..tls(vec![closed]) };
    let listeners = vec![
        listener("closed", Some("closed.test"), Some(guarded), &edge),
        listener("open", Some("open.test"), Some(tls(vec![open])), &edge),
    ];
    let address = gateway.open(FIRST, Protocol::Https, listeners);
    let stranger = Dialer::new(&ca);
    assert!(stranger.info(address, "open.test").await.unwrap().text().contains("listener=open"));
    assert!(stranger.info(address, "closed.test").await.is_err());
    let member = Dialer::versions(&ca, rustls::ALL_VERSIONS, Some(&clients));
    let text = member.info(address, "closed.test").await.unwrap().text();
    assert!(text.contains("listener=closed") && text.contains("client=true verified=true"), "{text}");
}

#[tokio::test]
async fn optional_client_validation_serves_everybody_and_says_who_was_verified() {
    let ca = Ca::new("ca");
    let clients = Ca::new("clients");
    let (_gateway, address) = https(&ca, &["a.test"], |tls| tls.client_validation = Some(validation(&clients, true)));
    let ask = |client: Option<Ca>| {
        let dialer = Dialer::versions(&ca, rustls::ALL_VERSIONS, client.as_ref());
        async move { dialer.info(address, "a.test").await.unwrap().text() }
    };
    assert!(ask(None).await.contains("client=false verified=false"));
    assert!(ask(Some(Ca::new("strangers"))).await.contains("client=true verified=false"));
    let member = Dialer::versions(&ca, rustls::ALL_VERSIONS, Some(&clients));
    assert!(member.info(address, "a.test").await.unwrap().text().contains("client=true verified=true"));
}

#[tokio::test]
async fn the_minimum_version_is_kept() {
    let ca = Ca::new("ca");
    let old = Dialer::versions(&ca, &[&rustls::version::TLS12], None);
    let (_gateway, address) = https(&ca, &["a.test"], |tls| tls.min_version = TlsVersion::V1_3);
    assert!(old.connect(address, "a.test").await.is_err());
    let (_gateway, address) = https(&ca, &["a.test"], |_| {});
    assert!(old.info(address, "a.test").await.unwrap().text().contains("TLSv1_2"));
}

#[tokio::test]
async fn listeners_of_one_port_have_minimum_versions_of_their_own() {
    let ca = Ca::new("ca");
    let mut gateway = Gateway::new();
    let (strict, lenient) = (ca.server(&["strict.test"]), ca.server(&["lenient.test"]));
    let (strict, lenient) = (gateway.add_certificate(strict), gateway.add_certificate(lenient));
    let edge = Arc::new(Edge::default());
    let only_1_3 = ListenerTls { min_version: TlsVersion::V1_3, ..tls(vec![strict]) };
    let listeners = vec![
        listener("strict", Some("strict.test"), Some(only_1_3), &edge),
        listener("lenient", Some("lenient.test"), Some(tls(vec![lenient])), &edge),
    ];
    let address = gateway.open(FIRST, Protocol::Https, listeners);
    for (version, strict) in [(&rustls::version::TLS12, None), (&rustls::version::TLS13, Some(200))] {
        let dialer = Dialer::versions(&ca, &[version], None);
        let answer = dialer.info(address, "lenient.test").await.unwrap();
        assert_eq!(answer.status, 200, "{version:?}");
        assert_eq!(dialer.info(address, "strict.test").await.ok().map(|answer| answer.status), strict, "{version:?}");
    }
}

#[tokio::test]
async fn only_the_cipher_suites_that_are_asked_for_are_offered() {
    let ca = Ca::new("ca");
    let wanted = "TLS_CHACHA20_POLY1305_SHA256";
    let (_gateway, address) = https(&ca, &["a.test"], |tls| tls.cipher_suites = vec![wanted.into()]);
    let client = Dialer::new(&ca).connect(address, "a.test").await.unwrap();
    let suite = client.io.get_ref().1.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
}

#[test]
fn a_list_of_suites_that_are_all_unknown_is_a_problem_that_names_the_known() {
    let edge = Arc::new(Edge::default());
    let settings = ListenerTls { cipher_suites: vec!["TLS_NULL".into()], ..tls(Vec::new()) };
    let listener = listener("any", None, Some(settings), &edge);
    let port = Arc::new(Port { protocol: Protocol::Https, edge, listeners: vec![listener] });
    let (_, problems) = PortState::build(FIRST, &port, &BTreeMap::new(), &mut TlsCache::default());
    assert!(problems[0].to_string().contains("TLS_AES_256_GCM_SHA384"), "{}", problems[0]);
    assert_eq!(problems[0].problem().field, "spec.listeners[name=any].tls");
}

#[tokio::test]
async fn a_session_is_resumed_across_a_change_of_certificates() {
    let ca = Ca::new("ca");
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let (mut gateway, address) = https(&ca, &["a.test"], |_| {});
        let dialer = Dialer::versions(&ca, &[version], None);
        assert_eq!(dialer.info(address, "a.test").await.unwrap().status, 200);
        let renewed = gateway.add_certificate(ca.server(&["a.test"]));
        let edge = Arc::new(Edge::default());
        gateway.open(FIRST, Protocol::Https, vec![listener("any", None, Some(tls(vec![renewed])), &edge)]);
        let client = dialer.connect(address, "a.test").await.unwrap();
        let kind = client.io.get_ref().1.handshake_kind();
        assert_eq!(kind, Some(rustls::HandshakeKind::Resumed), "{version:?}");
    }
}

#[tokio::test]
async fn without_resumption_every_handshake_is_whole() {
    let ca = Ca::new("ca");
    let (_gateway, address) = https(&ca, &["a.test"], |tls| tls.resumption = false);
    let dialer = Dialer::new(&ca);
    for _ in 0..2 {
        assert_eq!(dialer.info(address, "a.test").await.unwrap().status, 200);
        let client = dialer.connect(address, "a.test").await.unwrap();
        assert_eq!(client.io.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}

#[tokio::test]
async fn a_session_from_before_client_validation_does_not_get_around_it() {
    let ca = Ca::new("ca");
    let clients = Ca::new("clients");
    let (mut gateway, address) = https(&ca, &["a.test"], |_| {});
    let stranger = Dialer::new(&ca);
    assert_eq!(stranger.info(address, "a.test").await.unwrap().status, 200);
    let key = gateway.certificates.keys().next().unwrap().clone();
    let edge = Arc::new(Edge::default());
    let guarded = ListenerTls { client_validation: Some(validation(&clients, false)), ..tls(vec![key]) };
    gateway.open(FIRST, Protocol::Https, vec![listener("any", None, Some(guarded), &edge)]);
    assert!(stranger.info(address, "a.test").await.is_err());
}

#[tokio::test]
async fn a_changed_certificate_serves_the_next_connection_and_leaves_the_open_ones_alone() {
    let ca = Ca::new("ca");
    let (mut gateway, address) = https(&ca, &["a.test"], |_| {});
    let dialer = Dialer::new(&ca);
    let before = dialer.leaf(address, "a.test").await;
    let mut open = dialer.connect(address, "a.test").await.unwrap();
    assert_eq!(open.get("/1").await.status, 200);
    let key = gateway.add_certificate(ca.server(&["a.test"]));
    let after = gateway.certificates[&key].chain[0].to_vec();
    let edge = Arc::new(Edge::default());
    gateway.open(FIRST, Protocol::Https, vec![listener("any", None, Some(tls(vec![key])), &edge)]);
    assert_ne!(before, after);
    // A fresh client, as a resumed session shows no certificate.
    assert_eq!(Dialer::new(&ca).leaf(address, "a.test").await, after);
    assert_eq!(open.get("/2").await.status, 200);
}

#[test]
fn a_configuration_that_did_not_change_is_the_same_and_one_that_nobody_serves_is_forgotten() {
    let ca = Ca::new("ca");
    let certificate = ca.server(&["a.test"]);
    let key = certificate.key.clone();
    let certificates = BTreeMap::from([(key.clone(), Arc::new(certificate))]);
    let edge = Arc::new(Edge::default());
    let listener = listener("any", None, Some(tls(vec![key])), &edge);
    let mut cache = TlsCache::default();
    let settings = listener.tls.clone().unwrap();
    let first = cache.listener(&listener, &settings, &certificates).unwrap();
    let second = cache.listener(&listener, &settings, &certificates).unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    let former = Arc::downgrade(&first);
    drop((first, second));
    cache.sweep();
    assert!(former.upgrade().is_none());
    assert!(format!("{cache:?}").contains("configs: 0"));
}

#[tokio::test]
async fn a_handshake_that_is_not_finished_in_time_is_closed_and_counted() {
    let ca = Ca::new("ca");
    let mut gateway = Gateway::new();
    let key = gateway.add_certificate(ca.server(&["a.test"]));
    let edge = Arc::new(edge(|e| e.timeouts.handshake = Duration::from_millis(50)));
    let address = gateway.open(FIRST, Protocol::Https, vec![listener("any", None, Some(tls(vec![key])), &edge)]);
    let mut client = Client::connect(address).await;
    // A record's header, and nothing behind it.
    client.send([22, 3, 1, 2, 0]).await;
    client.rest().await;
    eventually("the timeout is counted", || gateway.metrics.timeout_hits("handshake") == 1).await;
    eventually("the connection is closed", || gateway.downstream.connections() == 0).await;
}

#[tokio::test]
async fn a_hello_without_end_is_cut_off() {
    let ca = Ca::new("ca");
    let (gateway, address) = https(&ca, &["a.test"], |_| {});
    let client = Client::connect(address).await;
    // Handshake records that say they belong to one message of 16 MiB.
    let mut record = vec![22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff];
    record.resize(5 + 0x4000, 0);
    for _ in 0..64 {
        if client.io.try_write(&record).is_err_and(|e| e.kind() != std::io::ErrorKind::WouldBlock) {
            break;
        }
        tokio::task::yield_now().await;
    }
    eventually("the connection is closed", || gateway.downstream.connections() == 0).await;
}

#[tokio::test]
async fn plain_http_on_a_tls_port_is_closed() {
    let ca = Ca::new("ca");
    let (gateway, address) = https(&ca, &["a.test"], |_| {});
    let mut client = Client::connect(address).await;
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    client.rest().await;
    assert_eq!(gateway.seen(), 0);
}

#[tokio::test]
async fn the_proxy_header_comes_before_tls_and_gives_the_clients_address() {
    let ca = Ca::new("ca");
    let mut gateway = Gateway::new();
    let key = gateway.add_certificate(ca.server(&["a.test"]));
    let edge = Arc::new(edge(|e| e.proxy_protocol = true));
    let address = gateway.open(FIRST, Protocol::Https, vec![listener("any", None, Some(tls(vec![key])), &edge)]);
    let mut io = TcpStream::connect(address).await.unwrap();
    io.write_all(b"PROXY TCP4 192.0.2.7 198.51.100.9 4711 443\r\n").await.unwrap();
    let connector = TlsConnector::from(Arc::new(Dialer::new(&ca).0));
    let stream = within(connector.connect(ServerName::try_from("a.test").unwrap(), io)).await.unwrap();
    let text = Client::over(stream).get("/info").await.text();
    assert!(text.contains("peer=192.0.2.7:4711 local=198.51.100.9:443"), "{text}");
    // Without the header nothing is served.
    let mut bare = Client::connect(address).await;
    bare.send([22, 3, 1, 2, 0]).await;
    bare.rest().await;
    assert_eq!(gateway.seen(), 1);
}
