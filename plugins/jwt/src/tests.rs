//! Keys and tokens are those of `tests/tokens.json`, made with another implementation (OpenSSL, by Python's cryptography).

use super::*;
use serde_json::json;
use sluice_plugin::testing::{Exchange, Services, StubAnswer, Tested, configure};
use std::cell::Cell;
use std::rc::Rc;
use std::time;

fn fixtures() -> Value {
    serde_json::from_str(include_str!("../tests/tokens.json")).unwrap()
}

fn token(name: &str) -> String {
    fixtures()["tokens"][name].as_str().unwrap_or_else(|| panic!("no token {name}")).to_owned()
}

fn plugin(config: Value) -> Result<Tested<Jwt>, String> {
    configure(config)
}

const ALL: [&str; 6] = ["RS256", "RS384", "RS512", "ES256", "ES384", "EdDSA"];

/// The issuer of the tokens, by its keys.
fn issuer() -> Value {
    json!({ "issuer": "https://idp.example/", "audiences": ["shop"], "algorithms": ALL, "keys": fixtures()["keys"].as_array().unwrap()[..4] })
}

fn with(more: Value) -> Tested<Jwt> {
    let mut config = json!({ "issuers": [issuer()] });
    for (name, value) in more.as_object().unwrap() {
        config[name] = value.clone();
    }
    plugin(config).unwrap()
}

fn bearer(name: &str) -> Exchange {
    Exchange::get("/orders").header("authorization", format!("Bearer {}", token(name)))
}

/// Status and challenge of the answer; none where the request passed.
fn refused(plugin: &Tested<Jwt>, mut exchange: Exchange) -> Option<(u16, String)> {
    match exchange.on_request(plugin) {
        Decision::Respond(reply) => {
            assert_eq!(attributes::get::<String>(SUBJECT), None);
            let challenge = reply.headers.iter().find(|(name, _)| name == "www-authenticate");
            let challenge = challenge.map(|(_, value)| String::from_utf8(value.clone()).unwrap());
            Some((reply.status, challenge.unwrap_or_default()))
        }
        _ => None,
    }
}

#[test]
fn tokens_of_each_algorithm_pass() {
    let plugin = with(json!({}));
    for name in ["rs256", "rs384", "rs512", "es256", "es384", "eddsa", "without_kid"] {
        assert_eq!(refused(&plugin, bearer(name)), None, "{name}");
        assert_eq!(attributes::get::<String>(SUBJECT).as_deref(), Some("ann"));
        assert_eq!(attributes::get::<String>(ISSUER).as_deref(), Some("https://idp.example/"));
    }
}

#[test]
fn a_token_that_is_not_valid_is_refused_and_the_challenge_says_why() {
    let plugin = with(json!({}));
    for (name, why) in [
        ("forged", "its signature is not valid"),
        ("rotated", "its signature is not valid"),
        ("wrong_kind", "its signature is not valid"),
        ("expired", "it has expired"),
        ("not_yet", "it is not valid yet"),
        ("eternal", "it never expires"),
        ("time_is_text", "one of its times is no number"),
        ("other_issuer", "its issuer is not known"),
        ("other_audience", "it is for another audience"),
        ("critical", "it asks for an extension"),
        ("none", "its algorithm is not one of its issuer's"),
        ("hs256", "its algorithm is not one of its issuer's"),
    ] {
        let wanted = format!("Bearer realm=\"sluice\", error=\"invalid_token\", error_description=\"{why}\"");
        assert_eq!(refused(&plugin, bearer(name)), Some((401, wanted)), "{name}");
    }
}

#[test]
fn no_byte_of_a_token_can_be_changed() {
    let plugin = with(json!({}));
    for name in ["rs256", "es256", "eddsa"] {
        let token = token(name);
        // The last character of a part may hold bits that mean nothing.
        for at in (0..token.len() - 1).step_by(7).filter(|at| !token[*at..=*at + 1].contains('.')) {
            let other = if token.as_bytes()[at] == b'A' { "B" } else { "A" };
            let changed = format!("{}{other}{}", &token[..at], &token[at + 1..]);
            let exchange = Exchange::get("/").header("authorization", format!("Bearer {changed}"));
            assert_eq!(refused(&plugin, exchange).map(|(status, _)| status), Some(401), "{name} at {at}");
        }
    }
}

#[test]
fn what_is_no_token_is_refused() {
    let plugin = with(json!({}));
    for text in ["", "x", "a.b", "a.b.c.d", "....", "e30.e30.e30", "é"] {
        let exchange = Exchange::get("/").header("authorization", format!("Bearer {text}"));
        assert_eq!(refused(&plugin, exchange).map(|(status, _)| status), Some(401), "{text}");
    }
    assert_eq!(refused(&plugin, Exchange::get("/")), Some((401, "Bearer realm=\"sluice\"".to_owned())));
    let basic = Exchange::get("/").header("authorization", "Basic YTpi");
    assert_eq!(refused(&plugin, basic), Some((401, "Bearer realm=\"sluice\"".to_owned())));
}

#[test]
fn clocks_may_be_apart_by_the_leeway() {
    // The clock of a test stands ten seconds after it expired.
    assert_eq!(refused(&with(json!({})), bearer("just_expired")), None);
    assert!(refused(&with(json!({ "leeway": "10s" })), bearer("just_expired")).is_some());
    assert_eq!(refused(&with(json!({ "allowWithoutExpiry": true })), bearer("eternal")), None);
}

#[test]
fn an_algorithm_that_the_issuer_does_not_use_is_refused() {
    let mut issuer = issuer();
    issuer["algorithms"] = json!(["ES256"]);
    let plugin = plugin(json!({ "issuers": [issuer] })).unwrap();
    assert_eq!(refused(&plugin, bearer("es256")), None);
    assert!(refused(&plugin, bearer("rs256")).unwrap().1.contains("its algorithm"));
}

#[test]
fn a_token_is_taken_from_one_of_the_places_and_only_one() {
    let plugin = with(json!({ "cookie": "token", "query": "t", "hideToken": true }));
    let text = token("es256");
    let mut by_cookie = Exchange::get("/").header("cookie", format!("a=b; token={text}"));
    assert!(by_cookie.on_request(&plugin).is_continue());
    assert_eq!(by_cookie.request().header_str("cookie").as_deref(), Some("a=b"));
    let mut by_query = Exchange::get(&format!("/?t={text}"));
    assert!(by_query.on_request(&plugin).is_continue());
    assert_eq!(by_query.request().query(), None);
    let mut by_header = bearer("es256");
    assert!(by_header.on_request(&plugin).is_continue());
    assert_eq!(by_header.request().header("authorization"), None);
    let twice = bearer("es256").header("cookie", format!("token={text}"));
    assert!(refused(&plugin, twice).unwrap().1.contains("more than one token"));
    let bare = with(json!({ "header": "x-token", "scheme": "" }));
    assert_eq!(refused(&bare, Exchange::get("/").header("x-token", &text)), None);
}

#[test]
fn claims_are_told_and_what_a_client_sends_in_their_place_is_not() {
    let claims = json!([
        { "claim": "email", "header": "x-email" }, { "claim": "realm_access.roles", "header": "x-roles", "attribute": "roles" },
        { "claim": "missing", "header": "x-missing" },
    ]);
    let plugin = with(json!({ "claims": claims, "optional": true }));
    let spoofed = |exchange: Exchange| exchange.header("x-missing", "spoofed").header("x-roles", "admin");
    let mut exchange = spoofed(bearer("es256"));
    assert!(exchange.on_request(&plugin).is_continue());
    assert_eq!(exchange.request().header_values("x-email"), [b"ann@shop.example"]);
    assert_eq!(exchange.request().header_values("x-roles"), [b"cook,chef"]);
    assert_eq!(exchange.request().header("x-missing"), None);
    assert_eq!(attributes::get::<String>("roles").as_deref(), Some("cook,chef"));
    let mut without = spoofed(Exchange::get("/"));
    assert!(without.on_request(&plugin).is_continue(), "a token is optional");
    assert_eq!((without.request().header("x-roles"), without.request().header("x-missing")), (None, None));
    assert!(refused(&plugin, bearer("forged")).is_some(), "a wrong one is none");
}

#[test]
fn a_token_that_does_not_say_what_it_has_to_is_answered_403() {
    for (claim, any_of, passes) in [
        ("scope", "orders.write", true),
        ("scope", "orders", false),
        ("realm_access.roles", "chef", true),
        ("realm_access.roles", "owner", false),
        ("sub", "ann", true),
        ("missing", "", false),
    ] {
        let plugin = with(json!({ "require": [{ "claim": claim, "anyOf": [any_of] }] }));
        let status = refused(&plugin, bearer("es256")).map(|(status, _)| status);
        assert_eq!(status, (!passes).then_some(403), "{claim} {any_of}");
    }
}

/// An issuer whose keys are fetched, and how often they were.
struct Source {
    answers: Rc<Cell<&'static str>>,
    asked: Rc<Cell<usize>>,
}

impl Source {
    fn new() -> Source {
        Source { answers: Rc::new(Cell::new("keys")), asked: Rc::default() }
    }

    fn send(&self, plugin: &Tested<Jwt>, name: &str) -> Option<u16> {
        let (answers, asked) = (self.answers.clone(), self.asked.clone());
        let exchange = bearer(name).backend("idp", move |request| {
            assert_eq!(request.target, "/jwks.json");
            asked.set(asked.get() + 1);
            match answers.get() {
                "down" => StubAnswer::failure("connect"),
                "html" => StubAnswer::new(200).body("<html>"),
                which => StubAnswer::new(200).body(json!({ "keys": fixtures()[which] }).to_string()),
            }
        });
        refused(plugin, exchange).map(|(status, _)| status)
    }
}

fn fetching() -> Tested<Jwt> {
    let jwks = json!({ "backend": "idp", "path": "/jwks.json", "cacheFor": "10m" });
    plugin(json!({ "issuers": [{ "issuer": "https://idp.example/", "jwks": jwks }] })).unwrap()
}

#[test]
fn keys_are_fetched_once_and_again_when_their_time_is_over() {
    let (services, source, plugin) = (Services::new().store("jwks"), Source::new(), fetching());
    for _ in 0..3 {
        assert_eq!(source.send(&plugin, "rs256"), None);
    }
    assert_eq!(source.asked.get(), 1);
    services.advance(time::Duration::from_secs(600));
    assert_eq!(source.send(&plugin, "es256"), None);
    assert_eq!(source.asked.get(), 2);
}

#[test]
fn a_new_key_is_fetched_for_and_tokens_without_one_can_not_ask_all_the_time() {
    let (services, source, plugin) = (Services::new().store("jwks"), Source::new(), fetching());
    assert_eq!(source.send(&plugin, "rs256"), None);
    services.advance(time::Duration::from_secs(30));
    source.answers.set("next");
    assert_eq!(source.send(&plugin, "rotated"), None, "the issuer has changed its keys");
    assert_eq!(source.asked.get(), 2);
    for _ in 0..5 {
        assert_eq!(source.send(&plugin, "rs256"), Some(401), "its former key is gone");
    }
    assert_eq!(source.asked.get(), 2, "within 30 s nobody asks again");
}

#[test]
fn while_the_issuer_is_away_its_keys_from_before_are_used_and_without_any_the_answer_is_503() {
    let (services, source, plugin) = (Services::new().store("jwks"), Source::new(), fetching());
    for (count, answers) in ["down", "html"].into_iter().enumerate() {
        source.answers.set(answers);
        for _ in 0..3 {
            assert_eq!(source.send(&plugin, "rs256"), Some(503), "{answers}");
        }
        assert_eq!(source.asked.get(), count + 1, "not each request waits for it");
        services.advance(time::Duration::from_secs(5));
    }
    source.answers.set("keys");
    assert_eq!(source.send(&plugin, "rs256"), None, "after five seconds one asks again");
    services.advance(time::Duration::from_secs(3_600));
    source.answers.set("down");
    let before = source.asked.get();
    assert_eq!(source.send(&plugin, "rs256"), None);
    assert_eq!(source.send(&plugin, "rs256"), None);
    assert_eq!(source.asked.get(), before + 1, "and not each request waits for it");
    services.advance(time::Duration::from_secs(24 * 3_600));
    assert_eq!(source.send(&plugin, "rs256"), Some(503));
}

/// Plugins may share a store, and call different backends by the same name.
#[test]
fn the_keys_of_one_issuer_are_never_anothers() {
    let (_services, source, own) = (Services::new().store("jwks"), Source::new(), fetching());
    source.answers.set("next");
    let jwks = json!({ "backend": "idp", "path": "/jwks.json" });
    let other = plugin(json!({ "issuers": [{ "issuer": "https://evil.example/", "jwks": jwks }] })).unwrap();
    assert_eq!(source.send(&other, "other_issuer"), Some(401));
    source.answers.set("keys");
    assert_eq!(source.send(&own, "rs256"), None);
}

#[test]
fn without_the_store_keys_are_fetched_for_each_request() {
    let (source, plugin) = (Source::new(), fetching());
    assert_eq!((source.send(&plugin, "rs256"), source.send(&plugin, "rs256")), (None, None));
    assert_eq!(source.asked.get(), 2);
}

#[test]
fn a_configuration_that_could_not_work_is_refused_with_its_place() {
    let refused = |config| plugin(config).err().expect("it was accepted");
    let of = |more: Value| {
        let mut issuer = json!({ "issuer": "a" });
        for (name, value) in more.as_object().unwrap() {
            issuer[name] = value.clone();
        }
        json!({ "issuers": [issuer] })
    };
    assert!(refused(of(json!({}))).starts_with("issuers[0]: it needs either jwks or keys"));
    assert!(refused(of(json!({ "keys": [5] }))).starts_with("issuers[0].keys[0]: it is not a JSON Web Key"));
    assert!(
        refused(of(json!({ "keys": [fixtures()["weak"]] }))).contains("keys[0]: it is not an RSA key of 2048 to 4096")
    );
    let unknown = json!({ "kty": "oct", "k": "c2VjcmV0" });
    assert!(refused(of(json!({ "keys": [unknown] }))).contains("keys of kind oct"));
    let off = json!({ "kty": "EC", "crv": "P-256", "x": "A".repeat(43), "y": "A".repeat(43) });
    assert!(refused(of(json!({ "keys": [off] }))).contains("not a point of P-256"));
    assert!(plugin(of(json!({ "algorithms": ["HS256"], "keys": [] }))).is_err());
    let never = json!({ "jwks": { "backend": "b", "path": "/", "cacheFor": "0s" } });
    assert!(refused(of(never)).starts_with("issuers[0].jwks.cacheFor"));
    let twice = json!({ "issuers": [issuer(), issuer()] });
    assert!(refused(twice).starts_with("issuers[1].issuer: "));
    let nowhere = json!({ "issuers": [issuer()], "claims": [{ "claim": "sub" }] });
    assert!(refused(nowhere).starts_with("claims[0]: "));
    let framing = json!({ "issuers": [issuer()], "claims": [{ "claim": "sub", "header": "Host" }] });
    assert!(refused(framing).starts_with("claims[0].header: `host` "));
    assert!(refused(json!({ "issuers": [issuer()], "header": null })).contains("neither header, cookie nor query"));
}
