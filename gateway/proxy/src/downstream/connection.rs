//! One client connection: what is known of it, its place in the limits, and the way from the accepted socket to the
//! protocol that it speaks.

use super::datagrams::DatagramPort;
use super::handshake::{End, Greeted};
use super::open_port::{ConnectionPermit, OpenPort};
use super::passed::PassedConnection;
use super::port::PortState;
use super::stream::DownstreamStream;
use super::transport::Transport;
use super::{handshake, http1, http2, proxy_protocol};
use bytes::Bytes;
use http::HeaderValue;
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::Digest;
use sluice_model::Reason;
use sluice_model::config::{Carries, Edge, ListenerId, Protocol};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use tokio::net::TcpStream;

/// What every request of a connection may know of it. It reaches `ProxyHttp` with the session's digest, on HTTP/1 and
/// HTTP/2: [`ConnectionInfo::of`].
#[derive(Debug)]
pub struct ConnectionInfo {
    /// The key of the port in the configuration, for [`crate::snapshot::Snapshot::ports`].
    pub port: SocketAddr,
    /// Where the client connected to, from the PROXY header where there is one.
    pub local: SocketAddr,
    /// The client, from the PROXY header where there is one.
    pub peer: SocketAddr,
    /// The other end of the TCP connection.
    pub transport_peer: SocketAddr,
    /// `peer`'s address as a field's value, once a request has needed it.
    pub peer_field: OnceLock<HeaderValue>,
    pub tls: Option<TlsInfo>,
    /// When the connection was accepted.
    pub accepted: Instant,
}

/// The outcome of a handshake.
#[derive(Debug)]
pub struct TlsInfo {
    /// The listener that the SNI chose. A request for a host of another listener is misdirected (421).
    pub listener: ListenerId,
    /// Lower case.
    pub sni: Option<Box<str>>,
    /// `TLSv1_2` or `TLSv1_3`.
    pub version: &'static str,
    /// The suite's name with rustls, as `TLS13_AES_256_GCM_SHA384`.
    pub cipher: &'static str,
    /// DER of the client's certificate, where it sent one.
    pub client_certificate: Option<Box<[u8]>>,
    /// Whether `client_certificate` is signed by the listener's CAs. Only where validation is optional can this be
    /// `false` with a certificate present.
    pub client_verified: bool,
}

impl ConnectionInfo {
    /// The connection of a session, by `session.digest()`.
    pub fn of(digest: &Digest) -> Option<&ConnectionInfo> {
        digest.proxy_digest.as_ref()?.user_data.as_ref()?.downcast_ref()
    }
}

/// A request that was answered before the engine saw it, because HTTP/1 forbids to interpret it or a limit does.
#[derive(Clone, Copy, Debug)]
pub struct Refusal<'r> {
    pub reason: Reason,
    /// The status that was sent.
    pub status: u16,
    /// `HTTP/1.1` or `HTTP/2`.
    pub protocol: &'static str,
    /// Empty where the request line could not be read as far, and on HTTP/2.
    pub method: &'r str,
    /// As it was sent, at most 8 KiB of it.
    pub target: &'r [u8],
    pub host: Option<&'r [u8]>,
    /// When the first byte of the request was read.
    pub started: Instant,
    /// Bytes of the response.
    pub sent: usize,
}

/// Who is told what happens before a request reaches the engine (the access log and the request metrics), and who takes
/// what never does.
pub trait EdgeObserver: Send + Sync + 'static {
    fn refused(&self, connection: &ConnectionInfo, refusal: &Refusal<'_>);

    /// A connection to a listener that carries bytes ([`sluice_model::config::Carries::Bytes`]), for as long as the
    /// future runs.
    fn passed(&self, connection: PassedConnection) -> Pin<Box<dyn Future<Output = ()> + Send>>;

    /// A socket of a UDP port, for as long as the future runs: it takes datagrams until the port stops, and lets go.
    fn datagrams(&self, port: DatagramPort) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// What the protocols share of one connection while it is served.
pub(super) struct Connection {
    pub(super) port: Arc<OpenPort>,
    pub(super) state: Arc<PortState>,
    /// Of the listener that the SNI chose; of the port where there is none.
    pub(super) edge: Arc<Edge>,
    pub(super) accepted: Instant,
}

impl Connection {
    /// Whether the connection has lived for as long as its edge lets it.
    pub(super) fn aged(&self) -> bool {
        self.edge.timeouts.connection_max.is_some_and(|max| self.accepted.elapsed() >= max)
    }
}

/// Serves one accepted socket to its end.
pub(super) async fn serve<A>(io: TcpStream, peer: SocketAddr, permit: ConnectionPermit, app: Arc<A>)
where
    A: HttpServerApp + Send + Sync + 'static,
{
    let port = permit.port().clone();
    let accepted = Instant::now();
    // What is needed to come this far is freed with its box: an idle connection keeps the rest only.
    let (stream, connection) = match Box::pin(establish(io, peer, permit, port.clone(), accepted)).await {
        Some(Established::Http(stream, connection)) => (stream, connection),
        Some(Established::Bytes(passed)) => return port.shared.observer.passed(*passed).await,
        None => return,
    };
    drop(port);
    if stream.negotiated_http2() {
        Box::pin(http2::serve(stream, &connection, &app)).await;
    } else {
        http1::serve(stream, connection, app).await;
    }
}

enum Established {
    Http(Box<DownstreamStream>, Connection),
    Bytes(Box<PassedConnection>),
}

/// PROXY header and TLS handshake, under one deadline.
async fn establish(
    mut io: TcpStream,
    transport_peer: SocketAddr,
    permit: ConnectionPermit,
    port: Arc<OpenPort>,
    accepted: Instant,
) -> Option<Established> {
    let state = port.state();
    let edge = state.config.edge.clone();
    let mut info = ConnectionInfo {
        port: state.address,
        local: io.local_addr().unwrap_or(state.address),
        peer: transport_peer,
        transport_peer,
        peer_field: OnceLock::new(),
        tls: None,
        accepted,
    };
    if !edge.proxy_protocol && !state.speaks_tls() {
        return plain(io, info, permit, Connection { port, state, edge, accepted });
    }
    let deadline = tokio::time::Instant::from_std(accepted + edge.timeouts.handshake);
    let prepared = async {
        if edge.proxy_protocol {
            match proxy_protocol::read(&mut io).await {
                Ok(Some(addresses)) => {
                    info.peer = addresses.source;
                    info.local = addresses.destination;
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%transport_peer, %error, "connection without a usable PROXY header closed");
                    port.metrics.handshake_failed("proxy_protocol");
                    return None;
                }
            }
        }
        if !state.speaks_tls() {
            return Some(Prepared::Plain(io));
        }
        handshake::accept(io, &state, &port.metrics, transport_peer).await.map(Prepared::Tls)
    };
    match tokio::time::timeout_at(deadline, prepared).await {
        Ok(Some(Prepared::Plain(io))) => plain(io, info, permit, Connection { port, state, edge, accepted }),
        Ok(Some(Prepared::Tls(Greeted { listener, end }))) => {
            let edge = listener.edge.clone();
            let (transport, ahead, passed_sni) = match end {
                End::Here(transport, tls) => {
                    info.tls = Some(tls);
                    (transport, Bytes::new(), None)
                }
                End::Backend { io, hello, sni } => (Transport::Plain(io), hello, sni),
            };
            if listener.carries == Carries::Bytes {
                let id = listener.id.clone();
                let passed = PassedConnection::new(transport, ahead, info, id, passed_sni, true, edge, permit);
                return Some(Established::Bytes(Box::new(passed)));
            }
            let connection = Connection { port, state, edge, accepted };
            Some(Established::Http(DownstreamStream::new(transport, info, permit, &connection), connection))
        }
        Ok(None) => None,
        Err(_) => {
            port.metrics.all.timeout("handshake");
            port.metrics.handshake_failed("timeout");
            None
        }
    }
}

enum Prepared {
    Plain(TcpStream),
    Tls(Greeted),
}

/// A connection without TLS: of TCP there is one listener on a port, of HTTP the request says which one is meant.
fn plain(io: TcpStream, info: ConnectionInfo, permit: ConnectionPermit, connection: Connection) -> Option<Established> {
    let transport = Transport::Plain(io);
    if connection.state.config.protocol != Protocol::Tcp {
        return Some(Established::Http(DownstreamStream::new(transport, info, permit, &connection), connection));
    }
    let listener = connection.state.config.listeners.first()?;
    let (id, edge) = (listener.id.clone(), listener.edge.clone());
    let passed = PassedConnection::new(transport, Bytes::new(), info, id, None, false, edge, permit);
    Some(Established::Bytes(Box::new(passed)))
}
