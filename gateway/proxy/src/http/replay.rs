//! A client's session whose body begins with bytes that were read before, or is another body altogether; or whose response
//! has bytes before its trailers that come only with them, or is decided on as it is written ([`super::answering`]).
//!
//! The engine keeps 64 KiB of a body for sending it again. Where a plugin read more, or gave another body to a request
//! without one, the session is put behind the engine's interface for foreign protocols; everything but the body passes
//! through. When the exchange is over the session goes back to its place, so that its connection can be used again.

use super::answering::Answering;
use ::http::HeaderMap;
use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use pingora_core::Result;
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::custom::CustomMessageWrite;
use pingora_core::protocols::http::custom::server::Session as ForeignSession;
use pingora_core::protocols::http::{HttpTask, ServerSession};
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

type Messages = Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>;

/// Where a session is put when what stands in for it is dropped: a foreign session can't be taken apart from outside.
#[derive(Default)]
pub(super) struct Home(Arc<Mutex<Option<Left>>>);

/// What is left of a stand-in.
struct Left {
    session: Box<ServerSession>,
    answering: Option<Box<Answering>>,
}

impl Home {
    /// Puts the client's session back into its place. Gives what decided on the response, where something did.
    pub(super) fn restore(self, session: &mut Session) -> Option<Box<Answering>> {
        let replay = std::mem::replace(&mut session.downstream_session, placeholder());
        drop(replay);
        let left = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        session.downstream_session = left.session;
        left.answering
    }
}

/// Holds the place while sessions are exchanged; never called.
fn placeholder() -> Box<ServerSession> {
    Box::new(ServerSession::new_custom(Box::new(())))
}

pub(super) struct Replay {
    /// `None` only while it is dropped.
    inner: Option<Box<ServerSession>>,
    home: Arc<Mutex<Option<Left>>>,
    /// What the body begins with. Sent again with each try.
    front: Bytes,
    /// The rest of the client's body follows.
    follows: bool,
    /// Some of the rest has been sent: it is not kept, so that there is no further try.
    passed_on: bool,
    /// Of the response: what goes before its trailers.
    before_trailers: Option<Bytes>,
    /// Decides on the response.
    answering: Option<Box<Answering>>,
}

impl Replay {
    /// `front`, and then what the client sends.
    pub(super) fn put_before(session: &mut Session, front: Bytes) -> Home {
        Replay::wrap(session, front, true, None, None)
    }

    /// Writes `bytes` between the body that has been sent so far and the trailers. What stood in for the client's session
    /// before goes on to.
    pub(super) fn put_before_trailers(session: &mut Session, bytes: Bytes) -> Home {
        Replay::wrap(session, Bytes::new(), true, Some(bytes), None)
    }

    /// Hands the response to who decides on it.
    pub(super) fn put_answering(session: &mut Session, answering: Box<Answering>) -> Home {
        Replay::wrap(session, Bytes::new(), true, None, Some(answering))
    }

    /// `body` instead of the client's, which has been read.
    pub(super) fn put_instead(session: &mut Session, body: Bytes) -> Home {
        Replay::wrap(session, body, false, None, None)
    }

    fn wrap(
        session: &mut Session,
        front: Bytes,
        follows: bool,
        before_trailers: Option<Bytes>,
        answering: Option<Box<Answering>>,
    ) -> Home {
        let home = Home::default();
        let inner = Some(std::mem::replace(&mut session.downstream_session, placeholder()));
        let replay =
            Replay { inner, home: home.0.clone(), front, follows, passed_on: false, before_trailers, answering };
        *session.downstream_session = ServerSession::new_custom(Box::new(replay));
        home
    }

    fn inner(&self) -> &ServerSession {
        #[allow(clippy::expect_used, reason = "taken by `drop` alone, after which nothing can be called")]
        self.inner.as_deref().expect("a session that is not dropped")
    }

    fn inner_mut(&mut self) -> &mut ServerSession {
        #[allow(clippy::expect_used, reason = "taken by `drop` alone, after which nothing can be called")]
        self.inner.as_deref_mut().expect("a session that is not dropped")
    }

    fn rest_done(&mut self) -> bool {
        !self.follows || self.inner_mut().is_body_done()
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        let left = self.inner.take().map(|session| Left { session, answering: self.answering.take() });
        *self.home.lock().unwrap_or_else(PoisonError::into_inner) = left;
    }
}

#[async_trait]
impl ForeignSession for Replay {
    fn req_header(&self) -> &RequestHeader {
        self.inner().req_header()
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        self.inner_mut().req_header_mut()
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        if self.rest_done() {
            return Ok(None);
        }
        let read = self.inner_mut().read_request_body().await?;
        self.passed_on |= read.is_some();
        Ok(read)
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        self.inner_mut().drain_request_body().await
    }

    async fn write_response_header(&mut self, response: Box<ResponseHeader>, _end: bool) -> Result<()> {
        self.inner_mut().write_response_header(response).await
    }

    async fn write_response_header_ref(&mut self, response: &ResponseHeader, _end: bool) -> Result<()> {
        self.inner_mut().write_response_header_ref(response).await
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.inner_mut().write_response_body(data, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.inner_mut().write_response_trailers(trailers).await
    }

    async fn response_duplex_vec(&mut self, mut tasks: Vec<HttpTask>) -> Result<bool> {
        if let (Some(answering), Some(inner)) = (&mut self.answering, &mut self.inner) {
            return answering.write(inner, tasks).await;
        }
        if let Some(trailers) = tasks.iter().position(|task| matches!(task, HttpTask::Trailer(_)))
            && let Some(bytes) = self.before_trailers.take()
        {
            tasks.insert(trailers, HttpTask::Body(Some(bytes), false));
        }
        self.inner_mut().response_duplex_vec(tasks).await
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.inner_mut().set_read_timeout(timeout);
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        self.inner().get_read_timeout()
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.inner_mut().set_write_timeout(timeout);
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.inner().get_write_timeout()
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.inner_mut().set_total_drain_timeout(timeout);
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.inner().get_total_drain_timeout()
    }

    fn request_summary(&self) -> String {
        self.inner().request_summary()
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.inner().response_written()
    }

    async fn shutdown(&mut self, _code: u32, _context: &str) {
        self.inner_mut().shutdown().await;
    }

    fn is_body_done(&mut self) -> bool {
        self.rest_done()
    }

    async fn finish(&mut self) -> Result<()> {
        self.inner_mut().finish_body().await
    }

    fn is_body_empty(&mut self) -> bool {
        self.front.is_empty() && self.rest_done()
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        if no_body_expected || self.rest_done() {
            return self.inner_mut().read_body_or_idle(true).await;
        }
        self.read_body_bytes().await
    }

    fn body_bytes_sent(&self) -> usize {
        self.inner().body_bytes_sent()
    }

    fn body_bytes_read(&self) -> usize {
        self.inner().body_bytes_read()
    }

    fn digest(&self) -> Option<&Digest> {
        self.inner().digest()
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        self.inner_mut().digest_mut()
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.inner().client_addr()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.inner().server_addr()
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        self.inner().to_h1_raw()
    }

    fn enable_retry_buffering(&mut self) {}

    fn retry_buffer_truncated(&self) -> bool {
        self.passed_on
    }

    /// The engine begins each try with this.
    fn get_retry_buffer(&self) -> Option<Bytes> {
        (!self.front.is_empty()).then(|| self.front.clone())
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    // The interface also knows messages beside the exchange; HTTP has none.

    fn take_custom_message_reader(&mut self) -> Option<Messages> {
        Some(Box::new(futures::stream::empty()))
    }

    fn restore_custom_message_reader(&mut self, _reader: Messages) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        Some(Box::new(()))
    }

    fn restore_custom_message_writer(&mut self, _writer: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }

    fn is_upgrade_req(&self) -> bool {
        self.inner().is_upgrade_req()
    }

    fn was_upgraded(&self) -> bool {
        self.inner().was_upgraded()
    }
}
