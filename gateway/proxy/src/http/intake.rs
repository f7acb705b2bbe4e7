//! The first look at a request: where it came from, whether it may be served at all, and which rule is its own.

use super::admission::{self, MaxForwards, Refused};
use super::authority::{self, Authority};
use super::context::{Reply, RequestContext};
use super::forwarding::{self, Arrival};
use super::{cors, names, parts, trace};
use crate::downstream::{ConnectionInfo, DownstreamMetrics};
use crate::metrics::InFlight;
use crate::snapshot::{HostRuntime, ListenerRuntime, Snapshot};
use ::http::header::{self, HeaderValue};
use ::http::uri::PathAndQuery;
use ::http::{Method, StatusCode, Uri, Version, request};
use pingora_proxy::Session;
use sluice_model::Reason;
use sluice_model::config::{Edge, EscapedSlashes, PathMatch, PathPolicy};
use sluice_model::matcher::RequestParts;
use sluice_model::path::{self, PathError};
use std::borrow::Cow;
use std::sync::Arc;

/// Fields that the gateway may add to a request: its id, two of the trace, `forwarding`'s, and one for a plugin.
const OWN_FIELDS: usize = 10;

/// Looks at the request once. A refusal is noted in the context; it is sent by the next hook.
pub(super) fn look(
    session: &mut Session,
    ctx: &mut RequestContext,
    snapshot: Arc<Snapshot>,
    counts: &DownstreamMetrics,
) {
    let target_bytes = session.req_header().raw_path().len();
    // Needed only to find what the engine has taken out of an ambiguous request.
    let raw = match session.as_downstream().as_http1() {
        Some(http1) if session.req_header().headers.contains_key(header::TRANSFER_ENCODING) => {
            Some(http1.get_headers_raw_bytes())
        }
        _ => None,
    };
    if !session.req_header().raw_path().starts_with(b"/") {
        ctx.raw_target = Some(session.req_header().raw_path().into());
    }
    let readable = session.req_header().raw_path_is_utf8();
    let mut head = parts::take_request(session.req_header_mut());
    let looked = match session.digest().and_then(ConnectionInfo::of) {
        Some(connection) if readable => {
            let mut intake = Intake { connection, head: &mut head, ctx, snapshot: &snapshot, traced: false };
            let looked = intake.run(target_bytes, raw.as_deref());
            if !intake.traced {
                intake.trace_refused();
            }
            looked
        }
        Some(_) => Err(Refusal::from(Reason::InvalidTarget)),
        None => Err(Refusal::from(Reason::Internal)),
    };
    parts::give_request(session.req_header_mut(), head);
    if let Err(refusal) = looked {
        if let Some(limit) = refusal.limit {
            counts.limit(limit);
        }
        ctx.refused = Some(refusal.reply);
    }
    ctx.in_flight = ctx.listener.as_ref().map(|listener| InFlight::new(&listener.metrics));
    ctx.snapshot = Some(snapshot);
}

/// Looks for the rule again, by what plugins made of the request: on the same listener, which is its connection's.
pub(super) fn find_again(session: &mut Session, ctx: &mut RequestContext) -> Result<(), Reply> {
    let (Some(listener), Some(snapshot)) = (ctx.listener.clone(), ctx.snapshot.clone()) else {
        return Err(Reason::RouteNotFound.into());
    };
    let mut head = parts::take_request(session.req_header_mut());
    let found = match session.digest().and_then(ConnectionInfo::of) {
        Some(connection) => {
            let mut intake = Intake { connection, head: &mut head, ctx, snapshot: &snapshot, traced: true };
            intake.find_again(&listener)
        }
        None => Err(Refusal::from(Reason::Internal)),
    };
    parts::give_request(session.req_header_mut(), head);
    found.map_err(|refusal| refusal.reply)
}

struct Refusal {
    reply: Reply,
    limit: Option<&'static str>,
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Refusal { reply: reason.into(), limit: None }
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        Refusal { reply: refused.reason.into(), limit: refused.limit }
    }
}

impl From<Reply> for Refusal {
    fn from(reply: Reply) -> Self {
        Refusal { reply, limit: None }
    }
}

struct Intake<'a> {
    connection: &'a ConnectionInfo,
    head: &'a mut request::Parts,
    ctx: &'a mut RequestContext,
    snapshot: &'a Snapshot,
    /// It was decided whether the request is sampled.
    traced: bool,
}

impl Intake<'_> {
    fn run(&mut self, target_bytes: usize, raw: Option<&[u8]>) -> Result<(), Refusal> {
        let peer = self.connection.peer.ip();
        self.ctx.client = peer.to_canonical();
        self.ctx.tls = self.connection.tls.is_some();
        self.ctx.grpc = is_grpc(self.head);
        let snapshot = self.snapshot;
        let port = snapshot.ports.get(&self.connection.port).ok_or(Reason::RouteNotFound)?;

        let host_field = self.host()?;
        let authority = match host_field.as_bytes() {
            // RFC 9112, section 3.2, asks for a Host since HTTP/1.1 only.
            [] if self.head.version == Version::HTTP_10 => Authority { host: Cow::Borrowed(""), port: None },
            host => authority::canonical(host).ok_or(Reason::InvalidHost)?,
        };
        let listener = port.listener(&authority.host);
        let edge = listener.map_or(&*port.config.edge, |listener| listener.edge());
        if let Some(listener) = listener {
            self.ctx.listener = Some(listener.clone());
            self.not_misdirected(listener)?;
        }

        admission::check(self.head, target_bytes, raw, edge)?;
        let connection = admission::fields(&mut self.head.headers, self.head.version, edge)?;
        self.ctx.websocket = connection.websocket;
        if self.head.version == Version::HTTP_2 {
            admission::join_cookies(&mut self.head.headers);
        }
        // Once, instead of each time that the table is full.
        self.head.headers.reserve(OWN_FIELDS);
        let origin = forwarding::origin(&self.head.headers, peer, &edge.forwarding);
        self.ctx.client = origin.client;
        forwarding::request_id(&mut self.head.headers, origin.trusted, &edge.forwarding);
        self.trace(origin.trusted);
        let arrival = Arrival { peer, tls: self.ctx.tls, authority_port: authority.port };
        let peer_field = self.connection.peer_field.get_or_init(|| forwarding::address_value(peer.to_canonical()));
        forwarding::write(self.head, &host_field, arrival, peer_field, &origin, &edge.forwarding)?;

        self.max_forwards()?;
        self.normalize(edge.path)?;
        let (host, index) =
            listener.and_then(|listener| find(listener, &authority.host, self.head)).ok_or(Reason::RouteNotFound)?;
        self.choose(host, index, edge)
    }

    fn find_again(&mut self, listener: &ListenerRuntime) -> Result<(), Refusal> {
        self.ctx.rule = None;
        let host = self.host()?;
        let host = match host.as_bytes() {
            [] => Cow::Borrowed(""),
            host => authority::canonical(host).ok_or(Reason::InvalidHost)?.host,
        };
        let (host, index) = find(listener, &host, self.head).ok_or(Reason::RouteNotFound)?;
        self.choose(host, index, listener.edge())
    }

    fn trace(&mut self, trusted: bool) {
        let tracer = self.ctx.listener.as_ref().and_then(|listener| listener.tracer.as_ref());
        self.ctx.trace = trace::enter(&mut self.head.headers, trusted, tracer);
        self.traced = true;
    }

    /// Refused for its form: of what it says of its way nothing is believed.
    fn trace_refused(&mut self) {
        if self.ctx.listener.as_ref().is_some_and(|listener| listener.tracer.is_some()) {
            self.trace(false);
        }
    }

    /// The authority as it came, in Host for both versions: that is where everything after here looks for it.
    fn host(&mut self) -> Result<HeaderValue, Refusal> {
        if let Some(host) = self.head.headers.get(header::HOST) {
            return Ok(host.clone());
        }
        if let Some(authority) = self.head.uri.authority() {
            let host = HeaderValue::from_str(authority.as_str()).map_err(|_| Reason::InvalidHost)?;
            self.head.headers.insert(header::HOST, host.clone());
            return Ok(host);
        }
        match self.head.version {
            Version::HTTP_10 => Ok(HeaderValue::from_static("")),
            _ => Err(Reason::InvalidHost.into()),
        }
    }

    /// A TLS connection was made for the listener of its SNI, with that one's certificate and demands on clients
    /// (GEP-3567; RFC 9110, section 7.4).
    fn not_misdirected(&self, listener: &ListenerRuntime) -> Result<(), Refusal> {
        let Some(tls) = &self.connection.tls else { return Ok(()) };
        let validation = listener.config.tls.as_ref().and_then(|tls| tls.client_validation.as_ref());
        let unverified = validation.is_some_and(|validation| !validation.optional) && !tls.client_verified;
        if tls.listener != listener.config.id || unverified {
            return Err(Reason::MisdirectedRequest.into());
        }
        Ok(())
    }

    fn max_forwards(&mut self) -> Result<(), Refusal> {
        if self.head.method != Method::OPTIONS {
            return Ok(());
        }
        match admission::max_forwards(self.head) {
            MaxForwards::Answer => return Err(Reason::MaxForwards.into()),
            MaxForwards::Forward(hops) => {
                self.head.headers.insert(header::MAX_FORWARDS, HeaderValue::from(hops));
            }
            MaxForwards::Absent => {}
        }
        // About the gateway itself (RFC 9110, section 9.3.7), and so answered by it.
        if self.head.uri.path() == "*" {
            return Err(Reason::MaxForwards.into());
        }
        Ok(())
    }

    fn normalize(&mut self, policy: PathPolicy) -> Result<(), Refusal> {
        if let Some(query) = self.head.uri.query() {
            path::check_query(query.as_bytes()).map_err(|error| error.reason())?;
        }
        let normal = match path::normalize(self.head.uri.path().as_bytes(), policy) {
            Ok(Cow::Borrowed(_)) => return Ok(()),
            Ok(Cow::Owned(normal)) => normal,
            Err(PathError::Redirect { location }) if !self.ctx.grpc => return Err(self.to_normal(&location).into()),
            Err(PathError::Redirect { .. }) => return Err(Reason::EscapedSlash.into()),
            Err(error) => return Err(error.reason().into()),
        };
        let before = self.head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        if self.ctx.raw_target.is_none() {
            self.ctx.raw_target = Some(before.as_bytes().into());
        }
        let target = with_query(&normal, self.head.uri.query());
        let mut uri = std::mem::take(&mut self.head.uri).into_parts();
        uri.path_and_query = Some(PathAndQuery::try_from(target).map_err(|_| Reason::InvalidTarget)?);
        self.head.uri = Uri::from_parts(uri).map_err(|_| Reason::InvalidTarget)?;
        Ok(())
    }

    fn to_normal(&self, location: &str) -> Reply {
        match HeaderValue::try_from(with_query(location, self.head.uri.query())) {
            Ok(location) => Reply::to(Reason::PathNormalized, StatusCode::TEMPORARY_REDIRECT, location),
            Err(_) => Reason::InvalidTarget.into(),
        }
    }

    /// Notes the rule, and what of it must be known before anything else.
    fn choose(&mut self, host: &HostRuntime, index: u32, edge: &Edge) -> Result<(), Refusal> {
        let matched = host.config.matches.get(index as usize).ok_or(Reason::Internal)?;
        let rule = host.rules.get(matched.rule as usize).ok_or(Reason::Internal)?;
        self.ctx.prefix = Some(match &matched.path {
            PathMatch::Prefix(prefix) => prefix.len(),
            PathMatch::Exact(exact) => exact.len(),
            PathMatch::Regex(_) => 0,
        });
        if let Some(trace) = &mut self.ctx.trace {
            trace.route = Some(match &matched.path {
                PathMatch::Exact(path) => path.clone(),
                PathMatch::Prefix(prefix) if prefix.is_empty() => "/".into(),
                PathMatch::Prefix(prefix) => prefix.clone(),
                PathMatch::Regex(pattern) => pattern.source.clone(),
            });
        }
        self.ctx.rule = Some(rule.clone());
        let client = &rule.config.client;
        self.ctx.body_limit = match (edge.limits.body, client.max_body) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        if let Some(slashes) = client.escaped_slashes.filter(|slashes| *slashes != EscapedSlashes::Keep) {
            self.normalize(PathPolicy { escaped_slashes: slashes, ..edge.path })?;
        }
        Ok(())
    }
}

fn with_query(path: &str, query: Option<&str>) -> String {
    let mut target = String::with_capacity(path.len() + query.map_or(0, |query| query.len() + 1));
    target.push_str(path);
    if let Some(query) = query {
        target.push('?');
        target.push_str(query);
    }
    target
}

/// From the most specific host pattern to the least: a request that no rule of the one matches falls to the next, but
/// never out of its listener (Gateway API, listener isolation).
fn find<'l>(listener: &'l ListenerRuntime, host: &str, head: &request::Parts) -> Option<(&'l HostRuntime, u32)> {
    let of_method = |method: &Method| {
        let request = RequestParts {
            path: head.uri.path(),
            method,
            headers: &head.headers,
            query: head.uri.query().unwrap_or_default(),
        };
        listener.hosts.candidates(host).find_map(|candidate| Some((&**candidate, candidate.matcher.find(&request)?)))
    };
    // A preflight asks for the rule of the request that is to follow it, whose method a match may name.
    let asked = cors::preflight(head).and_then(|method| Method::from_bytes(method.as_bytes()).ok());
    let asked = asked.and_then(|method| of_method(&method)).filter(|(host, index)| has_cors(host, *index));
    asked.or_else(|| of_method(&head.method))
}

fn has_cors(host: &HostRuntime, index: u32) -> bool {
    let matched = host.config.matches.get(index as usize);
    let rule = matched.and_then(|matched| host.rules.get(matched.rule as usize));
    rule.is_some_and(|rule| rule.config.filters.cors.is_some())
}

fn is_grpc(head: &request::Parts) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    let Some(kind) = head.headers.get(header::CONTENT_TYPE) else { return false };
    let kind = kind.as_bytes();
    kind.len() >= GRPC.len()
        && kind[..GRPC.len()].eq_ignore_ascii_case(GRPC)
        && matches!(kind.get(GRPC.len()), None | Some(b'+' | b';' | b' '))
}

/// The time that a gRPC client gives the call (gRPC over HTTP/2, "Timeout").
pub(super) fn grpc_timeout(head: &::http::HeaderMap) -> Option<std::time::Duration> {
    use std::time::Duration;
    let value = head.get(names::GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number = digits.parse::<u64>().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn head(kind: &'static str) -> request::Parts {
        ::http::Request::builder().header("content-type", kind).body(()).unwrap().into_parts().0
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for (kind, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=x", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            assert_eq!(is_grpc(&head(kind)), expected, "{kind}");
        }
    }

    #[test]
    fn a_grpc_timeout_has_eight_digits_at_most_and_a_unit() {
        let of = |value: &'static str| {
            grpc_timeout(&[(names::GRPC_TIMEOUT, HeaderValue::from_static(value))].into_iter().collect())
        };
        assert_eq!(of("1S"), Some(Duration::from_secs(1)));
        assert_eq!(of("250m"), Some(Duration::from_millis(250)));
        assert_eq!(of("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for invalid in ["", "S", "1", "1x", "-1S", "123456789S", "1.5S"] {
            assert_eq!(of(invalid), None, "{invalid}");
        }
    }
}
