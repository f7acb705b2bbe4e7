use super::support::{Harness, gateway, route, services};
use sluice_model::config::{
    Action, AuthProtocol, OriginPattern, PathRewrite, RedirectScheme, Retry, SessionCarrier, SessionPersistence,
};
use sluice_model::{Kind, ObjectRef};
use std::time::Duration;

const HTTP: &str = "[{name: web, port: 80, protocol: HTTP}]";

/// One route on a Gateway with one listener, with Services a, b and c.
fn one(spec: &str) -> Harness {
    let spec = format!("  parentRefs: [{{name: gw}}]\n{spec}");
    Harness::new(&(gateway("infra", "gw", HTTP) + &services("infra", &["a", "b", "c"]) + &route("infra", "r", &spec)))
}

const PLACE: &str = "infra/gw/web *";

#[test]
fn gw_simple_same_namespace() {
    let h = one("  rules: [{backendRefs: [{name: a, port: 8080}]}]");
    assert_eq!(h.routes(PLACE), ["/* -> infra/a:8080"]);
    assert_eq!(h.problems(), [] as [&str; 0]);
    assert_eq!(h.status("HTTPRoute infra/r"), ["infra/gw: ok ok"]);
    assert_eq!(h.config().backends.len(), 1);
    assert_eq!(h.config().endpoints.values().next().unwrap().endpoints[0].id.to_string(), "10.0.0.0:3000");
}

#[test]
fn gw_path_match_order_exact_then_longest_prefix_then_method_headers_query() {
    let h = one("  rules:
  - {matches: [{path: {value: /match}}], backendRefs: [{name: a, port: 8080}]}
  - {matches: [{path: {value: /match/prefix/}}], backendRefs: [{name: b, port: 8080}]}
  - {matches: [{path: {type: Exact, value: /match}}], backendRefs: [{name: c, port: 8080}]}
  - {matches: [{path: {value: /match}, headers: [{name: Version, value: two}]}], backendRefs: [{name: b, port: 8080}]}
  - {matches: [{path: {value: /match}, method: PATCH}], backendRefs: [{name: c, port: 8080}]}
  - {matches: [{path: {value: /match}, queryParams: [{name: animal, value: whale}]}], backendRefs: [{name: c, port: 8080}]}
  - {matches: [{path: {type: RegularExpression, value: '/v[0-9]+'}}], backendRefs: [{name: a, port: 8080}]}");
    assert_eq!(
        h.routes(PLACE),
        [
            "=/match -> infra/c:8080",
            "~/v[0-9]+ -> infra/a:8080",
            "/match/prefix/* -> infra/b:8080",
            "PATCH /match/* -> infra/c:8080",
            "/match/* version=two -> infra/b:8080",
            "/match/* ?animal=whale -> infra/c:8080",
            "/match/* -> infra/a:8080",
        ]
    );
}

#[test]
fn gw_matching_across_routes_the_older_route_then_the_name_then_the_rule() {
    let with_age = |name: &str, age: &str, service: &str| {
        let spec =
            format!("  parentRefs: [{{name: gw}}]\n  rules: [{{backendRefs: [{{name: {service}, port: 8080}}]}}]");
        route("infra", name, &spec).replace("metadata: {", &format!("metadata: {{{age}"))
    };
    let base = gateway("infra", "gw", HTTP) + &services("infra", &["a", "b", "c"]);
    let young = with_age("a-young", "creationTimestamp: '2024-01-01T00:00:00Z', ", "a");
    let old = with_age("z-old", "creationTimestamp: '2020-01-01T00:00:00Z', ", "b");
    let h = Harness::new(&(base + &young + &old));
    assert_eq!(h.routes(PLACE), ["/* -> infra/b:8080", "/* -> infra/a:8080"]);
    assert_eq!(h.problems(), ["P501 HTTPRoute infra/a-young spec.rules[0].matches[0]"]);
}

#[test]
fn gw_weight_draws_by_share_and_zero_takes_none() {
    let h = one(
        "  rules: [{backendRefs: [{name: a, port: 8080, weight: 70}, {name: b, port: 8080, weight: 30}, {name: c, port: 8080, weight: 0}]}]",
    );
    assert_eq!(h.routes(PLACE), ["/* -> 70 of infra/a:8080, 30 of infra/b:8080"]);
}

#[test]
fn gw_no_backend_refs_answers_500() {
    let h = one("  rules: [{matches: [{path: {value: /empty}}]}, {backendRefs: [{name: a, port: 8080, weight: 0}]}]");
    assert_eq!(h.routes(PLACE), ["/empty/* -> 500 no_backends", "/* -> 500 no_backends"]);
    assert_eq!(
        one("  hostnames: []").routes(PLACE),
        ["/* -> 500 no_backends"],
        "a route without rules has the default one"
    );
}

#[test]
fn gw_invalid_backend_refs_take_their_share_and_answer_500() {
    let h = one("  rules: [{backendRefs: [{name: a, port: 8080}, {name: missing, port: 8080}, {name: a, port: 1},
        {name: a, kind: Bucket, port: 8080}, {name: a, namespace: other, port: 8080}]}]");
    assert_eq!(
        h.routes(PLACE),
        [
            "/* -> 1 of infra/a:8080, 1 of 500 invalid_backend, 1 of 500 invalid_backend, 1 of 500 invalid_backend, 1 of 500 invalid_backend"
        ]
    );
    assert_eq!(
        h.problems(),
        [
            "P201 HTTPRoute infra/r spec.rules[0].backendRefs[1]",
            "P202 HTTPRoute infra/r spec.rules[0].backendRefs[2]",
            "P203 HTTPRoute infra/r spec.rules[0].backendRefs[4]",
            "P204 HTTPRoute infra/r spec.rules[0].backendRefs[3].kind",
        ]
    );
    assert_eq!(h.status("HTTPRoute infra/r"), ["infra/gw: ok BackendNotFound"]);
}

#[test]
fn gw_invalid_backend_ref_reasons_are_the_apis() {
    for (reference, reason) in [
        ("{name: a, kind: Bucket, port: 8080}", "InvalidKind"),
        ("{name: a, namespace: other, port: 8080}", "RefNotPermitted"),
        ("{name: none, port: 8080}", "BackendNotFound"),
    ] {
        let h = one(&format!("  rules: [{{backendRefs: [{reference}]}}]"));
        assert_eq!(h.status("HTTPRoute infra/r"), [format!("infra/gw: ok {reason}")]);
        assert_eq!(h.routes(PLACE), ["/* -> 500 invalid_backend"]);
    }
}

#[test]
fn gw_reference_grant_permits_just_what_it_names() {
    let grant = |kind: &str, name: &str| {
        format!("
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {{name: g, namespace: web}}
spec: {{from: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: infra}}], to: [{{group: '', kind: {kind}{name}}}]}}
")
    };
    let base = gateway("infra", "gw", HTTP)
        + &services("web", &["a"])
        + &route(
            "infra",
            "r",
            "  parentRefs: [{name: gw}]\n  rules: [{backendRefs: [{name: a, namespace: web, port: 8080}]}]",
        );
    let mut h = Harness::new(&base);
    assert_eq!(h.routes(PLACE), ["/* -> 500 invalid_backend"]);
    h.apply(&grant("Service", ""));
    assert_eq!(h.routes(PLACE), ["/* -> web/a:8080"]);
    h.apply(&grant("Service", ", name: other"));
    assert_eq!(h.routes(PLACE), ["/* -> 500 invalid_backend"]);
    h.apply(&grant("Service", ", name: a"));
    assert_eq!(h.routes(PLACE), ["/* -> web/a:8080"]);
    h.apply(&grant("Secret", ""));
    assert_eq!(h.routes(PLACE), ["/* -> 500 invalid_backend"]);
}

#[test]
fn gw_hostname_intersection_serves_only_what_both_have() {
    let listeners = "[{name: exact, port: 80, protocol: HTTP, hostname: very.specific.com},
        {name: wild, port: 80, protocol: HTTP, hostname: '*.wildcard.io'},
        {name: upper, port: 80, protocol: HTTP, hostname: '*.anotherwildcard.io'}]";
    let spec = "  parentRefs: [{name: gw}]
  hostnames: [non.matching.com, '*.specific.com', foo.wildcard.io, '*.bar.wildcard.io', foo.bar.wildcard.io]
  rules: [{backendRefs: [{name: a, port: 8080}]}]";
    let h =
        Harness::new(&(gateway("infra", "gw", listeners) + &services("infra", &["a"]) + &route("infra", "r", spec)));
    assert_eq!(
        h.places(),
        [
            "infra/gw/exact very.specific.com",
            "infra/gw/wild foo.bar.wildcard.io",
            "infra/gw/wild foo.wildcard.io",
            "infra/gw/wild *.bar.wildcard.io",
        ]
    );
}

#[test]
fn gw_parent_refs_are_rejected_with_the_apis_reasons() {
    let listeners =
        "[{name: web, port: 80, protocol: HTTP, hostname: example.com}, {name: grpc, port: 81, protocol: HTTP,
        allowedRoutes: {kinds: [{kind: GRPCRoute}]}}]";
    let base = gateway("infra", "gw", listeners) + &services("infra", &["a"]) + &services("web", &["a"]);
    for (namespace, parent, hostnames, reason, code) in [
        ("infra", "{name: none}", "", "NoMatchingParent", "P206"),
        ("infra", "{name: gw, sectionName: none}", "", "NoMatchingParent", "P206"),
        ("infra", "{name: gw, port: 8080}", "", "NoMatchingParent", "P206"),
        ("infra", "{name: gw, sectionName: web, port: 81}", "", "NoMatchingParent", "P206"),
        ("infra", "{name: gw, sectionName: grpc}", "", "NotAllowedByListeners", "P207"),
        ("web", "{name: gw, namespace: infra, sectionName: web}", "", "NotAllowedByListeners", "P207"),
        ("infra", "{name: gw, sectionName: web}", "  hostnames: [other.com]\n", "NoMatchingListenerHostname", "P208"),
    ] {
        let spec =
            format!("  parentRefs: [{parent}]\n{hostnames}  rules: [{{backendRefs: [{{name: a, port: 8080}}]}}]");
        let h = Harness::new(&(base.clone() + &route(namespace, "r", &spec)));
        let status = h.status(&format!("HTTPRoute {namespace}/r"));
        assert!(status[0].ends_with(&format!("{reason} ok")), "{parent}: {status:?}");
        assert_eq!(h.places(), [] as [&str; 0], "{parent}");
        let field = format!("{code} HTTPRoute {namespace}/r spec.parentRefs[0]");
        assert!(h.problems().contains(&field), "{parent}: {:?}", h.problems());
    }
}

#[test]
fn gw_listener_port_and_section_choose_listeners() {
    let listeners = "[{name: a, port: 80, protocol: HTTP}, {name: b, port: 81, protocol: HTTP}, {name: c, port: 82, protocol: HTTP}]";
    let base = gateway("infra", "gw", listeners) + &services("infra", &["a"]);
    for (parents, places) in [
        ("[{name: gw}]", vec!["infra/gw/a *", "infra/gw/b *", "infra/gw/c *"]),
        ("[{name: gw, port: 81}]", vec!["infra/gw/b *"]),
        ("[{name: gw, sectionName: c}]", vec!["infra/gw/c *"]),
        ("[{name: gw, sectionName: a}, {name: gw, port: 80}]", vec!["infra/gw/a *"]),
    ] {
        let spec = format!("  parentRefs: {parents}\n  rules: [{{backendRefs: [{{name: a, port: 8080}}]}}]");
        let h = Harness::new(&(base.clone() + &route("infra", "r", &spec)));
        assert_eq!(h.places(), places, "{parents}");
        assert_eq!(h.problems(), [] as [&str; 0]);
    }
}

#[test]
fn gw_allowed_namespaces_by_selector_follow_the_labels() {
    let listeners = "[{name: web, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: shop}, matchExpressions: [{key: stage, operator: NotIn, values: [test]}]}}}}]";
    let spec = "  parentRefs: [{name: gw, namespace: infra}]\n  rules: [{backendRefs: [{name: a, port: 8080}]}]";
    let mut h =
        Harness::new(&(gateway("infra", "gw", listeners) + &services("web", &["a"]) + &route("web", "r", spec)));
    assert_eq!(h.places(), [] as [&str; 0]);
    assert!(h.problems().contains(&"P214 HTTPRoute web/r".to_owned()), "{:?}", h.problems());
    h.apply("{apiVersion: v1, kind: Namespace, metadata: {name: web, labels: {team: shop}}}");
    assert_eq!(h.places(), [PLACE]);
    assert_eq!(h.problems(), [] as [&str; 0]);
    h.apply("{apiVersion: v1, kind: Namespace, metadata: {name: web, labels: {team: shop, stage: test}}}");
    assert_eq!(h.places(), [] as [&str; 0]);
}

#[test]
fn gw_header_modifiers_of_rule_and_backend() {
    let h = one("  rules:
  - filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Set, value: s}], add: [{name: X-Add, value: a}], remove: [X-Remove]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {remove: [Server-Timing]}}
    backendRefs:
    - name: a
      port: 8080
      filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Backend, value: b}]}}]");
    let rule = h.rule(PLACE);
    let request = &rule.filters.request_headers;
    assert_eq!((request.set[0].0.as_str(), request.set[0].1.to_str().unwrap()), ("x-set", "s"));
    assert_eq!((request.add[0].0.as_str(), request.remove[0].as_str()), ("x-add", "x-remove"));
    assert_eq!(rule.filters.response_headers.remove[0].as_str(), "server-timing");
    let Action::Forward(backends) = &rule.action else { panic!() };
    assert_eq!(backends[0].filters.request_headers.set[0].0.as_str(), "x-backend");
}

#[test]
fn gw_redirects_carry_scheme_host_port_path_and_status() {
    let h = one("  rules:
  - matches: [{path: {value: /old}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https, hostname: example.org, port: 8443, statusCode: 308, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new/}}}]");
    let Action::Redirect(redirect) = &h.rule(PLACE).action else { panic!() };
    assert_eq!(redirect.scheme, Some(RedirectScheme::Https));
    assert_eq!(redirect.hostname.as_ref().unwrap().as_str(), "example.org");
    assert_eq!((redirect.port, redirect.status.as_u16()), (Some(8443), 308));
    assert_eq!(redirect.path, Some(PathRewrite::PrefixMatch("/new".into())));
}

#[test]
fn gw_rewrite_replaces_host_and_path() {
    let h = one("  rules:
  - filters: [{type: URLRewrite, urlRewrite: {hostname: inner.example, path: {type: ReplaceFullPath, replaceFullPath: /one}}}]
    backendRefs: [{name: a, port: 8080}]");
    let rewrite = h.rule(PLACE).filters.rewrite.clone().unwrap();
    assert_eq!(rewrite.hostname.unwrap().as_str(), "inner.example");
    assert_eq!(rewrite.path, Some(PathRewrite::Full("/one".into())));
}

#[test]
fn a_prefix_can_be_replaced_only_where_one_matched() {
    let h = one("  rules:
  - matches: [{path: {type: Exact, value: /x}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]
    backendRefs: [{name: a, port: 8080}]");
    assert_eq!(h.routes(PLACE), ["=/x -> 500 unsupported_filter"]);
    assert_eq!(h.problems(), ["P110 HTTPRoute infra/r spec.rules[0].filters[0].urlRewrite.path"]);
}

#[test]
fn gw_mirrors_go_to_several_backends_by_percent_and_fraction() {
    let h = one("  rules:
  - filters:
    - {type: RequestMirror, requestMirror: {backendRef: {name: b, port: 8080}}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: c, port: 8080}, percent: 20}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: c, port: 8080}, fraction: {numerator: 1, denominator: 3}}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: missing, port: 8080}}}
    backendRefs: [{name: a, port: 8080}]");
    let mirrors: Vec<_> =
        h.rule(PLACE).filters.mirrors.iter().map(|m| (m.backend.to_string(), m.numerator, m.denominator)).collect();
    let expected = [("infra/b:8080", 100, 100), ("infra/c:8080", 20, 100), ("infra/c:8080", 1, 3)];
    assert_eq!(mirrors, expected.map(|(b, n, d)| (b.to_owned(), n, d)));
    assert_eq!(h.routes(PLACE), ["/* -> infra/a:8080"], "a mirror that can't be made takes nothing from the request");
    assert_eq!(h.config().backends.len(), 3);
}

#[test]
fn gw_cors_is_read_whole() {
    let h = one("  rules:
  - filters: [{type: CORS, cors: {allowOrigins: ['https://www.foo.com', 'https://*.bar.com'], allowCredentials: true,
      allowMethods: [GET, PUT], allowHeaders: [X-A], exposeHeaders: ['*'], maxAge: 3600}}]
    backendRefs: [{name: a, port: 8080}]");
    let cors = h.rule(PLACE).filters.cors.clone().unwrap();
    assert_eq!(cors.allow_origins[0], OriginPattern::Exact("https://www.foo.com".into()));
    assert!(cors.allow_credentials && cors.expose_any_header && !cors.allow_any_header);
    assert_eq!((cors.allow_methods.len(), cors.max_age), (2, Duration::from_secs(3600)));
}

#[test]
fn gw_timeouts_and_retry_are_read_and_zero_is_off() {
    let h = one("  rules:
  - timeouts: {request: 10s, backendRequest: 500ms}
    retry: {attempts: 3, backoff: 100ms, codes: [502, 503]}
    backendRefs: [{name: a, port: 8080}]");
    let rule = h.rule(PLACE);
    assert_eq!(
        (rule.request_timeout, rule.backend_timeout),
        (Some(Duration::from_secs(10)), Some(Duration::from_millis(500)))
    );
    let expected =
        Retry { attempts: 3, codes: vec![502, 503], backoff: Some(Duration::from_millis(100)), ..Retry::default() };
    assert_eq!(*rule.retry, expected);
    let many = one("  rules: [{retry: {attempts: 11}, backendRefs: [{name: a, port: 8080}]}]");
    assert_eq!(many.rule(PLACE).retry.attempts, 10);
    assert_eq!(many.problems(), ["P109 HTTPRoute infra/r spec.rules[0].retry.attempts"]);
    let off = one("  rules: [{timeouts: {request: 0s}, backendRefs: [{name: a, port: 8080}]}]");
    assert_eq!(off.rule(PLACE).request_timeout, None);
    assert_eq!(off.problems(), [] as [&str; 0]);
}

/// The sessions of each backend of the first rule.
fn sessions(h: &Harness) -> Vec<Option<SessionPersistence>> {
    let Action::Forward(backends) = &h.rule(PLACE).action else { panic!("it forwards") };
    backends.iter().map(|backend| backend.session.as_deref().cloned()).collect()
}

#[test]
fn gep_1619_sessions_are_those_of_all_backends_of_the_rule_whatever_their_weights() {
    let h = one("  rules:
  - backendRefs: [{name: a, port: 8080}, {name: b, port: 8080, weight: 0}]
    sessionPersistence: {sessionName: basket, absoluteTimeout: 1h, idleTimeout: 10m, cookieConfig: {lifetimeType: Permanent}}");
    let expected = SessionPersistence {
        carrier: SessionCarrier::Cookie { name: "basket".into(), permanent: true },
        absolute_timeout: Some(Duration::from_secs(3600)),
        idle_timeout: Some(Duration::from_secs(600)),
        scope: "/HTTPRoute infra/r/0".into(),
    };
    assert_eq!(sessions(&h), [Some(expected.clone()), Some(expected)]);
    assert_eq!(h.problems(), [] as [&str; 0]);
    let plain = one("  rules: [{backendRefs: [{name: a, port: 8080}, {name: b, port: 8080, weight: 0}]}]");
    assert_eq!(sessions(&plain), [None], "without sessions nothing leads to a backend of no weight");
}

#[test]
fn gep_1619_each_rule_has_sessions_of_its_own() {
    let rule = |path: &str| {
        format!(
            "{{matches: [{{path: {{value: {path}}}}}], backendRefs: [{{name: a, port: 8080}}], sessionPersistence: {{}}}}"
        )
    };
    let h = one(&format!("  rules: [{}, {}]", rule("/a"), rule("/b")));
    let mut all: Vec<_> = h
        .virtual_host(PLACE)
        .unwrap()
        .rules
        .iter()
        .map(|rule| {
            let Action::Forward(backends) = &rule.action else { panic!("it forwards") };
            let session = backends[0].session.as_ref().unwrap();
            let SessionCarrier::Cookie { name, permanent: false } = &session.carrier else {
                panic!("a cookie of the session")
            };
            (name.clone(), session.scope.clone())
        })
        .collect();
    let (first, second) = (all.remove(0), all.remove(0));
    assert!(first.0 != second.0 && first.1 != second.1, "{first:?} {second:?}");
    assert!(first.0.starts_with("sluice-session-"));
}

#[test]
fn gep_1619_a_rule_whose_sessions_cannot_be_kept_is_dropped() {
    for (persistence, expected) in [
        (
            "{cookieConfig: {lifetimeType: Permanent}}",
            "P110 HTTPRoute infra/r spec.rules[0].sessionPersistence.absoluteTimeout",
        ),
        ("{type: Header, cookieConfig: {}}", "P110 HTTPRoute infra/r spec.rules[0].sessionPersistence.cookieConfig"),
        ("{type: Header, sessionName: 'a b'}", "P104 HTTPRoute infra/r spec.rules[0].sessionPersistence.sessionName"),
        (
            "{type: Header, sessionName: Content-Length}",
            "P104 HTTPRoute infra/r spec.rules[0].sessionPersistence.sessionName",
        ),
        ("{type: Header, sessionName: cookie}", "P104 HTTPRoute infra/r spec.rules[0].sessionPersistence.sessionName"),
        ("{sessionName: 'a=b'}", "P104 HTTPRoute infra/r spec.rules[0].sessionPersistence.sessionName"),
        ("{absoluteTimeout: 1d}", "P105 HTTPRoute infra/r spec.rules[0].sessionPersistence.absoluteTimeout"),
        ("{absoluteTimeout: 0s}", "P109 HTTPRoute infra/r spec.rules[0].sessionPersistence.absoluteTimeout"),
        ("{idleTimeout: 1ms}", "P109 HTTPRoute infra/r spec.rules[0].sessionPersistence.idleTimeout"),
    ] {
        let h =
            one(&format!("  rules: [{{backendRefs: [{{name: a, port: 8080}}], sessionPersistence: {persistence}}}]"));
        assert_eq!(h.problems(), [expected], "{persistence}");
        assert_eq!(h.routes(PLACE), ["/* -> 500 invalid_rule"]);
        let status = h.translator.status();
        let route = status.routes.values().next().unwrap();
        let invalid = route.invalid.as_deref().unwrap();
        assert!(invalid.starts_with("Dropped Rule: spec.rules[0].sessionPersistence"), "{invalid}");
    }
}

#[test]
fn gw_named_rule_is_known_by_its_name_and_others_by_position() {
    let h = one(
        "  rules: [{name: first, backendRefs: [{name: a, port: 8080}]}, {matches: [{path: {value: /b}}], backendRefs: [{name: b, port: 8080}]}]",
    );
    let ids: Vec<_> = h.virtual_host(PLACE).unwrap().rules.iter().map(|r| r.id.to_string()).collect();
    assert_eq!(ids, ["HTTPRoute infra/r/first", "HTTPRoute infra/r/1"]);
}

#[test]
fn no_two_rules_of_a_route_share_a_name() {
    let rule = |name: &str, path: &str| {
        let name = if name.is_empty() { String::new() } else { format!("name: '{name}', ") };
        format!("{{{name}matches: [{{path: {{value: {path}}}}}], backendRefs: [{{name: a, port: 8080}}]}}")
    };
    let rules = [rule("x", "/a"), rule("", "/b"), rule("x", "/c"), rule("1", "/d")].join(", ");
    let h = one(&format!("  rules: [{rules}]"));
    let ids: Vec<_> = h.virtual_host(PLACE).unwrap().rules.iter().map(|r| r.id.rule.to_string()).collect();
    assert_eq!(ids, ["x", "#1", "2", "1"]);
    assert_eq!(h.problems(), ["P108 HTTPRoute infra/r spec.rules[2].name"]);
}

#[test]
fn methods_that_are_never_served_and_doubled_slashes_are_told() {
    let h = one("  rules:
  - matches: [{method: TRACE}, {path: {type: Exact, value: //a//b}}]
    backendRefs: [{name: a, port: 8080}]");
    assert_eq!(
        h.problems(),
        [
            "P102 HTTPRoute infra/r spec.rules[0].matches[1].path.value",
            "P108 HTTPRoute infra/r spec.rules[0].matches[0].method",
        ]
    );
}

#[test]
fn a_match_that_cannot_be_read_is_left_out_and_its_neighbours_stay() {
    let h = one("  rules:
  - matches: [{path: {type: RegularExpression, value: '('}}, {path: {value: nope}}, {path: {value: /ok}}, {headers: [{name: 'a b', value: x}]},
      {path: {value: /q, type: Exact}, queryParams: [{name: x, type: RegularExpression, value: '['}]}]
    backendRefs: [{name: a, port: 8080}]");
    assert_eq!(h.routes(PLACE), ["/ok/* -> infra/a:8080"]);
    assert_eq!(
        h.problems(),
        [
            "P102 HTTPRoute infra/r spec.rules[0].matches[1].path.value",
            "P103 HTTPRoute infra/r spec.rules[0].matches[0].path.value",
            "P103 HTTPRoute infra/r spec.rules[0].matches[4].queryParams[0].value",
            "P104 HTTPRoute infra/r spec.rules[0].matches[3].headers[0].name",
        ]
    );
}

#[test]
fn paths_are_matched_in_their_normal_form() {
    let h = one(
        "  rules: [{matches: [{path: {value: /a%7Eb/../caf\u{e9}/}}, {path: {type: Exact, value: /x%2fy}}], backendRefs: [{name: a, port: 8080}]}]",
    );
    assert_eq!(h.routes(PLACE), ["=/x%2Fy -> infra/a:8080", "/caf%C3%A9/* -> infra/a:8080"]);
}

/// A rule with this filter, on a route to `a`.
fn guarded(external_auth: &str) -> Harness {
    one(&format!(
        "  rules: [{{filters: [{{type: ExternalAuth, externalAuth: {external_auth}}}], backendRefs: [{{name: a, port: 8080}}]}}]"
    ))
}

#[test]
fn gep_1494_a_service_that_is_asked_is_read_whole_with_its_backend() {
    let h = guarded(
        "{protocol: HTTP, backendRef: {name: b, port: 8080}, forwardBody: {maxSize: 100},
          http: {path: /check/, allowedHeaders: [X-A, x-a, Cookie], allowedResponseHeaders: [X-User]}}",
    );
    let auth = h.rule(PLACE).filters.external_auth.clone().unwrap();
    let names =
        |names: &[&'static str]| names.iter().map(|name| http::HeaderName::from_static(name)).collect::<Vec<_>>();
    let (request_headers, response_headers) = (names(&["x-a", "cookie"]), names(&["x-user"]));
    assert_eq!(auth.protocol, AuthProtocol::Http { path: "/check".into(), request_headers, response_headers });
    assert_eq!((auth.backend.to_string().as_str(), auth.max_body), ("infra/b:8080", 100));
    assert!(h.config().backends.contains_key(&auth.backend), "it has endpoints as any other backend");
    assert_eq!((h.problems(), h.status("HTTPRoute infra/r")), (vec![], vec!["infra/gw: ok ok".to_owned()]));

    let h = guarded("{protocol: GRPC, backendRef: {name: b, port: 8080}, grpc: {allowedHeaders: [x-a]}}");
    let auth = h.rule(PLACE).filters.external_auth.clone().unwrap();
    assert_eq!(auth.protocol, AuthProtocol::Grpc { request_headers: names(&["x-a"]) });
    assert_eq!(h.config().backends[&auth.backend].protocol, sluice_model::config::BackendProtocol::Http2);
    assert_eq!((auth.max_body, h.problems()), (0, vec![]));
}

#[test]
fn gep_1494_a_service_that_cannot_be_asked_lets_nothing_through() {
    let service = "backendRef: {name: b, port: 8080}";
    let base = "spec.rules[0].filters[0].externalAuth";
    for (auth, problem, status) in [
        (
            "protocol: HTTP, backendRef: {name: none, port: 8080}",
            format!("P201 HTTPRoute infra/r {base}.backendRef"),
            "ok BackendNotFound",
        ),
        (
            "protocol: HTTP, backendRef: {name: b, namespace: other, port: 8080}",
            format!("P203 HTTPRoute infra/r {base}.backendRef"),
            "ok RefNotPermitted",
        ),
        (
            "protocol: GRPC, backendRef: {name: b}",
            format!("P202 HTTPRoute infra/r {base}.backendRef.port"),
            "ok BackendNotFound",
        ),
        (
            &format!("protocol: HTTP, {service}, http: {{allowedHeaders: ['a b']}}"),
            format!("P104 HTTPRoute infra/r {base}.http.allowedHeaders[0]"),
            "UnsupportedValue ok",
        ),
        (
            &format!("protocol: HTTP, {service}, http: {{allowedResponseHeaders: [Content-Length]}}"),
            format!("P104 HTTPRoute infra/r {base}.http.allowedResponseHeaders[0]"),
            "UnsupportedValue ok",
        ),
        (
            &format!("protocol: HTTP, {service}, http: {{path: check}}"),
            format!("P102 HTTPRoute infra/r {base}.http.path"),
            "UnsupportedValue ok",
        ),
        (
            &format!("protocol: GRPC, {service}, forwardBody: {{maxSize: 65536}}"),
            format!("P109 HTTPRoute infra/r {base}.forwardBody.maxSize"),
            "UnsupportedValue ok",
        ),
    ] {
        let h = guarded(&format!("{{{auth}}}"));
        assert_eq!(h.problems(), [problem], "{auth}");
        assert_eq!(h.routes(PLACE), ["/* -> 500 unsupported_filter"], "{auth}");
        assert_eq!(h.status("HTTPRoute infra/r"), [format!("infra/gw: {status}")], "{auth}");
    }
}

#[test]
fn filters_that_cannot_be_used_answer_500_and_say_why() {
    for (filters, problem) in [
        ("[{type: ExternalAuth}]", "P110 HTTPRoute infra/r spec.rules[0].filters[0].externalAuth"),
        ("[{type: URLRewrite}]", "P110 HTTPRoute infra/r spec.rules[0].filters[0].urlRewrite"),
        (
            "[{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Content-Length, value: '0'}]}}]",
            "P104 HTTPRoute infra/r spec.rules[0].filters[0].requestHeaderModifier.set[0].name",
        ),
        (
            "[{type: RequestRedirect, requestRedirect: {statusCode: 200}}]",
            "P108 HTTPRoute infra/r spec.rules[0].filters[0].requestRedirect.statusCode",
        ),
        (
            "[{type: ExtensionRef, extensionRef: {group: sluice.dev, kind: TrafficPolicy, name: none}}]",
            "P216 HTTPRoute infra/r spec.rules[0].filters[0].extensionRef.name",
        ),
        ("[{type: CORS, cors: {}}, {type: CORS, cors: {}}]", "P110 HTTPRoute infra/r spec.rules[0].filters[1]"),
    ] {
        let h = one(&format!("  rules: [{{filters: {filters}, backendRefs: [{{name: a, port: 8080}}]}}]"));
        assert_eq!(h.routes(PLACE), ["/* -> 500 unsupported_filter"], "{filters}");
        assert_eq!(h.problems(), [problem], "{filters}");
    }
}

#[test]
fn a_filter_that_a_backend_cannot_have_fails_only_its_share() {
    let h = one(
        "  rules: [{backendRefs: [{name: a, port: 8080, filters: [{type: CORS, cors: {}}]}, {name: b, port: 8080}]}]",
    );
    assert_eq!(h.routes(PLACE), ["/* -> 1 of 500 unsupported_filter, 1 of infra/b:8080"]);
    assert_eq!(h.problems(), ["P503 HTTPRoute infra/r spec.rules[0].backendRefs[0].filters[0]"]);
}

#[test]
fn gw_multiple_gateways_each_serve_the_shared_route() {
    let spec = "  parentRefs: [{name: gw}, {name: gw2}]\n  rules: [{backendRefs: [{name: a, port: 8080}]}]";
    let yaml = gateway("infra", "gw", HTTP)
        + &gateway("infra", "gw2", "[{name: web, port: 81, protocol: HTTP}]")
        + &services("infra", &["a"])
        + &route("infra", "r", spec);
    let h = Harness::new(&yaml);
    assert_eq!(h.places(), ["infra/gw/web *", "infra/gw2/web *"]);
    assert_eq!(h.status("HTTPRoute infra/r"), ["infra/gw: ok ok", "infra/gw2: ok ok"]);
    let attached: Vec<_> = h.translator.status().gateways.values().map(|g| g.listeners[0].attached_routes).collect();
    assert_eq!(attached, [1, 1]);
}

/// GEP-3793.
#[test]
fn a_route_that_asks_for_default_gateways_attaches_to_all_of_them_as_if_it_named_them() {
    let all = "[{name: web, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}]";
    let gw = |namespace: &str, name: &str, port: u32, scope: &str| {
        gateway(namespace, name, &format!("{}{scope}", all.replace("80", &port.to_string())))
    };
    let to = |head: &str| format!("{head}\n  rules: [{{backendRefs: [{{name: web, port: 8080}}]}}]");
    let base = gw("infra", "a", 81, ", defaultScope: All")
        + &gw("infra", "b", 82, ", defaultScope: None")
        + &gw("infra", "c", 83, "")
        + &gateway("infra", "d", "[{name: web, port: 84, protocol: HTTP}], defaultScope: All")
        + &services("shop", &["web"]);
    let mut h = Harness::new(
        &(base
            + &route("shop", "all", &to("  useDefaultGateways: All"))
            + &route(
                "shop",
                "none",
                &to("  useDefaultGateways: None\n  hostnames: [none.com]\n  parentRefs: [{name: c, namespace: infra}]"),
            )
            + &route(
                "shop",
                "both",
                &to(
                    "  useDefaultGateways: All\n  hostnames: [both.com]\n  parentRefs: [{name: a, namespace: infra}, {name: c, namespace: infra}]",
                ),
            )),
    );
    // The usual rules hold: not every default Gateway takes routes of every namespace.
    assert_eq!(h.status("HTTPRoute shop/all"), ["infra/a: ok ok", "infra/d: NotAllowedByListeners ok"]);
    assert_eq!(h.status("HTTPRoute shop/none"), ["infra/c: ok ok"]);
    assert_eq!(
        h.status("HTTPRoute shop/both"),
        ["infra/a: ok ok", "infra/c: ok ok", "infra/d: NotAllowedByListeners ok"]
    );
    assert_eq!(
        h.problems(),
        ["P207 HTTPRoute shop/all spec.useDefaultGateways", "P207 HTTPRoute shop/both spec.useDefaultGateways"]
    );
    let status = h.translator.status();
    let parent = &status.routes[&ObjectRef::new(Kind::HTTPRoute, "shop", "all")].parents[0];
    assert_eq!(parent.namespace.as_deref(), Some("infra"), "named as a parentRef would");
    let defaults: Vec<_> = status.gateways.values().map(|gateway| gateway.is_default).collect();
    assert_eq!(defaults, [true, false, false, true]);

    // Another one is there before the former goes.
    h.apply(&gw("infra", "b", 82, ", defaultScope: All"));
    h.delete(Kind::Gateway, "infra", "a");
    h.delete(Kind::Gateway, "infra", "d");
    assert_eq!(h.status("HTTPRoute shop/all"), ["infra/b: ok ok"]);
    h.delete(Kind::Gateway, "infra", "b");
    assert_eq!(h.status("HTTPRoute shop/all"), [] as [&str; 0]);
    assert!(h.problems().contains(&"P206 HTTPRoute shop/all spec.useDefaultGateways".to_owned()), "{:?}", h.problems());
}

#[test]
fn a_route_names_the_rules_that_are_dropped_and_serves_the_others() {
    let rule = |path: &str, more: &str| {
        format!("{{matches: [{{path: {{value: {path}}}}}], backendRefs: [{{name: a, port: 8080}}]{more}}}")
    };
    let rules = [
        rule("/a", ", timeouts: {request: soon}"),
        rule("/b", ""),
        rule("/c", ", retry: {codes: [200]}"),
        rule("/d", ", retry: {codes: [200]}"),
        rule("/e", ", timeouts: {request: soon}"),
    ];
    let h = one(&format!("  hostnames: [a.com, 'b..com']\n  rules: [{}]", rules.join(", ")));
    let status = h.translator.status();
    let route = status.routes.values().next().unwrap();
    assert!(route.parents.iter().all(|parent| parent.rejected.is_none()));
    let invalid = route.invalid.as_deref().unwrap();
    let parts: Vec<_> = invalid.split("; ").map(|part| part.split(": ").collect::<Vec<_>>()).collect();
    assert_eq!(parts[0][..2], ["Dropped Rule", "spec.rules[0].timeouts.request"], "{invalid}");
    assert_eq!((parts[1][0], parts[2][0]), ("spec.rules[2].retry.codes[0]", "spec.rules[3].retry.codes[0]"));
    assert_eq!((parts[3][0], parts[4][0]), ("and 1 more", "none serves spec.hostnames[1]"));
}
