//! The TLS handshake of one connection: reads the hello, finds its listener by SNI, and goes on with that listener's
//! configuration. What is read before it has ended is bounded in bytes here and in time by the caller.

use super::connection::TlsInfo;
use super::metrics::PortMetrics;
use super::port::PortState;
use super::transport::Transport;
use bytes::{Bytes, BytesMut};
use rustls::server::Acceptor;
use sluice_model::config::Listener;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;

/// Bytes that a client may send up to the end of its handshake: a hello with post-quantum shares has 2 KiB, a chain
/// of client certificates seldom 10.
pub(super) const HANDSHAKE_BYTES: u32 = 64 * 1024;

/// A fatal alert in a record of its own: `unrecognized_name`(112), RFC 6066, section 3.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// A socket that stops reading after a number of bytes, until it is told that the handshake has ended.
#[derive(Debug)]
pub(super) struct Metered {
    pub(super) io: TcpStream,
    /// `None` once the handshake has ended.
    left: Option<u32>,
    /// What was read, where it may have to be sent on.
    copy: Option<BytesMut>,
}

impl AsyncRead for Metered {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(left) = self.left else { return Pin::new(&mut self.io).poll_read(cx, buf) };
        if left == 0 {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "TLS handshake has too many bytes")));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let read = u32::try_from(buf.filled().len() - before).unwrap_or(u32::MAX);
        self.left = Some(left.saturating_sub(read));
        if let Some(copy) = &mut self.copy {
            copy.extend_from_slice(buf.filled().get(before..).unwrap_or_default());
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// A client that has said which host it wants.
pub(super) struct Greeted {
    pub(super) listener: Arc<Listener>,
    pub(super) end: End,
}

/// Where its TLS ends.
pub(super) enum End {
    Here(Transport, TlsInfo),
    /// At a backend, which has to read the hello.
    Backend {
        io: TcpStream,
        hello: Bytes,
        sni: Option<Box<str>>,
    },
}

/// `None`: the handshake failed; the client has been told where TLS has words for it.
pub(super) async fn accept(
    io: TcpStream,
    state: &PortState,
    metrics: &PortMetrics,
    peer: SocketAddr,
) -> Option<Greeted> {
    let started = Instant::now();
    let copy = state.passes_tls.then(BytesMut::new);
    let metered = Metered { io, left: Some(HANDSHAKE_BYTES), copy };
    let failed = |reason: &'static str, error: &dyn std::fmt::Display| {
        tracing::debug!(%peer, reason, %error, "TLS handshake failed");
        metrics.handshake_failed(reason);
    };
    let start = match LazyConfigAcceptor::new(Acceptor::default(), metered).await {
        Ok(start) => start,
        Err(error) => {
            let reason = if error.kind() == io::ErrorKind::UnexpectedEof { "closed" } else { "client_hello" };
            failed(reason, &error);
            return None;
        }
    };
    let sni = start.client_hello().server_name().map(str::to_ascii_lowercase);
    let Some((listener, tls)) = state.listener_for_sni(sni.as_deref()) else {
        failed("unrecognized_name", &sni.as_deref().unwrap_or("no server name"));
        let mut io = start.io;
        // Where TLS is passed through, it is not ours to speak: the connection ends without a word.
        if !state.passes_tls {
            // The client may be gone already; there is nobody else to tell.
            let _ = io.write_all(&UNRECOGNIZED_NAME).await;
        }
        let _ = io.shutdown().await;
        return None;
    };
    let listener = listener.clone();
    let Some(tls) = tls else {
        let Metered { io, copy, .. } = start.io;
        let (hello, sni) = (copy.unwrap_or_default().freeze(), sni.map(String::into_boxed_str));
        return Some(Greeted { listener, end: End::Backend { io, hello, sni } });
    };
    let mut start = start;
    start.io.copy = None;
    let mut stream = match start.into_stream(tls.server.clone()).await {
        Ok(stream) => stream,
        Err(error) => {
            failed("handshake", &error);
            return None;
        }
    };
    stream.get_mut().0.left = None;
    metrics.handshakes.observe(started.elapsed().as_secs_f64());
    let session = stream.get_ref().1;
    let chain = session.peer_certificates().unwrap_or_default();
    let info = TlsInfo {
        listener: listener.id.clone(),
        sni: sni.map(String::into_boxed_str),
        version: session.protocol_version().and_then(|v| v.as_str()).unwrap_or_default(),
        cipher: session.negotiated_cipher_suite().and_then(|s| s.suite().as_str()).unwrap_or_default(),
        client_certificate: chain.first().map(|leaf| leaf.as_ref().into()),
        client_verified: tls.verifies(chain),
    };
    Some(Greeted { listener, end: End::Here(Transport::Tls(Box::new(stream)), info) })
}
