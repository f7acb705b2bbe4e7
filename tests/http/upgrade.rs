//! Upgrades: WebSockets (RFC 6455) and nothing else; a tunnel begins with the backend's 101.

use crate::edge::{Edge, HOST, get};
use futures::{SinkExt, StreamExt};
use sluice_tests::raw;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

const WEB_SOCKET: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[tokio::test]
async fn rfc6455_4_a_web_socket_carries_messages_both_ways() {
    let edge = Edge::start().await;
    let stream = TcpStream::connect(("127.0.0.1", edge.http)).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(format!("ws://{HOST}/chat"), stream).await.unwrap();
    for n in 0..20 {
        socket.send(Message::text(format!("message {n}"))).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(format!("echo: message {n}")));
    }
    socket.close(None).await.unwrap();
    assert_eq!(edge.gateway.logged(|l| l["path"] == "/chat").await["status"], 101);
}

#[tokio::test]
async fn rfc9110_7_8_other_upgrades_are_not_passed_on() {
    let edge = Edge::start().await;
    for lines in [
        "Connection: Upgrade\r\nUpgrade: h2c\r\n",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        "Connection: Upgrade\r\nUpgrade: tunnel\r\n",
        // Not nominated by Connection, and so to be ignored; the engine would make a tunnel of it.
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    ] {
        let seen = edge.passes(&get("/", lines)).await;
        assert_eq!((seen.field("upgrade"), seen.field("http2-settings")), (None, None), "{lines}");
    }
}

#[tokio::test]
async fn rfc9110_15_2_2_a_101_that_nobody_asked_for_is_a_bad_gateway() {
    let edge = Edge::with_backend(std::sync::Arc::new(|_| {
        Box::pin(async move {
            let mut answer = sluice_tests::backend::text(http::StatusCode::SWITCHING_PROTOCOLS, "");
            answer.headers_mut().insert(http::header::CONNECTION, http::HeaderValue::from_static("upgrade"));
            answer.headers_mut().insert(http::header::UPGRADE, http::HeaderValue::from_static("websocket"));
            answer
        })
    }))
    .await;
    let answer = raw::exchange(edge.http, get("/", "")).await.unwrap();
    assert_eq!(answer.status, 502);
    assert_eq!(edge.gateway.logged(|l| l["status"] == 502).await["reason"], "upstream_protocol_error");
}

/// CVE-2026-2833: what follows an upgrade that the backend refused is HTTP, not a tunnel.
#[tokio::test]
async fn rfc9110_7_8_a_refused_upgrade_is_no_tunnel() {
    let edge = Edge::with_backend(std::sync::Arc::new(|request| {
        Box::pin(async move {
            let target = request.uri().path().to_owned();
            sluice_tests::backend::text(http::StatusCode::OK, &target)
        })
    }))
    .await;
    let mut client = raw::Client::connect(edge.http).await.unwrap();
    let hidden = "GET /hidden HTTP/1.1\r\n\r\n";
    client.send(format!("{}{hidden}", get("/refused", WEB_SOCKET))).await.unwrap();
    assert_eq!(client.response().await.unwrap().text(), "/refused");
    let rest = client.rest().await.unwrap_or_default();
    let text = String::from_utf8_lossy(&rest);
    // The next request has no Host: it must be judged like any other, by the gateway.
    assert!(!text.contains("/hidden"), "{text}");
    assert!(edge.backend.seen().iter().all(|s| s.target != "/hidden"));
}

#[tokio::test]
async fn rfc9113_8_5_extended_connect_is_not_offered() {
    use sluice_tests::frames;
    let edge = Edge::start().await;
    let mut client = frames::Connection::tls(edge.https, HOST, edge.authority.client(&["h2"])).await.unwrap();
    loop {
        let frame = client.next().await.unwrap().expect("SETTINGS come first");
        if frame.kind == frames::SETTINGS && frame.flags & frames::ACK == 0 {
            // Identifier 8 is SETTINGS_ENABLE_CONNECT_PROTOCOL.
            let offered = frame.payload.chunks(6).any(|s| s[..2] == [0, 8] && s[5] == 1);
            assert!(!offered, "WebSockets over HTTP/2 are announced but not built");
            break;
        }
    }
}

#[tokio::test]
async fn a_tunnel_ends_with_its_longest_life() {
    let edge = Edge::configured("timeouts: {tunnelMax: 1s}").await;
    let stream = TcpStream::connect(("127.0.0.1", edge.http)).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(format!("ws://{HOST}/long"), stream).await.unwrap();
    let end = tokio::time::timeout(std::time::Duration::from_secs(20), async {
        while let Some(Ok(message)) = socket.next().await {
            if message.is_close() {
                break;
            }
        }
    });
    end.await.expect("the tunnel ended");
    edge.gateway.logged(|l| l["path"] == "/long").await;
    assert!(edge.gateway.metric("sluice_timeouts_total", &["tunnel_max"]).await >= 1.0);
}

#[tokio::test]
async fn an_idle_tunnel_is_told_to_go_away() {
    let edge = Edge::configured("timeouts: {streamIdle: 1s}").await;
    let stream = TcpStream::connect(("127.0.0.1", edge.http)).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async(format!("ws://{HOST}/idle"), stream).await.unwrap();
    let told = tokio::time::timeout(std::time::Duration::from_secs(20), socket.next()).await.expect("it is told");
    assert!(matches!(&told, Some(Ok(Message::Close(Some(frame)))) if u16::from(frame.code) == 1001), "{told:?}");
    drop(socket);
    edge.gateway.logged(|l| l["path"] == "/idle").await;
    assert!(edge.gateway.metric("sluice_timeouts_total", &["stream_idle"]).await >= 1.0);
}

/// RFC 6455, section 4.1, has no body in a handshake: with one it is a request like any other, with its deadlines.
#[tokio::test]
async fn rfc9110_15_5_9_an_upgrade_with_a_body_that_does_not_come_is_a_timeout() {
    let edge = Edge::configured("timeouts: {bodyIdle: 1s}").await;
    let mut client = raw::Client::connect(edge.http).await.unwrap();
    client.send(get("/never", &format!("{WEB_SOCKET}Content-Length: 10\r\n"))).await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 408);
    assert_eq!(edge.gateway.logged(|l| l["path"] == "/never").await["reason"], "body_timeout");
}
