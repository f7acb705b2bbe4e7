//! The pages of the policies that ship: their tables of configuration are those of their schemas, and they are listed and
//! installed wherever such lists are.

use serde_json::Value;
use sluice_tests::{binary, guests};
use std::fmt::Write;
use std::path::PathBuf;

const BEGIN: &str = "<!-- generated from schema.json: make generate -->\n";
const END: &str = "<!-- end of what is generated -->\n";

fn file(path: &str) -> (PathBuf, String) {
    let path = binary::root().join(path);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    (path, text)
}

#[test]
fn each_page_has_the_table_of_its_schema() {
    for policy in guests::policies() {
        let schema = serde_json::from_str(&file(&format!("plugins/{policy}/schema.json")).1).unwrap();
        let (path, page) = file(&format!("plugins/{policy}/README.md"));
        let (before, rest) = page.split_once(BEGIN).unwrap_or_else(|| panic!("{policy}: no line `{}`", BEGIN.trim()));
        let (found, after) = rest.split_once(END).unwrap_or_else(|| panic!("{policy}: no line `{}`", END.trim()));
        let wanted = Table::of(schema);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, format!("{before}{BEGIN}{wanted}{END}{after}")).unwrap();
        } else {
            assert!(
                found == wanted,
                "plugins/{policy}/README.md is not what its schema says; UPDATE=1 writes it again"
            );
        }
    }
}

#[test]
fn each_policy_is_listed_and_installed() {
    let (_, list) = file("docs/plugins.md");
    let (_, image) = file("deploy/docker/image.files");
    let (_, changes) = file("CHANGELOG.md");
    for policy in guests::policies() {
        assert!(list.contains(&format!("[{policy}](../plugins/{policy}/README.md)")), "docs/plugins.md lacks {policy}");
        assert!(changes.contains(&format!("`{policy}`")), "CHANGELOG.md lacks {policy}");
        let module = format!("deploy/plugins/{policy}.wasm");
        let place = format!("/usr/share/sluice/plugins/{policy}.wasm");
        let is_it = |line: &str| line.split_whitespace().eq([module.as_str(), place.as_str()]);
        assert!(image.lines().any(is_it), "deploy/docker/image.files lacks {module}");
    }
}

/// `make bench-plugins` writes both: a page with a row a policy, and a sentence in each policy's own page.
#[test]
fn what_a_policy_costs_is_said_alike_wherever_it_is_said() {
    let page = std::fs::read_to_string(binary::root().join("docs/benchmarks-plugins.md")).unwrap_or_default();
    for policy in guests::policies() {
        let row = page.lines().find_map(|line| line.strip_prefix(&format!("| {policy} | ")));
        assert!(page.is_empty() || row.is_some(), "docs/benchmarks-plugins.md lacks {policy}: make bench-plugins");
        // What is called, fresh, two threads, pooled, two threads; a figure is `median [lowest-highest]`.
        let sentence = row.map(|row| {
            let median = |cell: &str| cell.split(" [").next().unwrap_or_default().to_owned();
            let cells: Vec<&str> = row.split(" | ").collect();
            let [_, fresh, _, pooled, ..] = cells[..] else { panic!("a row of {policy}: {row}") };
            format!("A request costs {} us fresh, {} us pooled (", median(fresh), median(pooled))
        });
        let (_, own) = file(&format!("plugins/{policy}/README.md"));
        let told = own.lines().find(|line| line.starts_with("A request costs "));
        match (&sentence, told) {
            (None, None) => {}
            (Some(sentence), Some(told)) if told.starts_with(sentence.as_str()) => {}
            _ => panic!(
                "plugins/{policy}/README.md says {told:?}, docs/benchmarks-plugins.md {sentence:?}: make bench-plugins"
            ),
        }
    }
}

/// A row a field, in the order of the schema.
struct Table {
    schema: Value,
    text: String,
}

impl Table {
    fn of(schema: Value) -> String {
        let mut table = Table { schema, text: String::from("| field | type | default | |\n|---|---|---|---|\n") };
        let top = table.schema.clone();
        table.fields("", &top);
        table.text
    }

    /// What a schema is behind its references and the null that it may be; and whether it may.
    fn behind(&self, schema: &Value) -> (Value, bool) {
        if let Some(reference) = schema["$ref"].as_str() {
            let mut found = self.schema.pointer(reference.trim_start_matches('#')).expect("a reference").clone();
            for (key, value) in schema.as_object().into_iter().flatten().filter(|(key, _)| *key != "$ref") {
                found[key] = value.clone();
            }
            return self.behind(&found);
        }
        if let Some([one, null]) = schema["anyOf"].as_array().map(Vec::as_slice)
            && null["type"] == "null"
        {
            let (mut found, _) = self.behind(one);
            for (key, value) in schema.as_object().into_iter().flatten().filter(|(key, _)| *key != "anyOf") {
                found[key] = value.clone();
            }
            return (found, true);
        }
        let nullable = schema["type"].as_array().is_some_and(|types| types.iter().any(|name| name == "null"));
        (schema.clone(), nullable)
    }

    fn fields(&mut self, prefix: &str, schema: &Value) {
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            self.field(&format!("{prefix}{name}"), field, required.contains(&Value::from(name.as_str())));
        }
    }

    fn field(&mut self, path: &str, field: &Value, required: bool) {
        let (schema, nullable) = self.behind(field);
        let default = match &schema["default"] {
            Value::Null if required => "required".to_owned(),
            Value::Null if nullable => "`null`".to_owned(),
            Value::Null => String::new(),
            value => shown(value),
        };
        let (kind, inner) = self.kind(&schema);
        let or_null = if nullable { ", or `null`" } else { "" };
        let about = schema["description"].as_str().unwrap_or_default().replace('\n', " ");
        let variants = schema["oneOf"].as_array().into_iter().flatten().filter_map(|variant| {
            let name = variant["const"].as_str()?;
            Some(format!(" `{name}`: {}", variant["description"].as_str()?.replace('\n', " ")))
        });
        let about = format!("{about}{}", variants.collect::<String>());
        writeln!(self.text, "| `{path}` | {}{or_null} | {} | {} |", cell(&kind), cell(&default), cell(about.trim()))
            .unwrap();
        for (suffix, schema) in inner {
            self.fields(&format!("{path}{suffix}"), &schema);
        }
    }

    /// In words, with the schemas of objects within and what leads there.
    fn kind(&self, schema: &Value) -> (String, Vec<(String, Value)>) {
        let words = |values: Vec<&str>| format!("`{}`", values.join("`, `"));
        if let Some(title) = schema["title"].as_str().filter(|_| schema["pattern"].is_string()) {
            return (title.to_owned(), Vec::new());
        }
        if let Some(values) = schema["enum"].as_array() {
            return (words(values.iter().filter_map(Value::as_str).collect()), Vec::new());
        }
        if let Some(variants) = schema["oneOf"].as_array() {
            let values: Vec<&str> = variants
                .iter()
                .flat_map(|variant| match variant["enum"].as_array() {
                    Some(values) => values.iter().filter_map(Value::as_str).collect(),
                    None => Vec::from_iter(variant["const"].as_str()),
                })
                .collect();
            if !values.is_empty() {
                return (words(values), Vec::new());
            }
            return (
                "one of these".to_owned(),
                variants.iter().map(|variant| (".".to_owned(), variant.clone())).collect(),
            );
        }
        if schema["items"].is_object() {
            let (items, _) = self.behind(&schema["items"]);
            let (kind, inner) = self.kind(&items);
            let inner = inner.into_iter().map(|(suffix, schema)| (format!("[]{suffix}"), schema)).collect();
            return (format!("list of {}", if kind == "object" { "objects" } else { &kind }), inner);
        }
        if schema["properties"].is_object() {
            return ("object".to_owned(), vec![(".".to_owned(), schema.clone())]);
        }
        if schema["additionalProperties"].is_object() {
            let (values, _) = self.behind(&schema["additionalProperties"]);
            let (kind, inner) = self.kind(&values);
            return (format!("map to {kind}"), inner.into_iter().map(|(s, v)| (format!(".*{s}"), v)).collect());
        }
        let name = match &schema["type"] {
            Value::Array(types) => types.iter().filter_map(Value::as_str).find(|name| *name != "null"),
            name => name.as_str(),
        };
        let name = name.unwrap_or("any").to_owned();
        match (schema["minimum"].as_f64(), schema["maximum"].as_f64()) {
            (Some(least), Some(most)) if most <= 65_535.0 => (format!("{name}, {least} to {most}"), Vec::new()),
            _ => (name, Vec::new()),
        }
    }
}

fn shown(value: &Value) -> String {
    const LONGEST: usize = 60;
    let text = match value.as_str() {
        Some(text) if !text.is_empty() && !text.contains(char::is_control) => text.to_owned(),
        _ => value.to_string(),
    };
    match text.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("`{}…`", &text[..cut]),
        None => format!("`{text}`"),
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
