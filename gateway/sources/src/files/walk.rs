//! Which files a set of paths means, and whether one has changed since it was read. Follows symbolic links, since a
//! mounted ConfigMap consists of them (`web.yaml -> ..data/web.yaml -> ..2026_01_01/web.yaml`), and skips whatever
//! starts with a dot, which is how such a mount hides its versions and how editors hide theirs.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Levels of folders below one that was named.
const MAX_DEPTH: usize = 16;

/// Configuration files, all paths together.
const MAX_FILES: usize = 20_000;

/// A file's identity and version as the file system tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    pub(super) size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(meta: &Metadata) -> Stamp {
        Stamp {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Whether an equal stamp later means equal content. The kernel's file times tick every few milliseconds, so a
    /// write right after the read could leave the stamp as it was.
    pub(super) fn is_settled(&self, now: SystemTime) -> bool {
        const TICK: Duration = Duration::from_millis(100);
        let Ok(now) = now.duration_since(SystemTime::UNIX_EPOCH) else { return false };
        let changed =
            Duration::new(u64::try_from(self.changed.0).unwrap_or(0), u32::try_from(self.changed.1).unwrap_or(0));
        now > changed + TICK
    }
}

#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Configuration files, in the order in which they are read.
    pub(super) files: BTreeMap<PathBuf, Stamp>,
    /// Folders to watch.
    pub(super) folders: BTreeSet<PathBuf>,
    /// Paths that could not be looked into, with the reason. What was below them is unknown, not gone.
    pub(super) failed: Vec<(PathBuf, String)>,
    /// Folders that were entered, by identity: a link that leads back is not followed.
    entered: HashSet<(u64, u64)>,
}

impl Walk {
    /// Adds a folder with all that is below it, or a single file whatever its name.
    pub(super) fn add(&mut self, path: &Path) {
        match std::fs::metadata(path) {
            Ok(meta) if meta.is_dir() => self.folder(path, &meta, 0),
            Ok(meta) if meta.is_file() => {
                // Editors replace a file, so it is the folder that tells of changes.
                let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
                self.folders.insert(folder.to_owned());
                self.file(path.to_owned(), &meta);
            }
            Ok(_) => self.failed.push((path.to_owned(), "neither a file nor a folder".into())),
            Err(error) => self.fail(path, &error),
        }
    }

    fn folder(&mut self, path: &Path, meta: &Metadata, depth: usize) {
        if depth > MAX_DEPTH {
            return self.failed.push((path.to_owned(), format!("more than {MAX_DEPTH} folders deep")));
        }
        if !self.entered.insert((meta.dev(), meta.ino())) {
            return;
        }
        self.folders.insert(path.to_owned());
        let entries = match std::fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) => return self.fail(path, &error),
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return self.fail(path, &error),
            };
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = entry.path();
            match std::fs::metadata(&path) {
                Ok(meta) if meta.is_dir() => self.folder(&path, &meta, depth + 1),
                Ok(meta) if meta.is_file() && is_configuration(&path) => self.file(path, &meta),
                Ok(_) => {}
                // It went away between the listing and now, or it is a link to nowhere.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => self.fail(&path, &error),
            }
        }
    }

    fn file(&mut self, path: PathBuf, meta: &Metadata) {
        if self.files.len() < MAX_FILES {
            self.files.insert(path, Stamp::of(meta));
        } else if !self.files.contains_key(&path) {
            self.failed.push((path, format!("more than {MAX_FILES} files")));
        }
    }

    fn fail(&mut self, path: &Path, error: &io::Error) {
        self.failed.push((path.to_owned(), error.to_string()));
    }
}

fn is_configuration(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json")
}
