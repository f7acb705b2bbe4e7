//! A project's `schema.json`, put where the gateway looks for it.

use super::super::project::Project;
use anyhow::{Context, Result, anyhow};
use sluice_wasm::{ConfigSchema, SCHEMA_SECTION};
use std::borrow::Cow;
use std::io::ErrorKind;
use wasm_encoder::{ComponentSection, CustomSection};

/// The component, or the module, with the project's schema; as it is where there is no `schema.json`.
pub(super) fn put(project: &Project, mut component: Vec<u8>) -> Result<Vec<u8>> {
    let file = project.folder.join("schema.json");
    let text = match std::fs::read(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(component),
        Err(error) => return Err(error).with_context(|| file.display().to_string()),
    };
    let schema = serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", file.display()))?;
    let schema = ConfigSchema::new(schema).map_err(|error| anyhow!("{}: {error}", file.display()))?;
    let section = CustomSection {
        name: Cow::Borrowed(SCHEMA_SECTION),
        data: Cow::Owned(schema.as_json().to_string().into_bytes()),
    };
    // The same bytes at the end of a module.
    section.append_to_component(&mut component);
    Ok(component)
}

#[cfg(test)]
mod tests {
    use super::super::super::project::Language;
    use super::*;

    #[test]
    fn a_component_carries_the_schema_of_its_project() {
        let folder = tempfile::tempdir().unwrap();
        let project = Project { folder: folder.path().to_owned(), language: Language::C };
        let empty = wasm_encoder::Component::new().finish();
        assert_eq!(put(&project, empty.clone()).unwrap(), empty);
        std::fs::write(folder.path().join("schema.json"), r#"{"type": "object"}"#).unwrap();
        let component = put(&project, empty.clone()).unwrap();
        let schema = ConfigSchema::from_module(&component).unwrap().unwrap();
        assert_eq!(schema.as_json().to_string(), r#"{"type":"object"}"#);
        std::fs::write(folder.path().join("schema.json"), r#"{"type": "nonsense"}"#).unwrap();
        let error = put(&project, empty).unwrap_err().to_string();
        assert!(error.contains("schema.json: its configuration schema is not a JSON Schema"), "{error}");
    }
}
