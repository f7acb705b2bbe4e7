//! Components that do it wrong in ways that no toolchain would: each ends by itself, with a clear reason.

use crate::fuzzed_components::{grants, interpreter};
use crate::interpreter::{CONTRACT, Called, LETTERS, MANY_PAIRS, MEMORY, Program, RESULT, Slot, place_of};
use crate::setup::{Host, use_of};
use sluice_wasm::{Configured, Decision, Exchange, PlainRequest, PluginError, TrapKind};
use std::sync::Arc;

async fn ready(host: &Host) -> Arc<Configured> {
    let (spec, plugin_use) = (interpreter("hostile", true), use_of("hostile", "{}"));
    host.grant(&[&spec], &[&plugin_use], &[(spec.key.clone(), grants())]).await;
    host.current(&plugin_use.key()).unwrap_or_else(|| panic!("{:?}", host.host.problems()))
}

fn called(name: &str, slots: &[u64]) -> Called {
    let slots = slots.iter().map(|value| Slot::Literal(*value)).collect();
    Called { function: CONTRACT.function(name), phases: 0xff, slots }
}

async fn run(version: &Arc<Configured>, calls: Vec<Called>) -> Result<Decision, PluginError> {
    let program = Program::new(calls).encoded();
    let mut exchange = Exchange::new(PlainRequest::get("/").property("program", &program));
    let decision = version.begin().on_request(&mut exchange).await;
    assert!(exchange.request().is_some(), "the request came back");
    decision
}

/// Calls `metrics.add` with so many labels, which all are the same 64 KiB of the guest's memory.
fn labels(count: u64) -> Called {
    let (name, length) = place_of("seen");
    called("add", &[name, length, MANY_PAIRS.0, count, 1, RESULT])
}

#[tokio::test]
async fn what_is_passed_in_one_call_is_no_more_than_the_guests_memory_may_be() {
    let host = Host::new();
    let version = ready(&host).await;
    // 127 labels of two texts of 64 KiB are below the 16 MiB that its memory may have: too many for a metric, and no more.
    assert!(matches!(run(&version, vec![labels(127)]).await, Ok(Decision::Continue)));
    for count in [128, 1_000, MANY_PAIRS.1] {
        let error = run(&version, vec![labels(count)]).await.unwrap_err();
        assert!(matches!(&error, PluginError::Trap { kind: TrapKind::Contract, .. }), "{count}: {error}");
    }
}

#[tokio::test]
async fn what_lies_outside_of_its_memory_is_a_trap() {
    let host = Host::new();
    let version = ready(&host).await;
    let (at, length) = LETTERS;
    assert!(matches!(run(&version, vec![called("info", &[at, length])]).await, Ok(Decision::Continue)));
    for (at, length) in [(MEMORY - 1, 2), (MEMORY, 1), (1 << 31, 1 << 31), (8, u64::from(u32::MAX))] {
        let error = run(&version, vec![called("info", &[at, length])]).await.unwrap_err();
        assert!(matches!(error, PluginError::Trap { .. }), "{error}");
    }
}
