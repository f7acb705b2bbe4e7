//! `sluice plugin test`: a project's cases, played in the gateway's own engine. In Rust its own tests too, natively and there.

use super::build::{self, tools};
use super::engine::{Engine, Module};
use super::log::Lines;
use super::project::{Language, Project};
use super::{case, host, play};
use crate::lifecycle;
use crate::output::{self, Tint, counted, plain};
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// What tells tests of the Rust SDK to run against a module.
const MODULE: &str = "SLUICE_PLUGIN_WASM";

/// Build the project, and hold its module to the cases in its folder `tests`; exit 1 if one fails
#[derive(Args, Debug)]
pub(crate) struct TestArgs {
    /// Only cases with this text in their name
    filter: Option<String>,
    /// The project's folder
    #[arg(short = 'C', long, value_name = "DIR", default_value = ".")]
    project: PathBuf,
    /// Test this module instead of building the project
    #[arg(long, value_name = "FILE")]
    module: Option<PathBuf>,
    /// Write schema.json anew from the configuration's type (Rust)
    #[arg(long, conflicts_with = "module")]
    update_schema: bool,
}

pub(crate) fn run(args: &TestArgs) -> Result<ExitCode> {
    let module = match &args.module {
        Some(module) => module.clone(),
        None => {
            let project = Project::open(&args.project)?;
            let has_own = project.language == Language::Rust;
            if has_own && !own_tests(&project, args.update_schema)? {
                return Ok(ExitCode::FAILURE);
            }
            let module = build::build(&project)?;
            if has_own && !own_tests_in_engine(&project, &module)? {
                return Ok(ExitCode::FAILURE);
            }
            module
        }
    };
    let folder = args.project.join("tests");
    let mut cases = case::read_all(&folder)?;
    ensure!(!cases.is_empty(), "{} holds no cases: files of YAML with `request` and `expect`", folder.display());
    let total = cases.len();
    if let Some(filter) = &args.filter {
        cases.retain(|placed| placed.case.name.contains(filter));
        ensure!(!cases.is_empty(), "none of the {} has `{filter}` in its name", counted(total, "case"));
    }
    let module = Module::new(std::fs::read(&module).with_context(|| module.display().to_string())?);
    let lines = Lines::keep()?;
    let mut failed = 0;
    let mut out = io::stdout().lock();
    let colours = output::colours();
    lifecycle::block_on(async {
        let engine = Engine::start()?;
        play::play(&engine, &module, &cases, &lines, |placed, outcome| {
            failed += usize::from(!outcome.differences.is_empty());
            print(&mut out, &args.project, placed, &outcome, colours)
        })
        .await
    })?;
    let (passed, left_out) = (cases.len() - failed, total - cases.len());
    let (before, after) = if failed == 0 { Tint::Green } else { Tint::Red }.codes(colours);
    write!(out, "{before}{}: {passed} passed, {failed} failed{after}", counted(cases.len(), "case"))?;
    writeln!(out, "{}", if left_out == 0 { String::new() } else { format!(", {left_out} left out") })?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(
    out: &mut impl Write,
    project: &Path,
    placed: &case::Placed,
    outcome: &play::Outcome,
    colours: bool,
) -> Result<()> {
    let name = plain(&placed.case.name);
    if outcome.differences.is_empty() {
        let (before, after) = Tint::Green.codes(colours);
        writeln!(out, "{before}ok{after}    {name}  ({} us)", outcome.took.as_micros())?;
        return Ok(());
    }
    let (before, after) = Tint::Red.codes(colours);
    let file = placed.file.strip_prefix(project).unwrap_or(&placed.file).display();
    writeln!(out, "{before}FAIL{after}  {name}  ({file}:{})", placed.line)?;
    for difference in &outcome.differences {
        for line in difference.lines() {
            writeln!(out, "        {}", plain(line))?;
        }
    }
    Ok(())
}

/// `cargo test`: the plugin's own tests, natively.
fn own_tests(project: &Project, update_schema: bool) -> Result<bool> {
    let mut command = cargo_test(project)?;
    command.env_remove(MODULE);
    if update_schema {
        command.env("SLUICE_UPDATE_SCHEMA", "1");
    }
    Ok(tools::say(&mut command).status().context("cargo test")?.success())
}

/// The same tests, of which those that can run against the module do.
fn own_tests_in_engine(project: &Project, module: &Path) -> Result<bool> {
    let module = module.canonicalize().with_context(|| module.display().to_string())?;
    let tally = tempfile::NamedTempFile::new().context("a temporary file")?;
    let program = std::env::current_exe().context("this program")?;
    let mut command = cargo_test(project)?;
    command.env(MODULE, &module).env("SLUICE", program).env(host::TALLY, tally.path());
    eprintln!("the same in the gateway's engine, with {}", module.display());
    let passed = tools::say(&mut command).status().context("cargo test")?.success();
    let calls = tally.as_file().metadata().context("a temporary file")?.len();
    let calls = usize::try_from(calls).unwrap_or(usize::MAX);
    match calls {
        0 => eprintln!("no test called the module: make the plugin by `sluice_plugin::testing::configure`"),
        calls => {
            eprintln!("the module was called {}", if calls == 1 { "once".to_owned() } else { format!("{calls} times") })
        }
    }
    Ok(passed)
}

fn cargo_test(project: &Project) -> Result<Command> {
    let mut command = Command::new(tools::find("cargo", "install Rust from https://rustup.rs")?);
    command.arg("test").current_dir(&project.folder);
    Ok(command)
}
