//! `sluice plugin push`: a module becomes an image.

use super::registry::{RegistryArgs, end_progress, progress};
use crate::lifecycle;
use anyhow::{Context, Result, ensure};
use clap::Args;
use sluice_fetch::Repository;
use sluice_model::remote::ImageName;
use sluice_wasm::HostOptions;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Put a plugin into a registry as an image, and print the image with its digest
///
/// The same plugin makes the same image, whenever it is pushed.
#[derive(Args, Debug)]
pub(crate) struct PushArgs {
    /// The plugin, as built
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Where to: registry.example/team/plugin:1.0
    #[arg(value_name = "IMAGE")]
    image: ImageName,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// First bytes of all modules and components.
const MAGIC: &[u8] = b"\0asm";

pub(crate) fn run(args: &PushArgs) -> Result<ExitCode> {
    let name = args.file.display();
    let image = &args.image;
    ensure!(image.digest.is_none(), "{image}: a digest can't be chosen; name a tag");
    let module = std::fs::read(&args.file).with_context(|| format!("cannot read {name}"))?;
    ensure!(module.starts_with(MAGIC), "{name} is no WebAssembly module");
    let max = HostOptions::default().max_module;
    ensure!(module.len() as u64 <= max, "{name} is larger than the {max} bytes that the gateway loads");
    let http = args.registry.http()?;
    let mut repository = Repository::new(&http, image, args.registry.credentials(image)?);
    let pushed = lifecycle::block_on(async { Ok(repository.push(module, progress("pushing")).await) })?;
    end_progress();
    let digest = pushed.with_context(|| format!("cannot push to {image}"))?;
    writeln!(io::stdout(), "{image}@{digest}")?;
    Ok(ExitCode::SUCCESS)
}
