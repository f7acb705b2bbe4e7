//! Certificates, endpoints and a gateway of a few lines.

use super::super::*;
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use ipnet::IpNet;
use pingora_core::apps::{HttpServerOptions, ServerApp};
use pingora_core::connectors::ConnectorOptions;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType,
};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use sluice_model::Hostname;
use sluice_model::config::*;
use sluice_model::object::NamespacedName;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub(super) struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub(super) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Ca(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(super) fn bundle(&self) -> BackendCa {
        BackendCa::Bundle(vec![Arc::from(self.der())])
    }

    fn der(&self) -> &[u8] {
        let certificate: &rcgen::Certificate = self.0.as_ref();
        certificate.der()
    }

    /// A leaf with these names; those with a scheme are URIs.
    pub(super) fn leaf(&self, names: &[&str]) -> Leaf {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names
            .iter()
            .map(|name| match name.contains("://") {
                true => SanType::URI((*name).try_into().unwrap()),
                false => SanType::DnsName((*name).try_into().unwrap()),
            })
            .collect();
        params.distinguished_name.push(DnType::CommonName, names.first().copied().unwrap_or("nobody"));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Leaf { chain: vec![certificate.der().to_vec()], key: key.serialize_der() }
    }
}

pub(super) struct Leaf {
    chain: Vec<Vec<u8>>,
    key: Vec<u8>,
}

impl Leaf {
    pub(super) fn server(&self, alpn: &[&[u8]], client_ca: Option<&Ca>) -> ServerConfig {
        self.server_with(alpn, client_ca, rustls::ALL_VERSIONS)
    }

    pub(super) fn server_with(
        &self,
        alpn: &[&[u8]],
        client_ca: Option<&Ca>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).unwrap();
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add(ca.der().to_vec().into()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let chain = self.chain.iter().map(|der| der.clone().into()).collect();
        let mut config = builder.with_single_cert(chain, self.key.clone().try_into().unwrap()).unwrap();
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        config
    }

    pub(super) fn as_certificate(&self, name: &str) -> Certificate {
        Certificate {
            key: CertificateKey { secret: None, sha256: name.into() },
            chain: self.chain.iter().map(|der| Arc::from(der.as_slice())).collect(),
            private_key: Arc::from(self.key.as_slice()),
            private_key_format: KeyFormat::Pkcs8,
            names: Vec::new(),
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 33),
        }
    }
}

pub(super) type Answer = Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>;

/// What an endpoint of the tests does with a request.
#[derive(Clone, Default)]
pub(super) struct Endpoint {
    /// Connections accepted so far.
    pub(super) connections: Arc<AtomicUsize>,
    /// Requests that have arrived so far.
    pub(super) requests: Arc<AtomicUsize>,
    /// Wait for this many requests at once before any is answered.
    pub(super) gather: Option<Arc<tokio::sync::Barrier>>,
    /// End each HTTP/1 connection after its answer.
    pub(super) close: bool,
    /// Never answer.
    pub(super) hang: bool,
    /// Answer 413 before the body is read.
    pub(super) refuse_body: bool,
}

impl Endpoint {
    /// Serves HTTP/1 and HTTP/2 on a free port, over TLS where a configuration is given.
    pub(super) async fn serve(&self, tls: Option<ServerConfig>) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = tls.map(|config| tokio_rustls::TlsAcceptor::from(Arc::new(config)));
        let this = self.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                this.connections.fetch_add(1, SeqCst);
                let (this, acceptor) = (this.clone(), acceptor.clone());
                tokio::spawn(async move {
                    match acceptor {
                        None => this.http(tcp, "none").await,
                        Some(acceptor) => {
                            let Ok(stream) = acceptor.accept(tcp).await else { return };
                            let client = match stream.get_ref().1.peer_certificates() {
                                Some(_) => "client-certificate",
                                None => "none",
                            };
                            this.http(stream, client).await;
                        }
                    }
                });
            }
        });
        address
    }

    pub(super) async fn http<S>(&self, stream: S, client: &'static str)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let this = self.clone();
        let service = service_fn(move |request| {
            let this = this.clone();
            async move { Ok::<_, Infallible>(this.answer(request, client).await) }
        });
        // Whatever the client does to its connection is its own affair.
        let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
            .serve_connection_with_upgrades(TokioIo::new(stream), service)
            .await;
    }

    async fn answer(&self, request: Request<Incoming>, client: &'static str) -> Answer {
        self.requests.fetch_add(1, SeqCst);
        if self.hang {
            std::future::pending::<()>().await;
        }
        if self.refuse_body {
            return Response::builder().status(413).body(Full::default().boxed()).unwrap();
        }
        if let Some(gather) = &self.gather {
            gather.wait().await;
        }
        let (parts, body) = request.into_parts();
        let mut response = Response::builder()
            .header("x-version", format!("{:?}", parts.version))
            .header("x-host", parts.uri.host().map(str::to_owned).unwrap_or_default())
            .header("x-client", client);
        if self.close && parts.version == http::Version::HTTP_11 {
            response = response.header("connection", "close");
        }
        if let Some(te) = parts.headers.get("te") {
            response = response.header("x-te", te);
        }
        let grpc = parts.headers.contains_key("grpc-timeout");
        let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let length = body.len().to_string();
        let body = Full::new(body);
        if grpc {
            let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
            return response.body(body.with_trailers(std::future::ready(Some(Ok(trailers)))).boxed()).unwrap();
        }
        response.header("x-length", length).body(body.boxed()).unwrap()
    }
}

/// A backend of the endpoints at these addresses.
pub(in crate::upstream) fn backend(name: &str, protocol: BackendProtocol, tls: Option<BackendTls>) -> Backend {
    Backend {
        key: BackendKey { service: NamespacedName::new("shop", name), uid: "uid-1".into(), port: 80, policy: 1 },
        protocol,
        tls: tls.map(Arc::new),
        policy: BackendPolicy::default(),
        source: EndpointSource::Slices(EndpointsKey { service: NamespacedName::new("shop", name), port: "".into() }),
    }
}

pub(super) fn endpoint_set(addresses: &[SocketAddr]) -> Arc<EndpointSet> {
    let endpoints = addresses.iter().map(|address| ready(*address)).collect();
    Arc::new(EndpointSet { endpoints })
}

pub(super) fn ready(address: SocketAddr) -> sluice_model::config::Endpoint {
    sluice_model::config::Endpoint {
        id: EndpointId { target: address.to_string().into(), address: address.ip(), port: address.port() },
        alternate: None,
        ready: true,
        serving: true,
        terminating: false,
        zone: None,
        for_zones: Vec::new(),
        for_nodes: Vec::new(),
        node: None,
    }
}

pub(super) fn tls_policy(hostname: &str, ca: BackendCa) -> BackendTls {
    BackendTls {
        hostname: Hostname::parse(hostname).unwrap(),
        subject_alt_names: Vec::new(),
        ca,
        client_certificate: None,
        min_version: TlsVersion::V1_2,
    }
}

pub(in crate::upstream) fn options() -> RegistryOptions {
    RegistryOptions::new(
        tokio::runtime::Handle::current(),
        UpstreamMetrics::default(),
        AddressGuard::new(std::iter::empty::<IpNet>()),
    )
}

/// The engine with the least that makes a gateway of it.
pub(super) struct Gateway {
    pub(super) registry: Registry,
    current: Arc<Mutex<Option<Arc<BackendRuntime>>>>,
    certificates: BTreeMap<CertificateKey, Arc<Certificate>>,
    pub(super) address: SocketAddr,
    /// Failures in the order in which they were seen.
    pub(super) failures: Arc<Mutex<Vec<Failure>>>,
    /// What the engine took for errors when requests were over.
    pub(super) errors: Arc<Mutex<Vec<String>>>,
    pub(super) timeout: Arc<Mutex<Option<Duration>>>,
    _stop: watch::Sender<bool>,
}

impl Gateway {
    pub(super) async fn start() -> Self {
        let registry = Registry::new(options());
        let current = Arc::default();
        let failures = Arc::default();
        let timeout = Arc::default();
        let errors = Arc::default();
        let app = App {
            errors: Arc::clone(&errors),
            current: Arc::clone(&current),
            failures: Arc::clone(&failures),
            timeout: Arc::clone(&timeout),
        };
        let conf = Arc::new(ServerConf::default());
        let mut engine = http_proxy(&conf, app, registry.connector(), ConnectorOptions::new(64)).await.unwrap();
        assert!(engine.server_options.is_none(), "nothing is left of how it was made");
        let mut server = HttpServerOptions::default();
        server.h2c = true;
        engine.server_options = Some(server);
        let engine = Arc::new(engine);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, shutdown) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (engine, shutdown) = (engine.clone(), shutdown.clone());
                tokio::spawn(async move {
                    let mut stream = Some(Box::new(L4Stream::from(tcp)) as pingora_core::protocols::Stream);
                    while let Some(next) = stream {
                        stream = engine.process_new(next, &shutdown).await;
                    }
                });
            }
        });
        Gateway { registry, current, certificates: BTreeMap::new(), address, failures, errors, timeout, _stop: stop }
    }

    pub(super) fn add_certificate(&mut self, certificate: Certificate) -> CertificateKey {
        let key = certificate.key.clone();
        self.certificates.insert(key.clone(), Arc::new(certificate));
        key
    }

    /// All requests go to this backend from now on.
    pub(super) fn route_to(&mut self, backend: Backend, endpoints: &[SocketAddr]) -> Arc<BackendRuntime> {
        let runtime = self.registry.backend(&Arc::new(backend), Some(&endpoint_set(endpoints)), &self.certificates);
        *self.current.lock().unwrap() = Some(runtime.clone());
        runtime
    }

    pub(super) async fn get(&self) -> Response<Bytes> {
        self.send(Request::get("/").body(Full::default()).unwrap()).await
    }

    /// Over a new HTTP/1 connection.
    pub(super) async fn send(&self, mut request: Request<Full<Bytes>>) -> Response<Bytes> {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await.unwrap();
        tokio::spawn(connection);
        request.headers_mut().insert("host", "shop.example".parse().unwrap());
        let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
        Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
    }

    pub(super) fn failed(&self) -> Vec<Failure> {
        std::mem::take(&mut self.failures.lock().unwrap())
    }
}

struct App {
    current: Arc<Mutex<Option<Arc<BackendRuntime>>>>,
    failures: Arc<Mutex<Vec<Failure>>>,
    errors: Arc<Mutex<Vec<String>>>,
    timeout: Arc<Mutex<Option<Duration>>>,
}

#[derive(Default)]
struct Ctx {
    deadline: Option<Deadline>,
    pick: Option<Pick>,
    tried: Tried,
    backend: Option<Arc<BackendRuntime>>,
}

impl App {
    fn failed(&self, ctx: &Ctx, error: &Error) -> Option<Failure> {
        let failure = Failure::of(error)?;
        self.failures.lock().unwrap().push(failure);
        if let Some(pick) = &ctx.pick {
            pick.report(Outcome::Failed(failure));
        }
        Some(failure)
    }
}

#[async_trait]
impl ProxyHttp for App {
    type CTX = Ctx;

    fn new_ctx(&self) -> Ctx {
        Ctx::default()
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Ctx) -> pingora_core::Result<Box<HttpPeer>> {
        let current = self.current.lock().unwrap().clone();
        let backend = ctx.backend.get_or_insert_with(|| current.unwrap());
        let request = PickRequest {
            headers: &session.req_header().headers,
            client: IpAddr::V4(Ipv4Addr::LOCALHOST),
            tried: &ctx.tried,
        };
        let pick = backend
            .pick(&request)
            .map_err(|error| Error::explain(ErrorType::HTTPStatus(error.reason().status()), error.to_string()))?;
        let settings = PeerSettings {
            connect_timeout: Duration::from_secs(1),
            read_timeout: *self.timeout.lock().unwrap(),
            write_timeout: None,
            http1_only: session.req_header().headers.contains_key("upgrade"),
        };
        let peer = pick.peer(&settings);
        ctx.tried.push(pick.address());
        ctx.pick = Some(pick);
        Ok(peer)
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        _reused: bool,
        _peer: &HttpPeer,
        _fd: std::os::unix::io::RawFd,
        digest: Option<&pingora_core::protocols::Digest>,
        ctx: &mut Ctx,
    ) -> pingora_core::Result<()> {
        ctx.deadline = digest.and_then(Deadline::of);
        if let (Some(deadline), Some(timeout)) = (&mut ctx.deadline, *self.timeout.lock().unwrap()) {
            deadline.set(std::time::Instant::now().checked_add(timeout));
        }
        if let Some(pick) = &mut ctx.pick {
            pick.connected();
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        _ctx: &mut Ctx,
    ) -> pingora_core::Result<()> {
        if session.req_header().headers.contains_key("te") {
            request.insert_header("te", "trailers")?;
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        _session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Ctx,
    ) -> pingora_core::Result<()> {
        if let Some(pick) = &ctx.pick {
            pick.report(Outcome::Response(response.status.as_u16()));
            response.insert_header("x-endpoint", pick.address().to_string())?;
        }
        Ok(())
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Ctx,
        mut error: Box<Error>,
    ) -> Box<Error> {
        if self.failed(ctx, &error) == Some(Failure::Connect) && ctx.tried.len() < 3 {
            error.set_retry(true);
        }
        error
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        _session: &mut Session,
        mut error: Box<Error>,
        ctx: &mut Ctx,
        reused: bool,
    ) -> Box<Error> {
        self.failed(ctx, &error);
        error.retry.decide_reuse(reused);
        error
    }

    async fn logging(&self, _session: &mut Session, error: Option<&Error>, _ctx: &mut Ctx) {
        self.errors.lock().unwrap().extend(error.map(ToString::to_string));
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, _ctx: &mut Ctx) -> FailToProxy {
        let code = match (error.etype(), Failure::of(error)) {
            (ErrorType::HTTPStatus(code), _) => *code,
            (_, Some(failure)) => failure.reason().status(),
            _ => 500,
        };
        let _ = session.respond_error(code).await;
        FailToProxy { error_code: code, can_reuse_downstream: false }
    }
}

/// Waits until `done`, and fails after ten seconds.
pub(in crate::upstream) async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(tokio::time::Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
