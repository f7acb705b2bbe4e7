//! The request.

use crate::backend;
use crate::headers::{Refused, fields};

/// A request, lent for the length of a call. It lives in the gateway: each method asks for its part.
pub struct Request<'a> {
    pub(crate) handle: &'a backend::Request,
}

impl<'a> Request<'a> {
    #[doc(hidden)]
    pub fn new(handle: &'a backend::Request) -> Self {
        Request { handle }
    }

    /// `GET`.
    pub fn method(&self) -> String {
        self.handle.method()
    }

    /// `http` or `https`, as the client used it.
    pub fn scheme(&self) -> String {
        self.handle.scheme()
    }

    /// The host, with the port where one was given.
    pub fn authority(&self) -> String {
        self.handle.authority()
    }

    /// The path in normal form, percent-encoded.
    pub fn path(&self) -> String {
        self.handle.path()
    }

    /// The query without its question mark, percent-encoded.
    pub fn query(&self) -> Option<String> {
        self.handle.query()
    }

    /// What the gateway knows besides, by the names in docs/plugins.md: `client.address`, `request.id`, `route.name`, ...
    pub fn property(&self, name: &str) -> Option<String> {
        self.handle.property(name)
    }

    /// Changes the path that goes to the backend; the route stays the one that was matched.
    pub fn set_path(&mut self, path: &str) -> Result<(), Refused> {
        self.handle.set_path(path).map_err(Refused)
    }

    /// Changes the query that goes to the backend; none removes it.
    pub fn set_query(&mut self, query: Option<&str>) -> Result<(), Refused> {
        self.handle.set_query(query).map_err(Refused)
    }

    fields!();
}
