//! BackendTLSPolicy (GEP-1897): which Services are spoken to over TLS, and whom they have to be.

use crate::certificate::{ca_of_config_map, ca_of_secret};
use crate::rank::{Rank, name_of};
use crate::report::Report;
use crate::service_targets::{self, Target};
use sluice_model::config::{BackendCa, BackendTls, SubjectAltName, TlsVersion};
use sluice_model::object::NamespacedName;
use sluice_model::{Code, Hostname, Kind, ObjectRef, Problem};
use sluice_resources::Store;
use sluice_resources::api::BackendTlsPolicy;
use sluice_resources::api::backend_tls_policy::{
    BackendTlsPolicyTargetRefs, BackendTlsPolicyValidation as Validation,
    BackendTlsPolicyValidationCaCertificateRefs as CaRef, BackendTlsPolicyValidationSubjectAltNamesType as SanType,
};
use std::collections::{BTreeMap, BTreeSet};

/// All policies, by Service and port name (empty: all its ports).
#[derive(Debug, Default)]
pub(crate) struct BackendTlsPolicies {
    by_target: BTreeMap<(NamespacedName, String), TargetTls>,
    pub(crate) problems: Vec<Problem>,
    /// ConfigMaps and Secrets that were asked for, there or not.
    pub(crate) uses: BTreeSet<ObjectRef>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TargetTls {
    policy: NamespacedName,
    /// An error where the policy can't be used: requests fail then.
    pub(crate) tls: Result<BackendTls, ()>,
}

impl BackendTlsPolicies {
    pub(crate) fn read(store: &Store) -> Self {
        let mut result = BackendTlsPolicies::default();
        let mut by_rank: Vec<_> = store.backend_tls_policies.values().collect();
        by_rank.sort_by_cached_key(|policy| Rank::of(&policy.metadata));
        for policy in by_rank {
            result.add(store, policy);
        }
        result
    }

    /// What holds for a Service's port: a policy for just this port before one for all.
    pub(crate) fn of(&self, service: &NamespacedName, port: &str) -> Option<&TargetTls> {
        if self.by_target.is_empty() {
            return None;
        }
        let for_port = (!port.is_empty()).then(|| self.by_target.get(&(service.clone(), port.to_owned()))).flatten();
        for_port.or_else(|| self.by_target.get(&(service.clone(), String::new())))
    }

    /// Services for which something else holds than before.
    pub(crate) fn changes_since(&self, former: &Self) -> BTreeSet<ObjectRef> {
        let targets: BTreeSet<_> = self.by_target.keys().chain(former.by_target.keys()).collect();
        targets
            .into_iter()
            .filter(|target| self.by_target.get(*target) != former.by_target.get(*target))
            .map(|(service, _)| ObjectRef::new(Kind::Service, service.namespace.clone(), service.name.clone()))
            .collect()
    }

    /// Services, and ports of theirs, that are not there: looked at anew whenever one came or went.
    pub(crate) fn missing_targets(store: &Store) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (name, policy) in &store.backend_tls_policies {
            let object = ObjectRef::new(Kind::BackendTLSPolicy, name.namespace.clone(), name.name.clone());
            service_targets::missing(store, &object, policy.spec.target_refs.iter().map(of), &mut problems);
        }
        problems
    }

    fn add(&mut self, store: &Store, policy: &BackendTlsPolicy) {
        let name = name_of(&policy.metadata);
        let object = ObjectRef::new(Kind::BackendTLSPolicy, name.namespace.clone(), name.name.clone());
        let tls = self.tls(store, &object, &policy.spec.validation);
        let mut report = Report::new(&object, &mut self.problems);
        for option in policy.spec.options.iter().flatten().map(|(key, _)| key) {
            report.warn(Code::UnsupportedValue, "spec.options", format!("option `{option}` is not known"));
        }
        for (i, target) in policy.spec.target_refs.iter().enumerate() {
            let field = format!("spec.targetRefs[{i}]");
            if !of(target).is_service() {
                let message = format!("a target of kind `{}` is not supported; Service is", target.kind);
                report.error(Code::KindNotSupported, format!("{field}.kind"), message);
                continue;
            }
            let service = NamespacedName::new(name.namespace.clone(), target.name.as_str());
            let key = (service, target.section_name.clone().unwrap_or_default());
            if let Some(older) = self.by_target.get(&key) {
                let message = format!("BackendTLSPolicy {} speaks for Service {} already", older.policy, key.0);
                report.error(Code::PolicyConflict, field, message);
            } else {
                self.by_target.insert(key, TargetTls { policy: name.clone(), tls: tls.clone() });
            }
        }
    }

    fn tls(&mut self, store: &Store, object: &ObjectRef, validation: &Validation) -> Result<BackendTls, ()> {
        let hostname = Hostname::parse(&validation.hostname).map_err(|error| {
            let field = "spec.validation.hostname";
            self.problems.push(Problem::error(Code::InvalidHostname, object, field, error.to_string()));
        });
        let mut names = Ok(Vec::new());
        for (i, name) in validation.subject_alt_names.iter().flatten().enumerate() {
            let text = match name.r#type {
                SanType::Hostname => name.hostname.as_ref().map(|text| SubjectAltName::Dns(text.to_ascii_lowercase())),
                SanType::Uri => name.uri.as_ref().map(|text| SubjectAltName::Uri(text.clone())),
            };
            match (text, &mut names) {
                (Some(san), Ok(names)) => names.push(san),
                (Some(_), Err(())) => {}
                (None, _) => {
                    let field = format!("spec.validation.subjectAltNames[{i}]");
                    let message = "the field that `type` names is missing";
                    self.problems.push(Problem::error(Code::InvalidCombination, object, field, message));
                    names = Err(());
                }
            }
        }
        let ca = self.ca(store, object, validation);
        Ok(BackendTls {
            hostname: hostname?,
            subject_alt_names: names?,
            ca: ca?,
            client_certificate: None,
            min_version: TlsVersion::V1_2,
        })
    }

    fn ca(&mut self, store: &Store, object: &ObjectRef, validation: &Validation) -> Result<BackendCa, ()> {
        let references = validation.ca_certificate_refs.as_deref().unwrap_or_default();
        let field = "spec.validation";
        let mut error = |code: Code, field: String, message: String| {
            self.problems.push(Problem::error(code, object, field, message));
            Err(())
        };
        match (references.is_empty(), validation.well_known_ca_certificates.as_deref().filter(|w| !w.is_empty())) {
            (true, Some("System")) => Ok(BackendCa::System),
            (true, Some(other)) => error(
                Code::UnsupportedValue,
                format!("{field}.wellKnownCACertificates"),
                format!("`{other}` is not supported; System is"),
            ),
            (true, None) => error(
                Code::InvalidCombination,
                field.to_owned(),
                "one of caCertificateRefs and wellKnownCACertificates is needed".to_owned(),
            ),
            (false, Some(_)) => error(
                Code::InvalidCombination,
                field.to_owned(),
                "caCertificateRefs and wellKnownCACertificates exclude each other".to_owned(),
            ),
            (false, None) => {
                let mut bundle = Vec::new();
                let mut usable = true;
                for (i, reference) in references.iter().enumerate() {
                    let field = format!("{field}.caCertificateRefs[{i}]");
                    match self.ca_reference(store, object, &field, reference) {
                        Some(certificates) => bundle.extend(certificates),
                        None => usable = false,
                    }
                }
                // A bundle of which a part is missing still names who may be trusted.
                if usable || !bundle.is_empty() { Ok(BackendCa::Bundle(bundle)) } else { Err(()) }
            }
        }
    }

    fn ca_reference(
        &mut self,
        store: &Store,
        object: &ObjectRef,
        field: &str,
        reference: &CaRef,
    ) -> Option<Vec<std::sync::Arc<[u8]>>> {
        let kind = match (reference.group.as_str(), reference.kind.as_str()) {
            ("", "ConfigMap") => Kind::ConfigMap,
            ("", "Secret") => Kind::Secret,
            (_, other) => {
                let message = format!("a CA bundle in a {other} is not supported; a ConfigMap or Secret is");
                self.problems.push(Problem::error(Code::KindNotSupported, object, format!("{field}.kind"), message));
                return None;
            }
        };
        let target = ObjectRef::new(kind, object.namespace.clone(), reference.name.as_str());
        self.uses.insert(target.clone());
        let mut report = Report::new(&target, &mut self.problems);
        let bundle = match kind {
            Kind::Secret => store.secrets.get(&target.key()).map(|secret| ca_of_secret(secret, &mut report)),
            _ => store.config_maps.get(&target.key()).map(|map| ca_of_config_map(map, &mut report)),
        };
        let (code, message) = match bundle {
            Some(Some(bundle)) => return Some(bundle),
            Some(None) => (Code::InvalidCa, format!("{target} holds no CA bundle that can be used")),
            None => (Code::SecretNotFound, format!("there is no {target}")),
        };
        self.problems.push(Problem::error(code, object, field, message));
        None
    }
}

fn of(target: &BackendTlsPolicyTargetRefs) -> Target<'_> {
    Target { group: &target.group, kind: &target.kind, name: &target.name, section: target.section_name.as_deref() }
}
