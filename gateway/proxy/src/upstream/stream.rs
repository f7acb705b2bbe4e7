//! Connections to endpoints, as the engine wants its streams.

use super::deadline::{Over, ReadDeadline, digest_of};
use super::load::ConnectionGuard;
use super::lost::lost;
use async_trait::async_trait;
use pingora_core::protocols::l4::socket::SocketAddr as EngineAddr;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::client::TlsStream;

/// An HTTP/1 connection whose reads end with an error once its request's deadline has passed, or its endpoint is lost.
#[derive(Debug)]
pub(super) struct Timed<S> {
    inner: S,
    deadline: Arc<ReadDeadline>,
    timer: Option<Pin<Box<Sleep>>>,
    digest: Arc<ProxyDigest>,
}

impl<S> Timed<S> {
    pub(super) fn new(inner: S) -> Self {
        let deadline = Arc::new(ReadDeadline::default());
        Timed { inner, digest: digest_of(&deadline), deadline, timer: None }
    }
}

impl<S: AsyncRead + UniqueID + Unpin> AsyncRead for Timed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        match Pin::new(&mut this.inner).poll_read(cx, buf) {
            Poll::Pending => this.deadline.poll(&mut this.timer, this.inner.id(), cx).map(|over| {
                Err(match over {
                    Over::TimedOut => io::ErrorKind::TimedOut.into(),
                    Over::Lost => lost(),
                    Over::GivenUp => io::Error::other("the request is answered by the gateway"),
                })
            }),
            ready => ready,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[async_trait]
impl<S: Shutdown + Send> Shutdown for Timed<S> {
    async fn shutdown(&mut self) {
        self.inner.shutdown().await;
    }
}

impl<S: UniqueID> UniqueID for Timed<S> {
    fn id(&self) -> UniqueIDType {
        self.inner.id()
    }
}

impl<S: Ssl> Ssl for Timed<S> {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.inner.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.inner.selected_alpn_proto()
    }
}

impl<S: GetTimingDigest> GetTimingDigest for Timed<S> {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.inner.get_timing_digest()
    }
}

impl<S> GetProxyDigest for Timed<S> {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(self.digest.clone())
    }
}

impl<S: GetSocketDigest> GetSocketDigest for Timed<S> {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.inner.get_socket_digest()
    }
}

impl<S> Peek for Timed<S> {}

/// A TLS connection.
pub(super) struct UpstreamTlsStream {
    inner: TlsStream<TcpStream>,
    tls: Arc<SslDigest>,
    socket: Arc<SocketDigest>,
    timing: TimingDigest,
    /// Counts the connection for as long as it is open.
    _guard: ConnectionGuard,
}

impl UpstreamTlsStream {
    pub(super) fn new(
        inner: TlsStream<TcpStream>,
        address: SocketAddr,
        guard: ConnectionGuard,
        established_in: Duration,
    ) -> Self {
        let (tcp, session) = inner.get_ref();
        let cipher = session.negotiated_cipher_suite().and_then(|s| s.suite().as_str()).unwrap_or_default();
        let version = session.protocol_version().and_then(|v| v.as_str()).unwrap_or_default();
        let tls = Arc::new(SslDigest::new(cipher, version, None, None, Vec::new()));
        let socket = SocketDigest::from_raw_fd(tcp.as_raw_fd());
        // A fresh cell is always free.
        let _ = socket.peer_addr.set(Some(EngineAddr::Inet(address)));
        let timing = TimingDigest {
            established_ts: SystemTime::now(),
            establishment_duration: Some(established_in),
            offload_wait_duration: None,
        };
        UpstreamTlsStream { inner, tls, socket: Arc::new(socket), timing, _guard: guard }
    }

    pub(super) fn speaks_http2(&self) -> bool {
        self.inner.get_ref().1.alpn_protocol() == Some(b"h2")
    }
}

impl fmt::Debug for UpstreamTlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamTlsStream").field("tls", &self.tls).field("socket", &self.socket).finish()
    }
}

impl AsyncRead for UpstreamTlsStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for UpstreamTlsStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for UpstreamTlsStream {
    async fn shutdown(&mut self) {
        if let Err(error) = self.inner.shutdown().await {
            tracing::debug!(%error, "closing a connection to an endpoint");
        }
    }
}

impl UniqueID for UpstreamTlsStream {
    fn id(&self) -> UniqueIDType {
        self.inner.get_ref().0.as_raw_fd()
    }
}

impl Ssl for UpstreamTlsStream {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        Some(self.tls.clone())
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        Some(if self.speaks_http2() { ALPN::H2 } else { ALPN::H1 })
    }
}

impl GetTimingDigest for UpstreamTlsStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        vec![Some(self.timing.clone())]
    }
}

impl GetProxyDigest for UpstreamTlsStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for UpstreamTlsStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.socket.clone())
    }
}

impl Peek for UpstreamTlsStream {}
