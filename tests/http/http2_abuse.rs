//! HTTP/2 as a weapon: each is bounded, counted, and ends that one connection while others are served.

use crate::edge::{Edge, HOST};
use sluice_tests::frames::{self, Connection, ENHANCE_YOUR_CALM, Frame, Outcome};
use sluice_tests::raw;
use std::io::Result;

const GET: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "https"), (":path", "/abuse"), (":authority", HOST)];

async fn open(edge: &Edge) -> Connection {
    Connection::tls(edge.https, HOST, edge.authority.client(&["h2"])).await.unwrap()
}

/// Sends frames until the server has enough (or `count` went out), then gives what it said.
async fn flood(client: &mut Connection, count: u32, frame: impl Fn(u32) -> Vec<Frame>) -> Outcome {
    let send = async |client: &mut Connection| -> Result<()> {
        for n in 0..count {
            for frame in frame(n) {
                client.send(frame).await?;
            }
        }
        Ok(())
    };
    // The server may close while frames are still being written.
    let _ = send(client).await;
    // Stream 0 never has an answer: only the connection's own end counts.
    client.outcome(0).await.unwrap_or(Outcome::Ended)
}

fn calmed(what: &str, outcome: &Outcome) {
    assert!(
        matches!(outcome, Outcome::GoAway(ENHANCE_YOUR_CALM) | Outcome::Ended),
        "{what}: not told to calm down but {outcome:?}"
    );
}

async fn still_serves(edge: &Edge) {
    assert_eq!(raw::get(edge.http, HOST, "/after").await.unwrap().status, 200);
}

#[tokio::test]
async fn cve_2023_44487_rapid_reset_ends_the_connection_and_bounds_the_backends_work() {
    let edge = Edge::start().await;
    let mut client = open(&edge).await;
    let outcome = flood(&mut client, 5000, |n| {
        let stream = 2 * n + 1;
        vec![Frame::request(stream, &GET), Frame::new(frames::RST_STREAM, 0, stream, 8_u32.to_be_bytes())]
    })
    .await;
    calmed("rapid reset", &outcome);
    let reached = edge.backend.seen().iter().filter(|s| s.target == "/abuse").count();
    assert!(reached <= 400, "{reached} of 5,000 reset requests reached the backend");
    still_serves(&edge).await;
}

#[tokio::test]
async fn floods_of_control_frames_end_the_connection() {
    let edge = Edge::start().await;
    for (what, frame) in [
        ("PING", Frame::new(frames::PING, 0, 0, [0; 8])),
        ("SETTINGS", Frame::new(frames::SETTINGS, 0, 0, [])),
        ("PRIORITY", Frame::new(frames::PRIORITY, 0, 1, [0, 0, 0, 3, 16])),
        ("an unknown type", Frame::new(0xee, 0, 0, [0; 8])),
    ] {
        let mut client = open(&edge).await;
        let outcome = flood(&mut client, 20_000, |_| vec![frame.clone()]).await;
        calmed(what, &outcome);
    }
    still_serves(&edge).await;
}

#[tokio::test]
async fn cve_2024_27316_an_endless_header_block_ends_the_connection() {
    let edge = Edge::start().await;
    let mut client = open(&edge).await;
    client.send(Frame::new(frames::HEADERS, frames::END_STREAM, 1, frames::block(&GET))).await.unwrap();
    let outcome = flood(&mut client, 5000, |n| {
        let (name, value) = (format!("x-{n}"), "v".repeat(1000));
        vec![Frame::new(frames::CONTINUATION, 0, 1, frames::block(&[(&name, &value)]))]
    })
    .await;
    assert!(matches!(outcome, Outcome::GoAway(_) | Outcome::Ended), "{outcome:?}");
    edge.untouched().await;
}

#[tokio::test]
async fn a_header_block_that_drips_over_continuation_meets_the_header_deadline() {
    let edge = Edge::configured("timeouts: {requestHeaders: 1s}").await;
    let mut client = open(&edge).await;
    client.send(Frame::new(frames::HEADERS, frames::END_STREAM, 1, frames::block(&GET))).await.unwrap();
    // Nothing more comes: the block is never ended. Without a deadline this waits until the test's patience is over.
    let outcome = client.outcome(1).await.unwrap();
    assert!(!matches!(outcome, Outcome::Answered), "{outcome:?}");
    edge.untouched().await;
}

#[tokio::test]
async fn rfc9113_5_1_2_no_more_streams_than_announced_run_at_a_time() {
    let edge = Edge::configured("http2: {maxConcurrentStreams: 4}").await;
    let mut client = open(&edge).await;
    // Bodies that never end keep their streams open.
    for n in 0..5 {
        let fields: Vec<_> = GET.iter().map(|(k, v)| (*k, if *k == ":method" { "POST" } else { *v })).collect();
        client.send(Frame::new(frames::HEADERS, frames::END_HEADERS, 2 * n + 1, frames::block(&fields))).await.unwrap();
    }
    let outcome = client.outcome(9).await.unwrap();
    assert!(matches!(outcome, Outcome::Reset(_) | Outcome::GoAway(_)), "the fifth stream: {outcome:?}");
}
