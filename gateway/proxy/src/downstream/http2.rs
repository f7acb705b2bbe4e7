//! HTTP/2 (RFC 9113), over TLS by ALPN or in clear by prior knowledge: one task a connection, one a request.

use super::connection::{Connection, ConnectionInfo, Refusal};
use super::h2_frames::PREFACE;
use super::h2_tap::{STREAM_SEND_BUFFER, Tap};
use super::held::{HeaderBudget, Holder};
use super::http2_body::{self, SlowBodies};
use super::open_port::Phase;
use super::stream::DownstreamStream;
use h2::Reason;
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{H2Accept, H2Options, HttpSession, default_h2_options, handshake};
use pingora_core::protocols::{Digest, GetProxyDigest, GetSocketDigest, GetTimingDigest, Ssl, Stream};
use sluice_model::config::Edge;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// Requests of one connection that may be malformed, before it is closed: the engine's own number.
const MALFORMED_MAX: u32 = 32;
/// How long a client has to take the GOAWAY that tells it why.
const GOODBYE: Duration = Duration::from_secs(1);
/// How long after the warning (GOAWAY that takes all streams) a client may still begin requests: those that it had on
/// their way when the warning came. h2's own last word follows a PING, which clients answer before what they have queued.
const WARNING_TIME: Duration = Duration::from_secs(1);
/// How long requests may take to notice that their connection is gone.
const AFTERMATH: Duration = Duration::from_secs(5);

/// Whether a connection begins with the preface of HTTP/2.
pub(super) fn is_preface(bytes: &[u8]) -> bool {
    bytes.starts_with(PREFACE)
}

/// Whether these first bytes of a connection are, or may yet become, the preface of HTTP/2.
pub(super) fn may_be_preface(bytes: &[u8]) -> bool {
    let common = bytes.len().min(PREFACE.len());
    bytes.get(..common) == PREFACE.get(..common)
}

fn options(edge: &Edge) -> H2Options {
    let mut options = default_h2_options();
    options
        .max_concurrent_streams(edge.http2.max_concurrent_streams)
        .initial_window_size(edge.http2.stream_window)
        .initial_connection_window_size(edge.http2.connection_window)
        .max_header_list_size(u32::try_from(edge.limits.header_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(STREAM_SEND_BUFFER as usize);
    options
}

/// Serves the connection to its end.
pub(super) async fn serve<A>(mut stream: Box<DownstreamStream>, connection: &Connection, app: &Arc<A>)
where
    A: HttpServerApp + Send + Sync + 'static,
{
    let edge = &connection.edge;
    let alarm = Arc::new(Notify::new());
    let waiting = Arc::new(Holder::new(&connection.port.shared.waiting, &alarm));
    let warning = Arc::new(AtomicBool::new(false));
    stream.begin_http2(Tap::new(edge, &connection.port.metrics.all, alarm.clone(), waiting.clone(), warning.clone()));
    let digest = Arc::new(Digest {
        ssl_digest: stream.get_ssl_digest(),
        timing_digest: stream.get_timing_digest(),
        proxy_digest: stream.get_proxy_digest(),
        socket_digest: stream.get_socket_digest(),
    });
    let io: Stream = stream;
    let greeting = tokio::time::timeout(edge.timeouts.request_headers, handshake(io, Some(options(edge))));
    let h2 = tokio::select! {
        biased;
        greeted = greeting => match greeted {
            Ok(Ok(h2)) => h2,
            Ok(Err(error)) => {
                tracing::debug!(%error, "HTTP/2 connection that did not begin");
                return;
            }
            Err(_) => {
                connection.port.metrics.all.timeout("request_headers");
                return;
            }
        },
        () = alarm.notified() => return,
    };
    let mut requests = JoinSet::new();
    let signals = Signals { alarm: &alarm, waiting: &waiting, warning: &warning };
    accept(h2, digest, connection, app, signals, &mut requests).await;
    // Whatever still runs has lost its streams. It ends by itself, and writes its log line.
    let rest = async {
        while let Some(ended) = requests.join_next().await {
            note(connection, ended);
        }
    };
    if tokio::time::timeout(AFTERMATH, rest).await.is_err() {
        requests.detach_all();
    }
}

fn note(connection: &Connection, ended: Result<(), tokio::task::JoinError>) {
    if ended.is_err_and(|error| error.is_panic()) {
        connection.port.metrics.all.restart("request");
    }
}

/// The engine has answered 400 to what is no request; it tells nothing more of it.
fn refused(connection: &Connection, digest: &Digest) {
    let Some(info) = ConnectionInfo::of(digest) else { return };
    let reason = sluice_model::Reason::BadRequest;
    let told = Refusal {
        reason,
        status: reason.status(),
        protocol: "HTTP/2",
        method: "",
        target: b"",
        host: None,
        started: Instant::now(),
        sent: 0,
    };
    connection.port.shared.observer.refused(info, &told);
}

/// GOAWAY with ENHANCE_YOUR_CALM, and the end.
async fn calm_down(h2: &mut h2::server::Connection<Stream, bytes::Bytes>) {
    end_with(h2, Reason::ENHANCE_YOUR_CALM).await;
}

async fn end_with(h2: &mut h2::server::Connection<Stream, bytes::Bytes>, reason: Reason) {
    h2.abrupt_shutdown(reason);
    // A client that does not take it is closed all the same.
    let _ = tokio::time::timeout(GOODBYE, std::future::poll_fn(|cx| h2.poll_closed(cx))).await;
}

/// Between the connection's task and its stream.
#[derive(Clone, Copy)]
struct Signals<'c> {
    alarm: &'c Arc<Notify>,
    waiting: &'c Holder,
    warning: &'c AtomicBool,
}

async fn accept<A>(
    mut h2: h2::server::Connection<Stream, bytes::Bytes>,
    digest: Arc<Digest>,
    connection: &Connection,
    app: &Arc<A>,
    signals: Signals<'_>,
    requests: &mut JoinSet<()>,
) where
    A: HttpServerApp + Send + Sync + 'static,
{
    let Signals { alarm, waiting, warning } = signals;
    let edge = &connection.edge;
    let limits = &edge.limits;
    let metrics = &connection.port.metrics.all;
    // Both hold for a connection that was accepted, or whose handshake ended, when the port had come that far already.
    let draining = connection.port.reaches(Phase::Draining);
    let closing = connection.port.reaches(Phase::Closing);
    let shutdown = connection.port.draining();
    let (mut told, mut closes) = (false, false);
    let (mut leaving, mut warned) = (false, false);
    let mut malformed = 0;
    let mut served = 0_u32;
    let mut quiet_since = Instant::now();
    let budget = HeaderBudget::new(limits.header_bytes, &connection.port.shared.headers, alarm);
    let slow = SlowBodies::new(metrics, alarm);
    let quiet = tokio::time::sleep(edge.timeouts.keep_alive);
    // The end of the connection's life; once it is leaving by itself, the end of its patience. While the port drains, it
    // is the port that has patience: its workers cut what is left, and count it.
    let end = tokio::time::sleep(edge.timeouts.connection_max.unwrap_or(Duration::MAX));
    let last_word = tokio::time::sleep(Duration::ZERO);
    tokio::pin!(draining, closing, quiet, end, last_word);
    loop {
        let leave = tokio::select! {
            biased;
            () = alarm.notified() => {
                // Both are closed from outside, by a connection that found no room.
                if budget.is_gone() {
                    metrics.limit("total_header_bytes");
                }
                if waiting.is_gone() {
                    metrics.limit("total_send_bytes");
                }
                return calm_down(&mut h2).await;
            }
            () = &mut draining, if !told => {
                told = true;
                true
            }
            () = &mut closing, if !closes => {
                closes = true;
                true
            }
            accepted = HttpSession::from_h2_conn(&mut h2, digest.clone()) => match accepted {
                Ok(Some(H2Accept::Session(mut session))) => {
                    let Some(charge) = budget.charge(&session.req_header().headers) else {
                        metrics.limit(if budget.is_gone() { "total_header_bytes" } else { "header_bytes" });
                        return calm_down(&mut h2).await;
                    };
                    // A client that leaves a response unread loses the response, not the connection.
                    session.set_write_timeout(Some(edge.timeouts.stream_idle));
                    let session = http2_body::wrap(ServerSession::new_http2(session), &edge.timeouts, &slow);
                    let (app, shutdown) = (app.clone(), shutdown.clone());
                    requests.spawn(async move {
                        let _charge = charge;
                        app.process_new_http(session, &shutdown).await;
                    });
                    served = served.saturating_add(1);
                    let last = served == limits.requests_per_connection;
                    if last {
                        metrics.limit("requests_per_connection");
                    }
                    last
                }
                Ok(Some(H2Accept::Rejected)) => {
                    malformed += 1;
                    refused(connection, &digest);
                    if malformed >= MALFORMED_MAX {
                        metrics.limit("malformed_streams");
                        return calm_down(&mut h2).await;
                    }
                    false
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(%error, "HTTP/2 connection ended");
                    return;
                }
            },
            Some(ended) = requests.join_next() => {
                note(connection, ended);
                quiet_since = Instant::now();
                false
            }
            () = &mut quiet, if requests.is_empty() => {
                let until = quiet_since + edge.timeouts.keep_alive;
                quiet.as_mut().reset(until.into());
                let idle = Instant::now() >= until;
                if idle && leaving {
                    return;
                }
                if idle {
                    metrics.timeout("keep_alive");
                }
                idle
            }
            () = &mut last_word, if warned => {
                warned = false;
                h2.graceful_shutdown();
                false
            }
            () = &mut end => {
                if leaving {
                    // Its streams are cut: whoever holds one for longer than draining takes is told by the reset.
                    metrics.timeout("drain");
                    connection.port.shared.note_cut(usize::from(!requests.is_empty()));
                    return;
                }
                metrics.timeout("connection_max");
                true
            }
        };
        if leave && !leaving {
            leaving = true;
            warned = true;
            warning.store(true, Ordering::Relaxed);
            last_word.as_mut().reset(tokio::time::Instant::now() + WARNING_TIME.min(edge.timeouts.drain / 2));
            end.as_mut().reset(tokio::time::Instant::now() + edge.timeouts.drain);
            quiet_since = Instant::now();
        }
        if told || closes {
            end.as_mut().reset(far());
        }
        if closes && requests.is_empty() {
            // It was told, and nothing runs: a client that does not leave by itself is not waited for.
            return end_with(&mut h2, Reason::NO_ERROR).await;
        }
    }
}

/// Later than anything that is waited for.
fn far() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(86_400 * 365)
}
