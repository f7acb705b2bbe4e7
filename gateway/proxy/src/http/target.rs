//! Where a request goes instead of where it came to: path rewrites, and redirects made of them.

use ::http::HeaderValue;
use ::http::uri::PathAndQuery;
use bytes::{BufMut, BytesMut};
use sluice_model::config::{PathRewrite, Redirect, RedirectScheme};

/// The path after a rewrite, with the request's query. `prefix` is the length of what the rule's prefix matched; where
/// there is none any more nothing is replaced.
pub(super) fn rewritten(
    rewrite: &PathRewrite,
    path: &str,
    prefix: Option<usize>,
    query: Option<&str>,
) -> Option<PathAndQuery> {
    let mut target = BytesMut::with_capacity(path.len() + query.map_or(0, str::len) + 32);
    write_path(&mut target, rewrite, path, prefix);
    if let Some(query) = query {
        target.put_u8(b'?');
        target.put_slice(query.as_bytes());
    }
    PathAndQuery::from_maybe_shared(target.freeze()).ok()
}

/// How much of the path a second rewrite of its prefix would replace: what the first one put in its place.
pub(super) fn prefix_after(rewrite: &PathRewrite, prefix: Option<usize>) -> Option<usize> {
    match rewrite {
        PathRewrite::Full(_) => None,
        PathRewrite::PrefixMatch(replacement) => {
            prefix.map(|_| replacement.strip_suffix('/').unwrap_or(replacement).len())
        }
    }
}

/// Replaces whole elements only: what follows the prefix is empty or begins with a slash. Leading slashes are one, as
/// `//host` would name a host.
fn write_path(to: &mut BytesMut, rewrite: &PathRewrite, path: &str, prefix: Option<usize>) {
    let start = to.len();
    match rewrite {
        PathRewrite::Full(full) => to.put_slice(full.as_bytes()),
        PathRewrite::PrefixMatch(replacement) => {
            let Some(rest) = prefix.and_then(|prefix| path.get(prefix..)) else {
                to.put_slice(path.as_bytes());
                return;
            };
            let replacement = replacement.strip_suffix('/').unwrap_or(replacement);
            to.put_slice(replacement.as_bytes());
            let rest = if replacement.is_empty() { rest.trim_start_matches('/') } else { rest };
            if replacement.is_empty() {
                to.put_u8(b'/');
            }
            to.put_slice(rest.as_bytes());
        }
    }
    if to.len() == start {
        to.put_u8(b'/');
    }
}

/// What a redirect may fall back on.
#[derive(Debug)]
pub(super) struct Requested<'a> {
    pub(super) tls: bool,
    /// Without its port.
    pub(super) host: &'a str,
    pub(super) listener_port: u16,
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
    pub(super) prefix: Option<usize>,
}

/// The `Location` of a redirect (Gateway API, HTTPRequestRedirectFilter).
///
/// The port: the filter's own, else that of the filter's scheme, else the listener's (the API leaves no choice; the port
/// in the client's authority does not count). Ports that go without saying are left out.
pub(super) fn location(redirect: &Redirect, requested: &Requested<'_>) -> Option<HeaderValue> {
    let tls = redirect.scheme.map_or(requested.tls, |scheme| scheme == RedirectScheme::Https);
    let usual = if tls { 443 } else { 80 };
    let port = match (redirect.port, redirect.scheme) {
        (Some(port), _) => port,
        (None, Some(_)) => usual,
        (None, None) => requested.listener_port,
    };
    let mut location = BytesMut::with_capacity(requested.path.len() + 96);
    location.put_slice(if tls { b"https://" } else { b"http://" });
    location.put_slice(redirect.hostname.as_ref().map_or(requested.host, |host| host.as_str()).as_bytes());
    if port != usual {
        location.put_u8(b':');
        location.put_slice(HeaderValue::from(port).as_bytes());
    }
    match &redirect.path {
        Some(rewrite) => write_path(&mut location, rewrite, requested.path, requested.prefix),
        None => location.put_slice(requested.path.as_bytes()),
    }
    if let Some(query) = requested.query {
        location.put_u8(b'?');
        location.put_slice(query.as_bytes());
    }
    HeaderValue::from_maybe_shared(location.freeze()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::http::StatusCode;
    use sluice_model::Hostname;

    fn prefix(replacement: &str, path: &str, prefix: &str) -> String {
        let rewrite = PathRewrite::PrefixMatch(replacement.into());
        rewritten(&rewrite, path, Some(prefix.len()), None).unwrap().to_string()
    }

    /// The table in the API's documentation of `ReplacePrefixMatch`; prefixes without their final slash.
    #[test]
    fn a_prefix_is_replaced_by_whole_elements() {
        for (path, matched, replacement, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo/bar", "/foo", "/", "/bar"),
            ("/bar", "", "/xyz", "/xyz/bar"),
        ] {
            assert_eq!(prefix(replacement, path, matched), expected, "{path} {matched} -> {replacement}");
        }
    }

    #[test]
    fn a_path_that_lost_the_prefix_stays_as_it_is() {
        let rewrite = PathRewrite::PrefixMatch("/xyz".into());
        assert_eq!(rewritten(&rewrite, "/other/a", None, Some("q")).unwrap(), "/other/a?q");
    }

    #[test]
    fn a_rewrite_never_makes_a_target_that_names_a_host() {
        assert_eq!(prefix("", "/foo//evil.example", "/foo"), "/evil.example");
    }

    #[test]
    fn the_query_stays_as_it_is() {
        let full = PathRewrite::Full("/one".into());
        assert_eq!(rewritten(&full, "/foo", Some(0), Some("a=%20&b")).unwrap(), "/one?a=%20&b");
    }

    fn redirect() -> Redirect {
        Redirect { scheme: None, hostname: None, port: None, path: None, status: StatusCode::FOUND }
    }

    fn requested(tls: bool, listener_port: u16) -> Requested<'static> {
        Requested { tls, host: "a.com", listener_port, path: "/p", query: Some("q=1"), prefix: Some(0) }
    }

    fn to(redirect: &Redirect, requested: &Requested<'_>) -> String {
        location(redirect, requested).unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn a_redirect_keeps_what_it_does_not_name() {
        assert_eq!(to(&redirect(), &requested(false, 80)), "http://a.com/p?q=1");
        assert_eq!(to(&redirect(), &requested(false, 8080)), "http://a.com:8080/p?q=1");
        assert_eq!(to(&redirect(), &requested(true, 8443)), "https://a.com:8443/p?q=1");
    }

    #[test]
    fn a_scheme_brings_its_own_port() {
        let https = Redirect { scheme: Some(RedirectScheme::Https), ..redirect() };
        assert_eq!(to(&https, &requested(false, 8080)), "https://a.com/p?q=1");
        let other = Redirect { port: Some(8443), ..https };
        assert_eq!(to(&other, &requested(false, 80)), "https://a.com:8443/p?q=1");
        let usual = Redirect { port: Some(443), ..other };
        assert_eq!(to(&usual, &requested(false, 80)), "https://a.com/p?q=1");
    }

    #[test]
    fn host_and_path_are_replaced() {
        let other = Redirect {
            hostname: Some(Hostname::parse("b.com").unwrap()),
            path: Some(PathRewrite::PrefixMatch("/new".into())),
            ..redirect()
        };
        let requested = Requested { path: "/old/x", prefix: Some(4), query: None, ..requested(false, 80) };
        assert_eq!(to(&other, &requested), "http://b.com/new/x");
    }
}
