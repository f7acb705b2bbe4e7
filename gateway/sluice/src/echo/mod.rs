//! `sluice echo`: a real backend for trials and tests. It answers with the request as JSON, over HTTP/1.1 and HTTP/2
//! (by prior knowledge, or over TLS), echoes WebSockets and gRPC streams, and can be slow or broken on demand.
//!
//! | request | answer |
//! |---|---|
//! | any path | 200, the request as JSON |
//! | path ends in `/health` | 200 `ok`, or what was put there |
//! | `PUT /health?status=NNN` | `/health` answers that from now on: breaks a readiness probe, and mends it |
//! | path ends in `/status/NNN` | that status, with the JSON |
//! | `?delay=MS` | waits before it answers |
//! | `?chunks=N&interval=MS` | N lines, one at a time |
//! | `?bytes=N` | N bytes |
//! | `Upgrade: websocket` | each message comes back |
//! | `Content-Type: application/grpc…` | the body comes back as it arrives, then the trailer `grpc-status: 0` |

mod answer;

use answer::Echo;
use anyhow::{Context, Result, bail};
use clap::Args;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long running requests may go on after SIGTERM.
const DRAIN: Duration = Duration::from_secs(5);

/// A backend that answers with the request as JSON: for trials and tests.
#[derive(Args, Debug)]
pub(crate) struct EchoArgs {
    /// Where to listen, with the name to answer under if it is not --name's; may be repeated
    #[arg(long, value_name = "[NAME=]ADDR", default_value = "127.0.0.1:3000")]
    listen: Vec<Listen>,
    /// The name in the answers
    #[arg(long, default_value = "echo")]
    name: String,
    /// Speak TLS, with this PEM chain
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// The PEM key of --certificate
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
}

#[derive(Clone, Debug)]
struct Listen {
    name: Option<String>,
    address: SocketAddr,
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, address) = match text.split_once('=') {
            Some((name, address)) => (Some(name.to_owned()), address),
            None => (None, text),
        };
        let address = address.parse().map_err(|_| format!("`{address}` is not an address such as 127.0.0.1:3000"))?;
        Ok(Listen { name, address })
    }
}

/// Serves until SIGTERM or SIGINT. Prints each address when it is bound, so that port 0 can be asked for.
pub(crate) async fn run(args: EchoArgs) -> Result<()> {
    let tls = match (&args.certificate, &args.key) {
        (Some(certificate), Some(key)) => Some(TlsAcceptor::from(tls_config(certificate, key)?)),
        _ => None,
    };
    let stop = CancellationToken::new();
    let connections = TaskTracker::new();
    let mut listeners = Vec::new();
    for Listen { name, address } in args.listen {
        let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
        let name = name.unwrap_or_else(|| args.name.clone());
        println!("{name} listens on {}", listener.local_addr()?);
        let echo = Arc::new(Echo::new(name, tls.is_some()));
        listeners.push(accept(listener, tls.clone(), echo, stop.clone(), connections.clone()));
    }
    tokio::select! {
        _ = futures::future::join_all(listeners) => {}
        signal = crate::lifecycle::terminated() => signal?,
    }
    stop.cancel();
    connections.close();
    if tokio::time::timeout(DRAIN, connections.wait()).await.is_err() {
        bail!("{} connections were cut after {} s", connections.len(), DRAIN.as_secs());
    }
    Ok(())
}

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    echo: Arc<Echo>,
    stop: CancellationToken,
    connections: TaskTracker,
) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                // Out of file descriptors, most likely: without a pause this would spin.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (tls, echo, stop) = (tls.clone(), echo.clone(), stop.clone());
        connections.spawn(async move {
            if let Err(error) = connection(stream, tls, echo, stop).await {
                tracing::debug!(%error, "connection ended");
            }
        });
    }
}

async fn connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    echo: Arc<Echo>,
    stop: CancellationToken,
) -> Result<()> {
    stream.set_nodelay(true)?;
    match tls {
        Some(tls) => serve(tokio::time::timeout(DRAIN, tls.accept(stream)).await??, echo, stop).await,
        None => serve(stream, echo, stop).await,
    }
}

async fn serve<S>(stream: S, echo: Arc<Echo>, stop: CancellationToken) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new());
    server.http2().timer(TokioTimer::new());
    let service = hyper::service::service_fn(move |request| {
        let echo = echo.clone();
        async move { Ok::<_, std::convert::Infallible>(echo.answer(request).await) }
    });
    let connection = server.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = &mut connection => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    result.map_err(|error| anyhow::anyhow!(error))
}

fn tls_config(certificate: &Path, key: &Path) -> Result<Arc<rustls::ServerConfig>> {
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .with_context(|| format!("{} holds no PEM certificates", certificate.display()))?;
    let key = PrivateKeyDer::from_pem_file(key).with_context(|| format!("{} holds no PEM key", key.display()))?;
    let mut config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
