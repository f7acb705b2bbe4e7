//! Finds the rule of a request among the matches of one virtual host.
//!
//! ```text
//! path ─► PathTable ─► exact path ──► Group ─┐ none holds
//!                                            ▼
//!                      expressions (one pass over all) ─► Group of each that matches ─┐ none holds
//!                                                                                     ▼
//!                      longest prefix ─► Group ─► next shorter prefix ─► … ─► nothing
//! ```
//!
//! A [`HostMatcher`] is made from a [`VirtualHost`] once a change and then only read. The answer is always that of a
//! scan of the matches in the order of [`precedence`]; the cost grows with the path's length and the number of its
//! elements, not with the number of routes. Matches that share a path are a `Group`, which has an index of its own
//! where it is large.
//!
//! A search allocates nothing, with three exceptions that a request or a route has to provoke: a field that the request
//! repeats and a route asks for (it is joined), a percent-encoded query value of more than 256 bytes that a route asks
//! for, and the first search of a thread among several regular expressions. Routes of one host that ask for more than
//! 16 different query parameters cost one allocation where a query is looked at.

mod condition;
mod group;
mod path_table;
mod patterns;
mod precedence;
mod query;
mod request;
#[cfg(test)]
mod tests;

pub(crate) use condition::grpc_method;
pub use precedence::precedence;
pub use query::query_value;
pub use request::{RequestParts, RequestView, combined};

use crate::config::{PathMatch, Pattern, RouteMatch, ValueMatch, VirtualHost};
use condition::{Attribute, Condition, Examined, Wanted};
use foldhash::fast::RandomState;
use group::{Entry, Group};
use indexmap::{IndexMap, IndexSet};
use path_table::{PathTable, Record, Target};
use patterns::Patterns;
use query::QueryNames;
use smallvec::SmallVec;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Index into [`VirtualHost::matches`].
pub type MatchIndex = u32;

/// The matches of one virtual host, laid out for search.
#[derive(Clone, Debug)]
pub struct HostMatcher {
    paths: PathTable,
    /// What only some hosts have: matches that ask for more than a path, and regular expressions.
    conditional: Option<Box<Conditional>>,
    /// From a rank (place in the order of precedence) to the match; `None` where `matches` came in that order.
    order: Option<Box<[MatchIndex]>>,
}

#[derive(Clone, Debug)]
struct Conditional {
    groups: Vec<PathGroup>,
    expressions: Patterns,
    /// The group of each expression, by its position.
    by_expression: Vec<Group>,
    query: QueryNames,
}

/// The matches of one exact path or one prefix.
#[derive(Clone, Debug)]
struct PathGroup {
    group: Group,
    /// Of a prefix: the next shorter one.
    shorter: Target,
}

/// A target is the rank of a match that asks for nothing but the path, or, with this bit, a group's position.
const GROUP: u32 = 1 << 31;

impl HostMatcher {
    pub fn new(host: &VirtualHost) -> Self {
        let matches = &host.matches;
        let mut ranked: Vec<MatchIndex> = (0..matches.len() as u32).collect();
        ranked.sort_by(|a, b| precedence(&matches[*a as usize], &matches[*b as usize]));
        let sorted = ranked.iter().enumerate().all(|(rank, index)| rank == *index as usize);
        let mut builder = Builder::default();
        for (rank, index) in ranked.iter().enumerate() {
            builder.add(rank as u32, &matches[*index as usize]);
        }
        let (paths, conditional) = builder.build();
        HostMatcher { paths, conditional, order: (!sorted).then(|| ranked.into()) }
    }

    /// The first match, by precedence, that `request` fulfils in all its parts.
    pub fn find<R: RequestView>(&self, request: &R) -> Option<MatchIndex> {
        let found = self.paths.find(request.path().as_bytes());
        let rank = match &self.conditional {
            // Without conditions the targets are ranks.
            None if found.exact.is_some() => found.exact.0,
            None => found.prefix.is_some().then_some(found.prefix.0)?,
            Some(conditional) => conditional.find(found, request)?,
        };
        match &self.order {
            None => Some(rank),
            Some(order) => order.get(rank as usize).copied(),
        }
    }
}

impl Conditional {
    fn find<R: RequestView>(&self, found: path_table::Found, request: &R) -> Option<u32> {
        let request = Examined::new(request, &self.query);
        self.find_at(found.exact, &request)
            .or_else(|| self.find_expression(&request))
            .or_else(|| self.find_at(found.prefix, &request))
    }

    /// The first that holds at `target`, or at a shorter prefix.
    fn find_at<R: RequestView>(&self, mut target: Target, request: &Examined<'_, R>) -> Option<u32> {
        while target.is_some() {
            if target.0 & GROUP == 0 {
                return Some(target.0);
            }
            let at = self.groups.get((target.0 & !GROUP) as usize)?;
            if let Some(rank) = at.group.find(request) {
                return Some(rank);
            }
            target = at.shorter;
        }
        None
    }

    /// Expressions of one length rank by their conditions, so that of several that match the least rank counts.
    fn find_expression<R: RequestView>(&self, request: &Examined<'_, R>) -> Option<u32> {
        if self.expressions.is_empty() {
            return None;
        }
        let mut best: Option<u32> = None;
        self.expressions.visit(request.path().as_bytes(), |hit| {
            let group = &self.by_expression[hit];
            if best.is_some_and(|best| group.least().is_none_or(|least| best < least)) {
                // Groups stand by their least rank: none that follows can be better.
                return ControlFlow::Break(());
            }
            if let Some(rank) = group.find(request) {
                best = Some(best.map_or(rank, |best| best.min(rank)));
            }
            ControlFlow::Continue(())
        });
        best
    }
}

/// The matches of one path, mostly one.
type Entries = SmallVec<[Entry; 1]>;

/// Collects matches in the order of their ranks.
#[derive(Default)]
struct Builder<'h> {
    /// Entries by path, as an exact one and as a prefix.
    paths: IndexMap<&'h str, (Entries, Entries), RandomState>,
    expressions: IndexMap<&'h str, (&'h Pattern, Entries), RandomState>,
    query: IndexSet<&'h Arc<str>, RandomState>,
}

impl<'h> Builder<'h> {
    fn add(&mut self, rank: u32, route: &'h RouteMatch) {
        let entry = Entry { rank, conditions: self.conditions(route) };
        match &route.path {
            PathMatch::Exact(path) => self.paths.entry(path).or_default().0.push(entry),
            PathMatch::Prefix(path) => self.paths.entry(path).or_default().1.push(entry),
            PathMatch::Regex(pattern) => {
                self.expressions.entry(&pattern.source).or_insert_with(|| (pattern, Entries::new())).1.push(entry);
            }
        }
    }

    /// The cheapest to examine first.
    fn conditions(&mut self, route: &'h RouteMatch) -> Box<[Condition]> {
        let method = route.method.iter().map(|m| (Attribute::Method, Wanted::Method(m.clone())));
        let headers = route.headers.iter().map(|h| (Attribute::Header(h.name.clone()), Wanted::Value(h.value.clone())));
        let grpc_method = route.grpc_method.iter().map(|m| (Attribute::GrpcMethod, Wanted::Value(m.clone())));
        let mut conditions: Vec<(Attribute, Wanted)> = method.chain(grpc_method).chain(headers).collect();
        for parameter in &route.query {
            let name = self.query.insert_full(&parameter.name).0 as u32;
            conditions.push((Attribute::Query(name), Wanted::Value(parameter.value.clone())));
        }
        conditions.sort_by_key(|(_, wanted)| matches!(wanted, Wanted::Value(ValueMatch::Regex(_))));
        conditions.into_iter().map(|(attribute, value)| Condition { attribute, value }).collect()
    }

    fn build(self) -> (PathTable, Option<Box<Conditional>>) {
        let mut groups = Vec::new();
        let mut records = Vec::with_capacity(self.paths.len());
        let mut go_on = Vec::new();
        for (text, (exact, prefix)) in self.paths {
            let exact = target_of(exact, &mut groups);
            let prefix = target_of(prefix, &mut groups);
            if prefix.is_some() && prefix.0 & GROUP != 0 {
                go_on.push((groups.len() - 1, text));
            }
            records.push(Record { text, exact, prefix });
        }
        if !go_on.is_empty() {
            let prefixes: HashMap<&str, Target, RandomState> =
                records.iter().filter(|r| r.prefix.is_some()).map(|r| (r.text, r.prefix)).collect();
            for (position, text) in go_on {
                groups[position].shorter = shorter(text, &prefixes);
            }
        }
        let (expressions, by_expression): (Vec<_>, Vec<_>) =
            self.expressions.into_values().map(|(pattern, entries)| (pattern, Group::new(entries.into_vec()))).unzip();
        let conditional = (!groups.is_empty() || !expressions.is_empty()).then(|| {
            Box::new(Conditional {
                groups,
                expressions: Patterns::new(&expressions),
                by_expression,
                query: QueryNames::new(self.query.into_iter().cloned().collect()),
            })
        });
        (PathTable::new(&records), conditional)
    }
}

/// The target of one path's entries: the rank itself where the first asks for nothing more, else a new group.
fn target_of(entries: Entries, groups: &mut Vec<PathGroup>) -> Target {
    match entries.first() {
        None => Target::NONE,
        Some(first) if first.conditions.is_empty() => Target(first.rank),
        Some(_) => {
            groups.push(PathGroup { group: Group::new(entries.into_vec()), shorter: Target::NONE });
            Target(GROUP | (groups.len() - 1) as u32)
        }
    }
}

/// The longest of `prefixes` that is an element-wise prefix of `text`, and shorter.
fn shorter(text: &str, prefixes: &HashMap<&str, Target, RandomState>) -> Target {
    text.rmatch_indices('/').find_map(|(end, _)| prefixes.get(&text[..end])).copied().unwrap_or(Target::NONE)
}
