//! The module within a layer, where an image has it among files: `plugin.wasm`, as Envoy and Istio have it.

use crate::FetchError;
use flate2::bufread::MultiGzDecoder;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Component, Path};

/// The file's name, at the top of the layer.
pub const PLUGIN_FILE: &str = "plugin.wasm";

/// What is read of a layer at most, as a multiple of the largest module: other files may stand before it.
const SCANNED: u64 = 4;

/// First bytes of gzip (RFC 1952).
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Reads a module of at most `max` bytes.
pub(crate) fn module(layer: &[u8], max: u64) -> Result<Vec<u8>, FetchError> {
    let reader: Box<dyn BufRead + '_> =
        if layer.starts_with(&GZIP) { Box::new(BufReader::new(MultiGzDecoder::new(layer))) } else { Box::new(layer) };
    let damaged = |error: io::Error| FetchError::Unusable(format!("the image's layer can't be read: {error}"));
    let mut archive = tar::Archive::new(reader.take(max.saturating_mul(SCANNED)));
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let is_file = entry.header().entry_type().is_file();
        if !is_file || !is_plugin(&entry.path().map_err(damaged)?) {
            continue;
        }
        let mut module = Vec::new();
        let size = entry.size();
        if size > max {
            return Err(FetchError::TooLarge { what: format!("`{PLUGIN_FILE}` of the image"), max });
        }
        entry.read_to_end(&mut module).map_err(damaged)?;
        if module.len() as u64 != size {
            return Err(FetchError::Unusable(format!("`{PLUGIN_FILE}` of the image is cut short")));
        }
        return Ok(module);
    }
    Err(FetchError::Unusable(format!("the image's layer has no file `{PLUGIN_FILE}`")))
}

fn is_plugin(path: &Path) -> bool {
    let mut names = path.components().filter(|part| !matches!(part, Component::CurDir | Component::RootDir));
    names.next().is_some_and(|name| name.as_os_str() == PLUGIN_FILE) && names.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn the_module_is_found_among_files_compressed_or_not() {
        let tar = archive(&[("etc/plugin.wasm", b"other"), ("README", b"x"), ("./plugin.wasm", b"code")]);
        assert_eq!(module(&tar, 1 << 16).unwrap(), b"code");
        assert_eq!(module(&gzip(&tar), 1 << 16).unwrap(), b"code");
    }

    #[test]
    fn what_holds_no_module_or_a_larger_one_is_refused() {
        let refused = |layer: &[u8]| module(layer, 1 << 16).unwrap_err().to_string();
        assert!(refused(&archive(&[("x", b"y")])).contains("has no file `plugin.wasm`"));
        assert!(refused(&gzip(&archive(&[("plugin.wasm", &[0; 70_000])]))).contains("larger than 65536 bytes"));
        // A bomb before it is not read to its end.
        let zeros = vec![0; 8 << 20];
        let bomb = gzip(&archive(&[("zeros", &zeros), ("plugin.wasm", b"code")]));
        assert!(bomb.len() < 1 << 20, "{}", bomb.len());
        assert!(module(&bomb, 1 << 16).is_err());
        let whole = gzip(&archive(&[("plugin.wasm", b"code")]));
        assert!(module(&whole[..whole.len() / 2], 1 << 16).is_err());
        assert!(module(b"neither", 1 << 16).is_err());
    }

    #[test]
    fn a_link_is_no_module() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, "plugin.wasm", "/etc/passwd").unwrap();
        assert!(module(&builder.into_inner().unwrap(), 1 << 16).is_err());
    }
}
