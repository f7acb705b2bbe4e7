use super::support::{Harness, gateway, route, services};
use sluice_model::config::{Action, BackendProtocol, SessionCarrier};

const HTTP: &str = "[{name: web, port: 80, protocol: HTTP}]";
const PLACE: &str = "infra/gw/web *";

fn grpc_route(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        r"
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  parentRefs: [{{name: gw, namespace: infra}}]
{spec}
"
    )
}

/// One route on a Gateway with one listener, with Services a, b and c.
fn one(spec: &str) -> Harness {
    Harness::new(
        &(gateway("infra", "gw", HTTP) + &services("infra", &["a", "b", "c"]) + &grpc_route("infra", "r", spec)),
    )
}

#[test]
fn gw_exact_method_matching() {
    let h = one("  rules:
  - {matches: [{method: {service: echo.Echo, method: One}}], backendRefs: [{name: a, port: 8080}]}
  - {matches: [{method: {service: echo.Echo, method: Two, type: Exact}}], backendRefs: [{name: b, port: 8080}]}");
    assert_eq!(h.routes(PLACE), ["=/echo.Echo/One -> infra/a:8080", "=/echo.Echo/Two -> infra/b:8080"]);
    assert_eq!(h.problems(), [] as [&str; 0]);
    assert_eq!(h.status("GRPCRoute infra/r"), ["infra/gw: ok ok"]);
}

#[test]
fn the_longer_service_goes_first_then_the_longer_method_then_more_headers() {
    let h = one("  rules:
  - {backendRefs: [{name: a, port: 8080}]}
  - {matches: [{method: {method: A}}, {method: {method: Longer}}], backendRefs: [{name: a, port: 8080}]}
  - {matches: [{method: {service: a.S}}, {method: {service: a.Longer}}], backendRefs: [{name: b, port: 8080}]}
  - {matches: [{headers: [{name: Version, value: two}]}], backendRefs: [{name: b, port: 8080}]}
  - {matches: [{method: {service: a.S, method: A}}], backendRefs: [{name: c, port: 8080}]}");
    assert_eq!(
        h.routes(PLACE),
        [
            "=/a.S/A -> infra/c:8080",
            "/a.Longer/* -> infra/b:8080",
            "/a.S/* -> infra/b:8080",
            "rpc=Longer /* -> infra/a:8080",
            "rpc=A /* -> infra/a:8080",
            "/* version=two -> infra/b:8080",
            "/* -> infra/a:8080",
        ]
    );
}

#[test]
fn expressions_match_a_service_a_method_or_both_as_a_whole() {
    let h = one("  rules:
  - {matches: [{method: {type: RegularExpression, service: 'echo\\..*', method: 'Get|List'}}], backendRefs: [{name: a, port: 8080}]}
  - {matches: [{method: {type: RegularExpression, service: 'a|b'}}], backendRefs: [{name: b, port: 8080}]}
  - {matches: [{method: {type: RegularExpression, method: 'Get.*'}}], backendRefs: [{name: c, port: 8080}]}");
    assert_eq!(
        h.routes(PLACE),
        [
            "~/(?:echo\\..*)/(?:Get|List) -> infra/a:8080",
            "~/(?:a|b)/(?:[^/]+) -> infra/b:8080",
            "rpc~Get.* /* -> infra/c:8080"
        ]
    );
    assert_eq!(h.problems(), [] as [&str; 0]);
}

#[test]
fn endpoints_are_spoken_to_in_http2_whatever_their_service_says() {
    let h = one("  rules: [{backendRefs: [{name: a, port: 8080}]}]");
    let backends: Vec<_> = h.config().backends.values().collect();
    assert_eq!(backends.len(), 1);
    assert_eq!(backends[0].protocol, BackendProtocol::Http2);
}

#[test]
fn a_match_that_cannot_be_read_takes_nothing_and_is_told_with_its_field() {
    let h = one("  rules:
  - {matches: [{method: {}}], backendRefs: [{name: a, port: 8080}]}
  - {matches: [{method: {service: a/b}}], backendRefs: [{name: a, port: 8080}]}
  - {matches: [{method: {type: RegularExpression, method: '('}}], backendRefs: [{name: a, port: 8080}]}
  - {matches: [{headers: [{name: 'a b', value: x}]}], backendRefs: [{name: a, port: 8080}]}
  - {matches: [{method: {service: a.S}}], backendRefs: [{name: missing, port: 8080}]}");
    assert_eq!(h.routes(PLACE), ["/a.S/* -> 500 invalid_backend"]);
    assert_eq!(
        h.problems(),
        [
            "P102 GRPCRoute infra/r spec.rules[1].matches[0].method.service",
            "P103 GRPCRoute infra/r spec.rules[2].matches[0].method.method",
            "P104 GRPCRoute infra/r spec.rules[3].matches[0].headers[0].name",
            "P110 GRPCRoute infra/r spec.rules[0].matches[0].method",
            "P201 GRPCRoute infra/r spec.rules[4].backendRefs[0]",
        ]
    );
    assert_eq!(h.status("GRPCRoute infra/r"), ["infra/gw: ok BackendNotFound"]);
}

#[test]
fn a_listener_that_wants_another_kind_takes_no_grpc_route() {
    let listeners = "[{name: web, port: 80, protocol: HTTP, allowedRoutes: {kinds: [{kind: HTTPRoute}]}}]";
    let route = grpc_route("infra", "r", "  rules: [{backendRefs: [{name: a, port: 8080}]}]");
    let h = Harness::new(&(gateway("infra", "gw", listeners) + &services("infra", &["a"]) + &route));
    assert_eq!(h.status("GRPCRoute infra/r"), ["infra/gw: NotAllowedByListeners ok"]);
    assert_eq!(h.places(), [] as [&str; 0]);
}

#[test]
fn a_grant_for_httproutes_is_none_for_grpcroutes() {
    let grant = |kind: &str| {
        format!(
            "\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {{name: g, namespace: back}}\nspec:\n  \
             from: [{{group: gateway.networking.k8s.io, kind: {kind}, namespace: infra}}]\n  to: [{{group: \"\", kind: Service}}]\n"
        )
    };
    let route = grpc_route("infra", "r", "  rules: [{backendRefs: [{name: a, namespace: back, port: 8080}]}]");
    let base = gateway("infra", "gw", HTTP) + &services("back", &["a"]) + &route;
    let mut h = Harness::new(&(base + &grant("HTTPRoute")));
    assert_eq!(h.status("GRPCRoute infra/r"), ["infra/gw: ok RefNotPermitted"]);
    h.apply(&grant("GRPCRoute"));
    assert_eq!(h.status("GRPCRoute infra/r"), ["infra/gw: ok ok"]);
}

#[test]
fn policies_are_attached_to_routes_and_to_their_named_rules() {
    let policy = |section: &str| {
        format!(
            "\n---\napiVersion: sluice.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: p, namespace: infra}}\nspec:\n  \
             targetRefs: [{{group: gateway.networking.k8s.io, kind: GRPCRoute, name: r{section}}}]\n  client: {{maxBody: 1Ki}}\n"
        )
    };
    let mut h = one("  rules: [{name: calls, backendRefs: [{name: a, port: 8080}]}]");
    assert_eq!(h.rule(PLACE).client.max_body, None);
    h.apply(&policy(", sectionName: calls"));
    assert_eq!(h.rule(PLACE).client.max_body, Some(1024));
    assert_eq!(h.rule(PLACE).id.rule.as_ref(), "calls");
    h.apply(&policy(", sectionName: others"));
    assert_eq!(h.rule(PLACE).client.max_body, None);
    assert_eq!(h.output.problems.len(), 1, "{:?}", h.problems());
}

#[test]
fn gep_1619_sessions_are_those_of_an_http_route() {
    let h = one(
        "  rules: [{backendRefs: [{name: a, port: 8080}], sessionPersistence: {type: Header, sessionName: X-Session}}]",
    );
    let Action::Forward(backends) = &h.rule(PLACE).action else { panic!("it forwards") };
    let session = backends[0].session.as_ref().expect("sessions are kept");
    assert_eq!(session.carrier, SessionCarrier::Header(http::HeaderName::from_static("x-session")));
    assert_eq!(h.problems(), [] as [&str; 0]);
}

const TO_A: &str = "  rules: [{backendRefs: [{name: a, port: 8080}]}]";

fn aged(route: &str, year: u32) -> String {
    route.replace("metadata: {", &format!("metadata: {{creationTimestamp: '{year}-01-01T00:00:00Z', "))
}

fn http(name: &str, hosts: &str, year: u32) -> String {
    let spec = format!("  parentRefs: [{{name: gw}}]\n  hostnames: [{hosts}]\n{TO_A}");
    aged(&route("infra", name, &spec), year)
}

fn grpc(name: &str, hosts: &str, year: u32) -> String {
    aged(&grpc_route("infra", name, &format!("  hostnames: [{hosts}]\n{TO_A}")), year)
}

/// Gateway API, GRPCRoute `spec.hostnames`: exactly one of the two is accepted.
#[test]
fn of_an_http_route_and_a_grpc_route_that_share_a_host_the_older_is_accepted() {
    let base = gateway("infra", "gw", HTTP) + &services("infra", &["a"]);
    for (http_hosts, grpc_hosts, share) in [
        ("x.com", "x.com", true),
        ("x.com, y.com", "y.com", true),
        ("x.com", "'*.com'", true),
        ("'*.x.com'", "'*.com'", true),
        ("", "x.com", true),
        ("x.com", "y.com", false),
        ("'*.x.com'", "x.com", false),
    ] {
        for (of_http, of_grpc) in [(2020, 2021), (2021, 2020)] {
            let h = Harness::new(&(base.clone() + &http("h", http_hosts, of_http) + &grpc("g", grpc_hosts, of_grpc)));
            let told = |older: bool| if share && !older { "infra/gw: Conflicted ok" } else { "infra/gw: ok ok" };
            let case = format!("{http_hosts} and {grpc_hosts}");
            assert_eq!(h.status("HTTPRoute infra/h"), [told(of_http < of_grpc)], "{case}");
            assert_eq!(h.status("GRPCRoute infra/g"), [told(of_grpc < of_http)], "{case}");
            let loser = if of_http < of_grpc { "GRPCRoute infra/g" } else { "HTTPRoute infra/h" };
            let expected = share.then(|| format!("P506 {loser} spec.parentRefs[0]"));
            assert_eq!(h.problems(), Vec::from_iter(expected), "{case}");
            let listener = &h.translator.status().gateways.into_values().next().unwrap().listeners[0];
            assert_eq!(listener.attached_routes, if share { 1 } else { 2 }, "{case}");
        }
    }
}

#[test]
fn a_route_that_lost_serves_as_soon_as_the_other_one_goes_or_changes() {
    let base = gateway("infra", "gw", HTTP) + &services("infra", &["a"]);
    let mut h = Harness::new(
        &(base + &grpc("old", "x.com", 2020) + &http("mid", "x.com, y.com", 2021) + &grpc("young", "y.com", 2022)),
    );
    // Who lost is in nobody's way.
    assert_eq!(h.status("HTTPRoute infra/mid"), ["infra/gw: Conflicted ok"]);
    assert_eq!(h.status("GRPCRoute infra/young"), ["infra/gw: ok ok"]);
    assert_eq!(h.places(), ["infra/gw/web x.com", "infra/gw/web y.com"]);
    h.apply(&grpc("old", "z.com", 2020));
    assert_eq!(h.status("HTTPRoute infra/mid"), ["infra/gw: ok ok"]);
    assert_eq!(h.status("GRPCRoute infra/young"), ["infra/gw: Conflicted ok"]);
    h.delete(sluice_model::Kind::HTTPRoute, "infra", "mid");
    assert_eq!(h.status("GRPCRoute infra/young"), ["infra/gw: ok ok"]);
    assert_eq!(h.problems(), [] as [&str; 0]);
}

#[test]
fn routes_of_the_two_kinds_are_in_each_others_way_at_the_listener_that_they_share_alone() {
    let listeners = "[{name: a, port: 80, protocol: HTTP}, {name: b, port: 81, protocol: HTTP}]";
    let section = grpc("g", "x.com", 2020).replace("{name: gw,", "{name: gw, sectionName: b,");
    let h = Harness::new(
        &(gateway("infra", "gw", listeners) + &services("infra", &["a"]) + &http("h", "x.com", 2021) + &section),
    );
    assert_eq!(h.status("HTTPRoute infra/h"), ["infra/gw: ok ok"]);
    assert_eq!(h.problems(), ["P506 HTTPRoute infra/h spec.parentRefs[0]"]);
    let counts: Vec<_> = h
        .translator
        .status()
        .gateways
        .into_values()
        .next()
        .unwrap()
        .listeners
        .iter()
        .map(|l| l.attached_routes)
        .collect();
    assert_eq!(counts, [1, 1]);
    assert_eq!(h.routes("infra/gw/a x.com").len() + h.routes("infra/gw/b x.com").len(), 2);
}
