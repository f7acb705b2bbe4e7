//! A real gateway in this process, with a configuration put together by hand, real backends, and clients on real sockets.
#![allow(dead_code, unreachable_pub, reason = "shared by test binaries, each of which uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it cannot go on")]

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use prometheus_client::registry::Registry;
use sluice_model::config::*;
use sluice_model::object::NamespacedName;
use sluice_model::plugin::PluginUse;
use sluice_model::{HostPattern, Kind, ObjectRef};
use sluice_proxy::access_log::AccessLogTarget;
use sluice_proxy::{Proxy, ProxyOptions};
use sluice_wasm::{HostOptions, PluginHost};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Longer than anything here takes; what needs it has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub type Answer = Pin<Box<dyn Future<Output = Response<Full<Bytes>>> + Send>>;

/// What a backend has seen.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub version: http::Version,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// A backend that speaks HTTP/1 and HTTP/2 in clear.
pub struct Server {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Answers 200 with its name.
    pub async fn named(name: &'static str) -> Server {
        Server::with(move |_| Box::pin(async move { text(200, name) })).await
    }

    pub async fn with(answer: impl Fn(Seen) -> Answer + Send + Sync + 'static) -> Server {
        Server::serving(None, answer).await
    }

    /// Over TLS, with the name `web.internal`: HTTP/2 where the client wants it, else HTTP/1.
    pub async fn over_tls(tls: &BackendTlsFixture, answer: impl Fn(Seen) -> Answer + Send + Sync + 'static) -> Server {
        Server::serving(Some(tls.acceptor.clone()), answer).await
    }

    async fn serving(
        tls: Option<tokio_rustls::TlsAcceptor>,
        answer: impl Fn(Seen) -> Answer + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (log, answer) = (seen.clone(), Arc::new(answer));
        let task = tokio::spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                let (log, answer, tls) = (log.clone(), answer.clone(), tls.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let (log, answer) = (log.clone(), answer.clone());
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await?.to_bytes();
                        let seen = Seen {
                            method: head.method.to_string(),
                            target: head.uri.path_and_query().map_or_else(String::new, ToString::to_string),
                            version: head.version,
                            headers: head.headers,
                            body,
                        };
                        log.lock().unwrap().push(seen.clone());
                        Ok::<_, hyper::Error>(answer(seen).await)
                    }
                });
                tokio::spawn(async move {
                    let builder = auto::Builder::new(TokioExecutor::new());
                    match tls {
                        None => drop(builder.serve_connection(TokioIo::new(io), service).await),
                        Some(tls) => {
                            let Ok(io) = tls.accept(io).await else { return };
                            drop(builder.serve_connection(TokioIo::new(io), service).await);
                        }
                    }
                });
            }
        });
        Server { address, seen, task }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The only request.
    pub fn one(&self) -> Seen {
        let seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen.into_iter().next().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a backend with TLS needs, and what the gateway is told of it.
pub struct BackendTlsFixture {
    acceptor: tokio_rustls::TlsAcceptor,
    pub policy: Arc<BackendTls>,
}

impl BackendTlsFixture {
    pub fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["web.internal".into()]).unwrap();
        let der = made.cert.der().clone();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![der.clone()], key)
            .unwrap();
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let policy = BackendTls {
            hostname: sluice_model::Hostname::parse("web.internal").unwrap(),
            subject_alt_names: Vec::new(),
            ca: BackendCa::Bundle(vec![Arc::from(der.as_ref())]),
            client_certificate: None,
            min_version: TlsVersion::V1_2,
        };
        BackendTlsFixture { acceptor: Arc::new(server).into(), policy: Arc::new(policy) }
    }
}

/// The ways to a backend: HTTP/1, HTTP/2, and HTTP/2 over TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Http1,
    H2c,
    Tls,
}

impl Way {
    pub const ALL: [Way; 3] = [Way::Http1, Way::H2c, Way::Tls];

    /// A gateway before one backend that is reached this way.
    pub async fn setup(self, answer: impl Fn(Seen) -> Answer + Send + Sync + 'static) -> (Server, Setup) {
        let tls = BackendTlsFixture::new();
        let server = match self {
            Way::Tls => Server::over_tls(&tls, answer).await,
            Way::Http1 | Way::H2c => Server::with(answer).await,
        };
        let setup = Setup::new().backend_with("web", &[server.address], |backend| match self {
            Way::Http1 => {}
            Way::H2c => backend.protocol = BackendProtocol::Http2,
            Way::Tls => backend.tls = Some(tls.policy.clone()),
        });
        (server, setup)
    }
}

pub fn text(status: u16, body: &str) -> Response<Full<Bytes>> {
    Response::builder().status(status).body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap()
}

/// An address where nobody listens.
pub fn nobody() -> SocketAddr {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap()
}

/// A configuration with one listener for every host.
pub struct Setup {
    pub config: Config,
    port: SocketAddr,
    pub edge: Edge,
    matches: BTreeMap<String, (Vec<RouteMatch>, Vec<Arc<Rule>>)>,
}

pub fn listener_id() -> ListenerId {
    ListenerId { gateway: NamespacedName::new("shop", "gw"), name: "http".into() }
}

pub fn backend_key(name: &str) -> BackendKey {
    BackendKey { service: NamespacedName::new("shop", name), uid: name.into(), port: 80, policy: 0 }
}

impl Setup {
    pub fn new() -> Setup {
        // The port is the kernel's choice: the configuration's address is only a key.
        let port = "127.0.0.1:0".parse().unwrap();
        Setup { config: Config::default(), port, edge: Edge::default(), matches: BTreeMap::new() }
    }

    pub fn edge(mut self, change: impl FnOnce(&mut Edge)) -> Setup {
        change(&mut self.edge);
        self
    }

    /// A backend with these endpoints.
    pub fn backend(self, name: &str, endpoints: &[SocketAddr]) -> Setup {
        self.backend_with(name, endpoints, |_| {})
    }

    pub fn backend_with(mut self, name: &str, endpoints: &[SocketAddr], change: impl FnOnce(&mut Backend)) -> Setup {
        let key = EndpointsKey { service: NamespacedName::new("shop", name), port: "".into() };
        let mut backend = Backend {
            key: backend_key(name),
            protocol: BackendProtocol::Http1,
            tls: None,
            policy: BackendPolicy::default(),
            source: EndpointSource::Slices(key.clone()),
        };
        change(&mut backend);
        let endpoint = |(i, address): (usize, &SocketAddr)| Endpoint {
            id: EndpointId { target: format!("{name}-{i}").into(), address: address.ip(), port: address.port() },
            alternate: None,
            ready: true,
            serving: true,
            terminating: false,
            zone: None,
            for_zones: Vec::new(),
            for_nodes: Vec::new(),
            node: None,
        };
        let endpoints = endpoints.iter().enumerate().map(endpoint).collect();
        self.config.backends.insert(backend.key.clone(), Arc::new(backend));
        self.config.endpoints.insert(key, Arc::new(EndpointSet { endpoints }));
        self
    }

    /// One rule for a path prefix of every host.
    pub fn rule(self, prefix: &str, rule: Rule) -> Setup {
        self.host_rule("*", prefix, rule)
    }

    pub fn host_rule(self, host: &str, prefix: &str, rule: Rule) -> Setup {
        let path = PathMatch::Prefix(prefix.trim_end_matches('/').into());
        self.matched(host, RouteMatch::of_path(path, 0), rule)
    }

    pub fn matched(mut self, host: &str, mut matched: RouteMatch, rule: Rule) -> Setup {
        let (matches, rules) = self.matches.entry(host.to_owned()).or_default();
        matched.rule = rules.len() as u32;
        matches.push(matched);
        rules.push(Arc::new(rule));
        self
    }

    pub fn build(mut self) -> Arc<Config> {
        let edge = Arc::new(self.edge);
        let listener = Listener {
            id: listener_id(),
            port: 80,
            hostname: HostPattern::Any,
            carries: Carries::Http,
            tls: None,
            edge: edge.clone(),
            tracing: None,
        };
        let port = Port { protocol: Protocol::Http, edge, listeners: vec![Arc::new(listener)] };
        self.config.ports.insert(self.port, Arc::new(port));
        let hosts = self.config.virtual_hosts.entry(listener_id()).or_default();
        for (host, (mut matches, rules)) in self.matches {
            matches.sort_by(sluice_model::matcher::precedence);
            let hostname = HostPattern::parse_gateway(Some(&host)).unwrap();
            hosts.insert(
                hostname.clone(),
                Arc::new(VirtualHost { hostname, matches: matches.into(), rules: rules.into() }),
            );
        }
        Arc::new(self.config)
    }

    pub async fn start(self) -> Gateway {
        Gateway::start(self.build()).await
    }
}

/// A rule that forwards to one backend.
pub fn to(backend: &str) -> Rule {
    forward(vec![weighted(backend, 1)])
}

pub fn weighted(backend: &str, weight: u32) -> WeightedBackend {
    WeightedBackend {
        weight,
        target: BackendTarget::Backend(backend_key(backend)),
        filters: Filters::none(),
        session: None,
    }
}

pub fn forward(backends: Vec<WeightedBackend>) -> Rule {
    rule(Action::Forward(backends))
}

pub fn rule(action: Action) -> Rule {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    Rule {
        id: RuleId { route: ObjectRef::new(Kind::HTTPRoute, "shop", format!("route-{number}")), rule: "0".into() },
        filters: Filters::none(),
        action,
        request_timeout: None,
        backend_timeout: None,
        retry: Arc::default(),
        plugins: Vec::<PluginUse>::new(),
        client: Arc::default(),
    }
}

pub trait With: Sized {
    fn with(self, change: impl FnOnce(&mut Self)) -> Self;
}

impl With for Rule {
    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

/// The gateway under test.
pub struct Gateway {
    pub proxy: Proxy,
    pub address: SocketAddr,
    registry: Registry,
    log: PathBuf,
    _folder: tempfile::TempDir,
}

impl Gateway {
    pub async fn start(config: Arc<Config>) -> Gateway {
        Gateway::start_with(config, |_| {}).await
    }

    pub async fn start_with(config: Arc<Config>, change: impl FnOnce(&mut ProxyOptions)) -> Gateway {
        let mut registry = Registry::default();
        let small = HostOptions { instances: 16, max_memory: 16 << 20, ..HostOptions::default() };
        let plugins = Arc::new(PluginHost::new(small, &mut registry).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("access.log");
        let mut options =
            ProxyOptions { workers: 1, access_log: AccessLogTarget::File(log.clone()), ..ProxyOptions::default() };
        change(&mut options);
        let port = *config.ports.keys().next().unwrap();
        let proxy = Proxy::new(options, &mut registry, plugins).unwrap();
        let applied = proxy.apply(config);
        assert!(applied.problems.is_empty(), "{:?}", applied.problems);
        let address = proxy.local_addr(Transport::Tcp, port).unwrap();
        Gateway { proxy, address, registry, log, _folder: folder }
    }

    pub async fn get(&self, path: &str) -> Got {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: shop.example\r\n\r\n")).await
    }

    /// Sends these bytes on a connection of their own, and reads one response.
    pub async fn send(&self, request: impl AsRef<[u8]>) -> Got {
        let mut client = self.connect().await;
        client.send(request.as_ref()).await;
        client.response(request.as_ref().starts_with(b"HEAD")).await
    }

    pub async fn connect(&self) -> Client {
        Client { io: TcpStream::connect(self.address).await.unwrap(), buffer: Vec::new() }
    }

    /// The access log so far, line by line.
    pub fn log(&self) -> Vec<serde_json::Value> {
        self.proxy.flush_access_log(PATIENCE);
        let text = std::fs::read_to_string(&self.log).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The access log once it has `n` lines: a line is written after the response was sent.
    pub async fn log_of(&self, n: usize) -> Vec<serde_json::Value> {
        eventually(|| Some(self.log()).filter(|lines| lines.len() >= n)).await
    }

    pub fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }

    /// An HTTP/2 client with prior knowledge.
    pub async fn h2(&self) -> hyper::client::conn::http2::SendRequest<Full<Bytes>> {
        let io = TokioIo::new(TcpStream::connect(self.address).await.unwrap());
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        sender
    }
}

/// Asks until there is an answer.
pub async fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(std::time::Instant::now() < deadline, "it never came to be");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A response as a client read it.
#[derive(Clone, Debug)]
pub struct Got {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Got {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }
}

/// A raw HTTP/1 client.
pub struct Client {
    pub io: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    pub async fn send(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
    }

    pub async fn response(&mut self, head_only: bool) -> Got {
        tokio::time::timeout(PATIENCE, self.read_response(head_only)).await.expect("a response in time")
    }

    async fn read_response(&mut self, head_only: bool) -> Got {
        let end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at;
            }
            assert!(self.more().await, "the connection was closed before a response: {:?}", lossy(&self.buffer));
        };
        let head = lossy(&self.buffer[..end]);
        self.buffer.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let split = |line: &str| line.split_once(':').map(|(n, v)| (n.to_owned(), v.trim().to_owned())).unwrap();
        let headers: Vec<_> = lines.map(split).collect();
        let mut got = Got { status, headers, body: String::new() };
        if head_only || status == 204 || status == 304 || status < 200 {
            return got;
        }
        let body = match got.header("content-length") {
            Some(length) => self.exactly(length.parse().unwrap()).await,
            None if got.header("transfer-encoding") == Some("chunked") => self.chunked().await,
            None => {
                while self.more().await {}
                std::mem::take(&mut self.buffer)
            }
        };
        got.body = lossy(&body);
        got
    }

    async fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.buffer.len() < length {
            assert!(self.more().await, "the body ended early");
        }
        self.buffer.drain(..length).collect()
    }

    async fn chunked(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                if let Some(at) = find(&self.buffer, b"\r\n") {
                    break at;
                }
                assert!(self.more().await, "the body ended early");
            };
            let size = usize::from_str_radix(&lossy(&self.buffer[..end]), 16).unwrap();
            self.buffer.drain(..end + 2);
            body.extend(self.exactly(size).await);
            self.exactly(2).await;
            if size == 0 {
                return body;
            }
        }
    }

    async fn more(&mut self) -> bool {
        let mut bytes = [0; 4096];
        let n = self.io.read(&mut bytes).await.unwrap_or(0);
        self.buffer.extend_from_slice(&bytes[..n]);
        n > 0
    }

    /// Whether the gateway has closed its side.
    pub async fn is_closed(&mut self) -> bool {
        !tokio::time::timeout(PATIENCE, self.more()).await.expect("an end in time")
    }
}

fn find(within: &[u8], what: &[u8]) -> Option<usize> {
    within.windows(what.len()).position(|window| window == what)
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
