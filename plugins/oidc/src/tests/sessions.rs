use super::*;

#[test]
fn a_session_ends_after_its_lifetime_whatever_comes() {
    let (services, mut browser) = (services(), Browser::at(json!({ "lifetime": "2h", "idle": "1h" })));
    browser.sign_in("/");
    for _ in 0..3 {
        services.advance(Duration::from_secs(30 * 60));
        assert!(browser.passes());
    }
    services.advance(Duration::from_secs(30 * 60));
    assert!(!browser.passes());
}

#[test]
fn a_session_that_is_not_used_ends_before_and_one_that_is_used_is_told_again() {
    let (services, mut browser) = (services(), Browser::at(json!({ "idle": "1h" })));
    browser.sign_in("/");
    let mut idle = browser.clone();
    services.advance(Duration::from_secs(10 * 60));
    assert_eq!(browser.fetch("/").told().count(), 0, "not each request is told it");
    services.advance(Duration::from_secs(10 * 60));
    let got = browser.fetch("/");
    assert_eq!((got.told().count(), got.header("cache-control")), (1, Some("no-store")));
    services.advance(Duration::from_secs(45 * 60));
    assert!(browser.passes(), "it was used 45 minutes ago");
    assert!(!idle.passes(), "it was used 65 minutes ago");
    assert_eq!(idle.get("/").status, Some(302));
}

#[test]
fn what_carries_a_session_to_the_response_is_nobodys_cookie() {
    let (services, mut browser) = (services(), Browser::at(json!({})));
    browser.sign_in("/");
    services.advance(Duration::from_secs(20 * 60));
    let mut exchange = Exchange::get("/").header("cookie", browser.cookie());
    assert!(exchange.on_request(&browser.site().plugin).is_continue());
    let carried = attributes::get::<String>(&browser.site().plugin.names.carried(0)).unwrap();
    let name = browser.cookies.keys().find(|name| !name.contains(".tries")).unwrap().clone();
    assert!(exchange.on_response(&browser.site().plugin).is_continue());
    assert_eq!(
        attributes::get::<String>(&browser.site().plugin.names.carried(0)),
        None,
        "the access log has no use for it"
    );
    browser.cookies.insert(name, format!("1.{carried}"));
    assert!(!browser.passes());
}

/// A Gateway's policy and a route's may both be oidc.
#[test]
fn what_one_policy_carries_to_the_response_another_leaves_to_it() {
    let (services, mut browser) = (services(), Browser::at(json!({})));
    browser.sign_in("/");
    services.advance(Duration::from_secs(20 * 60));
    let mut exchange = Exchange::get("/").header("cookie", browser.cookie());
    assert!(exchange.on_request(&browser.site().plugin).is_continue());
    for other in [json!({ "clientId": "other" }), json!({ "cookieName": "other" })] {
        let other = browser.with(other);
        assert!(exchange.on_response(&other.site().plugin).is_continue());
        assert_eq!(exchange.response().header("set-cookie"), None);
    }
    assert!(exchange.on_response(&browser.site().plugin).is_continue());
    assert!(exchange.response().header("set-cookie").is_some());
}

#[test]
fn a_response_whose_attributes_are_forged_sets_nothing() {
    let (_services, browser) = (services(), Browser::at(json!({})));
    let mut exchange = Exchange::get("/").attribute(&browser.site().plugin.names.carried(0), "forged".to_owned());
    assert!(exchange.on_response(&browser.site().plugin).is_continue());
    assert_eq!(exchange.response().header("set-cookie"), None);
}

#[test]
fn secrets_are_changed_without_anybody_signing_in_again() {
    let services = services().secret("next", "another secret of sessions, also long enough");
    let mut browser = Browser::at(json!({}));
    browser.sign_in("/");
    let mut both = browser.with(json!({ "sessionSecrets": ["next", "session"] }));
    assert!(both.passes());
    services.advance(Duration::from_secs(20 * 60));
    assert!(both.passes(), "and is told again, by the new secret");
    both.cookies.retain(|name, _| !name.contains(".tries"));
    let mut after = both.with(json!({ "sessionSecrets": ["next"] }));
    assert!(after.passes());
    assert!(!browser.with(json!({ "sessionSecrets": ["next"] })).passes());
}

#[test]
fn many_claims_take_several_cookies_and_too_many_are_refused() {
    let claims = json!([{ "claim": "groups", "header": "x-groups" }]);
    let (services, mut browser) = (services(), Browser::at(json!({ "claims": claims })));
    let groups = |count: usize| json!({ "groups": vec!["a-group-of-twenty-chars"; count] });
    *browser.idp().claims.borrow_mut() = groups(300);
    browser.sign_in("/");
    assert!(browser.cookies.len() > 2, "{:?}", browser.cookies.keys());
    assert!(browser.fetch("/").passed("x-groups").unwrap().len() > 6_000);
    services.advance(Duration::from_secs(20 * 60));
    assert!(browser.passes() && browser.passes(), "as it was told again");
    *browser.idp().claims.borrow_mut() = groups(1_000);
    browser.cookies.clear();
    let back = browser.leave("/");
    assert_eq!(browser.get(&back).status, Some(500));
}

#[test]
fn a_session_of_clear_text_has_other_names_and_no_secure() {
    let _services = services();
    let site = Browser::at(json!({ "redirectUri": "http://example.com/oauth2/callback" }));
    let idp = site.site().idp.clone();
    let mut exchange = Exchange::get("/").header("accept", "text/html").backend("idp", move |asked| idp.answers(asked));
    let Decision::Respond(reply) = exchange.on_request(&site.site().plugin) else { panic!("it passed") };
    let told = text(reply.headers).into_iter().find(|(name, _)| name == "set-cookie").unwrap().1;
    assert!(told.starts_with("oidc-") && told.ends_with("HttpOnly; SameSite=Lax"), "{told}");
}

/// The cookie that `make bench-plugins` sends: of the example on the policy's page, and good until 2100.
#[test]
fn the_session_of_the_bench_is_one() {
    let page = include_str!("../../README.md");
    let secret = page.split("  session: ").nth(1).and_then(|rest| rest.split([' ', '\n']).next()).unwrap();
    let _services = Services::new().secret("session", secret);
    let plugin = plugin(json!({
        "issuer": "https://idp.example/", "clientId": "shop", "clientSecret": "client", "sessionSecrets": ["session"],
        "redirectUri": "https://shop.example/oauth2/callback", "postLogoutRedirectUri": "https://shop.example/", "scopes": ["email"],
        "claims": [{ "claim": "sub", "header": "x-user" }, { "claim": "email", "header": "x-email" }],
    }))
    .unwrap();
    let kept = include_str!("../../tests/session.txt").trim();
    let mut exchange = Exchange::get("/").header("cookie", kept);
    if !exchange.on_request(&plugin).is_continue() {
        let session: Session = serde_json::from_value(json!({
            "d": "of-the-bench", "b": 4_102_444_800u64, "u": 4_102_444_800u64, "c": { "sub": "ann", "email": "ann@shop.example" },
        }))
        .unwrap();
        let jar = Jar::empty(&plugin.names, true);
        let told = plugin.tell(&jar, &session, 0).unwrap();
        panic!("tests/session.txt has to be:\n{}", told[0].split(';').next().unwrap());
    }
    assert_eq!(exchange.request().header_str("x-email").as_deref(), Some("ann@shop.example"));
}
