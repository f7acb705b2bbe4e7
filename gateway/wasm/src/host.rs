//! The host as the rest of the gateway holds it: what is desired goes in, versions that are ready come out.

use crate::aside::Aside;
use crate::build::{BUILDERS, Builder, FunctionCache, Published};
use crate::configured::Configured;
use crate::engine::LazyEngine;
use crate::error::HostError;
use crate::metrics::Metrics;
use crate::options::HostOptions;
use crate::outgoing::Backends;
use crate::schema::ConfigSchema;
use crate::services::{CheckedStore, Providers, StoreServers};
use arc_swap::ArcSwap;
use prometheus_client::registry::Registry;
use sluice_fetch::{Fetcher, FetcherOptions};
use sluice_model::Problem;
use sluice_model::plugin::{Grants, InstanceMode, Place, PluginKey, PluginSpec, PluginUse, UseKey};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

/// All plugins of a configuration, and all uses of them; two uses with one configuration are one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    pub plugins: BTreeMap<PluginKey, Arc<PluginSpec>>,
    /// A use whose plugin is not in `plugins` is ignored: translate has reported it.
    pub uses: BTreeMap<UseKey, DesiredUse>,
    /// What plugins may reach. A change reaches instances that run.
    pub grants: BTreeMap<PluginKey, Arc<Grants>>,
}

/// A configuration, and everywhere that it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredUse {
    pub config: Arc<str>,
    pub places: BTreeSet<Place>,
}

impl Desired {
    pub fn add_use(&mut self, plugin_use: &PluginUse) {
        let places = || DesiredUse { config: plugin_use.config.clone(), places: BTreeSet::new() };
        let desired = self.uses.entry(plugin_use.key()).or_insert_with(places);
        if !desired.places.contains(&plugin_use.at) {
            desired.places.insert(plugin_use.at.clone());
        }
    }
}

/// How it is with code that is not on this host.
#[derive(Clone, Debug)]
pub struct FetchStatus {
    /// The image, or the URL.
    pub source: String,
    pub progress: FetchProgress,
}

#[derive(Clone, Debug)]
pub enum FetchProgress {
    /// The host fetches nothing.
    Off,
    /// The first try is not over.
    Fetching,
    Fetched {
        size: u64,
        image_digest: Option<Arc<str>>,
    },
    /// Tries that have failed, and when the next one is; none where only a change of the object can help.
    Failed {
        tries: u32,
        again: Option<std::time::Instant>,
    },
}

/// One Plugin object, for `sluice get plugins` and the status page.
#[derive(Clone, Debug)]
pub struct PluginStatus {
    pub plugin: PluginKey,
    /// Empty where the source can't be resolved.
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
    /// Whether its module was tried; without uses it is compiled and held to the contract all the same.
    pub checked: bool,
    pub error: Option<String>,
    /// Where the code is fetched from. While it is not here, `sha256` is that of the code before, if there is any.
    pub fetch: Option<FetchStatus>,
}

/// The plugin host. Dropping it stops its threads; versions that are still held keep working.
pub struct PluginHost {
    builder: Arc<Builder>,
    wishes: AtomicU64,
    published: Arc<ArcSwap<Published>>,
    changed: watch::Receiver<u64>,
    functions: Arc<FunctionCache>,
}

impl PluginHost {
    /// Starts the host's threads; the engine and its pool of instances are made for the first plugin. Metrics are registered under the registry's prefix.
    pub fn new(options: HostOptions, registry: &mut Registry) -> Result<PluginHost, HostError> {
        let functions = Arc::new(FunctionCache::new(options.cache_dir.as_deref()));
        let engine = LazyEngine::new(&options, functions.clone());
        let aside = Arc::new(Aside::new(options.slow_threads)?);
        let metrics = Metrics::register(registry);
        let services = Providers::register(registry, options.test_bench.clone());
        let published = Arc::new(ArcSwap::from_pointee(Published::default()));
        let (sender, changed) = watch::channel(0);
        let fetching = options.fetch.clone().map(|policy| FetcherOptions {
            policy,
            dir: options.cache_dir.as_ref().map(|dir| dir.join("modules")),
            max_module: options.max_module,
            ..FetcherOptions::default()
        });
        let builder = Arc::new(Builder::new(
            options,
            engine,
            functions.clone(),
            aside,
            metrics,
            services,
            published.clone(),
            sender,
        ));
        if let Some(fetching) = fetching {
            let told = {
                let builder = Arc::downgrade(&builder);
                move || builder.upgrade().iter().for_each(|builder| builder.ring())
            };
            builder.set_fetcher(Fetcher::new(fetching, registry, told)?);
        }
        let host = PluginHost { builder, wishes: AtomicU64::new(0), published, changed, functions };
        for kind in BUILDERS {
            let builder = host.builder.clone();
            // Never joined: a compile under way would be waited for. A thread owns nothing that outlives it.
            std::thread::Builder::new().name("plugin-builder".to_owned()).spawn(move || builder.run(kind))?;
        }
        Ok(host)
    }

    /// Says what is needed from now on; returns at once. The same wish again costs a comparison.
    ///
    /// What is in the wish and not ready is loaded, checked, compiled and configured, the small before the large, at low
    /// priority. A plugin without a use is compiled too, after those that have one. Until the new version of a use is ready
    /// [`PluginHost::current`] gives the one before. What is not in the wish any more is forgotten here; whoever holds it
    /// can use it on.
    pub fn ensure(&self, desired: Desired) {
        if self.builder.is_desired(&desired) {
            return;
        }
        let number = self.wishes.fetch_add(1, Ordering::AcqRel) + 1;
        self.builder.desire(number, desired);
    }

    /// Says once what plugins may call outside of an exchange. Until then they call nothing there.
    pub fn set_backends(&self, backends: impl Backends + 'static) {
        self.builder.set_backends(Box::new(backends));
    }

    /// Says once what connects to where stores of plugins are. Until then no store of scope Redis can be used.
    pub fn set_store_servers(&self, servers: impl StoreServers + 'static) {
        self.builder.set_store_servers(Box::new(servers));
    }

    /// A store of scope Process that a plugin of the namespace is given now, for whoever tests plugins.
    pub fn store(&self, namespace: &str, name: &str) -> Option<CheckedStore> {
        self.builder.store(namespace, name)
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
        self.until(|published| published.pending == 0).await;
    }

    /// Waits until plugins that nobody uses were compiled as well.
    pub async fn checked(&self) {
        self.until(|published| published.pending == 0 && published.unchecked == 0).await;
    }

    async fn until(&self, holds: impl Fn(&Published) -> bool) {
        let mut changed = self.changed.clone();
        let is_settled = || {
            let published = self.published.load();
            published.wish == self.wishes.load(Ordering::Acquire) && holds(&published)
        };
        while !is_settled() {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// What is wrong now. A problem goes when what it is about works, or is not wished for any more. Of a store that can't be
    /// reached it tells once a plugin has used it.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = self.published.load().problems.clone();
        problems.extend(self.builder.service_problems());
        problems
    }

    pub fn statuses(&self) -> Vec<PluginStatus> {
        self.published.load().statuses.clone()
    }

    /// Compiled functions that were found in the cache, and that had to be compiled, since the start.
    pub fn cache_counts(&self) -> (u64, u64) {
        self.functions.counts()
    }
}

impl Drop for PluginHost {
    fn drop(&mut self) {
        self.builder.stop();
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
