//! Bad input: for each kind, each invalid field, missing reference, missing grant and conflict, the condition and reason
//! that the Gateway API names; and nothing else is another than before.

use super::support::{Harness, gateway, route, secret, services};
use crate::{Condition, Told};
use std::sync::Arc;

const WEB: &str = "[{name: web, port: 80, protocol: HTTP}]";

/// Somebody else's Gateway with a route.
fn bystander() -> String {
    gateway("by", "gw", "[{name: web, port: 90, protocol: HTTP}]")
        + &services("by", &["s"])
        + &route("by", "r", "  parentRefs: [{name: gw}]\n  rules: [{backendRefs: [{name: s, port: 8080}]}]")
}

pub(super) fn object(kind: &str, name: &str, spec: &str) -> String {
    let group = match kind {
        "TrafficPolicy" | "Plugin" | "GatewayConfig" => "sluice.dev/v1alpha1",
        "XBackendTrafficPolicy" => "gateway.networking.x-k8s.io/v1alpha1",
        _ => "gateway.networking.k8s.io/v1",
    };
    format!("---\napiVersion: {group}\nkind: {kind}\nmetadata: {{name: {name}, namespace: infra}}\nspec: {{{spec}}}\n")
}

/// The conditions of one object that say that something is wrong, as they are written: `[listener, parent or ancestor]
/// Type=Status/Reason`.
pub(super) fn said(h: &Harness, object: &str) -> Vec<String> {
    let told = h.translator.status().conditions();
    let of_object = told.iter().filter(|told| told.object.to_string() == object);
    let line = |told: &Told| {
        let part = told.part.as_deref().map(|part| match part.strip_prefix("listener ") {
            Some(listener) => format!("{listener} "),
            // `Gateway infra/gw web port 80`
            None => format!("{} ", part.rsplit('/').next().and_then(|name| name.split(' ').next()).unwrap_or(part)),
        });
        let wrong = told.conditions.iter().filter(|condition| condition.wants_attention());
        let line = |c: &Condition| {
            let status = if c.status { "True" } else { "False" };
            format!("{}{}={status}/{}", part.as_deref().unwrap_or_default(), c.kind, c.reason)
        };
        wrong.map(line).collect::<Vec<_>>()
    };
    of_object.flat_map(line).collect()
}

/// What is wrong with an object: the object, its YAML with whatever else there is, the conditions.
type Case<'c> = (&'c str, String, &'c [&'c str]);

/// All of them, so that one look shows which are wrong.
fn all_wrong(cases: &[Case<'_>]) -> Vec<String> {
    cases.iter().filter_map(wrong).collect()
}

fn check(cases: &[Case<'_>]) {
    let wrongs = all_wrong(cases);
    assert!(wrongs.is_empty(), "{}", wrongs.join("\n"));
}

fn wrong((object, yaml, expected): &Case<'_>) -> Option<String> {
    let mut h = Harness::new(&bystander());
    let host = h.virtual_host("by/gw/web *").expect("the bystander is served").clone();
    let port = h.config().ports.values().next().expect("it has a port").clone();
    h.apply(yaml);
    let said = said(&h, object);
    let last = yaml.lines().rfind(|line| line.starts_with("spec:")).unwrap_or_default();
    let about = |what: &str| Some(format!("{object}: {what}\n  of {last}\n  with {:?}", h.problems()));
    if said != *expected {
        return about(&format!("{said:?} and not {expected:?}"));
    }
    let told = h.output.problems.iter().any(|p| p.object.as_ref().is_some_and(|of| of.to_string() == *object));
    if !told {
        return about("no problem tells of it");
    }
    let same_host = h.virtual_host("by/gw/web *").is_some_and(|now| Arc::ptr_eq(now, &host));
    let same_port = h.config().ports.values().any(|now| Arc::ptr_eq(now, &port));
    if same_host && same_port { None } else { about("somebody else's host or port changed") }
}

#[test]
fn of_a_gateway_class() {
    let class = |parameters: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: own}}\nspec: {{controllerName: sluice.dev/gateway-controller, parametersRef: {{{parameters}}}}}\n"
        )
    };
    let invalid: &[&str] = &["Accepted=False/InvalidParameters"];
    check(&[
        ("GatewayClass own", class("group: sluice.dev, kind: GatewayConfig, name: none, namespace: infra"), invalid),
        ("GatewayClass own", class("group: '', kind: ConfigMap, name: none, namespace: infra"), invalid),
    ]);
}

#[test]
fn of_a_gateway() {
    let gw = |more: &str| object("Gateway", "gw", &format!("gatewayClassName: sluice, listeners: {WEB}, {more}"));
    let parameters =
        |kind: &str| gw(&format!("infrastructure: {{parametersRef: {{group: sluice.dev, kind: {kind}, name: none}}}}"));
    let client = |reference: &str| gw(&format!("tls: {{backend: {{clientCertificateRef: {{{reference}}}}}}}"));
    const GATEWAY: &str = "Gateway infra/gw";
    check(&[
        (GATEWAY, parameters("GatewayConfig"), &["Accepted=False/InvalidParameters"]),
        (GATEWAY, parameters("Other"), &["Accepted=False/InvalidParameters"]),
        (GATEWAY, gw("addresses: [{type: Hostname, value: a.com}]"), &["Accepted=False/UnsupportedAddress"]),
        (GATEWAY, gw("addresses: [{type: example.com/odd, value: x}]"), &["Accepted=False/UnsupportedAddress"]),
        (GATEWAY, gw("addresses: [{value: 10.0.0.256}]"), &["Accepted=False/UnsupportedAddress"]),
        (GATEWAY, client("name: none"), &["ResolvedRefs=False/InvalidClientCertificateRef"]),
        (GATEWAY, client("name: none, kind: ConfigMap"), &["ResolvedRefs=False/InvalidClientCertificateRef"]),
        (
            GATEWAY,
            client("name: c, namespace: certs") + &secret("certs", "c", &["a.com"]),
            &["ResolvedRefs=False/RefNotPermitted"],
        ),
        // The API has no condition for it: the ListenerSets that it keeps out are told.
        (GATEWAY, gw("allowedListeners: {namespaces: {from: Selector}}"), &[]),
        (
            GATEWAY,
            gw(
                "allowedListeners: {namespaces: {from: Selector, selector: {matchExpressions: [{key: a, operator: NotIn}]}}}",
            ),
            &[],
        ),
    ]);
}

/// The same of a Gateway's own listener and of one that a ListenerSet adds; beside it there is a good one.
#[test]
fn of_a_listener() {
    let mut wrongs: Vec<String> = Vec::new();
    let good = "{name: good, port: 81, protocol: HTTP}";
    let own = |bad: &str| object("Gateway", "gw", &format!("gatewayClassName: sluice, listeners: [{bad}, {good}]"));
    let added = |bad: &str| {
        object(
            "Gateway",
            "gw",
            &format!("gatewayClassName: sluice, listeners: {WEB}, allowedListeners: {{namespaces: {{from: Same}}}}"),
        ) + &object("ListenerSet", "set", &format!("parentRef: {{name: gw}}, listeners: [{bad}, {good}]"))
    };
    let tls = |tls: &str| format!("{{name: bad, port: 443, protocol: HTTPS, hostname: a.com, tls: {{{tls}}}}}");
    let kinds = |kind: &str| format!("{{name: bad, port: 88, protocol: HTTP, allowedRoutes: {{kinds: [{kind}]}}}}");
    let chosen = |expression: &str| {
        format!(
            "{{name: bad, port: 88, protocol: HTTP, allowedRoutes: {{namespaces: {{from: Selector, selector: {{matchExpressions: [{expression}]}}}}}}}}"
        )
    };
    let certificate = |reference: &str| tls(&format!("certificateRefs: [{{{reference}}}]"));
    let secrets = secret("infra", "c", &["a.com"]) + &secret("certs", "c", &["a.com"]);
    let malformed = "---\n{apiVersion: v1, kind: Secret, metadata: {name: odd, namespace: infra}, type: kubernetes.io/tls, stringData: {tls.crt: x, tls.key: y}}\n";
    for (bad, expected) in [
        ("{name: bad, port: 88, protocol: FTP}".to_owned(), &["bad Accepted=False/UnsupportedProtocol"][..]),
        ("{name: bad, port: 0, protocol: HTTP}".to_owned(), &["bad Accepted=False/UnsupportedValue"]),
        ("{name: bad, port: 65536, protocol: HTTP}".to_owned(), &["bad Accepted=False/UnsupportedValue"]),
        ("{name: bad, port: 88, protocol: HTTP, hostname: a..b}".to_owned(), &["bad Accepted=False/UnsupportedValue"]),
        ("{name: Bad/x, port: 88, protocol: HTTP}".to_owned(), &["Bad/x Accepted=False/UnsupportedValue"]),
        (
            "{name: bad, port: 88, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector}}}".to_owned(),
            &["bad Accepted=False/UnsupportedValue"],
        ),
        (chosen("{key: a, operator: NotIn}"), &["bad Accepted=False/UnsupportedValue"]),
        (chosen("{key: a, operator: In, values: []}"), &["bad Accepted=False/UnsupportedValue"]),
        (chosen("{key: a, operator: Exists, values: [b]}"), &["bad Accepted=False/UnsupportedValue"]),
        (chosen("{key: a, operator: Matches, values: [b]}"), &["bad Accepted=False/UnsupportedValue"]),
        (chosen("{key: '', operator: Exists}"), &["bad Accepted=False/UnsupportedValue"]),
        (kinds("{kind: Odd}"), &["bad ResolvedRefs=False/InvalidRouteKinds"]),
        (kinds("{kind: TCPRoute}"), &["bad ResolvedRefs=False/InvalidRouteKinds"]),
        (kinds("{kind: HTTPRoute, group: example.com}"), &["bad ResolvedRefs=False/InvalidRouteKinds"]),
        ("{name: bad, port: 443, protocol: HTTPS}".to_owned(), &["bad Accepted=False/UnsupportedValue"]),
        (tls("mode: Passthrough"), &["bad Accepted=False/UnsupportedValue"]),
        (tls("mode: Terminate"), &["bad ResolvedRefs=False/InvalidCertificateRef"]),
        (certificate("name: none"), &["bad ResolvedRefs=False/InvalidCertificateRef"]),
        (certificate("name: odd"), &["bad ResolvedRefs=False/InvalidCertificateRef"]),
        (certificate("name: c, kind: ConfigMap"), &["bad ResolvedRefs=False/InvalidCertificateRef"]),
        (certificate("name: c, group: example.com"), &["bad ResolvedRefs=False/InvalidCertificateRef"]),
        (certificate("name: c, namespace: certs"), &["bad ResolvedRefs=False/RefNotPermitted"]),
    ] {
        // The Gateway sums up what its listeners say, and a ListenerSet whether all of them are served.
        let rejected = expected.iter().any(|line| line.contains("Accepted=False"));
        let summary = match rejected {
            true => "Accepted=True/ListenersNotValid",
            false => "ResolvedRefs=False/ListenersNotResolved",
        };
        let of_gateway = [&[summary], expected].concat();
        wrongs.extend(all_wrong(&[("Gateway infra/gw", own(&bad) + &secrets + malformed, &of_gateway)]));
        let serves =
            !rejected && !expected.iter().any(|line| line.contains("Cert") || line.contains("RefNotPermitted"));
        let summary: &[&str] = if serves { &[] } else { &["Accepted=True/ListenersNotValid"] };
        let of_set = [summary, expected].concat();
        wrongs.extend(all_wrong(&[("ListenerSet infra/set", added(&bad) + &secrets + malformed, &of_set)]));
    }
    let conflict = |protocol: &str| format!("{{name: bad, port: 81, protocol: {protocol}}}");
    wrongs.extend(all_wrong(&[
        (
            "Gateway infra/gw",
            own(&conflict("HTTP")),
            &[
                "Accepted=False/ListenersNotValid",
                "bad Accepted=False/HostnameConflict",
                "bad Conflicted=True/HostnameConflict",
                "good Accepted=False/HostnameConflict",
                "good Conflicted=True/HostnameConflict",
            ],
        ),
        (
            "Gateway infra/gw",
            own(&conflict("TCP")),
            &[
                "Accepted=False/ListenersNotValid",
                "bad Accepted=False/ProtocolConflict",
                "bad Conflicted=True/ProtocolConflict",
                "good Accepted=False/ProtocolConflict",
                "good Conflicted=True/ProtocolConflict",
            ],
        ),
        (
            "ListenerSet infra/set",
            added(&conflict("HTTP")),
            &[
                "Accepted=True/ListenersNotValid",
                "good Accepted=False/HostnameConflict",
                "good Conflicted=True/HostnameConflict",
            ],
        ),
        (
            "ListenerSet infra/set",
            added("{name: bad, port: 80, protocol: TCP}"),
            &[
                "Accepted=True/ListenersNotValid",
                "bad Accepted=False/ProtocolConflict",
                "bad Conflicted=True/ProtocolConflict",
            ],
        ),
    ]));
    assert!(wrongs.is_empty(), "{}", wrongs.join("\n"));
}

#[test]
fn of_client_validation() {
    let gw = |validation: &str| {
        object(
            "Gateway",
            "gw",
            &format!(
                "gatewayClassName: sluice, listeners: [{{name: web, port: 80, protocol: HTTP}}, {{name: tls, port: 443, protocol: HTTPS, tls: {{certificateRefs: [{{name: c}}]}}}}], tls: {{frontend: {{default: {{validation: {{{validation}}}}}}}}}"
            ),
        ) + &secret("infra", "c", &["a.com"])
    };
    let ca = |reference: &str| gw(&format!("caCertificateRefs: [{{{reference}}}]"));
    let odd = "---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: odd, namespace: infra}, data: {ca.crt: x}}\n";
    const GATEWAY: &str = "Gateway infra/gw";
    const SOME: &str = "Accepted=True/ListenersNotValid";
    const UNRESOLVED: &str = "ResolvedRefs=False/ListenersNotResolved";
    const REJECTED: &str = "tls Accepted=False/NoValidCACertificate";
    check(&[
        (
            GATEWAY,
            ca("group: '', kind: ConfigMap, name: none"),
            &[SOME, UNRESOLVED, REJECTED, "tls ResolvedRefs=False/InvalidCACertificateRef"],
        ),
        (
            GATEWAY,
            ca("group: '', kind: ConfigMap, name: odd") + odd,
            &[SOME, UNRESOLVED, REJECTED, "tls ResolvedRefs=False/InvalidCACertificateRef"],
        ),
        (
            GATEWAY,
            ca("group: '', kind: Odd, name: c"),
            &[SOME, UNRESOLVED, REJECTED, "tls ResolvedRefs=False/InvalidCACertificateKind"],
        ),
        (
            GATEWAY,
            ca("group: '', kind: ConfigMap, name: c, namespace: certs"),
            &[SOME, UNRESOLVED, REJECTED, "tls ResolvedRefs=False/RefNotPermitted"],
        ),
    ]);
}

#[test]
fn of_a_listener_set() {
    let set = |spec: &str| object("ListenerSet", "set", spec);
    let listeners = "listeners: [{name: more, port: 88, protocol: HTTP}]";
    let gw = object("Gateway", "gw", &format!("gatewayClassName: sluice, listeners: {WEB}"));
    check(&[
        (
            "ListenerSet infra/set",
            gw.clone() + &set(&format!("parentRef: {{name: gw}}, {listeners}")),
            &["Accepted=False/NotAllowed"],
        ),
        // No Gateway of ours, no status of ours.
        ("ListenerSet infra/set", gw.clone() + &set(&format!("parentRef: {{name: none}}, {listeners}")), &[]),
        (
            "ListenerSet infra/set",
            gw + &set(&format!("parentRef: {{name: gw, kind: Service, group: ''}}, {listeners}")),
            &[],
        ),
    ]);
}

/// One Gateway with a listener for each kind, and Services a (TCP), u (UDP) and, in another namespace, a.
pub(super) fn around() -> String {
    let listeners = "[{name: web, port: 80, protocol: HTTP, hostname: '*.com'}, {name: tls, port: 443, protocol: TLS, hostname: '*.com', tls: {mode: Passthrough}}, {name: tcp, port: 5432, protocol: TCP}, {name: udp, port: 53, protocol: UDP}]";
    gateway("infra", "gw", listeners)
        + &gateway("other", "gw", WEB)
        + &services("infra", &["a"])
        + &services("other", &["a"])
        + "---\n{apiVersion: v1, kind: Service, metadata: {name: u, namespace: infra}, spec: {ports: [{port: 8080, protocol: UDP}]}}\n"
        + "---\n{apiVersion: v1, kind: Service, metadata: {name: out, namespace: infra}, spec: {type: ExternalName, externalName: out.example, ports: [{port: 8080}]}}\n"
}

/// What holds of every kind of route.
#[test]
fn of_routes_of_every_kind() {
    let mut wrongs: Vec<String> = Vec::new();
    for (kind, section, service) in [
        ("HTTPRoute", "web", "a"),
        ("GRPCRoute", "web", "a"),
        ("TLSRoute", "tls", "a"),
        ("TCPRoute", "tcp", "a"),
        ("UDPRoute", "udp", "u"),
    ] {
        let named = format!("{kind} infra/r");
        let hosts = if kind == "TLSRoute" { "hostnames: [a.com], " } else { "" };
        let parent = |reference: &str| {
            around()
                + &object(
                    kind,
                    "r",
                    &format!(
                        "parentRefs: [{{{reference}}}], {hosts}rules: [{{backendRefs: [{{name: {service}, port: 8080}}]}}]"
                    ),
                )
        };
        let backend = |reference: &str| {
            around()
                + &object(
                    kind,
                    "r",
                    &format!(
                        "parentRefs: [{{name: gw, sectionName: {section}}}], {hosts}rules: [{{backendRefs: [{{{reference}}}]}}]"
                    ),
                )
        };
        let other = if section == "udp" { "web" } else { "udp" };
        wrongs.extend(all_wrong(&[
            // A parent that is nobody's, or somebody else's, has no condition of ours.
            (&named, parent("name: none"), &[]),
            (&named, parent("name: none, kind: ListenerSet"), &[]),
            (&named, parent("name: gw, sectionName: none"), &["gw Accepted=False/NoMatchingParent"]),
            (&named, parent("name: gw, port: 1"), &["gw Accepted=False/NoMatchingParent"]),
            (
                &named,
                parent(&format!("name: gw, sectionName: {section}, port: 1")),
                &["gw Accepted=False/NoMatchingParent"],
            ),
            (&named, parent(&format!("name: gw, sectionName: {other}")), &["gw Accepted=False/NotAllowedByListeners"]),
            (&named, parent("name: gw, namespace: other"), &["gw Accepted=False/NotAllowedByListeners"]),
            (&named, backend("name: none, port: 8080"), &["gw ResolvedRefs=False/BackendNotFound"]),
            (&named, backend(&format!("name: {service}, port: 1")), &["gw ResolvedRefs=False/BackendNotFound"]),
            (&named, backend("name: a, kind: Bucket, port: 8080"), &["gw ResolvedRefs=False/InvalidKind"]),
            (&named, backend("name: a, group: example.com, port: 8080"), &["gw ResolvedRefs=False/InvalidKind"]),
            (&named, backend("name: a, namespace: other, port: 8080"), &["gw ResolvedRefs=False/RefNotPermitted"]),
        ]));
        if ["HTTPRoute", "GRPCRoute", "TLSRoute"].contains(&kind) {
            let host = |hosts: &str| {
                around()
                    + &object(
                        kind,
                        "r",
                        &format!(
                            "parentRefs: [{{name: gw, sectionName: {section}}}], hostnames: [{hosts}], rules: [{{backendRefs: [{{name: a, port: 8080}}]}}]"
                        ),
                    )
            };
            wrongs.extend(all_wrong(&[
                (&named, host("a.org"), &["gw Accepted=False/NoMatchingListenerHostname"]),
                (&named, host("a..com"), &["gw Accepted=False/NoMatchingListenerHostname"]),
                (&named, host("a..com, b.com"), &["gw PartiallyInvalid=True/UnsupportedValue"]),
            ]));
        }
        if ["HTTPRoute", "GRPCRoute"].contains(&kind) {
            let speaks = |protocol: &str| {
                backend("name: speaks, port: 8080")
                    + &format!(
                        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: speaks, namespace: infra}}, spec: {{ports: [{{port: 8080, appProtocol: {protocol}}}]}}}}\n"
                    )
            };
            wrongs.extend(all_wrong(&[
                (&named, speaks("mysql"), &["gw ResolvedRefs=False/UnsupportedProtocol"]),
                (&named, speaks("kubernetes.io/h3"), &["gw ResolvedRefs=False/UnsupportedProtocol"]),
            ]));
            for known in ["http", "HTTPS", "kubernetes.io/h2c", "kubernetes.io/ws", "tcp", "grpc"] {
                let h = Harness::new(&speaks(known));
                assert_eq!(said(&h, &named), Vec::<String>::new(), "{known}");
            }
        }
        // Counted as 0: of a route with nothing else every connection is refused.
        if ["TLSRoute", "TCPRoute", "UDPRoute"].contains(&kind) {
            let weight = backend(&format!("name: {service}, port: 8080, weight: 1000001"));
            wrongs.extend(all_wrong(&[(&named, weight, &["gw Accepted=False/UnsupportedValue"])]));
        }
        // Its number is there, but of another protocol.
        let protocol = if kind == "UDPRoute" { "a" } else { "u" };
        wrongs.extend(all_wrong(&[(
            &named,
            backend(&format!("name: {protocol}, port: 8080")),
            &["gw ResolvedRefs=False/BackendNotFound"],
        )]));
    }
    assert!(wrongs.is_empty(), "{}", wrongs.join("\n"));
}

/// Rules that cannot be used: of some the route serves the rest, of all it is not accepted.
#[test]
fn of_the_rules_of_http_and_grpc_routes() {
    let mut wrongs: Vec<String> = Vec::new();
    let to = "backendRefs: [{name: a, port: 8080}]";
    let route = |kind: &str, rules: &str| {
        around() + &object(kind, "r", &format!("parentRefs: [{{name: gw, sectionName: web}}], rules: [{rules}]"))
    };
    let path = |kind: &str, value: &str| format!("matches: [{{path: {{type: {kind}, value: {value}}}}}]");
    let header = |kind: &str, name: &str, value: &str| {
        format!("matches: [{{headers: [{{type: {kind}, name: {name}, value: {value}}}]}}]")
    };
    let filter = |filter: &str| format!("filters: [{filter}]");
    let edit = |edit: &str| filter(&format!("{{type: RequestHeaderModifier, requestHeaderModifier: {{{edit}}}}}"));
    let redirect = |to: &str| filter(&format!("{{type: RequestRedirect, requestRedirect: {{{to}}}}}"));
    let both = filter(
        "{type: RequestRedirect, requestRedirect: {hostname: b.com}}, {type: URLRewrite, urlRewrite: {hostname: b.com}}",
    );
    let method = |method: &str| format!("matches: [{{method: {{{method}}}}}]");
    let mirrored = |part: &str| {
        filter(&format!("{{type: RequestMirror, requestMirror: {{backendRef: {{name: a, port: 8080}}, {part}}}}}"))
    };
    for (kind, rule, whole) in [
        ("HTTPRoute", path("Exact", "'no slash'"), "gw Accepted=False/UnsupportedValue"),
        ("HTTPRoute", path("PathPrefix", "'/a?b'"), "gw Accepted=False/UnsupportedValue"),
        ("HTTPRoute", path("RegularExpression", "'('"), "gw Accepted=False/UnsupportedValue"),
        ("HTTPRoute", header("Exact", "'a b'", "x"), "gw Accepted=False/UnsupportedValue"),
        ("HTTPRoute", header("RegularExpression", "a", "'('"), "gw Accepted=False/UnsupportedValue"),
        (
            "HTTPRoute",
            "matches: [{queryParams: [{type: RegularExpression, name: a, value: '('}]}]".to_owned(),
            "gw Accepted=False/UnsupportedValue",
        ),
        ("HTTPRoute", edit("set: [{name: 'a b', value: x}]"), "gw Accepted=False/UnsupportedValue"),
        ("HTTPRoute", edit("remove: [Connection]"), "gw Accepted=False/UnsupportedValue"),
        ("HTTPRoute", redirect("hostname: a..b"), "gw Accepted=False/UnsupportedValue"),
        ("HTTPRoute", redirect("port: 70000"), "gw Accepted=False/UnsupportedValue"),
        ("HTTPRoute", filter("{type: URLRewrite}"), "gw Accepted=False/UnsupportedValue"),
        ("HTTPRoute", both, "gw Accepted=False/IncompatibleFilters"),
        (
            "HTTPRoute",
            filter("{type: CORS, cors: {}}, {type: CORS, cors: {}}"),
            "gw Accepted=False/IncompatibleFilters",
        ),
        ("HTTPRoute", redirect("statusCode: 399"), "gw Accepted=False/UnsupportedValue"),
        (
            "HTTPRoute",
            redirect("path: {type: ReplaceFullPath, replaceFullPath: 'no slash'}"),
            "gw Accepted=False/UnsupportedValue",
        ),
        (
            "HTTPRoute",
            filter("{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: 'no slash'}}}"),
            "gw Accepted=False/UnsupportedValue",
        ),
        (
            "HTTPRoute",
            filter("{type: CORS, cors: {allowOrigins: ['no origin']}}"),
            "gw Accepted=False/UnsupportedValue",
        ),
        ("HTTPRoute", mirrored("percent: 101"), "gw Accepted=False/UnsupportedValue"),
        ("HTTPRoute", mirrored("fraction: {numerator: 2, denominator: 1}"), "gw Accepted=False/UnsupportedValue"),
        ("HTTPRoute", "timeouts: {request: soon}".to_owned(), "gw Accepted=False/UnsupportedValue"),
        ("HTTPRoute", "timeouts: {backendRequest: '5'}".to_owned(), "gw Accepted=False/UnsupportedValue"),
        ("HTTPRoute", "retry: {codes: [200]}".to_owned(), "gw Accepted=False/UnsupportedValue"),
        ("HTTPRoute", "retry: {attempts: -1}".to_owned(), "gw Accepted=False/UnsupportedValue"),
        ("HTTPRoute", "retry: {backoff: soon}".to_owned(), "gw Accepted=False/UnsupportedValue"),
        (
            "HTTPRoute",
            "sessionPersistence: {cookieConfig: {lifetimeType: Permanent}}".to_owned(),
            "gw Accepted=False/UnsupportedValue",
        ),
        ("GRPCRoute", "sessionPersistence: {absoluteTimeout: soon}".to_owned(), "gw Accepted=False/UnsupportedValue"),
        ("GRPCRoute", method("service: a/b"), "gw Accepted=False/UnsupportedValue"),
        ("GRPCRoute", method("type: Exact"), "gw Accepted=False/UnsupportedValue"),
        ("GRPCRoute", method("type: RegularExpression, service: '('"), "gw Accepted=False/UnsupportedValue"),
        ("GRPCRoute", header("Exact", "'a b'", "x"), "gw Accepted=False/UnsupportedValue"),
        ("GRPCRoute", edit("set: [{name: 'a b', value: x}]"), "gw Accepted=False/UnsupportedValue"),
    ] {
        let bad = format!("{{{rule}, {to}}}").replace("requestRedirect: {", "requestRedirect: {");
        let named = format!("{kind} infra/r");
        let good = format!("{{matches: [{{headers: [{{name: good, value: x}}]}}], {to}}}");
        wrongs.extend(all_wrong(&[
            (&named, route(kind, &bad), &[whole]),
            (&named, route(kind, &format!("{bad}, {good}")), &["gw PartiallyInvalid=True/UnsupportedValue"]),
        ]));
    }
    let extension = |group: &str, kind: &str| {
        filter(&format!("{{type: ExtensionRef, extensionRef: {{group: {group}, kind: {kind}, name: none}}}}"))
    };
    let mirror =
        |reference: &str| filter(&format!("{{type: RequestMirror, requestMirror: {{backendRef: {{{reference}}}}}}}"));
    for kind in ["HTTPRoute", "GRPCRoute"] {
        let named = format!("{kind} infra/r");
        let rule = |rule: &str| route(kind, &format!("{{{rule}, {to}}}"));
        wrongs.extend(all_wrong(&[
            (&named, rule(&extension("example.com", "Odd")), &["gw ResolvedRefs=False/InvalidKind"]),
            (&named, rule(&extension("sluice.dev", "TrafficPolicy")), &["gw ResolvedRefs=False/BackendNotFound"]),
            (
                &named,
                rule(&extension("sluice.dev", "TrafficPolicy").replace("none", "p"))
                    + &object(
                        "TrafficPolicy",
                        "p",
                        "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: gw}]",
                    ),
                &["gw Accepted=False/UnsupportedValue"],
            ),
            (&named, rule(&mirror("name: none, port: 8080")), &["gw ResolvedRefs=False/BackendNotFound"]),
            (&named, rule(&mirror("name: a")), &["gw ResolvedRefs=False/BackendNotFound"]),
            (
                &named,
                route(kind, "{backendRefs: [{name: a, port: 8080, weight: 1000001}]}"),
                &["gw Accepted=False/UnsupportedValue"],
            ),
            (
                &named,
                route(kind, "{backendRefs: [{name: out, port: 8080}]}"),
                &["gw ResolvedRefs=False/UnsupportedValue"],
            ),
            (
                &named,
                rule(&mirror("name: a, port: 8080, namespace: other")),
                &["gw ResolvedRefs=False/RefNotPermitted"],
            ),
        ]));
    }
    assert!(wrongs.is_empty(), "{}", wrongs.join("\n"));
}

#[test]
fn of_policies() {
    let base = around()
        + &super::support::route(
            "infra",
            "r",
            "  parentRefs: [{name: gw, sectionName: web}]\n  rules: [{name: n, backendRefs: [{name: a, port: 8080}]}]",
        );
    let tls = |name: &str, validation: &str| {
        object(
            "BackendTLSPolicy",
            name,
            &format!(
                "targetRefs: [{{group: '', kind: Service, name: a}}], validation: {{hostname: a.com, {validation}}}"
            ),
        )
    };
    let traffic = |name: &str, spec: &str| {
        object("XBackendTrafficPolicy", name, &format!("targetRefs: [{{group: '', kind: Service, name: a}}], {spec}"))
    };
    let system = "wellKnownCACertificates: System";
    let ca = |kind: &str| format!("caCertificateRefs: [{{group: '', kind: {kind}, name: none}}]");
    let target =
        |kind: &str, more: &str| format!("targetRefs: [{{group: gateway.networking.k8s.io, kind: {kind}, {more}}}]");
    let policy = |name: &str, spec: &str| base.clone() + &object("TrafficPolicy", name, spec);
    let on_route = target("HTTPRoute", "name: r");
    check(&[
        (
            "BackendTLSPolicy infra/p",
            base.clone() + &tls("p", &ca("ConfigMap")),
            &["gw Accepted=False/NoValidCACertificate", "gw ResolvedRefs=False/InvalidCACertificateRef"],
        ),
        (
            "BackendTLSPolicy infra/p",
            base.clone() + &tls("p", &ca("Odd")),
            &["gw Accepted=False/NoValidCACertificate", "gw ResolvedRefs=False/InvalidKind"],
        ),
        // What is there of a bundle still says who may be trusted.
        (
            "BackendTLSPolicy infra/p",
            base.clone()
                + &tls(
                    "p",
                    "caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}, {group: '', kind: ConfigMap, name: none}]",
                )
                + &super::support::ca_map("infra", "ca"),
            &["gw ResolvedRefs=False/InvalidCACertificateRef"],
        ),
        (
            "BackendTLSPolicy infra/p",
            base.clone() + &tls("p", system).replace("kind: Service", "kind: Odd"),
            &["gw Accepted=False/Invalid"],
        ),
        (
            "XBackendTrafficPolicy infra/p",
            base.clone() + &traffic("p", "").replace("kind: Service", "kind: Odd"),
            &["gw Accepted=False/Invalid"],
        ),
        (
            "BackendTLSPolicy infra/p",
            base.clone() + &tls("p", &format!("{system}, {}", ca("ConfigMap"))),
            &["gw Accepted=False/Invalid"],
        ),
        ("BackendTLSPolicy infra/p", base.clone() + &tls("p", ""), &["gw Accepted=False/Invalid"]),
        (
            "BackendTLSPolicy infra/p",
            base.clone() + &tls("p", "wellKnownCACertificates: Odd"),
            &["gw Accepted=False/Invalid"],
        ),
        (
            "BackendTLSPolicy infra/p",
            base.clone() + &tls("p", system).replace("hostname: a.com", "hostname: a..com"),
            &["gw Accepted=False/Invalid"],
        ),
        (
            "BackendTLSPolicy infra/p",
            base.clone() + &tls("p", system).replace("name: a}", "name: a, sectionName: none}"),
            &["gw Accepted=False/TargetNotFound"],
        ),
        // Its route leads there, and finds nothing.
        (
            "BackendTLSPolicy infra/p",
            base.replace("name: a, port: 8080", "name: none, port: 8080")
                + &tls("p", system).replace("name: a}", "name: none}"),
            &["gw Accepted=False/TargetNotFound"],
        ),
        (
            "BackendTLSPolicy infra/q",
            base.clone() + &tls("p", system) + &tls("q", system),
            &["gw Accepted=False/Conflicted"],
        ),
        (
            "BackendTLSPolicy infra/p",
            base.clone() + &tls("p", "subjectAltNames: [{type: URI}], wellKnownCACertificates: System"),
            &["gw Accepted=False/Invalid"],
        ),
        (
            "XBackendTrafficPolicy infra/p",
            base.clone() + &traffic("p", "retryConstraint: {budget: {percent: 101}}"),
            &["gw Accepted=False/Invalid"],
        ),
        (
            "XBackendTrafficPolicy infra/p",
            base.clone() + &traffic("p", "retryConstraint: {minRetryRate: {count: 1, interval: soon}}"),
            &["gw Accepted=False/Invalid"],
        ),
        (
            "XBackendTrafficPolicy infra/p",
            base.clone() + &traffic("p", "sessionPersistence: {type: Header}"),
            &["gw Accepted=False/Invalid"],
        ),
        (
            "XBackendTrafficPolicy infra/q",
            base.clone() + &traffic("p", "") + &traffic("q", ""),
            &["gw Accepted=False/Conflicted"],
        ),
        (
            "XBackendTrafficPolicy infra/p",
            base.replace("name: a, port: 8080", "name: none, port: 8080")
                + &traffic("p", "").replace("name: a}", "name: none}"),
            &["gw Accepted=False/TargetNotFound"],
        ),
        (
            "TrafficPolicy infra/p",
            policy("p", &target("HTTPRoute", "name: none")),
            &["none Accepted=False/TargetNotFound"],
        ),
        (
            "TrafficPolicy infra/p",
            policy("p", &target("HTTPRoute", "name: r, sectionName: none")),
            &["r Accepted=False/TargetNotFound"],
        ),
        (
            "TrafficPolicy infra/p",
            policy("p", &target("Gateway", "name: gw, sectionName: none")),
            &["gw Accepted=False/TargetNotFound"],
        ),
        ("TrafficPolicy infra/p", policy("p", &target("GatewayClass", "name: c")), &["c Accepted=False/Invalid"]),
        (
            "TrafficPolicy infra/q",
            policy("p", &on_route) + &object("TrafficPolicy", "q", &on_route),
            &["r Accepted=False/Conflicted"],
        ),
        (
            "TrafficPolicy infra/p",
            policy("p", &format!("{on_route}, plugins: [{{name: a, pluginRef: {{name: none}}}}]")),
            &["r Accepted=False/Invalid"],
        ),
        (
            "TrafficPolicy infra/p",
            policy("p", &format!("{on_route}, client: {{ipAllow: [nowhere]}}")),
            &["r Accepted=False/Invalid"],
        ),
    ]);
}

#[test]
fn of_plugins_and_gateway_configs() {
    check(&[
        (
            "Plugin infra/p",
            object("Plugin", "p", "source: {configMap: {name: none, key: k}}"),
            &["Accepted=False/InvalidSource"],
        ),
        (
            "GatewayConfig infra/c",
            object("GatewayConfig", "c", "listeners: [{name: '*', timeouts: {handshake: soon}}]"),
            &["Accepted=False/Invalid"],
        ),
    ]);
}

/// A ReferenceGrant has no status: one that permits something else leaves the reference as it was.
#[test]
fn of_reference_grants() {
    let grant = |from: &str, to: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {{name: g, namespace: other}}\nspec: {{from: [{{{from}}}], to: [{{{to}}}]}}\n"
        )
    };
    let from = "group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: infra";
    let service = "group: '', kind: Service";
    let base = around()
        + &object(
            "HTTPRoute",
            "r",
            "parentRefs: [{name: gw, sectionName: web}], rules: [{backendRefs: [{name: a, namespace: other, port: 8080}]}]",
        );
    let refused: &[&str] = &["gw ResolvedRefs=False/RefNotPermitted"];
    let named = "HTTPRoute infra/r";
    check(&[
        (named, base.clone() + &grant(&from.replace("HTTPRoute", "GRPCRoute"), service), refused),
        (named, base.clone() + &grant(&from.replace("namespace: infra", "namespace: by"), service), refused),
        (named, base.clone() + &grant(from, "group: '', kind: Secret"), refused),
        (named, base.clone() + &grant(from, &format!("{service}, name: b")), refused),
    ]);
    let h = Harness::new(&(base + &grant(from, service)));
    assert_eq!(said(&h, named), Vec::<String>::new());
}
