//! Values of a policy become the model's. As with GatewayConfig, each object's values are told once; in merged settings
//! what can't be read keeps its default.

use crate::report::Report;
use crate::values::{bytes, duration_of, networks, number, positive_duration};
use sluice_model::config::{
    BackendPolicy, CircuitBreaker, ClientPolicy, HashKey, HealthCheck, LoadBalancer, OutlierDetection, Retry,
};
use sluice_model::{Code, Hostname};
use sluice_resources::{
    BackendSettings, CircuitBreakerConfig, ClientSettings, HealthCheckConfig, LoadBalancerConfig, LoadBalancerName,
    OutlierConfig, RetryConfig, RetryOn,
};
use std::time::Duration;

/// `backend` of a policy, less what belongs to the rule.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct BackendPlan {
    pub(crate) policy: BackendPolicy,
    pub(crate) request_timeout: Option<Duration>,
    pub(crate) cluster_ip: bool,
}

pub(crate) fn backend_plan(settings: &BackendSettings, field: &str, report: &mut Report<'_>) -> BackendPlan {
    let timeouts = settings.timeouts.clone().unwrap_or_default();
    let balancer = settings.load_balancer.as_ref();
    BackendPlan {
        policy: BackendPolicy {
            load_balancer: load_balancer(balancer, &format!("{field}.loadBalancer"), report),
            slow_start: duration_of(
                balancer.and_then(|b| b.slow_start.as_ref()),
                &format!("{field}.loadBalancer.slowStart"),
                report,
            )
            .filter(|duration| !duration.is_zero()),
            health_check: settings
                .health_check
                .as_ref()
                .map(|check| health_check(check, &format!("{field}.healthCheck"), report)),
            outlier: outlier(settings.outlier_detection.as_ref(), &format!("{field}.outlierDetection"), report),
            circuit_breaker: circuit_breaker(
                settings.circuit_breaker.as_ref(),
                &format!("{field}.circuitBreaker"),
                report,
            ),
            connect_timeout: positive_duration(timeouts.connect.as_ref(), &format!("{field}.timeouts.connect"), report),
            idle_timeout: positive_duration(timeouts.idle.as_ref(), &format!("{field}.timeouts.idle"), report),
            retry_constraint: None,
        },
        request_timeout: duration_of(timeouts.request.as_ref(), &format!("{field}.timeouts.request"), report)
            .filter(|duration| !duration.is_zero()),
        cluster_ip: settings.cluster_ip.unwrap_or(false),
    }
}

fn load_balancer(settings: Option<&LoadBalancerConfig>, field: &str, report: &mut Report<'_>) -> LoadBalancer {
    let Some(settings) = settings else { return LoadBalancer::default() };
    let field = format!("{field}.consistentHash");
    match (settings.kind.unwrap_or(LoadBalancerName::RoundRobin), &settings.consistent_hash) {
        (LoadBalancerName::RoundRobin, _) => LoadBalancer::RoundRobin,
        (LoadBalancerName::LeastRequest, _) => LoadBalancer::LeastRequest,
        (LoadBalancerName::ConsistentHash, None) => {
            report.error(Code::InvalidCombination, field, "type ConsistentHash needs to know what is hashed");
            LoadBalancer::default()
        }
        (LoadBalancerName::ConsistentHash, Some(hash)) => match (&hash.header, &hash.cookie, hash.source) {
            (Some(header), None, None | Some(false)) => {
                match crate::values::header_name(header, &format!("{field}.header"), report) {
                    Some(name) => LoadBalancer::ConsistentHash(HashKey::Header(name)),
                    None => LoadBalancer::default(),
                }
            }
            (None, Some(cookie), None | Some(false)) => {
                LoadBalancer::ConsistentHash(HashKey::Cookie(cookie.as_str().into()))
            }
            (None, None, Some(true)) => LoadBalancer::ConsistentHash(HashKey::Source),
            _ => {
                report.error(Code::InvalidCombination, field, "name one of header, cookie and source: true");
                LoadBalancer::default()
            }
        },
    }
}

fn health_check(settings: &HealthCheckConfig, field: &str, report: &mut Report<'_>) -> HealthCheck {
    let none = HealthCheck::default();
    let at = |name: &str| format!("{field}.{name}");
    let path = settings.path.as_deref().filter(|path| {
        let good = path.starts_with('/') && path.parse::<http::uri::PathAndQuery>().is_ok();
        if !good {
            report.error(
                Code::InvalidPath,
                at("path"),
                format!("`{path}` is not a request target that starts with `/`"),
            );
        }
        good
    });
    let host = settings.host.as_deref().and_then(|host| match Hostname::parse(host) {
        Ok(host) => Some(host),
        Err(error) => {
            report.error(Code::InvalidHostname, at("host"), error.to_string());
            None
        }
    });
    let mut statuses = Vec::new();
    for (i, status) in settings.statuses.iter().flatten().enumerate() {
        statuses.extend(number(Some(*status), 100..=599, &format!("{field}.statuses[{i}]"), report));
    }
    HealthCheck {
        path: path.map(Into::into),
        host,
        statuses,
        interval: positive_duration(settings.interval.as_ref(), &at("interval"), report).unwrap_or(none.interval),
        timeout: positive_duration(settings.timeout.as_ref(), &at("timeout"), report).unwrap_or(none.timeout),
        unhealthy: number(settings.unhealthy, 1..=100, &at("unhealthy"), report).unwrap_or(none.unhealthy),
        healthy: number(settings.healthy, 1..=100, &at("healthy"), report).unwrap_or(none.healthy),
    }
}

fn outlier(settings: Option<&OutlierConfig>, field: &str, report: &mut Report<'_>) -> OutlierDetection {
    let none = OutlierDetection::default();
    let Some(s) = settings else { return none };
    let at = |name: &str| format!("{field}.{name}");
    OutlierDetection {
        consecutive_failures: s.consecutive_failures.unwrap_or(none.consecutive_failures),
        server_errors: s.server_errors.unwrap_or(none.server_errors),
        base_ejection: positive_duration(s.base_ejection.as_ref(), &at("baseEjection"), report)
            .unwrap_or(none.base_ejection),
        max_ejection: positive_duration(s.max_ejection.as_ref(), &at("maxEjection"), report)
            .unwrap_or(none.max_ejection),
        max_percent: number(s.max_percent, 0..=100, &at("maxPercent"), report).unwrap_or(none.max_percent),
    }
}

fn circuit_breaker(settings: Option<&CircuitBreakerConfig>, field: &str, report: &mut Report<'_>) -> CircuitBreaker {
    let none = CircuitBreaker::default();
    let Some(s) = settings else { return none };
    let at = |name: &str| format!("{field}.{name}");
    CircuitBreaker {
        max_connections: number(s.max_connections, 1..=u32::MAX, &at("maxConnections"), report)
            .unwrap_or(none.max_connections),
        max_pending: s.max_pending.unwrap_or(none.max_pending),
        max_requests: number(s.max_requests, 1..=u32::MAX, &at("maxRequests"), report).unwrap_or(none.max_requests),
    }
}

/// Most further tries that may be asked for.
pub(crate) const MAX_ATTEMPTS: u32 = 10;

pub(crate) fn retry(settings: Option<&RetryConfig>, field: &str, report: &mut Report<'_>) -> Retry {
    let none = Retry::default();
    let Some(s) = settings else { return none };
    let at = |name: &str| format!("{field}.{name}");
    let on = |what: RetryOn, default: bool| s.on.as_ref().map_or(default, |list| list.contains(&what));
    let mut codes = Vec::new();
    for (i, code) in s.codes.iter().flatten().enumerate() {
        codes.extend(number(Some(*code), 400..=599, &format!("{field}.codes[{i}]"), report));
    }
    Retry {
        attempts: number(s.attempts, 0..=MAX_ATTEMPTS, &at("attempts"), report).unwrap_or(none.attempts),
        connect_failure: on(RetryOn::ConnectFailure, none.connect_failure),
        reset: on(RetryOn::Reset, none.reset),
        codes,
        backoff: duration_of(s.backoff.as_ref(), &at("backoff"), report).filter(|duration| !duration.is_zero()),
        budget_percent: number(s.budget, 0..=100, &at("budget"), report).unwrap_or(none.budget_percent),
    }
}

pub(crate) fn client_policy(settings: &ClientSettings, field: &str, report: &mut Report<'_>) -> ClientPolicy {
    let texts = settings.ip_allow.as_deref().unwrap_or_default();
    let mut ip_allow = networks(texts, &format!("{field}.ipAllow"), report);
    if ip_allow.is_empty() && !texts.is_empty() {
        // A list of which nothing can be read must not let everybody in: only the unspecified address, which
        // nobody has, is allowed.
        ip_allow.push(std::net::IpAddr::from([0, 0, 0, 0]).into());
    }
    ClientPolicy {
        ip_allow,
        max_body: bytes(settings.max_body.as_ref(), 0..=u64::MAX, &format!("{field}.maxBody"), report),
        escaped_slashes: settings.escaped_slashes.map(crate::edge::escaped_slashes),
    }
}
