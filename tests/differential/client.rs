//! One exchange with a gateway, over HTTP/1.1 or HTTP/2, on a connection of its own.

use crate::cases::{Body, Case};
use bytes::Bytes;
use futures::SinkExt;
use futures::channel::mpsc;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;

/// How long an answer is waited for; one that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(20);

type Sent = BoxBody<Bytes, Infallible>;

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
    /// It ended as its framing says.
    pub(crate) whole: bool,
}

/// What the backend has of the request's body, and what lets its answer go on.
pub(crate) struct Backend<'b> {
    pub(crate) received: watch::Receiver<usize>,
    pub(crate) open_gate: &'b (dyn Fn() + Sync),
}

pub(crate) async fn exchange(
    port: u16,
    host: &str,
    http2: bool,
    case: &Case,
    backend: Backend<'_>,
) -> Result<Answer, String> {
    let all = async {
        let (body, sending) = body(case, backend.received);
        let request = request(host, http2, case, body);
        let answering = async {
            let response = send(port, http2, request).await.map_err(|error| format!("{error:#}"))?;
            Ok::<_, String>(read(response, backend.open_gate).await)
        };
        tokio::pin!(answering);
        tokio::select! {
            // What is left to send once the answer is there, is not sent.
            answer = &mut answering => answer,
            () = sending => answering.await,
        }
    };
    tokio::time::timeout(PATIENCE, all).await.map_err(|_| "no answer in time".to_owned())?
}

fn request(host: &str, http2: bool, case: &Case, body: Sent) -> Request<Sent> {
    let uri = if http2 { format!("http://{host}{}", case.path) } else { case.path.to_owned() };
    let mut request = Request::builder().method(case.method).uri(uri).body(body).expect("a request");
    let headers = request.headers_mut();
    if !http2 {
        headers.insert(header::HOST, HeaderValue::from_str(host).expect("a host"));
    }
    for (name, value) in &case.fields {
        headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"));
    }
    request
}

/// The body, and what feeds it.
fn body(case: &Case, mut received: watch::Receiver<usize>) -> (Sent, impl Future<Output = ()>) {
    let (sender, receiver) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(0);
    let streamed = || StreamBody::new(receiver).boxed();
    let (body, frames, gated) = match &case.body {
        Body::None => (Empty::new().boxed(), Vec::new(), false),
        Body::Whole(text) => (Full::new(Bytes::from(text.clone())).boxed(), Vec::new(), false),
        Body::Pieces(pieces) => (streamed(), data(pieces), false),
        Body::Gated(pieces) => (streamed(), data(pieces), true),
        Body::Trailers(piece) => {
            let mut frames = data(std::slice::from_ref(piece));
            let trailers = [(HeaderName::from_static("x-sent"), HeaderValue::from_static("1"))];
            frames.push(Frame::trailers(trailers.into_iter().collect()));
            (streamed(), frames, false)
        }
    };
    let before = *received.borrow_and_update();
    let sending = async move {
        // The body ends when it is dropped.
        let mut sender = sender;
        let mut sent = before;
        for frame in frames {
            sent += frame.data_ref().map_or(0, Bytes::len);
            if sender.send(Ok(frame)).await.is_err() {
                return;
            }
            // The next piece, or the end, comes by itself once the backend has this one.
            if gated && received.wait_for(|received| *received >= sent).await.is_err() {
                return;
            }
        }
    };
    (body, sending)
}

fn data(pieces: &[String]) -> Vec<Frame<Bytes>> {
    pieces.iter().map(|piece| Frame::data(Bytes::from(piece.clone()))).collect()
}

async fn send(port: u16, http2: bool, request: Request<Sent>) -> anyhow::Result<Response<Incoming>> {
    let stream = TokioIo::new(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?);
    // The task of a connection ends with it: once its sender and the answer are gone.
    Ok(if http2 {
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await?;
        tokio::spawn(connection);
        sender.send_request(request).await?
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
        tokio::spawn(connection);
        sender.send_request(request).await?
    })
}

async fn read(response: Response<Incoming>, open_gate: &(dyn Fn() + Sync)) -> Answer {
    let (head, mut body) = response.into_parts();
    let (mut whole, mut trailers, mut is_whole) = (Vec::new(), HeaderMap::new(), true);
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(piece)) => {
                if whole.is_empty() && !piece.is_empty() {
                    open_gate();
                }
                whole.extend_from_slice(&piece);
            }
            Ok(Err(frame)) => trailers.extend(frame.into_trailers().unwrap_or_default()),
            Err(_) => {
                is_whole = false;
                break;
            }
        }
    }
    Answer { status: head.status, headers: head.headers, body: whole.into(), trailers, whole: is_whole }
}
