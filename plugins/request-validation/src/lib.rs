//! Refuses requests that do not fit a JSON Schema or an OpenAPI description, before a backend sees them.
//!
//! `configure` reads the schema or the description; what is asked of a request is then there, compiled, in each instance. A
//! request is judged in two steps: its path, method, parameters and the type of its body before the body is read, and the
//! body itself. What can be read in more than one way is refused, so that the backend can't see another request than the
//! one that was judged.

use content::{Content, How};
use document::{Api, Operation, Options, Target};
use kit::Bytes;
use media::Range;
use place::Document;
use problem::{Fault, Kind, Problem};
use schema::{Compiler, Dialect, Schemas};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sluice_plugin::{Body, Decision, OnRequest, OnRequestBody, Plugin, ReadBody, Request, attributes, log, metrics};

mod content;
mod document;
mod json;
mod media;
mod parameters;
mod path;
mod place;
mod problem;
mod schema;

/// The attributes that say how a request was judged, what was wrong, and which operation it is.
pub const RESULT: &str = "request-validation.result";
pub const ERRORS: &str = "request-validation.errors";
pub const OPERATION: &str = "request-validation.operation";

/// The counter of requests that do not fit: `sluice_plugin_custom_request_validation_failures_total`.
const FAILURES: &str = "request_validation_failures";

/// What requests have to be like: either `body` or `openapi`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// One schema for the bodies of all requests.
    #[serde(default)]
    pub body: Option<BodyRule>,
    /// A description of the API, by whose operations requests are judged.
    #[serde(default)]
    pub openapi: Option<OpenApi>,
    /// The size of a body that is read; a longer one is answered 413. The Plugin's `limits.bodyBuffer` holds as well.
    #[serde(default = "default_limit")]
    pub limit: Bytes,
    /// What becomes of a request that does not fit.
    #[serde(default)]
    pub mode: Mode,
}

/// A schema, and what it is about.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BodyRule {
    /// A JSON Schema, of draft 2020-12 unless its `$schema` says otherwise. References within it are followed.
    pub schema: Map<String, Value>,
    /// The types that a body may be of, each of them JSON: `application/json`, `application/*+json`, `text/*`.
    #[serde(default = "default_types")]
    #[schemars(length(min = 1))]
    pub content_types: Vec<String>,
    /// Whether POST, PUT and PATCH have to bring a body.
    #[serde(default = "yes")]
    pub required: bool,
}

/// A description of an API.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OpenApi {
    /// The description itself, in OpenAPI 3.0 or 3.1. References within it are followed.
    pub document: Map<String, Value>,
    /// What stands before each of its paths; `null`: the paths of its `servers`.
    #[serde(default)]
    #[schemars(regex(pattern = "^/[^?#{}]*$"))]
    pub base_path: Option<String>,
    /// The one operation that requests are judged by; `null`: that of their path and method.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub operation_id: Option<String>,
    /// A request whose path is not in the description is answered 404, or goes on unjudged: so does `/pets/` where the
    /// description has `/pets`, though a backend may take the one for the other.
    #[serde(default)]
    pub unknown_paths: Unknown,
    /// Whether query parameters that are not in the description are refused.
    #[serde(default = "pass")]
    pub unknown_query: Unknown,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Unknown {
    #[default]
    Refuse,
    Pass,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Mode {
    /// It is answered.
    #[default]
    Enforce,
    /// It goes on, and is told by log, metric and access log: to see what would be refused.
    Report,
}

fn default_limit() -> Bytes {
    Bytes(1 << 20)
}

fn default_types() -> Vec<String> {
    ["application/json", "application/*+json"].map(str::to_owned).into()
}

fn yes() -> bool {
    true
}

fn pass() -> Unknown {
    Unknown::Pass
}

enum Rules {
    /// One for all requests.
    Body(Schemas, Operation),
    Api {
        api: Api,
        unknown_paths: Unknown,
        unknown_query: Unknown,
    },
}

pub struct RequestValidation {
    rules: Rules,
    limit: u64,
    mode: Mode,
}

impl Plugin for RequestValidation {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, String> {
        let rules = match (config.body, config.openapi) {
            (Some(rule), None) => rule.compile()?,
            (None, Some(openapi)) => openapi.compile()?,
            (Some(_), Some(_)) => {
                return Err("body and openapi are both set: one of them says what bodies are".to_owned());
            }
            (None, None) => {
                return Err("neither body nor openapi is set: nothing would be asked of a request".to_owned());
            }
        };
        Ok(RequestValidation { rules, limit: config.limit.0, mode: config.mode })
    }
}

impl BodyRule {
    fn compile(self) -> Result<Rules, String> {
        let dialect = match self.schema.get("$schema") {
            None => Dialect::Draft2020,
            Some(name) => name
                .as_str()
                .and_then(Dialect::named)
                .ok_or("body.schema.$schema: it is not that of draft 4, 6, 7, 2019-09 or 2020-12")?,
        };
        let mut types = Vec::new();
        for (index, text) in self.content_types.iter().enumerate() {
            let range = Range::parse(text);
            types.push(range.ok_or_else(|| format!("body.contentTypes[{index}]: `{text}` is not a media type"))?);
        }
        let root = Value::Object(self.schema);
        let document = Document { root: &root, field: "body.schema" };
        let mut compiler = Compiler::new(&document, dialect);
        let schema = compiler.schema("")?;
        let content = Some(Content::json(self.required, types, schema));
        Ok(Rules::Body(compiler.finish()?, Operation { name: String::new(), parameters: Vec::new(), content }))
    }
}

impl OpenApi {
    fn compile(self) -> Result<Rules, String> {
        let root = Value::Object(self.document);
        let document = Document { root: &root, field: "openapi.document" };
        let base_path = self.base_path.as_deref();
        if base_path.is_some_and(|path| !path.starts_with('/')) {
            return Err("openapi.basePath: it does not begin with a slash".to_owned());
        }
        let options = Options { base_path, operation_id: self.operation_id.as_deref() };
        let api = Api::read(&document, &options)?;
        Ok(Rules::Api { api, unknown_paths: self.unknown_paths, unknown_query: self.unknown_query })
    }
}

/// What is known of a body before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Announced {
    Nothing,
    /// One of so many bytes, where that is told.
    Something(Option<u64>),
    /// HTTP/2 need not say whether there is one.
    Unknown,
}

impl Announced {
    fn by(request: &Request<'_>) -> Announced {
        if let Some(length) = request.header_str("content-length") {
            return match length.trim().parse() {
                Ok(0) => Announced::Nothing,
                length => Announced::Something(length.ok()),
            };
        }
        if request.header("transfer-encoding").is_some() {
            return Announced::Something(None);
        }
        // RFC 9112, section 6.3.
        let http1 = request.property("request.protocol").is_some_and(|protocol| protocol.starts_with("HTTP/1"));
        if http1 { Announced::Nothing } else { Announced::Unknown }
    }
}

/// The operation of a request, and what stands for the variables of its path.
type Asked<'a> = (&'a Operation, Vec<(&'a str, &'a str)>);

/// What comes next for a request that fits so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// It is not one of those that are judged.
    Unjudged,
    Read,
    /// Only whether there is a body: what is in it is not judged.
    Count,
    Done,
}

impl RequestValidation {
    fn schemas(&self) -> &Schemas {
        match &self.rules {
            Rules::Body(schemas, _) => schemas,
            Rules::Api { api, .. } => &api.schemas,
        }
    }

    /// Everything but what is in the body.
    fn judge_head(&self, request: &Request<'_>) -> Result<Next, Problem> {
        let (method, path) = (request.method(), self.path(request));
        let Some((operation, variables)) = self.find(&method, &path)? else { return Ok(Next::Unjudged) };
        if let Rules::Api { unknown_query, .. } = self.rules {
            tell(OPERATION, &operation.name);
            let knows_all = unknown_query == Unknown::Refuse;
            let faults = parameters::check(self.schemas(), &operation.parameters, request, &variables, knows_all);
            if !faults.is_empty() {
                return Err(Problem::new(Kind::Parameters, faults));
            }
        }
        match Announced::by(request) {
            Announced::Nothing => self.without_body(operation, &method).map(|()| Next::Done),
            Announced::Unknown => match how(operation, request) {
                Ok(How::Unread) if operation.content.as_ref().is_some_and(|content| content.required) => {
                    Ok(Next::Count)
                }
                Ok(How::Unread) => Ok(Next::Done),
                // Without a body its type is nothing to refuse.
                _ => Ok(Next::Read),
            },
            Announced::Something(length) => match how(operation, request)? {
                How::Unread => Ok(Next::Done),
                _ if length.is_some_and(|length| length > self.limit) => Err(self.too_large()),
                _ => Ok(Next::Read),
            },
        }
    }

    /// The body, after the rest was judged.
    fn judge_body(&self, request: &Request<'_>, body: &Body<'_>) -> Result<(), Problem> {
        let (method, path) = (request.method(), self.path(request));
        let Some((operation, _)) = self.find(&method, &path)? else { return Ok(()) };
        if body.size() == 0 {
            return self.without_body(operation, &method);
        }
        match how(operation, request)? {
            How::Unread => Ok(()),
            _ if body.size() > self.limit => Err(self.too_large()),
            how => how.check(self.schemas(), &body.to_vec()),
        }
    }

    /// A single rule is about every path.
    fn path(&self, request: &Request<'_>) -> String {
        match &self.rules {
            Rules::Body(..) => String::new(),
            Rules::Api { .. } => request.path(),
        }
    }

    /// What is asked of a request; none where nothing is.
    fn find<'a>(&'a self, method: &str, path: &'a str) -> Result<Option<Asked<'a>>, Problem> {
        let (api, unknown_paths) = match &self.rules {
            Rules::Body(_, operation) => return Ok(Some((operation, Vec::new()))),
            Rules::Api { api, unknown_paths, .. } => (api, *unknown_paths),
        };
        match api.find(method, path) {
            Target::Operation(operation, variables) => Ok(Some((operation, variables))),
            Target::NoPath if unknown_paths == Unknown::Pass => Ok(None),
            Target::NoPath => Err(Problem::new(Kind::Path, Vec::new())),
            Target::NoMethod(methods) => Err(Problem::new(Kind::Method, Vec::new()).hint("allow", methods.join(", "))),
        }
    }

    fn without_body(&self, operation: &Operation, method: &str) -> Result<(), Problem> {
        let asks = operation.content.as_ref().is_some_and(|content| content.required);
        let spares = matches!(self.rules, Rules::Body(..)) && !matches!(method, "POST" | "PUT" | "PATCH");
        match asks && !spares {
            true => Err(Problem::new(Kind::Body, vec![Fault::of_body("it is missing")])),
            false => Ok(()),
        }
    }

    fn too_large(&self) -> Problem {
        let message = format!("it is larger than {} bytes", self.limit);
        Problem::new(Kind::TooLarge, vec![Fault::of_body(message)])
    }

    /// What is done about a request that does not fit.
    fn settle(&self, problem: &Problem) -> Decision {
        let (kind, summary) = (problem.kind.name(), problem.summary());
        tell(RESULT, kind);
        tell(ERRORS, &summary);
        if let Err(reason) = metrics::add(FAILURES, &[("kind", kind)], 1) {
            log::warn(&format!("a request that does not fit was not counted: {reason}"));
        }
        match self.mode {
            Mode::Enforce => problem.reply().into(),
            Mode::Report => {
                log::warn(&format!("a request would be refused ({kind}): {summary}"));
                Decision::Continue
            }
        }
    }
}

/// How the body of a request is to be read.
fn how<'a>(operation: &'a Operation, request: &Request<'_>) -> Result<&'a How, Problem> {
    match &operation.content {
        Some(content) => content.how(request),
        None => Err(Problem::new(Kind::Body, vec![Fault::of_body("there should be none")])),
    }
}

fn tell(attribute: &str, value: &str) {
    if let Err(reason) = attributes::set_str(attribute, value) {
        log::warn(&format!("{attribute} was not set: {reason}"));
    }
}

impl OnRequest for RequestValidation {
    fn on_request(&self, request: &mut Request<'_>) -> Decision {
        match self.judge_head(request) {
            Err(problem) => self.settle(&problem),
            Ok(Next::Unjudged) => Decision::Continue,
            Ok(Next::Done) => {
                tell(RESULT, "valid");
                Decision::Continue
            }
            Ok(Next::Count) => {
                tell(RESULT, "valid");
                ReadBody::at_most(self.limit).or_pass().into()
            }
            Ok(Next::Read) => match self.mode {
                Mode::Enforce => ReadBody::at_most(self.limit).into(),
                Mode::Report => {
                    // It stays so where the body is too long to be read.
                    tell(RESULT, "unread");
                    ReadBody::at_most(self.limit).or_pass().into()
                }
            },
        }
    }
}

impl OnRequestBody for RequestValidation {
    fn on_request_body(&self, request: &mut Request<'_>, body: &mut Body<'_>) -> Decision {
        match self.judge_body(request, body) {
            Err(problem) => self.settle(&problem),
            Ok(()) => {
                tell(RESULT, "valid");
                Decision::Continue
            }
        }
    }
}

sluice_plugin::export!(RequestValidation: request, request_body);

#[cfg(test)]
mod tests;
