//! Requests and responses of the gateway as plugins see them.

use super::super::authority::canonical;
use super::super::context::RequestContext;
use super::super::names;
use crate::downstream::ConnectionInfo;
use crate::snapshot::{BackendRef, ListenerRuntime, RuleRuntime};
use ::http::uri::PathAndQuery;
use ::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, Version, header, request, response};
use pingora_proxy::Session;
use sluice_model::condition::Facts;
use sluice_model::config::{EscapedSlashes, PathPolicy};
use sluice_model::path::{check_query, normalize};
use sluice_wasm::{Refused, RequestView, ResponseView, method_may_become};
use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What is known besides the head section.
pub(super) struct RequestFacts {
    client: IpAddr,
    tls: bool,
    listener: Option<Arc<ListenerRuntime>>,
    rule: Option<Arc<RuleRuntime>>,
    sni: Option<Box<str>>,
    tls_version: Option<&'static str>,
    /// The client proved who it is, by a certificate.
    mtls: bool,
    peer: Option<SocketAddr>,
    local: Option<SocketAddr>,
    /// The endpoint, once one was chosen.
    upstream: Option<SocketAddr>,
    backend: Option<usize>,
    chosen: Option<Arc<BackendRef>>,
    started: Instant,
}

impl RequestFacts {
    pub(super) fn new(session: &Session, ctx: &RequestContext) -> Self {
        let connection = session.digest().and_then(ConnectionInfo::of);
        let info = connection.and_then(|info| info.tls.as_ref());
        RequestFacts {
            client: ctx.client,
            tls: ctx.tls,
            listener: ctx.listener.clone(),
            rule: ctx.rule.clone(),
            sni: info.and_then(|tls| tls.sni.clone()),
            tls_version: info.map(|tls| tls.version),
            mtls: info.is_some_and(|tls| tls.client_certificate.is_some()),
            peer: connection.map(|info| plain(info.peer)),
            local: connection.map(|info| plain(info.local)),
            upstream: ctx.upstream.address,
            backend: ctx.backend,
            chosen: ctx.chosen.clone(),
            started: ctx.started,
        }
    }

    /// The client, as trusted proxies tell it. Of a port that they don't tell there is none.
    fn source(&self) -> Option<SocketAddr> {
        let peer = self.peer?;
        Some(if peer.ip() == self.client { peer } else { SocketAddr::new(self.client, 0) })
    }

    fn path_policy(&self) -> PathPolicy {
        let policy = self.listener.as_ref().map(|listener| listener.edge().path).unwrap_or_default();
        let own = self.rule.as_ref().and_then(|rule| rule.config.client.escaped_slashes);
        match own.filter(|slashes| *slashes != EscapedSlashes::Keep) {
            Some(escaped_slashes) => PathPolicy { escaped_slashes, ..policy },
            None => policy,
        }
    }
}

/// IPv4 as itself, also on a socket of both families.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

pub(super) struct GatewayRequest {
    head: request::Parts,
    facts: RequestFacts,
    /// The target before the first change.
    former: Option<Box<[u8]>>,
}

impl GatewayRequest {
    pub(super) fn new(head: request::Parts, facts: RequestFacts) -> Self {
        GatewayRequest { head, facts, former: None }
    }

    /// The head, the target before the first change, and what was known besides.
    pub(super) fn into_parts(self) -> (request::Parts, Option<Box<[u8]>>, RequestFacts) {
        (self.head, self.former, self.facts)
    }

    fn set_target(&mut self, path: &str, query: Option<&str>) -> Result<(), Refused> {
        let mut target = String::with_capacity(path.len() + query.map_or(0, |query| query.len() + 1));
        target.push_str(path);
        if let Some(query) = query {
            target.push('?');
            target.push_str(query);
        }
        let target = PathAndQuery::try_from(target).map_err(|_| Refused::Path)?;
        let before = self.head.uri.path_and_query().map_or("/", PathAndQuery::as_str).as_bytes().into();
        let mut uri = self.head.uri.clone().into_parts();
        uri.path_and_query = Some(target);
        self.head.uri = Uri::from_parts(uri).map_err(|_| Refused::Path)?;
        self.former.get_or_insert(before);
        Ok(())
    }
}

impl RequestView for GatewayRequest {
    fn method(&self) -> &str {
        self.head.method.as_str()
    }

    fn scheme(&self) -> &str {
        scheme(self.facts.tls)
    }

    fn authority(&self) -> &str {
        authority(self.head.headers.get(header::HOST), &self.head.uri)
    }

    fn path(&self) -> &str {
        self.head.uri.path()
    }

    fn query(&self) -> Option<&str> {
        self.head.uri.query()
    }

    fn property(&self, name: &str) -> Option<Cow<'_, str>> {
        let facts = &self.facts;
        match name {
            "request.id" => self.head.headers.get(names::X_REQUEST_ID)?.to_str().ok().map(Cow::Borrowed),
            "request.protocol" => Some(Cow::Borrowed(protocol(self.head.version))),
            "client.address" => Some(Cow::Owned(facts.client.to_string())),
            "request.time" => {
                let started = SystemTime::now().checked_sub(facts.started.elapsed())?;
                Some(Cow::Owned(started.duration_since(UNIX_EPOCH).ok()?.as_nanos().to_string()))
            }
            "source.address" => Some(Cow::Owned(facts.source()?.to_string())),
            "destination.address" => Some(Cow::Owned(facts.local?.to_string())),
            "upstream.address" => Some(Cow::Owned(facts.upstream?.to_string())),
            "upstream.backend" => {
                let drawn = || facts.rule.as_ref()?.backends.get(facts.backend?);
                let (_, metrics) = facts.chosen.as_deref().or_else(drawn)?.target.as_ref()?;
                Some(Cow::Owned(metrics.label.to_string()))
            }
            "connection.mtls" => Some(Cow::Borrowed(if facts.mtls { "true" } else { "false" })),
            "connection.tls_version" => facts.tls_version.map(Cow::Borrowed),
            "connection.sni" => facts.sni.as_deref().map(Cow::Borrowed),
            "listener.name" => facts.listener.as_ref().map(|listener| Cow::Borrowed(&*listener.label)),
            "route.name" => facts.rule.as_ref().map(|rule| Cow::Borrowed(&*rule.route_label)),
            "route.rule" => facts.rule.as_ref().map(|rule| Cow::Borrowed(&*rule.config.id.rule)),
            _ => None,
        }
    }

    fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// What a plugin sets is brought into normal form as what a client sends, and refused as that is: there is one form
    /// behind the gateway.
    fn set_path(&mut self, path: &str) -> Result<(), Refused> {
        let policy = self.facts.path_policy();
        let path = normalize(path.as_bytes(), policy).map_err(|error| Refused::NotNormal(error.to_string()))?;
        let query = self.head.uri.query().map(str::to_owned);
        self.set_target(&path, query.as_deref())
    }

    fn set_query(&mut self, query: Option<&str>) -> Result<(), Refused> {
        if let Some(query) = query {
            check_query(query.as_bytes()).map_err(|error| Refused::NotNormal(error.to_string()))?;
        }
        let path = self.head.uri.path().to_owned();
        self.set_target(&path, query)
    }

    fn set_method(&mut self, method: &str) -> Result<(), Refused> {
        self.head.method = method_may_become(&self.head.method, method)?;
        Ok(())
    }

    /// As HTTP/1 has it: HTTP/2's `:authority` is made of it when the request goes out. Where the target names one itself, as
    /// that of an HTTP/2 client does, the engine would take that.
    fn set_authority(&mut self, authority: &str) -> Result<(), Refused> {
        canonical(authority.as_bytes()).ok_or(Refused::Authority)?;
        let value = HeaderValue::from_str(authority).map_err(|_| Refused::Authority)?;
        if self.head.uri.authority().is_some() {
            let mut parts = self.head.uri.clone().into_parts();
            parts.authority = Some(authority.parse().map_err(|_| Refused::Authority)?);
            self.head.uri = Uri::from_parts(parts).map_err(|_| Refused::Authority)?;
        }
        self.head.headers.insert(header::HOST, value);
        Ok(())
    }

    fn set_header(&mut self, name: HeaderName, value: HeaderValue) {
        self.head.headers.insert(name, value);
    }

    fn append_header(&mut self, name: HeaderName, value: HeaderValue) {
        self.head.headers.append(name, value);
    }

    fn remove_header(&mut self, name: &HeaderName) {
        self.head.headers.remove(name);
    }
}

/// `HTTP/1.1`, as the log says it.
pub(in super::super) fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP",
    }
}

/// What a use's condition looks at.
pub(super) struct RequestConditions<'r> {
    head: &'r pingora_http::RequestHeader,
    host: Cow<'r, str>,
    tls: bool,
    client: IpAddr,
}

impl<'r> RequestConditions<'r> {
    pub(super) fn new(session: &'r Session, ctx: &RequestContext) -> Self {
        let head = session.req_header();
        let authority = authority(head.headers.get(header::HOST), &head.uri).as_bytes();
        let host = canonical(authority).map(|authority| authority.host).unwrap_or_default();
        RequestConditions { head, host, tls: ctx.tls, client: ctx.client }
    }
}

impl Facts for RequestConditions<'_> {
    fn method(&self) -> &str {
        self.head.method.as_str()
    }

    fn scheme(&self) -> &str {
        scheme(self.tls)
    }

    fn host(&self) -> &str {
        &self.host
    }

    fn path(&self) -> &str {
        self.head.uri.path()
    }

    fn query(&self) -> &str {
        self.head.uri.query().unwrap_or_default()
    }

    fn protocol(&self) -> &str {
        protocol(self.head.version)
    }

    fn header(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.head.headers.get(name)?.as_bytes()).ok()
    }

    fn client(&self) -> IpAddr {
        self.client
    }
}

fn authority<'r>(host: Option<&'r HeaderValue>, uri: &'r Uri) -> &'r str {
    let host = host.and_then(|host| host.to_str().ok());
    host.or_else(|| uri.authority().map(|authority| authority.as_str())).unwrap_or_default()
}

fn scheme(tls: bool) -> &'static str {
    if tls { "https" } else { "http" }
}

pub(super) struct GatewayResponse(response::Parts);

impl GatewayResponse {
    pub(super) fn new(head: response::Parts) -> Self {
        GatewayResponse(head)
    }

    pub(super) fn into_parts(self) -> response::Parts {
        self.0
    }
}

impl ResponseView for GatewayResponse {
    fn status(&self) -> StatusCode {
        self.0.status
    }

    fn headers(&self) -> &HeaderMap {
        &self.0.headers
    }

    fn set_status(&mut self, status: StatusCode) {
        self.0.status = status;
    }

    fn set_header(&mut self, name: HeaderName, value: HeaderValue) {
        self.0.headers.insert(name, value);
    }

    fn append_header(&mut self, name: HeaderName, value: HeaderValue) {
        self.0.headers.append(name, value);
    }

    fn remove_header(&mut self, name: &HeaderName) {
        self.0.headers.remove(name);
    }
}
