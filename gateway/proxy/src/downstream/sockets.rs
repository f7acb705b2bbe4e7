//! Sockets of ports: how they are bound, and what a port that is taken looks like.

use sluice_model::config::Transport;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// Connections that wait to be accepted. The kernel's own bound (net.core.somaxconn, 4,096 by default) applies as well.
const BACKLOG: i32 = 4096;
/// A peer that vanished is noticed after 60 s of silence and 5 probes, 15 s apart.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 5;

/// Bytes of datagrams that may wait to be read; the kernel gives at most its own bound (net.core.rmem_max).
const DATAGRAM_QUEUE: usize = 4 << 20;

/// A socket of a port.
#[derive(Debug)]
pub enum PortSocket {
    /// It listens for connections.
    Listener(TcpListener),
    Datagrams(UdpSocket),
}

impl PortSocket {
    pub fn transport(&self) -> Transport {
        match self {
            PortSocket::Listener(_) => Transport::Tcp,
            PortSocket::Datagrams(_) => Transport::Udp,
        }
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            PortSocket::Listener(socket) => socket.local_addr(),
            PortSocket::Datagrams(socket) => socket.local_addr(),
        }
    }

    /// Another handle of the same socket.
    pub fn try_clone(&self) -> io::Result<PortSocket> {
        match self {
            PortSocket::Listener(socket) => socket.try_clone().map(PortSocket::Listener),
            PortSocket::Datagrams(socket) => socket.try_clone().map(PortSocket::Datagrams),
        }
    }
}

impl AsFd for PortSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            PortSocket::Listener(socket) => socket.as_fd(),
            PortSocket::Datagrams(socket) => socket.as_fd(),
        }
    }
}

impl From<TcpListener> for PortSocket {
    fn from(socket: TcpListener) -> Self {
        PortSocket::Listener(socket)
    }
}

impl From<UdpSocket> for PortSocket {
    fn from(socket: UdpSocket) -> Self {
        PortSocket::Datagrams(socket)
    }
}

/// Binds `address` with `count` sockets. More than one share the port (SO_REUSEPORT); that it is free is probed with a
/// plain one first, as two gateways would silently split the traffic otherwise.
pub(super) fn bind(transport: Transport, address: SocketAddr, count: usize) -> io::Result<Vec<PortSocket>> {
    if count <= 1 {
        return Ok(vec![serve(transport, address, false)?]);
    }
    // A port chosen by the kernel is the same for all.
    let address = {
        let probe = open(transport, address, false)?;
        probe.local_addr()?.as_socket().unwrap_or(address)
    };
    (0..count).map(|_| serve(transport, address, true)).collect()
}

/// Whether `address` could be bound now. The socket is closed again, and never listened on.
pub fn can_bind(transport: Transport, address: SocketAddr) -> io::Result<()> {
    open(transport, address, false).map(drop)
}

fn serve(transport: Transport, address: SocketAddr, share: bool) -> io::Result<PortSocket> {
    let socket = open(transport, address, share)?;
    Ok(match transport {
        Transport::Tcp => {
            socket.listen(BACKLOG)?;
            PortSocket::Listener(socket.into())
        }
        Transport::Udp => PortSocket::Datagrams(socket.into()),
    })
}

/// A bound socket; one of TCP does not listen yet. `[::]` takes IPv4 as well, and stands for `0.0.0.0` where the host has no
/// IPv6.
fn open(transport: Transport, address: SocketAddr, share: bool) -> io::Result<Socket> {
    match open_exactly(transport, address, share) {
        Err(error) if address.ip().is_unspecified() && address.is_ipv6() && without_ipv6(&error) => {
            open_exactly(transport, SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())), share)
        }
        other => other,
    }
}

fn without_ipv6(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
    matches!(code, Some(rustix::io::Errno::AFNOSUPPORT | rustix::io::Errno::ADDRNOTAVAIL))
}

fn open_exactly(transport: Transport, address: SocketAddr, share: bool) -> io::Result<Socket> {
    let (kind, protocol) = match transport {
        Transport::Tcp => (Type::STREAM, Protocol::TCP),
        Transport::Udp => (Type::DGRAM, Protocol::UDP),
    };
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking().cloexec(), Some(protocol))?;
    if transport == Transport::Tcp {
        // Connections of a process before us may still be in TIME_WAIT. Of UDP it would let two processes share a port.
        socket.set_reuse_address(true)?;
    }
    if share {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    match transport {
        Transport::Tcp => prepare(&socket)?,
        // Best effort: what the kernel gives is enough for most.
        Transport::Udp => drop(socket.set_recv_buffer_size(DATAGRAM_QUEUE)),
    }
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

/// Options that Linux hands down to each accepted socket: set once here, they cost no call a connection.
pub(super) fn prepare(listener: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(listener);
    socket.set_tcp_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY).with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)
}

/// Whether accepting failed for want of something that others will give back: files, memory.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
    use rustix::io::Errno;
    matches!(code, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_port_that_is_taken_is_an_error_with_one_socket_and_with_several() {
        for transport in [Transport::Tcp, Transport::Udp] {
            let taken = bind(transport, "127.0.0.1:0".parse().unwrap(), 1).unwrap();
            let address = taken[0].local_addr().unwrap();
            for count in [1, 2] {
                assert_eq!(bind(transport, address, count).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            }
            assert_eq!(can_bind(transport, address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            drop(taken);
            can_bind(transport, address).unwrap();
        }
    }

    #[test]
    fn sockets_that_share_a_port_are_found_by_a_second_gateway_that_does_so_too() {
        for transport in [Transport::Tcp, Transport::Udp] {
            let first = bind(transport, "127.0.0.1:0".parse().unwrap(), 2).unwrap();
            let address = first[0].local_addr().unwrap();
            assert_eq!(first[1].local_addr().unwrap(), address);
            assert_eq!(bind(transport, address, 2).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        }
    }

    #[test]
    fn the_unspecified_address_of_ipv6_takes_ipv4_as_well() {
        let socket = bind(Transport::Tcp, "[::]:0".parse().unwrap(), 1).unwrap();
        let port = socket[0].local_addr().unwrap().port();
        std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    }
}
