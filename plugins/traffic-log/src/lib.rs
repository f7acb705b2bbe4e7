//! Puts parts of requests and responses into the access log, without the secrets in them.
//!
//! What is logged of a request is what the client sent, as far as earlier plugins have not changed it; each part is an
//! attribute of its own.

use kit::pattern::{self, bytes::Regex};
use kit::{Bytes, HeaderName};
use redact::Redact;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_plugin::{
    Body, Decision, OnLog, OnRequest, OnRequestBody, Plugin, ReadBody, Request, Response, Summary, attributes, log,
    random,
};

mod redact;

/// The attribute that says that this exchange is logged.
const LOGGED: &str = "traffic-log.logged";

/// Bytes of an attribute.
const VALUE: usize = 4_096;

/// What is logged, and what of it is made unreadable.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// How many of a hundred requests are logged.
    #[schemars(range(min = 0, max = 100))]
    pub percent: f64,
    /// Request headers.
    #[schemars(length(max = 20))]
    pub request_headers: Vec<HeaderName>,
    /// Whether the query is logged.
    pub query: bool,
    /// Request bodies; `null`: none.
    pub request_body: Option<BodyRule>,
    /// Response headers.
    #[schemars(length(max = 20))]
    pub response_headers: Vec<HeaderName>,
    /// What is replaced by `[redacted]`.
    pub redact: Redacted,
}

/// Which bodies are logged.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BodyRule {
    /// A larger body goes on without being logged. It is held until it is there: at most 64Ki.
    pub limit: Bytes,
    /// Types of content.
    #[schemars(length(min = 1))]
    pub content_types: Vec<String>,
}

impl Default for BodyRule {
    fn default() -> BodyRule {
        let types = ["application/json", "application/x-www-form-urlencoded"];
        BodyRule { limit: Bytes(16 << 10), content_types: types.map(str::to_owned).into() }
    }
}

/// What is replaced by `[redacted]`. Names are compared without case.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Redacted {
    /// Headers whose whole value it is.
    pub headers: Vec<HeaderName>,
    /// Parameters of queries and forms, and fields of JSON at any depth.
    pub fields: Vec<String>,
    /// Regular expressions (the syntax of Rust's `regex`, over bytes): what they match, in any value.
    #[schemars(length(max = 50))]
    pub patterns: Vec<String>,
}

impl Default for Redacted {
    fn default() -> Redacted {
        let headers = ["authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key"];
        let fields = [
            "access_token",
            "api_key",
            "apikey",
            "authorization",
            "client_secret",
            "code",
            "id_token",
            "password",
            "refresh_token",
            "secret",
            "token",
        ];
        Redacted {
            headers: headers.into_iter().filter_map(HeaderName::new).collect(),
            fields: fields.map(str::to_owned).into(),
            patterns: Vec::new(),
        }
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            percent: 100.0,
            request_headers: Vec::new(),
            query: false,
            request_body: None,
            response_headers: Vec::new(),
            redact: Redacted::default(),
        }
    }
}

pub struct TrafficLog {
    /// Of 2^64.
    share: u128,
    request_headers: Vec<HeaderName>,
    query: bool,
    request_body: Option<(u64, Vec<String>)>,
    response_headers: Vec<HeaderName>,
    redact: Redact,
}

/// Bytes of a body that is held to be logged.
const BODY: u64 = 64 << 10;

impl Plugin for TrafficLog {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, String> {
        let nothing = config.request_headers.is_empty()
            && config.response_headers.is_empty()
            && !config.query
            && config.request_body.is_none();
        if nothing {
            return Err(
                "neither requestHeaders, query, requestBody nor responseHeaders is set: nothing would be logged"
                    .to_owned(),
            );
        }
        if !(0.0..=100.0).contains(&config.percent) {
            return Err(format!("percent: {} is not between 0 and 100", config.percent));
        }
        if let Some(rule) = &config.request_body
            && !(1..=BODY).contains(&rule.limit.0)
        {
            return Err("requestBody.limit: it is 1 to 64Ki".to_owned());
        }
        let patterns = config.redact.patterns.iter().enumerate();
        let patterns = patterns.map(|(index, text)| pattern::one(&format!("redact.patterns[{index}]"), text, true));
        let content_types =
            |types: Vec<String>| types.iter().map(|essence| essence.trim().to_ascii_lowercase()).collect();
        Ok(TrafficLog {
            share: (config.percent / 100.0 * 2f64.powi(64)) as u128,
            request_headers: config.request_headers,
            query: config.query,
            request_body: config.request_body.map(|rule| (rule.limit.0, content_types(rule.content_types))),
            response_headers: config.response_headers,
            redact: Redact::new(
                config.redact.headers,
                config.redact.fields,
                patterns.collect::<Result<Vec<Regex>, _>>()?,
            ),
        })
    }
}

impl TrafficLog {
    fn headers(&self, place: &str, names: &[HeaderName], values_of: impl Fn(&str) -> Vec<Vec<u8>>) {
        for name in names {
            let values = values_of(name);
            if !values.is_empty() {
                tell(&format!("{place}.header.{}", &**name), &self.redact.header(name, &values));
            }
        }
    }

    /// How much of a body is read for the log; none for one that is not logged.
    fn body_limit(&self, request: &Request<'_>) -> Option<u64> {
        let (limit, types) = self.request_body.as_ref()?;
        let content_type = request.header_str("content-type")?;
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        types.contains(&essence).then_some(*limit)
    }
}

/// An attribute; what is too long for one is cut, at the border of a character.
fn tell(name: &str, value: &str) {
    const MORE: &str = "…";
    let mut cut = value;
    let mut text = String::new();
    if value.len() > VALUE {
        let end = (0..=VALUE - MORE.len()).rev().find(|end| value.is_char_boundary(*end)).unwrap_or(0);
        text.push_str(value.get(..end).unwrap_or_default());
        text.push_str(MORE);
        cut = &text;
    }
    if let Err(reason) = attributes::set_str(&format!("traffic-log.{name}"), cut) {
        log::warn(&format!("{name} was not logged: {reason}"));
    }
}

impl OnRequest for TrafficLog {
    fn on_request(&self, request: &mut Request<'_>) -> Decision {
        // All of 2^64 are below the share of a hundred percent.
        if self.share < 1 << 64 && u128::from(random::number()) >= self.share {
            return Decision::Continue;
        }
        if let Err(reason) = attributes::set(LOGGED, true) {
            log::warn(&format!("the exchange is not logged: {reason}"));
            return Decision::Continue;
        }
        self.headers("request", &self.request_headers, |name| request.header_values(name));
        if self.query
            && let Some(query) = request.query()
        {
            tell("request.query", &self.redact.form(&query));
        }
        match self.body_limit(request) {
            Some(limit) => ReadBody::at_most(limit).or_pass().into(),
            None => Decision::Continue,
        }
    }
}

impl OnRequestBody for TrafficLog {
    fn on_request_body(&self, request: &mut Request<'_>, body: &mut Body<'_>) -> Decision {
        let content_type = request.header_str("content-type").unwrap_or_default();
        if body.size() > 0 {
            tell("request.body", &self.redact.body(&content_type, &body.to_vec()));
        }
        Decision::Continue
    }
}

impl OnLog for TrafficLog {
    fn on_log(&self, _: &Request<'_>, response: Option<&Response<'_>>, _: &Summary<'_>) {
        if let Some(response) = response
            && attributes::get(LOGGED) == Some(true)
        {
            self.headers("response", &self.response_headers, |name| response.header_values(name));
        }
    }
}

sluice_plugin::export!(TrafficLog: request, request_body, log);

#[cfg(test)]
mod tests;
