//! What an account needs to be allowed in a cluster, in the words of RBAC: what `sluice doctor` asks for, and what the
//! chart's rules are held against.

use std::fmt;
use std::sync::Arc;

/// One verb on one resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Right {
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// The plural, as `httproutes`; of a subresource `httproutes/status`.
    pub resource: &'static str,
    /// In this namespace. `None`: in all, or the resource has none.
    pub namespace: Option<Arc<str>>,
    /// Of the object with this name only.
    pub name: Option<&'static str>,
    pub verb: &'static str,
    /// What fails without it; empty: the program's whole purpose.
    pub only_for: &'static str,
}

/// `list httproutes.gateway.networking.k8s.io in namespace shop`.
impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, Resource { group: self.group, resource: self.resource })?;
        if let Some(name) = self.name {
            write!(f, " `{name}`")?;
        }
        match &self.namespace {
            Some(namespace) => write!(f, " in namespace {namespace}"),
            None => Ok(()),
        }
    }
}

/// As `kubectl auth can-i` takes it: `httproutes.gateway.networking.k8s.io`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resource {
    pub group: &'static str,
    pub resource: &'static str,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (plural, subresource) = match self.resource.split_once('/') {
            Some((plural, subresource)) => (plural, Some(subresource)),
            None => (self.resource, None),
        };
        f.write_str(plural)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        subresource.map_or(Ok(()), |subresource| write!(f, "/{subresource}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_reads_as_kubectl_takes_it() {
        let right = Right {
            group: "networking.k8s.io",
            resource: "ingresses/status",
            namespace: Some("shop".into()),
            name: None,
            verb: "patch",
            only_for: "",
        };
        assert_eq!(right.to_string(), "patch ingresses.networking.k8s.io/status in namespace shop");
        let lease = Right { group: "", resource: "services", namespace: None, name: Some("a"), ..right };
        assert_eq!(lease.to_string(), "patch services `a`");
    }
}
