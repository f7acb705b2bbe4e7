use super::*;
use serde_json::json;
use sluice_plugin::testing::{Exchange, Tested, configure};

fn plugin(config: serde_json::Value) -> Result<Tested<BodyLimit>, String> {
    configure(config)
}

fn post(protocol: &str) -> Exchange {
    Exchange::new("POST", "/").property("request.protocol", protocol)
}

fn status(decision: Decision) -> u16 {
    match decision {
        Decision::Respond(reply) => reply.status,
        other => panic!("not a reply: {other:?}"),
    }
}

#[test]
fn a_body_of_a_known_length_is_judged_by_it() {
    let plugin = plugin(json!({ "limit": "1Ki" })).unwrap();
    assert!(post("HTTP/1.1").header("content-length", "1024").on_request(&plugin).is_continue());
    assert_eq!(status(post("HTTP/1.1").header("content-length", "1025").on_request(&plugin)), 413);
    assert_eq!(status(post("HTTP/2").header("content-length", "99999999999").on_request(&plugin)), 413);
}

#[test]
fn the_type_of_the_content_decides_which_limit_holds() {
    let config = json!({ "limit": "10", "types": [
        { "contentType": "image/png", "limit": "30" }, { "contentType": "image/*", "limit": "20" },
    ] });
    let plugin = plugin(config).unwrap();
    for (content_type, limit) in
        [("text/plain", 10), ("image/jpeg", 20), ("Image/PNG; q=1", 30), ("imagery/png", 10), ("", 10)]
    {
        let sized = |length: u32| {
            post("HTTP/1.1").header("content-length", length.to_string()).header("content-type", content_type)
        };
        assert!(sized(limit).on_request(&plugin).is_continue(), "{content_type}");
        assert_eq!(status(sized(limit + 1).on_request(&plugin)), 413, "{content_type}");
    }
}

#[test]
fn a_body_of_unknown_length_is_read_up_to_the_limit_or_refused() {
    let read = plugin(json!({ "limit": "1Ki" })).unwrap();
    let chunked = || post("HTTP/1.1").header("transfer-encoding", "chunked");
    assert_eq!(chunked().on_request(&read), ReadBody::at_most(1024).into());
    assert_eq!(post("HTTP/2").on_request(&read), ReadBody::at_most(1024).into());
    assert!(chunked().body("short").on_request_body(&read).is_continue());
    let refuse = plugin(json!({ "limit": "1Ki", "requireLength": true })).unwrap();
    assert_eq!(status(chunked().on_request(&refuse)), 411);
    let get = || Exchange::get("/").property("request.protocol", "HTTP/2");
    assert_eq!(get().on_request(&refuse), ReadBody::at_most(1024).into(), "a GET need not say that it has no body");
}

#[test]
fn a_request_without_a_body_is_not_read() {
    let plugin = plugin(json!({ "limit": "0" })).unwrap();
    assert!(post("HTTP/1.1").on_request(&plugin).is_continue());
}

#[test]
fn a_type_that_is_there_twice_is_refused() {
    let twice = json!({ "limit": "1", "types": [
        { "contentType": "a/b", "limit": "1" }, { "contentType": "A/B", "limit": "2" },
    ] });
    assert!(plugin(twice).err().unwrap().starts_with("types[1].contentType"));
    assert!(plugin(json!({ "limit": "1K" })).is_err());
}
