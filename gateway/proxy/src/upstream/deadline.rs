//! Until when an endpoint is waited for, whatever the engine's own timeouts say.
//!
//! The engine has one timeout for the response's head and for each pause of its body, fixed when the request is sent; over
//! HTTP/2 it begins with the request's head, so that it would cut a long upload. So the engine's is the pause's, and the
//! rest is a deadline that the request moves as it goes on: it is armed when the request has ended, changed when the
//! response begins, and gone in a tunnel. It is read where bytes are waited for: in the stream of an HTTP/1 connection,
//! and in the session of an HTTP/2 stream. Who waits also looks now and then whether there is still anybody to wait for.
//!
//! On the same way a request gives up: the engine goes on waiting for an answer over HTTP/2 after a filter has refused the
//! request's body. And on it a stream of HTTP/2 says that its response ended with the head, which the engine keeps to itself.

use super::lost::{LOST_AFTER, is_lost};
use futures::task::AtomicWaker;
use pingora_core::protocols::Digest;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_http::ResponseHeader;
use std::os::fd::RawFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::time::Sleep;

/// Instants are counted from here.
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// No deadline.
const NONE: u64 = 0;

/// The request wants no answer any more.
const GIVEN_UP: u64 = 1;

/// The deadline of one connection (HTTP/1) or stream (HTTP/2).
#[derive(Debug, Default)]
pub(super) struct ReadDeadline {
    /// Microseconds since [`ORIGIN`], and two.
    at: AtomicU64,
    reader: AtomicWaker,
    ended_with_head: AtomicBool,
}

impl ReadDeadline {
    fn store(&self, at: u64) {
        let before = self.at.swap(at, SeqCst);
        // Who waits for longer finds that out when the timer fires. To wake a request for it, which mostly is the one that
        // sets it, would be to poll all of it once more.
        if at != NONE && (before == NONE || at < before) {
            self.reader.wake();
        }
    }

    fn at(&self) -> Option<Instant> {
        match self.at.load(SeqCst) {
            NONE => None,
            at => ORIGIN.checked_add(Duration::from_micros(at.saturating_sub(2))),
        }
    }

    fn is_given_up(&self) -> bool {
        self.at.load(SeqCst) == GIVEN_UP
    }

    /// The response has no body, and no trailers: its stream ended with the head.
    pub(super) fn note_end_with_head(&self) {
        self.ended_with_head.store(true, SeqCst);
    }

    /// Ready once the deadline has passed, or the endpoint at the other end of `socket` is lost. The timer is made when it
    /// is first needed, and from then on moved only where it fires too late, or has fired: a connection that serves many
    /// requests hardly touches it.
    pub(super) fn poll(&self, timer: &mut Option<Pin<Box<Sleep>>>, socket: RawFd, cx: &mut Context<'_>) -> Poll<Over> {
        self.reader.register(cx.waker());
        let Some(at) = self.at() else { return Poll::Pending };
        if self.is_given_up() {
            return Poll::Ready(Over::GivenUp);
        }
        let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next_look(at).into())));
        if timer.deadline() > at.into() {
            timer.as_mut().reset(at.into());
        }
        while timer.as_mut().poll(cx).is_ready() {
            let Some(at) = self.at() else { return Poll::Pending };
            if at <= Instant::now() {
                return Poll::Ready(Over::TimedOut);
            }
            if is_lost(socket, LOST_AFTER) {
                return Poll::Ready(Over::Lost);
            }
            timer.as_mut().reset(next_look(at).into());
        }
        Poll::Pending
    }
}

/// Why waiting is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    TimedOut,
    /// Nobody is there any more.
    Lost,
    /// The request is answered by somebody else.
    GivenUp,
}

/// Between two looks at whether the endpoint is still there.
const LOOK: Duration = Duration::from_secs(2);

fn next_look(deadline: Instant) -> Instant {
    Instant::now().checked_add(LOOK).map_or(deadline, |look| look.min(deadline))
}

/// What the engine hands on of a connection or stream, with its deadline in it.
pub(super) fn digest_of(deadline: &Arc<ReadDeadline>) -> Arc<ProxyDigest> {
    // The engine's type wants a response; nobody looks at it.
    let response = ResponseHeader::build_no_case(200, Some(0))
        .unwrap_or_else(|_| ResponseHeader::from(http::Response::new(()).into_parts().0));
    Arc::new(ProxyDigest::new(Box::new(response), Some(Box::new(deadline.clone()))))
}

/// A request's hold on the deadline of what carries it. Dropped, the deadline is gone, unless another request has set its
/// own meanwhile.
#[derive(Debug)]
pub struct Deadline {
    deadline: Arc<ReadDeadline>,
    set: u64,
}

impl Deadline {
    /// By the digest that `connected_to_upstream` gives.
    pub fn of(digest: &Digest) -> Option<Self> {
        let deadline = digest.proxy_digest.as_ref()?.user_data.as_ref()?.downcast_ref::<Arc<ReadDeadline>>()?;
        deadline.store(NONE);
        Some(Deadline { deadline: deadline.clone(), set: NONE })
    }

    /// Another hold on the same: what was set last is what counts.
    pub fn share(&self) -> Self {
        Deadline { deadline: self.deadline.clone(), set: self.set }
    }

    /// `None`: nothing is waited for in vain any more but by the engine's own timeouts.
    pub fn set(&mut self, at: Option<Instant>) {
        let since = at.map(|at| at.saturating_duration_since(*ORIGIN).as_micros());
        self.set = since.map_or(NONE, |since| u64::try_from(since).unwrap_or(u64::MAX - 2) + 2);
        self.deadline.store(self.set);
    }

    /// Nothing is waited for any more: who does so is told at once.
    pub fn give_up(&mut self) {
        self.set = GIVEN_UP;
        self.deadline.store(GIVEN_UP);
    }

    /// Whether the response ended with its head, where that is known: over HTTP/2, once the head has been read.
    pub fn response_ended_with_head(&self) -> bool {
        self.deadline.ended_with_head.load(SeqCst)
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        // Lost against a request that has taken the pooled connection since: that one's deadline stands.
        let _ = self.deadline.at.compare_exchange(self.set, NONE, SeqCst, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn passed(deadline: &ReadDeadline, timer: &mut Option<Pin<Box<Sleep>>>) {
        let over = std::future::poll_fn(|cx| deadline.poll(timer, -1, cx)).await;
        assert_eq!(over, Over::TimedOut);
    }

    #[tokio::test]
    async fn a_reader_that_waits_learns_of_a_deadline_that_is_set_later_or_moved() {
        let shared = Arc::new(ReadDeadline::default());
        let digest = Digest { proxy_digest: Some(digest_of(&shared)), ..Digest::default() };
        let mut request = Deadline::of(&digest).unwrap();
        let mut timer = None;
        request.set(Instant::now().checked_add(Duration::from_secs(3600)));
        let set = async {
            tokio::task::yield_now().await;
            request.set(Some(Instant::now()));
        };
        tokio::time::timeout(Duration::from_secs(20), async { tokio::join!(passed(&shared, &mut timer), set) })
            .await
            .unwrap();
    }

    #[derive(Default)]
    struct Wakes(AtomicU64);

    impl std::task::Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[tokio::test]
    async fn a_reader_is_woken_only_where_it_would_wait_for_too_long() {
        let wakes = Arc::new(Wakes::default());
        let waker = wakes.clone().into();
        let (deadline, mut timer) = (ReadDeadline::default(), None);
        let hour = 3_600_000_000;
        for (at, woken) in [(hour, 1), (2 * hour, 1), (NONE, 1), (2 * hour, 2), (hour, 3), (NONE, 3)] {
            assert!(deadline.poll(&mut timer, -1, &mut Context::from_waker(&waker)).is_pending());
            deadline.store(at);
            assert_eq!(wakes.0.load(SeqCst), woken, "{at}");
        }
    }

    #[tokio::test]
    async fn a_reader_that_waits_learns_that_its_request_was_given_up() {
        let shared = Arc::new(ReadDeadline::default());
        let digest = Digest { proxy_digest: Some(digest_of(&shared)), ..Digest::default() };
        let mut request = Deadline::of(&digest).unwrap();
        request.set(Instant::now().checked_add(Duration::from_secs(3600)));
        let mut timer = None;
        let waits = std::future::poll_fn(|cx| shared.poll(&mut timer, -1, cx));
        let gives_up = async {
            tokio::task::yield_now().await;
            request.give_up();
        };
        let (over, ()) =
            tokio::time::timeout(Duration::from_secs(20), async { tokio::join!(waits, gives_up) }).await.unwrap();
        assert_eq!(over, Over::GivenUp);
        drop(request);
        assert_eq!(shared.at(), None);
    }

    #[test]
    fn a_request_that_is_over_takes_back_its_own_deadline_only() {
        let shared = Arc::new(ReadDeadline::default());
        let digest = Digest { proxy_digest: Some(digest_of(&shared)), ..Digest::default() };
        let mut first = Deadline::of(&digest).unwrap();
        first.set(Instant::now().checked_add(Duration::from_secs(1)));
        let mut second = Deadline::of(&digest).unwrap();
        second.set(Instant::now().checked_add(Duration::from_secs(9)));
        drop(first);
        assert!(shared.at().is_some());
        drop(second);
        assert_eq!(shared.at(), None);
    }
}
