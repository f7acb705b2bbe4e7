//! The programs that others have written.

use crate::output::Tint;
use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A program of the search path; the error says how to have it.
pub(crate) fn find(program: &str, install: &str) -> Result<PathBuf> {
    on_path(program).with_context(|| format!("there is no `{program}` here: {install}"))
}

pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders).map(|folder| folder.join(program)).find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Tells what is going to be run. What it prints goes to standard error: standard output is ours.
pub(crate) fn say(command: &mut Command) -> &mut Command {
    let name = |text: &OsStr| Path::new(text).file_name().unwrap_or(text).to_string_lossy().into_owned();
    let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let (before, after) = Tint::Bold.codes(colours);
    eprintln!("{before}$ {} {}{after}", name(command.get_program()), arguments.join(" "));
    command.stdout(Stdio::from(io::stderr()))
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let program = Path::new(command.get_program()).display().to_string();
    let status = say(command).status().with_context(|| program.clone())?;
    if !status.success() {
        bail!("{program} failed: {status}");
    }
    Ok(())
}

/// Whether `file` is missing or older than `source`.
pub(crate) fn is_stale(file: &Path, source: &Path) -> bool {
    let changed = |path: &Path| std::fs::metadata(path).and_then(|meta| meta.modified());
    match (changed(file), changed(source)) {
        (Ok(file), Ok(source)) => file < source,
        (Err(_), _) => true,
        (Ok(_), Err(_)) => false,
    }
}
