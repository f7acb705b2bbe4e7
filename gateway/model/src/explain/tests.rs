use super::*;
use crate::config::*;
use crate::object::{Kind, NamespacedName, ObjectRef};
use crate::plugin::{FailMode, Place, PluginUse};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

fn pattern(text: &str) -> HostPattern {
    HostPattern::parse_gateway(Some(text)).unwrap()
}

fn listener(name: &str, hostname: &str, tls: bool) -> Arc<Listener> {
    let tls = tls.then(|| {
        Arc::new(ListenerTls {
            certificates: Vec::new(),
            min_version: TlsVersion::V1_2,
            cipher_suites: Vec::new(),
            http2: true,
            resumption: true,
            client_validation: None,
        })
    });
    let id = ListenerId { gateway: NamespacedName::new("shop", "edge"), name: name.into() };
    Arc::new(Listener {
        id,
        port: 80,
        hostname: pattern(hostname),
        carries: Carries::Http,
        tls,
        edge: Arc::default(),
        tracing: None,
    })
}

fn port(listeners: Vec<Arc<Listener>>) -> Arc<Port> {
    let protocol = if listeners[0].tls.is_some() { Protocol::Https } else { Protocol::Http };
    Arc::new(Port { protocol, edge: Arc::default(), listeners })
}

fn backend_key(name: &str) -> BackendKey {
    BackendKey { service: NamespacedName::new("shop", name), uid: "".into(), port: 80, policy: 0 }
}

fn weighted(name: &str, weight: u32) -> WeightedBackend {
    WeightedBackend {
        weight,
        target: BackendTarget::Backend(backend_key(name)),
        filters: Filters::none(),
        session: None,
    }
}

fn rule(name: &str, action: Action) -> Arc<Rule> {
    Arc::new(Rule {
        id: RuleId { route: ObjectRef::new(Kind::HTTPRoute, "shop", "web"), rule: name.into() },
        filters: Filters::none(),
        action,
        request_timeout: None,
        backend_timeout: None,
        retry: Arc::default(),
        plugins: Vec::new(),
        client: Arc::default(),
    })
}

fn route(rule: u32, path: PathMatch) -> RouteMatch {
    RouteMatch::of_path(path, rule)
}

fn prefix(rule: u32, path: &str) -> RouteMatch {
    route(rule, PathMatch::Prefix(path.into()))
}

fn header(name: &str, value: &str) -> HeaderMatch {
    HeaderMatch { name: HeaderName::try_from(name).unwrap(), value: ValueMatch::Exact(value.into()) }
}

fn host(hostname: &str, mut matches: Vec<RouteMatch>, rules: Vec<Arc<Rule>>) -> (HostPattern, Arc<VirtualHost>) {
    matches.sort_by(crate::matcher::precedence);
    (
        pattern(hostname),
        Arc::new(VirtualHost { hostname: pattern(hostname), matches: matches.into(), rules: rules.into() }),
    )
}

fn endpoint(last: u8, ready: bool, terminating: bool) -> Endpoint {
    Endpoint {
        id: EndpointId { target: "".into(), address: [10, 0, 0, last].into(), port: 8080 },
        alternate: None,
        ready,
        serving: ready || terminating,
        terminating,
        zone: Some("z1".into()),
        for_zones: Vec::new(),
        for_nodes: Vec::new(),
        node: None,
    }
}

/// HTTP on 80 with a listener for all and one for `*.example.com`; HTTPS on 443 for `a.test` and `*.test`.
fn shop() -> Config {
    let mut config = Config::default();
    let all = listener("all", "*", false);
    let web = listener("web", "*.example.com", false);
    let a = listener("a", "a.test", true);
    let rest = listener("rest", "*.test", true);
    let address = |port: u16| SocketAddr::from(([0, 0, 0, 0], port));
    config.ports.insert(address(80), port(vec![web.clone(), all.clone()]));
    config.ports.insert(address(443), port(vec![a.clone(), rest.clone()]));

    for (name, endpoints) in [
        ("web", vec![endpoint(1, true, false), endpoint(2, false, true), endpoint(3, false, false)]),
        ("old", vec![endpoint(4, false, true)]),
        ("gone", vec![]),
    ] {
        let slices = EndpointsKey { service: NamespacedName::new("shop", name), port: "http".into() };
        config.endpoints.insert(slices.clone(), Arc::new(EndpointSet { endpoints }));
        let backend = Backend {
            key: backend_key(name),
            protocol: BackendProtocol::Http1,
            tls: None,
            policy: BackendPolicy::default(),
            source: EndpointSource::Slices(slices),
        };
        config.backends.insert(backend.key.clone(), Arc::new(backend));
    }

    let mut guarded = Rule::clone(&rule("guarded", Action::Forward(vec![weighted("web", 1)])));
    guarded.plugins = ["key-auth", "transform"]
        .map(|name| PluginUse {
            name: name.into(),
            plugin: NamespacedName::new("shop", name),
            config: "{}".into(),
            config_hash: "00ff".into(),
            fail_mode: FailMode::Closed,
            when: None,
            at: Place { object: ObjectRef::new(Kind::TrafficPolicy, "shop", "t"), field: "spec.plugins[0]".into() },
        })
        .to_vec();
    guarded.request_timeout = Some(Duration::from_secs(5));
    Arc::make_mut(&mut guarded.client).escaped_slashes = Some(EscapedSlashes::Reject);
    Arc::make_mut(&mut guarded.filters).request_headers.set =
        vec![(HeaderName::from_static("x-key"), HeaderValue::from_static("secret"))];

    let rules = vec![
        rule("web", Action::Forward(vec![weighted("web", 3), weighted("gone", 1)])),
        Arc::new(guarded),
        rule("old", Action::Forward(vec![weighted("old", 1)])),
        rule("gone", Action::Forward(vec![weighted("gone", 1), weighted("web", 0)])),
        rule(
            "moved",
            Action::Redirect(Redirect {
                scheme: Some(RedirectScheme::Https),
                hostname: None,
                port: None,
                path: None,
                status: StatusCode::MOVED_PERMANENTLY,
            }),
        ),
    ];
    let canary = RouteMatch { headers: vec![header("x-canary", "yes")], ..prefix(2, "/web") };
    let post = RouteMatch { method: Some(Method::POST), ..prefix(3, "/web/orders") };
    let by_query = RouteMatch {
        query: vec![QueryMatch { name: "v".into(), value: ValueMatch::Exact("2".into()) }],
        ..prefix(2, "/web/orders")
    };
    let matches = vec![
        prefix(0, "/web"),
        canary,
        post,
        by_query,
        route(1, PathMatch::Exact("/admin".into())),
        prefix(1, "/admin/x"),
        prefix(3, "/gone"),
        route(4, PathMatch::Regex(Pattern::anchored("/moved/[0-9]+").unwrap())),
    ];
    let exact = host("shop.example.com", matches, rules.clone());
    let wildcard = host("*.example.com", vec![prefix(2, ""), prefix(2, "/web")], rules.clone());
    config.virtual_hosts.insert(web.id.clone(), [exact, wildcard].into());
    config.virtual_hosts.insert(all.id.clone(), [host("*", vec![prefix(0, "/web")], rules.clone())].into());
    config.virtual_hosts.insert(a.id.clone(), [host("a.test", vec![prefix(0, "")], rules.clone())].into());
    config.virtual_hosts.insert(rest.id.clone(), [host("*.test", vec![prefix(0, "")], rules)].into());
    config
}

fn ask(method: &str, url: &str, headers: &[&str]) -> Explanation {
    explain(&shop(), &Question::parse(method, url, headers.iter().copied()).unwrap())
}

fn chosen(explanation: &Explanation) -> String {
    explanation.listener.chosen.as_ref().map(ToString::to_string).unwrap_or_default()
}

fn rule_of(explanation: &Explanation) -> &str {
    explanation.rule.as_ref().map(|r| &*r.id.rule).unwrap_or_default()
}

fn why<'e>(explanation: &'e Explanation, rule: &str) -> &'e [WhyNot] {
    let found =
        explanation.nearest.iter().find(|n| n.rule.ends_with(rule) && n.hostname == pattern("shop.example.com"));
    &found.unwrap_or_else(|| panic!("{rule} is not among {:#?}", explanation.nearest)).why
}

#[test]
fn the_listener_with_the_most_specific_hostname_is_chosen() {
    let asked = ask("GET", "http://shop.example.com/web", &[]);
    assert_eq!(chosen(&asked), "shop/edge/web");
    assert_eq!(asked.listener.others[0].why, "its hostname is less specific");
    let asked = ask("GET", "http://elsewhere.org/web", &[]);
    assert_eq!(chosen(&asked), "shop/edge/all");
    assert_eq!(asked.listener.others[0].why, "its hostname does not mean the Host `elsewhere.org`");
}

#[test]
fn a_port_that_the_url_does_not_name_is_found_by_its_protocol() {
    let mut config = shop();
    let port = config.ports.remove(&"0.0.0.0:80".parse().unwrap()).unwrap();
    config.ports.insert("0.0.0.0:8080".parse().unwrap(), port);
    let asked = |url| explain(&config, &Question::parse("GET", url, []).unwrap());
    let plain = asked("http://shop.example.com/web");
    assert_eq!(plain.listener.address, Some("0.0.0.0:8080".parse().unwrap()));
    assert!(
        plain.listener.why.starts_with("the URL names no port and nothing listens on 80; "),
        "{}",
        plain.listener.why
    );
    let named = asked("http://shop.example.com:81/web");
    assert_eq!((named.listener.chosen, named.verdict.status), (None, None));
    assert_eq!(named.verdict.text, "nothing listens on port 81; there are 0.0.0.0:443 (Https), 0.0.0.0:8080 (Http)");
    assert_eq!(asked("http://shop.example.com:443/").verdict.text, "0.0.0.0:443 speaks Https, not Http");
}

#[test]
fn sni_chooses_and_a_host_of_another_listener_is_misdirected() {
    assert_eq!(chosen(&ask("GET", "https://a.test/", &[])), "shop/edge/a");
    assert_eq!(chosen(&ask("GET", "https://b.test/", &[])), "shop/edge/rest");
    let misdirected = ask("GET", "https://a.test/", &["Host: b.test"]);
    assert_eq!((chosen(&misdirected), misdirected.verdict.status), ("shop/edge/a".to_owned(), Some(421)));
    assert_eq!(ask("GET", "https://a.test/", &["host: other.org"]).verdict.status, Some(404));
    let refused = ask("GET", "https://other.org/", &[]);
    assert!(refused.verdict.text.contains("unrecognized_name"), "{}", refused.verdict);
    assert_eq!((refused.verdict.status, refused.verdict.reason), (None, None));
}

#[test]
fn hosts_are_tried_from_the_most_specific_until_one_matches() {
    let asked = ask("GET", "http://shop.example.com/other", &[]);
    let hosts: Vec<_> = asked.hosts.iter().map(|h| (h.hostname.to_string(), h.matches, h.matched)).collect();
    assert_eq!(hosts, [("shop.example.com".to_owned(), 8, false), ("*.example.com".to_owned(), 2, true)]);
    assert_eq!(rule_of(&asked), "old");
    assert_eq!(ask("GET", "http://shop.example.com/web", &[]).hosts.len(), 1);
}

#[test]
fn the_others_tell_what_they_missed() {
    let asked = ask("GET", "http://shop.example.com/web/orders?v=1", &["x-canary: no"]);
    assert_eq!(rule_of(&asked), "web");
    assert_eq!(asked.rule.as_ref().unwrap().matched, "prefix /web");
    assert_eq!(why(&asked, "gone"), [WhyNot::Method { wanted: "POST".into() }]);
    let old: Vec<&Nearest> = asked.nearest.iter().filter(|n| n.rule.ends_with("old")).collect();
    assert!(old.iter().any(|n| n.why == [WhyNot::QueryDiffers { name: "v".into(), wanted: "= 2".into() }]));
    assert!(old.iter().any(|n| n.why == [WhyNot::HeaderDiffers { name: "x-canary".into(), wanted: "= yes".into() }]));

    let bare = ask("GET", "http://shop.example.com/web/orders", &[]);
    assert!(bare.nearest.iter().any(|n| n.why == [WhyNot::QueryMissing { name: "v".into() }]));
    assert!(bare.nearest.iter().any(|n| n.why == [WhyNot::HeaderMissing { name: "x-canary".into() }]));
    assert!(bare.nearest.len() <= 5);
}

#[test]
fn a_match_that_came_too_late_tells_by_whom_it_is_shadowed() {
    let asked = ask("GET", "http://shop.example.com/web", &["x-canary: yes"]);
    assert_eq!(rule_of(&asked), "old");
    let by = "HTTPRoute shop/web/old".to_owned();
    assert_eq!(why(&asked, "web"), [WhyNot::Shadowed { by: by.clone(), because: "it asks for more headers" }]);
    let wildcard = asked.nearest.iter().find(|n| n.hostname == pattern("*.example.com")).unwrap();
    assert_eq!(wildcard.why, [WhyNot::Shadowed { by, because: "its host is more specific" }]);
}

#[test]
fn what_is_easily_overlooked_in_a_path_is_said() {
    let note = |url: &str, rule: &str| {
        let asked = ask("GET", url, &[]);
        let paths = asked.nearest.iter().filter(|n| n.rule.ends_with(rule)).flat_map(|n| n.why.clone());
        paths.into_iter().find_map(|why| match why {
            WhyNot::Path { note: Some(note), .. } => Some(note),
            _ => None,
        })
    };
    assert_eq!(note("http://shop.example.com/webshop", "web"), Some("a prefix means whole elements"));
    assert_eq!(note("http://shop.example.com/Web", "web"), Some("paths are case-sensitive"));
    assert_eq!(note("http://shop.example.com/admin/", "guarded"), Some("an exact path tells its final slash"));
    assert_eq!(note("http://shop.example.com/admin/y", "guarded"), Some("an exact path has nothing below it"));
    assert_eq!(note("http://shop.example.com/moved/1/x", "moved"), Some("an expression has to match the whole path"));
    assert_eq!(note("http://shop.example.com/nothing", "web"), None);
}

#[test]
fn another_host_with_the_same_path_is_near_where_nothing_matches() {
    let mut config = shop();
    config.virtual_hosts.values_mut().for_each(|hosts| {
        hosts.remove(&pattern("*.example.com"));
    });
    let asked = explain(&config, &Question::parse("GET", "http://www.example.com/web", []).unwrap());
    assert_eq!(asked.verdict.reason, Some(Reason::RouteNotFound));
    assert_eq!(asked.verdict.text, "no route of this listener is for the host `www.example.com`");
    assert_eq!(why(&asked, "web"), [WhyNot::Host { wanted: "shop.example.com".into() }]);
    let other_path = explain(&config, &Question::parse("GET", "http://shop.example.com/x", []).unwrap());
    assert_eq!(other_path.verdict.text, "routes are for this host, but none of their rules matches");
}

#[test]
fn the_path_is_matched_in_its_normal_form() {
    let asked = ask("GET", "http://shop.example.com/x/..//%77eb", &[]);
    assert_eq!((asked.path.as_deref(), rule_of(&asked)), (Some("/web"), "web"));
    for (url, status) in [("http://shop.example.com/%zz", 400), ("http://shop.example.com/web?a b", 400)] {
        let refused = ask("GET", url, &[]);
        assert_eq!((refused.verdict.status, refused.path), (Some(status), None), "{url}");
    }
}

#[test]
fn a_field_that_is_dropped_at_the_entrance_matches_nothing_and_is_named() {
    let asked = ask("GET", "http://shop.example.com/web", &["x_canary: yes", "x-sluice-canary: yes", "x-canary: yes"]);
    assert_eq!(asked.dropped, ["x_canary", "x-sluice-canary"]);
    assert!(asked.to_string().contains("dropped   x_canary: "), "{asked}");
    assert_eq!(asked.verdict.to_string(), "upstream: forwarded to shop/old:80", "the third one counts");
}

#[test]
fn a_rule_that_rejects_encoded_slashes_says_so() {
    let asked = ask("GET", "http://shop.example.com/admin/x/a%2Fb", &[]);
    assert_eq!(asked.verdict.reason, Some(Reason::EscapedSlash));
    assert!(asked.verdict.text.starts_with("by the rule's policy: "), "{}", asked.verdict);
    assert_eq!(ask("GET", "http://shop.example.com/admin/x/ab", &[]).verdict.reason, Some(Reason::Upstream));
    assert_eq!(ask("GET", "http://shop.example.com/web/a%2Fb", &[]).verdict.reason, Some(Reason::Upstream));
}

#[test]
fn backends_show_their_share_and_the_state_of_their_endpoints() {
    let asked = ask("GET", "http://shop.example.com/web", &[]);
    let Some(RuleStep { action: ActionStep::Forward { backends }, .. }) = &asked.rule else { panic!("{asked:?}") };
    let states: Vec<_> = backends[0].endpoints.iter().map(|e| (e.state, e.takes_requests)).collect();
    assert_eq!(states, [("ready", true), ("terminating, still serving", false), ("not ready", false)]);
    assert_eq!((backends[0].share, backends[1].share), (75.0, 25.0));
    assert_eq!(backends[1].answer.as_ref().unwrap().status, Some(503));
    assert_eq!(
        asked.verdict.to_string(),
        "upstream: forwarded to one of the backends, by weight; 25 % of requests are answered by the gateway"
    );
}

#[test]
fn the_last_terminating_endpoint_still_takes_requests() {
    let asked = ask("GET", "http://shop.example.com/web", &["x-canary: yes"]);
    assert_eq!(asked.verdict.to_string(), "upstream: forwarded to shop/old:80");
}

#[test]
fn a_backend_without_endpoints_is_answered_503_and_one_of_weight_0_is_never_drawn() {
    let asked = ask("GET", "http://shop.example.com/gone", &[]);
    assert_eq!((asked.verdict.status, asked.verdict.reason), (Some(503), Some(Reason::NoEndpoints)));
}

#[test]
fn a_redirect_is_described() {
    let asked = ask("GET", "http://shop.example.com/moved/1", &[]);
    assert_eq!(asked.verdict.to_string(), "301 redirect: the rule redirects: 301 to https");
}

#[test]
fn plugins_stand_in_running_order_and_no_value_of_a_header_is_shown() {
    let asked = ask("GET", "http://shop.example.com/admin", &["authorization: Bearer hush"]);
    let rule = asked.rule.as_ref().unwrap();
    assert_eq!(rule.plugins.iter().map(|p| &*p.name).collect::<Vec<_>>(), ["key-auth", "transform"]);
    assert_eq!(rule.limits, ["request timeout 5s", "encoded slashes: Reject"]);
    assert_eq!(rule.filters, ["request headers: sets x-key"]);
    let shown = format!("{asked}{}", serde_json::to_string(&asked).unwrap());
    assert!(!shown.contains("secret") && !shown.contains("hush"), "{shown}");
}

#[test]
fn the_text_reads_from_the_answer_down_to_the_rules_not_taken() {
    let asked = ask("GET", "http://shop.example.com/web/orders", &[]);
    assert_eq!(
        asked.to_string(),
        "\
GET http://shop.example.com/web/orders
=> upstream: forwarded to one of the backends, by weight; 25 % of requests are answered by the gateway

listener  shop/edge/web on 0.0.0.0:80: Host `shop.example.com` is within its hostname `*.example.com`
          not shop/edge/all (`*`): its hostname is less specific
host      shop.example.com: 8 matches, one of them matches
rule      HTTPRoute shop/web/web: prefix /web
backend   shop/web:80 (weight 3, 75 %): Http1, endpoints from EndpointSlices
          10.0.0.1:8080 ready, zone z1
          10.0.0.2:8080 terminating, still serving, zone z1
          10.0.0.3:8080 not ready, zone z1
backend   shop/gone:80 (weight 1, 25 %): Http1, endpoints from EndpointSlices
          answers 503 no_endpoints: the backend has no endpoint that may take requests

not taken
  HTTPRoute shop/web/gone on shop.example.com: prefix /web/orders, method POST
    the method is not POST
  HTTPRoute shop/web/old on shop.example.com: prefix /web/orders, query v = 2
    query parameter v is missing
  HTTPRoute shop/web/old on shop.example.com: prefix /web, header x-canary = yes
    header x-canary is missing
  HTTPRoute shop/web/old on *.example.com: prefix /web
    matches too, but HTTPRoute shop/web/web goes before it: its host is more specific
  HTTPRoute shop/web/old on *.example.com: prefix /
    matches too, but HTTPRoute shop/web/web goes before it: its host is more specific
"
    );
}

#[test]
fn a_question_is_read_as_people_type_it() {
    let read = |url: &str| Question::parse("GET", url, []).unwrap();
    let asked = read("HTTPS://Shop.Example.com.:8443/a/../b?x=1&y#part");
    assert_eq!(asked.to_string(), "GET https://shop.example.com:8443/a/../b?x=1&y");
    assert_eq!((asked.tls, asked.sni.as_deref(), asked.port), (true, Some("shop.example.com"), Some(8443)));
    assert_eq!(read("example.com?q").path, "/");
    assert_eq!(read("https://[::1]:443/").sni, None);
    assert_eq!(read("http://[::1]:80/").host, "[::1]");
    assert_eq!(read("http://a.b").headers["host"], "a.b");
    let named = Question::parse("GET", "https://10.0.0.1/", ["Host: Shop.test:8443", "a: 1", "a:2"]).unwrap();
    assert_eq!((named.host.as_str(), named.sni, named.headers.get_all("a").iter().count()), ("shop.test", None, 2));
}

#[test]
fn a_question_that_makes_no_sense_says_what_to_write() {
    let refused = |method, url, field: Option<&'static str>| Question::parse(method, url, field).unwrap_err();
    assert_eq!(refused("GET", "/path", None), QuestionError::NoHost("/path".into()));
    assert_eq!(refused("GET", "http://", None), QuestionError::NoHost("http://".into()));
    assert_eq!(refused("GET", "ftp://a/", None), QuestionError::Scheme("ftp".into()));
    assert_eq!(refused("GET", "http://a:0/", None), QuestionError::Port("0".into()));
    assert_eq!(refused("GET", "http://a:65536/", None), QuestionError::Port("65536".into()));
    assert_eq!(refused("G T", "http://a/", None), QuestionError::Method("G T".into()));
    assert_eq!(refused("GET", "http://a/", Some("x")), QuestionError::Header("x".into()));
    assert_eq!(refused("GET", "http://a/", Some("x y: 1")), QuestionError::Header("x y: 1".into()));
}
