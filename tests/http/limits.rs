//! Limits of bodies and connections.

use crate::edge::{Edge, HOST, get, post};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use sluice_tests::{backend, raw, wait};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

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
    wait::until("a place", || async { (raw::get(edge.http, HOST, "/").await.ok()?.status == 200).then_some(()) }).await;
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

/// What waits for a client or a backend that does not read stays with whoever sends it, but for a few buffers.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_nobody_takes_are_not_held_in_memory() {
    const EACH: usize = 60;
    const BODY: usize = 64 << 20;
    /// KiB of one body on its way: the engine reads in pieces of 64, and holds up to nine of them.
    const HELD: u64 = 1024;
    let body = Bytes::from(vec![b'x'; BODY]);
    for uploads in [false, true] {
        let large = body.clone();
        let edge = Edge::with_backend(Arc::new(move |_| {
            let large = Full::new(large.clone()).map_err(|never| match never {}).boxed();
            Box::pin(async move {
                if uploads {
                    // Nor is the request's body read.
                    std::future::pending::<()>().await;
                }
                http::Response::new(large)
            })
        }))
        .await;
        let mut waiting = JoinSet::new();
        let ask = async |waiting: &mut JoinSet<()>, count: usize| {
            for _ in 0..count {
                let mut client = raw::Client::connect(edge.http).await.unwrap();
                let head = if uploads { post(&format!("Content-Length: {BODY}\r\n"), "") } else { get("/", "") };
                client.send(head).await.unwrap();
                let body = body.clone();
                waiting.spawn(async move {
                    if uploads {
                        let _ = client.send(&body).await;
                    }
                    std::future::pending::<()>().await;
                });
            }
        };
        // What the first ones cost once, in threads and allocators, is not what each one costs.
        ask(&mut waiting, 5).await;
        let before = at_rest(&edge, 5).await;
        ask(&mut waiting, EACH).await;
        let grown = at_rest(&edge, 5 + EACH).await.saturating_sub(before) / EACH as u64 / 1024;
        println!("{grown} KiB for each {} that waits", if uploads { "upload" } else { "download" });
        assert!(grown < HELD, "{grown} KiB for each body that waits; uploads: {uploads}");
    }
}

/// Bytes of the gateway's memory once so many requests are at the backend and nothing moves any more.
async fn at_rest(edge: &Edge, requests: usize) -> u64 {
    wait::until("the requests at the backend", || async { (edge.backend.count() == requests).then_some(()) }).await;
    let mut last = 0;
    wait::until("nothing to move", move || {
        let now = edge.gateway.resident();
        let before = std::mem::replace(&mut last, now);
        async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            (now == before).then_some(now)
        }
    })
    .await
}
