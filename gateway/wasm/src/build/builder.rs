//! The threads that turn what is desired into versions that are ready.
//!
//! Their state is their own: they read the newest wish from an inbox of one, and publish what they have. Nothing that serves
//! waits for them. A compile can't be interrupted, so what is small goes first, and one of the threads takes nothing that
//! is large: a module of many megabytes holds up only others of its size.

use super::module::{Form, Module};
use super::{Failure, FunctionCache, Image, image, source};
use crate::aside::{Aside, NICE, lower_priority};
use crate::configured::{Code as Runs, Configured, Phases, PluginState};
use crate::engine::{Engine, LazyEngine};
use crate::host::{Desired, DesiredUse, FetchProgress, FetchStatus, PluginStatus};
use crate::instance::PluginLog;
use crate::metrics::Metrics;
use crate::options::HostOptions;
use crate::outgoing::Backends;
use crate::proxy_wasm::{self, Program};
use crate::services::{CheckedStore, Granted, Providers, StoreServers};
use arc_swap::{ArcSwap, ArcSwapOption};
use sluice_fetch::{FetchState, Fetcher, States};
use sluice_model::plugin::{ModuleSource, PluginKey, PluginSpec, UseKey};
use sluice_model::problem::Code;
use sluice_model::remote::RemoteSource;
use sluice_model::{Kind, ObjectRef, Problem};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Threads that compile. They have low priority, and work only while something changes.
pub(crate) const BUILDERS: [Thread; 2] = [Thread::Any, Thread::Small];

/// Bytes of a module that is small: it compiles in a second or two.
const SMALL: u64 = 1 << 20;

/// Waits before a source that failed is tried again: doubled from the first to the second.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// What one of the threads takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Thread {
    Any,
    Small,
}

/// What the threads have, for everybody.
#[derive(Default)]
pub(crate) struct Published {
    /// The wish that this is about.
    pub(crate) wish: u64,
    /// Uses of it that were not tried yet, and modules that no use asks for.
    pub(crate) pending: usize,
    pub(crate) unchecked: usize,
    pub(crate) versions: HashMap<UseKey, Arc<Configured>>,
    pub(crate) problems: Vec<Problem>,
    pub(crate) statuses: Vec<PluginStatus>,
}

/// One use: its version, and how the last try went. Of a plugin that no policy uses there is one too, under
/// [`unused`]: its module is checked.
#[derive(Default)]
struct Slot {
    current: Option<Arc<Configured>>,
    tried: Option<Tried>,
    /// One of the threads is at it: with this job.
    job: Option<u64>,
}

struct Tried {
    spec: Arc<PluginSpec>,
    failure: Option<Failure>,
    /// When a failure is tried again, and how often it was.
    again: Option<Instant>,
    tries: u32,
}

/// What is built next.
struct Job {
    number: u64,
    key: UseKey,
    spec: Arc<PluginSpec>,
    source: ModuleSource,
    /// None: the module is only checked.
    plugin_use: Option<(DesiredUse, Arc<PluginState>)>,
}

/// The key of a plugin that no policy uses; no configuration has this hash.
fn unused(plugin: &PluginKey) -> UseKey {
    UseKey { plugin: plugin.clone(), config_hash: "".into() }
}

fn is_unused(key: &UseKey) -> bool {
    key.config_hash.is_empty()
}

pub(crate) struct Builder {
    options: HostOptions,
    engine: LazyEngine,
    functions: Arc<FunctionCache>,
    aside: Arc<Aside>,
    metrics: Metrics,
    /// What plugins may reach.
    services: Providers,
    /// The newest wish, numbered.
    desired: ArcSwapOption<(u64, Desired)>,
    stop: AtomicBool,
    published: Arc<ArcSwap<Published>>,
    changed: watch::Sender<u64>,
    work: Mutex<Work>,
    /// Rings when there may be something to do.
    bell: Condvar,
    /// Fetches code that is not on this host. It holds a way back to this builder, and so comes after it.
    fetcher: OnceLock<Fetcher>,
    /// What plugins call outside of an exchange.
    backends: Arc<OnceLock<Box<dyn Backends>>>,
}

#[derive(Default)]
struct Work {
    /// A source that can't be resolved is the one before, where there was one.
    wish: Arc<(u64, Desired)>,
    seen: u64,
    /// Of the plugins of the wish whose code has to be fetched, how that stands.
    fetches: BTreeMap<PluginKey, Fetch>,
    /// What `fetches` was made of.
    fetched: Option<Arc<States>>,
    jobs: u64,
    slots: BTreeMap<UseKey, Slot>,
    plugins: HashMap<PluginKey, Arc<PluginState>>,
    /// What the newest wish allows them.
    granted: HashMap<PluginKey, Arc<Granted>>,
    /// Modules in use, by digest; failures that no other try would mend.
    modules: HashMap<Arc<str>, Result<Arc<Module>, Failure>>,
    /// Versions that are not wished for any more and may be in service until others are ready.
    former: HashMap<PluginKey, Vec<Weak<Configured>>>,
}

/// Code that has to be fetched.
struct Fetch {
    source: Arc<RemoteSource>,
    state: Option<FetchState>,
    /// Somebody is at it, or was.
    is_on: bool,
}

impl Fetch {
    /// Nothing is known of it yet, and will be.
    fn waits(&self) -> bool {
        self.is_on && self.state.is_none()
    }

    fn status(&self) -> FetchStatus {
        let progress = match &self.state {
            None if self.is_on => FetchProgress::Fetching,
            None => FetchProgress::Off,
            Some(FetchState::Fetched(fetched)) => {
                FetchProgress::Fetched { size: fetched.size, image_digest: fetched.image_digest.clone() }
            }
            Some(FetchState::Failed(failure)) => FetchProgress::Failed { tries: failure.tries, again: failure.again },
        };
        FetchStatus { source: self.source.to_string(), progress }
    }
}

impl Builder {
    #[allow(clippy::too_many_arguments, reason = "the host makes it of its parts, once")]
    pub(crate) fn new(
        options: HostOptions,
        engine: LazyEngine,
        functions: Arc<FunctionCache>,
        aside: Arc<Aside>,
        metrics: Metrics,
        services: Providers,
        published: Arc<ArcSwap<Published>>,
        changed: watch::Sender<u64>,
    ) -> Builder {
        Builder {
            options,
            engine,
            functions,
            aside,
            metrics,
            services,
            desired: ArcSwapOption::empty(),
            stop: AtomicBool::new(false),
            published,
            changed,
            work: Mutex::default(),
            bell: Condvar::new(),
            fetcher: OnceLock::new(),
            backends: Arc::default(),
        }
    }

    /// Once, before anything is wished for.
    pub(crate) fn set_fetcher(&self, fetcher: Fetcher) {
        drop(self.fetcher.set(fetcher));
    }

    /// Once.
    pub(crate) fn set_backends(&self, backends: Box<dyn Backends>) {
        drop(self.backends.set(backends));
    }

    /// Once.
    pub(crate) fn set_store_servers(&self, servers: Box<dyn StoreServers>) {
        self.services.set_store_servers(servers);
        let changed = self.changed.clone();
        self.services.set_told(move || changed.send_modify(|generation| *generation += 1));
    }

    pub(crate) fn store(&self, namespace: &str, name: &str) -> Option<CheckedStore> {
        self.services.store(namespace, name)
    }

    /// What is wrong now with what plugins may reach.
    pub(crate) fn service_problems(&self) -> Vec<Problem> {
        self.services.problems()
    }

    /// Never held while something is compiled. A panic while it was held left whole entries.
    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this is the wish already.
    pub(crate) fn is_desired(&self, desired: &Desired) -> bool {
        self.desired.load().as_ref().is_some_and(|wish| wish.1 == *desired)
    }

    pub(crate) fn desire(&self, number: u64, desired: Desired) {
        if let Some(fetcher) = self.fetcher.get() {
            let remote = desired.plugins.iter().filter_map(|(key, spec)| Some((key.clone(), spec.remote.clone()?)));
            fetcher.desire(remote.collect());
        }
        {
            // At once: a secret that is rotated waits for no compile.
            let mut work = self.work();
            work.granted = self.services.grant(&desired.grants);
            for (key, plugin) in &work.plugins {
                plugin.services.set(work.granted.get(key).cloned());
            }
        }
        self.desired.store(Some(Arc::new((number, desired))));
        self.ring();
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.ring();
    }

    pub(crate) fn ring(&self) {
        // Whoever has looked already and is about to wait holds the lock until it does.
        drop(self.work());
        self.bell.notify_all();
    }

    /// Runs until it is told to stop.
    pub(crate) fn run(&self, thread: Thread) {
        lower_priority(NICE);
        let mut work = self.work();
        while !self.stop.load(Ordering::Acquire) {
            self.take_wish(&mut work);
            let now = Instant::now();
            if let Some(job) = self.next(&mut work, thread, now) {
                drop(work);
                self.build(&job);
                work = self.work();
                continue;
            }
            let wait = work.next_retry().map_or(LAST_RETRY, |at| at.saturating_duration_since(now));
            work = self.bell.wait_timeout(work, wait).map_or_else(|broken| broken.into_inner().0, |(work, _)| work);
        }
    }

    /// Takes over a new wish: forgets what is not in it, keeps what is.
    fn take_wish(&self, work: &mut Work) {
        let Some(wish) = self.desired.load_full() else { return };
        let fetched = self.fetcher.get().map(Fetcher::states);
        let is_known = match (&fetched, &work.fetched) {
            (Some(fetched), Some(former)) => Arc::ptr_eq(fetched, former),
            (fetched, _) => fetched.is_none(),
        };
        if wish.0 == work.seen && is_known {
            return;
        }
        work.seen = wish.0;
        work.fetches = fetches(&wish.1, fetched.as_deref());
        work.fetched = fetched;
        let desired = with_sources(&wish.1, &work.fetches, &work.wish.1);
        let mut keys: BTreeSet<UseKey> =
            desired.uses.keys().filter(|key| desired.plugins.contains_key(&key.plugin)).cloned().collect();
        let used: HashSet<&PluginKey> = keys.iter().map(|key| &key.plugin).collect();
        let idle: Vec<UseKey> = desired.plugins.keys().filter(|key| !used.contains(key)).map(unused).collect();
        keys.extend(idle);
        let former = &mut work.former;
        work.slots.retain(|key, slot| {
            let stays = keys.contains(key);
            if let (false, Some(version)) = (stays, &slot.current) {
                former.entry(key.plugin.clone()).or_default().push(Arc::downgrade(version));
            }
            stays
        });
        for key in keys {
            work.slots.entry(key).or_default();
        }
        work.plugins.retain(|key, _| {
            let stays = desired.plugins.contains_key(key);
            if !stays {
                self.metrics.forget(key);
                self.services.forget(key);
            }
            stays
        });
        let sources = desired.plugins.values().filter_map(|spec| spec.source.as_ref());
        let digests: HashSet<&Arc<str>> = sources.map(ModuleSource::sha256).collect();
        work.modules.retain(|digest, _| digests.contains(digest));
        work.wish = Arc::new((wish.0, desired));
        work.retire();
        self.publish(work);
    }

    /// A use whose version is not the one that is wished for, and that may be tried now: what is cheap first, and modules
    /// that nobody uses last.
    fn next(&self, work: &mut Work, thread: Thread, now: Instant) -> Option<Job> {
        let wish = work.wish.clone();
        let busy: HashSet<&Arc<str>> = (work.slots.iter())
            .filter(|(_, slot)| slot.job.is_some())
            .filter_map(|(key, _)| Some(wish.1.plugins.get(&key.plugin)?.source.as_ref()?.sha256()))
            .collect();
        let busy_plugins: HashSet<&PluginKey> =
            work.slots.iter().filter(|(_, slot)| slot.job.is_some()).map(|(key, _)| &key.plugin).collect();
        let due = work.slots.iter().filter_map(|(key, slot)| {
            let spec = wish.1.plugins.get(&key.plugin)?;
            let source = spec.source.as_ref()?;
            let is_due = match &slot.tried {
                Some(tried) if tried.spec == *spec => tried.again.is_some_and(|again| again <= now),
                _ => true,
            };
            if !is_due || busy.contains(source.sha256()) || busy_plugins.contains(&key.plugin) {
                return None;
            }
            let size = if work.modules.contains_key(source.sha256()) { 0 } else { size(source) };
            let tries = slot.tried.as_ref().map_or(0, |tried| tried.tries);
            (thread == Thread::Any || size <= SMALL).then_some(((is_unused(key), tries, size), key, spec, source))
        });
        let (_, key, spec, source) = due.min_by(|one, other| one.0.cmp(&other.0))?;
        let (key, spec, source) = (key.clone(), spec.clone(), source.clone());
        work.jobs += 1;
        let number = work.jobs;
        work.slots.entry(key.clone()).or_default().job = Some(number);
        let plugin_use = wish.1.uses.get(&key).map(|found| (found.clone(), self.plugin(work, &key.plugin)));
        Some(Job { number, key, spec, source, plugin_use })
    }

    fn build(&self, job: &Job) {
        let started = Instant::now();
        let result = match catch_unwind(AssertUnwindSafe(|| self.version(job))) {
            Ok(result) => result,
            Err(_) => {
                // The hook has logged where. What it worked on is made anew if it is tried again.
                self.metrics.builder_restarts.inc();
                self.work().modules.remove(job.source.sha256());
                Err(Failure::invalid("the gateway failed while it compiled the plugin; please report this"))
            }
        };
        self.metrics.builds.inc();
        self.metrics.build_seconds.inc_by(started.elapsed().as_secs_f64());
        let mut work = self.work();
        // The wish may be another by now, and the use not in it, or in it again.
        if let Some(slot) = work.slots.get_mut(&job.key).filter(|slot| slot.job == Some(job.number)) {
            slot.job = None;
            slot.tell(job, result, started);
            work.retire();
            self.publish(&work);
        }
        drop(work);
        // What had to wait for this module, or for this plugin, need not any more.
        self.bell.notify_all();
    }

    /// Everything between a source and a version that is ready; none for a module that is only checked.
    fn version(&self, job: &Job) -> Result<Option<Configured>, Failure> {
        let Job { key, spec, source, plugin_use, .. } = job;
        let max_memory = self.options.max_memory;
        if spec.limits.memory > max_memory {
            let message = format!("{} bytes are more than the gateway's {max_memory} a plugin", spec.limits.memory);
            return Err(Failure::new(Code::OutOfRange, "spec.limits.memory", message));
        }
        let engine = self.engine.get(&self.options).map_err(|error| Failure::engine(&error))?;
        let module = self.module(&engine, source)?;
        let Some((plugin_use, plugin)) = plugin_use else { return Ok(None) };
        let schema = module.schema.as_deref();
        let code = match &module.form {
            Form::Component(component) => {
                self.functions.begin(&module.cache_name);
                let image = Image::build(&engine, component, schema, spec, &plugin_use.config, &plugin.log)?;
                self.functions.finish();
                Runs::Component(image)
            }
            Form::Filter(code) => {
                let owned_headers = image::check(schema, image::normal(&plugin_use.config))?;
                let (engine, aside) = (engine.clone(), self.aside.clone());
                let host =
                    proxy_wasm::Host { engine, aside, backends: self.backends.clone(), vms: self.options.filter_vms };
                let program = Program::build(host, code, spec, &plugin_use.config, plugin)?;
                Runs::Filter { program, phases: Phases::of_filter(code.phases()), owned_headers }
            }
        };
        let aside = self.aside.clone();
        let recycle_after = self.options.recycle_after;
        Ok(Some(Configured::new(key.clone(), spec.clone(), code, engine, aside, plugin.clone(), recycle_after)))
    }

    /// Compiled once, whatever came of it. No other thread is at the same module.
    fn module(&self, engine: &Engine, source: &ModuleSource) -> Result<Arc<Module>, Failure> {
        if let Some(known) = self.work().modules.get(source.sha256()) {
            return known.clone();
        }
        let loaded = self.load(engine, source);
        if !matches!(&loaded, Err(failure) if failure.retry) {
            self.work().modules.insert(source.sha256().clone(), loaded.clone());
        }
        loaded
    }

    fn load(&self, engine: &Engine, source: &ModuleSource) -> Result<Arc<Module>, Failure> {
        let bytes = source::read(source, self.options.max_module)?;
        let mut compatibility = DefaultHasher::new();
        engine.engine.precompile_compatibility_hash().hash(&mut compatibility);
        let cache_name = format!("{}-{:016x}", source.sha256(), compatibility.finish());
        self.functions.begin(&cache_name);
        let module = Arc::new(Module::load(engine, cache_name, &bytes)?);
        self.functions.finish();
        Ok(module)
    }

    fn plugin(&self, work: &mut Work, key: &PluginKey) -> Arc<PluginState> {
        let granted = work.granted.get(key).cloned();
        let plugin = work.plugins.entry(key.clone()).or_insert_with(|| {
            let services = self.services.plugin(key);
            services.set(granted);
            let metrics = Arc::new(self.metrics.plugin(key));
            let log = Arc::new(PluginLog::new(key.clone(), metrics.clone()));
            Arc::new(PluginState::new(&self.engine.slots, &self.aside, metrics, log, services))
        });
        plugin.clone()
    }

    fn publish(&self, work: &Work) {
        let is_tried = |key: &UseKey, slot: &Slot| {
            if work.fetches.get(&key.plugin).is_some_and(Fetch::waits) {
                return false;
            }
            let spec = work.wish.1.plugins.get(&key.plugin);
            // Without a source there is nothing to try.
            spec.is_none_or(|spec| {
                spec.source.is_none() || slot.tried.as_ref().is_some_and(|tried| tried.spec == *spec)
            })
        };
        let untried = |of_unused: bool| {
            let slots = work.slots.iter().filter(|(key, _)| is_unused(key) == of_unused);
            slots.filter(|(key, slot)| !is_tried(key, slot)).count()
        };
        let mut problems: Vec<Problem> = work.slots.iter().flat_map(|(key, slot)| work.problems(key, slot)).collect();
        problems.extend(work.fetches.iter().filter_map(|(key, fetch)| not_fetched(key, fetch)));
        problems.sort();
        problems.dedup();
        let published = Published {
            wish: work.wish.0,
            pending: untried(false),
            unchecked: untried(true),
            versions: (work.slots.iter())
                .filter_map(|(key, slot)| Some((key.clone(), slot.current.clone()?)))
                .collect(),
            problems,
            statuses: work.wish.1.plugins.values().map(|spec| work.status(spec)).collect(),
        };
        self.published.store(Arc::new(published));
        self.changed.send_modify(|generation| *generation += 1);
    }
}

fn fetches(desired: &Desired, fetched: Option<&States>) -> BTreeMap<PluginKey, Fetch> {
    let remote = desired.plugins.iter().filter_map(|(key, spec)| Some((key, spec.remote.clone()?)));
    let fetch = |(key, source): (&PluginKey, Arc<RemoteSource>)| {
        let state = fetched.and_then(|fetched| fetched.get(key, &source)).cloned();
        (key.clone(), Fetch { source, state, is_on: fetched.is_some() })
    };
    remote.map(fetch).collect()
}

/// Code that was fetched is a source as any other. One that can't be resolved now, or is not fetched yet, is the one that was
/// there before: what serves goes on, and may be configured anew.
fn with_sources(desired: &Desired, fetches: &BTreeMap<PluginKey, Fetch>, former: &Desired) -> Desired {
    let mut desired = desired.clone();
    for (key, spec) in &mut desired.plugins {
        if spec.source.is_some() {
            continue;
        }
        let fetched = match fetches.get(key).and_then(|fetch| fetch.state.as_ref()) {
            Some(FetchState::Fetched(fetched)) => Some(fetched.code.clone()),
            _ => None,
        };
        let before = || former.plugins.get(key)?.source.clone();
        // Where it came from, and by whose leave, makes no other version of it.
        *spec = Arc::new(PluginSpec { source: fetched.or_else(before), remote: None, ..(**spec).clone() });
    }
    desired
}

fn not_fetched(key: &PluginKey, fetch: &Fetch) -> Option<Problem> {
    let Some(FetchState::Failed(failure)) = &fetch.state else { return None };
    let object = ObjectRef::new(Kind::Plugin, key.namespace.clone(), key.name.clone());
    Some(Problem::error(failure.code, &object, failure.field, failure.message.clone()))
}

/// Bytes of a module, as far as that can be told without reading it.
fn size(source: &ModuleSource) -> u64 {
    match source {
        ModuleSource::Inline { bytes, .. } => bytes.len() as u64,
        ModuleSource::File { path, .. } => std::fs::metadata(&**path).map_or(0, |metadata| metadata.len()),
    }
}

impl Slot {
    /// Notes what came of a try.
    fn tell(&mut self, job: &Job, result: Result<Option<Configured>, Failure>, started: Instant) {
        let key = &job.key;
        let tries = match &self.tried {
            Some(tried) if tried.spec == job.spec => tried.tries + 1,
            _ => 1,
        };
        let failure = match result {
            Ok(None) => None,
            Ok(Some(version)) => {
                let took = started.elapsed().as_millis() as u64;
                tracing::info!(plugin = %key, module = %job.source.sha256(), took_ms = took, "plugin is ready");
                version.plugin.breaker.reset();
                if let Some(before) = self.current.replace(Arc::new(version)) {
                    before.retire();
                }
                None
            }
            Err(failure) => {
                let before = self.tried.as_ref().and_then(|tried| tried.failure.as_ref());
                if before != Some(&failure) {
                    let serves = if self.current.is_some() { "the version before goes on" } else { "uses of it fail" };
                    tracing::debug!(plugin = %key, code = failure.code.id(), reason = %failure.message, "plugin is not ready: {serves}");
                }
                Some(failure)
            }
        };
        let again = failure.as_ref().filter(|failure| failure.retry).map(|_| {
            let factor = 1u32.checked_shl(tries - 1).unwrap_or(u32::MAX);
            Instant::now() + FIRST_RETRY.saturating_mul(factor).min(LAST_RETRY)
        });
        self.tried = Some(Tried { spec: job.spec.clone(), failure, again, tries });
    }
}

impl Work {
    fn next_retry(&self) -> Option<Instant> {
        let waiting = self.slots.values().filter(|slot| slot.job.is_none());
        waiting.filter_map(|slot| slot.tried.as_ref()?.again).min()
    }

    /// Versions that are not wished for any more go for good once all uses of their plugin are ready, or there is none.
    fn retire(&mut self) {
        let (slots, wish) = (&self.slots, &self.wish.1);
        self.former.retain(|plugin, versions| {
            let spec = wish.plugins.get(plugin);
            let mut own = slots.iter().filter(|(key, _)| key.plugin == *plugin && !is_unused(key));
            let waits = own.any(|(_, slot)| slot.current.as_ref().is_none_or(|version| Some(version.spec()) != spec));
            if !waits {
                versions.iter().filter_map(Weak::upgrade).for_each(|version| version.retire());
            }
            waits
        });
    }

    /// A configuration is wrong where it is written, code is wrong in its Plugin.
    fn problems(&self, key: &UseKey, slot: &Slot) -> Vec<Problem> {
        let Some(failure) = slot.tried.as_ref().and_then(|tried| tried.failure.as_ref()) else { return Vec::new() };
        let of_config = failure.field.starts_with("config");
        match self.wish.1.uses.get(key).filter(|_| of_config) {
            Some(plugin_use) => {
                let places = plugin_use.places.iter();
                let problem = |place: &sluice_model::plugin::Place| {
                    let field = format!("{}.{}", place.field, failure.field);
                    Problem::error(failure.code, &place.object, field, failure.message.clone())
                };
                places.map(problem).collect()
            }
            None => {
                let object = ObjectRef::new(Kind::Plugin, key.plugin.namespace.clone(), key.plugin.name.clone());
                vec![Problem::error(failure.code, &object, failure.field.clone(), failure.message.clone())]
            }
        }
    }

    fn status(&self, spec: &Arc<PluginSpec>) -> PluginStatus {
        let digest = spec.source.as_ref().map(ModuleSource::sha256);
        let module = digest.and_then(|digest| self.modules.get(digest)).and_then(|module| module.as_ref().ok());
        let own: Vec<_> = self.slots.iter().filter(|(key, _)| key.plugin == spec.key).collect();
        let current = || own.iter().filter_map(|(_, slot)| slot.current.as_ref());
        let fetch = self.fetches.get(&spec.key);
        let mut failures = own.iter().filter_map(|(_, slot)| slot.tried.as_ref()?.failure.as_ref());
        let (is_here, not_fetched) = match fetch.and_then(|fetch| fetch.state.as_ref()) {
            Some(FetchState::Failed(failure)) => (true, Some(failure.message.clone())),
            _ => (!fetch.is_some_and(Fetch::waits), None),
        };
        PluginStatus {
            plugin: spec.key.clone(),
            sha256: digest.cloned().unwrap_or_default(),
            size: module.map(|module| module.size),
            phases: module.map(|module| module.phases.clone()).unwrap_or_default(),
            mode: current().next().map_or(spec.instance, |version| version.mode()),
            schema: module.and_then(|module| module.schema.clone()),
            uses: own.iter().filter(|(key, _)| !is_unused(key)).count(),
            ready: current().filter(|version| version.spec() == spec).count(),
            checked: is_here
                && own.iter().all(|(_, slot)| slot.tried.as_ref().is_some_and(|tried| tried.spec == *spec)),
            error: match (not_fetched, failures.next()) {
                (Some(message), _) => Some(message),
                (None, Some(failure)) => Some(failure.message.clone()),
                (None, None) if digest.is_none() && fetch.is_none() => Some("its source can't be resolved".to_owned()),
                (None, None) => None,
            },
            fetch: fetch.map(Fetch::status),
        }
    }
}
