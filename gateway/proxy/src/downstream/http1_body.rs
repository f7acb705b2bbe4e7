//! Where a request's body ends on the wire, so that the stream can tell it from the request behind it (RFC 9112,
//! sections 6 and 7.1). Counts and skips; decoding and judging chunks is the engine's work.

use super::http1_head::BodyLength;

/// Digits of a chunk size: what 64 bits hold.
const SIZE_DIGITS: u8 = 16;
/// Bytes of extensions on one chunk.
const EXTENSION_BYTES: u16 = 4 * 1024;
/// Bytes of the trailer section.
const TRAILER_BYTES: u32 = 16 * 1024;

/// A body whose framing breaks the grammar: where its end is can't be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BrokenFraming;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked(Chunked),
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunked {
    Size {
        size: u64,
        digits: u8,
    },
    Extension {
        size: u64,
        seen: u16,
    },
    SizeLf {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// At the start of a line of the trailer section.
    Trailer {
        seen: u32,
    },
    TrailerLine {
        seen: u32,
    },
    TrailerLf {
        seen: u32,
    },
    LastLf,
}

impl From<BodyLength> for Framing {
    fn from(length: BodyLength) -> Self {
        match length {
            BodyLength::None => Framing::Done,
            BodyLength::Length(n) => Framing::Length(n),
            BodyLength::Chunked => Framing::Chunked(Chunked::Size { size: 0, digits: 0 }),
        }
    }
}

impl Framing {
    pub(super) fn is_done(self) -> bool {
        self == Framing::Done
    }

    /// Takes the bytes that came next, and tells how many of them still belong to this body.
    pub(super) fn consume(&mut self, bytes: &[u8]) -> Result<usize, BrokenFraming> {
        match self {
            Framing::Done => Ok(0),
            Framing::Length(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= taken as u64;
                if *left == 0 {
                    *self = Framing::Done;
                }
                Ok(taken)
            }
            Framing::Chunked(state) => {
                let mut at = 0;
                while let Some(byte) = bytes.get(at) {
                    if let Chunked::Data { left } = state {
                        let skipped = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len() - at);
                        *left -= skipped as u64;
                        at += skipped;
                        if *left == 0 {
                            *state = Chunked::DataCr;
                        }
                        continue;
                    }
                    at += 1;
                    match state.step(*byte)? {
                        Some(next) => *state = next,
                        None => {
                            *self = Framing::Done;
                            return Ok(at);
                        }
                    }
                }
                Ok(at)
            }
        }
    }
}

impl Chunked {
    /// The state after one byte of framing; `None` after the last one of the body.
    fn step(self, byte: u8) -> Result<Option<Chunked>, BrokenFraming> {
        let next = match (self, byte) {
            (Chunked::Size { size, digits }, digit) if digit.is_ascii_hexdigit() && digits < SIZE_DIGITS => {
                let value = match digit {
                    b'0'..=b'9' => digit - b'0',
                    _ => (digit | 0x20) - b'a' + 10,
                };
                Chunked::Size { size: (size << 4) | u64::from(value), digits: digits + 1 }
            }
            (Chunked::Size { size, digits: 1.. }, b'\r') => Chunked::SizeLf { size },
            (Chunked::Size { size, digits: 1.. }, b';' | b' ' | b'\t') => Chunked::Extension { size, seen: 1 },
            (Chunked::Extension { size, .. }, b'\r') => Chunked::SizeLf { size },
            (Chunked::Extension { size, seen }, byte) if seen < EXTENSION_BYTES && is_field_byte(byte) => {
                Chunked::Extension { size, seen: seen + 1 }
            }
            (Chunked::SizeLf { size: 0 }, b'\n') => Chunked::Trailer { seen: 0 },
            (Chunked::SizeLf { size }, b'\n') => Chunked::Data { left: size },
            (Chunked::DataCr, b'\r') => Chunked::DataLf,
            (Chunked::DataLf, b'\n') => Chunked::Size { size: 0, digits: 0 },
            (Chunked::Trailer { .. }, b'\r') => Chunked::LastLf,
            (Chunked::TrailerLine { seen }, b'\r') => Chunked::TrailerLf { seen },
            (Chunked::Trailer { seen } | Chunked::TrailerLine { seen }, byte)
                if seen < TRAILER_BYTES && is_field_byte(byte) =>
            {
                Chunked::TrailerLine { seen: seen + 1 }
            }
            (Chunked::TrailerLf { seen }, b'\n') => Chunked::Trailer { seen },
            (Chunked::LastLf, b'\n') => return Ok(None),
            _ => return Err(BrokenFraming),
        };
        Ok(Some(next))
    }
}

/// What a field line may hold besides its end: no control characters but the tab.
fn is_field_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= 0x20 && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunked(bytes: &[u8]) -> Result<(usize, bool), BrokenFraming> {
        let mut framing = Framing::from(BodyLength::Chunked);
        let taken = framing.consume(bytes)?;
        Ok((taken, framing.is_done()))
    }

    #[test]
    fn a_length_ends_where_it_says_and_what_follows_is_left() {
        let mut framing = Framing::from(BodyLength::Length(5));
        assert_eq!(framing.consume(b"abc"), Ok(3));
        assert_eq!(framing.consume(b"deGET /"), Ok(2));
        assert!(framing.is_done());
        assert_eq!(framing.consume(b"GET /"), Ok(0));
    }

    #[test]
    fn rfc_9112_7_1_chunks_end_after_the_trailer_section_whatever_the_reads() {
        let body = b"4;a=b\r\nWiki\r\nA \r\npedia in\r\n\r\n0\r\nX: y\r\n\r\n";
        let mut with_next = body.to_vec();
        with_next.extend_from_slice(b"GET / HTTP/1.1\r\n");
        assert_eq!(chunked(&with_next), Ok((body.len(), true)));
        let mut framing = Framing::from(BodyLength::Chunked);
        for byte in body {
            assert!(!framing.is_done());
            assert_eq!(framing.consume(&[*byte]), Ok(1));
        }
        assert!(framing.is_done());
    }

    #[test]
    fn rfc_9112_7_1_framing_that_is_not_to_the_letter_is_broken() {
        for bytes in [
            b"\r\n".as_slice(),
            b"+4\r\nWiki",
            b"0x4\r\n",
            b" 4\r\n",
            b"4\nWiki",
            b"4\r\nWikiX",
            b"4\r\nWiki\n",
            b"4_0\r\n",
            b"11111111111111111\r\n",
            b"0\r\n\n",
            b"0\r\nX: y\n",
            b"4;\x01\r\n",
        ] {
            assert_eq!(chunked(bytes), Err(BrokenFraming), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let mut long = b"4;".to_vec();
        long.resize(usize::from(EXTENSION_BYTES) + 10, b'a');
        assert_eq!(chunked(&long), Err(BrokenFraming));
        let mut long = b"0\r\nX: ".to_vec();
        long.resize(TRAILER_BYTES as usize + 100, b'a');
        assert_eq!(chunked(&long), Err(BrokenFraming));
    }
}
