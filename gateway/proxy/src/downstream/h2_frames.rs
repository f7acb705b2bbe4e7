//! Frames of HTTP/2 as they pass, in whatever pieces (RFC 9113, section 4.1): headers, and the few bytes of payload that
//! tell of windows and resets. Nothing is copied or held back.

/// What comes first on a client's connection (RFC 9113, section 3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const DATA: u8 = 0x0;
pub(super) const HEADERS: u8 = 0x1;
pub(super) const RST_STREAM: u8 = 0x3;
pub(super) const SETTINGS: u8 = 0x4;
pub(super) const GOAWAY: u8 = 0x7;
pub(super) const WINDOW_UPDATE: u8 = 0x8;
pub(super) const CONTINUATION: u8 = 0x9;

/// DATA, HEADERS.
pub(super) const END_STREAM: u8 = 0x1;
/// SETTINGS, PING.
pub(super) const ACK: u8 = 0x1;
/// HEADERS, CONTINUATION.
pub(super) const END_HEADERS: u8 = 0x4;

/// SETTINGS_INITIAL_WINDOW_SIZE (RFC 9113, section 6.5.2).
const INITIAL_WINDOW_SIZE: u16 = 0x4;

const FRAME_HEADER: usize = 9;
/// Bytes of a header block that are looked at where it has no more.
const SHORT_BLOCK: u32 = 5;

/// GOAWAY that takes all streams, with NO_ERROR: a warning (RFC 9113, section 6.8).
pub(super) const WARNING: &[u8; 17] = b"\0\0\x08\x07\0\0\0\0\0\x7f\xff\xff\xff\0\0\0\0";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) length: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A frame's header is whole; its payload follows.
    Frame(FrameHeader),
    /// RST_STREAM.
    Reset { stream: u32, code: u32 },
    /// WINDOW_UPDATE; stream 0 is the connection.
    Window { stream: u32, increment: u32 },
    /// A peer's new SETTINGS_INITIAL_WINDOW_SIZE.
    InitialWindow(u32),
    /// A HEADERS frame of so few bytes: what it says, and how much of that is meant.
    ShortBlock { frame: FrameHeader, block: [u8; 6] },
    /// The last byte of a frame has passed.
    End(FrameHeader),
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub(super) struct FrameReader {
    /// Bytes before the first frame.
    skip: usize,
    header: [u8; FRAME_HEADER],
    seen: usize,
    current: Option<FrameHeader>,
    /// Of the current frame's payload.
    left: u32,
    /// The unit of payload that is being read: 4 bytes, or 6 for a setting.
    unit: [u8; 6],
    unit_seen: usize,
}

impl FrameReader {
    /// A reader of what follows `skip` bytes.
    pub(super) fn after(skip: usize) -> Self {
        FrameReader { skip, ..FrameReader::default() }
    }

    /// Whether the last frame has passed whole, and none has begun.
    pub(super) fn between_frames(&self) -> bool {
        self.current.is_none() && self.seen == 0 && self.skip == 0
    }

    pub(super) fn pass(&mut self, mut bytes: &[u8], mut on: impl FnMut(Event)) {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        bytes = bytes.get(skipped..).unwrap_or_default();
        while !bytes.is_empty() {
            let Some(frame) = self.current else {
                let wanted = (FRAME_HEADER - self.seen).min(bytes.len());
                let (now, rest) = bytes.split_at(wanted);
                if let Some(place) = self.header.get_mut(self.seen..self.seen + wanted) {
                    place.copy_from_slice(now);
                }
                self.seen += wanted;
                bytes = rest;
                if self.seen == FRAME_HEADER {
                    self.begin(&mut on);
                }
                continue;
            };
            let now = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            let (payload, rest) = bytes.split_at(now);
            self.payload(frame, payload, &mut on);
            self.left -= u32::try_from(now).unwrap_or(self.left);
            bytes = rest;
            self.finish(&mut on);
        }
    }

    fn begin(&mut self, on: &mut impl FnMut(Event)) {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = self.header;
        let frame = FrameHeader {
            kind,
            flags,
            stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]),
            length: u32::from_be_bytes([0, l0, l1, l2]),
        };
        self.seen = 0;
        self.unit_seen = 0;
        self.unit = [0; 6];
        self.left = frame.length;
        self.current = Some(frame);
        on(Event::Frame(frame));
        self.finish(on);
    }

    fn finish(&mut self, on: &mut impl FnMut(Event)) {
        if self.left == 0
            && let Some(frame) = self.current.take()
        {
            if frame.kind == HEADERS && frame.length <= SHORT_BLOCK {
                on(Event::ShortBlock { frame, block: self.unit });
            }
            on(Event::End(frame));
        }
    }

    fn payload(&mut self, frame: FrameHeader, payload: &[u8], on: &mut impl FnMut(Event)) {
        let unit = match frame.kind {
            RST_STREAM | WINDOW_UPDATE => 4,
            SETTINGS if frame.flags & ACK == 0 => 6,
            // Never filled: what there is of it is told at the frame's end.
            HEADERS if frame.length <= SHORT_BLOCK => 6,
            _ => return,
        };
        for byte in payload {
            if let Some(place) = self.unit.get_mut(self.unit_seen) {
                *place = *byte;
            }
            self.unit_seen += 1;
            if self.unit_seen < unit {
                continue;
            }
            self.unit_seen = 0;
            let [a, b, c, d, e, f] = self.unit;
            let stream = frame.stream;
            match frame.kind {
                RST_STREAM => on(Event::Reset { stream, code: u32::from_be_bytes([a, b, c, d]) }),
                WINDOW_UPDATE => on(Event::Window { stream, increment: u32::from_be_bytes([a & 0x7f, b, c, d]) }),
                _ if u16::from_be_bytes([a, b]) == INITIAL_WINDOW_SIZE => {
                    on(Event::InitialWindow(u32::from_be_bytes([c, d, e, f])));
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A frame as it is on the wire.
    pub(in super::super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags];
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn events(pieces: impl IntoIterator<Item = Vec<u8>>) -> Vec<Event> {
        let mut reader = FrameReader::after(PREFACE.len());
        let mut seen = Vec::new();
        for piece in pieces {
            reader.pass(&piece, |event| seen.push(event));
        }
        seen
    }

    #[test]
    fn rfc_9113_4_1_frames_are_the_same_in_whatever_pieces_they_come() {
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100, 0, 4, 0, 0, 0, 7]));
        bytes.extend(frame(SETTINGS, ACK, 0, &[]));
        bytes.extend(frame(WINDOW_UPDATE, 0, 0, &[0x80, 0, 1, 0]));
        bytes.extend(frame(HEADERS, END_HEADERS, 1, &[0x82; 20]));
        bytes.extend(frame(DATA, END_STREAM, 1, &[0; 300]));
        bytes.extend(frame(RST_STREAM, 0, 3, &[0, 0, 0, 8]));
        let whole = events([bytes.clone()]);
        for size in [1, 2, 5, 9, 13, 64] {
            assert_eq!(events(bytes.chunks(size).map(<[u8]>::to_vec)), whole, "{size}");
        }
        assert!(whole.contains(&Event::InitialWindow(7)));
        assert!(whole.contains(&Event::Window { stream: 0, increment: 256 }), "the reserved bit is left out");
        assert!(whole.contains(&Event::Reset { stream: 3, code: 8 }));
        let ends = whole.iter().filter(|event| matches!(event, Event::End(_))).count();
        assert_eq!(ends, 6);
    }
}
