//! Which Gateways and Ingress objects are ours, and the GatewayConfigs that their classes name.

use super::{BUILT_IN_CLASS, Builder, GATEWAY_CONTROLLER, INGRESS_CONTROLLER};
use crate::options::Options;
use crate::rank::Rank;
use crate::report::why;
use crate::status::ClassStatus;
use sluice_model::object::NamespacedName;
use sluice_model::{Code, Kind, ObjectRef, Problem};
use sluice_resources::api::Ingress;
use sluice_resources::{GatewayConfigSpec, Layered, Store};
use std::collections::{BTreeMap, BTreeSet};

/// A GatewayClass of ours.
#[derive(Debug)]
pub(super) struct Ours {
    pub(super) defaults: Option<GatewayConfigSpec>,
}

pub(super) struct ParametersRef<'r> {
    pub(super) group: &'r str,
    pub(super) kind: &'r str,
    pub(super) name: NamespacedName,
}

/// The GatewayClasses of ours, by name.
pub(super) fn gateway_classes(
    builder: &mut Builder<'_>,
    statuses: &mut BTreeMap<ObjectRef, ClassStatus>,
) -> BTreeMap<String, Ours> {
    let mut classes = BTreeMap::new();
    let store = builder.store;
    for (name, class) in &store.gateway_classes {
        if class.spec.controller_name != GATEWAY_CONTROLLER {
            continue;
        }
        let object = ObjectRef::new(Kind::GatewayClass, "", name.name.clone());
        let generation = class.metadata.generation.unwrap_or_default();
        let mut status = ClassStatus { generation, rejected: None };
        let defaults = class.spec.parameters_ref.as_ref().and_then(|reference| {
            let target = ParametersRef {
                group: &reference.group,
                kind: &reference.kind,
                name: NamespacedName::new(reference.namespace.as_deref().unwrap_or_default(), reference.name.as_str()),
            };
            let found = parameters(builder, &object, "spec.parametersRef", &target);
            if found.is_none() {
                status.rejected = Some(why(&builder.problems, &object, "spec.parametersRef"));
            }
            found
        });
        statuses.insert(object, status);
        classes.insert(name.name.to_string(), Ours { defaults });
    }
    let written = store.gateway_classes.contains_key(&NamespacedName::new("", BUILT_IN_CLASS));
    if builder.options.files && !written {
        classes.insert(BUILT_IN_CLASS.to_owned(), Ours { defaults: None });
    }
    classes
}

/// The GatewayConfig that an object refers to.
pub(super) fn parameters(
    builder: &mut Builder<'_>,
    object: &ObjectRef,
    field: &str,
    target: &ParametersRef<'_>,
) -> Option<GatewayConfigSpec> {
    let message = if target.group != Kind::GatewayConfig.group() || target.kind != Kind::GatewayConfig.name() {
        format!("parameters of kind {}/{} are not supported; sluice.dev/GatewayConfig is", target.group, target.kind)
    } else if let Some(config) = builder.store.gateway_configs.get(&target.name) {
        builder.configs.entry(target.name.clone()).or_default().insert(object.clone());
        return Some(config.spec.clone());
    } else {
        format!("there is no GatewayConfig {}", target.name)
    };
    builder.problems.push(Problem::error(Code::ParametersNotFound, object, field, message));
    None
}

/// `own` over the defaults of its class.
pub(super) fn layered(mut own: GatewayConfigSpec, defaults: Option<&GatewayConfigSpec>) -> GatewayConfigSpec {
    if let Some(defaults) = defaults {
        own.fill_from(defaults);
    }
    own
}

/// The settings of the Ingress Gateway, and the object that references in them are relative to.
pub(super) struct IngressSettings {
    pub(super) spec: GatewayConfigSpec,
    /// GatewayConfigs by which a reference in `spec.ingress` may have come in, the one that wins first.
    pub(super) sources: Vec<(ObjectRef, GatewayConfigSpec)>,
}

/// Of the IngressClasses of ours the default one, then the oldest; its parameters win over those of our oldest
/// GatewayClass, field by field.
pub(super) fn ingress_config(builder: &mut Builder<'_>, classes: &BTreeMap<String, Ours>) -> IngressSettings {
    let store = builder.store;
    let mut sources = Vec::new();
    let mut ours: Vec<_> = store
        .ingress_classes
        .values()
        .filter(|class| class.spec.as_ref().and_then(|s| s.controller.as_deref()) == Some(INGRESS_CONTROLLER))
        .collect();
    ours.sort_by_key(|class| (!is_default_class(class), Rank::of(&class.metadata)));
    let mut used = None;
    for class in ours {
        let Some(reference) = class.spec.as_ref().and_then(|spec| spec.parameters.as_ref()) else { continue };
        let object = ObjectRef::new(Kind::IngressClass, "", class.metadata.name.as_deref().unwrap_or_default());
        let name = NamespacedName::new(reference.namespace.as_deref().unwrap_or_default(), reference.name.as_str());
        let target = ParametersRef {
            group: reference.api_group.as_deref().unwrap_or_default(),
            kind: &reference.kind,
            name: name.clone(),
        };
        let found = parameters(builder, &object, "spec.parameters", &target);
        if used.is_none()
            && let Some(spec) = found
        {
            sources.push((ObjectRef::new(Kind::GatewayConfig, name.namespace, name.name), spec.clone()));
            used = Some(spec);
        }
    }
    let mut gateway_classes: Vec<_> = store.gateway_classes.values().collect();
    gateway_classes.sort_by_key(|class| Rank::of(&class.metadata));
    let defaults = gateway_classes.iter().find_map(|class| {
        let name = class.metadata.name.as_deref()?;
        let defaults = classes.get(name)?.defaults.clone()?;
        let reference = class.spec.parameters_ref.as_ref()?;
        let namespace = reference.namespace.as_deref().unwrap_or_default();
        sources.push((ObjectRef::new(Kind::GatewayConfig, namespace, reference.name.as_str()), defaults.clone()));
        Some(defaults)
    });
    IngressSettings { spec: layered(used.unwrap_or_default(), defaults.as_ref()), sources }
}

/// What the classes say of Ingress objects.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct IngressClasses {
    ours: BTreeSet<String>,
    /// Classes that exist and are another controller's.
    foreign: BTreeSet<String>,
    classless: bool,
}

/// Whose an Ingress is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    Ours,
    Foreign,
    /// It names a class that does not exist, in this field.
    Unknown {
        field: &'static str,
        class: String,
    },
}

/// The annotation that was there before `ingressClassName`.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const DEFAULT_ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";

/// Whether Ingress objects that name no class are its.
pub fn is_default_class(class: &sluice_resources::api::IngressClass) -> bool {
    class.metadata.annotations.as_ref().and_then(|a| a.get(DEFAULT_ANNOTATION)).is_some_and(|v| v == "true")
}

pub(super) fn ingress_classes(store: &Store, options: &Options) -> IngressClasses {
    let mut classes = IngressClasses::default();
    let mut ours_default = false;
    let mut foreign_default = false;
    for (name, class) in &store.ingress_classes {
        let ours = class.spec.as_ref().and_then(|s| s.controller.as_deref()) == Some(INGRESS_CONTROLLER);
        if ours {
            classes.ours.insert(name.name.to_string());
            ours_default |= is_default_class(class);
        } else {
            classes.foreign.insert(name.name.to_string());
            foreign_default |= is_default_class(class);
        }
    }
    if options.files && !classes.foreign.contains(BUILT_IN_CLASS) {
        classes.ours.insert(BUILT_IN_CLASS.to_owned());
    }
    // In a folder there is nobody else who could serve them; in a cluster there is, so a default has to say so.
    classes.classless = ours_default || (options.files && !foreign_default);
    classes
}

impl IngressClasses {
    /// `spec.ingressClassName` counts, then the annotation, then the default class.
    pub(crate) fn claim(&self, ingress: &Ingress) -> Claim {
        let annotation = ingress.metadata.annotations.as_ref().and_then(|a| a.get(CLASS_ANNOTATION));
        let named = match (ingress.spec.as_ref().and_then(|s| s.ingress_class_name.as_ref()), annotation) {
            (Some(class), _) => Some(("spec.ingressClassName", class)),
            (None, Some(class)) => Some(("metadata.annotations[kubernetes.io/ingress.class]", class)),
            (None, None) => None,
        };
        match named {
            None if self.classless => Claim::Ours,
            None => Claim::Foreign,
            Some((_, class)) if self.ours.contains(class) => Claim::Ours,
            Some((_, class)) if self.foreign.contains(class) => Claim::Foreign,
            Some((field, class)) => Claim::Unknown { field, class: class.clone() },
        }
    }
}
