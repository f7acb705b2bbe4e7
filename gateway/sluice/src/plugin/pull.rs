//! `sluice plugin pull`: the module of an image becomes a file.

use super::registry::{RegistryArgs, end_progress, progress};
use crate::lifecycle;
use anyhow::{Context, Result};
use clap::Args;
use sluice_fetch::{Repository, pull};
use sluice_model::remote::ImageName;
use sluice_wasm::HostOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Take a plugin out of a registry, and print the image with its digest
#[derive(Args, Debug)]
pub(crate) struct PullArgs {
    /// registry.example/team/plugin:1.0, or with a digest
    #[arg(value_name = "IMAGE")]
    image: ImageName,
    /// Where to [default: the last part of the image's name, with .wasm]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    registry: RegistryArgs,
}

pub(crate) fn run(args: &PullArgs) -> Result<ExitCode> {
    let image = &args.image;
    let last = image.repository.rsplit('/').next().unwrap_or_default();
    let file = args.output.clone().unwrap_or_else(|| format!("{last}.wasm").into());
    let http = args.registry.http()?;
    let mut repository = Repository::new(&http, image, args.registry.credentials(image)?);
    let max = HostOptions::default().max_module;
    let progress = progress("pulling");
    let pulled = lifecycle::block_on(async { Ok(pull(&mut repository, image, None, max, progress.as_ref()).await) })?;
    end_progress();
    let found = pulled.with_context(|| format!("cannot pull {image}"))?;
    write(&file, &found.module).with_context(|| format!("cannot write {}", file.display()))?;
    let digest = found.image_digest.filter(|_| image.digest.is_none()).map(|digest| format!("@{digest}"));
    writeln!(io::stdout(), "{image}{}", digest.unwrap_or_default())?;
    Ok(ExitCode::SUCCESS)
}

/// Whole or not at all: a gateway may be watching the folder.
fn write(file: &Path, module: &[u8]) -> io::Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let unfinished = PathBuf::from(name);
    let written = std::fs::write(&unfinished, module).and_then(|()| std::fs::rename(&unfinished, file));
    if written.is_err() {
        // Nobody asked for it.
        drop(std::fs::remove_file(&unfinished));
    }
    written
}
