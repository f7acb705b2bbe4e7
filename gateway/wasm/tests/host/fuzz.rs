//! How long the fuzzed targets run, and how a find is repeated.
//!
//! `FUZZ_SECONDS` says for how long each of them tries programs; without it `PROPTEST_CASES` says how many (1,500, or what
//! the target says). `FUZZ_SEED` is the first batch's seed, as a find tells it.

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseResult, TestRng, TestRunner};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Programs of one seed.
const BATCH: u32 = 250;

fn told<T: FromStr>(name: &str) -> Option<T> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}: `{value}` is no number")))
}

/// Tries programs until the time is over, or `cases` of them. Panics at the first for which `test` does not hold, made as
/// small as it gets, with the seed that finds it again.
pub(crate) fn run<S: Strategy>(target: &str, cases: u32, programs: &S, test: impl Fn(S::Value) -> TestCaseResult) {
    let time = told("FUZZ_SECONDS").map(Duration::from_secs);
    let cases = told("PROPTEST_CASES").unwrap_or(cases);
    let first: u64 = told("FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..));
    let (began, mut seed, mut tried) = (Instant::now(), first, 0);
    while time.map_or(tried < cases, |time| began.elapsed() < time) {
        let batch = if time.is_some() { BATCH } else { BATCH.min(cases - tried) };
        let config = Config { cases: batch, failure_persistence: None, max_shrink_iters: 1_000, ..Config::default() };
        // The quick one: in a debug build the other takes longer than the programs. Its state must not be zero.
        let mut bytes = [1; 16];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::XorShift, &bytes);
        if let Err(found) = TestRunner::new_with_rng(config, rng).run(programs, &test) {
            let after = began.elapsed();
            panic!("{target}: found after {after:.1?} and {tried} programs; FUZZ_SEED={seed} finds it again: {found}");
        }
        tried += batch;
        seed = seed.wrapping_add(1);
    }
    println!(
        "{target}: {tried} programs in {:.1?}, seeds {first} to {}: no find",
        began.elapsed(),
        seed.wrapping_sub(1)
    );
}
