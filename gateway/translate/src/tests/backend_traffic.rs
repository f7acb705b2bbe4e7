//! XBackendTrafficPolicy: retryConstraint (GEP-3388) and sessionPersistence (GEP-1619) of Services.

use super::support::{Harness, gateway, route, services};
use crate::status::AncestorStatus;
use sluice_model::config::{Action, RetryConstraint, SessionCarrier, SessionPersistence};
use sluice_model::{Kind, ObjectRef};
use std::time::Duration;

const PLACE: &str = "shop/gw/web *";

fn policy(name: &str, created: u32, targets: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\nmetadata: {{name: {name}, namespace: shop, generation: 3, creationTimestamp: \"2026-01-0{created}T00:00:00Z\"}}\nspec:\n  targetRefs: [{targets}]\n  {spec}\n"
    )
}

fn service(name: &str) -> String {
    format!("{{group: '', kind: Service, name: {name}}}")
}

/// A Gateway with a route to Services `a` and `b`; `rule` is further YAML of its one rule.
fn base(rule: &str) -> String {
    let spec = format!(
        "  parentRefs: [{{name: gw}}]\n  rules: [{{backendRefs: [{{name: a, port: 8080}}, {{name: b, port: 8080}}]{rule}}}]"
    );
    gateway("shop", "gw", "[{name: web, port: 80, protocol: HTTP}]")
        + &services("shop", &["a", "b"])
        + &route("shop", "r", &spec)
}

fn constraint(h: &Harness, service: &str) -> Option<RetryConstraint> {
    let backend = h.config().backends.values().find(|backend| &*backend.key.service.name == service);
    backend.expect("the backend is there").policy.retry_constraint.clone()
}

/// The sessions at each backend of the route.
fn sessions(h: &Harness) -> Vec<Option<SessionPersistence>> {
    let Action::Forward(backends) = &h.rule(PLACE).action else { panic!("it forwards") };
    backends.iter().map(|backend| backend.session.as_deref().cloned()).collect()
}

/// `Kind namespace/name: reason of Accepted` of each ancestor.
fn ancestors(h: &Harness, name: &str) -> Vec<String> {
    let status = h.translator.status();
    let status = &status.policies[&ObjectRef::new(Kind::XBackendTrafficPolicy, "shop", name)];
    let line = |of: &AncestorStatus| {
        let reason = of.rejected.as_ref().map_or("ok", |(reason, _)| reason);
        format!("{} {}/{}: {reason}", of.ancestor.kind, of.ancestor.namespace, of.ancestor.name)
    };
    status.ancestors.iter().map(line).collect()
}

#[test]
fn gep_3388_a_constraint_is_that_of_its_services_backends_with_the_apis_defaults() {
    let whole = "retryConstraint: {budget: {percent: 5, interval: 1m}, minRetryRate: {count: 3, interval: 500ms}}";
    let h = Harness::new(&(base("") + &policy("p", 1, &service("a"), whole)));
    let expected = RetryConstraint {
        percent: 5,
        interval: Duration::from_secs(60),
        least: 3,
        least_interval: Duration::from_millis(500),
    };
    assert_eq!((constraint(&h, "a"), constraint(&h, "b")), (Some(expected), None));
    assert_eq!(h.problems(), [] as [&str; 0]);
    assert_eq!(ancestors(&h, "p"), ["Gateway shop/gw: ok"]);
    for defaults in ["retryConstraint: {}", "retryConstraint: {budget: {}, minRetryRate: {}}"] {
        let h = Harness::new(&(base("") + &policy("p", 1, &service("a"), defaults)));
        assert_eq!(constraint(&h, "a"), Some(RetryConstraint::default()), "{defaults}");
    }
}

#[test]
fn gep_1619_sessions_at_a_backend_are_those_of_each_rule_that_leads_there() {
    let other = route(
        "shop",
        "other",
        "  parentRefs: [{name: gw}]\n  rules: [{matches: [{path: {value: /x}}], backendRefs: [{name: a, port: 8080}]}]",
    );
    let spec = "sessionPersistence: {absoluteTimeout: 1h}";
    let h = Harness::new(&(base("") + &other + &policy("p", 1, &service("a"), spec)));
    let host = h.virtual_host(PLACE).unwrap();
    let mut scopes = Vec::new();
    for rule in host.rules.iter() {
        let Action::Forward(backends) = &rule.action else { panic!("it forwards") };
        let session = backends[0].session.as_ref().expect("sessions are kept at a");
        assert!(backends.iter().skip(1).all(|backend| backend.session.is_none()), "and not at b");
        let SessionCarrier::Cookie { name, .. } = &session.carrier else { panic!("in a cookie") };
        assert!(name.starts_with("sluice-session-"), "{name}");
        scopes.push((name.clone(), session.scope.clone()));
    }
    assert_eq!(scopes.len(), 2);
    assert!(scopes[0].0 != scopes[1].0 && scopes[0].1 != scopes[1].1, "{scopes:?}");
    assert_eq!(h.problems(), [] as [&str; 0]);
}

#[test]
fn gep_1619_what_a_rule_says_counts_before_what_its_backends_policy_does() {
    let rule = ", sessionPersistence: {sessionName: of-the-rule}";
    let named = "sessionPersistence: {type: Header, sessionName: of-the-backend}";
    let h = Harness::new(&(base(rule) + &policy("p", 1, &service("a"), named)));
    let names: Vec<_> = sessions(&h).into_iter().flatten().map(|session| session.carrier).collect();
    let cookie = SessionCarrier::Cookie { name: "of-the-rule".into(), permanent: false };
    assert_eq!(names, [cookie.clone(), cookie]);
    let h = Harness::new(&(base("") + &policy("p", 1, &service("a"), named)));
    let header = SessionCarrier::Header(http::HeaderName::from_static("of-the-backend"));
    assert_eq!(sessions(&h)[0].as_ref().map(|session| &session.carrier), Some(&header));
}

#[test]
fn a_policy_for_a_service_of_an_ingress_holds_there_too() {
    let ingress = "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: i, namespace: shop}\nspec: {rules: [{host: i.example, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: a, port: {number: 8080}}}}]}}]}\n";
    let spec = "retryConstraint: {}\n  sessionPersistence: {sessionName: s}";
    let h = Harness::new(&(services("shop", &["a"]) + ingress + &policy("p", 1, &service("a"), spec)));
    assert_eq!(constraint(&h, "a"), Some(RetryConstraint::default()));
    let rule = h.config().virtual_hosts.values().flat_map(|hosts| hosts.values()).next().unwrap().rules[0].clone();
    let Action::Forward(backends) = &rule.action else { panic!("it forwards") };
    assert!(backends[0].session.is_some());
    assert_eq!(ancestors(&h, "p"), ["Ingress shop/i: ok"]);
}

#[test]
fn of_two_policies_for_one_service_the_older_holds_as_a_whole() {
    let older = policy("older", 1, &service("a"), "sessionPersistence: {sessionName: s}");
    let both = format!("{}, {}", service("a"), service("b"));
    let younger = policy("younger", 2, &both, "retryConstraint: {}");
    let mut h = Harness::new(&(base("") + &younger + &older));
    assert_eq!((constraint(&h, "a"), constraint(&h, "b").is_some()), (None, true));
    assert_eq!(h.problems(), ["P406 XBackendTrafficPolicy shop/younger spec.targetRefs[0]"]);
    // It holds for one of the Gateway's backends.
    assert_eq!(ancestors(&h, "younger"), ["Gateway shop/gw: ok"]);
    h.apply(&policy("younger", 2, &service("a"), "retryConstraint: {}"));
    assert_eq!(ancestors(&h, "younger"), ["Gateway shop/gw: Conflicted"]);
    h.delete(Kind::XBackendTrafficPolicy, "shop", "older");
    assert!(constraint(&h, "a").is_some() && sessions(&h)[0].is_none());
    assert_eq!(ancestors(&h, "younger"), ["Gateway shop/gw: ok"]);
}

#[test]
fn what_is_wrong_with_a_policy_is_told_with_its_field_and_what_can_be_read_holds() {
    let of = |targets: &str, spec: &str| Harness::new(&(base("") + &policy("p", 1, targets, spec)));
    for (spec, field) in [
        (
            "retryConstraint: {budget: {percent: 101}}",
            "P109 XBackendTrafficPolicy shop/p spec.retryConstraint.budget.percent",
        ),
        (
            "retryConstraint: {budget: {interval: 500ms}}",
            "P109 XBackendTrafficPolicy shop/p spec.retryConstraint.budget.interval",
        ),
        (
            "retryConstraint: {budget: {interval: 2h}}",
            "P109 XBackendTrafficPolicy shop/p spec.retryConstraint.budget.interval",
        ),
        (
            "retryConstraint: {budget: {interval: x}}",
            "P105 XBackendTrafficPolicy shop/p spec.retryConstraint.budget.interval",
        ),
        (
            "retryConstraint: {minRetryRate: {count: 0}}",
            "P109 XBackendTrafficPolicy shop/p spec.retryConstraint.minRetryRate.count",
        ),
        (
            "retryConstraint: {minRetryRate: {interval: 0s}}",
            "P109 XBackendTrafficPolicy shop/p spec.retryConstraint.minRetryRate.interval",
        ),
    ] {
        let h = of(&service("a"), spec);
        assert_eq!(h.problems(), [field], "{spec}");
        assert_eq!(constraint(&h, "a"), Some(RetryConstraint::default()), "{spec}");
        assert_eq!(ancestors(&h, "p"), ["Gateway shop/gw: Invalid"], "{spec}");
    }
    let h = of(&service("a"), "sessionPersistence: {type: Header}");
    assert_eq!(h.problems(), ["P110 XBackendTrafficPolicy shop/p spec.sessionPersistence.sessionName"]);
    assert_eq!(sessions(&h), [None, None]);
    let h = of("{group: gateway.networking.k8s.io, kind: Gateway, name: gw}", "retryConstraint: {}");
    assert_eq!(h.problems(), ["P204 XBackendTrafficPolicy shop/p spec.targetRefs[0].kind"]);
    let h = of(&format!("{}, {}", service("a"), service("nobody")), "retryConstraint: {}");
    assert_eq!(h.problems(), ["P210 XBackendTrafficPolicy shop/p spec.targetRefs[1]"]);
    assert!(constraint(&h, "a").is_some());
}
