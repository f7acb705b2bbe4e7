//! The engine's connector for all upstreams: connections are made by [`Transport`], pools are the engine's own.
//!
//! HTTP/1 connections go back to the engine as streams, which it frames and pools itself. HTTP/2 connections are driven by
//! the engine's client and kept in its pool, wrapped as [`H2Session`]. Both read with the deadline of their request.

use super::h2_session::H2Session;
use super::stream::Timed;
use super::tls::Alpn;
use super::transport::{Transport, Transports, may_be_http2, requested};
use async_trait::async_trait;
use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::http::custom::{Connection, Connector};
use pingora_core::connectors::http::v2;
use pingora_core::protocols::Stream;
use pingora_core::protocols::l4::socket::SocketAddr as EngineAddr;
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use pingora_core::{Error, ErrorType, OkOrErr, Result};
use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// The engine's pools, of so many idle connections. Its own connectors are never used, and so trust nobody: else each of
/// them would read and keep all certificates of the system.
pub(crate) fn pools(idle_connections: usize) -> ConnectorOptions {
    let mut options = ConnectorOptions::new(idle_connections);
    options.ca_file = Some("/dev/null".to_owned());
    options
}

/// One for each engine (and thus one for each runtime of the data plane). Made by [`super::Registry::connector`].
pub struct UpstreamConnector {
    transports: Transports,
    /// Only its pools are used; it never connects.
    http2: v2::Connector,
}

impl UpstreamConnector {
    /// `idle_connections`: HTTP/2 connections kept without a stream, over all backends; the least recently used goes.
    pub(super) fn new(transports: Transports, idle_connections: usize) -> Self {
        UpstreamConnector { transports, http2: v2::Connector::new(Some(pools(idle_connections))) }
    }

    fn transport<P: Peer + 'static>(&self, peer: &P) -> Result<(Arc<Transport>, SocketAddr)> {
        // The engine's trait is generic, but its proxy only ever passes its own peer type.
        let peer = (peer as &dyn Any)
            .downcast_ref::<HttpPeer>()
            .or_err(ErrorType::InternalError, "the connector was given a peer of another type")?;
        let EngineAddr::Inet(address) = peer._address else {
            return Error::e_explain(ErrorType::InternalError, "endpoints have IP addresses");
        };
        let transport = self.transports.get(peer.group_key).or_err(
            ErrorType::InternalError,
            "the backend's policy is gone: its pick must be kept during the request",
        )?;
        Ok((transport, address))
    }

    async fn open<P: Peer + Send + Sync + 'static>(
        &self,
        transport: Arc<Transport>,
        address: SocketAddr,
        alpn: Alpn,
        peer: &P,
    ) -> Result<Connection<H2Session>> {
        let stream: Stream = if transport.is_tls() {
            let stream = transport.connect_tls(address, alpn).await?;
            if !stream.speaks_http2() {
                return Ok(Connection::Stream(Box::new(Timed::new(stream))));
            }
            Box::new(stream)
        } else {
            let stream = transport.connect_clear(address).await?;
            if alpn != Alpn::Http2 {
                return Ok(Connection::Stream(Box::new(Timed::new(stream))));
            }
            Box::new(stream)
        };
        let mut settings = v2::H2HandshakeSettings::new();
        if let Some(options) = peer.get_peer_options() {
            settings.max_streams = options.max_h2_streams;
            settings.stream_window_size = options.h2_stream_window_size;
            settings.connection_window_size = options.h2_connection_window_size;
        }
        let connection = v2::handshake(stream, settings).await?;
        let session = connection
            .spawn_stream()
            .await?
            .or_err(ErrorType::H2Error, "the endpoint closed its HTTP/2 connection as soon as it was open")?;
        if connection.more_streams_allowed() {
            self.http2.in_use_pool().insert(peer.reuse_hash(), connection);
        }
        Ok(Connection::Session(H2Session::new(session, transport)))
    }
}

/// The time for a connection, where the peer has none: the listener's default.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[async_trait]
impl Connector for UpstreamConnector {
    type Session = H2Session;

    async fn get_http_session<P: Peer + Send + Sync + 'static>(
        &self,
        peer: &P,
    ) -> Result<(Connection<H2Session>, bool)> {
        let (transport, address) = self.transport(peer)?;
        let alpn = requested(peer.get_alpn(), transport.protocol)
            .or_err(ErrorType::InternalError, "the connector was asked for a protocol that is not its own")?;
        let limit = peer.total_connection_timeout().unwrap_or(CONNECT_TIMEOUT);
        match tokio::time::timeout(limit, self.open(transport, address, alpn, peer)).await {
            Ok(connection) => Ok((connection?, false)),
            Err(_) => {
                Error::e_explain(ErrorType::ConnectTimedout, format!("connecting to {address} took over {limit:?}"))
            }
        }
    }

    async fn reused_http_session<P: Peer + Send + Sync + 'static>(&self, peer: &P) -> Option<H2Session> {
        if !may_be_http2(peer.get_alpn()) {
            return None;
        }
        let (transport, _) = self.transport(peer).ok()?;
        match self.http2.reused_http_session(peer).await {
            Ok(session) => session.map(|session| H2Session::new(session, transport)),
            Err(error) => {
                // A pooled connection that died; a new one is made instead.
                tracing::debug!(%error, "an idle HTTP/2 connection cannot be used");
                None
            }
        }
    }

    async fn release_http_session<P: Peer + Send + Sync + 'static>(
        &self,
        session: H2Session,
        peer: &P,
        idle_timeout: Option<Duration>,
    ) {
        self.http2.release_http_session(session.into_inner(), peer, idle_timeout);
    }
}
