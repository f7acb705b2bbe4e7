//! Modules that were fetched, kept on disk by their digest, with a record of what each source led to: a restart while the
//! registry is away has them, and so has a Plugin that goes back to what it was.
//!
//! A record belongs to one Plugin: what one of them was given for its credentials, another is not. Both are read under the
//! rules of [`folder`](crate::folder); who reads a module holds it to its digest.

use crate::folder;
use crate::source::Found;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sluice_model::plugin::{ModuleSource, PluginKey};
use sluice_model::remote::{RemoteSource, is_sha256};
use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const MODULE: &str = "wasm";
const RECORD: &str = "json";
/// Bytes of a record.
const MAX_RECORD: u64 = 16 << 10;
/// Records that are kept; the oldest go first, and those whose module is gone.
const MAX_RECORDS: usize = 4_096;

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// For whoever looks at the file.
    plugin: String,
    source: String,
    /// SHA-256 of the module, in hex.
    sha256: String,
    size: u64,
    image_digest: Option<String>,
}

/// A module that is here.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Kept {
    pub(crate) code: ModuleSource,
    pub(crate) size: u64,
    pub(crate) image_digest: Option<Arc<str>>,
}

/// The folder; without one nothing is kept.
#[derive(Debug)]
pub(crate) struct Store {
    dir: Option<PathBuf>,
    /// Bytes of all modules.
    max: u64,
    /// Bytes of one.
    max_module: u64,
    /// Modules that plugins have now, by digest: never removed.
    in_use: Mutex<HashSet<Arc<str>>>,
}

impl Store {
    /// A folder that can't be trusted is not used; the log says why.
    pub(crate) fn new(dir: Option<&Path>, max: u64, max_module: u64) -> Store {
        let dir = dir.and_then(|dir| match folder::own_folder(dir) {
            Ok(()) => Some(dir.to_owned()),
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "fetched plugins are not kept between runs");
                None
            }
        });
        Store { dir, max, max_module, in_use: Mutex::default() }
    }

    /// What the Plugin was given for this source before.
    pub(crate) fn find(&self, plugin: &PluginKey, source: &RemoteSource) -> Option<Kept> {
        let record = folder::read(&self.record(plugin, source)?, MAX_RECORD).ok()?;
        let record: Record = serde_json::from_slice(&record).ok()?;
        let code = self.module(&record.sha256, record.size)?;
        Some(Kept { code, size: record.size, image_digest: record.image_digest.map(Arc::from) })
    }

    /// A module, if it is here and whole.
    fn module(&self, sha256: &str, size: u64) -> Option<ModuleSource> {
        let path = self.module_path(sha256)?;
        let metadata = folder::open(&path, self.max_module).ok()?.metadata().ok()?;
        (metadata.len() == size).then_some(())?;
        Some(ModuleSource::File { path: path.to_str()?.into(), sha256: sha256.into() })
    }

    fn module_path(&self, sha256: &str) -> Option<PathBuf> {
        is_sha256(sha256).then_some(self.dir.as_ref()?.join(sha256).with_extension(MODULE))
    }

    fn record(&self, plugin: &PluginKey, source: &RemoteSource) -> Option<PathBuf> {
        let name = hex::encode(Sha256::digest(format!("{plugin}\n{}", source.identity())));
        Some(self.dir.as_ref()?.join(name).with_extension(RECORD))
    }

    /// Keeps a module and what led to it. Where that fails it is used all the same, from memory; the log says why.
    pub(crate) fn keep(&self, plugin: &PluginKey, source: &RemoteSource, found: Found) -> Kept {
        let Found { module, sha256, image_digest } = found;
        let size = module.len() as u64;
        if let Some(path) = self.module_path(&sha256).filter(|path| !self.is_whole(path, &module)) {
            let written = folder::write(&path, &[&module]).or_else(|_| {
                // The disk may be full of what nobody uses any more.
                self.prune(0);
                folder::write(&path, &[&module])
            });
            if let Err(error) = written {
                tracing::warn!(file = %path.display(), %error, "a fetched plugin can't be kept between runs");
            }
        }
        let of_plugin = plugin.to_string();
        let record = Record { plugin: of_plugin, source: source.to_string(), sha256, size, image_digest };
        // Whoever pins what a tag led to gets the same.
        let pinned = record.image_digest.as_deref().and_then(|digest| source.pinned(digest));
        for source in [Some(source), pinned.as_ref()].into_iter().flatten() {
            if let (Some(path), Ok(text)) = (self.record(plugin, source), serde_json::to_vec(&record))
                && let Err(error) = folder::write(&path, &[&text])
            {
                tracing::warn!(file = %path.display(), %error, "where a fetched plugin came from can't be kept");
            }
        }
        let Record { sha256, image_digest, .. } = record;
        let in_memory = || ModuleSource::Inline { bytes: module.into(), sha256: sha256.as_str().into() };
        let code = self.module(&sha256, size).unwrap_or_else(in_memory);
        Kept { code, size, image_digest: image_digest.map(Arc::from) }
    }

    fn is_whole(&self, path: &Path, module: &[u8]) -> bool {
        folder::read(path, self.max_module).is_ok_and(|kept| kept == module)
    }

    /// Says which modules plugins have now, and removes the oldest of the others if there are too many.
    pub(crate) fn use_only(&self, in_use: HashSet<Arc<str>>) {
        *self.in_use() = in_use;
        self.prune(self.max);
    }

    fn in_use(&self) -> MutexGuard<'_, HashSet<Arc<str>>> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prune(&self, max: u64) {
        let Some(dir) = &self.dir else { return };
        if let Err(error) = prune(dir, max, &self.in_use()) {
            tracing::warn!(dir = %dir.display(), %error, "fetched plugins that are not used any more can't be removed");
        }
    }
}

fn prune(dir: &Path, max: u64, in_use: &HashSet<Arc<str>>) -> io::Result<()> {
    let (mut modules, mut records) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let (path, metadata) = (entry.path(), entry.metadata()?);
        match path.extension().and_then(|extension| extension.to_str()) {
            Some(MODULE) => modules.push((metadata.modified()?, metadata.len(), path)),
            Some(RECORD) => records.push((metadata.modified()?, path)),
            _ => {}
        }
    }
    modules.sort_by_key(|module| std::cmp::Reverse(module.0));
    let is_used = |path: &PathBuf| {
        let name = path.file_stem().and_then(|name| name.to_str());
        name.is_some_and(|name| in_use.contains(name))
    };
    let mut bytes: u64 = modules.iter().filter(|module| is_used(&module.2)).map(|module| module.1).sum();
    let mut removed = false;
    for (_, size, path) in modules.iter().filter(|module| !is_used(&module.2)) {
        bytes += size;
        if bytes > max {
            fs::remove_file(path)?;
            removed = true;
        }
    }
    records.sort_by_key(|record| std::cmp::Reverse(record.0));
    let surplus = records.split_off(records.len().min(MAX_RECORDS));
    for (_, path) in surplus {
        fs::remove_file(path)?;
    }
    for (_, path) in records.iter().filter(|_| removed) {
        let record = folder::read(path, MAX_RECORD).ok().and_then(|text| serde_json::from_slice::<Record>(&text).ok());
        let is_there = |record: &Record| dir.join(&record.sha256).with_extension(MODULE).exists();
        if !record.as_ref().is_some_and(is_there) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_model::remote::RemoteLocation;
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, SystemTime};

    fn source(url: &str) -> RemoteSource {
        let location = RemoteLocation::Https { url: url.into(), sha256: "".into() };
        RemoteSource { location, credentials: None, revision: "".into() }
    }

    fn sha256(bytes: &[u8]) -> String {
        hex::encode(Sha256::digest(bytes))
    }

    fn plugin(name: &str) -> PluginKey {
        PluginKey::new("shop", name)
    }

    fn store(dir: &Path) -> Store {
        Store::new(Some(&dir.join("modules")), 100, 50)
    }

    fn keep(store: &Store, name: &str, module: &[u8]) -> Kept {
        let image_digest = Some("sha256:image".to_owned());
        let found = Found { module: module.to_vec(), sha256: sha256(module), image_digest };
        store.keep(&plugin(name), &source(name), found)
    }

    #[test]
    fn what_a_plugin_was_given_is_found_again_by_it_alone() {
        let dir = tempfile::tempdir().unwrap();
        let kept = keep(&store(dir.path()), "a", b"code");
        assert!(matches!(&kept.code, ModuleSource::File { .. }), "{kept:?}");
        let again = store(dir.path());
        assert_eq!(again.find(&plugin("a"), &source("a")), Some(kept));
        assert_eq!(again.find(&plugin("b"), &source("a")), None);
        assert_eq!(again.find(&plugin("a"), &source("b")), None);
    }

    #[test]
    fn files_that_others_may_write_or_that_are_cut_short_are_not_used_and_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let kept = keep(&store, "a", b"code");
        let ModuleSource::File { path, .. } = &kept.code else { panic!("{kept:?}") };
        fs::set_permissions(&**path, fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(store.find(&plugin("a"), &source("a")), None);
        assert_eq!(keep(&store, "a", b"code"), kept);
        fs::write(&**path, b"cod").unwrap();
        assert_eq!(store.find(&plugin("a"), &source("a")), None);
        assert_eq!(keep(&store, "a", b"code"), kept);
        assert_eq!(fs::read(&**path).unwrap(), b"code");
    }

    #[test]
    fn without_a_folder_modules_are_in_memory() {
        let store = Store::new(None, 100, 50);
        assert!(matches!(keep(&store, "a", b"code").code, ModuleSource::Inline { .. }));
        assert_eq!(store.find(&plugin("a"), &source("a")), None);
    }

    #[test]
    fn the_oldest_modules_go_first_and_never_those_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let modules: Vec<Vec<u8>> = (0..4u8).map(|n| vec![n; 40]).collect();
        for (age, module) in modules.iter().enumerate() {
            let kept = keep(&store, &age.to_string(), module);
            let ModuleSource::File { path, .. } = kept.code else { panic!("no folder") };
            let file = fs::File::options().write(true).open(&*path).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(age as u64)).unwrap();
        }
        store.use_only([sha256(&modules[0]).into()].into());
        let there = modules.iter().map(|module| store.module(&sha256(module), 40).is_some());
        // 80 bytes: what is in use, and the newest.
        assert_eq!(there.collect::<Vec<_>>(), [true, false, false, true]);
        let records = fs::read_dir(dir.path().join("modules")).unwrap();
        let records = records.filter(|entry| entry.as_ref().unwrap().path().extension().unwrap() == RECORD);
        assert_eq!(records.count(), 2);
    }
}
