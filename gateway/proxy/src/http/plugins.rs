//! Plugins of a rule around one request: the request phases in order, the response phases in reverse, the log phase at
//! the end.
//!
//! An exchange lends its head sections to the host by value and takes them back after each phase; nothing is copied.

mod views;

pub(super) use views::protocol;
use views::{GatewayRequest, GatewayResponse, RequestFacts};

use super::context::{Content, Reply, RequestContext};
use super::{body, parts};
use crate::snapshot::{RuleRuntime, Snapshot};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use sluice_model::Reason;
use sluice_model::plugin::FailMode;
use sluice_wasm::{
    AttributeValue, BodyRequest, Decision, Exchange, Invocation, LocalReply, OverLimit, PluginError, Summary,
};
use smallvec::SmallVec;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The plugins that a request has passed. The engine wants contexts that may be shared between threads, which a guest's
/// instance may not: hence the mutex. It is only ever reached through `&mut`, and so never locked.
pub(super) struct PluginRun(Mutex<Run>);

struct Run {
    steps: SmallVec<[Step; 4]>,
    exchange: Exchange,
    spent: Duration,
    /// How many of `steps` have yet to see the response.
    unanswered: usize,
}

struct Step {
    invocation: Invocation,
    fail_mode: FailMode,
}

impl PluginRun {
    fn new() -> Self {
        let run = Run { steps: SmallVec::new(), exchange: Exchange::default(), spent: Duration::ZERO, unanswered: 0 };
        PluginRun(Mutex::new(run))
    }

    fn run(&mut self) -> &mut Run {
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

/// Runs the request phases. `Err`: the request is answered here.
pub(super) async fn on_request(
    session: &mut Session,
    ctx: &mut RequestContext,
    snapshot: &Snapshot,
    rule: &RuleRuntime,
) -> Result<(), Reply> {
    let mut run = Box::new(PluginRun::new());
    let outcome = request_phases(session, ctx, snapshot, rule, run.run()).await;
    let steps = run.run().steps.len();
    run.run().unanswered = steps;
    ctx.plugins = Some(run);
    outcome
}

async fn request_phases(
    session: &mut Session,
    ctx: &mut RequestContext,
    snapshot: &Snapshot,
    rule: &RuleRuntime,
    run: &mut Run,
) -> Result<(), Reply> {
    // Before the first of them runs: what one plugin writes another may believe, and one that fails open writes nothing.
    for configured in rule.plugins.iter().filter_map(|slot| snapshot.plugin(slot)) {
        for name in configured.owned_headers() {
            session.req_header_mut().remove_header(name);
        }
    }
    for (use_, slot) in rule.config.plugins.iter().zip(&rule.plugins) {
        let Some(configured) = snapshot.plugin(slot) else {
            match use_.fail_mode {
                FailMode::Open => continue,
                FailMode::Closed => return Err(Reason::PluginNotReady.into()),
            }
        };
        let mut step = Step { invocation: configured.begin(), fail_mode: use_.fail_mode };
        let decision = if configured.phases().request_headers() {
            let began = Instant::now();
            lend_request(session, ctx, &mut run.exchange);
            let decision = step.invocation.on_request(&mut run.exchange).await;
            let back = take_request(session, ctx, &mut run.exchange);
            run.spent += began.elapsed();
            match judged(decision, step.fail_mode) {
                Ok(decision) if back => decision,
                // Without its head the request cannot go on, whatever the fail mode.
                Ok(_) => return Err(Reason::PluginFailed.into()),
                Err(reply) => return Err(reply),
            }
        } else {
            Decision::Continue
        };
        let outcome = match decision {
            Decision::Continue => Ok(()),
            Decision::Respond(reply) => Err(local_reply(*reply)),
            Decision::ReadBody(wish) => {
                read_body(session, ctx, &mut step, &mut run.exchange, &mut run.spent, wish).await
            }
        };
        // It has seen the request, and so is to see the response.
        run.steps.push(step);
        outcome?;
    }
    Ok(())
}

async fn read_body(
    session: &mut Session,
    ctx: &mut RequestContext,
    step: &mut Step,
    exchange: &mut Exchange,
    spent: &mut Duration,
    wish: BodyRequest,
) -> Result<(), Reply> {
    let read = match body::read(session, ctx, wish.limit).await? {
        body::Read::Whole(bytes) => bytes,
        body::Read::TooLarge if wish.over_limit == OverLimit::Pass => return Ok(()),
        body::Read::TooLarge => return Err(Reason::BodyTooLarge.into()),
    };
    let began = Instant::now();
    lend_request(session, ctx, exchange);
    let outcome = step.invocation.on_request_body(exchange, read).await;
    let back = take_request(session, ctx, exchange);
    *spent += began.elapsed();
    let outcome = match (outcome, step.fail_mode) {
        _ if !back => return Err(Reason::PluginFailed.into()),
        (Ok(outcome), _) => outcome,
        (Err(error), FailMode::Closed) => return Err(failed(&error)),
        (Err(error), FailMode::Open) => {
            skipped(&error);
            return Ok(());
        }
    };
    if let Some(replacement) = outcome.replacement {
        body::replace(session, ctx, replacement);
    }
    match outcome.decision {
        Decision::Respond(reply) => Err(local_reply(*reply)),
        Decision::Continue | Decision::ReadBody(_) => Ok(()),
    }
}

/// Runs the response phases that have not run yet, in reverse order. `Err`: a plugin answers instead; those before it in
/// the policy's order have yet to see that answer.
pub(super) async fn on_response(
    session: &mut Session,
    ctx: &mut RequestContext,
    response: &mut ResponseHeader,
) -> Result<(), Reply> {
    let Some(mut plugins) = ctx.plugins.take() else { return Ok(()) };
    let outcome = response_phases(session, ctx, plugins.run(), response).await;
    ctx.plugins = Some(plugins);
    outcome
}

async fn response_phases(
    session: &mut Session,
    ctx: &mut RequestContext,
    run: &mut Run,
    response: &mut ResponseHeader,
) -> Result<(), Reply> {
    while run.unanswered > 0 {
        run.unanswered -= 1;
        let Some(step) = run.steps.get_mut(run.unanswered) else { continue };
        if !step.invocation.configured().phases().response_headers() {
            continue;
        }
        let began = Instant::now();
        lend_request(session, ctx, &mut run.exchange);
        run.exchange.put_response(Box::new(GatewayResponse::new(parts::take_response(response))));
        let decision = step.invocation.on_response(&mut run.exchange).await;
        let request_back = take_request(session, ctx, &mut run.exchange);
        let response_back = run.exchange.take_response::<GatewayResponse>();
        run.spent += began.elapsed();
        let Some(back) = response_back.filter(|_| request_back) else {
            return Err(Reason::PluginFailed.into());
        };
        *response = ResponseHeader::from(back.into_parts());
        match judged(decision, step.fail_mode)? {
            Decision::Respond(reply) => return Err(local_reply(*reply)),
            Decision::Continue | Decision::ReadBody(_) => {}
        }
    }
    Ok(())
}

/// Runs the log phases, each with what was sent. What fails there is the plugin's own affair.
pub(super) async fn on_log(session: &mut Session, ctx: &mut RequestContext, summary: &Summary) {
    let Some(mut plugins) = ctx.plugins.take() else { return };
    let run = plugins.run();
    if run.steps.iter().any(|step| step.invocation.configured().phases().log()) {
        let began = Instant::now();
        lend_request(session, ctx, &mut run.exchange);
        if let Some(sent) = session.response_written() {
            run.exchange.put_response(Box::new(GatewayResponse::new(sent.as_owned_parts())));
        }
        for step in &mut run.steps {
            if step.invocation.configured().phases().log()
                && let Err(error) = step.invocation.on_log(&mut run.exchange, summary.clone()).await
            {
                tracing::debug!(%error, "a plugin's log phase failed");
            }
        }
        take_request(session, ctx, &mut run.exchange);
        run.spent += began.elapsed();
    }
    ctx.plugins = Some(plugins);
}

fn lend_request(session: &mut Session, ctx: &RequestContext, exchange: &mut Exchange) {
    let facts = RequestFacts::new(session, ctx);
    let head = parts::take_request(session.req_header_mut());
    exchange.put_request(Box::new(GatewayRequest::new(head, facts)));
}

/// Gives the session its request back. `false`: the host lost it.
fn take_request(session: &mut Session, ctx: &mut RequestContext, exchange: &mut Exchange) -> bool {
    let Some(request) = exchange.take_request::<GatewayRequest>() else { return false };
    let (head, former_target) = request.into_parts();
    if ctx.raw_target.is_none() {
        ctx.raw_target = former_target;
    }
    parts::give_request(session.req_header_mut(), head);
    true
}

/// A failure by its fail mode.
fn judged(decision: Result<Decision, PluginError>, mode: FailMode) -> Result<Decision, Reply> {
    match (decision, mode) {
        (Ok(decision), _) => Ok(decision),
        (Err(error), FailMode::Closed) => Err(failed(&error)),
        (Err(error), FailMode::Open) => {
            skipped(&error);
            Ok(Decision::Continue)
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
