//! gRPC's framing over [`crate::http2`], without generated code: messages are bytes.

use crate::http2::Connection;
use anyhow::{Context, Result, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use http::HeaderMap;

/// A call in which both sides stream.
pub struct Call {
    send: SendStream<Bytes>,
    receive: Receive,
}

enum Receive {
    Waiting(h2::client::ResponseFuture),
    Open { headers: HeaderMap, body: RecvStream, buffer: BytesMut },
}

/// One message behind its flag and length.
pub fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).expect("a small message"));
    framed.put_slice(message);
    framed.freeze()
}

impl Call {
    pub async fn open(connection: &Connection, authority: &str, path: &str) -> Result<Call> {
        Call::open_with(connection, authority, path, &[]).await
    }

    /// With metadata: names in lower case, and values.
    pub async fn open_with(
        connection: &Connection,
        authority: &str,
        path: &str,
        metadata: &[(&str, &str)],
    ) -> Result<Call> {
        let mut request = connection
            .request("POST", authority, path)
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in metadata {
            request = request.header(*name, *value);
        }
        let request = request.body(())?;
        let (response, send) = connection.open(request).await?;
        Ok(Call { send, receive: Receive::Waiting(response) })
    }

    /// Sends one message and gives the next one that comes back.
    pub async fn exchange(&mut self, message: &[u8]) -> Result<Bytes> {
        self.send.send_data(frame(message), false)?;
        self.next().await?.context("the stream ended")
    }

    /// The response's head; waits for it.
    pub async fn headers(&mut self) -> Result<&HeaderMap> {
        if let Receive::Waiting(response) = &mut self.receive {
            let (head, body) = response.await?.into_parts();
            ensure!(head.status == 200, "status {}", head.status);
            self.receive = Receive::Open { headers: head.headers, body, buffer: BytesMut::new() };
        }
        match &self.receive {
            Receive::Open { headers, .. } => Ok(headers),
            Receive::Waiting(_) => unreachable!("just opened"),
        }
    }

    /// The next message, or none at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        self.headers().await?;
        let Receive::Open { body, buffer, .. } = &mut self.receive else { unreachable!("just opened") };
        loop {
            if buffer.len() >= 5 {
                let length = u32::from_be_bytes([buffer[1], buffer[2], buffer[3], buffer[4]]) as usize;
                if buffer.len() >= 5 + length {
                    buffer.advance(5);
                    return Ok(Some(buffer.split_to(length).freeze()));
                }
            }
            match body.data().await {
                Some(piece) => {
                    let piece = piece?;
                    body.flow_control().release_capacity(piece.len())?;
                    buffer.extend_from_slice(&piece);
                }
                None => return Ok(None),
            }
        }
    }

    /// Ends our side, reads theirs to the end, and gives the trailers.
    pub async fn finish(mut self) -> Result<HeaderMap> {
        self.send.send_data(Bytes::new(), true)?;
        while self.next().await?.is_some() {}
        let Receive::Open { body, .. } = &mut self.receive else { unreachable!("read to its end") };
        body.trailers().await?.context("no trailers")
    }
}
