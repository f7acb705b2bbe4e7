//! The least rate at which a request body must arrive, while we wait for it, and a response be taken.

use sluice_model::config::Timeouts;
use std::time::{Duration, Instant};

/// Measures over windows of `body_idle`, in which only the time counts that was spent waiting for the client: a slow
/// backend, for which we do not read, is not the client's fault. No timer is needed: a client that sends nothing is cut
/// by the idle timeout, so that one that is measured is one that sends.
#[derive(Debug)]
pub(super) struct BodyRate {
    window: Duration,
    /// Bytes a second; 0: off.
    least: u64,
    waiting_since: Option<Instant>,
    waited: Duration,
    bytes: u64,
}

impl BodyRate {
    pub(super) fn new(timeouts: &Timeouts) -> Self {
        BodyRate {
            window: timeouts.body_idle,
            least: timeouts.body_min_rate,
            waiting_since: None,
            waited: Duration::ZERO,
            bytes: 0,
        }
    }

    /// Of a response: the client is waited for when it takes no more.
    pub(super) fn of_response(timeouts: &Timeouts) -> Self {
        BodyRate { least: timeouts.response_min_rate, ..BodyRate::new(timeouts) }
    }

    /// A read found nothing.
    pub(super) fn waits(&mut self) {
        if self.least > 0 && self.waiting_since.is_none() {
            self.waiting_since = Some(Instant::now());
        }
    }

    /// Nobody waits any more, though nothing came.
    pub(super) fn pauses(&mut self) {
        if let Some(since) = self.waiting_since.take() {
            self.waited += since.elapsed();
        }
    }

    /// A read found `n` bytes. `false`: the last window was below the rate.
    pub(super) fn came(&mut self, n: usize) -> bool {
        self.bytes += n as u64;
        self.pauses();
        if self.least == 0 || self.waited < self.window {
            return true;
        }
        let asked = u128::from(self.least) * self.waited.as_millis() / 1000;
        let enough = u128::from(self.bytes) >= asked;
        self.waited = Duration::ZERO;
        self.bytes = 0;
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(window: Duration, least: u64) -> BodyRate {
        BodyRate::new(&Timeouts { body_idle: window, body_min_rate: least, ..Timeouts::default() })
    }

    #[test]
    fn a_drip_is_noticed_once_a_window_was_waited_for() {
        let mut slow = rate(Duration::ZERO, 1_000_000_000);
        slow.waits();
        std::thread::yield_now();
        slow.waited = Duration::from_secs(1);
        assert!(!slow.came(1));
    }

    #[test]
    fn time_that_we_did_not_wait_does_not_count() {
        let mut unread = rate(Duration::from_secs(3600), 1_000_000);
        assert!(unread.came(1), "bytes that were there already");
        unread.waits();
        assert!(unread.came(1), "the window is not over");
    }

    #[test]
    fn zero_switches_it_off() {
        let mut off = rate(Duration::ZERO, 0);
        off.waits();
        off.waited = Duration::from_secs(1000);
        assert!(off.came(0));
    }
}
