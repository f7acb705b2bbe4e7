//! RFC 6455: tunnels begin with the 101, and end with a word.

use super::client::Client;
use super::*;

const UPGRADE: &str = "GET /websocket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
/// A text frame, unmasked, as it is echoed here.
const HELLO: &[u8] = b"\x81\x05hello";
const GOING_AWAY: &[u8] = &[0x88, 0x02, 0x03, 0xe9];

#[tokio::test]
async fn bytes_pass_both_ways_after_the_101_those_that_came_early_too() {
    let (_gateway, address) = Gateway::plain(Edge::default());
    let mut client = Client::connect(address).await;
    let mut early = UPGRADE.as_bytes().to_vec();
    early.extend(HELLO);
    client.send(early).await;
    assert_eq!(client.head().await.0, 101);
    assert_eq!(client.take(HELLO.len()).await, HELLO);
    client.send(HELLO).await;
    assert_eq!(client.take(HELLO.len()).await, HELLO);
}

#[tokio::test]
async fn a_tunnel_outlives_the_idle_timeout_of_bodies() {
    let (_gateway, address) = Gateway::plain(edge(|e| e.timeouts.body_idle = Duration::from_millis(20)));
    let mut client = Client::connect(address).await;
    client.send(UPGRADE).await;
    assert_eq!(client.head().await.0, 101);
    tokio::time::sleep(Duration::from_millis(100)).await;
    client.send(HELLO).await;
    assert_eq!(client.take(HELLO.len()).await, HELLO);
}

#[tokio::test]
async fn an_idle_tunnel_is_told_to_go_away() {
    let (gateway, address) = Gateway::plain(edge(|e| e.timeouts.stream_idle = Duration::from_millis(80)));
    let mut client = Client::connect(address).await;
    client.send(UPGRADE).await;
    assert_eq!(client.head().await.0, 101);
    assert_eq!(client.rest().await, GOING_AWAY);
    assert_eq!(gateway.metrics.timeout_hits("stream_idle"), 1);
}

#[tokio::test]
async fn a_tunnel_ends_after_its_longest_life_however_busy_it_is() {
    let (gateway, address) = Gateway::plain(edge(|e| e.timeouts.tunnel_max = Some(Duration::from_millis(80))));
    let mut client = Client::connect(address).await;
    client.send(UPGRADE).await;
    assert_eq!(client.head().await.0, 101);
    let busy = async {
        while gateway.metrics.timeout_hits("tunnel_max") == 0 {
            let _ = client.io.try_write(HELLO);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    within(busy).await;
    let rest = client.rest().await;
    assert!(rest.ends_with(GOING_AWAY), "{rest:?}");
}

#[tokio::test]
async fn draining_tells_a_tunnel_before_it_is_cut_and_never_within_a_frame() {
    let (gateway, address) = Gateway::plain(Edge::default());
    let mut idle = Client::connect(address).await;
    idle.send(UPGRADE).await;
    assert_eq!(idle.head().await.0, 101);
    let mut within_frame = Client::connect(address).await;
    within_frame.send(UPGRADE).await;
    assert_eq!(within_frame.head().await.0, 101);
    within_frame.send(&HELLO[..4]).await;
    assert_eq!(within_frame.take(4).await, &HELLO[..4]);
    let polite = async {
        let rest = idle.rest().await;
        drop(idle);
        rest
    };
    let (cut, told) =
        within(async { tokio::join!(gateway.downstream.drain(Duration::from_millis(800)), polite) }).await;
    assert_eq!(told, GOING_AWAY);
    assert_eq!(within_frame.rest().await, b"", "half a frame is not followed by another");
    assert_eq!(cut, 1);
}
