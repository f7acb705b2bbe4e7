//! What became of Gateways and routes, in the API's own reasons: for `sluice check` and, in a cluster, for status
//! conditions.

use serde::Serialize;
use sluice_model::ObjectRef;
use sluice_model::object::NamespacedName;
use std::collections::BTreeMap;

/// The state of everything at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub gateways: BTreeMap<ObjectRef, GatewayStatus>,
    pub routes: BTreeMap<ObjectRef, RouteStatus>,
}

/// One Gateway. It is accepted where nothing is rejected; programmed where, besides, a listener is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GatewayStatus {
    /// Reason and message of `Accepted: False`: InvalidParameters, UnsupportedAddress, ListenersNotValid.
    pub rejected: Option<(&'static str, String)>,
    /// Reason and message of `ResolvedRefs: False`: InvalidClientCertificateRef, RefNotPermitted.
    pub unresolved: Option<(&'static str, String)>,
    pub listeners: Vec<ListenerStatus>,
}

impl GatewayStatus {
    pub(crate) fn reject(&mut self, reason: &'static str, message: impl Into<String>) {
        self.rejected.get_or_insert((reason, message.into()));
    }

    pub(crate) fn rejected(&self) -> bool {
        self.rejected.is_some()
    }
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListenerStatus {
    pub name: String,
    /// Reason and message of `Accepted: False`: UnsupportedProtocol, UnsupportedValue, NoValidCACertificate, PortUnavailable.
    pub rejected: Option<(&'static str, String)>,
    /// Reason of `Conflicted: True`: ProtocolConflict, HostnameConflict.
    pub conflicted: Option<&'static str>,
    /// Reason and message of `ResolvedRefs: False`: InvalidCertificateRef, RefNotPermitted, InvalidRouteKinds,
    /// InvalidCACertificateRef, InvalidCACertificateKind.
    pub unresolved: Option<(&'static str, String)>,
    pub supported_kinds: Vec<&'static str>,
    /// Routes with an accepted parentRef for this listener.
    pub attached_routes: u32,
}

impl ListenerStatus {
    pub(crate) fn new(name: &str) -> Self {
        ListenerStatus {
            name: name.to_owned(),
            rejected: None,
            conflicted: None,
            unresolved: None,
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

/// One HTTPRoute: an entry for each of its parentRefs that is a Gateway of ours, or of nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RouteStatus {
    pub parents: Vec<ParentStatus>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ParentStatus {
    pub gateway: NamespacedName,
    pub section_name: Option<String>,
    pub port: Option<u16>,
    /// The listeners that it is attached to.
    pub listeners: Vec<String>,
    /// Reason and message of `Accepted: False`: NoMatchingParent, NotAllowedByListeners, NoMatchingListenerHostname.
    pub rejected: Option<(&'static str, String)>,
    /// Reason and message of `ResolvedRefs: False`: BackendNotFound, InvalidKind, RefNotPermitted, UnsupportedProtocol.
    pub unresolved: Option<(&'static str, String)>,
}
