//! PROXY protocol, versions 1 and 2, in front of clear text and of TLS.

use crate::edge::{Edge, HOST, get};
use sluice_tests::raw;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const V1: &[u8] = b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 80\r\n";

fn v2() -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend_from_slice(&[0x21, 0x11, 0, 12]);
    header.extend_from_slice(&[203, 0, 113, 7, 192, 0, 2, 1, 0x9c, 0x40, 0, 80]);
    header
}

#[tokio::test]
async fn the_address_in_the_header_is_the_clients() {
    let edge = Edge::configured("proxyProtocol: true").await;
    for header in [V1.to_vec(), v2()] {
        let mut stream = TcpStream::connect(("127.0.0.1", edge.http)).await.unwrap();
        stream.write_all(&header).await.unwrap();
        let mut client = raw::Client::over(stream);
        client.send(get("/", "")).await.unwrap();
        let answer = client.response().await.unwrap().json();
        let forwarded =
            answer["headers"].as_array().unwrap().iter().find(|p| p[0] == "x-forwarded-for").unwrap().clone();
        assert_eq!(forwarded[1], "203.0.113.7");
    }
    assert_eq!(edge.gateway.logged(|l| l["status"] == 200).await["client_ip"], "203.0.113.7");
}

#[tokio::test]
async fn it_stands_before_the_tls_handshake() {
    let edge = Edge::configured("proxyProtocol: true").await;
    let mut stream = TcpStream::connect(("127.0.0.1", edge.https)).await.unwrap();
    stream.write_all(&v2()).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(edge.authority.client(&["http/1.1"]));
    let stream = connector.connect(HOST.try_into().unwrap(), stream).await.unwrap();
    let mut client = raw::Client::over(stream);
    client.send(get("/", "")).await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 200);
}

#[tokio::test]
async fn a_connection_without_it_or_with_a_broken_one_is_closed() {
    let edge = Edge::configured("proxyProtocol: true").await;
    for start in
        [get("/", ""), format!("PROXY TCP9 x y 1 2\r\n{}", get("/", "")), format!("PROXY TCP4 {}", "1".repeat(200))]
    {
        let mut client = raw::Client::connect(edge.http).await.unwrap();
        client.send(start).await.unwrap();
        let rest = client.rest().await.unwrap();
        assert!(!String::from_utf8_lossy(&rest).contains(" 200 "));
    }
    assert_eq!(edge.backend.count(), 0);
}
