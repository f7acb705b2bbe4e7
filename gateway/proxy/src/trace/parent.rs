//! `traceparent` (W3C Trace Context, section 3.2), read and written.

use ::http::HeaderValue;
use bytes::BytesMut;
use std::cell::RefCell;

/// Bytes of version 00.
const LENGTH: usize = 55;
/// Values that are cut from one piece of memory.
const VALUES: usize = 64;
/// The only flag of version 00.
const SAMPLED: u8 = 1;

/// A span, as its children know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceParent {
    /// Never zero.
    pub(crate) trace: u128,
    /// Never zero.
    pub(crate) span: u64,
    pub(crate) flags: u8,
}

impl TraceParent {
    /// The first span of a new trace. Ids name spans and guard nothing, so a fast generator is enough.
    pub(crate) fn root() -> Self {
        TraceParent { trace: fastrand::u128(1..), span: new_span(), flags: 0 }
    }

    /// Another span of the same trace.
    pub(crate) fn child(self) -> Self {
        TraceParent { span: new_span(), ..self }
    }

    pub(crate) fn with_sampled(self, sampled: bool) -> Self {
        TraceParent { flags: (self.flags & !SAMPLED) | u8::from(sampled), ..self }
    }

    pub(crate) fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// A valid value of version 00 or a later one.
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        let lower_hex = |part: &[u8]| part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let mut parts = value.split(|b| *b == b'-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let more = parts.next().is_some();
        let shaped = version.len() == 2 && trace.len() == 32 && span.len() == 16 && flags.len() == 2;
        let valid = shaped
            && [version, trace, span, flags].into_iter().all(lower_hex)
            && version != b"ff"
            && !(version == b"00" && more);
        if !valid {
            return None;
        }
        let text = |part| std::str::from_utf8(part).ok();
        let parent = TraceParent {
            trace: u128::from_str_radix(text(trace)?, 16).ok()?,
            span: u64::from_str_radix(text(span)?, 16).ok()?,
            flags: u8::from_str_radix(text(flags)?, 16).ok()?,
        };
        (parent.trace != 0 && parent.span != 0).then_some(parent)
    }

    /// As version 00. Of the flags only what this version knows is passed on (section 4.3).
    pub(crate) fn value(self) -> HeaderValue {
        thread_local! {
            /// Values are cut from it, so that writing one is no allocation of its own.
            static MEMORY: RefCell<BytesMut> = RefCell::new(BytesMut::new());
        }
        let mut text = [0u8; LENGTH];
        text[..3].copy_from_slice(b"00-");
        hex_into(&mut text[3..35], &self.trace.to_be_bytes());
        text[35] = b'-';
        hex_into(&mut text[36..52], &self.span.to_be_bytes());
        text[52] = b'-';
        hex_into(&mut text[53..], &[self.flags & SAMPLED]);
        let bytes = MEMORY.with_borrow_mut(|memory| {
            if memory.capacity() < LENGTH {
                memory.reserve(VALUES * LENGTH);
            }
            memory.extend_from_slice(&text);
            memory.split().freeze()
        });
        // Digits and hyphens are always a value.
        HeaderValue::from_maybe_shared(bytes).unwrap_or(HeaderValue::from_static(""))
    }
}

fn new_span() -> u64 {
    fastrand::u64(1..)
}

fn hex_into(to: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in to.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let parent =
            TraceParent { trace: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, span: 0xb7ad_6b71_6920_3331, flags: 1 };
        let value = parent.value();
        assert_eq!(value, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        assert_eq!(TraceParent::parse(value.as_bytes()), Some(parent));
        assert_eq!(parent.with_sampled(false).value().as_bytes()[53..], *b"00");
    }

    #[test]
    fn an_invalid_value_is_as_none() {
        for invalid in [
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "junk",
            "",
        ] {
            assert_eq!(TraceParent::parse(invalid.as_bytes()), None, "{invalid}");
        }
        let later = b"cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-comes";
        assert!(TraceParent::parse(later).is_some_and(TraceParent::is_sampled), "a later version may say more");
    }
}
