//! The one canonical form of a request's host, used for routing alone: what is forwarded is what came.
//!
//! Lower case, without a port, without the final dot of a fully qualified name. Anything that is not plainly a host
//! (RFC 9110, section 7.2; RFC 3986, section 3.2.2) is refused, not repaired: two parsers that read a host differently
//! are how one tenant's request reaches another's backend.

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// Longest host, in bytes: a DNS name's 253 and its final dot.
const MAX_HOST: usize = 254;

/// A host that could be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Authority<'a> {
    /// Lower case, no port, no final dot; an IPv6 address keeps its brackets.
    pub(super) host: Cow<'a, str>,
    pub(super) port: Option<u16>,
}

/// Reads a Host field's value or an `:authority`. `None`: not a host.
pub(super) fn canonical(value: &[u8]) -> Option<Authority<'_>> {
    let text = std::str::from_utf8(value).ok()?;
    let (host, port) = split_port(text)?;
    let port = match port {
        // RFC 3986 allows a colon without a port.
        None | Some("") => None,
        Some(digits) => Some(parse_port(digits)?),
    };
    if let Some(inner) = host.strip_prefix('[') {
        inner.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?;
        return Some(Authority { host: lower(host), port });
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    (host.len() < MAX_HOST && is_name(host)).then(|| Authority { host: lower(host), port })
}

fn split_port(text: &str) -> Option<(&str, Option<&str>)> {
    if text.starts_with('[') {
        let end = text.find(']')? + 1;
        let (host, rest) = text.split_at(end);
        return match rest.strip_prefix(':') {
            Some(port) => Some((host, Some(port))),
            None => rest.is_empty().then_some((host, None)),
        };
    }
    Some(match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    })
}

fn parse_port(digits: &str) -> Option<u16> {
    let plain = digits.len() <= 5 && digits.bytes().all(|b| b.is_ascii_digit());
    if plain { digits.parse().ok() } else { None }
}

/// Labels of letters, digits, hyphens and underscores. Nothing else of a `reg-name` is in use as a host, and a comma, a
/// percent sign or a quote there is an attempt at something.
fn is_name(host: &str) -> bool {
    let mut previous = b'.';
    for byte in host.bytes() {
        let fits = match byte {
            b'.' => previous != b'.',
            b'-' | b'_' => true,
            _ => byte.is_ascii_alphanumeric(),
        };
        if !fits {
            return false;
        }
        previous = byte;
    }
    previous != b'.'
}

fn lower(host: &str) -> Cow<'_, str> {
    if host.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(value: &str) -> Option<(String, Option<u16>)> {
        canonical(value.as_bytes()).map(|a| (a.host.into_owned(), a.port))
    }

    #[test]
    fn a_host_is_lower_case_without_port_and_final_dot() {
        for (value, expected) in [
            ("example.com", ("example.com", None)),
            ("Example.COM", ("example.com", None)),
            ("example.com.", ("example.com", None)),
            ("example.com:80", ("example.com", Some(80))),
            ("EXAMPLE.com.:8443", ("example.com", Some(8443))),
            ("example.com:", ("example.com", None)),
            ("localhost", ("localhost", None)),
            ("my_service.ns", ("my_service.ns", None)),
            ("xn--bcher-kva.example", ("xn--bcher-kva.example", None)),
            ("192.0.2.1:8080", ("192.0.2.1", Some(8080))),
            ("[2001:DB8::1]", ("[2001:db8::1]", None)),
            ("[::1]:8080", ("[::1]", Some(8080))),
        ] {
            assert_eq!(host(value), Some((expected.0.to_owned(), expected.1)), "{value}");
        }
    }

    #[test]
    fn the_usual_host_is_not_copied() {
        assert!(matches!(canonical(b"www.example.com:8080").unwrap().host, Cow::Borrowed(_)));
    }

    #[test]
    fn what_is_not_plainly_a_host_is_refused_rfc9112_3_2() {
        for value in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a.com..",
            "a.com,b.com",
            "a.com/path",
            "a.com?x",
            "a.com#x",
            "user@a.com",
            "user:pass@a.com",
            "a.com:80:80",
            "a.com:+80",
            "a.com:65536",
            "a.com:999999",
            "a.com: 80",
            " a.com",
            "a.com ",
            "a b",
            "a%2fb",
            "a\\b",
            "::1",
            "[::1",
            "[::1]x",
            "[::1]:x",
            "[v1.a]",
            "[::1%25eth0]",
            "bücher.example",
            "\"a.com\"",
        ] {
            assert_eq!(host(value), None, "{value:?}");
        }
        assert_eq!(canonical(&[0xff, 0xfe]), None);
        assert_eq!(host(&"a".repeat(255)), None);
    }
}
