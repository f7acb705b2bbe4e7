//! `sluice check`: everything that is wrong with a set of files, without starting anything.

use crate::output::{self, Output, Tint, counted};
use anyhow::{Context, Result};
use clap::Args;
use prometheus_client::registry::Registry;
use serde::Serialize;
use sluice_fetch::Policy;
use sluice_model::{Config, Problem, Severity};
use sluice_sources::files::FileSource;
use sluice_translate::{INGRESS_NAMESPACE, Options, Told, Translator};
use sluice_wasm::{HostOptions, PluginHost};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Longest time for all plugins to be compiled and configured.
const PLUGINS: Duration = Duration::from_secs(120);

/// Show every problem in files and folders of YAML; exit 1 if there is an error
#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// Files and folders, as `sluice run --config` takes them
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Fetch plugins from registries and web servers too, once, and check them; otherwise they are not looked at
    #[arg(long)]
    fetch: bool,
    /// A host, with a port or without, from which plugins may be fetched by plain HTTP; may be repeated
    #[arg(long, value_name = "HOST", requires = "fetch", value_parser = Policy::host)]
    insecure_registry: Vec<String>,
    /// Judge as a cluster where every Gateway has a Service of its own (`--gateway-services`): classes have to be there, and
    /// Gateways may want the same port. What listeners of one port have to have in common (P310) is not compared then
    #[arg(long)]
    cluster: bool,
    /// Print the conditions of everything that has some, and not only those that somebody should look at; JSON always has all
    #[arg(long)]
    conditions: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

/// What files amount to, without anything started.
pub(crate) struct Reading {
    pub(crate) config: Arc<Config>,
    /// In the order of the files.
    pub(crate) problems: Vec<Problem>,
    /// What a controller would write into statuses, but for what only a running cluster knows.
    conditions: Vec<Told>,
    source: FileSource,
    objects: usize,
}

/// Reads and translates files, as a gateway that serves them. A path that does not exist is an error; whatever else is
/// wrong is a problem.
pub(crate) fn read(paths: &[PathBuf]) -> Result<Reading> {
    read_as(paths, Options::default())
}

/// Any namespace will do: no Service of a Gateway is looked for.
fn of_cluster() -> Options {
    Options { files: false, gateway_services: Some(INGRESS_NAMESPACE.into()), ..Options::default() }
}

fn read_as(paths: &[PathBuf], options: Options) -> Result<Reading> {
    for path in paths {
        std::fs::metadata(path).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
    }
    let mut source = FileSource::open(paths.to_vec());
    let update = source.read();
    let objects = update.changes.iter().filter(|c| matches!(c, sluice_resources::Change::Upsert(_))).count();
    // A certificate is made at the first start where none is named: not a problem to report here.
    let default_certificate = Some(crate::certificate::stand_in()?);
    let mut translator = Translator::new(Options { default_certificate, now: Some(SystemTime::now()), ..options });
    let output = translator.apply(update.changes);
    let mut problems = update.problems;
    problems.extend(output.problems);
    source.locate_all(&mut problems);
    let conditions = translator.status().conditions();
    let mut reading = Reading { config: output.config, problems, conditions, source, objects };
    reading.sort();
    Ok(reading)
}

impl Reading {
    /// Objects, and files that they stand in.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.objects, self.source.file_count())
    }

    /// What is wrong with the plugins: each is compiled and configured, as the gateway would, and thrown away.
    /// Those that have to be fetched are, if `fetch` says from whom.
    pub(crate) fn plugin_problems(&self, fetch: Option<Policy>) -> Result<Vec<Problem>> {
        let mut problems = plugin_problems(&self.config, fetch)?;
        self.source.locate_all(&mut problems);
        Ok(problems)
    }

    fn sort(&mut self) {
        self.problems.sort_by(|a, b| {
            (&a.location, a.severity, &a.object, &a.field).cmp(&(&b.location, b.severity, &b.object, &b.field))
        });
    }
}

fn plugin_problems(config: &Config, fetch: Option<Policy>) -> Result<Vec<Problem>> {
    if config.plugins.is_empty() {
        return Ok(Vec::new());
    }
    let host = PluginHost::new(HostOptions { fetch, ..HostOptions::default() }, &mut Registry::default())?;
    host.ensure(crate::plugins::desired(config));
    crate::lifecycle::block_on(async {
        tokio::time::timeout(PLUGINS, host.checked()).await.context("the plugins are not compiled in time")?;
        Ok(host.problems())
    })
}

pub(crate) fn run(args: &CheckArgs) -> Result<ExitCode> {
    let mut reading = read_as(&args.paths, if args.cluster { of_cluster() } else { Options::default() })?;
    let insecure = args.insecure_registry.clone();
    let mut problems = reading.plugin_problems(args.fetch.then_some(Policy { insecure, loopback: true }))?;
    reading.problems.append(&mut problems);
    reading.sort();
    let report = Report::of(&reading, args.fetch);
    let mut out = io::stdout().lock();
    match args.output {
        Output::Json => output::json(&mut out, &report)?,
        Output::Text => report.print(&mut out, args.conditions, output::colours())?,
    }
    Ok(if report.errors > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

#[derive(Serialize)]
struct Report<'a> {
    files: usize,
    objects: usize,
    errors: usize,
    warnings: usize,
    /// Plugins that have to be fetched and were not.
    unfetched: usize,
    problems: &'a [Problem],
    conditions: &'a [Told],
}

impl<'a> Report<'a> {
    fn of(reading: &'a Reading, fetched: bool) -> Report<'a> {
        let count = |severity| reading.problems.iter().filter(|p| p.severity == severity).count();
        let (objects, files) = reading.counts();
        Report {
            files,
            objects,
            errors: count(Severity::Error),
            warnings: count(Severity::Warning),
            unfetched: reading.config.plugins.values().filter(|plugin| !fetched && plugin.remote.is_some()).count(),
            problems: &reading.problems,
            conditions: &reading.conditions,
        }
    }

    /// `all`: also the conditions that are as they should be.
    fn print(&self, out: &mut impl Write, all: bool, colours: bool) -> io::Result<()> {
        for problem in self.problems {
            let (word, tint) = match problem.severity {
                Severity::Error => ("error", Tint::Red),
                Severity::Warning => ("warning", Tint::Yellow),
            };
            if let Some(location) = &problem.location {
                let (before, after) = Tint::Bold.codes(colours);
                write!(out, "{before}{location}{after}: ")?;
            }
            let (before, after) = tint.codes(colours);
            write!(out, "{before}{word}{after} {}", problem.code)?;
            if let Some(object) = &problem.object {
                write!(out, " {object}")?;
            }
            if !problem.field.is_empty() {
                write!(out, " {}", problem.field)?;
            }
            writeln!(out, "\n    {}", problem.message)?;
            if !problem.hint.is_empty() {
                writeln!(out, "    {}", problem.hint)?;
            }
        }
        for told in self.conditions {
            print_conditions(out, told, all, colours)?;
        }
        if self.unfetched > 0 {
            writeln!(
                out,
                "{} not looked at: --fetch fetches what is not on this host",
                counted(self.unfetched, "plugin")
            )?;
        }
        writeln!(
            out,
            "{} in {}: {}, {}",
            counted(self.objects, "object"),
            counted(self.files, "file"),
            counted(self.errors, "error"),
            counted(self.warnings, "warning")
        )
    }
}

/// A line for each condition and one for its message.
fn print_conditions(out: &mut impl Write, told: &Told, all: bool, colours: bool) -> io::Result<()> {
    for condition in told.conditions.iter().filter(|condition| all || condition.wants_attention()) {
        let (before, after) = Tint::Bold.codes(colours);
        write!(out, "{before}condition{after} {}", told.object)?;
        if let Some(part) = &told.part {
            write!(out, " ({})", output::plain(part))?;
        }
        let status = if condition.status { "True" } else { "False" };
        let tint = if condition.wants_attention() { Tint::Yellow } else { Tint::Green };
        let (before, after) = tint.codes(colours);
        writeln!(out, " {}: {before}{status}{after} {}", condition.kind, condition.reason)?;
        writeln!(out, "    {}", output::plain(&condition.message))?;
    }
    Ok(())
}
