//! Parameters of a query string (`application/x-www-form-urlencoded`).

/// The decoded values of every parameter called `name`.
pub fn values<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = Vec<u8>> + 'a {
    query.split('&').filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key) == name.as_bytes()).then(|| decode(value))
    })
}

/// The query without those; none where it had none.
pub fn without(query: &str, name: &str) -> Option<String> {
    let is_other = |pair: &&str| decode(pair.split('=').next().unwrap_or_default()) != name.as_bytes();
    let rest: Vec<_> = query.split('&').filter(is_other).collect();
    (rest.len() < query.split('&').count()).then(|| rest.join("&"))
}

/// Percent-decoding, with a plus for a space. What is not an escape stays as it is.
pub fn decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, after @ ..] = rest {
        let escape = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        let digits = after.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        match (first, digits.and_then(escape)) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                rest = after.get(2..).unwrap_or_default();
                continue;
            }
            (b'+', _) => decoded.push(b' '),
            _ => decoded.push(*first),
        }
        rest = after;
    }
    decoded
}

/// Percent-encoding of everything but letters, digits and `-._~`: for a name or value of a query, or of a form.
pub fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// A query, or the body of a form.
pub fn of<'p>(parameters: impl IntoIterator<Item = (&'p str, &'p str)>) -> String {
    let pairs = parameters.into_iter().map(|(name, value)| format!("{}={}", encode(name), encode(value)));
    pairs.collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded() {
        let found: Vec<_> = values("a=1&key=x%2By+z&k%65y=2&key", "key").collect();
        assert_eq!(found, [b"x+y z".to_vec(), b"2".to_vec(), b"".to_vec()]);
    }

    #[test]
    fn the_rest_of_a_query_stays_as_it_was_written() {
        assert_eq!(without("a=%41&key=x&b", "key").as_deref(), Some("a=%41&b"));
        assert_eq!(without("key=x", "key").as_deref(), Some(""));
        assert_eq!(without("a=1", "key"), None);
    }

    #[test]
    fn what_is_encoded_is_decoded_to_the_same() {
        let query = of([("scope", "openid a&b"), ("url", "https://é.example/?a=1#b")]);
        assert_eq!(query, "scope=openid%20a%26b&url=https%3A%2F%2F%C3%A9.example%2F%3Fa%3D1%23b");
        assert_eq!(values(&query, "url").next(), Some("https://é.example/?a=1#b".as_bytes().to_vec()));
    }

    #[test]
    fn broken_escapes_stay() {
        assert_eq!(decode("%zz%4"), b"%zz%4");
        assert_eq!(decode("100%"), b"100%");
    }
}
