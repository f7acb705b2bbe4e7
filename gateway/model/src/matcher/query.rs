//! Query parameters, read once a request and only where a route asks for one.
//!
//! The API compares names and values as RFC 9110 (4.2.3, of old RFC 7230, 2.7.3) compares URIs: percent-encoded octets
//! are the octets they stand for, and nothing else is decoded. `+` is a plus; that it stands for a space is a rule of
//! HTML forms, not of URIs. Parameters are parted by `&`. Of a name that is repeated the first value counts, which is
//! what the API recommends; a parameter without `=` has the empty value. A `%` that two digits do not follow is
//! itself.

use smallvec::SmallVec;
use std::sync::Arc;

/// The parameter names that the routes of one host ask for; a name is known by its position.
#[derive(Clone, Debug, Default)]
pub(super) struct QueryNames {
    names: Vec<Arc<str>>,
    /// Open addressing over `names`, by [`hash`]; 0 is empty, else the position and one. Twice as many places as names.
    table: Vec<u32>,
}

/// Positions of the values in the query, by name.
pub(super) type QueryValues = SmallVec<[Option<(u32, u32)>; 16]>;

impl QueryNames {
    /// `names` are distinct.
    pub(super) fn new(names: Vec<Arc<str>>) -> Self {
        let mut table = vec![0; names.len() * 2];
        for (position, name) in names.iter().enumerate() {
            let mut place = hash(name.bytes()) as usize % table.len();
            while table[place] != 0 {
                place = (place + 1) % table.len();
            }
            table[place] = position as u32 + 1;
        }
        QueryNames { names, table }
    }

    fn find(&self, encoded: &[u8]) -> Option<usize> {
        let mut place = hash(Decoder(encoded)) as usize % self.table.len();
        loop {
            let position = self.table[place].checked_sub(1)? as usize;
            if Decoder(encoded).eq(self.names[position].bytes()) {
                return Some(position);
            }
            place = (place + 1) % self.table.len();
        }
    }

    /// Where the first value of each name stands, in one pass.
    pub(super) fn values(&self, query: &[u8]) -> QueryValues {
        let mut values = SmallVec::from_elem(None, self.names.len());
        if query.is_empty() || self.names.is_empty() {
            return values;
        }
        let mut start = 0;
        for parameter in query.split(|b| *b == b'&') {
            let end = start + parameter.len();
            let equals = parameter.iter().position(|b| *b == b'=').unwrap_or(parameter.len());
            if let Some(position) = self.find(&parameter[..equals])
                && values[position].is_none()
            {
                values[position] = Some((end.min(start + equals + 1) as u32, end as u32));
            }
            start = end + 1;
        }
        values
    }
}

/// The first value of one parameter, decoded as for a match: for who asks about one request, not for the request path.
pub fn query_value(query: &str, name: &str) -> Option<Vec<u8>> {
    let names = QueryNames::new(vec![name.into()]);
    let (start, end) = (*names.values(query.as_bytes()).first()?)?;
    Some(Decoder(query.as_bytes().get(start as usize..end as usize)?).collect())
}

/// FNV-1a: names are short, and read a byte at a time.
fn hash(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

/// The octets that an encoded text stands for.
#[derive(Clone)]
pub(super) struct Decoder<'q>(pub(super) &'q [u8]);

impl Iterator for Decoder<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let digit = |b: u8| char::from(b).to_digit(16);
        let (&first, rest) = self.0.split_first()?;
        if first == b'%'
            && let [high, low, after @ ..] = rest
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
        {
            self.0 = after;
            return Some((high << 4 | low) as u8);
        }
        self.0 = rest;
        Some(first)
    }
}

/// `encoded` as octets: borrowed where nothing is encoded, on the stack where it is short.
pub(super) fn with_decoded<T>(encoded: &[u8], use_it: impl FnOnce(&[u8]) -> T) -> T {
    if !encoded.contains(&b'%') {
        return use_it(encoded);
    }
    use_it(&Decoder(encoded).collect::<SmallVec<[u8; 256]>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(names: &[&str], query: &str) -> Vec<Option<String>> {
        let table = QueryNames::new(names.iter().map(|n| Arc::from(*n)).collect());
        let decoded = |(start, end): (u32, u32)| {
            with_decoded(&query.as_bytes()[start as usize..end as usize], |v| String::from_utf8_lossy(v).into_owned())
        };
        table.values(query.as_bytes()).into_iter().map(|v| v.map(decoded)).collect()
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn the_first_of_several_values_counts() {
        assert_eq!(values(&["a", "b"], "b=1&a=2&a=3&b=4"), [some("2"), some("1")]);
    }

    #[test]
    fn names_and_values_compare_by_the_octets_they_stand_for() {
        assert_eq!(values(&["a b", "ü"], "%61%20b=%41%3d&%c3%bc=x"), [some("A="), some("x")]);
    }

    #[test]
    fn a_plus_is_a_plus() {
        assert_eq!(values(&["a b", "a+b"], "a+b=c+d"), [None, some("c+d")]);
    }

    #[test]
    fn a_parameter_without_equals_sign_has_the_empty_value() {
        assert_eq!(values(&["a", "b", "c"], "a&&b=&=c"), [some(""), some(""), None]);
    }

    #[test]
    fn a_percent_sign_that_is_no_escape_is_itself() {
        assert_eq!(values(&["%", "a"], "%=%zz&a=%4"), [some("%zz"), some("%4")]);
    }

    #[test]
    fn many_names_are_told_apart() {
        let names: Vec<String> = (0..200).map(|n| format!("n{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let query = names.iter().rev().map(|n| format!("{n}={n}")).collect::<Vec<_>>().join("&");
        assert_eq!(values(&names, &query), names.iter().map(|n| some(n)).collect::<Vec<_>>());
        assert_eq!(values(&names, ""), vec![None; 200]);
    }
}
