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

/// Headers that frame or route a message, besides those that begin with `proxy-`, or carry what others have put together.
const NOT_FOR_CLAIMS: [&str; 10] = [
    "connection",
    "content-length",
    "cookie",
    "host",
    "keep-alive",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The rules of a configuration. The error names the field, and the way out.
pub fn check(rules: &[ClaimRule]) -> Result<(), String> {
    for (index, rule) in rules.iter().enumerate() {
        let field = format!("claims[{index}]");
        match &rule.header {
            None if rule.attribute.is_none() => {
                return Err(format!("{field}: it has neither header nor attribute: the claim would be told nobody"));
            }
            Some(header) if NOT_FOR_CLAIMS.contains(&&**header) || header.starts_with("proxy-") => {
                let why = "frames or routes the message, or carries cookies";
                return Err(format!(
                    "{field}.header: `{}` {why}: tell the claim in a header of its own, such as `x-user`",
                    &**header
                ));
            }
            _ => {}
        }
    }
    Ok(())
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

/// Whom a token is for (RFC 7519, section 4.1.3): texts alone. A number names nobody.
pub fn audiences(claims: &Value) -> Vec<&str> {
    match claims.get("aud") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
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
    fn an_audience_is_text() {
        let named = |aud: Value| audiences(&json!({ "aud": aud })).into_iter().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(named(json!("shop")), ["shop"]);
        assert_eq!(named(json!(["shop", 5, null, "other"])), ["shop", "other"]);
        for nobody in [json!(5), json!(true), json!({ "shop": "shop" }), json!([5, ["shop"]]), Value::Null] {
            assert!(named(nobody.clone()).is_empty(), "{nobody}");
        }
        assert!(audiences(&json!({})).is_empty());
    }

    #[test]
    fn a_claim_is_told_somebody_and_in_no_header_that_the_message_needs() {
        let checked = |rule: Value| check(&[serde_json::from_value(rule).unwrap()]);
        for rule in
            [json!({ "header": "X-User" }), json!({ "attribute": "user" }), json!({ "header": "authorization" })]
        {
            let mut rule = rule;
            rule["claim"] = json!("sub");
            assert_eq!(checked(rule.clone()), Ok(()), "{rule}");
        }
        assert!(checked(json!({ "claim": "sub" })).unwrap_err().starts_with("claims[0]: it has neither"));
        for header in [
            "Host",
            "connection",
            "Transfer-Encoding",
            "content-length",
            "te",
            "trailer",
            "upgrade",
            "keep-alive",
            "proxy-authorization",
            "Proxy-Connection",
            "cookie",
            "Set-Cookie",
        ] {
            let why = checked(json!({ "claim": "sub", "header": header })).unwrap_err();
            assert!(why.starts_with("claims[0].header: `") && why.contains("`x-user`"), "{why}");
        }
    }

    #[test]
    fn what_is_no_text_is_told_as_json_and_null_not_at_all() {
        let claim = json!(["a", null, 1, true, { "b": "c" }]);
        assert_eq!(values(Some(&claim)), ["a", "1", "true", r#"{"b":"c"}"#]);
        assert_eq!(values(Some(&json!(5))), ["5"]);
        assert!(values(Some(&Value::Null)).is_empty() && values(None).is_empty());
    }
}
