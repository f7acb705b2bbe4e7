//! Signing in: to the provider with a browser, and back with a code (OpenID Connect Core 1.0, section 3.1).
//!
//! What a sign-in has to come back with lies in a cookie of its own, sealed: state, nonce, the verifier of PKCE (RFC 7636)
//! and the page that was asked for. Nobody else's browser has that cookie, so nobody can be signed in as somebody else by a
//! link; and sign-ins in several tabs do not disturb each other.

use crate::Oidc;
use crate::answers::{Notice, redirect};
use crate::cookies::{Jar, LOGINS, Told};
use crate::endpoint::{Endpoint, is_local};
use crate::id_token::{Expected, NotBelieved};
use crate::provider::{INVALID_GRANT, NoTokens, Provider, STORE, error_code};
use crate::session::{Session, now};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use kit::{hex, query, same_secret};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sluice_plugin::store::Store;
use sluice_plugin::{Decision, Reply, Request, log, random};

/// Bytes of the page's address that is kept; of a longer one the query is not, or nothing.
const PAGE: usize = 1_024;

/// Bytes of a code.
const CODE: usize = 4_096;

/// Sign-ins that may come to nothing in a row before the browser is told, instead of being sent round for ever.
const TRIES: u32 = 4;

/// Seconds within which they do.
const ROUND: u64 = 60;

/// A sign-in under way.
#[derive(Debug, Deserialize, Serialize)]
struct Login {
    #[serde(rename = "s")]
    state: String,
    #[serde(rename = "n")]
    nonce: String,
    #[serde(rename = "v")]
    verifier: String,
    /// Path and query.
    #[serde(rename = "p")]
    page: String,
    /// In seconds since 1970.
    #[serde(rename = "b")]
    begun: u64,
}

/// What comes back from the provider, decoded.
#[derive(Debug, Default)]
struct Returned {
    state: Option<String>,
    code: Option<String>,
    issuer: Option<String>,
    error: Option<String>,
}

impl Returned {
    /// None where a parameter is there twice, or no text (RFC 6749, section 3.1).
    fn read(query: &str) -> Option<Returned> {
        let one = |name: &'static str| {
            let mut values = query::values(query, name);
            let first = values.next();
            match values.next() {
                None => first.map(String::from_utf8).transpose().ok(),
                Some(_) => None,
            }
        };
        Some(Returned { state: one("state")?, code: one("code")?, issuer: one("iss")?, error: one("error")? })
    }
}

fn secret<const N: usize>() -> String {
    BASE64_URL_SAFE_NO_PAD.encode(random::array::<N>())
}

fn with_cookies(reply: Reply, told: impl IntoIterator<Item = Told>) -> Reply {
    told.into_iter().fold(reply, |reply, told| reply.header("set-cookie", told))
}

/// The page that a browser asked for, to come back to.
fn page_of(request: &Request<'_>) -> String {
    let path = request.path();
    let whole = request.query().map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
    let fits = |target: &String| target.len() <= PAGE && is_local(target);
    [whole, path].into_iter().find(fits).unwrap_or_else(|| "/".to_owned())
}

const AWAY: Notice<'_> = Notice {
    status: 503,
    title: "Signing in is not possible now",
    text: "The service that signs people in can't be reached. Try again in a moment.",
    link: Some(("/", "Try again")),
};

const NOT_EXPECTED: Notice<'_> = Notice {
    status: 400,
    title: "This sign-in is over",
    text: "It took too long, was finished before, or was begun in another browser. It is also over if this browser keeps no \
           cookies of this site.",
    link: Some(("/", "Sign in again")),
};

const NOT_BELIEVED: Notice<'_> = Notice {
    status: 400,
    title: "You are not signed in",
    text: "What the service that signs people in has answered is not valid.",
    link: Some(("/", "Sign in again")),
};

const ROUND_AND_ROUND: Notice<'_> = Notice {
    status: 400,
    title: "You are not signed in",
    text: "Several times in a row a sign-in worked, but this browser came back without its session. It may keep no cookies of \
           this site, or the site may be open in a way that they do not reach.",
    link: Some(("/", "Try again")),
};

const BROKEN: Notice<'_> = Notice {
    status: 500,
    title: "Signing in does not work",
    text: "The gateway is not set up for it. Its log says why.",
    link: None,
};

fn broken(reason: &str) -> Reply {
    log::error(&format!("nobody can sign in: {reason}"));
    BROKEN.page()
}

impl Oidc {
    /// Sends a browser to the provider.
    pub(crate) fn begin(&self, request: &Request<'_>, jar: &Jar) -> Decision {
        if jar.tries() >= TRIES {
            log::warn("a browser signs in again and again, and sends no session: it was told so");
            return with_cookies(ROUND_AND_ROUND.page(), [jar.set_tries(0, 0)]).into();
        }
        let Some(redirect_uri) = self.redirect_uri(request) else {
            return broken("the request's host can't be part of a URL").into();
        };
        let Some(provider) = self.provider() else { return retry(AWAY.page()).into() };
        let login = Login {
            state: secret::<24>(),
            nonce: secret::<24>(),
            verifier: secret::<32>(),
            page: page_of(request),
            begun: now(),
        };
        let name = jar.login_name(&login.state);
        let sealed = serde_json::to_vec(&login).map_err(|error| error.to_string());
        let sealed = match sealed.and_then(|text| self.seal.seal(&name, &text)) {
            Ok(sealed) => sealed,
            Err(reason) => return broken(&reason).into(),
        };
        let scope = self.config.scope();
        let challenge = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(&login.verifier));
        let own = [
            ("response_type", "code"),
            ("client_id", &self.config.client_id),
            ("redirect_uri", &redirect_uri),
            ("scope", &scope),
            ("state", &login.state),
            ("nonce", &login.nonce),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ];
        let more = self.config.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let location = provider.authorization.with(&query::of(own.into_iter().chain(more)));
        let told = std::iter::once(jar.set_login(&name, &sealed, self.config.login_time.0.as_secs()));
        with_cookies(redirect(302, &location), told.chain(self.too_old(jar))).into()
    }

    /// The cookies of sign-ins that have to make room for one more. What does not open is the oldest.
    fn too_old(&self, jar: &Jar) -> Vec<Told> {
        let logins = jar.logins();
        let more = (logins.len() + 1).saturating_sub(LOGINS);
        if more == 0 {
            return Vec::new();
        }
        let begun = |name: &str, sealed: &str| self.login(name, sealed).map_or(0, |login| login.begun);
        let mut by_age: Vec<_> = logins.iter().map(|(name, sealed)| (begun(name, sealed), *name)).collect();
        by_age.sort_unstable();
        by_age.iter().take(more).map(|(_, name)| jar.remove_login(name)).collect()
    }

    fn login(&self, name: &str, sealed: &str) -> Option<Login> {
        serde_json::from_slice(&self.seal.open(name, sealed)?).ok()
    }

    /// Where the provider sends a browser back to.
    fn redirect_uri(&self, request: &Request<'_>) -> Option<String> {
        match self.config.redirect_uri.strip_prefix('/') {
            None => Some(self.config.redirect_uri.clone()),
            Some(_) => Some(format!("{}{}", self.origin(request)?, self.config.redirect_uri)),
        }
    }

    /// Scheme and host of the site.
    pub(crate) fn origin(&self, request: &Request<'_>) -> Option<String> {
        let own = || Endpoint::parse(&format!("{}://{}", request.scheme(), request.authority()));
        Some(Endpoint::parse(&self.config.redirect_uri).or_else(own)?.origin())
    }

    /// A browser that comes back from the provider.
    pub(crate) fn callback(&self, request: &Request<'_>, jar: &Jar) -> Decision {
        let returned = request.query().as_deref().and_then(Returned::read).unwrap_or_default();
        let state = returned.state.as_deref().unwrap_or_default();
        let name = jar.login_name(state);
        let login = jar.login(&name).and_then(|sealed| self.login(&name, sealed));
        let Some(login) = login.filter(|login| same_secret(login.state.as_bytes(), state.as_bytes())) else {
            // A bookmark of this page, the way back, or a sign-in that another tab has finished.
            return match self.known(jar) {
                Some(_) => redirect(302, "/").into(),
                None => NOT_EXPECTED.page().into(),
            };
        };
        let forget = jar.remove_login(&name);
        let over = |forget| {
            let reply = match self.known(jar) {
                Some(_) => redirect(302, &login.page),
                None => NOT_EXPECTED.back_to(&login.page).page(),
            };
            with_cookies(reply, [forget]).into()
        };
        if self.is_over(&login) || was_used(state) {
            return over(forget);
        }
        match self.exchange(request, &returned, &login) {
            Ok(_) if !is_first(state, self.config.login_time.0) => over(forget),
            Ok(session) => match self.tell(jar, &session, jar.session_parts()) {
                Ok(told) => {
                    let tries = jar.set_tries(jar.tries().saturating_add(1), ROUND);
                    with_cookies(redirect(302, &login.page), told.into_iter().chain([forget, tries])).into()
                }
                Err(reason) => with_cookies(broken(&reason), [forget]).into(),
            },
            Err(reply) => with_cookies(reply, [forget]).into(),
        }
    }

    fn is_over(&self, login: &Login) -> bool {
        now().saturating_sub(login.begun) >= self.config.login_time.0.as_secs()
    }

    /// A session, or what the browser is answered instead.
    fn exchange(&self, request: &Request<'_>, returned: &Returned, login: &Login) -> Result<Session, Reply> {
        let (away, not_believed) = (AWAY.back_to(&login.page), NOT_BELIEVED.back_to(&login.page));
        let provider = self.provider().ok_or_else(|| retry(away.page()))?;
        self.is_answer_of(&provider, returned, login)?;
        let code = returned.code.as_deref().filter(|code| (1..=CODE).contains(&code.len()));
        let code = code.ok_or_else(|| not_believed.page())?;
        let redirect_uri = self.redirect_uri(request).ok_or_else(|| not_believed.page())?;
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", &redirect_uri),
            ("code_verifier", &login.verifier),
        ];
        let tokens = self.tokens(&provider, &form).map_err(|why| match why {
            // Anybody can come with a code that is none.
            NoTokens::Refused(code) if code == INVALID_GRANT => {
                log::info("a browser has brought a code that the provider does not take");
                not_believed.page()
            }
            NoTokens::Refused(code) => {
                log::error(&format!("the provider exchanges no code: {code}"));
                not_believed.page()
            }
            NoTokens::Away(why) => {
                log::error(&format!("a code was not exchanged: {why}"));
                retry(away.page())
            }
        })?;
        let expected = Expected {
            nonce: Some(&login.nonce),
            access: tokens.access.as_deref(),
            shown_from: self.config.max_age().map(|seconds| login.begun.saturating_sub(seconds)),
        };
        let told = match &tokens.id {
            Some(id) => self.believe(&provider, id, &expected),
            None => Err(NotBelieved::Invalid("there is none")),
        };
        let told = told.map_err(|why| match why {
            NotBelieved::Invalid(why) => {
                log::error(&format!("an ID token is not valid: {why}"));
                not_believed.page()
            }
            NotBelieved::NoKeys => retry(away.page()),
        })?;
        if self.config.refresh && tokens.refresh.is_none() {
            log::warn("the provider issues no refresh token: the session ends with the access token");
        }
        if self.config.forward_access_token && tokens.access.is_none() {
            log::warn("the provider issues no access token: the backend is told none");
        }
        Ok(Session::begin(&self.config, &told, tokens))
    }

    /// Whether the provider itself has answered, and with a code.
    fn is_answer_of(&self, provider: &Provider, returned: &Returned, login: &Login) -> Result<(), Reply> {
        let names_itself = match &returned.issuer {
            Some(issuer) => *issuer == self.config.issuer,
            None => !provider.names_itself,
        };
        if !names_itself {
            log::warn("an answer to a sign-in comes from another provider (RFC 9207)");
            return Err(NOT_BELIEVED.back_to(&login.page).page());
        }
        let Some(error) = &returned.error else { return Ok(()) };
        let code = error_code(error).unwrap_or("an error without a name");
        log::info(&format!("the provider signs somebody not in: {code}"));
        let denied = matches!(
            code,
            "access_denied"
                | "account_selection_required"
                | "consent_required"
                | "interaction_required"
                | "login_required"
        );
        let text = format!("The service that signs people in says: {code}.");
        let notice = Notice {
            status: if denied { 403 } else { 400 },
            title: "You are not signed in",
            text: &text,
            link: Some((&login.page, "Sign in again")),
        };
        Err(notice.page())
    }
}

fn retry(reply: Reply) -> Reply {
    reply.header("retry-after", "5")
}

/// What says of a state that it has signed somebody in. Before the provider has given tokens for it nothing is written:
/// whoever likes could fill the store with sign-ins that come to nothing.
fn over(state: &str) -> String {
    format!("over/{}", hex(&Sha256::digest(state)))
}

fn was_used(state: &str) -> bool {
    Store::open(STORE).and_then(|store| store.get(&over(state))).is_ok_and(|mark| mark.is_some())
}

/// Whether nobody else has used it up meanwhile. Without the store that is the provider's to see: a code is good once.
fn is_first(state: &str, time: std::time::Duration) -> bool {
    let taken = Store::open(STORE).and_then(|store| store.compare_and_swap(&over(state), None, b"", Some(time)));
    taken.unwrap_or_else(|reason| {
        log::error(&format!("whether a sign-in comes twice is not looked at: {reason}"));
        true
    })
}
