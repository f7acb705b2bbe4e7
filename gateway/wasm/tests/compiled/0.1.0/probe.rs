//! A guest in all phases that does what the header `x-do` tells it, and remembers what it should not.

use schemars::JsonSchema;
use serde::Deserialize;
use sluice_plugin::{
    Body, Decision, OnLog, OnRequest, OnRequestBody, OnResponse, Plugin, ReadBody, Reply, Request, Response, Summary,
    attributes, log,
};
use std::hint::black_box;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Told in `x-probe`.
    name: String,
    /// What configure does: `refuse`, `trap`, `loop`, `allocate`.
    #[serde(default)]
    on_configure: Option<String>,
}

pub struct Probe {
    name: String,
    /// Survives a call on one instance: what a fresh one must never show.
    seen: Mutex<String>,
    calls: AtomicU32,
}

impl Plugin for Probe {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, String> {
        match config.on_configure.as_deref() {
            Some("refuse") => return Err("name: this one is refused".into()),
            Some("attribute") => drop(attributes::set_str("x", "y")),
            Some(other) => misbehave(other),
            None => {}
        }
        log::info("the probe is configured");
        Ok(Probe { name: config.name, seen: Mutex::default(), calls: AtomicU32::new(0) })
    }
}

#[allow(clippy::empty_loop)]
fn misbehave(how: &str) {
    match how {
        "loop" => loop {
            black_box(0);
        },
        "trap" => panic!("told to trap"),
        // Memory that is never given back.
        "grow" => std::mem::forget(black_box(vec![1u8; 4 << 20])),
        "recurse" => drop(black_box(recurse(1))),
        "allocate" => {
            let mut held: Vec<Vec<u8>> = Vec::new();
            loop {
                held.push(black_box(vec![1; 1 << 20]));
            }
        }
        _ => {}
    }
}

fn recurse(depth: u64) -> u64 {
    let here = black_box([depth; 64]);
    if depth == u64::MAX { 0 } else { recurse(depth + 1) + here[0] }
}

/// Busy for about so many microseconds on any machine that runs tests.
fn spin(rounds: u32) -> u64 {
    (0..u64::from(rounds) * 1_000).fold(1, |sum, n| black_box(sum ^ n))
}

impl OnRequest for Probe {
    fn on_request(&self, request: &mut Request<'_>) -> Decision {
        let call = self.calls.fetch_add(1, Relaxed) + 1;
        let what = request.header_str("x-do").unwrap_or_default();
        misbehave(&what);
        request.set_header("x-probe", &self.name).unwrap();
        request.set_header("x-calls", call.to_string()).unwrap();
        let mut seen = self.seen.lock().unwrap();
        request.set_header("x-seen", &*seen).unwrap();
        *seen = request.header_str("x-secret").unwrap_or_default();
        match what.as_str() {
            "deny" => Reply::new(403).header("x-why", "told to").text("no\n").into(),
            "bad-status" => Reply::new(99).into(),
            "read" => ReadBody::at_most(10).into(),
            "read-or-pass" => ReadBody::at_most(u64::MAX).or_pass().into(),
            "spin" => {
                request.set_header("x-spun", spin(20_000).to_string()).unwrap();
                Decision::Continue
            }
            "everything" => everything(request),
            _ => Decision::Continue,
        }
    }
}

/// Uses the whole contract of this phase, and tells what was refused.
fn everything(request: &mut Request<'_>) -> Decision {
    let line = format!(
        "{} {}://{}{}?{}",
        request.method(),
        request.scheme(),
        request.authority(),
        request.path(),
        request.query().unwrap_or_default()
    );
    request.set_header("x-line", line).unwrap();
    request.set_header("x-property", request.property("client.address").unwrap_or_default()).unwrap();
    request.set_header("x-count", request.headers().len().to_string()).unwrap();
    request.append_header("x-many", "3").unwrap();
    let many = request.header_values("X-Many").len();
    request.set_header("x-many-count", many.to_string()).unwrap();
    request.remove_header("x-gone").unwrap();
    let refused = [
        request.set_header("content-length", "1").is_err(),
        request.set_header("x-a", "a\r\nb: c").is_err(),
        request.set_path("no slash").is_err(),
        request.set_query(Some("a b")).is_err(),
        attributes::set_str("", "x").is_err(),
    ];
    request.set_header("x-refused", format!("{refused:?}")).unwrap();
    request.set_path("/changed").unwrap();
    request.set_query(None).unwrap();
    attributes::set_str("probe.text", "text").unwrap();
    attributes::set("probe.number", 5i64).unwrap();
    attributes::set("probe.flag", true).unwrap();
    Decision::Continue
}

impl OnRequestBody for Probe {
    fn on_request_body(&self, request: &mut Request<'_>, body: &mut Body<'_>) -> Decision {
        let text = String::from_utf8(body.to_vec()).unwrap();
        request.set_header("x-body", &text).unwrap();
        request.set_header("x-part", body.read(1, 2)).unwrap();
        match text.as_str() {
            "deny" => Reply::new(422).into(),
            "read" => ReadBody::at_most(1).into(),
            "large" => {
                let refused = body.replace(&vec![b'x'; 2 << 20]).is_err();
                request.set_header("x-refused", refused.to_string()).unwrap();
                Decision::Continue
            }
            _ => {
                body.replace(text.to_uppercase().as_bytes()).unwrap();
                Decision::Continue
            }
        }
    }
}

impl OnResponse for Probe {
    fn on_response(&self, request: &Request<'_>, response: &mut Response<'_>) -> Decision {
        misbehave(&response.header_str("x-do").unwrap_or_default());
        let text = attributes::get::<String>("probe.text").unwrap_or_default();
        response.set_header("x-attribute", text).unwrap();
        response.set_header("x-path", request.path()).unwrap();
        response.set_header("x-calls", self.calls.load(Relaxed).to_string()).unwrap();
        if response.status() == 500 {
            response.set_status(502).unwrap();
            assert!(response.set_status(101).is_err());
        }
        if response.status() == 418 {
            return Reply::new(503).text("no tea\n").into();
        }
        Decision::Continue
    }
}

impl OnLog for Probe {
    fn on_log(&self, request: &Request<'_>, response: Option<&Response<'_>>, summary: &Summary<'_>) {
        let status = response.map_or(0, Response::status);
        let told = format!(
            "{} {status} {:?} {} {} {:?}",
            request.path(),
            summary.duration(),
            summary.bytes_received(),
            summary.bytes_sent(),
            summary.reason(),
        );
        attributes::set_str("probe.log", &told).unwrap();
        misbehave(&request.header_str("x-do-log").unwrap_or_default());
    }
}

sluice_plugin::export!(Probe: request, request_body, response, log);
