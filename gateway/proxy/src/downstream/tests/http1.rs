//! RFC 9112: connections, their requests in order, and their ends.

use super::client::Client;
use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

#[tokio::test]
async fn rfc_9112_9_3_a_connection_serves_request_after_request() {
    let (gateway, address) = Gateway::plain(Edge::default());
    let mut client = Client::connect(address).await;
    for path in ["/one", "/two", "/three"] {
        let response = client.get(path).await;
        assert_eq!((response.status, response.text().as_str()), (200, path));
        assert!(!response.closes(), "{}", response.head);
    }
    assert_eq!(gateway.downstream.connections(), 1);
}

#[tokio::test]
async fn rfc_9112_9_3_2_pipelined_requests_are_answered_in_order() {
    let (_gateway, address) = Gateway::plain(Edge::default());
    let mut client = Client::connect(address).await;
    let all: String = (0..50).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: a.test\r\n\r\n")).collect();
    client.send(all).await;
    for n in 0..50 {
        assert_eq!(client.response().await.text(), format!("/{n}"));
    }
}

#[tokio::test]
async fn rfc_9112_9_3_2_a_body_ends_where_the_next_request_begins() {
    let (_gateway, address) = Gateway::plain(Edge::default());
    let mut client = Client::connect(address).await;
    client
        .send(
            "POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello\
             POST /length HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nT: v\r\n\r\n\
             GET /last HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .await;
    for expected in ["5", "7", "/last"] {
        assert_eq!(client.response().await.text(), expected);
    }
}

#[tokio::test]
async fn pipelined_requests_and_bodies_may_be_cut_anywhere() {
    let (_gateway, address) = Gateway::plain(Edge::default());
    let text = b"POST /length HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
                 GET /next HTTP/1.1\r\nHost: a\r\n\r\n";
    for cut in (1..text.len()).step_by(3) {
        let mut client = Client::connect(address).await;
        client.send(&text[..cut]).await;
        tokio::task::yield_now().await;
        client.send(&text[cut..]).await;
        assert_eq!(client.response().await.text(), "3", "cut at {cut}");
        assert_eq!(client.response().await.text(), "/next", "cut at {cut}");
    }
}

#[tokio::test]
async fn a_request_that_comes_while_another_is_answered_waits_for_its_turn() {
    let (gateway, address) = Gateway::plain(Edge::default());
    let mut client = Client::connect(address).await;
    client.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("the first request runs", || gateway.stage.held.load(Ordering::SeqCst) == 1).await;
    client.send("GET /second HTTP/1.1\r\nHost: a\r\n\r\nGET /third HTTP/1.1\r\nHost: a\r\n\r\n").await;
    gateway.stage.gate.add_permits(1);
    for expected in ["released", "/second", "/third"] {
        assert_eq!(client.response().await.text(), expected);
    }
}

#[tokio::test]
async fn rfc_9112_9_3_http_1_0_and_connection_close_end_the_connection() {
    let (_gateway, address) = Gateway::plain(Edge::default());
    for request in ["GET /x HTTP/1.0\r\n\r\n", "GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"] {
        let mut client = Client::connect(address).await;
        client.send(request).await;
        assert!(client.response().await.closes());
        client.ends().await;
    }
}

#[tokio::test]
async fn a_connection_that_waits_too_long_for_its_next_request_is_closed() {
    let (gateway, address) = Gateway::plain(edge(|e| e.timeouts.keep_alive = Duration::from_millis(50)));
    let mut client = Client::connect(address).await;
    assert_eq!(client.get("/x").await.status, 200);
    client.ends().await;
    Client::connect(address).await.ends().await;
    assert_eq!(gateway.metrics.timeout_hits("keep_alive"), 2);
}

#[tokio::test]
async fn a_client_that_takes_its_response_below_the_minimum_rate_is_cut() {
    let (gateway, address) = Gateway::plain(edge(|e| {
        e.timeouts.body_idle = Duration::from_millis(200);
        e.timeouts.response_min_rate = 1024 * 1024 * 1024;
    }));
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut client = Client::over(within(socket.connect(address)).await.unwrap());
    client.send("GET /huge HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let slowly = async {
        let mut bytes = vec![0; 64 * 1024];
        while gateway.metrics.timeout_hits("response_min_rate") == 0 {
            let _ = client.io.try_read(&mut bytes);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    within(slowly).await;
    eventually("the connection is closed", || gateway.downstream.connections() == 0).await;
}

#[tokio::test]
async fn a_header_section_that_drips_is_answered_408_in_time() {
    let (gateway, address) = Gateway::plain(edge(|e| e.timeouts.request_headers = Duration::from_millis(150)));
    let mut client = Client::connect(address).await;
    client.send("GET /x HTTP/1.1\r\nHost: a\r\n").await;
    let drip = async {
        loop {
            if client.io.try_write(b"X").is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            let mut byte = [0; 1];
            if client.io.peek(&mut byte).await.is_ok_and(|n| n > 0) {
                break;
            }
        }
    };
    // `peek` waits for the first byte of the answer; what is dripped before it does not postpone it.
    within(drip).await;
    assert_eq!(client.response().await.status, 408);
    assert_eq!(gateway.metrics.timeout_hits("request_headers"), 1);
    eventually("the refusal is told", || gateway.refusals().len() == 1).await;
    let (status, reason, method, target) = gateway.refusals().remove(0);
    assert_eq!((status, reason), (408, Reason::HeaderTimeout));
    assert_eq!((method.as_str(), target.as_str()), ("GET", "/x"));
}

#[tokio::test]
async fn a_body_below_the_minimum_rate_is_cut() {
    let (gateway, address) = Gateway::plain(edge(|e| {
        e.timeouts.body_idle = Duration::from_secs(1);
        e.timeouts.body_min_rate = 1_000_000;
    }));
    let mut client = Client::connect(address).await;
    client.send("POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n").await;
    let drip = async {
        while client.io.try_write(b"x").is_ok() && gateway.metrics.timeout_hits("body_min_rate") == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(drip).await;
    eventually("the rate is counted", || gateway.metrics.timeout_hits("body_min_rate") == 1).await;
    client.rest().await;
    eventually("the connection is closed", || gateway.downstream.connections() == 0).await;
}

#[tokio::test]
async fn after_so_many_requests_the_connection_is_closed_gracefully() {
    let (gateway, address) = Gateway::plain(edge(|e| e.limits.requests_per_connection = 2));
    let mut client = Client::connect(address).await;
    assert!(!client.get("/1").await.closes());
    assert!(client.get("/2").await.closes());
    client.ends().await;
    assert_eq!(gateway.metrics.limit_hits("requests_per_connection"), 1);
}

#[tokio::test]
async fn after_its_longest_life_a_connection_is_closed_with_its_next_answer() {
    let (gateway, address) = Gateway::plain(edge(|e| e.timeouts.connection_max = Some(Duration::ZERO)));
    let mut client = Client::connect(address).await;
    assert!(client.get("/1").await.closes());
    client.ends().await;
    assert_eq!(gateway.metrics.timeout_hits("connection_max"), 1);
}

#[tokio::test]
async fn an_answer_before_a_short_body_has_come_costs_no_connection() {
    let (_gateway, address) = Gateway::plain(edge(|e| e.limits.drain_bytes = 10));
    let mut client = Client::connect(address).await;
    client.send("POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n").await;
    let early = client.response().await;
    assert_eq!((early.text().as_str(), early.closes()), ("/early", false));
    client.send("0123456789GET /next HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.response().await.text(), "/next");
}

#[tokio::test]
async fn rfc_9112_9_6_a_short_body_that_an_early_answer_left_is_not_waited_for_without_end() {
    let (gateway, address) = Gateway::plain(edge(|e| {
        e.limits.drain_bytes = 10;
        e.timeouts.body_idle = Duration::from_secs(600);
    }));
    let mut client = Client::connect(address).await;
    client.send("POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n").await;
    assert!(!client.response().await.closes());
    client.send("012345678").await;
    client.rest().await;
    eventually("the connection is closed", || gateway.downstream.connections() == 0).await;
}

#[tokio::test]
async fn rfc_9112_9_6_an_answer_before_a_long_body_has_come_arrives_although_the_connection_is_closed() {
    let (_gateway, address) = Gateway::plain(edge(|e| e.limits.drain_bytes = 1024 * 1024));
    let mut client = Client::connect(address).await;
    client.send("POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n").await;
    client.send(vec![b'x'; 300_000]).await;
    let early = client.response().await;
    assert_eq!((early.text().as_str(), early.closes()), ("/early", true));
    client.ends().await;
}

#[tokio::test]
async fn rfc_9113_3_3_http_2_by_prior_knowledge_is_told_from_a_request_that_looks_like_it() {
    let (_gateway, address) = Gateway::plain(Edge::default());
    let mut client = Client::connect(address).await;
    client.send("P").await;
    tokio::task::yield_now().await;
    client.send("RI /x HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.response().await.text(), "/x");
}

#[tokio::test]
async fn rfc_9112_9_6_a_client_that_closes_its_side_gets_the_answers_it_asked_for() {
    let (_gateway, address) = Gateway::plain(Edge::default());
    let mut client = Client::connect(address).await;
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    tokio::io::AsyncWriteExt::shutdown(&mut client.io).await.unwrap();
    assert_eq!(client.response().await.text(), "/1");
    assert_eq!(client.response().await.text(), "/2");
    client.ends().await;
}

#[tokio::test]
async fn a_client_that_leaves_while_it_is_answered_is_noticed() {
    let (gateway, address) = Gateway::plain(Edge::default());
    let mut client = Client::connect(address).await;
    client.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("the request runs", || gateway.stage.held.load(Ordering::SeqCst) == 1).await;
    drop(client);
    gateway.stage.gate.add_permits(1);
    eventually("the connection is closed", || gateway.downstream.connections() == 0).await;
}

#[tokio::test]
async fn a_panic_while_a_request_is_answered_takes_its_connection_and_no_other() {
    let (gateway, address) = Gateway::plain(Edge::default());
    let mut other = Client::connect(address).await;
    assert_eq!(other.get("/before").await.status, 200);
    let mut client = Client::connect(address).await;
    client.send("GET /panic HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.ends().await;
    eventually("the panic is counted", || gateway.metrics.restarts_of("connection") == 1).await;
    assert_eq!(other.get("/after").await.status, 200);
    assert_eq!(gateway.downstream.connections(), 1);
}

#[tokio::test]
async fn a_response_larger_than_any_buffer_arrives_whole() {
    let (_gateway, address) = Gateway::plain(Edge::default());
    let mut client = Client::connect(address).await;
    assert_eq!(client.get("/large").await.body.len(), 4 * 1024 * 1024);
    assert_eq!(client.get("/next").await.text(), "/next");
}

#[tokio::test]
async fn a_response_is_sent_on_as_it_comes_even_where_its_length_is_known() {
    let (gateway, address) = Gateway::plain(Edge::default());
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    gateway.stage.upstream.set(upstream.local_addr().unwrap()).unwrap();
    let mut client = Client::connect(address).await;
    client.send("GET /proxied HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (mut backend, _) = within(upstream.accept()).await.unwrap();
    let mut request = [0; 16];
    within(backend.read_exact(&mut request)).await.unwrap();
    backend.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n").await.unwrap();
    assert_eq!(client.head().await.0, 200);
    backend.write_all(b"01234").await.unwrap();
    assert_eq!(client.take(5).await, b"01234");
    backend.write_all(b"56789").await.unwrap();
    assert_eq!(client.take(5).await, b"56789");
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_request_to_the_backend() {
    let (gateway, address) = Gateway::plain(Edge::default());
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    gateway.stage.upstream.set(upstream.local_addr().unwrap()).unwrap();
    let mut client = Client::connect(address).await;
    client.send("GET /proxied HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (mut backend, _) = within(upstream.accept()).await.unwrap();
    drop(client);
    let mut all = Vec::new();
    // Ends, although nothing was answered.
    let _ = within(backend.read_to_end(&mut all)).await;
    assert!(all.starts_with(b"GET /proxied"));
}
