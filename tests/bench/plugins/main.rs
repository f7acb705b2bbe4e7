//! What each policy that ships costs a request, in each mode: `make bench-plugins`.
//!
//! ```text
//! plugins/NAME/README.md (its example) ─► subject ─► the gateway's engine, in this process ─► measure ─► report
//! ```
//!
//! A call is a whole exchange: all phases that the policy has, from `begin` to the log. With `--document` the figures are
//! written to docs/benchmarks-plugins.md and into the policies' pages.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a bench that can't go on ends")]

mod measure;
mod report;
mod subject;

use measure::Figures;
use prometheus_client::registry::Registry;
use sluice_model::plugin::InstanceMode;
use sluice_wasm::{HostOptions, PluginHost};
use std::time::Duration;
use subject::Subject;

/// What was measured of one policy.
struct Row {
    policy: String,
    what: String,
    fresh: Figures,
    pooled: Figures,
}

fn main() {
    let mut document = false;
    let (mut only, mut a_round) = (Vec::new(), Duration::from_millis(200));
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // Cargo's own.
            "--bench" => {}
            "--document" => document = true,
            "--round" => {
                let milliseconds = arguments.next().and_then(|text| text.parse().ok());
                a_round = Duration::from_millis(milliseconds.expect("--round MILLISECONDS"));
            }
            policy if !policy.starts_with('-') => only.push(policy.to_owned()),
            other => panic!("{other}: there is --document, --round MILLISECONDS, and names of policies"),
        }
    }
    assert!(!document || only.is_empty(), "--document is of all policies");

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let host = PluginHost::new(HostOptions::default(), &mut Registry::default()).expect("a host");
    let mut rows = Vec::new();
    let load = report::load_average();
    for subject in Subject::all().into_iter().filter(|subject| only.is_empty() || only.contains(&subject.policy)) {
        let figures = [InstanceMode::Fresh, InstanceMode::Pooled].map(|mode| {
            let version = runtime.block_on(subject.ready(&host, mode));
            runtime.block_on(subject.is_answered_as_expected(&version));
            measure::figures(&subject, &version, a_round)
        });
        let [fresh, pooled] = figures;
        let row = Row { policy: subject.policy.clone(), what: subject.what.clone(), fresh, pooled };
        println!("{}", row.line());
        rows.push(row);
    }
    if document {
        report::write(&rows, load);
    }
}
