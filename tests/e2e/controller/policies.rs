//! Statuses of policies and GatewayConfigs.

use super::{Cluster, brief, gateway, policy, route, service, status, status_writes};
use serde_json::json;
use sluice_model::Kind;
use sluice_tests::ApiServer;

/// It comes and goes with Services, of which a policy tells nobody when they do.
#[tokio::test]
async fn a_policy_says_whether_its_target_is_there() {
    let cluster = Cluster::new().await;
    cluster.server.apply(gateway("edge", &[("http", 80)]));
    cluster.server.apply(route("late", "late"));
    cluster.server.apply(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy",
        "metadata": {"name": "tls", "namespace": "shop"},
        "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "late"}],
                 "validation": {"hostname": "late.example", "wellKnownCACertificates": "System"}}}));
    let gateway = cluster.options("all").start().await;
    let says = |server: &ApiServer, wanted: &str| {
        let status = status(server, "backendtlspolicies", "tls");
        status["ancestors"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|of| brief(&of["conditions"]).iter().any(|said| said == wanted))
    };
    cluster.until("the target to be missed", |server| says(server, "Accepted=False/TargetNotFound")).await;
    cluster.server.apply(service("late"));
    cluster.until("it to be found", |server| says(server, "Accepted=True/Accepted")).await;
    cluster.server.delete(Kind::Service, "shop", "late");
    cluster.until("it to be missed again", |server| says(server, "Accepted=False/TargetNotFound")).await;
    assert!(gateway.stop().await.success());
}

#[tokio::test]
async fn policies_and_gateway_configs_say_where_they_hold_and_why_not() {
    let cluster = Cluster::new().await;
    let mut edge = gateway("edge", &[("http", 80)]);
    edge["spec"]["infrastructure"]["parametersRef"] =
        json!({"group": "sluice.dev", "kind": "GatewayConfig", "name": "settings"});
    cluster.server.apply(edge);
    cluster.server.apply(json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "GatewayConfig",
        "metadata": {"name": "settings", "namespace": "shop"}, "spec": {}}));
    let target = |name: &str| json!({"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": name});
    let limit = json!({"maxBody": "1Ki"});
    cluster.server.apply(policy("older", &json!({"targetRefs": [target("all")], "client": limit})));
    let both = json!({"targetRefs": [target("all"), target("nobody")], "client": limit});
    cluster.server.apply(policy("younger", &both));
    cluster.server.apply(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy",
        "metadata": {"name": "tls", "namespace": "shop"},
        "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "one"}],
                 "validation": {"hostname": "one.example",
                                "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "missing"}]}}}));
    cluster.server.apply(json!({"apiVersion": "gateway.networking.x-k8s.io/v1alpha1", "kind": "XBackendTrafficPolicy",
        "metadata": {"name": "retries", "namespace": "shop"},
        "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "one"}], "retryConstraint": {}}}));
    let others = json!({"ancestorRef": {"name": "x"}, "controllerName": "example.com/other", "conditions": []});
    cluster.server.set_status(Kind::BackendTLSPolicy, "shop", "tls", json!({"ancestors": [others]}));
    let gateway = cluster.options("all").start().await;

    let policies = "trafficpolicies";
    cluster.until("statuses", |server| !status(server, policies, "younger").is_null()).await;
    cluster.until("statuses", |server| !status(server, policies, "older").is_null()).await;
    let older = status(&cluster.server, policies, "older")["ancestors"].clone();
    let reference =
        json!({"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "shop", "name": "all"});
    assert_eq!(
        (&older[0]["ancestorRef"], &older[0]["controllerName"]),
        (&reference, &json!("sluice.dev/gateway-controller"))
    );
    assert_eq!(brief(&older[0]["conditions"]), ["Accepted=True/Accepted"]);
    let younger = status(&cluster.server, policies, "younger")["ancestors"].clone();
    assert_eq!(brief(&younger[0]["conditions"]), ["Accepted=False/Conflicted"]);
    assert_eq!(brief(&younger[1]["conditions"]), ["Accepted=False/TargetNotFound"]);
    cluster
        .until("the ancestor", |server| status(server, "backendtlspolicies", "tls")["ancestors"][1].is_object())
        .await;
    let tls = status(&cluster.server, "backendtlspolicies", "tls")["ancestors"].clone();
    assert_eq!((&tls[0], &tls[1]["ancestorRef"]["kind"]), (&others, &json!("Gateway")));
    let wanted = ["Accepted=False/NoValidCACertificate", "ResolvedRefs=False/InvalidCACertificateRef"];
    assert_eq!(brief(&tls[1]["conditions"]), wanted);
    cluster
        .until("the ancestor", |server| {
            status(server, "xbackendtrafficpolicies", "retries")["ancestors"][0].is_object()
        })
        .await;
    let retries = status(&cluster.server, "xbackendtrafficpolicies", "retries")["ancestors"].clone();
    assert_eq!(
        (&retries[0]["ancestorRef"]["kind"], &retries[0]["ancestorRef"]["name"]),
        (&json!("Gateway"), &json!("edge"))
    );
    assert_eq!(brief(&retries[0]["conditions"]), ["Accepted=True/Accepted"]);
    cluster.until("the GatewayConfig's", |server| !status(server, "gatewayconfigs", "settings").is_null()).await;
    let settings = status(&cluster.server, "gatewayconfigs", "settings");
    assert_eq!((&settings["uses"], &settings["usedBy"][0]["name"]), (&json!(1), &json!("edge")));
    assert_eq!(brief(&settings["conditions"]), ["Accepted=True/Accepted"]);

    // The older one goes: the other one's turn. And what was written once is not written again.
    let written = status_writes(&cluster.server, "gatewayconfigs");
    cluster.server.delete(Kind::TrafficPolicy, "shop", "older");
    cluster
        .until("the younger one's turn", |server| {
            let younger = status(server, policies, "younger")["ancestors"].clone();
            brief(&younger[0]["conditions"]) == ["Accepted=True/Accepted"]
        })
        .await;
    assert_eq!((written, status_writes(&cluster.server, "gatewayconfigs")), (1, 1));
    assert!(gateway.stop().await.success());
}
