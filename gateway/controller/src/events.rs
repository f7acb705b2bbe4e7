//! Tells of problems as Events of the objects that have them, where `kubectl describe` shows them: of the kinds whose
//! status does not say it, or says only the first.

use crate::api::{Failure, collection};
use crate::controller::Controller;
use crate::time::seconds;
use jiff::Timestamp;
use serde_json::{Value, json};
use sluice_model::problem::{Problem, Severity};
use sluice_model::{Kind, ObjectRef};
use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

pub(crate) const KINDS: &[Kind] = &[
    Kind::Ingress,
    Kind::BackendTLSPolicy,
    Kind::XBackendTrafficPolicy,
    Kind::Plugin,
    Kind::TrafficPolicy,
    Kind::GatewayConfig,
];

/// A problem that is gone sooner is told nobody: objects that belong together come one after another.
const SETTLED: Duration = Duration::from_secs(5);
/// One that is still there after so long is told again: API servers keep Events for an hour, by default.
const AGAIN: Duration = Duration::from_secs(30 * 60);
/// After a failure, for all of them: it is mostly one of rights, or of the API server.
const PAUSE: Duration = Duration::from_secs(30);
/// Events of one object, and of all, at a time; `/problems` has all.
const PER_OBJECT: usize = 16;
const AT_MOST: usize = 1_000;
/// The API server's limit of a message, in bytes.
const MAX_MESSAGE: usize = 1024;

/// What is told at most once at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    object: ObjectRef,
    code: &'static str,
    field: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Text {
    reason: String,
    message: String,
}

/// The problems that are there now, since when, and when each was told last.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    now: BTreeMap<Key, (Text, Instant)>,
    told: HashMap<Key, (Text, Instant)>,
}

impl Problems {
    pub(crate) fn set(&mut self, problems: &[Problem], now: Instant) {
        let mut former = std::mem::take(&mut self.now);
        let mut counts: HashMap<&ObjectRef, usize> = HashMap::new();
        for problem in problems {
            let Some(object) = problem.object.as_ref().filter(|object| KINDS.contains(&object.kind)) else { continue };
            let count = counts.entry(object).or_default();
            *count += 1;
            if *count > PER_OBJECT || self.now.len() >= AT_MOST {
                continue;
            }
            let key = Key { object: object.clone(), code: problem.code.id(), field: problem.field.clone() };
            // Of several in one place the first is told: the next shows when that is solved.
            if self.now.contains_key(&key) {
                continue;
            }
            let since = former.remove(&key).map_or(now, |(_, since)| since);
            self.now.insert(key, (text(problem), since));
        }
        self.told.retain(|key, _| self.now.contains_key(key));
    }

    /// One that is to be told now, or else when to look again.
    fn next(&self, now: Instant) -> Result<(Key, Text), Option<Instant>> {
        let mut later: Option<Instant> = None;
        for (key, (text, since)) in &self.now {
            let due = match self.told.get(key) {
                Some((told, at)) if told == text => *at + AGAIN,
                _ => *since + SETTLED,
            };
            if due <= now {
                return Ok((key.clone(), text.clone()));
            }
            later = Some(later.map_or(due, |later| later.min(due)));
        }
        Err(later)
    }
}

fn text(problem: &Problem) -> Text {
    let field = if problem.field.is_empty() { String::new() } else { format!("{}: ", problem.field) };
    let hint = if problem.hint.is_empty() { String::new() } else { format!(" ({})", problem.hint) };
    let kind = if problem.severity == Severity::Error { "" } else { " warning" };
    let mut message = format!("{}{kind}: {field}{}{hint}", problem.code.id(), problem.message);
    if message.len() > MAX_MESSAGE {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE - "…".len()));
        message.push('…');
    }
    Text { reason: format!("{:?}", problem.code), message }
}

/// The same for each replica, so that they tell of one thing in one Event.
fn name(key: &Key) -> String {
    let mut hasher = DefaultHasher::new();
    (key.code, &key.field).hash(&mut hasher);
    // An object's name may take all of the 253 bytes that an Event's may.
    let object = &key.object.name[..key.object.name.floor_char_boundary(200)];
    format!("{}.{:016x}", object.trim_end_matches(['.', '-']), hasher.finish())
}

impl Controller {
    /// Tells of what is wrong and stays so, while this replica is the leader.
    pub async fn write_events(&self) {
        let mut leads = self.lease.term();
        let mut news = self.problem_news.subscribe();
        loop {
            let leading = leads.borrow_and_update().is_some();
            news.mark_unchanged();
            let next = if leading { self.problems().next(Instant::now()) } else { Err(None) };
            let (look, failed) = match next {
                Ok((key, text)) => match self.tell_of(&key, &text).await {
                    Ok(true) => {
                        self.problems().told.insert(key, (text, Instant::now()));
                        continue;
                    }
                    Ok(false) => {
                        if let Some((_, since)) = self.problems().now.get_mut(&key) {
                            *since = Instant::now();
                        }
                        continue;
                    }
                    Err(failure) => {
                        tracing::warn!(object = %key.object, %failure, "an Event cannot be written; it is tried again");
                        (Some(Instant::now() + PAUSE), true)
                    }
                },
                Err(look) => (look, false),
            };
            let later = async {
                match look {
                    Some(look) => tokio::time::sleep_until(look.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = news.changed(), if !failed => if changed.is_err() { return },
                changed = leads.changed() => if changed.is_err() { return },
                () = later => {}
            }
        }
    }

    /// False where the object is not there, or not yet: it is looked at again.
    async fn tell_of(&self, key: &Key, text: &Text) -> Result<bool, Failure> {
        let (api_version, uid) = match self.lock().held.get(&key.object) {
            Some(held) => (held.api_version.clone(), held.uid.clone()),
            None => return Ok(false),
        };
        let object = &key.object;
        let time = seconds(Timestamp::now());
        let event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": name(key), "namespace": object.namespace},
            "involvedObject": {
                "apiVersion": api_version, "kind": object.kind.name(), "namespace": object.namespace,
                "name": object.name, "uid": uid, "fieldPath": key.field,
            },
            "type": "Warning", "reason": text.reason, "message": text.message, "count": 1,
            "firstTimestamp": time, "lastTimestamp": time, "source": {"component": "sluice"},
        });
        let events = collection("v1", &object.namespace, "events");
        match self.api.create(&events, &event).await {
            Err(Failure::Conflict) => self.tell_again(&format!("{events}/{}", name(key)), &event).await?,
            // The namespace is gone.
            Err(Failure::NotFound) => return Ok(false),
            answer => {
                answer?;
                self.metrics.events.inc();
            }
        }
        Ok(true)
    }

    /// There is an Event of it: of ours, of the leader before, or of an object that had the same name.
    async fn tell_again(&self, path: &str, event: &Value) -> Result<(), Failure> {
        let held = match self.api.get(path).await {
            Ok(held) => held,
            // It has expired this moment: the next round makes a new one.
            Err(Failure::NotFound) => return Err(Failure::Conflict),
            Err(failure) => return Err(failure),
        };
        let field = |name: &str| event.get(name).cloned().unwrap_or_default();
        let same = held.pointer("/involvedObject/uid") == event.pointer("/involvedObject/uid");
        let last = held.get("lastTimestamp").and_then(Value::as_str).and_then(|time| time.parse::<Timestamp>().ok());
        let lately = last.is_some_and(|last| Timestamp::now().duration_since(last).as_secs() < AGAIN.as_secs() as i64);
        if same && lately && held.get("message") == event.get("message") {
            return Ok(());
        }
        let count = held.get("count").and_then(Value::as_i64).filter(|_| same).unwrap_or(0);
        let patch = json!({
            "involvedObject": field("involvedObject"), "message": field("message"), "reason": field("reason"),
            "lastTimestamp": field("lastTimestamp"), "count": count + 1,
        });
        match self.api.merge(path, &patch).await {
            Err(Failure::NotFound) => Err(Failure::Conflict),
            answer => {
                answer?;
                self.metrics.events.inc();
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_model::problem::Code;

    fn problem(kind: Kind, name: &str, field: &str) -> Problem {
        Problem::error(Code::ServiceNotFound, &ObjectRef::new(kind, "shop", name), field, "there is no Service `web`")
    }

    fn told(problems: &mut Problems, now: Instant) -> Vec<String> {
        let mut names = Vec::new();
        while let Ok((key, text)) = problems.next(now) {
            names.push(format!("{} {}", key.object, key.field));
            problems.told.insert(key, (text, now));
        }
        names
    }

    #[test]
    fn what_stays_wrong_is_told_once_and_again_after_half_an_hour() {
        let (mut problems, start) = (Problems::default(), Instant::now());
        let (one, two) = (problem(Kind::Ingress, "a", "spec.x"), problem(Kind::Ingress, "b", ""));
        problems.set(&[one.clone(), two.clone()], start);
        assert_eq!(told(&mut problems, start), [""; 0], "it may be solved in a moment");
        problems.set(std::slice::from_ref(&one), start + Duration::from_secs(1));
        assert_eq!(told(&mut problems, start + SETTLED), ["Ingress shop/a spec.x"]);
        problems.set(&[one.clone(), two], start + 2 * SETTLED);
        assert_eq!(told(&mut problems, start + 2 * SETTLED), [""; 0]);
        assert_eq!(told(&mut problems, start + 3 * SETTLED), ["Ingress shop/b "]);
        assert_eq!(told(&mut problems, start + SETTLED + AGAIN), ["Ingress shop/a spec.x"]);
        // Solved, and wrong once more.
        problems.set(&[], start + 2 * AGAIN);
        problems.set(&[one], start + 2 * AGAIN);
        assert_eq!(told(&mut problems, start + 2 * AGAIN + SETTLED), ["Ingress shop/a spec.x"]);
    }

    #[test]
    fn two_problems_of_one_kind_in_one_place_settle_as_one() {
        let (mut problems, start) = (Problems::default(), Instant::now());
        let one = problem(Kind::Ingress, "a", "spec.x");
        let other = Problem { message: "there is no Service `api`".to_owned(), ..one.clone() };
        for second in 0..5 {
            problems.set(&[one.clone(), other.clone()], start + Duration::from_secs(second));
        }
        assert_eq!(told(&mut problems, start + SETTLED), ["Ingress shop/a spec.x"], "however often they are said");
        problems.set(&[one, other], start + SETTLED);
        assert_eq!(told(&mut problems, start + 2 * SETTLED), [""; 0]);
    }

    #[test]
    fn what_a_status_says_is_told_by_no_event_and_one_object_has_so_many_at_most() {
        let (mut problems, start) = (Problems::default(), Instant::now());
        problems.set(&[problem(Kind::HTTPRoute, "a", ""), problem(Kind::Gateway, "a", "")], start);
        assert_eq!(problems.next(start), Err(None));
        let many: Vec<_> = (0..100).map(|n| problem(Kind::Ingress, "a", &format!("spec.rules[{n}]"))).collect();
        problems.set(&many, start);
        assert_eq!(told(&mut problems, start + SETTLED).len(), PER_OBJECT);
    }

    #[test]
    fn names_and_messages_keep_to_the_apis_limits() {
        let long = problem(Kind::Ingress, &"é".repeat(126), "spec").hint("ü".repeat(2000));
        assert!(text(&long).message.len() <= MAX_MESSAGE);
        let key = |field: &str| Key {
            object: ObjectRef::new(Kind::Ingress, "shop", "x".repeat(253)),
            code: "SLUICE-P212",
            field: field.to_owned(),
        };
        assert!(name(&key("a")).len() <= 253);
        assert_ne!(name(&key("a")), name(&key("b")));
    }
}
