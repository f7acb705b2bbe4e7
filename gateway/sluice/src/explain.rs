//! `sluice explain`: what becomes of a request, and why. From files, without anything started; or by a running gateway.

use crate::check::{self, Output};
use crate::lifecycle;
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Args;
use http::Request;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sluice_model::Severity;
use sluice_model::explain::{Question, explain};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::net::TcpStream;

/// Longest time for the running gateway's answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of it.
const MAX_ANSWER: usize = 16 << 20;

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
        Output::Json => {
            serde_json::to_writer_pretty(&mut out, &explanation)?;
            writeln!(out)?;
        }
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
    let exchange = async {
        let stream = TcpStream::connect(admin).await.with_context(|| format!("no gateway answers at {admin}"))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::get(target).header("host", admin.to_string()).body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
        if !status.is_success() {
            bail!("the gateway answered {status}: {}", String::from_utf8_lossy(&body).trim());
        }
        Ok(body)
    };
    tokio::time::timeout(PATIENCE, exchange).await.context("the gateway does not answer")?
}
