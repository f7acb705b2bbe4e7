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
//! its kind. Where it is away from the start, the last good resources may stand in for it.

mod backoff;
mod client;
mod failure;
mod held;
mod hub;
mod last_good;
mod pending;
mod raw;
mod references;
mod state;
mod target;
mod watch;

pub use backoff::Pauses;
pub use client::{ClientError, ClientOptions, Connection, connect};
pub use kube::Client;
pub use last_good::{LastGoodError, LastGoodOptions, LastGoodStatus};
pub use state::{WatchState, WatchStatus};

use crate::SourceUpdate;
use held::Holding;
use hub::Hub;
use last_good::LastGood;
use sluice_model::{Kind, ObjectRef, Right};
use sluice_resources::{Document, Held};
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
    last_good: Option<Arc<LastGood>>,
    /// Which cluster this is, and what of it is read.
    identity: Arc<str>,
}

impl KubernetesSource {
    /// Nothing is read before [`KubernetesSource::watch`] runs for each kind of [`Kind::ALL`].
    pub fn new(connection: Connection, scope: &Scope, pauses: Pauses) -> KubernetesSource {
        let holding = Holding::new(scope.with_status.iter().copied());
        let hub = Hub::new(sorted(&scope.namespaces), sorted(&scope.services_of), holding, pauses);
        let identity = last_good::identity(&connection.cluster, &scope.namespaces, &scope.services_of);
        KubernetesSource { hub: Arc::new(hub), client: connection.client, last_good: None, identity: identity.into() }
    }

    /// Keeps what the consumer holds for a process that starts while the API server is away, and uses what an earlier
    /// one kept. Nothing is kept before [`KubernetesSource::keep_last_good`] runs.
    pub fn with_last_good(self, options: &LastGoodOptions) -> Result<KubernetesSource, LastGoodError> {
        let last_good = LastGood::open(options, self.identity.to_string())?;
        Ok(KubernetesSource { last_good: Some(Arc::new(last_good)), ..self })
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
        // A watch that begins to fail is news, after which this is called again.
        let Some(due) = self.last_good.as_ref().and_then(|last_good| last_good.due(&self.hub)) else {
            return self.hub.changes().await;
        };
        tokio::select! {
            seen = self.hub.changes() => seen,
            () = tokio::time::sleep_until(due.into()) => Instant::now(),
        }
    }

    /// Takes what there is. Until everything was read once that is nothing, and the update says so; or it is the last
    /// good resources, which are read from a file.
    pub fn read(&self, seen: Instant) -> SourceUpdate {
        let update = self.hub.take(seen);
        match &self.last_good {
            Some(last_good) => last_good.pass(update, &self.hub),
            None => update,
        }
    }

    /// Whether what was handed on last is not the API server's, but the last good resources.
    pub fn in_last_good(&self) -> bool {
        self.last_good.as_ref().is_some_and(|last_good| last_good.in_use())
    }

    /// `None` where none are kept.
    pub fn last_good(&self) -> Option<LastGoodStatus> {
        self.last_good.as_ref().map(|last_good| last_good.status())
    }

    /// Waits until [`KubernetesSource::give_last_good`] is to be called with all objects that the consumer holds.
    pub async fn last_good_wanted(&self) {
        match &self.last_good {
            Some(last_good) => last_good.wanted().await,
            None => std::future::pending().await,
        }
    }

    pub fn give_last_good(&self, objects: Vec<Document>) {
        if let Some(last_good) = &self.last_good {
            last_good.give(objects);
        }
    }

    /// Writes them for as long as it is polled.
    pub async fn keep_last_good(&self) {
        match &self.last_good {
            Some(last_good) => last_good.keep(&self.hub).await,
            None => std::future::pending().await,
        }
    }

    /// Has everything listed again. Differences come as changes.
    pub fn list_again(&self) {
        self.hub.list_again();
    }

    /// Begins anew for a consumer that holds nothing (any more).
    pub fn restart(&self) {
        if let Some(last_good) = &self.last_good {
            last_good.restart();
        }
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
