//! Tells its version in the header `x-plugin-version` of each response. The version is part of the code: tests make other
//! versions of the module by writing another number over it.

use schemars::JsonSchema;
use serde::Deserialize;
use sluice_plugin::{Decision, OnResponse, Plugin, Request, Response};
use std::hint::black_box;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {}

pub struct Versioned;

/// Read as data, so that no digit of it is folded into an instruction.
static VERSION: &str = "version-0000";

impl Plugin for Versioned {
    type Config = Config;

    fn configure(_: Config) -> Result<Self, String> {
        Ok(Versioned)
    }
}

impl OnResponse for Versioned {
    fn on_response(&self, _: &Request<'_>, response: &mut Response<'_>) -> Decision {
        response.set_header("x-plugin-version", black_box(VERSION)).unwrap();
        Decision::Continue
    }
}

sluice_plugin::export!(Versioned: response);
