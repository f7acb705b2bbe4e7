//! The ports that a Gateway's listeners are bound to in a cluster, as the Gateway's own Service records them.
//!
//! All proxies serve all Gateways, so that two Gateways with a listener on port 443 need two sockets. The controller
//! allocates one for each (Gateway, port) and writes it into an annotation of the Service before anything leads there;
//! from that every proxy reads the same, after a restart too.

use crate::options::Options;
use sluice_model::config::Transport;
use sluice_model::object::NamespacedName;
use sluice_resources::Store;
use sluice_resources::api::{Gateway, Service};
use std::collections::BTreeMap;
use std::fmt;

/// The annotation: `80=10000,443=10001,53/udp=10002`, the listener's port first.
pub const TARGET_PORTS: &str = "sluice.dev/target-ports";
/// The label that says whose Service it is.
pub const GATEWAY_UID: &str = "sluice.dev/gateway-uid";

pub(crate) const SERVICE_PREFIX: &str = "gateway-";

/// The name of a Gateway's Service.
pub fn service_name(gateway_uid: &str) -> String {
    format!("{SERVICE_PREFIX}{gateway_uid}")
}

/// A port of a Service: one number may stand for two, one of each transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortKey {
    pub number: u16,
    pub transport: Transport,
}

/// Of TCP.
impl From<u16> for PortKey {
    fn from(number: u16) -> Self {
        PortKey { number, transport: Transport::Tcp }
    }
}

/// `80`, `53/udp`.
impl fmt::Display for PortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.transport {
            Transport::Tcp => self.number.fmt(f),
            Transport::Udp => write!(f, "{}/udp", self.number),
        }
    }
}

impl PortKey {
    fn parse(text: &str) -> Option<PortKey> {
        let (number, transport) = match text.strip_suffix("/udp") {
            Some(number) => (number, Transport::Udp),
            None => (text, Transport::Tcp),
        };
        let number = number.parse().ok().filter(|number| *number > 0)?;
        Some(PortKey { number, transport })
    }
}

/// Target ports by the listeners' port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetPorts(pub BTreeMap<PortKey, u16>);

impl TargetPorts {
    /// What a Service records. An entry that cannot be read is none.
    pub fn of(service: &Service) -> TargetPorts {
        let text = service.metadata.annotations.as_ref().and_then(|annotations| annotations.get(TARGET_PORTS));
        let entries = text.map(String::as_str).unwrap_or_default().split(',');
        let pairs = entries.filter_map(|entry| entry.trim().split_once('='));
        let ports = pairs.filter_map(|(port, target)| Some((PortKey::parse(port)?, target.parse().ok()?)));
        TargetPorts(ports.filter(|(_, target)| *target > 0).collect())
    }
}

/// As the annotation has it.
impl fmt::Display for TargetPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (port, target)) in self.0.iter().enumerate() {
            let comma = if n > 0 { "," } else { "" };
            write!(f, "{comma}{port}={target}")?;
        }
        Ok(())
    }
}

/// The target ports of a Gateway; `None` where listeners bind the ports that they name.
pub(super) fn of_gateway(store: &Store, options: &Options, gateway: &Gateway) -> Option<TargetPorts> {
    let namespace = options.gateway_services.clone()?;
    let uid = gateway.metadata.uid.as_deref().unwrap_or_default();
    let name = NamespacedName::new(namespace, service_name(uid));
    // Somebody else's Service of that name says nothing.
    let ours = |service: &&std::sync::Arc<Service>| {
        service.metadata.labels.as_ref().and_then(|labels| labels.get(GATEWAY_UID)).is_some_and(|label| label == uid)
    };
    Some(store.services.get(&name).filter(ours).map(|service| TargetPorts::of(service)).unwrap_or_default())
}
