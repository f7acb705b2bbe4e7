//! The admin ports: what probes, Prometheus and operators ask a running gateway. Nothing here is on the request path,
//! nothing here changes what is served (the log level is all that can be set), and neither port is for the public.
//!
//! | port | who may reach it | paths |
//! |---|---|---|
//! | metrics | the cluster | `/metrics` `/livez` `/readyz` `/served` |
//! | admin | this host | `/` `/status` `/listeners` `/routes` `/backends` `/certificates` `/config` `/problems` `/explain` `/log-level` |

mod local;
mod page;
mod probes;
mod rows;
mod server;
mod wire;

pub use axum::Router;
pub use local::{LogFilter, local};
pub use probes::{MetricsHandle, probes};
pub use rows::{BackendRow, CertificateRow, ListenerRow, RouteRow, certificates};
pub use server::serve;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use sluice_model::{Config, Problem, Served, ServedQuestion};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// What the admin ports show of the running gateway. Answers come from what is there already: nothing waits for a
/// reload or takes a lock of the data plane.
pub trait View: Send + Sync + 'static {
    /// What is served now.
    fn config(&self) -> Arc<Config>;
    /// All that is wrong at the moment.
    fn problems(&self) -> Arc<Vec<Problem>>;
    fn status(&self) -> Status;
    /// Which forms of these objects are served.
    fn served(&self, question: &ServedQuestion) -> Served;
    /// Whether new connections should come here. Asks the threads that serve requests.
    fn readiness(&self) -> BoxFuture<'_, Readiness>;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// What to know all the same, a line each.
    Ready(Vec<String>),
    /// Why not, in a few words.
    NotReady(String),
}

/// The gateway at a glance: `/status`, as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    #[serde(with = "wire::time")]
    pub started: SystemTime,
    /// Counts the snapshots that were published.
    pub generation: u64,
    pub last_reload: Option<Reload>,
    pub draining: bool,
    /// Addresses of the configuration whose sockets are open. A controller opens none.
    pub open: Vec<SocketAddr>,
    /// Likewise of UDP.
    #[serde(default)]
    pub open_udp: Vec<SocketAddr>,
    pub endpoints: Vec<EndpointStatus>,
    pub plugins: Vec<PluginStatus>,
    /// The watches of a cluster; none where objects come from files.
    pub watches: Vec<WatchStatus>,
    /// Said while what is served was kept from before, since the API server is away.
    pub last_good: Option<String>,
}

/// When the configuration last changed, and what changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reload {
    #[serde(with = "wire::time")]
    pub time: SystemTime,
    pub summary: String,
}

/// How reading one kind of object fares.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WatchStatus {
    pub kind: String,
    /// `synced`, `syncing`, `not installed`, `forbidden`, `failing`.
    pub state: String,
    /// Why, where that is to be said.
    pub message: String,
    /// For how long it has not been known to be current.
    #[serde(rename = "stale_seconds", with = "wire::seconds")]
    pub stale: Duration,
    pub objects: usize,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// `namespace/name:port`.
    pub backend: String,
    /// Tells backends of one Service apart that differ in policy.
    pub policy: String,
    pub address: String,
    /// `ready`, `ready, meant for others`, `not ready`, `ejected`, `failing its health checks`.
    pub state: String,
    /// Requests that it is answering.
    pub in_flight: usize,
}

impl EndpointStatus {
    pub fn is_ready(&self) -> bool {
        matches!(&*self.state, "ready" | "ready, meant for others")
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PluginStatus {
    /// The Plugin, as `namespace/name`.
    pub name: String,
    /// SHA-256 of the module, in hex.
    pub digest: String,
    /// Where it was fetched from, a tag with the digest that it led to; empty for a module that is on the host.
    #[serde(default)]
    pub source: String,
    /// `ready, 2 in use`, `compiling, …`, `failed: …`.
    pub state: String,
}
