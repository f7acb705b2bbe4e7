//! A set that mostly has one element.

use std::collections::BTreeSet;

/// One element lies in place: a tree's first leaf has room for eleven, and most hosts have one route, most Services too.
#[derive(Debug)]
pub(crate) enum Few<T> {
    One(T),
    Many(BTreeSet<T>),
}

impl<T: Ord> Few<T> {
    pub(crate) fn insert(&mut self, element: T) {
        match self {
            Few::One(one) if *one == element => {}
            Few::One(_) => {
                let former = std::mem::replace(self, Few::Many(BTreeSet::from([element])));
                if let (Few::One(one), Few::Many(all)) = (former, self) {
                    all.insert(one);
                }
            }
            Few::Many(all) => {
                all.insert(element);
            }
        }
    }

    /// Whether nothing is left, so that the set is to be dropped.
    pub(crate) fn remove(&mut self, element: &T) -> bool {
        match self {
            Few::One(one) => one == element,
            Few::Many(all) => {
                all.remove(element);
                if all.len() > 1 {
                    return false;
                }
                let Some(last) = all.pop_first() else { return true };
                *self = Few::One(last);
                false
            }
        }
    }

    /// In order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        let (one, many) = match self {
            Few::One(one) => (Some(one), None),
            Few::Many(all) => (None, Some(all)),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(few: &Few<u8>) -> Vec<u8> {
        few.iter().copied().collect()
    }

    #[test]
    fn elements_come_and_go_in_order_each_once() {
        let mut few = Few::One(3);
        few.insert(3);
        assert_eq!(all(&few), [3]);
        for element in [1, 2, 2, 3] {
            few.insert(element);
        }
        assert_eq!(all(&few), [1, 2, 3]);
        assert!(!few.remove(&7) && !few.remove(&2) && !few.remove(&1));
        assert!(matches!(few, Few::One(3)), "{few:?}");
        assert!(!few.remove(&1), "another one");
        assert!(few.remove(&3));
    }
}
