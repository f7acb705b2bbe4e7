//! What is believed of the way a request came, and what the backend is told of it.
//!
//! A peer that the listener trusts is appended to; what anybody else says is replaced. So a backend may believe these
//! fields as they are.

use super::names;
use ::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use ::http::{Version, request};
use bytes::{BufMut, Bytes, BytesMut};
use ipnet::IpNet;
use sluice_model::Reason;
use sluice_model::config::Forwarding;
use std::cell::RefCell;
use std::net::IpAddr;

const HTTP: HeaderValue = HeaderValue::from_static("http");
const HTTPS: HeaderValue = HeaderValue::from_static("https");
const PORT_80: HeaderValue = HeaderValue::from_static("80");
const PORT_443: HeaderValue = HeaderValue::from_static("443");
const VIA_1_0: HeaderValue = HeaderValue::from_static("1.0 sluice");
const VIA_1_1: HeaderValue = HeaderValue::from_static("1.1 sluice");
const VIA_2: HeaderValue = HeaderValue::from_static("2.0 sluice");

/// Longest request id that is taken over, in bytes.
const MAX_REQUEST_ID: usize = 128;
/// Addresses of X-Forwarded-For that are looked at, from the right.
const MAX_HOPS: usize = 32;

/// The connection that the request came over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    /// The peer, after the PROXY protocol.
    pub(super) peer: IpAddr,
    pub(super) tls: bool,
    /// The port that the client's authority names, if it names one.
    pub(super) authority_port: Option<u16>,
}

/// What was learned.
#[derive(Debug)]
pub(super) struct Origin {
    /// The client, as trusted proxies tell it.
    pub(super) client: IpAddr,
    pub(super) trusted: bool,
}

fn is_trusted(nets: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    nets.iter().any(|net| net.contains(&address))
}

/// Whether the request has passed here before (RFC 9110, section 7.6.3).
pub(super) fn looped(headers: &HeaderMap) -> bool {
    headers.get_all(header::VIA).iter().flat_map(|via| via.as_bytes().split(|b| *b == b',')).any(|member| {
        // received-protocol SP received-by [ SP comment ]
        member.split(|b| b.is_ascii_whitespace()).filter(|part| !part.is_empty()).nth(1)
            == Some(names::PSEUDONYM.as_bytes())
    })
}

/// Who the client is: the peer, or, where the peer is trusted, the last address of X-Forwarded-For that is not.
pub(super) fn origin(headers: &HeaderMap, peer: IpAddr, forwarding: &Forwarding) -> Origin {
    let peer = peer.to_canonical();
    let nets = &forwarding.trusted_proxies;
    if nets.is_empty() || !is_trusted(nets, peer) {
        return Origin { client: peer, trusted: false };
    }
    let mut client = peer;
    let fields = headers.get_all(names::X_FORWARDED_FOR);
    let hops = fields.iter().rev().flat_map(|field| field.as_bytes().rsplit(|b| *b == b','));
    for hop in hops.take(MAX_HOPS) {
        // What cannot be read cannot be walked past.
        let Some(address) = parse_hop(hop) else { break };
        client = address;
        if !is_trusted(nets, address) {
            break;
        }
    }
    Origin { client, trusted: true }
}

/// `192.0.2.1`, `2001:db8::1`, and both with ports, as some proxies write them.
fn parse_hop(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?.trim();
    let address = match text.parse::<IpAddr>() {
        Ok(address) => address,
        Err(_) => match text.parse::<std::net::SocketAddr>() {
            Ok(address) => address.ip(),
            Err(_) => text.strip_prefix('[')?.strip_suffix(']')?.parse().ok()?,
        },
    };
    Some(address.to_canonical())
}

/// Writes what the backend is told. `host` is the authority as the client sent it, `peer` what [`address_value`] makes of the
/// arrival's.
pub(super) fn write(
    parts: &mut request::Parts,
    host: &HeaderValue,
    arrival: Arrival,
    peer: &HeaderValue,
    origin: &Origin,
    forwarding: &Forwarding,
) -> Result<(), Reason> {
    let version = parts.version;
    let headers = &mut parts.headers;
    let scheme = if arrival.tls { HTTPS } else { HTTP };
    if origin.trusted {
        keep_or(headers, names::X_FORWARDED_PROTO, || scheme.clone());
        keep_or(headers, names::X_FORWARDED_HOST, || host.clone());
        keep_or(headers, names::X_FORWARDED_PORT, || port_value(arrival));
    } else {
        headers.insert(names::X_FORWARDED_PROTO, scheme.clone());
        headers.insert(names::X_FORWARDED_HOST, host.clone());
        headers.insert(names::X_FORWARDED_PORT, port_value(arrival));
        headers.remove(header::FORWARDED);
    }
    if forwarding.forwarded {
        let element = forwarded_element(arrival, host, scheme.as_bytes());
        append(headers, header::FORWARDED, element);
    }
    let real = if origin.client == arrival.peer.to_canonical() { peer.clone() } else { address_value(origin.client) };
    headers.insert(names::X_REAL_IP, real);
    if origin.trusted {
        append(headers, names::X_FORWARDED_FOR, peer.clone());
    } else {
        headers.insert(names::X_FORWARDED_FOR, peer.clone());
    }
    if forwarding.via {
        if looped(headers) {
            return Err(Reason::LoopDetected);
        }
        let via = match version {
            Version::HTTP_2 => VIA_2,
            Version::HTTP_10 => VIA_1_0,
            _ => VIA_1_1,
        };
        append(headers, header::VIA, via);
    }
    Ok(())
}

fn keep_or(headers: &mut HeaderMap, name: HeaderName, value: impl FnOnce() -> HeaderValue) {
    if !headers.contains_key(&name) {
        headers.insert(name, value());
    }
}

/// One field holds the whole list: backends that read only the first line would see only the first hop.
fn append(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    if !headers.contains_key(&name) {
        headers.insert(name, value);
        return;
    }
    let mut list = BytesMut::with_capacity(128);
    for field in headers.get_all(&name) {
        list.put_slice(field.as_bytes());
        list.put_slice(b", ");
    }
    list.put_slice(value.as_bytes());
    if let Ok(value) = HeaderValue::from_maybe_shared(list.freeze()) {
        headers.insert(name, value);
    }
}

fn port_value(arrival: Arrival) -> HeaderValue {
    match arrival.authority_port {
        Some(port) => HeaderValue::from(port),
        None if arrival.tls => PORT_443,
        None => PORT_80,
    }
}

/// An address as a field's value, written without a `String` in between.
pub(super) fn address_value(address: IpAddr) -> HeaderValue {
    let mut text = Text::<45>::default();
    text.address(address);
    text.value()
}

/// `for=192.0.2.1;host=example.com;proto=https` (RFC 7239, section 4).
fn forwarded_element(arrival: Arrival, host: &HeaderValue, scheme: &[u8]) -> HeaderValue {
    let mut element = BytesMut::with_capacity(96);
    element.put_slice(b"for=");
    let peer = arrival.peer.to_canonical();
    let value = address_value(peer);
    if peer.is_ipv6() {
        element.put_slice(b"\"[");
        element.put_slice(value.as_bytes());
        element.put_slice(b"]\"");
    } else {
        element.put_slice(value.as_bytes());
    }
    element.put_slice(b";host=\"");
    element.put_slice(host.as_bytes());
    element.put_slice(b"\";proto=");
    element.put_slice(scheme);
    HeaderValue::from_maybe_shared(element.freeze()).unwrap_or(HeaderValue::from_static("for=unknown"))
}

/// A short text on the stack.
struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Text { bytes: [0; N], len: 0 }
    }
}

impl<const N: usize> Text<N> {
    fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => {
                for (i, octet) in v4.octets().into_iter().enumerate() {
                    if i > 0 {
                        self.push(b'.');
                    }
                    self.decimal(octet);
                }
            }
            IpAddr::V6(v6) => {
                use std::fmt::Write;
                // Longer than an address can be.
                let _ = write!(self, "{v6}");
            }
        }
    }

    fn decimal(&mut self, number: u8) {
        if number >= 100 {
            self.push(b'0' + number / 100);
        }
        if number >= 10 {
            self.push(b'0' + number / 10 % 10);
        }
        self.push(b'0' + number % 10);
    }

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = byte;
            self.len += 1;
        }
    }

    fn value(&self) -> HeaderValue {
        let text = Bytes::copy_from_slice(&self.bytes[..self.len]);
        HeaderValue::from_maybe_shared(text).unwrap_or(HeaderValue::from_static("unknown"))
    }
}

impl<const N: usize> std::fmt::Write for Text<N> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        text.bytes().for_each(|byte| self.push(byte));
        Ok(())
    }
}

/// Keeps a trusted peer's X-Request-ID, and makes one otherwise.
pub(super) fn request_id(headers: &mut HeaderMap, trusted: bool, forwarding: &Forwarding) {
    let kept = trusted && headers.get(names::X_REQUEST_ID).is_some_and(|id| is_request_id(id.as_bytes()));
    if kept {
        return;
    }
    if forwarding.request_id {
        headers.insert(names::X_REQUEST_ID, new_request_id());
    } else if !trusted {
        headers.remove(names::X_REQUEST_ID);
    }
}

fn is_request_id(id: &[u8]) -> bool {
    (1..=MAX_REQUEST_ID).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

/// A random UUID. It names a request in logs; it guards nothing, so a fast generator is enough.
fn new_request_id() -> HeaderValue {
    let random = fastrand::u128(..).to_ne_bytes();
    let mut text = [0u8; uuid::fmt::Hyphenated::LENGTH];
    let id = uuid::Builder::from_random_bytes(random).into_uuid();
    let text = id.hyphenated().encode_lower(&mut text);
    HeaderValue::from_maybe_shared(shared(text.as_bytes())).unwrap_or(HeaderValue::from_static("unknown"))
}

/// Bytes that the values of many requests share, so that neither a value nor its first copy costs an allocation. Its memory is
/// used again once they are all gone; a tunnel keeps one of them for as long as it lasts.
const BLOCK: usize = 2 * 1024;

fn shared(text: &[u8]) -> Bytes {
    thread_local! {
        static LAST: RefCell<BytesMut> = RefCell::new(BytesMut::with_capacity(BLOCK));
    }
    LAST.with_borrow_mut(|last| {
        last.extend_from_slice(text);
        last.split().freeze()
    })
}

#[cfg(test)]
mod tests;
