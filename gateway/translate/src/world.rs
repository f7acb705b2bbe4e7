//! What the translation of one route may look at, and what came of it.

use crate::backend_tls::BackendTlsPolicies;
use crate::backend_traffic::BackendTrafficPolicies;
use crate::gateway::{Attach, IngressTlsUse};
use crate::plugin::Plugins;
use crate::policy::Policies;
use crate::rank::Rank;
use crate::rivals::Rivals;
use crate::status::RouteStatus;
use sluice_model::config::{Action, Backend, BackendKey, BackendTarget, ListenerId, RouteMatch, Rule};
use sluice_model::object::NamespacedName;
use sluice_model::{HostPattern, ObjectRef, Problem};
use sluice_resources::Store;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Everything but other routes.
#[derive(Clone, Copy)]
pub(crate) struct World<'w> {
    pub(crate) store: &'w Store,
    pub(crate) attach: &'w Attach,
    pub(crate) policies: &'w Policies,
    pub(crate) plugins: &'w Plugins,
    pub(crate) backend_tls: &'w BackendTlsPolicies,
    pub(crate) backend_traffic: &'w BackendTrafficPolicies,
    /// Which of the others serve in place of it; everything that there is of them.
    pub(crate) rivals: &'w Rivals,
}

/// Rules with the matches that lead to them.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct RuleSet {
    pub(crate) rules: Vec<Arc<Rule>>,
    /// `rule` is an index into `rules`.
    pub(crate) matches: Vec<RouteMatch>,
    /// Beside each match, the field that it was written in: rule and match (or path) by index.
    pub(crate) origins: Vec<(u32, u32)>,
}

/// What one route or Ingress is, or what a Plugin calls.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) rank: Rank,
    /// Of an HTTPRoute or GRPCRoute: the hosts that it is attached to at each listener, unless others go first there.
    pub(crate) claims: BTreeMap<ListenerId, Vec<HostPattern>>,
    /// Each listener and host once.
    pub(crate) placements: BTreeMap<(ListenerId, HostPattern), Arc<RuleSet>>,
    pub(crate) backends: BTreeMap<BackendKey, Arc<Backend>>,
    /// Of a Plugin: the backends that it may call, by the names that it calls them by.
    pub(crate) calls: BTreeMap<Arc<str>, BackendKey>,
    /// Objects that were looked at, there or not.
    pub(crate) deps: BTreeSet<ObjectRef>,
    pub(crate) problems: Vec<Problem>,
    pub(crate) status: RouteStatus,
    /// The generation of an Ingress that is ours.
    pub(crate) ingress: Option<i64>,
    /// Certificates that an Ingress asks for.
    pub(crate) tls: Vec<(NamespacedName, IngressTlsUse)>,
}

impl Compiled {
    pub(crate) fn new(rank: Rank) -> Self {
        Compiled {
            rank,
            claims: BTreeMap::new(),
            placements: BTreeMap::new(),
            backends: BTreeMap::new(),
            calls: BTreeMap::new(),
            deps: BTreeSet::new(),
            problems: Vec::new(),
            status: RouteStatus::default(),
            ingress: None,
            tls: Vec::new(),
        }
    }

    /// Drops backends that no rule that is served leads to: they were only looked at.
    pub(crate) fn keep_used_backends(&mut self) {
        let mut used = BTreeSet::new();
        for rule in self.placements.values().flat_map(|set| &set.rules) {
            used.extend(rule.filters.mirrors.iter().map(|mirror| &mirror.backend));
            used.extend(rule.filters.external_auth.iter().map(|auth| &auth.backend));
            let Action::Forward(backends) = &rule.action else { continue };
            for backend in backends {
                used.extend(backend.filters.mirrors.iter().map(|mirror| &mirror.backend));
                if let BackendTarget::Backend(key) = &backend.target {
                    used.insert(key);
                }
            }
        }
        self.backends.retain(|key, _| used.contains(key));
    }

    /// Takes over from `former` each pointer whose content is the same.
    pub(crate) fn reuse(&mut self, former: &Compiled) {
        let mut old_rules: BTreeMap<&str, Vec<&Arc<Rule>>> = BTreeMap::new();
        for rule in former.placements.values().flat_map(|set| &set.rules) {
            let known = old_rules.entry(&rule.id.rule).or_default();
            if !known.iter().any(|old| Arc::ptr_eq(old, rule)) {
                known.push(rule);
            }
        }
        // Sets are shared by hosts and listeners; what was shared stays so.
        let mut done: Vec<(Arc<RuleSet>, Arc<RuleSet>)> = Vec::new();
        for (key, set) in &mut self.placements {
            if let Some((_, reused)) = done.iter().find(|(new, _)| Arc::ptr_eq(new, set)) {
                *set = reused.clone();
                continue;
            }
            let reused = match former.placements.get(key) {
                Some(old) if **old == **set => old.clone(),
                _ => {
                    let rules = set.rules.iter().map(|rule| {
                        let same =
                            old_rules.get(rule.id.rule.as_ref()).and_then(|old| old.iter().find(|o| ***o == *rule));
                        same.map_or_else(|| rule.clone(), |old| Arc::clone(old))
                    });
                    Arc::new(RuleSet {
                        rules: rules.collect(),
                        matches: set.matches.clone(),
                        origins: set.origins.clone(),
                    })
                }
            };
            done.push((set.clone(), reused.clone()));
            *set = reused;
        }
    }
}
