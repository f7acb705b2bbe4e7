//! What the matcher asks of a request.

use http::{HeaderMap, HeaderName, Method};
use std::borrow::Cow;

/// A request as routes see it. Each part is asked for only where a route depends on it.
pub trait RequestView {
    /// The path in normal form ([`crate::path::normalize`]), without the query.
    fn path(&self) -> &str;

    fn method(&self) -> &Method;

    /// The field's combined value (RFC 9110, 5.2): several lines of one name are joined with `,` in their order, which
    /// [`combined`] does. `None` where the field is absent.
    fn header(&self, name: &HeaderName) -> Option<Cow<'_, [u8]>>;

    /// What follows `?`, as it came; empty where there is none.
    fn query(&self) -> &str;
}

/// A request by its parts.
#[derive(Clone, Copy, Debug)]
pub struct RequestParts<'r> {
    pub path: &'r str,
    pub method: &'r Method,
    pub headers: &'r HeaderMap,
    pub query: &'r str,
}

impl RequestView for RequestParts<'_> {
    fn path(&self) -> &str {
        self.path
    }

    fn method(&self) -> &Method {
        self.method
    }

    fn header(&self, name: &HeaderName) -> Option<Cow<'_, [u8]>> {
        combined(self.headers, name)
    }

    fn query(&self) -> &str {
        self.query
    }
}

/// The combined value of a field: borrowed where it stands once, which is nearly always.
pub fn combined<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<Cow<'h, [u8]>> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?.as_bytes();
    let Some(second) = lines.next() else { return Some(Cow::Borrowed(first)) };
    let mut joined = first.to_vec();
    for line in std::iter::once(second).chain(lines) {
        joined.push(b',');
        joined.extend_from_slice(line.as_bytes());
    }
    Some(Cow::Owned(joined))
}
