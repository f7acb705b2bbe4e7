//! Sockets, the listeners that share them, and their certificates.

use super::{Edge, Tracing};
use crate::hostname::HostPattern;
use crate::object::{Kind, NamespacedName, ObjectRef};
use serde::Serialize;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

/// One listener of one Gateway; the built-in Gateway of all Ingress objects is `Gateway sluice-system/ingress`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId {
    pub gateway: NamespacedName,
    /// As the Gateway calls it; of a listener that a ListenerSet adds `namespace/set/name`, which is no name that a
    /// Gateway could give.
    pub name: Arc<str>,
}

impl ListenerId {
    /// A listener that a ListenerSet adds to a Gateway.
    pub fn of_set(gateway: NamespacedName, set: &NamespacedName, name: &str) -> Self {
        ListenerId { gateway, name: format!("{set}/{name}").into() }
    }

    /// The object that it is written in, a Gateway or a ListenerSet, and what it is called there.
    pub fn owner(&self) -> (ObjectRef, &str) {
        let mut parts = self.name.splitn(3, '/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(namespace), Some(set), Some(name)) => (ObjectRef::new(Kind::ListenerSet, namespace, set), name),
            _ => (self.gateway_ref(), &self.name),
        }
    }

    pub fn gateway_ref(&self) -> ObjectRef {
        ObjectRef::new(Kind::Gateway, self.gateway.namespace.clone(), self.gateway.name.clone())
    }
}

impl fmt::Display for ListenerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.gateway, self.name)
    }
}

impl Serialize for ListenerId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One listening socket. Listeners of one port differ in hostname and agree in protocol.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Port {
    pub protocol: Protocol,
    /// Settings that act before a listener is known: PROXY protocol, handshake, connection limits. They are those of
    /// the listener with the least specific hostname.
    pub edge: Arc<Edge>,
    /// From the most specific hostname to the least; no two have the same.
    pub listeners: Vec<Arc<Listener>>,
}

/// What is spoken on a socket. HTTP/1.1 and HTTP/2 are on the first two: by prior knowledge on `Http`, by ALPN on `Https`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Protocol {
    Http,
    /// TLS, where the SNI chooses the listener; not all of these carry HTTP ([`Listener::carries`]).
    Https,
    Tcp,
    /// Datagrams; a port of this protocol is in [`super::Config::udp_ports`].
    Udp,
}

impl Protocol {
    pub const fn transport(self) -> Transport {
        match self {
            Protocol::Udp => Transport::Udp,
            Protocol::Http | Protocol::Https | Protocol::Tcp => Transport::Tcp,
        }
    }
}

/// What a socket is of: one of each may have the same address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Transport {
    #[default]
    Tcp,
    Udp,
}

impl Transport {
    /// As Service ports name it.
    pub const fn name(self) -> &'static str {
        match self {
            Transport::Tcp => "TCP",
            Transport::Udp => "UDP",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a listener makes of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub enum Carries {
    #[default]
    Http,
    /// Bytes, for one backend from beginning to end (TCPRoute, TLSRoute); datagrams, for one a session (UDPRoute).
    Bytes,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Listener {
    pub id: ListenerId,
    /// As its object says; the port that is bound may be another one. What redirects fall back on.
    pub port: u16,
    pub hostname: HostPattern,
    pub carries: Carries,
    /// `Some` where TLS ends here: the port's protocol is [`Protocol::Https`], and nothing passes through.
    pub tls: Option<Arc<ListenerTls>>,
    pub edge: Arc<Edge>,
    /// `None`: no spans are made, and trace context is passed on as it came.
    pub tracing: Option<Arc<Tracing>>,
}

/// TLS of one listener; chosen by SNI before the handshake goes on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ListenerTls {
    /// Certificates by the names that they cover; the first is also the answer to a name that none covers, and to a
    /// hello without SNI. Empty: the handshake is refused with `unrecognized_name`.
    pub certificates: Vec<CertificateKey>,
    pub min_version: TlsVersion,
    /// IANA names of the cipher suites to offer; empty: all that are safe.
    pub cipher_suites: Vec<Arc<str>>,
    /// Offer `h2` by ALPN. Default: yes.
    pub http2: bool,
    /// Session resumption by tickets (TLS 1.3) and by id (1.2). Default: yes.
    pub resumption: bool,
    pub client_validation: Option<ClientValidation>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum TlsVersion {
    #[default]
    V1_2,
    V1_3,
}

/// Asks clients for a certificate (Gateway API: frontend client certificate validation).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClientValidation {
    /// DER certificates of the CAs.
    #[serde(serialize_with = "super::backend::fingerprints")]
    pub ca: Vec<Arc<[u8]>>,
    /// `AllowInsecureFallback`: a client without a valid certificate is served all the same.
    pub optional: bool,
}

/// A certificate by where it came from and what it is: a changed Secret is another key, so that nothing built for
/// the former is taken for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct CertificateKey {
    /// The Secret; `None` for the certificate that the gateway made itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<ObjectRef>,
    /// SHA-256 of chain and key, in hex.
    pub sha256: Arc<str>,
}

impl fmt::Display for CertificateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.secret {
            Some(secret) => write!(f, "{secret}#{}", self.sha256.get(..12).unwrap_or(&self.sha256)),
            None => write!(f, "built-in#{}", self.sha256.get(..12).unwrap_or(&self.sha256)),
        }
    }
}

/// A chain with its key, checked by `translate`: both parse, and they belong together.
#[derive(Clone, PartialEq, Serialize)]
pub struct Certificate {
    pub key: CertificateKey,
    /// DER, the leaf first.
    #[serde(skip)]
    pub chain: Vec<Arc<[u8]>>,
    /// PKCS#8, PKCS#1 or SEC1, in DER.
    #[serde(skip)]
    pub private_key: Arc<[u8]>,
    pub private_key_format: KeyFormat,
    /// The names of the leaf's subjectAltName, as patterns (`*.example.com` stands for one label).
    pub names: Vec<HostPattern>,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

/// Days before a certificate's end in which operators are told of it.
pub const EXPIRES_SOON_DAYS: i64 = 21;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum KeyFormat {
    Pkcs8,
    Pkcs1,
    Sec1,
}

/// Never prints the key.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("key", &self.key).field("names", &self.names).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_of_a_set_belongs_to_the_set_and_goes_by_its_gateway() {
        let gateway = NamespacedName::new("infra", "edge");
        let own = ListenerId { gateway: gateway.clone(), name: "web".into() };
        let (owner, name) = own.owner();
        assert_eq!((owner.to_string(), name), ("Gateway infra/edge".to_owned(), "web"));
        let added = ListenerId::of_set(gateway, &NamespacedName::new("shop", "more"), "web");
        let (owner, name) = added.owner();
        assert_eq!((owner.to_string(), name), ("ListenerSet shop/more".to_owned(), "web"));
        assert_eq!(added.to_string(), "infra/edge/shop/more/web");
    }
}
