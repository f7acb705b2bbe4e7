//! Services that policies are attached to, where they are not there.

use crate::report::Report;
use sluice_model::object::NamespacedName;
use sluice_model::{Code, Kind, ObjectRef, Problem};
use sluice_resources::Store;

/// One of `spec.targetRefs`.
pub(crate) struct Target<'t> {
    pub(crate) group: &'t str,
    pub(crate) kind: &'t str,
    pub(crate) name: &'t str,
    /// The name of a port.
    pub(crate) section: Option<&'t str>,
}

impl Target<'_> {
    pub(crate) fn is_service(&self) -> bool {
        self.group.is_empty() && self.kind == Kind::Service.name()
    }
}

/// Whether a Service has a port of this name; `None`: there is no such Service.
pub(crate) fn has_port(store: &Store, service: &NamespacedName, port: &str) -> Option<bool> {
    let spec = store.services.get(service)?.spec.as_ref();
    let mut ports = spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    Some(ports.any(|found| found.name.as_deref() == Some(port)))
}

/// Tells of the targets of one policy that name a Service, or a port of one, which is not there.
pub(crate) fn missing<'t>(
    store: &Store,
    policy: &ObjectRef,
    targets: impl Iterator<Item = Target<'t>>,
    problems: &mut Vec<Problem>,
) {
    let mut report = Report::new(policy, problems);
    for (i, target) in targets.enumerate().filter(|(_, target)| target.is_service()) {
        let name = NamespacedName::new(policy.namespace.clone(), target.name);
        match target.section.filter(|section| !section.is_empty()) {
            _ if !store.services.contains_key(&name) => {
                let message = format!("there is no Service {name}");
                report.error(Code::PolicyTargetNotFound, format!("spec.targetRefs[{i}]"), message);
            }
            Some(section) if has_port(store, &name, section) != Some(true) => {
                let message = format!("Service {name} has no port of the name `{section}`");
                report.error(Code::PolicyTargetNotFound, format!("spec.targetRefs[{i}].sectionName"), message);
            }
            _ => {}
        }
    }
}
