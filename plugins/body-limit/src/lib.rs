//! Refuses requests whose body is too large, by the type of its content.

use kit::Bytes;
use schemars::JsonSchema;
use serde::Deserialize;
use sluice_plugin::{Body, Decision, OnRequest, OnRequestBody, Plugin, ReadBody, Reply, Request};

/// How large bodies may be.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Of a body that no element of `types` is about.
    pub limit: Bytes,
    /// Other limits, by type of content. The first that fits holds.
    #[serde(default)]
    pub types: Vec<TypeLimit>,
    /// Whether a body whose length is not told in advance is answered 411, instead of being read to see how long it is.
    #[serde(default)]
    pub require_length: bool,
    /// Body of the answer 413, as plain text.
    #[serde(default = "default_message")]
    #[schemars(length(max = 4096))]
    pub message: String,
}

/// A limit for one type of content.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TypeLimit {
    /// `application/json`, or `image/*` for all images.
    #[schemars(regex(pattern = r"^[^/\s;*]+/([^/\s;*]+|\*)$"))]
    pub content_type: String,
    pub limit: Bytes,
}

fn default_message() -> String {
    "the body is too large\n".to_owned()
}

pub struct BodyLimit {
    limit: u64,
    types: Vec<(String, u64)>,
    require_length: bool,
    refusal: Reply,
}

impl Plugin for BodyLimit {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, String> {
        let mut types: Vec<(String, u64)> = Vec::new();
        for (index, TypeLimit { content_type, limit }) in config.types.into_iter().enumerate() {
            let content_type = content_type.to_ascii_lowercase();
            if types.iter().any(|(other, _)| *other == content_type) {
                return Err(format!("types[{index}].contentType: `{content_type}` is there twice"));
            }
            types.push((content_type, limit.0));
        }
        Ok(BodyLimit {
            limit: config.limit.0,
            types,
            require_length: config.require_length,
            refusal: Reply::new(413).text(&config.message),
        })
    }
}

impl BodyLimit {
    fn limit_of(&self, content_type: Option<&str>) -> u64 {
        let essence =
            content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let fits = |wanted: &str| match wanted.strip_suffix('*') {
            Some(beginning) => essence.starts_with(beginning),
            None => wanted == essence,
        };
        self.types.iter().find(|(wanted, _)| fits(wanted)).map_or(self.limit, |(_, limit)| *limit)
    }
}

impl OnRequest for BodyLimit {
    fn on_request(&self, request: &mut Request<'_>) -> Decision {
        let length = request.header_str("content-length");
        // HTTP/1 says so where a body comes (RFC 9112, section 6.3); HTTP/2 need not.
        let http1 = request.property("request.protocol").is_some_and(|protocol| protocol.starts_with("HTTP/1"));
        if length.is_none() && http1 && request.header("transfer-encoding").is_none() {
            return Decision::Continue;
        }
        let limit = self.limit_of(request.header_str("content-type").as_deref());
        match length.map(|length| length.trim().parse::<u64>()) {
            Some(Ok(length)) if length <= limit => Decision::Continue,
            Some(_) => self.refusal.clone().into(),
            None if self.require_length && !without_content(&request.method()) => {
                Reply::new(411).text("the length of the body is required\n").into()
            }
            None => ReadBody::at_most(limit).into(),
        }
    }
}

/// Methods whose requests have no content that means anything (RFC 9110, section 9.3).
fn without_content(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE")
}

impl OnRequestBody for BodyLimit {
    /// It was short enough to be read: it goes on.
    fn on_request_body(&self, _: &mut Request<'_>, _: &mut Body<'_>) -> Decision {
        Decision::Continue
    }
}

sluice_plugin::export!(BodyLimit: request, request_body);

#[cfg(test)]
mod tests;
