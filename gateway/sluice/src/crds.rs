//! `sluice crds`: the CustomResourceDefinitions of the kinds of `sluice.dev`, for `kubectl apply -f -`.

use anyhow::{Context, Result};
use clap::Args;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Print the CustomResourceDefinitions of sluice.dev
#[derive(Args, Debug)]
pub(crate) struct CrdsArgs {
    /// Write one file a kind into this folder instead
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

pub(crate) fn run(args: &CrdsArgs) -> Result<ExitCode> {
    let files = sluice_resources::crd_files();
    if let Some(folder) = &args.output {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        for (name, text) in &files {
            let path = folder.join(name);
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let texts: Vec<&str> = files.iter().map(|(_, text)| text.trim_end()).collect();
    writeln!(std::io::stdout(), "{}", texts.join("\n---\n"))?;
    Ok(ExitCode::SUCCESS)
}
