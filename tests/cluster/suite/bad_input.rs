//! What is wrong disturbs nothing else: broken objects, things that vanish, rights and kinds that are not there.
//!
//! Each test keeps a healthy site under load beside it.

use crate::cluster::{
    NAMESPACE, Namespace, Pod, Sluice, get, kubectl, kubectl_with, try_apply, try_kubectl, until, until_everywhere,
};
use crate::workload::{Backend, ingress_tls as ingress};
use serde_json::Value;
use sluice_model::Kind as ObjectKind;
use sluice_tests::certificate::{self, Authority};
use sluice_tests::load::{Kind, Plan, Rate, Running, Target};
use sluice_tests::{Address, binary, objects, raw};
use std::net::SocketAddr;

const KINDS: [Kind; 4] = [Kind::Http1, Kind::Http2, Kind::New, Kind::NewTls];

/// A namespace with a backend `web`, an Ingress for its own host, and a certificate.
async fn site(namespace: &'static str, host: &str, authority: &Authority) -> Namespace {
    let site = Namespace::create(namespace).await;
    site.apply(&Backend::new("web", 2).objects()).await;
    site.apply(&objects::secret_in(namespace, "site", &authority.leaf(&[host]))).await;
    site.apply(&ingress("site", host, "{service: {name: web, port: {number: 80}}}", "site")).await;
    site.rolled_out("web").await;
    site
}

/// A healthy site under steady load.
struct Healthy {
    sluice: Sluice,
    host: String,
    namespace: Namespace,
    load: Running,
}

impl Healthy {
    async fn start(namespace: &'static str) -> Healthy {
        let host = format!("{namespace}.example");
        let sluice = Sluice::installed().await;
        let authority = Authority::default();
        let namespace = site(namespace, &host, &authority).await;
        answers(sluice.http(), &host, 200).await;
        let target = Target {
            http: sluice.http(),
            https: sluice.https(),
            host: host.clone(),
            tls: authority.trust(),
            path: "/load".to_owned(),
            grpc_path: String::new(),
            web_socket_path: String::new(),
            check: None,
        };
        let none = Rate { connections: 0, per_second: 1 };
        let plan = Plan {
            http1: Rate { connections: 4, per_second: 10 },
            http2: Rate { connections: 2, per_second: 10 },
            grpc: none,
            web_socket: none,
            new_connections: 20,
        };
        let load = plan.start(&target);
        load.settled(&KINDS, 5).await;
        Healthy { sluice, host, namespace, load }
    }

    async fn was_not_disturbed(self) {
        self.load.settled(&KINDS, 5).await;
        let report = self.load.stop().await;
        println!("{report}");
        report.assert_flawless(&KINDS);
        self.namespace.delete().await;
    }
}

/// Waits until requests for a host are answered with this status.
async fn answers(to: Address, host: &str, status: u16) {
    until_everywhere(&format!("{host} to be answered {status}"), || async {
        (raw::get(to, host, "/").await.ok()?.status == status).then_some(())
    })
    .await;
}

async fn proxies() -> Vec<Pod> {
    Namespace(NAMESPACE).pods("app.kubernetes.io/component=proxy").await
}

async fn of_proxy(pod: &Pod, path: &str) -> Option<raw::Response> {
    raw::get(SocketAddr::new(pod.ip, 9180), "pod", path).await.ok()
}

/// Waits until every proxy counts a problem of this code.
async fn problem(code: &str) {
    for pod in proxies().await {
        until(&format!("{code} to be counted by {}", pod.name), || async { counts(&pod, code).await.then_some(()) })
            .await;
    }
}

async fn counts(pod: &Pod, code: &str) -> bool {
    let Some(answer) = of_proxy(pod, "/metrics").await else { return false };
    answer
        .text()
        .lines()
        .any(|line| line.starts_with("sluice_config_problems{") && line.contains(code) && !line.ends_with(" 0"))
}

fn http_route(name: &str, rule: &str) -> String {
    format!(
        "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}}}
spec:
  parentRefs: [{{name: broken}}]
  hostnames: [{name}.broken.example]
  rules:
  - {rule}
"
    )
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn broken_objects_are_named_by_code_and_disturb_no_other() {
    let healthy = Healthy::start("healthy").await;
    let broken = Namespace::create("broken").await;
    broken.apply(&Backend::new("web", 1).objects()).await;
    let web = "{service: {name: web, port: {number: 80}}}";
    let nobody = "{resource: {apiGroup: example.com, kind: Bucket, name: b}}";
    broken.apply(&ingress("resource", "resource.example", nobody, "absent")).await;
    broken
        .apply(&ingress("service", "service.example", "{service: {name: absent, port: {number: 80}}}", "absent"))
        .await;
    broken.apply(&ingress("port", "port.example", "{service: {name: web, port: {name: absent}}}", "absent")).await;
    broken.apply(&ingress("garbage", "garbage.example", web, "garbage")).await;
    broken
        .apply(
            "
apiVersion: v1
kind: Secret
metadata: {name: garbage}
type: kubernetes.io/tls
stringData: {tls.crt: no certificate, tls.key: no key}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: broken}
spec:
  gatewayClassName: sluice
  listeners: [{name: http, port: 80, protocol: HTTP, hostname: '*.broken.example'}]
---
apiVersion: sluice.dev/v1alpha1
kind: Plugin
metadata: {name: empty}
spec: {source: {configMap: {name: absent, key: code}}}
---
apiVersion: sluice.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: guarded}
spec:
  targetRefs: [{group: networking.k8s.io, kind: Ingress, name: guarded}]
  plugins: [{name: guard, pluginRef: {name: empty}}]
",
        )
        .await;
    broken.apply(&ingress("guarded", "guarded.example", web, "absent")).await;
    broken.apply(&http_route("nowhere", "backendRefs: [{name: absent, port: 80}]")).await;
    broken.apply(&http_route("foreign", "backendRefs: [{name: web, namespace: healthy, port: 80}]")).await;
    let regex = "matches: [{path: {type: RegularExpression, value: \"/(\"}}]\n    backendRefs: [{name: web, port: 80}]";
    broken.apply(&http_route("regex", regex)).await;

    // Ingress: a resource and a Service that is not there; HTTPRoute: a backend that is not there, or not granted.
    for host in ["resource.example", "service.example", "port.example"] {
        answers(healthy.sluice.http(), host, 503).await;
    }
    let (gateway, _) = healthy.sluice.gateway(&broken, "broken").await;
    for host in ["nowhere.broken.example", "foreign.broken.example"] {
        answers(gateway, host, 500).await;
    }
    // A guard that is not there lets nobody through.
    answers(healthy.sluice.http(), "guarded.example", 503).await;
    // A certificate that is none takes nothing from plain HTTP.
    answers(healthy.sluice.http(), "garbage.example", 200).await;
    for code in ["SLUICE-P504", "SLUICE-P201", "SLUICE-P401"] {
        problem(code).await;
    }
    healthy.was_not_disturbed().await;
    broken.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn what_vanishes_is_missed_by_nobody_else() {
    let healthy = Healthy::start("healthy2").await;
    let authority = Authority::default();
    let doomed = site("doomed", "doomed.example", &authority).await;
    answers(healthy.sluice.http(), "doomed.example", 200).await;

    // A Secret: another certificate is shown, and requests are answered as before.
    doomed.kubectl("delete secret site").await;
    until("another certificate than the deleted one", || async {
        let client = authority.client(&["http/1.1"]);
        certificate::connect(healthy.sluice.https(), "doomed.example", client).await.err()
    })
    .await;
    answers(healthy.sluice.http(), "doomed.example", 200).await;

    // All endpoints: 503, and the access log says why.
    doomed.kubectl("scale deployment/web --replicas=0").await;
    answers(healthy.sluice.http(), "doomed.example", 503).await;
    until("the reason in the access log", || async {
        let log = kubectl(&format!("-n {NAMESPACE} logs -l app.kubernetes.io/component=proxy --tail=2000")).await;
        log.lines().any(|line| line.contains("doomed.example") && line.contains("\"no_endpoints\"")).then_some(())
    })
    .await;
    doomed.kubectl("scale deployment/web --replicas=2").await;
    answers(healthy.sluice.http(), "doomed.example", 200).await;

    // The whole namespace.
    doomed.delete().await;
    answers(healthy.sluice.http(), "doomed.example", 404).await;
    healthy.was_not_disturbed().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn a_kind_that_may_not_be_read_is_named_and_the_rest_goes_on() {
    let healthy = Healthy::start("healthy3").await;
    let role = "clusterrole sluice-system-sluice-proxy";
    let rules = get(role).await["rules"].to_string();
    let without = rules.replace("\"httproutes\",", "");
    assert_ne!(without, rules);
    replace(role, "/rules", &without).await;

    // Proxies that start now may never read it.
    let namespace = Namespace(NAMESPACE);
    namespace.kubectl("rollout restart deployment/sluice-proxy").await;
    namespace.kubectl("rollout status deployment/sluice-proxy --timeout=180s").await;
    for pod in namespace.pods("app.kubernetes.io/component=proxy").await {
        until("/readyz to name the kind", || async {
            let answer = of_proxy(&pod, "/readyz").await?;
            (answer.status == 200 && answer.text().contains("HTTPRoute forbidden")).then_some(())
        })
        .await;
        let log = namespace.kubectl(&format!("logs {}", pod.name)).await;
        assert!(log.contains("SLUICE-P601"), "{log}");
    }
    answers(healthy.sluice.http(), &healthy.host, 200).await;
    // Whoever looks after the cluster is told which kind, and what to add; the other kinds are well.
    let found = doctor().await;
    let of_rights = |finding: &&Value| finding["check"] == "rights" && finding["level"] == "error";
    let missing: Vec<&Value> = found["findings"].as_array().unwrap().iter().filter(of_rights).collect();
    let [missing] = missing[..] else { panic!("one kind: {found:#}") };
    assert_eq!(missing["object"], "HTTPRoute");
    let message = missing["message"].as_str().unwrap();
    assert!(message.contains("ServiceAccount sluice-system/sluice-proxy may not list, watch httproutes"), "{missing}");
    let hint = missing["hint"].as_str().unwrap();
    assert!(hint.contains("resources: [httproutes], verbs: [list, watch]"), "{missing}");

    replace(role, "/rules", &rules).await;
    for pod in namespace.pods("app.kubernetes.io/component=proxy").await {
        until("the kind to be read", || async { (of_proxy(&pod, "/readyz").await?.text() == "ready\n").then_some(()) })
            .await;
    }
    let found = doctor().await;
    let all = format!("has all {} rights of the role proxy", 2 * ObjectKind::ALL.len());
    assert!(found.to_string().contains(&all), "{found:#}");
    healthy.was_not_disturbed().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn kinds_that_are_not_installed_leave_ingress_alone() {
    let healthy = Healthy::start("healthy4").await;
    let kinds = ["plugins.sluice.dev", "trafficpolicies.sluice.dev"];
    kubectl(&format!("delete crd {}", kinds.join(" "))).await;
    problem("SLUICE-P602").await;
    answers(healthy.sluice.http(), &healthy.host, 200).await;

    let folder = binary::root().join("deploy/crds");
    kubectl(&format!("apply --server-side -f {}", folder.display())).await;
    for kind in kinds {
        until("the kind to be served again", || async { try_kubectl(&format!("get {kind}")).await.ok() }).await;
    }
    for pod in proxies().await {
        until("the kinds to be read", || async {
            (of_proxy(&pod, "/readyz").await?.text() == "ready\n").then_some(())
        })
        .await;
    }
    healthy.was_not_disturbed().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn fields_of_a_newer_kind_are_a_warning() {
    let healthy = Healthy::start("healthy5").await;
    // The next version of our kind has a field more, which this one does not know.
    let fields = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    replace("crd trafficpolicies.sluice.dev", &format!("{fields}/sparkle"), r#"{"type": "string"}"#).await;
    // The API server goes over to the new schema in its own time, and leaves the field out until then.
    let mut n = 0;
    until("a warning of the field", || {
        n += 1;
        let policy = format!(
            "
apiVersion: sluice.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: newer}}
spec:
  sparkle: brightly {n}
  targetRefs: [{{group: networking.k8s.io, kind: Ingress, name: site}}]
  client: {{ipAllow: [172.16.0.0/12, 10.0.0.0/8]}}
"
        );
        async move {
            try_apply("healthy5", &policy).await.ok()?;
            let proxies = proxies().await;
            futures::future::join_all(proxies.iter().map(|pod| counts(pod, "SLUICE-P004")))
                .await
                .iter()
                .all(|c| *c)
                .then_some(())
        }
    })
    .await;
    answers(healthy.sluice.http(), &healthy.host, 200).await;
    kubectl(&format!("apply --server-side --force-conflicts -f {}", binary::root().join("deploy/crds").display()))
        .await;
    healthy.was_not_disturbed().await;
}

/// `sluice doctor --kube`, as an administrator types it.
async fn doctor() -> Value {
    let arguments = ["doctor", "--kube", "-o", "json"];
    // It ends with 1 where something is wrong, which it is here: its report is the answer.
    let output = tokio::process::Command::new(binary::sluice()).args(arguments).output().await.unwrap();
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// Replaces, or adds, one part of an object.
async fn replace(object: &str, path: &str, value: &str) {
    let patch = format!(r#"[{{"op": "add", "path": "{path}", "value": {value}}}]"#);
    let mut arguments = vec!["patch"];
    arguments.extend(object.split(' '));
    arguments.extend(["--type=json", "-p", &patch]);
    kubectl_with(&arguments).await;
}
