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
        let field = format!("spec.targetRefs[{i}]");
        let Some(service) = store.services.get(&name) else {
            report.error(Code::PolicyTargetNotFound, field, format!("there is no Service {name}"));
            continue;
        };
        let mut ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        if let Some(section) = target.section.filter(|section| !section.is_empty())
            && !ports.any(|port| port.name.as_deref() == Some(section))
        {
            let message = format!("Service {name} has no port of the name `{section}`");
            report.error(Code::PolicyTargetNotFound, format!("{field}.sectionName"), message);
        }
    }
}
