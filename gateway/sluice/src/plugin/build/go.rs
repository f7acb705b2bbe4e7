//! Go: its own toolchain makes a module of 3 MB, which runs as a filter of the proxy-wasm ABI.

use super::super::project::Project;
use super::tools;
use anyhow::{Context, Result};
use std::process::Command;

const MODULE: &str = "build/module.wasm";

const GO: &str = "install Go 1.24 or newer (https://go.dev/dl)";

pub(super) fn build(project: &Project) -> Result<Vec<u8>> {
    let mut command = Command::new(tools::find("go", GO)?);
    command.current_dir(&project.folder).env("GOOS", "wasip1").env("GOARCH", "wasm");
    // A library that is initialized once and then called; without symbols.
    command.args(["build", "-buildmode=c-shared", "-trimpath", "-ldflags=-s -w", "-o", MODULE, "./src"]);
    tools::run(&mut command)?;
    std::fs::read(project.folder.join(MODULE)).context(MODULE)
}
