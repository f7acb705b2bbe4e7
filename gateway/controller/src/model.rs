//! What the controller knows: what `translate` says, what the cluster holds, what the proxies serve; and which objects
//! are to be looked at for differences.

use crate::controller::{Observed, Settings};
use crate::desired::Bundle;
use crate::services::is_of;
use serde_json::Value;
use sluice_model::object::NamespacedName;
use sluice_model::{Kind, ObjectRef, ServedObject, ServedPlugin};
use sluice_resources::Held;
use sluice_resources::api::Service;
use sluice_translate::{
    ClassStatus, ConfigStatus, GATEWAY_UID, GatewayStatus, Infrastructure, ListenerSetStatus, ListenerStatus,
    PluginStatus, PolicyStatus, PortKey, RouteStatus, StatusChanges,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

#[derive(Debug, Default)]
pub(crate) struct Model {
    /// Everything has been read once.
    pub(crate) started: bool,
    pub(crate) observed: Observed,
    pub(crate) classes: BTreeMap<ObjectRef, ClassStatus>,
    pub(crate) gateways: BTreeMap<ObjectRef, GatewayStatus>,
    pub(crate) listener_sets: BTreeMap<ObjectRef, ListenerSetStatus>,
    pub(crate) infrastructure: BTreeMap<ObjectRef, Infrastructure>,
    pub(crate) routes: HashMap<ObjectRef, RouteStatus>,
    /// With their generation.
    pub(crate) ingresses: HashMap<ObjectRef, i64>,
    /// Ingress objects that were ours and still show our addresses.
    pub(crate) left: BTreeSet<ObjectRef>,
    pub(crate) plugins: BTreeMap<ObjectRef, PluginStatus>,
    pub(crate) policies: BTreeMap<ObjectRef, PolicyStatus>,
    pub(crate) configs: BTreeMap<ObjectRef, ConfigStatus>,
    pub(crate) held: HashMap<ObjectRef, Held>,
    /// What every ready proxy serves.
    pub(crate) served: HashMap<ObjectRef, ServedObject>,
    /// Of Gateways whose Service is not as it should be, by UID: the API's reason and why.
    pub(crate) troubles: BTreeMap<String, (&'static str, String)>,
    /// Addresses of nodes, where a Service of type NodePort asks for them.
    pub(crate) nodes: Vec<String>,
    /// The Gateway API's CRDs.
    pub(crate) bundle: Option<Bundle>,
    /// Counts what Services depend on: Gateways, the Services themselves, what is served.
    pub(crate) shape: u64,
    /// Objects whose status may have to be written.
    pub(crate) dirty: BTreeSet<ObjectRef>,
}

/// How far a Gateway reaches, with its own listeners or with those of a ListenerSet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Listeners that every ready proxy serves, in the newest form of their object, and that traffic is led to.
    pub(crate) listeners: BTreeSet<String>,
    pub(crate) addresses: BTreeSet<String>,
    /// Why it is not programmed whatever the proxies serve: the API's reason, and a message.
    pub(crate) lacking: Option<(&'static str, String)>,
}

impl Model {
    /// Takes what `translate` says. Says whether proxies may serve something else of what they are asked for.
    pub(crate) fn translated(&mut self, changes: StatusChanges, observed: Observed) -> bool {
        let asks = !changes.ingresses.is_empty()
            || self.observed.proxies != observed.proxies
            || self.plugins != changes.plugins;
        let shape = self.shape;
        self.started = true;
        mark(&mut self.dirty, &self.classes, &changes.classes);
        mark(&mut self.dirty, &self.gateways, &changes.gateways);
        mark(&mut self.dirty, &self.listener_sets, &changes.listener_sets);
        mark(&mut self.dirty, &self.infrastructure, &changes.infrastructure);
        mark(&mut self.dirty, &self.plugins, &changes.plugins);
        mark(&mut self.dirty, &self.policies, &changes.policies);
        mark(&mut self.dirty, &self.configs, &changes.configs);
        (self.plugins, self.policies, self.configs) = (changes.plugins, changes.policies, changes.configs);
        let same_services = self.observed.services == observed.services && self.observed.certain == observed.certain;
        let same_listeners = self.gateways == changes.gateways && self.listener_sets == changes.listener_sets;
        if self.infrastructure != changes.infrastructure || !same_listeners || !same_services {
            self.shape += 1;
            self.dirty.extend(changes.listener_sets.keys().cloned());
        }
        (self.classes, self.gateways) = (changes.classes, changes.gateways);
        (self.infrastructure, self.listener_sets) = (changes.infrastructure, changes.listener_sets);
        for (route, status) in changes.routes {
            // Of those that cannot be read all are told each time.
            if status.is_some() && self.routes.get(&route) == status.as_ref() {
                continue;
            }
            self.dirty.insert(route.clone());
            match status {
                Some(status) => self.routes.insert(route, status),
                None => self.routes.remove(&route),
            };
        }
        for (ingress, generation) in changes.ingresses {
            self.dirty.insert(ingress.clone());
            match generation {
                Some(generation) => {
                    self.left.remove(&ingress);
                    self.ingresses.insert(ingress, generation);
                }
                None => {
                    if self.ingresses.remove(&ingress).is_some() && self.shows_our_addresses(&ingress) {
                        self.left.insert(ingress);
                    }
                }
            }
        }
        if self.observed.front != observed.front {
            self.dirty.extend(self.ingresses.keys().cloned());
            self.gateways_dirty();
        }
        if self.observed.services != observed.services {
            self.gateways_dirty();
        }
        self.observed = observed;
        asks || self.shape != shape
    }

    /// Takes what the cluster holds.
    pub(crate) fn holds(&mut self, news: HashMap<ObjectRef, Option<Held>>, settings: &Settings) {
        for (object, held) in news {
            if object.kind == Kind::Service && !settings.knows_service(&object) {
                continue;
            }
            match held {
                Some(held) => self.hold(object, held),
                None => {
                    self.held.remove(&object);
                    self.left.remove(&object);
                }
            }
        }
    }

    /// Takes the newer of two forms. Versions are numbers wherever anybody has seen one; others are taken as they come.
    pub(crate) fn hold(&mut self, object: ObjectRef, held: Held) {
        let version = |held: &Held| held.resource_version.parse::<u64>().ok();
        if let Some(former) = self.held.get(&object)
            && former.uid == held.uid
            && let (Some(former), Some(new)) = (version(former), version(&held))
            && new < former
        {
            return;
        }
        if object.kind == Kind::Service {
            let same = self.held.get(&object).is_some_and(|former| former.status == held.status);
            if !same {
                self.gateways_dirty();
                self.dirty.extend(self.ingresses.keys().cloned());
            }
        } else {
            self.dirty.insert(object.clone());
        }
        self.held.insert(object.clone(), held);
        if self.left.contains(&object) && !self.shows_our_addresses(&object) {
            self.left.remove(&object);
        }
    }

    /// Whether the status of an Ingress has an address of the Service in front of us.
    fn shows_our_addresses(&self, ingress: &ObjectRef) -> bool {
        let Some(held) = self.held.get(ingress) else { return false };
        let addresses = self.front_addresses();
        let status = held.status();
        let entries = status.pointer("/loadBalancer/ingress").and_then(Value::as_array);
        entries.into_iter().flatten().any(|entry| is_one_of(entry, &addresses))
    }

    /// All Gateways, and what is attached to them, are to be looked at.
    pub(crate) fn gateways_dirty(&mut self) {
        self.dirty.extend(self.gateways.keys().cloned());
        self.dirty.extend(self.listener_sets.keys().cloned());
    }

    /// Everything is to be looked at.
    pub(crate) fn all_dirty(&mut self) {
        self.dirty.extend(self.classes.keys().cloned());
        self.gateways_dirty();
        self.dirty.extend(self.routes.keys().cloned());
        self.dirty.extend(self.ingresses.keys().cloned());
        self.dirty.extend(self.left.iter().cloned());
        self.dirty.extend(self.plugins.keys().cloned());
        self.dirty.extend(self.policies.keys().cloned());
        self.dirty.extend(self.configs.keys().cloned());
    }

    /// Whether proxies may be asked for an object.
    pub(crate) fn asks_for(&self, object: &ObjectRef) -> bool {
        match object.kind {
            Kind::Plugin => self.plugins.contains_key(object),
            Kind::Ingress => self.ingresses.contains_key(object),
            Kind::ListenerSet => self.listener_sets.contains_key(object),
            _ => self.gateways.contains_key(object),
        }
    }

    /// What every ready proxy has made of a Plugin's code, if it is the newest.
    pub(crate) fn made(&self, plugin: &ObjectRef) -> Option<&ServedPlugin> {
        let (held, status) = (self.held.get(plugin)?, self.plugins.get(plugin)?);
        if status.code.is_none() && !status.remote {
            return None;
        }
        let served = self.served(plugin, &held.uid, status.generation)?;
        // What was fetched, only they know.
        served.plugin.as_ref().filter(|made| status.code.as_ref().is_none_or(|(sha256, _)| made.sha256 == *sha256))
    }

    /// What every ready proxy serves of an object, if that is its newest form.
    fn served(&self, object: &ObjectRef, uid: &str, generation: i64) -> Option<&ServedObject> {
        self.served.get(object).filter(|served| served.uid == uid && served.generation >= generation)
    }

    /// The listeners of a Gateway that every ready proxy serves.
    pub(crate) fn served_listeners(&self, gateway: &ObjectRef, infrastructure: &Infrastructure) -> BTreeSet<String> {
        let served = self.served(gateway, &infrastructure.uid, infrastructure.generation);
        served.map(|served| served.listeners.iter().cloned().collect()).unwrap_or_default()
    }

    /// The listeners of a ListenerSet that every ready proxy serves.
    fn served_of_set(&self, object: &ObjectRef, set: &ListenerSetStatus) -> BTreeSet<String> {
        let served = self.served(object, &set.uid, set.generation);
        served.map(|served| served.listeners.iter().cloned().collect()).unwrap_or_default()
    }

    /// The listeners of a Gateway and of its ListenerSets, with whether every ready proxy serves each.
    fn all_listeners(&self, gateway: &ObjectRef, infrastructure: &Infrastructure) -> Vec<(&ListenerStatus, bool)> {
        let own = self.gateways.get(gateway).map(|status| status.listeners.as_slice()).unwrap_or_default();
        let served = self.served_listeners(gateway, infrastructure);
        let mut all: Vec<_> = own.iter().map(|listener| (listener, served.contains(&listener.name))).collect();
        for (object, set) in self.listener_sets.iter().filter(|(_, set)| set.gateway == *gateway) {
            let served = self.served_of_set(object, set);
            all.extend(set.listeners.iter().map(|listener| (listener, served.contains(&listener.name))));
        }
        all
    }

    /// The ports of a Gateway whose listeners all are served.
    pub(crate) fn served_ports(&self, gateway: &ObjectRef, infrastructure: &Infrastructure) -> BTreeSet<PortKey> {
        let listeners = self.all_listeners(gateway, infrastructure);
        let whole = |port: &&PortKey| {
            let on_port = listeners.iter().filter(|(listener, _)| port_of(listener) == **port && listener.accepted());
            on_port.clone().count() > 0 && on_port.clone().all(|(_, served)| *served)
        };
        infrastructure.ports.iter().filter(whole).copied().collect()
    }

    /// Whether every ready proxy serves an Ingress in this generation.
    pub(crate) fn serves_ingress(&self, ingress: &ObjectRef, generation: i64) -> bool {
        let Some(held) = self.held.get(ingress) else { return false };
        self.served(ingress, &held.uid, generation).is_some_and(|served| !served.listeners.is_empty())
    }

    /// With its own listeners.
    pub(crate) fn reach(&self, gateway: &ObjectRef, settings: &Settings) -> Reach {
        let Some(infrastructure) = self.infrastructure.get(gateway) else { return Reach::default() };
        let listeners = self.gateways.get(gateway).map(|status| status.listeners.as_slice()).unwrap_or_default();
        let served = self.served_listeners(gateway, infrastructure);
        self.reach_with(infrastructure, listeners, served, settings)
    }

    /// With those of a ListenerSet.
    pub(crate) fn reach_of_set(&self, object: &ObjectRef, set: &ListenerSetStatus, settings: &Settings) -> Reach {
        let Some(infrastructure) = self.infrastructure.get(&set.gateway) else { return Reach::default() };
        self.reach_with(infrastructure, &set.listeners, self.served_of_set(object, set), settings)
    }

    fn reach_with(
        &self,
        infrastructure: &Infrastructure,
        listeners: &[ListenerStatus],
        served: BTreeSet<String>,
        settings: &Settings,
    ) -> Reach {
        let mut reach = Reach { listeners: served, ..Reach::default() };
        if settings.services.is_none() {
            reach.addresses = infrastructure.addresses.iter().map(ToString::to_string).collect();
            if reach.addresses.is_empty() {
                reach.addresses = self.front_addresses();
            }
            return reach;
        }
        if let Some((reason, message)) = self.troubles.get(&infrastructure.uid) {
            reach.lacking = Some((reason, message.clone()));
        }
        let Some(service) = self.observed.services.get(&infrastructure.uid) else {
            reach.listeners.clear();
            reach.lacking.get_or_insert(("Pending", "its Service is not there yet".to_owned()));
            return reach;
        };
        let spec = service.spec.clone().unwrap_or_default();
        let leads = |port: PortKey| {
            spec.selector.as_ref().is_some_and(|selector| !selector.is_empty())
                && spec.ports.iter().flatten().any(|entry| is_of(entry, port))
        };
        reach.listeners.retain(|name| listeners.iter().any(|l| l.name == *name && leads(port_of(l))));
        reach.addresses = self.addresses(service);
        let missing = infrastructure.addresses.iter().map(ToString::to_string).find(|a| !reach.addresses.contains(a));
        if let Some(missing) = missing {
            let message = format!(
                "its Service did not get the address {missing} of spec.addresses; one of a family is all that it can ask for"
            );
            reach.lacking.get_or_insert(("AddressNotUsable", message));
        } else if reach.addresses.is_empty() {
            reach.lacking.get_or_insert(("AddressNotAssigned", "its Service has no address yet".to_owned()));
        }
        reach
    }

    /// Where the Service in front of the Ingress Gateway is reached.
    pub(crate) fn front_addresses(&self) -> BTreeSet<String> {
        self.observed.front.as_ref().map(|service| self.addresses(service)).unwrap_or_default()
    }

    /// Where a Service is reached, by its type.
    fn addresses(&self, service: &Service) -> BTreeSet<String> {
        let spec = service.spec.clone().unwrap_or_default();
        match spec.type_.as_deref() {
            Some("LoadBalancer") => {
                let object = service_ref(service);
                let status = self.held.get(&object).map(Held::status).unwrap_or_default();
                let entries = status.pointer("/loadBalancer/ingress").and_then(Value::as_array).cloned();
                let address = |entry: Value| {
                    let text = |field: &str| entry.get(field).and_then(Value::as_str).map(str::to_owned);
                    text("ip").or_else(|| text("hostname")).filter(|address| !address.is_empty())
                };
                entries.unwrap_or_default().into_iter().filter_map(address).collect()
            }
            Some("NodePort") => self.nodes.iter().cloned().collect(),
            _ => {
                let all = spec.cluster_ips.or_else(|| spec.cluster_ip.map(|address| vec![address]));
                all.unwrap_or_default().into_iter().filter(|address| !address.is_empty() && address != "None").collect()
            }
        }
    }

    /// Whether a Service's addresses are those of the nodes.
    pub(crate) fn wants_nodes(&self) -> bool {
        let is_node_port = |service: &Arc<Service>| {
            service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() == Some("NodePort"))
        };
        self.observed.services.values().chain(&self.observed.front).any(is_node_port)
    }

    /// What the proxies are asked for: all Gateways and ListenerSets, Plugins, and Ingress objects that are not known to be served, up to `limit`.
    /// Says whether anything is waited for.
    pub(crate) fn question(&self, settings: &Settings, limit: usize) -> (Vec<ObjectRef>, bool) {
        let mut objects: Vec<ObjectRef> = self.gateways.keys().chain(self.listener_sets.keys()).cloned().collect();
        let waits = |(gateway, infrastructure): (&ObjectRef, &Infrastructure)| {
            self.all_listeners(gateway, infrastructure).iter().any(|(listener, served)| listener.serves && !served)
        };
        let mut waiting = self.infrastructure.iter().any(waits);
        objects.extend(self.plugins.keys().take(limit.saturating_sub(objects.len())).cloned());
        waiting |= self.plugins.iter().any(|(plugin, status)| {
            let settles = |made: &ServedPlugin| made.error.is_some() || (made.checked && made.ready >= made.uses);
            (status.code.is_some() || status.remote) && !self.made(plugin).is_some_and(settles)
        });
        if settings.ingress_service.is_some() {
            let pending = self.ingresses.iter().filter(|(ingress, generation)| {
                self.held.contains_key(*ingress) && !self.serves_ingress(ingress, **generation)
            });
            let room = limit.saturating_sub(objects.len());
            let before = objects.len();
            objects.extend(pending.map(|(ingress, _)| ingress.clone()).take(room));
            waiting |= objects.len() > before;
        }
        (objects, waiting)
    }
}

fn port_of(listener: &ListenerStatus) -> PortKey {
    PortKey { number: listener.port, transport: listener.transport }
}

/// Whether an entry of `loadBalancer.ingress` is one of these.
pub(crate) fn is_one_of(entry: &Value, addresses: &BTreeSet<String>) -> bool {
    ["ip", "hostname"].into_iter().filter_map(|field| entry.get(field)?.as_str()).any(|text| addresses.contains(text))
}

/// Marks what is new, gone or another.
fn mark<T: PartialEq>(dirty: &mut BTreeSet<ObjectRef>, old: &BTreeMap<ObjectRef, T>, new: &BTreeMap<ObjectRef, T>) {
    dirty
        .extend(new.iter().filter(|(object, value)| old.get(*object) != Some(value)).map(|(object, _)| object.clone()));
    dirty.extend(old.keys().filter(|object| !new.contains_key(*object)).cloned());
}

pub(crate) fn service_ref(service: &Service) -> ObjectRef {
    let meta = &service.metadata;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    ObjectRef::new(Kind::Service, text(&meta.namespace), text(&meta.name))
}

/// Whose Service it is.
pub(crate) fn gateway_of(service: &Service) -> Option<String> {
    service.metadata.labels.as_ref()?.get(GATEWAY_UID).cloned()
}

impl Settings {
    /// Whether a Service's addresses are of interest.
    pub(crate) fn knows_service(&self, object: &ObjectRef) -> bool {
        *object.namespace == *self.namespace
            || self.ingress_service.as_ref().is_some_and(|front| {
                *front == NamespacedName { namespace: object.namespace.clone(), name: object.name.clone() }
            })
    }
}
