//! Virtual hosts, their rules, and what a rule does. HTTPRoute and Ingress both become this.

use super::{BackendKey, EscapedSlashes, ExternalAuth, SessionPersistence};
use crate::hostname::{HostPattern, Hostname};
use crate::object::ObjectRef;
use crate::plugin::PluginUse;
use crate::print::{display, display_all, display_option};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use ipnet::IpNet;
use regex::Regex;
use serde::Serialize;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// What one listener serves for one host pattern.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VirtualHost {
    pub hostname: HostPattern,
    /// By precedence: the first that matches is taken. Equal ones were ordered by `translate` (older object first, then
    /// namespace/name, then position).
    ///
    /// Lists are pointers: those of a host that one route alone has are the route's own.
    pub matches: Arc<[RouteMatch]>,
    /// What `matches[].rule` points into.
    pub rules: Arc<[Arc<Rule>]>,
}

/// One match of one rule. All its parts must agree (Gateway API HTTPRouteMatch).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RouteMatch {
    pub path: PathMatch,
    #[serde(serialize_with = "display_option")]
    pub method: Option<Method>,
    /// Each name once: of several entries with one name the first counts (Gateway API).
    pub headers: Vec<HeaderMatch>,
    pub query: Vec<QueryMatch>,
    /// Of a path that has two elements, the second: the method of a gRPC service that is asked for without its service
    /// (GRPCMethodMatch).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_method: Option<ValueMatch>,
    /// Index into [`VirtualHost::rules`].
    pub rule: u32,
}

impl RouteMatch {
    /// Asks for a path and nothing else.
    pub fn of_path(path: PathMatch, rule: u32) -> Self {
        RouteMatch { path, method: None, headers: Vec::new(), query: Vec::new(), grpc_method: None, rule }
    }
}

/// Against the path's normal form, without the query.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum PathMatch {
    /// The whole path, with its final slash or without it.
    Exact(Arc<str>),
    /// Whole elements; never ends in `/`, so that `/` itself is the empty string. `/foo` means `/foo`, `/foo/` and `/foo/x`.
    Prefix(Arc<str>),
    /// The whole path (anchored). After exact matches and before prefixes, the longer pattern first.
    Regex(Pattern),
}

/// A compiled expression that compares by its text. A pointer, as most matches have none.
#[derive(Clone, Debug)]
pub struct Pattern(Arc<Expression>);

#[derive(Debug)]
pub struct Expression {
    /// As the user wrote it.
    pub source: Arc<str>,
    pub regex: Regex,
}

/// Bytes that one compiled expression may take. A larger one is refused as a problem of its route.
pub const MAX_REGEX_BYTES: usize = 256 * 1024;

impl Pattern {
    /// Compiles `source` so that it must match as a whole.
    pub fn anchored(source: &str) -> Result<Self, regex::Error> {
        // By itself first: `a)|(?:b` would be well-formed only within the group, and escape the anchors.
        regex_automata::util::syntax::parse(source).map_err(|error| regex::Error::Syntax(error.to_string()))?;
        let regex = regex::RegexBuilder::new(&format!("^(?:{source})$"))
            .size_limit(MAX_REGEX_BYTES)
            .dfa_size_limit(MAX_REGEX_BYTES)
            .build()?;
        Ok(Pattern(Arc::new(Expression { source: source.into(), regex })))
    }
}

impl Deref for Pattern {
    type Target = Expression;

    fn deref(&self) -> &Expression {
        &self.0
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Serialize for Pattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeaderMatch {
    #[serde(serialize_with = "display")]
    pub name: HeaderName,
    /// May be a key that opens the route: it is not printed.
    #[serde(serialize_with = "hidden")]
    pub value: ValueMatch,
}

fn hidden<S: serde::Serializer>(value: &ValueMatch, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        ValueMatch::Exact(text) => serializer.serialize_newtype_variant("ValueMatch", 0, "Exact", &Hidden(text.len())),
        ValueMatch::Regex(pattern) => {
            serializer.serialize_newtype_variant("ValueMatch", 1, "Regex", &Hidden(pattern.source.len()))
        }
    }
}

/// In place of a header's value. Whether one is a secret can't be told by its name, so that none is printed.
struct Hidden(usize);

impl Serialize for Hidden {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("<{} bytes>", self.0))
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QueryMatch {
    pub name: Arc<str>,
    /// As a header's.
    #[serde(serialize_with = "hidden")]
    pub value: ValueMatch,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum ValueMatch {
    Exact(Arc<str>),
    Regex(Pattern),
}

/// A rule's identity over reloads: metrics, retries' budgets and logs belong to it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct RuleId {
    pub route: ObjectRef,
    /// The rule's name; where it has none, its position (`0`, `1`), for an Ingress `host path`.
    pub rule: Arc<str>,
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.route, self.rule)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rule {
    pub id: RuleId,
    pub filters: Arc<Filters>,
    pub action: Action,
    /// From the client's request to the end of the response (HTTPRoute timeouts.request). 0 in the API is `None` here.
    pub request_timeout: Option<Duration>,
    /// Each try (timeouts.backendRequest).
    pub backend_timeout: Option<Duration>,
    pub retry: Arc<Retry>,
    /// In running order: the merge of all TrafficPolicies is done.
    pub plugins: Vec<PluginUse>,
    pub client: Arc<ClientPolicy>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Action {
    /// Draws by weight. The sum of weights is above 0, else it is a [`Action::Reply`] with 500, unless sessions may lead to
    /// a backend all the same.
    Forward(Vec<WeightedBackend>),
    Redirect(Redirect),
    /// What the API says of rules that cannot forward: 500 (HTTPRoute), 503 (an Ingress without its Service).
    Reply {
        #[serde(serialize_with = "display")]
        status: StatusCode,
        reason: crate::Reason,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WeightedBackend {
    /// 0 only with a `session`: those that have begun go on.
    pub weight: u32,
    pub target: BackendTarget,
    /// Filters of this backendRef, after the rule's.
    pub filters: Arc<Filters>,
    /// The rule's, else the backend's own (XBackendTrafficPolicy). Backends of one rule share the rule's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<Arc<SessionPersistence>>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum BackendTarget {
    Backend(#[serde(serialize_with = "display")] BackendKey),
    /// Takes its share of requests, and answers it with this status (Gateway API: 500).
    Invalid {
        #[serde(serialize_with = "display")]
        status: StatusCode,
        reason: crate::Reason,
    },
}

/// What is native (decision 9). Order on a request: external authorization, plugins, header modifiers, rewrite.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Filters {
    pub request_headers: HeaderOps,
    pub response_headers: HeaderOps,
    pub rewrite: Option<Rewrite>,
    pub mirrors: Vec<Mirror>,
    pub cors: Option<Arc<Cors>>,
    /// Of a rule only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_auth: Option<Arc<ExternalAuth>>,
}

static NO_FILTERS: LazyLock<Arc<Filters>> = LazyLock::new(Arc::default);

impl Filters {
    /// What most rules have: one for all of them.
    pub fn none() -> Arc<Filters> {
        NO_FILTERS.clone()
    }

    /// As rules hold them.
    pub fn shared(self) -> Arc<Filters> {
        if self == **NO_FILTERS { Self::none() } else { Arc::new(self) }
    }
}

/// `set`, `add` and `remove` of a header modifier; each name in one of them. Values may be secrets, and are not printed.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HeaderOps {
    #[serde(serialize_with = "fields")]
    pub set: Vec<(HeaderName, HeaderValue)>,
    #[serde(serialize_with = "fields")]
    pub add: Vec<(HeaderName, HeaderValue)>,
    #[serde(serialize_with = "display_all")]
    pub remove: Vec<HeaderName>,
}

impl HeaderOps {
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

fn fields<S: serde::Serializer>(fields: &[(HeaderName, HeaderValue)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(fields.iter().map(|(name, value)| (name.as_str(), Hidden(value.len()))))
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Redirect {
    pub scheme: Option<RedirectScheme>,
    #[serde(serialize_with = "display_option")]
    pub hostname: Option<Hostname>,
    pub port: Option<u16>,
    pub path: Option<PathRewrite>,
    /// 301, 302, 303, 307 or 308. Default 302.
    #[serde(serialize_with = "display")]
    pub status: StatusCode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum RedirectScheme {
    Http,
    Https,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Rewrite {
    #[serde(serialize_with = "display_option")]
    pub hostname: Option<Hostname>,
    pub path: Option<PathRewrite>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum PathRewrite {
    Full(Arc<str>),
    /// Replaces the part that the rule's prefix matched. Without its final slash.
    PrefixMatch(Arc<str>),
}

/// A copy of the request whose answer is thrown away.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mirror {
    #[serde(serialize_with = "display")]
    pub backend: BackendKey,
    /// The share of requests that is copied.
    pub numerator: u32,
    /// Not 0; 100 for a percentage.
    pub denominator: u32,
}

/// CORS by the rule (GEP-1767), answered by the gateway.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cors {
    pub allow_origins: Vec<OriginPattern>,
    pub allow_credentials: bool,
    /// Empty: none beyond the simple ones; `*`: see [`Cors::allow_any_method`].
    #[serde(serialize_with = "display_all")]
    pub allow_methods: Vec<Method>,
    pub allow_any_method: bool,
    #[serde(serialize_with = "display_all")]
    pub allow_headers: Vec<HeaderName>,
    pub allow_any_header: bool,
    #[serde(serialize_with = "display_all")]
    pub expose_headers: Vec<HeaderName>,
    pub expose_any_header: bool,
    /// Default 5 s (the API's).
    pub max_age: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum OriginPattern {
    /// `*`
    Any,
    /// `https://www.example.com:8443`
    Exact(Arc<str>),
    /// `https://*.example.com`: scheme, suffix with its dot, and port. The empty suffix (`https://*`) is any host.
    Wildcard { scheme: Arc<str>, suffix: Arc<str>, port: Option<u16> },
}

/// Which failures are tried again, on another endpoint where there is one. Never after a byte of the response went to
/// the client, and never where the body is no longer held.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Retry {
    /// Further tries after the first. Default 1; at least 4 where connections are refused, unless it is 0.
    pub attempts: u32,
    /// Connections that could not be made: nothing was sent, so any method may be tried again. Default: yes.
    pub connect_failure: bool,
    /// Resets and refused streams before the response; methods that are idempotent (RFC 9110, 9.2.2), or unsent. Default: yes.
    pub reset: bool,
    /// Statuses that are tried again, for any method: the author of the route asked for it (HTTPRoute retry.codes).
    pub codes: Vec<u16>,
    /// Least pause before a further try. Default: 25 ms, growing twofold, with jitter; the first after a failed connect is at once.
    pub backoff: Option<Duration>,
    /// Retries may add at most this share to a backend's requests in flight (and always 10). Default 20 %.
    pub budget_percent: u8,
}

static DEFAULT_RETRY: LazyLock<Arc<Retry>> = LazyLock::new(Arc::default);

impl Retry {
    /// As rules hold it: most have the default, which is one for all of them.
    pub fn shared(self) -> Arc<Retry> {
        if self == **DEFAULT_RETRY { DEFAULT_RETRY.clone() } else { Arc::new(self) }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Retry { attempts: 1, connect_failure: true, reset: true, codes: Vec::new(), backoff: None, budget_percent: 20 }
    }
}

/// TrafficPolicy `client`: edge settings that a route tightens.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ClientPolicy {
    /// Addresses that may call; empty: all. Others: 403.
    #[serde(serialize_with = "display_all")]
    pub ip_allow: Vec<IpNet>,
    /// Bytes; the smaller of this and the listener's counts.
    pub max_body: Option<u64>,
    /// A plugin that decides by path may demand `Reject`.
    pub escaped_slashes: Option<EscapedSlashes>,
}

static ANY_CLIENT: LazyLock<Arc<ClientPolicy>> = LazyLock::new(Arc::default);

impl ClientPolicy {
    /// As rules hold it: most ask for nothing, and share one.
    pub fn shared(self) -> Arc<ClientPolicy> {
        if self == **ANY_CLIENT { ANY_CLIENT.clone() } else { Arc::new(self) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{Kind, ObjectRef};
    use crate::plugin::{FailMode, Place, PluginUse};

    #[test]
    fn what_may_be_a_secret_is_not_printed() {
        let secret = "c2VjcmV0";
        let value = || HeaderValue::from_static("Bearer c2VjcmV0");
        let exact = || ValueMatch::Exact(secret.into());
        let matched = RouteMatch {
            path: PathMatch::Prefix("".into()),
            method: None,
            headers: vec![HeaderMatch { name: HeaderName::from_static("x-key"), value: exact() }],
            query: vec![
                QueryMatch { name: "key".into(), value: exact() },
                QueryMatch { name: "other".into(), value: ValueMatch::Regex(Pattern::anchored(secret).unwrap()) },
            ],
            grpc_method: None,
            rule: 0,
        };
        let ops = HeaderOps {
            set: vec![(HeaderName::from_static("authorization"), value())],
            add: vec![(HeaderName::from_static("x-tenant"), value())],
            remove: Vec::new(),
        };
        let plugin = PluginUse {
            name: "auth".into(),
            plugin: crate::object::NamespacedName::new("shop", "auth"),
            config: format!(r#"{{"key":"{secret}"}}"#).into(),
            config_hash: "00ff".into(),
            fail_mode: FailMode::Closed,
            when: None,
            at: Place { object: ObjectRef::new(Kind::TrafficPolicy, "shop", "t"), field: "spec.plugins[0]".into() },
        };
        let text = serde_json::to_string(&(matched, ops, plugin)).unwrap();
        assert!(!text.contains(secret), "{text}");
        for told in ["x-key", "authorization", "x-tenant", "00ff", r#""config_bytes":18"#, "<15 bytes>"] {
            assert!(text.contains(told), "{told} in {text}");
        }
    }
}
