//! JSON Schemas, compiled: a list of nodes that name each other by number, so that a schema of many uses is there once and
//! one that is about itself is no special case.
//!
//! The keywords of draft 2020-12 and of its forerunners down to draft 4, in which OpenAPI 3.0 is written, but for references
//! that depend on the way by which one has come (`$dynamicRef`): these are refused by name. What can be said about a schema
//! before a request comes is said when it is compiled; a check does no more than a bounded amount of work a byte.
//!
//! Why not the crate `jsonschema`, by which the gateway judges configurations: it asks for random keys of its hashes, which
//! for this target come from JavaScript, so that a module with it has imports that no component can have. It would also be
//! five megabytes, where this plugin is one and each use of a plugin is compiled by itself; and it would bring Unicode's tables
//! into the regular expressions of every plugin.

pub(crate) use check::{Check, Found, cut};
pub(crate) use compile::{Compiler, Dialect};

use crate::json::Json;
use format::Format;
use kit::pattern::text::Regex;
use serde_json::Number;
use std::collections::BTreeMap;

mod check;
mod compile;
mod format;
mod pattern;

/// A schema, by its place in [`Schemas`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id(usize);

#[derive(Debug, Default)]
pub(crate) struct Schemas {
    nodes: Vec<Vec<Keyword>>,
}

/// Types of JSON, as a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Types(u8);

impl Types {
    pub(crate) const NULL: Types = Types(1);
    pub(crate) const BOOLEAN: Types = Types(2);
    pub(crate) const INTEGER: Types = Types(4);
    pub(crate) const NUMBER: Types = Types(8);
    pub(crate) const STRING: Types = Types(16);
    pub(crate) const ARRAY: Types = Types(32);
    pub(crate) const OBJECT: Types = Types(64);

    const NAMES: [(&'static str, Types); 7] = [
        ("null", Types::NULL),
        ("boolean", Types::BOOLEAN),
        ("integer", Types::INTEGER),
        ("number", Types::NUMBER),
        ("string", Types::STRING),
        ("array", Types::ARRAY),
        ("object", Types::OBJECT),
    ];

    fn named(name: &str) -> Option<Types> {
        Types::NAMES.iter().find_map(|(known, types)| (*known == name).then_some(*types))
    }

    pub(crate) fn has(self, other: Types) -> bool {
        self.0 & other.0 != 0
    }

    fn and(self, other: Types) -> Types {
        Types(self.0 | other.0)
    }

    /// Every type that a value has: `1` is an integer and a number.
    fn of(value: &Json<'_>) -> Types {
        match value {
            Json::Null => Types::NULL,
            Json::Bool(_) => Types::BOOLEAN,
            Json::Number(number) if crate::json::is_whole(number) => Types::INTEGER.and(Types::NUMBER),
            Json::Number(_) => Types::NUMBER,
            Json::Text(_) => Types::STRING,
            Json::List(_) => Types::ARRAY,
            Json::Object(_) => Types::OBJECT,
        }
    }

    /// For a message: `an integer or null`.
    pub(crate) fn words(self) -> String {
        let words = Types::NAMES.iter().filter(|(_, types)| self.has(*types)).map(|(name, _)| match *name {
            "null" => "null".to_owned(),
            "integer" | "array" | "object" => format!("an {name}"),
            _ => format!("a {name}"),
        });
        words.collect::<Vec<_>>().join(" or ")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    Least,
    Above,
    Most,
    Below,
}

/// What is counted: characters, elements or properties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Text,
    List,
    Object,
}

#[derive(Debug)]
enum Keyword {
    /// The schema `false`.
    Nothing,
    Type(Types),
    /// One of these.
    Enum(Vec<Json<'static>>),
    Bound(Bound, Number),
    MultipleOf(Number),
    AtLeast(Size, u64),
    AtMost(Size, u64),
    Pattern(Regex),
    Format(Format),
    /// The first elements.
    PrefixItems(Vec<Id>),
    /// The elements behind so many.
    Items(usize, Id),
    Contains {
        schema: Id,
        least: u64,
        most: Option<u64>,
    },
    Unique,
    Required(Vec<String>),
    Properties(Properties),
    PropertyNames(Id),
    DependentRequired(Vec<(String, Vec<String>)>),
    DependentSchemas(Vec<(String, Id)>),
    Ref(Id),
    AllOf(Vec<Id>),
    AnyOf(Vec<Id>),
    OneOf(Vec<Id>),
    Not(Id),
    If {
        condition: Id,
        then: Option<Id>,
        otherwise: Option<Id>,
    },
    /// Of an object's properties, or a list's elements, that nothing else in the schema `owner` is about.
    Unevaluated {
        what: Size,
        owner: Id,
        rest: Id,
    },
}

#[derive(Debug, Default)]
struct Properties {
    named: BTreeMap<String, Id>,
    patterns: Vec<(Regex, Id)>,
    /// Of properties that are neither.
    rest: Option<Id>,
    /// Whether these may be anything, and that is said.
    is_open: bool,
}

/// How a text stands for a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One value of these types.
    One(Types),
    /// A list of such.
    List(Types),
}

/// Schemas within schemas that are looked into to see what shape a value has.
const DEPTH: usize = 8;

impl Schemas {
    fn keywords(&self, id: Id) -> &[Keyword] {
        self.nodes.get(id.0).map(Vec::as_slice).unwrap_or_default()
    }

    /// How a parameter or a form's field of this schema is written.
    pub(crate) fn shape(&self, id: Id) -> Result<Shape, &'static str> {
        let types = self.types(id, DEPTH).unwrap_or(Types::STRING);
        if types.has(Types::OBJECT) {
            return Err("objects can't be read here");
        }
        if !types.has(Types::ARRAY) {
            return Ok(Shape::One(types));
        }
        if Types(types.0 & !Types::NULL.0) != Types::ARRAY {
            return Err("a list or something else: it can't be told which one is written");
        }
        let items = self.items(id, DEPTH).and_then(|items| self.types(items, DEPTH)).unwrap_or(Types::STRING);
        if items.has(Types::OBJECT) || items.has(Types::ARRAY) {
            return Err("lists of objects or lists can't be read here");
        }
        Ok(Shape::List(items))
    }

    /// The types that a schema names, itself or through others; none where it leaves them open.
    fn types(&self, id: Id, depth: usize) -> Option<Types> {
        let depth = depth.checked_sub(1)?;
        let union = |ids: &[Id]| {
            let mut all = ids.iter().map(|id| self.types(*id, depth));
            let first = all.next()??;
            all.try_fold(first, |union, types| Some(union.and(types?)))
        };
        let keywords = self.keywords(id);
        let own = keywords.iter().find_map(|keyword| match keyword {
            Keyword::Type(types) => Some(*types),
            _ => None,
        });
        own.or_else(|| {
            keywords.iter().find_map(|keyword| match keyword {
                Keyword::Ref(id) => self.types(*id, depth),
                Keyword::AllOf(ids) => ids.iter().find_map(|id| self.types(*id, depth)),
                Keyword::AnyOf(ids) | Keyword::OneOf(ids) => union(ids),
                Keyword::Enum(values) => values.iter().map(Types::of).reduce(Types::and),
                _ => None,
            })
        })
    }

    fn items(&self, id: Id, depth: usize) -> Option<Id> {
        let depth = depth.checked_sub(1)?;
        self.keywords(id).iter().find_map(|keyword| match keyword {
            Keyword::Items(_, items) => Some(*items),
            Keyword::Ref(id) => self.items(*id, depth),
            Keyword::AllOf(ids) => ids.iter().find_map(|id| self.items(*id, depth)),
            _ => None,
        })
    }

    /// The properties that a schema of objects names.
    pub(crate) fn properties(&self, id: Id) -> Vec<(&str, Id)> {
        let mut found = Vec::new();
        self.collect(id, DEPTH, &mut found);
        found
    }

    fn collect<'s>(&'s self, id: Id, depth: usize, found: &mut Vec<(&'s str, Id)>) {
        let Some(depth) = depth.checked_sub(1) else { return };
        for keyword in self.keywords(id) {
            match keyword {
                Keyword::Properties(properties) => {
                    for (name, id) in &properties.named {
                        if !found.iter().any(|(known, _)| known == name) {
                            found.push((name, *id));
                        }
                    }
                }
                Keyword::Ref(id) => self.collect(*id, depth, found),
                Keyword::AllOf(ids) | Keyword::AnyOf(ids) | Keyword::OneOf(ids) => {
                    ids.iter().for_each(|id| self.collect(*id, depth, found));
                }
                _ => {}
            }
        }
    }
}
