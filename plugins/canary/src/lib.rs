//! Decides which requests belong to a canary, by header, cookie or by chance, sends them to its backend, and says so to the
//! backend, later plugins and the access log.

use kit::{Duration, HeaderName, cookie};
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use sluice_plugin::{Decision, OnRequest, OnResponse, Plugin, Request, Response, attributes, log, random, routing};

/// The attribute that holds the track: `canary` or `stable`.
pub const TRACK: &str = "canary.track";

/// The attribute that says what decided: `header`, `cookie`, `percent`.
pub const BY: &str = "canary.by";

/// Which requests belong to the canary. The header decides before the cookie, and that before chance.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// A request header that decides.
    #[serde(default)]
    pub header: Option<HeaderRule>,
    /// A cookie that decides.
    #[serde(default)]
    pub cookie: Option<CookieRule>,
    /// How many of a hundred other requests belong to it. `0.5` is one of 200.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100))]
    pub percent: f64,
    /// A request header by whose value chance decides: requests with the same value share their track. Without it, and
    /// where it is not there, each request is drawn anew.
    #[serde(default)]
    pub key: Option<HeaderName>,
    /// The request header that tells the backend the track. What a client sends under it is replaced.
    #[serde(default = "default_track_header")]
    #[schemars(extend("x-sluice-owned-header" = true))]
    pub track_header: HeaderName,
    /// Where the canary's requests go: one of the Plugin's `capabilities.backends`, by its name there; the Plugin needs
    /// `capabilities.routing` too. `null`: to the backend of their rule.
    #[serde(default)]
    #[schemars(length(min = 1, max = 63))]
    pub backend: Option<String>,
}

/// Values of a header that decide.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderRule {
    pub name: HeaderName,
    /// Values that mean the canary.
    #[serde(default = "always")]
    pub canary: Vec<String>,
    /// Values that mean the other one. Any other value decides nothing.
    #[serde(default = "never")]
    pub stable: Vec<String>,
}

/// Values of a cookie that decide.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CookieRule {
    #[schemars(regex(pattern = "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"))]
    pub name: String,
    /// Values that mean the canary.
    #[serde(default = "always")]
    pub canary: Vec<String>,
    /// Values that mean the other one. Any other value decides nothing.
    #[serde(default = "never")]
    pub stable: Vec<String>,
    /// How long clients keep what chance decided for them: the plugin sets the cookie, to the first value of `canary` or
    /// `stable`. `null`: it is not set.
    #[serde(default)]
    pub keep_for: Option<Duration>,
}

fn default_track_header() -> HeaderName {
    HeaderName::new("x-track").unwrap_or_else(|| unreachable!("it is a name"))
}

fn always() -> Vec<String> {
    vec!["always".to_owned()]
}

fn never() -> Vec<String> {
    vec!["never".to_owned()]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Track {
    Canary,
    Stable,
}

impl Track {
    fn as_str(self) -> &'static str {
        match self {
            Track::Canary => "canary",
            Track::Stable => "stable",
        }
    }
}

pub struct Canary {
    header: Option<HeaderRule>,
    cookie: Option<CookieRule>,
    /// Of 2^64.
    share: u128,
    key: Option<HeaderName>,
    track_header: HeaderName,
    backend: Option<String>,
}

impl Plugin for Canary {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, String> {
        if config.header.is_none() && config.cookie.is_none() && config.percent == 0.0 {
            return Err("neither header, cookie nor percent is set: no request would belong to the canary".to_owned());
        }
        if !(0.0..=100.0).contains(&config.percent) {
            return Err(format!("percent: {} is not between 0 and 100", config.percent));
        }
        if let Some(rule) = &config.header {
            check("header", &rule.canary, &rule.stable)?;
        }
        if let Some(rule) = &config.cookie {
            check("cookie", &rule.canary, &rule.stable)?;
            if rule.keep_for.is_some() {
                let sets = [("canary", rule.canary.first()), ("stable", rule.stable.first())];
                for (field, value) in sets {
                    let plain = |b: u8| b.is_ascii_graphic() && !b"\";,\\".contains(&b);
                    if !value.is_some_and(|value| !value.is_empty() && value.bytes().all(plain)) {
                        return Err(format!(
                            "cookie.{field}: its first value can't be set as a cookie's: keepFor needs one"
                        ));
                    }
                }
            }
        }
        Ok(Canary {
            header: config.header,
            cookie: config.cookie,
            share: (config.percent / 100.0 * 2f64.powi(64)) as u128,
            key: config.key,
            track_header: config.track_header,
            backend: config.backend,
        })
    }
}

fn check(field: &str, canary: &[String], stable: &[String]) -> Result<(), String> {
    match canary.iter().find(|value| stable.contains(value)) {
        Some(value) => Err(format!("{field}: `{value}` is in canary and in stable")),
        None => Ok(()),
    }
}

fn decided<'v>(mut values: impl Iterator<Item = &'v str>, canary: &[String], stable: &[String]) -> Option<Track> {
    values.find_map(|value| {
        let among = |list: &[String]| list.iter().any(|one| one == value);
        if among(canary) { Some(Track::Canary) } else { among(stable).then_some(Track::Stable) }
    })
}

impl Canary {
    fn decide(&self, request: &Request<'_>) -> (Track, &'static str) {
        if let Some(HeaderRule { name, canary, stable }) = &self.header {
            let values = request.header_values(name);
            let texts = values.iter().filter_map(|value| std::str::from_utf8(value).ok()).map(str::trim);
            if let Some(track) = decided(texts, canary, stable) {
                return (track, "header");
            }
        }
        if let Some(CookieRule { name, canary, stable, .. }) = &self.cookie
            && let Some(track) = decided(cookie::values(request, name).iter().map(String::as_str), canary, stable)
        {
            return (track, "cookie");
        }
        let drawn = match self.key.as_ref().and_then(|key| request.header(key)) {
            Some(value) => first_number(&Sha256::digest(&value)),
            None if self.share == 0 => u64::MAX,
            None => random::number(),
        };
        (if u128::from(drawn) < self.share { Track::Canary } else { Track::Stable }, "percent")
    }
}

fn first_number(digest: &[u8]) -> u64 {
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

impl OnRequest for Canary {
    fn on_request(&self, request: &mut Request<'_>) -> Decision {
        let (mut track, by) = self.decide(request);
        if track == Track::Canary
            && let Some(backend) = &self.backend
            && let Err(reason) = routing::use_backend(backend)
        {
            log::error(&format!("the request stays with the stable backend: {reason}"));
            track = Track::Stable;
        }
        for told in [
            request.set_header(&self.track_header, track.as_str()),
            attributes::set_str(TRACK, track.as_str()),
            attributes::set_str(BY, by),
        ] {
            if let Err(reason) = told {
                log::error(&format!("the track was not told: {reason}"));
            }
        }
        Decision::Continue
    }
}

impl OnResponse for Canary {
    fn on_response(&self, request: &Request<'_>, response: &mut Response<'_>) -> Decision {
        let Some(CookieRule { name, canary, stable, keep_for: Some(keep_for) }) = &self.cookie else {
            return Decision::Continue;
        };
        if attributes::get::<String>(BY).as_deref() != Some("percent") {
            return Decision::Continue;
        }
        let values = if attributes::get::<String>(TRACK).as_deref() == Some("canary") { canary } else { stable };
        let secure = if request.scheme() == "https" { "; Secure" } else { "" };
        let value = values.first().map(String::as_str).unwrap_or_default();
        let cookie =
            format!("{name}={value}; Path=/; Max-Age={}; HttpOnly; SameSite=Lax{secure}", keep_for.0.as_secs());
        if let Err(reason) = response.append_header("set-cookie", cookie) {
            log::error(&format!("the cookie was not set: {reason}"));
        }
        Decision::Continue
    }
}

sluice_plugin::export!(Canary: request, response);

#[cfg(test)]
mod tests;
