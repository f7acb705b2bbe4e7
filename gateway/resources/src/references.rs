//! Which Secrets and ConfigMaps an object refers to. A source that does not read all of them reads just these.

use crate::Object;
use crate::api::Gateway;
use crate::{PublicKeyKind, PublicKeyRef};
use sluice_model::{Kind, ObjectRef};

impl Object {
    /// The Secrets and ConfigMaps that the object names, there or not, permitted or not: whether a reference holds is
    /// `sluice-translate`'s question.
    pub fn references(&self) -> Vec<ObjectRef> {
        let own = self.metadata().namespace.as_deref().unwrap_or_default();
        let mut found = Vec::new();
        let mut secret = |namespace: &str, name: &str| found.push(ObjectRef::new(Kind::Secret, namespace, name));
        match self {
            Object::Gateway(gateway) => return of_gateway(gateway, own),
            Object::ListenerSet(set) => {
                let listeners = set.spec.listeners.iter().filter_map(|listener| listener.tls.as_ref());
                for r in listeners.flat_map(|tls| tls.certificate_refs.iter().flatten()) {
                    let namespace = r.namespace.as_deref().unwrap_or(own);
                    found.extend(named(r.group.as_deref(), r.kind.as_deref(), namespace, &r.name));
                }
            }
            Object::Ingress(ingress) => {
                for tls in ingress.spec.iter().flat_map(|spec| spec.tls.iter().flatten()) {
                    tls.secret_name.iter().for_each(|name| secret(own, name));
                }
            }
            Object::GatewayConfig(config) => {
                let certificate = config.spec.ingress.as_ref().and_then(|i| i.default_certificate_ref.as_ref());
                certificate.iter().for_each(|reference| secret(own, &reference.name));
            }
            Object::BackendTLSPolicy(policy) => {
                for reference in policy.spec.validation.ca_certificate_refs.iter().flatten() {
                    found.extend(named(Some(&reference.group), Some(&reference.kind), own, &reference.name));
                }
            }
            Object::Plugin(plugin) => {
                let source = &plugin.spec.source;
                if let Some(oci) = &source.oci {
                    oci.pull_secret_ref.iter().for_each(|reference| secret(own, &reference.name));
                    found.extend(oci.public_key_ref.as_ref().map(|key| key.object(own)));
                }
                let map = source.config_map.as_ref();
                found.extend(map.map(|map| ObjectRef::new(Kind::ConfigMap, own, map.name.as_str())));
                let names = plugin.spec.capabilities.iter().flat_map(|may| may.secret_names());
                found.extend(names.map(|name| ObjectRef::new(Kind::Secret, own, name)));
            }
            _ => {}
        }
        found
    }
}

impl PublicKeyRef {
    /// The object that holds the key.
    pub fn object(&self, namespace: &str) -> ObjectRef {
        let kind = match self.kind {
            None | Some(PublicKeyKind::Secret) => Kind::Secret,
            Some(PublicKeyKind::ConfigMap) => Kind::ConfigMap,
        };
        ObjectRef::new(kind, namespace, self.name.as_str())
    }
}

fn of_gateway(gateway: &Gateway, own: &str) -> Vec<ObjectRef> {
    let mut found = Vec::new();
    let mut add = |group: Option<&str>, kind: Option<&str>, namespace: Option<&str>, name: &str| {
        found.extend(named(group, kind, namespace.unwrap_or(own), name));
    };
    let listeners = gateway.spec.listeners.iter().filter_map(|listener| listener.tls.as_ref());
    for r in listeners.flat_map(|tls| tls.certificate_refs.iter().flatten()) {
        add(r.group.as_deref(), r.kind.as_deref(), r.namespace.as_deref(), &r.name);
    }
    let Some(tls) = &gateway.spec.tls else { return found };
    if let Some(r) = tls.backend.as_ref().and_then(|backend| backend.client_certificate_ref.as_ref()) {
        add(r.group.as_deref(), r.kind.as_deref(), r.namespace.as_deref(), &r.name);
    }
    let Some(frontend) = &tls.frontend else { return found };
    for r in frontend.default.validation.iter().flat_map(|validation| &validation.ca_certificate_refs) {
        add(Some(&r.group), Some(&r.kind), r.namespace.as_deref(), &r.name);
    }
    let ports = frontend.per_port.iter().flatten().filter_map(|port| port.tls.validation.as_ref());
    for r in ports.flat_map(|validation| &validation.ca_certificate_refs) {
        add(Some(&r.group), Some(&r.kind), r.namespace.as_deref(), &r.name);
    }
    found
}

/// A reference as the Gateway API writes it: the core group and a Secret where it says nothing.
fn named(group: Option<&str>, kind: Option<&str>, namespace: &str, name: &str) -> Option<ObjectRef> {
    let kind = match (group.unwrap_or_default(), kind.unwrap_or("Secret")) {
        ("", "Secret") => Kind::Secret,
        ("", "ConfigMap") => Kind::ConfigMap,
        _ => return None,
    };
    Some(ObjectRef::new(kind, namespace, name))
}

#[cfg(test)]
mod tests {
    use crate::parse;
    use serde_json::{Value, json};

    fn references(document: Value) -> Vec<String> {
        let parsed = parse(document);
        let object = parsed.object.unwrap_or_else(|| panic!("{:?}", parsed.problems));
        object.references().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_gateway_refers_to_certificates_and_client_cas() {
        let gateway = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"name": "edge", "namespace": "shop"},
            "spec": {
                "gatewayClassName": "sluice",
                "listeners": [
                    {"name": "http", "port": 80, "protocol": "HTTP"},
                    {"name": "https", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [
                        {"name": "own"},
                        {"name": "other", "namespace": "certs"},
                        {"name": "vault", "group": "example.com", "kind": "VaultCertificate"},
                    ]}},
                ],
                "tls": {
                    "backend": {"clientCertificateRef": {"name": "client"}},
                    "frontend": {
                        "default": {"validation": {"caCertificateRefs": [
                            {"group": "", "kind": "ConfigMap", "name": "ca"},
                        ]}},
                        "perPort": [{"port": 443, "tls": {"validation": {"caCertificateRefs": [
                            {"group": "", "kind": "Secret", "name": "ca", "namespace": "certs"},
                        ]}}}],
                    },
                },
            },
        });
        assert_eq!(
            references(gateway),
            ["Secret shop/own", "Secret certs/other", "Secret shop/client", "ConfigMap shop/ca", "Secret certs/ca"]
        );
    }

    #[test]
    fn the_other_kinds_refer_to_objects_of_their_own_namespace() {
        let meta = json!({"name": "x", "namespace": "shop"});
        let ingress = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": meta,
            "spec": {"tls": [{"secretName": "web"}, {"hosts": ["a.example"]}]}});
        assert_eq!(references(ingress), ["Secret shop/web"]);
        let config = json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "GatewayConfig", "metadata": meta,
            "spec": {"ingress": {"defaultCertificateRef": {"name": "fallback"}}}});
        assert_eq!(references(config), ["Secret shop/fallback"]);
        let policy = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy", "metadata": meta,
            "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "web"}],
                     "validation": {"hostname": "web.example", "caCertificateRefs": [
                         {"group": "", "kind": "ConfigMap", "name": "ca"}]}}});
        assert_eq!(references(policy), ["ConfigMap shop/ca"]);
        let plugin = json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "Plugin", "metadata": meta,
        "spec": {"source": {"configMap": {"name": "code", "key": "plugin.wasm"}},
                 "capabilities": {
                    "secrets": [{"name": "token", "ref": {"name": "oidc", "key": "client"}}],
                    "stores": [{"name": "a"}, {"name": "b", "scope": "Redis", "redis": {
                        "ref": {"name": "redis", "port": 6379}, "passwordRef": {"name": "login", "key": "password"}}}],
                 }}});
        assert_eq!(references(plugin), ["ConfigMap shop/code", "Secret shop/oidc", "Secret shop/login"]);
        let plugin = json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "Plugin", "metadata": meta, "spec": {"source": {"oci": {
            "image": "r.example/a:1", "pullSecretRef": {"name": "pull"}, "publicKeyRef": {"name": "signer"}}}}});
        assert_eq!(references(plugin), ["Secret shop/pull", "Secret shop/signer"]);
    }
}
