//! The gateway's own answers: the right status, with a reason in the log.

use crate::edge::HOST;
use sluice_tests::certificate::Authority;
use sluice_tests::{Backend, Folder, Gateway, http2, objects, ports, raw, wait};

#[tokio::test]
async fn each_way_not_to_reach_a_backend_has_its_status_and_reason() {
    let folder = Folder::new();
    let port = ports::free();
    let refused = format!("127.0.0.1:{}", ports::free()).parse().unwrap();
    let to = |name: &str, service: &str| {
        objects::http_route(
            name,
            &[HOST],
            &format!("  - matches: [{{path: {{value: /{name}}}}}]\n    backendRefs: [{{name: {service}, port: 80}}]\n"),
        )
    };
    folder.write(
        "errors.yaml",
        objects::join([
            objects::class(),
            objects::gateway(port, None),
            to("missing", "nowhere"),
            to("empty", "empty"),
            to("refused", "refused"),
            objects::http_route("none", &[HOST], "  - matches: [{path: {value: /none}}]\n"),
            objects::service("empty", &[]),
            objects::service("refused", &[refused]),
        ]),
    );
    let gateway = Gateway::start(&folder).await;
    for (path, status, reason) in [
        ("/other", 404, "route_not_found"),
        ("/missing", 500, "invalid_backend"),
        ("/none", 500, "no_backends"),
        ("/empty", 503, "no_endpoints"),
        ("/refused", 502, "upstream_connect_failed"),
    ] {
        let answer = raw::get(port, HOST, path).await.unwrap();
        assert_eq!(answer.status, status, "{path}");
        assert!(!answer.text().contains("127.0.0.1"), "an internal address in {:?}", answer.text());
        let line = gateway.logged(|l| l["path"] == path).await;
        assert_eq!(line["reason"], reason, "{path}");
        assert!(gateway.metric("sluice_requests_total", &[&format!("reason=\"{reason}\"")]).await >= 1.0, "{reason}");
    }
}

#[tokio::test]
async fn the_log_says_why_a_request_failed_once_its_level_is_debug() {
    let (folder, port) = (Folder::new(), ports::free());
    let refused = format!("127.0.0.1:{}", ports::free()).parse().unwrap();
    folder.write(
        "errors.yaml",
        objects::join([
            objects::class(),
            objects::gateway(port, None),
            objects::route_to("all", &[], "refused"),
            objects::service("refused", &[refused]),
        ]),
    );
    let gateway = Gateway::start(&folder).await;
    assert_eq!(raw::get(port, HOST, "/").await.unwrap().status, 502);
    gateway.logged(|line| line["status"] == 502).await;
    let debug = "PUT /log-level HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 5\r\n\r\ndebug";
    assert_eq!(raw::exchange(gateway.admin, debug).await.unwrap().status, 204);
    assert_eq!(raw::get(port, HOST, "/").await.unwrap().status, 502);
    let first = |message: &str| gateway.log().iter().position(|line| line.contains(message));
    let said = wait::until("the reason in the log", || async { first("\"message\":\"request failed\"") }).await;
    assert!(first("log level changed").is_some_and(|changed| changed < said), "{:?}", gateway.log());
}

#[tokio::test]
async fn rfc9110_15_5_20_a_host_of_another_listener_is_misdirected_on_this_connection() {
    let (folder, authority) = (Folder::new(), Authority::default());
    let backend = Backend::echo("one").await;
    let port = ports::free();
    folder.write(
        "two.yaml",
        objects::join([
            objects::class(),
            format!(
                "\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge, namespace: default}}
spec:
  gatewayClassName: sluice
  listeners:
  - {{name: a, port: {port}, protocol: HTTPS, hostname: a.example, tls: {{certificateRefs: [{{name: both}}]}}}}
  - {{name: b, port: {port}, protocol: HTTPS, hostname: b.example, tls: {{certificateRefs: [{{name: both}}]}}}}
"
            ),
            objects::secret("both", &authority.leaf(&["a.example", "b.example"])),
            objects::route_to("all", &[], "one"),
            objects::service("one", &[backend.address]),
        ]),
    );
    let gateway = Gateway::start(&folder).await;
    // A browser would reuse this connection for b.example: the certificate covers it.
    let client = http2::Connection::tls(port, "a.example", authority.client(&["h2"])).await.unwrap();
    assert_eq!(client.get("a.example", "/").await.unwrap().status, 200);
    assert_eq!(client.get("b.example", "/").await.unwrap().status, 421);
    assert_eq!(gateway.logged(|l| l["status"] == 421).await["reason"], "misdirected_request");
    let mut client = raw::Client::connect_tls(port, "a.example", authority.client(&["http/1.1"])).await.unwrap();
    client.send("GET /one HTTP/1.1\r\nHost: b.example\r\n\r\n").await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 421);
    assert_eq!(gateway.logged(|l| l["path"] == "/one").await["reason"], "misdirected_request");
    assert_eq!(backend.count(), 1);
}
