//! Where a message ends: the ground of request smuggling.

use crate::edge::{Edge, HOST, get, post};
use sluice_tests::raw;

#[tokio::test]
async fn rfc9112_6_1_transfer_encoding_beside_content_length_is_refused() {
    let edge = Edge::start().await;
    let smuggled = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: edge.example\r\n\r\n";
    edge.refuses_and_closes(
        &[400],
        &[
            ("CL and TE", &post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", smuggled)),
            ("TE and CL", &post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", smuggled)),
        ],
    )
    .await;
    let line = edge.gateway.logged(|l| l["status"] == 400).await;
    assert_eq!(line["reason"], "ambiguous_framing");
}

#[tokio::test]
async fn rfc9112_6_1_a_transfer_encoding_that_is_not_chunked_alone_is_refused() {
    let edge = Edge::start().await;
    let body = "0\r\n\r\n";
    edge.refuses_and_closes(
        &[400, 501],
        &[
            ("two fields", &post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", body)),
            ("a field split in two", &post("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", body)),
            ("chunked is not last", &post("Transfer-Encoding: chunked, identity\r\n", body)),
            ("chunked twice", &post("Transfer-Encoding: chunked, chunked\r\n", body)),
            ("not chunked at all", &post("Transfer-Encoding: identity\r\n", body)),
            ("a lookalike", &post("Transfer-Encoding: xchunked\r\n", body)),
            ("a vertical tab", &post("Transfer-Encoding: \x0bchunked\r\n", body)),
            ("quoted", &post("Transfer-Encoding: \"chunked\"\r\n", body)),
            ("empty", &post("Transfer-Encoding:\r\n", body)),
            ("HTTP/1.0", "POST / HTTP/1.0\r\nHost: edge.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ],
    )
    .await;
}

#[tokio::test]
async fn rfc9112_6_3_an_invalid_or_contradicting_content_length_is_refused() {
    let edge = Edge::start().await;
    edge.refuses_and_closes(
        &[400],
        &[
            ("two that differ", &post("Content-Length: 3\r\nContent-Length: 4\r\n", "abc")),
            ("a list that differs", &post("Content-Length: 3, 4\r\n", "abc")),
            ("a plus", &post("Content-Length: +3\r\n", "abc")),
            ("a minus", &post("Content-Length: -3\r\n", "abc")),
            ("hexadecimal", &post("Content-Length: 0x3\r\n", "abc")),
            ("a space within", &post("Content-Length: 3 3\r\n", "abc")),
            ("an underscore", &post("Content-Length: 1_0\r\n", "abc")),
            ("empty", &post("Content-Length:\r\n", "abc")),
            ("above 64 bits", &post("Content-Length: 99999999999999999999999\r\n", "abc")),
        ],
    )
    .await;
}

/// The head is good, so the request may have begun at the backend; what must not happen is that anything behind the
/// broken chunk is taken for a request, or that the connection goes on.
#[tokio::test]
async fn rfc9112_7_1_a_broken_chunk_ends_the_connection_and_smuggles_nothing() {
    let edge = Edge::start().await;
    let next = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: edge.example\r\n\r\n";
    for (what, chunks) in [
        ("a sign", "+3\r\nabc\r\n"),
        ("a minus", "-3\r\nabc\r\n"),
        ("a prefix", "0x3\r\nabc\r\n"),
        ("an underscore", "0_3\r\nabc\r\n"),
        ("a leading space", " 3\r\nabc\r\n"),
        ("above 64 bits", "10000000000000003\r\nabc\r\n"),
        ("no digits", "\r\nabc\r\n"),
        ("no line end after the data", "3\r\nabcd\r\n"),
        ("a bare line feed after the size", "3\nabc\r\n"),
        ("a bare line feed after the data", "3\r\nabc\n"),
        ("a bare carriage return", "3\rabc\r\n"),
        ("a control in the extension", "3;a=\x01\r\nabc\r\n"),
    ] {
        let mut client = raw::Client::connect(edge.http).await.unwrap();
        client.send(post("Transfer-Encoding: chunked\r\n", &format!("{chunks}{next}"))).await.unwrap();
        let rest = client.rest().await.unwrap_or_else(|e| panic!("{what}: {e}"));
        let text = String::from_utf8_lossy(&rest);
        assert!(!text.contains(" 200 "), "{what}: answered as if it were good:\n{text}");
        assert!(text.matches("HTTP/1.1 ").count() <= 1, "{what}: more than one answer:\n{text}");
    }
    let seen: Vec<_> = edge.backend.seen().into_iter().map(|s| s.target).filter(|t| t != "/post").collect();
    assert!(seen.is_empty(), "smuggled: {seen:?}");
}

#[tokio::test]
async fn rfc9112_7_1_well_formed_chunks_arrive_whole() {
    let edge = Edge::start().await;
    let seen =
        edge.passes(&post("Transfer-Encoding: chunked\r\n", "3;ext=1\r\nabc\r\n0A\r\n0123456789\r\n0\r\n\r\n")).await;
    assert_eq!(seen.0["body"], "abc0123456789");
}

#[tokio::test]
async fn rfc9110_6_5_1_trailers_never_become_headers() {
    let edge = Edge::start().await;
    let seen = edge
        .passes(&post(
            "Transfer-Encoding: chunked\r\nTrailer: Authorization\r\n",
            "1\r\na\r\n0\r\nAuthorization: Bearer stolen\r\nHost: evil.example\r\nContent-Length: 9\r\n\r\n",
        ))
        .await;
    assert_eq!(seen.field("authorization"), None);
    assert_eq!(seen.fields("host"), [HOST]);
    for forbidden in ["authorization", "host", "content-length"] {
        assert!(!seen.0["trailers"].to_string().contains(forbidden), "{forbidden} as a trailer: {}", seen.0);
    }
}

#[tokio::test]
async fn rfc9112_7_1_2_trailers_are_bounded() {
    let edge = Edge::start().await;
    let trailers: String = (0..5000).map(|n| format!("x-trailer-{n}: {}\r\n", "v".repeat(100))).collect();
    let mut client = raw::Client::connect(edge.http).await.unwrap();
    // The gateway may close while this is still being written.
    let _ = client.send(post("Transfer-Encoding: chunked\r\n", &format!("1\r\na\r\n0\r\n{trailers}\r\n"))).await;
    let rest = client.rest().await.unwrap_or_default();
    assert!(!String::from_utf8_lossy(&rest).contains(" 200 "), "half a megabyte of trailers was taken");
}

#[tokio::test]
async fn rfc9112_9_3_2_pipelined_requests_are_answered_in_order_and_the_connection_goes_on() {
    let edge = Edge::start().await;
    let mut client = raw::Client::connect(edge.http).await.unwrap();
    client.send(format!("{}{}{}", get("/1", ""), post("Content-Length: 3\r\n", "abc"), get("/3", ""))).await.unwrap();
    for target in ["/1", "/post", "/3"] {
        let answer = client.response().await.unwrap();
        assert_eq!((answer.status, answer.json()["target"].as_str().unwrap().to_owned()), (200, target.to_owned()));
    }
    client.send(get("/4", "")).await.unwrap();
    assert_eq!(client.response().await.unwrap().json()["target"], "/4");
}

#[tokio::test]
async fn rfc9112_9_3_a_body_that_an_early_answer_left_unread_is_never_a_request() {
    let edge = Edge::configured("limits: {body: 4}").await;
    let smuggled = get("/smuggled", "");
    let mut client = raw::Client::connect(edge.http).await.unwrap();
    client.send(post(&format!("Content-Length: {}\r\n", smuggled.len()), &smuggled)).await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 413);
    // Either the body is thrown away and the connection goes on, or it is closed.
    if client.send(get("/next", "")).await.is_ok()
        && let Ok(answer) = client.response().await
    {
        assert_eq!(answer.json()["target"], "/next");
    }
    let seen: Vec<_> = edge.backend.seen().into_iter().map(|s| s.target).filter(|t| t == "/smuggled").collect();
    assert!(seen.is_empty());
}

#[tokio::test]
async fn rfc9110_10_1_1_expect_100_continue_reaches_the_backend_and_other_expectations_fail() {
    let edge = Edge::start().await;
    let mut client = raw::Client::connect(edge.http).await.unwrap();
    client.send(post("Content-Length: 3\r\nExpect: 100-continue\r\n", "")).await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 100);
    client.send("abc").await.unwrap();
    let answer = client.response().await.unwrap();
    assert_eq!((answer.status, answer.json()["body"].as_str()), (200, Some("abc")));

    let before = edge.backend.count();
    let answer = raw::exchange(edge.http, get("/", "Expect: 200-maybe\r\n")).await.unwrap();
    assert_eq!(answer.status, 417);
    assert_eq!(edge.backend.count(), before);
}

#[tokio::test]
async fn rfc9112_6_3_equal_content_lengths_are_one() {
    let edge = Edge::start().await;
    let seen = edge.passes(&post("Content-Length: 3\r\nContent-Length: 3\r\n", "abc")).await;
    assert_eq!((seen.0["body"].as_str(), seen.fields("content-length").len()), (Some("abc"), 1));
}

#[tokio::test]
async fn rfc9112_9_6_http10_without_keep_alive_is_closed_after_the_answer() {
    let edge = Edge::start().await;
    let mut client = raw::Client::connect(edge.http).await.unwrap();
    client.send(format!("GET / HTTP/1.0\r\nHost: {HOST}\r\n\r\n")).await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 200);
    assert!(client.ends().await);
}
