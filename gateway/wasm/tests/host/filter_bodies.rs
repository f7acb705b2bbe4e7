//! Bodies that pass through filters of the proxy-wasm ABI, piece by piece.

use crate::filters::{Auth, filter, reply, response};
use crate::setup::{Host, header, response_header};
use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderMap, HeaderValue, StatusCode};
use sluice_wasm::{Configured, Decision, Exchange, PlainRequest, PluginError};
use std::sync::Arc;
use std::time::Duration;

#[tokio::test]
async fn trailers_are_seen_and_changed_and_what_was_held_back_goes_before_them() {
    let host = Host::new();
    let version = host.ready(&filter("filter-witness"), "{}").await;
    assert!(version.phases().response_trailers());
    let passed = async |act: &'static str| {
        let mut exchange = Exchange::new(PlainRequest::get("/").header("x-act", act));
        exchange.outbound = Some(Arc::new(Auth { body: b"ok", ..Auth::default() }));
        let mut invocation = version.begin();
        invocation.on_request(&mut exchange).await.unwrap();
        exchange.put_response(response("x-a", "1"));
        invocation.on_response(&mut exchange).await.unwrap();
        let (mut piece, mut before) = (Bytes::from_static(b"a piece"), Bytes::new());
        invocation.on_response_piece_at_once(&mut exchange, &mut piece, false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-trailer", HeaderValue::from_static("kept"));
        trailers.insert("x-other", HeaderValue::from_static("1"));
        invocation.on_response_trailers(&mut exchange, &mut trailers, &mut before).await.unwrap();
        let mut trailers: Vec<_> =
            trailers.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect();
        trailers.sort();
        (piece, before, trailers.join(" "))
    };
    let (piece, before, trailers) = passed("").await;
    assert_eq!((&*piece, &*before, &*trailers), (&b"a piece"[..], &b""[..], "x-other=1 x-trailer=kept"));
    let (piece, before, trailers) = passed("hold-response edit-trailers").await;
    let changed = "x-added=1 x-added=2 x-trailer=changed";
    assert_eq!((&*piece, &*before, &*trailers), (&b""[..], &b"a piece"[..], changed));
    let (_, _, trailers) = passed("replace-trailers").await;
    assert_eq!(trailers, "x-only=this");
    // It may pause there for a callout.
    let (_, before, trailers) = passed("ask-trailers hold-response").await;
    assert_eq!((&*before, &*trailers), (&b"a piece"[..], "x-other=1 x-trailer=kept"));
}

/// What a body filter makes of a request's body that comes in these pieces; a failure ends it.
async fn pass(
    version: &Arc<Configured>,
    exchange: &mut Exchange,
    pieces: &[&'static str],
) -> (Vec<String>, Option<Result<Decision, PluginError>>) {
    let mut invocation = version.begin();
    invocation.on_request(exchange).await.unwrap();
    let mut out = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        let mut bytes = Bytes::from_static(piece.as_bytes());
        let decision = invocation.on_request_piece(exchange, &mut bytes, index + 1 == pieces.len()).await;
        out.push(String::from_utf8(bytes.to_vec()).unwrap());
        if !matches!(decision, Ok(Decision::Continue)) {
            return (out, Some(decision));
        }
    }
    (out, None)
}

fn body(what: &'static str) -> Exchange {
    Exchange::new(PlainRequest::get("/").header("x-body", what).header("content-length", "9"))
}

#[tokio::test]
async fn a_body_is_seen_piece_by_piece_held_back_and_changed() {
    let host = Host::new();
    let version = host.ready(&filter("filter-body"), "{}").await;
    assert!(version.phases().request_pieces() && version.phases().response_pieces());
    let (out, _) = pass(&version, &mut body(""), &["a se", "cre", "t"]).await;
    assert_eq!(out, ["", "", "a body of 8 bytes\n"]);
    let (out, _) = pass(&version, &mut body(""), &["no", "thing"]).await;
    assert_eq!(out, ["", "nothing"]);
    let mut exchange = body("upper");
    let (out, _) = pass(&version, &mut exchange, &["ab", "c", ""]).await;
    assert_eq!(out, ["AB", "C", ""]);
    assert_eq!(header(&exchange, "content-length"), None, "the gateway frames anew");
    let (out, end) = pass(&version, &mut body("refuse"), &["ab", "c"]).await;
    let answer = reply(end.unwrap().unwrap());
    assert_eq!((answer.status.as_u16(), &*answer.body, out.len()), (413, &b"too much\n"[..], 1));
}

#[tokio::test]
async fn a_pause_within_a_body_waits_for_its_callout() {
    let host = Host::new();
    let version = host.ready(&filter("filter-body"), "{}").await;
    let auth = Arc::new(Auth { body: b"ok", ..Auth::default() });
    let mut exchange = body("ask");
    exchange.outbound = Some(auth.clone());
    let (out, _) = pass(&version, &mut exchange, &["one", "two"]).await;
    assert_eq!(out, ["one", "two"]);
    assert_eq!(auth.asked.lock().unwrap().len(), 2);
    let mut exchange = body("ask");
    exchange.outbound = Some(auth);
    let (_, end) = pass(&version, &mut exchange, &["one", "refused"]).await;
    assert_eq!(reply(end.unwrap().unwrap()).status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn what_is_held_back_is_bounded_and_comes_back_for_whoever_goes_on_without_the_filter() {
    let host = Host::new();
    let mut spec = filter("filter-body");
    spec.limits.body_buffer = 6;
    let version = host.ready(&spec, "{}").await;
    let (out, end) = pass(&version, &mut body(""), &["abcd", "efgh", "i"]).await;
    let error = end.unwrap().unwrap_err();
    assert!(matches!(error, PluginError::TooMuchHeld { limit: 6, .. }), "{error}");
    assert_eq!(error.reason(), sluice_model::Reason::BodyTooLarge);
    assert_eq!(out, ["", "abcdefgh"]);
}

#[tokio::test]
async fn a_responses_body_is_changed_at_once() {
    let host = Host::new();
    let version = host.ready(&filter("filter-body"), "{}").await;
    let answered = async |what: &'static str, pieces: &[&'static str]| {
        let mut exchange = body(what);
        let mut invocation = version.begin();
        invocation.on_request(&mut exchange).await.unwrap();
        exchange.put_response(response("content-length", "9"));
        invocation.on_response(&mut exchange).await.unwrap();
        let mut out = Vec::new();
        for (index, piece) in pieces.iter().enumerate() {
            let mut bytes = Bytes::from_static(piece.as_bytes());
            let end = index + 1 == pieces.len();
            invocation.on_response_piece_at_once(&mut exchange, &mut bytes, end).unwrap();
            out.push(String::from_utf8(bytes.to_vec()).unwrap());
        }
        (out, response_header(&exchange, "content-length"))
    };
    assert_eq!(answered("", &["a sec", "ret"]).await, (vec![String::new(), "a body of 8 bytes\n".into()], None));
    assert_eq!(answered("upper", &["ab", "c"]).await.0, ["AB", "C"]);
    assert_eq!(answered("frame", &["ab", "c"]).await.0, ["<ab", "<c>"]);
    assert_eq!(answered("keep-length", &["ab", "c"]).await.1.as_deref(), Some("9"));
}

/// A thread that serves has many exchanges, of which one is at work while others wait for the same VM.
#[test]
fn pieces_of_many_exchanges_on_threads_that_share_a_vm_pass() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let serving = runtime();
    let host = serving.block_on(async { Host::new() });
    let version = serving.block_on(host.ready(&filter("filter-body"), "{}"));
    let exchange = async |version: &Arc<Configured>| {
        let mut exchange = body("upper");
        let mut invocation = version.begin();
        invocation.on_request(&mut exchange).await.unwrap();
        exchange.put_response(response("content-length", "9"));
        invocation.on_response(&mut exchange).await.unwrap();
        for end in [false, false, false, true] {
            let mut piece = Bytes::from_static(b"ab");
            invocation.on_response_piece_at_once(&mut exchange, &mut piece, end).unwrap();
            assert_eq!(&*piece, b"AB");
            tokio::task::yield_now().await;
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                runtime().block_on(async {
                    for _ in 0..20 {
                        futures::future::join_all((0..20).map(|_| exchange(&version))).await;
                    }
                });
            });
        }
    });
}

/// What is done on a thread of low priority is done there to its end: the thread that it was asked for on may be busy.
#[tokio::test]
async fn a_piece_gets_the_vm_after_another_exchange_of_its_thread_that_went_aside() {
    let host = Host::new();
    let mut spec = filter("filter-body");
    // Too long for a thread that serves.
    spec.limits.run_time = Duration::from_millis(100);
    let version = host.ready(&spec, "{}").await;
    let (mut exchange, mut invocation) = (body("upper"), version.begin());
    invocation.on_request(&mut exchange).await.unwrap();
    exchange.put_response(response("content-length", "9"));
    invocation.on_response(&mut exchange).await.unwrap();
    // The thread of low priority may not get to it within one wait, or may have done it before it is looked at.
    for _ in 0..50 {
        let (mut other, mut of_other) = (body("upper"), version.begin());
        let mut aside = Box::pin(of_other.on_request(&mut other));
        if aside.as_mut().now_or_never().is_some() {
            continue;
        }
        let mut piece = Bytes::from_static(b"ab");
        let passed = invocation.on_response_piece_at_once(&mut exchange, &mut piece, false);
        aside.await.unwrap();
        if passed.is_ok() {
            assert_eq!(&*piece, b"AB");
            return;
        }
    }
    panic!("the VM is kept until the thread is free, and the thread waits for the VM");
}
