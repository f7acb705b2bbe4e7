//! What was noted, as OTLP's messages. Attributes are those of OpenTelemetry's semantic conventions for HTTP (1.27), and
//! our own under `sluice.`

use super::span::{Ended, Phase, Server, Try};
use ::http::Method;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, SpanFlags, Status};
use sluice_model::Reason;
use std::borrow::Cow;
use std::net::IpAddr;
use std::time::{Instant, UNIX_EPOCH};

const SERVICE: &str = "sluice";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Who sends: the same for the life of the process.
pub(super) fn resource() -> Resource {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let attributes = vec![
        text("service.name", SERVICE),
        text("service.version", VERSION),
        text("service.instance.id", uuid::Uuid::new_v4().to_string()),
        // In a cluster the pod's name.
        text("host.name", host),
    ];
    Resource { attributes, ..Resource::default() }
}

pub(super) fn request(resource: &Resource, spans: Vec<Span>) -> ExportTraceServiceRequest {
    let scope = InstrumentationScope { name: SERVICE.to_owned(), version: VERSION.to_owned(), ..Default::default() };
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }];
    let of_this = ResourceSpans { resource: Some(resource.clone()), scope_spans, ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![of_this] }
}

/// All spans of one request: its own, one a try, one a plugin's phase.
pub(super) fn spans(ended: &Ended, to: &mut Vec<Span>) {
    let maker = Maker { ended };
    to.push(maker.server());
    for (resend, tried) in ended.trace.tries.iter().enumerate() {
        to.push(maker.client(resend, tried));
    }
    to.extend(ended.trace.phases.iter().map(|phase| maker.internal(phase)));
}

struct Maker<'e> {
    ended: &'e Ended,
}

impl Maker<'_> {
    fn span(&self, id: u64, kind: SpanKind, name: String, began: Instant, ended: Instant) -> Span {
        let trace = &self.ended.trace;
        Span {
            trace_id: trace.span.trace.to_be_bytes().to_vec(),
            span_id: id.to_be_bytes().to_vec(),
            parent_span_id: trace.span.span.to_be_bytes().to_vec(),
            trace_state: trace.state.as_ref().and_then(|s| s.to_str().ok()).unwrap_or_default().to_owned(),
            flags: u32::from(trace.span.flags & 1) | SpanFlags::ContextHasIsRemoteMask as u32,
            name,
            kind: kind as i32,
            start_time_unix_nano: self.nanos(began),
            end_time_unix_nano: self.nanos(ended),
            ..Span::default()
        }
    }

    fn nanos(&self, at: Instant) -> u64 {
        let server = &self.ended.server;
        let since = server.began + at.saturating_duration_since(server.started);
        let nanos = since.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }

    fn server(&self) -> Span {
        let (trace, server) = (&self.ended.trace, &self.ended.server);
        let (method, original) = method(&server.method);
        let verb = if original.is_some() { "HTTP" } else { method };
        let name = match &trace.route {
            Some(route) => format!("{verb} {route}"),
            None => verb.to_owned(),
        };
        let end = server.started + server.duration;
        let mut span = self.span(trace.span.span, SpanKind::Server, name, server.started, end);
        span.parent_span_id = trace.parent.map(|parent| parent.to_be_bytes().to_vec()).unwrap_or_default();
        if trace.parent.is_some() {
            span.flags |= SpanFlags::ContextIsRemoteMask as u32;
        }
        let attributes = &mut span.attributes;
        attributes.push(text("http.request.method", method));
        attributes.extend(original.map(|original| text("http.request.method_original", original)));
        attributes.push(text("url.scheme", server.scheme));
        attributes.push(text("url.path", &*server.path));
        if !server.host.is_empty() {
            attributes.push(text("server.address", &*server.host));
            attributes.push(number("server.port", server.port));
        }
        attributes.push(text("network.protocol.version", server.protocol));
        attributes.push(text("client.address", server.client.to_string()));
        if !server.user_agent.is_empty() {
            attributes.push(text("user_agent.original", &*server.user_agent));
        }
        if server.status != 0 {
            attributes.push(number("http.response.status_code", server.status));
        }
        attributes.extend(trace.route.as_deref().map(|route| text("http.route", route)));
        attributes.push(text("sluice.listener", &*server.listener));
        attributes.extend(server.rule.as_ref().map(|(route, rule)| text("sluice.rule", format!("{route}/{rule}"))));
        attributes.extend(server.backend.as_deref().map(|backend| text("sluice.backend", backend)));
        attributes.push(text("sluice.reason", server.reason.as_str()));
        fail(&mut span, server_error(server));
        span
    }

    fn client(&self, resend: usize, tried: &Try) -> Span {
        let server = &self.ended.server;
        let (method, original) = method(&server.method);
        let name = if original.is_some() { "HTTP" } else { method }.to_owned();
        let end = tried.ended.unwrap_or(server.started + server.duration);
        let mut span = self.span(tried.span, SpanKind::Client, name, tried.began, end);
        let address = address(tried.endpoint.ip());
        let attributes = &mut span.attributes;
        attributes.push(text("http.request.method", method));
        attributes.push(text("server.address", address.clone()));
        attributes.push(number("server.port", tried.endpoint.port()));
        attributes.push(text("network.peer.address", address));
        attributes.push(number("network.peer.port", tried.endpoint.port()));
        if resend > 0 {
            attributes.push(integer("http.request.resend_count", i64::try_from(resend).unwrap_or(i64::MAX)));
        }
        if tried.status != 0 {
            attributes.push(number("http.response.status_code", tried.status));
        }
        attributes.extend(server.backend.as_deref().map(|backend| text("sluice.backend", backend)));
        fail(&mut span, client_error(server, tried));
        span
    }

    fn internal(&self, phase: &Phase) -> Span {
        let plugin = phase.plugin.to_string();
        let name = format!("plugin {plugin} {}", phase.phase);
        let mut span = self.span(phase.span, SpanKind::Internal, name, phase.began, phase.ended);
        span.attributes.push(text("sluice.plugin.name", plugin));
        span.attributes.push(text("sluice.plugin.phase", phase.phase));
        span.attributes.push(text("sluice.plugin.outcome", phase.outcome));
        fail(&mut span, phase.failed.then_some(Cow::Borrowed(phase.outcome)));
        span
    }
}

/// A server's span fails with a status of 500 and above, and where the answer was not brought to its end; 4xx is the
/// client's affair, and so is its going away.
fn server_error(server: &Server) -> Option<Cow<'static, str>> {
    let reason = server.reason;
    let cut_short = reason == Reason::ResponseTruncated || (reason == Reason::StreamIdle && !server.tunnel);
    // A gRPC call that the gateway answers has status 200; its reason has what HTTP would have said.
    let failed = server.status >= 500 || reason.status() >= 500 || cut_short;
    failed.then(|| match reason {
        Reason::Upstream => server.status.to_string().into(),
        reason => reason.as_str().into(),
    })
}

/// A client's span fails with a status of 400 and above too.
fn client_error(server: &Server, tried: &Try) -> Option<Cow<'static, str>> {
    let never_ended = match (tried.ended, server.reason) {
        // The request ended before its answer did, or before there was one.
        (None, reason) if tried.status == 0 => Some(reason),
        (None, reason @ (Reason::ResponseTruncated | Reason::RequestTimeout | Reason::UpstreamTimeout)) => Some(reason),
        _ => None,
    };
    match tried.failure.or(never_ended) {
        Some(failure) => Some(failure.as_str().into()),
        None => (tried.status >= 400).then(|| tried.status.to_string().into()),
    }
}

/// The status is left unset where nothing failed.
fn fail(span: &mut Span, error: Option<Cow<'static, str>>) {
    let Some(error) = error else { return };
    span.attributes.push(text("error.type", error));
    span.status = Some(Status { code: StatusCode::Error as i32, ..Status::default() });
}

/// A method that the conventions do not name is `_OTHER`, so that nobody can make names without end.
fn method(method: &Method) -> (&str, Option<&str>) {
    const KNOWN: [Method; 9] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::PATCH,
        Method::OPTIONS,
        Method::CONNECT,
        Method::TRACE,
    ];
    if KNOWN.contains(method) { (method.as_str(), None) } else { ("_OTHER", Some(method.as_str())) }
}

fn address(address: IpAddr) -> String {
    address.to_canonical().to_string()
}

fn text<'t>(key: &str, value: impl Into<Cow<'t, str>>) -> KeyValue {
    key_value(key, Value::StringValue(value.into().into_owned()))
}

fn number(key: &str, value: u16) -> KeyValue {
    integer(key, value.into())
}

fn integer(key: &str, value: i64) -> KeyValue {
    key_value(key, Value::IntValue(value))
}

fn key_value(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    fn ended(status: u16, reason: Reason) -> Server {
        Server {
            began: SystemTime::now(),
            started: Instant::now(),
            duration: Duration::from_secs(1),
            method: Method::GET,
            scheme: "https",
            host: "shop.example".into(),
            port: 443,
            path: "/".into(),
            protocol: "2",
            client: [192, 0, 2, 1].into(),
            user_agent: "".into(),
            status,
            reason,
            tunnel: false,
            listener: "shop/gw/https".into(),
            rule: None,
            backend: None,
        }
    }

    fn tried(status: u16, over: bool, failure: Option<Reason>) -> Try {
        let began = Instant::now();
        let endpoint = ([192, 0, 2, 2], 80).into();
        Try { span: 1, endpoint, began, ended: over.then_some(began), status, failure }
    }

    #[test]
    fn a_request_fails_by_its_status_or_by_why_its_answer_ended() {
        for (status, reason, expected) in [
            (200, Reason::Upstream, None),
            (404, Reason::Upstream, None),
            (403, Reason::PluginDenied, None),
            (500, Reason::Upstream, Some("500")),
            (503, Reason::NoEndpoints, Some("no_endpoints")),
            (502, Reason::PluginReplied, Some("plugin_replied")),
            // gRPC: what HTTP would have said.
            (200, Reason::UpstreamTimeout, Some("upstream_timeout")),
            (200, Reason::ResponseTruncated, Some("response_truncated")),
            (200, Reason::StreamIdle, Some("stream_idle")),
            // The client's affair.
            (200, Reason::ClientAborted, None),
            (0, Reason::ClientAborted, None),
        ] {
            assert_eq!(server_error(&ended(status, reason)).as_deref(), expected, "{status} {reason}");
        }
        let tunnel = Server { tunnel: true, ..ended(101, Reason::StreamIdle) };
        assert_eq!(server_error(&tunnel), None, "a tunnel's idle time is its ordinary end");
    }

    #[test]
    fn a_try_fails_by_its_failure_its_status_or_with_the_request() {
        let good = ended(200, Reason::Upstream);
        assert_eq!(client_error(&good, &tried(200, false, None)), None);
        assert_eq!(client_error(&good, &tried(404, false, None)).as_deref(), Some("404"));
        assert_eq!(
            client_error(&good, &tried(0, true, Some(Reason::UpstreamReset))).as_deref(),
            Some("upstream_reset")
        );
        let cut = ended(200, Reason::ResponseTruncated);
        assert_eq!(client_error(&cut, &tried(200, false, None)).as_deref(), Some("response_truncated"));
        assert_eq!(client_error(&cut, &tried(503, true, None)).as_deref(), Some("503"), "an earlier one");
        let gone = ended(0, Reason::ClientAborted);
        assert_eq!(client_error(&gone, &tried(0, false, None)).as_deref(), Some("client_aborted"));
        let replaced = ended(403, Reason::PluginDenied);
        assert_eq!(client_error(&replaced, &tried(200, false, None)), None, "the plugin did not like a good answer");
    }
}
