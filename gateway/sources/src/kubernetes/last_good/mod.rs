//! The last good resources: what was read of the cluster last, kept in memory beside the process, for one that starts
//! while the API server is away.
//!
//! ```text
//! what the consumer holds ─► debounced ─► file on a tmpfs ─► the next process, when the API server has failed for some
//!                                                            seconds and nothing was served yet
//! first complete set of the API server ─────────────────────► replaces all of it
//! ```
//!
//! All kinds or none: routes of now over endpoints of then would be neither. So as long as one kind is missing, nothing
//! of what was listed is handed on, and the last good resources serve; and a server that has just come back, and does
//! not know its CRDs or rights yet, has a while for that before its answers count.
//!
//! Nothing is held here but names, and those only while they are in use: the objects that are written are the
//! consumer's own, and go when they are written.

mod file;

pub use file::LastGoodError;

use super::hub::Hub;
use super::state;
use crate::SourceUpdate;
use file::{Place, Refusal};
use sluice_model::{Code, Kind, ObjectRef, Problem, Severity};
use sluice_resources::{Change, Document, Object};
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, sleep_until};

/// From a change to the file that holds it, at least: changes come in bursts.
const DEBOUNCE: Duration = Duration::from_secs(1);

/// After each write, so many times as long as it took: at most 2 % of one CPU, however large a cluster is.
const REST: u32 = 50;

/// The longest rest.
const LONGEST_REST: Duration = Duration::from_secs(300);

/// After a write that failed.
const RETRY: Duration = Duration::from_secs(30);

/// How often the file is marked as current while nothing changes.
const TOUCH: Duration = Duration::from_secs(15);

/// Where the last good resources are kept, and when they are used.
#[derive(Clone, Debug)]
pub struct LastGoodOptions {
    /// On a tmpfs: they hold private keys.
    pub folder: PathBuf,
    /// For how long the API server must have failed.
    pub after: Duration,
    /// How long ago they may have been current at most.
    pub max_age: Duration,
}

/// What is to be said of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastGoodStatus {
    /// They are what is served.
    pub in_use: bool,
    /// For how long those in use, or else those in the folder, have not been known to be current; `None`: there are none.
    pub age: Option<Duration>,
}

#[derive(Debug)]
pub(super) struct LastGood {
    place: Arc<Place>,
    after: Duration,
    max_age: Duration,
    state: Mutex<State>,
    /// Counts changes of what the consumer holds, of the API server's own objects.
    changes: watch::Sender<u64>,
    /// The consumer's objects are wanted.
    wanted: Notify,
    /// They are there.
    given: Notify,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    /// A write waits for the consumer's objects.
    asked: bool,
    objects: Option<Vec<Document>>,
    /// When the consumer last took something from the API server.
    taken: Option<SystemTime>,
    /// Why the newest cannot be written.
    unwritten: Option<String>,
}

#[derive(Debug, Default)]
enum Phase {
    /// Nothing was handed on yet.
    #[default]
    Waiting,
    /// There are none.
    Missing,
    Refused(String),
    InUse {
        objects: Vec<ObjectRef>,
        current: SystemTime,
        age: Duration,
    },
    /// The API server's own objects are what is served.
    Live,
}

impl LastGood {
    /// `of` is what tells the cluster and its scope from others.
    pub(super) fn open(options: &LastGoodOptions, of: String) -> Result<LastGood, LastGoodError> {
        Ok(LastGood {
            place: Arc::new(Place::open(&options.folder, of)?),
            after: options.after,
            max_age: options.max_age,
            state: Mutex::default(),
            changes: watch::Sender::new(0),
            wanted: Notify::new(),
            given: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When they are to be used, if the API server goes on failing until then.
    pub(super) fn due(&self, hub: &Hub) -> Option<Instant> {
        matches!(self.lock().phase, Phase::Waiting)
            .then(|| hub.failing_since())
            .flatten()
            .map(|since| since + self.after)
    }

    /// What is handed on instead of what the API server says, as long as that is not complete. Blocks on the file.
    pub(super) fn pass(&self, mut update: SourceUpdate, hub: &Hub) -> SourceUpdate {
        if update.complete {
            self.goes_live(&mut update, hub);
        } else if self.due(hub).is_some_and(|due| due <= Instant::now()) {
            self.begin(&mut update, hub);
        }
        update.problems.extend(problems(&self.lock()));
        update
    }

    fn begin(&self, update: &mut SourceUpdate, hub: &Hub) {
        let now = SystemTime::now();
        let read = self.place.read(self.max_age, now);
        if hub.failing_since().is_none() {
            // It answered while the file was read.
            return;
        }
        let phase = match read {
            Ok(Some((objects, current))) => {
                let age = now.duration_since(current).unwrap_or_default();
                let names: Vec<ObjectRef> = objects.iter().map(Object::reference).collect();
                tracing::warn!(
                    objects = names.len(),
                    age_s = age.as_secs(),
                    "the API server does not answer: serving the last good resources"
                );
                hub.expect(names.iter().map(|name| name.kind).collect());
                update.changes = objects.into_iter().map(Change::Upsert).collect();
                update.complete = true;
                Phase::InUse { objects: names, current, age }
            }
            Ok(None) => {
                tracing::info!("the API server does not answer, and there are no last good resources to serve");
                Phase::Missing
            }
            Err(refusal) => Phase::Refused(refused(&refusal)),
        };
        self.lock().phase = phase;
    }

    fn goes_live(&self, update: &mut SourceUpdate, hub: &Hub) {
        let mut state = self.lock();
        let former = std::mem::replace(&mut state.phase, Phase::Live);
        let first = !matches!(former, Phase::Live);
        if let Phase::InUse { objects, .. } = former {
            // What the API server has, but did not hand on yet, follows.
            let gone: Vec<ObjectRef> = objects.into_iter().filter(|object| !hub.has(object)).collect();
            tracing::info!(gone = gone.len(), "the API server answers: its objects replace the last good resources");
            update.changes.extend(gone.into_iter().map(Change::Delete));
        }
        if first {
            hub.expect(BTreeSet::new());
        }
        if first || !update.changes.is_empty() {
            state.taken = Some(SystemTime::now());
            drop(state);
            self.changes.send_modify(|n| *n += 1);
        }
    }

    /// The consumer begins anew. Where the API server has answered once, only that counts.
    pub(super) fn restart(&self) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::InUse { .. }) {
            state.phase = Phase::Waiting;
        }
        if state.asked {
            // Whoever was asked may be gone.
            self.wanted.notify_one();
        }
    }

    pub(super) fn in_use(&self) -> bool {
        matches!(self.lock().phase, Phase::InUse { .. })
    }

    pub(super) fn status(&self) -> LastGoodStatus {
        let (in_use, current) = match self.lock().phase {
            Phase::InUse { current, .. } => (true, Some(current)),
            _ => (false, None),
        };
        let current = current.or_else(|| self.place.current());
        let age = current.map(|current| SystemTime::now().duration_since(current).unwrap_or_default());
        LastGoodStatus { in_use, age }
    }

    /// Waits until the consumer's objects are wanted.
    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    pub(super) fn give(&self, objects: Vec<Document>) {
        let mut state = self.lock();
        if state.asked {
            state.objects = Some(objects);
            self.given.notify_one();
        }
    }

    /// Keeps what the consumer holds, for as long as it is polled.
    pub(super) async fn keep(&self, hub: &Hub) {
        let mut changes = self.changes.subscribe();
        // Whatever an earlier run did not come to.
        changes.mark_changed();
        loop {
            tokio::select! {
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if !matches!(self.lock().phase, Phase::Live) {
                        continue;
                    }
                    sleep(DEBOUNCE).await;
                    // What comes from here on is another write's.
                    changes.mark_unchanged();
                    let objects = self.objects().await;
                    let began = Instant::now();
                    let written = self.write(objects).await;
                    if self.told(written, hub) {
                        changes.mark_changed();
                        sleep(RETRY).await;
                    } else {
                        sleep((began.elapsed() * REST).min(LONGEST_REST)).await;
                    }
                }
                () = sleep_until((Instant::now() + TOUCH).into()) => self.touch(hub),
            }
        }
    }

    /// Asks the consumer for what it holds.
    async fn objects(&self) -> Vec<Document> {
        self.lock().asked = true;
        self.wanted.notify_one();
        loop {
            {
                let mut state = self.lock();
                if let Some(objects) = state.objects.take() {
                    state.asked = false;
                    return objects;
                }
            }
            self.given.notified().await;
        }
    }

    async fn write(&self, objects: Vec<Document>) -> io::Result<()> {
        let current = self.lock().taken.unwrap_or_else(SystemTime::now);
        let place = self.place.clone();
        let written = tokio::task::spawn_blocking(move || place.write(&objects, current)).await;
        written.unwrap_or_else(|error| match error.try_into_panic() {
            // Whoever runs this counts it, and runs it again.
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(io::Error::other(error)),
        })
    }

    /// Says what became of a write, and whether it failed.
    fn told(&self, written: io::Result<()>, hub: &Hub) -> bool {
        let failure = written.err().map(|error| error.to_string());
        let failed = failure.is_some();
        let mut state = self.lock();
        let news = state.unwritten != failure;
        state.unwritten = failure;
        drop(state);
        if news {
            hub.tell();
        }
        failed
    }

    /// Where all watches stand, and what they told is in the file, that is current.
    fn touch(&self, hub: &Hub) {
        let live = {
            let state = self.lock();
            matches!(state.phase, Phase::Live) && state.unwritten.is_none()
        };
        if live
            && hub.in_sync()
            && let Err(error) = self.place.touch(SystemTime::now())
        {
            tracing::debug!(%error, "the last good resources cannot be marked as current; they are written again");
            self.changes.send_modify(|n| *n += 1);
        }
    }
}

fn refused(refusal: &Refusal) -> String {
    let message = format!("the API server does not answer, and the last good resources are not used: {refusal}");
    tracing::warn!("{message}");
    message
}

fn problems(state: &State) -> Vec<Problem> {
    let phase = match &state.phase {
        Phase::InUse { objects, age, .. } => {
            let message = format!(
                "the last good resources are served: {} objects, last known to be current {} s before",
                objects.len(),
                age.as_secs()
            );
            Some(state::problem(Code::LastGoodInUse, Severity::Warning, message))
        }
        Phase::Refused(message) => Some(state::problem(Code::LastGoodRefused, Severity::Warning, message.clone())),
        Phase::Waiting | Phase::Missing | Phase::Live => None,
    };
    let unwritten = state.unwritten.as_ref().map(|error| {
        let message = format!("the last good resources cannot be kept: {error}");
        state::problem(Code::LastGoodNotKept, Severity::Warning, message)
    });
    phase.into_iter().chain(unwritten).collect()
}

/// What tells a cluster, and what is read of it, from others.
pub(super) fn identity(cluster: &str, namespaces: &[String], services_of: &[String]) -> String {
    let sorted = |names: &[String]| names.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>();
    format!("{cluster} {:?} {:?} {}", sorted(namespaces), sorted(services_of), Kind::ALL.len())
}
