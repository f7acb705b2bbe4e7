use super::*;
use serde_json::json;
use sluice_plugin::testing::{Exchange, Tested, configure};

fn plugin(config: serde_json::Value) -> Result<Tested<SecurityHeaders>, String> {
    configure(config)
}

fn answered(plugin: &Tested<SecurityHeaders>, mut exchange: Exchange) -> Exchange {
    assert!(exchange.on_response(plugin).is_continue());
    exchange
}

fn value(exchange: &Exchange, name: &str) -> Option<String> {
    exchange.response().header_str(name)
}

#[test]
fn without_a_configuration_the_headers_that_break_nothing_are_set() {
    let plugin = plugin(json!({})).unwrap();
    let exchange = answered(&plugin, Exchange::get("/").response_header("server", "x/1").response_header("x-a", "1"));
    assert_eq!(value(&exchange, HSTS).as_deref(), Some("max-age=31536000"));
    assert_eq!(value(&exchange, "x-content-type-options").as_deref(), Some("nosniff"));
    assert_eq!(value(&exchange, "x-frame-options").as_deref(), Some("SAMEORIGIN"));
    assert_eq!(value(&exchange, "referrer-policy").as_deref(), Some("strict-origin-when-cross-origin"));
    assert_eq!((value(&exchange, "server"), value(&exchange, "x-a").as_deref()), (None, Some("1")));
    assert_eq!(value(&exchange, "content-security-policy"), None);
}

#[test]
fn a_header_of_the_backend_stays_unless_it_is_to_be_replaced() {
    let exchange = || Exchange::get("/").response_header("x-frame-options", "DENY");
    let keep = plugin(json!({})).unwrap();
    assert_eq!(value(&answered(&keep, exchange()), "x-frame-options").as_deref(), Some("DENY"));
    let replace = plugin(json!({ "overwrite": true })).unwrap();
    assert_eq!(value(&answered(&replace, exchange()), "x-frame-options").as_deref(), Some("SAMEORIGIN"));
}

#[test]
fn null_leaves_a_header_out() {
    let plugin = plugin(json!({
        "strictTransportSecurity": null, "frameOptions": null, "contentTypeOptions": false, "referrerPolicy": null,
        "remove": [], "crossOriginOpenerPolicy": "same-origin",
    }))
    .unwrap();
    let exchange = answered(&plugin, Exchange::get("/").response_header("server", "x"));
    let names: Vec<_> = exchange.response().headers().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["server", "cross-origin-opener-policy"]);
}

#[test]
fn a_policy_over_several_lines_is_sent_in_one() {
    let plugin = plugin(json!({ "contentSecurityPolicy": "default-src 'self';\n  img-src *\n" })).unwrap();
    let exchange = answered(&plugin, Exchange::get("/"));
    assert_eq!(value(&exchange, "content-security-policy").as_deref(), Some("default-src 'self'; img-src *"));
}

#[test]
fn what_browsers_would_not_take_is_refused() {
    let refused = |config| plugin(config).err().expect("it was accepted");
    let preload = json!({ "strictTransportSecurity": { "preload": true } });
    assert!(refused(preload).starts_with("strictTransportSecurity.preload: "));
    assert!(refused(json!({ "permissionsPolicy": "a\u{1}b" })).starts_with("permissionsPolicy: "));
    assert!(refused(json!({ "contentSecurityPolicy": " \n " })).starts_with("contentSecurityPolicy: "));
    let nothing = json!({
        "strictTransportSecurity": null, "frameOptions": null, "contentTypeOptions": false, "referrerPolicy": null,
        "remove": [],
    });
    assert!(refused(nothing).contains("nothing would be set"));
    let all =
        json!({ "strictTransportSecurity": { "preload": true, "includeSubDomains": true, "maxAge": 63_072_000 } });
    let exchange = answered(&plugin(all).unwrap(), Exchange::get("/"));
    assert_eq!(value(&exchange, HSTS).as_deref(), Some("max-age=63072000; includeSubDomains; preload"));
}
