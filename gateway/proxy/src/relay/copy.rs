//! Bytes between two streams, both ways at once, until both have ended or something is wrong.
//!
//! What is read goes on from the stack: a connection that waits holds no buffer, and one whose receiver is slower than
//! its sender holds at most one read of each direction.

use bytes::{Buf, BytesMut};
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of one read: what a socket's receive buffer mostly holds, and several TLS records.
const READ: usize = 32 * 1024;

pub(super) struct Limits {
    /// Longest time without a byte in either direction. Zero: none.
    pub(super) idle: Duration,
    /// The end of the connection's life.
    pub(super) until: Option<Instant>,
}

/// Why there is nothing more to be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Both sides have said all.
    Both,
    /// The client's connection broke.
    Client,
    /// The backend's connection broke.
    Backend,
    Idle,
    TooOld,
}

/// Whose side an error is on.
enum Fault {
    Reading,
    Writing,
}

/// One direction.
#[derive(Default)]
struct Half {
    /// Read, and not yet taken.
    rest: BytesMut,
    /// Written since the last flush.
    unflushed: bool,
    /// The sender has said all.
    ended: bool,
    /// The receiver has been told so.
    told: bool,
    bytes: u64,
}

/// Passes bytes on, and gives those from and to the client.
pub(super) async fn both_ways<C, B>(client: &mut C, backend: &mut B, limits: &Limits) -> (Ended, (u64, u64))
where
    C: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (Half::default(), Half::default());
    let first = [some(limits.idle).map(|idle| Instant::now() + idle), limits.until].into_iter().flatten().min();
    let timer = tokio::time::sleep_until(first.map_or_else(far, Into::into));
    tokio::pin!(timer);
    let mut last = Instant::now();
    let ended = std::future::poll_fn(|cx| {
        let before = up.bytes + down.bytes;
        let upward = up.poll(client, backend, cx);
        let downward = down.poll(backend, client, cx);
        if up.bytes + down.bytes != before {
            last = Instant::now();
        }
        match (upward, downward) {
            (Poll::Ready(Err(Fault::Reading)), _) | (_, Poll::Ready(Err(Fault::Writing))) => {
                return Poll::Ready(Ended::Client);
            }
            (Poll::Ready(Err(Fault::Writing)), _) | (_, Poll::Ready(Err(Fault::Reading))) => {
                return Poll::Ready(Ended::Backend);
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Ended::Both),
            _ => {}
        }
        while timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if limits.until.is_some_and(|until| now >= until) {
                return Poll::Ready(Ended::TooOld);
            }
            let idle_until = some(limits.idle).map(|idle| last + idle);
            if idle_until.is_some_and(|until| now >= until) {
                return Poll::Ready(Ended::Idle);
            }
            let next = [idle_until, limits.until].into_iter().flatten().min();
            timer.as_mut().reset(next.map_or_else(far, Into::into));
        }
        Poll::Pending
    })
    .await;
    (ended, (up.bytes, down.bytes))
}

/// Zero switches a timeout off.
fn some(timeout: Duration) -> Option<Duration> {
    Some(timeout).filter(|timeout| !timeout.is_zero())
}

/// Later than any connection lives.
fn far() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(86_400 * 365)
}

impl Half {
    fn poll<F, T>(&mut self, from: &mut F, to: &mut T, cx: &mut Context<'_>) -> Poll<Result<(), Fault>>
    where
        F: AsyncRead + Unpin,
        T: AsyncWrite + Unpin,
    {
        loop {
            while !self.rest.is_empty() {
                let written = ready!(self.poll_write(to, cx, None))?;
                self.rest.advance(written);
            }
            if self.ended {
                return self.poll_end(to, cx);
            }
            let mut bytes = [MaybeUninit::<u8>::uninit(); READ];
            let mut buf = ReadBuf::uninit(&mut bytes);
            match Pin::new(&mut *from).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Fault::Reading)),
                Poll::Pending => {
                    // What was gathered is not kept for what may never come.
                    if self.unflushed && ready!(Pin::new(&mut *to).poll_flush(cx)).is_err() {
                        return Poll::Ready(Err(Fault::Writing));
                    }
                    self.unflushed = false;
                    return Poll::Pending;
                }
            }
            let mut read = buf.filled();
            self.ended = read.is_empty();
            while !read.is_empty() {
                match self.poll_write(to, cx, Some(read)) {
                    Poll::Ready(written) => read = read.get(written?..).unwrap_or_default(),
                    Poll::Pending => {
                        self.rest.extend_from_slice(read);
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    /// Writes `bytes`, or what waits.
    fn poll_write<T: AsyncWrite + Unpin>(
        &mut self,
        to: &mut T,
        cx: &mut Context<'_>,
        bytes: Option<&[u8]>,
    ) -> Poll<Result<usize, Fault>> {
        let written = ready!(Pin::new(to).poll_write(cx, bytes.unwrap_or(&self.rest)));
        match written {
            Ok(written) if written > 0 => {
                self.bytes += written as u64;
                self.unflushed = true;
                Poll::Ready(Ok(written))
            }
            _ => Poll::Ready(Err(Fault::Writing)),
        }
    }

    /// Half-closes: the other direction goes on.
    fn poll_end<T: AsyncWrite + Unpin>(&mut self, to: &mut T, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        if !self.told {
            let shut: io::Result<()> = ready!(Pin::new(to).poll_shutdown(cx));
            self.told = true;
            // It may have closed before we could tell it.
            if let Err(error) = shut
                && error.kind() != io::ErrorKind::NotConnected
            {
                return Poll::Ready(Err(Fault::Writing));
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    const LIMITS: Limits = Limits { idle: Duration::from_secs(30), until: None };

    #[tokio::test]
    async fn each_direction_ends_by_itself_and_loses_nothing_to_small_buffers() {
        let (mut client, mut near) = duplex(100);
        let (mut far, mut backend) = duplex(7);
        let relay = tokio::spawn(async move { both_ways(&mut near, &mut far, &LIMITS).await });
        let question = vec![7_u8; 5_000];
        let asked = question.clone();
        let (mut read, mut write) = tokio::io::split(client);
        let sender = tokio::spawn(async move {
            write.write_all(&asked).await.unwrap();
            write.shutdown().await.unwrap();
            write
        });
        let mut heard = Vec::new();
        backend.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, question);
        // The client has said all; the answer comes all the same.
        backend.write_all(b"answer").await.unwrap();
        backend.shutdown().await.unwrap();
        let mut answer = Vec::new();
        read.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");
        client = read.unsplit(sender.await.unwrap());
        drop(client);
        assert_eq!(relay.await.unwrap(), (Ended::Both, (5_000, 6)));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_and_age_end_it() {
        for (limits, ended) in
            [(LIMITS, Ended::Idle), (Limits { until: Some(Instant::now()), ..LIMITS }, Ended::TooOld)]
        {
            let (_client, mut near) = duplex(100);
            let (mut far, _backend) = duplex(100);
            // The paused clock moves on where nothing else can happen, but `Instant` does not: it is asked again.
            let limits = Limits { idle: limits.idle.min(Duration::from_millis(1)), ..limits };
            assert_eq!(both_ways(&mut near, &mut far, &limits).await.0, ended);
        }
    }
}
