//! An HTTP/2 client over TLS or in clear text by prior knowledge. One connection a value; a stream that is reset stays
//! reset, a connection that is going away is reported, not replaced.

use crate::{Address, certificate};
use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use std::sync::Arc;
use tokio::task::JoinHandle;

pub struct Connection {
    sender: SendRequest<Bytes>,
    driver: JoinHandle<Result<(), h2::Error>>,
    scheme: &'static str,
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: HeaderMap,
}

impl Response {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }
}

impl Connection {
    pub async fn tls(
        to: impl Into<Address>,
        name: &str,
        config: Arc<rustls::ClientConfig>,
    ) -> anyhow::Result<Connection> {
        let stream = certificate::connect(to, name, config).await?;
        anyhow::ensure!(stream.get_ref().1.alpn_protocol() == Some(b"h2"), "the server did not choose h2");
        let (sender, driver) = h2::client::handshake(stream).await?;
        Ok(Connection { sender, driver: tokio::spawn(driver), scheme: "https" })
    }

    pub async fn clear(to: impl Into<Address>) -> anyhow::Result<Connection> {
        let stream = to.into().connect().await?;
        let (sender, driver) = h2::client::handshake(stream).await?;
        Ok(Connection { sender, driver: tokio::spawn(driver), scheme: "http" })
    }

    /// A request's head for this connection's scheme; the caller adds fields.
    pub fn request(&self, method: &str, authority: &str, path: &str) -> http::request::Builder {
        Request::builder().method(method).uri(format!("{}://{authority}{path}", self.scheme))
    }

    pub async fn get(&self, authority: &str, path: &str) -> Result<Response, h2::Error> {
        let request = self.request("GET", authority, path).body(()).expect("a valid request");
        self.exchange(request, Bytes::new()).await
    }

    pub async fn exchange(&self, request: Request<()>, body: Bytes) -> Result<Response, h2::Error> {
        let mut sender = self.sender.clone().ready().await?;
        let (response, mut stream) = sender.send_request(request, body.is_empty())?;
        if !body.is_empty() {
            stream.send_data(body, true)?;
        }
        collect(response.await?).await
    }

    /// As [`Connection::exchange`] without a body; `None` where the connection takes no more requests, and so nothing
    /// was sent. What fails after that is an error, GOAWAY or not.
    pub async fn exchange_unless_closing(&self, request: Request<()>) -> Result<Option<Response>, h2::Error> {
        let Ok(mut sender) = self.sender.clone().ready().await else { return Ok(None) };
        let Ok((response, _)) = sender.send_request(request, true) else { return Ok(None) };
        collect(response.await?).await.map(Some)
    }

    /// Opens a stream whose body is sent piece by piece.
    pub async fn open(
        &self,
        request: Request<()>,
    ) -> Result<(h2::client::ResponseFuture, SendStream<Bytes>), h2::Error> {
        self.sender.clone().ready().await?.send_request(request, false)
    }

    /// Whether the server has ended the connection, or said that it will (GOAWAY).
    pub async fn going_away(&self) -> bool {
        self.driver.is_finished() || self.sender.clone().ready().await.is_err()
    }

    /// Waits for the end of the connection.
    pub async fn ended(self) -> Result<(), h2::Error> {
        drop(self.sender);
        self.driver.await.expect("the driver does not panic")
    }
}

/// The whole of an answer.
pub async fn collect(response: http::Response<RecvStream>) -> Result<Response, h2::Error> {
    let (head, mut body) = response.into_parts();
    let mut content = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        content.extend_from_slice(&piece);
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    Ok(Response { status: head.status.as_u16(), headers: head.headers, body: content, trailers })
}
