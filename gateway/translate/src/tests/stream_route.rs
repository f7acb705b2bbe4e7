use super::support::{Harness, gateway, services};
use sluice_model::config::{BackendProtocol, Carries, Protocol};

fn stream_route(kind: &str, name: &str, listener: &str, spec: &str) -> String {
    format!(
        r"
---
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: {name}, namespace: infra}}
spec:
  parentRefs: [{{name: gw, sectionName: {listener}}}]
{spec}
"
    )
}

const TO_A: &str = "  rules: [{backendRefs: [{name: a, port: 8080}]}]";

fn with(listeners: &str, routes: &str) -> Harness {
    Harness::new(&(gateway("infra", "gw", listeners) + &services("infra", &["a", "b"]) + routes))
}

#[test]
fn gw_tcp_route_of_a_tcp_listener() {
    let h = with("[{name: db, port: 5432, protocol: TCP}]", &stream_route("TCPRoute", "r", "db", TO_A));
    assert_eq!(h.problems(), [] as [&str; 0]);
    assert_eq!(h.routes("infra/gw/db *"), ["/* -> infra/a:8080"]);
    assert_eq!(h.status("TCPRoute infra/r"), ["infra/gw: ok ok"]);
    let port = h.config().ports.values().next().unwrap();
    assert_eq!((port.protocol, port.listeners[0].carries), (Protocol::Tcp, Carries::Bytes));
    assert_eq!(h.config().backends.values().next().unwrap().protocol, BackendProtocol::Bytes);
}

#[test]
fn gw_of_two_tcp_routes_the_older_takes_all_connections() {
    let young = stream_route("TCPRoute", "a-young", "db", TO_A)
        .replace("metadata: {", "metadata: {creationTimestamp: '2024-01-01T00:00:00Z', ");
    let old = stream_route("TCPRoute", "z-old", "db", "  rules: [{backendRefs: [{name: b, port: 8080}]}]")
        .replace("metadata: {", "metadata: {creationTimestamp: '2020-01-01T00:00:00Z', ");
    let h = with("[{name: db, port: 5432, protocol: TCP}]", &(young + &old));
    assert_eq!(h.routes("infra/gw/db *")[0], "/* -> infra/b:8080");
    assert_eq!(h.problems(), ["P501 TCPRoute infra/a-young spec.rules[0].matches[0]"]);
}

#[test]
fn gw_tls_route_needs_a_hostname_in_common_with_its_listener() {
    let listeners = "[{name: tls, port: 443, protocol: TLS, hostname: '*.example', tls: {mode: Passthrough}}]";
    let hosts = |host: &str| format!("  hostnames: [{host}]\n{TO_A}");
    let mut h = with(listeners, &stream_route("TLSRoute", "r", "tls", &hosts("abc.example")));
    assert_eq!(h.problems(), [] as [&str; 0]);
    assert_eq!(h.places(), ["infra/gw/tls abc.example"]);
    assert!(h.config().ports.values().next().unwrap().listeners[0].tls.is_none());
    h.apply(&stream_route("TLSRoute", "r", "tls", &hosts("abc.other")));
    assert_eq!(h.status("TLSRoute infra/r"), ["infra/gw: NoMatchingListenerHostname ok"]);
}

#[test]
fn each_protocol_takes_its_own_kinds_of_routes() {
    let listeners = "[{name: db, port: 1, protocol: TCP}, {name: web, port: 2, protocol: HTTP},
        {name: odd, port: 3, protocol: TCP, allowedRoutes: {kinds: [{kind: HTTPRoute}]}}]";
    let h = with(listeners, &stream_route("TCPRoute", "r", "web", TO_A));
    assert_eq!(h.status("TCPRoute infra/r"), ["infra/gw: NotAllowedByListeners ok"]);
    let status = h.translator.status();
    let listeners = &status.gateways.values().next().unwrap().listeners;
    assert_eq!(listeners[0].supported_kinds, ["TCPRoute"]);
    assert_eq!(listeners[1].supported_kinds, ["HTTPRoute", "GRPCRoute"]);
    assert_eq!(listeners[2].unresolved.as_ref().map(|(reason, _)| *reason), Some("InvalidRouteKinds"));
}

#[test]
fn listeners_of_one_port_conflict_by_protocol_and_those_of_tls_by_hostname_alone() {
    let listeners = "[{name: tcp, port: 1, protocol: TCP}, {name: web, port: 1, protocol: HTTP},
        {name: one, port: 2, protocol: TCP}, {name: two, port: 2, protocol: TCP},
        {name: a, port: 3, protocol: TLS, hostname: a.example, tls: {mode: Passthrough}},
        {name: b, port: 3, protocol: TLS, hostname: b.example, tls: {mode: Passthrough}},
        {name: c, port: 4, protocol: TLS, hostname: a.example, tls: {mode: Passthrough}},
        {name: d, port: 4, protocol: TLS, hostname: a.example, tls: {mode: Passthrough}}]";
    let h = with(listeners, "");
    let status = h.translator.status();
    let conflicts: Vec<_> = status.gateways.values().next().unwrap().listeners.iter().map(|l| l.conflicted).collect();
    let (protocol, host) = (Some("ProtocolConflict"), Some("HostnameConflict"));
    assert_eq!(conflicts, [protocol, protocol, host, host, None, None, host, host]);
}

#[test]
fn a_second_rule_is_told_that_it_is_never_reached() {
    let rules = "  rules: [{backendRefs: [{name: a, port: 8080}]}, {backendRefs: [{name: b, port: 8080}]}]";
    let h = with("[{name: db, port: 5432, protocol: TCP}]", &stream_route("TCPRoute", "r", "db", rules));
    assert_eq!(h.routes("infra/gw/db *"), ["/* -> infra/a:8080"]);
    assert_eq!(h.problems(), ["P501 TCPRoute infra/r spec.rules[1]"]);
}

#[test]
fn a_tls_listener_without_its_certificate_refuses_and_says_so() {
    let listeners =
        "[{name: tls, port: 443, protocol: TLS, hostname: a.example, tls: {certificateRefs: [{name: none}]}}]";
    let h = with(listeners, &stream_route("TLSRoute", "r", "tls", &format!("  hostnames: [a.example]\n{TO_A}")));
    let status = h.translator.status();
    let listener = &status.gateways.values().next().unwrap().listeners[0];
    assert!(!listener.serves);
    assert_eq!(listener.unresolved.as_ref().map(|(reason, _)| *reason), Some("InvalidCertificateRef"));
}
