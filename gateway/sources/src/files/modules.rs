//! The plugin modules that Plugin objects name by file: read, and told by the fingerprint of their content. The code
//! itself is read again by the plugin host, off the request path, when it compiles it.

use super::walk::Stamp;
use sha2::{Digest, Sha256};
use sluice_model::{Code, ObjectRef, Problem};
use sluice_resources::Change;
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// Bytes of one plugin module: 32 MiB, as in the plugin host. Components made from scripting languages take about 12.
pub const MAX_MODULE_BYTES: u64 = 32 << 20;

#[derive(Debug, Default)]
pub(super) struct Modules {
    known: BTreeMap<Arc<str>, Module>,
}

#[derive(Debug)]
struct Module {
    stamp: Option<Stamp>,
    /// Of the content that was read last. It stays when the file goes away, as while a build replaces it.
    sha256: Option<Arc<str>>,
}

impl Modules {
    /// Looks at each module that is named, and at no other; and not at one that is just being written, unless nothing is
    /// known of it.
    pub(super) fn read(
        &mut self,
        named: &BTreeMap<Arc<str>, ObjectRef>,
        writing: &HashSet<PathBuf>,
        changes: &mut Vec<Change>,
        problems: &mut Vec<Problem>,
    ) {
        self.known.retain(|path, _| named.contains_key(path));
        for (path, plugin) in named {
            let former = self.known.get(path);
            let first = former.is_none();
            if !first && writing.contains(Path::new(&**path)) {
                continue;
            }
            match fingerprint(Path::new(&**path), former) {
                Ok(None) => {}
                Ok(Some(module)) => {
                    if first || former.is_some_and(|f| f.sha256 != module.sha256) {
                        changes.push(Change::File { path: path.clone(), sha256: module.sha256.clone() });
                    }
                    self.known.insert(path.clone(), module);
                }
                Err(error) => {
                    if first {
                        changes.push(Change::File { path: path.clone(), sha256: None });
                        self.known.insert(path.clone(), Module { stamp: None, sha256: None });
                    } else if former.is_some_and(|f| f.sha256.is_some()) {
                        // A file that was never there is the translator's to report; one that went away is ours.
                        let message = format!("`{path}`: {error}; the code read last goes on serving");
                        problems.push(Problem::error(Code::PluginSource, plugin, "spec.source.file.path", message));
                    }
                }
            }
        }
    }

    /// The folders to watch.
    pub(super) fn folders(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.known.keys().filter_map(|path| Path::new(&**path).parent().map(Path::to_owned))
    }

    pub(super) fn forget_stamps(&mut self) {
        self.known.values_mut().for_each(|module| module.stamp = None);
    }
}

/// `None`: nothing has changed since `former` was read.
fn fingerprint(path: &Path, former: Option<&Module>) -> io::Result<Option<Module>> {
    let meta = std::fs::metadata(path)?;
    if !meta.is_file() {
        return Err(io::Error::other("not a file"));
    }
    let stamp = Stamp::of(&meta);
    if former.is_some_and(|f| f.stamp == Some(stamp)) {
        return Ok(None);
    }
    if stamp.size == 0 {
        return Err(io::Error::other("the file is empty"));
    }
    if stamp.size > MAX_MODULE_BYTES {
        return Err(io::Error::other(format!("larger than {} MiB", MAX_MODULE_BYTES >> 20)));
    }
    let mut hash = Sha256::new();
    let mut file = File::open(path)?.take(MAX_MODULE_BYTES);
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => hash.update(buffer.get(..n).unwrap_or_default()),
        }
    }
    let sha256: Arc<str> = hex::encode(hash.finalize()).into();
    Ok(Some(Module { stamp: stamp.is_settled(SystemTime::now()).then_some(stamp), sha256: Some(sha256) }))
}
