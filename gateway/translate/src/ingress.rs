//! Ingress v1: rules of all Ingress objects of ours, on the two listeners of the Ingress Gateway.
//!
//! An Ingress is ours by `spec.ingressClassName`, else by the annotation `kubernetes.io/ingress.class`, else by the
//! default IngressClass; in file mode also without any, unless another controller's class is the default. HTTP is not
//! redirected to HTTPS unless a policy says so.

use crate::gateway::{Claim, IngressTlsUse, Place};
use crate::http_route::path_match;
use crate::plugin::{Use, use_plugin};
use crate::policy::{Chain, Level, backend_plan, client_policy, retry};
use crate::rank::Rank;
use crate::report::Report;
use crate::service::{PortRef, Spoken, resolve};
use crate::world::{Compiled, RuleSet, Rules, World};
use http::StatusCode;
use sluice_model::config::{
    Action, BackendTarget, Filters, PathMatch, RouteMatch, Rule, RuleId, SessionPersistence, WeightedBackend,
};
use sluice_model::object::NamespacedName;
use sluice_model::plugin::PluginUse;
use sluice_model::{Code, HostPattern, Kind, ObjectRef, Reason};
use sluice_resources::Packed;
use sluice_resources::api::Ingress;
use sluice_resources::api::networking::{IngressBackend, IngressSpec};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Names TrafficPolicies without targetRefs of the same namespace, separated by commas; the last counts most.
const POLICY_ANNOTATION: &str = "sluice.dev/policy";

/// Annotations that other controllers act on, so that whoever moves here is not surprised.
const FOREIGN_ANNOTATIONS: &[&str] = &[
    "nginx.ingress.kubernetes.io/",
    "nginx.org/",
    "traefik.ingress.kubernetes.io/",
    "haproxy.org/",
    "haproxy-ingress.github.io/",
    "konghq.com/",
    "alb.ingress.kubernetes.io/",
];

/// In the place of a rule's index: a default backend, which goes behind the rules of every Ingress.
pub(crate) const FALLBACK: u32 = u32::MAX;

/// The rules of one Ingress by host, as one listener sees them.
type HostRules = BTreeMap<HostPattern, Arc<RuleSet>>;

/// The rule of an Ingress, as `host path` (`host =path` where the path is Exact), `host default` or `default`.
struct Wanted<'i> {
    host: HostPattern,
    path: PathMatch,
    id: String,
    backend: &'i IngressBackend,
    field: String,
    origin: (u32, u32),
}

pub(crate) fn compile(world: &World<'_>, name: &NamespacedName, ingress: &Ingress) -> Compiled {
    let object = ObjectRef::new(Kind::Ingress, name.namespace.clone(), name.name.clone());
    let mut compiled = Compiled::new(Rank::named(&ingress.metadata, name));
    let mut report = Report::new(&object, &mut compiled.problems);
    match world.attach.ingress.classes.claim(ingress) {
        Claim::Ours => {}
        Claim::Foreign => return compiled,
        Claim::Unknown { field, class } => {
            report.error(Code::ClassNotFound, field, format!("there is no IngressClass `{class}`"));
            return compiled;
        }
    }
    compiled.ingress = Some(ingress.metadata.generation.unwrap_or_default());
    foreign_annotations(ingress, &mut report);
    let Some(spec) = &ingress.spec else {
        report.warn(Code::NoEndpoints, "spec", "the Ingress has neither rules nor a default backend");
        return compiled;
    };
    let wanted = wanted(spec, &mut report);
    compiled.tls = tls(spec, &object, &mut report);
    let names = policies(world, ingress, &object, &mut compiled);
    let places = [&world.attach.ingress.http, &world.attach.ingress.https];
    let mut known: Vec<(Arc<Place>, HostRules)> = Vec::new();
    for place in places.into_iter().flatten() {
        compiled.deps.extend([place.id.gateway_ref(), place.id.owner().0]);
        let policies = |place: &Place| -> Vec<_> {
            world.policies.of_listener(&place.id).map(|(level, policy)| (level, policy.name.clone())).collect()
        };
        let same = |(other, _): &&(Arc<Place>, _)| {
            other.id.gateway == place.id.gateway
                && other.client_certificate == place.client_certificate
                && other.external_names == place.external_names
                && policies(other) == policies(place)
        };
        let hosts = match known.iter().find(same) {
            Some((_, hosts)) => hosts.clone(),
            None => {
                let hosts = hosts(world, &object, place, &wanted, &names, &mut compiled);
                known.push((place.clone(), hosts.clone()));
                hosts
            }
        };
        for (host, set) in hosts {
            compiled.placements.insert((place.id.clone(), host), set);
        }
    }
    compiled.keep_used_backends();
    compiled
}

/// The rule that answers where nothing else does: `GatewayConfig.ingress.defaultBackendRef`.
pub(crate) fn default_backend(world: &World<'_>) -> Option<Compiled> {
    let (object, service, port) = world.attach.ingress.default_backend.as_ref()?;
    // Behind everything: it ranks last whatever its name.
    let mut compiled = Compiled::new(Rank::last());
    let field = "spec.ingress.defaultBackendRef";
    for place in [&world.attach.ingress.http, &world.attach.ingress.https].into_iter().flatten() {
        let mut chain = Chain::default();
        chain.push_listener(world.policies, &place.id);
        compiled.deps.extend([place.id.gateway_ref(), place.id.owner().0]);
        let action = forward(world, object, place, service, PortRef::Number(*port), &chain, field, &mut compiled);
        let rule = rule(world, object, "default".to_owned(), action, &chain, &mut compiled);
        let set = Rules { rules: vec![Arc::new(rule)], matches: vec![anything(0)], origins: vec![(0, 0)] }.finish();
        compiled.placements.insert((place.id.clone(), HostPattern::Any), Arc::new(set));
    }
    Some(compiled)
}

fn anything(rule: u32) -> RouteMatch {
    RouteMatch::of_path(PathMatch::Prefix("".into()), rule)
}

fn foreign_annotations(ingress: &Ingress, report: &mut Report<'_>) {
    for key in ingress.metadata.annotations.iter().flatten().map(|(key, _)| key) {
        if FOREIGN_ANNOTATIONS.iter().any(|prefix| key.starts_with(prefix)) {
            let message = format!("annotation `{key}` belongs to another controller and is ignored");
            report.warn(Code::AnnotationIgnored, format!("metadata.annotations[{key}]"), message);
        }
    }
}

/// Every path of every rule, and the default backend.
fn wanted<'i>(spec: &'i IngressSpec, report: &mut Report<'_>) -> Vec<Wanted<'i>> {
    let mut wanted = Vec::new();
    for (i, rule) in (0_u32..).zip(spec.rules.iter().flatten()) {
        let host = match HostPattern::parse_ingress(rule.host.as_deref()) {
            Ok(host) => host,
            Err(error) => {
                report.error(Code::InvalidHostname, format!("spec.rules[{i}].host"), error.to_string());
                continue;
            }
        };
        let Some(http) = &rule.http else {
            // A host alone sends everything to the default backend.
            if let Some(backend) = &spec.default_backend {
                let id = format!("{host} default");
                let field = "spec.defaultBackend".to_owned();
                let origin = (FALLBACK, i);
                wanted.push(Wanted { host, path: PathMatch::Prefix("".into()), id, backend, field, origin });
            }
            continue;
        };
        for (j, path) in (0_u32..).zip(&http.paths) {
            let field = format!("spec.rules[{i}].http.paths[{j}]");
            let text = path.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
            let prefix = match path.path_type.as_str() {
                "Exact" => false,
                "Prefix" | "ImplementationSpecific" => true,
                other => {
                    let message = format!("`{other}` is not one of Exact, Prefix and ImplementationSpecific");
                    report.error(Code::UnsupportedValue, format!("{field}.pathType"), message);
                    continue;
                }
            };
            if let Some(found) = path_match(text, prefix, &format!("{field}.path"), report) {
                // Exact and Prefix may stand beside each other on one path, and are two rules.
                let id = if prefix { format!("{host} {text}") } else { format!("{host} ={text}") };
                wanted.push(Wanted {
                    host: host.clone(),
                    path: found,
                    id,
                    backend: &path.backend,
                    field: format!("{field}.backend"),
                    origin: (i, j),
                });
            }
        }
    }
    if let Some(backend) = &spec.default_backend {
        let field = "spec.defaultBackend".to_owned();
        let path = PathMatch::Prefix("".into());
        let origin = (FALLBACK, FALLBACK);
        wanted.push(Wanted { host: HostPattern::Any, path, id: "default".to_owned(), backend, field, origin });
    } else if spec.rules.as_ref().is_none_or(Vec::is_empty) {
        report.warn(Code::NoEndpoints, "spec", "the Ingress has neither rules nor a default backend");
    }
    wanted
}

/// The Secrets that are named, with the hosts that they are for.
fn tls(spec: &IngressSpec, object: &ObjectRef, report: &mut Report<'_>) -> Vec<(NamespacedName, IngressTlsUse)> {
    let mut found = Vec::new();
    for (i, tls) in spec.tls.iter().flatten().enumerate() {
        let field = format!("spec.tls[{i}]");
        let mut hosts = Vec::new();
        for (j, host) in tls.hosts.iter().flatten().enumerate() {
            match HostPattern::parse_ingress(Some(host)) {
                Ok(host) => hosts.push(host),
                Err(error) => {
                    report.error(Code::InvalidHostname, format!("{field}.hosts[{j}]"), error.to_string());
                }
            }
        }
        // Without a Secret its hosts are served with the default certificate.
        if let Some(secret) = tls.secret_name.as_deref().filter(|name| !name.is_empty()) {
            let name = NamespacedName::new(object.namespace.clone(), secret);
            found.push((name, IngressTlsUse { object: object.clone(), field, hosts }));
        }
    }
    found
}

/// Policies that the annotation names, in order.
fn policies(world: &World<'_>, ingress: &Ingress, object: &ObjectRef, compiled: &mut Compiled) -> Vec<NamespacedName> {
    let Some(text) = ingress.metadata.annotations.as_ref().and_then(|a| a.get(POLICY_ANNOTATION)) else {
        return Vec::new();
    };
    let field = format!("metadata.annotations[{POLICY_ANNOTATION}]");
    let mut names = Vec::new();
    for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let name = NamespacedName::new(object.namespace.clone(), name);
        compiled.deps.insert(ObjectRef::new(Kind::TrafficPolicy, name.namespace.clone(), name.name.clone()));
        let mut report = Report::new(object, &mut compiled.problems);
        match world.policies.named(&name) {
            None => report.error(Code::PolicyNotFound, field.clone(), format!("there is no TrafficPolicy {name}")),
            Some(policy) if policy.targeted => {
                let message = format!("TrafficPolicy {name} has targetRefs; the annotation needs one without");
                report.error(Code::PolicyNotApplicable, field.clone(), message);
            }
            Some(_) => {}
        }
        names.push(name);
    }
    names
}

fn hosts(
    world: &World<'_>,
    object: &ObjectRef,
    place: &Place,
    wanted: &[Wanted<'_>],
    names: &[NamespacedName],
    compiled: &mut Compiled,
) -> HostRules {
    let mut chain = Chain::default();
    chain.push_listener(world.policies, &place.id);
    chain.push(Level::Route, world.policies.attached(object, None));
    // A policy that is named but not there may be what guards this Ingress: nothing goes through without it.
    let usable = |name: &NamespacedName| world.policies.named(name).filter(|policy| !policy.targeted);
    let unguarded = names.iter().any(|name| usable(name).is_none());
    for name in names {
        chain.push(Level::Route, usable(name));
    }
    let mut sets: BTreeMap<HostPattern, Rules> = BTreeMap::new();
    for want in wanted {
        let action = if unguarded {
            Action::Reply { status: StatusCode::SERVICE_UNAVAILABLE, reason: Reason::UnsupportedFilter }
        } else {
            to_backend(world, object, place, want, &chain, compiled)
        };
        let rule = rule(world, object, want.id.clone(), action, &chain, compiled);
        let set = sets.entry(want.host.clone()).or_default();
        let index = u32::try_from(set.rules.len()).unwrap_or(u32::MAX);
        set.rules.push(Arc::new(rule));
        set.matches.push(RouteMatch { path: want.path.clone(), ..anything(index) });
        set.origins.push(want.origin);
    }
    sets.into_iter().map(|(host, set)| (host, Arc::new(set.finish()))).collect()
}

/// What cannot be reached answers 503: a Service that is not there yet is the usual case.
fn unavailable() -> Action {
    Action::Reply { status: StatusCode::SERVICE_UNAVAILABLE, reason: Reason::InvalidBackend }
}

fn to_backend(
    world: &World<'_>,
    object: &ObjectRef,
    place: &Place,
    want: &Wanted<'_>,
    chain: &Chain<'_>,
    compiled: &mut Compiled,
) -> Action {
    let mut report = Report::new(object, &mut compiled.problems);
    let field = &want.field;
    let Some(service) = &want.backend.service else {
        let message = "the backend is not a Service; resource backends are not supported";
        report.error(Code::IngressResourceBackend, field.clone(), message);
        return unavailable();
    };
    let port = service.port.as_ref();
    let number = port.and_then(|port| port.number).map(u16::try_from);
    let port = match (number, port.and_then(|port| port.name.as_deref())) {
        (Some(Ok(number)), _) if number > 0 => PortRef::Number(number),
        (None, Some(name)) => PortRef::Name(name),
        _ => {
            let message = "a Service needs a port: its number (1 to 65535) or its name";
            report.error(Code::ServicePortNotFound, format!("{field}.service.port"), message);
            return unavailable();
        }
    };
    let name = NamespacedName::new(object.namespace.clone(), service.name.as_str());
    forward(world, object, place, &name, port, chain, &format!("{field}.service"), compiled)
}

#[allow(clippy::too_many_arguments)] // the parts of one reference
fn forward(
    world: &World<'_>,
    object: &ObjectRef,
    place: &Place,
    service: &NamespacedName,
    port: PortRef<'_>,
    chain: &Chain<'_>,
    field: &str,
    compiled: &mut Compiled,
) -> Action {
    match resolve(world, place, service, port, Spoken::Http, chain, &mut compiled.deps) {
        Ok(backend) => {
            let key = backend.key.clone();
            compiled.backends.entry(key.clone()).or_insert_with(|| Arc::new(backend));
            let target = BackendTarget::Backend(key);
            Action::Forward(vec![WeightedBackend { weight: 1, target, filters: Filters::none(), session: None }])
        }
        Err(unusable) => {
            let mut report = Report::new(object, &mut compiled.problems);
            crate::http_route::tell(&unusable, service, &port, Spoken::Http, field, &mut report);
            unavailable()
        }
    }
}

/// The sessions that a policy for the backend's Service asks for.
fn session(
    world: &World<'_>,
    id: &RuleId,
    target: &BackendTarget,
    compiled: &Compiled,
) -> Option<Arc<SessionPersistence>> {
    let BackendTarget::Backend(key) = target else { return None };
    let traffic = world.backend_traffic.of(&key.service)?;
    if compiled.backends.get(key)?.is_balanced_elsewhere() {
        return None;
    }
    let ingress = world.store.ingresses.get(&id.route.key()).and_then(Packed::open);
    let uid = ingress.and_then(|ingress| ingress.metadata.uid).unwrap_or_default();
    traffic.session(&uid, &id.to_string(), &key.service).map(Arc::new)
}

fn rule(
    world: &World<'_>,
    object: &ObjectRef,
    id: String,
    mut action: Action,
    chain: &Chain<'_>,
    compiled: &mut Compiled,
) -> Rule {
    let mut unreported = Vec::new();
    let mut quiet = Report::new(object, &mut unreported);
    let settings = chain.backend();
    let plan = backend_plan(&settings, "", &mut quiet);
    let mut plugins: Vec<PluginUse> = Vec::new();
    for entry in chain.plugins() {
        match use_plugin(&entry, world.store, world.plugins, &mut compiled.deps, &mut compiled.problems) {
            Use::Run(plugin) => plugins.push(plugin),
            Use::Skip => {}
            Use::Refuse => {
                action = Action::Reply { status: StatusCode::SERVICE_UNAVAILABLE, reason: Reason::PluginNotReady };
            }
        }
    }
    if chain.unreadable() {
        action = Action::Reply { status: StatusCode::SERVICE_UNAVAILABLE, reason: Reason::PolicyUnreadable };
    }
    let id = RuleId { route: object.clone(), rule: id.into() };
    if let Action::Forward(backends) = &mut action {
        backends.iter_mut().for_each(|backend| backend.session = session(world, &id, &backend.target, compiled));
    }
    Rule {
        id,
        filters: Filters::none(),
        action,
        request_timeout: plan.request_timeout,
        backend_timeout: None,
        retry: retry(settings.retry.as_ref(), "", &mut quiet).shared(),
        plugins,
        client: client_policy(&chain.client(), "", &mut quiet).shared(),
    }
}
