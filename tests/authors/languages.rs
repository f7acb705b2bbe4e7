//! The same policy in each language, held to the same cases in the gateway's engine.

use crate::project::{ALL_PASSED, all, kept, run, text};
use serde_json::Value;

/// A new project builds and passes; gives what `sluice plugin inspect` says of its module.
fn builds_and_passes(language: &str) -> Value {
    let project = kept("demo", language);
    let tested = run(&["plugin", "test", "--project", project.to_str().unwrap()]);
    assert!(tested.status.success() && text(&tested).contains(ALL_PASSED), "{}", all(&tested));
    let (module, config) = (project.join("build/plugin.wasm"), project.join("config.yaml"));
    let inspected = run(&[
        "plugin",
        "inspect",
        module.to_str().unwrap(),
        "--config",
        config.to_str().unwrap(),
        "--header",
        "x-tenant: acme",
        "--calls",
        "500",
        "--output",
        "json",
    ]);
    assert!(inspected.status.success(), "{}", all(&inspected));
    let report: Value = serde_json::from_slice(&inspected.stdout).unwrap();
    assert_eq!(report["phases"], serde_json::json!(["request_headers", "response_headers"]));
    assert_eq!(report["schema"]["required"], serde_json::json!(["header"]));
    assert_eq!(report["measured"]["decision"], "continue");
    assert!(report["measured"]["pooled"]["ns"].as_u64().unwrap() > 0, "{report}");
    report
}

/// Its component has 18 MB, which a host without optimisation compiles for minutes: `cargo test --release` for it.
#[test]
#[ignore = "a debug build compiles a Python component for minutes"]
fn python() {
    let report = builds_and_passes("python");
    assert_eq!(report["image"], false, "an interpreter's memory can't be made an image: {report}");
    assert!(report["measured"]["fresh"].is_null());
}

/// Its component has 12 MB.
#[test]
#[ignore = "a debug build compiles a JavaScript engine for minutes"]
fn javascript() {
    let report = builds_and_passes("javascript");
    assert_eq!(report["imports"].as_array().unwrap().iter().find(|name| name.as_str().unwrap().contains("wasi")), None);
}

/// As JavaScript's.
#[test]
#[ignore = "a debug build compiles a JavaScript engine for minutes"]
fn typescript() {
    builds_and_passes("typescript");
}

/// A filter of the proxy-wasm ABI, which meets the same cases.
#[test]
fn go() {
    let project = kept("demo", "go");
    let tested = run(&["plugin", "test", "--project", project.to_str().unwrap()]);
    assert!(tested.status.success() && text(&tested).contains(ALL_PASSED), "{}", all(&tested));
    let inspected =
        run(&["plugin", "inspect", project.join("build/plugin.wasm").to_str().unwrap(), "--output", "json"]);
    let report: Value = serde_json::from_slice(&inspected.stdout).unwrap();
    assert_eq!(report["kind"], "proxy-wasm", "{report}");
    assert_eq!(report["schema"]["required"], serde_json::json!(["header"]), "{report}");
}

#[test]
fn c() {
    let report = builds_and_passes("c");
    assert_eq!(report["image"], true, "{report}");
    assert!(report["measured"]["fresh"]["ns"].as_u64().unwrap() > 0, "{report}");
}

#[test]
fn all_languages_have_the_same_cases_schema_and_world() {
    let root = sluice_tests::binary::root().join("sdk/templates");
    let read = |file: &str| std::fs::read_to_string(root.join(file)).unwrap();
    for language in ["javascript", "typescript", "python"] {
        assert_eq!(read(&format!("{language}/world.wit")), read("c/world.wit"), "{language}");
    }
    for language in ["rust", "javascript", "typescript", "python", "c", "go"] {
        for file in ["tests", "schema.json"] {
            assert!(!root.join(language).join(file).exists(), "{language} has its own {file}");
        }
    }
}
