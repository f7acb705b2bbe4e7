use super::*;
use serde_json::json;
use sluice_plugin::testing::{Exchange, Services, Tested, configure};

mod keywords;
mod openapi;

fn plugin(config: Value) -> Result<Tested<RequestValidation>, String> {
    configure(config)
}

fn refused(config: Value) -> String {
    plugin(config).err().expect("it was accepted")
}

/// Bodies by this schema.
fn bodies(schema: Value) -> Tested<RequestValidation> {
    plugin(json!({ "body": { "schema": schema } })).unwrap_or_else(|error| panic!("{error}"))
}

fn post(path: &str, content_type: &str, body: impl Into<Vec<u8>>) -> Exchange {
    let body = body.into();
    let exchange = Exchange::new("POST", path).property("request.protocol", "HTTP/1.1");
    exchange.header("content-length", body.len().to_string()).header("content-type", content_type).body(body)
}

fn json_body(body: impl Into<Vec<u8>>) -> Exchange {
    post("/", "application/json", body)
}

fn get(path: &str) -> Exchange {
    Exchange::get(path).property("request.protocol", "HTTP/1.1")
}

/// Both phases; the answer with its body, where there is one.
fn send(plugin: &Tested<RequestValidation>, mut exchange: Exchange) -> Option<(u16, Value)> {
    let mut decision = exchange.on_request(plugin);
    if let Decision::ReadBody(_) = decision {
        decision = exchange.on_request_body(plugin);
    }
    match decision {
        Decision::Respond(reply) => {
            assert!(reply.headers.contains(&("content-type".to_owned(), b"application/problem+json".to_vec())));
            Some((reply.status, serde_json::from_slice(&reply.body).unwrap()))
        }
        _ => None,
    }
}

fn status(plugin: &Tested<RequestValidation>, exchange: Exchange) -> Option<u16> {
    send(plugin, exchange).map(|(status, _)| status)
}

/// `place name: message` of each thing that is wrong.
fn errors(plugin: &Tested<RequestValidation>, exchange: Exchange) -> Vec<String> {
    let Some((_, problem)) = send(plugin, exchange) else { return Vec::new() };
    let errors = problem["errors"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    errors
        .iter()
        .map(|error| {
            let name = if error["name"].is_null() { &error["pointer"] } else { &error["name"] };
            format!("{} {}: {}", text(&error["in"]), text(name), text(&error["message"]))
        })
        .collect()
}

fn header(plugin: &Tested<RequestValidation>, mut exchange: Exchange, name: &str) -> Option<String> {
    let Decision::Respond(reply) = exchange.on_request(plugin) else { return None };
    let value = reply.headers.into_iter().find(|(key, _)| key == name)?.1;
    String::from_utf8(value).ok()
}

#[test]
fn a_body_that_fits_goes_on_and_another_is_answered_with_what_is_wrong_and_where() {
    let plugin = bodies(json!({ "type": "object", "required": ["name"], "additionalProperties": false, "properties": {
        "name": { "type": "string", "maxLength": 3 },
        "tags": { "type": "array", "items": { "type": "string" } },
    } }));
    assert_eq!(send(&plugin, json_body(r#"{"name":"tea","tags":["a"]}"#)), None);
    assert_eq!(attributes::get::<String>(RESULT).as_deref(), Some("valid"));
    let answer = send(&plugin, json_body(r#"{"name":"secret","tags":["a",1],"a/b":2}"#));
    let wanted = json!({
        "title": "Unprocessable Content", "status": 422, "detail": "the body is not what it should be",
        "errors": [
            { "in": "body", "pointer": "/a~1b", "message": "it is not allowed here" },
            { "in": "body", "pointer": "/name", "message": "it has more than 3 characters" },
            { "in": "body", "pointer": "/tags/1", "message": "it has to be a string" },
        ],
    });
    assert_eq!(answer, Some((422, wanted)));
    assert_eq!(attributes::get::<String>(RESULT).as_deref(), Some("schema"));
    let told = attributes::get::<String>(ERRORS).unwrap();
    assert!(told.contains("body /tags/1: it has to be a string") && !told.contains("secret"), "{told}");
    assert_eq!(errors(&plugin, json_body("{}")), ["body : `name` is missing"]);
}

#[test]
fn a_body_that_is_not_json_is_answered_400() {
    let plugin = bodies(json!({}));
    for text in
        ["{", "{\"a\":1}}", "[1,]", "nul", "'a'", "{\"a\":1} {}", "NaN", "\u{feff}{}", r#""\ud800""#, "1e400", "01"]
    {
        assert_eq!(status(&plugin, json_body(text)), Some(400), "{text}");
    }
    assert_eq!(status(&plugin, json_body(b"\"\xff\"".to_vec())), Some(400));
}

#[test]
fn a_name_that_is_there_twice_is_refused_since_readers_differ_in_which_they_take() {
    let plugin = bodies(json!({}));
    for text in [r#"{"a":1,"a":2}"#, r#"[{"b":{"a":1,"\u0061":2}}]"#, r#"{"":1,"b":1,"":1}"#] {
        let (status, problem) = send(&plugin, json_body(text)).unwrap();
        assert_eq!(status, 400);
        let message = problem["errors"][0]["message"].as_str().unwrap();
        assert!(message.starts_with("an object has a name twice"), "{text}: {message}");
    }
    assert_eq!(send(&plugin, json_body(r#"{"a":{"a":1},"A":2}"#)), None);
}

#[test]
fn depth_is_bounded() {
    let plugin = bodies(json!({}));
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(send(&plugin, json_body(nested(32))), None);
    assert_eq!(status(&plugin, json_body(nested(33))), Some(400));
    assert_eq!(status(&plugin, json_body("{\"a\":".repeat(100_000))), Some(400));
}

#[test]
fn what_is_told_is_bounded_and_holds_no_value() {
    let plugin = bodies(json!({ "additionalProperties": { "type": "integer" } }));
    let many: Vec<String> = (0..1_000).map(|n| format!("\"key{n}\":\"hunter2\"")).collect();
    let found = errors(&plugin, json_body(format!("{{{}}}", many.join(","))));
    assert_eq!(found.len(), 10);
    assert!(!found.join(" ").contains("hunter2"));
    let long = errors(&plugin, json_body(format!("{{\"{}\":\"x\"}}", "é".repeat(100_000))));
    assert!(long[0].len() < 300 && long[0].contains('…'), "{}", long[0].len());
    assert!(attributes::get::<String>(ERRORS).unwrap().len() <= 1_000);
    let line = r#"{"a\nb":""}"#;
    send(&plugin, json_body(line));
    assert!(!attributes::get::<String>(ERRORS).unwrap().contains('\n'));
}

#[test]
fn the_type_of_the_body_has_to_be_one_that_is_read() {
    let plugin = bodies(json!({}));
    for good in ["application/json", "Application/JSON; charset=UTF-8", "application/ld+json"] {
        assert_eq!(status(&plugin, post("/", good, "{}")), None, "{good}");
    }
    for bad in [
        "text/plain",
        "application/json; charset=latin1",
        "application/jsonp",
        "json",
        "",
        "text/html,application/json",
    ] {
        assert_eq!(status(&plugin, post("/", bad, "{}")), Some(415), "{bad}");
    }
    let twice = json_body("{}").header("content-type", "text/plain");
    assert_eq!(errors(&plugin, twice), ["header content-type: there is more than one"]);
    let accept = header(&plugin, post("/", "text/plain", "{}"), "accept");
    assert_eq!(accept.as_deref(), Some("application/json, application/*+json"));
    let texts = plugin_of_texts();
    assert_eq!(status(&texts, post("/", "text/plain", "{}")), None);
    assert_eq!(status(&texts, post("/", "text/plain", "hello")), Some(400), "it is JSON all the same");
}

fn plugin_of_texts() -> Tested<RequestValidation> {
    plugin(json!({ "body": { "schema": {}, "contentTypes": ["text/*"] } })).unwrap()
}

#[test]
fn an_encoded_body_is_not_read() {
    let plugin = bodies(json!({}));
    let encoded = || json_body("{}").header("content-encoding", "gzip");
    assert_eq!(status(&plugin, encoded()), Some(415));
    assert_eq!(header(&plugin, encoded(), "accept-encoding").as_deref(), Some("identity"));
    assert_eq!(status(&plugin, json_body("{}").header("content-encoding", "Identity")), None);
    let two = json_body("{}").header("content-encoding", "identity").header("content-encoding", "br");
    assert_eq!(status(&plugin, two), Some(415));
}

#[test]
fn a_body_that_is_too_large_is_refused_before_it_is_read_where_its_length_is_told() {
    let plugin = plugin(json!({ "body": { "schema": {} }, "limit": "8" })).unwrap();
    assert_eq!(send(&plugin, json_body("[1,2,3]")), None);
    let mut large = json_body("[1,2,3,4]");
    assert!(matches!(large.on_request(&plugin), Decision::Respond(reply) if reply.status == 413));
    let mut chunked = Exchange::new("POST", "/").header("transfer-encoding", "chunked");
    chunked = chunked.header("content-type", "application/json");
    assert_eq!(chunked.on_request(&plugin), ReadBody::at_most(8).into());
}

#[test]
fn a_body_is_required_of_methods_that_bring_one_unless_said_otherwise() {
    let http1 = |method: &str| Exchange::new(method, "/").property("request.protocol", "HTTP/1.1");
    let required = bodies(json!({}));
    for method in ["POST", "PUT", "PATCH"] {
        assert_eq!(errors(&required, http1(method)), ["body : it is missing"], "{method}");
        assert_eq!(status(&required, http1(method).header("content-length", "0")), Some(400), "{method}");
    }
    for method in ["GET", "HEAD", "DELETE", "OPTIONS"] {
        assert_eq!(status(&required, http1(method)), None, "{method}");
    }
    let optional = plugin(json!({ "body": { "schema": {}, "required": false } })).unwrap();
    assert_eq!(status(&optional, http1("POST")), None);
    let strange = http1("GET").header("content-length", "1").header("content-type", "application/json").body("{");
    assert_eq!(status(&optional, strange), Some(400), "what is there is judged, whatever the method");
}

#[test]
fn http_2_need_not_say_whether_there_is_a_body() {
    let plugin = bodies(json!({ "type": "array" }));
    let http2 = |method: &str| Exchange::new(method, "/").property("request.protocol", "HTTP/2");
    assert_eq!(http2("GET").on_request(&plugin), ReadBody::at_most(1 << 20).into());
    assert_eq!(status(&plugin, http2("GET")), None);
    assert_eq!(status(&plugin, http2("POST")), Some(400));
    assert_eq!(status(&plugin, http2("POST").body("[]")), Some(415), "its type is missing");
    assert_eq!(status(&plugin, http2("POST").header("content-type", "application/json").body("[]")), None);
}

#[test]
fn a_body_that_is_not_judged_may_be_of_any_length() {
    let content = json!({ "image/png": {} });
    let mut document = json!({ "openapi": "3.1.0", "paths": { "/": { "post": { "requestBody": { "required": true, "content": content } } } } });
    let build = |document: &Value| plugin(json!({ "openapi": { "document": document }, "limit": "4" })).unwrap();
    let plugin = build(&document);
    let image = || Exchange::new("POST", "/").header("content-type", "image/png");
    assert_eq!(image().header("content-length", "9").on_request(&plugin), Decision::Continue);
    let mut http2 = image().property("request.protocol", "HTTP/2");
    assert_eq!(http2.on_request(&plugin), ReadBody::at_most(4).or_pass().into());
    assert_eq!(attributes::get::<String>(RESULT).as_deref(), Some("valid"), "it stays so where it is not read");
    assert_eq!(status(&plugin, http2), Some(400), "one is required");
    document["paths"]["/"]["post"]["requestBody"]["required"] = false.into();
    let plugin = build(&document);
    assert_eq!(image().property("request.protocol", "HTTP/2").on_request(&plugin), Decision::Continue);
}

#[test]
fn a_rule_can_be_tried_without_refusing_anything() {
    let services = Services::new();
    let plugin = plugin(json!({ "body": { "schema": { "type": "array" } }, "limit": "16", "mode": "Report" })).unwrap();
    assert_eq!(send(&plugin, json_body("{}")), None);
    assert_eq!(attributes::get::<String>(RESULT).as_deref(), Some("schema"));
    assert_eq!(attributes::get::<String>(ERRORS).as_deref(), Some("body: it has to be an array"));
    assert_eq!(services.counter(FAILURES, &[("kind", "schema")]), Some(1));
    assert_eq!(send(&plugin, post("/", "text/plain", "{}")), None);
    assert_eq!(attributes::get::<String>(RESULT).as_deref(), Some("media_type"));
    let mut chunked = Exchange::new("POST", "/").header("transfer-encoding", "chunked");
    chunked = chunked.header("content-type", "application/json");
    assert_eq!(chunked.on_request(&plugin), ReadBody::at_most(16).or_pass().into());
    assert_eq!(attributes::get::<String>(RESULT).as_deref(), Some("unread"));
}

#[test]
fn the_work_for_a_body_is_bounded_by_its_length() {
    // Each level asks twice for the next: 2^32 questions, were they all asked.
    let either = json!({ "type": "object", "properties": { "a": { "$ref": "#" } } });
    let plugin = bodies(json!({ "anyOf": [either, either, { "type": "integer" }] }));
    let body = format!("{}\"x\"{}", "{\"a\":".repeat(31), "}".repeat(31));
    assert_eq!(errors(&plugin, json_body(body)), ["body : it takes too much work to be judged"]);
    let unique = bodies(json!({ "uniqueItems": true }));
    let numbers: Vec<String> = (0..100_000).map(|n| n.to_string()).collect();
    assert_eq!(send(&unique, json_body(format!("[{}]", numbers.join(",")))), None);
}

#[test]
fn what_each_alternative_goes_through_again_counts_as_work() {
    let text = format!("\"{}\"", "a".repeat(10_000));
    let numbers: Vec<String> = (0..2_000).map(|n| n.to_string()).collect();
    let names: Vec<String> = numbers.iter().map(|n| format!("\"{n}\":0")).collect();
    for (alternative, body) in [
        (json!({ "minLength": 10_001 }), text),
        (json!({ "uniqueItems": true, "not": {} }), format!("[{}]", numbers.join(","))),
        (json!({ "properties": { "a": {} }, "not": {} }), format!("{{{}}}", names.join(","))),
    ] {
        let of = |count: usize| bodies(json!({ "anyOf": vec![alternative.clone(); count] }));
        assert_eq!(errors(&of(50), json_body(body.as_str())), ["body : it fits none of the alternatives"]);
        let many = errors(&of(2_000), json_body(body));
        assert_eq!(many, ["body : it takes too much work to be judged"], "{alternative}");
    }
}

#[test]
fn a_configuration_that_could_not_work_is_refused_with_its_place() {
    assert!(refused(json!({})).contains("neither body nor openapi"));
    let openapi = json!({ "document": { "openapi": "3.1.0", "paths": { "/": {} } } });
    assert!(refused(json!({ "body": { "schema": {} }, "openapi": openapi })).contains("both set"));
    assert!(
        refused(json!({ "body": { "schema": {}, "contentTypes": ["json"] } })).starts_with("body.contentTypes[0]: ")
    );
    for (schema, place) in [
        (json!({ "type": "text" }), "body.schema.type: "),
        (
            json!({ "properties": { "a": { "items": [{}, { "minimum": "1" }] } } }),
            "body.schema.properties.a.items[1].minimum: ",
        ),
        (json!({ "properties": { "a": 1 } }), "body.schema.properties.a: "),
        (json!({ "required": "a" }), "body.schema.required: "),
        (json!({ "minLength": -1 }), "body.schema.minLength: "),
        (json!({ "maxItems": 1.5 }), "body.schema.maxItems: "),
        (json!({ "multipleOf": 0 }), "body.schema.multipleOf: "),
        (json!({ "allOf": [] }), "body.schema.allOf: "),
        (json!({ "pattern": "(a" }), "body.schema.pattern: "),
        (json!({ "patternProperties": { "(?=a)": {} } }), "body.schema.patternProperties.(?=a): "),
        (json!({ "items": { "$dynamicRef": "#a" } }), "body.schema.items.$dynamicRef: "),
        (json!({ "exclusiveMinimum": true }), "body.schema.exclusiveMinimum: "),
        (json!({ "items": { "$id": "x" } }), "body.schema.items.$id: "),
        (json!({ "$schema": "http://json-schema.org/draft-03/schema#" }), "body.schema.$schema: "),
        (json!({ "items": { "$ref": "#/$defs/a" } }), "body.schema.items.$ref: there is no `#/$defs/a`"),
        (json!({ "$ref": "#a" }), "body.schema.$ref: `#a` is not a path"),
        (
            json!({ "$ref": "https://schemas.example/a.json" }),
            "body.schema.$ref: `https://schemas.example/a.json` is outside",
        ),
        (json!({ "$ref": "other.json#/a" }), "body.schema.$ref: "),
    ] {
        let message = refused(json!({ "body": { "schema": schema } }));
        assert!(message.starts_with(place), "{place}: {message}");
    }
}

#[test]
fn a_schema_that_is_about_one_value_without_end_is_refused_and_one_that_descends_is_not() {
    let circle = |schema: Value| refused(json!({ "body": { "schema": schema } }));
    assert!(circle(json!({ "$ref": "#" })).contains("leads back to itself"));
    assert!(circle(json!({ "allOf": [{ "anyOf": [{ "$ref": "#" }] }] })).contains("leads back to itself"));
    let pair = json!({ "$ref": "#/$defs/a", "$defs": {
        "a": { "not": { "$ref": "#/$defs/b" } }, "b": { "if": { "$ref": "#/$defs/a" } },
    } });
    assert!(circle(pair).contains("leads back to itself"));
    let mut deep = json!({});
    for _ in 0..20 {
        deep = json!({ "allOf": [deep] });
    }
    assert!(circle(deep).contains("nested too deeply"));
    let tree = bodies(json!({ "type": "object", "additionalProperties": false, "properties": {
        "left": { "$ref": "#" }, "right": { "$ref": "#" },
    } }));
    assert_eq!(send(&tree, json_body(r#"{"left":{"right":{}},"right":{}}"#)), None);
    assert_eq!(
        errors(&tree, json_body(r#"{"left":{"right":{"up":{}}}}"#)),
        ["body /left/right/up: it is not allowed here"]
    );
}
