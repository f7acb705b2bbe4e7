//! Plugin objects: where the code is, its limits, and who may use it.

use crate::grant::{Reference, permits, selector_error, selects};
use crate::plugin_source;
use crate::plugin_stores;
use crate::policy::Chain;
use crate::report::Report;
use crate::values::{bytes, number, positive_duration};
use crate::world::World;
use sha2::{Digest, Sha256};
use sluice_model::condition::Condition;
use sluice_model::config::ListenerId;
use sluice_model::object::NamespacedName;
use sluice_model::plugin::{
    CircuitBreaker, FailMode, Grants, InstanceMode, ModuleSource, Place, PluginKey, PluginLimits, PluginSpec,
    PluginUse, RedisGrant, SecretValue, StoreGrant,
};
use sluice_model::{Code, Kind, ObjectRef, Problem};
use sluice_resources::api::ConfigMap;
use sluice_resources::{
    Capabilities, DurationText, FailModeName, InstanceName, NamespacesFrom, Plugin, PluginCircuitBreaker,
    PluginLimitsConfig, SecretKeyRef, Store,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// All Plugins.
#[derive(Debug, Default)]
pub(crate) struct Plugins {
    plugins: BTreeMap<PluginKey, Entry>,
    pub(crate) problems: Vec<Problem>,
    /// ConfigMaps that hold code, what fetching it needs, and Secrets that plugins may read, there or not.
    pub(crate) uses: BTreeSet<ObjectRef>,
}

#[derive(Debug)]
struct Entry {
    object: Arc<Plugin>,
    /// The ConfigMap that the code was taken from, so that the same one is not hashed again.
    config_map: Option<Arc<ConfigMap>>,
    spec: Arc<PluginSpec>,
    grants: Arc<Grants>,
}

/// Fingerprints of module files, by path.
pub(crate) type Files = BTreeMap<Arc<str>, Arc<str>>;

impl Plugins {
    pub(crate) fn read(store: &Store, files: &Files, with_files: bool, former: &Plugins) -> Self {
        let mut result = Plugins::default();
        for (name, object) in &store.plugins {
            let reference = ObjectRef::new(Kind::Plugin, name.namespace.clone(), name.name.clone());
            let entry = result.entry(&reference, object, store, files, with_files, former.plugins.get(name));
            result.plugins.insert(name.clone(), entry);
        }
        let grants = result.plugins.iter().map(|(key, entry)| (key, &*entry.grants));
        plugin_stores::not_shared(grants, &mut result.problems);
        result
    }

    /// What a Plugin may reach.
    pub(crate) fn granted(&self, plugin: &PluginKey) -> Option<&Grants> {
        self.plugins.get(plugin).map(|entry| &*entry.grants)
    }

    fn entry(
        &mut self,
        reference: &ObjectRef,
        object: &Arc<Plugin>,
        store: &Store,
        files: &Files,
        with_files: bool,
        former: Option<&Entry>,
    ) -> Entry {
        let mut report = Report::new(reference, &mut self.problems);
        let source = &object.spec.source;
        let (mut config_map, mut remote) = (None, None);
        let module = match (&source.oci, &source.https, &source.config_map, &source.file) {
            (Some(wanted), None, None, None) => {
                remote = plugin_source::oci(object, wanted, store, &mut self.uses, &mut report);
                None
            }
            (None, Some(wanted), None, None) => {
                remote = plugin_source::https(object, wanted, &mut report);
                None
            }
            (None, None, Some(wanted), None) => {
                let name = NamespacedName::new(reference.namespace.clone(), wanted.name.as_str());
                self.uses.insert(ObjectRef::new(Kind::ConfigMap, name.namespace.clone(), name.name.clone()));
                config_map = store.config_maps.get(&name).cloned();
                let same = |old: &&Entry| match (&old.config_map, &config_map) {
                    (Some(old_map), Some(new_map)) => {
                        Arc::ptr_eq(old_map, new_map) && old.object.spec.source == *source
                    }
                    _ => false,
                };
                match former.filter(same).and_then(|old| old.spec.source.clone()) {
                    Some(source) => Some(source),
                    None => inline(config_map.as_deref(), &wanted.key, &name, &mut report),
                }
            }
            (None, None, None, Some(_)) if !with_files => {
                let message = "plugins of files are for configuration that comes from files";
                report.error(Code::PluginSource, "spec.source.file", message);
                None
            }
            (None, None, None, Some(file)) => match files.get(file.path.as_str()) {
                Some(sha256) => Some(ModuleSource::File { path: file.path.as_str().into(), sha256: sha256.clone() }),
                None => {
                    let message = format!("there is no file `{}`", file.path);
                    report.error(Code::PluginSource, "spec.source.file.path", message);
                    None
                }
            },
            _ => {
                report.error(Code::PluginSource, "spec.source", "name just one of oci, https, configMap and file");
                None
            }
        };
        if let Some(allowed) = &object.spec.allowed_namespaces {
            let selector = allowed.from == Some(NamespacesFrom::Selector);
            if selector != allowed.selector.is_some() {
                let message = "selector belongs to from: Selector; until then no other namespace may use the Plugin";
                report.error(Code::InvalidCombination, "spec.allowedNamespaces", message);
            }
            if let Some((at, wrong)) = allowed.selector.as_ref().and_then(selector_error) {
                let message = format!("{wrong}; until then no other namespace may use the Plugin");
                report.error(Code::UnsupportedValue, format!("spec.allowedNamespaces.selector.{at}"), message);
            }
        }
        let limits = limits(object.spec.limits.as_ref(), &mut report);
        let capabilities = object.spec.capabilities.as_ref();
        let grants = capabilities.map(|may| grants(may, reference, store, &mut report)).unwrap_or_default();
        let spec = PluginSpec {
            key: reference.key(),
            source: module,
            remote: remote.map(Arc::new),
            instance: match object.spec.instance {
                None | Some(InstanceName::Fresh) => InstanceMode::Fresh,
                Some(InstanceName::Pooled) => InstanceMode::Pooled,
            },
            limits,
            fail_mode: object.spec.fail_mode.map_or(FailMode::Closed, fail_mode),
            redis_stores: !grants.redis_stores.is_empty(),
        };
        let spec = match former {
            Some(old) if *old.spec == spec => old.spec.clone(),
            _ => Arc::new(spec),
        };
        self.uses.extend(capabilities.iter().flat_map(|may| secrets_of(may, reference)));
        let grants = match former {
            Some(old) if *old.grants == grants => old.grants.clone(),
            _ => Arc::new(grants),
        };
        Entry { object: object.clone(), config_map, spec, grants }
    }

    /// What plugins may reach, where that is anything.
    pub(crate) fn grants(&self) -> BTreeMap<PluginKey, Arc<Grants>> {
        let given = self.plugins.iter().filter(|(_, entry)| !entry.grants.is_empty());
        given.map(|(key, entry)| (key.clone(), entry.grants.clone())).collect()
    }

    /// What the plugin host is to compile.
    pub(crate) fn specs(&self) -> BTreeMap<PluginKey, Arc<PluginSpec>> {
        self.plugins.iter().map(|(key, entry)| (key.clone(), entry.spec.clone())).collect()
    }

    /// Plugins that look different to their users than they did before.
    pub(crate) fn changes_since(&self, former: &Plugins) -> BTreeSet<ObjectRef> {
        let names: BTreeSet<&PluginKey> = self.plugins.keys().chain(former.plugins.keys()).collect();
        let seen = |plugins: &Plugins, name: &PluginKey| {
            let entry = plugins.plugins.get(name)?;
            Some((entry.object.spec.fail_mode, entry.object.spec.allowed_namespaces.clone()))
        };
        names
            .into_iter()
            .filter(|name| seen(self, name) != seen(former, name))
            .map(|name| ObjectRef::new(Kind::Plugin, name.namespace.clone(), name.name.clone()))
            .collect()
    }
}

fn secrets_of<'c>(may: &'c Capabilities, plugin: &'c ObjectRef) -> impl Iterator<Item = ObjectRef> + 'c {
    may.secret_names().map(|name| ObjectRef::new(Kind::Secret, plugin.namespace.clone(), name))
}

fn grants(may: &Capabilities, plugin: &ObjectRef, store: &Store, report: &mut Report<'_>) -> Grants {
    let mut grants = Grants { routing: may.routing.unwrap_or_default(), ..Grants::default() };
    let mut names = BTreeMap::new();
    for (i, wanted) in may.stores.iter().flatten().enumerate() {
        let field = format!("spec.capabilities.stores[{i}]");
        if named_twice(&names, &wanted.name, &field, report) {
            continue;
        }
        names.insert(wanted.name.as_str().into(), ());
        let quota = bytes(wanted.quota.as_ref(), StoreGrant::QUOTAS, &format!("{field}.quota"), report);
        let name: Arc<str> = wanted.name.as_str().into();
        match plugin_stores::place(wanted, plugin, store, &field, report) {
            Some(plugin_stores::Place::Process) => {
                let quota = quota.unwrap_or(StoreGrant::DEFAULT_QUOTA);
                grants.stores.insert(name, StoreGrant { quota });
            }
            Some(plugin_stores::Place::Redis(server)) => {
                grants.redis_stores.insert(name, RedisGrant { server, field: field.into() });
            }
            None => {}
        }
    }
    for (i, wanted) in may.secrets.iter().flatten().enumerate() {
        let field = format!("spec.capabilities.secrets[{i}]");
        if named_twice(&grants.secrets, &wanted.name, &field, report) {
            continue;
        }
        let value = secret(&wanted.reference, plugin, store, &format!("{field}.ref"), "the plugin reads none", report);
        grants.secrets.insert(wanted.name.as_str().into(), value);
    }
    grants
}

/// A name is 1 to 63 bytes and stands for one thing; what comes later under the same one is not read.
fn named_twice<T>(known: &BTreeMap<Arc<str>, T>, name: &str, field: &str, report: &mut Report<'_>) -> bool {
    let field = format!("{field}.name");
    if name.is_empty() || name.len() > 63 {
        report.error(Code::OutOfRange, field, "a name has 1 to 63 bytes");
        return true;
    }
    if known.contains_key(name) {
        let message = format!("there are two of the name `{name}`; the first one is used");
        report.error(Code::InvalidCombination, field, message);
        return true;
    }
    false
}

/// None while it can't be had, and what that means.
pub(crate) fn secret(
    reference: &SecretKeyRef,
    plugin: &ObjectRef,
    store: &Store,
    field: &str,
    until: &str,
    report: &mut Report<'_>,
) -> Option<SecretValue> {
    let name = NamespacedName::new(plugin.namespace.clone(), reference.name.as_str());
    let Some(secret) = store.secrets.get(&name) else {
        let message = format!("there is no Secret {name}; until there is one, {until}");
        report.error(Code::SecretNotFound, format!("{field}.name"), message);
        return None;
    };
    let Some(value) = secret.data.as_ref().and_then(|data| data.get(&reference.key)) else {
        let message = format!("Secret {name} has no data `{}`; until it has, {until}", reference.key);
        report.error(Code::SecretNotFound, format!("{field}.key"), message);
        return None;
    };
    Some(SecretValue::new(&value.0))
}

fn inline(map: Option<&ConfigMap>, key: &str, name: &NamespacedName, report: &mut Report<'_>) -> Option<ModuleSource> {
    let Some(map) = map else {
        report.error(Code::PluginSource, "spec.source.configMap.name", format!("there is no ConfigMap {name}"));
        return None;
    };
    let Some(bytes) = map.binary_data.as_ref().and_then(|data| data.get(key)) else {
        let message = format!("ConfigMap {name} has no binaryData `{key}`");
        report.error(Code::PluginSource, "spec.source.configMap.key", message);
        return None;
    };
    Some(ModuleSource::Inline {
        sha256: hex::encode(Sha256::digest(&bytes.0)).into(),
        bytes: bytes.0.as_slice().into(),
    })
}

const MIB: u64 = 1 << 20;

/// Nobody waits longer for a plugin.
const LONGEST_RUN: Duration = Duration::from_secs(10);
const LONGEST_CALL: Duration = Duration::from_secs(60);
const LONGEST_WINDOW: Duration = Duration::from_secs(3_600);

fn limits(settings: Option<&PluginLimitsConfig>, report: &mut Report<'_>) -> PluginLimits {
    let none = PluginLimits::default();
    let Some(s) = settings else { return none };
    let at = |name: &str| format!("spec.limits.{name}");
    PluginLimits {
        memory: bytes(s.memory.as_ref(), 64 * 1024..=4096 * MIB, &at("memory"), report).unwrap_or(none.memory),
        run_time: duration(s.run_time.as_ref(), LONGEST_RUN, &at("runTime"), report).unwrap_or(none.run_time),
        deadline: duration(s.deadline.as_ref(), LONGEST_CALL, &at("deadline"), report).unwrap_or(none.deadline),
        concurrency: number(s.concurrency, 1..=100_000, &at("concurrency"), report).unwrap_or(none.concurrency),
        body_buffer: bytes(s.body_buffer.as_ref(), 0..=1024 * MIB, &at("bodyBuffer"), report)
            .unwrap_or(none.body_buffer),
        circuit_breaker: s.circuit_breaker.as_ref().and_then(|breaker| circuit_breaker(breaker, report)),
    }
}

/// One that can't be read is none: it would only keep the plugin from being called.
fn circuit_breaker(settings: &PluginCircuitBreaker, report: &mut Report<'_>) -> Option<CircuitBreaker> {
    let field = "spec.limits.circuitBreaker";
    let failures = number(Some(settings.failures), 1..=1_000_000, &format!("{field}.failures"), report)?;
    let window = duration(settings.window.as_ref(), LONGEST_WINDOW, &format!("{field}.window"), report);
    Some(CircuitBreaker { failures, window: window.unwrap_or(CircuitBreaker::DEFAULT_WINDOW) })
}

pub(crate) fn duration(
    text: Option<&DurationText>,
    longest: Duration,
    field: &str,
    report: &mut Report<'_>,
) -> Option<Duration> {
    let duration = positive_duration(text, field, report)?;
    if duration <= longest {
        return Some(duration);
    }
    report.error(Code::OutOfRange, field, format!("{duration:?} is out of range: at most {longest:?}"));
    None
}

fn fail_mode(name: FailModeName) -> FailMode {
    match name {
        FailModeName::Closed => FailMode::Closed,
        FailModeName::Open => FailMode::Open,
    }
}

/// What a rule does with a use of a plugin.
pub(crate) enum Use {
    Run(PluginUse),
    /// It can't be used, and fails open: the rule goes on without it.
    Skip,
    /// It can't be used, and fails closed: the rule answers 503.
    Refuse,
}

/// The uses that policies of a Gateway and of one of its listeners ask for, in running order.
pub(crate) fn of_listener(world: &World<'_>, id: &ListenerId, problems: &mut Vec<Problem>) -> Vec<PluginUse> {
    let mut chain = Chain::default();
    chain.push_listener(world.policies, id);
    // Everything is read again as a whole: nobody asks what was looked at.
    let mut deps = BTreeSet::new();
    let uses = chain.plugins();
    let used = uses.iter().map(|entry| use_plugin(entry, world.store, world.plugins, &mut deps, problems));
    used.filter_map(|used| if let Use::Run(plugin) = used { Some(plugin) } else { None }).collect()
}

/// Reads one use. Problems belong to the policy that holds it.
pub(crate) fn use_plugin(
    entry: &crate::policy::PluginEntry<'_>,
    store: &Store,
    plugins: &Plugins,
    deps: &mut BTreeSet<ObjectRef>,
    problems: &mut Vec<Problem>,
) -> Use {
    let settings = entry.settings;
    let policy = ObjectRef::new(Kind::TrafficPolicy, entry.policy.namespace.clone(), entry.policy.name.clone());
    let namespace = settings.plugin_ref.namespace.as_deref().unwrap_or(&policy.namespace);
    let key = NamespacedName::new(namespace, settings.plugin_ref.name.as_str());
    let plugin = ObjectRef::new(Kind::Plugin, key.namespace.clone(), key.name.clone());
    deps.insert(plugin.clone());
    let field = format!("{}.pluginRef", entry.field);
    let found = plugins.plugins.get(&key);
    let own = found.and_then(|entry| entry.object.spec.fail_mode);
    let fail_mode = settings.fail_mode.or(own).map_or(FailMode::Closed, fail_mode);
    let problem = match found {
        None => Some((Code::PluginNotFound, format!("there is no {plugin}"))),
        Some(found) if !permitted(store, found, &policy, &plugin) => {
            Some((Code::PluginNotPermitted, format!("namespace `{}` may not use {plugin}", policy.namespace)))
        }
        Some(_) => None,
    };
    if let Some((code, message)) = problem {
        problems.push(Problem::error(code, &policy, field, message));
        return if fail_mode == FailMode::Open { Use::Skip } else { Use::Refuse };
    }
    let when = match settings.when.as_deref().map(Condition::parse).transpose() {
        Ok(when) => when,
        Err(message) => {
            let field = format!("{}.when", entry.field);
            problems.push(Problem::error(Code::InvalidCondition, &policy, field, message));
            return if fail_mode == FailMode::Open { Use::Skip } else { Use::Refuse };
        }
    };
    let config = canonical(settings.config.as_ref());
    Use::Run(PluginUse {
        name: settings.name.as_str().into(),
        plugin: key,
        config_hash: hex::encode(Sha256::digest(config.as_bytes())).into(),
        config: config.into(),
        fail_mode,
        when,
        at: Place { object: policy, field: entry.field.as_str().into() },
    })
}

fn permitted(store: &Store, entry: &Entry, policy: &ObjectRef, plugin: &ObjectRef) -> bool {
    let reference = Reference {
        from: Kind::TrafficPolicy,
        from_namespace: &policy.namespace,
        to: Kind::Plugin,
        to_namespace: &plugin.namespace,
        to_name: &plugin.name,
    };
    let allowed = entry.object.spec.allowed_namespaces.as_ref();
    let by_plugin = match allowed.and_then(|allowed| allowed.from).unwrap_or(NamespacesFrom::Same) {
        NamespacesFrom::Same => policy.namespace == plugin.namespace,
        NamespacesFrom::All => true,
        NamespacesFrom::Selector => allowed
            .and_then(|allowed| allowed.selector.as_ref())
            .and_then(|selector| selects(store, selector, &policy.namespace))
            .unwrap_or(false),
    };
    by_plugin || policy.namespace == plugin.namespace || permits(store, reference)
}

/// JSON with sorted keys, so that equal configurations are equal texts.
fn canonical(config: Option<&BTreeMap<String, serde_json::Value>>) -> String {
    fn write(value: &serde_json::Value, out: &mut String) {
        use serde_json::Value;
        match value {
            Value::Object(fields) => {
                let mut sorted: Vec<_> = fields.iter().collect();
                sorted.sort_by_key(|(key, _)| *key);
                out.push('{');
                for (i, (key, value)) in sorted.into_iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    out.push_str(&Value::String(key.clone()).to_string());
                    out.push(':');
                    write(value, out);
                }
                out.push('}');
            }
            Value::Array(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    write(item, out);
                }
                out.push(']');
            }
            other => out.push_str(&other.to_string()),
        }
    }
    let mut text = String::new();
    let object = config.map(|c| c.iter().map(|(k, v)| (k.clone(), v.clone())).collect()).unwrap_or_default();
    write(&serde_json::Value::Object(object), &mut text);
    text
}
