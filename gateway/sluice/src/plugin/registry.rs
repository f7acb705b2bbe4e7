//! What pushing and pulling have in common: who one is for the registry, and how far it is.

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;
use sluice_fetch::{Http, Policy, Progress};
use sluice_model::remote::{Credentials, ImageName};
use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a password and of a Docker configuration that are read.
const MAX_SECRET: u64 = 1 << 20;

#[derive(Args, Debug)]
pub(super) struct RegistryArgs {
    /// Who to be for the registry [default: as $DOCKER_CONFIG/config.json or ~/.docker/config.json says, or nobody]
    #[arg(long, value_name = "NAME", requires = "password_stdin")]
    username: Option<String>,
    /// Read the password of --username from standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,
    /// A registry, with a port or without, that is asked by plain HTTP, as those on loopback are; may be repeated
    #[arg(long, value_name = "HOST", value_parser = Policy::host)]
    insecure_registry: Vec<String>,
}

impl RegistryArgs {
    pub(super) fn http(&self) -> Result<Http> {
        Ok(Http::new(Policy { insecure: self.insecure_registry.clone(), loopback: true })?)
    }

    pub(super) fn credentials(&self, image: &ImageName) -> Result<Option<Credentials>> {
        let Some(username) = &self.username else { return of_docker(image) };
        let mut password = String::new();
        io::stdin().take(MAX_SECRET).read_to_string(&mut password).context("cannot read the password")?;
        let password = password.trim_end_matches(['\r', '\n']);
        if password.is_empty() {
            bail!("standard input holds no password");
        }
        Ok(Some(Credentials { username: username.as_str().into(), password: password.into() }))
    }
}

/// What `docker login` has left.
fn of_docker(image: &ImageName) -> Result<Option<Credentials>> {
    let folder = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let home = || Some(std::env::home_dir()?.join(".docker"));
    let Some(path) = folder.or_else(home).map(|folder| folder.join("config.json")) else { return Ok(None) };
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let found = Credentials::of_docker_config(&text, image)
        .map_err(|reason| anyhow::anyhow!("{} can't be used: {reason}", path.display()))?;
    if found.is_none() && has_helper(&text, &image.registry) {
        eprintln!(
            "sluice: {} leaves the password to a helper, which is not asked: give --username and --password-stdin if the registry wants one",
            path.display()
        );
    }
    Ok(found)
}

fn has_helper(text: &[u8], registry: &str) -> bool {
    let config: Value = serde_json::from_slice(text).unwrap_or_default();
    config.get("credsStore").is_some()
        || config.get("credHelpers").is_some_and(|helpers| helpers.get(registry).is_some())
}

/// Says how far it is, on a terminal only.
pub(super) fn progress(doing: &'static str) -> Option<Progress> {
    if !io::stderr().is_terminal() {
        return None;
    }
    let moved = AtomicU64::new(0);
    Some(Arc::new(move |bytes| {
        let moved = moved.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let mut err = io::stderr().lock();
        // Nobody is told if the terminal is gone.
        let _ = write!(err, "\r{doing}: {} KiB", moved.div_ceil(1024)).and_then(|()| err.flush());
    }))
}

/// Ends the line that [`progress`] wrote.
pub(super) fn end_progress() {
    if io::stderr().is_terminal() {
        eprintln!();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helper_is_seen_for_the_registries_that_it_is_for() {
        assert!(has_helper(br#"{"credsStore": "desktop"}"#, "r.example"));
        let some = br#"{"credHelpers": {"r.example": "ecr-login"}}"#;
        assert!(has_helper(some, "r.example") && !has_helper(some, "s.example"));
        assert!(!has_helper(b"{}", "r.example"));
    }
}
