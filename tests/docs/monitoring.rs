//! Alerts, dashboard and docs name only series that the program has, with labels that they have.

use serde_json::Value;
use sluice_sources::yaml;
use sluice_tests::binary;
use std::collections::BTreeSet;
use std::path::Path;

fn read(file: &str) -> String {
    std::fs::read_to_string(binary::root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Every word of the program's own sources: names of series, and of their labels, are among them.
fn words() -> BTreeSet<String> {
    fn gather(folder: &Path, words: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                gather(&path, words);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let parts = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
                words.extend(parts.filter(|part| !part.is_empty()).map(str::to_owned));
            }
        }
    }
    let mut words = BTreeSet::new();
    gather(&binary::root().join("gateway"), &mut words);
    words
}

/// The names in a text that begin as ours do.
fn series(text: &str) -> BTreeSet<&str> {
    let parts = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    parts.filter(|part| part.starts_with("sluice_") && part.len() > "sluice_".len()).collect()
}

/// What a series is registered as: the library adds what a kind of metric and a unit add.
fn is_known(series: &str, words: &BTreeSet<String>) -> bool {
    let kinds = ["_total", "_bucket", "_count", "_sum", ""];
    let units = ["_seconds", "_bytes", ""];
    kinds.iter().filter_map(|kind| series.strip_suffix(kind)).any(|name| {
        units.iter().filter_map(|unit| name.strip_suffix(unit)).any(|name| {
            let prefixes = ["sluice_upstream_", "sluice_", ""];
            prefixes.iter().filter_map(|prefix| name.strip_prefix(prefix)).any(|name| words.contains(name))
        })
    })
}

#[test]
fn alerts_dashboard_and_docs_name_series_that_there_are() {
    let words = words();
    for file in
        ["deploy/helm/sluice/files/alerts.yaml", "deploy/helm/sluice/files/dashboard.json", "docs/operations.md"]
    {
        let text = read(file);
        let named = series(&text);
        assert!(named.len() > 10, "{file}: {named:?}");
        let unknown: Vec<_> = named.into_iter().filter(|series| !is_known(series, &words)).collect();
        assert!(unknown.is_empty(), "{file} names series that nothing registers: {unknown:?}");
    }
    assert!(!is_known("sluice_of_no_kind_total", &words));
}

#[test]
fn alerts_have_all_that_an_operator_is_told() {
    let alerts = yaml::load(&read("deploy/helm/sluice/files/alerts.yaml")).unwrap()[0].to_json();
    let docs = read("docs/operations.md");
    let words = words();
    let rules = alerts["groups"][0]["rules"].as_array().unwrap();
    for rule in rules {
        let text = |pointer: &str| {
            rule.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("{pointer}: {rule}"))
        };
        let severities = ["critical", "warning", "info"];
        assert!(severities.contains(&text("/labels/severity")), "{rule}");
        assert!(!text("/annotations/summary").is_empty() && !text("/annotations/description").is_empty());
        let expression = text("/expr");
        assert!(
            series(expression).iter().all(|series| docs.contains(series)),
            "docs/operations.md explains no {expression}"
        );
        // `pod` is Prometheus' own.
        for by in expression.split("by (").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let labels = by.split(',').map(str::trim);
            let unknown: Vec<_> = labels.filter(|label| *label != "pod" && !words.contains(*label)).collect();
            assert!(unknown.is_empty(), "{expression}: {unknown:?} is no label");
        }
        assert_eq!(expression.matches('(').count(), expression.matches(')').count(), "{expression}");
    }
}
