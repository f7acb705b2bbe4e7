use super::*;

#[test]
fn a_sign_in_is_finished_only_by_the_browser_that_began_it() {
    let (_services, mut browser) = (services(), Browser::at(json!({})));
    let back = browser.leave("/");
    // A link with somebody else's code signs nobody in.
    let mut other = Browser { cookies: BTreeMap::new(), ..browser.clone() };
    let got = other.get(&back);
    assert_eq!(got.status, Some(400));
    assert!(other.cookies.is_empty() && browser.idp().asked_for("/token") == 0);
    // Nor does a sign-in of its own help with another's state.
    other.leave("/");
    assert_eq!(other.get(&back).status, Some(400));
    assert_eq!(browser.get(&back).status, Some(302));
}

#[test]
fn a_state_that_is_not_the_cookies_is_refused() {
    let (_services, mut browser) = (services(), Browser::at(json!({})));
    let back = browser.leave("/");
    let (start, state) = back.split_once("state=").unwrap();
    for wrong in [
        format!("{start}state={}", &state[..8]),
        format!("{start}state={}A", &state[..state.len() - 1]),
        format!("{start}state={state}&state={state}"),
        format!("{start}state="),
        start.to_owned(),
        "/oauth2/callback".to_owned(),
        format!("{back}&code=another"),
        format!("{start}state=%ff%fe"),
    ] {
        if wrong == back {
            continue;
        }
        assert_eq!(browser.get(&wrong).status, Some(400), "{wrong}");
    }
    assert_eq!(browser.idp().asked_for("/token"), 0);
}

#[test]
fn a_sign_in_can_not_be_played_twice() {
    let (_services, mut browser) = (services(), Browser::at(json!({})));
    let back = browser.leave("/page");
    let mut thief = browser.clone();
    assert_eq!(browser.get(&back).status, Some(302));
    // With the cookie too, as a proxy on the way could have it.
    assert_eq!(thief.get(&back).status, Some(400));
    assert_eq!(browser.idp().asked_for("/token"), 1);
    // Whoever is signed in and goes back, or has a bookmark, is not bothered.
    assert_eq!(browser.get(&back).location(), "/");
    assert_eq!(browser.get("/oauth2/callback").location(), "/");
}

#[test]
fn a_sign_in_that_takes_too_long_is_over() {
    let (services, mut browser) = (services(), Browser::at(json!({})));
    let back = browser.leave("/page?a=1&b=2");
    services.advance(Duration::from_secs(600));
    let got = browser.get(&back);
    assert_eq!(got.status, Some(400));
    assert!(got.body.contains("<a href=\"/page?a=1&amp;b=2\">"), "{}", got.body);
}

#[test]
fn an_id_token_that_does_not_fit_signs_nobody_in() {
    for (claims, header) in [
        (json!({ "nonce": "another" }), json!({})),
        (json!({ "nonce": null }), json!({})),
        (json!({ "iss": "https://idp.example" }), json!({})),
        (json!({ "iss": null }), json!({})),
        (json!({ "aud": "other" }), json!({})),
        (json!({ "aud": ["other", "shops"] }), json!({})),
        (json!({ "aud": null }), json!({})),
        (json!({ "aud": ["shop", "other"] }), json!({})),
        (json!({ "aud": ["shop", 5] }), json!({})),
        (json!({ "aud": ["shop", "other"], "azp": "other" }), json!({})),
        (json!({ "azp": 5 }), json!({})),
        (json!({ "exp": NOW - 31 }), json!({})),
        (json!({ "exp": null }), json!({})),
        (json!({ "exp": "never" }), json!({})),
        (json!({ "iat": NOW + 31 }), json!({})),
        (json!({ "iat": null }), json!({})),
        (json!({ "nbf": NOW + 31 }), json!({})),
        (json!({ "sub": null }), json!({})),
        (json!({ "sub": "" }), json!({})),
        (json!({ "at_hash": "77QmUPtjPfzWtF2AnpK9RQ" }), json!({})),
        (json!({ "at_hash": 1 }), json!({})),
        (json!({}), json!({ "alg": "none" })),
        (json!({}), json!({ "alg": "HS256" })),
        (json!({}), json!({ "alg": "ES384" })),
        (json!({}), json!({ "alg": "RS256" })),
        (json!({}), json!({ "kid": "other" })),
        (json!({}), json!({ "crit": ["exp"] })),
    ] {
        let (_services, mut browser) = (services(), Browser::at(json!({})));
        let back = browser.leave("/");
        *browser.idp().claims.borrow_mut() = claims.clone();
        merge(&mut browser.idp().header.borrow_mut(), &header);
        let got = browser.get(&back);
        assert_eq!(got.status, Some(400), "{claims} {header}");
        assert!(browser.cookies.is_empty(), "the sign-in is over: {claims} {header}");
    }
}

#[test]
fn an_id_token_for_several_audiences_and_with_the_hash_of_its_access_token_fits() {
    let (_services, mut browser) = (services(), Browser::at(json!({})));
    let hash = id_token::half_hash(jose::Algorithm::EdDSA, "access-1");
    *browser.idp().claims.borrow_mut() = json!({ "aud": ["other", "shop"], "azp": "shop", "at_hash": hash });
    browser.sign_in("/");
    // OpenID Connect Core 1.0, appendix A.
    let example = id_token::half_hash(jose::Algorithm::RS256, "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y");
    assert_eq!(example, "77QmUPtjPfzWtF2AnpK9RQ");
}

#[test]
fn an_audience_that_is_a_number_is_nobodys_name() {
    let (_services, mut browser) = (services(), Browser::at(json!({ "clientId": "5", "clientSecret": null })));
    *browser.idp().claims.borrow_mut() = json!({ "aud": 5 });
    let back = browser.leave("/");
    assert_eq!(browser.get(&back).status, Some(400));
    *browser.idp().claims.borrow_mut() = json!({ "aud": "5" });
    browser.sign_in("/");
}

/// OpenID Connect Core 1.0, section 3.1.3.7, item 13.
#[test]
fn an_account_that_showed_who_it_is_too_long_ago_is_not_signed_in() {
    for (auth_time, signs_in) in [
        (json!(NOW), true),
        (json!(NOW - 330), true),
        (json!(NOW - 331), false),
        (Value::Null, false),
        (json!("now"), false),
    ] {
        let (services, mut browser) = (services(), Browser::at(json!({ "parameters": { "max_age": "300" } })));
        *browser.idp().claims.borrow_mut() = json!({ "auth_time": auth_time });
        let back = browser.leave("/");
        // It took its time for that.
        services.advance(Duration::from_secs(120));
        *browser.idp().claims.borrow_mut() = json!({ "auth_time": auth_time });
        assert_eq!(browser.get(&back).status, Some(if signs_in { 302 } else { 400 }), "{auth_time}");
        assert_eq!(browser.passes(), signs_in, "{auth_time}");
        let (_services, mut browser) = (self::services(), Browser::at(json!({})));
        *browser.idp().claims.borrow_mut() = json!({ "auth_time": auth_time });
        let back = browser.leave("/");
        let told = browser.get(&back).status;
        assert_eq!(told, Some(302), "nobody has asked for max_age: {auth_time}");
    }
}

/// Whoever likes can begin sign-ins, and come back with codes that are none.
#[test]
fn strangers_leave_nothing_in_the_store() {
    let (_services, mut browser) = (services(), Browser::at(json!({})));
    let store = sluice_plugin::store::Store::open("oidc").unwrap();
    let over = |back: &str| {
        let state = field(back, "state").unwrap();
        store.get(&format!("over/{}", kit::hex(&Sha256::digest(state)))).unwrap()
    };
    let back = browser.leave("/");
    let forged = back.replace("code=code-", "code=forged-");
    assert_eq!(browser.get(&forged).status, Some(400));
    assert_eq!(over(&back), None);
    let back = browser.leave("/");
    assert_eq!(browser.get(&back).status, Some(302));
    assert!(over(&back).is_some(), "one that has signed somebody in is over");
}

#[test]
fn the_backend_never_sees_the_plugins_paths() {
    let (_services, mut browser) = (services(), Browser::at(json!({})));
    browser.sign_in("/");
    for signed_in in [true, false] {
        for (path, methods, allowed) in [
            ("/oauth2/callback", ["HEAD", "POST", "PUT", "OPTIONS"], "GET"),
            ("/oauth2/logout", ["HEAD", "DELETE", "PUT", "OPTIONS"], "GET, POST"),
        ] {
            for method in methods {
                let got = browser.send(Exchange::new(method, path));
                assert_eq!(
                    (got.status, got.header("allow")),
                    (Some(405), Some(allowed)),
                    "{method} {path} {signed_in}"
                );
            }
        }
        assert_eq!(browser.passes(), signed_in);
        browser.cookies.clear();
    }
}

#[test]
fn an_answer_without_an_id_token_signs_nobody_in() {
    let (_services, mut browser) = (services(), Browser::at(json!({})));
    *browser.idp().answer.borrow_mut() = json!({ "id_token": null });
    let back = browser.leave("/");
    assert_eq!(browser.get(&back).status, Some(400));
}

#[test]
fn an_answer_of_another_provider_is_refused() {
    let (_services, mut browser) = (services(), Browser::at(json!({})));
    let back = browser.leave("/");
    assert_eq!(browser.get(&format!("{back}&iss=https%3A%2F%2Fevil.example%2F")).status, Some(400));
    let back = browser.leave("/");
    assert_eq!(browser.get(&format!("{back}&iss=https%3A%2F%2Fidp.example%2F")).status, Some(302));
    let (_services, mut strict) = (self::services(), Browser::at(json!({})));
    *strict.idp().metadata.borrow_mut() = json!({ "authorization_response_iss_parameter_supported": true });
    let back = strict.leave("/");
    assert_eq!(strict.get(&back).status, Some(400), "it says that it names itself, and does not");
}

#[test]
fn an_error_of_the_provider_is_a_page_that_repeats_no_foreign_text() {
    for (error, status, shown) in [
        ("access_denied", 403, "access_denied"),
        ("server_error", 400, "server_error"),
        ("%3Cscript%3Ealert(1)%3C%2Fscript%3E", 400, "an error without a name"),
        ("a%0D%0Aset-cookie:%20a=b", 400, "an error without a name"),
    ] {
        let (_services, mut browser) = (services(), Browser::at(json!({})));
        let back = browser.leave("/");
        let state = field(&back, "state").unwrap();
        let got = browser.get(&format!("/oauth2/callback?error={error}&error_description=%3Cb%3Ebad&state={state}"));
        assert_eq!(got.status, Some(status), "{error}");
        assert!(
            got.body.contains("<a href=\"/\">")
                && got.body.contains(shown)
                && !got.body.contains("script")
                && !got.body.contains("bad"),
            "{}",
            got.body
        );
        assert!(browser.cookies.is_empty() && browser.idp().asked_for("/token") == 0);
    }
    // Without a sign-in under way no error is shown at all.
    let (_services, mut browser) = (self::services(), Browser::at(json!({})));
    assert!(!browser.get("/oauth2/callback?error=access_denied&state=x").body.contains("access_denied"));
}

#[test]
fn nobody_is_sent_to_another_site() {
    for path in ["//evil.example/a", "/\\evil.example", "/\t/evil.example", "///evil.example"] {
        let (_services, mut browser) = (services(), Browser::at(json!({})));
        let back = browser.leave(path);
        assert_eq!(browser.get(&back).location(), "/", "{path}");
    }
    // A query may hold whatever it likes.
    let (_services, mut browser) = (self::services(), Browser::at(json!({})));
    browser.sign_in("/?next=//evil.example");
}

#[test]
fn a_long_address_is_cut_where_it_still_leads_somewhere() {
    let (_services, mut browser) = (services(), Browser::at(json!({})));
    let back = browser.leave(&format!("/orders?q={}", "x".repeat(1_100)));
    assert_eq!(browser.get(&back).location(), "/orders");
    let (_services, mut browser) = (self::services(), Browser::at(json!({})));
    let back = browser.leave(&format!("/{}", "x".repeat(1_100)));
    assert!(browser.cookies.values().all(|value| value.len() < 600));
    assert_eq!(browser.get(&back).location(), "/");
}

#[test]
fn cookies_that_were_changed_or_are_anothers_count_as_none() {
    let (_services, mut browser) = (services(), Browser::at(json!({})));
    browser.sign_in("/");
    let good = browser.cookies.clone();
    let name = good.keys().find(|name| !name.contains(".tries")).unwrap().clone();
    let value = &good[&name];
    let changed = |at: usize| {
        let other = if value.as_bytes()[at] == b'A' { "B" } else { "A" };
        format!("{}{other}{}", &value[..at], &value[at + 1..])
    };
    for wrong in [
        changed(3),
        changed(40),
        changed(value.len() / 2),
        String::new(),
        "1.".into(),
        "x".repeat(5_000),
        value[2..].to_owned(),
    ] {
        browser.cookies = BTreeMap::from([(name.clone(), wrong.clone())]);
        assert_eq!(browser.fetch("/").status, Some(401), "{wrong}");
        assert_eq!(browser.get("/").status, Some(302), "{wrong}");
    }
}

/// Whatever stands in them: what was sealed as a session is no sign-in, and what was sealed as a sign-in is no session.
#[test]
fn a_cookie_of_one_kind_is_none_of_another() {
    let (_services, mut browser) = (services(), Browser::at(json!({})));
    browser.sign_in("/");
    let (name, value) = browser.session();
    let seal = &browser.site().plugin.seal;
    let content = seal.open("session", &value[2..]).expect("a session");
    let login = format!("{name}.login.01234567");
    for (purpose, passes) in [("session", true), (login.as_str(), false), ("oidc.carried", false)] {
        let mut other = browser.with(json!({}));
        other.cookies = BTreeMap::from([(name.clone(), format!("1.{}", seal.seal(purpose, &content).unwrap()))]);
        assert_eq!(other.passes(), passes, "a session that is sealed as `{purpose}`");
    }
    for (purpose, status) in [("own", 302), ("session", 400), ("another", 400)] {
        let mut other = Browser { cookies: BTreeMap::new(), ..browser.clone() };
        let back = other.leave("/");
        let (login, sealed) = other.cookies.pop_first().unwrap();
        let content = seal.open(&login, &sealed).expect("a sign-in");
        let purpose = match purpose {
            "own" => login.clone(),
            "another" => format!("{login}x"),
            purpose => purpose.to_owned(),
        };
        other.cookies = BTreeMap::from([(login, seal.seal(&purpose, &content).unwrap())]);
        assert_eq!(other.get(&back).status, Some(status), "a sign-in that is sealed as `{purpose}`");
    }
}

/// A sibling host can set such a cookie, as to browsers its name does not begin with `__Host-`.
#[test]
fn a_cookie_that_only_looks_like_one_of_the_plugins_signs_nobody_in_as_somebody_else() {
    let (_services, mut eve) = (services(), Browser::at(json!({})));
    let back = eve.leave("/");
    let (login, sealed) = eve.cookies.first_key_value().map(|(name, value)| (name.clone(), value.clone())).unwrap();
    eve.sign_in("/");
    let (session, value) = eve.cookies.iter().find(|(name, _)| !name.contains('.')).unwrap();
    for before in ["\u{2000}", "\u{85}", "\u{a0}"] {
        let mut victim = eve.with(json!({}));
        victim.cookies = BTreeMap::from([(format!("{before}{session}"), value.clone())]);
        assert!(!victim.passes(), "{before:?}: eve's session");
        victim.cookies = BTreeMap::from([(format!("{before}{login}"), sealed.clone())]);
        assert_eq!(victim.get(&back).status, Some(400), "{before:?}: eve's sign-in");
    }
}

#[test]
fn a_session_is_of_one_client_and_of_one_set_of_claims() {
    let (_services, mut browser) = (services(), Browser::at(json!({})));
    browser.sign_in("/");
    for more in [
        json!({ "clientId": "other" }),
        json!({ "claims": [{ "claim": "email", "header": "x-email" }] }),
        json!({ "forwardAccessToken": true }),
        json!({ "scopes": ["email"] }),
        // One that asks for a stronger sign-in does not take a weaker one's.
        json!({ "parameters": { "acr_values": "gold" } }),
    ] {
        let mut other = browser.with(more.clone());
        assert!(!other.passes(), "{more}");
        // Not even under the other's name.
        let own = other.leave("/");
        let name =
            other.cookies.keys().find(|name| name.contains(".login.")).unwrap().split('.').next().unwrap().to_owned();
        other.cookies.insert(name, browser.cookies.values().next().unwrap().clone());
        assert!(!other.passes(), "{more}");
        drop(own);
    }
    assert!(browser.with(json!({ "redirect": "Never" })).passes(), "what a session says stays the same");
}

#[test]
fn a_browser_that_keeps_no_session_is_told_so_and_not_sent_round_for_ever() {
    let (_services, mut browser) = (services(), Browser::at(json!({})));
    let mut rounds = 0;
    let last = loop {
        let got = browser.get("/");
        if got.status != Some(302) {
            break got;
        }
        rounds += 1;
        assert!(rounds < 10, "it goes round and round");
        let back = browser.idp().authorize(got.location());
        browser.get(&back);
        browser.cookies.retain(|name, _| name.contains(".tries"));
    };
    assert_eq!((last.status, rounds), (Some(400), 4));
    assert_eq!(browser.get("/").status, Some(302), "whoever wants may try again");
}

#[test]
fn where_the_provider_sends_browsers_back_to_is_no_headers_to_say() {
    let (_services, browser) = (services(), Browser::at(json!({})));
    for (configured, whole) in [
        ("/oauth2/callback", "https://example.com/oauth2/callback"),
        ("https://shop.example/oauth2/callback", "https://shop.example/oauth2/callback"),
    ] {
        let mut site = browser.with(json!({ "redirectUri": configured }));
        let sent = Exchange::get("/").header("accept", "text/html").header("x-forwarded-host", "evil.example");
        let got = site.send(sent.header("forwarded", "host=evil.example"));
        assert_eq!(field(got.location(), "redirect_uri").as_deref(), Some(whole));
    }
}

#[test]
fn another_site_can_not_sign_anybody_out_unasked() {
    let (_services, mut browser) = (services(), Browser::at(json!({})));
    browser.sign_in("/");
    for (method, headers) in [
        ("GET", vec![("sec-fetch-site", "cross-site")]),
        ("GET", vec![("sec-fetch-site", "same-site")]),
        ("GET", vec![("sec-fetch-site", "whatever comes next")]),
        ("POST", vec![("sec-fetch-site", "same-site"), ("origin", "https://example.com")]),
        ("GET", vec![("origin", "https://evil.example")]),
        ("GET", vec![("origin", "null")]),
        ("GET", vec![("origin", "https://evil.example"), ("referer", "https://example.com/")]),
        ("GET", vec![("referer", "https://app.example.com/")]),
        ("GET", vec![("referer", "http://example.com/")]),
        ("GET", vec![("referer", "https://evil.example/https://example.com/")]),
        ("POST", vec![("origin", "https://example.com:8443")]),
    ] {
        let asked =
            headers.iter().fold(Exchange::new(method, "/oauth2/logout"), |e, (name, value)| e.header(name, value));
        let got = browser.send(asked);
        assert_eq!(got.status, Some(200), "{method} {headers:?}");
        assert!(got.body.contains("<form method=\"post\" action=\"/oauth2/logout\">"), "{method} {headers:?}");
        assert_eq!(got.header("referrer-policy"), Some("same-origin"), "the form has to tell its origin");
        assert!(browser.passes(), "{method} {headers:?}");
    }
}

#[test]
fn whoever_signs_out_on_the_site_itself_is_not_asked() {
    for (method, headers) in [
        ("GET", vec![]),
        ("GET", vec![("sec-fetch-site", "none")]),
        ("GET", vec![("sec-fetch-site", "same-origin"), ("referer", "https://behind.proxy/")]),
        ("POST", vec![("sec-fetch-site", "same-origin")]),
        ("POST", vec![("origin", "https://Example.com:443")]),
        ("GET", vec![("referer", "https://example.com/page?x=https://evil.example/")]),
    ] {
        let (_services, mut browser) = (services(), Browser::at(json!({})));
        browser.sign_in("/");
        let asked =
            headers.iter().fold(Exchange::new(method, "/oauth2/logout"), |e, (name, value)| e.header(name, value));
        assert_eq!(browser.send(asked).status, Some(303), "{method} {headers:?}");
        assert!(!browser.passes(), "{method} {headers:?}");
    }
}

/// A page of the site signs out while one of its requests, which renews the session, has no answer yet.
#[test]
fn a_response_on_its_way_brings_no_session_back_that_has_ended() {
    let (services, mut browser) = (services(), Browser::at(json!({ "idle": "1h" })));
    browser.sign_in("/");
    let mut before = browser.clone();
    services.advance(Duration::from_secs(20 * 60));
    let mut slow = Exchange::get("/slow").header("cookie", browser.cookie());
    assert!(slow.on_request(&browser.site().plugin).is_continue());
    let name = browser.site().plugin.names.carried(0);
    let carried = attributes::get::<String>(&name).expect("a session to be told");
    assert_eq!(browser.get("/oauth2/logout").status, Some(303));
    let mut slow = Exchange::get("/slow").attribute(&name, carried);
    assert!(slow.on_response(&browser.site().plugin).is_continue());
    assert_eq!(slow.response().header("set-cookie"), None);
    assert!(!before.passes(), "nor is the cookie from before a session");
    // Another sign-in of the same account is another session.
    browser.sign_in("/");
    assert!(browser.passes());
}

#[test]
fn without_its_secrets_nobody_signs_in_and_nobody_passes() {
    let (services, mut browser) = (services(), Browser::at(json!({})));
    browser.sign_in("/");
    services.revoke("session");
    assert!(!browser.passes());
    assert_eq!(browser.get("/").status, Some(500));
    services.rotate("session", "too short");
    assert_eq!(browser.get("/").status, Some(500));
    services.rotate("session", SECRET);
    assert!(browser.passes());
    services.revoke("client");
    browser.cookies.clear();
    let back = browser.leave("/");
    assert_eq!(browser.get(&back).status, Some(503));
}
