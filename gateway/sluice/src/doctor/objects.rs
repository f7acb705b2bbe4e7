//! What the objects say, wherever they come from: problems, certificates, endpoints.

use super::findings::{Check, Level, Report};
use crate::output::counted;
use sluice_model::config::{EXPIRES_SOON_DAYS, EndpointSource, EndpointsKey};
use sluice_model::{Code, Config, Problem, Severity};
use std::collections::BTreeSet;
use std::time::SystemTime;

/// Codes of which the checks here say more.
const TOLD_ELSEWHERE: [Code; 2] = [Code::NoEndpoints, Code::CertificateExpired];

/// Says whether one of them is an error.
pub(super) fn problems(report: &mut Report, check: Check, problems: &[Problem], left_out: &[Code]) {
    for problem in problems {
        // An Ingress without rules has that code too.
        let of_service = problem.object.as_ref().is_some_and(|object| object.kind != sluice_model::Kind::Ingress);
        if (of_service && TOLD_ELSEWHERE.contains(&problem.code)) || left_out.contains(&problem.code) {
            continue;
        }
        let level = match problem.severity {
            Severity::Error => Level::Error,
            Severity::Warning => Level::Warning,
        };
        let place = problem.location.as_ref().map(|place| format!("{place}: ")).unwrap_or_default();
        let object = problem.object.as_ref().map(ToString::to_string).unwrap_or_default();
        let field = if problem.field.is_empty() { String::new() } else { format!("{}: ", problem.field) };
        let message = format!("{} {place}{field}{}", problem.code, problem.message);
        report.add(level, check, object, message, &problem.hint);
    }
}

/// Those of Secrets; the gateway renews its own.
pub(super) fn certificates(report: &mut Report, config: &Config, now: SystemTime) {
    const HINT: &str = "renew it, and put the new chain and key into the Secret: it is shown without a restart";
    let rows = sluice_admin::certificates(config, now);
    let rows: Vec<_> = rows.iter().filter_map(|row| Some((row, row.secret.as_ref()?))).collect();
    for (row, secret) in &rows {
        let object = format!("Secret {secret}");
        let names = if row.names.is_empty() { String::new() } else { format!(" for {}", row.names.join(", ")) };
        if row.days_left < 0 {
            report.error(Check::Certificates, object, format!("its certificate{names} ended at {}", row.ends()), HINT);
        } else if row.not_before > now {
            let message = format!("its certificate{names} is not valid yet");
            report.error(Check::Certificates, object, message, "see the clock of this machine, or of who made it");
        } else if row.days_left <= EXPIRES_SOON_DAYS {
            let left = counted(usize::try_from(row.days_left).unwrap_or_default(), "day");
            let message = format!("its certificate{names} ends in {left}, at {}", row.ends());
            report.warning(Check::Certificates, object, message, HINT);
        }
    }
    if !report.has_found(Check::Certificates)
        && let Some(first) = rows.iter().map(|(row, _)| row.days_left).min()
    {
        let message = format!("{} in use, the first ends in {first} days", counted(rows.len(), "certificate"));
        report.ok(Check::Certificates, "", message);
    }
}

/// `hint`: what to do for the pods of a Service.
pub(super) fn endpoints(report: &mut Report, config: &Config, hint: impl Fn(&EndpointsKey) -> String) {
    let sets = config.backends.values().filter_map(|backend| match &backend.source {
        EndpointSource::Slices(key) => Some(key),
        EndpointSource::Dns { .. } | EndpointSource::ClusterIp { .. } => None,
    });
    let sets: BTreeSet<&EndpointsKey> = sets.collect();
    for key in &sets {
        let endpoints = config.endpoints_of(key);
        if endpoints.iter().any(|endpoint| endpoint.ready) {
            continue;
        }
        let port = if key.port.is_empty() { String::new() } else { format!(" for its port `{}`", key.port) };
        let message = match endpoints.len() {
            0 => format!("a route leads to it, and there is no endpoint{port}"),
            number => format!("a route leads to it, and none of {} is ready{port}", counted(number, "endpoint")),
        };
        report.warning(Check::Endpoints, format!("Service {}", key.service), message, hint(key));
    }
    if !sets.is_empty() && !report.has_found(Check::Endpoints) {
        let message = format!("{} that routes lead to: each has ready endpoints", counted(sets.len(), "Service port"));
        report.ok(Check::Endpoints, "", message);
    }
}
