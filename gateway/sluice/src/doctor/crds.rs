//! Whether the CustomResourceDefinitions are installed, and which version of them.

use super::findings::{Check, Report};
use futures::future::join_all;
use serde_json::Value;
use sluice_controller::{Api, Bundle, Failure, collection};
use sluice_model::Kind;
use sluice_resources::versions;
use sluice_sources::kubernetes::{WatchState, WatchStatus};
use std::collections::BTreeSet;

const GATEWAY_API: &str = Kind::Gateway.group();

/// Fields that are named one by one.
const FIELDS_NAMED: usize = 3;

/// What the API server says of the CRD of each kind that takes one.
pub(super) type Found = Vec<(Kind, Result<Value, Failure>)>;

pub(super) async fn ask(api: &Api) -> Found {
    let all = collection("apiextensions.k8s.io/v1", "", "customresourcedefinitions");
    let questions = Kind::ALL.into_iter().filter(|kind| kind.is_custom()).map(|kind| {
        let path = format!("{all}/{}", name(kind));
        async move { (kind, api.get(&path).await) }
    });
    join_all(questions).await
}

fn name(kind: Kind) -> String {
    format!("{}.{}", kind.plural(), kind.group())
}

/// `watches`: how reading fares, which tells what is served where the CRDs themselves may not be read.
pub(super) fn report(report: &mut Report, found: &Found, watches: &[WatchStatus]) {
    let mut bundles = BTreeSet::new();
    let mut hidden = None;
    let mut ours = 0;
    let mut missing = Vec::new();
    for (kind, answer) in found {
        let not_installed =
            || watches.iter().any(|watch| watch.kind == *kind && watch.state == WatchState::NotInstalled);
        match answer {
            Ok(crd) => {
                served(report, *kind, crd);
                if kind.group() == GATEWAY_API || kind.is_experimental() {
                    bundles.extend(Bundle::of(crd).map(|bundle| (bundle.version, bundle.channel)));
                } else {
                    ours += usize::from(same_fields(report, *kind, crd));
                }
            }
            Err(Failure::NotFound) if kind.is_experimental() => {}
            Err(Failure::NotFound) => missing.push(*kind),
            Err(_) if not_installed() => missing.extend(Some(*kind).filter(|kind| !kind.is_experimental())),
            Err(failure) => hidden = Some(failure),
        }
    }
    for (group, hint) in [(GATEWAY_API, install_hint()), (Kind::Plugin.group(), OWN_HINT)] {
        let kinds: Vec<&str> = missing.iter().filter(|kind| kind.group() == group).map(|kind| kind.name()).collect();
        if !kinds.is_empty() {
            report.warning(Check::Crds, kinds.join(", "), format!("not installed ({group}): none is read"), hint);
        }
    }
    if let Some(failure) = hidden {
        let hint = "ask as an account that may get customresourcedefinitions";
        report.warning(Check::Crds, "CustomResourceDefinitions", format!("cannot be looked at: {failure}"), hint);
    }
    for (version, channel) in &bundles {
        let message = format!("version {version}, channel {channel}");
        if (Bundle { version: version.clone(), channel: channel.clone() }).is_known() {
            report.ok(Check::Crds, "Gateway API", message);
        } else {
            let hint = format!("Sluice was tried with others and reads what it knows of this one; {}", install_hint());
            report.warning(Check::Crds, "Gateway API", message, hint);
        }
    }
    if bundles.len() > 1 {
        let hint = format!("install all of one version and channel: {}", install_hint());
        report.warning(Check::Crds, "Gateway API", "its CRDs are of several versions or channels", hint);
    }
    if ours > 0 && ours == Kind::ALL.into_iter().filter(|kind| kind.group() == Kind::Plugin.group()).count() {
        report.ok(Check::Crds, Kind::Plugin.group(), "its CRDs are those of this version of Sluice");
    }
}

fn install_hint() -> &'static str {
    "kubectl apply --server-side -f https://github.com/kubernetes-sigs/gateway-api/releases/download/v1.6.3/standard-install.yaml"
}

const OWN_HINT: &str = "sluice crds | kubectl apply --server-side -f -";

/// Whether one of the versions that are read is served.
fn served(report: &mut Report, kind: Kind, crd: &Value) {
    let all = crd.pointer("/spec/versions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let served = all.iter().filter(|version| version.get("served").and_then(Value::as_bool) == Some(true));
    let served: Vec<&str> = served.filter_map(|version| version.get("name")?.as_str()).collect();
    if !versions(kind).iter().any(|version| served.contains(version)) {
        let message =
            format!("served as {}; Sluice reads {}: no {kind} is read", served.join(", "), versions(kind).join(", "));
        let hint = if kind.group() == Kind::Plugin.group() { OWN_HINT } else { install_hint() };
        report.error(Check::Crds, kind, message, hint);
    }
}

/// Whether the installed CRD has all fields of this version's.
fn same_fields(report: &mut Report, kind: Kind, installed: &Value) -> bool {
    let crds = sluice_resources::crds();
    let own = crds.iter().find(|crd| crd.spec.names.kind == kind.name());
    let Some(own) = own.and_then(|crd| serde_json::to_value(crd).ok()) else { return true };
    let installed = fields(installed);
    let lacking: Vec<String> = fields(&own).difference(&installed).cloned().collect();
    if lacking.is_empty() {
        return true;
    }
    let named = lacking.iter().take(FIELDS_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    let more = lacking.len().saturating_sub(FIELDS_NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let message = format!("the installed {} is older than this Sluice: it lacks {named}{more}", name(kind));
    report.warning(Check::Crds, kind, message, OWN_HINT);
    false
}

/// The fields of every version, by path: `spec.backend.retry`.
fn fields(crd: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let versions = crd.pointer("/spec/versions").and_then(Value::as_array);
    for schema in versions.into_iter().flatten().filter_map(|version| version.pointer("/schema/openAPIV3Schema")) {
        gather(schema, "", &mut found);
    }
    found
}

fn gather(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    for (name, inner) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        gather(inner, &path, found);
        found.insert(path);
    }
    for inner in ["items", "additionalProperties"].iter().filter_map(|of| schema.get(of)) {
        gather(inner, path, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_crd_of_an_older_sluice_is_told_by_the_fields_that_it_lacks() {
        let own = sluice_resources::crds().into_iter().find(|crd| crd.spec.names.kind == "Plugin").unwrap();
        let mut crd = serde_json::to_value(&own).unwrap();
        let mut report = Report::default();
        assert!(same_fields(&mut report, Kind::Plugin, &crd));
        let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
        let removed = crd.pointer_mut(spec).unwrap().as_object_mut().unwrap().remove("source");
        assert!(removed.is_some());
        assert!(!same_fields(&mut report, Kind::Plugin, &crd));
        let finding = report.findings.pop().unwrap();
        assert!(finding.message.contains("lacks spec.source") && finding.hint.contains("sluice crds"), "{finding:?}");
    }

    #[test]
    fn a_kind_of_which_no_known_version_is_served_is_an_error() {
        let mut report = Report::default();
        let crd = |served: bool| json!({"spec": {"versions": [{"name": "v1", "served": served}, {"name": "v9", "served": true}]}});
        super::served(&mut report, Kind::Gateway, &crd(true));
        assert!(report.findings.is_empty());
        super::served(&mut report, Kind::Gateway, &crd(false));
        assert!(report.findings[0].message.contains("served as v9; Sluice reads v1"), "{:?}", report.findings);
    }
}
