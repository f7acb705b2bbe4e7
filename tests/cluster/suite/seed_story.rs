//! What Sluice is for, in one piece: a shop of five Services behind one Ingress and one address, whose pods scale, fall
//! ill, die and are replaced while clients go on asking, with kube-proxy serving the same Services beside it.

use crate::cluster::{Namespace, Pod, Sluice, until};
use crate::spread;
use crate::workload::{Backend, answer_probes_with};
use sluice_tests::certificate::Authority;
use sluice_tests::load::{Kind, Plan, Rate, Target};
use sluice_tests::{Address, objects, raw};
use std::net::SocketAddr;

const HOST: &str = "shop.example";

/// Requests that the spread is judged by, and how far from equal a share of them may be, in points of a hundred.
const REQUESTS: usize = 2_000;
const POINTS: f64 = 5.0;

const INGRESS: &str = "
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: shop}
spec:
  ingressClassName: sluice
  tls: [{hosts: [shop.example], secretName: shop}]
  rules:
  - host: shop.example
    http:
      paths:
      - {path: /web, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}
      - {path: /api, pathType: Prefix, backend: {service: {name: api, port: {name: http}}}}
      - {path: /files, pathType: Prefix, backend: {service: {name: files, port: {number: 80}}}}
      - {path: /order/pizza, pathType: Prefix, backend: {service: {name: pizza, port: {number: 80}}}}
      - {path: /order/sides, pathType: Prefix, backend: {service: {name: sides, port: {number: 80}}}}
";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn seed_story() {
    let sluice = Sluice::installed().await;
    let authority = Authority::default();
    let shop = Namespace::create("shop").await;

    // A Deployment and a Service each; one Ingress with a certificate.
    for name in ["web", "api", "files", "pizza", "sides"] {
        shop.apply(&Backend::new(name, if name == "web" { 3 } else { 1 }).objects()).await;
    }
    shop.apply(&objects::secret_in("shop", "shop", &authority.leaf(&[HOST]))).await;
    shop.apply(INGRESS).await;
    for name in ["web", "api", "files", "pizza", "sides"] {
        shop.rolled_out(name).await;
    }

    // One address; each path leads to its Service.
    for (path, service) in [
        ("/web", "web"),
        ("/api/v1", "api"),
        ("/files/a", "files"),
        ("/order/pizza", "pizza"),
        ("/order/sides", "sides"),
    ] {
        until(&format!("{path} to be answered by {service}"), || async {
            let answer = raw::get(sluice.http(), HOST, path).await.ok()?;
            (answer.status == 200 && spread::pod_of(&answer).starts_with(&format!("{service}-"))).then_some(())
        })
        .await;
    }
    assert_eq!(raw::get(sluice.http(), HOST, "/order").await.unwrap().status, 404, "nobody routes that");
    let mut tls = raw::Client::connect_tls(sluice.https(), HOST, authority.client(&["http/1.1"])).await.unwrap();
    tls.send(format!("GET /web HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await.unwrap();
    assert_eq!(tls.response().await.unwrap().status, 200, "with the certificate of the Ingress");

    // From here on clients ask all the time, and never twice for the same.
    let load = plan().start(&target(sluice, &authority));
    load.settled(&KINDS, 20).await;
    let web = Web { sluice, shop: &shop, cluster_ip: SocketAddr::from((shop.cluster_ip("web").await, 80)).into() };

    web.spreads_over_all(3).await;

    shop.kubectl("scale deployment/web --replicas=6").await;
    shop.rolled_out("web").await;
    web.spreads_over_all(6).await;
    shop.kubectl("scale deployment/web --replicas=4").await;
    shop.rolled_out("web").await;
    web.spreads_over_all(4).await;

    // A readiness probe that fails: the pod runs on and gets nothing, until it is well again.
    let ill = shop.ready_pods("web").await.remove(0);
    answer_probes_with(&ill, 503).await;
    let pods = web.spreads_over_all(3).await;
    assert!(pods.iter().all(|pod| pod.name != ill.name), "{pods:?}");
    answer_probes_with(&ill, 200).await;
    web.spreads_over_all(4).await;

    // A pod that dies at once, in the middle of whatever it does.
    let dead = shop.ready_pods("web").await.remove(0);
    shop.kubectl(&format!("delete pod {} --grace-period=0 --force", dead.name)).await;
    shop.rolled_out("web").await;
    web.spreads_over_all(4).await;

    // A new version, pod by pod.
    let former = shop.ready_pods("web").await;
    shop.kubectl("set env deployment/web VERSION=2").await;
    shop.rolled_out("web").await;
    let pods = web.spreads_over_all(4).await;
    assert!(pods.iter().all(|pod| former.iter().all(|old| old.name != pod.name)), "{pods:?} are of the old version");

    load.settled(&KINDS, 20).await;
    let report = load.stop().await;
    println!("{report}");
    report.assert_flawless(&KINDS);
    shop.delete().await;
}

const KINDS: [Kind; 4] = [Kind::Http1, Kind::Http2, Kind::New, Kind::NewTls];

/// 150 requests a second over kept connections, 30 over new ones.
fn plan() -> Plan {
    let none = Rate { connections: 0, per_second: 1 };
    Plan {
        http1: Rate { connections: 5, per_second: 20 },
        http2: Rate { connections: 2, per_second: 25 },
        grpc: none,
        web_socket: none,
        new_connections: 30,
    }
}

fn target(sluice: Sluice, authority: &Authority) -> Target {
    Target {
        http: sluice.http(),
        https: sluice.https(),
        host: HOST.to_owned(),
        tls: authority.trust(),
        path: "/web/load".to_owned(),
        grpc_path: String::new(),
        web_socket_path: String::new(),
        check: None,
    }
}

/// The Service `web`, through Sluice and through its ClusterIP.
struct Web<'a> {
    sluice: Sluice,
    shop: &'a Namespace,
    cluster_ip: Address,
}

impl Web<'_> {
    /// `count` pods are ready. They share the requests evenly, and no other pod gets any: through Sluice, and through
    /// kube-proxy as well.
    async fn spreads_over_all(&self, count: usize) -> Vec<Pod> {
        let pods = until(&format!("{count} ready pods"), || async {
            let pods = self.shop.ready_pods("web").await;
            (pods.len() == count).then_some(pods)
        })
        .await;
        for (through, to) in [("Sluice", self.sluice.http()), ("kube-proxy", self.cluster_ip)] {
            self.knows(to, &pods).await;
            let spread = spread::ask(to, HOST, "/web", REQUESTS).await;
            println!("{count} pods through {through}:\n{spread}");
            spread.assert_even(&pods, POINTS);
        }
        pods
    }

    /// Waits until just these pods answer. kube-proxy gathers changes for up to a second.
    async fn knows(&self, to: Address, pods: &[Pod]) {
        until("just the ready pods to answer", || async {
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..pods.len() * 20 {
                let answer = raw::get(to, HOST, "/web").await.ok().filter(|answer| answer.status == 200)?;
                seen.insert(spread::pod_of(&answer));
            }
            (seen.len() == pods.len() && pods.iter().all(|pod| seen.contains(&pod.name))).then_some(())
        })
        .await;
    }
}
