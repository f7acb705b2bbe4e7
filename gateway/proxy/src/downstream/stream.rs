//! The stream that the engine reads requests from and writes responses to: a TCP socket, with TLS or without.
//!
//! It owns what the engine must not decide. On HTTP/1 it hands out the bytes of one request and keeps what a client
//! sent ahead, so that pipelined requests are answered in order; it measures the rate of bodies; after a 101 it watches
//! the tunnel. On HTTP/2 every byte passes the tap ([`super::h2_tap`]). Writes are gathered until they are flushed:
//! header section and body leave in one packet. Dropped with a request half read, it lingers (RFC 9112, section 9.6):
//! closing at once would reset the connection and destroy the answer on its way.

use super::connection::{Connection, ConnectionInfo};
use super::h2_tap::Tap;
use super::http1_body::Framing;
use super::open_port::{ConnectionPermit, OpenPort};
use super::rate::BodyRate;
use super::transport::{Transport, linger};
use super::tunnel::Tunnel;
use bytes::{Buf, BytesMut};
use pingora_core::protocols::SocketDigest;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_http::ResponseHeader;
use sluice_model::config::Edge;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are gathered before they are written without a flush: one TLS record, less its overhead.
const WRITE_BUFFER: usize = 16 * 1024 - 256;
/// Room for what is written behind the first bytes of a response.
const SHORT_BODY: usize = 512;
/// Bytes of one read between requests. It is made on the stack, so that an idle connection owns no buffer.
const READ_AHEAD: usize = 4 * 1024;
/// Bytes that a client may send ahead while a request is being answered; then it waits.
const AHEAD_MAX: usize = 16 * 1024;

/// What the bytes are, seen from the stream.
#[derive(Debug)]
enum Mode {
    Http1(Exchange),
    Http2(Box<Tap>),
}

/// Where an HTTP/1 connection stands.
#[derive(Debug)]
enum Exchange {
    /// Between two requests; the keep-alive loop reads.
    Idle,
    /// The engine reads a body.
    Body { framing: Framing, rate: BodyRate },
    /// The request has been read; more bytes belong to the next one.
    Done,
    /// The body's end is not known: all that comes is handed on, and the connection is not used again.
    Broken,
    /// After a 101.
    Tunnel(Box<Tunnel>),
}

/// How an exchange may go on once the response's head is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upgrade {
    No,
    /// The request asked for WebSocket; a 101 would begin it.
    Asked,
}

pub(super) struct DownstreamStream {
    /// `None` only after it has been given to the task that lingers.
    pub(super) transport: Option<Transport>,
    mode: Mode,
    upgrade: Upgrade,
    /// Gathered writes.
    out: BytesMut,
    /// How fast the client takes them.
    taken: BodyRate,
    /// What was read beyond the request that is being answered.
    ahead: BytesMut,
    /// The client has closed its side, or the socket has failed.
    ended: bool,
    pub(super) http2: bool,
    /// A reader that was left waiting although bytes are there: they are for after the exchange.
    parked: Option<Waker>,
    pub(super) proxy: Arc<ProxyDigest>,
    pub(super) socket: Arc<SocketDigest>,
    pub(super) ssl: Option<Arc<SslDigest>>,
    port: Arc<OpenPort>,
    edge: Arc<Edge>,
    permit: Option<ConnectionPermit>,
}

impl std::fmt::Debug for DownstreamStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DownstreamStream")
            .field("tls", &self.is_tls())
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

impl DownstreamStream {
    pub(super) fn new(
        transport: Transport,
        info: ConnectionInfo,
        permit: ConnectionPermit,
        connection: &Connection,
    ) -> Box<Self> {
        let socket = SocketDigest::from_raw_fd(transport.tcp().as_raw_fd());
        // Set here, they are what the engine tells as the client's address and ours.
        let _ = socket.peer_addr.set(Some(info.peer.into()));
        let _ = socket.local_addr.set(Some(info.local.into()));
        let ssl =
            info.tls.as_ref().map(|tls| Arc::new(SslDigest::new(tls.cipher, tls.version, None, None, Vec::new())));
        let http2 = match &transport {
            Transport::Tls(tls) => tls.get_ref().1.alpn_protocol() == Some(b"h2"),
            Transport::Plain(_) => false,
        };
        // The engine's type wants a response; the status is never looked at.
        let head = ResponseHeader::build_no_case(200, Some(0))
            .unwrap_or_else(|_| pingora_core::protocols::http::server::Session::generate_error(500));
        Box::new(DownstreamStream {
            transport: Some(transport),
            mode: Mode::Http1(Exchange::Idle),
            upgrade: Upgrade::No,
            out: BytesMut::new(),
            taken: BodyRate::of_response(&connection.edge.timeouts),
            ahead: BytesMut::new(),
            ended: false,
            http2,
            parked: None,
            proxy: Arc::new(ProxyDigest::new(Box::new(head), Some(Box::new(info)))),
            socket: Arc::new(socket),
            ssl,
            port: connection.port.clone(),
            edge: connection.edge.clone(),
            permit: Some(permit),
        })
    }

    /// Whether HTTP/2 was agreed on by ALPN.
    pub(super) fn negotiated_http2(&self) -> bool {
        self.http2
    }

    pub(super) fn info(&self) -> Option<&ConnectionInfo> {
        self.proxy.user_data.as_ref()?.downcast_ref()
    }

    pub(super) fn is_tls(&self) -> bool {
        self.ssl.is_some()
    }

    /// The bytes that wait to be taken for the next request.
    pub(super) fn ahead(&mut self) -> &mut BytesMut {
        &mut self.ahead
    }

    /// Reads what there is behind [`DownstreamStream::ahead`]. `Ok(false)`: the client has closed its side.
    pub(super) fn poll_read_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut bytes = [MaybeUninit::<u8>::uninit(); READ_AHEAD];
        let mut buf = ReadBuf::uninit(&mut bytes);
        match ready!(self.poll_transport(cx, &mut buf)) {
            Ok(()) => {
                self.ahead.extend_from_slice(buf.filled());
                Poll::Ready(Ok(!buf.filled().is_empty()))
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Everything from here on is HTTP/2.
    pub(super) fn begin_http2(&mut self, tap: Tap) {
        self.http2 = true;
        self.mode = Mode::Http2(Box::new(tap));
    }

    /// A request's header section has been taken from `ahead`; its body follows.
    pub(super) fn begin_exchange(&mut self, body: Framing, websocket: bool, edge: &Arc<Edge>) {
        if !Arc::ptr_eq(&self.edge, edge) {
            self.edge = edge.clone();
            self.taken = BodyRate::of_response(&edge.timeouts);
        }
        self.upgrade = if websocket { Upgrade::Asked } else { Upgrade::No };
        self.mode = Mode::Http1(if body.is_done() {
            Exchange::Done
        } else {
            Exchange::Body { framing: body, rate: BodyRate::new(&edge.timeouts) }
        });
    }

    /// The exchange is over. Whether another may follow.
    pub(super) fn end_exchange(&mut self) -> bool {
        self.parked = None;
        let clean = matches!(self.mode, Mode::Http1(Exchange::Done));
        self.mode = Mode::Http1(if clean { Exchange::Idle } else { Exchange::Broken });
        // A client that has closed its side may still wait for what it had asked before.
        clean && !(self.ended && self.ahead.is_empty())
    }

    fn poll_transport(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(transport) = self.transport.as_mut() else { return Poll::Ready(Ok(())) };
        let before = buf.filled().len();
        let result = ready!(transport.poll_read(cx, buf));
        if result.is_err() || buf.filled().len() == before {
            self.ended = true;
        }
        Poll::Ready(result)
    }

    /// A write of the response has ended, or waits for the client. Tunnels are watched by [`Tunnel`], HTTP/2 by its tap.
    fn note_taken(&mut self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(self.mode, Mode::Http2(_) | Mode::Http1(Exchange::Tunnel(_))) {
            return polled;
        }
        match polled {
            Poll::Pending => self.taken.waits(),
            Poll::Ready(Ok(n)) if !self.taken.came(n) => {
                self.port.metrics.all.timeout("response_min_rate");
                self.ended = true;
                let slow = "the client takes the response below the minimum rate";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, slow)));
            }
            Poll::Ready(_) => {}
        }
        polled
    }

    /// Writes what was gathered.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let Some(transport) = self.transport.as_mut() else { return Poll::Ready(Ok(())) };
            let polled = transport.poll_write(cx, &self.out);
            let written = match ready!(self.note_taken(polled)) {
                Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                other => other,
            };
            match written {
                Ok(n) => self.out.advance(n),
                Err(error) => {
                    self.ended = true;
                    return Poll::Ready(Err(error));
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads the body of the current request, and no byte behind it.
    fn poll_body(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if self.ahead.is_empty() {
            let polled = self.poll_transport(cx, buf);
            let Mode::Http1(Exchange::Body { rate, .. }) = &mut self.mode else { return polled };
            match polled {
                Poll::Pending => {
                    rate.waits();
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) => {
                    if !rate.came(buf.filled().len() - before) {
                        self.port.metrics.all.timeout("body_min_rate");
                        self.mode = Mode::Http1(Exchange::Broken);
                        buf.set_filled(before);
                        let slow = "the request body arrives below the minimum rate";
                        return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, slow)));
                    }
                }
            }
        } else {
            hand_out(&mut self.ahead, buf);
        }
        let Mode::Http1(Exchange::Body { framing, .. }) = &mut self.mode else { return Poll::Ready(Ok(())) };
        let fresh = buf.filled().get(before..).unwrap_or_default();
        match framing.consume(fresh) {
            Ok(taken) => {
                if taken < fresh.len() {
                    // Pipelined: the tail goes back in front of what waits.
                    let mut rest = BytesMut::from(fresh.get(taken..).unwrap_or_default());
                    rest.extend_from_slice(&self.ahead);
                    self.ahead = rest;
                    buf.set_filled(before + taken);
                }
                if framing.is_done() {
                    self.mode = Mode::Http1(Exchange::Done);
                }
            }
            // Where the next request would begin is nobody's knowledge, and the engine would take some of this for good.
            Err(_) => {
                self.mode = Mode::Http1(Exchange::Broken);
                buf.set_filled(before);
                let broken = "the request body breaks its framing";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, broken)));
            }
        }
        if self.ahead.is_empty() && self.ahead.capacity() > 0 {
            self.ahead = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    /// The engine watches for the client's leaving while it answers. What comes instead is the next request: kept for
    /// later, up to a bound.
    fn poll_watch(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.ahead.len() < AHEAD_MAX && !self.ended {
            if !ready!(self.poll_read_ahead(cx))? {
                break;
            }
        }
        if self.ahead.is_empty() {
            // Gone, with nothing left to be answered.
            return Poll::Ready(Ok(()));
        }
        self.parked = Some(cx.waker().clone());
        Poll::Pending
    }

    /// A response's head begins to be written: a 101 turns the connection into a tunnel.
    fn see_response(&mut self, bytes: &[u8]) {
        if self.upgrade == Upgrade::No || !bytes.starts_with(b"HTTP/1.") {
            return;
        }
        match bytes.get(9..12) {
            Some(b"101") => {
                self.upgrade = Upgrade::No;
                self.mode = Mode::Http1(Exchange::Tunnel(Box::new(Tunnel::new(&self.port, &self.edge, bytes))));
                if let Some(waker) = self.parked.take() {
                    waker.wake();
                }
            }
            Some([b'1', ..]) => {}
            _ => self.upgrade = Upgrade::No,
        }
    }

    fn poll_tunnel_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Mode::Http1(Exchange::Tunnel(tunnel)) = &mut self.mode else { return Poll::Ready(Ok(())) };
        if tunnel.poll_end(cx).is_ready() {
            // The client is told in its own protocol; then both directions end.
            tunnel.say_goodbye(&mut self.out);
            if self.poll_drain(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
        }
        if !self.ahead.is_empty() {
            hand_out(&mut self.ahead, buf);
            return Poll::Ready(Ok(()));
        }
        let read = ready!(self.poll_transport(cx, buf));
        if let Mode::Http1(Exchange::Tunnel(tunnel)) = &mut self.mode {
            tunnel.active();
        }
        Poll::Ready(read)
    }

    /// Reads through the tap.
    fn poll_read_http2(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Mode::Http2(tap) = &mut self.mode else { return Poll::Ready(Ok(())) };
        let before = buf.filled().len();
        if tap.breach().is_some() {
            // Nothing more is taken from this client; the connection's task says goodbye.
            return Poll::Pending;
        }
        let polled = if self.ahead.is_empty() {
            let Some(transport) = self.transport.as_mut() else { return Poll::Ready(Ok(())) };
            transport.poll_read(cx, buf)
        } else {
            hand_out(&mut self.ahead, buf);
            Poll::Ready(Ok(()))
        };
        match polled {
            Poll::Pending => tap.poll_deadlines(cx),
            Poll::Ready(Err(error)) => {
                self.ended = true;
                return Poll::Ready(Err(error));
            }
            Poll::Ready(Ok(())) => {
                let fresh = buf.filled().get(before..).unwrap_or_default();
                self.ended |= fresh.is_empty();
                tap.inbound(fresh);
            }
        }
        if tap.breach().is_some() {
            buf.set_filled(before);
            return Poll::Pending;
        }
        polled
    }

    /// Writes what was gathered, through TLS.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        match self.transport.as_mut() {
            Some(transport) => transport.poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Whether closing at once could destroy an answer that is on its way.
    fn must_linger(&self) -> bool {
        !self.ended
            && match &self.mode {
                Mode::Http1(Exchange::Body { .. } | Exchange::Broken) => true,
                Mode::Http1(Exchange::Idle | Exchange::Done) => !self.ahead.is_empty(),
                Mode::Http1(Exchange::Tunnel(tunnel)) => tunnel.said_goodbye(),
                Mode::Http2(tap) => tap.breach().is_some(),
            }
    }

    /// The stream will be closed with bytes unread.
    pub(super) fn abandon(&mut self) {
        self.mode = Mode::Http1(Exchange::Broken);
    }
}

impl Drop for DownstreamStream {
    fn drop(&mut self) {
        if !self.must_linger() {
            return;
        }
        if let (Some(transport), Ok(runtime)) = (self.transport.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(linger(transport, self.permit.take(), self.edge.limits.drain_bytes));
        }
    }
}

/// Moves what fits from `ahead` to `buf`.
fn hand_out(ahead: &mut BytesMut, buf: &mut ReadBuf<'_>) {
    let n = ahead.len().min(buf.remaining());
    buf.put_slice(ahead.get(..n).unwrap_or_default());
    ahead.advance(n);
}

impl AsyncRead for DownstreamStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = match &mut this.mode {
            Mode::Http1(Exchange::Body { .. }) => this.poll_body(cx, buf),
            Mode::Http1(Exchange::Done | Exchange::Idle) => this.poll_watch(cx),
            Mode::Http1(Exchange::Tunnel(_)) => this.poll_tunnel_read(cx, buf),
            Mode::Http1(Exchange::Broken) if this.ahead.is_empty() => this.poll_transport(cx, buf),
            Mode::Http1(Exchange::Broken) => {
                hand_out(&mut this.ahead, buf);
                Poll::Ready(Ok(()))
            }
            Mode::Http2(_) => return this.poll_read_http2(cx, buf),
        };
        if polled.is_pending() && !this.out.is_empty() {
            // The engine waits, and does not flush a response whose length it has told: what there is of it goes out.
            if let Poll::Ready(Err(error)) = this.poll_send(cx) {
                return Poll::Ready(Err(error));
            }
        }
        polled
    }
}

/// Writes what the tap has to say itself.
fn poll_interject(tap: &mut Tap, transport: &mut Transport, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    loop {
        let unsaid = tap.interjection();
        if unsaid.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let polled = Pin::new(&mut *transport).poll_write(cx, unsaid);
        tap.socket_full(polled.is_pending(), cx);
        let written = ready!(polled)?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        tap.interjected(written);
    }
}

impl AsyncWrite for DownstreamStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Mode::Http2(tap) = &mut this.mode {
            // h2 gathers by itself.
            let Some(transport) = this.transport.as_mut() else { return Poll::Ready(Ok(bytes.len())) };
            ready!(poll_interject(tap, transport, cx))?;
            let polled = transport.poll_write(cx, bytes);
            tap.socket_full(polled.is_pending(), cx);
            let written = ready!(polled)?;
            tap.outbound(bytes.get(..written).unwrap_or_default());
            return Poll::Ready(Ok(written));
        }
        if let Mode::Http1(Exchange::Tunnel(tunnel)) = &mut this.mode
            && tunnel.said_goodbye()
        {
            // Nothing may follow a Close frame (RFC 6455, section 5.5.1).
            return Poll::Ready(Ok(bytes.len()));
        }
        if this.out.len() + bytes.len() > WRITE_BUFFER {
            ready!(this.poll_drain(cx))?;
        }
        let written = if bytes.len() >= WRITE_BUFFER {
            let Some(transport) = this.transport.as_mut() else { return Poll::Ready(Ok(bytes.len())) };
            let polled = transport.poll_write(cx, bytes);
            match ready!(this.note_taken(polled)) {
                Ok(written) => written,
                Err(error) => {
                    this.ended = true;
                    return Poll::Ready(Err(error));
                }
            }
        } else {
            if this.out.capacity() == 0 {
                // The body of a short response follows its head: one allocation holds both.
                this.out.reserve(bytes.len() + SHORT_BODY);
            }
            this.out.extend_from_slice(bytes);
            bytes.len()
        };
        let accepted = bytes.get(..written).unwrap_or_default();
        match &mut this.mode {
            Mode::Http1(Exchange::Tunnel(tunnel)) => {
                tunnel.sent(accepted);
                if tunnel.due() {
                    tunnel.say_goodbye(&mut this.out);
                }
            }
            _ => this.see_response(accepted),
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        if this.out.capacity() > 0 {
            this.out = BytesMut::new();
        }
        let Some(transport) = this.transport.as_mut() else { return Poll::Ready(Ok(())) };
        if let Mode::Http2(tap) = &mut this.mode {
            ready!(poll_interject(tap, transport, cx))?;
        }
        // TLS takes what it is given, and waits here.
        let polled = transport.poll_flush(cx).map_ok(|()| 0);
        if let Mode::Http2(tap) = &mut this.mode {
            tap.socket_full(polled.is_pending(), cx);
        }
        this.note_taken(polled).map_ok(|_| ())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        match this.transport.as_mut() {
            Some(transport) => transport.poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}
