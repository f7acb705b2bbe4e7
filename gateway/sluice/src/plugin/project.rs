//! A plugin's project: a folder, and the language that it is written in.

use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum;
use serde_json::Value;
use sluice_sources::yaml;
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Language {
    Rust,
    #[value(name = "javascript", alias = "js")]
    JavaScript,
    #[value(name = "typescript", alias = "ts")]
    TypeScript,
    Python,
    C,
    Go,
}

impl Language {
    /// As it is written on the command line, and as the folder of its template is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Language::Rust => "rust",
            Language::JavaScript => "javascript",
            Language::TypeScript => "typescript",
            Language::Python => "python",
            Language::C => "c",
            Language::Go => "go",
        }
    }

    /// The file that the plugin begins in.
    pub(crate) fn source(self) -> &'static str {
        match self {
            Language::Rust => "src/lib.rs",
            Language::JavaScript => "src/plugin.js",
            Language::TypeScript => "src/plugin.ts",
            Language::Python => "src/plugin.py",
            Language::C => "src/plugin.c",
            Language::Go => "src/plugin.go",
        }
    }

    pub(crate) const ALL: [Language; 6] =
        [Language::Rust, Language::JavaScript, Language::TypeScript, Language::Python, Language::C, Language::Go];
}

#[derive(Debug)]
pub(crate) struct Project {
    pub(crate) folder: PathBuf,
    pub(crate) language: Language,
}

impl Project {
    /// The project in a folder; its language is told by the file that it begins in.
    pub(crate) fn open(folder: &Path) -> Result<Project> {
        let folder = std::fs::canonicalize(folder).with_context(|| folder.display().to_string())?;
        let mut languages = Language::ALL.into_iter().filter(|language| folder.join(language.source()).is_file());
        match (languages.next(), languages.next()) {
            (Some(language), None) => Ok(Project { folder, language }),
            (Some(one), Some(other)) => {
                bail!("{} has both {} and {}: a project is one plugin", folder.display(), one.source(), other.source())
            }
            (None, _) => {
                let sources = Language::ALL.map(Language::source).join(", ");
                bail!("{} is no plugin's project: it has none of {sources}", folder.display())
            }
        }
    }

    /// What is built lies here, below the folder.
    pub(crate) const BUILD: &str = "build";

    pub(crate) fn build_folder(&self) -> PathBuf {
        self.folder.join(Project::BUILD)
    }

    /// The module.
    pub(crate) fn module(&self) -> PathBuf {
        self.build_folder().join("plugin.wasm")
    }
}

/// A plugin's configuration from a file of YAML or JSON.
pub(crate) fn configuration(file: &Path) -> Result<Value> {
    let name = file.display();
    let text = std::fs::read_to_string(file).with_context(|| name.to_string())?;
    let documents = yaml::load(&text).map_err(|error| anyhow!("{name}:{}: {error}", error.line))?;
    match &documents[..] {
        [] => Ok(Value::Object(serde_json::Map::new())),
        [document] => Ok(document.to_json()),
        _ => bail!("{name}: a configuration is one document, and there are {}", documents.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_is_of_the_language_that_it_begins_in() {
        let folder = tempfile::tempdir().unwrap();
        let error = Project::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("none of src/lib.rs, src/plugin.js"), "{error}");
        std::fs::create_dir(folder.path().join("src")).unwrap();
        std::fs::write(folder.path().join("src/plugin.py"), "").unwrap();
        assert_eq!(Project::open(folder.path()).unwrap().language, Language::Python);
        std::fs::write(folder.path().join("src/plugin.c"), "").unwrap();
        let error = Project::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("both src/plugin.py and src/plugin.c"), "{error}");
    }
}
