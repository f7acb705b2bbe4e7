//! What the accept path must know of a port: [`PortState`], built from the model whenever the configuration changes.

use super::tls::{TlsCache, TlsError, TlsListener};
use sluice_model::config::{Carries, Certificate, CertificateKey, Edge, Listener, Port, Protocol, Transport};
use sluice_model::hostname::HostTable;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// What is bound: an address of one transport.
pub(super) type Place = (Transport, SocketAddr);

/// One port as new connections see it. Immutable; a change of configuration puts another in its place, and connections
/// go on with the one that they began with.
#[derive(Debug)]
pub struct PortState {
    pub address: SocketAddr,
    pub config: Arc<Port>,
    hosts: HostTable<usize>,
    /// By the place in [`Port::listeners`]; `None` where TLS cannot be used, or is not asked for.
    tls: Vec<Option<Arc<TlsListener>>>,
    /// Limits to read a header section by, before its host is known: the widest of all listeners.
    pub(super) widest: HeaderLimits,
    /// Whether all listeners have the same edge, so that no host has to be looked up for it.
    uniform: bool,
    /// Whether the hello of a client may have to go on to a backend.
    pub(super) passes_tls: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeaderLimits {
    pub(super) bytes: u64,
    pub(super) count: u32,
    pub(super) target: u64,
    pub(super) method: u32,
}

impl HeaderLimits {
    pub(super) fn of(edge: &Edge) -> Self {
        let limits = &edge.limits;
        HeaderLimits {
            bytes: limits.header_bytes,
            count: limits.header_count,
            target: limits.request_target,
            method: limits.method,
        }
    }

    fn widest(self, other: HeaderLimits) -> Self {
        HeaderLimits {
            bytes: self.bytes.max(other.bytes),
            count: self.count.max(other.count),
            target: self.target.max(other.target),
            method: self.method.max(other.method),
        }
    }
}

impl PortState {
    /// Builds a port. A listener whose TLS cannot be used is reported and refused at the handshake
    /// (`unrecognized_name`); the others of its port serve.
    pub fn build(
        address: SocketAddr,
        config: &Arc<Port>,
        certificates: &BTreeMap<CertificateKey, Arc<Certificate>>,
        cache: &mut TlsCache,
    ) -> (PortState, Vec<TlsError>) {
        let mut problems = Vec::new();
        let mut hosts = HostTable::default();
        let mut tls = Vec::with_capacity(config.listeners.len());
        let mut widest = HeaderLimits::of(&config.edge);
        for (index, listener) in config.listeners.iter().enumerate() {
            hosts.insert(&listener.hostname, index);
            widest = widest.widest(HeaderLimits::of(&listener.edge));
            let built = listener.tls.as_ref().map(|settings| cache.listener(listener, settings, certificates));
            tls.push(match built {
                Some(Ok(built)) => Some(built),
                Some(Err(problem)) => {
                    problems.push(problem);
                    None
                }
                None => None,
            });
        }
        let uniform = config
            .listeners
            .iter()
            .all(|listener| Arc::ptr_eq(&listener.edge, &config.edge) || listener.edge == config.edge);
        let passes = |listener: &Arc<Listener>| listener.carries == Carries::Bytes && listener.tls.is_none();
        let passes_tls = config.protocol == Protocol::Https && config.listeners.iter().any(passes);
        (PortState { address, config: config.clone(), hosts, tls, widest, uniform, passes_tls }, problems)
    }

    pub(super) fn place(&self) -> Place {
        (self.config.protocol.transport(), self.address)
    }

    pub(super) fn speaks_tls(&self) -> bool {
        self.config.protocol == Protocol::Https
    }

    /// The listener that a hello is for, and its side of the handshake: `None` where TLS goes on to a backend. A hello
    /// without a name is for a listener of every host.
    pub(super) fn listener_for_sni(&self, name: Option<&str>) -> Option<(&Arc<Listener>, Option<&Arc<TlsListener>>)> {
        let index = *self.hosts.find(name.unwrap_or_default())?;
        let listener = self.config.listeners.get(index)?;
        let tls = self.tls.get(index)?.as_ref();
        // Without its certificates it can't answer.
        (tls.is_some() || listener.tls.is_none()).then_some((listener, tls))
    }

    /// The edge of the listener for `host` on a port without TLS; the port's own where none means it.
    pub(super) fn edge_for_host(&self, host: &str) -> &Arc<Edge> {
        if self.uniform {
            return &self.config.edge;
        }
        let canonical = canonical_host(host);
        let listener = self.hosts.find(&canonical).and_then(|index| self.config.listeners.get(*index));
        listener.map_or(&self.config.edge, |listener| &listener.edge)
    }

    /// Whether [`PortState::edge_for_host`] depends on the host at all.
    pub(super) fn uniform(&self) -> bool {
        self.uniform
    }
}

/// Lower case, without port and final dot.
fn canonical_host(host: &str) -> String {
    let name = match host.strip_prefix('[') {
        Some(_) => host.split_inclusive(']').next().unwrap_or(host),
        None => host.split(':').next().unwrap_or(host),
    };
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}
