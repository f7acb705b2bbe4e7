//! The status that each object should have, from what `translate` says of it and what is served.

use crate::conditions::Entry;
use crate::model::Reach;
use serde_json::{Value, json};
use sluice_model::{Kind, ObjectRef, ServedPlugin};
use sluice_translate::{
    Ancestor, AncestorStatus, ClassStatus, Condition, ConfigStatus, GatewayStatus, ListenerSetStatus, ListenerStatus,
    ParentStatus, PluginStatus, PolicyStatus, RouteStatus,
};
use std::collections::BTreeSet;

/// What a GatewayClass of ours says it can do (Gateway API v1.6 names), sorted.
pub const SUPPORTED_FEATURES: &[&str] = &[
    "BackendTLSPolicy",
    "BackendTLSPolicySANValidation",
    "GRPCRoute",
    "GRPCRouteNamedRouteRule",
    "Gateway",
    "GatewayAddressEmpty",
    "GatewayBackendClientCertificate",
    "GatewayFrontendClientCertificateValidation",
    "GatewayFrontendClientCertificateValidationInsecureFallback",
    "GatewayHTTPListenerIsolation",
    "GatewayHTTPSListenerDetectMisdirectedRequests",
    "GatewayInfrastructure",
    "GatewayPort8080",
    "GatewayStaticAddresses",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendProtocolH2C",
    "HTTPRouteBackendProtocolWebSocket",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteCORS",
    "HTTPRouteDestinationPortMatching",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestMirror",
    "HTTPRouteRequestMultipleMirrors",
    "HTTPRouteRequestPercentageMirror",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteRetry",
    "HTTPRouteRetryBackendTimeout",
    "HTTPRouteRetryConnectionError",
    "HTTPRouteSchemeRedirect",
    "ListenerSet",
    "ReferenceGrant",
    "TCPRoute",
    "TLSRoute",
    "TLSRouteModeMixed",
    "TLSRouteModeTerminate",
    "UDPRoute",
];

/// Features whose fields are there in the experimental channel's CRDs only: in the other an API server drops them.
const EXPERIMENTAL_FEATURES: &[&str] =
    &["HTTPRouteRetry", "HTTPRouteRetryBackendTimeout", "HTTPRouteRetryConnectionError"];

/// The installed CRDs of the Gateway API, as their annotations have it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundle {
    pub version: String,
    /// `standard` or `experimental`.
    pub channel: String,
}

impl Bundle {
    /// What a CRD says; `None` for one that is not the Gateway API's.
    pub fn of(crd: &Value) -> Option<Bundle> {
        let annotation = |name: &str| {
            let all = crd.pointer("/metadata/annotations")?;
            all.get(format!("{GROUP}/{name}"))?.as_str().map(str::to_owned)
        };
        let channel = annotation("channel").unwrap_or_default();
        annotation("bundle-version").map(|version| Bundle { version, channel })
    }

    /// Whether Sluice was tried with this version.
    pub fn is_known(&self) -> bool {
        KNOWN_BUNDLES.iter().any(|known| self.version.starts_with(known))
    }
}

/// What is supported with the CRDs that are installed.
pub(crate) fn features(bundle: Option<&Bundle>) -> Value {
    let experimental = bundle.is_some_and(|bundle| bundle.channel == "experimental");
    let there = SUPPORTED_FEATURES.iter().filter(|name| experimental || !EXPERIMENTAL_FEATURES.contains(name));
    there.map(|name| json!({"name": name})).collect()
}

/// The versions of the Gateway API whose CRDs are known to fit: by their first two numbers.
const KNOWN_BUNDLES: &[&str] = &["v1.4.", "v1.5.", "v1.6."];

/// The group of routes and Gateways.
const GROUP: &str = "gateway.networking.k8s.io";

/// `bundle`: the installed CRDs, where they may be looked at.
pub(crate) fn class(status: &ClassStatus, bundle: Option<&Bundle>) -> Vec<Condition> {
    let mut conditions = status.conditions();
    if let Some(installed) = bundle {
        let bundle = &installed.version;
        conditions.push(if installed.is_known() {
            Condition::good("SupportedVersion", "SupportedVersion", format!("Gateway API {bundle} is installed"))
        } else {
            let message = format!(
                "Gateway API {bundle} is installed; Sluice was tried with 1.4 to 1.6, and reads what it knows of others"
            );
            Condition::bad("SupportedVersion", "UnsupportedVersion", message)
        });
    }
    conditions
}

/// A Gateway's conditions, given how far it reaches.
pub(crate) fn gateway(status: &GatewayStatus, reach: &Reach) -> Vec<Condition> {
    let mut conditions = status.conditions();
    let mut served = status.listeners.iter().filter(|listener| listener.serves).peekable();
    let programmed = if status.rejected.is_some() {
        Condition::bad("Programmed", "Invalid", "the Gateway is not accepted")
    } else if served.peek().is_none() && status.attached_listener_sets == 0 {
        Condition::bad("Programmed", "Invalid", "no listener can be served")
    } else if let Some((reason, message)) = &reach.lacking {
        Condition::bad("Programmed", reason, message)
    } else if let Some(listener) = served.find(|listener| !reach.listeners.contains(&listener.name)) {
        let message = format!("not every proxy serves listener `{}` of this generation yet", listener.name);
        Condition::bad("Programmed", "Pending", message)
    } else {
        Condition::good("Programmed", "Programmed", "every proxy serves this generation")
    };
    conditions.insert(1, programmed);
    conditions
}

/// A ListenerSet's conditions, given how far its Gateway reaches with its listeners.
pub(crate) fn listener_set(status: &ListenerSetStatus, reach: &Reach) -> Vec<Condition> {
    let mut served = status.listeners.iter().filter(|listener| listener.serves);
    let programmed = if let Some((reason, message)) = &status.rejected {
        let reason = if *reason == "ParentNotAccepted" { "ParentNotProgrammed" } else { *reason };
        Condition::bad("Programmed", reason, message)
    } else if let Some((reason, message)) = &reach.lacking {
        Condition::bad("Programmed", "ParentNotProgrammed", format!("{}: {reason}: {message}", status.gateway))
    } else if let Some(listener) = served.find(|listener| !reach.listeners.contains(&listener.name)) {
        let message = format!("not every proxy serves listener `{}` of this generation yet", listener.name);
        Condition::bad("Programmed", "Pending", message)
    } else {
        Condition::good("Programmed", "Programmed", "every proxy serves this generation")
    };
    let mut conditions = status.conditions();
    conditions.push(programmed);
    conditions
}

pub(crate) fn listener(status: &ListenerStatus, rejected: bool, reach: &Reach) -> Vec<Condition> {
    let programmed = if let Some(reason) = status.conflicted {
        Condition::bad("Programmed", reason, "it conflicts with another listener of this port")
    } else if !status.serves || rejected {
        Condition::bad("Programmed", "Invalid", "the listener is not served; see its other conditions")
    } else if reach.listeners.contains(&status.name) {
        Condition::good("Programmed", "Programmed", "every proxy serves it")
    } else {
        Condition::bad("Programmed", "Pending", "not every proxy serves it yet")
    };
    let mut conditions = status.conditions();
    conditions.push(programmed);
    conditions
}

pub(crate) fn supported_kinds(status: &ListenerStatus) -> Value {
    status.supported_kinds.iter().map(|kind| json!({"group": GROUP, "kind": kind})).collect()
}

/// The entries of a route: for its parentRefs that name a Gateway of ours, or a ListenerSet of one.
pub(crate) fn parents(status: &RouteStatus, ours: impl Fn(&ObjectRef) -> bool) -> Vec<Entry> {
    let mut parents: Vec<Entry> = Vec::new();
    for parent in &status.parents {
        let gateway = parent.gateway.as_ref();
        let gateway = gateway.map(|name| ObjectRef::new(Kind::Gateway, name.namespace.clone(), name.name.clone()));
        let reference = reference(parent);
        if gateway.is_some_and(|gateway| ours(&gateway)) && parents.iter().all(|other| other.reference != reference) {
            parents.push(Entry { reference, conditions: parent.conditions(status.invalid.as_deref()) });
        }
    }
    parents
}

fn reference(parent: &ParentStatus) -> Value {
    let mut reference = json!({"group": GROUP, "kind": parent.parent.kind.name(), "name": *parent.parent.name});
    let optional = [
        ("namespace", parent.namespace.as_ref().map(|namespace| json!(namespace))),
        ("sectionName", parent.section_name.as_ref().map(|name| json!(name))),
        ("port", parent.port.map(|port| json!(port))),
    ];
    if let Value::Object(fields) = &mut reference {
        fields.extend(optional.into_iter().filter_map(|(field, value)| Some((field.to_owned(), value?))));
    }
    reference
}

/// A Plugin's conditions, given what every ready proxy has made of its code.
pub(crate) fn plugin(status: &PluginStatus, made: Option<&ServedPlugin>) -> Vec<Condition> {
    let ready = match made {
        _ if status.code.is_none() && !status.remote => Condition::bad("Ready", "Invalid", "there is no code to run"),
        Some(ServedPlugin { error: Some(error), .. }) => Condition::bad("Ready", "Failed", error),
        Some(made) if made.checked && made.ready >= made.uses => {
            Condition::good("Ready", "Ready", "every proxy runs this code for all of its uses")
        }
        Some(made) if made.sha256.is_empty() => Condition::bad("Ready", "Pending", "no proxy has fetched the code yet"),
        Some(_) => Condition::bad("Ready", "Pending", "not every proxy has compiled it for all of its uses"),
        None => Condition::bad("Ready", "Pending", "not every proxy has this code yet"),
    };
    let mut conditions = status.conditions();
    conditions.push(ready);
    conditions
}

/// What is known of a Plugin's code; null where it is not.
pub(crate) fn code(status: &PluginStatus, made: Option<&ServedPlugin>) -> [(&'static str, Value); 8] {
    let digest = |sha256: &String| json!(format!("sha256:{sha256}"));
    let fetched = made.filter(|made| !made.sha256.is_empty()).and_then(|made| Some((made, made.fetched.as_ref()?)));
    let of_object = status.code.as_ref().map(|(sha256, size)| (digest(sha256), json!(size)));
    let of_fetched = || fetched.map(|(made, fetched)| (digest(&made.sha256), json!(fetched.size)));
    let (code, size) = of_object.or_else(of_fetched).unwrap_or_default();
    let of_proxies = made.map(|made| json!(made.checked && made.error.is_none()));
    let phases = made.filter(|made| !made.phases.is_empty()).map(|made| json!(made.phases));
    [
        ("digest", code),
        (
            "imageDigest",
            fetched.and_then(|(_, fetched)| Some(json!(fetched.image_digest.as_ref()?))).unwrap_or_default(),
        ),
        ("size", size),
        ("interfaces", phases.unwrap_or_default()),
        ("configSchema", made.and_then(|made| made.config_schema.as_ref()).map(digest).unwrap_or_default()),
        ("compiled", of_proxies.unwrap_or_default()),
        ("uses", made.map(|made| json!(made.uses)).unwrap_or_default()),
        ("lastError", made.and_then(|made| made.error.as_ref()).map(|error| json!(error)).unwrap_or_default()),
    ]
}

/// The entries of a policy.
pub(crate) fn ancestors(status: &PolicyStatus) -> Vec<Entry> {
    let entry = |of: &AncestorStatus| {
        let Ancestor { group, kind, namespace, name, section } = &of.ancestor;
        let mut reference = json!({"group": group, "kind": kind, "namespace": namespace, "name": name});
        if let (Value::Object(fields), Some(section)) = (&mut reference, section) {
            fields.insert("sectionName".to_owned(), json!(section));
        }
        Entry { reference, conditions: of.conditions() }
    };
    status.ancestors.iter().map(entry).collect()
}

/// Those who use a GatewayConfig, as its status names them.
const MAX_USERS: usize = 16;

pub(crate) fn users(status: &ConfigStatus) -> Value {
    let user = |object: &ObjectRef| {
        let mut user = json!({"group": object.kind.group(), "kind": object.kind.name(), "name": *object.name});
        if let (Value::Object(fields), false) = (&mut user, object.namespace.is_empty()) {
            fields.insert("namespace".to_owned(), json!(*object.namespace));
        }
        user
    };
    status.used_by.iter().take(MAX_USERS).map(user).collect()
}

/// `status.loadBalancer.ingress` of an Ingress, from that of the Service in front of us.
pub(crate) fn load_balancer(addresses: &BTreeSet<String>) -> Value {
    let entry = |address: &String| match address.parse::<std::net::IpAddr>() {
        Ok(_) => json!({"ip": address}),
        Err(_) => json!({"hostname": address}),
    };
    addresses.iter().map(entry).collect()
}

/// `status.addresses` of a Gateway.
pub(crate) fn addresses(addresses: &BTreeSet<String>) -> Value {
    let entry = |address: &String| {
        let kind = if address.parse::<std::net::IpAddr>().is_ok() { "IPAddress" } else { "Hostname" };
        json!({"type": kind, "value": address})
    };
    addresses.iter().take(crate::nodes::MAX_ADDRESSES).map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_model::FetchedPlugin;
    use sluice_model::config::Transport;
    use sluice_model::object::NamespacedName;

    fn listening(name: &str, serves: bool) -> ListenerStatus {
        ListenerStatus {
            name: name.to_owned(),
            port: 80,
            transport: Transport::Tcp,
            rejected: (!serves).then(|| ("UnsupportedProtocol", "no".to_owned())),
            conflicted: None,
            unresolved: None,
            overlapping: None,
            serves,
            supported_kinds: vec!["HTTPRoute"],
            attached_routes: 0,
        }
    }

    fn brief(conditions: &[Condition]) -> Vec<String> {
        conditions.iter().map(|c| format!("{} {} {}", c.kind, c.status, c.reason)).collect()
    }

    fn reach(listeners: &[&str], lacking: Option<&'static str>) -> Reach {
        Reach {
            listeners: listeners.iter().map(ToString::to_string).collect(),
            lacking: lacking.map(|reason| (reason, String::new())),
            ..Reach::default()
        }
    }

    #[test]
    fn a_gateway_is_programmed_when_it_has_an_address_and_every_proxy_serves_what_can_be_served() {
        let status = GatewayStatus {
            listeners: vec![listening("web", true), listening("odd", false)],
            ..GatewayStatus::default()
        };
        let of = |reach: &Reach| brief(&gateway(&status, reach));
        assert_eq!(
            of(&reach(&["web"], None)),
            ["Accepted true ListenersNotValid", "Programmed true Programmed", "ResolvedRefs true ResolvedRefs"]
        );
        assert_eq!(of(&reach(&[], None))[1], "Programmed false Pending");
        assert_eq!(of(&reach(&["web"], Some("AddressNotAssigned")))[1], "Programmed false AddressNotAssigned");
    }

    #[test]
    fn a_gateway_says_that_its_own_reference_holds_and_that_it_lets_anybody_in() {
        let status = GatewayStatus { insecure_frontend: true, ..GatewayStatus::default() };
        let found = brief(&gateway(&status, &reach(&[], None)));
        assert_eq!(
            found[2..],
            ["ResolvedRefs true ResolvedRefs", "InsecureFrontendValidationMode true ConfigurationChanged"]
        );
    }

    #[test]
    fn a_default_gateway_says_that_it_is_one() {
        let of =
            |is_default| brief(&gateway(&GatewayStatus { is_default, ..GatewayStatus::default() }, &reach(&[], None)));
        assert_eq!(of(true)[3..], ["DefaultGateway true DefaultGateway"]);
        assert_eq!(of(false).len(), 3);
    }

    #[test]
    fn a_gateway_that_is_rejected_is_not_programmed() {
        let status = GatewayStatus {
            rejected: Some(("InvalidParameters", "x".into())),
            listeners: vec![listening("web", true)],
            ..GatewayStatus::default()
        };
        let found = gateway(&status, &reach(&["web"], None));
        assert_eq!(
            brief(&found),
            ["Accepted false InvalidParameters", "Programmed false Invalid", "ResolvedRefs true ResolvedRefs"]
        );
    }

    #[test]
    fn a_listener_says_each_thing_that_holds_of_it() {
        let found = listener(&listening("web", true), false, &reach(&[], None));
        assert_eq!(
            brief(&found),
            [
                "Accepted true Accepted",
                "Conflicted false NoConflicts",
                "ResolvedRefs true ResolvedRefs",
                "Programmed false Pending"
            ]
        );
    }

    fn set(rejected: Option<&'static str>, listeners: Vec<ListenerStatus>) -> ListenerSetStatus {
        ListenerSetStatus {
            uid: "u".into(),
            unread: None,
            generation: 1,
            gateway: ObjectRef::new(Kind::Gateway, "shop", "edge"),
            rejected: rejected.map(|reason| (reason, String::new())),
            listeners,
        }
    }

    #[test]
    fn a_listener_set_is_programmed_when_its_gateway_reaches_all_of_it_that_can_be_served() {
        let whole = set(None, vec![listening("web", true)]);
        let of = |status: &ListenerSetStatus, reach: &Reach| brief(&listener_set(status, reach));
        assert_eq!(of(&whole, &reach(&["web"], None)), ["Accepted true Accepted", "Programmed true Programmed"]);
        assert_eq!(of(&whole, &reach(&[], None))[1], "Programmed false Pending");
        let lacking = reach(&["web"], Some("AddressNotAssigned"));
        assert_eq!(of(&whole, &lacking)[1], "Programmed false ParentNotProgrammed");
        let part = set(None, vec![listening("web", true), listening("odd", false)]);
        assert_eq!(of(&part, &reach(&["web"], None))[0], "Accepted true ListenersNotValid");
    }

    #[test]
    fn a_listener_set_that_is_not_accepted_is_not_programmed_for_the_same_reason() {
        let of = |reason| brief(&listener_set(&set(Some(reason), Vec::new()), &reach(&[], None)));
        assert_eq!(of("NotAllowed"), ["Accepted false NotAllowed", "Programmed false NotAllowed"]);
        assert_eq!(of("ListenersNotValid")[1], "Programmed false ListenersNotValid");
        assert_eq!(of("ParentNotAccepted")[1], "Programmed false ParentNotProgrammed");
    }

    #[test]
    fn a_parent_is_named_as_the_route_names_it_and_only_where_it_is_ours() {
        let parent = |name: &str, namespace: Option<&str>| ParentStatus {
            parent: ObjectRef::new(Kind::Gateway, namespace.unwrap_or("shop"), name),
            gateway: Some(NamespacedName::new(namespace.unwrap_or("shop"), name)),
            namespace: namespace.map(str::to_owned),
            section_name: None,
            port: Some(80),
            listeners: vec!["web".into()],
            rejected: None,
            unresolved: None,
            unread: false,
        };
        let status = RouteStatus {
            parents: vec![parent("edge", None), parent("edge", Some("infra")), parent("other", None)],
            ..RouteStatus::default()
        };
        let found = parents(&status, |gateway| gateway.name.as_ref() == "edge");
        let references: Vec<_> = found.iter().map(|parent| parent.reference.clone()).collect();
        assert_eq!(
            references,
            [
                json!({"group": GROUP, "kind": "Gateway", "name": "edge", "port": 80}),
                json!({"group": GROUP, "kind": "Gateway", "name": "edge", "namespace": "infra", "port": 80}),
            ]
        );
    }

    #[test]
    fn a_plugin_is_ready_when_every_proxy_runs_its_code_for_all_uses() {
        let status =
            PluginStatus { generation: 1, unread: None, rejected: None, code: Some(("ab".into(), 7)), remote: false };
        let made = ServedPlugin { sha256: "ab".into(), checked: true, uses: 2, ready: 2, ..ServedPlugin::default() };
        let of = |made: Option<&ServedPlugin>| brief(&plugin(&status, made)).remove(1);
        assert_eq!(of(Some(&made)), "Ready true Ready");
        assert_eq!(of(Some(&ServedPlugin { ready: 1, ..made.clone() })), "Ready false Pending");
        assert_eq!(of(Some(&ServedPlugin { checked: false, ..made.clone() })), "Ready false Pending");
        assert_eq!(of(Some(&ServedPlugin { error: Some("trap".into()), ..made.clone() })), "Ready false Failed");
        assert_eq!(of(None), "Ready false Pending");
        let none = PluginStatus { rejected: Some(("InvalidSource", "no".into())), code: None, ..status.clone() };
        assert_eq!(brief(&plugin(&none, None)), ["Accepted false InvalidSource", "Ready false Invalid"]);
        // What only a proxy can know is left out where none says it.
        let known: Vec<_> = code(&status, None).into_iter().filter(|(_, value)| !value.is_null()).collect();
        assert_eq!(known, [("digest", json!("sha256:ab")), ("size", json!(7))]);
        // Of code that proxies fetch, they say what it is.
        let remote = PluginStatus { code: None, remote: true, ..status };
        assert_eq!(brief(&plugin(&remote, None)).remove(1), "Ready false Pending");
        let unfetched = ServedPlugin { sha256: String::new(), uses: 0, ready: 0, checked: false, ..made.clone() };
        assert_eq!(brief(&plugin(&remote, Some(&unfetched))).remove(1), "Ready false Pending");
        assert!(code(&remote, Some(&unfetched)).iter().all(|(field, value)| *field != "digest" || value.is_null()));
        let fetched = Some(FetchedPlugin { size: 9, image_digest: Some("sha256:cd".into()) });
        let made = ServedPlugin { fetched, ..made };
        assert_eq!(brief(&plugin(&remote, Some(&made))).remove(1), "Ready true Ready");
        let known: Vec<_> = code(&remote, Some(&made)).into_iter().take(3).collect();
        let expected = [("digest", json!("sha256:ab")), ("imageDigest", json!("sha256:cd")), ("size", json!(9))];
        assert_eq!(known, expected);
    }

    #[test]
    fn an_ancestor_is_named_in_full_and_has_references_where_the_policy_has() {
        let ancestor = |section: Option<&str>| Ancestor {
            group: GROUP.into(),
            kind: "Gateway".into(),
            namespace: "shop".into(),
            name: "edge".into(),
            section: section.map(str::to_owned),
        };
        let of = |section, rejected, has_references| AncestorStatus {
            ancestor: ancestor(section),
            rejected,
            has_references,
            unresolved: None,
        };
        let conflict = Some(("Conflicted", "an older one is there".to_owned()));
        let status =
            PolicyStatus { generation: 1, ancestors: vec![of(Some("web"), conflict, false), of(None, None, true)] };
        let entries = ancestors(&status);
        let reference =
            json!({"group": GROUP, "kind": "Gateway", "namespace": "shop", "name": "edge", "sectionName": "web"});
        assert_eq!(entries[0].reference, reference);
        assert_eq!(brief(&entries[0].conditions), ["Accepted false Conflicted"]);
        assert_eq!(brief(&entries[1].conditions), ["Accepted true Accepted", "ResolvedRefs true ResolvedRefs"]);
    }

    #[test]
    fn what_the_standard_channel_lacks_is_claimed_with_the_experimental_one_only() {
        let has =
            |bundle: Option<&Bundle>| features(bundle).as_array().unwrap().contains(&json!({"name": "HTTPRouteRetry"}));
        let of = |channel: &str| Bundle { version: "v1.6.3".into(), channel: channel.into() };
        assert!(has(Some(&of("experimental"))));
        assert!(!has(Some(&of("standard"))) && !has(None));
        assert!(EXPERIMENTAL_FEATURES.iter().all(|name| SUPPORTED_FEATURES.contains(name)));
    }

    #[test]
    fn a_class_says_what_is_wrong_with_it_and_with_the_crds() {
        let of = |rejected: Option<&str>, version: Option<&str>| {
            let status = ClassStatus { generation: 1, rejected: rejected.map(str::to_owned) };
            let bundle = version.map(|version| Bundle { version: version.into(), channel: "standard".into() });
            brief(&class(&status, bundle.as_ref()))
        };
        assert_eq!(of(None, None), ["Accepted true Accepted"]);
        let good = ["Accepted true Accepted", "SupportedVersion true SupportedVersion"];
        assert_eq!(of(None, Some("v1.6.3")), good);
        let bad = ["Accepted false InvalidParameters", "SupportedVersion false UnsupportedVersion"];
        assert_eq!(of(Some("no such GatewayConfig"), Some("v9.0.0")), bad);
    }

    #[test]
    fn features_are_sorted_and_each_stands_once() {
        assert!(SUPPORTED_FEATURES.is_sorted_by(|a, b| a < b));
    }
}
