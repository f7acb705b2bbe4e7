//! From a Plugin object to a version that serves: what is refused, and what goes on meanwhile.

use crate::setup::{Host, PROBE, guest, header, key, options, plugin, policy, pooled, probe, text, told, use_of};
use sha2::{Digest, Sha256};
use sluice_model::plugin::{InstanceMode, ModuleSource, PluginSpec};
use sluice_model::problem::Code;
use sluice_model::{Kind, ObjectRef};
use sluice_wasm::HostOptions;
use std::path::Path;
use std::sync::Arc;
use wit_component::{ComponentEncoder, StringEncoding};
use wit_parser::Resolve;

/// Tries one use, and gives the one problem that comes of it: of the policy where the configuration is wrong, else of the
/// Plugin.
async fn refused(spec: &PluginSpec, config: &str) -> sluice_model::Problem {
    let host = Host::new();
    let plugin_use = use_of(&spec.key.name, config);
    host.ensure(&[spec], &[&plugin_use]).await;
    assert!(host.current(&plugin_use.key()).is_none());
    let problem = host.problem();
    let of_config = problem.field.starts_with("spec.plugins[0].config");
    let expected = if of_config { policy() } else { ObjectRef::new(Kind::Plugin, "shop", spec.key.name.clone()) };
    assert_eq!(problem.object.as_ref(), Some(&expected), "{problem}");
    problem
}

#[tokio::test]
async fn a_configuration_that_does_not_fit_the_schema_is_refused_with_every_error() {
    let problem = refused(&probe(), r#"{"name":5,"nmae":"x"}"#).await;
    assert_eq!(problem.code, Code::PluginConfig);
    assert!(problem.message.contains("config.name:"), "{problem}");
    assert!(problem.message.contains("nmae"), "{problem}");
    assert_eq!(problem.field, "spec.plugins[0].config", "{problem}");
    assert_eq!(refused(&probe(), r#"{"name":5}"#).await.field, "spec.plugins[0].config.name");
    assert_eq!(refused(&probe(), "{}").await.code, Code::PluginConfig);
    assert_eq!(refused(&probe(), "not JSON").await.code, Code::PluginConfig);
}

#[tokio::test]
async fn a_configuration_that_the_plugin_refuses_is_a_problem_in_its_own_words() {
    let problem = refused(&probe(), r#"{"name":"x","onConfigure":"refuse"}"#).await;
    assert_eq!(problem.code, Code::PluginConfig);
    assert_eq!(problem.message, "name: this one is refused");
}

#[tokio::test]
async fn whatever_configure_does_it_ends_and_is_told() {
    for (what, told) in [
        ("trap", "panic in configure"),
        ("loop", "run time exceeded in configure"),
        ("allocate", "memory limit exceeded in configure"),
        ("attribute", "contract broken in configure: attributes belong to an exchange"),
    ] {
        let problem = refused(&probe(), &format!(r#"{{"name":"x","onConfigure":"{what}"}}"#)).await;
        assert_eq!(problem.code, Code::PluginTrap, "{what}");
        assert!(problem.message.contains(told), "{problem}");
    }
}

#[tokio::test]
async fn what_is_no_plugin_is_refused_with_the_reason() {
    let wasi = r#"(component (import "wasi:cli/environment@0.2.0" (instance)))"#;
    let phaseless = "(component)";
    let core = r#"(module (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32))))"#;
    for (module, reason) in [
        (text(wasi), "wasi:cli/environment@0.2.0"),
        (text(phaseless), "exports no phase"),
        (text(core), "wasi_snapshot_preview1"),
        (Arc::from(&b"#!/bin/sh"[..]), "not a WebAssembly module"),
        (Arc::from(&[][..]), "not a WebAssembly module"),
        (Arc::from(&guest("probe")[..1_000]), "does not fit"),
    ] {
        let problem = refused(&plugin("bad", module), "{}").await;
        assert_eq!(problem.code, Code::PluginInvalid, "{problem}");
        assert!(problem.message.contains(reason), "{reason}: {problem}");
    }
}

#[tokio::test]
async fn a_memory_limit_above_the_gateways_is_refused() {
    let mut spec = probe();
    spec.limits.memory = 1 << 30;
    let problem = refused(&spec, PROBE).await;
    assert_eq!((problem.code, problem.field.as_str()), (Code::OutOfRange, "spec.limits.memory"));
}

#[tokio::test]
async fn a_module_above_the_size_limit_is_refused() {
    let host = Host::with(HostOptions { max_module: 1_000, ..options() });
    let plugin_use = use_of("probe", PROBE);
    host.ensure(&[&probe()], &[&plugin_use]).await;
    assert_eq!(host.problem().code, Code::PluginInvalid);
}

#[tokio::test]
async fn a_file_that_is_missing_is_tried_again_until_it_is_there() {
    let host = Host::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("probe.wasm");
    let module = guest("probe");
    let sha256 = hex::encode(Sha256::digest(&module)).into();
    let source = ModuleSource::File { path: path.to_str().unwrap().into(), sha256 };
    let spec = PluginSpec { source: Some(source), ..probe() };
    let plugin_use = use_of("probe", PROBE);
    host.ensure(&[&spec], &[&plugin_use]).await;
    assert_eq!(host.problem().code, Code::PluginSource);
    std::fs::write(&path, &module[..1_000]).unwrap();
    let part = |host: &sluice_wasm::PluginHost| host.problems().iter().any(|p| p.message.contains("sha256"));
    host.until(part).await;
    std::fs::write(&path, &module).unwrap();
    host.until(|host| host.current(&plugin_use.key()).is_some()).await;
    assert_eq!(host.host.problems(), []);
}

#[tokio::test]
async fn a_new_version_takes_over_when_it_is_ready_and_a_bad_one_never_does() {
    let host = Host::new();
    let plugin_use = use_of("probe", PROBE);
    let good = host.ready(&probe(), PROBE).await;

    // A version that does not load: the one before goes on, and the problem is told.
    let bad = plugin("probe", text("(component)"));
    host.ensure(&[&bad], &[&plugin_use]).await;
    assert_eq!(host.problem().code, Code::PluginInvalid);
    let current = host.current(&plugin_use.key()).unwrap();
    assert!(Arc::ptr_eq(&current, &good));
    current.begin().on_request(&mut told("")).await.unwrap();

    // Another module of the same contract: not the old one, and whoever holds the old one can go on.
    let mut next = probe();
    next.limits.body_buffer = 5;
    host.ensure(&[&next], &[&plugin_use]).await;
    assert_eq!(host.host.problems(), []);
    let newest = host.current(&plugin_use.key()).unwrap();
    assert!(!Arc::ptr_eq(&newest, &good));
    assert_eq!(newest.spec().limits.body_buffer, 5);
    good.begin().on_request(&mut told("")).await.unwrap();
}

/// The guest `stamped` with another version written over its own, which decides what its self-test does.
fn stamped(version: &str) -> PluginSpec {
    let mut module = guest("stamped").to_vec();
    let place = b"version-0000";
    let at = module.windows(place.len()).position(|bytes| bytes == place).expect("the version's place");
    module[at..at + place.len()].copy_from_slice(version.as_bytes());
    plugin("stamped", module.into())
}

#[tokio::test]
async fn a_version_that_fails_its_self_test_never_serves() {
    let host = Host::new();
    let plugin_use = use_of("stamped", "{}");
    let good = host.ready(&stamped("version-0001"), "{}").await;
    for (version, told) in [
        ("unfit---0002", "this version knows that it is not fit to serve"),
        ("panics--0003", "panic in the self-test"),
        ("endless-0004", "run time exceeded in the self-test"),
        ("attribute-05", "contract broken in the self-test: attributes belong to an exchange"),
    ] {
        host.ensure(&[&stamped(version)], &[&plugin_use]).await;
        let problem = host.problem();
        assert_eq!(
            (problem.code, problem.field.as_str()),
            (Code::PluginSelfTest, "spec.plugins[0].config"),
            "{version}"
        );
        assert!(problem.message.contains(told), "{version}: {problem}");
        assert!(Arc::ptr_eq(&host.current(&plugin_use.key()).unwrap(), &good), "{version}");
        let status = &host.host.statuses()[0];
        assert!(status.error.as_ref().is_some_and(|error| error.contains(told)) && status.ready == 0, "{status:?}");
    }
    let next = host.ready(&stamped("version-0006"), "{}").await;
    assert_eq!(host.host.problems(), []);
    let mut exchange = told("");
    next.begin().on_request(&mut exchange).await.unwrap();
    assert_eq!(header(&exchange, "x-stamp").as_deref(), Some("version-0006"));
    assert_eq!(next.phases().names(), ["request_headers", "response_headers", "log"]);
}

#[tokio::test]
async fn a_pooled_plugin_is_tested_once_and_not_in_each_instance() {
    let host = Host::new();
    let next = host.ready(&pooled(stamped("version-0001")), "{}").await;
    next.begin().on_request(&mut told("")).await.unwrap();
    let bad = pooled(stamped("unfit---0002"));
    host.ensure(&[&bad], &[&use_of("stamped", "{}")]).await;
    assert_eq!(host.problem().code, Code::PluginSelfTest);
}

#[tokio::test]
async fn while_a_new_version_is_built_the_old_one_is_current() {
    let host = Host::new();
    let plugin_use = use_of("probe", PROBE);
    let good = host.ready(&probe(), PROBE).await;
    let mut next = probe();
    next.limits.body_buffer = 5;
    let mut desired = sluice_wasm::Desired::default();
    desired.plugins.insert(key("probe"), Arc::new(next));
    desired.add_use(&plugin_use);
    host.host.ensure(desired);
    // Whatever the builder is at, there is a version: the old one until the new one is there.
    loop {
        let current = host.current(&plugin_use.key()).expect("a version all the time");
        if !Arc::ptr_eq(&current, &good) {
            break;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_is_not_wished_for_any_more_is_forgotten() {
    let host = Host::new();
    let version = host.ready(&probe(), PROBE).await;
    assert_eq!(host.host.statuses().len(), 1);
    assert_eq!((host.host.statuses()[0].uses, host.host.statuses()[0].ready), (1, 1));
    host.ensure(&[], &[]).await;
    assert!(host.current(version.key()).is_none());
    assert_eq!(host.host.statuses().len(), 0);
    assert!(!host.metrics().contains("shop/probe"));
    version.begin().on_request(&mut told("")).await.unwrap();
}

#[tokio::test]
async fn a_plugin_without_a_configuration_phase_takes_none() {
    let module = bare(&["with-request-headers"], "");
    let problem = refused(&plugin("bare", module.clone()), r#"{"a":1}"#).await;
    assert_eq!(problem.code, Code::PluginConfig);
    let host = Host::new();
    for config in ["{}", "null"] {
        let version = host.ready(&plugin("bare", module.clone()), config).await;
        version.begin().on_request(&mut told("")).await.unwrap();
    }
}

#[tokio::test]
async fn a_guest_that_no_image_can_be_made_of_is_pooled_and_configured_in_each_instance() {
    let host = Host::new();
    let module = bare(&["with-configuration", "with-request-headers"], "");
    let version = host.ready(&plugin("tables", module), "{}").await;
    assert_eq!(version.mode(), InstanceMode::Pooled);
    let mut exchange = told("");
    version.begin().on_request(&mut exchange).await.unwrap();
    assert_eq!(header(&exchange, "x-do").as_deref(), Some(""));
    assert_eq!(host.metric(r#"sluice_plugin_instances{plugin="shop/tables"}"#), 1.0);
}

#[tokio::test]
async fn a_configuration_that_each_instance_needs_has_as_long_as_it_had_when_it_was_built() {
    let host = Host::new();
    // Well above the run time of a call.
    let busy = "(local $n i32) (loop $l (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if $l (i32.lt_u (local.get $n) (i32.const 200000000))))";
    let mut spec = plugin("tables", bare(&["with-configuration", "with-request-headers"], busy));
    spec.limits.run_time = std::time::Duration::from_millis(2);
    let version = host.ready(&spec, "{}").await;
    let aside = || host.metric(r#"sluice_plugin_aside_total{plugin="shop/tables"}"#);
    version.begin().on_request(&mut told("")).await.unwrap();
    assert_eq!(aside(), 1.0, "the thread that serves requests is not kept");
}

#[tokio::test]
async fn a_start_section_that_never_ends_is_found_when_the_plugin_is_built() {
    let start = "(func $s (loop $l (br $l))) (start $s)";
    for spec in [plugin("endless", started(start)), pooled(plugin("endless", started(start)))] {
        let problem = refused(&spec, "{}").await;
        assert_eq!((problem.code, problem.field.as_str()), (Code::PluginTrap, "spec.source"), "{problem}");
        assert!(problem.message.contains("run time exceeded"), "{problem}");
    }
}

#[tokio::test]
async fn a_module_that_does_not_compile_is_one_problem_whoever_uses_it() {
    let host = Host::new();
    let bad = plugin("bad", text("(component)"));
    let uses = [r#"{"a":1}"#, r#"{"a":2}"#, r#"{"a":3}"#].map(|config| use_of("bad", config));
    host.ensure(&[&bad], &uses.each_ref()).await;
    assert_eq!(host.problem().code, Code::PluginInvalid);
    assert_eq!(host.metric("sluice_plugin_builds_total"), 3.0);
}

#[tokio::test]
async fn a_configuration_is_one_problem_each_place_that_it_is_written_at() {
    let host = Host::new();
    let mut uses = [use_of("probe", "{}"), use_of("probe", "{}"), use_of("probe", "{}")];
    uses[1].at.field = "spec.defaults.plugins[2]".into();
    host.ensure(&[&probe()], &uses.each_ref()).await;
    let fields: Vec<_> = host.host.problems().into_iter().map(|problem| problem.field).collect();
    assert_eq!(fields, ["spec.defaults.plugins[2].config", "spec.plugins[0].config"]);
}

#[tokio::test]
async fn a_plugin_without_a_use_is_compiled_and_held_to_the_contract() {
    let host = Host::new();
    let mut bad = plugin("bad", text("(component)"));
    host.ensure(&[&probe(), &bad], &[]).await;
    assert_eq!(host.problem().code, Code::PluginInvalid);
    let statuses = host.host.statuses();
    let of = |name: &str| statuses.iter().find(|status| *status.plugin.name == *name).unwrap();
    assert!(of("bad").error.is_some());
    assert_eq!((of("probe").uses, of("probe").checked, of("probe").phases.len()), (0, true, 4));
    // It makes no series, and no share of the pool is kept for it.
    assert!(!host.metrics().contains("shop/probe"));
    bad.source = probe().source;
    host.ensure(&[&probe(), &bad], &[]).await;
    assert_eq!(host.host.problems(), []);
}

#[tokio::test]
async fn while_a_source_is_gone_the_code_before_goes_on_and_can_be_configured() {
    let host = Host::new();
    let good = host.ready(&probe(), PROBE).await;
    let gone = PluginSpec { source: None, ..probe() };
    host.ensure(&[&gone], &[&use_of("probe", PROBE)]).await;
    assert!(Arc::ptr_eq(&host.current(good.key()).unwrap(), &good));
    let other = use_of("probe", r#"{"name":"other"}"#);
    host.ensure(&[&gone], &[&other]).await;
    assert!(host.current(&other.key()).is_some());
    // One that never had any is not waited for.
    host.ensure(&[&PluginSpec { key: key("never"), ..gone }], &[&use_of("never", "{}")]).await;
    assert!(host.current(&use_of("never", "{}").key()).is_none());
}

#[tokio::test]
async fn idle_instances_of_a_version_go_when_the_next_one_takes_over() {
    let host = Host::new();
    let plugin_use = use_of("probe", PROBE);
    let held = host.ready(&pooled(probe()), PROBE).await;
    let instances = || host.metric(r#"sluice_plugin_instances{plugin="shop/probe"}"#);
    held.begin().on_request(&mut told("")).await.unwrap();
    assert_eq!(instances(), 1.0);
    let mut next = pooled(probe());
    next.limits.body_buffer = 5;
    host.ensure(&[&next], &[&plugin_use]).await;
    assert_eq!(instances(), 0.0, "whoever holds the version before (a tunnel) holds no instance by that");
    held.begin().on_request(&mut told("")).await.unwrap();
    assert_eq!(instances(), 0.0);
    // The same by another configuration.
    let held = host.current(&plugin_use.key()).unwrap();
    held.begin().on_request(&mut told("")).await.unwrap();
    assert_eq!(instances(), 1.0);
    host.ensure(&[&next], &[&use_of("probe", r#"{"name":"other"}"#)]).await;
    assert_eq!(instances(), 0.0);
}

/// A guest without a configuration, with more in its module.
fn started(more: &str) -> Arc<[u8]> {
    guest_in_text(&["with-request-headers"], "", more)
}

/// A guest in text with the parts of these worlds, and a table that its configure changes, after `busy`: that can't be part
/// of an image.
fn bare(worlds: &[&str], busy: &str) -> Arc<[u8]> {
    guest_in_text(worlds, busy, "")
}

fn guest_in_text(worlds: &[&str], busy: &str, more: &str) -> Arc<[u8]> {
    let configure = format!(
        r#"(func (export "sluice:plugin/configuration@0.1.0#configure") (param i32 i32) (result i32) {busy}
            (drop (table.grow $t (ref.null func) (i32.const 1))) (i32.const 1024))"#
    );
    let exports = worlds.iter().map(|world| match *world {
        "with-configuration" => &*configure,
        _ => {
            r#"(func (export "sluice:plugin/request-headers@0.1.0#on-request") (param i32) (result i32)
                (call $drop (local.get 0)) (i32.const 1024))"#
        }
    });
    let text = format!(
        r#"(module
            (import "sluice:plugin/types@0.1.0" "[resource-drop]request" (func $drop (param i32)))
            (memory (export "memory") 1)
            (table $t 1 10 funcref)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 2048))
            {}
            {more})"#,
        exports.collect::<Vec<_>>().join("\n"),
    );
    let mut module = wat::parse_str(text).unwrap();
    let mut contract = Resolve::default();
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sdk/wit");
    let (package, _) = contract.push_dir(&wit).unwrap();
    for world in worlds {
        let world = contract.select_world(&[package], Some(world)).unwrap();
        wit_component::embed_component_metadata(&mut module, &contract, world, StringEncoding::UTF8).unwrap();
    }
    ComponentEncoder::default().module(&module).unwrap().validate(true).encode().unwrap().into()
}
