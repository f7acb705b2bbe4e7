//! `sluice plugin inspect`: what a module is, what it asks for, and what it costs.

use super::cost::{self, Cost};
use super::engine::{Engine, Module, Settings, sentence};
use super::project;
use crate::lifecycle;
use crate::output::{self, Output, Tint, plain};
use anyhow::{Context, Result};
use clap::Args;
use http::{HeaderName, HeaderValue};
use serde::Serialize;
use serde_json::{Value, json};
use sluice_model::plugin::{InstanceMode, PluginLimits};
use sluice_wasm::{FileKind, Interfaces, PlainRequest};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

/// Look into a module: interfaces, phases, what it needs, its schema, and what a call costs; exit 1 if the gateway would
/// not run it
#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// A WebAssembly module or component
    file: PathBuf,
    /// The configuration to measure it with, a file of YAML or JSON [default: an empty one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A header of the request to measure it with; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<Header>,
    /// Exchanges of each measurement; 0 measures nothing
    #[arg(long, value_name = "N", default_value = "10000", value_parser = clap::value_parser!(u32).range(0..=10_000_000))]
    calls: u32,
    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Clone, Debug)]
struct Header(HeaderName, HeaderValue);

impl FromStr for Header {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once(':').ok_or_else(|| format!("`{text}` is not of the form NAME: VALUE"))?;
        let name = name.trim().parse().map_err(|_| format!("`{name}` is not the name of a header"))?;
        let value = value.trim().parse().map_err(|_| format!("`{value}` is not the value of a header"))?;
        Ok(Header(name, value))
    }
}

#[derive(Serialize)]
struct Report {
    file: String,
    size: usize,
    sha256: String,
    /// `component`, `module` or `proxy-wasm`.
    kind: Option<&'static str>,
    /// The contract that it is written for.
    abi: Option<String>,
    phases: Vec<&'static str>,
    imports: Vec<String>,
    exports: Vec<String>,
    /// What its Plugin has to grant.
    capabilities: Vec<&'static str>,
    /// Whether its memory can be made an image, so that each request gets a fresh instance.
    image: Option<bool>,
    /// Why it can't.
    image_obstacle: Option<String>,
    schema: Option<Value>,
    measured: Option<Measured>,
    /// Why nothing was measured.
    not_measured: Option<String>,
    /// Why the gateway would not run it.
    errors: Vec<String>,
}

#[derive(Serialize)]
struct Measured {
    /// What the request phase decided.
    decision: String,
    fresh: Option<Cost>,
    pooled: Option<Cost>,
}

pub(crate) fn run(args: &InspectArgs) -> Result<ExitCode> {
    let bytes = std::fs::read(&args.file).with_context(|| args.file.display().to_string())?;
    let config = args.config.as_deref().map(project::configuration).transpose()?;
    let report = lifecycle::block_on(report(args, bytes, config))?;
    let mut out = io::stdout().lock();
    match args.output {
        Output::Json => output::json(&mut out, &report)?,
        Output::Text => report.print(&mut out, output::colours())?,
    }
    Ok(if report.errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn report(args: &InspectArgs, bytes: Vec<u8>, config: Option<Value>) -> Result<Report> {
    let module = Module::new(bytes);
    let mut report = Report {
        file: args.file.display().to_string(),
        size: module.bytes.len(),
        sha256: module.sha256.to_string(),
        kind: None,
        abi: None,
        phases: Vec::new(),
        imports: Vec::new(),
        exports: Vec::new(),
        capabilities: Vec::new(),
        image: None,
        image_obstacle: None,
        schema: None,
        measured: None,
        not_measured: None,
        errors: Vec::new(),
    };
    // What is wrong with it, the engine says better.
    if let Ok(interfaces) = Interfaces::of(&module.bytes) {
        report.describe(interfaces);
    }
    let engine = Engine::start()?;
    let status = engine.check(&module).await?;
    report.phases = status.phases;
    report.schema = status.schema.map(|schema| schema.as_json().clone());
    report.errors.extend(status.error);
    if !report.errors.is_empty() {
        return Ok(report);
    }
    report.image_obstacle = sluice_wasm::image_obstacle(&module.bytes);
    report.image = Some(report.image_obstacle.is_none());
    if args.calls == 0 {
        report.not_measured = Some("--calls is 0".to_owned());
        return Ok(report);
    }
    let given = config.is_some();
    match measured(args, &engine, &module, &config.unwrap_or_else(|| json!({}))).await? {
        Ok(measured) => report.measured = Some(measured),
        Err(errors) if given => report.errors = errors,
        Err(errors) => {
            report.not_measured = Some(format!("{}: give a configuration with --config", errors.join("; ")));
        }
    }
    Ok(report)
}

async fn measured(
    args: &InspectArgs,
    engine: &Engine,
    module: &Module,
    config: &Value,
) -> Result<Result<Measured, Vec<String>>> {
    let request =
        args.headers.iter().fold(PlainRequest::get("/api/v1/orders/42?expand=lines"), |mut request, header| {
            request.headers.append(&header.0, header.1.clone());
            request
        });
    let defaults = PluginLimits::default();
    let (mut decision, mut costs) = (String::new(), [None, None]);
    for (cost, instance) in costs.iter_mut().zip([InstanceMode::Fresh, InstanceMode::Pooled]) {
        let settings =
            Settings { name: "plugin", config, instance, run_time: defaults.run_time, deadline: defaults.deadline };
        let configured = match engine.load(module, &settings).await? {
            Ok(configured) => configured,
            Err(problems) => return Ok(Err(problems.iter().map(sentence).collect())),
        };
        if configured.mode() != instance {
            continue;
        }
        let made = match cost::decision(&configured, &request).await {
            Ok(made) => cost::measure(&configured, &request, args.calls).await.map(|cost| (made, cost)),
            Err(error) => Err(error),
        };
        match made {
            Ok((made, measured)) => {
                decision = made;
                *cost = Some(measured);
            }
            Err(error) => return Ok(Err(vec![error.to_string()])),
        }
    }
    let [fresh, pooled] = costs;
    Ok(Ok(Measured { decision, fresh, pooled }))
}

impl Report {
    fn describe(&mut self, interfaces: Interfaces) {
        let contract = interfaces.exports.iter().chain(&interfaces.imports).find_map(|name| contract(name));
        let (kind, abi) = match interfaces.kind {
            FileKind::Component => ("component", contract),
            FileKind::Module => ("module", contract),
            FileKind::ProxyWasm(version) => ("proxy-wasm", Some(format!("proxy-wasm {version}"))),
        };
        let asks_for = |interface: &str| {
            let name = format!("sluice:plugin/{interface}@");
            let calls = interface == "outgoing" && interfaces.imports.contains("env.proxy_http_call");
            calls || interfaces.imports.iter().any(|import| import.starts_with(&name))
        };
        let grants = [("outgoing", "backends"), ("store", "stores"), ("secrets", "secrets"), ("routing", "routing")];
        self.capabilities = grants.into_iter().filter(|(name, _)| asks_for(name)).map(|(_, grant)| grant).collect();
        (self.kind, self.abi) = (Some(kind), abi);
        self.imports = interfaces.imports.into_iter().collect();
        self.exports = interfaces.exports.into_iter().collect();
    }

    fn print(&self, out: &mut impl Write, colours: bool) -> io::Result<()> {
        let (bold, end) = Tint::Bold.codes(colours);
        let mut line = |name: &str, value: &str| {
            if value.is_empty() { Ok(()) } else { writeln!(out, "{bold}{name:<13}{end}{}", plain(value)) }
        };
        line("file", &self.file)?;
        line("size", &format!("{} bytes", self.size))?;
        line("sha256", &self.sha256)?;
        line("kind", self.kind.unwrap_or_default())?;
        line("contract", self.abi.as_deref().unwrap_or_default())?;
        line("phases", &self.phases.join(", "))?;
        for (name, interfaces) in [("imports", &self.imports), ("exports", &self.exports)] {
            for (n, interface) in interfaces.iter().enumerate() {
                line(if n == 0 { name } else { "" }, interface)?;
            }
        }
        if self.image.is_some() {
            let none = "none that a Plugin has to grant".to_owned();
            let granted = || format!("capabilities.{}", self.capabilities.join(", capabilities."));
            line("capabilities", &if self.capabilities.is_empty() { none } else { granted() })?;
            line("schema", &self.schema.as_ref().map_or("none: any configuration is tried".to_owned(), summary))?;
        }
        match (self.image, &self.image_obstacle) {
            (Some(true), _) => line("image", "its memory can be made an image: an instance a request (Fresh)")?,
            (Some(false), Some(reason)) => line("image", &format!("none: instances are Pooled ({reason})"))?,
            _ => {}
        }
        if let Some(measured) = &self.measured {
            let calls = [measured.fresh, measured.pooled].into_iter().flatten().map(|cost| cost.calls).max();
            line("decision", &format!("{} (of {} exchanges)", measured.decision, calls.unwrap_or_default()))?;
            for (name, cost) in [("fresh", measured.fresh), ("pooled", measured.pooled)] {
                line(name, &cost.map(price).unwrap_or_default())?;
            }
        }
        line("not measured", self.not_measured.as_deref().unwrap_or_default())?;
        let (red, end) = Tint::Red.codes(colours);
        self.errors.iter().try_for_each(|error| writeln!(out, "{red}error{end}        {}", plain(error)))
    }
}

/// `sluice:plugin@0.1.0` of `sluice:plugin/types@0.1.0`.
fn contract(interface: &str) -> Option<String> {
    let (_, version) = interface.strip_prefix("sluice:plugin/")?.split_once('@')?;
    Some(format!("sluice:plugin@{version}"))
}

fn price(cost: Cost) -> String {
    let us = |ns: u64| format!("{}.{:02}", ns / 1_000, ns % 1_000 / 10);
    format!("{} us of CPU an exchange [{} .. {}]", us(cost.ns), us(cost.lowest_ns), us(cost.highest_ns))
}

/// A schema's properties in one line.
fn summary(schema: &Value) -> String {
    let properties = schema.get("properties").and_then(Value::as_object);
    let names: Vec<&str> = properties.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    let required = schema.get("required").and_then(Value::as_array);
    let required: Vec<&str> = required.into_iter().flatten().filter_map(Value::as_str).collect();
    match (names.is_empty(), required.is_empty()) {
        (true, _) => "no properties".to_owned(),
        (false, true) => format!("{}, none required", names.join(", ")),
        (false, false) => format!("{}; required: {}", names.join(", "), required.join(", ")),
    }
}
