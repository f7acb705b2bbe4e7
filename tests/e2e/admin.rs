//! What operators see: metrics, health, the configuration without its secrets, the log.

use crate::commands::{said, sluice, text};
use crate::shop::{HOST, Shop};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};
use sluice_tests::objects::{join, plugin, plugin_on_route, route_to};
use sluice_tests::{binary, guests, raw, wait};
use std::net::SocketAddr;

async fn shop() -> Shop {
    Shop::start(&["one"], &route_to("all", &[HOST], "one")).await
}

/// What has no series without a cluster or a plugin, or before it happens.
const SELDOM: [&str; 12] = [
    "sluice_config_problems",
    "sluice_watch_stale_seconds",
    "sluice_status_writes",
    "sluice_controller_leader",
    "sluice_plugin_traps",
    "sluice_plugin_fetches",
    "sluice_plugin_store_calls",
    "sluice_plugin_store_call_duration_seconds",
    "sluice_limit_hits",
    "sluice_timeouts",
    "sluice_task_restarts",
    "sluice_upstream_task_restarts",
];

#[tokio::test]
async fn a_request_shows_in_metrics_and_in_one_line_of_the_access_log() {
    let shop = shop().await;
    let answer = shop.get_with("/a?token=secret", "User-Agent: probe/1\r\nAuthorization: Bearer secret\r\n").await;
    assert_eq!(answer.status, 200);
    let line = shop.gateway.logged(|l| l["path"] == "/a?token=secret").await;
    for (field, value) in [
        ("method", "GET"),
        ("scheme", "http"),
        ("authority", HOST),
        ("reason", "upstream"),
        ("client_ip", "127.0.0.1"),
        ("user_agent", "probe/1"),
        ("backend", "default/one:80"),
    ] {
        assert_eq!(line[field], value, "{field} in {line}");
    }
    assert_eq!(line["status"], 200);
    assert_eq!(line["endpoint"], shop.backend("one").address.to_string());
    assert!(line["route"].as_str().unwrap().contains("all"), "{line}");
    assert!(line["bytes_out"].as_u64().unwrap() > 0 && line["duration_ms"].as_f64().is_some(), "{line}");
    assert!(!line.to_string().contains("Bearer"), "{line}");

    let (_, text) = shop.gateway.public_get("/metrics").await.unwrap();
    for name in [
        "sluice_requests_total",
        "sluice_request_duration_seconds",
        "sluice_downstream_connections",
        "sluice_config_generation",
        "sluice_build_info",
        "sluice_certificate_expiry_timestamp_seconds",
    ] {
        assert!(text.contains(name), "{name} is missing:\n{text}");
    }
    let docs = std::fs::read_to_string(binary::root().join("docs/operations.md")).unwrap();
    let (table, _) = docs.split_once("## Metrics worth an alert").unwrap().1.split_once("\n## ").unwrap();
    let words = table.split(|c: char| !(c.is_ascii_lowercase() || c == '_'));
    let named: Vec<_> = words
        .filter(|word| word.starts_with("sluice_"))
        .map(|word| word.strip_suffix("_total").unwrap_or(word))
        .filter(|name| !SELDOM.contains(name))
        .collect();
    assert!(named.len() > 20, "{named:?}");
    for name in named {
        assert!(text.contains(&format!("# TYPE {name} ")), "{name}, which the docs name, is missing:\n{text}");
    }
    assert!(shop.gateway.metric("sluice_requests_total", &["2xx"]).await >= 1.0);
}

#[tokio::test]
async fn the_configuration_is_shown_without_secrets_and_on_loopback_alone() {
    let shop = shop().await;
    let (status, text) = shop.gateway.admin_get("/config").await.unwrap();
    assert_eq!(status, 200);
    let config: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(config.to_string().contains(HOST));
    assert!(!text.contains("PRIVATE KEY"), "a private key in /config");
    let yaml = std::fs::read_to_string(shop.folder.path().join("shop.yaml")).unwrap();
    let lines = yaml.lines().map(str::trim).skip_while(|line| !line.contains("BEGIN PRIVATE KEY")).skip(1);
    let base64: String = lines.take_while(|line| !line.starts_with('-')).collect();
    let der = BASE64_STANDARD.decode(&base64).unwrap();
    let numbers: Vec<_> = der.iter().map(ToString::to_string).collect();
    for form in [base64, hex::encode(&der), numbers.join(",")] {
        assert!(!text.contains(&form), "a private key in /config");
    }
    let (status, _) = shop.gateway.public_get("/config").await.unwrap();
    assert_eq!(status, 404, "/config on the port that others may reach");
}

#[tokio::test]
async fn the_admin_port_is_on_loopback_by_default_and_takes_no_other_address() {
    let help = text(&sluice(&["run", "--help"]));
    let words: Vec<_> = help.split_whitespace().skip_while(|word| *word != "--admin-address").collect();
    let default = words.iter().position(|word| *word == "[default:").unwrap() + 1;
    let address: SocketAddr = words[default].trim_end_matches(']').parse().unwrap();
    assert!(address.ip().is_loopback(), "{address}");

    let shop = shop().await;
    // All of 127.0.0.0/8 is this host's: a socket of every address would answer here.
    let elsewhere = SocketAddr::from(([127, 0, 0, 2], shop.gateway.admin.port()));
    assert!(raw::Client::connect(elsewhere).await.is_err());

    // The other address is taken: whatever it thinks of the first, it ends.
    let (folder, state) = (shop.folder.path().display().to_string(), shop.folder.state().display().to_string());
    let taken = shop.gateway.public.to_string();
    let output = sluice(&[
        "run",
        "--config",
        &folder,
        "--state-dir",
        &state,
        "--metrics-address",
        &taken,
        "--admin-address",
        "0.0.0.0:0",
    ]);
    assert!(!output.status.success());
    assert!(said(&output).contains("not an address of this host only"), "{}", said(&output));
}

#[tokio::test]
async fn the_status_page_has_a_plugins_digest_and_the_last_change_and_the_log_has_a_guests_line() {
    let module = std::fs::read(guests::module("probe")).unwrap();
    let shop = shop().await;
    shop.folder.write("plugin.wasm", &module);
    shop.folder.write(
        "more.yaml",
        join([
            route_to("all", &[HOST], "one"),
            plugin("probe", "plugin.wasm", ""),
            plugin_on_route("probe", "all", "probe", "{name: x}"),
        ]),
    );
    let line = wait::until("the guest's line", || async {
        shop.gateway.log().into_iter().find(|line| line.contains("the probe is configured"))
    })
    .await;
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    for (field, value) in [("level", "INFO"), ("target", "plugin"), ("plugin", "default/probe")] {
        assert_eq!(line[field], value, "{field} in {line}");
    }

    let digest = hex::encode(Sha256::digest(&module));
    wait::until("the digest and what the log says of the last change on the status page", || async {
        let applied = shop.gateway.log().into_iter().rfind(|line| line.contains("configuration applied: "))?;
        let applied: serde_json::Value = serde_json::from_str(&applied).ok()?;
        let summary = applied["message"].as_str()?.strip_prefix("configuration applied: ")?.to_owned();
        let (_, page) = shop.gateway.admin_get("/").await.ok()?;
        let (_, change) = page.split_once(" Last change at ")?;
        (change.split_once("</p>")?.0.ends_with(&format!(": {summary}.")) && page.contains(&digest)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn liveness_and_readiness_answer() {
    let shop = shop().await;
    assert_eq!(shop.gateway.public_get("/livez").await.unwrap().0, 200);
    assert_eq!(shop.gateway.public_get("/readyz").await.unwrap().0, 200);
}

#[tokio::test]
async fn the_log_level_changes_at_run_time() {
    let shop = shop().await;
    let mut client = raw::Client::connect(shop.gateway.admin).await.unwrap();
    client
        .send("PUT /log-level HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nConnection: close\r\n\r\ndebug")
        .await
        .unwrap();
    let answer = client.response().await.unwrap();
    assert!(matches!(answer.status, 200 | 204), "{answer:?}");
    let mut client = raw::Client::connect(shop.gateway.admin).await.unwrap();
    client
        .send("PUT /log-level HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nConnection: close\r\n\r\n=[=[")
        .await
        .unwrap();
    assert_eq!(client.response().await.unwrap().status, 400);
}

#[tokio::test]
async fn the_status_page_names_listeners_routes_and_endpoints() {
    let shop = shop().await;
    let (status, page) = shop.gateway.admin_get("/").await.unwrap();
    assert_eq!(status, 200);
    for part in ["default/edge/http", HOST, &shop.backend("one").address.to_string()] {
        assert!(page.contains(part), "{part} is missing:\n{page}");
    }
}
