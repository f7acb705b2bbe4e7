//! Filters of versions 0.1.0 and 0.2.0 of the proxy-wasm ABI.

use crate::filters::{Auth, filter, reply, response, text};
use crate::setup::{Host, header, plugin, response_header};
use bytes::Bytes;
use sluice_wasm::{Decision, Exchange, PlainRequest};
use std::sync::Arc;

#[tokio::test]
async fn a_filter_made_with_an_old_sdk_runs_as_it_always_did() {
    let host = Host::new();
    let version = host.ready(&filter("filter-old"), &text("some words")).await;
    let mut exchange = Exchange::new(PlainRequest::get("/").header("x-upper", "1").header("content-length", "3"));
    let mut invocation = version.begin();
    invocation.on_request(&mut exchange).await.unwrap();
    assert_eq!(header(&exchange, "content-length"), None);
    let mut out = Vec::new();
    for (piece, end) in [("ab", false), ("c", false), ("", true)] {
        let mut bytes = Bytes::from_static(piece.as_bytes());
        invocation.on_request_piece(&mut exchange, &mut bytes, end).await.unwrap();
        out.extend_from_slice(&bytes);
    }
    assert_eq!(out, b"ABC");
    exchange.put_response(response("x-a", "1"));
    invocation.on_response(&mut exchange).await.unwrap();
    assert_eq!(response_header(&exchange, "x-words").as_deref(), Some("10 some words"));
    // Its pause ends with the answer of its callout.
    for (body, allowed) in [(&b"\x02"[..], true), (b"\x01", false)] {
        let mut exchange = Exchange::new(PlainRequest::get("/").header("x-ask", "/may-it"));
        let auth = Arc::new(Auth { body, ..Auth::default() });
        exchange.outbound = Some(auth.clone());
        let decision = version.begin().on_request(&mut exchange).await.unwrap();
        assert_eq!(auth.asked.lock().unwrap()[0].target, "/may-it");
        if allowed {
            assert!(matches!(decision, Decision::Continue), "{decision:?}");
            assert_eq!(header(&exchange, "x-allowed").as_deref(), Some("yes"));
        } else {
            assert_eq!(reply(decision).status, 403);
        }
    }
}

/// Looks for a field that is not there, pauses, goes on by the function of its version, and tells in `x-told` which status
/// the look-up had and whether the callback was told of the message's end.
fn module(version: &str, parameters: &str, end: &str, go_on: &str) -> String {
    format!(
        r#"(module
        (import "env" "proxy_get_header_map_value" (func $get (param i32 i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_replace_header_map_value" (func $set (param i32 i32 i32 i32 i32) (result i32)))
        {go_on}
        (func (export "proxy_abi_version_{version}"))
        (memory (export "memory") 1)
        (data (i32.const 16) "x-none")
        (data (i32.const 32) "x-told")
        (func (export "malloc") (param i32) (result i32) (i32.const 4096))
        (func (export "proxy_on_context_create") (param i32 i32))
        (func (export "proxy_on_request_headers") (param {parameters}) (result i32)
            (i32.store8 (i32.const 64) (i32.add (i32.const 48)
                (call $get (i32.const 0) (i32.const 16) (i32.const 6) (i32.const 0) (i32.const 4))))
            (i32.store8 (i32.const 65) (i32.add (i32.const 48) {end}))
            (drop (call $set (i32.const 0) (i32.const 32) (i32.const 6) (i32.const 64) (i32.const 2)))
            (drop (call $go_on))
            (i32.const 1)))"#
    )
}

#[tokio::test]
async fn versions_differ_in_what_is_missing_in_the_end_of_a_message_and_in_how_it_goes_on() {
    const CONTINUE_REQUEST: &str = r#"(import "env" "proxy_continue_request" (func $go_on (result i32)))"#;
    const CONTINUE_STREAM: &str = r#"(import "env" "proxy_continue_stream" (func $stream (param i32) (result i32)))
        (func $go_on (result i32) (call $stream (i32.const 0)))"#;
    let host = Host::new();
    for (name, wat, told) in [
        ("old", module("0_1_0", "i32 i32", "(i32.const 0)", CONTINUE_REQUEST), "00"),
        ("newer", module("0_2_0", "i32 i32 i32", "(local.get 2)", CONTINUE_STREAM), "11"),
    ] {
        let version = host.ready(&plugin(name, crate::setup::text(&wat)), "{}").await;
        let mut exchange = Exchange::new(PlainRequest::get("/"));
        exchange.request_ends = true;
        let decision = version.begin().on_request(&mut exchange).await.unwrap();
        assert!(matches!(decision, Decision::Continue), "{name}: {decision:?}");
        assert_eq!(header(&exchange, "x-told").as_deref(), Some(told), "{name}");
    }
}
