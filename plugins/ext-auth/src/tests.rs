use super::*;
use serde_json::{Value, json};
use sluice_plugin::testing::{Asked, Exchange, StubAnswer, Tested, configure};
use std::cell::RefCell;
use std::rc::Rc;

fn plugin(config: Value) -> Result<Tested<ExtAuth>, String> {
    configure(config)
}

/// A request before a service that answers so, and what that was asked.
fn before(exchange: Exchange, answer: StubAnswer) -> (Exchange, Rc<RefCell<Vec<Asked>>>) {
    let asked: Rc<RefCell<Vec<Asked>>> = Rc::default();
    let kept = asked.clone();
    let exchange = exchange.backend("auth", move |request| {
        kept.borrow_mut().push(request.clone());
        answer.clone()
    });
    (exchange, asked)
}

fn reply(decision: Decision) -> Reply {
    match decision {
        Decision::Respond(reply) => reply,
        other => panic!("not a reply: {other:?}"),
    }
}

#[test]
fn the_service_is_asked_with_the_requests_own_method_path_and_host() {
    let plugin = plugin(json!({ "pathPrefix": "/check", "requestHeaders": ["authorization", "x-tenant"] })).unwrap();
    let request = Exchange::new("DELETE", "/orders/1?force=1")
        .header("authorization", "Bearer t")
        .header("x-tenant", "a")
        .header("x-tenant", "b")
        .header("cookie", "secret=1")
        .property("client.address", "192.0.2.7");
    let (mut exchange, asked) = before(request, StubAnswer::new(200));
    assert!(exchange.on_request(&plugin).is_continue());
    let asked = &asked.borrow()[0];
    assert_eq!((asked.method.as_str(), asked.target.as_str()), ("DELETE", "/check/orders/1?force=1"));
    assert_eq!((asked.authority.as_deref(), asked.timeout_ms), (Some("example.com"), Some(200)));
    let told = |name: &str| asked.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.clone()).collect::<Vec<_>>();
    assert_eq!(told("authorization"), [b"Bearer t"]);
    assert_eq!(told("x-tenant"), [b"a", b"b"]);
    assert_eq!(told("cookie"), Vec::<Vec<u8>>::new());
    assert_eq!(told("x-forwarded-for"), [b"192.0.2.7".to_vec()]);
    assert_eq!(told("x-forwarded-uri"), [b"/orders/1?force=1".to_vec()]);
    assert_eq!(told("x-forwarded-method"), [b"DELETE".to_vec()]);
}

#[test]
fn it_can_be_asked_at_one_path_and_told_more() {
    let more =
        json!({ "path": "/verify", "forwardedHeaders": false, "addHeaders": [{ "name": "x-from", "value": "edge" }] });
    let (mut exchange, asked) = before(Exchange::new("POST", "/a"), StubAnswer::new(200));
    assert!(exchange.on_request(&plugin(more).unwrap()).is_continue());
    let asked = &asked.borrow()[0];
    assert_eq!((asked.method.as_str(), asked.target.as_str()), ("GET", "/verify"));
    assert_eq!((asked.header("x-from"), asked.header("x-forwarded-for")), (Some(&b"edge"[..]), None));
}

#[test]
fn with_200_the_request_goes_on_with_what_the_service_says() {
    let plugin =
        plugin(json!({ "backendHeaders": ["x-user", "x-role"], "clientHeadersOnSuccess": ["set-cookie"] })).unwrap();
    let answer = StubAnswer::new(200)
        .header("x-user", "ann")
        .header("x-role", "cook")
        .header("x-role", "chef")
        .header("x-other", "no")
        .header("set-cookie", "s=1")
        .header("set-cookie", "t=2");
    let (mut exchange, _) = before(Exchange::get("/"), answer);
    assert!(exchange.on_request(&plugin).is_continue());
    assert_eq!(exchange.request().header_values("x-user"), [b"ann"]);
    assert_eq!(exchange.request().header_values("x-role"), [b"cook", b"chef"]);
    assert_eq!(exchange.request().header("x-other"), None);
    assert!(exchange.on_response(&plugin).is_continue());
    assert_eq!(exchange.response().header_values("set-cookie"), [b"s=1", b"t=2"]);
    assert_eq!(attributes::get::<String>(CARRIED), None, "it would be in the access log");
}

#[test]
fn any_other_answer_is_the_clients() {
    let answer = || {
        StubAnswer::new(302)
            .header("location", "https://idp.example/login")
            .header("x-why", "no session")
            .header("content-length", "3")
            .header("server", "auth")
            .body("go")
    };
    let (mut exchange, _) = before(Exchange::get("/"), answer());
    let all = reply(exchange.on_request(&plugin(json!({})).unwrap()));
    let names: Vec<_> = all.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!((all.status, names.as_slice(), all.body.as_slice()), (302, &["location", "x-why"][..], &b"go"[..]));
    let (mut exchange, _) = before(Exchange::get("/"), answer());
    let named = reply(exchange.on_request(&plugin(json!({ "clientHeaders": [] })).unwrap()));
    assert_eq!(named.headers, [("location".to_owned(), b"https://idp.example/login".to_vec())]);
    for status in [201, 204, 401, 403, 404, 429] {
        let (mut exchange, _) = before(Exchange::get("/"), StubAnswer::new(status));
        assert_eq!(reply(exchange.on_request(&plugin(json!({})).unwrap())).status, status);
    }
}

#[test]
fn while_the_service_fails_requests_are_refused_or_pass_as_it_is_configured() {
    for answer in
        [StubAnswer::new(500), StubAnswer::new(503), StubAnswer::failure("timeout"), StubAnswer::failure("connect")]
    {
        let (mut exchange, _) = before(Exchange::get("/"), answer.clone());
        assert_eq!(reply(exchange.on_request(&plugin(json!({})).unwrap())).status, 403);
        let (mut exchange, _) = before(Exchange::get("/"), answer.clone());
        let status = json!({ "statusOnFailure": 503 });
        assert_eq!(reply(exchange.on_request(&plugin(status).unwrap())).status, 503);
        let (mut exchange, _) = before(Exchange::get("/"), answer);
        assert!(exchange.on_request(&plugin(json!({ "failOpen": true })).unwrap()).is_continue());
        assert_eq!(attributes::get::<bool>(FAILED_OPEN), Some(true));
    }
}

#[test]
fn the_body_is_told_where_it_is_asked_for() {
    let plugin = plugin(json!({ "body": "1Ki" })).unwrap();
    let request = Exchange::new("POST", "/").header("content-type", "application/json").body("{}");
    let (mut exchange, asked) = before(request, StubAnswer::new(403));
    assert_eq!(exchange.on_request(&plugin), ReadBody::at_most(1024).into());
    assert_eq!(reply(exchange.on_request_body(&plugin)).status, 403);
    let asked = &asked.borrow()[0];
    assert_eq!((asked.body.as_slice(), asked.header("content-type")), (&b"{}"[..], Some(&b"application/json"[..])));
}

#[test]
fn a_configuration_that_could_not_work_is_refused() {
    let refused = |config| plugin(config).err().expect("it was accepted");
    assert!(refused(json!({ "path": "/a", "pathPrefix": "/b" })).starts_with("pathPrefix: "));
    assert!(refused(json!({ "path": "/a b" })).starts_with("path: "));
    assert!(refused(json!({ "body": "2Mi" })).starts_with("body: "));
    assert!(refused(json!({ "timeout": "0s" })).starts_with("timeout: "));
    let field = json!({ "addHeaders": [{ "name": "a", "value": "b\nc" }] });
    assert!(refused(field).starts_with("addHeaders[0].value: "));
}
