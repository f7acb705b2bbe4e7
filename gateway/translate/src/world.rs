//! What the translation of one route may look at, and what came of it.

use crate::backend_tls::BackendTlsPolicies;
use crate::backend_traffic::BackendTrafficPolicies;
use crate::gateway::{Attach, IngressTlsUse};
use crate::host::HostKey;
use crate::plugin::Plugins;
use crate::policy::Policies;
use crate::rank::Rank;
use crate::report::why;
use crate::rivals::Rivals;
use crate::status::RouteStatus;
use sluice_model::config::{Action, Backend, BackendKey, BackendTarget, ListenerId, PluginBackends, RouteMatch, Rule};
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
#[derive(Debug, PartialEq)]
pub(crate) struct RuleSet {
    pub(crate) rules: Arc<[Arc<Rule>]>,
    /// `rule` is an index into `rules`.
    pub(crate) matches: Arc<[RouteMatch]>,
    /// Beside each match, the field that it was written in: rule and match (or path) by index.
    pub(crate) origins: Box<[(u32, u32)]>,
}

/// A [`RuleSet`] while it is put together.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub(crate) rules: Vec<Arc<Rule>>,
    pub(crate) matches: Vec<RouteMatch>,
    pub(crate) origins: Vec<(u32, u32)>,
}

impl Rules {
    pub(crate) fn finish(self) -> RuleSet {
        RuleSet { rules: self.rules.into(), matches: self.matches.into(), origins: self.origins.into() }
    }
}

/// What one route or Ingress is, or what a Plugin connects to, as its translation says.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) rank: Rank,
    /// Of an HTTPRoute or GRPCRoute: the hosts that it is attached to at each listener, unless others go first there.
    pub(crate) claims: BTreeMap<ListenerId, Vec<HostPattern>>,
    /// Each listener and host once.
    pub(crate) placements: BTreeMap<(ListenerId, HostPattern), Arc<RuleSet>>,
    pub(crate) backends: BTreeMap<BackendKey, Arc<Backend>>,
    /// Of a Plugin: what it may connect to.
    pub(crate) of_plugin: PluginBackends,
    /// Objects that were looked at, there or not.
    pub(crate) deps: BTreeSet<ObjectRef>,
    pub(crate) problems: Vec<Problem>,
    /// Of rules with something that cannot be used, by their place: what it is.
    pub(crate) dropped: BTreeMap<u32, Problem>,
    /// A rule is there that can be used.
    pub(crate) serves: bool,
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
            of_plugin: PluginBackends::default(),
            deps: BTreeSet::new(),
            problems: Vec::new(),
            dropped: BTreeMap::new(),
            serves: false,
            status: RouteStatus::default(),
            ingress: None,
            tls: Vec::new(),
        }
    }

    /// A reference cannot be used, of which a problem tells by now: `ResolvedRefs` is `False` for each parent.
    pub(crate) fn unresolve(&mut self, object: &ObjectRef, reason: &'static str, field: &str) {
        for parent in &mut self.status.parents {
            parent.unresolved.get_or_insert_with(|| Box::new((reason, why(&self.problems, object, field))));
        }
    }

    /// Drops backends that no rule that is served leads to: they were only looked at.
    pub(crate) fn keep_used_backends(&mut self) {
        let mut used = BTreeSet::new();
        for rule in self.placements.values().flat_map(|set| set.rules.iter()) {
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
    pub(crate) fn reuse(&mut self, former: &Kept) {
        let mut old_rules: BTreeMap<&str, Vec<&Arc<Rule>>> = BTreeMap::new();
        for rule in former.placements.iter().flat_map(|(_, set)| set.rules.iter()) {
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
            let reused = match former.placement(key) {
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

/// What is remembered of a [`Compiled`] for as long as its route is there: lists of just their length, as there are many
/// routes and each has few of these.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) rank: Rank,
    /// By listener and host, each once.
    pub(crate) placements: Box<[(HostKey, Arc<RuleSet>)]>,
    /// As [`Compiled::claims`], by listener.
    pub(crate) claims: Box<[(ListenerId, Box<[HostPattern]>)]>,
    pub(crate) backends: Box<[BackendKey]>,
    pub(crate) deps: Box<[ObjectRef]>,
    pub(crate) status: RouteStatus,
    pub(crate) ingress: Option<i64>,
    pub(crate) tls: Box<[(NamespacedName, IngressTlsUse)]>,
}

impl Kept {
    /// Without the problems, which are kept apart, and what is a part of the configuration.
    pub(crate) fn of(compiled: Compiled) -> Self {
        let mut status = compiled.status;
        status.parents.shrink_to_fit();
        status.parents.iter_mut().for_each(|parent| parent.listeners.shrink_to_fit());
        Kept {
            rank: compiled.rank,
            placements: compiled.placements.into_iter().collect(),
            claims: compiled.claims.into_iter().map(|(listener, hosts)| (listener, hosts.into())).collect(),
            backends: compiled.backends.into_keys().collect(),
            deps: compiled.deps.into_iter().collect(),
            status,
            ingress: compiled.ingress,
            tls: compiled.tls.into(),
        }
    }

    pub(crate) fn placement(&self, key: &HostKey) -> Option<&Arc<RuleSet>> {
        let found = self.placements.binary_search_by(|(known, _)| known.cmp(key)).ok()?;
        self.placements.get(found).map(|(_, set)| set)
    }

    pub(crate) fn claim(&self, listener: &ListenerId) -> Option<&[HostPattern]> {
        let found = self.claims.binary_search_by(|(known, _)| known.cmp(listener)).ok()?;
        self.claims.get(found).map(|(_, hosts)| &**hosts)
    }

    pub(crate) fn hosts(&self) -> impl Iterator<Item = &HostKey> {
        self.placements.iter().map(|(key, _)| key)
    }
}
