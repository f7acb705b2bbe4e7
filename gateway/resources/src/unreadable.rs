//! What is known of an object whose document does not fit its kind.

use crate::api::http_route::HttpRouteParentRefs;
use crate::api::{BackendTlsPolicy, ObjectMeta, XBackendTrafficPolicy};
use crate::{Object, TrafficPolicy};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
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
    /// What stands for it where no form of it could ever be read. Of a policy that guards something, or says how backends are
    /// to be spoken to, one that is good for nothing, with the same targets: nothing is let through. Of another policy
    /// one that says nothing.
    pub stand_in: Option<Object>,
}

/// A policy that guards nothing goes behind every other for the same target.
pub(crate) fn last() -> Time {
    Time(k8s_openapi::jiff::Timestamp::MAX)
}

impl Unreadable {
    /// Whether an object only stands for one that could not be read, as far as that can be seen: from a process before
    /// this one it comes as any other.
    pub fn is_stand_in(object: &Object) -> bool {
        match object {
            Object::TrafficPolicy(policy) => policy.spec.unreadable,
            Object::BackendTLSPolicy(policy) => policy.spec.validation == Default::default(),
            _ => false,
        }
    }

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
            Kind::TrafficPolicy => Some(Object::TrafficPolicy(Arc::new(TrafficPolicy::unreadable(document)))),
            // Without a name that a certificate could be of.
            Kind::BackendTLSPolicy => {
                let mut policy = BackendTlsPolicy { metadata: metadata(document), ..BackendTlsPolicy::default() };
                policy.spec.target_refs = targets(document);
                Some(Object::BackendTLSPolicy(Arc::new(policy)))
            }
            Kind::XBackendTrafficPolicy => {
                let mut policy =
                    XBackendTrafficPolicy { metadata: metadata(document), ..XBackendTrafficPolicy::default() };
                policy.metadata.creation_timestamp = Some(last());
                policy.spec.target_refs = targets(document);
                Some(Object::XBackendTrafficPolicy(Arc::new(policy)))
            }
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

/// As much of it as can be read: a name there is.
pub(crate) fn metadata(document: &Value) -> ObjectMeta {
    let Some(metadata) = document.get("metadata") else { return ObjectMeta::default() };
    ObjectMeta::deserialize(metadata).unwrap_or_else(|_| {
        let text = |field: &str| metadata.get(field).and_then(Value::as_str).map(str::to_owned);
        ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            uid: text("uid"),
            generation: metadata.get("generation").and_then(Value::as_i64),
            creation_timestamp: metadata.get("creationTimestamp").and_then(|time| Time::deserialize(time).ok()),
            ..ObjectMeta::default()
        }
    })
}

/// Targets of a policy. What says which object is meant is enough: the rest is as it mostly is.
pub(crate) fn targets<T: DeserializeOwned>(document: &Value) -> Vec<T> {
    let targets = document.pointer("/spec/targetRefs").and_then(Value::as_array).into_iter().flatten();
    let completed = targets.filter_map(|target| {
        let text = |field: &str| target.get(field).and_then(Value::as_str);
        let kind = text("kind").unwrap_or(Kind::Service.name());
        let group = text("group").unwrap_or(match kind {
            "Service" => Kind::Service.group(),
            "Ingress" => Kind::Ingress.group(),
            _ => Kind::Gateway.group(),
        });
        let mut whole = json!({"group": group, "kind": kind, "name": text("name")?});
        if let Some(section) = text("sectionName") {
            whole["sectionName"] = section.into();
        }
        T::deserialize(whole).ok()
    });
    completed.collect()
}

/// Those of some values that fit their type.
fn readable<'v, T: DeserializeOwned>(values: impl IntoIterator<Item = &'v Value>) -> Vec<T> {
    values.into_iter().filter_map(|value| T::deserialize(value).ok()).collect()
}
