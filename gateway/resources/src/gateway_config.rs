//! `GatewayConfig`: how a Gateway's edge behaves. Referenced by a class (defaults) and by a Gateway (wins, field by
//! field). Each field's default stands in `sluice_model::config`, beside what it does.

// The schema's derive repeats the types within a function, where `pub` reaches nobody.
#![allow(unreachable_pub)]

use crate::layered::{Layered, layered};
use crate::{DurationText, GatewayConfigStatus, Quantity};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How the edge of a Gateway behaves: limits, timeouts, trust, TLS, and what the Gateway of all Ingress objects does.
///
/// Referenced by `GatewayClass.spec.parametersRef` or `IngressClass.spec.parameters` (the defaults of all that use the
/// class) and by `Gateway.spec.infrastructure.parametersRef` (that Gateway alone). Merge strategy: field by field, the
/// Gateway's value wins over the class's. Lists are replaced as a whole, but `listeners` merge by `name`: an entry
/// for a listener's name wins over the entry `*`, and both levels over the built-in defaults.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "GatewayConfig",
    plural = "gatewayconfigs",
    namespaced,
    category = "sluice",
    status = "GatewayConfigStatus",
    printcolumn = r#"{"name":"Accepted","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"Uses","type":"integer","jsonPath":".status.uses"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    derive = "PartialEq",
    derive = "Default",
    doc = "How the edge of a Gateway behaves: limits, timeouts, trust, TLS, and what the Gateway of all Ingress objects does."
)]
#[serde(rename_all = "camelCase")]
pub struct GatewayConfigSpec {
    /// IP addresses to bind. Default: all, IPv6 and IPv4. `Gateway.spec.addresses` of type IPAddress wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<String>>,
    /// The Service that a Gateway has in a cluster, each its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceConfig>,
    /// The Gateway that all Ingress objects share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<IngressConfig>,
    /// Settings of listeners, by name; `*` means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listeners: Option<Vec<ListenerConfig>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLogConfig>,
    /// OpenTelemetry traces. Default: none; trace context is passed on as it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracing: Option<TracingConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_names: Option<ExternalNamesConfig>,
}

#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.loadBalancerClass) || !has(self.type) || self.type == 'LoadBalancer'")
        .message("loadBalancerClass belongs to type LoadBalancer")
)]
pub struct ServiceConfig {
    /// Default LoadBalancer.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<ServiceType>,
    /// For whoever makes the load balancer. `spec.infrastructure.annotations` of the Gateway win.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Local keeps the client's address, and sends only to nodes that have a proxy. Default Cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<ExternalTrafficPolicy>,
    /// The implementation that makes the load balancer. Default: the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer_class: Option<String>,
    /// Target ports that are not left to the controller: for pods on the host's network, or with host ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub pinned_ports: Option<Vec<PinnedPort>>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceType {
    #[default]
    LoadBalancer,
    NodePort,
    #[serde(rename = "ClusterIP")]
    ClusterIp,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExternalTrafficPolicy {
    Cluster,
    Local,
}

/// A listener's port, and what it is bound to.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PinnedPort {
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// The port of the proxies' pods. No other Gateway may pin the same.
    #[schemars(range(min = 1, max = 65535))]
    pub target_port: u16,
    /// The port of the nodes. Default: one that Kubernetes chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub node_port: Option<u16>,
    /// That of the listener's port: UDP for listeners of protocol UDP. Default TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<PinnedProtocol>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
pub enum PinnedProtocol {
    #[default]
    Tcp,
    Udp,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct IngressConfig {
    /// Port of plain HTTP. Default: 80 in a cluster, 8080 in a folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub http_port: Option<u16>,
    /// Port of HTTPS. Default: 443 in a cluster, 8443 in a folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub https_port: Option<u16>,
    /// A Secret of this namespace (kubernetes.io/tls): the certificate for names that no other covers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_certificate_ref: Option<LocalSecretRef>,
    /// A Service of this namespace: where requests go that no Ingress rule matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_backend_ref: Option<LocalServiceRef>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LocalSecretRef {
    pub name: String,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LocalServiceRef {
    pub name: String,
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
}

#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ListenerConfig {
    /// A listener's name, or `*`; of a listener that a ListenerSet adds `namespace/set/listener`. The listeners of the
    /// Ingress Gateway are `http` and `https`.
    #[x_kube(validation = Rule::new("size(self) > 0").message("name must not be empty; use * for all listeners"))]
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<TimeoutsConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTlsConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http2: Option<Http2Config>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathConfig>,
    /// What happens to header fields with an underscore in their name. Default Drop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub underscores: Option<Underscores>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_header: Option<ServerHeaderConfig>,
    /// Peers (IP addresses or CIDRs) whose forwarding headers are believed. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trusted_proxies: Option<Vec<String>>,
    /// Read a PROXY protocol header (v1 or v2) at the start of each connection. Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<bool>,
    /// Also write the header field Forwarded (RFC 7239). Default false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarded: Option<bool>,
    /// Append to Via on requests, and refuse loops (RFC 9110, 7.6.3). Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<bool>,
    /// Make an X-Request-ID where no trusted peer gave one. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<bool>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LimitsConfig {
    /// Open connections of the port. Default 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// Sessions of a UDP port: clients that have sent a datagram within udpIdle. Default 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp_sessions: Option<u32>,
    /// Bytes of a header section. Default 64Ki.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header_bytes: Option<Quantity>,
    /// Fields of a header section. Default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header_count: Option<u32>,
    /// Bytes of the request target. Default 8Ki.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_target: Option<Quantity>,
    /// Bytes of the method. Default 32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<u32>,
    /// Bytes of a request body. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Quantity>,
    /// Requests on one connection before it is closed gracefully. Default 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_connection: Option<u32>,
    /// Bytes that are thrown away so that a connection can be used again after an early answer. Default 64Ki.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_bytes: Option<Quantity>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TimeoutsConfig {
    /// PROXY header and TLS handshake. Default 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handshake: Option<DurationText>,
    /// From a request's first byte to the end of its header section. Default 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_headers: Option<DurationText>,
    /// Longest pause within a request body. Default 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_idle: Option<DurationText>,
    /// Least bytes a second of a request body, averaged over bodyIdle. Default 240; 0 switches it off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_min_rate: Option<Quantity>,
    /// Least bytes a second that a client takes of a response, over bodyIdle of waiting for it. Default 240; 0: off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_min_rate: Option<Quantity>,
    /// From the request's end to the response's header section. Default 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_headers: Option<DurationText>,
    /// Longest time without a byte in either direction. Default 300s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_idle: Option<DurationText>,
    /// Longest time without a datagram in either direction of a UDP session. Default 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp_idle: Option<DurationText>,
    /// Longest life of a WebSocket or another tunnel. Default: none; 0s: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel_max: Option<DurationText>,
    /// Longest life of a connection. Default 1h; 0s: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_max: Option<DurationText>,
    /// How long a connection may wait for its next request. Default 75s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<DurationText>,
    /// How long connections may go on after their listener has gone. Default 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DurationText>,
    /// Longest time for an endpoint to accept a connection. Default 5s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<DurationText>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ListenerTlsConfig {
    /// Default 1.2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_version: Option<TlsVersionName>,
    /// IANA names of the cipher suites to offer. Default: all that are safe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ciphers: Option<Vec<String>>,
    /// Session resumption. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tickets: Option<bool>,
    /// Offer HTTP/2. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http2: Option<bool>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq)]
pub enum TlsVersionName {
    #[serde(rename = "1.2")]
    V1_2,
    #[serde(rename = "1.3")]
    V1_3,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Http2Config {
    /// Default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrent_streams: Option<u32>,
    /// Bytes. Default 64Ki.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_window: Option<Quantity>,
    /// Bytes. Default 1Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_window: Option<Quantity>,
    /// RST_STREAM frames of a client in 10 s. Default 200.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resets: Option<u32>,
    /// PING, SETTINGS, PRIORITY, empty DATA and unknown frames in 10 s. Default 1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_frames: Option<u32>,
    /// CONTINUATION frames of one block. Default 16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continuations: Option<u32>,
    /// Bytes that may wait behind shut windows of one connection. Default 1Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_buffer: Option<Quantity>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PathConfig {
    /// What %2F and %5C mean. Default Keep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escaped_slashes: Option<EscapedSlashesName>,
    /// Take `//` for `/`. Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merge_slashes: Option<bool>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq)]
pub enum EscapedSlashesName {
    Keep,
    Reject,
    DecodeAndRedirect,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq)]
pub enum Underscores {
    Drop,
    Reject,
    Keep,
}

/// The header field Server of responses.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(self.mode == 'Replace') == has(self.value)").message("value belongs to mode Replace"))]
pub struct ServerHeaderConfig {
    /// Default PassThrough.
    pub mode: ServerHeaderMode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq)]
pub enum ServerHeaderMode {
    PassThrough,
    Remove,
    Replace,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AccessLogConfig {
    /// Default true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// The fields to write, in order. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fields: Option<Vec<String>>,
    /// The share of requests that are logged, 0 to 1; answers of 500 and above always are. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub sample: Option<f64>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TracingConfig {
    /// Default true, where otlp.endpoint is set. False switches off what a class switches on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// The collector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub otlp: Option<OtlpConfig>,
    /// The share of the traces begun here that are sampled, 0 to 1. A trusted proxy's trace is sampled as it says.
    /// Default 0.01.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub ratio: Option<f64>,
}

/// A collector that takes OTLP over HTTP, in protobuf.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct OtlpConfig {
    /// `http://host:port` or `https://host:port`; without a path, /v1/traces is added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^https?://"), length(max = 2048))]
    pub endpoint: Option<String>,
    /// Header fields to send with each export. Whoever may read this object may read their values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<BTreeMap<String, String>>,
    /// Longest time for an export, 100ms to 60s. Default 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<DurationText>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ExternalNamesConfig {
    /// Suffixes of the DNS names that Services of type ExternalName may have. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<String>>,
}

layered!(GatewayConfigSpec { addresses; service, ingress, listeners, access_log, tracing, external_names });
layered!(ServiceConfig { kind, annotations, external_traffic_policy, load_balancer_class, pinned_ports; });
layered!(IngressConfig { http_port, https_port, default_certificate_ref, default_backend_ref; });
layered!(LimitsConfig {
    connections, udp_sessions, header_bytes, header_count, request_target, method, body, requests_per_connection,
    drain_bytes;
});
layered!(TimeoutsConfig {
    handshake, request_headers, body_idle, body_min_rate, response_min_rate, response_headers, stream_idle, udp_idle,
    tunnel_max, connection_max, keep_alive, drain, connect;
});
layered!(ListenerTlsConfig { min_version, ciphers, tickets, http2; });
layered!(Http2Config {
    max_concurrent_streams, stream_window, connection_window, resets, control_frames, continuations, send_buffer;
});
layered!(PathConfig { escaped_slashes, merge_slashes; });
layered!(AccessLogConfig { enabled, fields, sample; });
layered!(TracingConfig { enabled, ratio; otlp });
layered!(OtlpConfig { endpoint, headers, timeout; });
layered!(ExternalNamesConfig { allow; });

/// All but the name, which says whose settings they are.
impl Layered for ListenerConfig {
    fn fill_from(&mut self, lower: &Self) {
        macro_rules! whole { ($($field:ident),*) => { $(if self.$field.is_none() { self.$field.clone_from(&lower.$field); })* } }
        whole!(underscores, server_header, trusted_proxies, proxy_protocol, forwarded, via, request_id);
        self.limits.fill_from(&lower.limits);
        self.timeouts.fill_from(&lower.timeouts);
        self.tls.fill_from(&lower.tls);
        self.http2.fill_from(&lower.http2);
        self.path.fill_from(&lower.path);
    }
}

/// Entries merge by name; those of one side alone stay as they are.
impl Layered for Vec<ListenerConfig> {
    fn fill_from(&mut self, lower: &Self) {
        for entry in lower {
            match self.iter_mut().find(|own| own.name == entry.name) {
                Some(own) => own.fill_from(entry),
                None => self.push(entry.clone()),
            }
        }
    }
}

impl GatewayConfigSpec {
    /// The settings of one listener: the entry of its name over the entry `*`.
    pub fn listener(&self, name: &str) -> ListenerConfig {
        let entry = |wanted: &str| self.listeners.iter().flatten().find(|entry| entry.name == wanted);
        let mut settings = entry(name).cloned().unwrap_or_default();
        if let Some(all) = entry("*") {
            settings.fill_from(all);
        }
        settings
    }
}
