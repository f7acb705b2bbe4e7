//! The objects that are there now.

use crate::api::{
    BackendTlsPolicy, ConfigMap, EndpointSlice, Gateway, GatewayClass, GrpcRoute, HttpRoute, Ingress, IngressClass,
    ListenerSet, Namespace, ReferenceGrant, Secret, Service, TcpRoute, TlsRoute, UdpRoute, XBackendTrafficPolicy,
};
use crate::packed::Text;
use crate::{GatewayConfig, Object, Packed, Plugin, TrafficPolicy};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sluice_model::object::NamespacedName;
use sluice_model::{Kind, ObjectRef};
use std::collections::BTreeMap;
use std::sync::Arc;

/// By namespace and name (an empty namespace for cluster-scoped kinds), in order.
type Objects<T> = BTreeMap<NamespacedName, T>;

/// How objects of one kind are held.
trait Holds<T>: Clone + PartialEq {
    /// `None`: it cannot be held, see [`Packed::new`].
    fn hold(object: Arc<T>) -> Option<Self>;
    fn give(&self) -> Option<Arc<T>>;
    fn document(&self, variant: fn(Arc<T>) -> Object) -> Document;
}

impl<T: Clone + PartialEq> Holds<T> for Arc<T> {
    fn hold(object: Arc<T>) -> Option<Self> {
        Some(object)
    }

    fn give(&self) -> Option<Arc<T>> {
        Some(self.clone())
    }

    fn document(&self, variant: fn(Arc<T>) -> Object) -> Document {
        Document::Object(variant(self.clone()))
    }
}

impl<T: Serialize + DeserializeOwned> Holds<T> for Packed<T> {
    fn hold(object: Arc<T>) -> Option<Self> {
        Packed::new(&*object).ok()
    }

    fn give(&self) -> Option<Arc<T>> {
        self.open().map(Arc::new)
    }

    fn document(&self, _: fn(Arc<T>) -> Object) -> Document {
        Document::Text(self.text().clone())
    }
}

/// An object to be written down: a pointer to what the store holds.
#[derive(Clone, Debug)]
pub enum Document {
    Object(Object),
    Text(Text),
}

impl From<Object> for Document {
    fn from(object: Object) -> Document {
        Document::Object(object)
    }
}

macro_rules! store {
    ($($field:ident: $variant:ident($holder:ident<$type:ty>),)*) => {
        /// Objects by kind. Routes and Ingress objects, of which there are thousands, are held as text.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct Store { $(pub $field: Objects<$holder<$type>>,)* }

        impl Store {
            /// Puts an object in, and says whether that changed anything.
            pub fn upsert(&mut self, object: Object) -> bool {
                self.upsert_as(object.reference().key(), object)
            }

            /// The same, where its name is at hand.
            pub fn upsert_as(&mut self, key: NamespacedName, object: Object) -> bool {
                match object {
                    $(Object::$variant(new) => {
                        let Some(new) = <$holder<$type>>::hold(new) else { return false };
                        match self.$field.get_mut(&key) {
                            Some(old) if *old == new => false,
                            Some(old) => { *old = new; true }
                            None => { self.$field.insert(key, new); true }
                        }
                    })*
                }
            }

            /// Takes an object out, and says whether it was there.
            pub fn remove(&mut self, reference: &ObjectRef) -> bool {
                let key = reference.key();
                match reference.kind {
                    $(Kind::$variant => self.$field.remove(&key).is_some(),)*
                }
            }

            pub fn contains(&self, reference: &ObjectRef) -> bool {
                let key = reference.key();
                match reference.kind {
                    $(Kind::$variant => self.$field.contains_key(&key),)*
                }
            }

            pub fn get(&self, reference: &ObjectRef) -> Option<Object> {
                let key = reference.key();
                match reference.kind {
                    $(Kind::$variant => self.$field.get(&key)?.give().map(Object::$variant),)*
                }
            }

            /// The reference with the names that the store has for the object, or where it is new for others of its
            /// namespace, so that they are in memory once.
            pub fn shared(&self, reference: ObjectRef) -> ObjectRef {
                let key = reference.key();
                let near = match reference.kind {
                    $(Kind::$variant => self.$field.range(..=&key).next_back().map(|(near, _)| near.clone()),)*
                };
                let kind = reference.kind;
                match near {
                    Some(NamespacedName { namespace, name }) if namespace == key.namespace => {
                        ObjectRef { kind, namespace, name: if name == key.name { name } else { key.name } }
                    }
                    _ => reference,
                }
            }

            /// Every object, by kind.
            pub fn iter(&self) -> impl Iterator<Item = Object> + '_ {
                std::iter::empty()$(.chain(self.$field.values().filter_map(|o| o.give()).map(Object::$variant)))*
            }

            /// Every object as it is held, by kind: nothing is copied.
            pub fn documents(&self) -> impl Iterator<Item = Document> + '_ {
                std::iter::empty()$(.chain(self.$field.values().map(|o| o.document(Object::$variant))))*
            }
        }
    };
}

store! {
    gateway_classes: GatewayClass(Arc<GatewayClass>),
    gateways: Gateway(Arc<Gateway>),
    listener_sets: ListenerSet(Arc<ListenerSet>),
    http_routes: HTTPRoute(Packed<HttpRoute>),
    grpc_routes: GRPCRoute(Packed<GrpcRoute>),
    tls_routes: TLSRoute(Packed<TlsRoute>),
    tcp_routes: TCPRoute(Packed<TcpRoute>),
    udp_routes: UDPRoute(Packed<UdpRoute>),
    reference_grants: ReferenceGrant(Arc<ReferenceGrant>),
    backend_tls_policies: BackendTLSPolicy(Arc<BackendTlsPolicy>),
    backend_traffic_policies: XBackendTrafficPolicy(Arc<XBackendTrafficPolicy>),
    ingresses: Ingress(Packed<Ingress>),
    ingress_classes: IngressClass(Arc<IngressClass>),
    services: Service(Arc<Service>),
    endpoint_slices: EndpointSlice(Arc<EndpointSlice>),
    secrets: Secret(Arc<Secret>),
    config_maps: ConfigMap(Arc<ConfigMap>),
    namespaces: Namespace(Arc<Namespace>),
    plugins: Plugin(Arc<Plugin>),
    traffic_policies: TrafficPolicy(Arc<TrafficPolicy>),
    gateway_configs: GatewayConfig(Arc<GatewayConfig>),
}
