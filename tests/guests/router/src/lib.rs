//! A guest that says where requests go: to the backend that `x-use` names, or by the rule for the path in `x-find`; with
//! `x-when: body` once it has the body, with `x-when: late` when the response is there. `x-said` tells what came of it.

use schemars::JsonSchema;
use serde::Deserialize;
use sluice_plugin::{
    Body, Decision, OnRequest, OnRequestBody, OnResponse, Plugin, ReadBody, Request, Response, attributes, routing,
};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {}

pub struct Router;

impl Plugin for Router {
    type Config = Config;

    fn configure(_: Config) -> Result<Self, String> {
        Ok(Router)
    }
}

fn said(outcome: Result<(), String>) -> String {
    outcome.err().unwrap_or_else(|| "done".to_owned())
}

/// The backend after the path, which would take it back.
fn ask(request: &mut Request<'_>) {
    let (name, path) = (request.header_str("x-use"), request.header_str("x-find"));
    let mut told = Vec::new();
    if let Some(path) = path {
        request.set_path(&path).unwrap();
        told.push(said(routing::find_route()));
    }
    if let Some(name) = name {
        told.push(said(routing::use_backend(&name)));
    }
    if request.header_str("x-trap").is_some() {
        panic!("told to");
    }
    request.append_header("x-said", told.join(", ")).unwrap();
}

impl OnRequest for Router {
    fn on_request(&self, request: &mut Request<'_>) -> Decision {
        request.append_header("x-ran", "router").unwrap();
        match request.header_str("x-when").as_deref() {
            Some("body") => return ReadBody::at_most(1024).into(),
            Some("late") => {}
            _ => ask(request),
        }
        Decision::Continue
    }
}

impl OnRequestBody for Router {
    fn on_request_body(&self, request: &mut Request<'_>, _: &mut Body<'_>) -> Decision {
        ask(request);
        Decision::Continue
    }
}

impl OnResponse for Router {
    fn on_response(&self, request: &Request<'_>, response: &mut Response<'_>) -> Decision {
        if request.header_str("x-when").as_deref() == Some("late") {
            let told = [said(routing::use_backend("two")), said(routing::find_route())];
            response.set_header("x-late", told.join(", ")).unwrap();
        }
        let ran = attributes::get::<String>("router.ran").unwrap_or_default();
        attributes::set_str("router.ran", &format!("{ran}r")).unwrap();
        Decision::Continue
    }
}

sluice_plugin::export!(Router: request, request_body, response);
