//! HTTP/2 frame by frame, for what no library sends: RFC 9113 and, for header blocks, the literal form of RFC 7541
//! without Huffman coding and without the dynamic table.

use crate::raw::Wire;
use std::io::{Error, ErrorKind, Result};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const NO_ERROR: u32 = 0;
pub const PROTOCOL_ERROR: u32 = 1;
pub const ENHANCE_YOUR_CALM: u32 = 11;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Frame {
        Frame { kind, flags, stream, payload: payload.into() }
    }

    /// HEADERS with END_HEADERS and END_STREAM.
    pub fn request(stream: u32, fields: &[(&str, &str)]) -> Frame {
        Frame::new(HEADERS, END_HEADERS | END_STREAM, stream, block(fields))
    }

    /// The error code of RST_STREAM or GOAWAY.
    pub fn error_code(&self) -> Option<u32> {
        let at = match self.kind {
            RST_STREAM => 0,
            GOAWAY => 4,
            _ => return None,
        };
        Some(u32::from_be_bytes(self.payload.get(at..at + 4)?.try_into().ok()?))
    }

    fn encode(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).expect("a frame's length").to_be_bytes();
        let mut bytes = Vec::with_capacity(9 + self.payload.len());
        bytes.extend_from_slice(&length[1..]);
        bytes.extend_from_slice(&[self.kind, self.flags]);
        bytes.extend_from_slice(&self.stream.to_be_bytes());
        bytes.extend_from_slice(&self.payload);
        bytes
    }
}

/// A header block of literal fields, as they are: nothing is checked or lower-cased.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0); // literal, not indexed, new name
        string(&mut bytes, name.as_bytes());
        string(&mut bytes, value.as_bytes());
    }
    bytes
}

fn string(into: &mut Vec<u8>, text: &[u8]) {
    // A length with a prefix of 7 bits (RFC 7541, section 5.1).
    if text.len() < 127 {
        into.push(text.len() as u8);
    } else {
        into.push(127);
        let mut rest = text.len() - 127;
        while rest >= 128 {
            into.push((rest % 128) as u8 | 128);
            rest /= 128;
        }
        into.push(rest as u8);
    }
    into.extend_from_slice(text);
}

pub struct Connection {
    stream: Box<dyn Wire>,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// HEADERS came on the stream. Its status is in a compressed block that this client does not read.
    Answered,
    Reset(u32),
    GoAway(u32),
    /// The connection ended without a word.
    Ended,
}

impl Connection {
    pub async fn tls(port: u16, name: &str, config: Arc<rustls::ClientConfig>) -> Result<Connection> {
        Connection::begin(Box::new(crate::certificate::connect(port, name, config).await?)).await
    }

    pub async fn clear(port: u16) -> Result<Connection> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Connection::begin(Box::new(stream)).await
    }

    async fn begin(stream: Box<dyn Wire>) -> Result<Connection> {
        let mut connection = Connection { stream };
        connection.stream.write_all(PREFACE).await?;
        connection.send(Frame::new(SETTINGS, 0, 0, [])).await?;
        Ok(connection)
    }

    pub async fn send(&mut self, frame: Frame) -> Result<()> {
        self.stream.write_all(&frame.encode()).await?;
        self.stream.flush().await
    }

    /// The next frame, or none at the end of the connection. SETTINGS and PING are acknowledged on the way.
    pub async fn next(&mut self) -> Result<Option<Frame>> {
        tokio::time::timeout(PATIENCE, self.read())
            .await
            .map_err(|_| Error::new(ErrorKind::TimedOut, "no frame in time"))?
    }

    async fn read(&mut self) -> Result<Option<Frame>> {
        let mut head = [0; 9];
        match self.stream.read_exact(&mut head).await {
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => return Ok(None),
            Err(e) => return Err(e),
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).await?;
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        let frame = Frame { kind: head[3], flags: head[4], stream, payload };
        if frame.flags & ACK == 0 && (frame.kind == SETTINGS || frame.kind == PING) {
            let payload = if frame.kind == PING { frame.payload.clone() } else { Vec::new() };
            // The server may have closed its side already; what it sent is still to be read.
            let _ = self.send(Frame::new(frame.kind, ACK, 0, payload)).await;
        }
        Ok(Some(frame))
    }

    /// Reads until it is plain what became of `stream`.
    pub async fn outcome(&mut self, stream: u32) -> Result<Outcome> {
        loop {
            match self.next().await? {
                None => return Ok(Outcome::Ended),
                Some(f) if f.kind == HEADERS && f.stream == stream => return Ok(Outcome::Answered),
                Some(f) if f.kind == RST_STREAM && f.stream == stream => {
                    return Ok(Outcome::Reset(f.error_code().unwrap_or(NO_ERROR)));
                }
                Some(f) if f.kind == GOAWAY => return Ok(Outcome::GoAway(f.error_code().unwrap_or(NO_ERROR))),
                Some(_) => {}
            }
        }
    }
}
