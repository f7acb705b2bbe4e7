//! What a route look-up costs: time and memory by the number of routes, with the `matchit` crate on the same keys.
//!
//! `cargo bench -p sluice-model --bench matcher` prints the tables of docs/benchmarks-matcher.md. Both sides stand behind
//! the same [`HostTable`], as in the data plane, and both answers are compared for every key before anything is timed.
//! Time is CPU time of the thread, so that other work on the machine disturbs little; rounds of all scenarios are
//! interleaved, and their median and 95th percentile are printed. Memory is the growth of the resident set while 200,000
//! routes' matchers (several copies of small scenarios) are built, in a process of its own.

#![allow(clippy::unwrap_used, reason = "a bench that cannot run says so by panicking")]

mod routes;

use routes::{Keys, SCENARIOS, Scenario};
use rustix::time::{ClockId, clock_gettime};
use sluice_model::HostTable;
use sluice_model::config::{PathMatch, PathPolicy, VirtualHost};
use sluice_model::matcher::{HostMatcher, RequestParts};
use std::hint::black_box;
use std::sync::Arc;

const ROUNDS: usize = 21;
const KEYS: usize = 200_000;
/// Routes to build for a reading of memory.
const MEMORY_ROUTES: usize = 200_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, scenario, side] = arguments.as_slice()
        && flag == "--memory"
    {
        return memory_in_this_process(scenario, side);
    }
    let runs: Vec<Run> = SCENARIOS.iter().map(|name| Run::new(Scenario::new(name))).collect();
    let mut times = vec![(Vec::new(), Vec::new()); runs.len()];
    for _ in 0..ROUNDS {
        for (run, (ours, peers)) in runs.iter().zip(&mut times) {
            ours.push(time(&run.keys, |host, path| find(&run.table, host, path)));
            if let Some(peer) = &run.peer {
                peers.push(time(&run.keys, |host, path| find_peer(peer, host, path)));
            }
        }
    }
    println!("| scenario | ns a look-up | p95 | matchit | ratio | bytes a route | matchit | ns a route to build |");
    println!("|---|---|---|---|---|---|---|---|");
    for (run, (mut ours, mut peers)) in runs.iter().zip(times) {
        let name = run.scenario.name;
        let (median, p95) = quantiles(&mut ours);
        let bytes = memory(name, "ours");
        let (peer, ratio, peer_bytes) = if peers.is_empty() {
            Default::default()
        } else {
            let (peer, _) = quantiles(&mut peers);
            (format!("{peer:.0}"), format!("{:.2}", median / peer), memory(name, "matchit"))
        };
        println!("| {name} | {median:.0} | {p95:.0} | {peer} | {ratio} | {bytes} | {peer_bytes} | {:.0} |", run.build);
    }
    let forms: Vec<f64> = (0..ROUNDS).map(|_| time(&runs[0].keys, normalize)).collect();
    println!("\nThe normal form of a path that is normal: {:.0} ns.", quantiles(&mut forms.clone()).0);
}

struct Run {
    scenario: Scenario,
    keys: Keys,
    table: HostTable<Arc<HostMatcher>>,
    peer: Option<HostTable<Arc<matchit::Router<u32>>>>,
    /// ns a route; the least of a few.
    build: f64,
}

impl Run {
    fn new(scenario: Scenario) -> Self {
        let keys = scenario.keys(KEYS);
        let table = build(&scenario.hosts);
        let once = |_| {
            let start = now();
            black_box(build(&scenario.hosts));
            (now() - start) as f64 / scenario.routes() as f64
        };
        let build = (0..5).map(once).fold(f64::MAX, f64::min);
        let peer = scenario.peer.then(|| build_peer(&scenario.hosts));
        if let Some(peer) = &peer {
            keys.each(|host, path| {
                assert_eq!(find(&table, host, path), find_peer(peer, host, path), "{host}{path}");
            });
        }
        let mut hits = 0;
        keys.each(|host, path| hits += usize::from(find(&table, host, path).is_some()));
        let share = hits as f64 / KEYS as f64;
        assert!((0.79..0.81).contains(&share), "{}: {share} of the keys are found", scenario.name);
        Run { scenario, keys, table, peer, build }
    }
}

fn build(hosts: &[VirtualHost]) -> HostTable<Arc<HostMatcher>> {
    let mut table = HostTable::default();
    for host in hosts {
        table.insert(&host.hostname, Arc::new(HostMatcher::new(host)));
    }
    table
}

fn find(table: &HostTable<Arc<HostMatcher>>, host: &str, target: &str) -> Option<u32> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let request = RequestParts { path, method: &http::Method::GET, headers: routes::fields(), query };
    table.candidates(host).find_map(|matcher| matcher.find(&request))
}

/// A prefix is three entries there: itself, with a final slash, and all below it.
fn build_peer(hosts: &[VirtualHost]) -> HostTable<Arc<matchit::Router<u32>>> {
    let mut table = HostTable::default();
    for host in hosts {
        let mut router = matchit::Router::new();
        for (index, route) in (0..).zip(host.matches.iter()) {
            let paths = match &route.path {
                PathMatch::Exact(path) => vec![path.to_string()],
                PathMatch::Prefix(path) => vec![path.to_string(), format!("{path}/"), format!("{path}/{{*rest}}")],
                PathMatch::Regex(_) => unreachable!("it has no counterpart in matchit"),
            };
            for path in paths {
                router.insert(path, index).unwrap();
            }
        }
        table.insert(&host.hostname, Arc::new(router));
    }
    table
}

fn find_peer(table: &HostTable<Arc<matchit::Router<u32>>>, host: &str, target: &str) -> Option<u32> {
    let (path, _) = target.split_once('?').unwrap_or((target, ""));
    table.candidates(host).find_map(|router| router.at(path).ok().map(|found| *found.value))
}

fn normalize(_: &str, target: &str) -> Option<u32> {
    let path = sluice_model::path::normalize(target.as_bytes(), PathPolicy::default());
    path.ok().map(|path| path.len() as u32)
}

/// Nanoseconds a key.
fn time(keys: &Keys, find: impl Fn(&str, &str) -> Option<u32>) -> f64 {
    let start = now();
    keys.each(|host, path| {
        black_box(find(black_box(host), black_box(path)));
    });
    (now() - start) as f64 / KEYS as f64
}

/// CPU time of this thread in ns.
fn now() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn quantiles(values: &mut [f64]) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[values.len() * 95 / 100])
}

/// Bytes a route, from a process that does nothing else.
fn memory(scenario: &str, side: &str) -> String {
    let output = std::env::current_exe()
        .and_then(|exe| std::process::Command::new(exe).args(["--memory", scenario, side]).output())
        .unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn memory_in_this_process(name: &str, side: &str) {
    let name = SCENARIOS.iter().find(|s| **s == name).unwrap();
    let scenario = Scenario::new(name);
    let copies = MEMORY_ROUTES.div_ceil(scenario.routes());
    let copy = || -> Box<dyn std::any::Any> {
        if side == "ours" { Box::new(build(&scenario.hosts)) } else { Box::new(build_peer(&scenario.hosts)) }
    };
    // The first one takes up what the making of the scenario has left free.
    let first = copy();
    let before = resident();
    let keep: Vec<_> = (0..copies).map(|_| copy()).collect();
    println!("{:.0}", (resident() - before) as f64 / (scenario.routes() * keep.len()) as f64);
    drop(first);
}

/// Bytes of the resident set.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}
