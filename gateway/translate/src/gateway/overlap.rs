//! Listeners of one port whose hostnames overlap, where TLS is spoken (GEP-3567): a client that has a connection for one of
//! them may take it for the other too.

use super::{Gateways, ListenerPlan};
use sluice_model::config::{Carries, Protocol};
use sluice_model::{HostPattern, HostTable, Kind, ObjectRef};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Listeners that have a socket together: by it, or where none is known yet by their Gateway and port.
type Shared<'p> = (Option<u16>, &'p [IpAddr], Option<(ObjectRef, u16)>);

/// Says it of both, of those listeners that are served.
pub(super) fn tell(gateways: &mut Gateways) {
    let mut sockets: BTreeMap<Shared<'_>, Vec<&ListenerPlan>> = BTreeMap::new();
    for plan in gateways.plans.iter().filter(|plan| plan.protocol == Protocol::Https) {
        let of_gateway = plan.bind.is_none().then(|| (plan.id.gateway_ref(), plan.port));
        sockets.entry((plan.bind, plan.addresses.as_slice(), of_gateway)).or_default().push(plan);
    }
    let mut told = Vec::new();
    for plans in sockets.values().filter(|plans| plans.len() > 1) {
        let mut table = HostTable::default();
        for plan in plans {
            table.insert(&plan.hostname, *plan);
        }
        // Of each pair one means all the hosts of the other, and is found from there.
        let mut with: BTreeMap<&HostPattern, &ListenerPlan> = BTreeMap::new();
        for plan in plans {
            for wider in wider(&table, plan) {
                with.entry(&plan.hostname).or_insert(wider);
                with.entry(&wider.hostname).or_insert(plan);
            }
        }
        for plan in plans {
            if let Some(other) = with.get(&plan.hostname) {
                told.push((plan.object.clone(), plan.id.owner().1.to_owned(), message(plan, other)));
            }
        }
    }
    for (object, name, message) in told {
        let listeners = match object.kind {
            Kind::ListenerSet => gateways.sets.get_mut(&object).map(|set| &mut set.listeners),
            _ => gateways.status.get_mut(&object).map(|gateway| &mut gateway.listeners),
        };
        for listener in listeners.into_iter().flatten().filter(|listener| listener.name == name) {
            listener.overlapping = Some(message.as_str().into());
        }
    }
}

fn message(plan: &ListenerPlan, other: &ListenerPlan) -> String {
    let name = other.id.owner().1;
    let whose = if other.object == plan.object { String::new() } else { format!(" of {}", other.object) };
    let (own, others) = (&plan.hostname, &other.hostname);
    let follows = match (plan.carries, other.carries) {
        (Carries::Http, Carries::Http) => {
            "a client may send requests for both on one connection, and those that are not for its listener get 421"
        }
        _ => "a client may take one connection for both, and all of it goes where its first server name leads",
    };
    format!("`{own}` overlaps with `{others}` of listener `{name}`{whose}: {follows}")
}

/// Those that mean every host that `plan` does, and more.
fn wider<'t>(
    table: &'t HostTable<&'t ListenerPlan>,
    plan: &'t ListenerPlan,
) -> impl Iterator<Item = &'t ListenerPlan> + use<'t> {
    let host = match &plan.hostname {
        HostPattern::Exact(host) | HostPattern::Wildcard(host) | HostPattern::OneLabel(host) => host.as_str(),
        HostPattern::Any => "",
    };
    let is_wider = |other: &&ListenerPlan| {
        other.hostname != plan.hostname && other.hostname.intersect(&plan.hostname).as_ref() == Some(&plan.hostname)
    };
    table.candidates(host).copied().filter(is_wider)
}
