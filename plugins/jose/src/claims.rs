//! What tokens say: claims that are required, and claims that are told.

use kit::{Duration, HeaderName};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use sluice_plugin::{Refused, Request, attributes, clock};

/// A claim, and the values of which it has to have one.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Requirement {
    /// Its name, or a path of names: `realm_access.roles`.
    #[schemars(length(min = 1))]
    pub claim: String,
    /// Of a list one element has to be among them, of `scope` one word.
    #[schemars(length(min = 1))]
    pub any_of: Vec<String>,
}

impl Requirement {
    pub fn is_met_by(&self, claims: &Value) -> bool {
        let found = values(claim(claims, &self.claim));
        // RFC 8693, section 4.2: words.
        let words = found.iter().flat_map(|value| match self.claim.as_str() {
            "scope" => value.split(' ').collect::<Vec<_>>(),
            _ => vec![value.as_str()],
        });
        words.into_iter().any(|word| self.any_of.iter().any(|one| one == word))
    }
}

/// A claim, and where it is told. A list is told with commas between its elements.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimRule {
    /// Its name, or a path of names: `realm_access.roles`.
    #[schemars(length(min = 1))]
    pub claim: String,
    /// The request header for the backend. What a client sends under it is removed.
    #[serde(default)]
    #[schemars(extend("x-sluice-owned-header" = true))]
    pub header: Option<HeaderName>,
    /// The attribute for later plugins and the access log.
    #[serde(default)]
    #[schemars(length(min = 1, max = 128))]
    pub attribute: Option<String>,
}

/// The rules of a configuration. The error names the one that tells nobody.
pub fn check(rules: &[ClaimRule]) -> Result<(), String> {
    match rules.iter().position(|rule| rule.header.is_none() && rule.attribute.is_none()) {
        None => Ok(()),
        Some(index) => {
            Err(format!("claims[{index}]: it has neither header nor attribute: the claim would be told nobody"))
        }
    }
}

/// Takes out what a client sends in the place of claims: whoever reads these believes that they are the token's.
pub fn hide_sent(rules: &[ClaimRule], request: &mut Request<'_>) -> Result<(), Refused> {
    rules.iter().filter_map(|rule| rule.header.as_ref()).try_for_each(|header| request.remove_header(header))
}

pub fn tell(rules: &[ClaimRule], claims: &Value, request: &mut Request<'_>) -> Result<(), Refused> {
    for rule in rules {
        let values = values(claim(claims, &rule.claim));
        if values.is_empty() {
            continue;
        }
        let value = values.join(",");
        if let Some(header) = &rule.header {
            request.set_header(header, &value)?;
        }
        if let Some(attribute) = &rule.attribute {
            attributes::set_str(attribute, &value)?;
        }
    }
    Ok(())
}

/// A claim by its name, or by a path of names.
pub fn claim<'c>(claims: &'c Value, path: &str) -> Option<&'c Value> {
    // Names may hold dots: `https://app.example/roles`.
    claims.get(path).or_else(|| path.split('.').try_fold(claims, |value, name| value.get(name)))
}

/// A claim as texts: those of a list, or the one.
pub fn values(claim: Option<&Value>) -> Vec<String> {
    let text = |value: &Value| match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    match claim {
        Some(Value::Array(list)) => list.iter().filter_map(text).collect(),
        Some(value) => text(value).into_iter().collect(),
        None => Vec::new(),
    }
}

/// A time of a token, in seconds since 1970.
pub fn time(claims: &Value, name: &str) -> Result<Option<f64>, &'static str> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or("one of its times is no number"),
    }
}

/// Whether a token is valid now, by clocks that are at most `leeway` apart.
pub fn check_times(claims: &Value, leeway: Duration, may_be_eternal: bool) -> Result<(), &'static str> {
    let (now, leeway) = (clock::now().as_secs_f64(), leeway.0.as_secs_f64());
    match time(claims, "exp")? {
        Some(expiry) if now >= expiry + leeway => return Err("it has expired"),
        None if !may_be_eternal => return Err("it never expires"),
        _ => {}
    }
    match time(claims, "nbf")? {
        Some(begin) if now + leeway < begin => Err("it is not valid yet"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_claim_is_found_by_its_name_before_it_is_found_by_a_path() {
        let claims = json!({ "a": { "b": { "c": 1 } }, "https://app.example/roles": ["cook"], "a.b": 2 });
        assert_eq!(claim(&claims, "a.b"), Some(&json!(2)));
        assert_eq!(claim(&claims, "a.b.c"), Some(&json!(1)));
        assert_eq!(claim(&claims, "https://app.example/roles"), Some(&json!(["cook"])));
        assert_eq!((claim(&claims, "a.x"), claim(&claims, "a.b.c.d"), claim(&claims, "")), (None, None, None));
    }

    #[test]
    fn what_is_no_text_is_told_as_json_and_null_not_at_all() {
        let claim = json!(["a", null, 1, true, { "b": "c" }]);
        assert_eq!(values(Some(&claim)), ["a", "1", "true", r#"{"b":"c"}"#]);
        assert_eq!(values(Some(&json!(5))), ["5"]);
        assert!(values(Some(&Value::Null)).is_empty() && values(None).is_empty());
    }
}
