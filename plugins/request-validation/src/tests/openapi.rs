//! Descriptions of APIs.

use super::*;

/// A description in OpenAPI 3.1 with these paths.
fn document(paths: Value) -> Value {
    json!({ "openapi": "3.1.0", "info": { "title": "t", "version": "1" }, "paths": paths })
}

fn with(document: Value, more: Value) -> Value {
    let mut openapi = more;
    openapi["document"] = document;
    json!({ "openapi": openapi })
}

fn api(paths: Value) -> Tested<RequestValidation> {
    plugin(with(document(paths), json!({}))).unwrap_or_else(|error| panic!("{error}"))
}

/// `GET /` with one parameter.
fn parameter(parameter: Value) -> Tested<RequestValidation> {
    api(json!({ "/": { "get": { "parameters": [parameter] } } }))
}

/// Bodies of `POST /` by a version and components.
fn body_of(version: &str, content: Value, components: Value) -> Tested<RequestValidation> {
    let mut document = document(json!({ "/": { "post": { "requestBody": { "content": content } } } }));
    document["openapi"] = version.into();
    document["components"] = components;
    plugin(with(document, json!({}))).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn an_operation_is_found_by_path_and_method() {
    let plugin = api(json!({
        "/pets": { "get": {}, "post": { "operationId": "addPet" } },
        "/pets/{id}": { "delete": {}, "parameters": [{ "name": "id", "in": "path", "required": true, "schema": { "type": "integer" } }] },
        "/pets/mine": { "get": {} },
        "x-note": 1,
    }));
    assert_eq!(status(&plugin, get("/pets")), None);
    assert_eq!(attributes::get::<String>(OPERATION).as_deref(), Some("GET /pets"));
    assert_eq!(status(&plugin, get("/pets/mine")), None);
    let http1 = |method: &str, path: &str| Exchange::new(method, path).property("request.protocol", "HTTP/1.1");
    assert_eq!(status(&plugin, http1("POST", "/pets")), None);
    assert_eq!(attributes::get::<String>(OPERATION).as_deref(), Some("addPet"));
    assert_eq!(status(&plugin, http1("HEAD", "/pets")), None, "where there is GET");
    assert_eq!(status(&plugin, http1("DELETE", "/pets/7")), None);
    assert_eq!(errors(&plugin, http1("DELETE", "/pets/x")), ["path id: it has to be an integer"]);
    for path in ["/", "/pets/", "/pets/7/toys", "/Pets"] {
        assert_eq!(status(&plugin, get(path)), Some(404), "{path}");
    }
    assert_eq!(status(&plugin, http1("PATCH", "/pets")), Some(405));
    assert_eq!(header(&plugin, http1("PATCH", "/pets"), "allow").as_deref(), Some("GET, POST, HEAD"));
    assert_eq!(status(&plugin, http1("DELETE", "/pets/mine")), Some(405), "the concrete path is the one");
    assert_eq!(status(&plugin, http1("get", "/pets")), Some(405), "methods are told apart by case");
}

#[test]
fn unknown_paths_may_pass() {
    let paths = json!({ "/pets": { "get": {} } });
    let plugin = plugin(with(document(paths), json!({ "unknownPaths": "Pass" }))).unwrap();
    assert_eq!(send(&plugin, get("/other")), None);
    assert_eq!(attributes::get::<String>(RESULT), None, "it was not judged");
    assert_eq!(status(&plugin, Exchange::new("PUT", "/pets")), Some(405));
}

#[test]
fn paths_stand_behind_those_of_the_servers_or_the_base_path() {
    let mut document = document(json!({ "/pets": { "get": {} } }));
    document["servers"] = json!([
        { "url": "https://{host}/{version}/", "variables": { "host": { "default": "a.example" }, "version": { "default": "v1" } } },
        { "url": "/v2?x" }, { "url": "https://a.example" },
    ]);
    let by_servers = plugin(with(document.clone(), json!({}))).unwrap();
    for (path, wanted) in [("/v1/pets", None), ("/v2/pets", None), ("/pets", None), ("/v3/pets", Some(404))] {
        assert_eq!(status(&by_servers, get(path)), wanted, "{path}");
    }
    let by_base = plugin(with(document, json!({ "basePath": "/api/" }))).unwrap();
    for (path, wanted) in [("/api/pets", None), ("/v1/pets", Some(404)), ("/pets", Some(404))] {
        assert_eq!(status(&by_base, get(path)), wanted, "{path}");
    }
}

#[test]
fn one_operation_may_be_chosen_by_its_name() {
    let paths = json!({ "/a/{x}": {
        "parameters": [{ "name": "x", "in": "path", "required": true }],
        "get": { "operationId": "read" }, "put": { "operationId": "write" },
    }, "/b": { "get": { "operationId": "other" } } });
    let plugin = plugin(with(document(paths.clone()), json!({ "operationId": "read" }))).unwrap();
    assert_eq!(status(&plugin, get("/a/1")), None);
    assert_eq!(status(&plugin, Exchange::new("PUT", "/a/1")), Some(405));
    assert_eq!(status(&plugin, get("/b")), Some(404));
    assert!(refused(with(document(paths), json!({ "operationId": "none" }))).contains("no operation is called `none`"));
}

#[test]
fn texts_are_read_as_what_their_schema_is_about() {
    for (schema, good, bad) in [
        (
            json!({ "type": "integer", "minimum": 1 }),
            &["7", "1.0"][..],
            &["0", "x", "", "1.5", "0x1", "01", "%201", "1e999", "true"][..],
        ),
        (json!({ "type": "number" }), &["7", "-1.5", "1e3"], &["NaN", "inf", "1.", "1,5"]),
        (json!({ "type": "boolean" }), &["true", "false"], &["1", "True", ""]),
        (json!({ "type": "string", "minLength": 1 }), &["7", "true", "%C3%A9"], &[""]),
        (json!({ "type": ["integer", "null"] }), &["7", "null"], &["x"]),
        (json!({ "enum": [1, 2] }), &["1"], &["3", "a"]),
        (json!({ "enum": ["1", "2"] }), &["1"], &["3"]),
        (
            json!({ "anyOf": [{ "type": "integer", "maximum": 5 }, { "type": "string", "const": "all" }] }),
            &["5", "all"],
            &["6", "none"],
        ),
        (json!({ "allOf": [{ "type": "integer" }, { "maximum": 5 }] }), &["5"], &["6", "a"]),
        (json!({ "type": "string", "format": "date" }), &["2024-02-29"], &["2023-02-29"]),
        (json!({ "maxLength": 2 }), &["12"], &["123"]),
        (json!({ "type": "string", "pattern": "^.{2}$" }), &["%C3%A9a"], &["%C3%A9"]),
    ] {
        let plugin = parameter(json!({ "name": "q", "in": "query", "schema": schema }));
        for text in good {
            assert_eq!(status(&plugin, get(&format!("/?q={text}"))), None, "{schema} {text}");
        }
        for text in bad {
            assert_eq!(status(&plugin, get(&format!("/?q={text}"))), Some(400), "{schema} {text}");
        }
    }
}

#[test]
fn a_parameter_is_there_once_and_where_it_is_required() {
    let plugin = parameter(json!({ "name": "q", "in": "query", "required": true, "schema": { "type": "string" } }));
    assert_eq!(errors(&plugin, get("/")), ["query q: it is missing"]);
    assert_eq!(errors(&plugin, get("/?q=a&%71=b")), ["query q: it is there more than once"]);
    assert_eq!(errors(&plugin, get("/?q=%ff")), ["query q: it is not UTF-8"]);
    assert_eq!(errors(&plugin, get("/?q=%4")), ["query q: it has a broken escape"]);
    assert_eq!(status(&plugin, get("/?q=a&other=b&&=&rate=100%")), None);
    let optional =
        parameter(json!({ "name": "q", "in": "query", "allowEmptyValue": true, "schema": { "type": "integer" } }));
    for target in ["/", "/?q", "/?q=", "/?q=1"] {
        assert_eq!(status(&optional, get(target)), None, "{target}");
    }
}

#[test]
fn a_query_that_another_reader_splits_or_names_differently_is_refused() {
    let parameters =
        json!([{ "name": "q", "in": "query" }, { "name": "ids[]", "in": "query", "schema": { "type": "array" } }]);
    let plugin = api(json!({ "/": { "get": { "parameters": parameters } }, "/free": { "get": {} } }));
    for target in ["/?q=a;b", "/?other=1;q=2", "/?q=a&%u0071=b", "/?%u0071=b"] {
        assert_eq!(status(&plugin, get(target)), Some(400), "{target}");
    }
    assert_eq!(errors(&plugin, get("/?a;b")), ["query a;b: it has a `;`, by which some split: write `%3B`"]);
    assert_eq!(errors(&plugin, get("/?%u0071=b")), ["query %u0071: its name has a broken escape"]);
    assert_eq!(errors(&plugin, get("/?q[$ne]=1")), ["query q[$ne]: some read it as `q`, whose description it escapes"]);
    for target in ["/?q%5B%5D=1", "/?ids[0]=1", "/?ids[][a]=1"] {
        assert_eq!(status(&plugin, get(target)), Some(400), "{target}");
    }
    for target in ["/?q=a%3Bb", "/?ids[]=1&ids%5b%5d=2", "/?other[a]=1&que[0]=1", "/free?q;[]%"] {
        assert_eq!(status(&plugin, get(target)), None, "{target}");
    }
}

#[test]
fn lists_are_read_by_their_style() {
    let list = json!({ "type": "array", "items": { "type": "integer" }, "maxItems": 3 });
    let exploded = parameter(json!({ "name": "q", "in": "query", "schema": list }));
    assert_eq!(status(&exploded, get("/?q=1&q=2&x=y&q=3")), None);
    assert_eq!(status(&exploded, get("/?q=1,2")), Some(400));
    assert_eq!(errors(&exploded, get("/?q=1&q=2&q=3&q=4")), ["query q: it has more than 3 elements"]);
    let joined = parameter(json!({ "name": "q", "in": "query", "explode": false, "schema": list }));
    assert_eq!(status(&joined, get("/?q=1,2,3")), None);
    assert_eq!(errors(&joined, get("/?q=1,b")), ["query q: each of its elements has to be an integer"]);
    assert_eq!(status(&joined, get("/?q=1&q=2")), Some(400));
    let texts = parameter(
        json!({ "name": "q", "in": "query", "explode": false, "schema": { "type": "array", "maxItems": 1 } }),
    );
    assert_eq!(status(&texts, get("/?q=a%2Cb")), None, "an escaped comma is part of the text");
    let headers = parameter(json!({ "name": "X-Ids", "in": "header", "schema": list }));
    assert_eq!(status(&headers, get("/").header("x-ids", "1, 2").header("x-ids", "3")), None);
    assert_eq!(status(&headers, get("/").header("x-ids", "1, b")), Some(400));
    let cookie = parameter(json!({ "name": "ids", "in": "cookie", "explode": false, "schema": list }));
    assert_eq!(status(&cookie, get("/").header("cookie", "a=b; ids=1,2")), None);
    let path = api(
        json!({ "/{ids}": { "get": { "parameters": [{ "name": "ids", "in": "path", "required": true, "schema": list }] } } }),
    );
    assert_eq!(status(&path, get("/1,2,3")), None);
    assert_eq!(status(&path, get("/1,2,3,4")), Some(400));
}

#[test]
fn headers_and_cookies_are_parameters_and_their_values_are_never_told() {
    let plugin = api(json!({ "/": { "get": { "parameters": [
        { "name": "X-Key", "in": "header", "required": true, "schema": { "type": "string", "maxLength": 3 } },
        { "name": "session", "in": "cookie", "schema": { "type": "string", "format": "uuid" } },
        { "name": "Authorization", "in": "header", "required": true },
    ] } } }));
    assert_eq!(status(&plugin, get("/").header("x-key", "abc")), None, "authorization is described elsewhere");
    assert_eq!(errors(&plugin, get("/")), ["header X-Key: it is missing"]);
    let wrong = || get("/").header("x-key", "hunter2").header("cookie", "session=hunter2");
    let found = errors(&plugin, wrong());
    assert_eq!(found, ["header X-Key: it has more than 3 characters", "cookie session: it is not a UUID"]);
    assert!(!send(&plugin, wrong()).unwrap().1.to_string().contains("hunter2"));
    assert_eq!(status(&plugin, get("/").header("x-key", "a").header("x-key", "b")), Some(400));
    assert_eq!(status(&plugin, get("/").header("x-key", b"\xff")), Some(400));
    let uuid = "123e4567-e89b-12d3-a456-426614174000";
    let twice = format!("session={uuid}; session={uuid}");
    assert_eq!(status(&plugin, get("/").header("x-key", "a").header("cookie", twice)), Some(400));
    assert_eq!(status(&plugin, get("/").header("x-key", "a").header("cookie", b"session=\xff")), Some(400));
}

#[test]
fn variables_of_the_path_are_decoded_but_hold_no_slash() {
    let plugin = api(json!({ "/files/{name}": { "get": { "parameters": [
        { "name": "name", "in": "path", "required": true, "schema": { "type": "string", "maxLength": 4, "pattern": "^[^.]" } },
    ] } } }));
    assert_eq!(status(&plugin, get("/files/a%20+b")), None);
    assert_eq!(errors(&plugin, get("/files/a%2Fb")), ["path name: it has an encoded slash"]);
    assert_eq!(errors(&plugin, get("/files/a%5cb")), ["path name: it has an encoded slash"]);
    assert_eq!(errors(&plugin, get("/files/%ff")), ["path name: it is not UTF-8"]);
    assert_eq!(status(&plugin, get("/files/%2E.")), Some(400));
    let message = "path name: it has a `;`, behind which some read something else: write `%3B`";
    assert_eq!(errors(&plugin, get("/files/a;b")), [message]);
    assert_eq!(status(&plugin, get("/files/a%3Bb")), None);
}

#[test]
fn query_parameters_that_nobody_described_may_be_refused() {
    let paths = json!({ "/": { "get": { "parameters": [{ "name": "q", "in": "query" }] } } });
    let plugin = plugin(with(document(paths), json!({ "unknownQuery": "Refuse" }))).unwrap();
    assert_eq!(status(&plugin, get("/?q=1")), None);
    assert_eq!(
        errors(&plugin, get("/?q=1&debug=1&%61dmin")),
        ["query admin: it is not known here", "query debug: it is not known here"]
    );
    let many: Vec<String> = (0..100).map(|n| format!("{}{n}=1", "x".repeat(1_000))).collect();
    let found = errors(&plugin, get(&format!("/?{}", many.join("&"))));
    assert!(found.len() == 10 && found.iter().all(|error| error.len() < 120));
}

#[test]
fn an_operations_parameters_replace_those_of_its_path() {
    let plugin = api(json!({ "/": {
        "parameters": [{ "name": "q", "in": "query", "required": true }, { "name": "X-A", "in": "header", "required": true }],
        "get": { "parameters": [{ "name": "q", "in": "query" }, { "name": "x-a", "in": "header" }] },
        "delete": {},
    } }));
    assert_eq!(status(&plugin, get("/")), None);
    let delete = Exchange::new("DELETE", "/").property("request.protocol", "HTTP/1.1");
    assert_eq!(errors(&plugin, delete), ["query q: it is missing", "header X-A: it is missing"]);
}

#[test]
fn references_lead_to_components_and_may_lead_on() {
    let mut document = document(json!({ "/": { "$ref": "#/components/pathItems/Root" } }));
    document["components"] = json!({
        "pathItems": { "Root": { "post": { "parameters": [{ "$ref": "#/components/parameters/Page" }], "requestBody": { "$ref": "#/components/requestBodies/One" } } } },
        "parameters": { "Page": { "$ref": "#/components/parameters/Real" }, "Real": { "name": "page", "in": "query", "schema": { "$ref": "#/components/schemas/Count" } } },
        "requestBodies": { "One": { "required": true, "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Tree" } } } } },
        "schemas": { "Count": { "type": "integer" }, "Tree": { "type": "object", "properties": { "children": { "type": "array", "items": { "$ref": "#/components/schemas/Tree" } } }, "additionalProperties": false } },
    });
    let by_references = plugin(with(document.clone(), json!({}))).unwrap();
    assert_eq!(status(&by_references, post("/?page=2", "application/json", r#"{"children":[{"children":[]}]}"#)), None);
    assert_eq!(status(&by_references, post("/?page=b", "application/json", "{}")), Some(400));
    let found = errors(&by_references, post("/", "application/json", r#"{"children":[{"child":[]}]}"#));
    assert_eq!(found, ["body /children/0/child: it is not allowed here"]);
    assert_eq!(
        errors(&by_references, Exchange::new("POST", "/").header("content-length", "0")),
        ["body : it is missing"]
    );
    document["components"]["parameters"]["Real"] = json!({ "$ref": "#/components/parameters/Page" });
    let message = refused(with(document, json!({})));
    assert!(
        message
            .starts_with("openapi.document.components.pathItems.Root.post.parameters[0]: its references lead nowhere"),
        "{message}"
    );
}

#[test]
fn schemas_of_openapi_3_0_are_a_dialect_of_their_own() {
    let content = json!({ "application/json": { "schema": { "$ref": "#/components/schemas/A" } } });
    let schema = json!({ "type": "object", "required": ["id", "n"], "properties": {
        "id": { "type": "string", "readOnly": true },
        "n": { "type": "number", "minimum": 0, "exclusiveMinimum": true },
        "note": { "type": "string", "nullable": true },
        "other": { "$ref": "#/components/schemas/B", "maxLength": 1 },
    } });
    let components = json!({ "schemas": { "A": schema, "B": { "type": "string" } } });
    let plugin = body_of("3.0.3", content.clone(), components.clone());
    let judge = |text: &str| status(&plugin, json_body(text));
    assert_eq!(judge(r#"{"n":0.1,"note":null,"other":"long"}"#), None, "what is only read is not required of requests");
    for text in [r#"{"n":0}"#, r#"{}"#, r#"{"n":1,"note":1}"#, r#"{"n":null}"#] {
        assert_eq!(judge(text), Some(422), "{text}");
    }
    let mut document = document(json!({ "/": { "post": { "requestBody": { "content": content } } } }));
    document["components"] = components;
    let message = refused(with(document, json!({})));
    assert!(message.starts_with("openapi.document.components.schemas.A.properties.n.exclusiveMinimum: "), "{message}");
}

#[test]
fn content_is_judged_by_the_narrowest_range_that_has_its_type() {
    let plugin = body_of(
        "3.1.0",
        json!({
            "*/*": {}, "application/*": { "schema": { "type": "array" } }, "application/json; charset=utf-8": { "schema": { "type": "object" } },
            "text/csv": {},
        }),
        json!({}),
    );
    let judge = |content_type: &str, body: &str| status(&plugin, post("/", content_type, body));
    assert_eq!((judge("application/json", "{}"), judge("application/json", "[]")), (None, Some(422)));
    assert_eq!((judge("application/ld+json", "[]"), judge("application/ld+json", "{}")), (None, Some(422)));
    assert_eq!(judge("application/xml", "<a/>"), None, "what is not JSON is judged by its type alone");
    assert_eq!(judge("text/csv", "a;b"), None);
    assert_eq!(judge("image/png", "?"), None);
    assert_eq!(judge("text/csv; charset=latin1", "a"), None);
    assert_eq!((judge("text/json", "[]"), judge("text/json", "{")), (None, Some(400)), "it is JSON too");
    let json_only = body_of("3.1.0", json!({ "application/json": {} }), json!({}));
    assert_eq!(status(&json_only, post("/", "text/csv", "a")), Some(415));
    assert_eq!(status(&json_only, post("/", "application/json", "{")), Some(400), "without a schema it is JSON still");
    assert_eq!(status(&json_only, post("/", "application/json", "5")), None);
    let text_json = body_of("3.0.1", json!({ "text/json": { "schema": { "type": "object" } } }), json!({}));
    assert_eq!(status(&text_json, post("/", "text/json", "[]")), Some(422));
    assert_eq!(status(&text_json, post("/", "text/json; charset=utf-16", "{}")), Some(415));
}

#[test]
fn an_operation_without_a_body_gets_none() {
    let plugin = api(json!({ "/": { "get": {}, "post": {} } }));
    assert_eq!(status(&plugin, get("/")), None);
    assert_eq!(errors(&plugin, json_body("{}")), ["body : there should be none"]);
    let http2 = || Exchange::get("/").property("request.protocol", "HTTP/2");
    assert_eq!(status(&plugin, http2()), None);
    assert_eq!(status(&plugin, http2().body("{}")), Some(400));
}

#[test]
fn forms_are_objects_of_their_schemas_types() {
    let schema = json!({ "type": "object", "required": ["name"], "additionalProperties": false, "properties": {
        "name": { "type": "string" }, "age": { "type": "integer", "maximum": 150 }, "tags": { "type": "array", "items": { "type": "string" }, "maxItems": 2 },
        "news": { "type": "boolean" }, "home": { "type": "object" },
    } });
    let plugin = body_of("3.1.0", json!({ "application/x-www-form-urlencoded": { "schema": schema } }), json!({}));
    let form = |body: &str| post("/", "application/x-www-form-urlencoded", body);
    assert_eq!(status(&plugin, form("name=Ann+B&age=7&tags=a&tags=b&news=true")), None);
    assert_eq!(errors(&plugin, form("name=a&age=x")), ["body /age: it has to be an integer"]);
    assert_eq!(errors(&plugin, form("age=200&color=red")).len(), 3);
    assert_eq!(errors(&plugin, form("name=a&n%61me=b")), ["body /name: it is there more than once"]);
    assert_eq!(errors(&plugin, form("name=a&tags=a&tags=b&tags=c")), ["body /tags: it has more than 2 elements"]);
    assert_eq!(errors(&plugin, form("name=a&home={}")), ["body /home: it has to be an object"]);
    assert_eq!(status(&plugin, form("name=%ff")), Some(400));
    assert_eq!(status(&plugin, form("name=%zz")), Some(400));
    assert_eq!(status(&plugin, form("")), None, "a body that is not there is not required");
}

#[test]
fn a_form_that_another_reader_splits_or_names_differently_is_refused() {
    let schema = json!({ "type": "object", "properties": {
        "age": { "type": "integer" }, "home": { "type": "object" }, "tags[]": { "type": "array", "maxItems": 2 },
    } });
    let plugin = body_of("3.1.0", json!({ "application/x-www-form-urlencoded": { "schema": schema } }), json!({}));
    let form = |body: &str| post("/", "application/x-www-form-urlencoded", body);
    assert_eq!(errors(&plugin, form("a=1;age=x")), ["body : it has a `;`, by which some split: write `%3B`"]);
    let told = "some read it as `home`, whose description it escapes";
    assert_eq!(errors(&plugin, form("home[street]=x")), [format!("body /home[street]: {told}")]);
    for body in ["age[]=x", "age%5B0%5D=x", "tags[9]=x"] {
        assert_eq!(status(&plugin, form(body)), Some(422), "{body}");
    }
    assert_eq!(status(&plugin, form("a=1%3B2&color[]=red&tags[]=a&tags[]=b")), None);
}

#[test]
fn fields_of_a_form_are_read_as_any_of_their_types() {
    let either = json!({ "anyOf": [{ "type": "integer", "maximum": 5 }, { "type": "string" }] });
    let schema = json!({ "type": "object", "properties": { "count": either } });
    let plugin = body_of("3.1.0", json!({ "application/x-www-form-urlencoded": { "schema": schema } }), json!({}));
    for body in ["count=5", "count=6", "count=all"] {
        assert_eq!(status(&plugin, post("/", "application/x-www-form-urlencoded", body)), None, "{body}");
    }
}

#[test]
fn a_description_that_can_not_be_used_is_refused_with_its_place() {
    let place = |paths: Value| refused(with(document(paths), json!({})));
    let of = |parameter: Value| place(json!({ "/": { "get": { "parameters": [parameter] } } }));
    let at = "openapi.document.paths./.get.parameters[0]";
    for (parameter, field) in [
        (json!({ "name": "q", "in": "query", "style": "deepObject" }), ".style: "),
        (json!({ "name": "q", "in": "query", "style": "pipeDelimited" }), ".style: "),
        (json!({ "name": "q", "in": "header", "style": "form" }), ".style: "),
        (json!({ "name": "q", "in": "query", "content": {} }), ".content: "),
        (json!({ "name": "q", "in": "body" }), ".in: "),
        (json!({ "in": "query" }), ".name: "),
        (json!({ "name": "a b", "in": "header" }), ".name: "),
        (json!({ "name": "q", "in": "query", "required": "yes" }), ".required: "),
        (json!({ "name": "q", "in": "query", "schema": { "type": "object" } }), ".schema: objects"),
        (
            json!({ "name": "q", "in": "query", "schema": { "type": "array", "items": { "type": "array" } } }),
            ".schema: lists of",
        ),
        (json!({ "name": "q", "in": "query", "schema": { "type": ["array", "string"] } }), ".schema: "),
        (
            json!({ "name": "q", "in": "query", "schema": { "$ref": "common.json" } }),
            ".schema.$ref: `common.json` is outside",
        ),
        (json!({ "name": "q", "in": "cookie", "schema": { "type": "array" } }), ".explode: "),
        (json!({ "name": "q", "in": "path", "required": true }), ": the path has no `{q}`"),
        (json!({ "$ref": "#/components/parameters/none" }), ".$ref: there is no"),
        (json!({ "$ref": "https://a.example/p.json" }), ".$ref: `https://a.example/p.json` is outside"),
    ] {
        let message = of(parameter);
        assert!(message.starts_with(&format!("{at}{field}")), "{field}: {message}");
    }
    let twice = json!({ "name": "q", "in": "query" });
    assert!(
        place(json!({ "/": { "get": { "parameters": [twice, twice] } } })).contains("parameters[1]: it is there twice")
    );
    assert!(place(json!({ "/{a}": { "get": {} } })).contains("`a` of the path"));
    assert!(place(json!({ "/{a": {} })).starts_with("openapi.document.paths./{a: "));
    assert!(place(json!({ "/a/{x}": {}, "/a/{y}": {} })).contains("no request can tell it from"));
    assert!(place(json!({ "/": { "servers": [] } })).contains("paths./.servers: "));
    assert!(place(json!({})).starts_with("openapi.document.paths: "));
    let body = |media: Value| place(json!({ "/": { "post": { "requestBody": { "content": media } } } }));
    assert!(body(json!({ "json": {} })).contains("content.json: it is not a media type"));
    let encoded = json!({ "schema": {}, "encoding": { "a": { "style": "deepObject" } } });
    let message = body(json!({ "application/x-www-form-urlencoded": encoded }));
    assert!(message.contains("urlencoded.encoding.a.style: forms are read"), "{message}");
    for (version, message) in [("2.0", "neither 3.0 nor 3.1"), ("3.10.0", "neither"), ("3.2.0", "neither")] {
        let mut document = document(json!({ "/": {} }));
        document["openapi"] = version.into();
        assert!(refused(with(document, json!({}))).contains(message), "{version}");
    }
    let mut relative = document(json!({ "/": {} }));
    relative["servers"] = json!([{ "url": "v1" }]);
    assert!(refused(with(relative.clone(), json!({}))).starts_with("openapi.document.servers[0].url: "));
    assert!(plugin(with(relative, json!({ "basePath": "/v1" }))).is_ok());
}
