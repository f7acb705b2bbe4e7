//! Backends in this process: hyper servers that remember each request that reached them.
//!
//! One port speaks HTTP/1.1 and HTTP/2 by prior knowledge, or TLS with both by ALPN. An ordinary request is answered
//! with what arrived, as JSON; `application/grpc` is echoed message by message with trailers; a WebSocket upgrade is
//! accepted and its messages come back behind the backend's name.

use crate::certificate::{Authority, Leaf};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::json;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

pub type Answer = Response<BoxBody<Bytes, hyper::Error>>;
pub type Handler = Arc<dyn Fn(Request<Incoming>) -> BoxFuture<'static, Answer> + Send + Sync>;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub target: String,
    pub version: http::Version,
    pub headers: HeaderMap,
}

/// Of 127.0.0.1, whichever port is free.
const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Gone, with its connections, when dropped.
pub struct Backend {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<Mutex<usize>>,
    tasks: JoinSet<()>,
}

impl Backend {
    /// Answers with the request as JSON: `backend`, `method`, `target`, `version`, `headers` (pairs), `body`.
    pub async fn echo(name: &'static str) -> Backend {
        Backend::with(echo_as(name)).await
    }

    /// The same at `[::1]`.
    pub async fn echo_ipv6(name: &'static str) -> Backend {
        Backend::serve((Ipv6Addr::LOCALHOST, 0).into(), echo_as(name), None).await
    }

    /// As [`Backend::echo`] behind TLS; ALPN offers `alpn`.
    pub async fn echo_tls(name: &'static str, leaf: &Leaf, alpn: &[&str]) -> Backend {
        Backend::serve(ANY, echo_as(name), Some(TlsAcceptor::from(leaf.server_config(alpn)))).await
    }

    /// As [`Backend::echo_tls`], for clients with a certificate of this authority alone.
    pub async fn echo_mutual(name: &'static str, leaf: &Leaf, authority: &Authority) -> Backend {
        Backend::serve(ANY, echo_as(name), Some(TlsAcceptor::from(leaf.mutual_server_config(authority)))).await
    }

    pub async fn with(handler: Handler) -> Backend {
        Backend::serve(ANY, handler, None).await
    }

    pub async fn with_tls(leaf: &Leaf, handler: Handler) -> Backend {
        Backend::serve(ANY, handler, Some(TlsAcceptor::from(leaf.server_config(&["http/1.1"])))).await
    }

    /// On a port that was free before, for one that comes later than who asks it.
    pub async fn on_port(port: u16, handler: Handler) -> Backend {
        Backend::serve((Ipv4Addr::LOCALHOST, port).into(), handler, None).await
    }

    async fn serve(address: SocketAddr, handler: Handler, tls: Option<TlsAcceptor>) -> Backend {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(Mutex::new(0));
        let (records, counter) = (seen.clone(), connections.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // Owned here, so that dropping the backend cuts its connections as well.
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                while open.try_join_next().is_some() {}
                *counter.lock().unwrap() += 1;
                stream.set_nodelay(true).ok();
                open.spawn(connection(stream, tls.clone(), handler.clone(), records.clone()));
            }
        });
        Backend { address, seen, connections, tasks }
    }

    /// Every request that reached it, in order of arrival.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// Connections that were made to it, ever.
    pub fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }

    /// Stops listening and cuts every connection.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, handler: Handler, seen: Arc<Mutex<Vec<Seen>>>) {
    let service = service_fn(move |request: Request<Incoming>| {
        seen.lock().unwrap().push(Seen {
            method: request.method().to_string(),
            target: request.uri().to_string(),
            version: request.version(),
            headers: request.headers().clone(),
        });
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let server = auto::Builder::new(TokioExecutor::new());
    // How a connection ends is the gateway's business; each test looks at the gateway's side.
    match tls {
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                let _ = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
            }
        }
        None => {
            let _ = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
        }
    }
}

/// The handler of [`Backend::echo`].
pub fn echo_as(name: &'static str) -> Handler {
    Arc::new(move |request| {
        Box::pin(async move {
            let grpc = request
                .headers()
                .get(header::CONTENT_TYPE)
                .is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
            if grpc {
                return grpc_echo(name, request);
            }
            if [header::UPGRADE, header::SEC_WEBSOCKET_KEY].iter().all(|name| request.headers().contains_key(name)) {
                return web_socket_echo(name, request);
            }
            json_echo(name, request).await
        })
    })
}

async fn json_echo(name: &str, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let (body, trailers) = match body.collect().await {
        Ok(collected) => {
            let trailers = collected.trailers().cloned().unwrap_or_default();
            (collected.to_bytes(), trailers)
        }
        Err(e) => return text(StatusCode::BAD_REQUEST, &format!("the body broke off: {e}")),
    };
    let answer = json!({
        "backend": name,
        "method": head.method.as_str(),
        "target": head.uri.to_string(),
        "version": format!("{:?}", head.version),
        "headers": pairs(&head.headers),
        "trailers": pairs(&trailers),
        "body": String::from_utf8_lossy(&body),
    });
    let mut response = text(StatusCode::OK, &answer.to_string());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    headers.iter().map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned())).collect()
}

/// A plain answer.
pub fn text(status: StatusCode, body: &str) -> Answer {
    let body = Full::new(Bytes::copy_from_slice(body.as_bytes())).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

/// An answer that begins so and never ends.
pub fn endless(begin: &'static str) -> Answer {
    let first = futures::stream::once(async move { Ok(Frame::data(Bytes::from_static(begin.as_bytes()))) });
    let body = http_body_util::StreamBody::new(first.chain(futures::stream::pending()));
    Response::new(BodyExt::boxed(body))
}

fn grpc_echo(name: &'static str, request: Request<Incoming>) -> Answer {
    let mut response = Response::new(BodyExt::boxed(EchoBody { inner: request.into_body(), done: false }));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response.headers_mut().insert("x-backend", HeaderValue::from_static(name));
    response
}

/// Gives back each frame of the request as it comes, then gRPC's trailers.
struct EchoBody {
    inner: Incoming,
    done: bool,
}

impl Body for EchoBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.done {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
            Some(Ok(frame)) if frame.is_data() => Some(Ok(frame)),
            Some(Err(e)) => {
                self.done = true;
                Some(Err(e))
            }
            _ => {
                self.done = true;
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                trailers.insert("x-trailer", HeaderValue::from_static("kept"));
                Some(Ok(Frame::trailers(trailers)))
            }
        })
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

fn web_socket_echo(name: &'static str, mut request: Request<Incoming>) -> Answer {
    let key = request.headers()[header::SEC_WEBSOCKET_KEY].as_bytes().to_vec();
    let upgrade = hyper::upgrade::on(&mut request);
    // Ends with its connection: a socket whose peer has gone gives an error or None.
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            let Message::Text(text) = message else { continue };
            if socket.send(Message::text(format!("{name}: {text}"))).await.is_err() {
                break;
            }
        }
    });
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, derive_accept_key(&key).parse().unwrap());
    response
}
