//! The header plugin of the benches: reads one header, looks it up in its configuration, sets another.

use schemars::JsonSchema;
use serde::Deserialize;
use sluice_plugin::{Decision, OnRequest, Plugin, Request};
use std::collections::BTreeMap;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Values of `x-out` by values of `x-tenant`.
    tenants: BTreeMap<String, String>,
}

pub struct Lookup(BTreeMap<String, String>);

impl Plugin for Lookup {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, String> {
        Ok(Lookup(config.tenants))
    }
}

impl OnRequest for Lookup {
    fn on_request(&self, request: &mut Request<'_>) -> Decision {
        let tenant = request.header_str("x-tenant").unwrap_or_default();
        let value = self.0.get(&tenant).map_or("none", String::as_str);
        if let Err(refused) = request.set_header("x-out", value) {
            sluice_plugin::log::error(&refused.to_string());
        }
        Decision::Continue
    }
}

sluice_plugin::export!(Lookup: request);
