//! RFC 9112 and RFC 9110, as the gate reads them.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;
use sluice_model::config::Edge;

fn limits() -> HeaderLimits {
    HeaderLimits::of(&Edge::default())
}

fn read(text: &str) -> Result<Option<Head>, Refused> {
    parse(text.as_bytes(), &limits())
}

fn reason(text: &str) -> Reason {
    match read(text) {
        Err(refused) => refused.reason,
        Ok(head) => panic!("{text:?} passed as {head:?}"),
    }
}

fn with_fields(fields: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n")
}

#[test]
fn a_plain_request_passes_with_its_length() {
    let text = "GET /a?b=c HTTP/1.1\r\nHost: a.test:8080\r\nAccept: */*\r\n\r\nrest";
    let head = read(text).unwrap().unwrap();
    assert_eq!(head.len, text.len() - 4);
    assert_eq!(head.body, BodyLength::None);
    let (from, to) = head.host.unwrap();
    assert_eq!(&text[from..to], "a.test:8080");
}

#[test]
fn an_unfinished_section_is_waited_for() {
    let text = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
    for end in 0..text.len() {
        assert_eq!(read(&text[..end]), Ok(None), "{:?}", &text[..end]);
    }
}

#[test]
fn rfc_9112_2_2_a_bare_line_feed_is_refused_wherever_it_stands() {
    for text in [
        "GET / HTTP/1.1\nHost: a.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\n\n",
        "GET / HTTP/1.1\r\nHost: a.test\nX: y\r\n\r\n",
        "GET / HTTP/1.0\n\n",
    ] {
        assert_eq!(reason(text), Reason::BadRequest, "{text:?}");
    }
}

#[test]
fn rfc_9112_2_3_versions() {
    for version in ["HTTP/2.0", "HTTP/1.2", "HTTP/3.0", "HTTP/0.9"] {
        assert_eq!(reason(&format!("GET / {version}\r\nHost: a\r\n\r\n")), Reason::VersionNotSupported, "{version}");
    }
    for version in ["http/1.1", "HTTP/01.1", "HTTP/1", "HTTP/1.", "HTTP1.1", "HTTP/1.10"] {
        assert_eq!(reason(&format!("GET / {version}\r\nHost: a\r\n\r\n")).status(), 400, "{version}");
    }
}

#[test]
fn rfc_9112_3_2_host_is_asked_for_once_and_is_a_host() {
    assert_eq!(reason("GET / HTTP/1.1\r\n\r\n"), Reason::InvalidHost);
    assert_eq!(reason("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"), Reason::InvalidHost);
    for host in ["", "a/b", "a,b", "a b", "u@a", "a:b", "a:123456", ":80", "[", "[]", "[::1", "[::1]x", "a\\b", "a?b"] {
        assert_eq!(reason(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")), Reason::InvalidHost, "{host:?}");
    }
    for host in ["a", "A.test", "a.test.", "a:80", "a:", "1.2.3.4:5", "[::1]", "[::1]:443", "a_b.test"] {
        assert!(read(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).unwrap().is_some(), "{host:?}");
    }
    assert!(read("GET / HTTP/1.0\r\n\r\n").unwrap().is_some(), "HTTP/1.0 may do without");
}

#[test]
fn rfc_9112_3_2_a_target_is_refused_rather_than_repaired() {
    for target in ["/a b", "/a\u{7f}", "/a\u{1}", "/ü", "/a#f", "a", "*", "a:80", "ftp://a/"] {
        let got = reason(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(got, Reason::InvalidTarget, "{target:?}");
    }
    for (method, target) in [("GET", "/a|b^{c}\"?d=<e>"), ("GET", "http://a/b"), ("OPTIONS", "*"), ("GET", "//")] {
        assert!(read(&format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n")).unwrap().is_some(), "{target:?}");
    }
    assert_eq!(reason("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n"), Reason::MethodNotAllowed);
}

#[test]
fn rfc_9112_5_field_lines() {
    for fields in ["X : y\r\n", " X: y\r\n", "X: y\r\n folded\r\n", ": y\r\n", "X: a\u{0}b\r\n", "X: a\rb\r\n", "X\r\n"]
    {
        assert_eq!(reason(&with_fields(fields)), Reason::BadRequest, "{fields:?}");
    }
}

#[test]
fn rfc_9112_6_framing_that_two_readers_could_take_differently_is_refused() {
    let framing = |fields: &str| reason(&with_fields(fields));
    assert_eq!(framing("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"), Reason::AmbiguousFraming);
    assert_eq!(framing("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), Reason::AmbiguousFraming);
    assert_eq!(framing("Content-Length: 3\r\nContent-Length: 4\r\n"), Reason::AmbiguousFraming);
    for coding in ["gzip, chunked", "chunked, identity", "xchunked", "identity", "", "chunked;q=1"] {
        assert_eq!(framing(&format!("Transfer-Encoding: {coding}\r\n")), Reason::BadRequest, "{coding:?}");
    }
    for length in ["+3", "-1", "3, 3", "0x3", "", "3 3", "18446744073709551616"] {
        assert_eq!(framing(&format!("Content-Length: {length}\r\n")), Reason::BadRequest, "{length:?}");
    }
    assert_eq!(reason("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), Reason::BadRequest);
    let length = |fields: &str| read(&with_fields(fields)).unwrap().unwrap().body;
    assert_eq!(length("Content-Length: 3\r\nContent-Length: 3\r\n"), BodyLength::Length(3));
    assert_eq!(length("Content-Length: 0\r\n"), BodyLength::None);
    assert_eq!(length("Transfer-Encoding: Chunked\r\n"), BodyLength::Chunked);
}

#[test]
fn limits_are_named_and_answered_with_their_own_status() {
    let small = HeaderLimits { bytes: 64, count: 3, target: 16, method: 8 };
    let refused = |text: &str| parse(text.as_bytes(), &small).unwrap_err();
    let long = "x".repeat(100);
    let cases = [
        (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), 414, "request_target"),
        (format!("GET /{long}"), 414, "request_target"),
        (format!("{long} / HTTP/1.1\r\nHost: a\r\n\r\n"), 501, "method"),
        (long.clone(), 501, "method"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"), 431, "header_bytes"),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}"), 431, "header_bytes"),
        ("GET / HTTP/1.1\r\nHost: a\r\nA: b\r\nC: d\r\nE: f\r\n\r\n".to_owned(), 431, "header_count"),
    ];
    for (text, status, limit) in cases {
        let got = refused(&text);
        assert_eq!((got.reason.status(), got.limit), (status, Some(limit)), "{text:?}");
    }
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(300));
    assert_eq!(reason(&many), Reason::HeadersTooLarge);
}

#[test]
fn rfc_9110_7_8_an_upgrade_needs_both_fields_and_is_ignored_otherwise() {
    let read = |text: &str| read(text).unwrap().unwrap();
    let asked = |fields: &str| read(&with_fields(fields).replace("POST", "GET"));
    let offered = asked("Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n");
    assert!(offered.websocket && !offered.other_upgrade);
    for fields in [
        "Upgrade: websocket\r\n",
        "Connection: upgrade\r\nUpgrade: h2c\r\n",
        "Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n",
        "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 10\r\n",
    ] {
        let head = asked(fields);
        assert!(!head.websocket && head.other_upgrade, "{fields}");
    }
    let fields = "Connection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    for line in ["POST / HTTP/1.1\r\nHost: a\r\n", "GET / HTTP/1.0\r\n"] {
        assert!(read(&format!("{line}{fields}")).other_upgrade, "{line}");
    }
    assert!(!asked("Connection: upgrade\r\n").other_upgrade);
}

#[test]
fn a_section_without_its_upgrade_is_the_same_but_for_those_lines() {
    let section = with_fields("UPGRADE: h2c\r\nUpgrade-Insecure-Requests: 1\r\nupgrade: websocket\r\n");
    let rest = without_upgrade(section.as_bytes());
    assert_eq!(rest, with_fields("Upgrade-Insecure-Requests: 1\r\n").as_bytes());
}

#[test]
fn a_refusal_is_logged_with_what_could_be_read() {
    assert_eq!(line_parts(b"GET /a b HTTP/1.1\r\nHost: a\r\n"), ("GET", b"/a b".as_slice()));
    assert_eq!(line_parts(b"GET /a"), ("GET", b"/a".as_slice()));
    assert_eq!(line_parts(b"\x16\x03\x01"), ("\u{16}\u{3}\u{1}", b"".as_slice()));
}
