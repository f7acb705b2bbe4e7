//! What the translation is told once, from outside the objects.

use sluice_model::config::{Certificate, Locality};
use std::sync::Arc;
use std::time::SystemTime;

#[derive(Clone, Debug)]
pub struct Options {
    /// For names that no other certificate of the Ingress Gateway covers: what the gateway made itself at its first
    /// start. Without one, and without `GatewayConfig.ingress.defaultCertificateRef`, such handshakes are refused.
    pub default_certificate: Option<Arc<Certificate>>,
    /// Ports of the Ingress Gateway where no GatewayConfig says otherwise. Default 8080 and 8443, those of file mode.
    pub ingress_http_port: u16,
    pub ingress_https_port: u16,
    /// Objects come from files: the classes `sluice` are there without being written, an Ingress without any class is
    /// ours unless an IngressClass that is not ours is the default, plugins may be files, and all Gateways share the
    /// host's ports.
    pub files: bool,
    /// The time at which validity of certificates is judged. `None`: it is not. Default: none.
    pub now: Option<SystemTime>,
    /// The namespace of the Services that Gateways have, each its own: listeners are bound to the target ports that
    /// the Service records ([`crate::TargetPorts`]), and not before it does. `None`: listeners bind the ports that they
    /// name, and all Gateways share them. Default: none.
    pub gateway_services: Option<Arc<str>>,
    /// The node and the zone that the gateway runs in. Where the zone is not said, it is what EndpointSlices say of the
    /// node. Default: unknown, so that hints of endpoints say nothing.
    pub locality: Locality,
    /// Remember whose status may be another one, for [`crate::Translator::take_status`]. Default: no.
    pub follow_status: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            default_certificate: None,
            ingress_http_port: 8080,
            ingress_https_port: 8443,
            files: true,
            now: None,
            gateway_services: None,
            locality: Locality::default(),
            follow_status: false,
        }
    }
}
