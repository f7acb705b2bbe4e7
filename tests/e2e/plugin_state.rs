//! What plugins keep and read across requests (`capabilities.stores`, `capabilities.secrets`), through the binary.

use crate::shop::{HOST, Shop, seen_field};
use sluice_tests::objects::{NAMESPACE, join, plugin, plugin_on_route, route_to};
use sluice_tests::{guests, wait};

/// The Plugin `keeper` on the route to `one`; `capabilities` is a YAML flow mapping.
fn keeper(instance: &str, capabilities: &str, config: &str) -> String {
    let limits = "  limits: {runTime: 20ms, deadline: 10s}\n";
    let spec = format!("{limits}  instance: {instance}\n  capabilities: {capabilities}\n");
    join([
        route_to("shop", &[HOST], "one"),
        plugin("keeper", "keeper.wasm", &spec),
        plugin_on_route("keeps", "shop", "keeper", config),
    ])
}

async fn shop_with(objects: String) -> Shop {
    let shop = Shop::start(&["one"], "").await;
    shop.folder.write("keeper.wasm", std::fs::read(guests::module("keeper")).unwrap());
    shop.folder.write("more.yaml", objects);
    wait::until("the plugin", || async {
        let answer = shop.get_with("/", "x-client: trial\r\nx-do: monotonic\r\n").await;
        (answer.status == 200 && seen_field(&answer, "x-told").is_some()).then_some(())
    })
    .await;
    shop
}

async fn told(shop: &Shop, what: &str) -> Option<String> {
    seen_field(&shop.get_with("/", &format!("x-client: trial\r\nx-do: {what}\r\n")).await, "x-told")
}

fn token(value: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: oidc, namespace: {NAMESPACE}}}\nstringData: {{client: {value}}}\n"
    )
}

#[tokio::test]
async fn a_rate_is_counted_over_requests_and_reloads_fresh_or_pooled() {
    for instance in ["Fresh", "Pooled"] {
        let capabilities = "{stores: [{name: limits, quota: 1Mi}]}";
        let shop = shop_with(keeper(instance, capabilities, "{perMinute: 50}")).await;
        let ask = async |client: &str| shop.get_with("/", &format!("x-client: {client}\r\n")).await.status;
        let (mut passed, mut refused) = (0, 0);
        for _ in 0..60 {
            match ask("a").await {
                200 => passed += 1,
                429 => refused += 1,
                status => panic!("{status}"),
            }
        }
        assert_eq!((passed, refused), (50, 10), "{instance}");
        assert_eq!(ask("b").await, 200, "another client has a window of its own");
        // A new configuration is a new version of the plugin; what was counted is still there.
        shop.folder.write("more.yaml", keeper(instance, capabilities, "{perMinute: 55}"));
        let mut passed = 0;
        wait::until("the new limit", || async { (ask("b").await == 429).then_some(()) }).await;
        for _ in 0..5 {
            passed += u32::from(ask("a").await == 200);
        }
        assert_eq!(passed, 0, "60 requests of the minute were counted before");
        let seen = shop.gateway.metric("sluice_plugin_custom_seen_total", &[r#"plugin="default/keeper""#]).await;
        assert!(seen >= 66.0, "{seen}");
    }
}

#[tokio::test]
async fn a_secret_is_read_where_it_is_named_and_a_rotated_one_without_a_build() {
    let capabilities =
        "{secrets: [{name: token, ref: {name: oidc, key: client}}, {name: gone, ref: {name: oidc, key: nil}}]}";
    let shop = shop_with(join([keeper("Pooled", capabilities, "{}"), token("hunter2")])).await;
    let what = "secret token;secret gone;secret oidc";
    assert_eq!(told(&shop, what).await.as_deref(), Some(r#"Some("hunter2"); None; None"#));
    let (_, problems) = shop.gateway.admin_get("/problems").await.unwrap();
    assert!(problems.contains("spec.capabilities.secrets[1].ref.key"), "{problems}");
    let builds = shop.gateway.metric("sluice_plugin_builds_total", &[]).await;
    shop.folder.write("more.yaml", join([keeper("Pooled", capabilities, "{}"), token("hunter3")]));
    wait::until("the new value", || async {
        (told(&shop, "secret token").await? == r#"Some("hunter3")"#).then_some(())
    })
    .await;
    assert_eq!(shop.gateway.metric("sluice_plugin_builds_total", &[]).await, builds);
    let (_, config) = shop.gateway.admin_get("/config").await.unwrap();
    assert!(config.contains("plugin_grants") && !config.contains("hunter"), "{config}");
    shop.folder.write("more.yaml", keeper("Pooled", capabilities, "{}"));
    wait::until("the end of it", || async { (told(&shop, "secret token").await? == "None").then_some(()) }).await;
    // What the plugin reads is changed first, and then what is said of it.
    wait::until("the problem", || async {
        let (_, problems) = shop.gateway.admin_get("/problems").await.ok()?;
        problems.contains("there is no Secret default/oidc").then_some(())
    })
    .await;
}
