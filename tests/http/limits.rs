//! Limits of bodies and connections.

use crate::edge::{Edge, HOST, get, post};
use sluice_tests::{backend, raw};

#[tokio::test]
async fn rfc9110_15_5_14_a_body_above_the_limit_is_refused_announced_or_not() {
    let limit = "limits: {body: 10}";
    for edge in [Edge::configured(limit).await, Edge::before_http2(limit, backend::echo_as("echo")).await] {
        let mut client = raw::Client::connect(edge.http).await.unwrap();
        client.send(post("Content-Length: 11\r\n", "")).await.unwrap();
        assert_eq!(client.response().await.unwrap().status, 413);
        edge.untouched().await;

        let answer =
            raw::exchange(edge.http, post("Transfer-Encoding: chunked\r\n", "b\r\n01234567890\r\n0\r\n\r\n")).await;
        assert_eq!(answer.unwrap().status, 413);
        assert_eq!(edge.gateway.logged(|l| l["status"] == 413).await["reason"], "body_too_large");
        edge.passes(&post("Content-Length: 10\r\n", "0123456789")).await;
    }
}

#[tokio::test]
async fn connections_above_the_limit_are_closed_and_counted() {
    let edge = Edge::configured("limits: {connections: 2}").await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = raw::Client::connect(edge.http).await.unwrap();
        client.send(get("/", "")).await.unwrap();
        assert_eq!(client.response().await.unwrap().status, 200);
        held.push(client);
    }
    let refused = async {
        let mut client = raw::Client::connect(edge.http).await?;
        client.send(get("/", "")).await?;
        client.response().await
    };
    assert!(!matches!(refused.await, Ok(answer) if answer.status == 200), "a third connection was served");
    assert!(edge.gateway.metric("sluice_limit_hits_total", &["connections"]).await >= 1.0);
    drop(held.pop());
    sluice_tests::wait::until("a place", || async {
        (raw::get(edge.http, HOST, "/").await.ok()?.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_connection_is_closed_in_order_after_its_last_request() {
    let edge = Edge::configured("limits: {requestsPerConnection: 3}").await;
    let mut client = raw::Client::connect(edge.http).await.unwrap();
    for n in 1..=3 {
        client.send(get("/", "")).await.unwrap();
        let answer = client.response().await.unwrap();
        assert_eq!((answer.status, answer.closes()), (200, n == 3), "request {n}");
    }
    assert!(client.ends().await);
}
