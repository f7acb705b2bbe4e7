//! `sluice plugin inspect`: what a module is and costs, and the reasons that the gateway would give.

use crate::project::{all, run, text};
use serde_json::{Value, json};
use sluice_tests::guests;
use std::path::Path;

const CONFIG: &str = "consumers:\n- {name: chef, keys: [open-sesame]}\n";

fn inspect(file: &Path, more: &[&str]) -> (Option<i32>, Value) {
    let mut arguments = vec!["plugin", "inspect", file.to_str().unwrap(), "-o", "json"];
    arguments.extend(more);
    let output = run(&arguments);
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", all(&output)));
    (output.status.code(), report)
}

#[test]
fn a_plugin_that_ships_is_described_and_measured() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.yaml");
    std::fs::write(&config, CONFIG).unwrap();
    let module = guests::shipped("key-auth");
    let config = config.to_str().unwrap();
    let (code, report) = inspect(&module, &["--config", config, "-H", "x-api-key: open-sesame", "--calls", "1000"]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(report["size"], std::fs::metadata(&module).unwrap().len());
    assert_eq!((&report["kind"], &report["abi"]), (&json!("module"), &json!("sluice:plugin@0.1.0")));
    assert_eq!(report["phases"], json!(["request_headers"]));
    let exports = report["exports"].as_array().unwrap();
    assert!(exports.contains(&json!("sluice:plugin/request-headers@0.1.0")), "{report}");
    assert_eq!(report["capabilities"], json!([]));
    assert_eq!(report["image"], true);
    assert_eq!(report["schema"]["required"], json!(["consumers"]));
    assert_eq!(report["measured"]["decision"], "continue");
    let [fresh, pooled] = ["fresh", "pooled"].map(|mode| report["measured"][mode]["ns"].as_u64().unwrap());
    assert!(fresh > pooled && pooled > 100, "a sandbox a request costs more than none: {fresh} and {pooled} ns");

    // For people; and a request that the plugin refuses.
    let output = run(&["plugin", "inspect", module.to_str().unwrap(), "--config", config, "--calls", "100"]);
    let said = text(&output);
    for part in [
        "contract     sluice:plugin@0.1.0",
        "phases       request_headers",
        "decision     respond 401",
        "required: consumers",
    ] {
        assert!(said.contains(part), "no `{part}` in\n{said}");
    }
}

#[test]
fn without_a_configuration_that_it_needs_nothing_is_measured_and_with_a_wrong_one_it_fails() {
    let module = guests::shipped("key-auth");
    let (code, report) = inspect(&module, &[]);
    assert_eq!(code, Some(0), "{report}");
    let reason = report["not_measured"].as_str().unwrap();
    assert!(reason.contains("\"consumers\" is a required property") && reason.contains("--config"), "{reason}");
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.json");
    std::fs::write(&config, r#"{"consumers": 5}"#).unwrap();
    let (code, report) = inspect(&module, &["--config", config.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    assert!(report["errors"][0].as_str().unwrap().starts_with("config.consumers: "), "{report}");
}

#[test]
fn what_the_gateway_would_not_run_is_refused_for_the_same_reason() {
    let folder = tempfile::tempdir().unwrap();
    let foreign = r#"(component (import "wasi:cli/environment@0.2.0" (instance)))"#;
    let cases = [
        (b"#!/bin/sh".to_vec(), "the source is not a WebAssembly module or component"),
        (wat::parse_str(foreign).unwrap(), "it imports wasi:cli/environment@0.2.0, which the gateway does not offer"),
        (wat::parse_str("(component)").unwrap(), "it exports no phase of `sluice:plugin@0.1`"),
        (
            wat::parse_str(r#"(component (@custom "sluice:config-schema" "{\"type\": \"nonsense\"}"))"#).unwrap(),
            "its configuration schema is not a JSON Schema",
        ),
    ];
    for (n, (bytes, reason)) in cases.iter().enumerate() {
        let file = folder.path().join(format!("{n}.wasm"));
        std::fs::write(&file, bytes).unwrap();
        let (code, report) = inspect(&file, &[]);
        assert_eq!(code, Some(1), "{report}");
        assert!(report["errors"][0].as_str().unwrap().contains(reason), "no `{reason}` in {report}");
        assert!(report["measured"].is_null());
    }
    let output = run(&["plugin", "inspect", "/does/not/exist.wasm"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(all(&output).contains("/does/not/exist.wasm"), "{}", all(&output));
}
