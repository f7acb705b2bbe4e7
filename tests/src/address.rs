//! Where a client connects to: a port of this host, or an address of a cluster.

use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::net::TcpStream;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub SocketAddr);

/// How long a connection may take. A first packet that a node sends the wrong way, while its kube-proxy learns of the
/// address, is sent the same way whenever it is repeated: only a new connection helps.
const CONNECT: Duration = Duration::from_secs(5);

impl Address {
    pub async fn connect(self) -> Result<TcpStream> {
        let late = |_| Error::new(ErrorKind::TimedOut, format!("no connection to {} in {CONNECT:?}", self.0));
        let stream = tokio::time::timeout(CONNECT, TcpStream::connect(self.0)).await.map_err(late)??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl From<u16> for Address {
    fn from(port: u16) -> Address {
        Address(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address(address)
    }
}

impl From<(IpAddr, u16)> for Address {
    fn from(address: (IpAddr, u16)) -> Address {
        Address(address.into())
    }
}
