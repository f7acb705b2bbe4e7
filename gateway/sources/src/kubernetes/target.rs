//! What one watch looks at: a kind, in one namespace or in all, all of its objects or a single one.

use kube::core::Request;
use kube::core::params::{ListParams, WatchParams};
use sluice_model::{Kind, ObjectRef};
use std::fmt;
use std::sync::Arc;

/// The type of Secrets that hold a certificate.
const TLS: &str = "type=kubernetes.io/tls";
const NOT_TLS: &str = "type!=kubernetes.io/tls";
/// The label that says whose endpoints a slice holds; slices without it are nobody's.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Target {
    pub(super) kind: Kind,
    /// `None`: all namespaces, or a kind that has none.
    pub(super) namespace: Option<Arc<str>>,
    pub(super) objects: Objects,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Objects {
    /// All that are read of the kind without being referred to.
    Usual,
    One(Arc<str>),
    /// The same, unless the usual watch has it.
    OneOfAnotherType(Arc<str>),
}

/// Where a kind is read; `None`: everywhere, or it has no namespace. `namespaces`: none for all; `of_services`: those
/// whose Services and endpoints are read besides.
pub(super) fn places(kind: Kind, namespaces: &[Arc<str>], of_services: &[Arc<str>]) -> Vec<Option<Arc<str>>> {
    if !kind.namespaced() || namespaces.is_empty() {
        return vec![None];
    }
    let more = of_services.iter().filter(|_| matches!(kind, Kind::Service | Kind::EndpointSlice));
    let more = more.filter(|namespace| !namespaces.contains(namespace));
    namespaces.iter().chain(more).cloned().map(Some).collect()
}

impl Target {
    pub(super) fn all(kind: Kind, namespace: Option<Arc<str>>) -> Target {
        Target { kind, namespace, objects: Objects::Usual }
    }

    /// One object; `other_types` where the usual watch of its kind shows those of the usual type.
    pub(super) fn one(object: &ObjectRef, other_types: bool) -> Target {
        let name = object.name.clone();
        let objects = if other_types { Objects::OneOfAnotherType(name) } else { Objects::One(name) };
        Target { kind: object.kind, namespace: Some(object.namespace.clone()), objects }
    }

    pub(super) fn is_one(&self) -> bool {
        self.objects != Objects::Usual
    }

    /// The one object that it looks at.
    pub(super) fn object(&self) -> Option<ObjectRef> {
        match &self.objects {
            Objects::Usual => None,
            Objects::One(name) | Objects::OneOfAnotherType(name) => {
                Some(ObjectRef::new(self.kind, self.namespace.clone().unwrap_or_default(), name.clone()))
            }
        }
    }

    pub(super) fn api_version(&self, version: &str) -> String {
        match self.kind.group() {
            "" => version.to_owned(),
            group => format!("{group}/{version}"),
        }
    }

    pub(super) fn request(&self, version: &str) -> Request {
        let root = if self.kind.group().is_empty() { "api" } else { "apis" };
        let namespace = self.namespace.as_ref().map(|ns| format!("namespaces/{ns}/")).unwrap_or_default();
        Request::new(format!("/{root}/{}/{namespace}{}", self.api_version(version), self.kind.plural()))
    }

    pub(super) fn list(&self) -> ListParams {
        ListParams { label_selector: self.labels(), field_selector: self.fields(), ..ListParams::default() }
    }

    pub(super) fn watch(&self) -> WatchParams {
        WatchParams { label_selector: self.labels(), field_selector: self.fields(), ..WatchParams::default() }
    }

    fn labels(&self) -> Option<String> {
        (self.kind == Kind::EndpointSlice).then(|| SERVICE_NAME.to_owned())
    }

    fn fields(&self) -> Option<String> {
        match &self.objects {
            Objects::Usual => (self.kind == Kind::Secret).then(|| TLS.to_owned()),
            Objects::One(name) => Some(format!("metadata.name={name}")),
            Objects::OneOfAnotherType(name) => Some(format!("metadata.name={name},{NOT_TLS}")),
        }
    }
}

/// `httproutes.gateway.networking.k8s.io in all namespaces`.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind;
        if kind.group().is_empty() {
            f.write_str(kind.plural())?;
        } else {
            write!(f, "{}.{}", kind.plural(), kind.group())?;
        }
        match (&self.objects, &self.namespace) {
            (Objects::One(name) | Objects::OneOfAnotherType(name), Some(namespace)) => {
                write!(f, " `{name}` in namespace {namespace}")
            }
            (_, Some(namespace)) => write!(f, " in namespace {namespace}"),
            (_, None) if kind.namespaced() => f.write_str(" in all namespaces"),
            (_, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(target: &Target) -> String {
        let request = target.request("v1").watch(&target.watch(), "7").unwrap();
        request.uri().to_string()
    }

    #[test]
    fn only_certificates_and_single_secrets_are_asked_for() {
        let all = url(&Target::all(Kind::Secret, None));
        assert!(all.starts_with("/api/v1/secrets?"), "{all}");
        assert!(all.contains("fieldSelector=type%3Dkubernetes.io%2Ftls"), "{all}");
        let secret = ObjectRef::new(Kind::Secret, "shop", "pull");
        let one = url(&Target::one(&secret, true));
        assert!(one.starts_with("/api/v1/namespaces/shop/secrets?"), "{one}");
        assert!(one.contains("fieldSelector=metadata.name%3Dpull%2Ctype%21%3Dkubernetes.io%2Ftls"), "{one}");
        assert!(one.contains("allowWatchBookmarks=true") && one.contains("resourceVersion=7"), "{one}");
        assert!(url(&Target::one(&secret, false)).contains("fieldSelector=metadata.name%3Dpull&"));
    }

    #[test]
    fn slices_are_asked_for_by_their_label_and_groups_by_their_path() {
        let slices = url(&Target::all(Kind::EndpointSlice, Some("shop".into())));
        assert!(slices.starts_with("/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices?"), "{slices}");
        assert!(slices.contains("labelSelector=kubernetes.io%2Fservice-name"), "{slices}");
    }

    #[test]
    fn a_target_reads_as_rbac_names_it() {
        let routes = Target::all(Kind::HTTPRoute, None);
        assert_eq!(routes.to_string(), "httproutes.gateway.networking.k8s.io in all namespaces");
        let one = Target::one(&ObjectRef::new(Kind::ConfigMap, "shop", "ca"), false);
        assert_eq!(one.to_string(), "configmaps `ca` in namespace shop");
        assert_eq!(Target::all(Kind::Namespace, None).to_string(), "namespaces");
    }
}
