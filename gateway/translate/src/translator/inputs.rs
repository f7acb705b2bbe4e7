//! What is read again as a whole: Gateways, policies, plugins, what holds for backends, and the ports that come of Gateways.

use super::{Translator, Unit};
use crate::backend_tls::BackendTlsPolicies;
use crate::backend_traffic::BackendTrafficPolicies;
use crate::gateway::{self, IngressTls};
use crate::plugin::Plugins;
use crate::policy::Policies;
use crate::state::{Inputs, Touched};
use crate::summary::Changed;
use sluice_model::{Kind, ObjectRef};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Looked at as a whole, whoever of them changed.
const GATEWAY_KINDS: &[Kind] = &[
    Kind::GatewayClass,
    Kind::Gateway,
    Kind::ListenerSet,
    Kind::GatewayConfig,
    Kind::IngressClass,
    Kind::ReferenceGrant,
];
/// What a policy may be attached to.
const TARGET_KINDS: &[Kind] = &[
    Kind::TrafficPolicy,
    Kind::Gateway,
    Kind::ListenerSet,
    Kind::HTTPRoute,
    Kind::GRPCRoute,
    Kind::TLSRoute,
    Kind::TCPRoute,
    Kind::UDPRoute,
    Kind::Ingress,
    Kind::Service,
];

impl Translator {
    /// Classes, Gateways and what is shared by all Ingress objects. Says whether they were read anew.
    pub(super) fn gateways(&mut self, touched: &Touched, first: bool, all: &mut bool) -> bool {
        if touched.any(&[Kind::Secret]) {
            self.inputs.certificates.forget_missing(&self.inputs.store);
        }
        let had_ingress = self.with_ingress;
        let Inputs { store, options, .. } = &self.inputs;
        if first || touched.any(&[Kind::IngressClass]) {
            self.with_ingress = gateway::has_ingress(store, options, store.ingresses.values());
        } else if touched.any(&[Kind::Ingress]) {
            // Of the others it is known whose they are.
            let others = self.routes.range(ObjectRef::new(Kind::Ingress, "", "")..);
            let mut others = others.take_while(|(object, _)| object.kind == Kind::Ingress);
            let touched = || touched.objects.iter().filter(|object| object.kind == Kind::Ingress);
            self.with_ingress = others.any(|(other, kept)| kept.ingress.is_some() && !touched().any(|o| o == other))
                || gateway::has_ingress(store, options, touched().filter_map(|o| store.ingresses.get(&o.key())));
        }
        let dirty = first
            || touched.any(GATEWAY_KINDS)
            // Gateways may ask for labels of the namespaces of ListenerSets.
            || (touched.any(&[Kind::Namespace]) && !self.inputs.store.listener_sets.is_empty())
            || touched.any_of(&self.inputs.gateways.uses)
            || self.gateway_services(touched)
            || had_ingress != self.with_ingress;
        if !dirty {
            return false;
        }
        let inputs = &mut self.inputs;
        let built = gateway::build(&inputs.store, &inputs.options, &mut inputs.certificates, self.with_ingress);
        *all |= built.attach != inputs.gateways.attach;
        inputs.gateways = built;
        let problems = std::mem::take(&mut self.inputs.gateways.problems);
        self.set_problems(Unit::Gateways, problems);
        true
    }

    /// Whether Services may record other target ports than before.
    fn gateway_services(&self, touched: &Touched) -> bool {
        let Some(namespace) = &self.inputs.options.gateway_services else { return false };
        let services = touched.objects.range(ObjectRef::new(Kind::Service, namespace.clone(), "")..);
        let mut here = services.take_while(|o| o.kind == Kind::Service && o.namespace == *namespace);
        here.any(|service| service.name.starts_with(gateway::SERVICE_PREFIX))
    }

    pub(super) fn policies(&mut self, touched: &Touched, seen: &mut BTreeSet<ObjectRef>) {
        if touched.any(&[Kind::TrafficPolicy]) {
            let mut policies = Policies::read(&self.inputs.store);
            seen.extend(policies.changes_since(&self.inputs.policies));
            let problems = std::mem::take(&mut policies.problems);
            self.inputs.policies = policies;
            self.set_problems(Unit::Policies, problems);
        }
        if touched.any(TARGET_KINDS) {
            let problems = Policies::missing_targets(&self.inputs.store);
            self.set_problems(Unit::PolicyTargets, problems);
        }
    }

    pub(super) fn plugins(
        &mut self,
        touched: &Touched,
        all: bool,
        seen: &mut BTreeSet<ObjectRef>,
        changed: &mut Changed,
    ) {
        let plugins = &self.inputs.plugins;
        if !(all || touched.files || touched.any(&[Kind::Plugin]) || touched.any_of(&plugins.uses)) {
            return;
        }
        let inputs = &self.inputs;
        let mut plugins = Plugins::read(&inputs.store, &inputs.files, inputs.options.files, &inputs.plugins);
        seen.extend(plugins.changes_since(&inputs.plugins));
        let problems = std::mem::take(&mut plugins.problems);
        let (specs, grants) = (plugins.specs(), plugins.grants());
        self.inputs.plugins = plugins;
        self.set_problems(Unit::Plugins, problems);
        changed.plugins = differences(&self.config.plugins, &specs);
        if changed.plugins > 0 {
            self.edit().plugins = specs;
        }
        // Those of plugins that changed are not counted twice.
        let given = differences(&self.config.plugin_grants, &grants);
        if given > 0 {
            changed.plugins = changed.plugins.max(given);
            self.edit().plugin_grants = grants;
        }
    }

    /// Plugins for answers to requests that no rule takes.
    pub(super) fn listener_plugins(&mut self) {
        let world = self.inputs.world();
        let (mut problems, mut of_listeners) = (Vec::new(), BTreeMap::new());
        for id in self.inputs.gateways.plans.iter().map(|plan| &plan.id) {
            let uses = crate::plugin::of_listener(&world, id, &mut problems);
            if !uses.is_empty() {
                let former = self.config.listener_plugins.get(id).filter(|former| ***former == uses);
                of_listeners.insert(id.clone(), former.cloned().unwrap_or_else(|| Arc::new(uses)));
            }
        }
        if self.config.listener_plugins != of_listeners {
            self.edit().listener_plugins = of_listeners;
        }
        self.set_problems(Unit::ListenerPlugins, problems);
    }

    pub(super) fn backend_tls(&mut self, touched: &Touched, seen: &mut BTreeSet<ObjectRef>) {
        if touched.any(&[Kind::BackendTLSPolicy, Kind::Service]) {
            let problems = BackendTlsPolicies::missing_targets(&self.inputs.store);
            self.set_problems(Unit::BackendTlsTargets, problems);
        }
        let uses = &self.inputs.backend_tls.uses;
        if !(touched.any(&[Kind::BackendTLSPolicy]) || touched.any_of(uses)) {
            return;
        }
        let mut policies = BackendTlsPolicies::read(&self.inputs.store);
        seen.extend(policies.changes_since(&self.inputs.backend_tls));
        let problems = std::mem::take(&mut policies.problems);
        self.inputs.backend_tls = policies;
        self.set_problems(Unit::BackendTls, problems);
    }

    pub(super) fn backend_traffic(&mut self, touched: &Touched, seen: &mut BTreeSet<ObjectRef>) {
        if touched.any(&[Kind::XBackendTrafficPolicy]) {
            let mut policies = BackendTrafficPolicies::read(&self.inputs.store);
            seen.extend(policies.changes_since(&self.inputs.backend_traffic));
            let problems = std::mem::take(&mut policies.problems);
            self.inputs.backend_traffic = policies;
            self.set_problems(Unit::BackendTraffic, problems);
        }
        if touched.any(&[Kind::XBackendTrafficPolicy, Kind::Service]) {
            let problems = BackendTrafficPolicies::missing_targets(&self.inputs.store);
            self.set_problems(Unit::BackendTrafficTargets, problems);
        }
    }

    pub(super) fn ports(&mut self, changed: &mut Changed) {
        let mut tls = IngressTls::default();
        for (secret, user) in self.routes.values().flat_map(|compiled| &compiled.tls) {
            tls.secrets.entry(secret.clone()).or_default().push(user.clone());
        }
        let inputs = &mut self.inputs;
        let former = &self.config;
        let mut ports = gateway::ports(&inputs.gateways, &tls, &inputs.store, &mut inputs.certificates, former);
        let problems = std::mem::take(&mut ports.problems);
        self.set_problems(Unit::Ports, problems);
        changed.ports = differences(&self.config.ports, &ports.ports);
        changed.ports += differences(&self.config.udp_ports, &ports.udp_ports);
        if changed.ports > 0 {
            let config = self.edit();
            (config.ports, config.udp_ports) = (ports.ports.clone(), ports.udp_ports.clone());
        }
        changed.certificates = differences(&self.config.certificates, &ports.certificates);
        if changed.certificates > 0 {
            self.edit().certificates = ports.certificates.clone();
        }
        if *self.config.access_log != self.inputs.gateways.access_log {
            changed.access_log = true;
            self.edit().access_log = Arc::new(self.inputs.gateways.access_log.clone());
        }
        self.ports = ports;
    }
}

/// How many entries are new, gone or another.
fn differences<K: Ord, V: PartialEq>(old: &BTreeMap<K, Arc<V>>, new: &BTreeMap<K, Arc<V>>) -> usize {
    let gone = old.keys().filter(|key| !new.contains_key(*key)).count();
    let other = new
        .iter()
        .filter(|(key, value)| old.get(*key).is_none_or(|former| !Arc::ptr_eq(former, value) && **former != ***value));
    gone + other.count()
}
