//! What a guest can't do to the gateway, and what a failed call leaves behind.

use crate::setup::{Host, PROBE, guest, header, options, plugin, pooled, probe, short_probe, told};
use bytes::Bytes;
use sluice_model::Reason;
use sluice_model::plugin::CircuitBreaker;
use sluice_wasm::{Configured, Decision, Exchange, HostOptions, PlainRequest, PluginError, Summary, TrapKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The kind of trap that `what` ends in. The request must come back, so that an open plugin can be skipped.
async fn trap(version: &Arc<Configured>, what: &'static str) -> TrapKind {
    let mut exchange = told(what);
    let error = version.begin().on_request(&mut exchange).await.expect_err(what);
    assert_eq!(header(&exchange, "x-do").as_deref(), Some(what));
    assert_eq!(error.reason(), Reason::PluginFailed);
    match error {
        PluginError::Trap { kind, phase, .. } => {
            assert_eq!(phase, "request_headers");
            kind
        }
        other => panic!("{what}: {other}"),
    }
}

async fn serves(version: &Arc<Configured>) {
    let decision = version.begin().on_request(&mut told("")).await.expect("the next request is served");
    assert!(matches!(decision, Decision::Continue));
}

#[tokio::test]
async fn each_way_to_fail_is_told_apart_and_the_next_request_is_served() {
    let host = Host::new();
    for mut spec in [probe(), pooled(probe())] {
        spec.limits.run_time = Duration::from_secs(1);
        spec.limits.deadline = Duration::from_secs(60);
        let version = host.ready(&spec, PROBE).await;
        assert_eq!(version.mode(), spec.instance);
        serves(&version).await;
        for (what, kind) in [
            ("trap", TrapKind::Panic),
            ("allocate", TrapKind::Memory),
            ("bad-status", TrapKind::Contract),
            ("loop", TrapKind::RunTime),
        ] {
            assert_eq!(trap(&version, what).await, kind, "{what}");
            serves(&version).await;
        }
        // Which of the two stacks ends first is the compiler's choice.
        assert!(matches!(trap(&version, "recurse").await, TrapKind::Stack | TrapKind::Fault));
        serves(&version).await;
    }
    assert_eq!(host.metric(r#"sluice_plugin_traps_total{plugin="shop/probe",kind="memory"}"#), 2.0);
    let failed = r#"sluice_plugin_calls_total{plugin="shop/probe",phase="request_headers",outcome="failed"}"#;
    assert_eq!(host.metric(failed), 10.0);
}

#[tokio::test]
async fn a_decision_to_read_the_body_twice_breaks_the_contract() {
    let host = Host::new();
    let version = host.ready(&probe(), PROBE).await;
    let (mut exchange, mut invocation) = (told("read"), version.begin());
    invocation.on_request(&mut exchange).await.unwrap();
    let error = invocation.on_request_body(&mut exchange, Bytes::from_static(b"read")).await.unwrap_err();
    assert!(matches!(error, PluginError::Trap { kind: TrapKind::Contract, .. }), "{error}");
}

#[tokio::test]
async fn a_failure_in_the_log_phase_concerns_nobody_else() {
    let host = Host::new();
    let version = host.ready(&probe(), PROBE).await;
    let mut exchange = Exchange::new(PlainRequest::get("/").header("x-do-log", "trap"));
    assert!(version.begin().on_log(&mut exchange, Summary::default()).await.is_err());
    assert!(exchange.request().is_some());
    serves(&version).await;
}

#[tokio::test]
async fn instances_above_the_plugins_concurrency_are_refused_until_one_is_free() {
    let host = Host::new();
    let mut spec = probe();
    spec.limits.concurrency = 2;
    let version = host.ready(&spec, PROBE).await;
    let mut held = [version.begin(), version.begin()];
    for invocation in &mut held {
        // It has a response phase, so it keeps its instance.
        invocation.on_request(&mut told("")).await.unwrap();
    }
    let error = version.begin().on_request(&mut told("")).await.unwrap_err();
    assert!(matches!(error, PluginError::Busy { limit: 2, .. }), "{error}");
    assert_eq!(error.reason(), Reason::PluginOverloaded);
    held[0].release();
    serves(&version).await;
    let busy = r#"sluice_plugin_calls_total{plugin="shop/probe",phase="request_headers",outcome="busy"}"#;
    assert_eq!(host.metric(busy), 1.0);
}

#[tokio::test]
async fn pooled_instances_are_free_between_phases() {
    let host = Host::new();
    let mut spec = pooled(probe());
    spec.limits.concurrency = 1;
    let version = host.ready(&spec, PROBE).await;
    let mut waiting = version.begin();
    waiting.on_request(&mut told("")).await.unwrap();
    serves(&version).await;
}

#[tokio::test]
async fn a_pool_that_is_full_refuses_without_harm() {
    let host = Host::with(HostOptions { instances: 3, ..options() });
    let version = host.ready(&probe(), PROBE).await;
    let mut held: Vec<_> = (0..3).map(|_| version.begin()).collect();
    for invocation in &mut held {
        invocation.on_request(&mut told("")).await.unwrap();
    }
    let mut exchange = told("");
    let error = version.begin().on_request(&mut exchange).await.unwrap_err();
    assert!(matches!(error, PluginError::PoolFull { .. }), "{error}");
    assert!(exchange.request().is_some());
    held.clear();
    serves(&version).await;
}

#[tokio::test]
async fn idle_instances_leave_three_quarters_of_the_pool_to_others() {
    let host = Host::with(HostOptions { instances: 8, ..options() });
    let spec = pooled(probe());
    let configs = [0, 1, 2, 3].map(|n| format!(r#"{{"name":"number {n}"}}"#));
    let uses = configs.each_ref().map(|config| crate::setup::use_of("probe", config));
    host.ensure(&[&spec], &uses.each_ref()).await;
    let instances = || host.metric(r#"sluice_plugin_instances{plugin="shop/probe"}"#);
    for plugin_use in &uses {
        serves(&host.current(&plugin_use.key()).unwrap()).await;
    }
    assert_eq!(instances(), 2.0);
    // A version that goes gives its places back.
    host.ensure(&[&spec], &[&uses[3]]).await;
    assert_eq!(instances(), 0.0);
    serves(&host.current(&uses[3].key()).unwrap()).await;
    assert_eq!(instances(), 1.0);
}

#[tokio::test]
async fn a_plugin_that_loops_is_run_aside_and_its_neighbour_is_not() {
    let host = Host::new();
    let mut other = probe();
    other.key = crate::setup::key("other");
    let looping = short_probe();
    let uses = [crate::setup::use_of("probe", PROBE), crate::setup::use_of("other", PROBE)];
    host.ensure(&[&looping, &other], &[&uses[0], &uses[1]]).await;
    let (looping, other) = (host.current(&uses[0].key()).unwrap(), host.current(&uses[1].key()).unwrap());
    let aside = |plugin: &str| host.metric(&format!("sluice_plugin_aside_total{{plugin=\"shop/{plugin}\"}}"));
    assert_eq!(trap(&looping, "loop").await, TrapKind::RunTime);
    assert_eq!(aside("probe"), 0.0);
    // From now on elsewhere: with the same answers, limits and phases.
    assert_eq!(trap(&looping, "loop").await, TrapKind::RunTime);
    assert_eq!(trap(&looping, "trap").await, TrapKind::Panic);
    serves(&looping).await;
    let (mut exchange, mut invocation) = (told("read"), looping.begin());
    assert!(matches!(invocation.on_request(&mut exchange).await.unwrap(), Decision::ReadBody(_)));
    invocation.on_request_body(&mut exchange, Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(header(&exchange, "x-body").as_deref(), Some("x"));
    assert_eq!(aside("probe"), 5.0);
    serves(&other).await;
    assert_eq!(aside("other"), 0.0);
}

#[tokio::test]
async fn one_plugin_cannot_take_the_instances_of_another() {
    let host = Host::with(HostOptions { instances: 16, ..options() });
    let mut other = probe();
    other.key = crate::setup::key("other");
    let uses = [crate::setup::use_of("probe", PROBE), crate::setup::use_of("other", PROBE)];
    host.ensure(&[&probe(), &other], &[&uses[0], &uses[1]]).await;
    let (greedy, other) = (host.current(&uses[0].key()).unwrap(), host.current(&uses[1].key()).unwrap());
    let mut held = Vec::new();
    let error = loop {
        let mut invocation = greedy.begin();
        match invocation.on_request(&mut told("")).await {
            Ok(_) => held.push(invocation),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, PluginError::PoolFull { .. }), "{error}");
    assert_eq!(error.reason(), Reason::PluginOverloaded);
    // Of 12 in use half are divided: 3 each; the other 6 went to whoever came first.
    assert_eq!(held.len(), 9);
    let mut others: Vec<_> = (0..3).map(|_| other.begin()).collect();
    for invocation in &mut others {
        invocation.on_request(&mut told("")).await.expect("the other plugin's own");
    }
}

#[tokio::test]
async fn memory_of_all_plugins_is_bounded_and_shared() {
    let host = Host::with(HostOptions { memory: 8 << 20, ..options() });
    let mut other = probe();
    other.key = crate::setup::key("other");
    let mut large = probe();
    large.limits.run_time = Duration::from_secs(1);
    let uses = [crate::setup::use_of("probe", PROBE), crate::setup::use_of("other", PROBE)];
    host.ensure(&[&large, &other], &[&uses[0], &uses[1]]).await;
    let (greedy, other) = (host.current(&uses[0].key()).unwrap(), host.current(&uses[1].key()).unwrap());
    let error = greedy.begin().on_request(&mut told("allocate")).await.unwrap_err();
    assert!(matches!(error, PluginError::PoolFull { .. }), "below its own limit, above the gateway's: {error}");
    serves(&other).await;
    serves(&greedy).await;
    assert_eq!(host.metric(r#"sluice_plugin_memory_bytes{plugin="shop/probe"}"#), 0.0);
}

#[tokio::test]
async fn a_plugin_with_a_long_run_time_runs_aside_from_its_first_call() {
    let host = Host::new();
    let mut spec = probe();
    spec.limits.run_time = Duration::from_secs(1);
    let version = host.ready(&spec, PROBE).await;
    serves(&version).await;
    assert_eq!(host.metric("sluice_plugin_aside_total{plugin=\"shop/probe\"}"), 1.0);
}

#[tokio::test]
async fn a_call_ends_by_the_clock_too() {
    let host = Host::new();
    let mut spec = probe();
    spec.limits.run_time = Duration::from_secs(10);
    spec.limits.deadline = Duration::from_millis(50);
    let version = host.ready(&spec, PROBE).await;
    let error = version.begin().on_request(&mut told("loop")).await.unwrap_err();
    assert!(matches!(error, PluginError::Deadline { .. }), "{error}");
    // The exchange's own deadline counts where it comes first, and one that has passed begins nothing.
    spec.limits.deadline = Duration::from_secs(60);
    let version = host.ready(&spec, PROBE).await;
    for left in [Duration::from_millis(50), Duration::ZERO] {
        let mut exchange = told("loop");
        exchange.deadline = Some(Instant::now() + left);
        let error = version.begin().on_request(&mut exchange).await.unwrap_err();
        assert!(matches!(error, PluginError::Deadline { .. }), "{error}");
        assert_eq!(header(&exchange, "x-do").as_deref(), Some("loop"), "the request comes back");
    }
    serves(&version).await;
}

#[tokio::test]
async fn plugins_that_loop_aside_leave_their_turn_to_others() {
    // Fewer than one plugin's share of the instances.
    const LOOPS: usize = 30;
    let host = Host::new();
    let mut slow = probe();
    slow.key = crate::setup::key("slow");
    let mut looping = probe();
    for spec in [&mut slow, &mut looping] {
        spec.limits.run_time = Duration::from_millis(100);
        spec.limits.deadline = Duration::from_secs(60);
    }
    let uses = [crate::setup::use_of("probe", PROBE), crate::setup::use_of("slow", PROBE)];
    host.ensure(&[&looping, &slow], &[&uses[0], &uses[1]]).await;
    let (looping, slow) = (host.current(&uses[0].key()).unwrap(), host.current(&uses[1].key()).unwrap());
    let ended = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let loops: Vec<_> = (0..LOOPS)
        .map(|_| {
            let (looping, ended) = (looping.clone(), ended.clone());
            tokio::spawn(async move {
                let ended_so = trap(&looping, "loop").await;
                ended.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                ended_so
            })
        })
        .collect();
    while host.metric("sluice_plugin_aside_total{plugin=\"shop/probe\"}") < LOOPS as f64 {
        tokio::task::yield_now().await;
    }
    for _ in 0..3 {
        serves(&slow).await;
    }
    let before = ended.load(std::sync::atomic::Ordering::Relaxed);
    assert!(before < LOOPS, "the other plugin waited for all {before} loops");
    loops.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_call_that_finds_no_thread_aside_gives_up_at_its_deadline() {
    let host = Host::with(HostOptions { slow_threads: 1, ..options() });
    let mut spec = probe();
    spec.limits.run_time = Duration::from_millis(500);
    spec.limits.deadline = Duration::from_secs(60);
    let version = host.ready(&spec, PROBE).await;
    assert_eq!(trap(&version, "loop").await, TrapKind::RunTime);
    let occupied = tokio::spawn({
        let version = version.clone();
        async move { trap(&version, "loop").await }
    });
    while host.metric("sluice_plugin_aside_total{plugin=\"shop/probe\"}") < 2.0 {
        tokio::task::yield_now().await;
    }
    let started = Instant::now();
    let mut exchange = told("x");
    exchange.deadline = Some(started + Duration::from_millis(20));
    let error = version.begin().on_request(&mut exchange).await.unwrap_err();
    assert!(matches!(error, PluginError::Deadline { .. }), "{error} after {:?}", started.elapsed());
    assert_eq!(header(&exchange, "x-do").as_deref(), Some("x"));
    assert_eq!(occupied.await.unwrap(), TrapKind::RunTime);
    serves(&version).await;
}

#[tokio::test]
async fn memory_and_instances_are_counted_while_they_live() {
    let host = Host::new();
    let version = host.ready(&probe(), PROBE).await;
    let memory = || host.metric(r#"sluice_plugin_memory_bytes{plugin="shop/probe"}"#);
    let instances = || host.metric(r#"sluice_plugin_instances{plugin="shop/probe"}"#);
    assert_eq!((memory(), instances()), (0.0, 0.0));
    let mut invocation = version.begin();
    invocation.on_request(&mut told("")).await.unwrap();
    assert!(memory() >= 65_536.0);
    assert_eq!(instances(), 1.0);
    drop(invocation);
    assert_eq!((memory(), instances()), (0.0, 0.0));
}

#[tokio::test]
async fn a_plugin_that_only_fails_is_not_called_until_its_circuit_breaker_lets_one_call_through() {
    let host = Host::new();
    let mut spec = probe();
    spec.limits.circuit_breaker = Some(CircuitBreaker { failures: 3, window: Duration::from_secs(3_600) });
    let version = host.ready(&spec, PROBE).await;
    let failures = async |what: &'static str| version.begin().on_request(&mut told(what)).await;
    for _ in 0..2 {
        assert!(matches!(failures("trap").await, Err(PluginError::Trap { .. })));
        assert!(failures("nothing").await.is_ok(), "a success between failures");
    }
    for _ in 0..3 {
        assert!(matches!(failures("trap").await, Err(PluginError::Trap { .. })));
    }
    assert!(matches!(failures("nothing").await, Err(PluginError::CircuitOpen { .. })));
    let series = "sluice_plugin_calls_total{plugin=\"shop/probe\",phase=\"request_headers\",outcome=\"circuit_open\"}";
    assert_eq!(host.metric(series), 1.0);
    // Another version has not failed yet.
    let mut other = plugin("probe", guest("steps"));
    other.limits.circuit_breaker = spec.limits.circuit_breaker;
    let other = host.ready(&other, r#"{"name":"a"}"#).await;
    assert!(other.begin().on_request(&mut told("nothing")).await.is_ok());
}
