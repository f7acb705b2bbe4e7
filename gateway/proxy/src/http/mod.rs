//! HTTP requests, from their header section to their log line: the engine's hooks, split by subject.
//!
//! ```text
//! intake ─► rule ─► plugins ─► forward ─► (endpoint) ─► respond ─► plugins, in reverse ─► log
//!    │        │        │          │ retry                  │
//!    └────────┴────────┴──────────┴──► reply ◄─────────────┘
//! ```
//!
//! `intake` decides whether the request may be served at all, and finds its rule; `rule` applies what the rule asks
//! before a backend is involved; `forward` sends it on, try after try; `respond` changes what comes back; `reply` is the
//! one place where the gateway answers itself. Everything that is known of a request stands in its [`RequestContext`].

mod admission;
mod answering;
mod authority;
mod body;
mod context;
mod cors;
mod external_auth;
mod failure;
mod forward;
mod forwarding;
mod headers;
mod intake;
mod log;
mod names;
mod parts;
mod plugins;
mod replay;
mod reply;
mod respond;
mod retry;
mod rule;
mod session;
mod target;
mod trace;

pub(crate) use context::RequestContext;
pub(crate) use log::Observer;
pub(crate) use rule::{draw, is_allowed};

use crate::access_log::AccessLogWriter;
use crate::downstream::DownstreamMetrics;
use crate::metrics::RequestMetrics;
use crate::mirror::Mirrors;
use crate::overload::{Load, Overload};
use crate::snapshot::Snapshot;
use crate::trace::Exporters;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::modules::http::HttpModules;
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

/// What all workers share.
pub(crate) struct Shared {
    pub(crate) snapshot: ArcSwap<Snapshot>,
    pub(crate) metrics: Arc<RequestMetrics>,
    /// Limits and timeouts that act are counted where the accept path counts its own.
    pub(crate) counts: DownstreamMetrics,
    pub(crate) log: AccessLogWriter,
    pub(crate) exporters: Exporters,
    pub(crate) mirrors: Mirrors,
    pub(crate) overload: Overload,
}

/// The engine's view of the gateway: one for each worker.
pub(crate) struct Gateway {
    shared: Arc<Shared>,
}

impl Gateway {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Gateway { shared }
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = RequestContext;

    fn new_ctx(&self) -> RequestContext {
        RequestContext::new()
    }

    /// None: the engine's own compression module would cost each request, and compresses nothing here.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn early_request_filter(&self, session: &mut Session, ctx: &mut RequestContext) -> Result<()> {
        intake::look(session, ctx, self.shared.snapshot.load_full(), &self.shared.counts);
        match self.shared.overload.load() {
            Load::Ordinary => {}
            Load::Pressed => session.set_keepalive(None),
            Load::Shedding => {
                self.shared.overload.shed.inc();
                ctx.refused = Some(sluice_model::Reason::Overloaded.into());
            }
        }
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut RequestContext) -> Result<bool> {
        let outcome = match ctx.refused.take() {
            Some(reply) => Err(reply),
            None => rule::apply(session, ctx, &self.shared).await,
        };
        match outcome {
            Ok(()) => Ok(false),
            Err(reply) => {
                log::count(&self.shared.counts, reply.reason);
                Box::pin(reply::send(session, ctx, reply)).await.map_err(|error| error.into_down())?;
                Ok(true)
            }
        }
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut RequestContext) -> Result<Box<HttpPeer>> {
        forward::peer(session, ctx).await
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        reused: bool,
        _peer: &HttpPeer,
        _fd: RawFd,
        digest: Option<&Digest>,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        forward::connected(ctx, digest, reused);
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        forward::request(session, ctx, request, &self.shared.mirrors)
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        piece: &mut Option<Bytes>,
        end: bool,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        let passes = match body::piece(session, ctx) {
            Ok(()) => plugins::on_request_piece(session, ctx, piece, end).await,
            refused => refused,
        };
        if let Err(error) = passes {
            forward::abandon(ctx);
            return Err(error);
        }
        if end {
            forward::request_ended(ctx);
        }
        if let Some(copies) = &mut ctx.mirrors {
            copies.body(piece.as_ref(), &self.shared.mirrors);
            if end && let Some(copies) = ctx.mirrors.take() {
                self.shared.mirrors.send(*copies);
            }
        }
        Ok(())
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut RequestContext,
        error: Box<Error>,
    ) -> Box<Error> {
        forward::failed_to_connect(session, ctx, error)
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut RequestContext,
        reused: bool,
    ) -> Box<Error> {
        forward::failed(session, ctx, error, reused)
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        forward::answered(session, ctx, response)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut RequestContext,
    ) -> Result<()> {
        respond::head(session, ctx, response, &self.shared.metrics).await
    }

    fn response_body_filter(
        &self,
        session: &mut Session,
        piece: &mut Option<Bytes>,
        end: bool,
        ctx: &mut RequestContext,
    ) -> Result<Option<Duration>> {
        respond::piece(session, ctx, piece, end)?;
        Ok(None)
    }

    async fn response_trailer_filter(
        &self,
        session: &mut Session,
        trailers: &mut ::http::HeaderMap,
        ctx: &mut RequestContext,
    ) -> Result<Option<Bytes>> {
        plugins::on_response_trailers(session, ctx, trailers).await;
        Ok(None)
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut RequestContext) -> FailToProxy {
        answering::end(session, ctx);
        if session.response_written().is_some_and(|sent| !sent.status.is_informational()) {
            ctx.reason = failure::cut_short(error, ctx);
            log::count(&self.shared.counts, ctx.reason);
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        }
        let reply = failure::reply(error, ctx);
        let reason = reply.reason;
        log::count(&self.shared.counts, reason);
        if reason == sluice_model::Reason::ClientAborted {
            ctx.reason = reason;
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        }
        // The engine closes the client's HTTP/1 connection after an error on the way; say so.
        session.set_keepalive(None);
        if let Err(error) = reply::send(session, ctx, reply).await {
            tracing::debug!(%error, "the client was gone before it could be answered");
        }
        FailToProxy { error_code: reason.status(), can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut RequestContext) {
        log::end(&self.shared, session, ctx, error).await;
    }

    /// The access log says it all, with a reason.
    fn suppress_error_log(&self, _session: &Session, _ctx: &RequestContext, error: &Error) -> bool {
        tracing::debug!(%error, "request failed");
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _ctx: &RequestContext,
        error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        tracing::debug!(%error, "try failed");
        true
    }
}
