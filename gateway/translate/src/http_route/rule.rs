//! Rules: filters, backends, timeouts, retries, and the policies that meet there.

use super::backend::backend;
use super::filter::{self, BackendRef};
use super::is_invalid;
use super::matches::Matches;
use crate::gateway::Place;
use crate::plugin::{Use, use_plugin};
use crate::policy::{Chain, Level, MAX_ATTEMPTS, backend_plan, client_policy, retry};
use crate::report::Report;
use crate::session;
use crate::values::{duration, number};
use crate::world::{Compiled, RuleSet, Rules, World};
use http::StatusCode;
use sluice_model::config::{
    Action, BackendTarget, ClientPolicy, PathMatch, Retry, Rule, RuleId, SessionPersistence, WeightedBackend,
};
use sluice_model::object::NamespacedName;
use sluice_model::plugin::PluginUse;
use sluice_model::{Code, Kind, ObjectRef, Reason};
use sluice_resources::api::HttpRoute;
use sluice_resources::api::http_route::HttpRouteRules;
use std::sync::Arc;
use std::time::Duration;

/// The rules of a route as one listener sees them.
pub(super) fn rules(
    world: &World<'_>,
    object: &ObjectRef,
    route: &HttpRoute,
    matches: Matches<'_>,
    place: Option<&Place>,
    compiled: &mut Compiled,
) -> RuleSet {
    let mut set = Rules::default();
    // A route without rules has one that matches everything (the API's default), and no backend.
    let default = [HttpRouteRules::default()];
    let sources = route.spec.rules.as_deref().filter(|rules| !rules.is_empty()).unwrap_or(&default);
    for (index, source) in (0_u32..).zip(sources) {
        let field = format!("spec.rules[{index}]");
        let told = compiled.problems.len();
        let position = u32::try_from(set.rules.len()).unwrap_or(u32::MAX);
        let before = set.matches.len();
        let mut report = Report::new(object, &mut compiled.problems);
        for (number, found) in matches.read(source, index, position, &field, &mut report) {
            set.matches.push(found);
            set.origins.push((index, number));
        }
        let prefixes = set.matches.iter().skip(before).all(|m| matches!(m.path, PathMatch::Prefix(_)));
        let uid = route.metadata.uid.as_deref().unwrap_or_default();
        let builder = RuleBuilder { world, object, uid, place, source, siblings: sources, field: &field };
        if source.name.as_deref().is_some_and(|name| !builder.is_first_of_its_name(name, index)) {
            let message =
                "an earlier rule has this name already; a policy for it acts on both, metrics tell them apart";
            Report::new(object, &mut compiled.problems).warn(Code::UnsupportedValue, format!("{field}.name"), message);
        }
        let (rule, usable) = builder.build(index, prefixes, compiled);
        let wrong = compiled.problems.iter().skip(told).find(|problem| is_invalid(object, problem)).cloned();
        if let Some(problem) = wrong {
            compiled.dropped.entry(index).or_insert(problem);
        }
        if set.matches.len() > before {
            compiled.serves |= usable;
            set.rules.push(Arc::new(rule));
        }
    }
    set.finish()
}

pub(super) struct RuleBuilder<'r> {
    pub(super) world: &'r World<'r>,
    pub(super) object: &'r ObjectRef,
    /// The object's; empty where it has none.
    pub(super) uid: &'r str,
    pub(super) place: Option<&'r Place>,
    pub(super) source: &'r HttpRouteRules,
    /// All rules of the route.
    pub(super) siblings: &'r [HttpRouteRules],
    pub(super) field: &'r str,
}

impl RuleBuilder<'_> {
    /// The rule, and whether it is what its author wrote: otherwise it answers an error.
    fn build(&self, index: u32, prefixes: bool, compiled: &mut Compiled) -> (Rule, bool) {
        let id = RuleId {
            route: self.object.clone(),
            rule: match self.source.name.as_deref().filter(|name| !name.is_empty()) {
                Some(name) if self.is_first_of_its_name(name, index) => name.into(),
                _ => self.position_as_name(index),
            },
        };
        let views: Vec<_> = self.source.filters.iter().flatten().map(filter::of_rule).collect();
        let chain_of_rule = self.chain(&[]);
        let filters_field = format!("{}.filters", self.field);
        let filtered = self.filters(&views, &filters_field, prefixes, true, &chain_of_rule, compiled);
        let chain = self.chain(&filtered.extensions);
        let mut unreported = Vec::new();
        let mut quiet = Report::new(self.object, &mut unreported);
        let settings = chain.backend();
        let plan = backend_plan(&settings, "", &mut quiet);
        let mut retry = retry(settings.retry.as_ref(), "", &mut quiet);
        let client =
            if chain.is_empty() { ClientPolicy::default() } else { client_policy(&chain.client(), "", &mut quiet) };
        let timeouts = self.timeouts(plan.request_timeout, compiled);
        let retried = self.retry(&mut retry, compiled);
        let session = self.session(&id, compiled);
        let mut usable = !filtered.broken && timeouts.is_ok() && retried.is_ok() && session.is_ok();
        let mut action = match filtered.redirect {
            _ if filtered.broken => reply(StatusCode::INTERNAL_SERVER_ERROR, Reason::UnsupportedFilter),
            Some(redirect) => {
                if self.source.backend_refs.as_ref().is_some_and(|refs| !refs.is_empty()) {
                    let message = "the rule redirects every request; no backend gets any";
                    let field = format!("{}.backendRefs", self.field);
                    Report::new(self.object, &mut compiled.problems).warn(Code::InvalidCombination, field, message);
                }
                Action::Redirect(redirect)
            }
            None => {
                let session = session.as_ref().ok().and_then(Option::as_ref);
                match self.forward(prefixes, &chain, &id, session, compiled) {
                    Err(Invalid) => {
                        usable = false;
                        reply(StatusCode::INTERNAL_SERVER_ERROR, Reason::InvalidRule)
                    }
                    Ok(action) => action,
                }
            }
        };
        // All of a rule holds, or nothing: without its timeout it would be another rule.
        if !usable && !filtered.broken {
            action = reply(StatusCode::INTERNAL_SERVER_ERROR, Reason::InvalidRule);
        }
        let (request_timeout, backend_timeout) = timeouts.unwrap_or_default();
        let mut plugins: Vec<PluginUse> = Vec::new();
        for entry in chain.plugins() {
            let used =
                use_plugin(&entry, self.world.store, self.world.plugins, &mut compiled.deps, &mut compiled.problems);
            match used {
                Use::Run(plugin) => plugins.push(plugin),
                Use::Skip => {}
                Use::Refuse => action = reply(StatusCode::SERVICE_UNAVAILABLE, Reason::PluginNotReady),
            }
        }
        if chain.unreadable() {
            action = reply(StatusCode::SERVICE_UNAVAILABLE, Reason::PolicyUnreadable);
        }
        let filters = filtered.filters.shared();
        let (retry, client) = (retry.shared(), client.shared());
        (Rule { id, filters, action, request_timeout, backend_timeout, retry, plugins, client }, usable)
    }

    /// Names are unique in a route: the API server sees to that, a folder of files does not.
    fn is_first_of_its_name(&self, name: &str, index: u32) -> bool {
        let first = self.siblings.iter().position(|rule| rule.name.as_deref() == Some(name));
        first.is_none_or(|first| first == index as usize)
    }

    /// What stands for the name of a rule that has none of its own: its position, told apart from a rule that is named so.
    fn position_as_name(&self, index: u32) -> Arc<str> {
        let position = index.to_string();
        let taken = self.siblings.iter().any(|rule| rule.name.as_deref() == Some(&position));
        if taken { format!("#{position}").into() } else { position.into() }
    }

    /// The policies that meet here, with those that ExtensionRef filters name.
    fn chain(&self, extensions: &[NamespacedName]) -> Chain<'_> {
        let policies = self.world.policies;
        let mut chain = Chain::default();
        if let Some(place) = self.place {
            chain.push_listener(policies, &place.id);
        }
        chain.push(Level::Route, policies.attached(self.object, None));
        if let Some(name) = self.source.name.as_deref() {
            chain.push(Level::Rule, policies.attached(self.object, Some(name)));
        }
        for name in extensions {
            chain.push(Level::Rule, policies.named(name));
        }
        chain
    }

    fn forward(
        &self,
        prefixes: bool,
        chain: &Chain<'_>,
        id: &RuleId,
        session: Option<&Arc<SessionPersistence>>,
        compiled: &mut Compiled,
    ) -> Result<Action, Invalid> {
        // Kept for as long as the rule: no room that is never used.
        let references = self.source.backend_refs.as_deref().unwrap_or_default();
        let mut backends = Vec::with_capacity(references.len());
        let mut weighs = Ok(());
        for (i, reference) in references.iter().enumerate() {
            let field = format!("{}.backendRefs[{i}]", self.field);
            let target = BackendRef {
                group: reference.group.as_deref(),
                kind: reference.kind.as_deref(),
                name: &reference.name,
                namespace: reference.namespace.as_deref(),
                port: reference.port,
            };
            let views: Vec<_> = reference.filters.iter().flatten().map(filter::of_backend).collect();
            let filtered = self.filters(&views, &format!("{field}.filters"), prefixes, false, chain, compiled);
            let resolved = backend(self.world, self.object, self.place, &target, &field, chain, compiled);
            let invalid = |reason| BackendTarget::Invalid { status: StatusCode::INTERNAL_SERVER_ERROR, reason };
            let target = match resolved {
                Ok(_) if filtered.broken => invalid(Reason::UnsupportedFilter),
                Ok(key) => BackendTarget::Backend(key),
                Err(_) => invalid(Reason::InvalidBackend),
            };
            let mut report = Report::new(self.object, &mut compiled.problems);
            let weight = number(reference.weight, 0..=1_000_000, &format!("{field}.weight"), &mut report);
            let weight = match (reference.weight, weight) {
                (None, _) => 1,
                (Some(_), Some(weight)) => weight.unsigned_abs(),
                (Some(_), None) => {
                    weighs = Err(Invalid);
                    0
                }
            };
            let session = self.session_at(&target, id, session, compiled);
            // Sessions that have begun at a backend go on there when it takes no others (GEP-1619, traffic splitting).
            if weight > 0 || session.is_some() {
                backends.push(WeightedBackend { weight, target, filters: filtered.filters.shared(), session });
            }
        }
        weighs?;
        if backends.is_empty() {
            return Ok(reply(StatusCode::INTERNAL_SERVER_ERROR, Reason::NoBackends));
        }
        Ok(Action::Forward(backends))
    }

    /// The sessions that are kept at this backend: the rule's `own`, else those that a policy for its Service asks for.
    fn session_at(
        &self,
        target: &BackendTarget,
        id: &RuleId,
        own: Option<&Arc<SessionPersistence>>,
        compiled: &mut Compiled,
    ) -> Option<Arc<SessionPersistence>> {
        let BackendTarget::Backend(key) = target else { return None };
        let by_proxy = compiled.backends.get(key).is_some_and(|backend| backend.is_balanced_elsewhere());
        match own {
            Some(_) if by_proxy => {
                let field = format!("{}.sessionPersistence", self.field);
                let message = format!(
                    "no sessions are kept at Service {}: by a policy's backend.clusterIP kube-proxy chooses its endpoint",
                    key.service
                );
                Report::new(self.object, &mut compiled.problems).warn(Code::InvalidCombination, field, message);
                None
            }
            Some(own) => Some(own.clone()),
            None if by_proxy || !matches!(self.object.kind, Kind::HTTPRoute | Kind::GRPCRoute) => None,
            None => {
                let traffic = self.world.backend_traffic.of(&key.service)?;
                traffic.session(self.uid, &id.to_string(), &key.service).map(Arc::new)
            }
        }
    }

    /// `timeouts.request` and `timeouts.backendRequest`; a policy's where the rule says nothing.
    fn timeouts(&self, policy: Option<Duration>, compiled: &mut Compiled) -> Result<Timeouts, Invalid> {
        let Some(timeouts) = &self.source.timeouts else { return Ok((policy, None)) };
        let mut report = Report::new(self.object, &mut compiled.problems);
        let mut read = |text: Option<&String>, name: &str| {
            let Some(text) = text else { return Ok(None) };
            duration(text, &format!("{}.timeouts.{name}", self.field), &mut report).map(Some).ok_or(Invalid)
        };
        let request = read(timeouts.request.as_ref(), "request");
        let backend = read(timeouts.backend_request.as_ref(), "backendRequest");
        let (request, backend) = (request?, backend?);
        let on = |d: Option<Duration>| d.filter(|d| !d.is_zero());
        if let (Some(request), Some(backend)) = (on(request), on(backend))
            && backend > request
        {
            let message = "backendRequest is longer than request, and so never acts";
            report.warn(Code::InvalidCombination, format!("{}.timeouts.backendRequest", self.field), message);
        }
        // 0s switches a timeout off, whatever a policy says.
        Ok((if request.is_some() { on(request) } else { policy }, on(backend)))
    }

    /// GEP-1731. What the rule says counts before a policy.
    fn retry(&self, retry: &mut Retry, compiled: &mut Compiled) -> Result<(), Invalid> {
        let Some(source) = &self.source.retry else { return Ok(()) };
        let mut report = Report::new(self.object, &mut compiled.problems);
        let at = |name: &str| format!("{}.retry.{name}", self.field);
        let mut result = Ok(());
        match source.attempts.map(|attempts| (attempts, u32::try_from(attempts))) {
            None => {}
            // The API has no greatest number, and so a rule is not refused for it.
            Some((_, Ok(attempts))) if attempts > MAX_ATTEMPTS => {
                let message = format!("{attempts} is more than {MAX_ATTEMPTS}, and counts as that");
                report.warn(Code::OutOfRange, at("attempts"), message);
                retry.attempts = MAX_ATTEMPTS;
            }
            Some((_, Ok(attempts))) => retry.attempts = attempts,
            Some((attempts, Err(_))) => {
                report.error(Code::OutOfRange, at("attempts"), format!("{attempts} is out of range: 0 or more"));
                result = Err(Invalid);
            }
        }
        if let Some(codes) = &source.codes {
            retry.codes.clear();
            for (i, code) in codes.iter().enumerate() {
                let code = number(Some(*code), 400..=599, &format!("{}[{i}]", at("codes")), &mut report);
                match code.and_then(|code| u16::try_from(code).ok()) {
                    Some(code) => retry.codes.push(code),
                    None => result = Err(Invalid),
                }
            }
        }
        if let Some(text) = &source.backoff {
            match duration(text, &at("backoff"), &mut report) {
                Some(backoff) => retry.backoff = Some(backoff).filter(|d| !d.is_zero()),
                None => result = Err(Invalid),
            }
        }
        result
    }

    /// GEP-1619. A rule's sessions are no other rule's, even at the same backends.
    fn session(&self, id: &RuleId, compiled: &mut Compiled) -> Result<Option<Arc<SessionPersistence>>, Invalid> {
        let Some(source) = &self.source.session_persistence else { return Ok(None) };
        let field = format!("{}.sessionPersistence", self.field);
        let mut report = Report::new(self.object, &mut compiled.problems);
        let name = id.to_string();
        let scope = format!("{}/{name}", self.uid);
        let session = session::read(&session::of_rule(source), &scope, &name, &field, &mut report);
        session.map(|session| Some(Arc::new(session))).ok_or(Invalid)
    }
}

/// A value of the rule cannot be used, of which its problem tells.
#[derive(Debug)]
pub(super) struct Invalid;

/// Of the request, and of a try.
type Timeouts = (Option<Duration>, Option<Duration>);

pub(crate) fn reply(status: StatusCode, reason: Reason) -> Action {
    Action::Reply { status, reason }
}
