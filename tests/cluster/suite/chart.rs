//! The Helm chart: what it renders, and that it grants no more than is used.

use crate::cluster::{NAMESPACE, RELEASE, Sluice, chart, get, helm, kubectl, try_apply, until};
use serde_json::Value;
use sluice_controller::{Place, RIGHTS};
use sluice_model::Kind;
use sluice_sources::yaml;
use sluice_tests::{binary, raw};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;

/// The rights to use one resource in one way: API group, resource, verb.
type Rights = BTreeSet<(String, String, String)>;

/// Values that change what is rendered; each is linted, rendered and shown to an API server.
const VARIANTS: [&[&str]; 9] = [
    &[],
    &["proxy.kind=DaemonSet", "proxy.hostPorts=true", "service.type=ClusterIP"],
    &["proxy.hostPorts=true", "proxy.spread=Required", "proxy.shutdownDelay=0", "proxy.drainTimeout=3600"],
    &[
        "proxy.autoscaling.enabled=true",
        "networkPolicy.enabled=true",
        "networkPolicy.metricsFrom[0].podSelector.matchLabels.app=prometheus",
    ],
    &["networkPolicy.enabled=true", "watchNamespaces={shop,staff}"],
    &["controller.enabled=false"],
    &["watchNamespaces={shop,staff}", "config.ingress.httpPort=8080", "config.ingress.httpsPort=8443"],
    &[
        "service.type=NodePort",
        "service.externalTrafficPolicy=Local",
        "service.nodePorts.http=30080",
        "service.extraPorts[0].name=alt",
        "service.extraPorts[0].port=8080",
        "service.extraPorts[0].targetPort=8080",
    ],
    &[
        "ingressClass.default=true",
        "proxy.labels.team=edge",
        "proxy.spread=None",
        "proxy.disruptionBudget.enabled=false",
        "proxy.lastGood.enabled=false",
        "metrics.dashboard.enabled=true",
    ],
];

async fn rendered(values: &[&str]) -> String {
    let chart = chart();
    let mut arguments =
        vec!["template", RELEASE, &chart, "--namespace", NAMESPACE, "--set", "gatewayClass.create=Always"];
    arguments.extend(values.iter().flat_map(|value| ["--set", value]));
    helm(&arguments).await.unwrap_or_else(|error| panic!("{values:?}: {error}"))
}

fn objects(text: &str) -> Vec<Value> {
    yaml::load(text).unwrap_or_else(|error| panic!("{error:?}")).iter().map(yaml::Node::to_json).collect()
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn texts(value: &Value) -> Vec<String> {
    list(value).map(|text| text.as_str().expect("a text").to_owned()).collect()
}

fn rights(role: &Value) -> Rights {
    let mut rights = Rights::new();
    for rule in list(&role["rules"]) {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                for verb in texts(&rule["verbs"]) {
                    let right = (group.clone(), resource.clone(), verb);
                    assert!(rights.insert(right.clone()), "{right:?} is granted twice");
                }
            }
        }
    }
    rights
}

/// What `sluice run --kube` asks an API server for.
fn reading(kinds: impl Iterator<Item = Kind>) -> Rights {
    kinds
        .flat_map(|kind| {
            ["list", "watch"].map(|verb| (kind.group().to_owned(), kind.plural().to_owned(), verb.to_owned()))
        })
        .collect()
}

fn pod_specs(objects: &[Value]) -> Vec<&Value> {
    let workloads = objects.iter().filter(|object| object["kind"] == "Deployment" || object["kind"] == "DaemonSet");
    workloads.map(|workload| &workload["spec"]["template"]["spec"]).collect()
}

#[tokio::test]
#[ignore = "needs helm: make test-cluster"]
async fn the_chart_passes_lint_and_renders_with_all_kinds_of_values() {
    for values in VARIANTS {
        let chart = chart();
        let mut arguments = vec!["lint", "--strict", &chart];
        arguments.extend(values.iter().flat_map(|value| ["--set", value]));
        helm(&arguments).await.unwrap_or_else(|error| panic!("{values:?}: {error}"));
        assert!(!objects(&rendered(values).await).is_empty());
    }
    let watched = ["metrics.prometheusRule.enabled=true", "metrics.dashboard.enabled=true"];
    let watched = objects(&rendered(&watched).await);
    let [rules] = of_kind(&watched, "PrometheusRule")[..] else { panic!("one PrometheusRule") };
    assert!(list(&rules["spec"]["groups"][0]["rules"]).count() > 5, "{rules}");
    let dashboard = watched.iter().find_map(|object| object["data"]["sluice.json"].as_str()).expect("a dashboard");
    let dashboard: Value = serde_json::from_str(dashboard).unwrap();
    assert!(list(&dashboard["panels"]).count() > 5);
    for (wrong, field) in [
        ("proxy.kind=StatefulSet", "/proxy/kind"),
        ("proxy.replica=3", "replica"),
        ("service.ports.http=0", "/service/ports/http"),
    ] {
        let error = helm(&["template", RELEASE, &chart(), "--set", wrong]).await.expect_err("the schema refuses it");
        assert!(error.contains(field), "{error}");
    }
}

#[tokio::test]
#[ignore = "needs helm: make test-cluster"]
async fn proxies_may_read_the_kinds_that_are_watched_and_nothing_else() {
    let everywhere = objects(&rendered(&["controller.enabled=false"]).await);
    let [role] = of_kind(&everywhere, "ClusterRole")[..] else { panic!("one ClusterRole") };
    assert_eq!(rights(role), reading(Kind::ALL.into_iter()));
    assert!(of_kind(&everywhere, "Role").is_empty());

    // In single namespaces, Secrets and all else that has one are read by Roles there.
    let named = objects(&rendered(&["controller.enabled=false", "watchNamespaces={shop,staff}"]).await);
    let [role] = of_kind(&named, "ClusterRole")[..] else { panic!("one ClusterRole") };
    assert_eq!(rights(role), reading(Kind::ALL.into_iter().filter(|kind| !kind.namespaced())));
    let roles = of_kind(&named, "Role");
    let namespaces: Vec<_> = roles.iter().map(|role| role["metadata"]["namespace"].as_str().unwrap()).collect();
    assert_eq!(namespaces, ["shop", "staff"]);
    for role in roles {
        assert_eq!(rights(role), reading(Kind::ALL.into_iter().filter(|kind| kind.namespaced())));
    }
    let [spec] = pod_specs(&named)[..] else { panic!("one workload") };
    let flags = texts(&spec["containers"][0]["args"]);
    assert!(["--namespace=shop", "--namespace=staff"].iter().all(|flag| flags.iter().any(|f| f == flag)), "{flags:?}");
}

/// What the controller may beside reading: in its own namespace, or everywhere else.
fn writing(own: bool) -> Rights {
    let here = RIGHTS.iter().filter(|used| (used.place == Place::Own) == own);
    let rights = here.flat_map(|used| {
        used.verbs.iter().map(|verb| (used.group.to_owned(), used.resource.to_owned(), (*verb).to_owned()))
    });
    rights.collect()
}

#[tokio::test]
#[ignore = "needs helm: make test-cluster"]
async fn the_controller_may_write_status_and_what_belongs_to_gateways_and_nothing_else() {
    let objects = objects(&rendered(&[]).await);
    let named = |kind: &str, part: &str| {
        let found =
            of_kind(&objects, kind).into_iter().find(|role| role["metadata"]["name"].as_str().unwrap().contains(part));
        found.unwrap_or_else(|| panic!("no {kind} of the {part}"))
    };
    let reads = reading(Kind::ALL.into_iter());
    assert_eq!(rights(named("ClusterRole", "proxy")), reads);
    assert_eq!(rights(named("ClusterRole", "controller")), &reads | &writing(false));
    assert_eq!(rights(named("Role", "controller")), writing(true));
    assert_eq!(of_kind(&objects, "Role").len(), 1, "a proxy has no Role: it may write nothing");
    // Two pods of each kind, of which each knows its part.
    let flags: Vec<Vec<String>> = of_kind(&objects, "Deployment")
        .iter()
        .map(|deployment| texts(&deployment["spec"]["template"]["spec"]["containers"][0]["args"]))
        .collect();
    for (role, flags) in ["--role=controller", "--role=proxy"].iter().zip(&flags) {
        assert!(flags.iter().any(|flag| flag == role), "{flags:?}");
    }
}

#[tokio::test]
#[ignore = "needs helm: make test-cluster"]
async fn pods_are_told_flags_that_exist_and_have_time_to_drain() {
    let help = Command::new(binary::sluice()).args(["run", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for values in VARIANTS {
        let objects = objects(&rendered(values).await);
        let specs = pod_specs(&objects);
        assert_eq!(specs.len(), if values.contains(&"controller.enabled=false") { 1 } else { 2 });
        for spec in specs {
            let mut seconds = 0;
            for argument in texts(&spec["containers"][0]["args"]).iter().skip(1) {
                let (flag, value) = argument.split_once('=').unwrap_or((argument, ""));
                assert!(
                    help.contains(&format!("{flag} ")) || help.contains(&format!("{flag}\n")),
                    "{flag} is no flag:\n{help}"
                );
                if flag == "--shutdown-delay" || flag == "--drain-timeout" {
                    seconds += value.parse::<u64>().unwrap();
                }
            }
            let grace = spec["terminationGracePeriodSeconds"].as_u64().unwrap();
            assert!(grace > seconds, "killed after {grace} s, in the middle of {seconds} s of draining");
        }
    }
}

#[tokio::test]
#[ignore = "needs helm: make test-cluster"]
async fn the_plain_manifests_are_what_the_chart_renders() {
    let chart = chart();
    let arguments = [
        "template",
        RELEASE,
        &chart,
        "--namespace",
        NAMESPACE,
        "--include-crds",
        "--set",
        "gatewayClass.create=Always",
    ];
    let text = helm(&arguments).await.unwrap();
    // They are applied by kubectl, and helm must not take them for its own.
    let lines = text.lines().filter(|line| !line.contains("managed-by: Helm") && !line.contains("helm.sh/chart:"));
    let mut manifests = format!(
        "# Rendered from deploy/helm/sluice with its default values; `make generate` writes it again.\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: {NAMESPACE}\n  labels:\n    pod-security.kubernetes.io/enforce: restricted\n"
    );
    lines.for_each(|line| {
        manifests.push_str(line.trim_end());
        manifests.push('\n');
    });
    let file = binary::root().join("deploy/manifests/sluice.yaml");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &manifests).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(committed == manifests, "{} is not what the chart says; make generate writes it again", file.display());
}

#[tokio::test]
#[ignore = "needs a cluster: make test-cluster"]
async fn an_api_server_takes_every_object_that_the_chart_renders() {
    Sluice::installed().await;
    for namespace in ["shop", "staff"] {
        try_apply("default", &format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n"))
            .await
            .unwrap();
    }
    let manifests = binary::root().join("deploy/manifests/sluice.yaml");
    kubectl(&format!("apply --dry-run=server --validate=strict -f {}", manifests.display())).await;
    for values in VARIANTS {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), rendered(values).await).unwrap();
        // Under another name, or what cannot be changed of the installed one would be refused.
        let said =
            kubectl(&format!("create --dry-run=server --validate=strict -f {}", renamed(file.path()).await.display()))
                .await;
        assert!(said.contains("dry run"), "{values:?}: {said}");
    }
}

/// The same objects, called otherwise.
async fn renamed(file: &std::path::Path) -> std::path::PathBuf {
    let text = std::fs::read_to_string(file).unwrap();
    let text = text.replace("name: sluice", "name: sluice-variant").replace("nodePort: 30080", "nodePort: 30099");
    std::fs::write(file, text).unwrap();
    file.to_owned()
}

#[tokio::test]
#[ignore = "needs a cluster: make test-cluster"]
async fn an_installed_proxy_reads_all_kinds_writes_none_and_runs_under_the_restricted_standard() {
    Sluice::installed().await;
    let namespace = get(&format!("namespace {NAMESPACE}")).await;
    assert_eq!(namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted");
    let pods = get(&format!("-n {NAMESPACE} pods -l app.kubernetes.io/component=proxy")).await;
    assert!(list(&pods["items"]).count() >= 2, "{pods}");
    for pod in list(&pods["items"]) {
        let ip = pod["status"]["podIP"].as_str().unwrap().parse().unwrap();
        // A kind that may not be read would be named here.
        until("all kinds to be read", || async {
            let answer = raw::get(SocketAddr::new(ip, 9180), "pod", "/readyz").await.ok()?;
            (answer.status == 200 && answer.text() == "ready\n").then_some(())
        })
        .await;
        // The admin port is the pod's own.
        assert!(raw::get(SocketAddr::new(ip, 9181), "pod", "/config").await.is_err());
    }
    let account = format!("system:serviceaccount:{NAMESPACE}:sluice-proxy");
    let can = kubectl(&format!("auth can-i --list --no-headers --as={account}")).await;
    // What every account may do: ask what it may do, and read what the API server says of itself.
    let rights = can.lines().filter(|line| !line.contains("selfsubject") && !line.trim_start().starts_with('['));
    let more: Vec<_> = rights.filter(|line| !line.contains("[list watch]")).collect();
    assert!(more.is_empty(), "the proxies may more than list and watch:\n{}", more.join("\n"));
}
