//! Cookies of a request (RFC 6265, section 5.4).

use http::HeaderMap;
use http::header::COOKIE;

/// The values of the cookies of this name, over all Cookie fields, in their order.
pub(crate) fn values<'h>(headers: &'h HeaderMap, name: &'h [u8]) -> impl Iterator<Item = &'h [u8]> {
    headers
        .get_all(COOKIE)
        .iter()
        .flat_map(|field| field.as_bytes().split(|b| *b == b';'))
        .filter_map(|pair| {
            let pair = pair.trim_ascii();
            let (at, _) = pair.iter().enumerate().find(|(_, b)| **b == b'=')?;
            Some((&pair[..at], &pair[at + 1..]))
        })
        .filter(move |(found, _)| *found == name)
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn cookies_of_one_name_are_found_in_every_field() {
        let mut headers = HeaderMap::new();
        for field in ["a=1; b=2;a=3", "c; a=; aa=4", " a=5=6 "] {
            headers.append(COOKIE, HeaderValue::from_static(field));
        }
        let found: Vec<&[u8]> = values(&headers, b"a").collect();
        assert_eq!(found, [&b"1"[..], b"3", b"", b"5=6"]);
    }
}
