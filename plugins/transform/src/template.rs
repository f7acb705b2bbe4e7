//! Text with references: `${request.header.x-tenant:-none}`.

use sluice_plugin::{Request, Response, attributes};

/// A template, parsed when the plugin is configured.
#[derive(Debug, PartialEq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Debug, PartialEq)]
enum Part {
    Text(String),
    Reference { reference: Reference, default: Option<String> },
}

#[derive(Debug, PartialEq)]
enum Reference {
    Method,
    Scheme,
    Authority,
    Path,
    /// One segment of the path, counted from 1.
    Segment(usize),
    Query,
    RequestHeader(String),
    ResponseHeader(String),
    Status,
    Attribute(String),
    Property(String),
}

/// What references refer to.
pub(crate) struct Values<'a, 'b> {
    pub(crate) request: &'a Request<'b>,
    /// In the response phase.
    pub(crate) response: Option<&'a Response<'b>>,
}

impl Template {
    /// `$$` is a dollar sign.
    pub(crate) fn parse(text: &str) -> Result<Template, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            literal.push_str(before);
            if let Some(after) = after.strip_prefix('$') {
                literal.push('$');
                rest = after;
                continue;
            }
            let inner =
                after.strip_prefix('{').ok_or("a `$` begins a reference `${...}`; write `$$` for the sign itself")?;
            let (reference, after) = inner.split_once('}').ok_or("a reference `${` has no closing brace")?;
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            let (reference, default) = match reference.split_once(":-") {
                Some((reference, default)) => (reference, Some(default.to_owned())),
                None => (reference, None),
            };
            parts.push(Part::Reference { reference: Reference::parse(reference)?, default });
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Template(parts))
    }

    /// None where a reference has neither value nor default.
    pub(crate) fn render(&self, values: &Values<'_, '_>) -> Option<Vec<u8>> {
        let mut rendered = Vec::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => rendered.extend_from_slice(text.as_bytes()),
                Part::Reference { reference, default } => rendered.extend(resolve(reference, default, values)?),
            }
        }
        Some(rendered)
    }

    /// As [`Template::render`], what references bring encoded by `encode`.
    pub(crate) fn render_encoded(&self, values: &Values<'_, '_>, encode: fn(&[u8]) -> String) -> Option<String> {
        let mut rendered = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => rendered.push_str(text),
                Part::Reference { reference, default } => {
                    let value = resolve(reference, default, values)?;
                    // Already encoded, and more than one segment.
                    let encoded = matches!(reference, Reference::Path | Reference::Segment(_));
                    match String::from_utf8(value) {
                        Ok(text) if encoded => rendered.push_str(&text),
                        Ok(text) => rendered.push_str(&encode(text.as_bytes())),
                        Err(error) => rendered.push_str(&encode(error.as_bytes())),
                    }
                }
            }
        }
        Some(rendered)
    }
}

fn resolve(reference: &Reference, default: &Option<String>, values: &Values<'_, '_>) -> Option<Vec<u8>> {
    reference.resolve(values).or_else(|| Some(default.clone()?.into_bytes()))
}

impl Reference {
    fn parse(text: &str) -> Result<Reference, String> {
        let named = |prefix: &str| text.strip_prefix(prefix).filter(|name| !name.is_empty()).map(str::to_owned);
        Ok(match text {
            "request.method" => Reference::Method,
            "request.scheme" => Reference::Scheme,
            "request.authority" => Reference::Authority,
            "request.path" => Reference::Path,
            "request.query" => Reference::Query,
            "response.status" => Reference::Status,
            _ => {
                if let Some(name) = named("request.header.") {
                    Reference::RequestHeader(name)
                } else if let Some(name) = named("response.header.") {
                    Reference::ResponseHeader(name)
                } else if let Some(name) = named("attribute.") {
                    Reference::Attribute(name)
                } else if let Some(name) = named("property.") {
                    Reference::Property(name)
                } else if let Some(index) = named("request.segment.").and_then(|index| index.parse().ok()) {
                    Reference::Segment(index)
                } else {
                    return Err(format!("`${{{text}}}` refers to nothing that there is"));
                }
            }
        })
    }

    fn resolve(&self, values: &Values<'_, '_>) -> Option<Vec<u8>> {
        let request = values.request;
        match self {
            Reference::Method => Some(request.method().into()),
            Reference::Scheme => Some(request.scheme().into()),
            Reference::Authority => Some(request.authority().into()),
            Reference::Path => Some(request.path().into()),
            Reference::Segment(index) => {
                request.path().split('/').nth(*index).filter(|s| !s.is_empty()).map(|s| s.into())
            }
            Reference::Query => request.query().map(Into::into),
            Reference::RequestHeader(name) => request.header(name),
            Reference::ResponseHeader(name) => values.response?.header(name),
            Reference::Status => Some(values.response?.status().to_string().into()),
            Reference::Property(name) => request.property(name).map(Into::into),
            Reference::Attribute(name) => attributes::get::<String>(name)
                .or_else(|| Some(attributes::get::<i64>(name)?.to_string()))
                .or_else(|| Some(attributes::get::<bool>(name)?.to_string()))
                .map(Into::into),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_plugin::testing::Exchange;

    fn render(template: &str, exchange: &Exchange) -> Option<String> {
        let request = exchange.request();
        let rendered = Template::parse(template).unwrap().render(&Values { request: &request, response: None })?;
        Some(String::from_utf8(rendered).unwrap())
    }

    #[test]
    fn references_are_replaced_by_what_they_name() {
        let exchange = Exchange::get("/a/b?x=1")
            .header("x-t", "acme")
            .property("client.address", "203.0.113.7")
            .attribute("who", "ann".to_owned())
            .attribute("n", 5i64)
            .attribute("b", true);
        for (template, expected) in [
            ("plain", "plain"),
            ("<${request.header.x-t}>", "<acme>"),
            (
                "${request.method} ${request.scheme}://${request.authority}${request.path}?${request.query}",
                "GET https://example.com/a/b?x=1",
            ),
            ("${request.segment.1}-${request.segment.2}", "a-b"),
            ("${attribute.who}/${attribute.n}/${attribute.b}", "ann/5/true"),
            ("${property.client.address}", "203.0.113.7"),
            ("$$5 $${x}", "$5 ${x}"),
            ("${request.header.none:-no one}", "no one"),
            ("${request.header.none:-}", ""),
        ] {
            assert_eq!(render(template, &exchange).as_deref(), Some(expected), "{template}");
        }
    }

    #[test]
    fn a_reference_without_value_and_default_makes_no_text_at_all() {
        let exchange = Exchange::get("/");
        for template in ["a${request.header.none}b", "${attribute.none}", "${request.segment.1}", "${response.status}"]
        {
            assert_eq!(render(template, &exchange), None, "{template}");
        }
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for text in ["$", "a$b", "${request.method", "${nothing}", "${request.header.}", "${request.segment.x}", "${}"]
        {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }
}
