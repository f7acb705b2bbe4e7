//! Bodies: which types are read, and what is in them.

use crate::json::{self, Json};
use crate::media::{ContentType, Range, is_json};
use crate::parameters::{self, Field};
use crate::path::is_escaped;
use crate::place::{Document, child, escape};
use crate::problem::{ERRORS, Fault, Kind, Problem};
use crate::schema::{Check, Compiler, Found, Id, Schemas, cut};
use kit::query;
use serde_json::Value;
use sluice_plugin::Request;
use std::borrow::Cow;
use std::collections::BTreeMap;

const FORM: &str = "application/x-www-form-urlencoded";

/// Bytes of a field's name in a pointer.
const NAME: usize = 64;

#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) required: bool,
    /// The narrowest range first.
    kinds: Vec<(Range, How)>,
}

#[derive(Debug)]
pub(crate) enum How {
    /// As JSON; without a schema it only has to be some.
    Json(Option<Id>),
    Form(Form),
    /// As JSON where that is what it is.
    ByType(Option<Id>),
    /// It goes on unread.
    Unread,
}

#[derive(Debug)]
pub(crate) struct Form {
    schema: Id,
    /// What it describes; none for what can't be written in a form.
    fields: BTreeMap<String, Option<Field>>,
}

impl Content {
    /// JSON of these types.
    pub(crate) fn json(required: bool, types: Vec<Range>, schema: Id) -> Content {
        Content { required, kinds: types.into_iter().map(|range| (range, How::Json(Some(schema)))).collect() }
    }

    /// A Request Body Object.
    pub(crate) fn read(
        compiler: &mut Compiler<'_>,
        document: &Document<'_>,
        pointer: String,
    ) -> Result<Content, String> {
        let (pointer, value) = document.follow(pointer)?;
        let required = match value.get("required") {
            None => false,
            Some(Value::Bool(required)) => *required,
            Some(_) => return Err(document.error(&child(&pointer, "required"), "it is neither true nor false")),
        };
        let content = child(&pointer, "content");
        let Some(Value::Object(types)) = value.get("content") else {
            return Err(document.error(&content, "it is not an object of media types"));
        };
        let mut kinds: Vec<(Range, How)> = Vec::new();
        for name in types.keys() {
            let place = child(&content, name);
            let range = Range::parse(name).ok_or_else(|| document.error(&place, "it is not a media type"))?;
            if kinds.iter().any(|(other, _)| *other == range) {
                return Err(document.error(&place, "it is there twice, with other parameters"));
            }
            let how = How::read(compiler, document, &range, &place)?;
            kinds.push((range, how));
        }
        kinds.sort_by_key(|(range, _)| range.width());
        Ok(Content { required, kinds })
    }

    /// How a body of a request's type is read.
    pub(crate) fn how(&self, request: &Request<'_>) -> Result<&How, Problem> {
        let refusal = |message: &str| {
            let types: Vec<&str> = self.kinds.iter().map(|(range, _)| range.as_str()).collect();
            let faults = vec![Fault::of_parameter("header", "content-type", message)];
            Problem::new(Kind::MediaType, faults).hint("accept", types.join(", "))
        };
        let found = ContentType::of(request).map_err(refusal)?;
        let essence = found.as_ref().map(|found| found.essence.as_str()).unwrap_or_default();
        let how = self.kinds.iter().find(|(range, _)| range.has(essence));
        let (_, how) =
            how.ok_or_else(|| refusal(if found.is_none() { "it is missing" } else { "it is not read here" }))?;
        let how = match how {
            How::ByType(_) if !found.as_ref().is_some_and(ContentType::is_json) => &How::Unread,
            how => how,
        };
        if matches!(how, How::Unread) {
            return Ok(how);
        }
        if !found.is_none_or(|found| found.is_utf8()) {
            return Err(refusal("its charset is not utf-8"));
        }
        let encodings = request.header_values("content-encoding");
        if encodings.iter().any(|encoding| !encoding.trim_ascii().eq_ignore_ascii_case(b"identity")) {
            let faults = vec![Fault::of_parameter("header", "content-encoding", "encoded bodies are not read here")];
            return Err(Problem::new(Kind::MediaType, faults).hint("accept-encoding", "identity".to_owned()));
        }
        Ok(how)
    }
}

impl How {
    fn read(compiler: &mut Compiler<'_>, document: &Document<'_>, range: &Range, place: &str) -> Result<How, String> {
        let media = document.at(place);
        let schema = child(place, "schema");
        let has_schema = media.is_some_and(|media| media.get("schema").is_some());
        let id = has_schema.then(|| compiler.schema(&schema)).transpose()?;
        if range.as_str() != FORM {
            return Ok(match range.width() {
                0 if is_json(range.as_str()) => How::Json(id),
                0 => How::Unread,
                _ => How::ByType(id),
            });
        }
        let encodings = media.and_then(|media| media.get("encoding")).and_then(Value::as_object);
        for (name, encoding) in encodings.into_iter().flatten() {
            for field in ["contentType", "style", "explode", "allowReserved"] {
                if encoding.get(field).is_some() {
                    let at = child(&child(&child(place, "encoding"), name), field);
                    return Err(document.error(&at, "forms are read as browsers write them, and not otherwise"));
                }
            }
        }
        let Some(id) = id else { return Ok(How::Unread) };
        // An object in a form is written in as many ways as there are frameworks: where one is sent it stays a text, which
        // its schema refuses.
        let properties = compiler.schemas().properties(id).into_iter();
        let fields = properties
            .map(|(name, property)| (name.to_owned(), Field::of(compiler.schemas(), property).ok()))
            .collect();
        Ok(How::Form(Form { schema: id, fields }))
    }

    /// What is wrong with a body.
    pub(crate) fn check(&self, schemas: &Schemas, body: &[u8]) -> Result<(), Problem> {
        let found = match self {
            How::Unread => return Ok(()),
            How::Json(schema) | How::ByType(schema) => {
                let value = json::parse(body).map_err(|message| syntax(&message))?;
                match schema {
                    Some(schema) => Check::run(schemas, *schema, &value, body.len(), ERRORS),
                    None => return Ok(()),
                }
            }
            How::Form(form) => {
                let text = std::str::from_utf8(body).map_err(|_| syntax("it is not UTF-8"))?;
                form.check(schemas, text)?
            }
        };
        if found.is_empty() {
            return Ok(());
        }
        Err(Problem::new(Kind::Schema, found.into_iter().map(Fault::from).collect()))
    }
}

fn syntax(message: &str) -> Problem {
    Problem::new(Kind::Syntax, vec![Fault::of_body(message)])
}

impl Form {
    fn check(&self, schemas: &Schemas, text: &str) -> Result<Vec<Found>, Problem> {
        if !is_escaped(text) {
            return Err(syntax("it has a broken escape"));
        }
        if text.contains(';') {
            return Err(syntax(parameters::SPLIT));
        }
        let mut sent: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let [name, value] = [name, value].map(|part| String::from_utf8(query::decode(part)));
            let (Ok(name), Ok(value)) = (name, value) else { return Err(syntax("it is not UTF-8")) };
            sent.entry(name).or_default().push(value);
        }
        let mut found = Vec::new();
        let mut entries = Vec::new();
        for (name, texts) in sent {
            let described = self.fields.get(&name);
            let field = described.and_then(Option::as_ref);
            let other = match described {
                Some(_) => None,
                None => parameters::read_as(&name, self.fields.keys().map(String::as_str)),
            };
            let value = match (other, field, &texts[..]) {
                (Some(other), ..) => Err(parameters::escapes(other)),
                (_, Some(field), _) if field.is_list() => field.reading(schemas, &texts),
                (_, _, [_, _, ..]) => Err("it is there more than once".to_owned()),
                (_, Some(field), _) => field.reading(schemas, &texts),
                (_, None, _) => Ok(texts.into_iter().next().map(|text| Json::Text(Cow::Owned(text)))),
            };
            match value {
                Ok(value) => entries.extend(value.map(|value| (Cow::Owned(name), value))),
                Err(message) => found.push(Found { pointer: format!("/{}", escape(cut(&name, NAME))), message }),
            }
            if found.len() >= ERRORS {
                break;
            }
        }
        if !found.is_empty() {
            return Ok(found);
        }
        // The names of a map are there once.
        let value = Json::object(entries).unwrap_or(Json::Null);
        Ok(Check::run(schemas, self.schema, &value, text.len(), ERRORS))
    }
}
