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
use crate::world::{Compiled, RuleSet, World};
use parent::Attachment;
use sluice_model::config::{Action, CertificateKey, Rule};
use sluice_model::object::NamespacedName;
use sluice_model::{Code, Hostname, Kind, ObjectRef, Problem, Reason, Severity};
use sluice_resources::api::HttpRoute;
use std::sync::Arc;

pub(crate) use backend::tell;
pub(crate) use matches::{Matches, header_matches, path_match};

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
    let mut compiled = Compiled::new(Rank::of(&route.metadata));
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
    if let Some(problem) = invalid(object, &compiled.problems) {
        let message = format!("{}: {}", problem.field, problem.message);
        let serves = |rule: &Arc<Rule>| {
            let broken = [Reason::UnsupportedFilter, Reason::InvalidRule];
            !matches!(rule.action, Action::Reply { reason, .. } if broken.contains(&reason))
        };
        if !attachments.is_empty() && !compiled.placements.values().flat_map(|set| &set.rules).any(serves) {
            let reason = if excludes_filters(problem) { "IncompatibleFilters" } else { "UnsupportedValue" };
            for parent in &mut compiled.status.parents {
                parent.rejected.get_or_insert((reason, format!("no rule of it can be used: {message}")));
            }
        }
        // The API wants this beginning where a rule is not there, or answers an error.
        let of_rule = problem.field.starts_with("spec.rules[");
        compiled.status.invalid = Some(if of_rule { format!("Dropped Rule: {message}") } else { message });
    }
    compiled
}

/// Whether filters stand beside each other that cannot: it is said of the list, or of one of its entries as a whole.
fn excludes_filters(problem: &Problem) -> bool {
    let (_, filters) = problem.field.rsplit_once(".filters").unwrap_or_default();
    problem.code == Code::InvalidCombination
        && problem.field.contains(".filters")
        && (filters.is_empty() || filters.ends_with(']'))
}

/// What is wrong beside references, of which `ResolvedRefs` tells, and parents, of which `Accepted` does.
fn invalid<'p>(object: &ObjectRef, problems: &'p [Problem]) -> Option<&'p Problem> {
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
    ];
    let counts = |problem: &&Problem| {
        problem.severity == Severity::Error
            && problem.object.as_ref() == Some(object)
            && !told_elsewhere.contains(&problem.code)
    };
    problems.iter().filter(counts).min()
}
