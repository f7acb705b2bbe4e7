//! gRPC over HTTP/2, as much as a call with one message each way needs: how it is asked, and what an answer says.

use crate::outgoing::{FetchError, FetchErrorKind, OutboundResponse};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use std::borrow::Cow;
use std::time::Duration;

/// Statuses of gRPC that are told here.
const OK: u32 = 0;
const UNKNOWN: u32 = 2;
const DEADLINE_EXCEEDED: u32 = 4;
const PERMISSION_DENIED: u32 = 7;
const RESOURCE_EXHAUSTED: u32 = 8;
const UNIMPLEMENTED: u32 = 12;
const INTERNAL: u32 = 13;
const UNAVAILABLE: u32 = 14;
const UNAUTHENTICATED: u32 = 16;

/// How a call ended without a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Closed {
    pub(super) status: u32,
    pub(super) message: String,
}

impl Closed {
    fn new(status: u32, message: impl Into<String>) -> Closed {
        Closed { status, message: message.into() }
    }

    pub(super) fn failed(error: FetchError) -> Closed {
        let status = match error.kind {
            FetchErrorKind::Timeout => DEADLINE_EXCEEDED,
            FetchErrorKind::NotAllowed => PERMISSION_DENIED,
            FetchErrorKind::TooLarge => RESOURCE_EXHAUSTED,
            FetchErrorKind::Invalid | FetchErrorKind::Protocol => INTERNAL,
            FetchErrorKind::NoEndpoint | FetchErrorKind::Connect | FetchErrorKind::Overloaded => UNAVAILABLE,
        };
        Closed::new(status, error.message)
    }
}

/// A message behind its flag and its length.
pub(super) fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.freeze()
}

/// The value of `grpc-timeout`: at most eight digits, of the finest unit that they do for.
pub(super) fn timeout(time: Duration) -> String {
    match time.as_millis() {
        millis if millis < 100_000_000 => format!("{millis}m"),
        _ => format!("{}S", time.as_secs().min(99_999_999)),
    }
}

/// The message of a whole answer.
pub(super) fn message(answer: &OutboundResponse) -> Result<Bytes, Closed> {
    if answer.status != StatusCode::OK {
        return Err(Closed::new(of_http(answer.status), format!("the answer has the status {}", answer.status)));
    }
    // An answer that is trailers alone has them in its head.
    let end = if answer.trailers.contains_key("grpc-status") { &answer.trailers } else { &answer.headers };
    match status(end) {
        Some(OK) => {}
        Some(status) => return Err(Closed::new(status, said(end))),
        None => return Err(Closed::new(UNKNOWN, "the answer has no grpc-status")),
    }
    let Some((flag, rest)) = answer.body.split_first() else {
        return Err(Closed::new(INTERNAL, "the answer has no message"));
    };
    if *flag != 0 {
        return Err(Closed::new(INTERNAL, "the message is compressed, which was not asked for"));
    }
    let length = rest.first_chunk::<4>().map(|length| u32::from_be_bytes(*length) as usize);
    match length {
        Some(length) if answer.body.len() == 5 + length => Ok(answer.body.slice(5..)),
        _ => Err(Closed::new(INTERNAL, "the answer is not one whole message")),
    }
}

fn status(fields: &HeaderMap) -> Option<u32> {
    fields.get("grpc-status")?.to_str().ok()?.parse().ok()
}

fn said(fields: &HeaderMap) -> String {
    let encoded = fields.get("grpc-message").map(http::HeaderValue::as_bytes).unwrap_or_default();
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    while let Some((byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (byte, hex) {
            (b'%', Some(decoded)) => {
                bytes.push(decoded);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What a status of HTTP says of a call (gRPC's "HTTP to gRPC status code mapping").
pub(super) fn of_http(status: StatusCode) -> u32 {
    match status.as_u16() {
        400 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 => UNIMPLEMENTED,
        429 | 502..=504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

/// The backend that a `service` names: its name, or Envoy's message `GrpcService` with the name of a cluster.
pub(super) fn backend(service: &[u8], is_known: impl Fn(&str) -> bool) -> Option<Cow<'_, str>> {
    let text = String::from_utf8_lossy(service);
    if is_known(&text) {
        return Some(text);
    }
    // `envoy_grpc`, and in it `cluster_name`.
    let name = field(field(service, 1)?, 1)?;
    std::str::from_utf8(name).ok().filter(|name| is_known(name)).map(Cow::Borrowed)
}

/// A field of a protobuf message that is bytes.
fn field(mut message: &[u8], number: u64) -> Option<&[u8]> {
    while !message.is_empty() {
        let (key, rest) = varint(message)?;
        let (value, rest) = match key & 7 {
            0 => (None, varint(rest)?.1),
            1 => (None, rest.get(8..)?),
            2 => {
                let (length, rest) = varint(rest)?;
                let (value, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
                (Some(value), rest)
            }
            5 => (None, rest.get(4..)?),
            _ => return None,
        };
        if key >> 3 == number && value.is_some() {
            return value;
        }
        message = rest;
    }
    None
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0u64;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f).checked_shl(7 * index as u32)?;
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(index + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn answer(status: u16, body: &[u8], fields: &[(&'static str, &'static str)]) -> OutboundResponse {
        let trailers = fields.iter().map(|(n, v)| (http::HeaderName::from_static(n), HeaderValue::from_static(v)));
        OutboundResponse {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Bytes::copy_from_slice(body),
            trailers: trailers.collect(),
            held: None,
        }
    }

    #[test]
    fn an_answer_is_one_message_or_says_why_not() {
        let fine = [("grpc-status", "0")];
        assert_eq!(message(&answer(200, &frame(b"abc"), &fine)).unwrap(), "abc");
        assert_eq!(message(&answer(200, &frame(b""), &fine)).unwrap(), "");
        let refused = [("grpc-status", "7"), ("grpc-message", "not%20you%")];
        assert_eq!(message(&answer(200, &frame(b"abc"), &refused)), Err(Closed::new(7, "not you%")));
        let mut trailers_alone = answer(200, b"", &[]);
        trailers_alone.headers.insert("grpc-status", HeaderValue::from_static("5"));
        assert_eq!(message(&trailers_alone), Err(Closed::new(5, "")));
        let status = |answer: OutboundResponse| message(&answer).unwrap_err().status;
        assert_eq!(status(answer(200, &frame(b"abc"), &[])), UNKNOWN);
        assert_eq!(status(answer(503, b"", &fine)), UNAVAILABLE);
        assert_eq!(status(answer(200, b"", &fine)), INTERNAL);
        assert_eq!(status(answer(200, &frame(b"abc")[..7], &fine)), INTERNAL);
        assert_eq!(status(answer(200, &[&frame(b"a")[..], &frame(b"b")[..]].concat(), &fine)), INTERNAL);
        assert_eq!(status(answer(200, &[1, 0, 0, 0, 0], &fine)), INTERNAL);
        assert_eq!(status(answer(200, &[0, 0xff, 0xff, 0xff, 0xff], &fine)), INTERNAL);
    }

    #[test]
    fn a_service_is_named_by_itself_or_in_envoys_message() {
        let is_known = |name: &str| name == "auth";
        assert_eq!(backend(b"auth", is_known).as_deref(), Some("auth"));
        // envoy_grpc {cluster_name: "auth", authority: "a"}, timeout {seconds: 1}
        let message = b"\x0a\x09\x0a\x04auth\x12\x01a\x1a\x02\x08\x01";
        assert_eq!(backend(message, is_known).as_deref(), Some("auth"));
        assert_eq!(backend(b"\x1a\x02\x08\x01\x0a\x06\x0a\x04auth", is_known).as_deref(), Some("auth"));
        for wrong in [&b"other"[..], b"", b"\x0a\x07\x0a\x05other", b"\x0a\xff\x0a\x04auth", b"\xff\xff", b"\x0b"] {
            assert_eq!(backend(wrong, is_known), None);
        }
        assert_eq!(backend(&[0xff; 64], is_known), None);
    }

    #[test]
    fn a_timeout_has_eight_digits_at_most() {
        assert_eq!(timeout(Duration::from_millis(1_500)), "1500m");
        assert_eq!(timeout(Duration::from_secs(200_000)), "200000S");
    }
}
