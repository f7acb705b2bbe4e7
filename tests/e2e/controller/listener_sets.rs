//! Listeners of one Gateway: ListenerSets, and hostnames that overlap.

use super::{Cluster, GATEWAYS, HOST, brief, gateway, parents, route, service_of};
use serde_json::{Value, json};
use sluice_tests::{ApiServer, raw};

fn listener_set(name: &str, listeners: &Value) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "ListenerSet",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"parentRef": {"name": "edge"}, "listeners": listeners}})
}

fn set_status(server: &ApiServer, name: &str) -> Value {
    server.get("listenersets", "shop", name).unwrap()["status"].clone()
}

/// Of negative polarity: it must not stand there where it does not hold.
#[tokio::test]
async fn overlapping_hostnames_are_told_and_no_more_once_they_do_not() {
    let cluster = Cluster::new().await;
    let edge = |hosts: &[&str]| {
        let listener = |(n, host): (usize, &&str)| {
            json!({"name": format!("tls-{n}"), "port": 443, "protocol": "HTTPS", "hostname": host,
                "tls": {"certificateRefs": [{"name": "missing"}]}})
        };
        let mut gateway = gateway("edge", &[]);
        gateway["spec"]["listeners"] = hosts.iter().enumerate().map(listener).collect();
        gateway
    };
    let overlap = |server: &ApiServer| {
        let status = server.get(GATEWAYS, "shop", "edge").unwrap()["status"].clone();
        let listeners = status["listeners"].as_array().into_iter().flatten();
        let told = |of: &Value| {
            brief(&of["conditions"]).contains(&"OverlappingTLSConfig=True/OverlappingHostnames".to_owned())
        };
        listeners.map(told).collect::<Vec<_>>()
    };
    cluster.server.apply(edge(&["foo.example.com", "foo.example.org", "*.example.com"]));
    let running = cluster.options("all").start().await;
    cluster.until("the overlap to be told", |server| overlap(server) == [true, false, true]).await;
    cluster.server.apply(edge(&["foo.example.com", "foo.example.org", "*.example.net"]));
    cluster.until("it to be told no more", |server| overlap(server) == [false; 3]).await;
    let status = cluster.server.get(GATEWAYS, "shop", "edge").unwrap()["status"].clone();
    assert!(!status.to_string().contains("OverlappingTLSConfig"), "{status}");
    assert!(running.stop().await.success());
}

#[tokio::test]
async fn a_listener_set_opens_ports_at_its_gateways_service_and_has_a_status_of_its_own() {
    let cluster = Cluster::new().await;
    let mut edge = gateway("edge", &[("http", 80)]);
    edge["spec"]["allowedListeners"] = json!({"namespaces": {"from": "Same"}});
    cluster.server.apply(edge.clone());
    let listeners = json!([{"name": "more", "port": 8080, "protocol": "HTTP"},
        {"name": "taken", "port": 80, "protocol": "HTTP"}]);
    cluster.server.apply(listener_set("set", &listeners));
    let mut added = route("added", "one");
    added["spec"]["parentRefs"] = json!([{"kind": "ListenerSet", "name": "set"}]);
    cluster.server.apply(added);
    let running = cluster.options("all").start().await;
    let service = cluster.service_of("edge").await;
    let targets = format!("80={},8080={}", cluster.first, cluster.first + 1);
    assert_eq!(service["metadata"]["annotations"]["sluice.dev/target-ports"], targets);
    cluster
        .until("the set to wait for the Gateway's address", |server| {
            brief(&set_status(server, "set")["conditions"]).contains(&"Programmed=False/ParentNotProgrammed".to_owned())
        })
        .await;
    cluster.give_address("edge", "192.0.2.7").await;
    cluster
        .until("the set to be programmed", |server| {
            let expected = ["Accepted=True/ListenersNotValid", "Programmed=True/Programmed"];
            brief(&set_status(server, "set")["conditions"]) == expected
        })
        .await;
    let answer = raw::get(cluster.first + 1, HOST, "/").await.unwrap();
    assert_eq!(answer.status, 200);
    cluster
        .until("its routes to be counted", |server| set_status(server, "set")["listeners"][0]["attachedRoutes"] == 1)
        .await;
    let status = set_status(&cluster.server, "set");
    let good = [
        "Accepted=True/Accepted",
        "Conflicted=False/NoConflicts",
        "ResolvedRefs=True/ResolvedRefs",
        "Programmed=True/Programmed",
    ];
    assert_eq!(brief(&status["listeners"][0]["conditions"]), good);
    assert_eq!(status["listeners"][0]["supportedKinds"][0]["kind"], "HTTPRoute");
    let conflict = [
        "Accepted=False/HostnameConflict",
        "Conflicted=True/HostnameConflict",
        "ResolvedRefs=True/ResolvedRefs",
        "Programmed=False/HostnameConflict",
    ];
    assert_eq!(brief(&status["listeners"][1]["conditions"]), conflict);
    cluster
        .until("the Gateway to count the set", |server| {
            server.get(GATEWAYS, "shop", "edge").unwrap()["status"]["attachedListenerSets"] == 1
        })
        .await;
    let parent = parents(&cluster.server, "added")[0].clone();
    let reference = json!({"group": "gateway.networking.k8s.io", "kind": "ListenerSet", "name": "set"});
    assert_eq!(parent["parentRef"], reference);
    assert_eq!(brief(&parent["conditions"]), ["Accepted=True/Accepted", "ResolvedRefs=True/ResolvedRefs"]);

    // Not allowed any more: its port goes, and its route is told.
    edge["spec"]["allowedListeners"] = json!({"namespaces": {"from": "None"}});
    cluster.server.apply(edge);
    cluster
        .until("the set to be refused", |server| {
            brief(&set_status(server, "set")["conditions"])
                == ["Accepted=False/NotAllowed", "Programmed=False/NotAllowed"]
        })
        .await;
    assert_eq!(set_status(&cluster.server, "set")["listeners"], json!([]));
    cluster
        .until("the Gateway and the route to be told", |server| {
            let none = server.get(GATEWAYS, "shop", "edge").unwrap()["status"]["attachedListenerSets"] == 0;
            none && brief(&parents(server, "added")[0]["conditions"])[0] == "Accepted=False/NoMatchingParent"
        })
        .await;
    cluster
        .until("the Service to lose the port", |server| {
            service_of(server, "edge").unwrap()["spec"]["ports"].as_array().unwrap().len() == 1
        })
        .await;
    assert!(running.stop().await.success());
}
