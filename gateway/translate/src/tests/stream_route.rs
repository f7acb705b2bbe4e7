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

/// A Service with the UDP port 53.
fn udp_service(namespace: &str, name: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  \
         ports: [{{name: dns, port: 53, protocol: UDP}}, {{name: dns-tcp, port: 53}}]\n"
    )
}

const DNS: &str = "[{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]";

#[test]
fn gw_a_udp_and_a_tcp_listener_of_one_number_are_two_sockets_and_lead_to_ports_of_their_protocol() {
    let to = "  rules: [{backendRefs: [{name: names, port: 53}]}]";
    let routes = stream_route("UDPRoute", "r", "dns", to) + &stream_route("TCPRoute", "r", "dns-tcp", to);
    let h = with(DNS, &(udp_service("infra", "names") + &routes));
    assert_eq!(h.problems(), ["P213 Service infra/names"]);
    let (udp, tcp) = (&h.config().udp_ports, &h.config().ports);
    let protocols = [udp, tcp].map(|ports| ports.values().next().unwrap().protocol);
    assert_eq!(protocols, [Protocol::Udp, Protocol::Tcp]);
    assert!(udp.keys().eq(tcp.keys()));
    let keys: Vec<_> = h.config().endpoints.keys().map(|key| key.port.to_string()).collect();
    assert_eq!(keys, ["dns", "dns-tcp"]);
    assert_eq!(h.status("UDPRoute infra/r"), ["infra/gw: ok ok"]);
    let status = h.translator.status();
    let listeners = &status.gateways.values().next().unwrap().listeners;
    assert_eq!((listeners[0].attached_routes, &listeners[0].supported_kinds), (1, &vec!["UDPRoute"]));
    assert!(listeners.iter().all(|listener| listener.serves && listener.conflicted.is_none()));
}

#[test]
fn gw_a_udp_route_says_what_it_cannot_refer_to() {
    let to = |rule: &str| stream_route("UDPRoute", "r", "dns", &format!("  rules: [{{backendRefs: [{rule}]}}]"));
    let mut h = with(DNS, &(udp_service("other", "names") + &to("{name: none, port: 53}")));
    assert_eq!(h.status("UDPRoute infra/r"), ["infra/gw: ok BackendNotFound"]);
    // A Service of that port, of TCP.
    h.apply(&to("{name: a, port: 8080}"));
    assert_eq!(h.status("UDPRoute infra/r"), ["infra/gw: ok BackendNotFound"]);
    h.apply(&to("{name: names, namespace: other, port: 53}"));
    assert_eq!(h.status("UDPRoute infra/r"), ["infra/gw: ok RefNotPermitted"]);
    h.apply(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: other}\nspec:\n  \
         from: [{group: gateway.networking.k8s.io, kind: UDPRoute, namespace: infra}]\n  to: [{group: '', kind: Service}]\n",
    );
    assert_eq!(h.status("UDPRoute infra/r"), ["infra/gw: ok ok"]);
    h.apply(&to("{name: x, kind: Secret, port: 53}"));
    assert_eq!(h.status("UDPRoute infra/r"), ["infra/gw: ok InvalidKind"]);
    h.apply(&stream_route("UDPRoute", "r", "dns-tcp", TO_A));
    assert_eq!(h.status("UDPRoute infra/r"), ["infra/gw: NotAllowedByListeners BackendNotFound"]);
}
