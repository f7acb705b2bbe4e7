use super::*;
use serde_json::json;
use sluice_plugin::testing::{Exchange, Services, Tested, configure};
use std::time::Duration;

fn plugin(config: serde_json::Value) -> Result<Tested<Maintenance>, String> {
    configure(config)
}

fn answer(plugin: &Tested<Maintenance>, mut exchange: Exchange) -> Option<(u16, Option<String>)> {
    match exchange.on_request(plugin) {
        Decision::Respond(reply) => {
            let after = reply.headers.iter().find(|(name, _)| name == "retry-after");
            Some((reply.status, after.map(|(_, value)| String::from_utf8(value.clone()).unwrap())))
        }
        _ => None,
    }
}

#[test]
fn requests_are_answered_with_a_page_and_when_to_come_again() {
    let plugin = plugin(json!({})).unwrap();
    assert_eq!(answer(&plugin, Exchange::get("/")), Some((503, Some("300".to_owned()))));
    let Decision::Respond(reply) = Exchange::get("/").on_request(&plugin) else { panic!("it passed") };
    assert!(reply.headers.contains(&("cache-control".to_owned(), b"no-store".to_vec())));
    assert!(String::from_utf8(reply.body).unwrap().contains("Back soon"));
    assert_eq!(answer(&self::plugin(json!({ "retryAfter": null })).unwrap(), Exchange::get("/")), Some((503, None)));
    assert_eq!(answer(&self::plugin(json!({ "enabled": false })).unwrap(), Exchange::get("/")), None);
}

#[test]
fn it_begins_and_ends_by_itself() {
    // The clock of a test stands at the beginning of 2026.
    let services = Services::new();
    let plugin = plugin(json!({ "from": "2026-01-01T01:00:00Z", "until": "2026-01-01T03:30:00+01:00" })).unwrap();
    assert_eq!(answer(&plugin, Exchange::get("/")), None);
    services.advance(Duration::from_secs(3_600));
    assert_eq!(answer(&plugin, Exchange::get("/")), Some((503, Some("5400".to_owned()))));
    services.advance(Duration::from_secs(5_399));
    assert_eq!(answer(&plugin, Exchange::get("/")), Some((503, Some("1".to_owned()))));
    services.advance(Duration::from_secs(1));
    assert_eq!(answer(&plugin, Exchange::get("/")), None);
}

#[test]
fn those_who_work_on_it_pass() {
    let services = Services::new().secret("key", "hunter2\n");
    let plugin = plugin(json!({ "bypass": {
        "addresses": ["10.0.0.0/8"],
        "headers": [{ "name": "X-Key", "secret": "key" }, { "name": "x-qa", "value": "yes" }],
    } }))
    .unwrap();
    assert_eq!(answer(&plugin, Exchange::get("/").property("client.address", "10.1.1.1")), None);
    let mut exchange = Exchange::get("/").header("x-key", "hunter2");
    assert!(exchange.on_request(&plugin).is_continue());
    assert_eq!(exchange.request().header("x-key"), None, "the key reached the backend");
    assert_eq!(answer(&plugin, Exchange::get("/").header("x-qa", "yes")), None);
    for exchange in [
        Exchange::get("/").property("client.address", "192.0.2.1"),
        Exchange::get("/").header("x-key", "hunter3"),
        Exchange::get("/").header("x-qa", ""),
    ] {
        assert!(answer(&plugin, exchange).is_some());
    }
    services.revoke("key");
    assert!(answer(&plugin, Exchange::get("/").header("x-key", "")).is_some(), "a secret that is gone lets nobody in");
}

#[test]
fn a_configuration_that_makes_no_sense_is_refused() {
    let refused = |config| plugin(config).err().expect("it was accepted");
    assert!(refused(json!({ "until": "tomorrow" })).starts_with("until: `tomorrow` is not a time"));
    let backwards = json!({ "from": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z" });
    assert!(refused(backwards).starts_with("until: it is not after"));
    assert!(refused(json!({ "bypass": { "headers": [{ "name": "x" }] } })).starts_with("bypass.headers[0]"));
    assert!(refused(json!({ "bypass": { "addresses": ["x"] } })).starts_with("bypass.addresses[0]"));
    assert!(refused(json!({ "contentType": "a\nb" })).starts_with("contentType"));
}
