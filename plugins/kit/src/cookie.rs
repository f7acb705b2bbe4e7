//! Cookies of a request (RFC 6265, section 4.2).

use sluice_plugin::Request;

/// The pairs of each field, as bytes: one that is not UTF-8 hides no other.
fn pairs(fields: &[Vec<u8>]) -> impl Iterator<Item = &[u8]> {
    fields.iter().flat_map(|field| field.split(|byte| *byte == b';')).map(trim)
}

/// Without spaces and tabs around it, and nothing else: what Unicode calls white space belongs to a name (RFC 6265, section
/// 5.2). A sibling host may set a cookie that differs from a `__Host-` one in that alone.
fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// The name of a pair, which is a token; without an equals sign all of it. And the value.
fn split(pair: &[u8]) -> Option<(&str, Option<&[u8]>)> {
    let mut parts = pair.splitn(2, |byte| *byte == b'=');
    let name = std::str::from_utf8(trim(parts.next()?)).ok().filter(|name| is_name(name))?;
    Some((name, parts.next().map(trim)))
}

/// Names and values. A value that is not UTF-8 is still there, as another one.
fn read(fields: &[Vec<u8>]) -> impl Iterator<Item = (&str, String)> {
    let read = |pair| {
        let (name, value) = split(pair)?;
        Some((name, unquoted(&String::from_utf8_lossy(value?)).to_owned()))
    };
    pairs(fields).filter_map(read)
}

/// Those cookies of the request whose names begin so, in order.
pub fn beginning_with(request: &Request<'_>, start: &str) -> Vec<(String, String)> {
    let fields = request.header_values("cookie");
    let found = read(&fields).filter(|(name, _)| name.starts_with(start));
    found.map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Every value that the request gives this cookie. More than one: another site of the same domain may have set one of them.
pub fn values(request: &Request<'_>, name: &str) -> Vec<String> {
    let fields = request.header_values("cookie");
    read(&fields).filter(|(key, _)| *key == name).map(|(_, value)| value).collect()
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value)
}

/// The `Cookie` that is left without this one, empty where nothing is; none where the request has no such cookie.
pub fn without(request: &Request<'_>, name: &str) -> Option<Vec<u8>> {
    without_those(request, |other| other == name)
}

/// The `Cookie` that is left without some, by their names. The others stay as they are, to the byte.
pub fn without_those(request: &Request<'_>, goes: impl Fn(&str) -> bool) -> Option<Vec<u8>> {
    let fields = request.header_values("cookie");
    let goes = |pair: &&[u8]| split(pair).is_some_and(|(name, _)| goes(name));
    if !pairs(&fields).any(|pair| goes(&pair)) {
        return None;
    }
    let stay: Vec<_> = pairs(&fields).filter(|pair| !pair.is_empty() && !goes(pair)).collect();
    Some(stay.join(&b"; "[..]))
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
        let begin = beginning_with(&request, "b");
        let begin: Vec<_> = begin.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(begin, [("bb", "2"), ("b", "x=y")]);
        let quotes = Exchange::get("/").header("cookie", "a=\"\"1\"\"; b=\"2; c=\"");
        let request = quotes.request();
        assert_eq!(["a", "b", "c"].map(|name| values(&request, name)), [["\"1\""], ["\"2"], ["\""]]);
    }

    #[test]
    fn a_cookie_is_taken_out_and_the_others_stay() {
        let exchange = Exchange::get("/").header("cookie", "a=1; b=2;c=3").header("cookie", "b=4; d=5");
        assert_eq!(without(&exchange.request(), "b").as_deref(), Some(&b"a=1; c=3; d=5"[..]));
        assert_eq!(without(&exchange.request(), "x"), None);
        assert_eq!(without(&Exchange::get("/").header("cookie", "a=1").request(), "a").as_deref(), Some(&b""[..]));
        let several = without_those(&exchange.request(), |name| name < "c");
        assert_eq!(several.as_deref(), Some(&b"c=3; d=5"[..]));
    }

    #[test]
    fn a_name_that_only_looks_like_another_is_not_that_one() {
        // Browsers keep what a sibling host sets under such a name: to them it does not begin with `__Host-`.
        for around in ["\u{2000}", "\u{85}", "\u{a0}", "\u{3000}", "\u{b}", "\u{c}", "\""] {
            for name in [format!("{around}__Host-a"), format!("__Host-a{around}"), format!(" {around} __Host-a")] {
                let exchange = Exchange::get("/").header("cookie", format!("b=1; {name}=evil"));
                let request = exchange.request();
                assert_eq!(values(&request, "__Host-a"), Vec::<String>::new(), "{name:?}");
                assert_eq!(beginning_with(&request, "__Host-"), [], "{name:?}");
                assert_eq!(without(&request, "__Host-a"), None, "{name:?}");
            }
        }
        let exchange = Exchange::get("/").header("cookie", " \t__Host-a\t =\t1 ;");
        assert_eq!(values(&exchange.request(), "__Host-a"), ["1"]);
    }

    #[test]
    fn a_pair_that_is_not_utf_8_hides_no_other_and_is_passed_on_as_it_is() {
        let exchange = Exchange::get("/").header("cookie", b"a=1; \xa0a=2; b=\xff\x00; a=3;c".as_slice());
        let request = exchange.request();
        assert_eq!(values(&request, "a"), ["1", "3"]);
        assert_eq!(values(&request, "b"), ["\u{fffd}\0"], "it is one, and none that anybody knows");
        assert_eq!(without(&request, "a").as_deref(), Some(&b"\xa0a=2; b=\xff\x00; c"[..]));
        assert_eq!(without(&request, "b").as_deref(), Some(&b"a=1; \xa0a=2; a=3; c"[..]));
        assert_eq!(without(&request, "c").as_deref(), Some(&b"a=1; \xa0a=2; b=\xff\x00; a=3"[..]));
    }

    #[test]
    fn a_name_is_a_token() {
        assert!(is_name("__Host-csrf"));
        assert!(!is_name("") && !is_name("a b") && !is_name("a;b") && !is_name("a=b"));
    }
}
