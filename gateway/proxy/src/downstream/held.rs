//! Memory that clients make us hold with little of their own, and its bounds: for a connection, and for the process.
//!
//! A few bytes on the wire become a large header section (HPACK refers to a long field with one byte, on as many streams
//! as there may be), and a shut window keeps a response where it is. What all connections hold is counted; where that is
//! too much, the connection that holds most is closed first, and others are served on.

use prometheus_client::metrics::gauge::Gauge;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Bytes that a connection takes from the process's budget at a time, and keeps until it ends once it has taken some:
/// ordinary connections touch the counter that all share once in their life.
const QUANTUM: u64 = 4 * 1024;

/// Full-size header sections that one connection may hold at a time: with the default of 64 KiB, 1 MiB. Ordinary
/// clients stay below with all their streams open.
const SECTIONS: u64 = 16;

/// Of the whole process.
pub(super) struct Budget {
    limit: u64,
    /// What is held, as the metric shows it.
    held: Gauge,
    /// Locked when a connection comes or goes, and when the limit is passed; by no request.
    shares: Mutex<HashMap<u64, Arc<Share>>>,
    next: AtomicU64,
}

/// Of one connection.
struct Share {
    bytes: AtomicU64,
    /// The part of the budget that is taken for them.
    reserved: AtomicU64,
    /// It is being closed, and its part has been given back in advance.
    gone: AtomicBool,
    alarm: Arc<Notify>,
}

impl Budget {
    /// `held` shows what is held.
    pub(super) fn new(limit: u64, held: Gauge) -> Arc<Self> {
        Arc::new(Budget { limit, held, shares: Mutex::default(), next: AtomicU64::new(0) })
    }

    fn shares(&self) -> MutexGuard<'_, HashMap<u64, Arc<Share>>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is held, and tells how much it is then.
    fn change(&self, from: u64, to: u64) -> u64 {
        let change = i64::try_from(to).unwrap_or(i64::MAX) - i64::try_from(from).unwrap_or(i64::MAX);
        u64::try_from(self.held.inc_by(change) + change).unwrap_or(0)
    }

    /// Tells the connection that holds most to close.
    fn close_the_worst(&self) {
        let shares = self.shares();
        let open = shares.values().filter(|share| !share.gone.load(Ordering::Acquire));
        let Some(worst) = open.max_by_key(|share| share.bytes.load(Ordering::Acquire)) else { return };
        worst.gone.store(true, Ordering::Release);
        self.change(worst.reserved.swap(0, Ordering::AcqRel), 0);
        worst.alarm.notify_one();
    }

    /// Counts bytes of a connection that can't be told to close. `None`: there is no room.
    pub(super) fn charge(self: &Arc<Self>, bytes: u64) -> Option<Charge> {
        let charge = Charge { budget: self.clone(), bytes };
        if self.change(0, bytes) <= self.limit {
            return Some(charge);
        }
        self.close_the_worst();
        (u64::try_from(self.held.get()).unwrap_or(0) <= self.limit).then_some(charge)
    }
}

/// Bytes for as long as it is held.
pub(super) struct Charge {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.change(self.bytes, 0);
    }
}

/// One connection's place in a [`Budget`].
pub(super) struct Holder {
    budget: Arc<Budget>,
    id: u64,
    share: Arc<Share>,
}

impl std::fmt::Debug for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Holder").field("bytes", &self.share.bytes).finish_non_exhaustive()
    }
}

impl Holder {
    /// `alarm` is notified when the connection is to be closed for what it holds.
    pub(super) fn new(budget: &Arc<Budget>, alarm: &Arc<Notify>) -> Self {
        let share = Arc::new(Share {
            bytes: AtomicU64::new(0),
            reserved: AtomicU64::new(0),
            gone: AtomicBool::new(false),
            alarm: alarm.clone(),
        });
        let id = budget.next.fetch_add(1, Ordering::Relaxed);
        budget.shares().insert(id, share.clone());
        Holder { budget: budget.clone(), id, share }
    }

    /// Whether the connection is being closed for what it holds.
    pub(super) fn is_gone(&self) -> bool {
        self.share.gone.load(Ordering::Acquire)
    }

    /// The connection holds so many bytes now. `false`: it is to be closed, as of all it holds most.
    pub(super) fn set(&self, bytes: u64) -> bool {
        self.share.bytes.store(bytes, Ordering::Release);
        self.settle(bytes)
    }

    fn settle(&self, bytes: u64) -> bool {
        let share = &*self.share;
        if self.is_gone() {
            return false;
        }
        let former = share.reserved.load(Ordering::Acquire);
        let wanted = bytes.div_ceil(QUANTUM).saturating_mul(QUANTUM).max(former.min(QUANTUM));
        if wanted == former {
            return true;
        }
        // What is added to the total is what this exchange has changed: requests on several threads may race here.
        let former = share.reserved.swap(wanted, Ordering::AcqRel);
        let total = self.budget.change(former, wanted);
        if wanted > former && total > self.budget.limit {
            self.budget.close_the_worst();
        }
        !self.is_gone()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.budget.shares().remove(&self.id);
        self.share.gone.store(true, Ordering::Release);
        self.budget.change(self.share.reserved.swap(0, Ordering::AcqRel), 0);
    }
}

/// What the header sections of one HTTP/2 connection's requests hold.
pub(super) struct HeaderBudget {
    holder: Holder,
    limit: u64,
}

impl HeaderBudget {
    /// `section`: the limit of one header section in bytes.
    pub(super) fn new(section: u64, budget: &Arc<Budget>, alarm: &Arc<Notify>) -> Arc<Self> {
        Arc::new(HeaderBudget { holder: Holder::new(budget, alarm), limit: section.saturating_mul(SECTIONS) })
    }

    /// Counts a request's fields for as long as the result is held. `None`: the connection holds too much, or of all
    /// that do together the most.
    pub(super) fn charge(self: &Arc<Self>, headers: &http::HeaderMap) -> Option<HeaderCharge> {
        let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        let bytes = bytes as u64;
        let held = self.holder.share.bytes.fetch_add(bytes, Ordering::AcqRel) + bytes;
        let charge = HeaderCharge { budget: self.clone(), bytes };
        (held <= self.limit && self.holder.settle(held)).then_some(charge)
    }

    pub(super) fn is_gone(&self) -> bool {
        self.holder.is_gone()
    }
}

/// One request's fields.
pub(super) struct HeaderCharge {
    budget: Arc<HeaderBudget>,
    bytes: u64,
}

impl Drop for HeaderCharge {
    fn drop(&mut self) {
        let holder = &self.budget.holder;
        let before = holder.share.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        holder.settle(before.saturating_sub(self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(budget: &Budget) -> i64 {
        budget.held.get()
    }

    #[test]
    fn the_connection_that_holds_most_is_closed_first() {
        let budget = Budget::new(100 * QUANTUM, Gauge::default());
        let alarm = Arc::new(Notify::new());
        let (small, large) = (Holder::new(&budget, &alarm), Holder::new(&budget, &alarm));
        assert!(large.set(80 * QUANTUM));
        assert!(small.set(20 * QUANTUM));
        assert!(small.set(30 * QUANTUM), "the one that asks is not the worst");
        assert!(large.is_gone() && !large.set(0));
        assert_eq!(held(&budget), 30 * QUANTUM as i64);
        drop((small, large));
        assert_eq!(held(&budget), 0);
    }

    #[test]
    fn every_byte_counts_in_whole_quanta_and_the_first_is_kept() {
        let budget = Budget::new(100 * QUANTUM, Gauge::default());
        let holder = Holder::new(&budget, &Arc::new(Notify::new()));
        assert_eq!(held(&budget), 0);
        holder.set(1);
        assert_eq!(held(&budget), QUANTUM as i64);
        holder.set(0);
        assert_eq!(held(&budget), QUANTUM as i64);
        drop(holder);
        assert_eq!(held(&budget), 0);
    }

    #[test]
    fn what_cannot_be_closed_is_refused_where_nobody_else_can_be() {
        let budget = Budget::new(10, Gauge::default());
        let first = budget.charge(8);
        assert!(first.is_some() && budget.charge(8).is_none());
        drop(first);
        assert_eq!(held(&budget), 0);
        assert!(budget.charge(8).is_some());
    }
}
