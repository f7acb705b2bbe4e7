//! Host names as the API writes them, and the table that finds the most specific one.

use serde::{Serialize, Serializer};
use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use thiserror::Error;

/// Longest host name, in bytes (RFC 1035, 2.3.4, less the final dot).
pub const MAX_HOSTNAME: usize = 253;

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HostnameError {
    #[error("host name is empty")]
    Empty,
    #[error("host name has {0} bytes; at most {MAX_HOSTNAME} are allowed")]
    TooLong(usize),
    #[error(
        "host name `{0}` is not a DNS name: labels are 1 to 63 letters, digits and inner hyphens, separated by dots"
    )]
    NotDns(String),
    #[error("host name `{0}` has a wildcard that is not the whole first label")]
    Wildcard(String),
    #[error("host name `{0}` is an IP address; the API wants a DNS name")]
    Address(String),
}

/// A precise DNS name in lower case, without a final dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hostname(Arc<str>);

impl Hostname {
    pub fn parse(text: &str) -> Result<Self, HostnameError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(HostnameError::Empty);
        }
        if text.len() > MAX_HOSTNAME {
            return Err(HostnameError::TooLong(text.len()));
        }
        let lower = text.to_ascii_lowercase();
        if lower.contains('*') {
            return Err(HostnameError::Wildcard(lower));
        }
        if lower.parse::<std::net::IpAddr>().is_ok() {
            return Err(HostnameError::Address(lower));
        }
        let label_ok = |l: &str| {
            (1..=63).contains(&l.len())
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !l.starts_with('-')
                && !l.ends_with('-')
        };
        if !lower.split('.').all(label_ok) {
            return Err(HostnameError::NotDns(lower));
        }
        Ok(Hostname(lower.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a listener, a route or an Ingress rule says about hosts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    Exact(Hostname),
    /// `*.suffix` with one label or more before the suffix (Gateway API, HTTPRoute.spec.hostnames).
    Wildcard(Hostname),
    /// `*.suffix` with exactly one label before the suffix (Ingress v1, and certificates by RFC 6125).
    OneLabel(Hostname),
    /// Every host, and requests without one.
    Any,
}

impl HostPattern {
    /// Reads a Gateway API hostname: empty or absent means [`HostPattern::Any`].
    pub fn parse_gateway(text: Option<&str>) -> Result<Self, HostnameError> {
        Self::parse_with(text, HostPattern::Wildcard)
    }

    /// Reads an Ingress host: its wildcard stands for one label.
    pub fn parse_ingress(text: Option<&str>) -> Result<Self, HostnameError> {
        Self::parse_with(text, HostPattern::OneLabel)
    }

    fn parse_with(text: Option<&str>, wildcard: fn(Hostname) -> HostPattern) -> Result<Self, HostnameError> {
        match text {
            None | Some("" | "*") => Ok(HostPattern::Any),
            Some(text) => match text.strip_prefix("*.") {
                Some(suffix) => Ok(wildcard(Hostname::parse(suffix)?)),
                None => Ok(HostPattern::Exact(Hostname::parse(text)?)),
            },
        }
    }

    /// Whether `host` (lower case, no port, no final dot) is meant.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            HostPattern::Any => true,
            HostPattern::Exact(name) => name.as_str() == host,
            HostPattern::Wildcard(suffix) => strip_suffix_label(host, suffix.as_str()).is_some(),
            HostPattern::OneLabel(suffix) => {
                strip_suffix_label(host, suffix.as_str()).is_some_and(|rest| !rest.contains('.'))
            }
        }
    }

    /// The hosts that both mean, or `None` where they share none (Gateway API: a listener's and a route's hostnames).
    pub fn intersect(&self, other: &HostPattern) -> Option<HostPattern> {
        use HostPattern::{Any, Exact, OneLabel, Wildcard};
        match (self, other) {
            (Any, p) | (p, Any) => Some(p.clone()),
            (Exact(a), p) | (p, Exact(a)) => p.matches(a.as_str()).then(|| Exact(a.clone())),
            (Wildcard(a), Wildcard(b)) | (OneLabel(a), OneLabel(b)) if a == b => Some(self.clone()),
            (Wildcard(a), Wildcard(b)) => {
                if strip_suffix_label(a.as_str(), b.as_str()).is_some() {
                    Some(self.clone())
                } else {
                    strip_suffix_label(b.as_str(), a.as_str()).map(|_| other.clone())
                }
            }
            (Wildcard(w), OneLabel(o)) | (OneLabel(o), Wildcard(w)) => {
                (w == o || strip_suffix_label(o.as_str(), w.as_str()).is_some()).then(|| OneLabel(o.clone()))
            }
            (OneLabel(_), OneLabel(_)) => None,
        }
    }

    /// How precise this is: greater is more specific. Exact names first, then the longer suffix, then one label.
    fn rank(&self) -> (u8, usize, u8) {
        match self {
            HostPattern::Exact(name) => (2, name.as_str().len(), 0),
            HostPattern::OneLabel(suffix) => (1, suffix.as_str().len(), 1),
            HostPattern::Wildcard(suffix) => (1, suffix.as_str().len(), 0),
            HostPattern::Any => (0, 0, 0),
        }
    }

    fn text(&self) -> &str {
        match self {
            HostPattern::Exact(h) | HostPattern::OneLabel(h) | HostPattern::Wildcard(h) => h.as_str(),
            HostPattern::Any => "",
        }
    }
}

fn strip_suffix_label<'h>(host: &'h str, suffix: &str) -> Option<&'h str> {
    host.strip_suffix(suffix)?.strip_suffix('.').filter(|rest| !rest.is_empty())
}

/// From the most specific to the least, then by name.
impl Ord for HostPattern {
    fn cmp(&self, other: &Self) -> Ordering {
        other.rank().cmp(&self.rank()).then_with(|| self.text().cmp(other.text()))
    }
}

impl PartialOrd for HostPattern {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Exact(name) => name.fmt(f),
            HostPattern::Wildcard(suffix) | HostPattern::OneLabel(suffix) => write!(f, "*.{suffix}"),
            HostPattern::Any => f.write_str("*"),
        }
    }
}

impl Serialize for HostPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Finds what was registered for a host, the most specific first, in one hash look-up a label.
#[derive(Clone, Debug)]
pub struct HostTable<T> {
    exact: HashMap<Arc<str>, T, foldhash::fast::RandomState>,
    one_label: HashMap<Arc<str>, T, foldhash::fast::RandomState>,
    wildcard: HashMap<Arc<str>, T, foldhash::fast::RandomState>,
    any: Option<T>,
}

impl<T> Default for HostTable<T> {
    fn default() -> Self {
        HostTable { exact: HashMap::default(), one_label: HashMap::default(), wildcard: HashMap::default(), any: None }
    }
}

impl<T> HostTable<T> {
    /// Registers `value`, returning what stood there before.
    pub fn insert(&mut self, pattern: &HostPattern, value: T) -> Option<T> {
        match pattern {
            HostPattern::Exact(h) => self.exact.insert(h.0.clone(), value),
            HostPattern::OneLabel(h) => self.one_label.insert(h.0.clone(), value),
            HostPattern::Wildcard(h) => self.wildcard.insert(h.0.clone(), value),
            HostPattern::Any => self.any.replace(value),
        }
    }

    pub fn remove(&mut self, pattern: &HostPattern) -> Option<T> {
        match pattern {
            HostPattern::Exact(h) => self.exact.remove(&h.0),
            HostPattern::OneLabel(h) => self.one_label.remove(&h.0),
            HostPattern::Wildcard(h) => self.wildcard.remove(&h.0),
            HostPattern::Any => self.any.take(),
        }
    }

    /// What was registered for just this pattern.
    pub fn get(&self, pattern: &HostPattern) -> Option<&T> {
        match pattern {
            HostPattern::Exact(h) => self.exact.get(&h.0),
            HostPattern::OneLabel(h) => self.one_label.get(&h.0),
            HostPattern::Wildcard(h) => self.wildcard.get(&h.0),
            HostPattern::Any => self.any.as_ref(),
        }
    }

    /// The most specific entry for `host` (lower case, no port, no final dot).
    pub fn find(&self, host: &str) -> Option<&T> {
        self.candidates(host).next()
    }

    /// All entries that mean `host`, the most specific first.
    pub fn candidates<'t, 'h>(&'t self, host: &'h str) -> impl Iterator<Item = &'t T> + use<'t, 'h, T> {
        let exact = if self.exact.is_empty() { None } else { self.exact.get(host) };
        let wild = if self.one_label.is_empty() && self.wildcard.is_empty() { "" } else { host };
        let suffixes = wild.match_indices('.').filter(|(i, _)| *i > 0).enumerate().flat_map(move |(n, (i, _))| {
            let suffix = &wild[i + 1..];
            let one = if n == 0 { self.one_label.get(suffix) } else { None };
            one.into_iter().chain(self.wildcard.get(suffix))
        });
        exact.into_iter().chain(suffixes).chain(self.any.as_ref())
    }

    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.exact.values().chain(self.one_label.values()).chain(self.wildcard.values()).chain(self.any.as_ref())
    }

    pub fn len(&self) -> usize {
        self.exact.len() + self.one_label.len() + self.wildcard.len() + usize::from(self.any.is_some())
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gw(text: &str) -> HostPattern {
        HostPattern::parse_gateway(Some(text)).unwrap()
    }
    fn ing(text: &str) -> HostPattern {
        HostPattern::parse_ingress(Some(text)).unwrap()
    }

    #[test]
    fn a_gateway_wildcard_means_one_label_or_more_but_never_none() {
        assert!(gw("*.foo.com").matches("a.foo.com"));
        assert!(gw("*.foo.com").matches("a.b.foo.com"));
        assert!(!gw("*.foo.com").matches("foo.com"));
        assert!(!gw("*.foo.com").matches("xfoo.com"));
    }

    #[test]
    fn an_ingress_wildcard_means_exactly_one_label() {
        assert!(ing("*.foo.com").matches("a.foo.com"));
        assert!(!ing("*.foo.com").matches("a.b.foo.com"));
        assert!(!ing("*.foo.com").matches("foo.com"));
    }

    #[test]
    fn the_intersection_is_the_more_specific_of_the_two() {
        assert_eq!(gw("*.com").intersect(&gw("*.foo.com")), Some(gw("*.foo.com")));
        assert_eq!(gw("*.foo.com").intersect(&gw("a.foo.com")), Some(gw("a.foo.com")));
        assert_eq!(gw("*.foo.com").intersect(&gw("*.bar.com")), None);
        assert_eq!(gw("a.foo.com").intersect(&HostPattern::Any), Some(gw("a.foo.com")));
        assert_eq!(gw("a.foo.com").intersect(&gw("b.foo.com")), None);
    }

    #[test]
    fn the_table_gives_the_most_specific_entry_first() {
        let mut t = HostTable::default();
        for (p, v) in [
            (HostPattern::Any, "any"),
            (gw("*.com"), "com"),
            (gw("*.foo.com"), "foo"),
            (ing("*.foo.com"), "foo-one"),
            (gw("a.foo.com"), "a"),
        ] {
            t.insert(&p, v);
        }
        assert_eq!(t.candidates("a.foo.com").copied().collect::<Vec<_>>(), ["a", "foo-one", "foo", "com", "any"]);
        assert_eq!(t.candidates("x.y.foo.com").copied().collect::<Vec<_>>(), ["foo", "com", "any"]);
        assert_eq!(t.candidates("").copied().collect::<Vec<_>>(), ["any"]);
    }

    #[test]
    fn patterns_sort_from_the_most_specific() {
        let mut v = [HostPattern::Any, gw("*.com"), gw("a.com"), gw("*.foo.com")];
        v.sort();
        assert_eq!(v.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a.com", "*.foo.com", "*.com", "*"]);
    }

    #[test]
    fn what_is_no_dns_name_is_refused() {
        for bad in ["a..b", "-a.com", "a b", "1.2.3.4", "a.*.com", "*a.com", "a/b", "a:80"] {
            assert!(HostPattern::parse_gateway(Some(bad)).is_err(), "{bad}");
        }
        assert!(Hostname::parse(&"a".repeat(254)).is_err());
    }
}
