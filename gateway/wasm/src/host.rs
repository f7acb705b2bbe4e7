//! The host as the rest of the gateway holds it: what is desired goes in, versions that are ready come out.

use crate::aside::Aside;
use crate::build::{Builder, FunctionCache, Inbox, Published};
use crate::configured::Configured;
use crate::engine::Engine;
use crate::error::HostError;
use crate::metrics::Metrics;
use crate::options::HostOptions;
use crate::schema::ConfigSchema;
use arc_swap::ArcSwap;
use prometheus_client::registry::Registry;
use sluice_model::Problem;
use sluice_model::plugin::{InstanceMode, PluginKey, PluginSpec, PluginUse, UseKey};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use tokio::sync::watch;

/// All plugins of a configuration, and all uses of them; two uses with one configuration are one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    pub plugins: BTreeMap<PluginKey, Arc<PluginSpec>>,
    /// A use whose plugin is not in `plugins` is ignored: translate has reported it.
    pub uses: BTreeMap<UseKey, PluginUse>,
}

impl Desired {
    pub fn add_use(&mut self, plugin_use: PluginUse) {
        self.uses.entry(plugin_use.key()).or_insert(plugin_use);
    }
}

/// One Plugin object, for `sluice get plugins` and the status page.
#[derive(Clone, Debug)]
pub struct PluginStatus {
    pub plugin: PluginKey,
    pub sha256: Arc<str>,
    /// Bytes of the module; none while it was not read.
    pub size: Option<usize>,
    /// As the metrics' label `phase` has them.
    pub phases: Vec<&'static str>,
    /// How instances are used, which is `Pooled` where no image can be made.
    pub mode: InstanceMode,
    pub schema: Option<Arc<ConfigSchema>>,
    /// Configurations in use, and how many of them run this very version.
    pub uses: usize,
    pub ready: usize,
    pub error: Option<String>,
}

/// The plugin host. Dropping it stops its threads; versions that are still held keep working.
pub struct PluginHost {
    inbox: Arc<Inbox>,
    wishes: AtomicU64,
    published: Arc<ArcSwap<Published>>,
    changed: watch::Receiver<u64>,
    functions: Arc<FunctionCache>,
    thread: Option<JoinHandle<()>>,
}

impl PluginHost {
    /// Reserves the instance pool and starts the host's threads. Metrics are registered under the registry's prefix.
    pub fn new(options: HostOptions, registry: &mut Registry) -> Result<PluginHost, HostError> {
        let functions = Arc::new(FunctionCache::new(options.cache_dir.as_deref()));
        let engine = Arc::new(Engine::new(&options, functions.clone())?);
        let aside = Arc::new(Aside::new(options.slow_threads)?);
        let metrics = Metrics::register(registry);
        let inbox = Arc::new(Inbox::default());
        let published = Arc::new(ArcSwap::from_pointee(Published::default()));
        let (sender, changed) = watch::channel(0);
        let builder =
            Builder::new(options, engine, functions.clone(), aside, metrics, inbox.clone(), published.clone(), sender);
        let thread = std::thread::Builder::new().name("plugin-builder".to_owned()).spawn(move || builder.run())?;
        Ok(PluginHost { inbox, wishes: AtomicU64::new(0), published, changed, functions, thread: Some(thread) })
    }

    /// Says what is needed from now on; returns at once. The same wish again costs a comparison.
    ///
    /// What is in the wish and not ready is loaded, checked, compiled and configured, one after the other, at low
    /// priority. Until the new version of a use is ready [`PluginHost::current`] gives the one before. What is not in the
    /// wish any more is forgotten here; whoever holds it can use it on.
    pub fn ensure(&self, desired: Desired) {
        if self.inbox.desired.load().as_ref().is_some_and(|wish| wish.1 == desired) {
            return;
        }
        let number = self.wishes.fetch_add(1, Ordering::AcqRel) + 1;
        self.inbox.desired.store(Some(Arc::new((number, desired))));
        self.wake();
    }

    /// The newest version of a use that is ready. To be asked when a snapshot is assembled, not for each request.
    ///
    /// A use that was given another configuration has another key: while this gives none for it, the snapshot
    /// before has the version that goes on.
    pub fn current(&self, key: &UseKey) -> Option<Arc<Configured>> {
        self.published.load().versions.get(key).cloned()
    }

    /// Changes each time that versions, problems or statuses did.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }

    /// Waits until each use of the newest wish is ready, or has failed once.
    pub async fn settled(&self) {
        let mut changed = self.changed.clone();
        let is_settled = || {
            let published = self.published.load();
            published.wish == self.wishes.load(Ordering::Acquire) && published.pending == 0
        };
        while !is_settled() {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// What is wrong now. A problem goes when what it is about works, or is not wished for any more.
    pub fn problems(&self) -> Vec<Problem> {
        self.published.load().problems.clone()
    }

    pub fn statuses(&self) -> Vec<PluginStatus> {
        self.published.load().statuses.clone()
    }

    /// Compiled functions that were found in the cache, and that had to be compiled, since the start.
    pub fn cache_counts(&self) -> (u64, u64) {
        self.functions.counts()
    }

    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for PluginHost {
    fn drop(&mut self) {
        self.inbox.stop.store(true, Ordering::Release);
        self.wake();
        // Not joined: a compile under way would be waited for. The thread owns nothing that outlives it.
        self.thread = None;
    }
}

impl fmt::Debug for PluginHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let published = self.published.load();
        f.debug_struct("PluginHost")
            .field("versions", &published.versions.len())
            .field("problems", &published.problems.len())
            .finish_non_exhaustive()
    }
}
