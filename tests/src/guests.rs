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

/// A plugin whose version stands in its code.
pub struct Versioned {
    module: Vec<u8>,
    at: usize,
}

/// As long as what replaces it.
const PLACE: &[u8] = b"version-0000";

/// It answers with `x-plugin-version`.
pub fn versioned() -> Versioned {
    Versioned::of("versioned")
}

/// It stamps its version on each phase, or refuses or traps in `configure`, or fails its self-test, where its version begins so.
pub fn stamped() -> Versioned {
    Versioned::of("stamped")
}

impl Versioned {
    fn of(guest: &str) -> Versioned {
        let module = std::fs::read(module(guest)).unwrap();
        let at = module.windows(PLACE.len()).position(|w| w == PLACE).expect("the version's place in the data");
        Versioned { module, at }
    }

    pub fn name(version: usize) -> String {
        format!("version-{version:04}")
    }

    /// The module of another version: other bytes, another digest, another answer.
    pub fn with_version(&self, version: usize) -> Vec<u8> {
        self.named(&Versioned::name(version))
    }

    /// Likewise, by the text that stands for the version.
    pub fn named(&self, version: &str) -> Vec<u8> {
        let mut bytes = self.module.clone();
        bytes[self.at..self.at + PLACE.len()].copy_from_slice(version.as_bytes());
        bytes
    }
}

/// A module whose sections are whole, and whose code is none.
pub fn with_broken_code(mut module: Vec<u8>) -> Vec<u8> {
    const CODE: u8 = 10;
    let mut at = 8;
    loop {
        let id = module[at];
        let (length, content) = leb128(&module, at + 1);
        if id == CODE {
            // The middle is in some function's body; 0xff is no instruction.
            let middle = content + length / 2;
            module[middle..middle + 64].fill(0xff);
            return module;
        }
        at = content + length;
    }
}

/// A number and where it ends.
fn leb128(bytes: &[u8], mut at: usize) -> (usize, usize) {
    let (mut number, mut shift) = (0, 0);
    loop {
        let byte = bytes[at];
        number |= usize::from(byte & 0x7f) << shift;
        (at, shift) = (at + 1, shift + 7);
        if byte & 0x80 == 0 {
            return (number, at);
        }
    }
}
