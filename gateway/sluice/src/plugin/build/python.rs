//! Python: componentize-py puts the CPython interpreter and the program into a component of 18 MB.

use super::super::project::Project;
use super::{tools, wit};
use anyhow::{Context, Result};
use std::process::Command;

const COMPONENT: &str = "build/component.wasm";

const PYTHON: &str =
    "install Python 3.10 or newer (https://python.org, or on Debian `apt-get install python3 python3-venv`)";

pub(super) fn build(project: &Project) -> Result<Vec<u8>> {
    install(project)?;
    let world = wit::world(project)?;
    let mut command = Command::new(project.folder.join(".venv/bin/componentize-py"));
    command.current_dir(&project.folder).args(["--wit-path", wit::FOLDER, "--world", &world.name]);
    // No WASI is granted: what would need it traps.
    command.args(["componentize", "--stub-wasi", "--python-path", "src", "plugin", "--output", COMPONENT]);
    tools::run(&mut command)?;
    std::fs::read(project.folder.join(COMPONENT)).context(COMPONENT)
}

/// The packages that requirements.txt names, in a virtual environment of the project's own.
fn install(project: &Project) -> Result<()> {
    let requirements = project.folder.join("requirements.txt");
    let environment = project.folder.join(".venv");
    let stamp = environment.join("installed");
    if !tools::is_stale(&stamp, &requirements) {
        return Ok(());
    }
    if !environment.join("bin/pip").exists() {
        let python = tools::find("python3", PYTHON)?;
        tools::run(Command::new(python).args(["-m", "venv", ".venv"]).current_dir(&project.folder))?;
    }
    let mut pip = Command::new(environment.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--requirement", "requirements.txt"]);
    tools::run(pip.current_dir(&project.folder))?;
    std::fs::write(&stamp, "").with_context(|| stamp.display().to_string())
}
