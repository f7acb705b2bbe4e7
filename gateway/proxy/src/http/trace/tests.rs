use super::*;
use ::http::HeaderValue;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(32);
    for (name, value) in fields {
        headers.insert(*name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn given(flags: &str) -> HeaderMap {
    headers(&[("traceparent", &format!("{PARENT}-{flags}")), ("tracestate", "a=b")])
}

fn sent(headers: &HeaderMap) -> TraceParent {
    TraceParent::parse(headers["traceparent"].as_bytes()).unwrap()
}

#[test]
fn without_a_tracer_a_strangers_trace_is_begun_anew_and_keeps_its_wish_to_be_sampled() {
    let mut headers = given("01");
    assert!(enter(&mut headers, true, None).is_none());
    assert_eq!(headers, given("01"));
    assert_eq!(id(&headers), Some("0af7651916cd43dd8448eb211c80319c"));
    assert!(enter(&mut headers, false, None).is_none());
    assert!(sent(&headers).is_sampled());
    assert_ne!(id(&headers), Some("0af7651916cd43dd8448eb211c80319c"));
    assert!(!headers.contains_key("tracestate"));
}

#[test]
fn without_a_tracer_an_invalid_parent_is_as_none_and_nothing_is_begun() {
    for trusted in [true, false] {
        let mut headers = headers(&[("traceparent", "junk"), ("tracestate", "a=b")]);
        assert!(enter(&mut headers, trusted, None).is_none());
        assert!(headers.is_empty(), "{headers:?}");
    }
}

#[test]
fn a_trusted_peer_says_whether_its_trace_is_sampled_whatever_the_ratio() {
    let (none, all) = (Tracer::alone(0.0), Tracer::alone(1.0));
    let mut headers = given("01");
    assert!(enter(&mut headers, true, Some(&none)).is_some());
    assert_eq!(id(&headers), Some("0af7651916cd43dd8448eb211c80319c"), "the same trace");
    assert_ne!(sent(&headers).span, 0xb7ad_6b71_6920_3331, "what comes next hangs on the request's own span");
    assert!(sent(&headers).is_sampled() && headers["tracestate"] == "a=b");
    let mut headers = given("00");
    assert!(enter(&mut headers, true, Some(&all)).is_none());
    assert_eq!(headers, given("00"), "passed on as it came");
}

#[test]
fn a_stranger_neither_writes_into_a_trace_nor_says_that_it_is_sampled() {
    for (flags, ratio) in [("01", 0.0), ("00", 1.0)] {
        let mut headers = given(flags);
        let trace = enter(&mut headers, false, Some(&Tracer::alone(ratio)));
        assert_eq!((trace.is_some(), sent(&headers).is_sampled()), (ratio == 1.0, ratio == 1.0));
        assert_ne!(id(&headers), Some("0af7651916cd43dd8448eb211c80319c"));
        assert!(!headers.contains_key("tracestate"));
    }
}

#[test]
fn what_was_decided_without_a_parent_is_told_to_the_backend() {
    for (ratio, sampled) in [(0.0, false), (1.0, true)] {
        for mut headers in [headers(&[]), headers(&[("traceparent", "junk"), ("tracestate", "a=b")])] {
            let trace = enter(&mut headers, true, Some(&Tracer::alone(ratio)));
            assert_eq!((trace.is_some(), sent(&headers).is_sampled()), (sampled, sampled));
            assert!(!headers.contains_key("tracestate"));
        }
    }
}

#[test]
fn a_request_that_is_not_sampled_allocates_nothing() {
    let tracer = Tracer::alone(0.0);
    let mut of_peer = given("00");
    let passed_on = allocation_counter::measure(|| {
        assert!(enter(&mut of_peer, true, Some(&tracer)).is_none());
    });
    assert_eq!(passed_on.count_total, 0);
    let mut headers = headers(&[]);
    // The first one takes the memory that the values of this thread are cut from.
    assert!(enter(&mut headers, false, Some(&tracer)).is_none());
    let begun = allocation_counter::measure(|| {
        for _ in 0..32 {
            assert!(enter(&mut headers, false, Some(&tracer)).is_none());
        }
    });
    assert_eq!(begun.count_total, 0);
}

#[test]
fn each_try_has_a_span_of_its_own_unless_a_plugin_wrote_another_trace() {
    let mut headers = given("01");
    let mut trace = enter(&mut headers, true, Some(&Tracer::alone(0.0))).unwrap();
    let spans: Vec<_> = (1..=2)
        .map(|last| {
            trace.begin_try(([192, 0, 2, last], 80).into());
            TraceParent::parse(trace.for_try(headers.get("traceparent")).unwrap().as_bytes()).unwrap()
        })
        .collect();
    assert!(spans.iter().all(|span| span.trace == sent(&headers).trace && span.is_sampled()));
    assert!(spans[0].span != spans[1].span && spans[0].span != sent(&headers).span);
    assert_eq!(trace.for_try(None), None, "it was taken out");
    assert_eq!(trace.for_try(Some(&TraceParent::root().value())), None, "it is a plugin's own");
}

#[test]
fn a_path_is_what_the_client_sent_without_user_and_query() {
    let uri = Uri::from_static("/normal?token=s3cret");
    for (raw, expected) in [
        (None, "/normal"),
        (Some("/a/%2e/b?token=s3cret"), "/a/%2e/b"),
        (Some("/a#s3cret"), "/a"),
        (Some("http://user:s3cret@shop.example/a?b"), "/normal"),
    ] {
        assert_eq!(path(raw.map(str::as_bytes), &uri), expected.as_bytes(), "{raw:?}");
    }
    assert_eq!(&*clipped("aä".as_bytes(), 2), "a\u{fffd}", "cut within a character");
}
