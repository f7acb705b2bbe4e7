//! JavaScript, and TypeScript by way of it: componentize-qjs puts the QuickJS engine and the program into a component of 1 MB.

use super::super::project::Project;
use super::{tools, wit};
use anyhow::{Context, Result};
use std::path::Path;
use std::process::Command;

const COMPONENT: &str = "build/component.wasm";

const NODE: &str =
    "install Node.js 18 or newer with npm (https://nodejs.org, or on Debian `apt-get install nodejs npm`)";

/// Builds the program that begins in `source`.
pub(super) fn build(project: &Project, source: &Path) -> Result<Vec<u8>> {
    install(project)?;
    let world = wit::world(project)?;
    let mut command = tool(project, "componentize-qjs");
    command.args(["--wit", wit::FOLDER, "--world", &world.name, "--js"]).arg(source);
    // No WASI is granted, nothing waits, and small is quick to start.
    command.args(["--module-root", ".", "--stub-wasi", "--sync", "--opt-size", "--output", COMPONENT]);
    tools::run(&mut command)?;
    std::fs::read(project.folder.join(COMPONENT)).context(COMPONENT)
}

pub(super) fn build_typescript(project: &Project) -> Result<Vec<u8>> {
    install(project)?;
    tools::run(tool(project, "tsc").args(["--project", "tsconfig.json"]))?;
    build(project, Path::new("build/js/src/plugin.js"))
}

/// The packages that package.json names, in the project's own node_modules.
fn install(project: &Project) -> Result<()> {
    let stamp = project.folder.join("node_modules/.package-lock.json");
    if !tools::is_stale(&stamp, &project.folder.join("package.json")) {
        return Ok(());
    }
    let npm = tools::find("npm", NODE)?;
    tools::run(Command::new(npm).args(["install", "--no-audit", "--no-fund"]).current_dir(&project.folder))
}

fn tool(project: &Project, name: &str) -> Command {
    let mut command = Command::new(project.folder.join("node_modules/.bin").join(name));
    command.current_dir(&project.folder);
    command
}
