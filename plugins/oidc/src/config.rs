//! The configuration, and what of it is computed once.

use crate::endpoint::{Endpoint, is_local, is_normal};
use jose::Algorithm;
use jose::claims::{self, ClaimRule, Requirement};
use kit::{Duration, hex};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// Whose accounts sign in, and what of them is kept and told.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// The provider's URL as its tokens name it (`iss`), exactly.
    #[schemars(regex(pattern = "^https?://"))]
    pub issuer: String,
    /// The provider, by its name in the Plugin's `capabilities.backends`.
    #[serde(default = "default_backend")]
    #[schemars(length(min = 1))]
    pub backend: String,
    /// Backends for those hosts of the provider's endpoints that `backend` does not serve:
    /// `{oauth2.googleapis.com: google-tokens}`.
    #[serde(default)]
    pub hosts: BTreeMap<String, String>,
    /// The provider's endpoints; `null`: it is asked for them (OpenID Connect Discovery).
    #[serde(default)]
    pub endpoints: Option<Endpoints>,
    /// The name under which the provider knows this site.
    #[schemars(length(min = 1))]
    pub client_id: String,
    /// The secret to that name, by its own name in the Plugin's `capabilities.secrets`; `null`: a public client, which has none.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub client_secret: Option<String>,
    /// How the provider is shown the secret.
    #[serde(default = "default_client_authentication")]
    pub client_authentication: ClientAuthentication,
    /// What sessions are encrypted with, by names in the Plugin's `capabilities.secrets`: random, at least 32 bytes each.
    /// The first encrypts, all decrypt.
    #[schemars(length(min = 1, max = 4), inner(length(min = 1)))]
    pub session_secrets: Vec<String>,
    /// Where the provider sends the browser back to, as it is registered there: a URL, or a path, which is taken below
    /// the request's own scheme and host. The path is the plugin's, in the form that requests have.
    #[serde(default = "default_redirect_uri")]
    #[schemars(regex(pattern = "^(/|https?://)"))]
    pub redirect_uri: String,
    /// The path where a browser signs out, by GET or POST, in the form that requests have.
    #[serde(default = "default_logout_path")]
    #[schemars(regex(pattern = "^/"))]
    pub logout_path: String,
    /// Where it goes after that, as it is registered at the provider: a URL, or a path; `null`: the provider's own page, or
    /// one of the plugin's.
    #[serde(default)]
    #[schemars(regex(pattern = "^(/|https?://)"))]
    pub post_logout_redirect_uri: Option<String>,
    /// What is asked for, besides `openid`.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Further parameters of the request to the provider: `prompt`, `audience`, `acr_values`, … To `max_age`, in seconds, the
    /// ID token's `auth_time` is held.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
    /// The algorithms that the provider signs ID tokens with.
    #[serde(default = "default_algorithms")]
    #[schemars(length(min = 1))]
    pub algorithms: Vec<Algorithm>,
    /// How far clocks may be apart, for an ID token's `exp`, `nbf` and `iat`.
    #[serde(default = "default_leeway")]
    pub leeway: Duration,
    /// What an account has to say; otherwise the answer is 403.
    #[serde(default)]
    pub require: Vec<Requirement>,
    /// Claims of the ID token that are told to the backend and later plugins.
    #[serde(default)]
    pub claims: Vec<ClaimRule>,
    /// Whether the backend is told the access token, in `Authorization`. Without `refresh` the session ends with it.
    #[serde(default)]
    pub forward_access_token: bool,
    /// Whether tokens are renewed before they expire, by a refresh token; the account's claims with them.
    #[serde(default)]
    pub refresh: bool,
    /// Whether the ID token is kept, to show it to the provider at sign-out.
    #[serde(default)]
    pub keep_id_token: bool,
    /// Which requests without a session are sent to the provider. The others are answered 401.
    #[serde(default = "default_redirect")]
    pub redirect: Redirect,
    /// What the names of cookies begin with, behind `__Host-`. The backend sees none of those.
    #[serde(default = "default_cookie_name")]
    #[schemars(regex(pattern = "^[0-9A-Za-z][0-9A-Za-z_-]{0,63}$"))]
    pub cookie_name: String,
    /// How long a sign-in may take.
    #[serde(default = "default_login_time")]
    pub login_time: Duration,
    /// How long a session lasts at most.
    #[serde(default = "default_lifetime")]
    pub lifetime: Duration,
    /// How long it lasts without a request, or a quarter less; `null`: as long as `lifetime`.
    #[serde(default = "default_idle")]
    pub idle: Option<Duration>,
    /// How long the provider's endpoints and keys are kept, in the store `oidc` of the Plugin's `capabilities.stores`.
    #[serde(default = "default_cache_for")]
    pub cache_for: Duration,
    /// Longest time to wait for one answer of the provider.
    #[serde(default = "default_timeout")]
    pub timeout: Duration,
}

/// The provider's endpoints, as absolute URLs.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoints {
    /// Where browsers are sent.
    pub authorization: String,
    /// Where codes are exchanged.
    pub token: String,
    /// Where its keys are (RFC 7517).
    pub jwks: String,
    /// Where browsers sign out; `null`: only the session here ends.
    #[serde(default)]
    pub end_session: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum ClientAuthentication {
    /// In `Authorization` (`client_secret_basic`).
    Basic,
    /// In the form (`client_secret_post`).
    Post,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Redirect {
    /// Those that load a page: GET and HEAD with `Sec-Fetch-Mode: navigate`, or without that with `text/html` in `Accept`.
    Navigations,
    /// None.
    Never,
}

fn default_backend() -> String {
    "idp".to_owned()
}

fn default_client_authentication() -> ClientAuthentication {
    ClientAuthentication::Basic
}

fn default_redirect_uri() -> String {
    "/oauth2/callback".to_owned()
}

fn default_logout_path() -> String {
    "/oauth2/logout".to_owned()
}

fn default_algorithms() -> Vec<Algorithm> {
    vec![Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA]
}

fn default_leeway() -> Duration {
    Duration::seconds(30)
}

fn default_redirect() -> Redirect {
    Redirect::Navigations
}

fn default_cookie_name() -> String {
    "oidc".to_owned()
}

fn default_login_time() -> Duration {
    Duration::seconds(10 * 60)
}

fn default_lifetime() -> Duration {
    Duration::seconds(8 * 60 * 60)
}

fn default_idle() -> Option<Duration> {
    Some(Duration::seconds(60 * 60))
}

fn default_cache_for() -> Duration {
    Duration::seconds(600)
}

fn default_timeout() -> Duration {
    Duration::seconds(3)
}

/// OpenID Connect Core 1.0, section 3.1.2.1.
const MAX_AGE: &str = "max_age";

/// Parameters that are the plugin's to set.
const OWN_PARAMETERS: [&str; 11] = [
    "client_id",
    "code_challenge",
    "code_challenge_method",
    "nonce",
    "redirect_uri",
    "request",
    "request_uri",
    "response_mode",
    "response_type",
    "scope",
    "state",
];

impl Config {
    /// What could not work, with its field.
    pub(crate) fn check(&self) -> Result<(), String> {
        if Endpoint::parse(&self.issuer).is_none_or(|issuer| issuer.url().contains('?')) {
            return Err("issuer: it is not a URL without a query".to_owned());
        }
        if let Some(endpoints) = &self.endpoints {
            let end_session = endpoints.end_session.as_deref().unwrap_or(&endpoints.token);
            for (name, url) in [
                ("authorization", endpoints.authorization.as_str()),
                ("token", &endpoints.token),
                ("jwks", &endpoints.jwks),
                ("endSession", end_session),
            ] {
                self.endpoint(url).map_err(|why| format!("endpoints.{name}: {why}"))?;
            }
        }
        let is_host =
            |host: &str| Endpoint::parse(&format!("https://{host}")).is_some_and(|url| url.authority() == host);
        if let Some(host) = self.hosts.keys().find(|host| !is_host(host)) {
            return Err(format!("hosts: `{host}` is not a host with an optional port"));
        }
        if let Some(parameter) = self.parameters.keys().find(|name| OWN_PARAMETERS.contains(&name.as_str())) {
            return Err(format!("parameters: `{parameter}` is the plugin's to set"));
        }
        if self.parameters.contains_key(MAX_AGE) && self.max_age().is_none() {
            return Err(format!("parameters: `{MAX_AGE}` is not a number of seconds: write \"3600\""));
        }
        let is_scope = |scope: &String| {
            !scope.is_empty() && scope.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\')
        };
        if let Some(index) = self.scopes.iter().position(|scope| !is_scope(scope)) {
            return Err(format!("scopes[{index}]: it is not a scope (RFC 6749, section 3.3)"));
        }
        self.check_paths()?;
        claims::check(&self.claims)?;
        let takes_the_token = |rule: &ClaimRule| rule.header.as_deref() == Some("authorization");
        if self.forward_access_token
            && let Some(index) = self.claims.iter().position(takes_the_token)
        {
            return Err(format!(
                "claims[{index}].header: `authorization` carries the access token, as forwardAccessToken asks for: tell the \
                 claim in a header of its own, such as `x-user`"
            ));
        }
        if self.session_secrets.is_empty() {
            return Err("sessionSecrets: it is empty: there is nothing to encrypt with".to_owned());
        }
        if self.timeout.0.is_zero() {
            return Err("timeout: it is zero".to_owned());
        }
        let idle = self.idle.unwrap_or(self.lifetime);
        let times =
            [("loginTime", self.login_time), ("lifetime", self.lifetime), ("idle", idle), ("cacheFor", self.cache_for)];
        match times.iter().find(|(_, time)| time.0.as_secs() == 0) {
            Some((field, _)) => Err(format!("{field}: it is less than a second")),
            None => Ok(()),
        }
    }

    fn check_paths(&self) -> Result<(), String> {
        let urls = [
            ("redirectUri", Some(self.redirect_uri.as_str())),
            ("postLogoutRedirectUri", self.post_logout_redirect_uri.as_deref()),
        ];
        for (field, text) in urls {
            let fits = |text: &str| is_local(text) || Endpoint::parse(text).is_some();
            if !text.is_none_or(fits) {
                return Err(format!("{field}: it is neither a URL nor a path, percent-encoded"));
            }
        }
        if self.redirect_uri.contains('?') {
            return Err("redirectUri: it has a query".to_owned());
        }
        let paths = [
            ("redirectUri", self.callback_path(), default_redirect_uri()),
            ("logoutPath", self.logout_path.clone(), default_logout_path()),
        ];
        for (field, path, default) in &paths {
            if !is_normal(path) {
                return Err(format!(
                    "{field}: no request has its path: begin it with one slash, without `//`, `.` and `..` as segments and a \
                     query, and percent-encode what has to be and nothing else, in capitals; or write `{default}`"
                ));
            }
            if path == "/" {
                return Err(format!(
                    "{field}: its path is `/`, which a site needs: write one of its own, such as `{default}`"
                ));
            }
        }
        if self.logout_path == self.callback_path() {
            return Err("logoutPath: it is the path of redirectUri: give each one of its own".to_owned());
        }
        Ok(())
    }

    /// An endpoint of the provider. What browsers and secrets are sent to is HTTPS where the provider is.
    pub(crate) fn endpoint(&self, url: &str) -> Result<Endpoint, String> {
        let endpoint = Endpoint::parse(url).ok_or("it is not an absolute URL without a fragment")?;
        if self.issuer.starts_with("https://") && !endpoint.is_secure() {
            return Err("it is not https, as the issuer is".to_owned());
        }
        Ok(endpoint)
    }

    pub(crate) fn callback_path(&self) -> String {
        Endpoint::parse(&self.redirect_uri).map_or_else(|| self.redirect_uri.clone(), |url| url.target().to_owned())
    }

    /// Seconds since the account last showed who it is, at most; none where that is not asked for.
    pub(crate) fn max_age(&self) -> Option<u64> {
        self.parameters.get(MAX_AGE).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()
    }

    /// `openid` first.
    pub(crate) fn scope(&self) -> String {
        let others = self.scopes.iter().map(String::as_str).filter(|scope| *scope != "openid");
        std::iter::once("openid").chain(others).collect::<Vec<_>>().join(" ")
    }

    /// The claims that a session has to hold, by their paths.
    pub(crate) fn kept_claims(&self) -> BTreeSet<&str> {
        let told = self.claims.iter().map(|rule| rule.claim.as_str());
        let required = self.require.iter().map(|requirement| requirement.claim.as_str());
        told.chain(required).chain(["sub"]).collect()
    }

    /// What a session is about. Another configuration has other sessions: one does not take the other's for its own. What was
    /// asked of the provider belongs to it: a sign-in that was to be a strong one is not what another is.
    pub(crate) fn fingerprint(&self) -> String {
        let mut digest = Sha256::new();
        let (tokens, parameters) = ([self.forward_access_token, self.refresh, self.keep_id_token], &self.parameters);
        let flags = format!("{tokens:?} {}", parameters.len());
        let scope = self.scope();
        let parts = [self.issuer.as_str(), &self.client_id, &scope, &flags];
        let parameters = parameters.iter().flat_map(|(name, value)| [name.as_str(), value]);
        for part in parts.into_iter().chain(parameters).chain(self.kept_claims()) {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        hex(&digest.finalize())
    }
}
