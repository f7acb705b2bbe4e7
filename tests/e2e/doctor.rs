//! `sluice doctor`: what it finds wrong with a host or a cluster, and that it finds nothing where all is well.

use crate::cluster::{Cluster, gateway, slice};
use crate::commands::{said, sluice, text};
use crate::shop::{HOST, Shop};
use serde_json::{Value, json};
use sluice_model::Kind;
use sluice_sources::yaml;
use sluice_tests::certificate::Authority;
use sluice_tests::objects::{self, join, route_to};
use sluice_tests::{ApiServer, Folder, binary, ports};
use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(86_400);

/// What was found, and the exit code.
struct Findings {
    code: i32,
    report: Value,
}

impl Findings {
    fn of(arguments: &[&str]) -> Findings {
        let output = sluice(&[&["doctor"], arguments, &["-o", "json"]].concat());
        let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", said(&output)));
        let findings = Findings { code: output.status.code().unwrap(), report };
        // Whatever is not well comes with a way out, and an error is the exit code.
        for finding in findings.all().filter(|finding| finding["level"] != "ok") {
            assert!(!finding["hint"].as_str().unwrap().is_empty(), "{finding}");
        }
        assert_eq!(findings.code, i32::from(findings.all().any(|finding| finding["level"] == "error")));
        findings
    }

    fn all(&self) -> impl Iterator<Item = &Value> {
        self.report["findings"].as_array().unwrap().iter()
    }

    /// The finding of this level and check whose object and message contain these.
    fn find(&self, level: &str, check: &str, object: &str, message: &str) -> &Value {
        let part = |finding: &Value, field: &str, part: &str| finding[field].as_str().unwrap().contains(part);
        let mut found = self.all().filter(|finding| {
            finding["level"] == level
                && finding["check"] == check
                && part(finding, "object", object)
                && part(finding, "message", message)
        });
        found.next().unwrap_or_else(|| panic!("no {level} of {check} `{object}` `{message}`: {:#}", self.report))
    }

    fn is_clean(&self) -> bool {
        self.code == 0 && self.all().all(|finding| finding["level"] == "ok")
    }
}

#[tokio::test]
async fn a_host_with_its_gateway_is_fit() {
    let shop = Shop::start(&["one"], &route_to("all", &[HOST], "one")).await;
    let folder = shop.folder.path().display().to_string();
    let findings = Findings::of(&["--config", &folder, "--admin", &shop.gateway.admin.to_string()]);
    assert!(findings.is_clean(), "{:#}", findings.report);
    findings.find("ok", "ports", &shop.http.to_string(), "held by the gateway that runs");
    findings.find("ok", "certificates", "", "1 certificate in use");
    findings.find("ok", "endpoints", "", "1 Service port");
    findings.find("ok", "configuration", "", "in 2 files");

    // The same ports, if another gateway were to open them.
    let nobody = format!("127.0.0.1:{}", ports::free());
    let findings = Findings::of(&["--config", &folder, "--admin", &nobody]);
    let taken = findings.find("error", "ports", &shop.http.to_string(), "cannot be bound");
    assert!(taken["hint"].as_str().unwrap().contains(&format!("ss -ltnp sport = :{}", shop.http)), "{taken}");
}

#[test]
fn what_is_wrong_with_a_host_is_said_at_once() {
    let (folder, authority) = (Folder::new(), Authority::default());
    let (http, https) = (ports::free(), ports::free());
    let soon = authority.leaf_until(&[HOST], SystemTime::now() + 10 * DAY + DAY / 2);
    folder.write(
        "shop.yaml",
        join([
            objects::class(),
            objects::gateway(http, Some((https, "soon"))),
            objects::secret("soon", &soon),
            route_to("all", &[HOST], "idle"),
            objects::service("idle", &[]),
            objects::plugin("lost", "lost.wasm", ""),
            objects::plugin("junk", "junk.wasm", ""),
        ]),
    );
    folder.write("junk.wasm", "no module");
    folder.write("broken.yaml", "kind: [");
    let path = folder.path().display().to_string();
    let nobody = format!("127.0.0.1:{}", ports::free());
    let findings = Findings::of(&["--config", &path, "--admin", &nobody]);
    findings.find("error", "configuration", "", "broken.yaml:1");
    findings.find("error", "configuration", "Plugin default/lost", "SLUICE-P401");
    findings.find("error", "plugins", "Plugin default/junk", "SLUICE-P402");
    findings.find("warning", "certificates", "Secret default/soon", "ends in 10 days");
    findings.find("warning", "endpoints", "Service default/idle", "no endpoint");
    findings.find("ok", "ports", &http.to_string(), "can be bound");

    // For people: a line each, what to do below it, the count at the end.
    let output = sluice(&["doctor", "--config", &path, "--admin", &nobody]);
    let told = text(&output);
    assert!(told.contains("\nwarning  Secret default/soon: its certificate"), "{told}");
    let last = told.lines().last().unwrap();
    assert!(last.contains("errors, ") && last.contains("warnings") && !told.contains('\x1b'), "{told}");

    let findings = Findings::of(&["--config", "/does/not/exist"]);
    findings.find("error", "configuration", "--config", "/does/not/exist");
    for wrong in [
        &["doctor"][..],
        &["doctor", "--config", ".", "--kube"],
        &["doctor", "--config", ".", "--namespace", "shop"],
        &["doctor", "--kube", "--account", "nobody"],
    ] {
        assert_eq!(sluice(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

const SYSTEM: &str = "sluice-system";

fn crd_of_the_gateway_api(kind: Kind, version: &str) -> Value {
    let annotations = json!({"gateway.networking.k8s.io/bundle-version": version,
        "gateway.networking.k8s.io/channel": "standard"});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{}.{}", kind.plural(), kind.group()), "annotations": annotations},
        "spec": {"versions": [{"name": "v1", "served": true}]}})
}

fn pod(name: &str, component: &str, ready: bool) -> Value {
    let state = if ready { json!({"running": {}}) } else { json!({"waiting": {"reason": "CrashLoopBackOff"}}) };
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": SYSTEM, "labels": {"app.kubernetes.io/component": component}},
        "spec": {"serviceAccountName": format!("sluice-{component}"), "containers": [{"args": ["run", "--kube"]}]},
        "status": {"conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
                   "containerStatuses": [{"state": state}]}})
}

fn ingress_class(name: &str, controller: &str, default: bool) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
        "metadata": {"name": name, "annotations": {"ingressclass.kubernetes.io/is-default-class": default.to_string()}},
        "spec": {"controller": controller}})
}

fn programmed(status: &str) -> Value {
    json!({"addresses": [{"type": "IPAddress", "value": "192.0.2.7"}],
        "conditions": [{"type": "Programmed", "status": status, "reason": "Pending", "message": "port 80 is not open"}]})
}

fn load_balancer() -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "sluice", "namespace": SYSTEM},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.9", "ports": [{"name": "http", "port": 80}]}})
}

/// A cluster in which nothing is wrong.
async fn fit() -> Cluster {
    let cluster = Cluster::new().await;
    let server = &cluster.server;
    // The standard channel's: what is experimental is missed by nobody.
    for kind in Kind::ALL.into_iter().filter(|kind| kind.group() == Kind::Gateway.group()) {
        server.apply(crd_of_the_gateway_api(kind, "v1.6.3"));
    }
    server.serve_versions(Kind::XBackendTrafficPolicy, &[]);
    for kind in [Kind::Plugin, Kind::TrafficPolicy, Kind::GatewayConfig] {
        let file = binary::root().join(format!("deploy/crds/{}.{}.yaml", kind.plural(), kind.group()));
        server.apply(yaml::load(&std::fs::read_to_string(file).unwrap()).unwrap()[0].to_json());
    }
    server.apply(ingress_class("sluice", "sluice.dev/ingress-controller", false));
    server.set_status(Kind::Gateway, "shop", "edge", programmed("True"));
    server.apply(load_balancer());
    server.set_status(Kind::Service, SYSTEM, "sluice", json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}}));
    server.apply(pod("sluice-proxy-1", "proxy", true));
    server.apply(pod("sluice-controller-1", "controller", true));
    cluster
}

/// `sluice doctor --kube` of this cluster.
fn doctor(server: &ApiServer, folder: &Folder, arguments: &[&str]) -> Findings {
    let file = folder.state().join("kubeconfig");
    std::fs::write(&file, server.kubeconfig()).unwrap();
    Findings::of(&[&["--kube", "--kubeconfig", &file.display().to_string()], arguments].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fit_cluster_is_called_so() {
    let cluster = fit().await;
    let findings = doctor(&cluster.server, &cluster.folder, &[]);
    assert!(findings.is_clean(), "{:#}", findings.report);
    for (check, object, message) in [
        ("api-server", "API server", "v1.34.1"),
        ("crds", "Gateway API", "version v1.6.3, channel standard"),
        ("crds", "sluice.dev", "of this version"),
        ("rights", "ServiceAccount sluice-system/sluice-proxy", "has all 42 rights of the role proxy"),
        ("rights", "ServiceAccount sluice-system/sluice-controller", "of the role controller"),
        ("classes", "GatewayClass sluice", ""),
        ("classes", "IngressClass sluice", ""),
        ("gateways", "Gateway shop/edge", "192.0.2.7"),
        ("endpoints", "", "1 Service port"),
        ("services", "Service sluice-system/sluice", "192.0.2.7"),
        ("pods", "proxy", "1 pod ready"),
        ("pods", "controller", "1 pod ready"),
    ] {
        findings.find("ok", check, object, message);
    }
    // Where the role is named it is about whoever asks.
    let findings = doctor(&cluster.server, &cluster.folder, &["--role", "all"]);
    assert!(findings.is_clean(), "{:#}", findings.report);
    findings.find("ok", "rights", "the account in use", "of the role all");
    // It looks, and writes nothing.
    assert!(cluster.server.writes().is_empty(), "{:?}", cluster.server.writes());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_cluster_is_named_with_the_way_out() {
    let cluster = fit().await;
    let server = &cluster.server;
    // Kinds: one that may not be read, one that is not installed, a Gateway API that nobody has tried.
    server.forbid(Kind::Ingress);
    server.deny("patch", "gateways/status");
    server.deny("list", "nodes");
    server.serve_versions(Kind::BackendTLSPolicy, &[]);
    server.remove("customresourcedefinitions", "", "backendtlspolicies.gateway.networking.k8s.io");
    server.apply(crd_of_the_gateway_api(Kind::Gateway, "v9.0.0"));
    // Objects.
    let authority = Authority::default();
    let leaf = authority.expired_leaf(&["shop.example"]);
    server.apply(json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "old", "namespace": "shop"},
        "stringData": {"tls.crt": leaf.certificate_pem, "tls.key": leaf.key_pem}}));
    let mut edge = gateway(ports::free());
    let tls = json!({"name": "https", "port": ports::free(), "protocol": "HTTPS",
        "tls": {"certificateRefs": [{"name": "old"}]}});
    edge["spec"]["listeners"].as_array_mut().unwrap().push(tls);
    server.apply(edge);
    server.set_status(Kind::Gateway, "shop", "edge", programmed("False"));
    let mut idle = slice("one", "127.0.0.1:1".parse().unwrap());
    idle["endpoints"][0]["conditions"] = json!({"ready": false});
    server.apply(idle);
    server.set_status(Kind::Service, SYSTEM, "sluice", json!({}));
    for name in ["sluice", "other"] {
        server.apply(ingress_class(name, "example.com/another", true));
    }
    server.apply(pod("sluice-proxy-1", "proxy", false));

    let findings = doctor(server, &cluster.folder, &[]);
    let may_not = findings.find("error", "rights", "Ingress", "may not list, watch ingresses.networking.k8s.io");
    let rule = r#"{apiGroups: ["networking.k8s.io"], resources: [ingresses], verbs: [list, watch]}"#;
    assert!(may_not["hint"].as_str().unwrap().ends_with(rule), "{may_not}");
    findings.find("error", "rights", "Gateway status", "may not patch gateways.gateway.networking.k8s.io/status");
    findings.find("warning", "rights", "nodes", "NodePort");
    findings.find("warning", "watches", "Ingress", "was not looked at");
    let missing = findings.find("warning", "crds", "BackendTLSPolicy", "not installed");
    assert!(missing["hint"].as_str().unwrap().starts_with("kubectl apply"), "{missing}");
    findings.find("warning", "crds", "Gateway API", "version v9.0.0");
    findings.find("warning", "crds", "Gateway API", "several versions");
    findings.find("error", "certificates", "Secret shop/old", "ended at 2021-01-01");
    findings.find("error", "gateways", "Gateway shop/edge", "port 80 is not open");
    let idle = findings.find("warning", "endpoints", "Service shop/one", "none of 1 endpoint is ready");
    assert!(idle["hint"].as_str().unwrap().contains("kubectl -n shop get endpointslices"), "{idle}");
    findings.find("error", "services", "Service sluice-system/sluice", "no address");
    findings.find("warning", "classes", "IngressClass", "none names the controller sluice.dev/ingress-controller");
    findings.find("warning", "classes", "IngressClass", "other, sluice are all marked as the default");
    findings.find("error", "pods", "Pod sluice-system/sluice-proxy-1", "CrashLoopBackOff");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rights_of_another_account_are_asked_for_where_its_role_uses_them() {
    let cluster = fit().await;
    cluster.server.deny("watch", "httproutes");
    let account = ["--role", "proxy", "--account", "sluice-system/sluice-proxy", "--namespace", "shop"];
    let findings = doctor(&cluster.server, &cluster.folder, &account);
    let missing =
        findings.find("error", "rights", "HTTPRoute", "ServiceAccount sluice-system/sluice-proxy may not watch");
    assert!(missing["message"].as_str().unwrap().ends_with("in namespace shop"), "{missing}");
    let reviews = cluster.server.reviews();
    let attributes = |review: &Value, field: &str| review["resourceAttributes"][field].as_str().unwrap().to_owned();
    for review in &reviews {
        assert_eq!(review["user"], "system:serviceaccount:sluice-system:sluice-proxy");
        assert!(["list", "watch"].contains(&attributes(review, "verb").as_str()), "a proxy writes nothing: {review}");
    }
    let secrets: Vec<_> = reviews.iter().filter(|review| attributes(review, "resource") == "secrets").collect();
    assert!(
        secrets.len() == 2 && secrets.iter().all(|review| attributes(review, "namespace") == "shop"),
        "{secrets:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_does_not_answer_is_all_that_is_said() {
    let mut cluster = fit().await;
    cluster.server.stop().await;
    let findings = doctor(&cluster.server, &cluster.folder, &[]);
    findings.find("error", "api-server", "API server", "refused");
    assert_eq!(findings.all().count(), 1, "{:#}", findings.report);
}

#[tokio::test(flavor = "multi_thread")]
async fn listener_sets_are_looked_at_as_gateways_are() {
    let cluster = fit().await;
    let set = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "ListenerSet",
        "metadata": {"name": "more", "namespace": "shop"},
        "spec": {"parentRef": {"name": "edge"}, "listeners": [{"name": "more", "port": 8081, "protocol": "HTTP"}]}});
    cluster.server.apply(set);
    const SET: &str = "ListenerSet shop/more";
    let findings = doctor(&cluster.server, &cluster.folder, &[]);
    findings.find("error", "gateways", SET, "is not accepted (NotAllowed)");

    let mut edge = cluster.server.get("gateways", "shop", "edge").unwrap();
    edge["spec"]["allowedListeners"] = json!({"namespaces": {"from": "Same"}});
    cluster.server.apply(edge);
    cluster.server.set_status(Kind::Gateway, "shop", "edge", programmed("True"));
    let findings = doctor(&cluster.server, &cluster.folder, &[]);
    findings.find("warning", "gateways", SET, "has no status");
    cluster.server.set_status(Kind::ListenerSet, "shop", "more", programmed("True"));
    let findings = doctor(&cluster.server, &cluster.folder, &[]);
    findings.find("ok", "gateways", SET, "is programmed, of Gateway shop/edge");
}
