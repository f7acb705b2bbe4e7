//! What the benchmark calls a header plugin: reads one header of the request, looks it up in its configuration, sets
//! another.

use schemars::JsonSchema;
use serde::Deserialize;
use sluice_plugin::{Decision, OnRequest, Plugin, Request};
use std::collections::HashMap;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Plans by tenant.
    plans: HashMap<String, String>,
}

pub struct TenantPlan {
    plans: HashMap<String, String>,
}

impl Plugin for TenantPlan {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, String> {
        Ok(TenantPlan { plans: config.plans })
    }
}

impl OnRequest for TenantPlan {
    fn on_request(&self, request: &mut Request<'_>) -> Decision {
        let plan = request.header_str("x-tenant").and_then(|tenant| self.plans.get(&tenant));
        request.set_header("x-plan", plan.map_or("none", String::as_str)).unwrap();
        Decision::Continue
    }
}

sluice_plugin::export!(TenantPlan: request);
