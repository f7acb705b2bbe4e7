//! ListenerSets: listeners that others add to a Gateway.

use crate::commands::{sluice, text};
use crate::shop::{HOST, backend_of};
use sluice_tests::certificate::{self, Authority};
use sluice_tests::objects::{class, join, secret, service};
use sluice_tests::{Backend, Folder, Gateway, ports, raw, wait};

/// A Gateway that takes ListenerSets of its namespace (`allowed`: `Same` or `None`).
fn gateway(port: u16, allowed: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge, namespace: default}}\nspec:\n  gatewayClassName: sluice\n  allowedListeners: {{namespaces: {{from: {allowed}}}}}\n  listeners:\n  - {{name: http, port: {port}, protocol: HTTP, hostname: {HOST}}}\n"
    )
}

/// `listeners` as a YAML flow sequence.
fn set(name: &str, listeners: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: ListenerSet\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  parentRef: {{name: edge}}\n  listeners: {listeners}\n"
    )
}

fn route(name: &str, parent: &str, service: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  parentRefs: [{{{parent}}}]\n  rules: [{{backendRefs: [{{name: {service}, port: 80}}]}}]\n"
    )
}

/// Who answers for a host; none where nothing is served.
async fn asked(port: u16, host: &str) -> Option<String> {
    let answer = raw::get(port, host, "/").await.ok()?;
    (answer.status == 200).then(|| backend_of(&answer))
}

#[tokio::test]
async fn listeners_of_a_set_serve_beside_the_gateways_own_and_only_their_routes() {
    let (folder, authority) = (Folder::new(), Authority::default());
    let (own, added) = (Backend::echo("own").await, Backend::echo("added").await);
    let (http, https) = (ports::free(), ports::free());
    let leaf = authority.leaf(&["tls.example"]);
    let listeners = format!(
        "[{{name: http, port: {http}, protocol: HTTP, hostname: more.example}}, {{name: https, port: {https}, protocol: HTTPS, hostname: tls.example, tls: {{certificateRefs: [{{name: tls}}]}}}}]"
    );
    let rest = join([
        class(),
        set("more", &listeners),
        secret("tls", &leaf),
        route("own", "name: edge", "own"),
        route("added", "kind: ListenerSet, name: more", "added"),
        service("own", &[own.address]),
        service("added", &[added.address]),
    ]);
    folder.write("rest.yaml", rest);
    folder.write("edge.yaml", gateway(http, "Same"));
    let running = Gateway::start(&folder).await;
    assert_eq!(asked(http, HOST).await.as_deref(), Some("own"));
    assert_eq!(asked(http, "more.example").await.as_deref(), Some("added"));
    let shown = certificate::connect(https, "tls.example", authority.client(&["http/1.1"])).await.unwrap();
    assert_eq!(certificate::shown(&shown).to_vec(), leaf.der.to_vec());

    let admin = running.admin.to_string();
    let listeners = text(&sluice(&["get", "listeners", "--admin", &admin]));
    assert!(listeners.contains("default/edge/default/more/https"), "{listeners}");
    let path = folder.path().display().to_string();
    let url = format!("http://more.example:{http}/");
    let explained = text(&sluice(&["explain", "-f", &path, "GET", &url]));
    assert!(explained.contains("default/edge/default/more/http") && explained.contains("default/added"), "{explained}");

    // The Gateway takes none any more; what it has itself goes on.
    folder.write("edge.yaml", gateway(http, "None"));
    wait::until("the set's listener to go", || async { asked(http, "more.example").await.is_none().then_some(()) })
        .await;
    assert_eq!(asked(http, HOST).await.as_deref(), Some("own"));
    let checked = sluice(&["check", &path]);
    let said = text(&checked);
    assert_eq!(checked.status.code(), Some(1), "{said}");
    for part in ["SLUICE-P311 ListenerSet default/more spec.parentRef", "SLUICE-P206 HTTPRoute default/added"] {
        assert!(said.contains(part), "{part} is missing in {said}");
    }
    folder.write("edge.yaml", gateway(http, "Same"));
    wait::until("the set's listener", || async { asked(http, "more.example").await }).await;
}

#[tokio::test]
async fn the_gateways_own_listener_and_then_the_first_set_serve_where_they_conflict() {
    let folder = Folder::new();
    let mut backends = Vec::new();
    let http = ports::free();
    let mut documents = vec![class(), gateway(http, "Same")];
    for name in ["own", "a", "b"] {
        let backend = Backend::echo(name).await;
        documents.push(service(name, &[backend.address]));
        backends.push(backend);
    }
    let listeners = format!(
        "[{{name: own, port: {http}, protocol: HTTP, hostname: {HOST}}}, {{name: both, port: {http}, protocol: HTTP, hostname: both.example}}]"
    );
    documents.extend([
        set("b", &listeners),
        route("own", "name: edge", "own"),
        route("a", "kind: ListenerSet, name: a", "a"),
        route("b", "kind: ListenerSet, name: b", "b"),
    ]);
    folder.write("all.yaml", join(documents));
    folder.write("a.yaml", set("a", &listeners));
    let _gateway = Gateway::start(&folder).await;
    assert_eq!(asked(http, HOST).await.as_deref(), Some("own"));
    assert_eq!(asked(http, "both.example").await.as_deref(), Some("a"));
    // With the first set its listener goes, and the route of the other one is served.
    folder.remove("a.yaml");
    wait::until("the other set's route", || async {
        (asked(http, "both.example").await.as_deref() == Some("b")).then_some(())
    })
    .await;
}
