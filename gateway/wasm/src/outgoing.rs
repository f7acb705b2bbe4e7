//! Calls of plugins to backends: what the host asks of the proxy, and what a guest's handles do.
//!
//! A guest calls [`fetch`](outgoing::Host::fetch) and goes on with the answer; in between its stack waits on a fiber,
//! and the thread serves others. Such a guest is called asynchronously from its first instance on, which costs some
//! hundred nanoseconds a call; one that does not import `outgoing` pays nothing.

use crate::fields;
use crate::guest::generated::sluice::plugin::outgoing;
use crate::instance::{State, broken};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, Method, StatusCode};
use sluice_model::plugin::PluginKey;
use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wasmtime::Result;
use wasmtime::component::Resource;

/// Bytes of the body of a request that a plugin sends.
pub(crate) const MAX_BODY: u64 = 1 << 20;

/// Sends requests of plugins to the backends that they are given.
///
/// The proxy lends one to an exchange ([`Exchange::outbound`](crate::Exchange::outbound)) for a plugin that has backends.
pub trait Outbound: Send + Sync {
    /// Whether the plugin is given a backend of this name.
    fn has(&self, backend: &str) -> bool;

    /// Sends `request` to the backend of this name, and waits for the whole answer, at most until `request.until`.
    fn fetch(
        &self,
        backend: &str,
        request: OutboundRequest,
    ) -> BoxFuture<'static, std::result::Result<OutboundResponse, FetchError>>;
}

/// What plugins may call outside of an exchange: filters that do it now and then, by themselves.
pub trait Backends: Send + Sync {
    /// By the configuration that serves now; none where the plugin is given no backend.
    fn of(&self, plugin: &PluginKey) -> Option<Arc<dyn Outbound>>;
}

/// A request as a plugin put it together, checked.
#[derive(Clone, Debug)]
pub struct OutboundRequest {
    pub method: Method,
    pub target: PathAndQuery,
    /// None: the backend's own name.
    pub authority: Option<Authority>,
    /// Without any that frames the message or belongs to the connection.
    pub headers: HeaderMap,
    pub body: Bytes,
    /// When the whole answer must be there.
    pub until: Instant,
    /// Bytes of the answer's body.
    pub max_body: u64,
    pub own: OwnBounds,
}

/// What a plugin of the contract bounds a call by itself. `until` and `max_body` keep to it; it is for whoever stands in for a
/// backend in tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnBounds {
    pub timeout: Option<Duration>,
    pub max_body: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct OutboundResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: HeaderMap,
    /// Accounts for the body's bytes for as long as the guest has the answer.
    pub held: Option<Arc<dyn Any + Send + Sync>>,
}

/// Why a plugin got no answer: the label `outcome` of `sluice_plugin_backend_calls_total`, and `failure.kind` of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FetchErrorKind {
    /// The plugin is given no such backend, or none may be called in this phase.
    NotAllowed,
    /// What the plugin put together is no request.
    Invalid,
    /// The backend has no endpoint that takes requests.
    NoEndpoint,
    /// No connection to the endpoint.
    Connect,
    /// Not all of the answer was there in time.
    Timeout,
    /// The answer is no HTTP, or broke off.
    Protocol,
    /// The answer's body is larger than the plugin allows.
    TooLarge,
    /// A limit of the backend's circuit breaker.
    Overloaded,
}

impl FetchErrorKind {
    pub const ALL: [FetchErrorKind; 8] = [
        FetchErrorKind::NotAllowed,
        FetchErrorKind::Invalid,
        FetchErrorKind::NoEndpoint,
        FetchErrorKind::Connect,
        FetchErrorKind::Timeout,
        FetchErrorKind::Protocol,
        FetchErrorKind::TooLarge,
        FetchErrorKind::Overloaded,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            FetchErrorKind::NotAllowed => "not-allowed",
            FetchErrorKind::Invalid => "invalid",
            FetchErrorKind::NoEndpoint => "no-endpoint",
            FetchErrorKind::Connect => "connect",
            FetchErrorKind::Timeout => "timeout",
            FetchErrorKind::Protocol => "protocol",
            FetchErrorKind::TooLarge => "too-large",
            FetchErrorKind::Overloaded => "overloaded",
        }
    }
}

impl fmt::Display for FetchErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Clone, Debug, thiserror::Error)]
#[error("{kind}: {message}")]
pub struct FetchError {
    pub kind: FetchErrorKind,
    pub message: String,
}

impl FetchError {
    pub fn new(kind: FetchErrorKind, message: impl Into<String>) -> FetchError {
        FetchError { kind, message: message.into() }
    }
}

/// A request that a guest is putting together.
#[allow(unreachable_pub, reason = "the generated bindings re-export the handle's type")]
pub struct OutgoingRequest {
    method: String,
    target: String,
    authority: Option<Authority>,
    headers: HeaderMap,
    body: Bytes,
    own: OwnBounds,
}

type Answer<T = ()> = std::result::Result<T, String>;

impl outgoing::HostOutgoingRequest for State {
    fn new(&mut self, method: String, target: String) -> Result<Resource<OutgoingRequest>> {
        let request = OutgoingRequest {
            method,
            target,
            authority: None,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            own: OwnBounds::default(),
        };
        Ok(self.owned.push(request)?)
    }

    fn set_authority(&mut self, request: Resource<OutgoingRequest>, authority: String) -> Result<Answer> {
        let request = self.owned.get_mut(&request)?;
        match authority.parse::<Authority>() {
            // A user or password is not part of what a request says.
            Ok(authority) if !authority.as_str().contains('@') => {
                request.authority = Some(authority);
                Ok(Ok(()))
            }
            _ => Ok(Err(format!("`{authority}` is not a host with an optional port (RFC 9110, section 7.2)"))),
        }
    }

    fn set_header(&mut self, request: Resource<OutgoingRequest>, name: String, value: Vec<u8>) -> Result<Answer> {
        let request = self.owned.get_mut(&request)?;
        let field = fields::field(&request.headers, &name, value);
        Ok(field
            .map(|(name, value)| {
                request.headers.insert(name, value);
            })
            .map_err(|refused| refused.to_string()))
    }

    fn append_header(&mut self, request: Resource<OutgoingRequest>, name: String, value: Vec<u8>) -> Result<Answer> {
        let request = self.owned.get_mut(&request)?;
        let field = fields::field(&request.headers, &name, value);
        Ok(field
            .map(|(name, value)| {
                request.headers.append(name, value);
            })
            .map_err(|refused| refused.to_string()))
    }

    fn set_body(&mut self, request: Resource<OutgoingRequest>, content: Vec<u8>) -> Result<Answer> {
        let request = self.owned.get_mut(&request)?;
        if content.len() as u64 > MAX_BODY {
            return Ok(Err(fields::Refused::Body(MAX_BODY).to_string()));
        }
        request.body = content.into();
        Ok(Ok(()))
    }

    fn set_timeout(&mut self, request: Resource<OutgoingRequest>, milliseconds: u64) -> Result<()> {
        self.owned.get_mut(&request)?.own.timeout = Some(Duration::from_millis(milliseconds));
        Ok(())
    }

    fn set_body_limit(&mut self, request: Resource<OutgoingRequest>, bytes: u64) -> Result<()> {
        self.owned.get_mut(&request)?.own.max_body = Some(bytes);
        Ok(())
    }

    fn drop(&mut self, request: Resource<OutgoingRequest>) -> Result<()> {
        self.owned.delete(request)?;
        Ok(())
    }
}

impl outgoing::HostIncomingResponse for State {
    fn status(&mut self, response: Resource<OutboundResponse>) -> Result<u16> {
        Ok(self.owned.get(&response)?.status.as_u16())
    }

    fn header(&mut self, response: Resource<OutboundResponse>, name: String) -> Result<Option<Vec<u8>>> {
        Ok(fields::first(&self.owned.get(&response)?.headers, &name))
    }

    fn header_values(&mut self, response: Resource<OutboundResponse>, name: String) -> Result<Vec<Vec<u8>>> {
        Ok(fields::every(&self.owned.get(&response)?.headers, &name))
    }

    fn headers(&mut self, response: Resource<OutboundResponse>) -> Result<Vec<(String, Vec<u8>)>> {
        Ok(fields::all(&self.owned.get(&response)?.headers))
    }

    fn body(&mut self, response: Resource<OutboundResponse>) -> Result<Vec<u8>> {
        Ok(self.owned.get(&response)?.body.to_vec())
    }

    fn drop(&mut self, response: Resource<OutboundResponse>) -> Result<()> {
        self.owned.delete(response)?;
        Ok(())
    }
}

impl outgoing::HostFailure for State {
    fn kind(&mut self, failure: Resource<FetchError>) -> Result<String> {
        Ok(self.owned.get(&failure)?.kind.as_str().to_owned())
    }

    fn message(&mut self, failure: Resource<FetchError>) -> Result<String> {
        Ok(self.owned.get(&failure)?.message.clone())
    }

    fn drop(&mut self, failure: Resource<FetchError>) -> Result<()> {
        self.owned.delete(failure)?;
        Ok(())
    }
}

impl outgoing::Host for State {
    async fn fetch(
        &mut self,
        backend: String,
        request: Resource<OutgoingRequest>,
    ) -> Result<std::result::Result<Resource<OutboundResponse>, Resource<FetchError>>> {
        let request = self.owned.delete(request)?;
        if self.phase.is_none() {
            return Err(broken("backends are called for an exchange: configure can't call them"));
        }
        let began = Instant::now();
        let answer = match self.sent(request) {
            Ok(request) => match self.outbound() {
                Some(outbound) => outbound.fetch(&backend, request).await,
                None => {
                    let message = format!("the Plugin's capabilities.backends has no `{backend}`");
                    Err(FetchError::new(FetchErrorKind::NotAllowed, message))
                }
            },
            Err(refused) => Err(refused),
        };
        self.log.fetched(answer.as_ref().err().map(|error| error.kind), began.elapsed());
        Ok(match answer {
            Ok(answer) => Ok(self.owned.push(answer)?),
            Err(error) => Err(self.owned.push(error)?),
        })
    }
}

impl State {
    fn outbound(&self) -> Option<Arc<dyn Outbound>> {
        self.exchange.outbound.clone()
    }

    /// What goes to the backend.
    fn sent(&self, request: OutgoingRequest) -> std::result::Result<OutboundRequest, FetchError> {
        let invalid = |message: String| FetchError::new(FetchErrorKind::Invalid, message);
        let method = Method::from_bytes(request.method.as_bytes());
        let method = method.ok().filter(|method| *method != Method::CONNECT);
        let method =
            method.ok_or_else(|| invalid(format!("`{}` is not a method to call a backend with", request.method)))?;
        let path = request.target.split('?').next().unwrap_or_default();
        let query = request.target.get(path.len() + 1..).map_or(Ok(()), fields::query);
        fields::path(path).and(query).map_err(|refused| invalid(refused.to_string()))?;
        let target = PathAndQuery::try_from(request.target).map_err(|error| invalid(error.to_string()))?;
        let own = request.own.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let until = match (own, self.until) {
            (Some(own), Some(until)) => own.min(until),
            (Some(own), None) => own,
            (None, Some(until)) => until,
            // A call always has a deadline.
            (None, None) => return Err(invalid("the call has no deadline".to_owned())),
        };
        Ok(OutboundRequest {
            method,
            target,
            authority: request.authority,
            headers: request.headers,
            body: request.body,
            until,
            max_body: request.own.max_body.map_or(self.body_buffer, |own| own.min(self.body_buffer)),
            own: request.own,
        })
    }
}
