//! A cluster as a source of objects.
//!
//! ```text
//! a task a kind ──► watches: list, then follow ──► raw ──► parse ──► hub ──► changes
//!        ▲          (all of it; of Secrets those                      │
//!        │           with certificates)                               │
//!        └── one watch each for the other Secrets and ConfigMaps ◄────┘ what objects refer to
//! ```
//!
//! The first set of changes comes when every kind was read, or is known not to be had (no CRD, no right). From then on
//! a change is handed on as soon as the consumer asks; what arrives while it is busy is taken together, the newest form
//! of each object. What was read stays where the API server goes away, refuses, or sends an object that does not fit
//! its kind.

mod backoff;
mod client;
mod failure;
mod hub;
mod pending;
mod raw;
mod references;
mod state;
mod target;
mod watch;

pub use backoff::Pauses;
pub use client::{ClientError, ClientOptions, connect};
pub use kube::Client;
pub use state::{WatchState, WatchStatus};

use crate::SourceUpdate;
use hub::Hub;
use sluice_model::Kind;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;
use target::Target;
use tokio::task::{AbortHandle, JoinSet};
use watch::Watch;

/// The objects of a cluster. Clones are the same source: some run its watches, one takes its changes.
#[derive(Clone)]
pub struct KubernetesSource {
    hub: Arc<Hub>,
    client: Client,
}

impl KubernetesSource {
    /// Objects of these namespaces, and of kinds that have none; of all namespaces where none is named. Nothing is read
    /// before [`KubernetesSource::watch`] runs for each kind of [`Kind::ALL`].
    pub fn new(client: Client, namespaces: &[String], pauses: Pauses) -> KubernetesSource {
        let mut namespaces: Vec<Arc<str>> = namespaces.iter().map(|namespace| namespace.as_str().into()).collect();
        namespaces.sort_unstable();
        namespaces.dedup();
        KubernetesSource { hub: Arc::new(Hub::new(namespaces, pauses)), client }
    }

    /// Runs the watches of one kind for as long as it is polled. Called again, it goes on with what is known.
    pub async fn watch(&self, kind: Kind) {
        let mut changes = self.hub.wanted_changes();
        let mut tasks = JoinSet::new();
        let mut running: HashMap<Target, AbortHandle> = HashMap::new();
        loop {
            changes.mark_unchanged();
            let wanted = self.hub.wanted(kind);
            // Those that begin are there before others end: what they take over is not gone in between.
            for target in &wanted {
                if !running.contains_key(target) {
                    let watch = Watch::new(self.hub.clone(), self.client.clone(), target.clone());
                    running.insert(target.clone(), tasks.spawn(watch.run()));
                }
            }
            running.retain(|target, task| {
                let stays = wanted.contains(target);
                if !stays {
                    task.abort();
                    self.hub.end(target);
                }
                stays
            });
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                Some(ended) = tasks.join_next() => if let Err(error) = ended && error.is_panic() {
                    // Whoever runs this counts it, and runs it again.
                    std::panic::resume_unwind(error.into_panic());
                },
            }
        }
    }

    /// Waits until there is something to take, and says when the first of it arrived. May be dropped and called again
    /// at any time.
    pub async fn changed(&self) -> Instant {
        self.hub.changes().await
    }

    /// Takes what there is. Until everything was read once that is nothing, and the update says so.
    pub fn read(&self, seen: Instant) -> SourceUpdate {
        self.hub.take(seen)
    }

    /// Has everything listed again. Differences come as changes.
    pub fn list_again(&self) {
        self.hub.list_again();
    }

    /// Begins anew for a consumer that holds nothing (any more).
    pub fn restart(&self) {
        self.hub.restart();
    }

    /// How the watches fare, a line a kind.
    pub fn statuses(&self) -> Vec<WatchStatus> {
        self.hub.statuses()
    }
}
