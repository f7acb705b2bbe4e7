//! Where the parts of an exchange are while its response's plugins run: with the engine's session and the request's context,
//! or, while plugins decide on a response as it is written, apart from the context.

use super::super::context::RequestContext;
use super::super::parts;
use super::views::{GatewayRequest, RequestFacts};
use super::{Run, Step, lend_request, note, outbound, take_request};
use crate::outbound::Calls;
use crate::snapshot::Snapshot;
use crate::trace::Called;
use ::http::{Method, response};
use pingora_core::protocols::http::ServerSession;
use pingora_proxy::Session;
use sluice_model::plugin::PluginKey;
use sluice_wasm::{Configured, Exchange, Outbound, PluginError};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

pub(in super::super) trait Place: Send {
    /// Puts the request into the exchange.
    fn lend(&mut self, exchange: &mut Exchange);
    /// Takes it back. `false`: the host lost it.
    fn take(&mut self, run: &mut Run) -> bool;
    fn method(&self) -> &Method;
    /// The response's head as it was sent.
    fn sent(&self) -> Option<response::Parts>;
    /// What calls backends for a plugin that does, and is given some.
    fn outbound(&self, configured: &Configured) -> Option<Arc<dyn Outbound>>;
    /// For the trace: a call that ended.
    fn note(&mut self, step: &Step, phase: &'static str, began: Instant, outcome: Result<&'static str, &PluginError>);
}

/// All of it is at hand.
pub(super) struct AtHand<'a> {
    pub(super) session: &'a mut Session,
    pub(super) ctx: &'a mut RequestContext,
}

impl Place for AtHand<'_> {
    fn lend(&mut self, exchange: &mut Exchange) {
        lend_request(self.session, self.ctx, exchange);
    }

    fn take(&mut self, run: &mut Run) -> bool {
        take_request(self.session, self.ctx, run)
    }

    fn method(&self) -> &Method {
        &self.session.req_header().method
    }

    fn sent(&self) -> Option<response::Parts> {
        self.session.response_written().map(|sent| sent.as_owned_parts())
    }

    fn outbound(&self, configured: &Configured) -> Option<Arc<dyn Outbound>> {
        outbound(self.ctx, configured)
    }

    fn note(&mut self, step: &Step, phase: &'static str, began: Instant, outcome: Result<&'static str, &PluginError>) {
        note(self.ctx, step, phase, began, outcome);
    }
}

/// What a request's plugins need of its context while that is out of reach.
pub(in super::super) struct Kept {
    /// None while they are lent.
    facts: Option<RequestFacts>,
    snapshot: Option<Arc<Snapshot>>,
    client: IpAddr,
    /// For the trace, where the request is sampled.
    called: Option<Vec<(PluginKey, Called)>>,
}

impl Kept {
    pub(in super::super) fn of(session: &Session, ctx: &RequestContext) -> Kept {
        Kept {
            facts: Some(RequestFacts::new(session, ctx)),
            snapshot: ctx.snapshot.clone(),
            client: ctx.client,
            called: ctx.trace.is_some().then(Vec::new),
        }
    }

    /// Tells the trace of the calls there were.
    pub(in super::super) fn tell(self, ctx: &mut RequestContext) {
        let Some(trace) = &mut ctx.trace else { return };
        for (plugin, called) in self.called.into_iter().flatten() {
            trace.called(&plugin, called);
        }
    }
}

/// The context is out of reach.
pub(in super::super) struct Apart<'a> {
    pub(in super::super) session: &'a mut ServerSession,
    pub(in super::super) kept: &'a mut Kept,
}

impl Place for Apart<'_> {
    fn lend(&mut self, exchange: &mut Exchange) {
        exchange.request_ends = self.session.is_body_empty();
        // Without facts the host has lost a request, and the exchange is over.
        let Some(facts) = self.kept.facts.take() else { return };
        let head = parts::take_request(self.session.req_header_mut());
        exchange.put_request(Box::new(GatewayRequest::new(head, facts)));
    }

    fn take(&mut self, run: &mut Run) -> bool {
        let Some(request) = run.exchange.take_request::<GatewayRequest>() else { return false };
        let (head, _, facts) = request.into_parts();
        self.kept.facts = Some(facts);
        parts::give_request(self.session.req_header_mut(), head);
        true
    }

    fn method(&self) -> &Method {
        &self.session.req_header().method
    }

    fn sent(&self) -> Option<response::Parts> {
        self.session.response_written().map(|sent| sent.as_owned_parts())
    }

    fn outbound(&self, configured: &Configured) -> Option<Arc<dyn Outbound>> {
        if !configured.names_backends() {
            return None;
        }
        let snapshot = self.kept.snapshot.as_ref()?;
        let calls = snapshot.plugin_calls.get(&configured.key().plugin)?;
        Some(Arc::new(Calls::new(snapshot.clone(), calls.clone(), self.kept.client)))
    }

    fn note(&mut self, step: &Step, phase: &'static str, began: Instant, outcome: Result<&'static str, &PluginError>) {
        let Some(notes) = &mut self.kept.called else { return };
        let failed = outcome.is_err();
        let outcome = outcome.unwrap_or_else(|error| error.outcome());
        let called = Called { phase, outcome, failed, began, ended: Instant::now() };
        notes.push((step.invocation.configured().key().plugin.clone(), called));
    }
}
