//! Consistent hashing by a Maglev table (Eisenbud et al., NSDI 2016, section 3.4).
//!
//! Built when an endpoint set changes, never on a request. Equal sets give equal tables in every replica.

use foldhash::quality::FixedState;
use std::hash::BuildHasher;
use std::net::SocketAddr;

/// Primes, about a factor of four apart. The table has at least [`SLOTS_PER_ENDPOINT`] slots for each endpoint: their
/// shares then differ by about 1 %.
const SIZES: [usize; 6] = [251, 1_021, 4_093, 16_381, 65_521, 262_139];
const SLOTS_PER_ENDPOINT: usize = 100;

/// Fixed: replicas and restarts must agree.
const OFFSET_SEED: u64 = 0x736c_7569_6365_0001;
const SKIP_SEED: u64 = 0x736c_7569_6365_0002;
const KEY_SEED: u64 = 0x736c_7569_6365_0003;

#[derive(Debug)]
pub(super) struct Maglev {
    /// Index of an endpoint, by slot.
    slots: Box<[u32]>,
}

impl Maglev {
    /// `None` for an empty set.
    pub(super) fn new(endpoints: &[SocketAddr]) -> Option<Self> {
        let count = endpoints.len();
        let largest = SIZES[SIZES.len() - 1];
        if count == 0 || u32::try_from(count).is_err() || count > largest {
            return None;
        }
        let size = SIZES.into_iter().find(|size| *size >= count * SLOTS_PER_ENDPOINT).unwrap_or(largest);
        let (offset, skip) = (FixedState::with_seed(OFFSET_SEED), FixedState::with_seed(SKIP_SEED));
        // Each endpoint's permutation of the slots: offset, offset + skip, offset + 2 skip, ...
        let mut walks: Vec<(usize, usize)> = endpoints
            .iter()
            .map(|e| (index(offset.hash_one(e), size), 1 + index(skip.hash_one(e), size - 1)))
            .collect();
        let mut slots = vec![u32::MAX; size].into_boxed_slice();
        let mut filled = 0;
        'fill: loop {
            for (endpoint, (at, skip)) in walks.iter_mut().enumerate() {
                while slots[*at] != u32::MAX {
                    *at = (*at + *skip) % size;
                }
                slots[*at] = endpoint as u32; // checked above
                filled += 1;
                if filled == size {
                    break 'fill;
                }
            }
        }
        Some(Maglev { slots })
    }

    /// The endpoint of a key, then those that take its place while it cannot be used: the owners of the next slots, each
    /// index possibly more than once. At most one round of the table.
    pub(super) fn owners(&self, key: u64) -> impl Iterator<Item = usize> + '_ {
        let start = index(key, self.slots.len());
        let (before, after) = self.slots.split_at(start);
        after.iter().chain(before).map(|endpoint| *endpoint as usize)
    }
}

/// Hash of a request's key.
pub(super) fn hash(key: &[u8]) -> u64 {
    FixedState::with_seed(KEY_SEED).hash_one(key)
}

/// `hash` scaled to `0..size` without the bias and cost of a division.
fn index(hash: u64, size: usize) -> usize {
    ((u128::from(hash) * size as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addresses(n: usize) -> Vec<SocketAddr> {
        (0..n).map(|i| ([10, 0, (i / 250) as u8, (i % 250) as u8], 8080).into()).collect()
    }

    fn owner(table: &Maglev, key: usize) -> usize {
        table.owners(hash(&key.to_le_bytes())).next().expect("a full table")
    }

    #[test]
    fn an_empty_set_has_no_table() {
        assert!(Maglev::new(&[]).is_none());
    }

    #[test]
    fn the_replacements_of_an_owner_are_all_the_others() {
        let table = Maglev::new(&addresses(5)).unwrap();
        let mut seen: Vec<usize> = table.owners(42).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [0, 1, 2, 3, 4]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn each_endpoint_owns_its_share_of_slots(n in 1usize..200) {
            let table = Maglev::new(&addresses(n)).unwrap();
            let mut shares = vec![0usize; n];
            table.slots.iter().for_each(|e| shares[*e as usize] += 1);
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            prop_assert!(most - least <= 1, "{least} to {most}: the last round may end early, nothing else");
        }

        #[test]
        fn keys_stay_where_they_are_when_another_endpoint_goes(n in 3usize..60, gone in 0usize..60) {
            let gone = gone % n;
            let before = addresses(n);
            let mut after = before.clone();
            after.remove(gone);
            let (old, new) = (Maglev::new(&before).unwrap(), Maglev::new(&after).unwrap());
            let keys = 4_000;
            let moved = (0..keys)
                .filter(|key| {
                    let was = owner(&old, *key);
                    was != gone && before[was] != after[owner(&new, *key)]
                })
                .count();
            // Modulo hashing would move all but 1/n of them. Where the table's size changes as well, so do all walks.
            if SIZES.iter().any(|s| (n - 1) * SLOTS_PER_ENDPOINT <= *s && *s < n * SLOTS_PER_ENDPOINT) {
                return Ok(());
            }
            prop_assert!(moved * 5 < keys, "{moved} of {keys} keys moved with {n} endpoints");
        }
    }
}
