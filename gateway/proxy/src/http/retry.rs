//! Whether a failed try is followed by another one.
//!
//! Never after a byte of the response went to the client, never where the body is no longer held, and within the
//! backend's budget. What could not have been seen by any endpoint may be sent again whatever its method; what may have
//! been seen only where repeating it changes nothing (RFC 9110, section 9.2.2), or where the route's author asked for it.

use crate::upstream::{Failure, RetryPermit, Tried};
use ::http::Method;
use sluice_model::config::Retry;
use std::time::Duration;

/// Before the second try, where the rule does not say; doubled each time.
const BACKOFF: Duration = Duration::from_millis(25);
/// No pause is longer.
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);
/// Least further tries where connections are refused, unless the rule wants none at all: a scale-down ends most pods of a
/// backend at once, moments before their endpoints go. Their pauses add up to 175 ms.
const REFUSED_CONNECTS: u32 = 4;
/// Pooled connections that were found closed do not count as tries; this many of them in a row do.
const STALE_CONNECTIONS: u8 = 3;

/// The tries of one request.
#[derive(Debug, Default)]
pub(super) struct Tries {
    /// Tries that were begun.
    pub(super) begun: u32,
    /// Those after the first, less those that only met a stale connection.
    pub(super) retries: u32,
    pub(super) tried: Tried,
    /// Place in the backend's budget; held while the try runs.
    pub(super) permit: Option<RetryPermit>,
    /// How long to wait before the next try.
    pub(super) pause: Duration,
    /// The answer's status is one that the rule tries again.
    pub(super) on_status: bool,
    stale: u8,
}

/// What is to be known of a failed try.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failed<'a> {
    pub(super) failure: Failure,
    pub(super) method: &'a Method,
    /// The connection came out of the pool.
    pub(super) reused: bool,
    /// The body, or what was read of it, can be sent again.
    pub(super) body_held: bool,
    /// The rule's own timeout of a try passed, not the listener's.
    pub(super) backend_timeout: bool,
}

/// What follows a failed try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    GiveUp,
    /// The connection was stale: again, at once; the endpoint is not to blame.
    Reconnect,
    /// Another endpoint, after a pause.
    Retry(Duration),
}

impl Tries {
    pub(super) fn after_failure(&mut self, policy: &Retry, failed: Failed<'_>) -> Next {
        if !failed.body_held || failed.failure == Failure::Overflow {
            return Next::GiveUp;
        }
        let idempotent = failed.method.is_idempotent();
        if failed.reused && failed.failure == Failure::Reset && idempotent && self.stale < STALE_CONNECTIONS {
            self.stale += 1;
            return Next::Reconnect;
        }
        let wanted = match failed.failure {
            Failure::Refused => policy.reset,
            failure if failure.nothing_sent() => policy.connect_failure,
            Failure::Reset | Failure::Lost => policy.reset && idempotent,
            // Only where the author asked for retries: an endpoint that is slow gets no faster by more requests.
            Failure::Timeout if failed.backend_timeout => {
                policy.codes.contains(&504) || (!policy.codes.is_empty() && idempotent)
            }
            _ => false,
        };
        let attempts = match failed.failure {
            Failure::Connect if policy.attempts > 0 => policy.attempts.max(REFUSED_CONNECTS),
            _ => policy.attempts,
        };
        if !wanted || self.retries >= attempts {
            return Next::GiveUp;
        }
        Next::Retry(self.pause_before_next(policy, failed.failure.nothing_sent()))
    }

    /// Whether an answer with this status is to be tried again.
    pub(super) fn after_status(&self, policy: &Retry, status: u16, body_held: bool) -> Option<Duration> {
        let wanted = body_held && self.retries < policy.attempts && policy.codes.contains(&status);
        wanted.then(|| self.pause_before_next(policy, false))
    }

    /// The first try after a failed connect goes out at once: another endpoint has done no harm yet.
    fn pause_before_next(&self, policy: &Retry, nothing_sent: bool) -> Duration {
        if nothing_sent && self.retries == 0 && policy.backoff.is_none() {
            return Duration::ZERO;
        }
        let base = policy.backoff.unwrap_or(BACKOFF);
        let grown = base.saturating_mul(1 << self.retries.min(16)).min(LONGEST_BACKOFF.max(base));
        // Up to a quarter more, so that clients that failed together do not come back together.
        grown + grown.mul_f64(fastrand::f64() / 4.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(failure: Failure, method: &Method) -> Failed<'_> {
        Failed { failure, method, reused: false, body_held: true, backend_timeout: false }
    }

    #[test]
    fn what_nobody_has_seen_is_tried_again_whatever_its_method() {
        let policy = Retry::default();
        for failure in [Failure::Connect, Failure::ConnectTimeout, Failure::Tls] {
            let next = Tries::default().after_failure(&policy, failed(failure, &Method::POST));
            assert_eq!(next, Next::Retry(Duration::ZERO), "{failure:?}");
        }
        let off = Retry { connect_failure: false, ..policy };
        assert_eq!(Tries::default().after_failure(&off, failed(Failure::Connect, &Method::GET)), Next::GiveUp);
    }

    #[test]
    fn refused_connections_are_tried_until_the_endpoints_of_ended_pods_have_gone() {
        let (policy, method) = (Retry::default(), Method::POST);
        let next =
            |retries, failure| Tries { retries, ..Tries::default() }.after_failure(&policy, failed(failure, &method));
        assert!(matches!(next(3, Failure::Connect), Next::Retry(pause) if pause >= BACKOFF));
        assert_eq!(next(4, Failure::Connect), Next::GiveUp);
        assert_eq!(next(1, Failure::ConnectTimeout), Next::GiveUp);
        let none = Retry { attempts: 0, ..Retry::default() };
        assert_eq!(Tries::default().after_failure(&none, failed(Failure::Connect, &method)), Next::GiveUp);
    }

    #[test]
    fn a_reset_is_tried_again_only_where_repeating_changes_nothing_rfc9110_9_2_2() {
        let policy = Retry::default();
        let next = |method: &Method| Tries::default().after_failure(&policy, failed(Failure::Reset, method));
        assert!(matches!(next(&Method::GET), Next::Retry(_)));
        assert!(matches!(next(&Method::PUT), Next::Retry(_)));
        assert_eq!(next(&Method::POST), Next::GiveUp);
        assert_eq!(next(&Method::PATCH), Next::GiveUp);
    }

    #[test]
    fn a_lost_endpoint_is_not_tried_again_itself() {
        let policy = Retry::default();
        let lost = |method| Failed { reused: true, ..failed(Failure::Lost, method) };
        let next = Tries::default().after_failure(&policy, lost(&Method::GET));
        assert!(matches!(next, Next::Retry(_)), "{next:?}");
        assert_eq!(Tries::default().after_failure(&policy, lost(&Method::POST)), Next::GiveUp);
    }

    #[test]
    fn a_stale_connection_is_no_try() {
        let (policy, method) = (Retry { attempts: 0, ..Retry::default() }, Method::GET);
        let mut tries = Tries::default();
        let stale = Failed { reused: true, ..failed(Failure::Reset, &method) };
        for _ in 0..STALE_CONNECTIONS {
            assert_eq!(tries.after_failure(&policy, stale), Next::Reconnect);
        }
        assert_eq!(tries.after_failure(&policy, stale), Next::GiveUp);
        let post = Failed { method: &Method::POST, ..stale };
        assert_eq!(Tries::default().after_failure(&policy, post), Next::GiveUp, "it may have been seen");
    }

    #[test]
    fn a_body_that_is_no_longer_held_can_not_be_sent_again() {
        let policy = Retry { codes: vec![503], ..Retry::default() };
        let lost = Failed { body_held: false, ..failed(Failure::Connect, &Method::PUT) };
        assert_eq!(Tries::default().after_failure(&policy, lost), Next::GiveUp);
        assert_eq!(Tries::default().after_status(&policy, 503, false), None);
    }

    #[test]
    fn statuses_are_tried_again_where_the_rule_names_them_and_as_often_as_it_says() {
        let policy = Retry { codes: vec![503], attempts: 2, ..Retry::default() };
        let mut tries = Tries::default();
        assert!(tries.after_status(&policy, 503, true).is_some());
        assert!(tries.after_status(&policy, 500, true).is_none());
        tries.retries = 2;
        assert!(tries.after_status(&policy, 503, true).is_none());
    }

    #[test]
    fn a_timeout_is_tried_again_only_where_the_rule_has_a_policy_of_its_own() {
        let timeout = Failed { backend_timeout: true, ..failed(Failure::Timeout, &Method::GET) };
        assert_eq!(Tries::default().after_failure(&Retry::default(), timeout), Next::GiveUp);
        let asked = Retry { codes: vec![500], ..Retry::default() };
        assert!(matches!(Tries::default().after_failure(&asked, timeout), Next::Retry(_)));
        let listeners = Failed { backend_timeout: false, ..timeout };
        assert_eq!(Tries::default().after_failure(&asked, listeners), Next::GiveUp);
    }

    #[test]
    fn pauses_grow_and_are_bounded() {
        let policy = Retry { backoff: Some(Duration::from_millis(100)), ..Retry::default() };
        let mut tries = Tries::default();
        for (retries, least) in [(0, 100), (1, 200), (2, 400), (9, 1000)] {
            tries.retries = retries;
            let pause = tries.pause_before_next(&policy, true).as_millis();
            assert!((least..=least + least / 4).contains(&pause), "{retries}: {pause}");
        }
    }
}
