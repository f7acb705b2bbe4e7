//! Places in a document of the configuration: JSON Pointers (RFC 6901), references by them, and the names of fields that
//! messages have.

use serde_json::Value;

/// References one after the other, until one leads to an object.
const HOPS: usize = 16;

/// A schema or an API's description.
pub(crate) struct Document<'d> {
    pub(crate) root: &'d Value,
    /// Where in the configuration it stands.
    pub(crate) field: &'static str,
}

/// The place of a member of the object or list at `pointer`.
pub(crate) fn child(pointer: &str, name: &str) -> String {
    format!("{pointer}/{}", escape(name))
}

pub(crate) fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn unescape(token: &str) -> String {
    token.replace("~1", "/").replace("~0", "~")
}

impl<'d> Document<'d> {
    pub(crate) fn at(&self, pointer: &str) -> Option<&'d Value> {
        self.root.pointer(pointer)
    }

    /// As the configuration's author would name it: `openapi.document.paths./pets.get.parameters[0]`.
    pub(crate) fn name(&self, pointer: &str) -> String {
        let mut name = self.field.to_owned();
        for token in pointer.split('/').skip(1) {
            if !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_digit()) {
                name.push_str(&format!("[{token}]"));
            } else {
                name.push('.');
                name.push_str(&unescape(token));
            }
        }
        name
    }

    /// A message about a place.
    pub(crate) fn error(&self, pointer: &str, message: &str) -> String {
        format!("{}: {message}", self.name(pointer))
    }

    /// Where the `$ref` of the object at `pointer` leads.
    pub(crate) fn target(&self, pointer: &str, reference: &Value) -> Result<String, String> {
        let at = child(pointer, "$ref");
        let Some(reference) = reference.as_str() else { return Err(self.error(&at, "it is not a text")) };
        let Some(fragment) = reference.strip_prefix('#') else {
            let message = format!("`{reference}` is outside of the document, and nothing is fetched");
            return Err(self.error(&at, &message));
        };
        let decoded = String::from_utf8(kit::query::decode(&fragment.replace('+', "%2B"))).unwrap_or_default();
        if !decoded.is_empty() && !decoded.starts_with('/') {
            return Err(self.error(&at, &format!("`{reference}` is not a path within the document: `#/…`")));
        }
        // One place has one spelling.
        let target: String = decoded.split('/').skip(1).map(|token| format!("/{}", escape(&unescape(token)))).collect();
        match self.at(&target) {
            Some(_) => Ok(target),
            None => Err(self.error(&at, &format!("there is no `{reference}`"))),
        }
    }

    /// What stands at `pointer`, or where its references lead.
    pub(crate) fn follow(&self, pointer: String) -> Result<(String, &'d Value), String> {
        let mut at = pointer.clone();
        for _ in 0..HOPS {
            let Some(value) = self.at(&at) else { break };
            match value.get("$ref") {
                Some(reference) => at = self.target(&at, reference)?,
                None => return Ok((at, value)),
            }
        }
        Err(self.error(&pointer, "its references lead nowhere"))
    }
}
