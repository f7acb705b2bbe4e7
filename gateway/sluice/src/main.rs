//! The `sluice` binary: commands, and for `sluice run` the wiring of the rooms. Nothing here decides what a request
//! gets.

mod admin;
mod certificate;
mod check;
mod cluster;
mod configuration;
mod control;
mod crds;
mod doctor;
mod echo;
mod explain;
mod feed;
mod get;
mod lifecycle;
mod logging;
mod output;
mod plane;
mod plugin;
mod plugins;
mod problems;
mod run;
mod served;
mod session_key;
mod supervise;
mod view;
mod watches;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A WebAssembly-extensible edge gateway for Kubernetes.
#[derive(Parser, Debug)]
#[command(name = "sluice", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Run(Box<run::RunArgs>),
    Check(check::CheckArgs),
    Explain(explain::ExplainArgs),
    Get(get::GetArgs),
    Doctor(Box<doctor::DoctorArgs>),
    Plugin(Box<plugin::PluginArgs>),
    Echo(echo::EchoArgs),
    Crds(crds::CrdsArgs),
}

/// 0: done, or all is well; 1: it failed, or what was looked at is bad; 2: the command line is wrong (clap's own).
fn main() -> ExitCode {
    use_small_pages();
    let cli = Cli::parse();
    // All TLS of ours names its provider; this is for libraries that ask for the process's.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let result = match cli.command {
        Command::Run(args) => run::run(*args),
        Command::Check(args) => check::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Get(args) => get::run(args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Plugin(args) => plugin::run(*args),
        Command::Echo(args) => lifecycle::block_on(echo::run(args)).map(|()| ExitCode::SUCCESS),
        Command::Crds(args) => crds::run(&args),
    };
    result.unwrap_or_else(|error| {
        // Whoever read our output has seen enough of it.
        if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe) {
            return ExitCode::SUCCESS;
        }
        eprintln!("sluice: {error:#}");
        ExitCode::FAILURE
    })
}

/// The allocator asks the system for pages of 2 MiB, of which each thread fills a part: two thirds of an idle gateway's heap
/// would be room that nothing uses. Where the system does not know the request, all is as it was.
fn use_small_pages() {
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}
