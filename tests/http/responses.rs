//! What a backend does wrong stays on its own connection: nothing of it is taken for the next answer.

use crate::edge::{Edge, HOST, get};
use sluice_tests::backend::text;
use sluice_tests::raw_backend::{RawBackend, Then};
use sluice_tests::{Folder, Gateway, objects, ports, raw};
use std::collections::BTreeSet;
use std::sync::Arc;

struct Setup {
    gateway: Gateway,
    _folder: Folder,
    backend: RawBackend,
    port: u16,
}

async fn before(answer: &str, then: Then) -> Setup {
    let backend = RawBackend::answering(answer, then).await;
    let (folder, port) = (Folder::new(), ports::free());
    folder.write(
        "edge.yaml",
        objects::join([
            objects::class(),
            objects::gateway(port, None),
            objects::route_to("all", &[], "raw"),
            objects::service("raw", &[backend.address]),
        ]),
    );
    let gateway = Gateway::start(&folder).await;
    Setup { gateway, _folder: folder, backend, port }
}

impl Setup {
    async fn get(&self) -> std::io::Result<raw::Response> {
        raw::exchange(self.port, get("/", "Connection: close\r\n")).await
    }

    /// Connections of the backend that carried more than one request.
    fn reused(&self) -> bool {
        let heads = self.backend.heads();
        // Each worker has a pool of its own: requests may take turns between connections.
        let connections: BTreeSet<usize> = heads.iter().map(|(n, _)| *n).collect();
        connections.len() < heads.len()
    }
}

#[tokio::test]
async fn rfc9112_9_3_a_clean_answer_lets_the_connection_be_used_again() {
    let edge = before("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Then::KeepOpen).await;
    for _ in 0..20 {
        assert_eq!(edge.get().await.unwrap().text(), "ok");
    }
    assert!(edge.reused(), "each request opened a connection of its own");
}

/// The engine writes its own over the backend's. Whatever else says who answered, and when, is passed on.
#[tokio::test]
async fn rfc9110_6_6_1_an_answer_has_one_date_and_it_is_the_gateways() {
    let past = "Sun, 06 Nov 1994 08:49:37 GMT";
    let answer = format!("HTTP/1.1 200 OK\r\nDate: {past}\r\nServer: origin\r\nAge: 7\r\nContent-Length: 2\r\n\r\nok");
    let answer = before(&answer, Then::KeepOpen).await.get().await.unwrap();
    let of = |name: &str| answer.header_map().get_all(name).iter().cloned().collect::<Vec<_>>();
    assert!(of("date").len() == 1 && of("date")[0] != past, "{:?}", of("date"));
    assert_eq!((of("server")[0].as_bytes(), of("age")[0].as_bytes()), (&b"origin"[..], &b"7"[..]));
}

#[tokio::test]
async fn rfc9112_9_3_bytes_behind_the_answer_are_never_the_next_answer() {
    let more = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned";
    let edge = before(&format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{more}"), Then::KeepOpen).await;
    for _ in 0..5 {
        assert_eq!(edge.get().await.unwrap().text(), "ok");
    }
    assert!(!edge.reused(), "a connection with bytes left on it was used again");
}

// The engine takes the chunked framing and drops Content-Length before a filter sees it (rule 3 of the section), so the
// connection may be used again: what is held to is that each answer ends where its chunks do.
#[tokio::test]
async fn rfc9112_6_3_an_answer_with_two_lengths_ends_where_its_chunks_do() {
    let edge = before(
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        Then::KeepOpen,
    )
    .await;
    for _ in 0..3 {
        let answer = edge.get().await.unwrap();
        assert!(answer.status == 502 || answer.text() == "ok", "{answer:?}");
        assert!(
            answer.header("content-length").is_none() || answer.header("transfer-encoding").is_none(),
            "both lengths reached the client: {answer:?}"
        );
    }
}

#[tokio::test]
async fn rfc9112_6_3_an_answer_with_an_invalid_length_is_a_bad_gateway() {
    for length in ["abc", "-1", "1, 2"] {
        let edge = before(&format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\nok"), Then::Close).await;
        assert_eq!(edge.get().await.unwrap().status, 502, "Content-Length: {length}");
    }
}

#[tokio::test]
async fn rfc9110_15_6_3_what_is_no_http_is_a_bad_gateway() {
    let edge = before("220 smtp.example ESMTP\r\n\r\n", Then::Close).await;
    assert_eq!(edge.get().await.unwrap().status, 502);
    assert_eq!(edge.gateway.logged(|l| l["status"] == 502).await["reason"], "upstream_protocol_error");
}

#[tokio::test]
async fn rfc9110_15_6_3_a_backend_that_closes_before_it_answers_is_a_bad_gateway() {
    let edge = before("", Then::Close).await;
    assert_eq!(edge.get().await.unwrap().status, 502);
    assert_eq!(edge.gateway.logged(|l| l["status"] == 502).await["reason"], "upstream_reset");
}

#[tokio::test]
async fn rfc9112_8_an_answer_that_breaks_off_never_looks_whole_and_is_not_asked_for_again() {
    let edge = before("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this", Then::Close).await;
    assert!(edge.get().await.is_err(), "a truncated answer looked whole");
    let edge = before("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", Then::Close).await;
    assert!(edge.get().await.is_err(), "a truncated chunked answer looked whole");
    assert_eq!(edge.gateway.logged(|l| l["status"] == 200).await["reason"], "response_truncated");
    assert_eq!(edge.backend.heads().len(), 1, "a request was tried again after the head of its answer");
}

#[tokio::test]
async fn rfc9110_15_3_5_and_9_3_2_answers_without_a_body_have_none() {
    let edge = before("HTTP/1.1 204 No Content\r\n\r\n", Then::KeepOpen).await;
    let mut client = raw::Client::connect(edge.port).await.unwrap();
    for _ in 0..2 {
        client.send(get("/", "")).await.unwrap();
        let answer = client.response().await.unwrap();
        assert_eq!((answer.status, answer.header("transfer-encoding")), (204, None));
    }

    let edge = before("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Then::KeepOpen).await;
    let mut client = raw::Client::connect(edge.port).await.unwrap();
    for _ in 0..2 {
        client.send(format!("HEAD / HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await.unwrap();
        let answer = client.response_to("HEAD").await.unwrap();
        assert_eq!((answer.status, answer.header("content-length").as_deref()), (200, Some("5")));
    }
}

#[tokio::test]
async fn rfc9110_15_2_interim_answers_are_passed_on() {
    let edge = before(
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        Then::KeepOpen,
    )
    .await;
    let mut client = raw::Client::connect(edge.port).await.unwrap();
    client.send(get("/", "")).await.unwrap();
    let hints = client.response().await.unwrap();
    assert_eq!((hints.status, hints.header("link").as_deref()), (103, Some("</a.css>")));
    let answer = client.response().await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
}

#[tokio::test]
async fn rfc9113_8_1_an_answer_whose_stream_ends_with_its_head_is_told_as_empty() {
    let edge = Edge::before_http2("", Arc::new(|_| Box::pin(async { text(http::StatusCode::OK, "") }))).await;
    let answer = raw::get(edge.http, HOST, "/").await.unwrap();
    assert_eq!((answer.header("content-length").as_deref(), answer.header("transfer-encoding")), (Some("0"), None));
}
