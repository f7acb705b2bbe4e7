//! `sluice run --kube`: what is read of the cluster, and what is written to it.

use crate::plane::Plane;
use crate::served::ServedForms;
use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use prometheus_client::registry::Registry;
use sluice_controller::{Controller, ServiceSettings, Settings};
use sluice_model::object::NamespacedName;
use sluice_sources::kubernetes::{
    self, Client, ClientOptions, Connection, KubernetesSource, LastGoodOptions, Pauses, Scope,
};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What a process does in a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Role {
    /// Serve requests, and write nothing to the cluster
    Proxy,
    /// Write status and the Services of Gateways, and serve nothing
    Controller,
    /// Both
    All,
}

impl Role {
    /// As the flag has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Role::Proxy => "proxy",
            Role::Controller => "controller",
            Role::All => "all",
        }
    }

    pub(crate) fn writes(self) -> bool {
        self != Role::Proxy
    }
}

/// Which cluster, what of it, and what for. Flags that mean something with `--kube` only.
#[derive(Args, Clone, Debug)]
pub(crate) struct ClusterArgs {
    /// The kubeconfig [default: $KUBECONFIG or ~/.kube/config]
    #[arg(long, value_name = "FILE", conflicts_with = "config", requires = "kube")]
    kubeconfig: Option<PathBuf>,
    /// A context of the kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME", conflicts_with = "config", requires = "kube")]
    context: Option<String>,
    /// Read the objects of this namespace only, and of kinds that have none; may be repeated [default: all namespaces]
    #[arg(long, value_name = "NS", conflicts_with = "config", requires = "kube", value_parser = namespace)]
    pub(crate) namespace: Vec<String>,
    /// What a process does in the cluster; of all that write, the holder of a Lease does [default: all]
    #[arg(long, value_enum, conflicts_with = "config", requires = "kube")]
    pub(crate) role: Option<Role>,
    /// Sluice's own namespace: where the Lease and the Services of Gateways lie
    #[arg(long, value_name = "NS", env = "POD_NAMESPACE", default_value = "sluice-system", value_parser = namespace)]
    pub(crate) system_namespace: String,
}

impl ClusterArgs {
    pub(crate) fn role(&self) -> Role {
        self.role.unwrap_or(Role::All)
    }

    /// The API server has not been asked for anything yet.
    pub(crate) async fn connect(&self) -> Result<Connection> {
        let options = ClientOptions { kubeconfig: self.kubeconfig.clone(), context: self.context.clone() };
        kubernetes::connect(&options).await.context("--kube")
    }

    /// What is read; `services_of`: the namespaces of Services that are looked at besides.
    pub(crate) fn scope(&self, services_of: Vec<String>) -> Scope {
        Scope {
            namespaces: self.namespace.clone(),
            services_of,
            with_status: if self.role().writes() { Controller::kinds() } else { Vec::new() },
        }
    }
}

/// The Services around it, for `sluice run --kube`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ServicesArgs {
    /// Give each Gateway a Service of its own, which selects the proxies' pods by these labels (NAME=VALUE,...); their
    /// listeners are then bound to target ports that the Service records [default: no Services; listeners bind the
    /// ports that they name]
    #[arg(long, value_name = "LABELS", conflicts_with = "config", requires = "kube", value_parser = labels)]
    pub(crate) gateway_services: Option<Labels>,
    /// Where the target ports of Gateways come from [default: 10000-19999]
    #[arg(long, value_name = "FIRST-LAST", conflicts_with = "config", requires = "gateway_services", value_parser = ports)]
    target_ports: Option<RangeInclusive<u16>>,
    /// The headless Service of the proxies' metrics ports (NAMESPACE/NAME): a Gateway is programmed when each of its
    /// ready endpoints serves it [default: this process is the only proxy]
    #[arg(long, value_name = "SERVICE", conflicts_with = "config", requires = "kube", value_parser = object)]
    proxy_service: Option<NamespacedName>,
    /// The Service in front of the Gateway of all Ingress objects (NAMESPACE/NAME), whose addresses they get [default:
    /// Ingress objects get no address]
    #[arg(long, value_name = "SERVICE", conflicts_with = "config", requires = "kube", value_parser = object)]
    ingress_service: Option<NamespacedName>,
}

/// What outlives a restart while the API server is away, for `sluice run --kube`.
#[derive(Args, Clone, Debug)]
pub(crate) struct LastGoodArgs {
    /// Keep what is read in this folder, which must lie in memory (tmpfs: it holds private keys), for a restart while the
    /// API server is away [default: nothing is kept, and a restart waits for the API server]
    #[arg(long, value_name = "DIR", conflicts_with = "config", requires = "kube")]
    last_good: Option<PathBuf>,
    /// Seconds that the API server must have failed after the start before what was kept is served
    #[arg(long, value_name = "SECONDS", default_value = "5", conflicts_with = "config", requires = "last_good", value_parser = clap::value_parser!(u64).range(1..=3600))]
    last_good_after: u64,
    /// Seconds since what was kept was last known to be current; what is older is not served
    #[arg(long, value_name = "SECONDS", default_value = "86400", conflicts_with = "config", requires = "last_good", value_parser = clap::value_parser!(u64).range(1..))]
    last_good_max_age: u64,
}

/// Above what pods usually listen on, below node ports (30000) and ephemeral ports (32768).
const TARGET_PORTS: RangeInclusive<u16> = 10_000..=19_999;

/// Labels by name.
pub(crate) type Labels = BTreeMap<String, String>;

/// A DNS label (RFC 1123), as namespaces are named.
pub(crate) fn namespace(text: &str) -> Result<String, String> {
    let is_label = (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-');
    if is_label { Ok(text.to_owned()) } else { Err("not the name of a namespace".to_owned()) }
}

fn labels(text: &str) -> Result<Labels, String> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').ok_or_else(|| format!("`{pair}` is not NAME=VALUE"))?;
        if name.trim().is_empty() {
            return Err(format!("`{pair}` has no name"));
        }
        Ok((name.trim().to_owned(), value.trim().to_owned()))
    };
    text.split(',').map(pair).collect()
}

fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let read = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
    match text.split_once('-').map(|(first, last)| (read(first), read(last))) {
        Some((Some(first), Some(last))) if first <= last => Ok(first..=last),
        _ => Err("not a range of ports: write 10000-19999".to_owned()),
    }
}

pub(crate) fn object(text: &str) -> Result<NamespacedName, String> {
    match text.split_once('/') {
        Some((namespace_of, name)) if !name.is_empty() && !name.contains('/') => {
            Ok(NamespacedName::new(namespace(namespace_of)?, name))
        }
        _ => Err("not NAMESPACE/NAME".to_owned()),
    }
}

/// The cluster that the flags name. It has not been asked for anything yet.
pub(crate) struct Cluster {
    pub(crate) source: KubernetesSource,
    pub(crate) args: ClusterArgs,
    pub(crate) services: ServicesArgs,
    client: Client,
}

impl Cluster {
    pub(crate) async fn open(args: &ClusterArgs, services: &ServicesArgs, last_good: &LastGoodArgs) -> Result<Cluster> {
        ensure!(
            last_good.last_good.is_none() || args.role() != Role::Controller,
            "--last-good is for processes that serve requests: leave it out with --role controller"
        );
        let connection = args.connect().await?;
        let named = services.proxy_service.iter().chain(&services.ingress_service);
        let mut services_of: Vec<_> = named.map(|service| service.namespace.to_string()).collect();
        // The Services of Gateways.
        services_of.extend(services.gateway_services.is_some().then(|| args.system_namespace.clone()));
        let client = connection.client.clone();
        let mut source = KubernetesSource::new(connection, &args.scope(services_of), Pauses::default());
        if let Some(folder) = &last_good.last_good {
            let options = LastGoodOptions {
                folder: folder.clone(),
                after: Duration::from_secs(last_good.last_good_after),
                max_age: Duration::from_secs(last_good.last_good_max_age),
            };
            source = source.with_last_good(&options).context("--last-good")?;
        }
        Ok(Cluster { source, args: args.clone(), services: services.clone(), client })
    }

    /// What writes to the cluster, if this process is to. Registers under the prefix of `registry`.
    pub(crate) fn controller(
        &self,
        registry: &mut Registry,
        served: &Arc<ServedForms>,
        plane: &Plane,
    ) -> Option<Arc<Controller>> {
        if !self.args.role().writes() {
            return None;
        }
        let services = self.services.clone();
        let settings = Settings {
            namespace: self.args.system_namespace.clone(),
            identity: identity(),
            services: services
                .gateway_services
                .map(|selector| ServiceSettings { selector, ports: services.target_ports.unwrap_or(TARGET_PORTS) }),
            ingress_service: services.ingress_service,
            proxies: services.proxy_service,
        };
        let (served, plane) = (served.clone(), plane.clone());
        let own = Arc::new(move |question: &_| served.answer(question, &plane));
        Some(Arc::new(Controller::new(self.client.clone(), settings, registry, own)))
    }
}

/// The pod's name, and what tells this process from the one before in it.
fn identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}_{}", host.trim(), uuid::Uuid::new_v4())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_a_cluster_are_read_or_refused() {
        assert_eq!(labels("app=sluice, tier=edge").unwrap().len(), 2);
        assert!(labels("app").is_err() && labels("=x").is_err() && labels("").is_err());
        assert_eq!(ports("10000-10010").unwrap(), 10_000..=10_010);
        assert!(ports("10").is_err() && ports("0-10").is_err() && ports("10-9").is_err() && ports("1-70000").is_err());
        assert_eq!(object("a/b").unwrap(), NamespacedName::new("a", "b"));
        assert!(object("b").is_err() && object("a/").is_err() && object("A/b").is_err() && object("a/b/c").is_err());
    }
}
