//! Metrics of upstreams. Labels are backends (`namespace/name:port`), never pods: their number is that of Services.

use super::load::Load;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct BackendLabel {
    pub(super) backend: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    backend: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabel {
    backend: String,
    limit: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct TaskLabel {
    pub(super) task: &'static str,
}

/// All metric families of this module. Cheap to clone: handles to the same families.
#[derive(Clone, Debug, Default)]
pub struct UpstreamMetrics {
    requests: Family<BackendLabel, Gauge>,
    pending: Family<BackendLabel, Gauge>,
    connections: Family<BackendLabel, Gauge>,
    endpoints: Family<BackendLabel, Gauge>,
    connects: Family<ResultLabel, Counter>,
    handshakes: Family<ResultLabel, Counter>,
    overflows: Family<LimitLabel, Counter>,
    retries: Family<BackendLabel, Counter>,
    ejections: Family<BackendLabel, Counter>,
    panics: Family<BackendLabel, Counter>,
    checks: Family<ResultLabel, Counter>,
    resolutions: Family<ResultLabel, Counter>,
    pub(super) task_restarts: Family<TaskLabel, Counter>,
}

impl UpstreamMetrics {
    /// Registers the families under `sluice_upstream_*`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = UpstreamMetrics::default();
        let upstream = registry.sub_registry_with_prefix("sluice_upstream");
        upstream.register("requests_in_flight", "Requests given to an endpoint and not over", metrics.requests.clone());
        upstream.register(
            "requests_pending",
            "Requests that wait for a connection to an endpoint",
            metrics.pending.clone(),
        );
        upstream.register("connections", "Open connections to endpoints, idle ones too", metrics.connections.clone());
        upstream.register("endpoints", "Endpoints that requests are given to", metrics.endpoints.clone());
        upstream.register(
            "connects",
            "Connections tried, by result: ok, refused, timeout, tls, overflow",
            metrics.connects.clone(),
        );
        upstream.register("tls_handshakes", "TLS handshakes, by result: full, resumed", metrics.handshakes.clone());
        upstream.register(
            "overflows",
            "Requests refused by a circuit breaker, by limit: max_connections, max_pending, max_requests, retries",
            metrics.overflows.clone(),
        );
        upstream.register("retries", "Further tries of requests", metrics.retries.clone());
        upstream.register("ejections", "Endpoints ejected for failures in a row", metrics.ejections.clone());
        upstream.register(
            "panic_picks",
            "Picks that ignored health because too few endpoints were healthy",
            metrics.panics.clone(),
        );
        upstream.register("health_checks", "Active checks, by result: ok, failed", metrics.checks.clone());
        upstream.register(
            "resolutions",
            "Resolutions of ExternalName hosts, by result: ok, failed, refused",
            metrics.resolutions.clone(),
        );
        upstream.register(
            "task_restarts",
            "Restarts of background tasks after a panic, by task: health, resolve",
            metrics.task_restarts.clone(),
        );
        metrics
    }

    /// The handles of one backend. They go, and its series with them, when the last clone of the `Arc` does.
    pub(super) fn backend(&self, backend: String) -> Arc<BackendMetrics> {
        let label = BackendLabel { backend };
        let result = |family: &Family<ResultLabel, Counter>, result: &'static str| {
            family.get_or_create_owned(&ResultLabel { backend: label.backend.clone(), result })
        };
        let limit = |limit: &'static str| {
            self.overflows.get_or_create_owned(&LimitLabel { backend: label.backend.clone(), limit })
        };
        Arc::new(BackendMetrics {
            load: Load::new(
                self.requests.get_or_create_owned(&label),
                self.pending.get_or_create_owned(&label),
                self.connections.get_or_create_owned(&label),
            ),
            endpoints: self.endpoints.get_or_create_owned(&label),
            connect_ok: result(&self.connects, "ok"),
            connect_refused: result(&self.connects, "refused"),
            connect_timeout: result(&self.connects, "timeout"),
            connect_tls: result(&self.connects, "tls"),
            connect_overflow: result(&self.connects, "overflow"),
            handshake_full: result(&self.handshakes, "full"),
            handshake_resumed: result(&self.handshakes, "resumed"),
            overflow_connections: limit("max_connections"),
            overflow_pending: limit("max_pending"),
            overflow_requests: limit("max_requests"),
            overflow_retries: limit("retries"),
            retries: self.retries.get_or_create_owned(&label),
            ejections: self.ejections.get_or_create_owned(&label),
            panics: self.panics.get_or_create_owned(&label),
            check_ok: result(&self.checks, "ok"),
            check_failed: result(&self.checks, "failed"),
            resolve_ok: result(&self.resolutions, "ok"),
            resolve_failed: result(&self.resolutions, "failed"),
            resolve_refused: result(&self.resolutions, "refused"),
            families: self.clone(),
            label,
        })
    }

    fn forget(&self, label: &BackendLabel) {
        let backend = &label.backend;
        for family in [&self.requests, &self.pending, &self.connections, &self.endpoints] {
            family.remove(label);
        }
        for family in [&self.retries, &self.ejections, &self.panics] {
            family.remove(label);
        }
        let results: [(&Family<ResultLabel, Counter>, &[&'static str]); 4] = [
            (&self.connects, &["ok", "refused", "timeout", "tls", "overflow"]),
            (&self.handshakes, &["full", "resumed"]),
            (&self.checks, &["ok", "failed"]),
            (&self.resolutions, &["ok", "failed", "refused"]),
        ];
        for (family, names) in results {
            for result in names {
                family.remove(&ResultLabel { backend: backend.clone(), result });
            }
        }
        for limit in ["max_connections", "max_pending", "max_requests", "retries"] {
            self.overflows.remove(&LimitLabel { backend: backend.clone(), limit });
        }
    }
}

/// Handles of one backend, resolved once; nothing is looked up by label on a request.
#[derive(Debug)]
pub(super) struct BackendMetrics {
    pub(super) load: Load,
    pub(super) endpoints: Gauge,
    pub(super) connect_ok: Counter,
    pub(super) connect_refused: Counter,
    pub(super) connect_timeout: Counter,
    pub(super) connect_tls: Counter,
    pub(super) connect_overflow: Counter,
    pub(super) handshake_full: Counter,
    pub(super) handshake_resumed: Counter,
    pub(super) overflow_connections: Counter,
    pub(super) overflow_pending: Counter,
    pub(super) overflow_requests: Counter,
    pub(super) overflow_retries: Counter,
    pub(super) retries: Counter,
    pub(super) ejections: Counter,
    pub(super) panics: Counter,
    pub(super) check_ok: Counter,
    pub(super) check_failed: Counter,
    pub(super) resolve_ok: Counter,
    pub(super) resolve_failed: Counter,
    pub(super) resolve_refused: Counter,
    families: UpstreamMetrics,
    label: BackendLabel,
}

impl BackendMetrics {
    /// `namespace/name:port`.
    pub(super) fn label(&self) -> &str {
        &self.label.backend
    }
}

impl Drop for BackendMetrics {
    fn drop(&mut self) {
        self.families.forget(&self.label);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_that_is_gone_leaves_no_series() {
        let mut registry = Registry::default();
        let metrics = UpstreamMetrics::register(&mut registry);
        let encode = |registry: &Registry| {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
            text
        };
        let backend = metrics.backend("shop/web:80".into());
        assert!(encode(&registry).contains("sluice_upstream_connects_total{backend=\"shop/web:80\",result=\"ok\"} 0"));
        drop(backend);
        assert!(!encode(&registry).contains("shop/web"), "{}", encode(&registry));
    }
}
