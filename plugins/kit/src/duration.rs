//! Durations as Kubernetes' Gateway API writes them (GEP-2257).

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::time;

/// `250ms`, `10s`, `1h30m`: up to four numbers of at most five digits, each with its unit (h, m, s, ms).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(pub time::Duration);

const PATTERN: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";

/// Milliseconds of each unit, the longest first.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl Duration {
    pub const fn seconds(seconds: u64) -> Duration {
        Duration(time::Duration::from_secs(seconds))
    }

    pub fn parse(text: &str) -> Option<Duration> {
        let mut rest = text;
        let mut milliseconds = 0;
        for part in 0.. {
            if rest.is_empty() {
                return (part > 0).then(|| Duration(time::Duration::from_millis(milliseconds)));
            }
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, unit) = rest.split_at_checked(digits)?;
            let letters = unit.bytes().take_while(u8::is_ascii_alphabetic).count();
            let (unit, after) = unit.split_at_checked(letters)?;
            if part == 4 || digits > 5 {
                return None;
            }
            let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
            milliseconds += number.parse::<u64>().ok()? * factor;
            rest = after;
        }
        None
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        let message = || D::Error::custom(format!("`{text}` is not a duration: write 250ms, 10s or 1h30m"));
        Duration::parse(&text).ok_or_else(message)
    }
}

/// In the longest units that fit.
impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut rest = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let mut text = String::new();
        for (unit, factor) in UNITS {
            if rest >= factor {
                text.push_str(&format!("{}{unit}", rest / factor));
                rest %= factor;
            }
        }
        serializer.serialize_str(if text.is_empty() { "0s" } else { &text })
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "title": "duration", "type": "string", "pattern": PATTERN })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<u128> {
        Duration::parse(text).map(|duration| duration.0.as_millis())
    }

    #[test]
    fn durations_are_read_as_in_the_gateways_own_objects() {
        assert_eq!(parsed("250ms"), Some(250));
        assert_eq!(parsed("1h30m"), Some(5_400_000));
        assert_eq!(parsed("0s"), Some(0));
        for wrong in ["", "10", "s", "1d", "-1s", "1.5s", "100000s", "1h1m1s1ms1ms", "1s ", "1é"] {
            assert_eq!(parsed(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_duration_is_written_as_it_is_read() {
        for text in ["1h30m", "10s", "1m0s", "250ms"] {
            let read: Duration = serde_json::from_value(text.into()).unwrap();
            let written: Duration = serde_json::from_value(serde_json::to_value(read).unwrap()).unwrap();
            assert_eq!(read, written, "{text}");
        }
        assert!(serde_json::from_str::<Duration>("\"1d\"").unwrap_err().to_string().contains("1h30m"));
    }
}
