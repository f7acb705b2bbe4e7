//! Hands the listening sockets to the next process, so that an upgrade loses no connection: their queues live on.
//!
//! ```text
//! new                                   old (serves on)
//!  │ connect, "sluice-handover 1\n" ────► same user? (SO_PEERCRED)
//!  │ ◄──── length, manifest (JSON), then the sockets (SCM_RIGHTS), in the manifest's order
//!  │ applies its configuration, serves
//!  │ "serving\n" ───────────────────────► drains, exits
//! ```
//!
//! A new process that fails before it serves changes nothing: the old one goes on. The same sockets may come from systemd
//! instead ([`from_systemd`]).

use super::sockets::PortSocket;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};
use socket2::SockRef;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

const GREETING: &[u8] = b"sluice-handover 1\n";
const SERVING: &[u8] = b"serving\n";
const VERSION: u32 = 1;
/// Descriptors in one message; the kernel takes 253.
const BATCH: usize = 64;
/// Bytes of a manifest: some 20,000 sockets.
const MANIFEST_MAX: u32 = 1024 * 1024;
/// How long the other process may take for one step of the exchange.
const STEP: Duration = Duration::from_secs(5);
/// How long the new process may take to compile its plugins and to serve.
const UNTIL_SERVING: Duration = Duration::from_secs(120);

#[derive(Debug, Error)]
pub enum HandoverError {
    #[error("no gateway answers at {path}: {source}; start one without --upgrade, or name its state directory")]
    NobodyThere { path: PathBuf, source: io::Error },
    #[error("cannot listen at {path} for an upgrade: {source}")]
    Listen { path: PathBuf, source: io::Error },
    #[error("the process at the other end is of user {theirs}, not {ours}")]
    OtherUser { ours: u32, theirs: u32 },
    #[error("the process at the other end does not speak this hand-over: {0}")]
    Protocol(&'static str),
    #[error("hand-over manifest has version {0}, and {VERSION} is understood; restart instead of upgrading")]
    Version(u32),
    #[error("hand-over was broken off: {0}")]
    Io(#[from] io::Error),
}

/// What the descriptors are.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    version: u32,
    /// The addresses as the configuration has them, in the order of the descriptors: first those that listen.
    sockets: Vec<SocketAddr>,
    /// Those of datagrams.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    datagrams: Vec<SocketAddr>,
}

/// The old process's end.
#[derive(Debug)]
pub struct Handover {
    listener: tokio::net::UnixListener,
    path: PathBuf,
    taken: bool,
}

impl Handover {
    /// Listens at `path` (mode 0600). A socket that a process before has left there is replaced. Must be called in a
    /// runtime.
    pub fn listen(path: &Path) -> Result<Handover, HandoverError> {
        let failed = |source| HandoverError::Listen { path: path.to_owned(), source };
        match std::fs::remove_file(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let listener = tokio::net::UnixListener::bind(path).map_err(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Handover { listener, path: path.to_owned(), taken: false })
    }

    /// Resolves once another process has taken the sockets and serves: this one is to drain and exit. Attempts that fail
    /// are logged, and change nothing.
    pub async fn taken<S>(&mut self, sockets: S)
    where
        S: Fn() -> io::Result<Vec<(SocketAddr, PortSocket)>> + Clone + Send + 'static,
    {
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a hand-over");
                    tokio::time::sleep(STEP).await;
                    continue;
                }
            };
            let sockets = sockets.clone();
            let exchange = tokio::task::spawn_blocking(move || give(stream.into_std()?, sockets));
            match exchange.await {
                Ok(Ok(count)) => {
                    tracing::info!(sockets = count, "another process has taken the sockets over");
                    self.taken = true;
                    return;
                }
                Ok(Err(error)) => tracing::warn!(%error, "hand-over failed; this process goes on serving"),
                Err(error) => tracing::warn!(%error, "hand-over failed; this process goes on serving"),
            }
        }
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        // Once taken, the path is the other process's.
        if !self.taken {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn same_user(stream: &UnixStream) -> Result<(), HandoverError> {
    let ours = rustix::process::geteuid();
    let theirs = rustix::net::sockopt::socket_peercred(stream).map_err(io::Error::from)?.uid;
    // Root may take over from any user; it could do as it likes anyway.
    if theirs == ours || theirs.is_root() {
        Ok(())
    } else {
        Err(HandoverError::OtherUser { ours: ours.as_raw(), theirs: theirs.as_raw() })
    }
}

fn give(
    mut stream: UnixStream,
    sockets: impl Fn() -> io::Result<Vec<(SocketAddr, PortSocket)>>,
) -> Result<usize, HandoverError> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(STEP))?;
    stream.set_write_timeout(Some(STEP))?;
    same_user(&stream)?;
    let mut greeting = [0_u8; GREETING.len()];
    stream.read_exact(&mut greeting)?;
    if greeting != GREETING {
        return Err(HandoverError::Protocol("another greeting"));
    }
    let (listeners, datagrams): (Vec<_>, Vec<_>) =
        sockets()?.into_iter().partition(|(_, socket)| matches!(socket, PortSocket::Listener(_)));
    let addresses = |of: &[(SocketAddr, PortSocket)]| of.iter().map(|(address, _)| *address).collect();
    let manifest = Manifest { version: VERSION, sockets: addresses(&listeners), datagrams: addresses(&datagrams) };
    let sockets: Vec<_> = listeners.into_iter().chain(datagrams).collect();
    let manifest = serde_json::to_vec(&manifest).map_err(io::Error::from)?;
    let length = u32::try_from(manifest.len()).map_err(|_| HandoverError::Protocol("too many sockets"))?;
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(&manifest)?;
    for batch in sockets.chunks(BATCH) {
        let fds: Vec<_> = batch.iter().map(|(_, socket)| socket.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(HandoverError::Protocol("too many sockets in a message"));
        }
        let sent = rustix::net::sendmsg(&stream, &[IoSlice::new(b".")], &mut control, SendFlags::NOSIGNAL);
        sent.map_err(io::Error::from)?;
    }
    stream.set_read_timeout(Some(UNTIL_SERVING))?;
    let mut serving = [0_u8; SERVING.len()];
    stream.read_exact(&mut serving)?;
    if serving != SERVING {
        return Err(HandoverError::Protocol("another word than `serving`"));
    }
    Ok(sockets.len())
}

/// What the new process has been given.
#[derive(Debug)]
pub struct Received {
    /// By the address that the configuration has for them.
    pub sockets: Vec<(SocketAddr, PortSocket)>,
    stream: UnixStream,
}

impl Received {
    /// Tells the old process that this one serves: it drains and exits. Dropped instead, the old one goes on.
    pub fn serving(mut self) -> Result<(), HandoverError> {
        Ok(self.stream.write_all(SERVING)?)
    }
}

/// Takes the sockets over from the process that listens at `path`. Blocks, for some milliseconds as a rule.
pub fn receive(path: &Path) -> Result<Received, HandoverError> {
    let nobody = |source| HandoverError::NobodyThere { path: path.to_owned(), source };
    let mut stream = UnixStream::connect(path).map_err(nobody)?;
    stream.set_read_timeout(Some(STEP))?;
    stream.set_write_timeout(Some(STEP))?;
    same_user(&stream)?;
    stream.write_all(GREETING)?;
    let mut length = [0_u8; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > MANIFEST_MAX {
        return Err(HandoverError::Protocol("a manifest that is too long"));
    }
    let mut manifest = vec![0_u8; length as usize];
    stream.read_exact(&mut manifest)?;
    let manifest: Manifest =
        serde_json::from_slice(&manifest).map_err(|_| HandoverError::Protocol("a manifest that cannot be read"))?;
    if manifest.version != VERSION {
        return Err(HandoverError::Version(manifest.version));
    }
    let expected = manifest.sockets.len() + manifest.datagrams.len();
    let mut fds: Vec<OwnedFd> = Vec::with_capacity(expected);
    while fds.len() < expected {
        let before = fds.len();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0_u8; 1];
        let received =
            rustix::net::recvmsg(&stream, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC);
        received.map_err(io::Error::from)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        if fds.len() == before {
            return Err(HandoverError::Protocol("fewer sockets than its manifest names"));
        }
    }
    let mut fds = fds.into_iter();
    let listeners = manifest.sockets.into_iter().zip(fds.by_ref()).map(|(a, fd)| (a, TcpListener::from(fd).into()));
    let mut sockets: Vec<(SocketAddr, PortSocket)> = listeners.collect();
    sockets.extend(manifest.datagrams.into_iter().zip(fds).map(|(a, fd)| (a, UdpSocket::from(fd).into())));
    Ok(Received { sockets, stream })
}

/// The first descriptor that systemd passes (sd_listen_fds(3)).
const LISTEN_FDS_START: i32 = 3;

/// The sockets that systemd has opened for this process (`LISTEN_FDS`, `LISTEN_PID`); none where it was not started so.
/// A socket belongs to the port of the configuration that has the address that it is bound to. Descriptors that are
/// neither listening TCP sockets nor UDP sockets are left alone, and named in the log by their `LISTEN_FDNAMES`.
pub fn from_systemd() -> io::Result<Vec<(SocketAddr, PortSocket)>> {
    let var = |name: &str| std::env::var(name).unwrap_or_default();
    passed(&var("LISTEN_PID"), &var("LISTEN_FDS"), &var("LISTEN_FDNAMES"))
}

fn passed(pid: &str, count: &str, names: &str) -> io::Result<Vec<(SocketAddr, PortSocket)>> {
    if pid.parse() != Ok(std::process::id()) {
        return Ok(Vec::new());
    }
    let count: i32 = count.parse().unwrap_or(0);
    let mut names = names.split(':');
    let me = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())?;
    let mut sockets = Vec::new();
    for number in LISTEN_FDS_START..LISTEN_FDS_START.saturating_add(count) {
        let name = names.next().unwrap_or_default();
        // A duplicate, by number: systemd's own descriptor stays open, as the socket does with systemd.
        let fd = rustix::process::pidfd_getfd(&me, number, rustix::process::PidfdGetfdFlags::empty())?;
        let listens = rustix::net::sockopt::socket_acceptconn(&fd).unwrap_or(false);
        let datagrams = rustix::net::sockopt::socket_type(&fd).is_ok_and(|kind| kind == rustix::net::SocketType::DGRAM);
        let socket: PortSocket = if datagrams { UdpSocket::from(fd).into() } else { TcpListener::from(fd).into() };
        match socket.local_addr() {
            Ok(address) if listens || datagrams => {
                SockRef::from(&socket).set_nonblocking(true)?;
                sockets.push((address, socket));
            }
            _ => {
                let message = "systemd passed what is neither a listening TCP socket nor a UDP socket";
                tracing::warn!(descriptor = number, name, "{message}");
            }
        }
    }
    Ok(sockets)
}

#[cfg(test)]
#[path = "handover_tests.rs"]
mod tests;
