//! `sluice plugin host`: the gateway's own engine for the tests of a plugin in Rust, which run in a process of their own and
//! compile no engine. They start it and speak with it over its standard input and output.
//!
//! ```text
//!   cargo test ── lines of JSON ─► pipe ─► desk (modules, configurations, stores, secrets, clock) ─► engine
//!        ▲                           ▲                                                                 │
//!        └── a test's backends ──────┴───────────────────── asked ◄── a plugin's calls ◄───────────────┘
//! ```
//!
//! One test at a time speaks, one message after the other. It ends when its standard input does.

mod call;
mod desk;
mod pipe;
#[path = "../../../../../sdk/rust/src/testing/protocol.rs"]
mod protocol;

use super::log::Lines;
use crate::lifecycle;
use anyhow::{Result, ensure};
use clap::Args;
use desk::Desk;
pub(super) use desk::TALLY;
use pipe::Pipe;
use protocol::{FromHost, Hello, ToHost, VERSION};
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::sync::Arc;

/// Run plugins for the tests of a plugin in Rust, which speak with it over standard input and output
#[derive(Args, Debug)]
pub(crate) struct HostArgs {}

pub(crate) fn run(_: &HostArgs) -> Result<ExitCode> {
    ensure!(
        !io::stdin().is_terminal(),
        "this speaks with the tests of a plugin, not with people: `sluice plugin test` runs them"
    );
    let lines = Lines::keep()?;
    lifecycle::block_on(async {
        let pipe = Arc::new(Pipe::open()?);
        let sluice = env!("CARGO_PKG_VERSION").to_owned();
        pipe.say(&Hello { sluice_plugin_host: VERSION, sluice })?;
        let desk = Arc::new(Desk::open(pipe.clone(), lines)?);
        while let Some(message) = pipe.hear().await? {
            let answer = match message {
                // To a question that nobody waits for any more: the call's own time was over.
                ToHost::Answer(_) => continue,
                ToHost::Configure { module, config } => desk.configure(&module, config).await,
                ToHost::Call(call) => call::run(&desk, *call).await,
                ToHost::Services(services) => desk.serve(services),
                ToHost::Store { store, call } => Ok(desk.store(&store, call)),
            };
            pipe.say(&answer.unwrap_or_else(|error| FromHost::Error(format!("{error:#}"))))?;
        }
        Ok(ExitCode::SUCCESS)
    })
}
