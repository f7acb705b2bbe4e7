//! Signals, and the runtimes that are not the data plane's.

use anyhow::{Context, Result};
use std::future::Future;
use std::os::unix::net::UnixDatagram;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// SIGTERM, SIGINT: stop gracefully; the second time, at once.
    Stop,
    /// SIGHUP: read the configuration again, and open log files anew.
    Reload,
}

/// The signals that the gateway answers to.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// From here on these signals no longer end the process by themselves.
    pub(crate) fn listen() -> Result<Signals> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Signals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    pub(crate) async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.terminate.recv() => Request::Stop,
            _ = self.interrupt.recv() => Request::Stop,
            _ = self.hang_up.recv() => Request::Reload,
        }
    }

    /// Waits for the next request to stop.
    pub(crate) async fn stop(&mut self) {
        while self.next().await != Request::Stop {}
    }
}

/// Waits for SIGTERM or SIGINT.
pub(crate) async fn terminated() -> Result<()> {
    Signals::listen()?.stop().await;
    Ok(())
}

/// Runs a command that serves nobody's requests but its own.
pub(crate) fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?.block_on(future)
}

/// Tells systemd how things stand (`READY=1`, `RELOADING=1`, `STOPPING=1`; sd_notify(3)). Without systemd this does
/// nothing.
pub(crate) fn notify_systemd(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let send = || -> std::io::Result<()> {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::ffi::OsStrExt;
        use std::os::unix::net::SocketAddr;
        let address = match path.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&path)?,
        };
        UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(|_| ())
    };
    if let Err(error) = send() {
        tracing::debug!(%error, "cannot notify systemd");
    }
}
