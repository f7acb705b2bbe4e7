//! One HTTP/2 exchange with a TLS endpoint: the engine's client stream behind the engine's interface for foreign
//! protocols, the only one through which it takes HTTP/2 over a connection that it did not make.
//!
//! That interface skips what the engine does to requests on its own HTTP/2 path, so it is done here: the request target
//! from `Host`, and no connection-specific fields (RFC 9113, section 8.2.2).

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
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// Public only because the engine's trait names it.
#[doc(hidden)]
pub struct H2Session {
    inner: Http2Session,
    transport: Arc<Transport>,
    request_ended: bool,
    write_timeout: Option<Duration>,
}

impl H2Session {
    pub(super) fn new(inner: Http2Session, transport: Arc<Transport>) -> Self {
        H2Session { inner, transport, request_ended: false, write_timeout: None }
    }

    pub(super) fn into_inner(self) -> Http2Session {
        self.inner
    }

    /// A connection on which a response did not come in time takes no new streams: it may hang as a whole.
    fn noted<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result {
            match error.etype() {
                ErrorType::ReadTimedout => self.inner.conn.mark_shutdown(),
                ErrorType::H2Downgrade => self.transport.require_http1(),
                _ => {}
            }
        }
        result
    }
}

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Fields that a `Connection` field may not take away: they carry the request's meaning or identity.
const PROTECTED: [HeaderName; 6] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::AUTHORIZATION,
    header::COOKIE,
    header::FORWARDED,
    HeaderName::from_static("x-forwarded-for"),
];

/// Makes an HTTP/2 request of what the filters left.
fn to_http2(request: &mut RequestHeader) -> Result<()> {
    let nominated: Vec<HeaderName> = request
        .headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|field| field.as_bytes().split(|b| *b == b','))
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        .filter(|name| !PROTECTED.contains(name) && *name != header::TE)
        .collect();
    for name in nominated {
        request.remove_header(&name);
    }
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
        .scheme(Scheme::HTTPS)
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
        to_http2(&mut request)?;
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
        self.inner.read_timeout = timeout;
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.inner.write_timeout = timeout;
        self.write_timeout = timeout;
    }

    async fn read_response_header(&mut self) -> Result<()> {
        let result = self.inner.read_response_header().await;
        self.noted(result)
    }

    async fn read_response_body(&mut self) -> Result<Option<Bytes>> {
        let result = self.inner.read_response_body().await;
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
        self.inner.digest()
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        self.inner.digest_mut()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.inner.server_addr()
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.inner.client_addr()
    }

    async fn read_trailers(&mut self) -> Result<Option<HeaderMap>> {
        let result = self.inner.read_trailers().await;
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
        to_http2(&mut request).unwrap();
        assert_eq!(request.uri, "https://shop.example:8443/a?b=c");
        assert!(request.headers.get(header::HOST).is_none());
        assert_eq!(request.version, Version::HTTP_2);
    }

    #[test]
    fn connection_specific_fields_are_not_sent_on() {
        let mut request = request(&[
            ("host", "shop.example"),
            ("connection", "keep-alive, X-Hop"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("x-hop", "1"),
            ("x-end", "2"),
        ]);
        to_http2(&mut request).unwrap();
        let names: Vec<_> = request.headers.keys().map(|n| n.as_str()).collect();
        assert_eq!(names, ["x-end"]);
    }

    #[test]
    fn a_nomination_cannot_take_away_who_the_client_is() {
        let mut request = request(&[
            ("host", "shop.example"),
            ("connection", "host, x-forwarded-for, authorization"),
            ("x-forwarded-for", "192.0.2.1"),
            ("authorization", "Basic x"),
        ]);
        to_http2(&mut request).unwrap();
        assert!(request.headers.contains_key("x-forwarded-for"));
        assert!(request.headers.contains_key("authorization"));
    }

    #[test]
    fn te_says_trailers_or_nothing() {
        for (te, expected) in [("trailers", Some("trailers")), ("gzip, Trailers", Some("trailers")), ("gzip", None)] {
            let mut request = request(&[("host", "shop.example"), ("te", te)]);
            to_http2(&mut request).unwrap();
            assert_eq!(request.headers.get(header::TE).map(|v| v.to_str().unwrap()), expected);
        }
    }

    #[test]
    fn a_request_without_an_authority_is_an_error() {
        assert!(to_http2(&mut request(&[])).is_err());
        assert!(to_http2(&mut request(&[("host", "user@shop.example")])).is_err());
    }
}
