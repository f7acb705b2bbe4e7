//! What is said of Plugins, policies and GatewayConfigs: what their problems say, and nothing besides.

use super::Translator;
use crate::report::text;
use crate::status::{Ancestor, AncestorStatus, ConfigStatus, PluginStatus, PolicyStatus};
use sluice_model::object::NamespacedName;
use sluice_model::plugin::ModuleSource;
use sluice_model::{Code, Kind, ObjectRef, Problem, Severity};
use sluice_resources::TrafficPolicy;
use sluice_resources::api::BackendTlsPolicy;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The errors of each object of some kinds.
struct Errors<'p>(HashMap<&'p ObjectRef, Vec<&'p Problem>>);

/// Where policies name what they are attached to, and CA certificates.
const TARGETS: &str = "spec.targetRefs[";
const CERTIFICATES: &str = "spec.validation.caCertificateRefs[";
/// Where a Plugin says where its code is.
const SOURCE: &str = "spec.source";

impl<'p> Errors<'p> {
    fn of(&self, object: &ObjectRef) -> &[&'p Problem] {
        self.0.get(object).map(Vec::as_slice).unwrap_or_default()
    }

    /// Those of one target.
    fn of_target(&self, object: &ObjectRef, index: usize) -> Option<(&'static str, String)> {
        if self.of(object).is_empty() {
            return None;
        }
        let field = format!("{TARGETS}{index}]");
        let of_target = |problem: &&&Problem| {
            problem.field.strip_prefix(&field).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let problem = self.of(object).iter().find(of_target)?;
        let reason = match problem.code {
            Code::PolicyConflict => "Conflicted",
            Code::PolicyTargetNotFound => "TargetNotFound",
            _ => "Invalid",
        };
        Some((reason, text(problem)))
    }

    /// Those of the whole object.
    fn of_all(&self, object: &ObjectRef, but: &[&str]) -> Option<(Code, String)> {
        let of_all = |problem: &&&&Problem| !but.iter().any(|prefix| problem.field.starts_with(prefix));
        let mut problems = self.of(object).iter().filter(|problem| of_all(&problem));
        let first = problems.next()?;
        let more = problems.count();
        let message = if more == 0 { text(first) } else { format!("{} (and {more} more)", text(first)) };
        Some((first.code, message))
    }
}

fn reference(kind: Kind, name: &NamespacedName) -> ObjectRef {
    ObjectRef::new(kind, name.namespace.clone(), name.name.clone())
}

fn ancestor(object: &ObjectRef) -> Ancestor {
    Ancestor {
        group: object.kind.group().to_owned(),
        kind: object.kind.name().to_owned(),
        namespace: object.namespace.to_string(),
        name: object.name.to_string(),
        section: None,
    }
}

impl Translator {
    fn errors(&self, kinds: &[Kind]) -> Errors<'_> {
        let mut errors: HashMap<&ObjectRef, Vec<&Problem>> = HashMap::new();
        for problem in self.problems.values().flatten().filter(|problem| problem.severity == Severity::Error) {
            let Some(object) = problem.object.as_ref().filter(|object| kinds.contains(&object.kind)) else { continue };
            let of_object = errors.entry(object).or_default();
            if !of_object.contains(&problem) {
                of_object.push(problem);
            }
        }
        // Whichever part of the translation found them first.
        errors.values_mut().for_each(|problems| problems.sort());
        Errors(errors)
    }

    pub(super) fn plugin_status(&self) -> BTreeMap<ObjectRef, PluginStatus> {
        let errors = self.errors(&[Kind::Plugin]);
        let status = |(name, plugin): (&NamespacedName, &std::sync::Arc<sluice_resources::Plugin>)| {
            let object = reference(Kind::Plugin, name);
            let rejected = errors
                .of_all(&object, &[])
                .map(|(_, message)| (if message.starts_with(SOURCE) { "InvalidSource" } else { "Invalid" }, message));
            let spec = self.config.plugins.get(name);
            let code = spec.and_then(|spec| match spec.source.as_ref()? {
                ModuleSource::Inline { sha256, bytes } => Some((sha256.to_string(), bytes.len())),
                ModuleSource::File { .. } => None,
            });
            let generation = plugin.metadata.generation.unwrap_or_default();
            let remote = spec.is_some_and(|spec| spec.remote.is_some());
            (object, PluginStatus { generation, unread: None, rejected, code, remote })
        };
        let mut plugins = self.inputs.store.plugins.iter().map(status).collect();
        self.tell_plugins(&mut plugins);
        plugins
    }

    pub(super) fn config_status(&self) -> BTreeMap<ObjectRef, ConfigStatus> {
        let errors = self.errors(&[Kind::GatewayConfig]);
        let users = &self.inputs.gateways.config_users;
        let configs = self.inputs.store.gateway_configs.iter().map(|(name, config)| {
            let object = reference(Kind::GatewayConfig, name);
            let status = ConfigStatus {
                generation: config.metadata.generation.unwrap_or_default(),
                rejected: errors.of_all(&object, &[]).map(|(_, message)| ("Invalid", message)),
                used_by: users.get(name).cloned().unwrap_or_default(),
            };
            (object, status)
        });
        let mut configs = configs.collect();
        self.tell_configs(&mut configs);
        configs
    }

    pub(super) fn policy_status(&self) -> BTreeMap<ObjectRef, PolicyStatus> {
        let store = &self.inputs.store;
        let errors = self.errors(&[Kind::TrafficPolicy, Kind::BackendTLSPolicy, Kind::XBackendTrafficPolicy]);
        let traffic = store.traffic_policies.iter().map(|(name, policy)| {
            let object = reference(Kind::TrafficPolicy, name);
            let generation = policy.metadata.generation.unwrap_or_default();
            let ancestors = self.ancestors_of_traffic(&object, policy, &errors);
            (object, PolicyStatus { generation, ancestors })
        });
        let tls = store.backend_tls_policies.iter().map(|(name, policy)| {
            let object = reference(Kind::BackendTLSPolicy, name);
            let generation = policy.metadata.generation.unwrap_or_default();
            let ancestors = self.ancestors_of_tls(&object, policy, &errors);
            (object, PolicyStatus { generation, ancestors })
        });
        let of_backends = store.backend_traffic_policies.iter().map(|(name, policy)| {
            let object = reference(Kind::XBackendTrafficPolicy, name);
            let generation = policy.metadata.generation.unwrap_or_default();
            let names = policy.spec.target_refs.iter().map(|target| target.name.as_str());
            let of_all = errors.of_all(&object, &[TARGETS]).map(|(_, message)| ("Invalid", message));
            let accepted = self.above_services(&object, names, of_all.as_ref(), &errors);
            let ancestors = accepted.into_iter().map(|(ancestor, rejected)| AncestorStatus {
                ancestor,
                rejected,
                has_references: false,
                unresolved: None,
            });
            (object, PolicyStatus { generation, ancestors: ancestors.collect() })
        });
        let mut policies = traffic.chain(tls).chain(of_backends).collect();
        self.tell_policies(&mut policies);
        policies
    }

    fn ancestors_of_traffic(
        &self,
        object: &ObjectRef,
        policy: &TrafficPolicy,
        errors: &Errors<'_>,
    ) -> Vec<AncestorStatus> {
        let of_all = errors.of_all(object, &[TARGETS]).map(|(_, message)| ("Invalid", message));
        let status = |ancestor: Ancestor, rejected| AncestorStatus {
            ancestor,
            rejected,
            has_references: false,
            unresolved: None,
        };
        let targets = policy.spec.target_refs.as_deref().unwrap_or_default();
        if targets.is_empty() {
            let mut routes: Vec<_> = self.dependents.of(object).map(ancestor).collect();
            routes.sort();
            return routes.into_iter().map(|route| status(route, of_all.clone())).collect();
        }
        let mut ancestors: Vec<AncestorStatus> = Vec::new();
        for (i, target) in targets.iter().enumerate() {
            let ancestor = Ancestor {
                group: target.group.clone(),
                kind: target.kind.clone(),
                namespace: object.namespace.to_string(),
                name: target.name.clone(),
                section: target.section_name.clone(),
            };
            if ancestors.iter().all(|former| former.ancestor != ancestor) {
                ancestors.push(status(ancestor, errors.of_target(object, i).or_else(|| of_all.clone())));
            }
        }
        ancestors
    }

    fn ancestors_of_tls(
        &self,
        object: &ObjectRef,
        policy: &BackendTlsPolicy,
        errors: &Errors<'_>,
    ) -> Vec<AncestorStatus> {
        let certificates = policy.spec.validation.ca_certificate_refs.as_deref().unwrap_or_default();
        let mut broken: BTreeMap<usize, &Problem> = BTreeMap::new();
        for problem in errors.of(object) {
            let index = problem.field.strip_prefix(CERTIFICATES).and_then(|rest| rest.split(']').next()?.parse().ok());
            if let Some(index) = index {
                broken.entry(index).or_insert(problem);
            }
        }
        let unresolved = broken.values().next().map(|problem| {
            let is_kind = problem.code == Code::KindNotSupported;
            (if is_kind { "InvalidKind" } else { "InvalidCACertificateRef" }, text(problem))
        });
        let no_certificate = (!certificates.is_empty() && broken.len() == certificates.len())
            .then(|| broken.values().next().map(|problem| ("NoValidCACertificate", text(problem))))
            .flatten();
        let of_all = errors.of_all(object, &[TARGETS, CERTIFICATES]).map(|(_, message)| ("Invalid", message));
        let of_all = of_all.or(no_certificate);
        let names = policy.spec.target_refs.iter().map(|target| target.name.as_str());
        let accepted = self.above_services(object, names, of_all.as_ref(), errors);
        let ancestors = accepted.into_iter().map(|(ancestor, rejected)| AncestorStatus {
            ancestor,
            rejected,
            has_references: true,
            unresolved: unresolved.clone(),
        });
        ancestors.collect()
    }

    /// Whose backends the targets of a policy are, each with the reason and message of `Accepted: False`.
    fn above_services<'t>(
        &self,
        object: &ObjectRef,
        targets: impl Iterator<Item = &'t str>,
        of_all: Option<&(&'static str, String)>,
        errors: &Errors<'_>,
    ) -> Vec<(Ancestor, Option<(&'static str, String)>)> {
        let mut above: BTreeMap<Ancestor, BTreeSet<usize>> = BTreeMap::new();
        for (i, target) in targets.enumerate() {
            let service = ObjectRef::new(Kind::Service, object.namespace.clone(), target);
            for route in self.dependents.of(&service) {
                for ancestor in self.above(route) {
                    above.entry(ancestor).or_default().insert(i);
                }
            }
        }
        let accepted = above.into_iter().map(|(ancestor, targets)| {
            // What holds for one of its backends at least is accepted.
            let mut of_targets: Vec<_> = targets.iter().map(|i| errors.of_target(object, *i)).collect();
            let all_rejected = of_targets.iter().all(Option::is_some);
            let of_target = of_targets.pop().flatten().filter(|_| all_rejected);
            (ancestor, of_all.cloned().or(of_target))
        });
        accepted.collect()
    }

    /// The Gateways of ours that serve a route; an Ingress stands for its own.
    fn above(&self, route: &ObjectRef) -> Vec<Ancestor> {
        let Some(compiled) = self.routes.get(route) else { return Vec::new() };
        if route.kind == Kind::Ingress {
            return compiled.ingress.map(|_| ancestor(route)).into_iter().collect();
        }
        let ours = &self.inputs.gateways.status;
        let accepted = compiled.status.parents.iter().filter(|parent| parent.rejected.is_none());
        let gateways = accepted.filter_map(|parent| Some(reference(Kind::Gateway, parent.gateway.as_ref()?)));
        gateways.filter(|gateway| ours.contains_key(gateway)).map(|gateway| ancestor(&gateway)).collect()
    }
}
