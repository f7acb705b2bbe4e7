//! Listeners of one port whose hostnames overlap, where TLS is spoken (GEP-3567): a client that has a connection for one of
//! them may send requests for the other on it.

use super::{Gateways, ListenerPlan};
use sluice_model::config::Protocol;
use sluice_model::object::NamespacedName;
use sluice_model::{HostPattern, HostTable, Kind};
use std::collections::BTreeMap;

/// Says it of both, of those listeners that are served.
pub(super) fn tell(gateways: &mut Gateways) {
    let mut ports: BTreeMap<(&NamespacedName, u16), Vec<&ListenerPlan>> = BTreeMap::new();
    for plan in gateways.plans.iter().filter(|plan| plan.protocol == Protocol::Https) {
        ports.entry((&plan.id.gateway, plan.port)).or_default().push(plan);
    }
    let mut told = Vec::new();
    for plans in ports.values().filter(|plans| plans.len() > 1) {
        let mut table = HostTable::default();
        for plan in plans {
            table.insert(&plan.hostname, *plan);
        }
        // Of each pair one means all the hosts of the other: it is found from there, the next one first.
        let mut with: BTreeMap<&HostPattern, &ListenerPlan> = BTreeMap::new();
        for plan in plans {
            for wider in wider(&table, plan) {
                with.entry(&plan.hostname).or_insert(wider);
                with.entry(&wider.hostname).or_insert(plan);
            }
        }
        for plan in plans {
            if let Some(other) = with.get(&plan.hostname) {
                let message = format!(
                    "its hostname `{}` overlaps with `{}` of listener `{}`: browsers may use one connection for both, and \
                     requests that are not for the listener of their connection are answered by 421",
                    plan.hostname,
                    other.hostname,
                    other.id.owner().1
                );
                told.push((plan.object.clone(), plan.id.owner().1.to_owned(), message));
            }
        }
    }
    for (object, name, message) in told {
        let listeners = match object.kind {
            Kind::ListenerSet => gateways.sets.get_mut(&object).map(|set| &mut set.listeners),
            _ => gateways.status.get_mut(&object).map(|gateway| &mut gateway.listeners),
        };
        for listener in listeners.into_iter().flatten().filter(|listener| listener.name == name) {
            listener.overlapping = Some(message.clone());
        }
    }
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
