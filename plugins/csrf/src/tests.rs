use super::*;
use serde_json::json;
use sluice_plugin::testing::{Exchange, Tested, configure};

fn plugin(config: serde_json::Value) -> Result<Tested<Csrf>, String> {
    configure(config)
}

/// To `https://example.com`.
fn post() -> Exchange {
    Exchange::new("POST", "/transfer")
}

fn passes(plugin: &Tested<Csrf>, mut exchange: Exchange) -> bool {
    exchange.on_request(plugin).is_continue()
}

#[test]
fn a_request_of_the_sites_own_pages_passes_and_one_of_another_site_does_not() {
    let plugin = plugin(json!({ "trustedOrigins": ["https://app.example"] })).unwrap();
    for origin in ["https://example.com", "https://EXAMPLE.com:443", "https://app.example"] {
        assert!(passes(&plugin, post().header("origin", origin)), "{origin}");
    }
    let other = [
        "https://evil.example",
        "http://example.com",
        "https://example.com:8443",
        "null",
        "https://example.com.evil.example",
    ];
    for origin in other {
        assert!(!passes(&plugin, post().header("origin", origin)), "{origin}");
    }
    let two = post().header("origin", "https://example.com").header("origin", "https://evil.example");
    assert!(!passes(&plugin, two));
}

#[test]
fn where_there_is_no_origin_the_referer_counts() {
    let plugin = plugin(json!({})).unwrap();
    assert!(passes(&plugin, post().header("referer", "https://example.com/form?x=1")));
    assert!(!passes(&plugin, post().header("referer", "https://evil.example/https://example.com/")));
    assert!(!passes(&plugin, post()), "neither of them");
    assert!(passes(&self::plugin(json!({ "allowWithoutOrigin": true })).unwrap(), post()));
}

#[test]
fn a_browser_that_says_that_the_page_is_of_the_same_origin_is_believed() {
    let plugin = plugin(json!({})).unwrap();
    assert!(passes(&plugin, post().header("sec-fetch-site", "same-origin").header("origin", "http://behind.proxy")));
    for site in ["cross-site", "same-site"] {
        assert!(!passes(&plugin, post().header("sec-fetch-site", site).header("origin", "https://evil.example")));
    }
}

#[test]
fn safe_methods_pass_but_a_websocket_shows_its_origin() {
    let plugin = plugin(json!({})).unwrap();
    let get = || Exchange::get("/").header("origin", "https://evil.example");
    assert!(passes(&plugin, get()));
    assert!(!passes(&plugin, get().header("sec-websocket-key", "x")));
    let strict = self::plugin(json!({ "safeMethods": ["HEAD"] })).unwrap();
    assert!(!passes(&strict, get()));
}

#[test]
fn a_token_is_handed_out_once_and_has_to_be_sent_back() {
    let plugin = plugin(json!({ "check": "DoubleSubmit" })).unwrap();
    let mut page = Exchange::get("/");
    assert!(page.on_request(&plugin).is_continue());
    assert!(page.on_response(&plugin).is_continue());
    let cookie = page.response().header_str("set-cookie").unwrap();
    let (pair, attributes) = cookie.split_once(';').unwrap();
    assert_eq!(attributes, " Path=/; SameSite=Lax; Secure");
    let token = pair.strip_prefix("__Host-csrf=").unwrap();
    assert_eq!(token.len(), 64);
    assert!(passes(&plugin, post().header("cookie", pair).header("x-csrf-token", token)));
    for exchange in [
        post().header("cookie", pair),
        post().header("x-csrf-token", token),
        post().header("cookie", pair).header("x-csrf-token", token.replace('a', "b").replace('1', "2")),
        post().header("cookie", "__Host-csrf=").header("x-csrf-token", ""),
        post().header("cookie", format!("{pair}; __Host-csrf=other")).header("x-csrf-token", token),
    ] {
        assert!(!passes(&plugin, exchange));
    }
    let mut again = Exchange::get("/").header("cookie", pair);
    assert!(again.on_response(&plugin).is_continue());
    assert_eq!(again.response().header("set-cookie"), None);
}

/// A sibling host can set a cookie whose name begins with what Unicode calls white space, and to browsers is no `__Host-`.
#[test]
fn a_cookie_that_only_looks_like_the_token_is_not_it() {
    let plugin = plugin(json!({ "check": "DoubleSubmit" })).unwrap();
    let token = "0123456789abcdef0123456789abcdef";
    let sent =
        |before: &str| post().header("cookie", format!("{before}__Host-csrf={token}")).header("x-csrf-token", token);
    assert!(passes(&plugin, sent("")));
    for before in ["\u{2000}", "\u{85}", "\u{a0}"] {
        assert!(!passes(&plugin, sent(before)), "{before:?}");
    }
    // Nor does something that is no text keep the token itself from being found.
    let beside = [b"a=\xff; ".as_slice(), format!("__Host-csrf={token}").as_bytes()].concat();
    assert!(passes(&plugin, post().header("cookie", beside).header("x-csrf-token", token)));
}

#[test]
fn both_checks_can_be_asked_for() {
    let plugin = plugin(json!({ "check": "Both", "cookie": "csrf" })).unwrap();
    let token = "0123456789abcdef0123456789abcdef";
    let with_token = || post().header("cookie", format!("csrf={token}")).header("x-csrf-token", token);
    assert!(passes(&plugin, with_token().header("origin", "https://example.com")));
    assert!(!passes(&plugin, with_token().header("origin", "https://evil.example")));
    assert!(!passes(&plugin, post().header("origin", "https://example.com")));
}

#[test]
fn what_is_no_origin_is_refused_with_its_place() {
    for wrong in ["app.example", "https://app.example/path", "null", "https://*.example /"] {
        let message = plugin(json!({ "trustedOrigins": ["https://a.example", wrong] })).err().unwrap();
        assert!(message.starts_with("trustedOrigins[1]: "), "{wrong}: {message}");
    }
}
