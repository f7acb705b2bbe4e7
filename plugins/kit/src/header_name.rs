//! Names of headers in configurations.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use std::borrow::Cow;
use std::ops::Deref;

/// The name of a header (RFC 9110, section 5.1), in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct HeaderName(String);

impl HeaderName {
    /// None where it is no name.
    pub fn new(name: &str) -> Option<HeaderName> {
        crate::cookie::is_name(name).then(|| HeaderName(name.to_ascii_lowercase()))
    }
}

impl Deref for HeaderName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for HeaderName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<HeaderName, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        HeaderName::new(&text).ok_or_else(|| D::Error::custom(format!("`{text}` is not the name of a header")))
    }
}

impl JsonSchema for HeaderName {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "HeaderName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "title": "header name", "type": "string", "pattern": crate::cookie::NAME })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_in_lower_case_and_what_is_none_is_refused() {
        let name: HeaderName = serde_json::from_str("\"X-Tenant\"").unwrap();
        assert_eq!(&*name, "x-tenant");
        for wrong in ["", "a b", "a:", "é"] {
            assert!(serde_json::from_value::<HeaderName>(wrong.into()).is_err(), "{wrong:?}");
        }
    }
}
