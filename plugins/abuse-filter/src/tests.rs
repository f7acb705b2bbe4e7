use super::*;
use serde_json::json;
use sluice_plugin::testing::{Exchange, Services, Tested, configure};

fn plugin(config: serde_json::Value) -> Result<Tested<AbuseFilter>, String> {
    configure(config)
}

/// The rules that refused it.
fn refused_by(plugin: &Tested<AbuseFilter>, mut exchange: Exchange) -> Option<String> {
    let decision = exchange.on_request(plugin);
    let rules = attributes::get::<String>(RULES);
    assert_eq!(decision.is_continue(), rules.is_none());
    rules
}

#[test]
fn a_pattern_is_looked_for_where_its_rule_says() {
    let plugin = plugin(json!({ "rules": [
        { "name": "target", "pattern": "evil" },
        { "name": "query", "pattern": "^q=1$", "parts": ["Query"] },
        { "name": "agent", "pattern": "^bad", "parts": ["Headers"], "headers": ["User-Agent"] },
        { "name": "any", "pattern": "\\$\\{jndi:", "parts": ["Headers"] },
    ] }))
    .unwrap();
    assert_eq!(refused_by(&plugin, Exchange::get("/an/EVIL/path")).as_deref(), Some("target"));
    assert_eq!(refused_by(&plugin, Exchange::get("/?x=evil")).as_deref(), Some("target"));
    assert_eq!(refused_by(&plugin, Exchange::get("/?q=1")).as_deref(), Some("query"));
    assert_eq!(refused_by(&plugin, Exchange::get("/").header("user-agent", "Bad/1.0")).as_deref(), Some("agent"));
    assert_eq!(refused_by(&plugin, Exchange::get("/").header("x-a", "${jndi:ldap}")).as_deref(), Some("any"));
    let both = Exchange::get("/evil").header("user-agent", "bad");
    assert_eq!(refused_by(&plugin, both).as_deref(), Some("target,agent"));
    assert_eq!(refused_by(&plugin, Exchange::get("/good?q=12").header("x-a", "bad evil")), None);
}

#[test]
fn encodings_hide_nothing() {
    let plugin = plugin(json!({ "rules": [{ "name": "r", "pattern": "<script" }] })).unwrap();
    for target in ["/?a=%3Cscript", "/?a=%253Cscript", "/?a=%3cSCRIPT%3e", "/%3Cscript"] {
        assert!(refused_by(&plugin, Exchange::get(target)).is_some(), "{target}");
    }
}

#[test]
fn presets_find_what_they_are_about_and_spare_honest_requests() {
    let plugin = plugin(json!({ "presets": ["Scanners", "Probes", "Injection"] })).unwrap();
    for target in [
        "/.git/config",
        "/app/.env",
        "/backup.sql.gz",
        "/?file=../../etc/passwd",
        "/?id=1%27%20OR%201=1",
        "/?q=1+UNION+ALL+SELECT+2",
        "/?x=%24%7Bjndi:ldap://a%7D",
        "/?c=;cat%20/tmp/x",
        "/?a=%3Cscript%3Ealert(1)",
    ] {
        assert!(refused_by(&plugin, Exchange::get(target)).is_some(), "{target}");
    }
    assert!(refused_by(&plugin, Exchange::get("/").header("user-agent", "sqlmap/1.8 (https://sqlmap.org)")).is_some());
    for target in [
        "/",
        "/.well-known/acme-challenge/x",
        "/docs/environment",
        "/old/things",
        "/?q=trade+union+and+select+committee+of+this+very+long+sentence+indeed",
        "/?name=O%27Brien",
        "/a..b/c",
        "/select?from=union",
    ] {
        assert_eq!(refused_by(&plugin, Exchange::get(target).header("user-agent", "Mozilla/5.0")), None, "{target}");
    }
}

#[test]
fn a_rule_can_be_tried_without_refusing_anything() {
    let services = Services::new();
    let plugin = plugin(json!({ "rules": [{ "name": "r", "pattern": "evil" }], "action": "Log" })).unwrap();
    assert!(Exchange::get("/evil").on_request(&plugin).is_continue());
    assert_eq!(attributes::get::<String>(RULES).as_deref(), Some("r"));
    assert_eq!(services.counter(MATCHES, &[("rule", "r")]), Some(1));
}

#[test]
fn a_rule_that_can_not_be_used_is_named() {
    let refused = |config| plugin(config).err().expect("it was accepted");
    assert!(refused(json!({})).contains("nothing would be looked for"));
    let good = json!({ "name": "a", "pattern": "x" });
    assert!(refused(json!({ "rules": [good, { "name": "b", "pattern": "(" }] })).starts_with("rules[1].pattern: "));
    assert!(refused(json!({ "rules": [good, good] })).starts_with("rules[1].name: there are two rules `a`"));
    let headers = json!({ "rules": [{ "name": "a", "pattern": "x", "headers": ["x-a"] }] });
    assert!(refused(headers).starts_with("rules[0].headers: "));
}
