//! What the tests have asked for so far: modules, configurations, and what plugins may reach.

use super::super::engine::{Module, sentence};
use super::super::log::Lines;
use super::pipe::Pipe;
use super::protocol::{FromHost, Metric, MetricValue, Services, StoreCall, Stored};
use crate::certificate;
use anyhow::{Context, Result, anyhow, bail};
use prometheus_client::registry::Registry;
use sha2::{Digest, Sha256};
use sluice_model::plugin::{
    FailMode, Grants, InstanceMode, ModuleSource, Place, PluginKey, PluginLimits, PluginSpec, PluginUse, SecretValue,
    StoreGrant, UseKey,
};
use sluice_model::problem::Code;
use sluice_model::{Kind, ObjectRef, Problem};
use sluice_wasm::{
    Configured, Desired, FileKind, HostOptions, Interfaces, Invocation, MetricValue as Told, PluginHost, TestBench,
};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Instances at a time: one is called, and one a body that is under way.
const INSTANCES: u32 = 16;

/// CPU time of a call. Longer than a Plugin's default: a test is about what is right.
const RUN_TIME: Duration = Duration::from_secs(2);

/// Wall time of a call: a backend of the test may stand in a debugger.
const DEADLINE: Duration = Duration::from_secs(600);

/// Bytes of a body, so that a plugin's own limits are those that act.
const BODY_BUFFER: u64 = 64 << 20;

/// Longest time for a module to be compiled and configured.
const COMPILING: Duration = Duration::from_secs(300);

/// Bodies of which a plugin has seen the beginning, and not the end.
const MAX_BODIES: usize = 8;

/// Names a file that a byte is added to for each call: `sluice plugin test` tells how many there were.
pub(crate) const TALLY: &str = "SLUICE_PLUGIN_HOST_TALLY";

const NAMESPACE: &str = "tests";

/// The test's clock, and what plugins told of metrics since it was asked before.
#[derive(Debug, Default)]
struct Bench {
    now: AtomicU64,
    monotonic: AtomicU64,
    told: Mutex<Vec<Metric>>,
}

impl TestBench for Bench {
    fn now(&self) -> u64 {
        self.now.load(Relaxed)
    }

    fn monotonic(&self) -> u64 {
        self.monotonic.load(Relaxed)
    }

    fn told(&self, metric: &str, labels: &[(String, String)], value: Told) {
        let value = match value {
            Told::Added(by) => MetricValue::Added(by),
            Told::Gauge(value) => MetricValue::Gauge(value.to_bits()),
            Told::Observation(value) => MetricValue::Observation(value.to_bits()),
        };
        lock(&self.told).push(Metric { name: metric.to_owned(), labels: labels.to_vec(), value });
    }
}

/// None of what is held can be left in pieces.
fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) struct Desk {
    engine: PluginHost,
    bench: Arc<Bench>,
    lines: Lines,
    pub(super) pipe: Arc<Pipe>,
    wish: Mutex<Wish>,
    bodies: Mutex<BTreeMap<u64, Invocation>>,
    bodies_begun: AtomicU64,
    /// What a backend of the test answered, and is no answer.
    trouble: Mutex<Option<String>>,
    tally: Option<File>,
}

/// What the engine is to have.
#[derive(Default)]
struct Wish {
    desired: Desired,
    grants: Arc<Grants>,
    /// By their files.
    modules: BTreeMap<String, PluginKey>,
    modules_read: usize,
    /// By their numbers.
    plugins: Vec<UseKey>,
}

impl Desk {
    /// Keeps compiled functions where the gateway keeps them, so that the second run of the tests is quick.
    pub(super) fn open(pipe: Arc<Pipe>, lines: Lines) -> Result<Desk> {
        let bench = Arc::new(Bench::default());
        let cache_dir = certificate::state_folder(None).ok().map(|folder| folder.join("plugins"));
        let test_bench = Some(bench.clone() as Arc<dyn TestBench>);
        let options = HostOptions { cache_dir, instances: INSTANCES, test_bench, ..HostOptions::default() };
        let engine = PluginHost::new(options, &mut Registry::default())?;
        let tally = match std::env::var_os(TALLY) {
            Some(file) => Some(File::options().append(true).open(&file).with_context(|| file.display().to_string())?),
            None => None,
        };
        let (wish, bodies, trouble) = (Mutex::default(), Mutex::default(), Mutex::default());
        Ok(Desk { engine, bench, lines, pipe, wish, bodies, bodies_begun: AtomicU64::new(0), trouble, tally })
    }

    /// Counts a call, for whoever wants to know how much was tested.
    pub(super) fn count(&self) -> Result<()> {
        match &self.tally {
            Some(file) => {
                let mut file: &File = file;
                file.write_all(b".").context(TALLY)
            }
            None => Ok(()),
        }
    }

    /// Takes over what plugins may reach. At once: no version is made anew for it.
    pub(super) fn serve(&self, services: Services) -> Result<FromHost> {
        let Services { anew, now, monotonic, secrets, stores } = services;
        self.bench.now.store(now, Relaxed);
        self.bench.monotonic.store(monotonic, Relaxed);
        let mut wish = lock(&self.wish);
        if anew {
            self.grant(&mut wish, Grants::default());
            lock(&self.bodies).clear();
        }
        let secrets =
            secrets.into_iter().map(|(name, value)| (name.into(), Some(SecretValue::new(&value.0)))).collect();
        // One that is full takes what does not grow, and nothing more.
        let stores = stores.into_iter().map(|(name, full)| {
            let quota = if full { 0 } else { StoreGrant::DEFAULT_QUOTA };
            (name.into(), StoreGrant { quota })
        });
        let routing = wish.grants.routing;
        let grants = Grants { secrets, stores: stores.collect(), routing, ..Grants::default() };
        self.grant(&mut wish, grants);
        Ok(FromHost::Done)
    }

    /// Whether plugins may say where requests go.
    pub(super) fn let_route(&self, may: bool) {
        let mut wish = lock(&self.wish);
        if wish.grants.routing != may {
            let grants = Grants { routing: may, ..(*wish.grants).clone() };
            self.grant(&mut wish, grants);
        }
    }

    /// Stores are there from when a plugin may use them, so that there has to be one.
    fn grant(&self, wish: &mut Wish, grants: Grants) {
        wish.grants = Arc::new(grants);
        let mut keys: Vec<PluginKey> = wish.desired.plugins.keys().cloned().collect();
        keys.push(PluginKey::new(NAMESPACE, "test"));
        wish.desired.grants = keys.into_iter().map(|key| (key, wish.grants.clone())).collect();
        self.engine.ensure(wish.desired.clone());
    }

    /// What was configured before is not configured again.
    pub(super) async fn configure(&self, file: &str, config: String) -> Result<FromHost> {
        let plugin_use = self.wish_for(file, config)?;
        let key = plugin_use.key();
        let ready = tokio::time::timeout(COMPILING, self.engine.settled()).await;
        ready.with_context(|| format!("{file}: it is not compiled after {} s", COMPILING.as_secs()))?;
        let mut wish = lock(&self.wish);
        if self.engine.current(&key).is_some() {
            let known = wish.plugins.iter().position(|plugin| *plugin == key);
            let number = known.unwrap_or_else(|| {
                wish.plugins.push(key);
                wish.plugins.len() - 1
            });
            return Ok(FromHost::Configured(number as u64));
        }
        let problems = self.engine.problems();
        wish.desired.uses.remove(&key);
        self.engine.ensure(wish.desired.clone());
        let (refusals, others): (Vec<_>, Vec<_>) =
            problems.iter().partition(|problem| matches!(problem.code, Code::PluginConfig | Code::PluginSelfTest));
        if others.is_empty() && !refusals.is_empty() {
            let refusals: Vec<String> = refusals.into_iter().map(refusal).collect();
            return Ok(FromHost::Refused(refusals.join("; ")));
        }
        // A module that could be used with no configuration is read anew for the next one.
        if let Some(plugin) =
            wish.modules.get(file).filter(|key| !wish.plugins.iter().any(|known| known.plugin == **key))
        {
            let plugin = plugin.clone();
            wish.modules.remove(file);
            wish.desired.plugins.remove(&plugin);
        }
        let mut reasons: Vec<String> = others.into_iter().map(sentence).collect();
        reasons.extend(self.logged());
        bail!("{file}: {}", reasons.join("\n"))
    }

    fn wish_for(&self, file: &str, config: String) -> Result<PluginUse> {
        let mut wish = lock(&self.wish);
        let key = match wish.modules.get(file) {
            Some(key) => key.clone(),
            None => {
                let spec = spec(file, wish.modules_read)?;
                wish.modules_read += 1;
                let key = spec.key.clone();
                wish.modules.insert(file.to_owned(), key.clone());
                let grants = wish.grants.clone();
                wish.desired.grants.insert(key.clone(), grants);
                wish.desired.plugins.insert(key.clone(), Arc::new(spec));
                key
            }
        };
        let plugin_use = PluginUse {
            name: key.name.clone(),
            config_hash: hex::encode(Sha256::digest(&config)).into(),
            config: config.into(),
            fail_mode: FailMode::Closed,
            when: None,
            at: Place { object: ObjectRef::new(Kind::TrafficPolicy, NAMESPACE, &*key.name), field: "".into() },
            plugin: key,
        };
        wish.desired.add_use(&plugin_use);
        self.engine.ensure(wish.desired.clone());
        Ok(plugin_use)
    }

    pub(super) fn plugin(&self, number: u64) -> Result<Arc<Configured>> {
        let wish = lock(&self.wish);
        let key = usize::try_from(number).ok().and_then(|number| wish.plugins.get(number));
        let version = key.and_then(|key| self.engine.current(key));
        version.with_context(|| format!("there is no plugin {number}"))
    }

    /// What a store has, or does, for the test itself.
    pub(super) fn store(&self, name: &str, call: StoreCall) -> FromHost {
        let Some(store) = self.engine.store(NAMESPACE, name) else {
            let refused = format!("the Plugin's capabilities.stores has no `{name}`");
            return FromHost::Stored(Stored::Refused(refused));
        };
        let bytes = super::protocol::Bytes;
        let stored = match call {
            StoreCall::Open => Ok(Stored::Nothing),
            StoreCall::Get { key } => store.get(&key).map(|value| Stored::Value(value.map(bytes))),
            StoreCall::Set { key, value, ttl_ms } => store.set(&key, value.0, ttl_ms).map(|()| Stored::Nothing),
            StoreCall::CompareAndSwap { key, expected, value, ttl_ms } => {
                let expected = expected.as_ref().map(|expected| expected.0.as_slice());
                store.compare_and_swap(&key, expected, value.0, ttl_ms).map(Stored::Flag)
            }
            StoreCall::Remove { key } => store.remove(&key).map(Stored::Flag),
            StoreCall::Increment { key, by, ttl_ms } => store.increment(&key, by, ttl_ms).map(Stored::Number),
            StoreCall::Counter { key } => store.counter(&key).map(Stored::Number),
            StoreCall::TakeTokens { key, capacity, refill, interval_ms, cost } => {
                let taken = store.take_tokens(&key, capacity, refill, interval_ms, cost);
                taken.map(|(taken, left, wait)| Stored::Tokens(taken, left, wait))
            }
        };
        FromHost::Stored(stored.unwrap_or_else(Stored::Refused))
    }

    /// What plugins logged since it was asked before.
    pub(super) fn logged(&self) -> Vec<String> {
        self.lines.take()
    }

    pub(super) fn note_trouble(&self, trouble: String) {
        lock(&self.trouble).get_or_insert(trouble);
    }

    pub(super) fn trouble(&self) -> Option<String> {
        lock(&self.trouble).take()
    }

    pub(super) fn told(&self) -> Vec<Metric> {
        std::mem::take(&mut *lock(&self.bench.told))
    }

    /// Keeps the instance that sees a body until its next piece; the number to ask for it by.
    pub(super) fn keep(&self, body: Option<u64>, invocation: Invocation) -> u64 {
        let number = body.unwrap_or_else(|| self.bodies_begun.fetch_add(1, Relaxed));
        let mut bodies = lock(&self.bodies);
        // One that nobody has gone on with is over: a test that ends in the middle of one does not say so.
        if bodies.len() >= MAX_BODIES {
            bodies.pop_first();
        }
        bodies.insert(number, invocation);
        number
    }

    pub(super) fn kept(&self, body: u64) -> Result<Invocation> {
        lock(&self.bodies).remove(&body).with_context(|| format!("there is no body {body} under way"))
    }
}

/// Why a configuration is refused: as the plugin says it, and as its schema does but for the name that the whole has.
fn refusal(problem: &Problem) -> String {
    let said = match &problem.message {
        message if message.starts_with("config.") => message.replace("; config.", "; "),
        _ => sentence(problem),
    };
    said.strip_prefix("config: ").or_else(|| said.strip_prefix("config.")).unwrap_or(&said).to_owned()
}

/// The Plugin that a module's file makes, the `number`th.
fn spec(file: &str, number: usize) -> Result<PluginSpec> {
    let module = std::fs::read(file).with_context(|| format!("the module {file}"))?;
    let interfaces = Interfaces::of(&module).map_err(|reason| anyhow!("{file}: {reason}"))?;
    if let FileKind::ProxyWasm(version) = interfaces.kind {
        bail!("{file}: this is a filter of the proxy-wasm ABI ({version}), and no plugin that the Rust SDK makes");
    }
    let module = Module::new(module);
    let stem = Path::new(file).file_stem().map(|stem| stem.to_string_lossy().replace('_', "-")).unwrap_or_default();
    let name = if number == 0 { stem } else { format!("{stem}-{number}") };
    let limits = PluginLimits {
        run_time: RUN_TIME,
        deadline: DEADLINE,
        concurrency: INSTANCES,
        body_buffer: BODY_BUFFER,
        ..PluginLimits::default()
    };
    Ok(PluginSpec {
        key: PluginKey::new(NAMESPACE, &*name),
        source: Some(ModuleSource::Inline { bytes: module.bytes, sha256: module.sha256 }),
        remote: None,
        instance: InstanceMode::Fresh,
        limits,
        fail_mode: FailMode::Closed,
        redis_stores: false,
    })
}
