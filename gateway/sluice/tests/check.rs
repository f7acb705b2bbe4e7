//! What `sluice check` prints, word for word, and its exit codes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::process::{Command, Output};

fn check(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sluice"))
        .arg("check")
        .arg(".")
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("the binary starts")
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

const BAD: &str = "\
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: web
  namespace: shop
spec:
  rules:
  - host: a..b
    http:
      paths:
      - path: /
        pathType: Prefix
        backend: {service: {name: web, port: {number: 80}}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  prots: []
";

#[test]
fn problems_are_printed_in_the_order_of_the_files_with_line_object_field_and_way_out() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("bad.yaml"), BAD).unwrap();
    std::fs::write(folder.path().join("broken.yaml"), "a: [b\n").unwrap();
    let output = check(folder.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    let text = text(&output);
    assert!(!text.contains('\x1b'), "no colours where nobody looks");
    let heads: Vec<&str> = text.lines().filter(|line| !line.starts_with(' ')).collect();
    assert_eq!(
        heads,
        [
            "./bad.yaml:8: error SLUICE-P101 Ingress shop/web spec.rules[0].host",
            "./bad.yaml:19: warning SLUICE-P004 Service shop/web spec.prots",
            "./broken.yaml:1: error SLUICE-P001",
            "2 objects in 2 files: 2 errors, 1 warning",
        ],
        "{text}"
    );
    for (code, hint) in [("P101", "use a DNS name"), ("P004", "correct the spelling"), ("P001", "fix the syntax")] {
        assert!(text.contains(hint), "{code} says no way out: {text}");
    }
}

#[test]
fn json_holds_the_same_for_programs() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("bad.yaml"), BAD).unwrap();
    let output = check(folder.path(), &["-o", "json"]);
    let report: serde_json::Value = serde_json::from_str(&text(&output)).unwrap();
    assert_eq!((&report["errors"], &report["warnings"]), (&1.into(), &1.into()), "{report}");
    let first = &report["problems"][0];
    assert_eq!(first["code"], "SLUICE-P101");
    assert_eq!(first["object"], serde_json::json!({"kind": "Ingress", "namespace": "shop", "name": "web"}));
    assert_eq!(first["location"], serde_json::json!({"file": "./bad.yaml", "line": 8}));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn good_files_and_warnings_alone_are_success_and_a_wrong_command_line_is_two() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(check(folder.path(), &[]).status.code(), Some(0));
    std::fs::write(folder.path().join("warning.yaml"), "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n").unwrap();
    let output = check(folder.path(), &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("warning SLUICE-P003"), "{}", text(&output));
    assert_eq!(check(folder.path(), &["--no-such-option"]).status.code(), Some(2));
}

const ROUTES: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  gatewayClassName: sluice
  listeners:
  - {name: web, port: 8080, protocol: HTTP}
  - {name: odd, port: 8081, protocol: SCTP}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{name: edge, sectionName: web}]
  rules:
  - backendRefs: [{name: nobody, port: 80}]
";

#[test]
fn conditions_are_those_that_a_controller_would_write() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("routes.yaml"), ROUTES).unwrap();
    let printed = |arguments: &[&str]| {
        let text = text(&check(folder.path(), arguments));
        let lines = text.lines().filter_map(|line| line.strip_prefix("condition "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let bad = [
        "Gateway shop/edge Accepted: True ListenersNotValid",
        "Gateway shop/edge (listener odd) Accepted: False UnsupportedProtocol",
        "HTTPRoute shop/web (Gateway shop/edge web) ResolvedRefs: False BackendNotFound",
    ];
    assert_eq!(printed(&[]), bad);
    let all = printed(&["--conditions"]);
    assert!(bad.iter().all(|line| all.iter().any(|printed| printed == line)), "{all:#?}");
    assert!(all.contains(&"HTTPRoute shop/web (Gateway shop/edge web) Accepted: True Accepted".to_owned()), "{all:#?}");
    // For programs all of them, with their messages.
    let report: serde_json::Value = serde_json::from_str(&text(&check(folder.path(), &["-o", "json"]))).unwrap();
    let route = report["conditions"].as_array().unwrap().iter().find(|told| told["object"]["kind"] == "HTTPRoute");
    let route = route.unwrap();
    assert_eq!(route["part"], "Gateway shop/edge web");
    let condition = &route["conditions"][1];
    assert_eq!((&condition["type"], &condition["status"]), (&"ResolvedRefs".into(), &"False".into()), "{condition}");
    assert!(condition["message"].as_str().unwrap().contains("nobody"), "{condition}");
}

/// Two Gateways want one port, and nobody wrote their class.
#[test]
fn a_cluster_gives_each_gateway_an_address_of_its_own_and_has_no_class_that_nobody_wrote() {
    const CLASS: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: sluice}
spec: {controllerName: sluice.dev/gateway-controller}
";
    let gateway = |name: &str| ROUTES.split("---").next().unwrap().replace("name: edge", &format!("name: {name}"));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("two.yaml"), [gateway("one"), gateway("two")].join("---\n")).unwrap();
    let says = |what: &str, arguments: &[&str]| text(&check(folder.path(), arguments)).contains(what);
    assert!(says("(listener web) Accepted: False HostnameConflict", &[]));
    assert!(says("there is no GatewayClass `sluice`", &["--cluster"]));
    std::fs::write(folder.path().join("class.yaml"), CLASS).unwrap();
    assert!(!says("there is no GatewayClass `sluice`", &["--cluster"]));
    assert!(!says("HostnameConflict", &["--cluster"]));
}
