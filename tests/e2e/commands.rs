//! `sluice check`, `explain` and `get`, and what their exit codes say.

use crate::shop::{HOST, Shop};
use serde_json::Value;
use sluice_tests::objects::{class, gateway, http_route, join, route_to, service};
use sluice_tests::{Backend, Folder, binary, ports, wait};
use std::process::{Command, Output};

pub(crate) fn sluice(arguments: &[&str]) -> Output {
    Command::new(binary::sluice()).args(arguments).output().expect("the binary starts")
}

pub(crate) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What it said beside its result.
pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn check_of_a_good_folder_is_silent_success_and_of_a_bad_one_says_all_at_once() {
    let folder = Folder::new();
    let endpoint = "127.0.0.1:1".parse().unwrap();
    folder.write(
        "good.yaml",
        join([class(), gateway(8080, None), route_to("all", &[], "one"), service("one", &[endpoint])]),
    );
    let path = folder.path().display().to_string();
    let output = sluice(&["check", &path]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));

    folder.write(
        "bad.yaml",
        join([
            http_route("two", &["a..b"], "  - backendRefs: [{name: missing, port: 80}]\n"),
            "apiVersion: v1\nkind: Service\nmetadata: {name: three}\nspec: {prots: []}\n".to_owned(),
        ]),
    );
    let output = sluice(&["check", &path, "-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_str(&text(&output)).unwrap();
    let problems = report["problems"].as_array().unwrap();
    let codes: Vec<_> = problems.iter().map(|p| p["code"].as_str().unwrap()).collect();
    for code in ["SLUICE-P101", "SLUICE-P201", "SLUICE-P004"] {
        assert!(codes.contains(&code), "{code} is missing in {codes:?}");
    }
    for problem in problems {
        assert!(problem["location"]["file"].as_str().unwrap().ends_with("bad.yaml"), "{problem}");
        assert!(problem["location"]["line"].as_u64().unwrap() > 0, "{problem}");
        assert!(!problem["message"].as_str().unwrap().is_empty() && !problem["hint"].as_str().unwrap().is_empty());
    }
    assert_eq!(sluice(&["check"]).status.code(), Some(2), "no path is a wrong command line");
    assert_eq!(sluice(&["check", "/does/not/exist"]).status.code(), Some(1));
}

#[tokio::test]
async fn explain_names_the_route_and_why_the_others_did_not_match() {
    let rules = "  - name: api\n    matches: [{path: {value: /api}, method: GET}]\n    backendRefs: [{name: one, port: 80}]\n  - name: post\n    matches: [{path: {value: /api}, method: POST}]\n    backendRefs: [{name: two, port: 80}]\n";
    let shop = Shop::with_rules(&["one", "two"], rules).await;
    let folder = shop.folder.path().display().to_string();
    let url = format!("http://{HOST}:{}/api/x", shop.http);
    let output = sluice(&["explain", "-f", &folder, "GET", &url, "-o", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let offline: serde_json::Value = serde_json::from_str(&text(&output)).unwrap();
    let said = offline.to_string();
    for part in [
        "default/edge",
        "HTTPRoute default/shop/api",
        "default/one:80",
        &shop.backend("one").address.to_string(),
        "method",
    ] {
        assert!(said.contains(part), "{part} is missing in {said}");
    }
    let admin = shop.gateway.admin.to_string();
    let output = sluice(&["explain", "--admin", &admin, "GET", &url, "-o", "json"]);
    let live: serde_json::Value = serde_json::from_str(&text(&output)).unwrap();
    assert_eq!(live, offline, "the running gateway explains it otherwise");

    let output = sluice(&["explain", "-f", &folder, "GET", &format!("http://{HOST}:{}/none", shop.http)]);
    assert!(text(&output).contains("404"), "{}", text(&output));
}

/// `sluice get … -o json` of a running gateway.
fn rows(shop: &Shop, arguments: &[&str]) -> Vec<Value> {
    let admin = shop.gateway.admin.to_string();
    let output = sluice(&[&["get"], arguments, &["--admin", &admin, "-o", "json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn get_shows_what_is_served_as_tables_and_as_json() {
    let other = http_route("other", &["*.other.example"], "  - backendRefs: [{name: two, port: 80, weight: 3}]\n");
    let shop = Shop::start(&["one", "two"], &join([route_to("all", &[HOST], "one"), other])).await;
    let admin = shop.gateway.admin.to_string();

    let table = text(&sluice(&["get", "listeners", "--admin", &admin]));
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    let place = lines[0].find("LISTENER").unwrap();
    for line in &lines[1..] {
        assert!(line[place..].starts_with("default/edge/http") && line.ends_with("yes"), "{table}");
    }
    assert!(!table.contains('\x1b'), "colours, and no terminal: {table}");

    let rule = |row: &Value| row["rule"].as_str().unwrap().to_owned();
    let all: Vec<_> = rows(&shop, &["routes"]).iter().map(rule).collect();
    // On both listeners.
    assert_eq!(all.len(), 4, "{all:?}");
    let found: Vec<_> = rows(&shop, &["routes", "--host", "A.other.example"]).iter().map(rule).collect();
    assert_eq!(found, ["HTTPRoute default/other/0"; 2]);
    let found = rows(&shop, &["routes", "edge/http", "--host", HOST]);
    assert!(found.iter().all(|row| rule(row) == "HTTPRoute default/all/0"), "{found:?}");
    let found = rows(&shop, &["routes", "default/two:80"]);
    assert_eq!((found.len(), &found[0]["action"]), (2, &"default/two:80 × 3".into()));

    let backends = rows(&shop, &["backends", "ONE"]);
    assert_eq!((backends.len(), &backends[0]["ready"], &backends[0]["endpoints"]), (1, &1.into(), &1.into()));
    let endpoints = rows(&shop, &["endpoints", "one"]);
    assert_eq!(endpoints[0]["address"], shop.backend("one").address.to_string());
    assert_eq!((&endpoints[0]["state"], &endpoints[0]["in_flight"]), (&"ready".into(), &0.into()));

    let certificates = rows(&shop, &["certificates", "default/shop"]);
    let [certificate] = &certificates[..] else { panic!("{certificates:?}") };
    assert_eq!(certificate["names"][0], HOST);
    assert_eq!(certificate["listeners"][0], "default/edge/https");
    assert_eq!(certificate["fingerprint"].as_str().unwrap().len(), 64);
    let (ends, left) = (certificate["not_after"].as_str().unwrap(), certificate["days_left"].as_i64().unwrap());
    assert!(ends.ends_with('Z') && left > 0, "{certificate}");
    let table = text(&sluice(&["get", "certificates", "--admin", &admin]));
    assert!(table.contains(ends) && table.contains(&format!(" {left} ")), "{table}");

    // Nothing to show is said, and no failure.
    for nothing in ["plugins", "problems", "watches"] {
        let output = sluice(&["get", nothing, "--admin", &admin]);
        assert_eq!((output.status.code(), text(&output).as_str()), (Some(0), ""), "{nothing}");
        assert!(said(&output).contains("nothing found"), "{nothing}");
    }
    shop.folder.write("bad.yaml", http_route("lost", &[], "  - backendRefs: [{name: missing, port: 80}]\n"));
    let row = wait::until("the problem", || async { rows(&shop, &["problems", "P201"]).pop() }).await;
    assert_eq!((&row["object"]["name"], &row["severity"]), (&"lost".into(), &"error".into()));
    assert!(row["location"]["file"].as_str().unwrap().ends_with("bad.yaml"), "{row}");
}

#[tokio::test(flavor = "multi_thread")]
async fn get_says_the_way_out_where_no_gateway_of_its_kind_answers() {
    let shop = Shop::start(&["one"], &route_to("all", &[HOST], "one")).await;
    let nobody = format!("127.0.0.1:{}", ports::free());
    let echo = Backend::echo("other").await;
    for (admin, told) in [
        (nobody, "no gateway answers at"),
        (shop.gateway.public.to_string(), "knows no /listeners"),
        (echo.address.to_string(), "is not what a gateway of this version says"),
    ] {
        let output = sluice(&["get", "listeners", "--admin", &admin]);
        let error = said(&output);
        assert_eq!((output.status.code(), text(&output).as_str()), (Some(1), ""), "{error}");
        assert!(error.contains(told) && error.contains("--admin-address"), "{error}");
    }
    for wrong in
        [&["get"][..], &["get", "pods"], &["get", "backends", "--host", HOST], &["get", "routes", "--host", "a..b"]]
    {
        assert_eq!(sluice(wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn run_takes_folders_or_a_cluster_and_says_so_where_it_gets_neither_or_both() {
    for (arguments, said) in [
        (&["run"][..], "<--config <DIR>...|--kube>"),
        (&["run", "--config", ".", "--kube"], "cannot be used with"),
        (&["run", "--config", ".", "--namespace", "shop"], "cannot be used with"),
        (&["run", "--kube", "--poll", "3"], "cannot be used with"),
        (&["run", "--kube", "--namespace", "Shop/x"], "not the name of a namespace"),
    ] {
        let output = sluice(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(said), "{arguments:?}: {error}");
    }
    let folder = Folder::new();
    let state = folder.state().display().to_string();
    let output = sluice(&["run", "--kube", "--kubeconfig", "/nowhere/kubeconfig", "--state-dir", &state]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("/nowhere/kubeconfig"), "{error}");
}
