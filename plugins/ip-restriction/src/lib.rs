//! Lets requests pass by the address of their client.

use kit::address::{self, Ranges};
use schemars::JsonSchema;
use serde::Deserialize;
use sluice_plugin::{Decision, OnRequest, Plugin, Reply, Request};

/// Which clients may come in.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Addresses and ranges (`192.0.2.0/24`, `2001:db8::/32`) that may come in; empty: every one that is not in `deny`.
    #[serde(default)]
    pub allow: Vec<String>,
    /// Addresses and ranges that may not, even where they are in `allow` too.
    #[serde(default)]
    pub deny: Vec<String>,
    /// Status of the answer to the others. `404` hides that there is anything.
    #[serde(default = "default_status")]
    #[schemars(range(min = 400, max = 599))]
    pub status: u16,
    /// Body of that answer, as plain text.
    #[serde(default = "default_message")]
    #[schemars(length(max = 4096))]
    pub message: String,
}

fn default_status() -> u16 {
    403
}

fn default_message() -> String {
    "your address may not come in here\n".to_owned()
}

pub struct IpRestriction {
    allow: Ranges,
    deny: Ranges,
    refusal: Reply,
}

impl Plugin for IpRestriction {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, String> {
        if config.allow.is_empty() && config.deny.is_empty() {
            return Err("neither allow nor deny is set: nothing would be restricted".to_owned());
        }
        Ok(IpRestriction {
            allow: Ranges::parse("allow", &config.allow)?,
            deny: Ranges::parse("deny", &config.deny)?,
            refusal: Reply::new(config.status).text(&config.message),
        })
    }
}

impl OnRequest for IpRestriction {
    fn on_request(&self, request: &mut Request<'_>) -> Decision {
        let allowed = address::of_client(request).is_some_and(|client| {
            !self.deny.contains(client) && (self.allow.is_empty() || self.allow.contains(client))
        });
        if allowed { Decision::Continue } else { self.refusal.clone().into() }
    }
}

sluice_plugin::export!(IpRestriction: request);

#[cfg(test)]
mod tests;
