//! An HTTP/1.1 client that sends the bytes it is told to send, and reads answers strictly.

use crate::Address;
use bytes::{Buf, BytesMut};
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// How long an answer, or the end of a connection, is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

pub struct Client {
    stream: Box<dyn Wire>,
    buffer: BytesMut,
    /// The connection below, where that is a socket.
    socket: Option<OwnedFd>,
}

#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

impl Response {
    /// The first value of a header, by lower-case name.
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| String::from_utf8_lossy(v).into_owned())
    }

    pub fn header_map(&self) -> http::HeaderMap {
        let name = |name: &str| http::HeaderName::try_from(name).expect("the parser has accepted it");
        let value = |value: &[u8]| http::HeaderValue::from_bytes(value).expect("the parser has accepted it");
        self.headers.iter().map(|(n, v)| (name(n), value(v))).collect()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("not JSON ({e}): {}", self.text()))
    }

    /// Whether the server said that it closes the connection.
    pub fn closes(&self) -> bool {
        self.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"))
    }
}

impl Client {
    /// In clear text.
    pub async fn connect(to: impl Into<Address>) -> Result<Client> {
        let tcp = to.into().connect().await?;
        let socket = Some(tcp.as_fd().try_clone_to_owned()?);
        Ok(Client { socket, ..Client::over(tcp) })
    }

    pub async fn connect_tls(to: impl Into<Address>, name: &str, config: Arc<rustls::ClientConfig>) -> Result<Client> {
        let tls = crate::certificate::connect(to, name, config).await?;
        let socket = Some(tls.get_ref().0.as_fd().try_clone_to_owned()?);
        Ok(Client { socket, ..Client::over(tls) })
    }

    pub fn over(stream: impl Wire + 'static) -> Client {
        Client { stream: Box::new(stream), buffer: BytesMut::new(), socket: None }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        self.stream.write_all(bytes.as_ref()).await?;
        self.stream.flush().await
    }

    /// The next answer to a request that was no HEAD. Interim answers (1xx but 101) are given as they come.
    pub async fn response(&mut self) -> Result<Response> {
        self.response_to("GET").await
    }

    /// The next answer to a request with `method`, which decides whether it has a body (RFC 9112, section 6.3).
    pub async fn response_to(&mut self, method: &str) -> Result<Response> {
        tokio::time::timeout(PATIENCE, self.read_response(method))
            .await
            .map_err(|_| Error::new(ErrorKind::TimedOut, "no answer in time"))?
    }

    async fn read_response(&mut self, method: &str) -> Result<Response> {
        let mut response = loop {
            if let Some(head) = self.parse_head()? {
                break head;
            }
            self.fill("the answer's head").await?;
        };
        let status = response.status;
        if method == "HEAD" || status / 100 == 1 || status == 204 || status == 304 {
            return Ok(response);
        }
        let coding = response.header("transfer-encoding");
        response.body = if coding.is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            self.read_chunked().await?
        } else if let Some(length) = response.header("content-length") {
            let length = length.parse().map_err(|_| Error::new(ErrorKind::InvalidData, "bad Content-Length"))?;
            self.read_exact(length).await?
        } else {
            self.read_to_end().await?
        };
        Ok(response)
    }

    fn parse_head(&mut self) -> Result<Option<Response>> {
        let mut fields = [httparse::EMPTY_HEADER; 256];
        let mut head = httparse::Response::new(&mut fields);
        let parsed = head.parse(&self.buffer).map_err(|e| {
            let got = String::from_utf8_lossy(&self.buffer);
            Error::new(ErrorKind::InvalidData, format!("no HTTP ({e}): {got}"))
        })?;
        let httparse::Status::Complete(length) = parsed else { return Ok(None) };
        let headers = head.headers.iter().map(|h| (h.name.to_ascii_lowercase(), h.value.to_vec())).collect();
        let response = Response { status: head.code.unwrap_or(0), headers, body: Vec::new() };
        self.buffer.advance(length);
        Ok(Some(response))
    }

    async fn read_exact(&mut self, length: usize) -> Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.fill("the answer's body").await?;
        }
        Ok(self.buffer.split_to(length).to_vec())
    }

    async fn read_chunked(&mut self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.read_line().await?;
            let size = line.split(|b| *b == b';').next().unwrap_or_default();
            let size = std::str::from_utf8(size).ok().and_then(|s| usize::from_str_radix(s.trim(), 16).ok());
            let size = size.ok_or_else(|| Error::new(ErrorKind::InvalidData, "bad chunk size"))?;
            if size == 0 {
                // Trailers, up to the empty line.
                while !self.read_line().await?.is_empty() {}
                return Ok(body);
            }
            body.extend(self.read_exact(size).await?);
            if self.read_exact(2).await? != b"\r\n" {
                return Err(Error::new(ErrorKind::InvalidData, "no line end after a chunk"));
            }
        }
    }

    async fn read_line(&mut self) -> Result<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                let line = self.buffer.split_to(at).to_vec();
                self.buffer.advance(2);
                return Ok(line);
            }
            self.fill("a line").await?;
        }
    }

    async fn read_to_end(&mut self) -> Result<Vec<u8>> {
        while self.stream.read_buf(&mut self.buffer).await? > 0 {}
        Ok(self.buffer.split().to_vec())
    }

    async fn fill(&mut self, what: &str) -> Result<()> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(Error::new(ErrorKind::UnexpectedEof, format!("the connection ended before {what}"))),
            _ => Ok(()),
        }
    }

    /// Exactly `length` bytes as they come, for what is not HTTP any more.
    pub async fn bytes(&mut self, length: usize) -> Result<Vec<u8>> {
        tokio::time::timeout(PATIENCE, self.read_exact(length))
            .await
            .map_err(|_| Error::new(ErrorKind::TimedOut, "no bytes in time"))?
    }

    /// Whatever still comes until the server ends the connection; a reset counts as an end.
    pub async fn rest(&mut self) -> Result<Vec<u8>> {
        match tokio::time::timeout(PATIENCE, self.read_to_end()).await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(e)) if e.kind() == ErrorKind::ConnectionReset => Ok(self.buffer.split().to_vec()),
            Ok(Err(e)) => Err(e),
            Err(_) => Err(Error::new(ErrorKind::TimedOut, "the connection was left open")),
        }
    }

    /// Ends the connection before the server does, and waits for the server's end of it. Whoever ends a connection first remembers
    /// its ports for a minute (TIME_WAIT): where a node stands between, with ports of its own, only the client's memory keeps a
    /// new connection from being taken for an old one. So without TLS's close_notify, which a server may answer first; and a
    /// client that is gone by then would answer the server's with a reset, which netfilter may drop.
    pub async fn close(mut self) -> Result<()> {
        match &self.socket {
            Some(socket) => rustix::net::shutdown(socket, rustix::net::Shutdown::Write)?,
            None => self.stream.shutdown().await?,
        }
        self.rest().await.map(|_| ())
    }

    /// Whether the server ends the connection without another byte.
    pub async fn ends(&mut self) -> bool {
        matches!(self.rest().await, Ok(rest) if rest.is_empty())
    }
}

/// Sends `bytes` on a connection of their own and gives the first answer.
pub async fn exchange(to: impl Into<Address>, bytes: impl AsRef<[u8]>) -> Result<Response> {
    let mut client = Client::connect(to).await?;
    client.send(bytes).await?;
    client.response().await
}

/// `GET path` for `host` on a connection of its own.
pub async fn get(to: impl Into<Address>, host: &str, path: &str) -> Result<Response> {
    get_once(Client::connect(to).await?, host, path).await
}

/// `GET path` for `host`, and nothing else on this connection.
pub async fn get_once(mut client: Client, host: &str, path: &str) -> Result<Response> {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await?;
    let answer = client.response().await?;
    // The answer is there; how its connection ends is nothing that was asked.
    let _ = client.close().await;
    Ok(answer)
}
