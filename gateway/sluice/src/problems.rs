//! All problems of the moment, from every room: what appeared, what was solved, how many of each code. Each is logged
//! once when it appears and once when it is gone, whatever is reloaded in between.

use arc_swap::ArcSwap;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use sluice_model::{Code, ObjectRef, Problem, Severity};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Problems that are logged one by one when many appear at once. All are on the admin page.
const MAX_LOGGED: usize = 50;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: &'static str,
}

#[derive(Clone, Debug)]
pub(crate) struct Problems {
    current: Arc<ArcSwap<Vec<Problem>>>,
    gauge: Family<CodeLabel, Gauge>,
}

/// What makes two problems the same one. Not the line: it moves with every edit above it.
type Identity<'a> = (Code, Severity, Option<&'a ObjectRef>, &'a str, &'a str);

fn identity(problem: &Problem) -> Identity<'_> {
    (problem.code, problem.severity, problem.object.as_ref(), &problem.field, &problem.message)
}

impl Problems {
    /// Registers `config_problems` under the prefix of `registry`.
    pub(crate) fn new(registry: &mut Registry) -> Problems {
        let gauge = Family::<CodeLabel, Gauge>::default();
        registry.register(
            "config_problems",
            "What is wrong with the configuration at the moment, by code",
            gauge.clone(),
        );
        Problems { current: Arc::default(), gauge }
    }

    pub(crate) fn current(&self) -> Arc<Vec<Problem>> {
        self.current.load_full()
    }

    /// Replaces the list, and logs the difference.
    pub(crate) fn set(&self, mut problems: Vec<Problem>) {
        problems.sort_by(|a, b| {
            (a.severity, &a.location, &a.object, &a.field).cmp(&(b.severity, &b.location, &b.object, &b.field))
        });
        let former = self.current.load_full();
        let before: HashSet<Identity<'_>> = former.iter().map(identity).collect();
        let after: HashSet<Identity<'_>> = problems.iter().map(identity).collect();
        let new: Vec<&Problem> = problems.iter().filter(|p| !before.contains(&identity(p))).collect();
        for problem in new.iter().take(MAX_LOGGED) {
            match problem.severity {
                Severity::Error => tracing::error!("{problem}"),
                Severity::Warning => tracing::warn!("{problem}"),
            }
        }
        if new.len() > MAX_LOGGED {
            tracing::error!("and {} more problems; the admin port has them all", new.len() - MAX_LOGGED);
        }
        let solved: Vec<&Problem> = former.iter().filter(|p| !after.contains(&identity(p))).collect();
        for problem in solved.iter().take(MAX_LOGGED) {
            tracing::info!("solved: {problem}");
        }
        let mut counts: HashMap<Code, i64> = former.iter().map(|p| (p.code, 0)).collect();
        for problem in &problems {
            *counts.entry(problem.code).or_default() += 1;
        }
        for (code, count) in counts {
            self.gauge.get_or_create(&CodeLabel { code: code.id() }).set(count);
        }
        self.current.store(Arc::new(problems));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_model::{Kind, Location};
    use std::io;
    use std::sync::Mutex;
    use tracing_subscriber::fmt::MakeWriter;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Sink {
        type Writer = Sink;
        fn make_writer(&self) -> Sink {
            self.clone()
        }
    }

    fn problem(line: u32) -> Problem {
        let object = ObjectRef::new(Kind::Ingress, "shop", "web");
        let mut problem =
            Problem::error(Code::InvalidHostname, &object, "spec.rules[0].host", "`a..b` is not a DNS name");
        problem.location = Some(Location { file: "web.yaml".into(), line });
        problem
    }

    #[test]
    fn a_problem_is_logged_when_it_appears_and_when_it_is_solved_and_not_in_between() {
        let sink = Sink::default();
        let subscriber = tracing_subscriber::fmt().with_writer(sink.clone()).with_ansi(false).finish();
        let mut registry = Registry::default();
        let problems = Problems::new(&mut registry);
        tracing::subscriber::with_default(subscriber, || {
            problems.set(vec![problem(7)]);
            problems.set(vec![problem(8)]);
            problems.set(Vec::new());
            problems.set(Vec::new());
        });
        let log = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines.len(), 2, "{log}");
        assert!(lines[0].contains("ERROR") && lines[0].contains("SLUICE-P101 error web.yaml:7"), "{log}");
        assert!(lines[1].contains("solved: SLUICE-P101"), "{log}");
    }

    #[test]
    fn the_metric_counts_by_code_and_falls_back_to_zero() {
        let mut registry = Registry::default();
        let problems = Problems::new(&mut registry);
        let encode = |registry: &Registry| {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
            text
        };
        problems.set(vec![problem(1), problem(2)]);
        assert!(encode(&registry).contains("config_problems{code=\"SLUICE-P101\"} 2"));
        problems.set(Vec::new());
        assert!(encode(&registry).contains("config_problems{code=\"SLUICE-P101\"} 0"));
    }
}
