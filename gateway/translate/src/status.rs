//! What became of Gateways and routes, in the API's own reasons: for `sluice check` and, in a cluster, for status
//! conditions.

use crate::gateway::PortKey;
use serde::Serialize;
use sluice_model::ObjectRef;
use sluice_model::config::Transport;
use sluice_model::object::NamespacedName;
use sluice_resources::ServiceConfig;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// The state of everything at one time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// GatewayClasses of ours that somebody wrote.
    pub classes: BTreeMap<ObjectRef, ClassStatus>,
    pub gateways: BTreeMap<ObjectRef, GatewayStatus>,
    /// ListenerSets that name a Gateway of ours.
    pub listener_sets: BTreeMap<ObjectRef, ListenerSetStatus>,
    /// What each Gateway of ours wants around it.
    pub infrastructure: BTreeMap<ObjectRef, Infrastructure>,
    pub routes: BTreeMap<ObjectRef, RouteStatus>,
    /// Ingress objects of ours, with their generation.
    pub ingresses: BTreeMap<ObjectRef, i64>,
    pub plugins: BTreeMap<ObjectRef, PluginStatus>,
    /// TrafficPolicies, BackendTLSPolicies and XBackendTrafficPolicies.
    pub policies: BTreeMap<ObjectRef, PolicyStatus>,
    pub configs: BTreeMap<ObjectRef, ConfigStatus>,
}

/// What may be another status than at the time before ([`crate::Translator::take_status`]).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StatusChanges {
    /// All of them.
    pub classes: BTreeMap<ObjectRef, ClassStatus>,
    /// All of them.
    pub gateways: BTreeMap<ObjectRef, GatewayStatus>,
    /// All of them.
    pub listener_sets: BTreeMap<ObjectRef, ListenerSetStatus>,
    /// All of them.
    pub infrastructure: BTreeMap<ObjectRef, Infrastructure>,
    /// `None`: it is gone.
    pub routes: BTreeMap<ObjectRef, Option<RouteStatus>>,
    /// The generation; `None`: it is gone, or not ours (any more).
    pub ingresses: BTreeMap<ObjectRef, Option<i64>>,
    /// All of them.
    pub plugins: BTreeMap<ObjectRef, PluginStatus>,
    /// All TrafficPolicies, BackendTLSPolicies and XBackendTrafficPolicies.
    pub policies: BTreeMap<ObjectRef, PolicyStatus>,
    /// All of them.
    pub configs: BTreeMap<ObjectRef, ConfigStatus>,
}

/// One Plugin, as far as its object and the ConfigMap with its code say it. What becomes of the code only a proxy knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PluginStatus {
    pub generation: i64,
    /// The newest generation, where that cannot be read.
    pub unread: Option<i64>,
    /// Reason and message of `Accepted: False`: InvalidSource, Invalid.
    pub rejected: Option<(&'static str, String)>,
    /// SHA-256 of the code in hex, and its bytes, where there is any.
    pub code: Option<(String, usize)>,
    /// Proxies fetch the code, and only they know what it is.
    pub remote: bool,
}

/// One GatewayConfig.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigStatus {
    pub generation: i64,
    /// Reason and message of `Accepted: False`: Invalid. What is valid of it holds all the same.
    pub rejected: Option<(&'static str, String)>,
    /// Classes and Gateways of ours that name it.
    pub used_by: BTreeSet<ObjectRef>,
}

/// One policy (GEP-713).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyStatus {
    pub generation: i64,
    /// In their order, each once.
    pub ancestors: Vec<AncestorStatus>,
}

/// What a policy does for one object above what it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AncestorStatus {
    pub ancestor: Ancestor,
    /// Reason and message of `Accepted: False`: Conflicted, TargetNotFound, Invalid, NoValidCACertificate.
    pub rejected: Option<(&'static str, String)>,
    /// Whether the policy names CA certificates, and so has a `ResolvedRefs`.
    pub has_references: bool,
    /// Reason and message of `ResolvedRefs: False`: InvalidCACertificateRef, InvalidKind.
    pub unresolved: Option<(&'static str, String)>,
}

/// Of a TrafficPolicy each target, by what the policy calls it, or each route that names it; of a BackendTLSPolicy or an
/// XBackendTrafficPolicy each Gateway (or Ingress) whose backends it is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ancestor {
    pub group: String,
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub section: Option<String>,
}

/// `Gateway shop/edge`, with the section where one is named.
impl fmt::Display for Ancestor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)?;
        self.section.iter().try_for_each(|section| write!(f, " {section}"))
    }
}

/// One GatewayClass of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClassStatus {
    pub generation: i64,
    /// Message of `Accepted: False`, reason InvalidParameters.
    pub rejected: Option<String>,
}

/// What a Gateway has in a cluster beside its listeners.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Infrastructure {
    pub uid: String,
    pub generation: i64,
    /// `spec.infrastructure`, for everything that is made for this Gateway.
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub service: ServiceConfig,
    /// `spec.addresses` of type IPAddress.
    pub addresses: Vec<IpAddr>,
    /// Ports of the listeners that can be served.
    pub ports: BTreeSet<PortKey>,
}

/// One Gateway. It is accepted where nothing is rejected; programmed where, besides, a listener is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GatewayStatus {
    /// `metadata.generation` of the form that was looked at; 0 of an object from a file.
    pub generation: i64,
    /// The newest generation, where that cannot be read.
    #[serde(skip)]
    pub unread: Option<i64>,
    /// Reason and message of `Accepted: False`: InvalidParameters, UnsupportedAddress, ListenersNotValid, Invalid.
    pub rejected: Option<(&'static str, String)>,
    /// Reason and message of `ResolvedRefs: False`: InvalidClientCertificateRef, RefNotPermitted.
    pub unresolved: Option<(&'static str, String)>,
    /// `spec.tls.frontend` lets clients in whose certificate is not valid.
    pub insecure_frontend: bool,
    /// It takes routes that ask for default Gateways (`spec.defaultScope`).
    pub is_default: bool,
    /// Its own; those that ListenerSets add are told of there.
    pub listeners: Vec<ListenerStatus>,
    /// ListenerSets that are accepted.
    pub attached_listener_sets: usize,
}

impl PluginStatus {
    /// The generation that its conditions are about.
    pub fn observed(&self) -> i64 {
        self.unread.unwrap_or(self.generation)
    }
}

impl GatewayStatus {
    /// The generation that its conditions are about.
    pub fn observed(&self) -> i64 {
        self.unread.unwrap_or(self.generation)
    }

    pub(crate) fn reject(&mut self, reason: &'static str, message: impl Into<String>) {
        self.rejected.get_or_insert((reason, message.into()));
    }

    pub(crate) fn rejected(&self) -> bool {
        self.rejected.is_some()
    }
}

/// One ListenerSet that names a Gateway of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListenerSetStatus {
    #[serde(skip)]
    pub uid: String,
    /// `metadata.generation` of the form that was looked at; 0 of an object from a file.
    pub generation: i64,
    /// The newest generation, where that cannot be read.
    #[serde(skip)]
    pub unread: Option<i64>,
    pub gateway: ObjectRef,
    /// Reason and message of `Accepted: False`: NotAllowed, ParentNotAccepted, ListenersNotValid, Invalid.
    pub rejected: Option<(&'static str, String)>,
    /// None where the Gateway does not allow it.
    pub listeners: Vec<ListenerStatus>,
}

impl ListenerSetStatus {
    /// The generation that its conditions are about.
    pub fn observed(&self) -> i64 {
        self.unread.unwrap_or(self.generation)
    }

    pub(crate) fn reject(&mut self, reason: &'static str, message: impl Into<String>) {
        self.rejected.get_or_insert((reason, message.into()));
    }
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListenerStatus {
    pub name: String,
    pub port: u16,
    /// What its protocol is spoken over.
    pub transport: Transport,
    /// Reason and message of `Accepted: False`: UnsupportedProtocol, UnsupportedValue,
    /// NoValidCACertificate, PortUnavailable.
    pub rejected: Option<(&'static str, String)>,
    /// Reason of `Conflicted: True`: ProtocolConflict, HostnameConflict.
    pub conflicted: Option<&'static str>,
    /// Reason and message of `ResolvedRefs: False`: InvalidCertificateRef, RefNotPermitted, InvalidRouteKinds,
    /// InvalidCACertificateRef, InvalidCACertificateKind.
    pub unresolved: Option<(&'static str, String)>,
    /// Message of `OverlappingTLSConfig: True`, reason OverlappingHostnames.
    pub overlapping: Option<Arc<str>>,
    /// Whether it has what it takes to be served: it is accepted, and where it needs a certificate it has one.
    pub serves: bool,
    pub supported_kinds: Vec<&'static str>,
    /// Routes with an accepted parentRef for this listener.
    pub attached_routes: u32,
}

impl ListenerStatus {
    pub(crate) fn new(name: &str, port: u16) -> Self {
        ListenerStatus {
            name: name.to_owned(),
            port,
            transport: Transport::Tcp,
            serves: false,
            rejected: None,
            conflicted: None,
            unresolved: None,
            overlapping: None,
            supported_kinds: Vec::new(),
            attached_routes: 0,
        }
    }

    pub(crate) fn reject(&mut self, reason: &'static str, message: impl Into<String>) {
        self.rejected.get_or_insert((reason, message.into()));
    }

    pub(crate) fn unresolve(&mut self, reason: &'static str, message: impl Into<String>) {
        self.unresolved.get_or_insert((reason, message.into()));
    }

    pub fn accepted(&self) -> bool {
        self.rejected.is_none() && self.conflicted.is_none()
    }
}

/// One route: an entry for each of its parentRefs that is ours, or nobody's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RouteStatus {
    /// `metadata.generation` of the form that was looked at; 0 of an object from a file.
    pub generation: i64,
    pub parents: Vec<ParentStatus>,
    /// Message of `PartiallyInvalid: True`: rules that are left out or answer an error, or hostnames that are left out.
    pub invalid: Option<String>,
}

/// A reason and a message. Behind a pointer where there are as many places for one as routes.
pub type Why = (&'static str, String);

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ParentStatus {
    /// A Gateway or a ListenerSet.
    pub parent: ObjectRef,
    /// The Gateway that the parent is, or belongs to; `None` where there is no such parent.
    pub gateway: Option<NamespacedName>,
    /// The parentRef's namespace, where it is written.
    pub namespace: Option<String>,
    pub section_name: Option<String>,
    pub port: Option<u16>,
    /// The listeners that it is attached to.
    pub listeners: Vec<String>,
    /// Reason and message of `Accepted: False`: NoMatchingParent, NotAllowedByListeners,
    /// NoMatchingListenerHostname, Conflicted, UnsupportedValue, IncompatibleFilters.
    pub rejected: Option<Box<Why>>,
    /// Reason and message of `ResolvedRefs: False`: BackendNotFound, InvalidKind, RefNotPermitted, UnsupportedProtocol.
    pub unresolved: Option<Box<Why>>,
    /// The newest form cannot be read: nothing is known of what it refers to.
    #[serde(skip)]
    pub unread: bool,
}

/// `Gateway shop/edge`, with the section and the port where they are named.
impl fmt::Display for ParentStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.parent)?;
        self.section_name.iter().try_for_each(|section| write!(f, " {section}"))?;
        self.port.iter().try_for_each(|port| write!(f, " port {port}"))
    }
}
