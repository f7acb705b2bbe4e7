//! Rust: cargo, for wasm32-unknown-unknown. The module that comes out carries its WIT, and the gateway makes a component of
//! it.

use super::super::project::Project;
use super::tools;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const TARGET: &str = "wasm32-unknown-unknown";

/// Debian's own toolchain, where rustup can't be had: it builds the standard library too.
const DEBIAN: [&str; 4] =
    ["/usr/bin/rustc", "/usr/bin/cargo", "/usr/bin/wasm-ld-19", "/usr/lib/rustlib/src/rust/library"];

pub(super) fn build(project: &Project) -> Result<Vec<u8>> {
    let mut command = cargo(project)?;
    command.args(["build", "--release", "--target", TARGET, "--message-format", "json-render-diagnostics"]);
    command.current_dir(&project.folder);
    // What is meant for this machine's own programs.
    for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        command.env_remove(variable);
    }
    tools::say(&mut command).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let output = command.output().context("cargo")?;
    if !output.status.success() {
        bail!("cargo build failed: {}", output.status);
    }
    let module = artifact(&output.stdout, &project.folder)?;
    std::fs::read(&module).with_context(|| module.display().to_string())
}

/// The one module of the project among cargo's messages.
fn artifact(messages: &[u8], folder: &Path) -> Result<PathBuf> {
    let messages = messages.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let own = messages.filter(|message| {
        let manifest = message.get("manifest_path").and_then(Value::as_str);
        message.get("reason").and_then(Value::as_str) == Some("compiler-artifact")
            && manifest.is_some_and(|manifest| Path::new(manifest) == folder.join("Cargo.toml"))
    });
    let files = own.flat_map(|message| message.get("filenames").and_then(Value::as_array).cloned().unwrap_or_default());
    let mut modules = files
        .filter_map(|file| Some(PathBuf::from(file.as_str()?)))
        .filter(|file| file.extension() == Some("wasm".as_ref()));
    match (modules.next(), modules.next()) {
        (Some(module), None) => Ok(module),
        (Some(_), Some(_)) => bail!("the project builds several modules: a project is one plugin"),
        (None, _) => {
            bail!("the project builds no module: Cargo.toml needs `[lib] crate-type = [\"cdylib\", \"rlib\"]`")
        }
    }
}

/// A cargo that can build for the target.
fn cargo(project: &Project) -> Result<Command> {
    let only_debian = std::env::var_os("SLUICE_GUEST_TOOLCHAIN").is_some_and(|toolchain| toolchain == "debian");
    if !only_debian && has_target(&project.folder) {
        return Ok(Command::new(tools::find("cargo", "install Rust from https://rustup.rs")?));
    }
    if DEBIAN.iter().all(|file| Path::new(file).exists()) {
        let mut command = Command::new("/usr/bin/cargo");
        let path = std::env::var("PATH").unwrap_or_default();
        command.args(["-Zbuild-std=std,panic_abort"]);
        command.env("PATH", format!("/usr/bin:{path}")).env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
        command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", "wasm-ld-19");
        return Ok(command);
    }
    if tools::on_path("rustup").is_some() {
        bail!("Rust's library for {TARGET} is not installed: run `rustup target add {TARGET}`");
    }
    bail!(
        "there is no Rust that builds for {TARGET}: install it from https://rustup.rs and run `rustup target add {TARGET}`, \
         or on Debian `apt-get install rustc-web cargo-web rust-web-src lld-19`"
    )
}

/// Whether the toolchain of the project has the standard library for the target.
fn has_target(folder: &Path) -> bool {
    let output = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", TARGET])
        .current_dir(folder)
        .stderr(Stdio::null())
        .output();
    output.is_ok_and(|output| {
        output.status.success() && Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_is_the_one_that_cargo_names_for_the_project() {
        let message = |manifest: &str, file: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"{manifest}/Cargo.toml","filenames":["{file}"]}}"#
            )
        };
        let messages = [
            message("/p/sdk/rust", "/t/libsluice.rlib"),
            "not json".to_owned(),
            message("/p", "/t/demo.wasm"),
            r#"{"reason":"build-finished"}"#.to_owned(),
        ];
        let found = artifact(messages.join("\n").as_bytes(), Path::new("/p")).unwrap();
        assert_eq!(found, Path::new("/t/demo.wasm"));
        let error = artifact(messages[0].as_bytes(), Path::new("/p")).unwrap_err().to_string();
        assert!(error.contains("crate-type"), "{error}");
    }
}
