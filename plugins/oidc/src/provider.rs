//! The provider: where it is asked, and what its token endpoint answers.

use crate::Oidc;
use crate::config::{ClientAuthentication, Config};
use crate::endpoint::Endpoint;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jose::kept::Document;
use kit::query;
use serde_json::Value;
use sluice_plugin::fetch::Fetch;
use sluice_plugin::{log, secrets};

/// The store of what is known of providers, of sign-ins that are over, and of sessions that are being renewed.
pub(crate) const STORE: &str = "oidc";

/// The error of a code or a refresh token that is none, or is none any more (RFC 6749, section 5.2).
pub(crate) const INVALID_GRANT: &str = "invalid_grant";

/// Bytes of an answer with tokens.
const ANSWER: u64 = 64 << 10;

#[derive(Clone, Debug)]
pub(crate) struct Provider {
    pub(crate) authorization: Endpoint,
    pub(crate) token: Endpoint,
    pub(crate) jwks: Endpoint,
    pub(crate) end_session: Option<Endpoint>,
    /// Whether it says who it is wherever it sends a browser back (RFC 9207).
    pub(crate) names_itself: bool,
}

/// Tokens as they were issued. Nothing of the ID token is known yet.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    pub(crate) id: Option<String>,
    pub(crate) access: Option<String>,
    pub(crate) refresh: Option<String>,
    /// Seconds that the access token lives.
    pub(crate) expires_in: Option<u64>,
}

/// Why there are no tokens.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoTokens {
    /// The provider's word for it: `invalid_grant`.
    Refused(String),
    /// It can't be asked, or fails.
    Away(String),
}

/// A word as errors of OAuth are (RFC 6749, section 5.2), and no other text.
pub(crate) fn error_code(text: &str) -> Option<&str> {
    let fits = (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    fits.then_some(text)
}

impl Provider {
    /// By the configuration's own endpoints.
    pub(crate) fn of(config: &Config) -> Result<Option<Provider>, String> {
        let Some(endpoints) = &config.endpoints else { return Ok(None) };
        Ok(Some(Provider {
            authorization: config.endpoint(&endpoints.authorization)?,
            token: config.endpoint(&endpoints.token)?,
            jwks: config.endpoint(&endpoints.jwks)?,
            end_session: endpoints.end_session.as_deref().map(|url| config.endpoint(url)).transpose()?,
            names_itself: false,
        }))
    }

    /// By its metadata (OpenID Connect Discovery 1.0, section 3).
    fn read(config: &Config, body: &[u8]) -> Result<Provider, String> {
        let metadata = kit::json::parse(body).map_err(|error| error.to_string())?;
        let text = |name: &str| metadata.get(name).and_then(Value::as_str);
        // Section 4.3: another's metadata would send secrets elsewhere.
        if text("issuer") != Some(config.issuer.as_str()) {
            return Err("its issuer is not exactly the configuration's".to_owned());
        }
        let endpoint = |name: &str| {
            let url = text(name).ok_or_else(|| format!("it has no {name}"))?;
            config.endpoint(url).map_err(|why| format!("{name}: {why}"))
        };
        Ok(Provider {
            authorization: endpoint("authorization_endpoint")?,
            token: endpoint("token_endpoint")?,
            jwks: endpoint("jwks_uri")?,
            end_session: endpoint("end_session_endpoint").ok(),
            names_itself: metadata.get("authorization_response_iss_parameter_supported") == Some(&Value::Bool(true)),
        })
    }
}

impl Oidc {
    /// None: it can't be asked, which the log has.
    pub(crate) fn provider(&self) -> Option<Provider> {
        if let Some(provider) = &self.provider {
            return Some(provider.clone());
        }
        let base = self.config.issuer.trim_end_matches('/');
        let url = Endpoint::parse(&format!("{base}/.well-known/openid-configuration"))?;
        let document = self.document("the provider's endpoints", &url);
        document.get(|body| Provider::read(&self.config, body), |_| true)
    }

    pub(crate) fn document<'d>(&'d self, what: &'d str, url: &'d Endpoint) -> Document<'d> {
        Document {
            what,
            issuer: &self.config.issuer,
            store: STORE,
            backend: self.backend_of(url),
            authority: Some(url.authority()),
            target: url.target(),
            keep_for: self.config.cache_for.0,
            timeout: Some(self.config.timeout.0),
        }
    }

    fn backend_of(&self, url: &Endpoint) -> &str {
        self.config.hosts.get(url.authority()).unwrap_or(&self.config.backend)
    }

    /// Asks the token endpoint (RFC 6749, section 3.2).
    pub(crate) fn tokens(&self, provider: &Provider, form: &[(&str, &str)]) -> Result<Tokens, NoTokens> {
        let client = self.config.client_id.as_str();
        let mut fetch = Fetch::post(provider.token.target())
            .authority(provider.token.authority())
            .header("accept", "application/json")
            .header("content-type", "application/x-www-form-urlencoded")
            .timeout(self.config.timeout.0)
            .body_limit(ANSWER);
        let mut form = form.to_vec();
        let secret = match &self.config.client_secret {
            None => None,
            Some(name) => {
                let secret = secrets::get_str(name);
                let missing = || NoTokens::Away(format!("there is no secret `{name}` that is text"));
                Some(secret.ok_or_else(missing)?)
            }
        };
        // Files and editors end a line that is none of the secret's.
        let secret = secret.as_deref().map(|secret| secret.trim_end_matches(['\r', '\n']));
        match (secret, self.config.client_authentication) {
            (None, _) => form.push(("client_id", client)),
            (Some(secret), ClientAuthentication::Post) => {
                form.extend([("client_id", client), ("client_secret", secret)]);
            }
            (Some(secret), ClientAuthentication::Basic) => {
                // RFC 6749, section 2.3.1: each is encoded before.
                let pair = format!("{}:{}", query::encode(client), query::encode(secret));
                fetch = fetch.header("authorization", format!("Basic {}", BASE64_STANDARD.encode(pair)));
            }
        }
        let sent = fetch.body(query::of(form)).send(self.backend_of(&provider.token));
        let answer = sent.map_err(|error| NoTokens::Away(error.to_string()))?;
        let body = kit::json::parse(&answer.body());
        match answer.status() {
            200 => {
                let body = body.map_err(|error| NoTokens::Away(format!("of its tokens: {error}")))?;
                Ok(Tokens::read(&body))
            }
            status @ 400..=499 if status != 408 && status != 429 => {
                let error = body.unwrap_or_default();
                let code = error.get("error").and_then(Value::as_str).and_then(error_code);
                Err(NoTokens::Refused(code.map_or_else(|| format!("status {status}"), str::to_owned)))
            }
            status => Err(NoTokens::Away(format!("its token endpoint answered {status}"))),
        }
    }
}

impl Tokens {
    fn read(body: &Value) -> Tokens {
        let text =
            |name: &str| body.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
        // Some write the number as text.
        let seconds = |value: &Value| value.as_f64().or_else(|| value.as_str()?.parse().ok());
        let bearer = text("token_type").is_none_or(|kind| kind.eq_ignore_ascii_case("bearer"));
        if !bearer {
            log::warn("the provider issues access tokens that are not for whoever bears them: they are not used");
        }
        Tokens {
            id: text("id_token"),
            access: text("access_token").filter(|_| bearer),
            refresh: text("refresh_token"),
            expires_in: body.get("expires_in").and_then(seconds).filter(|s| *s >= 0.0).map(|s| s as u64),
        }
    }
}
