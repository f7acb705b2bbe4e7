//! No request fails while things change: routes, pods, certificates, plugins, Sluice itself, and the API server.
//!
//! Each test keeps a steady load on one Ingress: HTTP/1.1, HTTP/2, new connections with and without TLS, gRPC streams and
//! WebSockets, by clients that never send anything twice. Streams go to pods of their own, which stay: a stream ends
//! with its pod, whoever stands in front.

use crate::cluster::{Namespace, Sluice, driver, kubectl, until, until_everywhere};
use crate::workload::{Backend, End};
use sluice_tests::certificate::{self, Authority, Leaf};
use sluice_tests::load::{Check, Kind, Plan, Rate, Running, Target};
use sluice_tests::{guests, objects, raw};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const INGRESS: &str = "
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: site}
spec:
  ingressClassName: sluice
  tls: [{hosts: [HOST], secretName: site}]
  rules:
  - host: HOST
    http:
      paths:
      - {path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}
      - {path: /chat, pathType: Prefix, backend: {service: {name: chat, port: {number: 80}}}}
      - {path: /echo.Echo, pathType: Prefix, backend: {service: {name: grpc, port: {number: 80}}}}
";

struct Site {
    sluice: Sluice,
    host: String,
    namespace: Namespace,
    authority: Authority,
}

impl Site {
    async fn new(namespace: &'static str, web: Backend) -> Site {
        let sluice = Sluice::installed().await;
        let site = Site {
            sluice,
            // A namespace that ends may hold its Ingress for a while.
            host: format!("{namespace}.example"),
            namespace: Namespace::create(namespace).await,
            authority: Authority::default(),
        };
        let grpc = Backend { protocol: "kubernetes.io/h2c", ..Backend::new("grpc", 1) };
        let backends = [web, Backend::new("chat", 1), grpc];
        for backend in backends {
            site.namespace.apply(&backend.objects()).await;
        }
        site.certificate().await;
        site.namespace.apply(&INGRESS.replace("HOST", &site.host)).await;
        for backend in backends {
            site.namespace.rolled_out(backend.name).await;
        }
        for path in ["/", "/chat", "/echo.Echo"] {
            until_everywhere(&format!("{path} to be answered"), || async {
                let answer = raw::get(sluice.http(), &site.host, path).await.ok()?;
                (answer.status == 200).then_some(())
            })
            .await;
        }
        site
    }

    /// Replaces the certificate.
    async fn certificate(&self) -> Leaf {
        let leaf = self.authority.leaf(&[&self.host]);
        self.namespace.apply(&objects::secret_in(self.namespace.0, "site", &leaf)).await;
        leaf
    }

    async fn load(&self, path: &str) -> Load {
        let target = Target {
            http: self.sluice.http(),
            https: self.sluice.https(),
            host: self.host.clone(),
            tls: self.authority.trust(),
            path: path.to_owned(),
            grpc_path: "/echo.Echo/Chat".to_owned(),
            web_socket_path: "/chat".to_owned(),
            check: None,
        };
        let plan = Plan {
            http1: Rate { connections: 5, per_second: 20 },
            http2: Rate { connections: 2, per_second: 25 },
            grpc: Rate { connections: 2, per_second: 5 },
            web_socket: Rate { connections: 2, per_second: 5 },
            new_connections: 30,
        };
        let load = Load(plan.start(&target));
        load.settled().await;
        load
    }

    async fn header(&self, name: &str) -> Option<String> {
        raw::get(self.sluice.http(), &self.host, "/probe").await.ok()?.header(name)
    }

    async fn restart_web(&self) {
        self.namespace.kubectl("rollout restart deployment/web").await;
        // Until the last of the old pods has gone, which is later than the rollout's own end.
        self.namespace.rolled_out("web").await;
    }
}

struct Load(Running);

impl Load {
    /// Every kind has had some more answers.
    async fn settled(&self) {
        self.0.settled(&Kind::ALL, 5).await;
    }

    async fn flawless(self) {
        self.settled().await;
        let report = self.0.stop().await;
        println!("{report}");
        report.assert_flawless(&Kind::ALL);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn a_route_that_flips_between_backends_twenty_times_never_mixes_them() {
    const FLIPS: usize = 20;
    let site = Site::new("flips", Backend::new("web", 1)).await;
    for name in ["blue", "green"] {
        site.namespace.apply(&Backend::new(name, 2).objects()).await;
    }
    let route = |name: &str, flip: usize| {
        format!(
            "\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: flips}}
spec:
  parentRefs: [{{name: flips}}]
  hostnames: [flipping.example]
  rules:
  - filters:
    - type: ResponseHeaderModifier
      responseHeaderModifier: {{set: [{{name: x-route, value: {name}}}, {{name: x-flip, value: \"{flip}\"}}]}}
    backendRefs: [{{name: {name}, port: 80}}]
"
        )
    };
    let gateway = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: flips}
spec:
  gatewayClassName: sluice
  listeners:
  - {name: http, port: 80, protocol: HTTP, hostname: flipping.example}
  - {name: https, port: 443, protocol: HTTPS, hostname: flipping.example, tls: {certificateRefs: [{name: flips}]}}
";
    let leaf = site.authority.leaf(&["flipping.example"]);
    site.namespace.apply(&objects::secret_in("flips", "flips", &leaf)).await;
    site.namespace.apply(gateway).await;
    site.namespace.apply(&route("blue", 0)).await;
    for name in ["blue", "green"] {
        site.namespace.rolled_out(name).await;
    }
    let (http, https) = site.sluice.gateway(&site.namespace, "flips").await;
    let seen = |name: &'static str, flip: usize| async move {
        let answer = raw::get(http, "flipping.example", "/").await.ok()?;
        let pod = (answer.status == 200).then(|| crate::spread::pod_of(&answer))?;
        (answer.header("x-flip") == Some(flip.to_string()) && pod.starts_with(name)).then_some(())
    };
    until_everywhere("the route", || seen("blue", 0)).await;

    let check: Check = Arc::new(|headers, body| {
        let route = headers.get("x-route").and_then(|value| value.to_str().ok()).ok_or("no header of a route")?;
        let answer: serde_json::Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let pod = answer["name"].as_str().unwrap_or_default();
        if pod.starts_with(&format!("{route}-")) { Ok(()) } else { Err(format!("route {route}, answered by {pod}")) }
    });
    let kinds = [Kind::Http1, Kind::Http2, Kind::New, Kind::NewTls];
    let none = Rate { connections: 0, per_second: 1 };
    let plan = Plan {
        http1: Rate { connections: 5, per_second: 20 },
        http2: Rate { connections: 2, per_second: 25 },
        grpc: none,
        web_socket: none,
        new_connections: 30,
    };
    let load = plan.start(&Target {
        http,
        https,
        host: "flipping.example".to_owned(),
        tls: site.authority.trust(),
        path: "/load".to_owned(),
        grpc_path: String::new(),
        web_socket_path: String::new(),
        check: Some(check),
    });
    load.settled(&kinds, 5).await;
    for flip in 1..=FLIPS {
        let name = ["blue", "green"][flip % 2];
        site.namespace.apply(&route(name, flip)).await;
        until("the flip to be seen", || seen(name, flip)).await;
        load.settled(&kinds, 3).await;
    }
    let report = load.stop().await;
    println!("{report}");
    report.assert_flawless(&kinds);
    site.namespace.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn a_rolling_restart_of_ten_pods_that_serve_on_for_a_while_fails_nothing() {
    let site = Site::new("late", Backend { end: End::Late, ..Backend::new("web", 10) }).await;
    let load = site.load("/load").await;
    site.restart_web().await;
    load.flawless().await;
    site.namespace.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn a_rolling_restart_of_ten_pods_that_end_at_once_fails_nothing_that_may_be_repeated() {
    let site = Site::new("atonce", Backend { end: End::AtOnce, ..Backend::new("web", 10) }).await;
    // Each request takes long enough to be under way when its pod ends.
    let load = site.load("/load?delay=30").await;
    let posts = Posts::start(&site);
    site.restart_web().await;
    load.flawless().await;
    // Whoever sends a POST must be told when nobody knows what became of it: those are counted, and not judged.
    println!("{}", posts.stop().await);
    site.namespace.delete().await;
}

/// POST requests one after another, each on a connection of its own.
struct Posts {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Posts {
    fn start(site: &Site) -> Posts {
        let (to, host) = (site.sluice.http(), site.host.clone());
        let (stop, sent, failed) =
            (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (stopped, count, failures) = (stop.clone(), sent.clone(), failed.clone());
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let request = format!(
                    "POST /post?delay=30 HTTP/1.1\r\nHost: {host}\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"
                );
                let good = raw::exchange(to, request).await.is_ok_and(|answer| answer.status == 200);
                count.fetch_add(1, Ordering::Relaxed);
                failures.fetch_add(usize::from(!good), Ordering::Relaxed);
            }
        });
        Posts { stop, sent, failed, task }
    }

    async fn stop(self) -> String {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the task does not panic");
        format!("POST: {} of {} failed", self.failed.load(Ordering::Relaxed), self.sent.load(Ordering::Relaxed))
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn scaling_from_ten_pods_to_two_and_back_fails_nothing() {
    // Eight pods that close at once, moments before their endpoints go, are more than one further try gets around.
    let site = Site::new("scaling", Backend { end: End::Late, ..Backend::new("web", 10) }).await;
    let load = site.load("/load").await;
    for replicas in [2, 10] {
        site.namespace.kubectl(&format!("scale deployment/web --replicas={replicas}")).await;
        site.namespace.rolled_out("web").await;
        load.settled().await;
    }
    load.flawless().await;
    site.namespace.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn fifty_new_certificates_fail_nothing() {
    let site = Site::new("certificates", Backend::new("web", 2)).await;
    let load = site.load("/load").await;
    for _ in 0..50 {
        let leaf = site.certificate().await;
        until("the new certificate", || async {
            let client = site.authority.client(&["http/1.1"]);
            let stream = certificate::connect(site.sluice.https(), &site.host, client).await.ok()?;
            (certificate::shown(&stream) == leaf.der).then_some(())
        })
        .await;
    }
    load.flawless().await;
    site.namespace.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn a_plugins_new_code_fails_nothing() {
    let site = Site::new("plugins", Backend::new("web", 2)).await;
    let versioned = guests::versioned();
    let code = async |version: usize| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("versioned.wasm");
        std::fs::write(&file, versioned.with_version(version)).unwrap();
        let map = format!("create configmap versioned --dry-run=client -o yaml --from-file={}", file.display());
        site.namespace.apply(&kubectl(&map).await).await;
    };
    let seen = async |version: usize| {
        let wanted = Some(guests::Versioned::name(version));
        until_everywhere("the version of the plugin", || async {
            (site.header("x-plugin-version").await == wanted).then_some(())
        })
        .await;
    };
    code(0).await;
    site.namespace
        .apply(
            "
apiVersion: sluice.dev/v1alpha1
kind: Plugin
metadata: {name: versioned}
spec: {source: {configMap: {name: versioned, key: versioned.wasm}}}
---
apiVersion: sluice.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: versioned}
spec:
  targetRefs: [{group: networking.k8s.io, kind: Ingress, name: site}]
  plugins: [{name: versioned, pluginRef: {name: versioned}}]
",
        )
        .await;
    seen(0).await;
    let load = site.load("/load").await;
    for version in 1..=3 {
        code(version).await;
        seen(version).await;
        load.settled().await;
    }
    load.flawless().await;
    site.namespace.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn a_rolling_update_of_sluice_itself_fails_nothing() {
    let site = Site::new("update", Backend::new("web", 2)).await;
    let load = site.load("/load").await;
    let proxies = Namespace(crate::cluster::NAMESPACE);
    proxies.kubectl("rollout restart deployment/sluice-proxy").await;
    proxies.kubectl("rollout status deployment/sluice-proxy --timeout=180s").await;
    until("the former proxies to go", || async {
        let pods = proxies.get("pods -l app.kubernetes.io/component=proxy").await["items"].as_array()?.len();
        (pods == 2).then_some(())
    })
    .await;
    load.flawless().await;
    site.namespace.delete().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn an_api_server_that_is_away_for_a_minute_fails_nothing_and_a_proxy_killed_meanwhile_serves_again() {
    let site = Site::new("survival", Backend::new("web", 2)).await;
    let load = site.load("/load").await;
    let proxies = Namespace(crate::cluster::NAMESPACE).pods("app.kubernetes.io/component=proxy").await;
    let killed = proxies.first().expect("there are proxies");
    driver(&["stop", "kube-apiserver"]).await;
    let away = Instant::now();
    while away.elapsed() < Duration::from_secs(60) {
        load.settled().await;
    }
    load.flawless().await;
    // Its container starts again, with what the one before kept in memory.
    killed.kill();
    let readiness = || async { raw::get(SocketAddr::new(killed.ip, 9180), "pod", "/readyz").await.ok() };
    until("the killed proxy to serve what it kept", || async {
        let answer = readiness().await?;
        (answer.status == 200 && answer.text().contains("the last good resources are served")).then_some(())
    })
    .await;
    for _ in 0..20 {
        let answer = raw::get(SocketAddr::new(killed.ip, 80), &site.host, "/").await.expect("it serves");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    driver(&["start", "kube-apiserver"]).await;
    until("the API server", || async { crate::cluster::try_kubectl("get --raw /readyz").await.ok() }).await;
    until("the killed proxy to serve what the API server has", || async {
        readiness().await.filter(|answer| answer.status == 200 && answer.text() == "ready\n")
    })
    .await;
    // What changes then is served again.
    let load = site.load("/load").await;
    site.namespace.kubectl("scale deployment/web --replicas=4").await;
    site.namespace.rolled_out("web").await;
    load.flawless().await;
    site.namespace.delete().await;
}
