//! Whatever the history, the result is that of the objects that are there now.

use super::support::{Harness, gateway, objects, route, secret, services};
use crate::{Options, Status, StatusChanges, Translator};
use proptest::prelude::*;
use sluice_model::config::Locality;
use sluice_model::{Kind, ObjectRef};
use sluice_resources::{Change, Object};
use std::sync::{Arc, LazyLock};

/// Forms that objects take in the histories. Several have the same name: one replaces the other.
static FORMS: LazyLock<Vec<Object>> = LazyLock::new(|| {
    let mut yaml = String::new();
    let all = "allowedRoutes: {namespaces: {from: All}}";
    yaml += &gateway("infra", "gw", &format!("[{{name: web, port: 80, protocol: HTTP, {all}}}]"));
    yaml += &gateway(
        "infra",
        "gw",
        &format!(
            "[{{name: web, port: 80, protocol: HTTP, hostname: '*.com'}}, {{name: more, port: 8080, protocol: HTTP, {all}}}]"
        ),
    );
    yaml += &gateway(
        "infra",
        "gw2",
        "[{name: tls, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: c}]}}, {name: web, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {a: b}}}}}]",
    );
    // The gateway's own node, in one zone and in another.
    for (name, zone) in [("n-1", "a"), ("n-1", "b"), ("n-2", "b")] {
        yaml += &format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: s}}}}\naddressType: IPv4\nports: [{{port: 80}}]\nendpoints: [{{addresses: [10.9.0.1], nodeName: n1, zone: {zone}}}]\n"
        );
    }
    yaml += &secret("infra", "c", &["x.com"]);
    yaml += &secret("shop", "t", &["y.com"]);
    // Allows ListenerSets.
    yaml += &gateway(
        "infra",
        "gw2",
        &format!(
            "[{{name: web, port: 80, protocol: HTTP, {all}}}], allowedListeners: {{namespaces: {{from: Selector, selector: {{matchLabels: {{a: b}}}}}}}}, defaultScope: All"
        ),
    );
    for namespace in ["infra", "shop"] {
        for listeners in [
            "[{name: web, port: 80, protocol: HTTP, hostname: x.com}, {name: odd, port: 80, protocol: TCP}]",
            "[{name: tls, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: c}]}}]",
        ] {
            yaml += &format!(
                "---\napiVersion: gateway.networking.k8s.io/v1\nkind: ListenerSet\nmetadata: {{name: set, namespace: {namespace}}}\nspec: {{parentRef: {{name: gw2, namespace: infra}}, listeners: {listeners}}}\n"
            );
        }
        yaml += &services(namespace, &["a"]);
        yaml += &services(namespace, &["x", "a"]);
        yaml += &format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: b, namespace: {namespace}}}, spec: {{ports: [{{name: http, port: 8080, appProtocol: kubernetes.io/h2c}}]}}}}\n"
        );
        yaml += &format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: b, namespace: {namespace}}}, spec: {{type: ExternalName, externalName: out.example.com}}}}\n"
        );
        yaml +=
            &format!("---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}, labels: {{a: b}}}}}}\n");
        for (i, (hosts, service)) in [("x.com", "a"), ("'*.com', y.com", "b"), ("", "a")].into_iter().enumerate() {
            for name in ["r", "s"] {
                yaml += &route(namespace, name, &format!(
                    "  parentRefs: [{{name: gw, namespace: infra}}, {{name: gw2, namespace: infra}}, {{kind: ListenerSet, name: set}}]
  hostnames: [{hosts}]
  rules: [{{name: n{i}, matches: [{{path: {{value: /{i}}}}}], backendRefs: [{{name: {service}, port: 8080}}, {{name: a, namespace: infra, port: 8080}}]}}, {{backendRefs: [{{name: a, port: 8080}}]}}]"
                ));
            }
        }
        for (i, hosts) in ["x.com", "'*.com'"].into_iter().enumerate() {
            yaml += &format!(
                "---\napiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {{name: q{i}, namespace: {namespace}}}\nspec: {{parentRefs: [{{name: gw, namespace: infra}}, {{name: gw2, namespace: infra}}], hostnames: [{hosts}], rules: [{{backendRefs: [{{name: a, port: 8080}}]}}]}}\n"
            );
        }
        yaml += &route(namespace, "s", "  useDefaultGateways: All\n  rules: [{backendRefs: [{name: a, port: 8080}]}]");
        for (annotations, tls) in [("", ""), ("sluice.dev/policy: named", "tls: [{hosts: [y.com], secretName: t}], ")] {
            yaml += &format!(
                "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: i, namespace: {namespace}, annotations: {{{annotations}}}}}\nspec: {{{tls}defaultBackend: {{service: {{name: b, port: {{number: 8080}}}}}}, rules: [{{host: y.com, http: {{paths: [{{path: /i, pathType: Prefix, backend: {{service: {{name: a, port: {{number: 8080}}}}}}}}]}}}}]}}\n"
            );
        }
    }
    yaml += r"
---
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: g, namespace: infra}
spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}], to: [{group: '', kind: Service}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: p, namespace: infra}
spec: {targetRefs: [{group: '', kind: Service, name: a}], validation: {hostname: a.b, wellKnownCACertificates: System}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: q, namespace: infra}
spec: {targetRefs: [{group: '', kind: Service, name: a}], validation: {hostname: a.b, caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]}}
---
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {name: p, namespace: infra}
spec: {targetRefs: [{group: '', kind: Service, name: a}], retryConstraint: {}, sessionPersistence: {}}
---
apiVersion: gateway.networking.x-k8s.io/v1alpha1
kind: XBackendTrafficPolicy
metadata: {name: q, namespace: infra}
spec: {targetRefs: [{group: '', kind: Service, name: a}, {group: '', kind: Service, name: b}], retryConstraint: {budget: {percent: 1}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: sluice}
spec: {controllerName: sluice.dev/gateway-controller, parametersRef: {group: sluice.dev, kind: GatewayConfig, name: c, namespace: infra}}
---
apiVersion: sluice.dev/v1alpha1
kind: GatewayConfig
metadata: {name: c, namespace: infra}
spec: {externalNames: {allow: [example.com]}, ingress: {httpPort: 80, defaultBackendRef: {name: a, port: 8080}}}
---
apiVersion: sluice.dev/v1alpha1
kind: GatewayConfig
metadata: {name: c, namespace: infra}
spec: {listeners: [{name: '*', limits: {connections: 3}}]}
---
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: other, annotations: {ingressclass.kubernetes.io/is-default-class: 'true'}}
spec: {controller: example.com/x}
---
apiVersion: sluice.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: named, namespace: infra}
spec: {plugins: [{name: p, pluginRef: {name: p}}], client: {maxBody: 1Ki}}
---
apiVersion: sluice.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: named, namespace: infra}
spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: gw}], client: {maxBody: 2Ki}, plugins: [{name: q, pluginRef: {name: p}}]}
---
apiVersion: sluice.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: t, namespace: shop}
spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}, {group: gateway.networking.k8s.io, kind: ListenerSet, name: set}, {group: '', kind: Service, name: a}], backend: {circuitBreaker: {maxRequests: 3}}}
---
apiVersion: sluice.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: u, namespace: shop}
spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r, sectionName: n1}], overrides: {client: {ipAllow: [10.0.0.0/8]}}}
---
apiVersion: sluice.dev/v1alpha1
kind: Plugin
metadata: {name: p, namespace: infra}
spec: {source: {file: {path: /p.wasm}}}
---
apiVersion: sluice.dev/v1alpha1
kind: Plugin
metadata: {name: p, namespace: infra}
spec: {source: {configMap: {name: ca, key: m}}, failMode: Open}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: ca, namespace: infra}, binaryData: {m: AGFzbQ==}}
---
apiVersion: v1
kind: Service
metadata: {name: gateway-, namespace: system, labels: {sluice.dev/gateway-uid: ''}, annotations: {sluice.dev/target-ports: '80=10000,443=10001'}}
---
apiVersion: v1
kind: Service
metadata: {name: gateway-, namespace: system, labels: {sluice.dev/gateway-uid: ''}, annotations: {sluice.dev/target-ports: '80=10002,8080=10003'}}
";
    objects(&yaml)
});

#[derive(Clone, Debug)]
enum Step {
    Upsert(usize),
    Delete(usize),
    File(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..FORMS.len()).prop_map(Step::Upsert),
        3 => (0..FORMS.len()).prop_map(Step::Delete),
        1 => any::<bool>().prop_map(Step::File),
    ]
}

fn change(step: &Step) -> Change {
    match step {
        Step::Upsert(form) => Change::Upsert(FORMS[*form].clone()),
        Step::Delete(form) => Change::Delete(FORMS[*form].reference()),
        Step::File(there) => Change::File { path: "/p.wasm".into(), sha256: there.then(|| "00".into()) },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Configuration, problems and status after any history equal those made from its last objects alone.
    #[test]
    fn incremental_is_equal_to_from_scratch(
        history in prop::collection::vec(prop::collection::vec(step(), 1..6), 1..14),
        in_cluster in any::<bool>(),
    ) {
        let options = Options {
            files: !in_cluster,
            gateway_services: in_cluster.then(|| "system".into()),
            follow_status: true,
            locality: Locality { node: Some("n1".into()), zone: None },
            ..Options::default()
        };
        let mut incremental = Translator::new(options.clone());
        let mut followed = Status::default();
        let mut file = None;
        for batch in &history {
            incremental.apply(batch.iter().map(change).collect());
            follow(&mut followed, incremental.take_status());
            for step in batch {
                if let Step::File(there) = step {
                    file = Some(*there);
                }
            }
        }
        let mut scratch = Translator::new(options);
        let mut changes: Vec<Change> = incremental.store().iter().map(Change::Upsert).collect();
        changes.extend(file.map(|there| change(&Step::File(there))));
        let fresh = scratch.apply(changes);
        let again = incremental.apply(Vec::new());
        prop_assert!(!again.changed, "nothing came, nothing changed");
        prop_assert_eq!(&*again.config, &*fresh.config);
        prop_assert_eq!(again.problems, fresh.problems);
        prop_assert_eq!(incremental.status(), scratch.status());
        prop_assert_eq!(followed, scratch.status(), "what is followed step by step is what is there");
    }
}

/// Applies changes of status as whoever writes them does.
fn follow(status: &mut Status, changes: StatusChanges) {
    status.classes = changes.classes;
    status.listener_sets = changes.listener_sets;
    status.gateways = changes.gateways;
    status.infrastructure = changes.infrastructure;
    status.plugins = changes.plugins;
    status.policies = changes.policies;
    status.configs = changes.configs;
    for (route, new) in changes.routes {
        match new {
            Some(new) => status.routes.insert(route, new).is_some(),
            None => status.routes.remove(&route).is_some(),
        };
    }
    for (ingress, new) in changes.ingresses {
        match new {
            Some(new) => status.ingresses.insert(ingress, new).is_some(),
            None => status.ingresses.remove(&ingress).is_some(),
        };
    }
}

#[test]
fn the_order_of_changes_within_one_set_does_not_matter() {
    let yaml = gateway("infra", "gw", "[{name: web, port: 80, protocol: HTTP}]")
        + &services("infra", &["a"])
        + &route("infra", "r", "  parentRefs: [{name: gw}]\n  rules: [{backendRefs: [{name: a, port: 8080}]}]");
    let forward = Harness::new(&yaml);
    let mut backward = Harness::new("");
    let mut changes = super::support::upserts(&yaml);
    changes.reverse();
    backward.changes(changes);
    assert_eq!(forward.config(), backward.config());
}

#[test]
fn a_route_change_touches_its_host_and_no_other() {
    let of = |name: &str, service: &str| {
        route(
            "infra",
            name,
            &format!(
                "  parentRefs: [{{name: gw}}]\n  hostnames: [{name}.com]\n  rules: [{{backendRefs: [{{name: {service}, port: 8080}}]}}]"
            ),
        )
    };
    let yaml = gateway("infra", "gw", "[{name: web, port: 80, protocol: HTTP}]")
        + &services("infra", &["a", "b"])
        + &of("one", "a")
        + &of("two", "a");
    let mut h = Harness::new(&yaml);
    let before = h.config().clone();
    h.apply(&of("one", "b"));
    assert_eq!(h.output.summary, "1 route changed (HTTPRoute infra/one), 1 endpoint set");
    let host = |config: &sluice_model::Config, host: &str| {
        config.virtual_hosts.values().next().unwrap()[&super::support::pattern(host)].clone()
    };
    assert!(Arc::ptr_eq(&host(&before, "two.com"), &host(h.config(), "two.com")));
    assert_eq!(h.routes("infra/gw/web one.com"), ["/* -> infra/b:8080"]);
    assert!(Arc::ptr_eq(before.ports.values().next().unwrap(), h.config().ports.values().next().unwrap()));
}

#[test]
fn what_changes_nothing_changes_not_even_a_pointer() {
    let yaml = gateway("infra", "gw", "[{name: web, port: 80, protocol: HTTP}]") + &services("infra", &["a"]);
    let mut h = Harness::new(&yaml);
    let before = h.config().clone();
    h.apply(&yaml);
    assert!(!h.output.changed && Arc::ptr_eq(&before, h.config()));
    assert_eq!(h.output.summary, "nothing changed");
    h.changes(vec![Change::Delete(ObjectRef::new(Kind::HTTPRoute, "x", "y"))]);
    assert!(!h.output.changed);
}

#[test]
fn a_rule_that_stays_is_the_same_pointer_when_its_neighbour_changes() {
    let of = |service: &str| {
        route(
            "infra",
            "r",
            &format!(
                "  parentRefs: [{{name: gw}}]\n  rules: [{{backendRefs: [{{name: a, port: 8080}}]}}, {{matches: [{{path: {{value: /b}}}}], backendRefs: [{{name: {service}, port: 8080}}]}}]"
            ),
        )
    };
    let mut h = Harness::new(
        &(gateway("infra", "gw", "[{name: web, port: 80, protocol: HTTP}]")
            + &services("infra", &["a", "b"])
            + &of("a")),
    );
    let before = h.virtual_host("infra/gw/web *").unwrap().rules.clone();
    h.apply(&of("b"));
    let after = &h.virtual_host("infra/gw/web *").unwrap().rules;
    assert!(Arc::ptr_eq(&before[0], &after[0]) && !Arc::ptr_eq(&before[1], &after[1]));
}
