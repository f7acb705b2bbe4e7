//! The PROXY protocol's receiver, versions 1 and 2, as HAProxy's specification of 2020/03/05 has it.
//!
//! A port that asks for the header takes it from every peer and closes a connection without it (section 2: the receiver
//! "MUST NOT try to guess whether the header is present or not"). That the peers are proxies is a matter of who can reach
//! the port; `trusted_proxies` is about header fields. Exactly the header's bytes are read, so that what follows needs
//! no buffer. TLVs are skipped. The caller sets the deadline.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use thiserror::Error;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Longest line of version 1, with its end (section 2.1).
const V1_MAX: usize = 107;
/// Longest body of version 2 that is read: addresses of UNIX sockets take 216 bytes, the rest is for TLVs.
const V2_MAX: usize = 4096;

/// Who talks to whom, as the proxy in front saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
}

#[derive(Debug, Error)]
pub(super) enum ProxyProtocolError {
    #[error("the connection does not begin with a PROXY header")]
    Missing,
    #[error("PROXY header: {0}")]
    Malformed(&'static str),
    #[error("reading the PROXY header: {0}")]
    Io(#[from] io::Error),
}

use ProxyProtocolError::{Malformed, Missing};

/// Reads the header. `None`: the connection is the proxy's own (`LOCAL`, `UNKNOWN`), or from a UNIX socket, and the
/// addresses of the socket count.
pub(super) async fn read(io: &mut TcpStream) -> Result<Option<Addresses>, ProxyProtocolError> {
    let mut first = [0_u8; 1];
    io.read_exact(&mut first).await?;
    match first {
        [b'P'] => read_v1(io).await,
        [b'\r'] => read_v2(io).await,
        _ => Err(Missing),
    }
}

async fn read_v1(io: &mut TcpStream) -> Result<Option<Addresses>, ProxyProtocolError> {
    let mut line = [0_u8; V1_MAX];
    let mut have = 1;
    if let Some(start) = line.first_mut() {
        *start = b'P';
    }
    loop {
        let room = line.get_mut(have..).unwrap_or_default();
        if room.is_empty() {
            return Err(Malformed("a line of more than 107 bytes"));
        }
        // Look before taking, so that nothing behind the line is taken.
        let seen = io.peek(room).await?;
        if seen == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let end = room.iter().take(seen).position(|b| *b == b'\n');
        let take = end.map_or(seen, |at| at + 1);
        io.read_exact(room.get_mut(..take).unwrap_or_default()).await?;
        have += take;
        let so_far = line.get(..have).unwrap_or_default();
        let prefix = b"PROXY ".len().min(have);
        if so_far.get(..prefix) != b"PROXY ".get(..prefix) {
            return Err(Missing);
        }
        if end.is_some() {
            return parse_v1(so_far);
        }
    }
}

/// `PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n` (section 2.1).
fn parse_v1(line: &[u8]) -> Result<Option<Addresses>, ProxyProtocolError> {
    let line = line.strip_suffix(b"\r\n").ok_or(Malformed("a line that does not end with CRLF"))?;
    let text = std::str::from_utf8(line).map_err(|_| Malformed("bytes that are not ASCII"))?;
    let mut words = text.split(' ');
    if words.next() != Some("PROXY") {
        return Err(Missing);
    }
    let family = words.next().ok_or(Malformed("no protocol"))?;
    if family == "UNKNOWN" {
        // "the receiver must ignore anything presented before the CRLF"
        return Ok(None);
    }
    let mut address = || -> Result<IpAddr, ProxyProtocolError> {
        let word = words.next().ok_or(Malformed("too few words"))?;
        match family {
            "TCP4" => word.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| Malformed("an IPv4 address that is none")),
            "TCP6" => word.parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_| Malformed("an IPv6 address that is none")),
            _ => Err(Malformed("a protocol that is not TCP4, TCP6 or UNKNOWN")),
        }
    };
    let (source, destination) = (address()?, address()?);
    let mut port = || -> Result<u16, ProxyProtocolError> {
        let word = words.next().ok_or(Malformed("too few words"))?;
        let canonical = word.bytes().all(|b| b.is_ascii_digit()) && (word.len() == 1 || !word.starts_with('0'));
        if !canonical {
            return Err(Malformed("a port that is none"));
        }
        word.parse().map_err(|_| Malformed("a port that is none"))
    };
    let (from, to) = (port()?, port()?);
    if words.next().is_some() {
        return Err(Malformed("too many words"));
    }
    Ok(Some(Addresses { source: SocketAddr::new(source, from), destination: SocketAddr::new(destination, to) }))
}

/// Section 2.2. The first byte has been read.
async fn read_v2(io: &mut TcpStream) -> Result<Option<Addresses>, ProxyProtocolError> {
    let mut head = [0_u8; 15];
    io.read_exact(&mut head).await?;
    let (signature, rest) = head.split_at(SIGNATURE.len() - 1);
    if Some(signature) != SIGNATURE.get(1..) {
        return Err(Missing);
    }
    let &[version_command, family, high, low] = rest else { return Err(Missing) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > V2_MAX {
        return Err(Malformed("a header of more than 4096 bytes"));
    }
    let mut body = vec![0_u8; length];
    io.read_exact(&mut body).await?;
    parse_v2(version_command, family, &body)
}

fn parse_v2(version_command: u8, family: u8, body: &[u8]) -> Result<Option<Addresses>, ProxyProtocolError> {
    if version_command >> 4 != 2 {
        return Err(Malformed("a version that is not 2"));
    }
    match version_command & 0xf {
        0 => return Ok(None),
        1 => {}
        _ => return Err(Malformed("a command that is not LOCAL or PROXY")),
    }
    let short = Malformed("addresses that are cut short");
    match family {
        // AF_UNSPEC with any transport, and UNIX sockets: nothing that could be an address of a client.
        0x00 => Ok(None),
        0x31 | 0x32 if body.len() >= 216 => Ok(None),
        0x11 | 0x12 => {
            let &[a, b, c, d, e, f, g, h, p, q, r, s] = body.first_chunk::<12>().ok_or(short)?;
            Ok(Some(Addresses {
                source: SocketAddr::from(([a, b, c, d], u16::from_be_bytes([p, q]))),
                destination: SocketAddr::from(([e, f, g, h], u16::from_be_bytes([r, s]))),
            }))
        }
        0x21 | 0x22 => {
            let (source, rest) = body.split_first_chunk::<16>().ok_or(short)?;
            let Some((destination, rest)) = rest.split_first_chunk::<16>() else {
                return Err(Malformed("addresses that are cut short"));
            };
            let Some(&[p, q, r, s]) = rest.first_chunk::<4>() else {
                return Err(Malformed("addresses that are cut short"));
            };
            Ok(Some(Addresses {
                source: SocketAddr::from((*source, u16::from_be_bytes([p, q]))),
                destination: SocketAddr::from((*destination, u16::from_be_bytes([r, s]))),
            }))
        }
        0x31 | 0x32 => Err(short),
        _ => Err(Malformed("an address family that is not known")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    /// What `read` makes of `sent`, and what it leaves unread.
    async fn receive(sent: &[u8]) -> (Result<Option<Addresses>, ProxyProtocolError>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let sent = sent.to_vec();
        let writer = tokio::spawn(async move {
            let (first, second) = sent.split_at(sent.len() / 2);
            client.write_all(first).await.unwrap();
            client.flush().await.unwrap();
            client.write_all(second).await.unwrap();
            client.shutdown().await.unwrap();
            client
        });
        let result = read(&mut server).await;
        let mut rest = Vec::new();
        if result.is_ok() {
            server.read_to_end(&mut rest).await.unwrap();
        }
        let _client = writer.await.unwrap();
        (result, rest)
    }

    fn v2(version_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([version_command, family]);
        bytes.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        bytes.extend(body);
        bytes
    }

    #[tokio::test]
    async fn version_1_gives_both_addresses_and_leaves_what_follows() {
        let (got, rest) = receive(b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\nGET / HTTP/1.1\r\n").await;
        let got = got.unwrap().unwrap();
        assert_eq!(got.source, "192.0.2.1:56324".parse().unwrap());
        assert_eq!(got.destination, "198.51.100.1:443".parse().unwrap());
        assert_eq!(rest, b"GET / HTTP/1.1\r\n");
        let (got, _) = receive(b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n").await;
        assert_eq!(got.unwrap().unwrap().destination, "[2001:db8::2]:65535".parse().unwrap());
        let (got, rest) = receive(b"PROXY UNKNOWN whatever is here\r\nx").await;
        assert_eq!((got.unwrap(), rest.as_slice()), (None, b"x".as_slice()));
    }

    #[tokio::test]
    async fn version_2_gives_both_addresses_and_skips_tlvs() {
        let mut body = vec![192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 0x04, 0x01, 0xbb];
        body.extend([0x04, 0, 2, 0xff, 0xff]);
        let mut sent = v2(0x21, 0x11, &body);
        sent.extend(b"GET /");
        let (got, rest) = receive(&sent).await;
        let got = got.unwrap().unwrap();
        assert_eq!(got.source, "192.0.2.1:56324".parse().unwrap());
        assert_eq!(got.destination, "198.51.100.1:443".parse().unwrap());
        assert_eq!(rest, b"GET /");
        let mut body = Ipv6Addr::LOCALHOST.octets().to_vec();
        body.extend(Ipv6Addr::UNSPECIFIED.octets());
        body.extend([0, 7, 0, 8]);
        let (got, _) = receive(&v2(0x21, 0x21, &body)).await;
        assert_eq!(got.unwrap().unwrap().source, "[::1]:7".parse().unwrap());
    }

    #[tokio::test]
    async fn a_health_check_of_the_proxy_and_a_unix_peer_keep_the_sockets_addresses() {
        for sent in [v2(0x20, 0x00, b""), v2(0x20, 0x11, &[0; 12]), v2(0x21, 0x00, &[1, 2]), v2(0x21, 0x31, &[0; 216])]
        {
            assert_eq!(receive(&sent).await.0.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn a_connection_without_the_header_is_refused() {
        for sent in [
            b"GET / HTTP/1.1\r\n\r\n".as_slice(),
            b"POST / HTTP/1.1\r\n",
            b"\r\nGET / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01",
        ] {
            assert!(matches!(receive(sent).await.0, Err(Missing)), "{:?}", String::from_utf8_lossy(sent));
        }
    }

    #[tokio::test]
    async fn what_breaks_the_specification_is_refused() {
        let long = format!("PROXY TCP4 {}\r\n", "1".repeat(200));
        for sent in [
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\n".as_slice(),
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 1\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 65536\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 056 443\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 +5 443\r\n",
            b"PROXY TCP4 192.0.2.256 198.51.100.1 5 443\r\n",
            b"PROXY TCP4 2001:db8::1 198.51.100.1 5 443\r\n",
            b"PROXY TCP6 192.0.2.1 198.51.100.1 5 443\r\n",
            b"PROXY UDP4 192.0.2.1 198.51.100.1 5 443\r\n",
            b"PROXY  TCP4 192.0.2.1 198.51.100.1 5 443\r\n",
            b"PROXY\r\n",
            long.as_bytes(),
            &v2(0x11, 0x11, &[0; 12]),
            &v2(0x22, 0x11, &[0; 12]),
            &v2(0x21, 0x11, &[0; 11]),
            &v2(0x21, 0x21, &[0; 35]),
            &v2(0x21, 0x31, &[0; 215]),
            &v2(0x21, 0x41, &[0; 12]),
            &v2(0x21, 0x11, &[0; 5000]),
        ] {
            assert!(receive(sent).await.0.is_err(), "{:?}", String::from_utf8_lossy(sent));
        }
    }

    #[tokio::test]
    async fn a_header_that_ends_with_the_connection_is_an_error_and_not_a_panic() {
        let whole = v2(0x21, 0x11, &[0; 12]);
        for end in 0..whole.len() {
            assert!(receive(whole.get(..end).unwrap()).await.0.is_err());
        }
    }
}
