//! The thread that turns what is desired into versions that are ready, one after the other.
//!
//! Its state is its own: it reads the newest wish from an inbox of one, and publishes what it has. Nothing waits for it.

use super::module::Module;
use super::{Failure, FunctionCache, Image, source};
use crate::aside::{Aside, NICE, lower_priority};
use crate::configured::{Configured, PluginState};
use crate::engine::Engine;
use crate::host::{Desired, PluginStatus};
use crate::instance::PluginLog;
use crate::metrics::Metrics;
use crate::options::HostOptions;
use crate::standing::Standing;
use arc_swap::{ArcSwap, ArcSwapOption};
use sluice_model::plugin::{ModuleSource, PluginKey, PluginSpec, PluginUse, UseKey};
use sluice_model::problem::Code;
use sluice_model::{Kind, ObjectRef, Problem};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Waits before a source that failed is tried again: doubled from the first to the second.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// The newest wish, numbered.
#[derive(Default)]
pub(crate) struct Inbox {
    pub(crate) desired: ArcSwapOption<(u64, Desired)>,
    pub(crate) stop: AtomicBool,
}

/// What the thread has, for everybody.
#[derive(Default)]
pub(crate) struct Published {
    /// The wish that this is about.
    pub(crate) wish: u64,
    /// Uses of it that were not tried yet.
    pub(crate) pending: usize,
    pub(crate) versions: HashMap<UseKey, Arc<Configured>>,
    pub(crate) problems: Vec<Problem>,
    pub(crate) statuses: Vec<PluginStatus>,
}

/// One use: its version, and how the last try went.
#[derive(Default)]
struct Slot {
    current: Option<Arc<Configured>>,
    tried: Option<Tried>,
}

struct Tried {
    spec: Arc<PluginSpec>,
    failure: Option<Failure>,
    /// When a failure is tried again, and how often it was.
    again: Option<Instant>,
    tries: u32,
}

pub(crate) struct Builder {
    pub(crate) options: HostOptions,
    pub(crate) engine: Arc<Engine>,
    pub(crate) functions: Arc<FunctionCache>,
    pub(crate) aside: Arc<Aside>,
    pub(crate) metrics: Metrics,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) published: Arc<ArcSwap<Published>>,
    pub(crate) changed: watch::Sender<u64>,
    state: Work,
}

#[derive(Default)]
struct Work {
    wish: Arc<(u64, Desired)>,
    slots: BTreeMap<UseKey, Slot>,
    plugins: HashMap<PluginKey, Arc<PluginState>>,
    /// Modules in use, by digest.
    modules: HashMap<Arc<str>, Arc<Module>>,
}

impl Builder {
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn new(
        options: HostOptions,
        engine: Arc<Engine>,
        functions: Arc<FunctionCache>,
        aside: Arc<Aside>,
        metrics: Metrics,
        inbox: Arc<Inbox>,
        published: Arc<ArcSwap<Published>>,
        changed: watch::Sender<u64>,
    ) -> Builder {
        Builder { options, engine, functions, aside, metrics, inbox, published, changed, state: Work::default() }
    }

    /// Runs until it is told to stop.
    pub(crate) fn run(mut self) {
        lower_priority(NICE);
        while !self.inbox.stop.load(Ordering::Acquire) {
            self.take_wish();
            let now = Instant::now();
            match self.next(now) {
                Some(work) => self.build(&work),
                None => match self.next_retry() {
                    Some(at) => std::thread::park_timeout(at.saturating_duration_since(now)),
                    None => std::thread::park(),
                },
            }
        }
    }

    /// Takes over a new wish: forgets what is not in it, keeps what is.
    fn take_wish(&mut self) {
        let Some(wish) = self.inbox.desired.load_full() else { return };
        if wish.0 == self.state.wish.0 {
            return;
        }
        let desired = &wish.1;
        let uses: HashSet<&UseKey> =
            desired.uses.keys().filter(|key| desired.plugins.contains_key(&key.plugin)).collect();
        self.state.slots.retain(|key, _| uses.contains(key));
        for key in uses {
            self.state.slots.entry(key.clone()).or_default();
        }
        self.state.plugins.retain(|key, _| {
            let stays = desired.plugins.contains_key(key);
            if !stays {
                self.metrics.forget(key);
            }
            stays
        });
        let digests: HashSet<&Arc<str>> = desired.plugins.values().map(|spec| spec.source.sha256()).collect();
        self.state.modules.retain(|digest, _| digests.contains(digest));
        self.state.wish = wish;
        self.publish();
    }

    /// A use whose version is not the one that is wished for, and that may be tried now.
    fn next(&self, now: Instant) -> Option<(Arc<PluginSpec>, PluginUse)> {
        let desired = &self.state.wish.1;
        self.state.slots.iter().find_map(|(key, slot)| {
            let spec = desired.plugins.get(&key.plugin)?;
            let plugin_use = desired.uses.get(key)?;
            let due = match &slot.tried {
                Some(tried) if tried.spec == *spec => tried.again.is_some_and(|again| again <= now),
                _ => true,
            };
            due.then(|| (spec.clone(), plugin_use.clone()))
        })
    }

    fn next_retry(&self) -> Option<Instant> {
        self.state.slots.values().filter_map(|slot| slot.tried.as_ref()?.again).min()
    }

    fn build(&mut self, (spec, plugin_use): &(Arc<PluginSpec>, PluginUse)) {
        let started = Instant::now();
        let key = plugin_use.key();
        let result = match catch_unwind(AssertUnwindSafe(|| self.version(spec, plugin_use))) {
            Ok(result) => result,
            Err(_) => {
                // The hook has logged where. What it worked on is made anew if it is tried again.
                self.metrics.builder_restarts.inc();
                self.state.modules.remove(spec.source.sha256());
                Err(Failure::invalid("the gateway failed while it compiled the plugin; please report this"))
            }
        };
        self.metrics.builds.inc();
        self.metrics.build_seconds.inc_by(started.elapsed().as_secs_f64());
        let slot = self.state.slots.entry(key.clone()).or_default();
        let tries = match &slot.tried {
            Some(tried) if tried.spec == *spec => tried.tries + 1,
            _ => 1,
        };
        let failure = match result {
            Ok(version) => {
                let took = started.elapsed().as_millis() as u64;
                tracing::info!(plugin = %key, module = %spec.source.sha256(), took_ms = took, "plugin is ready");
                slot.current = Some(Arc::new(version));
                None
            }
            Err(failure) => {
                let before = slot.tried.as_ref().and_then(|tried| tried.failure.as_ref());
                if before != Some(&failure) {
                    let serves = if slot.current.is_some() { "the version before goes on" } else { "uses of it fail" };
                    tracing::debug!(plugin = %key, code = failure.code.id(), reason = %failure.message, "plugin is not ready: {serves}");
                }
                Some(failure)
            }
        };
        let again = failure.as_ref().filter(|failure| failure.retry).map(|_| {
            let factor = 1u32.checked_shl(tries - 1).unwrap_or(u32::MAX);
            Instant::now() + FIRST_RETRY.saturating_mul(factor).min(LAST_RETRY)
        });
        slot.tried = Some(Tried { spec: spec.clone(), failure, again, tries });
        self.publish();
    }

    /// Everything between a source and a version that is ready.
    fn version(&mut self, spec: &Arc<PluginSpec>, plugin_use: &PluginUse) -> Result<Configured, Failure> {
        let max_memory = self.options.max_memory;
        if spec.limits.memory > max_memory {
            let message = format!("{} bytes are more than the gateway's {max_memory} a plugin", spec.limits.memory);
            return Err(Failure::new(Code::OutOfRange, "spec.limits.memory", message));
        }
        self.engine.wind();
        let module = self.module(&spec.source)?;
        let plugin = self.plugin(&spec.key);
        self.functions.begin(&module.cache_name);
        let image = Image::build(&self.engine, &module, spec, &plugin_use.config, &plugin.log)?;
        self.functions.finish();
        Ok(Configured::new(
            plugin_use.key(),
            spec.clone(),
            image,
            self.engine.clone(),
            self.aside.clone(),
            plugin,
            self.options.recycle_after,
        ))
    }

    fn module(&mut self, source: &ModuleSource) -> Result<Arc<Module>, Failure> {
        if let Some(module) = self.state.modules.get(source.sha256()) {
            return Ok(module.clone());
        }
        let bytes = source::read(source, self.options.max_module)?;
        let mut compatibility = DefaultHasher::new();
        self.engine.engine.precompile_compatibility_hash().hash(&mut compatibility);
        let cache_name = format!("{}-{:016x}", source.sha256(), compatibility.finish());
        self.functions.begin(&cache_name);
        let module = Arc::new(Module::load(&self.engine, cache_name, &bytes)?);
        self.functions.finish();
        self.state.modules.insert(source.sha256().clone(), module.clone());
        Ok(module)
    }

    fn plugin(&mut self, key: &PluginKey) -> Arc<PluginState> {
        let metrics = &self.metrics;
        let plugin = self.state.plugins.entry(key.clone()).or_insert_with(|| {
            let metrics = Arc::new(metrics.plugin(key));
            let log = Arc::new(PluginLog::new(key.clone(), metrics.clone()));
            Arc::new(PluginState::new(metrics, Standing::new(Instant::now()), log))
        });
        plugin.clone()
    }

    fn publish(&self) {
        let state = &self.state;
        let is_tried = |key: &UseKey, slot: &Slot| {
            let spec = state.wish.1.plugins.get(&key.plugin);
            spec.is_none() || slot.tried.as_ref().is_some_and(|tried| Some(&tried.spec) == spec)
        };
        let published = Published {
            wish: state.wish.0,
            pending: state.slots.iter().filter(|(key, slot)| !is_tried(key, slot)).count(),
            versions: (state.slots.iter())
                .filter_map(|(key, slot)| Some((key.clone(), slot.current.clone()?)))
                .collect(),
            problems: state.slots.iter().filter_map(|(key, slot)| self.problem(key, slot)).collect(),
            statuses: state.wish.1.plugins.values().map(|spec| self.status(spec)).collect(),
        };
        self.published.store(Arc::new(published));
        self.changed.send_modify(|generation| *generation += 1);
    }

    fn problem(&self, key: &UseKey, slot: &Slot) -> Option<Problem> {
        let failure = slot.tried.as_ref()?.failure.as_ref()?;
        let name = &self.state.wish.1.uses.get(key)?.name;
        let object = ObjectRef::new(Kind::Plugin, key.plugin.namespace.clone(), key.plugin.name.clone());
        let message = match failure.code {
            Code::PluginConfig | Code::PluginTrap => format!("used as `{name}`: {}", failure.message),
            _ => failure.message.clone(),
        };
        Some(Problem::error(failure.code, &object, failure.field.clone(), message))
    }

    fn status(&self, spec: &Arc<PluginSpec>) -> PluginStatus {
        let module = self.state.modules.get(spec.source.sha256());
        let own: Vec<_> =
            self.state.slots.iter().filter(|(key, _)| key.plugin == spec.key).map(|(_, slot)| slot).collect();
        let current = || own.iter().filter_map(|slot| slot.current.as_ref());
        let failures = own.iter().filter_map(|slot| slot.tried.as_ref()?.failure.as_ref());
        PluginStatus {
            plugin: spec.key.clone(),
            sha256: spec.source.sha256().clone(),
            size: module.map(|module| module.size),
            phases: current().next().map(|version| version.phases().names()).unwrap_or_default(),
            mode: current().next().map_or(spec.instance, |version| version.mode()),
            schema: module.and_then(|module| module.schema.clone()),
            uses: own.len(),
            ready: current().filter(|version| version.spec() == spec).count(),
            error: failures.map(|failure| failure.message.clone()).next(),
        }
    }
}
