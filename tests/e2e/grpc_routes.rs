//! GRPCRoute: calls by service and method, to endpoints that nobody said speak HTTP/2.

use crate::commands::{sluice, text};
use crate::shop::{HOST, Shop, backend_of};
use sluice_tests::grpc::Call;
use sluice_tests::http2::Connection;
use sluice_tests::objects::{join, route_to};
use sluice_tests::wait;

fn grpc_route(name: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  \
         parentRefs: [{{name: edge}}]\n  hostnames: [\"{HOST}\"]\n  rules:\n{rules}"
    )
}

/// Who answered, and the trailers' status.
async fn call(shop: &Shop, path: &str) -> anyhow::Result<(String, String)> {
    call_with(shop, path, &[]).await
}

async fn call_with(shop: &Shop, path: &str, metadata: &[(&str, &str)]) -> anyhow::Result<(String, String)> {
    let connection = Connection::clear(shop.http).await?;
    let mut call = Call::open_with(&connection, HOST, path, metadata).await?;
    let backend = call.headers().await?.get("x-backend").map(|name| name.to_str().unwrap().to_owned());
    let trailers = call.finish().await?;
    Ok((backend.unwrap_or_default(), trailers["grpc-status"].to_str().unwrap().to_owned()))
}

#[tokio::test]
async fn calls_go_by_service_method_and_header_and_a_stream_passes_both_ways() {
    let rules = "  - {matches: [{method: {service: echo.Echo, method: One}}], backendRefs: [{name: one, port: 80}]}
  - {matches: [{method: {service: echo.Echo}, headers: [{name: x-tenant, value: blue}]}], backendRefs: [{name: three, port: 80}]}
  - {matches: [{method: {service: echo.Echo}, headers: [{type: RegularExpression, name: x-tenant, value: 'r.*d'}]}], backendRefs: [{name: one, port: 80}]}
  - {matches: [{method: {service: echo.Echo}}], backendRefs: [{name: two, port: 80}]}
  - {matches: [{method: {method: Anywhere}}], backendRefs: [{name: three, port: 80}]}
  - {matches: [{method: {type: RegularExpression, service: 'v[0-9]+\\..*', method: 'Get|List'}}], backendRefs: [{name: one, port: 80}]}
";
    let shop = Shop::start(&["one", "two", "three"], &grpc_route("calls", rules)).await;
    for (path, backend) in [
        ("/echo.Echo/One", "one"),
        ("/echo.Echo/Two", "two"),
        ("/other.Service/Anywhere", "three"),
        ("/v2.Shop/List", "one"),
    ] {
        assert_eq!(call(&shop, path).await.unwrap(), (backend.to_owned(), "0".to_owned()), "{path}");
    }
    for (tenant, backend) in [("blue", "three"), ("red", "one"), ("green", "two")] {
        let (by, _) = call_with(&shop, "/echo.Echo/Two", &[("x-tenant", tenant)]).await.unwrap();
        assert_eq!(by, backend, "{tenant}");
    }
    assert_eq!(shop.backend("one").seen()[0].version, http::Version::HTTP_2);
    // Nothing has this method: UNIMPLEMENTED, as 404 maps to.
    let connection = Connection::clear(shop.http).await.unwrap();
    let request = connection.request("POST", HOST, "/no.Such/Method").header("content-type", "application/grpc");
    let answer = connection.exchange(request.body(()).unwrap(), sluice_tests::grpc::frame(b"")).await.unwrap();
    assert_eq!((answer.status, answer.header("grpc-status")), (200, Some("12")));

    let mut stream = Call::open(&connection, HOST, "/echo.Echo/Two").await.unwrap();
    for n in 0..10 {
        let message = format!("message {n}");
        assert_eq!(stream.exchange(message.as_bytes()).await.unwrap(), message.as_bytes());
    }
    assert_eq!(stream.finish().await.unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn filters_weights_and_named_rules_are_those_of_an_http_route() {
    let rules = "  - name: calls
    filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-team, value: shop}]}}]
    backendRefs: [{name: one, port: 80, weight: 1}, {name: two, port: 80, weight: 0}]
";
    let shop = Shop::start(&["one", "two"], &grpc_route("calls", rules)).await;
    for _ in 0..10 {
        assert_eq!(call(&shop, "/echo.Echo/One").await.unwrap().0, "one");
    }
    let seen = shop.backend("one").seen();
    assert_eq!(seen[0].headers["x-team"], "shop");
    let line = shop.gateway.logged(|line| line["route"] == "GRPCRoute default/calls").await;
    assert_eq!((&line["rule"], &line["path"]), (&"calls".into(), &"/echo.Echo/One".into()));
}

#[tokio::test]
async fn a_changed_route_is_for_the_next_call() {
    let to = |backend: &str| grpc_route("calls", &format!("  - backendRefs: [{{name: {backend}, port: 80}}]\n"));
    let shop = Shop::start(&["one", "two"], &to("one")).await;
    assert_eq!(call(&shop, "/a.A/B").await.unwrap().0, "one");
    shop.folder.write("more.yaml", to("two"));
    wait::until("the other backend", || async { (call(&shop, "/a.A/B").await.ok()?.0 == "two").then_some(()) }).await;
}

#[tokio::test]
async fn an_http_route_serves_other_hosts_beside_it_and_of_the_same_host_the_first_route_alone() {
    let calls = "  - {matches: [{method: {service: echo.Echo}}], backendRefs: [{name: two, port: 80}]}\n";
    let web = route_to("web", &["web.example"], "one");
    let shop = Shop::start(&["one", "two"], &join([grpc_route("calls", calls), web])).await;
    assert_eq!(call(&shop, "/echo.Echo/One").await.unwrap().0, "two");
    assert_eq!(backend_of(&shop.send("GET", "/page", "web.example", "").await), "one");

    // Equally old, as all files are: the name decides.
    shop.folder.write("pages.yaml", route_to("pages", &[HOST], "one"));
    let path = shop.folder.path().display().to_string();
    let said = wait::until("the conflict", || async {
        let said = text(&sluice(&["check", &path]));
        said.contains("SLUICE-P506 HTTPRoute default/pages spec.parentRefs[0]").then_some(said)
    })
    .await;
    assert!(said.contains("GRPCRoute default/calls goes first"), "{said}");
    assert_eq!(call(&shop, "/echo.Echo/One").await.unwrap().0, "two");
    assert_eq!(shop.get("/page").await.status, 404);
    shop.folder.remove("more.yaml");
    shop.until("the HTTPRoute to serve", "/page", |answer| answer.status == 200).await;
}
