use super::support::{Harness, action, gateway, route, services};
use sluice_model::Kind;
use sluice_model::config::{EscapedSlashes, HashKey, LoadBalancer};
use sluice_model::plugin::{FailMode, ModuleSource, SecretValue};
use sluice_resources::Change;
use std::time::Duration;

const PLACE: &str = "infra/gw/web *";

fn plugin(namespace: &str, name: &str, more: &str) -> String {
    format!(
        "---\napiVersion: sluice.dev/v1alpha1\nkind: Plugin\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{source: {{file: {{path: /p/{name}.wasm}}}}{more}}}\n"
    )
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: sluice.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {name}, namespace: infra}}\nspec:\n{spec}\n"
    )
}

fn file(name: &str) -> Change {
    Change::File { path: format!("/p/{name}.wasm").into(), sha256: Some("00ff".into()) }
}

/// A Gateway, a route with rules `first` (and its ExtensionRef, if any) and `second`, a Service, and two plugins.
fn base(extension: &str) -> String {
    let filters = if extension.is_empty() {
        String::new()
    } else {
        format!(
            "filters: [{{type: ExtensionRef, extensionRef: {{group: sluice.dev, kind: TrafficPolicy, name: {extension}}}}}], "
        )
    };
    let spec = format!(
        "  parentRefs: [{{name: gw}}]
  rules: [{{name: first, {filters}backendRefs: [{{name: s, port: 8080}}]}}, {{name: second, matches: [{{path: {{value: /2}}}}], backendRefs: [{{name: s, port: 8080}}]}}]"
    );
    gateway("infra", "gw", "[{name: web, port: 80, protocol: HTTP}]")
        + &services("infra", &["s"])
        + &route("infra", "r", &spec)
        + &plugin("infra", "auth", "")
        + &plugin("infra", "limit", ", failMode: Open")
}

fn with(yaml: &str) -> Harness {
    let mut h = Harness::new("");
    let mut changes = super::support::upserts(yaml);
    changes.extend([file("auth"), file("limit")]);
    h.changes(changes);
    h
}

/// The plugins of a rule, as `name(plugin)`.
fn plugins(h: &Harness, rule: &str) -> Vec<String> {
    let host = h.virtual_host(PLACE).unwrap();
    let found = host.rules.iter().find(|r| r.id.rule.as_ref() == rule).unwrap();
    found.plugins.iter().map(|p| format!("{}({})", p.name, p.plugin.name)).collect()
}

const GATEWAY: &str = "  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: gw}]\n";
const ROUTE: &str = "  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}]\n";
const RULE: &str = "  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r, sectionName: first}]\n";
const SERVICE: &str = "  targetRefs: [{group: '', kind: Service, name: s}]\n";

#[test]
fn plugins_of_all_levels_run_by_order_then_from_the_gateway_to_the_rule() {
    let h = with(
        &(base("ext")
            + &policy("ext", "  plugins: [{name: e, pluginRef: {name: auth}}]")
            + &policy(
                "g",
                &format!(
                    "{GATEWAY}  plugins: [{{name: g, pluginRef: {{name: auth}}}}, {{name: late, order: 5, pluginRef: {{name: limit}}}}]"
                ),
            )
            + &policy(
                "t",
                &format!(
                    "{ROUTE}  plugins: [{{name: t, pluginRef: {{name: auth}}}}, {{name: early, order: -1, pluginRef: {{name: limit}}}}]"
                ),
            )
            + &policy("u", &format!("{RULE}  plugins: [{{name: u, pluginRef: {{name: auth}}}}]"))),
    );
    assert_eq!(h.problems(), [] as [&str; 0]);
    assert_eq!(plugins(&h, "first"), ["early(limit)", "g(auth)", "t(auth)", "u(auth)", "e(auth)", "late(limit)"]);
    assert_eq!(plugins(&h, "second"), ["early(limit)", "g(auth)", "t(auth)", "late(limit)"]);
}

#[test]
fn of_defaults_the_most_specific_wins_and_of_overrides_the_least() {
    let settings = |what: &str, size: &str, plugin: &str| {
        format!(
            "  {what}:\n    client: {{maxBody: {size}}}\n    plugins: [{{name: same, pluginRef: {{name: {plugin}}}}}]"
        )
    };
    let h = with(
        &(base("")
            + &policy("g", &format!("{GATEWAY}{}", settings("defaults", "1Ki", "auth")))
            + &policy("t", &format!("{ROUTE}{}", settings("defaults", "2Ki", "limit")))),
    );
    assert_eq!(h.rule(PLACE).client.max_body, Some(2048));
    assert_eq!(plugins(&h, "first"), ["same(limit)"]);
    let h = with(
        &(base("")
            + &policy("g", &format!("{GATEWAY}{}", settings("overrides", "1Ki", "auth")))
            + &policy("t", &format!("{ROUTE}{}", settings("overrides", "2Ki", "limit")))),
    );
    assert_eq!(h.rule(PLACE).client.max_body, Some(1024));
    assert_eq!(plugins(&h, "first"), ["same(auth)"]);
}

#[test]
fn backend_settings_of_a_service_stand_between_listener_and_route() {
    let hash = "backend: {loadBalancer: {type: ConsistentHash, consistentHash: {cookie: id}}, circuitBreaker: {maxRequests: 5}}";
    let h = with(
        &(base("")
            + &policy(
                "g",
                &format!(
                    "{GATEWAY}  backend: {{loadBalancer: {{type: LeastRequest, slowStart: 20s}}, timeouts: {{connect: 1s, request: 9s}}}}"
                ),
            )
            + &policy("s", &format!("{SERVICE}  {hash}"))
            + &policy(
                "u",
                &format!(
                    "{RULE}  backend: {{circuitBreaker: {{maxRequests: 7}}, retry: {{attempts: 4, on: [Reset]}}}}"
                ),
            )),
    );
    assert_eq!(h.problems(), [] as [&str; 0]);
    let policies: Vec<_> =
        h.config().backends.values().map(|b| (b.policy.circuit_breaker.max_requests, &b.policy)).collect();
    assert_eq!(policies.len(), 2, "a rule with a policy of its own has a backend of its own");
    for (_, policy) in &policies {
        assert_eq!(policy.load_balancer, LoadBalancer::ConsistentHash(HashKey::Cookie("id".into())));
        assert_eq!(policy.connect_timeout, Some(Duration::from_secs(1)));
        assert_eq!(policy.slow_start, Some(Duration::from_secs(20)));
    }
    let mut requests: Vec<_> = policies.iter().map(|(n, _)| *n).collect();
    requests.sort_unstable();
    assert_eq!(requests, [5, 7]);
    let host = h.virtual_host(PLACE).unwrap();
    let first = host.rules.iter().find(|r| r.id.rule.as_ref() == "first").unwrap();
    assert_eq!((first.retry.attempts, first.retry.connect_failure, first.retry.reset), (4, false, true));
    assert_eq!(first.request_timeout, Some(Duration::from_secs(9)));
}

#[test]
fn client_settings_tighten_the_edge() {
    let h = with(
        &(base("")
            + &policy(
                "t",
                &format!("{ROUTE}  client: {{ipAllow: [10.0.0.0/8, '::1'], maxBody: 1Mi, escapedSlashes: Reject}}"),
            )),
    );
    let client = &h.rule(PLACE).client;
    assert_eq!(client.ip_allow.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.0/8", "::1/128"]);
    assert_eq!((client.max_body, client.escaped_slashes), (Some(1 << 20), Some(EscapedSlashes::Reject)));
}

#[test]
fn a_list_of_addresses_of_which_none_can_be_read_lets_nobody_in() {
    let h = with(&(base("") + &policy("t", &format!("{ROUTE}  client: {{ipAllow: [nonsense]}}"))));
    assert_eq!(h.problems(), ["P107 TrafficPolicy infra/t spec.client.ipAllow[0]"]);
    assert!(!h.rule(PLACE).client.ip_allow.is_empty());
}

#[test]
fn of_two_policies_on_one_target_the_first_by_age_and_name_acts() {
    let one = |name: &str| policy(name, &format!("{ROUTE}  plugins: [{{name: {name}, pluginRef: {{name: auth}}}}]"));
    let mut h = with(&(base("") + &one("b") + &one("a")));
    assert_eq!(plugins(&h, "first"), ["a(auth)"]);
    assert_eq!(h.problems(), ["P406 TrafficPolicy infra/b spec.targetRefs[0]"]);
    h.delete(Kind::TrafficPolicy, "infra", "a");
    assert_eq!(plugins(&h, "first"), ["b(auth)"]);
    assert_eq!(h.problems(), [] as [&str; 0]);
}

#[test]
fn targets_and_combinations_that_mean_nothing_are_told() {
    let h = with(
        &(base("")
            + &policy("a", "  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: none}]")
            + &policy("b", "  targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: r}]")
            + &policy(
                "c",
                "  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r, sectionName: third}]",
            )
            + &policy("d", &format!("{SERVICE}  client: {{maxBody: 1Ki}}"))
            + &policy("e", "  client: {maxBody: 1Ki}\n  defaults: {client: {maxBody: 2Ki}}")),
    );
    assert_eq!(
        h.problems(),
        [
            "P110 TrafficPolicy infra/e spec.defaults",
            "P204 TrafficPolicy infra/b spec.targetRefs[0].kind",
            "P210 TrafficPolicy infra/a spec.targetRefs[0]",
            "P210 TrafficPolicy infra/c spec.targetRefs[0]",
            "P407 TrafficPolicy infra/d spec.targetRefs[0]",
        ]
    );
}

#[test]
fn a_plugin_that_is_missing_refuses_requests_unless_its_use_fails_open() {
    let used = |more: &str| policy("t", &format!("{ROUTE}  plugins: [{{name: x, pluginRef: {{name: none}}{more}}}]"));
    let h = with(&(base("") + &used("")));
    assert_eq!(action(h.rule(PLACE)), "503 plugin_not_ready");
    assert_eq!(h.problems(), ["P209 TrafficPolicy infra/t spec.plugins[0].pluginRef"]);
    let h = with(&(base("") + &used(", failMode: Open")));
    assert_eq!(action(h.rule(PLACE)), "infra/s:8080");
    assert!(h.rule(PLACE).plugins.is_empty());
}

#[test]
fn a_plugin_of_another_namespace_needs_its_leave() {
    let used = policy("t", &format!("{ROUTE}  plugins: [{{name: x, pluginRef: {{name: auth, namespace: platform}}}}]"));
    let yaml = |allowed: &str| base("") + &used + &plugin("platform", "auth", allowed);
    let refused = |h: &Harness| {
        action(h.rule(PLACE)) == "503 plugin_not_ready"
            && h.problems() == ["P405 TrafficPolicy infra/t spec.plugins[0].pluginRef"]
    };
    assert!(refused(&with(&yaml(""))));
    assert_eq!(plugins(&with(&yaml(", allowedNamespaces: {from: All}")), "first"), ["x(auth)"]);
    let selector =
        ", allowedNamespaces: {from: Selector, selector: {matchLabels: {kubernetes.io/metadata.name: infra}}}";
    assert_eq!(plugins(&with(&yaml(selector)), "first"), ["x(auth)"]);
    assert!(refused(&with(&yaml(&selector.replace("infra", "other")))));
    let grant = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: platform}\nspec: {from: [{group: sluice.dev, kind: TrafficPolicy, namespace: infra}], to: [{group: sluice.dev, kind: Plugin}]}\n";
    assert_eq!(plugins(&with(&(yaml("") + grant)), "first"), ["x(auth)"]);
}

#[test]
fn a_plugins_code_comes_from_a_fingerprinted_file_or_a_config_map() {
    let map = "---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: code, namespace: infra}, binaryData: {m.wasm: AGFzbQ==}}\n";
    let inline = "---\napiVersion: sluice.dev/v1alpha1\nkind: Plugin\nmetadata: {name: inline, namespace: infra}\nspec: {source: {configMap: {name: code, key: m.wasm}}, limits: {memory: 1Mi, runTime: 5ms}}\n";
    let mut h = with(&(base("") + map + inline));
    let specs: Vec<_> = h.config().plugins.values().map(|p| (p.key.name.to_string(), p.fail_mode)).collect();
    let expected = [("auth", FailMode::Closed), ("inline", FailMode::Closed), ("limit", FailMode::Open)];
    assert_eq!(specs, expected.map(|(n, f)| (n.to_owned(), f)));
    let spec = h.config().plugins.values().find(|p| p.key.name.as_ref() == "inline").unwrap();
    assert!(matches!(&spec.source, Some(ModuleSource::Inline { bytes, .. }) if bytes.as_ref() == b"\0asm"));
    assert_eq!((spec.limits.memory, spec.limits.run_time), (1 << 20, Duration::from_millis(5)));
    let before = h.config().clone();
    h.changes(vec![Change::File { path: "/p/auth.wasm".into(), sha256: Some("11".into()) }]);
    assert_eq!(h.output.summary, "1 plugin changed");
    let same = |name: &str| {
        let find = |c: &sluice_model::Config| c.plugins.values().find(|p| p.key.name.as_ref() == name).unwrap().clone();
        std::sync::Arc::ptr_eq(&find(&before), &find(h.config()))
    };
    assert!(same("limit") && same("inline") && !same("auth"));
    h.changes(vec![Change::File { path: "/p/auth.wasm".into(), sha256: None }]);
    assert_eq!(h.problems(), ["P401 Plugin infra/auth spec.source.file.path"]);
}

#[test]
fn a_plugin_is_given_the_stores_and_secrets_that_it_names() {
    let may = ", capabilities: { routing: true,
      stores: [{name: s}, {name: large, scope: Process, quota: 64Mi}, {name: s, quota: 1Mi}, {name: small, quota: 1023}, {name: r, scope: Redis}],
      secrets: [{name: a, ref: {name: keys, key: k}}, {name: b, ref: {name: keys, key: none}}, {name: c, ref: {name: nobody, key: k}}]}";
    let secret = |value: &str| {
        format!(
            "---\n{{apiVersion: v1, kind: Secret, metadata: {{name: keys, namespace: infra}}, stringData: {{k: {value}}}}}\n"
        )
    };
    let plugin = plugin("infra", "auth", may);
    // A Secret of the same name elsewhere is not the plugin's.
    let elsewhere = secret("other").replace("namespace: infra", "namespace: elsewhere").replace("keys", "nobody");
    let mut h = with(&(base("") + &plugin + &secret("hunter2") + &elsewhere));
    let grants = |h: &Harness| h.config().plugin_grants.values().next().unwrap().clone();
    let given = grants(&h);
    assert!(given.routing);
    let quotas: Vec<_> = given.stores.iter().map(|(name, store)| (&**name, store.quota)).collect();
    assert_eq!(quotas, [("large", 64 << 20), ("s", 16 << 20), ("small", 16 << 20)]);
    let secrets: Vec<_> =
        given.secrets.iter().map(|(name, value)| (&**name, value.as_ref().map(SecretValue::bytes))).collect();
    assert_eq!(secrets, [("a", Some(&b"hunter2"[..])), ("b", None), ("c", None)]);
    let at = |problem: &str| problem.split(' ').skip(1).collect::<Vec<_>>().join(" ");
    let mut problems: Vec<_> = h.problems().iter().map(|problem| at(problem)).collect();
    problems.sort();
    let expected =
        ["secrets[1].ref.key", "secrets[2].ref.name", "stores[2].name", "stores[3].quota", "stores[4].redis"];
    assert_eq!(problems, expected.map(|field| format!("Plugin infra/auth spec.capabilities.{field}")));
    // A rotated value is no new plugin, and says nothing of itself in dumps.
    let spec = |h: &Harness| h.config().plugins.values().find(|p| p.key.name.as_ref() == "auth").unwrap().clone();
    let before = spec(&h);
    h.apply(&secret("hunter3"));
    assert_eq!(grants(&h).secrets["a"].as_ref().map(SecretValue::bytes), Some(&b"hunter3"[..]));
    assert!(std::sync::Arc::ptr_eq(&before, &spec(&h)));
    assert_eq!(h.output.summary, "1 plugin changed");
    let printed = format!("{:?} {}", h.config(), serde_json::to_string(&**h.config()).unwrap());
    assert!(printed.contains("7 bytes") && !printed.contains("hunter"));
    h.delete(Kind::Secret, "infra", "keys");
    assert_eq!(grants(&h).secrets["a"], None);
}

#[test]
fn a_use_of_a_plugin_whose_source_is_gone_stays_as_the_host_has_the_code_before() {
    let mut h =
        with(&(base("") + &policy("t", &format!("{ROUTE}  plugins: [{{name: x, pluginRef: {{name: auth}}}}]"))));
    let spec = |h: &Harness| h.config().plugins.values().find(|p| p.key.name.as_ref() == "auth").unwrap().clone();
    assert!(spec(&h).source.is_some());
    h.changes(vec![Change::File { path: "/p/auth.wasm".into(), sha256: None }]);
    assert_eq!(spec(&h).source, None);
    assert_eq!(plugins(&h, "first"), ["x(auth)"]);
    assert_eq!(action(h.rule(PLACE)), "infra/s:8080");
    assert_eq!(h.problems(), ["P401 Plugin infra/auth spec.source.file.path"]);
}

#[test]
fn a_run_time_or_deadline_beyond_its_bound_is_a_problem_and_the_default_counts() {
    let limits = ", limits: {runTime: 10001ms, deadline: 61s}";
    let h = with(&(base("") + &plugin("infra", "auth", limits)));
    assert_eq!(
        h.problems(),
        ["P109 Plugin infra/auth spec.limits.deadline", "P109 Plugin infra/auth spec.limits.runTime"]
    );
    let auth = h.config().plugins.values().find(|p| p.key.name.as_ref() == "auth").unwrap();
    assert_eq!((auth.limits.run_time, auth.limits.deadline), (Duration::from_millis(10), Duration::from_secs(1)));
    let h = with(&(base("") + &plugin("infra", "auth", ", limits: {runTime: 10s, deadline: 1m}")));
    assert_eq!(h.problems(), [] as [&str; 0]);
}

#[test]
fn plugins_of_a_gateway_and_its_listener_are_known_without_a_route() {
    let listener = "  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: gw, sectionName: web}]\n";
    let yaml = base("")
        + &policy("g", &format!("{GATEWAY}  plugins: [{{name: g, pluginRef: {{name: auth}}}}]"))
        + &policy("l", &format!("{listener}  plugins: [{{name: l, pluginRef: {{name: limit}}}}]"));
    let mut h = with(&yaml);
    let names = |h: &Harness| -> Vec<String> {
        h.config().listener_plugins.values().flat_map(|uses| uses.iter().map(|used| used.name.to_string())).collect()
    };
    assert_eq!(names(&h), ["g", "l"]);
    let place = h.config().listener_plugins.values().next().unwrap()[0].at.clone();
    assert_eq!((place.object.to_string().as_str(), &*place.field), ("TrafficPolicy infra/g", "spec.plugins[0]"));
    h.delete(Kind::TrafficPolicy, "infra", "g");
    assert_eq!(names(&h), ["l"]);
    h.delete(Kind::Gateway, "infra", "gw");
    assert!(names(&h).is_empty());
}

#[test]
fn equal_configurations_of_a_plugin_are_equal_texts() {
    let used = |config: &str| {
        policy("t", &format!("{ROUTE}  plugins: [{{name: x, pluginRef: {{name: auth}}, config: {config}}}]"))
    };
    let text = |config: &str| with(&(base("") + &used(config))).rule(PLACE).plugins[0].clone();
    let (a, b) = (text("{b: [1, {d: 1, c: 2}], a: x}"), text("{a: x, b: [1, {c: 2, d: 1}]}"));
    assert_eq!(a.config.as_ref(), r#"{"a":"x","b":[1,{"c":2,"d":1}]}"#);
    assert_eq!((a.config_hash.len(), a.config_hash), (64, b.config_hash));
}

#[test]
fn an_ingress_names_its_policies_in_an_annotation_and_is_shut_while_one_is_missing() {
    let ingress = |names: &str| {
        format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {{name: i, namespace: infra, annotations: {{sluice.dev/policy: '{names}'}}}}\nspec: {{defaultBackend: {{service: {{name: s, port: {{number: 8080}}}}}}}}\n"
        )
    };
    let place = "sluice-system/ingress/http *";
    let policies = policy("one", "  plugins: [{name: a, pluginRef: {name: auth}}]\n  client: {maxBody: 1Ki}")
        + &policy("two", "  plugins: [{name: b, pluginRef: {name: limit}}]\n  client: {maxBody: 2Ki}");
    let mut h = with(&(base("") + &policies + &ingress("one, two")));
    let names: Vec<_> = h.rule(place).plugins.iter().map(|p| p.name.to_string()).collect();
    assert_eq!((names.join(" "), h.rule(place).client.max_body), ("a b".to_owned(), Some(2048)));
    assert_eq!(h.problems(), [] as [&str; 0]);
    h.delete(Kind::TrafficPolicy, "infra", "one");
    assert_eq!(action(h.rule(place)), "503 unsupported_filter");
    assert_eq!(h.problems(), ["P216 Ingress infra/i metadata.annotations[sluice.dev/policy]"]);
}
