//! What never reaches the engine on HTTP/1, and how it is told so.

use super::client::Client;
use super::*;

/// Sends `request` and expects to be refused: with this status, closed, logged with this reason, unseen by the engine.
async fn refused(request: &str, status: u16, reason: Reason) {
    let (gateway, address) = Gateway::plain(Edge::default());
    let mut client = Client::connect(address).await;
    client.send(request).await;
    let response = client.response().await;
    assert_eq!(response.status, status, "{request:?}");
    assert!(response.closes(), "{}", response.head);
    client.ends().await;
    assert_eq!(gateway.seen(), 0, "{request:?}");
    eventually("the refusal is told", || !gateway.refusals().is_empty()).await;
    assert_eq!(gateway.refusals().len(), 1);
    assert_eq!(gateway.refusals()[0].1, reason, "{request:?}");
}

#[tokio::test]
async fn rfc_9112_3_2_a_request_without_host_is_refused() {
    refused("GET / HTTP/1.1\r\n\r\n", 400, Reason::InvalidHost).await;
}

#[tokio::test]
async fn rfc_9112_2_2_bare_line_feeds_are_refused() {
    refused("GET / HTTP/1.1\nHost: a\n\n", 400, Reason::BadRequest).await;
}

#[tokio::test]
async fn rfc_9112_6_3_content_length_with_transfer_encoding_is_refused_and_what_follows_is_no_request() {
    let smuggled = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n\
                    GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    refused(smuggled, 400, Reason::AmbiguousFraming).await;
}

#[tokio::test]
async fn rfc_9110_9_3_6_connect_is_refused() {
    refused("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405, Reason::MethodNotAllowed).await;
}

#[tokio::test]
async fn rfc_9110_15_6_6_other_versions_are_refused() {
    refused("GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505, Reason::VersionNotSupported).await;
}

#[tokio::test]
async fn bytes_that_are_no_http_are_refused_at_once() {
    refused("\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\u{1}\u{fc}\u{3}\u{3}", 400, Reason::BadRequest).await;
}

#[tokio::test]
async fn a_request_behind_a_good_one_is_refused_after_that_is_answered() {
    let (gateway, address) = Gateway::plain(Edge::default());
    let mut client = Client::connect(address).await;
    client.send("GET /good HTTP/1.1\r\nHost: a\r\n\r\nGET /bad HTTP/1.1\r\n\r\n").await;
    assert_eq!(client.response().await.text(), "/good");
    assert_eq!(client.response().await.status, 400);
    client.ends().await;
    assert_eq!(gateway.seen(), 1);
}

#[tokio::test]
async fn limits_answer_414_431_and_501_and_are_counted_by_name() {
    let (gateway, address) = Gateway::plain(edge(|e| {
        e.limits.request_target = 20;
        e.limits.header_bytes = 100;
        e.limits.header_count = 3;
        e.limits.method = 8;
    }));
    let long = "x".repeat(200);
    let cases = [
        (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), 414, "request_target"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"), 431, "header_bytes"),
        ("GET / HTTP/1.1\r\nHost: a\r\nA: b\r\nB: c\r\nC: d\r\n\r\n".to_owned(), 431, "header_count"),
        ("PROPFINDS / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 501, "method"),
    ];
    for (request, status, limit) in cases {
        assert_eq!(Client::ask(address, &request).await.status, status, "{request}");
        assert_eq!(gateway.metrics.limit_hits(limit), 1, "{limit}");
    }
    assert_eq!(gateway.seen(), 0);
}

#[tokio::test]
async fn a_section_without_end_is_refused_before_it_fills_memory() {
    let (_gateway, address) = Gateway::plain(Edge::default());
    let mut client = Client::connect(address).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n").await;
    let flood = async {
        // Refused while it is being sent: writing may fail.
        for _ in 0..40 {
            if tokio::io::AsyncWriteExt::write_all(&mut client.io, "X: yyyyyyyyyyyyyyyy\r\n".repeat(200).as_bytes())
                .await
                .is_err()
            {
                break;
            }
        }
    };
    within(flood).await;
    assert_eq!(client.response().await.status, 431);
}

#[tokio::test]
async fn limits_are_those_of_the_listener_that_the_host_belongs_to() {
    let mut gateway = Gateway::new();
    let strict = Arc::new(edge(|e| e.limits.request_target = 10));
    let wide = Arc::new(Edge::default());
    let listeners = vec![listener("strict", Some("strict.test"), None, &strict), listener("any", None, None, &wide)];
    let address = gateway.open(FIRST, Protocol::Http, listeners);
    let ask = |host: &'static str| async move {
        Client::ask(address, &format!("GET /0123456789 HTTP/1.1\r\nHost: {host}\r\n\r\n")).await.status
    };
    assert_eq!(ask("Strict.test.:8080").await, 414);
    assert_eq!(ask("other.test").await, 200);
}

#[tokio::test]
async fn a_refusal_names_the_server_as_the_listener_of_its_host_says() {
    let mut gateway = Gateway::new();
    let silent = Arc::new(edge(|e| e.server_header = sluice_model::config::ServerHeader::Remove));
    let wide = Arc::new(Edge::default());
    let listeners = vec![listener("silent", Some("silent.test"), None, &silent), listener("any", None, None, &wide)];
    let address = gateway.open(FIRST, Protocol::Http, listeners);
    for (host, named) in [("silent.test", false), ("other.test", true)] {
        let response = Client::ask(address, &format!("GET /#x HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(response.status, 400);
        assert_eq!(response.head.contains("\r\nserver: sluice\r\n"), named, "{host}");
        assert!(response.text().starts_with("400 Bad Request: "), "{}", response.text());
    }
}
