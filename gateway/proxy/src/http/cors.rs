//! CORS by the rule (GEP-1767; the Fetch standard, section 3.2): preflights are answered here, and answers to a page's
//! requests say that it may read them.

use ::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use ::http::{Method, request};
use bytes::{BufMut, BytesMut};
use sluice_model::config::{Cors, OriginPattern};
use std::fmt::Display;

const ANY: HeaderValue = HeaderValue::from_static("*");
const TRUE: HeaderValue = HeaderValue::from_static("true");

/// What the request's origin may do.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Verdict {
    /// No rule of CORS, or not a request of a page.
    #[default]
    NotAsked,
    /// The origin is not among those that are allowed: the answer says nothing, and the browser keeps it from the page.
    Refused,
    /// Allowed; the value is the request's own origin.
    Allowed(HeaderValue),
}

/// What `cors` says to the origin of this request.
pub(super) fn verdict(cors: &Cors, headers: &HeaderMap) -> Verdict {
    let Some(origin) = headers.get(header::ORIGIN) else { return Verdict::NotAsked };
    let allowed = origin.to_str().is_ok_and(|origin| cors.allow_origins.iter().any(|p| matches(p, origin)));
    if allowed { Verdict::Allowed(origin.clone()) } else { Verdict::Refused }
}

fn matches(pattern: &OriginPattern, origin: &str) -> bool {
    match pattern {
        OriginPattern::Any => true,
        OriginPattern::Exact(exact) => exact.eq_ignore_ascii_case(origin),
        OriginPattern::Wildcard { scheme, suffix, port } => {
            let Some((s, rest)) = origin.split_once("://") else { return false };
            let (host, p) = match rest.rsplit_once(':') {
                Some((host, digits)) if !rest.ends_with(']') => (host, digits.parse::<u16>().ok()),
                _ => (rest, None),
            };
            let inside = host.len() > suffix.len()
                && host.as_bytes()[host.len() - suffix.len()..].eq_ignore_ascii_case(suffix.as_bytes());
            s.eq_ignore_ascii_case(scheme) && p == *port && inside
        }
    }
}

/// The method that a preflight asks about; `None`: it is none.
pub(super) fn preflight(parts: &request::Parts) -> Option<&HeaderValue> {
    if parts.method != Method::OPTIONS || !parts.headers.contains_key(header::ORIGIN) {
        return None;
    }
    parts.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to a preflight.
pub(super) fn write_preflight(
    cors: &Cors,
    verdict: &Verdict,
    asked_method: &HeaderValue,
    asked_headers: Option<&HeaderValue>,
    mut set: impl FnMut(HeaderName, HeaderValue),
) {
    let Verdict::Allowed(origin) = verdict else { return };
    write_origin(cors, origin, &mut set);
    // With credentials the browser does not read `*` as "all" (Fetch, section 3.2.5): it is told what it asked for.
    if cors.allow_any_method {
        set(header::ACCESS_CONTROL_ALLOW_METHODS, if cors.allow_credentials { asked_method.clone() } else { ANY });
    } else if !cors.allow_methods.is_empty() {
        set(header::ACCESS_CONTROL_ALLOW_METHODS, list(&cors.allow_methods));
    }
    if cors.allow_any_header {
        let value = if cors.allow_credentials { asked_headers.cloned() } else { Some(ANY) };
        if let Some(value) = value {
            set(header::ACCESS_CONTROL_ALLOW_HEADERS, value);
        }
    } else if !cors.allow_headers.is_empty() {
        set(header::ACCESS_CONTROL_ALLOW_HEADERS, list(&cors.allow_headers));
    }
    // Browsers look for it in the answer proper; the Gateway API has it here too (its conformance suite, HTTPRouteCORS).
    write_exposed(cors, &mut set);
    set(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(cors.max_age.as_secs()));
}

/// What the answer to a request of an allowed page says besides.
pub(super) fn write_actual(cors: &Cors, verdict: &Verdict, mut set: impl FnMut(HeaderName, HeaderValue)) {
    let Verdict::Allowed(origin) = verdict else { return };
    write_origin(cors, origin, &mut set);
    write_exposed(cors, &mut set);
}

fn write_exposed(cors: &Cors, set: &mut impl FnMut(HeaderName, HeaderValue)) {
    if cors.expose_any_header && !cors.allow_credentials {
        set(header::ACCESS_CONTROL_EXPOSE_HEADERS, ANY);
    } else if !cors.expose_headers.is_empty() {
        set(header::ACCESS_CONTROL_EXPOSE_HEADERS, list(&cors.expose_headers));
    }
}

fn write_origin(cors: &Cors, origin: &HeaderValue, set: &mut impl FnMut(HeaderName, HeaderValue)) {
    let anyone = cors.allow_origins.contains(&OriginPattern::Any) && !cors.allow_credentials;
    set(header::ACCESS_CONTROL_ALLOW_ORIGIN, if anyone { ANY } else { origin.clone() });
    if cors.allow_credentials {
        set(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
    }
}

/// Whether answers differ by origin, so that caches must keep them apart.
pub(super) fn varies(cors: &Cors) -> bool {
    cors.allow_credentials || !cors.allow_origins.contains(&OriginPattern::Any)
}

fn list<T: Display>(items: &[T]) -> HeaderValue {
    use std::fmt::Write;
    let mut text = BytesMut::with_capacity(items.len() * 16);
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            text.put_slice(b", ");
        }
        // Writing to a buffer that grows does not fail.
        let _ = write!(text, "{item}");
    }
    HeaderValue::from_maybe_shared(text.freeze()).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn cors(origins: Vec<OriginPattern>, credentials: bool) -> Cors {
        Cors {
            allow_origins: origins,
            allow_credentials: credentials,
            allow_methods: vec![Method::GET, Method::PUT],
            allow_any_method: false,
            allow_headers: vec![HeaderName::from_static("x-a"), HeaderName::from_static("x-b")],
            allow_any_header: false,
            expose_headers: vec![HeaderName::from_static("x-c")],
            expose_any_header: false,
            max_age: Duration::from_secs(600),
        }
    }

    fn origin(value: &'static str) -> HeaderMap {
        [(header::ORIGIN, HeaderValue::from_static(value))].into_iter().collect()
    }

    fn wildcard() -> OriginPattern {
        OriginPattern::Wildcard { scheme: "https".into(), suffix: ".example.com".into(), port: None }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        for (pattern, value, expected) in [
            (OriginPattern::Exact("https://a.com".into()), "https://a.com", true),
            (OriginPattern::Exact("https://a.com".into()), "http://a.com", false),
            (OriginPattern::Exact("https://a.com".into()), "https://a.com:8443", false),
            (OriginPattern::Any, "null", true),
            (wildcard(), "https://x.example.com", true),
            (wildcard(), "https://x.y.example.com", true),
            (wildcard(), "https://example.com", false),
            (wildcard(), "http://x.example.com", false),
            (wildcard(), "https://x.example.com:8443", false),
            (wildcard(), "https://x.example.com.evil.org", false),
        ] {
            assert_eq!(matches(&pattern, value), expected, "{pattern:?} {value}");
        }
    }

    fn preflight_fields(cors: &Cors, from: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let verdict = verdict(cors, &origin(from));
        let (method, asked) = (HeaderValue::from_static("DELETE"), HeaderValue::from_static("x-z"));
        write_preflight(cors, &verdict, &method, Some(&asked), |n, v| {
            headers.insert(n, v);
        });
        headers
    }

    #[test]
    fn a_preflight_of_an_allowed_origin_is_told_what_is_allowed_gep1767() {
        let exact = vec![OriginPattern::Exact("https://a.com".into())];
        let told = preflight_fields(&cors(exact.clone(), true), "https://a.com");
        assert_eq!(told["access-control-allow-origin"], "https://a.com");
        assert_eq!(told["access-control-allow-credentials"], "true");
        assert_eq!(told["access-control-allow-methods"], "GET, PUT");
        assert_eq!(told["access-control-allow-headers"], "x-a, x-b");
        assert_eq!(told["access-control-expose-headers"], "x-c");
        assert_eq!(told["access-control-max-age"], "600");
        assert!(preflight_fields(&cors(exact, true), "https://b.com").is_empty());
    }

    #[test]
    fn wildcards_are_spelled_out_where_credentials_are_allowed() {
        let mut any = cors(vec![OriginPattern::Any], false);
        (any.allow_any_method, any.allow_any_header) = (true, true);
        let told = preflight_fields(&any, "https://a.com");
        assert_eq!(told["access-control-allow-origin"], "*");
        assert_eq!(told["access-control-allow-methods"], "*");
        assert_eq!(told["access-control-allow-headers"], "*");
        any.allow_credentials = true;
        let told = preflight_fields(&any, "https://a.com");
        assert_eq!(told["access-control-allow-origin"], "https://a.com");
        assert_eq!(told["access-control-allow-methods"], "DELETE");
        assert_eq!(told["access-control-allow-headers"], "x-z");
    }

    #[test]
    fn an_answer_says_who_may_read_it_and_what() {
        let cors = cors(vec![OriginPattern::Exact("https://a.com".into())], false);
        let mut told = HeaderMap::new();
        write_actual(&cors, &verdict(&cors, &origin("https://a.com")), |n, v| {
            told.insert(n, v);
        });
        assert_eq!(told["access-control-allow-origin"], "https://a.com");
        assert_eq!(told["access-control-expose-headers"], "x-c");
        assert!(varies(&cors));
    }
}
