//! The echo backend, through its own command line and real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

/// Killed when dropped.
struct Echo {
    child: Child,
    address: SocketAddr,
}

impl Echo {
    fn start() -> Echo {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sluice"))
            .args(["echo", "--listen", "pizza=127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("pizza listens on ").expect("it says where it listens");
        Echo { address: address.parse().unwrap(), child }
    }

    /// The whole answer to a request that ends its connection.
    fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_request_comes_back_as_json() {
    let echo = Echo::start();
    let answer = echo.ask(
        "POST /order?size=2 HTTP/1.1\r\nHost: shop.example\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
    );
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("x-echo-name: pizza"), "{head}");
    let seen: serde_json::Value = serde_json::from_str(body).unwrap();
    for (field, value) in [
        ("name", "pizza"),
        ("method", "POST"),
        ("path", "/order"),
        ("query", "size=2"),
        ("host", "shop.example"),
        ("protocol", "HTTP/1.1"),
    ] {
        assert_eq!(seen[field], value, "{seen}");
    }
    assert_eq!(seen["headers"]["x-a"], serde_json::json!(["1", "2"]));
    assert_eq!(seen["body_bytes"], 5);
}

#[test]
fn a_status_chunks_and_health_can_be_asked_for() {
    let echo = Echo::start();
    let get = |target: &str| echo.ask(&format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
    assert!(get("/web/status/503").starts_with("HTTP/1.1 503 "));
    assert!(get("/health").ends_with("ok\n"));
    let chunks = get("/?chunks=2&interval=1");
    assert!(
        chunks.contains("transfer-encoding: chunked") && chunks.contains("chunk 0\n") && chunks.contains("chunk 1\n"),
        "{chunks}"
    );
    assert!(get("/?bytes=70000").len() > 70_000);
}
