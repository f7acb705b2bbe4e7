//! Virtual hosts: the rules of all routes that share one, in order of precedence.

use crate::few::Few;
use crate::ingress::FALLBACK;
use crate::world::Kept;
use sluice_model::config::{ListenerId, RouteMatch, VirtualHost};
use sluice_model::matcher::precedence;
use sluice_model::{Code, HostPattern, Kind, ObjectRef, Problem};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// A listener and a host of it.
pub(crate) type HostKey = (ListenerId, HostPattern);

/// Which routes each virtual host is made of, the one that goes first on ties first.
#[derive(Debug, Default)]
pub(crate) struct Hosts {
    contributors: BTreeMap<HostKey, Few<Contributor>>,
}

/// One of the routes of a host. Ordered as their ranks are, then by kind.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Contributor {
    created: i64,
    route: ObjectRef,
}

impl Contributor {
    fn new(route: &ObjectRef, kept: &Kept) -> Self {
        Contributor { created: kept.rank.created, route: route.clone() }
    }
}

impl Ord for Contributor {
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b) = (&self.route, &other.route);
        self.created
            .cmp(&other.created)
            .then_with(|| a.namespace.cmp(&b.namespace))
            .then_with(|| a.name.cmp(&b.name))
            .then_with(|| a.kind.cmp(&b.kind))
    }
}

impl PartialOrd for Contributor {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Hosts {
    pub(crate) fn insert(&mut self, route: &ObjectRef, kept: &Kept) {
        for key in kept.hosts() {
            let contributor = Contributor::new(route, kept);
            match self.contributors.entry(key.clone()) {
                Entry::Occupied(mut routes) => routes.get_mut().insert(contributor),
                Entry::Vacant(none) => {
                    none.insert(Few::One(contributor));
                }
            }
        }
    }

    pub(crate) fn remove(&mut self, route: &ObjectRef, kept: &Kept) {
        let contributor = Contributor::new(route, kept);
        for key in kept.hosts() {
            if self.contributors.get_mut(key).is_some_and(|routes| routes.remove(&contributor)) {
                self.contributors.remove(key);
            }
        }
    }

    /// Lays one host out; `None` where no route is left for it.
    pub(crate) fn build(
        &self,
        key: &HostKey,
        routes: &BTreeMap<ObjectRef, Box<Kept>>,
        problems: &mut Vec<Problem>,
    ) -> Option<VirtualHost> {
        let contributors = self.contributors.get(key)?;
        if let Few::One(one) = contributors {
            let set = routes.get(&one.route)?.placement(key)?;
            if in_order(&set.matches) {
                return Some(VirtualHost {
                    hostname: key.1.clone(),
                    matches: set.matches.clone(),
                    rules: set.rules.clone(),
                });
            }
        }
        let mut rules = Vec::new();
        let mut matches: Vec<(&RouteMatch, u32, &ObjectRef, (u32, u32))> = Vec::new();
        for Contributor { route, .. } in contributors.iter() {
            let Some(set) = routes.get(route).and_then(|kept| kept.placement(key)) else { continue };
            let offset = u32::try_from(rules.len()).unwrap_or(u32::MAX);
            rules.extend(set.rules.iter().cloned());
            for (found, origin) in set.matches.iter().zip(&set.origins) {
                matches.push((found, offset.saturating_add(found.rule), route, *origin));
            }
        }
        // A default backend is behind every rule that takes the same requests, whoever wrote that one. Stable: what is
        // equal stays in the order of age, name and position.
        matches.sort_by(|a, b| precedence(a.0, b.0).then_with(|| is_fallback(a).cmp(&is_fallback(b))));
        for pair in matches.windows(2) {
            let [first, second] = pair else { continue };
            if precedence(first.0, second.0) == Ordering::Equal && same(first.0, second.0) && !is_fallback(second) {
                problems.push(shadowed(&key.1, first.2, second));
            }
        }
        let matches = matches.into_iter().map(|(found, rule, ..)| RouteMatch { rule, ..found.clone() }).collect();
        Some(VirtualHost { hostname: key.1.clone(), matches, rules: rules.into() })
    }
}

/// Whether matches of one route are by precedence as they are written, and no two of them are equal in it.
fn in_order(matches: &[RouteMatch]) -> bool {
    matches.is_sorted_by(|a, b| precedence(a, b) == Ordering::Less)
}

/// Whether two matches take the same requests.
fn same(a: &RouteMatch, b: &RouteMatch) -> bool {
    a.path == b.path
        && a.grpc_method == b.grpc_method
        && a.method == b.method
        && a.headers == b.headers
        && a.query == b.query
}

/// A default backend is meant to come after others.
fn is_fallback(found: &(&RouteMatch, u32, &ObjectRef, (u32, u32))) -> bool {
    found.2.kind == Kind::GatewayConfig || found.3.0 == FALLBACK
}

fn shadowed(host: &HostPattern, first: &ObjectRef, second: &(&RouteMatch, u32, &ObjectRef, (u32, u32))) -> Problem {
    let (_, _, route, (rule, index)) = second;
    let field = match route.kind {
        Kind::Ingress => format!("spec.rules[{rule}].http.paths[{index}].path"),
        _ => format!("spec.rules[{rule}].matches[{index}]"),
    };
    let message = if first == *route {
        format!("an earlier rule of the same object takes the same requests of host `{host}`")
    } else {
        format!("{first} takes the same requests of host `{host}`")
    };
    Problem::warning(Code::RouteShadowed, route, field, message)
}
