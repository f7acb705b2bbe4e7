//! The answers that are given without the engine, as bytes.

use pingora_core::protocols::http::date::get_cached_date;
use sluice_model::Reason;
use sluice_model::config::ServerHeader;
use std::fmt::Write;

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

/// A whole response that ends its connection, in the form of all answers that the gateway gives by itself: it says what
/// its reason says, and nothing of what was sent.
pub(super) fn response(reason: Reason, server: &ServerHeader, head_only: bool, json: bool) -> Vec<u8> {
    let status = reason.status();
    let phrase = phrase(status);
    let (kind, body) = if json {
        let words = reason.description();
        let body = format!("{{\"status\":{status},\"reason\":\"{reason}\",\"message\":\"{words}\"}}\n");
        ("application/json", body)
    } else {
        ("text/plain; charset=utf-8", format!("{status} {phrase}: {}\n", reason.description()))
    };
    let date = get_cached_date();
    let date = date.to_str().unwrap_or_default();
    let mut text = format!("HTTP/1.1 {status} {phrase}\r\ndate: {date}\r\n");
    // Writing to a string does not fail.
    let _ = match server {
        ServerHeader::PassThrough => write!(text, "server: sluice\r\n"),
        ServerHeader::Replace(value) => write!(text, "server: {value}\r\n"),
        ServerHeader::Remove => Ok(()),
    };
    let length = body.len();
    let _ = write!(text, "content-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n");
    if status == 405 {
        // RFC 9110, section 15.5.6: a 405 says what is allowed.
        text.push_str("allow: GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS\r\n");
    }
    text.push_str("\r\n");
    if !head_only {
        text.push_str(&body);
    }
    text.into_bytes()
}

/// The value of the first field of that name: the section was refused, so that no parser is asked.
pub(super) fn field<'s>(section: &'s [u8], name: &str) -> Option<&'s [u8]> {
    section.split(|b| *b == b'\n').skip(1).take(256).find_map(|line| {
        let (start, rest) = line.split_at_checked(name.len())?;
        let value = rest.strip_prefix(b":")?;
        start.eq_ignore_ascii_case(name.as_bytes()).then(|| value.trim_ascii())
    })
}

/// Whether the client would rather have JSON.
pub(super) fn accepts_json(section: &[u8]) -> bool {
    let accept = field(section, "accept").unwrap_or_default();
    accept.split(|b| *b == b',').any(|range| {
        let media = range.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
        media.eq_ignore_ascii_case(b"application/json") || media.ends_with(b"+json")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(reason: Reason, server: &ServerHeader, head_only: bool, json: bool) -> String {
        String::from_utf8_lossy(&response(reason, server, head_only, json)).into_owned()
    }

    #[test]
    fn a_refusal_is_a_whole_response() {
        let whole = text(Reason::HeadersTooLarge, &ServerHeader::PassThrough, false, false);
        assert!(whole.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\n"), "{whole}");
        assert!(whole.contains("connection: close\r\n") && whole.contains("\r\nserver: sluice\r\n"), "{whole}");
        assert!(whole.contains("\r\n\r\n431 Request Header Fields Too Large: "), "{whole}");
        assert!(text(Reason::BadRequest, &ServerHeader::PassThrough, true, false).ends_with("\r\n\r\n"));
        assert!(text(Reason::MethodNotAllowed, &ServerHeader::PassThrough, false, false).contains("\r\nallow: "));
    }

    #[test]
    fn a_refusal_names_the_server_as_its_listener_says() {
        assert!(!text(Reason::BadRequest, &ServerHeader::Remove, false, false).contains("\r\nserver:"));
        let replaced = text(Reason::BadRequest, &ServerHeader::Replace("shop".into()), false, false);
        assert!(replaced.contains("\r\nserver: shop\r\n"), "{replaced}");
    }

    #[test]
    fn a_refusal_is_json_for_whoever_accepts_it() {
        let json = text(Reason::BadRequest, &ServerHeader::PassThrough, false, true);
        let body = json.split("\r\n\r\n").nth(1).unwrap_or_default();
        let body: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
        assert_eq!(body["status"], 400);
        assert!(accepts_json(b"GET / x\r\nACCEPT: text/html, application/json;q=0.5\r\n"));
        assert!(!accepts_json(b"GET / x\r\nAccept: */*\r\n") && !accepts_json(b"GET / x\r\n"));
    }

    #[test]
    fn the_host_of_a_refused_request_is_found_for_the_log() {
        assert_eq!(field(b"GET / x\r\nA: b\r\nHOST:  a.test \r\n\r\n", "host"), Some(b"a.test".as_slice()));
        assert_eq!(field(b"GET / x\r\n", "host"), None);
    }
}
