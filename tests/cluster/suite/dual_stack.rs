//! Both address families, on a cluster of its own that has them (`cluster up --dual-stack`).

use crate::cluster::{NAMESPACE, Namespace, RELEASE, Sluice, get, kubectl, until};
use crate::spread;
use crate::workload::Backend;
use serde_json::Value;
use sluice_tests::raw;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

const HOST: &str = "both.example";

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: four-first}
spec: {ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv4, IPv6], selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: six-first}
spec: {ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv6, IPv4], selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: six-alone}
spec: {ipFamilies: [IPv6], selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: both}
spec:
  ingressClassName: sluice
  rules:
  - host: both.example
    http:
      paths:
      - {path: /four-first, pathType: Prefix, backend: {service: {name: four-first, port: {number: 80}}}}
      - {path: /six-first, pathType: Prefix, backend: {service: {name: six-first, port: {number: 80}}}}
      - {path: /six-alone, pathType: Prefix, backend: {service: {name: six-alone, port: {number: 80}}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: both}
spec: {gatewayClassName: sluice, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: both}
spec: {parentRefs: [{name: both}], rules: [{backendRefs: [{name: six-first, port: 80}]}]}
";

/// The addresses of a status, one of each family.
fn of_both_families(addresses: &Value, field: &str) -> Option<Vec<IpAddr>> {
    let addresses = addresses.as_array()?.iter().filter_map(|address| address[field].as_str()?.parse().ok());
    let addresses: Vec<IpAddr> = addresses.collect();
    let families: BTreeSet<bool> = addresses.iter().map(IpAddr::is_ipv4).collect();
    (families.len() == 2).then_some(addresses)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn clients_and_pods_of_both_families_meet() {
    Sluice::installed().await;
    Sluice::upgrade(&["service.ipFamilyPolicy=RequireDualStack"]).await;
    let namespace = Namespace::create("both").await;
    namespace.apply(&Backend::new("web", 3).deployment()).await;
    namespace.apply(SERVICES).await;
    namespace.rolled_out("web").await;
    let pods: BTreeSet<String> = namespace.ready_pods("web").await.into_iter().map(|pod| pod.name).collect();

    // The front has an address of each family, which Ingress objects get, and so has a Gateway's own Service.
    let front = until("addresses of both families", || async {
        let service = get(&format!("-n {NAMESPACE} service {RELEASE}")).await;
        of_both_families(&service["status"]["loadBalancer"]["ingress"], "ip")
    })
    .await;
    let of_ingress = until("addresses of the Ingress", || async {
        let ingress = namespace.get("ingress both").await;
        of_both_families(&ingress["status"]["loadBalancer"]["ingress"], "ip")
    })
    .await;
    assert_eq!(BTreeSet::from_iter(of_ingress), BTreeSet::from_iter(front.clone()));
    let of_gateway = until("addresses of the Gateway", || async {
        of_both_families(&namespace.get("gateway both").await["status"]["addresses"], "value")
    })
    .await;
    for ip in front {
        for path in ["/four-first", "/six-first", "/six-alone"] {
            let to = SocketAddr::new(ip, 80).into();
            spread::settles(to, HOST, &format!("{path}?delay=20"), 30, &pods).await;
        }
    }
    for ip in of_gateway {
        let to = SocketAddr::new(ip, 80);
        until(&format!("an answer at {to}"), || async {
            (raw::get(to, HOST, "/").await.ok()?.status == 200).then_some(())
        })
        .await;
    }

    // Each pod is one endpoint, at its address of the Service's first family.
    for (service, is_first) in [
        ("four-first", IpAddr::is_ipv4 as fn(&IpAddr) -> bool),
        ("six-first", IpAddr::is_ipv6),
        ("six-alone", IpAddr::is_ipv6),
    ] {
        let command =
            format!("-n {NAMESPACE} exec deployment/{RELEASE}-proxy -- sluice get endpoints both/{service}: -o json");
        let endpoints: Value = serde_json::from_str(&kubectl(&command).await).unwrap();
        let addresses: Vec<SocketAddr> =
            endpoints.as_array().unwrap().iter().map(|e| e["address"].as_str().unwrap().parse().unwrap()).collect();
        assert_eq!(addresses.len(), pods.len(), "{service}: {addresses:?}");
        assert!(addresses.iter().all(|address| is_first(&address.ip())), "{service}: {addresses:?}");
    }
    namespace.delete().await;
}
