use super::*;

fn refused(more: Value) -> String {
    plugin(config(more.clone())).err().unwrap_or_else(|| panic!("it was accepted: {more}"))
}

#[test]
fn a_configuration_that_could_not_work_is_refused_with_its_field() {
    let endpoints = |name: &str, url: &str| {
        let mut endpoints = json!({ "authorization": "https://a.example/", "token": "https://a.example/", "jwks": "https://a.example/" });
        endpoints[name] = json!(url);
        json!({ "endpoints": endpoints })
    };
    for (more, begin) in [
        (json!({ "issuer": "idp.example" }), "issuer: "),
        (json!({ "issuer": "https://idp.example/?a" }), "issuer: "),
        (endpoints("token", "/token"), "endpoints.token: "),
        (endpoints("jwks", "http://idp.example/"), "endpoints.jwks: it is not https"),
        (endpoints("endSession", "https://idp.example/\r\nx: y"), "endpoints.endSession: "),
        (json!({ "hosts": { "https://idp.example": "a" } }), "hosts: "),
        (json!({ "parameters": { "state": "x" } }), "parameters: `state`"),
        (json!({ "scopes": ["a b"] }), "scopes[0]: "),
        (json!({ "sessionSecrets": [] }), "sessionSecrets: "),
        (json!({ "redirectUri": "//evil.example/" }), "redirectUri: "),
        (json!({ "redirectUri": "https://shop.example/a?b" }), "redirectUri: "),
        (json!({ "logoutPath": "/a b" }), "logoutPath: "),
        (json!({ "logoutPath": "/oauth2/callback" }), "logoutPath: "),
        (json!({ "postLogoutRedirectUri": "javascript:alert(1)" }), "postLogoutRedirectUri: "),
        (json!({ "redirectUri": "/" }), "redirectUri: its path is `/`"),
        (json!({ "redirectUri": "https://shop.example" }), "redirectUri: its path is `/`"),
        (json!({ "redirectUri": "https://shop.example/a//b" }), "redirectUri: no request has its path"),
        (json!({ "redirectUri": "/oauth2/%63allback" }), "redirectUri: no request has its path"),
        (json!({ "redirectUri": "/oauth2/../callback" }), "redirectUri: no request has its path"),
        (json!({ "redirectUri": "oauth2/callback" }), "redirectUri: "),
        (json!({ "logoutPath": "/" }), "logoutPath: its path is `/`"),
        (json!({ "logoutPath": "/a//b" }), "logoutPath: no request has its path"),
        (json!({ "logoutPath": "/./logout" }), "logoutPath: no request has its path"),
        (json!({ "logoutPath": "/%7Eann/logout" }), "logoutPath: no request has its path"),
        (json!({ "logoutPath": "logout" }), "logoutPath: no request has its path"),
        (json!({ "logoutPath": "/logout?a" }), "logoutPath: no request has its path"),
        (json!({ "redirectUri": "https://shop.example/oauth2/logout" }), "logoutPath: it is the path of redirectUri"),
        (json!({ "parameters": { "max_age": "1h" } }), "parameters: `max_age`"),
        (json!({ "parameters": { "max_age": "-1" } }), "parameters: `max_age`"),
        (json!({ "parameters": { "max_age": "" } }), "parameters: `max_age`"),
        (json!({ "claims": [{ "claim": "sub" }] }), "claims[0]: "),
        (
            json!({ "claims": [{ "claim": "sub", "attribute": "a" }, { "claim": "sub", "header": "Cookie" }] }),
            "claims[1].header: `cookie`",
        ),
        (
            json!({ "forwardAccessToken": true, "claims": [{ "claim": "sub", "header": "Authorization" }] }),
            "claims[0].header: `authorization`",
        ),
        (json!({ "loginTime": "10ms" }), "loginTime: "),
        (json!({ "lifetime": "0s" }), "lifetime: "),
        (json!({ "idle": "0s" }), "idle: "),
        (json!({ "cacheFor": "0s" }), "cacheFor: "),
        (json!({ "timeout": "0s" }), "timeout: "),
    ] {
        let message = refused(more.clone());
        assert!(message.starts_with(begin), "{more}: {message}");
    }
    assert!(refused(json!({ "algorithms": ["none"] })).contains("none"));
    assert!(refused(json!({ "sessionSecret": "x" })).contains("sessionSecret"));
}

#[test]
fn paths_that_requests_have_are_accepted() {
    for more in [
        json!({ "redirectUri": "/a", "logoutPath": "/b/" }),
        json!({ "redirectUri": "https://shop.example:8443/a/%C3%A9;v=1", "logoutPath": "/a" }),
        json!({ "claims": [{ "claim": "sub", "header": "authorization" }] }),
        json!({ "parameters": { "max_age": "0" } }),
    ] {
        assert!(plugin(config(more.clone())).is_ok(), "{more}");
    }
}

#[test]
fn no_two_configurations_of_different_sessions_have_one_fingerprint() {
    let fingerprint = |more: Value| plugin(config(more)).unwrap().config.fingerprint();
    let all = [
        json!({}),
        json!({ "parameters": { "a": "" } }),
        json!({ "parameters": { "a": "bc" } }),
        json!({ "parameters": { "ab": "c" } }),
        json!({ "parameters": { "a": "b", "c": "" } }),
        json!({ "parameters": { "a": "sub" } }),
        json!({ "claims": [{ "claim": "a", "attribute": "x" }] }),
        json!({ "refresh": true }),
        json!({ "keepIdToken": true }),
    ];
    let different: std::collections::BTreeSet<_> = all.iter().map(|more| fingerprint(more.clone())).collect();
    assert_eq!(different.len(), all.len());
    assert_eq!(fingerprint(json!({})), fingerprint(json!({ "require": [{ "claim": "sub", "anyOf": ["ann"] }] })));
}

#[test]
fn a_provider_in_clear_text_is_one_for_trials() {
    assert!(plugin(config(json!({ "issuer": "http://127.0.0.1:8080/realms/shop" }))).is_ok());
}
