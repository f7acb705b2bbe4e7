//! Plugins as data: the code, what it may do, and each use with its configuration. The host is `sluice-wasm`.

use crate::condition::Condition;
use crate::object::{NamespacedName, ObjectRef};
use crate::remote::RemoteSource;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The Plugin object.
pub type PluginKey = NamespacedName;

/// A Plugin object, validated.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PluginSpec {
    pub key: PluginKey,
    /// None while it can't be resolved (a file that is not there, a key that is gone), which is a problem of its own: the
    /// code that was there before goes on.
    pub source: Option<ModuleSource>,
    /// Where the code has to be fetched from; `source` is none then, until the plugin host has it.
    pub remote: Option<Arc<RemoteSource>>,
    pub instance: InstanceMode,
    pub limits: PluginLimits,
    /// What happens to a request where the plugin fails. A use may say otherwise.
    pub fail_mode: FailMode,
    /// Whether it is given a store of scope Redis: what it asks of stores then waits, and its calls run on fibers.
    pub redis_stores: bool,
}

#[derive(Clone, PartialEq, Serialize)]
pub enum ModuleSource {
    /// A file beside the configuration (file mode only), made absolute by the source that read the object. The
    /// fingerprint (SHA-256 of its content, in hex) changes when the file does, and so reloads the plugin.
    File { path: Arc<str>, sha256: Arc<str> },
    /// Bytes out of a ConfigMap's `binaryData`.
    Inline {
        #[serde(skip)]
        bytes: Arc<[u8]>,
        sha256: Arc<str>,
    },
}

impl ModuleSource {
    /// SHA-256 of the module, in hex.
    pub fn sha256(&self) -> &Arc<str> {
        match self {
            ModuleSource::File { sha256, .. } | ModuleSource::Inline { sha256, .. } => sha256,
        }
    }
}

impl fmt::Debug for ModuleSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModuleSource::File { path, sha256 } => write!(f, "File({path}, sha256:{sha256})"),
            ModuleSource::Inline { bytes, sha256 } => write!(f, "Inline({} bytes, sha256:{sha256})", bytes.len()),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub enum InstanceMode {
    /// A sandbox of its own for each request.
    #[default]
    Fresh,
    /// Instances are used again for later requests.
    Pooled,
    /// One instance serves many requests at a time: what filters of the proxy-wasm ABI are, whatever their Plugin says.
    Shared,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub enum FailMode {
    /// The request is answered 503.
    #[default]
    Closed,
    /// The plugin is skipped for this request.
    Open,
}

/// Limits of one Plugin, all its uses together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct PluginLimits {
    /// Bytes of linear memory an instance. Default 64 MiB.
    pub memory: u64,
    /// Time that the guest may run within one call. Default 10 ms, at most 10 s. Above 20 ms the plugin runs aside, on
    /// threads of low priority, from its first call.
    pub run_time: Duration,
    /// Wall time of one call, waiting included. Default 1 s, at most 60 s; a shorter request timeout of the rule counts.
    pub deadline: Duration,
    /// Instances at a time. Default 1,000; the gateway's pool for all plugins is 2,000.
    pub concurrency: u32,
    /// Bytes of a body that is read for the plugin. Default 1 MiB.
    pub body_buffer: u64,
    /// None, the default: it is called however often it fails.
    pub circuit_breaker: Option<CircuitBreaker>,
}

/// When a plugin that only fails is not called for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct CircuitBreaker {
    /// Failures in a row that open it.
    pub failures: u32,
    /// Within which they must fall, and for how long it is open before one call is let through.
    pub window: Duration,
}

impl CircuitBreaker {
    pub const DEFAULT_WINDOW: Duration = Duration::from_secs(10);
}

impl Default for PluginLimits {
    fn default() -> Self {
        PluginLimits {
            memory: 64 << 20,
            run_time: Duration::from_millis(10),
            deadline: Duration::from_secs(1),
            concurrency: 1_000,
            body_buffer: 1 << 20,
            circuit_breaker: None,
        }
    }
}

/// What a Plugin's code may reach besides the exchange, by the names that it uses. It stands beside the spec: what changes
/// here reaches instances that run, and compiles nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Grants {
    /// Of scope Process. A name stands here or among those of scope Redis.
    pub stores: BTreeMap<Arc<str>, StoreGrant>,
    pub redis_stores: BTreeMap<Arc<str>, RedisGrant>,
    /// None: the Secret, or its key, is not there.
    pub secrets: BTreeMap<Arc<str>, Option<SecretValue>>,
    /// Whether it may choose the backend of a request, or ask for another rule.
    pub routing: bool,
}

impl Grants {
    pub fn is_empty(&self) -> bool {
        *self == Grants::default()
    }
}

/// A store of this process that a Plugin is given. Plugins of one namespace that name it alike share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct StoreGrant {
    /// Bytes of keys, values and bookkeeping. Default 16 MiB, at least 1 KiB, at most 1 GiB. Where Plugins say different
    /// things of one store, the largest counts.
    pub quota: u64,
}

impl StoreGrant {
    pub const DEFAULT_QUOTA: u64 = 16 << 20;
    pub const QUOTAS: std::ops::RangeInclusive<u64> = 1 << 10..=1 << 30;
}

/// A store in Redis that a Plugin is given. Plugins of one namespace that name it alike, and say the same of it, share it,
/// in all replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RedisGrant {
    pub server: Arc<RedisServer>,
    /// Where it is written: `spec.capabilities.stores[0]`.
    pub field: Arc<str>,
}

/// A Redis, and how it is spoken to. Where its Service leads is [`Config::plugin_backends`](crate::Config).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct RedisServer {
    pub service: NamespacedName,
    /// The Service's port, not the endpoints'.
    pub port: u16,
    pub login: RedisLogin,
    /// Default 0.
    pub database: u32,
    /// How long a call waits, connecting included. Default 250 ms, at most 10 s; the plugin's own deadline counts as well.
    /// Metric: `timeout` of `sluice_plugin_store_calls_total`.
    pub timeout: Duration,
    /// Calls at a time, of this process; above, they fail at once. Default 1,000. Metric: `overloaded` of
    /// `sluice_plugin_store_calls_total`.
    pub concurrency: u32,
}

impl RedisServer {
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_millis(250);
    pub const LONGEST_TIMEOUT: Duration = Duration::from_secs(10);
    pub const DEFAULT_CONCURRENCY: u32 = 1_000;
    pub const CONCURRENCIES: std::ops::RangeInclusive<u32> = 1..=100_000;
    pub const DATABASES: std::ops::RangeInclusive<u32> = 0..=65_535;
}

/// Who to be for a Redis.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum RedisLogin {
    /// Nobody: it asks for no password.
    Nobody,
    Password {
        /// None: the user `default`.
        username: Option<Arc<str>>,
        /// None: the Secret, or its key, is not there, so that nothing is connected to.
        password: Option<SecretValue>,
    },
}

/// A value out of a Secret. Only its size is printed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretValue(Arc<[u8]>);

impl SecretValue {
    pub fn new(bytes: &[u8]) -> SecretValue {
        SecretValue(bytes.into())
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretValue({} bytes)", self.0.len())
    }
}

impl Serialize for SecretValue {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{} bytes", self.0.len()))
    }
}

/// One use of a plugin, by a route's effective policy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PluginUse {
    /// The name in the policy: what merging goes by.
    pub name: Arc<str>,
    pub plugin: PluginKey,
    /// JSON text, keys sorted, so that equal configurations have equal hashes. It may hold secrets: only its size is
    /// printed, beside its hash.
    #[serde(rename = "config_bytes", serialize_with = "size")]
    pub config: Arc<str>,
    /// SHA-256 of `config`, in hex.
    pub config_hash: Arc<str>,
    pub fail_mode: FailMode,
    /// Without one it takes part in each exchange.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<Condition>,
    pub at: Place,
}

/// Where a use is written: problems with its configuration name this.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    pub object: ObjectRef,
    /// `spec.plugins[0]`
    pub field: Arc<str>,
}

fn size<S: serde::Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(text.len() as u64)
}

impl PluginUse {
    pub fn key(&self) -> UseKey {
        UseKey { plugin: self.plugin.clone(), config_hash: self.config_hash.clone() }
    }
}

/// What is compiled and configured once: a plugin with one configuration, whatever routes use it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct UseKey {
    pub plugin: PluginKey,
    pub config_hash: Arc<str>,
}

impl fmt::Display for UseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.plugin, self.config_hash.get(..12).unwrap_or(&self.config_hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_printed_by_its_size_alone() {
        let secret = SecretValue::new(b"hunter2");
        let login = RedisLogin::Password { username: None, password: Some(secret.clone()) };
        let server = RedisServer {
            service: NamespacedName::new("shop", "redis"),
            port: 6379,
            login,
            database: 0,
            timeout: RedisServer::DEFAULT_TIMEOUT,
            concurrency: RedisServer::DEFAULT_CONCURRENCY,
        };
        let store = RedisGrant { server: server.into(), field: "spec".into() };
        let grants = Grants {
            secrets: [("token".into(), Some(secret))].into(),
            redis_stores: [("limits".into(), store)].into(),
            ..Grants::default()
        };
        let printed = format!("{grants:?} {}", serde_json::to_string(&grants).unwrap());
        assert!(printed.matches("7 bytes").count() == 4 && !printed.contains("hunter2"), "{printed}");
    }
}
