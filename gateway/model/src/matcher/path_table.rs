//! Paths of one host: the exact one and the longest prefix of a request's path in one pass over its bytes.
//!
//! An open-addressing table of whole paths and prefixes, each with its text, in two flat arrays. The path is hashed from
//! left to right, eight bytes at a time; at the end of each element the hash so far is that of the prefix which ends
//! there, and is looked up if the host has a prefix of that many elements. So a look-up costs one pass and at most as
//! many probes as the deepest prefix has elements, whatever the number of paths.

/// What a path leads to. Its meaning is the caller's; [`Target::NONE`] is nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target(pub(super) u32);

impl Target {
    pub(super) const NONE: Target = Target(u32::MAX);

    pub(super) fn is_some(self) -> bool {
        self != Target::NONE
    }
}

/// A path with what it leads to as a whole and as a prefix.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'t> {
    pub(super) text: &'t str,
    pub(super) exact: Target,
    pub(super) prefix: Target,
}

/// What a request's path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) exact: Target,
    /// The longest prefix.
    pub(super) prefix: Target,
}

#[derive(Clone, Debug)]
pub(super) struct PathTable {
    /// High half: of the hash; low half: where the record stands in `records`, and one. 0 is an empty place.
    places: Box<[u64]>,
    /// Each: exact and prefix target, length of the text (little-endian, 4 bytes each), the text.
    records: Box<[u8]>,
    /// What the prefix `/` leads to: every path has it.
    root: Target,
    /// Bit n: there is a prefix of n elements; the last bit stands for all greater numbers too.
    depths: u64,
    /// Elements of the deepest prefix.
    deepest: u32,
    /// Bytes of the longest exact path.
    longest_exact: u32,
}

/// Bytes before a record's text.
const HEAD: usize = 12;

impl PathTable {
    /// Of distinct texts, each `/…`, or empty for the prefix `/`.
    pub(super) fn new(paths: &[Record<'_>]) -> Self {
        let keyed = paths.iter().filter(|p| !p.text.is_empty());
        let mut table = PathTable {
            // At most three places in five are taken, so that a probe rarely meets another's record.
            places: vec![0; (keyed.clone().count() * 5).div_ceil(3)].into(),
            records: Box::default(),
            root: paths.iter().find(|p| p.text.is_empty()).map_or(Target::NONE, |p| p.prefix),
            depths: 0,
            deepest: 0,
            longest_exact: 0,
        };
        let mut records = Vec::with_capacity(keyed.clone().map(|p| HEAD + p.text.len()).sum());
        for path in keyed {
            let (hash, depth) = hash_of(path.text);
            if path.prefix.is_some() {
                table.depths |= depth_bit(depth);
                table.deepest = table.deepest.max(depth);
            }
            if path.exact.is_some() {
                table.longest_exact = table.longest_exact.max(path.text.len() as u32);
            }
            let mut place = table.home(hash);
            while table.places[place] != 0 {
                place = (place + 1) % table.places.len();
            }
            table.places[place] = u64::from(fragment(hash)) << 32 | (records.len() as u64 + 1);
            records.extend(path.exact.0.to_le_bytes());
            records.extend(path.prefix.0.to_le_bytes());
            records.extend((path.text.len() as u32).to_le_bytes());
            records.extend(path.text.as_bytes());
        }
        table.records = records.into_boxed_slice();
        table
    }

    /// `path` begins with `/`.
    pub(super) fn find(&self, path: &[u8]) -> Found {
        let mut found = Found { exact: Target::NONE, prefix: self.root };
        let may_be_exact = path.len() <= self.longest_exact as usize;
        if self.places.is_empty() || (self.depths == 0 && !may_be_exact) {
            return found;
        }
        let mut elements = Elements::new(path);
        while let Some(end) = elements.next() {
            let (hash, depth) = (elements.hash, elements.depth);
            let whole = end == path.len();
            let probed = (whole && may_be_exact) || self.depths & depth_bit(depth) != 0;
            if probed && let Some(targets) = self.get(hash, &path[..end]) {
                if targets.prefix.is_some() {
                    found.prefix = targets.prefix;
                }
                if whole {
                    found.exact = targets.exact;
                }
            }
            if depth >= self.deepest && !may_be_exact {
                break;
            }
        }
        found
    }

    fn get(&self, hash: u64, text: &[u8]) -> Option<Targets> {
        let mut place = self.home(hash);
        loop {
            let entry = *self.places.get(place)?;
            if entry == 0 {
                return None;
            }
            if (entry >> 32) as u32 == fragment(hash)
                && let Some(targets) = self.record((entry as u32 - 1) as usize, text)
            {
                return Some(targets);
            }
            place += 1;
            if place == self.places.len() {
                place = 0;
            }
        }
    }

    /// The record at `at`, if it is that of `text`.
    fn record(&self, at: usize, text: &[u8]) -> Option<Targets> {
        let (head, rest) = self.records.get(at..)?.split_first_chunk::<HEAD>()?;
        let word = |n: usize| u32::from_le_bytes([head[n], head[n + 1], head[n + 2], head[n + 3]]);
        if word(8) as usize != text.len() || rest.get(..text.len())? != text {
            return None;
        }
        Some(Targets { exact: Target(word(0)), prefix: Target(word(4)) })
    }

    /// The first place for a hash.
    fn home(&self, hash: u64) -> usize {
        (((hash & 0xffff_ffff) * self.places.len() as u64) >> 32) as usize
    }
}

#[derive(Clone, Copy)]
struct Targets {
    exact: Target,
    prefix: Target,
}

fn fragment(hash: u64) -> u32 {
    (hash >> 32) as u32
}

fn depth_bit(depth: u32) -> u64 {
    1 << depth.min(63)
}

fn hash_of(text: &str) -> (u64, u32) {
    let mut elements = Elements::new(text.as_bytes());
    while elements.next().is_some() {}
    (elements.hash, elements.depth)
}

/// The ends of a path's elements, with the hash of all before each.
struct Elements<'p> {
    path: &'p [u8],
    /// Behind the slash of the element to be read; beyond the path when all are.
    at: usize,
    hash: u64,
    /// Elements read.
    depth: u32,
}

const SLASHES: u64 = u64::from_ne_bytes([b'/'; 8]);
const LOW: u64 = u64::from_ne_bytes([1; 8]);
const HIGH: u64 = LOW << 7;

impl<'p> Elements<'p> {
    fn new(path: &'p [u8]) -> Self {
        Elements { path, at: 1, hash: 0x9e37_79b9_7f4a_7c15, depth: 0 }
    }

    /// Reads one element and gives its end.
    fn next(&mut self) -> Option<usize> {
        if self.at > self.path.len() {
            return None;
        }
        loop {
            let left = self.path.len() - self.at;
            let word = load(self.path, self.at);
            // The lowest set bit stands for the first slash (those above it may be wrong).
            let other = word ^ SLASHES;
            let slash = other.wrapping_sub(LOW) & !other & HIGH;
            let length = (slash.trailing_zeros() / 8) as usize;
            let length = length.min(left);
            if length == 8 {
                self.hash = fold(self.hash ^ word, 0xa076_1d64_78bd_642f);
                self.at += 8;
                continue;
            }
            let tail = word & !(u64::MAX << (length * 8));
            self.hash = fold(self.hash ^ tail ^ (length as u64) << 56, 0xe703_7ed1_a0b4_28db);
            let end = self.at + length;
            self.at = end + 1;
            self.depth += 1;
            return Some(end);
        }
    }
}

/// Eight bytes from `at`, the first in the lowest; zeros stand for what is beyond the end.
fn load(path: &[u8], at: usize) -> u64 {
    match path.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        Some(word) => u64::from_le_bytes(*word),
        None => match path.last_chunk::<8>() {
            Some(word) => {
                let missing = at + 8 - path.len();
                if missing >= 8 { 0 } else { u64::from_le_bytes(*word) >> (missing * 8) }
            }
            None => path.iter().skip(at).rev().fold(0, |word, b| word << 8 | u64::from(*b)),
        },
    }
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ends(path: &str) -> Vec<usize> {
        let mut elements = Elements::new(path.as_bytes());
        std::iter::from_fn(|| elements.next()).collect()
    }

    #[test]
    fn elements_end_before_each_slash_and_at_the_end() {
        assert_eq!(ends("/"), [1]);
        assert_eq!(ends("/a"), [2]);
        assert_eq!(ends("/a/"), [2, 3]);
        assert_eq!(ends("/abcdefgh/ijklmnopqrs/t"), [9, 21, 23]);
        assert_eq!(ends("/abcdefg/"), [8, 9]);
        assert_eq!(ends("/abcdefgh"), [9]);
        assert_eq!(ends("//x"), [1, 3]);
    }

    proptest! {
        #[test]
        fn an_element_ends_where_a_slash_or_the_path_does(path in "/[a/0]{0,40}") {
            let want: Vec<usize> = path.match_indices('/').map(|(i, _)| i).skip(1).chain([path.len()]).collect();
            prop_assert_eq!(ends(&path), want);
        }

        #[test]
        fn the_hash_of_a_prefix_is_the_same_alone_as_within_a_longer_path(path in "/[a-c/]{0,40}") {
            let mut elements = Elements::new(path.as_bytes());
            while let Some(end) = elements.next() {
                prop_assert_eq!(hash_of(&path[..end]), (elements.hash, elements.depth));
            }
        }

        #[test]
        fn the_table_finds_what_a_scan_finds(
            paths in prop::collection::btree_map("(/[ab]{1,9}){0,4}/?", (any::<bool>(), any::<bool>()), 0..20),
            asked in "(/[ab]{0,9}){1,5}",
        ) {
            let records: Vec<Record<'_>> = paths.iter().enumerate().map(|(n, (text, (exact, prefix)))| Record {
                text: if text == "/" && *prefix { "" } else { text },
                exact: if *exact && !text.is_empty() { Target(n as u32) } else { Target::NONE },
                prefix: if *prefix && !(text.len() > 1 && text.ends_with('/')) { Target(n as u32) } else { Target::NONE },
            }).collect();
            let mut distinct = records.clone();
            distinct.sort_by_key(|r| r.text);
            distinct.dedup_by_key(|r| r.text);
            let table = PathTable::new(&distinct);
            for path in paths.keys().filter(|p| !p.is_empty()).map(String::as_str).chain([asked.as_str()]) {
                let is_prefix = |text: &str| path.strip_prefix(text).is_some_and(|r| r.is_empty() || r.starts_with('/'));
                let exact = distinct.iter().find(|r| r.text == path && r.exact.is_some()).map(|r| r.exact);
                let prefix = distinct.iter().filter(|r| r.prefix.is_some() && is_prefix(r.text)).max_by_key(|r| r.text.len());
                let want = Found {
                    exact: exact.unwrap_or(Target::NONE),
                    prefix: prefix.map_or(Target::NONE, |r| r.prefix),
                };
                prop_assert_eq!(table.find(path.as_bytes()), want, "{}", path);
            }
        }
    }

    #[test]
    fn a_record_is_that_of_its_whole_text_whatever_the_hash_says() {
        let table = PathTable::new(&[Record { text: "/ab", exact: Target(1), prefix: Target(2) }]);
        assert!(table.record(0, b"/ab").is_some());
        for other in ["/a", "/ac", "/abc"] {
            assert!(table.record(0, other.as_bytes()).is_none(), "{other}");
        }
    }

    #[test]
    fn prefixes_deeper_than_the_bits_that_count_them_are_found() {
        let text = "/x".repeat(90);
        let records =
            [70, 80, 90].map(|n| Record { text: &text[..n * 2], exact: Target::NONE, prefix: Target(n as u32) });
        let table = PathTable::new(&records);
        let prefix = |n: usize| table.find(&"/x".repeat(n).into_bytes()).prefix;
        assert_eq!([69, 70, 75, 80, 90, 95].map(prefix).map(|t| t.0), [u32::MAX, 70, 70, 80, 90, 90]);
    }
}
