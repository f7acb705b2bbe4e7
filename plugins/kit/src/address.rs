//! Addresses of clients, and ranges of them.

use ipnet::IpNet;
use sluice_plugin::Request;
use std::net::IpAddr;

/// The client's address as the gateway has it: of the connection, or where that is a trusted proxy's, the one that the proxy
/// names.
pub fn of_client(request: &Request<'_>) -> Option<IpAddr> {
    request.property("client.address")?.parse().ok().map(|address: IpAddr| address.to_canonical())
}

/// Addresses and ranges, held as ranges that do not overlap, in order: a look-up is a binary search.
#[derive(Debug, Default)]
pub struct Ranges(Box<[(IpAddr, IpAddr)]>);

impl Ranges {
    /// Of `192.0.2.7`, `192.0.2.0/24`, `2001:db8::/32`. The error names the element of `field`.
    pub fn parse(field: &str, texts: &[String]) -> Result<Ranges, String> {
        let mut ranges = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            let range = text.parse::<IpAddr>().map(IpNet::from).or_else(|_| text.parse::<IpNet>()).map_err(|_| {
                format!(
                    "{field}[{index}]: `{text}` is neither an address nor a range of them: write 192.0.2.7, \
                     192.0.2.0/24 or 2001:db8::/32"
                )
            })?;
            ranges.push(ends(range));
        }
        ranges.sort_unstable();
        ranges.dedup_by(|next, before| {
            let overlap = next.0 <= before.1;
            if overlap {
                before.1 = before.1.max(next.1);
            }
            overlap
        });
        Ok(Ranges(ranges.into()))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let after = self.0.partition_point(|(first, _)| *first <= address);
        // An IPv4 address comes before every IPv6 address, so no range of the one holds any of the other.
        after.checked_sub(1).and_then(|at| self.0.get(at)).is_some_and(|(_, last)| address <= *last)
    }
}

/// First and last address. A range of IPv4 addresses that is written as IPv6 (`::ffff:192.0.2.0/120`) is one of IPv4.
fn ends(range: IpNet) -> (IpAddr, IpAddr) {
    let (first, last) = (range.network(), range.broadcast());
    match (first.to_canonical(), last.to_canonical()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => (first.into(), last.into()),
        _ => (first, last),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(texts: &[&str]) -> Ranges {
        Ranges::parse("allow", &texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    fn holds(ranges: &Ranges, address: &str) -> bool {
        ranges.contains(address.parse().unwrap())
    }

    #[test]
    fn a_range_holds_its_first_and_last_address_and_no_neighbour() {
        let ranges = ranges(&["192.0.2.64/26", "2001:db8::/32", "198.51.100.7"]);
        for inside in ["192.0.2.64", "192.0.2.127", "2001:db8::", "2001:db8:ffff::1", "198.51.100.7"] {
            assert!(holds(&ranges, inside), "{inside}");
        }
        for outside in ["192.0.2.63", "192.0.2.128", "2001:db9::", "198.51.100.6", "198.51.100.8", "::1"] {
            assert!(!holds(&ranges, outside), "{outside}");
        }
    }

    #[test]
    fn ranges_within_each_other_and_beside_each_other_are_one_set() {
        let ranges = ranges(&["10.1.0.0/16", "10.0.0.0/8", "10.255.255.0/24", "11.0.0.0/8"]);
        assert!(["10.0.0.0", "10.200.0.1", "10.255.255.255", "11.0.0.1"].iter().all(|address| holds(&ranges, address)));
        assert!(!holds(&ranges, "9.255.255.255") && !holds(&ranges, "12.0.0.0"));
    }

    #[test]
    fn an_ipv4_address_is_the_same_however_it_is_written_and_no_ipv6_range_holds_it() {
        assert!(holds(&ranges(&["::ffff:192.0.2.0/120"]), "192.0.2.9"));
        assert!(holds(&ranges(&["192.0.2.0/24"]), "::ffff:192.0.2.9"));
        assert!(!holds(&ranges(&["::/0"]), "192.0.2.9"));
        assert!(!holds(&ranges(&["0.0.0.0/0"]), "2001:db8::1"));
    }

    #[test]
    fn what_is_no_range_is_named_by_its_place() {
        let texts = ["192.0.2.0/24".to_owned(), "192.0.2.0/33".to_owned()];
        let message = Ranges::parse("allow", &texts).unwrap_err();
        assert!(message.starts_with("allow[1]: `192.0.2.0/33` is neither"), "{message}");
        assert!(!holds(&ranges(&[]), "192.0.2.1"));
    }
}
