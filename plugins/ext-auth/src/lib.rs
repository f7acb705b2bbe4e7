//! Asks a service whether a request may pass: the HTTP half of Envoy's external authorization, with its meanings.
//!
//! 200 lets the request pass; 5xx and no answer at all are failures; any other answer is the client's.

use kit::{Bytes, Duration, HeaderName, address};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_plugin::fetch::{Answer, Fetch};
use sluice_plugin::{
    Body, Decision, OnRequest, OnRequestBody, OnResponse, Plugin, ReadBody, Reply, Request, Response, attributes, log,
};

/// The attribute that carries headers to the response.
const CARRIED: &str = "ext-auth.response-headers";

/// The attribute that says that a request passed because the service failed.
pub const FAILED_OPEN: &str = "ext-auth.failed-open";

/// Whom to ask, what to tell it, and what to do with its answer.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// The service, by its name in the Plugin's `capabilities.backends`.
    #[serde(default = "default_backend")]
    #[schemars(length(min = 1))]
    pub backend: String,
    /// What stands before the request's own path and query where the service is asked.
    #[serde(default)]
    #[schemars(regex(pattern = "^(/.*)?$"))]
    pub path_prefix: String,
    /// The path that is asked with GET, instead of the request's own method and path.
    #[serde(default)]
    #[schemars(regex(pattern = "^/"))]
    pub path: Option<String>,
    /// Request headers that the service is told, besides the host.
    #[serde(default = "default_request_headers")]
    pub request_headers: Vec<HeaderName>,
    /// Whether the service is told `X-Forwarded-For`, `-Proto`, `-Host`, `-Method` and `-Uri` of the request.
    #[serde(default = "default_true")]
    pub forwarded_headers: bool,
    /// Headers of the plugin's own for the service.
    #[serde(default)]
    pub add_headers: Vec<Field>,
    /// Bytes of the request's body that the service is told; a larger body is answered 413. `null`: none of it.
    #[serde(default)]
    pub body: Option<Bytes>,
    /// Longest time to wait for the answer.
    #[serde(default = "default_timeout")]
    pub timeout: Duration,
    /// Headers of the answer 200 that the backend is told. What a client sends under them is removed.
    #[serde(default)]
    #[schemars(extend("x-sluice-owned-header" = true))]
    pub backend_headers: Vec<HeaderName>,
    /// Headers of the answer 200 that the client is told, with the response.
    #[serde(default)]
    pub client_headers_on_success: Vec<HeaderName>,
    /// Headers of another answer that the client is told, besides `Location`, `WWW-Authenticate` and `Content-Type`; `null`: all.
    #[serde(default)]
    pub client_headers: Option<Vec<HeaderName>>,
    /// Whether requests pass while the service fails.
    #[serde(default)]
    pub fail_open: bool,
    /// Status of the answer while it fails, where they don't.
    #[serde(default = "default_status")]
    #[schemars(range(min = 400, max = 599))]
    pub status_on_failure: u16,
}

/// A header.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Field {
    pub name: HeaderName,
    pub value: String,
}

fn default_backend() -> String {
    "auth".to_owned()
}

fn default_request_headers() -> Vec<HeaderName> {
    HeaderName::new("authorization").into_iter().collect()
}

fn default_true() -> bool {
    true
}

fn default_timeout() -> Duration {
    Duration(std::time::Duration::from_millis(200))
}

fn default_status() -> u16 {
    403
}

/// A body that may be sent to a backend.
const BODY: u64 = 1 << 20;

/// Headers of an answer that are about its transfer, or that each server writes itself.
const NOT_PASSED_ON: [&str; 10] = [
    "connection",
    "content-length",
    "date",
    "keep-alive",
    "proxy-connection",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Headers of a refusal that the client is told anyway: the answer would mean nothing without.
const ALWAYS: [&str; 3] = ["content-type", "location", "www-authenticate"];

pub struct ExtAuth {
    config: Config,
}

impl Plugin for ExtAuth {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, String> {
        if config.path.is_some() && !config.path_prefix.is_empty() {
            return Err("pathPrefix: `path` is set, which stands instead of the request's own path".to_owned());
        }
        let paths = [("path", config.path.as_deref().unwrap_or("/")), ("pathPrefix", &config.path_prefix)];
        if let Some((field, _)) =
            paths.iter().find(|(_, path)| path.bytes().any(|b| !b.is_ascii_graphic() || b == b'#'))
        {
            return Err(format!("{field}: it is not percent-encoded"));
        }
        if config.body.is_some_and(|body| !(1..=BODY).contains(&body.0)) {
            return Err("body: it is 1 to 1Mi".to_owned());
        }
        if config.timeout.0.is_zero() {
            return Err("timeout: it is zero".to_owned());
        }
        for (index, field) in config.add_headers.iter().enumerate() {
            if !kit::is_header_value(&field.value) {
                return Err(format!("addHeaders[{index}].value: it can't be a header's value"));
            }
        }
        Ok(ExtAuth { config })
    }
}

impl ExtAuth {
    /// What the service is asked.
    fn question(&self, request: &Request<'_>, body: Option<Vec<u8>>) -> Fetch {
        let config = &self.config;
        let target = match request.query() {
            Some(query) => format!("{}?{query}", request.path()),
            None => request.path(),
        };
        let mut fetch = match &config.path {
            Some(path) => Fetch::get(path),
            None => Fetch::new(&request.method(), &format!("{}{target}", config.path_prefix)),
        };
        let authority = request.authority();
        if !authority.is_empty() {
            fetch = fetch.authority(&authority);
        }
        for name in &config.request_headers {
            for value in request.header_values(name) {
                fetch = fetch.header(name, value);
            }
        }
        if config.forwarded_headers {
            let client = address::of_client(request).map(|client| client.to_string()).unwrap_or_default();
            let told = [
                ("x-forwarded-for", client.as_str()),
                ("x-forwarded-proto", &request.scheme()),
                ("x-forwarded-host", &authority),
                ("x-forwarded-method", &request.method()),
                ("x-forwarded-uri", &target),
            ];
            for (name, value) in told {
                if !value.is_empty() && !config.request_headers.iter().any(|other| &**other == name) {
                    fetch = fetch.header(name, value);
                }
            }
        }
        for field in &config.add_headers {
            fetch = fetch.header(&field.name, &field.value);
        }
        if let Some(body) = body {
            if let Some(content_type) = request.header("content-type")
                && !config.request_headers.iter().any(|other| &**other == "content-type")
            {
                fetch = fetch.header("content-type", content_type);
            }
            fetch = fetch.body(body);
        }
        fetch.timeout(config.timeout.0)
    }

    fn ask(&self, request: &mut Request<'_>, body: Option<Vec<u8>>) -> Decision {
        let failure = match self.question(request, body).send(&self.config.backend) {
            Ok(answer) if answer.status() == 200 => match self.admit(request, &answer) {
                Ok(()) => return Decision::Continue,
                // Letting it pass could hide who it is.
                Err(reason) => reason,
            },
            Ok(answer) if answer.status() < 500 => return self.refuse(&answer).into(),
            Ok(answer) => format!("it answered {}", answer.status()),
            Err(error) => error.to_string(),
        };
        log::error(&format!("the service of authorization failed: {failure}"));
        if !self.config.fail_open {
            return Reply::new(self.config.status_on_failure).text("the request can't be authorized now\n").into();
        }
        if let Err(reason) = attributes::set(FAILED_OPEN, true) {
            log::warn(&format!("the access log does not say that nobody was asked: {reason}"));
        }
        Decision::Continue
    }

    fn admit(&self, request: &mut Request<'_>, answer: &Answer) -> Result<(), String> {
        for name in &self.config.backend_headers {
            for (index, value) in answer.header_values(name).into_iter().enumerate() {
                if index == 0 { request.set_header(name, value)? } else { request.append_header(name, value)? }
            }
        }
        let mut carried = Carried(Vec::new());
        for name in &self.config.client_headers_on_success {
            for value in answer.header_values(name) {
                let value = String::from_utf8(value).map_err(|_| format!("its header {} is no text", &**name))?;
                carried.0.push((name.to_string(), value));
            }
        }
        if !carried.0.is_empty() {
            let text = serde_json::to_string(&carried).map_err(|error| error.to_string())?;
            attributes::set_str(CARRIED, &text)?;
        }
        Ok(())
    }

    fn refuse(&self, answer: &Answer) -> Reply {
        let status = answer.status();
        // Nothing below 200 is an answer.
        let mut reply = Reply::new(if status < 200 { self.config.status_on_failure } else { status });
        for (name, value) in answer.headers() {
            let told = match &self.config.client_headers {
                None => true,
                Some(names) => ALWAYS.contains(&name.as_str()) || names.iter().any(|other| **other == *name),
            };
            if told && !NOT_PASSED_ON.contains(&name.as_str()) {
                reply = reply.header(&name, value);
            }
        }
        reply.body(answer.body())
    }
}

/// Headers on the way from the request to the response.
#[derive(Deserialize, Serialize)]
struct Carried(Vec<(String, String)>);

impl OnRequest for ExtAuth {
    fn on_request(&self, request: &mut Request<'_>) -> Decision {
        match self.config.body {
            Some(limit) => ReadBody::at_most(limit.0).into(),
            None => self.ask(request, None),
        }
    }
}

impl OnRequestBody for ExtAuth {
    fn on_request_body(&self, request: &mut Request<'_>, body: &mut Body<'_>) -> Decision {
        self.ask(request, Some(body.to_vec()).filter(|body| !body.is_empty()))
    }
}

impl OnResponse for ExtAuth {
    fn on_response(&self, _: &Request<'_>, response: &mut Response<'_>) -> Decision {
        let Some(text) = attributes::get::<String>(CARRIED) else { return Decision::Continue };
        // They may hold a session's cookie, and are none of the access log's.
        attributes::remove(CARRIED);
        for (name, value) in serde_json::from_str::<Carried>(&text).map(|carried| carried.0).unwrap_or_default() {
            if let Err(reason) = response.append_header(&name, value) {
                log::warn(&format!("the client is not told `{name}`: {reason}"));
            }
        }
        Decision::Continue
    }
}

sluice_plugin::export!(ExtAuth: request, request_body, response);

#[cfg(test)]
mod tests;
