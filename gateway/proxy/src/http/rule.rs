//! What a rule asks of a request before a backend is involved: who may call, CORS, external authorization, plugins, redirects, and the draw of
//! the backend.

use super::context::{Reply, RequestContext};
use super::target::{Requested, location};
use super::{admission, authority, body, cors, external_auth, intake, plugins, session};
use crate::mirror::Copies;
use crate::snapshot::{RuleRuntime, Slot, Snapshot};
use crate::upstream::{PickError, PickRequest};
use ::http::header;
use ::http::{StatusCode, Version};
use pingora_proxy::Session;
use sluice_model::Reason;
use sluice_model::config::{Action, BackendKey, BackendTarget, EndpointSource, Filters, Mirror, Redirect};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// `Err`: the request is answered here.
pub(super) async fn apply(
    session: &mut Session,
    ctx: &mut RequestContext,
    shared: &super::Shared,
) -> Result<(), Reply> {
    let (Some(rule), Some(snapshot)) = (ctx.rule.clone(), ctx.snapshot.clone()) else {
        return Err(Reason::RouteNotFound.into());
    };
    admit(session, ctx, &rule, shared)?;
    preflight(session, ctx, &rule)?;
    if let Some(auth) = &rule.auth {
        Box::pin(external_auth::check(session, ctx, auth, &snapshot, &shared.metrics, &shared.counts)).await?;
    }
    if !rule.plugins.is_empty() {
        Box::pin(plugins::on_request(session, ctx, &snapshot, &rule, &shared.metrics)).await?;
    }
    let rule = match ctx.finds_route {
        true => Box::pin(found_anew(session, ctx, &rule, &snapshot, shared)).await?,
        false => rule,
    };
    body::settle(session, ctx);
    match &rule.config.action {
        Action::Forward(_) => forward(session, ctx, &rule, &snapshot, shared).await,
        Action::Redirect(redirect) => Err(redirected(session, ctx, redirect)),
        Action::Reply { status, reason } => Err(Reply::with_status(*reason, *status)),
    }
}

/// The rule that fits what plugins made of the request, after all that it asks in its turn. It may be the same.
async fn found_anew(
    session: &mut Session,
    ctx: &mut RequestContext,
    former: &RuleRuntime,
    snapshot: &Snapshot,
    shared: &super::Shared,
) -> Result<Arc<RuleRuntime>, Reply> {
    intake::find_again(session, ctx)?;
    let Some(rule) = ctx.rule.clone() else { return Err(Reason::RouteNotFound.into()) };
    if !std::ptr::eq(&*rule, former) {
        admit(session, ctx, &rule, shared)?;
        let headers = &session.req_header().headers;
        ctx.cors = rule.config.filters.cors.as_ref().map(|cors| cors::verdict(cors, headers)).unwrap_or_default();
        let asked = former.auth.as_ref().map(|auth| &auth.config);
        if let Some(auth) = rule.auth.as_ref().filter(|auth| asked != Some(&auth.config)) {
            Box::pin(external_auth::check(session, ctx, auth, snapshot, &shared.metrics, &shared.counts)).await?;
        }
        if !rule.plugins.is_empty() {
            Box::pin(plugins::on_request(session, ctx, snapshot, &rule, &shared.metrics)).await?;
        }
    }
    // Once a request.
    ctx.finds_route = false;
    Ok(rule)
}

fn admit(
    session: &mut Session,
    ctx: &mut RequestContext,
    rule: &RuleRuntime,
    shared: &super::Shared,
) -> Result<(), Reply> {
    if !is_allowed(rule, ctx.client) {
        return Err(Reason::ClientDenied.into());
    }
    let headers = &session.req_header().headers;
    if let Err(refused) = admission::body_length(headers, ctx.body_limit) {
        if let Some(limit) = refused.limit {
            shared.counts.limit(limit);
        }
        return Err(refused.reason.into());
    }
    // A gRPC client that has given up is not waited for: its own time counts where it is the shorter one.
    let clients = if ctx.grpc { intake::grpc_timeout(headers) } else { None };
    let limit = match (rule.config.request_timeout, clients) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    ctx.deadline = limit.and_then(|limit| ctx.started.checked_add(limit));
    if session.req_header().version == Version::HTTP_2 {
        let idle = ctx.listener.as_ref().map(|listener| listener.edge().timeouts.stream_idle);
        session.as_downstream_mut().set_write_timeout(idle.filter(|idle| *idle > Duration::ZERO));
    }
    Ok(())
}

/// Whether the policy lets this client in.
pub(crate) fn is_allowed(rule: &RuleRuntime, client: IpAddr) -> bool {
    let nets = &rule.config.client.ip_allow;
    nets.is_empty() || nets.iter().any(|net| net.contains(&client))
}

/// A preflight carries no credentials: it is answered before plugins could refuse it for that.
fn preflight(session: &Session, ctx: &mut RequestContext, rule: &RuleRuntime) -> Result<(), Reply> {
    let Some(cors) = &rule.config.filters.cors else { return Ok(()) };
    let request = session.req_header();
    ctx.cors = cors::verdict(cors, &request.headers);
    if cors::preflight(request).is_none() {
        return Ok(());
    }
    Err(Reply::with_status(Reason::CorsPreflight, StatusCode::NO_CONTENT))
}

fn redirected(session: &Session, ctx: &RequestContext, redirect: &Redirect) -> Reply {
    let request = session.req_header();
    let host = request.headers.get(header::HOST).map(|host| host.as_bytes()).unwrap_or_default();
    let authority = authority::canonical(host);
    let requested = Requested {
        tls: ctx.tls,
        host: authority.as_ref().map_or("", |authority| &authority.host),
        listener_port: ctx.listener.as_ref().map_or(0, |listener| listener.config.port),
        path: request.uri.path(),
        query: request.uri.query(),
        prefix: ctx.prefix,
    };
    let Some(location) = location(redirect, &requested) else { return Reason::Internal.into() };
    Reply::to(Reason::Redirect, redirect.status, location)
}

/// Draws the backend, where no plugin has chosen it, and an endpoint of it. What cannot be forwarded is answered here, so that the client's connection
/// stays usable.
async fn forward(
    exchange: &Session,
    ctx: &mut RequestContext,
    rule: &RuleRuntime,
    snapshot: &Snapshot,
    shared: &super::Shared,
) -> Result<(), Reply> {
    let Action::Forward(configured) = &rule.config.action else { return Err(Reason::Internal.into()) };
    let wanted = PickRequest { headers: &exchange.req_header().headers, client: ctx.client, tried: &[] };
    let chosen = ctx.chosen.clone();
    let mut picked = None;
    let backend = match &chosen {
        Some(chosen) => &**chosen,
        None => {
            let (resumed, result) = session::resume(ctx, rule, snapshot, &wanted);
            if let Some(result) = result {
                shared.metrics.session(result);
            }
            // A session goes before weights (GEP-1619, traffic splitting).
            let index = match resumed {
                Some(resumed) => {
                    picked = Some(resumed.pick);
                    resumed.backend
                }
                None => draw(rule).ok_or(Reason::NoBackends)?,
            };
            ctx.backend = Some(index);
            rule.backends.get(index).ok_or(Reason::Internal)?
        }
    };
    let configured = ctx.backend.and_then(|index| configured.get(index));
    let Some((slot, _)) = &backend.target else {
        return Err(match configured.map(|backend| &backend.target) {
            Some(BackendTarget::Invalid { status, reason }) => Reply::with_status(*reason, *status),
            _ => Reason::InvalidBackend.into(),
        });
    };
    let runtime = snapshot.backend(slot).ok_or(Reason::NoEndpoints)?;
    let picked = match picked.unwrap_or_else(|| runtime.pick(&wanted)) {
        Err(PickError::NoEndpoints) if matches!(runtime.config().source, EndpointSource::Dns { .. }) => {
            // A name that has just come into the configuration may not have been resolved yet.
            let connect = ctx.listener.as_ref().map(|listener| listener.edge().timeouts.connect).unwrap_or_default();
            Box::pin(runtime.settled(ctx.left().map_or(connect, |left| left.min(connect)))).await;
            runtime.pick(&wanted)
        }
        picked => picked,
    };
    ctx.upstream.pick = Some(picked.map_err(|error| error.reason())?);
    let mut copies = Copies::default();
    mirror(&rule.config.filters, &rule.mirrors, snapshot, &mut copies);
    if let Some(backend_filters) = configured.map(|backend| &backend.filters) {
        mirror(backend_filters, &backend.mirrors, snapshot, &mut copies);
    }
    ctx.mirrors = (!copies.is_empty()).then(|| Box::new(copies));
    Ok(())
}

/// The place of a backend, by weight.
pub(crate) fn draw(rule: &RuleRuntime) -> Option<usize> {
    if let [only] = rule.backends.as_slice() {
        return (only.weight > 0).then_some(0);
    }
    if rule.total_weight == 0 {
        return None;
    }
    let mut left = fastrand::u64(..rule.total_weight);
    rule.backends.iter().position(|backend| match left.checked_sub(backend.weight) {
        Some(rest) => {
            left = rest;
            false
        }
        None => true,
    })
}

fn mirror(filters: &Filters, slots: &[Slot<BackendKey>], snapshot: &Snapshot, copies: &mut Copies) {
    for (mirror, slot) in filters.mirrors.iter().zip(slots) {
        if is_drawn(mirror)
            && let Some(backend) = snapshot.backend(slot)
        {
            copies.to(Arc::clone(backend));
        }
    }
}

fn is_drawn(mirror: &Mirror) -> bool {
    mirror.numerator >= mirror.denominator || fastrand::u32(..mirror.denominator.max(1)) < mirror.numerator
}
