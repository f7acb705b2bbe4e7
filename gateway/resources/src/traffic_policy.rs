//! `TrafficPolicy`: what is attached, to what.

// The schema's derive repeats the types within a function, where `pub` reaches nobody and not every field is read.
#![allow(unreachable_pub, dead_code)]

use crate::layered::layered;
use crate::unreadable;
use crate::{DurationText, PluginUseConfig, Quantity, TrafficPolicyStatus};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Plugins, and settings of backends and clients, attached to Gateways, routes, Ingress objects and Services of the
/// same namespace. A policy without targetRefs is attached by an HTTPRoute rule's ExtensionRef filter, or by an
/// Ingress's annotation `sluice.dev/policy: a,b`.
///
/// Merge strategy (GEP-713, custom): each rule of a route has one effective policy, merged field by field from the
/// levels Gateway, Gateway's listener (sectionName), route or Ingress, and the route's rule (sectionName, its name;
/// policies of ExtensionRef filters come after attached ones). For `backend`, a policy on a Service stands between
/// listener and route. Of defaults, the most specific wins; of overrides, the least specific, and any override wins
/// over any default. Top-level fields are defaults. Entries of `plugins` merge by `name` in the same way, each as a whole;
/// they run by `order`, then by level as above, then by position. Of two policies with the same target the older
/// acts (then by namespace and name); the other does nothing and is told so.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "TrafficPolicy",
    plural = "trafficpolicies",
    namespaced,
    category = "sluice",
    status = "TrafficPolicyStatus",
    printcolumn = r#"{"name":"Target","type":"string","jsonPath":".status.ancestors[0].ancestorRef.name"}"#,
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.ancestors[0].conditions[?(@.type==\"Accepted\")].reason"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    derive = "PartialEq",
    derive = "Default",
    doc = "Plugins, and settings of backends and clients, attached to Gateways, routes, Ingress objects and Services."
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.defaults) || (!has(self.plugins) && !has(self.backend) && !has(self.client))")
        .message("top-level fields are defaults: use them or `defaults`, not both")
)]
pub struct TrafficPolicySpec {
    /// What the policy is attached to, in its own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub target_refs: Option<Vec<PolicyTarget>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defaults: Option<PolicySettings>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overrides: Option<PolicySettings>,
    /// As `defaults.plugins`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugins: Option<Vec<PluginUseConfig>>,
    /// As `defaults.backend`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<BackendSettings>,
    /// As `defaults.client`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientSettings>,
    /// All but the targets could not be read, and there is no former form ([`TrafficPolicy::unreadable`]).
    #[serde(skip)]
    #[schemars(skip)]
    pub unreadable: bool,
}

impl TrafficPolicy {
    /// What stands for a policy of which nothing but the name and the targets can be read. The plugins or address
    /// lists that it holds may be what guards its targets: they must not be served as if it were not there.
    pub(crate) fn unreadable(document: &serde_json::Value) -> TrafficPolicy {
        let spec = document.get("spec");
        let guards =
            |settings: &serde_json::Value| settings.get("plugins").is_some() || settings.get("client").is_some();
        let part = |name: &str| spec.and_then(|spec| spec.get(name));
        let guarding = spec.into_iter().chain(part("defaults")).chain(part("overrides")).any(guards);
        let mut metadata = unreadable::metadata(document);
        if !guarding {
            metadata.creation_timestamp = Some(unreadable::last());
        }
        let target_refs = Some(unreadable::targets(document));
        let spec = TrafficPolicySpec { target_refs, unreadable: guarding, ..TrafficPolicySpec::default() };
        TrafficPolicy { metadata, spec, status: None }
    }
}

#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.sectionName) || self.kind != 'Ingress'").message("an Ingress has no sections")
)]
pub struct PolicyTarget {
    /// `gateway.networking.k8s.io` of Gateway, ListenerSet and routes, `networking.k8s.io` of Ingress, empty of Service.
    pub group: String,
    /// Gateway, ListenerSet, HTTPRoute, GRPCRoute, TLSRoute, TCPRoute, UDPRoute, Ingress or Service.
    pub kind: String,
    pub name: String,
    /// A listener of a Gateway or ListenerSet, a route's named rule, or a Service's named port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PolicySettings {
    /// Plugins that see the requests, merged by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugins: Option<Vec<PluginUseConfig>>,
    /// How backends are treated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<BackendSettings>,
    /// Which clients may do what; not on a Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientSettings>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BackendSettings {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancerConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheckConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<OutlierConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<BackendTimeouts>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreakerConfig>,
    /// Send to the Service's own address, so that kube-proxy balances. Default false.
    #[serde(default, rename = "clusterIP", skip_serializing_if = "Option::is_none")]
    pub cluster_ip: Option<bool>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerConfig {
    /// Default RoundRobin.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<LoadBalancerName>,
    /// What is hashed, where type is ConsistentHash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistent_hash: Option<ConsistentHashConfig>,
    /// The time over which a new endpoint's share grows to its full one. Default: off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<DurationText>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq)]
pub enum LoadBalancerName {
    RoundRobin,
    LeastRequest,
    ConsistentHash,
}

/// Just one of these.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "(has(self.header) ? 1 : 0) + (has(self.cookie) ? 1 : 0) + (has(self.source) && self.source ? 1 : 0) == 1"
    ).message("name one of header, cookie and source")
)]
pub struct ConsistentHashConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<String>,
    /// The client's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<bool>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheckConfig {
    /// What is asked for with GET. Default: a connection is enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Statuses that are good. Default 200 to 399.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statuses: Option<Vec<u16>>,
    /// Default 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<DurationText>,
    /// Default 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<DurationText>,
    /// Failures in a row that take an endpoint out. Default 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unhealthy: Option<u32>,
    /// Successes in a row that bring it back. Default 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy: Option<u32>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct OutlierConfig {
    /// Failures in a row that eject an endpoint. Default 5; 0: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consecutive_failures: Option<u32>,
    /// Whether answers of 500 and above count. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_errors: Option<bool>,
    /// Default 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_ejection: Option<DurationText>,
    /// Default 300s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ejection: Option<DurationText>,
    /// Never more than this share of the endpoints. Default 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub max_percent: Option<u8>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RetryConfig {
    /// Further tries after the first. Default 1; at least 4 where connections are refused, unless it is 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 10))]
    pub attempts: Option<u32>,
    /// Failures that are tried again. Default: both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<Vec<RetryOn>>,
    /// Statuses that are tried again, for any method. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codes: Option<Vec<u16>>,
    /// Least pause before a further try. Default 25ms, growing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<DurationText>,
    /// Percent that retries may add to a backend's requests in flight. Default 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub budget: Option<u8>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq)]
pub enum RetryOn {
    ConnectFailure,
    Reset,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BackendTimeouts {
    /// To connect, TLS included. Default: the listener's, 5s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<DurationText>,
    /// From the client's request to the end of the response. An HTTPRoute's own timeouts win. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<DurationText>,
    /// How long an unused connection is kept. Default 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<DurationText>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CircuitBreakerConfig {
    /// Default 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// Default 1024.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_pending: Option<u32>,
    /// Default 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u32>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClientSettings {
    /// Addresses (IP or CIDR) that may call; others are answered 403. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_allow: Option<Vec<String>>,
    /// Bytes of a request body; the smaller of this and the listener's limit counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_body: Option<Quantity>,
    /// What %2F and %5C mean, instead of what the listener says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escaped_slashes: Option<crate::EscapedSlashesName>,
}

layered!(BackendSettings { cluster_ip; load_balancer, health_check, outlier_detection, retry, timeouts, circuit_breaker });
// A kind of balancing and what it hashes belong together: they are replaced together.
layered!(LoadBalancerConfig { kind, consistent_hash, slow_start; });
layered!(HealthCheckConfig { path, host, statuses, interval, timeout, unhealthy, healthy; });
layered!(OutlierConfig { consecutive_failures, server_errors, base_ejection, max_ejection, max_percent; });
layered!(RetryConfig { attempts, on, codes, backoff, budget; });
layered!(BackendTimeouts { connect, request, idle; });
layered!(CircuitBreakerConfig { max_connections, max_pending, max_requests; });
layered!(ClientSettings { ip_allow, max_body, escaped_slashes; });

impl TrafficPolicySpec {
    /// The defaults, wherever they are written.
    pub fn defaults(&self) -> PolicySettings {
        self.defaults.clone().unwrap_or_else(|| PolicySettings {
            plugins: self.plugins.clone(),
            backend: self.backend.clone(),
            client: self.client.clone(),
        })
    }

    /// Whether defaults are written twice.
    pub fn has_both_forms(&self) -> bool {
        self.defaults.is_some() && (self.plugins.is_some() || self.backend.is_some() || self.client.is_some())
    }
}
