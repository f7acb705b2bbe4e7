//! The one normal form of a request's path: computed once, used by routing, policy, plugins and upstream alike.
//!
//! Two spellings that RFC 3986 (6.2.2) calls the same become one, in this order:
//!
//! 1. what no path may hold is refused: raw controls, spaces and non-ASCII bytes, a fragment, `%` without two hex
//!    digits, `%00`;
//! 2. escapes of unreserved characters are decoded, all others get upper-case digits; characters that a URI may not
//!    hold raw, but that browsers send (`"<>[]^{|}` and the backtick), are escaped;
//! 3. `%2F` and `%5C` follow [`PathPolicy::escaped_slashes`];
//! 4. a raw backslash is a slash;
//! 5. dot segments are removed (RFC 3986, 5.2.4), never above the root;
//! 6. runs of slashes become one, unless the policy keeps them.
//!
//! Nothing is decoded twice: `%252F` stays what it is. The query is not looked at, beyond [`check_query`]. What is
//! normal already (nearly every request) is borrowed, after one pass over its bytes.

use crate::Reason;
use crate::config::{EscapedSlashes, PathPolicy};
use std::borrow::Cow;
use thiserror::Error;

/// A path in normal form: ASCII, begins with `/`, borrowed where the request's own bytes were normal.
pub type Normalized<'p> = Cow<'p, str>;

/// Why a path has no normal form, or is not to be served under it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PathError {
    #[error("path does not begin with `/`")]
    NotAbsolute,
    #[error("path has a `%` at byte {at} that two hexadecimal digits do not follow")]
    InvalidPercent { at: usize },
    #[error("path has `%00` at byte {at}")]
    Nul { at: usize },
    #[error("path has the raw byte 0x{byte:02x} at {at}; controls, spaces, `?` and non-ASCII must be percent-encoded")]
    Character { byte: u8, at: usize },
    #[error("path has a fragment at byte {at}; `#` must be percent-encoded")]
    Fragment { at: usize },
    #[error("path has an encoded slash or backslash, which this listener rejects")]
    EscapedSlash,
    /// `..` beside an encoded slash that is kept: a backend that decodes it would leave the prefix that was routed by.
    #[error("path has a `..` segment hidden behind an encoded slash")]
    HiddenDotSegment,
    /// Not a fault of the client's: it is sent to the path's only form (307), or refused where it cannot follow (gRPC).
    #[error("path has an encoded slash; its decoded form is `{location}`")]
    Redirect { location: String },
}

impl PathError {
    /// The answer that goes with it.
    pub const fn reason(&self) -> Reason {
        match self {
            PathError::EscapedSlash => Reason::EscapedSlash,
            PathError::Redirect { .. } => Reason::PathNormalized,
            _ => Reason::InvalidTarget,
        }
    }
}

/// What a byte means in a path.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Class {
    /// `pchar` of RFC 3986, less `%` and `.`.
    Plain,
    Dot,
    Slash,
    Percent,
    Backslash,
    /// Not of the URI alphabet, but sent raw by browsers.
    Encode,
    Forbidden,
}

const CLASS: [Class; 256] = {
    let mut table = [Class::Forbidden; 256];
    let mut byte = 0u8;
    loop {
        table[byte as usize] = match byte {
            b'.' => Class::Dot,
            b'/' => Class::Slash,
            b'%' => Class::Percent,
            b'\\' => Class::Backslash,
            b'"' | b'<' | b'>' | b'[' | b']' | b'^' | b'`' | b'{' | b'|' | b'}' => Class::Encode,
            b'!' | b'$' | b'&'..=b',' | b';' | b'=' | b':' | b'@' => Class::Plain,
            _ if is_unreserved(byte) => Class::Plain,
            _ => Class::Forbidden,
        };
        if byte == u8::MAX {
            break table;
        }
        byte += 1;
    }
};

/// RFC 3986, 2.3: what is never escaped in a normal form.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// The normal form of `raw`, the path of a request target without its query. An empty path is `/` (RFC 3986, 6.2.3).
///
/// # Errors
/// See [`PathError`]; each names the answer to give by [`PathError::reason`].
pub fn normalize(raw: &[u8], policy: PathPolicy) -> Result<Normalized<'_>, PathError> {
    match raw.first() {
        None => return Ok(Cow::Borrowed("/")),
        Some(b'/' | b'\\') => {}
        Some(_) => return Err(PathError::NotAbsolute),
    }
    if is_plain(raw) || is_normal(raw, policy) {
        return match std::str::from_utf8(raw) {
            Ok(path) => Ok(Cow::Borrowed(path)),
            Err(error) => Err(forbidden(raw, error.valid_up_to())),
        };
    }
    let Decoded { mut bytes, escaped_slash } = decode(raw, policy.escaped_slashes)?;
    if escaped_slash && policy.escaped_slashes == EscapedSlashes::Reject {
        return Err(PathError::EscapedSlash);
    }
    remove_dot_segments(&mut bytes);
    if !policy.keep_double_slashes {
        merge_slashes(&mut bytes);
    }
    if escaped_slash && policy.escaped_slashes == EscapedSlashes::Keep && hides_dot_segment(&bytes) {
        return Err(PathError::HiddenDotSegment);
    }
    if escaped_slash && policy.escaped_slashes == EscapedSlashes::DecodeAndRedirect {
        // A location that begins with `//` would name another host.
        let slashes = bytes.iter().take_while(|b| **b == b'/').count();
        bytes.drain(1..slashes);
        return Err(PathError::Redirect { location: ascii(bytes, raw)? });
    }
    Ok(Cow::Owned(ascii(bytes, raw)?))
}

/// The normal form of a path that a route asks for. Configuration is written by people: spaces, `?` and letters
/// beyond ASCII are escaped here, where a request would be refused. Escaped slashes stay data. For a prefix, strip
/// final slashes afterwards.
///
/// # Errors
/// [`PathError::NotAbsolute`], [`PathError::InvalidPercent`], [`PathError::Nul`], [`PathError::HiddenDotSegment`].
pub fn normalize_configured(text: &str) -> Result<String, PathError> {
    let mut escaped = Vec::with_capacity(text.len());
    for byte in text.bytes() {
        match CLASS[byte as usize] {
            Class::Forbidden => push_escape(&mut escaped, byte),
            _ => escaped.push(byte),
        }
    }
    if escaped.is_empty() {
        return Err(PathError::NotAbsolute);
    }
    normalize(&escaped, PathPolicy::default()).map(Cow::into_owned)
}

/// Refuses what no query may hold raw: controls, spaces, non-ASCII bytes, and a fragment. It is passed on as it came.
///
/// # Errors
/// [`PathError::Character`] and [`PathError::Fragment`], with the place in `query`.
pub fn check_query(query: &[u8]) -> Result<(), PathError> {
    match query.iter().position(|b| !matches!(b, 0x21..=0x7e) || *b == b'#') {
        None => Ok(()),
        Some(at) => Err(forbidden(query, at)),
    }
}

fn forbidden(raw: &[u8], at: usize) -> PathError {
    match raw.get(at).copied().unwrap_or_default() {
        b'#' => PathError::Fragment { at },
        byte => PathError::Character { byte, at },
    }
}

fn ascii(bytes: Vec<u8>, raw: &[u8]) -> Result<String, PathError> {
    String::from_utf8(bytes).map_err(|error| forbidden(raw, error.utf8_error().valid_up_to()))
}

/// Whether there is nothing in `raw` that could need a change: no escape, no byte that is not plain, no slash or dot behind
/// a slash. Without a branch in the loop, as nearly every path is of this kind.
fn is_plain(raw: &[u8]) -> bool {
    const SLASH: u8 = 1;
    const BEHIND_SLASH: u8 = SLASH << 1;
    const OTHER: u8 = 4;
    const MARKS: [u8; 256] = {
        let mut marks = [0; 256];
        let mut byte = 0;
        while byte < marks.len() {
            marks[byte] = match CLASS[byte] {
                Class::Plain => 0,
                Class::Dot => BEHIND_SLASH,
                Class::Slash => SLASH | BEHIND_SLASH,
                Class::Percent | Class::Backslash | Class::Encode | Class::Forbidden => OTHER,
            };
            byte += 1;
        }
        marks
    };
    let (found, _) = raw.iter().fold((0, 0), |(found, before), byte| {
        let mark = MARKS[usize::from(*byte)];
        (found | (mark & OTHER) | (mark & (before << 1) & BEHIND_SLASH), mark)
    });
    found == 0
}

/// Whether [`normalize`] would change nothing, by one pass. `false` may also mean that it would refuse.
fn is_normal(raw: &[u8], policy: PathPolicy) -> bool {
    let mut after_slash = false;
    let mut kept_slash = false;
    let mut at = 0;
    while let Some(&byte) = raw.get(at) {
        match CLASS[byte as usize] {
            Class::Plain => after_slash = false,
            Class::Slash => {
                if after_slash && !policy.keep_double_slashes {
                    return false;
                }
                after_slash = true;
            }
            Class::Dot => {
                if after_slash {
                    let rest = raw.get(at + 1..).unwrap_or_default();
                    if matches!(rest.strip_prefix(b".").unwrap_or(rest), [] | [b'/', ..]) {
                        return false;
                    }
                }
                after_slash = false;
            }
            Class::Percent => {
                let Some(value) = escaped(raw, at) else { return false };
                let lower = |i: usize| raw.get(i).is_some_and(u8::is_ascii_lowercase);
                if value == 0 || is_unreserved(value) || lower(at + 1) || lower(at + 2) {
                    return false;
                }
                if is_slash(value) {
                    if policy.escaped_slashes != EscapedSlashes::Keep {
                        return false;
                    }
                    kept_slash = true;
                }
                after_slash = false;
                at += 2;
            }
            Class::Backslash | Class::Encode | Class::Forbidden => return false,
        }
        at += 1;
    }
    !(kept_slash && hides_dot_segment(raw))
}

/// The byte that the escape at `at` stands for.
fn escaped(raw: &[u8], at: usize) -> Option<u8> {
    let digit = |i: usize| raw.get(i).and_then(|b| char::from(*b).to_digit(16));
    u8::try_from(digit(at + 1)? << 4 | digit(at + 2)?).ok()
}

fn is_slash(byte: u8) -> bool {
    matches!(byte, b'/' | b'\\')
}

fn push_escape(out: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    out.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
}

struct Decoded {
    bytes: Vec<u8>,
    /// `%2F` or `%5C` stood in it.
    escaped_slash: bool,
}

/// Steps 1 to 4.
fn decode(raw: &[u8], slashes: EscapedSlashes) -> Result<Decoded, PathError> {
    let mut bytes = Vec::with_capacity(raw.len() + 8);
    let mut escaped_slash = false;
    let mut at = 0;
    while let Some(&byte) = raw.get(at) {
        match CLASS[byte as usize] {
            Class::Plain | Class::Dot | Class::Slash => bytes.push(byte),
            Class::Backslash => bytes.push(b'/'),
            Class::Encode => push_escape(&mut bytes, byte),
            Class::Forbidden => return Err(forbidden(raw, at)),
            Class::Percent => {
                match escaped(raw, at).ok_or(PathError::InvalidPercent { at })? {
                    0 => return Err(PathError::Nul { at }),
                    value if is_unreserved(value) => bytes.push(value),
                    value if is_slash(value) => {
                        escaped_slash = true;
                        match slashes {
                            EscapedSlashes::DecodeAndRedirect => bytes.push(b'/'),
                            EscapedSlashes::Keep | EscapedSlashes::Reject => push_escape(&mut bytes, value),
                        }
                    }
                    value => push_escape(&mut bytes, value),
                }
                at += 2;
            }
        }
        at += 1;
    }
    Ok(Decoded { bytes, escaped_slash })
}

/// Step 5, in place. `bytes` begins with a slash, and so does each segment here.
fn remove_dot_segments(bytes: &mut Vec<u8>) {
    let (mut out, mut at) = (0, 0);
    while at < bytes.len() {
        let end = bytes[at + 1..].iter().position(|b| *b == b'/').map_or(bytes.len(), |n| at + 1 + n);
        let dots = match &bytes[at + 1..end] {
            b"." => true,
            b".." => {
                out = bytes[..out].iter().rposition(|b| *b == b'/').unwrap_or(0);
                true
            }
            _ => {
                bytes.copy_within(at..end, out);
                out += end - at;
                false
            }
        };
        // `/a/.` and `/a/b/..` are the folder `/a/`.
        if dots && end == bytes.len() {
            bytes[out] = b'/';
            out += 1;
        }
        at = end;
    }
    bytes.truncate(out);
}

/// Step 6, in place.
fn merge_slashes(bytes: &mut Vec<u8>) {
    bytes.dedup_by(|b, before| *b == b'/' && *before == b'/');
}

/// Whether a `..` would stand alone between slashes if `%2F` and `%5C` were decoded.
fn hides_dot_segment(path: &[u8]) -> bool {
    let slash_before = |head: &[u8]| head.ends_with(b"/") || head.ends_with(b"%2F") || head.ends_with(b"%5C");
    let slash_after = |tail: &[u8]| matches!(tail, [] | [b'/', ..] | [b'%', b'2', b'F', ..] | [b'%', b'5', b'C', ..]);
    path.windows(2)
        .enumerate()
        .any(|(at, pair)| pair == b".." && slash_before(&path[..at]) && slash_after(&path[at + 2..]))
}

#[cfg(test)]
mod tests;
