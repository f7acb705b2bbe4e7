//! TrafficPolicies: which is attached to what, and what several of them say together (GEP-713; the strategy stands in
//! the CRD's description).

mod backend;
mod merge;

pub(crate) use backend::{BackendPlan, MAX_ATTEMPTS, backend_plan, client_policy, retry};
pub(crate) use merge::{Chain, Level, PluginEntry};

use crate::rank::{Rank, name_of};
use crate::report::Report;
use crate::service_targets::has_port;
use sluice_model::config::ListenerId;
use sluice_model::object::NamespacedName;
use sluice_model::{Code, Kind, ObjectRef, Problem};
use sluice_resources::{Packed, PolicySettings, PolicyTarget, Store, TrafficPolicy};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One policy, with its defaults in one place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Policy {
    pub(crate) name: NamespacedName,
    pub(crate) defaults: PolicySettings,
    pub(crate) overrides: PolicySettings,
    /// Where the defaults are written: `spec.defaults`, or `spec` itself.
    pub(crate) defaults_field: &'static str,
    /// Whether it is attached by itself; another has to be named.
    pub(crate) targeted: bool,
    /// It stands for one that cannot be read: what it is attached to is shut.
    pub(crate) unreadable: bool,
}

/// What a policy is attached to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Target {
    pub(crate) object: ObjectRef,
    pub(crate) section: Option<Arc<str>>,
}

/// All policies.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    attached: BTreeMap<Target, Arc<Policy>>,
    named: BTreeMap<NamespacedName, Arc<Policy>>,
    pub(crate) problems: Vec<Problem>,
}

impl Policies {
    /// Reads all policies of the store.
    pub(crate) fn read(store: &Store) -> Self {
        let mut result = Policies::default();
        let mut by_rank: Vec<&Arc<TrafficPolicy>> = store.traffic_policies.values().collect();
        by_rank.sort_by_cached_key(|policy| Rank::of(&policy.metadata));
        for policy in by_rank {
            result.add(policy);
        }
        result
    }

    fn add(&mut self, object: &TrafficPolicy) {
        let name = name_of(&object.metadata);
        let reference = ObjectRef::new(Kind::TrafficPolicy, name.namespace.clone(), name.name.clone());
        let mut report = Report::new(&reference, &mut self.problems);
        if object.spec.has_both_forms() {
            report.error(
                Code::InvalidCombination,
                "spec.defaults",
                "top-level fields are defaults too; `defaults` is used",
            );
        }
        let defaults_field = if object.spec.defaults.is_some() { "spec.defaults" } else { "spec" };
        let policy = Arc::new(Policy {
            name: name.clone(),
            defaults_field,
            defaults: object.spec.defaults(),
            overrides: object.spec.overrides.clone().unwrap_or_default(),
            targeted: object.spec.target_refs.as_ref().is_some_and(|targets| !targets.is_empty()),
            unreadable: object.spec.unreadable,
        });
        check(&policy.defaults, defaults_field, &mut report);
        check(&policy.overrides, "spec.overrides", &mut report);
        for (i, target) in object.spec.target_refs.iter().flatten().enumerate() {
            let field = format!("spec.targetRefs[{i}]");
            let Some(target) = read_target(target, &name, &field, &mut report) else { continue };
            if target.object.kind == Kind::Service {
                let elsewhere = [&policy.defaults, &policy.overrides];
                if elsewhere.iter().any(|s| s.plugins.is_some() || s.client.is_some()) {
                    report.warn(
                        Code::PolicyNotApplicable,
                        field.clone(),
                        "of a policy on a Service only `backend` counts",
                    );
                }
            }
            if let Some(older) = self.attached.get(&target) {
                let message = format!("TrafficPolicy {} is attached to {} already", older.name, describe(&target));
                report.error(Code::PolicyConflict, field, message);
            } else {
                self.attached.insert(target, policy.clone());
            }
        }
        self.named.insert(name, policy);
    }

    /// The policy attached to an object, or to a section of it.
    pub(crate) fn attached(&self, object: &ObjectRef, section: Option<&str>) -> Option<&Policy> {
        if self.attached.is_empty() {
            return None;
        }
        let target = Target { object: object.clone(), section: section.map(Arc::from) };
        self.attached.get(&target).map(Arc::as_ref)
    }

    /// Those that meet at a listener whatever the route.
    pub(crate) fn of_listener(&self, id: &ListenerId) -> impl Iterator<Item = (Level, &Policy)> {
        let mut found = [None; 3];
        if !self.attached.is_empty() {
            let (owner, name) = id.owner();
            found = [
                self.attached(&id.gateway_ref(), None).map(|policy| (Level::Gateway, policy)),
                self.attached(&owner, None)
                    .filter(|_| owner.kind == Kind::ListenerSet)
                    .map(|policy| (Level::ListenerSet, policy)),
                self.attached(&owner, Some(name)).map(|policy| (Level::Listener, policy)),
            ];
        }
        found.into_iter().flatten()
    }

    pub(crate) fn named(&self, name: &NamespacedName) -> Option<&Policy> {
        self.named.get(name).map(Arc::as_ref)
    }

    /// What looks different to those that ask by object or by name than it did before.
    pub(crate) fn changes_since(&self, former: &Policies) -> BTreeSet<ObjectRef> {
        let mut changed = BTreeSet::new();
        let targets: BTreeSet<&Target> = self.attached.keys().chain(former.attached.keys()).collect();
        for target in targets {
            if self.attached.get(target) != former.attached.get(target) {
                changed.insert(target.object.clone());
            }
        }
        let names: BTreeSet<&NamespacedName> = self.named.keys().chain(former.named.keys()).collect();
        for name in names {
            if self.named.get(name) != former.named.get(name) {
                changed.insert(ObjectRef::new(Kind::TrafficPolicy, name.namespace.clone(), name.name.clone()));
            }
        }
        changed
    }

    /// Targets that are not there: looked at anew whenever something that can be a target changed.
    pub(crate) fn missing_targets(store: &Store) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (name, policy) in &store.traffic_policies {
            let reference = ObjectRef::new(Kind::TrafficPolicy, name.namespace.clone(), name.name.clone());
            let mut unreported = Vec::new();
            for (i, target) in policy.spec.target_refs.iter().flatten().enumerate() {
                let field = format!("spec.targetRefs[{i}]");
                let mut quiet = Report::new(&reference, &mut unreported);
                let Some(target) = read_target(target, name, &field, &mut quiet) else { continue };
                if !exists(store, &target) {
                    let message = format!("there is no {}", describe(&target));
                    problems.push(Problem::error(Code::PolicyTargetNotFound, &reference, field, message));
                }
            }
        }
        problems
    }
}

fn describe(target: &Target) -> String {
    match &target.section {
        Some(section) => format!("{} section `{section}`", target.object),
        None => target.object.to_string(),
    }
}

fn read_target(target: &PolicyTarget, policy: &NamespacedName, field: &str, report: &mut Report<'_>) -> Option<Target> {
    let kind = Kind::from_group_kind(&target.group, &target.kind);
    let others = [Kind::Gateway, Kind::ListenerSet, Kind::Ingress, Kind::Service];
    let takes = |kind: &Kind| kind.is_route() || others.contains(kind);
    let Some(kind) = kind.filter(takes) else {
        let message = format!(
            "policies for kind `{}` of group `{}` are not supported; for Gateway, ListenerSet, Ingress, \
             Service and routes they are",
            target.kind, target.group
        );
        report.error(Code::KindNotSupported, format!("{field}.kind"), message);
        return None;
    };
    if kind == Kind::Ingress && target.section_name.is_some() {
        report.error(Code::PolicyNotApplicable, format!("{field}.sectionName"), "an Ingress has no sections");
        return None;
    }
    Some(Target {
        object: ObjectRef::new(kind, policy.namespace.clone(), target.name.as_str()),
        section: target.section_name.as_deref().map(Arc::from),
    })
}

fn exists(store: &Store, target: &Target) -> bool {
    let name = target.object.key();
    let section = target.section.as_deref();
    // The rules of each kind of route have a type of their own.
    macro_rules! has_rule {
        ($routes:expr, |$route:ident| $rules:expr) => {
            match section {
                None => $routes.contains_key(&name),
                Some(section) => {
                    let route = $routes.get(&name).and_then(Packed::open);
                    route.is_some_and(|$route| $rules.any(|rule| rule.name.as_deref() == Some(section)))
                }
            }
        };
    }
    match target.object.kind {
        Kind::Gateway if name == crate::gateway::ingress_gateway() => true,
        Kind::Gateway => store
            .gateways
            .get(&name)
            .is_some_and(|g| section.is_none_or(|s| g.spec.listeners.iter().any(|l| l.name == s))),
        Kind::ListenerSet => store
            .listener_sets
            .get(&name)
            .is_some_and(|set| section.is_none_or(|s| set.spec.listeners.iter().any(|l| l.name == s))),
        Kind::HTTPRoute => has_rule!(store.http_routes, |route| route.spec.rules.iter().flatten()),
        Kind::GRPCRoute => has_rule!(store.grpc_routes, |route| route.spec.rules.iter().flatten()),
        Kind::TLSRoute => has_rule!(store.tls_routes, |route| route.spec.rules.iter()),
        Kind::TCPRoute => has_rule!(store.tcp_routes, |route| route.spec.rules.iter()),
        Kind::UDPRoute => has_rule!(store.udp_routes, |route| route.spec.rules.iter()),
        Kind::Ingress => store.ingresses.contains_key(&name),
        _ => match section {
            None => store.services.contains_key(&name),
            Some(section) => has_port(store, &name, section) == Some(true),
        },
    }
}

/// Every problem of one policy's values.
fn check(settings: &PolicySettings, field: &str, report: &mut Report<'_>) {
    let uses = settings.plugins.as_deref().unwrap_or_default();
    for (i, plugin) in uses.iter().enumerate() {
        if uses.iter().take(i).any(|earlier| earlier.name == plugin.name) {
            let message = format!("there are two plugins of the name `{}`; the first one is used", plugin.name);
            report.error(Code::InvalidCombination, format!("{field}.plugins[{i}].name"), message);
        }
    }
    if let Some(backend) = &settings.backend {
        backend_plan(backend, &format!("{field}.backend"), report);
        retry(backend.retry.as_ref(), &format!("{field}.backend.retry"), report);
    }
    if let Some(client) = &settings.client {
        client_policy(client, &format!("{field}.client"), report);
    }
}
