//! The objects that are there now.

use crate::api::{
    BackendTlsPolicy, ConfigMap, EndpointSlice, Gateway, GatewayClass, GrpcRoute, HttpRoute, Ingress, IngressClass,
    ListenerSet, Namespace, ReferenceGrant, Secret, Service, TcpRoute, TlsRoute, UdpRoute, XBackendTrafficPolicy,
};
use crate::{GatewayConfig, Object, Plugin, TrafficPolicy};
use sluice_model::object::NamespacedName;
use sluice_model::{Kind, ObjectRef};
use std::collections::BTreeMap;
use std::sync::Arc;

type Objects<T> = BTreeMap<NamespacedName, Arc<T>>;

macro_rules! store {
    ($($field:ident: $variant:ident($type:ty),)*) => {
        /// Objects by kind, then by namespace and name (an empty namespace for cluster-scoped kinds), in order.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct Store { $(pub $field: Objects<$type>,)* }

        impl Store {
            /// Puts an object in, and says whether that changed anything.
            pub fn upsert(&mut self, object: Object) -> bool {
                let key = object.reference().key();
                match object {
                    $(Object::$variant(new) => match self.$field.get_mut(&key) {
                        Some(old) if **old == *new => false,
                        Some(old) => { *old = new; true }
                        None => { self.$field.insert(key, new); true }
                    },)*
                }
            }

            /// Takes an object out and gives it back.
            pub fn remove(&mut self, reference: &ObjectRef) -> Option<Object> {
                let key = reference.key();
                match reference.kind {
                    $(Kind::$variant => self.$field.remove(&key).map(Object::$variant),)*
                }
            }

            pub fn get(&self, reference: &ObjectRef) -> Option<Object> {
                let key = reference.key();
                match reference.kind {
                    $(Kind::$variant => self.$field.get(&key).cloned().map(Object::$variant),)*
                }
            }

            /// Every object, by kind.
            pub fn iter(&self) -> impl Iterator<Item = Object> + '_ {
                std::iter::empty()$(.chain(self.$field.values().cloned().map(Object::$variant)))*
            }
        }
    };
}

store! {
    gateway_classes: GatewayClass(GatewayClass),
    gateways: Gateway(Gateway),
    listener_sets: ListenerSet(ListenerSet),
    http_routes: HTTPRoute(HttpRoute),
    grpc_routes: GRPCRoute(GrpcRoute),
    tls_routes: TLSRoute(TlsRoute),
    tcp_routes: TCPRoute(TcpRoute),
    udp_routes: UDPRoute(UdpRoute),
    reference_grants: ReferenceGrant(ReferenceGrant),
    backend_tls_policies: BackendTLSPolicy(BackendTlsPolicy),
    backend_traffic_policies: XBackendTrafficPolicy(XBackendTrafficPolicy),
    ingresses: Ingress(Ingress),
    ingress_classes: IngressClass(IngressClass),
    services: Service(Service),
    endpoint_slices: EndpointSlice(EndpointSlice),
    secrets: Secret(Secret),
    config_maps: ConfigMap(ConfigMap),
    namespaces: Namespace(Namespace),
    plugins: Plugin(Plugin),
    traffic_policies: TrafficPolicy(TrafficPolicy),
    gateway_configs: GatewayConfig(GatewayConfig),
}
