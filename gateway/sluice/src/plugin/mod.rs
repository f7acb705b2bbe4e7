//! `sluice plugin`: plugins in registries, for who makes and who runs them.

mod pull;
mod push;
mod registry;

use anyhow::Result;
use clap::{Args, Subcommand};
use std::process::ExitCode;

/// Put plugins into a registry, and take them out
#[derive(Args, Debug)]
pub(crate) struct PluginArgs {
    #[command(subcommand)]
    command: PluginCommand,
}

#[derive(Subcommand, Debug)]
enum PluginCommand {
    Push(push::PushArgs),
    Pull(pull::PullArgs),
}

pub(crate) fn run(args: PluginArgs) -> Result<ExitCode> {
    match args.command {
        PluginCommand::Push(args) => push::run(&args),
        PluginCommand::Pull(args) => pull::run(&args),
    }
}
