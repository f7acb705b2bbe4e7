//! URLs of the provider, and paths that a browser may be sent to.

/// An absolute URL of http or https, without user, password and fragment. It holds nothing that could end a header or a
/// quoted text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    url: String,
    authority: String,
    target: String,
}

/// What no URL holds as it is (RFC 3986, section 2), and what browsers take for a slash.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic() && !br#""<>\^`{|}#"#.contains(&byte))
}

impl Endpoint {
    pub(crate) fn parse(url: &str) -> Option<Endpoint> {
        let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.is_empty() || authority.contains('@') || !is_plain(url) {
            return None;
        }
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        Some(Endpoint { url: url.to_owned(), authority: authority.to_owned(), target })
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// Path and query.
    pub(crate) fn target(&self) -> &str {
        &self.target
    }

    pub(crate) fn is_secure(&self) -> bool {
        self.url.starts_with("https://")
    }

    /// Scheme and authority.
    pub(crate) fn origin(&self) -> String {
        format!("{}://{}", if self.is_secure() { "https" } else { "http" }, self.authority)
    }

    /// The URL with further parameters.
    pub(crate) fn with(&self, query: &str) -> String {
        let joint = match self.url.split_once('?') {
            None => "?",
            Some((_, own)) if own.is_empty() || own.ends_with('&') => "",
            Some(_) => "&",
        };
        format!("{}{joint}{query}", self.url)
    }
}

/// Whether a browser that is sent to this stays on the same origin: a path with an optional query, of which browsers leave
/// more as it is than RFC 3986 does. Two slashes at its beginning, or a slash and a backslash, would be another host.
pub(crate) fn is_local(target: &str) -> bool {
    let path = target.split('?').next().unwrap_or_default();
    let fits = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
    path.starts_with('/') && !path.starts_with("//") && !path.contains('\\') && target.bytes().all(fits)
}

/// Whether a path is in the one form that the gateway gives to paths of requests (RFC 3986, section 6.2.2): no request has
/// another. An escaped slash is none here, since a listener says what becomes of it.
pub(crate) fn is_normal(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else { return false };
    let mut segments = rest.split('/').peekable();
    while let Some(segment) = segments.next() {
        let empty = segment.is_empty() && segments.peek().is_some();
        if empty || matches!(segment, "." | "..") || !is_normal_segment(segment) {
            return false;
        }
    }
    true
}

fn is_normal_segment(segment: &str) -> bool {
    let is_unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let mut parts = segment.split('%');
    let plain = |text: &str| text.bytes().all(|byte| is_unreserved(byte) || b"!$&'()*+,;=:@".contains(&byte));
    parts.next().is_some_and(plain)
        && parts.all(|part| {
            let Some((digits, rest)) = part.split_at_checked(2) else { return false };
            let upper = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
            let escaped = u8::from_str_radix(digits, 16);
            let needed = escaped.is_ok_and(|byte| byte != 0 && byte != b'/' && byte != b'\\' && !is_unreserved(byte));
            upper && needed && plain(rest)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_host_and_a_target() {
        for (url, authority, target) in [
            ("https://idp.example", "idp.example", "/"),
            ("https://idp.example:8443/a/token", "idp.example:8443", "/a/token"),
            ("http://[::1]:80/a?b=c", "[::1]:80", "/a?b=c"),
            ("https://idp.example?p=1", "idp.example", "/?p=1"),
        ] {
            let endpoint = Endpoint::parse(url).unwrap();
            assert_eq!((endpoint.authority(), endpoint.target()), (authority, target), "{url}");
        }
    }

    #[test]
    fn what_is_no_such_url_is_none() {
        for url in [
            "",
            "/token",
            "https://",
            "https:///token",
            "ftp://idp.example/",
            "javascript:alert(1)",
            "https://idp.example/a#b",
            "https://user@idp.example/",
            "https://idp.example/a b",
            "https://idp.example/\r\nset-cookie: a=b",
            "https://idp.example/\"onload=",
            "https://idp.example\\@evil.example/",
            "https://idp.example/é",
        ] {
            assert_eq!(Endpoint::parse(url), None, "{url}");
        }
    }

    #[test]
    fn parameters_follow_those_that_are_there() {
        for (url, whole) in [
            ("https://idp.example/a", "https://idp.example/a?x=1"),
            ("https://idp.example/a?", "https://idp.example/a?x=1"),
            ("https://idp.example/a?p=b2c", "https://idp.example/a?p=b2c&x=1"),
        ] {
            assert_eq!(Endpoint::parse(url).unwrap().with("x=1"), whole);
        }
    }

    #[test]
    fn a_path_in_normal_form_is_what_requests_have() {
        for path in ["/", "/a", "/oauth2/callback", "/a/", "/a.b/..c/...", "/~a-b_c/%20%C3%A9", "/a;b=c:d@e!$&'()*+,"] {
            assert!(is_normal(path), "{path}");
        }
        for path in [
            "",
            "a",
            "oauth2/callback",
            "//a",
            "/a//b",
            "/a//",
            "/.",
            "/..",
            "/a/./b",
            "/a/../b",
            "/a/..",
            "/%61",
            "/%7E",
            "/%2e%2e/a",
            "/%c3%a9",
            "/a%2Fb",
            "/a%5Cb",
            "/%00",
            "/%",
            "/%4",
            "/%zz",
            "/%+1",
            "/a b",
            "/a\\b",
            "/a|b",
            "/a{b}",
            "/a?b",
            "/a#b",
            "/é",
            "/%é",
        ] {
            assert!(!is_normal(path), "{path}");
        }
    }

    #[test]
    fn a_browser_is_sent_to_no_other_host() {
        for target in ["/", "/a/b?c=//d", "/%2F/evil.example", "/?next=https://evil.example", "/a|b?f={c|d}\\e"] {
            assert!(is_local(target), "{target}");
        }
        for target in [
            "",
            "a",
            "//evil.example",
            "///evil.example",
            "/\\evil.example",
            "/a\\b",
            "/a#b",
            "/é",
            "\\\\evil.example",
            "/\t/evil.example",
            "/a\r\nlocation: https://evil.example",
            "https://evil.example",
            "/a b",
        ] {
            assert!(!is_local(target), "{target:?}");
        }
    }
}
