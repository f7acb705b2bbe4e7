//! Target ports: one for each port of each Gateway. What is allocated stands in the Services, what rests in the Lease;
//! this is what is read from there.
//!
//! A port that was freed rests, since for some time a kube-proxy somewhere may still send to it what was meant for the
//! Gateway that had it.

use sluice_translate::{PortKey, TargetPorts};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::ops::RangeInclusive;

/// Seconds that a freed port is not given to another Gateway.
pub(crate) const REST: i64 = 10 * 60;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Allocator {
    range: RangeInclusive<u16>,
    /// By the Gateway's UID.
    allocated: BTreeMap<String, TargetPorts>,
    /// Until when a port rests, in Unix seconds.
    resting: BTreeMap<u16, i64>,
}

impl Allocator {
    /// With what the Services and the Lease record.
    pub(crate) fn new(
        range: RangeInclusive<u16>,
        allocated: BTreeMap<String, TargetPorts>,
        resting: BTreeMap<u16, i64>,
    ) -> Allocator {
        Allocator { range, allocated, resting }
    }

    pub(crate) fn of(&self, gateway: &str) -> TargetPorts {
        self.allocated.get(gateway).cloned().unwrap_or_default()
    }

    /// Gives each of `ports` a target port, the pinned ones as they are pinned; what a Gateway has it keeps. Says which
    /// ports there is none for. Ports that are not named stay allocated until [`Allocator::free`].
    pub(crate) fn allocate(
        &mut self,
        gateway: &str,
        ports: &BTreeSet<PortKey>,
        pinned: &BTreeMap<PortKey, u16>,
        now: i64,
    ) -> Vec<PortKey> {
        self.resting.retain(|_, until| *until > now);
        let mut own = self.of(gateway);
        let others: BTreeSet<u16> = self
            .allocated
            .iter()
            .filter(|(other, _)| *other != gateway)
            .flat_map(|(_, t)| t.0.values())
            .copied()
            .collect();
        let mut without = Vec::new();
        for port in ports {
            let kept = own.0.get(port).copied();
            let found = match (pinned.get(port), kept) {
                (Some(wanted), _) if others.contains(wanted) => None,
                (Some(wanted), _) => Some(*wanted),
                (None, Some(kept)) => Some(kept),
                (None, None) => {
                    let taken = |target: &u16| {
                        others.contains(target)
                            || self.resting.contains_key(target)
                            || own.0.values().any(|t| t == target)
                    };
                    self.range.clone().find(|target| !taken(target))
                }
            };
            match found {
                Some(target) => {
                    own.0.insert(*port, target);
                }
                None => {
                    own.0.remove(port);
                    without.push(*port);
                }
            }
        }
        self.allocated.insert(gateway.to_owned(), own);
        without
    }

    /// The target ports that a Gateway has for other ports than these.
    pub(crate) fn unused(&self, gateway: &str, ports: &BTreeSet<PortKey>) -> Vec<u16> {
        let own = self.allocated.get(gateway).into_iter().flat_map(|targets| &targets.0);
        own.filter(|(port, _)| !ports.contains(port)).map(|(_, target)| *target).collect()
    }

    /// What would rest if these were freed: to be recorded before they are.
    pub(crate) fn resting_with(&self, freed: &[u16], now: i64) -> BTreeMap<u16, i64> {
        let mut resting = self.resting.clone();
        resting.retain(|_, until| *until > now);
        resting.extend(freed.iter().map(|target| (*target, now + REST)));
        resting
    }

    /// Frees what the Gateway has for other ports than these; it rests as was recorded.
    pub(crate) fn free(&mut self, gateway: &str, ports: &BTreeSet<PortKey>, resting: BTreeMap<u16, i64>) {
        if let Some(own) = self.allocated.get_mut(gateway) {
            own.0.retain(|port, _| ports.contains(port));
            if own.0.is_empty() {
                self.allocated.remove(gateway);
            }
        }
        self.resting = resting;
    }
}

/// `10000=1767225600,…`: port and the end of its rest.
pub(crate) fn write_resting(resting: &BTreeMap<u16, i64>) -> String {
    let mut text = String::new();
    for (port, until) in resting {
        let comma = if text.is_empty() { "" } else { "," };
        // Writing to a text does not fail.
        let _ = write!(text, "{comma}{port}={until}");
    }
    text
}

pub(crate) fn read_resting(text: &str) -> BTreeMap<u16, i64> {
    let pairs = text.split(',').filter_map(|entry| entry.split_once('='));
    pairs.filter_map(|(port, until)| Some((port.parse().ok()?, until.parse().ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(ports: &[u16]) -> BTreeSet<PortKey> {
        ports.iter().map(|port| PortKey::from(*port)).collect()
    }

    fn allocator() -> Allocator {
        Allocator::new(10_000..=10_003, BTreeMap::new(), BTreeMap::new())
    }

    fn targets(allocator: &Allocator, gateway: &str) -> String {
        allocator.of(gateway).to_string()
    }

    #[test]
    fn each_gateway_has_a_port_of_its_own_for_each_of_its_ports_and_keeps_it() {
        let mut a = allocator();
        assert!(a.allocate("one", &ports(&[80, 443]), &BTreeMap::new(), 0).is_empty());
        assert!(a.allocate("two", &ports(&[80]), &BTreeMap::new(), 0).is_empty());
        assert_eq!((targets(&a, "one").as_str(), targets(&a, "two").as_str()), ("80=10000,443=10001", "80=10002"));
        assert!(a.allocate("one", &ports(&[80, 443, 8080]), &BTreeMap::new(), 0).is_empty());
        assert_eq!(targets(&a, "one"), "80=10000,443=10001,8080=10003");
        assert_eq!(a.allocate("two", &ports(&[80, 81]), &BTreeMap::new(), 0), [81.into()], "the range is used up");
    }

    #[test]
    fn a_freed_port_rests_before_another_gateway_gets_it() {
        let mut a = allocator();
        a.allocate("one", &ports(&[80, 443]), &BTreeMap::new(), 0);
        assert_eq!(a.unused("one", &ports(&[443])), [10_000]);
        let resting = a.resting_with(&[10_000], 0);
        a.free("one", &ports(&[443]), resting);
        a.allocate("two", &ports(&[80]), &BTreeMap::new(), REST - 1);
        a.allocate("three", &ports(&[80]), &BTreeMap::new(), REST);
        assert_eq!((targets(&a, "two").as_str(), targets(&a, "three").as_str()), ("80=10002", "80=10000"));
    }

    #[test]
    fn a_pinned_port_is_taken_as_it_is_unless_another_gateway_has_it() {
        let mut a = allocator();
        let pinned = BTreeMap::from([(443.into(), 8443)]);
        assert!(a.allocate("one", &ports(&[443]), &pinned, 0).is_empty());
        assert_eq!(a.allocate("two", &ports(&[443]), &pinned, 0), [443.into()]);
        assert_eq!((targets(&a, "one").as_str(), targets(&a, "two").as_str()), ("443=8443", ""));
        a.allocate("one", &ports(&[443]), &BTreeMap::new(), 0);
        assert_eq!(targets(&a, "one"), "443=8443", "what is no longer pinned stays where it is");
    }

    #[test]
    fn what_is_recorded_is_read_back() {
        let resting = BTreeMap::from([(10_000, 600), (10_001, 700)]);
        assert_eq!(read_resting(&write_resting(&resting)), resting);
        assert!(read_resting("nonsense,1=x,99999=1").is_empty());
        let recorded = BTreeMap::from([("one".to_owned(), TargetPorts(BTreeMap::from([(80.into(), 10_000)])))]);
        let mut again = Allocator::new(10_000..=10_003, recorded, resting);
        again.allocate("two", &ports(&[80]), &BTreeMap::new(), 0);
        assert_eq!(targets(&again, "two"), "80=10002");
    }
}
