//! The end of a request: its metrics, its line in the access log, and the log phase of its plugins.

use super::Shared;
use super::context::RequestContext;
use super::{answering, names, plugins, trace};
use crate::access_log::Record;
use crate::downstream::{ConnectionInfo, DatagramPort, DownstreamMetrics, EdgeObserver, PassedConnection, Refusal};
use crate::relay;
use crate::snapshot::ListenerRuntime;
use ::http::header;
use ::http::uri::PathAndQuery;
use pingora_core::Error;
use pingora_proxy::Session;
use sluice_model::Reason;
use sluice_wasm::Summary;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// Counts a timeout that acted, by the name of its field.
pub(super) fn count(counts: &DownstreamMetrics, reason: Reason) {
    let timeout = match reason {
        Reason::BodyTimeout => "body_idle",
        Reason::UpstreamTimeout => "response_headers",
        Reason::UpstreamConnectTimeout => "connect",
        Reason::StreamIdle => "stream_idle",
        Reason::RequestTimeout => "request",
        Reason::BodyTooLarge => return counts.limit("body"),
        _ => return,
    };
    counts.timeout(timeout);
}

pub(super) async fn end(shared: &Shared, session: &mut Session, ctx: &mut RequestContext, error: Option<&Error>) {
    // The last that was put there is the first to go.
    ctx.completed.take().map(|home| home.restore(session));
    answering::end(session, ctx);
    ctx.replayed.take().map(|home| home.restore(session));
    let status = session.response_written().map_or(0, |sent| sent.status.as_u16());
    if error.is_some() && ctx.reason == Reason::Upstream {
        ctx.reason = if status == 0 { Reason::ClientAborted } else { Reason::ResponseTruncated };
    }
    let sent = status;
    let status = match status {
        0 => Reason::ClientAborted.status(),
        status => status,
    };
    let duration = ctx.started.elapsed();
    if let Some(listener) = &ctx.listener {
        listener.metrics.count(status, ctx.reason);
    }
    if let Some(rule) = &ctx.rule {
        rule.metrics.observe(status, duration);
    }
    let (bytes_in, bytes_out) = (session.body_bytes_read() as u64, session.body_bytes_sent() as u64);
    if ctx.plugins.is_some() {
        let reason = Some(ctx.reason).filter(|reason| *reason != Reason::Upstream).map(Reason::as_str);
        let summary = Summary { duration, bytes_received: bytes_in, bytes_sent: bytes_out, reason };
        plugins::on_log(session, ctx, &summary).await;
    }
    if ctx.trace.is_some() {
        trace::end(session, ctx, sent, duration);
    }
    let Some(snapshot) = ctx.snapshot.clone() else { return };
    if !snapshot.access_log.wants(status) {
        return;
    }
    let (attributes, spent) = match &mut ctx.plugins {
        Some(plugins) => (plugins.attributes(), Some(plugins.spent())),
        None => (Vec::new(), None),
    };
    let request = session.req_header();
    let field = |name: &::http::HeaderName| request.headers.get(name).map(|v| v.as_bytes()).unwrap_or_default();
    let tls = session.digest().and_then(ConnectionInfo::of).and_then(|info| info.tls.as_ref());
    let target = request.uri.path_and_query().map_or("/", PathAndQuery::as_str).as_bytes();
    let since_start = |at: Instant| at.saturating_duration_since(ctx.started);
    let upstream = &ctx.upstream;
    let backend = ctx.backend_ref().and_then(|backend| backend.target.as_ref());
    let record = Record {
        time: SystemTime::now(),
        request_id: field(&names::X_REQUEST_ID),
        trace_id: trace::id(&request.headers).unwrap_or_default(),
        client: ctx.client,
        method: request.method.as_str(),
        scheme: if ctx.tls { "https" } else { "http" },
        authority: field(&header::HOST),
        path: ctx.raw_target.as_deref().unwrap_or(target),
        protocol: plugins::protocol(request.version),
        listener: ctx.listener.as_ref().map_or("", |listener| &listener.label),
        route: ctx.rule.as_ref().map_or("", |rule| &rule.route_label),
        rule: ctx.rule.as_ref().map_or("", |rule| &rule.config.id.rule),
        backend: backend.map_or("", |(_, metrics)| &metrics.label),
        endpoint: upstream.address,
        status,
        reason: ctx.reason,
        bytes_in,
        bytes_out,
        duration,
        ttfb: ctx.answered_at.map(since_start),
        upstream_connect: upstream.connect,
        upstream: upstream.connected_at.zip(upstream.headers_at).map(|(from, to)| to.saturating_duration_since(from)),
        plugins: spent,
        retries: ctx.tries.retries,
        tls_version: tls.map_or("", |tls| tls.version),
        sni: tls.and_then(|tls| tls.sni.as_deref()).unwrap_or_default(),
        user_agent: field(&header::USER_AGENT),
        attributes: &attributes,
    };
    shared.log.write(snapshot.access_log.line(&record));
}

/// Writes down what was refused before the engine saw it, and sees to what it never sees.
pub(crate) struct Observer(pub(crate) Arc<Shared>);

impl EdgeObserver for Observer {
    fn passed(&self, connection: PassedConnection) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(relay::serve(self.0.clone(), connection))
    }

    fn datagrams(&self, port: DatagramPort) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(relay::datagrams::serve(self.0.clone(), port))
    }

    fn refused(&self, connection: &ConnectionInfo, refusal: &Refusal<'_>) {
        let snapshot = self.0.snapshot.load();
        let port = snapshot.ports.get(&connection.port);
        let listener = port.and_then(|port| {
            let of_sni = |tls: &crate::downstream::TlsInfo| port.listeners.iter().find(|l| l.config.id == tls.listener);
            // Which host was meant may not even be readable: the listener that takes most of them stands for the port.
            connection.tls.as_ref().and_then(of_sni).or_else(|| port.listeners.last())
        });
        let duration = refusal.started.elapsed();
        if let Some(listener) = listener {
            listener.metrics.count(refusal.status, refusal.reason);
        }
        if !snapshot.access_log.wants(refusal.status) {
            return;
        }
        let tls = connection.tls.as_ref();
        let record = Record {
            time: SystemTime::now(),
            request_id: b"",
            trace_id: "",
            client: connection.peer.ip().to_canonical(),
            method: refusal.method,
            scheme: if tls.is_some() { "https" } else { "http" },
            authority: refusal.host.unwrap_or_default(),
            path: refusal.target,
            protocol: refusal.protocol,
            listener: listener.map_or("", |listener: &Arc<ListenerRuntime>| &listener.label),
            route: "",
            rule: "",
            backend: "",
            endpoint: None,
            status: refusal.status,
            reason: refusal.reason,
            bytes_in: 0,
            bytes_out: refusal.sent as u64,
            duration,
            ttfb: None,
            upstream_connect: None,
            upstream: None,
            plugins: None,
            retries: 0,
            tls_version: tls.map_or("", |tls| tls.version),
            sni: tls.and_then(|tls| tls.sni.as_deref()).unwrap_or_default(),
            user_agent: b"",
            attributes: b"",
        };
        self.0.log.write(snapshot.access_log.line(&record));
    }
}
