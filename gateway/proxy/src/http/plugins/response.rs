//! The response's phases, in reverse order: heads, bodies, trailers.
//!
//! ```text
//! head ─► last plugin's on_response ─► … ─► first plugin's ─► client
//!          │ read-body: what the plugins behind it have seen of the body comes to it whole, then the heads go on
//! ```
//!
//! A plugin that reads the body stands between those that have seen the head and those that have yet to: bodies pass the
//! former first, and reach the latter once it has let them go.

use super::super::context::{Reply, RequestContext};
use super::super::replay::Replay;
use super::super::{parts, reply};
use super::place::{AtHand, Place};
use super::views::GatewayResponse;
use super::{PluginRun, Run, Step, bound, failed_length, joined, judged, local_reply, refuse, takes_part};
use ::http::{HeaderMap, HeaderValue, Method, header};
use bytes::Bytes;
use futures::FutureExt;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use sluice_model::Reason;
use sluice_wasm::{BodyRequest, Decision, OverLimit, PluginError};
use std::time::Instant;

/// A response's body as far as it is here.
pub(in super::super) struct Here<'b> {
    pub(in super::super) bytes: &'b mut Bytes,
    /// Nothing of it follows.
    pub(in super::super) whole: bool,
    /// What follows a whole one.
    pub(in super::super) trailers: Option<&'b mut HeaderMap>,
}

/// Whether plugins see the response's body on its way.
pub(in super::super) fn see_response_body(ctx: &mut RequestContext) -> bool {
    ctx.plugins.as_mut().is_some_and(|plugins| any_sees(plugins.run()))
}

/// Whether what plugins do with a response has to be waited for as it is written.
pub(in super::super) fn answer_in_passing(ctx: &mut RequestContext) -> bool {
    let answers = |step: &Step| step.invocation.configured().phases().answers_in_passing();
    ctx.plugins.as_mut().is_some_and(|plugins| plugins.run().steps.iter().any(answers))
}

/// Takes the length out of a head whose body plugins will change as it passes.
pub(in super::super) fn unframe_response(run: &Run, response: &mut ResponseHeader) {
    if run.steps.iter().any(|step| step.invocation.streams_response()) {
        response.remove_header(&header::CONTENT_LENGTH);
    }
}

pub(in super::super) fn any_sees(run: &Run) -> bool {
    run.steps.iter().any(|step| step.invocation.configured().phases().response_pieces())
}

/// The gateway answers a request before its plugins have seen it (a preflight, an address that is not allowed, a body that
/// is too large), or no rule takes it and there are plugins for all of the listener: their response phases run all the same.
/// One that has no version yet is passed over, as there is nothing left for it to guard.
fn of_unseen(session: &Session, ctx: &RequestContext) -> Option<Box<PluginRun>> {
    let snapshot = ctx.snapshot.as_ref()?;
    let (uses, slots) = match (&ctx.rule, ctx.listener.as_ref().and_then(|listener| listener.plugins.as_ref())) {
        (Some(rule), _) => (&rule.config.plugins, &rule.plugins),
        (None, Some(plugins)) if ctx.reason == Reason::RouteNotFound => (&*plugins.uses, &plugins.slots),
        _ => return None,
    };
    if slots.is_empty() {
        return None;
    }
    let mut plugins = Box::new(PluginRun::new());
    let run = plugins.run();
    for (use_, slot) in uses.iter().zip(slots) {
        if takes_part(use_, session, ctx)
            && let Some(configured) = snapshot.plugin(slot)
        {
            run.steps.push(Step { invocation: configured.begin(), fail_mode: use_.fail_mode });
        }
    }
    run.begin_response();
    Some(plugins)
}

/// Runs the phases of the response's head that have not run yet, in reverse order. `Some`: a plugin wants the body first.
/// `Err`: a plugin answers instead; those before it in the policy's order have yet to see that answer.
pub(in super::super) async fn on_response(
    session: &mut Session,
    ctx: &mut RequestContext,
    response: &mut ResponseHeader,
    ended: bool,
) -> Result<Option<BodyRequest>, Reply> {
    let Some(mut plugins) = begin(session, ctx) else { return Ok(None) };
    let outcome = if plugins.run().answers() {
        Box::pin(heads(&mut AtHand { session, ctx }, plugins.run(), response, ended)).await
    } else {
        plugins.run().unanswered = 0;
        Ok(None)
    };
    ctx.plugins = Some(plugins);
    outcome
}

fn begin(session: &Session, ctx: &mut RequestContext) -> Option<Box<PluginRun>> {
    let mut plugins = ctx.plugins.take().or_else(|| of_unseen(session, ctx))?;
    if ctx.expired() {
        // It is being answered for that: the plugins see this answer as any other.
        plugins.run().exchange.deadline = None;
    }
    Some(plugins)
}

/// The same for an answer of the gateway's own, or of a plugin's: its body is here, and whoever wants it has it at once.
/// `has_body`: it will be sent.
pub(in super::super) async fn on_reply(
    session: &mut Session,
    ctx: &mut RequestContext,
    response: &mut ResponseHeader,
    body: &mut Bytes,
    has_body: bool,
) -> Result<(), Reply> {
    let Some(mut plugins) = begin(session, ctx) else { return Ok(()) };
    let outcome = if plugins.run().answers() {
        Box::pin(reply_phases(&mut AtHand { session, ctx }, plugins.run(), response, body, has_body)).await
    } else {
        plugins.run().unanswered = 0;
        Ok(())
    };
    ctx.plugins = Some(plugins);
    outcome
}

async fn reply_phases(
    place: &mut AtHand<'_>,
    run: &mut Run,
    response: &mut ResponseHeader,
    body: &mut Bytes,
    has_body: bool,
) -> Result<(), Reply> {
    loop {
        let Some(wish) = heads(place, run, response, false).await? else { return Ok(()) };
        if has_body {
            let mut here = Here { bytes: body, whole: true, trailers: None };
            go_on(place, run, response, &mut here, wish).await?;
        }
    }
}

/// The heads, from the last plugin that has not seen it on; until one wants the body.
async fn heads<P: Place>(
    place: &mut P,
    run: &mut Run,
    response: &mut ResponseHeader,
    ended: bool,
) -> Result<Option<BodyRequest>, Reply> {
    while run.unanswered > 0 {
        run.unanswered -= 1;
        let Some(step) = run.steps.get_mut(run.unanswered) else { continue };
        let fail_mode = step.fail_mode;
        if !step.invocation.configured().phases().response_headers() {
            continue;
        }
        let began = Instant::now();
        // Before the request is lent: its method is asked for.
        run.exchange.response_ends = ended || has_no_body(place.method(), response);
        place.lend(&mut run.exchange);
        run.exchange.put_response(Box::new(GatewayResponse::new(parts::take_response(response))));
        run.exchange.outbound = place.outbound(step.invocation.configured());
        let decision = step.invocation.on_response(&mut run.exchange).await;
        place.note(step, "response_headers", began, decision.as_ref().map(Decision::outcome));
        take_back(place, run, response, began)?;
        match judged(run.exchange.deadline, decision, fail_mode)? {
            Decision::Respond(reply) => return Err(local_reply(*reply)),
            Decision::ReadBody(wish) if may_have_body(place.method(), response) => return Ok(Some(wish)),
            Decision::Continue | Decision::ReadBody(_) | Decision::Abort => {}
        }
    }
    Ok(None)
}

/// Takes both heads back after a call that had the response's.
fn take_back<P: Place>(
    place: &mut P,
    run: &mut Run,
    response: &mut ResponseHeader,
    began: Instant,
) -> Result<(), Reply> {
    let request_back = place.take(run);
    let response_back = run.exchange.take_response::<GatewayResponse>();
    run.spent += began.elapsed();
    let Some(back) = response_back.filter(|_| request_back) else {
        return Err(Reason::PluginFailed.into());
    };
    *response = ResponseHeader::from(back.into_parts());
    Ok(())
}

/// A plugin wants the body: those behind it see what is here, then it does where that is all, or goes without where that is
/// more than it wants; then the heads go on. `Some`: there is one that waits for more.
pub(in super::super) async fn go_on<P: Place>(
    place: &mut P,
    run: &mut Run,
    response: &mut ResponseHeader,
    here: &mut Here<'_>,
    wish: BodyRequest,
) -> Result<Option<BodyRequest>, Reply> {
    let mut wish = Some(wish);
    while let Some(wanted) = wish.take() {
        let reader = run.unanswered;
        show(place, run, reader + 1, response, here).await?;
        if here.bytes.len() as u64 > wanted.limit {
            if wanted.over_limit == OverLimit::Refuse {
                return Err(Reason::ResponseTooLarge.into());
            }
        } else if here.whole {
            read(place, run, response, here).await?;
        } else {
            return Ok(Some(wanted));
        }
        run.shown = run.shown.min(reader);
        wish = heads(place, run, response, false).await?;
    }
    Ok(None)
}

/// All heads are through: whoever has not seen the body yet sees what is here of it.
pub(in super::super) async fn show_all<P: Place>(
    place: &mut P,
    run: &mut Run,
    response: &mut ResponseHeader,
    here: &mut Here<'_>,
) -> Result<(), Reply> {
    show(place, run, 0, response, here).await
}

/// The plugin that wants the body has it.
async fn read<P: Place>(
    place: &mut P,
    run: &mut Run,
    response: &mut ResponseHeader,
    here: &mut Here<'_>,
) -> Result<(), Reply> {
    let Some(step) = run.steps.get_mut(run.unanswered) else { return Ok(()) };
    let (fail_mode, began) = (step.fail_mode, Instant::now());
    step.invocation.skip_response_pieces();
    tell_length(response, here.bytes.len())?;
    place.lend(&mut run.exchange);
    run.exchange.put_response(Box::new(GatewayResponse::new(parts::take_response(response))));
    run.exchange.outbound = place.outbound(step.invocation.configured());
    let outcome = step.invocation.on_response_body(&mut run.exchange, here.bytes.clone()).await;
    place.note(step, "response_body", began, outcome.as_ref().map(|outcome| outcome.decision.outcome()));
    take_back(place, run, response, began)?;
    let Some(outcome) = judged(run.exchange.deadline, outcome.map(Some), fail_mode)? else { return Ok(()) };
    if let Some(replacement) = outcome.replacement {
        tell_length(response, replacement.len())?;
        *here.bytes = replacement;
    }
    match outcome.decision {
        Decision::Respond(reply) => Err(local_reply(*reply)),
        Decision::Continue | Decision::ReadBody(_) | Decision::Abort => Ok(()),
    }
}

/// The head of a message whose body is whole.
pub(in super::super) fn tell_length(response: &mut ResponseHeader, length: usize) -> Result<(), Reply> {
    response.remove_header(&header::TRANSFER_ENCODING);
    let told = response.insert_header(header::CONTENT_LENGTH, HeaderValue::from(length));
    told.map_err(|_| Reason::Internal.into())
}

/// Shows what is here of a body whose head was not sent, to those from `down_to` on that have not seen it.
async fn show<P: Place>(
    place: &mut P,
    run: &mut Run,
    down_to: usize,
    response: &mut ResponseHeader,
    here: &mut Here<'_>,
) -> Result<(), Reply> {
    let to = (down_to, run.shown);
    run.shown = run.shown.min(down_to);
    let empty = here.bytes.is_empty() && !here.whole;
    if empty || !run.steps.get(to.0..to.1).is_some_and(|steps| steps.iter().any(sees)) {
        return Ok(());
    }
    run.answered = Some(Box::new(GatewayResponse::new(parts::take_response(response))));
    let outcome = match here.trailers.as_deref_mut().filter(|_| here.whole) {
        Some(trailers) => trailers_to(place, run, to, trailers, here.bytes).await,
        None => pieces_to(place, run, to, here.bytes, here.whole, false).await,
    };
    if let Some(head) = run.answered.take() {
        *response = ResponseHeader::from(head.into_parts());
    }
    outcome
}

/// Shows a piece of the response's body to the plugins that see it on its way, in reverse order.
pub(in super::super) fn on_response_piece(
    session: &mut Session,
    ctx: &mut RequestContext,
    piece: &mut Option<Bytes>,
    end: bool,
) -> pingora_core::Result<()> {
    if ctx.tunnel || ctx.bodiless || (piece.is_none() && !end) || !see_response_body(ctx) {
        return Ok(());
    }
    let Some(mut plugins) = ctx.plugins.take() else { return Ok(()) };
    if piece.is_none() && plugins.run().exchange.response_ends {
        ctx.plugins = Some(plugins);
        return Ok(());
    }
    let mut bytes = piece.take().unwrap_or_default();
    let (run, apart) = (plugins.run(), ctx.ends_apart);
    let to = (0, run.steps.len());
    // The engine waits for nothing here, and none of them does.
    let shown = pieces_apart(&mut AtHand { session, ctx }, run, to, &mut bytes, end, apart, true).now_or_never();
    let outcome = shown.unwrap_or_else(|| Err(Reason::PluginFailed.into()));
    ctx.plugins = Some(plugins);
    if outcome.is_ok() && !ctx.response_unsent.takes(bytes.len(), end) {
        return Err(failed_length(ctx));
    }
    *piece = (!bytes.is_empty()).then_some(bytes);
    outcome.map_err(|reply| refuse(ctx, reply))
}

/// Shows the body of an answer of the gateway's own, or of a plugin's, to the plugins that see bodies and have seen none.
pub(in super::super) async fn on_reply_body(
    session: &mut Session,
    ctx: &mut RequestContext,
    response: &ResponseHeader,
    body: &mut Bytes,
) -> Result<(), Reply> {
    if !see_response_body(ctx) {
        return Ok(());
    }
    let Some(mut plugins) = ctx.plugins.take() else { return Ok(()) };
    let run = plugins.run();
    run.answered = Some(Box::new(GatewayResponse::new(response.as_owned_parts())));
    let to = (0, std::mem::take(&mut run.shown));
    let outcome = Box::pin(pieces_to(&mut AtHand { session, ctx }, run, to, body, true, false)).await;
    ctx.plugins = Some(plugins);
    outcome
}

/// Shows the response's trailers to the plugins that see them, in reverse order. They end a body without a last piece: what
/// was held back of it goes before them. Where a plugin fails the response is cut short.
pub(in super::super) async fn on_response_trailers(
    session: &mut Session,
    ctx: &mut RequestContext,
    trailers: &mut HeaderMap,
) {
    let Some(mut plugins) = ctx.plugins.take() else { return };
    let run = plugins.run();
    let mut outcome = Ok(());
    let mut bytes = Bytes::new();
    if !ctx.tunnel && run.steps.iter().any(sees) {
        let to = (0, run.steps.len());
        outcome = trailers_to(&mut AtHand { session, ctx }, run, to, trailers, &mut bytes).await;
    }
    ctx.plugins = Some(plugins);
    let outcome = outcome.map_err(|reply| refuse(ctx, reply));
    let outcome = match outcome {
        Ok(()) if !ctx.response_unsent.takes(bytes.len(), true) => Err(failed_length(ctx)),
        outcome => outcome,
    };
    match outcome {
        Ok(()) if bytes.is_empty() || ctx.bodiless => {}
        Ok(()) => ctx.completed = Some(Replay::put_before_trailers(session, bytes)),
        Err(error) => {
            // The engine goes on, whatever this filter says: the client's stream is ended here.
            tracing::debug!(%error, "a response is cut short before its trailers");
            trailers.clear();
            session.as_downstream_mut().shutdown().await;
        }
    }
}

/// Whether it sees bodies or their trailers on their way.
fn sees(step: &Step) -> bool {
    let phases = step.invocation.configured().phases();
    phases.response_trailers() || phases.response_pieces()
}

/// Shows the trailers to the plugins of these places. `bytes` goes before them, and becomes what does.
pub(in super::super) async fn trailers_to<P: Place>(
    place: &mut P,
    run: &mut Run,
    to: (usize, usize),
    trailers: &mut HeaderMap,
    bytes: &mut Bytes,
) -> Result<(), Reply> {
    let began = Instant::now();
    lend_both(place, run);
    let mut outcome = Ok(());
    for step in run.steps.get_mut(to.0..to.1).unwrap_or_default().iter_mut().rev() {
        run.exchange.outbound = place.outbound(step.invocation.configured());
        // A filter sees no end before trailers, as under Envoy.
        let ends = step.invocation.streams_response();
        if (ends || !bytes.is_empty()) && step.invocation.configured().phases().response_pieces() {
            let decision = step.invocation.on_response_piece(&mut run.exchange, bytes, ends).await;
            outcome = piece_judged(run.exchange.deadline, decision, step);
            if outcome.is_err() {
                break;
            }
        }
        let mut before = Bytes::new();
        let began = Instant::now();
        let seen = step.invocation.on_response_trailers(&mut run.exchange, trailers, &mut before).await;
        if step.invocation.configured().phases().response_trailers() {
            let outcome = seen.as_ref().map(|()| Decision::Continue.outcome());
            place.note(step, "response_trailers", began, outcome);
        }
        *bytes = joined(std::mem::take(bytes), before);
        outcome = judged(run.exchange.deadline, seen, step.fail_mode);
        if outcome.is_err() {
            break;
        }
    }
    let back = take_both(place, run);
    run.spent += began.elapsed();
    if back { outcome } else { Err(Reason::PluginFailed.into()) }
}

/// Shows a piece of the body to the plugins of these places. It becomes what goes on. `apart`: an end is told apart from the
/// piece before it. `at_once`: nothing may be waited for, which is for filters alone.
pub(in super::super) async fn pieces_apart<P: Place>(
    place: &mut P,
    run: &mut Run,
    to: (usize, usize),
    bytes: &mut Bytes,
    end: bool,
    apart: bool,
    at_once: bool,
) -> Result<(), Reply> {
    if !(apart && end && !bytes.is_empty()) {
        return pieces_to(place, run, to, bytes, end, at_once).await;
    }
    pieces_to(place, run, to, bytes, false, at_once).await?;
    let mut rest = Bytes::new();
    let outcome = pieces_to(place, run, to, &mut rest, true, at_once).await;
    *bytes = joined(std::mem::take(bytes), rest);
    outcome
}

async fn pieces_to<P: Place>(
    place: &mut P,
    run: &mut Run,
    to: (usize, usize),
    bytes: &mut Bytes,
    end: bool,
    at_once: bool,
) -> Result<(), Reply> {
    let began = Instant::now();
    lend_both(place, run);
    let mut outcome = Ok(());
    for step in run.steps.get_mut(to.0..to.1).unwrap_or_default().iter_mut().rev() {
        if !step.invocation.configured().phases().response_pieces() || (bytes.is_empty() && !end) {
            continue;
        }
        run.exchange.outbound = place.outbound(step.invocation.configured());
        let decision = match at_once {
            true => step.invocation.on_response_piece_at_once(&mut run.exchange, bytes, end),
            false => step.invocation.on_response_piece(&mut run.exchange, bytes, end).await,
        };
        outcome = piece_judged(run.exchange.deadline, decision, step);
        if outcome.is_err() {
            break;
        }
    }
    let back = take_both(place, run);
    run.spent += began.elapsed();
    if back { outcome } else { Err(Reason::PluginFailed.into()) }
}

fn piece_judged(deadline: Option<Instant>, decision: Result<Decision, PluginError>, step: &Step) -> Result<(), Reply> {
    match judged(deadline, decision, bound(step.fail_mode, step.invocation.is_bound_to_response()))? {
        Decision::Abort => Err(Reason::PluginAborted.into()),
        // A filter's answer comes too late here.
        Decision::Continue | Decision::ReadBody(_) | Decision::Respond(_) => Ok(()),
    }
}

/// Lends the request, and the response as it is, or was sent.
fn lend_both<P: Place>(place: &mut P, run: &mut Run) {
    place.lend(&mut run.exchange);
    if let Some(head) = run.answered.take().or_else(|| Some(Box::new(GatewayResponse::new(place.sent()?)))) {
        run.exchange.put_response(head);
    }
}

/// Takes both back. `false`: the host lost the request.
fn take_both<P: Place>(place: &mut P, run: &mut Run) -> bool {
    run.answered = run.exchange.take_response::<GatewayResponse>();
    place.take(run)
}

/// Whether a response is one by its head alone (RFC 9112, section 6.3).
fn has_no_body(method: &Method, response: &ResponseHeader) -> bool {
    let empty = response.headers.get(header::CONTENT_LENGTH).is_some_and(|length| length.as_bytes() == b"0");
    empty || !may_have_body(method, response)
}

/// Whether a response may have a body at all (RFC 9110, section 6.4.1).
pub(in super::super) fn may_have_body(method: &Method, response: &ResponseHeader) -> bool {
    *method != Method::HEAD && !response.status.is_informational() && !reply::has_no_content(response.status)
}
