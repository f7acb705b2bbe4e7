//! The gate of HTTP/1: a request's header section is read strictly once, before the engine sees it.
//!
//! The engine repairs, or lets pass, what an edge must refuse: bare line feeds, raw bytes in the request target,
//! Transfer-Encoding next to Content-Length, a missing Host. Here it is refused with the status that says why (RFC 9112,
//! RFC 9110), and a request's framing is settled for the stream, which hands the engine its bytes and no others.

use super::port::HeaderLimits;
use bytes::BytesMut;
use httparse::{Error, Header, Status};
use sluice_model::Reason;
use std::mem::MaybeUninit;

/// Fields that are parsed at most; the engine's own bound, above any limit that makes sense.
const MAX_FIELDS: usize = 256;

/// The start of a request target that is kept for the log of a refusal.
const LOGGED_TARGET: usize = 8 * 1024;

const UPGRADE: &str = "upgrade";

/// How a request's body is delimited (RFC 9112, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyLength {
    None,
    Length(u64),
    Chunked,
}

/// A header section that may pass.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Its bytes, up to and with the empty line.
    pub(super) len: usize,
    pub(super) body: BodyLength,
    /// The client waits for a 100 before it sends its body.
    pub(super) expects_continue: bool,
    /// It asks for an upgrade to WebSocket, in the one form that is offered: GET, HTTP/1.1, no body (RFC 6455, section
    /// 4.1), and Upgrade nominated by Connection.
    pub(super) websocket: bool,
    /// It has a field Upgrade that is to be ignored (RFC 9110, section 7.8).
    pub(super) other_upgrade: bool,
    /// Where the value of Host stands.
    pub(super) host: Option<(usize, usize)>,
    pub(super) measure: Measure,
}

/// What limits are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Measure {
    bytes: u64,
    count: u32,
    target: u64,
    method: u32,
}

/// Why a request is refused, and which limit did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) reason: Reason,
    pub(super) limit: Option<&'static str>,
}

impl From<Reason> for Refused {
    fn from(reason: Reason) -> Self {
        Refused { reason, limit: None }
    }
}

impl Refused {
    const fn limit(reason: Reason, limit: &'static str) -> Self {
        Refused { reason, limit: Some(limit) }
    }
}

impl Measure {
    /// Compares with the limits of the listener that the request is for.
    pub(super) fn check(self, limits: &HeaderLimits) -> Result<(), Refused> {
        if self.method > limits.method {
            return Err(Refused::limit(Reason::MethodNotImplemented, "method"));
        }
        if self.target > limits.target {
            return Err(Refused::limit(Reason::UriTooLong, "request_target"));
        }
        if self.count > limits.count {
            return Err(Refused::limit(Reason::HeadersTooLarge, "header_count"));
        }
        if self.bytes > limits.bytes {
            return Err(Refused::limit(Reason::HeadersTooLarge, "header_bytes"));
        }
        Ok(())
    }
}

/// Reads the header section at the start of `bytes`. `Ok(None)`: it is not complete yet, and nothing in it so far is
/// wrong.
pub(super) fn parse(bytes: &[u8], limits: &HeaderLimits) -> Result<Option<Head>, Refused> {
    // The parser skips empty lines in front (RFC 9112, section 2.2), and would take bare line feeds for some.
    if bytes.iter().find(|b| **b != b'\r').is_some_and(|b| *b == b'\n') && !bytes.starts_with(b"\r\n") {
        return Err(Reason::BadRequest.into());
    }
    let mut fields = [const { MaybeUninit::<Header<'_>>::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let len = match request.parse_with_uninit_headers(bytes, &mut fields) {
        Ok(Status::Complete(len)) => len,
        Ok(Status::Partial) => return partial(bytes, limits).map(|()| None),
        Err(error) => return Err(explain(error, bytes, limits)),
    };
    let method = request.method.unwrap_or_default();
    let target = request.path.unwrap_or_default().as_bytes();
    let minor = request.version.unwrap_or(1);
    line_ends(bytes, len, request.headers)?;

    let mut found = Fields::default();
    let mut section = 0_u64;
    for field in request.headers.iter() {
        section += field.name.len() as u64 + field.value.len() as u64 + 4;
        found.note(field)?;
    }
    let measure = Measure {
        bytes: section,
        count: u32::try_from(request.headers.len()).unwrap_or(u32::MAX),
        target: target.len() as u64,
        method: u32::try_from(method.len()).unwrap_or(u32::MAX),
    };
    measure.check(limits)?;
    check_target(method, target)?;
    let host = found.host(minor)?;
    let body = found.body(minor)?;
    let websocket = found.websocket && found.connection_upgrade && method == "GET" && minor == 1;
    let websocket = websocket && body == BodyLength::None && found.upgrades == 1;
    Ok(Some(Head {
        len,
        body,
        expects_continue: found.expects_continue,
        websocket,
        other_upgrade: found.upgrades > 0 && !websocket,
        host: host.map(|value| {
            let start = value.as_ptr() as usize - bytes.as_ptr() as usize;
            (start, start + value.len())
        }),
        measure,
    }))
}

/// The fields that decide about framing and place.
#[derive(Default)]
struct Fields<'b> {
    host: Option<&'b [u8]>,
    content_length: Option<u64>,
    transfer_encoding: Option<&'b [u8]>,
    expects_continue: bool,
    upgrades: u32,
    websocket: bool,
    connection_upgrade: bool,
}

impl<'b> Fields<'b> {
    fn note(&mut self, field: &Header<'b>) -> Result<(), Refused> {
        // By length first: most fields are none of these, and need no comparison of text.
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        match field.name.len() {
            4 if is("host") => once(&mut self.host, field.value, Reason::InvalidHost)?,
            14 if is("content-length") => {
                let length = content_length(field.value).ok_or(Reason::BadRequest)?;
                if self.content_length.replace(length).is_some_and(|former| former != length) {
                    return Err(Reason::AmbiguousFraming.into());
                }
            }
            17 if is("transfer-encoding") => {
                once(&mut self.transfer_encoding, field.value, Reason::AmbiguousFraming)?;
            }
            6 if is("expect") => self.expects_continue |= field.value.eq_ignore_ascii_case(b"100-continue"),
            7 if is(UPGRADE) => {
                self.upgrades += 1;
                self.websocket = field.value.eq_ignore_ascii_case(b"websocket");
            }
            10 if is("connection") => {
                let mut tokens = field.value.split(|b| *b == b',').map(<[u8]>::trim_ascii);
                self.connection_upgrade |= tokens.any(|token| token.eq_ignore_ascii_case(b"upgrade"));
            }
            _ => {}
        }
        Ok(())
    }

    /// RFC 9112, section 3.2: exactly one on HTTP/1.1, at most one on 1.0, and a host in it.
    fn host(&self, minor: u8) -> Result<Option<&'b [u8]>, Refused> {
        match self.host {
            Some(value) if valid_host(value) => Ok(Some(value)),
            None if minor == 0 => Ok(None),
            _ => Err(Reason::InvalidHost.into()),
        }
    }

    /// RFC 9112, sections 6.1 to 6.3. A request with both fields, or with a coding that we would have to decode to
    /// find its end, is refused rather than interpreted.
    fn body(&self, minor: u8) -> Result<BodyLength, Refused> {
        match (self.transfer_encoding, self.content_length) {
            (Some(_), Some(_)) => Err(Reason::AmbiguousFraming.into()),
            (Some(coding), None) if minor == 1 && coding.eq_ignore_ascii_case(b"chunked") => Ok(BodyLength::Chunked),
            (Some(_), None) => Err(Reason::BadRequest.into()),
            (None, Some(0)) | (None, None) => Ok(BodyLength::None),
            (None, Some(length)) => Ok(BodyLength::Length(length)),
        }
    }
}

/// Notes a field that may stand once only.
fn once<'b>(place: &mut Option<&'b [u8]>, value: &'b [u8], twice: Reason) -> Result<(), Refused> {
    if place.replace(value).is_some() { Err(twice.into()) } else { Ok(()) }
}

/// Digits and nothing else: no sign, no list, no more than fits.
fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_u64, |sum, digit| {
        digit.is_ascii_digit().then_some(())?;
        sum.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
    })
}

/// `uri-host [ ":" port ]` (RFC 9110, section 7.2), of which only what could be taken for something else is refused:
/// an empty host, user information, a path, a list, blanks.
fn valid_host(value: &[u8]) -> bool {
    let (host, port) = match value {
        [b'[', rest @ ..] => match rest.iter().position(|b| *b == b']') {
            Some(end) => {
                let literal = rest.get(..end).unwrap_or_default();
                let inner = literal.iter().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.'));
                if literal.is_empty() || !inner {
                    return false;
                }
                (literal, rest.get(end + 1..).unwrap_or_default())
            }
            None => return false,
        },
        _ => {
            let end = value.iter().position(|b| *b == b':').unwrap_or(value.len());
            let (host, port) = value.split_at(end);
            if !host.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(b)) {
                return false;
            }
            (host, port)
        }
    };
    let port_ok = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    !host.is_empty() && port_ok
}

/// RFC 9112, section 3.2: origin-form, absolute-form, or `*` with OPTIONS; visible ASCII; no fragment.
fn check_target(method: &str, target: &[u8]) -> Result<(), Refused> {
    if !target.iter().all(|b| (0x21..=0x7e).contains(b) && *b != b'#') {
        return Err(Reason::InvalidTarget.into());
    }
    if method == "CONNECT" {
        return Err(Reason::MethodNotAllowed.into());
    }
    let scheme = |name: &[u8]| target.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    match target {
        [b'/', ..] => Ok(()),
        b"*" if method == "OPTIONS" => Ok(()),
        _ if scheme(b"http://") || scheme(b"https://") => Ok(()),
        _ => Err(Reason::InvalidTarget.into()),
    }
}

/// Every line of the section ends with CRLF: the parser takes a bare LF as well.
fn line_ends(bytes: &[u8], len: usize, fields: &[Header<'_>]) -> Result<(), Refused> {
    let base = bytes.as_ptr() as usize;
    let crlf_before = |at: usize| at >= 2 && bytes.get(at - 2..at) == Some(b"\r\n");
    let lines = fields.iter().all(|field| crlf_before(field.name.as_ptr() as usize - base));
    // The last field's line (or the request line), and the empty one.
    if lines && crlf_before(len) && crlf_before(len - 2) { Ok(()) } else { Err(Reason::BadRequest.into()) }
}

/// What an unfinished section may be refused for already.
fn partial(bytes: &[u8], limits: &HeaderLimits) -> Result<(), Refused> {
    let line = bytes.iter().position(|b| *b == b'\n').unwrap_or(bytes.len());
    let line = bytes.get(..line).unwrap_or_default();
    let method = line.iter().position(|b| *b == b' ').unwrap_or(line.len());
    if method as u64 > u64::from(limits.method) {
        return Err(Refused::limit(Reason::MethodNotImplemented, "method"));
    }
    // Of the rest of the line, the version takes 10 bytes.
    if (line.len() - method) as u64 > limits.target + 11 {
        return Err(Refused::limit(Reason::UriTooLong, "request_target"));
    }
    if (bytes.len() - line.len()) as u64 > limits.bytes.saturating_add(2) {
        return Err(Refused::limit(Reason::HeadersTooLarge, "header_bytes"));
    }
    Ok(())
}

/// A section that has passed, without its field Upgrade: to the engine each would be the beginning of a tunnel.
pub(super) fn without_upgrade(section: &[u8]) -> BytesMut {
    let is_upgrade = |line: &[u8]| {
        line.split_at_checked(UPGRADE.len())
            .is_some_and(|(name, rest)| name.eq_ignore_ascii_case(UPGRADE.as_bytes()) && rest.starts_with(b":"))
    };
    let mut rest = BytesMut::with_capacity(section.len());
    for line in section.split_inclusive(|b| *b == b'\n') {
        if !is_upgrade(line) {
            rest.extend_from_slice(line);
        }
    }
    rest
}

/// The status for what the parser does not take.
fn explain(error: Error, bytes: &[u8], limits: &HeaderLimits) -> Refused {
    if let Err(refused) = partial(bytes, limits) {
        return refused;
    }
    match error {
        Error::TooManyHeaders => Refused::limit(Reason::HeadersTooLarge, "header_count"),
        Error::Version if is_other_version(bytes) => Reason::VersionNotSupported.into(),
        Error::Token | Error::Version if line_parts(bytes).1.iter().any(|b| !(0x21..=0x7e).contains(b)) => {
            Reason::InvalidTarget.into()
        }
        _ => Reason::BadRequest.into(),
    }
}

/// Whether the request line ends with a version that is well written, but not one of ours (RFC 9110, section 2.5).
fn is_other_version(bytes: &[u8]) -> bool {
    let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    let word = line.trim_ascii_end().rsplit(|b| *b == b' ').next().unwrap_or_default();
    !matches!(word, b"HTTP/1.1" | b"HTTP/1.0")
        && matches!(word, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit())
}

/// Method and target, as far as the line lets them be told, for the log of a refusal.
pub(super) fn line_parts(bytes: &[u8]) -> (&str, &[u8]) {
    let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut words = line.splitn(2, |b| *b == b' ');
    let method = words.next().unwrap_or_default();
    let method = std::str::from_utf8(method.get(..32).unwrap_or(method)).unwrap_or_default();
    let rest = words.next().unwrap_or_default();
    let target = match rest.windows(6).rposition(|w| w == b" HTTP/") {
        Some(end) => rest.get(..end).unwrap_or_default(),
        None => rest,
    };
    (method, target.get(..LOGGED_TARGET).unwrap_or(target))
}

#[cfg(test)]
#[path = "http1_head_tests.rs"]
mod tests;
