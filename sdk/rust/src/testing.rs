//! Plays the gateway for a plugin's unit tests, which run natively, and against its module in the gateway's own engine.
//!
//! What an [`Exchange`] checks natively is what authors meet most: names, values, paths, and what can't be changed in a phase.
//! The gateway itself is stricter.
//!
//! # In the gateway's engine
//!
//! Tests that make their plugin by [`configure`] run in two ways, by the same code:
//!
//! - natively, by `cargo test`: the plugin is its own type, and a debugger sees all of it;
//! - with `SLUICE_PLUGIN_WASM=build/plugin.wasm` in the environment against that module, in the engine of the gateway: a
//!   [`Tested`] passes each phase on to `sluice plugin host`, a process of its own. The program is `sluice` of the search
//!   path, or what `SLUICE` names. A folder of modules will do, in which cargo's name of the crate finds one: `key_auth.wasm`.
//!
//! `sluice plugin test` does both. In the engine
//!
//! - stores, their quota and time to live, secrets and metrics are the gateway's; the clock stands where [`Services`] have moved
//!   it, and [`Exchange::backend`]s are asked in the test;
//! - the configuration is held to the module's schema before the plugin sees it, and the self-test has run;
//! - a phase has an instance of its own, and a body that is streamed one for its pieces: what a plugin keeps elsewhere is gone;
//! - a plugin that fails (a panic, a limit, a broken contract) ends the test with the gateway's own words. It has the limits of
//!   a Plugin by default, but 2 s of CPU time, 10 minutes of time and 64 MiB of a body;
//! - a phase that [`export!`](crate::export!) does not name can't be played;
//! - header fields come in an order of the gateway's: those of one name keep theirs.
//!
//! Natively and in the engine the header names of an answer are in lower case. A test that makes its plugin by
//! [`Plugin::configure`](crate::Plugin::configure) runs natively always.

mod engine;
pub(crate) mod protocol;
pub(crate) mod stores;
mod tested;

pub use serde_json::json;
pub use tested::{Passing, Tested, configure};

use crate::{
    Body, Decision, OnLog, OnRequest, OnRequestBody, OnRequestPiece, OnResponse, OnResponseBody, OnResponsePiece,
    OnResponseTrailers, Piece, Request, Response, Summary, Trailers, attributes, backend,
};
use backend::services::Metric;
use std::marker::PhantomData;
use std::time::Duration;

/// What a plugin asked a backend ([`Exchange::backend`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub authority: Option<String>,
    /// Names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
    pub timeout_ms: Option<u64>,
    pub body_limit: Option<u64>,
}

impl Asked {
    /// The first value.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let name = name.to_ascii_lowercase();
        self.headers.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_slice())
    }
}

/// What a backend of a test answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StubAnswer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
    /// Instead of an answer: kind and message of the [`FetchError`](crate::fetch::FetchError).
    pub failure: Option<(&'static str, String)>,
}

impl StubAnswer {
    pub fn new(status: u16) -> StubAnswer {
        StubAnswer { status, ..StubAnswer::default() }
    }

    /// No answer: `timeout`, `connect`, ...
    pub fn failure(kind: &'static str) -> StubAnswer {
        StubAnswer { failure: Some((kind, format!("told to fail by {kind}"))), ..StubAnswer::default() }
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> StubAnswer {
        self.headers.push((name.to_ascii_lowercase(), value.as_ref().to_vec()));
        self
    }

    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> StubAnswer {
        self.body = body.into();
        self
    }
}

/// What outlives an exchange: the clock, which stands still until it is moved, secrets, metrics and stores. Without one there
/// are no secrets and no stores. One a test and thread at a time: a new one begins with nothing, and dropping it leaves
/// nothing behind.
///
/// ```
/// use sluice_plugin::{store::Store, testing::Services};
/// use std::time::Duration;
///
/// let services = Services::new().store("sessions").secret("key", "k");
/// let store = Store::open("sessions").unwrap();
/// store.set("a", "1", Some(Duration::from_secs(60))).unwrap();
/// services.advance(Duration::from_secs(60));
/// assert_eq!(store.get("a").unwrap(), None);
/// ```
#[derive(Debug)]
pub struct Services {
    /// What it stands for belongs to the thread.
    _of_thread: PhantomData<*const ()>,
}

impl Services {
    #[allow(clippy::new_without_default, reason = "it is made for what it does to the thread")]
    #[must_use = "dropping it clears what it stands for"]
    pub fn new() -> Services {
        backend::services::clear();
        Services { _of_thread: PhantomData }
    }

    /// Gives the plugin a secret.
    #[must_use]
    pub fn secret(self, name: &str, value: impl AsRef<[u8]>) -> Services {
        self.rotate(name, value);
        self
    }

    /// Gives the plugin a store.
    #[must_use]
    pub fn store(self, name: &str) -> Services {
        backend::services::give_store(name);
        self
    }

    /// From now on a store is full: it refuses values, counters and buckets under keys that it does not have.
    ///
    /// ```
    /// use sluice_plugin::{store::Store, testing::Services};
    ///
    /// let services = Services::new().store("sessions");
    /// let store = Store::open("sessions").unwrap();
    /// store.set("a", "1", None).unwrap();
    /// services.fill("sessions");
    /// assert!(store.set("b", "1", None).is_err());
    /// assert!(store.set("a", "2", None).is_ok());
    /// ```
    pub fn fill(&self, name: &str) {
        backend::services::fill_store(name);
    }

    /// Moves both clocks on.
    pub fn advance(&self, time: Duration) {
        backend::services::advance(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// From now on a secret is this.
    pub fn rotate(&self, name: &str, value: impl AsRef<[u8]>) {
        backend::services::set_secret(name, Some(value.as_ref().to_vec()));
    }

    /// From now on there is no such secret.
    pub fn revoke(&self, name: &str) {
        backend::services::set_secret(name, None);
    }

    /// What a counter is; its name is without `_total`.
    pub fn counter(&self, name: &str, labels: &[(&str, &str)]) -> Option<u64> {
        match backend::services::metric(name, labels) {
            Some(Metric::Counter(value)) => Some(value),
            _ => None,
        }
    }

    pub fn gauge(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        match backend::services::metric(name, labels) {
            Some(Metric::Gauge(value)) => Some(value),
            _ => None,
        }
    }

    /// What a histogram was told, in order.
    pub fn observations(&self, name: &str, labels: &[(&str, &str)]) -> Vec<f64> {
        match backend::services::metric(name, labels) {
            Some(Metric::Observations(values)) => values,
            _ => Vec::new(),
        }
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        backend::services::clear();
    }
}

/// One request and its response, with the attributes they share. One a test and thread at a time.
#[derive(Debug)]
pub struct Exchange {
    request: backend::Request,
    response: backend::Response,
    body: backend::Body,
    response_body: backend::Body,
    trailers: backend::Trailers,
}

impl Exchange {
    /// A request of `method` for `https://example.com<path>`, where `path` may bring a query.
    pub fn new(method: &str, path: &str) -> Exchange {
        backend::attributes::clear();
        backend::outgoing::clear();
        backend::routing::clear();
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (path, None),
        };
        let request = backend::Request {
            method: method.to_owned(),
            scheme: "https".to_owned(),
            authority: "example.com".to_owned(),
            path: path.to_owned().into(),
            query: query.into(),
            ..backend::Request::default()
        };
        let response = backend::Response { status: 200.into(), ..backend::Response::default() };
        let (body, response_body) = (backend::Body::default(), backend::Body::default());
        Exchange { request, response, body, response_body, trailers: backend::Trailers::default() }
    }

    pub fn get(path: &str) -> Exchange {
        Exchange::new("GET", path)
    }

    /// Adds a field to the request.
    #[must_use]
    pub fn header(self, name: &str, value: impl AsRef<[u8]>) -> Exchange {
        self.request.fields.borrow_mut().push((name.to_ascii_lowercase(), value.as_ref().to_vec()));
        self
    }

    /// What [`Request::property`] answers.
    #[must_use]
    pub fn property(mut self, name: &str, value: &str) -> Exchange {
        self.request.properties.insert(name.to_owned(), value.to_owned());
        self
    }

    /// An attribute that an earlier plugin set.
    #[must_use]
    pub fn attribute<A: attributes::Attribute>(self, name: &str, value: A) -> Exchange {
        let set = attributes::set(name, value);
        debug_assert!(set.is_ok(), "{set:?}");
        self
    }

    /// A backend that the plugin may call: the closure answers.
    #[must_use]
    pub fn backend(self, name: &str, answer: impl Fn(&Asked) -> StubAnswer + 'static) -> Exchange {
        backend::outgoing::backend(name, Box::new(answer));
        self
    }

    /// The Plugin has `capabilities.routing`, and so may say where the request goes ([`routing`](crate::routing)).
    #[must_use]
    pub fn routing(self) -> Exchange {
        backend::routing::allow();
        self
    }

    /// The backend that the plugin sends the request to; none where that is the rule's affair.
    pub fn destination(&self) -> Option<String> {
        backend::routing::destination()
    }

    /// Whether the plugin has asked for the rule that fits what it made of the request.
    pub fn finds_route(&self) -> bool {
        backend::routing::finds_route()
    }

    /// The request's body, for [`Exchange::on_request_body`].
    #[must_use]
    pub fn body(self, content: impl Into<Vec<u8>>) -> Exchange {
        *self.body.content.borrow_mut() = content.into();
        self
    }

    /// The response's status.
    #[must_use]
    pub fn status(self, status: u16) -> Exchange {
        self.response.status.set(status);
        self
    }

    /// Adds a field to the response.
    #[must_use]
    pub fn response_header(self, name: &str, value: impl AsRef<[u8]>) -> Exchange {
        self.response.fields.borrow_mut().push((name.to_ascii_lowercase(), value.as_ref().to_vec()));
        self
    }

    /// The response's body, for [`Exchange::on_response_body`].
    #[must_use]
    pub fn response_body(self, content: impl Into<Vec<u8>>) -> Exchange {
        *self.response_body.content.borrow_mut() = content.into();
        self
    }

    /// Adds a field to the response's trailers.
    #[must_use]
    pub fn trailer(self, name: &str, value: impl AsRef<[u8]>) -> Exchange {
        self.trailers.fields.borrow_mut().push((name.to_ascii_lowercase(), value.as_ref().to_vec()));
        self
    }

    #[track_caller]
    pub fn on_request(&mut self, plugin: &impl OnRequest) -> Decision {
        self.request.open.set(true);
        lowered(backend::routing::open(|| plugin.on_request(&mut Request::new(&self.request))))
    }

    #[track_caller]
    pub fn on_request_body(&mut self, plugin: &impl OnRequestBody) -> Decision {
        self.request.open.set(true);
        let (mut request, mut body) = (Request::new(&self.request), Body::new(&self.body));
        lowered(backend::routing::open(|| plugin.on_request_body(&mut request, &mut body)))
    }

    #[track_caller]
    pub fn on_response(&mut self, plugin: &impl OnResponse) -> Decision {
        self.request.open.set(false);
        self.response.open.set(true);
        lowered(plugin.on_response(&Request::new(&self.request), &mut Response::new(&self.response)))
    }

    #[track_caller]
    pub fn on_response_body(&mut self, plugin: &impl OnResponseBody) -> Decision {
        self.request.open.set(false);
        self.response.open.set(true);
        let (mut response, mut body) = (Response::new(&self.response), Body::new(&self.response_body));
        lowered(plugin.on_response_body(&Request::new(&self.request), &mut response, &mut body))
    }

    /// Plays a body of these pieces. Gives what goes on, or what else was decided.
    #[track_caller]
    pub fn on_request_pieces<P: OnRequestPiece>(
        &mut self,
        plugin: &P,
        pieces: &[impl AsRef<[u8]>],
    ) -> Result<Vec<u8>, Decision> {
        self.request.open.set(false);
        let (request, mut state) = (Request::new(&self.request), P::State::default());
        passed(pieces, |piece| plugin.on_request_piece(&mut state, &request, piece))
    }

    /// The same of a response's body.
    #[track_caller]
    pub fn on_response_pieces<P: OnResponsePiece>(
        &mut self,
        plugin: &P,
        pieces: &[impl AsRef<[u8]>],
    ) -> Result<Vec<u8>, Decision> {
        self.request.open.set(false);
        self.response.open.set(false);
        let (request, response) = (Request::new(&self.request), Response::new(&self.response));
        let mut state = P::State::default();
        passed(pieces, |piece| plugin.on_response_piece(&mut state, &request, &response, piece))
    }

    #[track_caller]
    pub fn on_response_trailers(&mut self, plugin: &impl OnResponseTrailers) {
        self.request.open.set(false);
        self.response.open.set(false);
        let (request, response) = (Request::new(&self.request), Response::new(&self.response));
        plugin.on_response_trailers(&request, &response, &mut Trailers::new(&self.trailers));
    }

    #[track_caller]
    pub fn on_log(&mut self, plugin: &impl OnLog, duration: Duration) {
        self.request.open.set(false);
        self.response.open.set(false);
        let summary = backend::Summary { duration: duration.as_nanos() as u64, ..backend::Summary::default() };
        plugin.on_log(&Request::new(&self.request), Some(&Response::new(&self.response)), &Summary::new(&summary));
    }

    /// The request as it is now.
    pub fn request(&self) -> Request<'_> {
        Request::new(&self.request)
    }

    /// The response's head as it is now.
    pub fn response(&self) -> Response<'_> {
        Response::new(&self.response)
    }

    /// The response's trailers as they are now.
    pub fn trailers(&self) -> Trailers<'_> {
        Trailers::new(&self.trailers)
    }

    /// The response's body as it is now.
    pub fn response_body_now(&self) -> Vec<u8> {
        self.response_body.content.borrow().clone()
    }

    /// The request's body as it is now.
    pub fn body_now(&self) -> Vec<u8> {
        self.body.content.borrow().clone()
    }
}

/// With header names as the client gets them.
fn lowered(mut decision: Decision) -> Decision {
    if let Decision::Respond(reply) = &mut decision {
        reply.headers.iter_mut().for_each(|(name, _)| name.make_ascii_lowercase());
    }
    decision
}

#[track_caller]
fn passed(pieces: &[impl AsRef<[u8]>], mut call: impl FnMut(&mut Piece<'_>) -> Decision) -> Result<Vec<u8>, Decision> {
    let mut went_on = Vec::new();
    for (n, content) in pieces.iter().enumerate() {
        let content = content.as_ref().to_vec().into();
        let piece = backend::Piece { content, first: n == 0, last: n + 1 == pieces.len() };
        match call(&mut Piece::new(&piece)) {
            Decision::Continue => went_on.extend(piece.content.take()),
            other => return Err(lowered(other)),
        }
    }
    Ok(went_on)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_can_only_be_read_after_its_phase() {
        let exchange = Exchange::get("/a").header("X-A", "1");
        exchange.request.open.set(true);
        let mut request = exchange.request();
        assert_eq!(request.header_str("x-a").as_deref(), Some("1"));
        request.set_header("x-a", "2").unwrap();
        request.append_header("X-A", "3").unwrap();
        assert_eq!(request.header_values("x-a"), [b"2", b"3"]);
        exchange.request.open.set(false);
        assert!(exchange.request().set_header("x-a", "4").is_err());
        assert!(exchange.request().set_path("/b").is_err());
    }

    #[test]
    fn what_the_gateway_refuses_is_refused() {
        let exchange = Exchange::get("/");
        exchange.request.open.set(true);
        let mut request = exchange.request();
        for name in ["content-length", "Connection", "a b", ""] {
            assert!(request.set_header(name, "1").is_err(), "{name:?}");
        }
        assert!(request.set_header("x-a", "a\r\nb: c").is_err());
        assert!(request.set_path("no-slash").is_err());
        assert!(request.set_query(Some("a b")).is_err());
    }

    #[test]
    fn where_a_request_goes_is_said_where_it_is_allowed_and_before_it_has_gone() {
        use crate::routing;
        let without = Exchange::get("/").backend("a", |_| StubAnswer::new(200));
        let refused = |what: &str| Err(what.to_owned());
        let not_allowed = || refused("the Plugin's capabilities.routing does not allow it");
        assert_eq!(backend::routing::open(|| routing::use_backend("a")), not_allowed());
        assert_eq!(backend::routing::open(routing::find_route), not_allowed());
        drop(without);
        let exchange = Exchange::get("/").routing().backend("a", |_| StubAnswer::new(200));
        assert_eq!(routing::use_backend("a"), refused("the request is on its way already"));
        backend::routing::open(|| {
            assert_eq!(
                routing::use_backend("b"),
                refused("the Plugin's capabilities.backends has no `b` that can be used")
            );
            assert_eq!(routing::use_backend("a"), Ok(()));
        });
        assert_eq!((exchange.destination().as_deref(), exchange.finds_route()), (Some("a"), false));
        backend::routing::open(|| assert_eq!(routing::find_route(), Ok(())));
        assert_eq!((exchange.destination(), exchange.finds_route()), (None, true), "a new rule has its own backends");
    }

    #[test]
    fn attributes_have_types_and_belong_to_one_exchange() {
        let _exchange = Exchange::get("/").attribute("n", 5i64).attribute("b", true).attribute("s", "x".to_owned());
        assert_eq!(attributes::get::<i64>("n"), Some(5));
        assert_eq!(attributes::get::<String>("n"), None);
        assert_eq!(attributes::get::<bool>("b"), Some(true));
        attributes::remove("b");
        assert_eq!(attributes::get::<bool>("b"), None);
        let _next = Exchange::get("/");
        assert_eq!(attributes::get::<String>("s"), None);
    }
}
