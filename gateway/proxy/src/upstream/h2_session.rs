//! One HTTP/2 exchange with an endpoint: the engine's client stream behind the engine's interface for foreign protocols,
//! the only one through which it takes HTTP/2 over a connection that it did not make, and that lets us say how long the
//! endpoint is waited for.
//!
//! That interface skips what the engine does to requests on its own HTTP/2 path, so it is done here: the request target
//! from `Host`, and no connection-specific fields (RFC 9113, section 8.2.2).

use super::deadline::{Over, ReadDeadline, digest_of};
use super::lost::lost;
use super::transport::Transport;
use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use h2::SendStream;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Uri, Version, header};
use pingora_core::protocols::http::custom::client::Session;
use pingora_core::protocols::http::custom::{BodyWrite, CustomMessageWrite};
use pingora_core::protocols::http::v2::client::Http2Session;
use pingora_core::protocols::http::v2::write_body;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::{Digest, UniqueIDType};
use pingora_core::{Error, ErrorType, OkOrErr, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::time::Sleep;

/// Public only because the engine's trait names it.
#[doc(hidden)]
pub struct H2Session {
    inner: Http2Session,
    transport: Arc<Transport>,
    request_ended: bool,
    /// Longest pause of the response's body.
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
    deadline: Arc<ReadDeadline>,
    timer: Option<Pin<Box<Sleep>>>,
    /// The connection's, with the deadline of this stream.
    digest: Digest,
}

impl H2Session {
    pub(super) fn new(inner: Http2Session, transport: Arc<Transport>) -> Self {
        let deadline = Arc::new(ReadDeadline::default());
        let connection = inner.digest();
        let digest = Digest {
            ssl_digest: connection.and_then(|digest| digest.ssl_digest.clone()),
            timing_digest: Vec::new(),
            proxy_digest: Some(digest_of(&deadline)),
            socket_digest: connection.and_then(|digest| digest.socket_digest.clone()),
        };
        H2Session {
            inner,
            transport,
            request_ended: false,
            read_timeout: None,
            write_timeout: None,
            deadline,
            timer: None,
            digest,
        }
    }

    pub(super) fn into_inner(self) -> Http2Session {
        self.inner
    }

    /// A connection on which a response did not come in time takes no new streams: it may hang as a whole, or is lost.
    fn noted<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            match error.etype() {
                ErrorType::ReadTimedout | ErrorType::ReadError => self.inner.conn.mark_shutdown(),
                ErrorType::H2Downgrade => self.transport.require_http1(),
                _ => {}
            }
        }
        result
    }
}

/// `read`, unless the request's deadline passes before, or the endpoint is lost.
async fn in_time<T>(
    deadline: &ReadDeadline,
    timer: &mut Option<Pin<Box<Sleep>>>,
    socket: UniqueIDType,
    read: impl Future<Output = Result<T>>,
) -> Result<T> {
    let mut read = pin!(read);
    poll_fn(|cx| match read.as_mut().poll(cx) {
        Poll::Pending => deadline.poll(timer, socket, cx).map(|over| match over {
            Over::TimedOut => Error::e_explain(
                ErrorType::ReadTimedout,
                "the request's deadline passed while the endpoint was waited for",
            ),
            Over::Lost => Err(Error::because(ErrorType::ReadError, "waiting for the endpoint", lost())),
            // Not the endpoint's doing, and nothing is wrong with its connection.
            Over::GivenUp => Error::e_explain(ErrorType::InternalError, "the request is answered by the gateway"),
        }),
        ready => ready,
    })
    .await
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Makes an HTTP/2 request of what the filters left. `Connection` names nothing here that a client could have named: its
/// fields were taken out when its request came in, before the gateway's own were written.
fn to_http2(request: &mut RequestHeader, scheme: Scheme) -> Result<()> {
    for name in [&header::CONNECTION, &header::TRANSFER_ENCODING, &header::UPGRADE, &KEEP_ALIVE, &PROXY_CONNECTION] {
        request.remove_header(name);
    }
    // TE may be sent, but say nothing beyond `trailers`.
    let trailers = request
        .headers
        .get_all(header::TE)
        .iter()
        .flat_map(|field| field.as_bytes().split(|b| *b == b','))
        .any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"));
    request.remove_header(&header::TE);
    if trailers {
        request.insert_header(header::TE, HeaderValue::from_static("trailers"))?;
    }

    if !request.raw_path_is_utf8() {
        return Error::e_explain(ErrorType::InvalidHTTPHeader, "the request target cannot be sent over HTTP/2");
    }
    let host = request.remove_header(&header::HOST);
    let authority = match &host {
        Some(host) => Authority::try_from(host.as_bytes()).or_err(ErrorType::InvalidHTTPHeader, "invalid Host")?,
        None => request.uri.authority().cloned().or_err(ErrorType::InvalidHTTPHeader, "no Host and no :authority")?,
    };
    if authority.as_str().contains('@') {
        return Error::e_explain(ErrorType::InvalidHTTPHeader, "user information in Host");
    }
    let target = request.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let uri = Uri::builder()
        .scheme(scheme)
        .authority(authority)
        .path_and_query(target)
        .build()
        .or_err(ErrorType::InvalidHTTPHeader, "the request target cannot be sent over HTTP/2")?;
    request.set_uri(uri);
    request.set_version(Version::HTTP_2);
    Ok(())
}

#[async_trait]
impl Session for H2Session {
    async fn write_request_header(&mut self, mut request: Box<RequestHeader>, end: bool) -> Result<()> {
        let scheme = if self.transport.is_tls() { Scheme::HTTPS } else { Scheme::HTTP };
        to_http2(&mut request, scheme)?;
        self.request_ended = end;
        self.inner.write_request_header(request, end)
    }

    async fn write_request_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        self.request_ended |= end;
        self.inner.write_request_body(data, end).await
    }

    async fn finish_request_body(&mut self) -> Result<()> {
        self.request_ended = true;
        self.inner.finish_request_body()
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.read_timeout = timeout;
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.inner.write_timeout = timeout;
        self.write_timeout = timeout;
    }

    async fn read_response_header(&mut self) -> Result<()> {
        // The engine's client would count from the request's head on.
        self.inner.read_timeout = None;
        let result = in_time(&self.deadline, &mut self.timer, self.inner.fd(), self.inner.read_response_header()).await;
        if result.is_ok() && self.inner.response_finished() {
            self.deadline.note_end_with_head();
        }
        self.noted(result)
    }

    async fn read_response_body(&mut self) -> Result<Option<Bytes>> {
        self.inner.read_timeout = self.read_timeout;
        let result = in_time(&self.deadline, &mut self.timer, self.inner.fd(), self.inner.read_response_body()).await;
        self.noted(result)
    }

    fn response_finished(&self) -> bool {
        self.inner.response_finished()
    }

    async fn shutdown(&mut self, _code: u32, _context: &str) {
        self.inner.shutdown();
    }

    fn response_header(&self) -> Option<&ResponseHeader> {
        self.inner.response_header()
    }

    fn was_upgraded(&self) -> bool {
        false
    }

    fn digest(&self) -> Option<&Digest> {
        Some(&self.digest)
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        Some(&mut self.digest)
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.inner.server_addr()
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.inner.client_addr()
    }

    async fn read_trailers(&mut self) -> Result<Option<HeaderMap>> {
        let result = in_time(&self.deadline, &mut self.timer, self.inner.fd(), self.inner.read_trailers()).await;
        self.noted(result)
    }

    fn fd(&self) -> UniqueIDType {
        self.inner.fd()
    }

    async fn check_response_end_or_error(&mut self, _headers: bool) -> Result<bool> {
        self.inner.check_response_end_or_error()
    }

    fn take_request_body_writer(&mut self) -> Option<Box<dyn BodyWrite>> {
        let stream = self.inner.take_request_body_writer()?;
        Some(Box::new(RequestBody { stream, ended: self.request_ended, timeout: self.write_timeout }))
    }

    // The interface also knows messages beside the exchange; HTTP/2 has none.

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        Some(Box::new(futures::stream::empty()))
    }

    async fn drain_custom_messages(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        Some(Box::new(()))
    }
}

struct RequestBody {
    stream: SendStream<Bytes>,
    ended: bool,
    timeout: Option<Duration>,
}

impl RequestBody {
    async fn write(&mut self, data: Bytes, end: bool) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        self.ended = end;
        let written = write_body(&mut self.stream, data, end, self.timeout).await;
        if written.is_err() && self.wants_no_more().await {
            self.ended = true;
            return Ok(());
        }
        written
    }

    /// Whether the endpoint has answered and told us to stop sending (RFC 9113, section 8.1): its answer counts, and the
    /// rest of the body is thrown away.
    async fn wants_no_more(&mut self) -> bool {
        let reset = poll_fn(|cx| Poll::Ready(self.stream.poll_reset(cx))).await;
        matches!(reset, Poll::Ready(Ok(h2::Reason::NO_ERROR)))
    }
}

#[async_trait]
impl BodyWrite for RequestBody {
    async fn write_all_buf(&mut self, data: &mut Bytes) -> Result<()> {
        self.write(std::mem::take(data), false).await
    }

    async fn finish(&mut self) -> Result<()> {
        self.write(Bytes::new(), true).await
    }

    async fn cleanup(&mut self) -> Result<()> {
        Ok(())
    }

    fn upgrade_body_writer(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fields: &[(&'static str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/a?b=c", None).unwrap();
        for (name, value) in fields {
            request.append_header(*name, *value).unwrap();
        }
        request
    }

    #[test]
    fn host_becomes_the_authority() {
        let mut request = request(&[("host", "shop.example:8443")]);
        to_http2(&mut request, Scheme::HTTPS).unwrap();
        assert_eq!(request.uri, "https://shop.example:8443/a?b=c");
        assert!(request.headers.get(header::HOST).is_none());
        assert_eq!(request.version, Version::HTTP_2);
    }

    #[test]
    fn connection_specific_fields_are_not_sent_on() {
        let mut request = request(&[
            ("host", "shop.example"),
            ("connection", "keep-alive, X-End"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("x-end", "2"),
        ]);
        to_http2(&mut request, Scheme::HTTPS).unwrap();
        let names: Vec<_> = request.headers.keys().map(|n| n.as_str()).collect();
        assert_eq!(names, ["x-end"]);
    }

    #[test]
    fn te_says_trailers_or_nothing() {
        for (te, expected) in [("trailers", Some("trailers")), ("gzip, Trailers", Some("trailers")), ("gzip", None)] {
            let mut request = request(&[("host", "shop.example"), ("te", te)]);
            to_http2(&mut request, Scheme::HTTPS).unwrap();
            assert_eq!(request.headers.get(header::TE).map(|v| v.to_str().unwrap()), expected);
        }
    }

    #[test]
    fn a_request_without_an_authority_is_an_error() {
        assert!(to_http2(&mut request(&[]), Scheme::HTTPS).is_err());
        assert!(to_http2(&mut request(&[("host", "user@shop.example")]), Scheme::HTTPS).is_err());
    }
}
