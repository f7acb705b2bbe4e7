//! An object as it comes over the wire, without what nobody here looks at. That is skipped while it is read and never
//! held: `managedFields` alone are often half of an object, and `status` changes more often than all the rest.

use foldhash::quality::FixedState;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::{Map, Value};
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};

/// What is kept of `metadata`. Names and versions are the object's identity; age decides between objects that
/// conflict; labels and annotations are configuration.
const METADATA: &[&str] = &["name", "namespace", "uid", "generation", "creationTimestamp", "labels", "annotations"];

/// Annotations that repeat the object, or change with each of its pods.
const UNREAD_ANNOTATIONS: &[&str] =
    &["kubectl.kubernetes.io/last-applied-configuration", "endpoints.kubernetes.io/last-change-trigger-time"];

/// One object, or what the server sent in its place: reading never fails on what is in it, only on text that is not
/// JSON.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Raw {
    /// Where a watch goes on; no part of the content.
    pub(super) resource_version: String,
    pub(super) document: Value,
    /// Kept by [`WithStatus`] only, and no part of the content.
    pub(super) status: Value,
}

/// An object whose status somebody wants to know.
#[derive(Debug)]
pub(super) struct WithStatus(pub(super) Raw);

impl Raw {
    /// Two equal contents have an equal fingerprint. It only has to tell one object's versions apart.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = FixedState::default().build_hasher();
        hash(&self.document, &mut hasher);
        hasher.finish()
    }

    /// What the document says of itself where it says nothing: the items of a list have neither.
    pub(super) fn set_type(&mut self, api_version: &str, kind: &str) {
        let Value::Object(fields) = &mut self.document else { return };
        for (field, value) in [("apiVersion", api_version), ("kind", kind)] {
            if fields.get(field).and_then(Value::as_str).is_none_or(str::is_empty) {
                fields.insert(field.to_owned(), value.into());
            }
        }
    }

    pub(super) fn namespace(&self) -> &str {
        self.metadata("namespace")
    }

    pub(super) fn name(&self) -> &str {
        self.metadata("name")
    }

    fn metadata(&self, field: &str) -> &str {
        self.document.get("metadata").and_then(|meta| meta.get(field)).and_then(Value::as_str).unwrap_or_default()
    }
}

fn hash(value: &Value, hasher: &mut impl Hasher) {
    match value {
        Value::Null => 0_u8.hash(hasher),
        Value::Bool(value) => (1_u8, value).hash(hasher),
        Value::Number(number) => (2_u8, number).hash(hasher),
        Value::String(text) => (3_u8, text).hash(hasher),
        Value::Array(items) => {
            (4_u8, items.len()).hash(hasher);
            items.iter().for_each(|item| hash(item, hasher));
        }
        Value::Object(fields) => {
            (5_u8, fields.len()).hash(hasher);
            for (key, value) in fields {
                key.hash(hasher);
                hash(value, hasher);
            }
        }
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Object { with_status: false })
    }
}

impl<'de> Deserialize<'de> for WithStatus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Object { with_status: true }).map(WithStatus)
    }
}

impl From<WithStatus> for Raw {
    fn from(object: WithStatus) -> Raw {
        object.0
    }
}

/// The object as a whole.
struct Object {
    with_status: bool,
}

impl<'de> Visitor<'de> for Object {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut raw = Raw::default();
        let mut fields = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "status" if self.with_status => raw.status = map.next_value()?,
                "status" => {
                    map.next_value::<IgnoredAny>()?;
                }
                "metadata" => {
                    let metadata = map.next_value_seed(Metadata { version: &mut raw.resource_version })?;
                    fields.insert(key, metadata);
                }
                _ => {
                    fields.insert(key, map.next_value()?);
                }
            }
        }
        raw.document = Value::Object(fields);
        Ok(raw)
    }

    // No object at all: `sluice_resources::parse` says so.
    fn visit_unit<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::default())
    }
    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Raw, E> {
        Ok(Raw::default())
    }
    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Raw, E> {
        Ok(Raw::default())
    }
    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Raw, E> {
        Ok(Raw::default())
    }
    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Raw, E> {
        Ok(Raw::default())
    }
    fn visit_str<E: de::Error>(self, _: &str) -> Result<Raw, E> {
        Ok(Raw::default())
    }
    fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Raw::default())
    }
}

/// The object's metadata.
struct Metadata<'v> {
    version: &'v mut String,
}

impl<'de> DeserializeSeed<'de> for Metadata<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Metadata<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("metadata")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "resourceVersion" => {
                    if let Value::String(version) = map.next_value()? {
                        *self.version = version;
                    }
                }
                known if METADATA.contains(&known) => {
                    let mut value = map.next_value::<Value>()?;
                    if let ("annotations", Value::Object(annotations)) = (known, &mut value) {
                        annotations.retain(|name, _| !UNREAD_ANNOTATIONS.contains(&name.as_str()));
                    }
                    fields.insert(key, value);
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: &Value) -> Raw {
        serde_json::from_str(&value.to_string()).unwrap()
    }

    fn service(more: &Value) -> Value {
        let mut service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": "web", "namespace": "shop", "uid": "u1", "resourceVersion": "42",
                "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"app": "web"},
                "annotations": {"sluice.dev/policy": "strict"},
            },
            "spec": {"ports": [{"port": 80}]},
        });
        for (path, value) in more.as_object().unwrap() {
            *service.pointer_mut(path.rsplit_once('/').unwrap().0).unwrap() = {
                let (parent, key) = path.rsplit_once('/').unwrap();
                let mut parent = service.pointer(parent).unwrap().clone();
                parent[key.replace("~1", "/")] = value.clone();
                parent
            };
        }
        service
    }

    #[test]
    fn what_the_server_keeps_for_itself_is_not_kept() {
        let noise = json!({
            "/metadata/managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
            "/metadata/ownerReferences": [{"kind": "App", "name": "x"}],
            "/metadata/finalizers": ["example.com/x"],
            "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration": "{}",
            "/metadata/annotations/endpoints.kubernetes.io~1last-change-trigger-time": "2026-01-01T00:00:00Z",
            "/status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}},
        });
        let plain = read(&service(&json!({})));
        let noisy = read(&service(&noise));
        assert_eq!(plain, noisy);
        assert_eq!(plain.resource_version, "42");
        assert_eq!(plain.document["metadata"]["annotations"], json!({"sluice.dev/policy": "strict"}));
        assert_eq!((plain.namespace(), plain.name()), ("shop", "web"));
        assert!(plain.document["metadata"].get("resourceVersion").is_none());
    }

    #[test]
    fn the_fingerprint_follows_the_content_and_not_the_version() {
        let former = read(&service(&json!({})));
        let touched = read(&service(&json!({"/metadata/resourceVersion": "43", "/status": {"x": 1}})));
        let changed = read(&service(&json!({"/spec/ports": [{"port": 81}]})));
        assert_eq!(former.fingerprint(), touched.fingerprint());
        assert_ne!(former.fingerprint(), changed.fingerprint());
    }

    #[test]
    fn an_object_of_any_shape_is_read_and_never_an_error() {
        for odd in [
            json!(null),
            json!(7),
            json!(-7),
            json!(7.5),
            json!("text"),
            json!(true),
            json!([1, {"a": 2}]),
            json!({"spec": 7}),
            json!({"metadata": {"name": 7, "labels": "no"}}),
        ] {
            let raw = read(&odd);
            assert_eq!(raw.name(), "");
        }
    }

    #[test]
    fn items_of_a_list_get_the_type_that_the_list_has() {
        let mut raw = read(&json!({"metadata": {"name": "web"}}));
        raw.set_type("v1", "Service");
        assert_eq!((&raw.document["apiVersion"], &raw.document["kind"]), (&json!("v1"), &json!("Service")));
    }
}
