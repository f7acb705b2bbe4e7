//! Parameters in path, query, headers and cookies: read by their style, turned into what their schema is about, and held
//! against it.

use crate::json::Json;
use crate::path::{decode, is_escaped};
use crate::place::{Document, child};
use crate::problem::{ERRORS, Fault};
use crate::schema::{Check, Compiler, Id, Schemas, Shape, Types, cut};
use kit::{cookie, query};
use serde_json::{Number, Value};
use sluice_plugin::Request;
use std::borrow::Cow;
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Path,
    Query,
    Header,
    Cookie,
}

impl Place {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Place::Path => "path",
            Place::Query => "query",
            Place::Header => "header",
            Place::Cookie => "cookie",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Parameter {
    pub(crate) place: Place,
    pub(crate) name: String,
    required: bool,
    /// Whether each element of a list is a parameter of its own.
    explode: bool,
    allow_empty: bool,
    field: Field,
}

/// A text that stands for a value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    schema: Option<Id>,
    shape: Shape,
}

/// Headers that OpenAPI describes elsewhere: a parameter of such a name says nothing.
const NOT_PARAMETERS: [&str; 3] = ["accept", "content-type", "authorization"];

impl Parameter {
    /// None for one that is not to be looked at.
    pub(crate) fn read(
        compiler: &mut Compiler<'_>,
        document: &Document<'_>,
        pointer: String,
    ) -> Result<Option<Parameter>, String> {
        let (pointer, value) = document.follow(pointer)?;
        let error = |field: &str, message: &str| document.error(&child(&pointer, field), message);
        let flag = |field: &str| match value.get(field) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(error(field, "it is neither true nor false")),
        };
        let place = match value.get("in").and_then(Value::as_str) {
            Some("path") => Place::Path,
            Some("query") => Place::Query,
            Some("header") => Place::Header,
            Some("cookie") => Place::Cookie,
            _ => return Err(error("in", "it is none of path, query, header and cookie")),
        };
        let name = value.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| error("name", "it is missing"))?;
        if place == Place::Header {
            if !cookie::is_name(name) {
                return Err(error("name", "it is not the name of a header"));
            }
            if NOT_PARAMETERS.iter().any(|other| name.eq_ignore_ascii_case(other)) {
                return Ok(None);
            }
        }
        let required = flag("required")?.unwrap_or_default();
        if place == Place::Path && !required {
            return Err(error("required", "what is in the path is required"));
        }
        if value.get("content").is_some() {
            return Err(error("content", "parameters are described by `schema` here"));
        }
        let own = if matches!(place, Place::Query | Place::Cookie) { "form" } else { "simple" };
        if let Some(style) = value.get("style")
            && style != own
        {
            return Err(error("style", &format!("parameters of this place are read by the style `{own}` alone")));
        }
        let explode = flag("explode")?.unwrap_or(own == "form");
        let field = match value.get("schema") {
            Some(_) => Field::read(compiler, document, &child(&pointer, "schema"))?,
            None => Field { schema: None, shape: Shape::One(Types::STRING) },
        };
        if place == Place::Cookie && explode && matches!(field.shape, Shape::List(_)) {
            return Err(error("explode", "a list in a cookie is read with `explode: false` alone"));
        }
        let allow_empty = place == Place::Query && flag("allowEmptyValue")?.unwrap_or_default();
        Ok(Some(Parameter { place, name: name.to_owned(), required, explode, allow_empty, field }))
    }

    pub(crate) fn is_same(&self, other: &Parameter) -> bool {
        let same_name = match self.place {
            Place::Header => self.name.eq_ignore_ascii_case(&other.name),
            _ => self.name == other.name,
        };
        self.place == other.place && same_name
    }

    /// `values` are all that are sent under its name.
    fn check(&self, schemas: &Schemas, values: &[Cow<'_, str>], faults: &mut Vec<Fault>) {
        let mut tell = |message: &str| faults.push(Fault::of_parameter(self.place.name(), &self.name, message));
        if values.is_empty() {
            if self.required {
                tell("it is missing");
            }
            return;
        }
        if self.allow_empty && values.iter().all(|value| value.is_empty()) {
            return;
        }
        // Lists of headers may come in several lines; all else that is there twice is read in two ways.
        let is_list = matches!(self.field.shape, Shape::List(_));
        let repeats = is_list && (self.place == Place::Header || (self.place == Place::Query && self.explode));
        if values.len() > 1 && !repeats {
            return tell("it is there more than once");
        }
        let splits = is_list && !(self.place == Place::Query && self.explode);
        let mut texts = Vec::new();
        for value in values {
            if self.place == Place::Query && !is_escaped(value) {
                return tell("it has a broken escape");
            }
            // To some servers what is behind it is no part of the path that they look for.
            if self.place == Place::Path && value.contains(';') {
                return tell("it has a `;`, behind which some read something else: write `%3B`");
            }
            let parts: Vec<&str> = if splits { value.split(',').collect() } else { vec![value] };
            for part in parts {
                let bytes = match self.place {
                    Place::Query => query::decode(part),
                    Place::Path => decode(part),
                    Place::Header => part.trim().as_bytes().to_vec(),
                    Place::Cookie => part.as_bytes().to_vec(),
                };
                if self.place == Place::Path && bytes.iter().any(|byte| matches!(byte, b'/' | b'\\')) {
                    return tell("it has an encoded slash");
                }
                match String::from_utf8(bytes) {
                    Ok(text) => texts.push(text),
                    Err(_) => return tell("it is not UTF-8"),
                }
            }
        }
        if let Some(message) = self.field.check(schemas, &texts) {
            tell(&message);
        }
    }
}

impl Field {
    pub(crate) fn read(compiler: &mut Compiler<'_>, document: &Document<'_>, pointer: &str) -> Result<Field, String> {
        let schema = compiler.schema(pointer)?;
        Field::of(compiler.schemas(), schema).map_err(|message| document.error(pointer, message))
    }

    pub(crate) fn of(schemas: &Schemas, schema: Id) -> Result<Field, &'static str> {
        Ok(Field { schema: Some(schema), shape: schemas.shape(schema)? })
    }

    /// What texts stand for; more than one reading where types allow it. The error says what they are not.
    fn readings(&self, texts: &[String]) -> Result<Vec<Json<'static>>, String> {
        match self.shape {
            Shape::One(types) => {
                let readings = texts.first().map(|text| coerce(text, types)).unwrap_or_default();
                if readings.is_empty() { Err(format!("it has to be {}", types.words())) } else { Ok(readings) }
            }
            Shape::List(types) => {
                let elements = texts.iter().map(|text| coerce(text, types).into_iter().next());
                let list = elements.collect::<Option<Vec<_>>>();
                let list = list.ok_or_else(|| format!("each of its elements has to be {}", types.words()))?;
                Ok(vec![Json::List(list)])
            }
        }
    }

    pub(crate) fn is_list(&self) -> bool {
        matches!(self.shape, Shape::List(_))
    }

    /// What texts stand for: of several readings the first that fits, where one does.
    pub(crate) fn reading(&self, schemas: &Schemas, texts: &[String]) -> Result<Option<Json<'static>>, String> {
        let mut readings = self.readings(texts)?;
        let bytes = texts.iter().map(String::len).sum();
        let fits = |reading: &Json<'static>| {
            self.schema.is_none_or(|schema| Check::run(schemas, schema, reading, bytes, 1).is_empty())
        };
        let at = if readings.len() > 1 { readings.iter().position(fits).unwrap_or_default() } else { 0 };
        Ok((at < readings.len()).then(|| readings.swap_remove(at)))
    }

    /// What is wrong with a parameter, in one sentence.
    fn check(&self, schemas: &Schemas, texts: &[String]) -> Option<String> {
        let readings = match self.readings(texts) {
            Ok(readings) => readings,
            Err(message) => return Some(message),
        };
        let schema = self.schema?;
        let bytes = texts.iter().map(String::len).sum();
        let mut message = None;
        for reading in readings {
            let found = Check::run(schemas, schema, &reading, bytes, 1).into_iter().next()?;
            message = Some(match found.pointer.as_str() {
                "" => found.message,
                pointer => format!("{pointer}: {}", found.message),
            });
        }
        message
    }
}

/// The values of these types that a text is written like, the narrowest first.
fn coerce(text: &str, types: Types) -> Vec<Json<'static>> {
    let mut readings = Vec::new();
    if types.has(Types::BOOLEAN) {
        readings.extend(match text {
            "true" => Some(Json::Bool(true)),
            "false" => Some(Json::Bool(false)),
            _ => None,
        });
    }
    if types.has(Types::INTEGER) || types.has(Types::NUMBER) {
        readings.extend(number(text).map(Json::Number));
    }
    if types.has(Types::NULL) && text == "null" {
        readings.push(Json::Null);
    }
    if types.has(Types::STRING) {
        readings.push(Json::Text(Cow::Owned(text.to_owned())));
    }
    readings
}

/// As JSON writes it, and no longer than a number has to be.
fn number(text: &str) -> Option<Number> {
    const LONGEST: usize = 64;
    let starts = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    let ends = text.ends_with(|c: char| c.is_ascii_digit());
    if !starts || !ends || text.len() > LONGEST {
        return None;
    }
    serde_json::from_str(text).ok()
}

/// Holds the parameters of a request against those of its operation; `variables` are the path's.
pub(crate) fn check(
    schemas: &Schemas,
    parameters: &[Parameter],
    request: &Request<'_>,
    variables: &[(&str, &str)],
    knows_all: bool,
) -> Vec<Fault> {
    let mut faults = Vec::new();
    let asks_query = knows_all || parameters.iter().any(|parameter| parameter.place == Place::Query);
    let query = if asks_query { request.query().unwrap_or_default() } else { String::new() };
    let mut sent: BTreeMap<Vec<u8>, Vec<Cow<'_, str>>> = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let refusal = if pair.contains(';') {
            SPLIT
        } else if !is_escaped(name) {
            "its name has a broken escape"
        } else {
            sent.entry(query::decode(name)).or_default().push(Cow::Borrowed(value));
            continue;
        };
        faults.push(Fault::of_parameter("query", cut(name, NAME), refusal));
    }
    for parameter in parameters {
        if faults.len() >= ERRORS {
            return faults;
        }
        let name = parameter.name.as_str();
        let values = match parameter.place {
            Place::Path => {
                let values = variables.iter().filter(|(variable, _)| *variable == name);
                Ok(values.map(|(_, value)| Cow::Borrowed(*value)).collect())
            }
            Place::Query => Ok(sent.remove(name.as_bytes()).unwrap_or_default()),
            Place::Header => texts(request.header_values(name)),
            Place::Cookie => texts(request.header_values("cookie"))
                .map(|_| cookie::values(request, name).into_iter().map(Cow::Owned).collect()),
        };
        match values {
            Ok(values) => parameter.check(schemas, &values, &mut faults),
            Err(message) => faults.push(Fault::of_parameter(parameter.place.name(), name, message)),
        }
    }
    let described = || parameters.iter().filter(|parameter| parameter.place == Place::Query);
    for name in sent.keys() {
        if faults.len() >= ERRORS {
            return faults;
        }
        let name = String::from_utf8_lossy(name);
        let message = match read_as(&name, described().map(|parameter| parameter.name.as_str())) {
            Some(other) => escapes(other),
            None if knows_all => "it is not known here".to_owned(),
            None => continue,
        };
        faults.push(Fault::of_parameter("query", cut(&name, NAME), message));
    }
    faults
}

/// What is said of a `;` where `&` separates.
pub(crate) const SPLIT: &str = "it has a `;`, by which some split: write `%3B`";

/// The one of the names that are described which frameworks make of another one: `q` of `q[]`, `q[0]` and `q[a]`.
pub(crate) fn read_as<'n>(name: &str, mut described: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    if !name.contains('[') {
        return None;
    }
    let is_within = |known: &&str| name.strip_prefix(known.strip_suffix("[]").unwrap_or(known));
    described.find(|known| is_within(known).is_some_and(|rest| rest.starts_with('[')))
}

pub(crate) fn escapes(other: &str) -> String {
    format!("some read it as `{other}`, whose description it escapes")
}

fn texts(values: Vec<Vec<u8>>) -> Result<Vec<Cow<'static, str>>, &'static str> {
    let texts = values.into_iter().map(|value| String::from_utf8(value).map(Cow::Owned));
    texts.collect::<Result<_, _>>().map_err(|_| "it is not UTF-8")
}

/// Bytes of a name that a client chose, where it is told.
const NAME: usize = 64;
