//! From the text of a schema to its nodes.

use super::format::Format;
use super::{Bound, Id, Keyword, Properties, Schemas, Size, Types, pattern};
use crate::json::Json;
use crate::place::{Document, child};
use serde_json::{Map, Number, Value};
use std::collections::BTreeMap;

/// Schemas that are about the same value, one within the other. Who checks goes as deep, and a plugin has a stack of 32 KiB.
const NESTED: usize = 16;

/// What a schema is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Draft 4.
    Draft4,
    /// Drafts 6 and 7.
    Draft7,
    /// Drafts 2019-09 and 2020-12.
    Draft2020,
    /// The schemas of OpenAPI 3.0: draft 4 with `nullable`.
    OpenApi30,
    /// Those of OpenAPI 3.1: draft 2020-12.
    OpenApi31,
}

impl Dialect {
    /// By the `$schema` of a document.
    pub(crate) fn named(name: &str) -> Option<Dialect> {
        let name = name.trim_end_matches('#');
        let name = name.strip_prefix("https://").or_else(|| name.strip_prefix("http://"))?;
        match name {
            "json-schema.org/draft-04/schema" => Some(Dialect::Draft4),
            "json-schema.org/draft-06/schema" | "json-schema.org/draft-07/schema" => Some(Dialect::Draft7),
            "json-schema.org/draft/2019-09/schema" | "json-schema.org/draft/2020-12/schema" => Some(Dialect::Draft2020),
            _ => None,
        }
    }

    /// Whether what stands beside a `$ref` counts.
    fn has_siblings(self) -> bool {
        matches!(self, Dialect::Draft2020 | Dialect::OpenApi31)
    }

    /// Whether `exclusiveMinimum: true` says what `minimum` means.
    fn has_exclusive_flags(self) -> bool {
        matches!(self, Dialect::Draft4 | Dialect::OpenApi30)
    }

    /// Whether a property that is `readOnly` is no part of requests.
    fn is_openapi(self) -> bool {
        matches!(self, Dialect::OpenApi30 | Dialect::OpenApi31)
    }
}

/// References that lead to another schema by another way.
const REFUSED: [&str; 2] = ["$dynamicRef", "$recursiveRef"];

/// Compiles the schemas of one document, each of them once.
pub(crate) struct Compiler<'d> {
    document: &'d Document<'d>,
    dialect: Dialect,
    schemas: Schemas,
    /// By their places.
    known: BTreeMap<String, Id>,
    waiting: Vec<(Id, String)>,
}

impl<'d> Compiler<'d> {
    pub(crate) fn new(document: &'d Document<'d>, dialect: Dialect) -> Compiler<'d> {
        Compiler { document, dialect, schemas: Schemas::default(), known: BTreeMap::new(), waiting: Vec::new() }
    }

    /// The schema at a place, with all that it names.
    pub(crate) fn schema(&mut self, pointer: &str) -> Result<Id, String> {
        let id = self.place(pointer.to_owned());
        while let Some((id, pointer)) = self.waiting.pop() {
            let keywords = self.read(id, &pointer)?;
            if let Some(node) = self.schemas.nodes.get_mut(id.0) {
                *node = keywords;
            }
        }
        Ok(id)
    }

    pub(crate) fn schemas(&self) -> &Schemas {
        &self.schemas
    }

    /// All of them.
    pub(crate) fn finish(self) -> Result<Schemas, String> {
        let places: BTreeMap<Id, &String> = self.known.iter().map(|(place, id)| (*id, place)).collect();
        let mut heights = vec![Height::Unknown; self.schemas.nodes.len()];
        for start in 0..self.schemas.nodes.len() {
            if let Err(at) = measure(&self.schemas, Id(start), &mut heights) {
                let place = places.get(&at).map(|place| place.as_str()).unwrap_or_default();
                let message = format!(
                    "it is about one value {NESTED} times or more: it leads back to itself, or is nested too deeply"
                );
                return Err(self.document.error(place, &message));
            }
        }
        Ok(self.schemas)
    }

    fn place(&mut self, pointer: String) -> Id {
        if let Some(id) = self.known.get(&pointer) {
            return *id;
        }
        let id = Id(self.schemas.nodes.len());
        self.schemas.nodes.push(Vec::new());
        self.known.insert(pointer.clone(), id);
        self.waiting.push((id, pointer));
        id
    }

    fn read(&mut self, id: Id, pointer: &str) -> Result<Vec<Keyword>, String> {
        match self.document.at(pointer) {
            Some(Value::Bool(true)) => Ok(Vec::new()),
            Some(Value::Bool(false)) => Ok(vec![Keyword::Nothing]),
            Some(Value::Object(object)) => Reader { compiler: self, id, pointer, object, keywords: Vec::new() }.read(),
            _ => Err(self.document.error(pointer, "it is not a schema: an object, true or false")),
        }
    }
}

/// How many schemas about the same value lie within one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Height {
    Unknown,
    /// Being measured: who comes here again has gone in a circle.
    Open,
    Known(usize),
}

/// Those that are about the very value that the schema itself is about.
fn within(keywords: &[Keyword]) -> Vec<Id> {
    let mut ids = Vec::new();
    for keyword in keywords {
        match keyword {
            Keyword::Ref(id) | Keyword::Not(id) => ids.push(*id),
            Keyword::AllOf(all) | Keyword::AnyOf(all) | Keyword::OneOf(all) => ids.extend(all),
            Keyword::DependentSchemas(all) => ids.extend(all.iter().map(|(_, id)| *id)),
            Keyword::If { condition, then, otherwise } => {
                ids.extend([Some(*condition), *then, *otherwise].into_iter().flatten());
            }
            _ => {}
        }
    }
    ids
}

/// Without recursion: a document may be nested as it likes. The error is a schema that is too high.
fn measure(schemas: &Schemas, start: Id, heights: &mut [Height]) -> Result<(), Id> {
    let of = |heights: &[Height], id: Id| heights.get(id.0).copied().unwrap_or(Height::Known(0));
    let mut path = vec![start];
    while let Some(id) = path.last().copied() {
        let inner = within(schemas.keywords(id));
        match of(heights, id) {
            Height::Known(_) => {
                path.pop();
                continue;
            }
            Height::Unknown => {
                if let Some(height) = heights.get_mut(id.0) {
                    *height = Height::Open;
                }
                if inner.iter().any(|inner| of(heights, *inner) == Height::Open) {
                    return Err(id);
                }
                path.extend(inner.iter().filter(|inner| of(heights, **inner) == Height::Unknown));
            }
            Height::Open => {
                let mut highest = 0;
                for inner in inner {
                    match of(heights, inner) {
                        Height::Known(height) => highest = highest.max(height + 1),
                        _ => return Err(id),
                    }
                }
                if highest > NESTED {
                    return Err(id);
                }
                if let Some(height) = heights.get_mut(id.0) {
                    *height = Height::Known(highest);
                }
                path.pop();
            }
        }
    }
    Ok(())
}

/// One schema.
struct Reader<'c, 'd, 'p> {
    compiler: &'c mut Compiler<'d>,
    id: Id,
    pointer: &'p str,
    object: &'d Map<String, Value>,
    keywords: Vec<Keyword>,
}

impl<'d> Reader<'_, 'd, '_> {
    /// What is cheap comes first: most of what does not fit is found by it.
    fn read(mut self) -> Result<Vec<Keyword>, String> {
        if let Some(name) = REFUSED.into_iter().find(|name| self.object.contains_key(*name)) {
            return Err(self.error(name, "this keyword can't be checked here"));
        }
        if !self.pointer.is_empty() && self.object.contains_key("$id") {
            return Err(self.error("$id", "schemas within a document are named by their place alone"));
        }
        if let Some(reference) = self.object.get("$ref") {
            let target = self.compiler.document.target(self.pointer, reference)?;
            let id = self.compiler.place(target);
            self.keywords.push(Keyword::Ref(id));
            if !self.compiler.dialect.has_siblings() {
                return Ok(self.keywords);
            }
        }
        self.types()?;
        self.values()?;
        self.numbers()?;
        self.sizes()?;
        self.texts()?;
        self.lists()?;
        self.objects()?;
        self.combinations()?;
        self.unevaluated();
        Ok(self.keywords)
    }

    fn types(&mut self) -> Result<(), String> {
        let names: Vec<&Value> = match self.object.get("type") {
            None => return Ok(()),
            Some(Value::Array(names)) => names.iter().collect(),
            Some(name) => vec![name],
        };
        let mut types = Types(0);
        for name in names {
            let known = name.as_str().and_then(Types::named);
            types = types.and(known.ok_or_else(|| self.error("type", "it is not a type of JSON, or a list of such"))?);
        }
        if self.compiler.dialect == Dialect::OpenApi30 && self.object.get("nullable") == Some(&Value::Bool(true)) {
            types = types.and(Types::NULL);
        }
        self.keywords.push(Keyword::Type(types));
        Ok(())
    }

    fn values(&mut self) -> Result<(), String> {
        match self.object.get("enum") {
            None => {}
            Some(Value::Array(values)) => {
                self.keywords.push(Keyword::Enum(values.iter().map(Json::from).collect()));
            }
            Some(_) => return Err(self.error("enum", "it is not a list")),
        }
        if let Some(value) = self.object.get("const") {
            self.keywords.push(Keyword::Enum(vec![Json::from(value)]));
        }
        Ok(())
    }

    fn numbers(&mut self) -> Result<(), String> {
        for (name, exclusive, within, beyond) in [
            ("minimum", "exclusiveMinimum", Bound::Least, Bound::Above),
            ("maximum", "exclusiveMaximum", Bound::Most, Bound::Below),
        ] {
            let mut bound = within;
            match self.object.get(exclusive) {
                Some(Value::Bool(flag)) if self.compiler.dialect.has_exclusive_flags() => {
                    bound = if *flag { beyond } else { within };
                }
                Some(Value::Number(number)) => self.keywords.push(Keyword::Bound(beyond, number.clone())),
                Some(_) => return Err(self.error(exclusive, "it is not a number")),
                None => {}
            }
            if let Some(number) = self.number(name)? {
                self.keywords.push(Keyword::Bound(bound, number));
            }
        }
        if let Some(number) = self.number("multipleOf")? {
            if number.as_f64().is_none_or(|number| number <= 0.0) {
                return Err(self.error("multipleOf", "it is not above zero"));
            }
            self.keywords.push(Keyword::MultipleOf(number));
        }
        Ok(())
    }

    fn texts(&mut self) -> Result<(), String> {
        match self.object.get("pattern") {
            None => {}
            Some(Value::String(text)) => {
                let field = self.compiler.document.name(&child(self.pointer, "pattern"));
                self.keywords.push(Keyword::Pattern(pattern::compile(&field, text)?));
            }
            Some(_) => return Err(self.error("pattern", "it is not a text")),
        }
        match self.object.get("format") {
            None => {}
            Some(Value::String(name)) => self.keywords.extend(Format::named(name).map(Keyword::Format)),
            Some(_) => return Err(self.error("format", "it is not a text")),
        }
        Ok(())
    }

    fn sizes(&mut self) -> Result<(), String> {
        for (least, most, size) in [
            ("minLength", "maxLength", Size::Text),
            ("minItems", "maxItems", Size::List),
            ("minProperties", "maxProperties", Size::Object),
        ] {
            if let Some(count) = self.count(least)? {
                self.keywords.push(Keyword::AtLeast(size, count));
            }
            if let Some(count) = self.count(most)? {
                self.keywords.push(Keyword::AtMost(size, count));
            }
        }
        Ok(())
    }

    fn lists(&mut self) -> Result<(), String> {
        let mut behind = 0;
        let mut rest = "items";
        // A list of schemas: `prefixItems`, or `items` before draft 2020-12.
        let tuple = if self.object.get("items").is_some_and(Value::is_array) {
            rest = "additionalItems";
            Some("items")
        } else {
            self.object.contains_key("prefixItems").then_some("prefixItems")
        };
        if let Some(name) = tuple {
            let first = self.children(name)?;
            behind = first.len();
            self.keywords.push(Keyword::PrefixItems(first));
        }
        if self.object.contains_key(rest) {
            let id = self.child(rest);
            self.keywords.push(Keyword::Items(behind, id));
        }
        if self.object.contains_key("contains") {
            let least = self.count("minContains")?.unwrap_or(1);
            let most = self.count("maxContains")?;
            let schema = self.child("contains");
            self.keywords.push(Keyword::Contains { schema, least, most });
        }
        match self.object.get("uniqueItems") {
            None | Some(Value::Bool(false)) => {}
            Some(Value::Bool(true)) => self.keywords.push(Keyword::Unique),
            Some(_) => return Err(self.error("uniqueItems", "it is neither true nor false")),
        }
        Ok(())
    }

    fn objects(&mut self) -> Result<(), String> {
        if let Some(value) = self.object.get("required") {
            let mut names = self.names("required", value)?;
            names.retain(|name| !self.is_read_only(name));
            self.keywords.push(Keyword::Required(names));
        }
        if ["properties", "patternProperties", "additionalProperties"]
            .iter()
            .any(|name| self.object.contains_key(*name))
        {
            let mut properties =
                Properties { named: self.map("properties")?.into_iter().collect(), ..Default::default() };
            for (text, id) in self.map("patternProperties")? {
                let field = self.compiler.document.name(&child(self.pointer, "patternProperties"));
                properties.patterns.push((pattern::compile(&format!("{field}.{text}"), &text)?, id));
            }
            match self.object.get("additionalProperties") {
                None => {}
                Some(Value::Bool(true)) => properties.is_open = true,
                Some(_) => properties.rest = Some(self.child("additionalProperties")),
            }
            self.keywords.push(Keyword::Properties(properties));
        }
        if self.object.contains_key("propertyNames") {
            let id = self.child("propertyNames");
            self.keywords.push(Keyword::PropertyNames(id));
        }
        self.dependencies()
    }

    /// `dependentRequired` and `dependentSchemas`, which were one keyword before draft 2019-09.
    fn dependencies(&mut self) -> Result<(), String> {
        let mut required = Vec::new();
        let mut schemas = self.map("dependentSchemas")?;
        for keyword in ["dependentRequired", "dependencies"] {
            let entries = match self.object.get(keyword) {
                None => continue,
                Some(Value::Object(entries)) => entries,
                Some(_) => return Err(self.error(keyword, "it is not an object")),
            };
            for (name, value) in entries {
                if keyword == "dependencies" && !value.is_array() {
                    let place = child(&child(self.pointer, keyword), name);
                    schemas.push((name.clone(), self.compiler.place(place)));
                } else {
                    required.push((name.clone(), self.names(keyword, value)?));
                }
            }
        }
        if !required.is_empty() {
            self.keywords.push(Keyword::DependentRequired(required));
        }
        if !schemas.is_empty() {
            self.keywords.push(Keyword::DependentSchemas(schemas));
        }
        Ok(())
    }

    fn combinations(&mut self) -> Result<(), String> {
        for name in ["allOf", "anyOf", "oneOf"] {
            if self.object.contains_key(name) {
                let ids = self.children(name)?;
                self.keywords.push(match name {
                    "allOf" => Keyword::AllOf(ids),
                    "anyOf" => Keyword::AnyOf(ids),
                    _ => Keyword::OneOf(ids),
                });
            }
        }
        if self.object.contains_key("not") {
            let id = self.child("not");
            self.keywords.push(Keyword::Not(id));
        }
        if self.object.contains_key("if") {
            let condition = self.child("if");
            let [then, otherwise] =
                ["then", "else"].map(|name| self.object.contains_key(name).then(|| self.child(name)));
            self.keywords.push(Keyword::If { condition, then, otherwise });
        }
        Ok(())
    }

    /// After all others: they say what is left.
    fn unevaluated(&mut self) {
        for (name, what) in [("unevaluatedItems", Size::List), ("unevaluatedProperties", Size::Object)] {
            if self.object.contains_key(name) {
                let rest = self.child(name);
                self.keywords.push(Keyword::Unevaluated { what, owner: self.id, rest });
            }
        }
    }

    /// OpenAPI: such a property is required of answers alone.
    fn is_read_only(&self, name: &str) -> bool {
        let place = child(&child(self.pointer, "properties"), name);
        self.compiler.dialect.is_openapi()
            && self.compiler.document.at(&place).is_some_and(|property| {
                let behind = property.get("$ref").and_then(|_| self.compiler.document.follow(place).ok());
                [Some(property), behind.map(|(_, value)| value)]
                    .into_iter()
                    .flatten()
                    .any(|schema| schema.get("readOnly") == Some(&Value::Bool(true)))
            })
    }

    fn child(&mut self, name: &str) -> Id {
        self.compiler.place(child(self.pointer, name))
    }

    fn children(&mut self, name: &str) -> Result<Vec<Id>, String> {
        match self.object.get(name) {
            Some(Value::Array(values)) if !values.is_empty() => {
                let list = child(self.pointer, name);
                Ok((0..values.len()).map(|at| self.compiler.place(child(&list, &at.to_string()))).collect())
            }
            _ => Err(self.error(name, "it is not a list of schemas")),
        }
    }

    fn map(&mut self, name: &str) -> Result<Vec<(String, Id)>, String> {
        match self.object.get(name) {
            None => Ok(Vec::new()),
            Some(Value::Object(entries)) => {
                let map = child(self.pointer, name);
                Ok(entries.keys().map(|key| (key.clone(), self.compiler.place(child(&map, key)))).collect())
            }
            Some(_) => Err(self.error(name, "it is not an object of schemas")),
        }
    }

    fn number(&self, name: &str) -> Result<Option<Number>, String> {
        match self.object.get(name) {
            None => Ok(None),
            Some(Value::Number(number)) => Ok(Some(number.clone())),
            Some(_) => Err(self.error(name, "it is not a number")),
        }
    }

    fn count(&self, name: &str) -> Result<Option<u64>, String> {
        let Some(number) = self.number(name)? else { return Ok(None) };
        let whole = crate::json::whole(&number).and_then(|whole| u64::try_from(whole).ok());
        whole.map(Some).ok_or_else(|| self.error(name, "it is not a whole number from 0"))
    }

    fn names(&self, keyword: &str, value: &Value) -> Result<Vec<String>, String> {
        let names = value.as_array().and_then(|values| {
            values.iter().map(|value| value.as_str().map(str::to_owned)).collect::<Option<Vec<String>>>()
        });
        names.ok_or_else(|| self.error(keyword, "it is not a list of names"))
    }

    fn error(&self, keyword: &str, message: &str) -> String {
        self.compiler.document.error(&child(self.pointer, keyword), message)
    }
}
