//! CPU time that one plugin adds to a request: fresh and pooled, for a header plugin with a 20-entry configuration and
//! for key-auth with 20 consumers. `cargo bench -p sluice-wasm`.
//!
//! Nanoseconds of this thread's CPU time a request: median of 15 rounds, with the lowest and the highest. The making of
//! the request is measured alone and taken off.

#![allow(clippy::expect_used, clippy::panic, reason = "a bench that can't go on ends")]

use prometheus_client::registry::Registry;
use rustix::time::{ClockId, clock_gettime};
use sha2::{Digest, Sha256};
use sluice_model::plugin::{
    FailMode, InstanceMode, ModuleSource, Place, PluginKey, PluginLimits, PluginSpec, PluginUse,
};
use sluice_model::{Kind, ObjectRef};
use sluice_wasm::{Configured, Desired, Exchange, HostOptions, PlainRequest, PluginHost};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

const ROUNDS: usize = 15;
const CALLS: u32 = 20_000;

fn main() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    build(&repository, "plugins");
    let guests = build(&repository, "tests/guests");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let host = PluginHost::new(HostOptions::default(), &mut Registry::default()).expect("a host");

    let entries = |entry: fn(u32) -> String| (0..20).map(entry).collect::<Vec<_>>().join(",");
    let tenants = entries(|n| format!(r#""tenant-{n}":"the value of number {n}""#));
    let consumers = entries(|n| format!(r#"{{"name":"consumer-{n}","keys":["key-of-number-{n}"]}}"#));
    let plugins = [
        ("tenant_plan", format!(r#"{{"plans":{{{tenants}}}}}"#)),
        ("key_auth", format!(r#"{{"consumers":[{consumers}]}}"#)),
    ];
    let request = measure(|| drop(black_box(exchange())));
    println!("{:<34} {}", "the request alone", line(&request, 0));
    for (name, config) in plugins {
        let module: Arc<[u8]> = std::fs::read(guests.join(format!("{name}.wasm"))).expect("a guest").into();
        for mode in [InstanceMode::Fresh, InstanceMode::Pooled] {
            let version = runtime.block_on(ready(&host, name, module.clone(), &config, mode));
            let took = measure(|| {
                let mut exchange = exchange();
                runtime.block_on(version.begin().on_request(&mut exchange)).expect("a decision");
                black_box(exchange);
            });
            println!("{:<34} {}", format!("{name}, {mode:?}"), line(&took, request[ROUNDS / 2]));
        }
    }
}

/// A request with twelve headers.
fn exchange() -> Exchange {
    let request = PlainRequest::get("/api/v1/orders/42?expand=lines")
        .header("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0")
        .header("accept", "application/json")
        .header("accept-encoding", "gzip, br")
        .header("cookie", "sid=0123456789abcdef0123456789abcdef")
        .header("x-request-id", "6f1c0e0a-7b0a-4b34-9e0e-2a54e7f0a001")
        .header("x-forwarded-for", "203.0.113.7")
        .header("x-tenant", "tenant-7")
        .header("x-api-key", "key-of-number-7")
        .header("accept-language", "en")
        .header("cache-control", "no-cache")
        .header("referer", "https://shop.example.com/")
        .header("origin", "https://shop.example.com");
    Exchange::new(request)
}

fn measure(mut call: impl FnMut()) -> Vec<u64> {
    let mut rounds: Vec<u64> = (0..ROUNDS)
        .map(|_| {
            let before = cpu_time();
            (0..CALLS).for_each(|_| call());
            (cpu_time() - before) / u64::from(CALLS)
        })
        .collect();
    rounds.sort_unstable();
    rounds
}

fn line(rounds: &[u64], less: u64) -> String {
    let [lowest, median, highest] = [0, ROUNDS / 2, ROUNDS - 1].map(|n| rounds[n].saturating_sub(less));
    format!("{median:>6} ns  [{lowest} .. {highest}]")
}

fn cpu_time() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    (time.tv_sec * 1_000_000_000 + time.tv_nsec) as u64
}

async fn ready(
    host: &PluginHost,
    name: &str,
    module: Arc<[u8]>,
    config: &str,
    instance: InstanceMode,
) -> Arc<Configured> {
    let sha256 = |bytes: &[u8]| Arc::from(hex::encode(Sha256::digest(bytes)));
    let key = PluginKey::new("bench", name);
    let source = Some(ModuleSource::Inline { sha256: sha256(&module), bytes: module });
    let spec = PluginSpec {
        key: key.clone(),
        source,
        remote: None,
        instance,
        limits: PluginLimits::default(),
        fail_mode: FailMode::Closed,
        redis_stores: false,
    };
    let plugin_use = PluginUse {
        name: name.into(),
        plugin: key.clone(),
        config: config.into(),
        config_hash: sha256(config.as_bytes()),
        fail_mode: FailMode::Closed,
        when: None,
        at: Place { object: ObjectRef::new(Kind::TrafficPolicy, "bench", name), field: "spec.plugins[0]".into() },
    };
    let use_key = plugin_use.key();
    let mut desired = Desired::default();
    desired.plugins.insert(key, Arc::new(spec));
    desired.add_use(&plugin_use);
    host.ensure(desired);
    host.settled().await;
    host.current(&use_key).unwrap_or_else(|| panic!("{:?}", host.problems()))
}

fn build(repository: &Path, workspace: &str) -> PathBuf {
    let output = Command::new(repository.join("plugins/build.sh"))
        .arg(repository.join(workspace))
        .env_remove("CARGO_TARGET_DIR")
        .output()
        .expect("plugins/build.sh can be run");
    assert!(output.status.success(), "plugins/build.sh: {}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}
