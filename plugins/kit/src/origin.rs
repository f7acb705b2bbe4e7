//! Origins (RFC 6454): scheme, host and port.

/// The origin of a URL, in one form: in lower case, without the port that the scheme has anyway. None for `null` and what is
/// no URL with a host.
pub fn of(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let authority = rest.split(['/', '?', '#']).next()?.to_ascii_lowercase();
    let plain = !authority.is_empty() && !authority.bytes().any(|b| b <= b' ' || b == b'@' || b == b'\\' || b == 127);
    let letters = !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    if !plain || !letters {
        return None;
    }
    let port = match scheme.as_str() {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    let host = if port.is_empty() { &authority } else { authority.strip_suffix(port).unwrap_or(&authority) };
    Some(format!("{scheme}://{host}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_host_and_port_in_one_form() {
        for (url, origin) in [
            ("https://Shop.example", "https://shop.example"),
            ("https://shop.example:443/a?b=https://evil.example", "https://shop.example"),
            ("http://shop.example:80", "http://shop.example"),
            ("http://shop.example:443/", "http://shop.example:443"),
            ("https://[2001:db8::1]:8443/x", "https://[2001:db8::1]:8443"),
            ("https://shop.example?x", "https://shop.example"),
        ] {
            assert_eq!(of(url).as_deref(), Some(origin), "{url}");
        }
    }

    #[test]
    fn what_has_no_host_or_pretends_to_have_one_has_no_origin() {
        for url in ["null", "", "https://", "https:///a", "://a", "https://shop.example@evil.example/", "a b://c"] {
            assert_eq!(of(url), None, "{url}");
        }
    }
}
