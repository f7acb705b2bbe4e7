//! Ports that open and close, limits on connections, draining, workers that come back, and hand-over.

use super::client::Client;
use super::*;
use std::net::TcpListener;
use tokio::net::TcpStream;

fn any(edge: Edge) -> Vec<Arc<Listener>> {
    vec![listener("any", None, None, &Arc::new(edge))]
}

#[tokio::test]
async fn every_mode_serves_from_every_worker() {
    for mode in [RuntimeMode::PerCore, RuntimeMode::PerCoreReusePort, RuntimeMode::WorkStealing] {
        let mut gateway = Gateway::with(DownstreamOptions { mode, workers: 3, ..DownstreamOptions::default() });
        let address = gateway.open(FIRST, Protocol::Http, any(Edge::default()));
        let mut clients = Vec::new();
        for _ in 0..20 {
            let mut client = Client::connect(address).await;
            assert_eq!(client.get("/x").await.status, 200, "{mode:?}");
            clients.push(client);
        }
        assert_eq!(gateway.downstream.connections(), 20);
        drop(clients);
        eventually("all are closed", || gateway.downstream.connections() == 0).await;
    }
}

#[tokio::test]
async fn a_port_opens_and_closes_without_a_word_to_the_others() {
    let (mut gateway, first) = Gateway::plain(Edge::default());
    let mut steady = Client::connect(first).await;
    assert_eq!(steady.get("/1").await.status, 200);
    let second = gateway.open(SECOND, Protocol::Http, any(edge(|e| e.timeouts.drain = Duration::from_secs(60))));
    let mut leaving = Client::connect(second).await;
    assert_eq!(leaving.get("/1").await.status, 200);
    gateway.ports.remove(&SECOND);
    assert!(gateway.apply().is_empty());
    let refused = async {
        // The workers let go of the socket one after the other.
        while TcpStream::connect(second).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    within(refused).await;
    // What was open gets one more answer, and is told that it is the last.
    let last = leaving.get("/2").await;
    assert!(last.status == 200 && last.closes(), "{}", last.head);
    leaving.ends().await;
    let response = steady.get("/2").await;
    assert!(response.status == 200 && !response.closes());
}

#[tokio::test]
async fn a_port_that_comes_back_while_its_connections_drain_is_open_at_once() {
    let address = {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap()
    };
    let mut gateway = Gateway::new();
    let listeners = any(edge(|e| e.timeouts.drain = Duration::from_secs(60)));
    gateway.open(address, Protocol::Http, listeners.clone());
    let mut held = Client::connect(address).await;
    held.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("the request runs", || gateway.stage.held.load(Ordering::SeqCst) == 1).await;
    for _ in 0..20 {
        gateway.ports.remove(&address);
        gateway.apply();
        gateway.open(address, Protocol::Http, listeners.clone());
        assert_eq!(Client::connect(address).await.get("/again").await.status, 200);
    }
    gateway.stage.gate.add_permits(1);
    assert_eq!(held.response().await.text(), "released");
}

#[tokio::test]
async fn a_port_that_is_taken_is_a_problem_until_it_is_free() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mut gateway = Gateway::new();
    let other = gateway.open(FIRST, Protocol::Http, any(Edge::default()));
    gateway.set(address, Protocol::Http, any(Edge::default()));
    let problems = gateway.apply();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].code, sluice_model::Code::PortNotBound);
    assert!(problems[0].message.contains(&address.to_string()), "{}", problems[0]);
    assert_eq!(Client::connect(other).await.get("/x").await.status, 200);
    drop(taken);
    eventually("the port is bound", || gateway.downstream.problems().is_empty()).await;
    assert_eq!(Client::connect(address).await.get("/x").await.status, 200);
}

#[tokio::test]
async fn connections_above_the_ports_limit_are_closed_at_once_and_counted() {
    let (gateway, address) = Gateway::plain(edge(|e| e.limits.connections = 2));
    let mut first = Client::connect(address).await;
    let mut second = Client::connect(address).await;
    assert_eq!((first.get("/").await.status, second.get("/").await.status), (200, 200));
    Client::connect(address).await.rest().await;
    assert_eq!(gateway.metrics.limit_hits("connections"), 1);
    drop(first);
    eventually("a place is free", || gateway.downstream.connections() == 1).await;
    assert_eq!(Client::connect(address).await.get("/").await.status, 200);
}

#[tokio::test]
async fn connections_above_the_limit_of_all_ports_are_closed_at_once_and_counted() {
    let mut gateway =
        Gateway::with(DownstreamOptions { max_connections: 1, workers: 1, ..DownstreamOptions::default() });
    let first = gateway.open(FIRST, Protocol::Http, any(Edge::default()));
    let second = gateway.open(SECOND, Protocol::Http, any(Edge::default()));
    let mut client = Client::connect(first).await;
    assert_eq!(client.get("/").await.status, 200);
    Client::connect(second).await.rest().await;
    assert_eq!(gateway.metrics.limit_hits("total_connections"), 1);
}

#[tokio::test]
async fn draining_answers_what_runs_and_what_comes_on_open_connections() {
    let (gateway, address) = Gateway::plain(Edge::default());
    let mut idle = Client::connect(address).await;
    assert!(!idle.get("/1").await.closes());
    let mut held = Client::connect(address).await;
    held.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("the request runs", || gateway.stage.held.load(Ordering::SeqCst) == 1).await;
    let stage = gateway.stage.clone();
    let drain = tokio::spawn(async move { gateway.downstream.drain(LONG).await });
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    within(refused).await;
    let last = idle.get("/2").await;
    assert!(last.closes() && last.text() == "/2");
    idle.ends().await;
    stage.gate.add_permits(1);
    assert_eq!(held.response().await.text(), "released");
    drop(held);
    assert_eq!(within(drain).await.unwrap(), 0);
}

#[tokio::test]
async fn rfc_9112_9_6_the_first_answer_of_a_connection_that_begins_while_draining_is_its_last() {
    let (gateway, address) = Gateway::plain(Edge::default());
    let mut client = Client::connect(address).await;
    eventually("it is accepted", || gateway.downstream.connections() == 1).await;
    let drain = tokio::spawn(async move { gateway.downstream.drain(LONG).await });
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    within(refused).await;
    assert!(client.get("/first").await.closes());
    client.ends().await;
    assert_eq!(within(drain).await.unwrap(), 0);
}

#[tokio::test]
async fn connections_that_wait_in_the_queue_are_served_when_the_port_closes() {
    for mode in [RuntimeMode::PerCore, RuntimeMode::PerCoreReusePort, RuntimeMode::WorkStealing] {
        let mut gateway = Gateway::with(DownstreamOptions { mode, workers: 2, ..DownstreamOptions::default() });
        let address = gateway.open(FIRST, Protocol::Http, any(Edge::default()));
        let mut clients = Vec::new();
        for _ in 0..50 {
            let client = Client::connect(address).await;
            // Written without waiting: many of them are still in the queue when the port closes.
            client.io.try_write(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            clients.push(client);
        }
        let drain = tokio::spawn(async move { gateway.downstream.drain(LONG).await });
        for mut client in clients {
            assert_eq!(client.response().await.status, 200, "{mode:?}");
        }
        assert_eq!(within(drain).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn what_is_left_at_the_drains_deadline_is_cut_and_reported() {
    let (gateway, address) = Gateway::plain(Edge::default());
    let mut held = Client::connect(address).await;
    held.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("the request runs", || gateway.stage.held.load(Ordering::SeqCst) == 1).await;
    assert_eq!(within(gateway.downstream.drain(Duration::from_millis(100))).await, 1);
    assert_eq!(gateway.metrics.timeout_hits("drain"), 1);
    held.ends().await;
}

/// Whoever waits for the end of the process has a time to count on.
#[tokio::test]
async fn draining_ends_by_its_deadline_whatever_clients_do() {
    const DEADLINE: Duration = Duration::from_secs(1);
    // What it takes to cut them, on a machine that has much else to do.
    const CUTTING: Duration = Duration::from_secs(5);
    let (gateway, address) = Gateway::plain(edge(|e| e.timeouts.drain = LONG));
    // A request that is not answered, half a head, half a body, a response that is not read, a tunnel within a frame.
    let mut clients = Vec::new();
    for said in [
        "GET /held HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /half HTTP/1.1\r\nHost",
        "POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf",
        "GET /huge HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /websocket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x01",
    ] {
        let mut client = Client::connect(address).await;
        client.send(said).await;
        clients.push(client);
    }
    eventually("all but half a head has arrived", || gateway.seen() == clients.len() - 1).await;
    eventually("all are open", || gateway.downstream.connections() == clients.len()).await;
    let began = std::time::Instant::now();
    let cut = within(gateway.downstream.drain(DEADLINE)).await;
    let took = began.elapsed();
    assert!(took < DEADLINE + CUTTING, "it took {took:?}");
    // All that had begun a request; who had not may have been told to go before.
    assert!((clients.len() - 1..=clients.len()).contains(&cut), "{cut}");
    assert_eq!(gateway.metrics.timeout_hits("drain"), cut as u64);
    for client in &mut clients {
        client.rest().await;
    }
    eventually("none is left", || gateway.downstream.connections() == 0).await;
}

#[tokio::test]
async fn sockets_of_a_former_process_are_served_without_a_gap() {
    let (former, address) = Gateway::plain(Edge::default());
    let sockets = former.downstream.sockets().unwrap();
    assert_eq!(sockets.len(), 1);
    let mut open = Client::connect(address).await;
    assert_eq!(open.get("/old").await.status, 200);
    let mut next = Gateway::with(DownstreamOptions { sockets, workers: 1, ..DownstreamOptions::default() });
    assert_eq!(next.open(FIRST, Protocol::Http, any(Edge::default())), address);
    let drain = tokio::spawn(async move { former.downstream.drain(LONG).await });
    for _ in 0..100 {
        assert_eq!(Client::connect(address).await.get("/x").await.status, 200);
    }
    assert!(open.get("/old").await.closes());
    drop(open);
    assert_eq!(within(drain).await.unwrap(), 0);
    assert_eq!(Client::connect(address).await.get("/new").await.status, 200);
}

#[tokio::test]
async fn a_worker_whose_engine_cannot_be_built_at_first_is_started_again_and_counted() {
    let metrics = DownstreamMetrics::default();
    let stage = Arc::new(Stage::default());
    let engines = stage.clone();
    let failures = Arc::new(AtomicUsize::new(0));
    let options = DownstreamOptions { workers: 1, ..DownstreamOptions::default() };
    let downstream = Downstream::start(options, &metrics, stage, move |_| {
        assert!(failures.fetch_add(1, Ordering::SeqCst) > 0, "asked for by a test");
        engine(&engines)
    })
    .unwrap();
    let edge = Arc::new(Edge::default());
    let listeners = vec![listener("any", None, None, &edge)];
    let port = Arc::new(Port { protocol: Protocol::Http, edge, listeners });
    let (state, _) = PortState::build(FIRST, &port, &BTreeMap::new(), &mut TlsCache::default());
    assert!(downstream.apply([Arc::new(state)]).is_empty());
    let address = downstream.local_addr(Transport::Tcp, FIRST).unwrap();
    assert_eq!(Client::connect(address).await.get("/x").await.status, 200);
    assert_eq!(metrics.restarts_of("worker"), 1);
}

#[tokio::test]
async fn the_proxy_header_gives_the_clients_address_and_a_connection_without_it_is_closed() {
    let (gateway, address) = Gateway::plain(edge(|e| e.proxy_protocol = true));
    let mut client = Client::connect(address).await;
    client.send("PROXY TCP4 192.0.2.7 198.51.100.9 4711 80\r\n").await;
    let text = client.get("/info").await.text();
    assert_eq!(text, "peer=192.0.2.7:4711 local=198.51.100.9:80");
    let mut bare = Client::connect(address).await;
    bare.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    bare.rest().await;
    assert_eq!(gateway.seen(), 1);
}
