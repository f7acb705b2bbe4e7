//! The secret that tokens of sessions are signed with: a file that is named, or one in the state folder, made at the first
//! start, so that a restart goes on with the same sessions.

use crate::certificate::write_private;
use anyhow::{Context, Result, ensure};
use rustix::rand::{GetRandomFlags, getrandom};
use sluice_proxy::SessionSecret;
use std::fs;
use std::path::Path;

/// Bytes that the file has at least: the length of what is made of it.
const LEAST: usize = 32;

pub(crate) fn load(file: &Path) -> Result<SessionSecret> {
    let content = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    // An editor's last line break is no part of a secret.
    let secret = content.trim_ascii_end();
    ensure!(
        secret.len() >= LEAST,
        "{} has {} bytes: a session key needs at least {LEAST}, as `openssl rand -hex 32` makes them",
        file.display(),
        secret.len()
    );
    Ok(SessionSecret::new(secret))
}

/// The one in the state folder, or a new one where there is none or it cannot be used.
pub(crate) fn load_or_make(state: &Path) -> Result<SessionSecret> {
    let file = state.join("session-key");
    if file.exists() {
        match load(&file) {
            Ok(secret) => return Ok(secret),
            Err(error) => tracing::warn!("the session key cannot be used, making another: {error:#}"),
        }
    }
    let mut random = [0; LEAST];
    let filled = getrandom(&mut random, GetRandomFlags::empty())?;
    ensure!(filled == LEAST, "the kernel gave {filled} random bytes of {LEAST}");
    write_private(&file, hex::encode(random).as_bytes())?;
    load(&file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_key_is_made_once_for_the_owner_alone_and_made_anew_when_broken() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("session-key");
        let first = load_or_make(folder.path()).unwrap();
        assert!(load_or_make(folder.path()).unwrap() == first);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&file, "short").unwrap();
        assert!(load_or_make(folder.path()).unwrap() != first);
    }

    #[test]
    fn a_key_that_is_too_short_is_refused_with_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        fs::write(&file, format!("{}\n", "x".repeat(31))).unwrap();
        let error = load(&file).unwrap_err().to_string();
        assert!(error.contains("31 bytes") && error.contains("at least 32"), "{error}");
        fs::write(&file, "x".repeat(32)).unwrap();
        load(&file).unwrap();
    }
}
