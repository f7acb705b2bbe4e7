//! What an exchange was, name by name, and where two of them differ.

use crate::backend::Seen;
use crate::client::Answer;
use http::HeaderMap;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Names and values. A value of many bytes is told by its length and digest.
pub(crate) type Observed = BTreeMap<String, String>;

/// Dates and the numbers of requests alone are not compared.
const LEFT_OUT: [&str; 2] = ["date", "x-request-id"];

pub(crate) fn observed(answer: &Result<Answer, String>, backend: &[Seen], callouts: &[Seen]) -> Observed {
    let mut all = Observed::new();
    match answer {
        Ok(answer) => {
            all.insert("answer: status".to_owned(), answer.status.as_u16().to_string());
            all.insert("answer: body".to_owned(), text(&answer.body));
            all.insert("answer: whole".to_owned(), answer.whole.to_string());
            fields(&mut all, "answer: field", &answer.headers);
            fields(&mut all, "answer: trailer", &answer.trailers);
        }
        Err(error) => {
            all.insert("answer: none".to_owned(), error.clone());
        }
    }
    for (who, seen) in [("backend", backend), ("callout", callouts)] {
        all.insert(format!("{who}: requests"), seen.len().to_string());
        for request in seen {
            all.insert(format!("{who}: method"), request.method.clone());
            all.insert(format!("{who}: target"), request.target.clone());
            all.insert(format!("{who}: body"), text(&request.body));
            fields(&mut all, &format!("{who}: field"), &request.headers);
            fields(&mut all, &format!("{who}: trailer"), &request.trailers);
        }
    }
    all
}

fn fields(all: &mut Observed, what: &str, headers: &HeaderMap) {
    for name in headers.keys().filter(|name| !LEFT_OUT.contains(&name.as_str())) {
        let values: Vec<String> = headers.get_all(name).iter().map(|value| text(value.as_bytes())).collect();
        all.insert(format!("{what} {name}"), values.join(" | "));
    }
}

fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if text.len() <= 400 => text.escape_debug().to_string(),
        _ => format!("{} bytes, {}", bytes.len(), hex::encode(&Sha256::digest(bytes)[..8])),
    }
}

/// One that is known, and why it is right so.
pub(crate) struct Known {
    /// The name of what differs; `*` at its end stands for any rest.
    pub(crate) what: &'static str,
    /// Part of the name of each case that it concerns.
    pub(crate) case: &'static str,
    pub(crate) why: &'static str,
    /// Not in each run: it depends on what arrives when.
    pub(crate) sometimes: bool,
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.what, self.case, self.why)
    }
}

impl Known {
    fn is(&self, what: &str, case: &str) -> bool {
        let named = match self.what.strip_suffix('*') {
            Some(start) => what.starts_with(start),
            None => what == self.what,
        };
        named && case.contains(self.case)
    }
}

/// What differs, by name: the value under Envoy, and under Sluice.
pub(crate) fn differences<'o>(envoy: &'o Observed, sluice: &'o Observed) -> Vec<(&'o str, &'o str, &'o str)> {
    let names: BTreeSet<&String> = envoy.keys().chain(sluice.keys()).collect();
    let value = |all: &'o Observed, name: &str| all.get(name).map_or("(none)", String::as_str);
    let all = names.into_iter().map(|name| (name.as_str(), value(envoy, name), value(sluice, name)));
    all.filter(|(_, one, other)| one != other).collect()
}

/// What of `known` names this difference.
pub(crate) fn known(known: &[Known], what: &str, case: &str) -> Option<usize> {
    known.iter().position(|known| known.is(what, case))
}
