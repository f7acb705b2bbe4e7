//! Guests, hosts and uses for the tests.

use prometheus_client::registry::Registry;
use sha2::{Digest, Sha256};
use sluice_model::plugin::{
    FailMode, Grants, InstanceMode, ModuleSource, Place, PluginKey, PluginLimits, PluginSpec, PluginUse, UseKey,
};
use sluice_model::{Kind, ObjectRef, Problem};
use sluice_wasm::{Configured, Desired, Exchange, HostOptions, PlainRequest, PluginHost};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Longer than anything here takes, so that a test that hangs fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// The module of a guest, built when first asked for.
pub(crate) fn guest(name: &str) -> Arc<[u8]> {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        build(&repository, "plugins");
        build(&repository, "tests/guests")
    });
    let path = folder.join(format!("{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).into()
}

fn build(repository: &Path, workspace: &str) -> PathBuf {
    let output = Command::new(repository.join("plugins/build.sh"))
        .arg(repository.join(workspace))
        .env_remove("CARGO_TARGET_DIR")
        .output()
        .expect("plugins/build.sh can be run");
    assert!(output.status.success(), "plugins/build.sh: {}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

/// A component written as text.
pub(crate) fn text(wat: &str) -> Arc<[u8]> {
    wat::parse_str(wat).expect("valid text").into()
}

pub(crate) fn key(name: &str) -> PluginKey {
    PluginKey::new("shop", name)
}

/// A Plugin with its module inline. It may run for as long as one may on a thread that serves requests: tests share their
/// cores.
pub(crate) fn plugin(name: &str, module: Arc<[u8]>) -> PluginSpec {
    let sha256 = hex::encode(Sha256::digest(&module)).into();
    PluginSpec {
        key: key(name),
        source: Some(ModuleSource::Inline { bytes: module, sha256 }),
        remote: None,
        instance: InstanceMode::Fresh,
        limits: PluginLimits { run_time: Duration::from_millis(20), ..PluginLimits::default() },
        fail_mode: FailMode::Closed,
        redis_stores: false,
    }
}

/// The probe, which takes part in all phases.
pub(crate) fn probe() -> PluginSpec {
    plugin("probe", guest("probe"))
}

pub(crate) fn pooled(spec: PluginSpec) -> PluginSpec {
    PluginSpec { instance: InstanceMode::Pooled, ..spec }
}

pub(crate) fn use_of(plugin: &str, config: &str) -> PluginUse {
    PluginUse {
        name: "use".into(),
        plugin: key(plugin),
        config: config.into(),
        config_hash: hex::encode(Sha256::digest(config)).into(),
        fail_mode: FailMode::Closed,
        when: None,
        at: Place { object: policy(), field: "spec.plugins[0]".into() },
    }
}

/// Where uses are written.
pub(crate) fn policy() -> ObjectRef {
    ObjectRef::new(Kind::TrafficPolicy, "shop", "policy")
}

pub(crate) const PROBE: &str = r#"{"name":"probe"}"#;

/// The probe, as quick to be ended as a Plugin's default is.
pub(crate) fn short_probe() -> PluginSpec {
    let mut spec = probe();
    spec.limits.run_time = PluginLimits::default().run_time;
    spec
}

/// With the compiled functions of all hosts of these tests.
pub(crate) fn options() -> HostOptions {
    let functions = Path::new(env!("CARGO_TARGET_TMPDIR")).join("functions");
    HostOptions { cache_dir: Some(functions), filter_vms: 1, ..HostOptions::default() }
}

/// A host whose pool is small.
pub(crate) struct Host {
    pub(crate) host: PluginHost,
    registry: Registry,
}

impl Host {
    pub(crate) fn new() -> Host {
        Host::with(options())
    }

    pub(crate) fn with(options: HostOptions) -> Host {
        let mut registry = Registry::with_prefix("sluice");
        let instances = options.instances.min(64);
        let host = PluginHost::new(HostOptions { instances, ..options }, &mut registry).expect("a host");
        Host { host, registry }
    }

    /// Wishes for plugins and uses, and waits until each was tried.
    pub(crate) async fn ensure(&self, plugins: &[&PluginSpec], uses: &[&PluginUse]) {
        self.grant(plugins, uses, &[]).await;
    }

    /// The same, with what plugins may reach.
    pub(crate) async fn grant(&self, plugins: &[&PluginSpec], uses: &[&PluginUse], grants: &[(PluginKey, Grants)]) {
        let mut desired = Desired::default();
        desired.grants.extend(grants.iter().map(|(key, grants)| (key.clone(), Arc::new(grants.clone()))));
        for spec in plugins {
            desired.plugins.insert(spec.key.clone(), Arc::new((*spec).clone()));
        }
        uses.iter().for_each(|plugin_use| desired.add_use(plugin_use));
        self.host.ensure(desired);
        tokio::time::timeout(PATIENCE, self.host.checked()).await.expect("plugins settle");
    }

    /// The one version of the one use of a plugin.
    pub(crate) async fn ready(&self, spec: &PluginSpec, config: &str) -> Arc<Configured> {
        let plugin_use = use_of(&spec.key.name, config);
        self.ensure(&[spec], &[&plugin_use]).await;
        self.current(&plugin_use.key()).unwrap_or_else(|| panic!("not ready: {:?}", self.host.problems()))
    }

    pub(crate) fn current(&self, key: &UseKey) -> Option<Arc<Configured>> {
        self.host.current(key)
    }

    /// Waits until `condition` holds; versions come and go meanwhile.
    pub(crate) async fn until(&self, condition: impl Fn(&PluginHost) -> bool) {
        let mut changed = self.host.changed();
        let holds = async {
            while !condition(&self.host) {
                changed.changed().await.expect("the host lives");
            }
        };
        tokio::time::timeout(PATIENCE, holds).await.expect("the condition holds in the end");
    }

    /// The one problem there is.
    pub(crate) fn problem(&self) -> Problem {
        let problems = self.host.problems();
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems.into_iter().next().unwrap()
    }

    pub(crate) fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }

    /// The value of one series.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let text = self.metrics();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no series {series} in\n{text}")).parse().unwrap()
    }
}

/// A request that tells the probe what to do.
pub(crate) fn told(what: &'static str) -> Exchange {
    Exchange::new(PlainRequest::get("/a").header("x-do", what))
}

/// A request header as it is after a phase.
pub(crate) fn header(exchange: &Exchange, name: &str) -> Option<String> {
    let value = exchange.request().expect("the request came back").headers().get(name)?;
    Some(value.to_str().unwrap().to_owned())
}

/// A response header as it is after a phase.
pub(crate) fn response_header(exchange: &Exchange, name: &str) -> Option<String> {
    let value = exchange.response().expect("the response came back").headers().get(name)?;
    Some(value.to_str().unwrap().to_owned())
}
