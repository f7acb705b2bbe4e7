//! ListenerSets (GEP-1713): which are attached, what their listeners are, and who may refer to what.

use super::support::{Harness, gateway, route, secret, services};
use crate::{ListenerSetStatus, Options};
use sluice_model::{Kind, ObjectRef};

const HTTP: &str = "[{name: web, port: 80, protocol: HTTP, hostname: gw.com}]";

fn allowing(from: &str, listeners: &str) -> String {
    gateway("infra", "gw", &format!("{listeners}, allowedListeners: {{namespaces: {{{from}}}}}"))
}

fn set(namespace: &str, name: &str, year: u32, listeners: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: ListenerSet\nmetadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '{year}-01-01T00:00:00Z', generation: 4, uid: u-{name}}}\nspec: {{parentRef: {{name: gw, namespace: infra}}, listeners: {listeners}}}\n"
    )
}

fn of(h: &Harness, namespace: &str, name: &str) -> ListenerSetStatus {
    h.translator.status().listener_sets[&ObjectRef::new(Kind::ListenerSet, namespace, name)].clone()
}

/// `Accepted`'s reason, then `listener: reason` of each.
fn reasons(h: &Harness, namespace: &str, name: &str) -> Vec<String> {
    let status = of(h, namespace, name);
    let reason = |part: &Option<(&'static str, String)>| part.as_ref().map(|(reason, _)| *reason);
    let listener = |l: &crate::ListenerStatus| {
        format!("{}: {}", l.name, reason(&l.rejected).or(l.conflicted).or(reason(&l.unresolved)).unwrap_or("ok"))
    };
    let own = reason(&status.rejected).unwrap_or("ok").to_owned();
    [own].into_iter().chain(status.listeners.iter().map(listener)).collect()
}

fn attached(h: &Harness) -> usize {
    h.translator.status().gateways[&ObjectRef::new(Kind::Gateway, "infra", "gw")].attached_listener_sets
}

#[test]
fn listeners_of_a_set_serve_on_its_gateways_ports_beside_its_own() {
    let yaml = allowing("from: Same", HTTP)
        + &set(
            "infra",
            "more",
            2020,
            "[{name: web, port: 80, protocol: HTTP, hostname: set.com}, {name: alt, port: 8080, protocol: HTTP}]",
        )
        + &services("infra", &["web"])
        + &route("infra", "own", "  parentRefs: [{name: gw}]\n  rules: [{backendRefs: [{name: web, port: 8080}]}]")
        + &route(
            "infra",
            "added",
            "  parentRefs: [{kind: ListenerSet, name: more}]\n  rules: [{backendRefs: [{name: web, port: 8080}]}]",
        )
        + &route(
            "infra",
            "part",
            "  parentRefs: [{kind: ListenerSet, name: more, sectionName: alt}]\n  hostnames: [p.com]\n  rules: [{backendRefs: [{name: web, port: 8080}]}]",
        );
    let h = Harness::new(&yaml);
    assert_eq!(h.problems(), [] as [&str; 0]);
    let ports: Vec<_> = h.config().ports.iter().collect();
    let listeners = |at: usize| -> Vec<_> { ports[at].1.listeners.iter().map(|l| l.id.to_string()).collect() };
    assert_eq!(listeners(0), ["infra/gw/infra/more/web", "infra/gw/web"]);
    assert_eq!(listeners(1), ["infra/gw/infra/more/alt"]);
    assert_eq!(
        h.places(),
        [
            "infra/gw/infra/more/alt p.com",
            "infra/gw/infra/more/alt *",
            "infra/gw/infra/more/web set.com",
            "infra/gw/web gw.com"
        ]
    );
    assert_eq!(reasons(&h, "infra", "more"), ["ok", "web: ok", "alt: ok"]);
    let counts: Vec<_> = of(&h, "infra", "more").listeners.iter().map(|l| l.attached_routes).collect();
    assert_eq!(counts, [1, 2]);
    assert_eq!((attached(&h), of(&h, "infra", "more").generation), (1, 4));
    let ports = &h.translator.status().infrastructure.into_values().next().unwrap().ports;
    assert_eq!(ports.iter().map(ToString::to_string).collect::<Vec<_>>(), ["80", "8080"]);
}

#[test]
fn a_gateway_takes_sets_of_the_namespaces_that_it_allows() {
    let more = "[{name: more, port: 80, protocol: HTTP, hostname: more.com}]";
    let labels = "---\n{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: a}}}\n---\n{apiVersion: v1, kind: Namespace, metadata: {name: infra}}\n";
    let sets = set("infra", "s", 2020, more) + &set("shop", "t", 2021, &more.replace("more.com", "t.com"));
    for (from, expected) in [
        (None, ["NotAllowed", "NotAllowed"]),
        (Some("from: None"), ["NotAllowed", "NotAllowed"]),
        (Some("from: Same"), ["ok", "NotAllowed"]),
        (Some("from: All"), ["ok", "ok"]),
        (Some("from: Selector, selector: {matchLabels: {team: a}}"), ["NotAllowed", "ok"]),
        (
            Some("from: Selector, selector: {matchExpressions: [{key: team, operator: DoesNotExist}]}"),
            ["ok", "NotAllowed"],
        ),
    ] {
        let gw = from.map_or_else(|| gateway("infra", "gw", HTTP), |from| allowing(from, HTTP));
        let h = Harness::new(&(gw + labels + &sets));
        let found = [reasons(&h, "infra", "s").remove(0), reasons(&h, "shop", "t").remove(0)];
        assert_eq!(found, expected, "{from:?}");
        assert_eq!(attached(&h), expected.iter().filter(|reason| **reason == "ok").count(), "{from:?}");
        let refused = h.problems().iter().filter(|p| p.starts_with("P311 ListenerSet")).count();
        assert_eq!(refused, expected.iter().filter(|reason| **reason == "NotAllowed").count(), "{from:?}");
    }
    // A selector is needed, and a namespace that nobody described is in none.
    let h = Harness::new(&(allowing("from: Selector", HTTP) + &set("shop", "t", 2020, more)));
    assert_eq!(h.problems()[0], "P108 Gateway infra/gw spec.allowedListeners.namespaces");
    let h = Harness::new(
        &(allowing("from: Selector, selector: {matchLabels: {team: a}}", HTTP) + &set("shop", "t", 2020, more)),
    );
    assert_eq!(h.problems(), ["P214 ListenerSet shop/t spec.parentRef", "P311 ListenerSet shop/t spec.parentRef"]);
}

#[test]
fn a_namespaces_labels_let_a_set_in_and_out() {
    let gw = allowing("from: Selector, selector: {matchLabels: {team: a}}", HTTP);
    let namespace = |team: &str| {
        format!("---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: shop, labels: {{team: {team}}}}}}}\n")
    };
    let more = set("shop", "t", 2020, "[{name: more, port: 80, protocol: HTTP, hostname: more.com}]");
    let mut h = Harness::new(&(gw + &namespace("b") + &more));
    assert_eq!(reasons(&h, "shop", "t"), ["NotAllowed"]);
    h.apply(&namespace("a"));
    assert_eq!(reasons(&h, "shop", "t"), ["ok", "more: ok"]);
    h.apply(&namespace("b"));
    assert_eq!(reasons(&h, "shop", "t"), ["NotAllowed"]);
    assert_eq!(h.config().ports.values().map(|port| port.listeners.len()).sum::<usize>(), 1);
}

/// Gateway API: the Gateway's own go first, then the older set, then the name.
#[test]
fn of_listeners_that_conflict_the_first_serves_and_the_others_are_told() {
    let x = "{name: x, port: 80, protocol: HTTP, hostname: X.com}";
    let yaml = allowing("from: All", "[{name: own, port: 80, protocol: HTTP, hostname: own.com}]")
        + &set("infra", "young", 2022, &format!("[{x}]"))
        + &set(
            "infra",
            "old",
            2020,
            "[{name: own, port: 80, protocol: HTTP, hostname: own.com}, {name: x, port: 80, protocol: HTTP, hostname: x.com}]",
        )
        + &set(
            "infra",
            "b",
            2021,
            "[{name: tcp, port: 80, protocol: TCP}, {name: y, port: 81, protocol: HTTP, hostname: y.com}, {name: z, port: 81, protocol: TCP}]",
        )
        + &set("infra", "a", 2021, "[{name: y, port: 81, protocol: HTTP, hostname: y.com}]");
    let mut h = Harness::new(&yaml);
    assert_eq!(reasons(&h, "infra", "old"), ["ok", "own: HostnameConflict", "x: ok"]);
    assert_eq!(reasons(&h, "infra", "young"), ["ListenersNotValid", "x: HostnameConflict"]);
    assert_eq!(reasons(&h, "infra", "a"), ["ok", "y: ok"]);
    assert_eq!(
        reasons(&h, "infra", "b"),
        ["ListenersNotValid", "tcp: ProtocolConflict", "y: HostnameConflict", "z: ProtocolConflict"]
    );
    let gateway = h.translator.status().gateways.into_values().next().unwrap();
    assert!(gateway.rejected.is_none() && gateway.listeners[0].accepted());
    assert_eq!(gateway.attached_listener_sets, 2);
    let conflicts: Vec<_> = h.problems().into_iter().filter(|p| p.starts_with("P301")).collect();
    assert_eq!(
        conflicts,
        [
            "P301 ListenerSet infra/b spec.listeners[0]",
            "P301 ListenerSet infra/b spec.listeners[1]",
            "P301 ListenerSet infra/b spec.listeners[2]",
            "P301 ListenerSet infra/old spec.listeners[0]",
            "P301 ListenerSet infra/young spec.listeners[0]"
        ]
    );
    // The first one goes, and the next is served.
    h.delete(Kind::ListenerSet, "infra", "old");
    assert_eq!(reasons(&h, "infra", "young"), ["ok", "x: ok"]);
}

#[test]
fn a_set_refers_to_secrets_from_its_own_namespace() {
    let tls = |namespace: &str| {
        format!(
            "[{{name: tls, port: 443, protocol: HTTPS, hostname: x.com, tls: {{certificateRefs: [{{name: c, namespace: {namespace}}}]}}}}]"
        )
    };
    let grant = |kind: &str, namespace: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {{name: {}, namespace: certs}}\nspec: {{from: [{{group: gateway.networking.k8s.io, kind: {kind}, namespace: {namespace}}}], to: [{{group: '', kind: Secret}}]}}\n",
            kind.to_lowercase()
        )
    };
    let base = allowing("from: All", HTTP) + &secret("certs", "c", &["x.com"]) + &secret("shop", "c", &["x.com"]);
    let h = Harness::new(&(base.clone() + &set("shop", "s", 2020, &tls("shop"))));
    assert_eq!(reasons(&h, "shop", "s"), ["ok", "tls: ok"]);
    assert_eq!(h.config().certificates.len(), 1);
    // What is granted to the Gateway, or to sets of another namespace, is not granted to it.
    let others = grant("Gateway", "infra") + &grant("ListenerSet", "infra");
    let h = Harness::new(&(base.clone() + &others + &set("shop", "s", 2020, &tls("certs"))));
    assert_eq!(reasons(&h, "shop", "s"), ["ListenersNotValid", "tls: RefNotPermitted"]);
    assert_eq!(h.problems(), ["P203 ListenerSet shop/s spec.listeners[0].tls.certificateRefs[0]"]);
    let h = Harness::new(&(base + &grant("ListenerSet", "shop") + &set("shop", "s", 2020, &tls("certs"))));
    assert_eq!(reasons(&h, "shop", "s"), ["ok", "tls: ok"]);
}

#[test]
fn routes_of_the_sets_namespace_are_those_of_the_same_namespace() {
    let to = "  rules: [{backendRefs: [{name: web, port: 8080}]}]";
    let parent = "{kind: ListenerSet, name: s, namespace: shop}";
    let yaml = allowing("from: All", HTTP)
        + &set("shop", "s", 2020, "[{name: more, port: 80, protocol: HTTP, hostname: more.com}]")
        + &services("shop", &["web"])
        + &services("infra", &["web"])
        + &route("shop", "near", &format!("  parentRefs: [{parent}]\n{to}"))
        + &route("infra", "far", &format!("  parentRefs: [{parent}]\n{to}"));
    let h = Harness::new(&yaml);
    assert_eq!(h.status("HTTPRoute shop/near"), ["shop/s: ok ok"]);
    assert_eq!(h.status("HTTPRoute infra/far"), ["shop/s: NotAllowedByListeners ok"]);
    assert_eq!(h.places(), ["infra/gw/shop/s/more more.com"]);
}

#[test]
fn each_parent_ref_of_a_route_is_looked_at_by_itself() {
    let rules = "  rules: [{backendRefs: [{name: web, port: 8080}]}]";
    let refs = |refs: &str| format!("  parentRefs: [{refs}]\n{rules}");
    let yaml = allowing("from: Same", HTTP)
        + &set("infra", "s", 2020, "[{name: more, port: 80, protocol: HTTP, hostname: more.com}]")
        + &services("infra", &["web"])
        + &route("infra", "both", &refs("{name: gw}, {kind: ListenerSet, name: s}"))
        // A section of the set is none of the Gateway, and the other way round.
        + &route("infra", "wrong", &refs("{name: gw, sectionName: more}, {kind: ListenerSet, name: s, sectionName: web}"))
        + &route("infra", "ports", &refs("{kind: ListenerSet, name: s, port: 81}, {kind: ListenerSet, name: none}"));
    let h = Harness::new(&yaml);
    assert_eq!(h.status("HTTPRoute infra/both"), ["infra/gw: ok ok", "infra/s: ok ok"]);
    assert_eq!(h.status("HTTPRoute infra/wrong"), ["infra/gw: NoMatchingParent ok", "infra/s: NoMatchingParent ok"]);
    assert_eq!(h.status("HTTPRoute infra/ports"), ["infra/s: NoMatchingParent ok", "infra/none: NoMatchingParent ok"]);
    assert_eq!(h.places(), ["infra/gw/infra/s/more more.com", "infra/gw/web gw.com"]);
}

#[test]
fn a_route_of_a_set_that_is_not_allowed_is_told_so_and_served_when_it_is() {
    let yaml = set("infra", "s", 2020, "[{name: more, port: 80, protocol: HTTP, hostname: more.com}]")
        + &services("infra", &["web"])
        + &route(
            "infra",
            "r",
            "  parentRefs: [{kind: ListenerSet, name: s}]\n  rules: [{backendRefs: [{name: web, port: 8080}]}]",
        );
    let mut h = Harness::new(&(gateway("infra", "gw", HTTP) + &yaml));
    assert_eq!(h.status("HTTPRoute infra/r"), ["infra/s: NoMatchingParent ok"]);
    let (_, message) = *h.translator.status().routes.into_values().next().unwrap().parents[0].rejected.clone().unwrap();
    assert!(
        message.contains("ListenerSet infra/s is not attached: Gateway infra/gw allows no ListenerSets"),
        "{message}"
    );
    h.apply(&allowing("from: Same", HTTP));
    assert_eq!(h.status("HTTPRoute infra/r"), ["infra/s: ok ok"]);
    assert_eq!(h.places(), ["infra/gw/infra/s/more more.com"]);
}

#[test]
fn a_set_without_a_gateway_of_ours_says_what_is_missing_and_has_no_status() {
    let other = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: other}\nspec: {controllerName: example.com/x}\n";
    let listeners = "[{name: a, port: 80, protocol: HTTP}]";
    let lost = set("infra", "lost", 2020, listeners).replace("{name: gw,", "{name: none,");
    let odd = set("infra", "odd", 2020, listeners).replace("{name: gw,", "{kind: Service, name: gw,");
    let foreign = set("infra", "foreign", 2020, listeners).replace("{name: gw,", "{name: foreign,");
    let gateways = allowing("from: All", HTTP)
        + other
        + &gateway("infra", "foreign", HTTP).replace("gatewayClassName: sluice", "gatewayClassName: other");
    let on = |set: &str| {
        route(
            "infra",
            set,
            &format!(
                "  parentRefs: [{{kind: ListenerSet, name: {set}}}]\n  rules: [{{backendRefs: [{{name: web, port: 8080}}]}}]"
            ),
        )
    };
    let h = Harness::new(
        &(gateways + &lost + &odd + &foreign + &on("lost") + &on("foreign") + &services("infra", &["web"])),
    );
    assert_eq!(
        h.problems(),
        [
            "P204 ListenerSet infra/odd spec.parentRef.kind",
            "P206 ListenerSet infra/lost spec.parentRef",
            "P206 HTTPRoute infra/lost spec.parentRefs[0]"
        ]
    );
    let status = h.translator.status();
    assert!(status.listener_sets.is_empty());
    let parents = |name: &str| &status.routes[&ObjectRef::new(Kind::HTTPRoute, "infra", name)].parents;
    // Nobody's parent is of no Gateway; another controller's is none of our business.
    assert_eq!(parents("lost")[0].gateway, None);
    assert!(parents("foreign").is_empty());
}

#[test]
fn a_set_of_a_gateway_that_is_rejected_is_rejected_too() {
    let gw = allowing("from: Same", HTTP).replace("spec: {", "spec: {addresses: [{type: Thing, value: x}], ");
    let h = Harness::new(&(gw + &set("infra", "s", 2020, "[{name: more, port: 81, protocol: HTTP}]")));
    assert_eq!(reasons(&h, "infra", "s"), ["ParentNotAccepted", "more: ok"]);
    assert_eq!((attached(&h), h.config().ports.len()), (0, 0));
}

#[test]
fn a_gateway_is_accepted_for_the_listeners_of_its_sets_alone() {
    let odd = "[{name: odd, port: 1, protocol: INVALID}]";
    let more = set("infra", "s", 2020, "[{name: more, port: 81, protocol: HTTP}]");
    let rejected = |h: &Harness| h.translator.status().gateways.into_values().next().unwrap().rejected.map(|(r, _)| r);
    let mut h = Harness::new(&(allowing("from: Same", odd) + &more));
    assert_eq!((rejected(&h), reasons(&h, "infra", "s").remove(0).as_str()), (None, "ok"));
    h.delete(Kind::ListenerSet, "infra", "s");
    assert_eq!(rejected(&h), Some("ListenersNotValid"));
}

#[test]
fn a_policy_on_a_set_holds_for_its_listeners_and_stands_between_gateway_and_listener() {
    let policy = |name: &str, kind: &str, target: &str, size: &str| {
        format!(
            "---\napiVersion: sluice.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {name}, namespace: infra}}\nspec: {{targetRefs: [{{group: gateway.networking.k8s.io, kind: {kind}, {target}}}], client: {{maxBody: {size}}}}}\n"
        )
    };
    let to =
        |parent: &str| format!("  parentRefs: [{parent}]\n  rules: [{{backendRefs: [{{name: web, port: 8080}}]}}]");
    let yaml = allowing("from: Same", HTTP)
        + &set(
            "infra",
            "s",
            2020,
            "[{name: a, port: 80, protocol: HTTP, hostname: a.com}, {name: b, port: 80, protocol: HTTP, hostname: b.com}]",
        )
        + &services("infra", &["web"])
        + &route("infra", "own", &to("{name: gw}"))
        + &route("infra", "added", &to("{kind: ListenerSet, name: s}"))
        + &policy("gateway", "Gateway", "name: gw", "1Ki")
        + &policy("set", "ListenerSet", "name: s", "2Ki")
        + &policy("listener", "ListenerSet", "name: s, sectionName: b", "3Ki")
        + &policy("missing", "ListenerSet", "name: s, sectionName: c", "4Ki");
    let mut h = Harness::new(&yaml);
    assert_eq!(h.problems(), ["P210 TrafficPolicy infra/missing spec.targetRefs[0]"]);
    let max_body = |h: &Harness, place: &str| h.rule(place).client.max_body;
    assert_eq!(max_body(&h, "infra/gw/web gw.com"), Some(1 << 10));
    assert_eq!(max_body(&h, "infra/gw/infra/s/a a.com"), Some(2 << 10));
    assert_eq!(max_body(&h, "infra/gw/infra/s/b b.com"), Some(3 << 10));
    h.delete(Kind::TrafficPolicy, "infra", "set");
    assert_eq!(max_body(&h, "infra/gw/infra/s/a a.com"), Some(1 << 10));
}

#[test]
fn settings_of_a_sets_listener_stand_under_its_whole_name() {
    let config = "---\napiVersion: sluice.dev/v1alpha1\nkind: GatewayConfig\nmetadata: {name: c, namespace: infra}\nspec: {listeners: [{name: '*', limits: {headerCount: 5}}, {name: web, limits: {headerCount: 6}}, {name: infra/s/web, limits: {headerCount: 7}}]}\n";
    let gw = allowing("from: Same", HTTP).replace(
        "spec: {",
        "spec: {infrastructure: {parametersRef: {group: sluice.dev, kind: GatewayConfig, name: c}}, ",
    );
    let sets = set("infra", "s", 2020, "[{name: web, port: 81, protocol: HTTP}]")
        + &set("infra", "t", 2020, "[{name: web, port: 82, protocol: HTTP}]");
    let h = Harness::new(&(gw + config + &sets));
    let counts: Vec<_> = h.config().ports.values().map(|port| port.listeners[0].edge.limits.header_count).collect();
    assert_eq!(counts, [6, 7, 5]);
}

#[test]
fn names_that_cannot_be_told_apart_serve_nothing() {
    let listeners = "[{name: web, port: 80, protocol: HTTP, hostname: a.com}, {name: web, port: 81, protocol: HTTP}, {name: a/b/c, port: 82, protocol: HTTP}]";
    let h = Harness::new(
        &(allowing("from: Same", listeners) + &set("infra", "s", 2020, &listeners.replace("port: 8", "port: 9"))),
    );
    let ports: Vec<_> = h.config().ports.keys().map(|address| address.port()).collect();
    assert_eq!(ports, [80, 90]);
    assert_eq!(
        h.problems(),
        [
            "P108 Gateway infra/gw spec.listeners[2].name",
            "P108 ListenerSet infra/s spec.listeners[2].name",
            "P110 Gateway infra/gw spec.listeners[1].name",
            "P110 ListenerSet infra/s spec.listeners[1].name"
        ]
    );
    assert_eq!(reasons(&h, "infra", "s"), ["ok", "web: ok", "web: UnsupportedValue", "a/b/c: UnsupportedValue"]);
}

#[test]
fn in_a_cluster_a_sets_ports_are_bound_when_its_gateways_service_records_them() {
    let service = |targets: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: gateway-u, namespace: system, labels: {{sluice.dev/gateway-uid: u}}, annotations: {{sluice.dev/target-ports: '{targets}'}}}}\n"
        )
    };
    let gw = allowing("from: Same", HTTP).replace("metadata: {", "metadata: {uid: u, ");
    let class = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: sluice}\nspec: {controllerName: sluice.dev/gateway-controller}\n";
    let options = Options { files: false, gateway_services: Some("system".into()), ..Options::default() };
    let set = set(
        "infra",
        "s",
        2020,
        "[{name: more, port: 81, protocol: HTTP}, {name: web, port: 80, protocol: HTTP, hostname: gw.com}]",
    );
    let mut h = Harness::with(options, &(gw + class + &set));
    // A conflict is one before anything is bound.
    assert_eq!(reasons(&h, "infra", "s"), ["ok", "more: ok", "web: HostnameConflict"]);
    assert!(h.config().ports.is_empty());
    h.apply(&service("80=10000,81=10001"));
    let ports: Vec<_> =
        h.config().ports.iter().map(|(a, port)| format!("{} {}", a.port(), port.listeners[0].id)).collect();
    assert_eq!(ports, ["10000 infra/gw/web", "10001 infra/gw/infra/s/more"]);
}
