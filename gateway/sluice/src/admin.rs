//! What other commands ask of a running gateway, at its admin port.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;

/// Where it is unless `sluice run` was told otherwise.
pub(crate) const DEFAULT_ADDRESS: &str = "127.0.0.1:9181";

/// Longest time for an answer as a whole.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of an answer: a match of a route takes some 300.
const MAX_ANSWER: usize = 64 << 20;

const WAY_OUT: &str = "name the --admin-address of a `sluice run` on this host; for one in a cluster, forward its port: \
     kubectl -n sluice-system port-forward deployment/sluice-proxy 9181";

/// One GET; the body of a good answer.
pub(crate) async fn get(admin: SocketAddr, target: &str) -> Result<Bytes> {
    let exchange = async {
        let stream = TcpStream::connect(admin)
            .await
            .map_err(|error| anyhow::anyhow!("no gateway answers at {admin} ({error}): {WAY_OUT}"))?;
        let other = || format!("what listens at {admin} is no admin port: {WAY_OUT}");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.with_context(other)?;
        tokio::spawn(connection);
        let request = Request::get(target).header("host", admin.to_string()).body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await.with_context(other)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("the answer of {admin}: {error}"))?.to_bytes();
        match status {
            _ if status.is_success() => Ok(body),
            StatusCode::NOT_FOUND => {
                bail!("{admin} knows no {}: it is another port, or of another version. {WAY_OUT}", path(target))
            }
            _ => bail!("the gateway answered {status}: {}", String::from_utf8_lossy(&body).trim()),
        }
    };
    match tokio::time::timeout(PATIENCE, exchange).await {
        Ok(answer) => answer,
        Err(_) => bail!("{admin} does not answer within {} s: {WAY_OUT}", PATIENCE.as_secs()),
    }
}

/// The same, read as JSON.
pub(crate) async fn read<T: DeserializeOwned>(admin: SocketAddr, target: &str) -> Result<T> {
    let body = get(admin, target).await?;
    serde_json::from_slice(&body).with_context(|| {
        format!("what {admin} answers to {} is not what a gateway of this version says: {WAY_OUT}", path(target))
    })
}

fn path(target: &str) -> &str {
    target.split('?').next().unwrap_or(target)
}
