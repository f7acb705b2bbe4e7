//! `sluice plugin new`: a project that builds and whose tests pass, to be changed from there.

use super::project::Language;
use super::sdk;
use anyhow::{Context, Result, ensure};
use clap::Args;
use include_dir::{Dir, include_dir};
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

static TEMPLATES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../sdk/templates");

/// What all languages have: the cases, the configuration's schema, and the like.
const COMMON: &str = "common";

/// The plugin's name in the templates, and as an identifier.
const NAME: &str = "my-plugin";
const IDENTIFIER: &str = "my_plugin";

/// Start a plugin: a folder with a project that builds and whose tests pass
#[derive(Args, Debug)]
pub(crate) struct NewArgs {
    /// The folder to make; its last part is the plugin's name
    path: PathBuf,
    /// What to write it in
    #[arg(short, long, value_enum, default_value = "rust")]
    language: Language,
}

pub(crate) fn run(args: &NewArgs) -> Result<ExitCode> {
    let name = args.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    ensure!(
        is_name(name),
        "`{name}` is no name for a plugin: lower-case letters, digits and single hyphens, beginning with a letter, at most 63"
    );
    let is_free = match fs::read_dir(&args.path) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    ensure!(is_free, "{} is there already, and is no empty folder", args.path.display());
    let language = args.language.name();
    let named = |content: &[u8]| match std::str::from_utf8(content) {
        Ok(text) => text.replace(NAME, name).replace(IDENTIFIER, &name.replace('-', "_")).into_bytes(),
        Err(_) => content.to_vec(),
    };
    for template in [COMMON, language] {
        let files = TEMPLATES.get_dir(template).with_context(|| format!("there is no template {template}"))?;
        sdk::extract(files, &args.path, &named)?;
    }
    sdk::write(&args.path, args.language)?;
    let path = args.path.display();
    println!("{path}: a plugin in {language}, which begins in {}", args.language.source());
    println!("next:  cd {path} && sluice plugin test && sluice plugin run --upstream http://127.0.0.1:3000");
    Ok(ExitCode::SUCCESS)
}

/// A DNS label, as the object's name will be one; not one that ends or doubles its hyphens.
fn is_name(name: &str) -> bool {
    let sound = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(sound)
        && !name.ends_with('-')
        && !name.contains("--")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_an_object_and_a_crate_can_have() {
        for good in ["demo", "key-auth", "a1-b2"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "Demo", "1a", "a-", "a--b", "a_b", "a b", "ä"] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn a_project_bears_its_name_and_has_the_sdk() {
        for language in Language::ALL {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("tenant-check");
            run(&NewArgs { path: path.clone(), language }).unwrap();
            let project = super::super::project::Project::open(&path).unwrap();
            assert_eq!(project.language, language);
            let cases = fs::read_to_string(path.join("tests/header.yaml")).unwrap();
            assert!(cases.contains("tenant-check") && !cases.contains(NAME), "{cases}");
            let contract = if language == Language::Go { "sdk/go/abi.go" } else { "sdk/wit/types.wit" };
            for file in [contract, "schema.json", ".gitignore", "README.md"] {
                assert!(path.join(file).is_file(), "{language:?}: {file}");
            }
            let error = run(&NewArgs { path, language }).unwrap_err().to_string();
            assert!(error.contains("there already"), "{error}");
        }
    }
}
