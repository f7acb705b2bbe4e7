//! What the controller may have to be allowed, beside reading the kinds that are watched. The chart grants this and no
//! more; `sluice doctor` asks for it.

use crate::lease;
use sluice_model::{Kind, Right};
use std::sync::Arc;

/// Where a right is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The resource has no namespace.
    Cluster,
    /// Where the objects are that are served.
    Served,
    /// Sluice's own namespace.
    Own,
}

/// Verbs on one resource.
#[derive(Clone, Copy, Debug)]
pub struct Use {
    pub place: Place,
    pub group: &'static str,
    pub resource: &'static str,
    /// Of the object with this name only.
    pub name: Option<&'static str>,
    pub verbs: &'static [&'static str],
    /// What fails without it; empty: everything.
    pub only_for: &'static str,
}

const GATEWAY_API: &str = "gateway.networking.k8s.io";
/// [`Use::only_for`] of what a Gateway's own Service takes.
pub const GATEWAY_SERVICES: &str = "Services of Gateways (--gateway-services)";

/// A status, which is written by merge patch, and read anew where it is another than was thought.
const fn status(place: Place, group: &'static str, resource: &'static str) -> Use {
    Use { place, group, resource, name: None, verbs: &["get", "patch"], only_for: "" }
}

/// All of them.
pub const RIGHTS: [Use; 21] = [
    status(Place::Cluster, GATEWAY_API, "gatewayclasses/status"),
    status(Place::Served, GATEWAY_API, "backendtlspolicies/status"),
    status(Place::Served, GATEWAY_API, "gateways/status"),
    status(Place::Served, GATEWAY_API, "grpcroutes/status"),
    status(Place::Served, GATEWAY_API, "httproutes/status"),
    status(Place::Served, GATEWAY_API, "listenersets/status"),
    status(Place::Served, GATEWAY_API, "tcproutes/status"),
    status(Place::Served, GATEWAY_API, "tlsroutes/status"),
    status(Place::Served, GATEWAY_API, "udproutes/status"),
    status(Place::Served, Kind::XBackendTrafficPolicy.group(), "xbackendtrafficpolicies/status"),
    status(Place::Served, "networking.k8s.io", "ingresses/status"),
    status(Place::Served, Kind::Plugin.group(), "gatewayconfigs/status"),
    status(Place::Served, Kind::Plugin.group(), "plugins/status"),
    status(Place::Served, Kind::Plugin.group(), "trafficpolicies/status"),
    Use {
        place: Place::Served,
        group: "",
        resource: "serviceaccounts",
        name: None,
        verbs: &["create", "patch"],
        only_for: GATEWAY_SERVICES,
    },
    Use {
        place: Place::Served,
        group: "",
        resource: "events",
        name: None,
        verbs: &["create", "get", "patch"],
        only_for: "Events of problems",
    },
    Use {
        place: Place::Cluster,
        group: "",
        resource: "nodes",
        name: None,
        verbs: &["list"],
        only_for: "addresses of Gateways whose Service has the type NodePort",
    },
    Use {
        place: Place::Cluster,
        group: "apiextensions.k8s.io",
        resource: "customresourcedefinitions",
        name: Some(GATEWAY_CLASS_CRD),
        verbs: &["get"],
        only_for: "the condition SupportedVersion of GatewayClasses",
    },
    Use {
        place: Place::Own,
        group: "",
        resource: "services",
        name: None,
        verbs: &["create", "patch", "delete"],
        only_for: GATEWAY_SERVICES,
    },
    Use {
        place: Place::Own,
        group: "coordination.k8s.io",
        resource: "leases",
        name: None,
        verbs: &["create"],
        only_for: "",
    },
    Use {
        place: Place::Own,
        group: "coordination.k8s.io",
        resource: "leases",
        name: Some(lease::NAME),
        verbs: &["get", "patch"],
        only_for: "",
    },
];

/// Whose annotations say which version of the Gateway API is installed.
pub(crate) const GATEWAY_CLASS_CRD: &str = "gatewayclasses.gateway.networking.k8s.io";

/// The rights of a controller that serves `namespaces` (none: all) and lives in `own`.
pub fn rights(namespaces: &[String], own: &str) -> Vec<Right> {
    let everywhere = || vec![None];
    let served: Vec<Option<Arc<str>>> = namespaces.iter().map(|namespace| Some(namespace.as_str().into())).collect();
    let mut rights = Vec::new();
    for of in &RIGHTS {
        let places = match of.place {
            Place::Cluster => everywhere(),
            Place::Served if served.is_empty() => everywhere(),
            Place::Served => served.clone(),
            Place::Own => vec![Some(own.into())],
        };
        for namespace in places {
            rights.extend(of.verbs.iter().map(|verb| Right {
                group: of.group,
                resource: of.resource,
                namespace: namespace.clone(),
                name: of.name,
                verb,
                only_for: of.only_for,
            }));
        }
    }
    rights
}
