//! The connection to an API server: where it is and who we are, from a kubeconfig or the pod's own account; and one
//! request.
//!
//! The parts (TLS, tokens that are renewed, exec plugins) are the library's; the stack of them is ours, since its own
//! logs each failed request as an error, and there are many while an API server restarts.

use super::failure::Failure;
use bytes::Bytes;
use futures::{AsyncBufRead, AsyncBufReadExt, TryStreamExt};
use http::{Request, Response};
use http_body_util::{BodyExt, Limited};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Status;
use kube::{Client, Config};
use sha2::{Digest, Sha256};
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::timeout;
use tower::ServiceBuilder;

/// Longest time to connect.
const CONNECT: Duration = Duration::from_secs(5);

/// Longest time to the headers of an answer: TLS, a token that is renewed, a server that waits for its cache.
const HEADERS: Duration = Duration::from_secs(30);

/// Longest time to the end of an answer that is not a watch.
const ANSWER: Duration = Duration::from_secs(60);

/// Bytes of one page of a list, and of one event of a watch. An object is at most 3 MiB, by etcd's limits.
const MAX_PAGE: usize = 256 << 20;
const MAX_EVENT: usize = 16 << 20;

/// Bytes that a connection reads at a time: what it has once grown to stays with it for as long as it watches.
const READ_BUFFER: usize = 64 << 10;

/// Bytes of an answer that says what was wrong.
const MAX_STATUS: usize = 64 << 10;

/// A peer that vanished without a word is noticed after 15 s + 3 x 5 s.
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;

/// Which API server, and as whom.
#[derive(Clone, Debug, Default)]
pub struct ClientOptions {
    /// Default: `$KUBECONFIG` or `~/.kube/config`; where there is none, the pod's own account.
    pub kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig. Default: its current one.
    pub context: Option<String>,
}

/// A client, and what its cluster is known by while it does not answer.
#[derive(Clone)]
pub struct Connection {
    pub client: Client,
    /// Of the API server's address and the certificates that it is trusted by.
    pub cluster: String,
}

/// Why there is no client. The API server has not been asked yet.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("kubeconfig: {0}")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    #[error("neither a kubeconfig nor a pod's account can be used: {0}")]
    Infer(#[from] kube::config::InferConfigError),
    #[error("the API server is behind the proxy {0}: proxies are not supported here")]
    Proxy(http::Uri),
    #[error("credentials: {0}")]
    Credentials(#[from] kube::Error),
}

/// Reads the configuration. May run the kubeconfig's exec plugin.
pub async fn connect(options: &ClientOptions) -> Result<Connection, ClientError> {
    let choice = KubeConfigOptions { context: options.context.clone(), ..KubeConfigOptions::default() };
    let config = match &options.kubeconfig {
        Some(path) => Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &choice).await?,
        None if choice.context.is_some() => Config::from_kubeconfig(&choice).await?,
        None => Config::infer().await?,
    };
    Ok(Connection { client: build(&config)?, cluster: identity(&config) })
}

fn identity(config: &Config) -> String {
    let mut hash = Sha256::new();
    hash.update(config.cluster_url.to_string());
    for certificate in config.root_cert.iter().flatten() {
        hash.update(b"\0");
        hash.update(certificate);
    }
    hex::encode(hash.finalize())
}

fn build(config: &Config) -> Result<Client, ClientError> {
    if let Some(proxy) = &config.proxy_url {
        return Err(ClientError::Proxy(proxy.clone()));
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    tcp.set_keepalive_retries(Some(KEEPALIVE_PROBES));
    let tls = config.rustls_https_connector_with_connector(tcp)?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(tower::BoxError::from)
        .service(HttpClient::builder(TokioExecutor::new()).http1_max_buf_size(READ_BUFFER).build::<_, Body>(tls));
    Ok(Client::new(service, config.default_namespace.clone()))
}

/// Sends a request, and reads what was wrong with it. `streaming_list`: it asks for a list as a stream.
async fn send(client: &Client, request: Request<Vec<u8>>, streaming_list: bool) -> Result<Response<Body>, Failure> {
    let answer = match timeout(HEADERS, client.send(request.map(Body::from))).await {
        Ok(answer) => answer.map_err(|error| Failure::transport(&error))?,
        Err(_) => return Err(Failure::late("the answer")),
    };
    let code = answer.status();
    if code.is_success() {
        return Ok(answer);
    }
    let body = timeout(HEADERS, Limited::new(answer.into_body(), MAX_STATUS).collect()).await;
    let text = body.ok().and_then(Result::ok).map(|body| body.to_bytes()).unwrap_or_default();
    let mut status = serde_json::from_slice::<Status>(&text).unwrap_or_else(|_| Status {
        message: String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned(),
        ..Status::default()
    });
    status.code = code.as_u16();
    Err(Failure::of_status(&status, streaming_list))
}

/// An answer as a whole.
pub(super) async fn get(client: &Client, request: Request<Vec<u8>>) -> Result<Bytes, Failure> {
    let answer = send(client, request, false).await?;
    match timeout(ANSWER, Limited::new(answer.into_body(), MAX_PAGE).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) => Err(Failure::transport(&*error)),
        Err(_) => Err(Failure::late("the list")),
    }
}

/// The events of a watch, one a line.
pub(super) struct Lines {
    body: Box<dyn AsyncBufRead + Send + Unpin>,
    line: Vec<u8>,
}

pub(super) async fn watch(client: &Client, request: Request<Vec<u8>>, streaming_list: bool) -> Result<Lines, Failure> {
    let answer = send(client, request, streaming_list).await?;
    let body = answer.into_body().into_data_stream().map_err(std::io::Error::other).into_async_read();
    Ok(Lines { body: Box::new(body), line: Vec::new() })
}

impl Lines {
    /// The next complete line; `None` at the end, be it in the middle of one. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        loop {
            let part = self.body.fill_buf().await.map_err(|error| Failure::transport(&error))?;
            if part.is_empty() {
                return Ok(None);
            }
            let (taken, complete) = match part.iter().position(|byte| *byte == b'\n') {
                Some(end) => (end + 1, true),
                None => (part.len(), false),
            };
            self.line.extend_from_slice(part.get(..taken).unwrap_or_default());
            self.body.consume_unpin(taken);
            if self.line.len() > MAX_EVENT {
                return Err(Failure::Transport(format!("an event above {} MiB", MAX_EVENT >> 20)));
            }
            if complete {
                return Ok(Some(std::mem::take(&mut self.line)));
            }
        }
    }
}
