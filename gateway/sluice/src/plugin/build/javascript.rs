//! JavaScript and TypeScript: componentize-js puts the SpiderMonkey engine and the program into a component of 12 MB. The
//! program is one module: tsc checks types and leaves them out, and nothing bundles packages.

use super::super::project::{Language, Project};
use super::{tools, wit};
use anyhow::{Context, Result};
use std::process::Command;

const COMPONENT: &str = "build/component.wasm";

const NODE: &str =
    "install Node.js 20 or newer with npm (https://nodejs.org, or on Debian `apt-get install nodejs npm`)";

/// No WASI is granted, so none is to be asked for; `fetch` and the like are not there.
const WITHOUT: [&str; 5] = ["stdio", "random", "clocks", "http", "fetch-event"];

pub(super) fn build(project: &Project) -> Result<Vec<u8>> {
    install(project)?;
    let world = wit::world(project)?;
    let program = match project.language {
        Language::TypeScript => {
            tools::run(Command::new("node_modules/.bin/tsc").current_dir(&project.folder))?;
            "build/javascript/plugin.js"
        }
        _ => project.language.source(),
    };
    let mut command = Command::new("node_modules/.bin/componentize-js");
    command.current_dir(&project.folder).arg(program);
    command.args(["--wit", wit::FOLDER, "--world-name", &world.name, "--out", COMPONENT, "--disable"]).args(WITHOUT);
    tools::run(&mut command)?;
    std::fs::read(project.folder.join(COMPONENT)).context(COMPONENT)
}

/// The packages that package.json names, in the project's own `node_modules`: those of package-lock.json, which the first
/// build writes.
fn install(project: &Project) -> Result<()> {
    let stamp = project.folder.join("node_modules/.installed");
    if !tools::is_stale(&stamp, &project.folder.join("package.json")) {
        return Ok(());
    }
    let npm = tools::find("npm", NODE)?;
    let mut command = Command::new(npm);
    command.args(["install", "--no-audit", "--no-fund", "--loglevel", "error"]);
    tools::run(command.current_dir(&project.folder))?;
    std::fs::write(&stamp, "").with_context(|| stamp.display().to_string())
}
