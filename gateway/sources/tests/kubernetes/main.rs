//! The cluster source against an API server in this process: what is read, what is told, and what a server that
//! misbehaves leaves alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod last_good;

use serde_json::{Value, json};
use sluice_model::{Code, Kind, ObjectRef, Problem, Severity};
use sluice_resources::{Change, Object, Store, Unreadable};
use sluice_sources::kubernetes::{
    ClientOptions, KubernetesSource, LastGoodOptions, Pauses, Scope, WatchState, WatchStatus, connect,
};
use sluice_tests::{ApiServer, wait};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// As the product's, but a test does not wait for seconds.
const PAUSES: Pauses = Pauses {
    first: Duration::from_millis(5),
    last: Duration::from_millis(50),
    absent: Duration::from_millis(50),
    grace: Duration::from_secs(60),
    held: Duration::from_secs(10),
};

/// A source whose watches run, and a consumer that keeps what it is told.
struct Cluster {
    server: ApiServer,
    source: KubernetesSource,
    store: Store,
    unreadable: Vec<Arc<Unreadable>>,
    problems: Vec<Problem>,
    /// One entry a set of changes.
    sets: Vec<Vec<Change>>,
    complete: bool,
    _tasks: JoinSet<()>,
}

impl Cluster {
    async fn of(server: ApiServer) -> Cluster {
        Cluster::in_namespaces(server, &[], PAUSES).await
    }

    async fn in_namespaces(server: ApiServer, namespaces: &[&str], pauses: Pauses) -> Cluster {
        Cluster::with(server, namespaces, pauses, None).await
    }

    async fn with(
        server: ApiServer,
        namespaces: &[&str],
        pauses: Pauses,
        last_good: Option<LastGoodOptions>,
    ) -> Cluster {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kubeconfig");
        std::fs::write(&file, server.kubeconfig()).unwrap();
        let client = connect(&ClientOptions { kubeconfig: Some(file), context: None }).await.unwrap();
        let namespaces: Vec<String> = namespaces.iter().map(ToString::to_string).collect();
        let scope =
            Scope { services_of: vec!["sluice-system".to_owned()], with_status: vec![Kind::HTTPRoute], namespaces };
        let mut source = KubernetesSource::new(client, &scope, pauses);
        if let Some(options) = last_good {
            source = source.with_last_good(&options).unwrap();
        }
        let mut tasks = JoinSet::new();
        let keeper = source.clone();
        tasks.spawn(async move { keeper.keep_last_good().await });
        for kind in Kind::ALL {
            let source = source.clone();
            tasks.spawn(async move { source.watch(kind).await });
        }
        let (store, problems, sets) = (Store::default(), Vec::new(), Vec::new());
        Cluster { server, source, store, unreadable: Vec::new(), problems, sets, complete: false, _tasks: tasks }
    }

    /// Takes the next update.
    async fn take(&mut self) {
        let waited = tokio::time::timeout(wait::DEADLINE, self.source.changed()).await;
        let seen = waited.unwrap_or_else(|_| panic!("nothing new in time; watches: {:#?}", self.source.statuses()));
        let update = self.source.read(seen);
        self.complete |= update.complete;
        self.problems = update.problems;
        if update.changes.is_empty() {
            return;
        }
        assert!(update.complete, "changes before everything was read");
        for change in update.changes.clone() {
            match change {
                Change::Upsert(object) => {
                    self.store.upsert(object);
                }
                Change::Delete(reference) => {
                    self.store.remove(&reference);
                }
                Change::Unreadable(unreadable) => self.unreadable.push(unreadable),
                Change::File { .. } => panic!("a file from a cluster"),
            }
        }
        self.sets.push(update.changes);
    }

    /// Takes updates until `wanted` holds.
    async fn until(&mut self, what: &str, wanted: impl Fn(&Cluster) -> bool) {
        let start = std::time::Instant::now();
        while !wanted(self) {
            assert!(start.elapsed() < wait::DEADLINE, "waited for: {what}; have {:?}", self.names());
            self.take().await;
        }
    }

    async fn synced(&mut self) {
        self.until("everything to be read", |cluster| cluster.complete).await;
    }

    fn names(&self) -> BTreeSet<String> {
        self.store.iter().map(|object| object.reference().to_string()).collect()
    }

    fn has(&self, object: &str) -> bool {
        self.names().contains(object)
    }

    fn status(&self, kind: Kind) -> WatchStatus {
        self.source.statuses().into_iter().find(|status| status.kind == kind).unwrap()
    }

    async fn until_status(&self, kind: Kind, wanted: impl Fn(&WatchStatus) -> bool) -> WatchStatus {
        wait::until(&format!("the watch of {kind}"), || async {
            let status = self.status(kind);
            wanted(&status).then_some(status)
        })
        .await
    }

    fn codes(&self) -> Vec<Code> {
        self.problems.iter().map(|problem| problem.code).collect()
    }

    fn port_of(&self, service: &str) -> Option<i32> {
        let object = self.store.get(&ObjectRef::new(Kind::Service, "shop", service))?;
        let Object::Service(service) = object else { return None };
        Some(service.spec.as_ref()?.ports.as_ref()?.first()?.port)
    }
}

fn service(name: &str, port: u16) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"ports": [{"port": port}]}})
}

fn in_namespace(mut object: Value, namespace: &str) -> Value {
    object["metadata"]["namespace"] = namespace.into();
    object
}

fn route(name: &str) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]}})
}

fn secret(name: &str, of_type: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "shop"},
        "type": of_type, "data": {"tls.crt": "eA==", "tls.key": "eA=="}})
}

fn config_map(name: &str, text: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "shop"},
        "data": {"text": text}})
}

fn plugin(name: &str, map: &str) -> Value {
    json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "Plugin", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"source": {"configMap": {"name": map, "key": "plugin.wasm"}}}})
}

fn ingress(name: &str, secret: &str) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"tls": [{"secretName": secret}], "rules": []}})
}

#[tokio::test]
async fn the_first_set_holds_everything_and_later_ones_what_changed() {
    let server = ApiServer::start().await;
    server.apply(service("web", 80));
    server.apply(route("all"));
    let mut cluster = Cluster::of(server).await;
    cluster.synced().await;
    assert_eq!(cluster.sets.len(), 1);
    assert_eq!(cluster.names(), BTreeSet::from(["Service shop/web".into(), "HTTPRoute shop/all".into()]));
    assert!(cluster.problems.is_empty(), "{:?}", cluster.problems);

    cluster.server.apply(service("web", 81));
    cluster.until("the new port", |c| c.port_of("web") == Some(81)).await;
    cluster.server.apply(service("api", 80));
    cluster.until("the new Service", |c| c.has("Service shop/api")).await;
    cluster.server.delete(Kind::Service, "shop", "web");
    cluster.until("the deletion", |c| !c.has("Service shop/web")).await;
    assert!(cluster.sets.iter().skip(1).all(|set| set.len() == 1), "{:?}", cluster.sets);
    let status = cluster.status(Kind::Service);
    assert_eq!((status.state, status.objects, status.stale), (WatchState::Synced, 1, Duration::ZERO));
}

#[tokio::test]
async fn an_empty_cluster_is_complete_too() {
    let mut cluster = Cluster::of(ApiServer::start().await).await;
    cluster.synced().await;
    assert!(cluster.names().is_empty() && cluster.problems.is_empty());
}

#[tokio::test]
async fn a_change_of_the_status_alone_is_no_change() {
    let server = ApiServer::start().await;
    server.apply(route("all"));
    let mut cluster = Cluster::of(server).await;
    cluster.synced().await;
    let mut written = route("all");
    written["status"] = json!({"parents": [{"controllerName": "x"}]});
    cluster.server.apply(written);
    cluster.server.apply(service("after", 80));
    cluster.until("what came after it", |c| c.has("Service shop/after")).await;
    let told: usize = cluster.sets.iter().skip(1).map(Vec::len).sum();
    assert_eq!(told, 1, "{:?}", cluster.sets);
}

#[tokio::test]
async fn what_arrives_while_the_consumer_is_busy_is_taken_together_the_newest_of_each() {
    let mut cluster = Cluster::of(ApiServer::start().await).await;
    cluster.synced().await;
    for port in 1..=2_000 {
        cluster.server.apply(service("web", port));
    }
    cluster.server.apply(service("last", 80));
    // The consumer is busy until the watch has seen the last one.
    cluster.until_status(Kind::Service, |status| status.objects == 2).await;
    cluster.take().await;
    assert_eq!(cluster.sets.last().unwrap().len(), 2, "{:?}", cluster.sets);
    assert_eq!(cluster.port_of("web"), Some(2_000));
}

#[tokio::test]
async fn a_server_that_does_not_stream_lists_is_read_in_pages() {
    for refusal in [400, 422] {
        let server = ApiServer::start().await;
        server.refuse_streaming(refusal);
        for n in 0..7 {
            server.apply(service(&format!("s{n}"), 80));
        }
        let mut cluster = Cluster::of(server).await;
        cluster.synced().await;
        assert_eq!(cluster.names().len(), 7);
        assert!(cluster.server.requests().iter().any(|request| request.contains("continue=")));
        cluster.server.apply(service("later", 80));
        cluster.until("a change after the list", |c| c.has("Service shop/later")).await;
        assert!(cluster.problems.is_empty(), "{:?}", cluster.problems);
    }
}

#[tokio::test]
async fn a_watch_that_is_cut_goes_on_where_it_was() {
    let mut cluster = Cluster::of(ApiServer::start().await).await;
    cluster.synced().await;
    cluster.server.apply(service("before", 80));
    cluster.until("an event", |c| c.has("Service shop/before")).await;
    for n in 0..5 {
        cluster.server.cut();
        let name = format!("s{n}");
        cluster.server.apply(service(&name, 80));
        cluster.until("what happened meanwhile", |c| c.has(&format!("Service shop/{name}"))).await;
    }
    let lists = cluster.server.requests().iter().filter(|r| r.contains("/services?") && r.contains("Initial")).count();
    assert_eq!(lists, 1, "listed again where that was not needed");
    cluster.until_status(Kind::Service, |status| status.stale.is_zero()).await;
}

#[tokio::test]
async fn after_a_bookmark_a_quiet_watch_is_not_listed_again_though_history_is_gone() {
    let server = ApiServer::start().await;
    server.apply(service("web", 80));
    let mut cluster = Cluster::of(server).await;
    cluster.synced().await;
    for n in 0..10 {
        cluster.server.apply(route(&format!("r{n}")));
    }
    cluster.until("the routes", |c| c.has("HTTPRoute shop/r9")).await;
    cluster.server.bookmark();
    cluster.server.compact();
    // Only once the bookmark has arrived does the watch survive the cut without a list; the change after it shows that.
    cluster.server.apply(service("probe", 80));
    cluster.until("the stream to have caught up", |c| c.has("Service shop/probe")).await;
    cluster.server.cut();
    cluster.server.apply(service("later", 80));
    cluster.until("what came after the cut", |c| c.has("Service shop/later")).await;
    let lists = cluster.server.requests().iter().filter(|r| r.contains("/services?") && r.contains("Initial")).count();
    assert_eq!(lists, 1);
}

#[tokio::test]
async fn after_410_everything_is_listed_again_and_what_was_deleted_meanwhile_is_found_all_at_once() {
    let server = ApiServer::start().await;
    for name in ["kept", "changed", "deleted"] {
        server.apply(service(name, 80));
    }
    let mut cluster = Cluster::of(server).await;
    cluster.synced().await;
    cluster.server.stop().await;
    cluster.server.delete(Kind::Service, "shop", "deleted");
    cluster.server.apply(service("changed", 81));
    cluster.server.apply(service("new", 80));
    cluster.server.compact();
    cluster.server.resume().await;
    cluster.until("the difference", |c| c.has("Service shop/new")).await;
    assert!(!cluster.has("Service shop/deleted") && cluster.has("Service shop/kept"));
    assert_eq!(cluster.port_of("changed"), Some(81));
    let last = cluster.sets.last().unwrap();
    assert_eq!(last.len(), 3, "not one set, or more than the difference: {:?}", cluster.sets);
}

#[tokio::test]
async fn an_api_server_that_is_away_leaves_what_was_read_and_is_said_once() {
    let server = ApiServer::start().await;
    server.apply(service("web", 80));
    let mut cluster = Cluster::of(server).await;
    cluster.synced().await;
    assert!(cluster.status(Kind::Service).stale.is_zero());
    cluster.server.stop().await;
    cluster.until("the problem", |c| c.codes().contains(&Code::WatchFailing)).await;
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::ConfigMap) {
        cluster.until_status(kind, |status| matches!(status.state, WatchState::Failing { .. })).await;
    }
    cluster.until("one problem for all kinds", |c| c.codes() == [Code::WatchFailing]).await;
    assert!(cluster.has("Service shop/web"));
    assert!(!cluster.status(Kind::Service).stale.is_zero());

    cluster.server.apply(service("later", 80));
    cluster.server.resume().await;
    cluster.until("what changed meanwhile", |c| c.has("Service shop/later")).await;
    cluster.until("the problem to be solved", |c| c.problems.is_empty()).await;
    cluster.until_status(Kind::Service, |status| status.stale.is_zero()).await;
}

#[tokio::test]
async fn nothing_is_handed_on_before_the_api_server_can_be_reached() {
    let mut server = ApiServer::start().await;
    server.apply(service("web", 80));
    server.stop().await;
    let mut cluster = Cluster::of(server).await;
    cluster.until("the problem", |c| c.codes().contains(&Code::WatchFailing)).await;
    assert!(!cluster.complete && cluster.sets.is_empty());
    cluster.server.resume().await;
    cluster.synced().await;
    cluster.until("the objects", |c| c.has("Service shop/web")).await;
}

#[tokio::test]
async fn a_kind_that_may_not_be_read_is_said_with_what_it_needs_and_the_rest_goes_on() {
    let server = ApiServer::start().await;
    server.forbid(Kind::HTTPRoute);
    server.apply(service("web", 80));
    server.apply(route("all"));
    let mut cluster = Cluster::of(server).await;
    cluster.synced().await;
    cluster.until("the Service", |c| c.has("Service shop/web")).await;
    assert!(!cluster.has("HTTPRoute shop/all"));
    assert_eq!(cluster.codes(), [Code::WatchForbidden]);
    let message = &cluster.problems[0].message;
    for part in ["list and watch", "httproutes", "gateway.networking.k8s.io", "cannot list it"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert_eq!(cluster.status(Kind::HTTPRoute).state.name(), "forbidden");

    cluster.server.allow(Kind::HTTPRoute);
    cluster.until("the route", |c| c.has("HTTPRoute shop/all") && c.problems.is_empty()).await;
    // Rights that are taken away later take nothing that was read.
    cluster.server.forbid(Kind::HTTPRoute);
    cluster.until("the problem", |c| c.codes().contains(&Code::WatchForbidden)).await;
    assert!(cluster.has("HTTPRoute shop/all"));
}

#[tokio::test]
async fn a_kind_of_the_experimental_channel_is_missed_by_nobody_and_read_once_it_is_there() {
    let server = ApiServer::start().await;
    server.serve_versions(Kind::XBackendTrafficPolicy, &[]);
    server.apply(json!({"apiVersion": "gateway.networking.x-k8s.io/v1alpha1", "kind": "XBackendTrafficPolicy",
        "metadata": {"name": "retries", "namespace": "shop"},
        "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "web"}], "retryConstraint": {}}}));
    let mut cluster = Cluster::of(server).await;
    cluster.synced().await;
    assert_eq!(cluster.status(Kind::XBackendTrafficPolicy).state, WatchState::NotInstalled);
    assert_eq!(cluster.codes(), []);
    cluster.server.serve_versions(Kind::XBackendTrafficPolicy, &["v1alpha1"]);
    cluster.until("the policy", |c| c.has("XBackendTrafficPolicy shop/retries")).await;
}

#[tokio::test]
async fn a_kind_that_is_not_installed_is_a_warning_until_it_appears() {
    let server = ApiServer::start().await;
    for kind in [Kind::HTTPRoute, Kind::BackendTLSPolicy] {
        server.serve_versions(kind, &[]);
    }
    server.apply(service("web", 80));
    server.apply(route("all"));
    let mut cluster = Cluster::of(server).await;
    cluster.synced().await;
    cluster.until("the Service", |c| c.has("Service shop/web")).await;
    assert_eq!(cluster.codes(), [Code::KindNotInstalled, Code::KindNotInstalled]);
    assert!(cluster.problems.iter().all(|problem| problem.severity == Severity::Warning));
    let status = cluster.status(Kind::HTTPRoute);
    assert_eq!((status.state, status.stale), (WatchState::NotInstalled, Duration::ZERO));

    cluster.server.serve_versions(Kind::HTTPRoute, &["v1"]);
    cluster.until("the route", |c| c.has("HTTPRoute shop/all")).await;
    cluster.until("one problem less", |c| c.codes() == [Code::KindNotInstalled]).await;
}

#[tokio::test]
async fn a_kind_that_is_not_served_all_of_a_sudden_keeps_its_objects_for_a_while() {
    let server = ApiServer::start().await;
    server.apply(route("all"));
    let grace = Duration::from_secs(2);
    let mut cluster = Cluster::in_namespaces(server, &[], Pauses { grace, ..PAUSES }).await;
    cluster.synced().await;
    cluster.server.serve_versions(Kind::HTTPRoute, &[]);
    cluster.until("the problem", |c| c.codes().contains(&Code::WatchFailing)).await;
    assert!(cluster.has("HTTPRoute shop/all"));
    cluster.until("the end of grace", |c| !c.has("HTTPRoute shop/all")).await;
    assert_eq!(cluster.status(Kind::HTTPRoute).state, WatchState::NotInstalled);
}

#[tokio::test]
async fn kinds_are_read_in_the_version_that_is_served() {
    let server = ApiServer::start().await;
    server.serve_versions(Kind::ReferenceGrant, &["v1beta1"]);
    server.serve_versions(Kind::BackendTLSPolicy, &["v1alpha3"]);
    server.apply(json!({"apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant",
        "metadata": {"name": "grant", "namespace": "shop"},
        "spec": {"from": [{"group": "", "kind": "Service", "namespace": "x"}], "to": [{"group": "", "kind": "Secret"}]}}));
    server.apply(json!({"apiVersion": "gateway.networking.k8s.io/v1alpha3", "kind": "BackendTLSPolicy",
        "metadata": {"name": "tls", "namespace": "shop"},
        "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "web"}],
                 "validation": {"hostname": "web.example", "wellKnownCACertificates": "System"}}}));
    let mut cluster = Cluster::of(server).await;
    cluster.synced().await;
    cluster.until("the grant", |c| c.has("ReferenceGrant shop/grant")).await;
    assert!(cluster.has("BackendTLSPolicy shop/tls"));
    assert!(cluster.problems.is_empty(), "{:?}", cluster.problems);
}

#[tokio::test]
async fn an_object_that_does_not_fit_is_its_own_problem_and_what_it_said_before_stays() {
    let server = ApiServer::start().await;
    let mut broken = route("broken");
    broken["spec"]["rules"] = json!("none");
    server.apply(broken.clone());
    server.apply(route("good"));
    let mut cluster = Cluster::of(server).await;
    cluster.synced().await;
    cluster.until("the good one", |c| c.has("HTTPRoute shop/good")).await;
    assert!(!cluster.has("HTTPRoute shop/broken"));
    assert_eq!(cluster.codes(), [Code::WrongType]);
    assert_eq!(cluster.problems[0].object.as_ref().unwrap().name.as_ref(), "broken");
    let told = |cluster: &Cluster| {
        let told = cluster.unreadable.iter();
        told.map(|told| (told.reference.name.to_string(), told.generation, told.parents.len())).collect::<Vec<_>>()
    };
    assert_eq!(told(&cluster), [("broken".to_owned(), 1, 1)]);

    cluster.server.apply(route("broken"));
    cluster.until("the object mended", |c| c.has("HTTPRoute shop/broken") && c.problems.is_empty()).await;
    cluster.server.apply(broken);
    cluster.until("the problem again", |c| c.codes() == [Code::WrongType]).await;
    assert_eq!(told(&cluster)[1..], [("broken".to_owned(), 3, 1)]);
    assert!(cluster.has("HTTPRoute shop/broken"));
    cluster.server.delete(Kind::HTTPRoute, "shop", "broken");
    cluster.until("all of it gone", |c| !c.has("HTTPRoute shop/broken") && c.problems.is_empty()).await;
}

#[tokio::test]
async fn unknown_fields_are_warnings_for_our_kinds_and_nothing_for_built_in_ones() {
    let server = ApiServer::start().await;
    let mut newer = route("newer");
    newer["spec"]["novelty"] = json!({"on": true});
    server.apply(newer);
    let mut newer = service("web", 80);
    newer["spec"]["novelty"] = json!("default");
    server.apply(newer);
    let mut cluster = Cluster::of(server).await;
    cluster.synced().await;
    cluster.until("both", |c| c.has("HTTPRoute shop/newer") && c.has("Service shop/web")).await;
    assert_eq!(cluster.codes(), [Code::UnknownField]);
    assert_eq!(cluster.problems[0].severity, Severity::Warning);
}

#[tokio::test]
async fn of_secrets_and_config_maps_only_certificates_and_what_is_named_is_asked_for() {
    let server = ApiServer::start().await;
    server.apply(secret("certificate", "kubernetes.io/tls"));
    server.apply(secret("token", "kubernetes.io/service-account-token"));
    server.apply(secret("named", "Opaque"));
    server.apply(ingress("a", "certificate"));
    server.apply(ingress("b", "named"));
    server.apply(config_map("code", "1"));
    server.apply(config_map("other", "1"));
    server.apply(plugin("p", "code"));
    let mut cluster = Cluster::of(server).await;
    cluster.synced().await;
    cluster.until("what is named", |c| c.has("Secret shop/named")).await;
    assert_eq!(cluster.sets.len(), 1, "what is named comes with the first set: {:?}", cluster.sets);
    for there in ["Secret shop/certificate", "ConfigMap shop/code"] {
        assert!(cluster.has(there), "{there}: {:?}", cluster.names());
    }
    assert!(!cluster.has("Secret shop/token") && !cluster.has("ConfigMap shop/other"));
    let requests = cluster.server.requests();
    let asked = |plural: &str| -> BTreeSet<String> {
        let of_kind = requests.iter().filter(|request| request.contains(&format!("/{plural}?")));
        of_kind
            .map(|r| r.split("fieldSelector=").nth(1).unwrap_or("all").split('&').next().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        asked("secrets"),
        BTreeSet::from(["type=kubernetes.io/tls".into(), "metadata.name=named,type!=kubernetes.io/tls".into()])
    );
    assert_eq!(asked("configmaps"), BTreeSet::from(["metadata.name=code".into()]));

    cluster.server.apply(config_map("code", "2"));
    cluster
        .until("the map's change", |c| {
            c.store.config_maps.values().any(|map| map.data.as_ref().is_some_and(|data| data["text"] == "2"))
        })
        .await;
    cluster.server.delete(Kind::Plugin, "shop", "p");
    cluster.until("the map to go with its user", |c| !c.has("ConfigMap shop/code")).await;
}

#[tokio::test]
async fn a_secret_that_changes_its_type_is_found_by_the_other_watch() {
    let server = ApiServer::start().await;
    server.apply(secret("web", "Opaque"));
    server.apply(ingress("a", "web"));
    let mut cluster = Cluster::of(server).await;
    cluster.synced().await;
    cluster.until("the Secret", |c| c.has("Secret shop/web")).await;
    let is = |cluster: &Cluster, of_type: &str| {
        cluster.store.secrets.values().any(|secret| secret.type_.as_deref() == Some(of_type))
    };
    for of_type in ["kubernetes.io/tls", "Opaque", "kubernetes.io/tls"] {
        cluster.server.delete(Kind::Secret, "shop", "web");
        cluster.server.apply(secret("web", of_type));
        cluster.until("the Secret of the other type", |c| is(c, of_type)).await;
    }
}

#[tokio::test]
async fn an_object_comes_with_what_it_is_the_first_to_name() {
    let server = ApiServer::start().await;
    server.apply(config_map("v1", "1"));
    server.apply(plugin("p", "v1"));
    let mut cluster = Cluster::of(server).await;
    cluster.synced().await;
    cluster.server.apply(config_map("v2", "2"));
    cluster.server.apply(plugin("p", "v2"));
    let names_v2 = |cluster: &Cluster| {
        cluster.store.plugins.values().any(|p| p.spec.source.config_map.as_ref().is_some_and(|map| map.name == "v2"))
    };
    cluster.until("the new form", names_v2).await;
    assert!(cluster.has("ConfigMap shop/v2"), "the Plugin came before its code");
    cluster.until("what nobody names any more to go", |c| !c.has("ConfigMap shop/v1")).await;
    let order: Vec<usize> = [names_first as fn(&Change) -> bool, deletes_v1]
        .iter()
        .map(|wanted| cluster.sets.iter().position(|set| set.iter().any(wanted)).unwrap())
        .collect();
    assert!(order[0] < order[1], "{:?}", cluster.sets);
}

fn names_first(change: &Change) -> bool {
    matches!(change, Change::Upsert(Object::Plugin(p))
        if p.spec.source.config_map.as_ref().is_some_and(|map| map.name == "v2"))
}

fn deletes_v1(change: &Change) -> bool {
    matches!(change, Change::Delete(object) if object.kind == Kind::ConfigMap && &*object.name == "v1")
}

#[tokio::test]
async fn of_named_namespaces_only_their_objects_are_read_and_kinds_without_namespace_all_the_same() {
    let server = ApiServer::start().await;
    for namespace in ["shop", "other", "third"] {
        server.apply(in_namespace(service("web", 80), namespace));
    }
    server.apply(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "third"}}));
    let mut cluster = Cluster::in_namespaces(server, &["shop", "other"], PAUSES).await;
    cluster.synced().await;
    let expected = ["Service shop/web", "Service other/web", "Namespace third"].map(str::to_owned);
    assert_eq!(cluster.names(), BTreeSet::from(expected));
    let requests = cluster.server.requests();
    assert!(!requests.iter().any(|request| request.starts_with("/api/v1/services")), "{requests:?}");
}

#[tokio::test]
async fn slices_without_a_service_are_not_asked_for() {
    let server = ApiServer::start().await;
    let slice = |name: &str, labels: Value| {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": name, "namespace": "shop", "labels": labels},
            "addressType": "IPv4", "endpoints": [], "ports": []})
    };
    server.apply(slice("mine", json!({"kubernetes.io/service-name": "web"})));
    server.apply(slice("nobodys", json!({})));
    let mut cluster = Cluster::of(server).await;
    cluster.synced().await;
    assert_eq!(cluster.names(), BTreeSet::from(["EndpointSlice shop/mine".to_owned()]));
}

#[tokio::test]
async fn a_consumer_that_begins_anew_gets_everything_again() {
    let server = ApiServer::start().await;
    server.apply(service("web", 80));
    server.apply(config_map("code", "1"));
    server.apply(plugin("p", "code"));
    let mut cluster = Cluster::of(server).await;
    cluster.synced().await;
    let first = cluster.names();
    cluster.source.restart();
    (cluster.store, cluster.complete) = (Store::default(), false);
    cluster.sets.clear();
    cluster.synced().await;
    assert_eq!(cluster.names(), first);
    assert_eq!(cluster.sets.len(), 1);
}

#[tokio::test]
async fn asked_to_list_again_the_source_tells_only_differences() {
    let server = ApiServer::start().await;
    server.apply(service("web", 80));
    let mut cluster = Cluster::of(server).await;
    cluster.synced().await;
    let lists = |cluster: &Cluster| {
        cluster.server.requests().iter().filter(|r| r.contains("/services?") && r.contains("Initial")).count()
    };
    assert_eq!(lists(&cluster), 1);
    cluster.source.list_again();
    wait::until("a second list", || async { (lists(&cluster) == 2).then_some(()) }).await;
    cluster.server.apply(service("later", 80));
    cluster.until("the next change", |c| c.has("Service shop/later")).await;
    let told: usize = cluster.sets.iter().skip(1).map(Vec::len).sum();
    assert_eq!(told, 1, "{:?}", cluster.sets);
}

#[tokio::test]
async fn a_status_comes_beside_the_changes_and_is_none() {
    let server = ApiServer::start().await;
    server.apply(route("a"));
    let mut cluster = Cluster::of(server).await;
    cluster.synced().await;
    let object = ObjectRef::new(Kind::HTTPRoute, "shop", "a");
    let first = cluster.source.take_statuses();
    assert_eq!(&*first[&object].as_ref().unwrap().status, "null");
    let sets = cluster.sets.len();
    cluster.server.set_status(Kind::HTTPRoute, "shop", "a", json!({"parents": []}));
    let source = cluster.source.clone();
    tokio::time::timeout(wait::DEADLINE, source.status_changed()).await.unwrap();
    let held = wait::until("the status", || async { source.take_statuses().remove(&object) }).await.unwrap();
    assert_eq!((&*held.status, held.api_version.as_str()), (r#"{"parents":[]}"#, "gateway.networking.k8s.io/v1"));
    cluster.server.delete(Kind::HTTPRoute, "shop", "a");
    cluster.until("the deletion", |cluster| cluster.store.http_routes.is_empty()).await;
    assert_eq!(source.take_statuses().get(&object), Some(&None));
    // The status alone was no change.
    assert_eq!(cluster.sets.len(), sets + 1);
}

#[tokio::test]
async fn services_of_our_own_namespace_are_read_whatever_namespaces_are_served() {
    let server = ApiServer::start().await;
    let mut cluster = Cluster::in_namespaces(server, &["shop"], PAUSES).await;
    cluster.synced().await;
    let requests = cluster.server.requests().join("\n");
    for (path, asked) in [("services", true), ("endpointslices", true), ("httproutes", false), ("secrets", false)] {
        assert_eq!(requests.contains(&format!("/namespaces/sluice-system/{path}?")), asked, "{path}: {requests}");
    }
}
