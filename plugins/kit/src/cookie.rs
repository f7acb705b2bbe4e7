//! Cookies of a request (RFC 6265, section 4.2).

use sluice_plugin::Request;

/// Every value that the request gives this cookie. More than one: another site of the same domain may have set one of them.
pub fn values(request: &Request<'_>, name: &str) -> Vec<String> {
    let fields = request.header_values("cookie");
    let pairs = fields.iter().filter_map(|field| std::str::from_utf8(field).ok()).flat_map(|field| field.split(';'));
    pairs
        .filter_map(|pair| pair.split_once('='))
        .filter(|(key, _)| key.trim() == name)
        .map(|(_, value)| unquoted(value.trim()).to_owned())
        .collect()
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value)
}

/// The `Cookie` that is left without this one, empty where nothing is; none where the request has no such cookie.
pub fn without(request: &Request<'_>, name: &str) -> Option<String> {
    if values(request, name).is_empty() {
        return None;
    }
    let fields = request.header_values("cookie");
    let texts: Vec<_> = fields.iter().map(|field| String::from_utf8_lossy(field)).collect();
    let pairs = texts.iter().flat_map(|field| field.split(';')).map(str::trim);
    let is_other = |pair: &&str| !pair.is_empty() && pair.split('=').next().map(str::trim) != Some(name);
    Some(pairs.filter(is_other).collect::<Vec<_>>().join("; "))
}

/// Whether a text can be a cookie's name: a token (RFC 9110, section 5.6.2).
pub fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// The pattern of a schema for [`is_name`].
pub const NAME: &str = "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$";

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_plugin::testing::Exchange;

    #[test]
    fn a_cookie_is_found_among_others_and_in_each_field() {
        let exchange = Exchange::get("/").header("cookie", "a=1; bb=2;c=\"3\"").header("cookie", "a=4; b=x=y");
        let request = exchange.request();
        assert_eq!(values(&request, "a"), ["1", "4"]);
        assert_eq!(values(&request, "b"), ["x=y"]);
        assert_eq!(values(&request, "c"), ["3"]);
        assert_eq!(values(&request, "A"), Vec::<String>::new());
        let quotes = Exchange::get("/").header("cookie", "a=\"\"1\"\"; b=\"2; c=\"");
        let request = quotes.request();
        assert_eq!(["a", "b", "c"].map(|name| values(&request, name)), [["\"1\""], ["\"2"], ["\""]]);
    }

    #[test]
    fn a_cookie_is_taken_out_and_the_others_stay() {
        let exchange = Exchange::get("/").header("cookie", "a=1; b=2;c=3").header("cookie", "b=4; d=5");
        assert_eq!(without(&exchange.request(), "b").as_deref(), Some("a=1; c=3; d=5"));
        assert_eq!(without(&exchange.request(), "x"), None);
        assert_eq!(without(&Exchange::get("/").header("cookie", "a=1").request(), "a").as_deref(), Some(""));
    }

    #[test]
    fn a_name_is_a_token() {
        assert!(is_name("__Host-csrf"));
        assert!(!is_name("") && !is_name("a b") && !is_name("a;b") && !is_name("a=b"));
    }
}
