//! Classes, Gateways and their listeners: what routes may attach to, and what is bound.
//!
//! [`build`] looks at all of them at once; they are few, and change seldom. Its result has two halves: [`Attach`] is
//! what routes look at, and when it is equal to the former no route is looked at again; [`ListenerPlan`]s are what
//! ports are made from. ListenerSets count as part of the Gateway that they are attached to.

mod class;
mod listener;
mod listener_set;
mod overlap;
mod ports;
mod target_ports;
mod tls;

pub use class::is_default_class;
pub(crate) use class::{Claim, IngressClasses};
pub(crate) use target_ports::SERVICE_PREFIX;
pub use target_ports::{GATEWAY_UID, PortKey, TARGET_PORTS, TargetPorts, service_name};

pub(crate) use ports::{IngressTls, IngressTlsUse, Ports, ports};

use crate::certificate::Certificates;
use crate::edge;
use crate::options::Options;
use crate::rank::Rank;
use crate::report::{Report, why};
use crate::status::{ClassStatus, GatewayStatus, Infrastructure, ListenerSetStatus, ListenerStatus};
use sluice_model::config::{
    AccessLog, Carries, Certificate, CertificateKey, Edge, ListenerId, ListenerTls, Protocol, Tracing,
};
use sluice_model::object::NamespacedName;
use sluice_model::{Code, HostPattern, Hostname, Kind, ObjectRef, Problem};
use sluice_resources::api::gateway::{GatewayDefaultScope, GatewayListeners};
use sluice_resources::api::{Gateway, Ingress, LabelSelector, ListenerSet};
use sluice_resources::{GatewayConfigSpec, Packed, Store};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// The `controllerName` of our GatewayClasses.
pub const GATEWAY_CONTROLLER: &str = "sluice.dev/gateway-controller";
/// The `controller` of our IngressClasses.
pub const INGRESS_CONTROLLER: &str = "sluice.dev/ingress-controller";
/// The class that goes without saying in file mode, as the chart creates it in a cluster: `sluice`, of both kinds.
pub const BUILT_IN_CLASS: &str = "sluice";
/// The Gateway that all Ingress objects share.
pub const INGRESS_NAMESPACE: &str = "sluice-system";
pub const INGRESS_GATEWAY: &str = "ingress";

/// The name of the Gateway that all Ingress objects share.
pub(crate) fn ingress_gateway() -> NamespacedName {
    NamespacedName::new(INGRESS_NAMESPACE, INGRESS_GATEWAY)
}

/// What routes look at.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Attach {
    /// Gateways of ours, and ListenerSets that name one of them.
    pub(crate) parents: BTreeMap<ObjectRef, AttachParent>,
    /// Gateways of other controllers, and their ListenerSets: routes for them are none of our business.
    pub(crate) foreign: BTreeSet<ObjectRef>,
    /// Gateways of ours that take routes which ask for default ones (`spec.defaultScope`).
    pub(crate) defaults: BTreeSet<ObjectRef>,
    pub(crate) ingress: AttachIngress,
}

/// What a parentRef may name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AttachParent {
    /// The Gateway that serves it: itself, or that of the ListenerSet.
    pub(crate) gateway: NamespacedName,
    pub(crate) listeners: Vec<AttachListener>,
    /// Why no route attaches: the Gateway does not allow the ListenerSet.
    pub(crate) refused: Option<String>,
}

impl AttachParent {
    fn of(gateway: &NamespacedName, listeners: Vec<AttachListener>) -> Self {
        AttachParent { gateway: gateway.clone(), listeners, refused: None }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AttachListener {
    pub(crate) place: Arc<Place>,
    /// As the object calls it that it is written in: what a sectionName means.
    pub(crate) name: Arc<str>,
    /// That object's.
    pub(crate) namespace: Arc<str>,
    pub(crate) port: u16,
    pub(crate) hostname: HostPattern,
    pub(crate) namespaces: Namespaces,
    /// Kinds of routes that may attach.
    pub(crate) kinds: Vec<Kind>,
    /// Whether what attaches is served: the listener is accepted, and neither conflicted nor of no use.
    pub(crate) serves: bool,
}

/// Where the Ingress rules go.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct AttachIngress {
    pub(crate) http: Option<Arc<Place>>,
    pub(crate) https: Option<Arc<Place>>,
    /// Class names, and whether Ingress objects without any class are ours.
    pub(crate) classes: IngressClasses,
    /// `GatewayConfig.ingress.defaultBackendRef`: the GatewayConfig, the Service, its port.
    pub(crate) default_backend: Option<(ObjectRef, NamespacedName, u16)>,
}

/// A listener, as the rules that it serves see it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Place {
    pub(crate) id: ListenerId,
    /// Presented to backends over TLS.
    pub(crate) client_certificate: Option<CertificateKey>,
    /// Suffixes of external names that may be called.
    pub(crate) external_names: Vec<Hostname>,
    /// TLS goes on to the backend as it comes: none of ours is put around it.
    pub(crate) passthrough: bool,
}

impl Place {
    /// For references that are only checked: no listener, nothing allowed.
    pub(crate) fn nowhere() -> Self {
        let id = ListenerId { gateway: NamespacedName::new("", ""), name: "".into() };
        Place { id, client_certificate: None, external_names: Vec::new(), passthrough: false }
    }
}

/// `allowedRoutes.namespaces`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Namespaces {
    All,
    Same,
    Selector(LabelSelector),
}

/// One listener that can be bound.
#[derive(Clone, Debug)]
pub(crate) struct ListenerPlan {
    pub(crate) id: ListenerId,
    /// Of the Gateway; the Ingress Gateway goes last.
    pub(crate) rank: Option<Rank>,
    /// The Gateway or ListenerSet that it is written in.
    pub(crate) object: ObjectRef,
    pub(crate) field: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) port: u16,
    /// The port of its sockets; `None` as long as none is recorded for it.
    pub(crate) bind: Option<u16>,
    pub(crate) protocol: Protocol,
    pub(crate) carries: Carries,
    pub(crate) hostname: HostPattern,
    pub(crate) edge: Arc<Edge>,
    pub(crate) tracing: Option<Arc<Tracing>>,
    pub(crate) tls: Option<ListenerTls>,
    pub(crate) certificates: Vec<Arc<Certificate>>,
}

/// Everything about Gateways.
#[derive(Debug, Default)]
pub(crate) struct Gateways {
    pub(crate) attach: Attach,
    pub(crate) plans: Vec<ListenerPlan>,
    /// Certificates that backends are shown, or that no listener's plan holds.
    pub(crate) certificates: Vec<Arc<Certificate>>,
    pub(crate) default_certificate: Option<Arc<Certificate>>,
    pub(crate) access_log: AccessLog,
    pub(crate) problems: Vec<Problem>,
    pub(crate) status: BTreeMap<ObjectRef, GatewayStatus>,
    pub(crate) sets: BTreeMap<ObjectRef, ListenerSetStatus>,
    pub(crate) classes: BTreeMap<ObjectRef, ClassStatus>,
    /// Of classes of ours, written or built in.
    pub(crate) class_names: BTreeSet<String>,
    pub(crate) infrastructure: BTreeMap<ObjectRef, Infrastructure>,
    /// Secrets and ConfigMaps that were asked for, there or not.
    pub(crate) uses: BTreeSet<ObjectRef>,
    /// Classes and Gateways of ours, by the GatewayConfig that they name.
    pub(crate) config_users: BTreeMap<NamespacedName, BTreeSet<ObjectRef>>,
}

/// One Gateway, as its listeners see it.
struct Around<'a> {
    object: &'a ObjectRef,
    name: &'a NamespacedName,
    gateway: &'a Gateway,
    settings: &'a GatewayConfigSpec,
    addresses: Vec<IpAddr>,
    target_ports: Option<TargetPorts>,
    client_certificate: Option<CertificateKey>,
    external_names: Vec<Hostname>,
    tracing: Option<Arc<Tracing>>,
    /// Whether it serves nothing, whatever its listeners are.
    rejected: bool,
}

/// What is looked at while Gateways are built.
pub(crate) struct Builder<'b> {
    pub(crate) store: &'b Store,
    pub(crate) options: &'b Options,
    pub(crate) certificates: &'b mut Certificates,
    pub(crate) problems: Vec<Problem>,
    pub(crate) uses: BTreeSet<ObjectRef>,
    /// Who refers to GatewayConfigs.
    configs: BTreeMap<NamespacedName, BTreeSet<ObjectRef>>,
}

/// Whether any Ingress of these is ours, so that there has to be a Gateway for it.
pub(crate) fn has_ingress<'i>(
    store: &Store,
    options: &Options,
    ingresses: impl IntoIterator<Item = &'i Packed<Ingress>>,
) -> bool {
    let classes = class::ingress_classes(store, options);
    let mut ingresses = ingresses.into_iter().filter_map(Packed::open);
    ingresses.any(|ingress| classes.claim(&ingress) == Claim::Ours)
}

/// That a listener cannot serve beside another of its Gateway, which a ListenerSet is not told more of.
fn conflict(owner: &ObjectRef, spec: &GatewayListeners, field: &str) -> Problem {
    let (with, hint) = match owner.kind {
        Kind::ListenerSet => (
            "one that goes first: of the Gateway itself, of an older ListenerSet, or written before it",
            "give it another port, protocol or hostname; until then it serves nothing",
        ),
        _ => (
            "another listener of this Gateway",
            "give one of them another port, protocol or hostname; until then neither serves",
        ),
    };
    let message = format!("listener `{}` conflicts on port {} with {with}", spec.name, spec.port);
    Problem::error(Code::ListenerConflict, owner, field, message).hint(hint)
}

/// Builds all Gateways anew. `with_ingress`: there are Ingress objects of ours, so their Gateway is there too.
pub(crate) fn build(store: &Store, options: &Options, certificates: &mut Certificates, with_ingress: bool) -> Gateways {
    let (problems, uses, configs) = (Vec::new(), BTreeSet::new(), BTreeMap::new());
    let mut builder = Builder { store, options, certificates, problems, uses, configs };
    for (name, config) in &store.gateway_configs {
        let object = ObjectRef::new(Kind::GatewayConfig, name.namespace.clone(), name.name.clone());
        edge::check(&config.spec, &mut Report::new(&object, &mut builder.problems));
    }
    let mut result = Gateways::default();
    let classes = class::gateway_classes(&mut builder, &mut result.classes);
    let sets = listener_set::by_gateway(store, &mut builder.problems);
    for (name, gateway) in &store.gateways {
        let of_gateway = sets.get(name).map(Vec::as_slice).unwrap_or_default();
        let class = &gateway.spec.gateway_class_name;
        if let Some(class::Ours { defaults }) = classes.get(class) {
            builder.gateway(name, gateway, defaults.as_ref(), of_gateway, &mut result);
            continue;
        }
        let object = ObjectRef::new(Kind::Gateway, name.namespace.clone(), name.name.clone());
        if !store.gateway_classes.contains_key(&NamespacedName::new("", class.as_str())) {
            let message = format!("there is no GatewayClass `{class}`");
            builder.problems.push(Problem::error(Code::ClassNotFound, &object, "spec.gatewayClassName", message));
        }
        result.attach.foreign.insert(object);
        result.attach.foreign.extend(of_gateway.iter().map(|set| listener_set::reference(set)));
    }
    let config = class::ingress_config(&mut builder, &classes);
    result.attach.ingress.classes = class::ingress_classes(store, options);
    if with_ingress {
        builder.ingress_gateway(&config, &mut result);
    }
    let mut unreported = Vec::new();
    let nobody = ObjectRef::new(Kind::GatewayConfig, "", "");
    result.access_log = edge::access_log(config.spec.access_log.as_ref(), &mut Report::new(&nobody, &mut unreported));
    listener::resolve_conflicts(&mut result, &mut builder.problems);
    listener_set::conclude(&mut result);
    overlap::tell(&mut result);
    for name in store.gateway_configs.keys().filter(|name| !builder.configs.contains_key(name)) {
        let object = ObjectRef::new(Kind::GatewayConfig, name.namespace.clone(), name.name.clone());
        let message = "no class or Gateway of ours refers to this GatewayConfig";
        builder.problems.push(Problem::warning(Code::ConfigUnused, &object, "", message));
    }
    result.class_names = classes.into_keys().collect();
    result.problems = builder.problems;
    result.uses = builder.uses;
    result.config_users = builder.configs;
    result
}

impl Builder<'_> {
    fn gateway(
        &mut self,
        name: &NamespacedName,
        gateway: &Gateway,
        defaults: Option<&GatewayConfigSpec>,
        sets: &[&ListenerSet],
        result: &mut Gateways,
    ) {
        let object = ObjectRef::new(Kind::Gateway, name.namespace.clone(), name.name.clone());
        let generation = gateway.metadata.generation.unwrap_or_default();
        let mut status = GatewayStatus { generation, ..GatewayStatus::default() };
        let settings = match self.parameters(&object, gateway, defaults) {
            Ok(settings) => settings,
            Err(()) => {
                let field = "spec.infrastructure.parametersRef";
                status.reject("InvalidParameters", why(&self.problems, &object, field));
                defaults.cloned().unwrap_or_default()
            }
        };
        let mut unreported = Vec::new();
        let asked = self.addresses(&object, gateway, &mut status);
        let target_ports = target_ports::of_gateway(self.store, self.options, gateway);
        // In a cluster the addresses are the Service's.
        let addresses = match &target_ports {
            None if !asked.is_empty() => asked.clone(),
            _ => {
                let mut quiet = Report::new(&object, &mut unreported);
                edge::addresses(settings.addresses.as_deref().unwrap_or_default(), "spec.addresses", &mut quiet)
            }
        };
        let client_certificate = self.client_certificate(&object, gateway, &mut status);
        status.insecure_frontend = tls::lets_anybody_in(gateway);
        status.is_default = gateway.spec.default_scope == Some(GatewayDefaultScope::All);
        if status.is_default {
            result.attach.defaults.insert(object.clone());
        }
        let external_names = edge::external_names(&settings, &mut Report::new(&object, &mut unreported));
        let tracing = self.tracing(&object, "spec.infrastructure.parametersRef", &settings);
        let around = Around {
            object: &object,
            name,
            gateway,
            settings: &settings,
            addresses,
            target_ports,
            client_certificate: client_certificate.as_ref().map(|certificate| certificate.key.clone()),
            external_names,
            tracing,
            rejected: status.rejected(),
        };
        result.certificates.extend(client_certificate);
        let sets = self.sets(&around, sets, result);
        let own = gateway.spec.listeners.as_slice();
        let mut conflicts = listener::conflicts(own, sets.iter().flat_map(|set| &set.listeners)).into_iter();
        let added = sets.iter().flat_map(|set| &set.listeners);
        self.frontend_ports(&object, gateway, own.iter().chain(added));
        let (listeners, attach) = self.listeners(&around, &object, own, &mut conflicts, result);
        status.listeners = listeners;
        result.attach.parents.insert(object.clone(), AttachParent::of(name, attach));
        for set in &sets {
            let (listeners, attach) = self.listeners(&around, &set.object, &set.listeners, &mut conflicts, result);
            result.sets.insert(set.object.clone(), set.status(&object, listeners));
            result.attach.parents.insert(set.object.clone(), AttachParent::of(name, attach));
        }
        let infrastructure = gateway.spec.infrastructure.as_ref();
        let metadata = |of: Option<&BTreeMap<String, String>>| of.cloned().unwrap_or_default();
        result.infrastructure.insert(
            object.clone(),
            Infrastructure {
                uid: gateway.metadata.uid.clone().unwrap_or_default(),
                generation,
                labels: metadata(infrastructure.and_then(|i| i.labels.as_ref())),
                annotations: metadata(infrastructure.and_then(|i| i.annotations.as_ref())),
                service: settings.service.unwrap_or_default(),
                addresses: asked,
                // Known when all conflicts are.
                ports: BTreeSet::new(),
            },
        );
        result.status.insert(object, status);
    }

    /// The listeners that one object has: the Gateway itself (`owner`), or a ListenerSet that is attached to it. Of each
    /// there is an entry in `conflicts`.
    fn listeners(
        &mut self,
        around: &Around<'_>,
        owner: &ObjectRef,
        listeners: &[GatewayListeners],
        conflicts: &mut impl Iterator<Item = Option<&'static str>>,
        result: &mut Gateways,
    ) -> (Vec<ListenerStatus>, Vec<AttachListener>) {
        let (mut statuses, mut attach) = (Vec::new(), Vec::new());
        for (index, spec) in listeners.iter().enumerate() {
            let field = format!("spec.listeners[{index}]");
            let mut status = ListenerStatus::new(&spec.name, u16::try_from(spec.port).unwrap_or_default());
            status.conflicted = conflicts.next().flatten();
            if status.conflicted.is_some() {
                self.problems.push(conflict(owner, spec, &field));
            }
            let named = self.listener_name(owner, listeners, index, &mut status);
            let read = self.listener(around, owner, spec, &field, &mut status);
            if let Some(read) = read.filter(|_| named) {
                let id = match owner.kind {
                    Kind::ListenerSet => ListenerId::of_set(around.name.clone(), &owner.key(), &spec.name),
                    _ => ListenerId { gateway: around.name.clone(), name: spec.name.as_str().into() },
                };
                let place = Arc::new(Place {
                    id: id.clone(),
                    client_certificate: around.client_certificate.clone(),
                    external_names: around.external_names.clone(),
                    passthrough: read.carries == Carries::Bytes && read.tls.is_none(),
                });
                let serves = status.accepted() && !around.rejected;
                attach.push(AttachListener {
                    place,
                    name: spec.name.as_str().into(),
                    namespace: owner.namespace.clone(),
                    port: read.port,
                    hostname: read.hostname.clone(),
                    namespaces: read.namespaces,
                    kinds: read.kinds,
                    serves,
                });
                if serves && let Some(protocol) = read.protocol {
                    status.serves = read.tls.is_none() || !read.certificates.is_empty();
                    result.plans.push(ListenerPlan {
                        bind: match &around.target_ports {
                            None => Some(read.port),
                            Some(targets) => {
                                let port = PortKey { number: read.port, transport: protocol.transport() };
                                targets.0.get(&port).copied()
                            }
                        },
                        id,
                        rank: Some(Rank::of(&around.gateway.metadata)),
                        object: owner.clone(),
                        field,
                        addresses: around.addresses.clone(),
                        port: read.port,
                        protocol,
                        carries: read.carries,
                        hostname: read.hostname,
                        edge: read.edge,
                        tracing: around.tracing.clone(),
                        tls: read.tls,
                        certificates: read.certificates,
                    });
                }
            }
            statuses.push(status);
        }
        (statuses, attach)
    }

    /// The Gateway's own GatewayConfig over its class's.
    fn parameters(
        &mut self,
        object: &ObjectRef,
        gateway: &Gateway,
        defaults: Option<&GatewayConfigSpec>,
    ) -> Result<GatewayConfigSpec, ()> {
        let reference = gateway.spec.infrastructure.as_ref().and_then(|infra| infra.parameters_ref.as_ref());
        let Some(reference) = reference else { return Ok(defaults.cloned().unwrap_or_default()) };
        let target = class::ParametersRef {
            group: &reference.group,
            kind: &reference.kind,
            name: NamespacedName::new(object.namespace.clone(), reference.name.as_str()),
        };
        let own = class::parameters(self, object, "spec.infrastructure.parametersRef", &target).ok_or(())?;
        Ok(class::layered(own, defaults))
    }

    /// What the merged settings say of traces.
    fn tracing(&mut self, object: &ObjectRef, field: &str, settings: &GatewayConfigSpec) -> Option<Arc<Tracing>> {
        let tracing = settings.tracing.as_ref()?;
        if crate::tracing::lacks_endpoint(tracing) {
            let message = "spec.tracing of its GatewayConfig has no otlp.endpoint, so that no span is sent";
            let hint =
                "set spec.tracing.otlp.endpoint there or in the class's GatewayConfig, or spec.tracing.enabled: false";
            self.problems.push(Problem::warning(Code::InvalidCombination, object, field, message).hint(hint));
        }
        let mut unreported = Vec::new();
        crate::tracing::tracing(tracing, &mut Report::new(object, &mut unreported)).map(Arc::new)
    }

    /// The addresses that the Gateway asks for.
    fn addresses(&mut self, object: &ObjectRef, gateway: &Gateway, status: &mut GatewayStatus) -> Vec<IpAddr> {
        let mut report = Report::new(object, &mut self.problems);
        let mut named = Vec::new();
        for (i, address) in gateway.spec.addresses.iter().flatten().enumerate() {
            let field = format!("spec.addresses[{i}]");
            match (address.r#type.as_deref().unwrap_or("IPAddress"), address.value.as_deref()) {
                ("IPAddress", Some(value)) => match value.parse() {
                    Ok(ip) => named.push(ip),
                    Err(_) => {
                        let message = format!("`{value}` is not an IP address");
                        report.error(Code::InvalidAddress, format!("{field}.value"), message.clone());
                        status.reject("UnsupportedAddress", format!("{field}.value: {message}"));
                    }
                },
                // Any address will do: what is bound by default.
                ("IPAddress", None) => {}
                (other, _) => {
                    let message = format!("addresses of type `{other}` are not supported; IPAddress is");
                    report.error(Code::UnsupportedValue, format!("{field}.type"), message.clone());
                    status.reject("UnsupportedAddress", format!("{field}.type: {message}"));
                }
            }
        }
        named
    }
}
