//! Memory held by the header sections of HTTP/2 requests, which a few bytes on the wire can make large: HPACK refers to
//! a long field with one byte, on as many streams as there may be, and shut windows keep them all.

use super::open_port::Shared;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Full-size header sections that one connection may hold at a time: with the default of 64 KiB, 1 MiB. Ordinary
/// clients stay below with all their streams open.
const SECTIONS: u64 = 16;

/// Of one connection. What is above one full-size section is counted for the process as well: ordinary connections
/// never touch the counter that all share.
pub(super) struct HeaderBudget {
    held: AtomicU64,
    section: u64,
    shared: Arc<Shared>,
}

impl HeaderBudget {
    /// `section`: the limit of one header section in bytes.
    pub(super) fn new(section: u64, shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(HeaderBudget { held: AtomicU64::new(0), section, shared })
    }

    /// Counts a request's fields for as long as the result is held. `None`: the connection, or all of them, hold too much.
    pub(super) fn charge(self: &Arc<Self>, headers: &http::HeaderMap) -> Option<HeaderCharge> {
        let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        let bytes = bytes as u64;
        let before = self.held.fetch_add(bytes, Ordering::AcqRel);
        let charge = HeaderCharge { budget: self.clone(), bytes };
        let excess = self.excess(before + bytes) - self.excess(before);
        let total = if excess == 0 { 0 } else { self.shared.hold_headers(excess) };
        let fits = before + bytes <= self.section.saturating_mul(SECTIONS) && total <= self.shared.max_header_bytes;
        fits.then_some(charge)
    }

    fn excess(&self, held: u64) -> u64 {
        held.saturating_sub(self.section)
    }
}

/// One request's fields.
pub(super) struct HeaderCharge {
    budget: Arc<HeaderBudget>,
    bytes: u64,
}

impl Drop for HeaderCharge {
    fn drop(&mut self) {
        let budget = &self.budget;
        let before = budget.held.fetch_sub(self.bytes, Ordering::AcqRel);
        let excess = budget.excess(before) - budget.excess(before.saturating_sub(self.bytes));
        if excess > 0 {
            budget.shared.release_headers(excess);
        }
    }
}
