//! The world of a project that is not in Rust: its own `world.wit`, with the contract beside it as toolchains want it.

use super::super::project::Project;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;
use wit_parser::{Resolve, WorldId};

/// Where it is put together, below the project's folder.
pub(super) const FOLDER: &str = "build/wit";

pub(super) struct World {
    pub(super) name: String,
    pub(super) resolve: Resolve,
    pub(super) id: WorldId,
}

/// Puts the project's WIT together in its build folder, and reads it.
pub(super) fn world(project: &Project) -> Result<World> {
    let folder = project.folder.join(FOLDER);
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    let contract = folder.join("deps/sluice-plugin");
    fs::create_dir_all(&contract).with_context(|| contract.display().to_string())?;
    copy(&project.folder.join("world.wit"), &folder.join("world.wit"))?;
    let sdk = project.folder.join("sdk/wit");
    let listed = fs::read_dir(&sdk).with_context(|| format!("{}: write it with `sluice plugin sdk`", sdk.display()))?;
    for entry in listed {
        let file = entry?.path();
        if let Some(name) = file.file_name().filter(|_| file.extension() == Some("wit".as_ref())) {
            copy(&file, &contract.join(name))?;
        }
    }
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(&folder).context("world.wit")?;
    let id = resolve.select_world(&[package], None).context("world.wit")?;
    let world = resolve.worlds.get(id).context("world.wit")?;
    ensure!(!world.exports.is_empty(), "world.wit: the world `{}` exports no phase", world.name);
    Ok(World { name: world.name.clone(), resolve, id })
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(|_| ()).with_context(|| from.display().to_string())
}
