//! The gateway's own log, on standard error. (The access log is the data plane's.)

use clap::ValueEnum;
use sluice_admin::LogFilter;
use std::io::IsTerminal;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt, reload};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object a line
    Json,
}

/// Starts logging. The handle exchanges the filter at run time.
pub(crate) fn start(format: LogFormat, filter: &str) -> anyhow::Result<LogFilter> {
    let (filter, handle) = reload::Layer::new(EnvFilter::builder().parse(filter)?);
    let output = fmt::layer().with_writer(std::io::stderr);
    let output = match format {
        LogFormat::Text => output.with_ansi(std::io::stderr().is_terminal()).with_target(false).boxed(),
        LogFormat::Json => output.json().flatten_event(true).with_current_span(false).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(output).try_init()?;
    Ok(handle)
}
