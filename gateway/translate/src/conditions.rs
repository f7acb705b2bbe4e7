//! Conditions as the API names them, as far as objects alone say them: a controller writes them with what only a running
//! cluster knows (`Programmed`, a class's `SupportedVersion`, a Plugin's `Ready`), and `sluice check` prints them.

use crate::status::{
    AncestorStatus, ClassStatus, ConfigStatus, GatewayStatus, ListenerSetStatus, ListenerStatus, ParentStatus,
    PluginStatus, Status,
};
use serde::{Serialize, Serializer};
use sluice_model::ObjectRef;
use std::collections::BTreeSet;

/// A condition as it should be; when it became so its writer knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `True` or `False`: none of ours is `Unknown`.
    #[serde(serialize_with = "capitalised")]
    pub status: bool,
    pub reason: &'static str,
    pub message: String,
}

fn capitalised<S: Serializer>(status: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(if *status { "True" } else { "False" })
}

/// Conditions that are bad where they hold; all others are where they don't.
const NEGATIVE: [&str; 4] =
    ["Conflicted", "InsecureFrontendValidationMode", "OverlappingTLSConfig", "PartiallyInvalid"];

impl Condition {
    pub fn good(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Condition {
        Condition { kind, status: true, reason, message: message.into() }
    }

    pub fn bad(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Condition {
        Condition { kind, status: false, reason, message: message.into() }
    }

    /// Whether somebody should look at it. A `True` of the polarity that is good may have such a reason too: a Gateway is accepted
    /// with `ListenersNotValid`.
    pub fn wants_attention(&self) -> bool {
        let holds = if NEGATIVE.contains(&self.kind) { self.status } else { !self.status };
        holds || self.reason == "ListenersNotValid"
    }

    fn accepted(rejected: Option<&(&'static str, String)>, otherwise: &str) -> Condition {
        Self::or_good("Accepted", rejected, otherwise)
    }

    fn resolved(unresolved: Option<&(&'static str, String)>) -> Condition {
        Self::or_good("ResolvedRefs", unresolved, "all references are resolved")
    }

    /// The API names the good reason as the type.
    fn or_good(kind: &'static str, wrong: Option<&(&'static str, String)>, otherwise: &str) -> Condition {
        match wrong {
            None => Condition::good(kind, kind, otherwise),
            Some((reason, message)) => Condition::bad(kind, reason, message),
        }
    }
}

/// `Accepted` of an object that is as good as those of its listeners that can be served.
fn accepted_with<'l>(
    rejected: Option<&(&'static str, String)>,
    mut left_out: impl Iterator<Item = &'l ListenerStatus>,
) -> Condition {
    match left_out.next() {
        Some(listener) if rejected.is_none() => {
            let more = match left_out.count() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let message = format!("listener `{}`{more} cannot be served; the others are", listener.name);
            Condition::good("Accepted", "ListenersNotValid", message)
        }
        _ => Condition::accepted(rejected, "all listeners can be served"),
    }
}

impl ClassStatus {
    pub fn conditions(&self) -> Vec<Condition> {
        let rejected = self.rejected.clone().map(|message| ("InvalidParameters", message));
        vec![Condition::accepted(rejected.as_ref(), "Sluice serves Gateways of this class")]
    }
}

impl GatewayStatus {
    /// All but `Programmed`. `ResolvedRefs` is the Gateway's own, and where that is good the summary of its listeners'.
    pub fn conditions(&self) -> Vec<Condition> {
        let left_out = self.listeners.iter().filter(|listener| !listener.accepted());
        let of_listeners = || {
            self.listeners.iter().find_map(|listener| {
                let (reason, message) = listener.unresolved.as_ref()?;
                Some(("ListenersNotResolved", format!("listener `{}`: {reason}: {message}", listener.name)))
            })
        };
        let unresolved = self.unresolved.clone().or_else(of_listeners);
        let mut conditions =
            vec![accepted_with(self.rejected.as_ref(), left_out), Condition::resolved(unresolved.as_ref())];
        if self.is_default {
            let message = "it has the default scope All: routes with useDefaultGateways: All attach to it";
            conditions.push(Condition::good("DefaultGateway", "DefaultGateway", message));
        }
        if self.insecure_frontend {
            let message = "clients without a valid certificate are served (AllowInsecureFallback)";
            conditions.push(Condition::good("InsecureFrontendValidationMode", "ConfigurationChanged", message));
        }
        conditions
    }
}

impl ListenerSetStatus {
    /// All but `Programmed`.
    pub fn conditions(&self) -> Vec<Condition> {
        vec![accepted_with(self.rejected.as_ref(), self.listeners.iter().filter(|listener| !listener.serves))]
    }
}

impl ListenerStatus {
    /// All but `Programmed`.
    pub fn conditions(&self) -> Vec<Condition> {
        let in_the_way = "it conflicts with another listener of this port";
        let rejected = self.rejected.clone().or(self.conflicted.map(|reason| (reason, in_the_way.to_owned())));
        let conflicted = match self.conflicted {
            Some(reason) => Condition::good("Conflicted", reason, in_the_way),
            None => Condition::bad("Conflicted", "NoConflicts", "no other listener is in its way"),
        };
        let mut conditions = vec![
            Condition::accepted(rejected.as_ref(), "the listener can be served"),
            conflicted,
            Condition::resolved(self.unresolved.as_ref()),
        ];
        // Of negative polarity, and not there where it does not hold.
        if let Some(message) = &self.overlapping {
            conditions.push(Condition::good("OverlappingTLSConfig", "OverlappingHostnames", &**message));
        }
        conditions
    }
}

impl ParentStatus {
    /// `invalid`: what is wrong with the route beside its parents and references.
    pub fn conditions(&self, invalid: Option<&str>) -> Vec<Condition> {
        let accepted = Condition::accepted(self.rejected.as_deref(), "the route is served here");
        let is_accepted = accepted.status;
        let mut conditions = vec![accepted];
        conditions.extend((!self.unread).then(|| Condition::resolved(self.unresolved.as_deref())));
        if let Some(message) = invalid.filter(|_| is_accepted) {
            conditions.push(Condition::good("PartiallyInvalid", "UnsupportedValue", message));
        }
        conditions
    }
}

impl AncestorStatus {
    pub fn conditions(&self) -> Vec<Condition> {
        let mut conditions = vec![Condition::accepted(self.rejected.as_ref(), "the policy is applied")];
        conditions.extend(self.has_references.then(|| Condition::resolved(self.unresolved.as_ref())));
        conditions
    }
}

impl ConfigStatus {
    pub fn conditions(&self) -> Vec<Condition> {
        let otherwise = match self.used_by.is_empty() {
            true => "it can be used; no class or Gateway of Sluice's names it",
            false => "it is used",
        };
        vec![Condition::accepted(self.rejected.as_ref(), otherwise)]
    }
}

impl PluginStatus {
    /// All but `Ready`, which is for the proxies to say.
    pub fn conditions(&self) -> Vec<Condition> {
        vec![Condition::accepted(self.rejected.as_ref(), "the Plugin can be used")]
    }
}

/// The conditions of one object, or of a part of it that has its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Told {
    pub object: ObjectRef,
    /// `listener web`; the parent of a route, or the ancestor of a policy: `Gateway shop/edge`, with its section or port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    pub conditions: Vec<Condition>,
}

impl Status {
    /// The conditions of everything that has some, in the order of kinds and names.
    pub fn conditions(&self) -> Vec<Told> {
        let mut told = Vec::new();
        let mut tell = |object: &ObjectRef, part: Option<String>, conditions| {
            told.push(Told { object: object.clone(), part, conditions });
        };
        for (object, class) in &self.classes {
            tell(object, None, class.conditions());
        }
        for (object, gateway) in &self.gateways {
            tell(object, None, gateway.conditions());
            for listener in &gateway.listeners {
                tell(object, Some(format!("listener {}", listener.name)), listener.conditions());
            }
        }
        for (object, set) in &self.listener_sets {
            tell(object, None, set.conditions());
            for listener in &set.listeners {
                tell(object, Some(format!("listener {}", listener.name)), listener.conditions());
            }
        }
        for (object, route) in &self.routes {
            // Of a parent that is nobody's no controller tells, and of one that is named twice once.
            let mut named = BTreeSet::new();
            for parent in route.parents.iter().filter(|parent| parent.gateway.is_some()) {
                let part = parent.to_string();
                if named.insert(part.clone()) {
                    tell(object, Some(part), parent.conditions(route.invalid.as_deref()));
                }
            }
        }
        for (object, policy) in &self.policies {
            for ancestor in &policy.ancestors {
                tell(object, Some(ancestor.ancestor.to_string()), ancestor.conditions());
            }
        }
        for (object, plugin) in &self.plugins {
            tell(object, None, plugin.conditions());
        }
        for (object, config) in &self.configs {
            tell(object, None, config.conditions());
        }
        told
    }
}
