//! What a use's configuration is for a filter: bytes that it reads when it is configured.
//!
//! Envoy has a protobuf there, and gives the filter what is in it. A use's `config` may say it in the same words.

use serde_json::Value;

const TYPES: &str = "type.googleapis.com/google.protobuf.";

/// The bytes for a `config`, which is JSON. None, or an empty object, is no configuration. The error is a sentence about
/// the field that it names.
pub(super) fn configuration(config: &str) -> Result<Vec<u8>, (String, String)> {
    if matches!(config.trim(), "" | "null" | "{}") {
        return Ok(Vec::new());
    }
    let value: Value =
        serde_json::from_str(config).map_err(|error| ("config".to_owned(), format!("it is not JSON: {error}")))?;
    let Some(kind) = value.get("@type") else { return Ok(config.as_bytes().to_vec()) };
    let inner = value.get("value");
    match (kind.as_str().and_then(|kind| kind.strip_prefix(TYPES)), inner) {
        (Some("StringValue"), Some(Value::String(text))) => Ok(text.as_bytes().to_vec()),
        (Some("StringValue"), None) => Ok(Vec::new()),
        (Some("Struct"), Some(object @ Value::Object(_))) => Ok(object.to_string().into_bytes()),
        (Some("StringValue"), Some(_)) => {
            Err(("config.value".to_owned(), "a StringValue's value is a text".to_owned()))
        }
        (Some("Struct"), _) => Err(("config.value".to_owned(), "a Struct's value is an object".to_owned())),
        _ => {
            let message = format!(
                "only {TYPES}StringValue and {TYPES}Struct are known; without @type the filter gets the JSON itself"
            );
            Err(("config.@type".to_owned(), message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(config: &str) -> String {
        String::from_utf8(configuration(config).unwrap()).unwrap()
    }

    #[test]
    fn a_filter_gets_what_envoy_would_give_it() {
        assert_eq!(text("{}"), "");
        assert_eq!(text(r#"{"a":[1,"b"]}"#), r#"{"a":[1,"b"]}"#);
        let string = r#"{"@type":"type.googleapis.com/google.protobuf.StringValue","value":"plain: text"}"#;
        assert_eq!(text(string), "plain: text");
        let object = r#"{"@type":"type.googleapis.com/google.protobuf.Struct","value":{"a":1}}"#;
        assert_eq!(text(object), r#"{"a":1}"#);
    }

    #[test]
    fn another_type_is_refused_with_its_field() {
        let field = |config: &str| configuration(config).unwrap_err().0;
        assert_eq!(field(r#"{"@type":"type.googleapis.com/google.protobuf.Any"}"#), "config.@type");
        assert_eq!(field(r#"{"@type":5}"#), "config.@type");
        assert_eq!(field(r#"{"@type":"type.googleapis.com/google.protobuf.StringValue","value":5}"#), "config.value");
        assert_eq!(field("[1"), "config");
    }
}
