//! C: clang for wasm32 with the parts of wasi-libc that need no WASI. The bindings are generated here.

use super::super::project::Project;
use super::{tools, wit};
use anyhow::{Context, Result, anyhow, bail};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use wit_bindgen_c::{Enabled, Opts};
use wit_bindgen_core::Files;

/// Newest first; the unversioned one is whatever the system has.
const CLANGS: [&str; 8] = ["clang", "clang-22", "clang-21", "clang-20", "clang-19", "clang-18", "clang-17", "clang-16"];

/// Where Debian's wasi-libc has its headers; clang looks there by itself.
const DEBIAN_LIBC: &str = "/usr/include/wasm32-wasi/stdlib.h";

/// Below the project's folder.
const BINDINGS: &str = "build/bindings";
const MODULE: &str = "build/module.wasm";

const INSTALL: &str = "unpack a wasi-sdk (https://github.com/WebAssembly/wasi-sdk/releases) and name it in WASI_SDK_PATH, or on \
                       Debian `apt-get install clang-19 lld-19 wasi-libc libclang-rt-19-dev-wasm32`";

pub(super) fn build(project: &Project) -> Result<Vec<u8>> {
    let clang = clang()?;
    let bindings = bindings(project)?;
    let mut command = Command::new(clang);
    command.current_dir(&project.folder);
    // A stack of 32 KiB instead of 64: it is memory that each fresh instance would have to be given.
    command.args(["--target=wasm32-wasi", "-mexec-model=reactor", "-O2", "-Wall", "-Wextra", "-Wl,-zstack-size=32768"]);
    command.args(["-Wl,--strip-debug", "-Isdk/c", "-isystem", BINDINGS]);
    command.args(sources(project)?).args(bindings).args(["-o", MODULE]);
    tools::run(&mut command)?;
    let module = fs::read(project.folder.join(MODULE)).context(MODULE)?;
    sluice_wasm::componentize(&module).map_err(|error| anyhow!(error))
}

/// A clang that has a libc for wasm32.
fn clang() -> Result<PathBuf> {
    if let Some(sdk) = std::env::var_os("WASI_SDK_PATH") {
        let clang = Path::new(&sdk).join("bin/clang");
        if !clang.is_file() {
            bail!("WASI_SDK_PATH: there is no {}", clang.display());
        }
        return Ok(clang);
    }
    // It links by the wasm-ld of its own version.
    let links = |clang: &str| tools::on_path(&clang.replace("clang", "wasm-ld")).is_some();
    let found = CLANGS.into_iter().filter(|clang| links(clang)).find_map(tools::on_path);
    match found.filter(|_| Path::new(DEBIAN_LIBC).is_file()) {
        Some(clang) => Ok(clang),
        None => bail!("there is no clang with a libc for wasm32 here: {INSTALL}"),
    }
}

/// The project's .c files, below its folder.
fn sources(project: &Project) -> Result<Vec<PathBuf>> {
    let listed = fs::read_dir(project.folder.join("src")).context("src")?;
    let names: Vec<OsString> = listed.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<_>>()?;
    let mut files: Vec<PathBuf> = names.into_iter().map(|name| Path::new("src").join(name)).collect();
    files.retain(|file| file.extension() == Some("c".as_ref()));
    files.sort();
    Ok(files)
}

/// Writes the bindings of the project's world; gives those that are compiled and linked, below the project's folder.
fn bindings(project: &Project) -> Result<Vec<PathBuf>> {
    let mut world = wit::world(project)?;
    let mut files = Files::default();
    let mut generator = Opts { autodrop_borrows: Enabled::Yes, ..Opts::default() }.build();
    generator.generate(&mut world.resolve, world.id, &mut files).context("bindings of world.wit")?;
    let folder = Path::new(BINDINGS);
    fs::create_dir_all(project.folder.join(folder)).context(BINDINGS)?;
    let mut linked = Vec::new();
    for (name, content) in files.iter() {
        let file = folder.join(name);
        fs::write(project.folder.join(&file), content).with_context(|| file.display().to_string())?;
        if file.extension() == Some("c".as_ref()) || file.extension() == Some("o".as_ref()) {
            linked.push(file);
        }
    }
    Ok(linked)
}
