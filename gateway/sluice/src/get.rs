//! `sluice get`: what a running gateway serves at the moment, as tables.

use crate::output::{self, Output};
use crate::{admin, lifecycle};
use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sluice_admin::{
    BackendRow, CertificateRow, EndpointStatus, ListenerRow, PluginStatus, RouteRow, Status, WatchStatus,
};
use sluice_model::{HostPattern, Hostname, ObjectRef};
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;

/// Show what a running gateway serves, as tables
#[derive(Args, Debug)]
pub(crate) struct GetArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Sockets, and the listeners that share them
    #[command(alias = "listener")]
    Listeners(Ask),
    /// Matches of routes, in the order in which they are tried
    #[command(alias = "route")]
    Routes {
        #[command(flatten)]
        ask: Ask,
        /// Only routes that this host can reach
        #[arg(long, value_name = "HOST", value_parser = host)]
        host: Option<Hostname>,
    },
    /// Services that routes lead to
    #[command(alias = "backend")]
    Backends(Ask),
    /// Endpoints of backends: their health, and requests in flight
    #[command(alias = "endpoint")]
    Endpoints(Ask),
    /// Certificates in use, and when they end
    #[command(alias = "certificate")]
    Certificates(Ask),
    /// Plugins: their digest and state
    #[command(alias = "plugin")]
    Plugins(Ask),
    /// What is wrong with the configuration
    #[command(alias = "problem")]
    Problems(Ask),
    /// How reading each kind from the cluster fares
    #[command(alias = "watch")]
    Watches(Ask),
}

#[derive(Args, Debug)]
struct Ask {
    /// Only rows with this text in one of their columns
    #[arg(value_name = "NAME")]
    text: Option<String>,
    /// The gateway's admin address
    #[arg(long, value_name = "ADDR", default_value = admin::DEFAULT_ADDRESS)]
    admin: SocketAddr,
    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

fn host(text: &str) -> Result<Hostname, String> {
    Hostname::parse(&text.to_ascii_lowercase()).map_err(|error| error.to_string())
}

/// A line of one of the tables.
trait Row: Serialize {
    const COLUMNS: &'static [&'static str];
    /// The column that holds a digest, of which people are shown the beginning.
    const DIGEST: Option<usize> = None;

    fn cells(&self) -> Vec<String>;
}

/// Characters of a digest, as git shows them.
const DIGEST_SHOWN: usize = 12;

impl Row for ListenerRow {
    const COLUMNS: &'static [&'static str] = &["ADDRESS", "PROTOCOL", "LISTENER", "HOSTS", "CERTIFICATES", "OPEN"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.address.to_string(),
            self.protocol.clone(),
            self.listener.clone(),
            self.hostname.clone(),
            self.certificates.to_string(),
            if self.open { "yes" } else { "no" }.to_owned(),
        ]
    }
}

impl Row for RouteRow {
    const COLUMNS: &'static [&'static str] = &["LISTENER", "HOST", "MATCH", "RULE", "DOES", "PLUGINS"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.listener.clone(),
            self.host.clone(),
            self.matches.clone(),
            self.rule.clone(),
            self.action.clone(),
            self.plugins.join(","),
        ]
    }
}

impl Row for BackendRow {
    const COLUMNS: &'static [&'static str] = &["BACKEND", "READY", "IN-FLIGHT", "PROTOCOL", "BALANCER", "SOURCE"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.backend.clone(),
            format!("{}/{}", self.ready, self.endpoints),
            self.in_flight.to_string(),
            self.protocol.clone(),
            self.balancer.clone(),
            self.source.clone(),
        ]
    }
}

impl Row for EndpointStatus {
    const COLUMNS: &'static [&'static str] = &["BACKEND", "ADDRESS", "STATE", "IN-FLIGHT"];

    fn cells(&self) -> Vec<String> {
        vec![self.backend.clone(), self.address.clone(), self.state.clone(), self.in_flight.to_string()]
    }
}

impl Row for CertificateRow {
    const COLUMNS: &'static [&'static str] = &["NAMES", "SECRET", "ENDS", "DAYS-LEFT", "SHA-256", "LISTENERS"];
    const DIGEST: Option<usize> = Some(4);

    fn cells(&self) -> Vec<String> {
        vec![
            self.names.join(","),
            self.secret.clone().unwrap_or_else(|| "(the gateway's own)".to_owned()),
            self.ends(),
            self.days_left.to_string(),
            self.fingerprint.clone(),
            self.listeners.join(","),
        ]
    }
}

impl Row for PluginStatus {
    const COLUMNS: &'static [&'static str] = &["PLUGIN", "SHA-256", "SOURCE", "STATE"];
    const DIGEST: Option<usize> = Some(1);

    fn cells(&self) -> Vec<String> {
        vec![self.name.clone(), self.digest.clone(), self.source.clone(), self.state.clone()]
    }
}

/// A problem as `/problems` writes it.
#[derive(Debug, Serialize, Deserialize)]
struct ProblemRow {
    code: String,
    severity: String,
    object: Option<ObjectRef>,
    field: String,
    message: String,
    hint: String,
    location: Option<LocationRow>,
}

#[derive(Debug, Serialize, Deserialize)]
struct LocationRow {
    file: String,
    line: u32,
}

impl Row for ProblemRow {
    const COLUMNS: &'static [&'static str] = &["CODE", "SEVERITY", "OBJECT", "FIELD", "FILE", "MESSAGE"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.code.clone(),
            self.severity.clone(),
            self.object.as_ref().map(ToString::to_string).unwrap_or_default(),
            self.field.clone(),
            self.location.as_ref().map(|place| format!("{}:{}", place.file, place.line)).unwrap_or_default(),
            self.message.clone(),
        ]
    }
}

impl Row for WatchStatus {
    const COLUMNS: &'static [&'static str] = &["KIND", "STATE", "OBJECTS", "STALE", "MESSAGE"];

    fn cells(&self) -> Vec<String> {
        let stale = if self.stale.is_zero() { String::new() } else { format!("{}s", self.stale.as_secs()) };
        vec![self.kind.clone(), self.state.clone(), self.objects.to_string(), stale, self.message.clone()]
    }
}

pub(crate) fn run(args: GetArgs) -> Result<ExitCode> {
    lifecycle::block_on(async {
        match args.what {
            What::Listeners(ask) => ask.show(ask.read::<ListenerRow>("/listeners").await?),
            What::Routes { ask, host } => {
                let mut rows: Vec<RouteRow> = ask.read("/routes").await?;
                if let Some(host) = host {
                    rows.retain(|row| reaches(&row.host, &host));
                }
                ask.show(rows)
            }
            What::Backends(ask) => ask.show(ask.read::<BackendRow>("/backends").await?),
            What::Endpoints(ask) => ask.show(ask.status().await?.endpoints),
            What::Certificates(ask) => ask.show(ask.read::<CertificateRow>("/certificates").await?),
            What::Plugins(ask) => ask.show(ask.status().await?.plugins),
            What::Problems(ask) => ask.show(ask.read::<ProblemRow>("/problems").await?),
            What::Watches(ask) => ask.show(ask.status().await?.watches),
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Whether a host can get to what stands under a pattern. A wildcard of an Ingress, which stands for one label, is
/// written as any other: it is taken for the wider one.
fn reaches(pattern: &str, host: &Hostname) -> bool {
    HostPattern::parse_gateway(Some(pattern)).is_ok_and(|pattern| pattern.matches(host.as_str()))
}

impl Ask {
    async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>> {
        admin::read(self.admin, path).await
    }

    async fn status(&self) -> Result<Status> {
        admin::read(self.admin, "/status").await
    }

    fn show<T: Row>(&self, mut rows: Vec<T>) -> Result<()> {
        if let Some(text) = self.text.as_ref().map(|text| text.to_lowercase()) {
            rows.retain(|row| row.cells().iter().any(|cell| cell.to_lowercase().contains(&text)));
        }
        let mut out = io::stdout().lock();
        if self.output == Output::Json {
            return output::json(&mut out, &rows);
        }
        if rows.is_empty() {
            eprintln!("nothing found");
            return Ok(());
        }
        let shown = rows.iter().map(|row| {
            let mut cells = row.cells();
            if let Some(digest) = T::DIGEST.and_then(|place| cells.get_mut(place)) {
                digest.truncate(DIGEST_SHOWN);
            }
            cells
        });
        let shown: Vec<_> = shown.collect();
        output::table(&mut out, T::COLUMNS, &shown, output::colours()).context("cannot write")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_reaches_its_own_routes_wildcards_and_those_of_all_hosts() {
        let host = host("Shop.Example").unwrap();
        for pattern in ["*", "shop.example", "*.example"] {
            assert!(reaches(pattern, &host), "{pattern}");
        }
        for pattern in ["example", "*.shop.example", "other.example"] {
            assert!(!reaches(pattern, &host), "{pattern}");
        }
    }
}
