//! Plugins of a rule around one request: the request phases in order, the response phases in reverse, the log phase at
//! the end.
//!
//! An exchange lends its head sections to the host by value and takes them back after each phase; nothing is copied.

mod place;
mod response;
mod views;

pub(super) use place::{Apart, Kept};
pub(super) use response::{
    Here, answer_in_passing, any_sees, go_on, may_have_body, on_reply, on_reply_body, on_response, on_response_piece,
    on_response_trailers, pieces_apart, see_response_body, show_all, tell_length, trailers_to, unframe_response,
};
pub(super) use views::protocol;
use views::{GatewayRequest, GatewayResponse, RequestConditions, RequestFacts};

use super::context::{Content, Reply, RequestContext};
use super::{body, parts};
use crate::metrics::RequestMetrics;
use crate::outbound::Calls;
use crate::snapshot::{RuleRuntime, Snapshot};
use crate::trace::Called;
use ::http::Version;
use bytes::Bytes;
use pingora_core::ErrorType;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use sluice_model::Reason;
use sluice_model::plugin::{FailMode, PluginUse};
use sluice_wasm::{
    AttributeValue, BodyRequest, Configured, Decision, Destination, Exchange, Invocation, LocalReply, Outbound,
    OverLimit, PluginError, Summary,
};
use smallvec::SmallVec;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The plugins that a request has passed. The engine wants contexts that may be shared between threads, which a guest's
/// instance may not: hence the mutex. It is only ever reached through `&mut`, and so never locked.
pub(super) struct PluginRun(Mutex<Run>);

pub(super) struct Run {
    steps: SmallVec<[Step; 4]>,
    exchange: Exchange,
    spent: Duration,
    /// How many of `steps` have yet to see the response, and how many have yet to see its body as far as that is here.
    unanswered: usize,
    shown: usize,
    /// The response's head as it was sent, for plugins that see its body.
    answered: Option<Box<GatewayResponse>>,
    /// What the rule's prefix matched, once a plugin changed the path.
    prefix: Option<Box<str>>,
}

pub(super) struct Step {
    invocation: Invocation,
    fail_mode: FailMode,
}

impl PluginRun {
    fn new() -> Self {
        let run = Run {
            steps: SmallVec::new(),
            exchange: Exchange::default(),
            spent: Duration::ZERO,
            unanswered: 0,
            shown: 0,
            answered: None,
            prefix: None,
        };
        PluginRun(Mutex::new(run))
    }

    pub(super) fn run(&mut self) -> &mut Run {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// Time spent in plugins so far.
    pub(super) fn spent(&mut self) -> Duration {
        self.run().spent
    }

    /// Frees the instances: a tunnel of hours holds none.
    pub(super) fn release(&mut self) {
        for step in &mut self.run().steps {
            step.invocation.release();
        }
    }

    /// The attributes as a JSON object, empty where there is none.
    pub(super) fn attributes(&mut self) -> Vec<u8> {
        let attributes = &self.run().exchange.attributes;
        let mut json = Vec::new();
        for (name, value) in attributes.iter() {
            json.push(if json.is_empty() { b'{' } else { b',' });
            crate::access_log::json_string(&mut json, name.as_bytes());
            json.push(b':');
            match value {
                AttributeValue::String(text) => crate::access_log::json_string(&mut json, text.as_bytes()),
                AttributeValue::Integer(number) => json.extend_from_slice(number.to_string().as_bytes()),
                AttributeValue::Boolean(true) => json.extend_from_slice(b"true"),
                AttributeValue::Boolean(false) => json.extend_from_slice(b"false"),
            }
        }
        if !json.is_empty() {
            json.push(b'}');
        }
        json
    }
}

impl Run {
    /// None has seen the response yet.
    fn begin_response(&mut self) {
        (self.unanswered, self.shown) = (self.steps.len(), self.steps.len());
    }

    /// Whether any takes part in responses' heads.
    fn answers(&self) -> bool {
        self.steps.iter().any(|step| step.invocation.configured().phases().response_headers())
    }

    /// The plugins that have seen the body as far as it is here.
    pub(super) fn seen_by(&self) -> (usize, usize) {
        (self.shown, self.steps.len())
    }

    /// A plugin waits for the body: those behind it have seen all of it that there is, which is nothing.
    pub(super) fn holds(&mut self) {
        self.shown = self.unanswered + 1;
    }

    /// None waits for the body: all see it as it comes.
    pub(super) fn shown_to_all(&mut self) {
        self.shown = 0;
    }

    /// The head is about to be written: what plugins of its body see of it.
    pub(super) fn goes_out(&mut self, head: &ResponseHeader) {
        self.answered = Some(Box::new(GatewayResponse::new(head.as_owned_parts())));
    }

    /// Lends a head that was not sent to whoever sees the body behind it.
    pub(super) fn lend_head<'h>(&mut self, head: Option<&'h mut ResponseHeader>) -> Option<&'h mut ResponseHeader> {
        let head = head?;
        self.answered = Some(Box::new(GatewayResponse::new(parts::take_response(head))));
        Some(head)
    }

    /// Gives it back.
    pub(super) fn take_head(&mut self, head: Option<&mut ResponseHeader>) {
        if let (Some(head), Some(lent)) = (head, self.answered.take()) {
            *head = ResponseHeader::from(lent.into_parts());
        }
    }

    /// Whether the plugin that waits for the body may be left out where it can't have it.
    pub(super) fn reader_fails_open(&self) -> bool {
        self.steps.get(self.unanswered).is_some_and(|step| step.fail_mode == FailMode::Open)
    }
}

/// Runs the request phases of those plugins that have not seen the request. `Err`: the request is answered here.
pub(super) async fn on_request(
    session: &mut Session,
    ctx: &mut RequestContext,
    snapshot: &Snapshot,
    rule: &RuleRuntime,
    metrics: &Arc<RequestMetrics>,
) -> Result<(), Reply> {
    let mut run = ctx.plugins.take().unwrap_or_else(|| Box::new(PluginRun::new()));
    run.run().exchange.deadline = ctx.deadline;
    // The prefix of another rule says nothing here.
    run.run().prefix = None;
    let outcome = request_phases(session, ctx, snapshot, rule, run.run(), metrics).await;
    run.run().begin_response();
    ctx.plugins = Some(run);
    outcome
}

async fn request_phases(
    session: &mut Session,
    ctx: &mut RequestContext,
    snapshot: &Snapshot,
    rule: &RuleRuntime,
    run: &mut Run,
    metrics: &Arc<RequestMetrics>,
) -> Result<(), Reply> {
    // Those of another rule, which led here.
    let before = run.steps.len();
    let has_run = |run: &Run, configured: &Configured| {
        let mut earlier = run.steps.iter().take(before);
        earlier.any(|step| step.invocation.configured().key() == configured.key())
    };
    // Before the first of them runs: what one plugin writes another may believe, and one that fails open writes nothing.
    for configured in rule.plugins.iter().filter_map(|slot| snapshot.plugin(slot)) {
        if has_run(run, configured) {
            continue;
        }
        for name in configured.owned_headers() {
            session.req_header_mut().remove_header(name);
        }
    }
    for (use_, slot) in rule.config.plugins.iter().zip(&rule.plugins) {
        if !takes_part(use_, session, ctx) {
            continue;
        }
        let Some(configured) = snapshot.plugin(slot) else {
            match use_.fail_mode {
                FailMode::Open => continue,
                FailMode::Closed => return Err(Reason::PluginNotReady.into()),
            }
        };
        if has_run(run, configured) {
            continue;
        }
        let mut step = Step { invocation: configured.begin(), fail_mode: use_.fail_mode };
        let decision = if configured.phases().request_headers() {
            let began = Instant::now();
            lend_request(session, ctx, &mut run.exchange);
            run.exchange.outbound = outbound(ctx, configured);
            let decision = step.invocation.on_request(&mut run.exchange).await;
            let back = take_request(session, ctx, run);
            run.spent += began.elapsed();
            note(ctx, &step, "request_headers", began, decision.as_ref().map(Decision::outcome));
            follow(ctx, snapshot, configured, &mut run.exchange, decision.is_ok())?;
            match judged(run.exchange.deadline, decision, step.fail_mode) {
                Ok(decision) if back => decision,
                // Without its head the request cannot go on, whatever the fail mode.
                Ok(_) => return Err(Reason::PluginFailed.into()),
                Err(reply) => return Err(reply),
            }
        } else {
            Decision::Continue
        };
        let outcome = match decision {
            Decision::Continue | Decision::Abort => Ok(()),
            Decision::Respond(reply) => Err(local_reply(*reply)),
            Decision::ReadBody(wish) => read_body(session, ctx, snapshot, &mut step, run, metrics, wish).await,
        };
        // It has seen the request, and so is to see the response.
        run.steps.push(step);
        outcome?;
    }
    Ok(())
}

/// Takes down where the plugin wants the request to go. What a failed call asked for does not count.
fn follow(
    ctx: &mut RequestContext,
    snapshot: &Snapshot,
    configured: &Configured,
    exchange: &mut Exchange,
    succeeded: bool,
) -> Result<(), Reply> {
    if exchange.destination == Destination::default() {
        return Ok(());
    }
    let wanted = std::mem::take(&mut exchange.destination);
    if !succeeded {
        return Ok(());
    }
    if wanted.find_route {
        ctx.finds_route = true;
        ctx.chosen = None;
    }
    if let Some(name) = wanted.backend {
        let calls = snapshot.plugin_calls.get(&configured.key().plugin);
        let chosen = calls.and_then(|calls| calls.destinations.get(&*name)).cloned();
        // It was given the capability after the request had begun: nowhere is better than somewhere else.
        ctx.chosen = Some(chosen.ok_or(Reason::PluginFailed)?);
    }
    Ok(())
}

#[allow(clippy::too_many_arguments, reason = "what a step of the request phases works on")]
async fn read_body(
    session: &mut Session,
    ctx: &mut RequestContext,
    snapshot: &Snapshot,
    step: &mut Step,
    run: &mut Run,
    metrics: &Arc<RequestMetrics>,
    wish: BodyRequest,
) -> Result<(), Reply> {
    let read = match body::read(session, ctx, metrics, wish.limit).await? {
        body::Read::Whole(bytes) => bytes,
        body::Read::TooLarge if wish.over_limit == OverLimit::Pass => return Ok(()),
        body::Read::TooLarge => return Err(Reason::BodyTooLarge.into()),
        body::Read::NoRoom => {
            return match step.fail_mode {
                FailMode::Open => Ok(()),
                FailMode::Closed => Err(Reason::PluginOverloaded.into()),
            };
        }
    };
    let began = Instant::now();
    step.invocation.skip_request_pieces();
    lend_request(session, ctx, &mut run.exchange);
    run.exchange.outbound = outbound(ctx, step.invocation.configured());
    let outcome = step.invocation.on_request_body(&mut run.exchange, read).await;
    let back = take_request(session, ctx, run);
    run.spent += began.elapsed();
    note(ctx, step, "request_body", began, outcome.as_ref().map(|outcome| outcome.decision.outcome()));
    if !back {
        return Err(Reason::PluginFailed.into());
    }
    follow(ctx, snapshot, step.invocation.configured(), &mut run.exchange, outcome.is_ok())?;
    let Some(outcome) = judged(run.exchange.deadline, outcome.map(Some), step.fail_mode)? else { return Ok(()) };
    if let Some(replacement) = outcome.replacement {
        body::replace(ctx, replacement);
    }
    match outcome.decision {
        Decision::Respond(reply) => Err(local_reply(*reply)),
        Decision::Continue | Decision::ReadBody(_) | Decision::Abort => Ok(()),
    }
}

/// Whether a plugin will change the request's body as it passes, so that nobody knows how long it is.
pub(super) fn unframes_request(ctx: &mut RequestContext) -> bool {
    let run = ctx.plugins.as_mut().map(|plugins| plugins.run());
    run.is_some_and(|run| run.steps.iter().any(|step| step.invocation.streams_request()))
}

/// Whether a plugin may have taken the request's length away, because it will change the body.
pub(super) fn may_have_unframed(ctx: &mut RequestContext) -> bool {
    let run = ctx.plugins.as_mut().map(|plugins| plugins.run());
    run.is_some_and(|run| run.steps.iter().any(sees_request_body))
}

fn sees_request_body(step: &Step) -> bool {
    step.invocation.configured().phases().request_pieces()
}

/// Shows a piece of the request's body to the plugins that see it on its way, in order. It becomes what goes on.
pub(super) async fn on_request_piece(
    session: &mut Session,
    ctx: &mut RequestContext,
    piece: &mut Option<Bytes>,
    end: bool,
) -> pingora_core::Result<()> {
    if ctx.tunnel || (piece.is_none() && (!end || session.is_body_empty())) {
        return Ok(());
    }
    let Some(mut plugins) = ctx.take_plugins() else { return Ok(()) };
    if !plugins.run().steps.iter().any(sees_request_body) {
        ctx.give_plugins(plugins);
        return Ok(());
    }
    ctx.body_passed = true;
    let mut bytes = piece.take().unwrap_or_default();
    let outcome = Box::pin(async {
        let run = plugins.run();
        if !(end && !bytes.is_empty() && ends_apart(session.req_header().version)) {
            return request_pieces(session, ctx, run, &mut bytes, end).await;
        }
        request_pieces(session, ctx, run, &mut bytes, false).await?;
        let mut rest = Bytes::new();
        let outcome = request_pieces(session, ctx, run, &mut rest, true).await;
        bytes = joined(std::mem::take(&mut bytes), rest);
        outcome
    })
    .await;
    ctx.give_plugins(plugins);
    if outcome.is_ok() && !ctx.request_unsent.takes(bytes.len(), end) {
        return Err(failed_length(ctx));
    }
    // None is the body's end to the engine; nothing of it is what is held back.
    *piece = (!end || !bytes.is_empty()).then_some(bytes);
    outcome.map_err(|reply| refuse(ctx, reply))
}

/// HTTP/1 tells the end of a body apart from its bytes, by a last chunk or by the length that was told: filters that were
/// written for Envoy see both apart. HTTP/2 has the end on its last frame.
fn ends_apart(version: Version) -> bool {
    version != Version::HTTP_2
}

fn joined(bytes: Bytes, more: Bytes) -> Bytes {
    if bytes.is_empty() {
        return more;
    }
    if more.is_empty() {
        return bytes;
    }
    [&bytes[..], &more[..]].concat().into()
}

async fn request_pieces(
    session: &mut Session,
    ctx: &mut RequestContext,
    run: &mut Run,
    bytes: &mut Bytes,
    end: bool,
) -> Result<(), Reply> {
    let began = Instant::now();
    lend_request(session, ctx, &mut run.exchange);
    let mut outcome = Ok(());
    for step in &mut run.steps {
        if !step.invocation.configured().phases().request_pieces() || (bytes.is_empty() && !end) {
            continue;
        }
        run.exchange.outbound = outbound(ctx, step.invocation.configured());
        let decision = step.invocation.on_request_piece(&mut run.exchange, bytes, end).await;
        let fail_mode = bound(step.fail_mode, step.invocation.is_bound_to_request());
        outcome = match judged(run.exchange.deadline, decision, fail_mode) {
            Ok(Decision::Respond(reply)) => Err(local_reply(*reply)),
            Ok(Decision::Abort) => Err(Reason::PluginAborted.into()),
            Ok(Decision::Continue | Decision::ReadBody(_)) => Ok(()),
            Err(reply) => Err(reply),
        };
        if outcome.is_err() {
            break;
        }
    }
    let back = take_request(session, ctx, run);
    run.spent += began.elapsed();
    if back { outcome } else { Err(Reason::PluginFailed.into()) }
}

/// Runs the log phases, each with what was sent. What fails there is the plugin's own affair.
pub(super) async fn on_log(session: &mut Session, ctx: &mut RequestContext, summary: &Summary) {
    let Some(mut plugins) = ctx.plugins.take() else { return };
    if plugins.run().steps.iter().any(|step| step.invocation.configured().phases().log()) {
        Box::pin(log_phases(session, ctx, plugins.run(), summary)).await;
    }
    ctx.plugins = Some(plugins);
}

async fn log_phases(session: &mut Session, ctx: &mut RequestContext, run: &mut Run, summary: &Summary) {
    let began = Instant::now();
    // The exchange is over; what it took does not count here.
    run.exchange.deadline = None;
    run.exchange.outbound = None;
    lend_request(session, ctx, &mut run.exchange);
    if let Some(sent) = session.response_written() {
        run.exchange.put_response(Box::new(GatewayResponse::new(sent.as_owned_parts())));
    }
    for step in &mut run.steps {
        if !step.invocation.configured().phases().log() {
            continue;
        }
        let began = Instant::now();
        let logged = step.invocation.on_log(&mut run.exchange, summary.clone()).await;
        note(ctx, step, "log", began, logged.as_ref().map(|()| Decision::Continue.outcome()));
        if let Err(error) = logged {
            tracing::debug!(%error, "a plugin's log phase failed");
        }
    }
    take_request(session, ctx, run);
    run.spent += began.elapsed();
}

/// A plugin made a body longer or shorter than its head says.
fn failed_length(ctx: &mut RequestContext) -> Box<pingora_core::Error> {
    tracing::debug!("a plugin changed the length of a body whose length was told");
    refuse(ctx, Reason::PluginFailed.into())
}

fn refuse(ctx: &mut RequestContext, reply: Reply) -> Box<pingora_core::Error> {
    let reason = reply.reason;
    ctx.refused = Some(reply);
    pingora_core::Error::explain(ErrorType::InternalError, reason.as_str())
}

/// Whether the use's condition holds for this request, as it is before this plugin.
fn takes_part(use_: &PluginUse, session: &Session, ctx: &RequestContext) -> bool {
    match &use_.when {
        Some(when) => when.holds(&RequestConditions::new(session, ctx)),
        None => true,
    }
}

/// What calls backends for a plugin that does, and is given some.
fn outbound(ctx: &RequestContext, configured: &Configured) -> Option<Arc<dyn Outbound>> {
    if !configured.names_backends() {
        return None;
    }
    let snapshot = ctx.snapshot.as_ref()?;
    let calls = snapshot.plugin_calls.get(&configured.key().plugin)?;
    Some(Arc::new(Calls::new(snapshot.clone(), calls.clone(), ctx.client)))
}

/// For the trace: a span of one call.
fn note(
    ctx: &mut RequestContext,
    step: &Step,
    phase: &'static str,
    began: Instant,
    outcome: Result<&'static str, &PluginError>,
) {
    let Some(trace) = &mut ctx.trace else { return };
    let failed = outcome.is_err();
    let outcome = outcome.unwrap_or_else(|error| error.outcome());
    let called = Called { phase, outcome, failed, began, ended: Instant::now() };
    trace.called(&step.invocation.configured().key().plugin, called);
}

fn lend_request(session: &mut Session, ctx: &RequestContext, exchange: &mut Exchange) {
    let facts = RequestFacts::new(session, ctx);
    exchange.request_ends = session.as_downstream_mut().is_body_empty();
    let head = parts::take_request(session.req_header_mut());
    exchange.put_request(Box::new(GatewayRequest::new(head, facts)));
}

/// Gives the session its request back. `false`: the host lost it.
fn take_request(session: &mut Session, ctx: &mut RequestContext, run: &mut Run) -> bool {
    let Some(request) = run.exchange.take_request::<GatewayRequest>() else { return false };
    let (head, former_target, _) = request.into_parts();
    if let Some(former) = former_target {
        follow_prefix(ctx, run, &former, head.uri.path());
        ctx.raw_target.get_or_insert(former);
    }
    parts::give_request(session.req_header_mut(), head);
    true
}

/// A rule's prefix rewrite replaces what the prefix matched. A plugin that changed the path may have kept that, or not.
fn follow_prefix(ctx: &mut RequestContext, run: &mut Run, former: &[u8], path: &str) {
    if run.prefix.is_none() {
        let matched = ctx.prefix.and_then(|length| former.get(..length));
        run.prefix = matched.and_then(|matched| std::str::from_utf8(matched).ok()).map(Into::into);
    }
    let Some(prefix) = run.prefix.as_deref() else { return };
    // Whole elements, as the match itself.
    let rest = path.strip_prefix(prefix);
    ctx.prefix = rest.filter(|rest| rest.is_empty() || rest.starts_with('/')).map(|_| prefix.len());
}

/// A plugin that has changed some of a body can't be left out of the rest of it.
fn bound(mode: FailMode, is_bound: bool) -> FailMode {
    if is_bound { FailMode::Closed } else { mode }
}

/// A failure by its fail mode. Where the request's own time is over nobody waits for what an open one would do.
fn judged<T: Default>(deadline: Option<Instant>, outcome: Result<T, PluginError>, mode: FailMode) -> Result<T, Reply> {
    match (outcome, mode) {
        (Ok(outcome), _) => Ok(outcome),
        (Err(error), _) if deadline.is_some_and(|deadline| deadline <= Instant::now()) => {
            tracing::debug!(%error, "the request's time is over");
            Err(Reason::RequestTimeout.into())
        }
        (Err(error), FailMode::Closed) => Err(failed(&error)),
        (Err(error), FailMode::Open) => {
            skipped(&error);
            Ok(T::default())
        }
    }
}

fn failed(error: &PluginError) -> Reply {
    tracing::debug!(%error, "the request is refused: its plugin fails closed");
    error.reason().into()
}

fn skipped(error: &PluginError) {
    tracing::debug!(%error, "the plugin is skipped for this request: it fails open");
}

fn local_reply(reply: LocalReply) -> Reply {
    let reason = if reply.status.is_client_error() { Reason::PluginDenied } else { Reason::PluginReplied };
    let content = Content { headers: reply.headers, body: Some(reply.body) };
    Reply { content: Some(Box::new(content)), ..Reply::with_status(reason, reply.status) }
}
