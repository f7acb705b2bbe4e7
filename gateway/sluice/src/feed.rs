//! Where objects come from, folders or a cluster, as the configuration task sees it: one way to wait, one to read.

use sluice_model::{Kind, Problem};
use sluice_resources::Document;
use sluice_sources::SourceUpdate;
use sluice_sources::files::{FileSource, Watch};
use sluice_sources::kubernetes::{KubernetesSource, WatchState};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What was named on the command line.
#[derive(Clone)]
pub(crate) enum Origin {
    Files {
        paths: Vec<PathBuf>,
        /// How often to look for what inotify cannot see.
        poll: Duration,
    },
    Cluster(KubernetesSource),
}

impl Origin {
    /// A feed for a consumer that holds nothing yet.
    pub(crate) fn open(&self) -> Feed {
        match self {
            Origin::Files { paths, poll } => {
                let (watch, error) = Watch::start(*poll);
                if let Some(error) = error {
                    tracing::warn!(%error, ?poll, "files cannot be watched, polling only");
                }
                Feed::Files { source: FileSource::open(paths.clone()), watch }
            }
            Origin::Cluster(source) => {
                source.restart();
                Feed::Cluster(source.clone())
            }
        }
    }

    /// Whether what was read last is the source's own, and not kept from before.
    pub(crate) fn is_live(&self) -> bool {
        match self {
            Origin::Files { .. } => true,
            Origin::Cluster(source) => !source.in_last_good(),
        }
    }

    /// Waits until all objects are to be kept for a restart. May be dropped and called again.
    pub(crate) async fn keeps(&self) {
        match self {
            Origin::Files { .. } => std::future::pending().await,
            Origin::Cluster(source) => source.last_good_wanted().await,
        }
    }

    pub(crate) fn keep(&self, documents: Vec<Document>) {
        if let Origin::Cluster(source) = self {
            source.give_last_good(documents);
        }
    }
}

/// What is read from.
pub(crate) enum Feed {
    Files { source: FileSource, watch: Watch },
    Cluster(KubernetesSource),
}

impl Feed {
    /// Waits for something new, and says when it was first seen. May be dropped and called again.
    pub(crate) async fn changed(&mut self) -> Instant {
        match self {
            Feed::Files { watch, .. } => watch.changed().await,
            Feed::Cluster(source) => source.changed().await,
        }
    }

    /// Reads what is new; `seen` is what [`Feed::changed`] said. Blocks on the file system.
    pub(crate) fn read(&mut self, seen: Instant) -> SourceUpdate {
        match self {
            Feed::Files { source, watch } => {
                let update = source.read_but(&watch.being_written());
                watch.follow(source.folders());
                SourceUpdate { seen, ..update }
            }
            Feed::Cluster(source) => source.read(seen),
        }
    }

    /// Reads everything again. From a cluster the differences come later.
    pub(crate) fn read_again(&mut self) -> SourceUpdate {
        match self {
            Feed::Files { source, watch } => {
                let update = source.reread(&watch.being_written());
                watch.follow(source.folders());
                update
            }
            Feed::Cluster(source) => {
                source.list_again();
                source.read(Instant::now())
            }
        }
    }

    /// Whether all Gateways and their classes are known.
    pub(crate) fn knows_gateways(&self) -> bool {
        match self {
            Feed::Files { .. } => true,
            Feed::Cluster(source) => {
                let statuses = source.statuses();
                let mut needed = statuses.iter().filter(|s| matches!(s.kind, Kind::Gateway | Kind::GatewayClass));
                needed.all(|status| status.state == WatchState::Synced)
            }
        }
    }

    /// Says of problems where they stand, where that is a file.
    pub(crate) fn locate_all(&self, problems: &mut [Problem]) {
        if let Feed::Files { source, .. } = self {
            source.locate_all(problems);
        }
    }
}
