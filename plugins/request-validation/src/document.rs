//! An API's description (OpenAPI 3.0 and 3.1), read once: its paths, and what each operation asks of a request.

use crate::content::Content;
use crate::parameters::{Parameter, Place};
use crate::path::{Paths, Template};
use crate::place::{Document, child};
use crate::schema::{Compiler, Dialect, Schemas, cut};
use serde_json::{Map, Value};

/// What is asked of a request.
#[derive(Debug)]
pub(crate) struct Operation {
    /// Its `operationId`, or `GET /pets/{id}`.
    pub(crate) name: String,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) content: Option<Content>,
}

#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) schemas: Schemas,
    pub(crate) operations: Vec<Operation>,
    paths: Paths,
}

/// What a request's path and method lead to.
#[derive(Debug)]
pub(crate) enum Target<'a> {
    Operation(&'a Operation, Vec<(&'a str, &'a str)>),
    NoPath,
    /// The methods that there are.
    NoMethod(Vec<&'static str>),
}

/// The fields of a path that are operations.
const METHODS: [(&str, &str); 8] = [
    ("get", "GET"),
    ("put", "PUT"),
    ("post", "POST"),
    ("delete", "DELETE"),
    ("options", "OPTIONS"),
    ("head", "HEAD"),
    ("patch", "PATCH"),
    ("trace", "TRACE"),
];

/// Bytes of an operation's name, as an attribute has it.
const NAME: usize = 200;

/// How an API's description is to be read.
pub(crate) struct Options<'o> {
    pub(crate) base_path: Option<&'o str>,
    pub(crate) operation_id: Option<&'o str>,
}

impl Api {
    pub(crate) fn read(document: &Document<'_>, options: &Options<'_>) -> Result<Api, String> {
        let compiler = Compiler::new(document, dialect(document)?);
        let mut reader = Reader { document, options, compiler, operations: Vec::new() };
        let (mut templates, mut places) = (Vec::new(), Vec::new());
        for name in object(document, "/paths")?.keys().filter(|name| !name.starts_with("x-")) {
            let place = child("/paths", name);
            let mut template = Template::parse(name).map_err(|message| document.error(&place, message))?;
            reader.path(name, &place, &mut template)?;
            // Of one operation alone the other paths are not known.
            if !template.methods.is_empty() || options.operation_id.is_none() {
                templates.push(template);
                places.push(place);
            }
        }
        let bases = match options.base_path {
            Some(base) => vec![base.to_owned()],
            None => bases(document)?,
        };
        if let Some(id) = options.operation_id {
            match reader.operations.len() {
                1 => {}
                0 => return Err(format!("openapi.operationId: no operation is called `{id}`")),
                _ => return Err(format!("openapi.operationId: more than one operation is called `{id}`")),
            }
        }
        let paths = Paths::new(&bases, templates).map_err(|(one, other)| {
            let [one, other] = [one, other].map(|at| places.get(at).map(String::as_str).unwrap_or_default());
            document.error(other, &format!("no request can tell it from {}", document.name(one)))
        })?;
        Ok(Api { schemas: reader.compiler.finish()?, operations: reader.operations, paths })
    }

    pub(crate) fn find<'a>(&'a self, method: &str, path: &'a str) -> Target<'a> {
        let Some((template, variables)) = self.paths.find(path) else { return Target::NoPath };
        let of = |method: &str| template.methods.iter().find(|(name, _)| *name == method).map(|(_, at)| *at);
        // RFC 9110, section 9.3.2: HEAD is GET without the content.
        let at = of(method).or_else(|| (method == "HEAD").then(|| of("GET")).flatten());
        match at.and_then(|at| self.operations.get(at)) {
            Some(operation) => Target::Operation(operation, variables),
            None => {
                let mut methods: Vec<&'static str> = template.methods.iter().map(|(name, _)| *name).collect();
                if of("GET").is_some() && of("HEAD").is_none() {
                    methods.push("HEAD");
                }
                Target::NoMethod(methods)
            }
        }
    }
}

struct Reader<'r, 'd> {
    document: &'d Document<'d>,
    options: &'r Options<'r>,
    compiler: Compiler<'d>,
    operations: Vec<Operation>,
}

impl Reader<'_, '_> {
    /// The operations of a Path Item Object.
    fn path(&mut self, name: &str, place: &str, template: &mut Template) -> Result<(), String> {
        let document = self.document;
        let (place, item) = document.follow(place.to_owned())?;
        self.has_no_servers(&place, item)?;
        for (field, method) in METHODS {
            let Some(operation) = item.get(field) else { continue };
            let id = operation.get("operationId").and_then(Value::as_str);
            if self.options.operation_id.is_some_and(|wanted| id != Some(wanted)) {
                continue;
            }
            let at = child(&place, field);
            self.has_no_servers(&at, operation)?;
            let parameters = self.parameters(&[&place, &at], template)?;
            let content = match operation.get("requestBody") {
                Some(_) => Some(Content::read(&mut self.compiler, document, child(&at, "requestBody"))?),
                None => None,
            };
            let name = id.map_or_else(|| format!("{method} {name}"), str::to_owned);
            template.methods.push((method, self.operations.len()));
            self.operations.push(Operation { name: cut(&name, NAME).to_owned(), parameters, content });
        }
        Ok(())
    }

    /// Those of the path and of the operation, which replace them.
    fn parameters(&mut self, owners: &[&String], template: &Template) -> Result<Vec<Parameter>, String> {
        let document = self.document;
        let variables = template.variables();
        let mut parameters: Vec<Parameter> = Vec::new();
        for owner in owners {
            let list = child(owner, "parameters");
            let count = match document.at(&list) {
                None => continue,
                Some(Value::Array(values)) => values.len(),
                Some(_) => return Err(document.error(&list, "it is not a list")),
            };
            let mut own: Vec<Parameter> = Vec::new();
            for index in 0..count {
                let at = child(&list, &index.to_string());
                let Some(parameter) = Parameter::read(&mut self.compiler, document, at.clone())? else { continue };
                if parameter.place == Place::Path && !variables.contains(&parameter.name.as_str()) {
                    return Err(document.error(&at, &format!("the path has no `{{{}}}`", parameter.name)));
                }
                if own.iter().any(|other| other.is_same(&parameter)) {
                    return Err(document.error(&at, "it is there twice"));
                }
                own.push(parameter);
            }
            parameters.retain(|parameter| !own.iter().any(|other| other.is_same(parameter)));
            parameters.append(&mut own);
        }
        let is_described =
            |name: &str| parameters.iter().any(|parameter| parameter.place == Place::Path && parameter.name == name);
        match (variables.iter().find(|name| !is_described(name)), owners) {
            (Some(name), [.., operation]) => {
                Err(document.error(&child(operation, "parameters"), &format!("`{name}` of the path is not among them")))
            }
            _ => Ok(parameters),
        }
    }

    /// Paths of their own would be found elsewhere than under the document's.
    fn has_no_servers(&self, place: &str, value: &Value) -> Result<(), String> {
        let has = value.get("servers").is_some() && self.options.base_path.is_none();
        if has {
            let message = "only the document's own servers are read; or set openapi.basePath";
            return Err(self.document.error(&child(place, "servers"), message));
        }
        Ok(())
    }
}

fn dialect(document: &Document<'_>) -> Result<Dialect, String> {
    let version = document.at("/openapi").and_then(Value::as_str).unwrap_or_default();
    let is = |wanted: &str| version.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let dialect = match (is("3.0"), is("3.1")) {
        (true, _) => Dialect::OpenApi30,
        (_, true) => Dialect::OpenApi31,
        _ => return Err(document.error("/openapi", "it is neither 3.0 nor 3.1")),
    };
    match document.at("/jsonSchemaDialect").map(|name| name.as_str().unwrap_or_default()) {
        None
        | Some("https://spec.openapis.org/oas/3.1/dialect/base" | "https://json-schema.org/draft/2020-12/schema") => {
            Ok(dialect)
        }
        Some(_) => Err(document.error("/jsonSchemaDialect", "it is not that of OpenAPI 3.1")),
    }
}

fn object<'d>(document: &Document<'d>, pointer: &str) -> Result<&'d Map<String, Value>, String> {
    let value = document.at(pointer).and_then(Value::as_object).filter(|object| !object.is_empty());
    value.ok_or_else(|| document.error(pointer, "it is missing, or not an object that has something in it"))
}

/// The paths of the servers.
fn bases(document: &Document<'_>) -> Result<Vec<String>, String> {
    let servers = match document.at("/servers") {
        None => return Ok(vec![String::new()]),
        Some(Value::Array(servers)) if servers.is_empty() => return Ok(vec![String::new()]),
        Some(Value::Array(servers)) => servers,
        Some(_) => return Err(document.error("/servers", "it is not a list")),
    };
    let mut bases = Vec::new();
    for (index, server) in servers.iter().enumerate() {
        let place = format!("/servers/{index}");
        let mut url = server.get("url").and_then(Value::as_str).unwrap_or_default().to_owned();
        for (name, variable) in server.get("variables").and_then(Value::as_object).into_iter().flatten() {
            let default = variable.get("default").and_then(Value::as_str).unwrap_or_default();
            url = url.replace(&format!("{{{name}}}"), default);
        }
        let path = match url.split_once("://") {
            Some((_, rest)) => rest.find('/').and_then(|at| rest.get(at..)).unwrap_or_default(),
            None if url.starts_with('/') => url.as_str(),
            None => return Err(document.error(&child(&place, "url"), "it is relative: set openapi.basePath")),
        };
        let path = path.split(['?', '#']).next().unwrap_or_default();
        if path.contains(['{', '}']) {
            return Err(document.error(&child(&place, "url"), "it has a variable without a default"));
        }
        bases.push(path.to_owned());
    }
    Ok(bases)
}
