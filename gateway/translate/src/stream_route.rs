//! TLSRoutes, TCPRoutes and UDPRoutes: connections, and sessions of datagrams, that go to one backend as a whole,
//! whatever they carry.
//!
//! Such a route is an HTTPRoute with one rule that takes everything: parents, hostnames (by SNI) and backendRefs are the
//! same fields. What a policy says of plugins means nothing here, as they see requests.

use crate::http_route::{self, Matches};
use crate::rank::Rank;
use crate::report::Report;
use crate::world::{Compiled, World};
use serde::Serialize;
use serde_json::{from_value, to_value};
use sluice_model::object::NamespacedName;
use sluice_model::{Code, Kind, ObjectRef};
use sluice_resources::api::http_route::HttpRouteSpec;
use sluice_resources::api::{HttpRoute, ObjectMeta, TcpRoute, TlsRoute, UdpRoute};

pub(crate) fn tls(world: &World<'_>, name: &NamespacedName, route: &TlsRoute) -> Compiled {
    compile(world, Kind::TLSRoute, name, &route.metadata, &route.spec)
}

pub(crate) fn tcp(world: &World<'_>, name: &NamespacedName, route: &TcpRoute) -> Compiled {
    compile(world, Kind::TCPRoute, name, &route.metadata, &route.spec)
}

pub(crate) fn udp(world: &World<'_>, name: &NamespacedName, route: &UdpRoute) -> Compiled {
    compile(world, Kind::UDPRoute, name, &route.metadata, &route.spec)
}

fn compile(
    world: &World<'_>,
    kind: Kind,
    name: &NamespacedName,
    metadata: &ObjectMeta,
    spec: &impl Serialize,
) -> Compiled {
    let object = ObjectRef::new(kind, name.namespace.clone(), name.name.clone());
    let mut spec: HttpRouteSpec = match to_value(spec).and_then(from_value) {
        Ok(spec) => spec,
        // The fields of one are fields of the other.
        Err(error) => {
            let mut compiled = Compiled::new(Rank::named(metadata, name));
            Report::new(&object, &mut compiled.problems).error(Code::WrongType, "spec", error.to_string());
            return compiled;
        }
    };
    let further = spec.rules.as_ref().is_some_and(|rules| rules.len() > 1);
    if let Some(rules) = &mut spec.rules {
        rules.truncate(1);
    }
    let common = HttpRoute { metadata: metadata.clone(), spec, status: None };
    let mut compiled = http_route::compile_as(world, &object, &common, Matches::OfRules);
    if further {
        let what = if kind == Kind::UDPRoute { "datagram" } else { "connection" };
        let message = format!("the first rule takes every {what}; those behind it are never reached");
        Report::new(&object, &mut compiled.problems).warn(Code::RouteShadowed, "spec.rules[1]", message);
    }
    compiled
}
