//! A folder of YAML for `sluice run --config`.

use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Removed when dropped.
pub struct Folder {
    root: TempDir,
}

impl Default for Folder {
    fn default() -> Self {
        Folder::new()
    }
}

impl Folder {
    pub fn new() -> Self {
        let root = TempDir::with_prefix("sluice-test-").expect("a temporary folder");
        std::fs::create_dir(root.path().join("config")).unwrap();
        std::fs::create_dir(root.path().join("state")).unwrap();
        Folder { root }
    }

    /// What `--config` gets.
    pub fn path(&self) -> PathBuf {
        self.root.path().join("config")
    }

    /// For sockets, logs and caches: beside the configuration, not watched.
    pub fn state(&self) -> PathBuf {
        self.root.path().join("state")
    }

    /// Replaces `name` as a whole, by rename: no reader sees half of it.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let target = self.path().join(name);
        let staged = self.state().join(format!(".{}.new", name.replace('/', "_")));
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent).unwrap();
        }
        std::fs::write(&staged, content).unwrap();
        std::fs::rename(&staged, &target).unwrap();
        target
    }

    /// Writes in place, without a rename: what a careless editor does.
    pub fn write_in_place(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path().join(name), content).unwrap();
    }

    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.path().join(name)).unwrap();
    }

    /// Copies every file of `from`, recursively.
    pub fn copy_from(&self, from: &Path) {
        copy(from, &self.path());
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
