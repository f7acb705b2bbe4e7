//! What differs between two versions of a map whose values are shared by pointer.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The keys whose value is another `Arc` in `new`, and those that only one of the maps has. One walk over both; keys
/// that are shared `Arc`s themselves compare by pointer first.
pub(super) fn changed<'m, K: Ord, V>(old: &'m BTreeMap<K, Arc<V>>, new: &'m BTreeMap<K, Arc<V>>) -> Vec<&'m K> {
    let mut changed = Vec::new();
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        match (old.peek(), new.peek()) {
            (Some((a, x)), Some((b, y))) => {
                // Most entries are the same: equality is asked first, as it is cheaper than order.
                let order = if a == b { Ordering::Equal } else { a.cmp(b) };
                match order {
                    Ordering::Equal => {
                        if !Arc::ptr_eq(x, y) {
                            changed.push(*b);
                        }
                        old.next();
                        new.next();
                    }
                    Ordering::Less => {
                        changed.push(*a);
                        old.next();
                    }
                    Ordering::Greater => {
                        changed.push(*b);
                        new.next();
                    }
                }
            }
            (Some((a, _)), None) => {
                changed.push(*a);
                old.next();
            }
            (None, Some((b, _))) => {
                changed.push(*b);
                new.next();
            }
            (None, None) => return changed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_another_pointer_or_on_one_side_only_has_changed() {
        let (one, two, three) = (Arc::new(1), Arc::new(2), Arc::new(3));
        let old = BTreeMap::from([("a", one.clone()), ("b", two.clone()), ("d", three.clone())]);
        let new = BTreeMap::from([("a", one.clone()), ("b", Arc::new(2)), ("c", three.clone())]);
        assert_eq!(changed(&old, &new), [&"b", &"c", &"d"]);
        assert!(changed(&old, &old.clone()).is_empty());
    }

    #[test]
    fn two_keys_may_share_one_value() {
        let shared = Arc::new(());
        let old = BTreeMap::from([("a", shared.clone()), ("b", shared.clone())]);
        let new = BTreeMap::from([("b", shared.clone()), ("c", shared.clone())]);
        assert_eq!(changed(&old, &new), [&"a", &"c"]);
    }
}
