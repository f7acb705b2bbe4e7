//! `sluice plugin`: from an empty folder to a plugin that serves requests, for its author.
//!
//! ```text
//!   new ─► project ─► build ─► .wasm ─┬─► test      cases of the project, in the gateway's own engine
//!                       ▲             ├─► inspect   what it asks for and what it costs
//!                       └── save ◄────┴─► run       a gateway with this one plugin before a backend
//! ```
//!
//! `push` and `pull` carry it to and from a registry; `host` runs it for tests of its own, in Rust.
//!
//! What it owns: projects on disk and the toolchains that build them. What it refuses: to judge a plugin by rules of its own;
//! whatever is said about a module here is what the gateway would say.

mod build;
mod case;
mod cost;
mod engine;
mod host;
mod inspect;
mod log;
mod new;
mod play;
mod project;
mod pull;
mod push;
mod registry;
mod run;
mod sdk;
mod test;

use anyhow::Result;
use clap::{Args, Subcommand};
use std::process::ExitCode;

/// Write plugins: start a project, build, test and try it, look into a module, put it into a registry
#[derive(Args, Debug)]
pub(crate) struct PluginArgs {
    #[command(subcommand)]
    command: PluginCommand,
}

#[derive(Subcommand, Debug)]
enum PluginCommand {
    New(new::NewArgs),
    Build(build::BuildArgs),
    Test(test::TestArgs),
    Run(run::RunArgs),
    Inspect(inspect::InspectArgs),
    Sdk(sdk::SdkArgs),
    Push(push::PushArgs),
    Pull(pull::PullArgs),
    // Tests start it, nobody else.
    #[command(hide = true)]
    Host(host::HostArgs),
}

pub(crate) fn run(args: PluginArgs) -> Result<ExitCode> {
    match args.command {
        PluginCommand::New(args) => new::run(&args),
        PluginCommand::Build(args) => build::run(&args),
        PluginCommand::Test(args) => test::run(&args),
        PluginCommand::Run(args) => run::run(args),
        PluginCommand::Inspect(args) => inspect::run(&args),
        PluginCommand::Sdk(args) => sdk::run(&args),
        PluginCommand::Push(args) => push::run(&args),
        PluginCommand::Pull(args) => pull::run(&args),
        PluginCommand::Host(args) => host::run(&args),
    }
}
