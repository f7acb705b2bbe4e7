//! A configured image: configure runs once, and its memory and globals become the data that every instance starts from.

use super::Failure;
use super::module::{ComponentForm, prepare};
use crate::aside::{Bounds, limit_cpu_time};
use crate::configured::Phases;
use crate::engine::Engine;
use crate::instance::{self, Failed, Live, PluginLog, State, at_once};
use crate::limits::Limits;
use crate::schema::{ConfigError, ConfigSchema};
use futures::FutureExt;
use http::HeaderName;
use sluice_model::plugin::PluginSpec;
use sluice_model::problem::Code;
use std::sync::Arc;
use std::time::Duration;
use wasmtime::Store;
use wasmtime::component::{ComponentNamedList, Instance, InstancePre, Lift, WasmList};
use wasmtime_wizer::{ComponentInstanceState, Wizer};

/// CPU time of configure. It runs once, on the thread that compiles; where no image can be made, again for each new
/// instance, aside.
pub(crate) const CONFIGURE_TIME: Duration = Duration::from_secs(1);

/// CPU time of a self-test. It runs once a configuration, on the thread that compiles.
const SELF_TEST_TIME: Duration = Duration::from_secs(1);

/// Pages that reading a memory out may add to it: its accessor takes one each time it is called.
const ROOM_FOR_ACCESSORS: usize = 16 * (64 << 10);

/// What instances are made of.
pub(crate) struct Image {
    pub(crate) pre: InstancePre<State>,
    pub(crate) phases: Phases,
    /// Set where the memory can't be made an image: each instance runs configure itself.
    pub(crate) configure_with: Option<Arc<str>>,
    /// Request headers that only this plugin writes.
    pub(crate) owned_headers: Box<[HeaderName]>,
    /// It imports functions that may wait, so that all its calls run on fibers.
    pub(crate) waits: bool,
    /// It names backends: it calls them, or says where requests go.
    pub(crate) names_backends: bool,
}

impl Image {
    /// Configures `module`. Everything that may go wrong is the plugin's or the configuration's doing.
    pub(super) fn build(
        engine: &Engine,
        module: &ComponentForm,
        schema: Option<&ConfigSchema>,
        spec: &PluginSpec,
        config: &Arc<str>,
        log: &Arc<PluginLog>,
    ) -> Result<Image, Failure> {
        let config = normal(config);
        let owned_headers = check(schema, config)?;
        // Those of scope Process never wait.
        let stores_wait = spec.redis_stores && module.stores;
        let linker = if stores_wait { &engine.waiting_linker } else { &engine.linker };
        let waits = module.waits || stores_wait;
        let names_backends = module.waits || module.routes;
        let of =
            |pre, phases, configure_with| Image { pre, phases, configure_with, owned_headers, waits, names_backends };
        let pre = match &module.instrumented {
            Ok(instrumented) => {
                let phases = phases(instrumented)?;
                if phases.configuration.is_none() {
                    takes_none(config)?;
                    prepare(engine, linker, &module.component)?.1
                } else {
                    let image = snapshot(engine, module, instrumented, &phases, spec, config, log)?;
                    prepare(engine, linker, &image)?.1
                }
            }
            Err(reason) => {
                let pre = prepare(engine, linker, &module.component)?.1;
                let phases = phases(&pre)?;
                if phases.configuration.is_none() {
                    takes_none(config)?;
                    return of(pre, phases, None).tried(engine, spec, log);
                }
                tracing::info!(plugin = %spec.key, %reason, "no image can be made of this plugin: its instances are pooled");
                let configured = configure(&pre, &phases, waits, spec, config, log, engine)?;
                self_test(configured, &phases)?;
                return Ok(of(pre, phases, Some(config.into())));
            }
        };
        let phases = phases(&pre)?;
        of(pre, phases, None).tried(engine, spec, log)
    }

    /// Makes one instance as a request would. A component may run code of its own for that (a start section): what that
    /// can't do within a call's time it never will. The plugin's own check is made on that instance, which serves nobody.
    fn tried(self, engine: &Engine, spec: &PluginSpec, log: &Arc<PluginLog>) -> Result<Image, Failure> {
        let live =
            Live::new(&self, store(engine, spec, log, spec.limits.run_time)).map_err(|error| not_made(&error))?;
        self_test(live, &self.phases)?;
        Ok(self)
    }
}

/// Runs the plugin's check of itself on an instance that is configured.
fn self_test(mut live: Live, phases: &Phases) -> Result<(), Failure> {
    if phases.self_test.is_none() {
        return Ok(());
    }
    limit_cpu_time(&mut live.store, Bounds { run_time: SELF_TEST_TIME, until: None });
    let message = match live.self_test(phases) {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(found)) => found,
        Err(error) => match live.failed(&error) {
            Failed::Trapped { kind, message } => format!("{kind} in the self-test: {message}"),
            Failed::Late | Failed::UsedUp => format!("the self-test failed: {error:#}"),
        },
    };
    Err(Failure::new(Code::PluginSelfTest, "config", message))
}

fn not_made(error: &wasmtime::Error) -> Failure {
    let (message, retry) = match Failed::of(error, false) {
        Failed::Trapped { kind, message } => (format!("no instance can be made: {kind}: {message}"), false),
        Failed::Late | Failed::UsedUp => (format!("no instance can be made now: {error:#}"), true),
    };
    Failure { retry, ..Failure::new(Code::PluginTrap, "spec.source", message) }
}

/// No configuration is an empty one.
pub(super) fn normal(config: &str) -> &str {
    if matches!(config.trim(), "" | "null") { "{}" } else { config }
}

fn takes_none(config: &str) -> Result<(), Failure> {
    if config == "{}" {
        return Ok(());
    }
    Err(Failure::new(Code::PluginConfig, "config", "the plugin takes no configuration"))
}

/// Holds the configuration against the module's schema, before any of its code runs. The headers that it says are its own.
pub(super) fn check(schema: Option<&ConfigSchema>, config: &str) -> Result<Box<[HeaderName]>, Failure> {
    let value = serde_json::from_str(config)
        .map_err(|error| Failure::new(Code::PluginConfig, "config", format!("it is not JSON: {error}")))?;
    let Some(schema) = schema else { return Ok(Box::default()) };
    let errors = schema.validate(&value);
    let Some(first) = errors.first() else {
        let refused = |error: ConfigError| Failure::new(Code::PluginConfig, &error.field, error.message);
        return schema.owned_headers(&value).map_err(refused);
    };
    let message: Vec<_> = errors.iter().map(|error| format!("{}: {}", error.field, error.message)).collect();
    Err(Failure::new(Code::PluginConfig, &first.field, message.join("; ")))
}

/// The phases of a component; one that has none is no plugin.
pub(super) fn phases(pre: &InstancePre<State>) -> Result<Phases, Failure> {
    let phases = Phases::of(pre.component());
    if phases.names().is_empty() {
        return Err(Failure::invalid(
            "it exports no phase of `sluice:plugin@0.1` (request-headers, request-body, \
             request-body-stream, response-headers, response-body, response-body-stream, response-trailers, log)",
        ));
    }
    Ok(phases)
}

fn store(engine: &Engine, spec: &PluginSpec, log: &Arc<PluginLog>, run_time: Duration) -> Store<State> {
    let state = State::new(Limits::uncounted(spec.limits.memory), spec.limits.body_buffer, log.clone());
    let mut store = instance::store(&engine.engine, state);
    limit_cpu_time(&mut store, Bounds { run_time, until: None });
    store
}

/// Makes an instance and runs configure in it.
fn configure(
    pre: &InstancePre<State>,
    phases: &Phases,
    waits: bool,
    spec: &PluginSpec,
    config: &str,
    log: &Arc<PluginLog>,
    engine: &Engine,
) -> Result<Live, Failure> {
    let (pre, phases_of) = (pre.clone(), phases.clone());
    let unconfigured = Image {
        pre,
        phases: phases_of,
        configure_with: None,
        owned_headers: Box::default(),
        waits,
        names_backends: waits,
    };
    let mut live =
        Live::new(&unconfigured, store(engine, spec, log, CONFIGURE_TIME)).map_err(|error| not_made(&error))?;
    match live.configure(phases, config) {
        Ok(Ok(())) => Ok(live),
        Ok(Err(refusal)) => Err(Failure::new(Code::PluginConfig, "config", refusal)),
        Err(error) => {
            let message = match live.failed(&error) {
                Failed::Trapped { kind, message } => format!("{kind} in configure: {message}"),
                Failed::Late | Failed::UsedUp => format!("configure failed: {error:#}"),
            };
            Err(Failure::new(Code::PluginTrap, "config", message))
        }
    }
}

/// Configures once and takes the image.
fn snapshot(
    engine: &Engine,
    module: &ComponentForm,
    instrumented: &InstancePre<State>,
    phases: &Phases,
    spec: &PluginSpec,
    config: &str,
    log: &Arc<PluginLog>,
) -> Result<Vec<u8>, Failure> {
    let broken = |message: String| Failure::invalid(format!("no image can be made of it: {message}"));
    let mut live = configure(instrumented, phases, module.waits, spec, config, log, engine)?;
    live.store.data_mut().limits.allow_more(ROOM_FOR_ACCESSORS);
    let wizer = Wizer::new();
    // Cheap, and the same each time: what was compiled is what it describes.
    let (context, _) = wizer.instrument_component(&module.component).map_err(|error| broken(format!("{error:#}")))?;
    let instance = live.instance();
    let mut reader = Reader { store: &mut live.store, instance, waits: module.waits, error: None };
    // Nothing in it waits: the accessors are called synchronously.
    let image = wizer.snapshot_component(&context, &mut reader).now_or_never();
    if let Some(error) = reader.error {
        return Err(broken(error));
    }
    match image {
        Some(Ok(image)) => Ok(image),
        Some(Err(error)) => Err(broken(format!("{error:#}"))),
        None => Err(broken("its memory can't be read".to_owned())),
    }
}

/// Reads the state of an instance through the exports that the instrumentation added.
struct Reader<'a> {
    store: &'a mut Store<State>,
    instance: Instance,
    waits: bool,
    /// The first error: the trait has no place for one.
    error: Option<String>,
}

impl Reader<'_> {
    fn call<R>(&mut self, instance: &str, name: &str) -> Option<R>
    where
        (R,): ComponentNamedList + Lift,
        R: 'static,
    {
        let called = self.try_call(instance, name);
        called.map_err(|error| self.error.get_or_insert(format!("{error:#}"))).ok()
    }

    fn try_call<R>(&mut self, instance: &str, name: &str) -> wasmtime::Result<R>
    where
        (R,): ComponentNamedList + Lift,
        R: 'static,
    {
        let missing = || wasmtime::format_err!("the accessor `{name}` is missing");
        let outer = self.instance.get_export_index(&mut *self.store, None, instance).ok_or_else(missing)?;
        let inner = self.instance.get_export_index(&mut *self.store, Some(&outer), name).ok_or_else(missing)?;
        let accessor = self.instance.get_typed_func::<(), (R,)>(&mut *self.store, inner)?;
        // Its own time: configure may have used its up, and what the host does with a large component in between counts too.
        limit_cpu_time(self.store, Bounds { run_time: CONFIGURE_TIME, until: None });
        let value = if self.waits {
            at_once(accessor.call_async(&mut *self.store, ()))?
        } else {
            accessor.call(&mut *self.store, ())?
        };
        Ok(value.0)
    }
}

impl ComponentInstanceState for Reader<'_> {
    async fn call_func_ret_list_u8(&mut self, instance: &str, name: &str, contents: impl FnOnce(&[u8]) + Send) {
        match self.call::<WasmList<u8>>(instance, name) {
            Some(memory) => contents(memory.as_le_slice(&*self.store)),
            None => contents(&[]),
        }
    }

    async fn call_func_ret_s32(&mut self, instance: &str, name: &str) -> i32 {
        self.call(instance, name).unwrap_or_default()
    }

    async fn call_func_ret_s64(&mut self, instance: &str, name: &str) -> i64 {
        self.call(instance, name).unwrap_or_default()
    }

    async fn call_func_ret_f32(&mut self, instance: &str, name: &str) -> u32 {
        self.call::<f32>(instance, name).unwrap_or_default().to_bits()
    }

    async fn call_func_ret_f64(&mut self, instance: &str, name: &str) -> u64 {
        self.call::<f64>(instance, name).unwrap_or_default().to_bits()
    }
}
