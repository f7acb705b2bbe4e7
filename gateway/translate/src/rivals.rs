//! HTTPRoutes and GRPCRoutes that share hosts of one listener: the API has just one of the two kinds serve a host there,
//! and the older route goes first (Gateway API, GRPCRoute `spec.hostnames`).
//!
//! What a route claims depends on itself and on listeners alone, so that one more look at those that have lost or won is
//! enough: [`Rivals::settle`] says which these are.

use crate::rank::Rank;
use crate::world::Kept;
use sluice_model::config::ListenerId;
use sluice_model::{HostPattern, Kind, ObjectRef};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
pub(crate) struct Rivals {
    /// GRPCRoutes by the listeners that they claim hosts of; where there are none nobody is in anybody's way.
    grpc: BTreeMap<ListenerId, BTreeSet<ObjectRef>>,
    /// At each listener those that cannot serve there, each with a route that goes first.
    lost: BTreeMap<ListenerId, BTreeMap<ObjectRef, ObjectRef>>,
    /// Listeners of which somebody else may have lost than is known.
    touched: BTreeSet<ListenerId>,
}

/// Whether routes of this kind are in each other's way.
pub(crate) fn compete(kind: Kind) -> bool {
    matches!(kind, Kind::HTTPRoute | Kind::GRPCRoute)
}

impl Rivals {
    /// The route that serves at a listener in place of this one.
    pub(crate) fn winner(&self, listener: &ListenerId, route: &ObjectRef) -> Option<&ObjectRef> {
        self.lost.get(listener)?.get(route)
    }

    pub(crate) fn insert(&mut self, route: &ObjectRef, kept: &Kept) {
        for (listener, _) in &kept.claims {
            if route.kind == Kind::GRPCRoute {
                self.grpc.entry(listener.clone()).or_default().insert(route.clone());
            }
            self.touched.insert(listener.clone());
        }
    }

    pub(crate) fn remove(&mut self, route: &ObjectRef, kept: &Kept) {
        for (listener, _) in &kept.claims {
            if let Some(routes) = self.grpc.get_mut(listener) {
                routes.remove(route);
                if routes.is_empty() {
                    self.grpc.remove(listener);
                }
            }
            self.touched.insert(listener.clone());
        }
    }

    /// Judges the listeners that were touched anew. Gives the routes of which something else holds than before.
    pub(crate) fn settle(&mut self, routes: &BTreeMap<ObjectRef, Box<Kept>>) -> BTreeSet<ObjectRef> {
        let mut changed = BTreeSet::new();
        for listener in std::mem::take(&mut self.touched) {
            let former = self.lost.remove(&listener).unwrap_or_default();
            let lost = if self.grpc.contains_key(&listener) { losers(&listener, routes) } else { BTreeMap::new() };
            let differs = |(route, winner): &(&ObjectRef, &ObjectRef), others: &BTreeMap<ObjectRef, ObjectRef>| {
                others.get(*route) != Some(*winner)
            };
            let gone = former.iter().filter(|entry| differs(entry, &lost));
            let new = lost.iter().filter(|entry| differs(entry, &former));
            changed.extend(gone.chain(new).map(|(route, _)| route.clone()).filter(|route| routes.contains_key(route)));
            if !lost.is_empty() {
                self.lost.insert(listener, lost);
            }
        }
        changed
    }

    /// Everything that [`Rivals::settle`] gave was looked at again: nobody claims anything else for that.
    pub(crate) fn settled(&mut self) {
        self.touched.clear();
    }
}

fn losers(listener: &ListenerId, routes: &BTreeMap<ObjectRef, Box<Kept>>) -> BTreeMap<ObjectRef, ObjectRef> {
    let claims = routes.iter().filter_map(|(route, kept)| Some((&kept.rank, route, kept.claim(listener)?)));
    let mut claims: Vec<(&Rank, &ObjectRef, &[HostPattern])> = claims.collect();
    claims.sort_by_key(|(rank, route, _)| (*rank, *route));
    let (mut http, mut grpc) = (Claimed::default(), Claimed::default());
    let mut lost = BTreeMap::new();
    for (_, route, hosts) in claims {
        let (own, others) = if route.kind == Kind::GRPCRoute { (&mut grpc, &http) } else { (&mut http, &grpc) };
        match hosts.iter().find_map(|host| others.in_common(host)) {
            Some(winner) => {
                lost.insert(route.clone(), winner.clone());
            }
            None => hosts.iter().for_each(|host| own.insert(host, route)),
        }
    }
    lost
}

/// Hosts of routes that were accepted, by labels from the last to the first: what is below a suffix is a range.
#[derive(Default)]
struct Claimed<'r> {
    any: Option<&'r ObjectRef>,
    names: BTreeMap<String, &'r ObjectRef>,
    suffixes: BTreeMap<String, &'r ObjectRef>,
}

fn reversed(name: &str) -> String {
    name.rsplit('.').collect::<Vec<_>>().join(".")
}

impl<'r> Claimed<'r> {
    fn insert(&mut self, host: &HostPattern, route: &'r ObjectRef) {
        match host {
            HostPattern::Any => {
                self.any.get_or_insert(route);
            }
            HostPattern::Exact(name) => {
                self.names.entry(reversed(name.as_str())).or_insert(route);
            }
            HostPattern::Wildcard(suffix) | HostPattern::OneLabel(suffix) => {
                self.suffixes.entry(reversed(suffix.as_str())).or_insert(route);
            }
        }
    }

    /// A route that has hosts in common with a pattern.
    fn in_common(&self, host: &HostPattern) -> Option<&'r ObjectRef> {
        if self.any.is_some() {
            return self.any;
        }
        match host {
            HostPattern::Any => self.names.values().chain(self.suffixes.values()).next().copied(),
            HostPattern::Exact(name) => {
                let name = reversed(name.as_str());
                self.names.get(&name).copied().or_else(|| self.above(&name))
            }
            HostPattern::Wildcard(suffix) | HostPattern::OneLabel(suffix) => {
                let suffix = reversed(suffix.as_str());
                let same = self.suffixes.get(&suffix).copied();
                same.or_else(|| self.above(&suffix)).or_else(|| self.below(&suffix))
            }
        }
    }

    /// By a suffix that is wider.
    fn above(&self, name: &str) -> Option<&'r ObjectRef> {
        let ends = name.match_indices('.').filter_map(|(at, _)| name.get(..at));
        ends.filter_map(|suffix| self.suffixes.get(suffix)).next().copied()
    }

    /// By a name or a suffix under this one.
    fn below(&self, suffix: &str) -> Option<&'r ObjectRef> {
        let first = format!("{suffix}.");
        let under = |known: &BTreeMap<String, &'r ObjectRef>| {
            let next = known.range(first.clone()..).next();
            next.filter(|(name, _)| name.starts_with(&first)).map(|(_, route)| *route)
        };
        under(&self.names).or_else(|| under(&self.suffixes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_have_hosts_in_common_as_their_intersection_says() {
        let texts = ["*", "a.b", "x.a.b", "y.x.a.b", "*.a.b", "*.x.a.b", "*.b", "b", "xa.b", "*.xa.b"];
        let pattern = |text: &str| HostPattern::parse_gateway(Some(text).filter(|text| *text != "*")).unwrap();
        let route = ObjectRef::new(Kind::HTTPRoute, "shop", "r");
        for known in texts {
            let mut claimed = Claimed::default();
            claimed.insert(&pattern(known), &route);
            for asked in texts {
                let expected = pattern(known).intersect(&pattern(asked)).is_some();
                assert_eq!(claimed.in_common(&pattern(asked)).is_some(), expected, "{known} and {asked}");
            }
        }
    }
}
