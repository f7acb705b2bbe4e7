//! Compiled functions, kept by their content: in memory for the modules in use, and on disk between runs.
//!
//! A configured image differs from its module in data, not in code, and may hold a secret, so it is never written to disk;
//! its functions are the same for each configuration and hold none. Keeping these instead of whole images makes the
//! second configuration of a plugin four times cheaper than the first, and a restart as cheap as that.
//!
//! Machine code is only read from files that nobody else can have written: a folder and files of our own user, closed
//! to all others. A digest finds what a crash or a bad disk left half.

use sha2::{Digest, Sha256};
use sluice_fetch::folder;
use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread::ThreadId;
use std::time::SystemTime;

/// First bytes of each file: what it is, and the version of its layout.
const MAGIC: &[u8] = b"sluice-functions-1\n";

/// Bytes of functions kept in memory, all modules together.
const MAX_MEMORY: usize = 64 << 20;

/// Bytes of one file, and of the folder: the oldest files go first.
const MAX_FILE: u64 = 128 << 20;
const MAX_FOLDER: u64 = 512 << 20;

type Functions = HashMap<Box<[u8]>, Box<[u8]>>;

/// The functions of one module.
#[derive(Debug, Default)]
struct Group {
    module: String,
    functions: Functions,
    bytes: usize,
    /// Functions that the file does not have yet.
    dirty: bool,
}

impl Group {
    fn insert(&mut self, key: &[u8], value: Box<[u8]>) {
        self.bytes += key.len() + value.len();
        self.functions.insert(key.into(), value);
    }
}

#[derive(Debug, Default)]
struct Inner {
    /// Of each thread that compiles, the module that it is at.
    current: HashMap<ThreadId, Group>,
    recent: VecDeque<Group>,
    hits: u64,
    misses: u64,
}

/// Used by the threads that compile, never for a request. No two of them are at one module.
#[derive(Debug)]
pub(crate) struct FunctionCache {
    dir: Option<PathBuf>,
    inner: Mutex<Inner>,
}

impl FunctionCache {
    /// A folder that can't be trusted is not used; the log says why.
    pub(crate) fn new(dir: Option<&Path>) -> FunctionCache {
        let dir = dir.and_then(|dir| match folder::own_folder(dir) {
            Ok(()) => Some(dir.to_owned()),
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "compiled plugins are not kept between runs");
                None
            }
        });
        FunctionCache { dir, inner: Mutex::default() }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        // A panic while it was held left a map of whole entries: nothing to mend.
        act(&mut self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Compiles of this thread belong to `module` from now on. The name holds all that code depends on: module and engine.
    pub(super) fn begin(&self, module: &str) {
        self.with(|inner| {
            let thread = std::thread::current().id();
            if inner.current.get(&thread).is_some_and(|group| group.module == module) {
                return;
            }
            if let Some(before) = inner.current.remove(&thread) {
                inner.keep(before);
            }
            let elsewhere = inner.current.iter().find(|(_, group)| group.module == module).map(|(thread, _)| *thread);
            let kept = inner.recent.iter().position(|group| group.module == module);
            let group = match elsewhere.and_then(|thread| inner.current.remove(&thread)) {
                Some(group) => group,
                None => match kept.and_then(|index| inner.recent.remove(index)) {
                    Some(group) => group,
                    None => self.read(module),
                },
            };
            inner.current.insert(thread, group);
        });
    }

    /// Writes what is new.
    pub(super) fn finish(&self) {
        let Some(dir) = &self.dir else { return };
        self.with(|inner| {
            let Some(group) = inner.current.get_mut(&std::thread::current().id()) else { return };
            if !std::mem::take(&mut group.dirty) {
                return;
            }
            if let Err(error) = write(dir, group) {
                tracing::warn!(dir = %dir.display(), %error, "compiled functions of a plugin can't be kept");
            }
        });
    }

    /// Functions that were found, and that had to be compiled.
    pub(crate) fn counts(&self) -> (u64, u64) {
        self.with(|inner| (inner.hits, inner.misses))
    }

    fn read(&self, module: &str) -> Group {
        let mut group = Group { module: module.to_owned(), ..Group::default() };
        let Some(dir) = &self.dir else { return group };
        let path = file(dir, module);
        match read(&path) {
            Ok(functions) => functions.into_iter().for_each(|(key, value)| group.insert(&key, value)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "a file of compiled functions is not used, and is made anew");
                group.dirty = true;
            }
        }
        group
    }
}

impl Inner {
    fn keep(&mut self, group: Group) {
        if !group.functions.is_empty() {
            self.recent.push_front(group);
        }
        let mut bytes = 0;
        self.recent.retain(|group| {
            bytes += group.bytes;
            bytes <= MAX_MEMORY
        });
    }
}

impl wasmtime::CacheStore for FunctionCache {
    fn get(&self, key: &[u8]) -> Option<Cow<'_, [u8]>> {
        self.with(|inner| {
            let group = inner.current.get(&std::thread::current().id());
            let found = group.and_then(|group| group.functions.get(key)).map(|value| Cow::Owned(value.to_vec()));
            match &found {
                Some(_) => inner.hits += 1,
                None => inner.misses += 1,
            }
            found
        })
    }

    fn insert(&self, key: &[u8], value: Vec<u8>) -> bool {
        self.with(|inner| {
            let Some(group) = inner.current.get_mut(&std::thread::current().id()) else { return false };
            let room = group.bytes + key.len() + value.len() <= MAX_MEMORY;
            if room {
                group.insert(key, value.into());
                group.dirty = true;
            }
            room
        })
    }
}

fn file(dir: &Path, module: &str) -> PathBuf {
    dir.join(format!("{module}.functions"))
}

fn read(path: &Path) -> io::Result<Functions> {
    let bytes = folder::read(path, MAX_FILE)?;
    parse(&bytes).ok_or_else(|| io::Error::other("its content is not what was written"))
}

fn parse(bytes: &[u8]) -> Option<Functions> {
    let (digest, mut rest) = bytes.strip_prefix(MAGIC)?.split_at_checked(32)?;
    if Sha256::digest(rest).as_slice() != digest {
        return None;
    }
    let mut functions = Functions::new();
    while !rest.is_empty() {
        let key = field(&mut rest)?.into();
        functions.insert(key, field(&mut rest)?.into());
    }
    Some(functions)
}

/// A length of four bytes, and as many.
fn field<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let (field, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    *rest = after;
    Some(field)
}

fn write(dir: &Path, group: &Group) -> io::Result<()> {
    let mut content = Vec::with_capacity(group.bytes + 8 * group.functions.len());
    for (key, value) in &group.functions {
        for field in [key, value] {
            content.extend_from_slice(&(field.len() as u32).to_le_bytes());
            content.extend_from_slice(field);
        }
    }
    let digest = Sha256::digest(&content);
    folder::write(&file(dir, &group.module), &[MAGIC, digest.as_slice(), &content])?;
    prune(dir)
}

/// Removes the oldest files until the folder is small enough.
fn prune(dir: &Path) -> io::Result<()> {
    let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_file() {
            files.push((metadata.modified()?, metadata.len(), entry.path()));
        }
    }
    files.sort_by_key(|file| std::cmp::Reverse(file.0));
    let mut bytes = 0;
    for (_, size, path) in files {
        bytes += size;
        if bytes > MAX_FOLDER {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use wasmtime::CacheStore;

    fn filled(dir: &Path) -> FunctionCache {
        let cache = FunctionCache::new(Some(dir));
        cache.begin("m");
        assert!(cache.insert(b"key", b"code".to_vec()));
        cache.finish();
        cache
    }

    fn finds(dir: &Path) -> bool {
        let cache = FunctionCache::new(Some(dir));
        cache.begin("m");
        cache.get(b"key").is_some()
    }

    #[test]
    fn functions_outlive_the_process_in_a_file_that_is_ours_alone() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("cache");
        filled(&dir);
        assert!(finds(&dir));
        assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(file(&dir, "m")).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn functions_are_found_for_their_own_module_only() {
        let dir = tempfile::tempdir().unwrap();
        let cache = filled(&dir.path().join("cache"));
        cache.begin("other");
        assert_eq!(cache.get(b"key"), None);
        cache.begin("m");
        assert_eq!(cache.get(b"key").as_deref(), Some(&b"code"[..]));
        assert_eq!(cache.counts(), (1, 1));
    }

    #[test]
    fn a_file_that_was_changed_is_refused_and_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("cache");
        filled(&dir);
        let path = file(&dir, "m");
        for damage in [0, MAGIC.len(), MAGIC.len() + 32, MAGIC.len() + 38] {
            let mut bytes = fs::read(&path).unwrap();
            bytes[damage] ^= 1;
            fs::write(&path, bytes).unwrap();
            assert!(!finds(&dir), "damage at {damage}");
            filled(&dir);
            assert!(finds(&dir));
        }
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert!(!finds(&dir));
    }

    #[test]
    fn a_file_or_folder_that_others_may_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("cache");
        filled(&dir);
        fs::set_permissions(file(&dir, "m"), fs::Permissions::from_mode(0o660)).unwrap();
        assert!(!finds(&dir));
        fs::set_permissions(file(&dir, "m"), fs::Permissions::from_mode(0o600)).unwrap();
        assert!(finds(&dir));
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(!finds(&dir));
    }

    #[test]
    fn a_link_in_place_of_a_file_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("cache");
        filled(&dir);
        let elsewhere = dir.join("elsewhere");
        fs::rename(file(&dir, "m"), &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, file(&dir, "m")).unwrap();
        assert!(!finds(&dir));
    }
}
