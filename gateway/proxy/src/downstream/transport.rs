//! A TCP socket with TLS or without, and its polite end.

use super::handshake::Metered;
use super::open_port::ConnectionPermit;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// How long a closed connection is read from, so that the client gets to see the answer.
const LINGER: Duration = Duration::from_secs(2);
/// Bytes of one read of what nobody wants any more.
const DISCARD: usize = 4 * 1024;

#[derive(Debug)]
pub(super) enum Transport {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::server::TlsStream<Metered>>),
}

impl Transport {
    pub(super) fn tcp(&self) -> &TcpStream {
        match self {
            Transport::Plain(io) => io,
            Transport::Tls(tls) => &tls.get_ref().0.io,
        }
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Transport::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Transport::Tls(tls) => Pin::new(tls.as_mut()).poll_read(cx, buf),
        }
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Transport::Plain(io) => Pin::new(io).poll_write(cx, bytes),
            Transport::Tls(tls) => Pin::new(tls.as_mut()).poll_write(cx, bytes),
        }
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Transport::Plain(io) => Pin::new(io).poll_flush(cx),
            Transport::Tls(tls) => Pin::new(tls.as_mut()).poll_flush(cx),
        }
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Transport::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Transport::Tls(tls) => Pin::new(tls.as_mut()).poll_shutdown(cx),
        }
    }
}

/// Ends our side, and reads the client's until it ends too, or a bound of bytes or time is reached.
pub(super) async fn linger(mut transport: Transport, permit: Option<ConnectionPermit>, bytes: u64) {
    let read = async {
        if std::future::poll_fn(|cx| transport.poll_shutdown(cx)).await.is_err() {
            return;
        }
        let mut left = bytes;
        loop {
            let read = std::future::poll_fn(|cx| {
                let mut bytes = [MaybeUninit::<u8>::uninit(); DISCARD];
                let mut buf = ReadBuf::uninit(&mut bytes);
                ready!(transport.poll_read(cx, &mut buf))?;
                Poll::Ready(io::Result::Ok(buf.filled().len() as u64))
            });
            match read.await {
                Ok(0) | Err(_) => return,
                Ok(n) if n >= left => {
                    if let Some(permit) = &permit {
                        permit.port().metrics.all.limit("drain_bytes");
                    }
                    return;
                }
                Ok(n) => left -= n,
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, read).await;
}
