//! Objects whose newest form cannot be read: their conditions say so, and the form before goes on serving.

use super::bad_input::{around, object, said};
use super::support::{Harness, changes_of, route};
use crate::Options;
use sluice_model::{Kind, ObjectRef};
use sluice_resources::{Change, Object};
use std::sync::Arc;

const WEB: &str = "infra/gw/web *.com";

fn unreadable(h: &mut Harness, yaml: &str) {
    h.changes(changes_of(yaml));
}

fn message(h: &Harness, object: &str) -> String {
    let told = h.translator.status().conditions().into_iter().find(|told| told.object.to_string() == object);
    told.expect("it has conditions").conditions.remove(0).message
}

fn listener_routes(h: &Harness) -> u32 {
    let status = h.translator.status();
    let gw = status.gateways.get(&ObjectRef::new(Kind::Gateway, "infra", "gw")).unwrap();
    gw.listeners.iter().find(|listener| listener.name == "web").unwrap().attached_routes
}

#[test]
fn a_route_with_a_value_of_no_enumeration_is_not_accepted_by_each_parent_of_ours() {
    for (kind, section, rule) in [
        ("HTTPRoute", "web", "filters: [{type: Odd}]"),
        ("HTTPRoute", "web", "matches: [{path: {type: Odd, value: /}}]"),
        ("HTTPRoute", "web", "matches: [{method: ODD}]"),
        ("GRPCRoute", "web", "matches: [{method: {type: Odd, service: a}}]"),
        ("TLSRoute", "tls", "backendRefs: [{name: a, port: many}]"),
        ("TCPRoute", "tcp", "backendRefs: [{name: a, weight: many}]"),
        ("UDPRoute", "udp", "backendRefs: none"),
    ] {
        let named = format!("{kind} infra/r");
        let mut h = Harness::new(&around());
        let before = h.config().clone();
        // One of ours, one that nobody has, and one of which nothing can be read.
        let parents = format!("parentRefs: [{{name: gw, sectionName: {section}}}, {{name: none}}, {{name: 7}}]");
        unreadable(&mut h, &object(kind, "r", &format!("{parents}, rules: [{{{rule}}}]")));
        assert_eq!(said(&h, &named), ["gw Accepted=False/UnsupportedValue"], "{kind} with {rule}");
        let message = message(&h, &named);
        assert!(message.starts_with("spec."), "where it is: {message}");
        assert!(!message.contains("the form before"), "there is none: {message}");
        let told = h.translator.status().conditions();
        let of_route = told.iter().find(|told| told.object.to_string() == named).unwrap();
        assert_eq!(of_route.conditions.len(), 1, "nothing is known of what it refers to: {:?}", of_route.conditions);
        assert!(Arc::ptr_eq(&before, h.config()), "{kind} with {rule}: nothing else is another than before");
    }
}

#[test]
fn the_form_before_serves_until_the_route_is_mended_or_gone() {
    let named = "HTTPRoute infra/r";
    let form = |generation: u32, filter: &str| {
        object(
            "HTTPRoute",
            "r",
            &format!(
                "parentRefs: [{{name: gw, sectionName: web}}], rules: [{{{filter}backendRefs: [{{name: a, port: 8080}}]}}]"
            ),
        )
        .replace("namespace: infra}", &format!("namespace: infra, generation: {generation}}}"))
    };
    let options = Options { follow_status: true, ..Options::default() };
    let mut h = Harness::with(options, &(around() + &form(1, "")));
    let reference = ObjectRef::new(Kind::HTTPRoute, "infra", "r");
    let generation = |h: &mut Harness| h.translator.take_status().routes[&reference].as_ref().map(|s| s.generation);
    assert_eq!((said(&h, named), generation(&mut h), listener_routes(&h)), (vec![], Some(1), 1));
    let host = h.virtual_host(WEB).unwrap().clone();
    unreadable(&mut h, &form(2, "filters: [{type: Odd}], "));
    assert_eq!(said(&h, named), ["gw Accepted=False/UnsupportedValue"]);
    assert!(message(&h, named).ends_with("; the form before it goes on serving"), "{}", message(&h, named));
    assert_eq!((generation(&mut h), listener_routes(&h)), (Some(2), 1));
    assert!(Arc::ptr_eq(&host, h.virtual_host(WEB).unwrap()));
    h.apply(&form(3, ""));
    assert_eq!((said(&h, named), generation(&mut h)), (vec![], Some(3)));
    // Mended by taking back what was changed.
    unreadable(&mut h, &form(4, "filters: [{type: Odd}], "));
    h.apply(&form(3, ""));
    assert_eq!((said(&h, named), generation(&mut h)), (vec![], Some(3)));
    // Nothing that says whom it asks.
    unreadable(&mut h, &form(4, "").replace("parentRefs: [{name: gw, sectionName: web}]", "parentRefs: gw"));
    assert_eq!(said(&h, named), ["gw Accepted=False/UnsupportedValue"]);
    h.delete(Kind::HTTPRoute, "infra", "r");
    assert_eq!(generation(&mut h), None);
    assert_eq!((listener_routes(&h), h.routes(WEB)), (0, vec![]));
}

#[test]
fn a_parent_that_comes_later_tells_an_unreadable_route_too() {
    let mut h = Harness::with(Options { follow_status: true, ..Options::default() }, "");
    unreadable(&mut h, &object("HTTPRoute", "r", "parentRefs: [{name: gw}], rules: [{filters: [{type: Odd}]}]"));
    unreadable(&mut h, &object("GRPCRoute", "d", "useDefaultGateways: All, rules: none"));
    h.translator.take_status();
    assert_eq!(said(&h, "HTTPRoute infra/r"), Vec::<String>::new());
    h.apply(&around().replace("gatewayClassName: sluice", "gatewayClassName: sluice, defaultScope: All"));
    let told = h.translator.take_status();
    let reason = |kind| {
        let status = told.routes[&kind].as_ref().unwrap();
        status.parents.iter().map(|parent| parent.rejected.as_ref().unwrap().0).collect::<Vec<_>>()
    };
    assert_eq!(reason(ObjectRef::new(Kind::HTTPRoute, "infra", "r")), ["UnsupportedValue"]);
    assert_eq!(reason(ObjectRef::new(Kind::GRPCRoute, "infra", "d")), ["UnsupportedValue", "UnsupportedValue"]);
    h.delete(Kind::HTTPRoute, "infra", "r");
    assert_eq!(h.translator.take_status().routes[&ObjectRef::new(Kind::HTTPRoute, "infra", "r")], None);
}

#[test]
fn a_gateway_or_listener_set_is_not_accepted_and_what_it_listened_to_stays() {
    let gw = |class: &str, from: &str| {
        object(
            "Gateway",
            "gw",
            &format!(
                "gatewayClassName: {class}, allowedListeners: {{namespaces: {{from: Same}}}}, listeners: [{{name: web, port: 80, protocol: HTTP, allowedRoutes: {{namespaces: {{from: {from}}}}}}}]"
            ),
        )
    };
    let set = |mode: &str| {
        object(
            "ListenerSet",
            "set",
            &format!("parentRef: {{name: gw}}, listeners: [{{name: more, port: 88, protocol: HTTP{mode}}}]"),
        )
        .replace(
            "namespace: infra}",
            &format!("namespace: infra, generation: {}}}", if mode.is_empty() { 1 } else { 2 }),
        )
    };
    let mut h = Harness::new("");
    unreadable(&mut h, &gw("sluice", "Odd"));
    assert_eq!(said(&h, "Gateway infra/gw"), ["Accepted=False/Invalid"]);
    assert!(h.config().ports.is_empty());
    unreadable(&mut h, &gw("others", "Odd"));
    assert_eq!(said(&h, "Gateway infra/gw"), Vec::<String>::new(), "whose it is, it says");
    h.apply(&(gw("sluice", "Same") + &set("")));
    assert_eq!(said(&h, "Gateway infra/gw"), Vec::<String>::new());
    assert_eq!(said(&h, "ListenerSet infra/set"), Vec::<String>::new());
    let before = h.config().clone();
    unreadable(&mut h, &(gw("sluice", "Odd") + &set(", tls: {mode: Odd}")));
    assert_eq!(said(&h, "Gateway infra/gw"), ["Accepted=False/Invalid"]);
    assert_eq!(said(&h, "ListenerSet infra/set"), ["Accepted=False/Invalid"]);
    assert!(message(&h, "Gateway infra/gw").ends_with("the form before it goes on serving"));
    // Whose they are may be among what cannot be read.
    unreadable(&mut h, &(gw("7", "Same") + &set("").replace("parentRef: {name: gw}", "parentRef: 7")));
    assert_eq!(said(&h, "Gateway infra/gw"), ["Accepted=False/Invalid"]);
    assert_eq!(said(&h, "ListenerSet infra/set"), ["Accepted=False/Invalid"]);
    unreadable(&mut h, &set(", tls: {mode: Odd}"));
    // What proxies are asked for is the form that they can serve.
    let status = h.translator.status();
    let of_set = status.listener_sets.values().next().unwrap();
    assert_eq!((of_set.generation, of_set.observed()), (1, 2));
    assert_eq!(before.ports, h.config().ports);
    h.delete(Kind::ListenerSet, "infra", "set");
    unreadable(&mut h, &set(", tls: {mode: Odd}"));
    assert_eq!(said(&h, "ListenerSet infra/set"), ["Accepted=False/Invalid"], "a new one");
    h.delete(Kind::Gateway, "infra", "gw");
    assert_eq!(said(&h, "ListenerSet infra/set"), Vec::<String>::new(), "nobody's any more");
}

#[test]
fn a_backend_is_not_spoken_to_in_the_clear_because_its_policy_cannot_be_read() {
    let policy = |kind: &str| {
        object(
            "BackendTLSPolicy",
            "p",
            &format!(
                "targetRefs: [{{group: '', kind: Service, name: a}}], validation: {{hostname: a.com, wellKnownCACertificates: System, subjectAltNames: [{{type: {kind}, hostname: a.com}}]}}"
            ),
        )
    };
    let named = "BackendTLSPolicy infra/p";
    let base = around()
        + &route(
            "infra",
            "r",
            "  parentRefs: [{name: gw, sectionName: web}]\n  rules: [{backendRefs: [{name: a, port: 8080}]}]",
        );
    let mut h = Harness::new(&base);
    let clear = h.routes(WEB);
    unreadable(&mut h, &policy("Odd"));
    assert_eq!(said(&h, named), ["gw Accepted=False/Invalid"]);
    assert!(message(&h, named).starts_with("spec.validation.subjectAltNames[0].type"), "{}", message(&h, named));
    // Of the policy itself its source tells.
    assert_eq!(h.problems(), ["P309 HTTPRoute infra/r spec.rules[0].backendRefs[0]"]);
    assert_eq!(h.routes(WEB), ["/* -> 500 invalid_backend"]);
    h.apply(&policy("Hostname"));
    assert_eq!(said(&h, named), Vec::<String>::new());
    let by_tls = |h: &Harness| h.config().backends.values().map(|backend| backend.tls.is_some()).collect::<Vec<_>>();
    assert_eq!((h.routes(WEB), by_tls(&h)), (clear.clone(), vec![true]));
    unreadable(&mut h, &policy("Odd"));
    assert_eq!(said(&h, named), ["gw Accepted=False/Invalid"]);
    assert_eq!((h.routes(WEB), by_tls(&h)), (clear.clone(), vec![true]));
    h.delete(Kind::BackendTLSPolicy, "infra", "p");
    assert_eq!((h.routes(WEB), by_tls(&h)), (clear.clone(), vec![false]));
    // One that a process before this one had for it is known for what it is, and its targets are those of the newest form.
    unreadable(&mut h, &policy("Odd"));
    let stands_in = h.translator.store().backend_tls_policies.values().next().unwrap().clone();
    let mut h = Harness::new(&base);
    h.changes(vec![Change::Upsert(Object::BackendTLSPolicy(stands_in))]);
    assert_eq!(h.routes(WEB), ["/* -> 500 invalid_backend"]);
    unreadable(&mut h, &policy("Odd").replace("name: a}", "name: other}"));
    assert_eq!((h.routes(WEB), by_tls(&h)), (clear.clone(), vec![false]));
    h.delete(Kind::BackendTLSPolicy, "infra", "p");
    // Half a target is one, and half of what an object says of itself.
    let vague = policy("Odd").replace("group: '', kind: Service, ", "").replace("name: p,", "name: p, labels: {v: 2},");
    unreadable(&mut h, &vague);
    assert_eq!(h.routes(WEB), ["/* -> 500 invalid_backend"]);
    h.delete(Kind::BackendTLSPolicy, "infra", "p");
    // One that was never read does not stay behind either.
    unreadable(&mut h, &policy("Odd"));
    h.delete(Kind::BackendTLSPolicy, "infra", "p");
    assert_eq!(h.routes(WEB), clear);
}

#[test]
fn other_policies_and_our_own_kinds_are_invalid() {
    let base = around()
        + &route(
            "infra",
            "r",
            "  parentRefs: [{name: gw, sectionName: web}]\n  rules: [{backendRefs: [{name: a, port: 8080}]}]",
        );
    for (kind, spec, expected) in [
        (
            "XBackendTrafficPolicy",
            "targetRefs: [{group: '', kind: Service, name: a}], sessionPersistence: {type: Odd}",
            "gw Accepted=False/Invalid",
        ),
        (
            "TrafficPolicy",
            "targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}], plugins: 7",
            "r Accepted=False/Invalid",
        ),
        (
            "TrafficPolicy",
            "targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}], backend: 7",
            "r Accepted=False/Invalid",
        ),
        ("Plugin", "source: 7", "Accepted=False/Invalid"),
        ("GatewayConfig", "listeners: 7", "Accepted=False/Invalid"),
    ] {
        let mut h = Harness::new(&base);
        unreadable(&mut h, &object(kind, "p", spec));
        let named = format!("{kind} infra/p");
        assert_eq!(said(&h, &named), [expected], "{kind}");
        assert!(message(&h, &named).starts_with("spec."), "{kind}: {}", message(&h, &named));
        h.delete(
            Kind::from_group_kind(
                if kind.starts_with('X') { "gateway.networking.x-k8s.io" } else { "sluice.dev" },
                kind,
            )
            .unwrap(),
            "infra",
            "p",
        );
        assert_eq!(said(&h, &named), Vec::<String>::new(), "{kind}");
    }
}
