//! The CORS filter (GEP-1767).

use super::filter::CorsRules;
use crate::report::Report;
use crate::values::header_name;
use http::{HeaderName, Method};
use sluice_model::config::{Cors, OriginPattern};
use sluice_model::{Code, Hostname};
use std::time::Duration;

/// The API's default.
const MAX_AGE: i32 = 5;

pub(super) fn read(rules: &CorsRules<'_>, field: &str, report: &mut Report<'_>) -> Option<Cors> {
    let mut complete = true;
    let mut allow_origins = Vec::new();
    for (i, text) in rules.allow_origins.iter().enumerate() {
        match origin(text) {
            Some(origin) => allow_origins.push(origin),
            None => {
                let message = format!(
                    "`{text}` is not an origin: write `*`, `https://*`, `https://host`, `https://*.host`, or with a port"
                );
                report.error(Code::UnsupportedValue, format!("{field}.allowOrigins[{i}]"), message);
                complete = false;
            }
        }
    }
    let mut allow_methods = Vec::new();
    let mut allow_any_method = false;
    for (i, text) in rules.allow_methods.iter().enumerate() {
        match (text.as_str(), Method::from_bytes(text.as_bytes())) {
            ("*", _) => allow_any_method = true,
            (_, Ok(method)) => allow_methods.push(method),
            (_, Err(_)) => {
                let message = format!("`{text}` is not a method");
                report.error(Code::UnsupportedValue, format!("{field}.allowMethods[{i}]"), message);
                complete = false;
            }
        }
    }
    let mut names = |texts: &[String], list: &str| {
        let mut names: Vec<HeaderName> = Vec::new();
        let mut any = false;
        for (i, text) in texts.iter().enumerate() {
            if text == "*" {
                any = true;
            } else if let Some(name) = header_name(text, &format!("{field}.{list}[{i}]"), report) {
                names.push(name);
            } else {
                complete = false;
            }
        }
        (names, any)
    };
    let (allow_headers, allow_any_header) = names(rules.allow_headers, "allowHeaders");
    let (expose_headers, expose_any_header) = names(rules.expose_headers, "exposeHeaders");
    let seconds = rules.max_age.unwrap_or(MAX_AGE);
    let Ok(seconds) = u64::try_from(seconds) else {
        report.error(Code::OutOfRange, format!("{field}.maxAge"), format!("{seconds} is below 0"));
        return None;
    };
    complete.then(|| Cors {
        allow_origins,
        allow_credentials: rules.allow_credentials,
        allow_methods,
        allow_any_method,
        allow_headers,
        allow_any_header,
        expose_headers,
        expose_any_header,
        max_age: Duration::from_secs(seconds),
    })
}

/// Scheme, host with or without a wildcard for its first labels, and port.
fn origin(text: &str) -> Option<OriginPattern> {
    if text == "*" {
        return Some(OriginPattern::Any);
    }
    let (scheme, rest) = text.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let letters = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    if !letters || rest.is_empty() || rest.contains(['/', '?', '#', '@', ' ']) {
        return None;
    }
    // A wildcard by itself is any host of the scheme; before anything but a dot it would stand for half a label.
    if let Some(port) = rest.strip_prefix('*').filter(|after| after.is_empty() || after.starts_with(':')) {
        let port = match port.strip_prefix(':') {
            Some(port) => Some(port.parse().ok()?),
            None => None,
        };
        return Some(OriginPattern::Wildcard { scheme: scheme.into(), suffix: "".into(), port });
    }
    let Some(wild) = rest.strip_prefix("*.") else {
        if rest.contains('*') {
            return None;
        }
        return Some(OriginPattern::Exact(format!("{scheme}://{}", rest.to_ascii_lowercase()).into()));
    };
    let (host, port) = match wild.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse().ok()?)),
        None => (wild, None),
    };
    let host = Hostname::parse(host).ok()?;
    Some(OriginPattern::Wildcard { scheme: scheme.into(), suffix: format!(".{host}").into(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_a_scheme_a_host_and_a_port() {
        assert_eq!(origin("*"), Some(OriginPattern::Any));
        assert_eq!(origin("https://A.example:8443"), Some(OriginPattern::Exact("https://a.example:8443".into())));
        assert_eq!(
            origin("http://*.example.com:81"),
            Some(OriginPattern::Wildcard { scheme: "http".into(), suffix: ".example.com".into(), port: Some(81) })
        );
        assert_eq!(
            origin("https://*:8443"),
            Some(OriginPattern::Wildcard { scheme: "https".into(), suffix: "".into(), port: Some(8443) })
        );
        for bad in
            ["example.com", "https://", "https://a/b", "https://*.a:x", "https://u@a", "://a", "https://*foo.com"]
        {
            assert_eq!(origin(bad), None, "{bad}");
        }
    }
}
