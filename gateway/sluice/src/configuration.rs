//! The configuration's way from the source to the data plane, on threads of its own: read what changed, translate it,
//! apply it, say so in one line. It starts at a change of the files or of the cluster, at SIGHUP, when a plugin became
//! ready, and again and again while a port cannot be bound.

use crate::feed::{Feed, Origin};
use crate::plane::Plane;
use crate::served::{Coming, ServedForms};
use crate::view::State;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use sluice_admin::Reload;
use sluice_controller::{Controller, Observed};
use sluice_model::{Code, Config, Problem, Severity};
use sluice_sources::SourceUpdate;
use sluice_translate::{Options, Output, Translator};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{Notify, mpsc};
use tokio::time::MissedTickBehavior;

/// How often to ask whether ports that could not be bound are bound now.
const PORTS: Duration = Duration::from_secs(1);

/// How often certificates are judged anew: their time comes and passes without any change.
const CLOCK: Duration = Duration::from_secs(10 * 60);

/// How long readiness waits for the plugins and ports of the first configuration. A pod that never became ready because
/// of one broken plugin would take all other routes with it.
const READINESS: Duration = Duration::from_secs(15);

/// How long the plugins of an upgrade may take. The process before goes on meanwhile, and waits for longer than that.
const UPGRADE: Duration = Duration::from_secs(100);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
struct SecretLabel {
    /// `namespace/name`; `default` for the certificate that the gateway made, or was given on its command line.
    secret: String,
}

/// What reloads are measured by.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    generation: Family<Outcome, Gauge>,
    last_success: Gauge<f64, AtomicU64>,
    propagation: Histogram,
    certificates: Family<SecretLabel, Gauge>,
}

impl Metrics {
    /// Registers under the prefix of `registry`.
    pub(crate) fn new(registry: &mut Registry) -> Metrics {
        let metrics = Metrics {
            generation: Family::default(),
            last_success: Gauge::default(),
            // 1 ms to 8 s, doubling.
            propagation: Histogram::new((0..14).map(|n| 0.001 * f64::from(1 << n))),
            certificates: Family::default(),
        };
        registry.register(
            "config_generation",
            "The newest generation that is served (applied), and the newest that left something out (rejected)",
            metrics.generation.clone(),
        );
        registry.register_with_unit(
            "config_last_success_timestamp",
            "When a configuration without errors was last read, in Unix time",
            Unit::Seconds,
            metrics.last_success.clone(),
        );
        registry.register_with_unit(
            "route_propagation",
            "From a change seen to the snapshot that serves it",
            Unit::Seconds,
            metrics.propagation.clone(),
        );
        registry.register_with_unit(
            "certificate_expiry_timestamp",
            "When a certificate in use ends, in Unix time",
            Unit::Seconds,
            metrics.certificates.clone(),
        );
        metrics
    }

    /// Shows when each certificate ends, and no others than those in use.
    fn set_certificates(&self, config: &Config, former: &mut BTreeSet<SecretLabel>) {
        let mut labels = BTreeSet::new();
        for certificate in config.certificates.values() {
            let secret = certificate.key.secret.as_ref();
            let label = SecretLabel { secret: secret.map_or_else(|| "default".to_owned(), |s| s.key().to_string()) };
            let ends = certificate.not_after.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |t| t.as_secs());
            self.certificates.get_or_create(&label).set(i64::try_from(ends).unwrap_or(i64::MAX));
            labels.insert(label);
        }
        for gone in former.difference(&labels) {
            self.certificates.remove(gone);
        }
        *former = labels;
    }
}

/// What the configuration task is made of, each time that it starts.
#[derive(Clone)]
pub(crate) struct Configuration {
    pub(crate) origin: Origin,
    pub(crate) options: Options,
    pub(crate) plane: Plane,
    pub(crate) served: Arc<ServedForms>,
    /// What writes to the cluster, if this process does.
    pub(crate) controller: Option<Arc<Controller>>,
    pub(crate) state: Arc<State>,
    pub(crate) metrics: Metrics,
    /// Another process serves on the sockets that were taken over: nothing is accepted before this one can do all that it
    /// is asked to, or that process would have answered better.
    pub(crate) upgrading: bool,
    /// SIGHUP.
    pub(crate) reload: Arc<Notify>,
    /// Told what became of the first configuration. Has room for one; what comes later is of no interest.
    pub(crate) started: mpsc::Sender<Start>,
}

/// What became of the first configuration.
pub(crate) enum Start {
    Served,
    /// An upgrade would have made things worse. Why, a line each.
    Refused(Vec<String>),
}

enum Cause {
    /// There may be something to read; when that was first seen.
    Source(Instant),
    /// Read everything, whatever its stamp says.
    Forced,
    /// Versions or problems of plugins are other ones.
    Plugins,
    /// The data plane tries again to bind what could not be bound.
    Ports,
    /// Time has passed.
    Clock,
    /// What is served is to be kept for a restart without the API server.
    Keep,
}

impl Configuration {
    /// Runs for as long as the process does.
    pub(crate) async fn run(self) {
        let mut versions = self.plane.plugins_changed();
        let (reload, plane, started) = (self.reload.clone(), self.plane.clone(), self.started.clone());
        let mut path = step(Path::new(self), Cause::Source(Instant::now())).await;
        // From a cluster nothing is there before all of it is.
        while !path.started {
            if path.refused {
                return std::future::pending().await;
            }
            let Some(mut feed) = path.feed.take() else { return };
            let cause = tokio::select! {
                seen = feed.changed() => Cause::Source(seen),
                () = reload.notified() => Cause::Forced,
            };
            path.feed = Some(feed);
            path = step(path, cause).await;
        }
        let settled = tokio::time::timeout(READINESS, async move { plane.plugins_settled().await });
        tokio::pin!(settled);
        let origin = path.configuration.origin.clone();
        let (mut waits_for_plugins, mut waits_for_ports, mut told) = (true, true, false);
        let give_up = tokio::time::sleep(READINESS);
        tokio::pin!(give_up);
        let mut clock = tokio::time::interval_at(tokio::time::Instant::now() + CLOCK, CLOCK);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if waits_for_ports && (give_up.is_elapsed() || !path.has_unbound_port()) {
                waits_for_ports = false;
            }
            if !told && !waits_for_plugins && !waits_for_ports {
                told = true;
                let _ = started.try_send(Start::Served);
            }
            let Some(mut feed) = path.feed.take() else { return };
            let cause = tokio::select! {
                seen = feed.changed() => Some(Cause::Source(seen)),
                () = reload.notified() => Some(Cause::Forced),
                Ok(()) = versions.changed() => Some(Cause::Plugins),
                () = tokio::time::sleep(PORTS), if path.has_unbound_port() => Some(Cause::Ports),
                _ = clock.tick() => Some(Cause::Clock),
                () = origin.keeps() => Some(Cause::Keep),
                // What became ready has been announced before, or is announced now.
                _ = &mut settled, if waits_for_plugins => {
                    waits_for_plugins = false;
                    Some(Cause::Plugins)
                }
                () = &mut give_up, if waits_for_ports => None,
            };
            path.feed = Some(feed);
            if let Some(cause) = cause {
                path = step(path, cause).await;
            }
        }
    }
}

/// One step, off the runtime's threads: it reads files, and translating takes its time.
async fn step(mut path: Path, cause: Cause) -> Path {
    let stepped = tokio::task::spawn_blocking(move || {
        path.step(cause);
        path
    });
    match stepped.await {
        Ok(path) => path,
        // The supervisor counts it, and starts again with everything.
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => std::future::pending().await,
        },
    }
}

/// The state of the way: what each room on it reported last.
struct Path {
    configuration: Configuration,
    /// Elsewhere while it is waited for.
    feed: Option<Feed>,
    translator: Translator,
    /// The first configuration was applied.
    started: bool,
    /// It was not, and will not be.
    refused: bool,
    /// What was translated last is what the source has now.
    live: bool,
    read: Vec<Problem>,
    translated: Vec<Problem>,
    applied: Vec<Problem>,
    certificates: BTreeSet<SecretLabel>,
}

impl Path {
    fn new(configuration: Configuration) -> Path {
        Path {
            feed: Some(configuration.origin.open()),
            translator: Translator::new(configuration.options.clone()),
            configuration,
            started: false,
            refused: false,
            live: false,
            read: Vec::new(),
            translated: Vec::new(),
            applied: Vec::new(),
            certificates: BTreeSet::new(),
        }
    }

    fn step(&mut self, cause: Cause) {
        if self.refused || self.configuration.state.draining.load(Ordering::Relaxed) {
            return;
        }
        match cause {
            Cause::Source(seen) => {
                let update = self.feed.as_mut().map(|feed| feed.read(seen));
                self.take(update);
            }
            Cause::Forced => {
                tracing::info!("SIGHUP: reading all of the configuration again");
                let update = self.feed.as_mut().map(Feed::read_again);
                self.take(update);
            }
            Cause::Plugins => self.applied = self.configuration.plane.refresh(),
            Cause::Keep => {
                // Pointers: whoever writes them holds up no change.
                self.configuration.origin.keep(self.translator.store().documents().collect());
                return;
            }
            Cause::Clock => {
                self.translator.set_now(SystemTime::now());
                self.translated = self.translator.apply(Vec::new()).problems;
            }
            Cause::Ports => {
                self.applied = self.configuration.plane.problems();
                if let Some(controller) = &self.configuration.controller {
                    controller.served();
                }
            }
        }
        self.report();
    }

    /// Puts a reading to work, if anything in it changed.
    fn take(&mut self, update: Option<SourceUpdate>) {
        let Some(update) = update else { return };
        self.read = update.problems;
        if !update.complete {
            return;
        }
        let first = !self.started;
        // What was kept from before is served, and written to no cluster.
        let live = self.configuration.origin.is_live();
        let turns_live = live && !std::mem::replace(&mut self.live, live);
        if update.changes.is_empty() && !first && !turns_live {
            return;
        }
        self.translator.set_now(SystemTime::now());
        let coming = Coming::of(&update.changes);
        let mut output = self.translator.apply(update.changes);
        self.translated = std::mem::take(&mut output.problems);
        if output.changed || first {
            self.apply(output, update.seen);
        } else {
            // Most of what happens in a cluster is about Services that no route leads to.
            tracing::debug!("nothing of what changed is served");
        }
        if self.refused {
            return;
        }
        self.configuration.served.arrived(coming);
        if let Some(controller) = self.configuration.controller.as_ref().filter(|_| live) {
            let certain = self.feed.as_ref().is_some_and(Feed::knows_gateways);
            let observed = Observed::of(self.translator.store(), controller.settings(), certain);
            controller.translated(self.translator.take_status(), observed);
        }
    }

    fn apply(&mut self, output: Output, seen: Instant) {
        self.configuration.metrics.set_certificates(&output.config, &mut self.certificates);
        if self.configuration.upgrading && !self.configuration.state.serving.load(Ordering::Relaxed) {
            let reasons = self.against_upgrade(&output.config);
            if !reasons.is_empty() {
                self.refused = true;
                let _ = self.configuration.started.try_send(Start::Refused(reasons));
                return;
            }
        }
        self.started = true;
        let applied = self.configuration.plane.apply(output.config);
        self.applied = applied.problems;
        self.say(&output.summary, seen, applied.generation);
    }

    /// Why the process before is to go on. Where a file is broken or a plugin fails, it may still serve what was there
    /// before that, which this one has never seen.
    fn against_upgrade(&self, config: &Config) -> Vec<String> {
        let plane = &self.configuration.plane;
        if let Plane::Serving { plugins, .. } = plane {
            plugins.ensure(crate::plugins::desired(config));
        }
        let settled = tokio::time::timeout(UPGRADE, plane.plugins_settled());
        if tokio::runtime::Handle::current().block_on(settled).is_err() {
            return vec![format!("not all plugins are ready after {} s", UPGRADE.as_secs())];
        }
        let mut problems: Vec<Problem> = self.read.iter().cloned().chain(plane.plugin_problems()).collect();
        problems.retain(|problem| problem.severity == Severity::Error);
        if let Some(feed) = &self.feed {
            feed.locate_all(&mut problems);
        }
        problems.iter().map(ToString::to_string).collect()
    }

    /// One line a change.
    fn say(&self, summary: &str, seen: Instant, generation: u64) {
        let took = seen.elapsed();
        self.configuration.metrics.propagation.observe(took.as_secs_f64());
        tracing::info!(generation, took_ms = took.as_millis() as u64, "configuration applied: {summary}");
        let reload = Reload { time: SystemTime::now(), summary: summary.to_owned() };
        self.configuration.state.last_reload.store(Some(Arc::new(reload)));
    }

    /// Collects what is wrong in every room.
    fn report(&mut self) {
        let Configuration { plane, state, metrics, .. } = &self.configuration;
        let mut problems: Vec<Problem> =
            [&self.read, &self.translated, &self.applied].into_iter().flatten().cloned().collect();
        problems.extend(plane.plugin_problems());
        if let Some(feed) = &self.feed {
            feed.locate_all(&mut problems);
        }
        if let Some(controller) = self.configuration.controller.as_ref().filter(|_| self.live) {
            controller.wrong(&problems);
        }
        let generation = i64::try_from(plane.generation()).unwrap_or(i64::MAX);
        metrics.generation.get_or_create(&Outcome { state: "applied" }).set(generation);
        if problems.iter().any(|problem| problem.severity == Severity::Error) {
            metrics.generation.get_or_create(&Outcome { state: "rejected" }).set(generation);
        } else if let Ok(now) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
            metrics.last_success.set(now.as_secs_f64());
        }
        state.problems.set(problems);
    }

    fn has_unbound_port(&self) -> bool {
        self.applied.iter().any(|problem| problem.code == Code::PortNotBound)
    }
}
