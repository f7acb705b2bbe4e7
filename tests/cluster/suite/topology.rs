//! Zones and nodes: Services that ask for near endpoints, and proxies that know where they are. Each node is a zone.

use crate::cluster::{NAMESPACE, Namespace, Pod, Sluice};
use crate::spread;
use crate::workload::{Backend, answer_probes_with};
use sluice_tests::Address;
use std::collections::BTreeSet;
use std::net::SocketAddr;

const HOST: &str = "places.example";

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: zone}
spec: {trafficDistribution: PreferClose, selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: node}
spec: {trafficDistribution: PreferSameNode, selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: anywhere}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: places}
spec:
  ingressClassName: sluice
  rules:
  - host: places.example
    http:
      paths:
      - {path: /zone, pathType: Prefix, backend: {service: {name: zone, port: {number: 80}}}}
      - {path: /node, pathType: Prefix, backend: {service: {name: node, port: {number: 80}}}}
      - {path: /anywhere, pathType: Prefix, backend: {service: {name: anywhere, port: {number: 80}}}}
";

/// Requests at a time.
const AT_ONCE: usize = 20;

fn names<'p>(pods: impl IntoIterator<Item = &'p Pod>) -> BTreeSet<String> {
    pods.into_iter().map(|pod| pod.name.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn requests_stay_in_the_zone_or_on_the_node_where_a_service_asks_for_it() {
    Sluice::installed().await;
    let namespace = Namespace::create("places").await;
    let evenly = "      topologySpreadConstraints:\n      - maxSkew: 1\n        topologyKey: kubernetes.io/hostname\n        whenUnsatisfiable: DoNotSchedule\n        labelSelector: {matchLabels: {app: web}}\n      terminationGracePeriodSeconds:";
    let deployment = Backend::new("web", 4).deployment().replace("      terminationGracePeriodSeconds:", evenly);
    namespace.apply(&deployment).await;
    namespace.apply(SERVICES).await;
    namespace.rolled_out("web").await;
    let pods = namespace.ready_pods("web").await;
    let proxies = Namespace(NAMESPACE).pods("app.kubernetes.io/component=proxy").await;
    let is_answered_by = async |proxy: &Pod, path: &str, pods: &BTreeSet<String>| {
        let to = Address::from(SocketAddr::new(proxy.ip, 80));
        spread::settles(to, HOST, &format!("/{path}?delay=20"), AT_ONCE, pods).await;
    };
    let near = |proxy: &Pod| names(pods.iter().filter(|pod| pod.node == proxy.node));
    assert!(!proxies.is_empty());
    for proxy in &proxies {
        assert_eq!(near(proxy).len(), 2, "two on each node");
        is_answered_by(proxy, "zone", &near(proxy)).await;
        is_answered_by(proxy, "node", &near(proxy)).await;
        is_answered_by(proxy, "anywhere", &names(&pods)).await;
    }

    // Nobody near is ready: the others take all. And back.
    let proxy = &proxies[0];
    let (here, there): (Vec<&Pod>, Vec<&Pod>) = pods.iter().partition(|pod| pod.node == proxy.node);
    for pod in &here {
        answer_probes_with(pod, 503).await;
    }
    for path in ["zone", "node"] {
        is_answered_by(proxy, path, &names(there.iter().copied())).await;
    }
    for pod in &here {
        answer_probes_with(pod, 200).await;
    }
    for path in ["zone", "node"] {
        is_answered_by(proxy, path, &near(proxy)).await;
    }

    // It is no longer asked for.
    namespace
        .kubectl("patch service zone --type=json -p [{\"op\":\"remove\",\"path\":\"/spec/trafficDistribution\"}]")
        .await;
    is_answered_by(proxy, "zone", &names(&pods)).await;
    namespace.delete().await;
}
