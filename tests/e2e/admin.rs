//! What operators see: metrics, health, the configuration without its secrets, the log.

use crate::shop::{HOST, Shop};
use sluice_tests::objects::route_to;
use sluice_tests::raw;

async fn shop() -> Shop {
    Shop::start(&["one"], &route_to("all", &[HOST], "one")).await
}

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
    let (status, _) = shop.gateway.public_get("/config").await.unwrap();
    assert_eq!(status, 404, "/config on the port that others may reach");
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
