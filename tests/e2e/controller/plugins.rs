//! Statuses of Plugins.

use super::{Cluster, SYSTEM, brief, gateway, policy, slice, status};
use base64::Engine;
use serde_json::{Value, json};
use sluice_tests::{ApiServer, Registry, registry};
use std::net::TcpListener;

fn plugin(name: &str) -> Value {
    json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "Plugin", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"source": {"configMap": {"name": name, "key": "plugin.wasm"}}}})
}

fn code(name: &str, bytes: &[u8]) -> Value {
    let text = base64::engine::general_purpose::STANDARD.encode(bytes);
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "shop"},
        "binaryData": {"plugin.wasm": text}})
}

#[tokio::test]
async fn a_plugin_says_what_it_is_and_whether_every_proxy_runs_it() {
    let cluster = Cluster::new().await;
    cluster.server.apply(gateway("edge", &[("http", 80)]));
    let module = sluice_tests::guests::versioned().with_version(1);
    cluster.server.apply(code("versioned", &module));
    cluster.server.apply(code("broken", b"no module"));
    for name in ["versioned", "broken", "missing"] {
        cluster.server.apply(plugin(name));
    }
    let target = json!([{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "all"}]);
    let uses = json!([{"name": "v", "pluginRef": {"name": "versioned"}}]);
    cluster.server.apply(policy("uses", &json!({"targetRefs": target, "plugins": uses})));
    let proxy = cluster.options("proxy").label("proxy").start().await;
    slice(SYSTEM, "proxies", &[proxy.public]).into_iter().for_each(|slice| cluster.server.apply(slice));
    let controller = cluster.options("controller").label("controller");
    let controller = controller.argument(format!("--proxy-service={SYSTEM}/proxies")).start().await;

    let of = |server: &ApiServer, name: &str| brief(&status(server, "plugins", name)["conditions"]);
    let wanted = |name: &'static str, conditions: [&'static str; 2]| {
        let cluster = &cluster;
        async move { cluster.until(&format!("{name}: {conditions:?}"), |s| of(s, name) == conditions).await }
    };
    wanted("versioned", ["Accepted=True/Accepted", "Ready=True/Ready"]).await;
    let found = status(&cluster.server, "plugins", "versioned");
    assert!(found["digest"].as_str().unwrap().starts_with("sha256:"), "{found}");
    assert_eq!((&found["size"], &found["uses"], &found["compiled"]), (&json!(module.len()), &json!(1), &json!(true)));
    assert!(!found["interfaces"].as_array().unwrap().is_empty() && found["lastError"].is_null(), "{found}");
    wanted("broken", ["Accepted=True/Accepted", "Ready=False/Failed"]).await;
    let found = status(&cluster.server, "plugins", "broken");
    assert!(found["lastError"].is_string() && found["compiled"] == false, "{found}");
    wanted("missing", ["Accepted=False/InvalidSource", "Ready=False/Invalid"]).await;
    assert!(status(&cluster.server, "plugins", "missing")["digest"].is_null());

    // Other code is another digest, and its generation the same.
    let digest = status(&cluster.server, "plugins", "versioned")["digest"].clone();
    cluster.server.apply(code("versioned", &sluice_tests::guests::versioned().with_version(2)));
    cluster
        .until("the new digest", |server| {
            let now = status(server, "plugins", "versioned");
            now["digest"] != digest && brief(&now["conditions"])[1] == "Ready=True/Ready"
        })
        .await;
    // A proxy that says nothing knows nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut both = slice(SYSTEM, "proxies", &[proxy.public, silent.local_addr().unwrap()]);
    cluster.server.apply(both.remove(1));
    cluster.server.apply(code("broken", &module));
    wanted("broken", ["Accepted=True/Accepted", "Ready=False/Pending"]).await;
    assert!(proxy.stop().await.success() && controller.stop().await.success());
}

#[tokio::test]
async fn a_plugin_of_a_registry_is_fetched_with_its_secret_and_says_what_it_is() {
    let cluster = Cluster::new().await;
    cluster.server.apply(gateway("edge", &[("http", 80)]));
    let registry = Registry::start().await;
    let module = sluice_tests::guests::versioned().with_version(1);
    let image = registry.put("versioned", "1", &[(registry::WASM, &module)]);
    registry.only_for("alice", "open-sesame");
    let fetched = json!({"image": registry.image("versioned:1"), "pullSecretRef": {"name": "pull"}});
    let plugin = |oci: &Value| {
        json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "Plugin", "metadata": {"name": "fetched", "namespace": "shop"},
            "spec": {"source": {"oci": oci}}})
    };
    cluster.server.apply(plugin(&fetched));
    let target = json!([{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "all"}]);
    let uses = json!([{"name": "v", "pluginRef": {"name": "fetched"}}]);
    cluster.server.apply(policy("uses", &json!({"targetRefs": target, "plugins": uses})));
    // In a cluster a tenant's object does not lead to the gateway's own host, unless the operator says so.
    let refusing = cluster.options("all").label("refusing").start().await;
    cluster
        .until("the refusal", |server| {
            let status = status(server, "plugins", "fetched");
            brief(&status["conditions"])[..] == ["Accepted=False/InvalidSource", "Ready=False/Failed"]
                && status["lastError"].as_str().is_some_and(|error| error.contains("--insecure-registry"))
        })
        .await;
    assert_eq!(registry.asked(), 0);
    assert!(refusing.stop().await.success());

    let insecure = format!("--insecure-registry={}", registry.address);
    let serving = cluster.options("all").label("serving").argument(insecure).start().await;
    cluster
        .until("the registry's refusal", |server| {
            status(server, "plugins", "fetched")["lastError"].as_str().is_some_and(|error| error.contains("401"))
        })
        .await;
    let config = json!({"auths": {registry.address.to_string(): {"username": "alice", "password": "open-sesame"}}});
    let config = base64::engine::general_purpose::STANDARD.encode(config.to_string());
    cluster.server.apply(json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson",
        "metadata": {"name": "pull", "namespace": "shop"}, "data": {".dockerconfigjson": config}}));
    cluster
        .until("the Plugin to be ready", |server| {
            let conditions = brief(&status(server, "plugins", "fetched")["conditions"]);
            conditions == ["Accepted=True/Accepted", "Ready=True/Ready"]
        })
        .await;
    let found = status(&cluster.server, "plugins", "fetched");
    assert_eq!(found["imageDigest"], json!(image), "{found}");
    assert_eq!(
        (&found["digest"], &found["size"]),
        (&json!(registry::digest(&module)), &json!(module.len())),
        "{found}"
    );
    assert!(found["lastError"].is_null(), "{found}");

    // A tag is looked up once for each change of the object, whatever that is.
    let other = sluice_tests::guests::versioned().with_version(2);
    let moved = registry.put("versioned", "1", &[(registry::WASM, &other)]);
    let mut changed = plugin(&fetched);
    changed["spec"]["failMode"] = json!("Open");
    cluster.server.apply(changed);
    cluster
        .until("the tag's new image", |server| status(server, "plugins", "fetched")["imageDigest"] == json!(moved))
        .await;
    assert!(serving.stop().await.success());
}
