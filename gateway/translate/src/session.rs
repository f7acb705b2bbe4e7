//! `sessionPersistence` (GEP-1619), of a rule or of a backend.

use crate::report::Report;
use crate::values::{duration, header_name};
use sha2::{Digest, Sha256};
use sluice_model::Code;
use sluice_model::config::{MAX_SESSION_NAME, SessionCarrier, SessionPersistence};
use sluice_model::field::is_framing;
use sluice_resources::api::backend_traffic_policy::{
    XBackendTrafficPolicySessionPersistence,
    XBackendTrafficPolicySessionPersistenceCookieConfigLifetimeType as BackendLifetime,
    XBackendTrafficPolicySessionPersistenceType as BackendType,
};
use sluice_resources::api::http_route::{
    HttpRouteRulesSessionPersistence, HttpRouteRulesSessionPersistenceCookieConfigLifetimeType as Lifetime,
    HttpRouteRulesSessionPersistenceType as Type,
};
use std::time::Duration;

/// What the API has under `sessionPersistence`, whichever type it came as.
pub(crate) struct Source<'s> {
    name: Option<&'s str>,
    header: bool,
    absolute_timeout: Option<&'s str>,
    idle_timeout: Option<&'s str>,
    /// `cookieConfig`, where it is there: whether the cookie is a permanent one.
    permanent: Option<bool>,
}

macro_rules! view {
    ($name:ident, $source:ty, $type:ident, $lifetime:ident) => {
        pub(crate) fn $name(source: &$source) -> Source<'_> {
            let cookie = source.cookie_config.as_ref();
            Source {
                name: source.session_name.as_deref().filter(|name| !name.is_empty()),
                header: matches!(source.r#type, Some($type::Header)),
                absolute_timeout: source.absolute_timeout.as_deref(),
                idle_timeout: source.idle_timeout.as_deref(),
                permanent: cookie.map(|cookie| matches!(cookie.lifetime_type, Some($lifetime::Permanent))),
            }
        }
    };
}

view!(of_rule, HttpRouteRulesSessionPersistence, Type, Lifetime);
view!(of_backend, XBackendTrafficPolicySessionPersistence, BackendType, BackendLifetime);

impl Source<'_> {
    pub(crate) fn is_named(&self) -> bool {
        self.name.is_some()
    }

    /// A field of which nobody knows the name, and that is another one for each rule, is of no use to a client.
    pub(crate) fn needs_name(&self) -> bool {
        self.header && self.name.is_none()
    }
}

/// The name of sessions that have none: the same for the same rule, and another for each.
pub(crate) fn name_of(rule: &str) -> String {
    let digest = Sha256::digest(rule.as_bytes());
    format!("sluice-session-{}", hex::encode(&digest[..4]))
}

/// `None`: a part of it cannot be used. `named_after` makes a name where none is given.
pub(crate) fn read(
    source: &Source<'_>,
    scope: &str,
    named_after: &str,
    field: &str,
    report: &mut Report<'_>,
) -> Option<SessionPersistence> {
    let absolute_timeout = timeout(source.absolute_timeout, &format!("{field}.absoluteTimeout"), report);
    let idle_timeout = timeout(source.idle_timeout, &format!("{field}.idleTimeout"), report);
    let carrier = carrier(source, named_after, field, report);
    if source.permanent == Some(true) && source.absolute_timeout.is_none() {
        let message = "a cookie of lifetimeType Permanent needs an absoluteTimeout, which says how long it is kept";
        report.error(Code::InvalidCombination, format!("{field}.absoluteTimeout"), message);
        return None;
    }
    Some(SessionPersistence {
        carrier: carrier?,
        absolute_timeout: absolute_timeout?,
        idle_timeout: idle_timeout?,
        scope: scope.into(),
    })
}

/// Inside: `None` where there is none. Outside: where it can't be read.
#[allow(clippy::option_option)] // three outcomes, and the caller asks for each
fn timeout(text: Option<&str>, field: &str, report: &mut Report<'_>) -> Option<Option<Duration>> {
    let Some(text) = text else { return Some(None) };
    let duration = duration(text, field, report)?;
    if duration < Duration::from_secs(1) {
        // Times in tokens are whole seconds.
        report.error(Code::OutOfRange, field, "must be at least 1s");
        return None;
    }
    Some(Some(duration))
}

fn carrier(source: &Source<'_>, named_after: &str, field: &str, report: &mut Report<'_>) -> Option<SessionCarrier> {
    let name = source.name.map_or_else(|| name_of(named_after), str::to_owned);
    let at = format!("{field}.sessionName");
    if name.len() > MAX_SESSION_NAME {
        report.error(Code::OutOfRange, at, format!("a session's name has at most {MAX_SESSION_NAME} bytes"));
        return None;
    }
    if source.header {
        if source.permanent.is_some() {
            let message = "cookieConfig means nothing for sessions of type Header";
            report.error(Code::InvalidCombination, format!("{field}.cookieConfig"), message);
            return None;
        }
        let name = header_name(&name, &at, report)?;
        if is_framing(&name) || matches!(name.as_str(), "host" | "cookie" | "set-cookie") {
            report.error(Code::InvalidHeader, at, format!("`{name}` has a meaning of its own in HTTP"));
            return None;
        }
        return Some(SessionCarrier::Header(name));
    }
    // A cookie's name is a token (RFC 6265, section 4.1.1), as a field's is.
    header_name(&name, &at, report)?;
    Some(SessionCarrier::Cookie { name: name.into(), permanent: source.permanent.unwrap_or(false) })
}
