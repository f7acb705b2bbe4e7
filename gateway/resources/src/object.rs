//! One object of any kind that Sluice reads.

use crate::api::{
    BackendTlsPolicy, ConfigMap, EndpointSlice, Gateway, GatewayClass, GrpcRoute, HttpRoute, Ingress, IngressClass,
    ListenerSet, Namespace, ObjectMeta, ReferenceGrant, Secret, Service, TcpRoute, TlsRoute, UdpRoute,
    XBackendTrafficPolicy,
};
use crate::{GatewayConfig, Plugin, TrafficPolicy};
use serde::{Serialize, Serializer};
use sluice_model::{Kind, ObjectRef};
use std::sync::Arc;

macro_rules! objects {
    ($($variant:ident($type:ty),)*) => {
        /// An object behind a pointer, so that a change can be kept by several without a copy.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Object { $($variant(Arc<$type>),)* }

        impl Object {
            pub fn kind(&self) -> Kind {
                match self { $(Object::$variant(_) => Kind::$variant,)* }
            }

            pub fn metadata(&self) -> &ObjectMeta {
                match self { $(Object::$variant(object) => &object.metadata,)* }
            }
        }

        /// As a document that [`crate::parse`] reads.
        impl Serialize for Object {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self { $(Object::$variant(object) => (**object).serialize(serializer),)* }
            }
        }
    };
}

objects! {
    GatewayClass(GatewayClass),
    Gateway(Gateway),
    ListenerSet(ListenerSet),
    HTTPRoute(HttpRoute),
    GRPCRoute(GrpcRoute),
    TLSRoute(TlsRoute),
    TCPRoute(TcpRoute),
    UDPRoute(UdpRoute),
    ReferenceGrant(ReferenceGrant),
    BackendTLSPolicy(BackendTlsPolicy),
    XBackendTrafficPolicy(XBackendTrafficPolicy),
    Ingress(Ingress),
    IngressClass(IngressClass),
    Service(Service),
    EndpointSlice(EndpointSlice),
    Secret(Secret),
    ConfigMap(ConfigMap),
    Namespace(Namespace),
    Plugin(Plugin),
    TrafficPolicy(TrafficPolicy),
    GatewayConfig(GatewayConfig),
}

impl Object {
    /// Kind, namespace and name. [`crate::parse`] sees to it that both are there.
    pub fn reference(&self) -> ObjectRef {
        let meta = self.metadata();
        ObjectRef::new(
            self.kind(),
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default(),
        )
    }

    /// The module file that a Plugin names (`spec.source.file.path`). The source that read the object makes the path
    /// absolute with [`Object::set_module_file`] and sends a [`crate::Change::File`] under the same path.
    pub fn module_file(&self) -> Option<&str> {
        match self {
            Object::Plugin(plugin) => plugin.spec.source.file.as_ref().map(|file| file.path.as_str()),
            _ => None,
        }
    }

    pub fn set_module_file(&mut self, path: &str) {
        if let Object::Plugin(plugin) = self
            && plugin.spec.source.file.as_ref().is_some_and(|file| file.path != path)
        {
            Arc::make_mut(plugin).spec.source.file = Some(crate::FileSource { path: path.to_owned() });
        }
    }
}
