//! The engine with a connector of ours.
//!
//! The engine hands out a proxy with a foreign connector only inside one of its own services, and a service gives its
//! proxy to nobody but the handler of connections that speak a foreign protocol. So a service is made, set to take every
//! connection for foreign, and shown one connection over loopback; its handler passes the proxy on, and the service is
//! taken down before anything is served. Once at start, some milliseconds.

use super::connector::UpstreamConnector;
use futures::FutureExt;
use pingora_core::apps::HttpServerOptions;
use pingora_core::connectors::ConnectorOptions;
use pingora_core::server::Fds;
use pingora_core::server::configuration::ServerConf;
use pingora_core::services::Service as _;
use pingora_proxy::{HttpProxy, ProcessCustomSession, ProxyHttp, ProxyServiceBuilder};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

/// Far above what it takes; only a host without loopback gets there.
const DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("the HTTP engine cannot be started: no loopback socket: {0}")]
    Loopback(#[from] std::io::Error),
    #[error("the HTTP engine was not started within {DEADLINE:?}; is the loopback interface up?")]
    Deadline,
    #[error("the HTTP engine ended before it was started")]
    Ended,
}

/// An engine for `app` whose TLS upstreams are `connector`'s. It listens nowhere: give it streams through
/// `ServerApp::process_new` or `HttpServerApp::process_new_http`, and set its `server_options` as for one made by
/// `pingora_proxy::http_proxy`. `pools` sizes its own pools (clear text, and HTTP/1 over TLS).
///
/// # Errors
/// [`EngineError`], where the host has no working loopback interface.
pub async fn http_proxy<SV>(
    conf: &Arc<ServerConf>,
    app: SV,
    connector: UpstreamConnector,
    pools: ConnectorOptions,
) -> Result<HttpProxy<SV, UpstreamConnector>, EngineError>
where
    SV: ProxyHttp + Send + Sync + 'static,
    SV::CTX: Send + Sync + 'static,
{
    let (sender, mut receiver) = mpsc::channel::<Arc<HttpProxy<SV, UpstreamConnector>>>(1);
    let handler: ProcessCustomSession<SV, UpstreamConnector> = Arc::new(move |proxy, _stream, _shutdown| {
        // Whoever else finds the socket meanwhile is hung up on.
        let _ = sender.try_send(proxy);
        futures::future::ready(None).boxed()
    });
    let mut everything_foreign = HttpServerOptions::default();
    everything_foreign.force_custom = true;
    let mut service = ProxyServiceBuilder::new(conf, app)
        .custom(connector, handler)
        .client_options(pools)
        .server_options(everything_foreign)
        .build();

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let mut sockets = Fds::new();
    sockets.add(address.to_string(), listener.into_raw_fd());
    service.add_tcp(&address.to_string());

    let (stop, shutdown) = watch::channel(false);
    let caught = {
        let serving = service.start_service(Some(Arc::new(sockets.into())), shutdown, 1);
        let catching = async {
            let _connection = TcpStream::connect(address).await?;
            receiver.recv().await.ok_or(EngineError::Ended)
        };
        tokio::select! {
            // Dropped when the proxy is caught: were it to end by itself, it would shut the proxy down with it.
            _ = serving => Err(EngineError::Ended),
            caught = tokio::time::timeout(DEADLINE, catching) => caught.unwrap_or(Err(EngineError::Deadline)),
        }
    };
    // The accept loop, a task of its own, ends and closes the socket.
    let _ = stop.send(true);
    let mut proxy = caught?;
    // Both may hold a copy.
    drop((service, receiver));
    let owned = async {
        loop {
            match Arc::try_unwrap(proxy) {
                Ok(proxy) => return proxy,
                // The accept loop and the connection's task still hold it.
                Err(shared) => proxy = shared,
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let mut proxy = tokio::time::timeout(DEADLINE, owned).await.map_err(|_| EngineError::Deadline)?;
    proxy.server_options = None;
    Ok(proxy)
}
