//! Services of every type: behind Sluice, and in front of it.

use crate::cluster::{Namespace, Pod, Sluice, get, kubectl, load_balancer, until};
use crate::spread;
use crate::workload::{Backend, PORT, answer_probes_with};
use sluice_tests::{Address, raw};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

const HOST: &str = "services.example";

/// The Services of one Deployment, by the path that leads to them.
const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: node-port}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: load-balancer}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: several-ports}
spec:
  selector: {app: web}
  ports:
  - {name: closed, port: 81, targetPort: 81}
  - {name: open, port: 80, targetPort: http}
---
apiVersion: v1
kind: Service
metadata: {name: by-hand}
spec: {ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: unready-too}
spec: {publishNotReadyAddresses: true, selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: balanced-by-kube-proxy}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: sluice.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: balanced-by-kube-proxy}
spec:
  targetRefs: [{group: \"\", kind: Service, name: balanced-by-kube-proxy}]
  backend: {clusterIP: true}
---
apiVersion: v1
kind: Service
metadata: {name: by-name}
spec: {type: ExternalName, externalName: web.services.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere}
spec: {type: ExternalName, externalName: elsewhere.example}
---
apiVersion: v1
kind: Service
metadata: {name: api-server}
spec: {type: ExternalName, externalName: kubernetes.default.svc.cluster.local}
";

const NAMES: [&str; 9] = [
    "web",
    "headless",
    "node-port",
    "load-balancer",
    "several-ports",
    "by-hand",
    "unready-too",
    "balanced-by-kube-proxy",
    "by-name",
];

fn ingress(names: &[&str]) -> String {
    let mut text = format!(
        "\
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: services}}
spec:
  ingressClassName: sluice
  rules:
  - host: {HOST}
    http:
      paths:
"
    );
    for name in names {
        let port = if *name == "several-ports" { "{name: open}" } else { "{number: 80}" };
        text.push_str(&format!(
            "      - {{path: /{name}, pathType: Prefix, backend: {{service: {{name: {name}, port: {port}}}}}}}\n"
        ));
    }
    text
}

/// Requests under way at a time, long enough that each has a connection to a pod of its own: where kube-proxy balances, it
/// does so once for each connection, and those are kept.
const AT_ONCE: usize = 40;

/// Waits until the path is answered by all of these pods and by no other.
async fn reaches(to: Address, path: &str, pods: &BTreeSet<String>) {
    spread::settles(to, HOST, &format!("{path}?delay=50"), AT_ONCE, pods).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn each_type_of_service_is_a_backend() {
    let sluice = Sluice::installed().await;
    let namespace = Namespace::create("services").await;
    namespace.apply(&Backend::new("web", 3).objects()).await;
    namespace.apply(SERVICES).await;
    namespace.apply(&ingress(&[&NAMES[..], &["elsewhere", "api-server"]].concat())).await;
    namespace.rolled_out("web").await;
    let pods = namespace.ready_pods("web").await;
    let endpoints: Vec<String> =
        pods.iter().map(|pod| format!("{{addresses: [{}], conditions: {{ready: true}}}}", pod.ip)).collect();
    namespace
        .apply(&format!(
            "\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: by-hand-1, labels: {{kubernetes.io/service-name: by-hand}}}}
addressType: IPv4
ports: [{{port: {PORT}}}]
endpoints: [{}]
",
            endpoints.join(", ")
        ))
        .await;
    let all: BTreeSet<String> = pods.iter().map(|pod| pod.name.clone()).collect();
    for name in NAMES {
        reaches(sluice.http(), &format!("/{name}"), &all).await;
    }

    // Where kube-proxy balances, Sluice knows one endpoint: the ClusterIP.
    let cluster_ip = namespace.cluster_ip("balanced-by-kube-proxy").await;
    raw::get(sluice.http(), HOST, "/balanced-by-kube-proxy/logged").await.unwrap();
    until("the access log's line", || async {
        let log = kubectl("-n sluice-system logs -l app.kubernetes.io/component=proxy --tail=400").await;
        let line = log.lines().find(|line| line.contains("/balanced-by-kube-proxy/logged"))?;
        assert!(line.contains(&format!("\"{cluster_ip}:80\"")), "{line}");
        Some(())
    })
    .await;

    // A pod that is not ready gets requests from Services that want it so, and from no other.
    answer_probes_with(&pods[0], 503).await;
    let ready: BTreeSet<String> = pods[1..].iter().map(|pod| pod.name.clone()).collect();
    // Through a ClusterIP a connection that is kept leads to the pod that kube-proxy once chose for it.
    for name in NAMES.into_iter().filter(|name| !matches!(*name, "balanced-by-kube-proxy" | "by-name")) {
        let expected = if matches!(name, "by-hand" | "unready-too") { &all } else { &ready };
        reaches(sluice.http(), &format!("/{name}"), expected).await;
    }

    // Names that no GatewayConfig allows, and those that none can.
    for name in ["elsewhere", "api-server"] {
        let answer = raw::get(sluice.http(), HOST, &format!("/{name}")).await.unwrap();
        // An Ingress answers 503 where its backend cannot be resolved.
        assert_eq!(answer.status, 503, "{name}: {}", answer.text());
    }
    namespace.delete().await;
}

async fn proxies() -> Vec<Pod> {
    Namespace("sluice-system").pods("app.kubernetes.io/component=proxy").await
}

/// A Gateway whose Service keeps the client's address, with a listener for balancers that tell it themselves.
const BEHIND_A_BALANCER: &str = "
apiVersion: sluice.dev/v1alpha1
kind: GatewayConfig
metadata: {name: behind}
spec:
  service: {externalTrafficPolicy: Local}
  listeners: [{name: told, proxyProtocol: true}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: behind}
spec:
  gatewayClassName: sluice
  infrastructure: {parametersRef: {group: sluice.dev, kind: GatewayConfig, name: behind}}
  listeners:
  - {name: seen, port: 80, protocol: HTTP}
  - {name: told, port: 8080, protocol: HTTP}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: behind}
spec:
  parentRefs: [{name: behind}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn a_gateways_front_shows_the_client_directly_or_by_the_proxy_protocol() {
    let sluice = Sluice::installed().await;
    let namespace = Namespace::create("behind").await;
    namespace.apply(&Backend::new("web", 1).objects()).await;
    namespace.apply(BEHIND_A_BALANCER).await;
    namespace.rolled_out("web").await;
    let (seen, _) = sluice.gateway(&namespace, "behind").await;
    let forwarded = |answer: raw::Response| answer.json()["headers"]["x-forwarded-for"].clone();
    until("the client's own address", || async {
        let answer = raw::get(seen, HOST, "/").await.ok().filter(|answer| answer.status == 200)?;
        (forwarded(answer) == "172.31.0.1").then_some(())
    })
    .await;

    let told = SocketAddr::new(seen.0.ip(), 8080);
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    let header = "PROXY TCP4 203.0.113.7 192.0.2.1 40000 80\r\n";
    let answer = until("an answer", || async { raw::exchange(told, format!("{header}{request}")).await.ok() }).await;
    assert_eq!((answer.status, forwarded(answer)), (200, "203.0.113.7".into()));
    // Whoever does not come by the balancer is not listened to.
    assert!(raw::exchange(told, request).await.is_err());
    // Nor does the other listener believe such a header.
    let answer = raw::exchange(seen, format!("{header}GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await;
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status == 400));
    namespace.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn each_type_of_service_is_a_front() {
    let sluice = Sluice::installed().await;
    let namespace = Namespace::create("fronts").await;
    namespace.apply(&Backend::new("web", 2).objects()).await;
    namespace.apply(&ingress(&["web"])).await;
    namespace.rolled_out("web").await;
    let client = |to: Address| async move {
        until("an answer", || async {
            let answer = raw::get(to, HOST, "/web").await.ok().filter(|answer| answer.status == 200)?;
            Some(answer.json()["headers"]["x-forwarded-for"].as_str().expect("Sluice says who asked").to_owned())
        })
        .await
    };
    let address = |ip: IpAddr, port: u16| Address::from(SocketAddr::new(ip, port));

    // LoadBalancer. By the policy Cluster the nodes forward to each other, and hide the client.
    client(sluice.http()).await;

    Sluice::upgrade(&["service.externalTrafficPolicy=Local"]).await;
    let ip = load_balancer("sluice-system", "sluice").await;
    until("the client's own address", || async { (client(address(ip, 80)).await == "172.31.0.1").then_some(()) }).await;

    let node_port = ["service.type=NodePort", "service.nodePorts.http=30180", "service.nodePorts.https=30543"];
    Sluice::upgrade(&node_port).await;
    let nodes = get("nodes").await;
    let nodes = nodes["items"].as_array().unwrap().iter();
    let nodes: BTreeMap<&str, IpAddr> = nodes
        .map(|node| {
            let ip = node["status"]["addresses"][0]["address"].as_str().unwrap().parse().unwrap();
            (node["metadata"]["name"].as_str().unwrap(), ip)
        })
        .collect();
    for ip in nodes.values() {
        client(address(*ip, 30180)).await;
    }

    // The nodes that have a proxy answer, and show the client.
    Sluice::upgrade(&[&node_port[..], &["service.externalTrafficPolicy=Local"]].concat()).await;
    for proxy in proxies().await {
        let at = address(nodes[&*proxy.node], 30180);
        until("the client's own address", || async { (client(at).await == "172.31.0.1").then_some(()) }).await;
    }

    Sluice::upgrade(&["service.type=ClusterIP"]).await;
    client(address(Namespace("sluice-system").cluster_ip("sluice").await, 80)).await;

    // Headless: each proxy by its own address.
    for proxy in proxies().await {
        assert_eq!(client(address(proxy.ip, 80)).await, "172.31.0.1");
    }

    // A client in the cluster is led to the proxy on its own node, and seen.
    Sluice::upgrade(&["service.type=ClusterIP", "service.internalTrafficPolicy=Local"]).await;
    let front = SocketAddr::new(Namespace("sluice-system").cluster_ip("sluice").await, 80);
    for inside in namespace.ready_pods("web").await {
        let here = proxies().await.into_iter().filter(|proxy| proxy.node == inside.node).map(|proxy| proxy.name);
        let here: BTreeSet<String> = here.collect();
        assert!(!here.is_empty(), "no proxy on {}", inside.node);
        let forwarded = format!("\"x-forwarded-for\":\"{}\"", inside.ip);
        until("a proxy on the client's node", || async {
            let answer = inside.ask(front, HOST, "/web").await.ok()?;
            answer.replace(' ', "").contains(&forwarded).then_some(())
        })
        .await;
        let path = format!("/web/from-{}", inside.name);
        for _ in 0..10 {
            inside.ask(front, HOST, &path).await.unwrap();
        }
        until("the access log's lines", || async {
            let mut asked = BTreeMap::new();
            for proxy in proxies().await {
                let log = kubectl(&format!("-n sluice-system logs {} --tail=400", proxy.name)).await;
                asked.insert(proxy.name, log.lines().filter(|line| line.contains(&path)).count());
            }
            asked.retain(|_, lines| *lines > 0);
            assert!(asked.keys().all(|name| here.contains(name)), "{asked:?} instead of {here:?}");
            (asked.values().sum::<usize>() == 10).then_some(())
        })
        .await;
    }

    // As the other tests want it: at the same address as before.
    Sluice::upgrade(&[&format!("service.loadBalancerIP={}", sluice.ip)]).await;
    assert_eq!(load_balancer("sluice-system", "sluice").await, sluice.ip);
    client(sluice.http()).await;
    namespace.delete().await;
}
