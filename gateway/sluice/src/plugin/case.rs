//! Cases: a request, what the backend answers, and what is expected. Files of YAML in a project's `tests` folder, one
//! document a case.

use anyhow::{Context, Result, anyhow, bail, ensure};
use indexmap::IndexMap;
use regex::Regex;
use serde::Deserialize;
use serde_json::Value;
use sluice_sources::yaml;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Bytes of a file of cases.
const MAX_FILE: u64 = 16 << 20;

/// A case, and where it stands.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) case: Case,
    pub(crate) file: PathBuf,
    /// Of the document's first field.
    pub(crate) line: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// Of the plugin; none is an empty one.
    #[serde(default)]
    pub(crate) config: Option<Value>,
    #[serde(default)]
    pub(crate) request: Request,
    /// What the backend answers: 200 without headers and body where nothing is said.
    #[serde(default)]
    pub(crate) response: Response,
    pub(crate) expect: Expect,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) scheme: String,
    pub(crate) authority: String,
    /// With its query.
    pub(crate) path: String,
    pub(crate) headers: IndexMap<String, Values>,
    /// A list: the pieces in which it comes.
    pub(crate) body: Values,
    /// What the gateway knows besides: `client.address`, `route.name`, ...
    pub(crate) properties: BTreeMap<String, String>,
    /// Set by plugins that ran before.
    pub(crate) attributes: BTreeMap<String, Attribute>,
}

impl Default for Request {
    fn default() -> Request {
        Request {
            method: "GET".to_owned(),
            scheme: "https".to_owned(),
            authority: "example.com".to_owned(),
            path: "/".to_owned(),
            headers: IndexMap::new(),
            body: Values::default(),
            properties: BTreeMap::new(),
            attributes: BTreeMap::new(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: IndexMap<String, Values>,
    pub(crate) body: Values,
    pub(crate) trailers: IndexMap<String, Values>,
}

impl Default for Response {
    fn default() -> Response {
        Response { status: 200, headers: IndexMap::new(), body: Values::default(), trailers: IndexMap::new() }
    }
}

/// One value of a header or piece of a body, or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Values {
    One(String),
    Several(Vec<String>),
}

impl Default for Values {
    fn default() -> Values {
        Values::One(String::new())
    }
}

impl Values {
    pub(crate) fn all(&self) -> &[String] {
        match self {
            Values::One(value) => std::slice::from_ref(value),
            Values::Several(values) => values,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Attribute {
    Boolean(bool),
    Integer(i64),
    String(String),
}

/// What is to come of it. What is not said may be anything.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Expect {
    pub(crate) decision: Option<Decision>,
    /// Status, headers and body of the answer that the client gets.
    pub(crate) status: Option<u16>,
    pub(crate) headers: IndexMap<String, Option<Wanted>>,
    pub(crate) body: Option<Wanted>,
    pub(crate) trailers: IndexMap<String, Option<Wanted>>,
    /// The request as the backend gets it.
    pub(crate) request: Option<Forwarded>,
    /// Attributes at the end.
    pub(crate) attributes: BTreeMap<String, Option<Attribute>>,
    /// Texts that are in one line of the plugin's log each; none of them: it logs nothing.
    pub(crate) log: Option<Vec<String>>,
    /// The configuration is refused, for a reason with this text in it.
    pub(crate) refused: Option<String>,
    /// A phase fails (a panic, a limit), for a reason with this text in it.
    pub(crate) failure: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Decision {
    /// The request goes to the backend.
    Continue,
    /// The plugin answers.
    Respond,
    /// It cuts the exchange short.
    Abort,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Forwarded {
    /// With its query.
    pub(crate) path: Option<Wanted>,
    pub(crate) headers: IndexMap<String, Option<Wanted>>,
    pub(crate) body: Option<Wanted>,
}

/// A text as it is to be, or what it is to match. Of a header that is there several times: the values, in order.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Wanted {
    Text(String),
    Several(Vec<String>),
    Matching(Matching),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Matching {
    #[serde(deserialize_with = "regex")]
    pub(crate) matches: Regex,
}

fn regex<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Regex, D::Error> {
    let text = String::deserialize(deserializer)?;
    Regex::new(&text).map_err(serde::de::Error::custom)
}

/// All cases of a folder's YAML files, in the order of their names.
pub(crate) fn read_all(folder: &Path) -> Result<Vec<Placed>> {
    let listed = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut files: Vec<PathBuf> = listed.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml" || extension == "yml"));
    files.sort();
    let mut cases = Vec::new();
    for file in files {
        read(&file, &mut cases)?;
    }
    Ok(cases)
}

fn read(file: &Path, cases: &mut Vec<Placed>) -> Result<()> {
    let name = file.display();
    let size = std::fs::metadata(file).with_context(|| name.to_string())?.len();
    ensure!(size <= MAX_FILE, "{name}: it is larger than {} MiB", MAX_FILE >> 20);
    let text = std::fs::read_to_string(file).with_context(|| name.to_string())?;
    let documents = yaml::load(&text).map_err(|error| anyhow!("{name}:{}: {error}", error.line))?;
    for document in documents {
        if document.data == yaml::Data::Null {
            continue;
        }
        let case: Case = serde_path_to_error::deserialize(document.to_json()).map_err(|error| {
            let path = error.path().to_string();
            let line = document.line_of(&path);
            match path.as_str() {
                "." => anyhow!("{name}:{line}: {}", error.inner()),
                _ => anyhow!("{name}:{line}: {path}: {}", error.inner()),
            }
        })?;
        case.expect.check().with_context(|| format!("{name}:{}: expect", document.line_of("expect")))?;
        cases.push(Placed { case, file: file.to_owned(), line: document.line });
    }
    Ok(())
}

impl Expect {
    /// A case that can't fail says nothing.
    fn check(&self) -> Result<()> {
        let Expect { decision, status, headers, body, trailers, request, attributes, log, refused, failure } = self;
        let exchange = decision.is_some()
            || status.is_some()
            || !headers.is_empty()
            || !trailers.is_empty()
            || body.is_some()
            || request.is_some()
            || !attributes.is_empty();
        if refused.is_some() && (exchange || log.is_some() || failure.is_some()) {
            bail!("`refused` stands alone: with a configuration that is refused there is no exchange");
        }
        if failure.is_some() && exchange {
            bail!("`failure` stands beside `log` only: what becomes of the request is the fail mode's affair");
        }
        if *decision == Some(Decision::Respond) && request.is_some() {
            bail!("where the plugin answers, no request reaches the backend: leave `request` out");
        }
        ensure!(exchange || log.is_some() || refused.is_some() || failure.is_some(), "nothing is expected");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cases(text: &str) -> Result<Vec<Placed>> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.yaml"), text).unwrap();
        read_all(folder.path())
    }

    fn error(text: &str) -> String {
        let error = format!("{:#}", cases(text).unwrap_err());
        error.rsplit_once('/').unwrap().1.to_owned()
    }

    #[test]
    fn each_document_is_a_case_with_its_line() {
        let cases = cases("name: a\nexpect: {status: 200}\n---\n# the second\nname: b\nexpect: {headers: {x: null}}\n")
            .unwrap();
        let names: Vec<_> = cases.iter().map(|placed| (placed.case.name.as_str(), placed.line)).collect();
        assert_eq!(names, [("a", 1), ("b", 5)]);
        assert_eq!(cases[0].case.request.method, "GET");
    }

    #[test]
    fn a_field_that_does_not_fit_is_named_with_its_line() {
        assert_eq!(
            error("name: a\nexpect:\n  stats: 200\n"),
            "a.yaml:3: expect.stats: unknown field `stats`, expected one of `decision`, `status`, `headers`, `body`, \
             `trailers`, `request`, `attributes`, `log`, `refused`, `failure`"
        );
        assert!(error("name: a\nexpect:\n  body: {matches: '('}\n").starts_with("a.yaml:3: expect.body"));
        assert!(error("name: a\nrequest: {}\n").contains("missing field `expect`"));
    }

    #[test]
    fn a_case_that_can_not_fail_is_refused() {
        assert_eq!(error("name: a\nexpect: {}\n"), "a.yaml:2: expect: nothing is expected");
        assert!(error("name: a\nexpect: {decision: respond, request: {path: /}}\n").contains("leave `request` out"));
        assert!(error("name: a\nexpect: {refused: x, status: 200}\n").contains("stands alone"));
        assert!(error("name: a\nexpect: {failure: x, status: 200}\n").contains("fail mode"));
    }
}
