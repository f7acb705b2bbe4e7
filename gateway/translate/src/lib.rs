//! From objects to the configuration of the data plane: `(former Config, changes) -> Config + status + problems`.
//!
//! Pure: no I/O, no clock, no async, and the same objects give an equal [`Config`] whatever the order of changes that
//! led to them. Incremental: what a change does not touch is the *same* pointer in the next configuration. Bad input is
//! a [`Problem`] of its object; everything else goes on.
//!
//! ```text
//!            classes, Gateways ─► Attach ─┐
//!            TrafficPolicies, Plugins ────┼─► route ─► rules by (listener, host) ─► VirtualHost
//! changes ─► policies of backends, Services ┘     └────► backends ─► endpoint sets ◄─ EndpointSlices
//!            Secrets ─► certificates ─► ports
//! ```
//!
//! Routes remember what they looked at, so that a changed Service, policy or Plugin brings up just its routes.
//! Gateways, classes, grants and namespaces are looked at as a whole; routes follow where what they see of them changed.

mod backend_tls;
mod backend_traffic;
mod certificate;
mod conditions;
mod edge;
mod endpoints;
mod few;
mod gateway;
mod grant;
mod grpc_route;
mod host;
mod http_route;
mod ingress;
mod options;
mod plugin;
mod plugin_backends;
mod plugin_source;
mod plugin_stores;
mod policy;
mod rank;
mod report;
mod rivals;
mod service;
mod service_targets;
mod session;
mod state;
mod status;
mod stream_route;
mod summary;
mod tracing;
mod translator;
mod values;
mod world;

#[cfg(test)]
mod tests;

pub use certificate::certificate_from_pem;
pub use conditions::{Condition, Told};
pub use gateway::{
    BUILT_IN_CLASS, GATEWAY_CONTROLLER, GATEWAY_UID, INGRESS_CONTROLLER, INGRESS_GATEWAY, INGRESS_NAMESPACE, PortKey,
    TARGET_PORTS, TargetPorts, is_default_class, service_name,
};
pub use options::Options;
pub use sluice_model::{Config, Problem};
pub use status::{
    Ancestor, AncestorStatus, ClassStatus, ConfigStatus, GatewayStatus, Infrastructure, ListenerSetStatus,
    ListenerStatus, ParentStatus, PluginStatus, PolicyStatus, RouteStatus, Status, StatusChanges, Why,
};
pub use translator::{Output, Translator};
