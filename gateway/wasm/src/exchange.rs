//! What a plugin sees of a request and its response, and how the proxy lends it.
//!
//! A store can hold no borrow, so an exchange goes into the instance by value for each call and comes back after it:
//! two boxes and the attributes, no header is copied.

use crate::{Attributes, Outbound, Refused};
use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use std::any::Any;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A request as plugins see it. The host checks what a plugin sets (names, values, which headers are its to change,
/// the form of a path) before it reaches one of the setters.
pub trait RequestView: Any + Send {
    /// `GET`.
    fn method(&self) -> &str;
    /// `http` or `https`, as the client used it.
    fn scheme(&self) -> &str;
    /// Host, with the port where one was given; empty where there is none.
    fn authority(&self) -> &str;
    /// The path in normal form, percent-encoded.
    fn path(&self) -> &str;
    /// The query without its question mark.
    fn query(&self) -> Option<&str>;
    /// One of the names in the table of docs/plugins.md: `request.id`, `client.address`, `route.name`, ...
    fn property(&self, name: &str) -> Option<Cow<'_, str>>;
    fn headers(&self) -> &HeaderMap;
    /// `path` begins with a slash and holds no byte that RFC 3986 keeps out of a path. What the view itself refuses
    /// stays as it was.
    fn set_path(&mut self, path: &str) -> Result<(), Refused>;
    fn set_query(&mut self, query: Option<&str>) -> Result<(), Refused>;
    /// The method that the request goes on with.
    fn set_method(&mut self, method: &str) -> Result<(), Refused>;
    /// The host that the request goes on with. Its rule stays the one that was found.
    fn set_authority(&mut self, authority: &str) -> Result<(), Refused>;
    /// Replaces every value of `name`.
    fn set_header(&mut self, name: HeaderName, value: HeaderValue);
    fn append_header(&mut self, name: HeaderName, value: HeaderValue);
    fn remove_header(&mut self, name: &HeaderName);
}

/// A response's head as plugins see it.
pub trait ResponseView: Any + Send {
    fn status(&self) -> StatusCode;
    fn headers(&self) -> &HeaderMap;
    /// 200 to 599.
    fn set_status(&mut self, status: StatusCode);
    /// Replaces every value of `name`.
    fn set_header(&mut self, name: HeaderName, value: HeaderValue);
    fn append_header(&mut self, name: HeaderName, value: HeaderValue);
    fn remove_header(&mut self, name: &HeaderName);
}

/// A body on its way through a filter of the proxy-wasm ABI.
#[derive(Debug, Default)]
pub(crate) struct Passing {
    /// What the filter has let go since.
    pub(crate) released: BytesMut,
    /// What it sees, and may change.
    pub(crate) held: BytesMut,
}

/// What plugins with the capability to route say of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destination {
    /// To one of the backends of the plugin that was called last, by its own name for it.
    pub backend: Option<Box<str>>,
    /// By the rule that fits the request as it is now.
    pub find_route: bool,
}

/// What is lent to a call, and comes back from it.
///
/// ```
/// use sluice_wasm::{Exchange, PlainRequest};
///
/// let mut exchange = Exchange::new(PlainRequest::get("/orders"));
/// // ... calls: invocation.on_request(&mut exchange).await ...
/// let request: Box<PlainRequest> = exchange.take_request().expect("no call lost it");
/// ```
#[derive(Default)]
pub struct Exchange {
    pub(crate) request: Option<Box<dyn RequestView>>,
    pub(crate) response: Option<Box<dyn ResponseView>>,
    /// The request has no body, and the response has none.
    pub request_ends: bool,
    pub response_ends: bool,
    pub(crate) body: Passing,
    /// Of the response, while they pass.
    pub(crate) trailers: Option<HeaderMap>,
    /// What calls backends for the plugin that is called next; none where it is given no backend.
    pub outbound: Option<Arc<dyn Outbound>>,
    /// Where the plugins that were called want the request to go.
    pub destination: Destination,
    /// When the exchange must be over: a call that would last longer ends then, by [`Deadline`](crate::PluginError::Deadline).
    pub deadline: Option<Instant>,
    /// Shared by all phases of all plugins; the access log reads them at the end.
    pub attributes: Attributes,
}

impl Exchange {
    pub fn new(request: impl RequestView) -> Exchange {
        Exchange { request: Some(Box::new(request)), ..Exchange::default() }
    }

    /// Lends the request, where the exchange lives longer than the phase.
    pub fn put_request(&mut self, request: Box<dyn RequestView>) {
        self.request = Some(request);
    }

    /// Lends the response, for the response and log phases.
    pub fn put_response(&mut self, response: Box<dyn ResponseView>) {
        self.response = Some(response);
    }

    pub fn request(&self) -> Option<&dyn RequestView> {
        self.request.as_deref()
    }

    pub fn response(&self) -> Option<&dyn ResponseView> {
        self.response.as_deref()
    }

    /// Gives the request back as what was put in; none where it is of another type (it stays), or where a call was
    /// [`Lost`](crate::PluginError::Lost).
    pub fn take_request<R: RequestView>(&mut self) -> Option<Box<R>> {
        let is = self.request.as_deref().is_some_and(|request| (request as &dyn Any).is::<R>());
        if !is {
            return None;
        }
        let request: Box<dyn Any> = self.request.take()?;
        request.downcast().ok()
    }

    /// As [`Exchange::take_request`].
    pub fn take_response<R: ResponseView>(&mut self) -> Option<Box<R>> {
        let is = self.response.as_deref().is_some_and(|response| (response as &dyn Any).is::<R>());
        if !is {
            return None;
        }
        let response: Box<dyn Any> = self.response.take()?;
        response.downcast().ok()
    }
}

/// How an exchange ended, for the log phase.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// From the request's first byte to the response's last.
    pub duration: Duration,
    /// Bytes of the request's body.
    pub bytes_received: u64,
    /// Bytes of the response's body.
    pub bytes_sent: u64,
    /// Why the gateway gave or changed the answer; none where it is the backend's.
    pub reason: Option<&'static str>,
}
