use super::*;
use crate::HostPattern;
use crate::config::{HeaderMatch, QueryMatch};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;
use std::sync::{LazyLock, Mutex};

fn route(path: PathMatch) -> RouteMatch {
    RouteMatch::of_path(path, 0)
}

fn exact(path: &str) -> RouteMatch {
    route(PathMatch::Exact(path.into()))
}

fn prefix(path: &str) -> RouteMatch {
    route(PathMatch::Prefix(path.into()))
}

fn regex(source: &str) -> RouteMatch {
    route(PathMatch::Regex(Pattern::anchored(source).unwrap()))
}

impl RouteMatch {
    fn method(mut self, method: Method) -> Self {
        self.method = Some(method);
        self
    }
    fn grpc_method(mut self, value: ValueMatch) -> Self {
        self.grpc_method = Some(value);
        self
    }
    fn header(mut self, name: &str, value: ValueMatch) -> Self {
        self.headers.push(HeaderMatch { name: HeaderName::try_from(name).unwrap(), value });
        self
    }
    fn query(mut self, name: &str, value: ValueMatch) -> Self {
        self.query.push(QueryMatch { name: name.into(), value });
        self
    }
}

fn is(text: &str) -> ValueMatch {
    ValueMatch::Exact(text.into())
}

fn like(source: &str) -> ValueMatch {
    ValueMatch::Regex(Pattern::anchored(source).unwrap())
}

fn host(matches: Vec<RouteMatch>) -> VirtualHost {
    VirtualHost { hostname: HostPattern::Any, matches: matches.into(), rules: [].into() }
}

/// A request that owns its parts.
#[derive(Clone, Debug)]
struct Request {
    method: Method,
    path: String,
    query: String,
    headers: HeaderMap,
}

fn get(target: &str) -> Request {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Request { method: Method::GET, path: path.to_owned(), query: query.to_owned(), headers: HeaderMap::new() }
}

impl Request {
    fn by(mut self, method: Method) -> Self {
        self.method = method;
        self
    }
    fn with(mut self, name: &str, value: &[u8]) -> Self {
        self.headers.append(HeaderName::try_from(name).unwrap(), HeaderValue::from_bytes(value).unwrap());
        self
    }
    fn parts(&self) -> RequestParts<'_> {
        RequestParts { path: &self.path, method: &self.method, headers: &self.headers, query: &self.query }
    }
}

fn find(matches: &[RouteMatch], request: &Request) -> Option<MatchIndex> {
    HostMatcher::new(&host(matches.to_vec())).find(&request.parts())
}

#[test]
fn a_prefix_means_whole_elements() {
    let routes = [prefix("/foo"), prefix("/foo/bar"), prefix("/aaa/bbb")];
    for (path, want) in [
        ("/foo", Some(0)),
        ("/foo/", Some(0)),
        ("/foo/x", Some(0)),
        ("/foo/bar", Some(1)),
        ("/foo/bar/", Some(1)),
        ("/foo/bar/baz/x", Some(1)),
        ("/foo/barx", Some(0)),
        ("/foobar", None),
        ("/FOO", None),
        ("/aaa", None),
        ("/aaa/bbbxyz", None),
        ("/", None),
    ] {
        assert_eq!(find(&routes, &get(path)), want, "{path}");
    }
}

#[test]
fn the_prefix_slash_means_every_path() {
    for path in ["/", "/a", "/a/b/c/d/e"] {
        assert_eq!(find(&[prefix("")], &get(path)), Some(0), "{path}");
    }
}

#[test]
fn an_exact_path_tells_its_final_slash() {
    let routes = [exact("/foo"), exact("/bar/"), exact("/")];
    for (path, want) in [
        ("/foo", Some(0)),
        ("/foo/", None),
        ("/bar/", Some(1)),
        ("/bar", None),
        ("/", Some(2)),
        ("/foo/x", None),
        ("/Foo", None),
    ] {
        assert_eq!(find(&routes, &get(path)), want, "{path}");
    }
}

#[test]
fn exact_goes_before_expression_goes_before_longest_prefix() {
    let routes = [prefix(""), prefix("/a"), prefix("/a/bb"), regex("/a/b+"), regex("/a/.*c"), exact("/a/bb")];
    for (path, want) in
        [("/a/bb", 5), ("/a/bbb", 3), ("/a/bb/c", 4), ("/a/bb/d", 2), ("/a/x", 1), ("/x", 0), ("/a/bb/", 2)]
    {
        assert_eq!(find(&routes, &get(path)), Some(want), "{path}");
    }
}

#[test]
fn of_two_expressions_the_longer_text_goes_first_then_the_method_then_the_given_order() {
    let routes = [regex("/a.*"), regex("/a[b]+"), regex("/.*b").method(Method::GET), regex("/.*x"), regex("/a.*")];
    assert_eq!(find(&routes, &get("/ab")), Some(1));
    assert_eq!(find(&routes, &get("/acb")), Some(2), "a method outranks the older of equal length");
    assert_eq!(find(&routes, &get("/acb").by(Method::PUT)), Some(0));
    assert_eq!(find(&routes, &get("/ax")), Some(0), "the first given of equal ones");
}

#[test]
fn the_matches_of_two_expressions_of_one_length_rank_among_each_other() {
    let routes = [regex("/a.*").method(Method::PUT), regex("/.*b").header("v", is("1")), regex("/a.*")];
    assert_eq!(find(&routes, &get("/ab").with("v", b"1").by(Method::PUT)), Some(0));
    assert_eq!(find(&routes, &get("/ab").with("v", b"1")), Some(1));
    assert_eq!(find(&routes, &get("/ab")), Some(2));
}

#[test]
fn an_expression_matches_the_whole_path() {
    assert_eq!(find(&[regex("/a|/b")], &get("/bc")), None);
    assert_eq!(find(&[regex("/a|/b")], &get("/b")), Some(0));
}

#[test]
fn an_expression_that_would_escape_its_anchors_is_refused() {
    for source in ["/a)|(?:/b", "/a)|(/b", "(", "/a)", "(?x) /a # )"] {
        assert!(Pattern::anchored(source).is_err(), "{source}");
    }
}

#[test]
fn a_method_goes_before_headers_go_before_query_parameters() {
    let routes = [
        prefix("/a"),
        prefix("/a").query("q", is("1")).query("r", is("1")),
        prefix("/a").header("x", is("1")),
        prefix("/a").header("x", is("1")).header("y", is("1")),
        prefix("/a").method(Method::POST),
    ];
    let full = get("/a?q=1&r=1").with("x", b"1").with("y", b"1");
    assert_eq!(find(&routes, &full.clone().by(Method::POST)), Some(4));
    assert_eq!(find(&routes, &full), Some(3));
    assert_eq!(find(&routes, &get("/a?q=1&r=1").with("x", b"1")), Some(2));
    assert_eq!(find(&routes, &get("/a?q=1&r=1")), Some(1));
    assert_eq!(find(&routes, &get("/a?q=1")), Some(0));
}

#[test]
fn a_path_whose_conditions_fail_falls_through_to_the_next_shorter_prefix() {
    let routes = [
        exact("/a/b/c").header("v", is("1")),
        regex("/a/b/[c]").header("v", is("2")),
        prefix("/a/b/c").header("v", is("3")),
        prefix("/a/b").header("v", is("4")),
        prefix("/a").header("v", is("5")),
        prefix(""),
    ];
    for (value, want) in [("1", 0), ("2", 1), ("3", 2), ("4", 3), ("5", 4), ("6", 5)] {
        assert_eq!(find(&routes, &get("/a/b/c").with("v", value.as_bytes())), Some(want));
    }
    assert_eq!(find(&routes[..5], &get("/a/b/c")), None);
}

#[test]
fn a_repeated_field_is_compared_as_its_combined_value() {
    let routes = [prefix("").header("v", is("a,b")), prefix("").header("v", like("x,.*"))];
    assert_eq!(find(&routes, &get("/").with("v", b"a").with("v", b"b")), Some(0));
    assert_eq!(find(&routes, &get("/").with("v", b"a")), None);
    assert_eq!(find(&routes, &get("/").with("v", b"x").with("v", b"y").with("v", b"z")), Some(1));
}

#[test]
fn a_field_value_that_is_not_utf8_fits_no_expression() {
    let routes = [prefix("").header("v", like("(?s).*"))];
    assert_eq!(find(&routes, &get("/").with("v", b"\xff")), None);
    assert_eq!(find(&routes, &get("/").with("v", b"")), Some(0));
    assert_eq!(find(&routes, &get("/")), None, "an absent field has no value");
}

#[test]
fn query_values_are_compared_decoded() {
    let routes = [prefix("").query("a b", is("c&d")), prefix("").query("p", like("[+]é"))];
    assert_eq!(find(&routes, &get("/?x=1&a%20b=c%26d")), Some(0));
    assert_eq!(find(&routes, &get("/?a+b=c%26d")), None);
    assert_eq!(find(&routes, &get("/?p=+%C3%A9")), Some(1));
    assert_eq!(find(&routes, &get("/?p=+%C3")), None, "not UTF-8");
}

#[test]
fn matches_in_another_order_than_precedence_are_still_found_by_precedence() {
    let routes = [prefix(""), prefix("/a").header("v", is("1")), exact("/a")];
    assert_eq!(find(&routes, &get("/a").with("v", b"1")), Some(2));
    assert_eq!(find(&routes, &get("/a/").with("v", b"1")), Some(1));
    assert_eq!(find(&routes, &get("/a/")), Some(0));
}

#[test]
fn a_host_without_matches_finds_nothing() {
    assert_eq!(find(&[], &get("/")), None);
}

#[test]
fn hundreds_of_matches_of_one_path_are_told_apart_by_any_of_their_conditions() {
    let mut routes = Vec::new();
    for n in 0..500 {
        routes.push(prefix("/a").header("tenant", is(&format!("t{n}"))));
        routes.push(prefix("/a").header("canary", like(&format!("c{n}(\\..*)?"))));
        routes.push(prefix("/a").query("id", is(&n.to_string())).query("kind", is("k")));
        routes.push(prefix("/a").method(Method::GET).header("mixed", like(&format!("m{n}x+"))));
    }
    routes.push(prefix("/a"));
    for n in [0, 1, 77, 499] {
        assert_eq!(find(&routes, &get("/a").with("tenant", format!("t{n}").as_bytes())), Some(n * 4));
        assert_eq!(find(&routes, &get("/a/x").with("canary", format!("c{n}.x").as_bytes())), Some(n * 4 + 1));
        assert_eq!(find(&routes, &get(&format!("/a?kind=k&id={n}"))), Some(n * 4 + 2));
        assert_eq!(find(&routes, &get("/a").with("mixed", format!("m{n}x").as_bytes())), Some(n * 4 + 3));
    }
    assert_eq!(find(&routes, &get("/a?id=7")), Some(2000));
    assert_eq!(find(&routes, &get("/a").with("mixed", b"m7x").by(Method::PUT)), Some(2000));
    let both = get("/a").with("tenant", b"t9").with("canary", b"c3");
    assert_eq!(find(&routes, &both), Some(3 * 4 + 1), "the first given of two with one header each");
}

#[test]
fn precedence_puts_equal_matches_together_and_keeps_the_order_given() {
    let mut routes =
        [prefix("/b"), prefix("/a"), prefix("/b").method(Method::GET), exact("/z"), prefix("/a"), regex("/")];
    for (n, r) in routes.iter_mut().enumerate() {
        r.rule = n as u32;
    }
    routes.sort_by(precedence);
    assert_eq!(routes.map(|r| r.rule), [3, 5, 1, 4, 2, 0]);
}

#[test]
fn a_grpc_method_alone_goes_behind_every_service_and_before_what_asks_for_less() {
    let matches = [
        prefix(""),
        prefix("").header("v", is("2")),
        prefix("").grpc_method(is("Get")),
        prefix("").grpc_method(is("GetAll")),
        prefix("").grpc_method(like("Get.*")),
        prefix("/a.S"),
        exact("/a.S/Get"),
    ];
    let matcher = HostMatcher::new(&host(matches.to_vec()));
    let found = |path: &str| matcher.find(&get(path).parts());
    assert_eq!(found("/a.S/Get"), Some(6));
    assert_eq!(found("/a.S/GetAll"), Some(5));
    assert_eq!(found("/b.S/Get"), Some(2));
    assert_eq!(found("/b.S/GetAll"), Some(3));
    assert_eq!(found("/b.S/GetSome"), Some(4));
    // Not of two elements: no call.
    assert_eq!(found("/Get"), Some(0));
    assert_eq!(found("/b.S/x/Get"), Some(0));
    assert_eq!(matcher.find(&get("/b.S/Put").with("v", b"2").parts()), Some(1));
}

/// The specification: the first, by precedence, whose parts all agree, each looked at by itself.
fn scan(matches: &[RouteMatch], request: &Request) -> Option<MatchIndex> {
    let mut order: Vec<usize> = (0..matches.len()).collect();
    order.sort_by(|a, b| precedence(&matches[*a], &matches[*b]));
    order.into_iter().find(|i| agrees(&matches[*i], request)).map(|i| i as u32)
}

fn agrees(route: &RouteMatch, request: &Request) -> bool {
    let path = match &route.path {
        PathMatch::Exact(path) => **path == request.path,
        PathMatch::Prefix(path) => {
            let elements = |text: &str| text.split('/').map(str::to_owned).collect::<Vec<_>>();
            elements(&request.path).starts_with(&elements(path))
        }
        PathMatch::Regex(pattern) => pattern.regex.is_match(&request.path),
    };
    let value = |wanted: &ValueMatch, value: Option<String>| match (wanted, value) {
        (_, None) => false,
        (ValueMatch::Exact(text), Some(value)) => **text == value,
        (ValueMatch::Regex(pattern), Some(value)) => pattern.regex.is_match(&value),
    };
    let field = |name: &HeaderName| {
        let lines: Vec<_> = request.headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect();
        (!lines.is_empty()).then(|| lines.join(","))
    };
    let parameter = |name: &str| {
        let pairs = request.query.split('&').map(|p| p.split_once('=').unwrap_or((p, "")));
        pairs.into_iter().find(|(n, _)| n.replace("%61", "a") == name).map(|(_, v)| v.replace("%61", "a"))
    };
    let grpc_method = match request.path.split('/').collect::<Vec<_>>()[..] {
        ["", _, method] => Some(method.to_owned()),
        _ => None,
    };
    path && route.method.as_ref().is_none_or(|m| *m == request.method)
        && route.grpc_method.as_ref().is_none_or(|m| value(m, grpc_method))
        && route.headers.iter().all(|h| value(&h.value, field(&h.name)))
        && route.query.iter().all(|q| value(&q.value, parameter(&q.name)))
}

/// Compiled once, as most of a case's time would go there.
fn compiled(source: &'static str) -> Pattern {
    static PATTERNS: LazyLock<Mutex<HashMap<&str, Pattern>>> = LazyLock::new(Mutex::default);
    let mut patterns = PATTERNS.lock().unwrap();
    patterns.entry(source).or_insert_with(|| Pattern::anchored(source).unwrap()).clone()
}

fn element() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["/a", "/b", "/ab", "/a-long-element", "/"])
}

fn expression() -> impl Strategy<Value = PathMatch> {
    let source = prop::sample::select(vec!["/a.*", "/.*b", "/a/?", "/(a|b)/.*", ".*", "/[^/]+", "/a/b", "/ab|/b"]);
    source.prop_map(|s| PathMatch::Regex(compiled(s)))
}

fn path_match() -> impl Strategy<Value = PathMatch> {
    let path = || prop::collection::vec(element(), 0..4).prop_map(|e| e.concat());
    prop_oneof![
        2 => path().prop_map(|p| PathMatch::Exact(if p.is_empty() { "/".into() } else { p.into() })),
        4 => path().prop_map(|p| PathMatch::Prefix(p.trim_end_matches('/').into())),
        1 => expression(),
    ]
}

fn value_match() -> impl Strategy<Value = ValueMatch> {
    prop_oneof![
        3 => prop::sample::select(vec!["a", "b", "a,b", ""]).prop_map(is),
        1 => prop::sample::select(vec!["a.*", "[ab]", ".+b"]).prop_map(|s| ValueMatch::Regex(compiled(s))),
    ]
}

fn method() -> impl Strategy<Value = Method> {
    prop::sample::select(vec![Method::GET, Method::PUT])
}

fn route_match() -> impl Strategy<Value = RouteMatch> {
    let headers = prop::collection::btree_map(prop::sample::select(vec!["x", "y"]), value_match(), 0..3);
    let query = prop::collection::btree_map(prop::sample::select(vec!["a", "q"]), value_match(), 0..3);
    let methods = (prop::option::weighted(0.3, method()), prop::option::weighted(0.2, value_match()));
    (path_match(), methods, headers, query).prop_map(|(path, (method, grpc_method), headers, query)| {
        let mut route = route(path);
        route.method = method;
        route.grpc_method = grpc_method;
        let route = headers.into_iter().fold(route, |r, (name, value)| r.header(name, value));
        query.into_iter().fold(route, |r, (name, value)| r.query(name, value))
    })
}

/// Few paths with many matches each, many paths, or expressions alone.
fn routes() -> impl Strategy<Value = Vec<RouteMatch>> {
    let shared = (path_match(), prop::collection::vec(route_match(), 9..60)).prop_map(|(path, mut routes)| {
        routes.iter_mut().step_by(2).for_each(|r| r.path = path.clone());
        routes
    });
    let by_expression = (expression(), route_match()).prop_map(|(path, route)| RouteMatch { path, ..route });
    let expressions = prop::collection::vec(by_expression, 2..12);
    prop_oneof![prop::collection::vec(route_match(), 0..25), shared, expressions]
}

fn request() -> impl Strategy<Value = Request> {
    let path = prop::collection::vec(element(), 1..6).prop_map(|e| e.concat());
    let value = || prop::sample::select(vec!["a", "b", "ab", ""]);
    let fields = prop::collection::vec((prop::sample::select(vec!["x", "y", "z"]), value()), 0..4);
    let parameter =
        (prop::sample::select(vec!["a", "q", "%61", "r"]), prop::sample::select(vec!["=a", "=%61", "=", "", "=ab"]));
    let query = prop::collection::vec(parameter, 0..4);
    (path, method(), fields, query).prop_map(|(path, method, fields, query)| {
        let query = query.into_iter().map(|(n, v)| format!("{n}{v}")).collect::<Vec<_>>().join("&");
        let request = Request { method, path, query, headers: HeaderMap::new() };
        fields.into_iter().fold(request, |r, (name, value)| r.with(name, value.as_bytes()))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_search_gives_what_a_scan_in_the_order_of_precedence_gives(
        matches in routes(),
        requests in prop::collection::vec(request(), 1..20),
    ) {
        let matcher = HostMatcher::new(&host(matches.clone()));
        for request in requests {
            prop_assert_eq!(matcher.find(&request.parts()), scan(&matches, &request), "{:?}", request);
        }
    }

    #[test]
    fn the_order_of_matches_that_precedence_tells_apart_changes_no_answer(
        matches in routes(),
        request in request(),
    ) {
        let mut sorted = matches.clone();
        sorted.sort_by(precedence);
        let pick = |matches: &[RouteMatch]| find(matches, &request).map(|i| matches[i as usize].clone());
        prop_assert_eq!(pick(&matches), pick(&sorted));
    }
}
