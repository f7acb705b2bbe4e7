//! HTTPRoutes, and what GRPCRoutes have in common with them: to which listeners and hosts they attach, and what their rules do there.

mod backend;
mod cors;
mod external_auth;
mod filter;
mod matches;
mod parent;
mod rule;
mod rule_filters;

use crate::policy::Level;
use crate::rank::Rank;
use crate::report::text;
use crate::world::{Compiled, RuleSet, World};
use parent::Attachment;
use sluice_model::config::CertificateKey;
use sluice_model::object::NamespacedName;
use sluice_model::{Code, Hostname, Kind, ObjectRef, Problem, Severity};
use sluice_resources::api::HttpRoute;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) use backend::tell;
pub(crate) use matches::{Matches, header_matches, path_match};
pub(crate) use parent::unreadable;

/// What a rule depends on beside its route: two listeners of which this is the same have the same rules.
#[derive(PartialEq)]
struct Surroundings<'w> {
    client_certificate: Option<&'w CertificateKey>,
    external_names: &'w [Hostname],
    policies: Vec<(Level, NamespacedName)>,
}

pub(crate) fn compile(world: &World<'_>, name: &NamespacedName, route: &HttpRoute) -> Compiled {
    let object = ObjectRef::new(Kind::HTTPRoute, name.namespace.clone(), name.name.clone());
    compile_as(world, &object, route, Matches::OfRules)
}

/// `matches`: where the matches of the rules are written.
pub(crate) fn compile_as(world: &World<'_>, object: &ObjectRef, route: &HttpRoute, matches: Matches<'_>) -> Compiled {
    let mut compiled = Compiled::new(Rank::named(&route.metadata, &object.key()));
    let attachments = parent::attachments(world, object, route, &mut compiled);
    if attachments.is_empty() {
        // Its references are checked all the same: status and `sluice check` tell of them.
        rule::rules(world, object, route, matches, None, &mut compiled);
    }
    let mut known: Vec<(Surroundings<'_>, Arc<RuleSet>)> = Vec::new();
    for Attachment { place, hostnames } in &attachments {
        let policies = world.policies.of_listener(&place.id).map(|(level, policy)| (level, policy.name.clone()));
        let surroundings = Surroundings {
            client_certificate: place.client_certificate.as_ref(),
            external_names: &place.external_names,
            policies: policies.collect(),
        };
        let set = match known.iter().find(|(other, _)| *other == surroundings) {
            Some((_, set)) => set.clone(),
            None => {
                let set = Arc::new(rule::rules(world, object, route, matches, Some(place), &mut compiled));
                known.push((surroundings, set.clone()));
                set
            }
        };
        compiled.deps.extend([place.id.gateway_ref(), place.id.owner().0]);
        for hostname in hostnames {
            compiled.placements.insert((place.id.clone(), hostname.clone()), set.clone());
        }
    }
    compiled.keep_used_backends();
    compiled.status.generation = route.metadata.generation.unwrap_or_default();
    let of_hostnames = compiled.problems.iter().find(|problem| is_invalid(object, problem) && !is_of_rule(problem));
    if let Some(first) = compiled.dropped.values().next().filter(|_| !attachments.is_empty() && !compiled.serves) {
        let reason = if excludes_filters(first) { "IncompatibleFilters" } else { "UnsupportedValue" };
        for parent in &mut compiled.status.parents {
            parent
                .rejected
                .get_or_insert_with(|| Box::new((reason, format!("no rule of it can be used: {}", text(first)))));
        }
    }
    compiled.status.invalid = partly(&compiled.dropped, of_hostnames);
    compiled
}

/// Rules that `PartiallyInvalid` names.
const MAX_NAMED: usize = 3;

/// The message of `PartiallyInvalid`: the API wants it beginning like this, and the rules to be named.
fn partly(dropped: &BTreeMap<u32, Problem>, of_hostnames: Option<&Problem>) -> Option<String> {
    let mut parts: Vec<String> = dropped.values().take(MAX_NAMED).map(text).collect();
    parts.extend(dropped.len().checked_sub(MAX_NAMED).filter(|more| *more > 0).map(|more| format!("and {more} more")));
    parts.extend(of_hostnames.map(|problem| format!("none serves {}", text(problem))));
    (!parts.is_empty()).then(|| format!("Dropped Rule: {}", parts.join("; ")))
}

fn is_of_rule(problem: &Problem) -> bool {
    problem.field.starts_with("spec.rules[")
}

/// Whether filters stand beside each other that cannot: it is said of the list, or of one of its entries as a whole.
fn excludes_filters(problem: &Problem) -> bool {
    let (_, filters) = problem.field.rsplit_once(".filters").unwrap_or_default();
    problem.code == Code::InvalidCombination
        && problem.field.contains(".filters")
        && (filters.is_empty() || filters.ends_with(']'))
}

/// Whether it is wrong beside references, of which `ResolvedRefs` tells, and parents, of which `Accepted` does.
fn is_invalid(object: &ObjectRef, problem: &Problem) -> bool {
    let told_elsewhere = [
        Code::ServiceNotFound,
        Code::ServicePortNotFound,
        Code::RefNotPermitted,
        Code::KindNotSupported,
        Code::ParentNotFound,
        Code::NotAllowedByListeners,
        Code::NoMatchingHostname,
        Code::RouteConflict,
        Code::PolicyNotFound,
        Code::ExternalNameNotAllowed,
        Code::UnsupportedAppProtocol,
        Code::InvalidCa,
    ];
    problem.severity == Severity::Error
        && problem.object.as_ref() == Some(object)
        && !told_elsewhere.contains(&problem.code)
}
