//! Gateways: their Services, addresses and ports, and when they are programmed.

use super::{Cluster, GATEWAYS, HOST, SYSTEM, brief, condition, gateway, parents, service_of, slice};
use serde_json::{Value, json};
use sluice_model::Kind;
use sluice_tests::{ApiServer, raw};
use std::net::{Ipv6Addr, TcpListener};

#[tokio::test]
async fn a_gateway_gets_a_service_an_address_and_a_true_status() {
    let cluster = Cluster::new().await;
    cluster.server.apply(gateway("edge", &[("http", 80), ("more", 8080)]));
    let gateway = cluster.options("all").start().await;
    let service = cluster.service_of("edge").await;
    let meta = &service["metadata"];
    let targets = format!("80={},8080={}", cluster.first, cluster.first + 1);
    assert_eq!(meta["annotations"]["sluice.dev/target-ports"], targets);
    assert_eq!((&meta["labels"]["team"], &meta["annotations"]["example.com/a"]), (&json!("shop"), &json!("b")));
    assert_eq!(meta["namespace"], SYSTEM);
    assert_eq!(service["spec"]["type"], "LoadBalancer");
    cluster
        .until("the Service to select the proxies", |server| {
            service_of(server, "edge").is_some_and(|s| s["spec"]["selector"] == json!({"app": "sluice"}))
        })
        .await;
    let answer = raw::get(cluster.first, HOST, "/").await.unwrap();
    assert_eq!((answer.status, &answer.json()["backend"]), (200, &json!("one")));

    cluster.programmed("edge", "False").await;
    assert_eq!(condition(&cluster.server, "edge", "Programmed").unwrap()["reason"], "AddressNotAssigned");
    cluster.give_address("edge", "192.0.2.7").await;
    cluster.programmed("edge", "True").await;
    let status = &cluster.server.get(GATEWAYS, "shop", "edge").unwrap()["status"];
    assert_eq!(status["addresses"], json!([{"type": "IPAddress", "value": "192.0.2.7"}]));
    let listener = &status["listeners"][0];
    assert_eq!((&listener["name"], &listener["attachedRoutes"]), (&json!("http"), &json!(1)));
    assert_eq!(
        listener["supportedKinds"],
        json!([{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute"},
               {"group": "gateway.networking.k8s.io", "kind": "GRPCRoute"}])
    );
    for conditions in [&status["conditions"], &listener["conditions"]] {
        for condition in conditions.as_array().unwrap() {
            assert_eq!(condition["observedGeneration"], 1, "{condition}");
            let wanted = if condition["type"] == "Conflicted" { "False" } else { "True" };
            assert_eq!(condition["status"], wanted, "{condition}");
        }
    }
    let parent = &parents(&cluster.server, "all")[0];
    assert_eq!(parent["controllerName"], "sluice.dev/gateway-controller");
    assert_eq!(parent["parentRef"], json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"}));
    let class = cluster.server.get("gatewayclasses", "", "sluice").unwrap();
    assert_eq!(class["status"]["conditions"][0]["type"], "Accepted");
    assert!(class["status"]["supportedFeatures"].as_array().unwrap().contains(&json!({"name": "HTTPRoute"})));
    let account = &cluster.server.all("serviceaccounts")[0];
    assert_eq!(
        (&account["metadata"]["namespace"], &account["metadata"]["labels"]["team"]),
        (&json!("shop"), &json!("shop"))
    );
    assert!(gateway.metric("sluice_status_writes_total", &["HTTPRoute", "written"]).await >= 1.0);
    assert_eq!(gateway.metric("sluice_controller_leader", &[]).await, 1.0);
    assert!(gateway.stop().await.success());
}

#[tokio::test]
async fn a_gateway_gets_the_address_that_it_asks_for_or_says_that_it_has_not() {
    let cluster = Cluster::new().await;
    let asking = |addresses: Value| {
        let mut gateway = gateway("edge", &[("http", 80)]);
        gateway["spec"]["addresses"] = addresses;
        gateway
    };
    let says = |server: &ApiServer, wanted: &[&str]| {
        let status = &server.get(GATEWAYS, "shop", "edge").unwrap()["status"];
        brief(&status["conditions"]) == wanted
    };
    let good = json!({"value": "192.0.2.7"});
    let odd = json!({"type": "example.com/name", "value": "somewhere"});
    cluster.server.apply(asking(json!([odd, {"value": "192.0.2.8"}, good])));
    let running = cluster.options("all").start().await;
    cluster
        .until("the unsupported address to be refused", |server| {
            says(
                server,
                &["Accepted=False/UnsupportedAddress", "Programmed=False/Invalid", "ResolvedRefs=True/ResolvedRefs"],
            )
        })
        .await;
    assert!(service_of(&cluster.server, "edge").is_none());

    cluster.server.apply(asking(json!([{"value": "192.0.2.8"}, good])));
    let spec = cluster.service_of("edge").await["spec"].clone();
    assert_eq!((&spec["loadBalancerIP"], &spec["ipFamilies"]), (&json!("192.0.2.8"), &json!(["IPv4"])));
    // A load balancer that does not have it gives another one.
    cluster.give_address("edge", "192.0.2.99").await;
    cluster
        .until("the address to be missed", |server| {
            says(
                server,
                &["Accepted=True/Accepted", "Programmed=False/AddressNotUsable", "ResolvedRefs=True/ResolvedRefs"],
            )
        })
        .await;

    cluster.server.apply(asking(json!([good])));
    cluster
        .until("the Service to ask for the other one", |server| {
            service_of(server, "edge").unwrap()["spec"]["loadBalancerIP"] == "192.0.2.7"
        })
        .await;
    cluster.give_address("edge", "192.0.2.7").await;
    cluster.programmed("edge", "True").await;
    let addresses = cluster.server.get(GATEWAYS, "shop", "edge").unwrap()["status"]["addresses"].clone();
    assert_eq!(addresses, json!([{"type": "IPAddress", "value": "192.0.2.7"}]));

    // Any address will do.
    cluster.server.apply(asking(json!([{"type": "IPAddress"}])));
    cluster
        .until("the Service to ask for none", |server| {
            service_of(server, "edge").unwrap()["spec"].get("loadBalancerIP").is_none()
        })
        .await;
    cluster.programmed("edge", "True").await;
    assert!(running.stop().await.success());
}

#[tokio::test]
async fn a_gateway_is_not_programmed_while_a_proxy_cannot_open_its_port() {
    let cluster = Cluster::new().await;
    cluster.server.apply(gateway("edge", &[("http", 80)]));
    let taken = TcpListener::bind((Ipv6Addr::UNSPECIFIED, cluster.first)).unwrap();
    // It would be ready only when it has given up on the port.
    let mut gateway = cluster.options("all").without_waiting().start().await;
    cluster.give_address("edge", "192.0.2.7").await;
    cluster.programmed("edge", "False").await;
    let programmed = condition(&cluster.server, "edge", "Programmed").unwrap();
    assert_eq!(programmed["reason"], "Pending", "{programmed}");
    assert!(service_of(&cluster.server, "edge").unwrap()["spec"].get("selector").is_none());
    drop(taken);
    cluster.programmed("edge", "True").await;
    gateway.ready().await;
    assert!(gateway.stop().await.success());
}

#[tokio::test]
async fn a_controller_asks_every_ready_proxy_and_a_proxy_writes_nothing() {
    let cluster = Cluster::new().await;
    cluster.server.apply(gateway("edge", &[("http", 80)]));
    let proxy = cluster.options("proxy").label("proxy").start().await;
    assert!(cluster.server.writes().is_empty(), "{:?}", cluster.server.writes());
    // A second one that does not answer.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let both = slice(SYSTEM, "proxies", &[proxy.public, silent.local_addr().unwrap()]);
    both.iter().for_each(|slice| cluster.server.apply(slice.clone()));
    let controller = cluster.options("controller").label("controller");
    let controller = controller.argument(format!("--proxy-service={SYSTEM}/proxies")).start().await;
    cluster.give_address("edge", "192.0.2.7").await;
    cluster.programmed("edge", "False").await;
    cluster.server.delete(Kind::EndpointSlice, SYSTEM, "proxies-1");
    cluster.programmed("edge", "True").await;
    let answer = raw::get(cluster.first, HOST, "/").await.unwrap();
    assert_eq!(answer.status, 200);
    // The port is the proxy's alone.
    assert!(proxy.stop().await.success());
    assert!(raw::get(cluster.first, HOST, "/").await.is_err());
    assert!(controller.stop().await.success());
}

#[tokio::test]
async fn a_port_that_is_added_is_opened_before_the_service_names_it_and_one_that_goes_rests() {
    let cluster = Cluster::new().await;
    cluster.server.apply(gateway("edge", &[("http", 80)]));
    let running = cluster.options("all").start().await;
    cluster.give_address("edge", "192.0.2.7").await;
    cluster.programmed("edge", "True").await;
    cluster.server.apply(gateway("edge", &[("more", 81)]));
    let ports = |server: &ApiServer| -> Vec<(u64, u64)> {
        let service = service_of(server, "edge").unwrap();
        let ports = service["spec"]["ports"].as_array().unwrap().iter();
        ports.map(|p| (p["port"].as_u64().unwrap(), p["targetPort"].as_u64().unwrap())).collect()
    };
    let target = u64::from(cluster.first);
    cluster
        .until("the Service to lead to the new port alone", |server| {
            let selects = service_of(server, "edge").unwrap()["spec"].get("selector").is_some();
            selects && ports(server) == [(81, target + 1)]
        })
        .await;
    assert_eq!(raw::get(cluster.first + 1, HOST, "/").await.unwrap().status, 200);
    let lease = cluster.server.get("leases", SYSTEM, "sluice-controller").unwrap();
    let resting = lease["metadata"]["annotations"]["sluice.dev/resting-ports"].as_str().unwrap().to_owned();
    assert!(resting.starts_with(&format!("{target}=")), "{resting}");
    // Another Gateway does not get it.
    cluster.server.apply(gateway("other", &[("http", 80)]));
    let service = cluster.service_of("other").await;
    assert_eq!(service["spec"]["ports"][0]["targetPort"], target + 2);
    cluster.server.delete(Kind::Gateway, "shop", "other");
    cluster.until("its Service to go", |server| service_of(server, "other").is_none()).await;
    assert!(service_of(&cluster.server, "edge").is_some());
    assert!(running.stop().await.success());
}
