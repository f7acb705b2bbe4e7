//! One plugin in the gateway's own engine, without a gateway.

use crate::certificate;
use anyhow::{Context, Result};
use prometheus_client::registry::Registry;
use sha2::{Digest, Sha256};
use sluice_model::plugin::{
    FailMode, InstanceMode, ModuleSource, Place, PluginKey, PluginLimits, PluginSpec, PluginUse,
};
use sluice_model::{Kind, ObjectRef, Problem};
use sluice_wasm::{Configured, Desired, HostOptions, PluginHost, PluginStatus};
use std::sync::Arc;
use std::time::Duration;

/// Instances at a time: one is called, some wait to be used again.
const INSTANCES: u32 = 16;

/// Longest time for a module to be compiled and configured. A Python interpreter takes seconds.
const COMPILING: Duration = Duration::from_secs(300);

/// A module, and what tells it from others.
#[derive(Clone)]
pub(crate) struct Module {
    pub(crate) bytes: Arc<[u8]>,
    pub(crate) sha256: Arc<str>,
}

impl Module {
    pub(crate) fn new(bytes: Vec<u8>) -> Module {
        let sha256 = hex::encode(Sha256::digest(&bytes)).into();
        Module { bytes: bytes.into(), sha256 }
    }
}

/// How a module is to run.
pub(crate) struct Settings<'a> {
    /// Of the plugin, as log lines have it.
    pub(crate) name: &'a str,
    pub(crate) config: &'a serde_json::Value,
    pub(crate) instance: InstanceMode,
    /// CPU time of a call.
    pub(crate) run_time: Duration,
    /// Wall time of a call.
    pub(crate) deadline: Duration,
}

pub(crate) struct Engine {
    host: PluginHost,
}

impl Engine {
    /// Keeps compiled functions where the gateway keeps them, so that the second look at a large module is quick.
    pub(crate) fn start() -> Result<Engine> {
        let cache_dir = certificate::state_folder(None).ok().map(|folder| folder.join("plugins"));
        let options = HostOptions { cache_dir, instances: INSTANCES, ..HostOptions::default() };
        Ok(Engine { host: PluginHost::new(options, &mut Registry::default())? })
    }

    /// Holds a module to the contract, without a configuration. The status says what is wrong with it.
    pub(crate) async fn check(&self, module: &Module) -> Result<PluginStatus> {
        let spec = spec(module, "plugin", PluginLimits::default(), InstanceMode::Fresh);
        let mut desired = Desired::default();
        desired.plugins.insert(spec.key.clone(), Arc::new(spec));
        self.settle(desired).await?;
        self.host.statuses().pop().context("the engine lost the module")
    }

    /// Configures a module; what is loaded before need not be there any more. The inner error is what the gateway would
    /// say.
    pub(crate) async fn load(
        &self,
        module: &Module,
        settings: &Settings<'_>,
    ) -> Result<Result<Arc<Configured>, Vec<Problem>>> {
        let limits = PluginLimits {
            run_time: settings.run_time,
            deadline: settings.deadline,
            concurrency: INSTANCES,
            ..PluginLimits::default()
        };
        let spec = spec(module, settings.name, limits, settings.instance);
        let config = settings.config.to_string();
        let plugin_use = PluginUse {
            name: settings.name.into(),
            plugin: spec.key.clone(),
            config_hash: hex::encode(Sha256::digest(&config)).into(),
            config: config.into(),
            fail_mode: FailMode::Closed,
            when: None,
            at: Place { object: ObjectRef::new(Kind::TrafficPolicy, NAMESPACE, settings.name), field: "".into() },
        };
        let mut desired = Desired::default();
        desired.plugins.insert(spec.key.clone(), Arc::new(spec));
        desired.add_use(&plugin_use);
        self.settle(desired).await?;
        Ok(self.host.current(&plugin_use.key()).ok_or_else(|| self.host.problems()))
    }

    async fn settle(&self, desired: Desired) -> Result<()> {
        self.host.ensure(desired);
        let ready = tokio::time::timeout(COMPILING, self.host.checked()).await;
        ready.with_context(|| format!("the module is not compiled after {} s", COMPILING.as_secs()))
    }
}

const NAMESPACE: &str = "local";

fn spec(module: &Module, name: &str, limits: PluginLimits, instance: InstanceMode) -> PluginSpec {
    let source = ModuleSource::Inline { bytes: module.bytes.clone(), sha256: module.sha256.clone() };
    PluginSpec {
        key: PluginKey::new(NAMESPACE, name),
        source: Some(source),
        remote: None,
        instance,
        limits,
        fail_mode: FailMode::Closed,
        redis_stores: false,
    }
}

/// A problem with a module or its configuration, in one line: there are no objects here that it could name.
pub(crate) fn sentence(problem: &Problem) -> String {
    let field = problem.field.trim_start_matches('.');
    match field {
        "" | "spec.source" => problem.message.clone(),
        field => format!("{field}: {}", problem.message),
    }
}
