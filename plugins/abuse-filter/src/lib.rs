//! Refuses requests that match patterns of abuse in path, query or headers.

use kit::pattern::{self, bytes::RegexSet};
use kit::{HeaderName, query};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_plugin::{Decision, OnRequest, Plugin, Reply, Request, attributes, log, metrics};
use std::collections::BTreeMap;

mod presets;

/// The attribute that names the rules which a request matched, with commas between them.
pub const RULES: &str = "abuse-filter.rules";

/// The counter of requests by rule: `sluice_plugin_custom_abuse_filter_matches_total`.
const MATCHES: &str = "abuse_filter_matches";

/// What is looked for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Rules of your own.
    #[serde(default)]
    #[schemars(length(max = 200))]
    pub rules: Vec<Rule>,
    /// Rules that come with the plugin.
    #[serde(default)]
    pub presets: Vec<Preset>,
    /// What becomes of a request that matches.
    #[serde(default)]
    pub action: Action,
    /// Status of the answer.
    #[serde(default = "default_status")]
    #[schemars(range(min = 400, max = 599))]
    pub status: u16,
}

/// A pattern, and where it is looked for.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// For log and metric.
    #[schemars(regex(pattern = "^[A-Za-z0-9._-]{1,64}$"))]
    pub name: String,
    /// A regular expression (the syntax of Rust's `regex`, over bytes), at most 1,000 bytes long. Upper and lower case are
    /// the same; `(?-i)` at its beginning tells them apart.
    #[schemars(length(min = 1, max = 1000))]
    pub pattern: String,
    /// The parts of a request it is looked for in.
    #[serde(default = "default_parts")]
    #[schemars(length(min = 1))]
    pub parts: Vec<Part>,
    /// The headers, where `parts` has `Headers`; empty: every one.
    #[serde(default)]
    pub headers: Vec<HeaderName>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
pub enum Part {
    /// The path, as it is sent, and decoded once and twice.
    Path,
    /// The query, likewise.
    Query,
    /// Values of headers.
    Headers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Preset {
    /// Programs that look for holes, by their `User-Agent`.
    Scanners,
    /// Paths of files that are nobody's business: `/.git/config`, `/.env`, `/etc/passwd`, dumps and backups.
    Probes,
    /// Text that means something to a database, a shell or a browser, in path and query. It finds the blunt ones.
    Injection,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Action {
    /// It is answered.
    #[default]
    Deny,
    /// It goes on, and is counted and named in the access log: to see what a rule would do.
    Log,
}

fn default_status() -> u16 {
    403
}

fn default_parts() -> Vec<Part> {
    vec![Part::Path, Part::Query]
}

/// Patterns that are looked for together.
struct Patterns {
    set: RegexSet,
    /// The rule of each, by its place.
    rules: Vec<usize>,
}

pub struct AbuseFilter {
    names: Vec<String>,
    path: Option<Patterns>,
    query: Option<Patterns>,
    every_header: Option<Patterns>,
    headers: Vec<(HeaderName, Patterns)>,
    action: Action,
    status: u16,
}

impl Plugin for AbuseFilter {
    type Config = Config;

    fn configure(config: Config) -> Result<Self, String> {
        for (index, rule) in config.rules.iter().enumerate() {
            pattern::one(&format!("rules[{index}].pattern"), &rule.pattern, false)?;
            if config.rules.iter().take(index).any(|other| other.name == rule.name) {
                return Err(format!("rules[{index}].name: there are two rules `{}`", rule.name));
            }
            if !rule.headers.is_empty() && !rule.parts.contains(&Part::Headers) {
                return Err(format!("rules[{index}].headers: parts does not have Headers"));
            }
        }
        let mut rules = config.rules;
        rules.extend(config.presets.iter().flat_map(|preset| presets::rules(*preset)));
        if rules.is_empty() {
            return Err("neither rules nor presets are set: nothing would be looked for".to_owned());
        }
        let of = |field: &str, fits: &dyn Fn(&Rule) -> bool| patterns(field, &rules, fits);
        let every = |rule: &Rule| rule.parts.contains(&Part::Headers) && rule.headers.is_empty();
        let mut names: BTreeMap<HeaderName, ()> = BTreeMap::new();
        for name in rules.iter().flat_map(|rule| &rule.headers) {
            names.insert(name.clone(), ());
        }
        let mut headers = Vec::new();
        for name in names.into_keys() {
            if let Some(patterns) = of("rules", &|rule| rule.headers.contains(&name))? {
                headers.push((name, patterns));
            }
        }
        Ok(AbuseFilter {
            path: of("rules", &|rule| rule.parts.contains(&Part::Path))?,
            query: of("rules", &|rule| rule.parts.contains(&Part::Query))?,
            every_header: of("rules", &every)?,
            headers,
            names: rules.into_iter().map(|rule| rule.name).collect(),
            action: config.action,
            status: config.status,
        })
    }
}

/// What searches begin with: the automata learn these once, instead of in each fresh instance.
const SAMPLES: [&str; 3] = [
    "/a/path-of_some/kind.html",
    "name=value&other=1%2F2+3",
    "Mozilla/5.0 (X11; Linux x86_64; rv:1.0) Gecko/1 Firefox/1.0",
];

fn patterns(field: &str, rules: &[Rule], fits: &dyn Fn(&Rule) -> bool) -> Result<Option<Patterns>, String> {
    let chosen: Vec<usize> = rules.iter().enumerate().filter(|(_, rule)| fits(rule)).map(|(index, _)| index).collect();
    let texts: Vec<&str> = chosen.iter().filter_map(|index| Some(rules.get(*index)?.pattern.as_str())).collect();
    if texts.is_empty() {
        return Ok(None);
    }
    let set = pattern::set(field, &texts)?;
    for sample in SAMPLES {
        set.is_match(sample.as_bytes());
    }
    Ok(Some(Patterns { set, rules: chosen }))
}

impl Patterns {
    fn look(&self, subject: &[u8], found: &mut Vec<usize>) {
        // Most requests match nothing, and to see that is cheaper than to see what.
        if !self.set.is_match(subject) {
            return;
        }
        let matched = self.set.matches(subject).into_iter().filter_map(|at| self.rules.get(at).copied());
        for rule in matched {
            if !found.contains(&rule) {
                found.push(rule);
            }
        }
    }

    /// As it is, and behind up to two encodings.
    fn look_decoded(&self, subject: &str, found: &mut Vec<usize>) {
        let mut subject = subject.as_bytes().to_vec();
        for _ in 0..3 {
            self.look(&subject, found);
            let decoded = query::decode(&String::from_utf8_lossy(&subject));
            if decoded == subject {
                return;
            }
            subject = decoded;
        }
    }
}

impl AbuseFilter {
    /// The rules that a request matches, by their numbers.
    fn find(&self, request: &Request<'_>) -> Vec<usize> {
        let mut found = Vec::new();
        if let Some(patterns) = &self.path {
            patterns.look_decoded(&request.path(), &mut found);
        }
        if let Some(patterns) = &self.query
            && let Some(query) = request.query()
        {
            patterns.look_decoded(&query, &mut found);
        }
        for (name, patterns) in &self.headers {
            for value in request.header_values(name) {
                patterns.look(&value, &mut found);
            }
        }
        if let Some(patterns) = &self.every_header {
            for (_, value) in request.headers() {
                patterns.look(&value, &mut found);
            }
        }
        found.sort_unstable();
        found
    }

    fn tell(&self, names: &[&str]) {
        for name in names {
            if let Err(reason) = metrics::add(MATCHES, &[("rule", name)], 1) {
                log::warn(&format!("a match of `{name}` was not counted: {reason}"));
            }
        }
        let mut all = names.join(",");
        all.truncate(4096);
        if let Err(reason) = attributes::set_str(RULES, &all) {
            log::warn(&format!("the access log does not name {all}: {reason}"));
        }
    }
}

impl OnRequest for AbuseFilter {
    fn on_request(&self, request: &mut Request<'_>) -> Decision {
        let found = self.find(request);
        let names: Vec<&str> = found.iter().filter_map(|rule| Some(self.names.get(*rule)?.as_str())).collect();
        if names.is_empty() {
            return Decision::Continue;
        }
        self.tell(&names);
        match self.action {
            Action::Deny => Reply::new(self.status).text("the request was refused\n").into(),
            Action::Log => Decision::Continue,
        }
    }
}

sluice_plugin::export!(AbuseFilter: request);

#[cfg(test)]
mod tests;
