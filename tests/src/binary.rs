//! Finds the `sluice` binary: `SLUICE_BIN` where it is set, else what cargo builds now.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The binary under test. Built at most once a process, with the profile in `SLUICE_TEST_PROFILE` (default `dev`).
pub fn sluice() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("SLUICE_BIN") {
        Some(path) => PathBuf::from(path),
        None => build(),
    })
}

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository").to_owned()
}

fn build() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let profile = std::env::var("SLUICE_TEST_PROFILE").unwrap_or_else(|_| "dev".to_owned());
    // The whole workspace, as `cargo test` selects it: another selection would mean other features of shared
    // dependencies, and so build most of them a second time.
    let mut build = Command::new(cargo);
    // What cargo tells this test of its package: ring's build asks for the like, and would be done again with all that
    // needs it, here and in the next build outside.
    let of_package = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_package)) {
        build.env_remove(name);
    }
    let output = build
        .args(["build", "--locked", "--workspace", "--bin", "sluice", "--message-format", "json", "--profile"])
        .arg(profile)
        .current_dir(root())
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo can be started");
    assert!(output.status.success(), "cargo build of the binary under test failed");
    output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "sluice")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .expect("cargo names the executable it built")
}
