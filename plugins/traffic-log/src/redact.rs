//! Takes secrets out of what is logged.

use kit::pattern::bytes::Regex;
use kit::{HeaderName, query};
use serde_json::Value;

const REDACTED: &str = "[redacted]";

pub(crate) struct Redact {
    headers: Vec<HeaderName>,
    /// In lower case.
    fields: Vec<String>,
    patterns: Vec<Regex>,
}

impl Redact {
    pub(crate) fn new(headers: Vec<HeaderName>, fields: Vec<String>, patterns: Vec<Regex>) -> Redact {
        Redact { headers, fields: fields.into_iter().map(|field| field.to_ascii_lowercase()).collect(), patterns }
    }

    /// All values of a header, with commas between them.
    pub(crate) fn header(&self, name: &HeaderName, values: &[Vec<u8>]) -> String {
        if self.headers.contains(name) {
            return REDACTED.to_owned();
        }
        let texts: Vec<_> = values.iter().map(|value| String::from_utf8_lossy(value)).collect();
        self.text(&texts.join(", "))
    }

    /// A query, or a form.
    pub(crate) fn form(&self, text: &str) -> String {
        let pairs = text.split('&').map(|pair| match pair.split_once('=') {
            Some((name, _)) if self.is_secret(&String::from_utf8_lossy(&query::decode(name))) => {
                format!("{name}={REDACTED}")
            }
            _ => pair.to_owned(),
        });
        self.text(&pairs.collect::<Vec<_>>().join("&"))
    }

    /// A body by its type. Of one that says it is JSON and can't be read as such nothing is told but that.
    pub(crate) fn body(&self, content_type: &str, body: &[u8]) -> String {
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if essence == "application/json" || essence.ends_with("+json") {
            return match kit::json::parse(body) {
                Ok(mut value) => {
                    self.json(&mut value);
                    self.text(&value.to_string())
                }
                Err(_) => "[not readable as JSON]".to_owned(),
            };
        }
        let text = String::from_utf8_lossy(body);
        if essence == "application/x-www-form-urlencoded" { self.form(&text) } else { self.text(&text) }
    }

    fn json(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    if self.is_secret(name) {
                        *value = REDACTED.into();
                    } else {
                        self.json(value);
                    }
                }
            }
            Value::Array(values) => values.iter_mut().for_each(|value| self.json(value)),
            _ => {}
        }
    }

    fn is_secret(&self, field: &str) -> bool {
        let field = field.to_ascii_lowercase();
        self.fields.contains(&field)
    }

    fn text(&self, text: &str) -> String {
        let mut bytes = text.as_bytes().to_vec();
        for pattern in &self.patterns {
            bytes = pattern.replace_all(&bytes, REDACTED.as_bytes()).into_owned();
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}
