//! `Plugin`: one piece of code, and what it may do. It holds no configuration: each use brings its own.

// The schema's derive repeats the types within a function, where `pub` reaches nobody.
#![allow(unreachable_pub)]

use crate::values::free_form;
use crate::{DurationText, LocalSecretRef, PluginStatus, Quantity};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One WebAssembly component that policies may use, with its limits.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "Plugin",
    plural = "plugins",
    namespaced,
    category = "sluice",
    status = "PluginStatus",
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Uses","type":"integer","jsonPath":".status.uses"}"#,
    printcolumn = r#"{"name":"Digest","type":"string","jsonPath":".status.digest","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    derive = "PartialEq",
    derive = "Default",
    doc = "One WebAssembly component that policies may use, with its limits."
)]
#[serde(rename_all = "camelCase")]
pub struct PluginSpec {
    pub source: PluginSource,
    /// Fresh: a sandbox of its own for each request. Pooled: instances are used again. Default Fresh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<PluginLimitsConfig>,
    /// What happens to a request where the plugin fails: Closed answers 503, Open goes on without it. Default Closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fail_mode: Option<FailModeName>,
    /// What the code may do besides looking at the exchange. Nothing is allowed that is not named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
    /// The namespaces whose TrafficPolicies may use this Plugin. Default: its own. A ReferenceGrant allows it as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_namespaces: Option<AllowedNamespaces>,
}

/// What a Plugin may do.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    /// The backends that it may call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub backends: Option<Vec<PluginBackend>>,
    /// The stores that it may keep state in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub stores: Option<Vec<PluginStore>>,
    /// The secrets that it may read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub secrets: Option<Vec<PluginSecret>>,
    /// Whether it may say where a request goes: to one of `backends` instead of one of the rule's, or by the rule that fits
    /// what it made of the request. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routing: Option<bool>,
}

impl Capabilities {
    /// Secrets of the Plugin's namespace that it needs: those that the code reads, and passwords of its stores.
    pub fn secret_names(&self) -> impl Iterator<Item = &str> {
        let read = self.secrets.iter().flatten().map(|secret| &secret.reference);
        let passwords = self.stores.iter().flatten().filter_map(|store| store.redis.as_ref()?.password_ref.as_ref());
        read.chain(passwords).map(|reference| reference.name.as_str())
    }
}

/// A store of state across requests. All Plugins of the namespace that name it alike, and say the same of where it is, share
/// it.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.scope) && self.scope == 'Redis') == has(self.redis)")
        .message("redis belongs to scope: Redis"),
    validation = Rule::new("!(has(self.redis) && has(self.quota))")
        .message("a quota belongs to scope: Process; a Redis bounds its memory itself (maxmemory)")
)]
pub struct PluginStore {
    /// What the code calls it by; unique within the list.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Process: this gateway process' own, gone when it ends. Redis: that of all replicas, in a Redis. Default Process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<StoreScope>,
    /// Of scope Process: bytes of keys, values and bookkeeping, 1Ki to 1Gi; above, writes are refused. Default 16Mi. Where
    /// Plugins say different things of one store, the largest counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<Quantity>,
    /// Of scope Redis: which one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<RedisConfig>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq)]
pub enum StoreScope {
    Process,
    Redis,
}

/// A Redis, version 6.0 or later, or what speaks as one (Valkey); one primary, no cluster of shards. Keys begin with
/// `sluice:` and the Plugin's namespace.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.username) || has(self.passwordRef)").message("a username needs a passwordRef")
)]
pub struct RedisConfig {
    /// Over TLS where a BackendTLSPolicy says so; the port's appProtocol says nothing here.
    #[serde(rename = "ref")]
    pub reference: ServiceRef,
    /// Who to be (ACL). Default: the user `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub username: Option<String>,
    /// The password, in a Secret of the Plugin's namespace. Default: none is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_ref: Option<SecretKeyRef>,
    /// Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 65535))]
    pub database: Option<u32>,
    /// How long one call waits, connecting included. Default 250ms, at most 10s; the plugin's own deadline counts as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<DurationText>,
    /// Calls at a time, of one gateway process; above, they fail at once. Default 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100000))]
    pub concurrency: Option<u32>,
}

/// A secret that a Plugin may read.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PluginSecret {
    /// What the code calls it by; unique within the list.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    #[serde(rename = "ref")]
    pub reference: SecretKeyRef,
}

/// A key of a Secret of the Plugin's namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    pub name: String,
    pub key: String,
}

/// A backend that a Plugin may call.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PluginBackend {
    /// What the code calls it by; unique within the list.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    #[serde(rename = "ref")]
    pub reference: ServiceRef,
}

/// A port of a Service. One of another namespace needs a ReferenceGrant there, from Plugin to Service. Over TLS where a
/// BackendTLSPolicy, or the port's appProtocol, says so.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRef {
    pub name: String,
    /// Default: the Plugin's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[schemars(range(min = 1))]
    pub port: u16,
}

/// Where the code is; just one.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.oci), has(self.https), has(self.configMap), has(self.file)].filter(named, named).size() == 1")
        .message("name just one of oci, https, configMap and file")
)]
pub struct PluginSource {
    /// An image of a registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oci: Option<OciSource>,
    /// A file of a web server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub https: Option<HttpsSource>,
    /// A ConfigMap of the same namespace: the component under `key` in its binaryData.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapSource>,
    /// A file, by a path from the folder of the object's own file. Where objects come from files only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileSource>,
}

/// An image that holds one component: as a layer of its own (application/wasm), or as the file plugin.wasm of a layer, as
/// images for Envoy have it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct OciSource {
    /// `registry.example/team/plugin:1.0`, or with a digest (`@sha256:…`), which is the surer way: a tag is looked up once
    /// for each change of the object.
    #[schemars(length(min = 1, max = 512))]
    pub image: String,
    /// A Secret of this namespace (kubernetes.io/dockerconfigjson): who to be for the registry. Default: nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_secret_ref: Option<LocalSecretRef>,
    /// The image must have a cosign signature by this key. Default: signatures are not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key_ref: Option<PublicKeyRef>,
}

/// A public key in PEM form (ECDSA P-256 or Ed25519), in a Secret or ConfigMap of this namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PublicKeyRef {
    /// Default Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<PublicKeyKind>,
    pub name: String,
    /// Default cosign.pub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq)]
pub enum PublicKeyKind {
    Secret,
    ConfigMap,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HttpsSource {
    #[schemars(length(max = 2048), regex(pattern = "^https?://"))]
    pub url: String,
    /// SHA-256 of the file, in hex.
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    pub sha256: String,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapSource {
    pub name: String,
    pub key: String,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct FileSource {
    pub path: String,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq)]
pub enum InstanceName {
    Fresh,
    Pooled,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq)]
pub enum FailModeName {
    Closed,
    Open,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PluginLimitsConfig {
    /// Bytes of memory an instance. Default 64Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Quantity>,
    /// Time that the code may run within one call. Default 10ms, at most 10s; above 20ms it runs on threads of low priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_time: Option<DurationText>,
    /// Wall time of one call, waiting included; a shorter timeout of the rule counts. Default 1s, at most 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<DurationText>,
    /// Instances at a time. Default 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub concurrency: Option<u32>,
    /// Bytes of a body that are read for the plugin. Default 1Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_buffer: Option<Quantity>,
    /// When the plugin is not called for a while because it only fails. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<PluginCircuitBreaker>,
}

/// When a plugin that only fails is not called for a while.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PluginCircuitBreaker {
    /// Failures in a row that open it.
    #[schemars(range(min = 1))]
    pub failures: u32,
    /// Within which they must fall, and for how long it is open before one call is let through. Default 10s, at most 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<DurationText>,
}

#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.from) && self.from == 'Selector') == has(self.selector)")
        .message("selector belongs to from: Selector")
)]
pub struct AllowedNamespaces {
    /// Default Same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<NamespacesFrom>,
    /// Labels of the namespaces, where from is Selector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<crate::api::LabelSelector>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq)]
pub enum NamespacesFrom {
    Same,
    All,
    Selector,
}

/// One use of a plugin, in a TrafficPolicy.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PluginUseConfig {
    /// What merging goes by; unique within the list.
    pub name: String,
    pub plugin_ref: PluginRef,
    /// Checked against the schema in the plugin. Default: an empty object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form")]
    pub config: Option<BTreeMap<String, serde_json::Value>>,
    /// Default: the Plugin's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fail_mode: Option<FailModeName>,
    /// Whether the plugin takes part in an exchange: a CEL expression over `request` (`method`, `scheme`, `host`, `path`, `query`,
    /// `protocol`, `headers['name']`) and `source.address`. Default: in each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub when: Option<String>,
    /// Uses run in this order, the smaller first. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<i32>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PluginRef {
    pub name: String,
    /// Default: the policy's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}
