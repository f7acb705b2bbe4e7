//! Active checks: one task a backend that has them, over all its candidates.

use super::runtime::BackendState;
use super::transport::Transport;
use bytes::Bytes;
use foldhash::{HashMap, HashMapExt};
use futures::StreamExt;
use http::{Request, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use sluice_model::config::{Backend, BackendProtocol, HealthCheck};
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Checks of one backend at the same time.
const CONCURRENT: usize = 16;

/// Results in a row of one endpoint.
#[derive(Default)]
struct Record {
    good: u32,
    bad: u32,
}

/// Runs until the backend is gone.
pub(super) async fn run(state: Weak<BackendState>) {
    let mut records: HashMap<SocketAddr, Record> = HashMap::new();
    loop {
        let pause = {
            let Some(state) = state.upgrade() else { return };
            let Some(check) = &state.backend.policy.health_check else { return };
            round(&state, check, &mut records).await;
            check.interval
        };
        tokio::time::sleep(pause + jitter(pause)).await;
    }
}

/// Up to a tenth, so that replicas and backends do not check in step.
fn jitter(interval: Duration) -> Duration {
    interval.mul_f64(fastrand::f64() / 10.0)
}

async fn round(state: &BackendState, check: &HealthCheck, records: &mut HashMap<SocketAddr, Record>) {
    let Ok(transport) = &state.transport else { return };
    let candidates = state.current.load_full();
    records.retain(|address, _| candidates.endpoints().iter().any(|e| e.address == *address));
    let mut results = futures::stream::iter(candidates.endpoints().to_vec())
        .map(|endpoint| async move {
            let (address, mut connected) = (endpoint.target(), false);
            let probe = probe(transport.clone(), &state.backend, check, address, &mut connected);
            let result = tokio::time::timeout(check.timeout, probe).await;
            let result = result.unwrap_or_else(|_| Err(format!("no answer in {:?}", check.timeout)));
            if result.is_err() && !connected {
                endpoint.turn_from(address);
            }
            (endpoint, result)
        })
        .buffer_unordered(CONCURRENT);
    while let Some((endpoint, result)) = results.next().await {
        let record = records.entry(endpoint.address).or_default();
        match result {
            Ok(()) => {
                state.metrics.check_ok.inc();
                (record.good, record.bad) = (record.good.saturating_add(1), 0);
                if !endpoint.healthy() && record.good >= check.healthy {
                    endpoint.set_healthy(true, &state.clock);
                    tracing::info!(backend = state.metrics.label(), endpoint = %endpoint.address, "endpoint is healthy again");
                }
            }
            Err(error) => {
                state.metrics.check_failed.inc();
                (record.good, record.bad) = (0, record.bad.saturating_add(1));
                if endpoint.healthy() && record.bad >= check.unhealthy {
                    endpoint.set_healthy(false, &state.clock);
                    tracing::warn!(
                        backend = state.metrics.label(), endpoint = %endpoint.address, error,
                        "endpoint is unhealthy: its checks fail in a row"
                    );
                }
            }
        }
    }
}

/// One check; the error says what was wrong.
async fn probe(
    transport: Arc<Transport>,
    backend: &Backend,
    check: &HealthCheck,
    address: SocketAddr,
    connected: &mut bool,
) -> Result<(), String> {
    let tcp = TcpStream::connect(address).await.map_err(|e| format!("connecting: {e}"))?;
    *connected = true;
    if !transport.is_tls() {
        let Some(path) = &check.path else { return Ok(()) };
        let http2 = backend.protocol == BackendProtocol::Http2;
        return ask(tcp, http2, request(backend, check, path, address, "http")?, check).await;
    }
    let tls = transport.check_tls(tcp).await.map_err(|e| format!("TLS handshake: {e}"))?;
    let Some(path) = &check.path else { return Ok(()) };
    let http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    ask(tls, http2, request(backend, check, path, address, "https")?, check).await
}

fn request(
    backend: &Backend,
    check: &HealthCheck,
    path: &str,
    address: SocketAddr,
    scheme: &str,
) -> Result<Request<Empty<Bytes>>, String> {
    let host = match (&check.host, &backend.tls) {
        (Some(host), _) => host.to_string(),
        (None, Some(tls)) => tls.hostname.to_string(),
        (None, None) => address.to_string(),
    };
    let uri = Uri::builder().scheme(scheme).authority(host.as_str()).path_and_query(path).build();
    let uri = uri.map_err(|e| format!("path `{path}`: {e}"))?;
    Request::get(uri)
        .header(header::HOST, host)
        .header(header::USER_AGENT, "sluice-health-check")
        .body(Empty::new())
        .map_err(|e| format!("request: {e}"))
}

async fn ask(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    http2: bool,
    mut request: Request<Empty<Bytes>>,
    check: &HealthCheck,
) -> Result<(), String> {
    let io = TokioIo::new(io);
    let status = if http2 {
        request.headers_mut().remove(header::HOST);
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
            .await
            .map_err(|e| format!("HTTP/2 handshake: {e}"))?;
        drive(connection, sender.send_request(request)).await?
    } else {
        // Origin form.
        let path = request.uri().path_and_query().map(|p| p.as_str().to_owned()).unwrap_or_else(|| "/".into());
        *request.uri_mut() = path.parse().map_err(|e| format!("path `{path}`: {e}"))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(io).await.map_err(|e| format!("HTTP handshake: {e}"))?;
        drive(connection, sender.send_request(request)).await?
    };
    let good = if check.statuses.is_empty() {
        (200..400).contains(&status.as_u16())
    } else {
        check.statuses.contains(&status.as_u16())
    };
    if good { Ok(()) } else { Err(format!("status {status}")) }
}

/// Runs the connection until the response's header section is there, and drops both.
async fn drive<B>(
    connection: impl Future<Output = hyper::Result<()>>,
    response: impl Future<Output = hyper::Result<hyper::Response<B>>>,
) -> Result<StatusCode, String> {
    tokio::pin!(connection, response);
    tokio::select! {
        biased;
        response = &mut response => response.map(|r| r.status()).map_err(|e| format!("request: {e}")),
        ended = &mut connection => match ended {
            Ok(()) => response.await.map(|r| r.status()).map_err(|e| format!("request: {e}")),
            Err(error) => Err(format!("connection: {error}")),
        },
    }
}
