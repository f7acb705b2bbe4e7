//! The edge's manners, byte by byte (docs/http.md): what is refused, how, and that nothing refused reached the backend.
//! Each test's name begins with the section that asks for it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod edge;

mod errors;
mod fields;
mod forwarding;
mod framing;
mod grpc;
mod http2_abuse;
mod http2_malformed;
mod limits;
mod path;
mod proxy_protocol;
mod request_line;
mod responses;
mod timeouts;
mod upgrade;
