//! Paths of an API's description, and which of them a request's path is.

use std::cmp::Ordering;

/// One segment of a template; what is not a variable is decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Plain(Vec<u8>),
    Variable { before: Vec<u8>, name: String, after: Vec<u8> },
}

impl Segment {
    fn parse(text: &str) -> Result<Segment, &'static str> {
        let Some((before, rest)) = text.split_once('{') else {
            return if text.contains('}') { Err("it has a `}` too many") } else { Ok(Segment::Plain(decode(text))) };
        };
        let (name, after) = rest.split_once('}').ok_or("it lacks a `}`")?;
        if name.is_empty() || name.contains('{') || before.contains('}') {
            return Err("what stands between `{` and `}` is not a name");
        }
        if after.contains(['{', '}']) {
            return Err("a segment with two variables can be read in more than one way");
        }
        Ok(Segment::Variable { before: decode(before), name: name.to_owned(), after: decode(after) })
    }

    /// Concrete ones come first (OpenAPI, "Path Templating Matching"), and of two variables the one with more around it.
    fn order(&self, other: &Segment) -> Ordering {
        match (self, other) {
            (Segment::Plain(one), Segment::Plain(other)) => one.cmp(other),
            (Segment::Plain(_), Segment::Variable { .. }) => Ordering::Less,
            (Segment::Variable { .. }, Segment::Plain(_)) => Ordering::Greater,
            (
                Segment::Variable { before, after, .. },
                Segment::Variable { before: other_before, after: other_after, .. },
            ) => {
                let around = before.len() + after.len();
                let other_around = other_before.len() + other_after.len();
                other_around.cmp(&around).then_with(|| (before, after).cmp(&(other_before, other_after)))
            }
        }
    }
}

/// A path with variables.
#[derive(Debug)]
pub(crate) struct Template {
    segments: Vec<Segment>,
    /// The operation of each method.
    pub(crate) methods: Vec<(&'static str, usize)>,
}

impl Template {
    pub(crate) fn parse(text: &str) -> Result<Template, &'static str> {
        if !text.starts_with('/') {
            return Err("it does not begin with a slash");
        }
        let segments = text.split('/').skip(1).map(Segment::parse).collect::<Result<Vec<_>, _>>()?;
        let template = Template { segments, methods: Vec::new() };
        let mut names = template.variables();
        names.sort_unstable();
        if names.windows(2).any(|pair| matches!(pair, [one, other] if one == other)) {
            return Err("it has a variable twice");
        }
        Ok(template)
    }

    pub(crate) fn variables(&self) -> Vec<&str> {
        let names = self.segments.iter().filter_map(|segment| match segment {
            Segment::Variable { name, .. } => Some(name.as_str()),
            Segment::Plain(_) => None,
        });
        names.collect()
    }

    fn order(&self, other: &Template) -> Ordering {
        let pairs = self.segments.iter().zip(&other.segments);
        let unequal = pairs.map(|(one, other)| one.order(other)).find(|order| order.is_ne());
        self.segments.len().cmp(&other.segments.len()).then(unequal.unwrap_or(Ordering::Equal))
    }

    /// Its variables and what stands for them, as it is sent.
    fn matches<'t, 'r>(&'t self, segments: &[&'r str], decoded: &[Vec<u8>]) -> Option<Vec<(&'t str, &'r str)>> {
        if self.segments.len() != segments.len() {
            return None;
        }
        let mut values = Vec::new();
        for ((segment, raw), decoded) in self.segments.iter().zip(segments).zip(decoded) {
            match segment {
                Segment::Plain(text) if text == decoded => {}
                Segment::Plain(_) => return None,
                Segment::Variable { before, name, after } => {
                    let rest = decoded.strip_prefix(before.as_slice())?.strip_suffix(after.as_slice())?;
                    if rest.is_empty() {
                        return None;
                    }
                    let end = before.len() + rest.len();
                    values.push((name.as_str(), raw.get(written_at(raw, before.len())..written_at(raw, end))?));
                }
            }
        }
        Some(values)
    }
}

/// The paths of an API.
#[derive(Debug)]
pub(crate) struct Paths {
    /// What may stand before each of them, decoded; the longest first.
    bases: Vec<Vec<Vec<u8>>>,
    templates: Vec<Template>,
}

impl Paths {
    /// The error is a pair that no request could tell apart, by their places among `templates`.
    pub(crate) fn new(bases: &[String], templates: Vec<Template>) -> Result<Paths, (usize, usize)> {
        let mut numbered: Vec<(usize, Template)> = templates.into_iter().enumerate().collect();
        numbered.sort_by(|(_, one), (_, other)| one.order(other));
        for pair in numbered.windows(2) {
            if let [(at, one), (other_at, other)] = pair
                && one.order(other).is_eq()
            {
                return Err((*at, *other_at));
            }
        }
        let mut bases: Vec<Vec<Vec<u8>>> =
            bases.iter().map(|base| base.trim_end_matches('/').split('/').skip(1).map(decode).collect()).collect();
        bases.sort_by_key(|base| std::cmp::Reverse(base.len()));
        bases.dedup();
        Ok(Paths { bases, templates: numbered.into_iter().map(|(_, template)| template).collect() })
    }

    /// The most concrete template that a path fits, with the values of its variables.
    pub(crate) fn find<'t, 'r>(&'t self, path: &'r str) -> Option<(&'t Template, Vec<(&'t str, &'r str)>)> {
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let decoded: Vec<Vec<u8>> = segments.iter().map(|segment| decode(segment)).collect();
        self.bases.iter().find_map(|base| {
            if !decoded.starts_with(base) {
                return None;
            }
            let (segments, decoded) = (segments.get(base.len()..)?, decoded.get(base.len()..)?);
            self.templates.iter().find_map(|template| Some((template, template.matches(segments, decoded)?)))
        })
    }
}

/// Where in a text its decoded byte of this number is written.
fn written_at(text: &str, number: usize) -> usize {
    let mut at = 0;
    for _ in 0..number {
        let rest = text.get(at..).unwrap_or_default();
        at += if rest.starts_with('%') && is_escaped(rest.get(..3).unwrap_or(rest)) { 3 } else { 1 };
    }
    at
}

/// Percent-decoding, where a plus is a plus.
pub(crate) fn decode(text: &str) -> Vec<u8> {
    if text.contains('%') { kit::query::decode(&text.replace('+', "%2B")) } else { text.as_bytes().to_vec() }
}

/// Whether each `%` is followed by two digits: what is not is read in one way by one and in another by the next.
pub(crate) fn is_escaped(text: &str) -> bool {
    let is_digits =
        |rest: &str| rest.as_bytes().get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    text.split('%').skip(1).all(is_digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(bases: &[&str], templates: &[&str]) -> Paths {
        let bases: Vec<String> = bases.iter().map(|base| (*base).to_owned()).collect();
        let parsed = templates.iter().enumerate().map(|(at, text)| {
            let mut template = Template::parse(text).unwrap();
            template.methods.push(("GET", at));
            template
        });
        Paths::new(&bases, parsed.collect()).unwrap()
    }

    fn found(paths: &Paths, path: &str) -> Option<(usize, Vec<(String, String)>)> {
        let (template, values) = paths.find(path)?;
        let values = values.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        Some((template.methods[0].1, values.collect()))
    }

    fn one(name: &str, value: &str) -> Vec<(String, String)> {
        vec![(name.to_owned(), value.to_owned())]
    }

    #[test]
    fn what_is_concrete_is_found_before_what_is_not() {
        let paths = paths(&[""], &["/pets/{id}", "/pets/mine", "/{kind}/mine", "/pets/{id}.json", "/", "/pets"]);
        assert_eq!(found(&paths, "/pets/mine"), Some((1, vec![])));
        assert_eq!(found(&paths, "/pets/7"), Some((0, one("id", "7"))));
        assert_eq!(found(&paths, "/cats/mine"), Some((2, one("kind", "cats"))));
        assert_eq!(found(&paths, "/pets/7.json"), Some((3, one("id", "7"))));
        assert_eq!(found(&paths, "/"), Some((4, vec![])));
        assert_eq!(found(&paths, "/pets"), Some((5, vec![])));
        for path in ["/pets/", "/pets/7/", "/pets/7/x", "/pet", "//"] {
            assert_eq!(found(&paths, path), None, "{path}");
        }
    }

    #[test]
    fn a_base_stands_before_every_path_and_ends_with_a_segment() {
        let paths = paths(&["/v1/", "/v1/shop"], &["/pets", "/{any}"]);
        assert_eq!(found(&paths, "/v1/pets"), Some((0, vec![])));
        assert_eq!(found(&paths, "/v1/shop/pets"), Some((0, vec![])));
        assert_eq!(found(&paths, "/v1/shop"), Some((1, one("any", "shop"))));
        assert_eq!(found(&paths, "/v11/pets"), None);
        assert_eq!(found(&paths, "/pets"), None);
    }

    #[test]
    fn escapes_are_what_they_stand_for_but_never_a_slash() {
        let paths = paths(&[""], &["/a b/{x}", "/caf%C3%A9"]);
        assert_eq!(found(&paths, "/a%20b/c%2Fd"), Some((0, one("x", "c%2Fd"))));
        assert_eq!(found(&paths, "/caf%c3%a9"), Some((1, vec![])));
        assert_eq!(found(&paths, "/a%20b%2Fc"), None);
    }

    #[test]
    fn what_surrounds_a_variable_is_found_however_it_is_written() {
        let paths = paths(&[""], &["/pets/{id}", "/pets/{id}:cancel", "/pets/na%C3%AFf {id}"]);
        assert_eq!(found(&paths, "/pets/7:cancel"), Some((1, one("id", "7"))));
        assert_eq!(found(&paths, "/pets/%37%2F%3Acancel"), Some((1, one("id", "%37%2F"))), "a backend decodes it");
        assert_eq!(found(&paths, "/pets/na%C3%AFf%201%25"), Some((2, one("id", "1%25"))));
        assert_eq!(found(&paths, "/pets/na\u{ef}f 1%"), Some((2, one("id", "1%"))));
        assert_eq!(found(&paths, "/pets/%3Acancel"), Some((0, one("id", "%3Acancel"))));
    }

    #[test]
    fn a_template_that_could_be_read_in_two_ways_is_refused() {
        for wrong in ["pets", "/{", "/}", "/{}", "/{a}{b}", "/{a}-{b}", "/{a}/{a}", "/}{a"] {
            assert!(Template::parse(wrong).is_err(), "{wrong}");
        }
        let twins = ["/a/{x}", "/b", "/a/{y}"].map(|text| Template::parse(text).unwrap());
        assert_eq!(Paths::new(&[], twins.into()).unwrap_err(), (0, 2));
    }
}
