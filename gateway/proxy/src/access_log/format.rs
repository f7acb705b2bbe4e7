//! What a line holds, and its form.

use sluice_model::Reason;
use sluice_model::config::AccessLog;
pub use sluice_model::config::AccessLogField as Field;
use std::cell::RefCell;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Room for an ordinary line.
const LINE: usize = 768;

/// What is known of a request at its end. `None`, and empty text: left out of the line.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    pub time: SystemTime,
    pub request_id: &'a [u8],
    pub trace_id: &'a str,
    pub client: IpAddr,
    pub method: &'a str,
    pub scheme: &'static str,
    pub authority: &'a [u8],
    /// With the query, as the client sent it.
    pub path: &'a [u8],
    pub protocol: &'static str,
    pub listener: &'a str,
    pub route: &'a str,
    pub rule: &'a str,
    pub backend: &'a str,
    pub endpoint: Option<SocketAddr>,
    /// 0 where no answer was begun.
    pub status: u16,
    pub reason: Reason,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub duration: Duration,
    pub ttfb: Option<Duration>,
    pub upstream_connect: Option<Duration>,
    pub upstream: Option<Duration>,
    pub plugins: Option<Duration>,
    pub retries: u32,
    pub tls_version: &'a str,
    pub sni: &'a str,
    pub user_agent: &'a [u8],
    /// A JSON object that plugins' attributes were written to.
    pub attributes: &'a [u8],
}

impl<'a> Record<'a> {
    /// Of a connection or a session whose bytes were passed on as they are: nothing of it is a request.
    pub(crate) fn of_bytes(protocol: &'static str, client: IpAddr, reason: Reason, duration: Duration) -> Record<'a> {
        Record {
            time: SystemTime::now(),
            request_id: b"",
            trace_id: "",
            client,
            method: "",
            scheme: "",
            authority: b"",
            path: b"",
            protocol,
            listener: "",
            route: "",
            rule: "",
            backend: "",
            endpoint: None,
            status: 0,
            reason,
            bytes_in: 0,
            bytes_out: 0,
            duration,
            ttfb: None,
            upstream_connect: None,
            upstream: None,
            plugins: None,
            retries: 0,
            tls_version: "",
            sni: "",
            user_agent: b"",
            attributes: b"",
        }
    }
}

/// [`AccessLog`], made ready for requests.
#[derive(Clone, Debug, PartialEq)]
pub struct LogFormat {
    enabled: bool,
    fields: Box<[Field]>,
    sample: f64,
}

impl LogFormat {
    pub fn new(config: &AccessLog) -> Self {
        let fields = match config.fields.as_slice() {
            [] => Field::ALL.into(),
            fields => fields.into(),
        };
        LogFormat { enabled: config.enabled, fields, sample: config.sample }
    }

    /// Whether a request with this status is written down. Server errors always are.
    pub fn wants(&self, status: u16) -> bool {
        self.enabled && (self.sample >= 1.0 || status >= 500 || fastrand::f64() < self.sample)
    }

    /// The line, with its end.
    pub fn line(&self, record: &Record<'_>) -> Vec<u8> {
        let mut line = Line(Vec::with_capacity(LINE));
        line.0.push(b'{');
        for field in &self.fields {
            line.field(*field, record);
        }
        if line.0.last() == Some(&b',') {
            line.0.pop();
        }
        line.0.extend_from_slice(b"}\n");
        line.0
    }
}

struct Line(Vec<u8>);

impl Line {
    fn field(&mut self, field: Field, r: &Record<'_>) {
        match field {
            Field::Ts => {
                self.key(field);
                self.0.push(b'"');
                timestamp(&mut self.0, r.time);
                self.0.extend_from_slice(b"\",");
            }
            Field::RequestId => self.text(field, r.request_id),
            Field::TraceId => self.text(field, r.trace_id.as_bytes()),
            Field::ClientIp => {
                self.key(field);
                self.0.push(b'"');
                address(&mut self.0, r.client);
                self.0.extend_from_slice(b"\",");
            }
            Field::Method => self.text(field, r.method.as_bytes()),
            Field::Scheme => self.text(field, r.scheme.as_bytes()),
            Field::Authority => self.text(field, r.authority),
            Field::Path => self.text(field, r.path),
            Field::Protocol => self.text(field, r.protocol.as_bytes()),
            Field::Listener => self.text(field, r.listener.as_bytes()),
            Field::Route => self.text(field, r.route.as_bytes()),
            Field::Rule => self.text(field, r.rule.as_bytes()),
            Field::Backend => self.text(field, r.backend.as_bytes()),
            Field::Endpoint => {
                if let Some(endpoint) = r.endpoint {
                    self.key(field);
                    self.0.push(b'"');
                    socket_address(&mut self.0, endpoint);
                    self.0.extend_from_slice(b"\",");
                }
            }
            Field::Status => self.number(field, r.status.into()),
            Field::Reason => self.text(field, r.reason.as_str().as_bytes()),
            Field::BytesIn => self.number(field, r.bytes_in),
            Field::BytesOut => self.number(field, r.bytes_out),
            Field::DurationMs => self.millis(field, Some(r.duration)),
            Field::TtfbMs => self.millis(field, r.ttfb),
            Field::UpstreamConnectMs => self.millis(field, r.upstream_connect),
            Field::UpstreamMs => self.millis(field, r.upstream),
            Field::PluginMs => self.millis(field, r.plugins),
            Field::Retries => self.number(field, r.retries.into()),
            Field::TlsVersion => self.text(field, r.tls_version.as_bytes()),
            Field::Sni => self.text(field, r.sni.as_bytes()),
            Field::UserAgent => self.text(field, r.user_agent),
            Field::Attributes => {
                if !r.attributes.is_empty() {
                    self.key(field);
                    self.0.extend_from_slice(r.attributes);
                    self.0.push(b',');
                }
            }
        }
    }

    fn key(&mut self, field: Field) {
        self.0.extend_from_slice(field.key().as_bytes());
    }

    fn text(&mut self, field: Field, text: &[u8]) {
        if text.is_empty() {
            return;
        }
        self.key(field);
        string(&mut self.0, text);
        self.0.push(b',');
    }

    fn number(&mut self, field: Field, number: u64) {
        self.key(field);
        decimal(&mut self.0, number);
        self.0.push(b',');
    }

    /// Milliseconds with three decimals.
    fn millis(&mut self, field: Field, duration: Option<Duration>) {
        let Some(duration) = duration else { return };
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.key(field);
        decimal(&mut self.0, micros / 1000);
        self.0.push(b'.');
        padded(&mut self.0, micros % 1000);
        self.0.push(b',');
    }
}

fn address(to: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => {
            for (n, octet) in v4.octets().into_iter().enumerate() {
                if n > 0 {
                    to.push(b'.');
                }
                decimal(to, octet.into());
            }
        }
        // Writing to a vector does not fail.
        IpAddr::V6(v6) => drop(write!(to, "{v6}")),
    }
}

fn socket_address(to: &mut Vec<u8>, socket: SocketAddr) {
    match socket {
        SocketAddr::V4(v4) => {
            address(to, IpAddr::V4(*v4.ip()));
            to.push(b':');
            decimal(to, v4.port().into());
        }
        SocketAddr::V6(v6) => drop(write!(to, "{v6}")),
    }
}

fn decimal(to: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    to.extend_from_slice(&digits[at..]);
}

/// Three digits.
fn padded(to: &mut Vec<u8>, number: u64) {
    for divisor in [100, 10, 1] {
        to.push(b'0' + (number / divisor % 10) as u8);
    }
}

/// A JSON string (RFC 8259, section 7). Bytes that are no UTF-8 are replaced.
pub(crate) fn string(to: &mut Vec<u8>, text: &[u8]) {
    to.push(b'"');
    let plain = |b: &u8| matches!(b, 0x20..=0x7e) && *b != b'"' && *b != b'\\';
    // Without a way out in the middle the compiler looks at many bytes at a time.
    if text.iter().fold(true, |all, b| all & plain(b)) {
        to.extend_from_slice(text);
    } else {
        for character in String::from_utf8_lossy(text).chars() {
            escaped(to, character);
        }
    }
    to.push(b'"');
}

fn escaped(to: &mut Vec<u8>, character: char) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match character {
        '"' | '\\' => to.extend_from_slice(&[b'\\', character as u8]),
        '\0'..='\x1f' | '\x7f' => {
            let code = character as usize;
            to.extend_from_slice(b"\\u00");
            to.extend_from_slice(&[HEX[code >> 4], HEX[code & 15]]);
        }
        _ => {
            let mut utf8 = [0; 4];
            to.extend_from_slice(character.encode_utf8(&mut utf8).as_bytes());
        }
    }
}

/// `2026-01-31T23:59:59`, and the second that it is.
type Second = (u64, [u8; 19]);

/// RFC 3339 in UTC with milliseconds. The calendar is asked once a second.
fn timestamp(to: &mut Vec<u8>, time: SystemTime) {
    thread_local! {
        static SECOND: RefCell<Second> = const { RefCell::new((u64::MAX, [0; 19])) };
    }
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    SECOND.with_borrow_mut(|(second, text)| {
        if *second != since.as_secs() {
            *text = calendar(since.as_secs());
            *second = since.as_secs();
        }
        to.extend_from_slice(text);
    });
    to.push(b'.');
    padded(to, since.subsec_millis().into());
    to.push(b'Z');
}

fn calendar(second: u64) -> [u8; 19] {
    let mut text = *b"1970-01-01T00:00:00";
    let time = i64::try_from(second).ok().and_then(|second| jiff::Timestamp::from_second(second).ok());
    if let Some(time) = time {
        let shown = time.to_string();
        if let Some(prefix) = shown.as_bytes().first_chunk::<19>() {
            text = *prefix;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record<'static> {
        Record {
            time: UNIX_EPOCH + Duration::from_millis(1_767_225_599_007),
            request_id: b"0f7e-1",
            trace_id: "",
            client: "192.0.2.1".parse().unwrap(),
            method: "GET",
            scheme: "https",
            authority: b"shop.example",
            path: b"/a?b=\"c\"",
            protocol: "HTTP/2",
            listener: "shop/gw/https",
            route: "HTTPRoute shop/web",
            rule: "0",
            backend: "shop/web:80",
            endpoint: Some("10.0.0.7:8080".parse().unwrap()),
            status: 200,
            reason: Reason::Upstream,
            bytes_in: 0,
            bytes_out: 18_446_744_073_709_551_615,
            duration: Duration::from_micros(12_034),
            ttfb: Some(Duration::from_micros(9)),
            upstream_connect: None,
            upstream: Some(Duration::from_millis(8)),
            plugins: None,
            retries: 1,
            tls_version: "TLSv1_3",
            sni: "shop.example",
            user_agent: b"curl/8\n\xff",
            attributes: b"{\"key-auth.consumer\":\"anna\"}",
        }
    }

    fn parsed(config: &AccessLog) -> serde_json::Value {
        let line = LogFormat::new(config).line(&record());
        assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1, "one line");
        serde_json::from_slice(&line).unwrap()
    }

    #[test]
    fn a_line_is_json_and_leaves_out_what_is_not_known() {
        let line = parsed(&AccessLog::default());
        assert_eq!(line["ts"], "2025-12-31T23:59:59.007Z");
        assert_eq!(line["path"], "/a?b=\"c\"");
        assert_eq!(line["client_ip"], "192.0.2.1");
        assert_eq!(line["endpoint"], "10.0.0.7:8080");
        assert_eq!(line["reason"], "upstream");
        assert_eq!(line["bytes_out"], u64::MAX);
        assert_eq!(line["duration_ms"], 12.034);
        assert_eq!(line["ttfb_ms"], 0.009);
        assert_eq!(line["retries"], 1);
        assert_eq!(line["user_agent"], "curl/8\n\u{fffd}");
        assert_eq!(line["attributes"]["key-auth.consumer"], "anna");
        for absent in ["trace_id", "upstream_connect_ms", "plugin_ms"] {
            assert!(line.get(absent).is_none(), "{absent}");
        }
    }

    #[test]
    fn fields_stand_in_the_order_that_was_asked_for() {
        let fields = vec![Field::Status, Field::Method];
        let format = LogFormat::new(&AccessLog { fields, ..AccessLog::default() });
        assert_eq!(format.line(&record()), b"{\"status\":200,\"method\":\"GET\"}\n");
    }

    #[test]
    fn sampling_never_loses_a_server_error() {
        let format = LogFormat::new(&AccessLog { sample: 0.0, ..AccessLog::default() });
        assert!(!format.wants(200));
        assert!(format.wants(503));
        let off = LogFormat::new(&AccessLog { enabled: false, ..AccessLog::default() });
        assert!(!off.wants(503));
    }
}
