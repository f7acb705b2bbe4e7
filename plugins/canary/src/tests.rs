use super::*;
use serde_json::json;
use sluice_plugin::testing::{Exchange, StubAnswer, Tested, configure};

fn plugin(config: serde_json::Value) -> Result<Tested<Canary>, String> {
    configure(config)
}

/// Track and what decided it, as the backend and the access log learn them.
fn track(plugin: &Tested<Canary>, mut exchange: Exchange) -> (String, String) {
    assert!(exchange.on_request(plugin).is_continue());
    let told = exchange.request().header_str("x-track").unwrap();
    assert_eq!(attributes::get::<String>(TRACK).as_ref(), Some(&told));
    (told, attributes::get::<String>(BY).unwrap())
}

fn both(track: &str, by: &str) -> (String, String) {
    (track.to_owned(), by.to_owned())
}

#[test]
fn the_header_decides_before_the_cookie_and_that_before_chance() {
    let config = json!({
        "header": { "name": "x-canary" }, "cookie": { "name": "canary", "canary": ["yes"], "stable": ["no"] }, "percent": 100,
    });
    let plugin = plugin(config).unwrap();
    let with = |header: &str, cookie: &str| {
        Exchange::get("/")
            .header("x-canary", header)
            .header("cookie", format!("canary={cookie}"))
            .header("x-track", "mine")
    };
    assert_eq!(track(&plugin, with("never", "yes")), both("stable", "header"));
    assert_eq!(track(&plugin, with("always", "no")), both("canary", "header"));
    assert_eq!(track(&plugin, with("perhaps", "no")), both("stable", "cookie"));
    assert_eq!(track(&plugin, with("", "")), both("canary", "percent"));
}

#[test]
fn chance_follows_the_share() {
    let draws = |percent: f64| {
        let plugin = plugin(json!({ "percent": percent })).unwrap();
        (0..400).filter(|_| track(&plugin, Exchange::get("/")).0 == "canary").count()
    };
    assert_eq!(draws(100.0), 400);
    assert!((20..=180).contains(&draws(25.0)));
}

#[test]
fn requests_with_the_same_key_share_their_track() {
    let plugin = plugin(json!({ "percent": 50, "key": "x-user" })).unwrap();
    let of = |user: usize| track(&plugin, Exchange::get("/").header("x-user", format!("user-{user}"))).0;
    let canaries: Vec<_> = (0..200).map(of).collect();
    assert_eq!(canaries, (0..200).map(of).collect::<Vec<_>>());
    let count = canaries.iter().filter(|track| *track == "canary").count();
    assert!((60..=140).contains(&count), "{count} of 200");
}

#[test]
fn the_canarys_requests_go_to_its_backend_and_others_where_their_rule_says() {
    let plugin = plugin(json!({ "header": { "name": "x-canary" }, "backend": "next" })).unwrap();
    let sent = |value: &str, may: bool| {
        let exchange = Exchange::get("/").header("x-canary", value).backend("next", |_| StubAnswer::new(200));
        let mut exchange = if may { exchange.routing() } else { exchange };
        assert!(exchange.on_request(&plugin).is_continue());
        (exchange.destination(), exchange.request().header_str("x-track").unwrap())
    };
    assert_eq!(sent("always", true), (Some("next".to_owned()), "canary".to_owned()));
    assert_eq!(sent("never", true), (None, "stable".to_owned()));
    assert_eq!(sent("always", false), (None, "stable".to_owned()), "what was not done is not told");
}

#[test]
fn a_client_keeps_what_was_drawn_for_it() {
    let plugin = plugin(json!({ "percent": 100, "cookie": { "name": "c", "keepFor": "1h" } })).unwrap();
    let mut exchange = Exchange::get("/");
    assert!(exchange.on_request(&plugin).is_continue());
    assert!(exchange.on_response(&plugin).is_continue());
    let cookie = exchange.response().header_str("set-cookie").unwrap();
    assert_eq!(cookie, "c=always; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax; Secure");
    let mut again = Exchange::get("/").header("cookie", "c=always");
    assert!(again.on_request(&plugin).is_continue());
    assert!(again.on_response(&plugin).is_continue());
    assert_eq!(again.response().header("set-cookie"), None, "it has the cookie");
}

#[test]
fn a_configuration_that_decides_nothing_or_two_things_is_refused() {
    let refused = |config| plugin(config).err().expect("it was accepted");
    assert!(refused(json!({})).contains("neither header, cookie nor percent"));
    assert!(refused(json!({ "percent": 101 })).starts_with("percent: "));
    let both = json!({ "header": { "name": "x", "canary": ["a"], "stable": ["a"] } });
    assert!(refused(both).starts_with("header: `a` is in canary and in stable"));
    let unfit = json!({ "cookie": { "name": "c", "canary": ["a;b"], "keepFor": "1h" } });
    assert!(refused(unfit).starts_with("cookie.canary"));
}
