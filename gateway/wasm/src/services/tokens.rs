//! Token buckets in whole numbers: what is refilled is exact to the nanosecond, and nothing drifts.

/// How a bucket is filled. It may be another one at each call: what is in the bucket stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    capacity: u64,
    refill: u64,
    /// Nanoseconds.
    interval: u64,
}

/// A year, so that no product below leaves 128 bits.
const LONGEST_INTERVAL_MS: u64 = 365 * 24 * 3_600 * 1_000;

impl Rate {
    pub(super) fn new(capacity: u64, refill: u64, interval_ms: u64) -> Result<Rate, String> {
        if capacity == 0 {
            return Err("a bucket's capacity is at least 1".to_owned());
        }
        if !(1..=LONGEST_INTERVAL_MS).contains(&interval_ms) {
            return Err(format!("a bucket's interval is 1 to {LONGEST_INTERVAL_MS} ms"));
        }
        Ok(Rate { capacity, refill, interval: interval_ms * 1_000_000 })
    }
}

/// What is in a bucket: `whole` tokens, and `part` of the interval's nanoseconds on the way to the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tokens {
    whole: u64,
    part: u64,
    interval: u64,
    at: u64,
}

/// What came of taking tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) taken: bool,
    pub(super) left: u64,
    /// Milliseconds until as many are there; `u64::MAX`: never.
    pub(super) wait_ms: u64,
}

impl Tokens {
    fn full(now: u64, rate: Rate) -> Tokens {
        Tokens { whole: rate.capacity, part: 0, interval: rate.interval, at: now }
    }

    /// With what was refilled until now. A bucket that is not there is a full one.
    fn refilled(former: Option<Tokens>, now: u64, rate: Rate) -> Tokens {
        let Some(former) = former else { return Tokens::full(now, rate) };
        let interval = u128::from(rate.interval);
        let part = u128::from(former.part) * interval / u128::from(former.interval);
        let elapsed = u128::from(now.saturating_sub(former.at));
        let grown = elapsed.saturating_mul(u128::from(rate.refill)).saturating_add(part);
        let whole = u64::try_from(grown / interval).unwrap_or(u64::MAX).saturating_add(former.whole);
        if whole >= rate.capacity {
            return Tokens { at: now.max(former.at), ..Tokens::full(now, rate) };
        }
        let part = u64::try_from(grown % interval).unwrap_or_default();
        Tokens { whole, part, interval: rate.interval, at: now.max(former.at) }
    }

    /// Takes `cost` where it is there. The bucket that is left, with the time at which it is full again: from then on it
    /// need not be kept. None for that: never.
    pub(super) fn take(former: Option<Tokens>, now: u64, rate: Rate, cost: u64) -> (Tokens, Option<u64>, Taken) {
        let mut tokens = Tokens::refilled(former, now, rate);
        let taken = cost <= tokens.whole;
        if taken {
            tokens.whole -= cost;
        }
        let wait = if cost > rate.capacity { None } else { tokens.until(cost, rate) };
        let wait_ms = wait.map_or(u64::MAX, |wait| wait.div_ceil(1_000_000));
        let full = tokens.until(rate.capacity, rate).map(|wait| tokens.at.saturating_add(wait));
        (tokens, full, Taken { taken, left: tokens.whole, wait_ms })
    }

    /// Nanoseconds until so many tokens are there; none where nothing is refilled.
    fn until(&self, wanted: u64, rate: Rate) -> Option<u64> {
        let missing = wanted.saturating_sub(self.whole);
        if missing == 0 {
            return Some(0);
        }
        let missing = u128::from(missing) * u128::from(rate.interval) - u128::from(self.part);
        let refill = u128::from(rate.refill);
        (refill > 0).then(|| u64::try_from(missing.div_ceil(refill)).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn rate(capacity: u64, refill: u64, interval_ms: u64) -> Rate {
        Rate::new(capacity, refill, interval_ms).unwrap()
    }

    #[test]
    fn a_new_bucket_is_full_and_fills_evenly() {
        let rate = rate(3, 1, 100);
        let (tokens, full, taken) = Tokens::take(None, 0, rate, 2);
        assert_eq!(taken, Taken { taken: true, left: 1, wait_ms: 100 });
        assert_eq!(full, Some(200 * MS));
        let (tokens, _, taken) = Tokens::take(Some(tokens), 50 * MS, rate, 2);
        assert_eq!(taken, Taken { taken: false, left: 1, wait_ms: 50 });
        let (_, _, taken) = Tokens::take(Some(tokens), 100 * MS, rate, 2);
        assert_eq!(taken, Taken { taken: true, left: 0, wait_ms: 200 });
    }

    #[test]
    fn what_is_refilled_does_not_drift() {
        // A third of a token each millisecond, asked a thousand times a millisecond: no part of it is lost.
        let rate = rate(u64::MAX, 1, 3);
        let (mut tokens, _, _) = Tokens::take(None, 0, rate, u64::MAX);
        for step in 1..=3_000_000u64 {
            tokens = Tokens::take(Some(tokens), step * 1_000, rate, 0).0;
        }
        assert_eq!((tokens.whole, tokens.part), (1_000, 0));
    }

    #[test]
    fn what_can_never_be_had_is_told() {
        let (tokens, _, taken) = Tokens::take(None, 0, rate(5, 1, 10), 6);
        assert_eq!(taken, Taken { taken: false, left: 5, wait_ms: u64::MAX });
        let (_, full, taken) = Tokens::take(Some(tokens), 0, rate(5, 0, 10), 5);
        assert_eq!((full, taken), (None, Taken { taken: true, left: 0, wait_ms: u64::MAX }));
    }

    #[test]
    fn another_rate_keeps_what_is_there() {
        let (tokens, _, _) = Tokens::take(None, 0, rate(10, 1, 100), 6);
        let tokens = Tokens::take(Some(tokens), 50 * MS, rate(10, 1, 100), 0).0;
        // Half of a token stays half of one.
        let (tokens, _, taken) = Tokens::take(Some(tokens), 50 * MS, rate(10, 1, 10), 0);
        assert_eq!((taken.left, tokens.part), (4, 5 * MS));
        let (_, _, taken) = Tokens::take(Some(tokens), 50 * MS, rate(2, 1, 10), 0);
        assert_eq!(taken.left, 2, "a smaller bucket holds less");
    }

    #[test]
    fn the_largest_numbers_are_no_trouble() {
        let rate = rate(u64::MAX, u64::MAX, LONGEST_INTERVAL_MS);
        let (tokens, full, _) = Tokens::take(None, 0, rate, u64::MAX);
        assert!(full.is_some());
        assert_eq!(Tokens::take(Some(tokens), u64::MAX, rate, 0).0.whole, u64::MAX);
        assert!(Rate::new(0, 1, 1).is_err() && Rate::new(1, 1, 0).is_err() && Rate::new(1, 1, u64::MAX).is_err());
    }
}
