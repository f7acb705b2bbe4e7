use super::support::{Harness, gateway, objects, pattern, route, secret, services};
use crate::Options;
use sluice_model::config::{Protocol, TlsVersion};
use std::time::Duration;

const HTTP: &str = "[{name: web, port: 80, protocol: HTTP}]";
const TO_WEB: &str = "  parentRefs: [{name: gw}]
  rules: [{backendRefs: [{name: web, port: 8080}]}]";

#[test]
fn a_listener_is_bound_on_all_addresses_of_both_families() {
    let h = Harness::new(&gateway("infra", "gw", HTTP));
    let ports: Vec<_> = h.config().ports.iter().collect();
    assert_eq!(ports.len(), 1);
    assert_eq!(ports[0].0.to_string(), "[::]:80");
    assert_eq!(ports[0].1.protocol, Protocol::Http);
    assert_eq!(ports[0].1.listeners[0].id.to_string(), "infra/gw/web");
    assert_eq!(h.problems(), [] as [&str; 0]);
}

#[test]
fn addresses_of_the_gateway_are_bound_instead() {
    let yaml = gateway("infra", "gw", HTTP)
        .replace("spec: {", "spec: {addresses: [{value: 127.0.0.1}, {type: IPAddress, value: '::1'}], ");
    let h = Harness::new(&yaml);
    let addresses: Vec<_> = h.config().ports.keys().map(ToString::to_string).collect();
    assert_eq!(addresses, ["127.0.0.1:80", "[::1]:80"]);
}

#[test]
fn gw_listener_unsupported_protocol_leaves_the_others_serving() {
    let listeners = "[{name: odd, port: 1111, protocol: INVALID}, {name: web, port: 80, protocol: HTTP}]";
    let h = Harness::new(&gateway("infra", "gw", listeners));
    assert_eq!(h.problems(), ["P302 Gateway infra/gw spec.listeners[0].protocol"]);
    assert_eq!(h.config().ports.len(), 1);
    let status = h.translator.status();
    let gateway = status.gateways.values().next().unwrap();
    assert_eq!(gateway.rejected, None);
    assert_eq!(gateway.listeners[0].rejected.as_ref().unwrap().0, "UnsupportedProtocol");
    assert!(gateway.listeners[1].accepted());
}

#[test]
fn gw_invalid_route_kind_is_told_and_the_valid_kind_stays() {
    let listeners =
        "[{name: web, port: 80, protocol: HTTP, allowedRoutes: {kinds: [{kind: InvalidRoute}, {kind: HTTPRoute}]}}]";
    let h = Harness::new(
        &(gateway("infra", "gw", listeners) + &route("infra", "r", TO_WEB) + &services("infra", &["web"])),
    );
    assert_eq!(h.problems(), ["P204 Gateway infra/gw spec.listeners[0].allowedRoutes.kinds[0]"]);
    let status = h.translator.status();
    let listener = &status.gateways.values().next().unwrap().listeners[0];
    assert_eq!(listener.unresolved.as_ref().unwrap().0, "InvalidRouteKinds");
    assert_eq!((listener.supported_kinds.as_slice(), listener.attached_routes), (["HTTPRoute"].as_slice(), 1));
}

#[test]
fn gw_listeners_that_are_not_distinct_serve_neither() {
    let listeners =
        "[{name: a, port: 80, protocol: HTTP, hostname: x.com}, {name: b, port: 80, protocol: HTTP, hostname: X.com},
      {name: c, port: 81, protocol: HTTP}, {name: d, port: 81, protocol: HTTPS}, {name: e, port: 82, protocol: HTTP}]";
    let h = Harness::new(&gateway("infra", "gw", listeners));
    let conflicts: Vec<_> = h.problems().into_iter().filter(|p| p.starts_with("P301")).collect();
    assert_eq!(conflicts.len(), 4, "{conflicts:?}");
    assert_eq!(h.config().ports.keys().map(|a| a.port()).collect::<Vec<_>>(), [82]);
    let status = h.translator.status();
    let reasons: Vec<_> = status.gateways.values().next().unwrap().listeners.iter().map(|l| l.conflicted).collect();
    let expected =
        [Some("HostnameConflict"), Some("HostnameConflict"), Some("ProtocolConflict"), Some("ProtocolConflict"), None];
    assert_eq!(reasons, expected);
}

#[test]
fn gateways_share_a_port_where_hostnames_differ_and_the_older_wins_where_they_do_not() {
    let aged = |name: &str, year: u32, listeners: &str| {
        gateway("infra", name, listeners)
            .replace("metadata: {", &format!("metadata: {{creationTimestamp: '{year}-01-01T00:00:00Z', "))
    };
    let yaml = aged("young", 2022, "[{name: any, port: 80, protocol: HTTP}]")
        + &aged("old", 2020, "[{name: any, port: 80, protocol: HTTP}]")
        + &aged("other", 2023, "[{name: x, port: 80, protocol: HTTP, hostname: x.com}]")
        + &aged(
            "tls",
            2024,
            "[{name: y, port: 80, protocol: HTTPS, hostname: y.com, tls: {certificateRefs: [{name: c}]}}]",
        )
        + &secret("infra", "c", &["y.com"]);
    let h = Harness::new(&yaml);
    let port = h.config().ports.values().next().unwrap();
    let listeners: Vec<_> = port.listeners.iter().map(|l| format!("{} {}", l.id, l.hostname)).collect();
    assert_eq!(listeners, ["infra/other/x x.com", "infra/old/any *"]);
    assert_eq!(
        h.problems(),
        ["P301 Gateway infra/tls spec.listeners[0]", "P301 Gateway infra/young spec.listeners[0]"]
    );
}

#[test]
fn a_port_is_bound_on_all_addresses_or_on_single_ones_but_not_both() {
    let listeners = "[{name: web, port: 80, protocol: HTTP}]";
    let local = gateway("a", "local", listeners).replace("spec: {", "spec: {addresses: [{value: 127.0.0.1}], ");
    let h = Harness::new(&(gateway("a", "edge", listeners) + &local));
    let addresses: Vec<_> = h.config().ports.keys().map(ToString::to_string).collect();
    assert_eq!(addresses, ["[::]:80"], "the first by name");
    assert_eq!(h.problems(), ["P301 Gateway a/local spec.listeners[0]"]);
    let status = h.translator.status();
    let (_, local) = status.gateways.iter().find(|(gateway, _)| &*gateway.name == "local").unwrap();
    assert_eq!(local.listeners[0].rejected.as_ref().map(|(reason, _)| *reason), Some("PortUnavailable"));
    assert_eq!(local.listeners[0].conflicted, None);
}

#[test]
fn ingress_rules_go_to_the_listener_of_the_gateway_that_serves() {
    let of = |name, year| {
        gateway("shop", name, "[{name: web, port: 8080, protocol: HTTP}]")
            .replace("namespace: shop", &format!("namespace: shop, creationTimestamp: '{year}-01-01T00:00:00Z'"))
    };
    let ingress = "---\n{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i, namespace: shop}, spec: {defaultBackend: {service: {name: a, port: {number: 8080}}}}}\n";
    let h = Harness::new(&(super::support::services("shop", &["a"]) + &of("a", 2026) + &of("b", 2025) + ingress));
    assert_eq!(h.routes("shop/b/web *"), ["/* -> shop/a:8080"]);
}

#[test]
fn a_gateway_of_another_controller_is_none_of_our_business() {
    let yaml = "
{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: other}, spec: {controllerName: example.com/other}}"
        .to_owned()
        + &gateway("infra", "gw", HTTP).replace("sluice", "other")
        + &route("infra", "r", TO_WEB)
        + &services("infra", &["web"]);
    let h = Harness::new(&yaml);
    assert!(h.config().ports.is_empty() && h.config().virtual_hosts.is_empty());
    assert_eq!(h.problems(), [] as [&str; 0]);
}

#[test]
fn a_gateway_of_a_class_that_does_not_exist_is_told() {
    let h = Harness::new(&gateway("infra", "gw", HTTP).replace("sluice", "missing"));
    assert_eq!(h.problems(), ["P211 Gateway infra/gw spec.gatewayClassName"]);
}

const CONFIGS: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: sluice}
spec:
  controllerName: sluice.dev/gateway-controller
  parametersRef: {group: sluice.dev, kind: GatewayConfig, name: class, namespace: system}
---
apiVersion: sluice.dev/v1alpha1
kind: GatewayConfig
metadata: {name: class, namespace: system}
spec:
  accessLog: {sample: 0.5}
  listeners:
    - {name: "*", limits: {connections: 7, headerCount: 50}, timeouts: {drain: 7s}}
    - {name: web, timeouts: {drain: 8s}}
---
apiVersion: sluice.dev/v1alpha1
kind: GatewayConfig
metadata: {name: own, namespace: infra}
spec:
  listeners:
    - {name: "*", limits: {connections: 9}, trustedProxies: [10.0.0.0/8]}
"#;

#[test]
fn a_gateways_own_settings_win_over_its_classes_field_by_field() {
    let own = gateway("infra", "gw", HTTP).replace(
        "spec: {",
        "spec: {infrastructure: {parametersRef: {group: sluice.dev, kind: GatewayConfig, name: own}}, ",
    );
    let h = Harness::new(&(CONFIGS.to_owned() + &own));
    assert_eq!(h.problems(), [] as [&str; 0]);
    let edge = &h.config().ports.values().next().unwrap().listeners[0].edge;
    assert_eq!((edge.limits.connections, edge.limits.header_count), (9, 50));
    assert_eq!(edge.timeouts.drain, Duration::from_secs(8), "the entry of the listener's name wins over `*`");
    assert_eq!(edge.timeouts.connect, Duration::from_secs(5), "what nobody sets is the default");
    assert_eq!(edge.forwarding.trusted_proxies.len(), 1);
    assert_eq!(h.config().access_log.sample, 0.5);
}

/// A Gateway with two listeners for hosts of one port, with settings of their own.
fn two_listeners(protocol: &str, a: &str, b: &str) -> Harness {
    let config = format!(
        "
apiVersion: sluice.dev/v1alpha1
kind: GatewayConfig
metadata: {{name: own, namespace: infra}}
spec:
  listeners:
    - {{name: a, {a}}}
    - {{name: b, {b}}}
"
    );
    let listeners = format!(
        "[{{name: a, port: 80, protocol: {protocol}, hostname: a.com}}, {{name: b, port: 80, protocol: {protocol}}}]"
    );
    let own = gateway("infra", "gw", &listeners).replace(
        "spec: {",
        "spec: {infrastructure: {parametersRef: {group: sluice.dev, kind: GatewayConfig, name: own}}, ",
    );
    Harness::new(&(config + &own))
}

#[test]
fn listeners_that_share_a_port_share_the_strictest_of_what_holds_for_all_of_it() {
    let a = "limits: {connections: 5}, timeouts: {keepAlive: 1s, requestHeaders: 9s, handshake: 20s}";
    let h = two_listeners("HTTP", a, "limits: {connections: 9, headerCount: 7}, timeouts: {handshake: 4s}");
    let port = h.config().ports.values().next().unwrap();
    assert_eq!(port.edge.limits.connections, 5);
    assert_eq!(port.edge.timeouts.handshake, Duration::from_secs(4));
    assert_eq!(port.edge.timeouts.request_headers, Duration::from_secs(9));
    // What each listener's own requests are judged by stays as it is.
    assert_eq!(port.listeners[0].edge.timeouts.keep_alive, Duration::from_secs(1));
    assert_eq!(port.listeners[1].edge.limits.header_count, 7);
    let said: Vec<_> = h.output.problems.iter().map(|p| p.message.as_str()).collect();
    assert_eq!(
        h.problems(),
        [
            "P310 Gateway infra/gw spec.listeners[0]",
            "P310 Gateway infra/gw spec.listeners[1]",
            "P310 Gateway infra/gw spec.listeners[1]"
        ]
    );
    for name in ["limits.connections", "timeouts.handshake", "timeouts.requestHeaders"] {
        assert!(said.iter().any(|message| message.contains(name)), "{name}: {said:?}");
    }
    assert!(h.output.problems.iter().all(|p| p.severity == sluice_model::Severity::Warning));
}

#[test]
fn listeners_that_share_a_port_agree_on_the_proxy_protocol() {
    let h = two_listeners("HTTP", "proxyProtocol: true", "proxyProtocol: false");
    assert!(h.config().ports.values().next().unwrap().edge.proxy_protocol);
    assert_eq!(h.problems(), ["P310 Gateway infra/gw spec.listeners[1]"]);
    assert_eq!(h.output.problems[0].severity, sluice_model::Severity::Error);
    assert!(h.output.problems[0].message.contains("proxyProtocol"), "{}", h.output.problems[0]);
}

#[test]
fn listeners_that_share_a_port_and_differ_in_their_own_settings_are_no_problem() {
    let h =
        two_listeners("HTTP", "limits: {headerCount: 5}, timeouts: {keepAlive: 1s}", "serverHeader: {mode: Remove}");
    assert_eq!(h.problems(), [] as [&str; 0]);
}

#[test]
fn gw_invalid_parameters_ref_rejects_the_gateway() {
    let own = gateway("infra", "gw", HTTP).replace(
        "spec: {",
        "spec: {infrastructure: {parametersRef: {group: sluice.dev, kind: GatewayConfig, name: none}}, ",
    );
    let h = Harness::new(&own);
    assert_eq!(h.problems(), ["P215 Gateway infra/gw spec.infrastructure.parametersRef"]);
    assert_eq!(
        h.translator.status().gateways.values().next().unwrap().rejected.as_ref().unwrap().0,
        "InvalidParameters"
    );
    assert!(h.config().ports.is_empty());
}

#[test]
fn every_field_of_a_gateway_config_reaches_the_edge() {
    let settings = r#"
      name: web
      limits: {connections: 1, udpSessions: 2, headerBytes: 2Ki, headerCount: 3, requestTarget: 4Ki, method: 5, body: 6Mi,
               requestsPerConnection: 7, drainBytes: 9Ki}
      timeouts: {handshake: 1s, requestHeaders: 2s, bodyIdle: 3s, bodyMinRate: 4, responseMinRate: 5, responseHeaders: 5s,
                 streamIdle: 6s, tunnelMax: 7s, connectionMax: 0s, keepAlive: 8s, drain: 9s, connect: 10s, udpIdle: 11s}
      http2: {maxConcurrentStreams: 1, streamWindow: 16Ki, connectionWindow: 64Ki, resets: 2, controlFrames: 3,
              continuations: 4, sendBuffer: 32Ki}
      path: {escapedSlashes: Reject, mergeSlashes: false}
      underscores: Keep
      serverHeader: {mode: Replace, value: shop}
      trustedProxies: [10.0.0.1]
      proxyProtocol: true
      forwarded: true
      via: false
      requestId: false"#;
    let yaml = CONFIGS.split("---").next().unwrap().to_owned()
        + "---\napiVersion: sluice.dev/v1alpha1\nkind: GatewayConfig\nmetadata: {name: class, namespace: system}\nspec:\n  listeners:\n    -"
        + settings.trim_start_matches('\n').trim_start_matches("     ")
        + &gateway("infra", "gw", HTTP);
    let h = Harness::new(&yaml);
    assert_eq!(h.problems(), [] as [&str; 0]);
    let edge = serde_json::to_value(&*h.config().ports.values().next().unwrap().listeners[0].edge).unwrap();
    let default = serde_json::to_value(sluice_model::config::Edge::default()).unwrap();
    let mut same = Vec::new();
    equal_leaves(&edge, &default, "", &mut same);
    assert_eq!(same, [] as [&str; 0], "these fields kept their default");
}

fn equal_leaves(a: &serde_json::Value, b: &serde_json::Value, path: &str, same: &mut Vec<String>) {
    match (a, b) {
        // A duration is one value in two fields.
        (serde_json::Value::Object(x), serde_json::Value::Object(y)) if !x.contains_key("secs") => {
            for (key, value) in x {
                equal_leaves(value, y.get(key).unwrap_or(&serde_json::Value::Null), &format!("{path}.{key}"), same);
            }
        }
        _ if a == b => same.push(path.to_owned()),
        _ => {}
    }
}

#[test]
fn every_field_of_the_access_log_can_be_asked_for() {
    let all: Vec<_> = sluice_model::config::AccessLogField::ALL.iter().map(|field| field.name()).collect();
    let fields = format!("sample: 0.5, fields: [{}]", all.join(", "));
    let h = Harness::new(&(CONFIGS.replace("sample: 0.5", &fields) + &gateway("infra", "gw", HTTP)));
    assert_eq!(h.config().access_log.fields, sluice_model::config::AccessLogField::ALL);
    assert!(all.contains(&"attributes"), "what plugins tell");
    assert!(h.problems().iter().all(|problem| !problem.contains("accessLog")), "{:?}", h.problems());
}

#[test]
fn bad_values_of_a_gateway_config_are_told_with_their_fields_and_keep_their_defaults() {
    let yaml = CONFIGS
        .replace("connections: 7, headerCount: 50", "connections: 0, headerBytes: lots")
        .replace("drain: 7s", "drain: soon, keepAlive: 0s")
        .replace("sample: 0.5", "sample: 7, fields: [nonsense]")
        .replace("trustedProxies: [10.0.0.0/8]", "trustedProxies: [all], tls: {ciphers: [ROT13]}")
        + &gateway("infra", "gw", HTTP);
    let h = Harness::new(&yaml);
    assert_eq!(
        h.problems(),
        [
            "P105 GatewayConfig system/class spec.listeners[0].timeouts.drain",
            "P106 GatewayConfig system/class spec.listeners[0].limits.headerBytes",
            "P107 GatewayConfig infra/own spec.listeners[0].trustedProxies[0]",
            "P108 GatewayConfig infra/own spec.listeners[0].tls.ciphers[0]",
            "P108 GatewayConfig system/class spec.accessLog.fields[0]",
            "P109 GatewayConfig system/class spec.accessLog.sample",
            "P109 GatewayConfig system/class spec.listeners[0].limits.connections",
            "P109 GatewayConfig system/class spec.listeners[0].timeouts.keepAlive",
            "P409 GatewayConfig infra/own",
        ]
    );
    let edge = &h.config().ports.values().next().unwrap().listeners[0].edge;
    assert_eq!(edge.limits.connections, 10_000);
}

#[test]
fn gw_modify_listeners_adds_and_removes_a_port_and_leaves_the_other_as_it_is() {
    let mut h = Harness::new(&gateway("infra", "gw", HTTP));
    let before = h.config().ports.values().next().unwrap().clone();
    h.apply(&gateway(
        "infra",
        "gw",
        "[{name: web, port: 80, protocol: HTTP}, {name: more, port: 8090, protocol: HTTP}]",
    ));
    assert_eq!(h.config().ports.len(), 2);
    assert!(std::sync::Arc::ptr_eq(&before, h.config().ports.values().next().unwrap()), "the same pointer");
    h.apply(&gateway("infra", "gw", HTTP));
    assert_eq!(h.config().ports.len(), 1);
    assert_eq!(h.output.summary, "1 port changed");
}

#[test]
fn tls_settings_of_a_listener_come_from_its_gateway_config() {
    let yaml =
        CONFIGS.replace(
            "timeouts: {drain: 8s}",
            "tls: {minVersion: '1.3', ciphers: [TLS_AES_128_GCM_SHA256], tickets: false, http2: false}",
        ) + &gateway("infra", "gw", "[{name: web, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: c}]}}]")
            + &secret("infra", "c", &["example.com"]);
    let h = Harness::new(&yaml);
    let tls = h.config().ports.values().next().unwrap().listeners[0].tls.clone().unwrap();
    assert_eq!((tls.min_version, tls.http2, tls.resumption), (TlsVersion::V1_3, false, false));
    assert_eq!(tls.cipher_suites.iter().map(AsRef::as_ref).collect::<Vec<&str>>(), ["TLS_AES_128_GCM_SHA256"]);
}

#[test]
fn listeners_of_a_port_stand_from_the_most_specific_hostname_to_the_least() {
    let h = Harness::new(&gateway(
        "infra",
        "gw",
        "[{name: any, port: 80, protocol: HTTP}, {name: wild, port: 80, protocol: HTTP, hostname: '*.example.com'},
          {name: exact, port: 80, protocol: HTTP, hostname: a.example.com}]",
    ));
    let port = h.config().ports.values().next().unwrap();
    let hosts: Vec<_> = port.listeners.iter().map(|l| l.hostname.clone()).collect();
    assert_eq!(hosts, [pattern("a.example.com"), pattern("*.example.com"), sluice_model::HostPattern::Any]);
}

#[test]
fn the_store_holds_what_was_applied() {
    let yaml = gateway("infra", "gw", HTTP);
    let h = Harness::new(&yaml);
    assert_eq!(h.translator.store().iter().collect::<Vec<_>>(), objects(&yaml));
}

#[test]
fn a_gateway_config_that_nothing_refers_to_is_told() {
    let h = Harness::new(
        "{apiVersion: sluice.dev/v1alpha1, kind: GatewayConfig, metadata: {name: c, namespace: n}, spec: {accessLog: {enabled: false}}}",
    );
    assert_eq!(h.problems(), ["P409 GatewayConfig n/c"]);
    assert!(h.config().access_log.enabled);
}

#[test]
fn an_ingress_port_that_a_gateway_uses_otherwise_is_the_gateways() {
    let listeners = "[{name: tls, port: 8080, protocol: HTTPS, tls: {certificateRefs: [{name: c}]}}]";
    let ingress = "---\n{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: i, namespace: infra}, spec: {defaultBackend: {service: {name: web, port: {number: 8080}}}}}\n";
    let h = Harness::new(
        &(gateway("infra", "gw", listeners)
            + &secret("infra", "c", &["x.com"])
            + &services("infra", &["web"])
            + ingress),
    );
    assert_eq!(h.problems(), ["P301 Gateway sluice-system/ingress listener `http`"]);
    assert_eq!(h.places(), ["sluice-system/ingress/https *"]);
}

/// The Service of the Gateway with this UID, recording target ports.
fn gateway_service(uid: &str, targets: &str) -> String {
    format!(
        r"
---
apiVersion: v1
kind: Service
metadata: {{name: gateway-{uid}, namespace: system, labels: {{sluice.dev/gateway-uid: {uid}}}, annotations: {{sluice.dev/target-ports: '{targets}'}}}}
spec: {{ports: [{{port: 80}}]}}
"
    )
}

#[test]
fn gateways_with_services_of_their_own_are_bound_to_the_ports_that_these_record() {
    let options = Options { files: false, gateway_services: Some("system".into()), ..Options::default() };
    let of = |name: &str| {
        gateway("infra", name, HTTP).replace("namespace: infra}", &format!("namespace: infra, uid: u-{name}}}"))
    };
    let class = r"
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: sluice}
spec: {controllerName: sluice.dev/gateway-controller}
";
    let mut h = Harness::with(options, &(class.to_owned() + &of("one") + &of("two")));
    assert!(h.config().ports.is_empty(), "no target port is recorded yet");
    let status = h.translator.status();
    assert!(status.gateways.values().all(|gateway| gateway.rejected.is_none() && gateway.listeners[0].serves));
    assert!(status.infrastructure.values().all(|infrastructure| infrastructure.ports.iter().eq([&80.into()])));

    h.apply(&(gateway_service("u-one", "80=10000") + &gateway_service("u-two", "80=10001")));
    let bound: Vec<_> = h
        .config()
        .ports
        .iter()
        .map(|(a, port)| format!("{a} {} {}", port.listeners[0].id, port.listeners[0].port))
        .collect();
    assert_eq!(bound, ["[::]:10000 infra/one/web 80", "[::]:10001 infra/two/web 80"]);
    // Two that record the same: the older Gateway serves.
    h.apply(&gateway_service("u-two", "80=10000"));
    assert_eq!(h.config().ports.len(), 1);
    assert_eq!(h.problems(), ["P301 Gateway infra/two spec.listeners[0]"]);
    assert_eq!(super::bad_input::said(&h, "Gateway infra/one"), Vec::<String>::new());
    assert_eq!(
        super::bad_input::said(&h, "Gateway infra/two"),
        [
            "Accepted=False/ListenersNotValid",
            "web Accepted=False/HostnameConflict",
            "web Conflicted=True/HostnameConflict"
        ]
    );
}

/// GEP-3567: of each two listeners of one port that speak TLS, both.
#[test]
fn listeners_of_tls_whose_hostnames_overlap_say_so() {
    let listener = |name: &str, port: u16, host: &str| {
        let host = if host.is_empty() { String::new() } else { format!(", hostname: '{host}'") };
        format!("{{name: {name}, port: {port}, protocol: HTTPS{host}, tls: {{certificateRefs: [{{name: c}}]}}}}")
    };
    let h = |listeners: &[String]| {
        let all = format!("[{}]", listeners.join(", "));
        Harness::new(&(gateway("infra", "gw", &all) + &secret("infra", "c", &["a.com"])))
    };
    let overlapping = |h: &Harness| {
        let status = h.translator.status();
        let listeners = status.gateways.values().flat_map(|gateway| gateway.listeners.clone());
        let found = listeners.filter_map(|listener| Some((listener.name.clone(), listener.overlapping?)));
        found.collect::<Vec<_>>()
    };
    let names = |h: &Harness| overlapping(h).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    // The API's own example.
    let three = [
        listener("a", 443, "foo.example.com"),
        listener("b", 443, "foo.example.org"),
        listener("c", 443, "*.example.com"),
    ];
    let found = h(&three);
    assert_eq!(names(&found), ["a", "c"]);
    let (_, message) = &overlapping(&found)[0];
    assert!(message.starts_with("`foo.example.com` overlaps with `*.example.com` of listener `c`: "), "{message}");
    assert!(message.contains("421"), "{message}");
    let conditions: Vec<_> = found.translator.status().conditions();
    let told = |part: &str| {
        let told = conditions.iter().find(|told| told.part.as_deref() == Some(part)).unwrap();
        told.conditions.iter().find(|c| c.kind == "OverlappingTLSConfig").map(|c| (c.status, c.reason))
    };
    assert_eq!(told("listener a"), Some((true, "OverlappingHostnames")));
    // It is not there where it does not hold.
    assert_eq!(told("listener b"), None);
    // No hostname means all of them, and a wildcard all labels below it.
    assert_eq!(names(&h(&[listener("any", 443, ""), listener("a", 443, "a.com")])), ["any", "a"]);
    assert_eq!(names(&h(&[listener("wide", 443, "*.com"), listener("less", 443, "*.b.com")])), ["wide", "less"]);
    // Of bytes that pass through nothing is read, and nothing is answered.
    let through = "{name: through, port: 443, protocol: TLS, hostname: '*.com', tls: {mode: Passthrough}}".to_owned();
    let found = h(&[listener("a", 443, "a.com"), through]);
    assert_eq!(names(&found), ["a", "through"]);
    assert!(overlapping(&found).iter().all(|(_, message)| !message.contains("421")));
    // It may be of a ListenerSet.
    let gw = format!(
        "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: gw, namespace: infra}}, spec: {{gatewayClassName: sluice, allowedListeners: {{namespaces: {{from: Same}}}}, listeners: [{}]}}}}\n",
        listener("own", 443, "*.com")
    );
    let set = format!(
        "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: ListenerSet, metadata: {{name: set, namespace: infra}}, spec: {{parentRef: {{name: gw}}, listeners: [{}]}}}}\n",
        listener("added", 443, "a.com")
    );
    let mut found = Harness::new(&(gw + &set + &secret("infra", "c", &["a.com"])));
    let of_sets = |h: &Harness| {
        let status = h.translator.status();
        status.listener_sets.values().flat_map(|set| &set.listeners).filter(|l| l.overlapping.is_some()).count()
    };
    assert_eq!((names(&found), of_sets(&found)), (vec!["own".to_owned()], 1));
    found.delete(sluice_model::Kind::ListenerSet, "infra", "set");
    assert_eq!((names(&found), of_sets(&found)), (vec![], 0));
    // On another port, or without TLS, nothing can be shared.
    assert_eq!(names(&h(&[listener("any", 443, ""), listener("a", 8443, "a.com")])), [""; 0]);
    let clear = |name: &str, host: &str| format!("{{name: {name}, port: 80, protocol: HTTP, hostname: '{host}'}}");
    assert_eq!(names(&h(&[clear("a", "a.com"), clear("b", "*.com")])), [""; 0]);
}

#[test]
fn what_a_listener_says_and_nothing_follows_from_is_a_warning() {
    let tls = "tls: {mode: Passthrough, certificateRefs: [{name: c}]}";
    let listeners = format!(
        "[{{name: tcp, port: 5432, protocol: TCP, hostname: a.com}}, {{name: pass, port: 443, protocol: TLS, {tls}}}]"
    );
    let frontend = "frontend: {default: {}, perPort: [{port: 444, tls: {}}, {port: 443, tls: {}}]}";
    let h = Harness::new(&gateway("infra", "gw", &format!("{listeners}, tls: {{{frontend}}}")));
    assert_eq!(
        h.problems(),
        [
            "P108 Gateway infra/gw spec.listeners[0].hostname",
            "P108 Gateway infra/gw spec.tls.frontend.perPort[0].port",
            "P108 Gateway infra/gw spec.tls.frontend.perPort[1].port",
            "P303 Gateway infra/gw spec.listeners[1].tls.certificateRefs"
        ]
    );
}

/// A selector that cannot be used lets no route in, and no ListenerSet: `NotIn` of nothing would be everybody.
#[test]
fn a_selector_that_cannot_be_used_lets_nobody_in() {
    let attached = |expression: &str| {
        let selector = format!("{{from: Selector, selector: {{matchExpressions: [{expression}]}}}}");
        let listeners = format!("[{{name: web, port: 80, protocol: HTTP, allowedRoutes: {{namespaces: {selector}}}}}]");
        let h = Harness::new(
            &(gateway("infra", "gw", &format!("{listeners}, allowedListeners: {{namespaces: {selector}}}"))
                + &services("shop", &["web"])
                + &route(
                    "shop",
                    "r",
                    "  parentRefs: [{name: gw, namespace: infra}]\n  rules: [{backendRefs: [{name: web, port: 8080}]}]",
                )
                + "---\napiVersion: gateway.networking.k8s.io/v1\nkind: ListenerSet\nmetadata: {name: set, namespace: shop}\nspec: {parentRef: {name: gw, namespace: infra}, listeners: [{name: more, port: 81, protocol: HTTP}]}\n"),
        );
        let sets = h.translator.status().listener_sets;
        (h.places().len(), sets.values().all(|set| set.rejected.is_none()))
    };
    assert_eq!(attached("{key: kubernetes.io/metadata.name, operator: In, values: [shop]}"), (1, true));
    for bad in [
        "{key: team, operator: NotIn}",
        "{key: team, operator: NotIn, values: ['not valid!']}",
        "{key: 'a b', operator: DoesNotExist}",
        "{key: team, operator: DoesNotExist, values: [a]}",
    ] {
        let (places, _) = attached(bad);
        assert_eq!(places, 0, "{bad}");
        assert!(!attached(bad).1, "{bad}: the ListenerSet is not accepted");
    }
}
