//! How long to wait before the next try.

use std::time::Duration;

/// The pauses of watches. The defaults are meant; tests take shorter ones.
#[derive(Clone, Copy, Debug)]
pub struct Pauses {
    /// After the first failure; doubles from there. Default 50 ms.
    pub first: Duration,
    /// The longest. Default 5 s.
    pub last: Duration,
    /// Between looks for what is not there (a CRD) or not allowed. Default 5 s.
    pub absent: Duration,
    /// How long a kind that was served and is answered with 404 all of a sudden keeps its objects: an API server that
    /// has just started may not know its CRDs yet. Default 60 s.
    pub grace: Duration,
    /// Longest time that an object waits for a Secret or ConfigMap that it is the first to name. Default 2 s.
    pub held: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Pauses {
            first: Duration::from_millis(50),
            last: Duration::from_secs(5),
            absent: Duration::from_secs(5),
            grace: Duration::from_secs(60),
            held: Duration::from_secs(2),
        }
    }
}

/// Doubles, with jitter: a random share between a half and the whole, so that replicas do not ask in step.
#[derive(Debug)]
pub(super) struct Backoff {
    pauses: Pauses,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(pauses: Pauses) -> Backoff {
        Backoff { pauses, next: pauses.first }
    }

    /// The next pause; longer where the server asks for that, within the bound.
    pub(super) fn next(&mut self, asked: Option<Duration>) -> Duration {
        let pause = jitter(self.next).max(asked.unwrap_or_default()).min(self.pauses.last);
        self.next = (self.next * 2).min(self.pauses.last);
        pause
    }

    pub(super) fn reset(&mut self) {
        self.next = self.pauses.first;
    }
}

pub(super) fn jitter(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_begin_again() {
        let pauses = Pauses::default();
        let mut backoff = Backoff::new(pauses);
        let first = backoff.next(None);
        assert!(first >= pauses.first / 2 && first <= pauses.first, "{first:?}");
        for _ in 0..20 {
            assert!(backoff.next(None) <= pauses.last);
        }
        assert!(backoff.next(None) >= pauses.last / 2);
        assert_eq!(backoff.next(Some(Duration::from_secs(600))), pauses.last);
        backoff.reset();
        assert!(backoff.next(None) <= pauses.first);
    }
}
