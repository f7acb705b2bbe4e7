//! HTTP/1 (RFC 9112): the keep-alive loop of one connection.
//!
//! ```text
//! wait ──first byte──► header section ──gate──► engine: one exchange ──► wait …
//!  │                    │ deadline: 408   │ refused: 4xx, 5xx, close
//!  └ keep-alive timeout └ 24 bytes that are HTTP/2's preface: http2
//! ```
//!
//! The engine is given a header section that has passed the gate ([`super::http1_head`]), and through the stream the
//! bytes of that request's body: what a client has sent ahead stays here, and is answered in order. A connection that
//! waits owns no buffer: only its stream, its task and one timer.

use super::connection::{Connection, Refusal};
use super::http1_body::Framing;
use super::http1_head::{self, Head, Refused};
use super::open_port::Phase;
use super::port::HeaderLimits;
use super::stream::DownstreamStream;
use super::{http2, refusal};
use bytes::BytesMut;
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::http::ServerSession;
use sluice_model::Reason;
use sluice_model::config::Edge;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::time::Sleep;

/// How long the rest of a short body may take to arrive after an early answer, so that its connection can be used again.
const DRAIN_TIME: Duration = Duration::from_secs(5);
/// Bytes of a header section that is not counted for the process.
const SMALL_SECTION: usize = 4 * 1024;
/// How long a refusal may take to be written.
const REFUSAL_TIME: Duration = Duration::from_secs(5);

/// What came next on a connection.
enum Next {
    Request {
        head: Head,
        section: BytesMut,
        edge: Arc<Edge>,
    },
    Http2,
    Refused(Refused, Instant),
    /// The client left, stayed away for too long, or the port is closing.
    End,
}

/// Serves the connection to its end.
pub(super) async fn serve<A>(mut stream: Box<DownstreamStream>, connection: Connection, app: Arc<A>)
where
    A: HttpServerApp + Send + Sync + 'static,
{
    let draining = connection.port.draining();
    let mut patience = Patience::new(&connection);
    let mut requests = 0_u32;
    let mut keep_alive = connection.edge.timeouts.keep_alive;
    loop {
        match next(&mut stream, &connection, &mut patience, keep_alive, requests == 0).await {
            Next::Request { head, section, edge } => {
                requests += 1;
                // Of the listener whose host was asked for last: before the first request there is none.
                keep_alive = edge.timeouts.keep_alive;
                let Some(used) = exchange(stream, head, section, &edge, &connection, requests, &app, &draining).await
                else {
                    return;
                };
                stream = used;
            }
            Next::Http2 => {
                drop(patience);
                Box::pin(http2::serve(stream, &connection, &app)).await;
                return;
            }
            Next::Refused(refused, started) => {
                Box::pin(refuse(stream, &connection, refused, started)).await;
                return;
            }
            Next::End => {
                let _ = tokio::time::timeout(REFUSAL_TIME, stream.shutdown()).await;
                return;
            }
        }
    }
}

/// Gives one request to the engine. `None`: the connection is not to be used again, and the engine has closed it.
#[allow(clippy::too_many_arguments)] // One call, of the loop above; a struct for it would only rename its variables.
async fn exchange<A>(
    mut stream: Box<DownstreamStream>,
    head: Head,
    section: BytesMut,
    edge: &Arc<Edge>,
    connection: &Connection,
    requests: u32,
    app: &Arc<A>,
    draining: &tokio::sync::watch::Receiver<bool>,
) -> Option<Box<DownstreamStream>>
where
    A: HttpServerApp + Send + Sync + 'static,
{
    let framing = Framing::from(head.body);
    let metrics = &connection.port.metrics.all;
    let section = if head.other_upgrade { http1_head::without_upgrade(&section) } else { section };
    // What ordinary requests hold is bounded by the number of connections.
    let _held = if section.len() > SMALL_SECTION {
        let Some(charge) = connection.port.shared.headers.charge(section.len() as u64) else {
            let mut received = section;
            std::mem::swap(stream.ahead(), &mut received);
            let refused = Refused { reason: Reason::HeadersTooLarge, limit: Some("total_header_bytes") };
            Box::pin(refuse(stream, connection, refused, Instant::now())).await;
            return None;
        };
        Some(charge)
    } else {
        None
    };
    stream.begin_exchange(framing, head.websocket, edge);
    let mut session = ServerSession::new_http1(stream);
    session.set_pipelined_prefix(section);
    // A tunnel watches its own idleness, in both directions; a request that asks for one has no body to wait for.
    session.set_read_timeout((!head.websocket).then_some(edge.timeouts.body_idle));
    session.set_write_timeout(Some(edge.timeouts.stream_idle));
    if let Framing::Length(length) = framing
        && length <= edge.limits.drain_bytes
        && !head.expects_continue
    {
        // An answer that comes before so short a body has ended costs no connection: the rest is read and dropped.
        session.set_close_on_response_before_downstream_finish(false);
        session.set_total_drain_timeout(Some(DRAIN_TIME));
    }
    let (last, aged) = (requests >= edge.limits.requests_per_connection, connection.aged());
    if last || aged {
        if last {
            metrics.limit("requests_per_connection");
        }
        if aged {
            metrics.timeout("connection_max");
        }
        // None left: the answer says `Connection: close`.
        session.set_keepalive_reuses_remaining(Some(0));
    }
    let (io, _) = app.process_new_http(session, draining).await?.consume();
    let mut stream = io.into_any().downcast::<DownstreamStream>().ok()?;
    stream.end_exchange().then_some(stream)
}

/// One timer a connection, moved only when it fires: a request that comes in time touches no timer at all.
struct Patience {
    timer: Pin<Box<Sleep>>,
    since: Instant,
    closing: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
}

impl Patience {
    fn new(connection: &Connection) -> Self {
        Patience {
            timer: Box::pin(tokio::time::sleep(connection.edge.timeouts.keep_alive)),
            since: Instant::now(),
            closing: Box::pin(connection.port.reaches(Phase::Closing)),
        }
    }

    /// Ready once the connection has waited for `limit` (`true`), or its port is closing.
    fn poll_end(&mut self, cx: &mut Context<'_>, limit: Duration) -> Poll<bool> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let until = self.since + limit;
            if Instant::now() >= until {
                return Poll::Ready(true);
            }
            self.timer.as_mut().reset(until.into());
        }
        self.closing.as_mut().poll(cx).map(|()| false)
    }
}

/// Waits for the next request, and reads its header section.
async fn next(
    stream: &mut DownstreamStream,
    connection: &Connection,
    patience: &mut Patience,
    keep_alive: Duration,
    first: bool,
) -> Next {
    let state = &connection.state;
    // A port with several listeners: theirs are compared once the host is known.
    let limits = if stream.is_tls() { HeaderLimits::of(&connection.edge) } else { state.widest };
    if stream.ahead().is_empty() {
        patience.since = Instant::now();
        let waited = std::future::poll_fn(|cx| match stream.poll_read_ahead(cx) {
            Poll::Pending => patience.poll_end(cx, keep_alive).map(|late| {
                if late {
                    connection.port.metrics.all.timeout("keep_alive");
                }
                Ok(false)
            }),
            ready => ready,
        });
        if !matches!(waited.await, Ok(true)) {
            return Next::End;
        }
    }
    let started = Instant::now();
    if first && !stream.is_tls() && http2::may_be_preface(stream.ahead()) {
        match Box::pin(whole_preface(stream, connection, started)).await {
            Ok(true) => return Next::Http2,
            Ok(false) => {}
            Err(end) => return end,
        }
    }
    match http1_head::parse(stream.ahead(), &limits) {
        Ok(Some(head)) => passed(stream, connection, head, started),
        Ok(None) => Box::pin(rest_of_section(stream, connection, &limits, started)).await,
        Err(refused) => Next::Refused(refused, started),
    }
}

/// A header section is complete. Its host's listener may have limits of its own.
fn passed(stream: &mut DownstreamStream, connection: &Connection, head: Head, started: Instant) -> Next {
    let state = &connection.state;
    let edge = if stream.is_tls() || state.uniform() {
        connection.edge.clone()
    } else {
        let ahead = stream.ahead();
        let host = head.host.and_then(|(from, to)| ahead.get(from..to));
        let host = host.and_then(|host| std::str::from_utf8(host).ok()).unwrap_or_default();
        let edge = state.edge_for_host(host).clone();
        if let Err(refused) = head.measure.check(&HeaderLimits::of(&edge)) {
            return Next::Refused(refused, started);
        }
        edge
    };
    let ahead = stream.ahead();
    let section = if ahead.len() == head.len { std::mem::take(ahead) } else { ahead.split_to(head.len) };
    Next::Request { head, section, edge }
}

/// The section came in pieces. It is parsed again when it may be complete, and each time that it has doubled: a client
/// that drips bytes costs no more than one that sends them at once.
async fn rest_of_section(
    stream: &mut DownstreamStream,
    connection: &Connection,
    limits: &HeaderLimits,
    started: Instant,
) -> Next {
    let read = async {
        let mut parsed = stream.ahead().len();
        let mut held = None;
        let mut counted = SMALL_SECTION;
        loop {
            match std::future::poll_fn(|cx| stream.poll_read_ahead(cx)).await {
                Ok(true) => {}
                Ok(false) | Err(_) => return Next::End,
            }
            let ahead = stream.ahead();
            if ahead.len() > counted {
                drop(held.take());
                counted = ahead.len() * 2;
                held = connection.port.shared.headers.charge(counted as u64);
                if held.is_none() {
                    let refused = Refused { reason: Reason::HeadersTooLarge, limit: Some("total_header_bytes") };
                    return Next::Refused(refused, started);
                }
            }
            if ahead.len() < 2 * parsed && !blank_line_since(ahead, parsed) {
                continue;
            }
            match http1_head::parse(ahead, limits) {
                Ok(Some(head)) => return passed(stream, connection, head, started),
                Ok(None) => parsed = ahead.len(),
                Err(refused) => return Next::Refused(refused, started),
            }
        }
    };
    match tokio::time::timeout_at((started + connection.edge.timeouts.request_headers).into(), read).await {
        Ok(next) => next,
        Err(_) => {
            connection.port.metrics.all.timeout("request_headers");
            Next::Refused(Reason::HeaderTimeout.into(), started)
        }
    }
}

/// Whether an empty line, well formed or not, ends behind `from`.
fn blank_line_since(bytes: &[u8], from: usize) -> bool {
    let window = bytes.get(from.saturating_sub(3)..).unwrap_or_default();
    window.windows(2).any(|pair| pair == b"\n\n") || window.windows(3).any(|triple| triple == b"\n\r\n")
}

/// The first bytes may be the preface of HTTP/2. Waits until that is plain.
async fn whole_preface(stream: &mut DownstreamStream, connection: &Connection, started: Instant) -> Result<bool, Next> {
    let read = async {
        while http2::may_be_preface(stream.ahead()) {
            if http2::is_preface(stream.ahead()) {
                return Ok(true);
            }
            match std::future::poll_fn(|cx| stream.poll_read_ahead(cx)).await {
                Ok(true) => {}
                Ok(false) | Err(_) => return Err(Next::End),
            }
        }
        Ok(false)
    };
    match tokio::time::timeout_at((started + connection.edge.timeouts.request_headers).into(), read).await {
        Ok(plain) => plain,
        Err(_) => {
            connection.port.metrics.all.timeout("request_headers");
            Err(Next::Refused(Reason::HeaderTimeout.into(), started))
        }
    }
}

/// Answers what may not pass, and closes: after a request that was not understood, nothing is certain of what follows.
async fn refuse(mut stream: Box<DownstreamStream>, connection: &Connection, refused: Refused, started: Instant) {
    let metrics = &connection.port.metrics.all;
    if let Some(limit) = refused.limit {
        metrics.limit(limit);
    }
    let received = std::mem::take(stream.ahead());
    let (method, target) = http1_head::line_parts(&received);
    let status = refused.reason.status();
    let host = refusal::field(&received, "host");
    let edge = if stream.is_tls() {
        &connection.edge
    } else {
        connection.state.edge_for_host(host.and_then(|host| std::str::from_utf8(host).ok()).unwrap_or_default())
    };
    let json = refusal::accepts_json(&received);
    let response = refusal::response(refused.reason, &edge.server_header, method == "HEAD", json);
    stream.abandon();
    let written = async {
        stream.write_all(&response).await?;
        stream.flush().await?;
        io::Result::Ok(response.len())
    };
    let sent = match tokio::time::timeout(REFUSAL_TIME, written).await {
        Ok(Ok(sent)) => sent,
        // The client is gone; what it did is logged all the same.
        Ok(Err(_)) | Err(_) => 0,
    };
    if let Some(info) = stream.info() {
        let protocol = "HTTP/1.1";
        let told = Refusal { reason: refused.reason, status, protocol, method, target, host, started, sent };
        connection.port.shared.observer.refused(info, &told);
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn an_empty_line_is_seen_whatever_the_reads() {
        let section = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for cut in 1..section.len() {
            assert!(blank_line_since(section, cut), "{cut}");
        }
        assert!(!blank_line_since(b"GET / HTTP/1.1\r\nHost: a\r\n", 3));
        assert!(blank_line_since(b"GET / HTTP/1.0\n\n", 14));
    }
}
