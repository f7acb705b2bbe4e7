//! Modules of the proxy-wasm ABI that do it wrong: each has a clear reason, none harms another exchange than those in its own
//! VM.

use crate::filters::{probe, reply, text};
use crate::setup::{Host, header, plugin, use_of};
use sluice_model::Reason;
use sluice_model::plugin::{InstanceMode, PluginLimits};
use sluice_model::problem::Code;
use sluice_wasm::{Configured, Decision, Exchange, PlainRequest, PlainResponse, PluginError, Summary, TrapKind};
use std::fmt::Write;
use std::sync::Arc;

fn told(what: &'static str) -> Exchange {
    Exchange::new(PlainRequest::get("/").header("x-do", what))
}

async fn serves(version: &Arc<Configured>) {
    let decision = version.begin().on_request(&mut told("")).await.expect("the next request is served");
    assert!(matches!(decision, Decision::Continue));
}

#[tokio::test]
async fn a_vm_that_fails_is_made_anew_and_what_it_had_paused_is_told() {
    let host = Host::new();
    let mut spec = probe();
    spec.limits.deadline = std::time::Duration::from_secs(60);
    let version = host.ready(&spec, "{}").await;
    for (what, kind) in [
        ("trap", TrapKind::Panic),
        ("allocate", TrapKind::Memory),
        ("loop", TrapKind::RunTime),
        ("bad-name", TrapKind::Panic),
        ("bad-value", TrapKind::Panic),
        ("bad-path", TrapKind::Panic),
        ("bad-status", TrapKind::Panic),
    ] {
        let mut exchange = told(what);
        let error = version.begin().on_request(&mut exchange).await.expect_err(what);
        assert_eq!(header(&exchange, "x-do").as_deref(), Some(what), "the request came back");
        assert_eq!(error.reason(), Reason::PluginFailed);
        assert!(matches!(&error, PluginError::Trap { kind: is, .. } if *is == kind), "{what}: {error}");
        serves(&version).await;
    }
    // Two in one VM: the one that waits is told of the other's fault, and so is one between two phases.
    let (mut waits, mut between) = (version.begin(), version.begin());
    let (mut paused, mut passed) = (told("pause"), told(""));
    between.on_request(&mut passed).await.unwrap();
    let fails = async {
        let mut exchange = told("trap");
        version.begin().on_request(&mut exchange).await.unwrap_err()
    };
    let (paused, _) = tokio::join!(waits.on_request(&mut paused), fails);
    assert!(matches!(paused, Err(PluginError::Ended { .. })), "{paused:?}");
    passed.put_response(Box::new(PlainResponse::default()));
    let error = between.on_response(&mut passed).await.unwrap_err();
    assert!(matches!(error, PluginError::Ended { phase: "response_headers", .. }), "{error}");
    between.on_log(&mut passed, Summary::default()).await.unwrap();
    serves(&version).await;
}

/// While its VM is made anew, several exchanges want one; who then has it may have to wait for a thread.
#[tokio::test]
async fn exchanges_that_wait_for_the_next_vm_are_served_by_it() {
    let host = Host::new();
    let mut spec = probe();
    spec.limits.deadline = std::time::Duration::from_secs(20);
    let version = host.ready(&spec, "{}").await;
    for _ in 0..50 {
        // A filter whose run time was used up is called on the threads of low priority for a while.
        let error = version.begin().on_request(&mut told("loop")).await.unwrap_err();
        assert!(matches!(&error, PluginError::Trap { kind: TrapKind::RunTime, .. }), "{error}");
        tokio::join!(serves(&version), serves(&version), serves(&version), serves(&version));
    }
}

#[tokio::test]
async fn whatever_a_filter_does_when_it_is_configured_it_ends_and_is_told() {
    for (what, told) in [
        ("trap", "panic in proxy_on_configure"),
        ("loop", "run time exceeded in proxy_on_configure"),
        ("allocate", "memory limit exceeded in proxy_on_configure"),
    ] {
        let host = Host::new();
        let plugin_use = use_of("filter-probe", &text(what));
        host.ensure(&[&probe()], &[&plugin_use]).await;
        let problem = host.problem();
        assert_eq!((problem.code, &*problem.field), (Code::PluginTrap, "spec.plugins[0].config"), "{problem}");
        assert!(problem.message.contains(told), "{problem}");
    }
}

const MARK: &str = r#"(func (export "proxy_abi_version_0_2_1"))"#;
const MEMORY: &str = r#"(memory (export "memory") 1)"#;
const MALLOC: &str = r#"(func (export "malloc") (param i32) (result i32) i32.const 4096)"#;

/// The reason why a module is refused.
async fn refused(wat: &str) -> String {
    let host = Host::new();
    let spec = plugin("filter", crate::setup::text(wat));
    host.ensure(&[&spec], &[&use_of("filter", "{}")]).await;
    let problem = host.problem();
    assert!(matches!(problem.code, Code::PluginInvalid | Code::PluginTrap), "{problem}");
    assert_eq!(problem.field, "spec.source", "{problem}");
    problem.message
}

#[tokio::test]
async fn a_module_that_is_none_of_the_abis_is_refused_with_what_it_lacks() {
    for (module, why) in [
        (format!("(module {MARK} {MALLOC})"), "it exports no `memory`"),
        (format!("(module {MARK} {MEMORY})"), "neither `proxy_on_memory_allocate` nor `malloc`"),
        (
            format!(r#"(module (import "env" "proxy_teleport" (func)) {MARK} {MEMORY} {MALLOC})"#),
            "unknown import: `env::proxy_teleport`",
        ),
        (
            format!(r#"(module (import "env" "proxy_log" (func (param i64))) {MARK} {MEMORY} {MALLOC})"#),
            "`env::proxy_log`",
        ),
        (
            format!(r#"(module (func (export "proxy_abi_version_0_3_0")) {MEMORY} {MALLOC})"#),
            "it is of version 0.3.0 of the proxy-wasm ABI, the gateway has 0.1.0, 0.2.0 and 0.2.1",
        ),
        (
            format!(r#"(module {MARK} {MEMORY} {MALLOC} (func (export "proxy_on_tick") (param i64)))"#),
            "its `proxy_on_tick` has not the type that the ABI says",
        ),
        (format!(r#"(module {MARK} {MEMORY} {MALLOC} (func (export "_start") unreachable))"#), "panic in start"),
        (
            format!(
                r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
                {MARK} {MEMORY} {MALLOC} (func (export "_start") (call $exit (i32.const 3))))"#
            ),
            "it ended itself by proc_exit(3)",
        ),
        (format!(r#"(module {MARK} (memory (export "memory") 2000) {MALLOC})"#), "memory minimum size"),
    ] {
        let message = refused(&module).await;
        assert!(message.contains(why), "{message}");
    }
}

/// Every function of the ABI with its number of parameters that are 32 bits; one with others is in `WIDE`.
const FUNCTIONS: &[(&str, usize)] = &[
    ("proxy_log", 3),
    ("proxy_get_log_level", 1),
    ("proxy_get_current_time_nanoseconds", 1),
    ("proxy_set_tick_period_milliseconds", 1),
    ("proxy_get_configuration", 2),
    ("proxy_get_buffer_bytes", 5),
    ("proxy_get_buffer_status", 3),
    ("proxy_set_buffer_bytes", 5),
    ("proxy_get_header_map_pairs", 3),
    ("proxy_set_header_map_pairs", 3),
    ("proxy_get_header_map_value", 5),
    ("proxy_add_header_map_value", 5),
    ("proxy_replace_header_map_value", 5),
    ("proxy_remove_header_map_value", 3),
    ("proxy_get_header_map_size", 2),
    ("proxy_get_property", 4),
    ("proxy_set_property", 4),
    ("proxy_get_shared_data", 5),
    ("proxy_set_shared_data", 5),
    ("proxy_register_shared_queue", 3),
    ("proxy_resolve_shared_queue", 5),
    ("proxy_dequeue_shared_queue", 3),
    ("proxy_enqueue_shared_queue", 3),
    ("proxy_continue_stream", 1),
    ("proxy_close_stream", 1),
    ("proxy_continue_request", 0),
    ("proxy_continue_response", 0),
    ("proxy_clear_route_cache", 0),
    ("proxy_send_local_response", 8),
    ("proxy_http_call", 10),
    ("proxy_grpc_call", 12),
    ("proxy_grpc_stream", 9),
    ("proxy_grpc_send", 4),
    ("proxy_grpc_cancel", 1),
    ("proxy_grpc_close", 1),
    ("proxy_get_status", 3),
    ("proxy_set_effective_context", 1),
    ("proxy_call_foreign_function", 6),
    ("proxy_done", 0),
    ("proxy_define_metric", 4),
    ("proxy_get_metric", 2),
];

/// A module whose request callback calls each function with this in the place of each parameter, one after the other
/// and all at once. It continues; `malloc` says `malloc`.
fn caller(value: i64, malloc: &str) -> String {
    let (mut imports, mut calls) = (String::new(), String::new());
    for (name, parameters) in FUNCTIONS {
        let types = "i32 ".repeat(*parameters);
        writeln!(imports, r#"(import "env" "{name}" (func ${name} (param {types}) (result i32)))"#).unwrap();
        for place in 0..=*parameters {
            let arguments: String = (0..*parameters)
                .map(|n| if place == *parameters || n == place { value } else { 8 })
                .map(|argument| format!("(i32.const {argument}) "))
                .collect();
            writeln!(calls, "(drop (call ${name} {arguments}))").unwrap();
        }
    }
    format!(
        r#"(module
        {imports}
        (import "env" "proxy_increment_metric" (func $increment (param i32 i64) (result i32)))
        (import "env" "proxy_record_metric" (func $record (param i32 i64) (result i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
        (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ (param i32 i32) (result i32)))
        {MARK} {MEMORY}
        (func (export "malloc") (param i32) (result i32) {malloc})
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
            {calls}
            (drop (call $increment (i32.const {value}) (i64.const {value})))
            (drop (call $record (i32.const {value}) (i64.const {value})))
            (drop (call $write (i32.const 1) (i32.const {value}) (i32.const {value}) (i32.const {value})))
            (drop (call $write (i32.const 2) (i32.const 8) (i32.const 2) (i32.const {value})))
            (drop (call $random (i32.const {value}) (i32.const {value})))
            (drop (call $random (i32.const {value}) (i32.const 8)))
            (drop (call $poll (i32.const {value}) (i32.const {value}) (i32.const 2) (i32.const {value})))
            (drop (call $clock (i32.const 0) (i64.const 0) (i32.const {value})))
            (drop (call $environ (i32.const {value}) (i32.const {value})))
            (i32.const 0)))"#
    )
}

#[tokio::test]
async fn no_pointer_and_no_length_harms_the_host() {
    let host = Host::new();
    for value in [0, 1, 65_535, 65_536, 0x7fff_ffff, -1, -8] {
        for malloc in ["i32.const 0", "i32.const 4096", "i32.const 65535", "i32.const -4"] {
            let spec = plugin("filter", crate::setup::text(&caller(value, malloc)));
            let version = host.ready(&spec, "{}").await;
            let mut exchange = told("");
            // Whether it answers by chance is all the same.
            let _ = version.begin().on_request(&mut exchange).await.unwrap_or_else(|error| panic!("{value}: {error}"));
            assert!(exchange.request().is_some());
        }
    }
}

#[tokio::test]
async fn memory_that_the_guest_does_not_give_is_an_end_of_its_own() {
    let host = Host::new();
    let spec = plugin("filter", crate::setup::text(&caller(0, "unreachable")));
    let version = host.ready(&spec, "{}").await;
    let error = version.begin().on_request(&mut told("")).await.unwrap_err();
    assert!(matches!(error, PluginError::Trap { kind: TrapKind::Panic, .. }), "{error}");
}

#[tokio::test]
async fn exchanges_above_the_limit_are_the_fail_modes() {
    let host = Host::new();
    let mut spec = probe();
    spec.limits = PluginLimits { concurrency: 2, ..spec.limits };
    let version = host.ready(&spec, "{}").await;
    let (mut one, mut two) = (version.begin(), version.begin());
    one.on_request(&mut told("")).await.unwrap();
    two.on_request(&mut told("")).await.unwrap();
    let error = version.begin().on_request(&mut told("")).await.unwrap_err();
    assert!(matches!(error, PluginError::Busy { limit: 2, .. }), "{error}");
    drop(one);
    serves(&version).await;
    // A tunnel counts no more.
    two.release();
    let mut three = version.begin();
    three.on_request(&mut told("")).await.unwrap();
    serves(&version).await;
}

#[tokio::test]
async fn a_new_version_takes_over_and_the_former_ends_with_its_last_exchange() {
    let host = Host::new();
    let before = host.ready(&probe(), "{}").await;
    let mut invocation = before.begin();
    let mut exchange = told("");
    invocation.on_request(&mut exchange).await.unwrap();
    let mut spec = probe();
    spec.limits.memory += 65_536;
    let after = host.ready(&spec, "{}").await;
    assert_eq!(after.mode(), InstanceMode::Shared);
    serves(&after).await;
    exchange.put_response(Box::new(PlainResponse::default()));
    invocation.on_response(&mut exchange).await.expect("the exchange ends as it began");
    invocation.on_log(&mut exchange, Summary::default()).await.unwrap();
    assert_eq!(host.metric(r#"sluice_plugin_instances{plugin="shop/filter-probe"}"#), 1.0);
}

#[tokio::test]
async fn the_message_of_an_answer_to_grpc_is_cut_where_it_is_longer_than_a_field_may_be() {
    let host = Host::new();
    // Each byte of the body becomes three of the message.
    let module = format!(
        r#"(module
        (import "env" "proxy_send_local_response"
            (func $reply (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
        {MARK} (memory (export "memory") 2) {MALLOC}
        (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
            (drop (call $reply (i32.const 200) (i32.const 0) (i32.const 0) (i32.const 8192) (i32.const 100000)
                (i32.const 0) (i32.const 0) (i32.const 7)))
            (i32.const 1)))"#
    );
    let version = host.ready(&plugin("filter", crate::setup::text(&module)), "{}").await;
    let mut exchange = Exchange::new(PlainRequest::get("/").header("content-type", "application/grpc"));
    let reply = reply(version.begin().on_request(&mut exchange).await.unwrap());
    assert_eq!(reply.headers["grpc-status"], "7");
    assert_eq!(reply.headers["grpc-message"], "%00".repeat((16 << 10) / 3));
}
