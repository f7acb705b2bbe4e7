//! The JSON Schema that a plugin carries, and configurations held against it before any guest runs.

use http::HeaderName;
use serde_json::Value;
use sha2::{Digest, Sha256};
use wasmparser::{Parser, Payload};

/// The custom section of a module that holds its schema, as JSON text.
pub const SECTION: &str = "sluice:config-schema";

/// Beside a property whose value is the name of a request header, or a list of names: `true` says that the plugin alone
/// writes those headers, so that a client's are taken out before the first plugin of a route runs. The property may be one
/// of the configuration, or of the objects in one of its lists.
const OWNED_BY_PROPERTY: &str = "x-sluice-owned-header";

/// At the top of a schema: the names of such headers that no property holds.
const OWNED: &str = "x-sluice-owned-headers";

/// Headers that a request is not what it was without: no plugin can own them.
const NEVER_OWNED: [&str; 4] = ["host", "content-length", "transfer-encoding", "connection"];

/// A module's schema can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error("the module can't be read: {0}")]
    Module(#[from] wasmparser::BinaryReaderError),
    #[error("its custom section `sluice:config-schema` is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("its configuration schema is not a JSON Schema: {0}")]
    Schema(String),
}

/// One thing that is wrong with a configuration. The message never repeats a value: it may be a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// `config.consumers[0].name`.
    pub field: String,
    pub message: String,
}

/// What a plugin's configuration must look like.
#[derive(Debug)]
pub struct ConfigSchema {
    text: Value,
    validator: jsonschema::Validator,
}

impl ConfigSchema {
    /// The schema that a module or component carries; none where it carries none.
    pub fn from_module(module: &[u8]) -> Result<Option<ConfigSchema>, SchemaError> {
        for payload in Parser::new(0).parse_all(module) {
            if let Payload::CustomSection(section) = payload?
                && section.name() == SECTION
            {
                return ConfigSchema::new(serde_json::from_slice(section.data())?).map(Some);
            }
        }
        Ok(None)
    }

    /// References to anything outside of the schema are an error: nothing is fetched.
    pub fn new(text: Value) -> Result<ConfigSchema, SchemaError> {
        let validator = jsonschema::validator_for(&text).map_err(|error| SchemaError::Schema(error.to_string()))?;
        Ok(ConfigSchema { text, validator })
    }

    /// What tells it from others: its SHA-256, in hex.
    pub fn sha256(&self) -> String {
        hex::encode(Sha256::digest(self.text.to_string()))
    }

    /// The schema itself.
    pub fn as_json(&self) -> &Value {
        &self.text
    }

    /// The request headers that the plugin with this configuration says are its own: a property that is not given counts
    /// with its default.
    ///
    /// # Errors
    /// [`ConfigError`], where one of them is no header's name, or can't be owned.
    pub fn owned_headers(&self, config: &Value) -> Result<Box<[HeaderName]>, ConfigError> {
        let mut owned = Vec::new();
        if let Some(names) = self.text.get(OWNED) {
            note("config", names, &mut owned)?;
        }
        for (property, schema) in properties(&self.text) {
            let Some(value) = config.get(property).or_else(|| schema.get("default")) else { continue };
            let field = format!("config.{property}");
            if is_owned(schema) {
                note(&field, value, &mut owned)?;
            }
            let Some(items) = schema.get("items") else { continue };
            let named = properties(self.behind(items)).filter(|(_, schema)| is_owned(schema));
            for (inner, schema) in named {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    if let Some(names) = item.get(inner).or_else(|| schema.get("default")) {
                        note(&format!("{field}[{index}].{inner}"), names, &mut owned)?;
                    }
                }
            }
        }
        Ok(owned.into())
    }

    /// What a schema refers to within this one, or itself. A reference behind a reference is not followed: it could lead
    /// round.
    fn behind<'s>(&'s self, schema: &'s Value) -> &'s Value {
        let reference = schema.get("$ref").and_then(Value::as_str).and_then(|reference| reference.strip_prefix('#'));
        reference.and_then(|pointer| self.text.pointer(pointer)).unwrap_or(schema)
    }

    /// Everything that is wrong with `config`.
    pub fn validate(&self, config: &Value) -> Vec<ConfigError> {
        let errors = self.validator.iter_errors(config);
        let mut errors: Vec<_> = errors
            .map(|error| ConfigError {
                field: field(&error.instance_path().to_string()),
                message: error.masked_with("the value").to_string(),
            })
            .collect();
        errors.sort_by(|one, other| one.field.cmp(&other.field));
        errors
    }
}

/// The properties of objects that a schema describes.
fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema.get("properties").and_then(Value::as_object).into_iter().flatten()
}

fn is_owned(property: &Value) -> bool {
    property.get(OWNED_BY_PROPERTY) == Some(&Value::Bool(true))
}

/// Notes the header that a string names, or those of a list of strings. Null names none.
fn note(field: &str, names: &Value, owned: &mut Vec<HeaderName>) -> Result<(), ConfigError> {
    match names {
        Value::String(name) => match name.parse::<HeaderName>() {
            Ok(name) if NEVER_OWNED.contains(&name.as_str()) => Err(ConfigError {
                field: field.to_owned(),
                message: format!("`{name}` can't be a plugin's own header"),
            }),
            Ok(name) => {
                owned.push(name);
                Ok(())
            }
            Err(_) => {
                Err(ConfigError { field: field.to_owned(), message: "it is not the name of a header".to_owned() })
            }
        },
        Value::Array(names) => names.iter().try_for_each(|name| note(field, name, owned)),
        _ => Ok(()),
    }
}

/// A JSON pointer (RFC 6901) as field paths are written elsewhere.
fn field(pointer: &str) -> String {
    let mut path = "config".to_owned();
    for part in pointer.split('/').skip(1) {
        let part = part.replace("~1", "/").replace("~0", "~");
        if part.bytes().all(|b| b.is_ascii_digit()) && !part.is_empty() {
            path.push_str(&format!("[{part}]"));
        } else {
            path.push('.');
            path.push_str(&part);
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema() -> ConfigSchema {
        ConfigSchema::new(json!({
            "type": "object",
            "properties": {
                "consumers": {
                    "type": "array",
                    "items": { "type": "object", "properties": { "key": { "type": "string", "minLength": 8 } } },
                },
            },
            "required": ["consumers"],
            "additionalProperties": false,
        }))
        .unwrap()
    }

    #[test]
    fn every_error_is_told_with_its_field() {
        let errors = schema().validate(&json!({ "consumers": [{ "key": 5 }], "more": 1 }));
        let fields: Vec<_> = errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(fields, ["config", "config.consumers[0].key"], "{errors:?}");
        assert!(errors[0].message.contains("more"), "{errors:?}");
        assert_eq!(schema().validate(&json!({ "consumers": [] })), []);
    }

    #[test]
    fn a_message_never_repeats_a_value() {
        let errors = schema().validate(&json!({ "consumers": [{ "key": "hunter2" }] }));
        assert_eq!(errors.len(), 1);
        assert!(!format!("{errors:?}").contains("hunter2"), "{errors:?}");
    }

    #[test]
    fn pointers_become_field_paths() {
        assert_eq!(field(""), "config");
        assert_eq!(field("/a/0/b~1c"), "config.a[0].b/c");
    }

    fn owned(config: serde_json::Value) -> Result<Vec<String>, ConfigError> {
        let schema = ConfigSchema::new(json!({
            "x-sluice-owned-headers": ["X-Always"],
            "properties": {
                "consumerHeader": { "type": ["string", "null"], "default": "x-consumer", "x-sluice-owned-header": true },
                "more": { "type": "array", "x-sluice-owned-header": true },
                "header": { "default": "x-api-key" },
            },
        }))
        .unwrap();
        schema.owned_headers(&config).map(|names| names.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_headers_that_a_plugin_owns_are_those_that_its_configuration_names() {
        assert_eq!(owned(json!({})).unwrap(), ["x-always", "x-consumer"]);
        assert_eq!(owned(json!({ "consumerHeader": "X-Who", "header": "x-key" })).unwrap(), ["x-always", "x-who"]);
        assert_eq!(
            owned(json!({ "consumerHeader": null, "more": ["x-a", "x-b"] })).unwrap(),
            ["x-always", "x-a", "x-b"]
        );
        for name in ["Host", "not a name", ""] {
            assert_eq!(owned(json!({ "consumerHeader": name })).unwrap_err().field, "config.consumerHeader", "{name}");
        }
    }

    fn owned_in_objects(config: serde_json::Value) -> Result<Vec<String>, ConfigError> {
        let rule = json!({
            "type": "object",
            "properties": {
                "claim": { "type": "string" },
                "header": { "type": ["string", "null"], "default": null, "x-sluice-owned-header": true },
            },
        });
        let schema = ConfigSchema::new(json!({
            "properties": {
                "claims": { "type": "array", "items": { "$ref": "#/$defs/Rule" } },
                "more": { "type": ["array", "null"], "items": rule.clone(), "default": [{ "header": "x-default" }] },
                "others": { "type": "array", "items": { "type": "object", "properties": { "header": {} } } },
            },
            "$defs": { "Rule": rule },
        }))
        .unwrap();
        schema.owned_headers(&config).map(|names| names.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_plugin_owns_the_headers_that_objects_in_its_lists_name() {
        assert_eq!(owned_in_objects(json!({})).unwrap(), ["x-default"]);
        let claims = json!([
            { "claim": "sub", "header": "X-User" }, { "claim": "email" }, { "header": null }, { "header": "x-roles" },
        ]);
        let config = json!({ "claims": claims, "more": null, "others": [{ "header": "x-other" }] });
        assert_eq!(owned_in_objects(config).unwrap(), ["x-user", "x-roles"]);
        let wrong = json!({ "claims": [{ "header": "x-a" }, { "header": "Host" }] });
        assert_eq!(owned_in_objects(wrong).unwrap_err().field, "config.claims[1].header");
    }

    #[test]
    fn a_schema_that_is_none_is_refused() {
        assert!(matches!(ConfigSchema::new(json!({ "type": "nonsense" })), Err(SchemaError::Schema(_))));
    }
}
