//! `sluice doctor`: whether a host or a cluster is fit for Sluice, and what to do where it is not. It looks, and changes
//! nothing.

mod cluster;
mod crds;
mod findings;
mod host;
mod objects;
mod rights;

use crate::cluster::ClusterArgs;
use crate::output::{self, Output};
use crate::{admin, lifecycle};
use anyhow::Result;
use clap::{ArgGroup, Args};
use findings::Report;
use sluice_model::object::NamespacedName;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// Say whether this host or a cluster is fit for Sluice, and what to do; exit 1 if something is wrong
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("objects").required(true).args(["config", "kube"]))]
pub(crate) struct DoctorArgs {
    /// Look at this host and these folders: files, plugins, ports, certificates, endpoints
    #[arg(long, value_name = "DIR", num_args = 1..)]
    config: Vec<PathBuf>,
    /// The admin address of the gateway that may hold the ports already
    #[arg(long, value_name = "ADDR", default_value = admin::DEFAULT_ADDRESS, conflicts_with = "kube")]
    admin: SocketAddr,
    /// Look at a cluster: API server, CRDs, rights, classes, Gateways, certificates, endpoints, pods
    #[arg(long)]
    kube: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Ask for the rights that this ServiceAccount (NAMESPACE/NAME) needs in --role [default: with --role, those of
    /// whoever asks; without, those of the pods of Sluice, each in its role]
    #[arg(long, value_name = "ACCOUNT", conflicts_with = "config", requires = "kube", value_parser = crate::cluster::object)]
    account: Option<NamespacedName>,
    /// How to print
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

pub(crate) fn run(args: &DoctorArgs) -> Result<ExitCode> {
    let mut report = Report::default();
    if args.kube {
        lifecycle::block_on(cluster::examine(&mut report, args))?;
    } else {
        host::examine(&mut report, &args.config, args.admin)?;
    }
    let mut out = io::stdout().lock();
    match args.output {
        Output::Json => output::json(&mut out, &report)?,
        Output::Text => report.print(&mut out, output::colours())?,
    }
    Ok(if report.errors() > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
