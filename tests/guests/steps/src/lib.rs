//! A guest that does what its configuration says, and leaves a mark in each phase: several uses of it show in which order
//! phases run, and what each sees of the body.

use schemars::JsonSchema;
use serde::Deserialize;
use sluice_plugin::{
    Body, Decision, OnLog, OnRequest, OnRequestBody, OnResponse, OnResponseBody, Plugin, ReadBody, Reply, Request,
    Response, Summary, attributes,
};
use std::collections::BTreeMap;

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// The mark.
    name: String,
    /// Asks for the body.
    #[serde(default)]
    read: Option<Read>,
    /// Asks for the response's.
    #[serde(default)]
    read_response: Option<Read>,
    /// What it does with the response's body: `trap`, `loop`, `answer`, `empty` (a status without a body).
    #[serde(default)]
    on_response_body: Option<String>,
    /// The path that goes on.
    #[serde(default)]
    path: Option<String>,
    /// Answers so.
    #[serde(default)]
    reply: Option<Answer>,
    /// The response's status.
    #[serde(default)]
    status: Option<u16>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Read {
    limit: u64,
    #[serde(default)]
    or_pass: bool,
    /// The body that goes on.
    #[serde(default)]
    replace: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Answer {
    status: u16,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

pub struct Steps(Config);

impl Plugin for Steps {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, String> {
        Ok(Steps(config))
    }
}

impl OnRequest for Steps {
    fn on_request(&self, request: &mut Request<'_>) -> Decision {
        let config = &self.0;
        request.append_header("x-steps", &config.name).unwrap();
        if let Some(path) = &config.path
            && let Err(refused) = request.set_path(path)
        {
            request.set_header("x-path-refused", refused.to_string()).unwrap();
        }
        if let Some(answer) = &config.reply {
            let reply = answer.headers.iter().fold(Reply::new(answer.status), |reply, (n, v)| reply.header(n, v));
            return reply.into();
        }
        match &config.read {
            Some(read) if read.or_pass => ReadBody::at_most(read.limit).or_pass().into(),
            Some(read) => ReadBody::at_most(read.limit).into(),
            None => Decision::Continue,
        }
    }
}

impl OnRequestBody for Steps {
    fn on_request_body(&self, request: &mut Request<'_>, body: &mut Body<'_>) -> Decision {
        let bytes = body.to_vec();
        request.append_header("x-read", format!("{}:{}:{}", self.0.name, bytes.len(), sum(&bytes))).unwrap();
        if let Some(replacement) = self.0.read.as_ref().and_then(|read| read.replace.as_ref()) {
            body.replace(replacement.as_bytes()).unwrap();
        }
        Decision::Continue
    }
}

impl OnResponse for Steps {
    fn on_response(&self, _: &Request<'_>, response: &mut Response<'_>) -> Decision {
        response.append_header("x-steps", &self.0.name).unwrap();
        if let Some(status) = self.0.status {
            response.set_status(status).unwrap();
        }
        match &self.0.read_response {
            Some(read) if read.or_pass => ReadBody::at_most(read.limit).or_pass().into(),
            Some(read) => ReadBody::at_most(read.limit).into(),
            None => Decision::Continue,
        }
    }
}

impl OnResponseBody for Steps {
    fn on_response_body(&self, _: &Request<'_>, response: &mut Response<'_>, body: &mut Body<'_>) -> Decision {
        let config = &self.0;
        let bytes = body.to_vec();
        response.append_header("x-read-response", format!("{}:{}:{}", config.name, bytes.len(), sum(&bytes))).unwrap();
        if let Some(length) = response.header_str("content-length") {
            response.append_header("x-told-length", format!("{}:{length}", config.name)).unwrap();
        }
        match config.on_response_body.as_deref() {
            Some("trap") => panic!("told to trap"),
            Some("loop") => loop {
                std::hint::black_box(0);
            },
            Some("answer") => return Reply::new(418).header("x-answered", &config.name).text("no tea\n").into(),
            Some("empty") => response.set_status(204).unwrap(),
            _ => {}
        }
        if let Some(replacement) = config.read_response.as_ref().and_then(|read| read.replace.as_ref()) {
            body.replace(replacement.as_bytes()).unwrap();
        }
        Decision::Continue
    }
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)))
}

impl OnLog for Steps {
    fn on_log(&self, _: &Request<'_>, response: Option<&Response<'_>>, summary: &Summary<'_>) {
        let status = response.map_or(0, Response::status);
        let told = format!("{status} {}", summary.bytes_received());
        attributes::set_str(&format!("log.{}", self.0.name), &told).unwrap();
    }
}

sluice_plugin::export!(Steps: request, request_body, response, response_body, log);
