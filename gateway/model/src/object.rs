//! Names of the objects that people write: the same in a file as in a cluster.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// A kind that Sluice reads. The API group goes without saying: each kind here belongs to just one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    GatewayClass,
    Gateway,
    ListenerSet,
    HTTPRoute,
    GRPCRoute,
    TLSRoute,
    TCPRoute,
    UDPRoute,
    ReferenceGrant,
    BackendTLSPolicy,
    XBackendTrafficPolicy,
    Ingress,
    IngressClass,
    Service,
    EndpointSlice,
    Secret,
    ConfigMap,
    Namespace,
    Plugin,
    TrafficPolicy,
    GatewayConfig,
}

impl Kind {
    pub const ALL: [Kind; 21] = [
        Kind::GatewayClass,
        Kind::Gateway,
        Kind::ListenerSet,
        Kind::HTTPRoute,
        Kind::GRPCRoute,
        Kind::TLSRoute,
        Kind::TCPRoute,
        Kind::UDPRoute,
        Kind::ReferenceGrant,
        Kind::BackendTLSPolicy,
        Kind::XBackendTrafficPolicy,
        Kind::Ingress,
        Kind::IngressClass,
        Kind::Service,
        Kind::EndpointSlice,
        Kind::Secret,
        Kind::ConfigMap,
        Kind::Namespace,
        Kind::Plugin,
        Kind::TrafficPolicy,
        Kind::GatewayConfig,
    ];

    /// The API group; empty for the core group.
    pub const fn group(self) -> &'static str {
        match self {
            Kind::GatewayClass
            | Kind::Gateway
            | Kind::ListenerSet
            | Kind::HTTPRoute
            | Kind::GRPCRoute
            | Kind::TLSRoute
            | Kind::TCPRoute
            | Kind::UDPRoute
            | Kind::ReferenceGrant
            | Kind::BackendTLSPolicy => "gateway.networking.k8s.io",
            Kind::XBackendTrafficPolicy => "gateway.networking.x-k8s.io",
            Kind::Ingress | Kind::IngressClass => "networking.k8s.io",
            Kind::EndpointSlice => "discovery.k8s.io",
            Kind::Service | Kind::Secret | Kind::ConfigMap | Kind::Namespace => "",
            Kind::Plugin | Kind::TrafficPolicy | Kind::GatewayConfig => "sluice.dev",
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Kind::GatewayClass => "GatewayClass",
            Kind::Gateway => "Gateway",
            Kind::ListenerSet => "ListenerSet",
            Kind::HTTPRoute => "HTTPRoute",
            Kind::GRPCRoute => "GRPCRoute",
            Kind::TLSRoute => "TLSRoute",
            Kind::TCPRoute => "TCPRoute",
            Kind::UDPRoute => "UDPRoute",
            Kind::ReferenceGrant => "ReferenceGrant",
            Kind::BackendTLSPolicy => "BackendTLSPolicy",
            Kind::XBackendTrafficPolicy => "XBackendTrafficPolicy",
            Kind::Ingress => "Ingress",
            Kind::IngressClass => "IngressClass",
            Kind::Service => "Service",
            Kind::EndpointSlice => "EndpointSlice",
            Kind::Secret => "Secret",
            Kind::ConfigMap => "ConfigMap",
            Kind::Namespace => "Namespace",
            Kind::Plugin => "Plugin",
            Kind::TrafficPolicy => "TrafficPolicy",
            Kind::GatewayConfig => "GatewayConfig",
        }
    }

    /// The resource's name, as URLs and RBAC rules have it.
    pub const fn plural(self) -> &'static str {
        match self {
            Kind::GatewayClass => "gatewayclasses",
            Kind::Gateway => "gateways",
            Kind::ListenerSet => "listenersets",
            Kind::HTTPRoute => "httproutes",
            Kind::GRPCRoute => "grpcroutes",
            Kind::TLSRoute => "tlsroutes",
            Kind::TCPRoute => "tcproutes",
            Kind::UDPRoute => "udproutes",
            Kind::ReferenceGrant => "referencegrants",
            Kind::BackendTLSPolicy => "backendtlspolicies",
            Kind::XBackendTrafficPolicy => "xbackendtrafficpolicies",
            Kind::Ingress => "ingresses",
            Kind::IngressClass => "ingressclasses",
            Kind::Service => "services",
            Kind::EndpointSlice => "endpointslices",
            Kind::Secret => "secrets",
            Kind::ConfigMap => "configmaps",
            Kind::Namespace => "namespaces",
            Kind::Plugin => "plugins",
            Kind::TrafficPolicy => "trafficpolicies",
            Kind::GatewayConfig => "gatewayconfigs",
        }
    }

    /// Whether a CustomResourceDefinition has to be installed before the API server knows the kind.
    pub const fn is_custom(self) -> bool {
        matches!(self.group().as_bytes(), b"gateway.networking.k8s.io" | b"gateway.networking.x-k8s.io" | b"sluice.dev")
    }

    /// Whether only the experimental channel of the Gateway API has the kind: a cluster without it lacks nothing.
    pub const fn is_experimental(self) -> bool {
        matches!(self.group().as_bytes(), b"gateway.networking.x-k8s.io")
    }

    /// Routes of the Gateway API: what has parentRefs, and a status with an entry for each.
    pub const ROUTES: [Kind; 5] = [Kind::HTTPRoute, Kind::GRPCRoute, Kind::TLSRoute, Kind::TCPRoute, Kind::UDPRoute];

    pub fn is_route(self) -> bool {
        Kind::ROUTES.contains(&self)
    }

    /// Whether objects of this kind live in a namespace.
    pub const fn namespaced(self) -> bool {
        !matches!(self, Kind::GatewayClass | Kind::IngressClass | Kind::Namespace)
    }

    pub fn from_group_kind(group: &str, kind: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|k| k.group() == group && k.name() == kind)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One object: kind, namespace (empty for cluster-scoped kinds) and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectRef {
    pub kind: Kind,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl ObjectRef {
    pub fn new(kind: Kind, namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        let namespace = if kind.namespaced() { namespace.into() } else { Arc::from("") };
        ObjectRef { kind, namespace, name: name.into() }
    }

    pub fn key(&self) -> NamespacedName {
        NamespacedName { namespace: self.namespace.clone(), name: self.name.clone() }
    }
}

/// `Kind namespace/name`, as kubectl users write it.
impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// Namespace and name, where the kind is plain from the place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespacedName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl NamespacedName {
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        NamespacedName { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Printed as `namespace/name`, so that it can be a key in a JSON map.
impl Serialize for NamespacedName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_scoped_object_has_no_namespace() {
        let class = ObjectRef::new(Kind::GatewayClass, "ignored", "sluice");
        assert_eq!(class.to_string(), "GatewayClass sluice");
    }

    #[test]
    fn every_kind_is_found_by_its_group_and_name() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_group_kind(kind.group(), kind.name()), Some(kind));
        }
        assert_eq!(Kind::from_group_kind("apps", "Deployment"), None);
    }
}
