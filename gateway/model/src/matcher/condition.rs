//! What a match asks beyond the path, and whether a request has it.

use super::query::{QueryNames, QueryValues, with_decoded};
use super::request::RequestView;
use crate::config::ValueMatch;
use http::{HeaderName, Method};
use std::cell::OnceCell;

/// One of the conditions that must all hold.
#[derive(Clone, Debug)]
pub(super) struct Condition {
    pub(super) attribute: Attribute,
    pub(super) value: Wanted,
}

/// Where a value is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Attribute {
    Method,
    Header(HeaderName),
    /// By its position in [`QueryNames`].
    Query(u32),
    /// The second of a path's two elements.
    GrpcMethod,
}

#[derive(Clone, Debug)]
pub(super) enum Wanted {
    Method(Method),
    Value(ValueMatch),
}

impl Wanted {
    /// Whether `value`, not encoded in any way, is what is asked for.
    fn is(&self, value: &[u8]) -> bool {
        match self {
            Wanted::Method(method) => method.as_str().as_bytes() == value,
            Wanted::Value(ValueMatch::Exact(text)) => text.as_bytes() == value,
            Wanted::Value(ValueMatch::Regex(pattern)) => {
                std::str::from_utf8(value).is_ok_and(|v| pattern.regex.is_match(v))
            }
        }
    }
}

/// A request under examination: its query is read once, when a condition first asks for it.
pub(super) struct Examined<'r, R> {
    request: &'r R,
    names: &'r QueryNames,
    query: OnceCell<QueryValues>,
}

impl<'r, R: RequestView> Examined<'r, R> {
    pub(super) fn new(request: &'r R, names: &'r QueryNames) -> Self {
        Examined { request, names, query: OnceCell::new() }
    }

    pub(super) fn path(&self) -> &'r str {
        self.request.path()
    }

    pub(super) fn holds(&self, condition: &Condition) -> bool {
        match (&condition.attribute, &condition.value) {
            (Attribute::Method, Wanted::Method(method)) => self.request.method() == method,
            (attribute, wanted) => self.with_value(attribute, |value| wanted.is(value)).unwrap_or(false),
        }
    }

    /// Calls `use_it` with the value of `attribute`, where the request has one.
    pub(super) fn with_value<T>(&self, attribute: &Attribute, use_it: impl FnOnce(&[u8]) -> T) -> Option<T> {
        match attribute {
            Attribute::Method => Some(use_it(self.request.method().as_str().as_bytes())),
            Attribute::Header(name) => self.request.header(name).map(|value| use_it(&value)),
            Attribute::GrpcMethod => grpc_method(self.path()).map(|method| use_it(method.as_bytes())),
            Attribute::Query(name) => {
                let query = self.request.query().as_bytes();
                let values = self.query.get_or_init(|| self.names.values(query));
                let (start, end) = (*values.get(*name as usize)?)?;
                query.get(start as usize..end as usize).map(|encoded| with_decoded(encoded, use_it))
            }
        }
    }
}

/// The method that a path of gRPC (`/service/method`) names.
pub(crate) fn grpc_method(path: &str) -> Option<&str> {
    let (_, method) = path.strip_prefix('/')?.split_once('/')?;
    (!method.contains('/')).then_some(method)
}
