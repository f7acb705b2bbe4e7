//! Projects for the tests. What toolchains install and compile is kept in the user's cache, so that only the first run
//! waits for it.

use sluice_tests::binary;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// What the cases of the templates amount to.
pub(crate) const ALL_PASSED: &str = "7 cases: 7 passed, 0 failed";

/// What stays in a project's folder from one run to the next: packages, at the place that they were installed for.
const KEPT: [&str; 3] = [".venv", "node_modules", "package-lock.json"];

/// Where this user's tests keep what took long.
pub(crate) fn cache() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    cache.expect("there is a home folder").join("sluice/authors")
}

pub(crate) fn sluice(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary::sluice());
    // Guests of all projects are compiled into one folder, and the engine's own cache is the tests' own.
    command
        .args(arguments)
        .env("CARGO_TARGET_DIR", cache().join("target"))
        .env("XDG_STATE_HOME", cache().join("state"));
    // Those of the test run are about the gateway.
    for variable in ["CARGO", "RUSTC", "RUSTFLAGS", "CARGO_PROFILE_RELEASE_LTO"] {
        command.env_remove(variable);
    }
    command
}

pub(crate) fn run(arguments: &[&str]) -> Output {
    sluice(arguments).output().expect("the binary starts")
}

pub(crate) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// All that it printed.
pub(crate) fn all(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stderr), text(output))
}

/// A project in a folder that is removed at the end.
pub(crate) struct Project {
    _folder: TempDir,
    pub(crate) path: PathBuf,
}

impl Project {
    pub(crate) fn new(name: &str, language: &str) -> Project {
        let folder = TempDir::with_prefix("sluice-authors-").expect("a temporary folder");
        let path = folder.path().join(name);
        let made = run(&["plugin", "new", path.to_str().unwrap(), "--language", language]);
        assert!(made.status.success(), "{}", all(&made));
        Project { _folder: folder, path }
    }

    pub(crate) fn test(&self) -> Output {
        run(&["plugin", "test", "--project", self.path.to_str().unwrap()])
    }

    pub(crate) fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.path.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
    }

    /// Replaces a text that is there in one of the project's files, as an editor does.
    pub(crate) fn change(&self, file: &str, from: &str, to: &str) {
        let before = self.read(file);
        assert!(before.contains(from), "{file} has no `{from}`");
        std::fs::write(self.path.join(file), before.replace(from, to)).unwrap();
    }
}

/// A new project of a language at a place that stays, with the packages that an earlier run installed there.
pub(crate) fn kept(name: &str, language: &str) -> PathBuf {
    let place = cache().join(format!("{name}-{language}"));
    std::fs::create_dir_all(&place).unwrap();
    for entry in std::fs::read_dir(&place).unwrap().map(Result::unwrap) {
        if KEPT.iter().any(|kept| entry.file_name() == *kept) {
            continue;
        }
        let path = entry.path();
        if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.unwrap();
    }
    let project = Project::new(name, language);
    copy(&project.path, &place);
    place
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}
