//! The answers that are given without the engine, as bytes.

use pingora_core::protocols::http::date::get_cached_date;

/// The words of RFC 9110, section 15, for the statuses that a request can be refused with at the gate.
fn phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        414 => "URI Too Long",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}

/// A whole response that ends its connection. It says what the status says, and nothing of what was sent or of us.
pub(super) fn response(status: u16, head_only: bool) -> Vec<u8> {
    let phrase = phrase(status);
    let date = get_cached_date();
    let date = date.to_str().unwrap_or_default();
    let length = phrase.len() + 1;
    let mut text = format!(
        "HTTP/1.1 {status} {phrase}\r\ndate: {date}\r\nserver: sluice\r\ncontent-type: text/plain; charset=utf-8\r\n\
         content-length: {length}\r\nconnection: close\r\n"
    );
    if status == 405 {
        // RFC 9110, section 15.5.6: a 405 says what is allowed.
        text.push_str("allow: GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH\r\n");
    }
    text.push_str("\r\n");
    if !head_only {
        text.push_str(phrase);
        text.push('\n');
    }
    text.into_bytes()
}

/// The value of the first Host field, for the log: the section was refused, so that no parser is asked.
pub(super) fn host(section: &[u8]) -> Option<&[u8]> {
    section.split(|b| *b == b'\n').skip(1).take(256).find_map(|line| {
        let (name, value) = line.split_at_checked(5)?;
        name.eq_ignore_ascii_case(b"host:").then(|| value.trim_ascii())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_a_whole_response() {
        let text = String::from_utf8_lossy(&response(431, false)).into_owned();
        assert!(text.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\n"), "{text}");
        assert!(text.contains("connection: close\r\n") && text.ends_with("\r\n\r\nRequest Header Fields Too Large\n"));
        assert!(response(400, true).ends_with(b"\r\n\r\n"));
        assert!(String::from_utf8_lossy(&response(405, false)).contains("\r\nallow: "));
    }

    #[test]
    fn the_host_of_a_refused_request_is_found_for_the_log() {
        assert_eq!(host(b"GET / x\r\nA: b\r\nHOST:  a.test \r\n\r\n"), Some(b"a.test".as_slice()));
        assert_eq!(host(b"GET / x\r\n"), None);
    }
}
