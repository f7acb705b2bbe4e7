//! The SDK as a project has it: in its own folder `sdk`, written by this program.
//!
//! A project needs no registry, no clone of Sluice and no network for its SDK, and it always is the one that the gateway of
//! the same version was tested with. It is committed with the project, so that whoever clones that can build it without Sluice,
//! and a newer one comes by `sluice plugin sdk`, as a change to look at.

use super::build::replace;
use super::project::{Language, Project};
use anyhow::{Context, Result};
use clap::Args;
use include_dir::{Dir, DirEntry, include_dir};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

static WIT: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../sdk/wit");
static RUST_SOURCE: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../sdk/rust/src");
static RUST_MANIFEST: &[u8] = include_bytes!("../../../../sdk/rust/Cargo.toml");
static JAVASCRIPT: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../sdk/javascript");
static GO: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../sdk/go");
static C: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../sdk/c");

/// Write this version's SDK into a project, instead of the one that it has
#[derive(Args, Debug)]
pub(crate) struct SdkArgs {
    /// The project's folder
    #[arg(short = 'C', long, value_name = "DIR", default_value = ".")]
    project: PathBuf,
}

pub(crate) fn run(args: &SdkArgs) -> Result<ExitCode> {
    let project = Project::open(&args.project)?;
    write(&project.folder, project.language)?;
    println!("{}: the SDK of version {}", project.folder.join("sdk").display(), env!("CARGO_PKG_VERSION"));
    Ok(ExitCode::SUCCESS)
}

/// Writes the parts that a language needs; what stood there goes.
pub(super) fn write(project: &Path, language: Language) -> Result<()> {
    let sdk = project.join("sdk");
    let parts = match language {
        Language::Rust => vec![("wit", &WIT), ("rust/src", &RUST_SOURCE)],
        Language::JavaScript | Language::TypeScript => vec![("wit", &WIT), ("javascript", &JAVASCRIPT)],
        Language::C => vec![("wit", &WIT), ("c", &C)],
        Language::Python => vec![("wit", &WIT)],
        // It speaks the proxy-wasm ABI.
        Language::Go => vec![("go", &GO)],
    };
    for (folder, files) in parts {
        let folder = sdk.join(folder);
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
        }
        extract(files, &folder, &|content| content.to_vec())?;
    }
    if language == Language::Rust {
        replace(&sdk.join("rust/Cargo.toml"), RUST_MANIFEST)?;
    }
    let note = format!(
        "The SDK of Sluice {}, as `sluice plugin sdk` writes it. Commit it, and change it by that command only.\n",
        env!("CARGO_PKG_VERSION")
    );
    replace(&sdk.join("README.md"), note.as_bytes())
}

/// Writes embedded files below `to`, each as `content` makes it.
pub(super) fn extract(files: &Dir<'_>, to: &Path, content: &dyn Fn(&[u8]) -> Vec<u8>) -> Result<()> {
    fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    for entry in files.entries() {
        let Some(name) = entry.path().file_name() else { continue };
        match entry {
            DirEntry::Dir(folder) => extract(folder, &to.join(name), content)?,
            DirEntry::File(file) => {
                // As it is, it would hide files of this repository.
                let name = if name == "gitignore" { ".gitignore".as_ref() } else { name };
                let file_to = to.join(name);
                fs::write(&file_to, content(file.contents())).with_context(|| file_to.display().to_string())?;
            }
        }
    }
    Ok(())
}
