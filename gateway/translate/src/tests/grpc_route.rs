use super::support::{Harness, gateway, services};
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
