//! What the controllers write: that status says what is so, when it is so, and whoever of them is alive.

use crate::cluster::{NAMESPACE, Namespace, Sluice, get, kubectl, until};
use crate::workload::{Backend, ingress};
use serde_json::Value;
use sluice_tests::certificate::Authority;
use sluice_tests::{Address, guests, objects, raw};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// New connections, enough that each of two proxies gets some.
const CONNECTIONS: usize = 20;

/// After this status goes on when the controller that wrote it is gone.
const FAILOVER: Duration = Duration::from_secs(20);

fn gateway(name: &str, listeners: &str) -> String {
    format!(
        "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}}}
spec:
  gatewayClassName: sluice
  infrastructure: {{labels: {{team: edge}}}}
  listeners:
{listeners}"
    )
}

fn route(name: &str, gateway: &str, host: &str, backend: &str) -> String {
    format!(
        "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}}}
spec:
  parentRefs: [{{name: {gateway}}}]
  hostnames: [{host}]
  rules: [{{backendRefs: [{backend}]}}]
"
    )
}

const HTTP: &str = "  - {name: http, port: 80, protocol: HTTP}\n";

async fn shop(name: &'static str) -> Namespace {
    let shop = Namespace::create(name).await;
    shop.apply(&Backend::new("web", 1).objects()).await;
    shop.rolled_out("web").await;
    shop
}

/// `Type=Status/Reason` of each condition, for this generation of the object.
fn conditions(conditions: &Value, generation: &Value) -> Vec<String> {
    let conditions = conditions.as_array().into_iter().flatten();
    let mut texts: Vec<String> = conditions
        .filter(|condition| condition["observedGeneration"] == *generation)
        .map(|condition| {
            let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
            format!("{}={}/{}", text("type"), text("status"), text("reason"))
        })
        .collect();
    texts.sort();
    texts
}

impl Namespace {
    /// Waits until an object has these conditions for its newest generation, of those that `of` finds in its status.
    pub(crate) async fn has_conditions(&self, object: &str, of: &str, expected: &[&str]) -> Value {
        until(&format!("{object}{of}: {expected:?}"), || async {
            let object = self.get(object).await;
            let found = conditions(object.pointer(of)?, &object["metadata"]["generation"]);
            expected.iter().all(|condition| found.iter().any(|found| found == condition)).then_some(object)
        })
        .await
    }
}

/// Waits until connections come about: nobody hears from a kube-proxy when it leads a Service's new address or port on.
async fn reachable(to: Address) {
    until("the nodes to know the address", || async { to.connect().await.ok() }).await;
}

/// Asked once each over new connections: whoever says that it is served means everywhere.
async fn answers_everywhere(to: Address, host: &str) {
    reachable(to).await;
    for n in 0..CONNECTIONS {
        let answer = raw::get(to, host, "/").await.unwrap_or_else(|error| panic!("request {n} of {host}: {error}"));
        assert_eq!(answer.status, 200, "request {n} of {host}: {}", answer.text());
    }
}

async fn address_of(shop: &Namespace, ingress: &str) -> IpAddr {
    until(&format!("an address of Ingress {ingress}"), || async {
        let ingress = shop.get(&format!("ingress {ingress}")).await;
        ingress["status"]["loadBalancer"]["ingress"][0]["ip"].as_str()?.parse().ok()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn an_ingress_has_its_address_when_every_proxy_serves_it() {
    let sluice = Sluice::installed().await;
    let shop = shop("status-ingress").await;
    shop.apply(&ingress("first", "first.example")).await;
    assert_eq!(address_of(&shop, "first").await, sluice.ip);
    answers_everywhere(sluice.http(), "first.example").await;
    // Of a class that is not ours, none.
    shop.apply(&ingress("other", "other.example").replace("sluice", "nginx")).await;
    shop.apply(&ingress("second", "second.example")).await;
    address_of(&shop, "second").await;
    answers_everywhere(sluice.http(), "second.example").await;
    assert_eq!(shop.get("ingress other").await["status"]["loadBalancer"], serde_json::json!({}));
    // One that goes to another class shows our address no more.
    shop.apply(&ingress("second", "second.example").replace("sluice", "nginx")).await;
    until("our address to go", || async {
        let second = shop.get("ingress second").await;
        (second["status"]["loadBalancer"] == serde_json::json!({})).then_some(())
    })
    .await;
    shop.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn a_gateway_is_programmed_when_every_proxy_serves_it() {
    Sluice::installed().await;
    let class = Namespace("default")
        .has_conditions("gatewayclass sluice", "/status/conditions", &["Accepted=True/Accepted"])
        .await;
    let features = class["status"]["supportedFeatures"].as_array().unwrap();
    assert!(features.iter().any(|feature| feature["name"] == "HTTPRoute"), "{features:?}");

    let shop = shop("status-gateway").await;
    let authority = Authority::default();
    shop.apply(&objects::secret_in("status-gateway", "edge", &authority.leaf(&["tls.example"]))).await;
    shop.apply(&gateway("edge", HTTP)).await;
    shop.apply(&route("web", "edge", "web.example", "{name: web, port: 80}")).await;
    let good = ["Accepted=True/Accepted", "Programmed=True/Programmed"];
    let edge = shop.has_conditions("gateway edge", "/status/conditions", &good).await;
    let ip: IpAddr = edge["status"]["addresses"][0]["value"].as_str().unwrap().parse().unwrap();
    shop.has_conditions(
        "httproute web",
        "/status/parents/0/conditions",
        &["Accepted=True/Accepted", "ResolvedRefs=True/ResolvedRefs"],
    )
    .await;
    answers_everywhere(SocketAddr::new(ip, 80).into(), "web.example").await;
    until("its route to be counted", || async {
        let edge = shop.get("gateway edge").await;
        let listener = &edge["status"]["listeners"][0];
        assert_eq!(listener["supportedKinds"][0]["kind"], "HTTPRoute", "{listener}");
        (listener["attachedRoutes"] == 1).then_some(())
    })
    .await;

    // Its Service carries what the Gateway says of its infrastructure.
    let uid = edge["metadata"]["uid"].as_str().unwrap();
    let service = get(&format!("-n {NAMESPACE} service gateway-{uid}")).await;
    assert_eq!(service["metadata"]["labels"]["team"], "edge");

    // A listener more: programmed once more when that is served too.
    let https = "  - {name: https, port: 443, protocol: HTTPS, hostname: tls.example, tls: {certificateRefs: [{name: edge}]}}\n";
    shop.apply(&gateway("edge", &format!("{HTTP}{https}"))).await;
    shop.apply(&route("tls", "edge", "tls.example", "{name: web, port: 80}")).await;
    shop.has_conditions("gateway edge", "/status/conditions", &good).await;
    let to = Address::from(SocketAddr::new(ip, 443));
    reachable(to).await;
    for _ in 0..CONNECTIONS {
        let client = raw::Client::connect_tls(to, "tls.example", authority.client(&["http/1.1"])).await;
        client.expect("a handshake").close().await.expect("a good end");
    }

    // With the Gateway its Service goes.
    shop.kubectl("delete gateway edge").await;
    until("the Gateway's Service to go", || async {
        let services = get(&format!("-n {NAMESPACE} services")).await;
        let mut names = services["items"].as_array()?.iter().map(|service| service["metadata"]["name"].clone());
        names.all(|name| name != format!("gateway-{uid}").as_str()).then_some(())
    })
    .await;
    shop.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn what_is_broken_has_a_condition_that_says_so() {
    Sluice::installed().await;
    let shop = shop("status-broken").await;
    let listeners = "  - {name: http, port: 80, protocol: HTTP}
  - {name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: missing}]}}
";
    shop.apply(&gateway("edge", listeners)).await;
    shop.has_conditions(
        "gateway edge",
        "/status/listeners/1/conditions",
        &["ResolvedRefs=False/InvalidCertificateRef", "Programmed=False/Invalid"],
    )
    .await;
    // The other listener serves.
    shop.has_conditions("gateway edge", "/status/listeners/0/conditions", &["Programmed=True/Programmed"]).await;
    for (name, backend, condition) in [
        ("missing", "{name: nobody, port: 80}", "ResolvedRefs=False/BackendNotFound"),
        ("foreign", "{name: kubernetes, namespace: default, port: 443}", "ResolvedRefs=False/RefNotPermitted"),
        ("kind", "{kind: ConfigMap, name: web, port: 80}", "ResolvedRefs=False/InvalidKind"),
    ] {
        shop.apply(&route(name, "edge", &format!("{name}.example"), backend)).await;
        let route = format!("httproute {name}");
        shop.has_conditions(&route, "/status/parents/0/conditions", &["Accepted=True/Accepted", condition]).await;
    }
    shop.apply(
        &route("astray", "edge", "web.example", "{name: web, port: 80}")
            .replace("{name: edge}", "{name: edge, sectionName: nowhere}"),
    )
    .await;
    let condition = ["Accepted=False/NoMatchingParent"];
    shop.has_conditions("httproute astray", "/status/parents/0/conditions", &condition).await;
    shop.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn plugins_policies_and_gateway_configs_say_what_became_of_them() {
    Sluice::installed().await;
    let shop = shop("status-own").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("plugin.wasm");
    std::fs::write(&file, guests::versioned().with_version(1)).unwrap();
    let map = format!("create configmap code --dry-run=client -o yaml --from-file={}", file.display());
    shop.apply(&kubectl(&map).await).await;
    shop.apply(&gateway("edge", HTTP)).await;
    shop.apply(&route("web", "edge", "web.example", "{name: web, port: 80}")).await;
    shop.apply(
        "
apiVersion: sluice.dev/v1alpha1
kind: Plugin
metadata: {name: good}
spec: {source: {configMap: {name: code, key: plugin.wasm}}}
---
apiVersion: sluice.dev/v1alpha1
kind: Plugin
metadata: {name: missing}
spec: {source: {configMap: {name: nobody, key: plugin.wasm}}}
---
apiVersion: sluice.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: uses}
spec:
  targetRefs:
  - {group: gateway.networking.k8s.io, kind: HTTPRoute, name: web}
  - {group: gateway.networking.k8s.io, kind: HTTPRoute, name: nobody}
  plugins: [{name: good, pluginRef: {name: good}}]
---
apiVersion: sluice.dev/v1alpha1
kind: GatewayConfig
metadata: {name: unused}
spec: {}
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: tls}
spec:
  targetRefs: [{group: '', kind: Service, name: web}]
  validation: {hostname: web.example, caCertificateRefs: [{group: '', kind: ConfigMap, name: nobody}]}
",
    )
    .await;
    let good = ["Accepted=True/Accepted", "Ready=True/Ready"];
    let plugin = shop.has_conditions("plugin good", "/status/conditions", &good).await;
    assert_eq!((&plugin["status"]["compiled"], &plugin["status"]["uses"]), (&true.into(), &1.into()), "{plugin}");
    assert!(plugin["status"]["digest"].as_str().unwrap().starts_with("sha256:"), "{plugin}");
    let bad = ["Accepted=False/InvalidSource", "Ready=False/Invalid"];
    shop.has_conditions("plugin missing", "/status/conditions", &bad).await;
    let first = "/status/ancestors/0/conditions";
    shop.has_conditions("trafficpolicy uses", first, &["Accepted=True/Accepted"]).await;
    let second = "/status/ancestors/1/conditions";
    shop.has_conditions("trafficpolicy uses", second, &["Accepted=False/TargetNotFound"]).await;
    shop.has_conditions("gatewayconfig unused", "/status/conditions", &["Accepted=True/Accepted"]).await;
    let tls = ["Accepted=False/NoValidCACertificate", "ResolvedRefs=False/InvalidCACertificateRef"];
    shop.has_conditions("backendtlspolicy tls", first, &tls).await;
    let table = shop.kubectl("get plugins,trafficpolicies,gatewayconfigs").await;
    for column in ["ACCEPTED", "READY", "USES", "TARGET"] {
        assert!(table.contains(column), "{table}");
    }
    shop.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn a_broken_ingress_has_an_event_that_says_so() {
    Sluice::installed().await;
    let shop = Namespace::create("status-events").await;
    shop.apply(&ingress("broken", "broken.example")).await;
    let event = until("an Event of the Ingress", || async {
        let events = shop.get("events --field-selector involvedObject.kind=Ingress,involvedObject.name=broken").await;
        events["items"].as_array()?.first().cloned()
    })
    .await;
    let ingress = shop.get("ingress broken").await;
    assert_eq!(event["involvedObject"]["uid"], ingress["metadata"]["uid"], "kubectl describe shows it: {event}");
    assert_eq!((&event["type"], &event["reason"]), (&"Warning".into(), &"ServiceNotFound".into()), "{event}");
    let message = event["message"].as_str().unwrap();
    assert!(message.contains("SLUICE-P") && message.contains("spec.rules[0]") && message.contains("web"), "{message}");
    shop.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn when_the_leader_is_killed_another_controller_goes_on_within_20_s() {
    let sluice = Sluice::installed().await;
    let shop = shop("status-leader").await;
    shop.apply(&ingress("before", "before.example")).await;
    assert_eq!(address_of(&shop, "before").await, sluice.ip);
    let holder = || async {
        let lease = get(&format!("-n {NAMESPACE} lease sluice-controller")).await;
        lease["spec"]["holderIdentity"].as_str().expect("somebody holds it").to_owned()
    };
    let first = holder().await;
    let pods = Namespace(NAMESPACE).pods("app.kubernetes.io/component=controller").await;
    let leader =
        pods.iter().find(|pod| first.contains(&pod.name)).unwrap_or_else(|| panic!("{first} is none of {pods:?}"));
    // Kubernetes would ask it to end, and it would give up the Lease. A crash does neither.
    let killed = Instant::now();
    leader.kill();
    shop.apply(&ingress("after", "after.example")).await;
    assert_eq!(address_of(&shop, "after").await, sluice.ip);
    println!("status went on after {:.1} s", killed.elapsed().as_secs_f64());
    assert!(killed.elapsed() < FAILOVER, "after {:?}", killed.elapsed());
    assert_ne!(holder().await, first, "another has it");
    shop.delete().await;
}
