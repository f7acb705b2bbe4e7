//! A connection after its 101: bytes in both directions that are a WebSocket (RFC 6455), until one side ends it, it was
//! idle for too long, has lived for as long as it may, or the port closes.
//!
//! In the last three cases the client is told with a Close frame, status 1001 (going away), but only between two frames
//! of the backend: a frame in the middle of another would be data to the client.

use super::metrics::DownstreamMetrics;
use super::open_port::{OpenPort, Phase};
use bytes::BytesMut;
use sluice_model::config::Edge;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::time::Sleep;

/// FIN and opcode 8, unmasked, two bytes: 1001 (RFC 6455, sections 5.5.1 and 7.4.1).
const GOING_AWAY: [u8; 4] = [0x88, 0x02, 0x03, 0xe9];

pub(super) struct Tunnel {
    frames: Frames,
    goodbye: bool,
    ends: bool,
    closing: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
    timer: Pin<Box<Sleep>>,
    last_byte: Instant,
    idle: Duration,
    until: Option<Instant>,
    metrics: DownstreamMetrics,
    /// The rest of the response's head is still to come.
    head: Option<HeadEnd>,
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel").field("frames", &self.frames).field("ends", &self.ends).finish_non_exhaustive()
    }
}

impl Tunnel {
    /// `head`: what was written of the 101 so far.
    pub(super) fn new(port: &Arc<OpenPort>, edge: &Edge, head: &[u8]) -> Self {
        let mut end = HeadEnd::default();
        let mut frames = Frames::default();
        let behind = end.skip(head);
        if let Some(behind) = behind {
            frames.pass(head.get(behind..).unwrap_or_default());
        }
        let now = Instant::now();
        let idle = edge.timeouts.stream_idle;
        let until = edge.timeouts.tunnel_max.map(|max| now + max);
        let first = until.map_or(idle, |until| idle.min(until - now));
        Tunnel {
            frames,
            goodbye: false,
            ends: false,
            closing: Box::pin(port.reaches(Phase::Closing)),
            timer: Box::pin(tokio::time::sleep(first)),
            last_byte: now,
            idle,
            until,
            metrics: port.metrics.all.clone(),
            head: behind.is_none().then_some(end),
        }
    }

    /// Bytes went in either direction.
    pub(super) fn active(&mut self) {
        self.last_byte = Instant::now();
    }

    /// Bytes of the backend were taken for the client.
    pub(super) fn sent(&mut self, bytes: &[u8]) {
        self.active();
        let frames = match self.head.as_mut().map(|head| head.skip(bytes)) {
            None => bytes,
            Some(Some(rest)) => {
                self.head = None;
                bytes.get(rest..).unwrap_or_default()
            }
            Some(None) => return,
        };
        self.frames.pass(frames);
    }

    /// Ready once the tunnel has to end, and the client can be told.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.ends {
            self.ends = self.closing.as_mut().poll(cx).is_ready() || self.overdue(cx);
        }
        if self.goodbye || self.due() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// The tunnel has to end, and this is a moment to say so.
    pub(super) fn due(&self) -> bool {
        self.ends && !self.goodbye && self.frames.between() && self.head.is_none()
    }

    fn overdue(&mut self, cx: &mut Context<'_>) -> bool {
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if self.until.is_some_and(|until| now >= until) {
                self.metrics.timeout("tunnel_max");
                return true;
            }
            let idle_until = self.last_byte + self.idle;
            if now >= idle_until {
                self.metrics.timeout("stream_idle");
                return true;
            }
            let next = self.until.map_or(idle_until, |until| until.min(idle_until));
            self.timer.as_mut().reset(next.into());
        }
        false
    }

    pub(super) fn said_goodbye(&self) -> bool {
        self.goodbye
    }

    pub(super) fn say_goodbye(&mut self, out: &mut BytesMut) {
        if !std::mem::replace(&mut self.goodbye, true) {
            out.extend_from_slice(&GOING_AWAY);
        }
    }
}

/// Finds the empty line that ends a head which is written in parts.
#[derive(Debug, Default)]
struct HeadEnd {
    matched: usize,
}

impl HeadEnd {
    /// Where the bytes behind the head begin.
    fn skip(&mut self, bytes: &[u8]) -> Option<usize> {
        for (at, byte) in bytes.iter().enumerate() {
            self.matched = match (self.matched, byte) {
                (0 | 2, b'\r') => self.matched + 1,
                (1 | 3, b'\n') => self.matched + 1,
                (_, b'\r') => 1,
                _ => 0,
            };
            if self.matched == 4 {
                return Some(at + 1);
            }
        }
        None
    }
}

/// Where the backend's frames begin and end (RFC 6455, section 5.2).
#[derive(Clone, Copy, Debug, Default)]
struct Frames {
    /// Of a header: the bytes that were seen so far.
    header: [u8; 14],
    seen: usize,
    /// Of a payload: the bytes that are still to come.
    payload: u64,
}

impl Frames {
    fn between(self) -> bool {
        self.seen == 0 && self.payload == 0
    }

    fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.payload > 0 {
                let skipped = usize::try_from(self.payload).unwrap_or(usize::MAX).min(bytes.len());
                self.payload -= skipped as u64;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            if let Some(place) = self.header.get_mut(self.seen) {
                *place = *first;
            }
            self.seen += 1;
            bytes = rest;
            if let Some(payload) = self.complete() {
                self.seen = 0;
                self.payload = payload;
            }
        }
    }

    /// The length of the payload, once the header is whole.
    fn complete(&self) -> Option<u64> {
        let [_, second, rest @ ..] = &self.header;
        if self.seen < 2 {
            return None;
        }
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        let (extended, length) = match second & 0x7f {
            126 => (2, u64::from(u16::from_be_bytes([rest[0], rest[1]]))),
            127 => (8, u64::from_be_bytes([rest[0], rest[1], rest[2], rest[3], rest[4], rest[5], rest[6], rest[7]])),
            short => (0, u64::from(short)),
        };
        (self.seen == 2 + extended + mask).then_some(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_6455_5_2_a_boundary_is_known_for_every_form_of_length() {
        let frames: [(&[u8], usize); 4] = [
            (&[0x81, 0x05], 5),
            (&[0x82, 126, 0x01, 0x00], 256),
            (&[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0], 65536),
            (&[0x89, 0], 0),
        ];
        for (header, payload) in frames {
            let mut bytes = header.to_vec();
            bytes.resize(header.len() + payload, 0x81);
            let mut whole = Frames::default();
            whole.pass(&bytes);
            assert!(whole.between());
            let mut piecewise = Frames::default();
            for (at, byte) in bytes.iter().enumerate() {
                piecewise.pass(&[*byte]);
                assert_eq!(piecewise.between(), at + 1 == bytes.len());
            }
        }
    }

    #[test]
    fn the_head_of_the_101_is_not_taken_for_frames() {
        let mut end = HeadEnd::default();
        assert_eq!(end.skip(b"HTTP/1.1 101 x\r\nA: b\r\n\r"), None);
        assert_eq!(end.skip(b"\n\x81"), Some(1));
    }
}
