//! Sizes as Kubernetes writes them.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;

/// Bytes: `512`, `64Ki`, `10Mi`, `1Gi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

const PATTERN: &str = "^[0-9]{1,10}(Ki|Mi|Gi)?$";

const UNITS: [(&str, u64); 3] = [("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];

impl Bytes {
    pub fn parse(text: &str) -> Option<Bytes> {
        let unit = UNITS.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)));
        let (number, factor) = unit.unwrap_or((text, 1));
        if !(1..=10).contains(&number.len()) || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        number.parse::<u64>().ok().map(|number| Bytes(number * factor))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        Bytes::parse(&text).ok_or_else(|| D::Error::custom(format!("`{text}` is not a size: write 512, 64Ki or 10Mi")))
    }
}

/// In the largest unit that says it exactly.
impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let unit = UNITS.iter().find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor));
        let (unit, factor) = unit.copied().unwrap_or(("", 1));
        serializer.serialize_str(&format!("{}{unit}", self.0 / factor))
    }
}

impl JsonSchema for Bytes {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Bytes".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "title": "size", "type": "string", "pattern": PATTERN })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units_and_written_in_the_largest() {
        for (text, bytes, written) in
            [("512", 512, "512"), ("64Ki", 65_536, "64Ki"), ("1024Ki", 1 << 20, "1Mi"), ("0", 0, "0")]
        {
            assert_eq!(Bytes::parse(text), Some(Bytes(bytes)));
            assert_eq!(serde_json::to_value(Bytes(bytes)).unwrap(), written);
        }
        for wrong in ["", "Ki", "1K", "1 Mi", "-1", "1.5Mi", "12345678901"] {
            assert_eq!(Bytes::parse(wrong), None, "{wrong:?}");
        }
    }
}
