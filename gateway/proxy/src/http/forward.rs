//! To the endpoint: which one, how long it may take, what it is sent, and what follows when it fails.

use super::body::Unsent;
use super::context::{RequestContext, Upstream};
use super::retry::{Failed, Next};
use super::{answering, headers, names, plugins, target};
use crate::mirror::Mirrors;
use crate::upstream::{Deadline, Failure, Outcome, PeerSettings, PickRequest};
use ::http::header::{self, HeaderValue};
use ::http::{StatusCode, Uri, Version};
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;
use sluice_model::Reason;
use sluice_model::config::{Filters, Rewrite, Timeouts};
use std::time::{Duration, Instant};

/// The endpoint of the next try.
pub(super) async fn peer(session: &mut Session, ctx: &mut RequestContext) -> Result<Box<HttpPeer>> {
    if ctx.tries.begun > 0 {
        pick_again(session, ctx).await?;
    }
    ctx.tries.begun += 1;
    if ctx.expired() {
        return Err(give_up(ctx, Reason::RequestTimeout));
    }
    let settings = settings(session, ctx);
    let Some(pick) = &ctx.upstream.pick else { return Err(give_up(ctx, Reason::Internal)) };
    ctx.upstream.address = Some(pick.address());
    if let Some(trace) = &mut ctx.trace {
        trace.begin_try(pick.address());
    }
    let peer = pick.peer(&settings);
    ctx.upstream.picked_at = Some(Instant::now());
    Ok(peer)
}

async fn pick_again(session: &Session, ctx: &mut RequestContext) -> Result<()> {
    let pause = std::mem::take(&mut ctx.tries.pause);
    // The former try is over for all counters before the pause begins.
    ctx.upstream = Upstream { address: ctx.upstream.address, ..Upstream::default() };
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
    let snapshot = ctx.snapshot.clone();
    let slot = ctx.backend_ref().and_then(|backend| backend.target.as_ref()).map(|(slot, _)| slot);
    let backend = snapshot.as_deref().zip(slot).and_then(|(snapshot, slot)| snapshot.backend(slot));
    let wanted = PickRequest { headers: &session.req_header().headers, client: ctx.client, tried: &ctx.tries.tried };
    let picked = match backend {
        Some(backend) => backend.pick(&wanted).map_err(|error| error.reason()),
        None => Err(Reason::NoEndpoints),
    };
    match picked {
        Ok(pick) => {
            ctx.upstream.pick = Some(pick);
            Ok(())
        }
        Err(reason) => Err(give_up(ctx, reason)),
    }
}

/// An error that is not tried again, with its answer.
fn give_up(ctx: &mut RequestContext, reason: Reason) -> Box<Error> {
    ctx.refused = Some(reason.into());
    Error::explain(ErrorType::InternalError, reason.as_str())
}

fn settings(session: &Session, ctx: &mut RequestContext) -> PeerSettings {
    let (connect, response_headers, idle) = {
        let of = |timeouts: &Timeouts| (timeouts.connect, timeouts.response_headers, timeouts.stream_idle);
        match &ctx.listener {
            Some(listener) => of(&listener.edge().timeouts),
            None => of(&Timeouts::default()),
        }
    };
    let rule = ctx.rule.as_ref().map(|rule| &rule.config);
    let backend_timeout = rule.and_then(|rule| rule.backend_timeout);
    let route = backend_timeout.or(rule.and_then(|rule| rule.request_timeout));
    let left = ctx.left();
    ctx.upstream.backend_timeout = backend_timeout.is_some_and(|timeout| left.is_none_or(|left| timeout < left));
    ctx.upstream.deadline = backend_timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let head = match route {
        // It holds from the beginning, not from the request's end.
        Some(_) => None,
        // Such a response may begin with its first message.
        None if ctx.grpc || expects_events(session) => some(idle.max(response_headers)),
        None => some(response_headers),
    };
    ctx.upstream.head_patience = head;
    let bounded = |timeout: Duration| left.map_or(timeout, |left| left.min(timeout));
    // A tunnel lives by its own idle timeout and longest life, which the client's side watches, and a pause of a body by
    // `stream_idle`. What is shorter is the deadline's, which moves with the request.
    let (read_timeout, write_timeout) = match ctx.websocket {
        true => (None, some(idle)),
        false => (some(idle).map(|idle| idle.max(head.or(route).unwrap_or_default())), some(bounded(idle))),
    };
    PeerSettings { connect_timeout: bounded(connect), read_timeout, write_timeout, http1_only: ctx.websocket }
}

/// Zero switches a timeout off.
fn some(timeout: Duration) -> Option<Duration> {
    Some(timeout).filter(|timeout| !timeout.is_zero())
}

/// Server-sent events (WHATWG HTML, section 9.2).
fn expects_events(session: &Session) -> bool {
    session
        .req_header()
        .headers
        .get(header::ACCEPT)
        .is_some_and(|accept| accept.as_bytes().starts_with(b"text/event-stream"))
}

pub(super) fn connected(ctx: &mut RequestContext, digest: Option<&Digest>, reused: bool) {
    let now = Instant::now();
    ctx.upstream.wait = digest.and_then(Deadline::of);
    wait_until(ctx, None);
    if let Some(pick) = &mut ctx.upstream.pick {
        pick.connected();
    }
    if !reused {
        ctx.upstream.connect = ctx.upstream.picked_at.map(|picked| now.saturating_duration_since(picked));
    }
    ctx.upstream.connected_at = Some(now);
}

/// The endpoint is waited for until `until`, or until the rule's own timeouts have passed.
fn wait_until(ctx: &mut RequestContext, until: Option<Instant>) {
    let at = [until, ctx.deadline, ctx.upstream.deadline].into_iter().flatten().min();
    if let Some(wait) = &mut ctx.upstream.wait {
        wait.set(at);
    }
}

/// The response's head is held until its body is here: that may take as long as a head.
pub(super) fn hold(ctx: &mut RequestContext) {
    let patience = ctx.listener.as_ref().map(|listener| listener.edge().timeouts.response_headers).and_then(some);
    wait_until(ctx, patience.and_then(|patience| Instant::now().checked_add(patience)));
}

/// The request was refused while its body went out: the endpoint's answer is not waited for.
pub(super) fn abandon(ctx: &mut RequestContext) {
    if let Some(wait) = &mut ctx.upstream.wait {
        wait.give_up();
    }
}

/// The last byte of the request goes out: the response may take `response_headers` from now on.
pub(super) fn request_ended(ctx: &mut RequestContext) {
    if ctx.upstream.headers_at.is_none() {
        let until = ctx.upstream.head_patience.and_then(|patience| Instant::now().checked_add(patience));
        wait_until(ctx, until);
    }
}

/// The request as this try sends it: the rule's filters, then the backend's.
pub(super) fn request(
    session: &mut Session,
    ctx: &mut RequestContext,
    request: &mut RequestHeader,
    mirrors: &Mirrors,
) -> Result<()> {
    if let Some(trace) = &ctx.trace
        && let Some(value) = trace.for_try(request.headers.get(names::TRACEPARENT))
    {
        request.insert_header(&names::TRACEPARENT, value)?;
    }
    if let Some(rule) = &ctx.rule {
        let prefix = filter(&rule.config.filters, ctx.prefix, request)?;
        if let Some(filters) = ctx.backend_filters() {
            filter(filters, prefix, request)?;
        }
    }
    if let Some(length) = ctx.held.as_ref().and_then(|held| held.replaced_length()) {
        request.remove_header(&header::TRANSFER_ENCODING);
        request.insert_header(header::CONTENT_LENGTH, HeaderValue::from(length))?;
    }
    if plugins::may_have_unframed(ctx) && !session.is_body_empty() {
        if plugins::unframes_request(ctx) {
            request.remove_header(&header::CONTENT_LENGTH);
        }
        let framed = |name| request.headers.contains_key(name);
        let unframed = !framed(header::CONTENT_LENGTH) && !framed(header::TRANSFER_ENCODING);
        if unframed && session.req_header().version == Version::HTTP_11 {
            request.insert_header(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"))?;
        }
        ctx.request_unsent = Unsent::told_by(&request.headers);
    }
    if ctx.grpc && request.version == Version::HTTP_2 && !request.headers.contains_key(header::TE) {
        // What the engine takes out of HTTP/1 requests, and gRPC servers ask for.
        request.insert_header(header::TE, HeaderValue::from_static("trailers"))?;
    }
    if let Some(copies) = &mut ctx.mirrors {
        copies.head(request, ctx.client);
        if session.is_body_empty()
            && let Some(copies) = ctx.mirrors.take()
        {
            mirrors.send(*copies);
        }
    }
    if ctx.websocket || session.is_body_done() {
        request_ended(ctx);
    }
    Ok(())
}

/// What is left of the rule's prefix after it: the length of what replaced it.
fn filter(filters: &Filters, prefix: Option<usize>, request: &mut RequestHeader) -> Result<Option<usize>> {
    if !filters.request_headers.is_empty() {
        headers::apply(&filters.request_headers, request);
    }
    match &filters.rewrite {
        Some(rewrite) => rewrite_target(rewrite, prefix, request),
        None => Ok(prefix),
    }
}

fn rewrite_target(rewrite: &Rewrite, prefix: Option<usize>, request: &mut RequestHeader) -> Result<Option<usize>> {
    if let Some(hostname) = &rewrite.hostname {
        // The engine takes an authority of the target from here.
        request.insert_header(header::HOST, hostname.as_str())?;
    }
    let Some(path) = &rewrite.path else { return Ok(prefix) };
    // `translate` has checked the replacement; where it cannot be a target even so, the path stays.
    let Some(target) = target::rewritten(path, request.uri.path(), prefix, request.uri.query()) else {
        return Ok(prefix);
    };
    let mut uri = request.uri.clone().into_parts();
    uri.path_and_query = Some(target);
    let uri = Uri::from_parts(uri).map_err(|_| Error::explain(ErrorType::InternalError, "rewritten target"))?;
    request.set_uri(uri);
    Ok(target::prefix_after(path, prefix))
}

fn report(ctx: &mut RequestContext, outcome: Outcome) {
    if !std::mem::replace(&mut ctx.upstream.reported, true)
        && let Some(pick) = &ctx.upstream.pick
    {
        pick.report(outcome);
    }
}

/// For the trace. A try that nothing ends is over when the request is.
fn end_try(ctx: &mut RequestContext, failure: Option<Failure>) {
    if let Some(trace) = &mut ctx.trace {
        trace.end_try(failure.map(Failure::reason));
    }
}

pub(super) fn failed_to_connect(session: &Session, ctx: &mut RequestContext, mut error: Box<Error>) -> Box<Error> {
    let failure = Failure::of(&error).unwrap_or(Failure::Connect);
    end_try(ctx, Some(failure));
    report(ctx, Outcome::Failed(failure));
    let again = next(session, ctx, failure, false);
    error.set_retry(again);
    error
}

/// An error between the connection and the response's end.
pub(super) fn failed(
    session: &mut Session,
    ctx: &mut RequestContext,
    mut error: Box<Error>,
    reused: bool,
) -> Box<Error> {
    // Plugins have seen a head that was held: there is no second one for them.
    let held = answering::end(session, ctx);
    if std::mem::take(&mut ctx.tries.on_status) {
        end_try(ctx, None);
        error.set_retry(true);
        return error;
    }
    let begun = held || session.response_written().is_some_and(|sent| !sent.status.is_informational());
    let failure = Failure::of(&error);
    if failure.is_some() {
        end_try(ctx, failure);
    }
    let again = match failure {
        Some(failure) if ctx.refused.is_none() && !begun => {
            let again = next(session, ctx, failure, reused);
            // A pooled connection that was closed meanwhile says nothing about its endpoint.
            let stale = again && reused && failure == Failure::Reset && ctx.tries.tried.is_empty();
            if !stale {
                report(ctx, Outcome::Failed(failure));
            }
            again
        }
        Some(failure) if ctx.refused.is_none() => {
            report(ctx, Outcome::Failed(failure));
            false
        }
        _ => false,
    };
    error.set_retry(again);
    error
}

/// Whether there is another try, and when.
fn next(session: &Session, ctx: &mut RequestContext, failure: Failure, reused: bool) -> bool {
    let Some(rule) = ctx.rule.clone() else { return false };
    let failed = Failed {
        failure,
        method: &session.req_header().method,
        reused,
        body_held: body_is_held(session, ctx),
        backend_timeout: ctx.upstream.backend_timeout,
    };
    match ctx.tries.after_failure(&rule.config.retry, failed) {
        Next::GiveUp => false,
        Next::Reconnect => {
            ctx.tries.pause = Duration::ZERO;
            true
        }
        Next::Retry(pause) => begin_retry(ctx, pause),
    }
}

/// Whether the request's body can be sent a second time: what was read of it is still here, and no plugin has seen any of it
/// on its way.
fn body_is_held(session: &Session, ctx: &RequestContext) -> bool {
    !session.as_downstream().retry_buffer_truncated() && !ctx.body_passed
}

/// Takes a place in the budget for a further try. `false`: there is none, or no time.
fn begin_retry(ctx: &mut RequestContext, pause: Duration) -> bool {
    if ctx.left().is_some_and(|left| left <= pause) {
        return false;
    }
    let Some(rule) = &ctx.rule else { return false };
    let snapshot = ctx.snapshot.as_deref();
    let slot = ctx.backend_ref().and_then(|backend| backend.target.as_ref()).map(|(slot, _)| slot);
    let backend = snapshot.zip(slot).and_then(|(snapshot, slot)| snapshot.backend(slot));
    let Some(backend) = backend else { return false };
    let Some(permit) = backend.retry_permit(rule.config.retry.budget_percent) else {
        if backend.constrains_retries() {
            // GEP-3388: whatever the endpoint said, the client is told that no other was asked.
            ctx.refused = Some(Reason::RetryBudgetExceeded.into());
        }
        return false;
    };
    ctx.tries.permit = Some(permit);
    ctx.tries.retries += 1;
    ctx.tries.pause = pause;
    ctx.tries.tried.extend(ctx.upstream.address);
    true
}

/// The response's head, as it comes from the endpoint. `Err`: its status is one that is tried again.
pub(super) fn answered(session: &Session, ctx: &mut RequestContext, response: &ResponseHeader) -> Result<()> {
    if response.status.is_informational() && response.status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(());
    }
    let now = Instant::now();
    ctx.upstream.headers_at = Some(now);
    ctx.ends_apart = response.version != Version::HTTP_2;
    if response.status == StatusCode::SWITCHING_PROTOCOLS {
        if !ctx.websocket {
            // RFC 9110, section 15.2.2: it switches to what was asked for. What follows is nobody's protocol.
            report(ctx, Outcome::Failed(Failure::Protocol));
            ctx.refused = Some(Reason::UpstreamProtocolError.into());
            return Err(Error::explain(ErrorType::InvalidHTTPHeader, "101 that was not asked for").into_up());
        }
        // Nothing of the exchange binds what follows it.
        ctx.deadline = None;
        ctx.upstream.deadline = None;
    }
    wait_until(ctx, None);
    let status = response.status.as_u16();
    if let Some(trace) = &mut ctx.trace {
        trace.try_answered(status);
    }
    report(ctx, Outcome::Response(status));
    if let (Some(connected), Some((_, metrics))) =
        (ctx.upstream.connected_at, ctx.backend_ref().and_then(|backend| backend.target.as_ref()))
    {
        metrics.observe(now.saturating_duration_since(connected));
    }
    let held = body_is_held(session, ctx);
    let pause = ctx.rule.as_ref().and_then(|rule| ctx.tries.after_status(&rule.config.retry, status, held));
    let Some(pause) = pause else { return Ok(()) };
    if begin_retry(ctx, pause) {
        ctx.tries.on_status = true;
        let mut error = Error::explain(ErrorType::HTTPStatus(status), "the rule tries this status again");
        error.set_retry(true);
        return Err(error.into_up());
    }
    if ctx.refused.is_some() {
        return Err(Error::explain(ErrorType::HTTPStatus(status), "no further try of this status is allowed").into_up());
    }
    Ok(())
}
