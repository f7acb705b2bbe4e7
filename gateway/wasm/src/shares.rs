//! What all plugins draw on together, shared so that none can take it from the others.
//!
//! Half of it is divided equally: that part of a plugin's is its own, whatever the others do. The other half is for whoever
//! comes first, so that a busy plugin has more than an idle one. One addition a draw on the request path, no lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Release};

/// Something that there is a fixed amount of.
#[derive(Debug)]
pub(crate) struct Shares {
    total: u64,
    members: AtomicU64,
    /// Of each member, its own; follows the number of members.
    own: AtomicU64,
    /// Of the common half, so much is taken.
    borrowed: AtomicU64,
}

impl Shares {
    pub(crate) fn new(total: u64) -> Arc<Shares> {
        Arc::new(Shares { total, members: AtomicU64::new(0), own: AtomicU64::new(0), borrowed: AtomicU64::new(0) })
    }

    fn common(&self) -> u64 {
        self.total - self.total / 2
    }

    fn divide(&self, members: u64) {
        self.own.store(self.total / 2 / members.max(1), Release);
    }

    pub(crate) fn join(self: &Arc<Self>) -> Share {
        self.divide(self.members.fetch_add(1, AcqRel) + 1);
        Share { shares: self.clone(), used: AtomicU64::new(0), borrowed: AtomicU64::new(0) }
    }
}

/// What one plugin has of it.
#[derive(Debug)]
pub(crate) struct Share {
    shares: Arc<Shares>,
    used: AtomicU64,
    /// Of `used`, what came out of the common half.
    borrowed: AtomicU64,
}

impl Share {
    /// Whether there was enough; if so it is taken.
    pub(crate) fn take(&self, amount: u64) -> bool {
        // Counted first, so that two can't both see the last of it.
        let used = self.used.fetch_add(amount, AcqRel) + amount;
        // The part of it that is more than its own.
        let beyond = used.saturating_sub(self.shares.own.load(Acquire)).min(amount);
        if beyond == 0 {
            return true;
        }
        if self.shares.borrowed.fetch_add(beyond, AcqRel) + beyond <= self.shares.common() {
            self.borrowed.fetch_add(beyond, AcqRel);
            return true;
        }
        self.shares.borrowed.fetch_sub(beyond, AcqRel);
        self.used.fetch_sub(amount, AcqRel);
        false
    }

    /// What was borrowed goes back first.
    pub(crate) fn give(&self, amount: u64) {
        let before = self.borrowed.fetch_update(AcqRel, Acquire, |borrowed| {
            let back = borrowed.min(amount);
            (back > 0).then(|| borrowed - back)
        });
        if let Ok(borrowed) = before {
            self.shares.borrowed.fetch_sub(borrowed.min(amount), AcqRel);
        }
        self.used.fetch_sub(amount, AcqRel);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shares.borrowed.fetch_sub(*self.borrowed.get_mut(), AcqRel);
        self.shares.divide(self.shares.members.fetch_sub(1, AcqRel) - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_of(share: &Share) -> u64 {
        (0..).take_while(|_| share.take(1)).count() as u64
    }

    #[test]
    fn one_member_may_take_it_all() {
        let shares = Shares::new(100);
        let only = shares.join();
        assert_eq!(all_of(&only), 100);
        only.give(100);
        assert_eq!(all_of(&only), 100);
    }

    #[test]
    fn whoever_comes_first_leaves_each_other_member_its_own() {
        let shares = Shares::new(100);
        let (greedy, late, later) = (shares.join(), shares.join(), shares.join());
        assert_eq!(all_of(&greedy), 66);
        assert_eq!((all_of(&late), all_of(&later)), (16, 16));
        // What goes back to the common half is anybody's.
        greedy.give(10);
        assert_eq!(all_of(&late), 10);
    }

    #[test]
    fn what_a_member_that_is_gone_had_is_divided_again() {
        let shares = Shares::new(100);
        let stays = shares.join();
        let goes = shares.join();
        assert!(goes.take(60));
        drop(goes);
        assert_eq!(all_of(&stays), 100);
    }
}
