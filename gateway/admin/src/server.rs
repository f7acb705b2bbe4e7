//! A small HTTP/1.1 server with bounds: connections, time for a request's headers, time for its answer, time for all of it.

use axum::Router;
use http::StatusCode;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Connections of one port at a time. For a further one the oldest is cut: whoever holds connections and never reads
/// keeps no probe out.
const MAX_CONNECTIONS: usize = 64;

/// Longest time for a request's headers, and for the pause before the next request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest time for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest life of a connection, its last answer's writing included. Clients that keep connections make a new one.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);

/// Serves `router` until `stop`.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let router = router.layer(axum::middleware::from_fn(bounded));
    let mut open: VecDeque<AbortHandle> = VecDeque::with_capacity(MAX_CONNECTIONS);
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the admin port cannot accept");
                    // Out of file descriptors, most likely: without a pause this would spin.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        open.retain(|connection| !connection.is_finished());
        if open.len() == MAX_CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            tracing::debug!("the oldest admin connection is cut for a new one");
            oldest.abort();
        }
        open.push_back(tokio::spawn(connection(stream, router.clone(), stop.clone())).abort_handle());
    }
}

async fn connection(stream: TcpStream, router: Router, stop: CancellationToken) {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(64 << 10);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let result = tokio::select! {
        result = timeout(CONNECTION_TIMEOUT, &mut connection) => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            timeout(ANSWER_TIMEOUT, connection).await
        }
    };
    match result {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "admin connection ended"),
        Err(_) => tracing::debug!("admin connection was open for too long"),
    }
}

/// No answer takes longer than the limit.
async fn bounded(request: axum::extract::Request, next: axum::middleware::Next) -> axum::response::Response {
    use axum::response::IntoResponse;
    match timeout(ANSWER_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "no answer in time\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn clients_that_never_read_keep_no_probe_out() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let large = axum::body::Bytes::from(vec![b'x'; 32 << 20]);
        let large = move || {
            let large = large.clone();
            async move { large }
        };
        let router = Router::new()
            .route("/large", axum::routing::get(large))
            .route("/livez", axum::routing::get(|| async { "ok" }));
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, router, stop.clone()));
        let mut silent = Vec::new();
        for _ in 0..MAX_CONNECTIONS + 1 {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            silent.push(client);
        }
        let mut probe = TcpStream::connect(address).await.unwrap();
        probe.write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        timeout(Duration::from_secs(20), probe.read_to_string(&mut answer)).await.expect("an answer").unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok"), "{answer}");
        stop.cancel();
        server.await.unwrap();
    }
}
