//! Stores of plugins in a Redis that several gateways share, through the binary.

use crate::shop::{HOST, Shop, seen_field};
use rustix::process::Signal;
use sluice_tests::certificate::{Authority, Leaf};
use sluice_tests::objects::{NAMESPACE, http_route, join, plugin, plugin_on_route, route_to, service};
use sluice_tests::raw::Response;
use sluice_tests::{Redis, guests, ports, wait};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A Redis on a port of its own, and that port.
fn redis(arguments: &[&str]) -> (Redis, u16) {
    let port = ports::free();
    (Redis::start(&[&["--port", &port.to_string()], arguments].concat()), port)
}

/// `capabilities` of a Plugin with one store, `limits`; `more` is further YAML of the flow mapping `redis`.
fn capabilities(more: &str) -> String {
    format!(
        "  limits: {{runTime: 20ms, deadline: 10s}}\n  capabilities:\n    stores:\n    - {{name: limits, scope: Redis, redis: {{ref: {{name: redis, port: 80}}, timeout: 5s{more}}}}}\n"
    )
}

/// The route `/limited` with rate-limit, and `/free` without; `config` is that of the plugin.
fn limited(port: u16, more: &str, config: &str) -> String {
    let rules = |name: &str| {
        format!("  - matches: [{{path: {{value: /{name}}}}}]\n    backendRefs: [{{name: one, port: 80}}]\n")
    };
    join([
        http_route("limited", &[HOST], &rules("limited")),
        http_route("free", &[HOST], &rules("free")),
        service("redis", &[local(port)]),
        plugin("rate-limit", "rate-limit.wasm", &capabilities(more)),
        plugin_on_route("limits", "limited", "rate-limit", config),
    ])
}

async fn start(objects: &str) -> Shop {
    let shop = Shop::start(&["one"], "").await;
    shop.folder.write("rate-limit.wasm", std::fs::read(guests::shipped("rate-limit")).unwrap());
    shop.folder.write("keeper.wasm", std::fs::read(guests::module("keeper")).unwrap());
    shop.folder.write("more.yaml", objects);
    shop
}

/// A token bucket, refilled too slowly to matter; requests without a tenant are counted together.
fn bucket(requests: u32, more: &str) -> String {
    format!(
        "{{limits: [{{requests: {requests}, per: 24h, algorithm: TokenBucket, by: {{client: false, headers: [x-tenant]}}}}]{more}}}"
    )
}

fn thirty(more: &str) -> String {
    bucket(30, more)
}

/// Waits until the plugin counts.
async fn counts(shop: &Shop) {
    wait::until("the limit", || async {
        let answer = shop.get_with("/limited", "x-tenant: trial\r\n").await;
        answer.header("ratelimit").is_some().then_some(())
    })
    .await;
}

/// Asks until a problem says so: it is told once the plugin has tried.
async fn problem(shop: &Shop, wanted: &str) -> String {
    wait::until(wanted, || async {
        shop.get("/limited").await;
        let (_, problems) = shop.gateway.admin_get("/problems").await.ok()?;
        problems.contains(wanted).then_some(problems)
    })
    .await
}

fn passed(answers: &[Response]) -> usize {
    answers.iter().filter(|answer| answer.status == 200).count()
}

#[tokio::test]
async fn two_gateways_admit_as_many_as_the_limit_together() {
    let (_redis, port) = redis(&[]);
    let objects = limited(port, "", &thirty(""));
    let (one, other) = tokio::join!(start(&objects), start(&objects));
    tokio::join!(counts(&one), counts(&other));
    let send = async |shop: &Shop| {
        let requests = (0..40).map(|_| shop.get_with("/limited", "x-tenant: acme\r\n"));
        futures::future::join_all(requests).await
    };
    let (of_one, of_other) = tokio::join!(send(&one), send(&other));
    for answer in of_one.iter().chain(&of_other) {
        assert!([200, 429].contains(&answer.status), "{}", answer.text());
    }
    assert_eq!(passed(&of_one) + passed(&of_other), 30);
    for shop in [&one, &other] {
        assert_eq!(shop.get_with("/limited", "x-tenant: acme\r\n").await.status, 429);
        assert_eq!(shop.get_with("/limited", "x-tenant: other\r\n").await.status, 200);
        let labels = [r#"store="default/limits""#, r#"outcome="answered""#];
        assert!(shop.gateway.metric("sluice_plugin_store_calls_total", &labels).await > 40.0);
        assert_eq!(shop.gateway.metric("sluice_plugin_store_connections", &labels[..1]).await, 1.0);
        assert_eq!(shop.gateway.metric("sluice_plugin_calls_total", &[r#"outcome="failed""#]).await, 0.0);
    }
}

#[tokio::test]
async fn of_two_gateways_that_swap_one_wins() {
    let (_redis, port) = redis(&[]);
    let objects = join([
        route_to("shop", &[HOST], "one"),
        service("redis", &[local(port)]),
        plugin("keeper", "keeper.wasm", &capabilities("")),
        plugin_on_route("keeps", "shop", "keeper", "{}"),
    ]);
    let (one, other) = tokio::join!(start(&objects), start(&objects));
    let told = async |shop: &Shop, what: &str| {
        wait::until(what, || async {
            let answer = shop.get_with("/", &format!("x-do: {what}\r\n")).await;
            let told = (answer.status == 200).then(|| seen_field(&answer, "x-told"))?;
            told.filter(|told| !told.contains("refused"))
        })
        .await
    };
    tokio::join!(told(&one, "get limits leader"), told(&other, "get limits leader"));
    for round in 0..20 {
        let swap = async |shop: &Shop, name: &str| told(shop, &format!("swap limits leader-{round} - {name}")).await;
        let (won, lost) = tokio::join!(swap(&one, "one"), swap(&other, "other"));
        assert_ne!(won, lost);
        let leader = if won == "true" { r#"Some("one")"# } else { r#"Some("other")"# };
        let what = format!("get limits leader-{round}");
        assert_eq!((told(&one, &what).await.as_str(), told(&other, &what).await.as_str()), (leader, leader));
    }
    assert_eq!(told(&one, "set limits short 1 200").await, "ok");
    wait::until("the end of its time", || async { (told(&other, "get limits short").await == "None").then_some(()) })
        .await;
}

#[tokio::test]
async fn while_the_redis_is_away_the_plugin_does_as_it_is_told_and_everything_else_goes_on() {
    let (mut redis, port) = redis(&[]);
    let shop = start(&limited(port, "", &thirty(""))).await;
    counts(&shop).await;
    redis.kill();
    // Allow, the default: requests pass, uncounted.
    let uncounted = |answer: &Response| answer.status == 200 && answer.header("ratelimit").is_none();
    shop.until("requests that are not counted", "/limited", uncounted).await;
    let began = Instant::now();
    for _ in 0..40 {
        assert!(uncounted(&shop.get("/limited").await));
        assert_eq!(shop.get("/free").await.status, 200);
    }
    // None of them waited for the store's 5 s.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    // A connection that had just been made is told of first, as one that was closed at once.
    let problems = problem(&shop, "Redis default/redis:80 can't be used: connect: ").await;
    assert!(problems.contains("SLUICE-P410") && problems.contains("spec.capabilities.stores[0].redis"), "{problems}");
    let log = shop.gateway.log().join("\n");
    assert!(log.contains("a store of plugins can't reach its Redis"), "{log}");
    shop.folder.write("more.yaml", limited(port, "", &thirty(", onStoreFailure: Deny")));
    shop.until("refusals", "/limited", |answer| answer.status == 503).await;
    assert_eq!(shop.get("/free").await.status, 200);
    redis.start_again();
    counts(&shop).await;
    let answers = futures::future::join_all((0..40).map(|_| shop.get("/limited"))).await;
    assert_eq!((passed(&answers), answers.iter().filter(|answer| answer.status == 429).count()), (30, 10));
    wait::until("the end of the problem", || async {
        let (_, problems) = shop.gateway.admin_get("/problems").await.ok()?;
        (!problems.contains("SLUICE-P410")).then_some(())
    })
    .await;
    let labels = [r#"store="default/limits""#, r#"outcome="connected""#];
    assert_eq!(shop.gateway.metric("sluice_plugin_store_connects_total", &labels).await, 2.0);
}

#[tokio::test]
async fn a_redis_that_hangs_holds_up_nobody_for_longer_than_a_calls_time() {
    let (redis, port) = redis(&[]);
    let objects = limited(port, "", &thirty("")).replace("timeout: 5s", "timeout: 100ms");
    let shop = start(&objects).await;
    counts(&shop).await;
    let signal = |signal| {
        let id = rustix::process::Pid::from_raw(redis.id().try_into().unwrap()).unwrap();
        rustix::process::kill_process(id, signal).unwrap();
    };
    signal(Signal::STOP);
    shop.until("uncounted requests", "/limited", |answer| answer.header("ratelimit").is_none()).await;
    problem(&shop, "3 calls in a row got no answer in time").await;
    assert_eq!(shop.get("/free").await.status, 200);
    signal(Signal::CONT);
    counts(&shop).await;
}

fn password(value: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: redis, namespace: {NAMESPACE}}}\nstringData: {{password: {value}}}\n"
    )
}

#[tokio::test]
async fn a_wrong_password_is_told_and_the_right_one_takes_effect_without_a_restart() {
    let (redis, port) = redis(&["--requirepass", "hunter2"]);
    let with = |secret: String| {
        join([limited(port, ", passwordRef: {name: redis, key: password}", &thirty(", onStoreFailure: Deny")), secret])
    };
    let shop = start(&with(String::new())).await;
    shop.until("refusals", "/limited", |answer| answer.status == 503).await;
    let problems = problem(&shop, "SLUICE-P410").await;
    assert!(problems.contains("login: the Secret of its password, or the key in it, is not there"), "{problems}");
    assert!(problems.contains("spec.capabilities.stores[0].redis.passwordRef.name"), "{problems}");
    shop.folder.write("more.yaml", with(password("hunter1")));
    shop.until("refusals", "/limited", |answer| answer.status == 503).await;
    problem(&shop, "login: Password authentication failed").await;
    assert_eq!(shop.get("/free").await.status, 200);
    let builds = shop.gateway.metric("sluice_plugin_builds_total", &[]).await;
    shop.folder.write("more.yaml", with(password("hunter2")));
    counts(&shop).await;
    assert_eq!(shop.gateway.metric("sluice_plugin_builds_total", &[]).await, builds, "nothing was built for it");
    // Who is connected stays; who comes later needs the new one.
    assert!(redis.ask("AUTH hunter2\r\nCONFIG SET requirepass hunter3").unwrap().contains("+OK\r\n+OK"));
    shop.folder.write("more.yaml", with(password("hunter3")));
    wait::until("a connection with the new password", || async {
        let answer = shop.get_with("/limited", "x-tenant: later\r\n").await;
        let labels = [r#"store="default/limits""#, r#"outcome="connected""#];
        let connects = shop.gateway.metric("sluice_plugin_store_connects_total", &labels).await;
        (answer.status == 200 && connects >= 2.0).then_some(())
    })
    .await;
    let (_, config) = shop.gateway.admin_get("/config").await.unwrap();
    assert!(config.contains("redis_stores") && !config.contains("hunter"), "{config}");
    assert!(!shop.gateway.log().join("\n").contains("hunter"));
}

/// A Redis that speaks TLS alone, as `leaf` says; the folder holds its files.
fn redis_over_tls(leaf: &Leaf, authority: &Authority) -> (Redis, u16, tempfile::TempDir) {
    let (folder, port) = (tempfile::tempdir().unwrap(), ports::free());
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let (certificate, key) = (file("tls.crt", &leaf.certificate_pem), file("tls.key", &leaf.key_pem));
    let authority = file("ca.crt", &authority.pem());
    let tls = port.to_string();
    let arguments = [
        &["--port", "0", "--tls-port", &tls, "--tls-auth-clients", "no"][..],
        &["--tls-cert-file", &certificate, "--tls-key-file", &key, "--tls-ca-cert-file", &authority],
    ];
    (Redis::start(&arguments.concat()), port, folder)
}

/// What a BackendTLSPolicy says of the Redis: that it has this name, by this authority.
fn trusts(authority: &Authority, hostname: &str) -> String {
    let ca: String = authority.pem().lines().map(|line| format!("    {line}\n")).collect();
    join([
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: ca, namespace: {NAMESPACE}}}\ndata:\n  ca.crt: |\n{ca}"
        ),
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: redis, namespace: {NAMESPACE}}}\nspec:\n  targetRefs: [{{group: \"\", kind: Service, name: redis}}]\n  validation: {{hostname: {hostname}, caCertificateRefs: [{{group: \"\", kind: ConfigMap, name: ca}}]}}\n"
        ),
    ])
}

#[tokio::test]
async fn a_redis_is_spoken_to_over_tls_where_its_service_says_so() {
    let (authority, stranger) = (Authority::new("redis authority"), Authority::new("another authority"));
    let (_redis, port, _files) = redis_over_tls(&authority.leaf(&["redis.example"]), &authority);
    let objects = limited(port, "", &thirty(", onStoreFailure: Deny"));
    // In the clear nobody answers there.
    let shop = start(&objects).await;
    shop.until("refusals", "/limited", |answer| answer.status == 503).await;
    problem(&shop, "SLUICE-P410").await;
    for (policy, reason) in
        [(trusts(&stranger, "redis.example"), "certificate"), (trusts(&authority, "other.example"), "certificate")]
    {
        shop.folder.write("more.yaml", join([objects.clone(), policy]));
        wait::until("the reason", || async {
            let answer = shop.get("/limited").await;
            let (_, problems) = shop.gateway.admin_get("/problems").await.ok()?;
            (answer.status == 503 && problems.contains("connect: ") && problems.contains(reason)).then_some(())
        })
        .await;
    }
    shop.folder.write("more.yaml", join([objects, trusts(&authority, "redis.example")]));
    counts(&shop).await;
}

#[tokio::test]
async fn a_store_follows_its_service_to_another_redis() {
    let ((one, first), (other, second)) = (redis(&[]), redis(&[]));
    let shop = start(&limited(first, "", &bucket(1_000_000, ""))).await;
    counts(&shop).await;
    shop.folder.write("more.yaml", limited(second, "", &bucket(1_000_000, "")));
    wait::until("counts in the other one", || async {
        assert_eq!(shop.get("/limited").await.status, 200);
        (other.ask("DBSIZE").unwrap() == ":1\r\n").then_some(())
    })
    .await;
    wait::until("the end of the first connection", || async {
        (one.ask("CLIENT LIST").unwrap().matches("id=").count() == 1).then_some(())
    })
    .await;
    // Without an endpoint there is a reason as well.
    let nowhere = limited(second, "", &bucket(1_000_000, "")).replace("ready: true", "ready: false");
    shop.folder.write("more.yaml", nowhere);
    wait::until("the reason", || async {
        assert_eq!(shop.get("/limited").await.status, 200);
        let (_, problems) = shop.gateway.admin_get("/problems").await.ok()?;
        problems.contains("can't be used: no-endpoint").then_some(())
    })
    .await;
}
