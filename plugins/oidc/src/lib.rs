//! Signs browsers in at an OpenID provider, by the code flow with PKCE, and lets requests pass that carry a session.
//!
//! ```text
//! request ── callback? ── login: code, tokens, ID token ──> session in cookies
//!         ── logout?   ── logout
//!         ── session?  ── renewed where it is time ──> backend, with claims and without the cookies
//!         ── none      ── login: to the provider, or 401
//! ```
//!
//! A session lives in the browser's cookies, sealed; here is nothing of it. What a browser brings that does not open counts
//! as not brought.

use answers::{Notice, is_navigation};
pub use config::{ClientAuthentication, Config, Endpoints, Redirect};
use cookies::{Jar, Names};
use jose::claims;
use provider::Provider;
use sealed::Seal;
use serde::{Deserialize, Serialize};
use session::{Found, Session};
use sluice_plugin::{Decision, OnRequest, OnResponse, Plugin, Refused, Reply, Request, Response, attributes, log};

mod answers;
mod config;
mod cookies;
mod endpoint;
mod id_token;
mod login;
mod logout;
mod provider;
mod sealed;
mod session;

/// The attributes that hold the account's `sub` and the provider's `iss`.
pub const SUBJECT: &str = "oidc.sub";
pub const ISSUER: &str = "oidc.iss";

/// What attributes that carry a session to the response are sealed for: what an access log has of them is nobody's cookie.
const CARRIED: &str = "oidc.carried";

/// Bytes of one such attribute.
const PIECE: usize = 4_000;

const UNAUTHORIZED: Notice<'_> =
    Notice { status: 401, title: "Sign in first", text: "This needs a session.", link: Some(("/", "Sign in")) };

const FORBIDDEN: Notice<'_> = Notice {
    status: 403,
    title: "You may not see this",
    text: "You are signed in, but your account does not permit this.",
    link: None,
};

const NOT_NOW: Notice<'_> = Notice {
    status: 503,
    title: "Just a moment",
    text: "Your session is being renewed, or can't be renewed now. Try again in a moment.",
    link: None,
};

const OTHER_METHOD: Notice<'_> = Notice {
    status: 405,
    title: "This is asked for otherwise",
    text: "This address takes no requests of this kind.",
    link: Some(("/", "To the site")),
};

fn not_by(request: &Request<'_>, allowed: &str) -> Decision {
    OTHER_METHOD.reply(request).header("allow", allowed).into()
}

#[derive(Debug)]
pub struct Oidc {
    config: Config,
    callback_path: String,
    /// Of the configuration's own endpoints.
    provider: Option<Provider>,
    names: Names,
    seal: Seal,
    /// Whether the site is reached by HTTPS; none: as each request is.
    secure: Option<bool>,
}

impl Plugin for Oidc {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, String> {
        config.check()?;
        let fingerprint = config.fingerprint();
        let secure = (!config.redirect_uri.starts_with('/')).then(|| config.redirect_uri.starts_with("https://"));
        Ok(Oidc {
            callback_path: config.callback_path(),
            provider: Provider::of(&config)?,
            names: Names::new(&config.cookie_name, &fingerprint),
            seal: Seal { secrets: config.session_secrets.clone(), fingerprint },
            secure,
            config,
        })
    }
}

/// A session on its way to the response.
#[derive(Deserialize, Serialize)]
struct Carried {
    session: Session,
    /// Cookies that the one before took.
    parts: usize,
}

impl Oidc {
    fn jar(&self, request: &Request<'_>) -> Jar {
        Jar::of(request, &self.names, self.is_secure(request))
    }

    fn is_secure(&self, request: &Request<'_>) -> bool {
        self.secure.unwrap_or_else(|| request.scheme() == "https")
    }

    /// Without a session.
    fn refuse(&self, request: &Request<'_>, jar: &Jar) -> Decision {
        if self.config.redirect == Redirect::Navigations && is_navigation(request) {
            return self.begin(request, jar);
        }
        UNAUTHORIZED.reply(request).into()
    }

    fn admit(&self, request: &mut Request<'_>, session: &Session) -> Result<(), Refused> {
        if let Some(rest) = self.names.hide(request) {
            if rest.is_empty() { request.remove_header("cookie")? } else { request.set_header("cookie", rest)? }
        }
        if let Some(subject) = session.text("sub") {
            attributes::set_str(SUBJECT, subject)?;
        }
        attributes::set_str(ISSUER, &self.config.issuer)?;
        claims::tell(&self.config.claims, &session.claims, request)?;
        match &session.access {
            Some(access) => request.set_header("authorization", format!("Bearer {access}")),
            // The backend takes it for the provider's.
            None if self.config.forward_access_token => request.remove_header("authorization"),
            None => Ok(()),
        }
    }

    /// Has the response tell the browser the session.
    fn carry(&self, session: Session, parts: usize) -> Result<(), String> {
        let text = serde_json::to_vec(&Carried { session, parts }).map_err(|error| error.to_string())?;
        let mut rest = self.seal.seal(CARRIED, &text)?;
        for number in 0.. {
            let after = if rest.len() > PIECE { rest.split_off(PIECE) } else { String::new() };
            attributes::set(&self.names.carried(number), rest)?;
            if after.is_empty() {
                break;
            }
            rest = after;
        }
        Ok(())
    }

    fn carried(&self) -> Option<Carried> {
        let mut sealed = String::new();
        for number in 0.. {
            let name = self.names.carried(number);
            let Some(piece) = attributes::get::<String>(&name) else { break };
            attributes::remove(&name);
            sealed.push_str(&piece);
        }
        serde_json::from_slice(&self.seal.open(CARRIED, &sealed)?).ok()
    }
}

impl OnRequest for Oidc {
    fn on_request(&self, request: &mut Request<'_>) -> Decision {
        if let Err(reason) = claims::hide_sent(&self.config.claims, request) {
            log::error(&format!("a request was refused: {reason}"));
            return Reply::new(500).text("the request could not be prepared\n").into();
        }
        let (jar, path, method) = (self.jar(request), request.path(), request.method());
        if path == self.callback_path {
            return if method == "GET" { self.callback(request, &jar) } else { not_by(request, "GET") };
        }
        if path == self.config.logout_path {
            let takes = matches!(method.as_str(), "GET" | "POST");
            return if takes { self.logout(request, &jar) } else { not_by(request, "GET, POST") };
        }
        let (session, anew) = match self.session(&jar) {
            Found::Session(session, anew) => (session, anew),
            Found::Nothing => return self.refuse(request, &jar),
            Found::NotNow => return NOT_NOW.reply(request).header("retry-after", "1").into(),
        };
        if !self.config.require.iter().all(|requirement| requirement.is_met_by(&session.claims)) {
            let way_out = Some((self.config.logout_path.as_str(), "Sign out"));
            return Notice { link: way_out, ..FORBIDDEN }.reply(request).into();
        }
        if let Err(reason) = self.admit(request, &session) {
            // Letting it pass could show the session, or hide whose it is.
            log::error(&format!("a request with a session was refused: {reason}"));
            return Reply::new(500).text("the request could not be prepared\n").into();
        }
        if anew && let Err(reason) = self.carry(session, jar.session_parts()) {
            log::error(&format!("a browser is not told its renewed session: {reason}"));
        }
        Decision::Continue
    }
}

impl OnResponse for Oidc {
    fn on_response(&self, request: &Request<'_>, response: &mut Response<'_>) -> Decision {
        let carried = self.carried().filter(|carried| !logout::has_ended(&carried.session));
        let Some(Carried { session, parts }) = carried else { return Decision::Continue };
        let jar = Jar::empty(&self.names, self.is_secure(request));
        let told = self.tell(&jar, &session, parts).and_then(|told| {
            // What a cache keeps it gives to others.
            response.set_header("cache-control", "no-store")?;
            told.into_iter().try_for_each(|told| response.append_header("set-cookie", told))?;
            Ok(())
        });
        if let Err(reason) = told {
            log::error(&format!("a browser is not told its renewed session: {reason}"));
        }
        Decision::Continue
    }
}

sluice_plugin::export!(Oidc: request, response);

#[cfg(test)]
mod tests;
