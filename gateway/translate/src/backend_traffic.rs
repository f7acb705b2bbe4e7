//! XBackendTrafficPolicy (GEP-3388, GEP-1619): how much the retries of a Service may be, and whether its sessions are kept.

use crate::rank::{Rank, name_of};
use crate::report::Report;
use crate::service_targets::{self, Target};
use crate::session;
use crate::values::{duration, number};
use sluice_model::config::{RetryConstraint, SessionCarrier, SessionPersistence};
use sluice_model::object::NamespacedName;
use sluice_model::{Code, Kind, ObjectRef, Problem};
use sluice_resources::Store;
use sluice_resources::api::XBackendTrafficPolicy;
use sluice_resources::api::backend_traffic_policy::XBackendTrafficPolicyRetryConstraint;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// All policies, by Service.
#[derive(Debug, Default)]
pub(crate) struct BackendTrafficPolicies {
    by_service: BTreeMap<NamespacedName, Arc<BackendTraffic>>,
    pub(crate) problems: Vec<Problem>,
}

/// What holds for one Service.
#[derive(Debug, PartialEq)]
pub(crate) struct BackendTraffic {
    policy: NamespacedName,
    pub(crate) retry: Option<RetryConstraint>,
    session: Option<Sessions>,
}

/// Sessions at one Service. Each rule that leads there has sessions of its own.
#[derive(Debug, PartialEq)]
struct Sessions {
    /// Without a scope.
    persistence: SessionPersistence,
    /// Whether the policy says how they are called.
    named: bool,
}

impl BackendTraffic {
    /// The sessions of one rule, which has the name and the UID of its object.
    pub(crate) fn session(&self, uid: &str, rule: &str, service: &NamespacedName) -> Option<SessionPersistence> {
        let Sessions { persistence, named } = self.session.as_ref()?;
        let name = format!("{rule} {service}");
        let mut persistence = persistence.clone();
        persistence.scope = format!("{uid}/{name}").into();
        if !named && let SessionCarrier::Cookie { permanent, .. } = persistence.carrier {
            persistence.carrier = SessionCarrier::Cookie { name: session::name_of(&name).into(), permanent };
        }
        Some(persistence)
    }
}

impl BackendTrafficPolicies {
    pub(crate) fn read(store: &Store) -> Self {
        let mut result = BackendTrafficPolicies::default();
        let mut by_rank: Vec<_> = store.backend_traffic_policies.values().collect();
        by_rank.sort_by_cached_key(|policy| Rank::of(&policy.metadata));
        for policy in by_rank {
            result.add(policy);
        }
        result
    }

    pub(crate) fn of(&self, service: &NamespacedName) -> Option<&BackendTraffic> {
        self.by_service.get(service).map(Arc::as_ref)
    }

    /// Services for which something else holds than before.
    pub(crate) fn changes_since(&self, former: &Self) -> BTreeSet<ObjectRef> {
        let services: BTreeSet<_> = self.by_service.keys().chain(former.by_service.keys()).collect();
        services
            .into_iter()
            .filter(|service| self.by_service.get(*service) != former.by_service.get(*service))
            .map(|service| ObjectRef::new(Kind::Service, service.namespace.clone(), service.name.clone()))
            .collect()
    }

    /// Services that are not there: looked at anew whenever one came or went.
    pub(crate) fn missing_targets(store: &Store) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (name, policy) in &store.backend_traffic_policies {
            let target = policy.spec.target_refs.iter();
            let targets = target.map(|t| Target { group: &t.group, kind: &t.kind, name: &t.name, section: None });
            service_targets::missing(store, &reference(name), targets, &mut problems);
        }
        problems
    }

    /// A direct policy (GEP-713): of two for one Service the older holds, as a whole.
    fn add(&mut self, policy: &XBackendTrafficPolicy) {
        let name = name_of(&policy.metadata);
        let object = reference(&name);
        let mut report = Report::new(&object, &mut self.problems);
        let spec = &policy.spec;
        let session = spec.session_persistence.as_ref().and_then(|source| {
            let source = session::of_backend(source);
            let named = source.is_named();
            let field = "spec.sessionPersistence";
            if source.needs_name() {
                let message = "sessions of type Header at a backend need a name, which clients have to know";
                report.error(Code::InvalidCombination, format!("{field}.sessionName"), message);
                return None;
            }
            let persistence = session::read(&source, "", "", field, &mut report)?;
            Some(Sessions { persistence, named })
        });
        let retry = spec.retry_constraint.as_ref().map(|source| retry(source, "spec.retryConstraint", &mut report));
        let traffic = Arc::new(BackendTraffic { policy: name.clone(), retry, session });
        for (i, target) in spec.target_refs.iter().enumerate() {
            let field = format!("spec.targetRefs[{i}]");
            let names = Target { group: &target.group, kind: &target.kind, name: &target.name, section: None };
            if !names.is_service() {
                let message = format!("a target of kind `{}` is not supported; Service is", target.kind);
                report.error(Code::KindNotSupported, format!("{field}.kind"), message);
                continue;
            }
            let service = NamespacedName::new(name.namespace.clone(), target.name.as_str());
            match self.by_service.get(&service) {
                Some(older) => {
                    let message =
                        format!("XBackendTrafficPolicy {} speaks for Service {service} already", older.policy);
                    report.error(Code::PolicyConflict, field, message);
                }
                None => {
                    self.by_service.insert(service, traffic.clone());
                }
            }
        }
    }
}

fn reference(name: &NamespacedName) -> ObjectRef {
    ObjectRef::new(Kind::XBackendTrafficPolicy, name.namespace.clone(), name.name.clone())
}

/// What can't be read keeps the API's default.
fn retry(source: &XBackendTrafficPolicyRetryConstraint, field: &str, report: &mut Report<'_>) -> RetryConstraint {
    let none = RetryConstraint::default();
    let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
    let budget = source.budget.as_ref();
    let least = source.min_retry_rate.as_ref();
    let percent = number(budget.and_then(|b| b.percent), 0..=100, &format!("{field}.budget.percent"), report);
    let count = number(least.and_then(|l| l.count), 1..=1_000_000, &format!("{field}.minRetryRate.count"), report);
    let mut interval = |text: Option<&String>, least: Duration, name: &str| {
        let at = format!("{field}.{name}.interval");
        let interval = duration(text?, &at, report)?;
        if !(least..=hour).contains(&interval) {
            let message = format!("{} is out of range: {}ms to 1h", text?, least.as_millis());
            report.error(Code::OutOfRange, at, message);
            return None;
        }
        Some(interval)
    };
    RetryConstraint {
        percent: percent.and_then(|percent| u8::try_from(percent).ok()).unwrap_or(none.percent),
        interval: interval(budget.and_then(|b| b.interval.as_ref()), second, "budget").unwrap_or(none.interval),
        least: count.and_then(|count| u32::try_from(count).ok()).unwrap_or(none.least),
        least_interval: interval(least.and_then(|l| l.interval.as_ref()), Duration::from_millis(1), "minRetryRate")
            .unwrap_or(none.least_interval),
    }
}
