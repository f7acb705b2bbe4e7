//! `sluice explain`: what becomes of a request, and why. From files, without anything started; or by a running gateway.

use crate::output::{self, Output};
use crate::{admin, check, lifecycle};
use anyhow::Result;
use bytes::Bytes;
use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sluice_model::Severity;
use sluice_model::explain::{Question, explain};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// Say which listener, host, rule, backends and plugins a request meets, and why no others
#[derive(Args, Debug)]
pub(crate) struct ExplainArgs {
    /// Files and folders of configuration
    #[arg(
        short = 'f',
        long = "config",
        value_name = "PATH",
        required_unless_present = "admin",
        conflicts_with = "admin"
    )]
    paths: Vec<PathBuf>,
    /// Ask the running gateway with this admin address instead
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// The request's method
    method: String,
    /// The request's URL; a port picks the listener, else the scheme does
    url: String,
    /// A header field; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

pub(crate) fn run(args: &ExplainArgs) -> Result<ExitCode> {
    let question = Question::parse(&args.method, &args.url, args.headers.iter().map(String::as_str))?;
    let mut out = io::stdout().lock();
    if let Some(admin) = args.admin {
        let answer = lifecycle::block_on(ask(admin, args))?;
        out.write_all(&answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    let reading = check::read(&args.paths)?;
    let explanation = explain(&reading.config, &question);
    match args.output {
        Output::Json => output::json(&mut out, &explanation)?,
        Output::Text => writeln!(out, "{}", explanation.to_string().trim_end())?,
    }
    let errors = reading.problems.iter().filter(|p| p.severity == Severity::Error).count();
    if errors > 0 {
        eprintln!("note: {errors} errors in these files leave something out; see `sluice check`");
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask(admin: SocketAddr, args: &ExplainArgs) -> Result<Bytes> {
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let format = match args.output {
        Output::Text => "text",
        Output::Json => "json",
    };
    let mut target = format!("/explain?output={format}&method={}&url={}", encode(&args.method), encode(&args.url));
    for header in &args.headers {
        target.push_str("&header=");
        target.push_str(&encode(header));
    }
    admin::get(admin, &target).await
}
