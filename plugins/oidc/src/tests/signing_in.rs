use super::*;

#[test]
fn a_browser_is_sent_to_the_provider_and_comes_back_to_the_page_that_it_asked_for() {
    let (_services, mut browser) =
        (services(), Browser::at(json!({ "scopes": ["email", "openid"], "parameters": { "prompt": "a&b" } })));
    let got = browser.get("/orders?page=2&q=a%20b");
    assert_eq!(got.status, Some(302));
    assert_eq!(got.header("cache-control"), Some("no-store"));
    let asked = got.location().split_once('?').unwrap().1.to_owned();
    for (name, value) in [
        ("response_type", "code"),
        ("client_id", "shop"),
        ("redirect_uri", "https://example.com/oauth2/callback"),
        ("scope", "openid email"),
        ("code_challenge_method", "S256"),
        ("prompt", "a&b"),
    ] {
        assert_eq!(field(&asked, name).as_deref(), Some(value), "{name}");
    }
    let secrets = ["state", "nonce", "code_challenge"].map(|name| field(&asked, name).unwrap());
    assert!(secrets.iter().all(|secret| secret.len() >= 32), "{secrets:?}");
    let back = browser.idp().authorize(got.location());
    let got = browser.get(&back);
    assert_eq!((got.status, got.location()), (Some(302), "/orders?page=2&q=a%20b"));
    assert!(browser.cookies.keys().all(|name| !name.contains(".login.")), "the sign-in's cookie is gone");
    assert!(browser.get("/orders?page=2").status.is_none());
}

#[test]
fn the_backend_and_later_plugins_are_told_who_it_is_and_see_no_cookie_of_the_session() {
    let claims = json!([
        { "claim": "email", "header": "x-email" }, { "claim": "realm_access.roles", "header": "x-roles", "attribute": "roles" },
        { "claim": "missing", "header": "x-missing" },
    ]);
    let (_services, mut browser) = (services(), Browser::at(json!({ "claims": claims })));
    browser.sign_in("/");
    browser.cookies.insert("app".to_owned(), "1".to_owned());
    let sent = Exchange::get("/").header("x-roles", "admin").header("x-missing", "spoofed");
    let got = browser.send(sent);
    assert_eq!(got.passed("x-email"), Some("ann@shop.example"));
    assert_eq!(got.passed("x-roles"), Some("cook,chef"));
    assert_eq!(got.passed("x-missing"), None);
    assert_eq!(got.passed("cookie"), Some("app=1"));
    assert_eq!(got.passed("authorization"), None);
    assert_eq!(attributes::get::<String>("roles").as_deref(), Some("cook,chef"));
    assert_eq!(attributes::get::<String>(SUBJECT).as_deref(), Some("ann"));
    assert_eq!(attributes::get::<String>(ISSUER).as_deref(), Some("https://idp.example/"));
    browser.cookies.remove("app");
    assert_eq!(browser.fetch("/").passed("cookie"), None);
}

#[test]
fn what_is_no_page_is_answered_401_and_begins_no_sign_in() {
    let (_services, mut browser) = (services(), Browser::at(json!({})));
    let got = browser.fetch("/api");
    assert_eq!((got.status, got.header("content-type")), (Some(401), Some("application/problem+json")));
    assert!(got.header("www-authenticate").is_some());
    assert_eq!(serde_json::from_str::<Value>(&got.body).unwrap()["status"], 401);
    let form = Exchange::new("POST", "/api").header("accept", "text/html");
    let got = browser.send(form);
    assert_eq!((got.status, got.header("content-type")), (Some(401), Some("text/html; charset=utf-8")));
    assert!(browser.cookies.is_empty() && browser.idp().asked.borrow().is_empty());
    let mut never = Browser::at(json!({ "redirect": "Never" }));
    assert_eq!(never.get("/").status, Some(401));
}

#[test]
fn the_client_shows_its_secret_as_it_is_configured() {
    let shown = |more: Value| {
        let (_services, mut browser) = (services(), Browser::at(more));
        browser.sign_in("/");
        let asked = browser.idp().asked.borrow();
        let asked = asked.iter().find(|asked| asked.target == "/token").unwrap();
        assert_eq!(asked.header("content-type"), Some(&b"application/x-www-form-urlencoded"[..]));
        let form = String::from_utf8(asked.body.clone()).unwrap();
        let header = asked.header("authorization").map(|value| String::from_utf8(value.to_vec()).unwrap());
        (header, field(&form, "client_id"), field(&form, "client_secret"))
    };
    let basic = format!("Basic {}", BASE64_STANDARD.encode("shop:hunter2%20%26%20more"));
    assert_eq!(shown(json!({})), (Some(basic), None, None));
    let (id, secret) = (Some("shop".to_owned()), Some("hunter2 & more".to_owned()));
    assert_eq!(shown(json!({ "clientAuthentication": "Post" })), (None, id.clone(), secret));
    assert_eq!(shown(json!({ "clientSecret": null })), (None, id, None));
}

#[test]
fn endpoints_and_keys_are_fetched_once_for_all() {
    let (services, mut browser) = (services(), Browser::at(json!({})));
    for _ in 0..3 {
        browser.cookies.clear();
        browser.sign_in("/");
    }
    assert_eq!(browser.idp().asked_for("/.well-known/openid-configuration"), 1);
    assert_eq!(browser.idp().asked_for("/keys"), 1);
    services.advance(Duration::from_secs(600));
    browser.cookies.clear();
    browser.sign_in("/");
    assert_eq!(browser.idp().asked_for("/.well-known/openid-configuration"), 2);
}

#[test]
fn endpoints_may_stand_in_the_configuration_and_each_host_has_its_backend() {
    let endpoints = json!({
        "authorization": "https://idp.example/authorize?tenant=1", "token": "https://tokens.example/token",
        "jwks": "https://idp.example/keys",
    });
    let services = services();
    let plugin = plugin(config(json!({ "endpoints": endpoints, "hosts": { "tokens.example": "tokens" } }))).unwrap();
    let begin =
        |path: &str| Exchange::get(path).header("accept", "text/html").backend("idp", |_| panic!("it is known"));
    let Decision::Respond(reply) = begin("/").on_request(&plugin) else { panic!("it passed") };
    let headers = text(reply.headers);
    let header = |name: &str| headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()).unwrap();
    assert!(header("location").starts_with("https://idp.example/authorize?tenant=1&response_type=code&"));
    let state = field(&header("location"), "state").unwrap();
    let cookie = header("set-cookie").split(';').next().unwrap().to_owned();
    let asked = Rc::new(Cell::new(false));
    let was = asked.clone();
    let mut back = begin(&format!("/oauth2/callback?code=c&state={state}")).header("cookie", cookie);
    back = back.backend("tokens", move |request| {
        was.set(request.authority.as_deref() == Some("tokens.example"));
        StubAnswer::new(200).body("{}")
    });
    let _ = back.on_request(&plugin);
    assert!(asked.get(), "the token endpoint is at its own backend");
    drop(services);
}

#[test]
fn while_the_provider_is_away_nobody_is_sent_there() {
    let (_services, mut browser) = (services(), Browser::at(json!({})));
    *browser.idp().metadata.borrow_mut() = json!({ "issuer": "https://evil.example/" });
    let got = browser.get("/");
    assert_eq!((got.status, got.header("retry-after")), (Some(503), Some("5")), "its metadata is another's");
    assert_eq!((browser.get("/").status, browser.idp().asked.borrow().len()), (Some(503), 1), "nobody waits for it");
    let (_services, mut browser) = (self::services(), Browser::at(json!({})));
    let back = browser.leave("/");
    browser.idp().fails.set(Some(0));
    assert_eq!(browser.get(&back).status, Some(503));
    let back = browser.leave("/");
    browser.idp().fails.set(Some(502));
    assert_eq!(browser.get(&back).status, Some(503));
    let back = browser.leave("/");
    browser.idp().fails.set(Some(400));
    assert_eq!(browser.get(&back).status, Some(400));
}

#[test]
fn what_an_account_does_not_say_is_answered_403_and_sends_nobody_round() {
    let require = json!([{ "claim": "realm_access.roles", "anyOf": ["owner"] }]);
    let (_services, mut browser) = (services(), Browser::at(json!({ "require": require })));
    browser.sign_in("/");
    assert_eq!(browser.get("/").status, Some(403));
    let got = browser.fetch("/");
    assert_eq!((got.status, got.header("content-type")), (Some(403), Some("application/problem+json")));
}

#[test]
fn tabs_that_sign_in_at_once_each_come_back_to_their_own_page() {
    let (_services, mut browser) = (services(), Browser::at(json!({})));
    let pages = ["/a", "/b", "/c"];
    let backs = pages.map(|page| browser.leave(page));
    for (page, back) in pages.iter().zip(&backs).rev() {
        let got = browser.get(back);
        assert_eq!((got.status, got.location()), (Some(302), *page));
    }
}

#[test]
fn sign_ins_that_nobody_finishes_make_room_for_new_ones() {
    let (services, mut browser) = (services(), Browser::at(json!({})));
    let first = browser.leave("/first");
    for _ in 0..20 {
        services.advance(Duration::from_secs(1));
        browser.leave("/again");
        assert!(browser.cookies.len() <= cookies::LOGINS);
    }
    assert_eq!(browser.get(&first).status, Some(400), "the oldest is gone");
    let last = browser.leave("/last");
    assert_eq!(browser.get(&last).location(), "/last");
}

#[test]
fn signing_out_ends_the_session_here_and_at_the_provider() {
    let (_services, mut browser) =
        (services(), Browser::at(json!({ "keepIdToken": true, "postLogoutRedirectUri": "/bye" })));
    browser.sign_in("/");
    let got = browser.get("/oauth2/logout");
    assert_eq!(got.status, Some(303));
    let (endpoint, query) = got.location().split_once('?').unwrap();
    assert_eq!(endpoint, "https://idp.example/logout");
    assert_eq!(field(query, "client_id").as_deref(), Some("shop"));
    assert_eq!(field(query, "post_logout_redirect_uri").as_deref(), Some("https://example.com/bye"));
    assert_eq!(field(query, "id_token_hint").unwrap().split('.').count(), 3);
    assert!(browser.cookies.is_empty() && !browser.passes());
}

#[test]
fn where_the_provider_signs_nobody_out_the_session_here_ends() {
    let (_services, mut browser) = (services(), Browser::at(json!({})));
    *browser.idp().metadata.borrow_mut() = json!({ "end_session_endpoint": null });
    browser.sign_in("/");
    let got = browser.send(Exchange::new("POST", "/oauth2/logout").header("sec-fetch-site", "same-origin"));
    assert_eq!((got.status, got.header("content-type")), (Some(200), Some("text/html; charset=utf-8")));
    assert!(browser.cookies.is_empty());
}
