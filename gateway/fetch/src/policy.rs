//! Whom the gateway fetches from. A Plugin object may be a tenant's, and the gateway stands inside: what it names must not
//! lead to the clouds' metadata services, nor in a cluster to the gateway's own admin port.

use crate::FetchError;
use http::Uri;
use http::uri::{Authority, Scheme};
use sluice_model::address::{canonical, is_special};
use std::net::IpAddr;

/// Why an address is refused, and the way out where there is one.
pub(crate) const NOT_ASKED: &str =
    "link-local and multicast addresses are not asked, loopback in a cluster only where --insecure-registry names it";

/// Link-local, multicast and unspecified addresses are never asked. Private ones are: registries stand there.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Hosts, with a port or without, that are asked by plain HTTP, also on loopback.
    pub insecure: Vec<String>,
    /// Loopback may be asked, and by plain HTTP: objects come from files of this host.
    pub loopback: bool,
}

impl Policy {
    /// Reads a host of `insecure`.
    pub fn host(text: &str) -> Result<String, String> {
        match text.parse::<Authority>() {
            Ok(authority) if !authority.host().is_empty() && !text.contains('@') => Ok(text.to_owned()),
            _ => Err("write a host, with a port or without: `registry.example:5000`".to_owned()),
        }
    }

    /// Whether a host is asked by plain HTTP. A registry on loopback always is.
    pub fn is_plain(&self, authority: &Authority) -> bool {
        self.names(authority.as_str())
            || self.names(authority.host())
            || (self.loopback && is_loopback(authority.host()))
    }

    fn names(&self, host: &str) -> bool {
        self.insecure.iter().any(|named| named.eq_ignore_ascii_case(host))
    }

    /// Whether a name may lead to an address.
    pub(crate) fn allows(&self, host: &str, address: IpAddr) -> bool {
        let address = canonical(address);
        // A name with any port: addresses are judged before the port is known.
        let of_host = |named: &String| named.parse::<Authority>().is_ok_and(|n| n.host().eq_ignore_ascii_case(host));
        let is_named = || self.insecure.iter().any(of_host);
        !is_special(address) && (!address.is_loopback() || self.loopback || is_named())
    }

    /// Refuses what is not to be asked, as far as the URL alone says it.
    pub(crate) fn check(&self, url: &Uri) -> Result<(), FetchError> {
        let refused = |reason: &str| FetchError::Refused(format!("{} is not fetched: {reason}", shown(url)));
        let Some(authority) = url.authority() else { return Err(refused("it names no host")) };
        if authority.as_str().contains('@') {
            return Err(refused("it names a user"));
        }
        let is_https = url.scheme() == Some(&Scheme::HTTPS);
        if !is_https && (url.scheme() != Some(&Scheme::HTTP) || !self.is_plain(authority)) {
            return Err(refused("plain HTTP is for hosts that --insecure-registry names"));
        }
        match literal(authority.host()) {
            Some(address) if !self.allows(authority.host(), address) => Err(refused(NOT_ASKED)),
            _ => Ok(()),
        }
    }
}

/// Without its query, which may be a secret.
pub(crate) fn shown(url: &Uri) -> String {
    let scheme = url.scheme_str().unwrap_or_default();
    let authority = url.authority().map(Authority::as_str).unwrap_or_default();
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{authority}{}", url.path())
}

fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || literal(host).is_some_and(|address| canonical(address).is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(policy: &Policy, url: &str) -> bool {
        policy.check(&url.parse().unwrap()).is_ok()
    }

    #[test]
    fn plain_http_is_for_hosts_that_are_named_and_for_loopback_of_a_host_with_files() {
        let cluster = Policy::default();
        let files = Policy { loopback: true, ..Policy::default() };
        let named = Policy { insecure: vec!["mirror.example:5000".into(), "127.0.0.1".into()], ..Policy::default() };
        for (url, expected) in [
            ("https://r.example/x", [true, true, true]),
            ("http://r.example/x", [false, false, false]),
            ("http://mirror.example:5000/x", [false, false, true]),
            ("http://mirror.example:5001/x", [false, false, false]),
            ("http://127.0.0.1:9181/config", [false, true, true]),
            ("https://127.0.0.1/x", [false, true, true]),
            ("http://[::1]/x", [false, true, false]),
            ("http://localhost/x", [false, true, false]),
            ("https://me@r.example/x", [false, false, false]),
        ] {
            assert_eq!([&cluster, &files, &named].map(|policy| allows(policy, url)), expected, "{url}");
        }
    }

    #[test]
    fn metadata_services_are_never_asked() {
        let policy = Policy { insecure: vec!["169.254.169.254".into()], loopback: true };
        for url in ["http://169.254.169.254/latest", "https://[fd00:ec2::254]/", "https://[::ffff:169.254.169.254]/"] {
            assert!(!allows(&policy, url), "{url}");
        }
        assert!(!policy.allows("metadata.example", "169.254.169.254".parse().unwrap()));
        assert!(policy.allows("registry.example", "10.0.0.7".parse().unwrap()));
        assert!(!Policy::default().allows("rebound.example", "127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn a_host_is_read_with_its_port_or_without() {
        for host in ["registry.example", "registry.example:5000", "10.0.0.7:5000", "[::1]:5000"] {
            assert_eq!(Policy::host(host).as_deref(), Ok(host));
        }
        for text in ["", "http://registry.example", "me@registry.example", "registry.example/team", "a b"] {
            assert!(Policy::host(text).is_err(), "{text}");
        }
        let policy = Policy { insecure: vec!["[::1]:5000".into()], ..Policy::default() };
        assert!(allows(&policy, "http://[::1]:5000/x") && !allows(&policy, "http://[::1]:5001/x"));
    }

    #[test]
    fn a_query_is_not_shown() {
        assert_eq!(shown(&"https://a.example/x?sig=sesame".parse().unwrap()), "https://a.example/x");
    }
}
