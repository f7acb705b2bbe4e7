//! The rules that were nearly taken, and what each of them missed.

use super::describe;
use crate::HostPattern;
use crate::config::{PathMatch, RouteMatch, ValueMatch, VirtualHost};
use crate::matcher::{MatchIndex, RequestParts, RequestView, grpc_method, precedence, query_value};
use serde::Serialize;
use std::cmp::Ordering;

/// How many are told.
const NEAREST: usize = 5;

/// A match that was not taken.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Nearest {
    pub rule: String,
    pub hostname: HostPattern,
    /// `prefix /web, method GET`.
    pub asks: String,
    pub why: Vec<WhyNot>,
}

/// One thing that kept a match from being taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum WhyNot {
    Host {
        wanted: String,
    },
    Path {
        wanted: String,
        /// What is easily overlooked.
        note: Option<&'static str>,
    },
    Method {
        wanted: String,
    },
    GrpcMethod {
        wanted: String,
    },
    HeaderMissing {
        name: String,
    },
    HeaderDiffers {
        name: String,
        wanted: String,
    },
    QueryMissing {
        name: String,
    },
    QueryDiffers {
        name: String,
        wanted: String,
    },
    /// It matches too, but another goes before it.
    Shadowed {
        by: String,
        because: &'static str,
    },
}

/// What was taken: a virtual host and an index into its matches.
type Taken<'c> = Option<(&'c VirtualHost, MatchIndex)>;

pub(super) fn nearest(
    hosts: &[&VirtualHost],
    host: &str,
    request: &RequestParts<'_>,
    taken: Taken<'_>,
) -> Vec<Nearest> {
    let mut found: Vec<(Distance, &VirtualHost, &RouteMatch, Vec<WhyNot>)> = Vec::new();
    for candidate in hosts {
        for (index, route) in (0..).zip(candidate.matches.iter()) {
            let is_taken = taken.is_some_and(|(host, taken)| std::ptr::eq(host, *candidate) && taken == index);
            if is_taken {
                continue;
            }
            let mut why = misses(candidate, route, host, request);
            if why.is_empty() {
                why.extend(taken.map(|(host, index)| shadowed(candidate, route, host, index)));
            }
            found.push((Distance::of(&why, route, request.path), candidate, route, why));
        }
    }
    found.sort_by_key(|(distance, ..)| *distance);
    found
        .into_iter()
        .filter(|(distance, ..)| distance.is_near())
        .take(NEAREST)
        .map(|(_, host, route, why)| Nearest {
            rule: rule_name(host, route),
            hostname: host.hostname.clone(),
            asks: describe::route(route),
            why,
        })
        .collect()
}

fn rule_name(host: &VirtualHost, route: &RouteMatch) -> String {
    host.rules.get(route.rule as usize).map(|rule| rule.id.to_string()).unwrap_or_default()
}

/// How far a match is from being taken: what it misses, then how many elements of its path differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Distance {
    missed: u32,
    other_elements: usize,
}

impl Distance {
    fn of(why: &[WhyNot], route: &RouteMatch, path: &str) -> Self {
        let weight = |why: &WhyNot| match why {
            WhyNot::Host { .. } => 5,
            WhyNot::Path { .. } => 3,
            _ => 1,
        };
        let other_elements = match &route.path {
            PathMatch::Exact(text) | PathMatch::Prefix(text) => {
                let same = text.split('/').zip(path.split('/')).take_while(|(a, b)| a == b).count();
                text.split('/').count().max(path.split('/').count()) - same
            }
            PathMatch::Regex(_) => path.split('/').count() - 1,
        };
        Distance { missed: why.iter().map(weight).sum(), other_elements }
    }

    /// Another host and another path is another request.
    fn is_near(self) -> bool {
        self.missed < 8
    }
}

fn misses(candidate: &VirtualHost, route: &RouteMatch, host: &str, request: &RequestParts<'_>) -> Vec<WhyNot> {
    let mut why = Vec::new();
    if !candidate.hostname.matches(host) {
        why.push(WhyNot::Host { wanted: candidate.hostname.to_string() });
    }
    if !path_matches(&route.path, request.path) {
        why.push(WhyNot::Path { wanted: describe::path(&route.path), note: note(&route.path, request.path) });
    }
    if let Some(method) = route.method.as_ref().filter(|m| *m != request.method) {
        why.push(WhyNot::Method { wanted: method.to_string() });
    }
    if let Some(wanted) = &route.grpc_method
        && !grpc_method(request.path).is_some_and(|method| value_matches(wanted, method.as_bytes()))
    {
        why.push(WhyNot::GrpcMethod { wanted: describe::value(wanted) });
    }
    for header in &route.headers {
        let name = header.name.to_string();
        match request.header(&header.name) {
            None => why.push(WhyNot::HeaderMissing { name }),
            Some(value) if value_matches(&header.value, &value) => {}
            Some(_) => why.push(WhyNot::HeaderDiffers { name, wanted: describe::value(&header.value) }),
        }
    }
    for parameter in &route.query {
        let name = parameter.name.to_string();
        match query_value(request.query, &parameter.name) {
            None => why.push(WhyNot::QueryMissing { name }),
            Some(value) if value_matches(&parameter.value, &value) => {}
            Some(_) => why.push(WhyNot::QueryDiffers { name, wanted: describe::value(&parameter.value) }),
        }
    }
    why
}

fn path_matches(wanted: &PathMatch, path: &str) -> bool {
    match wanted {
        PathMatch::Exact(text) => **text == *path,
        PathMatch::Prefix(text) => path.strip_prefix(&**text).is_some_and(|r| r.is_empty() || r.starts_with('/')),
        PathMatch::Regex(pattern) => pattern.regex.is_match(path),
    }
}

fn value_matches(wanted: &ValueMatch, value: &[u8]) -> bool {
    match wanted {
        ValueMatch::Exact(text) => text.as_bytes() == value,
        ValueMatch::Regex(pattern) => std::str::from_utf8(value).is_ok_and(|v| pattern.regex.is_match(v)),
    }
}

fn note(wanted: &PathMatch, path: &str) -> Option<&'static str> {
    let (PathMatch::Exact(text) | PathMatch::Prefix(text)) = wanted else {
        let PathMatch::Regex(pattern) = wanted else { return None };
        let unanchored = regex::Regex::new(&pattern.source).ok()?;
        return unanchored.is_match(path).then_some("an expression has to match the whole path");
    };
    let bare = |text: &str| text.trim_end_matches('/').to_owned();
    if bare(text) == bare(path) {
        Some("an exact path tells its final slash")
    } else if bare(text).eq_ignore_ascii_case(&bare(path)) {
        Some("paths are case-sensitive")
    } else if matches!(wanted, PathMatch::Prefix(_)) && path.starts_with(&**text) {
        Some("a prefix means whole elements")
    } else {
        path.starts_with(&**text).then_some("an exact path has nothing below it")
    }
}

/// Why the match that was taken goes before one that also matches.
fn shadowed(host: &VirtualHost, route: &RouteMatch, taken_host: &VirtualHost, taken: MatchIndex) -> WhyNot {
    let Some(winner) = taken_host.matches.get(taken as usize) else {
        return WhyNot::Shadowed { by: String::new(), because: "" };
    };
    let because =
        if host.hostname != taken_host.hostname { "its host is more specific" } else { reason(winner, route) };
    WhyNot::Shadowed { by: rule_name(taken_host, winner), because }
}

fn reason(winner: &RouteMatch, loser: &RouteMatch) -> &'static str {
    let same = precedence(winner, loser) == Ordering::Equal;
    match (&winner.path, &loser.path) {
        (PathMatch::Exact(_), PathMatch::Regex(_) | PathMatch::Prefix(_)) => "an exact path goes first",
        (PathMatch::Regex(_), PathMatch::Prefix(_)) => "an expression goes before a prefix",
        (PathMatch::Prefix(a), PathMatch::Prefix(b)) if a.len() > b.len() => "the longer prefix goes first",
        (PathMatch::Regex(a), PathMatch::Regex(b)) if a.source.len() > b.source.len() => {
            "the longer expression goes first"
        }
        _ if same => "it stands first: an older route, then by namespace and name, then by position",
        _ if winner.grpc_method.is_some() && loser.grpc_method.is_none() => "it asks for a gRPC method",
        _ if winner.method.is_some() && loser.method.is_none() => "it asks for a method",
        _ if winner.headers.len() > loser.headers.len() => "it asks for more headers",
        _ => "it asks for more query parameters",
    }
}
