//! Header fields that are not a message's own.

use http::{HeaderName, header};

/// Whether a field frames a message or belongs to one connection (RFC 9112; RFC 9110, section 7.6.1): whoever writes or removes
/// one can split messages.
pub fn is_framing(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CONNECTION
            | header::CONTENT_LENGTH
            | header::TE
            | header::TRAILER
            | header::TRANSFER_ENCODING
            | header::UPGRADE
    ) || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_a_connection_are_told_from_those_of_a_message() {
        for name in ["connection", "content-length", "keep-alive", "proxy-connection", "te", "transfer-encoding"] {
            assert!(is_framing(&HeaderName::from_static(name)), "{name}");
        }
        for name in ["host", "content-type", "te-x", "x-connection"] {
            assert!(!is_framing(&HeaderName::from_static(name)), "{name}");
        }
    }
}
