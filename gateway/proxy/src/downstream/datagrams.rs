//! A socket of a UDP port: datagrams in batches, each with the address that it was sent to, so that the answer comes
//! from there whatever else the host is reached by.

use super::open_port::{OpenPort, Phase, SessionPermit};
use super::sockets::{self, PortSocket};
use super::workers::{BoundPort, SHORTAGE_PAUSE};
use nix::sys::socket::{setsockopt, sockopt::Ipv6DontFrag};
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::watch;

/// Bytes of the longest datagram, and of what the kernel joins of shorter ones (UDP_GRO): 65,535 less two headers.
pub(crate) const LONGEST: usize = 64 * 1024;

/// What one read of a socket brought.
pub(crate) struct Batch {
    /// A part of [`LONGEST`] for each message. The system gives pages as they are written to: with short datagrams one
    /// each.
    memory: Box<[u8]>,
    messages: [RecvMeta; BATCH_SIZE],
    count: usize,
}

/// One datagram of a client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Datagram<'b> {
    pub(crate) from: SocketAddr,
    /// The address of ours that it was sent to, where the socket has several.
    pub(crate) to: Option<IpAddr>,
    pub(crate) bytes: &'b [u8],
}

impl Batch {
    pub(crate) fn new() -> Self {
        let memory = vec![0; LONGEST * BATCH_SIZE].into_boxed_slice();
        Batch { memory, messages: [RecvMeta::default(); BATCH_SIZE], count: 0 }
    }

    pub(crate) fn datagrams(&self) -> impl Iterator<Item = Datagram<'_>> {
        let messages = self.messages.iter().take(self.count).zip(self.memory.chunks_exact(LONGEST));
        messages.flat_map(|(message, memory)| {
            let all = memory.get(..message.len).unwrap_or_default();
            // One without a byte is a datagram as well.
            let empty = all.is_empty().then_some(all);
            let parts = empty.into_iter().chain(all.chunks(message.stride.max(1)));
            parts.map(|bytes| Datagram { from: message.addr, to: message.dst_ip, bytes })
        })
    }
}

/// One worker's socket of a UDP port.
pub struct DatagramPort {
    socket: UdpSocket,
    state: UdpSocketState,
    port: Arc<OpenPort>,
    /// Whether answers have to say which address they come from.
    many_addresses: bool,
    /// Kept until the last session has ended, so that a port that comes back meanwhile finds its sockets.
    _sockets: Arc<Vec<PortSocket>>,
}

impl std::fmt::Debug for DatagramPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("DatagramPort").field(&self.port.address).finish()
    }
}

impl DatagramPort {
    /// Must be called in the runtime that serves it.
    pub(super) fn new(socket: std::net::UdpSocket, bound: &BoundPort) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        let local = socket.local_addr()?;
        // QUIC's datagrams must not be fragmented; those of others are theirs to know.
        set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::WANT)?;
        if local.is_ipv6() {
            set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::WANT)?;
            setsockopt(&socket, Ipv6DontFrag, &false)?;
        }
        Ok(DatagramPort {
            socket: UdpSocket::from_std(socket)?,
            state,
            port: bound.port.clone(),
            many_addresses: local.ip().is_unspecified(),
            _sockets: bound.sockets.clone(),
        })
    }

    /// The key of the port in the configuration, for [`crate::snapshot::Snapshot::udp_ports`].
    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address
    }

    /// Waits for datagrams; at most 32 of the kernel's messages at a time.
    pub(crate) async fn receive(&self, batch: &mut Batch) -> io::Result<()> {
        batch.count = 0;
        self.socket.async_io(Interest::READABLE, || self.read(batch)).await
    }

    /// Takes what is there; `false`: nothing is.
    pub(crate) fn receive_now(&self, batch: &mut Batch) -> bool {
        batch.count = 0;
        self.read(batch).is_ok() && batch.count > 0
    }

    fn read(&self, batch: &mut Batch) -> io::Result<()> {
        let mut parts = batch.memory.chunks_exact_mut(LONGEST);
        let mut buffers: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(parts.next().unwrap_or_default()));
        batch.count = self.state.recv((&self.socket).into(), &mut buffers, &mut batch.messages)?;
        for message in batch.messages.iter_mut().filter(|_| !self.many_addresses) {
            message.dst_ip = None;
        }
        Ok(())
    }

    /// Reading has failed: waits a moment where others have to give something back first.
    pub(crate) async fn failed(&self, error: &io::Error) {
        tracing::debug!(port = %self.port.address, %error, "datagrams cannot be read");
        if sockets::is_shortage(error) {
            tokio::time::sleep(SHORTAGE_PAUSE).await;
        }
    }

    /// Sends to a client, from the address that it knows. `WouldBlock`: too many wait to be sent.
    pub(crate) fn send_now(&self, bytes: &[u8], to: SocketAddr, from: Option<IpAddr>) -> io::Result<()> {
        let datagram = Transmit { destination: to, ecn: None, contents: bytes, segment_size: None, src_ip: from };
        self.state.try_send((&self.socket).into(), &datagram)
    }

    /// Likewise, and waits for room.
    pub(crate) async fn send(&self, bytes: &[u8], to: SocketAddr, from: Option<IpAddr>) -> io::Result<()> {
        self.socket.async_io(Interest::WRITABLE, || self.send_now(bytes, to, from)).await
    }

    pub(crate) fn admit(&self) -> Option<SessionPermit> {
        self.port.admit_session()
    }

    /// Resolves once nothing more is to be taken, with the time that draining may take.
    pub(crate) async fn stopped(&self) -> Duration {
        self.port.stopped().await
    }

    pub(crate) fn phases(&self) -> watch::Receiver<Phase> {
        self.port.phases()
    }

    /// What was sent before the port stopped has been taken.
    pub(crate) fn let_go(&self) {
        self.port.note_let_go();
    }

    /// Walks through the phases of closing.
    pub(crate) async fn drain(&self, drain: Duration) {
        self.port.drain(drain).await;
    }

    /// A session's task has panicked.
    pub(crate) fn note_panic(&self) {
        tracing::error!(port = %self.port.address, "a UDP session's task panicked; the session is over");
        self.port.metrics.all.restart("session");
    }
}
