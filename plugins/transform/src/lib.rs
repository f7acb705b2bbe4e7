//! Changes headers, path and query of requests, and headers of responses, by rules whose values are templates.

use schemars::JsonSchema;
use serde::Deserialize;
use sluice_plugin::{Decision, OnRequest, OnResponse, Plugin, Request, Response, log};
use std::collections::BTreeMap;
use template::{Template, Values};

mod path;
mod query;
mod template;

/// What to change. Values are templates: text with references like `${request.header.x-tenant}`; README.md lists them.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// On the way to the backend.
    pub request: RequestRules,
    /// On the way to the client.
    pub response: ResponseRules,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RequestRules {
    pub headers: HeaderRules,
    pub path: Option<PathRule>,
    pub query: QueryRules,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ResponseRules {
    pub headers: HeaderRules,
}

/// Applied in this order: remove, set, append.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HeaderRules {
    /// Names of headers that go.
    pub remove: Vec<String>,
    /// Replaces every value of a header.
    pub set: BTreeMap<String, String>,
    /// Adds a value to a header.
    pub append: BTreeMap<String, String>,
}

/// One way to change the path.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum PathRule {
    /// The whole path, a template. What references bring is percent-encoded, slashes too.
    Set(String),
    /// One prefix for another, at the border of a segment.
    ReplacePrefix(Prefix),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Prefix {
    /// `/api` matches `/api` and `/api/x`, not `/apis`.
    #[schemars(regex(pattern = "^/"))]
    pub from: String,
    /// A template.
    pub to: String,
}

/// Applied in this order: remove, set.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct QueryRules {
    /// Names of parameters that go.
    pub remove: Vec<String>,
    /// Parameters with their one value, a template; percent-encoded.
    pub set: BTreeMap<String, String>,
}

pub struct Transform {
    request: Fields,
    path: Option<Path>,
    query_remove: Vec<String>,
    query_set: Vec<(String, Template)>,
    response: Fields,
}

struct Fields {
    remove: Vec<String>,
    set: Vec<(String, Template)>,
    append: Vec<(String, Template)>,
}

enum Path {
    Set(Template),
    ReplacePrefix { from: String, to: Template },
}

impl Plugin for Transform {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, String> {
        let Config { request, response } = config;
        let path = match request.path {
            None => None,
            Some(PathRule::Set(text)) => Some(Path::Set(template("request.path.set", &text)?)),
            Some(PathRule::ReplacePrefix(Prefix { from, to })) => Some(Path::ReplacePrefix {
                from: from.trim_end_matches('/').to_owned(),
                to: template("request.path.replacePrefix.to", &to)?,
            }),
        };
        Ok(Transform {
            request: Fields::new("request.headers", request.headers)?,
            path,
            query_remove: request.query.remove,
            query_set: templates("request.query.set", request.query.set)?,
            response: Fields::new("response.headers", response.headers)?,
        })
    }
}

fn template(field: &str, text: &str) -> Result<Template, String> {
    Template::parse(text).map_err(|error| format!("{field}: {error}"))
}

fn templates(field: &str, rules: BTreeMap<String, String>) -> Result<Vec<(String, Template)>, String> {
    let parse = |(name, text): (String, String)| {
        let template = template(&format!("{field}.{name}"), &text)?;
        Ok((name, template))
    };
    rules.into_iter().map(parse).collect()
}

impl Fields {
    fn new(field: &str, rules: HeaderRules) -> Result<Fields, String> {
        Ok(Fields {
            remove: rules.remove,
            set: templates(&format!("{field}.set"), rules.set)?,
            append: templates(&format!("{field}.append"), rules.append)?,
        })
    }
}

/// A change that the gateway refuses is left out, and told: the other rules still hold.
fn report(what: &str, name: &str, result: Result<(), sluice_plugin::Refused>) {
    if let Err(reason) = result {
        log::warn(&format!("{what} `{name}` was left out: {reason}"));
    }
}

/// Requests and responses have the same methods and no trait in common.
macro_rules! apply {
    ($fields:expr, $message:expr, $values:expr) => {
        for name in &$fields.remove {
            report("removing", name, $message.remove_header(name));
        }
        // Templates see the message as it was before its rule.
        for (name, template) in &$fields.set {
            if let Some(value) = template.render(&$values($message)) {
                report("setting", name, $message.set_header(name, value));
            }
        }
        for (name, template) in &$fields.append {
            if let Some(value) = template.render(&$values($message)) {
                report("appending", name, $message.append_header(name, value));
            }
        }
    };
}

impl OnRequest for Transform {
    fn on_request(&self, request: &mut Request<'_>) -> Decision {
        apply!(self.request, request, |request| Values { request, response: None });
        self.change_query(request);
        self.change_path(request);
        Decision::Continue
    }
}

impl Transform {
    fn change_path(&self, request: &mut Request<'_>) {
        let values = Values { request, response: None };
        let path = match &self.path {
            None => None,
            Some(Path::Set(template)) => template.render_encoded(&values, path::encode),
            Some(Path::ReplacePrefix { from, to }) => path::after_prefix(&request.path(), from)
                .and_then(|rest| Some(path::join(&to.render_encoded(&values, path::encode)?, rest))),
        };
        if let Some(path) = path {
            report("path", &path, request.set_path(&path));
        }
    }

    fn change_query(&self, request: &mut Request<'_>) {
        if self.query_remove.is_empty() && self.query_set.is_empty() {
            return;
        }
        let values = Values { request, response: None };
        let set: Vec<_> = self
            .query_set
            .iter()
            .filter_map(|(name, template)| Some((name.as_str(), template.render(&values)?)))
            .collect();
        let query = request.query();
        let changed = query::change(query.as_deref(), &self.query_remove, &set);
        if changed != query {
            report("query", changed.as_deref().unwrap_or_default(), request.set_query(changed.as_deref()));
        }
    }
}

impl OnResponse for Transform {
    fn on_response(&self, request: &Request<'_>, response: &mut Response<'_>) -> Decision {
        apply!(self.response, response, |response| Values { request, response: Some(response) });
        Decision::Continue
    }
}

sluice_plugin::export!(Transform: request, response);

#[cfg(test)]
mod tests;
