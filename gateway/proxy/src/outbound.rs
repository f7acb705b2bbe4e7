//! Calls of plugins and of external authorization to backends: endpoint, connection, request, whole answer.
//!
//! ```text
//! plugin's fetch ─► backend by the plugin's own name ─► endpoint ─► connection, idle or new ─► request ─► answer ─► body
//! ```
//!
//! Balancing, ejection, circuit breakers and TLS are those of the backend, whoever calls it. Nothing is retried, but for an
//! idle connection that had been closed before the request was sent. No plugin is run for a call.

mod pool;
mod stores;

use crate::http::Shared;
use crate::metrics::HeldBytes;
use crate::snapshot::{PluginCalls, Snapshot};
use crate::upstream::{BackendRuntime, Failure, Outcome, Pick, PickError, PickRequest, Tried};
use ::http::header::HeaderValue;
use ::http::uri::{Authority, Scheme};
use ::http::{HeaderMap, Request, Response, StatusCode, Uri, Version, header};
use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::BoxFuture;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
pub(crate) use pool::Connections;
use sluice_model::plugin::PluginKey;
use sluice_wasm::{Backends, FetchError, FetchErrorKind, Outbound, OutboundRequest, OutboundResponse};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Weak};
use std::time::Duration;
pub(crate) use stores::StoreEndpoints;
use tokio::time::timeout_at;

/// Idle connections that are tried before a new one is made: a backend that restarted has closed all of them.
const IDLE_TRIES: usize = 3;
/// How long a call waits for the first resolution of a backend's name.
const SETTLE: Duration = Duration::from_secs(5);

/// What one plugin may call, for one exchange.
pub(crate) struct Calls {
    snapshot: Arc<Snapshot>,
    calls: Arc<PluginCalls>,
    client: IpAddr,
}

impl Calls {
    pub(crate) fn new(snapshot: Arc<Snapshot>, calls: Arc<PluginCalls>, client: IpAddr) -> Self {
        Calls { snapshot, calls, client }
    }
}

impl Outbound for Calls {
    fn has(&self, backend: &str) -> bool {
        self.calls.backends.contains_key(backend)
    }

    fn fetch(
        &self,
        backend: &str,
        request: OutboundRequest,
    ) -> BoxFuture<'static, Result<OutboundResponse, FetchError>> {
        let Some(slot) = self.calls.backends.get(backend) else {
            let message = format!("the Plugin's capabilities.backends has no `{backend}` that can be used");
            return std::future::ready(Err(FetchError::new(FetchErrorKind::NotAllowed, message))).boxed();
        };
        let Some(backend) = self.snapshot.backend(slot).cloned() else {
            let message = format!("backend `{backend}` is gone");
            return std::future::ready(Err(FetchError::new(FetchErrorKind::NoEndpoint, message))).boxed();
        };
        let (client, connections) = (self.client, self.calls.connections.clone());
        let held = HeldBytes::none(&self.calls.metrics);
        async move {
            let Answer { status, headers, body, trailers, held } =
                call(&backend, request, client, &connections, held).await?;
            Ok(OutboundResponse { status, headers, body, trailers, held: held.map(|held| held as _) })
        }
        .boxed()
    }
}

/// What plugins call by themselves, for no exchange: by the snapshot that serves.
pub(crate) struct OwnCalls(Weak<Shared>);

impl OwnCalls {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        OwnCalls(Arc::downgrade(shared))
    }
}

impl Backends for OwnCalls {
    fn of(&self, plugin: &PluginKey) -> Option<Arc<dyn Outbound>> {
        let snapshot = self.0.upgrade()?.snapshot.load_full();
        let calls = snapshot.plugin_calls.get(plugin)?.clone();
        Some(Arc::new(Calls::new(snapshot, calls, IpAddr::V4(Ipv4Addr::LOCALHOST))))
    }
}

/// A whole answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
    /// Accounts for the body's bytes.
    pub(crate) held: Option<Arc<HeldBytes>>,
}

impl Answer {
    #[cfg(test)]
    pub(crate) fn of(status: StatusCode, headers: HeaderMap, body: Bytes) -> Self {
        Answer { status, headers, body, trailers: HeaderMap::new(), held: None }
    }
}

/// Asks the backend, and waits for the whole answer, at most until the request says.
pub(crate) async fn call(
    backend: &Arc<BackendRuntime>,
    request: OutboundRequest,
    client: IpAddr,
    connections: &Connections,
    mut held: HeldBytes,
) -> Result<Answer, FetchError> {
    let (until, max_body) = (request.until.into(), request.max_body);
    let late = |_| FetchError::new(FetchErrorKind::Timeout, "the answer was not there in time");
    let mut pick = timeout_at(until, pick(backend, &request, client)).await.map_err(late)??;
    let answered = timeout_at(until, send(&mut pick, backend, &request, connections)).await.map_err(late).flatten();
    let (response, lease) = match answered {
        Ok(answered) => answered,
        Err(error) => {
            match error.kind {
                FetchErrorKind::Connect => pick.report(Outcome::Failed(Failure::Connect)),
                FetchErrorKind::Protocol => pick.report(Outcome::Failed(Failure::Reset)),
                FetchErrorKind::Timeout => pick.report(Outcome::Failed(Failure::Timeout)),
                _ => {}
            }
            return Err(error);
        }
    };
    let (head, body) = response.into_parts();
    pick.report(Outcome::Response(head.status.as_u16()));
    let (body, trailers) = timeout_at(until, read(body, max_body, &mut held)).await.map_err(late)??;
    lease.give_back();
    Ok(Answer { status: head.status, headers: head.headers, body, trailers, held: Some(Arc::new(held)) })
}

async fn pick(backend: &BackendRuntime, request: &OutboundRequest, client: IpAddr) -> Result<Pick, FetchError> {
    let tried = Tried::new();
    let wanted = PickRequest { headers: &request.headers, client, tried: &tried };
    let picked = match backend.pick(&wanted) {
        Err(PickError::NoEndpoints) => {
            backend.settled(SETTLE).await;
            backend.pick(&wanted)
        }
        picked => picked,
    };
    picked.map_err(|error| {
        let kind = match error {
            PickError::NoEndpoints => FetchErrorKind::NoEndpoint,
            PickError::Overflow => FetchErrorKind::Overloaded,
            PickError::Tls => FetchErrorKind::Connect,
        };
        FetchError::new(kind, error.to_string())
    })
}

/// Sends the request over an idle connection or a new one. The connection goes back when the answer has been read.
async fn send(
    pick: &mut Pick,
    backend: &BackendRuntime,
    request: &OutboundRequest,
    connections: &Connections,
) -> Result<(Response<Incoming>, pool::Lease), FetchError> {
    let protocol = |error: &hyper::Error| FetchError::new(FetchErrorKind::Protocol, error.to_string());
    for _ in 0..IDLE_TRIES {
        let Some(mut lease) = connections.idle(pick) else { break };
        pick.connected();
        let message = message(request, backend, &lease)?;
        match lease.send(message).await {
            Ok(response) => return Ok((response, lease)),
            // It was closed while it was idle: nothing was sent.
            Err(error) if error.is_canceled() => {}
            Err(error) => return Err(protocol(&error)),
        }
    }
    let opened = pick.open().await.map_err(|error| FetchError::new(FetchErrorKind::Connect, error.to_string()))?;
    pick.connected();
    let mut lease = connections.handshake(pick, opened).await.map_err(|error| protocol(&error))?;
    let message = message(request, backend, &lease)?;
    let response = lease.send(message).await.map_err(|error| protocol(&error))?;
    Ok((response, lease))
}

/// The request as it goes over this connection.
fn message(
    request: &OutboundRequest,
    backend: &BackendRuntime,
    lease: &pool::Lease,
) -> Result<Request<Full<Bytes>>, FetchError> {
    let invalid = |error: ::http::Error| FetchError::new(FetchErrorKind::Invalid, error.to_string());
    let authority = match &request.authority {
        Some(authority) => authority.clone(),
        None => authority(backend).map_err(invalid)?,
    };
    let mut headers = request.headers.clone();
    let mut uri = Uri::from(request.target.clone()).into_parts();
    let version = if lease.http2() {
        uri.scheme = Some(if lease.tls() { Scheme::HTTPS } else { Scheme::HTTP });
        uri.authority = Some(authority);
        Version::HTTP_2
    } else {
        let host = HeaderValue::from_str(authority.as_str()).map_err(|error| invalid(error.into()))?;
        headers.insert(header::HOST, host);
        Version::HTTP_11
    };
    let uri = Uri::from_parts(uri).map_err(|error| invalid(error.into()))?;
    let message = Request::builder().method(request.method.clone()).uri(uri).version(version);
    let mut message = message.body(Full::new(request.body.clone())).map_err(invalid)?;
    *message.headers_mut() = headers;
    Ok(message)
}

/// The backend's own name: that of its certificate, of its name outside of the cluster, or of its Service within.
fn authority(backend: &BackendRuntime) -> Result<Authority, ::http::Error> {
    let config = backend.config();
    let port = config.key.port;
    let name = match (&config.tls, &config.source) {
        (Some(tls), _) => tls.hostname.as_str().to_owned(),
        (None, sluice_model::config::EndpointSource::Dns { host, .. }) => host.as_str().to_owned(),
        (None, _) => format!("{}.{}.svc", config.key.service.name, config.key.service.namespace),
    };
    let usual = if config.tls.is_some() { 443 } else { 80 };
    let text = if port == usual { name } else { format!("{name}:{port}") };
    Ok(text.parse::<Authority>()?)
}

/// The whole body, and what follows it. What it holds is counted with the bodies of requests.
async fn read(mut body: Incoming, max: u64, held: &mut HeldBytes) -> Result<(Bytes, HeaderMap), FetchError> {
    let too_large =
        || FetchError::new(FetchErrorKind::TooLarge, format!("the answer's body has more than {max} bytes"));
    let (mut whole, mut trailers) = (BytesMut::new(), HeaderMap::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| FetchError::new(FetchErrorKind::Protocol, error.to_string()))?;
        let piece = match frame.into_data() {
            Ok(piece) => piece,
            Err(other) => {
                trailers.extend(other.into_trailers().unwrap_or_default());
                continue;
            }
        };
        if (whole.len() + piece.len()) as u64 > max {
            return Err(too_large());
        }
        if !held.add(piece.len()) {
            return Err(FetchError::new(
                FetchErrorKind::Overloaded,
                "the gateway holds as many bytes of bodies as it may",
            ));
        }
        whole.extend_from_slice(&piece);
    }
    Ok((whole.freeze(), trailers))
}
