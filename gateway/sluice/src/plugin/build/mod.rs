//! `sluice plugin build`: from a project to a module that a Plugin can name.
//!
//! Each language has its own toolchain, which is called and never replaced; what is missing is named with the command that
//! installs it. Toolchains that make no schema section get the project's `schema.json` put in.

mod c;
mod go;
mod javascript;
mod python;
mod rust;
mod schema;
pub(super) mod tools;
mod wit;

use super::project::{Language, Project};
use crate::output::{self, Tint};
use anyhow::{Context, Result};
use clap::Args;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Build the project to a module, build/plugin.wasm
#[derive(Args, Debug)]
pub(crate) struct BuildArgs {
    /// The project's folder
    #[arg(short = 'C', long, value_name = "DIR", default_value = ".")]
    project: PathBuf,
}

pub(crate) fn run(args: &BuildArgs) -> Result<ExitCode> {
    let module = build(&Project::open(&args.project)?)?;
    let size = std::fs::metadata(&module)?.len();
    let (before, after) = Tint::Green.codes(output::colours());
    println!("{before}built{after} {}: {size} bytes", module.display());
    Ok(ExitCode::SUCCESS)
}

/// Gives the module's path. What was built before stays until the new one is whole.
pub(crate) fn build(project: &Project) -> Result<PathBuf> {
    let folder = project.build_folder();
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let bytes = match project.language {
        // The SDK's macro has put the schema in.
        Language::Rust => rust::build(project)?,
        Language::JavaScript | Language::TypeScript => schema::put(project, javascript::build(project)?)?,
        Language::Python => schema::put(project, python::build(project)?)?,
        Language::C => schema::put(project, c::build(project)?)?,
        Language::Go => schema::put(project, go::build(project)?)?,
    };
    let module = project.module();
    replace(&module, &bytes)?;
    Ok(module)
}

/// Writes a file as a whole: whoever reads it finds the former or the new one.
pub(super) fn replace(file: &Path, bytes: &[u8]) -> Result<()> {
    let new = file.with_extension("new");
    std::fs::write(&new, bytes).with_context(|| new.display().to_string())?;
    std::fs::rename(&new, file).with_context(|| file.display().to_string())
}
