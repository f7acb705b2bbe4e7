//! Refuses requests above a rate, by client, header or attribute (a claim, a consumer), and tells clients how much is left.

use kit::{Duration, HeaderName, address, hex};
use limiter::{Limiter, Verdict};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sluice_plugin::store::Store;
use sluice_plugin::{Decision, OnRequest, OnResponse, Plugin, Reply, Request, Response, attributes, log};
use std::net::{IpAddr, Ipv6Addr};

mod limiter;

/// The store of counts, in the Plugin's `capabilities.stores`.
const STORE: &str = "limits";

/// The attribute that names the limit which refused a request.
pub const REFUSED: &str = "rate-limit.refused";

/// The attribute that carries the header `RateLimit` to the response.
const LEFT: &str = "rate-limit.left";

/// Which rates requests may have.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// A request has to be within each of them. It counts for those before the one that refuses it.
    #[schemars(length(min = 1, max = 8))]
    pub limits: Vec<Limit>,
    /// Whether answers have `RateLimit` and `RateLimit-Policy`.
    #[serde(default = "default_true")]
    pub headers: bool,
    /// Status of the answer to a request above the rate.
    #[serde(default = "default_status")]
    #[schemars(range(min = 400, max = 599))]
    pub status: u16,
    /// Body of that answer, as plain text.
    #[serde(default = "default_message")]
    #[schemars(length(max = 4096))]
    pub message: String,
    /// What becomes of requests while the store can't be had.
    #[serde(default)]
    pub on_store_failure: OnStoreFailure,
}

/// So many requests in such a time.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limit {
    /// Told to clients. Limits of one name, of all policies that use the store, share their counts.
    #[serde(default = "default_name")]
    #[schemars(regex(pattern = "^[A-Za-z0-9._-]{1,64}$"))]
    pub name: String,
    /// How many.
    #[schemars(range(min = 1, max = 1_000_000_000u64))]
    pub requests: u64,
    /// In which time: 1s to 24h.
    pub per: Duration,
    /// How they are counted.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// How many may come at once, of a token bucket; by default as many as `requests`.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_000_000_000u64))]
    pub burst: Option<u64>,
    /// Whose requests are counted together.
    #[serde(default)]
    pub by: By,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Algorithm {
    /// In windows that follow the clock: at the border of two, up to twice as many may come at once.
    FixedWindow,
    /// In a window that moves with the clock, of which the part before the last border is estimated.
    #[default]
    SlidingWindow,
    /// From a bucket that is filled evenly: `burst` at once, then at the rate.
    TokenBucket,
}

/// What requests that are counted together have in common; nothing: all of them are counted together.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct By {
    /// The client's address, of IPv6 its first 64 bits.
    pub client: bool,
    /// Request headers. Those that lack one are counted together.
    pub headers: Vec<HeaderName>,
    /// Attributes of earlier plugins: `key-auth.consumer`, `jwt.sub`. Those that lack one are counted together.
    pub attributes: Vec<String>,
}

impl Default for By {
    fn default() -> By {
        By { client: true, headers: Vec::new(), attributes: Vec::new() }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum OnStoreFailure {
    /// They pass, and the log says so.
    #[default]
    Allow,
    /// They are answered 503.
    Deny,
}

fn default_true() -> bool {
    true
}

fn default_status() -> u16 {
    429
}

fn default_message() -> String {
    "too many requests\n".to_owned()
}

fn default_name() -> String {
    "default".to_owned()
}

/// Times that a limit may be about, in seconds.
const TIMES: std::ops::RangeInclusive<u64> = 1..=24 * 60 * 60;

struct Rule {
    name: String,
    limiter: Limiter,
    by: By,
}

pub struct RateLimit {
    rules: Vec<Rule>,
    /// `RateLimit-Policy`; none where no headers are wanted.
    policy: Option<String>,
    status: u16,
    message: String,
    on_store_failure: OnStoreFailure,
}

impl Plugin for RateLimit {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, String> {
        let mut rules: Vec<Rule> = Vec::new();
        let mut policies = Vec::new();
        for (index, limit) in config.limits.into_iter().enumerate() {
            let field = format!("limits[{index}]");
            if rules.iter().any(|rule| rule.name == limit.name) {
                return Err(format!("{field}.name: there are two limits `{}`", limit.name));
            }
            let seconds = limit.per.0.as_secs();
            if !TIMES.contains(&seconds) || limit.per.0.subsec_nanos() != 0 {
                return Err(format!("{field}.per: it is whole seconds, 1s to 24h"));
            }
            if limit.burst.is_some() && limit.algorithm != Algorithm::TokenBucket {
                return Err(format!("{field}.burst: only a TokenBucket has one"));
            }
            policies.push(format!("\"{}\";q={};w={seconds}", limit.name, limit.requests));
            let limiter = Limiter::new(limit.algorithm, limit.requests, seconds, limit.burst.unwrap_or(limit.requests));
            rules.push(Rule { name: limit.name, limiter, by: limit.by });
        }
        Ok(RateLimit {
            rules,
            policy: config.headers.then(|| policies.join(", ")),
            status: config.status,
            message: config.message,
            on_store_failure: config.on_store_failure,
        })
    }
}

impl Rule {
    /// The name of a count: what the requests have in common is told apart by its digest, which bounds its length.
    fn key(&self, request: &Request<'_>) -> String {
        let mut digest = Sha256::new();
        let mut part = |kind: u8, value: Option<&[u8]>| {
            digest.update([kind, u8::from(value.is_some())]);
            let value = value.unwrap_or_default();
            digest.update((value.len() as u64).to_be_bytes());
            digest.update(value);
        };
        if self.by.client {
            let client = address::of_client(request).map(network).map(|address| address.to_string());
            part(0, client.as_deref().map(str::as_bytes));
        }
        for header in &self.by.headers {
            part(1, request.header(header).as_deref());
        }
        for name in &self.by.attributes {
            part(2, attribute(name).as_deref().map(str::as_bytes));
        }
        format!("{}/{}", self.name, hex(&digest.finalize()))
    }
}

/// Who has an IPv6 network of 64 bits has all addresses in it.
fn network(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !0 << 64).into(),
        address => address,
    }
}

/// Of any type.
fn attribute(name: &str) -> Option<String> {
    let number = || attributes::get::<i64>(name).map(|value| value.to_string());
    let flag = || attributes::get::<bool>(name).map(|value| value.to_string());
    attributes::get::<String>(name).or_else(number).or_else(flag)
}

/// One element of `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10): what is left, and in how many seconds there is more.
fn item(name: &str, verdict: &Verdict) -> String {
    format!("\"{name}\";r={};t={}", verdict.left, verdict.reset)
}

impl RateLimit {
    /// Of each limit up to the first that refuses.
    fn ask(&self, request: &Request<'_>) -> Result<Vec<(&Rule, Verdict)>, String> {
        let store = Store::open(STORE)?;
        let mut verdicts = Vec::with_capacity(self.rules.len());
        for rule in &self.rules {
            let verdict = rule.limiter.take(&store, &rule.key(request))?;
            let passes = verdict.passes;
            verdicts.push((rule, verdict));
            if !passes {
                break;
            }
        }
        Ok(verdicts)
    }

    fn refuse(&self, rule: &Rule, verdict: &Verdict) -> Decision {
        if let Err(reason) = attributes::set_str(REFUSED, &rule.name) {
            log::warn(&format!("the access log does not name the limit: {reason}"));
        }
        Reply::new(self.status).header("retry-after", verdict.reset.max(1).to_string()).text(&self.message).into()
    }
}

impl OnRequest for RateLimit {
    fn on_request(&self, request: &mut Request<'_>) -> Decision {
        let verdicts = match self.ask(request) {
            Ok(verdicts) => verdicts,
            Err(reason) => {
                log::error(&format!("a request was not counted: {reason}"));
                return match self.on_store_failure {
                    OnStoreFailure::Allow => Decision::Continue,
                    OnStoreFailure::Deny => Reply::new(503).text("requests can't be counted now\n").into(),
                };
            }
        };
        if self.policy.is_some() {
            let items: Vec<String> = verdicts.iter().map(|(rule, verdict)| item(&rule.name, verdict)).collect();
            if let Err(reason) = attributes::set_str(LEFT, &items.join(", ")) {
                log::warn(&format!("the client is not told what is left: {reason}"));
            }
        }
        match verdicts.last() {
            Some((rule, verdict)) if !verdict.passes => self.refuse(rule, verdict),
            _ => Decision::Continue,
        }
    }
}

impl OnResponse for RateLimit {
    fn on_response(&self, _: &Request<'_>, response: &mut Response<'_>) -> Decision {
        if let Some(policy) = &self.policy
            && let Some(left) = attributes::get::<String>(LEFT)
        {
            for told in [response.append_header("ratelimit-policy", policy), response.append_header("ratelimit", left)]
            {
                if let Err(reason) = told {
                    log::warn(&format!("the client is not told what is left: {reason}"));
                }
            }
        }
        Decision::Continue
    }
}

sluice_plugin::export!(RateLimit: request, response);

#[cfg(test)]
mod tests;
