//! Parameters of a query string: those that are not named stay as they were written.

use crate::path::encode;
use kit::query::decode;

/// The query without `remove` and with one value for each of `set`; none where nothing is left.
pub(crate) fn change(query: Option<&str>, remove: &[String], set: &[(&str, Vec<u8>)]) -> Option<String> {
    let goes = |pair: &str| {
        let name = decode(pair.split('=').next().unwrap_or_default());
        remove.iter().any(|other| other.as_bytes() == name) || set.iter().any(|(other, _)| other.as_bytes() == name)
    };
    let stays = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty() && !goes(pair)).map(str::to_owned);
    let added = set.iter().map(|(name, value)| format!("{}={}", encode(name.as_bytes()), encode(value)));
    let pairs: Vec<_> = stays.chain(added).collect();
    (!pairs.is_empty()).then(|| pairs.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_that_are_not_named_stay_as_they_were_written() {
        let changed = change(Some("a=%41&b=1&c&b=2"), &["b".to_owned()], &[("d e", b"x&y".to_vec())]);
        assert_eq!(changed.as_deref(), Some("a=%41&c&d%20e=x%26y"));
    }

    #[test]
    fn a_name_is_found_however_it_is_encoded() {
        assert_eq!(change(Some("%62=1"), &["b".to_owned()], &[]), None);
        assert_eq!(change(Some("a=1"), &[], &[("a", b"2".to_vec())]).as_deref(), Some("a=2"));
    }

    #[test]
    fn a_query_comes_where_there_was_none() {
        assert_eq!(change(None, &[], &[("a", b"".to_vec())]).as_deref(), Some("a="));
        assert_eq!(change(None, &["a".to_owned()], &[]), None);
    }
}
