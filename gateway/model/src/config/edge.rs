//! How a listener treats what comes from outside: limits, timeouts, trust and the form of paths. Each field is
//! settable in `GatewayConfig.spec.listeners[]`; the defaults here are safe at the edge of the internet.

use crate::print::display_all;
use ipnet::IpNet;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

/// KiB in bytes.
const KIB: u64 = 1024;
/// MiB in bytes.
const MIB: u64 = 1024 * KIB;

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Edge {
    pub limits: Limits,
    pub timeouts: Timeouts,
    pub http2: Http2,
    pub path: PathPolicy,
    pub underscores: UnderscorePolicy,
    pub server_header: ServerHeader,
    pub forwarding: Forwarding,
    /// Read a PROXY protocol header (v1 or v2) at the start of each connection; one without it is closed. Default: off.
    pub proxy_protocol: bool,
}

/// Each limit has a metric: `sluice_limit_hits_total{limit}` with the field's name.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Limits {
    /// Open connections of the port. Default 10,000; above, new ones are closed at once.
    pub connections: u32,
    /// Sessions of a UDP port, all of its clients together: each holds a socket to its endpoint. Default 10,000; above, the
    /// datagrams of new clients are dropped.
    pub udp_sessions: u32,
    /// Bytes of a header section, names and values and 4 a field. Default 64 KiB; above: 431.
    pub header_bytes: u64,
    /// Fields of a header section. Default 100; above: 431.
    pub header_count: u32,
    /// Bytes of the request target. Default 8 KiB; above: 414.
    pub request_target: u64,
    /// Bytes of the method. Default 32; above: 501.
    pub method: u32,
    /// Bytes of a request body. Default: none; above: 413.
    pub body: Option<u64>,
    /// Requests on one connection before it is closed gracefully. Default 10,000; the last one counts as a hit.
    pub requests_per_connection: u32,
    /// Bytes that are read and thrown away so that a connection can be used again after an early answer. Default
    /// 64 KiB; above, it is closed.
    pub drain_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 10_000,
            udp_sessions: 10_000,
            header_bytes: 64 * KIB,
            header_count: 100,
            request_target: 8 * KIB,
            method: 32,
            body: None,
            requests_per_connection: 10_000,
            drain_bytes: 64 * KIB,
        }
    }
}

/// Each timeout that acts is counted in `sluice_timeouts_total{timeout}` with the field's name.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Timeouts {
    /// PROXY header and TLS handshake together. Default 10 s.
    pub handshake: Duration,
    /// From the first byte of a request (or of a HEADERS frame) to the end of its header section. Default 10 s; then 408.
    pub request_headers: Duration,
    /// Longest pause within a request body. Default 60 s; then 408.
    pub body_idle: Duration,
    /// Least bytes a second of a request body, averaged over `body_idle`. Default 240 (as Apache's mod_reqtimeout does
    /// it at the start of a body: 500; we are milder); 0 switches it off.
    pub body_min_rate: u64,
    /// Least bytes a second that a client takes of a response, averaged over `body_idle` of waiting for it; on HTTP/1 the
    /// connection is closed below, on HTTP/2 it is while more than `http2.send_buffer` waits. Tunnels are left alone.
    /// Default 240; 0 switches it off.
    pub response_min_rate: u64,
    /// From the request's end to the response's header section. Default 60 s; then 504. A route's own timeout replaces it.
    pub response_headers: Duration,
    /// Longest time without a byte in either direction of a stream or tunnel; for a piece of a response to be taken by the
    /// client likewise. Default 300 s.
    pub stream_idle: Duration,
    /// Longest time without a datagram in either direction of a UDP session. Default 60 s, as Envoy has it.
    pub udp_idle: Duration,
    /// Longest life of a WebSocket or another tunnel. Default: none.
    pub tunnel_max: Option<Duration>,
    /// Longest life of a connection, after which it is closed gracefully. Default: 1 h.
    pub connection_max: Option<Duration>,
    /// How long a connection may wait for its next request. Default 75 s.
    pub keep_alive: Duration,
    /// How long draining connections may go on after their listener has gone, or at shutdown. Default 30 s.
    pub drain: Duration,
    /// Longest time for an endpoint to accept a connection (TLS included). Default 5 s. A TrafficPolicy may replace it.
    pub connect: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            handshake: Duration::from_secs(10),
            request_headers: Duration::from_secs(10),
            body_idle: Duration::from_secs(60),
            body_min_rate: 240,
            response_min_rate: 240,
            response_headers: Duration::from_secs(60),
            stream_idle: Duration::from_secs(300),
            udp_idle: Duration::from_secs(60),
            tunnel_max: None,
            connection_max: Some(Duration::from_secs(3600)),
            keep_alive: Duration::from_secs(75),
            drain: Duration::from_secs(30),
            connect: Duration::from_secs(5),
        }
    }
}

/// HTTP/2 towards clients (RFC 9113). What is counted is seen in the stream's frame headers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Http2 {
    /// SETTINGS_MAX_CONCURRENT_STREAMS. Default 100.
    pub max_concurrent_streams: u32,
    /// Bytes of a stream's receive window. Default 64 KiB.
    pub stream_window: u32,
    /// Bytes of the connection's receive window. Default 1 MiB.
    pub connection_window: u32,
    /// RST_STREAM frames from the client a connection in 10 s, as a rate that refills. Default 200; above:
    /// GOAWAY with ENHANCE_YOUR_CALM.
    pub resets: u32,
    /// PING, SETTINGS, PRIORITY, empty DATA and frames of unknown type, likewise. Default 1,000.
    pub control_frames: u32,
    /// (The time for a header block is `timeouts.request_headers`.)
    /// CONTINUATION frames of one block. Default 16.
    pub continuations: u32,
    /// Bytes that may wait behind shut windows of one connection. Default 1 MiB; above for 5 s in which the client takes
    /// less than `timeouts.response_min_rate`, it is closed.
    pub send_buffer: u32,
}

impl Default for Http2 {
    fn default() -> Self {
        Http2 {
            max_concurrent_streams: 100,
            stream_window: 64 * KIB as u32,
            connection_window: MIB as u32,
            resets: 200,
            control_frames: 1_000,
            continuations: 16,
            send_buffer: MIB as u32,
        }
    }
}

/// The one normal form of a path, used by routing, policy, plugins and upstream alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PathPolicy {
    pub escaped_slashes: EscapedSlashes,
    /// Leave `//` as it is. Default: off, `//` becomes `/`.
    pub keep_double_slashes: bool,
}

/// What `%2F` and `%5C` mean in a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum EscapedSlashes {
    /// Data of a segment; passed on encoded.
    #[default]
    Keep,
    /// 400.
    Reject,
    /// 307 to the path with slashes (gRPC: rejected), so that nobody sees two forms.
    DecodeAndRedirect,
}

/// Field names with an underscore, which some backends cannot tell from a hyphen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum UnderscorePolicy {
    #[default]
    Drop,
    Reject,
    Keep,
}

/// Names under this prefix are the gateway's own: taken out of what comes from outside.
const OWN_PREFIX: &str = "x-sluice-";

/// What becomes of a request's field at the entrance, by its name alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldFate {
    Kept,
    Dropped,
    /// 400 for the whole request.
    Refused,
}

impl UnderscorePolicy {
    /// `name` is in lower case.
    pub fn fate_of(self, name: &str) -> FieldFate {
        match self {
            _ if name.starts_with(OWN_PREFIX) => FieldFate::Dropped,
            UnderscorePolicy::Keep => FieldFate::Kept,
            _ if !name.as_bytes().contains(&b'_') => FieldFate::Kept,
            UnderscorePolicy::Drop => FieldFate::Dropped,
            UnderscorePolicy::Reject => FieldFate::Refused,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub enum ServerHeader {
    /// The backend's stays; answers of the gateway say `sluice`.
    #[default]
    PassThrough,
    Remove,
    Replace(Arc<str>),
}

/// What is believed of, and told about, the way a request came.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forwarding {
    /// Peers whose X-Forwarded-*, Forwarded, X-Request-ID and traceparent are believed and appended to; those of others
    /// are replaced. Default: none.
    #[serde(serialize_with = "display_all")]
    pub trusted_proxies: Vec<IpNet>,
    /// Also write `Forwarded` (RFC 7239). Default: off.
    pub forwarded: bool,
    /// Append `1.1 sluice` to Via on requests, and refuse loops (RFC 9110, 7.6.3). Default: on.
    pub via: bool,
    /// Make an X-Request-ID where no trusted peer gave one. Default: on.
    pub request_id: bool,
}

impl Default for Forwarding {
    fn default() -> Self {
        Forwarding { trusted_proxies: Vec::new(), forwarded: false, via: true, request_id: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nothing_is_said_the_edge_is_safe_by_these_figures() {
        let seconds = Duration::from_secs;
        let safe = Edge {
            limits: Limits {
                connections: 10_000,
                udp_sessions: 10_000,
                header_bytes: 65_536,
                header_count: 100,
                request_target: 8_192,
                method: 32,
                body: None,
                requests_per_connection: 10_000,
                drain_bytes: 65_536,
            },
            timeouts: Timeouts {
                handshake: seconds(10),
                request_headers: seconds(10),
                body_idle: seconds(60),
                body_min_rate: 240,
                response_min_rate: 240,
                response_headers: seconds(60),
                stream_idle: seconds(300),
                udp_idle: seconds(60),
                tunnel_max: None,
                connection_max: Some(seconds(3_600)),
                keep_alive: seconds(75),
                drain: seconds(30),
                connect: seconds(5),
            },
            http2: Http2 {
                max_concurrent_streams: 100,
                stream_window: 65_536,
                connection_window: 1_048_576,
                resets: 200,
                control_frames: 1_000,
                continuations: 16,
                send_buffer: 1_048_576,
            },
            path: PathPolicy { escaped_slashes: EscapedSlashes::Keep, keep_double_slashes: false },
            underscores: UnderscorePolicy::Drop,
            server_header: ServerHeader::PassThrough,
            forwarding: Forwarding { trusted_proxies: Vec::new(), forwarded: false, via: true, request_id: true },
            proxy_protocol: false,
        };
        assert_eq!(Edge::default(), safe);
    }
}
