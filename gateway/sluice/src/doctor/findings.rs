//! What was found, and how it is printed.

use crate::output::{Tint, counted, plain};
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::io::{self, Write};

/// Findings of one check that people are shown, beside those that are well. JSON has all.
const SHOWN: usize = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Ok,
    /// It works, but not for long, not for everything, or perhaps not as meant.
    Warning,
    /// It does not work.
    Error,
}

/// What was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Check {
    ApiServer,
    Crds,
    Rights,
    Watches,
    Classes,
    Gateways,
    Configuration,
    Plugins,
    Ports,
    Certificates,
    Endpoints,
    Services,
    Pods,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    pub(super) check: Check,
    /// What it is about: an object, a kind, an address.
    pub(super) object: String,
    pub(super) message: String,
    /// What to do, or to type; empty where all is well.
    pub(super) hint: String,
}

/// In the order in which things depend on each other.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) findings: Vec<Finding>,
}

impl Report {
    pub(super) fn ok(&mut self, check: Check, object: impl ToString, message: impl Into<String>) {
        self.add(Level::Ok, check, object, message, "");
    }

    pub(super) fn warning(
        &mut self,
        check: Check,
        object: impl ToString,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.add(Level::Warning, check, object, message, hint);
    }

    pub(super) fn error(
        &mut self,
        check: Check,
        object: impl ToString,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.add(Level::Error, check, object, message, hint);
    }

    pub(super) fn add(
        &mut self,
        level: Level,
        check: Check,
        object: impl ToString,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let (object, message, hint) = (object.to_string(), message.into(), hint.into());
        self.findings.push(Finding { level, check, object, message, hint });
    }

    fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }

    pub(super) fn errors(&self) -> usize {
        self.count(Level::Error)
    }

    /// Whether this check found something that is not well.
    pub(super) fn has_found(&self, check: Check) -> bool {
        self.findings.iter().any(|finding| finding.check == check && finding.level != Level::Ok)
    }

    pub(super) fn print(&self, out: &mut impl Write, colours: bool) -> io::Result<()> {
        let mut shown: BTreeMap<Check, usize> = BTreeMap::new();
        for finding in &self.findings {
            let (word, tint) = match finding.level {
                Level::Ok => ("ok", Tint::Green),
                Level::Warning => ("warning", Tint::Yellow),
                Level::Error => ("error", Tint::Red),
            };
            if finding.level != Level::Ok {
                let count = shown.entry(finding.check).or_default();
                *count += 1;
                if *count > SHOWN {
                    continue;
                }
            }
            let (before, after) = tint.codes(colours);
            let object =
                if finding.object.is_empty() { String::new() } else { format!("{}: ", plain(&finding.object)) };
            writeln!(out, "{before}{word:<7}{after}  {object}{}", plain(&finding.message))?;
            if !finding.hint.is_empty() {
                writeln!(out, "         {}", plain(&finding.hint))?;
            }
        }
        let left: usize = shown.values().map(|count| count.saturating_sub(SHOWN)).sum();
        if left > 0 {
            writeln!(out, "and {left} more like these: -o json has them all")?;
        }
        let (errors, warnings) = (self.errors(), self.count(Level::Warning));
        writeln!(out, "{}, {}", counted(errors, "error"), counted(warnings, "warning"))
    }
}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut report = serializer.serialize_struct("Report", 3)?;
        report.serialize_field("errors", &self.errors())?;
        report.serialize_field("warnings", &self.count(Level::Warning))?;
        report.serialize_field("findings", &self.findings)?;
        report.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_of_a_kind_are_cut_short_for_people_and_counted_all_the_same() {
        let mut report = Report::default();
        for n in 0..SHOWN + 5 {
            report.warning(Check::Endpoints, format!("Service shop/{n}"), "no endpoint", "make some");
        }
        report.error(Check::Ports, "0.0.0.0:80", "it is taken\x1b[2J", "");
        let mut out = Vec::new();
        report.print(&mut out, false).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.matches("no endpoint").count(), SHOWN, "{text}");
        assert!(text.contains("and 5 more") && text.ends_with("1 error, 25 warnings\n"), "{text}");
        assert!(text.contains("error    0.0.0.0:80: it is taken [2J\n"), "{text}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["errors"], json["findings"].as_array().unwrap().len()), (&1.into(), SHOWN + 6));
    }
}
