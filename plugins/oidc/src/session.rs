//! Sessions: what of a sign-in is kept in the browser's cookies, how long it holds, and how it is renewed.

use crate::Oidc;
use crate::config::Config;
use crate::cookies::{Jar, Told};
use crate::id_token::{Expected, NotBelieved};
use crate::logout::has_ended;
use crate::provider::{INVALID_GRANT, NoTokens, STORE, Tokens};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jose::{claims, jwks};
use kit::hex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use sluice_plugin::store::Store;
use sluice_plugin::{clock, log, random};
use std::time::Duration;

/// What a session is sealed for.
const PURPOSE: &str = "session";

/// Seconds before an access token's expiry from which it is renewed; at most a quarter of its life.
const MARGIN: u64 = 30;

/// Seconds that a token lives of which the provider does not say how long.
const UNKNOWN: u64 = 300;

/// While one request renews a session others go by the one before, and after the provider failed nobody asks again: for
/// longer than its endpoints, tokens and keys can take, in times of the longest wait for one of them.
const RENEWING: u32 = 4;

/// How long a renewed session is kept at most for requests that bring the one before: until it is to be renewed itself.
const RENEWED: Duration = Duration::from_secs(10 * 60);

/// Seconds that a session without forwarded tokens holds behind its tokens' expiry, while it is being renewed.
const GRACE: u64 = 30;

/// Times are in seconds since 1970.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Session {
    /// Of its sign-in.
    #[serde(rename = "d")]
    pub(crate) id: String,
    #[serde(rename = "b")]
    pub(crate) begun: u64,
    #[serde(rename = "u")]
    pub(crate) used: u64,
    /// By their paths.
    #[serde(rename = "c")]
    pub(crate) claims: Value,
    /// When its tokens expire; none: that is not looked at.
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires: Option<u64>,
    /// From when they are renewed.
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    renew_from: Option<u64>,
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub(crate) access: Option<String>,
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    refresh: Option<String>,
    #[serde(rename = "i", default, skip_serializing_if = "Option::is_none")]
    pub(crate) id_token: Option<String>,
}

/// What a request's cookies come to.
#[derive(Debug)]
pub(crate) enum Found {
    /// And whether the browser is to be told anew.
    Session(Session, bool),
    Nothing,
    /// There is one, but it can't be renewed now.
    NotNow,
}

pub(crate) fn now() -> u64 {
    clock::now().as_secs()
}

impl Session {
    /// Of tokens whose ID token says these claims.
    pub(crate) fn begin(config: &Config, told: &Value, tokens: Tokens) -> Session {
        let now = now();
        let mut session = Session {
            id: BASE64_URL_SAFE_NO_PAD.encode(random::array::<12>()),
            begun: now,
            used: now,
            claims: Value::Null,
            expires: None,
            renew_from: None,
            access: None,
            refresh: None,
            id_token: None,
        };
        session.take(config, Some(told), tokens);
        session
    }

    /// Takes what was issued anew; what was not stays.
    fn take(&mut self, config: &Config, told: Option<&Value>, tokens: Tokens) {
        let now = now();
        if let Some(told) = told {
            let kept = config.kept_claims().into_iter();
            let found = kept.filter_map(|path| Some((path.to_owned(), claims::claim(told, path)?.clone())));
            self.claims = Value::Object(found.collect());
        }
        if config.keep_id_token && tokens.id.is_some() {
            self.id_token = tokens.id;
        }
        if config.forward_access_token && tokens.access.is_some() {
            self.access = tokens.access;
        }
        if config.refresh && tokens.refresh.is_some() {
            self.refresh = tokens.refresh;
        }
        if config.forward_access_token || config.refresh {
            let of_id_token = || claims::time(told?, "exp").ok().flatten().map(|at| at as u64);
            let told = tokens.expires_in.map(|seconds| now.saturating_add(seconds)).or_else(of_id_token);
            self.expires = told.or(Some(now + UNKNOWN));
        }
        self.renew_from = self.refresh.is_some().then_some(self.expires).flatten().map(|expires| {
            let life = expires.saturating_sub(now);
            expires.saturating_sub(MARGIN.min(life / 4))
        });
    }

    pub(crate) fn text(&self, claim: &str) -> Option<&str> {
        self.claims.get(claim).and_then(Value::as_str)
    }

    /// Seconds that it has left if nothing comes.
    fn left(&self, config: &Config, now: u64) -> u64 {
        let until = |since: u64, time: Duration| since.saturating_add(time.as_secs()).saturating_sub(now);
        let whole = until(self.begun, config.lifetime.0);
        let idle = config.idle.map_or(whole, |idle| until(self.used, idle.0));
        let tokens = match (self.expires, &self.refresh) {
            (Some(expires), None) => expires.saturating_sub(now),
            _ => whole,
        };
        whole.min(idle).min(tokens)
    }

    /// Whether so much of the idle time went by that the browser has to be told that the session is in use.
    fn is_stale(&self, config: &Config, now: u64) -> bool {
        config.idle.is_some_and(|idle| now.saturating_sub(self.used) > idle.0.as_secs() / 4)
    }
}

impl Oidc {
    pub(crate) fn sealed(&self, session: &Session) -> Result<String, String> {
        let text = serde_json::to_vec(session).map_err(|error| error.to_string())?;
        self.seal.seal(PURPOSE, &text)
    }

    fn opened(&self, sealed: &str) -> Option<Session> {
        serde_json::from_slice(&self.seal.open(PURPOSE, sealed)?).ok()
    }

    /// Tells the browser a session.
    pub(crate) fn tell(&self, jar: &Jar, session: &Session, before: usize) -> Result<Vec<Told>, String> {
        let seconds = session.left(&self.config, now());
        let told = jar.set_session(&self.sealed(session)?, before, seconds);
        told.ok_or_else(|| "the session is larger than four cookies: keep fewer claims, or no tokens".to_owned())
    }

    /// The session of a request as it is, renewed by nobody.
    pub(crate) fn known(&self, jar: &Jar) -> Option<Session> {
        let now = now();
        let mut opened = jar.sessions().into_iter().filter_map(|sealed| self.opened(&sealed));
        opened.find(|session| session.left(&self.config, now) > 0 && !has_ended(session))
    }

    pub(crate) fn session(&self, jar: &Jar) -> Found {
        let Some(mut session) = self.known(jar) else { return Found::Nothing };
        let now = now();
        if session.renew_from.is_some_and(|from| from <= now) {
            return self.renew(session);
        }
        let stale = session.is_stale(&self.config, now);
        if stale {
            session.used = now;
        }
        Found::Session(session, stale)
    }

    /// Renews a session's tokens. A refresh token may be good for one use only: of all requests that bring it one asks, and
    /// the others take what it got, or go by what they have.
    fn renew(&self, session: Session) -> Found {
        let Some(refresh) = session.refresh.clone() else { return Found::Nothing };
        let store = match Store::open(STORE) {
            Ok(store) => store,
            Err(reason) => {
                log::error(&format!("each request renews the session by itself: {reason}"));
                return match self.ask(&session, &refresh) {
                    Ok(renewed) => Found::Session(renewed, true),
                    Err(NoTokens::Refused(_)) => Found::Nothing,
                    Err(NoTokens::Away(_)) => self.meanwhile(session),
                };
            }
        };
        let key = hex(&Sha256::digest(&refresh));
        let (renewed_key, lock) = (format!("renewed/{key}"), format!("renewing/{key}"));
        let by_another = || {
            let sealed = store.get(&renewed_key).ok().flatten()?;
            // Empty: the provider has ended it.
            if sealed.is_empty() {
                return Some(Found::Nothing);
            }
            let kept = self.opened(std::str::from_utf8(&sealed).ok()?)?;
            self.goes_on(&session, &kept).then_some(Found::Session(kept, true))
        };
        if let Some(found) = by_another() {
            return found;
        }
        match store.compare_and_swap(&lock, None, b"", Some(self.config.timeout.0.saturating_mul(RENEWING))) {
            Ok(true) => {}
            Ok(false) => return by_another().unwrap_or_else(|| self.meanwhile(session)),
            // If each asked, all but the first would spend a token that is spent.
            Err(reason) => {
                log::error(&format!("a session can't be renewed: {reason}"));
                return self.meanwhile(session);
            }
        }
        let (found, kept) = match self.ask(&session, &refresh) {
            Ok(renewed) => {
                let due = renewed.renew_from.map(|from| Duration::from_secs(from.saturating_sub(now())));
                let kept = self.sealed(&renewed).map(|sealed| (sealed, due.unwrap_or(RENEWED).min(RENEWED)));
                (Found::Session(renewed, true), Some(kept))
            }
            Err(NoTokens::Refused(_)) => (Found::Nothing, Some(Ok((String::new(), RENEWED)))),
            Err(NoTokens::Away(_)) => (self.meanwhile(session), None),
        };
        let kept = kept.map(|kept| match kept? {
            (_, time) if time.is_zero() => Ok(()),
            (sealed, time) => store.set(&renewed_key, sealed, Some(time)).map_err(String::from),
        });
        if let Some(Err(reason)) = kept {
            log::warn(&format!("requests that bring the session before its renewal will end it: {reason}"));
        }
        found
    }

    /// Whether a session that was renewed is still what another goes on as: of the same sign-in, and good by itself.
    fn goes_on(&self, session: &Session, kept: &Session) -> bool {
        let now = now();
        (&kept.id, kept.begun) == (&session.id, session.begun)
            && kept.left(&self.config, now) > 0
            && kept.renew_from.is_none_or(|from| now < from)
            && kept.expires.is_none_or(|expires| now < expires)
    }

    /// A session that somebody else renews, or that can't be renewed now. An access token that has expired is not forwarded.
    fn meanwhile(&self, session: Session) -> Found {
        let grace = if session.access.is_some() { 0 } else { GRACE };
        match session.expires {
            Some(expires) if now() >= expires.saturating_add(grace) => Found::NotNow,
            _ => Found::Session(session, false),
        }
    }

    /// Asks the provider for new tokens. Refused is what it has ended, by its own word or by naming somebody else; whatever
    /// else goes wrong may be well again soon, and ends nobody's session.
    fn ask(&self, session: &Session, refresh: &str) -> Result<Session, NoTokens> {
        let away = |why: &str| NoTokens::Away(why.to_owned());
        let renewed = self.provider().ok_or_else(|| away("its endpoints are not known")).and_then(|provider| {
            // A refresh token may be good for one use: it is not spent on an ID token that nobody could judge.
            if !jwks::can_be_had(&self.document("the provider's keys", &provider.jwks)) {
                return Err(away("it has no keys"));
            }
            let form = [("grant_type", "refresh_token"), ("refresh_token", refresh)];
            let tokens = self.tokens(&provider, &form).map_err(|why| match why {
                NoTokens::Refused(code) if code != INVALID_GRANT => NoTokens::Away(format!("it refuses: {code}")),
                why => why,
            })?;
            let expected = Expected { access: tokens.access.as_deref(), ..Expected::default() };
            let told = match tokens.id.as_deref().map(|id| self.believe(&provider, id, &expected)) {
                None => None,
                Some(Ok(told)) if told.get("sub") != session.claims.get("sub") => {
                    return Err(NoTokens::Refused("its ID token names somebody else".to_owned()));
                }
                Some(Ok(told)) => Some(told),
                Some(Err(NotBelieved::Invalid(why))) => {
                    return Err(NoTokens::Away(format!("its ID token is not valid: {why}")));
                }
                // The tokens are the provider's own answer, and the former ones are spent.
                Some(Err(NotBelieved::NoKeys)) => {
                    log::error("a session is renewed with its former claims: the provider's keys are gone");
                    None
                }
            };
            let mut renewed = Session { used: now(), ..session.clone() };
            renewed.take(&self.config, told.as_ref(), tokens);
            Ok(renewed)
        });
        match &renewed {
            Err(NoTokens::Refused(why)) => {
                log::info(&format!("a session has ended, as the provider does not renew it: {why}"))
            }
            Err(NoTokens::Away(why)) => log::error(&format!("a session was not renewed: {why}")),
            Ok(_) => {}
        }
        renewed
    }
}
