//! Statuses of routes and Ingresses.

use super::{Cluster, GATEWAYS, HOST, ROUTES, SYSTEM, brief, gateway, parents, route, service, status_writes};
use serde_json::json;
use sluice_model::Kind;
use sluice_tests::{ApiServer, ports, raw};

#[tokio::test]
async fn a_status_is_written_once_and_again_only_when_it_changes() {
    let cluster = Cluster::new().await;
    cluster.server.apply(gateway("edge", &[("http", 80)]));
    // What another controller wrote of the same route.
    let others = json!({"parentRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"},
        "controllerName": "example.com/other", "conditions": []});
    cluster.server.set_status(Kind::HTTPRoute, "shop", "all", json!({"parents": [others]}));
    let gateway = cluster.options("all").start().await;
    cluster.give_address("edge", "192.0.2.7").await;
    cluster.programmed("edge", "True").await;
    cluster.until("the route's status", |server| parents(server, "all").len() == 2).await;
    assert_eq!(parents(&cluster.server, "all")[0], others);
    assert_eq!(status_writes(&cluster.server, ROUTES), 1);

    // A write of something else, and one of the route that changes its generation and nothing that is said of it.
    let since = parents(&cluster.server, "all")[1]["conditions"][0]["lastTransitionTime"].clone();
    cluster.server.apply(service("unused"));
    let mut changed = route("all", "one");
    changed["spec"]["hostnames"] = json!([HOST, "other.example"]);
    cluster.server.apply(changed);
    cluster
        .until("the new generation to be seen", |server| {
            parents(server, "all").get(1).is_some_and(|p| p["conditions"][0]["observedGeneration"] == 2)
        })
        .await;
    assert_eq!(status_writes(&cluster.server, ROUTES), 2);
    assert_eq!(parents(&cluster.server, "all")[1]["conditions"][0]["lastTransitionTime"], since);

    // Its Gateway is gone: so is our entry, and the other one stays.
    cluster.server.delete(Kind::Gateway, "shop", "edge");
    cluster.until("our entry to go", |server| parents(server, "all") == [others.clone()]).await;
    assert!(gateway.stop().await.success());
}

#[tokio::test]
async fn a_broken_route_is_told_so_and_a_foreign_one_is_left_alone() {
    let cluster = Cluster::new().await;
    cluster.server.apply(gateway("edge", &[("http", 80)]));
    cluster.server.apply(route("broken", "missing"));
    let mut foreign = route("foreign", "one");
    foreign["spec"]["parentRefs"] = json!([{"name": "somebody-elses"}]);
    cluster.server.apply(foreign);
    let gateway = cluster.options("all").start().await;
    cluster.until("the broken route's status", |server| !parents(server, "broken").is_empty()).await;
    let conditions = parents(&cluster.server, "broken")[0]["conditions"].clone();
    let resolved = conditions.as_array().unwrap().iter().find(|c| c["type"] == "ResolvedRefs").unwrap();
    assert_eq!((&resolved["status"], &resolved["reason"]), (&json!("False"), &json!("BackendNotFound")));
    cluster.until("the good route's status", |server| !parents(server, "all").is_empty()).await;
    assert!(parents(&cluster.server, "foreign").is_empty());
    assert!(gateway.stop().await.success());
}

/// Values of a newer API, which its CRDs let in.
#[tokio::test]
async fn what_cannot_be_read_is_not_accepted_and_its_form_before_serves() {
    let cluster = Cluster::new().await;
    let edge = |from: &str| {
        let mut edge = gateway("edge", &[("http", 80)]);
        edge["spec"]["listeners"][0]["allowedRoutes"] = json!({"namespaces": {"from": from}});
        edge
    };
    let newer = |name: &str| {
        let mut newer = route(name, "one");
        newer["spec"]["rules"][0]["filters"] = json!([{"type": "Novelty"}]);
        newer
    };
    cluster.server.apply(edge("Same"));
    cluster.server.apply(newer("never-read"));
    let gateway = cluster.options("all").start().await;
    let said = |server: &ApiServer, name: &str| {
        parents(server, name).first().map(|of| brief(&of["conditions"])).unwrap_or_default()
    };
    let accepts = |server: &ApiServer, name: &str| said(server, name).contains(&"Accepted=True/Accepted".to_owned());
    let refuses =
        |server: &ApiServer, name: &str| said(server, name).contains(&"Accepted=False/UnsupportedValue".to_owned());
    cluster.until("both to have their status", |s| accepts(s, "all") && refuses(s, "never-read")).await;
    cluster.server.apply(newer("all"));
    cluster.until("the newest form to be refused", |server| refuses(server, "all")).await;
    let accepted = parents(&cluster.server, "all")[0]["conditions"][0].clone();
    assert_eq!(accepted["observedGeneration"], 2, "{accepted}");
    let message = accepted["message"].as_str().unwrap();
    assert!(message.contains("spec.rules[0].filters[0].type") && message.contains("goes on serving"), "{message}");
    let answer = raw::get(cluster.first, HOST, "/").await.unwrap();
    assert_eq!((answer.status, &answer.json()["backend"]), (200, &json!("one")));
    cluster.server.apply(edge("Novelty"));
    let of_gateway = |server: &ApiServer| brief(&server.get(GATEWAYS, "shop", "edge").unwrap()["status"]["conditions"]);
    cluster.until("the Gateway as well", |s| of_gateway(s).contains(&"Accepted=False/Invalid".to_owned())).await;
    assert_eq!(raw::get(cluster.first, HOST, "/").await.unwrap().status, 200);
    cluster.server.apply(edge("Same"));
    cluster.server.apply(route("all", "one"));
    cluster
        .until("both to be accepted again", |s| accepts(s, "all") && of_gateway(s)[0] == "Accepted=True/Accepted")
        .await;
    assert!(cluster.server.all("events").is_empty(), "a status tells of it");
    assert!(gateway.stop().await.success());
}

#[tokio::test]
async fn an_ingress_has_the_front_services_address_when_it_is_served() {
    let cluster = Cluster::new().await;
    cluster.server.apply(json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
        "metadata": {"name": "sluice"}, "spec": {"controller": "sluice.dev/ingress-controller",
            "parameters": {"apiGroup": "sluice.dev", "kind": "GatewayConfig", "name": "c", "namespace": SYSTEM,
                           "scope": "Namespace"}}}));
    let (http, https) = (ports::free(), ports::free());
    cluster.server.apply(json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "GatewayConfig",
        "metadata": {"name": "c", "namespace": SYSTEM}, "spec": {"ingress": {"httpPort": http, "httpsPort": https}}}));
    cluster.server.apply(json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "front", "namespace": SYSTEM}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}}));
    let status = json!({"loadBalancer": {"ingress": [{"hostname": "lb.example"}, {"ip": "192.0.2.9"}]}});
    cluster.server.set_status(Kind::Service, SYSTEM, "front", status);
    let ingress = |class: &str, name: &str| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"ingressClassName": class,
                     "defaultBackend": {"service": {"name": "one", "port": {"number": 80}}}}})
    };
    cluster.server.apply(ingress("sluice", "ours"));
    cluster.server.apply(ingress("other", "foreign"));
    let gateway = cluster.options("all").argument(format!("--ingress-service={SYSTEM}/front")).start().await;
    let address = |server: &ApiServer, name: &str| {
        server.get("ingresses", "shop", name).unwrap()["status"]["loadBalancer"]["ingress"].clone()
    };
    cluster.until("the address", |server| !address(server, "ours").is_null()).await;
    assert_eq!(address(&cluster.server, "ours"), json!([{"ip": "192.0.2.9"}, {"hostname": "lb.example"}]));
    assert_eq!(raw::get(http, HOST, "/").await.unwrap().status, 200);
    assert!(address(&cluster.server, "foreign").is_null());
    assert_eq!(status_writes(&cluster.server, "ingresses"), 1);

    // It goes to another controller, which has given it an address already: ours go, and that one stays.
    let both = json!([{"ip": "192.0.2.9"}, {"ip": "198.51.100.1"}, {"hostname": "lb.example"}]);
    let mut gone = ingress("other", "ours");
    gone["status"] = json!({"loadBalancer": {"ingress": both}});
    cluster.server.apply(gone);
    let theirs = json!([{"ip": "198.51.100.1"}]);
    cluster.until("our addresses to go", |server| address(server, "ours") == theirs).await;
    // What the other one writes from then on is its own business, be it our address.
    let same = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}});
    cluster.server.set_status(Kind::Ingress, "shop", "ours", same);
    cluster.server.apply(ingress("sluice", "later"));
    cluster.until("the address of one that came later", |server| !address(server, "later").is_null()).await;
    assert_eq!(address(&cluster.server, "ours"), json!([{"ip": "192.0.2.9"}]));
    cluster.server.apply(ingress("other", "later"));
    cluster.until("its address to go", |server| address(server, "later").is_null()).await;
    assert!(gateway.stop().await.success());
}
