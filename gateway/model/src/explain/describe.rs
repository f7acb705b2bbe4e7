//! Matches, filters and limits in words.

use crate::config::{Filters, HeaderOps, PathMatch, PathRewrite, Redirect, RouteMatch, Rule, ValueMatch};
use std::time::Duration;

/// `prefix /web, method GET, header x-a = 1`.
pub(super) fn route(route: &RouteMatch) -> String {
    let method = route.method.iter().map(|m| format!("method {m}"));
    let headers = route.headers.iter().map(|h| format!("header {} {}", h.name, value(&h.value)));
    let query = route.query.iter().map(|q| format!("query {} {}", q.name, value(&q.value)));
    let grpc = route.grpc_method.iter().map(|m| format!("gRPC method {}", value(m)));
    let parts: Vec<String> =
        std::iter::once(path(&route.path)).chain(grpc).chain(method).chain(headers).chain(query).collect();
    parts.join(", ")
}

pub(super) fn path(path: &PathMatch) -> String {
    match path {
        PathMatch::Exact(text) => format!("exact {text}"),
        PathMatch::Prefix(text) if text.is_empty() => "prefix /".to_owned(),
        PathMatch::Prefix(text) => format!("prefix {text}"),
        PathMatch::Regex(pattern) => format!("expression {}", pattern.source),
    }
}

pub(super) fn value(value: &ValueMatch) -> String {
    match value {
        ValueMatch::Exact(text) => format!("= {text}"),
        ValueMatch::Regex(pattern) => format!("~ {}", pattern.source),
    }
}

pub(super) fn filters(filters: &Filters) -> Vec<String> {
    let mut words = Vec::new();
    if let Some(cors) = &filters.cors {
        words.push(format!("answers CORS preflights for {} origin patterns", cors.allow_origins.len()));
    }
    if let Some(auth) = &filters.external_auth {
        words.push(format!("asks {} whether the request may go on ({})", auth.backend, auth.protocol.name()));
    }
    words.extend(header_ops("request", &filters.request_headers));
    if let Some(rewrite) = &filters.rewrite {
        let host = rewrite.hostname.iter().map(|h| format!("host to {h}"));
        let parts: Vec<String> = host.chain(rewrite.path.iter().map(path_rewrite)).collect();
        words.push(format!("rewrites {}", parts.join(" and ")));
    }
    let mirror =
        |m: &crate::config::Mirror| format!("mirrors {} of {} requests to {}", m.numerator, m.denominator, m.backend);
    words.extend(filters.mirrors.iter().map(mirror));
    words.extend(header_ops("response", &filters.response_headers));
    words
}

fn path_rewrite(rewrite: &PathRewrite) -> String {
    match rewrite {
        PathRewrite::Full(text) => format!("path to {text}"),
        PathRewrite::PrefixMatch(text) if text.is_empty() => "the matched prefix to /".to_owned(),
        PathRewrite::PrefixMatch(text) => format!("the matched prefix to {text}"),
    }
}

/// Names only: values may be secrets.
fn header_ops(side: &str, ops: &HeaderOps) -> Option<String> {
    let list = |verb: &str, names: Vec<&str>| (!names.is_empty()).then(|| format!("{verb} {}", names.join(", ")));
    let parts: Vec<String> = [
        list("sets", ops.set.iter().map(|(name, _)| name.as_str()).collect()),
        list("adds", ops.add.iter().map(|(name, _)| name.as_str()).collect()),
        list("removes", ops.remove.iter().map(|name| name.as_str()).collect()),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!parts.is_empty()).then(|| format!("{side} headers: {}", parts.join("; ")))
}

/// `301 to https, host www.example.com, port 8443, path to /new`.
pub(super) fn redirect(redirect: &Redirect) -> String {
    let scheme = redirect.scheme.iter().map(|s| format!("{s:?}").to_lowercase());
    let host = redirect.hostname.iter().map(|h| format!("host {h}"));
    let port = redirect.port.iter().map(|p| format!("port {p}"));
    let path = redirect.path.iter().map(path_rewrite);
    let parts: Vec<String> = scheme.chain(host).chain(port).chain(path).collect();
    let target = if parts.is_empty() { "the same URL".to_owned() } else { parts.join(", ") };
    format!("{} to {target}", redirect.status.as_u16())
}

pub(super) fn limits(rule: &Rule) -> Vec<String> {
    let time = |name: &str, value: Option<Duration>| value.map(|v| format!("{name} timeout {v:?}"));
    let mut words: Vec<String> =
        [time("request", rule.request_timeout), time("backend", rule.backend_timeout)].into_iter().flatten().collect();
    if let Some(bytes) = rule.client.max_body {
        words.push(format!("body of at most {bytes} bytes"));
    }
    if !rule.client.ip_allow.is_empty() {
        let networks: Vec<String> = rule.client.ip_allow.iter().map(ToString::to_string).collect();
        words.push(format!("clients from {} only", networks.join(", ")));
    }
    if let Some(slashes) = rule.client.escaped_slashes {
        words.push(format!("encoded slashes: {slashes:?}"));
    }
    words
}
