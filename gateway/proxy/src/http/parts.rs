//! Head sections as plain `http` parts, and back.
//!
//! The engine keeps the spelling of HTTP/1 field names beside the fields, and pays for it at each copy and each change.
//! Names are case-insensitive (RFC 9110, section 5.1): what passes the gateway is lower case, as HTTP/2 has it anyway.

use ::http::{request, response};
use pingora_http::{RequestHeader, ResponseHeader};

fn no_request() -> RequestHeader {
    RequestHeader::from(::http::Request::new(()).into_parts().0)
}

/// Takes the head out; put it back with [`give_request`] before the engine looks at it.
pub(super) fn take_request(header: &mut RequestHeader) -> request::Parts {
    std::mem::replace(header, no_request()).into()
}

pub(super) fn give_request(header: &mut RequestHeader, parts: request::Parts) {
    *header = RequestHeader::from(parts);
}

pub(super) fn take_response(header: &mut ResponseHeader) -> response::Parts {
    let empty = ResponseHeader::from(::http::Response::new(()).into_parts().0);
    std::mem::replace(header, empty).into()
}
