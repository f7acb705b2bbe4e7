//! The admin ports: what probes, Prometheus and operators ask a running gateway. Nothing here is on the request path,
//! nothing here changes what is served (the log level is all that can be set), and neither port is for the public.
//!
//! | port | who may reach it | paths |
//! |---|---|---|
//! | metrics | the cluster | `/metrics` `/livez` `/readyz` `/served` |
//! | admin | this host | `/` `/config` `/problems` `/explain` `/log-level` |

mod local;
mod page;
mod probes;
mod server;

pub use axum::Router;
pub use local::{LogFilter, local};
pub use probes::{MetricsHandle, probes};
pub use server::serve;

use futures::future::BoxFuture;
use sluice_model::{Config, Problem, Served, ServedQuestion};
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

/// The gateway at a glance.
#[derive(Clone, Debug)]
pub struct Status {
    pub version: &'static str,
    pub started: SystemTime,
    /// Counts the snapshots that were published.
    pub generation: u64,
    /// When the configuration last changed, and what changed.
    pub last_reload: Option<(SystemTime, String)>,
    pub draining: bool,
    pub endpoints: Vec<EndpointStatus>,
    pub plugins: Vec<PluginStatus>,
    /// The watches of a cluster; none where objects come from files.
    pub watches: Vec<WatchStatus>,
    /// Said while what is served was kept from before, since the API server is away.
    pub last_good: Option<String>,
}

/// How reading one kind of object fares.
#[derive(Clone, Debug)]
pub struct WatchStatus {
    pub kind: &'static str,
    /// `synced`, `syncing`, `not installed`, `forbidden`, `failing`.
    pub state: &'static str,
    /// Why, where that is to be said.
    pub message: String,
    /// For how long it has not been known to be current.
    pub stale: Duration,
    pub objects: usize,
}

#[derive(Clone, Debug)]
pub struct EndpointStatus {
    pub backend: String,
    pub address: String,
    /// `ready`, `ejected`, `failing checks`, `terminating`, …
    pub state: String,
    /// Requests that it is answering.
    pub in_flight: usize,
}

#[derive(Clone, Debug)]
pub struct PluginStatus {
    /// The Plugin and the use, as `namespace/name#config`.
    pub name: String,
    /// SHA-256 of the module, in hex.
    pub digest: String,
    /// `ready`, `compiling`, `failed: …`.
    pub state: String,
}
