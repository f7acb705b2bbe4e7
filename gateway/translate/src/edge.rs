//! GatewayConfig becomes the edge settings of listeners. Each object's values are checked once, by [`check`]; what
//! [`edge`] then can't read in merged settings has been told already and keeps its default.

use crate::report::Report;
use crate::values::{bytes, duration_of, networks, number, positive_duration};
use sluice_model::config::{
    AccessLog, AccessLogField, Edge, EscapedSlashes, Forwarding, Http2, Limits, PathPolicy, ServerHeader, Timeouts,
    TlsVersion, UnderscorePolicy,
};
use sluice_model::{Code, Hostname};
use sluice_resources::{
    AccessLogConfig, EscapedSlashesName, GatewayConfigSpec, Http2Config, LimitsConfig, ListenerConfig,
    ListenerTlsConfig, ServerHeaderMode, TimeoutsConfig, TlsVersionName, Underscores,
};
use std::net::IpAddr;
use std::sync::Arc;

/// TLS settings of a listener that are no certificates.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TlsSettings {
    pub(crate) min_version: TlsVersion,
    pub(crate) cipher_suites: Vec<Arc<str>>,
    pub(crate) http2: bool,
    pub(crate) resumption: bool,
}

/// Every problem of one GatewayConfig's values.
pub(crate) fn check(spec: &GatewayConfigSpec, report: &mut Report<'_>) {
    addresses(spec.addresses.as_deref().unwrap_or_default(), "spec.addresses", report);
    let entries = spec.listeners.as_deref().unwrap_or_default();
    for (i, entry) in entries.iter().enumerate() {
        let field = format!("spec.listeners[{i}]");
        if entries.iter().take(i).any(|earlier| earlier.name == entry.name) {
            let message = format!("there are two entries for `{}`; the first one is used", entry.name);
            report.error(Code::InvalidCombination, format!("{field}.name"), message);
        }
        edge(entry, &field, report);
        tls(entry.tls.as_ref(), &format!("{field}.tls"), report);
    }
    access_log(spec.access_log.as_ref(), report);
    if let Some(tracing) = &spec.tracing {
        crate::tracing::tracing(tracing, report);
    }
    external_names(spec, report);
}

/// IP addresses to bind.
pub(crate) fn addresses(texts: &[String], field: &str, report: &mut Report<'_>) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for (i, text) in texts.iter().enumerate() {
        match text.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => {
                report.error(Code::InvalidAddress, format!("{field}[{i}]"), format!("`{text}` is not an IP address"));
            }
        }
    }
    addresses
}

/// The settings of one listener over the built-in defaults.
pub(crate) fn edge(settings: &ListenerConfig, field: &str, report: &mut Report<'_>) -> Edge {
    let none = Edge::default();
    Edge {
        limits: limits(settings.limits.as_ref(), &format!("{field}.limits"), report),
        timeouts: timeouts(settings.timeouts.as_ref(), &format!("{field}.timeouts"), report),
        http2: http2(settings.http2.as_ref(), &format!("{field}.http2"), report),
        path: PathPolicy {
            escaped_slashes: settings
                .path
                .as_ref()
                .and_then(|path| path.escaped_slashes)
                .map_or(none.path.escaped_slashes, escaped_slashes),
            keep_double_slashes: settings.path.as_ref().and_then(|path| path.merge_slashes) == Some(false),
        },
        underscores: match settings.underscores {
            None => none.underscores,
            Some(Underscores::Drop) => UnderscorePolicy::Drop,
            Some(Underscores::Reject) => UnderscorePolicy::Reject,
            Some(Underscores::Keep) => UnderscorePolicy::Keep,
        },
        server_header: server_header(settings, field, report),
        forwarding: Forwarding {
            trusted_proxies: networks(
                settings.trusted_proxies.as_deref().unwrap_or_default(),
                &format!("{field}.trustedProxies"),
                report,
            ),
            forwarded: settings.forwarded.unwrap_or(none.forwarding.forwarded),
            via: settings.via.unwrap_or(none.forwarding.via),
            request_id: settings.request_id.unwrap_or(none.forwarding.request_id),
        },
        proxy_protocol: settings.proxy_protocol.unwrap_or(none.proxy_protocol),
    }
}

pub(crate) fn escaped_slashes(name: EscapedSlashesName) -> EscapedSlashes {
    match name {
        EscapedSlashesName::Keep => EscapedSlashes::Keep,
        EscapedSlashesName::Reject => EscapedSlashes::Reject,
        EscapedSlashesName::DecodeAndRedirect => EscapedSlashes::DecodeAndRedirect,
    }
}

fn server_header(settings: &ListenerConfig, field: &str, report: &mut Report<'_>) -> ServerHeader {
    let Some(header) = &settings.server_header else { return ServerHeader::default() };
    let field = format!("{field}.serverHeader.value");
    match (header.mode, &header.value) {
        (ServerHeaderMode::PassThrough, None) => ServerHeader::PassThrough,
        (ServerHeaderMode::Remove, None) => ServerHeader::Remove,
        (ServerHeaderMode::Replace, Some(value)) => match crate::values::header_value(value, &field, report) {
            Some(_) => ServerHeader::Replace(value.as_str().into()),
            None => ServerHeader::default(),
        },
        (ServerHeaderMode::Replace, None) => {
            report.error(Code::InvalidCombination, field, "mode Replace needs a value");
            ServerHeader::default()
        }
        (_, Some(_)) => {
            report.error(Code::InvalidCombination, field, "value belongs to mode Replace");
            ServerHeader::default()
        }
    }
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

fn limits(settings: Option<&LimitsConfig>, field: &str, report: &mut Report<'_>) -> Limits {
    let none = Limits::default();
    let Some(s) = settings else { return none };
    let at = |name: &str| format!("{field}.{name}");
    Limits {
        connections: number(s.connections, 1..=10_000_000, &at("connections"), report).unwrap_or(none.connections),
        udp_sessions: number(s.udp_sessions, 1..=1_000_000, &at("udpSessions"), report).unwrap_or(none.udp_sessions),
        header_bytes: bytes(s.header_bytes.as_ref(), KIB..=MIB, &at("headerBytes"), report)
            .unwrap_or(none.header_bytes),
        header_count: number(s.header_count, 1..=256, &at("headerCount"), report).unwrap_or(none.header_count),
        request_target: bytes(s.request_target.as_ref(), 64..=MIB, &at("requestTarget"), report)
            .unwrap_or(none.request_target),
        method: number(s.method, 3..=256, &at("method"), report).unwrap_or(none.method),
        body: bytes(s.body.as_ref(), 0..=u64::MAX, &at("body"), report),
        requests_per_connection: number(s.requests_per_connection, 1..=u32::MAX, &at("requestsPerConnection"), report)
            .unwrap_or(none.requests_per_connection),
        drain_bytes: bytes(s.drain_bytes.as_ref(), 0..=GIB, &at("drainBytes"), report).unwrap_or(none.drain_bytes),
    }
}

fn timeouts(settings: Option<&TimeoutsConfig>, field: &str, report: &mut Report<'_>) -> Timeouts {
    let none = Timeouts::default();
    let Some(s) = settings else { return none };
    let at = |name: &str| format!("{field}.{name}");
    macro_rules! positive {
        ($field:ident, $name:literal) => {
            positive_duration(s.$field.as_ref(), &at($name), report).unwrap_or(none.$field)
        };
    }
    Timeouts {
        handshake: positive!(handshake, "handshake"),
        request_headers: positive!(request_headers, "requestHeaders"),
        body_idle: positive!(body_idle, "bodyIdle"),
        body_min_rate: bytes(s.body_min_rate.as_ref(), 0..=GIB, &at("bodyMinRate"), report)
            .unwrap_or(none.body_min_rate),
        response_min_rate: bytes(s.response_min_rate.as_ref(), 0..=GIB, &at("responseMinRate"), report)
            .unwrap_or(none.response_min_rate),
        response_headers: positive!(response_headers, "responseHeaders"),
        stream_idle: positive!(stream_idle, "streamIdle"),
        udp_idle: positive!(udp_idle, "udpIdle"),
        tunnel_max: duration_of(s.tunnel_max.as_ref(), &at("tunnelMax"), report).filter(|d| !d.is_zero()),
        connection_max: match duration_of(s.connection_max.as_ref(), &at("connectionMax"), report) {
            Some(duration) => (!duration.is_zero()).then_some(duration),
            None => none.connection_max,
        },
        keep_alive: positive!(keep_alive, "keepAlive"),
        drain: positive!(drain, "drain"),
        connect: positive!(connect, "connect"),
    }
}

/// Largest window of RFC 9113, 6.9.1.
const MAX_WINDOW: u64 = (1 << 31) - 1;

fn http2(settings: Option<&Http2Config>, field: &str, report: &mut Report<'_>) -> Http2 {
    let none = Http2::default();
    let Some(s) = settings else { return none };
    let at = |name: &str| format!("{field}.{name}");
    let small = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
    Http2 {
        max_concurrent_streams: number(s.max_concurrent_streams, 1..=10_000, &at("maxConcurrentStreams"), report)
            .unwrap_or(none.max_concurrent_streams),
        stream_window: bytes(s.stream_window.as_ref(), 16 * KIB..=MAX_WINDOW, &at("streamWindow"), report)
            .map_or(none.stream_window, small),
        connection_window: bytes(s.connection_window.as_ref(), 64 * KIB..=MAX_WINDOW, &at("connectionWindow"), report)
            .map_or(none.connection_window, small),
        resets: number(s.resets, 1..=u32::MAX, &at("resets"), report).unwrap_or(none.resets),
        control_frames: number(s.control_frames, 1..=u32::MAX, &at("controlFrames"), report)
            .unwrap_or(none.control_frames),
        continuations: number(s.continuations, 1..=10_000, &at("continuations"), report).unwrap_or(none.continuations),
        send_buffer: bytes(s.send_buffer.as_ref(), 16 * KIB..=MAX_WINDOW, &at("sendBuffer"), report)
            .map_or(none.send_buffer, small),
    }
}

pub(crate) fn tls(settings: Option<&ListenerTlsConfig>, field: &str, report: &mut Report<'_>) -> TlsSettings {
    let mut cipher_suites = Vec::new();
    for (i, name) in settings.and_then(|s| s.ciphers.as_deref()).unwrap_or_default().iter().enumerate() {
        let known = rustls::crypto::ring::ALL_CIPHER_SUITES.iter().any(|suite| iana_name(suite.suite()) == *name);
        if known {
            cipher_suites.push(Arc::from(name.as_str()));
        } else {
            report.error(
                Code::UnsupportedValue,
                format!("{field}.ciphers[{i}]"),
                format!("`{name}` is not a cipher suite that is offered here"),
            );
        }
    }
    TlsSettings {
        min_version: match settings.and_then(|s| s.min_version) {
            None | Some(TlsVersionName::V1_2) => TlsVersion::V1_2,
            Some(TlsVersionName::V1_3) => TlsVersion::V1_3,
        },
        cipher_suites,
        http2: settings.and_then(|s| s.http2).unwrap_or(true),
        resumption: settings.and_then(|s| s.tickets).unwrap_or(true),
    }
}

/// The registered name: rustls marks those of TLS 1.3 with their version.
fn iana_name(suite: rustls::CipherSuite) -> String {
    format!("{suite:?}").replace("TLS13_", "TLS_")
}

pub(crate) fn access_log(settings: Option<&AccessLogConfig>, report: &mut Report<'_>) -> AccessLog {
    let none = AccessLog::default();
    let Some(s) = settings else { return none };
    let mut fields = Vec::new();
    for (i, name) in s.fields.iter().flatten().enumerate() {
        match AccessLogField::ALL.iter().find(|field| field.name() == name) {
            Some(field) => fields.push(*field),
            None => {
                let known: Vec<_> = AccessLogField::ALL.iter().map(|field| field.name()).collect();
                let message = format!("`{name}` is not a field of the access log: {}", known.join(", "));
                report.error(Code::UnsupportedValue, format!("spec.accessLog.fields[{i}]"), message);
            }
        }
    }
    AccessLog {
        enabled: s.enabled.unwrap_or(none.enabled),
        fields,
        sample: number(s.sample, 0.0..=1.0, "spec.accessLog.sample", report).unwrap_or(none.sample),
    }
}

/// Suffixes that names of Services of type ExternalName may have.
pub(crate) fn external_names(spec: &GatewayConfigSpec, report: &mut Report<'_>) -> Vec<Hostname> {
    let mut allowed = Vec::new();
    let texts = spec.external_names.as_ref().and_then(|names| names.allow.as_deref()).unwrap_or_default();
    for (i, text) in texts.iter().enumerate() {
        let bare = text.strip_prefix("*.").or(text.strip_prefix('.')).unwrap_or(text);
        match Hostname::parse(bare) {
            Ok(suffix) => allowed.push(suffix),
            Err(error) => {
                report.error(Code::InvalidHostname, format!("spec.externalNames.allow[{i}]"), error.to_string());
            }
        }
    }
    allowed
}
