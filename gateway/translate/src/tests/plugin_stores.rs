//! Stores of plugins in a Redis: where it is, who to be there, and what is wrong with that.

use super::support::{Harness, ca_map, services};
use sluice_model::config::{BackendProtocol, PluginBackends};
use sluice_model::object::NamespacedName;
use sluice_model::plugin::{Grants, PluginKey, RedisLogin, RedisServer, SecretValue};
use sluice_model::{Kind, Severity};
use std::sync::Arc;
use std::time::Duration;

fn plugin(name: &str, stores: &str) -> String {
    format!(
        "---\napiVersion: sluice.dev/v1alpha1\nkind: Plugin\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{source: {{https: {{url: \"https://p.example/p.wasm\", sha256: {}}}}}, capabilities: {{stores: [{stores}]}}}}\n",
        "a".repeat(64)
    )
}

fn password(value: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Secret, metadata: {{name: redis, namespace: shop}}, stringData: {{password: {value}}}}}\n"
    )
}

fn key(name: &str) -> PluginKey {
    NamespacedName::new("shop", name)
}

fn grants(h: &Harness, name: &str) -> Arc<Grants> {
    h.config().plugin_grants.get(&key(name)).cloned().unwrap_or_default()
}

fn server(h: &Harness, name: &str, store: &str) -> RedisServer {
    (*grants(h, name).redis_stores[store].server).clone()
}

fn backends(h: &Harness, name: &str) -> PluginBackends {
    h.config().plugin_backends.get(&key(name)).map(|of| (**of).clone()).unwrap_or_default()
}

const PLAIN: &str = "{name: limits, scope: Redis, redis: {ref: {name: redis, port: 8080}}}";

#[test]
fn a_store_in_a_redis_has_a_backend_a_login_and_defaults() {
    let full = "{name: more, scope: Redis, redis: {ref: {name: redis, port: 8080}, username: sluice, passwordRef: {name: redis, key: password}, database: 3, timeout: 1s, concurrency: 7}}";
    let h = Harness::new(
        &(plugin("p", &format!("{PLAIN}, {full}")) + &services("shop", &["redis"]) + &password("hunter2")),
    );
    assert_eq!(h.problems(), Vec::<String>::new());
    assert_eq!(
        server(&h, "p", "limits"),
        RedisServer {
            service: key("redis"),
            port: 8080,
            login: RedisLogin::Nobody,
            database: 0,
            timeout: Duration::from_millis(250),
            concurrency: 1_000,
        }
    );
    let more = server(&h, "p", "more");
    let login = RedisLogin::Password { username: Some("sluice".into()), password: Some(SecretValue::new(b"hunter2")) };
    assert_eq!((more.login, more.database), (login, 3));
    assert_eq!((more.timeout, more.concurrency), (Duration::from_secs(1), 7));
    let of = backends(&h, "p");
    assert_eq!(of.stores.keys().map(|name| &**name).collect::<Vec<_>>(), ["limits", "more"]);
    assert!(of.calls.is_empty(), "the code can't call it");
    let backend = &h.config().backends[&of.stores["limits"]];
    assert_eq!((backend.protocol, backend.tls.is_none()), (BackendProtocol::Bytes, true));
    assert!(h.config().plugins[&key("p")].redis_stores);
    let printed = serde_json::to_string(&**h.config()).unwrap() + &format!("{:?}", h.config());
    assert!(printed.contains("shop/redis:8080") && !printed.contains("hunter"), "{printed}");
}

#[test]
fn a_password_that_changes_is_no_new_version_of_the_plugin() {
    let stores =
        "{name: s, scope: Redis, redis: {ref: {name: redis, port: 8080}, passwordRef: {name: redis, key: password}}}";
    let mut h = Harness::new(&(plugin("p", stores) + &services("shop", &["redis"])));
    let nothing = RedisLogin::Password { username: None, password: None };
    assert_eq!(server(&h, "p", "s").login, nothing);
    assert_eq!(h.problems(), ["P205 Plugin shop/p spec.capabilities.stores[0].redis.passwordRef.name"]);
    let before = h.config().plugins[&key("p")].clone();
    for value in ["hunter2", "hunter3"] {
        h.apply(&password(value));
        let login = RedisLogin::Password { username: None, password: Some(SecretValue::new(value.as_bytes())) };
        assert_eq!((server(&h, "p", "s").login, h.problems().len()), (login, 0));
        assert_eq!(h.output.summary, "1 plugin changed");
    }
    assert!(Arc::ptr_eq(&before, &h.config().plugins[&key("p")]));
    h.apply(&password("hunter4").replace("password:", "other:"));
    assert_eq!(server(&h, "p", "s").login, nothing);
    assert_eq!(h.problems(), ["P205 Plugin shop/p spec.capabilities.stores[0].redis.passwordRef.key"]);
    h.delete(Kind::Secret, "shop", "redis");
    assert_eq!(h.problems(), ["P205 Plugin shop/p spec.capabilities.stores[0].redis.passwordRef.name"]);
}

#[test]
fn what_contradicts_itself_is_no_store() {
    let redis = "ref: {name: redis, port: 8080}";
    for (store, field, is_given) in [
        ("{name: s, scope: Redis}".to_owned(), "redis", false),
        (format!("{{name: s, redis: {{{redis}}}}}"), "redis", false),
        (format!("{{name: s, scope: Process, redis: {{{redis}}}}}"), "redis", false),
        (format!("{{name: s, scope: Redis, quota: 1Mi, redis: {{{redis}}}}}"), "quota", true),
        (format!("{{name: s, scope: Redis, redis: {{{redis}, username: a}}}}"), "redis.passwordRef", false),
        (format!("{{name: s, scope: Redis, redis: {{{redis}, database: 65536}}}}"), "redis.database", false),
        (format!("{{name: s, scope: Redis, redis: {{{redis}, timeout: 11s}}}}"), "redis.timeout", true),
        (format!("{{name: s, scope: Redis, redis: {{{redis}, timeout: 0s}}}}"), "redis.timeout", true),
        (format!("{{name: s, scope: Redis, redis: {{{redis}, concurrency: 0}}}}"), "redis.concurrency", true),
        ("{name: s, scope: Redis, redis: {ref: {name: redis, port: 0}}}".to_owned(), "redis.ref.port", true),
        ("{name: s, scope: Redis, redis: {ref: {name: redis, port: 81}}}".to_owned(), "redis.ref", true),
        ("{name: s, scope: Redis, redis: {ref: {name: none, port: 80}}}".to_owned(), "redis.ref", true),
    ] {
        let h = Harness::new(&(plugin("p", &store) + &services("shop", &["redis"])));
        let problems = h.problems();
        assert_eq!(problems.len(), 1, "{store}: {problems:?}");
        assert!(problems[0].ends_with(&format!(" Plugin shop/p spec.capabilities.stores[0].{field}")), "{problems:?}");
        assert_eq!(grants(&h, "p").redis_stores.contains_key("s"), is_given, "{store}");
        assert!(!grants(&h, "p").stores.contains_key("s"));
        assert_eq!(backends(&h, "p").stores.contains_key("s"), is_given && !field.contains("ref"), "{store}");
    }
    // The first of a name counts, whatever it is.
    let h = Harness::new(&(plugin("p", &format!("{{name: limits}}, {PLAIN}")) + &services("shop", &["redis"])));
    assert_eq!(h.problems(), ["P110 Plugin shop/p spec.capabilities.stores[1].name"]);
    assert!(grants(&h, "p").redis_stores.is_empty() && backends(&h, "p").is_empty());
}

#[test]
fn a_redis_of_another_namespace_needs_a_grant() {
    let store = "{name: s, scope: Redis, redis: {ref: {name: redis, namespace: cache, port: 8080}}}";
    let mut h = Harness::new(&(plugin("p", store) + &services("cache", &["redis"])));
    assert_eq!(h.problems(), ["P203 Plugin shop/p spec.capabilities.stores[0].redis.ref"]);
    assert!(backends(&h, "p").stores.is_empty());
    h.apply("{apiVersion: gateway.networking.k8s.io/v1beta1, kind: ReferenceGrant, metadata: {name: g, namespace: cache}, spec: {from: [{group: sluice.dev, kind: Plugin, namespace: shop}], to: [{group: \"\", kind: Service}]}}");
    assert_eq!(h.problems(), Vec::<String>::new());
    assert_eq!(backends(&h, "p").stores["s"].service, NamespacedName::new("cache", "redis"));
}

#[test]
fn a_redis_is_spoken_to_over_tls_where_a_policy_says_so() {
    let policy = "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: BackendTLSPolicy, metadata: {name: t, namespace: shop}, spec: {targetRefs: [{group: \"\", kind: Service, name: redis}], validation: {hostname: redis.example, caCertificateRefs: [{group: \"\", kind: ConfigMap, name: ca}]}}}\n";
    let mut h = Harness::new(&(plugin("p", PLAIN) + &services("shop", &["redis"]) + policy + &ca_map("shop", "ca")));
    let tls = |h: &Harness| {
        let key = backends(h, "p").stores.get("limits").cloned()?;
        h.config().backends[&key].tls.as_ref().map(|tls| tls.hostname.to_string())
    };
    assert_eq!(tls(&h).as_deref(), Some("redis.example"));
    // One that can't be used: nothing is sent in the clear instead.
    h.delete(Kind::ConfigMap, "shop", "ca");
    assert_eq!((tls(&h), backends(&h, "p").stores.len()), (None, 0));
}

#[test]
fn plugins_that_name_a_store_alike_and_mean_another_are_warned() {
    let elsewhere = PLAIN.replace("8080}", "8080}, database: 1");
    let names = ["redis"];
    let of = |a: &str, b: &str| Harness::new(&(plugin("a", a) + &plugin("b", b) + &services("shop", &names)));
    assert_eq!(of(PLAIN, PLAIN).problems(), Vec::<String>::new());
    assert_eq!(of("{name: limits}", "{name: limits, quota: 1Mi}").problems(), Vec::<String>::new());
    for (a, b, field) in
        [(PLAIN, &*elsewhere, "stores[0]"), ("{name: limits}", PLAIN, "stores[0]"), (PLAIN, "{name: limits}", "stores")]
    {
        let h = of(a, b);
        assert_eq!(h.problems(), [format!("P110 Plugin shop/b spec.capabilities.{field}")]);
        assert_eq!(h.output.problems[0].severity, Severity::Warning);
    }
}
