//! When to read again: as soon as a change is complete, by inotify, and every few seconds, for what inotify cannot
//! see (a target of links elsewhere, a folder on a network).

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

/// Quiet time after which a change counts as complete. Copying a folder touches its files faster than this.
const QUIET: Duration = Duration::from_millis(10);

/// Longest wait for quiet.
const RESTLESS: Duration = Duration::from_millis(50);

/// How long a file that somebody has written to and holds open is left alone: half of it must not count as all of it.
/// Somebody who holds a file open for longer than that does not mean to close it.
const WRITING: Duration = Duration::from_secs(10);

/// Files that are being written at a time; above, they are no longer told apart.
const MAX_WRITING: usize = 1_024;

/// Watches the folders of a source. Dropping it ends the watch.
pub struct Watch {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    poll: Duration,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    pending: Mutex<Pending>,
    news: Notify,
}

#[derive(Default)]
struct Pending {
    first: Option<Instant>,
    last: Option<Instant>,
    /// Files that were written to and not closed since, with the time of the first write.
    writing: HashMap<PathBuf, Instant>,
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn event(&self, event: Event) {
        let mut pending = self.pending();
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                event.paths.iter().for_each(|path| {
                    pending.writing.remove(path);
                });
            }
            // Reading is no change, and our own reads would never end.
            EventKind::Access(_) => return,
            EventKind::Modify(ModifyKind::Data(_)) if pending.writing.len() < MAX_WRITING => {
                let now = Instant::now();
                event.paths.into_iter().for_each(|path| {
                    pending.writing.entry(path).or_insert(now);
                });
            }
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => event.paths.iter().for_each(|path| {
                pending.writing.remove(path);
            }),
            _ => {}
        }
        let now = Instant::now();
        pending.first.get_or_insert(now);
        pending.last = Some(now);
        drop(pending);
        self.news.notify_one();
    }
}

impl Watch {
    /// Begins to watch nothing; polls every `poll`. Where inotify cannot be had (its limits are those of the user),
    /// polling is all there is, and the error says why.
    pub fn start(poll: Duration) -> (Watch, Option<notify::Error>) {
        let shared = Arc::new(Shared::default());
        let sink = shared.clone();
        let made = notify::recommended_watcher(move |event: notify::Result<Event>| match event {
            Ok(event) => sink.event(event),
            // Events were lost (the queue ran over): whatever they were, read.
            Err(_) => sink.event(Event::new(EventKind::Any)),
        });
        let (watcher, error) = match made {
            Ok(watcher) => (Some(watcher), None),
            Err(error) => (None, Some(error)),
        };
        (Watch { watcher, watched: BTreeSet::new(), poll, shared }, error)
    }

    /// Watches these folders from now on, and no others. Blocks on the file system for a moment. A folder that cannot
    /// be watched is polled.
    pub fn follow(&mut self, folders: &BTreeSet<PathBuf>) {
        let Some(watcher) = &mut self.watcher else { return };
        let mut watched = BTreeSet::new();
        for gone in self.watched.difference(folders) {
            // It may be gone already.
            let _ = watcher.unwatch(gone);
        }
        for folder in folders {
            // Watching again what is watched is a no-op, and finds a folder that was replaced.
            match watcher.watch(folder, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    watched.insert(folder.clone());
                }
                Err(error) => {
                    tracing::debug!(folder = %folder.display(), %error, "cannot be watched, polling instead");
                }
            }
        }
        self.watched = watched;
    }

    /// Waits for a change that looks complete, or for the next poll. Answers when the first sign of it was seen. May be
    /// dropped and called again at any time: no change is lost.
    pub async fn changed(&mut self) -> Instant {
        // Something may be pending from a call that was dropped while it waited for quiet.
        let idle = self.shared.pending().first.is_none();
        if idle && timeout(self.poll, self.shared.news.notified()).await.is_err() {
            self.shared.pending().first.get_or_insert_with(Instant::now);
        }
        loop {
            match self.settled() {
                Ok(seen) => return seen,
                Err(wait) => sleep(wait).await,
            }
        }
    }

    /// Files that are being written at this moment: not to be read before they are closed, which is a change of its own.
    pub fn being_written(&self) -> HashSet<PathBuf> {
        let mut pending = self.shared.pending();
        pending.writing.retain(|_, since| since.elapsed() < WRITING);
        pending.writing.keys().cloned().collect()
    }

    /// When the pending change was first seen, if it is complete; else how long to wait before asking again.
    fn settled(&self) -> Result<Instant, Duration> {
        let mut pending = self.shared.pending();
        let now = Instant::now();
        let first = pending.first.unwrap_or(now);
        let waited = now.duration_since(first);
        let quiet = pending.last.map_or(QUIET, |last| now.duration_since(last));
        if quiet < QUIET && waited < RESTLESS {
            return Err(QUIET.saturating_sub(quiet).max(Duration::from_millis(1)));
        }
        (pending.first, pending.last) = (None, None);
        Ok(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// A watch of nothing, with a change that was first and last seen at these times.
    fn pending(first: Instant, last: Instant) -> Watch {
        let (watch, _) = Watch::start(HOUR);
        *watch.shared.pending() = Pending { first: Some(first), last: Some(last), ..Pending::default() };
        watch
    }

    #[test]
    fn a_change_is_waited_out_until_it_is_quiet_but_not_for_ever() {
        let now = Instant::now();
        let earlier = |by: Duration| now.checked_sub(by).unwrap_or(now);
        // Something happens all the time: the last sign of it lies ahead of us.
        let ahead = now + HOUR;
        let waits = |first: Instant, last: Instant| pending(first, last).settled();
        assert!(waits(ahead, ahead).is_err_and(|wait| wait <= QUIET), "it has only begun");
        assert_eq!(waits(earlier(RESTLESS), ahead), Ok(earlier(RESTLESS)), "nobody waits for longer than that");
        assert_eq!(waits(earlier(QUIET), earlier(QUIET)), Ok(earlier(QUIET)), "it is over");
    }

    #[test]
    fn what_is_told_is_told_once() {
        let long_ago = Instant::now().checked_sub(RESTLESS).unwrap_or_else(Instant::now);
        let watch = pending(long_ago, long_ago);
        assert_eq!(watch.settled(), Ok(long_ago));
        assert!(watch.shared.pending().first.is_none(), "the next call waits for a change of its own");
    }
}
