//! What the data plane is asked to do: the result of `translate`, the input of `assemble`.
//!
//! Each part that changes by itself sits behind its own [`Arc`], and a part that did not change is the *same* `Arc`
//! in the next configuration: `assemble` reuses by pointer what it built from it. Two configurations made from the
//! same objects are equal, whatever the order of the changes that led to them.

mod access_log;
mod backend;
mod edge;
mod external_auth;
mod listener;
mod route;
mod session;
mod topology;
mod tracing;

pub use access_log::*;
pub use backend::*;
pub use edge::*;
pub use external_auth::*;
pub use listener::*;
pub use route::*;
pub use session::*;
pub use topology::*;
pub use tracing::*;

use crate::plugin::{Grants, PluginKey, PluginSpec, PluginUse};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// Maps are ordered, so that two equal configurations print alike.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Config {
    /// What is bound. The address is what the kernel is asked for: `0.0.0.0:80` or `[::]:80` where none is named.
    pub ports: BTreeMap<SocketAddr, Arc<Port>>,
    /// What is bound for datagrams, likewise: a number of TCP is another one of UDP.
    pub udp_ports: BTreeMap<SocketAddr, Arc<Port>>,
    /// The virtual hosts of each listener, apart from the listener: a route's change touches one of them.
    pub virtual_hosts: BTreeMap<ListenerId, BTreeMap<crate::HostPattern, Arc<VirtualHost>>>,
    #[serde(serialize_with = "by_display")]
    pub backends: BTreeMap<BackendKey, Arc<Backend>>,
    #[serde(serialize_with = "by_display")]
    pub endpoints: BTreeMap<EndpointsKey, Arc<EndpointSet>>,
    #[serde(serialize_with = "by_display")]
    pub certificates: BTreeMap<CertificateKey, Arc<Certificate>>,
    pub plugins: BTreeMap<PluginKey, Arc<PluginSpec>>,
    /// What Plugins may connect to, of those that may.
    pub plugin_backends: BTreeMap<PluginKey, Arc<PluginBackends>>,
    /// The stores and secrets of Plugins that are given some.
    pub plugin_grants: BTreeMap<PluginKey, Arc<Grants>>,
    /// What the policies of a Gateway and of its listener say of plugins, in running order: for answers to requests that no
    /// rule takes. A rule has its own list, which holds these too.
    pub listener_plugins: BTreeMap<ListenerId, Arc<Vec<PluginUse>>>,
    pub access_log: Arc<AccessLog>,
    /// Where the gateway runs: what hints of endpoints are held against.
    pub locality: Locality,
}

impl Config {
    /// The sockets of both transports, TCP first.
    pub fn sockets(&self) -> impl Iterator<Item = (Transport, SocketAddr, &Arc<Port>)> {
        let tcp = self.ports.iter().map(|(address, port)| (Transport::Tcp, *address, port));
        tcp.chain(self.udp_ports.iter().map(|(address, port)| (Transport::Udp, *address, port)))
    }

    /// None for a set that is not there.
    pub fn endpoints_of(&self, key: &EndpointsKey) -> &[Endpoint] {
        self.endpoints.get(key).map(|set| set.endpoints.as_slice()).unwrap_or_default()
    }
}

/// A map whose keys print as text.
fn by_display<K: std::fmt::Display, V: Serialize, S: serde::Serializer>(
    map: &BTreeMap<K, V>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(map.iter().map(|(key, value)| (key.to_string(), value)))
}
