//! Changes to header sections: the API's modifiers, and what belongs to one connection and must not go on.

use super::names;
use crate::snapshot::ServerField;
use ::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use pingora_http::{RequestHeader, ResponseHeader};
use sluice_model::config::HeaderOps;
use smallvec::SmallVec;

/// A header section that can be changed, whoever owns it.
pub(super) trait Fields {
    fn set(&mut self, name: &HeaderName, value: HeaderValue);
    fn add(&mut self, name: &HeaderName, value: HeaderValue);
    fn remove(&mut self, name: &HeaderName);
}

/// Values are valid, and names few: the only error that the engine knows here is a section of 32,768 fields, far above
/// every limit. It would leave the field out.
macro_rules! engine_fields {
    ($($header:ty),*) => {$(
        impl Fields for $header {
            fn set(&mut self, name: &HeaderName, value: HeaderValue) {
                let _ = self.insert_header(name, value);
            }
            fn add(&mut self, name: &HeaderName, value: HeaderValue) {
                let _ = self.append_header(name, value);
            }
            fn remove(&mut self, name: &HeaderName) {
                self.remove_header(name);
            }
        }
    )*};
}
engine_fields!(RequestHeader, ResponseHeader);

impl Fields for HeaderMap {
    fn set(&mut self, name: &HeaderName, value: HeaderValue) {
        self.insert(name, value);
    }
    fn add(&mut self, name: &HeaderName, value: HeaderValue) {
        self.append(name, value);
    }
    fn remove(&mut self, name: &HeaderName) {
        HeaderMap::remove(self, name);
    }
}

/// HTTPHeaderFilter: set, add, remove.
pub(super) fn apply(ops: &HeaderOps, fields: &mut impl Fields) {
    for (name, value) in &ops.set {
        fields.set(name, value.clone());
    }
    for (name, value) in &ops.add {
        fields.add(name, value.clone());
    }
    for name in &ops.remove {
        fields.remove(name);
    }
}

/// Takes out of a response what was meant for the gateway's connection alone (RFC 9110, section 7.6.1). The framing
/// stays: the engine frames anew by it.
pub(super) fn strip_hop_by_hop(response: &mut ResponseHeader) {
    let upgrade = response.status == ::http::StatusCode::SWITCHING_PROTOCOLS;
    if let Some(nominated) = nominated(&response.headers) {
        for name in nominated {
            let framing = matches!(name, header::TRANSFER_ENCODING | header::CONTENT_LENGTH | header::CONNECTION);
            let switches = upgrade && name == header::UPGRADE;
            if !framing && !switches {
                response.remove_header(&name);
            }
        }
        if !upgrade {
            response.remove_header(&header::CONNECTION);
        }
    }
    for name in [&names::KEEP_ALIVE, &names::PROXY_CONNECTION] {
        if response.headers.contains_key(name) {
            response.remove_header(name);
        }
    }
    if !upgrade && response.headers.contains_key(header::UPGRADE) {
        response.remove_header(&header::UPGRADE);
    }
}

/// The names that the Connection field gives; `None` where there is no such field.
fn nominated(headers: &HeaderMap) -> Option<SmallVec<[HeaderName; 4]>> {
    if !headers.contains_key(header::CONNECTION) {
        return None;
    }
    let fields = headers.get_all(header::CONNECTION).iter();
    let tokens = fields.flat_map(|field| field.as_bytes().split(|b| *b == b',')).map(<[u8]>::trim_ascii);
    // What is said of the connection itself names no field but Keep-Alive, which goes in any case.
    let named = tokens.filter(|t| !t.eq_ignore_ascii_case(b"keep-alive") && !t.eq_ignore_ascii_case(b"close"));
    Some(named.filter_map(|token| HeaderName::from_bytes(token).ok()).collect())
}

/// What the listener says of the Server field.
pub(super) fn server(field: &ServerField, response: &mut impl Fields) {
    match field {
        ServerField::PassThrough => {}
        ServerField::Remove => response.remove(&header::SERVER),
        ServerField::Replace(value) => response.set(&header::SERVER, value.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, fields: &[(&'static str, &'static str)]) -> ResponseHeader {
        let mut response = ResponseHeader::build(status, None).unwrap();
        for (name, value) in fields {
            response.append_header(*name, *value).unwrap();
        }
        response
    }

    fn left(response: &ResponseHeader) -> Vec<&str> {
        response.headers.keys().map(HeaderName::as_str).collect()
    }

    #[test]
    fn what_belongs_to_the_backends_connection_does_not_reach_the_client_rfc9110_7_6_1() {
        let mut response = response(
            200,
            &[
                ("connection", "keep-alive, X-Hop, content-length"),
                ("keep-alive", "timeout=5"),
                ("x-hop", "1"),
                ("upgrade", "h2c"),
                ("content-length", "3"),
                ("x-end", "2"),
            ],
        );
        strip_hop_by_hop(&mut response);
        assert_eq!(left(&response), ["content-length", "x-end"]);
    }

    #[test]
    fn a_switch_of_protocols_keeps_its_upgrade() {
        let mut response = response(101, &[("connection", "Upgrade"), ("upgrade", "websocket")]);
        strip_hop_by_hop(&mut response);
        assert_eq!(left(&response), ["connection", "upgrade"]);
    }

    #[test]
    fn modifiers_set_add_and_remove() {
        let ops = HeaderOps {
            set: vec![(HeaderName::from_static("a"), HeaderValue::from_static("new"))],
            add: vec![(HeaderName::from_static("b"), HeaderValue::from_static("more"))],
            remove: vec![HeaderName::from_static("c")],
        };
        let mut headers = HeaderMap::new();
        for name in ["a", "a", "b", "c", "c"] {
            headers.append(name, HeaderValue::from_static("old"));
        }
        apply(&ops, &mut headers);
        let of = |name: &str| headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!((of("a"), of("b"), of("c")), (vec!["new"], vec!["old", "more"], vec![]));
    }
}
