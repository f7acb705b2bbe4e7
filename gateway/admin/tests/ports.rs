//! Both admin ports, asked by real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use futures::FutureExt;
use futures::future::BoxFuture;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use sluice_admin::{LogFilter, Readiness, Router, Status, View};
use sluice_model::{Code, Config, Kind, ObjectRef, Problem, Served, ServedObject, ServedQuestion};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing_subscriber::{EnvFilter, reload};

const READY: u8 = 0;
const DRAINING: u8 = 1;
const STUCK: u8 = 2;

#[derive(Default)]
struct Gateway {
    readiness: AtomicU8,
    problems: Mutex<Vec<Problem>>,
}

impl View for Gateway {
    fn config(&self) -> Arc<Config> {
        Arc::default()
    }

    fn problems(&self) -> Arc<Vec<Problem>> {
        Arc::new(self.problems.lock().unwrap().clone())
    }

    fn status(&self) -> Status {
        Status {
            version: "1.2.3".into(),
            started: SystemTime::UNIX_EPOCH,
            generation: 4,
            last_reload: None,
            draining: false,
            open: Vec::new(),
            open_udp: Vec::new(),
            endpoints: Vec::new(),
            plugins: Vec::new(),
            watches: Vec::new(),
            last_good: None,
        }
    }

    fn served(&self, question: &ServedQuestion) -> Served {
        let served = |object: &ObjectRef| ServedObject {
            object: object.clone(),
            uid: "u".into(),
            generation: 3,
            listeners: vec!["http".into()],
            plugin: None,
        };
        Served { objects: question.objects.iter().map(served).collect() }
    }

    fn readiness(&self) -> BoxFuture<'_, Readiness> {
        match self.readiness.load(Ordering::Relaxed) {
            READY => async { Readiness::Ready(vec!["HTTPRoute forbidden: no".into()]) }.boxed(),
            DRAINING => async { Readiness::NotReady("draining".into()) }.boxed(),
            _ => futures::future::pending().boxed(),
        }
    }
}

async fn start(router: Router) -> (SocketAddr, DropGuard) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(sluice_admin::serve(listener, router, stop.clone()));
    (address, stop.drop_guard())
}

async fn probes(gateway: &Arc<Gateway>) -> (SocketAddr, DropGuard) {
    let mut registry = Registry::with_prefix("sluice");
    let requests = Counter::<u64>::default();
    requests.inc_by(3);
    registry.register("requests", "Requests", requests);
    start(sluice_admin::probes(Arc::new(registry), gateway.clone())).await
}

fn log_filter() -> (reload::Layer<EnvFilter, tracing_subscriber::Registry>, LogFilter) {
    reload::Layer::new(EnvFilter::new("info"))
}

/// Status and body of one request, whose lines are given.
async fn ask(address: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

async fn get(address: SocketAddr, target: &str) -> (u16, String) {
    ask(address, &format!("GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")).await
}

#[tokio::test]
async fn metrics_are_open_metrics_text() {
    let (address, _stop) = probes(&Arc::default()).await;
    let (status, body) = get(address, "/metrics").await;
    assert_eq!(status, 200);
    assert!(body.contains("sluice_requests_total 3\n") && body.ends_with("# EOF\n"), "{body}");
}

#[tokio::test]
async fn readiness_follows_the_gateway_and_liveness_does_not() {
    let gateway = Arc::new(Gateway::default());
    let (address, _stop) = probes(&gateway).await;
    assert_eq!(get(address, "/readyz").await, (200, "ready\nHTTPRoute forbidden: no\n".to_owned()));
    gateway.readiness.store(DRAINING, Ordering::Relaxed);
    assert_eq!(get(address, "/readyz").await, (503, "draining\n".to_owned()));
    gateway.readiness.store(STUCK, Ordering::Relaxed);
    assert_eq!(get(address, "/readyz").await, (503, "the data plane does not answer\n".to_owned()));
    assert_eq!(get(address, "/livez").await.0, 200);
}

#[tokio::test]
async fn a_controller_asks_the_metrics_port_what_is_served() {
    let (address, _stop) = probes(&Arc::default()).await;
    let post = |body: &str| {
        format!(
            "POST /served HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let question = r#"{"objects":[{"kind":"Gateway","namespace":"shop","name":"edge"}]}"#;
    let (status, body) = ask(address, &post(question)).await;
    let answer: Served = serde_json::from_str(&body).unwrap();
    assert_eq!((status, answer.objects[0].generation), (200, 3));
    assert_eq!(answer.objects[0].object, ObjectRef::new(Kind::Gateway, "shop", "edge"));
    assert_eq!(ask(address, &post("{}")).await.0, 422);
}

#[tokio::test]
async fn the_admin_port_shows_the_page_the_configuration_and_the_problems() {
    let gateway = Arc::new(Gateway::default());
    let object = ObjectRef::new(Kind::Ingress, "shop", "web");
    gateway.problems.lock().unwrap().push(Problem::error(Code::InvalidPath, &object, "spec", "`x` is no path"));
    let (_layer, filter) = log_filter();
    let (address, _stop) = start(sluice_admin::local(gateway, filter)).await;
    let (status, page) = get(address, "/").await;
    assert!(status == 200 && page.contains("SLUICE-P102") && page.contains("Ingress shop/web"), "{page}");
    let config: serde_json::Value = serde_json::from_str(&get(address, "/config").await.1).unwrap();
    assert!(config["ports"].is_object());
    let problems: serde_json::Value = serde_json::from_str(&get(address, "/problems").await.1).unwrap();
    assert_eq!(problems[0]["code"], "SLUICE-P102");
    let status: Status = serde_json::from_str(&get(address, "/status").await.1).unwrap();
    assert_eq!((&*status.version, status.generation, status.started), ("1.2.3", 4, SystemTime::UNIX_EPOCH));
    for rows in ["/listeners", "/routes", "/backends", "/certificates"] {
        assert_eq!(get(address, rows).await, (200, "[]".to_owned()), "{rows}");
    }
    let (status, text) = get(address, "/explain?method=GET&url=http%3A%2F%2Fa.example%2F&output=text").await;
    assert!(status == 200 && text.starts_with("GET http://a.example/"), "{text}");
    assert_eq!(get(address, "/explain?url=ftp%3A%2F%2Fa").await.0, 400);
    assert_eq!(get(address, "/metrics").await.0, 404);
}

#[tokio::test]
async fn a_page_of_another_name_cannot_ask_the_admin_port() {
    let (_layer, filter) = log_filter();
    let (address, _stop) = start(sluice_admin::local(Arc::<Gateway>::default(), filter)).await;
    let request = "GET /config HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    assert_eq!(ask(address, request).await.0, 403);
}

#[tokio::test]
async fn the_log_level_can_be_read_and_set_and_nonsense_is_refused() {
    let (_layer, filter) = log_filter();
    let (address, _stop) = start(sluice_admin::local(Arc::<Gateway>::default(), filter)).await;
    let put = |body: &str| {
        format!(
            "PUT /log-level HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    assert_eq!(get(address, "/log-level").await, (200, "info\n".to_owned()));
    assert_eq!(ask(address, &put("warn,sluice=debug")).await.0, 204);
    assert_eq!(get(address, "/log-level").await, (200, "sluice=debug,warn\n".to_owned()));
    assert_eq!(ask(address, &put("sluice=loud")).await.0, 400);
    assert_eq!(get(address, "/log-level").await, (200, "sluice=debug,warn\n".to_owned()));
    assert_eq!(ask(address, &put(&"x".repeat(10_000))).await.0, 413);
}
