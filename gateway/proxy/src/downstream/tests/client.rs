//! A client that says what it is told to, byte by byte.

use super::{LONG, within};
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

pub(super) struct Client<IO = TcpStream> {
    pub(super) io: IO,
    buffer: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Response {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(super) fn closes(&self) -> bool {
        self.head.contains("\r\nconnection: close\r\n")
    }
}

impl Client {
    pub(super) async fn connect(address: SocketAddr) -> Client {
        Client::over(within(TcpStream::connect(address)).await.unwrap())
    }

    /// A connection to `address`, one request, its answer.
    pub(super) async fn ask(address: SocketAddr, request: &str) -> Response {
        let mut client = Client::connect(address).await;
        client.send(request).await;
        client.response().await
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Client<IO> {
    pub(super) fn over(io: IO) -> Self {
        Client { io, buffer: Vec::new() }
    }

    pub(super) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within(self.io.write_all(bytes.as_ref())).await.unwrap();
        within(self.io.flush()).await.unwrap();
    }

    pub(super) async fn get(&mut self, path: &str) -> Response {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
        self.response().await
    }

    /// Reads more; `false` at the end.
    async fn more(&mut self) -> bool {
        let read = tokio::time::timeout(LONG, self.io.read_buf(&mut self.buffer)).await;
        assert!(read.is_ok(), "the gateway is silent");
        matches!(read, Ok(Ok(n)) if n > 0)
    }

    /// The next `n` bytes.
    pub(super) async fn take(&mut self, n: usize) -> Vec<u8> {
        while self.buffer.len() < n {
            assert!(self.more().await, "ended after {:?}", String::from_utf8_lossy(&self.buffer));
        }
        self.buffer.drain(..n).collect()
    }

    pub(super) async fn head(&mut self) -> (u16, String) {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(self.more().await, "ended within {:?}", String::from_utf8_lossy(&self.buffer));
        };
        let head: Vec<u8> = self.buffer.drain(..end).collect();
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        (head[9..12].parse().unwrap(), head)
    }

    /// A response with Content-Length.
    pub(super) async fn response(&mut self) -> Response {
        let (status, head) = self.head().await;
        let length =
            head.split("content-length: ").nth(1).map_or(0, |rest| rest.split("\r\n").next().unwrap().parse().unwrap());
        let body = self.take(length).await;
        Response { status, head, body }
    }

    /// A response whose first bytes have been read already.
    pub(super) async fn response_after(&mut self, first: &[u8]) -> Response {
        self.buffer.splice(..0, first.iter().copied());
        self.response().await
    }

    /// Whatever comes until the connection ends.
    pub(super) async fn rest(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.buffer)
    }

    /// The connection ends, with nothing more said.
    pub(super) async fn ends(&mut self) {
        let rest = self.rest().await;
        assert_eq!(rest, b"", "{:?}", String::from_utf8_lossy(&rest));
    }
}
