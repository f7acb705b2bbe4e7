//! A translator that eats YAML, and short texts of what came out.

use crate::{Options, Output, Translator};
use sluice_model::config::{Action, BackendTarget, PathMatch, RouteMatch, Rule, ValueMatch, VirtualHost};
use sluice_model::{Config, HostPattern, Kind, ObjectRef, Problem};
use sluice_resources::{Change, Object};
use std::fmt::Write;
use std::sync::Arc;

pub(super) struct Harness {
    pub(super) translator: Translator,
    pub(super) output: Output,
}

/// Reads documents; what can't be read fails the test.
pub(super) fn objects(yaml: &str) -> Vec<Object> {
    let documents = sluice_sources::yaml::load(yaml).expect("the test's YAML is well-formed");
    documents
        .into_iter()
        .flat_map(|node| sluice_resources::expand_list(node.to_json()))
        .map(|document| {
            let parsed = sluice_resources::parse(document);
            assert_eq!(parsed.problems, [], "the test's objects can be read");
            parsed.object.expect("an object without problems is there")
        })
        .collect()
}

pub(super) fn upserts(yaml: &str) -> Vec<Change> {
    objects(yaml).into_iter().map(Change::Upsert).collect()
}

/// What a source makes of documents that may not fit their kinds.
pub(super) fn changes_of(yaml: &str) -> Vec<Change> {
    let documents = sluice_sources::yaml::load(yaml).expect("the test's YAML is well-formed");
    let changes = documents.into_iter().map(|node| {
        let parsed = sluice_resources::parse(node.to_json());
        let unreadable = parsed.unreadable.map(Change::Unreadable);
        parsed.object.map(Change::Upsert).or(unreadable).expect("it says which object it is")
    });
    changes.collect()
}

impl Harness {
    pub(super) fn new(yaml: &str) -> Self {
        Harness::with(Options::default(), yaml)
    }

    pub(super) fn with(options: Options, yaml: &str) -> Self {
        let mut translator = Translator::new(options);
        let output = translator.apply(upserts(yaml));
        Harness { translator, output }
    }

    pub(super) fn apply(&mut self, yaml: &str) -> &Output {
        self.changes(upserts(yaml))
    }

    pub(super) fn delete(&mut self, kind: Kind, namespace: &str, name: &str) -> &Output {
        self.changes(vec![Change::Delete(ObjectRef::new(kind, namespace, name))])
    }

    pub(super) fn changes(&mut self, changes: Vec<Change>) -> &Output {
        self.output = self.translator.apply(changes);
        &self.output
    }

    pub(super) fn config(&self) -> &Arc<Config> {
        &self.output.config
    }

    /// The host of a listener, as `gateway-namespace/gateway/listener host`.
    pub(super) fn virtual_host(&self, place: &str) -> Option<&Arc<VirtualHost>> {
        let (listener, host) = place.split_once(' ').expect("`listener host`");
        let hosts = self.config().virtual_hosts.iter().find(|(id, _)| id.to_string() == listener);
        hosts?.1.iter().find(|(pattern, _)| pattern.to_string() == host).map(|(_, found)| found)
    }

    /// What a host does, a line a match, in order of precedence.
    pub(super) fn routes(&self, place: &str) -> Vec<String> {
        let Some(host) = self.virtual_host(place) else { return Vec::new() };
        host.matches.iter().map(|found| line(found, &host.rules[found.rule as usize])).collect()
    }

    /// The rule that the first match of a host leads to.
    pub(super) fn rule(&self, place: &str) -> &Rule {
        let host = self.virtual_host(place).expect("the host is there");
        &host.rules[host.matches[0].rule as usize]
    }

    /// `listener host` of everything that is served.
    pub(super) fn places(&self) -> Vec<String> {
        let hosts = self.config().virtual_hosts.iter();
        hosts.flat_map(|(id, hosts)| hosts.keys().map(move |host| format!("{id} {host}"))).collect()
    }

    /// `CODE object field` of each problem, without the prefix that all codes share.
    pub(super) fn problems(&self) -> Vec<String> {
        self.output.problems.iter().map(short).collect()
    }

    pub(super) fn status(&self, route: &str) -> Vec<String> {
        let status = self.translator.status();
        let (_, found) = status.routes.iter().find(|(r, _)| r.to_string() == route).expect("the route has a status");
        let reason = |part: Option<&crate::Why>| part.map_or("ok", |(reason, _)| reason);
        found
            .parents
            .iter()
            .map(|p| {
                format!("{}: {} {}", p.parent.key(), reason(p.rejected.as_deref()), reason(p.unresolved.as_deref()))
            })
            .collect()
    }
}

fn short(problem: &Problem) -> String {
    let object = problem.object.as_ref().map(ToString::to_string).unwrap_or_default();
    let id = problem.code.id().trim_start_matches("SLUICE-");
    format!("{id} {object} {}", problem.field).trim_end().to_owned()
}

fn line(found: &RouteMatch, rule: &Rule) -> String {
    let mut text = String::new();
    let value = |value: &ValueMatch| match value {
        ValueMatch::Exact(text) => format!("={text}"),
        ValueMatch::Regex(pattern) => format!("~{}", pattern.source),
    };
    if let Some(method) = &found.grpc_method {
        write!(text, "rpc{} ", value(method)).unwrap();
    }
    if let Some(method) = &found.method {
        write!(text, "{method} ").unwrap();
    }
    match &found.path {
        PathMatch::Exact(path) => write!(text, "={path}").unwrap(),
        PathMatch::Prefix(path) => write!(text, "{path}/*").unwrap(),
        PathMatch::Regex(pattern) => write!(text, "~{}", pattern.source).unwrap(),
    }
    for header in &found.headers {
        write!(text, " {}{}", header.name, value(&header.value)).unwrap();
    }
    for query in &found.query {
        write!(text, " ?{}{}", query.name, value(&query.value)).unwrap();
    }
    format!("{text} -> {}", action(rule))
}

pub(super) fn action(rule: &Rule) -> String {
    match &rule.action {
        Action::Redirect(redirect) => format!("redirect {}", redirect.status.as_u16()),
        Action::Reply { status, reason } => format!("{} {reason}", status.as_u16()),
        Action::Forward(backends) => {
            let one = backends.len() == 1;
            let each = backends.iter().map(|backend| {
                let target = match &backend.target {
                    BackendTarget::Backend(key) => key.to_string(),
                    BackendTarget::Invalid { status, reason } => format!("{} {reason}", status.as_u16()),
                };
                if one { target } else { format!("{} of {target}", backend.weight) }
            });
            each.collect::<Vec<_>>().join(", ")
        }
    }
}

pub(super) fn pattern(text: &str) -> HostPattern {
    HostPattern::parse_gateway(Some(text)).unwrap()
}

/// Services of one port, with an endpoint each.
pub(super) fn services(namespace: &str, names: &[&str]) -> String {
    let mut yaml = String::new();
    for (i, name) in names.iter().enumerate() {
        write!(
            yaml,
            r"
---
{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{ports: [{{port: 8080, targetPort: 3000}}]}}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{port: 3000}}]
endpoints: [{{addresses: [10.0.0.{i}]}}]
"
        )
        .unwrap();
    }
    yaml
}

/// A Gateway of the built-in class with these listeners.
pub(super) fn gateway(namespace: &str, name: &str, listeners: &str) -> String {
    format!(
        r"
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{gatewayClassName: sluice, listeners: {listeners}}}
"
    )
}

/// An HTTPRoute of Gateway `gw`.
pub(super) fn route(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        r"
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: {namespace}}}
spec:
{spec}
"
    )
}

/// A self-signed certificate for some names, as a Secret.
pub(super) fn secret(namespace: &str, name: &str, hosts: &[&str]) -> String {
    let names: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    secret_of(namespace, name, &made.cert.pem(), &made.signing_key.serialize_pem())
}

/// A self-signed certificate as the CA bundle of a ConfigMap.
pub(super) fn ca_map(namespace: &str, name: &str) -> String {
    let made = rcgen::generate_simple_self_signed(["ca.example".to_owned()]).unwrap();
    let pem: String = made.cert.pem().lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: {namespace}}}\ndata:\n  ca.crt: |\n{pem}"
    )
}

pub(super) fn secret_of(namespace: &str, name: &str, chain: &str, key: &str) -> String {
    let indent = |pem: &str| pem.lines().map(|line| format!("    {line}\n")).collect::<String>();
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
        indent(chain),
        indent(key)
    )
}
