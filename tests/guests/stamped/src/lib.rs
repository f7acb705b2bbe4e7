//! Stamps its version on the request, on the response and on the access log's line, each in its own phase. As with
//! `versioned`, tests make other versions by writing another text over the one in the code; one that begins with
//! `refuses` or `traps` does so in `configure`, with `unfit`, `panics` or `endless` in its self-test.

use schemars::JsonSchema;
use serde::Deserialize;
use sluice_plugin::{Decision, OnLog, OnRequest, OnResponse, Plugin, Request, Response, SelfTest, Summary, attributes};
use std::hint::black_box;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {}

pub struct Stamped;

/// Read as data, so that no byte of it is folded into an instruction.
static VERSION: &str = "version-0000";

const HEADER: &str = "x-stamp";

impl Plugin for Stamped {
    type Config = Config;

    fn configure(_: Config) -> Result<Self, String> {
        let version = black_box(VERSION);
        if version.starts_with("refuses") {
            return Err("this version refuses each configuration".to_owned());
        }
        assert!(!version.starts_with("traps"), "this version traps in configure");
        Ok(Stamped)
    }
}

impl SelfTest for Stamped {
    #[allow(clippy::empty_loop)]
    fn self_test(&self) -> Result<(), String> {
        let version = black_box(VERSION);
        match version.split('-').next() {
            Some("unfit") => Err("this version knows that it is not fit to serve".to_owned()),
            Some("panics") => panic!("this version panics in its self-test"),
            Some("endless") => loop {
                black_box(version);
            },
            Some("attribute") => attributes::set_str("x", "y").map_err(|error| error.to_string()),
            _ => Ok(()),
        }
    }
}

impl OnRequest for Stamped {
    fn on_request(&self, request: &mut Request<'_>) -> Decision {
        request.set_header(HEADER, black_box(VERSION)).unwrap();
        attributes::set_str("stamped.request", black_box(VERSION)).unwrap();
        Decision::Continue
    }
}

impl OnResponse for Stamped {
    fn on_response(&self, _: &Request<'_>, response: &mut Response<'_>) -> Decision {
        response.set_header(HEADER, black_box(VERSION)).unwrap();
        attributes::set_str("stamped.response", black_box(VERSION)).unwrap();
        Decision::Continue
    }
}

impl OnLog for Stamped {
    fn on_log(&self, _: &Request<'_>, _: Option<&Response<'_>>, _: &Summary<'_>) {
        attributes::set_str("stamped.log", black_box(VERSION)).unwrap();
    }
}

sluice_plugin::export!(Stamped: self_test, request, response, log);
