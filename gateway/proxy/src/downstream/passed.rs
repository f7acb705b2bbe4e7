//! A connection that the engine never sees: its bytes are for one backend as a whole (TCPRoute, TLSRoute).

use super::connection::ConnectionInfo;
use super::open_port::ConnectionPermit;
use super::transport::Transport;
use bytes::{Buf, Bytes};
use sluice_model::config::{Edge, ListenerId};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The client's side, from its first byte: what was read to find the listener comes again.
#[derive(Debug)]
pub struct PassedConnection {
    transport: Transport,
    /// What was read ahead: the client's hello, where TLS is passed through.
    ahead: Bytes,
    pub info: ConnectionInfo,
    pub listener: ListenerId,
    /// Of TLS that does not end here.
    passed_sni: Option<Box<str>>,
    /// TLS is spoken, whoever ends it.
    pub tls: bool,
    pub edge: Arc<Edge>,
    _permit: ConnectionPermit,
}

impl PassedConnection {
    #[allow(clippy::too_many_arguments)] // its parts, put together once
    pub(super) fn new(
        transport: Transport,
        ahead: Bytes,
        info: ConnectionInfo,
        listener: ListenerId,
        passed_sni: Option<Box<str>>,
        tls: bool,
        edge: Arc<Edge>,
        permit: ConnectionPermit,
    ) -> Self {
        PassedConnection { transport, ahead, info, listener, passed_sni, tls, edge, _permit: permit }
    }

    /// The name that the client asked for, in lower case; empty where there is none. Wherever its TLS ends.
    pub fn sni(&self) -> &str {
        let here = self.info.tls.as_ref().and_then(|tls| tls.sni.as_deref());
        here.or(self.passed_sni.as_deref()).unwrap_or_default()
    }
}

impl AsyncRead for PassedConnection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return self.transport.poll_read(cx, buf);
        }
        let taken = self.ahead.len().min(buf.remaining());
        buf.put_slice(self.ahead.get(..taken).unwrap_or_default());
        self.ahead.advance(taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PassedConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.transport.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.transport.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.transport.poll_shutdown(cx)
    }
}
