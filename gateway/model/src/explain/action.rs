//! What a rule does with a request: its plugins, and its backends with their endpoints.

use super::{Verdict, describe};
use crate::Reason;
use crate::config::{Action, BackendTarget, Config, Endpoint, EndpointSource, Rule, Takers, WeightedBackend};
use crate::plugin::{FailMode, PluginUse};
use serde::Serialize;
use std::net::SocketAddr;

/// One plugin, in running order.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PluginStep {
    /// In the policy.
    pub name: String,
    /// The Plugin object.
    pub plugin: String,
    pub fail_mode: FailMode,
    /// The condition on which it takes part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// SHA-256 of the configuration, in hex.
    pub config_hash: String,
}

impl PluginStep {
    pub(super) fn new(used: &PluginUse) -> Self {
        PluginStep {
            name: used.name.to_string(),
            plugin: used.plugin.to_string(),
            fail_mode: used.fail_mode,
            when: used.when.as_ref().map(|when| when.text().to_owned()),
            config_hash: used.config_hash.to_string(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ActionStep {
    Forward {
        backends: Vec<BackendStep>,
    },
    /// In words.
    Redirect {
        status: u16,
        to: String,
    },
    Reply {
        status: u16,
        reason: Reason,
    },
}

/// One backend of a rule.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BackendStep {
    /// `namespace/name:port`; what stands there where it could not be resolved.
    pub backend: String,
    pub weight: u32,
    /// Share of the rule's requests, in per cent.
    pub share: f64,
    /// Protocol, TLS and the way endpoints are found, in words.
    pub reached: String,
    /// Empty where they are not listed by the configuration (a name, a Service's own address).
    pub endpoints: Vec<EndpointStep>,
    /// What its share of requests is answered where it cannot be forwarded.
    pub answer: Option<Verdict>,
    pub filters: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EndpointStep {
    pub address: SocketAddr,
    /// The same pod in the other address family.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alternate: Option<SocketAddr>,
    /// `ready`, `ready, meant for others`, `terminating, still serving` or `not ready`.
    pub state: &'static str,
    /// Takes new requests, as far as the configuration tells. Those that are meant for other zones or nodes do where those
    /// that are meant for here fail.
    pub takes_requests: bool,
    pub zone: Option<String>,
    pub node: Option<String>,
}

pub(super) fn step(config: &Config, rule: &Rule) -> ActionStep {
    match &rule.action {
        Action::Redirect(redirect) => {
            ActionStep::Redirect { status: redirect.status.as_u16(), to: describe::redirect(redirect) }
        }
        Action::Reply { status, reason } => ActionStep::Reply { status: status.as_u16(), reason: *reason },
        Action::Forward(backends) => {
            let total: u64 = backends.iter().map(|b| u64::from(b.weight)).sum();
            ActionStep::Forward { backends: backends.iter().map(|b| backend(config, b, total)).collect() }
        }
    }
}

impl ActionStep {
    pub(super) fn verdict(&self) -> Verdict {
        match self {
            ActionStep::Redirect { status, to } => Verdict {
                status: Some(*status),
                reason: Some(Reason::Redirect),
                text: format!("the rule redirects: {to}"),
            },
            ActionStep::Reply { status, reason } => {
                Verdict { status: Some(*status), reason: Some(*reason), text: reason.description().to_owned() }
            }
            ActionStep::Forward { backends } => {
                let mut drawn = backends.iter().filter(|b| b.weight > 0);
                let failing: f64 = drawn.clone().filter(|b| b.answer.is_some()).map(|b| b.share).sum();
                match drawn.clone().find(|b| b.answer.is_none()) {
                    None => drawn.next().and_then(|b| b.answer.clone()).unwrap_or_else(|| {
                        Verdict::reply(Reason::NoBackends, "no backend of the rule has a weight above 0")
                    }),
                    Some(only) if drawn.count() == 1 => Verdict {
                        status: None,
                        reason: Some(Reason::Upstream),
                        text: format!("forwarded to {}", only.backend),
                    },
                    Some(_) => {
                        let mut text = "forwarded to one of the backends, by weight".to_owned();
                        if failing > 0.0 {
                            text.push_str(&format!("; {failing:.0} % of requests are answered by the gateway"));
                        }
                        Verdict { status: None, reason: Some(Reason::Upstream), text }
                    }
                }
            }
        }
    }
}

fn backend(config: &Config, weighted: &WeightedBackend, total: u64) -> BackendStep {
    let mut step = BackendStep {
        backend: String::new(),
        weight: weighted.weight,
        share: if total == 0 { 0.0 } else { f64::from(weighted.weight) * 100.0 / total as f64 },
        reached: String::new(),
        endpoints: Vec::new(),
        answer: None,
        filters: describe::filters(&weighted.filters),
    };
    let key = match &weighted.target {
        BackendTarget::Backend(key) => key,
        BackendTarget::Invalid { status, reason } => {
            step.backend = "(not resolved)".to_owned();
            step.answer = Some(Verdict {
                status: Some(status.as_u16()),
                reason: Some(*reason),
                text: reason.description().to_owned(),
            });
            return step;
        }
    };
    step.backend = key.to_string();
    let Some(backend) = config.backends.get(key) else {
        step.answer = Some(Verdict::reply(Reason::InvalidBackend, "the configuration does not hold this backend"));
        return step;
    };
    let tls = backend.tls.as_ref().map(|tls| format!(" over TLS (as {})", tls.hostname)).unwrap_or_default();
    let found = match &backend.source {
        EndpointSource::Slices(key) => {
            if let Some(set) = config.endpoints.get(key) {
                let takers = set.takers(&config.locality);
                step.endpoints = set.endpoints.iter().map(|endpoint| EndpointStep::new(endpoint, &takers)).collect();
            }
            if !step.endpoints.iter().any(|e| e.takes_requests) {
                step.answer = Some(Verdict::reply(Reason::NoEndpoints, Reason::NoEndpoints.description()));
            }
            "endpoints from EndpointSlices".to_owned()
        }
        EndpointSource::Dns { host, port } => format!("addresses of {host}, port {port}"),
        EndpointSource::ClusterIp { address, port } => {
            format!("the Service's own address {}", SocketAddr::new(*address, *port))
        }
    };
    step.reached = format!("{:?}{tls}, {found}", backend.protocol);
    step
}

impl EndpointStep {
    fn new(endpoint: &Endpoint, takers: &Takers<'_>) -> Self {
        let takes_requests = takers.prefers(endpoint);
        let state = match endpoint {
            Endpoint { terminating: true, serving: true, .. } => "terminating, still serving",
            Endpoint { terminating: false, ready: true, .. } if takes_requests => "ready",
            Endpoint { terminating: false, ready: true, .. } => "ready, meant for others",
            _ => "not ready",
        };
        EndpointStep {
            address: SocketAddr::new(endpoint.id.address, endpoint.id.port),
            alternate: endpoint.alternate,
            state,
            takes_requests,
            zone: endpoint.zone.as_deref().map(str::to_owned),
            node: endpoint.node.as_deref().map(str::to_owned),
        }
    }
}
