//! The certificate of last resort: what an HTTPS listener shows where no other certificate covers the name. It is
//! self-signed, made at the first start and kept in the state folder, so that a restart shows the same one.

use anyhow::{Context, Result, bail};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use sluice_model::config::Certificate;
use sluice_translate::certificate_from_pem;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A certificate that ends sooner is replaced at the next start.
const RENEW_BEFORE: Duration = Duration::from_secs(30 * 86_400);

/// How long a new one is valid. A gateway that starts once a year finds it valid still.
const LIFETIME: Duration = Duration::from_secs(730 * 86_400);

/// The names of a new one, beside whatever it is shown for: clients must trust it by hand anyway.
const NAME: &str = "localhost";

/// Reads a chain and its key, as PEM files.
pub(crate) fn load(chain: &Path, key: &Path) -> Result<Arc<Certificate>> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let certificate = certificate_from_pem(&read(chain)?, &read(key)?)
        .map_err(|error| anyhow::anyhow!("{} and {}: {error}", chain.display(), key.display()))?;
    Ok(Arc::new(certificate))
}

/// The one in the state folder, or a new one where there is none, or it cannot be used or is about to end.
pub(crate) fn load_or_make(state: &Path) -> Result<Arc<Certificate>> {
    let (chain, key) = (state.join("default-certificate.pem"), state.join("default-key.pem"));
    match load(&chain, &key) {
        Ok(certificate) if certificate.not_after > SystemTime::now() + RENEW_BEFORE => return Ok(certificate),
        Ok(_) => tracing::info!("the default certificate is about to end: making another"),
        Err(error) if chain.exists() => {
            tracing::warn!("the default certificate cannot be used, making another: {error:#}")
        }
        Err(_) => tracing::info!(file = %chain.display(), "making a self-signed default certificate"),
    }
    let (chain_pem, key_pem) = make()?;
    // The key first: a chain without its key would be made anew, a key without its chain too.
    write_private(&key, key_pem.as_bytes())?;
    write_private(&chain, chain_pem.as_bytes())?;
    load(&chain, &key)
}

/// One that is never shown to anybody: for looking at files.
pub(crate) fn stand_in() -> Result<Arc<Certificate>> {
    let (chain, key) = make()?;
    Ok(Arc::new(certificate_from_pem(chain.as_bytes(), key.as_bytes()).map_err(anyhow::Error::msg)?))
}

fn make() -> Result<(String, String)> {
    let mut params = CertificateParams::new(vec![NAME.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Sluice default certificate");
    let now = SystemTime::now();
    params.not_before = (now - Duration::from_secs(86_400)).into();
    params.not_after = (now + LIFETIME).into();
    let key = KeyPair::generate()?;
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// Replaces a file as a whole; only its owner can read it.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let staged = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&staged)?;
        // A leftover keeps the mode that it was made with.
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&staged, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// The folder for what outlives a restart: the default certificate, compiled plugins, the socket of `--upgrade`. Made
/// where it is missing, for its owner alone.
pub(crate) fn state_folder(named: Option<PathBuf>) -> Result<PathBuf> {
    let folder = match named {
        Some(folder) => folder,
        None => default_state_folder().context("no place for state: set --state-dir")?,
    };
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let meta = fs::metadata(&folder)?;
    if !meta.is_dir() {
        bail!("{} is not a folder", folder.display());
    }
    Ok(folder)
}

/// Where the system says (systemd's StateDirectory=, XDG), else below the home folder.
fn default_state_folder() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("STATE_DIRECTORY")
        .or_else(|| variable("XDG_STATE_HOME").map(|folder| folder.join("sluice")))
        .or_else(|| variable("HOME").map(|home| home.join(".local/state/sluice")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_is_made_once_kept_for_the_owner_alone_and_made_anew_when_broken() {
        let folder = tempfile::tempdir().unwrap();
        let first = load_or_make(folder.path()).unwrap();
        assert_eq!(load_or_make(folder.path()).unwrap().key, first.key);
        for name in ["default-certificate.pem", "default-key.pem"] {
            assert_eq!(fs::metadata(folder.path().join(name)).unwrap().permissions().mode() & 0o777, 0o600);
        }
        fs::write(folder.path().join("default-key.pem"), "no key").unwrap();
        assert_ne!(load_or_make(folder.path()).unwrap().key, first.key);
    }
}
