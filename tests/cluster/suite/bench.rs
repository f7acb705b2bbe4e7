//! How soon a change is served, and what many routes cost: `make bench-cluster`, on an otherwise idle machine.
//!
//! Every probe is a new connection straight to a proxy's pod, so that no kube-proxy is measured, and each proxy is probed.

use crate::cluster::{NAMESPACE, Namespace, Sluice, get};
use crate::workload::{Backend, PORT};
use futures::stream::{self, StreamExt};
use http::{Method, Request};
use kube::Client;
use serde_json::{Value, json};
use sluice_tests::gateway::metric_in;
use sluice_tests::{Address, raw};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Routes that are made one after another.
const ROUTES: usize = 3_000;
/// Changes of one endpoint.
const FLIPS: usize = 500;
/// Routes at which memory is looked at.
const SIZES: [usize; 2] = [5_000, 40_000];
/// Routes that are made at once, to count the writes of statuses.
const AT_ONCE: usize = 1_000;
/// Requests to the API server under way at a time, where it does not matter.
const LANES: usize = 32;

const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: sluice
  listeners: [{name: http, port: 80, protocol: HTTP}]
";

/// The API server by a connection of our own: kubectl takes longer to start than all that is measured here.
struct Api(Client);

impl Api {
    async fn send(&self, method: Method, path: &str, object: &Value) -> Value {
        let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let request = Request::builder().method(method).uri(path).header(http::header::CONTENT_TYPE, kind);
        let request = request.body(object.to_string().into_bytes()).unwrap();
        self.0.request(request).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    async fn route(&self, name: &str) {
        let object = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": name},
            "spec": {"parentRefs": [{"name": "edge"}], "hostnames": [format!("{name}.example")],
                     "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]}});
        self.send(Method::POST, "/apis/gateway.networking.k8s.io/v1/namespaces/bench/httproutes", &object).await;
    }

    /// Many, as fast as they are taken.
    async fn routes(&self, names: impl Iterator<Item = String>) {
        stream::iter(names).for_each_concurrent(LANES, |name| async move { self.route(&name).await }).await;
    }
}

/// When a proxy gave the first answer that is `wanted`; from then on it gives no other.
async fn served(proxy: Address, host: &str, since: Instant, wanted: impl Fn(&raw::Response) -> bool) -> Duration {
    loop {
        // What is served is what counts; a Gateway that does not know the host yet says 404.
        let answer = raw::get(proxy, host, "/").await.unwrap_or_else(|error| panic!("{proxy:?}: {error}"));
        if wanted(&answer) {
            let took = since.elapsed();
            for _ in 0..3 {
                let again = raw::get(proxy, host, "/").await.unwrap();
                assert!(wanted(&again), "{host} was served, and then {}", again.status);
            }
            return took;
        }
        assert!(since.elapsed() < Duration::from_secs(30), "{host} is not served by {proxy:?}");
    }
}

/// Mean, 99th percentile and maximum, in milliseconds, and the slowest changes with what each proxy took: what held up
/// all of them lies before them.
fn figures(what: &str, changes: &[Vec<Duration>]) {
    let mut times: Vec<Duration> = changes.iter().flatten().copied().collect();
    times.sort_unstable();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let mean = times.iter().copied().map(ms).sum::<f64>() / times.len() as f64;
    let p99 = times[(times.len() * 99 / 100).min(times.len() - 1)];
    let max = times[times.len() - 1];
    println!("{what}: {} times, mean {mean:.1} ms, p99 {:.1} ms, max {:.1} ms", times.len(), ms(p99), ms(max));
    let mut slowest: Vec<(usize, &Vec<Duration>)> = changes.iter().enumerate().collect();
    slowest.sort_by_key(|(_, times)| std::cmp::Reverse(times.iter().max()));
    for (n, times) in slowest.into_iter().take(5) {
        let times: Vec<String> = times.iter().map(|time| format!("{:.1}", ms(*time))).collect();
        println!("  change {n}: {} ms", times.join(" and "));
    }
}

struct Proxies {
    /// Where they serve the Gateway.
    listeners: Vec<Address>,
    metrics: Vec<Address>,
}

impl Proxies {
    async fn of(gateway: &Value) -> Proxies {
        let uid = gateway["metadata"]["uid"].as_str().unwrap();
        let service = get(&format!("-n {NAMESPACE} service gateway-{uid}")).await;
        let port = service["spec"]["ports"][0]["targetPort"].as_u64().unwrap() as u16;
        let pods = Namespace(NAMESPACE).pods("app.kubernetes.io/component=proxy").await;
        let at = |port| pods.iter().map(|pod| SocketAddr::new(pod.ip, port).into()).collect();
        Proxies { listeners: at(port), metrics: at(9180) }
    }

    async fn first_answers(&self, host: &str, wanted: impl Fn(&raw::Response) -> bool + Copy) -> Vec<Duration> {
        let since = Instant::now();
        let of = self.listeners.iter().map(|proxy| served(*proxy, host, since, wanted));
        futures::future::join_all(of).await
    }

    /// The largest of them, in MiB.
    async fn resident(&self) -> f64 {
        let mut largest = 0.0_f64;
        for proxy in &self.metrics {
            let text = raw::get(*proxy, "proxy", "/metrics").await.unwrap().text();
            largest = largest.max(metric_in(&text, "sluice_memory_resident_bytes", &[]));
        }
        largest / f64::from(1 << 20)
    }
}

/// Statuses that the controllers have written.
async fn status_writes() -> f64 {
    let mut all = 0.0;
    for pod in Namespace(NAMESPACE).pods("app.kubernetes.io/component=controller").await {
        let text = raw::get(SocketAddr::new(pod.ip, 9180), "pod", "/metrics").await.unwrap().text();
        all += metric_in(&text, "sluice_status_writes_total", &["written"]);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures: make bench-cluster"]
async fn bench() {
    Sluice::installed().await;
    let namespace = Namespace::create("bench").await;
    namespace.apply(&Backend::new("web", 2).objects()).await;
    namespace.apply(GATEWAY).await;
    namespace.rolled_out("web").await;
    let good = ["Accepted=True/Accepted", "Programmed=True/Programmed"];
    let gateway = namespace.has_conditions("gateway edge", "/status/conditions", &good).await;
    let proxies = Proxies::of(&gateway).await;
    let api = Api(Client::try_default().await.expect("KUBECONFIG leads to the cluster"));

    let mut times = Vec::new();
    for n in 0..ROUTES {
        let name = format!("r{n}");
        api.route(&name).await;
        times.push(proxies.first_answers(&format!("{name}.example"), |answer| answer.status == 200).await);
    }
    figures("a new HTTPRoute, from the API server's answer to a proxy's first 200", &times);

    // A Service without selector, whose one endpoint is now this pod and now that one.
    let pods = namespace.ready_pods("web").await;
    namespace
        .apply(&format!(
            "\
apiVersion: v1
kind: Service
metadata: {{name: flips}}
spec: {{ports: [{{port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: flips-1, labels: {{kubernetes.io/service-name: flips}}}}
addressType: IPv4
ports: [{{port: {PORT}}}]
endpoints: [{{addresses: [{}]}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: flips}}
spec:
  parentRefs: [{{name: edge}}]
  hostnames: [flips.example]
  rules: [{{backendRefs: [{{name: flips, port: 80}}]}}]
",
            pods[0].ip
        ))
        .await;
    proxies.first_answers("flips.example", |answer| answer.status == 200).await;
    let mut times = Vec::new();
    for n in 1..=FLIPS {
        let pod = &pods[n % 2];
        let patch = json!({"endpoints": [{"addresses": [pod.ip.to_string()]}]});
        let slice = "/apis/discovery.k8s.io/v1/namespaces/bench/endpointslices/flips-1";
        api.send(Method::PATCH, slice, &patch).await;
        let now = |answer: &raw::Response| answer.status == 200 && answer.json()["name"] == pod.name.as_str();
        times.push(proxies.first_answers("flips.example", now).await);
    }
    figures("another endpoint, from the API server's answer to a proxy's first request there", &times);

    let before = status_writes().await;
    api.routes((0..AT_ONCE).map(|n| format!("burst{n}"))).await;
    let last = format!("httproute burst{}", AT_ONCE - 1);
    namespace.has_conditions(&last, "/status/parents/0/conditions", &["Accepted=True/Accepted"]).await;
    crate::cluster::until("the last count of routes", || async {
        let gateway = namespace.get("gateway edge").await;
        (gateway["status"]["listeners"][0]["attachedRoutes"] == ROUTES + 1 + AT_ONCE).then_some(())
    })
    .await;
    println!("{AT_ONCE} HTTPRoutes at once: {} writes of statuses", status_writes().await - before);

    let mut there = ROUTES + 1 + AT_ONCE;
    for size in SIZES {
        api.routes((there..size).map(|n| format!("m{n}"))).await;
        there = size;
        proxies.first_answers(&format!("m{}.example", size - 1), |answer| answer.status == 200).await;
        println!("{size} HTTPRoutes: a proxy's memory {:.0} MiB", proxies.resident().await);
    }
    namespace.delete().await;
}
