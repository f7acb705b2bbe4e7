//! What a request must be before anything looks at its content: its framing, its limits, its method and expectations.
//!
//! HTTP/1 was read strictly before it came here (see `downstream`), HTTP/2 by its codec. These checks hold for both,
//! and stand also where an earlier one has already looked: a refused request must never reach a backend.

use ::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use ::http::{Method, Version, request};
use sluice_model::Reason;
use sluice_model::config::{Edge, FieldFate, Limits};
use smallvec::SmallVec;

/// Bytes that one field adds to the section besides its name and value: `: ` and the line's end.
const FIELD_OVERHEAD: u64 = 4;
/// Options of `Connection`, besides `keep-alive`, that are looked at; more are no client's.
const MAX_NOMINATIONS: u32 = 16;
const UPGRADE: HeaderValue = HeaderValue::from_static("Upgrade");
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// A refusal, and the limit that was hit where it was one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) reason: Reason,
    /// By its name in [`Limits`].
    pub(super) limit: Option<&'static str>,
}

impl From<Reason> for Refused {
    fn from(reason: Reason) -> Self {
        Refused { reason, limit: None }
    }
}

impl Refused {
    fn over(limit: &'static str, reason: Reason) -> Self {
        Refused { reason, limit: Some(limit) }
    }
}

/// Checks the head of a request. `target` is the request target as it came, `raw` the header section of HTTP/1.
pub(super) fn check(
    parts: &request::Parts,
    target_bytes: usize,
    raw: Option<&[u8]>,
    edge: &Edge,
) -> Result<(), Refused> {
    version(parts.version)?;
    method(&parts.method, &edge.limits)?;
    if target_bytes as u64 > edge.limits.request_target {
        return Err(Refused::over("request_target", Reason::UriTooLong));
    }
    framing(&parts.headers, raw)?;
    expectation(&parts.headers)
}

fn version(version: Version) -> Result<(), Refused> {
    match version {
        Version::HTTP_10 | Version::HTTP_11 | Version::HTTP_2 => Ok(()),
        _ => Err(Reason::VersionNotSupported.into()),
    }
}

fn method(method: &Method, limits: &Limits) -> Result<(), Refused> {
    match *method {
        Method::GET | Method::POST | Method::PUT | Method::DELETE | Method::HEAD | Method::OPTIONS | Method::PATCH => {
            Ok(())
        }
        Method::CONNECT | Method::TRACE => Err(Reason::MethodNotAllowed.into()),
        _ if method.as_str().len() > limits.method as usize => {
            Err(Refused::over("method", Reason::MethodNotImplemented))
        }
        _ => Ok(()),
    }
}

/// The engine drops a Content-Length that stands beside Transfer-Encoding, so it is looked for in the raw section.
fn framing(headers: &HeaderMap, raw: Option<&[u8]>) -> Result<(), Refused> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else { return Ok(()) };
    let only_chunked = codings.next().is_none() && coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
    let has_length = headers.contains_key(header::CONTENT_LENGTH) || raw.is_some_and(names_content_length);
    if only_chunked && !has_length { Ok(()) } else { Err(Reason::AmbiguousFraming.into()) }
}

fn names_content_length(raw: &[u8]) -> bool {
    const NAME: &[u8] = b"content-length";
    raw.split(|b| *b == b'\n')
        .filter_map(|line| line.get(..NAME.len()).zip(line.get(NAME.len())))
        .any(|(name, next)| name.eq_ignore_ascii_case(NAME) && matches!(next, b':' | b' ' | b'\t'))
}

/// RFC 9110, section 10.1.1: `100-continue` is the only expectation there is.
fn expectation(headers: &HeaderMap) -> Result<(), Refused> {
    let met = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"100-continue");
    match headers.get_all(header::EXPECT).iter().all(met) {
        true => Ok(()),
        false => Err(Reason::ExpectationFailed.into()),
    }
}

/// What the fields say of the connection that the request came over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Connection {
    /// The request asks for a WebSocket (RFC 6455, section 4.1), as the gate in front of the engine has seen it too.
    pub(super) websocket: bool,
}

/// Measures the fields, and takes out those that must not go on: what belongs to the client's connection (RFC 9110,
/// section 7.6.1), the gateway's own names, and, by policy, names with an underscore, which some backends read as a
/// hyphen.
///
/// This comes before anything of ours is written: the engine would apply `Connection` once more on the way out, to
/// fields of the gateway and its plugins as well. So nothing is left of it but what a WebSocket needs.
pub(super) fn fields(headers: &mut HeaderMap, version: Version, edge: &Edge) -> Result<Connection, Refused> {
    let mut bytes = 0u64;
    let mut unwanted: SmallVec<[HeaderName; 4]> = SmallVec::new();
    let (mut upgrade, mut websocket, mut nominations) = (false, false, 0);
    for (name, value) in headers.iter() {
        let text = name.as_str();
        bytes += text.len() as u64 + value.len() as u64 + FIELD_OVERHEAD;
        match text {
            "connection" => {
                for token in value.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                    if token.is_empty() || token.eq_ignore_ascii_case(b"keep-alive") {
                        continue;
                    }
                    nominations += 1;
                    if nominations > MAX_NOMINATIONS {
                        return Err(Reason::BadRequest.into());
                    }
                    upgrade |= token.eq_ignore_ascii_case(b"upgrade");
                    if let Some(name) = nominated(token)? {
                        unwanted.push(name);
                    }
                }
                unwanted.push(header::CONNECTION);
            }
            "upgrade" => {
                websocket |= value.as_bytes().eq_ignore_ascii_case(b"websocket");
                unwanted.push(header::UPGRADE);
            }
            "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "trailer"
            | "http2-settings" => unwanted.push(name.clone()),
            _ => match edge.underscores.fate_of(text) {
                FieldFate::Kept => {}
                FieldFate::Dropped => unwanted.push(name.clone()),
                FieldFate::Refused => return Err(Reason::UnderscoreInHeader.into()),
            },
        }
    }
    if bytes > edge.limits.header_bytes {
        return Err(Refused::over("header_bytes", Reason::HeadersTooLarge));
    }
    if headers.len() > edge.limits.header_count as usize {
        return Err(Refused::over("header_count", Reason::HeadersTooLarge));
    }
    for name in unwanted {
        headers.remove(name);
    }
    let websocket = websocket && upgrade && version == Version::HTTP_11;
    if websocket {
        headers.insert(header::CONNECTION, UPGRADE);
        headers.insert(header::UPGRADE, WEBSOCKET);
    }
    Ok(Connection { websocket })
}

/// The field that a token of `Connection` takes away; `None` where it takes none. `Err` where it is no token, or one that
/// may not be taken away: a request without it would mean something else, or come from somebody else.
fn nominated(token: &[u8]) -> Result<Option<HeaderName>, Refused> {
    let is_token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    if !token.iter().all(is_token) {
        return Err(Reason::BadRequest.into());
    }
    let name = HeaderName::from_bytes(token).map_err(|_| Reason::BadRequest)?;
    match name.as_str() {
        "host" | "x-forwarded-for" | "x-forwarded-host" | "x-forwarded-proto" => Err(Reason::BadRequest.into()),
        // Framing has been read, and is written anew; TE is kept for the one thing that HTTP/2 allows in it.
        "content-length" | "transfer-encoding" | "te" => Ok(None),
        _ => Ok(Some(name)),
    }
}

/// Content-Length against the limit, before a byte of the body is read.
pub(super) fn body_length(headers: &HeaderMap, limit: Option<u64>) -> Result<(), Refused> {
    let Some(limit) = limit else { return Ok(()) };
    let length = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.trim().parse::<u64>().ok());
    match length {
        Some(length) if length > limit => Err(Refused::over("body", Reason::BodyTooLarge)),
        _ => Ok(()),
    }
}

/// HTTP/2 may split Cookie into crumbs; every other reader expects one field (RFC 9113, section 8.2.3).
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    if crumbs.next().is_none() || crumbs.next().is_none() {
        return;
    }
    let mut joined = Vec::new();
    for crumb in headers.get_all(header::COOKIE) {
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(crumb.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
        headers.insert(header::COOKIE, value);
    }
}

/// What Max-Forwards asks for an OPTIONS request (RFC 9110, section 7.6.2).
#[derive(Debug, PartialEq, Eq)]
pub(super) enum MaxForwards {
    Absent,
    /// Zero: to be answered here.
    Answer,
    /// To be sent on with this value.
    Forward(u64),
}

pub(super) fn max_forwards(parts: &request::Parts) -> MaxForwards {
    if parts.method != Method::OPTIONS {
        return MaxForwards::Absent;
    }
    match parts.headers.get(header::MAX_FORWARDS).and_then(|v| v.to_str().ok()?.trim().parse::<u64>().ok()) {
        None => MaxForwards::Absent,
        Some(0) => MaxForwards::Answer,
        Some(hops) => MaxForwards::Forward(hops - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_model::config::UnderscorePolicy;

    fn parts(method: &str, fields: &[(&str, &str)]) -> request::Parts {
        let mut builder = ::http::Request::builder().method(method).uri("/").version(Version::HTTP_11);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn refusal(parts: &request::Parts, raw: Option<&[u8]>) -> Option<Reason> {
        check(parts, 1, raw, &Edge::default()).err().map(|r| r.reason)
    }

    #[test]
    fn trace_and_connect_are_refused_and_an_endless_method_is_not_implemented() {
        assert_eq!(refusal(&parts("TRACE", &[]), None), Some(Reason::MethodNotAllowed));
        assert_eq!(refusal(&parts("CONNECT", &[]), None), Some(Reason::MethodNotAllowed));
        assert_eq!(refusal(&parts("PROPFIND", &[]), None), None);
        assert_eq!(refusal(&parts(&"A".repeat(33), &[]), None), Some(Reason::MethodNotImplemented));
    }

    #[test]
    fn a_length_beside_a_transfer_coding_is_ambiguous_rfc9112_6_1() {
        let chunked = parts("POST", &[("transfer-encoding", "chunked")]);
        assert_eq!(refusal(&chunked, Some(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")), None);
        let both = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\nCONTENT-length: 3\r\n\r\n";
        assert_eq!(refusal(&chunked, Some(both)), Some(Reason::AmbiguousFraming));
        let spaced = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\nContent-Length : 3\r\n\r\n";
        assert_eq!(refusal(&chunked, Some(spaced)), Some(Reason::AmbiguousFraming));
        let in_value = b"POST / HTTP/1.1\r\nx: content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(refusal(&chunked, Some(in_value)), None);
        for fields in [
            &[("transfer-encoding", "gzip, chunked")][..],
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
            &[("transfer-encoding", "identity")],
        ] {
            assert_eq!(refusal(&parts("POST", fields), None), Some(Reason::AmbiguousFraming), "{fields:?}");
        }
    }

    #[test]
    fn an_expectation_other_than_100_continue_fails_rfc9110_10_1_1() {
        assert_eq!(refusal(&parts("POST", &[("expect", "100-Continue")]), None), None);
        assert_eq!(refusal(&parts("POST", &[("expect", "a-pony")]), None), Some(Reason::ExpectationFailed));
    }

    #[test]
    fn the_target_and_the_fields_have_limits() {
        let edge = Edge::default();
        let over = edge.limits.request_target as usize + 1;
        assert_eq!(check(&parts("GET", &[]), over, None, &edge).unwrap_err().reason, Reason::UriTooLong);
        let mut headers = HeaderMap::new();
        for i in 0..=edge.limits.header_count {
            headers.insert(HeaderName::try_from(format!("x-{i}")).unwrap(), HeaderValue::from_static("1"));
        }
        assert_eq!(fields(&mut headers, Version::HTTP_11, &edge).unwrap_err().limit, Some("header_count"));
        let mut headers = HeaderMap::new();
        let long = "a".repeat(edge.limits.header_bytes as usize);
        headers.insert("x", HeaderValue::try_from(long).unwrap());
        assert_eq!(fields(&mut headers, Version::HTTP_11, &edge).unwrap_err().limit, Some("header_bytes"));
    }

    #[test]
    fn the_gateways_own_names_are_taken_out_and_underscores_by_policy() {
        let given = || {
            let mut headers = HeaderMap::new();
            headers.insert("x-sluice-consumer", HeaderValue::from_static("admin"));
            headers.insert("x_user", HeaderValue::from_static("admin"));
            headers.insert("x-user", HeaderValue::from_static("guest"));
            headers
        };
        for (policy, left) in [(UnderscorePolicy::Drop, 1), (UnderscorePolicy::Keep, 2)] {
            let mut headers = given();
            let edge = Edge { underscores: policy, ..Edge::default() };
            fields(&mut headers, Version::HTTP_11, &edge).unwrap();
            assert_eq!(headers.len(), left, "{policy:?}");
        }
        let edge = Edge { underscores: UnderscorePolicy::Reject, ..Edge::default() };
        assert_eq!(fields(&mut given(), Version::HTTP_11, &edge).unwrap_err().reason, Reason::UnderscoreInHeader);
    }

    fn left(version: Version, given: &[(&'static str, &'static str)]) -> Result<(Vec<String>, bool), Reason> {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let connection = fields(&mut headers, version, &Edge::default()).map_err(|refused| refused.reason)?;
        let mut names: Vec<_> = headers.keys().map(ToString::to_string).collect();
        names.sort();
        Ok((names, connection.websocket))
    }

    #[test]
    fn what_belongs_to_the_clients_connection_goes_no_further_rfc9110_7_6_1() {
        let given = [
            ("connection", "Keep-Alive, X-Hop, TE, Content-Length"),
            ("connection", "close,, http2-settings"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "x"),
            ("proxy-authorization", "Basic x"),
            ("trailer", "x-sum"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAM"),
            ("te", "trailers"),
            ("content-length", "3"),
            ("x-end", "1"),
        ];
        let (names, websocket) = left(Version::HTTP_11, &given).unwrap();
        assert_eq!(names, ["content-length", "te", "x-end"]);
        assert!(!websocket);
        for option in ["host", "x-forwarded-for", "X-Forwarded-Proto", ":authority", "\"x-a\"", "x a"] {
            assert_eq!(left(Version::HTTP_11, &[("connection", option)]), Err(Reason::BadRequest), "{option}");
        }
        assert_eq!(
            left(Version::HTTP_11, &[("connection", "a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q")]),
            Err(Reason::BadRequest)
        );
    }

    #[test]
    fn only_a_web_socket_is_an_upgrade() {
        let websocket = [("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")];
        assert_eq!(left(Version::HTTP_11, &websocket), Ok((vec!["connection".into(), "upgrade".into()], true)));
        assert_eq!(left(Version::HTTP_10, &websocket), Ok((vec![], false)));
        assert_eq!(left(Version::HTTP_11, &websocket[1..]), Ok((vec![], false)), "an upgrade is named in Connection");
        let h2c = [("connection", "Upgrade"), ("upgrade", "h2c")];
        assert_eq!(left(Version::HTTP_11, &h2c), Ok((vec![], false)));
    }

    #[test]
    fn cookie_crumbs_become_one_field_rfc9113_8_2_3() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_static("a=1"));
        headers.append(header::COOKIE, HeaderValue::from_static("b=2"));
        join_cookies(&mut headers);
        assert_eq!(headers.get_all(header::COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }

    #[test]
    fn max_forwards_counts_for_options_alone_rfc9110_7_6_2() {
        assert_eq!(max_forwards(&parts("OPTIONS", &[("max-forwards", "0")])), MaxForwards::Answer);
        assert_eq!(max_forwards(&parts("OPTIONS", &[("max-forwards", "3")])), MaxForwards::Forward(2));
        assert_eq!(max_forwards(&parts("GET", &[("max-forwards", "0")])), MaxForwards::Absent);
    }

    #[test]
    fn a_declared_length_above_the_limit_is_refused_unread() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("11"));
        assert_eq!(body_length(&headers, Some(10)).unwrap_err().reason, Reason::BodyTooLarge);
        assert!(body_length(&headers, Some(11)).is_ok());
        assert!(body_length(&headers, None).is_ok());
    }
}
