//! Bad input is a problem with a code and a place, in `check`, in the log once, in a metric and on the admin page; the
//! rest of the folder goes on serving.

use crate::shop::{HOST, Shop, backend_of};
use sluice_tests::certificate::Authority;
use sluice_tests::objects::{class, gateway, http_route, join, plugin, plugin_on_route, route_to, secret_of, service};
use sluice_tests::{Folder, Gateway, binary, guests, ports, raw, wait};
use std::process::Command;

/// What is wrong, and where it must be found.
struct Bad {
    code: &'static str,
    /// Part of the field path; empty where there is none.
    field: &'static str,
    yaml: String,
    /// Further files.
    files: Vec<(&'static str, Vec<u8>)>,
    /// What `check` ends with.
    exit: i32,
}

impl Bad {
    fn new(code: &'static str, field: &'static str, yaml: impl Into<String>) -> Bad {
        Bad { code, field, yaml: yaml.into(), files: Vec::new(), exit: 1 }
    }

    fn warning(code: &'static str, field: &'static str, yaml: impl Into<String>) -> Bad {
        Bad { exit: 0, ..Bad::new(code, field, yaml) }
    }

    fn file(mut self, name: &'static str, content: impl Into<Vec<u8>>) -> Bad {
        self.files.push((name, content.into()));
        self
    }
}

/// Puts the bad beside a good route that serves, and looks in all five places.
async fn shown_and_survived(bad: Bad) {
    let shop = Shop::start(&["good"], &route_to("good", &[HOST], "good")).await;
    for (name, content) in &bad.files {
        shop.folder.write(name, content);
    }
    shop.folder.write("bad.yaml", &bad.yaml);
    let (code, field) = (bad.code, bad.field);

    wait::until(&format!("{code} on the admin page"), || async {
        let (_, problems) = shop.gateway.admin_get("/problems").await.ok()?;
        problems.contains(code).then_some(())
    })
    .await;
    let (_, page) = shop.gateway.admin_get("/").await.unwrap();
    assert!(page.contains(code), "{code} is not on the status page");
    wait::until(&format!("{code} in the metric"), || async {
        (shop.gateway.metric("sluice_config_problems", &[code]).await >= 1.0).then_some(())
    })
    .await;
    let logged = wait::until(&format!("{code} in the log"), || async {
        let lines: Vec<_> = shop.gateway.log().into_iter().filter(|l| l.contains(code)).collect();
        (!lines.is_empty()).then_some(lines)
    })
    .await;
    assert_eq!(backend_of(&shop.get("/").await), "good", "{code} took a good route with it");

    let output = Command::new(binary::sluice()).args(["check", "-o", "json"]).arg(shop.folder.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(bad.exit), "what check thinks of {code}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let problems = report["problems"].as_array().unwrap();
    let found: Vec<_> = problems.iter().filter(|p| p["code"] == code).collect();
    assert!(!found.is_empty(), "check does not know {code}: {report:#}");
    let here = found.iter().any(|p| {
        p["field"].as_str().unwrap().contains(field)
            && p["location"]["file"].as_str().is_some_and(|f| f.contains("bad.yaml"))
    });
    assert!(here, "no {code} at {field} in bad.yaml: {found:#?}");
    let distinct: std::collections::BTreeSet<_> = found.iter().map(|p| p.to_string()).collect();
    assert!(logged.len() <= distinct.len(), "{code} was logged {} times: {logged:#?}", logged.len());
}

#[tokio::test]
async fn text_that_is_no_yaml() {
    shown_and_survived(Bad::new("SLUICE-P001", "", "a: [b\nc: }\n")).await;
}

#[tokio::test]
async fn a_document_that_is_no_object() {
    shown_and_survived(Bad::new("SLUICE-P002", "", "just: text\n")).await;
}

#[tokio::test]
async fn an_unknown_kind() {
    let yaml = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {}\n";
    shown_and_survived(Bad::warning("SLUICE-P003", "kind", yaml)).await;
}

#[tokio::test]
async fn an_unknown_field_is_named_and_ignored() {
    let yaml = http_route(
        "typo",
        &["typo.example"],
        "  - backendRefs: [{name: good, port: 80}]\n    tiemouts: {request: 1s}\n",
    );
    let shop = Shop::start(&["good"], &join([route_to("good", &[HOST], "good"), yaml.clone()])).await;
    assert_eq!(backend_of(&shop.send("GET", "/", "typo.example", "").await), "good");
    shown_and_survived(Bad::warning("SLUICE-P004", "spec.rules[0].tiemouts", yaml)).await;
}

/// A guard that is lost by a typo would be an open door: while running the former guard goes on, and at a start, when
/// there is none, the door is shut.
#[tokio::test]
async fn a_guard_that_cannot_be_read_leaves_no_route_open() {
    let guard = |ip_allow: &str| {
        format!(
            "apiVersion: sluice.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: guard, namespace: default}}\nspec:\n  targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: guarded}}]\n  client: {{ipAllow: {ip_allow}}}\n"
        )
    };
    let guarded = http_route("guarded", &["guarded.example"], "  - backendRefs: [{name: good, port: 80}]\n");
    let more = |policy: &str| join([route_to("good", &[HOST], "good"), guarded.clone(), policy.to_owned()]);
    let shop = Shop::start(&["good"], &more(&guard("[192.0.2.0/24]"))).await;
    assert_eq!(shop.send("GET", "/", "guarded.example", "").await.status, 403);
    for (what, typo, code) in [
        ("a value", guard("{cidr: 192.0.2.0/24}"), "SLUICE-P005"),
        ("the kind", guard("[192.0.2.0/24]").replace("kind: TrafficPolicy", "kind: TraficPolicy"), "SLUICE-P003"),
    ] {
        shop.folder.write("more.yaml", more(&typo));
        wait::until(code, || async {
            let (_, problems) = shop.gateway.admin_get("/problems").await.ok()?;
            problems.contains(code).then_some(())
        })
        .await;
        let answer = shop.send("GET", "/", "guarded.example", "").await;
        assert_eq!(answer.status, 403, "{what} was mistyped, and the guard is gone: {}", answer.text());
    }

    shop.folder.write("more.yaml", more(&guard("{cidr: 192.0.2.0/24}")));
    let Shop { gateway, folder, authority, backends, http, https } = shop;
    gateway.stop().await;
    let shop = Shop { gateway: Gateway::start(&folder).await, folder, authority, backends, http, https };
    assert_eq!(shop.send("GET", "/", "guarded.example", "").await.status, 503);
    let line = shop.gateway.logged(|line| line["status"] == 503).await;
    assert_eq!(line["reason"], "policy_unreadable");
    assert_eq!(backend_of(&shop.get("/").await), "good");
}

#[tokio::test]
async fn a_value_of_the_wrong_type() {
    let yaml = http_route("bad", &[], "  - backendRefs: [{name: good, port: eighty}]\n");
    shown_and_survived(Bad::new("SLUICE-P005", "spec.rules[0].backendRefs[0].port", yaml)).await;
}

#[tokio::test]
async fn a_missing_service() {
    let yaml = http_route("bad", &["bad.example"], "  - backendRefs: [{name: missing, port: 80}]\n");
    shown_and_survived(Bad::new("SLUICE-P201", "spec.rules[0].backendRefs[0]", yaml)).await;
}

#[tokio::test]
async fn a_missing_secret() {
    let yaml = gateway(ports::free(), Some((ports::free(), "missing"))).replace("name: edge", "name: second");
    shown_and_survived(Bad::new("SLUICE-P205", "certificateRefs[0]", yaml)).await;
}

fn second_gateway() -> String {
    gateway(ports::free(), Some((ports::free(), "bad"))).replace("name: edge", "name: second")
}

#[tokio::test]
async fn a_certificate_that_is_none() {
    let secret = secret_of("bad", "-----BEGIN CERTIFICATE-----\nbm90IG9uZQ==\n-----END CERTIFICATE-----\n", "no key");
    shown_and_survived(Bad::new("SLUICE-P304", "", join([second_gateway(), secret]))).await;
}

#[tokio::test]
async fn a_certificate_that_does_not_match_its_key() {
    let authority = Authority::default();
    let (one, two) = (authority.leaf(&[HOST]), authority.leaf(&[HOST]));
    let secret = secret_of("bad", &one.certificate_pem, &two.key_pem);
    shown_and_survived(Bad::new("SLUICE-P305", "", join([second_gateway(), secret]))).await;
}

#[tokio::test]
async fn a_broken_certificate_leaves_the_former_one_in_service() {
    let shop = Shop::start(&["good"], &route_to("good", &[HOST], "good")).await;
    let client = shop.authority.client(&["http/1.1"]);
    let yaml = std::fs::read_to_string(shop.folder.path().join("shop.yaml")).unwrap();
    let documents: Vec<_> =
        yaml.split("\n---\n").filter(|d| !d.contains("kind: Secret")).map(|d| format!("{d}\n")).collect();
    let (one, two) = (shop.authority.leaf(&[HOST]), shop.authority.leaf(&[HOST]));
    let broken = secret_of("shop", &one.certificate_pem, &two.key_pem);
    shop.folder.write("shop.yaml", join(documents.into_iter().chain([broken])));
    wait::until("the problem", || async {
        let (_, problems) = shop.gateway.admin_get("/problems").await.ok()?;
        problems.contains("SLUICE-P305").then_some(())
    })
    .await;
    let mut connection = raw::Client::connect_tls(shop.https, HOST, client).await.expect("the former certificate");
    connection.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await.unwrap();
    assert_eq!(backend_of(&connection.response().await.unwrap()), "good");
}

#[tokio::test]
async fn two_listeners_that_conflict() {
    let port = ports::free();
    let yaml = format!(
        "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: second, namespace: default}}
spec:
  gatewayClassName: sluice
  listeners:
  - {{name: one, port: {port}, protocol: HTTP, hostname: same.example}}
  - {{name: two, port: {port}, protocol: HTTP, hostname: same.example}}
"
    );
    shown_and_survived(Bad::new("SLUICE-P301", "spec.listeners[1]", yaml)).await;
}

/// The older Gateway serves on, and the other one's listeners that are in nobody's way do as well.
#[tokio::test]
async fn a_listener_that_conflicts_with_another_gateways_takes_nothing_from_it() {
    let shop = Shop::start(&["good", "other"], &route_to("good", &[HOST], "good")).await;
    let port = ports::free();
    let both = format!("  listeners:\n  - {{name: taken, port: {}, protocol: HTTP}}\n  - {{name: free", shop.http);
    let second =
        gateway(port, None).replace("name: edge", "name: second").replace("  listeners:\n  - {name: http", &both);
    let route = route_to("second", &[], "other").replace("{name: edge}", "{name: second}");
    shop.folder.write("second.yaml", join([second, route]));
    let problem = wait::until("the problem", || async {
        let (_, problems) = shop.gateway.admin_get("/problems").await.ok()?;
        let problems: Vec<serde_json::Value> = serde_json::from_str(&problems).ok()?;
        problems.into_iter().find(|problem| problem["code"] == "SLUICE-P301")
    })
    .await;
    assert_eq!(problem["field"], "spec.listeners[0]", "{problem}");
    assert!(problem["location"]["file"].as_str().is_some_and(|file| file.contains("second.yaml")), "{problem}");
    let free = wait::until("the listener without a conflict", || async { raw::get(port, HOST, "/").await.ok() }).await;
    assert_eq!(backend_of(&free), "other");
    assert_eq!(backend_of(&shop.get("/").await), "good");
    assert_eq!(shop.send("GET", "/", "else.example", "").await.status, 404, "the second one's route is served there");
}

/// Only a running gateway can know this one.
#[tokio::test]
async fn a_port_that_cannot_be_bound_is_shown_and_taken_once_it_is_free() {
    let shop = Shop::start(&["good", "other"], &route_to("good", &[HOST], "good")).await;
    let port = ports::free();
    let taken = std::net::TcpListener::bind(("0.0.0.0", port)).unwrap();
    let taken6 = std::net::TcpListener::bind(("::", port));
    let second = gateway(port, None).replace("name: edge", "name: second");
    let route = route_to("second", &[], "good").replace("{name: edge}", "{name: second}");
    shop.folder.write("second.yaml", join([second, route]));
    let problem = wait::until("the problem", || async {
        let (_, problems) = shop.gateway.admin_get("/problems").await.ok()?;
        let problems: Vec<serde_json::Value> = serde_json::from_str(&problems).ok()?;
        problems.into_iter().find(|problem| problem["code"] == "SLUICE-P308")
    })
    .await;
    assert_eq!(problem["field"], "spec.listeners[name=http].port");
    assert!(problem["location"]["file"].as_str().is_some_and(|file| file.contains("second.yaml")), "{problem}");
    assert!(shop.gateway.admin_get("/").await.unwrap().1.contains("SLUICE-P308"), "it is not on the status page");
    assert_eq!(shop.gateway.metric("sluice_config_problems", &["SLUICE-P308"]).await, 1.0);
    // Each change tries again as well.
    for name in ["other", "good"] {
        shop.folder.write("more.yaml", route_to("good", &[HOST], name));
        shop.until("the change", "/", |a| a.status == 200 && backend_of(a) == name).await;
    }
    drop((taken, taken6));
    wait::until("the port", || async { raw::get(port, HOST, "/").await.ok().filter(|a| a.status == 200) }).await;
    wait::until("the problem to go", || async {
        let (_, problems) = shop.gateway.admin_get("/problems").await.ok()?;
        (!problems.contains("SLUICE-P308")).then_some(())
    })
    .await;
    let logged = wait::until("the log to say so", || async {
        let lines: Vec<_> = shop.gateway.log().into_iter().filter(|line| line.contains("SLUICE-P308")).collect();
        lines.last()?.contains("solved: ").then_some(lines)
    })
    .await;
    assert_eq!(logged.len(), 2, "once when it appears, once when it is gone: {logged:#?}");
}

#[tokio::test]
async fn a_regular_expression_that_is_invalid_or_too_large() {
    for pattern in ["(unclosed", "(?=look)", "(a{1000}){1000}"] {
        let yaml = http_route(
            "bad",
            &["bad.example"],
            &format!(
                "  - matches: [{{path: {{type: RegularExpression, value: \"{pattern}\"}}}}]\n    backendRefs: [{{name: good, port: 80}}]\n"
            ),
        );
        shown_and_survived(Bad::new("SLUICE-P103", "spec.rules[0].matches[0].path", yaml)).await;
    }
}

fn with_plugin(file: &str, config: &str) -> String {
    join([
        plugin("bad", file, ""),
        http_route("bad", &["bad.example"], "  - backendRefs: [{name: good, port: 80}]\n"),
        plugin_on_route("bad", "bad", "bad", config),
    ])
}

#[tokio::test]
async fn a_plugin_whose_file_is_missing() {
    shown_and_survived(Bad::new("SLUICE-P401", "spec.source", with_plugin("missing.wasm", "{}"))).await;
}

#[tokio::test]
async fn a_plugin_that_does_not_compile() {
    let broken = guests::with_broken_code(std::fs::read(guests::module("probe")).unwrap());
    for module in [b"no wasm at all".to_vec(), broken] {
        let bad = Bad::new("SLUICE-P402", "spec.source", with_plugin("bad.wasm", "{name: x}"));
        shown_and_survived(bad.file("bad.wasm", module)).await;
    }
}

/// A probe that does this when it is configured.
fn probe_that(what: &str, code: &'static str) -> Bad {
    let yaml = with_plugin("bad.wasm", &format!("{{name: x, onConfigure: {what}}}"));
    Bad::new(code, "spec.plugins[0].config", yaml).file("bad.wasm", std::fs::read(guests::module("probe")).unwrap())
}

#[tokio::test]
async fn a_plugin_that_traps_in_configure() {
    shown_and_survived(probe_that("trap", "SLUICE-P404")).await;
}

#[tokio::test]
async fn a_plugin_that_refuses_its_configuration() {
    shown_and_survived(probe_that("refuse", "SLUICE-P403")).await;
}

#[tokio::test]
async fn a_start_on_a_folder_with_nothing_good_in_it_still_answers_probes() {
    let folder = Folder::new();
    folder.write("bad.yaml", "a: [b\n");
    let gateway = Gateway::start(&folder).await;
    assert_eq!(gateway.public_get("/livez").await.unwrap().0, 200);
    // And it serves as soon as there is something to serve.
    let port = ports::free();
    let backend = sluice_tests::Backend::echo("late").await;
    folder.write(
        "bad.yaml",
        join([
            class(),
            sluice_tests::objects::gateway(port, None),
            route_to("all", &[], "late"),
            service("late", &[backend.address]),
        ]),
    );
    wait::until("the first route", || async { raw::get(port, HOST, "/").await.ok().filter(|a| a.status == 200) }).await;
}
