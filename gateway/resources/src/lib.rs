//! The Kubernetes objects that Sluice reads: their types (our own kinds too), how a document becomes one of them, the
//! store of what is there now, and sets of changes to it.
//!
//! What an object *means* is `sluice-translate`'s question; where it comes from, `sluice-sources`'. Reading is lenient
//! towards newer API versions: a field that is not known is a warning, a value that does not fit is an error of that
//! one object.
//!
//! ```text
//! text ─► sources ─► expand_list ─► parse ─► Change ─► Store ─► translate
//! ```

mod change;
mod crds;
mod gateway_config;
mod held;
mod layered;
mod object;
mod packed;
mod parse;
mod plugin;
mod references;
mod status;
mod store;
mod traffic_policy;
mod unreadable;
mod values;

pub use change::Change;
pub use crds::{crd_files, crds};
pub use gateway_config::*;
pub use held::Held;
pub use layered::Layered;
pub use object::Object;
pub use packed::Packed;
pub use parse::{Parsed, expand_list, parse, versions};
pub use plugin::*;
pub use status::*;
pub use store::{Document, Store};
pub use traffic_policy::*;
pub use unreadable::Unreadable;
pub use values::{DurationText, Quantity};

/// The types of others, by the names that this project uses.
pub mod api {
    pub use gateway_api::backendtlspolicies as backend_tls_policy;
    pub use gateway_api::backendtlspolicies::BackendTlsPolicy;
    pub use gateway_api::experimental::gatewayclasses as gateway_class;
    pub use gateway_api::experimental::gatewayclasses::GatewayClass;
    pub use gateway_api::experimental::gateways as gateway;
    pub use gateway_api::experimental::gateways::Gateway;
    pub use gateway_api::experimental::grpcroutes as grpc_route;
    pub use gateway_api::experimental::grpcroutes::GrpcRoute;
    pub use gateway_api::experimental::httproutes as http_route;
    pub use gateway_api::experimental::httproutes::HttpRoute;
    pub use gateway_api::experimental::listenersets as listener_set;
    pub use gateway_api::experimental::listenersets::ListenerSet;
    pub use gateway_api::experimental::referencegrants as reference_grant;
    pub use gateway_api::experimental::referencegrants::ReferenceGrant;
    pub use gateway_api::experimental::tcproutes::TcpRoute;
    pub use gateway_api::experimental::tlsroutes::TlsRoute;
    pub use gateway_api::experimental::udproutes::UdpRoute;
    pub use gateway_api::experimental::xbackendtrafficpolicies as backend_traffic_policy;
    pub use gateway_api::experimental::xbackendtrafficpolicies::XBackendTrafficPolicy;
    pub use k8s_openapi::ByteString;
    pub use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service, ServicePort, ServiceSpec};
    pub use k8s_openapi::api::discovery::v1::EndpointSlice;
    pub use k8s_openapi::api::networking::v1 as networking;
    pub use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
    pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement, ObjectMeta};
    pub use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
}
