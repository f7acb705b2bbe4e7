//! Answers instead of a backend that is being worked on, and lets those pass who work on it.

use kit::address::{self, Ranges};
use kit::{Duration, HeaderName, same_secret};
use schemars::JsonSchema;
use serde::Deserialize;
use sluice_plugin::{Decision, OnRequest, Plugin, Reply, Request, clock, secrets};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// When, and with what, requests are answered.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// Whether it is on. A use that is off lets every request pass.
    pub enabled: bool,
    /// From when on (RFC 3339: `2026-05-01T22:00:00Z`); without it, from now on.
    pub from: Option<String>,
    /// Until when; then requests pass again by themselves. `Retry-After` says how long that is.
    pub until: Option<String>,
    /// `Retry-After` without `until`; `null`: none.
    pub retry_after: Option<Duration>,
    /// Status of the answer.
    #[schemars(range(min = 200, max = 599))]
    pub status: u16,
    /// Body of the answer.
    #[schemars(length(max = 65_536))]
    pub body: String,
    /// Its type.
    pub content_type: String,
    /// Who passes all the same.
    pub bypass: Bypass,
}

/// Who passes: any of these is enough.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Bypass {
    /// Clients by address or range.
    pub addresses: Vec<String>,
    /// Requests by a header.
    pub headers: Vec<BypassHeader>,
}

/// A header with its value, which is taken out before the request goes to the backend.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BypassHeader {
    pub name: HeaderName,
    /// The value; else `secret`.
    #[schemars(length(min = 1))]
    pub value: Option<String>,
    /// The value as a secret, by its name in the Plugin's `capabilities.secrets`.
    #[schemars(length(min = 1))]
    pub secret: Option<String>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            enabled: true,
            from: None,
            until: None,
            retry_after: Some(Duration::seconds(300)),
            status: 503,
            body: PAGE.to_owned(),
            content_type: "text/html; charset=utf-8".to_owned(),
            bypass: Bypass::default(),
        }
    }
}

const PAGE: &str = "<!doctype html><title>Maintenance</title><h1>Back soon</h1><p>This site is being worked on.</p>\n";

pub struct Maintenance {
    enabled: bool,
    /// Seconds since 1970.
    from: Option<u64>,
    until: Option<u64>,
    retry_after: Option<u64>,
    reply: Reply,
    addresses: Ranges,
    headers: Vec<(HeaderName, Key)>,
}

enum Key {
    Value(String),
    Secret(String),
}

impl Plugin for Maintenance {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, String> {
        let from = config.from.as_deref().map(|text| timestamp("from", text)).transpose()?;
        let until = config.until.as_deref().map(|text| timestamp("until", text)).transpose()?;
        if let (Some(from), Some(until)) = (from, until)
            && from >= until
        {
            return Err("until: it is not after `from`: there would be no maintenance".to_owned());
        }
        if config.content_type.is_empty() || !kit::is_header_value(&config.content_type) {
            return Err("contentType: it can't be a header's value".to_owned());
        }
        let headers = config.bypass.headers.into_iter().enumerate().map(|(index, header)| {
            let key = match (header.value, header.secret) {
                (Some(value), None) => Key::Value(value),
                (None, Some(secret)) => Key::Secret(secret),
                _ => return Err(format!("bypass.headers[{index}]: it needs either value or secret")),
            };
            Ok((header.name, key))
        });
        Ok(Maintenance {
            enabled: config.enabled,
            from,
            until,
            retry_after: config.retry_after.map(|after| after.0.as_secs()),
            reply: Reply::new(config.status)
                .header("content-type", &config.content_type)
                .header("cache-control", "no-store")
                .body(config.body),
            addresses: Ranges::parse("bypass.addresses", &config.bypass.addresses)?,
            headers: headers.collect::<Result<_, _>>()?,
        })
    }
}

fn timestamp(field: &str, text: &str) -> Result<u64, String> {
    let parsed = OffsetDateTime::parse(text, &Rfc3339).ok().and_then(|time| u64::try_from(time.unix_timestamp()).ok());
    parsed.ok_or_else(|| format!("{field}: `{text}` is not a time: write 2026-05-01T22:00:00Z"))
}

impl Maintenance {
    /// Whether it goes on now; with seconds until its end, where that is known.
    fn now(&self) -> Option<Option<u64>> {
        if !self.enabled {
            return None;
        }
        if self.from.is_none() && self.until.is_none() {
            return Some(self.retry_after);
        }
        let now = clock::now().as_secs();
        if self.from.is_some_and(|from| now < from) || self.until.is_some_and(|until| now >= until) {
            return None;
        }
        Some(self.until.map(|until| until - now).or(self.retry_after))
    }

    fn may_pass(&self, request: &mut Request<'_>) -> bool {
        let mut pass = !self.addresses.is_empty()
            && address::of_client(request).is_some_and(|client| self.addresses.contains(client));
        for (name, key) in &self.headers {
            let Some(sent) = request.header(name) else { continue };
            pass |= match key {
                Key::Value(value) => same_secret(value.as_bytes(), &sent),
                Key::Secret(secret) => secrets::get(secret).is_some_and(|value| same_secret(trimmed(&value), &sent)),
            };
            // It is a key, and none of the backend's.
            pass &= request.remove_header(name).is_ok();
        }
        pass
    }
}

/// Files that secrets are made of end in a line's end.
fn trimmed(value: &[u8]) -> &[u8] {
    value.trim_ascii_end()
}

impl OnRequest for Maintenance {
    fn on_request(&self, request: &mut Request<'_>) -> Decision {
        let Some(retry_after) = self.now() else { return Decision::Continue };
        if self.may_pass(request) {
            return Decision::Continue;
        }
        let mut reply = self.reply.clone();
        if let Some(seconds) = retry_after {
            reply = reply.header("retry-after", seconds.to_string());
        }
        reply.into()
    }
}

sluice_plugin::export!(Maintenance: request);

#[cfg(test)]
mod tests;
