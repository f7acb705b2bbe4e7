//! Objects of which there are many, in an eighth of their room.

use lz4_flex::block::{compress_prepend_size_with_dict, decompress_size_prepended_with_dict};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// What such objects say again and again, so that what is held of one is little more than its names. It stays in the
/// process: no text outlives it.
const DICTIONARY: &[u8] = br#"{"apiVersion":"gateway.networking.k8s.io/v1alpha2","kind":"UDPRoute","kind":"TCPRoute","kind":"TLSRoute","kind":"GRPCRoute","metadata":{"annotations":{"cert-manager.io/cluster-issuer":"kubernetes.io/ingress.class":"sluice.dev/policy":"},"labels":{"app.kubernetes.io/name":"app.kubernetes.io/instance":"app.kubernetes.io/managed-by":"Helm","helm.sh/chart":"apiVersion":"networking.k8s.io/v1","kind":"Ingress","metadata":{"creationTimestamp":"2026-01-01T00:00:00Z","generation":1,"name":"namespace":"default","uid":"spec":{"ingressClassName":"sluice","rules":[{"host":"http":{"paths":[{"backend":{"service":{"name":"port":{"number":80}}},"path":"/","pathType":"Prefix"}]}}],"tls":[{"hosts":["secretName":"filters":[{"type":"RequestHeaderModifier","requestHeaderModifier":{"add":[{"set":[{"name":"value":"ExtensionRef","extensionRef":{"group":"sluice.dev","kind":"Plugin","responseHeaderModifier":{"requestRedirect":{"scheme":"https","statusCode":301}}],"type":"URLRewrite","urlRewrite":{"path":{"replacePrefixMatch":"/","type":"ReplacePrefixMatch"}}}],"timeouts":{"backendRequest":"request":"30s"},"headers":[{"type":"Exact","method":"GET","queryParams":[{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"creationTimestamp":"2026-01-01T00:00:00Z","generation":1,"name":"","namespace":"default","uid":""},"spec":{"hostnames":[".example.com"],"parentRefs":[{"group":"gateway.networking.k8s.io","kind":"Gateway","name":"gateway","namespace":"sectionName":"https"}],"rules":[{"backendRefs":[{"group":"","kind":"Service","name":"","port":80,"weight":1}],"matches":[{"path":{"type":"PathPrefix","value":"/"}}]}]}}"#;

/// The JSON text of an object, packed: 0.5 KiB of a small route in some 150 bytes, and read in less than a microsecond.
#[derive(Clone, PartialEq, Eq)]
pub struct Text(Arc<[u8]>);

impl Text {
    fn of(text: &[u8]) -> Text {
        Text(compress_prepend_size_with_dict(text, DICTIONARY).into())
    }

    /// What [`crate::parse`] reads, in one line. `None` never comes about: nothing but [`Packed::new`] makes one.
    pub fn read(&self) -> Option<Vec<u8>> {
        decompress_size_prepended_with_dict(&self.0, DICTIONARY).ok()
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.read().unwrap_or_default()))
    }
}

/// An object as its JSON text, behind a pointer. The type of a small route is mostly places for what it does not say: 1.3 KiB.
/// Reading one again takes some microseconds, and that is done where it is translated.
pub struct Packed<T> {
    text: Text,
    of: PhantomData<fn() -> T>,
}

impl<T: Serialize + DeserializeOwned> Packed<T> {
    /// An error says that the object has no text, which none that was read from one has.
    pub fn new(object: &T) -> Result<Self, serde_json::Error> {
        Ok(Packed { text: Text::of(&serde_json::to_vec(object)?), of: PhantomData })
    }

    /// The object. `None`: its text is not its own, which the tests rule out for each kind.
    pub fn open(&self) -> Option<T> {
        serde_json::from_slice(&self.text.read()?).ok()
    }
}

impl<T> Packed<T> {
    pub fn text(&self) -> &Text {
        &self.text
    }
}

impl<T> Clone for Packed<T> {
    fn clone(&self) -> Self {
        Packed { text: self.text.clone(), of: PhantomData }
    }
}

impl<T> PartialEq for Packed<T> {
    /// One text is packed in one way.
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl<T> fmt::Debug for Packed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use crate::{Object, Store, parse};
    use serde_json::json;

    /// Each kind that is held so, with fields of every type that it has: numbers, times, lists, maps, either of two types.
    #[test]
    fn what_is_held_as_text_is_the_same_when_it_is_read() {
        let meta = json!({"name": "r", "namespace": "shop", "uid": "6a1d", "generation": 3,
            "creationTimestamp": "2026-03-01T08:00:00Z", "labels": {"a": "b"}, "annotations": {"sluice.dev/policy": "x,\"y\""}});
        let parents = json!([{"name": "edge", "sectionName": "web", "port": 80}]);
        let backends = json!([{"name": "a", "namespace": "other", "port": 8080, "weight": 0}]);
        let route = |kind: &str, rule: serde_json::Value| {
            json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": meta,
                "spec": {"parentRefs": parents, "rules": [rule]}})
        };
        let http = json!({"name": "first", "backendRefs": backends,
            "matches": [{"path": {"type": "RegularExpression", "value": "/[a-z]+\\.\u{e9}"}, "method": "PUT",
                "headers": [{"name": "x", "value": "\u{0}1"}], "queryParams": [{"name": "q", "value": ""}]}],
            "filters": [{"type": "RequestRedirect", "requestRedirect": {"port": 8443, "statusCode": 308,
                "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}}],
            "timeouts": {"request": "1s"}, "retry": {"attempts": 2, "codes": [503], "backoff": "10ms"}});
        let grpc = json!({"matches": [{"method": {"service": "a.B", "method": "C"}}], "backendRefs": backends});
        let ingress = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": meta,
            "spec": {"ingressClassName": "sluice", "tls": [{"hosts": ["a.example"], "secretName": "s"}],
                "defaultBackend": {"service": {"name": "web", "port": {"name": "http"}}},
                "rules": [{"host": "a.example", "http": {"paths": [{"path": "/", "pathType": "Exact",
                    "backend": {"service": {"name": "web", "port": {"number": 80}}}}]}}]}});
        let mut documents = vec![route("HTTPRoute", http), route("GRPCRoute", grpc), ingress];
        for kind in ["TLSRoute", "TCPRoute", "UDPRoute"] {
            let mut document = route(kind, json!({"backendRefs": backends}));
            if kind == "TLSRoute" {
                document["spec"]["hostnames"] = json!(["a.example"]);
            }
            documents.push(document);
        }
        for document in documents {
            let parsed = parse(document);
            assert_eq!(parsed.problems, []);
            let object = parsed.object.unwrap();
            let mut store = Store::default();
            assert!(store.upsert(object.clone()) && !store.upsert(object.clone()), "{object:?}");
            assert_eq!(store.iter().collect::<Vec<Object>>(), std::slice::from_ref(&object));
            assert_eq!(store.get(&object.reference()), Some(object.clone()));
            let texts: Vec<_> = store.documents().collect();
            let [crate::Document::Text(text)] = &texts[..] else { panic!("{texts:?}") };
            assert_eq!(
                parse(serde_json::from_slice(&text.read().unwrap()).unwrap()).object,
                Some(object.clone()),
                "of the last good resources"
            );
            assert!(store.remove(&object.reference()) && !store.remove(&object.reference()));
        }
    }
}
