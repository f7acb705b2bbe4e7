//! Ingress v1: the three path types, wildcard hosts, the default backend, TLS hosts, named ports.

use crate::shop::backend_of;
use sluice_tests::certificate::{self, Authority};
use sluice_tests::{Backend, Folder, Gateway, objects, ports, raw};

struct Ingresses {
    _gateway: Gateway,
    _folder: Folder,
    _backends: Vec<Backend>,
    authority: Authority,
    http: u16,
    https: u16,
}

/// The Ingress Gateway's ports come from the GatewayConfig that the class names.
fn class(http: u16, https: u16, more: &str) -> String {
    format!(
        "\
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {{name: sluice}}
spec:
  controller: sluice.dev/ingress-controller
  parameters: {{apiGroup: sluice.dev, kind: GatewayConfig, name: ingress, namespace: default, scope: Namespace}}
---
apiVersion: sluice.dev/v1alpha1
kind: GatewayConfig
metadata: {{name: ingress, namespace: default}}
spec:
  ingress: {{httpPort: {http}, httpsPort: {https}{more}}}
"
    )
}

fn ingress(name: &str, spec: &str) -> String {
    format!(
        "\
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: {name}, namespace: default}}
spec:
  ingressClassName: sluice
{spec}"
    )
}

fn path(path: &str, kind: &str, service: &str, port: &str) -> String {
    format!("      - {{path: {path}, pathType: {kind}, backend: {{service: {{name: {service}, port: {{{port}}}}}}}}}\n")
}

impl Ingresses {
    async fn start(names: &[&'static str], config: &str, ingresses: &[String]) -> Ingresses {
        let (folder, authority) = (Folder::new(), Authority::default());
        let (http, https) = (ports::free(), ports::free());
        let mut backends = Vec::new();
        let mut documents = vec![class(http, https, config)];
        for name in names {
            let backend = Backend::echo(name).await;
            documents.push(objects::service(name, &[backend.address]));
            backends.push(backend);
        }
        documents.push(objects::secret("tls", &authority.leaf(&["secure.example"])));
        documents.push(objects::secret("fallback", &authority.leaf(&["fallback.example"])));
        documents.extend(ingresses.iter().cloned());
        folder.write("ingress.yaml", objects::join(documents));
        let gateway = Gateway::start(&folder).await;
        Ingresses { _gateway: gateway, _folder: folder, _backends: backends, authority, http, https }
    }

    async fn get(&self, host: &str, path: &str) -> raw::Response {
        raw::get(self.http, host, path).await.unwrap()
    }
}

#[tokio::test]
async fn paths_match_by_their_type_the_longest_first_and_exact_before_prefix() {
    let rules = format!(
        "  rules:\n  - host: a.example\n    http:\n      paths:\n{}{}{}{}{}",
        path("/", "Prefix", "root", "number: 80"),
        path("/foo", "Prefix", "foo", "name: main"),
        path("/foo/bar/", "Prefix", "slash", "number: 80"),
        path("/foo", "Exact", "exact", "number: 80"),
        path("/impl", "ImplementationSpecific", "impl", "number: 80"),
    );
    let shop = Ingresses::start(&["root", "foo", "slash", "exact", "impl"], "", &[ingress("paths", &rules)]).await;
    for (target, expected) in [
        ("/", "root"),
        ("/else", "root"),
        ("/foo", "exact"),
        ("/foo/", "foo"),
        ("/foo/x", "foo"),
        ("/foobar", "root"),
        ("/foo/bar", "slash"),
        ("/foo/bar/baz", "slash"),
        ("/foo/barbaz", "foo"),
        ("/impl/x", "impl"),
    ] {
        assert_eq!(backend_of(&shop.get("a.example", target).await), expected, "{target}");
    }
}

#[tokio::test]
async fn a_wildcard_host_stands_for_just_one_label() {
    let rules = format!(
        "  rules:\n  - host: \"*.wild.example\"\n    http:\n      paths:\n{}",
        path("/", "Prefix", "wild", "number: 80")
    );
    let shop = Ingresses::start(&["wild"], "", &[ingress("wild", &rules)]).await;
    assert_eq!(shop.get("a.wild.example", "/").await.status, 200);
    assert_eq!(shop.get("a.b.wild.example", "/").await.status, 404);
    assert_eq!(shop.get("wild.example", "/").await.status, 404);
}

#[tokio::test]
async fn an_exact_host_goes_before_the_wildcard_of_another_ingress_whose_path_is_longer() {
    let of = |name: &str, host: &str, target: &str| {
        let paths = path(target, "Prefix", name, "number: 80");
        ingress(name, &format!("  rules:\n  - host: \"{host}\"\n    http:\n      paths:\n{paths}"))
    };
    let both = [of("any", "*.b.example", "/deep"), of("exact", "a.b.example", "/")];
    let shop = Ingresses::start(&["any", "exact"], "", &both).await;
    assert_eq!(backend_of(&shop.get("a.b.example", "/deep").await), "exact");
    assert_eq!(backend_of(&shop.get("x.b.example", "/deep").await), "any");
}

#[tokio::test]
async fn default_backends_take_what_no_rule_matches() {
    let own = ingress("own", "  defaultBackend: {service: {name: own, port: {number: 80}}}\n");
    let shop = Ingresses::start(&["own"], "", std::slice::from_ref(&own)).await;
    assert_eq!(backend_of(&shop.get("any.example", "/x").await), "own");

    // For a host that an Ingress names too, where none of its paths match.
    let rules = format!(
        "  rules:\n  - host: a.example\n    http:\n      paths:\n{}",
        path("/own", "Prefix", "own", "number: 80")
    );
    let fallback = ", defaultBackendRef: {name: fallback, port: 80}";
    let shop = Ingresses::start(&["own", "fallback"], fallback, &[ingress("own", &rules)]).await;
    assert_eq!(backend_of(&shop.get("a.example", "/own").await), "own");
    assert_eq!(backend_of(&shop.get("a.example", "/x").await), "fallback");
    assert_eq!(backend_of(&shop.get("any.example", "/x").await), "fallback");
}

#[tokio::test]
async fn tls_hosts_get_their_certificate_and_others_the_default_one() {
    let hosts = ["secure.example", "missing.example", "none.example"];
    let paths = path("/", "Prefix", "one", "number: 80");
    let rules = hosts.map(|host| format!("  - host: {host}\n    http:\n      paths:\n{paths}")).concat();
    let spec = format!(
        "  tls: [{{hosts: [secure.example], secretName: tls}}, {{hosts: [missing.example], secretName: missing}}, {{hosts: [none.example]}}]\n  rules:\n{rules}"
    );
    let default = ", defaultCertificateRef: {name: fallback}";
    let shop = Ingresses::start(&["one"], default, &[ingress("tls", &spec)]).await;
    let client = shop.authority.client(&["http/1.1"]);
    let mut connection = raw::Client::connect_tls(shop.https, "secure.example", client.clone()).await.unwrap();
    connection.send("GET / HTTP/1.1\r\nHost: secure.example\r\n\r\n").await.unwrap();
    assert_eq!(backend_of(&connection.response().await.unwrap()), "one");
    for name in ["missing.example", "none.example", "other.example"] {
        // The client says which names the certificate is for, as it is not for this one.
        let error = certificate::connect(shop.https, name, client.clone()).await.err().map(|error| error.to_string());
        assert!(error.as_ref().is_some_and(|error| error.contains("fallback.example")), "{name}: {error:?}");
    }
    for host in hosts {
        let connection = raw::Client::connect_tls(shop.https, "fallback.example", client.clone()).await.unwrap();
        assert_eq!(backend_of(&raw::get_once(connection, host, "/").await.unwrap()), "one", "{host}");
    }
}

#[tokio::test]
async fn an_ingress_of_another_class_is_not_ours() {
    let rules =
        |route: &str| format!("  rules:\n  - http:\n      paths:\n{}", path(route, "Prefix", "one", "number: 80"));
    let other = ingress("other", &rules("/theirs")).replace("ingressClassName: sluice", "ingressClassName: nginx");
    let shop = Ingresses::start(&["one"], "", &[ingress("ours", &rules("/ours")), other]).await;
    assert_eq!(shop.get("any.example", "/ours").await.status, 200);
    assert_eq!(shop.get("any.example", "/theirs").await.status, 404);
}
