//! Addresses that no name from outside may lead to: whoever controls the name controls the answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The metadata service of AWS over IPv6; over IPv4 all of them are link-local.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// What an address leads to: IPv4 that is mapped (RFC 4291), NAT64 (RFC 6052) or 6to4 (RFC 3056) would be a way around a
/// check of the IPv4 address.
pub fn canonical(address: IpAddr) -> IpAddr {
    let address = address.to_canonical();
    let IpAddr::V6(v6) = address else { return address };
    let o = v6.octets();
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, _, _] => IpAddr::V4(Ipv4Addr::new(o[12], o[13], o[14], o[15])),
        [0x2002, ..] => IpAddr::V4(Ipv4Addr::new(o[2], o[3], o[4], o[5])),
        _ => address,
    }
}

/// Whether a canonical address is link-local (and so are the clouds' metadata services), multicast, broadcast or
/// unspecified.
pub fn is_special(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_multicast() || v4.is_broadcast() || v4.octets()[0] == 0,
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_multicast() || v6.is_unspecified() || v6 == METADATA_V6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_services_are_special_however_they_are_written() {
        for text in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "fd00:ec2::254",
            "fe80::1",
            "0.0.0.0",
            "::",
        ] {
            assert!(is_special(canonical(text.parse().unwrap())), "{text}");
        }
        for text in ["10.0.0.1", "127.0.0.1", "::1", "fd00::1", "2001:db8::1"] {
            assert!(!is_special(canonical(text.parse().unwrap())), "{text}");
        }
    }
}
