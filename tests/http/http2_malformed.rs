//! Malformed HTTP/2 requests (RFC 9113, section 8): a stream error at least, never a request at the backend.

use crate::edge::{Edge, HOST};
use sluice_tests::frames::{Connection, Frame, Outcome};

const GOOD: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "https"), (":path", "/h2"), (":authority", HOST)];

/// Each header list, on a connection of its own, is no request: its stream is reset, its connection ends, or (where
/// HTTP/1 would be answered 400 too) it is answered without the backend.
async fn refuses(edge: &Edge, cases: &[(&str, Vec<(&str, &str)>)]) {
    for (what, fields) in cases {
        let mut client = Connection::tls(edge.https, HOST, edge.authority.client(&["h2"])).await.unwrap();
        client.send(Frame::request(1, fields)).await.unwrap();
        client.outcome(1).await.unwrap_or_else(|e| panic!("{what}: {e}"));
    }
    edge.untouched().await;
}

fn with(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    GOOD.iter().chain(more).copied().collect()
}

fn replaced(name: &str, value: &'static str) -> Vec<(&'static str, &'static str)> {
    GOOD.iter().map(|(n, v)| if *n == name { (*n, value) } else { (*n, *v) }).collect()
}

fn without(name: &str) -> Vec<(&'static str, &'static str)> {
    GOOD.iter().filter(|(n, _)| *n != name).copied().collect()
}

#[tokio::test]
async fn rfc9113_8_3_pseudo_headers_that_are_missing_repeated_unknown_or_late_make_no_request() {
    let edge = Edge::start().await;
    refuses(
        &edge,
        &[
            ("no :method", without(":method")),
            ("no :scheme", without(":scheme")),
            ("no :path", without(":path")),
            ("an empty :path", replaced(":path", "")),
            ("two :path", with(&[(":path", "/other")])),
            ("an unknown one", with(&[(":protocol2", "x")])),
            (":status in a request", with(&[(":status", "200")])),
            ("one behind a field", [&[("x-a", "1")], &GOOD[..]].concat()),
        ],
    )
    .await;
}

#[tokio::test]
async fn rfc9113_8_2_connection_specific_fields_make_no_request() {
    let edge = Edge::start().await;
    refuses(
        &edge,
        &[
            ("connection", with(&[("connection", "close")])),
            ("keep-alive", with(&[("keep-alive", "1")])),
            ("proxy-connection", with(&[("proxy-connection", "close")])),
            ("transfer-encoding", with(&[("transfer-encoding", "chunked")])),
            ("upgrade", with(&[("upgrade", "h2c")])),
            ("te that is not trailers", with(&[("te", "gzip")])),
        ],
    )
    .await;
    // What the engine answers is written down; what the codec refuses nobody but the codec sees.
    let mut client = Connection::tls(edge.https, HOST, edge.authority.client(&["h2"])).await.unwrap();
    client.send(Frame::request(1, &with(&[("host", "other.example")]))).await.unwrap();
    client.outcome(1).await.unwrap();
    let line = edge.gateway.logged(|line| line["status"] == 400).await;
    assert_eq!((line["protocol"].as_str(), line["reason"].as_str()), (Some("HTTP/2"), Some("bad_request")));
}

#[tokio::test]
async fn rfc9113_8_2_1_fields_that_http1_could_not_carry_make_no_request() {
    let edge = Edge::start().await;
    refuses(
        &edge,
        &[
            ("an upper-case name", with(&[("X-Upper", "1")])),
            ("a space in a name", with(&[("x y", "1")])),
            ("CR LF in a value", with(&[("x-a", "1\r\nx-b: 2")])),
            ("NUL in a value", with(&[("x-a", "1\0")])),
            ("a space in the path", replaced(":path", "/a b")),
            ("CR LF in the path", replaced(":path", "/ HTTP/1.1\r\nx: y")),
            ("a path without a slash", replaced(":path", "a")),
            ("a space in the method", replaced(":method", "GET /x")),
            ("userinfo in the authority", replaced(":authority", "user@edge.example")),
            ("a path in the authority", replaced(":authority", "edge.example/x")),
            ("a Host that differs", with(&[("host", "other.example")])),
        ],
    )
    .await;
}

#[tokio::test]
async fn rfc9113_8_1_1_a_content_length_that_differs_from_the_data_makes_no_good_request() {
    let edge = Edge::start().await;
    for (what, announced) in [("too little", "10"), ("too much", "2"), ("no number", "x")] {
        let client =
            sluice_tests::http2::Connection::tls(edge.https, HOST, edge.authority.client(&["h2"])).await.unwrap();
        let request = client.request("POST", HOST, "/length").header("content-length", announced).body(()).unwrap();
        if let Ok(answer) = client.exchange(request, bytes::Bytes::from_static(b"abc")).await {
            assert!(answer.status >= 400, "{what}: served as if it were whole");
        }
    }
}

#[tokio::test]
async fn rfc9113_8_2_3_cookie_crumbs_are_joined() {
    let edge = Edge::start().await;
    let client = sluice_tests::http2::Connection::tls(edge.https, HOST, edge.authority.client(&["h2"])).await.unwrap();
    let request = client.request("GET", HOST, "/").header("cookie", "a=1").header("cookie", "b=2").body(()).unwrap();
    let answer = client.exchange(request, bytes::Bytes::new()).await.unwrap();
    let cookies: Vec<_> = answer.json()["headers"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|p| p[0] == "cookie")
        .map(|p| p[1].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(cookies, ["a=1; b=2"]);
}

#[tokio::test]
async fn rfc9113_3_3_http2_is_spoken_in_clear_text_by_prior_knowledge() {
    let edge = Edge::start().await;
    let client = sluice_tests::http2::Connection::clear(edge.http).await.unwrap();
    let answer = client.get(HOST, "/clear").await.unwrap();
    assert_eq!((answer.status, answer.json()["target"].as_str()), (200, Some("/clear")));
}

#[tokio::test]
async fn rfc9113_5_1_1_a_stream_id_used_again_or_even_ends_the_connection() {
    let edge = Edge::start().await;
    for stream in [2, 0] {
        let mut client = Connection::tls(edge.https, HOST, edge.authority.client(&["h2"])).await.unwrap();
        client.send(Frame::request(stream, &GOOD)).await.unwrap();
        let outcome = client.outcome(stream).await.unwrap();
        assert!(matches!(outcome, Outcome::GoAway(_) | Outcome::Ended), "stream {stream}: {outcome:?}");
    }
    edge.untouched().await;
}
