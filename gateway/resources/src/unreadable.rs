//! What is known of an object whose document does not fit its kind.

use crate::api::http_route::HttpRouteParentRefs;
use crate::api::{BackendTlsPolicy, XBackendTrafficPolicy};
use crate::{Object, TrafficPolicy};
use serde::de::DeserializeOwned;
use serde_json::Value;
use sluice_model::{Kind, ObjectRef};
use std::sync::Arc;

/// The newest form of an object that cannot be read: a value of the wrong type, or one that is none of an enumeration's.
/// The form before it goes on, if there was one; whoever wrote this one is to be told.
#[derive(Clone, Debug, PartialEq)]
pub struct Unreadable {
    pub reference: ObjectRef,
    /// `metadata.generation`; 0 of an object from a file.
    pub generation: i64,
    /// Of a Gateway: `spec.gatewayClassName`.
    pub class: Option<String>,
    /// Whom it asks to serve it, as far as that can be read: `spec.parentRefs` of a route, `spec.parentRef` of a
    /// ListenerSet.
    pub parents: Vec<HttpRouteParentRefs>,
    /// Of a route: it asks for default Gateways (`spec.useDefaultGateways`).
    pub by_default: bool,
    /// The field, and what is wrong there.
    pub message: String,
    /// What stands for it where no form of it could ever be read: of a policy that guards something, or says how backends
    /// are to be spoken to, one that is good for nothing, with the same targets.
    pub stand_in: Option<Object>,
}

impl Unreadable {
    /// Looks at a document before it is read; all but the message.
    pub(crate) fn of(document: &Value, reference: &ObjectRef) -> Unreadable {
        let spec = |field: &str| document.get("spec").and_then(|spec| spec.get(field));
        let kind = reference.kind;
        let parents = match kind {
            Kind::ListenerSet => readable(spec("parentRef")),
            kind if kind.is_route() => readable(spec("parentRefs").and_then(Value::as_array).into_iter().flatten()),
            _ => Vec::new(),
        };
        let stand_in = match kind {
            Kind::TrafficPolicy => {
                TrafficPolicy::unreadable(document).map(|policy| Object::TrafficPolicy(policy.into()))
            }
            // Without a name that a certificate could be of.
            Kind::BackendTLSPolicy => metadata(document).map(|metadata| {
                let mut policy = BackendTlsPolicy { metadata, ..BackendTlsPolicy::default() };
                policy.spec.target_refs = targets(document);
                Object::BackendTLSPolicy(Arc::new(policy))
            }),
            Kind::XBackendTrafficPolicy => metadata(document).map(|metadata| {
                let mut policy = XBackendTrafficPolicy { metadata, ..XBackendTrafficPolicy::default() };
                policy.spec.target_refs = targets(document);
                Object::XBackendTrafficPolicy(Arc::new(policy))
            }),
            _ => None,
        };
        Unreadable {
            reference: reference.clone(),
            generation: document.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or_default(),
            class: spec("gatewayClassName")
                .filter(|_| kind == Kind::Gateway)
                .and_then(Value::as_str)
                .map(str::to_owned),
            parents,
            by_default: kind.is_route() && spec("useDefaultGateways").and_then(Value::as_str) == Some("All"),
            message: String::new(),
            stand_in,
        }
    }
}

fn metadata<T: DeserializeOwned>(document: &Value) -> Option<T> {
    serde_json::from_value(document.get("metadata")?.clone()).ok()
}

fn targets<T: DeserializeOwned>(document: &Value) -> Vec<T> {
    readable(document.pointer("/spec/targetRefs").and_then(Value::as_array).into_iter().flatten())
}

/// Those of some values that fit their type.
fn readable<'v, T: DeserializeOwned>(values: impl IntoIterator<Item = &'v Value>) -> Vec<T> {
    values.into_iter().filter_map(|value| T::deserialize(value).ok()).collect()
}
