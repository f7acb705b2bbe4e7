//! Folders of YAML as a source of objects.
//!
//! ```text
//! paths ──► walk ──► files whose stamp changed ──► document ──► entries ──► one object a name ──► changes
//!                                                     ▲                     (first file wins)
//!                        what the file held before ───┘
//! ```
//!
//! What served before goes on serving where a file cannot be read, is not YAML, is empty, or holds an object of the
//! wrong shape; where a folder that was named vanishes or is suddenly empty, all of it does. Only deleting a file, or
//! an object in a file that is otherwise fine, deletes.

mod document;
mod modules;
mod walk;
mod watch;

pub use modules::MAX_MODULE_BYTES;
pub use watch::Watch;

use crate::SourceUpdate;
use document::Entry;
use indexmap::IndexMap;
use modules::Modules;
use sha2::{Digest, Sha256};
use sluice_model::{Code, Location, ObjectRef, Problem, Severity};
use sluice_resources::Change;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use walk::{Stamp, Walk};

/// Bytes of one configuration file: 16 MiB.
pub const MAX_FILE_BYTES: u64 = 16 << 20;

/// The paths that were named, and what was read from them so far.
#[derive(Debug)]
pub struct FileSource {
    roots: Vec<PathBuf>,
    files: BTreeMap<PathBuf, TextFile>,
    /// What the receiver of the changes holds.
    served: HashMap<ObjectRef, [u8; 32]>,
    modules: Modules,
    folders: BTreeSet<PathBuf>,
}

#[derive(Debug, Default)]
struct TextFile {
    /// `None`: to be read again, whatever the file system says.
    stamp: Option<Stamp>,
    sha256: [u8; 32],
    entries: Vec<Entry>,
    /// Why the text as a whole could not be used; the entries are then those of the former text.
    problem: Option<Problem>,
}

impl FileSource {
    /// A source of the objects in these folders and files. Nothing is read yet.
    pub fn open(paths: Vec<PathBuf>) -> FileSource {
        FileSource {
            roots: paths,
            files: BTreeMap::new(),
            served: HashMap::new(),
            modules: Modules::default(),
            folders: BTreeSet::new(),
        }
    }

    /// Reads what has changed. Blocks on the file system: not for a thread that serves requests.
    pub fn read(&mut self) -> SourceUpdate {
        self.read_but(&HashSet::new())
    }

    /// Like [`FileSource::read`], but leaves these files as they were: somebody is writing them
    /// ([`Watch::being_written`]).
    pub fn read_but(&mut self, writing: &HashSet<PathBuf>) -> SourceUpdate {
        let seen = Instant::now();
        let mut problems = Vec::new();
        let walk = self.walk(&mut problems);
        for (path, stamp) in &walk.files {
            if writing.contains(path) {
                continue;
            }
            let file = self.files.entry(path.clone()).or_default();
            if file.stamp != Some(*stamp) {
                file.read(path);
            }
        }
        self.folders = walk.folders;
        let (mut changes, named) = self.changes(&mut problems);
        let mut files = Vec::new();
        let mut module_problems = Vec::new();
        self.modules.read(&named, writing, &mut files, &mut module_problems);
        self.locate_all(&mut module_problems);
        problems.append(&mut module_problems);
        self.folders.extend(self.modules.folders());
        changes.splice(0..0, files);
        SourceUpdate { changes, problems, seen, complete: true }
    }

    /// Like [`FileSource::read_but`], but looks into every other file, whatever its stamp says.
    pub fn reread(&mut self, writing: &HashSet<PathBuf>) -> SourceUpdate {
        self.files.values_mut().for_each(|file| file.stamp = None);
        self.modules.forget_stamps();
        self.read_but(writing)
    }

    /// The folders whose changes matter, as of the last reading.
    pub fn folders(&self) -> &BTreeSet<PathBuf> {
        &self.folders
    }

    /// How many configuration files are read.
    pub fn file_count(&self) -> usize {
        self.files.len()
    }

    /// Where a field of an object stands. The field's line where the file is still the one that was read; else the
    /// line where the object began.
    pub fn locate(&self, object: &ObjectRef, field: &str) -> Option<Location> {
        self.locate_with(object, field, &mut HashMap::new())
    }

    /// Fills in where each problem stands that does not say so yet. Reads each file once.
    pub fn locate_all(&self, problems: &mut [Problem]) {
        let mut texts = HashMap::new();
        for problem in problems.iter_mut().filter(|p| p.location.is_none()) {
            if let Some(object) = &problem.object {
                problem.location = self.locate_with(object, &problem.field, &mut texts);
            }
        }
    }

    fn locate_with<'a>(
        &'a self,
        object: &ObjectRef,
        field: &str,
        texts: &mut HashMap<&'a Path, Option<Vec<crate::yaml::Node>>>,
    ) -> Option<Location> {
        let (path, file, entry) = self.files.iter().find_map(|(path, file)| {
            let is_there = |e: &&Entry| e.object.is_some() || e.unreadable.is_some();
            let mut there = file.entries.iter().filter(is_there);
            let entry = there.find(|e| e.reference.as_ref() == Some(object))?;
            Some((path, file, entry))
        })?;
        let documents = texts.entry(path.as_path()).or_insert_with(|| {
            let (bytes, _) = read_bounded(path).ok()?;
            let same = <[u8; 32]>::from(Sha256::digest(&bytes)) == file.sha256;
            same.then(|| crate::yaml::load(std::str::from_utf8(&bytes).ok()?).ok()).flatten()
        });
        let node = documents.as_deref().and_then(|documents| entry.place.find(documents));
        let line = node.map_or(entry.line, |node| node.line_of(field));
        Some(Location { file: path.to_string_lossy().into(), line })
    }

    /// Finds the files, and forgets those that were deleted, but not those that are merely out of sight.
    fn walk(&mut self, problems: &mut Vec<Problem>) -> Walk {
        let mut walk = Walk::default();
        self.roots.iter().for_each(|root| walk.add(root));
        let mut unknown: Vec<PathBuf> = walk.failed.iter().map(|(path, _)| path.clone()).collect();
        for (path, reason) in &walk.failed {
            problems.push(unreadable(path, reason));
        }
        for root in &self.roots {
            let holds = |path: &PathBuf| path.starts_with(root);
            if self.files.keys().any(holds) && !walk.files.keys().any(holds) && !unknown.contains(root) {
                problems.push(unreadable(root, "the folder is empty all of a sudden"));
                unknown.push(root.clone());
            }
        }
        let stays = |path: &Path| walk.files.contains_key(path) || unknown.iter().any(|u| path.starts_with(u));
        self.files.retain(|path, _| stays(path));
        walk
    }

    /// Compares what the files now say with what was handed on, and tells which modules are named.
    fn changes(&mut self, problems: &mut Vec<Problem>) -> (Vec<Change>, BTreeMap<Arc<str>, ObjectRef>) {
        let mut changes = Vec::new();
        let mut named = BTreeMap::new();
        // In the order of files. Of two with one name the first is used that can be read.
        let mut places: IndexMap<&ObjectRef, (&Path, &Entry)> = IndexMap::new();
        for (path, file) in &self.files {
            problems.extend(file.problem.clone());
            for entry in &file.entries {
                problems.extend(entry.problems.iter().cloned());
                let Some(reference) = &entry.reference else { continue };
                if entry.object.is_none() && entry.unreadable.is_none() {
                    continue;
                }
                let Some(first) = places.get_mut(reference) else {
                    places.insert(reference, (path, entry));
                    continue;
                };
                let mut second = (path.as_path(), entry);
                if first.1.object.is_none() && entry.object.is_some() {
                    std::mem::swap(first, &mut second);
                }
                let ((used, first), (unused, second)) = (*first, second);
                let message = format!("already read from {}:{}", used.display(), first.line);
                problems.push(Problem {
                    location: Some(Location { file: unused.to_string_lossy().into(), line: second.line }),
                    ..Problem::error(Code::DuplicateObject, reference, "", message)
                });
            }
        }
        for (reference, (_, entry)) in &places {
            if let Some(module) = &entry.module {
                named.insert(module.clone(), (*reference).clone());
            }
            if self.served.get(*reference) != Some(&entry.fingerprint) {
                changes.extend(entry.object.clone().map(Change::Upsert));
                changes.extend(entry.unreadable.clone().map(Change::Unreadable));
            }
        }
        let served = places.iter().map(|(reference, (_, entry))| ((*reference).clone(), entry.fingerprint)).collect();
        let gone = self.served.keys().filter(|reference| !places.contains_key(reference)).cloned();
        let mut gone: Vec<ObjectRef> = gone.collect();
        gone.sort_unstable();
        changes.extend(gone.into_iter().map(Change::Delete));
        self.served = served;
        (changes, named)
    }
}

impl TextFile {
    /// Reads the file again. On any failure the entries stay as they are.
    fn read(&mut self, path: &Path) {
        self.problem = self.try_read(path).err().map(|problem| *problem);
    }

    fn try_read(&mut self, path: &Path) -> Result<(), Box<Problem>> {
        self.stamp = None;
        let (bytes, stamp) = read_bounded(path).map_err(|error| match error.kind() {
            io::ErrorKind::FileTooLarge => {
                let message = format!("{} is larger than {} MiB", path.display(), MAX_FILE_BYTES >> 20);
                Box::new(in_file(Code::FileTooLarge, path, 1, message))
            }
            _ => Box::new(in_file(Code::FileUnreadable, path, 1, format!("{}: {error}", path.display()))),
        })?;
        self.stamp = stamp.is_settled(SystemTime::now()).then_some(stamp);
        let sha256: [u8; 32] = Sha256::digest(&bytes).into();
        if sha256 == self.sha256 && self.problem.is_none() {
            return Ok(());
        }
        let text = std::str::from_utf8(&bytes).map_err(|error| {
            let line = bytes.iter().take(error.valid_up_to()).filter(|b| **b == b'\n').count() + 1;
            let line = u32::try_from(line).unwrap_or(u32::MAX);
            Box::new(in_file(Code::YamlSyntax, path, line, "not UTF-8 text".to_owned()))
        })?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let entries = document::read(path, text, &self.entries)
            .map_err(|error| Box::new(in_file(Code::YamlSyntax, path, error.line, error.message)))?;
        if entries.is_empty() && !self.entries.is_empty() {
            let message = "the file is empty all of a sudden";
            let hint = "delete the file to remove its objects; until then they go on serving";
            return Err(Box::new(in_file(Code::YamlSyntax, path, 1, message.to_owned()).hint(hint)));
        }
        self.entries = entries;
        self.sha256 = sha256;
        Ok(())
    }
}

fn read_bounded(path: &Path) -> io::Result<(Vec<u8>, Stamp)> {
    let file = File::open(path)?;
    let meta = file.metadata()?;
    let mut bytes = Vec::with_capacity(usize::try_from(meta.len().min(MAX_FILE_BYTES)).unwrap_or(0));
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok((bytes, Stamp::of(&meta)))
}

fn unreadable(path: &Path, reason: &str) -> Problem {
    in_place(Code::FileUnreadable, None, format!("{}: {reason}", path.display()))
}

fn in_file(code: Code, path: &Path, line: u32, message: String) -> Problem {
    in_place(code, Some(Location { file: path.to_string_lossy().into(), line }), message)
}

/// A problem of text, not of an object.
fn in_place(code: Code, location: Option<Location>, message: String) -> Problem {
    Problem {
        code,
        severity: Severity::Error,
        object: None,
        field: String::new(),
        message,
        hint: code.hint().to_owned(),
        location,
    }
}
