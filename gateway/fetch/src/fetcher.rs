//! The thread that fetches: one try at a time for each Plugin, a few at a time for all, failures again and again with
//! growing pauses. Nothing waits for it; what it has is published, and whoever reads that is told.

use crate::FetchError;
use crate::http::Http;
use crate::metrics::{FETCHED, KEPT, Metrics};
use crate::policy::Policy;
use crate::source;
use crate::store::{Kept, Store};
use arc_swap::ArcSwap;
use prometheus_client::registry::Registry;
use sluice_model::Code;
use sluice_model::plugin::{ModuleSource, PluginKey};
use sluice_model::remote::RemoteSource;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

/// Waits before a failure is tried again: doubled from the first to the last, each up to a quarter shorter or longer.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(300);

/// Plugins that are fetched at a time.
const AT_A_TIME: usize = 4;

/// For one try, all of it.
const TRY: Duration = Duration::from_secs(300);

/// After a panic of the thread.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub struct FetcherOptions {
    pub policy: Policy,
    /// Where modules are kept between runs; none keeps nothing. The folder is made with mode 0700; one that belongs to
    /// another user, or that others may write to, is not used.
    pub dir: Option<PathBuf>,
    /// Bytes of all modules in that folder; the oldest that are not in use go first. Default 256 MiB.
    pub max_kept: u64,
    /// Bytes of a module at most. Default 32 MiB.
    pub max_module: u64,
}

impl Default for FetcherOptions {
    fn default() -> Self {
        FetcherOptions { policy: Policy::default(), dir: None, max_kept: 256 << 20, max_module: 32 << 20 }
    }
}

/// What is to be fetched, by Plugin.
type Wish = BTreeMap<PluginKey, Arc<RemoteSource>>;

/// What became of each source, by Plugin.
#[derive(Clone, Debug, Default)]
pub struct States(BTreeMap<PluginKey, (Arc<RemoteSource>, FetchState)>);

impl States {
    /// None while nothing was tried for this very source.
    pub fn get(&self, plugin: &PluginKey, source: &RemoteSource) -> Option<&FetchState> {
        let (of, state) = self.0.get(plugin)?;
        (of.identity() == source.identity()).then_some(state)
    }
}

#[derive(Clone, Debug)]
pub enum FetchState {
    Fetched(Fetched),
    Failed(FetchFailure),
}

/// A module that is here.
#[derive(Clone, Debug, PartialEq)]
pub struct Fetched {
    pub code: ModuleSource,
    pub size: u64,
    /// What an image's name led to: `sha256:` and hex.
    pub image_digest: Option<Arc<str>>,
}

#[derive(Clone, Debug)]
pub struct FetchFailure {
    pub code: Code,
    /// Of the Plugin.
    pub field: &'static str,
    pub message: String,
    /// Tries that have failed, and when the next one is; none where only a change of the object can help.
    pub tries: u32,
    pub again: Option<std::time::Instant>,
}

/// Dropping it stops its thread.
pub struct Fetcher {
    wish: watch::Sender<Arc<Wish>>,
    inner: Arc<Inner>,
    /// Taken when the thread starts, at the first wish that is not empty.
    idle: Mutex<Option<watch::Receiver<Arc<Wish>>>>,
}

struct Inner {
    http: Http,
    store: Store,
    max_module: u64,
    metrics: Metrics,
    states: ArcSwap<States>,
    /// Told each time that the states are other ones.
    told: Box<dyn Fn() + Send + Sync>,
}

impl Fetcher {
    /// Metrics are registered under the registry's prefix.
    pub fn new(
        options: FetcherOptions,
        registry: &mut Registry,
        told: impl Fn() + Send + Sync + 'static,
    ) -> Result<Fetcher, rustls::Error> {
        let http = Http::new(options.policy)?;
        let metrics = Metrics::register(registry, http.received.clone());
        let store = Store::new(options.dir.as_deref(), options.max_kept, options.max_module);
        let (max_module, states) = (options.max_module, ArcSwap::default());
        let inner = Arc::new(Inner { http, store, max_module, metrics, states, told: Box::new(told) });
        let (wish, idle) = watch::channel(Arc::default());
        Ok(Fetcher { wish, inner, idle: Mutex::new(Some(idle)) })
    }

    /// Says what is needed from now on; returns at once. What is not in it any more is forgotten.
    pub fn desire(&self, wish: BTreeMap<PluginKey, Arc<RemoteSource>>) {
        if !wish.is_empty() {
            self.start();
        }
        self.wish.send_if_modified(|former| {
            let is_new = **former != wish;
            *former = Arc::new(wish);
            is_new
        });
    }

    pub fn states(&self) -> Arc<States> {
        self.inner.states.load_full()
    }

    /// Most gateways fetch nothing, and need no thread for it.
    fn start(&self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(wish) = idle.take() else { return };
        let inner = self.inner.clone();
        let thread = std::thread::Builder::new().name("plugin-fetcher".to_owned());
        if let Err(error) = thread.spawn(move || inner.run(&wish)) {
            tracing::error!(%error, "no thread for fetching plugins");
            *idle = Some(self.wish.subscribe());
        }
    }
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher").field("wish", &self.wish.borrow().len()).finish_non_exhaustive()
    }
}

/// One Plugin's source.
struct Job {
    source: Arc<RemoteSource>,
    /// The task that is at it.
    task: Option<Id>,
    /// When it is tried; none once it is here, and where another try would not help.
    due: Option<Instant>,
    tries: u32,
    state: Option<FetchState>,
}

impl Job {
    fn new(source: &Arc<RemoteSource>) -> Job {
        Job { source: source.clone(), task: None, due: Some(Instant::now()), tries: 0, state: None }
    }
}

impl Inner {
    /// Until the fetcher is dropped.
    fn run(self: &Arc<Self>, wish: &watch::Receiver<Arc<Wish>>) {
        loop {
            let ran = catch_unwind(AssertUnwindSafe(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(self.serve(wish.clone()));
                runtime.shutdown_background();
                Ok::<_, std::io::Error>(())
            }));
            match ran {
                Ok(Ok(())) => return,
                Ok(Err(error)) => tracing::error!(%error, "plugins can't be fetched, trying again"),
                // The hook has logged where.
                Err(_) => {
                    self.metrics.panics.inc();
                }
            }
            std::thread::sleep(PAUSE);
        }
    }

    async fn serve(self: &Arc<Self>, mut wish: watch::Receiver<Arc<Wish>>) {
        let mut jobs: BTreeMap<PluginKey, Job> = BTreeMap::new();
        let mut tasks: JoinSet<Result<Kept, FetchError>> = JoinSet::new();
        let mut running: HashMap<Id, (PluginKey, tokio::task::AbortHandle)> = HashMap::new();
        wish.mark_changed();
        loop {
            self.begin(&mut jobs, &mut tasks, &mut running);
            let due = jobs.values().filter(|job| job.task.is_none()).filter_map(|job| job.due).min();
            // Where all places are taken, what is due waits for one of them.
            let due = due.filter(|_| running.len() < AT_A_TIME);
            let due = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = wish.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let wish = wish.borrow_and_update().clone();
                    self.take(&wish, &mut jobs, &running);
                }
                Some(ended) = tasks.join_next_with_id() => self.ended(ended, &mut jobs, &mut running),
                () = due => {}
            }
        }
    }

    /// Takes over a new wish: what is the same code goes on, with the credentials of now.
    fn take(
        &self,
        wish: &Wish,
        jobs: &mut BTreeMap<PluginKey, Job>,
        running: &HashMap<Id, (PluginKey, tokio::task::AbortHandle)>,
    ) {
        let abort = |job: &Job| {
            if let Some((_, task)) = job.task.and_then(|id| running.get(&id)) {
                task.abort();
            }
        };
        jobs.retain(|plugin, job| {
            let stays = wish.get(plugin).is_some_and(|source| source.identity() == job.source.identity());
            if !stays {
                abort(job);
            }
            stays
        });
        for (plugin, source) in wish {
            let job = jobs.entry(plugin.clone()).or_insert_with(|| Job::new(source));
            if job.source.credentials != source.credentials && !matches!(job.state, Some(FetchState::Fetched(_))) {
                // Whatever is under way, or waited for, would be with the former ones.
                abort(job);
                *job = Job { state: job.state.take(), ..Job::new(source) };
            }
            job.source = source.clone();
        }
        self.publish(jobs);
    }

    fn begin(
        self: &Arc<Self>,
        jobs: &mut BTreeMap<PluginKey, Job>,
        tasks: &mut JoinSet<Result<Kept, FetchError>>,
        running: &mut HashMap<Id, (PluginKey, tokio::task::AbortHandle)>,
    ) {
        let now = Instant::now();
        let mut kept = false;
        // Who has waited longest is first.
        let mut due: Vec<_> = jobs.iter_mut().filter(|(_, job)| job.task.is_none()).collect();
        due.retain(|(_, job)| job.due.is_some_and(|due| due <= now));
        due.sort_by_key(|(_, job)| job.due);
        for (plugin, job) in due {
            if let Some(found) = self.store.find(plugin, &job.source) {
                self.metrics.ended(KEPT);
                job.arrived(found);
                kept = true;
                continue;
            }
            if running.len() >= AT_A_TIME {
                continue;
            }
            tracing::info!(%plugin, source = %job.source, tries = job.tries, "fetching the plugin's code");
            let (inner, key, source) = (self.clone(), plugin.clone(), job.source.clone());
            let task = tasks.spawn(async move { inner.fetch(&key, &source).await });
            job.task = Some(task.id());
            running.insert(task.id(), (plugin.clone(), task));
        }
        if kept {
            self.publish(jobs);
        }
    }

    async fn fetch(&self, plugin: &PluginKey, source: &RemoteSource) -> Result<Kept, FetchError> {
        let started = Instant::now();
        let fetching = source::fetch(&self.http, source, self.max_module);
        let found = tokio::time::timeout(TRY, fetching).await.unwrap_or(Err(FetchError::Late(TRY)));
        self.metrics.seconds.inc_by(started.elapsed().as_secs_f64());
        let outcome = found.as_ref().map_or_else(FetchError::outcome, |_| FETCHED);
        self.metrics.ended(outcome);
        found.map(|found| self.store.keep(plugin, source, found))
    }

    fn ended(
        &self,
        ended: Result<(Id, Result<Kept, FetchError>), JoinError>,
        jobs: &mut BTreeMap<PluginKey, Job>,
        running: &mut HashMap<Id, (PluginKey, tokio::task::AbortHandle)>,
    ) {
        let (id, result) = match ended {
            Ok((id, result)) => (id, Some(result)),
            Err(error) => (error.id(), None),
        };
        let Some((plugin, _)) = running.remove(&id) else { return };
        // Another wish may have come meanwhile.
        let Some(job) = jobs.get_mut(&plugin).filter(|job| job.task == Some(id)) else { return };
        job.task = None;
        match result {
            Some(Ok(kept)) => {
                tracing::info!(%plugin, source = %job.source, size = kept.size, "the plugin's code is here");
                job.arrived(kept);
            }
            Some(Err(error)) => {
                tracing::warn!(%plugin, source = %job.source, %error, "the plugin's code can't be fetched");
                job.failed(error.code(), error.to_string(), error.may_mend());
            }
            None => {
                self.metrics.panics.inc();
                let message = "the gateway failed while it fetched the plugin; please report this";
                job.failed(Code::PluginFetch, message.to_owned(), true);
            }
        }
        self.store.use_only(jobs.values().filter_map(Job::sha256).collect());
        self.publish(jobs);
    }

    fn publish(&self, jobs: &BTreeMap<PluginKey, Job>) {
        let states =
            jobs.iter().filter_map(|(plugin, job)| Some((plugin.clone(), (job.source.clone(), job.state.clone()?))));
        self.states.store(Arc::new(States(states.collect())));
        (self.told)();
    }
}

impl Job {
    fn sha256(&self) -> Option<Arc<str>> {
        let Some(FetchState::Fetched(fetched)) = &self.state else { return None };
        Some(fetched.code.sha256().clone())
    }

    fn arrived(&mut self, kept: Kept) {
        let Kept { code, size, image_digest } = kept;
        self.due = None;
        self.state = Some(FetchState::Fetched(Fetched { code, size, image_digest }));
    }

    fn failed(&mut self, code: Code, message: String, may_mend: bool) {
        self.tries += 1;
        let factor = 1u32.checked_shl(self.tries - 1).unwrap_or(u32::MAX);
        let pause = FIRST_RETRY.saturating_mul(factor).min(LAST_RETRY).mul_f64(0.75 + fastrand::f64() / 2.0);
        self.due = may_mend.then(|| Instant::now() + pause);
        let failure = FetchFailure {
            code,
            field: self.source.field(),
            message,
            tries: self.tries,
            again: self.due.map(Instant::into_std),
        };
        self.state = Some(FetchState::Failed(failure));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_model::remote::RemoteLocation;

    fn job() -> Job {
        let location = RemoteLocation::Https { url: "https://a.example/x".into(), sha256: "".into() };
        Job::new(&Arc::new(RemoteSource { location, credentials: None, revision: "".into() }))
    }

    #[test]
    fn pauses_double_from_a_second_to_five_minutes_and_are_not_all_alike() {
        let mut job = job();
        let mut expected = FIRST_RETRY;
        for _ in 0..40 {
            let before = Instant::now();
            job.failed(Code::PluginFetch, "away".to_owned(), true);
            let pause = job.due.unwrap() - before;
            assert!(pause >= expected.mul_f64(0.75) && pause <= expected.mul_f64(1.26), "{pause:?} of {expected:?}");
            expected = (expected * 2).min(LAST_RETRY);
        }
        let pauses: std::collections::HashSet<_> = std::iter::repeat_with(|| {
            job.failed(Code::PluginFetch, "away".to_owned(), true);
            (job.due.unwrap() - Instant::now()).as_millis()
        })
        .take(20)
        .collect();
        assert!(pauses.len() > 10, "{pauses:?}");
    }

    #[test]
    fn what_no_other_try_can_mend_is_not_tried_again() {
        let mut job = job();
        job.failed(Code::PluginFetch, "never".to_owned(), false);
        assert!(job.due.is_none());
        let Some(FetchState::Failed(failure)) = &job.state else { panic!("it has failed") };
        assert_eq!((failure.tries, failure.again, failure.field), (1, None, "spec.source.https.url"));
    }
}
