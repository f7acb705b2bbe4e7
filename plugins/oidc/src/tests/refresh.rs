use super::*;

fn renewing() -> Browser {
    Browser::at(json!({ "refresh": true, "forwardAccessToken": true }))
}

#[test]
fn the_access_token_is_forwarded_and_the_session_ends_with_it() {
    let (services, mut browser) = (services(), Browser::at(json!({ "forwardAccessToken": true })));
    browser.sign_in("/");
    let got = browser.send(Exchange::get("/").header("authorization", "Bearer of-the-client"));
    assert_eq!(got.passed("authorization"), Some("Bearer access-1"));
    services.advance(Duration::from_secs(300));
    assert!(!browser.passes());
}

#[test]
fn what_is_no_bearers_token_is_not_forwarded_and_nor_is_what_a_client_sends() {
    let (_services, mut browser) = (services(), Browser::at(json!({ "forwardAccessToken": true })));
    *browser.idp().answer.borrow_mut() = json!({ "token_type": "DPoP" });
    browser.sign_in("/");
    let got = browser.send(Exchange::get("/").header("authorization", "Bearer of-the-client"));
    assert_eq!(got.passed("authorization"), None);
}

#[test]
fn tokens_are_renewed_shortly_before_they_expire() {
    let (services, mut browser) = (services(), renewing());
    browser.sign_in("/");
    services.advance(Duration::from_secs(269));
    assert_eq!(browser.fetch("/").passed("authorization"), Some("Bearer access-1"));
    services.advance(Duration::from_secs(1));
    let got = browser.fetch("/");
    assert_eq!(got.passed("authorization"), Some("Bearer access-2"));
    assert_eq!(got.told().count(), 1);
    services.advance(Duration::from_secs(270));
    assert_eq!(browser.fetch("/").passed("authorization"), Some("Bearer access-3"));
}

#[test]
fn requests_that_bring_the_session_before_its_renewal_do_not_burn_the_new_token() {
    let (services, mut browser) = (services(), renewing());
    browser.sign_in("/");
    services.advance(Duration::from_secs(280));
    let mut before = browser.clone();
    assert_eq!(browser.fetch("/").passed("authorization"), Some("Bearer access-2"));
    for _ in 0..5 {
        services.advance(Duration::from_secs(5));
        let got = before.clone().fetch("/");
        assert_eq!(got.passed("authorization"), Some("Bearer access-2"));
        assert_eq!(got.told().count(), 1, "and the browser is told it");
    }
    services.advance(Duration::from_secs(244));
    assert_eq!(before.clone().fetch("/").passed("authorization"), Some("Bearer access-2"), "as it is good itself");
    assert_eq!(browser.idp().asked_for("/token"), 2, "one code, one renewal");
    services.advance(Duration::from_secs(1));
    assert!(!before.passes(), "then it is a token that was used before");
}

#[test]
fn a_renewed_session_is_kept_for_ten_minutes_at_most() {
    let more = json!({ "refresh": true, "forwardAccessToken": true, "idle": "8h" });
    let (services, mut browser) = (services(), Browser::at(more));
    *browser.idp().answer.borrow_mut() = json!({ "expires_in": 3600 });
    browser.sign_in("/");
    services.advance(Duration::from_secs(3570));
    let before = browser.clone();
    assert_eq!(browser.fetch("/").passed("authorization"), Some("Bearer access-2"));
    services.advance(Duration::from_secs(599));
    assert_eq!(before.clone().fetch("/").passed("authorization"), Some("Bearer access-2"));
    services.advance(Duration::from_secs(1));
    assert!(!before.clone().passes());
}

/// What another request got is taken only where it is good by itself, and of the same sign-in: a provider may give one refresh
/// token to several.
#[test]
fn a_renewed_session_that_is_no_good_itself_is_not_taken() {
    for (more, taken) in [
        (json!({}), true),
        (json!({ "d": "another" }), false),
        (json!({ "b": NOW - 1 }), false),
        (json!({ "n": NOW + 280 }), false),
        (json!({ "e": NOW + 280 }), false),
        // It was used for the last time too long ago.
        (json!({ "u": NOW + 280 - 3_600 }), false),
    ] {
        let (services, mut browser) = (services(), renewing());
        browser.sign_in("/");
        services.advance(Duration::from_secs(280));
        let seal = &browser.site().plugin.seal;
        let mut kept: Value =
            serde_json::from_slice(&seal.open("session", &browser.session().1[2..]).unwrap()).unwrap();
        merge(&mut kept, &json!({ "a": "kept", "n": NOW + 500, "e": NOW + 600 }));
        merge(&mut kept, &more);
        let sealed = seal.seal("session", kept.to_string().as_bytes()).unwrap();
        let key = format!("renewed/{}", kit::hex(&Sha256::digest("refresh-1")));
        sluice_plugin::store::Store::open("oidc").unwrap().set(&key, sealed, None).unwrap();
        let got = browser.fetch("/");
        let wanted = if taken { "Bearer kept" } else { "Bearer access-2" };
        assert_eq!(got.passed("authorization"), Some(wanted), "{more}");
    }
}

#[test]
fn where_the_store_is_full_nobody_spends_a_token_and_the_session_holds_while_its_own_does() {
    let (services, mut browser) = (services(), renewing());
    browser.sign_in("/");
    services.fill("oidc");
    services.advance(Duration::from_secs(280));
    for _ in 0..3 {
        assert_eq!(browser.fetch("/").passed("authorization"), Some("Bearer access-1"));
    }
    services.advance(Duration::from_secs(20));
    assert_eq!(browser.fetch("/").status, Some(503));
    assert_eq!(browser.idp().asked_for("/token"), 1, "the code alone");
    let mut other = browser.with(json!({ "refresh": true, "forwardAccessToken": true }));
    other.cookies.clear();
    other.sign_in("/");
    assert!(other.passes(), "whoever signs in needs no room there");
}

#[test]
fn no_refresh_token_is_spent_while_there_are_no_keys_to_judge_what_it_brings() {
    let more = json!({ "refresh": true, "forwardAccessToken": true, "lifetime": "72h", "idle": "72h" });
    let (services, mut browser) = (services(), Browser::at(more));
    browser.sign_in("/");
    // For so long that no keys are kept.
    services.advance(Duration::from_secs(25 * 60 * 60));
    browser.idp().tells_keys.set(0);
    assert_eq!(browser.fetch("/").status, Some(503));
    assert_eq!(browser.idp().asked_for("/token"), 1, "the code alone");
    browser.idp().tells_keys.set(u32::MAX);
    services.advance(Duration::from_secs(12));
    assert_eq!(browser.fetch("/").passed("authorization"), Some("Bearer access-2"));
}

#[test]
fn where_the_keys_are_gone_behind_a_spent_token_the_claims_stay_as_they_were() {
    // Without the store they are fetched each time.
    let services = Services::new().secret("session", SECRET).secret("client", "hunter2");
    let claims = json!([{ "claim": "email", "header": "x-email" }]);
    let mut browser = Browser::at(json!({ "refresh": true, "forwardAccessToken": true, "claims": claims }));
    browser.sign_in("/");
    services.advance(Duration::from_secs(280));
    *browser.idp().claims.borrow_mut() = json!({ "email": "new@shop.example" });
    browser.idp().tells_keys.set(1);
    let got = browser.fetch("/");
    assert_eq!(got.passed("authorization"), Some("Bearer access-2"));
    assert_eq!(got.passed("x-email"), Some("ann@shop.example"));
}

/// Such as a secret that somebody changed at the provider.
#[test]
fn only_a_refresh_token_that_is_none_any_more_ends_a_session() {
    for status in [401, 403, 404, 422] {
        let (services, mut browser) = (services(), renewing());
        browser.sign_in("/");
        services.advance(Duration::from_secs(275));
        browser.idp().fails.set(Some(status));
        assert_eq!(browser.fetch("/").passed("authorization"), Some("Bearer access-1"), "{status}");
        services.advance(Duration::from_secs(25));
        assert_eq!(browser.fetch("/").status, Some(503), "{status}");
        browser.idp().fails.set(None);
        services.advance(Duration::from_secs(12));
        assert_eq!(browser.fetch("/").passed("authorization"), Some("Bearer access-2"), "{status}");
    }
    let (services, mut browser) = (self::services(), renewing());
    browser.sign_in("/");
    services.advance(Duration::from_secs(275));
    *browser.idp().claims.borrow_mut() = json!({ "iss": "https://evil.example/" });
    assert_eq!(browser.fetch("/").passed("authorization"), Some("Bearer access-1"), "an ID token that does not fit");
}

#[test]
fn while_one_request_renews_the_others_go_by_what_they_have() {
    let (services, mut browser) = (services(), renewing());
    browser.sign_in("/");
    services.advance(Duration::from_secs(280));
    // Another request has the lock, and no answer yet.
    let key = kit::hex(&Sha256::digest("refresh-1"));
    let store = sluice_plugin::store::Store::open("oidc").unwrap();
    store.set(&format!("renewing/{key}"), b"", Some(Duration::from_secs(60))).unwrap();
    assert_eq!(browser.fetch("/").passed("authorization"), Some("Bearer access-1"));
    services.advance(Duration::from_secs(20));
    let got = browser.fetch("/");
    assert_eq!((got.status, got.header("retry-after")), (Some(503), Some("1")), "it has expired");
    assert!(!browser.cookies.is_empty());
    assert_eq!(browser.idp().asked_for("/token"), 1);
}

#[test]
fn a_session_that_the_provider_has_ended_is_over() {
    let (services, mut browser) = (services(), renewing());
    browser.sign_in("/");
    services.advance(Duration::from_secs(280));
    browser.idp().fails.set(Some(400));
    assert_eq!(browser.fetch("/").status, Some(401));
    assert_eq!(browser.fetch("/").status, Some(401));
    assert_eq!(browser.idp().asked_for("/token"), 2, "it is not asked about it each time");
    browser.idp().fails.set(None);
    browser.sign_in("/");
    assert!(browser.passes());
}

#[test]
fn while_the_provider_is_away_a_session_holds_until_its_token_expires() {
    let (services, mut browser) = (services(), renewing());
    browser.sign_in("/");
    services.advance(Duration::from_secs(275));
    browser.idp().fails.set(Some(502));
    assert!(browser.passes() && browser.passes());
    assert_eq!(browser.idp().asked_for("/token"), 2, "it is left alone for a while");
    services.advance(Duration::from_secs(25));
    assert_eq!(browser.fetch("/").status, Some(503));
    browser.idp().fails.set(None);
    services.advance(Duration::from_secs(12));
    assert_eq!(browser.fetch("/").passed("authorization"), Some("Bearer access-2"), "and comes back");
}

#[test]
fn a_renewal_brings_new_claims_but_of_nobody_else() {
    let claims = json!([{ "claim": "email", "header": "x-email" }]);
    let (services, mut browser) = (services(), Browser::at(json!({ "refresh": true, "claims": claims })));
    browser.sign_in("/");
    services.advance(Duration::from_secs(280));
    *browser.idp().claims.borrow_mut() = json!({ "email": "new@shop.example" });
    assert_eq!(browser.fetch("/").passed("x-email"), Some("new@shop.example"));
    services.advance(Duration::from_secs(280));
    *browser.idp().claims.borrow_mut() = json!({ "sub": "eve" });
    assert_eq!(browser.fetch("/").status, Some(401));
    let (services, mut browser) = (self::services(), Browser::at(json!({ "refresh": true })));
    browser.sign_in("/");
    services.advance(Duration::from_secs(280));
    *browser.idp().answer.borrow_mut() = json!({ "id_token": null, "refresh_token": null });
    assert!(browser.passes(), "neither has to come anew");
}

#[test]
fn without_the_store_each_request_renews_by_itself() {
    let services = Services::new().secret("session", SECRET).secret("client", "hunter2");
    let mut browser = renewing();
    browser.sign_in("/");
    services.advance(Duration::from_secs(280));
    assert_eq!(browser.fetch("/").passed("authorization"), Some("Bearer access-2"));
    assert_eq!(browser.fetch("/").passed("authorization"), Some("Bearer access-2"));
}
