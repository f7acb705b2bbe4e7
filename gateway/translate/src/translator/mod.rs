//! The translator: it holds the objects and what was made of them, and takes changes.

mod inputs;
mod objects;
mod routes;
mod unreadable;

use crate::certificate::check_validity;
use crate::endpoints::SliceIndex;
use crate::gateway::Ports;
use crate::host::{HostKey, Hosts};
use crate::options::Options;
use crate::state::{Dependents, Inputs};
use crate::status::{ClassStatus, GatewayStatus, ListenerSetStatus, ListenerStatus, Status, StatusChanges};
use crate::summary::Changed;
use crate::world::Kept;
use sluice_model::config::{BackendKey, EndpointsKey, Locality};
use sluice_model::{Config, Kind, ObjectRef, Problem};
use sluice_resources::{Change, Store};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

/// Holds objects and the configuration made of them.
#[derive(Debug, Default)]
pub struct Translator {
    inputs: Inputs,
    /// Each behind a pointer: a tree's leaves have room for more than they hold.
    routes: BTreeMap<ObjectRef, Box<Kept>>,
    hosts: Hosts,
    dependents: Dependents,
    ports: Ports,
    /// How many routes use a backend, and how many backends a set of endpoints.
    backend_users: BTreeMap<BackendKey, usize>,
    endpoint_users: BTreeMap<EndpointsKey, usize>,
    problems: BTreeMap<Unit, Vec<Problem>>,
    config: Arc<Config>,
    with_ingress: bool,
    started: bool,
    /// Routes and Ingress objects that were translated since [`Translator::take_status`]; kept where that is wanted.
    status_of: BTreeSet<ObjectRef>,
    /// How many routes are attached to the listeners of each Gateway and ListenerSet.
    attached: BTreeMap<ObjectRef, BTreeMap<String, u32>>,
}

/// What is read again as a whole, with its problems.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Unit {
    Gateways,
    Ports,
    Policies,
    PolicyTargets,
    Plugins,
    ListenerPlugins,
    BackendTls,
    BackendTlsTargets,
    BackendTraffic,
    BackendTrafficTargets,
    Route(ObjectRef),
    Host(HostKey),
    Endpoints(EndpointsKey),
}

/// What came of a set of changes.
#[derive(Clone, Debug)]
pub struct Output {
    /// The same pointer as before where nothing changed.
    pub config: Arc<Config>,
    /// Everything that is wrong now, sorted, each once.
    pub problems: Vec<Problem>,
    /// What changed, in words, for one log line: at most some hundred characters.
    pub summary: String,
    /// Whether the configuration is another than before.
    pub changed: bool,
}

impl Translator {
    pub fn new(options: Options) -> Self {
        let slices = SliceIndex::new(options.locality.node.clone());
        Translator { inputs: Inputs { options, slices, ..Inputs::default() }, ..Translator::default() }
    }

    /// The time at which certificates are judged from the next [`Translator::apply`] on, be its changes none
    /// ([`Options::now`]).
    pub fn set_now(&mut self, now: SystemTime) {
        self.inputs.options.now = Some(now);
    }

    /// The objects that are there now.
    pub fn store(&self) -> &Store {
        &self.inputs.store
    }

    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Takes changes, and says what the configuration is now.
    pub fn apply(&mut self, changes: Vec<Change>) -> Output {
        let before = self.config.clone();
        let mut changed = Changed::default();
        let touched = self.inputs.absorb(changes);
        let first = !std::mem::replace(&mut self.started, true);
        // Who may refer to whom, and whose labels are what: anything may look at these.
        let mut all = first || touched.any(&[Kind::ReferenceGrant, Kind::Namespace]);
        let mut seen = touched.objects.clone();

        let gateways_rebuilt = self.gateways(&touched, first, &mut all);
        self.policies(&touched, &mut seen);
        self.plugins(&touched, all, &mut seen, &mut changed);
        self.backend_tls(&touched, &mut seen);
        self.backend_traffic(&touched, &mut seen);

        let dirty = self.dirty_routes(all, &seen);
        let mut dirty_hosts = BTreeSet::new();
        let mut dirty_endpoints = BTreeSet::new();
        let mut tls_changed = false;
        for route in dirty {
            tls_changed |= self.route(&route, &mut dirty_hosts, &mut dirty_endpoints, &mut changed);
        }
        for route in self.inputs.rivals.settle(&self.routes) {
            tls_changed |= self.route(&route, &mut dirty_hosts, &mut dirty_endpoints, &mut changed);
        }
        self.inputs.rivals.settled();
        for key in dirty_hosts {
            self.host(key);
        }
        for service in &touched.slices_of {
            let first = EndpointsKey { service: service.clone(), port: "".into() };
            let keys = self.endpoint_users.range(first..).map(|(key, _)| key);
            dirty_endpoints.extend(keys.take_while(|key| key.service == *service).cloned());
        }
        for key in dirty_endpoints {
            self.endpoints(key, &mut changed);
        }
        if gateways_rebuilt || tls_changed || touched.any_of(&self.ports.uses) {
            self.ports(&mut changed);
        }
        let of_listeners = |object: &ObjectRef| {
            matches!(object.kind, Kind::Gateway | Kind::ListenerSet | Kind::Plugin | Kind::TrafficPolicy)
        };
        if all || gateways_rebuilt || seen.iter().any(of_listeners) {
            self.listener_plugins();
        }
        self.locality(&mut changed);
        let differs = !Arc::ptr_eq(&before, &self.config);
        Output {
            config: self.config.clone(),
            problems: self.all_problems(),
            summary: changed.summary(),
            changed: differs,
        }
    }

    /// What became of classes, Gateways and routes.
    pub fn status(&self) -> Status {
        let routes: BTreeSet<&ObjectRef> = self.routes.keys().filter(|route| route.kind.is_route()).collect();
        let routes = routes.into_iter().chain(self.unreadable_routes());
        let ingresses = self.routes.iter().filter_map(|(route, compiled)| Some((route.clone(), compiled.ingress?)));
        Status {
            classes: self.class_status(),
            gateways: self.gateway_status(),
            listener_sets: self.listener_set_status(),
            infrastructure: self.inputs.gateways.infrastructure.clone(),
            routes: routes.filter_map(|route| Some((route.clone(), self.route_status(route)?))).collect(),
            ingresses: ingresses.collect(),
            plugins: self.plugin_status(),
            policies: self.policy_status(),
            configs: self.config_status(),
        }
    }

    /// What may be another status than when this was asked last ([`Options::follow_status`]).
    pub fn take_status(&mut self) -> StatusChanges {
        // Whoever is to serve these is not followed.
        let unreadable: Vec<ObjectRef> = self.unreadable_routes().cloned().collect();
        self.status_of.extend(unreadable);
        let mut changes = StatusChanges {
            classes: self.class_status(),
            gateways: self.gateway_status(),
            listener_sets: self.listener_set_status(),
            infrastructure: self.inputs.gateways.infrastructure.clone(),
            plugins: self.plugin_status(),
            policies: self.policy_status(),
            configs: self.config_status(),
            ..StatusChanges::default()
        };
        for route in std::mem::take(&mut self.status_of) {
            match route.kind {
                kind if kind.is_route() => {
                    let status = self.route_status(&route);
                    changes.routes.insert(route, status);
                }
                Kind::Ingress => {
                    let compiled = self.routes.get(&route);
                    changes.ingresses.insert(route, compiled.and_then(|compiled| compiled.ingress));
                }
                // What a GatewayConfig adds to the Ingress Gateway.
                _ => {}
            }
        }
        changes
    }

    fn class_status(&self) -> BTreeMap<ObjectRef, ClassStatus> {
        let mut classes = self.inputs.gateways.classes.clone();
        self.tell_classes(&mut classes);
        classes
    }

    fn gateway_status(&self) -> BTreeMap<ObjectRef, GatewayStatus> {
        let mut gateways = self.inputs.gateways.status.clone();
        gateways.iter_mut().for_each(|(gateway, status)| self.count_routes(gateway, &mut status.listeners));
        self.tell_gateways(&mut gateways);
        gateways
    }

    fn listener_set_status(&self) -> BTreeMap<ObjectRef, ListenerSetStatus> {
        let mut sets = self.inputs.gateways.sets.clone();
        sets.iter_mut().for_each(|(set, status)| self.count_routes(set, &mut status.listeners));
        self.tell_listener_sets(&mut sets);
        sets
    }

    fn count_routes(&self, parent: &ObjectRef, listeners: &mut [ListenerStatus]) {
        let Some(attached) = self.attached.get(parent) else { return };
        for listener in listeners {
            listener.attached_routes = attached.get(&listener.name).copied().unwrap_or_default();
        }
    }

    fn set_problems(&mut self, unit: Unit, problems: Vec<Problem>) {
        if problems.is_empty() {
            self.problems.remove(&unit);
        } else {
            self.problems.insert(unit, problems);
        }
    }

    fn all_problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.problems.values().flatten().cloned().collect();
        // Time passes without any change.
        if let Some(now) = self.inputs.options.now {
            let certificates = self.config.certificates.values();
            problems.extend(certificates.filter_map(|certificate| check_validity(certificate, now)));
        }
        problems.retain(|problem| !self.is_of_stand_in(problem));
        problems.sort();
        problems.dedup();
        problems
    }

    /// Where the gateway runs, as it was told, or else as endpoints on its node tell.
    fn locality(&mut self, changed: &mut Changed) {
        let told = &self.inputs.options.locality;
        let zone = told.zone.as_ref().or_else(|| self.inputs.slices.zone());
        if self.config.locality.zone.as_ref() != zone || self.config.locality.node != told.node {
            let locality = Locality { node: told.node.clone(), zone: zone.cloned() };
            changed.locality = locality.zone != self.config.locality.zone;
            self.edit().locality = locality;
        }
    }

    fn edit(&mut self) -> &mut Config {
        Arc::make_mut(&mut self.config)
    }
}
