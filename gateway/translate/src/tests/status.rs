//! What is said of Plugins, policies and GatewayConfigs: their problems, in the API's reasons.

use super::support::{Harness, gateway, route, services};
use crate::status::AncestorStatus;
use sluice_model::{Kind, ObjectRef};

fn policy(name: &str, created: u32, spec: &str) -> String {
    format!(
        "---\napiVersion: sluice.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {name}, namespace: shop, generation: 3, creationTimestamp: \"2026-01-0{created}T00:00:00Z\"}}\nspec:\n{spec}\n"
    )
}

fn tls_policy(name: &str, created: u32, target: &str, validation: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: {name}, namespace: shop, creationTimestamp: \"2026-01-0{created}T00:00:00Z\"}}\nspec: {{targetRefs: [{target}], validation: {{hostname: s.example, {validation}}}}}\n"
    )
}

/// A Gateway with a route to Service `s`.
fn base() -> String {
    gateway("shop", "gw", "[{name: web, port: 80, protocol: HTTP}]")
        + &services("shop", &["s"])
        + &route("shop", "r", "  parentRefs: [{name: gw}]\n  rules: [{backendRefs: [{name: s, port: 8080}]}]")
}

/// `Kind namespace/name#section: reason of Accepted, reason of ResolvedRefs` of each ancestor.
fn ancestors(h: &Harness, kind: Kind, name: &str) -> Vec<String> {
    let status = h.translator.status();
    let status = &status.policies[&ObjectRef::new(kind, "shop", name)];
    let line = |of: &AncestorStatus| {
        let above = &of.ancestor;
        let section = above.section.as_ref().map(|section| format!("#{section}")).unwrap_or_default();
        let reason = |part: &Option<(&'static str, String)>| part.as_ref().map_or("ok", |(reason, _)| reason);
        let resolved = if of.has_references { format!(", {}", reason(&of.unresolved)) } else { String::new() };
        format!("{} {}/{}{section}: {}{resolved}", above.kind, above.namespace, above.name, reason(&of.rejected))
    };
    status.ancestors.iter().map(line).collect()
}

#[test]
fn a_policy_has_an_ancestor_for_each_target_with_what_became_of_it_there() {
    let target = |kind: &str, name: &str| format!("{{group: gateway.networking.k8s.io, kind: {kind}, name: {name}}}");
    let both = format!("  targetRefs: [{}, {}]", target("Gateway", "gw"), target("HTTPRoute", "r"));
    let younger = format!(
        "  targetRefs: [{}, {}, {}, {{group: '', kind: Service, name: s, sectionName: nope}}]",
        target("HTTPRoute", "r"),
        target("HTTPRoute", "missing"),
        target("GatewayClass", "g")
    );
    let mut h = Harness::new(&(base() + &policy("older", 1, &both) + &policy("younger", 2, &younger)));
    assert_eq!(ancestors(&h, Kind::TrafficPolicy, "older"), ["Gateway shop/gw: ok", "HTTPRoute shop/r: ok"]);
    assert_eq!(
        ancestors(&h, Kind::TrafficPolicy, "younger"),
        [
            "HTTPRoute shop/r: Conflicted",
            "HTTPRoute shop/missing: TargetNotFound",
            "GatewayClass shop/g: Invalid",
            "Service shop/s#nope: TargetNotFound"
        ]
    );
    let status = h.translator.status();
    assert_eq!(status.policies[&ObjectRef::new(Kind::TrafficPolicy, "shop", "older")].generation, 3);
    // The older one goes, and the other one is next.
    h.delete(Kind::TrafficPolicy, "shop", "older");
    assert_eq!(ancestors(&h, Kind::TrafficPolicy, "younger")[0], "HTTPRoute shop/r: ok");
}

#[test]
fn what_is_wrong_with_a_policy_itself_is_said_of_all_its_targets() {
    let spec = "  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: gw}]\n  plugins: [{name: a, pluginRef: {name: nobody}}]";
    let h = Harness::new(&(base() + &policy("p", 1, spec)));
    assert_eq!(ancestors(&h, Kind::TrafficPolicy, "p"), ["Gateway shop/gw: Invalid"]);
    let status = h.translator.status();
    let of = &status.policies[&ObjectRef::new(Kind::TrafficPolicy, "shop", "p")].ancestors[0];
    let (_, message) = of.rejected.as_ref().unwrap();
    assert!(message.contains("spec.plugins[0].pluginRef: there is no Plugin shop/nobody (SLUICE-P"), "{message}");
}

#[test]
fn a_policy_without_targets_has_the_routes_that_name_it() {
    let filter = "filters: [{type: ExtensionRef, extensionRef: {group: sluice.dev, kind: TrafficPolicy, name: named}}]";
    let rules =
        format!("  parentRefs: [{{name: gw}}]\n  rules: [{{{filter}, backendRefs: [{{name: s, port: 8080}}]}}]");
    let mut h = Harness::new(&(base() + &policy("named", 1, "  client: {maxBody: 1Ki}")));
    assert_eq!(ancestors(&h, Kind::TrafficPolicy, "named"), [] as [&str; 0]);
    h.apply(&route("shop", "r", &rules));
    assert_eq!(ancestors(&h, Kind::TrafficPolicy, "named"), ["HTTPRoute shop/r: ok"]);
}

#[test]
fn a_backend_tls_policy_has_the_gateways_whose_backends_it_is_for() {
    let service = |section: &str| format!("{{group: '', kind: Service, name: s{section}}}");
    let system = "wellKnownCACertificates: System";
    let ca = |kind: &str| format!("caCertificateRefs: [{{group: '', kind: {kind}, name: none}}]");
    let unused = tls_policy("unused", 1, "{group: '', kind: Service, name: other}", system);
    let of = |more: &str| Harness::new(&(base() + &unused + more));

    let h = of(&(tls_policy("a", 1, &service(""), system) + &tls_policy("b", 2, &service(""), system)));
    assert_eq!(ancestors(&h, Kind::BackendTLSPolicy, "unused"), [] as [&str; 0]);
    assert_eq!(ancestors(&h, Kind::BackendTLSPolicy, "a"), ["Gateway shop/gw: ok, ok"]);
    assert_eq!(ancestors(&h, Kind::BackendTLSPolicy, "b"), ["Gateway shop/gw: Conflicted, ok"]);

    let h = of(&tls_policy("a", 1, &service(""), &ca("ConfigMap")));
    let missing = ["Gateway shop/gw: NoValidCACertificate, InvalidCACertificateRef"];
    assert_eq!(ancestors(&h, Kind::BackendTLSPolicy, "a"), missing);
    let h = of(&tls_policy("a", 1, &service(""), &ca("Thing")));
    assert_eq!(ancestors(&h, Kind::BackendTLSPolicy, "a"), ["Gateway shop/gw: NoValidCACertificate, InvalidKind"]);
    let h = of(&tls_policy("a", 1, &service(""), "subjectAltNames: [{type: URI}], wellKnownCACertificates: System"));
    assert_eq!(ancestors(&h, Kind::BackendTLSPolicy, "a"), ["Gateway shop/gw: Invalid, ok"]);

    // A route of nobody of ours leads nowhere.
    let mut h = of(&tls_policy("a", 1, &service(""), system));
    h.delete(Kind::Gateway, "shop", "gw");
    assert_eq!(ancestors(&h, Kind::BackendTLSPolicy, "a"), [] as [&str; 0]);
}

#[test]
fn a_backend_tls_policy_of_an_ingress_has_the_ingress() {
    let ingress = "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: i, namespace: shop}\nspec: {defaultBackend: {service: {name: s, port: {number: 8080}}}}\n";
    let target = "{group: '', kind: Service, name: s}";
    let policy = tls_policy("a", 1, target, "wellKnownCACertificates: System");
    let h = Harness::new(&(services("shop", &["s"]) + ingress + &policy));
    assert_eq!(ancestors(&h, Kind::BackendTLSPolicy, "a"), ["Ingress shop/i: ok, ok"]);
}

#[test]
fn a_gateway_config_says_who_names_it_and_what_is_wrong_with_it() {
    let config = |name: &str, size: &str| {
        format!(
            "---\napiVersion: sluice.dev/v1alpha1\nkind: GatewayConfig\nmetadata: {{name: {name}, namespace: shop, generation: 2}}\nspec: {{listeners: [{{name: '*', limits: {{headerBytes: {size}}}}}]}}\n"
        )
    };
    let gateway = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: gw, namespace: shop}\nspec: {gatewayClassName: sluice, infrastructure: {parametersRef: {group: sluice.dev, kind: GatewayConfig, name: used}}, listeners: [{name: web, port: 80, protocol: HTTP}]}\n";
    let h = Harness::new(&(config("used", "8Ki") + &config("broken", "1") + gateway));
    let status = h.translator.status();
    let of = |name: &str| &status.configs[&ObjectRef::new(Kind::GatewayConfig, "shop", name)];
    assert_eq!((of("used").generation, &of("used").rejected), (2, &None));
    let users: Vec<_> = of("used").used_by.iter().map(ToString::to_string).collect();
    assert_eq!(users, ["Gateway shop/gw"]);
    let (reason, message) = of("broken").rejected.as_ref().unwrap();
    assert!(*reason == "Invalid" && message.contains("spec.listeners[0].limits.headerBytes"), "{message}");
    assert!(of("broken").used_by.is_empty());
}

#[test]
fn a_plugin_has_its_codes_digest_and_size_or_says_why_there_is_none() {
    let plugin = |name: &str, more: &str| {
        format!(
            "---\napiVersion: sluice.dev/v1alpha1\nkind: Plugin\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{source: {{configMap: {{name: {name}, key: code}}}}{more}}}\n"
        )
    };
    let map =
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: good, namespace: shop}\nbinaryData: {code: YWJj}\n";
    let map_of = |name: &str| map.replace("name: good", &format!("name: {name}"));
    let yaml = plugin("good", "")
        + &plugin("none", "")
        + &plugin("odd", ", limits: {concurrency: 1000000}")
        + map
        + &map_of("odd");
    let h = Harness::new(&yaml);
    let status = h.translator.status();
    let of = |name: &str| &status.plugins[&ObjectRef::new(Kind::Plugin, "shop", name)];
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!((&of("good").rejected, &of("good").code), (&None, &Some((abc.to_owned(), 3))));
    let (reason, message) = of("none").rejected.as_ref().unwrap();
    assert!(*reason == "InvalidSource" && message.contains("there is no ConfigMap shop/none"), "{message}");
    assert_eq!(of("none").code, None);
    // What is out of range is left out; the rest holds.
    assert_eq!(of("odd").rejected.as_ref().map(|(reason, _)| *reason), Some("Invalid"));
    assert!(of("odd").code.is_some());
}
