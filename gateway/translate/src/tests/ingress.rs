use super::support::{Harness, gateway, route, secret, services};
use crate::Options;
use sluice_model::{Kind, config::Protocol};

/// An Ingress of namespace `shop`.
fn ingress(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n{spec}\n"
    )
}

fn to(service: &str) -> String {
    format!("backend: {{service: {{name: {service}, port: {{number: 8080}}}}}}")
}

fn one(spec: &str) -> Harness {
    Harness::new(&(services("shop", &["a", "b", "c"]) + &ingress("i", spec)))
}

const HTTP: &str = "sluice-system/ingress/http";
const HTTPS: &str = "sluice-system/ingress/https";

#[test]
fn every_rule_is_served_on_both_ports_and_nothing_redirects() {
    let h = one(&format!(
        "  rules: [{{host: foo.bar.com, http: {{paths: [{{path: /, pathType: Prefix, {}}}]}}}}]",
        to("a")
    ));
    assert_eq!(h.places(), [format!("{HTTP} foo.bar.com"), format!("{HTTPS} foo.bar.com")]);
    assert_eq!(h.routes(&format!("{HTTP} foo.bar.com")), ["/* -> shop/a:8080"]);
    let ports: Vec<_> = h.config().ports.iter().map(|(a, p)| (a.to_string(), p.protocol)).collect();
    assert_eq!(ports, [("[::]:8080".to_owned(), Protocol::Http), ("[::]:8443".to_owned(), Protocol::Https)]);
    assert_eq!(h.problems(), [] as [&str; 0]);
}

#[test]
fn without_any_ingress_nothing_is_bound() {
    let mut h = one("  defaultBackend: {service: {name: a, port: {number: 8080}}}");
    assert_eq!(h.config().ports.len(), 2);
    h.delete(Kind::Ingress, "shop", "i");
    assert!(h.config().ports.is_empty() && h.config().virtual_hosts.is_empty() && h.config().backends.is_empty());
}

#[test]
fn icc_path_rules_exact_and_prefix_by_element_and_the_longest_first() {
    let path = |path: &str, kind: &str, service: &str| format!("{{path: {path}, pathType: {kind}, {}}}", to(service));
    let paths = [
        path("/foo", "Exact", "a"),
        path("/foo/", "Exact", "b"),
        path("/aaa/bbb", "Prefix", "b"),
        path("/aaa/", "Prefix", "a"),
        path("/foo", "Prefix", "c"),
        path("/impl", "ImplementationSpecific", "c"),
    ];
    let h = one(&format!("  rules: [{{host: x.com, http: {{paths: [{}]}}}}]", paths.join(", ")));
    assert_eq!(
        h.routes(&format!("{HTTP} x.com")),
        [
            "=/foo -> shop/a:8080",
            "=/foo/ -> shop/b:8080",
            "/aaa/bbb/* -> shop/b:8080",
            "/impl/* -> shop/c:8080",
            "/aaa/* -> shop/a:8080",
            "/foo/* -> shop/c:8080",
        ]
    );
}

#[test]
fn icc_host_rules_a_wildcard_is_one_label() {
    let h = one(&format!("  rules: [{{host: '*.foo.com', http: {{paths: [{{pathType: Prefix, {}}}]}}}}]", to("a")));
    let hosts = h.config().virtual_hosts.values().next().unwrap();
    let pattern = hosts.keys().next().unwrap();
    assert!(pattern.matches("a.foo.com") && !pattern.matches("a.b.foo.com") && !pattern.matches("foo.com"));
}

#[test]
fn icc_default_backend_takes_what_no_rule_does() {
    let h = one(&format!(
        "  default{}\n  rules: [{{host: x.com, http: {{paths: [{{path: /a, pathType: Prefix, {}}}]}}}}, {{host: y.com}}]",
        to("b").replace("backend", "Backend"),
        to("a")
    ));
    assert_eq!(h.routes(&format!("{HTTP} *")), ["/* -> shop/b:8080"]);
    assert_eq!(h.routes(&format!("{HTTP} x.com")), ["/a/* -> shop/a:8080"]);
    assert_eq!(h.routes(&format!("{HTTP} y.com")), ["/* -> shop/b:8080"], "a host alone goes to the default backend");
}

#[test]
fn a_default_backend_is_behind_the_rules_of_every_ingress() {
    let all = format!("  rules: [{{http: {{paths: [{{path: /, pathType: Prefix, {}}}]}}}}]", to("b"));
    let host = format!("  rules: [{{host: x.com, http: {{paths: [{{path: /, pathType: Prefix, {}}}]}}}}]", to("c"));
    let default = format!("  default{}\n  rules: [{{host: x.com}}]", to("a").replace("backend", "Backend"));
    // `a` goes first by name.
    let h = Harness::new(
        &(services("shop", &["a", "b", "c"]) + &ingress("a", &default) + &ingress("b", &all) + &ingress("c", &host)),
    );
    assert_eq!(h.routes(&format!("{HTTP} *")), ["/* -> shop/b:8080", "/* -> shop/a:8080"]);
    assert_eq!(h.routes(&format!("{HTTP} x.com")), ["/* -> shop/c:8080", "/* -> shop/a:8080"]);
    assert_eq!(h.problems(), [] as [&str; 0]);
}

#[test]
fn of_two_objects_that_want_the_same_path_the_older_serves_and_the_other_is_told() {
    let rule = |service| {
        format!("  rules: [{{host: x.com, http: {{paths: [{{path: /, pathType: Prefix, {}}}]}}}}]", to(service))
    };
    let aged = |name, year, service| {
        ingress(name, &rule(service))
            .replace("namespace: shop", &format!("namespace: shop, creationTimestamp: '{year}-01-01T00:00:00Z'"))
    };
    let h = Harness::new(&(services("shop", &["a", "b"]) + &aged("a", 2026, "a") + &aged("b", 2025, "b")));
    assert_eq!(h.routes(&format!("{HTTP} x.com"))[0], "/* -> shop/b:8080");
    assert_eq!(h.problems(), ["P501 Ingress shop/a spec.rules[0].http.paths[0].path"]);
}

#[test]
fn exact_and_prefix_on_one_path_are_two_rules() {
    let h = one(&format!(
        "  rules: [{{host: x.com, http: {{paths: [{{path: /foo, pathType: Exact, {}}}, {{path: /foo, pathType: Prefix, {}}}]}}}}]",
        to("a"),
        to("b")
    ));
    let host = h.virtual_host(&format!("{HTTP} x.com")).unwrap();
    let ids: Vec<&str> = host.rules.iter().map(|rule| &*rule.id.rule).collect();
    assert_eq!(ids, ["x.com =/foo", "x.com /foo"]);
}

#[test]
fn ports_are_named_or_numbered() {
    let yaml = "
{apiVersion: v1, kind: Service, metadata: {name: n, namespace: shop}, spec: {ports: [{name: web, port: 80, targetPort: http}, {name: api, port: 81}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: n-1, namespace: shop, labels: {kubernetes.io/service-name: n}}
addressType: IPv4
ports: [{name: api, port: 9001}, {name: web, port: 9000}]
endpoints: [{addresses: [10.0.0.1]}]
".to_owned() + &ingress("i", "  rules: [{host: x.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: n, port: {name: web}}}},
      {path: /b, pathType: Prefix, backend: {service: {name: n, port: {number: 81}}}}, {path: /c, pathType: Prefix, backend: {service: {name: n, port: {name: none}}}}]}}]");
    let h = Harness::new(&yaml);
    assert_eq!(
        h.routes(&format!("{HTTP} x.com")),
        ["/b/* -> shop/n:81", "/c/* -> 503 invalid_backend", "/* -> shop/n:80"]
    );
    let endpoints: Vec<_> = h.config().endpoints.iter().map(|(k, s)| format!("{k} {}", s.endpoints[0].id)).collect();
    assert_eq!(endpoints, ["shop/n:api 10.0.0.1:9001", "shop/n:web 10.0.0.1:9000"]);
    assert_eq!(h.problems(), ["P202 Ingress shop/i spec.rules[0].http.paths[2].backend.service"]);
}

#[test]
fn a_service_that_is_not_there_answers_503_until_it_is() {
    let mut h = Harness::new(&ingress(
        "i",
        &format!("  rules: [{{http: {{paths: [{{path: /, pathType: Prefix, {}}}]}}}}]", to("a")),
    ));
    assert_eq!(h.routes(&format!("{HTTP} *")), ["/* -> 503 invalid_backend"]);
    assert_eq!(h.problems(), ["P201 Ingress shop/i spec.rules[0].http.paths[0].backend.service"]);
    h.apply(&services("shop", &["a"]));
    assert_eq!(h.routes(&format!("{HTTP} *")), ["/* -> shop/a:8080"]);
    assert_eq!(h.problems(), [] as [&str; 0]);
    h.delete(Kind::Service, "shop", "a");
    assert_eq!(h.routes(&format!("{HTTP} *")), ["/* -> 503 invalid_backend"]);
    assert!(h.config().backends.is_empty() && h.config().endpoints.is_empty());
}

#[test]
fn a_resource_backend_is_refused_cleanly() {
    let h =
        one("  rules: [{http: {paths: [{path: /, pathType: Prefix, backend: {resource: {kind: Bucket, name: b}}}]}}]");
    assert_eq!(h.routes(&format!("{HTTP} *")), ["/* -> 503 invalid_backend"]);
    assert_eq!(h.problems(), ["P504 Ingress shop/i spec.rules[0].http.paths[0].backend"]);
}

const CLASSES: &str = "
{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: ours}, spec: {controller: sluice.dev/ingress-controller}}
---
{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: other}, spec: {controller: k8s.io/ingress-nginx}}
";

#[test]
fn icc_ingress_class_by_name_by_annotation_and_by_default() {
    let claim = |options: Options, classes: &str, metadata: &str, spec: &str| {
        let rules = format!("  {spec}rules: [{{http: {{paths: [{{path: /, pathType: Prefix, {}}}]}}}}]", to("a"));
        let rules = rules.replace(", rules", "\n  rules");
        let object = ingress("i", &rules).replace("namespace: shop}", &format!("namespace: shop{metadata}}}"));
        let h = Harness::with(options, &(classes.to_owned() + &services("shop", &["a"]) + &object));
        (!h.places().is_empty(), h.problems())
    };
    let files = Options::default;
    let cluster = || Options { files: false, ..Options::default() };
    let none: Vec<String> = Vec::new();
    assert_eq!(claim(files(), CLASSES, "", "ingressClassName: ours, "), (true, none.clone()));
    assert_eq!(claim(files(), CLASSES, "", "ingressClassName: other, "), (false, none.clone()));
    let unknown = vec!["P211 Ingress shop/i spec.ingressClassName".to_owned()];
    assert_eq!(claim(files(), CLASSES, "", "ingressClassName: missing, "), (false, unknown));
    assert_eq!(
        claim(files(), "", "", "ingressClassName: sluice, "),
        (true, none.clone()),
        "the built-in class of file mode"
    );
    let annotated = ", annotations: {kubernetes.io/ingress.class: ours}";
    assert_eq!(claim(cluster(), CLASSES, annotated, ""), (true, none.clone()));
    assert_eq!(
        claim(cluster(), CLASSES, annotated, "ingressClassName: other, "),
        (false, none.clone()),
        "the field wins"
    );
    assert_eq!(claim(files(), CLASSES, "", ""), (true, none.clone()), "in a folder, without any class");
    assert_eq!(claim(cluster(), CLASSES, "", ""), (false, none.clone()), "in a cluster, without a default");
    let default = |name: &str| {
        CLASSES.replace(
            &format!("name: {name}}}"),
            &format!("name: {name}, annotations: {{ingressclass.kubernetes.io/is-default-class: 'true'}}}}"),
        )
    };
    assert_eq!(claim(cluster(), &default("ours"), "", ""), (true, none.clone()));
    assert_eq!(claim(files(), &default("other"), "", ""), (false, none), "another controller's class is the default");
}

#[test]
fn tls_secrets_of_all_ingress_objects_stand_behind_the_default_certificate() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let default =
        crate::certificate_from_pem(made.cert.pem().as_bytes(), made.signing_key.serialize_pem().as_bytes()).unwrap();
    let options = Options { default_certificate: Some(std::sync::Arc::new(default)), ..Options::default() };
    let spec = format!("  tls: [{{hosts: [a.com], secretName: good}}, {{hosts: [b.com], secretName: missing}}, {{hosts: [c.com]}}, {{hosts: [d.com], secretName: good}}]
  rules: [{{host: a.com, http: {{paths: [{{path: /, pathType: Prefix, {}}}]}}}}]", to("a"));
    let mut h = Harness::with(
        options,
        &(services("shop", &["a"]) + &secret("shop", "good", &["a.com"]) + &ingress("i", &spec)),
    );
    let names = |h: &Harness| {
        let port = h.config().ports.values().find(|p| p.protocol == Protocol::Https).unwrap().clone();
        let keys = port.listeners[0].tls.as_ref().unwrap().certificates.clone();
        keys.iter().map(|k| h.config().certificates[k].names[0].to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&h), ["localhost", "a.com"]);
    assert_eq!(
        h.problems(),
        ["P205 Ingress shop/i spec.tls[1].secretName", "P307 Ingress shop/i spec.tls[3].secretName"]
    );
    h.apply(&secret("shop", "missing", &["b.com"]));
    assert_eq!(names(&h), ["localhost", "a.com", "b.com"]);
    assert!(h.output.summary.contains("1 certificate"), "{}", h.output.summary);
}

#[test]
fn ingress_rules_join_a_gateways_listener_for_any_host_on_the_same_port() {
    let yaml = gateway(
        "infra",
        "gw",
        "[{name: web, port: 8080, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}]",
    ) + &route(
        "shop",
        "r",
        "  parentRefs: [{name: gw, namespace: infra}]\n  rules: [{matches: [{path: {value: /route}}], backendRefs: [{name: b, port: 8080}]}]",
    ) + &services("shop", &["a", "b"])
        + &ingress(
            "i",
            &format!("  rules: [{{http: {{paths: [{{path: /ingress, pathType: Prefix, {}}}]}}}}]", to("a")),
        );
    let h = Harness::new(&yaml);
    assert_eq!(h.routes("infra/gw/web *"), ["/ingress/* -> shop/a:8080", "/route/* -> shop/b:8080"]);
    assert_eq!(h.places(), ["infra/gw/web *".to_owned(), format!("{HTTPS} *")]);
    assert_eq!(h.problems(), [] as [&str; 0]);
}

#[test]
fn ports_of_the_ingress_gateway_and_a_last_backend_come_from_its_gateway_config() {
    let yaml = "
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: sluice}
spec: {controller: sluice.dev/ingress-controller, parameters: {apiGroup: sluice.dev, kind: GatewayConfig, name: edge, namespace: shop, scope: Namespace}}
---
apiVersion: sluice.dev/v1alpha1
kind: GatewayConfig
metadata: {name: edge, namespace: shop}
spec:
  ingress: {httpPort: 9080, httpsPort: 9443, defaultBackendRef: {name: c, port: 8080}, defaultCertificateRef: {name: wild}}
  listeners: [{name: http, limits: {connections: 5}}]
".to_owned() + &secret("shop", "wild", &["*.shop.com"]) + &services("shop", &["a", "c"])
        + &ingress("i", &format!("  rules: [{{host: x.com, http: {{paths: [{{path: /, pathType: Prefix, {}}}]}}}}]", to("a")));
    let mut h = Harness::new(&yaml);
    assert_eq!(h.problems(), [] as [&str; 0]);
    let ports: Vec<_> = h.config().ports.iter().map(|(a, p)| (a.port(), p.edge.limits.connections)).collect();
    assert_eq!(ports, [(9080, 5), (9443, 10_000)]);
    assert_eq!(h.config().certificates.len(), 1);
    assert_eq!(h.routes(&format!("{HTTP} *")), ["/* -> shop/c:8080"]);
    h.delete(Kind::Service, "shop", "c");
    assert_eq!(h.problems(), ["P201 GatewayConfig shop/edge spec.ingress.defaultBackendRef"]);
    assert_eq!(h.routes(&format!("{HTTP} *")), ["/* -> 503 invalid_backend"]);
}

#[test]
fn annotations_of_other_controllers_are_told() {
    let object = ingress("i", &format!("  rules: [{{http: {{paths: [{{path: /, pathType: Prefix, {}}}]}}}}]", to("a")))
        .replace(
            "namespace: shop}",
            "namespace: shop, annotations: {nginx.ingress.kubernetes.io/rewrite-target: /, own: x}}",
        );
    let h = Harness::new(&(services("shop", &["a"]) + &object));
    assert_eq!(h.problems(), ["P505 Ingress shop/i metadata.annotations[nginx.ingress.kubernetes.io/rewrite-target]"]);
}

#[test]
fn bad_hosts_and_paths_leave_their_neighbours() {
    let h = one(&format!("  rules: [{{host: 'a..b', http: {{paths: [{{path: /, pathType: Prefix, {0}}}]}}}},
    {{host: x.com, http: {{paths: [{{path: '/a?b', pathType: Prefix, {0}}}, {{path: /ok, pathType: Glob, {0}}}, {{path: /ok, pathType: Exact, {0}}}]}}}}]", to("a")));
    assert_eq!(h.routes(&format!("{HTTP} x.com")), ["=/ok -> shop/a:8080"]);
    assert_eq!(
        h.problems(),
        [
            "P101 Ingress shop/i spec.rules[0].host",
            "P102 Ingress shop/i spec.rules[1].http.paths[0].path",
            "P108 Ingress shop/i spec.rules[1].http.paths[1].pathType",
        ]
    );
}
