use super::*;
use serde_json::json;
use sluice_plugin::testing::{Exchange, Tested, configure};

fn plugin(config: serde_json::Value) -> Result<Tested<KeyAuth>, String> {
    configure(config)
}

/// `ann` by a key, `bob` by the digest of `bobs-key`.
fn consumers() -> serde_json::Value {
    json!([
        { "name": "ann", "keys": ["anns-key", "anns-other-key"] },
        { "name": "bob", "keyHashes": ["5D5C40BC5A7D1A6C5F2C0A8E6FD0E94A5B7D6E9A1E1E3B2B4B6A0B2C3D4E5F60"] },
    ])
}

fn reply(decision: Decision) -> Reply {
    match decision {
        Decision::Respond(reply) => reply,
        other => panic!("not a reply: {other:?}"),
    }
}

#[test]
fn a_known_key_passes_and_its_consumer_is_told() {
    let plugin = plugin(json!({ "consumers": consumers() })).unwrap();
    for key in ["anns-key", "anns-other-key"] {
        let mut exchange = Exchange::get("/orders").header("X-Api-Key", key).header("x-consumer", "root");
        assert!(exchange.on_request(&plugin).is_continue());
        assert_eq!(exchange.request().header_values("x-consumer"), [b"ann"]);
        assert_eq!(attributes::get::<String>(CONSUMER).as_deref(), Some("ann"));
    }
}

#[test]
fn a_key_known_by_its_digest_passes() {
    let hash: String = digest(b"bobs-key").iter().map(|byte| format!("{byte:02X}")).collect();
    let plugin = plugin(json!({ "consumers": [{ "name": "bob", "keyHashes": [hash] }] })).unwrap();
    assert!(Exchange::get("/").header("x-api-key", "bobs-key").on_request(&plugin).is_continue());
    assert_eq!(reply(Exchange::get("/").header("x-api-key", &hash).on_request(&plugin)).status, 401);
}

#[test]
fn without_a_valid_key_the_answer_is_401_with_a_challenge() {
    let plugin = plugin(json!({ "consumers": consumers(), "realm": "shop" })).unwrap();
    let wrong = ["", "anns-ke", "anns-key ", "ANNS-KEY"];
    let with = wrong.map(|key| Exchange::get("/").header("x-api-key", key));
    for mut exchange in with.into_iter().chain([Exchange::get("/")]) {
        let reply = reply(exchange.on_request(&plugin));
        assert_eq!(reply.status, 401);
        assert!(reply.headers.contains(&("www-authenticate".into(), b"Key realm=\"shop\"".to_vec())));
        assert_eq!(attributes::get::<String>(CONSUMER), None);
    }
}

#[test]
fn two_keys_in_one_request_are_refused_even_if_both_are_valid() {
    let plugin = plugin(json!({ "consumers": consumers(), "query": "key" })).unwrap();
    let mut twice = Exchange::get("/").header("x-api-key", "anns-key").header("x-api-key", "anns-other-key");
    assert_eq!(reply(twice.on_request(&plugin)).status, 401);
    let mut both = Exchange::get("/?key=anns-key").header("x-api-key", "anns-key");
    assert_eq!(reply(both.on_request(&plugin)).status, 401);
}

#[test]
fn the_key_is_taken_from_the_query_where_that_is_allowed() {
    let by_query = plugin(json!({ "consumers": consumers(), "query": "key" })).unwrap();
    let mut exchange = Exchange::get("/a?x=1&key=anns-key&y=2");
    assert!(exchange.on_request(&by_query).is_continue());
    assert_eq!(exchange.request().query().as_deref(), Some("x=1&y=2"));
    let mut alone = Exchange::get("/a?key=anns-key");
    assert!(alone.on_request(&by_query).is_continue());
    assert_eq!(alone.request().query(), None);
    let by_header = plugin(json!({ "consumers": consumers() })).unwrap();
    assert_eq!(reply(Exchange::get("/a?key=anns-key").on_request(&by_header)).status, 401);
}

#[test]
fn the_key_is_hidden_from_the_backend_unless_it_is_asked_for() {
    let hide = plugin(json!({ "consumers": consumers() })).unwrap();
    let mut exchange = Exchange::get("/").header("x-api-key", "anns-key");
    assert!(exchange.on_request(&hide).is_continue());
    assert_eq!(exchange.request().header("x-api-key"), None);
    let show = plugin(json!({ "consumers": consumers(), "hideCredentials": false, "consumerHeader": null })).unwrap();
    let mut exchange = Exchange::get("/").header("x-api-key", "anns-key").header("x-consumer", "theirs");
    assert!(exchange.on_request(&show).is_continue());
    assert_eq!(exchange.request().header_str("x-api-key").as_deref(), Some("anns-key"));
    assert_eq!(exchange.request().header_str("x-consumer").as_deref(), Some("theirs"));
}

#[test]
fn a_configuration_that_lets_nobody_in_or_two_as_one_is_refused() {
    let refused = |config| match plugin(config) {
        Ok(_) => panic!("it was accepted"),
        Err(message) => message,
    };
    assert!(refused(json!({ "consumers": consumers(), "header": null })).contains("neither header nor query"));
    assert!(refused(json!({ "consumers": [{ "name": "ann" }] })).contains("consumers[0]"));
    assert!(refused(json!({ "consumers": [{ "name": "ann", "keyHashes": ["zz"] }] })).contains("keyHashes"));
    let same = json!([{ "name": "ann", "keys": ["k"] }, { "name": "bob", "keys": ["k"] }]);
    assert!(refused(json!({ "consumers": same })).contains("`ann` has too"));
    assert!(refused(json!({ "consumers": [{ "name": "a\nb", "keys": ["k"] }] })).contains("control"));
    assert!(refused(json!({ "consumers": consumers(), "headr": "x" })).contains("headr"));
}
