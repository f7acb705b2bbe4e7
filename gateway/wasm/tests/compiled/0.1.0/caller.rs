//! A guest that calls the backends that the header `x-call` names, and tells in headers what came of it.

use schemars::JsonSchema;
use serde::Deserialize;
use sluice_plugin::fetch::{Answer, Fetch, FetchError};
use sluice_plugin::{Decision, OnLog, OnRequest, OnResponse, Plugin, Request, Response, Summary, attributes};
use std::hint::black_box;
use std::time::Duration;

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// What is called in configure, which must not.
    #[serde(default)]
    in_configure: Option<String>,
}

pub struct Caller;

impl Plugin for Caller {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, String> {
        if let Some(backend) = config.in_configure {
            drop(Fetch::get("/").send(&backend));
        }
        Ok(Caller)
    }
}

/// `METHOD backend target`, several by a comma.
fn calls(request: &Request<'_>, header: &str) -> Vec<Result<Answer, FetchError>> {
    let wishes = request.header_str(header).unwrap_or_default();
    let number = |name: &str| request.header_str(name).and_then(|text| text.parse::<u64>().ok());
    let call = |wish: &str| {
        let mut words = wish.split_whitespace();
        let (method, backend, target) = (words.next()?, words.next()?, words.next()?);
        let mut fetch = Fetch::new(method, target).header("x-from", "caller");
        if let Some(body) = request.header("x-send") {
            fetch = fetch.body(body);
        }
        if let Some(limit) = number("x-limit") {
            fetch = fetch.body_limit(limit);
        }
        if let Some(timeout) = number("x-timeout") {
            fetch = fetch.timeout(Duration::from_millis(timeout));
        }
        if let Some(authority) = request.header_str("x-authority") {
            fetch = fetch.authority(&authority);
        }
        if let Some(field) = request.header_str("x-field") {
            fetch = fetch.header(&field, "1");
        }
        Some(fetch.send(backend))
    };
    wishes.split(',').filter_map(call).collect()
}

fn told(called: &Result<Answer, FetchError>) -> String {
    match called {
        Ok(answer) => {
            let backend = answer.header_str("x-backend").unwrap_or_default();
            format!("{} {backend} {}", answer.status(), answer.body().len())
        }
        Err(error) => error.kind.clone(),
    }
}

impl OnRequest for Caller {
    fn on_request(&self, request: &mut Request<'_>) -> Decision {
        let called = calls(request, "x-call");
        let all: Vec<String> = called.iter().map(told).collect();
        request.set_header("x-called", all.join(", ")).unwrap();
        if let Some(Ok(answer)) = called.first() {
            let body = answer.body();
            request.set_header("x-body", &body[..body.len().min(1_000)]).unwrap();
        }
        if let Some(Err(error)) = called.first() {
            attributes::set_str("caller.failure", &error.message.chars().take(1_000).collect::<String>()).unwrap();
        }
        if request.header("x-spin").is_some() {
            loop {
                black_box(0);
            }
        }
        Decision::Continue
    }
}

impl OnResponse for Caller {
    fn on_response(&self, request: &Request<'_>, response: &mut Response<'_>) -> Decision {
        let all: Vec<String> = calls(request, "x-call-after").iter().map(told).collect();
        response.set_header("x-called-after", all.join(", ")).unwrap();
        Decision::Continue
    }
}

impl OnLog for Caller {
    fn on_log(&self, request: &Request<'_>, _: Option<&Response<'_>>, _: &Summary<'_>) {
        let all: Vec<String> = calls(request, "x-call-log").iter().map(told).collect();
        attributes::set_str("caller.log", &all.join(", ")).unwrap();
    }
}

sluice_plugin::export!(Caller: request, response, log);
