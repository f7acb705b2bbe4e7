//! Why a request is answered as it is: which listener, host, rule, backends, endpoints and plugins, in order, and why the
//! nearest other rules were not taken.
//!
//! A pure function over a [`Config`], behind `sluice explain` and the admin port. It asks the matcher that serves requests,
//! not a copy of its rules. It knows what was configured, not what goes on: health checks, ejections and circuit
//! breakers are the running gateway's.

mod action;
mod describe;
mod listener;
mod nearest;
mod question;
mod render;
#[cfg(test)]
mod tests;

pub use action::{ActionStep, BackendStep, EndpointStep, PluginStep};
pub use listener::{ListenerStep, OtherListener};
pub use nearest::{Nearest, WhyNot};
pub use question::{Question, QuestionError};

use crate::config::{Config, EscapedSlashes, FieldFate, Listener, PathPolicy, RouteMatch, RuleId, VirtualHost};
use crate::matcher::{HostMatcher, MatchIndex, RequestParts};
use crate::path::{self, Normalized};
use crate::print::display;
use crate::{HostPattern, Reason};
use serde::Serialize;

/// The way of one request through a configuration. Steps that it does not reach are absent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    pub request: Question,
    pub listener: ListenerStep,
    /// The path in normal form.
    pub path: Option<String>,
    /// Names of fields that are taken out at the entrance, before any match.
    pub dropped: Vec<String>,
    /// The listener's virtual hosts that mean the request's host, in the order they are tried.
    pub hosts: Vec<HostStep>,
    pub rule: Option<RuleStep>,
    /// Other rules, the nearest first.
    pub nearest: Vec<Nearest>,
    pub verdict: Verdict,
}

/// One virtual host that was tried.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HostStep {
    pub hostname: HostPattern,
    /// How many matches it has.
    pub matches: usize,
    /// Whether one of them was taken.
    pub matched: bool,
}

/// The rule that was taken.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RuleStep {
    #[serde(serialize_with = "display")]
    pub id: RuleId,
    /// What the request fulfilled: `prefix /web, method GET`.
    pub matched: String,
    /// Native filters in words, in running order.
    pub filters: Vec<String>,
    /// In running order.
    pub plugins: Vec<PluginStep>,
    /// Timeouts and limits of the client, in words.
    pub limits: Vec<String>,
    pub action: ActionStep,
}

/// How it ends.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// The gateway's own answer; `None` where a backend answers, or none is sent.
    pub status: Option<u16>,
    /// The reason in log and metrics; `None` where no request comes about.
    pub reason: Option<Reason>,
    pub text: String,
}

impl Verdict {
    fn reply(reason: Reason, text: impl Into<String>) -> Self {
        let status = Some(reason.status()).filter(|status| *status != 0);
        Verdict { status, reason: Some(reason), text: text.into() }
    }
}

/// Follows `question` through `config`.
pub fn explain(config: &Config, question: &Question) -> Explanation {
    let choice = listener::choose(config, question);
    let mut explanation = Explanation {
        request: question.clone(),
        listener: choice.step,
        path: None,
        dropped: Vec::new(),
        hosts: Vec::new(),
        rule: None,
        nearest: Vec::new(),
        verdict: Verdict::reply(Reason::RouteNotFound, ""),
    };
    match choice.listener {
        Ok(listener) => follow(config, question, listener, &mut explanation),
        Err(verdict) => explanation.verdict = verdict,
    }
    explanation
}

fn follow(config: &Config, question: &Question, listener: &Listener, explanation: &mut Explanation) {
    let path = match normal_path(question, listener) {
        Ok(path) => path,
        Err(verdict) => return explanation.verdict = verdict,
    };
    explanation.path = Some(path.to_string());
    let mut headers = question.headers.clone();
    for name in question.headers.keys() {
        match listener.edge.underscores.fate_of(name.as_str()) {
            FieldFate::Kept => {}
            FieldFate::Dropped => {
                headers.remove(name);
                explanation.dropped.push(name.to_string());
            }
            FieldFate::Refused => {
                let text = format!("this listener rejects names with an underscore, as `{name}`");
                return explanation.verdict = Verdict::reply(Reason::UnderscoreInHeader, text);
            }
        }
    }
    let request = RequestParts { path: &path, method: &question.method, headers: &headers, query: &question.query };
    let no_hosts = Default::default();
    let hosts = config.virtual_hosts.get(&listener.id).unwrap_or(&no_hosts);
    let mut taken: Option<(&VirtualHost, MatchIndex)> = None;
    for (hostname, host) in hosts.iter().filter(|(hostname, _)| hostname.matches(&question.host)) {
        let found = HostMatcher::new(host).find(&request);
        explanation.hosts.push(HostStep {
            hostname: hostname.clone(),
            matches: host.matches.len(),
            matched: found.is_some(),
        });
        taken = found.map(|index| (&**host, index));
        if taken.is_some() {
            break;
        }
    }
    let all: Vec<&VirtualHost> = hosts.values().map(|host| &**host).collect();
    explanation.nearest = nearest::nearest(&all, &question.host, &request, taken);
    match taken.and_then(|(host, index)| part_of(host, index)) {
        Some((route, rule)) => {
            let action = action::step(config, rule);
            explanation.verdict = verdict(&path, listener, rule, &action);
            explanation.rule = Some(RuleStep {
                id: rule.id.clone(),
                matched: describe::route(route),
                filters: describe::filters(&rule.filters),
                plugins: rule.plugins.iter().map(PluginStep::new).collect(),
                limits: describe::limits(rule),
                action,
            });
        }
        None if explanation.hosts.is_empty() => {
            explanation.verdict = Verdict::reply(
                Reason::RouteNotFound,
                format!("no route of this listener is for the host `{}`", question.host),
            );
        }
        None => {
            explanation.verdict =
                Verdict::reply(Reason::RouteNotFound, "routes are for this host, but none of their rules matches");
        }
    }
}

fn part_of(host: &VirtualHost, index: MatchIndex) -> Option<(&RouteMatch, &crate::config::Rule)> {
    let route = host.matches.get(index as usize)?;
    Some((route, host.rules.get(route.rule as usize)?))
}

fn normal_path<'q>(question: &'q Question, listener: &Listener) -> Result<Normalized<'q>, Verdict> {
    path::check_query(question.query.as_bytes())
        .map_err(|e| Verdict::reply(e.reason(), e.to_string().replacen("path", "query", 1)))?;
    path::normalize(question.path.as_bytes(), listener.edge.path)
        .map_err(|error| Verdict::reply(error.reason(), error.to_string()))
}

fn verdict(path: &str, listener: &Listener, rule: &crate::config::Rule, action: &ActionStep) -> Verdict {
    // A rule's policy can only tighten, on the form that the listener's policy made.
    let tightened = rule.client.escaped_slashes.filter(|slashes| *slashes != EscapedSlashes::Keep);
    let policy = tightened.map(|escaped_slashes| PathPolicy { escaped_slashes, ..listener.edge.path });
    match policy.map(|policy| path::normalize(path.as_bytes(), policy)) {
        Some(Err(error)) => Verdict::reply(error.reason(), format!("by the rule's policy: {error}")),
        _ => action.verdict(),
    }
}
