//! `sluice run --kube`: objects from an API server, which comes, refuses and goes away.

use serde_json::{Value, json};
use sluice_model::Kind;
use sluice_tests::gateway::Options;
use sluice_tests::{ApiServer, Backend, Folder, Gateway, ports, raw, wait};
use std::net::SocketAddr;

const HOST: &str = "shop.example";

pub(crate) fn class() -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "sluice"},
        "spec": {"controllerName": "sluice.dev/gateway-controller"}})
}

pub(crate) fn gateway(port: u16) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": "edge", "namespace": "shop"},
        "spec": {"gatewayClassName": "sluice", "listeners": [{"name": "http", "port": port, "protocol": "HTTP"}]}})
}

pub(crate) fn route(service: &str) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "all", "namespace": "shop"},
        "spec": {"parentRefs": [{"name": "edge"}], "hostnames": [HOST],
                 "rules": [{"backendRefs": [{"name": service, "port": 80}]}]}})
}

pub(crate) fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.7", "ports": [{"name": "main", "port": 80}]}})
}

pub(crate) fn slice(service: &str, endpoint: SocketAddr) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": format!("{service}-1"), "namespace": "shop",
                     "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"name": "main", "port": endpoint.port()}],
        "endpoints": [{"addresses": [endpoint.ip().to_string()], "conditions": {"ready": true}}]})
}

pub(crate) struct Cluster {
    pub(crate) server: ApiServer,
    pub(crate) folder: Folder,
    backends: Vec<Backend>,
    port: u16,
}

impl Cluster {
    /// A route to the first of two backends.
    pub(crate) async fn new() -> Cluster {
        let server = ApiServer::start().await;
        let port = ports::free();
        let mut backends = Vec::new();
        server.apply(class());
        server.apply(gateway(port));
        for name in ["one", "two"] {
            let backend = Backend::echo(name).await;
            server.apply(service(name));
            server.apply(slice(name, backend.address));
            backends.push(backend);
        }
        server.apply(route("one"));
        Cluster { server, folder: Folder::new(), backends, port }
    }

    fn options(&self) -> Options {
        Options::from_cluster(&self.folder, &self.server)
    }

    /// Waits until `backend` answers.
    async fn answered_by(&self, backend: &str) {
        wait::until(&format!("an answer of `{backend}`"), || async {
            let answer = raw::get(self.port, HOST, "/").await.ok()?;
            (answer.status == 200 && answer.json()["backend"] == backend).then_some(())
        })
        .await;
    }
}

async fn ready_body(gateway: &Gateway, wanted: impl Fn(u16, &str) -> bool) -> String {
    wait::until("/readyz to say so", || async {
        let (status, body) = gateway.public_get("/readyz").await.ok()?;
        wanted(status, &body).then_some(body)
    })
    .await
}

#[tokio::test]
async fn a_route_of_a_cluster_is_served_and_follows_its_changes() {
    let cluster = Cluster::new().await;
    let gateway = cluster.options().start().await;
    // Ready means that the first configuration is served: no second try.
    let answer = raw::get(cluster.port, HOST, "/").await.unwrap();
    assert_eq!((answer.status, &answer.json()["backend"]), (200, &json!("one")));

    cluster.server.apply(route("two"));
    cluster.answered_by("two").await;
    cluster.server.apply(slice("two", cluster.backends[0].address));
    cluster.answered_by("one").await;
    cluster.server.delete(Kind::HTTPRoute, "shop", "all");
    wait::until("404", || async {
        let answer = raw::get(cluster.port, HOST, "/").await.ok()?;
        (answer.status == 404).then_some(())
    })
    .await;
    let log = gateway.log().join("\n");
    assert!(log.contains("configuration applied: 1 route changed (HTTPRoute shop/all)"), "{log}");
    assert!(!log.contains("\"ERROR\""), "{log}");
    assert!(gateway.stop().await.success());
}

#[tokio::test]
async fn what_no_route_leads_to_makes_no_new_generation() {
    let cluster = Cluster::new().await;
    let gateway = cluster.options().start().await;
    let generation = gateway.metric("sluice_config_generation", &["applied"]).await;
    cluster.server.apply(service("unused"));
    cluster.server.apply(route("two"));
    cluster.answered_by("two").await;
    assert_eq!(gateway.metric("sluice_config_generation", &["applied"]).await, generation + 1.0);
}

#[tokio::test]
async fn traffic_goes_on_while_the_api_server_is_away_and_changes_arrive_when_it_is_back() {
    let mut cluster = Cluster::new().await;
    let gateway = cluster.options().start().await;
    assert_eq!(gateway.metric("sluice_watch_stale_seconds", &["HTTPRoute"]).await, 0.0);
    cluster.server.stop().await;
    let body = ready_body(&gateway, |status, body| status == 200 && body.contains("HTTPRoute failing")).await;
    assert!(body.starts_with("ready\n"), "{body}");
    cluster.answered_by("one").await;
    assert!(gateway.metric("sluice_watch_stale_seconds", &["HTTPRoute"]).await > 0.0);
    let (_, page) = gateway.admin_get("/").await.unwrap();
    assert!(page.contains("Watches (21)") && page.contains(">failing<"), "{page}");
    assert!(gateway.metric("sluice_config_problems", &["SLUICE-P603"]).await >= 1.0);

    cluster.server.apply(route("two"));
    cluster.server.resume().await;
    cluster.answered_by("two").await;
    ready_body(&gateway, |_, body| body == "ready\n").await;
    assert_eq!(gateway.metric("sluice_watch_stale_seconds", &[]).await, 0.0);
}

#[tokio::test]
async fn a_gateway_that_has_not_read_its_cluster_is_not_ready_and_says_why() {
    let mut cluster = Cluster::new().await;
    cluster.server.stop().await;
    let mut gateway = cluster.options().without_waiting().start().await;
    let body = ready_body(&gateway, |status, body| status == 503 && body.contains("refused")).await;
    assert!(body.contains("waiting for GatewayClass"), "{body}");
    cluster.server.resume().await;
    gateway.ready().await;
    cluster.answered_by("one").await;
}

#[tokio::test]
async fn a_kind_that_may_not_be_read_is_said_everywhere_and_the_rest_is_served() {
    let cluster = Cluster::new().await;
    cluster.server.forbid(Kind::Ingress);
    cluster.server.serve_versions(Kind::Plugin, &[]);
    let gateway = cluster.options().start().await;
    cluster.answered_by("one").await;
    let body = ready_body(&gateway, |status, body| status == 200 && body.contains("Ingress forbidden")).await;
    assert!(body.contains("networking.k8s.io") && !body.contains("Plugin"), "{body}");
    let (_, problems) = gateway.admin_get("/problems").await.unwrap();
    assert!(problems.contains("SLUICE-P601") && problems.contains("SLUICE-P602"), "{problems}");
    let log = gateway.log().join("\n");
    assert_eq!(log.matches("SLUICE-P601").count(), 1, "{log}");
}

#[tokio::test]
async fn only_named_namespaces_are_served() {
    let cluster = Cluster::new().await;
    let gateway = cluster.options().argument("--namespace=other").start().await;
    assert!(raw::get(cluster.port, HOST, "/").await.is_err(), "a listener of a namespace that was not named");
    let requests = cluster.server.requests().join("\n");
    assert!(requests.contains("/namespaces/other/httproutes?") && !requests.contains("/v1/httproutes?"), "{requests}");
    assert!(gateway.stop().await.success());
}

/// A folder in memory, for what a gateway keeps.
fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

fn keeping(cluster: &Cluster, kept: &tempfile::TempDir) -> Options {
    cluster.options().argument(format!("--last-good={}", kept.path().display())).argument("--last-good-after=1")
}

/// Ends without a word, once it has kept what it serves.
async fn crash(mut gateway: Gateway, kept: &tempfile::TempDir) {
    let file = kept.path().join("last-good.json.gz");
    wait::until("what is served to be kept", || async { file.exists().then_some(()) }).await;
    gateway.signal(rustix::process::Signal::KILL);
    gateway.exited().await;
}

#[tokio::test]
async fn a_gateway_that_crashes_while_the_api_server_is_away_serves_what_it_kept_until_that_is_back() {
    let (mut cluster, kept) = (Cluster::new().await, in_memory());
    let gateway = keeping(&cluster, &kept).start().await;
    assert_eq!(gateway.metric("sluice_last_good_in_use", &[]).await, 0.0);
    crash(gateway, &kept).await;
    cluster.server.stop().await;

    // It writes too, or would: as the only process in the cluster it has both roles.
    let gateway = keeping(&cluster, &kept).label("second").start().await;
    cluster.answered_by("one").await;
    let body = ready_body(&gateway, |status, body| status == 200 && body.contains("last good")).await;
    assert!(body.contains("the last good resources are served, last known to be current"), "{body}");
    assert_eq!(gateway.metric("sluice_last_good_in_use", &[]).await, 1.0);
    assert!(gateway.metric("sluice_last_good_age_seconds", &[]).await > 0.0);
    assert_eq!(gateway.metric("sluice_config_problems", &["SLUICE-P605"]).await, 1.0);
    let (_, page) = gateway.admin_get("/").await.unwrap();
    assert!(page.contains("The API server is away: the last good resources are served"), "{page}");
    let (_, problems) = gateway.admin_get("/problems").await.unwrap();
    assert!(problems.contains("SLUICE-P605") && problems.contains("SLUICE-P603"), "{problems}");

    cluster.server.apply(route("two"));
    cluster.server.resume().await;
    cluster.answered_by("two").await;
    ready_body(&gateway, |_, body| body == "ready\n").await;
    assert_eq!(gateway.metric("sluice_last_good_in_use", &[]).await, 0.0);
    assert_eq!(gateway.metric("sluice_config_problems", &["SLUICE-P605"]).await, 0.0);
    let log = gateway.log().join("\n");
    assert!(log.contains("serving the last good resources"), "{log}");
    // What is written then is of the API server's own objects.
    wait::until("the status of the route's newest generation", || async {
        let route = cluster.server.get("httproutes", "shop", "all")?;
        let observed = &route["status"]["parents"][0]["conditions"][0]["observedGeneration"];
        (*observed == route["metadata"]["generation"]).then_some(())
    })
    .await;
    assert!(gateway.stop().await.success());
}

#[tokio::test]
async fn nothing_is_written_to_the_cluster_from_what_was_kept_whoever_leads() {
    let (cluster, kept) = (Cluster::new().await, in_memory());
    let gateway = keeping(&cluster, &kept).start().await;
    let class = || cluster.server.get("gatewayclasses", "", "sluice").unwrap()["status"].clone();
    wait::until("the class's status", || async { class()["conditions"].is_array().then_some(()) }).await;
    wait::until("what is served to be kept", || async { kept.path().join("last-good.json.gz").exists().then_some(()) })
        .await;
    assert!(gateway.stop().await.success());

    // The API server is there, and takes writes; one kind fails, so that nothing it lists counts yet.
    cluster.server.set_status(Kind::GatewayClass, "", "sluice", json!({}));
    cluster.server.fail(Kind::HTTPRoute);
    let gateway = keeping(&cluster, &kept).label("second").start().await;
    cluster.answered_by("one").await;
    assert_eq!(gateway.metric("sluice_last_good_in_use", &[]).await, 1.0);
    let renewed = || cluster.server.get("leases", "sluice-system", "sluice-controller").map(|l| l["spec"].clone());
    wait::until("it to lead", || async {
        (gateway.metric("sluice_controller_leader", &[]).await == 1.0).then_some(())
    })
    .await;
    let first = renewed();
    wait::until("the Lease to be renewed", || async { (renewed() != first).then_some(()) }).await;
    assert!(class()["conditions"].is_null(), "{}", class());
    assert_eq!(gateway.metric("sluice_last_good_in_use", &[]).await, 1.0);

    cluster.server.allow(Kind::HTTPRoute);
    wait::until("the class's status", || async { class()["conditions"].is_array().then_some(()) }).await;
    assert_eq!(gateway.metric("sluice_last_good_in_use", &[]).await, 0.0);
    assert!(gateway.stop().await.success());
}

#[tokio::test]
async fn what_cannot_be_used_is_said_and_the_gateway_waits_for_the_api_server() {
    let (mut cluster, kept) = (Cluster::new().await, in_memory());
    let gateway = keeping(&cluster, &kept).start().await;
    crash(gateway, &kept).await;
    cluster.server.stop().await;
    std::fs::write(kept.path().join("last-good.json.gz"), "damaged").unwrap();
    let mut gateway = keeping(&cluster, &kept).label("second").without_waiting().start().await;
    wait::until("the refusal", || async {
        let (_, problems) = gateway.admin_get("/problems").await.ok()?;
        problems.contains("SLUICE-P606").then_some(())
    })
    .await;
    ready_body(&gateway, |status, body| status == 503 && body.contains("refused")).await;
    cluster.server.resume().await;
    gateway.ready().await;
    cluster.answered_by("one").await;
}

#[tokio::test]
async fn secrets_are_kept_in_memory_only_and_by_those_who_serve() {
    let cluster = Cluster::new().await;
    for (arguments, said) in [
        (vec!["--last-good=/proc".to_owned()], "/proc is not in memory"),
        (vec!["--last-good=/dev/shm".to_owned(), "--role=controller".to_owned()], "--role controller"),
        (vec!["--last-good-after=3".to_owned()], "--last-good <DIR>"),
    ] {
        let options = arguments.iter().fold(cluster.options(), |options, argument| options.argument(argument));
        let mut gateway = options.without_waiting().start().await;
        assert!(!gateway.exited().await.success(), "{arguments:?}");
        wait::until(&format!("`{said}` to be said of {arguments:?}"), || async {
            gateway.log().join("\n").contains(said).then_some(())
        })
        .await;
    }
}
