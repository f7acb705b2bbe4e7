use super::*;
use serde_json::json;
use sluice_plugin::testing::{Exchange, Tested, configure};

fn plugin(config: serde_json::Value) -> Result<Tested<IpRestriction>, String> {
    configure(config)
}

fn status(plugin: &Tested<IpRestriction>, client: &str) -> Option<u16> {
    match Exchange::get("/").property("client.address", client).on_request(plugin) {
        Decision::Respond(reply) => Some(reply.status),
        _ => None,
    }
}

#[test]
fn with_an_allow_list_only_those_in_it_pass() {
    let plugin = plugin(json!({ "allow": ["10.0.0.0/8", "2001:db8::1"] })).unwrap();
    assert_eq!(status(&plugin, "10.9.8.7"), None);
    assert_eq!(status(&plugin, "2001:db8::1"), None);
    assert_eq!(status(&plugin, "192.0.2.1"), Some(403));
    assert_eq!(status(&plugin, "2001:db8::2"), Some(403));
}

#[test]
fn what_is_denied_is_denied_even_if_it_is_allowed_too() {
    let plugin = plugin(json!({ "allow": ["10.0.0.0/8"], "deny": ["10.1.0.0/16"] })).unwrap();
    assert_eq!((status(&plugin, "10.2.0.1"), status(&plugin, "10.1.0.1")), (None, Some(403)));
    let only_deny = self::plugin(json!({ "deny": ["192.0.2.0/24"], "status": 404 })).unwrap();
    assert_eq!((status(&only_deny, "198.51.100.1"), status(&only_deny, "192.0.2.1")), (None, Some(404)));
}

#[test]
fn an_ipv4_client_on_an_ipv6_socket_is_the_same_client() {
    let plugin = plugin(json!({ "allow": ["192.0.2.0/24"] })).unwrap();
    assert_eq!(status(&plugin, "::ffff:192.0.2.9"), None);
}

#[test]
fn a_client_without_an_address_does_not_pass() {
    let plugin = plugin(json!({ "deny": ["192.0.2.0/24"] })).unwrap();
    assert!(!Exchange::get("/").on_request(&plugin).is_continue());
}

#[test]
fn a_configuration_that_restricts_nothing_or_can_not_be_read_is_refused() {
    let refused = |config| plugin(config).err().expect("it was accepted");
    assert!(refused(json!({})).contains("neither allow nor deny"));
    assert!(refused(json!({ "allow": ["10.0.0.0/8", "10.0.0.0/40"] })).starts_with("allow[1]: `10.0.0.0/40`"));
    assert!(refused(json!({ "deny": ["example.com"] })).starts_with("deny[0]"));
}
