//! Copies of requests for mirrors, sent beside the engine: no answer of theirs, and no failure, touches the request that
//! they were made of.
//!
//! A copy is queued when the request's body has been read, and dropped where the queue is full, where copies in hand take
//! too much memory, or where the body is larger than a copy may be; each is counted in `sluice_mirror_requests_total`.
//! No plugin and no retry is run for a copy.

use crate::downstream::DownstreamMetrics;
use crate::metrics::{MirrorResult, RequestMetrics};
use crate::supervise::supervise;
use crate::upstream::{BackendRuntime, PickRequest};
use ::http::header::{self, HeaderName};
use ::http::uri::Scheme;
use ::http::{Request, Uri, Version, request};
use bytes::{Bytes, BytesMut};
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use pingora_http::RequestHeader;
use smallvec::SmallVec;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Semaphore, mpsc};

/// Requests whose copies wait.
const QUEUE: usize = 1_024;
/// Copies that are under way.
const CONCURRENCY: usize = 128;
/// Bytes of a body that is copied.
const MAX_BODY: usize = 256 * 1024;
/// Bytes of all bodies that are put together, wait or are under way: 64 MiB. What does not fit is dropped, as
/// `sluice_mirror_requests_total{result="dropped"}`.
const MAX_HELD: u64 = 64 << 20;
/// From the connection to the head of the answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// The copies of one request, while they are put together.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    targets: SmallVec<[Arc<BackendRuntime>; 2]>,
    head: Option<request::Parts>,
    client: Option<IpAddr>,
    body: BytesMut,
    /// The body's share of [`MAX_HELD`].
    held: Option<Held>,
    /// Larger than a copy may be, or than what is left for all of them.
    too_large: bool,
}

impl Copies {
    pub(crate) fn to(&mut self, backend: Arc<BackendRuntime>) {
        self.targets.push(backend);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// The request as it goes to its own backend. A further try begins with the body's first byte again.
    pub(crate) fn head(&mut self, request: &RequestHeader, client: IpAddr) {
        self.body = BytesMut::new();
        self.held = None;
        self.too_large = false;
        self.head = Some(request.as_owned_parts());
        self.client = Some(client);
    }

    pub(crate) fn body(&mut self, piece: Option<&Bytes>, mirrors: &Mirrors) {
        let Some(piece) = piece else { return };
        let held = self.held.get_or_insert_with(|| Held { bytes: 0, all: mirrors.held.clone() });
        self.too_large |= self.body.len() + piece.len() > MAX_BODY || !held.grow(piece.len());
        if self.too_large {
            self.body = BytesMut::new();
            self.held = None;
        } else {
            self.body.extend_from_slice(piece);
        }
    }
}

/// The queue before the task that sends copies.
#[derive(Clone, Debug)]
pub(crate) struct Mirrors {
    queue: mpsc::Sender<Copy>,
    held: Arc<AtomicU64>,
    metrics: Arc<RequestMetrics>,
}

#[derive(Debug)]
struct Copy {
    backend: Arc<BackendRuntime>,
    head: Arc<request::Parts>,
    client: IpAddr,
    body: Bytes,
    /// Shared by the copies of one request, as their body is.
    held: Option<Arc<Held>>,
}

/// A body's share of [`MAX_HELD`].
#[derive(Debug)]
struct Held {
    bytes: u64,
    all: Arc<AtomicU64>,
}

impl Held {
    /// Takes more, if there is room for it.
    fn grow(&mut self, by: usize) -> bool {
        let by = by as u64;
        if self.all.fetch_add(by, Relaxed) + by > MAX_HELD {
            self.all.fetch_sub(by, Relaxed);
            return false;
        }
        self.bytes += by;
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Relaxed);
    }
}

impl Mirrors {
    /// Starts the task on `runtime`, which is not one that serves requests. It ends when the last clone is dropped.
    pub(crate) fn start(runtime: &Handle, metrics: Arc<RequestMetrics>, counts: &DownstreamMetrics) -> Self {
        let (queue, copies) = mpsc::channel(QUEUE);
        // What waits outlives a panic.
        let copies = Arc::new(Mutex::new(copies));
        let counted = metrics.clone();
        supervise(runtime, counts, "mirrors", move || run(copies.clone(), counted.clone()));
        Mirrors { queue, held: Arc::default(), metrics }
    }

    /// Queues the copies, or drops them. Never waits.
    pub(crate) fn send(&self, copies: Copies) {
        let Copies { targets, head, client, body, held, too_large } = copies;
        let (Some(head), body) = (head, body.freeze()) else { return };
        let (head, held) = (Arc::new(head), held.map(Arc::new));
        for backend in targets {
            let client = client.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            let copy = Copy { backend, head: head.clone(), client, body: body.clone(), held: held.clone() };
            if too_large || self.queue.try_send(copy).is_err() {
                self.metrics.mirror(MirrorResult::Dropped);
            }
        }
    }
}

async fn run(copies: Arc<Mutex<mpsc::Receiver<Copy>>>, metrics: Arc<RequestMetrics>) {
    let places = Arc::new(Semaphore::new(CONCURRENCY));
    let mut copies = copies.lock().await;
    while let Some(copy) = copies.recv().await {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let metrics = metrics.clone();
        tokio::spawn(async move {
            let result = match tokio::time::timeout(PATIENCE, send(copy)).await {
                Ok(Ok(())) => MirrorResult::Answered,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a mirrored copy failed");
                    MirrorResult::Failed
                }
                Err(_) => MirrorResult::Failed,
            };
            metrics.mirror(result);
            drop(place);
        });
    }
}

#[derive(Debug, thiserror::Error)]
enum MirrorError {
    #[error("no endpoint: {0}")]
    Pick(#[from] crate::upstream::PickError),
    #[error("no connection: {0}")]
    Connect(#[from] Box<pingora_core::Error>),
    #[error("no answer: {0}")]
    Http(#[from] hyper::Error),
    #[error("the request cannot be copied: {0}")]
    Request(#[from] ::http::Error),
}

async fn send(copy: Copy) -> Result<(), MirrorError> {
    let Copy { backend, head, client, body, held: _held } = copy;
    let wanted = PickRequest { headers: &head.headers, client, tried: &[] };
    let mut pick = backend.pick(&wanted)?;
    let opened = pick.open().await?;
    pick.connected();
    let request = request(&head, body, opened.http2, opened.tls)?;
    let io = TokioIo::new(opened.io);
    // The answer is thrown away: its head is enough to know that it came.
    if opened.http2 {
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
        let driver = tokio::spawn(connection);
        let answered = sender.send_request(request).await;
        driver.abort();
        answered?;
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        let driver = tokio::spawn(connection);
        let answered = sender.send_request(request).await;
        driver.abort();
        answered?;
    }
    Ok(())
}

const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::CONTENT_LENGTH,
    header::UPGRADE,
    header::TE,
    header::EXPECT,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

fn request(head: &request::Parts, body: Bytes, http2: bool, tls: bool) -> Result<Request<Full<Bytes>>, ::http::Error> {
    let mut uri = head.uri.clone().into_parts();
    let host = head.headers.get(header::HOST);
    (uri.scheme, uri.authority) = match (http2, host.and_then(|host| host.to_str().ok())) {
        (true, Some(host)) => {
            (Some(if tls { Scheme::HTTPS } else { Scheme::HTTP }), Some(host.parse().map_err(::http::Error::from)?))
        }
        _ => (None, None),
    };
    let mut request = Request::builder()
        .method(head.method.clone())
        .uri(Uri::from_parts(uri).map_err(::http::Error::from)?)
        .version(if http2 { Version::HTTP_2 } else { Version::HTTP_11 })
        .body(Full::new(body))?;
    let headers = request.headers_mut();
    *headers = head.headers.clone();
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    if http2 {
        headers.remove(header::HOST);
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> request::Parts {
        let request = Request::builder()
            .method("POST")
            .uri("/a?b=c")
            .header("host", "shop.example")
            .header("transfer-encoding", "chunked")
            .header("connection", "keep-alive")
            .header("x-a", "1");
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_copy_is_framed_anew_and_keeps_the_rest() {
        let copy = request(&head(), Bytes::from_static(b"body"), false, false).unwrap();
        assert_eq!(copy.uri(), "/a?b=c");
        let names: Vec<_> = copy.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["host", "x-a"]);
        let copy = request(&head(), Bytes::new(), true, true).unwrap();
        assert_eq!(copy.uri(), "https://shop.example/a?b=c");
        assert!(!copy.headers().contains_key("host"));
    }

    fn mirrors() -> (Mirrors, mpsc::Receiver<Copy>) {
        let (queue, copies) = mpsc::channel(QUEUE);
        let metrics = Arc::<RequestMetrics>::default();
        (Mirrors { queue, held: Arc::default(), metrics }, copies)
    }

    #[test]
    fn a_body_that_is_too_large_is_not_kept() {
        let (mirrors, _copies) = mirrors();
        let mut copies = Copies::default();
        copies.body(Some(&Bytes::from(vec![0; MAX_BODY])), &mirrors);
        assert_eq!(copies.body.len(), MAX_BODY);
        copies.body(Some(&Bytes::from_static(b"x")), &mirrors);
        assert!(copies.too_large && copies.body.is_empty());
        assert_eq!(mirrors.held.load(Relaxed), 0);
    }

    #[test]
    fn bodies_that_are_still_put_together_count_against_the_memory_of_all() {
        let (mirrors, _copies) = mirrors();
        let piece = Bytes::from(vec![0; MAX_BODY]);
        let fitting = MAX_HELD / MAX_BODY as u64;
        let mut all: Vec<Copies> = (0..=fitting).map(|_| Copies::default()).collect();
        all.iter_mut().for_each(|copies| copies.body(Some(&piece), &mirrors));
        assert_eq!(all.iter().filter(|copies| copies.too_large).count(), 1, "one more than fits");
        drop(all);
        assert_eq!(mirrors.held.load(Relaxed), 0);
    }
}
