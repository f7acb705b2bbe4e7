//! Gateways: their addresses, listeners that share a port, certificates that they ask for and show.

use crate::shop::{HOST, backend_of};
use sluice_tests::certificate::Authority;
use sluice_tests::objects::{class, http_route, join, route_to, secret, service};
use sluice_tests::{Address, Backend, Folder, Gateway, ports, raw, wait};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// A Gateway `edge`; `spec` is YAML at column 2.
fn gateway(spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge, namespace: default}}\nspec:\n  gatewayClassName: sluice\n{spec}"
    )
}

async fn with(backend: &Backend, documents: impl IntoIterator<Item = String>) -> (Gateway, Folder) {
    let folder = Folder::new();
    let all = [class(), route_to("all", &[HOST], "one"), service("one", &[backend.address])];
    folder.write("all.yaml", join(all.into_iter().chain(documents)));
    (Gateway::start(&folder).await, folder)
}

async fn status(to: impl Into<Address>) -> Option<u16> {
    raw::get(to, HOST, "/").await.ok().map(|answer| answer.status)
}

#[tokio::test]
async fn a_gateway_is_reached_at_the_addresses_that_it_names_and_at_no_other() {
    let backend = Backend::echo("one").await;
    // A port that many know, at an address of its own.
    let spec = "  addresses: [{type: IPAddress, value: 127.0.80.80}]\n  listeners: [{name: http, port: 8080, protocol: HTTP}]\n";
    let (_gateway, _folder) = with(&backend, [gateway(spec)]).await;
    let at = |host: &str| -> SocketAddr { format!("{host}:8080").parse().unwrap() };
    assert_eq!(status(at("127.0.80.80")).await, Some(200));
    assert_eq!(status(at("127.0.80.81")).await, None);
}

#[tokio::test]
async fn a_gateway_of_an_ipv6_address_is_reached_there_and_leads_to_endpoints_of_either_family() {
    for backend in [Backend::echo("v4").await, Backend::echo_ipv6("v6").await] {
        let port = ports::free();
        let spec = format!(
            "  addresses: [{{type: IPAddress, value: \"::1\"}}]\n  listeners: [{{name: http, port: {port}, protocol: HTTP}}]\n"
        );
        let (gateway, _folder) = with(&backend, [gateway(&spec)]).await;
        assert_eq!(status(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).await, Some(200));
        assert_eq!(status(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await, None);
        let line = gateway.logged(|line| line["status"] == 200).await;
        assert_eq!((&line["client_ip"], &line["endpoint"]), (&"::1".into(), &backend.address.to_string().into()));
    }
}

/// GEP-3793: `spec.defaultScope` of a Gateway, `spec.useDefaultGateways` of a route.
#[tokio::test]
async fn gep_3793_a_route_that_asks_for_default_gateways_is_served_by_those_of_that_scope() {
    let backend = Backend::echo("one").await;
    let [default, other] = [(); 2].map(|()| ports::free());
    let gateway_of = |name: &str, scope: &str, port: u16| {
        gateway(&format!("{scope}  listeners: [{{name: http, port: {port}, protocol: HTTP}}]\n"))
            .replace("{name: edge,", &format!("{{name: {name},"))
    };
    let asks = |scope: &str| {
        route_to("asks", &["asks.example"], "one")
            .replace("  parentRefs: [{name: edge}]\n", &format!("  useDefaultGateways: {scope}\n"))
    };
    let all = [gateway_of("all", "  defaultScope: All\n", default), gateway_of("none", "", other), asks("All")];
    let (_gateway, folder) = with(&backend, all.clone()).await;
    let of = |port: u16| async move { raw::get(port, "asks.example", "/").await.map(|answer| answer.status).ok() };
    assert_eq!((of(default).await, of(other).await), (Some(200), Some(404)));
    // A route that does not ask any more is served nowhere, and one that asks again is.
    for (scope, status) in [("None", 404), ("All", 200)] {
        let [all, none, _] = all.clone();
        let rest = [class(), route_to("all", &[HOST], "one"), service("one", &[backend.address]), all, none];
        folder.write("all.yaml", join(rest.into_iter().chain([asks(scope)])));
        let is = || async { (of(default).await == Some(status)).then_some(()) };
        wait::until("the route to be served as it asks", is).await;
    }
}

#[tokio::test]
async fn an_address_without_a_value_is_any_address() {
    let backend = Backend::echo("one").await;
    let port = ports::free();
    let spec =
        format!("  addresses: [{{type: IPAddress}}]\n  listeners: [{{name: http, port: {port}, protocol: HTTP}}]\n");
    let (_gateway, _folder) = with(&backend, [gateway(&spec)]).await;
    for host in ["127.0.0.1", "127.0.80.81", "[::1]"] {
        let at: SocketAddr = format!("{host}:{port}").parse().unwrap();
        assert_eq!(status(at).await, Some(200), "{host}");
    }
}

#[tokio::test]
async fn a_host_is_served_by_the_most_specific_listener_of_its_port_alone() {
    let port = ports::free();
    let spec = format!(
        "  listeners:\n  - {{name: any, port: {port}, protocol: HTTP}}\n  - {{name: wild, port: {port}, protocol: HTTP, hostname: \"*.example\"}}\n  - {{name: shop, port: {port}, protocol: HTTP, hostname: {HOST}}}\n"
    );
    let mut documents = vec![gateway(&spec)];
    let mut backends = Vec::new();
    for name in ["any", "wild", "shop"] {
        let rules =
            format!("  - matches: [{{path: {{value: /{name}}}}}]\n    backendRefs: [{{name: {name}, port: 80}}]\n");
        let section = format!("{{name: edge, sectionName: {name}}}");
        documents.push(http_route(name, &[], &rules).replace("{name: edge}", &section));
        let backend = Backend::echo(name).await;
        documents.push(service(name, &[backend.address]));
        backends.push(backend);
    }
    let folder = Folder::new();
    folder.write("all.yaml", join(std::iter::once(class()).chain(documents)));
    let _gateway = Gateway::start(&folder).await;
    for (host, listener) in [(HOST, "shop"), ("else.example", "wild"), ("elsewhere.test", "any")] {
        for path in ["any", "wild", "shop"] {
            let answer = raw::get(port, host, &format!("/{path}")).await.unwrap();
            if path == listener {
                assert_eq!(backend_of(&answer), listener, "{host}");
            } else {
                assert_eq!(answer.status, 404, "{host}/{path} is not what its listener has");
            }
        }
    }
}

fn authority_as_config_map(authority: &Authority) -> String {
    let pem: String = authority.pem().lines().map(|line| format!("    {line}\n")).collect();
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: ca, namespace: default}}\ndata:\n  ca.crt: |\n{pem}")
}

#[tokio::test]
async fn a_backend_is_shown_the_gateways_own_certificate() {
    let authority = Authority::default();
    let leaf = authority.leaf(&["inner.example"]);
    let backend = Backend::echo_mutual("one", &leaf, &authority).await;
    let port = ports::free();
    let listeners = format!("  listeners: [{{name: http, port: {port}, protocol: HTTP}}]\n");
    let policy = "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: one, namespace: default}\nspec:\n  targetRefs: [{group: \"\", kind: Service, name: one}]\n  validation: {hostname: inner.example, caCertificateRefs: [{group: \"\", kind: ConfigMap, name: ca}]}\n";
    let own = "  tls: {backend: {clientCertificateRef: {name: own}}}\n";
    let rest = [authority_as_config_map(&authority), policy.to_owned(), secret("own", &authority.leaf(&["gateway"]))];
    let (running, folder) = with(&backend, [gateway(&format!("{own}{listeners}"))].into_iter().chain(rest)).await;
    assert_eq!(status(port).await, Some(200));
    drop((running, folder));
    // A backend that asks for one lets nobody else in.
    let rest = [authority_as_config_map(&authority), policy.to_owned()];
    let (_gateway, _folder) = with(&backend, [gateway(&listeners)].into_iter().chain(rest)).await;
    assert_eq!(status(port).await, Some(502));
}

/// An HTTPS port whose clients are checked by an authority.
async fn guarded(mode: &str, authority: &Authority, backend: &Backend) -> (u16, Gateway, Folder) {
    let port = ports::free();
    let spec = format!(
        "  tls: {{frontend: {{default: {{validation: {{caCertificateRefs: [{{group: \"\", kind: ConfigMap, name: ca}}]{mode}}}}}}}}}\n  listeners: [{{name: https, port: {port}, protocol: HTTPS, tls: {{certificateRefs: [{{name: shop}}]}}}}]\n"
    );
    let rest = [gateway(&spec), authority_as_config_map(authority), secret("shop", &authority.leaf(&[HOST]))];
    let (running, folder) = with(backend, rest).await;
    (port, running, folder)
}

async fn status_as(port: u16, config: std::sync::Arc<rustls::ClientConfig>) -> Option<u16> {
    let client = raw::Client::connect_tls(port, HOST, config).await.ok()?;
    raw::get_once(client, HOST, "/").await.ok().map(|answer| answer.status)
}

#[tokio::test]
async fn clients_are_let_in_by_a_certificate_of_the_named_authority_alone() {
    let (authority, stranger) = (Authority::default(), Authority::new("stranger"));
    let backend = Backend::echo("one").await;
    let (port, _gateway, _folder) = guarded("", &authority, &backend).await;
    let trust = authority.trust();
    assert_eq!(status_as(port, trust.client_as(&authority.leaf(&["client"]))).await, Some(200));
    assert_eq!(status_as(port, trust.client_as(&stranger.leaf(&["client"]))).await, None);
    assert_eq!(status_as(port, authority.client(&["http/1.1"])).await, None, "without a certificate");
}

#[tokio::test]
async fn clients_without_a_valid_certificate_are_let_in_where_the_gateway_falls_back() {
    let (authority, stranger) = (Authority::default(), Authority::new("stranger"));
    let backend = Backend::echo("one").await;
    let (port, _gateway, _folder) = guarded(", mode: AllowInsecureFallback", &authority, &backend).await;
    let trust = authority.trust();
    for config in [
        trust.client_as(&authority.leaf(&["client"])),
        trust.client_as(&stranger.leaf(&["client"])),
        authority.client(&["http/1.1"]),
    ] {
        assert_eq!(status_as(port, config).await, Some(200));
    }
}
