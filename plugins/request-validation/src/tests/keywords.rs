//! What each keyword of JSON Schema asks.

use super::*;

/// Values that fit a schema, and values that do not.
fn judge(schema: Value, good: &[&str], bad: &[&str]) {
    let plugin = bodies(schema.clone());
    for text in good {
        assert_eq!(send(&plugin, json_body(*text)), None, "{schema} {text}");
    }
    for text in bad {
        assert_eq!(status(&plugin, json_body(*text)), Some(422), "{schema} {text}");
    }
}

#[test]
fn types() {
    judge(
        json!({ "type": "integer" }),
        &["1", "-5", "1.0", "1e3", "1e300", "18446744073709551616"],
        &["1.5", "\"1\"", "true", "null"],
    );
    judge(json!({ "type": "number" }), &["1", "1.5"], &["\"1\"", "[]"]);
    judge(json!({ "type": "string" }), &["\"\"", r#""\u00e9""#], &["1", "null"]);
    judge(json!({ "type": "boolean" }), &["true", "false"], &["0", "\"true\""]);
    judge(json!({ "type": "null" }), &["null"], &["0", "\"\"", "[]"]);
    judge(json!({ "type": "array" }), &["[]"], &["{}"]);
    judge(json!({ "type": "object" }), &["{}"], &["[]"]);
    judge(json!({ "type": ["integer", "null"] }), &["1", "null"], &["1.5", "\"\""]);
    judge(json!({ "items": false }), &["[]", "1"], &["[1]"]);
}

#[test]
fn values() {
    judge(
        json!({ "enum": [1, "a", null, [1, { "b": 2, "a": 1 }]] }),
        &["1", "1.0", "\"a\"", "null", r#"[1.0,{"a":1,"b":2}]"#],
        &["2", "\"1\"", "[1]", "true"],
    );
    judge(json!({ "const": false }), &["false"], &["0", "null"]);
    judge(json!({ "const": { "a": [] } }), &[r#"{"a":[]}"#], &[r#"{"a":{}}"#, "{}"]);
}

#[test]
fn numbers() {
    judge(json!({ "minimum": 1, "maximum": 2.5 }), &["1", "2.5", "\"x\""], &["0.99", "2.6", "3"]);
    judge(json!({ "exclusiveMinimum": 1, "exclusiveMaximum": 2 }), &["1.5"], &["1", "2", "1.0"]);
    judge(json!({ "maximum": 9007199254740993i64 }), &["9007199254740993"], &["9007199254740994"]);
    judge(json!({ "minimum": 0 }), &["1e308", "18446744073709551615"], &["-1e308", "-1"]);
    judge(json!({ "multipleOf": 0.01 }), &["19.99", "0", "4.35", "7"], &["0.005", "19.991"]);
    judge(json!({ "multipleOf": 0.01 }), &["0.07", "1e-2"], &["1e-18", "0.010000000000001"]);
    judge(json!({ "multipleOf": 3 }), &["9", "-3", "9.0", "0"], &["10", "1.5"]);
    judge(json!({ "multipleOf": 1 }), &["1e300"], &["1.0000000000000002"]);
    let draft4 = "http://json-schema.org/draft-04/schema#";
    judge(json!({ "$schema": draft4, "minimum": 1, "exclusiveMinimum": true }), &["1.1"], &["1"]);
    judge(json!({ "$schema": draft4, "minimum": 1, "exclusiveMinimum": false }), &["1"], &["0"]);
}

#[test]
fn texts() {
    judge(
        json!({ "minLength": 2, "maxLength": 3 }),
        &["\"ab\"", "\"日本語\"", r#""\ud83d\ude00b""#, "1"],
        &["\"a\"", "\"abcd\""],
    );
    judge(json!({ "pattern": "^[a-z]+$" }), &["\"abc\"", "5"], &["\"aBc\"", "\"\""]);
    judge(json!({ "pattern": "b" }), &["\"abc\""], &["\"ac\""]);
    let short = bodies(json!({ "pattern": "^a", "maxLength": 3 }));
    let too_long = ["body : it has more than 3 characters"];
    assert_eq!(errors(&short, json_body("\"bbbb\"")), too_long, "what is too long is not searched");
    judge(json!({ "format": "uuid" }), &["\"123e4567-e89b-12d3-a456-426614174000\"", "1"], &["\"x\""]);
    judge(json!({ "format": "no-such-format" }), &["\"x\""], &[]);
}

#[test]
fn lists() {
    judge(json!({ "minItems": 1, "maxItems": 2 }), &["[1]", "[1,2]", "{}"], &["[]", "[1,2,3]"]);
    judge(json!({ "items": { "type": "integer" } }), &["[]", "[1,2]"], &["[1,\"a\"]"]);
    judge(
        json!({ "prefixItems": [{ "type": "string" }, true], "items": { "type": "null" } }),
        &["[]", "[\"a\"]", "[\"a\",1,null]"],
        &["[1]", "[\"a\",1,2]"],
    );
    judge(json!({ "items": [{ "type": "string" }], "additionalItems": false }), &["[\"a\"]"], &["[1]", "[\"a\",1]"]);
    judge(
        json!({ "uniqueItems": true }),
        &["[1,2,\"1\",[1],{\"a\":1}]", "[]"],
        &["[1,1.0]", "[{\"a\":1,\"b\":2},{\"b\":2,\"a\":1}]"],
    );
    judge(json!({ "contains": { "const": 1 } }), &["[0,1]", "[1,1]"], &["[]", "[0]"]);
    judge(json!({ "contains": { "const": 1 }, "minContains": 0, "maxContains": 1 }), &["[]", "[1]"], &["[1,1]"]);
}

#[test]
fn objects() {
    judge(json!({ "required": ["a", "b"] }), &[r#"{"a":1,"b":null}"#, "[]"], &[r#"{"a":1}"#, "{}"]);
    judge(json!({ "minProperties": 1, "maxProperties": 1 }), &[r#"{"a":1}"#], &["{}", r#"{"a":1,"b":1}"#]);
    judge(
        json!({ "properties": { "a": { "type": "string" } }, "patternProperties": { "^x-": { "type": "integer" } }, "additionalProperties": { "type": "null" } }),
        &[r#"{"a":"","x-b":1,"c":null}"#, "{}"],
        &[r#"{"a":1}"#, r#"{"x-b":""}"#, r#"{"c":1}"#],
    );
    judge(json!({ "propertyNames": { "maxLength": 1 } }), &[r#"{"a":1}"#], &[r#"{"ab":1}"#]);
    judge(json!({ "dependentRequired": { "a": ["b"] } }), &["{}", r#"{"b":1}"#, r#"{"a":1,"b":1}"#], &[r#"{"a":1}"#]);
    judge(json!({ "dependentSchemas": { "a": { "required": ["b"] } } }), &["{}", r#"{"a":1,"b":1}"#], &[r#"{"a":1}"#]);
    judge(
        json!({ "dependencies": { "a": ["b"], "c": { "required": ["d"] } } }),
        &["{}", r#"{"c":1,"d":1}"#],
        &[r#"{"a":1}"#, r#"{"c":1}"#],
    );
}

#[test]
fn combinations() {
    judge(json!({ "allOf": [{ "minimum": 1 }, { "maximum": 2 }] }), &["1"], &["0", "3"]);
    judge(json!({ "anyOf": [{ "type": "string" }, { "minimum": 2 }] }), &["\"a\"", "2"], &["1"]);
    judge(json!({ "oneOf": [{ "multipleOf": 2 }, { "multipleOf": 3 }] }), &["2", "3"], &["6", "5"]);
    judge(json!({ "not": { "type": "string" } }), &["1"], &["\"a\""]);
    judge(
        json!({ "if": { "minimum": 10 }, "then": { "multipleOf": 10 }, "else": { "maximum": 5 } }),
        &["20", "5"],
        &["15", "6"],
    );
    judge(json!({ "if": { "minimum": 10 }, "then": false }), &["1"], &["10"]);
}

#[test]
fn what_nothing_else_is_about() {
    let closed = json!({
        "allOf": [{ "properties": { "a": {} } }],
        "anyOf": [{ "properties": { "b": { "type": "integer" } }, "required": ["b"] }, { "required": ["c"], "properties": { "c": {} } }],
        "patternProperties": { "^x-": {} }, "unevaluatedProperties": false,
    });
    judge(
        closed.clone(),
        &[r#"{"a":1,"b":2}"#, r#"{"b":2,"x-y":1}"#, r#"{"b":2,"c":1}"#, "[1]"],
        &[r#"{"a":1,"b":2,"d":3}"#, r#"{"b":"text","c":1}"#, "{}"],
    );
    assert_eq!(errors(&bodies(closed), json_body(r#"{"b":2,"d":3}"#)), ["body /d: it is not allowed here"]);
    judge(json!({ "allOf": [{ "additionalProperties": true }], "unevaluatedProperties": false }), &[r#"{"a":1}"#], &[]);
    judge(
        json!({ "allOf": [{ "unevaluatedProperties": true }], "unevaluatedProperties": false }),
        &[r#"{"a":1}"#],
        &[],
    );
    judge(
        json!({ "prefixItems": [true], "contains": { "type": "string" }, "unevaluatedItems": { "type": "null" } }),
        &["[1,\"a\",null]"],
        &["[1,\"a\",2]", "[1]"],
    );
    judge(
        json!({ "if": { "properties": { "a": { "const": 1 } } }, "then": { "properties": { "b": {} } }, "unevaluatedProperties": false }),
        &[r#"{"a":1,"b":2}"#],
        &[r#"{"a":2}"#],
    );
}

#[test]
fn references() {
    judge(
        json!({ "$defs": { "a/b~c": { "type": "integer" }, "x y": { "$ref": "#/$defs/a~1b~0c" } }, "items": { "$ref": "#/$defs/x%20y" } }),
        &["[1]"],
        &["[\"a\"]"],
    );
    let beside = |schema: Option<&str>| {
        let mut text = json!({ "definitions": { "a": { "type": "integer" } }, "items": { "$ref": "#/definitions/a", "minimum": 5 } });
        if let Some(schema) = schema {
            text["$schema"] = schema.into();
        }
        text
    };
    judge(beside(None), &["[5]"], &["[4]", "[\"a\"]"]);
    judge(beside(Some("http://json-schema.org/draft-07/schema#")), &["[4]"], &["[\"a\"]"]);
    judge(beside(Some("https://json-schema.org/draft/2020-12/schema")), &["[5]"], &["[4]"]);
}
