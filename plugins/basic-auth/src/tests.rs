use super::*;
use serde_json::json;
use sluice_plugin::testing::{Exchange, Services, Tested, configure};

/// Of `open-sesame`, by libxcrypt and by the reference implementation of Argon2; as cheap as can be, for tests.
const BCRYPT: &str = "$2y$04$abcdefghijklmnopqrstuuXcjcm5avyCiJoD2uS24xa2lb6fjMB3G";
const ARGON2: &str = "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQxMjM0NTY3OA$d5mmwZNoYLsw42KWtsD8h3UEM+GyC6iqRvhsUPNZ4fM";

fn plugin(config: serde_json::Value) -> Result<Tested<BasicAuth>, String> {
    configure(config)
}

fn with(name: &str, password: &str) -> Exchange {
    let token = BASE64_STANDARD.encode(format!("{name}:{password}"));
    Exchange::get("/").header("authorization", format!("Basic {token}"))
}

fn passes(plugin: &Tested<BasicAuth>, mut exchange: Exchange) -> bool {
    match exchange.on_request(plugin) {
        Decision::Respond(reply) => {
            assert_eq!(reply.status, 401);
            assert!(reply.headers.iter().any(|(name, _)| name == "www-authenticate"));
            assert_eq!(attributes::get::<String>(USER), None);
            false
        }
        decision => decision.is_continue(),
    }
}

#[test]
fn the_right_password_passes_and_its_user_is_told() {
    let users = json!([{ "name": "chef", "hash": BCRYPT }, { "name": "ann", "hash": ARGON2 }]);
    let plugin = plugin(json!({ "users": users })).unwrap();
    for name in ["chef", "ann"] {
        let mut exchange = with(name, "open-sesame").header("x-user", "root");
        assert!(exchange.on_request(&plugin).is_continue(), "{name}");
        assert_eq!(exchange.request().header_values("x-user"), [name.as_bytes()]);
        assert_eq!(exchange.request().header("authorization"), None, "the password reached the backend");
        assert_eq!(attributes::get::<String>(USER).as_deref(), Some(name));
    }
}

#[test]
fn whatever_else_is_answered_401() {
    let plugin = plugin(json!({ "users": [{ "name": "chef", "hash": BCRYPT }] })).unwrap();
    let twice = with("chef", "open-sesame").header("authorization", "Basic Y2hlZjpvcGVuLXNlc2FtZQ==");
    for exchange in [
        Exchange::get("/"),
        with("chef", "open-sesam"),
        with("chef", ""),
        with("nobody", "open-sesame"),
        with("", ""),
        Exchange::get("/").header("authorization", "Bearer Y2hlZjpvcGVuLXNlc2FtZQ=="),
        Exchange::get("/").header("authorization", "Basic ???"),
        Exchange::get("/").header("authorization", "Basic Y2hlZg=="),
        twice,
    ] {
        assert!(!passes(&plugin, exchange));
    }
}

#[test]
fn a_password_may_hold_colons_and_the_scheme_any_case() {
    let plugin = plugin(json!({ "users": [{ "name": "chef", "hash": BCRYPT }] })).unwrap();
    let token = BASE64_STANDARD.encode("chef:open-sesame");
    assert!(passes(&plugin, Exchange::get("/").header("authorization", format!("BASIC  {token}"))));
    assert_eq!(credentials(&with("a", "b:c").request()), Some(("a".to_owned(), b"b:c".to_vec())));
}

#[test]
fn users_of_a_secret_are_read_as_htpasswd_writes_them_and_anew_for_each_request() {
    let services = Services::new().secret("users", format!("# staff\n\nbroken\nchef:{BCRYPT}\r\nann:{ARGON2}\n"));
    let plugin = plugin(json!({ "usersSecret": "users" })).unwrap();
    assert!(passes(&plugin, with("chef", "open-sesame")) && passes(&plugin, with("ann", "open-sesame")));
    assert!(!passes(&plugin, with("broken", "open-sesame")) && !passes(&plugin, with("# staff", "")));
    services.rotate("users", format!("ann:{ARGON2}"));
    assert!(!passes(&plugin, with("chef", "open-sesame")) && passes(&plugin, with("ann", "open-sesame")));
    services.revoke("users");
    assert!(!passes(&plugin, with("ann", "open-sesame")));
}

#[test]
fn what_was_verified_is_kept_for_a_while_and_not_beyond_a_changed_password() {
    let services = Services::new().store(VERIFIED).secret("users", format!("chef:{BCRYPT}"));
    let plugin = plugin(json!({ "usersSecret": "users", "cacheFor": "5m" })).unwrap();
    assert!(passes(&plugin, with("chef", "open-sesame")));
    let key = key("chef", b"open-sesame", &Hash::parse(BCRYPT).unwrap());
    let kept = || Store::open(VERIFIED).unwrap().get(&key).unwrap().is_some();
    assert!(kept());
    assert!(passes(&plugin, with("chef", "open-sesame")) && !passes(&plugin, with("chef", "other")));
    services.rotate("users", format!("chef:{}", BCRYPT.replace("$2y$", "$2b$").replace("$04$", "$05$")));
    assert!(!passes(&plugin, with("chef", "open-sesame")), "its hash is another");
    services.advance(std::time::Duration::from_secs(300));
    assert!(!kept());
}

#[test]
fn without_the_store_each_request_is_hashed() {
    let plugin = plugin(json!({ "users": [{ "name": "chef", "hash": BCRYPT }], "cacheFor": "5m" })).unwrap();
    assert!(passes(&plugin, with("chef", "open-sesame")) && !passes(&plugin, with("chef", "other")));
}

#[test]
fn a_configuration_that_lets_nobody_in_is_refused() {
    let refused = |config| plugin(config).err().expect("it was accepted");
    assert!(refused(json!({})).contains("nobody could come in"));
    let users = json!([{ "name": "a", "hash": BCRYPT }, { "name": "b", "hash": "plain" }]);
    assert!(refused(json!({ "users": users })).starts_with("users[1].hash (`b`): it is neither"));
    let twice = json!([{ "name": "a", "hash": BCRYPT }, { "name": "a", "hash": ARGON2 }]);
    assert!(refused(json!({ "users": twice })).starts_with("users[1].name: there are two users `a`"));
    assert!(refused(json!({ "usersSecret": "u", "cacheFor": "0s" })).starts_with("cacheFor: "));
}
