//! How each watch fares, and in what words that is told.

use sluice_model::{Code, Kind, Problem, Severity};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::failure::Failure;
use super::target::Target;

/// Failures in a row before a watch counts as failing. Servers end watches as they please, and restart; the try right
/// after that is no news.
const FAILING: u32 = 2;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchState {
    /// Nothing was read yet.
    Syncing,
    /// What is held is what the API server has.
    Synced,
    /// The API server does not know the kind: there are no objects of it.
    NotInstalled,
    /// The account may not read it. What was read before, if anything, stays.
    Forbidden { message: String },
    /// No answer, or an error. What was read before, if anything, stays.
    Failing { message: String, since: Instant },
}

impl WatchState {
    pub fn name(&self) -> &'static str {
        match self {
            WatchState::Syncing => "syncing",
            WatchState::Synced => "synced",
            WatchState::NotInstalled => "not installed",
            WatchState::Forbidden { .. } => "forbidden",
            WatchState::Failing { .. } => "failing",
        }
    }

    /// What is to be said beyond the name; empty where there is nothing.
    pub fn message(&self) -> &str {
        match self {
            WatchState::Forbidden { message } | WatchState::Failing { message, .. } => message,
            _ => "",
        }
    }

    /// Of several watches of one kind, the worst state is shown.
    fn rank(&self) -> u8 {
        match self {
            WatchState::Synced => 0,
            WatchState::NotInstalled => 1,
            WatchState::Syncing => 2,
            WatchState::Failing { .. } => 3,
            WatchState::Forbidden { .. } => 4,
        }
    }
}

/// All watches of one kind.
#[derive(Clone, Debug)]
pub struct WatchStatus {
    pub kind: Kind,
    pub state: WatchState,
    /// For how long what is held has not been known to be what the API server has; 0 while it is.
    pub stale: Duration,
    /// Objects that are held.
    pub objects: usize,
}

/// One watch.
#[derive(Debug)]
pub(super) struct Health {
    /// Says whose an object is.
    pub(super) id: u32,
    pub(super) state: WatchState,
    /// Its objects are known, or known not to be had.
    pub(super) settled: bool,
    /// It showed what there is at least once.
    pub(super) synced: bool,
    pub(super) objects: usize,
    /// Since when it has been known that its objects are not to be had, where none were ever shown.
    refused_since: Option<Instant>,
    /// `None` while it is good.
    bad_since: Option<Instant>,
    failures: u32,
}

impl Health {
    pub(super) fn new(id: u32) -> Health {
        Health {
            id,
            state: WatchState::Syncing,
            settled: false,
            synced: false,
            objects: 0,
            refused_since: None,
            bad_since: Some(Instant::now()),
            failures: 0,
        }
    }

    /// It is open, and its objects are complete.
    pub(super) fn good(&mut self) -> bool {
        self.settled = true;
        self.synced = true;
        self.bad_since = None;
        self.failures = 0;
        self.enter(WatchState::Synced)
    }

    /// It ended, which is not yet a failure.
    pub(super) fn ended(&mut self) {
        self.bad_since.get_or_insert_with(Instant::now);
    }

    pub(super) fn not_installed(&mut self) -> bool {
        self.refused_since.get_or_insert_with(Instant::now);
        self.settled = true;
        self.bad_since = None;
        self.failures = 0;
        self.enter(WatchState::NotInstalled)
    }

    pub(super) fn failed(&mut self, target: &Target, failure: &Failure) -> bool {
        self.ended();
        self.failures = self.failures.saturating_add(1);
        if let Failure::Forbidden(said) = failure {
            self.refused_since.get_or_insert_with(Instant::now);
            self.settled = true;
            return self.enter(WatchState::Forbidden { message: forbidden(target, said) });
        }
        if self.failures < FAILING {
            return false;
        }
        let since = self.bad_since.unwrap_or_else(Instant::now);
        self.enter(WatchState::Failing { message: failure.to_string(), since })
    }

    /// Since when the API server has not answered, where it never did.
    pub(super) fn failing_since(&self) -> Option<Instant> {
        let failing = !self.settled && matches!(self.state, WatchState::Failing { .. });
        self.bad_since.filter(|_| failing)
    }

    /// Until when a refusal may be that of a server which has just started, and does not know its own mind yet.
    pub(super) fn doubted_until(&self, grace: Duration) -> Option<Instant> {
        self.refused_since.filter(|_| !self.synced).map(|since| since + grace)
    }

    /// What is held is what the API server has, or nothing is to be had.
    pub(super) fn in_sync(&self) -> bool {
        match self.state {
            WatchState::Synced => self.bad_since.is_none(),
            WatchState::NotInstalled | WatchState::Forbidden { .. } => true,
            WatchState::Syncing | WatchState::Failing { .. } => false,
        }
    }

    /// Says whether that is news.
    fn enter(&mut self, state: WatchState) -> bool {
        let news = self.state != state;
        self.state = state;
        news
    }

    fn stale(&self, now: Instant) -> Duration {
        self.bad_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

fn forbidden(target: &Target, said: &str) -> String {
    let group = match target.kind.group() {
        "" => "the core API group".to_owned(),
        group => format!("the API group {group}"),
    };
    let kind = target.kind.plural();
    format!(
        "{target} cannot be read: needs the verbs list and watch on the resource {kind} of {group}; the API server says: {said}"
    )
}

/// One line a kind, in the order of the kinds. A kind without watches has nothing to wait for.
pub(super) fn statuses(watches: &BTreeMap<Target, Health>) -> Vec<WatchStatus> {
    let now = Instant::now();
    let of = |kind: Kind| {
        let mut status = WatchStatus { kind, state: WatchState::Synced, stale: Duration::ZERO, objects: 0 };
        for health in watches.iter().filter(|(target, _)| target.kind == kind).map(|(_, health)| health) {
            status.stale = status.stale.max(health.stale(now));
            status.objects += health.objects;
            if health.state.rank() > status.state.rank() {
                status.state = health.state.clone();
            }
        }
        status
    };
    Kind::ALL.into_iter().map(of).collect()
}

/// What is wrong with the watches. Servers fail as a whole, so that equal failures are one problem.
pub(super) fn problems(watches: &BTreeMap<Target, Health>) -> Vec<Problem> {
    let mut forbidden = BTreeSet::new();
    let mut missing = BTreeSet::new();
    let mut failing = BTreeSet::new();
    for (target, health) in watches {
        match &health.state {
            WatchState::Forbidden { message } => {
                forbidden.insert(message.clone());
            }
            // Nobody who does without the experimental channel needs to be told.
            WatchState::NotInstalled if target.kind.is_experimental() => {}
            WatchState::NotInstalled => {
                missing.insert(target.kind);
            }
            WatchState::Failing { message, .. } => {
                failing.insert(message.clone());
            }
            WatchState::Syncing | WatchState::Synced => {}
        }
    }
    let missing = missing.into_iter().map(|kind| {
        let message = format!("{}.{} is not installed: no {kind} is read", kind.plural(), kind.group());
        problem(Code::KindNotInstalled, Severity::Warning, message)
    });
    let failing = failing.into_iter().map(|message| {
        problem(Code::WatchFailing, Severity::Error, format!("the API server cannot be read from: {message}"))
    });
    let forbidden = forbidden.into_iter().map(|message| problem(Code::WatchForbidden, Severity::Error, message));
    forbidden.chain(missing).chain(failing).collect()
}

pub(super) fn problem(code: Code, severity: Severity, message: String) -> Problem {
    Problem {
        code,
        severity,
        object: None,
        field: String::new(),
        message,
        hint: code.hint().to_owned(),
        location: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watches(healths: Vec<(Target, Health)>) -> BTreeMap<Target, Health> {
        healths.into_iter().collect()
    }

    #[test]
    fn one_failure_is_no_news_and_the_second_is() {
        let target = Target::all(Kind::Service, None);
        let mut health = Health::new(1);
        assert!(health.good());
        let failure = Failure::Transport("Connection refused".into());
        assert!(!health.failed(&target, &failure));
        assert_eq!(health.state, WatchState::Synced);
        assert!(health.stale(Instant::now() + Duration::from_secs(3)) >= Duration::from_secs(3));
        assert!(health.failed(&target, &failure));
        assert!(matches!(health.state, WatchState::Failing { .. }));
        assert!(!health.failed(&target, &failure));
        assert!(health.good());
        assert_eq!(health.stale(Instant::now() + Duration::from_secs(3)), Duration::ZERO);
    }

    #[test]
    fn an_api_server_that_is_away_is_one_problem_for_all_kinds() {
        let mut all = watches(Vec::new());
        for (id, kind) in (1..).zip(Kind::ALL) {
            let target = Target::all(kind, None);
            let mut health = Health::new(id);
            for _ in 0..FAILING {
                health.failed(&target, &Failure::Transport("Connection refused (os error 111)".into()));
            }
            all.insert(target, health);
        }
        let found = problems(&all);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].code, Code::WatchFailing);
        assert!(found[0].message.contains("Connection refused"), "{}", found[0].message);
    }

    #[test]
    fn a_refusal_names_verbs_resource_and_group_and_the_worst_namespace_shows() {
        let (good, bad) =
            (Target::all(Kind::HTTPRoute, Some("a".into())), Target::all(Kind::HTTPRoute, Some("b".into())));
        let (mut first, mut second) = (Health::new(1), Health::new(2));
        first.good();
        second.failed(&bad, &Failure::Forbidden("no".into()));
        assert!(second.settled);
        let all = watches(vec![(good, first), (bad, second)]);
        let status = statuses(&all).into_iter().find(|s| s.kind == Kind::HTTPRoute).unwrap();
        assert_eq!(status.state.name(), "forbidden");
        for part in ["list and watch", "httproutes", "gateway.networking.k8s.io", "namespace b"] {
            assert!(status.state.message().contains(part), "{part}: {}", status.state.message());
        }
        assert_eq!(problems(&all).len(), 1);
    }
}
