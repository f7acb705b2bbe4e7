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
mod held;
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
use held::Holding;
use hub::Hub;
use sluice_model::{Kind, ObjectRef, Right};
use sluice_resources::Held;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;
use target::Target;
use tokio::task::{AbortHandle, JoinSet};
use watch::Watch;

/// What of a cluster is read.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Objects of these namespaces, and of kinds that have none. None: all namespaces.
    pub namespaces: Vec<String>,
    /// Namespaces whose Services and EndpointSlices are read besides.
    pub services_of: Vec<String>,
    /// Kinds of which the status is kept for [`KubernetesSource::take_statuses`].
    pub with_status: Vec<Kind>,
}

impl Scope {
    /// What an account needs to read all of it.
    pub fn rights(&self) -> Vec<Right> {
        let (namespaces, of_services) = (sorted(&self.namespaces), sorted(&self.services_of));
        let mut rights = Vec::new();
        for kind in Kind::ALL {
            for namespace in target::places(kind, &namespaces, &of_services) {
                let served = namespace.as_ref().is_none_or(|namespace| namespaces.contains(namespace));
                rights.extend(["list", "watch"].map(|verb| Right {
                    group: kind.group(),
                    resource: kind.plural(),
                    namespace: namespace.clone(),
                    name: None,
                    verb,
                    only_for: if served { "" } else { "Sluice's own Services" },
                }));
            }
        }
        rights
    }
}

/// In order, each once.
fn sorted(names: &[String]) -> Vec<Arc<str>> {
    let mut names: Vec<Arc<str>> = names.iter().map(|name| name.as_str().into()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The objects of a cluster. Clones are the same source: some run its watches, one takes its changes.
#[derive(Clone)]
pub struct KubernetesSource {
    hub: Arc<Hub>,
    client: Client,
}

impl KubernetesSource {
    /// Nothing is read before [`KubernetesSource::watch`] runs for each kind of [`Kind::ALL`].
    pub fn new(client: Client, scope: &Scope, pauses: Pauses) -> KubernetesSource {
        let holding = Holding::new(scope.with_status.iter().copied());
        let hub = Hub::new(sorted(&scope.namespaces), sorted(&scope.services_of), holding, pauses);
        KubernetesSource { hub: Arc::new(hub), client }
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

    /// Waits until what the cluster holds of an object of [`Scope::with_status`] is another.
    pub async fn status_changed(&self) {
        self.hub.holding.changed().await;
    }

    /// What of that is new since it was taken last; `None` for an object that is gone.
    pub fn take_statuses(&self) -> HashMap<ObjectRef, Option<Held>> {
        self.hub.holding.take()
    }

    /// How the watches fare, a line a kind.
    pub fn statuses(&self) -> Vec<WatchStatus> {
        self.hub.statuses()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_asked_for_where_kinds_are_read() {
        let everywhere = Scope::default().rights();
        assert_eq!(everywhere.len(), 2 * Kind::ALL.len());
        assert!(everywhere.iter().all(|right| right.namespace.is_none()));
        let scope = Scope {
            namespaces: vec!["shop".into(), "shop".into()],
            services_of: vec!["sluice-system".into()],
            ..Scope::default()
        };
        let rights: Vec<String> = scope.rights().iter().map(ToString::to_string).collect();
        for right in ["list secrets in namespace shop", "watch services in namespace sluice-system", "list namespaces"]
        {
            assert!(rights.iter().any(|r| r == right), "{right}: {rights:?}");
        }
        assert!(!rights.iter().any(|right| right == "list secrets in namespace sluice-system"), "{rights:?}");
    }
}
