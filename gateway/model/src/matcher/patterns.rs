//! Many regular expressions over one text in a single pass.

use crate::config::Pattern;
use regex_automata::meta;
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input, MatchKind, PatternSet};
use std::cell::RefCell;
use std::ops::ControlFlow;

/// Bytes that one joint automaton may take (Thompson NFA). Patterns that are more together are split in two.
const MAX_SET_BYTES: usize = 8 * 1024 * 1024;

/// Anchored expressions, known by their position. Cost of a search: linear in the text, whatever their number. A thread
/// that searches keeps states of the automaton for its next search, up to 2 MiB a set (the engine's default).
#[derive(Clone, Debug, Default)]
pub(super) struct Patterns {
    sets: Vec<Set>,
}

#[derive(Clone, Debug)]
struct Set {
    /// Position of the set's first pattern.
    first: u32,
    matcher: SetMatcher,
}

#[derive(Clone, Debug)]
enum SetMatcher {
    One(regex::Regex),
    Many(meta::Regex),
}

impl Patterns {
    pub(super) fn new(patterns: &[&Pattern]) -> Self {
        let mut sets = Vec::new();
        build(0, patterns, &mut sets);
        Patterns { sets }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// Calls `visit` with the position of each pattern that matches the whole of `text`, in rising order, until it
    /// breaks. Values that are not UTF-8 match nothing.
    pub(super) fn visit(&self, text: &[u8], mut visit: impl FnMut(usize) -> ControlFlow<()>) {
        let Ok(text) = std::str::from_utf8(text) else { return };
        for set in &self.sets {
            let first = set.first as usize;
            let flow = match &set.matcher {
                SetMatcher::One(regex) if regex.is_match(text) => visit(first),
                SetMatcher::One(_) => ControlFlow::Continue(()),
                SetMatcher::Many(regex) => with_hits(regex.pattern_len(), |hits| {
                    regex.which_overlapping_matches(&Input::new(text).anchored(Anchored::Yes), hits);
                    if hits.is_empty() {
                        return ControlFlow::Continue(());
                    }
                    hits.iter().try_for_each(|hit| visit(first + hit.as_usize()))
                }),
            };
            if flow.is_break() {
                return;
            }
        }
    }
}

fn build(first: usize, patterns: &[&Pattern], sets: &mut Vec<Set>) {
    let matcher = match patterns {
        [] => return,
        [one] => SetMatcher::One(one.regex.clone()),
        many => match join(many) {
            Some(regex) => SetMatcher::Many(regex),
            None => {
                let (left, right) = many.split_at(many.len() / 2);
                build(first, left, sets);
                return build(first + left.len(), right, sets);
            }
        },
    };
    sets.push(Set { first: first as u32, matcher });
}

/// The settings of the `regex` crate, for all at once; `None` where they are too large together.
fn join(patterns: &[&Pattern]) -> Option<meta::Regex> {
    let config = meta::Config::new().match_kind(MatchKind::All).nfa_size_limit(Some(MAX_SET_BYTES));
    let texts: Vec<&str> = patterns.iter().map(|p| p.regex.as_str()).collect();
    meta::Builder::new().configure(config).syntax(syntax::Config::new()).build_many(&texts).ok()
}

thread_local! {
    /// Spare sets of hits, so that a search allocates nothing once its thread is warm. A visit may search again.
    static SPARE: RefCell<Vec<PatternSet>> = const { RefCell::new(Vec::new()) };
}

/// Calls `use_it` with an empty set of room for `capacity` patterns.
fn with_hits<T>(capacity: usize, use_it: impl FnOnce(&mut PatternSet) -> T) -> T {
    let spare = SPARE.with_borrow_mut(Vec::pop).filter(|set| set.capacity() >= capacity);
    let mut hits = match spare {
        Some(mut set) => {
            set.clear();
            set
        }
        None => PatternSet::new(capacity),
    };
    let result = use_it(&mut hits);
    SPARE.with_borrow_mut(|spare| spare.push(hits));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(sources: &[&str], text: &str) -> Vec<usize> {
        let patterns: Vec<Pattern> = sources.iter().map(|s| Pattern::anchored(s).unwrap()).collect();
        let mut found = Vec::new();
        Patterns::new(&patterns.iter().collect::<Vec<_>>()).visit(text.as_bytes(), |hit| {
            found.push(hit);
            ControlFlow::Continue(())
        });
        found
    }

    #[test]
    fn all_that_match_the_whole_text_are_visited_in_order() {
        let sources = ["/a", "/a.*", "/b|/ab", "a", "/", "(?i)/AB", "/ab$"];
        assert_eq!(hits(&sources, "/ab"), [1, 2, 5, 6]);
        assert_eq!(hits(&sources, "/a"), [0, 1]);
        assert_eq!(hits(&sources, "x"), [0; 0]);
        assert_eq!(hits(&["/a.*"], "/ab"), [0]);
        assert_eq!(hits(&["/a.*"], "x/ab"), [0; 0]);
        assert_eq!(hits(&[], "/"), [0; 0]);
    }

    #[test]
    fn a_visit_ends_when_it_breaks() {
        let patterns = [Pattern::anchored(".*").unwrap(), Pattern::anchored(".+").unwrap()];
        let mut found = 0;
        Patterns::new(&patterns.iter().collect::<Vec<_>>()).visit(b"abc", |_| {
            found += 1;
            ControlFlow::Break(())
        });
        assert_eq!(found, 1);
    }

    #[test]
    fn a_text_that_is_not_utf8_matches_nothing() {
        let patterns = [Pattern::anchored("(?s).*").unwrap()];
        Patterns::new(&[&patterns[0], &patterns[0]]).visit(b"\xff", |hit| panic!("{hit}"));
    }

    #[test]
    fn patterns_that_are_too_large_together_are_split_and_still_found() {
        let sources: Vec<String> = (0..80).map(|n| format!("/{n}/[\\w]{{1,4}}")).collect();
        let patterns: Vec<Pattern> = sources.iter().map(|s| Pattern::anchored(s).unwrap()).collect();
        let all = Patterns::new(&patterns.iter().collect::<Vec<_>>());
        assert!(all.sets.len() > 1, "the test is to cross the limit");
        for n in 0..80 {
            let mut found = Vec::new();
            all.visit(format!("/{n}/ab").as_bytes(), |hit| {
                found.push(hit);
                ControlFlow::Continue(())
            });
            assert_eq!(found, [n]);
        }
    }
}
