//! A request of HTTP/2 with a body: what the engine does not know of it by itself.
//!
//! A body has a pace to keep, while the engine waits for it for as long as the client likes.
//! On HTTP/1 the engine has a timeout for reads, and the stream measures their rate. On HTTP/2 the stream of bytes
//! belongs to all requests of a connection, so that both are done here, for the one request that is slow: it is answered
//! 408, and its neighbours know nothing of it. Only time in which the request waits for its client counts. Once the
//! response has begun, the exchange is a conversation, and lives by the idle timeout of streams.
//!
//! A body may be followed by trailers (RFC 9113, section 8.1). The engine takes a stream with something left to read for a
//! body that goes on, and would read its end again and again, without a pause: it is told that the body is over. Trailers of
//! requests go no further, as RFC 9110, section 6.5.1, permits.

use super::metrics::DownstreamMetrics;
use super::rate::BodyRate;
use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use http::HeaderMap;
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::custom::CustomMessageWrite;
use pingora_core::protocols::http::custom::server::Session as ForeignSession;
use pingora_core::protocols::http::{HttpTask, ServerSession};
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use sluice_model::config::Timeouts;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Bodies of one connection that may be too slow before all of it is closed: by then it is not one bad upload, but a
/// client that lives by them.
const SLOW_MAX: u32 = 16;

/// What the requests of one connection tell its task.
pub(super) struct SlowBodies {
    seen: AtomicU32,
    metrics: DownstreamMetrics,
    alarm: Arc<Notify>,
}

impl SlowBodies {
    /// `alarm` is notified once there were too many.
    pub(super) fn new(metrics: &DownstreamMetrics, alarm: &Arc<Notify>) -> Arc<Self> {
        Arc::new(SlowBodies { seen: AtomicU32::new(0), metrics: metrics.clone(), alarm: alarm.clone() })
    }

    fn note(&self) {
        if self.seen.fetch_add(1, Ordering::AcqRel) + 1 == SLOW_MAX {
            self.metrics.limit("slow_bodies");
            self.alarm.notify_one();
        }
    }
}

/// Whether a body is part of a conversation from its first byte: a gRPC call may be quiet for as long as any stream.
fn converses(request: &RequestHeader) -> bool {
    let kind = request.headers.get(http::header::CONTENT_TYPE).map(http::HeaderValue::as_bytes).unwrap_or_default();
    let grpc = b"application/grpc";
    kind.get(..grpc.len()).is_some_and(|start| start.eq_ignore_ascii_case(grpc))
        && matches!(kind.get(grpc.len()), None | Some(b'+' | b';' | b' '))
}

/// The session as the engine is to see it.
pub(super) fn wrap(mut session: ServerSession, timeouts: &Timeouts, slow: &Arc<SlowBodies>) -> ServerSession {
    if session.is_body_done() {
        return session;
    }
    let pace = (!converses(session.req_header())).then(|| Pace {
        idle: timeouts.body_idle,
        waited: Duration::ZERO,
        rate: BodyRate::new(timeouts),
    });
    ServerSession::new_custom(Box::new(Paced {
        inner: session,
        pace,
        read_all: false,
        ended: false,
        slow: slow.clone(),
    }))
}

struct Pace {
    idle: Duration,
    /// For the next byte.
    waited: Duration,
    rate: BodyRate,
}

/// One wait for bytes. The engine gives up a read whenever something else is ready first: what was waited for so far
/// counts all the same, and the time until it asks again does not.
struct Wait<'p> {
    pace: &'p mut Pace,
    since: Instant,
}

impl<'p> Wait<'p> {
    fn begin(pace: &'p mut Pace) -> Self {
        pace.rate.waits();
        Wait { pace, since: Instant::now() }
    }

    fn left(&self) -> Duration {
        self.pace.idle.saturating_sub(self.pace.waited)
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.pace.waited += self.since.elapsed();
        self.pace.rate.pauses();
    }
}

struct Paced {
    inner: ServerSession,
    /// None where the body is part of a conversation.
    pace: Option<Pace>,
    /// The end of the body has been read; trailers may be left.
    read_all: bool,
    /// The response is at its end; what is left of the request is read for nobody.
    ended: bool,
    slow: Arc<SlowBodies>,
}

impl Paced {
    fn answered(&self) -> bool {
        !self.ended && self.inner.response_written().is_some_and(|sent| !sent.status.is_informational())
    }

    async fn read(&mut self) -> Result<Option<Bytes>> {
        if self.read_all {
            return Ok(None);
        }
        let read = self.read_in_time().await?;
        self.read_all = read.is_none();
        Ok(read)
    }

    async fn read_in_time(&mut self) -> Result<Option<Bytes>> {
        let answered = self.answered();
        let Some(pace) = self.pace.as_mut().filter(|_| !answered) else {
            return self.inner.read_request_body().await;
        };
        let read = {
            let wait = Wait::begin(pace);
            tokio::time::timeout(wait.left(), self.inner.read_request_body()).await
        };
        let Ok(read) = read else {
            self.slow.note();
            return Err(Error::explain(ErrorType::ReadTimedout, "the request body has paused for too long").into_down());
        };
        let read = read.map_err(Error::into_down)?;
        let came = read.as_ref().map_or(0, Bytes::len);
        if came > 0 {
            pace.waited = Duration::ZERO;
        }
        if read.is_some() && !pace.rate.came(came) {
            self.slow.metrics.timeout("body_min_rate");
            self.slow.note();
            let slow = io::Error::new(io::ErrorKind::TimedOut, "below the minimum rate");
            return Err(Error::because(ErrorType::ReadError, "the request body arrives too slowly", slow).into_down());
        }
        Ok(read)
    }
}

#[async_trait]
impl ForeignSession for Paced {
    fn req_header(&self) -> &RequestHeader {
        self.inner.req_header()
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        self.inner.req_header_mut()
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        self.read().await
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        let limit = self.inner.get_total_drain_timeout().unwrap_or(Duration::MAX);
        let drain = async {
            while !self.is_body_done() && self.read().await?.is_some() {}
            Ok(())
        };
        match tokio::time::timeout(limit, drain).await {
            Ok(drained) => drained,
            Err(_) => {
                Err(Error::explain(ErrorType::ReadTimedout, "the rest of the request body takes too long").into_down())
            }
        }
    }

    async fn write_response_header(&mut self, response: Box<ResponseHeader>, _end: bool) -> Result<()> {
        self.inner.write_response_header(response).await
    }

    async fn write_response_header_ref(&mut self, response: &ResponseHeader, _end: bool) -> Result<()> {
        self.inner.write_response_header_ref(response).await
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.inner.write_response_body(data, end).await?;
        self.ended |= end;
        Ok(())
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.inner.write_response_trailers(trailers).await?;
        self.ended = true;
        Ok(())
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let end = self.inner.response_duplex_vec(tasks).await?;
        self.ended |= end;
        Ok(end)
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.inner.set_read_timeout(timeout);
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        self.inner.get_read_timeout()
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.inner.set_write_timeout(timeout);
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.inner.get_write_timeout()
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.inner.set_total_drain_timeout(timeout);
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.inner.get_total_drain_timeout()
    }

    fn request_summary(&self) -> String {
        self.inner.request_summary()
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.inner.response_written()
    }

    async fn shutdown(&mut self, _code: u32, _context: &str) {
        self.inner.shutdown().await;
    }

    fn is_body_done(&mut self) -> bool {
        self.read_all || self.inner.is_body_done()
    }

    async fn finish(&mut self) -> Result<()> {
        self.inner.finish_body().await?;
        self.ended = true;
        Ok(())
    }

    fn is_body_empty(&mut self) -> bool {
        self.inner.is_body_empty()
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        if no_body_expected || self.is_body_done() {
            return self.inner.read_body_or_idle(true).await;
        }
        self.read().await
    }

    fn body_bytes_sent(&self) -> usize {
        self.inner.body_bytes_sent()
    }

    fn body_bytes_read(&self) -> usize {
        self.inner.body_bytes_read()
    }

    fn digest(&self) -> Option<&Digest> {
        self.inner.digest()
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        self.inner.digest_mut()
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.inner.client_addr()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.inner.server_addr()
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        self.inner.to_h1_raw()
    }

    fn enable_retry_buffering(&mut self) {
        self.inner.enable_retry_buffering();
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.inner.retry_buffer_truncated()
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        self.inner.get_retry_buffer()
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    // The interface also knows messages beside the exchange; HTTP has none.

    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        Some(Box::new(futures::stream::empty()))
    }

    fn restore_custom_message_reader(
        &mut self,
        _reader: Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>,
    ) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        Some(Box::new(()))
    }

    fn restore_custom_message_writer(&mut self, _writer: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }

    fn is_upgrade_req(&self) -> bool {
        false
    }

    fn was_upgraded(&self) -> bool {
        false
    }
}
