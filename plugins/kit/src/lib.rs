//! What several of the plugins that ship need. Types of configuration refuse what they can't hold, and say in their schema
//! what that is, so that the gateway names the field.

pub mod address;
pub mod cookie;
mod duration;
mod header_name;
pub mod json;
pub mod origin;
pub mod pattern;
mod quantity;
pub mod query;

pub use duration::Duration;
pub use header_name::HeaderName;
pub use quantity::Bytes;

use sha2::{Digest, Sha256};

/// Whether two secrets are the same. Their digests are compared, so how long it takes says nothing about either.
pub fn same_secret(one: &[u8], other: &[u8]) -> bool {
    Sha256::digest(one) == Sha256::digest(other)
}

/// In lower case.
pub fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

/// Whether a text can be the value of a header (RFC 9110, section 5.5).
pub fn is_header_value(text: &str) -> bool {
    !text.bytes().any(|byte| (byte < b' ' && byte != b'\t') || byte == 127)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_in_hex_have_two_digits_each() {
        assert_eq!(hex(&[0, 0x1f, 0xff]), "001fff");
    }

    #[test]
    fn secrets_are_the_same_only_as_a_whole() {
        assert!(same_secret(b"a", b"a"));
        assert!(!same_secret(b"a", b"ab") && !same_secret(b"", b"a"));
    }

    #[test]
    fn a_header_value_has_no_control_characters_but_tabs() {
        assert!(is_header_value("a\tb é"));
        assert!(!is_header_value("a\r\nb: c") && !is_header_value("\u{7f}"));
    }
}
