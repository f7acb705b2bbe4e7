//! What stands behind both gateways: it answers as the path says, and remembers each request that it got whole.

use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use sluice_tests::backend::Answer;
use sluice_tests::{Backend, grpc};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::sync::{Semaphore, watch};

#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
}

pub(crate) struct Recorder {
    records: Arc<Records>,
    backend: Backend,
}

struct Records {
    seen: Mutex<Vec<Seen>>,
    /// Bytes of bodies, ever.
    received: watch::Sender<usize>,
    /// What lets an answer go on that waits at its gate.
    gate: Semaphore,
}

impl Recorder {
    pub(crate) async fn start() -> Recorder {
        let records =
            Arc::new(Records { seen: Mutex::default(), received: watch::channel(0).0, gate: Semaphore::new(0) });
        let shared = records.clone();
        let backend = Backend::with(Arc::new(move |request| answer(shared.clone(), request).boxed())).await;
        Recorder { records, backend }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.backend.address
    }

    /// What it got since it was asked last.
    pub(crate) fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.records.seen.lock().unwrap())
    }

    pub(crate) fn received(&self) -> watch::Receiver<usize> {
        self.records.received.subscribe()
    }

    pub(crate) fn open_gate(&self) {
        self.records.gate.add_permits(1);
    }
}

async fn answer(records: Arc<Records>, request: Request<Incoming>) -> Answer {
    let (head, mut body) = request.into_parts();
    let (mut whole, mut trailers) = (Vec::new(), HeaderMap::new());
    while let Some(frame) = body.frame().await {
        // Of one that broke off it is chance how much came.
        let Ok(frame) = frame else { return plain(StatusCode::BAD_REQUEST, Bytes::new()) };
        match frame.into_data() {
            Ok(piece) => {
                whole.extend_from_slice(&piece);
                records.received.send_modify(|received| *received += piece.len());
            }
            Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
        }
    }
    let body = Bytes::from(whole);
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
    records.seen.lock().unwrap().push(Seen {
        method: head.method.to_string(),
        target,
        headers: head.headers,
        body: body.clone(),
        trailers,
    });
    let parts: Vec<&str> = head.uri.path().split('/').skip(1).collect();
    match parts[..] {
        ["status", code] => {
            let code: StatusCode = code.parse().unwrap();
            let has_body = code != StatusCode::NO_CONTENT && code != StatusCode::NOT_MODIFIED;
            plain(code, Bytes::from(if has_body { format!("status {code}") } else { String::new() }))
        }
        ["length", length] => plain(StatusCode::OK, letters(length.parse().unwrap())),
        ["chunked", length] => {
            let all = letters(length.parse().unwrap());
            pieces(all.chunks(1_000).map(|piece| Frame::data(Bytes::copy_from_slice(piece))).collect())
        }
        ["trailers"] => pieces(vec![
            Frame::data(Bytes::from_static(b"before the trailers")),
            Frame::trailers(fields(&[("x-trailer", "kept"), ("x-other", "1")])),
        ]),
        ["gated"] => gated(records),
        ["grpc", code] => grpc_answer(code, body),
        ["even"] => plain(StatusCode::OK, Bytes::from_static(b"\x02")),
        ["odd" | "bytes", ..] => plain(StatusCode::OK, Bytes::from_static(b"\x01")),
        _ => plain(StatusCode::OK, body),
    }
}

fn letters(length: usize) -> Bytes {
    b"abcdefghijklmnopqrstuvwxyz".iter().copied().cycle().take(length).collect::<Vec<_>>().into()
}

fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
}

fn marked(mut response: Answer) -> Answer {
    response.headers_mut().insert("x-upstream", HeaderValue::from_static("backend"));
    response
}

fn plain(status: StatusCode, body: Bytes) -> Answer {
    let mut response = Response::new(Full::new(body).map_err(|never| match never {}).boxed());
    *response.status_mut() = status;
    marked(response)
}

fn pieces(frames: Vec<Frame<Bytes>>) -> Answer {
    let frames = stream::iter(frames.into_iter().map(Ok::<_, hyper::Error>));
    marked(Response::new(BodyExt::boxed(StreamBody::new(frames))))
}

/// One piece; the end comes once the client has it.
fn gated(records: Arc<Records>) -> Answer {
    let first = stream::once(async { Ok(Frame::data(Bytes::from_static(b"the only piece"))) });
    let end = stream::once(async move {
        records.gate.acquire().await.expect("it is never closed").forget();
    })
    .filter_map(|()| async { None });
    marked(Response::new(BodyExt::boxed(StreamBody::new(Box::pin(first.chain(end))))))
}

/// The messages of the call, and its status; a call that fails has its status in the head.
fn grpc_answer(code: &str, body: Bytes) -> Answer {
    let status = HeaderValue::from_str(code).expect("a number");
    let mut response = match code {
        "0" => {
            let mut trailers = fields(&[("grpc-message", "fine"), ("x-trailer", "kept"), ("x-other", "1")]);
            trailers.insert("grpc-status", status);
            let body = if body.is_empty() { grpc::frame(b"answer") } else { body };
            pieces(vec![Frame::data(body), Frame::trailers(trailers)])
        }
        _ => {
            let mut response = plain(StatusCode::OK, Bytes::new());
            response.headers_mut().insert("grpc-status", status);
            response.headers_mut().insert("grpc-message", HeaderValue::from_static("as asked"));
            response
        }
    };
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}
