//! What accounts may do: one question to the API server for each right that the program uses, asked for the account at
//! work (SelfSubjectAccessReview) or for another (SubjectAccessReview).

use super::findings::{Check, Level, Report};
use crate::cluster::Role;
use crate::output::counted;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use sluice_controller::{Api, Failure, collection};
use sluice_model::object::NamespacedName;
use sluice_model::right::Resource;
use sluice_model::{Kind, Right};
use sluice_sources::kubernetes::Scope;

/// Questions at a time.
const AT_ONCE: usize = 8;

const GROUP: &str = "authorization.k8s.io/v1";

/// Who is to be allowed what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Subject {
    pub(super) role: Role,
    /// `None`: whoever asks.
    pub(super) account: Option<NamespacedName>,
    /// That it serves; none: all.
    pub(super) namespaces: Vec<String>,
}

impl Subject {
    /// `system`: Sluice's own namespace.
    fn needs(&self, system: &str) -> Vec<Right> {
        let scope =
            Scope { namespaces: self.namespaces.clone(), services_of: vec![system.to_owned()], ..Scope::default() };
        let mut rights = scope.rights();
        if self.role.writes() {
            rights.extend(sluice_controller::rights(&self.namespaces, system));
        }
        rights
    }
}

/// Each with whether it is granted.
pub(super) struct Answers(Result<Vec<(Right, bool)>, Failure>);

pub(super) async fn ask(api: &Api, subject: &Subject, system: &str) -> Answers {
    let questions = subject.needs(system).into_iter().map(|right| async move {
        let allowed = review(api, &right, subject.account.as_ref()).await?;
        Ok((right, allowed))
    });
    Answers(stream::iter(questions).buffered(AT_ONCE).try_collect().await)
}

async fn review(api: &Api, right: &Right, account: Option<&NamespacedName>) -> Result<bool, Failure> {
    let (resource, subresource) = right.resource.split_once('/').unwrap_or((right.resource, ""));
    let mut spec = json!({"resourceAttributes": {
        "namespace": right.namespace.as_deref().unwrap_or_default(), "verb": right.verb, "group": right.group,
        "resource": resource, "subresource": subresource, "name": right.name.unwrap_or_default(),
    }});
    let (kind, plural) = match account {
        None => ("SelfSubjectAccessReview", "selfsubjectaccessreviews"),
        Some(NamespacedName { namespace, name }) => {
            spec["user"] = format!("system:serviceaccount:{namespace}:{name}").into();
            let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
            spec["groups"] = json!([groups[0], groups[1], "system:authenticated"]);
            ("SubjectAccessReview", "subjectaccessreviews")
        }
    };
    let question = json!({"apiVersion": GROUP, "kind": kind, "spec": spec});
    let answer = api.create(&collection(GROUP, "", plural), &question).await?;
    Ok(answer.pointer("/status/allowed").and_then(Value::as_bool).unwrap_or(false))
}

/// Verbs of one resource that are missing together.
struct Missing<'r> {
    right: &'r Right,
    verbs: Vec<&'static str>,
}

/// `with_services`: Gateways have Services of their own here.
pub(super) fn report(report: &mut Report, subject: &Subject, answers: &Answers, with_services: bool) {
    let whose = match &subject.account {
        Some(account) => format!("ServiceAccount {account}"),
        None => "the account in use".to_owned(),
    };
    let answers = match &answers.0 {
        Ok(answers) => answers,
        Err(failure) => {
            let hint = match subject.account {
                Some(_) => {
                    "asking for another account takes the verb create on subjectaccessreviews: ask as an administrator, or with --role for the account in use"
                }
                None => {
                    "every account may ask for its own rights: see whether the API server has a role binding of system:basic-user"
                }
            };
            return report.error(Check::Rights, whose, format!("its rights cannot be asked for: {failure}"), hint);
        }
    };
    let mut missing: Vec<Missing<'_>> = Vec::new();
    for right in answers.iter().filter(|(_, allowed)| !allowed).map(|(right, _)| right) {
        match missing.last_mut() {
            Some(last) if Right { verb: last.right.verb, ..right.clone() } == *last.right => {
                last.verbs.push(right.verb);
            }
            _ => missing.push(Missing { right, verbs: vec![right.verb] }),
        }
    }
    if missing.is_empty() {
        let message = format!("has all {} of the role {}", counted(answers.len(), "right"), subject.role.name());
        return report.ok(Check::Rights, whose, message);
    }
    for Missing { right, verbs } in missing {
        let resource = Resource { group: right.group, resource: right.resource };
        let place = match &right.namespace {
            Some(namespace) => format!(" in namespace {namespace}"),
            None if namespaced(right) => " in all namespaces".to_owned(),
            None => String::new(),
        };
        let name = right.name.map(|name| format!(" `{name}`")).unwrap_or_default();
        let mut message = format!("{whose} may not {} {resource}{name}{place}", verbs.join(", "));
        let level = if right.only_for.is_empty() || (with_services && is_for_services(right)) {
            Level::Error
        } else {
            message.push_str(&format!("; that is for {}", right.only_for));
            Level::Warning
        };
        let kind = if right.namespace.is_some() { "Role" } else { "ClusterRole" };
        let hint = format!("add to its {kind} (the chart does): {}", rule(right, &verbs));
        report.add(level, Check::Rights, named(right), message, hint);
    }
}

/// The kind where it is one that is read, else the resource.
fn named(right: &Right) -> String {
    let (plural, subresource) = right.resource.split_once('/').unwrap_or((right.resource, ""));
    let kind = Kind::ALL.into_iter().find(|kind| kind.group() == right.group && kind.plural() == plural);
    let name = kind.map_or_else(|| plural.to_owned(), |kind| kind.name().to_owned());
    if subresource.is_empty() { name } else { format!("{name} {subresource}") }
}

fn namespaced(right: &Right) -> bool {
    let plural = right.resource.split('/').next().unwrap_or_default();
    let kind = Kind::ALL.into_iter().find(|kind| kind.group() == right.group && kind.plural() == plural);
    kind.map_or(!matches!(plural, "nodes" | "customresourcedefinitions"), Kind::namespaced)
}

fn is_for_services(right: &Right) -> bool {
    right.only_for == sluice_controller::GATEWAY_SERVICES
}

/// A rule of RBAC, as YAML takes it.
fn rule(right: &Right, verbs: &[&str]) -> String {
    let name = right.name.map(|name| format!(", resourceNames: [{name}]")).unwrap_or_default();
    format!(
        "{{apiGroups: [\"{}\"], resources: [{}]{name}, verbs: [{}]}}",
        right.group,
        right.resource,
        verbs.join(", ")
    )
}
