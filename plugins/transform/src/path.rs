//! Paths: encoding, and prefixes at the border of a segment.

/// Percent-encodes all but unreserved characters (RFC 3986, section 2.3), so that a value is one segment.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut encoded = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            encoded.push(char::from(*byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    // Alone in a segment, dots would mean another one.
    match encoded.as_str() {
        "." => "%2E".to_owned(),
        ".." => "%2E%2E".to_owned(),
        _ => encoded,
    }
}

/// What follows `prefix`, beginning with a slash or empty.
pub(crate) fn after_prefix<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

/// A new prefix before the rest, with one slash between them.
pub(crate) fn join(prefix: &str, rest: &str) -> String {
    let prefix = prefix.trim_end_matches('/');
    let path = format!("{prefix}{rest}");
    if path.is_empty() { "/".to_owned() } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_becomes_one_segment_whatever_it_holds() {
        assert_eq!(encode(b"a/b c?d"), "a%2Fb%20c%3Fd");
        assert_eq!(encode(b".."), "%2E%2E");
        assert_eq!(encode(b"..."), "...");
        assert_eq!(encode("\u{e9}".as_bytes()), "%C3%A9");
    }

    #[test]
    fn a_prefix_ends_where_a_segment_does() {
        assert_eq!(after_prefix("/api/x", "/api"), Some("/x"));
        assert_eq!(after_prefix("/api", "/api"), Some(""));
        assert_eq!(after_prefix("/apis", "/api"), None);
        assert_eq!(after_prefix("/x", ""), Some("/x"));
    }

    #[test]
    fn prefix_and_rest_meet_with_one_slash() {
        assert_eq!(join("/v2/", "/x"), "/v2/x");
        assert_eq!(join("/", "/x"), "/x");
        assert_eq!(join("/", ""), "/");
        assert_eq!(join("/v2", ""), "/v2");
    }
}
