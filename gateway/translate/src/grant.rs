//! Who may refer across namespaces (ReferenceGrant), and which namespaces a selector means.

use sluice_model::object::NamespacedName;
use sluice_model::{Hostname, Kind};
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
    // Of one that cannot be used its problem tells; it means nobody.
    if selector_error(selector).is_some() {
        return Some(false);
    }
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

/// What is wrong with a label selector, by the field within it. An API server does not look at those of Gateways and
/// Plugins; Kubernetes itself refuses such ones where it uses them (`metav1.LabelSelectorAsSelector`).
pub(crate) fn selector_error(selector: &LabelSelector) -> Option<(String, String)> {
    let not_a_key = |key: &str| format!("`{key}` is no label's key");
    let not_a_value = |value: &str| format!("`{value}` is no label's value");
    let of_labels = selector.match_labels.iter().flatten().find_map(|(key, value)| {
        let at = format!("matchLabels.{key}");
        let wrong =
            if is_label_key(key) { (!is_label_value(value)).then(|| not_a_value(value)) } else { Some(not_a_key(key)) };
        wrong.map(|wrong| (at, wrong))
    });
    let expressions = selector.match_expressions.as_deref().unwrap_or_default();
    of_labels.or_else(|| {
        expressions.iter().enumerate().find_map(|(i, expression)| {
            let at = |field: &str| format!("matchExpressions[{i}].{field}");
            let operator = expression.operator.as_str();
            let mut values = expression.values.iter().flatten();
            let has_values = values.clone().next().is_some();
            match operator {
                _ if !is_label_key(&expression.key) => Some((at("key"), not_a_key(&expression.key))),
                "In" | "NotIn" if !has_values => Some((at("values"), format!("{operator} needs values"))),
                "Exists" | "DoesNotExist" if has_values => Some((at("values"), format!("{operator} takes no values"))),
                "In" | "NotIn" | "Exists" | "DoesNotExist" => {
                    values.find(|value| !is_label_value(value)).map(|value| (at("values"), not_a_value(value)))
                }
                _ => {
                    let message = format!("`{operator}` is not an operator; In, NotIn, Exists and DoesNotExist are");
                    Some((at("operator"), message))
                }
            }
        })
    })
}

/// A qualified name: at most 63 characters, behind a prefix like `example.com/` or none.
fn is_label_key(key: &str) -> bool {
    let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    !name.is_empty() && is_label_value(name) && prefix.is_none_or(|prefix| Hostname::parse(prefix).is_ok())
}

/// At most 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends; or nothing.
fn is_label_value(value: &str) -> bool {
    let is_edge = |c: Option<u8>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    value.len() <= 63
        && value.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
        && is_edge(value.bytes().next())
        && is_edge(value.bytes().next_back())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_what_kubernetes_takes_for_such() {
        let long = "a".repeat(64);
        for key in ["team", "a", "A_b.c-1", "example.com/team", "kubernetes.io/metadata.name"] {
            assert!(is_label_key(key), "{key}");
        }
        for key in ["", "a b", "-a", "a-", "/a", "a/", "a/b/c", "a..b/c", &long] {
            assert!(!is_label_key(key), "{key}");
        }
        assert!(
            is_label_value("") && is_label_value("v1.2") && !is_label_value("not valid!") && !is_label_value(&long)
        );
    }
}
