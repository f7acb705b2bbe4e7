//! How the endpoints of one backend policy are connected to, and under which key their connections are pooled.

use super::failure::OVERFLOW;
use super::load::ConnectionGuard;
use super::lost::keep_alive;
use super::metrics::BackendMetrics;
use super::stream::UpstreamTlsStream;
use super::tls::{Alpn, BackendTlsError, TlsClient};
use arc_swap::ArcSwap;
use foldhash::HashMap;
use pingora_core::protocols::l4::socket::SocketAddr as EngineAddr;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::protocols::tls::{ALPN, CustomALPN};
use pingora_core::protocols::{GetSocketDigest, SocketDigest};
use pingora_core::upstreams::peer::{Tracer, Tracing};
use pingora_core::{Error, ErrorType, Result};
use rustls::HandshakeKind;
use sluice_model::config::{BackendProtocol, CircuitBreaker};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// The engine hands a connection to [`super::UpstreamConnector`] where the peer's ALPN is `Custom`; the name says what is
/// to be spoken. It never goes over the wire: ALPN on the wire is the policy's.
const EITHER: &[u8] = b"sluice";
const HTTP1: &[u8] = b"sluice-1";

#[derive(Debug)]
pub(super) struct Transport {
    /// Never used twice in a process: two policies can't meet in a pool (the engine's own key has neither CA nor SANs).
    pub(super) id: u64,
    pub(super) protocol: BackendProtocol,
    /// `None`: clear text.
    tls: Option<TlsClient>,
    limits: CircuitBreaker,
    metrics: Arc<BackendMetrics>,
    alpn_either: ALPN,
    alpn_http1: ALPN,
    /// The endpoints answered HTTP_1_1_REQUIRED (RFC 9113, section 7).
    http1_required: AtomicBool,
}

impl Transport {
    pub(super) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// What the engine is told of the connection's protocol.
    pub(super) fn peer_alpn(&self, http1_only: bool) -> ALPN {
        match (self.is_tls(), self.protocol) {
            (_, BackendProtocol::Http2) => self.alpn_either.clone(),
            // Bytes never reach the engine.
            (false, _) | (true, BackendProtocol::WebSocket | BackendProtocol::Bytes | BackendProtocol::Datagrams) => {
                self.alpn_http1.clone()
            }
            (true, BackendProtocol::Http1) => {
                let http1_only = http1_only || self.http1_required.load(Relaxed);
                if http1_only { self.alpn_http1.clone() } else { self.alpn_either.clone() }
            }
        }
    }

    pub(super) fn require_http1(&self) {
        if self.protocol == BackendProtocol::Http1 && !self.http1_required.swap(true, Relaxed) {
            tracing::info!(
                backend = self.metrics.label(),
                "the endpoints want HTTP/1.1; HTTP/2 is not offered any more"
            );
        }
    }

    async fn tcp(&self, address: SocketAddr) -> Result<(TcpStream, ConnectionGuard)> {
        let guard = ConnectionGuard::acquire(&self.metrics, &self.limits).map_err(|_| {
            Error::explain(OVERFLOW, format!("connections to {} are at their limit", self.metrics.label()))
        })?;
        let mut pending = Unfinished(Some(&self.metrics));
        let connected = TcpStream::connect(address).await;
        pending.0 = None;
        match connected.and_then(|tcp| tcp.set_nodelay(true).and_then(|()| keep_alive(&tcp)).map(|()| tcp)) {
            Ok(tcp) => Ok((tcp, guard)),
            Err(error) => {
                self.metrics.connect_refused.inc();
                Err(Error::because(connect_error(&error), format!("connecting to {address}"), error))
            }
        }
    }

    /// A new TLS connection. The caller bounds its time.
    pub(super) async fn connect_tls(&self, address: SocketAddr, alpn: Alpn) -> Result<UpstreamTlsStream> {
        let Some(tls) = &self.tls else {
            return Error::e_explain(ErrorType::InternalError, "a backend without TLS was given to the TLS connector");
        };
        let start = Instant::now();
        let (tcp, guard) = self.tcp(address).await?;
        let mut pending = Unfinished(Some(&self.metrics));
        let shaken = tls.connect(tcp, alpn).await;
        pending.0 = None;
        let stream = shaken.map_err(|error| {
            self.metrics.connect_tls.inc();
            Error::because(handshake_error(&error), format!("TLS handshake with {address}"), error)
        })?;
        match stream.get_ref().1.handshake_kind() {
            Some(HandshakeKind::Resumed) => self.metrics.handshake_resumed.inc(),
            _ => self.metrics.handshake_full.inc(),
        };
        let stream = UpstreamTlsStream::new(stream, address, guard, start.elapsed());
        if alpn == Alpn::Http2 && !stream.speaks_http2() {
            self.metrics.connect_tls.inc();
            return Error::e_explain(
                ErrorType::TLSHandshakeFailure,
                format!("{address} did not agree on HTTP/2, which the backend's appProtocol asks for"),
            );
        }
        self.metrics.connect_ok.inc();
        Ok(stream)
    }

    /// A new connection in clear text. The caller bounds its time.
    pub(super) async fn connect_clear(&self, address: SocketAddr) -> Result<L4Stream> {
        let (tcp, guard) = self.tcp(address).await?;
        self.metrics.connect_ok.inc();
        let socket = SocketDigest::from_raw_fd(tcp.as_raw_fd());
        // A fresh cell is always free.
        let _ = socket.peer_addr.set(Some(EngineAddr::Inet(address)));
        let mut stream = L4Stream::from(tcp);
        stream.set_socket_digest(socket);
        stream.tracer = Some(Tracer(Box::new(Tracked { _guard: Some(guard) })));
        Ok(stream)
    }

    /// A handshake that counts neither for the circuit breaker nor as a connection, for active checks; `Err` with
    /// [`io::ErrorKind::Unsupported`] where the backend has no TLS.
    pub(super) async fn check_tls(&self, tcp: TcpStream) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        match &self.tls {
            Some(tls) => tls.connect(tcp, Alpn::of(self.protocol)).await,
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// A connection that is its holder's own. It counts until it is dropped.
pub(crate) struct Opened {
    pub(crate) io: Box<dyn ByteStream>,
    pub(crate) http2: bool,
    pub(crate) tls: bool,
    /// A TLS stream has its own.
    pub(crate) _guard: Option<Box<dyn Send>>,
}

pub(crate) trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for S {}

impl Transport {
    pub(super) async fn open(&self, address: SocketAddr) -> Result<Opened> {
        if self.is_tls() {
            let io = self.connect_tls(address, Alpn::of(self.protocol)).await?;
            return Ok(Opened { http2: io.speaks_http2(), io: Box::new(io), tls: true, _guard: None });
        }
        let (io, guard) = self.tcp(address).await?;
        self.metrics.connect_ok.inc();
        let http2 = self.protocol == BackendProtocol::Http2;
        Ok(Opened { io: Box::new(io), http2, tls: false, _guard: Some(Box::new(guard)) })
    }
}

/// Counts a timeout when the future that holds it is dropped half-way.
struct Unfinished<'a>(Option<&'a BackendMetrics>);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(metrics) = self.0 {
            metrics.connect_timeout.inc();
        }
    }
}

fn connect_error(error: &io::Error) -> ErrorType {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
        io::ErrorKind::TimedOut => ErrorType::ConnectTimedout,
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => ErrorType::ConnectNoRoute,
        _ => ErrorType::ConnectError,
    }
}

fn handshake_error(error: &io::Error) -> ErrorType {
    match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(_)) => ErrorType::InvalidCert,
        _ => ErrorType::TLSHandshakeFailure,
    }
}

/// Rides on an engine's stream to count it until it is closed.
#[derive(Debug)]
struct Tracked {
    _guard: Option<ConnectionGuard>,
}

impl Tracing for Tracked {
    fn on_connected(&self) {}
    fn on_disconnected(&self) {}
    /// The copy counts nothing: there is one connection.
    fn boxed_clone(&self) -> Box<dyn Tracing> {
        Box::new(Tracked { _guard: None })
    }
}

/// Which version a peer's ALPN asks our connector for; `None`: it is not ours.
pub(super) fn requested(alpn: Option<&ALPN>, protocol: BackendProtocol) -> Option<Alpn> {
    match alpn {
        Some(ALPN::Custom(name)) if name.protocol() == HTTP1 => Some(Alpn::Http1),
        Some(ALPN::Custom(name)) if name.protocol() == EITHER => Some(Alpn::of(protocol)),
        _ => None,
    }
}

/// Whether a peer's ALPN leaves HTTP/2 open.
pub(super) fn may_be_http2(alpn: Option<&ALPN>) -> bool {
    matches!(alpn, Some(ALPN::Custom(name)) if name.protocol() == EITHER)
}

/// All transports, by id: the engine's connector knows a peer by its numbers only. Read for new connections,
/// not for each request; written when a policy comes or goes.
#[derive(Clone, Debug, Default)]
pub(super) struct Transports {
    by_id: Arc<ArcSwap<HashMap<u64, Weak<Transport>>>>,
    last_id: Arc<AtomicU64>,
}

impl Transports {
    pub(super) fn create(
        &self,
        protocol: BackendProtocol,
        tls: Option<TlsClient>,
        limits: CircuitBreaker,
        metrics: Arc<BackendMetrics>,
    ) -> Arc<Transport> {
        let id = self.last_id.fetch_add(1, Relaxed) + 1;
        let transport = Arc::new(Transport {
            id,
            protocol,
            tls,
            limits,
            metrics,
            alpn_either: ALPN::Custom(CustomALPN::new(EITHER.to_vec())),
            alpn_http1: ALPN::Custom(CustomALPN::new(HTTP1.to_vec())),
            http1_required: AtomicBool::new(false),
        });
        self.by_id.rcu(|map| {
            let mut map = HashMap::clone(map);
            map.insert(id, Arc::downgrade(&transport));
            map
        });
        transport
    }

    pub(super) fn get(&self, id: u64) -> Option<Arc<Transport>> {
        self.by_id.load().get(&id)?.upgrade()
    }

    /// Forgets those that no backend holds any more.
    pub(super) fn sweep(&self) {
        if self.by_id.load().values().any(|transport| transport.strong_count() == 0) {
            self.by_id.rcu(|map| {
                let mut map = HashMap::clone(map);
                map.retain(|_, transport| transport.strong_count() > 0);
                map
            });
        }
    }
}

/// Whether the policy's TLS could be set up; kept with the backend so that its requests can be answered.
pub(super) type TransportResult = std::result::Result<Arc<Transport>, BackendTlsError>;
