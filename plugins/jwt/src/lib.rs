//! Lets requests pass that carry a valid JSON Web Token (RFC 7519), and tells its claims to backend, later plugins and the
//! access log.
//!
//! Nothing of a token is believed before its signature: its `iss` only chooses by whose keys and rules it is judged, and
//! those say which algorithms there are (RFC 8725).

use jose::claims::{self, ClaimRule, Requirement};
use jose::kept::Document;
use jose::{Algorithm, Jwk, Token, jwks};
use kit::{Duration, HeaderName, cookie, query};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use sluice_plugin::{Decision, OnRequest, Plugin, Reply, Request, attributes, log};

/// The attributes that hold the token's `sub` and `iss`.
pub const SUBJECT: &str = "jwt.sub";
pub const ISSUER: &str = "jwt.iss";

/// The store of keys, in the Plugin's `capabilities.stores`.
const STORE: &str = "jwks";

/// Whose tokens pass, and what they have to say.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Who issues tokens.
    #[schemars(length(min = 1))]
    pub issuers: Vec<Issuer>,
    /// The request header that carries the token; `null`: none.
    #[serde(default = "default_header")]
    pub header: Option<HeaderName>,
    /// What stands before the token in that header; empty: nothing.
    #[serde(default = "default_scheme")]
    #[schemars(regex(pattern = "^[!#$%&'*+.^_`|~0-9A-Za-z-]*$"))]
    pub scheme: String,
    /// A cookie that carries it.
    #[serde(default)]
    #[schemars(regex(pattern = "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"))]
    pub cookie: Option<String>,
    /// A query parameter that carries it. What is in URLs ends up in logs.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub query: Option<String>,
    /// Whether requests without a token pass too. One that carries a token that is not valid never does.
    #[serde(default)]
    pub optional: bool,
    /// Whether the token is removed before the request goes to the backend.
    #[serde(default)]
    pub hide_token: bool,
    /// How far clocks may be apart, for `exp` and `nbf`.
    #[serde(default = "default_leeway")]
    pub leeway: Duration,
    /// Whether a token without `exp` passes.
    #[serde(default)]
    pub allow_without_expiry: bool,
    /// What a token has to say besides; otherwise the answer is 403.
    #[serde(default)]
    pub require: Vec<Requirement>,
    /// Claims that are told to the backend and later plugins.
    #[serde(default)]
    pub claims: Vec<ClaimRule>,
    /// In `WWW-Authenticate`.
    #[serde(default = "default_realm")]
    #[schemars(regex(pattern = r#"^[^"\\\x00-\x1f\x7f]*$"#))]
    pub realm: String,
}

/// One who issues tokens.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Issuer {
    /// `iss`, exactly.
    #[schemars(length(min = 1))]
    pub issuer: String,
    /// Of these `aud` has to name one; empty: it is not looked at.
    #[serde(default)]
    pub audiences: Vec<String>,
    /// The algorithms that it signs with.
    #[serde(default = "default_algorithms")]
    #[schemars(length(min = 1))]
    pub algorithms: Vec<Algorithm>,
    /// Where its keys are (RFC 7517); else `keys`.
    #[serde(default)]
    pub jwks: Option<Jwks>,
    /// Its public keys themselves, as JSON Web Keys.
    #[serde(default)]
    pub keys: Vec<Value>,
}

/// A set of keys that is fetched.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Jwks {
    /// By its name in the Plugin's `capabilities.backends`.
    #[schemars(length(min = 1))]
    pub backend: String,
    #[schemars(regex(pattern = "^/"))]
    pub path: String,
    /// How long keys are kept, in the store `jwks` of the Plugin's `capabilities.stores`. A token with a key that is not
    /// among them has them fetched before, at most every 30 s.
    #[serde(default = "default_cache_for")]
    pub cache_for: Duration,
}

fn default_header() -> Option<HeaderName> {
    HeaderName::new("authorization")
}

fn default_scheme() -> String {
    "Bearer".to_owned()
}

fn default_leeway() -> Duration {
    Duration::seconds(30)
}

fn default_cache_for() -> Duration {
    Duration::seconds(600)
}

fn default_realm() -> String {
    "sluice".to_owned()
}

fn default_algorithms() -> Vec<Algorithm> {
    vec![Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA]
}

pub struct Jwt {
    config: Config,
    /// Of each issuer: the keys that the configuration brings.
    keys: Vec<Vec<Jwk>>,
}

impl Plugin for Jwt {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, String> {
        if config.header.is_none() && config.cookie.is_none() && config.query.is_none() {
            return Err("neither header, cookie nor query is set: no request could carry a token".to_owned());
        }
        let mut keys = Vec::new();
        for (index, issuer) in config.issuers.iter().enumerate() {
            let field = format!("issuers[{index}]");
            if config.issuers.iter().take(index).any(|other| other.issuer == issuer.issuer) {
                return Err(format!("{field}.issuer: `{}` is there twice", issuer.issuer));
            }
            if issuer.jwks.is_some() != issuer.keys.is_empty() {
                return Err(format!("{field}: it needs either jwks or keys"));
            }
            if issuer.jwks.as_ref().is_some_and(|jwks| jwks.cache_for.0.is_zero()) {
                return Err(format!("{field}.jwks.cacheFor: it is zero: each request would fetch the keys"));
            }
            let own = issuer.keys.iter().enumerate().map(|(at, value)| {
                let jwk = Jwk::of(value).ok_or("it is not a JSON Web Key".to_owned());
                // To see whether it is one that can be used.
                let made = jwk.and_then(|jwk| jwk.key().map(|_| jwk));
                made.map_err(|why| format!("{field}.keys[{at}]: {why}"))
            });
            keys.push(own.collect::<Result<_, _>>()?);
        }
        claims::check(&config.claims)?;
        Ok(Jwt { config, keys })
    }
}

/// Why a request does not pass.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    /// It carries no token.
    Missing,
    /// It carries one that is not valid; why.
    Invalid(&'static str),
    /// The token does not say what it has to.
    Insufficient,
    /// There are no keys to judge it by.
    NoKeys,
}

impl Jwt {
    /// The one token that a request may carry.
    fn carried(&self, request: &Request<'_>) -> Result<String, Refusal> {
        let mut found = Vec::new();
        if let Some(header) = &self.config.header {
            for value in request.header_values(header) {
                let Ok(value) = String::from_utf8(value) else { return Err(Refusal::Invalid("it is no text")) };
                if self.config.scheme.is_empty() {
                    found.push(value.trim().to_owned());
                } else if let Some((scheme, token)) = value.trim().split_once(' ')
                    && scheme.eq_ignore_ascii_case(&self.config.scheme)
                {
                    found.push(token.trim().to_owned());
                }
            }
        }
        if let Some(name) = &self.config.cookie {
            found.extend(cookie::values(request, name));
        }
        if let Some(name) = &self.config.query
            && let Some(query) = request.query()
        {
            found.extend(query::values(&query, name).map(|value| String::from_utf8_lossy(&value).into_owned()));
        }
        match found.pop() {
            None => Err(Refusal::Missing),
            // Whichever was meant, another reader of the request may take the other.
            Some(_) if !found.is_empty() => Err(Refusal::Invalid("there is more than one token")),
            Some(token) => Ok(token),
        }
    }

    /// The claims of a token that passes.
    fn judge(&self, text: &str) -> Result<Value, Refusal> {
        let token = Token::parse(text).map_err(Refusal::Invalid)?;
        let issuers = self.config.issuers.iter().zip(&self.keys);
        let iss = token.claims.get("iss").and_then(Value::as_str).unwrap_or_default();
        let found = issuers.into_iter().find(|(issuer, _)| issuer.issuer == iss);
        let (issuer, own) = found.ok_or(Refusal::Invalid("its issuer is not known"))?;
        if !issuer.algorithms.contains(&token.algorithm) {
            return Err(Refusal::Invalid("its algorithm is not one of its issuer's"));
        }
        let signed = match &issuer.jwks {
            Some(source) => jwks::verify(&token, &source.document(&issuer.issuer)).ok_or(Refusal::NoKeys)?,
            None => token.is_signed_by(own),
        };
        if !signed {
            return Err(Refusal::Invalid("its signature is not valid"));
        }
        claims::check_times(&token.claims, self.config.leeway, self.config.allow_without_expiry)
            .map_err(Refusal::Invalid)?;
        if !issuer.audiences.is_empty() {
            let named = claims::audiences(&token.claims);
            if !named.iter().any(|one| issuer.audiences.iter().any(|audience| audience == one)) {
                return Err(Refusal::Invalid("it is for another audience"));
            }
        }
        if self.config.require.iter().all(|requirement| requirement.is_met_by(&token.claims)) {
            Ok(token.claims)
        } else {
            Err(Refusal::Insufficient)
        }
    }

    fn admit(&self, request: &mut Request<'_>, claims: &Value) -> Result<(), String> {
        if self.config.hide_token {
            self.hide(request)?;
        }
        for (name, claim) in [(SUBJECT, "sub"), (ISSUER, "iss")] {
            if let Some(value) = claims.get(claim).and_then(Value::as_str) {
                attributes::set_str(name, value)?;
            }
        }
        claims::tell(&self.config.claims, claims, request)?;
        Ok(())
    }

    fn hide(&self, request: &mut Request<'_>) -> Result<(), String> {
        if let Some(header) = &self.config.header {
            request.remove_header(header)?;
        }
        if let Some(name) = &self.config.cookie {
            let kept = cookie::without(request, name);
            match kept {
                Some(rest) if rest.is_empty() => request.remove_header("cookie")?,
                Some(rest) => request.set_header("cookie", rest)?,
                None => {}
            }
        }
        if let Some(name) = &self.config.query
            && let Some(query) = request.query()
            && let Some(rest) = query::without(&query, name)
        {
            request.set_query(Some(rest.as_str()).filter(|rest| !rest.is_empty()))?;
        }
        Ok(())
    }

    fn refuse(&self, refusal: &Refusal) -> Decision {
        let realm = &self.config.realm;
        // RFC 6750, section 3.
        let (status, challenge, text) = match refusal {
            Refusal::Missing => (401, format!("Bearer realm=\"{realm}\""), "a token is required\n".to_owned()),
            Refusal::Invalid(why) => (
                401,
                format!("Bearer realm=\"{realm}\", error=\"invalid_token\", error_description=\"{why}\""),
                format!("the token is not valid: {why}\n"),
            ),
            Refusal::Insufficient => (
                403,
                format!("Bearer realm=\"{realm}\", error=\"insufficient_scope\""),
                "the token does not permit this\n".to_owned(),
            ),
            Refusal::NoKeys => return Reply::new(503).text("tokens can't be checked now\n").into(),
        };
        Reply::new(status).header("www-authenticate", challenge).text(&text).into()
    }
}

impl Jwks {
    fn document<'d>(&'d self, issuer: &'d str) -> Document<'d> {
        Document {
            what: "the keys",
            issuer,
            store: STORE,
            backend: &self.backend,
            authority: None,
            target: &self.path,
            keep_for: self.cache_for.0,
            timeout: None,
        }
    }
}

impl OnRequest for Jwt {
    fn on_request(&self, request: &mut Request<'_>) -> Decision {
        if let Err(reason) = claims::hide_sent(&self.config.claims, request) {
            log::error(&format!("a request was refused: {reason}"));
            return Reply::new(500).text("the request could not be prepared\n").into();
        }
        let judged = self.carried(request).and_then(|token| self.judge(&token));
        let claims = match judged {
            Ok(claims) => claims,
            Err(Refusal::Missing) if self.config.optional => return Decision::Continue,
            Err(refusal) => return self.refuse(&refusal),
        };
        match self.admit(request, &claims) {
            Ok(()) => Decision::Continue,
            Err(reason) => {
                log::error(&format!("a request with a valid token was refused: {reason}"));
                Reply::new(500).text("the request could not be prepared\n").into()
            }
        }
    }
}

sluice_plugin::export!(Jwt: request);

#[cfg(test)]
mod tests;
