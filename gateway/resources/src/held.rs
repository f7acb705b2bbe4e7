//! What an API server holds of an object beside what is read of it: its version and its status.

use serde_json::Value;

/// One object, as the API server last showed it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The version of the API that it was read by: `gateway.networking.k8s.io/v1`.
    pub api_version: String,
    pub uid: String,
    pub resource_version: String,
    pub generation: i64,
    /// Its status as JSON text; `null` where it has none.
    pub status: Box<str>,
}

impl Held {
    /// Reads what an answer of the API server says.
    pub fn of(object: &Value) -> Held {
        let meta = |field: &str| object.get("metadata").and_then(|meta| meta.get(field));
        let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
        Held {
            api_version: text(object.get("apiVersion")),
            uid: text(meta("uid")),
            resource_version: text(meta("resourceVersion")),
            generation: meta("generation").and_then(Value::as_i64).unwrap_or_default(),
            status: object.get("status").unwrap_or(&Value::Null).to_string().into(),
        }
    }
}

impl Held {
    /// The status as it was read.
    pub fn status(&self) -> Value {
        serde_json::from_str(&self.status).unwrap_or_default()
    }
}
