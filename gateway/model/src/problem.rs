//! What was wrong with an object: the one form in which bad input is shown by `sluice check`, the log, the metric
//! `sluice_config_problems{code}` and the admin page.

use crate::object::ObjectRef;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;

/// Whether the object, or the part that is named, is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something does not work as written; what it concerns is left out or answers an error.
    Error,
    /// It works, but probably not as meant.
    Warning,
}

/// Where an object stands in the files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Location {
    pub file: Arc<str>,
    /// Counted from 1.
    pub line: u32,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Problem {
    pub code: Code,
    pub severity: Severity,
    /// `None` where the text could not be read as an object at all.
    pub object: Option<ObjectRef>,
    /// The field, as `spec.rules[2].backendRefs[0].port`; empty for the whole object.
    pub field: String,
    /// What is wrong: lower case, naming the value.
    pub message: String,
    /// The way out.
    pub hint: String,
    /// Filled in by the source that read the object.
    pub location: Option<Location>,
}

impl Problem {
    /// An error in `object`. The hint is the code's own until [`Problem::hint`] replaces it.
    pub fn error(code: Code, object: &ObjectRef, field: impl Into<String>, message: impl Into<String>) -> Self {
        Problem {
            code,
            severity: Severity::Error,
            object: Some(object.clone()),
            field: field.into(),
            message: message.into(),
            hint: code.hint().to_owned(),
            location: None,
        }
    }

    pub fn warning(code: Code, object: &ObjectRef, field: impl Into<String>, message: impl Into<String>) -> Self {
        Problem { severity: Severity::Warning, ..Problem::error(code, object, field, message) }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

/// `SLUICE-P101 error deploy/web.yaml:7: Ingress shop/web: spec.rules[0].host: message (hint)`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{} {severity}", self.code.id())?;
        if let Some(location) = &self.location {
            write!(f, " {location}")?;
        }
        if let Some(object) = &self.object {
            write!(f, ": {object}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.message)?;
        if !self.hint.is_empty() {
            write!(f, " ({})", self.hint)?;
        }
        Ok(())
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $id:literal, $title:literal, $hint:literal;)*) => {
        /// A stable code: it never changes its meaning, and has an entry in docs/problems.md.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $($(#[$doc])* $variant,)* }

        impl Code {
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];
            /// The code as users see it.
            pub const fn id(self) -> &'static str { match self { $(Code::$variant => $id,)* } }
            /// What it is about, in a few words.
            pub const fn title(self) -> &'static str { match self { $(Code::$variant => $title,)* } }
            /// The usual way out.
            pub const fn hint(self) -> &'static str { match self { $(Code::$variant => $hint,)* } }
        }
    };
}

codes! {
    // 0xx: reading
    YamlSyntax = "SLUICE-P001", "text that is not YAML", "fix the syntax; until then the objects last read from this file go on serving";
    NotAnObject = "SLUICE-P002", "a document without apiVersion, kind or name", "each document needs apiVersion, kind and metadata.name";
    UnknownKind = "SLUICE-P003", "a kind that Sluice does not read", "remove the object from this folder, or correct its apiVersion and kind";
    UnknownField = "SLUICE-P004", "a field that the kind does not have", "correct the spelling or the indentation; the field is ignored";
    WrongType = "SLUICE-P005", "a value of the wrong type, or a missing required field", "correct the value; until then what this object last said goes on serving";
    DuplicateObject = "SLUICE-P006", "the same object twice", "keep one of the two; the first one read is used";
    FileUnreadable = "SLUICE-P007", "a file or folder that cannot be read", "check that it exists and may be read; until then what was read last goes on serving";
    FileTooLarge = "SLUICE-P008", "a file above the size limit", "split the file";

    // 1xx: values
    InvalidHostname = "SLUICE-P101", "a host that is not a DNS name", "use a DNS name, or `*.` before one";
    InvalidPath = "SLUICE-P102", "a path that can never match", "start with `/`, without query, fragment, dot segments or invalid percent-encoding";
    InvalidRegex = "SLUICE-P103", "a regular expression that cannot be used", "use RE2-like syntax without look-around or back references, and keep it small";
    InvalidHeader = "SLUICE-P104", "a header name or value that HTTP does not allow", "use a token as name, and visible characters as value";
    InvalidDuration = "SLUICE-P105", "a duration that cannot be read", "write Gateway API durations: `500ms`, `10s`, `1m30s`";
    InvalidQuantity = "SLUICE-P106", "a size that cannot be read or is out of range", "write Kubernetes quantities: `64Ki`, `1Mi`";
    InvalidAddress = "SLUICE-P107", "an IP address or CIDR that cannot be read", "write `10.0.0.0/8` or `2001:db8::/32`";
    UnsupportedValue = "SLUICE-P108", "a value that Sluice does not support here", "use one of the values that the message names";
    OutOfRange = "SLUICE-P109", "a number out of its range", "use a number in the range that the message names";
    InvalidCombination = "SLUICE-P110", "fields that exclude each other", "keep one of the fields that the message names";
    InvalidCondition = "SLUICE-P111", "a condition that cannot be used", "write a CEL expression over `request` and `source` that is true or false";

    // 2xx: references
    ServiceNotFound = "SLUICE-P201", "a Service that does not exist", "create the Service, or correct name and namespace; requests for it are answered 500 (503 for an Ingress)";
    ServicePortNotFound = "SLUICE-P202", "a port that the Service does not have", "use a port of the Service, by number or by name";
    RefNotPermitted = "SLUICE-P203", "a reference to another namespace without a ReferenceGrant", "create a ReferenceGrant in the namespace of the object that is referred to";
    KindNotSupported = "SLUICE-P204", "a reference to a kind that is not supported here", "refer to one of the kinds that the message names";
    SecretNotFound = "SLUICE-P205", "a Secret or ConfigMap that does not exist", "create it, or correct name and namespace";
    ParentNotFound = "SLUICE-P206", "a parentRef that names no listener of ours", "name an existing Gateway, and a listener and port that it has";
    NotAllowedByListeners = "SLUICE-P207", "a route that no listener allows", "widen the listener's allowedRoutes, or move the route";
    NoMatchingHostname = "SLUICE-P208", "a route whose hostnames no listener has", "give listener and route a hostname in common";
    PluginNotFound = "SLUICE-P209", "a Plugin that does not exist", "create the Plugin, or correct name and namespace";
    PolicyTargetNotFound = "SLUICE-P210", "a policy whose target does not exist", "create the target, or correct kind, name and sectionName";
    ClassNotFound = "SLUICE-P211", "a class that is not ours or does not exist", "name a GatewayClass or IngressClass whose controller is Sluice";
    ExternalNameNotAllowed = "SLUICE-P212", "an ExternalName that no GatewayConfig allows", "add the name's suffix to GatewayConfig spec.externalNames.allow";
    NoEndpoints = "SLUICE-P213", "a Service without endpoints", "check that pods are ready, or that an EndpointSlice carries the label kubernetes.io/service-name";
    NamespaceNotFound = "SLUICE-P214", "a Namespace whose labels are asked for but that is not there", "add the Namespace object with its labels";
    ParametersNotFound = "SLUICE-P215", "a parametersRef that cannot be used", "refer to a GatewayConfig that exists in the namespace of the reference";
    PolicyNotFound = "SLUICE-P216", "a TrafficPolicy that does not exist", "create the TrafficPolicy without targetRefs in the namespace of the object that names it, or correct the name";
    UnsupportedAppProtocol = "SLUICE-P217", "an `appProtocol` that Sluice does not speak", "give the Service's port one of the protocols that the message names, or none";

    // 3xx: listeners and certificates
    ListenerConflict = "SLUICE-P301", "two listeners on one port that conflict", "give one of them another port, protocol or hostname; the older one serves";
    UnsupportedProtocol = "SLUICE-P302", "a listener protocol that is not supported", "use HTTP, HTTPS, TLS, TCP or UDP";
    InvalidTls = "SLUICE-P303", "a listener's TLS settings that cannot be used", "correct the tls block";
    InvalidCertificate = "SLUICE-P304", "a certificate that cannot be used", "store a PEM chain in tls.crt and its PEM key in tls.key";
    KeyMismatch = "SLUICE-P305", "a certificate that does not match its key", "store the key that belongs to the certificate";
    CertificateExpired = "SLUICE-P306", "a certificate outside its validity", "renew the certificate";
    CertificateHost = "SLUICE-P307", "a certificate that does not cover the host", "use a certificate whose names cover the host";
    PortNotBound = "SLUICE-P308", "a port that cannot be bound", "free the port, or choose another; binding is tried again";
    InvalidCa = "SLUICE-P309", "a CA bundle that cannot be used", "store PEM certificates under ca.crt";
    SharedPort = "SLUICE-P310", "listeners of one port that differ in what can only hold for all of it", "give the listeners the same value in their GatewayConfigs, or ports of their own";
    ListenerSetNotAllowed = "SLUICE-P311", "a ListenerSet that its Gateway does not allow", "widen the Gateway's allowedListeners, or move the ListenerSet";

    // 4xx: plugins and policies
    PluginSource = "SLUICE-P401", "a plugin whose code cannot be loaded", "check the source and, where given, its digest";
    PluginInvalid = "SLUICE-P402", "a plugin that does not compile or is no plugin", "build it against the contract `sluice:plugin`";
    PluginConfig = "SLUICE-P403", "a plugin configuration that is refused", "correct the configuration; until then the last accepted one goes on serving";
    PluginTrap = "SLUICE-P404", "a plugin that fails in configure", "see the plugin's log; until it works the last good version goes on serving";
    PluginNotPermitted = "SLUICE-P405", "a Plugin that this namespace may not use", "widen allowedNamespaces, or create a ReferenceGrant";
    PolicyConflict = "SLUICE-P406", "two policies that say different things of one target", "remove one of them; the older one acts";
    PolicyNotApplicable = "SLUICE-P407", "a policy field that means nothing on its target", "move the field to a policy on a target of the right kind";
    PluginWaiting = "SLUICE-P408", "a plugin that is being compiled", "nothing to do; uses without an earlier version answer by their fail mode until it is ready";
    ConfigUnused = "SLUICE-P409", "a GatewayConfig that nothing refers to", "name it in a GatewayClass's or IngressClass's parameters, or in a Gateway's infrastructure.parametersRef; until then it has no effect";
    StoreUnreachable = "SLUICE-P410", "a plugin's store whose Redis cannot be used", "see the message; it is tried again, and until then the plugin does what it does without its store";
    PluginSelfTest = "SLUICE-P411", "a plugin that fails its self-test", "see the message and the plugin's log; until it passes the last good version goes on serving";
    PluginEngine = "SLUICE-P412", "a plugin that the plugin engine has no room for", "raise the process's limit of address space (`ulimit -v`), of which the pool of instances takes much and uses little; it is tried again, and everything but plugins goes on";
    PluginFetch = "SLUICE-P420", "a plugin whose code cannot be fetched", "see the message; it is tried again, and the code before goes on serving";
    PluginSignature = "SLUICE-P421", "a plugin image without a signature by its key", "sign the image with the key that publicKeyRef names (`cosign sign --key`), or correct publicKeyRef";

    // 5xx: routes
    RouteShadowed = "SLUICE-P501", "a match that another route takes first", "make the match more specific, or remove one of the two";
    RouteTooLarge = "SLUICE-P502", "a route above a limit", "split the route";
    FilterNotSupported = "SLUICE-P503", "a filter that cannot be used here", "remove the filter; requests that it concerns are answered 500";
    IngressResourceBackend = "SLUICE-P504", "an Ingress backend that is not a Service", "use backend.service";
    AnnotationIgnored = "SLUICE-P505", "an annotation of another controller, which Sluice ignores", "see docs/migration.md for what replaces it";
    RouteConflict = "SLUICE-P506", "an HTTPRoute and a GRPCRoute for the same host of a listener", "give them hostnames of their own, or listeners";

    // 6xx: the cluster
    WatchForbidden = "SLUICE-P601", "a kind that Sluice may not read", "grant the verbs that the message names to Sluice's account; everything else goes on, and the watch is tried again";
    KindNotInstalled = "SLUICE-P602", "a kind that the API server does not know", "install its CustomResourceDefinition; until then there are no objects of this kind";
    WatchFailing = "SLUICE-P603", "an API server that does not answer as it should", "see the message; what was read last goes on serving, and the watch is tried again";
    TooManyReferences = "SLUICE-P604", "more referenced ConfigMaps and Secrets than are watched one by one", "refer to fewer of them, or give Secrets the type kubernetes.io/tls";
    LastGoodInUse = "SLUICE-P605", "last good resources in use, since the API server does not answer", "bring the API server back; its first complete answer replaces all of them";
    LastGoodRefused = "SLUICE-P606", "last good resources that cannot be used", "bring the API server back; nothing is served before it answers";
    LastGoodNotKept = "SLUICE-P607", "last good resources that cannot be kept", "see the message; a restart while the API server is away would find nothing, or something older";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Kind;

    #[test]
    fn codes_are_unique_and_each_has_a_way_out() {
        let mut seen = std::collections::HashSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.id()), "{} stands twice", code.id());
            assert!(!code.title().is_empty() && !code.hint().is_empty());
        }
    }

    #[test]
    fn a_problem_reads_as_one_line() {
        let ingress = ObjectRef::new(Kind::Ingress, "shop", "web");
        let mut p = Problem::error(Code::InvalidHostname, &ingress, "spec.rules[0].host", "`a..b` is not a DNS name");
        p.location = Some(Location { file: "web.yaml".into(), line: 7 });
        assert_eq!(
            p.to_string(),
            "SLUICE-P101 error web.yaml:7: Ingress shop/web: spec.rules[0].host: `a..b` is not a DNS name \
             (use a DNS name, or `*.` before one)"
        );
    }
}
