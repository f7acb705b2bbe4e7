//! Plugins for tests: those that ship, and those of tests/guests; built from source once a process.

use crate::binary;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The module of one guest of `tests/guests`, by its crate's name.
pub fn module(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    file(FOLDER.get_or_init(|| build("tests/guests")), name)
}

/// The module of a plugin that ships, by its name.
pub fn shipped(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    file(FOLDER.get_or_init(|| build("plugins")), name)
}

/// The names of the policies that ship: the folders of `plugins` with a schema.
pub fn policies() -> Vec<String> {
    let entries = std::fs::read_dir(binary::root().join("plugins")).expect("the folder of plugins");
    let folders =
        entries.map(|entry| entry.expect("an entry").path()).filter(|path| path.join("schema.json").is_file());
    let mut names: Vec<String> =
        folders.map(|path| path.file_name().expect("a name").to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{}.wasm", name.replace('-', "_")))
}

/// Builds a workspace of guests; gives the folder with its modules.
fn build(workspace: &str) -> PathBuf {
    let root = binary::root();
    let output = Command::new(root.join("plugins/build.sh"))
        .arg(root.join(workspace))
        .stderr(Stdio::inherit())
        .output()
        .expect("plugins/build.sh starts");
    assert!(output.status.success(), "plugins/build.sh {workspace} failed");
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

/// A plugin whose version stands in its code: it answers with `x-plugin-version`.
pub struct Versioned {
    module: Vec<u8>,
    at: usize,
}

/// As long as what replaces it.
const PLACE: &[u8] = b"version-0000";

pub fn versioned() -> Versioned {
    let module = std::fs::read(module("versioned")).unwrap();
    let at = module.windows(PLACE.len()).position(|w| w == PLACE).expect("the version's place in the data");
    Versioned { module, at }
}

impl Versioned {
    pub fn name(version: usize) -> String {
        format!("version-{version:04}")
    }

    /// The module of another version: other bytes, another digest, another answer.
    pub fn with_version(&self, version: usize) -> Vec<u8> {
        let mut bytes = self.module.clone();
        bytes[self.at..self.at + PLACE.len()].copy_from_slice(Versioned::name(version).as_bytes());
        bytes
    }
}
