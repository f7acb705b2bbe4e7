//! One normal form of the path (RFC 3986, section 6.2.2), the same for routing and for the backend.

use crate::edge::{Edge, HOST, get};
use sluice_tests::objects::{http_route, join, route_to};
use sluice_tests::{ports, raw, wait};

#[tokio::test]
async fn rfc3986_2_1_invalid_percent_encoding_and_encoded_nul_are_refused() {
    let edge = Edge::start().await;
    edge.refuses(
        &[400],
        &[
            ("no digits", &get("/a%", "")),
            ("one digit", &get("/a%4", "")),
            ("no hexadecimal", &get("/a%zz", "")),
            ("an encoded NUL", &get("/a%00b", "")),
        ],
    )
    .await;
    assert_eq!(edge.gateway.logged(|l| l["status"] == 400).await["reason"], "invalid_target");
}

#[tokio::test]
async fn rfc3986_6_2_2_paths_reach_the_backend_in_normal_form() {
    let edge = Edge::start().await;
    for (sent, arrives) in [
        ("/%61/%7Euser", "/a/~user"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/a/./b/../c", "/a/c"),
        ("/a/%2e%2e/b", "/b"),
        ("/a/%2E/b", "/a/b"),
        ("/../../etc/passwd", "/etc/passwd"),
        ("/a//b///c", "/a/b/c"),
        ("/a/b/..", "/a/"),
        ("/a%20b", "/a%20b"),
        ("/a%2Fb", "/a%2Fb"),
        ("/a%2fb", "/a%2Fb"),
        // Never decoded twice.
        ("/%2561", "/%2561"),
        ("/%252e%252e/x", "/%252e%252e/x"),
        // The query is not a path.
        ("/a?x=%61&y=../b//c", "/a?x=%61&y=../b//c"),
        ("/a?", "/a?"),
    ] {
        let seen = edge.passes(&get(sent, "")).await;
        assert_eq!(seen.target(), arrives, "{sent}");
    }
}

#[tokio::test]
async fn a_backslash_never_reaches_the_backend_raw() {
    let edge = Edge::start().await;
    let answer = raw::exchange(edge.http, get("/a\\..\\b", "Connection: close\r\n")).await.unwrap();
    if answer.status == 200 {
        assert!(!answer.json()["target"].as_str().unwrap().contains('\\'));
    } else {
        assert_eq!((answer.status, edge.backend.count()), (400, 0));
    }
}

#[tokio::test]
async fn encoded_slashes_are_kept_refused_or_redirected_as_the_listener_says() {
    let edge = Edge::configured("path: {escapedSlashes: Reject}").await;
    edge.refuses(&[400], &[("%2F", &get("/a%2Fb", "")), ("%5c", &get("/a%5cb", ""))]).await;
    assert_eq!(edge.gateway.logged(|l| l["status"] == 400).await["reason"], "escaped_slash");

    let edge = Edge::configured("path: {escapedSlashes: DecodeAndRedirect}").await;
    let answer = raw::exchange(edge.http, get("/a%2Fb?q=%2F", "Connection: close\r\n")).await.unwrap();
    assert_eq!((answer.status, edge.backend.count()), (307, 0));
    assert!(answer.header("location").unwrap().ends_with("/a/b?q=%2F"), "{:?}", answer.header("location"));
}

#[tokio::test]
async fn listeners_of_one_port_have_path_policies_of_their_own() {
    let edge = Edge::start().await;
    let port = ports::free();
    let gateway = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: two, namespace: default}}\nspec:\n  gatewayClassName: sluice\n  infrastructure: {{parametersRef: {{group: sluice.dev, kind: GatewayConfig, name: two}}}}\n  listeners:\n  - {{name: keeps, port: {port}, protocol: HTTP}}\n  - {{name: strict, port: {port}, protocol: HTTP, hostname: strict.example}}\n"
    );
    let config = "apiVersion: sluice.dev/v1alpha1\nkind: GatewayConfig\nmetadata: {name: two, namespace: default}\nspec:\n  listeners: [{name: strict, path: {escapedSlashes: Reject}}]\n";
    let route = route_to("two", &[], "echo").replace("{name: edge}", "{name: two}");
    edge.folder.write("two.yaml", join([gateway, config.to_owned(), route]));
    let status = async |host: &str| raw::get(port, host, "/a%2Fb").await.ok().map(|answer| answer.status);
    wait::until("the listeners", || async { (status(HOST).await == Some(200)).then_some(()) }).await;
    assert_eq!(status("strict.example").await, Some(400));
}

#[tokio::test]
async fn encoded_slashes_are_refused_by_a_rule_whose_policy_says_so_and_by_no_other() {
    let edge = Edge::start().await;
    let rules = "  - {name: guarded, matches: [{path: {value: /guarded}}], backendRefs: [{name: echo, port: 80}]}\n  - {matches: [{path: {value: /guarded/not}}], backendRefs: [{name: echo, port: 80}]}\n";
    let policy = "apiVersion: sluice.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: guarded, namespace: default}\nspec:\n  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: guarded, sectionName: guarded}]\n  client: {escapedSlashes: Reject}\n";
    edge.folder.write("guarded.yaml", join([http_route("guarded", &[], rules), policy.to_owned()]));
    wait::until("the policy", || async {
        (raw::get(edge.http, HOST, "/guarded/a%2Fb").await.ok()?.status == 400).then_some(())
    })
    .await;
    assert_eq!(edge.gateway.logged(|l| l["status"] == 400).await["reason"], "escaped_slash");
    for path in ["/guarded/a", "/guarded/not/a%2Fb"] {
        assert_eq!(edge.passes(&get(path, "")).await.target(), path);
    }
}

#[tokio::test]
async fn double_slashes_stay_where_the_listener_says_so() {
    let edge = Edge::configured("path: {mergeSlashes: false}").await;
    assert_eq!(edge.passes(&get("/a//b", "")).await.target(), "/a//b");
}

#[tokio::test]
async fn routing_goes_by_the_normal_form() {
    let edge = Edge::start().await;
    edge.folder.write(
        "admin.yaml",
        http_route(
            "admin",
            &[],
            "  - matches: [{path: {type: PathPrefix, value: /admin}}]\n    filters: [{type: RequestRedirect, requestRedirect: {hostname: denied.example, statusCode: 301}}]\n",
        ),
    );
    wait::until("the route", || async {
        (raw::get(edge.http, "edge.example", "/admin").await.ok()?.status == 301).then_some(())
    })
    .await;
    for path in ["//admin", "/x/../admin", "/%61dmin", "/./admin/", "/x/%2e%2e/admin", "/admin/x"] {
        let answer = raw::exchange(edge.http, get(path, "Connection: close\r\n")).await.unwrap();
        assert_eq!(answer.status, 301, "{path} went round the route of /admin");
    }
    assert_eq!(edge.passes(&get("/administrator", "")).await.target(), "/administrator");
}
