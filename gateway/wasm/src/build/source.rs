//! The bytes of a module, held to the digest that the configuration knows them by.

use super::Failure;
use sha2::{Digest, Sha256};
use sluice_model::plugin::ModuleSource;
use std::fs::File;
use std::io::Read;
use std::sync::Arc;

/// Reads the module, at most `max` bytes.
pub(super) fn read(source: &ModuleSource, max: u64) -> Result<Arc<[u8]>, Failure> {
    let bytes: Arc<[u8]> = match source {
        ModuleSource::Inline { bytes, .. } => bytes.clone(),
        ModuleSource::File { path, .. } => {
            let unreadable = |error: std::io::Error| Failure::source(format!("`{path}` can't be read: {error}"));
            let mut bytes = Vec::new();
            File::open(&**path)
                .map_err(unreadable)?
                .take(max.saturating_add(1))
                .read_to_end(&mut bytes)
                .map_err(unreadable)?;
            bytes.into()
        }
    };
    if bytes.len() as u64 > max {
        return Err(Failure::invalid(format!("the module is larger than {max} bytes")));
    }
    let digest = hex::encode(Sha256::digest(&bytes));
    if digest != **source.sha256() {
        // A file that is being replaced: the next look at the folder, or the next try, sees it whole.
        return Err(Failure::source(format!(
            "the module's sha256 is {digest}, where the configuration says {}",
            source.sha256()
        )));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_model::problem::Code;

    #[test]
    fn bytes_of_another_digest_are_refused_and_tried_again() {
        let source = ModuleSource::Inline { bytes: Arc::from(&b"abc"[..]), sha256: "00".into() };
        let failure = read(&source, 100).unwrap_err();
        assert_eq!(failure.code, Code::PluginSource);
        assert!(failure.retry);
    }

    #[test]
    fn a_module_above_the_limit_is_refused_for_good() {
        let sha256 = hex::encode(Sha256::digest(b"abc"));
        let source = ModuleSource::Inline { bytes: Arc::from(&b"abc"[..]), sha256: sha256.into() };
        assert_eq!(&*read(&source, 3).unwrap(), b"abc");
        let failure = read(&source, 2).unwrap_err();
        assert_eq!((failure.code, failure.retry), (Code::PluginInvalid, false));
    }

    #[test]
    fn a_file_that_is_not_there_names_its_path() {
        let source = ModuleSource::File { path: "/nonexistent/x.wasm".into(), sha256: "00".into() };
        let failure = read(&source, 100).unwrap_err();
        assert!(failure.message.contains("/nonexistent/x.wasm"));
        assert!(failure.retry);
    }
}
