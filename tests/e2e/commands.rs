//! `sluice check` and `sluice explain`, and what their exit codes say.

use crate::shop::{HOST, Shop};
use sluice_tests::objects::{class, gateway, http_route, join, route_to, service};
use sluice_tests::{Folder, binary};
use std::process::{Command, Output};

fn sluice(arguments: &[&str]) -> Output {
    Command::new(binary::sluice()).args(arguments).output().expect("the binary starts")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
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
    for part in ["default/edge", "shop", "default/one:80", &shop.backend("one").address.to_string(), "method"] {
        assert!(said.contains(part), "{part} is missing in {said}");
    }
    let admin = shop.gateway.admin.to_string();
    let output = sluice(&["explain", "--admin", &admin, "GET", &url, "-o", "json"]);
    let live: serde_json::Value = serde_json::from_str(&text(&output)).unwrap();
    assert_eq!(live, offline, "the running gateway explains it otherwise");

    let output = sluice(&["explain", "-f", &folder, "GET", &format!("http://{HOST}:{}/none", shop.http)]);
    assert!(text(&output).contains("404"), "{}", text(&output));
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
