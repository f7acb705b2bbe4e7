//! What the echo backend answers.

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use futures::{SinkExt, TryStreamExt};
use http::header::{
    CONNECTION, CONTENT_TYPE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde_json::{Map, Value};
use std::convert::Infallible;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

type Answer = Response<BoxBody<Bytes, hyper::Error>>;

/// Which backend answered.
const NAME: HeaderName = HeaderName::from_static("x-echo-name");

/// Bytes of one chunk of `?bytes=`.
const CHUNK: usize = 16 << 10;

/// One listening echo.
#[derive(Debug)]
pub(super) struct Echo {
    name: String,
    name_value: HeaderValue,
    tls: bool,
    /// What `/health` answers.
    health: AtomicU16,
}

/// The request, as it arrived.
#[derive(Serialize)]
struct Seen<'a> {
    name: &'a str,
    method: &'a str,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    query: Option<&'a str>,
    host: &'a str,
    protocol: String,
    tls: bool,
    /// A field that stands more than once is a list.
    headers: Map<String, Value>,
    body_bytes: u64,
    #[serde(skip_serializing_if = "Map::is_empty")]
    trailers: Map<String, Value>,
}

/// What the query asks for.
#[derive(Debug, Default, PartialEq)]
struct Wishes {
    delay: Duration,
    chunks: Option<u64>,
    interval: Duration,
    bytes: Option<u64>,
    status: Option<StatusCode>,
}

impl Wishes {
    fn of(query: &str) -> Wishes {
        let mut wishes = Wishes::default();
        for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let Ok(number) = value.trim_end_matches("ms").parse::<u64>() else { continue };
            match key {
                "delay" => wishes.delay = Duration::from_millis(number),
                "interval" => wishes.interval = Duration::from_millis(number),
                "chunks" => wishes.chunks = Some(number),
                "bytes" => wishes.bytes = Some(number),
                "status" => wishes.status = u16::try_from(number).ok().and_then(final_status),
                _ => {}
            }
        }
        wishes
    }
}

impl Echo {
    pub(super) fn new(name: String, tls: bool) -> Echo {
        let name_value = HeaderValue::from_str(&name).unwrap_or_else(|_| HeaderValue::from_static("echo"));
        Echo { name, name_value, tls, health: AtomicU16::new(StatusCode::OK.as_u16()) }
    }

    pub(super) async fn answer(&self, request: Request<Incoming>) -> Answer {
        let wishes = request.uri().query().map(Wishes::of).unwrap_or_default();
        tokio::time::sleep(wishes.delay).await;
        let mut response = if is_websocket(request.headers()) {
            websocket(request)
        } else if is_grpc(request.headers()) {
            grpc(request)
        } else if let Some(count) = wishes.chunks {
            lines(count, wishes.interval)
        } else if let Some(count) = wishes.bytes {
            filler(count)
        } else if request.uri().path().ends_with("/health") {
            self.health(request.method(), wishes.status)
        } else {
            self.describe(request).await
        };
        response.headers_mut().insert(NAME, self.name_value.clone());
        response
    }

    /// What a readiness probe asks. PUT changes it, for this process.
    fn health(&self, method: &Method, wish: Option<StatusCode>) -> Answer {
        if method == Method::PUT {
            let Some(status) = wish else {
                return text(StatusCode::BAD_REQUEST, "text/plain", "?status=NNN is to say what /health answers\n");
            };
            self.health.store(status.as_u16(), Ordering::Relaxed);
            return text(StatusCode::OK, "text/plain", format!("from now on: {status}\n"));
        }
        match final_status(self.health.load(Ordering::Relaxed)) {
            None | Some(StatusCode::OK) => text(StatusCode::OK, "text/plain", "ok\n"),
            Some(status) => text(status, "text/plain", format!("{status}\n")),
        }
    }

    async fn describe(&self, request: Request<Incoming>) -> Answer {
        let (head, mut body) = request.into_parts();
        let mut body_bytes = 0;
        let mut trailers = Map::new();
        loop {
            match body.frame().await {
                None => break,
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => body_bytes += data.len() as u64,
                    Err(frame) => trailers = frame.trailers_ref().map(fields).unwrap_or_default(),
                },
                Some(Err(error)) => {
                    return text(StatusCode::BAD_REQUEST, "text/plain", format!("the body broke off: {error}\n"));
                }
            }
        }
        let host = head.headers.get(http::header::HOST).and_then(|h| h.to_str().ok());
        let seen = Seen {
            name: &self.name,
            method: head.method.as_str(),
            path: head.uri.path(),
            query: head.uri.query(),
            host: head.uri.authority().map(|a| a.as_str()).or(host).unwrap_or_default(),
            protocol: protocol(head.version),
            tls: self.tls,
            headers: fields(&head.headers),
            body_bytes,
            trailers,
        };
        match serde_json::to_string_pretty(&seen) {
            Ok(json) => text(asked_status(head.uri.path()), "application/json", json + "\n"),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", format!("{error}\n")),
        }
    }
}

fn protocol(version: Version) -> String {
    match version {
        Version::HTTP_2 => "HTTP/2".to_owned(),
        other => format!("{other:?}"),
    }
}

/// `/any/thing/status/404`.
fn asked_status(path: &str) -> StatusCode {
    let mut ends = path.rsplit('/');
    match (ends.next(), ends.next()) {
        (Some(number), Some("status")) => number.parse().ok().and_then(final_status).unwrap_or(StatusCode::BAD_REQUEST),
        _ => StatusCode::OK,
    }
}

/// An informational status is no final answer.
fn final_status(number: u16) -> Option<StatusCode> {
    StatusCode::from_u16(number).ok().filter(|status| !status.is_informational())
}

fn fields(headers: &HeaderMap) -> Map<String, Value> {
    let mut map = Map::new();
    for name in headers.keys() {
        let mut values = headers
            .get_all(name)
            .iter()
            .map(|value| Value::String(String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect::<Vec<_>>();
        let value = if values.len() == 1 { values.remove(0) } else { Value::Array(values) };
        map.insert(name.to_string(), value);
    }
    map
}

fn text(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let body = Full::new(body.into()).map_err(|never: Infallible| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn streamed(kind: HeaderValue, body: impl Body<Data = Bytes, Error = hyper::Error> + Send + Sync + 'static) -> Answer {
    let mut response = Response::new(body.boxed());
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// `chunk 0`, `chunk 1`, …, each in a frame of its own.
fn lines(count: u64, interval: Duration) -> Answer {
    let lines = stream::iter(0..count).then(move |n| async move {
        if n > 0 {
            tokio::time::sleep(interval).await;
        }
        Ok(Frame::data(Bytes::from(format!("chunk {n}\n"))))
    });
    streamed(HeaderValue::from_static("text/plain"), StreamBody::new(lines))
}

fn filler(count: u64) -> Answer {
    let chunk = Bytes::from(vec![b'x'; CHUNK]);
    let whole = count / CHUNK as u64;
    let rest = usize::try_from(count % CHUNK as u64).unwrap_or(0);
    let tail = (rest > 0).then(|| chunk.slice(..rest));
    let chunks = stream::iter((0..whole).map(move |_| chunk.clone()).chain(tail)).map(|data| Ok(Frame::data(data)));
    streamed(HeaderValue::from_static("application/octet-stream"), StreamBody::new(chunks))
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// The messages come back as they arrive; what the client sent is well-formed for it too.
fn grpc(request: Request<Incoming>) -> Answer {
    let kind = request.headers().get(CONTENT_TYPE).cloned();
    let data = request.into_body().into_data_stream().map_ok(Frame::data);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let end = stream::once(async move { Ok(Frame::trailers(trailers)) });
    streamed(kind.unwrap_or(HeaderValue::from_static("application/grpc")), StreamBody::new(data.chain(end)))
}

fn is_websocket(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// RFC 6455, 4.2.2.
fn websocket(mut request: Request<Incoming>) -> Answer {
    let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY) else {
        return text(StatusCode::BAD_REQUEST, "text/plain", "a WebSocket needs Sec-WebSocket-Key\n");
    };
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()));
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "text/plain", "");
    let headers = response.headers_mut();
    headers.clear();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Ok(accept) = accept {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(offered) = request.headers().get(SEC_WEBSOCKET_PROTOCOL).and_then(|p| p.to_str().ok()) {
        let first = offered.split(',').next().unwrap_or_default().trim();
        if let Ok(first) = HeaderValue::from_str(first) {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, first);
        }
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(stream) = upgrade.await else { return };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(stream), Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            // Pings and closes are answered by the library; a message that cannot be sent ends the echo.
            if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                break;
            }
        }
    });
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_may_ask_for_a_status() {
        assert_eq!(asked_status("/web/status/404"), StatusCode::NOT_FOUND);
        assert_eq!(asked_status("/status/503"), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(asked_status("/status/100"), StatusCode::BAD_REQUEST);
        assert_eq!(asked_status("/status/x"), StatusCode::BAD_REQUEST);
        assert_eq!(asked_status("/status"), StatusCode::OK);
        assert_eq!(asked_status("/web"), StatusCode::OK);
    }

    #[test]
    fn the_query_may_ask_for_time_and_size() {
        let wishes = Wishes::of("delay=20ms&chunks=3&interval=5&bytes=7&other=1&broken");
        let expected = Wishes {
            delay: Duration::from_millis(20),
            chunks: Some(3),
            interval: Duration::from_millis(5),
            bytes: Some(7),
            status: None,
        };
        assert_eq!(wishes, expected);
    }

    #[test]
    fn health_answers_what_a_put_says() {
        let echo = Echo::new("web".to_owned(), false);
        assert_eq!(echo.health(&Method::GET, None).status(), StatusCode::OK);
        let wish = Wishes::of("status=503").status;
        assert_eq!(echo.health(&Method::PUT, wish).status(), StatusCode::OK);
        assert_eq!(echo.health(&Method::GET, None).status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(echo.health(&Method::PUT, Wishes::of("status=100").status).status(), StatusCode::BAD_REQUEST);
        assert_eq!(echo.health(&Method::GET, None).status(), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[test]
    fn a_field_that_stands_twice_is_a_list() {
        let mut headers = HeaderMap::new();
        headers.append("a", HeaderValue::from_static("1"));
        headers.append("b", HeaderValue::from_static("1"));
        headers.append("b", HeaderValue::from_static("2"));
        assert_eq!(Value::Object(fields(&headers)), serde_json::json!({"a": "1", "b": ["1", "2"]}));
    }
}
