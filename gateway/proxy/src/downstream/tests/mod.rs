//! The accept path over real sockets, with an engine that answers by itself. Time is bounded everywhere, and measured
//! nowhere: deadlines are configured small, and what should happen is waited for.
#![allow(clippy::unwrap_used, clippy::panic)]

mod client;
mod http1;
mod http1_refusals;
mod http2;
mod lifecycle;
mod pki;
mod tls;
mod websocket;

use super::*;
use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::protocols::http::ServerSession;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType};
use pingora_http::ResponseHeader;
use pingora_proxy::{HttpProxy, ProxyHttp, Session, http_proxy};
use sluice_model::config::{
    Carries, Certificate, CertificateKey, Edge, Listener, ListenerId, ListenerTls, Port, Protocol, Transport,
};
use sluice_model::object::NamespacedName;
use sluice_model::{HostPattern, Problem, Reason};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Longer than anything here takes; a test that gets this far has failed.
const LONG: Duration = Duration::from_secs(20);

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(LONG, future).await.unwrap_or_else(|_| panic!("nothing happened for {LONG:?}"))
}

/// Waits until `condition` holds.
async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    if tokio::time::timeout(LONG, wait).await.is_err() {
        panic!("never came true: {what}");
    }
}

/// What the engine's answers wait for, and what it has seen.
struct Stage {
    /// `/held` answers take one permit each.
    gate: Semaphore,
    held: AtomicUsize,
    seen: AtomicUsize,
    refused: Mutex<Vec<(u16, Reason, String, String)>>,
    /// Where `/proxied` goes.
    upstream: std::sync::OnceLock<SocketAddr>,
}

impl Default for Stage {
    fn default() -> Self {
        Stage {
            gate: Semaphore::new(0),
            held: AtomicUsize::new(0),
            seen: AtomicUsize::new(0),
            refused: Mutex::new(Vec::new()),
            upstream: std::sync::OnceLock::new(),
        }
    }
}

impl EdgeObserver for Stage {
    fn passed(&self, _connection: PassedConnection) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        unreachable!("all listeners here carry HTTP")
    }

    fn datagrams(&self, _port: DatagramPort) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        unreachable!("all listeners here carry HTTP")
    }

    fn refused(&self, _connection: &ConnectionInfo, refusal: &Refusal<'_>) {
        self.refused.lock().unwrap().push((
            refusal.status,
            refusal.reason,
            refusal.method.to_owned(),
            String::from_utf8_lossy(refusal.target).into_owned(),
        ));
    }
}

/// An engine that answers by itself, but for one path.
struct Answers(Arc<Stage>);

async fn respond(session: &mut Session, status: u16, body: String) -> pingora_core::Result<bool> {
    let mut head = ResponseHeader::build(status, Some(2))?;
    head.insert_header("content-length", body.len().to_string())?;
    session.write_response_header(Box::new(head), false).await?;
    session.write_response_body(Some(Bytes::from(body)), true).await?;
    Ok(true)
}

fn describe(session: &ServerSession) -> String {
    let info = ConnectionInfo::of(session.digest().unwrap()).unwrap();
    let mut text = format!("peer={} local={}", info.peer, info.local);
    if let Some(tls) = &info.tls {
        text += &format!(
            " listener={} sni={} {} client={} verified={}",
            tls.listener.name,
            tls.sni.as_deref().unwrap_or("-"),
            tls.version,
            tls.client_certificate.is_some(),
            tls.client_verified
        );
    }
    assert_eq!(session.client_addr().unwrap().as_inet().unwrap(), &info.peer);
    text
}

#[async_trait]
impl ProxyHttp for Answers {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn request_filter(&self, session: &mut Session, _ctx: &mut ()) -> pingora_core::Result<bool> {
        self.0.seen.fetch_add(1, Ordering::SeqCst);
        let path = session.req_header().uri.path().to_owned();
        match path.as_str() {
            "/info" => {
                let text = describe(session.as_downstream());
                respond(session, 200, text).await
            }
            "/length" => {
                let mut length = 0;
                while let Some(part) = session.as_downstream_mut().read_request_body().await? {
                    length += part.len();
                }
                respond(session, 200, length.to_string()).await
            }
            "/held" => {
                self.0.held.fetch_add(1, Ordering::SeqCst);
                self.0.gate.acquire().await.unwrap().forget();
                respond(session, 200, "released".to_owned()).await
            }
            "/large" => respond(session, 200, "x".repeat(4 * 1024 * 1024)).await,
            "/huge" => respond(session, 200, "x".repeat(64 * 1024 * 1024)).await,
            "/proxied" => Ok(false),
            "/panic" => panic!("asked for by a test"),
            "/websocket" => {
                let mut head = ResponseHeader::build(101, Some(2))?;
                head.insert_header("upgrade", "websocket")?;
                head.insert_header("connection", "upgrade")?;
                session.write_response_header(Box::new(head), false).await?;
                while let Some(part) = session.as_downstream_mut().read_request_body().await? {
                    session.write_response_body(Some(part), false).await?;
                }
                session.write_response_body(None, true).await?;
                Ok(true)
            }
            _ => respond(session, 200, path).await,
        }
    }

    async fn upstream_peer(&self, _session: &mut Session, _ctx: &mut ()) -> pingora_core::Result<Box<HttpPeer>> {
        let upstream = self.0.upstream.get().ok_or_else(|| Error::new(ErrorType::InternalError))?;
        Ok(Box::new(HttpPeer::new(upstream, false, String::new())))
    }
}

/// The accept path, as the data plane would hold it.
struct Gateway {
    downstream: Downstream,
    metrics: DownstreamMetrics,
    cache: TlsCache,
    certificates: BTreeMap<CertificateKey, Arc<Certificate>>,
    ports: BTreeMap<SocketAddr, Arc<Port>>,
    stage: Arc<Stage>,
}

fn engine(stage: &Arc<Stage>) -> Arc<HttpProxy<Answers>> {
    Arc::new(http_proxy(&Arc::new(ServerConf::default()), Answers(stage.clone())))
}

impl Gateway {
    fn with(options: DownstreamOptions) -> Gateway {
        let metrics = DownstreamMetrics::register(&mut prometheus_client::registry::Registry::default());
        let stage = Arc::new(Stage::default());
        let engines = stage.clone();
        let downstream = Downstream::start(options, &metrics, stage.clone(), move |_| engine(&engines)).unwrap();
        Gateway {
            downstream,
            metrics,
            cache: TlsCache::default(),
            certificates: BTreeMap::new(),
            ports: BTreeMap::new(),
            stage,
        }
    }

    fn new() -> Gateway {
        Gateway::with(DownstreamOptions { workers: 2, ..DownstreamOptions::default() })
    }

    /// A gateway with one port in clear, and the port's address.
    fn plain(edge: Edge) -> (Gateway, SocketAddr) {
        let mut gateway = Gateway::new();
        let address = gateway.open(FIRST, Protocol::Http, vec![listener("any", None, None, &Arc::new(edge))]);
        (gateway, address)
    }

    fn set(&mut self, address: SocketAddr, protocol: Protocol, listeners: Vec<Arc<Listener>>) {
        let edge = listeners.last().unwrap().edge.clone();
        self.ports.insert(address, Arc::new(Port { protocol, edge, listeners }));
    }

    fn apply(&mut self) -> Vec<Problem> {
        let mut states = Vec::new();
        for (address, port) in &self.ports {
            let (state, problems) = PortState::build(*address, port, &self.certificates, &mut self.cache);
            assert!(problems.is_empty(), "{problems:?}");
            states.push(Arc::new(state));
        }
        let problems = self.downstream.apply(states);
        self.cache.sweep();
        problems
    }

    fn open(&mut self, address: SocketAddr, protocol: Protocol, listeners: Vec<Arc<Listener>>) -> SocketAddr {
        self.set(address, protocol, listeners);
        let problems = self.apply();
        assert!(problems.is_empty(), "{problems:?}");
        self.downstream.local_addr(Transport::Tcp, address).unwrap()
    }

    fn add_certificate(&mut self, certificate: Certificate) -> CertificateKey {
        let key = certificate.key.clone();
        self.certificates.insert(key.clone(), Arc::new(certificate));
        key
    }

    fn seen(&self) -> usize {
        self.stage.seen.load(Ordering::SeqCst)
    }

    fn refusals(&self) -> Vec<(u16, Reason, String, String)> {
        self.stage.refused.lock().unwrap().clone()
    }
}

/// Addresses as a configuration would have them, with the port left to the kernel.
const FIRST: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 1)), 0);
const SECOND: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2)), 0);

fn listener(name: &str, host: Option<&str>, tls: Option<ListenerTls>, edge: &Arc<Edge>) -> Arc<Listener> {
    Arc::new(Listener {
        id: ListenerId { gateway: NamespacedName::new("test", "gateway"), name: name.into() },
        port: 80,
        hostname: HostPattern::parse_gateway(host).unwrap(),
        carries: Carries::Http,
        tls: tls.map(Arc::new),
        edge: edge.clone(),
        tracing: None,
    })
}

fn edge(change: impl FnOnce(&mut Edge)) -> Edge {
    let mut edge = Edge::default();
    change(&mut edge);
    edge
}
