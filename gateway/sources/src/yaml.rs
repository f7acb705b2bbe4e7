//! YAML 1.2 (and so JSON) into a tree of JSON values that knows its lines. Bounded in every direction, because the
//! text may be anything: nesting, number of values, and what aliases may expand to. Duplicate keys are an error, as
//! they are to `kubectl`; merge keys (`<<`) are followed, as they are there.
//!
//! The parser is driven event by event with a stack of our own, so that no text can make it recurse.

use indexmap::IndexMap;
use indexmap::map::Entry;
use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};
use serde_json::{Number, Value};
use std::borrow::Cow;
use std::collections::HashMap;

/// Levels of nesting. Kubernetes objects have about 20.
const MAX_DEPTH: usize = 64;

/// Values of one file. At 16 bytes of text a value, this is a file of the largest size.
const MAX_VALUES: usize = 1 << 20;

/// Bytes of memory that the anchors and aliases of one file may copy.
const MAX_COPIED: usize = 8 << 20;

/// Text that cannot be read, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SyntaxError {
    /// Counted from 1.
    pub line: u32,
    pub message: String,
}

/// One value, and the line that it (or its key) stands on.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Counted from 1.
    pub line: u32,
    pub data: Data,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    Sequence(Vec<Node>),
    Mapping(IndexMap<String, Node>),
}

impl Node {
    /// The value alone.
    pub fn to_json(&self) -> Value {
        match &self.data {
            Data::Null => Value::Null,
            Data::Bool(b) => Value::Bool(*b),
            Data::Number(n) => Value::Number(n.clone()),
            Data::String(s) => Value::String(s.clone()),
            Data::Sequence(items) => Value::Array(items.iter().map(Node::to_json).collect()),
            Data::Mapping(fields) => {
                Value::Object(fields.iter().map(|(key, node)| (key.clone(), node.to_json())).collect())
            }
        }
    }

    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.data {
            Data::Mapping(fields) => fields.get(key),
            _ => None,
        }
    }

    /// The line of a field path such as `spec.rules[2].backendRefs[0].port`. Where the path leads nowhere (a field
    /// that is missing), it is the line of the nearest part that is there.
    pub fn line_of(&self, path: &str) -> u32 {
        let mut node = self;
        let mut rest = path;
        while let Some((next, left)) = node.step(rest) {
            node = next;
            rest = left;
        }
        node.line
    }

    /// One element of a field path. Keys may hold dots (`metadata.annotations.sluice.dev/policy`): the longest key
    /// that fits is meant.
    fn step<'p>(&self, path: &'p str) -> Option<(&Node, &'p str)> {
        let path = path.strip_prefix('.').unwrap_or(path);
        match &self.data {
            Data::Sequence(items) => {
                let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
                Some((items.get(index.parse::<usize>().ok()?)?, rest))
            }
            Data::Mapping(fields) => {
                if let Some((key, rest)) = path.strip_prefix('[').and_then(|p| p.split_once(']')) {
                    return Some((fields.get(key.trim_matches(['"', '\'']))?, rest));
                }
                let ends = |rest: &str| rest.is_empty() || rest.starts_with(['.', '[']);
                fields
                    .iter()
                    .filter_map(|(key, node)| Some((key.len(), node, path.strip_prefix(key.as_str())?)))
                    .filter(|(_, _, rest)| ends(rest))
                    .max_by_key(|(len, _, _)| *len)
                    .map(|(_, node, rest)| (node, rest))
            }
            _ => None,
        }
    }

    /// Bytes that a copy takes, about.
    fn weight(&self) -> usize {
        size_of::<Node>()
            + match &self.data {
                Data::String(s) => s.len(),
                Data::Sequence(items) => items.iter().map(Node::weight).sum(),
                Data::Mapping(fields) => {
                    fields.iter().map(|(k, n)| 2 * size_of::<String>() + k.len() + n.weight()).sum()
                }
                _ => 0,
            }
    }
}

/// All documents of a text; empty ones are left out.
pub fn load(text: &str) -> Result<Vec<Node>, SyntaxError> {
    let mut documents = Vec::new();
    each(text, |document| documents.push(document))?;
    Ok(documents)
}

/// The same one by one, so that no more than one is in memory: a tree is many times as large as its text. What was taken
/// before an error counts for nothing.
pub fn each(text: &str, mut take: impl FnMut(Node)) -> Result<(), SyntaxError> {
    let mut parser: Parser<'_, StrInput<'_>> = Parser::new_from_str(text);
    let mut builder = Builder::default();
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| syntax(text, &error))?;
        builder.event(event, span)?;
        if let Some(document) = builder.document.take() {
            take(document);
        }
    }
    Ok(())
}

fn syntax(text: &str, error: &ScanError) -> SyntaxError {
    // At the end of the text the parser may point behind it.
    let last = text.lines().count().max(1);
    SyntaxError { line: line(error.marker().line().min(last)), message: error.info().to_owned() }
}

fn line(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// What is open at the moment, innermost last.
#[derive(Default)]
struct Builder {
    /// One that has just become complete.
    document: Option<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    values: usize,
    copied: usize,
}

struct Open {
    line: u32,
    anchor: usize,
    collection: Collection,
}

enum Collection {
    Sequence(Vec<Node>),
    Mapping {
        fields: IndexMap<String, Node>,
        /// The key whose value comes next, with its line.
        key: Option<(Key, u32)>,
        /// Values of `<<`.
        merged: Vec<Node>,
    },
}

enum Key {
    Name(String),
    Merge,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), SyntaxError> {
        let at = line(span.start.line());
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.anchors.clear();
                Ok(())
            }
            Event::SequenceStart(anchor, _) => self.start(at, anchor, Collection::Sequence(Vec::new())),
            Event::MappingStart(anchor, _) => {
                self.start(at, anchor, Collection::Mapping { fields: IndexMap::new(), key: None, merged: Vec::new() })
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Scalar(text, style, anchor, tag) => self.scalar(at, text, style, anchor, tag.as_deref()),
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned().ok_or_else(|| SyntaxError {
                    line: at,
                    message: "an alias to a value that is not complete yet".into(),
                })?;
                self.copy(at, &node)?;
                self.value(Node { line: at, ..node }, 0)
            }
        }
    }

    fn start(&mut self, at: u32, anchor: usize, collection: Collection) -> Result<(), SyntaxError> {
        if self.awaits_key() {
            return Err(SyntaxError { line: at, message: "a key that is not text".into() });
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(SyntaxError { line: at, message: format!("nested more than {MAX_DEPTH} levels deep") });
        }
        self.open.push(Open { line: at, anchor, collection });
        Ok(())
    }

    fn end(&mut self) -> Result<(), SyntaxError> {
        let Some(Open { line, anchor, collection }) = self.open.pop() else { return Ok(()) };
        let data = match collection {
            Collection::Sequence(items) => Data::Sequence(items),
            Collection::Mapping { mut fields, merged, .. } => {
                for source in merged {
                    merge(&mut fields, source)?;
                }
                Data::Mapping(fields)
            }
        };
        self.value(Node { line, data }, anchor)
    }

    fn scalar(
        &mut self,
        at: u32,
        text: Cow<'_, str>,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
    ) -> Result<(), SyntaxError> {
        // The text of a key counts as it is written, so that `8080: web` has the key "8080".
        let data = if self.awaits_key() {
            if text == "<<" && style == ScalarStyle::Plain {
                self.set_key(Key::Merge, at);
                return Ok(());
            }
            Data::String(text.into_owned())
        } else {
            resolve(text, style, tag).map_err(|message| SyntaxError { line: at, message })?
        };
        self.value(Node { line: at, data }, anchor)
    }

    fn awaits_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { collection: Collection::Mapping { key: None, .. }, .. }))
    }

    fn set_key(&mut self, name: Key, at: u32) {
        if let Some(Open { collection: Collection::Mapping { key, .. }, .. }) = self.open.last_mut() {
            *key = Some((name, at));
        }
    }

    /// Puts a complete value where it belongs.
    fn value(&mut self, node: Node, anchor: usize) -> Result<(), SyntaxError> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(SyntaxError { line: node.line, message: format!("more than {MAX_VALUES} values in one file") });
        }
        if anchor > 0 {
            self.copy(node.line, &node)?;
            self.anchors.insert(anchor, node.clone());
        }
        if self.awaits_key() {
            let Data::String(name) = node.data else {
                return Err(SyntaxError { line: node.line, message: "a key that is not text".into() });
            };
            self.set_key(Key::Name(name), node.line);
            return Ok(());
        }
        match self.open.last_mut().map(|open| &mut open.collection) {
            None => {
                if node.data != Data::Null {
                    self.document = Some(node);
                }
            }
            Some(Collection::Sequence(items)) => items.push(node),
            Some(Collection::Mapping { fields, key, merged }) => match key.take() {
                None => {}
                Some((Key::Merge, line)) => merged.push(Node { line, ..node }),
                Some((Key::Name(name), line)) => match fields.entry(name) {
                    Entry::Vacant(entry) => {
                        entry.insert(Node { line, ..node });
                    }
                    Entry::Occupied(entry) => {
                        let message =
                            format!("the key `{}` stands twice, first on line {}", entry.key(), entry.get().line);
                        return Err(SyntaxError { line, message });
                    }
                },
            },
        }
        Ok(())
    }

    /// Accounts for a copy of `node`.
    fn copy(&mut self, at: u32, node: &Node) -> Result<(), SyntaxError> {
        self.copied = self.copied.saturating_add(node.weight());
        if self.copied > MAX_COPIED {
            let message = format!("anchors and aliases expand to more than {} MiB", MAX_COPIED >> 20);
            return Err(SyntaxError { line: at, message });
        }
        Ok(())
    }
}

/// Fields of `<<` fill in what the mapping itself does not say; of several, the first counts.
fn merge(fields: &mut IndexMap<String, Node>, source: Node) -> Result<(), SyntaxError> {
    match source.data {
        Data::Mapping(other) => {
            for (key, node) in other {
                fields.entry(key).or_insert(node);
            }
            Ok(())
        }
        Data::Sequence(items) => items.into_iter().try_for_each(|item| match item.data {
            Data::Mapping(_) => merge(fields, item),
            _ => Err(SyntaxError { line: item.line, message: "`<<` takes mappings only".into() }),
        }),
        _ => Err(SyntaxError { line: source.line, message: "`<<` takes a mapping, or a list of mappings".into() }),
    }
}

/// A scalar by the core schema (YAML 1.2.2, 10.3.2).
fn resolve(text: Cow<'_, str>, style: ScalarStyle, tag: Option<&Tag>) -> Result<Data, String> {
    match tag {
        Some(tag) if tag.is_yaml_core_schema() => match tag.suffix.as_str() {
            "str" => Ok(Data::String(text.into_owned())),
            kind @ ("null" | "bool" | "int" | "float") => {
                let data = plain(&text).unwrap_or_else(|| Data::String(text.into_owned()));
                match (kind, &data) {
                    ("null", Data::Null) | ("bool", Data::Bool(_)) | ("int" | "float", Data::Number(_)) => Ok(data),
                    _ => Err(format!("a value that does not fit its tag `!!{kind}`")),
                }
            }
            other => Err(format!("the tag `!!{other}` is not supported")),
        },
        Some(tag) => Err(format!("the tag `{tag}` is not supported")),
        None if style == ScalarStyle::Plain => Ok(plain(&text).unwrap_or_else(|| Data::String(text.into_owned()))),
        None => Ok(Data::String(text.into_owned())),
    }
}

/// What a plain scalar means, where it is not just text.
fn plain(text: &str) -> Option<Data> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Some(Data::Null),
        "true" | "True" | "TRUE" => return Some(Data::Bool(true)),
        "false" | "False" | "FALSE" => return Some(Data::Bool(false)),
        _ => {}
    }
    // Only what starts like a number can be one: `inf`, `nan` and host names stay text.
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') || !digits.contains(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    if let Some(number) = text.strip_prefix("0x").and_then(|hex| i64::from_str_radix(hex, 16).ok()) {
        return Some(Data::Number(number.into()));
    }
    if let Some(number) = text.strip_prefix("0o").and_then(|octal| i64::from_str_radix(octal, 8).ok()) {
        return Some(Data::Number(number.into()));
    }
    if let Ok(number) = unsigned.parse::<i64>() {
        return Some(Data::Number(number.into()));
    }
    if let Ok(number) = unsigned.parse::<u64>() {
        return Some(Data::Number(number.into()));
    }
    unsigned.parse::<f64>().ok().and_then(Number::from_f64).map(Data::Number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn json_of(text: &str) -> Vec<Value> {
        load(text).unwrap().iter().map(Node::to_json).collect()
    }

    fn error_of(text: &str) -> SyntaxError {
        load(text).unwrap_err()
    }

    #[test]
    fn documents_are_read_one_by_one_and_empty_ones_are_left_out() {
        assert_eq!(
            json_of("---\na: 1\n---\n# nothing\n---\nb: [x, 'y']\n"),
            [json!({"a": 1}), json!({"b": ["x", "y"]})]
        );
        assert!(json_of("").is_empty());
    }

    #[test]
    fn scalars_follow_the_core_schema() {
        let read = json_of(
            "[1, -2, 0x1f, 0o17, 1.5, 1e3, 18446744073709551615, true, ~, null, yes, on, 1.2.3.4, '8', \"true\", 0.1.0, .inf, 10s, !!str 5]",
        );
        assert_eq!(
            read[0],
            json!([
                1,
                -2,
                31,
                15,
                1.5,
                1000.0,
                18446744073709551615u64,
                true,
                null,
                null,
                "yes",
                "on",
                "1.2.3.4",
                "8",
                "true",
                "0.1.0",
                ".inf",
                "10s",
                "5"
            ])
        );
    }

    #[test]
    fn json_is_yaml() {
        assert_eq!(json_of("{\n\t\"a\": [1, {\"b\": \"x\\/y\\u00e9\"}]\n}"), [json!({"a": [1, {"b": "x/yé"}]})]);
    }

    #[test]
    fn a_field_path_leads_to_its_line_or_to_the_nearest_part_that_is_there() {
        let text = "apiVersion: v1\nkind: X\nmetadata:\n  annotations:\n    sluice.dev/policy: a\nspec:\n  rules:\n  - host: a\n  - host: b\n    paths:\n    - port: 1\n";
        let node = &load(text).unwrap()[0];
        for (path, line) in [
            ("", 1),
            ("kind", 2),
            ("metadata.annotations.sluice.dev/policy", 5),
            ("metadata.annotations[\"sluice.dev/policy\"]", 5),
            ("spec.rules", 7),
            ("spec.rules[1]", 9),
            ("spec.rules[1].paths[0].port", 11),
            ("spec.rules[1].paths[0].missing", 11),
            ("spec.rules[7].host", 7),
            ("spec.ruless", 6),
        ] {
            assert_eq!(node.line_of(path), line, "{path}");
        }
    }

    #[test]
    fn errors_say_their_line() {
        assert_eq!(error_of("a: 1\nb: 2\na: 3\n").message, "the key `a` stands twice, first on line 1");
        assert_eq!(error_of("a: 1\nb: 2\na: 3\n").line, 3);
        assert_eq!(error_of("a: 1\nb: [1, 2\nc: 3\n").line, 3);
        assert!(error_of("a: !custom x").message.contains("!custom"));
        assert!(error_of("? [a, b]\n: c").message.contains("key that is not text"));
    }

    #[test]
    fn anchors_aliases_and_merge_keys_are_followed() {
        let text =
            "base: &base {a: 1, b: 2}\none:\n  <<: *base\n  b: 3\ntwo:\n  <<: [*base, {c: 4, a: 9}]\nthree: *base\n";
        assert_eq!(
            json_of(text)[0],
            json!({"base": {"a": 1, "b": 2}, "one": {"b": 3, "a": 1}, "two": {"a": 1, "b": 2, "c": 4}, "three": {"a": 1, "b": 2}})
        );
        assert!(error_of("a: &a [*a]").message.contains("not complete"));
    }

    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
        }
        assert!(error_of(&text).message.contains("expand to more than 8 MiB"));
        // One long value, repeated.
        let text = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), vec!["*a"; 100].join(", "));
        assert!(error_of(&text).message.contains("expand to more than 8 MiB"));
    }

    #[test]
    fn nesting_and_the_number_of_values_are_bounded() {
        let flow = error_of(&"[".repeat(1 << 14)).message;
        assert!(flow.contains("64 levels") || flow.contains("recursion limit"), "{flow}");
        assert!(error_of(&format!("{}{}", "[".repeat(100), "]".repeat(100))).message.contains("64 levels"));
        assert!(error_of(&"- ".repeat(1 << 12)).message.contains("64 levels"));
        assert!(error_of(&format!("[{}]", "1,".repeat(MAX_VALUES + 1))).message.contains("values in one file"));
    }
}
