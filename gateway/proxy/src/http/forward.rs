//! To the endpoint: which one, how long it may take, what it is sent, and what follows when it fails.

use super::context::{RequestContext, Upstream};
use super::retry::{Failed, Next};
use super::{headers, target};
use crate::mirror::Mirrors;
use crate::upstream::{Failure, Outcome, PeerSettings, PickRequest};
use ::http::header::{self, HeaderValue};
use ::http::{StatusCode, Uri, Version};
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
    let defaults = Timeouts::default();
    let upgrade = session.is_upgrade_req();
    let backend_timeout = ctx.rule.as_ref().and_then(|rule| rule.config.backend_timeout);
    let request_timeout = ctx.rule.as_ref().and_then(|rule| rule.config.request_timeout);
    let left = ctx.left();
    let listener = ctx.listener.clone();
    let timeouts = listener.as_ref().map_or(&defaults, |listener| &listener.edge().timeouts);
    // The engine has one timeout for the response's head and for each piece of its body. Exchanges that are meant to be
    // quiet for long have the longer of the two.
    let quiet = upgrade || ctx.grpc || expects_events(session);
    let patience = match (backend_timeout, request_timeout) {
        (Some(timeout), _) => timeout,
        (None, Some(timeout)) => timeout,
        (None, None) if quiet => timeouts.stream_idle,
        (None, None) => timeouts.response_headers,
    };
    let bounded = |timeout: Duration| left.map_or(timeout, |left| left.min(timeout));
    ctx.upstream.backend_timeout = backend_timeout.is_some_and(|timeout| left.is_none_or(|left| timeout < left));
    ctx.upstream.deadline = backend_timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    PeerSettings {
        connect_timeout: bounded(timeouts.connect),
        read_timeout: Some(bounded(patience)).filter(|timeout| !timeout.is_zero()),
        write_timeout: Some(bounded(timeouts.stream_idle)).filter(|timeout| !timeout.is_zero()),
        http1_only: upgrade,
    }
}

/// Server-sent events (WHATWG HTML, section 9.2).
fn expects_events(session: &Session) -> bool {
    session
        .req_header()
        .headers
        .get(header::ACCEPT)
        .is_some_and(|accept| accept.as_bytes().starts_with(b"text/event-stream"))
}

pub(super) fn connected(ctx: &mut RequestContext, reused: bool) {
    let now = Instant::now();
    if let Some(pick) = &mut ctx.upstream.pick {
        pick.connected();
    }
    if !reused {
        ctx.upstream.connect = ctx.upstream.picked_at.map(|picked| now.saturating_duration_since(picked));
    }
    ctx.upstream.connected_at = Some(now);
}

/// The request as this try sends it: the rule's filters, then the backend's.
pub(super) fn request(
    session: &mut Session,
    ctx: &mut RequestContext,
    request: &mut RequestHeader,
    mirrors: &Mirrors,
) -> Result<()> {
    if let Some(rule) = &ctx.rule {
        filter(&rule.config.filters, ctx.prefix, request)?;
        if let Some(filters) = ctx.backend_filters() {
            filter(filters, ctx.prefix, request)?;
        }
    }
    if let Some(length) = ctx.held.as_ref().and_then(|held| held.replaced_length()) {
        request.remove_header(&header::TRANSFER_ENCODING);
        request.insert_header(header::CONTENT_LENGTH, HeaderValue::from(length))?;
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
    Ok(())
}

fn filter(filters: &Filters, prefix: Option<usize>, request: &mut RequestHeader) -> Result<()> {
    if !filters.request_headers.is_empty() {
        headers::apply(&filters.request_headers, request);
    }
    match &filters.rewrite {
        Some(rewrite) => rewrite_target(rewrite, prefix, request),
        None => Ok(()),
    }
}

fn rewrite_target(rewrite: &Rewrite, prefix: Option<usize>, request: &mut RequestHeader) -> Result<()> {
    if let Some(hostname) = &rewrite.hostname {
        // The engine takes an authority of the target from here.
        request.insert_header(header::HOST, hostname.as_str())?;
    }
    let Some(path) = &rewrite.path else { return Ok(()) };
    // `translate` has checked the replacement; where it cannot be a target even so, the path stays.
    let Some(target) = target::rewritten(path, request.uri.path(), prefix, request.uri.query()) else { return Ok(()) };
    let mut uri = request.uri.clone().into_parts();
    uri.path_and_query = Some(target);
    let uri = Uri::from_parts(uri).map_err(|_| Error::explain(ErrorType::InternalError, "rewritten target"))?;
    request.set_uri(uri);
    Ok(())
}

fn report(ctx: &mut RequestContext, outcome: Outcome) {
    if !std::mem::replace(&mut ctx.upstream.reported, true)
        && let Some(pick) = &ctx.upstream.pick
    {
        pick.report(outcome);
    }
}

pub(super) fn failed_to_connect(session: &Session, ctx: &mut RequestContext, mut error: Box<Error>) -> Box<Error> {
    let failure = Failure::of(&error).unwrap_or(Failure::Connect);
    report(ctx, Outcome::Failed(failure));
    let again = next(session, ctx, failure, false);
    error.set_retry(again);
    error
}

/// An error between the connection and the response's end.
pub(super) fn failed(session: &Session, ctx: &mut RequestContext, mut error: Box<Error>, reused: bool) -> Box<Error> {
    if std::mem::take(&mut ctx.tries.on_status) {
        error.set_retry(true);
        return error;
    }
    let begun = session.response_written().is_some_and(|sent| !sent.status.is_informational());
    let again = match Failure::of(&error) {
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
        body_held: !session.as_downstream().retry_buffer_truncated(),
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

/// Takes a place in the budget for a further try. `false`: there is none, or no time.
fn begin_retry(ctx: &mut RequestContext, pause: Duration) -> bool {
    if ctx.left().is_some_and(|left| left <= pause) {
        return false;
    }
    let Some(rule) = &ctx.rule else { return false };
    let snapshot = ctx.snapshot.as_deref();
    let slot = ctx.backend_ref().and_then(|backend| backend.target.as_ref()).map(|(slot, _)| slot);
    let backend = snapshot.zip(slot).and_then(|(snapshot, slot)| snapshot.backend(slot));
    let Some(permit) = backend.and_then(|backend| backend.retry_permit(rule.config.retry.budget_percent)) else {
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
    let status = response.status.as_u16();
    report(ctx, Outcome::Response(status));
    if let (Some(connected), Some((_, metrics))) =
        (ctx.upstream.connected_at, ctx.backend_ref().and_then(|backend| backend.target.as_ref()))
    {
        metrics.observe(now.saturating_duration_since(connected));
    }
    let held = !session.as_downstream().retry_buffer_truncated();
    let pause = ctx.rule.as_ref().and_then(|rule| ctx.tries.after_status(&rule.config.retry, status, held));
    if let Some(pause) = pause
        && begin_retry(ctx, pause)
    {
        ctx.tries.on_status = true;
        let mut error = Error::explain(ErrorType::HTTPStatus(status), "the rule tries this status again");
        error.set_retry(true);
        return Err(error.into_up());
    }
    Ok(())
}
