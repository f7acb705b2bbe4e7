use super::*;
use serde_json::json;
use sluice_plugin::testing::{Exchange, Tested, configure};

fn plugin(config: serde_json::Value) -> Result<Tested<Transform>, String> {
    configure(config)
}

#[test]
fn request_headers_are_removed_then_set_then_appended() {
    let plugin = plugin(json!({ "request": { "headers": {
        "remove": ["x-debug"],
        "set": { "x-tenant": "${request.header.host-tenant:-none}", "x-skipped": "${request.header.missing}" },
        "append": { "via": "1.1 edge" },
    } } }))
    .unwrap();
    let mut exchange = Exchange::get("/")
        .header("x-debug", "1")
        .header("host-tenant", "acme")
        .header("x-tenant", "spoofed")
        .header("x-skipped", "stays")
        .header("via", "1.0 client");
    assert!(exchange.on_request(&plugin).is_continue());
    let request = exchange.request();
    assert_eq!(request.header("x-debug"), None);
    assert_eq!(request.header_values("x-tenant"), [b"acme"]);
    assert_eq!(request.header_str("x-skipped").as_deref(), Some("stays"));
    assert_eq!(request.header_values("via"), [b"1.0 client".to_vec(), b"1.1 edge".to_vec()]);
}

#[test]
fn a_path_is_set_from_a_template_whose_values_stay_one_segment() {
    let plugin =
        plugin(json!({ "request": { "path": { "set": "/tenants/${request.header.x-t}${request.path}" } } })).unwrap();
    let mut exchange = Exchange::get("/a%2Fb?q=1").header("x-t", "a/../b");
    assert!(exchange.on_request(&plugin).is_continue());
    assert_eq!(exchange.request().path(), "/tenants/a%2F..%2Fb/a%2Fb");
    assert_eq!(exchange.request().query().as_deref(), Some("q=1"));
}

#[test]
fn a_prefix_is_replaced_at_the_border_of_a_segment() {
    let plugin =
        plugin(json!({ "request": { "path": { "replacePrefix": { "from": "/api/", "to": "/v2" } } } })).unwrap();
    for (path, expected) in [("/api/x", "/v2/x"), ("/api", "/v2"), ("/apis", "/apis"), ("/x", "/x")] {
        let mut exchange = Exchange::get(path);
        assert!(exchange.on_request(&plugin).is_continue());
        assert_eq!(exchange.request().path(), expected);
    }
}

#[test]
fn query_parameters_are_removed_and_set() {
    let plugin = plugin(json!({ "request": { "query": {
        "remove": ["utm_source"], "set": { "who": "${attribute.key-auth.consumer}" },
    } } }))
    .unwrap();
    let mut exchange = Exchange::get("/?utm_source=x&a=1").attribute("key-auth.consumer", "ann & bob".to_owned());
    assert!(exchange.on_request(&plugin).is_continue());
    assert_eq!(exchange.request().query().as_deref(), Some("a=1&who=ann%20%26%20bob"));
}

#[test]
fn response_headers_may_refer_to_request_and_response() {
    let plugin = plugin(json!({ "response": { "headers": {
        "remove": ["server"], "set": { "x-was": "${request.method} ${response.status} ${response.header.x-a}" },
    } } }))
    .unwrap();
    let mut exchange = Exchange::get("/").status(404).response_header("server", "x").response_header("x-a", "1");
    assert!(exchange.on_response(&plugin).is_continue());
    assert_eq!(exchange.response().header("server"), None);
    assert_eq!(exchange.response().header_str("x-was").as_deref(), Some("GET 404 1"));
}

#[test]
fn a_change_that_the_gateway_refuses_leaves_the_other_rules_in_force() {
    let plugin = plugin(json!({ "request": { "headers": { "set": { "content-length": "0", "x-a": "1" } } } })).unwrap();
    let mut exchange = Exchange::get("/");
    assert!(exchange.on_request(&plugin).is_continue());
    assert_eq!(exchange.request().header("content-length"), None);
    assert_eq!(exchange.request().header_str("x-a").as_deref(), Some("1"));
}

#[test]
fn a_template_that_is_none_is_refused_with_its_field() {
    for (config, field) in [
        (json!({ "request": { "headers": { "set": { "x-a": "${nothing}" } } } }), "request.headers.set.x-a"),
        (json!({ "request": { "path": { "set": "$" } } }), "request.path.set"),
        (json!({ "response": { "headers": { "append": { "x-b": "${" } } } }), "response.headers.append.x-b"),
    ] {
        match plugin(config) {
            Ok(_) => panic!("{field} was accepted"),
            Err(message) => assert!(message.starts_with(field), "{message}"),
        }
    }
    assert!(plugin(json!({ "requests": {} })).is_err());
}
