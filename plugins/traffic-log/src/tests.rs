use super::*;
use serde_json::json;
use sluice_plugin::testing::{Exchange, Tested, configure};
use std::time::Duration;

fn plugin(config: serde_json::Value) -> Result<Tested<TrafficLog>, String> {
    configure(config)
}

fn logged(name: &str) -> Option<String> {
    attributes::get(&format!("traffic-log.{name}"))
}

#[test]
fn named_headers_of_both_sides_are_logged_and_secret_ones_without_their_values() {
    let config =
        json!({ "requestHeaders": ["X-A", "Authorization", "x-missing"], "responseHeaders": ["etag", "set-cookie"] });
    let plugin = plugin(config).unwrap();
    let mut exchange = Exchange::get("/")
        .header("x-a", "1")
        .header("x-a", "2")
        .header("authorization", "Bearer hunter2")
        .header("x-other", "no")
        .response_header("etag", "\"v1\"")
        .response_header("set-cookie", "a=hunter2");
    assert!(exchange.on_request(&plugin).is_continue());
    exchange.on_log(&plugin, Duration::from_millis(1));
    assert_eq!(logged("request.header.x-a").as_deref(), Some("1, 2"));
    assert_eq!(logged("request.header.authorization").as_deref(), Some("[redacted]"));
    assert_eq!((logged("request.header.x-missing"), logged("request.header.x-other")), (None, None));
    assert_eq!(logged("response.header.etag").as_deref(), Some("\"v1\""));
    assert_eq!(logged("response.header.set-cookie").as_deref(), Some("[redacted]"));
}

#[test]
fn secrets_in_queries_forms_and_json_are_replaced_by_name_and_by_pattern() {
    let config = json!({
        "query": true, "requestBody": {}, "redact": { "fields": ["Token", "pin"], "patterns": [r"\b\d{4}-\d{4}\b"] },
    });
    let plugin = plugin(config).unwrap();
    assert!(Exchange::get("/?a=1&%74oken=hunter2&card=1234-5678&flag").on_request(&plugin).is_continue());
    assert_eq!(logged("request.query").as_deref(), Some("a=1&%74oken=[redacted]&card=[redacted]&flag"));
    let mut exchange = Exchange::new("POST", "/")
        .header("content-type", "Application/JSON; charset=utf-8")
        .body(r#"{"a":[{"PIN":1234}],"note":"1234-5678","token":{"x":"hunter2"}}"#);
    assert_eq!(exchange.on_request(&plugin), ReadBody::at_most(16 << 10).or_pass().into());
    assert!(exchange.on_request_body(&plugin).is_continue());
    let body = logged("request.body").unwrap();
    assert_eq!(body, r#"{"a":[{"PIN":"[redacted]"}],"note":"[redacted]","token":"[redacted]"}"#);
    let form = "application/x-www-form-urlencoded";
    let mut exchange = Exchange::new("POST", "/").header("content-type", form).body("pin=1&x=2");
    assert!(exchange.on_request_body(&plugin).is_continue());
    assert_eq!(logged("request.body").as_deref(), Some("pin=[redacted]&x=2"));
}

#[test]
fn a_body_that_is_not_what_it_says_is_not_told() {
    let plugin = plugin(json!({ "requestBody": {} })).unwrap();
    let mut exchange =
        Exchange::new("POST", "/").header("content-type", "application/json").body(r#"{"password":"hunter2""#);
    assert!(exchange.on_request_body(&plugin).is_continue());
    assert_eq!(logged("request.body").as_deref(), Some("[not readable as JSON]"));
    assert!(Exchange::new("POST", "/").header("content-type", "image/png").on_request(&plugin).is_continue());
}

#[test]
fn what_is_too_long_is_cut_between_characters() {
    let plugin = plugin(json!({ "requestHeaders": ["x-a"] })).unwrap();
    assert!(Exchange::get("/").header("x-a", "é".repeat(3_000)).on_request(&plugin).is_continue());
    let value = logged("request.header.x-a").unwrap();
    assert!(value.len() <= VALUE && value.len() > VALUE - 4 && value.ends_with("é…"), "{}", value.len());
}

#[test]
fn only_a_share_is_logged_and_that_as_a_whole() {
    let plugin = plugin(json!({ "percent": 25, "requestHeaders": ["x-a"], "responseHeaders": ["x-b"] })).unwrap();
    let count = (0..400).filter(|_| {
        let mut exchange = Exchange::get("/").header("x-a", "1").response_header("x-b", "2");
        assert!(exchange.on_request(&plugin).is_continue());
        exchange.on_log(&plugin, Duration::from_millis(1));
        assert_eq!(logged("request.header.x-a").is_some(), logged("response.header.x-b").is_some());
        logged("request.header.x-a").is_some()
    });
    assert!((20..=180).contains(&count.count()));
}

#[test]
fn a_configuration_that_logs_nothing_or_can_not_be_read_is_refused() {
    let refused = |config| plugin(config).err().expect("it was accepted");
    assert!(refused(json!({})).contains("nothing would be logged"));
    assert!(
        refused(json!({ "query": true, "redact": { "patterns": ["x", "("] } })).starts_with("redact.patterns[1]: ")
    );
    assert!(refused(json!({ "requestBody": { "limit": "1Mi" } })).starts_with("requestBody.limit: "));
    assert!(plugin(json!({ "requestHeaders": ["a b"] })).is_err());
}
