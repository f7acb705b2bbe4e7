//! Requests and responses over the `http` crate's types: for tests, benches, and whoever has no proxy engine at hand.

use crate::exchange::{RequestView, ResponseView};
use crate::fields::{self, Refused};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use std::borrow::Cow;

/// A request that owns its parts.
#[derive(Clone, Debug)]
pub struct PlainRequest {
    pub method: String,
    pub scheme: String,
    pub authority: String,
    pub path: String,
    pub query: Option<String>,
    pub headers: HeaderMap,
    pub properties: Vec<(String, String)>,
}

impl PlainRequest {
    /// `GET https://example.com<path>`, where `path` may bring a query.
    pub fn get(path: &str) -> PlainRequest {
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (path, None),
        };
        PlainRequest {
            method: "GET".to_owned(),
            scheme: "https".to_owned(),
            authority: "example.com".to_owned(),
            path: path.to_owned(),
            query,
            headers: HeaderMap::new(),
            properties: Vec::new(),
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &'static str) -> PlainRequest {
        self.headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        self
    }

    #[must_use]
    pub fn property(mut self, name: &str, value: &str) -> PlainRequest {
        self.properties.push((name.to_owned(), value.to_owned()));
        self
    }
}

impl RequestView for PlainRequest {
    fn method(&self) -> &str {
        &self.method
    }

    fn scheme(&self) -> &str {
        &self.scheme
    }

    fn authority(&self) -> &str {
        &self.authority
    }

    fn path(&self) -> &str {
        &self.path
    }

    fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    fn property(&self, name: &str) -> Option<Cow<'_, str>> {
        self.properties.iter().find(|(n, _)| n == name).map(|(_, value)| Cow::Borrowed(value.as_str()))
    }

    fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    fn set_path(&mut self, path: &str) -> Result<(), Refused> {
        path.clone_into(&mut self.path);
        Ok(())
    }

    fn set_query(&mut self, query: Option<&str>) -> Result<(), Refused> {
        self.query = query.map(str::to_owned);
        Ok(())
    }

    fn set_method(&mut self, method: &str) -> Result<(), Refused> {
        let now = Method::from_bytes(self.method.as_bytes()).map_err(|_| Refused::Method)?;
        self.method = fields::method(&now, method)?.as_str().to_owned();
        Ok(())
    }

    fn set_authority(&mut self, authority: &str) -> Result<(), Refused> {
        let authority: Authority = authority.parse().map_err(|_| Refused::Authority)?;
        self.authority = authority.as_str().to_owned();
        Ok(())
    }

    fn set_header(&mut self, name: HeaderName, value: HeaderValue) {
        self.headers.insert(name, value);
    }

    fn append_header(&mut self, name: HeaderName, value: HeaderValue) {
        self.headers.append(name, value);
    }

    fn remove_header(&mut self, name: &HeaderName) {
        self.headers.remove(name);
    }
}

/// A response's head that owns its parts.
#[derive(Clone, Debug, Default)]
pub struct PlainResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
}

impl ResponseView for PlainResponse {
    fn status(&self) -> StatusCode {
        self.status
    }

    fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    fn set_status(&mut self, status: StatusCode) {
        self.status = status;
    }

    fn set_header(&mut self, name: HeaderName, value: HeaderValue) {
        self.headers.insert(name, value);
    }

    fn append_header(&mut self, name: HeaderName, value: HeaderValue) {
        self.headers.append(name, value);
    }

    fn remove_header(&mut self, name: &HeaderName) {
        self.headers.remove(name);
    }
}
