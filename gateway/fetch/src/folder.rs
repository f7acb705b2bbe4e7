//! Folders of ours between runs: what is read back from them nobody else can have written.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Makes the folder, or makes sure that an existing one is ours alone.
pub fn own_folder(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    ours(&fs::metadata(dir)?)
}

/// Whether a file or folder belongs to our own user, and lets nobody else in.
pub fn ours(metadata: &Metadata) -> io::Result<()> {
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("it belongs to another user"));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(io::Error::other("its mode lets others in (0700 for the folder, 0600 for a file)"));
    }
    Ok(())
}

/// Opens a file of ours that has at most `max` bytes. A link is not followed.
pub fn open(path: &Path, max: u64) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32).open(path)?;
    let metadata = file.metadata()?;
    ours(&metadata)?;
    if !metadata.is_file() || metadata.len() > max {
        return Err(io::Error::other("it is no file, or too large"));
    }
    Ok(file)
}

/// Reads a file of ours that has at most `max` bytes.
pub fn read(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path, max)?.take(max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes a file with mode 0600, whole or not at all.
pub fn write(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let unfinished = path.with_extension(format!("new-{}", std::process::id()));
    let written = write_new(&unfinished, parts).and_then(|()| fs::rename(&unfinished, path));
    if written.is_err() {
        // Nothing reads it under this name.
        drop(fs::remove_file(&unfinished));
    }
    written
}

fn write_new(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    parts.iter().try_for_each(|part| file.write_all(part))
}
