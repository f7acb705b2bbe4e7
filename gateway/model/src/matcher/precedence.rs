//! Which of two matches is tried first.

use crate::config::{PathMatch, RouteMatch, ValueMatch};
use std::cmp::Ordering;

/// Orders matches by precedence, the first to be tried as the least. `translate` sorts each
/// [`VirtualHost::matches`](crate::config::VirtualHost::matches) by it, with a *stable* sort: matches that are equal
/// here stay in the order they were given in.
///
/// The Gateway API (`HTTPRouteRule.matches`) asks for this order over all rules of all routes that share a host:
///
/// 1. an exact path;
/// 2. the prefix with the most characters;
/// 3. a method;
/// 4. the most header conditions;
/// 5. the most query parameter conditions;
///
/// and then, on ties, the route that is older by its creation time, then the one whose `namespace/name` comes first,
/// then the rule that stands first in its route. Those last three are what the given order has to express; this
/// function does not know objects.
///
/// Where a regular expression comes, the API leaves open. Here it stands between exact paths and prefixes, since who
/// writes one means it more narrowly than a prefix; of two, the one with the longer text goes first.
///
/// A GRPCRoute (`GRPCRouteRule.matches`) asks for the most characters of the service, then of the method, then the most
/// header conditions. Service and method together are an exact path, a service alone is a prefix of one element, and a
/// method alone is a condition on the prefix `/`, which goes before everything else that stands there.
///
/// An Ingress asks for the longest path, and for `Exact` before `Prefix` of one length (Ingress v1, "multiple
/// matches"). That is the same order: an exact match is as long as the whole path, and no prefix is longer.
///
/// Paths that can never match one request (two exact ones, two prefixes of one length) are ordered by their text,
/// which changes no answer, and puts the matches of one path together.
pub fn precedence(a: &RouteMatch, b: &RouteMatch) -> Ordering {
    by_path(&a.path, &b.path)
        .then_with(|| grpc_method(b).cmp(&grpc_method(a)))
        .then_with(|| b.method.is_some().cmp(&a.method.is_some()))
        .then_with(|| b.headers.len().cmp(&a.headers.len()))
        .then_with(|| b.query.len().cmp(&a.query.len()))
}

fn by_path(a: &PathMatch, b: &PathMatch) -> Ordering {
    match (a, b) {
        (PathMatch::Exact(a), PathMatch::Exact(b)) => a.cmp(b),
        (PathMatch::Prefix(a), PathMatch::Prefix(b)) => characters(b).cmp(&characters(a)).then_with(|| a.cmp(b)),
        (PathMatch::Regex(a), PathMatch::Regex(b)) => characters(&b.source).cmp(&characters(&a.source)),
        _ => class(a).cmp(&class(b)),
    }
}

/// An exact method before an expression, the one with more characters first.
fn grpc_method(route: &RouteMatch) -> (u8, usize) {
    match &route.grpc_method {
        None => (0, 0),
        Some(ValueMatch::Regex(pattern)) => (1, characters(&pattern.source)),
        Some(ValueMatch::Exact(method)) => (2, characters(method)),
    }
}

fn class(path: &PathMatch) -> u8 {
    match path {
        PathMatch::Exact(_) => 0,
        PathMatch::Regex(_) => 1,
        PathMatch::Prefix(_) => 2,
    }
}

fn characters(text: &str) -> usize {
    text.chars().count()
}
