//! Which header fields, paths and statuses a plugin may set: checked here once, so that no view has to.

use http::header::{CONTENT_LENGTH, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use sluice_model::field;

/// Bytes of a header value that a plugin may set.
pub(crate) const MAX_VALUE: usize = 16 << 10;

/// Header fields of a message that a plugin may add to.
const MAX_FIELDS: usize = 512;

/// Why something that a plugin wanted to set was refused. The text goes to the plugin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("`{0}` is not a header name (RFC 9110, section 5.1)")]
    Name(String),
    #[error("the value of `{0}` holds bytes that no header value may hold (RFC 9110, section 5.5)")]
    Value(HeaderName),
    #[error("`{0}` frames the message or belongs to the connection: it is the gateway's to set")]
    Framing(HeaderName),
    #[error("the value of `{0}` is longer than 16 KiB")]
    TooLong(HeaderName),
    #[error("a message has at most 512 header fields")]
    TooMany,
    #[error("a body that a plugin sets here has at most {0} bytes")]
    Body(u64),
    #[error("a path begins with a slash and is percent-encoded (RFC 3986, section 3.3)")]
    Path,
    #[error("the gateway serves no such path: {0}")]
    NotNormal(String),
    #[error("a query is percent-encoded (RFC 3986, section 3.4)")]
    Query,
    #[error(
        "a request keeps its method, where that or the other one is HEAD or CONNECT, and a method is a token (RFC 9110, section 9.1)"
    )]
    Method,
    #[error("an authority is a host with an optional port (RFC 9110, section 7.2)")]
    Authority,
    #[error("{0} is not a status of a response: 200 to 599")]
    Status(u16),
    #[error("the request can be changed in the request phases only")]
    RequestSent,
    #[error("the response can be changed in the response phases only")]
    ResponseSent,
}

/// A header name that a filter of the proxy-wasm ABI may remove: the length too, of a body that it will change.
pub(crate) fn removable(text: &str) -> Result<HeaderName, Refused> {
    match name(text) {
        Err(Refused::Framing(name)) if name == CONTENT_LENGTH => Ok(name),
        other => other,
    }
}

/// A header name that a plugin may set or remove.
pub(crate) fn name(text: &str) -> Result<HeaderName, Refused> {
    let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| Refused::Name(text.chars().take(64).collect()))?;
    if is_framing(&name) { Err(Refused::Framing(name)) } else { Ok(name) }
}

/// Whether a message with these fields may get one more.
pub(crate) fn room(headers: &HeaderMap) -> Result<(), Refused> {
    if headers.len() < MAX_FIELDS { Ok(()) } else { Err(Refused::TooMany) }
}

pub(crate) fn value(name: &HeaderName, bytes: Vec<u8>) -> Result<HeaderValue, Refused> {
    if bytes.len() > MAX_VALUE {
        return Err(Refused::TooLong(name.clone()));
    }
    HeaderValue::from_maybe_shared(bytes::Bytes::from(bytes)).map_err(|_| Refused::Value(name.clone()))
}

/// What a plugin could split messages with, and `host`, which decides the route: that is matched already.
fn is_framing(name: &HeaderName) -> bool {
    field::is_framing(name) || *name == HOST
}

pub(crate) fn status(code: u16) -> Result<StatusCode, Refused> {
    match StatusCode::from_u16(code) {
        Ok(status) if (200..600).contains(&code) => Ok(status),
        _ => Err(Refused::Status(code)),
    }
}

/// Whether a request may go on with another method. What a response to HEAD, and what comes after CONNECT, is framed by the
/// method that the client sent.
pub fn method(now: &Method, other: &str) -> Result<Method, Refused> {
    let is_plain = |method: &Method| !matches!(*method, Method::HEAD | Method::CONNECT);
    let other = Method::from_bytes(other.as_bytes()).map_err(|_| Refused::Method)?;
    if *now == other || (is_plain(now) && is_plain(&other)) { Ok(other) } else { Err(Refused::Method) }
}

/// RFC 3986 `path-absolute`, more liberal by the characters that browsers send raw.
pub(crate) fn path(text: &str) -> Result<(), Refused> {
    let sound =
        text.starts_with('/') && !text.bytes().any(|b| matches!(b, b'?' | b'#' | b'\\') || !b.is_ascii_graphic());
    if sound && percent_encoded(text) { Ok(()) } else { Err(Refused::Path) }
}

pub(crate) fn query(text: &str) -> Result<(), Refused> {
    let sound = !text.bytes().any(|b| b == b'#' || !b.is_ascii_graphic());
    if sound && percent_encoded(text) { Ok(()) } else { Err(Refused::Query) }
}

/// Whether each percent sign is followed by two hexadecimal digits.
fn percent_encoded(text: &str) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next(), bytes.next()];
            if !digits.iter().all(|digit| digit.is_some_and(|d| d.is_ascii_hexdigit())) {
                return false;
            }
        }
    }
    true
}

/// The first value, as a guest gets it.
pub(crate) fn first(headers: &HeaderMap, name: &str) -> Option<Vec<u8>> {
    headers.get(name).map(|value| value.as_bytes().to_vec())
}

pub(crate) fn every(headers: &HeaderMap, name: &str) -> Vec<Vec<u8>> {
    headers.get_all(name).iter().map(|value| value.as_bytes().to_vec()).collect()
}

pub(crate) fn all(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect()
}

/// A field that may be added to `headers`.
pub(crate) fn field(headers: &HeaderMap, name: &str, value: Vec<u8>) -> Result<(HeaderName, HeaderValue), Refused> {
    room(headers)?;
    let name = self::name(name)?;
    let value = self::value(&name, value)?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_tokens_and_lower_case() {
        assert_eq!(name("X-Tenant").unwrap().as_str(), "x-tenant");
        for bad in ["", "a b", "a:b", ":path", "ä", "a\r\nb"] {
            assert_eq!(name(bad), Err(Refused::Name(bad.to_owned())), "{bad:?}");
        }
    }

    #[test]
    fn fields_that_frame_the_message_are_refused() {
        for framing in ["Content-Length", "transfer-encoding", "Connection", "TE", "host", "Upgrade"] {
            assert!(matches!(name(framing), Err(Refused::Framing(_))), "{framing}");
        }
    }

    #[test]
    fn a_value_with_a_line_break_is_refused() {
        let name = HeaderName::from_static("x-a");
        assert!(value(&name, b"a\r\nx-b: c".to_vec()).is_err());
        assert!(value(&name, b"a\0".to_vec()).is_err());
        assert_eq!(value(&name, b"caf\xe9 \xff".to_vec()).unwrap().as_bytes(), b"caf\xe9 \xff");
    }

    #[test]
    fn fields_and_their_values_are_bounded() {
        let name = HeaderName::from_static("x-a");
        assert!(value(&name, vec![b'a'; MAX_VALUE]).is_ok());
        assert_eq!(value(&name, vec![b'a'; MAX_VALUE + 1]), Err(Refused::TooLong(name.clone())));
        let mut headers = HeaderMap::new();
        while room(&headers).is_ok() {
            headers.append(&name, HeaderValue::from_static("v"));
        }
        assert_eq!(headers.len(), MAX_FIELDS);
    }

    #[test]
    fn paths_and_queries_are_what_a_request_line_can_carry() {
        for good in ["/", "/a/b;c=1", "/%2F", "/a:b@c"] {
            assert_eq!(path(good), Ok(()), "{good}");
        }
        for bad in ["", "a", "/a b", "/a?b", "/a#b", "/%2", "/%zz", "/\u{e9}", "/a\nb", "/a\\b"] {
            assert_eq!(path(bad), Err(Refused::Path), "{bad:?}");
        }
        assert_eq!(query("a=b&c=%20?"), Ok(()));
        for bad in ["a b", "a#b", "%", "a=\r\n"] {
            assert_eq!(query(bad), Err(Refused::Query), "{bad:?}");
        }
    }

    #[test]
    fn informational_statuses_and_unknown_classes_are_refused() {
        assert_eq!(status(599).unwrap().as_u16(), 599);
        for bad in [0, 99, 100, 199, 600, 999] {
            assert_eq!(status(bad), Err(Refused::Status(bad)));
        }
    }
}
