//! The scripts' arithmetic against that of stores of a process, with a clock of the test's own.

#[path = "../../../../../tests/src/redis.rs"]
#[allow(unreachable_pub, dead_code, reason = "tests of several rooms have it")]
mod server;

use super::super::tokens::{Rate, Tokens};
use super::scripts::TAKE_TOKENS;
use server::Redis;

/// Buckets on a real server.
struct Buckets {
    connection: redis::Connection,
    script: String,
    _server: Redis,
}

impl Buckets {
    fn start() -> Buckets {
        let server = Redis::start(&[]);
        let client = redis::Client::open(format!("unix://{}", server.socket().display())).unwrap();
        // The clock is an argument, and nothing runs out by the server's own.
        let script = TAKE_TOKENS.code().replace("redis.call('TIME')", "{ ARGV[5], ARGV[6] }");
        let script = script.replace(", 'PX', string.format('%.0f', live))", ")");
        assert!(script.contains("ARGV[5]") && !script.contains("'PX'"));
        Buckets { connection: client.get_connection().unwrap(), script, _server: server }
    }

    /// The interval is milliseconds, the time microseconds.
    fn take(&mut self, key: &str, [capacity, refill, interval]: [u64; 3], cost: u64, now: u64) -> (bool, u64, i64) {
        let mut command = redis::cmd("EVAL");
        command.arg(&self.script).arg(1).arg(key).arg(capacity).arg(refill).arg(interval * 1_000).arg(cost);
        command.arg(now / 1_000_000).arg(now % 1_000_000).query(&mut self.connection).unwrap()
    }
}

#[test]
fn buckets_of_a_redis_are_those_of_a_process() {
    const MOST: u64 = (1 << 53) - 1;
    let mut buckets = Buckets::start();
    let mut random = fastrand::Rng::with_seed(7);
    let origin = 1_700_000_000_000_000u64;
    for (number, capacity) in [1, 2, 10, 1_000, 1_000_000_007, MOST].into_iter().enumerate() {
        for refill in [0, 1, 3, 7, 999_983, 1_000_000_000, MOST] {
            for interval in [1, 3, 1_000, 86_400_000, 31_536_000_000] {
                let (mut former, mut now) = (None, origin);
                let rate = Rate::new(capacity, refill, interval).unwrap();
                let key = format!("{number}-{refill}-{interval}");
                for step in 0..40 {
                    now += match random.u8(..4) {
                        0 => 0,
                        1 => random.u64(..1_000),
                        2 => random.u64(..interval * 1_000),
                        _ => random.u64(..interval * 3_000),
                    };
                    let cost = match random.u8(..4) {
                        0 => 1,
                        1 => capacity,
                        2 => random.u64(..=capacity),
                        _ => capacity.saturating_add(1).min(MOST + 1),
                    };
                    let nanoseconds = (now - origin) * 1_000;
                    let (tokens, full, expected) = Tokens::take(former, nanoseconds, rate, cost);
                    former = if full.is_some_and(|full| full <= nanoseconds) { None } else { Some(tokens) };
                    let (taken, left, wait) = buckets.take(&key, [capacity, refill, interval], cost, now);
                    let at = format!("{capacity} {refill} {interval}: {cost} at {now}, step {step}");
                    assert_eq!((taken, left), (expected.taken, expected.left), "{at}");
                    let wait = u64::try_from(wait).unwrap_or(u64::MAX);
                    // What is told of the time to come is exact where a product of both is; where it is longer than anybody
                    // waits, it is long.
                    let exact = u128::from(capacity) * u128::from(interval) * 1_000 <= u128::from(MOST);
                    let slack = if exact { 0 } else { 1 + expected.wait_ms / (1 << 40) };
                    let is_long = expected.wait_ms >= 1 << 43 && wait >= 1 << 43;
                    assert!(wait.abs_diff(expected.wait_ms) <= slack || is_long, "{at}: {wait} {expected:?}");
                }
            }
        }
    }
}

#[test]
fn another_rate_keeps_what_is_there() {
    let mut buckets = Buckets::start();
    assert_eq!(buckets.take("a", [10, 1, 100], 6, 0), (true, 4, 200));
    assert_eq!(buckets.take("a", [10, 1, 100], 0, 50_000), (true, 4, 0));
    // Half of a token stays half of one.
    assert_eq!(buckets.take("a", [10, 1, 10], 5, 50_000), (false, 4, 5));
    assert_eq!(buckets.take("a", [2, 1, 10], 0, 50_000).1, 2, "a smaller bucket holds less");
}

#[test]
fn a_clock_that_goes_back_takes_nothing() {
    let mut buckets = Buckets::start();
    assert_eq!(buckets.take("a", [3, 1, 1_000], 2, 9_000_000), (true, 1, 1_000));
    assert_eq!(buckets.take("a", [3, 1, 1_000], 1, 2_000_000), (true, 0, 1_000));
    assert_eq!(buckets.take("a", [3, 1, 1_000], 1, 9_500_000), (false, 0, 500));
    assert_eq!(buckets.take("a", [3, 1, 1_000], 1, 10_000_000), (true, 0, 1_000));
}
