//! The request path allocates nothing to find a route: counted, with an allocator that counts.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use sluice_model::HostPattern;
use sluice_model::config::{
    HeaderMatch, PathMatch, PathPolicy, Pattern, QueryMatch, RouteMatch, ValueMatch, VirtualHost,
};
use sluice_model::matcher::{HostMatcher, RequestParts};

fn route(path: PathMatch) -> RouteMatch {
    RouteMatch::of_path(path, 0)
}

fn like(source: &str) -> Pattern {
    Pattern::anchored(source).unwrap()
}

/// One of everything, and more of it than is tried in a row.
fn matcher() -> HostMatcher {
    let mut matches = vec![
        route(PathMatch::Exact("/exact".into())),
        route(PathMatch::Prefix("/a/b/c".into())),
        route(PathMatch::Regex(like("/users/[0-9]+"))),
        route(PathMatch::Regex(like("/users/.*/x"))),
        RouteMatch { method: Some(Method::PUT), ..route(PathMatch::Prefix("/a".into())) },
    ];
    for n in 0..50 {
        let name = HeaderName::from_static("x-tenant");
        let exact = HeaderMatch { name: name.clone(), value: ValueMatch::Exact(format!("t{n}").into()) };
        let pattern = HeaderMatch { name, value: ValueMatch::Regex(like(&format!("p{n}(-.*)?"))) };
        let query = QueryMatch { name: "id".into(), value: ValueMatch::Exact(n.to_string().into()) };
        let path = || route(PathMatch::Prefix("/shared".into()));
        matches.push(RouteMatch { headers: vec![exact], ..path() });
        matches.push(RouteMatch { headers: vec![pattern], ..path() });
        matches.push(RouteMatch { query: vec![query], ..path() });
    }
    HostMatcher::new(&VirtualHost { hostname: HostPattern::Any, matches: matches.into(), rules: [].into() })
}

#[test]
fn a_look_up_allocates_nothing() {
    let matcher = matcher();
    let with_tenant = |value: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static("x-tenant"), HeaderValue::from_static(value));
        headers
    };
    let (none, exact, pattern) = (HeaderMap::new(), with_tenant("t49"), with_tenant("p49-x"));
    for (path, query, headers, found) in [
        ("/exact", "", &none, true),
        ("/a/b/c/d", "", &none, true),
        ("/a/b", "", &none, false),
        ("/users/17", "", &none, true),
        ("/users/17/x", "", &none, true),
        ("/shared/x", "", &exact, true),
        ("/shared/x", "", &pattern, true),
        ("/shared/x", "a=b&%69d=%34%39", &none, true),
        ("/shared/x", "a=b&id=50", &none, false),
        ("/nowhere", "", &none, false),
    ] {
        let request = RequestParts { path, method: &Method::GET, headers, query };
        // The first search makes the thread's own state of an expression.
        assert_eq!(matcher.find(&request).is_some(), found, "{path}?{query}");
        let counted = allocation_counter::measure(|| {
            matcher.find(&request);
        });
        assert_eq!(counted.count_total, 0, "{path}?{query}");
    }
}

#[test]
fn a_path_that_is_normal_is_not_copied() {
    let counted = allocation_counter::measure(|| {
        let path = sluice_model::path::normalize(b"/a/b%20c/%2F/d.e/", PathPolicy::default());
        assert!(path.is_ok_and(|path| path.len() == 17));
    });
    assert_eq!(counted.count_total, 0);
    let counted = allocation_counter::measure(|| {
        let _ = sluice_model::path::normalize(b"/a//b", PathPolicy::default());
    });
    assert!(counted.count_total > 0, "the counter counts");
}
