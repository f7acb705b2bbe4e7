//! Stores that replicas share, against a real Redis.

use crate::redis::Redis;
use crate::setup::{Host, guest, header, plugin, pooled, use_of};
use futures::FutureExt;
use futures::future::BoxFuture;
use rustix::process::{Pid, Signal, kill_process};
use sluice_model::object::NamespacedName;
use sluice_model::plugin::{Grants, PluginSpec, RedisGrant, RedisLogin, RedisServer, SecretValue, StoreGrant};
use sluice_model::{Code, Problem};
use sluice_wasm::{
    AttributeValue, Configured, Exchange, PlainRequest, StoreConnection, StoreError, StoreErrorKind, StoreServers,
    Summary,
};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};
use tokio::net::UnixStream;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Connects to one socket, whatever the store.
struct Socket {
    path: PathBuf,
    is_current: Arc<AtomicBool>,
}

impl StoreServers for Socket {
    fn connect(
        &self,
        namespace: &Arc<str>,
        _: &Arc<str>,
        _: &RedisServer,
    ) -> BoxFuture<'static, Result<StoreConnection, StoreError>> {
        assert_eq!(&**namespace, "shop");
        let (path, is_current) = (self.path.clone(), self.is_current.clone());
        async move {
            let stream = UnixStream::connect(&path).await;
            let io = stream.map_err(|error| StoreError::new(StoreErrorKind::Connect, error.to_string()))?;
            Ok(StoreConnection {
                io: Box::new(io),
                address: path.display().to_string(),
                is_current: Box::new(move || is_current.load(SeqCst)),
                held: Box::new(()),
            })
        }
        .boxed()
    }
}

fn keeper() -> PluginSpec {
    let mut spec = PluginSpec { redis_stores: true, ..plugin("keeper", guest("keeper")) };
    // Tests share their cores.
    spec.limits.deadline = PATIENCE;
    spec
}

fn server() -> RedisServer {
    RedisServer {
        service: NamespacedName::new("cache", "redis"),
        port: 6379,
        login: RedisLogin::Nobody,
        database: 0,
        timeout: Duration::from_secs(10),
        concurrency: RedisServer::DEFAULT_CONCURRENCY,
    }
}

fn in_redis(name: &str, server: RedisServer) -> Grants {
    let grant = RedisGrant { server: server.into(), field: "spec.capabilities.stores[0]".into() };
    Grants { redis_stores: [(name.into(), grant)].into(), ..Grants::default() }
}

/// A host with the keeper, whose stores are where `redis` is.
struct Replica {
    host: Host,
    version: Arc<Configured>,
    is_current: Arc<AtomicBool>,
}

impl Replica {
    async fn of(redis: &Redis, spec: &PluginSpec, grants: &Grants) -> Replica {
        let host = Host::new();
        let is_current = Arc::new(AtomicBool::new(true));
        host.host.set_store_servers(Socket { path: redis.socket(), is_current: is_current.clone() });
        let mut replica = Replica { version: grant(&host, spec, grants).await, host, is_current };
        replica.version = replica.host.current(&use_of("keeper", "{}").key()).unwrap();
        replica
    }

    async fn start(redis: &Redis) -> Replica {
        Replica::of(redis, &keeper(), &in_redis("s", server())).await
    }

    async fn told(&self, what: &str) -> String {
        told(&self.version, what).await
    }

    /// Asks until the answer is one that is wanted.
    async fn until(&self, what: &str, is_wanted: impl Fn(&str) -> bool) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let told = self.told(what).await;
            if is_wanted(&told) {
                return told;
            }
            assert!(Instant::now() < until, "{what}: {told}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn calls(&self, outcome: &str) -> f64 {
        self.host.metric(&format!(r#"sluice_plugin_store_calls_total{{store="shop/s",outcome="{outcome}"}}"#))
    }

    fn connects(&self, outcome: &str) -> f64 {
        self.host.metric(&format!(r#"sluice_plugin_store_connects_total{{store="shop/s",outcome="{outcome}"}}"#))
    }

    fn connections(&self) -> f64 {
        self.host.metric(r#"sluice_plugin_store_connections{store="shop/s"}"#)
    }

    fn unreachable(&self) -> Option<Problem> {
        self.host.host.problems().into_iter().find(|problem| problem.code == Code::StoreUnreachable)
    }
}

async fn grant(host: &Host, spec: &PluginSpec, grants: &Grants) -> Arc<Configured> {
    let plugin_use = use_of("keeper", "{}");
    host.grant(&[spec], &[&plugin_use], &[(spec.key.clone(), grants.clone())]).await;
    host.current(&plugin_use.key()).unwrap_or_else(|| panic!("{:?}", host.host.problems()))
}

async fn told(version: &Arc<Configured>, what: &str) -> String {
    let mut request = PlainRequest::get("/");
    request.headers.insert("x-do", what.parse().unwrap());
    let mut exchange = Exchange::new(request);
    version.begin().on_request(&mut exchange).await.unwrap();
    header(&exchange, "x-told").unwrap()
}

fn signal(redis: &Redis, signal: Signal) {
    let id = Pid::from_raw(redis.id().try_into().unwrap()).unwrap();
    kill_process(id, signal).unwrap();
}

#[tokio::test]
async fn a_store_in_a_redis_does_what_one_of_the_process_does() {
    let redis = Redis::start(&[]);
    for instance in [keeper(), pooled(keeper())] {
        assert!(redis.ask("FLUSHALL").unwrap().starts_with("+OK"));
        let stores = [("here".into(), StoreGrant { quota: StoreGrant::DEFAULT_QUOTA })].into();
        let both = Replica::of(&redis, &instance, &Grants { stores, ..in_redis("away", server()) }).await;
        for what in [
            "open S",
            "get S a",
            "set S a 1;get S a;set S a 2 60000;get S a;set S a 3;get S a",
            "remove S a;remove S a;get S a",
            "swap S a 1 2;get S a;swap S a - 1;swap S a - 2;swap S a 2 3;swap S a 1 2;get S a;remove S a",
            "counter S a;increment S a 2;increment S a -5;counter S a;get S a;remove S a;counter S a",
            "increment S b 9223372036854775807;increment S b 1;counter S b;increment S b -9223372036854775807",
            "increment S c -9223372036854775808;increment S c -1;counter S c",
            "increment S d 0 60000;counter S d",
            // One key names a value, a counter and a bucket.
            "set S a 7;increment S a 1;take S a 2 1 3600000 1;get S a;counter S a;take S a 2 1 3600000 1",
            "take S a 2 1 3600000 1;take S a 2 1 3600000 0;take S a 2 1 3600000 3;take S a 2 0 3600000 1",
            "take S e 5 0 1000 5;take S e 5 0 1000 1;take S e 5 0 1000 0;take S e 9 0 1000 0",
            "take S f 0 1 1000 1;take S f 1 1 0 1;take S f 1 1 40000000000000 1;take S f 3 1 31536000000 2",
            "take S g 10 1 3600000 10;take S g 4 1 3600000 0;take S g 100 1 3600000 1",
            "set S a 1 0;increment S z 1 0;key S 0;key S 512;key S 513;fill S a 65536;fill S a 65537",
        ] {
            let here = both.told(&what.replace('S', "here")).await;
            let away = both.told(&what.replace('S', "away")).await;
            assert_eq!(here, away, "{what}");
        }
        let not_given = both.told("open other;get other a").await;
        assert_eq!(not_given.matches("capabilities.stores has no `other`").count(), 2, "{not_given}");
        let keys = redis.ask("KEYS sluice:shop:away:*").unwrap();
        for kind in ["value:a", "counter:b", "tokens:e"] {
            assert!(keys.contains(&format!("sluice:shop:away:{kind}\r\n")), "{keys}");
        }
        assert_eq!(redis.ask("DBSIZE").unwrap(), redis_count(&keys), "no key is named otherwise");
    }
}

/// As `DBSIZE` tells it.
fn redis_count(keys: &str) -> String {
    format!(":{}\r\n", keys.matches("sluice:").count())
}

#[tokio::test]
async fn replicas_share_a_limit_to_the_last_token() {
    let redis = Redis::start(&[]);
    let (one, other) = (Replica::start(&redis).await, Replica::start(&redis).await);
    let count = async |replica: &Replica| {
        let calls = (0..40).map(|_| replica.told("take s b 50 0 1000 1;increment s all 1 60000"));
        let told = futures::future::join_all(calls).await;
        told.iter().filter(|told| told.starts_with("true")).count()
    };
    let (of_one, of_other) = tokio::join!(count(&one), count(&other));
    assert_eq!(of_one + of_other, 50);
    assert_eq!([one.told("counter s all").await, other.told("counter s all").await], ["80", "80"]);
    let (won, lost) = tokio::join!(one.told("swap s leader - one"), other.told("swap s leader - other"));
    assert_ne!(won, lost);
    let leader = if won == "true" { r#"Some("one")"# } else { r#"Some("other")"# };
    assert_eq!([one.told("get s leader").await, other.told("get s leader").await], [leader, leader]);
    // One connection each, whatever was asked.
    assert_eq!([one.connects("connected"), other.connects("connected")], [1.0, 1.0]);
}

#[tokio::test]
async fn what_has_a_time_to_live_runs_out_on_the_server() {
    let redis = Redis::start(&[]);
    let replica = Replica::start(&redis).await;
    assert_eq!(replica.told("set s a 1 300;swap s b - 1;set s b 2 300;increment s c 3 300").await, "ok; true; ok; 3");
    replica.until("get s a;get s b;counter s c", |told| told == "None; None; 0").await;
    // A counter keeps the time of whoever began it.
    assert_eq!(replica.told("increment s d 1 60000;increment s d 1 100000000").await, "1; 2");
    let left = redis.ask("PTTL sluice:shop:s:counter:d").unwrap();
    let left: i64 = left.trim_matches([':', '\r', '\n']).parse().unwrap();
    assert!((1..=60_000).contains(&left), "{left}");
    // A bucket is kept for as long as it is not full, and no longer.
    assert_eq!(replica.told("take s t 2 1 200 2").await, "true 0 wait");
    let until = Instant::now() + PATIENCE;
    while redis.ask("EXISTS sluice:shop:s:tokens:t").unwrap() != ":0\r\n" {
        assert!(Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(replica.told("take s t 2 1 200 2").await, "true 0 wait");
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_sent_again() {
    let redis = Redis::start(&[]);
    let replica = Replica::start(&redis).await;
    assert_eq!(replica.told("increment s a 1;swap s a - 1;take s a 2 0 1 1").await, "1; true; true 1 wait");
    assert!(redis.ask("SCRIPT FLUSH").unwrap().starts_with("+OK"));
    assert_eq!(replica.told("increment s a 1;swap s a 1 2;take s a 2 0 1 1").await, "2; true; true 0 never");
    assert_eq!(replica.calls("answered"), 6.0);
}

#[tokio::test]
async fn while_a_redis_is_away_calls_fail_at_once_and_it_is_found_again() {
    let mut redis = Redis::start(&[]);
    let replica = Replica::start(&redis).await;
    assert_eq!((replica.told("set s a 1").await.as_str(), replica.connections()), ("ok", 1.0));
    assert_eq!(replica.unreachable(), None);
    redis.kill();
    let refused = replica.until("get s a", |told| told.contains("connect: ")).await;
    assert!(refused.starts_with("refused: Redis cache/redis:6379 can't be used: connect: "), "{refused}");
    let problem = replica.unreachable().expect("a problem of the Plugin");
    assert_eq!(problem.object.unwrap().to_string(), "Plugin shop/keeper");
    assert_eq!(problem.field, "spec.capabilities.stores[0].redis");
    assert!(problem.message.contains("Redis cache/redis:6379 can't be used: connect"), "{}", problem.message);
    assert_eq!(replica.connections(), 0.0);
    assert!(replica.calls("connect") >= 1.0 && replica.connects("connect") >= 1.0);
    redis.start_again();
    replica.until("set s a 2;get s a", |told| told == r#"ok; Some("2")"#).await;
    assert_eq!(replica.unreachable(), None);
    assert_eq!((replica.connections(), replica.connects("connected")), (1.0, 2.0));
}

#[tokio::test]
async fn a_redis_that_hangs_costs_each_call_its_time_until_it_is_given_up() {
    let redis = Redis::start(&[]);
    let grants = in_redis("s", RedisServer { timeout: Duration::from_millis(50), ..server() });
    let replica = Replica::of(&redis, &keeper(), &grants).await;
    replica.until("set s a 1", |told| told == "ok").await;
    signal(&redis, Signal::STOP);
    let told = replica.told("get s a").await;
    assert!(told.contains("timeout: no answer in time"), "{told}");
    replica.until("get s a", |told| told.contains("3 calls in a row got no answer in time")).await;
    assert_eq!(replica.connections(), 0.0);
    signal(&redis, Signal::CONT);
    replica.until("get s a", |told| told == r#"Some("1")"#).await;
}

#[tokio::test]
async fn calls_above_the_limit_fail_at_once() {
    let redis = Redis::start(&[]);
    let grants = in_redis("s", RedisServer { concurrency: 2, ..server() });
    let replica = Replica::of(&redis, &keeper(), &grants).await;
    assert_eq!(replica.told("set s a 1").await, "ok");
    signal(&redis, Signal::STOP);
    let held = async { tokio::join!(replica.told("get s a"), replica.told("get s a")) };
    let above = async {
        // The two are on their way when the third is refused.
        let told = replica.until("get s a", |told| told.contains("overloaded")).await;
        signal(&redis, Signal::CONT);
        told
    };
    let (held, told) = tokio::join!(held, above);
    assert_eq!(held, (r#"Some("1")"#.to_owned(), r#"Some("1")"#.to_owned()));
    assert!(told.contains("overloaded: 2 calls are under way"), "{told}");
    assert!(replica.calls("overloaded") >= 1.0);
}

#[tokio::test]
async fn who_is_not_let_in_is_told_why_and_a_new_password_takes_effect() {
    // No more than docs/plugins.md says that it needs.
    let user = ["--user", "shop", "on", ">hunter2", "~sluice:shop:*"];
    let may =
        ["+get", "+set", "+del", "+exists", "+incrby", "+pexpire", "+time", "+eval", "+evalsha", "+select", "+ping"];
    let redis = Redis::start(&[&user[..], &may, &["--requirepass", "other"]].concat());
    let login = |username: Option<&str>, password: Option<&str>| RedisServer {
        login: RedisLogin::Password {
            username: username.map(Into::into),
            password: password.map(|text| SecretValue::new(text.as_bytes())),
        },
        ..server()
    };
    for (server, reason) in [
        (server(), "login: "),
        (login(None, Some("wrong")), "login: "),
        (login(Some("shop"), Some("wrong")), "login: "),
        (login(Some("nobody"), Some("hunter2")), "login: "),
        (login(Some("shop"), None), "login: the Secret of its password, or the key in it, is not there"),
    ] {
        let replica = Replica::of(&redis, &keeper(), &in_redis("s", server)).await;
        let told = replica.told("get s a").await;
        assert!(told.contains(reason) && !told.contains("wrong") && !told.contains("hunter2"), "{told}");
        let problem = replica.unreachable().expect("a problem of the Plugin").to_string();
        assert!(problem.contains(reason) && !problem.contains("hunter2"), "{problem}");
        assert!(replica.connects("login") >= 1.0);
        // The version that runs, with what the Plugin says by now.
        let builds = replica.host.metric("sluice_plugin_builds_total");
        for right in [login(Some("shop"), Some("hunter2")), login(None, Some("other"))] {
            grant(&replica.host, &keeper(), &in_redis("s", right)).await;
            let all = "set s a 1 60000;get s a;swap s a 1 2;remove s a;increment s b 1 60000;counter s b;take s c 2 1 60000 1";
            let told = replica.told(all).await;
            assert!(told.starts_with(r#"ok; Some("1"); true; true; "#) && !told.contains("refused"), "{told}");
        }
        assert_eq!(replica.unreachable(), None);
        assert_eq!(replica.host.metric("sluice_plugin_builds_total"), builds);
    }
}

#[tokio::test]
async fn a_database_of_ones_own_is_another_store() {
    let redis = Redis::start(&[]);
    let of = |database| in_redis("s", RedisServer { database, ..server() });
    let (zero, three) = (Replica::of(&redis, &keeper(), &of(0)).await, Replica::of(&redis, &keeper(), &of(3)).await);
    assert_eq!((zero.told("set s a 1").await, three.told("get s a").await), ("ok".to_owned(), "None".to_owned()));
    let none = Replica::of(&redis, &keeper(), &of(99)).await;
    let told = none.told("get s a").await;
    assert!(told.contains("refused: "), "{told}");
}

#[tokio::test]
async fn a_connection_that_leads_elsewhere_by_now_is_left_for_another() {
    let redis = Redis::start(&[]);
    let replica = Replica::start(&redis).await;
    assert_eq!(replica.told("set s a 1").await, "ok");
    replica.is_current.store(false, SeqCst);
    let until = Instant::now() + PATIENCE;
    while replica.connections() > 0.0 {
        assert!(Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    replica.is_current.store(true, SeqCst);
    assert_eq!(replica.told("get s a").await, r#"Some("1")"#);
    assert_eq!((replica.connections(), replica.connects("connected")), (1.0, 2.0));
}

#[tokio::test]
async fn the_log_phase_may_wait_for_a_redis_too() {
    let redis = Redis::start(&[]);
    let replica = Replica::start(&redis).await;
    let mut exchange = Exchange::new(PlainRequest::get("/").header("x-do-log", "increment s bytes 7"));
    let mut invocation = replica.version.begin();
    invocation.on_request(&mut exchange).await.unwrap();
    invocation.on_log(&mut exchange, Summary::default()).await.unwrap();
    let said = exchange.attributes.get("keeper.log").cloned();
    assert_eq!(said, Some(AttributeValue::String("7".into())));
    assert_eq!(redis.ask("GET sluice:shop:s:counter:bytes").unwrap(), "$1\r\n7\r\n");
}

#[tokio::test]
async fn a_plugin_without_a_store_in_a_redis_never_waits() {
    let redis = Redis::start(&[]);
    let here =
        Grants { stores: [("s".into(), StoreGrant { quota: StoreGrant::DEFAULT_QUOTA })].into(), ..Grants::default() };
    let spec = PluginSpec { redis_stores: false, ..keeper() };
    let replica = Replica::of(&redis, &spec, &here).await;
    let at_once = told(&replica.version, "set s a 1;get s a").now_or_never();
    assert_eq!(at_once.as_deref(), Some(r#"ok; Some("1")"#));
    // The store moves: the version that runs can't wait and says so, the next one finds it.
    let before = replica.version.clone();
    let after = grant(&replica.host, &keeper(), &in_redis("s", server())).await;
    let said = told(&before, "get s a").await;
    assert!(said.contains("the store `s` is in a Redis now"), "{said}");
    assert!(told(&after, "get s a").now_or_never().is_none(), "it waits");
    assert_eq!(told(&after, "get s a").await, "None");
}

#[tokio::test]
async fn a_store_that_no_plugin_names_any_more_is_gone_with_its_connection_and_series() {
    let redis = Redis::start(&[]);
    let replica = Replica::start(&redis).await;
    assert_eq!(replica.told("set s a 1").await, "ok");
    grant(&replica.host, &keeper(), &Grants::default()).await;
    let said = replica.told("get s a").await;
    assert!(said.contains("capabilities.stores has no `s`"), "{said}");
    assert!(!replica.host.metrics().contains(r#"store="shop/s""#));
    let until = Instant::now() + PATIENCE;
    // The one that asks.
    while redis.ask("CLIENT LIST").unwrap().matches("id=").count() > 1 {
        assert!(Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn configure_can_use_none_of_them() {
    let redis = Redis::start(&[]);
    let host = Host::new();
    host.host.set_store_servers(Socket { path: redis.socket(), is_current: Arc::new(AtomicBool::new(true)) });
    let plugin_use = use_of("keeper", r#"{"inConfigure":"open s"}"#);
    let spec = keeper();
    host.grant(&[&spec], &[&plugin_use], &[(spec.key.clone(), in_redis("s", server()))]).await;
    assert!(host.problem().message.contains("configure can't use stores"), "{}", host.problem().message);
}
