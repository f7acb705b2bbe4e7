//! Session persistence (GEP-1619): the request goes to the endpoint of the token that it brings, and the response carries
//! another one where that does not stand for who answered.

use super::context::RequestContext;
use super::names;
use crate::cookie;
use crate::session::{self, Session, SessionResult, SessionRuntime};
use crate::snapshot::{RuleRuntime, Snapshot};
use crate::upstream::{Pick, PickError, PickRequest};
use ::http::HeaderMap;
use ::http::header::{HeaderValue, SET_COOKIE};
use pingora_http::ResponseHeader;
use pingora_proxy::Session as Exchange;
use sluice_model::config::SessionCarrier;
use std::sync::Arc;
use std::time::Duration;

/// Tokens of one name that a request may bring: browsers send the cookies of every path and domain that fits. Default 8; what
/// comes after them is not looked at.
const MAX_TOKENS: usize = 8;

/// A session that goes on: the place of its backend in the rule, and its endpoint, or why that cannot take the request.
pub(super) struct Resumed {
    pub(super) backend: usize,
    pub(super) pick: Result<Pick, PickError>,
}

/// `None`: the request begins a session, or none are kept.
pub(super) fn resume(
    ctx: &mut RequestContext,
    rule: &RuleRuntime,
    snapshot: &Snapshot,
    request: &PickRequest<'_>,
) -> (Option<Resumed>, Option<SessionResult>) {
    let mut result = None;
    let mut read: Option<(&Arc<SessionRuntime>, Result<Session, SessionResult>)> = None;
    for (index, backend) in rule.backends.iter().enumerate() {
        let (Some(sessions), Some((slot, _))) = (&backend.session, &backend.target) else { continue };
        let session = match read {
            Some((of, session)) if Arc::ptr_eq(of, sessions) => session,
            _ => token(sessions, request.headers),
        };
        read = Some((sessions, session));
        let session = match session {
            Ok(session) => session,
            Err(why) => {
                result.get_or_insert(why);
                continue;
            }
        };
        let pick = snapshot.backend(slot).and_then(|backend| backend.resume(request, session.tag));
        if let Some(pick) = pick {
            ctx.session = Some((sessions.clone(), session));
            return (Some(Resumed { backend: index, pick }), Some(SessionResult::Kept));
        }
        result = Some(SessionResult::Moved);
    }
    (None, result)
}

/// The session of the request, or why it has none.
fn token(sessions: &SessionRuntime, headers: &HeaderMap) -> Result<Session, SessionResult> {
    let found = |mut tokens: &mut dyn Iterator<Item = &[u8]>| {
        let mut result = SessionResult::Begun;
        let now = session::now();
        for token in (&mut tokens).take(MAX_TOKENS) {
            result = match sessions.open(token) {
                Some(session) if sessions.is_over(session, now) => SessionResult::Expired,
                Some(session) => return Ok(session),
                None => SessionResult::Refused,
            };
        }
        Err(result)
    };
    match &sessions.config.carrier {
        SessionCarrier::Cookie { name, .. } => found(&mut cookie::values(headers, name.as_bytes())),
        SessionCarrier::Header(name) => found(&mut headers.get_all(name).iter().map(HeaderValue::as_bytes)),
    }
}

/// Tells the client how to come back, where it does not know that yet.
pub(super) fn write(exchange: &Exchange, ctx: &RequestContext, response: &mut ResponseHeader) {
    let Some(sessions) = ctx.backend_ref().and_then(|backend| backend.session.as_ref()) else { return };
    let Some(tag) = ctx.upstream.pick.as_ref().map(Pick::tag) else { return };
    let now = session::now();
    let brought = ctx.session.as_ref().filter(|(of, session)| Arc::ptr_eq(of, sessions) && session.tag == tag);
    let session = match brought {
        None => Session { began: now, used: now, tag },
        // Its last use stands in the token, and nowhere else.
        Some((_, session)) if sessions.config.idle_timeout.is_some() && session.used < now => {
            Session { used: now, ..*session }
        }
        Some(_) => return,
    };
    let token = sessions.seal(session);
    // Neither a name that was checked nor a token of base64 can be refused, nor is there another way out.
    let _ = match &sessions.config.carrier {
        SessionCarrier::Header(name) => {
            HeaderValue::try_from(token).map(|value| response.insert_header(name, value).is_ok()).is_ok()
        }
        SessionCarrier::Cookie { name, permanent } => {
            let age = sessions.config.absolute_timeout.filter(|_| *permanent);
            let age = age.map(|age| age.saturating_sub(Duration::from_secs(now.saturating_sub(session.began).into())));
            let cookie = set_cookie(name, &token, age, is_secure(exchange, ctx));
            HeaderValue::try_from(cookie).map(|value| response.append_header(SET_COOKIE, value).is_ok()).is_ok()
        }
    };
}

/// Scripts do not see it, and other sites do not send it. A path is not set to what the rule matches: a backend's own view of
/// its paths may be another.
fn set_cookie(name: &str, token: &str, age: Option<Duration>, secure: bool) -> String {
    let age = age.map(|age| format!("; Max-Age={}", age.as_secs())).unwrap_or_default();
    let secure = if secure { "; Secure" } else { "" };
    format!("{name}={token}; Path=/{age}; HttpOnly; SameSite=Strict{secure}")
}

/// The client speaks TLS: to the gateway, or to a proxy before it that is trusted to say so.
fn is_secure(exchange: &Exchange, ctx: &RequestContext) -> bool {
    let forwarded = exchange.req_header().headers.get(&names::X_FORWARDED_PROTO);
    ctx.tls || forwarded.is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_for_the_whole_host_and_for_nobody_elses_eyes() {
        assert_eq!(set_cookie("s", "t", None, false), "s=t; Path=/; HttpOnly; SameSite=Strict");
        let kept = set_cookie("s", "t", Some(Duration::from_secs(3600)), true);
        assert_eq!(kept, "s=t; Path=/; Max-Age=3600; HttpOnly; SameSite=Strict; Secure");
    }
}
