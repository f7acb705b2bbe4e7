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
        (json!({ "claims": [{ "claim": "sub" }] }), "claims[0]: "),
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
fn a_provider_in_clear_text_is_one_for_trials() {
    assert!(plugin(config(json!({ "issuer": "http://127.0.0.1:8080/realms/shop" }))).is_ok());
}
