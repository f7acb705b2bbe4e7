//! Matches that share one path, told apart by method, headers and query.
//!
//! A few are tried one after the other. Many get an index: each match is filed under one of its conditions, the
//! one that the fewest others share, and a request looks up its own values there. What it costs grows with the number of
//! *attributes* that are asked for (header names, say), not with the number of matches.

use super::condition::{Attribute, Condition, Examined, Wanted};
use super::patterns::Patterns;
use super::request::RequestView;
use crate::config::{Pattern, ValueMatch};
use std::collections::HashMap;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

/// Up to this many matches of one path are tried in a row.
const LINEAR: usize = 8;

/// What a regular expression costs against an exact value when a match is filed under one of its conditions: an exact
/// value that this many others share is preferred.
const PATTERN_PENALTY: usize = 8;

/// A match without its path.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Place in the order of precedence.
    pub(super) rank: u32,
    pub(super) conditions: Box<[Condition]>,
}

impl Entry {
    fn holds<R: RequestView>(&self, request: &Examined<'_, R>) -> bool {
        self.conditions.iter().all(|c| request.holds(c))
    }
}

/// By rank, the least first.
#[derive(Clone, Debug)]
pub(super) struct Group {
    entries: Box<[Entry]>,
    index: Option<Box<Index>>,
}

impl Group {
    /// `entries` by rank. What follows an entry without conditions can never be reached, and is left out.
    pub(super) fn new(mut entries: Vec<Entry>) -> Self {
        if let Some(last) = entries.iter().position(|e| e.conditions.is_empty()) {
            entries.truncate(last + 1);
        }
        let index = (entries.len() > LINEAR).then(|| Box::new(Index::new(&entries)));
        Group { entries: entries.into_boxed_slice(), index }
    }

    /// The least rank that could be found.
    pub(super) fn least(&self) -> Option<u32> {
        self.entries.first().map(|e| e.rank)
    }

    /// The rank of the first entry that `request` fulfils.
    pub(super) fn find<R: RequestView>(&self, request: &Examined<'_, R>) -> Option<u32> {
        match &self.index {
            None => self.entries.iter().find(|e| e.holds(request)).map(|e| e.rank),
            Some(index) => index.find(&self.entries, request).map(|at| self.entries[at].rank),
        }
    }
}

/// Entries by one of their conditions each.
#[derive(Clone, Debug)]
struct Index {
    files: Vec<File>,
    /// Positions of entries, in runs that `files` point into; each run rises.
    runs: Vec<u32>,
    /// Entries without a condition: at most the last one.
    open: Option<u32>,
}

/// The entries that are filed under one attribute.
#[derive(Clone, Debug)]
struct File {
    attribute: Attribute,
    exact: HashMap<Box<[u8]>, Range<u32>, foldhash::fast::RandomState>,
    patterns: Patterns,
    by_pattern: Vec<Range<u32>>,
    /// The least position filed here.
    least: u32,
}

/// What an entry can be filed under.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Exact(Attribute, Arc<str>),
    Pattern(Attribute, Arc<str>),
}

impl Key {
    fn of(condition: &Condition) -> Self {
        let attribute = condition.attribute.clone();
        match &condition.value {
            Wanted::Method(method) => Key::Exact(attribute, method.as_str().into()),
            Wanted::Value(ValueMatch::Exact(text)) => Key::Exact(attribute, text.clone()),
            Wanted::Value(ValueMatch::Regex(pattern)) => Key::Pattern(attribute, pattern.source.clone()),
        }
    }
}

impl Index {
    fn new(entries: &[Entry]) -> Self {
        let mut shared: HashMap<Key, usize> = HashMap::new();
        for condition in entries.iter().flat_map(|e| &e.conditions) {
            *shared.entry(Key::of(condition)).or_default() += 1;
        }
        let cost = |condition: &&Condition| {
            let key = Key::of(condition);
            let penalty = if matches!(key, Key::Pattern(..)) { PATTERN_PENALTY } else { 0 };
            shared.get(&key).map_or(0, |n| n + penalty)
        };
        let mut filed: indexmap::IndexMap<Attribute, indexmap::IndexMap<Key, Filed<'_>>> = indexmap::IndexMap::new();
        let mut open = None;
        for (at, entry) in entries.iter().enumerate() {
            match entry.conditions.iter().min_by_key(cost) {
                None => open = Some(at as u32),
                Some(condition) => filed
                    .entry(condition.attribute.clone())
                    .or_default()
                    .entry(Key::of(condition))
                    .or_insert_with(|| Filed { condition, entries: Vec::new() })
                    .entries
                    .push(at as u32),
            }
        }
        let mut runs = Vec::with_capacity(entries.len());
        let files = filed.into_iter().map(|(attribute, filed)| File::new(attribute, filed, &mut runs)).collect();
        Index { files, runs, open }
    }

    /// The position of the first entry that holds.
    fn find<R: RequestView>(&self, entries: &[Entry], request: &Examined<'_, R>) -> Option<usize> {
        let mut best = self.open.unwrap_or(u32::MAX);
        for file in self.files.iter().filter(|f| !f.exact.is_empty() || !f.patterns.is_empty()) {
            if file.least >= best {
                continue;
            }
            request.with_value(&file.attribute, |value| {
                if let Some(run) = file.exact.get(value) {
                    best = self.first_of(run, entries, request, best);
                }
                if !file.patterns.is_empty() {
                    file.patterns.visit(value, |hit| {
                        best = self.first_of(&file.by_pattern[hit], entries, request, best);
                        ControlFlow::Continue(())
                    });
                }
            });
        }
        (best != u32::MAX).then_some(best as usize)
    }

    /// The first of a run that holds and stands before `best`, or `best`.
    fn first_of<R: RequestView>(
        &self,
        run: &Range<u32>,
        entries: &[Entry],
        request: &Examined<'_, R>,
        best: u32,
    ) -> u32 {
        let run = &self.runs[run.start as usize..run.end as usize];
        let before = run.iter().copied().take_while(|at| *at < best);
        before.into_iter().find(|at| entries[*at as usize].holds(request)).unwrap_or(best)
    }
}

struct Filed<'e> {
    condition: &'e Condition,
    entries: Vec<u32>,
}

impl File {
    fn new(attribute: Attribute, filed: indexmap::IndexMap<Key, Filed<'_>>, runs: &mut Vec<u32>) -> Self {
        let mut exact = HashMap::default();
        let mut patterns: Vec<&Pattern> = Vec::new();
        let mut by_pattern = Vec::new();
        let mut least = u32::MAX;
        for (key, Filed { condition, entries }) in filed {
            let start = runs.len() as u32;
            least = entries.iter().copied().fold(least, u32::min);
            runs.extend(entries);
            let run = start..runs.len() as u32;
            match (key, &condition.value) {
                (Key::Pattern(..), Wanted::Value(ValueMatch::Regex(pattern))) => {
                    patterns.push(pattern);
                    by_pattern.push(run);
                }
                (Key::Exact(_, text) | Key::Pattern(_, text), _) => {
                    exact.insert(text.as_bytes().into(), run);
                }
            }
        }
        File { attribute, exact, patterns: Patterns::new(&patterns), by_pattern, least }
    }
}
