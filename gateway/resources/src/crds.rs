//! The CustomResourceDefinitions of our own kinds, made from the Rust types. `deploy/crds/` holds what
//! [`crd_files`] gives; a test compares the two.

use crate::{GatewayConfig, Plugin, TrafficPolicy};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

/// All of them, by name.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![GatewayConfig::crd(), Plugin::crd(), TrafficPolicy::crd()]
}

/// A file a kind: its name, and its text as `kubectl apply` takes it.
pub fn crd_files() -> Vec<(String, String)> {
    crds()
        .iter()
        .filter_map(|crd| {
            // Making a value of a CRD does not fail; its name is always set.
            let value = serde_json::to_value(crd).ok()?;
            let mut text = "# Made by `sluice crds` from the Rust types; do not edit.\n".to_owned();
            write_yaml(&value, 0, &mut text);
            Some((format!("{}.yaml", crd.metadata.name.as_deref()?), text))
        })
        .collect()
}

/// Block style; YAML takes JSON's scalars as they are, so only plain words are written without quotes.
fn write_yaml(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                out.push_str(&" ".repeat(indent));
                out.push_str(&scalar(&Value::String(key.clone())));
                out.push(':');
                write_nested(value, indent + 2, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                out.push_str(&" ".repeat(indent));
                out.push('-');
                match item {
                    // The first field stands behind the dash.
                    Value::Object(fields) if !fields.is_empty() => {
                        let mut block = String::new();
                        write_yaml(item, indent + 2, &mut block);
                        out.push(' ');
                        out.push_str(block.trim_start());
                    }
                    _ => write_nested(item, indent + 2, out),
                }
            }
        }
        other => {
            out.push_str(&scalar(other));
            out.push('\n');
        }
    }
}

fn write_nested(value: &Value, indent: usize, out: &mut String) {
    let block = match value {
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    };
    out.push(if block { '\n' } else { ' ' });
    write_yaml(value, indent, out);
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) if is_plain(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Whether a text can be nothing but a text in YAML 1.1 and 1.2 alike.
fn is_plain(text: &str) -> bool {
    let words = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'/' | b'_'))
        && !words.contains(&text.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// `make generate` writes the files.
    #[test]
    fn the_committed_files_are_what_the_types_say() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/crds");
        let files = crd_files();
        assert_eq!(files.len(), crds().len());
        for (name, text) in files {
            let path = folder.join(&name);
            if std::env::var_os("UPDATE").is_some() {
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(&path, &text).unwrap();
            }
            let committed = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(committed == text, "deploy/crds/{name} is not what the types say; `make generate` writes it again");
        }
    }

    #[test]
    fn the_rules_and_the_merge_strategy_reach_the_schema() {
        let text: String = crd_files().into_iter().map(|(_, text)| text).collect();
        for expected in [
            "name just one of oci, https, configMap and file",
            "top-level fields are defaults",
            "Merge strategy (GEP-713, custom)",
            "Merge strategy: field by field",
            "x-kubernetes-preserve-unknown-fields: true",
        ] {
            assert!(text.contains(expected), "{expected}");
        }
    }
}
