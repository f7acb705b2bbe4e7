//! Who may refer across namespaces (ReferenceGrant), and which namespaces a selector means.

use sluice_model::Kind;
use sluice_model::object::NamespacedName;
use sluice_resources::Store;
use sluice_resources::api::LabelSelector;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One reference from an object to another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reference<'r> {
    pub(crate) from: Kind,
    pub(crate) from_namespace: &'r str,
    pub(crate) to: Kind,
    pub(crate) to_namespace: &'r str,
    pub(crate) to_name: &'r str,
}

/// Whether a reference stays in its namespace, or a ReferenceGrant in the target's namespace permits it.
pub(crate) fn permits(store: &Store, reference: Reference<'_>) -> bool {
    if reference.from_namespace == reference.to_namespace {
        return true;
    }
    in_namespace(&store.reference_grants, reference.to_namespace).any(|(_, grant)| {
        grant.spec.from.iter().any(|from| {
            from.group == reference.from.group()
                && from.kind == reference.from.name()
                && from.namespace == reference.from_namespace
        }) && grant.spec.to.iter().any(|to| {
            to.group == reference.to.group()
                && to.kind == reference.to.name()
                && to.name.as_deref().is_none_or(|name| name.is_empty() || name == reference.to_name)
        })
    })
}

/// The objects of one namespace.
pub(crate) fn in_namespace<'s, T>(
    objects: &'s BTreeMap<NamespacedName, Arc<T>>,
    namespace: &'s str,
) -> impl Iterator<Item = (&'s NamespacedName, &'s Arc<T>)> {
    objects
        .range(NamespacedName::new(namespace, "")..)
        .take_while(move |(name, _)| name.namespace.as_ref() == namespace)
}

/// What every namespace carries without being told (Kubernetes sets it).
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Whether a label selector means a namespace. `None`: it asks for labels, and there is no Namespace object to look at.
pub(crate) fn selects(store: &Store, selector: &LabelSelector, namespace: &str) -> Option<bool> {
    let object = store.namespaces.get(&NamespacedName::new("", namespace));
    let labels = object.and_then(|n| n.metadata.labels.as_ref());
    let label =
        |key: &str| labels.and_then(|l| l.get(key)).map(String::as_str).or((key == NAME_LABEL).then_some(namespace));
    let mut keys = selector.match_labels.iter().flat_map(BTreeMap::keys);
    let expressions = selector.match_expressions.as_deref().unwrap_or_default();
    if object.is_none() && (keys.any(|k| k != NAME_LABEL) || expressions.iter().any(|e| e.key != NAME_LABEL)) {
        return None;
    }
    let by_labels = selector.match_labels.iter().flatten().all(|(key, value)| label(key) == Some(value.as_str()));
    let by_expressions = expressions.iter().all(|e| {
        let has = |value: &str| e.values.iter().flatten().any(|v| v == value);
        match e.operator.as_str() {
            "In" => label(&e.key).is_some_and(has),
            "NotIn" => !label(&e.key).is_some_and(has),
            "Exists" => label(&e.key).is_some(),
            "DoesNotExist" => label(&e.key).is_none(),
            _ => false,
        }
    });
    Some(by_labels && by_expressions)
}

/// What is wrong with a label selector, by the field within it: an API server does not look at what is under a Gateway.
pub(crate) fn selector_error(selector: &LabelSelector) -> Option<(String, String)> {
    let expressions = selector.match_expressions.as_deref().unwrap_or_default();
    expressions.iter().enumerate().find_map(|(i, expression)| {
        let at = |field: &str| format!("matchExpressions[{i}].{field}");
        let (operator, has_values) = (&expression.operator, expression.values.iter().flatten().next().is_some());
        match operator.as_str() {
            _ if expression.key.is_empty() => Some((at("key"), "a label's key is needed".to_owned())),
            "In" | "NotIn" if !has_values => Some((at("values"), format!("{operator} needs values"))),
            "Exists" | "DoesNotExist" if has_values => Some((at("values"), format!("{operator} takes no values"))),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => None,
            _ => Some((
                at("operator"),
                format!("`{operator}` is not an operator; In, NotIn, Exists and DoesNotExist are"),
            )),
        }
    })
}
