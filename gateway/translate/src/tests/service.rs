use super::support::{Harness, gateway, route, secret, services};
use crate::Options;
use sluice_model::config::{
    Backend, BackendCa, BackendProtocol, EndpointSource, HashKey, LoadBalancer, Locality, SubjectAltName,
};
use sluice_model::{Kind, config::EndpointSet};

const HTTP: &str = "[{name: web, port: 80, protocol: HTTP}]";
const PLACE: &str = "infra/gw/web *";

/// A route to Service `s`, port 8080.
fn with(service: &str) -> Harness {
    Harness::new(&yaml(service))
}

fn yaml(service: &str) -> String {
    let spec = "  parentRefs: [{name: gw}]\n  rules: [{backendRefs: [{name: s, port: 8080}]}]";
    gateway("infra", "gw", HTTP) + &route("infra", "r", spec) + "---\n" + service
}

fn backend(h: &Harness) -> &Backend {
    assert_eq!(h.config().backends.len(), 1, "{:?}", h.problems());
    h.config().backends.values().next().unwrap()
}

fn endpoints(h: &Harness) -> &EndpointSet {
    h.config().endpoints.values().next().expect("an endpoint set")
}

fn service(spec: &str) -> String {
    format!("{{apiVersion: v1, kind: Service, metadata: {{name: s, namespace: infra, uid: u1}}, spec: {spec}}}\n")
}

fn slice(name: &str, ports: &str, endpoints: &str) -> String {
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, namespace: infra, labels: {{kubernetes.io/service-name: s}}}}\naddressType: IPv4\nports: {ports}\nendpoints: {endpoints}\n"
    )
}

#[test]
fn gw_service_types_without_selector_and_headless_are_routed_by_their_slices() {
    for spec in [
        "{ports: [{port: 8080, targetPort: 3000}], selector: {app: x}}",
        "{ports: [{port: 8080, targetPort: 3000}]}",
        "{clusterIP: None, ports: [{port: 8080, targetPort: 3000}]}",
        "{type: NodePort, ports: [{port: 8080, nodePort: 30000}]}",
        "{type: LoadBalancer, ports: [{port: 8080}]}",
    ] {
        let h = with(&(service(spec) + &slice("s-1", "[{port: 3000}]", "[{addresses: [10.1.2.3]}]")));
        assert_eq!(endpoints(&h).endpoints[0].id.to_string(), "10.1.2.3:3000", "{spec}");
        assert_eq!(h.problems(), [] as [&str; 0], "{spec}");
        assert_eq!(backend(&h).key.uid.as_ref(), "u1");
    }
}

#[test]
fn endpoint_conditions_are_kept_and_unknown_ones_count_as_ready() {
    let all = "[{addresses: [10.0.0.1], conditions: {}}, {addresses: [10.0.0.2], conditions: {ready: false, serving: true, terminating: true}},
      {addresses: [10.0.0.3], conditions: {ready: false}, zone: z1, nodeName: n1, hints: {forZones: [{name: z2}], forNodes: [{name: n2}, {name: n3}]}, targetRef: {kind: Pod, name: p, uid: pod-uid}},
      {addresses: [bad]}]";
    let h = with(&(service("{ports: [{port: 8080}]}") + &slice("s-1", "[{port: 3000}]", all)));
    let found: Vec<_> =
        endpoints(&h).endpoints.iter().map(|e| (e.id.to_string(), e.ready, e.serving, e.terminating)).collect();
    let expected = [
        ("10.0.0.1:3000", true, true, false),
        ("10.0.0.2:3000", false, true, true),
        ("10.0.0.3:3000", false, false, false),
    ];
    assert_eq!(found, expected.map(|(id, r, s, t)| (id.to_owned(), r, s, t)));
    let pod = endpoints(&h).endpoints.iter().find(|e| e.zone.is_some()).unwrap();
    assert_eq!((pod.id.target.as_ref(), pod.node.as_deref(), pod.for_zones.len()), ("pod-uid", Some("n1"), 1));
    assert_eq!(pod.for_nodes, ["n2".into(), "n3".into()]);
    assert_eq!(h.problems(), ["P107 EndpointSlice infra/s-1 endpoints[3].addresses[0]"]);
}

#[test]
fn several_slices_are_one_set_with_each_endpoint_once() {
    let h = with(
        &(service("{ports: [{port: 8080}]}")
            + &slice("s-2", "[{port: 3000}]", "[{addresses: [10.0.0.2]}, {addresses: [10.0.0.1]}]")
            + &slice("s-1", "[{port: 3000}]", "[{addresses: [10.0.0.1], conditions: {ready: false}}]")),
    );
    let found: Vec<_> = endpoints(&h).endpoints.iter().map(|e| (e.id.to_string(), e.ready)).collect();
    assert_eq!(found, [("10.0.0.1:3000".to_owned(), true), ("10.0.0.2:3000".to_owned(), true)]);
}

#[test]
fn a_pod_in_slices_of_both_families_is_one_endpoint_at_the_services_first_family() {
    let of = |name: &str, family: &str, endpoints: &str| {
        slice(name, "[{port: 3000}]", endpoints).replace("addressType: IPv4", &format!("addressType: {family}"))
    };
    let pod = |address: &str, pod: &str| {
        format!("{{addresses: ['{address}'], targetRef: {{kind: Pod, name: {pod}, uid: {pod}}}}}")
    };
    let slices = |v4: &str, v6: &str| of("s-1", "IPv4", v4) + &of("s-2", "IPv6", v6);
    let both = slices(
        &format!("[{}, {}, {{addresses: [10.0.0.9]}}]", pod("10.0.0.1", "a"), pod("10.0.0.2", "b")),
        &format!("[{}, {}, {{addresses: ['fd00::9']}}]", pod("fd00::1", "a"), pod("fd00::3", "c")),
    );
    let found = |h: &Harness| -> Vec<String> {
        let text = |e: &sluice_model::config::Endpoint| match e.alternate {
            Some(alternate) => format!("{} {alternate}", e.id),
            None => e.id.to_string(),
        };
        endpoints(h).endpoints.iter().map(text).collect()
    };
    // Nothing says whose the last two are: they stand for themselves.
    let mut h = with(&(service("{ports: [{port: 8080}]}") + &both));
    let alone = ["10.0.0.9:3000", "[fd00::9]:3000"];
    assert_eq!(found(&h), [&alone[..], &["10.0.0.1:3000 [fd00::1]:3000", "10.0.0.2:3000", "[fd00::3]:3000"]].concat());
    // Another first family turns the pairs.
    h.apply(&service("{ipFamilies: [IPv6, IPv4], ports: [{port: 8080}]}"));
    assert_eq!(found(&h), [&alone[..], &["[fd00::1]:3000 10.0.0.1:3000", "10.0.0.2:3000", "[fd00::3]:3000"]].concat());
    h.delete(Kind::EndpointSlice, "infra", "s-2");
    assert_eq!(found(&h), ["10.0.0.9:3000", "10.0.0.1:3000", "10.0.0.2:3000"]);
}

#[test]
fn the_zone_is_what_endpoints_on_the_gateways_own_node_say_unless_it_was_told() {
    let on = |node: &str, zone: &str| format!("[{{addresses: [10.0.0.1], nodeName: {node}, zone: {zone}}}]");
    let of = |name: &str, endpoints: String| slice(name, "[{port: 3000}]", &endpoints);
    let at = |node: Option<&str>, zone: Option<&str>| Options {
        locality: Locality { node: node.map(Into::into), zone: zone.map(Into::into) },
        ..Options::default()
    };
    let objects = yaml(&service("{ports: [{port: 8080}]}")) + &of("s-1", on("n1", "a")) + &of("s-2", on("n2", "b"));
    let zone = |h: &Harness| h.config().locality.zone.as_deref().map(str::to_owned);
    assert_eq!(zone(&Harness::with(at(None, None), &objects)), None);
    assert_eq!(zone(&Harness::with(at(Some("n3"), None), &objects)), None);
    assert_eq!(zone(&Harness::with(at(Some("n1"), Some("c")), &objects)).as_deref(), Some("c"));
    let mut h = Harness::with(at(Some("n2"), None), &objects);
    assert_eq!(zone(&h).as_deref(), Some("b"));

    // Of a Service that no route leads to, too; it comes and goes with what says so.
    h.delete(Kind::EndpointSlice, "infra", "s-2");
    assert_eq!(zone(&h), None);
    h.apply(&of("other-1", on("n2", "d")).replace("service-name: s", "service-name: other"));
    assert_eq!((zone(&h).as_deref(), &*h.output.summary), (Some("d"), "the gateway's own zone changed"));
    assert!(h.output.changed);
}

#[test]
fn session_affinity_hashes_the_client_unless_a_policy_says_how_to_balance() {
    let mut h = with(&service("{sessionAffinity: ClientIP, ports: [{port: 8080}]}"));
    assert_eq!(backend(&h).policy.load_balancer, LoadBalancer::ConsistentHash(HashKey::Source));
    h.apply("{apiVersion: sluice.dev/v1alpha1, kind: TrafficPolicy, metadata: {name: p, namespace: infra}, spec: {targetRefs: [{group: '', kind: Service, name: s}], backend: {loadBalancer: {type: LeastRequest}}}}");
    assert_eq!(backend(&h).policy.load_balancer, LoadBalancer::LeastRequest);
}

#[test]
fn a_backend_without_endpoints_is_told() {
    let mut h = with(&service("{ports: [{port: 8080}]}"));
    assert_eq!(h.problems(), ["P213 Service infra/s"]);
    assert_eq!(endpoints(&h).endpoints, []);
    h.apply(&slice("s-1", "[{port: 3000}]", "[{addresses: [10.0.0.1]}]"));
    assert_eq!(h.problems(), [] as [&str; 0]);
    assert_eq!(h.output.summary, "1 endpoint set changed");
    h.delete(Kind::EndpointSlice, "infra", "s-1");
    assert_eq!(h.problems(), ["P213 Service infra/s"]);
}

#[test]
fn gw_backend_protocol_follows_app_protocol() {
    for (name, protocol, tls) in [
        ("kubernetes.io/h2c", BackendProtocol::Http2, false),
        ("kubernetes.io/ws", BackendProtocol::WebSocket, false),
        ("kubernetes.io/wss", BackendProtocol::WebSocket, true),
        ("https", BackendProtocol::Http1, true),
        ("HTTPS", BackendProtocol::Http1, true),
        ("http", BackendProtocol::Http1, false),
        ("grpc", BackendProtocol::Http2, false),
    ] {
        let h = with(&service(&format!("{{ports: [{{port: 8080, appProtocol: {name}}}]}}")));
        assert_eq!((backend(&h).protocol, backend(&h).tls.is_some()), (protocol, tls), "{name}");
        assert!(!h.problems().iter().any(|p| p.starts_with("P217")), "{name}");
    }
    let h = with(&service("{ports: [{port: 8080, appProtocol: mysql}]}"));
    assert_eq!(h.routes(PLACE), ["/* -> 500 invalid_backend"]);
    assert_eq!(h.problems(), ["P217 HTTPRoute infra/r spec.rules[0].backendRefs[0]"]);
}

#[test]
fn an_external_name_goes_out_only_where_a_gateway_config_allows_it() {
    let external = |name: &str| service(&format!("{{type: ExternalName, externalName: {name}}}"));
    let config = "
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: sluice}
spec: {controllerName: sluice.dev/gateway-controller, parametersRef: {group: sluice.dev, kind: GatewayConfig, name: c, namespace: system}}
---
apiVersion: sluice.dev/v1alpha1
kind: GatewayConfig
metadata: {name: c, namespace: system}
spec: {externalNames: {allow: [example.com, localhost]}}
";
    assert_eq!(with(&external("api.example.com")).problems(), ["P212 HTTPRoute infra/r spec.rules[0].backendRefs[0]"]);
    let h = with(&(external("api.example.com") + config));
    assert_eq!(h.problems(), [] as [&str; 0]);
    assert!(
        matches!(&backend(&h).source, EndpointSource::Dns { host, port: 8080 } if host.as_str() == "api.example.com")
    );
    for refused in ["evilexample.com", "localhost", "x.localhost", "10.0.0.1", "kubernetes.default.svc"] {
        let h = with(&(external(refused) + config));
        assert_eq!(h.routes(PLACE), ["/* -> 500 invalid_backend"], "{refused}");
        assert_eq!(h.problems(), ["P212 HTTPRoute infra/r spec.rules[0].backendRefs[0]"], "{refused}");
    }
}

fn tls_policy(name: &str, created: &str, validation: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: {name}, namespace: infra, creationTimestamp: '{created}-01-01T00:00:00Z'}}\nspec:\n  targetRefs: [{{group: '', kind: Service, name: s}}]\n  validation: {validation}\n"
    )
}

fn ca() -> String {
    let made = rcgen::generate_simple_self_signed(vec!["ca.example".to_owned()]).unwrap();
    let pem: String = made.cert.pem().lines().map(|line| format!("    {line}\n")).collect();
    format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: ca, namespace: infra}}\ndata:\n  ca.crt: |\n{pem}")
}

#[test]
fn gw_backend_tls_policy_with_a_bundle_and_names() {
    let base = service("{ports: [{port: 8080}]}") + &slice("s-1", "[{port: 3000}]", "[{addresses: [10.0.0.1]}]");
    let validation = "{hostname: abc.example.com, caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}],
    subjectAltNames: [{type: Hostname, hostname: ABC.example.com}, {type: URI, uri: 'spiffe://x/y'}]}";
    let h = with(&(base.clone() + &tls_policy("p", "2020", validation) + &ca()));
    assert_eq!(h.problems(), [] as [&str; 0]);
    let tls = backend(&h).tls.clone().unwrap();
    assert_eq!(tls.hostname.as_str(), "abc.example.com");
    assert_eq!(
        tls.subject_alt_names,
        [SubjectAltName::Dns("abc.example.com".into()), SubjectAltName::Uri("spiffe://x/y".into())]
    );
    assert!(matches!(&tls.ca, BackendCa::Bundle(certificates) if certificates.len() == 1));
    let system = with(&(base + &tls_policy("p", "2020", "{hostname: a.b, wellKnownCACertificates: System}")));
    assert_eq!(backend(&system).tls.as_ref().unwrap().ca, BackendCa::System);
}

#[test]
fn gw_backend_tls_policy_that_cannot_be_used_sends_nothing_in_the_clear() {
    let base = service("{ports: [{port: 8080}]}");
    for (validation, code) in [
        (
            "{hostname: a.b, caCertificateRefs: [{group: '', kind: ConfigMap, name: none}]}",
            "P205 BackendTLSPolicy infra/p spec.validation.caCertificateRefs[0]",
        ),
        (
            "{hostname: a.b, caCertificateRefs: [{group: '', kind: Pod, name: ca}]}",
            "P204 BackendTLSPolicy infra/p spec.validation.caCertificateRefs[0].kind",
        ),
        ("{hostname: a.b}", "P110 BackendTLSPolicy infra/p spec.validation"),
        (
            "{hostname: 'a..b', wellKnownCACertificates: System}",
            "P101 BackendTLSPolicy infra/p spec.validation.hostname",
        ),
        (
            "{hostname: a.b, wellKnownCACertificates: Other}",
            "P108 BackendTLSPolicy infra/p spec.validation.wellKnownCACertificates",
        ),
    ] {
        let mut h = with(&(base.clone() + &tls_policy("p", "2020", validation)));
        assert_eq!(h.routes(PLACE), ["/* -> 500 invalid_backend"], "{validation}");
        assert!(h.problems().contains(&code.to_owned()), "{validation}: {:?}", h.problems());
        h.delete(Kind::BackendTLSPolicy, "infra", "p");
        assert_eq!(h.routes(PLACE), ["/* -> infra/s:8080"], "{validation}");
    }
}

#[test]
fn gw_backend_tls_policy_conflicts_are_won_by_the_older() {
    let yaml = service("{ports: [{port: 8080}]}")
        + &slice("s-1", "[{port: 3000}]", "[{addresses: [10.0.0.1]}]")
        + &tls_policy("a", "2021", "{hostname: young.example, wellKnownCACertificates: System}")
        + &tls_policy("z", "2020", "{hostname: old.example, wellKnownCACertificates: System}");
    let h = with(&yaml);
    assert_eq!(backend(&h).tls.as_ref().unwrap().hostname.as_str(), "old.example");
    assert_eq!(h.problems(), ["P406 BackendTLSPolicy infra/a spec.targetRefs[0]"]);
}

#[test]
fn gw_backend_client_certificate_belongs_to_the_gateways_backends() {
    let listeners = format!("{HTTP}, tls: {{backend: {{clientCertificateRef: {{name: client}}}}}}");
    let spec = "  parentRefs: [{name: gw}]\n  rules: [{backendRefs: [{name: s, port: 8080}]}]";
    let yaml = gateway("infra", "gw", &listeners)
        + &route("infra", "r", spec)
        + "---\n"
        + &service("{ports: [{port: 8080}]}")
        + &slice("s-1", "[{port: 3000}]", "[{addresses: [10.0.0.1]}]")
        + &tls_policy("p", "2020", "{hostname: a.b, wellKnownCACertificates: System}")
        + &secret("infra", "client", &["client.example"]);
    let mut h = Harness::new(&yaml);
    assert_eq!(h.problems(), [] as [&str; 0]);
    let key = backend(&h).tls.as_ref().unwrap().client_certificate.clone().unwrap();
    assert!(h.config().certificates.contains_key(&key));
    h.delete(Kind::Secret, "infra", "client");
    assert_eq!(h.problems(), ["P205 Gateway infra/gw spec.tls.backend.clientCertificateRef"]);
    assert_eq!(backend(&h).tls.as_ref().unwrap().client_certificate, None);
    let status = h.translator.status();
    assert_eq!(status.gateways.values().next().unwrap().unresolved.as_ref().unwrap().0, "InvalidClientCertificateRef");
}

#[test]
fn a_backend_that_is_as_it_was_is_the_same_pointer_when_its_endpoints_change() {
    let base = gateway("infra", "gw", HTTP) + &services("infra", &["s"]);
    let spec = "  parentRefs: [{name: gw}]\n  rules: [{backendRefs: [{name: s, port: 8080}]}]";
    let mut h = Harness::new(&(base + &route("infra", "r", spec)));
    let before = h.config().clone();
    h.apply(&services("infra", &["other", "s"]));
    let after = h.config();
    assert_eq!(h.output.summary, "1 endpoint set changed");
    for (key, backend) in &before.backends {
        assert!(std::sync::Arc::ptr_eq(backend, &after.backends[key]));
    }
    let host =
        |config: &sluice_model::Config| config.virtual_hosts.values().next().unwrap().values().next().unwrap().clone();
    assert!(std::sync::Arc::ptr_eq(&host(&before), &host(after)));
    assert!(!std::sync::Arc::ptr_eq(
        before.endpoints.values().next().unwrap(),
        after.endpoints.values().next().unwrap()
    ));
}
